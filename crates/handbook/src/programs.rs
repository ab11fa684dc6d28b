//! The programs a reader has: `etcd` and its tools, in one folder.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repository;

/// A folder to put into `PATH`.
#[derive(Debug)]
pub struct Programs {
    folder: tempfile::TempDir,
}

impl Programs {
    /// Our server, and etcd's own tools where they are there, so that pages hold for the tools a reader has already; else
    /// our tools. The error is for a person to read.
    pub fn find() -> Result<Self, String> {
        let ours = built()?;
        let reference = match std::env::var_os("KEELSON_REFERENCE") {
            Some(folder) => PathBuf::from(folder),
            None => repository("target/reference"),
        };
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        for name in ["etcd", "etcdctl", "etcdutl"] {
            let (own, other) = (ours.join(name), reference.join(name));
            let program = match name != "etcd" && other.is_file() {
                true => other,
                false => own,
            };
            if !program.is_file() {
                return Err(format!("no {name}: run `cargo xtask reference`"));
            }
            link(&program, &folder.path().join(name))?;
        }
        // What comes and goes between versions of etcd, under a name of its own.
        link(&reference.join("etcd"), &folder.path().join("go-etcd"))?;
        link(&ours.join("etcdutl"), &folder.path().join("keelson-etcdutl"))?;
        Ok(Self { folder })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn link(program: &Path, name: &Path) -> Result<(), String> {
    let program = program
        .canonicalize()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    symlink(program, name).map_err(|error| error.to_string())
}

/// The workspace's own programs, in the profile this test was built in and brought up to date.
fn built() -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let profile = test
        .ancestors()
        .nth(2)
        .ok_or("the test program is not in a target folder")?
        .to_owned();
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--workspace"]);
        for name in ["etcd", "etcdutl", "etcdctl"] {
            if repository(&format!("crates/{name}")).is_dir() {
                build.args(["--bin", name]);
            }
        }
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .map_err(|error| format!("cargo: {error}"))?;
        if !status.success() {
            return Err("no programs to try: they do not build".into());
        }
    }
    Ok(profile)
}
