//! The whole store as of one commit, frozen without copying it.
//!
//! A snapshot holds the segments by `Arc` and, of each, which changes were dead when it was taken. Appending,
//! compacting and rewriting go on meanwhile: they make new files and new bits. Its memory is one bit a change, the
//! slots of the open segment, the tail and the small tables.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use mvcc::record::HEADER_LEN;
use mvcc::{Change, ReadError, SealedBatch, Wait};
use proto::storepb::Commit;
use types::Revision;

use crate::error::SyncError;
use crate::segment::{Place, Segment, read_places};
use crate::slots::Bits;
use crate::writer::apply;
use crate::{Store, Tables};

/// Bytes of records that going through the changes reads at a time.
const READ_BYTES: u64 = 1 << 20;

/// The store as of one commit.
pub struct Snapshot {
    commit: Commit,
    tables: Arc<Tables>,
    segments: Vec<Frozen>,
    tail: Vec<Arc<SealedBatch>>,
    dead_in_tail: BTreeSet<Revision>,
    /// Counts as one of the store's.
    _counted: Arc<()>,
}

struct Frozen {
    segment: Arc<Segment>,
    dead: Bits,
}

/// What is known of a change without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeSize {
    /// Its revision.
    pub rev: Revision,
    /// Whether it is a tombstone.
    pub tombstone: bool,
    /// Bytes of its `KeyValue`.
    pub kv_len: usize,
}

impl Store {
    /// Freezes the store as of the last appended batch. Waits for a sync or rewrite step under way.
    pub fn snapshot(&self) -> Result<Snapshot, SyncError> {
        // While the writer stands still no batch settles: its tables and the tail fit together.
        let writer = self.writer()?;
        let mut tables = Arc::clone(&writer.tables);
        let snapshot = {
            let state = self.state.read();
            let open = Arc::new(state.open.freeze());
            let freeze = |segment: &Arc<Segment>| Frozen {
                segment: Arc::clone(segment),
                dead: segment.life.lock().dead.clone(),
            };
            Snapshot {
                commit: state.appended.clone(),
                tables: Arc::default(),
                segments: state.sealed.iter().chain([&open]).map(freeze).collect(),
                tail: state.tail.unsettled().cloned().collect(),
                dead_in_tail: state.tail.forgotten().clone(),
                _counted: Arc::clone(&self.snapshots),
            }
        };
        drop(writer);
        for change in snapshot.tail.iter().flat_map(|batch| &batch.tables) {
            apply(Arc::make_mut(&mut tables), change);
        }
        Ok(Snapshot { tables, ..snapshot })
    }
}

impl Snapshot {
    /// The commit it was taken at.
    pub fn commit(&self) -> &Commit {
        &self.commit
    }

    /// The small tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Sizes of the changes that [`changes`](Self::changes) returns, in the same order. Reads nothing.
    pub fn sizes(&self) -> impl Iterator<Item = ChangeSize> {
        let settled = self.segments.iter().flat_map(|Frozen { segment, dead }| {
            let slots = &segment.slots;
            let live = (0..slots.len()).filter(|i| !dead.contains(*i));
            live.map(|i| ChangeSize {
                rev: slots.revision(i),
                tombstone: slots.tombstone(i),
                kv_len: slots.record_len(i) as usize - HEADER_LEN,
            })
        });
        let size = |change: &Change| ChangeSize {
            rev: change.rev,
            tombstone: change.tombstone,
            kv_len: change.kv.len(),
        };
        settled.chain(self.tail_changes().map(size))
    }

    /// The changes that were part of the history, in revision order, read piece by piece. After an error it ends.
    ///
    /// If a compaction was under way, changes that it had yet to drop are among them.
    pub fn changes(&self) -> Changes<'_> {
        Changes {
            snapshot: self,
            segment: 0,
            slot: 0,
            ready: VecDeque::new(),
            failed: false,
        }
    }

    fn tail_changes(&self) -> impl Iterator<Item = &Change> {
        let changes = self.tail.iter().flat_map(|batch| &batch.changes);
        changes.filter(|change| !self.dead_in_tail.contains(&change.rev))
    }
}

/// Goes through the changes of a [`Snapshot`].
pub struct Changes<'a> {
    snapshot: &'a Snapshot,
    segment: usize,
    slot: usize,
    ready: VecDeque<Change>,
    failed: bool,
}

impl Iterator for Changes<'_> {
    type Item = Result<Change, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && self.segment <= self.snapshot.segments.len() && !self.failed {
            if let Err(error) = self.read_more() {
                self.failed = true;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl Changes<'_> {
    fn read_more(&mut self) -> Result<(), ReadError> {
        let Some(Frozen { segment, dead }) = self.snapshot.segments.get(self.segment) else {
            self.ready.extend(self.snapshot.tail_changes().cloned());
            self.segment += 1;
            return Ok(());
        };
        let mut places: Vec<Place> = vec![];
        let mut bytes = 0;
        while self.slot < segment.slots.len() && bytes < READ_BYTES {
            if !dead.contains(self.slot) {
                bytes += segment.slots.record_len(self.slot);
                places.push(segment.place(self.slot));
            }
            self.slot += 1;
        }
        read_places(&places, Wait::Yes, |i, record| {
            self.ready.push_back(places[i].change(&record))
        })?;
        if self.slot == segment.slots.len() {
            (self.segment, self.slot) = (self.segment + 1, 0);
        }
        Ok(())
    }
}
