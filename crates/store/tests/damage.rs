//! Disks that do worse than lose power: flipped bits, cut files, failing syncs, no space, a second process.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DIR, Dice, World, tiny};
use env::sim::{Keep, SimDisk};
use env::{Disk, RealDisk};
use mvcc::{ReadError, Values, Wait};
use store::{OpenError, Options, RewriteError, Rewriting, SyncError};
use types::Revision;

/// A store with sealed segments, rewritten ones, checkpoints and an open segment.
fn lived_in(disk: &SimDisk) -> World {
    let mut world = open(disk, tiny()).unwrap();
    for round in 0..30 {
        if round % 10 == 8 {
            world.head.compact(world.head.revision() - 3).unwrap();
        }
        world.apply(2);
        world.sync();
        if round % 10 == 9 {
            world.walk_all();
            world.rewrite_until_idle();
        }
    }
    world.store.close().unwrap();
    // Something behind the checkpoint.
    loop {
        world.apply(1);
        world.sync();
        if disk.contents(&open_segment(disk)).len() > 200 {
            break;
        }
    }
    let names = disk.list(Path::new(DIR)).unwrap();
    let count = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).count();
    assert!(count(".seg") > 3 && count(".ckpt") == 2, "{names:?}");
    world
}

fn open(disk: &SimDisk, options: Options) -> Result<World, OpenError> {
    World::open(Arc::new(disk.clone()), Path::new(DIR), options).map(|(world, _)| world)
}

fn open_segment(disk: &SimDisk) -> PathBuf {
    let names = disk.list(Path::new(DIR)).unwrap();
    let last = names.iter().rfind(|name| name.ends_with(".seg")).unwrap();
    Path::new(DIR).join(last)
}

#[test]
fn a_flipped_bit_in_any_byte_of_any_file_is_refused_with_its_name() {
    let disk = SimDisk::new();
    let world = lived_in(&disk);
    let replay_from = world.commit().applied_index + 1;
    drop(world);
    let options = Options {
        replay_from,
        ..tiny()
    };
    let (open_segment, mut dice) = (open_segment(&disk), Dice(0));
    for (path, bytes) in disk.files() {
        for offset in 0..bytes.len() {
            let bit = dice.below(8) as u8;
            disk.flip_bit(&path, offset, bit);
            let error = open(&disk, options.clone())
                .err()
                .unwrap_or_else(|| panic!("{path:?} byte {offset} bit {bit}"));
            let told = error.to_string();
            assert!(
                told.contains(path.to_str().unwrap()) && told.contains("at byte"),
                "{told}"
            );
            assert!(
                told.contains("remove this member") || told.contains("start the newer program"),
                "{told}"
            );
            if path == open_segment && offset >= 32 {
                assert!(
                    matches!(error, OpenError::Gap { .. } | OpenError::Damaged(_)),
                    "{told}"
                );
            }
            disk.flip_bit(&path, offset, bit);
        }
    }
    open(&disk, options).expect("the undamaged store");
}

#[test]
fn a_refused_store_is_left_as_it_was() {
    let disk = SimDisk::new();
    let replay_from = lived_in(&disk).commit().applied_index + 1;
    let path = open_segment(&disk);
    disk.flip_bit(&path, disk.contents(&path).len() - 1, 0);
    let before = disk.files();
    let (result, ops) = disk.traced(|| {
        open(
            &disk,
            Options {
                replay_from,
                ..tiny()
            },
        )
    });
    assert!(matches!(result, Err(OpenError::Gap { .. })));
    assert_eq!((ops, disk.files()), (vec![], before));
}

