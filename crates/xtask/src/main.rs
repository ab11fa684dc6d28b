//! The project's own chores: `cargo xtask <chore>`.

// Chores live by the clock.
#![allow(clippy::disallowed_methods)]

mod dist;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

const USAGE: &str = "\
cargo xtask reference [FOLDER]   fetch the etcd to compare with (into target/reference)
cargo xtask dist                 what is handed out, laid out by how it is used (into target/dist)
cargo xtask clients              clients of other makes against ours (needs the registries of their languages)
cargo xtask deploy               deploy/ on its platforms: image, packages, Prometheus (installs their tools, as root)
cargo xtask nightly [ROUNDS]     the long form of the crash and fault tests (10 rounds of every fault)";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("reference") => reference(words.next().map(PathBuf::from)),
        Some("dist") => dist(),
        Some("clients") => clients(),
        Some("deploy") => deploy(),
        Some("nightly") => nightly(&words.next().unwrap_or_else(|| "10".to_owned())),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

/// Builds what is handed out.
fn dist() -> ExitCode {
    match dist::build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("cargo xtask dist: {failed}");
            ExitCode::FAILURE
        }
    }
}

/// Runs clients of other makes against what is built here: a script, for it is all about package managers.
fn clients() -> ExitCode {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = home.join("../../target");
    let build = Command::new("cargo").args(["build", "-p", "etcd"]).status();
    let run = || {
        Command::new(home.join("clients/run"))
            .args([target.join("debug/etcd"), target.join("clients")])
            .status()
    };
    match build.and_then(|built| if built.success() { run() } else { Ok(built) }) {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask clients: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Tries the files of `deploy/` on their platforms: a script, for it is all about package managers, too.
fn deploy() -> ExitCode {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = home.join("../../target/deploy");
    match Command::new(home.join("deploy")).arg(folder).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask deploy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Kills of one server that correspond to one round of a cluster's faults; both take about a minute.
const CRASHES_PER_ROUND: u32 = 100;

/// Runs the tests that repeat something by chance, often and from another seed each night.
fn nightly(rounds: &str) -> ExitCode {
    let Ok(count) = rounds.parse::<u32>() else {
        eprintln!("cargo xtask nightly: not a number of rounds: {rounds}");
        return ExitCode::FAILURE;
    };
    let day = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() / 86_400)
        .to_string();
    println!("seed {day}");
    let status = Command::new("cargo")
        .args([
            "test",
            "-p",
            "conformance",
            "--test",
            "crash",
            "--test",
            "cluster",
        ])
        .args(["--no-fail-fast", "--", "--nocapture"])
        .env("KEELSON_CRASH_ROUNDS", (count * CRASHES_PER_ROUND).to_string())
        .env("KEELSON_CRASH_SEED", &day)
        .env("KEELSON_CLUSTERS", "all")
        .env("KEELSON_FAULT_ROUNDS", rounds)
        .env("KEELSON_FAULT_SEED", &day)
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask nightly: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the script `reference-etcd`; a few lines of apt-get are clearest as shell.
fn reference(folder: Option<PathBuf>) -> ExitCode {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = folder.unwrap_or_else(|| home.join("../../target/reference"));
    match Command::new(home.join("reference-etcd")).arg(folder).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask reference: the script can't be run: {error}");
            ExitCode::FAILURE
        }
    }
}
