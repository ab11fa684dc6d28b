//! A thousand clusters, each with a bad time of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use sim::Mutant;

const SEEDS: u64 = 1000;

/// A seed of the thousand that fails, and how.
fn failure(mutant: Option<Mutant>) -> Option<String> {
    let next = AtomicU64::new(0);
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return None;
            }
            if let Some(failure) = sim::run(seed, mutant, false).failure {
                next.store(SEEDS, Ordering::Relaxed);
                return Some(format!("seed {seed}: {failure}"));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        workers
            .map(|worker| worker.join().expect("runs catch their panics"))
            .into_iter()
            .find_map(|failure| failure)
    })
}

#[test]
fn a_thousand_seeds_keep_every_promise() {
    assert_eq!(failure(None), None);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..30 {
        let runs = [(); 2].map(|()| sim::run(seed, None, false).trace);
        assert_eq!(runs[0].digest(), runs[1].digest(), "seed {seed}");
        assert_eq!(runs[0].count(), runs[1].count());
    }
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    assert!(failure(Some(Mutant::EarlyAcknowledgement)).is_some());
}

#[test]
fn a_reused_read_context_is_caught() {
    let failure = failure(Some(Mutant::ReusedReadContext)).expect("a stale read");
    assert!(failure.contains("a stale read"), "{failure}");
}

#[test]
fn a_configuration_that_changes_early_is_caught() {
    let failure = failure(Some(Mutant::EarlyConfChange)).expect("an early change");
    assert!(failure.contains("the configuration of"), "{failure}");
}