#[test]
fn a_bit_that_flips_while_the_store_is_open_is_never_served() {
    let disk = SimDisk::new();
    let world = lived_in(&disk);
    // From the disk, not from memory.
    let model = world.model.clone();
    drop(world);
    let world = open(&disk, tiny()).unwrap();
    let commit = model.commits.last().unwrap().clone();
    let (mut refused, mut dice) = (0, Dice(1));
    for (path, bytes) in disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"))
    {
        for offset in (32..bytes.len()).step_by(7) {
            let bit = dice.below(8) as u8;
            disk.flip_bit(&path, offset, bit);
            for change in model.retained(&commit) {
                let mut out = vec![];
                match world.store.get_many(&[change.rev], Wait::Yes, &mut out) {
                    Ok(()) => assert_eq!(out, std::slice::from_ref(&change.kv)),
                    Err(ReadError::Damaged(told)) => {
                        assert!(told.contains(path.to_str().unwrap()), "{told}");
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            disk.flip_bit(&path, offset, bit);
        }
    }
    assert!(refused > 100);
}

#[test]
fn a_damaged_segment_is_not_rewritten() {
    let disk = SimDisk::new();
    let mut world = lived_in(&disk);
    world.apply(1);
    for (path, bytes) in disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"))
    {
        disk.flip_bit(&path, bytes.len() - 1, 0);
        (32..bytes.len())
            .step_by(24)
            .for_each(|offset| disk.flip_bit(&path, offset, 1));
    }
    // Everything is dead or damaged.
    let all: Vec<Revision> = world
        .model
        .changes
        .iter()
        .step_by(2)
        .map(|change| change.rev)
        .collect();
    world.store.forget(&all);
    let before = disk.list(Path::new(DIR)).unwrap();
    assert!(matches!(
        world.store.rewrite_all(|_, _| {}),
        Err(RewriteError::Damaged(ReadError::Damaged(_)))
    ));
    let mut after = disk.list(Path::new(DIR)).unwrap();
    after.retain(|name| !before.contains(name));
    // Sealing the open segment may have left a new one and a checkpoint.
    assert!(after.len() <= 2, "{after:?}");
    world.sync();
}

#[test]
fn an_open_segment_cut_at_any_byte_opens_at_the_last_whole_batch() {
    let disk = SimDisk::new();
    let options = Options {
        segment_bytes_min: 1 << 20,
        ..tiny()
    };
    let mut world = open(&disk, options.clone()).unwrap();
    let mut ends = vec![32];
    for _ in 0..7 {
        world.apply(2);
        world.sync();
        ends.push(disk.contents(&open_segment(&disk)).len());
    }
    let model = world.model.clone();
    drop(world);
    let path = open_segment(&disk);
    let whole = disk.contents(&path);
    for cut in 32..=whole.len() {
        for garbage in [&[][..], &[0; 600], &[0xa5; 40]] {
            let disk = disk.after_crash(Keep::All);
            let file = disk.open(&path).unwrap();
            file.set_len(cut as u64).unwrap();
            file.write_at(&[std::io::IoSlice::new(garbage)], cut as u64)
                .unwrap();
            let (world, found) =
                World::open(Arc::new(disk.clone()), Path::new(DIR), options.clone()).unwrap();
            let batches = ends.partition_point(|end| *end <= cut) - 1;
            let expect = batches
                .checked_sub(1)
                .map_or_else(common::nothing_done, |i| model.commits[i].clone());
            assert_eq!(found.commit, expect, "cut at {cut}");
            assert_eq!(disk.contents(&path).len(), ends[batches]);
            let cut_off = (cut + garbage.len() - ends[batches]) as u64;
            assert_eq!(found.cut.map_or(0, |cut| cut.bytes), cut_off);
            model.check(&world.store, &world.mvcc, &expect, false);
        }
    }
}

#[test]
fn a_sealed_segment_that_lost_its_end_is_refused() {
    let disk = SimDisk::new();
    drop(lived_in(&disk));
    let open_segment = open_segment(&disk);
    for (path, bytes) in disk.files() {
        if path == open_segment || path.extension().is_none_or(|ending| ending != "seg") {
            continue;
        }
        for len in (0..bytes.len()).step_by(3) {
            let disk = disk.after_crash(Keep::All);
            disk.open(&path).unwrap().set_len(len as u64).unwrap();
            let Err(OpenError::Damaged(damage)) = open(&disk, tiny()) else {
                panic!("{path:?} cut at {len}")
            };
            assert_eq!(damage.file, path);
        }
    }
}

#[test]
fn a_failed_sync_poisons_the_store() {
    for nth in 1..60 {
        let disk = SimDisk::new();
        let mut world = open(&disk, tiny()).unwrap();
        disk.fail_sync(nth);
        let mut failed = false;
        while !failed {
            world.apply(2);
            world.walk_all();
            let synced = world.store.synced();
            let rewritten = || match world.store.rewrite_step(1000) {
                Ok(Rewriting::Idle | Rewriting::Working | Rewriting::Done) => false,
                // A new segment that can not be trusted is thrown away; nothing relied on it.
                Err(RewriteError::Disk(_)) => false,
                Err(RewriteError::Sync(SyncError::Disk(_))) => true,
                Err(error) => panic!("{error}"),
            };
            failed = match world.store.sync_step() {
                Ok(()) => rewritten(),
                Err(SyncError::Disk(error)) => {
                    assert!(
                        world.store.synced().applied_index >= synced.applied_index,
                        "{error}"
                    );
                    true
                }
                Err(error) => panic!("{error}"),
            };
            if world.commit().applied_index > 1000 {
                break;
            }
        }
        if failed {
            assert!(matches!(world.store.sync_step(), Err(SyncError::Poisoned)));
            assert!(matches!(world.store.close(), Err(SyncError::Poisoned)));
            assert!(matches!(
                world.store.rewrite_all(|_, _| {}),
                Err(RewriteError::Sync(SyncError::Poisoned))
            ));
            assert!(world.store.snapshot().is_err());
        }
        // What was promised is kept, and what is in memory can still be read.
        let synced = world.store.synced();
        let (model, commit) = (world.model.clone(), world.commit());
        for change in model.retained(&commit) {
            world
                .store
                .get_many(&[change.rev], Wait::Yes, &mut vec![])
                .unwrap();
        }
        drop(world);
        let (world, found) =
            World::open(Arc::new(disk.after_crash(Keep::None)), Path::new(DIR), tiny()).unwrap();
        assert!(found.commit.applied_index >= synced.applied_index);
        model.check(&world.store, &world.mvcc, &found.commit, true);
    }
}

fn bytes_used(disk: &SimDisk) -> u64 {
    disk.files().values().map(|bytes| bytes.len() as u64).sum()
}

/// Whether a crash now would leave the world as it is.
fn check_durable(disk: &SimDisk, world: &World) {
    let recovered = open(&disk.after_crash(Keep::None), tiny()).unwrap();
    world
        .model
        .check(&recovered.store, &recovered.mvcc, &world.commit(), true);
}

#[test]
fn a_full_disk_is_waited_out() {
    let disk = SimDisk::new();
    let mut world = lived_in(&disk);
    for room in (0..900).step_by(50) {
        disk.set_capacity(Some(bytes_used(&disk) + room));
        loop {
            world.apply(1);
            match world.store.sync_step() {
                Ok(()) => assert_eq!(world.store.synced(), world.commit()),
                Err(SyncError::NoSpace(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        world.check();
        disk.set_capacity(None);
        world.sync();
        world.check();
        check_durable(&disk, &world);
    }
}

#[test]
fn rewriting_on_a_full_disk_leaves_everything_as_it_was() {
    let disk = SimDisk::new();
    let mut world = lived_in(&disk);
    let mut given_up = 0;
    for room in (0..3000).step_by(100) {
        world.apply(3);
        world.sync();
        world.walk_all();
        let before = disk.files();
        disk.set_capacity(Some(bytes_used(&disk) + room));
        match world.store.rewrite_step(u64::MAX) {
            Ok(_) => {}
            Err(RewriteError::Disk(_) | RewriteError::Sync(SyncError::NoSpace(_))) => {
                assert!(disk.files() == before, "{:?}", disk.list(Path::new(DIR)));
                given_up += 1;
            }
            Err(error) => panic!("{error}"),
        }
        world.check();
        disk.set_capacity(None);
        world.sync();
        check_durable(&disk, &world);
    }
    assert!(given_up > 3);
    world.store.rewrite_all(|_, _| {}).unwrap();
    world.check();
    check_durable(&disk, &world);
}

#[test]
fn a_folder_that_is_open_elsewhere_is_refused_by_name() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("member/kv");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (mut world, _) = World::open(disk.clone(), &dir, Options::default()).unwrap();
    let Err(error) = World::open(disk.clone(), &dir, Options::default()) else {
        panic!("a second store")
    };
    assert!(matches!(&error, OpenError::Locked(locked) if *locked == dir));
    assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
    world.apply(5);
    world.store.close().unwrap();
    let commit = world.commit();
    drop(world);
    let (_, found) = World::open(disk, &dir, Options::default()).unwrap();
    assert_eq!(found.commit, commit);
}

#[test]
fn a_store_whose_manifest_is_gone_is_not_taken_for_a_new_one() {
    let disk = SimDisk::new();
    drop(lived_in(&disk));
    disk.remove(&Path::new(DIR).join("MANIFEST")).unwrap();
    let Err(OpenError::Damaged(damage)) = open(&disk, tiny()) else {
        panic!("an empty store")
    };
    assert!(
        damage.file.ends_with("MANIFEST") && damage.what.contains("missing"),
        "{damage}"
    );
}

#[test]
fn reads_that_may_not_wait_go_to_memory_only() {
    let disk = SimDisk::new();
    let mut world = open(&disk, tiny()).unwrap();
    for _ in 0..30 {
        world.apply(1);
        world.sync();
    }
    let (first, last) = (
        world.model.changes.first().unwrap(),
        world.model.changes.last().unwrap(),
    );
    let get = |change: &mvcc::Change, wait| {
        let mut out = vec![];
        world
            .store
            .get_many(&[change.rev], wait, &mut out)
            .map(|()| out.remove(0))
    };
    disk.set_cold(true);
    assert_eq!(get(last, Wait::No), Ok(last.kv.clone()));
    assert_eq!(get(first, Wait::No), Err(ReadError::WouldBlock));
    let weight = world.store.weigh(&[first.rev, last.rev]).unwrap();
    assert!(
        weight >= (first.kv.len() + last.kv.len()) as u64,
        "known without a look at the disk"
    );
    assert_eq!(get(first, Wait::Yes), Ok(first.kv.clone()));
    disk.set_cold(false);
    assert_eq!(get(first, Wait::No), Ok(first.kv.clone()));
    let nothing = world
        .store
        .get_many(&[Revision::new(1, 0)], Wait::Yes, &mut vec![]);
    assert_eq!(nothing, Err(ReadError::Gone(Revision::new(1, 0))));
}
