//! Where the bytes of a revision come from.
//!
//! The index knows which revision holds a key's value; the bytes are in the store's segments. This
//! trait is the seam between the two: the store implements it over files, [`MemoryValues`] over a
//! map, for tests and the simulator.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;
use types::Revision;

use crate::{Change, SealedBatch};

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Only what is in memory; anything else is [`ReadError::WouldBlock`].
    No,
    /// Block the calling thread until the bytes are there.
    Yes,
}

/// Why a value could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is not in memory and the caller did not want to wait.
    #[error("the value is not in memory")]
    WouldBlock,
    /// The store has no such revision (any more).
    #[error("revision {0} is gone")]
    Gone(Revision),
    /// The disk failed or the bytes are damaged. The member must stop.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// Values by revision.
pub trait Values: Send + Sync {
    /// Appends the `KeyValue` bytes of each revision to `out`, in the order asked for. On an error
    /// `out` may hold some of them.
    fn get_many(&self, revs: &[Revision], wait: Wait, out: &mut Vec<Bytes>) -> Result<(), ReadError>;

    /// About how many bytes [`get_many`](Self::get_many) would append. Does not wait for the disk.
    fn weigh(&self, revs: &[Revision]) -> Result<u64, ReadError>;

    /// Appends changes in revision order, beginning at `from` and not beyond the transaction
    /// `upto_main`, until about `max_bytes` of records are in `out` (at least one change, if there
    /// is one). Returns where to go on, or nothing when `upto_main` is reached. May wait for the
    /// disk. Changes that the index dropped may or may not be among them.
    fn scan(
        &self,
        from: Revision,
        upto_main: i64,
        max_bytes: usize,
        out: &mut Vec<Change>,
    ) -> Result<Option<Revision>, ReadError>;
}

/// Values in a map: for tests and the simulator, where the disk is not the subject.
#[derive(Debug, Default)]
pub struct MemoryValues {
    changes: RwLock<BTreeMap<Revision, Change>>,
}

impl MemoryValues {
    /// Takes over the changes of a batch.
    pub fn append(&self, batch: &SealedBatch) {
        let changes = batch.changes.iter().map(|change| (change.rev, change.clone()));
        self.changes.write().extend(changes);
    }

    /// Forgets revisions, as rewriting a segment does after a compaction.
    pub fn forget(&self, dropped: &[Revision]) {
        let mut changes = self.changes.write();
        for rev in dropped {
            changes.remove(rev);
        }
    }
}

impl Values for MemoryValues {
    fn get_many(&self, revs: &[Revision], _: Wait, out: &mut Vec<Bytes>) -> Result<(), ReadError> {
        let changes = self.changes.read();
        out.reserve(revs.len());
        for rev in revs {
            out.push(changes.get(rev).ok_or(ReadError::Gone(*rev))?.kv.clone());
        }
        Ok(())
    }

    fn weigh(&self, revs: &[Revision]) -> Result<u64, ReadError> {
        let mut kvs = Vec::new();
        self.get_many(revs, Wait::No, &mut kvs)?;
        Ok(kvs.iter().map(|kv| kv.len() as u64).sum())
    }

    fn scan(
        &self,
        from: Revision,
        upto_main: i64,
        max_bytes: usize,
        out: &mut Vec<Change>,
    ) -> Result<Option<Revision>, ReadError> {
        let mut bytes = 0;
        for (rev, change) in self
            .changes
            .read()
            .range(from..=Revision::new(upto_main, u32::MAX))
        {
            if bytes > 0 && bytes + change.len() as usize > max_bytes {
                return Ok(Some(*rev));
            }
            bytes += change.len() as usize;
            out.push(change.clone());
        }
        Ok(None)
    }
}
