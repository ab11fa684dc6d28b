//! Random histories against a dumb model: whatever is appended, synced, compacted, rewritten and reopened, a store
//! returns what went in.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{DIR, World, tiny};
use env::sim::{Keep, SimDisk};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use store::{Options, Snapshot};

#[derive(Clone, Debug)]
enum Step {
    Apply(u64),
    Compact(i64),
    Sync,
    Walk(usize),
    Rewrite(u64),
    RewriteAll,
    Close,
    Reopen,
    Crash(Keep),
    TakeSnapshot,
    CheckSnapshot,
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (1u64..6).prop_map(Step::Apply),
        2 => (0i64..10).prop_map(Step::Compact),
        4 => Just(Step::Sync),
        4 => (1usize..20).prop_map(Step::Walk),
        4 => prop_oneof![1u64..50, 50u64..1000].prop_map(Step::Rewrite),
        1 => Just(Step::RewriteAll),
        1 => Just(Step::Close),
        1 => Just(Step::Reopen),
        1 => prop_oneof![Just(Keep::None), Just(Keep::All), (0u64..9).prop_map(Keep::Subset)].prop_map(Step::Crash),
        1 => Just(Step::TakeSnapshot),
        1 => Just(Step::CheckSnapshot),
        2 => Just(Step::Check),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    (0u64..2000, 40u64..800).prop_map(|(tail_bytes, min)| Options {
        tail_bytes,
        segment_bytes_min: min,
        ..tiny()
    })
}

/// Opens the store again and goes on with what is there.
fn reopen(disk: &SimDisk, mut world: World, options: &Options) -> World {
    let synced = world.store.synced();
    let mut model = std::mem::take(&mut world.model);
    // The lock goes with the last reference.
    drop(world);
    let opened = World::open(Arc::new(disk.clone()), Path::new(DIR), options.clone());
    let (mut world, recovered) = opened.expect("a store that opens");
    assert!(recovered.commit.applied_index >= synced.applied_index);
    model.rewind(&recovered.commit);
    world.model = model;
    assert_eq!(world.commit(), recovered.commit);
    assert_eq!(
        common::without_empty(&recovered.tables),
        world.model.tables_at(&recovered.commit)
    );
    world.check();
    world
}

/// A frozen store is as it was, whatever happened since.
fn check_snapshot(snapshot: &Snapshot, world: &World) {
    let changes: Vec<_> = snapshot
        .changes()
        .map(|change| change.expect("no damage").rev)
        .collect();
    let retained = world.model.retained(snapshot.commit());
    assert!(retained.iter().all(|change| changes.contains(&change.rev)));
    assert_eq!(
        common::without_empty(snapshot.tables()),
        world.model.tables_at(snapshot.commit())
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        rng_seed: RngSeed::Fixed(0),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_store_returns_what_went_in(
        options in options(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut disk = SimDisk::new();
        let (mut world, _) = World::open(Arc::new(disk.clone()), Path::new(DIR), options.clone()).unwrap();
        let mut snapshot = None;
        for step in steps {
            match step {
                Step::Apply(entries) => drop(world.apply(entries)),
                Step::Compact(back) => drop(world.head.compact(world.head.revision() - back)),
                Step::Sync => world.sync(),
                Step::Walk(budget) => world.walk(budget),
                Step::Rewrite(budget) => drop(world.store.rewrite_step(budget).unwrap()),
                Step::RewriteAll => world.store.rewrite_all().unwrap(),
                Step::Close => world.store.close().unwrap(),
                Step::Reopen => {
                    snapshot = None;
                    world.sync();
                    world = reopen(&disk, world, &options);
                }
                Step::Crash(keep) => {
                    snapshot = None;
                    disk = disk.after_crash(keep);
                    world = reopen(&disk, world, &options);
                }
                Step::TakeSnapshot => snapshot = Some(world.store.snapshot().unwrap()),
                Step::CheckSnapshot => snapshot.iter().for_each(|snapshot| check_snapshot(snapshot, &world)),
                Step::Check => world.check(),
            }
        }
        world.check();
        world.walk_all();
        world.store.rewrite_all().unwrap();
        world.check();
        let live = world.store.size_in_use();
        let files = disk.files();
        let segments = files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"));
        prop_assert_eq!(segments.map(|(_, bytes)| bytes.len() as u64).sum::<u64>(), world.store.size());
        prop_assert!(world.store.size() < live + live / 8 + 1000, "{} bytes for {live}", world.store.size());
        drop(reopen(&disk, world, &options));
    }
}
