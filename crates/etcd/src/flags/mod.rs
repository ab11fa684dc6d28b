//! Command line and environment, read as Go reads them.
//!
//! * `-x` and `--x` are the same; a value comes after `=` or as the next argument, a boolean's only
//!   after `=`; a flag given twice has its last value; the first argument that is no flag ends them.
//! * A flag that is not on the command line is taken from `ETCD_<NAME>`, unless that is empty. Both at
//!   once is fatal: scripts rely on it. An unknown `ETCD_*` name is only worth a warning, because
//!   platforms put names of their own there.
//!
//! Reading is pure: what there is to log is returned as [`Note`]s, since the log is set up by the very
//! flags that are being read.

mod help;
mod past;
mod table;
mod value;

use std::collections::BTreeSet;

use thiserror::Error;
use tracing::{info, warn};

pub use help::{USAGE, help};
pub use table::{FLAGS, Flag, Flags, Support};
pub use value::DiscoveryFallback;

use past::Fate;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// The help text.
    Help,
    /// The version.
    Version,
    /// A server.
    Serve(Box<Settings>),
}

/// Flags as they stand after command line and environment, and what to tell about them.
#[derive(Debug, Default)]
pub struct Settings {
    /// The values.
    pub flags: Flags,
    /// Fields of the flags that somebody set.
    given: BTreeSet<&'static str>,
    /// What to log.
    pub notes: Vec<Note>,
}

impl Settings {
    /// Whether the flag with this field name was set, by command line or environment.
    pub fn is_given(&self, field: &str) -> bool {
        self.given.contains(field)
    }
}

/// Why there is no server to start.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The command line is no command line of ours: exit code 2 and the usage.
    #[error("{0}")]
    Usage(String),
    /// A setting is wrong: exit code 1. The notes are those made before.
    #[error("{problem}")]
    Invalid { problem: String, notes: Vec<Note> },
    /// Flag and environment both set one thing: exit code 1.
    #[error(
        "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))"
    )]
    Conflict { flag: String, env: String },
}

/// Something to log about the settings, once there is a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A variable was used.
    EnvUsed { name: String, value: String },
    /// A variable looks like ours but is none.
    EnvUnknown { name: String },
    /// A variable has the name of a flag that makes no sense there.
    EnvSpecial { name: String },
    /// A flag of an earlier release was mapped.
    Renamed { old: String, new: String },
    /// A flag of an earlier release was dropped.
    Dropped { old: String },
}

impl Note {
    /// Logs it.
    pub fn log(&self) {
        match self {
            Note::EnvUsed { name, value } => info!(
                "variable-name" = %name,
                "variable-value" = %value,
                "recognized and used environment variable"
            ),
            // Only the name: what others keep in the environment may be a password.
            Note::EnvUnknown { name } => {
                warn!("environment-variable" = %name, "unrecognized environment variable")
            }
            Note::EnvSpecial { name } => warn!(key = %name, "cannot set special environment variable"),
            Note::Renamed { old, new } => {
                warn!(flag = %old, replacement = %new, "flag was renamed; please use its replacement")
            }
            Note::Dropped { old } => {
                warn!(flag = %old, "flag was removed and has no effect; please leave it out")
            }
        }
    }
}

/// Reads the command line (without the program's name) and the environment.
pub fn parse(args: &[String], env: &[(String, String)]) -> Result<Invocation, Refusal> {
    let mut parser = Parser::default();
    let Some(rest) = parser.read_args(args)? else {
        return Ok(Invocation::Help);
    };
    if let Some(extra) = rest.first() {
        return Err(parser.invalid(match extra.as_str() {
            mode @ ("gateway" | "grpc-proxy") => format!(
                "'etcd {mode}' is not supported yet; clients take several --endpoints and need no proxy"
            ),
            _ => format!("{extra:?} is not a valid flag"),
        }));
    }
    if parser.settings.flags.version {
        return Ok(Invocation::Version);
    }
    parser.read_env(env)?;
    match parser.past.filter(|_| parser.settings.flags.strict_flags) {
        Some(old) => Err(undefined(&old)),
        None => Ok(Invocation::Serve(Box::new(parser.settings))),
    }
}

fn undefined(name: &str) -> Refusal {
    Refusal::Usage(format!("flag provided but not defined: -{name}"))
}

/// Variables of our prefix that are neither flags nor strangers.
const OTHER_VARIABLES: [&str; 1] = ["ETCD_UNSUPPORTED_ARCH"];

/// What a name on the command line stands for.
#[derive(Clone, Copy)]
enum Known {
    Flag(&'static Flag),
    Past(Fate),
    Ignored,
}

impl Known {
    fn find(name: &str) -> Option<Self> {
        if past::IGNORED.contains(&name) {
            return Some(Known::Ignored);
        }
        Flag::find(name)
            .map(Known::Flag)
            .or_else(|| past::fate(name).map(Known::Past))
    }

