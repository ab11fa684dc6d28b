//! Some hundred neighbouring keys, packed.
//!
//! ```text
//!   keys    /registry/pods/a   /registry/pods/ab-17   /registry/pods/b
//!   heads   "a\0\0\0"           "ab-1"                 "b\0\0\0"     as big-endian numbers
//!   starts  0                  25                     51
//!   bytes   /registry/pods/    1 slot  4 slot 7  1 slot            prefix, then the rows
//! ```
//!
//! What all keys begin with is the prefix, the four bytes behind it are a key's head, the rest is
//! its tail. A row has the number of bytes in the head, the slot, and the tail. A search compares
//! the heads, 512 bytes side by side; tails are looked at only between equal heads. So a get waits
//! for memory three times: for the leaf, for the row's start, for the row.
//!
//! Small changes are made in place. Whatever changes the prefix, and splitting and joining, unpacks
//! the keys and packs them anew.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::BufMut;

use super::compare::{common, order, strip};
use super::timeline::Slot;

/// Most keys in a leaf. More make the leaf's own bytes count less, insertions dearer.
pub(super) const KEYS_MAX: usize = 128;

/// Most bytes of tails in a leaf, since inserting moves them. A single key never has a tail: it is
/// all prefix.
const TAILS_MAX: usize = 8 << 10;

/// Bytes of a key that are kept in its head.
const HEAD: usize = 4;

/// Bytes of a row in front of the tail.
const ROW: usize = 1 + Slot::LEN;

// A row's start fits into 16 bits.
const _: () = assert!(KEYS_MAX * ROW + TAILS_MAX <= u16::MAX as usize);

/// Packed keys with their slots.
#[derive(Debug)]
pub(super) struct Leaf {
    len: usize,
    prefix_len: usize,
    /// No slot's newest revision is above.
    pub newest: i64,
    /// Slots whose newest change is a tombstone.
    pub dead: u16,
    /// Slots in which a compaction may find something to drop.
    pub aged: u16,
    bytes: Vec<u8>,
    heads: [u32; KEYS_MAX],
    /// Where the rows start, counted from the end of the prefix.
    starts: [u16; KEYS_MAX],
}

/// A key as the index holds it, in pieces.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    prefix: &'a [u8],
    head: [u8; HEAD],
    head_len: usize,
    tail: &'a [u8],
}

impl KeyParts<'_> {
    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.prefix.len() + self.head_len + self.tail.len()
    }

    /// Appends the key.
    pub fn write_to(&self, out: &mut impl BufMut) {
        out.put_slice(self.prefix);
        out.put_slice(&self.head[..self.head_len]);
        out.put_slice(self.tail);
    }
}

impl Default for Leaf {
    fn default() -> Self {
        Leaf {
            len: 0,
            prefix_len: 0,
            newest: 0,
            dead: 0,
            aged: 0,
            bytes: vec![],
            heads: [0; KEYS_MAX],
            starts: [0; KEYS_MAX],
        }
    }
}

