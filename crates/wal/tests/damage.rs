//! The disk gives back something else than was written. A torn end is cut off; everything else is
//! refused with file and offset; nothing makes the log panic or believe what was never written.

mod common;

use std::{io::IoSlice, path::PathBuf};

use common::*;
use env::{Disk, SECTOR, SimDisk, sim::Keep};
use proptest::prelude::*;
use proto::raftpb;
use wal::{Damage, OpenError, Options, Replay, Wal};

const OPTIONS: Options = Options {
    segment_bytes: 6 * 512,
    files_max: 5,
};

/// A log over two segments. The last three records (entries 7 to 9) went to the disk in one write.
fn log() -> SimDisk {
    let disk = disk();
    let mut wal = create(&disk, OPTIONS);
    let batches: [&[(u64, usize)]; 5] = [
        &[(1, 0), (2, 100)],
        &[(3, 1500)],
        &[(4, 1400)],
        &[(5, 900), (6, 700)],
        &[(7, 40), (8, 1100), (9, 21)],
    ];
    for batch in batches {
        let entries: Vec<_> = batch.iter().map(|&(index, len)| entry(1, index, len)).collect();
        let commit = batch[0].0 - 1;
        // The state comes with the first half, so that the last records are entries.
        wal.append(&[], Some(&state(1, 7, commit)));
        wal.append(&entries, None);
        wal.sync().unwrap();
    }
    drop(wal);
    disk.settle();
    assert_eq!(segments(&disk).len(), 2);
    disk
}

/// A copy of `disk` with `bytes` as its last segment.
fn with_last_segment(disk: &SimDisk, bytes: &[u8]) -> SimDisk {
    let copy = disk.after_crash(Keep::All);
    let path = segments(&copy).pop().unwrap();
    copy.create(&path)
        .unwrap()
        .write_at(&[IoSlice::new(bytes)], 0)
        .unwrap();
    copy
}

fn replay(disk: &SimDisk) -> Result<Replay, OpenError> {
    let replay = open(disk, OPTIONS)?.1;
    let second = open(disk, OPTIONS).expect("what was opened once opens again").1;
    assert_eq!(
        second,
        Replay {
            repaired: None,
            ..replay.clone()
        }
    );
    Ok(replay)
}

/// The entries of the log whose record ends at or before `offset` of the last segment.
fn entries_up_to(whole: &Replay, frames: &[usize], offset: usize) -> Vec<raftpb::Entry> {
    let lost = frames[1..].iter().filter(|end| **end > offset).count();
    whole.entries[..whole.entries.len() - lost].to_vec()
}

#[test]
fn a_log_that_was_cut_short_boots_with_the_records_that_are_whole() {
    let disk = log();
    let whole = replay(&disk.after_crash(Keep::All)).unwrap();
    let bytes = disk.contents(&segments(&disk)[1]);
    let frames = frames(&bytes);
    let last_three = frames[frames.len() - 4];
    for cut in last_three..*frames.last().unwrap() {
        let found = replay(&with_last_segment(&disk, &bytes[..cut])).unwrap();
        // Up to 7 bytes of padding may be missing from a record that is whole.
        let expect = [cut, cut.next_multiple_of(8)].map(|cut| entries_up_to(&whole, &frames, cut));
        assert!(expect.contains(&found.entries), "cut at {cut}");
        if let Some(repaired) = found.repaired {
            assert!(frames.contains(&(repaired.offset as usize)) && repaired.offset <= cut as u64);
        }
    }
}

