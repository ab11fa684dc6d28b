//! The store as a bbolt file.
//!
//! A [`Snapshot`] is frozen while the store goes on. Its sizes plan the file, its changes fill it, and the
//! pieces leave as they are made.

use std::collections::BTreeMap;

use bytes::Bytes;
use mvcc::{ReadError, Table};
use sha2::{Digest, Sha256};
use store::Snapshot;
use types::Revision;

use crate::conf_state;
use crate::{
    AUTH_REVISION, CONF_STATE, CONSISTENT_INDEX, FINISHED_COMPACT, KEY_BUCKET, SCHEDULED_COMPACT, TERM,
};

/// Bytes of a piece, as etcd sends them.
const PIECE_BYTES: usize = 32 << 10;

/// The auth revision of a store in which nothing about users was changed yet, as it is stored.
const FIRST_AUTH_REVISION: [u8; 8] = 1u64.to_be_bytes();

/// A snapshot's buckets in the order of the file.
struct Buckets {
    tables: BTreeMap<&'static str, BTreeMap<Bytes, Bytes>>,
}

impl Buckets {
    /// `finished`: the compact revision up to which superfluous changes are gone.
    fn new(snapshot: &Snapshot, finished: i64) -> Self {
        let mut tables: BTreeMap<_, _> = Table::ALL
            .iter()
            .map(|table| {
                (
                    table.name(),
                    snapshot.tables().get(table).cloned().unwrap_or_default(),
                )
            })
            .collect();
        tables
            .entry(Table::Meta.name())
            .or_default()
            .extend(meta(snapshot, finished));
        // A Go member that is given this file while it runs takes no row for 0, and would count on from there.
        let auth = tables.entry(Table::Auth.name()).or_default();
        auth.entry(AUTH_REVISION.into())
            .or_insert(Bytes::from_static(&FIRST_AUTH_REVISION));
        tables.insert(KEY_BUCKET, BTreeMap::new());
        Buckets { tables }
    }

    fn plan(&self, snapshot: &Snapshot) -> bolt::Plan {
        let mut plan = bolt::Plan::new();
        for (name, rows) in &self.tables {
            match *name {
                KEY_BUCKET => plan.bucket(
                    name,
                    snapshot
                        .sizes()
                        .map(|size| (key_len(size.tombstone), size.kv_len)),
                ),
                _ => plan.bucket(name, rows.iter().map(|(key, value)| (key.len(), value.len()))),
            }
        }
        plan
    }
}

/// What a Go member keeps in bucket `meta`, of which the store keeps a part in its commit records.
fn meta(snapshot: &Snapshot, finished: i64) -> BTreeMap<Bytes, Bytes> {
    let commit = snapshot.commit();
    let mut rows: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut row = |key: &'static str, value: &[u8]| {
        rows.insert(key.into(), Bytes::copy_from_slice(value));
    };
    row(CONSISTENT_INDEX, &commit.applied_index.to_be_bytes());
    row(TERM, &commit.term.to_be_bytes());
    if let Some(state) = &commit.conf_state {
        row(CONF_STATE, &conf_state::encode(state));
    }
    if commit.compact_revision >= 0 {
        row(
            SCHEDULED_COMPACT,
            &Revision::new(commit.compact_revision, 0).to_bolt_key(),
        );
        let finished = finished.min(commit.compact_revision);
        if finished >= 0 {
            row(FINISHED_COMPACT, &Revision::new(finished, 0).to_bolt_key());
        }
    }
    rows
}

/// Size of a revision as a bbolt key; a tombstone's has a mark behind it.
fn key_len(tombstone: bool) -> usize {
    17 + usize::from(tombstone)
}

fn bolt_key(rev: Revision, tombstone: bool) -> Vec<u8> {
    let mut key = rev.to_bolt_key().to_vec();
    if tombstone {
        key.push(b't');
    }
    key
}

