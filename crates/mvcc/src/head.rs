//! The apply side: where new revisions are made.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::raftpb::ConfState;
use proto::storepb::Commit;
use types::{ErrorKind, Index, Key, KeyRange, LeaseId, Revision, Term};

use crate::range::{Reader, SLICE_KEYS};
use crate::{
    Batch, Cursor, KeyMeta, KvFields, Mvcc, RangeError, RangeOptions, RangeResult, ReadError, SealedBatch,
    Table, Wait,
};

/// Tombstones written to the index under one hold of its lock, so that readers get a turn.
const DELETES_PER_LOCK: usize = 64;

/// The newest state, with one owner: the loop that applies entries.
///
/// What is applied goes into the index at once, where no [`View`](crate::View) sees it yet, and into
/// a pending batch. One round of the apply loop is: apply some entries, [`seal`](Self::seal) the
/// batch, hand it to the store, [`publish`](Mvcc::publish) the revision its commit record names.
pub struct Head {
    mvcc: Arc<Mvcc>,
    batch: Batch,
    /// Main revision after the last finished transaction.
    current: i64,
    compacted: i64,
    /// Changes of the transaction that is open.
    sub: u32,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key's state now.
    pub new: KeyMeta,
    /// Its state before, if it was.
    pub prev: Option<KeyMeta>,
}

impl Head {
    /// `scheduledCompactRev`, the key in [`Table::Meta`] that names the compact revision.
    pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";

    /// Goes on where `mvcc` stands.
    pub fn new(mvcc: Arc<Mvcc>) -> Self {
        let (current, compacted) = (mvcc.current(), mvcc.compacted());
        Head {
            mvcc,
            batch: Batch::default(),
            current,
            compacted,
            sub: 0,
        }
    }

    /// Main revision after everything applied so far.
    pub fn revision(&self) -> i64 {
        self.current
    }

    /// The compact revision after everything applied so far; -1: never compacted.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// What it shares with readers.
    pub fn mvcc(&self) -> &Arc<Mvcc> {
        &self.mvcc
    }

    /// Bytes that wait to be sealed.
    pub fn pending_len(&self) -> usize {
        self.batch.len()
    }

    /// Changes that wait to be sealed.
    pub fn pending_changes(&self) -> usize {
        self.batch.count()
    }

    /// What was applied since it was last asked, as one number: a hash of the changes, and of the entry that
    /// made them and the revision after it.
    pub fn take_digest(&mut self, index: Index, term: Term) -> u64 {
        let mut digest = self.batch.take_digest();
        for word in [index, term, self.current as u64] {
            digest.add(word);
        }
        digest.finish()
    }

    /// Opens a transaction. Its changes share one new revision.
    pub fn begin(&mut self) -> WriteTxn<'_> {
        WriteTxn { head: self }
    }

    /// Sets a key of a small table.
    pub fn table_put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.batch.table(self.current, table, key, Some(value));
    }

    /// Removes a key from a small table.
    pub fn table_delete(&mut self, table: Table, key: &[u8]) {
        self.batch.table(self.current, table, key, None);
    }

    /// Gives up the history below `rev`. The index drops it after the new compact revision is
    /// published, see [`Mvcc::compact_step`].
    pub fn compact(&mut self, rev: i64) -> Result<(), ErrorKind> {
        if rev <= self.compacted {
            return Err(ErrorKind::Compacted);
        }
        if rev > self.current {
            return Err(ErrorKind::FutureRev);
        }
        self.compacted = rev;
        self.table_put(
            Table::Meta,
            Self::SCHEDULED_COMPACT,
            &Revision::new(rev, 0).to_bolt_key(),
        );
        Ok(())
    }

    /// Ends the pending batch: everything applied since the last one, up to the entry at
    /// `applied_index`.
    pub fn seal(&mut self, applied_index: Index, term: Term, conf_state: Option<ConfState>) -> SealedBatch {
        self.batch.seal(Commit {
            applied_index,
            term,
            conf_state,
            revision: self.current,
            compact_revision: self.compacted,
        })
    }
}

/// A modifying transaction. It sees its own changes; nobody else does before they are published.
///
/// It cannot be undone: what may be refused is checked before the first change. Dropping it is
/// finishing it.
#[must_use]
pub struct WriteTxn<'a> {
    head: &'a mut Head,
}

