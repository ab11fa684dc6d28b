//! A snapshot from the leader takes the place of a log that had gone another way.

use std::path::Path;
use std::sync::Arc;

use env::{Disk, SimDisk};
use proto::{raftpb, walpb};
use wal::{Options, Replay, Wal};

fn entry(index: u64, term: u64) -> raftpb::Entry {
    raftpb::Entry {
        term,
        index,
        ..Default::default()
    }
}

/// A log of entries with these terms, then a snapshot at entry 2 of term 2, read from there.
fn read_back(terms: &[u64]) -> Replay {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let options = Options {
        segment_bytes: 4096,
        ..Options::default()
    };
    let dir = Path::new("/wal");
    let mut wal = Wal::create(disk.clone(), dir, b"whose", options).unwrap();
    let entries: Vec<_> = (1..)
        .zip(terms)
        .map(|(index, term)| entry(index, *term))
        .collect();
    wal.append(&entries, None);
    let snapshot = walpb::Snapshot {
        index: 2,
        term: 2,
        conf_state: None,
    };
    wal.save_snapshot(&snapshot);
    wal.sync().unwrap();
    drop(wal);
    Wal::open(disk, dir, &snapshot, options).unwrap().1
}

#[test]
fn entries_that_a_leaders_snapshot_replaced_do_not_come_back() {
    assert_eq!(read_back(&[1, 1, 1]).entries, []);
}

#[test]
fn entries_behind_a_snapshot_of_our_own_stay() {
    assert_eq!(read_back(&[1, 2, 2]).entries, [entry(3, 2)]);
}
