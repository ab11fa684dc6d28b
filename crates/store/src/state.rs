//! What is in memory of the store: shared by everybody, locked only as long as memory takes.

use std::ops::Range;
use std::sync::Arc;

use mvcc::SealedBatch;
use proto::storepb::Commit;
use types::Revision;

use crate::segment::{Segment, SegmentFile};
use crate::tail::Tail;

/// The segments and the tail.
pub(crate) struct State {
    /// In revision order. Replaced as a whole, so that a reader goes on with the list it took.
    pub sealed: Arc<Vec<Arc<Segment>>>,
    /// The segment being written. Only what is synced is in it.
    pub open: Segment,
    pub tail: Tail,
    /// The last commit that is durable.
    pub synced: Commit,
    /// The last commit that was appended.
    pub appended: Commit,
    /// While segments are being rewritten: what became dead in them since that began.
    pub rewriting: Option<DeadMeanwhile>,
}

/// Changes that died while their segments were being rewritten.
pub(crate) struct DeadMeanwhile {
    /// The transactions in those segments.
    pub mains: Range<i64>,
    pub dead: Vec<Revision>,
}

/// A place in the log that the segments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub segment_id: u64,
    pub offset: u64,
}

/// What the next sync writes.
pub(crate) struct Work {
    pub file: Arc<SegmentFile>,
    /// Where in the file.
    pub at: u64,
    pub batches: Vec<Arc<SealedBatch>>,
}

impl State {
    /// Where the synced part of the log ends.
    pub fn end(&self) -> Position {
        Position {
            segment_id: self.open.id,
            offset: self.open.len,
        }
    }

    /// The batches that come next in the open segment, which may grow past `target` bytes with the last of them.
    /// `None` if everything is written.
    pub fn work(&self, target: u64) -> Option<Work> {
        let mut end = self.open.len;
        let mut batches = vec![];
        for batch in self.tail.unsettled() {
            let len = batch.bytes.len() as u64;
            // Offsets in a segment have 32 bits.
            if end >= target || end + len > u64::from(u32::MAX) {
                break;
            }
            end += len;
            batches.push(Arc::clone(batch));
        }
        let idle = self.tail.unsettled().next().is_none();
        (!idle).then(|| Work {
            file: Arc::clone(&self.open.file),
            at: self.open.len,
            batches,
        })
    }

    /// Takes note that the oldest unsettled batch, `batch`, is durable. `keep`: bytes the tail keeps for readers.
    pub fn settle(&mut self, batch: &SealedBatch, keep: u64) {
        let start = self.open.len;
        for change in &batch.changes {
            self.open
                .push(change.rev, change.tombstone, start + change.offset, change.len());
        }
        self.open.len += batch.bytes.len() as u64;
        for dead in self.tail.settle(keep) {
            self.open.forget(dead);
        }
        self.synced = batch.commit.clone();
    }

    /// Makes `next` the open segment.
    pub fn seal(&mut self, next: Segment) {
        let mut full = std::mem::replace(&mut self.open, next);
        full.slots.shrink();
        Arc::make_mut(&mut self.sealed).push(Arc::new(full));
    }

    /// Puts a rewritten segment, or nothing, in place of some sealed ones.
    pub fn replace(&mut self, range: Range<usize>, output: Option<Segment>) {
        let dead = self.rewriting.take().map_or(vec![], |rewriting| rewriting.dead);
        for (rev, output) in dead.into_iter().zip(output.iter().cycle()) {
            output.forget(rev);
        }
        Arc::make_mut(&mut self.sealed).splice(range, output.map(Arc::new));
    }

    /// Marks a change as dropped by the key index. Returns the bytes that are now dead.
    pub fn forget(&mut self, rev: Revision) -> u64 {
        if let Some(rewriting) = self
            .rewriting
            .as_mut()
            .filter(|rewriting| rewriting.mains.contains(&rev.main))
        {
            rewriting.dead.push(rev);
        }
        if rev.main >= self.open.first {
            return self.tail.forget(rev) + self.open.forget(rev);
        }
        holder(&self.sealed, rev.main).map_or(0, |segment| segment.forget(rev))
    }
}

impl State {
    /// Makes sure of what must always be true.
    ///
    /// # Panics
    /// If it is not.
    pub fn check(&self) {
        let mut all = self
            .sealed
            .iter()
            .map(|segment| &**segment)
            .chain([&self.open])
            .peekable();
        while let Some(segment) = all.next() {
            segment.check();
            let (Some(last), Some(next)) = (segment.slots.last(), all.peek()) else {
                continue;
            };
            assert!(
                last.main < next.first,
                "revision {last} is not below {}",
                next.first
            );
        }
        let newest = self.open.slots.last().max(
            self.sealed
                .iter()
                .filter_map(|segment| segment.slots.last())
                .max(),
        );
        assert!(
            newest.is_none_or(|newest| newest.main <= self.synced.revision),
            "only what is synced is settled"
        );
        assert!(self.synced.applied_index <= self.appended.applied_index);
    }
}

/// The sealed segment that holds the transaction `main`, if any of these does.
pub(crate) fn holder(sealed: &[Arc<Segment>], main: i64) -> Option<&Arc<Segment>> {
    sealed[..sealed.partition_point(|segment| segment.first <= main)].last()
}
