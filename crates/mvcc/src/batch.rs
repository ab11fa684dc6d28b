//! A batch of changes in its final on-disk bytes.
//!
//! Applying entries appends records to one buffer, each value copied once. Sealing adds the commit
//! record and gives the buffer away: the store writes it as it is, readers share slices of it.

use bytes::{Bytes, BytesMut};
use proto::storepb::Commit;
use types::Revision;

use crate::record::{self, HEADER_LEN};
use crate::{KvFields, Table, TableChange};

/// One change of one key: a put or a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the history.
    pub rev: Revision,
    /// Whether the key ended here.
    pub tombstone: bool,
    /// `mvccpb.KeyValue`; of a tombstone only the key.
    pub kv: Bytes,
    /// Where its record starts: in the bytes of its batch, or in whatever it was read from.
    pub offset: u64,
}

impl Change {
    /// Bytes of its whole record, header included.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u32 {
        (HEADER_LEN + self.kv.len()) as u32
    }
}

/// Changes that are applied but not yet handed to the store.
#[derive(Debug, Default)]
pub struct Batch {
    arena: BytesMut,
    /// In revision order, since changes are appended as they happen.
    changes: Vec<Pending>,
    tables: Vec<TableSpan>,
    digest: Digest,
}

/// A fold over words: one word that differs makes another number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Spreads what is in the high bits over all, since digests are summed up.
    pub(crate) fn finish(self) -> u64 {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ mixed >> 32
    }
}

/// Where a change's record is in the arena.
#[derive(Clone, Copy, Debug)]
struct Pending {
    rev: Revision,
    tombstone: bool,
    start: usize,
    end: usize,
}

/// Where a table change's record is in the arena, and how it splits.
#[derive(Clone, Copy, Debug)]
struct TableSpan {
    table: Table,
    key: usize,
    value: usize,
    end: usize,
    deleted: bool,
}

impl Batch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.arena.is_empty()
    }

    /// Bytes of the records so far.
    pub fn len(&self) -> usize {
        self.arena.len()
    }

    /// Changes so far.
    pub fn count(&self) -> usize {
        self.changes.len()
    }

    /// Appends a put. Revisions must rise from change to change.
    pub fn put(&mut self, rev: Revision, kv: &KvFields<'_>) {
        self.change(rev, false, |arena| record::encode_change(arena, rev, false, kv));
    }

    /// Appends a tombstone. Revisions must rise from change to change.
    pub fn tombstone(&mut self, rev: Revision, key: &[u8]) {
        let kv = KvFields::tombstone(key);
        self.change(rev, true, |arena| record::encode_change(arena, rev, true, &kv));
    }

    /// Appends a change that somebody else has made, byte for byte. Revisions must rise from change to
    /// change.
    pub fn copy(&mut self, rev: Revision, tombstone: bool, kv: &[u8]) {
        self.change(rev, tombstone, |arena| {
            record::encode_encoded(arena, rev, tombstone, kv)
        });
    }

    /// Appends a change of a small table; no value means delete.
    pub fn table(&mut self, main: i64, table: Table, key: &[u8], value: Option<&[u8]>) {
        record::encode_table(&mut self.arena, Revision::new(main, 0), table, key, value);
        self.digest_table(table, key, value);
        let end = self.arena.len();
        let value_at = end - value.map_or(0, <[u8]>::len);
        self.tables.push(TableSpan {
            table,
            key: value_at - key.len(),
            value: value_at,
            end,
            deleted: value.is_none(),
        });
    }

    /// `KeyValue` bytes of a change that is still in here.
    pub fn get(&self, rev: Revision) -> Option<&[u8]> {
        let at = self
            .changes
            .binary_search_by_key(&rev, |change| change.rev)
            .ok()?;
        let Pending { start, end, .. } = self.changes[at];
        Some(&self.arena[start + HEADER_LEN..end])
    }

    /// Ends the batch with its commit record and takes it out; a new, empty one is left behind.
    pub fn seal(&mut self, commit: Commit) -> SealedBatch {
        record::encode_commit(&mut self.arena, &commit);
        let bytes = self.arena.split().freeze();
        let changes = self.changes.drain(..).map(|at| Change {
            rev: at.rev,
            tombstone: at.tombstone,
            kv: bytes.slice(at.start + HEADER_LEN..at.end),
            offset: at.start as u64,
        });
        let tables = self.tables.drain(..).map(|at| TableChange {
            table: at.table,
            key: bytes.slice(at.key..at.value),
            value: (!at.deleted).then(|| bytes.slice(at.value..at.end)),
        });
        SealedBatch {
            changes: changes.collect(),
            tables: tables.collect(),
            commit,
            bytes: bytes.clone(),
        }
    }

    /// The digest of what was appended since it was last taken.
    pub(crate) fn take_digest(&mut self) -> Digest {
        std::mem::take(&mut self.digest)
    }

    /// Adds what every member has to agree on. Times of leases depend on a member's settings; members and
    /// versions may have come from another member's folder in another form.
    fn digest_table(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        let value = match table {
            Table::Members | Table::MembersRemoved | Table::Cluster | Table::Meta => return,
            Table::Lease | Table::Alarm => value.map(|_| 0),
            Table::Auth | Table::AuthUsers | Table::AuthRoles => value.map(crc32c::crc32c),
        };
        let value = value.map_or(0, |crc| 1 << 32 | u64::from(crc));
        for word in [u64::from(table as u8), u64::from(crc32c::crc32c(key)), value] {
            self.digest.add(word);
        }
    }

    fn change(&mut self, rev: Revision, tombstone: bool, encode: impl FnOnce(&mut BytesMut)) {
        debug_assert!(self.changes.last().is_none_or(|last| last.rev < rev));
        let start = self.arena.len();
        encode(&mut self.arena);
        // The record's checksum covers revision, kind and content.
        let crc = self.arena[start..]
            .first_chunk()
            .map_or(0, |crc| u32::from_le_bytes(*crc));
        self.digest
            .add((self.arena.len() - start) as u64 ^ u64::from(crc) << 32);
        self.changes.push(Pending {
            rev,
            tombstone,
            start,
            end: self.arena.len(),
        });
    }
}

