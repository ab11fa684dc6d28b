//! A store with an apply loop in front of it and a dumb model beside it.
//!
//! What an entry does depends on nothing but its index and the state, as in raft: after a crash the same entries are
//! applied again and must lead to the same history.

#![allow(dead_code, reason = "every test uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use env::Disk;
use mvcc::{Change, Cursor, Head, KvRef, Mvcc, RangeOptions, SealedBatch, Table, Values, Wait};
use proto::raftpb::ConfState;
use proto::storepb::Commit;
use store::{Backlog, OpenError, Options, Recovered, Rewriting, Store, Tables};
use types::{KeyRange, LeaseId, Revision};

pub const DIR: &str = "/member/kv";

/// Segments of a few records, so that a short history has many.
pub fn tiny() -> Options {
    Options {
        replay_from: 0,
        segment_bytes_min: 300,
        segment_bytes_max: 2000,
        tail_bytes: 200,
    }
}

/// The commit of an empty store.
pub fn nothing_done() -> Commit {
    Commit {
        revision: 1,
        compact_revision: -1,
        ..Commit::default()
    }
}

/// Everything that was ever appended.
#[derive(Clone, Default)]
pub struct Model {
    pub changes: Vec<Change>,
    pub commits: Vec<Commit>,
    /// Tables as of each commit.
    pub tables: Vec<Arc<Tables>>,
}

impl Model {
    fn append(&mut self, batch: &SealedBatch) {
        let mut tables = self
            .tables
            .last()
            .map_or_else(Tables::new, |tables| Tables::clone(tables));
        for change in &batch.tables {
            let rows = tables.entry(change.table).or_default();
            match &change.value {
                Some(value) => drop(rows.insert(change.key.clone(), value.clone())),
                None => drop(rows.remove(&change.key)),
            }
        }
        self.changes.extend(batch.changes.iter().cloned());
        self.commits.push(batch.commit.clone());
        self.tables.push(Arc::new(tables));
    }

    /// Forgets what a crash undid.
    pub fn rewind(&mut self, commit: &Commit) {
        let at = self
            .commits
            .partition_point(|c| c.applied_index <= commit.applied_index);
        self.commits.truncate(at);
        self.tables.truncate(at);
        self.changes.retain(|change| change.rev.main <= commit.revision);
    }

    /// The tables as of a commit, without the empty ones.
    pub fn tables_at(&self, commit: &Commit) -> Tables {
        match self.commits.iter().rposition(|c| c == commit) {
            Some(at) => without_empty(&self.tables[at]),
            None => Tables::new(),
        }
    }

    /// The changes that are part of the history at a commit.
    pub fn retained(&self, commit: &Commit) -> Vec<&Change> {
        let compacted = commit.compact_revision;
        let mut kept: BTreeMap<Bytes, Revision> = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.rev.main <= compacted) {
            let gone = change.tombstone && change.rev.main < compacted;
            let key = key_of(change);
            if gone {
                kept.remove(&key)
            } else {
                kept.insert(key, change.rev)
            };
        }
        let is_kept =
            |change: &Change| change.rev.main > compacted || kept.get(&key_of(change)) == Some(&change.rev);
        let upto = self
            .changes
            .partition_point(|change| change.rev.main <= commit.revision);
        self.changes[..upto]
            .iter()
            .filter(|change| is_kept(change))
            .collect()
    }

    /// The `KeyValue`s at a revision, in key order.
    pub fn range_at(&self, main: i64) -> Vec<Bytes> {
        let mut keys = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.rev.main <= main) {
            match change.tombstone {
                true => drop(keys.remove(&key_of(change))),
                false => drop(keys.insert(key_of(change), change.kv.clone())),
            }
        }
        keys.into_values().collect()
    }

    /// Compares everything a store returns at `commit` with what went in. `walked`: whether the index has dropped all
    /// that the compaction allows.
    pub fn check(&self, store: &Store, mvcc: &Arc<Mvcc>, commit: &Commit, walked: bool) {
        assert_eq!(
            (mvcc.current(), mvcc.compacted()),
            (commit.revision, commit.compact_revision)
        );
        for at in [
            commit.revision,
            commit.compact_revision.max(1),
            (commit.revision + commit.compact_revision) / 2,
        ] {
            let options = RangeOptions {
                revision: at.max(1),
                ..RangeOptions::new(KeyRange::All)
            };
            let answer = mvcc.range(&options, Wait::Yes).expect("a revision that is kept");
            assert_eq!(answer.kvs, self.range_at(at), "keys at {at} of {commit:?}");
        }
        let all = self.retained(commit);
        let newer = all
            .iter()
            .filter(|change| change.rev.main > commit.compact_revision);
        let from = Revision::new(commit.compact_revision + 1, 0);
        let scanned = scan(store, from, commit.revision, 150);
        assert!(
            scanned.iter().map(parts).eq(newer.map(|change| parts(change))),
            "the history from {from}"
        );

        let snapshot = store.snapshot().expect("a store that works");
        assert_eq!(snapshot.commit(), commit);
        assert_eq!(without_empty(snapshot.tables()), self.tables_at(commit));
        let changes: Vec<Change> = snapshot
            .changes()
            .map(|change| change.expect("no damage"))
            .collect();
        let sizes = snapshot
            .sizes()
            .map(|size| (size.rev, size.tombstone, size.kv_len));
        assert!(
            sizes.eq(changes
                .iter()
                .map(|change| (change.rev, change.tombstone, change.kv.len())))
        );
        let contains = |change: &&&Change| changes.iter().any(|found| parts(found) == parts(change));
        assert_eq!(
            all.iter().filter(contains).count(),
            all.len(),
            "what is retained is in the snapshot"
        );
        if walked {
            assert_eq!(changes.len(), all.len(), "and nothing else");
            let live: u64 = all.iter().map(|change| u64::from(change.len())).sum();
            let segment_head = 32;
            assert_eq!(store.size_in_use(), segment_head + live);
        }
        store.check();
    }
}