impl Leaf {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the key is, or where it would have to be inserted.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let rest = match strip(key, self.prefix()) {
            Ok(rest) => rest,
            Err(Ordering::Less) => return Err(0),
            Err(_) => return Err(self.len),
        };
        let (head, head_len, tail) = cut(rest);
        let heads = &self.heads[..self.len];
        // Counting reads all heads at once; a binary search would wait for one after the other.
        let mut at = heads.iter().map(|h| u32::from(*h < head)).sum::<u32>() as usize;
        if heads.get(at) != Some(&head) {
            return Err(at);
        }
        // Equal heads: zero-padded ones of different length, or the tails decide.
        let mut end = at + 1;
        if heads.get(end) == Some(&head) {
            end += heads[end..].partition_point(|h| *h == head);
        }
        while at < end {
            let middle = at + (end - at) / 2;
            let row = self.row(middle);
            match order(&row[ROW..], tail).then(usize::from(row[0]).cmp(&head_len)) {
                Ordering::Less => at = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => end = middle,
            }
        }
        Err(at)
    }

    pub fn key(&self, at: usize) -> KeyParts<'_> {
        let row = self.row(at);
        KeyParts {
            prefix: self.prefix(),
            head: self.heads[at].to_be_bytes(),
            head_len: usize::from(row[0]),
            tail: &row[ROW..],
        }
    }

    /// The key in one piece.
    pub fn key_to_vec(&self, at: usize) -> Vec<u8> {
        let key = self.key(at);
        let mut out = Vec::with_capacity(key.len());
        key.write_to(&mut out);
        out
    }

    pub fn slot(&self, at: usize) -> Slot {
        Slot::from_bytes(self.row(at)[1..].first_chunk().expect("a row has a slot"))
    }

    pub fn slots(&self, which: Range<usize>) -> impl Iterator<Item = Slot> {
        which.map(|at| self.slot(at))
    }

    /// Changes a slot, and what the leaf knows about its slots.
    pub fn update<T>(&mut self, at: usize, change: impl FnOnce(&mut Slot) -> T) -> T {
        let mut slot = self.slot(at);
        self.dead -= u16::from(slot.newest.is_tombstone());
        self.aged -= u16::from(slot.is_aged());
        let changed = change(&mut slot);
        self.count(&slot);
        let start = self.prefix_len + usize::from(self.starts[at]) + 1;
        self.bytes[start..start + Slot::LEN].copy_from_slice(&slot.to_bytes());
        changed
    }

    /// Inserts a key in place. Says no if that needs a shorter prefix or more room.
    #[must_use]
    pub fn insert(&mut self, at: usize, key: &[u8], slot: Slot) -> bool {
        let Some(rest) = key.strip_prefix(self.prefix()) else {
            return false;
        };
        let (head, head_len, tail) = cut(rest);
        let tails = self.bytes.len() - self.prefix_len - self.len * ROW;
        if self.len == 0 || self.len == KEYS_MAX || tails + tail.len() > TAILS_MAX {
            return false;
        }
        let (start, row_len) = (self.start(at), ROW + tail.len());
        if self.bytes.capacity() - self.bytes.len() < row_len {
            // An eighth is kept free. Doubling, as `Vec` would do it, wastes more.
            self.bytes.reserve_exact(row_len.max(self.bytes.len() / 8));
        }
        let end = self.bytes.len();
        self.push_row(head_len, &slot, tail);
        self.bytes[self.prefix_len + start..].rotate_right(row_len);
        debug_assert_eq!(self.bytes.len(), end + row_len);
        self.heads.copy_within(at..self.len, at + 1);
        self.heads[at] = head;
        self.starts.copy_within(at..self.len, at + 1);
        self.starts[at] = start as u16;
        self.len += 1;
        for behind in &mut self.starts[at + 1..self.len] {
            *behind += row_len as u16;
        }
        self.count(&slot);
        true
    }

    /// Bytes that are allocated.
    pub fn allocated_bytes(&self) -> usize {
        size_of::<Leaf>() + self.bytes.capacity()
    }

    /// Appends a key. It belongs behind the others, has the prefix, and there must be room.
    fn push(&mut self, rest: &[u8], slot: &Slot) {
        let (head, head_len, tail) = cut(rest);
        self.heads[self.len] = head;
        self.starts[self.len] = (self.bytes.len() - self.prefix_len) as u16;
        self.len += 1;
        self.push_row(head_len, slot, tail);
        self.count(slot);
    }

    fn push_row(&mut self, head_len: usize, slot: &Slot, tail: &[u8]) {
        self.bytes.push(head_len as u8);
        self.bytes.extend_from_slice(&slot.to_bytes());
        self.bytes.extend_from_slice(tail);
    }

    fn count(&mut self, slot: &Slot) {
        self.newest = self.newest.max(slot.newest.main);
        self.dead += u16::from(slot.newest.is_tombstone());
        self.aged += u16::from(slot.is_aged());
    }

    fn prefix(&self) -> &[u8] {
        &self.bytes[..self.prefix_len]
    }

    /// Where a row starts; behind the last one for `len`.
    fn start(&self, at: usize) -> usize {
        if at < self.len {
            usize::from(self.starts[at])
        } else {
            self.bytes.len() - self.prefix_len
        }
    }

    fn row(&self, at: usize) -> &[u8] {
        &self.bytes[self.prefix_len..][self.start(at)..self.start(at + 1)]
    }

    /// Panics if something is wrong.
    #[cfg(test)]
    pub fn check(&self) {
        let keys: Vec<_> = (0..self.len).map(|at| self.key_to_vec(at)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(self.find(key), Ok(at));
        }
        let count = |is: fn(&Slot) -> bool| self.slots(0..self.len).filter(is).count();
        assert_eq!(usize::from(self.dead), count(|slot| slot.newest.is_tombstone()));
        assert_eq!(usize::from(self.aged), count(Slot::is_aged));
        assert!(
            self.slots(0..self.len)
                .all(|slot| slot.newest.main <= self.newest)
        );
    }
}

