//! The project's own chores: `cargo xtask <chore>`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask reference [FOLDER]   fetch the etcd to compare with (into target/reference)";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("reference") => reference(words.next().map(PathBuf::from)),
        _ => {
            eprintln!("{USAGE}");
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
