//! Three members, ours, the real etcd's and mixed, under load and faults of all kinds; members that migrate; and the
//! scripts about clusters.
//!
//! `KEELSON_FAULT_ROUNDS` sets how often every fault happens (1), `KEELSON_FAULT_SEED` their order (1).
//! `KEELSON_FAULTS=KillLeader,Snapshot` picks some. `KEELSON_CLUSTERS=all` runs every trial, as `cargo xtask nightly`
//! does; `KEELSON_CLUSTERS=real` lets three real members go through the same, which tries the test itself. Without it
//! nothing runs: these trials take minutes, and real time decides what a member has heard of when it is asked.

use std::path::Path;
use std::process::ExitCode;

use conformance::faults::{self, FAULTS, Fault};
use conformance::harness::{self, Work, number};
use conformance::migration;
use conformance::tools::Tools;

const REAL: &str = "three_real_members_live_through_faults";

fn main() -> ExitCode {
    let clusters = std::env::var("KEELSON_CLUSTERS").unwrap_or_default();
    let mut trials = vec![
        faults(REAL, 0),
        faults("three_of_ours_live_through_faults", 3),
        faults("one_of_ours_and_two_real_members_live_through_faults", 1),
        faults("two_of_ours_and_a_real_member_live_through_faults", 2),
        migration(
            "a_real_cluster_becomes_ours_and_real_again_while_clients_go_on",
            3,
        ),
        migration("a_real_member_alone_becomes_ours_and_real_again", 1),
    ];
    trials.extend(harness::scripts("cluster"));
    let wanted = trials.into_iter().filter(|(name, _)| match clusters.as_str() {
        "all" => true,
        "real" => name == REAL,
        _ => false,
    });
    harness::run(wanted.collect())
}

/// A cluster with so many members of ours; the others are real.
fn faults(name: &str, ours: usize) -> (String, Work) {
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

/// A real cluster of so many members, there and back.
fn migration(name: &str, members: usize) -> (String, Work) {
    let work = move |tools: &Tools| {
        let seed = number("KEELSON_FAULT_SEED", 1) as u64;
        let report = harness::runtime()?.block_on(migration::there_and_back(tools, members, seed))?;
        println!("there and back: {report:?}");
        Ok(())
    };
    (name.to_owned(), Box::new(work))
}
