//! What a healthy log does: what comes back, and what the disk is asked to do for it.

mod common;

use std::sync::Arc;

use common::*;
use env::{
    Disk, SimDisk,
    sim::{Keep, Op},
};
use proto::{raftpb, walpb};
use wal::{OpenError, Options, Wal, WriteError};

const LARGE: Options = Options {
    segment_bytes: 64 << 10,
    files_max: 5,
};

#[test]
fn a_new_log_begins_with_etcds_bytes_and_is_empty() {
    let disk = disk();
    drop(create(&disk, LARGE));
    let path = dir().join("0000000000000000-0000000000000000.wal");
    assert_eq!(segments(&disk), std::slice::from_ref(&path));
    let bytes = disk.contents(&path);
    assert_eq!(bytes[..12], [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 0x10, 0]);
    assert_eq!(bytes.len() as u64, LARGE.segment_bytes);
    assert!(Wal::exists(&disk, dir()));

    let (_, replay) = open(&disk, LARGE).unwrap();
    assert_eq!(replay.metadata, METADATA);
    assert_eq!(
        (replay.hard_state, replay.entries, replay.repaired),
        (state(0, 0, 0), vec![], None)
    );
    assert!(
        Wal::create(Arc::new(disk.clone()), dir(), METADATA, LARGE).is_err(),
        "there is one already"
    );
}

#[test]
fn a_log_may_be_made_in_a_folder_that_is_empty() {
    let disk = disk();
    disk.create_dir_all(dir()).unwrap();
    drop(create(&disk, LARGE));
    assert!(open(&disk, LARGE).is_ok());

    let disk = common::disk();
    disk.create_dir_all(&dir().join("other")).unwrap();
    assert!(
        Wal::create(Arc::new(disk), dir(), METADATA, LARGE).is_err(),
        "what is there stays"
    );
}

/// Changing these bytes means that older logs, and Go's, are not read any more.
#[test]
fn the_bytes_of_a_log_are_pinned() {
    let disk = disk();
    let mut wal = create(&disk, LARGE);
    wal.append(
        &[raftpb::Entry {
            term: 2,
            index: 1,
            data: Some("hi".into()),
            r#type: 0,
        }],
        Some(&state(2, 3, 0)),
    );
    wal.sync().unwrap();
    wal.append(&[], Some(&state(2, 3, 1)));
    wal.sync().unwrap();
    let pinned = [
        "04000000000000840804100000000000", // checksum
        "1f00000000000081080110dfaeeba20c1a156d656d6265722031206f6620636c7573746572203100", // metadata
        "0e00000000000082080510a7ee91d7011a04080010000000", // snapshot (0, 0)
        "1000000000000000080410a7ee91d7011a06500000000000", // mark
        "1400000000000084080210baebccb40a1a0a0800100218012202686900000000", // entry
        "1000000000000000080310e0bf95d0021a06080210031800", // hard state
        "1000000000000000080410e0bf95d0021a06a00000000000", // mark
        "1000000000000000080310b686e6b3061a06080210031801", // hard state
    ];
    let bytes = disk.contents(&segments(&disk)[0]);
    let hex: Vec<String> = common::frames(&bytes)
        .windows(2)
        .map(|at| bytes[at[0]..at[1]].iter().map(|b| format!("{b:02x}")).collect())
        .collect();
    assert_eq!(hex, pinned);
}

#[test]
fn entries_and_state_come_back_over_many_segments_and_restarts() {
    let disk = disk();
    let mut wal = create(&disk, OPTIONS);
    let mut entries: Vec<raftpb::Entry> = Vec::new();
    for round in 1..=40 {
        let new: Vec<_> = (0..round % 4)
            .map(|i| entry(round, entries.len() as u64 + 1 + i, 300 * i as usize))
            .collect();
        entries.extend(new.clone());
        let state = state(round, 3, entries.len() as u64);
        wal.append(&new, Some(&state));
        wal.sync().unwrap();
        if round % 7 == 0 {
            wal.preparer().prepare().unwrap();
        }
        if round % 5 == 0 {
            drop(wal);
            let (reopened, replay) = open(&disk, OPTIONS).unwrap();
            assert_eq!((replay.entries, replay.hard_state), (entries.clone(), state));
            wal = reopened;
        }
    }
    assert!(segments(&disk).len() > 2);
}