/// A change without its place, which is another in memory and on disk.
fn parts(change: &Change) -> (Revision, bool, &[u8]) {
    (change.rev, change.tombstone, &change.kv)
}

fn key_of(change: &Change) -> Bytes {
    KvRef::parse(&change.kv).expect("a KeyValue").key_bytes()
}

pub fn without_empty(tables: &Tables) -> Tables {
    tables
        .iter()
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(table, rows)| (*table, rows.clone()))
        .collect()
}

/// All of a scan, in pieces.
pub fn scan(store: &Store, mut from: Revision, upto_main: i64, piece: usize) -> Vec<Change> {
    let mut out = vec![];
    loop {
        let before = out.len();
        match store.scan(from, upto_main, piece, &mut out).expect("no damage") {
            Some(next) => from = next,
            None => return out,
        }
        assert!(
            out.len() > before,
            "a scan that is not at its end returns something"
        );
    }
}

/// An apply loop, a store and what they should hold.
pub struct World {
    pub store: Arc<Store>,
    pub mvcc: Arc<Mvcc>,
    pub head: Head,
    pub model: Model,
    /// How far the index has dropped what was compacted.
    pub walk: Cursor,
    pub walked: bool,
    pub keys: u64,
}

impl World {
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<(World, Recovered), OpenError> {
        let (store, recovered) = Store::open(disk, dir, options)?;
        let mvcc = Arc::clone(&recovered.mvcc);
        let head = Head::new(Arc::clone(&mvcc));
        let world = World {
            store,
            mvcc,
            head,
            model: Model::default(),
            walk: Cursor::default(),
            walked: true,
            keys: 12,
        };
        Ok((world, recovered))
    }

    /// The last commit that was appended.
    pub fn commit(&self) -> Commit {
        self.model.commits.last().cloned().unwrap_or_else(nothing_done)
    }

    /// Applies the next `entries` as one batch.
    pub fn apply(&mut self, entries: u64) -> Backlog {
        let first = self.commit().applied_index + 1;
        for index in first..first + entries {
            self.entry(index);
        }
        let conf_state = Some(ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        });
        let batch = self.head.seal(first + entries - 1, 1 + first / 100, conf_state);
        self.model.append(&batch);
        let commit = batch.commit.clone();
        let backlog = self.store.append(batch);
        if commit.compact_revision > self.mvcc.compacted() {
            (self.walk, self.walked) = (Cursor::default(), false);
        }
        self.mvcc.publish(commit.revision, commit.compact_revision);
        backlog
    }

    /// Does what the entry at this index says.
    fn entry(&mut self, index: u64) {
        let dice = Dice(index).roll();
        let mut dice = Dice(dice);
        let key = |n: u64| format!("key/{n:03}");
        match dice.below(20) {
            0..12 => {
                let (keys, puts) = (self.keys, 1 + dice.below(3));
                let mut txn = self.head.begin();
                for _ in 0..puts {
                    let value = vec![b'a' + (index % 26) as u8; dice.below(80) as usize];
                    txn.put(key(dice.below(keys)).as_bytes(), &value, LeaseId(0));
                }
                let _ = txn.finish();
            }
            12..15 => {
                let from = dice.below(self.keys);
                let (start, end) = (key(from), key(from + 1 + dice.below(3)));
                let mut txn = self.head.begin();
                txn.delete_range(&KeyRange::Span(start.into(), end.into()));
                let _ = txn.finish();
            }
            15 | 16 => self
                .head
                .table_put(Table::Lease, &dice.below(5).to_be_bytes(), &index.to_be_bytes()),
            17 => self.head.table_delete(Table::Lease, &dice.below(5).to_be_bytes()),
            18 => drop(self.head.compact(self.head.revision() - dice.below(8) as i64)),
            _ => {}
        }
    }

    /// Drops a slice of what was compacted from the index.
    pub fn walk(&mut self, budget: usize) {
        if !self.walked {
            let step = self.mvcc.compact_step(&mut self.walk, budget);
            self.store.forget(&step.dropped);
            self.walked = step.done;
        }
    }

    pub fn walk_all(&mut self) {
        while !self.walked {
            self.walk(100);
        }
    }

    pub fn sync(&self) {
        self.store.sync_step().expect("a disk that works");
    }

    pub fn rewrite_until_idle(&self) {
        while self.store.rewrite_step(500).expect("a disk that works") != Rewriting::Idle {}
    }

    pub fn check(&self) {
        self.model
            .check(&self.store, &self.mvcc, &self.commit(), self.walked);
    }
}

/// A splitmix64 generator.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}
