//! Three members, ours, the real etcd's and mixed, under load and faults; members that migrate; and the scripts about
//! clusters. Members are connected by relays of ours, or by a network of the kernel's where the machine allows that;
//! else those trials count as ignored and say why.
//!
//! By default there is a short life of each kind, with one fault of each kind. `KEELSON_CLUSTERS=all` runs every
//! trial, as `cargo xtask nightly` does: lives with all faults, and migrations, which take minutes.
//! `KEELSON_FAULT_ROUNDS` sets how often every fault happens (1), `KEELSON_FAULT_SEED` their order (1).
//! `KEELSON_FAULTS=KillLeader,Snapshot` picks some. `KEELSON_CLUSTERS=real` lets three real members go through the
//! same, which tries the test itself.

use std::process::ExitCode;

use conformance::faults::{self, Cast, FAULTS, FEW, Fault, Wires};
use conformance::harness::{self, Stop, Work, number};
use conformance::migration;
use conformance::spaces::Spaces;
use conformance::tools::Tools;
use conformance::users;

use Wires::{Relays, Spaces as Namespaces};

fn main() -> ExitCode {
    let trials = match std::env::var("KEELSON_CLUSTERS").as_deref() {
        Ok("all") => all(),
        Ok("real") => vec![
            long("three_real_members_live_through_faults", Relays, 0),
            long(
                "three_real_members_live_through_faults_in_namespaces",
                Namespaces,
                0,
            ),
        ],
        _ => few(),
    };
    harness::run(trials)
}

/// What is run with every test.
fn few() -> Vec<(String, Work)> {
    let mut trials = vec![
        short("three_of_ours_live_through_some_faults", Relays, 3),
        short(
            "three_of_ours_live_through_some_faults_in_namespaces",
            Namespaces,
            3,
        ),
        short(
            "two_of_ours_and_a_real_member_live_through_some_faults",
            Relays,
            2,
        ),
        short(
            "one_of_ours_and_two_real_members_live_through_some_faults_in_namespaces",
            Namespaces,
            1,
        ),
    ];
    for (name, snapshot_count) in [
        ("all_know_the_same_users_with_a_snapshot_at_each_entry", 1),
        ("all_know_the_same_users_with_a_snapshot_at_every_tenth_entry", 10),
    ] {
        trials.push(users_kept(name, snapshot_count));
    }
    trials.extend(harness::scripts("cluster"));
    trials
}

fn all() -> Vec<(String, Work)> {
    let mut trials = vec![
        migration(
            "a_real_cluster_becomes_ours_and_real_again_while_clients_go_on",
            3,
        ),
        migration("a_real_member_alone_becomes_ours_and_real_again", 1),
        users("two_of_ours_and_a_real_member_share_their_users", 2),
        users("one_of_ours_and_two_real_members_share_their_users", 1),
        signed_in(
            "one_of_ours_and_two_real_members_live_through_faults_signed_in",
            1,
        ),
        signed_in("two_of_ours_and_a_real_member_live_through_faults_signed_in", 2),
    ];
    let lives = [
        ("three_real_members_live_through_faults", 0),
        ("one_of_ours_and_two_real_members_live_through_faults", 1),
        ("two_of_ours_and_a_real_member_live_through_faults", 2),
        ("three_of_ours_live_through_faults", 3),
    ];
    for (name, ours) in lives {
        trials.push(long(name, Relays, ours));
        trials.push(long(&format!("{name}_in_namespaces"), Namespaces, ours));
    }
    trials.extend(few());
    trials
}

/// A life with a fault of each kind.
fn short(name: &str, wires: Wires, ours: usize) -> (String, Work) {
    life(name, wires, Cast { ours, users: false }, |_| Ok(FEW.to_vec()))
}

/// A life with all faults, or those of the environment.
fn long(name: &str, wires: Wires, ours: usize) -> (String, Work) {
    life(name, wires, Cast { ours, users: false }, move |seed| {
        picked(wires, seed)
    })
}

/// A life where everybody signs in. A learner lets nobody do so.
fn signed_in(name: &str, ours: usize) -> (String, Work) {
    life(name, Relays, Cast { ours, users: true }, |seed| {
        let mut faults = picked(Relays, seed)?;
        faults.retain(|fault| *fault != Fault::Learner);
        Ok(faults)
    })
}

/// All faults, or those of the environment.
fn picked(wires: Wires, seed: u64) -> Result<Vec<Fault>, String> {
    match std::env::var("KEELSON_FAULTS") {
        Ok(names) => names.split(',').map(named).collect(),
        Err(_) => Ok(faults::shuffled(wires, number("KEELSON_FAULT_ROUNDS", 1), seed)),
    }
}

fn life(
    name: &str,
    wires: Wires,
    cast: Cast,
    faults: impl FnOnce(u64) -> Result<Vec<Fault>, String> + Send + 'static,
) -> (String, Work) {
    let work = move |tools: &Tools| {
        if wires == Namespaces {
            Spaces::possible().map_err(Stop::Impossible)?;
        }
        let seed = number("KEELSON_FAULT_SEED", 1) as u64;
        let faults = faults(seed)?;
        let report = faults::life(tools, wires, cast, &faults, seed)?;
        println!("{} faults: {report:?}", faults.len());
        Ok(())
    };
    (name.to_owned(), Box::new(work))
}

/// The users of a cluster with so many members of ours.
fn users(name: &str, ours: usize) -> (String, Work) {
    let work = move |tools: &Tools| {
        let shared = users::shared(tools, tools.programs(ours));
        Ok(harness::runtime()?.block_on(shared)?)
    };
    (name.to_owned(), Box::new(work))
}

/// Users change while members take snapshots every so many entries.
fn users_kept(name: &str, snapshot_count: usize) -> (String, Work) {
    let work = move |tools: &Tools| {
        let kept = users::kept(tools, &tools.ours, snapshot_count);
        Ok(harness::runtime()?.block_on(kept)?)
    };
    (name.to_owned(), Box::new(work))
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