#[test]
fn every_kind_of_entry_comes_back_as_it_was() {
    let disk = disk();
    let mut wal = create(&disk, LARGE);
    let of = |index, r#type, data: Option<&'static [u8]>| raftpb::Entry {
        r#type,
        term: u64::MAX,
        index,
        data: data.map(Into::into),
    };
    let entries = [
        of(1, 0, None),
        of(2, 0, Some(b"")),
        of(3, 1, Some(b"change")),
        of(4, 2, Some(b"")),
        of(5, 0, Some(b"x")),
    ];
    wal.append(&entries, Some(&state(u64::MAX, u64::MAX, 5)));
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(open(&disk, LARGE).unwrap().1.entries, entries);
}

#[test]
fn an_entry_replaces_the_one_at_its_index_and_all_behind() {
    let disk = disk();
    let mut wal = create(&disk, LARGE);
    wal.append(
        &[entry(1, 1, 9), entry(1, 2, 9), entry(1, 3, 9)],
        Some(&state(1, 0, 1)),
    );
    wal.append(&[entry(2, 2, 5)], Some(&state(2, 0, 1)));
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(
        open(&disk, LARGE).unwrap().1.entries,
        [entry(1, 1, 9), entry(2, 2, 5)]
    );
}

#[test]
fn all_that_waits_costs_one_write_and_one_sync() {
    let disk = disk();
    drop(create(&disk, LARGE));
    let (mut wal, _) = open(&disk, LARGE).unwrap();
    let path = segments(&disk).remove(0);
    let (_, ops) = disk.traced(|| {
        wal.append(&[entry(1, 1, 900), entry(1, 2, 900)], Some(&state(1, 1, 0)));
        wal.append(&[entry(1, 3, 900)], None);
        wal.save_snapshot(&snapshot(0, 0));
    });
    assert_eq!(ops, [], "appending touches no disk");
    assert!(wal.must_sync());
    let (synced, ops) = disk.traced(|| wal.sync().unwrap());
    assert!(synced.durable && synced.bytes > 2700);
    assert!(
        matches!(&ops[..], [Op::Write { len, .. }, Op::SyncData(file)] if *len == synced.bytes && *file == path)
    );
    assert_eq!(
        disk.traced(|| wal.sync().unwrap()),
        (Default::default(), vec![]),
        "nothing to do"
    );
}

#[test]
fn only_what_must_be_durable_is_synced() {
    let disk = disk();
    let mut wal = create(&disk, LARGE);
    let syncs = |wal: &mut Wal, entries: &[raftpb::Entry], state: raftpb::HardState| {
        wal.append(entries, Some(&state));
        let must = wal.must_sync();
        let (synced, ops) = disk.traced(|| wal.sync().unwrap());
        assert_eq!(must, synced.durable);
        assert_eq!(must, ops.iter().any(|op| matches!(op, Op::SyncData(_))));
        must
    };
    assert!(syncs(&mut wal, &[], state(1, 0, 0)), "a new term");
    assert!(syncs(&mut wal, &[], state(1, 7, 0)), "a vote");
    assert!(syncs(&mut wal, &[entry(1, 1, 3)], state(1, 7, 0)), "an entry");
    assert!(!syncs(&mut wal, &[], state(1, 7, 1)), "a commit index");
    assert!(!syncs(&mut wal, &[], state(1, 7, 1)), "nothing new");
    wal.save_snapshot(&snapshot(1, 1));
    assert!(syncs(&mut wal, &[], state(1, 7, 1)), "a snapshot");
}

#[test]
fn a_segment_gets_its_name_after_its_content_is_durable() {
    let disk = disk();
    let mut wal = create(&disk, OPTIONS);
    wal.preparer().prepare().unwrap();
    assert!(wal.preparer().is_ready());
    wal.append(&[entry(1, 1, 5000)], Some(&state(1, 1, 0)));
    wal.sync().unwrap();
    assert_eq!(
        segments(&disk).len(),
        1,
        "the next one appears with its first entry"
    );

    wal.append(&[entry(1, 2, 10)], None);
    let (_, ops) = disk.traced(|| wal.sync().unwrap());
    let tmp = dir().join("next-0.tmp");
    let path = dir().join("0000000000000001-0000000000000002.wal");
    assert!(matches!(&ops[0], Op::Write { path, offset: 0, .. } if *path == tmp));
    assert_eq!(
        ops[1..],
        [
            Op::SyncData(tmp.clone()),
            Op::Rename {
                from: tmp,
                to: path.clone()
            },
            Op::SyncDir(dir().into())
        ]
    );
    assert_eq!(segments(&disk)[1], path);
}

