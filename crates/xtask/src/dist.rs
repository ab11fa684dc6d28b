//! What is handed out: programs laid out by how they are used.
//!
//! A server's work is spread thinly over much code, so most of its time goes into fetching that code. The compiler can
//! put together what runs together once it knows what that is: a first build of `etcd` counts while it serves
//! (`crates/bench/training`), and the second one uses the counts. Profile-guided optimization, as in the rustc book.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why there is nothing to hand out.
#[derive(Debug)]
pub enum Failed {
    /// The compiler's own tools are not installed.
    NoTools(PathBuf),
    /// A program could not be started.
    NotStarted(String, io::Error),
    /// A step ended badly; it has said why.
    Step(String),
    /// A file could not be read or written.
    File(PathBuf, io::Error),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::NoTools(path) => write!(
                f,
                "{} is not there: rustup component add llvm-tools",
                path.display()
            ),
            Failed::NotStarted(program, error) => write!(f, "{program} can't be run: {error}"),
            Failed::Step(step) => write!(f, "failed: {step}"),
            Failed::File(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

/// Builds `etcd`, `etcdctl`, `etcdutl` and `etcd-benchmark` into `target/dist`.
pub fn build() -> Result<(), Failed> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = &home.canonicalize().map_err(|error| Failed::File(home, error))?;
    let merge = llvm_profdata()?;
    // Named, so that the flags are for what is built, and not for what builds it.
    let host = rustc(&["--print", "host-tuple"])?;
    let work = root.join("target/pgo");
    let (counts, profile) = (work.join("counts"), work.join("counts.profdata"));
    renew(&counts)?;
    run(cargo(root, &["-p", "bench"]))?;

    // In the very way in which the second one is built: what is counted goes by the names of pieces of the compiler's.
    let mut counting = cargo(root, &["-p", "etcd"]);
    counting
        .env("CARGO_TARGET_DIR", work.join("counting"))
        .args(["--target", &host])
        .env("RUSTFLAGS", format!("-Cprofile-generate={}", counts.display()));
    run(counting)?;

    let mut training = Command::new(root.join("crates/bench/training"));
    training.arg(work.join("counting").join(&host).join("dist/etcd"));
    run(training)?;

    let mut merging = Command::new(merge);
    merging.args(["merge", "-o"]).arg(&profile).arg(&counts);
    run(merging)?;

    let mut guided = cargo(root, &["-p", "etcd", "-p", "etcdctl", "-p", "etcdutl"]);
    guided
        .env("CARGO_TARGET_DIR", work.join("guided"))
        .args(["--target", &host])
        .env("RUSTFLAGS", format!("-Cprofile-use={}", profile.display()));
    run(guided)?;
    for program in ["etcd", "etcdctl", "etcdutl"] {
        let from = work.join("guided").join(&host).join("dist").join(program);
        let to = root.join("target/dist").join(program);
        fs::copy(&from, &to).map_err(|error| Failed::File(from, error))?;
        println!("{}", to.display());
    }
    Ok(())
}

fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(root)
        .args(["build", "--profile", "dist"])
        .args(args);
    command
}

/// The tool that comes with this very compiler: the counts' format changes with it.
fn llvm_profdata() -> Result<PathBuf, Failed> {
    let tool = Path::new(&rustc(&["--print", "target-libdir"])?).join("../bin/llvm-profdata");
    match tool.exists() {
        true => Ok(tool),
        false => Err(Failed::NoTools(tool)),
    }
}

fn rustc(args: &[&str]) -> Result<String, Failed> {
    let output = Command::new("rustc").args(args).output();
    let output = output.map_err(|error| Failed::NotStarted("rustc".to_owned(), error))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn renew(folder: &Path) -> Result<(), Failed> {
    let emptied = match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    };
    emptied.map_err(|error| Failed::File(folder.to_owned(), error))
}

fn run(mut command: Command) -> Result<(), Failed> {
    let step = format!("{command:?}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Failed::Step(step)),
        Err(error) => Err(Failed::NotStarted(step, error)),
    }
}