#[test]
fn a_log_whose_end_was_zeroed_boots_at_every_sector_and_loses_nothing_silently_elsewhere() {
    let disk = log();
    let whole = replay(&disk.after_crash(Keep::All)).unwrap();
    let bytes = disk.contents(&segments(&disk)[1]);
    let frames = frames(&bytes);
    let (mut booted, mut refused) = (0, 0);
    for from in frames[frames.len() - 4]..*frames.last().unwrap() {
        let mut zeroed = bytes.clone();
        zeroed[from..].fill(0);
        match replay(&with_last_segment(&disk, &zeroed)) {
            Ok(found) => {
                let expect =
                    [from, from.next_multiple_of(8)].map(|from| entries_up_to(&whole, &frames, from));
                assert!(expect.contains(&found.entries), "zeros from {from}");
                booted += 1;
            }
            Err(OpenError::Damaged { offset, .. }) => {
                assert!(from % SECTOR != 0, "a torn write at {from} is refused");
                let start = frames.iter().rfind(|start| **start <= from).unwrap();
                assert_eq!(offset, *start as u64);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(booted > 0 && refused > 0);
}

#[test]
fn any_sector_of_the_last_write_may_be_missing() {
    let disk = log();
    let bytes = disk.contents(&segments(&disk)[1]);
    let frames = frames(&bytes);
    // The write began with a mark, which the sync before it left due.
    let (from, to) = (frames[frames.len() - 6], *frames.last().unwrap());
    for sector in from.div_ceil(SECTOR)..to.div_ceil(SECTOR) {
        let mut torn = bytes.clone();
        torn[sector * SECTOR..][..SECTOR].fill(0);
        let found = replay(&with_last_segment(&disk, &torn)).unwrap();
        assert!(
            found.entries.len() >= 6 && found.repaired.is_some(),
            "sector {sector}"
        );
    }
}

#[test]
fn a_sector_lost_in_front_of_something_synced_is_damage() {
    let disk = log();
    let path = segments(&disk).remove(1);
    let bytes = disk.contents(&path);
    let frames = frames(&bytes);
    let end_of_synced = frames[frames.len() - 6];
    let sectors = end_of_synced / SECTOR;
    assert!(sectors > 1);
    for sector in 0..sectors {
        let mut torn = bytes.clone();
        torn[sector * SECTOR..][..SECTOR].fill(0);
        let refused = replay(&with_last_segment(&disk, &torn)).unwrap_err();
        assert!(
            matches!(refused, OpenError::Damaged { .. }),
            "sector {sector}: {refused}"
        );
        assert!(refused.to_string().contains(&path.display().to_string()));
    }
}

#[test]
fn a_record_lost_in_front_of_something_synced_is_damage() {
    // Look for a batch that begins with a sector: of a lost sector there is then nothing left to see.
    let found = (0..SECTOR).step_by(8).any(|filler| {
        let disk = disk();
        let mut wal = create(&disk, OPTIONS);
        for (index, len) in [(1, filler), (2, 10), (3, 600), (4, 600)] {
            wal.append(&[entry(1, index, len)], None);
            wal.sync().unwrap();
        }
        drop(wal);
        let path = segments(&disk).remove(0);
        let frames = frames(&disk.contents(&path));
        let Some(&start) = frames[..frames.len() - 3]
            .iter()
            .find(|start| **start > 0 && **start % SECTOR == 0)
        else {
            return false;
        };
        disk.damage(&path, start, &[0; SECTOR]);
        let refused = replay(&disk).unwrap_err();
        assert!(
            matches!(refused, OpenError::Damaged { offset, what: Damage::Hole, .. } if offset == start as u64)
        );
        true
    });
    assert!(found);
}

#[test]
fn a_torn_value_that_contains_a_log_is_not_taken_for_one() {
    let disk = log();
    let stored = disk.contents(&segments(&disk)[1]);
    let end = *frames(&stored).last().unwrap();
    // Frames are looked for at multiples of 8: try every alignment of the copy.
    for shift in 0..8 {
        let disk = disk.after_crash(Keep::All);
        let data = [&vec![1; 600 + shift][..], &stored].concat();
        let (mut wal, _) = open(&disk, OPTIONS).unwrap();
        wal.append(
            &[raftpb::Entry {
                data: Some(data.into()),
                ..entry(1, 10, 0)
            }],
            None,
        );
        wal.sync().unwrap();
        drop(wal);
        let sector_inside = (end + 100).next_multiple_of(SECTOR);
        disk.damage(&segments(&disk)[1], sector_inside, &[0; SECTOR]);
        assert_eq!(replay(&disk).unwrap().entries.len(), 9);
    }
}

#[test]
fn a_garbled_byte_in_the_last_records_is_refused() {
    let disk = log();
    let whole = replay(&disk.after_crash(Keep::All)).unwrap();
    let bytes = disk.contents(&segments(&disk)[1]);
    let frames = frames(&bytes);
    for at in frames[frames.len() - 4]..*frames.last().unwrap() {
        let mut garbled = bytes.clone();
        garbled[at] ^= 0xff;
        expect_refused_or_harmless(&with_last_segment(&disk, &garbled), &whole, &frames, at);
    }
}

#[test]
fn any_flipped_bit_is_refused_with_file_and_offset_or_does_not_matter() {
    let disk = log();
    let whole = replay(&disk.after_crash(Keep::All)).unwrap();
    for path in segments(&disk) {
        let frames = frames(&disk.contents(&path));
        for at in 0..*frames.last().unwrap() {
            // All bits of the first bytes of a record, where its shape is; one bit of the others.
            let start = frames.iter().rfind(|start| **start <= at).unwrap();
            let bits = if at - start < 40 {
                0..8
            } else {
                (at % 8) as u8..(at % 8) as u8 + 1
            };
            for bit in bits {
                let copy = disk.after_crash(Keep::All);
                copy.flip_bit(&path, at, bit);
                expect_refused_or_harmless(&copy, &whole, &frames, at);
            }
        }
    }
}

/// Harmless is what is not read: padding, and the offset in a mark.
fn expect_refused_or_harmless(disk: &SimDisk, whole: &Replay, frames: &[usize], at: usize) {
    match open(disk, OPTIONS) {
        Ok((_, found)) => assert_eq!(found, *whole, "byte {at} was believed"),
        Err(OpenError::Damaged { offset, .. }) => {
            let start = frames.iter().rposition(|start| *start <= at).unwrap();
            assert_eq!(
                offset, frames[start] as u64,
                "byte {at} is in the frame at {}",
                frames[start]
            );
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn damage_is_told_apart() {
    let what = |change: &dyn Fn(&SimDisk, &[PathBuf])| {
        let disk = log();
        change(&disk, &segments(&disk));
        match replay(&disk) {
            Err(OpenError::Damaged { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    let other_log = log();
    let foreign = other_log.contents(&segments(&other_log)[1]);
    assert!(matches!(
        what(&|disk, paths| disk.damage(&paths[0], 0, &[0; 8])),
        Damage::Header
    ));
    assert!(matches!(
        what(&|disk, paths| disk.damage(&paths[0], 7, &[0x85])),
        Damage::Length
    ));
    assert!(matches!(
        what(&|disk, paths| disk.damage(&paths[0], 8, &[9])),
        Damage::Malformed
    ));
    assert!(matches!(
        what(&|disk, paths| disk.damage(&paths[1], 10, &foreign[11..15])),
        Damage::Malformed | Damage::Checksum { .. }
    ));
    assert!(matches!(
        what(&|disk, paths| disk.open(&paths[0]).unwrap().set_len(900).unwrap()),
        Damage::PastEnd
    ));
    let size = log().contents(&segments(&log())[0]).len();
    assert!(matches!(
        what(&|disk, paths| disk
            .open(&paths[0])
            .unwrap()
            .write_at(&[IoSlice::new(b"behind")], size as u64 + 16)
            .unwrap()),
        Damage::Hole
    ));
}

#[test]
fn records_that_contradict_each_other_are_damage() {
    let what = |append: fn(&mut Wal)| {
        let disk = disk();
        let mut wal = create(&disk, OPTIONS);
        append(&mut wal);
        wal.sync().unwrap();
        drop(wal);
        match replay(&disk) {
            Err(OpenError::Damaged { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        what(|wal| wal.append(&[entry(1, 2, 0)], None)),
        Damage::Gap { index: 2 }
    );
    assert_eq!(
        what(|wal| wal.append(&[entry(3, 1, 0), entry(2, 2, 0)], None)),
        Damage::Term { from: 3, to: 2 }
    );
    assert_eq!(
        what(|wal| wal.append(&[entry(1, 1, 0)], Some(&state(1, 0, 2)))),
        Damage::Commit { commit: 2, last: 1 }
    );
    let backwards = |wal: &mut Wal| {
        wal.append(&[], Some(&state(3, 0, 0)));
        wal.append(&[], Some(&state(2, 0, 0)));
    };
    assert_eq!(what(backwards), Damage::Term { from: 3, to: 2 });
    assert_eq!(
        what(|wal| wal.append(&[], Some(&state(0, 5, 0)))),
        Damage::Malformed
    );
    assert_eq!(what(|wal| wal.append(&[entry(0, 1, 0)], None)), Damage::Malformed);
    assert_eq!(what(|wal| wal.append(&[entry(1, 0, 0)], None)), Damage::Malformed);
}

#[test]
fn a_missing_segment_is_noticed() {
    let disk = log();
    disk.remove(&segments(&disk)[0]).unwrap();
    assert!(matches!(replay(&disk), Err(OpenError::Missing { .. })));
    let unrelated = log();
    unrelated
        .rename(
            &segments(&unrelated)[1],
            &dir().join("0000000000000002-0000000000000005.wal"),
        )
        .unwrap();
    assert!(matches!(replay(&unrelated), Err(OpenError::Missing { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let disk = disk();
        disk.create_dir_all(dir()).unwrap();
        let path = dir().join("0000000000000000-0000000000000000.wal");
        disk.create(&path).unwrap().write_at(&[IoSlice::new(&bytes)], 0).unwrap();
        let _ = Wal::snapshots(&disk, dir());
        prop_assert!(open(&disk, OPTIONS).is_err());
    }

    #[test]
    fn a_log_with_a_piece_replaced_is_refused_or_a_prefix_of_itself(
        at in 0usize..3000,
        piece in prop_oneof![
            prop::collection::vec(any::<u8>(), 1..40),
            prop::collection::vec(Just(0), 1..1200),
            prop::collection::vec(0u8..9, 1..40),
        ],
        last in any::<bool>(),
    ) {
        let disk = log();
        let whole = replay(&disk.after_crash(Keep::All)).unwrap();
        let path = segments(&disk).remove(usize::from(last));
        let at = at.min(disk.contents(&path).len() - piece.len());
        disk.damage(&path, at, &piece);
        let _ = Wal::snapshots(&disk, dir());
        if let Ok(found) = replay(&disk) {
            prop_assert!(whole.entries.starts_with(&found.entries));
        }
    }
}
