//! What users copy from us, done as they do it: the files of `deploy/` and the commands of the documentation.
//!
//! * A [`page`] is a file of Markdown; its blocks of commands are run from top to bottom in one shell, as a reader
//!   types them, and what the page shows as their output is compared.
//! * A [`sandbox`] is where that happens: a machine of its own for each page, with no network but a loopback, so that
//!   every port is free, names are what the page says, and nothing outlives the trial. Nothing is rewritten.
//! * [`members`] are the servers that a deployment file describes, whichever its kind.
//!
//! * What a trial [`needs`] of the machine, such as `unshare` or Prometheus, may be lacking: then it counts as ignored.
//!
//! Three test files use this crate: `tests/docs.rs`, `tests/deploy.rs`, and `tests/packages.rs`, whose trials take longer
//! and more of the machine: `cargo xtask deploy` installs what they need.

// This crate drives processes and files; the rules of the core are not for it.
#![allow(clippy::disallowed_methods)]

pub mod members;
pub mod needs;
pub mod page;
pub mod programs;
pub mod sandbox;

use std::path::{Path, PathBuf};

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The text of a file of the repository.
pub fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(repository(path)).map_err(|error| format!("{path}: {error}"))
}
