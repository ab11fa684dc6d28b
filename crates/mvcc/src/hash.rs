//! HashKV: one number for the history, equal on members that hold the same.
//!
//! CRC-32C over the text `key` (the name of etcd's bucket), then over each change's key in that
//! bucket and its `KeyValue` bytes, in revision order. Members compact at their own pace, so what a
//! compaction may drop is left out whether or not it is gone already. Of the changes up to the
//! compact revision those count that are still current at the hashed revision; changes above all
//! count.
//!
//! Two oddities of etcd are part of the number:
//! * a tombstone at exactly the compact revision does not count: releases differ in keeping it;
//! * if nothing at all lives at the hashed revision, every change counts that the compaction kept.
//!
//! A compaction is also a good time to hash: every member does it at the same revision. The last few
//! of those hashes are remembered and answer a later question for their revision, so that members
//! can be compared long after the history in question is gone.

use std::ops::ControlFlow;

use parking_lot::Mutex;
use types::{KeyRange, Revision};

use crate::range::SLICE_KEYS;
use crate::{Change, Cursor, KeyIndex, KvRef, Mvcc, RangeError, ReadError};

/// The name of the bucket the keys are in.
const BUCKET: &[u8] = b"key";

/// Bytes of history read at a time.
const SLICE_BYTES: usize = 1 << 20;

/// Changes looked up in the index under one hold of its lock.
const CHANGES_PER_LOCK: usize = 64;

/// Compactions whose hash is remembered, as many as etcd does.
const COMPACTIONS_MAX: usize = 10;

/// A hash, and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// The main revision up to which changes are in it.
    pub revision: i64,
    /// The compact revision below which superfluous changes are not; -1: never compacted.
    pub compact_revision: i64,
}

/// The hashes made at the last compactions, oldest first.
#[derive(Debug, Default)]
pub(crate) struct CompactionHashes(Mutex<Vec<HashKv>>);

impl CompactionHashes {
    fn of(&self, revision: i64) -> Option<HashKv> {
        self.0
            .lock()
            .iter()
            .copied()
            .find(|hash| hash.revision == revision)
    }

    /// Forgets all: the history is another one from now on.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    fn remember(&self, hash: HashKv) {
        let mut hashes = self.0.lock();
        hashes.push(hash);
        if hashes.len() > COMPACTIONS_MAX {
            hashes.remove(0);
        }
    }
}