#[test]
fn released_segments_are_removed_down_to_the_limit_and_the_rest_still_opens() {
    let disk = disk();
    let mut wal = create(&disk, OPTIONS);
    for index in 1..=40 {
        wal.append(&[entry(1, index, 1000)], Some(&state(1, 1, index)));
        wal.sync().unwrap();
    }
    assert_eq!(wal.release_to(0).unwrap(), 0, "all of it is needed");
    wal.save_snapshot(&snapshot(30, 1));
    wal.sync().unwrap();
    let all = segments(&disk);
    assert!(all.len() > 6);
    let (removed, ops) = disk.traced(|| wal.release_to(30).unwrap());
    assert!(removed > 1);
    let one_by_one = all[..removed]
        .iter()
        .flat_map(|path| [Op::Remove(path.clone()), Op::SyncDir(dir().into())]);
    assert_eq!(ops, one_by_one.collect::<Vec<_>>(), "a crash leaves no gap");
    assert_eq!(segments(&disk), all[removed..]);

    wal.save_snapshot(&snapshot(40, 1));
    wal.sync().unwrap();
    assert!(wal.release_to(40).unwrap() > 0);
    assert_eq!(segments(&disk).len(), OPTIONS.files_max);
    drop(wal);

    assert_eq!(
        Wal::snapshots(&disk, dir()).unwrap(),
        [snapshot(30, 1), snapshot(40, 1)]
    );
    assert!(matches!(
        open(&disk, OPTIONS),
        Err(OpenError::Missing { index: 0, .. })
    ));
    let disk = Arc::new(disk);
    let (_, replay) = Wal::open(disk.clone(), dir(), &snapshot(40, 1), OPTIONS).unwrap();
    assert_eq!((replay.entries, replay.hard_state), (vec![], state(1, 1, 40)));
}

#[test]
fn the_segment_that_holds_the_released_index_is_kept() {
    let disk = disk();
    let options = Options {
        files_max: 1,
        ..OPTIONS
    };
    let mut wal = create(&disk, options);
    for index in 1..=5 {
        wal.append(&[entry(1, index, 5000)], Some(&state(1, 1, index))); // a segment each
        wal.sync().unwrap();
    }
    wal.save_snapshot(&snapshot(3, 1));
    wal.sync().unwrap();
    assert_eq!(wal.release_to(3).unwrap(), 2);
    drop(wal);
    let (_, replay) = Wal::open(Arc::new(disk), dir(), &snapshot(3, 1), options).unwrap();
    assert_eq!(replay.entries, [entry(1, 4, 5000), entry(1, 5, 5000)]);
}

#[test]
fn a_log_continues_behind_a_snapshot_that_came_from_elsewhere() {
    let disk = disk();
    let mut wal = create(&disk, OPTIONS);
    wal.append(&[entry(1, 1, 10)], Some(&state(1, 0, 1)));
    wal.save_snapshot(&snapshot(500, 3));
    wal.append(&[entry(3, 501, 10)], Some(&state(3, 0, 500)));
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(
        Wal::snapshots(&disk, dir()).unwrap(),
        [walpb::Snapshot::default(), snapshot(500, 3)]
    );
    let disk = Arc::new(disk);
    let (_, replay) = Wal::open(disk.clone(), dir(), &snapshot(500, 3), OPTIONS).unwrap();
    assert_eq!(replay.entries, [entry(3, 501, 10)]);
    let from_the_start = Wal::open(disk, dir(), &walpb::Snapshot::default(), OPTIONS)
        .err()
        .unwrap();
    assert!(
        from_the_start
            .to_string()
            .contains("entry 501 is there, but the one before it is not")
    );
}

#[test]
fn a_segment_behind_a_snapshot_from_elsewhere_is_named_after_its_first_entry() {
    let a_segment_each = Options {
        segment_bytes: 1,
        files_max: 0,
    };
    for restart in [false, true] {
        let disk = disk();
        let mut wal = create(&disk, a_segment_each);
        wal.save_snapshot(&snapshot(500, 3));
        wal.append(&[], Some(&state(3, 0, 500)));
        wal.sync().unwrap();
        if restart {
            drop(wal);
            wal = Wal::open(Arc::new(disk.clone()), dir(), &snapshot(500, 3), a_segment_each)
                .unwrap()
                .0;
            wal.append(&[], Some(&state(4, 0, 500)));
            wal.sync().unwrap();
        }
        wal.append(&[entry(4, 501, 10)], None);
        wal.sync().unwrap();
        let last = segments(&disk).pop().unwrap();
        assert_eq!(last, dir().join("0000000000000002-00000000000001f5.wal"));
    }
}

#[test]
fn what_was_made_ahead_of_time_and_not_used_is_removed_at_the_next_start() {
    let disk = disk();
    let wal = create(&disk, LARGE);
    wal.preparer().prepare().unwrap();
    assert_eq!(disk.list(dir()).unwrap().len(), 2);
    drop(wal);
    open(&disk, LARGE).unwrap();
    assert_eq!(disk.list(dir()).unwrap().len(), 1);
}