    fn is_bool(self) -> bool {
        match self {
            Known::Flag(flag) => flag.is_bool,
            Known::Past(fate) => fate.is_bool(),
            Known::Ignored => true,
        }
    }
}

#[derive(Default)]
struct Parser {
    settings: Settings,
    /// A flag of an earlier release that was met.
    past: Option<String>,
}

impl Parser {
    /// Reads flags up to the first argument that is none; answers what is left, or nothing when help
    /// is asked for.
    fn read_args<'a>(&mut self, args: &'a [String]) -> Result<Option<&'a [String]>, Refusal> {
        let mut rest = args;
        while let Some((arg, tail)) = rest.split_first() {
            let Some(name) = arg.strip_prefix('-').filter(|name| !name.is_empty()) else {
                break;
            };
            rest = tail;
            if name == "-" {
                break;
            }
            let name = name.strip_prefix('-').unwrap_or(name);
            if name.starts_with(['-', '=']) {
                return Err(Refusal::Usage(format!("bad flag syntax: {arg}")));
            }
            let (name, mut value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (name, None),
            };
            let known = match Known::find(name) {
                Some(known) => known,
                None if matches!(name, "h" | "help") => return Ok(None),
                None => return Err(undefined(name)),
            };
            if !known.is_bool() && value.is_none() {
                let (next, tail) = rest
                    .split_first()
                    .ok_or_else(|| Refusal::Usage(format!("flag needs an argument: -{name}")))?;
                (value, rest) = (Some(next.as_str()), tail);
            }
            self.set(name, known, value.unwrap_or("true"))
                .map_err(|problem| self.usage(name, known, value.unwrap_or("true"), &problem))?;
        }
        Ok(Some(rest))
    }

    fn usage(&self, name: &str, known: Known, value: &str, problem: &str) -> Refusal {
        match known {
            Known::Past(Fate::Only(_)) => undefined(name),
            _ if known.is_bool() => {
                Refusal::Usage(format!("invalid boolean value {value:?} for -{name}: {problem}"))
            }
            _ => Refusal::Usage(format!("invalid value {value:?} for flag -{name}: {problem}")),
        }
    }

    /// Reads the variables of flags that were not given so far.
    fn read_env(&mut self, env: &[(String, String)]) -> Result<(), Refusal> {
        let on_command_line = self.settings.given.clone();
        for (name, value) in env {
            let Some(flag) = name.strip_prefix("ETCD_") else {
                continue;
            };
            if name == "ETCD_VERSION" {
                self.note(Note::EnvSpecial { name: name.clone() });
                continue;
            }
            let flag = flag.to_lowercase().replace('_', "-");
            let known = Known::find(&flag).filter(|_| *name == name.to_uppercase());
            match known {
                Some(Known::Flag(known)) if on_command_line.contains(known.field) => {
                    return Err(Refusal::Conflict {
                        flag,
                        env: name.clone(),
                    });
                }
                Some(Known::Ignored) => {}
                Some(_) if value.is_empty() => {}
                Some(Known::Past(Fate::Flag(known))) if self.settings.is_given(known.field) => {
                    self.note(Note::Dropped { old: name.clone() });
                }
                Some(known) => {
                    self.set(&flag, known, value).map_err(|problem| {
                        self.invalid(format!("invalid value {value:?} for {name}: {problem}"))
                    })?;
                    let secret = name.contains("PASSWORD");
                    let value = if secret { "***" } else { value }.to_owned();
                    self.note(Note::EnvUsed {
                        name: name.clone(),
                        value,
                    });
                }
                None if OTHER_VARIABLES.contains(&name.as_str()) => {}
                None => self.note(Note::EnvUnknown { name: name.clone() }),
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, known: Known, value: &str) -> Result<(), String> {
        match known {
            Known::Flag(flag) => self.set_flag(flag, value),
            Known::Ignored => Ok(()),
            Known::Past(fate) => {
                self.past.get_or_insert_with(|| name.to_owned());
                self.set_past(name, fate, value)
            }
        }
    }

    fn set_flag(&mut self, flag: &'static Flag, value: &str) -> Result<(), String> {
        (flag.set)(&mut self.settings.flags, value)?;
        self.settings.given.insert(flag.field);
        Ok(())
    }

    fn set_past(&mut self, name: &str, fate: Fate, value: &str) -> Result<(), String> {
        let old = format!("--{name}");
        match fate {
            Fate::Flag(flag) => {
                self.set_flag(flag, value)?;
                let new = format!("--{}", flag.name());
                self.note(Note::Renamed { old, new });
            }
            Fate::Gate(gate) => {
                let on = server::go::parse_bool(value).ok_or("parse error")?;
                self.settings.flags.feature_gates.set(gate, on);
                let new = format!("--feature-gates={}={on}", gate.name());
                self.note(Note::Renamed { old, new });
            }
            Fate::Only(allowed) if value != allowed => return Err("the feature was removed".into()),
            Fate::Dropped | Fate::DroppedSwitch | Fate::Only(_) => self.note(Note::Dropped { old }),
        }
        Ok(())
    }

    fn note(&mut self, note: Note) {
        self.settings.notes.push(note);
    }

    fn invalid(&mut self, problem: String) -> Refusal {
        Refusal::Invalid {
            problem,
            notes: std::mem::take(&mut self.settings.notes),
        }
    }
}

#[cfg(test)]
mod tests;
