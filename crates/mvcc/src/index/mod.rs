//! The key index: which revisions every key has.
//!
//! All keys of the store are in memory, so a key may cost little more than its own bytes. It is a
//! tree of three levels with packed leaves:
//!
//! ```text
//!   top        fences between branches
//!   branch     fences between leaves                up to 128 leaves
//!   leaf       heads | prefix | rows of slot, tail  up to 128 keys
//!                                          |
//!                                          +-> past: older revisions of the key, if there are any
//! ```
//!
//! A key without a past takes 31 bytes and what tells it from its neighbours; leaves grow by eighths
//! instead of doubling, so a half-full leaf wastes little. Three levels are enough: with a billion
//! keys the top is a list of some hundred thousand fences.
//!
//! Every leaf knows its newest revision and how many of its keys are dead, so counting a range at
//! the current revision looks only at leaves, and a compaction passes over leaves without history.
//!
//! Invariants, run by `check` in the tests:
//! * the keys of a child lie between its fences; keys are sorted within a leaf;
//! * a leaf is never empty, unless the index is;
//! * timelines rise, and within a generation versions rise by one;
//! * the sums a leaf keeps about its slots are right.
//!
//! Missing on purpose: branches are never joined. A branch that lost most of its leaves costs a few
//! hundred bytes, one that lost all is removed.

mod compare;
mod fences;
mod leaf;
#[cfg(test)]
mod model_test;
mod timeline;

use std::ops::{ControlFlow, Range};

use types::{KeyRange, Revision};

use fences::{Fences, fence_between};
pub use leaf::KeyParts;
use leaf::{KEYS_MAX, Leaf, Unpacked};
use timeline::{Pasts, Slot};

/// Most leaves in a branch.
const LEAVES_MAX: usize = 128;

/// A key's state at some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMeta {
    /// The change that made it so; the value is stored under it.
    pub mod_rev: Revision,
    /// Main revision of the put that created the key.
    pub create_rev: i64,
    /// Puts since then, that one included.
    pub version: i64,
}

/// How far a walk has come, so that it can go on after the lock was released.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// Everything up to this key is done.
    after: Option<Vec<u8>>,
    done: bool,
}

impl Cursor {
    /// Whether the whole range has been visited.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

/// What a stored record says about a key, for rebuilding the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The record's revision.
    pub rev: Revision,
    /// The record's `create_revision`; 0 for a tombstone.
    pub create_rev: i64,
    /// The record's `version`; 0 for a tombstone.
    pub version: i64,
    /// Whether the key ends here.
    pub tombstone: bool,
}

/// Which revisions every key has.
#[derive(Debug)]
pub struct KeyIndex {
    top: Fences,
    branches: Vec<Branch>,
    pasts: Pasts,
    len: usize,
}

/// Neighbouring leaves. In boxes, because one is 800 bytes and inserting moves a hundred of them.
type Leaves = Vec<Box<Leaf>>;

#[derive(Debug, Default)]
struct Branch {
    fences: Fences,
    leaves: Leaves,
}

/// Keys of one leaf, a bit each.
type KeySet = u128;
const _: () = assert!(KEYS_MAX <= KeySet::BITS as usize);

/// Place of a leaf.
#[derive(Clone, Copy, Debug)]
struct Place {
    branch: usize,
    leaf: usize,
}

impl Default for KeyIndex {
    fn default() -> Self {
        let branch = Branch {
            fences: Fences::default(),
            leaves: vec![Box::default()],
        };
        KeyIndex {
            top: Fences::default(),
            branches: vec![branch],
            pasts: Pasts::default(),
            len: 0,
        }
    }
}