#[test]
fn a_snapshot_ahead_of_the_commit_index_is_not_offered() {
    let disk = disk();
    let mut wal = create(&disk, LARGE);
    wal.save_snapshot(&snapshot(9, 1));
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(
        Wal::snapshots(&disk, dir()).unwrap(),
        [walpb::Snapshot::default()]
    );
}

#[test]
fn what_a_restarted_process_finds_is_durable_before_it_is_believed() {
    let disk = disk();
    let mut wal = create(&disk, LARGE);
    wal.append(&[entry(1, 1, 10)], Some(&state(1, 1, 0)));
    wal.sync().unwrap();
    wal.append(&[], Some(&state(1, 1, 1)));
    assert!(!wal.sync().unwrap().durable);
    drop(wal); // killed: the write is in the page cache only
    assert_eq!(open(&disk, LARGE).unwrap().1.hard_state.commit, 1);
    assert_eq!(
        open(&disk.after_crash(Keep::None), LARGE)
            .unwrap()
            .1
            .hard_state
            .commit,
        1
    );
}

#[test]
fn a_log_is_open_once() {
    let disk = disk();
    let wal = create(&disk, LARGE);
    assert!(matches!(open(&disk, LARGE), Err(OpenError::Locked { .. })));
    drop(wal);
    assert!(open(&disk, LARGE).is_ok());
}

#[test]
fn a_log_that_does_not_fit_its_snapshot_is_refused() {
    let disk = disk();
    drop(create(&disk, LARGE));
    for start in [snapshot(5, 1), snapshot(0, 1)] {
        let refused = Wal::open(Arc::new(disk.clone()), dir(), &start, LARGE)
            .err()
            .unwrap();
        assert!(
            matches!(refused, OpenError::NoSnapshot { index, term } if (index, term) == (start.index, start.term))
        );
    }
    let nowhere = Wal::open(Arc::new(SimDisk::new()), dir(), &snapshot(5, 1), LARGE)
        .err()
        .unwrap();
    assert!(matches!(nowhere, OpenError::Io { .. }));
}

#[test]
fn the_first_failure_is_fatal_and_confirmed_entries_survive_it() {
    for fail in [(|disk: &SimDisk| disk.fail_sync(1)) as fn(&SimDisk), |disk| {
        disk.set_capacity(Some(OPTIONS.segment_bytes + 1000))
    }] {
        let disk = disk();
        let mut wal = create(&disk, OPTIONS);
        wal.append(&[entry(1, 1, 100)], Some(&state(1, 1, 0)));
        wal.sync().unwrap();
        fail(&disk);
        wal.append(&[entry(1, 2, 8000)], None);
        assert!(matches!(wal.sync(), Err(WriteError::Io(_))));
        wal.append(&[entry(1, 3, 1)], None);
        assert!(matches!(wal.sync(), Err(WriteError::Stopped)));

        let disk = disk.after_crash(Keep::All);
        assert_eq!(open(&disk, OPTIONS).unwrap().1.entries, [entry(1, 1, 100)]);
    }
}

#[test]
fn no_room_for_the_next_segment_is_no_harm_yet() {
    let disk = disk();
    let mut wal = create(&disk, OPTIONS);
    disk.set_capacity(Some(OPTIONS.segment_bytes + 10));
    assert!(wal.preparer().prepare().is_err());
    assert_eq!(disk.list(dir()).unwrap().len(), 1, "nothing is left lying about");
    wal.append(&[entry(1, 1, 100)], Some(&state(1, 1, 0)));
    wal.sync().unwrap();
}

/// A snapshot from the leader replaces a log that went another way. What it held behind the snapshot's
/// index is still in the file, in front of the record.
#[test]
fn entries_of_a_log_that_a_snapshot_has_replaced_do_not_keep_it_from_opening() {
    let disk = disk();
    let mut wal = create(&disk, LARGE);
    let entries: Vec<_> = (1..=12).map(|index| entry(2, index, 10)).collect();
    wal.append(&entries, Some(&state(2, 0, 1)));
    wal.sync().unwrap();
    let snapshot = walpb::Snapshot {
        index: 9,
        term: 5,
        conf_state: None,
    };
    wal.save_snapshot(&snapshot);
    wal.append(&[entry(5, 10, 10)], Some(&state(5, 0, 9)));
    wal.sync().unwrap();
    drop(wal);
    let (_, replay) = Wal::open(Arc::new(disk), dir(), &snapshot, LARGE).unwrap();
    assert_eq!(replay.entries, [entry(5, 10, 10)]);
}
