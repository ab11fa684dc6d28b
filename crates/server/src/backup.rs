//! Backups: the store as a bbolt file, streamed.
//!
//! A [`Snapshot`] is frozen while the store goes on. Its sizes plan the file, its changes fill it, and the
//! pieces leave as they are made: there is no temporary file and memory stays flat. Behind the last
//! page comes the SHA-256 of everything before it.

use std::collections::BTreeMap;

use bytes::Bytes;
use mvcc::{ReadError, Table};
use proto::raftpb::ConfState;
use serde::Serialize;
use sha2::{Digest, Sha256};
use store::Snapshot;
use types::Revision;

/// Bytes of a piece, as etcd sends them.
const PIECE_BYTES: usize = 32 << 10;

/// The bucket of the keys; all others are small tables.
const KEY_BUCKET: &str = "key";

/// Keys of table meta that name the compact revision: asked for, and carried out.
const SCHEDULED_COMPACT: &str = "scheduledCompactRev";
const FINISHED_COMPACT: &str = "finishedCompactRev";

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
    row("consistent_index", &commit.applied_index.to_be_bytes());
    row("term", &commit.term.to_be_bytes());
    if let Some(conf_state) = &commit.conf_state {
        let json = serde_json::to_vec(&ConfStateJson::from(conf_state));
        row("confState", &json.expect("numbers and booleans are always JSON"));
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

/// A conf state as Go writes it.
#[derive(Serialize)]
struct ConfStateJson<'a> {
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    voters: &'a [u64],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    learners: &'a [u64],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    voters_outgoing: &'a [u64],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    learners_next: &'a [u64],
    auto_leave: bool,
}

impl<'a> From<&'a ConfState> for ConfStateJson<'a> {
    fn from(state: &'a ConfState) -> Self {
        ConfStateJson {
            voters: &state.voters,
            learners: &state.learners,
            voters_outgoing: &state.voters_outgoing,
            learners_next: &state.learners_next,
            auto_leave: state.auto_leave,
        }
    }
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

/// Cuts what is written into pieces and sends them.
struct Pieces<S> {
    send: S,
    pending: Vec<u8>,
    left: u64,
    sha256: Sha256,
}

impl<S: FnMut(u64, Bytes) -> bool> Pieces<S> {
    /// Sends all whole pieces, or everything. `false`: nobody reads any more.
    fn flush(&mut self, everything: bool) -> bool {
        let mut sent = 0;
        while self.pending.len() - sent >= PIECE_BYTES || (everything && sent < self.pending.len()) {
            let piece = &self.pending[sent..self.pending.len().min(sent + PIECE_BYTES)];
            self.sha256.update(piece);
            self.left -= piece.len() as u64;
            sent += piece.len();
            if !(self.send)(self.left, Bytes::copy_from_slice(piece)) {
                return false;
            }
        }
        self.pending.drain(..sent);
        true
    }
}

/// Streams the snapshot: `send` gets each piece with the bytes still to come, then the checksum; it
/// says `false` when nobody reads any more.
pub fn stream(
    snapshot: &Snapshot,
    finished: i64,
    send: impl FnMut(u64, Bytes) -> bool,
) -> Result<(), ReadError> {
    let buckets = Buckets::new(snapshot, finished);
    let mut writer = bolt::Writer::new(buckets.plan(snapshot));
    let mut pieces = Pieces {
        send,
        pending: Vec::new(),
        left: writer.file_len(),
        sha256: Sha256::new(),
    };
    writer.begin(&mut pieces.pending);
    for (name, rows) in &buckets.tables {
        writer.bucket(name, &mut pieces.pending);
        for (key, value) in rows {
            writer.put(key, value, &mut pieces.pending);
        }
        if *name != KEY_BUCKET {
            continue;
        }
        for change in snapshot.changes() {
            let change = change?;
            writer.put(
                &bolt_key(change.rev, change.tombstone),
                &change.kv,
                &mut pieces.pending,
            );
            if !pieces.flush(false) {
                return Ok(());
            }
        }
    }
    writer.finish(&mut pieces.pending);
    if pieces.flush(true) {
        let checksum = pieces.sha256.finalize();
        (pieces.send)(0, Bytes::copy_from_slice(&checksum));
    }
    Ok(())
}

/// CRC-32C over all buckets: names, keys and values, but for what differs between members that are
/// equal. The answer of `Maintenance.Hash`.
pub fn hash(snapshot: &Snapshot, finished: i64) -> Result<u32, ReadError> {
    const OF_ONE_MEMBER: [&[u8]; 3] = [b"consistent_index", b"term", b"storageVersion"];
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
