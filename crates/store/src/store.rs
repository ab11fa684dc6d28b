//! The store: what the rest of the program holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use env::{Disk, File};
use mvcc::{SealedBatch, Table};
use parking_lot::{Mutex, MutexGuard, RwLock};
use proto::storepb::Commit;
use types::Revision;

use crate::error::SyncError;
use crate::segment::SEGMENT_HEADER;
use crate::state::State;
use crate::writer::Writer;

/// Unsynced bytes from which on nothing more should be appended until a sync has caught up. At 100 MB/s that is half a
/// second of a disk's work; more would only be memory.
pub const UNSYNCED_BYTES_MAX: u64 = 64 << 20;

/// Revisions marked as dead under one hold of the state's lock.
const FORGET_CHUNK: usize = 256;

/// The small tables: etcd's buckets beside `key`. A table without rows may be missing.
pub type Tables = BTreeMap<Table, BTreeMap<Bytes, Bytes>>;

/// Sizes, and what the raft log still has.
#[derive(Clone, Debug)]
pub struct Options {
    /// First raft entry that can be replayed after a restart. A store that ends before it is refused: it was damaged
    /// after the log had been released. 0: nothing was released yet.
    pub replay_from: u64,
    /// Size at which a segment is sealed while the store is small, in bytes.
    pub segment_bytes_min: u64,
    /// Size at which a segment is sealed once the store is [`SEGMENTS`] times as large.
    pub segment_bytes_max: u64,
    /// Synced bytes that stay in memory for readers and watchers that are close behind.
    pub tail_bytes: u64,
}

/// A segment is sealed at this part of the store's size: small stores then give dead bytes back in small steps, large
/// ones do not fall apart into many files.
pub const SEGMENTS: u64 = 16;

impl Default for Options {
    fn default() -> Self {
        Options {
            replay_from: 0,
            segment_bytes_min: 1 << 20,
            segment_bytes_max: 64 << 20,
            tail_bytes: 16 << 20,
        }
    }
}

/// How far the disk is behind what was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes that were appended and are not synced.
    pub bytes: u64,
}

impl Backlog {
    /// Whether to stop appending until a sync has caught up.
    pub fn is_full(self) -> bool {
        self.bytes >= UNSYNCED_BYTES_MAX
    }
}

/// An open store. See the crate's header for who calls what.
pub struct Store {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) state: RwLock<State>,
    pub(crate) writer: Mutex<Writer>,
    /// Bytes of segments and tail, and of the live records among them.
    pub(crate) size: AtomicU64,
    pub(crate) live: AtomicU64,
    /// One more handle for each snapshot there is.
    pub(crate) snapshots: Arc<()>,
    /// Locks the folder as long as the store lives.
    pub(crate) _lock: Arc<dyn File>,
}

impl Store {
    /// Takes over a batch: memory only. It is readable when this returns; to be durable it waits for the next
    /// [`sync_step`](Self::sync_step). One owner appends, in order.
    pub fn append(&self, batch: SealedBatch) -> Backlog {
        let live: u64 = batch.changes.iter().map(|change| u64::from(change.len())).sum();
        self.size.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
        self.live.fetch_add(live, Ordering::Relaxed);
        let mut state = self.state.write();
        debug_assert!(state.appended.revision <= batch.commit.revision);
        state.appended = batch.commit.clone();
        state.tail.push(batch);
        Backlog {
            bytes: state.tail.unsettled_bytes(),
        }
    }

    /// How far the disk is behind.
    pub fn backlog(&self) -> Backlog {
        Backlog {
            bytes: self.state.read().tail.unsettled_bytes(),
        }
    }

    /// The last durable commit. The raft log may be released up to its applied index.
    pub fn synced(&self) -> Commit {
        self.state.read().synced.clone()
    }

    /// Makes durable what was appended so far. After any error but [`SyncError::NoSpace`] the process must end.
    pub fn sync_step(&self) -> Result<(), SyncError> {
        self.write(|writer| writer.sync(self))
    }

    /// Makes durable what was appended, and leaves a state checkpoint at the end.
    pub fn close(&self) -> Result<(), SyncError> {
        self.write(|writer| writer.close(self))
    }

    /// Takes note that a compaction dropped these changes from the key index, after the batch with the compaction was
    /// appended. They count as live no longer and are not carried over when their segment is rewritten.
    pub fn forget(&self, dropped: &[Revision]) {
        // Oldest first: a tombstone must not be known to be dead before what it ended, see `rewrite`.
        let mut dropped = dropped.to_vec();
        dropped.sort_unstable();
        for revs in dropped.chunks(FORGET_CHUNK) {
            let mut state = self.state.write();
            let bytes: u64 = revs.iter().map(|rev| state.forget(*rev)).sum();
            self.live.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes of the segment files, including what the next sync will add.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Bytes of them that are needed: the records that are part of the history, and the head of the one segment they
    /// would fit in. Never 0, as tools divide by it.
    pub fn size_in_use(&self) -> u64 {
        u64::from(SEGMENT_HEADER) + self.live.load(Ordering::Relaxed)
    }

    /// Snapshots that are held: each keeps the files it was taken from, also those that were rewritten since.
    pub fn open_snapshots(&self) -> usize {
        Arc::strong_count(&self.snapshots) - 1
    }

    /// Makes sure of what must always be true; for tests, while nobody appends. Reads no files.
    ///
    /// # Panics
    /// If it is not.
    pub fn check(&self) {
        let state = self.state.read();
        state.check();
        let segments = || state.sealed.iter().map(|segment| &**segment).chain([&state.open]);
        let size = segments().map(|segment| segment.len).sum::<u64>() + state.tail.unsettled_bytes();
        assert_eq!(self.size(), size);
        let live =
            segments().map(|segment| segment.extent().live).sum::<u64>() + state.tail.unsettled_live_bytes();
        assert_eq!(self.live.load(Ordering::Relaxed), live);
    }

    /// The size at which the open segment is sealed now.
    pub(crate) fn segment_target(&self) -> u64 {
        self.segment_target_of(self.size())
    }

    /// The size at which segments of a store of `size` bytes are sealed.
    pub(crate) fn segment_target_of(&self, size: u64) -> u64 {
        let Options {
            segment_bytes_min: min,
            segment_bytes_max: max,
            ..
        } = self.options;
        (size / SEGMENTS)
            .min(max)
            .max(min)
            .max(u64::from(SEGMENT_HEADER) + 1)
    }

    /// Changes files; nothing more can be written once that failed.
    pub(crate) fn write<T>(
        &self,
        step: impl FnOnce(&mut Writer) -> Result<T, SyncError>,
    ) -> Result<T, SyncError> {
        let mut writer = self.writer()?;
        let result = step(&mut writer);
        writer.poisoned = matches!(result, Err(SyncError::Disk(_)));
        result
    }

    /// The writer, unless it failed before.
    pub(crate) fn writer(&self) -> Result<MutexGuard<'_, Writer>, SyncError> {
        let writer = self.writer.lock();
        if writer.poisoned {
            Err(SyncError::Poisoned)
        } else {
            Ok(writer)
        }
    }
}
