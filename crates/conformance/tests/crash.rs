//! `kill -9` under load, on our server and, to try the test itself, on the real etcd.
//!
//! `KEELSON_CRASH_ROUNDS` sets the number of rounds (50), `KEELSON_CRASH_SEED` what they do (1).

use conformance::crash;
use conformance::harness::{self, Work, number};

fn main() -> std::process::ExitCode {
    let rounds = number("KEELSON_CRASH_ROUNDS", 50);
    let ours: Work = Box::new(move |tools| Ok(run(&tools.ours, rounds)?));
    let real: Work = Box::new(move |tools| Ok(run(&tools.reference, rounds.div_ceil(10))?));
    harness::run(vec![
        ("what_was_acknowledged_survives_kill_9".into(), ours),
        ("a_real_etcd_passes_the_same_test".into(), real),
    ])
}

fn run(program: &std::path::Path, rounds: usize) -> Result<(), String> {
    let seed = number("KEELSON_CRASH_SEED", 1) as u64;
    let writes = harness::runtime()?.block_on(crash::rounds(program, rounds, seed))?;
    println!("{rounds} rounds, {writes} writes acknowledged, all there");
    Ok(())
}
