//! Three members, ours, the real etcd's and mixed, under load and faults of all kinds.
//!
//! `KEELSON_FAULT_ROUNDS` sets how often every fault happens (1), `KEELSON_FAULT_SEED` their order (1).
//! `KEELSON_FAULTS=KillLeader,Snapshot` picks some. With `KEELSON_FAULTS_REAL=1` three real members go through the
//! same, which tries the test itself.

use std::path::Path;
use std::process::ExitCode;

use conformance::faults::{self, FAULTS, Fault};
use conformance::harness::{self, Work, number};
use conformance::tools::Tools;

fn main() -> ExitCode {
    let mut trials: Vec<(String, Work)> = Vec::new();
    if std::env::var("KEELSON_FAULTS_REAL").is_ok_and(|real| real == "1") {
        trials.push(trial("three_real_members_live_through_faults", 0));
    }
    harness::run(trials)
}

/// A cluster with so many members of ours; the others are real.
fn trial(name: &str, ours: usize) -> (String, Work) {
    let work = move |tools: &Tools| {
        let program = |member| match member < ours {
            true => &*tools.ours,
            false => &*tools.reference,
        };
        live([program(0), program(1), program(2)])
    };
    (name.to_owned(), Box::new(work))
}

fn live(programs: [&Path; 3]) -> Result<(), String> {
    let seed = number("KEELSON_FAULT_SEED", 1) as u64;
    let faults = match std::env::var("KEELSON_FAULTS") {
        Ok(names) => names.split(',').map(named).collect::<Result<_, _>>()?,
        Err(_) => faults::shuffled(number("KEELSON_FAULT_ROUNDS", 1), seed),
    };
    let report = harness::runtime()?.block_on(faults::life(programs, &faults, seed))?;
    println!("{} faults: {report:?}", faults.len());
    Ok(())
}

fn named(name: &str) -> Result<Fault, String> {
    let known = FAULTS.into_iter().find(|fault| format!("{fault:?}") == name);
    known.ok_or_else(|| format!("no fault {name}; there are {FAULTS:?}"))
}
