//! Random histories against a dumb model: whatever is appended, synced, compacted, rewritten and reopened, a store
//! returns what went in.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{DIR, World, tiny};
use env::sim::{Keep, SimDisk};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use store::{Options, Rewriting, Snapshot};

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

/// Rewrites everything, and is told how far that is: further each time, and in the end through.
fn rewrite_all(world: &World) -> Vec<(u64, u64)> {
    let mut told = vec![];
    let report = |done, total| told.push((done, total));
    world.store.rewrite_all(report).expect("a whole disk");
    let total = told[0].1;
    assert!(
        told.is_sorted() && told.iter().all(|(_, of)| *of == total),
        "{told:?}"
    );
    assert_eq!(told.last(), Some(&(total, total)), "{told:?}");
    told
}

/// A job that the housekeeper has begun belongs to what is to be done, and what is left of one segment can be merged with
/// what is left of the next.
#[test]
fn how_much_a_rewrite_copies_is_known_from_the_beginning() {
    let options = Options {
        segment_bytes_min: 2000,
        ..tiny()
    };
    let mut world = Run::new(options).world;
    world.keys = 200;
    for _ in 0..300 {
        world.apply(1);
        world.sync();
    }
    world
        .head
        .compact(world.head.revision())
        .expect("a revision there is");
    world.apply(1);
    world.walk_all();
    while world.store.rewrite_step(1).unwrap() != Rewriting::Working {}
    let told = rewrite_all(&world);
    let (total, step) = (told[0].1, told.len() - 2);
    assert!(total > 0 && step > 3, "{told:?}");
    assert_eq!(told[step].0, total, "the last step is the last: {told:?}");
}

/// What a step does to a store, its disk and the model.
struct Run {
    disk: SimDisk,
    world: World,
    options: Options,
    snapshot: Option<Snapshot>,
}

impl Run {
    fn new(options: Options) -> Run {
        let disk = SimDisk::new();
        let opened = World::open(Arc::new(disk.clone()), Path::new(DIR), options.clone());
        let (world, _) = opened.expect("an empty disk");
        Run {
            disk,
            world,
            options,
            snapshot: None,
        }
    }

    fn step(mut self, step: Step) -> Run {
        let world = &mut self.world;
        match step {
            Step::Apply(entries) => drop(world.apply(entries)),
            Step::Compact(back) => drop(world.head.compact(world.head.revision() - back)),
            Step::Sync => world.sync(),
            Step::Walk(budget) => world.walk(budget),
            Step::Rewrite(budget) => drop(world.store.rewrite_step(budget).unwrap()),
            Step::RewriteAll => drop(rewrite_all(world)),
            Step::Close => world.store.close().unwrap(),
            Step::Reopen => {
                world.sync();
                return self.reopen();
            }
            Step::Crash(keep) => {
                self.disk = self.disk.after_crash(keep);
                return self.reopen();
            }
            Step::TakeSnapshot => self.snapshot = Some(world.store.snapshot().unwrap()),
            Step::CheckSnapshot => self
                .snapshot
                .iter()
                .for_each(|snapshot| check_snapshot(snapshot, world)),
            Step::Check => world.check(),
        }
        self
    }

    fn reopen(self) -> Run {
        let world = reopen(&self.disk, self.world, &self.options);
        Run {
            world,
            snapshot: None,
            ..self
        }
    }
}

/// A tombstone in another segment and the put before it, in one being rewritten, die while a job is at work that
/// drops an older tombstone: the dead checkpoint must mark both or none.
#[test]
fn a_put_that_dies_while_it_is_copied_stays_dead() {
    use Step::*;
    let options = Options {
        segment_bytes_min: 40,
        tail_bytes: 0,
        ..tiny()
    };
    let batches = |entries: &[u64]| entries.iter().copied().map(Apply).collect::<Vec<_>>();
    let mut steps = batches(&[1, 3, 3]);
    steps.push(Sync);
    steps.extend(batches(&[4, 5, 4, 4, 3, 1, 1, 2, 1, 4, 4, 4, 5, 4]));
    steps.push(Compact(5));
    steps.extend(batches(&[2, 3, 2]));
    steps.extend([
        Reopen,
        Rewrite(274),
        Compact(0),
        Apply(1),
        Walk(1),
        Rewrite(186),
        Reopen,
    ]);
    let run = steps.into_iter().fold(Run::new(options), Run::step);
    run.world.check();
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
        let run = steps.into_iter().fold(Run::new(options), Run::step);
        let Run { disk, mut world, options, .. } = run;
        world.check();
        world.walk_all();
        rewrite_all(&world);
        world.check();
        let live = world.store.size_in_use();
        let files = disk.files();
        let segments = files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"));
        prop_assert_eq!(segments.map(|(_, bytes)| bytes.len() as u64).sum::<u64>(), world.store.size());
        prop_assert!(world.store.size() < live + live / 8 + 1000, "{} bytes for {live}", world.store.size());
        drop(reopen(&disk, world, &options));
    }
}
