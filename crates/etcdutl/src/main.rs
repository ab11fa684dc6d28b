//! `etcdutl`: works on data folders and backups while no server does.
//!
//! [`arguments`] is the command line, [`output`] how answers look. The work itself is in crates `image`, for single
//! files, and `server`, for whole folders.

// The rim: it waits for locks.
#![allow(clippy::disallowed_methods)]

mod arguments;
#[path = "../../etcdctl/src/completion.rs"]
mod completion;
mod output;
mod progress;
#[cfg(test)]
#[path = "../../etcdctl/src/surface.rs"]
mod surface;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arguments::{Arguments, Command, Layout, Restore, Snapshot};
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser};
use env::RealDisk;
use image::{HashError, ImportError};
use output::{Answer, render};
use server::config::{Url, VERSION, parse_initial_cluster};
use server::convert::{Version, to_bolt, to_native};
use server::restore::{RestoreError, restore};
use server::upkeep::{self, UpkeepError};
use types::print::Format;

/// How often a lock is looked at that somebody else has.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// What goes wrong: an exit status of etcd's, a text, and what to do about it.
#[derive(Debug)]
struct Failure {
    status: u8,
    text: String,
    cure: Option<&'static str>,
}

impl Failure {
    fn new(status: u8, text: impl ToString) -> Self {
        Self {
            status,
            text: text.to_string(),
            cure: None,
        }
    }

    /// The arguments are wrong.
    fn arguments(text: impl ToString) -> Self {
        Self::new(128, text)
    }

    /// There is no such output format.
    fn feature(text: impl ToString) -> Self {
        Self::new(4, text)
    }

    fn cure(self, cure: Option<&'static str>) -> Self {
        Self { cure, ..self }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(1, error)
    }
}

/// What to do about a file that can't be read: it is looked at, and no member depends on it.
fn unread(error: ImportError) -> Failure {
    match error {
        ImportError::Read { file, error } => {
            Failure::new(1, format!("cannot read {}: {error}", file.display())).cure(Some(
                "The file is cut short or damaged, or no backup: save it again.",
            ))
        }
        ImportError::Foreign(file) => {
            let text = format!(
                "cannot read {}: it is a bbolt database, but not etcd's",
                file.display()
            );
            Failure::new(1, text).cure(Some("A backup is what `etcdctl snapshot save` writes."))
        }
        other => Failure::new(1, other),
    }
}

/// What to do about founders of a cluster that make no sense.
fn unfounded(error: impl ToString) -> Failure {
    Failure::new(1, error).cure(Some(
        "--initial-cluster names all members, as name=URL,name=URL; this one is that of --name, with the URLs of \
         --initial-advertise-peer-urls.",
    ))
}

/// What to do about a backup that was not restored.
fn unrestored(error: &RestoreError) -> Failure {
    let cure = match error {
        RestoreError::DataDir(_) => {
            "Name another folder with --data-dir, or move this one away: nothing is overwritten."
        }
        RestoreError::WalDir(_) => {
            "Name another folder with --wal-dir, or move this one away: nothing is overwritten."
        }
        RestoreError::NoSum => {
            "The file is cut short or no backup: save it again. One that was copied from a data folder has no sum, and \
             is taken with --skip-hash-check."
        }
        RestoreError::WrongSum { .. } => "The file is damaged: take another backup.",
        RestoreError::Bootstrap(_) => return unfounded(error),
        _ => return Failure::new(1, error),
    };
    Failure::new(1, error).cure(Some(cure))
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) =>
        {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return failed(&mistyped(&error)),
    };
    match run(arguments) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    eprintln!("Error: {}", failure.text);
    failure.cure.iter().for_each(|cure| eprintln!("  {cure}"));
    ExitCode::from(failure.status)
}

/// A mistake in a command line, in cobra's words where scripts may know them.
fn mistyped(error: &clap::Error) -> Failure {
    let said = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let text = match error.kind() {
        ErrorKind::UnknownArgument => match said(ContextKind::InvalidArg) {
            flag if flag.starts_with('-') => format!("unknown flag: {flag}"),
            word => format!("unexpected argument: {word}"),
        },
        ErrorKind::InvalidSubcommand => {
            let command = said(ContextKind::InvalidSubcommand);
            format!("unknown command {command:?} for \"etcdutl\"")
        }
        _ => error
            .to_string()
            .trim_start_matches("error: ")
            .trim_end()
            .to_owned(),
    };
    Failure::new(1, text).cure(Some(
        "etcdutl --help lists commands, and etcdutl <command> --help their options.",
    ))
}

