//! Power is lost in every operation of a workload, and every disk that may be found then is opened.
//!
//! The oracle is the list of states the log went through, one for each record. What is found must be
//! one of them (a log ends between two records), and not an earlier one than was confirmed.

mod common;

use std::{path::Path, sync::Arc};

use common::*;
use env::{
    Disk, SimDisk,
    sim::{Keep, crash_everywhere},
};
use proto::{raftpb, walpb};
use wal::{OpenError, Options, Replay, Wal};

/// Subsets of what was not synced that are tried at each operation.
const SUBSETS: u64 = 6;

/// A few entries fill a segment.
const OPTIONS: Options = Options {
    segment_bytes: 3 * 512,
    files_max: 2,
};

#[derive(Clone, Default, PartialEq, Debug)]
struct State {
    entries: Vec<raftpb::Entry>,
    hard_state: raftpb::HardState,
    snapshots: Vec<walpb::Snapshot>,
}

/// What the log was told, and how much of it was confirmed.
#[derive(Default)]
struct Oracle {
    created: bool,
    history: Vec<State>,
    confirmed: usize,
}

impl Oracle {
    /// The oracle of a log that does not exist yet.
    fn new() -> Self {
        let mut oracle = Oracle::default();
        oracle.record(|state| state.snapshots.push(walpb::Snapshot::default()));
        oracle
    }

    fn create(&mut self, disk: &SimDisk) -> Option<Wal> {
        let wal = Wal::create(Arc::new(disk.clone()), dir(), METADATA, OPTIONS).ok()?;
        self.created = true;
        Some(wal)
    }

    fn record(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.history.last().cloned().unwrap_or_default();
        change(&mut state);
        self.history.push(state);
    }

    fn append(&mut self, wal: &mut Wal, entries: &[raftpb::Entry], hard_state: raftpb::HardState) {
        wal.append(entries, Some(&hard_state));
        for entry in entries {
            self.record(|state| {
                state.entries.truncate(entry.index as usize - 1);
                state.entries.push(entry.clone());
            });
        }
        self.record(|state| state.hard_state = hard_state);
    }

    fn save_snapshot(&mut self, wal: &mut Wal, snapshot: walpb::Snapshot) {
        wal.save_snapshot(&snapshot);
        self.record(|state| state.snapshots.push(snapshot));
    }

    /// `None` once the power is gone.
    fn sync(&mut self, wal: &mut Wal) -> Option<()> {
        if wal.sync().ok()?.durable {
            self.confirmed = self.history.len() - 1;
        }
        Some(())
    }

    /// Whether what was found is a state at or after the confirmed one.
    fn allows(&self, start: &walpb::Snapshot, replay: &Replay) -> bool {
        self.history[self.confirmed..].iter().any(|state| {
            let behind = state.entries.get(start.index as usize..).unwrap_or_default();
            (behind, state.hard_state) == (&replay.entries, replay.hard_state)
        })
    }
}

/// Appends, conflicts, commits, snapshots and releases over several segments, until the power is gone.
fn mixed_work(disk: &SimDisk, oracle: &mut Oracle) -> Option<()> {
    let mut wal = oracle.create(disk)?;
    let (mut last, mut commit) = (0, 0);
    for round in 1..=12u64 {
        let term = 1 + round / 4;
        if round % 4 == 0 {
            last = commit; // a new leader's entries replace what is not committed
        }
        let lens = [[20, 700], [0, 1300], [513, 64]][(round % 3) as usize];
        let entries: Vec<_> = (1..)
            .zip(lens)
            .map(|(i, len)| entry(term, last + i, len))
            .collect();
        last += entries.len() as u64;
        oracle.append(
            &mut wal,
            &entries,
            raftpb::HardState {
                term,
                vote: round / 4,
                commit,
            },
        );
        if round % 5 != 0 {
            oracle.sync(&mut wal)?;
        }
        commit = last - 1;
        oracle.append(
            &mut wal,
            &[],
            raftpb::HardState {
                term,
                vote: round / 4,
                commit,
            },
        );
        oracle.sync(&mut wal)?;
        if round % 3 == 0 {
            wal.preparer().prepare().ok()?;
        }
        if round % 6 == 0 {
            oracle.save_snapshot(&mut wal, snapshot(commit, term));
            oracle.sync(&mut wal)?;
            wal.release_to(commit).ok()?;
        }
    }
    Some(())
}

/// Hardly anything but commit indexes, which are written without a sync, over several segments.
fn commit_only_work(disk: &SimDisk, oracle: &mut Oracle) -> Option<()> {
    let mut wal = oracle.create(disk)?;
    for round in 0..2 {
        let first = round * 30 + 1;
        let entries: Vec<_> = (first..first + 30).map(|index| entry(1, index, 0)).collect();
        oracle.append(&mut wal, &entries, state(1, 1, first - 1));
        oracle.sync(&mut wal)?;
        for commit in first..first + 30 {
            oracle.append(&mut wal, &[], state(1, 1, commit));
            oracle.sync(&mut wal)?;
        }
    }
    Some(())
}

/// Starts from the newest snapshot the log knows, as a member does.
fn recover(disk: &SimDisk) -> Result<(Wal, walpb::Snapshot, Replay), OpenError> {
    let start = Wal::snapshots(disk, dir())?.pop().unwrap_or_default();
    let (wal, replay) = Wal::open(Arc::new(disk.clone()), dir(), &start, OPTIONS)?;
    Ok((wal, start, replay))
}

