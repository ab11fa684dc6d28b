//! Snapshot files: which one a member starts from, and what happens to the others.

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use env::{Disk, SimDisk, sim::crash_everywhere};
use proto::{raftpb, walpb};
use wal::{Loaded, SnapDir};

fn dir() -> &'static Path {
    Path::new("/snap")
}

fn file(term: u64, index: u64) -> PathBuf {
    dir().join(format!("{term:016x}-{index:016x}.snap"))
}

fn snapshot(term: u64, index: u64) -> raftpb::Snapshot {
    let conf_state = raftpb::ConfState {
        voters: vec![1, 2, 3],
        ..Default::default()
    };
    raftpb::Snapshot {
        data: Some(format!("members at {index}").into()),
        metadata: Some(raftpb::SnapshotMetadata {
            conf_state: Some(conf_state),
            index,
            term,
        }),
    }
}

fn known(snapshots: &[(u64, u64)]) -> Vec<walpb::Snapshot> {
    snapshots
        .iter()
        .map(|&(term, index)| walpb::Snapshot {
            index,
            term,
            conf_state: None,
        })
        .collect()
}

/// A folder with snapshots at (1, 255), (2, 256) and (2, 257), durable.
fn with_three() -> (SimDisk, SnapDir) {
    let disk = SimDisk::new();
    let snap = SnapDir::open(Arc::new(disk.clone()), dir()).unwrap();
    for (term, index) in [(2, 256), (2, 257), (1, 255)] {
        snap.save(&snapshot(term, index)).unwrap();
    }
    disk.settle();
    (disk, snap)
}

fn loaded(snapshot: raftpb::Snapshot) -> Loaded {
    Loaded {
        snapshot: Some(snapshot),
        broken: vec![],
    }
}

#[test]
fn the_newest_snapshot_the_log_knows_is_loaded() {
    let (disk, snap) = with_three();
    assert_eq!(disk.list(dir()).unwrap().len(), 3);
    assert_eq!(
        snap.load_newest(&known(&[(1, 255), (2, 256), (2, 257)])).unwrap(),
        loaded(snapshot(2, 257))
    );
    assert_eq!(
        snap.load_newest(&known(&[(1, 255), (2, 256)])).unwrap(),
        loaded(snapshot(2, 256))
    );
    assert_eq!(
        snap.load_newest(&known(&[(0, 0), (1, 257)])).unwrap(),
        Loaded::default()
    );
    assert_eq!(
        disk.list(dir()).unwrap().len(),
        3,
        "what the log does not know is left alone"
    );
}

#[test]
fn a_broken_snapshot_is_set_aside_and_an_older_one_is_taken() {
    let all = known(&[(1, 255), (2, 256), (2, 257)]);
    let (disk, _) = with_three();
    let len = disk.contents(&file(2, 257)).len();
    for at in 0..len {
        let (disk, snap) = with_three();
        disk.flip_bit(&file(2, 257), at, (at % 8) as u8);
        let found = snap.load_newest(&all).unwrap();
        // A bit above the 32 of the checksum does not count.
        if at == 5 && found == loaded(snapshot(2, 257)) {
            continue;
        }
        assert_eq!(
            found,
            Loaded {
                snapshot: Some(snapshot(2, 256)),
                broken: vec![file(2, 257)]
            },
            "byte {at}"
        );
        assert!(disk.exists(&dir().join("0000000000000002-0000000000000101.snap.broken")));
        assert_eq!(
            snap.load_newest(&all).unwrap(),
            loaded(snapshot(2, 256)),
            "and not looked at again"
        );
    }
    for len in 0..len {
        let (disk, snap) = with_three();
        disk.open(&file(2, 257)).unwrap().set_len(len as u64).unwrap();
        assert_eq!(snap.load_newest(&all).unwrap().snapshot, Some(snapshot(2, 256)));
    }
}

#[test]
fn a_disk_that_can_not_be_read_is_no_broken_snapshot() {
    let (disk, snap) = with_three();
    disk.crash_at(1);
    disk.sync_dir(dir()).unwrap_err();
    assert!(snap.load_newest(&known(&[(2, 257)])).is_err());
}

#[test]
fn only_the_newest_are_kept() {
    let (disk, snap) = with_three();
    disk.create(&dir().join("0000000000000100.snap.db")).unwrap();
    let newest = &snapshot(2, 257).metadata.unwrap();
    assert_eq!(snap.purge(newest, 2).unwrap(), 1);
    assert!(!disk.exists(&file(1, 255)));
    assert_eq!(snap.purge(newest, 0).unwrap(), 1, "one always stays");
    assert_eq!(
        disk.list(dir()).unwrap(),
        [
            "0000000000000002-0000000000000101.snap",
            "0000000000000100.snap.db"
        ]
    );
}

#[test]
fn a_snapshot_that_the_log_may_not_know_does_not_push_out_one_that_it_knows() {
    let (disk, snap) = with_three();
    // (2, 257) is on the disk, and its record was not when power was lost.
    let recorded = &snapshot(2, 256).metadata.unwrap();
    assert_eq!(snap.purge(recorded, 1).unwrap(), 1);
    assert!(!disk.exists(&file(1, 255)));
    assert_eq!(
        snap.load_newest(&known(&[(2, 256)])).unwrap(),
        loaded(snapshot(2, 256))
    );
}

#[test]
fn leftovers_are_removed_at_start() {
    let (disk, _) = with_three();
    disk.create(&dir().join("x.snap.tmp"))
        .unwrap()
        .write_at(&[IoSlice::new(b"half")], 0)
        .unwrap();
    SnapDir::open(Arc::new(disk.clone()), dir()).unwrap();
    assert_eq!(disk.list(dir()).unwrap().len(), 3);
}

#[test]
fn a_snapshot_is_there_or_not_whenever_power_is_lost() {
    let new = snapshot(3, 300);
    crash_everywhere(
        6,
        || with_three().0,
        |disk| {
            SnapDir::open(Arc::new(disk.clone()), dir())
                .and_then(|snap| snap.save(&new))
                .is_ok()
        },
        |saved, disk| {
            let snap = SnapDir::open(Arc::new(disk), dir()).unwrap();
            let found = snap.load_newest(&known(&[(2, 257), (3, 300)])).unwrap();
            assert!(found == loaded(new.clone()) || (!saved && found == loaded(snapshot(2, 257))));
        },
    );
}
