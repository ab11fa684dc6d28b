//! Where the changes of one segment are: a sorted array from revision to byte range.
//!
//! ```text
//! revision   5.0       6.0   6.1          9.0              bases = [5 from slot 0]
//! mains      0         1     1            4                what is above the base
//! subs       0         0     1            0                left out while all are zero
//! starts     32        90    131          260              offset of the record
//! gaps                           [198]                     where something else than changes begins
//! ```
//!
//! A change ends where the next one starts, unless a gap (table and commit records) lies between. That makes
//! 8 bytes a change and 4 a batch; the lengths are exact, so reads fetch and liveness counts no byte too many.

use std::ops::Range;

use types::Revision;

/// A growing set of small integers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub fn contains(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1)
    }

    /// The set that [`words`](Self::words) belong to.
    pub fn from_words(words: Vec<u64>) -> Self {
        Bits(words)
    }

    /// Bit `i` of word `w` says whether `64 w + i` is in the set.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Adds `i`; false if it was there.
    pub fn insert(&mut self, i: usize) -> bool {
        if self.0.len() <= i / 64 {
            self.0.resize(i / 64 + 1, 0);
        }
        let (word, bit) = (&mut self.0[i / 64], 1 << (i % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// The changes of one segment, in revision order.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// From which slot on which number is to be added to `mains`. A second one is needed only where the history of
    /// a segment jumps by more than 32 bits.
    bases: Vec<(usize, i64)>,
    mains: Vec<u32>,
    subs: Vec<u32>,
    starts: Vec<u32>,
    gaps: Vec<u32>,
    tombstones: Bits,
    end: u32,
}

impl Slots {
    /// No changes yet, in a segment whose records begin at `start`.
    pub fn new(start: u32) -> Self {
        Slots {
            bases: Vec::new(),
            mains: Vec::new(),
            subs: Vec::new(),
            starts: Vec::new(),
            gaps: Vec::new(),
            tombstones: Bits::default(),
            end: start,
        }
    }

    /// Adds a change behind all others: revisions and offsets ascend.
    pub fn push(&mut self, rev: Revision, tombstone: bool, start: u32, len: u32) {
        debug_assert!(start >= self.end && self.last().is_none_or(|last| last < rev));
        let base = self.bases.last().map(|(_, base)| rev.main - base);
        let main = base.and_then(|main| u32::try_from(main).ok()).unwrap_or_else(|| {
            self.bases.push((self.len(), rev.main));
            0
        });
        if start > self.end {
            self.gaps.push(self.end);
        }
        if rev.sub != 0 && self.subs.is_empty() {
            self.subs.resize(self.mains.len(), 0);
        }
        if rev.sub != 0 || !self.subs.is_empty() {
            self.subs.push(rev.sub);
        }
        if tombstone {
            self.tombstones.insert(self.mains.len());
        }
        self.mains.push(main);
        self.starts.push(start);
        self.end = start + len;
    }

    pub fn len(&self) -> usize {
        self.mains.len()
    }

    /// The revision of the `i`th change.
    pub fn revision(&self, i: usize) -> Revision {
        let base = self.bases.partition_point(|(from, _)| *from <= i) - 1;
        self.revision_over(self.bases[base].1, i)
    }

    fn revision_over(&self, base: i64, i: usize) -> Revision {
        Revision::new(
            base + i64::from(self.mains[i]),
            self.subs.get(i).copied().unwrap_or(0),
        )
    }

    /// The revision of the last change.
    pub fn last(&self) -> Option<Revision> {
        self.len().checked_sub(1).map(|i| self.revision(i))
    }

    /// Whether the `i`th change is a tombstone.
    pub fn tombstone(&self, i: usize) -> bool {
        self.tombstones.contains(i)
    }

    /// The bytes of the `i`th change's record.
    pub fn bytes(&self, i: usize) -> Range<u64> {
        let start = self.starts[i];
        let mut end = self.starts.get(i + 1).copied().unwrap_or(self.end);
        let gap = self.gaps.partition_point(|&gap| gap <= start);
        if let Some(&gap) = self.gaps.get(gap) {
            end = end.min(gap);
        }
        u64::from(start)..u64::from(end)
    }

    /// Length of the `i`th change's record.
    pub fn record_len(&self, i: usize) -> u64 {
        let Range { start, end } = self.bytes(i);
        end - start
    }

    /// Number of the first change at or after `rev`.
    pub fn seek(&self, rev: Revision) -> usize {
        let over = self.bases.partition_point(|(_, base)| *base <= rev.main);
        let Some(&(low, base)) = over.checked_sub(1).and_then(|i| self.bases.get(i)) else {
            return 0;
        };
        let high = self.bases.get(over).map_or(self.len(), |(from, _)| *from);
        let before = |i: usize| self.revision_over(base, i) < rev;
        let (mut low, mut high) = bracket(self.guess(rev.main - base, low, high), low, high, before);
        while low < high {
            let mid = low + (high - low) / 2;
            if before(mid) { low = mid + 1 } else { high = mid }
        }
        low
    }

    /// Where `main` would be between `low` and `high` if revisions were spread evenly, which they mostly are.
    fn guess(&self, main: i64, low: usize, high: usize) -> usize {
        let (first, last) = (i64::from(self.mains[low]), i64::from(self.mains[high - 1]));
        // Both factors have 32 bits.
        let part = (main - first).clamp(0, last - first) as u64 * (high - low - 1) as u64;
        low + (part / (last - first).max(1) as u64) as usize
    }

    /// Number of the change at exactly `rev`.
    pub fn find(&self, rev: Revision) -> Option<usize> {
        let i = self.seek(rev);
        (i < self.len() && self.revision(i) == rev).then_some(i)
    }

    /// Gives back what growing kept in reserve.
    pub fn shrink(&mut self) {
        self.mains.shrink_to_fit();
        self.subs.shrink_to_fit();
        self.starts.shrink_to_fit();
        self.gaps.shrink_to_fit();
        self.tombstones.0.shrink_to_fit();
    }
}

/// Narrows `low..high`, in which `before` is first true and then false, around where it changes, in steps that double
/// from `guess` on. With a good guess that touches little memory, where halving would touch a lot.
fn bracket(guess: usize, low: usize, high: usize, before: impl Fn(usize) -> bool) -> (usize, usize) {
    let mut step = 1;
    if before(guess) {
        let mut low = guess + 1;
        while low + step < high && before(low + step) {
            low += step + 1;
            step *= 2;
        }
        return (low, high.min(low + step));
    }
    let mut high = guess;
    while high >= low + step && !before(high - step) {
        high -= step;
        step *= 2;
    }
    (low.max(high.saturating_sub(step)), high)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Steps of (main, sub, bytes in between, length) against a map from revision to range.
        #[test]
        fn slots_find_what_a_map_finds(
            steps in prop::collection::vec(
                (
                    prop_oneof![20 => 0i64..3, 1 => Just(1i64 << 32)],
                    0u32..3,
                    prop_oneof![Just(0u32), 1..200u32],
                    25..90u32,
                ),
                0..60,
            ),
        ) {
            let mut slots = Slots::new(32);
            let mut model = BTreeMap::new();
            let (mut rev, mut offset) = (Revision::new(7, 0), 32);
            for (i, (main, sub, between, len)) in steps.into_iter().enumerate() {
                rev = match (i, main) {
                    (0, main) => Revision::new(7 + main, sub),
                    (_, 0) => Revision::new(rev.main, rev.sub + 1 + sub),
                    (_, main) => Revision::new(rev.main + main, sub),
                };
                offset += between;
                slots.push(rev, len % 2 == 0, offset, len);
                model.insert(rev, (u64::from(offset)..u64::from(offset + len), len % 2 == 0));
                offset += len;
            }
            slots.shrink();
            prop_assert_eq!(slots.last(), model.keys().next_back().copied());
            for main in model.keys().flat_map(|rev| rev.main - 1..rev.main + 2) {
                for sub in 0..8 {
                    let rev = Revision::new(main, sub);
                    let found = slots.find(rev).map(|i| (slots.bytes(i), slots.tombstone(i)));
                    prop_assert_eq!(found.as_ref(), model.get(&rev));
                    let next = slots.seek(rev);
                    let next = (next < slots.len()).then(|| slots.revision(next));
                    prop_assert_eq!(next, model.range(rev..).next().map(|(rev, _)| *rev));
                }
            }
        }

        #[test]
        fn bits_are_a_set(steps in prop::collection::vec(0usize..300, 0..100)) {
            let mut bits = Bits::default();
            let mut model = std::collections::BTreeSet::new();
            for i in steps {
                prop_assert_eq!(bits.insert(i), model.insert(i));
            }
            for i in 0..400 {
                prop_assert_eq!(bits.contains(i), model.contains(&i));
            }
        }
    }
}
