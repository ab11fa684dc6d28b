//! Trials: what is run under which name, and what happens when the real etcd is not there.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Runtime;

use crate::compare::{Step, compare};
use crate::differences::DIFFERENCES;
use crate::script::{self, Script};
use crate::session;
use crate::tools::Tools;

/// A trial's work.
pub type Work = Box<dyn FnOnce(&Tools) -> Result<(), Stop> + Send>;

/// Why a trial did not come to its end, for a person to read.
#[derive(Debug)]
pub enum Stop {
    /// Something went wrong.
    Failed(String),
    /// This machine does not allow it. The trial counts as ignored.
    Impossible(String),
}

impl From<String> for Stop {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

/// Runs trials as `cargo test` does, with its arguments. Without the programs to work with they count as ignored,
/// or fail where `CI=true` says that nothing may be left out.
pub fn run(trials: Vec<(String, Work)>) -> ExitCode {
    let arguments = Arguments::from_args();
    let tools = Arc::new(if arguments.list {
        Err("not needed".to_owned())
    } else {
        Tools::find()
    });
    if let (false, Err(reason)) = (arguments.list, &*tools) {
        eprintln!("{reason}");
    }
    let trials = trials
        .into_iter()
        .map(|(name, work)| {
            let tools = tools.clone();
            Trial::ignorable_test(name, move || match &*tools {
                Ok(tools) => match work(tools) {
                    Ok(()) => Ok(Completion::Completed),
                    Err(Stop::Impossible(reason)) => Ok(Completion::ignored_with(reason)),
                    Err(Stop::Failed(error)) => Err(Failed::from(error)),
                },
                Err(reason) if std::env::var("CI").is_ok_and(|ci| ci == "true") => Err(reason.into()),
                Err(reason) => Ok(Completion::ignored_with(reason)),
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What a trial's futures run on.
pub fn runtime() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())
}

/// A number from the environment.
///
/// # Panics
/// If what is there is no number; a test that silently took another one would not be what was asked for.
pub fn number(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text:?}")),
        Err(_) => default,
    }
}

/// A trial for every script of a folder.
pub fn scripts(folder: &str) -> Vec<(String, Work)> {
    script::in_folder(folder)
        .into_iter()
        .map(|script| {
            (
                script.name.clone(),
                Box::new(move |tools: &Tools| Ok(check(&script, tools)?)) as Work,
            )
        })
        .collect()
}

/// How often the real etcd may try to say what is recorded. It starts a watcher a moment before it knows the
/// watcher's options, so on a busy machine the first events of a history may lack their previous values. And a change
/// of members that its raft drops, as in a change of leaders, is never answered.
const TRIES: usize = 4;

/// Runs a script on both servers at the same time. The real one must say what is recorded, ours the same but for
/// the known differences.
fn check(script: &Script, tools: &Tools) -> Result<(), String> {
    let (reference, ours) = std::thread::scope(|scope| {
        let reference = scope.spawn(|| as_recorded(script, tools));
        let ours = scope.spawn(|| session::run(tools, &tools.ours, &script.text));
        (reference.join(), ours.join())
    });
    let reference = reference.map_err(|_| "the real etcd's session panicked")??;
    let ours = ours.map_err(|_| "our server's session panicked")?;
    let differences = if tools.ours_is_newer() { DIFFERENCES } else { &[] };
    let mut report = compare(&reference[..ours.steps.len()], &ours.steps, differences);
    if let Err(error) = ours.recording {
        report.push_str(&error);
    }
    match report.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "our server answers otherwise (- the real etcd, + ours):\n{report}"
        )),
    }
}

/// The real etcd's answers, which are those of the recording, or make a new one.
fn as_recorded(script: &Script, tools: &Tools) -> Result<Vec<Step>, String> {
    let mut change = String::new();
    for _ in 0..TRIES {
        let run = session::run(tools, &tools.reference, &script.text);
        let recording = match run.recording {
            Ok(recording) => recording,
            Err(error) => {
                change = error;
                continue;
            }
        };
        if std::env::var("UPDATE").is_ok_and(|update| update == "1") {
            script.record(&recording)?;
            return Ok(run.steps);
        }
        match first_change(&script.text, &recording) {
            None => return Ok(run.steps),
            Some(found) => change = found,
        }
    }
    Err(format!(
        "the real etcd does not say what is recorded (UPDATE=1 records it):\n{change}"
    ))
}

/// The first line in which a recording is not what it was.
pub fn first_change(recorded: &str, now: &str) -> Option<String> {
    let (mut old, mut new) = (recorded.lines(), now.lines());
    for number in 1.. {
        match (old.next(), new.next()) {
            (None, None) => return None,
            (left, right) if left == right => {}
            (left, right) => {
                let [left, right] = [left, right].map(|line| line.unwrap_or("(end)"));
                return Some(format!("line {number}\n  - {left}\n  + {right}"));
            }
        }
    }
    None
}