impl KeyIndex {
    /// An index without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of keys it knows, deleted ones included as long as their history is kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it knows no key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Records a put at `rev`, which is above every revision the key has. Returns the key's state
    /// after it and before it.
    pub fn put(&mut self, key: &[u8], rev: Revision) -> (KeyMeta, Option<KeyMeta>) {
        let place = self.locate(key);
        let leaf = &mut self.branches[place.branch].leaves[place.leaf];
        let prev = match leaf.find(key) {
            Ok(at) => leaf.update(at, |slot| slot.put(rev, &mut self.pasts)),
            Err(at) => {
                let slot = Slot::first(rev, rev.main, 1, &mut self.pasts);
                self.insert(place, at, key, slot);
                None
            }
        };
        let (create_rev, version) = prev.map_or((rev.main, 1), |prev| {
            (prev.create_rev, prev.version.saturating_add(1))
        });
        (
            KeyMeta {
                mod_rev: rev,
                create_rev,
                version,
            },
            prev,
        )
    }

    /// Records the end of a key at `rev`, which is above every revision the key has. Returns the
    /// key's state before; nothing, and changes nothing, if there is no such key.
    pub fn tombstone(&mut self, key: &[u8], rev: Revision) -> Option<KeyMeta> {
        let Place { branch, leaf } = self.locate(key);
        let leaf = &mut self.branches[branch].leaves[leaf];
        let at = leaf.find(key).ok()?;
        leaf.update(at, |slot| slot.tombstone(rev, &mut self.pasts))
    }

    /// The key's state at main revision `at`.
    pub fn get(&self, key: &[u8], at: i64) -> Option<KeyMeta> {
        self.slot(key)?.live_at(at, &self.pasts)
    }

