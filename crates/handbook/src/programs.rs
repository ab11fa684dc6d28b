//! The programs a reader has: `etcd` and its tools, in one folder.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repository;

/// The server and its tools.
const NAMES: [&str; 3] = ["etcd", "etcdctl", "etcdutl"];

/// A folder to put into `PATH`.
#[derive(Debug)]
pub struct Programs {
    folder: tempfile::TempDir,
}

impl Programs {
    /// Our own programs, under the names a reader types, and etcd's with `go-` in front where they are there: pages about
    /// coming from etcd and going back name them so. The error is for a person to read.
    pub fn find() -> Result<Self, String> {
        let ours = built()?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        for name in NAMES {
            link(&ours.join(name), &folder.path().join(name))?;
            let other = reference().join(name);
            if other.is_file() {
                link(&other, &folder.path().join(format!("go-{name}")))?;
            }
        }
        Ok(Self { folder })
    }

    /// Our server with etcd's own tools, which a reader may have already.
    pub fn with_etcds_tools(&self) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        link(&self.path().join("etcd"), &folder.path().join("etcd"))?;
        for name in ["etcdctl", "etcdutl"] {
            let other = reference().join(name);
            if !other.is_file() {
                return Err(format!("no {name} of etcd's: run `cargo xtask reference`"));
            }
            link(&other, &folder.path().join(name))?;
        }
        Ok(Self { folder })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Where etcd's own programs are, if they are.
fn reference() -> PathBuf {
    std::env::var_os("KEELSON_REFERENCE").map_or_else(|| repository("target/reference"), PathBuf::from)
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
        for name in NAMES {
            build.args(["--bin", name]);
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
