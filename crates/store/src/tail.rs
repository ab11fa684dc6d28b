//! The newest batches, in memory.
//!
//! ```text
//!   settled                      unsettled
//!   [batch] [batch] [batch]      [batch] [batch]
//!   on disk, kept for readers    the next sync writes these
//! ```
//!
//! A batch enters at the back, readable at once. The syncer writes and fsyncs it and then settles it: its changes
//! enter the open segment's slots. It stays here for a while, because what was just written is what watchers and
//! readers ask for next, and leaves at the front when the settled ones exceed their bound.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use mvcc::{Change, SealedBatch};
use types::Revision;

/// Batches in the order they were appended.
#[derive(Default)]
pub(crate) struct Tail {
    batches: VecDeque<Recent>,
    /// How many at the front are settled.
    settled: usize,
    settled_bytes: u64,
    unsettled_bytes: u64,
    /// Changes in unsettled batches that the key index has dropped.
    forgotten: BTreeSet<Revision>,
}

#[derive(Clone)]
struct Recent {
    batch: Arc<SealedBatch>,
    /// The last revision up to this batch; batches without changes repeat it.
    last: Revision,
}

impl Tail {
    /// Adds a batch.
    pub fn push(&mut self, batch: SealedBatch) {
        let before = self
            .batches
            .back()
            .map_or(Revision::default(), |recent| recent.last);
        let last = batch.changes.last().map_or(before, |change| change.rev);
        debug_assert!(
            batch.changes.first().is_none_or(|change| before < change.rev),
            "revisions ascend"
        );
        self.unsettled_bytes += batch.bytes.len() as u64;
        self.batches.push_back(Recent {
            batch: Arc::new(batch),
            last,
        });
    }

    /// Bytes that are not settled.
    pub fn unsettled_bytes(&self) -> u64 {
        self.unsettled_bytes
    }

    /// Bytes of the live changes among them.
    pub fn unsettled_live_bytes(&self) -> u64 {
        let changes = self.unsettled().flat_map(|batch| &batch.changes);
        let live = changes.filter(|change| !self.forgotten.contains(&change.rev));
        live.map(|change| u64::from(change.len())).sum()
    }

    /// The batches to write next, oldest first.
    pub fn unsettled(&self) -> impl Iterator<Item = &Arc<SealedBatch>> {
        self.batches.range(self.settled..).map(|recent| &recent.batch)
    }

    /// Changes in unsettled batches that are dead.
    pub fn forgotten(&self) -> &BTreeSet<Revision> {
        &self.forgotten
    }

    /// Settles the oldest unsettled batch, which is on disk now, and lets go of old ones beyond `keep` bytes.
    /// Returns the revisions in it that are dead already.
    pub fn settle(&mut self, keep: u64) -> BTreeSet<Revision> {
        let Some(Recent { batch, last }) = self.batches.get(self.settled) else {
            return BTreeSet::new();
        };
        let bytes = batch.bytes.len() as u64;
        let later = self.forgotten.split_off(&after(*last));
        self.settled += 1;
        self.settled_bytes += bytes;
        self.unsettled_bytes -= bytes;
        while self.settled_bytes > keep && self.settled > 0 {
            let Some(oldest) = self.batches.pop_front() else {
                break;
            };
            self.settled -= 1;
            self.settled_bytes -= oldest.batch.bytes.len() as u64;
        }
        std::mem::replace(&mut self.forgotten, later)
    }

    /// The change at `rev`.
    pub fn find(&self, rev: Revision) -> Option<&Change> {
        let at = self.batches.partition_point(|recent| recent.last < rev);
        let changes = &self.batches.get(at)?.batch.changes;
        let i = changes.binary_search_by_key(&rev, |change| change.rev).ok()?;
        Some(&changes[i])
    }

    /// The first revision that is here. All later ones are, too.
    pub fn first(&self) -> Option<Revision> {
        self.batches
            .iter()
            .find_map(|recent| recent.batch.changes.first())
            .map(|change| change.rev)
    }

    /// The changes from `rev` on.
    pub fn changes_from(&self, rev: Revision) -> impl Iterator<Item = &Change> {
        let at = self.batches.partition_point(|recent| recent.last < rev);
        let changes = self.batches.range(at..).flat_map(|recent| &recent.batch.changes);
        changes.skip_while(move |change| change.rev < rev)
    }

    /// Marks a change as dropped by the key index, if it is in an unsettled batch. Returns the bytes now dead.
    pub fn forget(&mut self, rev: Revision) -> u64 {
        let at = self.batches.partition_point(|recent| recent.last < rev);
        let Some(change) = (at >= self.settled).then(|| self.find(rev)).flatten() else {
            return 0;
        };
        let len = u64::from(change.len());
        if self.forgotten.insert(rev) { len } else { 0 }
    }
}

/// The smallest revision above `rev`.
pub(crate) fn after(rev: Revision) -> Revision {
    match rev.sub.checked_add(1) {
        Some(sub) => Revision::new(rev.main, sub),
        None => Revision::new(rev.main + 1, 0),
    }
}