    /// Visits the keys of `range` that live at main revision `at`, in key order, from where `cursor`
    /// stands, until `visit` breaks or about `budget` keys were looked at.
    pub fn walk(
        &self,
        range: &KeyRange,
        at: i64,
        cursor: &mut Cursor,
        budget: usize,
        mut visit: impl FnMut(KeyParts<'_>, KeyMeta) -> ControlFlow<()>,
    ) {
        self.runs(range, cursor, budget, |leaf, run| {
            let steps = run.len();
            for i in run {
                if let Some(meta) = leaf.slot(i).live_at(at, &self.pasts)
                    && visit(leaf.key(i), meta).is_break()
                {
                    return ControlFlow::Break(i);
                }
            }
            ControlFlow::Continue(steps)
        });
    }

    /// Counts the keys of `range` that live at main revision `at`, from where `cursor` stands, in
    /// about `budget` steps of work.
    pub fn count(&self, range: &KeyRange, at: i64, cursor: &mut Cursor, budget: usize) -> i64 {
        let mut count = 0;
        self.runs(range, cursor, budget, |leaf, run| {
            let (live, steps) = match leaf.newest <= at {
                true if leaf.dead == 0 => (run.len(), 1),
                true if run.len() == leaf.len() => (run.len() - usize::from(leaf.dead), 1),
                true => {
                    let live = |slot: &Slot| !slot.newest.is_tombstone();
                    (leaf.slots(run.clone()).filter(live).count(), run.len())
                }
                false => {
                    let live = |slot: &Slot| slot.live_at(at, &self.pasts).is_some();
                    (leaf.slots(run.clone()).filter(live).count(), run.len())
                }
            };
            count += live as i64;
            ControlFlow::Continue(steps)
        });
        count
    }

    /// Whether the change of `key` at `rev` is still part of the history when it is compacted to
    /// `compacted`: it is newer, or it is what the key was at `compacted`. A tombstone older than
    /// `compacted` is not.
    pub fn retains(&self, key: &[u8], rev: Revision, compacted: i64) -> bool {
        let Some(slot) = self.slot(key) else { return false };
        if rev.main > compacted {
            return slot.has(rev, &self.pasts);
        }
        slot.entry_at(compacted, &self.pasts)
            .is_some_and(|kept| kept.rev() == rev && (!kept.is_tombstone() || kept.main == compacted))
    }

    /// Records a change read back from the store. Within a key, changes come in revision order.
    ///
    /// Changes up to `compacted` that the compaction did not retain may be missing, with one rule: a
    /// tombstone may be missing only if the puts it ended are, too, or they would come back to life.
    /// Of those that are not missing, the revisions are appended to `dropped`.
    pub fn restore(&mut self, key: &[u8], change: Restored, compacted: i64, dropped: &mut Vec<Revision>) {
        let Restored {
            rev,
            create_rev,
            version,
            tombstone,
        } = change;
        let (create_rev, version) = if tombstone {
            (rev.main, 0)
        } else {
            (create_rev, version.max(1))
        };
        let dead = tombstone && rev.main < compacted;
        let place = self.locate(key);
        let leaf = &mut self.branches[place.branch].leaves[place.leaf];
        match leaf.find(key) {
            Ok(at) if rev.main > compacted => leaf.update(at, |slot| {
                if tombstone {
                    slot.tombstone(rev, &mut self.pasts);
                } else {
                    slot.put(rev, &mut self.pasts);
                }
            }),
            Ok(at) => {
                // All that came before is superseded, and there is no past: it would be, too.
                dropped.push(leaf.slot(at).newest.rev());
                if dead {
                    dropped.push(rev);
                    leaf.update(at, |slot| slot.forget(&mut self.pasts));
                    self.thin_out(place, 1 << at);
                } else {
                    leaf.update(at, |slot| {
                        slot.forget(&mut self.pasts);
                        *slot = Slot::first(rev, create_rev, version, &mut self.pasts);
                    });
                }
            }
            Err(_) if dead => dropped.push(rev),
            Err(at) => {
                let slot = Slot::first(rev, create_rev, version, &mut self.pasts);
                self.insert(place, at, key, slot);
            }
        }
    }

    /// Drops the history that a compaction to `compacted` makes superfluous, from where `cursor`
    /// stands, in about `budget` steps of work. The dropped revisions are appended to `dropped`. Returns how many keys it
    /// has passed: of a whole walk, each once.
    pub fn compact(
        &mut self,
        compacted: i64,
        cursor: &mut Cursor,
        budget: usize,
        dropped: &mut Vec<Revision>,
    ) -> usize {
        let mut place = self.locate(cursor.after.as_deref().unwrap_or_default());
        let (mut steps, mut passed) = (0, 0);
        while !cursor.done {
            let right = self.right_of(place).map(<[u8]>::to_vec);
            let before = dropped.len();
            let leaf = &mut self.branches[place.branch].leaves[place.leaf];
            steps += 1;
            passed += leaf.len();
            if leaf.aged > 0 {
                steps += leaf.len();
                let mut gone = KeySet::default();
                for at in 0..leaf.len() {
                    if leaf.slot(at).is_aged()
                        && !leaf.update(at, |slot| slot.compact(compacted, &mut self.pasts, dropped))
                    {
                        gone |= 1 << at;
                    }
                }
                if gone != 0 {
                    self.thin_out(place, gone);
                }
                steps += dropped.len() - before;
            }
            match right {
                None => cursor.done = true,
                Some(right) => {
                    if steps >= budget {
                        cursor.after = Some(right);
                        return passed;
                    }
                    place = self.locate(&right);
                }
            }
        }
        passed
    }

    /// Estimate of the bytes of memory it takes, without what the allocator adds.
    pub fn allocated_bytes(&self) -> usize {
        let branches = self.branches.iter().map(|branch| {
            branch.fences.allocated_bytes()
                + branch.leaves.capacity() * size_of::<Box<Leaf>>()
                + branch
                    .leaves
                    .iter()
                    .map(|leaf| leaf.allocated_bytes())
                    .sum::<usize>()
        });
        branches.sum::<usize>()
            + self.branches.capacity() * size_of::<Branch>()
            + self.top.allocated_bytes()
            + self.pasts.allocated_bytes()
    }

    /// The leaf in which a key is, if it is.
    fn locate(&self, key: &[u8]) -> Place {
        let branch = self.top.find(key);
        Place {
            branch,
            leaf: self.branches[branch].fences.find(key),
        }
    }

    fn slot(&self, key: &[u8]) -> Option<Slot> {
        let Place { branch, leaf } = self.locate(key);
        let leaf = &self.branches[branch].leaves[leaf];
        Some(leaf.slot(leaf.find(key).ok()?))
    }

    /// Gives `visit` the part of each leaf that is in the range, until it breaks at a key or its
    /// steps add up to the budget.
    fn runs(
        &self,
        range: &KeyRange,
        cursor: &mut Cursor,
        budget: usize,
        mut visit: impl FnMut(&Leaf, Range<usize>) -> ControlFlow<usize, usize>,
    ) {
        if range.is_empty() {
            cursor.done = true;
        }
        if cursor.done {
            return;
        }
        let start = cursor.after.as_deref().unwrap_or(range.start());
        let place = self.locate(start);
        if let KeyRange::One(_) = range {
            let leaf = &self.branches[place.branch].leaves[place.leaf];
            if let Ok(at) = leaf.find(start)
                && cursor.after.is_none()
            {
                let _ = visit(leaf, at..at + 1);
            }
            cursor.done = true;
            return;
        }
        let mut leaves = self.leaves_from(place);
        let Some(mut leaf) = leaves.next() else { return };
        let mut first = match leaf.find(start) {
            Ok(at) => at + usize::from(cursor.after.is_some()),
            Err(at) => at,
        };
        let mut steps = 0;
        loop {
            let end = end_in(leaf, range);
            if first < end {
                match visit(leaf, first..end) {
                    ControlFlow::Break(at) => {
                        cursor.after = Some(leaf.key_to_vec(at));
                        return;
                    }
                    ControlFlow::Continue(more) => steps += more,
                }
            }
            if end < leaf.len() {
                break;
            }
            let Some(next) = leaves.next() else { break };
            if steps >= budget {
                cursor.after = Some(leaf.key_to_vec(leaf.len() - 1));
                return;
            }
            (leaf, first) = (next, 0);
        }
        cursor.done = true;
    }

    fn leaves_from(&self, place: Place) -> impl Iterator<Item = &Box<Leaf>> {
        let rest = self.branches[place.branch + 1..]
            .iter()
            .flat_map(|branch| &branch.leaves);
        self.branches[place.branch].leaves[place.leaf..]
            .iter()
            .chain(rest)
    }

    /// The fence on the right of a leaf: the first key that may be in the next one.
    fn right_of(&self, place: Place) -> Option<&[u8]> {
        self.branches[place.branch]
            .fences
            .right_of(place.leaf)
            .or(self.top.right_of(place.branch))
    }

    fn insert(&mut self, place: Place, at: usize, key: &[u8], slot: Slot) {
        self.len += 1;
        let leaf = &mut self.branches[place.branch].leaves[place.leaf];
        if leaf.insert(at, key, slot) {
            return;
        }
        let mut all = Unpacked::default();
        all.extend(leaf, 0..at);
        all.push(key, slot);
        all.extend(leaf, at..leaf.len());
        // Keys that come in order leave full leaves behind; others are expected on both sides.
        let near = if at == leaf.len() {
            all.len() - 1 - all.len() / 8
        } else {
            all.len() / 2
        };
        let middle = all.parting(near);
        let mut pieces = vec![];
        pack(&all, 0..all.len(), middle, &mut pieces);
        self.replace(place, pieces);
    }

    /// Puts leaves in the place of one.
    fn replace(&mut self, place: Place, pieces: Leaves) {
        let branch = &mut self.branches[place.branch];
        for (at, pair) in pieces.windows(2).enumerate() {
            let (left, right) = (pair[0].key_to_vec(pair[0].len() - 1), pair[1].key_to_vec(0));
            branch
                .fences
                .insert(place.leaf + at, fence_between(&left, &right));
        }
        branch.leaves.splice(place.leaf..=place.leaf, pieces);
        if branch.leaves.len() > LEAVES_MAX {
            let at = branch.leaves.len() / 2;
            let (fence, fences) = branch.fences.split_off(at);
            let leaves = branch.leaves.split_off(at);
            self.branches.insert(place.branch + 1, Branch { fences, leaves });
            self.top.insert(place.branch, &fence);
        }
    }

    /// Removes keys of a leaf, and the leaf, if none is left. A leaf that has become small joins its
    /// left neighbour.
    fn thin_out(&mut self, place: Place, gone: KeySet) {
        let branch = &mut self.branches[place.branch];
        let leaf = &mut branch.leaves[place.leaf];
        let len = leaf.len();
        let mut kept = Unpacked::default();
        for at in (0..len).filter(|at| gone >> at & 1 == 0) {
            kept.extend(leaf, at..at + 1);
        }
        self.len -= len - kept.len();
        if let Some(packed) = kept.pack(0..kept.len()) {
            *leaf = packed;
        }
        if kept.len() == 0 {
            self.remove(place);
        } else if place.leaf > 0 && kept.len() + branch.leaves[place.leaf - 1].len() <= KEYS_MAX / 2 {
            self.join(place);
        }
    }

    /// Removes an empty leaf; the very last one stays.
    fn remove(&mut self, Place { branch: at, leaf }: Place) {
        let branch = &mut self.branches[at];
        if branch.leaves.len() > 1 {
            branch.leaves.remove(leaf);
            branch.fences.remove(leaf.saturating_sub(1));
        } else if self.branches.len() > 1 {
            self.branches.remove(at);
            self.top.remove(at.saturating_sub(1));
        }
    }

    /// Joins a leaf with its left neighbour, if they fit.
    fn join(&mut self, place: Place) {
        let branch = &mut self.branches[place.branch];
        let mut both = Unpacked::default();
        for leaf in &branch.leaves[place.leaf - 1..=place.leaf] {
            both.extend(leaf, 0..leaf.len());
        }
        if let Some(joined) = both.pack(0..both.len()) {
            branch.leaves[place.leaf - 1] = joined;
            branch.leaves.remove(place.leaf);
            branch.fences.remove(place.leaf - 1);
        }
    }

    /// Panics if an invariant does not hold.
    #[cfg(test)]
    fn check(&self) {
        self.top.check();
        let mut last: Option<Vec<u8>> = None;
        let mut len = 0;
        for (b, branch) in self.branches.iter().enumerate() {
            branch.fences.check();
            assert!((1..=LEAVES_MAX).contains(&branch.leaves.len()));
            for (l, leaf) in branch.leaves.iter().enumerate() {
                leaf.check();
                assert!(leaf.len() > 0 || self.is_empty());
                len += leaf.len();
                for at in 0..leaf.len() {
                    let key = leaf.key_to_vec(at);
                    assert!(last.is_none_or(|last| last < key));
                    let place = self.locate(&key);
                    assert_eq!((place.branch, place.leaf), (b, l));
                    last = Some(key);
                }
            }
        }
        assert_eq!(len, self.len);
        let leaves = self.branches.iter().flat_map(|branch| &branch.leaves);
        let pasts = leaves
            .flat_map(|leaf| leaf.slots(0..leaf.len()))
            .filter(Slot::has_past);
        assert_eq!(pasts.count(), self.pasts.len());
    }
}

/// How many keys of the leaf lie in front of the range's end.
fn end_in(leaf: &Leaf, range: &KeyRange) -> usize {
    use std::ops::Bound;
    match range.end() {
        Bound::Unbounded => leaf.len(),
        Bound::Excluded(end) => leaf.find(end).unwrap_or_else(|at| at),
        Bound::Included(end) => leaf.find(end).map_or_else(|at| at, |at| at + 1),
    }
}

/// Packs keys into as many leaves as it takes, parted at `middle` first.
fn pack(all: &Unpacked, which: Range<usize>, middle: usize, pieces: &mut Leaves) {
    match all.pack(which.clone()) {
        Some(leaf) => pieces.push(leaf),
        None => {
            for half in [which.start..middle, middle..which.end] {
                let middle = half.start + half.len() / 2;
                pack(all, half, middle, pieces);
            }
        }
    }
}