/// Carries a command out; the answer is for standard output.
fn run(arguments: Arguments) -> Result<String, Failure> {
    let unsupported = || Failure::feature("unsupported output format").cure(Some(Format::ADVICE));
    let format = Format::parse(&arguments.write_out).ok_or_else(unsupported)?;
    match arguments.command {
        Command::Snapshot {
            command: Snapshot::Status { file },
        } => {
            let file = only(
                file,
                Failure::arguments("snapshot status requires exactly one argument"),
            )?;
            check_there(&file, "stat")?;
            let mut progress = progress::Progress::default();
            let status = image::status(&RealDisk, &file, &mut |done, total| {
                progress.at("reading", done, total);
            });
            drop(progress);
            render(format, &Answer::Status(status.map_err(unread)?)).map_err(Failure::feature)
        }
        Command::Snapshot {
            command: Snapshot::Restore(flags),
        } => restore_as(flags),
        Command::Hashkv { file, rev } => {
            let otherwise = Failure::new(1, format!("accepts 1 arg(s), received {}", file.len()));
            let file = only(file, otherwise)?;
            check_there(&file, "stat")?;
            let scratch = env::with_suffix(&file, ".hashkv");
            let mut progress = progress::Progress::default();
            let disk: Arc<dyn env::Disk> = Arc::new(RealDisk);
            let hash = image::hash_kv(&disk, &file, &scratch, rev, &mut |done, total| {
                progress.at("reading", done, total);
            });
            drop(progress);
            let hash = hash.map_err(|error| match error {
                HashError::Import(error) => unread(error),
                HashError::Range(_) => Failure::new(1, error),
            })?;
            render(format, &Answer::Hash(hash)).map_err(Failure::feature)
        }
        Command::Defrag { data_dir } => {
            let mut progress = progress::Progress::default();
            when_free(arguments.timeout, || {
                upkeep::defrag(&data_dir, |done, total| progress.at("writing", done, total))
            })
            .map_err(|error| {
                let folder = data_dir.display();
                Failure::new(1, format!("Failed to defragment etcd data[{folder}] ({error})"))
            })?;
            Ok(String::new())
        }
        Command::Migrate {
            data_dir,
            target_version,
            force,
        } => {
            let target = target(&target_version)?;
            let done = when_free(arguments.timeout, || upkeep::migrate(&data_dir, target, force))?;
            if done == upkeep::Done::Nothing {
                eprintln!("storage version up-to-date");
            }
            Ok(String::new())
        }
        Command::Convert {
            data_dir,
            wal_dir,
            to,
            target_version,
        } => {
            let report = match to {
                Layout::Bolt => to_bolt(&data_dir, wal_dir.as_deref(), target_version)?,
                Layout::Native => to_native(&data_dir, wal_dir.as_deref())?,
            };
            Ok(format!("{report}\n"))
        }
        Command::Completion { shell } => {
            let script = completion::script(shell, Arguments::command(), "etcdutl");
            Ok(String::from_utf8_lossy(&script).into_owned())
        }
        Command::Man { folder } => {
            let written = std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(Arguments::command(), &folder));
            written
                .map_err(|error| Failure::new(1, format!("cannot write to {}: {error}", folder.display())))?;
            Ok(String::new())
        }
        Command::Version => Ok(format!("etcdutl version: {VERSION}\nAPI version: 3.7\n")),
    }
}

fn only(mut files: Vec<PathBuf>, otherwise: Failure) -> Result<PathBuf, Failure> {
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => Err(otherwise),
    }
}

/// Says so as etcd does, which names what it was about to do with the file.
fn check_there(file: &Path, about_to: &str) -> Result<(), Failure> {
    match file.exists() {
        true => Ok(()),
        false => {
            let text = format!("{about_to} {}: no such file or directory", file.display());
            Err(Failure::new(1, text))
        }
    }
}

/// `X.Y`, and nothing else.
fn target(text: &str) -> Result<Version, Failure> {
    let parsed = Version::parse(text).filter(|_| text.matches('.').count() == 1);
    parsed.ok_or_else(|| {
        let text = format!("wrong target version format, expected \"X.Y\", got {text:?}");
        Failure::arguments(text)
    })
}

/// Does it as soon as nobody else has the folder; after `timeout` the other one has won. 0 is no limit.
fn when_free<T>(
    timeout: Duration,
    mut work: impl FnMut() -> Result<T, UpkeepError>,
) -> Result<T, UpkeepError> {
    let began = Instant::now();
    loop {
        match work() {
            Err(error) if is_locked(&error) && (timeout.is_zero() || began.elapsed() < timeout) => {
                std::thread::sleep(LOOKS_EVERY);
            }
            done => return done,
        }
    }
}

fn is_locked(error: &UpkeepError) -> bool {
    matches!(error, UpkeepError::Storage(error) if error.is_locked())
}

fn restore_as(flags: Restore) -> Result<String, Failure> {
    let otherwise = Failure::arguments("snapshot restore requires exactly one argument");
    let backup = only(flags.file, otherwise)?;
    if flags.mark_compacted != (flags.bump_revision > 0) {
        return Err(Failure::arguments(
            "--mark-compacted required if --revision-bump > 0",
        ));
    }
    check_there(&backup, "open")?;
    let data_dir = match flags.data_dir.as_str() {
        "" => format!("{}.etcd", flags.name),
        folder => folder.to_owned(),
    };
    let wish = server::restore::Restore {
        backup,
        data_dir: data_dir.into(),
        wal_dir: Some(flags.wal_dir)
            .filter(|folder| !folder.is_empty())
            .map(PathBuf::from),
        name: flags.name,
        initial_cluster: parse_initial_cluster(&flags.initial_cluster).map_err(unfounded)?,
        token: flags.initial_cluster_token,
        advertise_peer: Url::parse_list(&flags.initial_advertise_peer_urls).map_err(unfounded)?,
        skip_hash_check: flags.skip_hash_check,
        bump_revision: Some(flags.bump_revision).filter(|bump| *bump > 0),
    };
    let mut progress = progress::Progress::default();
    let restored = restore(&wish, &mut |what, done, total| progress.at(what, done, total));
    drop(progress);
    restored.map_err(|error| unrestored(&error))?;
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_flags_defaults_and_shorthands_are_etcdutls_and_those_that_are_ours() {
        let table = include_str!("../surface/etcdutl.txt");
        let differences = surface::differences(&Arguments::command(), table);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}
