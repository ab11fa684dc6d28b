//! A member's store with a history in it, and what can be seen of it.

#![allow(dead_code, reason = "every test uses a part of it")]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use env::{Disk, SimDisk};
use image::Export;
use mvcc::{Cursor, HashKv, Head, Mvcc, RangeError, RangeOptions, Table, Wait};
use proto::raftpb::ConfState;
use proto::storepb::Commit;
use store::{OpenError, Options, Recovered, Store, Tables};
use types::{KeyRange, LeaseId};

pub const KV: &str = "/member/kv";
pub const DB: &str = "/member/snap/db";

/// A store and the one who writes to it.
pub struct Member {
    pub store: Arc<Store>,
    pub mvcc: Arc<Mvcc>,
    pub head: Head,
    pub index: u64,
}

impl Member {
    pub fn open(disk: &Arc<dyn Disk>) -> (Member, Tables) {
        Self::try_open(disk).unwrap()
    }

    pub fn try_open(disk: &Arc<dyn Disk>) -> Result<(Member, Tables), OpenError> {
        let options = Options {
            segment_bytes_min: 2000,
            segment_bytes_max: 20_000,
            ..Options::default()
        };
        let (store, recovered) = Store::open(disk.clone(), KV, options)?;
        let Recovered {
            mvcc, commit, tables, ..
        } = recovered;
        let head = Head::new(mvcc.clone());
        let index = commit.applied_index;
        Ok((
            Member {
                store,
                mvcc,
                head,
                index,
            },
            tables,
        ))
    }

    /// Ends an entry.
    pub fn commit(&mut self) {
        self.index += 1;
        let conf_state = ConfState {
            voters: vec![1, 2],
            learners: vec![7],
            ..ConfState::default()
        };
        let batch = self.head.seal(self.index, 3, Some(conf_state));
        let commit = batch.commit.clone();
        self.store.append(batch);
        self.mvcc.publish(commit.revision, commit.compact_revision);
    }

    pub fn put(&mut self, key: &str, value: &[u8], lease: i64) {
        self.head.begin().put(key.as_bytes(), value, LeaseId(lease));
        self.commit();
    }

    pub fn delete(&mut self, from: &str, end: &str) {
        let range = KeyRange::from_wire(from.to_owned().into(), end.to_owned().into());
        self.head.begin().delete_range(&range);
        self.commit();
    }

    pub fn compact(&mut self, revision: i64) {
        self.head.compact(revision).unwrap();
        self.commit();
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            let step = self.mvcc.compact_step(&mut cursor, 10);
            self.store.forget(&step.dropped);
        }
    }

    /// Writes what it holds to a bbolt file.
    pub fn export(&self, disk: &dyn Disk, to: &str) {
        disk.create_dir_all(env::parent(Path::new(to))).unwrap();
        let file = disk.create(Path::new(to)).unwrap();
        let export = Export::new(self.store.snapshot().unwrap(), self.mvcc.compacted());
        let (len, mut at) = (export.len(), 0);
        let whole = export.write(|piece| {
            file.write_at(&[IoSlice::new(&piece)], at).unwrap();
            at += piece.len() as u64;
            true
        });
        assert!(whole.unwrap());
        assert_eq!(at, len);
        file.sync_data().unwrap();
        disk.sync_dir(env::parent(Path::new(to))).unwrap();
    }
}

/// A history with everything in it: versions, deleted keys, transactions of many changes, a compaction,
/// leases, rows of every table. `to` puts.
pub fn history(member: &mut Member, rounds: i64) {
    for table in Table::ALL {
        member
            .head
            .table_put(table, table.name().as_bytes(), b"row \x00\xff");
    }
    member.head.table_put(Table::Cluster, b"clusterVersion", b"3.7.0");
    member.head.table_put(Table::Meta, b"storageVersion", b"3.7.0");
    member.commit();
    for round in 0..rounds {
        for key in 0..8 {
            let value = vec![round as u8; (round * 37 % 300) as usize];
            member.put(&format!("key/{key}"), &value, if key % 3 == 0 { 99 } else { 0 });
        }
        if round % 5 == 2 {
            member.delete("key/2", "key/6");
        }
        if round == rounds / 2 {
            member.compact(member.head.revision() - 3);
        }
    }
}

/// All that clients can see.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub commit: Commit,
    pub tables: BTreeMap<Table, BTreeMap<bytes::Bytes, bytes::Bytes>>,
    pub hashes: BTreeMap<i64, HashKv>,
    pub ranges: BTreeMap<i64, Vec<bytes::Bytes>>,
}

pub fn seen(member: &Member) -> Seen {
    let snapshot = member.store.snapshot().unwrap();
    let mut tables = snapshot.tables().clone();
    tables.retain(|_, rows| !rows.is_empty());
    // A file always has this row; without it a store means the same.
    let auth = tables.entry(Table::Auth).or_default();
    auth.entry("authRevision".into())
        .or_insert(bytes::Bytes::copy_from_slice(&1u64.to_be_bytes()));
    let first = member.mvcc.compacted().max(1);
    let revisions = || first..=member.mvcc.current();
    assert!(first == 1 || member.mvcc.hash_kv(first - 1) == Err(RangeError::Compacted));
    let at = |revision| RangeOptions {
        revision,
        ..RangeOptions::new(KeyRange::All)
    };
    Seen {
        commit: snapshot.commit().clone(),
        tables,
        hashes: revisions()
            .map(|revision| (revision, member.mvcc.hash_kv(revision).unwrap()))
            .collect(),
        ranges: revisions()
            .map(|revision| (revision, member.mvcc.range(&at(revision), Wait::Yes).unwrap().kvs))
            .collect(),
    }
}

/// A disk with a bbolt file of some history, and what is in it.
pub fn exported(rounds: i64) -> (SimDisk, Seen) {
    let origin: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let (mut member, _) = Member::open(&origin);
    history(&mut member, rounds);
    given_out(&member)
}

/// A disk with a bbolt file of this member, and what is in it.
pub fn given_out(member: &Member) -> (SimDisk, Seen) {
    let disk = SimDisk::new();
    member.export(&disk, DB);
    disk.create_dir_all(Path::new("/member")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(Path::new("/member")).unwrap();
    (disk, seen(member))
}