/// A bbolt file to be: its length is known, its bytes are yet to be read from the store.
pub struct Export {
    snapshot: Snapshot,
    buckets: Buckets,
    writer: bolt::Writer,
    len: u64,
}

impl Export {
    /// Plans the file. `finished`: the compact revision up to which superfluous changes are gone.
    pub fn new(snapshot: Snapshot, finished: i64) -> Self {
        let buckets = Buckets::new(&snapshot, finished);
        let writer = bolt::Writer::new(buckets.plan(&snapshot));
        Export {
            len: writer.file_len(),
            snapshot,
            buckets,
            writer,
        }
    }

    /// What is exported.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Bytes of the file.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Writes the file piece by piece; `send` says `false` when nobody wants the rest, and so does this.
    pub fn write(mut self, mut send: impl FnMut(Bytes) -> bool) -> Result<bool, ReadError> {
        let mut pending = Vec::new();
        self.writer.begin(&mut pending);
        for (name, rows) in &self.buckets.tables {
            self.writer.bucket(name, &mut pending);
            for (key, value) in rows {
                self.writer.put(key, value, &mut pending);
            }
            if *name != KEY_BUCKET {
                continue;
            }
            for change in self.snapshot.changes() {
                let change = change?;
                let key = bolt_key(change.rev, change.tombstone);
                self.writer.put(&key, &change.kv, &mut pending);
                if !flush(&mut pending, PIECE_BYTES, &mut send) {
                    return Ok(false);
                }
            }
        }
        self.writer.finish(&mut pending);
        Ok(flush(&mut pending, 1, &mut send))
    }
}

/// Sends what is pending in pieces, while at least `least` bytes of it are left.
fn flush(pending: &mut Vec<u8>, least: usize, send: &mut impl FnMut(Bytes) -> bool) -> bool {
    let mut sent = 0;
    while pending.len() - sent >= least {
        let piece = &pending[sent..pending.len().min(sent + PIECE_BYTES)];
        sent += piece.len();
        if !send(Bytes::copy_from_slice(piece)) {
            return false;
        }
    }
    pending.drain(..sent);
    true
}

/// Streams a backup: `send` gets each piece with the bytes still to come, then the SHA-256 of all of
/// them; it says `false` when nobody reads any more.
pub fn backup(
    snapshot: Snapshot,
    finished: i64,
    mut send: impl FnMut(u64, Bytes) -> bool,
) -> Result<(), ReadError> {
    let export = Export::new(snapshot, finished);
    let mut left = export.len();
    let mut sha256 = Sha256::new();
    let whole = export.write(|piece| {
        sha256.update(&piece);
        left -= piece.len() as u64;
        send(left, piece)
    })?;
    if whole {
        send(0, Bytes::copy_from_slice(&sha256.finalize()));
    }
    Ok(())
}

/// CRC-32C over all buckets: names, keys and values, but for what differs between members that are
/// equal. The answer of `Maintenance.Hash`.
pub fn hash(snapshot: &Snapshot, finished: i64) -> Result<u32, ReadError> {
    const OF_ONE_MEMBER: [&[u8]; 3] = [CONSISTENT_INDEX.as_bytes(), TERM.as_bytes(), b"storageVersion"];
    let buckets = Buckets::new(snapshot, finished);
    let mut crc = 0;
    for (name, rows) in &buckets.tables {
        crc = crc32c::crc32c_append(crc, name.as_bytes());
        for (key, value) in rows {
            if *name == Table::Meta.name() && OF_ONE_MEMBER.contains(&key.as_ref()) {
                continue;
            }
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
        }
        if *name == KEY_BUCKET {
            for change in snapshot.changes() {
                let change = change?;
                crc = crc32c::crc32c_append(crc, &bolt_key(change.rev, change.tombstone));
                crc = crc32c::crc32c_append(crc, &change.kv);
            }
        }
    }
    Ok(crc)
}