impl Mvcc {
    /// Hashes the history up to main revision `revision`; 0 for the current one. For the revision of
    /// one of the last compactions this is the hash of that compaction. Reads all of the history, in
    /// slices that let others go on, and may wait for the disk.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, RangeError> {
        if let Some(hash) = self.hashes.of(revision) {
            return Ok(hash);
        }
        loop {
            let (current, compacted) = (self.current(), self.compacted());
            let revision = if revision == 0 { current } else { revision };
            if revision > current {
                return Err(RangeError::FutureRev);
            }
            if revision < compacted {
                return Err(RangeError::Compacted);
            }
            let dead = !self.lives_something(revision);
            let hash = self.hash(compacted, revision, dead);
            // A compaction that came in between has changed what counts.
            if self.settled_compacted() == compacted {
                return hash;
            }
        }
    }

    /// Hashes the history for the compaction to `revision`, before its first
    /// [`compact_step`](Self::compact_step); the one before was to `previous` and must be carried
    /// out. The hash is remembered.
    pub fn hash_compaction(&self, previous: i64, revision: i64) -> Result<HashKv, RangeError> {
        // etcd asks here what the compaction keeps, and that can be just a tombstone.
        let dead = !self.lives_something(revision) && !self.ends_something(revision)?;
        let hash = self.hash(previous, revision, dead)?;
        self.hashes.remember(hash);
        Ok(hash)
    }

    /// The hashes of the last compactions, newest first.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.hashes.0.lock().iter().rev().copied().collect()
    }

    /// `dead`: nothing lives at `revision`.
    fn hash(&self, compacted: i64, revision: i64, dead: bool) -> Result<HashKv, RangeError> {
        let counts = |index: &KeyIndex, change: &Change| -> Result<bool, ReadError> {
            if change.rev.main > compacted {
                return Ok(true);
            }
            if change.tombstone && (dead || change.rev.main == compacted) {
                return Ok(false);
            }
            let kv = KvRef::parse(&change.kv).map_err(|err| ReadError::Damaged(err.to_string()))?;
            Ok(match dead {
                true => index.retains(kv.key(), change.rev, compacted),
                false => index
                    .get(kv.key(), revision)
                    .is_some_and(|live| live.mod_rev == change.rev),
            })
        };
        let mut hash = crc32c::crc32c(BUCKET);
        let mut next = Some(Revision::default());
        let mut changes = vec![];
        while let Some(from) = next {
            changes.clear();
            next = self.values.scan(from, revision, SLICE_BYTES, &mut changes)?;
            for run in changes.chunks(CHANGES_PER_LOCK) {
                let counted = {
                    let index = self.index.read();
                    run.iter()
                        .map(|change| counts(&index, change))
                        .collect::<Result<Vec<_>, _>>()?
                };
                for (change, _) in run.iter().zip(counted).filter(|(_, counts)| *counts) {
                    hash = crc32c::crc32c_append(hash, &change.rev.to_bolt_key());
                    if change.tombstone {
                        hash = crc32c::crc32c_append(hash, b"t");
                    }
                    hash = crc32c::crc32c_append(hash, &change.kv);
                }
            }
        }
        Ok(HashKv {
            hash,
            revision,
            compact_revision: compacted,
        })
    }

    /// Whether there is any key at `revision`.
    fn lives_something(&self, revision: i64) -> bool {
        let mut cursor = Cursor::default();
        let mut found = false;
        while !cursor.is_done() && !found {
            let index = self.index.read();
            index.walk(&KeyRange::All, revision, &mut cursor, SLICE_KEYS, |_, _| {
                found = true;
                ControlFlow::Break(())
            });
        }
        found
    }

    /// Whether the transaction `main` deleted something.
    fn ends_something(&self, main: i64) -> Result<bool, ReadError> {
        let mut next = Some(Revision::new(main, 0));
        let mut changes = vec![];
        while let Some(from) = next {
            next = self.values.scan(from, main, SLICE_BYTES, &mut changes)?;
            if changes.drain(..).any(|change| change.tombstone) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use types::{KeyRange, LeaseId};

    use super::*;
    use crate::{Head, MemoryValues};

    /// A store whose compactions are carried out at once or not at all.
    struct Store {
        values: Arc<MemoryValues>,
        mvcc: Arc<Mvcc>,
        head: Head,
        lazy: bool,
    }

    impl Store {
        fn new(lazy: bool) -> Self {
            let values = Arc::new(MemoryValues::default());
            let mvcc = Mvcc::new(KeyIndex::default(), values.clone(), Revision::FIRST, -1);
            Store {
                head: Head::new(mvcc.clone()),
                values,
                mvcc,
                lazy,
            }
        }

        fn publish(&mut self) {
            let batch = self.head.seal(1, 1, None);
            self.values.append(&batch);
            self.mvcc
                .publish(batch.commit.revision, batch.commit.compact_revision);
        }

        fn put(&mut self, key: &[u8], value: &[u8]) {
            self.head.begin().put(key, value, LeaseId(0));
            self.publish();
        }

        fn delete(&mut self, key: &'static [u8]) {
            self.head.begin().delete_range(&KeyRange::One(key.into()));
            self.publish();
        }

        fn compact(&mut self, revision: i64) {
            let previous = self.head.compacted();
            self.head.compact(revision).unwrap();
            self.publish();
            self.mvcc.hash_compaction(previous, revision).unwrap();
            let mut cursor = Cursor::default();
            while !cursor.is_done() {
                let step = self.mvcc.compact_step(&mut cursor, 1);
                if !self.lazy {
                    self.values.forget(&step.dropped);
                }
            }
        }

        /// Hash and compact revision at a revision, as HashKV answers.
        fn hash(&self, revision: i64) -> (u32, i64) {
            let hash = self.mvcc.hash_kv(revision).unwrap();
            (hash.hash, hash.compact_revision)
        }
    }

    #[test]
    fn the_numbers_are_those_of_etcd() {
        // What etcd 3.5.30 answered to the same calls.
        for lazy in [false, true] {
            let mut store = Store::new(lazy);
            store.put(b"a", b"1");
            assert_eq!(store.hash(0), (2587454935, -1));
            store.put(b"b", b"1");
            store.put(b"a", b"2");
            assert_eq!(store.hash(0), (3086679940, -1));
            assert_eq!(store.hash(3), (2143169314, -1));
            store.compact(3);
            assert_eq!(store.hash(3), (2143169314, -1), "the hash of the compaction");
            assert_eq!(store.hash(4), (2393049859, 3));
            store.put(b"b", b"2");
            assert_eq!(
                store.hash(5),
                (683967142, 3),
                "b at 3 is kept, but not current at 5"
            );
            store.delete(b"a");
            assert_eq!(store.hash(6), (2933450585, 3));
            store.delete(b"b");
            assert_eq!(
                store.hash(7),
                (2634889157, 3),
                "nothing lives: b at 3 counts again"
            );
            store.compact(6);
            assert_eq!(store.hash(6), (2933450585, 3));
            assert_eq!(store.hash(7), (297942889, 6));
            store.put(b"c", b"1");
            assert_eq!(store.hash(8), (2567154675, 6));
            assert_eq!(store.hash(7), (297942889, 6));
            store.compact(7);
            assert_eq!(store.hash(7), (2647482802, 6), "the compaction keeps a tombstone");
            assert_eq!(store.hash(8), (837611278, 7));
            let mut txn = store.head.begin();
            txn.put(b"x", b"1", LeaseId(0));
            txn.put(b"y", b"2", LeaseId(0));
            txn.delete_range(&KeyRange::One("c".into()));
            txn.finish();
            store.publish();
            assert_eq!(store.hash(9), (2774995136, 7));
            store.compact(9);
            assert_eq!(store.hash(9), (2774995136, 7));
            store.put(b"z", b"1");
            assert_eq!(store.hash(10), (1106090353, 9));
        }
    }

    #[test]
    fn only_readable_revisions_have_a_hash_and_the_last_ten_compactions() {
        let mut store = Store::new(false);
        for main in 2..20i64 {
            store.put(b"a", &main.to_be_bytes());
            store.compact(main);
        }
        assert_eq!(store.mvcc.hash_kv(20), Err(RangeError::FutureRev));
        assert_eq!(store.mvcc.hash_kv(9), Err(RangeError::Compacted));
        assert_eq!(store.mvcc.hash_kv(10).unwrap().compact_revision, 9);
        let kept: Vec<_> = store
            .mvcc
            .compaction_hashes()
            .iter()
            .map(|hash| hash.revision)
            .collect();
        assert_eq!(kept, (10..20).rev().collect::<Vec<_>>());
    }
}
