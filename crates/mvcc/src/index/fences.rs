//! Which of many children holds a key.
//!
//! Between two neighbouring children stands a *fence*: a byte string above every key on its left
//! and not above any key on its right, as short as that allows. Finding a child is a binary search
//! over the sixteen bytes behind what all fences share, 128 of which are 2 KiB side by side; the
//! fences themselves are only looked at when those are equal.

use std::cmp::Ordering;

use super::compare::{common, order, strip};

/// The fences between `len() + 1` children.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// The sixteen bytes behind what all fences begin with, zero-padded, as a big-endian number.
    heads: Vec<u128>,
    /// The fences back to back.
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    prefix_len: usize,
}

impl Fences {
    /// The child that holds `key`.
    pub fn find(&self, key: &[u8]) -> usize {
        let rest = match strip(key, &self.bytes[..self.prefix_len]) {
            Ok(rest) => rest,
            Err(Ordering::Less) => return 0,
            Err(_) => return self.len(),
        };
        let head = head(rest);
        let mut at = self.heads.partition_point(|h| *h < head);
        let mut end = at;
        if self.heads.get(at) == Some(&head) {
            end += self.heads[at..].partition_point(|h| *h == head);
        }
        while at < end {
            let middle = at + (end - at) / 2;
            match order(&self.fence(middle)[self.prefix_len..], rest) {
                Ordering::Greater => end = middle,
                _ => at = middle + 1,
            }
        }
        at
    }

    /// The fence on the right of a child.
    pub fn right_of(&self, child: usize) -> Option<&[u8]> {
        (child < self.len()).then(|| self.fence(child))
    }

    /// Puts a fence on the right of a child, in front of the one that is there.
    pub fn insert(&mut self, child: usize, fence: &[u8]) {
        let start = self.start(child);
        self.bytes.splice(start..start, fence.iter().copied());
        self.ends.insert(child, start);
        self.ends[child..].iter_mut().for_each(|end| *end += fence.len());
        if self.len() > 1 && common(self.fence(usize::from(child == 0)), fence) >= self.prefix_len {
            self.heads.insert(child, head(&fence[self.prefix_len..]));
        } else {
            self.reset();
        }
    }

    /// Takes the fence away that is on the right of a child.
    pub fn remove(&mut self, child: usize) {
        let gone = self.start(child)..self.ends[child];
        self.ends.remove(child);
        self.ends[child..].iter_mut().for_each(|end| *end -= gone.len());
        self.bytes.drain(gone);
        self.heads.remove(child);
        if self.heads.is_empty() {
            self.prefix_len = 0;
        }
    }

    /// Splits between the children `at - 1` and `at`. Returns the fence between them and those
    /// behind it.
    pub fn split_off(&mut self, at: usize) -> (Vec<u8>, Fences) {
        let fence = self.fence(at - 1).to_vec();
        let (left, right) = (self.start(at - 1), self.ends[at - 1]);
        let mut behind = Fences {
            bytes: self.bytes.split_off(right),
            ends: self
                .ends
                .split_off(at)
                .into_iter()
                .map(|end| end - right)
                .collect(),
            ..Fences::default()
        };
        self.bytes.truncate(left);
        self.ends.truncate(at - 1);
        self.reset();
        behind.reset();
        (fence, behind)
    }

    /// Bytes that are allocated.
    pub fn allocated_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.heads.capacity() * size_of::<u128>()
            + self.ends.capacity() * size_of::<usize>()
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn fence(&self, at: usize) -> &[u8] {
        &self.bytes[self.start(at)..self.ends[at]]
    }

    /// Works out prefix and heads anew.
    fn reset(&mut self) {
        self.prefix_len = match self.len() {
            0 => 0,
            // Fences are sorted: what the first and the last share, all share.
            len => common(self.fence(0), self.fence(len - 1)),
        };
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        heads.extend((0..self.len()).map(|at| head(&self.fence(at)[self.prefix_len..])));
        self.heads = heads;
    }

    /// Panics if something is wrong.
    #[cfg(test)]
    pub fn check(&self) {
        assert!((1..self.len()).all(|at| self.fence(at - 1) < self.fence(at)));
        assert_eq!(self.heads.len(), self.len());
        assert_eq!(self.start(self.len()), self.bytes.len());
        assert!((0..self.len()).all(|at| self.find(self.fence(at)) == at + 1));
    }
}

/// The shortest fence between neighbours: the start of `right` that is above `left`.
pub(super) fn fence_between<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    debug_assert!(left < right);
    &right[..=common(left, right)]
}

fn head(bytes: &[u8]) -> u128 {
    match bytes.first_chunk() {
        Some(head) => u128::from_be_bytes(*head),
        None => {
            let mut head = [0; 16];
            head[..bytes.len()].copy_from_slice(bytes);
            u128::from_be_bytes(head)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Short keys over few bytes, zero among them: padding and prefixes get in each other's way.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(
            prop_oneof![3 => Just(b'a'), 1 => Just(0u8), 1 => any::<u8>()],
            0..14,
        )
    }

    proptest! {
        #[test]
        fn a_key_is_found_where_counting_fences_says(
            fences in proptest::collection::vec(key(), 0..40), keys in proptest::collection::vec(key(), 1..40), cut: usize,
        ) {
            let mut built = Fences::default();
            let mut model = BTreeSet::new();
            for fence in fences {
                if model.insert(fence.clone()) {
                    built.insert(model.range(..fence.clone()).count(), &fence);
                    built.check();
                }
            }
            let child_of = |key: &Vec<u8>| model.range(..=key.clone()).count();
            for key in &keys {
                prop_assert_eq!(built.find(key), child_of(key));
            }
            if !model.is_empty() {
                let at = 1 + cut % model.len();
                let (middle, right) = built.split_off(at);
                prop_assert_eq!(Some(&*middle), model.iter().nth(at - 1).map(Vec::as_slice));
                for key in &keys {
                    let child = if **key < *middle { built.find(key) } else { at + right.find(key) };
                    prop_assert_eq!(child, child_of(key));
                }
            }
        }

        #[test]
        fn a_fence_parts_its_neighbours(a in key(), b in key()) {
            prop_assume!(a != b);
            let (left, right) = if a < b { (a, b) } else { (b, a) };
            let fence = fence_between(&left, &right);
            prop_assert!(*left < *fence && fence <= &*right);
        }
    }
}
