//! Runs the simulation over many seeds, or one to read.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use sim::{Counts, Mutant};

/// Lines of a failed run that are printed.
const TAIL: usize = 120;

/// A whole cluster in one thread, seed after seed.
#[derive(Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run only this seed and print all that happens.
    #[arg(long)]
    trace: Option<u64>,
    /// Break something on purpose.
    #[arg(long)]
    mutant: Option<Mutant>,
    /// Seeds run side by side.
    #[arg(long, default_value_t = 2)]
    workers: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.trace {
        Some(seed) => trace(seed, args.mutant),
        None => many(&args),
    }
}

fn trace(seed: u64, mutant: Option<Mutant>) -> ExitCode {
    let outcome = sim::run(seed, mutant, true);
    outcome.trace.lines().iter().for_each(|line| println!("{line}"));
    summary(1, &outcome.counts);
    match outcome.failure {
        Some(failure) => {
            println!("seed {seed}: {failure}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn many(args: &Args) -> ExitCode {
    // A failed run is told of below, with its trace.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicU64::new(0);
    let total = Mutex::new((0, 0, Counts::default()));
    let worker = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= args.seeds {
                return;
            }
            let seed = args.first + at;
            let outcome = sim::run(seed, args.mutant, false);
            let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (runs, failures, counts) = &mut *total;
            *runs += 1;
            counts.add(&outcome.counts);
            if let Some(failure) = outcome.failure {
                *failures += 1;
                let lines = outcome.trace.lines();
                lines[lines.len().saturating_sub(TAIL)..]
                    .iter()
                    .for_each(|line| println!("{line}"));
                println!("seed {seed}: {failure}");
            }
            if *runs % 1000 == 0 {
                println!("{runs} seeds, {failures} failures");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.workers.max(1) {
            scope.spawn(worker);
        }
    });
    let (runs, failures, counts) = total
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    summary(runs, &counts);
    println!("{failures:>12} failures");
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn summary(runs: u64, counts: &Counts) {
    println!("{runs:>12} seeds");
    for (what, count) in counts.lines() {
        println!("{count:>12} {what}");
    }
    for (fault, count) in &counts.faults {
        println!("{count:>12} faults: {fault:?}");
    }
}