fn check(oracle: &Oracle, disk: &SimDisk) {
    if !Wal::exists(disk, dir()) {
        assert!(!oracle.created, "the log is gone");
        create(disk, OPTIONS);
        return;
    }
    let (wal, start, replay) = recover(disk).unwrap();
    assert!(
        oracle.allows(&start, &replay),
        "not a state of the log: {start:?} {replay:?}"
    );
    let newest = oracle.history[oracle.confirmed].snapshots.last().unwrap();
    assert!(start.index >= newest.index, "a confirmed snapshot is forgotten");
    drop(wal);

    let files = disk.files();
    let (mut wal, again, second) = recover(disk).unwrap();
    assert_eq!(
        (again, second),
        (
            start.clone(),
            Replay {
                repaired: None,
                ..replay.clone()
            }
        )
    );
    assert!(disk.files() == files, "a second recovery changes nothing");

    let last = replay.entries.last().map_or(start.index, |entry| entry.index);
    let more = entry(9, last + 1, 600);
    wal.append(std::slice::from_ref(&more), Some(&state(9, 1, last)));
    wal.sync().unwrap();
    drop(wal);
    let (_, _, grown) = recover(&disk.after_crash(Keep::None)).unwrap();
    assert_eq!(
        grown.entries,
        [replay.entries, vec![more]].concat(),
        "the log goes on"
    );
}

/// Crashes everywhere in `work`, and says how often a torn write was found.
fn crash_everywhere_in(work: fn(&SimDisk, &mut Oracle) -> Option<()>) -> usize {
    let torn = std::cell::Cell::new(0);
    let run = |disk: &SimDisk| {
        let mut oracle = Oracle::new();
        work(disk, &mut oracle);
        oracle
    };
    crash_everywhere(SUBSETS, disk, run, |oracle, disk| {
        check(oracle, &disk);
        let copies = disk
            .files()
            .into_keys()
            .filter(|path| path.extension() == Some("broken".as_ref()));
        torn.set(torn.get() + copies.count());
    });
    torn.get()
}

#[test]
fn whatever_was_confirmed_is_there_after_a_crash_in_any_operation() {
    let torn = crash_everywhere_in(mixed_work);
    assert!(torn > 20, "torn writes must occur for this to mean something");
}

#[test]
fn commit_indexes_that_were_not_synced_never_keep_a_log_from_opening() {
    assert!(crash_everywhere_in(commit_only_work) > 20);
}

#[test]
fn recovery_itself_may_be_interrupted_anywhere() {
    let disk = disk();
    let mut oracle = Oracle::new();
    let mut wal = oracle.create(&disk).unwrap();
    oracle.append(&mut wal, &[entry(1, 1, 100)], state(1, 1, 0));
    oracle.sync(&mut wal).unwrap();
    let torn = (0..).map(|seed| {
        // The same write on a copy of the disk, with other sectors lost each time.
        let copy = disk.after_crash(Keep::All);
        let (mut wal, _, _) = recover(&copy).unwrap();
        copy.crash_at(2);
        wal.append(&[entry(1, 2, 600), entry(1, 3, 600)], Some(&state(1, 1, 1)));
        wal.sync().unwrap_err();
        copy.after_crash(Keep::Subset(seed))
    });
    oracle.append(&mut wal, &[entry(1, 2, 600), entry(1, 3, 600)], state(1, 1, 1));
    for image in torn.take(8) {
        crash_everywhere(
            3,
            || image.after_crash(Keep::All),
            |disk| drop(recover(disk)),
            |(), disk| check(&oracle, &disk),
        );
    }
}

#[test]
fn the_folder_of_a_new_log_appears_as_a_whole() {
    crash_everywhere(
        SUBSETS,
        disk,
        |disk| Wal::create(Arc::new(disk.clone()), dir(), METADATA, OPTIONS).is_ok(),
        |created, disk| {
            assert_eq!(disk.exists(dir()), Wal::exists(&disk, dir()));
            assert!(disk.exists(dir()) || !created);
            if disk.exists(dir()) {
                assert_eq!(recover(&disk).unwrap().2.metadata, METADATA);
            }
            assert!(disk.list(Path::new("/data")).unwrap().len() <= 2);
        },
    );
}

#[test]
fn a_founders_log_is_there_with_its_first_entries_or_not_at_all() {
    let entries = [entry(1, 1, 700), entry(1, 2, 700)];
    let founded = |disk: &SimDisk| {
        let shared: std::sync::Arc<dyn env::Disk> = std::sync::Arc::new(disk.clone());
        Wal::create_with(shared, dir(), METADATA, &entries, Some(&state(1, 0, 2)), OPTIONS).is_ok()
    };
    let (before, after) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    crash_everywhere(SUBSETS, disk, founded, |founded, disk| {
        if !Wal::exists(&disk, dir()) {
            assert!(!founded, "what was confirmed is gone");
            before.set(before.get() + 1);
            return;
        }
        let (_, replay) = open(&disk, OPTIONS).expect("a log that is there opens");
        assert_eq!(replay.entries, entries);
        assert_eq!(replay.hard_state, state(1, 0, 2));
        after.set(after.get() + 1);
    });
    assert!(before.get() > 0 && after.get() > 0);
}
