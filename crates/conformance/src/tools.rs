//! Where the programs are: the real etcd with its tools, and our server.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of etcd the scripts are recorded from and [`crate::differences`] is written against.
pub const REFERENCE_VERSION: &str = "3.5.30";

/// The programs a trial works with.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The real server.
    pub reference: PathBuf,
    /// The real `etcdctl`.
    pub etcdctl: PathBuf,
    /// The real `etcdutl`.
    pub etcdutl: PathBuf,
    /// The server under test.
    pub ours: PathBuf,
    /// What the server under test calls itself.
    pub ours_version: String,
}

impl Tools {
    /// Looks for the real etcd in `KEELSON_REFERENCE`, else in `target/reference`; the server under test is
    /// `KEELSON_ETCD`, else the workspace's own, brought up to date first. The error is for a person to read.
    pub fn find() -> Result<Self, String> {
        let folder = match std::env::var_os("KEELSON_REFERENCE") {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/reference"),
        };
        let reference = folder.join("etcd");
        match version(&reference) {
            Ok(version) if version == REFERENCE_VERSION => {}
            Ok(other) => {
                return Err(format!(
                    "{} is etcd {other}, not {REFERENCE_VERSION}",
                    reference.display()
                ));
            }
            Err(error) => {
                return Err(format!(
                    "no etcd to compare with ({error}): run `cargo xtask reference`"
                ));
            }
        }
        let ours = match std::env::var_os("KEELSON_ETCD") {
            Some(path) => PathBuf::from(path),
            None => built()?,
        };
        let ours_version = version(&ours).map_err(|error| format!("no server to test: {error}"))?;
        Ok(Self {
            etcdctl: folder.join("etcdctl"),
            etcdutl: folder.join("etcdutl"),
            reference,
            ours,
            ours_version,
        })
    }

    /// The same servers, with our own `etcdctl` and `etcdutl` in place of the real ones.
    pub fn with_our_tools(&self) -> Self {
        Self {
            etcdctl: self.ours.with_file_name("etcdctl"),
            etcdutl: self.ours.with_file_name("etcdutl"),
            ..self.clone()
        }
    }

    /// The programs of three members, so many of them ours.
    pub fn programs(&self, ours: usize) -> [&Path; 3] {
        [0, 1, 2].map(|member| match member < ours {
            true => &*self.ours,
            false => &*self.reference,
        })
    }

    /// The minor version below the one of this server.
    pub fn below(&self, program: &Path) -> String {
        let version = match program == self.reference {
            true => REFERENCE_VERSION,
            false => &self.ours_version,
        };
        let mut numbers = version
            .split('.')
            .map(|number| number.parse::<u64>().unwrap_or(0));
        let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        format!("{major}.{}", minor.saturating_sub(1))
    }

    /// Whether the server under test is a newer etcd than the reference, so that the known differences hold. Not so
    /// when the harness checks itself with the real etcd on both sides.
    pub fn ours_is_newer(&self) -> bool {
        self.ours_version != REFERENCE_VERSION
    }
}

/// What `etcd --version` says in its first line.
fn version(etcd: &Path) -> Result<String, String> {
    let output = Command::new(etcd)
        .arg("--version")
        .output()
        .map_err(|e| format!("{}: {e}", etcd.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("etcd Version: "));
    version
        .map(str::to_owned)
        .ok_or_else(|| format!("{} --version says {text:?}", etcd.display()))
}

/// The workspace's own server, in the profile this test was built in. Cargo builds no other package's program for
/// a test, and a stale one would be compared without a word, so it is asked to.
fn built() -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|e| e.to_string())?;
    let profile = test
        .ancestors()
        .nth(2)
        .ok_or("the test program is not in a target folder")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build
            .args([
                "build",
                "--quiet",
                "--workspace",
                "--bin",
                "etcd",
                "--bin",
                "etcdctl",
                "--bin",
                "etcdutl",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().map_err(|e| format!("cargo: {e}"))?;
        if !status.success() {
            return Err("no server to test: it does not build".into());
        }
    }
    Ok(profile.join("etcd"))
}