/// The effects of one or more raft entries, ready to be written.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    /// The records back to back, the commit record last.
    pub bytes: Bytes,
    /// The key changes in it, in revision order.
    pub changes: Vec<Change>,
    /// The table changes in it, in the order they happened.
    pub tables: Vec<TableChange>,
    /// What the commit record says.
    pub commit: Commit,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Content;

    #[test]
    fn a_sealed_batch_reads_back_as_what_went_in() {
        let mut batch = Batch::default();
        for round in 2..4i64 {
            let kv = KvFields {
                key: b"a",
                value: b"value",
                create_rev: 2,
                mod_rev: round,
                version: round - 1,
                lease: 0,
            };
            batch.put(Revision::new(round, 0), &kv);
            batch.tombstone(Revision::new(round, 1), b"gone");
            batch.table(round, Table::Lease, b"12345678", Some(b"lease"));
            batch.table(round, Table::Alarm, b"alarm", None);
            let pending = batch.get(Revision::new(round, 0)).map(KvFields::parse);
            assert_eq!(pending, Some(Ok(kv)));
            assert_eq!(batch.get(Revision::new(round, 2)), None);
            let commit = Commit {
                applied_index: 7,
                revision: round,
                compact_revision: -1,
                ..Default::default()
            };

            let sealed = batch.seal(commit.clone());

            assert!(batch.is_empty() && batch.get(Revision::new(round, 0)).is_none());
            let (mut changes, mut tables, mut at) = (vec![], vec![], 0);
            loop {
                let (content, next) = Content::read(&sealed.bytes, at).unwrap();
                at = next;
                match content {
                    Content::Change(change) => changes.push(change),
                    Content::Table(table) => tables.push(table),
                    Content::Commit(end) => break assert_eq!(end, commit),
                }
            }
            assert_eq!(at, sealed.bytes.len());
            assert_eq!(changes, sealed.changes);
            assert_eq!(tables, sealed.tables);
        }
    }
}
