//! The log of a real etcd, applied here, yields the tables that etcd wrote.
//!
//! The fixture is a single-member cluster of etcd 3.5.30 after puts, deletions, transactions (nested, and
//! refused ones), leases that were revoked, expired and moved, a compaction, alarms, and a learner that was
//! added, updated and removed. Its entries are those of the WAL; its rows those of `snap/db`, without the
//! buckets `meta`, which is about the member's own files, and `auth`.

mod common;

use bytes::Bytes;
use common::Replica;
use machine::membership::{bootstrap_entries, cluster_id, member_id};
use machine::{Effect, Member, Version};
use mvcc::{Cursor, Table};
use prost::Message;
use proto::raftpb::Entry;
use types::{ClusterId, MemberId, Revision};

const FIXTURE: &str = include_str!("fixtures/etcd-3.5.30.txt");

fn entries() -> Vec<Entry> {
    let lines = FIXTURE.lines().filter_map(|line| line.strip_prefix("entry "));
    lines
        .map(|hex| Entry::decode(&from_hex(hex)[..]).unwrap())
        .collect()
}

/// The rows of a bucket, as key and value.
fn rows(bucket: &str) -> Vec<(Bytes, Bytes)> {
    let lines = FIXTURE
        .lines()
        .filter_map(|line| line.strip_prefix("row ")?.strip_prefix(bucket)?.strip_prefix(' '));
    lines
        .map(|line| {
            let (key, value) = line.split_once(' ').unwrap();
            (from_hex(key).into(), from_hex(value).into())
        })
        .collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn replayed(publish_every: usize) -> Replica {
    let mut replica = Replica::new();
    for (n, entry) in entries().iter().enumerate() {
        let applied = replica.apply_entry(entry).unwrap();
        if n % publish_every == 0 {
            replica.publish();
        }
        if let Effect::Compaction(_) = applied.effect {
            replica.publish();
            replica.finish_compaction();
        }
    }
    replica.publish();
    replica
}

#[test]
fn the_tables_are_those_etcd_wrote_byte_for_byte() {
    for publish_every in [1, 5, 1000] {
        let replica = replayed(publish_every);
        for table in [
            Table::Lease,
            Table::Alarm,
            Table::Members,
            Table::MembersRemoved,
            Table::Cluster,
        ] {
            assert_eq!(
                replica.table(table),
                rows(table.name()),
                "bucket {}",
                table.name()
            );
        }
    }
}

#[test]
fn the_history_is_the_one_etcd_wrote_byte_for_byte() {
    let replica = replayed(7);
    let ours = replica.history().into_iter().map(|change| {
        let mut key = change.rev.to_bolt_key().to_vec();
        key.extend(change.tombstone.then_some(b't'));
        (Bytes::from(key), change.kv)
    });
    let etcd: Vec<_> = rows("key");
    assert_eq!(ours.collect::<Vec<_>>(), etcd);
    assert!(Revision::from_bolt_key(&etcd.last().unwrap().0).unwrap().main == replica.head.revision());
}

#[test]
fn what_is_restored_from_the_tables_is_what_was_applied() {
    let replica = replayed(1000);
    let (machine, lessor) = replica.restored();
    assert_eq!(machine, replica.machine);
    assert_eq!(
        Replica::lease_facts(&lessor),
        Replica::lease_facts(&replica.lessor)
    );
    assert_eq!(machine.cluster().version(), Version::parse("3.5.0"));
    assert_eq!(machine.cluster().storage(), Version::parse("3.5.0"));
}

#[test]
fn a_new_cluster_begins_with_the_ids_and_the_entry_etcd_makes_of_the_same_flags() {
    let urls = vec!["http://127.0.0.1:41800".to_string()];
    let id = member_id(&urls, "etcd-cluster", None);
    assert_eq!(id, MemberId(0x26bad3b79f1c0b18));
    assert_eq!(cluster_id([id]), ClusterId(0x5d5a6230e346f398));
    let member = Member {
        id,
        peer_urls: urls,
        name: "m<1>".into(),
        ..Member::default()
    };
    let ours = bootstrap_entries(&[member]);
    assert_eq!(ours, entries()[..1]);
    let hex = FIXTURE
        .lines()
        .find_map(|line| line.strip_prefix("entry "))
        .unwrap();
    assert_eq!(ours[0].encode_to_vec(), from_hex(hex));
}

impl Replica {
    fn finish_compaction(&self) {
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            self.forget(&self.mvcc.compact_step(&mut cursor, 10).dropped);
        }
    }
}