/// Head, bytes in the head, tail.
fn cut(rest: &[u8]) -> (u32, usize, &[u8]) {
    match rest.split_first_chunk() {
        Some((head, tail)) => (u32::from_be_bytes(*head), HEAD, tail),
        None => {
            let mut head = [0; HEAD];
            head[..rest.len()].copy_from_slice(rest);
            (u32::from_be_bytes(head), rest.len(), &[])
        }
    }
}

/// Keys in one piece each: the form in which leaves are split, joined and thinned out.
#[derive(Default)]
pub(super) struct Unpacked {
    keys: Vec<u8>,
    ends: Vec<usize>,
    slots: Vec<Slot>,
}

impl Unpacked {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn key(&self, at: usize) -> &[u8] {
        &self.keys[at.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[at]]
    }

    /// Appends the keys of a leaf at `which`.
    pub fn extend(&mut self, leaf: &Leaf, which: Range<usize>) {
        for at in which {
            leaf.key(at).write_to(&mut self.keys);
            self.ends.push(self.keys.len());
            self.slots.push(leaf.slot(at));
        }
    }

    pub fn push(&mut self, key: &[u8], slot: Slot) {
        self.keys.extend_from_slice(key);
        self.ends.push(self.keys.len());
        self.slots.push(slot);
    }

    /// The place near `near` where neighbours have least in common, to split there: leaves that end
    /// where a family of names ends have long prefixes and heads that differ.
    pub fn parting(&self, near: usize) -> usize {
        let reach = self.len() / 8;
        let places = near.saturating_sub(reach).max(1)..(near + reach + 1).min(self.len());
        let shared = |at: &usize| common(self.key(at - 1), self.key(*at));
        places
            .min_by_key(|at| (shared(at), at.abs_diff(near)))
            .unwrap_or(near)
    }

    /// Packs some of the keys into a leaf, if they fit.
    pub fn pack(&self, which: Range<usize>) -> Option<Box<Leaf>> {
        let mut leaf = Box::<Leaf>::default();
        if which.is_empty() {
            return Some(leaf);
        }
        if which.len() > KEYS_MAX {
            return None;
        }
        // Keys are sorted: what the first and the last share, all share.
        let prefix = common(self.key(which.start), self.key(which.end - 1));
        let tails: usize = which
            .clone()
            .map(|at| self.key(at).len().saturating_sub(prefix + HEAD))
            .sum();
        if tails > TAILS_MAX {
            return None;
        }
        leaf.bytes.reserve_exact(prefix + which.len() * ROW + tails);
        leaf.bytes.extend_from_slice(&self.key(which.start)[..prefix]);
        leaf.prefix_len = prefix;
        for at in which {
            leaf.push(&self.key(at)[prefix..], &self.slots[at]);
        }
        Some(leaf)
    }
}