impl WriteTxn<'_> {
    /// Main revision before the transaction.
    pub fn begin_revision(&self) -> i64 {
        self.head.current
    }

    /// Main revision as this transaction sees it now: one more as soon as it changed something.
    pub fn revision(&self) -> i64 {
        self.head.current + i64::from(self.has_changes())
    }

    /// Whether it changed something.
    pub fn has_changes(&self) -> bool {
        self.head.sub > 0
    }

    /// Sets a key. Lease 0 is none.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: LeaseId) -> Put {
        let rev = self.next_revision();
        let (new, prev) = self.head.mvcc.index.write().put(key, rev);
        let KeyMeta {
            create_rev, version, ..
        } = new;
        let kv = KvFields {
            key,
            create_rev,
            mod_rev: rev.main,
            version,
            value,
            lease: lease.0,
        };
        self.head.batch.put(rev, &kv);
        Put { new, prev }
    }

    /// Deletes the keys of a range. Returns them in key order, with what they were.
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<(Key, KeyMeta)> {
        let mut deleted = vec![];
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            let slice = self.live_keys(range, &mut cursor);
            for keys in slice.chunks(DELETES_PER_LOCK) {
                let first = self.head.sub;
                let rev = |nth: usize| Revision::new(self.head.current + 1, first + nth as u32);
                let mut index = self.head.mvcc.index.write();
                for (nth, (key, _)) in keys.iter().enumerate() {
                    index.tombstone(key, rev(nth));
                }
                drop(index);
                for (nth, (key, _)) in keys.iter().enumerate() {
                    self.head.batch.tombstone(rev(nth), key);
                }
                self.head.sub += keys.len() as u32;
            }
            deleted.extend(slice);
        }
        deleted
    }

    /// The key's state.
    pub fn get(&self, key: &[u8]) -> Option<KeyMeta> {
        self.head.mvcc.index.read().get(key, self.revision())
    }

    /// Number of keys in the range.
    pub fn count(&self, range: &KeyRange) -> Result<i64, RangeError> {
        self.reader(self.revision()).count(range, &mut Cursor::default())
    }

    /// Answers a range with all of etcd's rules.
    pub fn range(&self, options: &RangeOptions) -> Result<RangeResult, RangeError> {
        let at = options.at(self.revision(), self.head.compacted)?;
        Ok(RangeResult {
            revision: self.revision(),
            ..self.reader(at).range(options, Wait::Yes)?
        })
    }

    /// `KeyValue` bytes of a change that the index gave out. An error means that this member's data
    /// is damaged.
    pub fn value(&self, rev: Revision) -> Result<Bytes, ReadError> {
        let mut out = Vec::with_capacity(1);
        match self.reader(self.revision()).values(&[rev], Wait::Yes, &mut out) {
            Ok(()) => out.pop().ok_or(ReadError::Gone(rev)),
            Err(RangeError::Read(err)) => Err(err),
            Err(RangeError::Compacted | RangeError::FutureRev | RangeError::Heavy(_)) => {
                Err(ReadError::Gone(rev))
            }
        }
    }

    /// Ends the transaction. Returns the main revision after it: the one before, if it changed
    /// nothing.
    pub fn finish(self) -> i64 {
        self.revision()
    }

    fn next_revision(&mut self) -> Revision {
        let rev = Revision::new(self.head.current + 1, self.head.sub);
        self.head.sub += 1;
        rev
    }

    /// A slice of the range's keys, from where the cursor stands.
    fn live_keys(&self, range: &KeyRange, cursor: &mut Cursor) -> Vec<(Key, KeyMeta)> {
        let mut arena = BytesMut::new();
        let mut found = vec![];
        self.head
            .mvcc
            .index
            .read()
            .walk(range, self.revision(), cursor, SLICE_KEYS, |key, meta| {
                let start = arena.len();
                key.write_to(&mut arena);
                found.push((start..arena.len(), meta));
                std::ops::ControlFlow::Continue(())
            });
        let keys = arena.freeze();
        found
            .into_iter()
            .map(|(at, meta)| (keys.slice(at), meta))
            .collect()
    }

    fn reader(&self, at: i64) -> Reader<'_> {
        Reader {
            mvcc: &self.head.mvcc,
            pending: Some(&self.head.batch),
            at,
        }
    }
}

/// The changes become part of the history whichever way the transaction ends.
impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        self.head.current = self.revision();
        self.head.sub = 0;
    }
}
