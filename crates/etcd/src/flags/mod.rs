//! Command line and environment, read as Go reads them.
//!
//! * `-x` and `--x` are the same; a value comes after `=` or as the next argument, a boolean's only
//!   after `=`; a flag given twice has its last value; the first argument that is no flag ends them.
//! * A flag that is not on the command line is taken from `ETCD_<NAME>`, unless that is empty. Both at
//!   once is fatal: scripts rely on it. An unknown `ETCD_*` name is only worth a warning, because
//!   platforms put names of their own there.
//!
//! * With `--config-file` (or `ETCD_CONFIG_FILE`) a file takes the place of all that ([`mod@file`]).
//!
//! Reading is pure: what there is to log is returned as [`Note`]s, since the log is set up by the very
//! flags that are being read.

mod file;
mod help;
mod past;
mod table;
mod value;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use insight::secrets::masked;
use server::fields::json;
use thiserror::Error;
use tracing::{info, warn};

pub use help::{USAGE, help};
pub use table::{FLAGS, Flag, Flags, Support};
pub use value::DiscoveryFallback;

use crate::check::Shape;
use crate::first_user::{PASSWORD, PASSWORD_FILE};
use file::Setting;
use past::Fate;
use value::Kind;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// The help text.
    Help,
    /// The version.
    Version,
    /// A server.
    Serve(Box<Settings>),
    /// To tell what a server would be, and be none.
    Check(Box<Settings>, Shape),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment variable of this name.
    Variable(String),
    /// This line of the file of settings.
    Line(usize),
}

/// A value that somebody set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// By what.
    pub source: Source,
    /// As a flag would have it.
    pub text: String,
}

/// Flags as they stand after command line and environment, and what to tell about them.
#[derive(Debug, Default)]
pub struct Settings {
    /// The values.
    pub flags: Flags,
    /// Fields of the flags that somebody set.
    given: BTreeMap<&'static str, Given>,
    /// The file of settings, if they come from one.
    pub file: Option<String>,
    /// What to log.
    pub notes: Vec<Note>,
}

impl Settings {
    /// Whether the flag with this field name was set.
    pub fn is_given(&self, field: &str) -> bool {
        self.given.contains_key(field)
    }

    /// All that was set, by the flags' field names.
    pub fn all_given(&self) -> impl Iterator<Item = (&'static str, &Given)> {
        self.given.iter().map(|(field, given)| (*field, given))
    }

    /// How the flag with this field name was set, if it was.
    pub fn given(&self, field: &str) -> Option<&Given> {
        self.given.get(field)
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
    /// A file took the place of everything else, some of which was set.
    Loaded { path: String, ignored: Vec<String> },
    /// A key of the file means nothing.
    KeyUnknown {
        path: String,
        line: usize,
        key: String,
        /// What to write instead.
        cure: String,
    },
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
            Note::Loaded { path, ignored } => info!(
                path,
                ignored = json(ignored),
                "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided"
            ),
            Note::KeyUnknown {
                path,
                line,
                key,
                cure,
            } => {
                warn!(
                    path,
                    line, key, cure, "unknown key in the configuration file is ignored"
                )
            }
        }
    }
}

/// Reads the command line (without the program's name), the environment, and the file that one of them may name.
pub fn parse(
    args: &[String],
    env: &[(String, String)],
    read_file: impl Fn(&str) -> io::Result<String>,
) -> Result<Invocation, Refusal> {
    if args.first().is_none_or(|first| first != "check-config") {
        return parse_server(args, env, read_file);
    }
    let (shape, rest) = take_shape(&args[1..])?;
    Ok(match parse_server(&rest, env, read_file)? {
        Invocation::Serve(settings) => Invocation::Check(settings, shape),
        other => other,
    })
}

/// Takes `-w json` out of the arguments of `check-config`; the others are a server's.
fn take_shape(args: &[String]) -> Result<(Shape, Vec<String>), Refusal> {
    let (mut shape, mut rest) = (Shape::Table, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, value) = arg
            .split_once('=')
            .map_or((&**arg, None), |(name, value)| (name, Some(value)));
        if !matches!(name, "-w" | "--write-out") {
            rest.push(arg.clone());
            continue;
        }
        let value = value
            .or_else(|| args.next().map(String::as_str))
            .unwrap_or_default();
        shape = Shape::parse(value).ok_or_else(|| {
            Refusal::Usage(format!(
                "invalid value {value:?} for {name}: write 'table' or 'json'"
            ))
        })?;
    }
    Ok((shape, rest))
}

fn parse_server(
    args: &[String],
    env: &[(String, String)],
    read_file: impl Fn(&str) -> io::Result<String>,
) -> Result<Invocation, Refusal> {
    let mut parser = Parser::default();
    let Some(rest) = parser.read_args(args)? else {
        return Ok(Invocation::Help);
    };
    if let Some(extra) = rest.first() {
        return Err(parser.invalid(format!("{extra:?} is not a valid flag")));
    }
    if parser.settings.flags.version {
        return Ok(Invocation::Version);
    }
    match parser.file_named(env) {
        Some(path) => parser = Parser::default().read_file(path, parser.ignored(env), read_file)?,
        None => parser.read_env(env)?,
    }
    match parser.past.filter(|_| parser.settings.flags.strict_flags) {
        Some(old) => Err(undefined(&old)),
        None => Ok(Invocation::Serve(Box::new(parser.settings))),
    }
}

/// Reads a file of settings, unless it is too long to be one.
pub fn read_file(path: &str) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(file::BYTES_MAX + 1);
    match file.read_to_string(&mut text)? as u64 > file::BYTES_MAX {
        true => Err(io::Error::other("too long for a file of settings")),
        false => Ok(text),
    }
}

fn undefined(name: &str) -> Refusal {
    Refusal::Usage(format!("flag provided but not defined: -{name}"))
}

/// Variables of our prefix that are neither flags nor strangers.
const OTHER_VARIABLES: [&str; 3] = ["ETCD_UNSUPPORTED_ARCH", PASSWORD, PASSWORD_FILE];

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
            Known::Flag(flag) => flag.is_bool(),
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
            self.set(name, known, value.unwrap_or("true"), &Source::Flag)
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
                Some(Known::Flag(known)) if on_command_line.contains_key(known.field) => {
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
                    self.set(&flag, known, value, &Source::Variable(name.clone()))
                        .map_err(|problem| {
                            self.invalid(format!("invalid value {value:?} for {name}: {problem}"))
                        })?;
                    self.note(Note::EnvUsed {
                        name: name.clone(),
                        value: masked(&flag, value),
                    });
                }
                None if OTHER_VARIABLES.contains(&name.as_str()) => {}
                None => self.note(Note::EnvUnknown { name: name.clone() }),
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, known: Known, value: &str, source: &Source) -> Result<(), String> {
        match known {
            Known::Flag(flag) => self.set_flag(flag, value, source),
            Known::Ignored => Ok(()),
            Known::Past(fate) => {
                self.past.get_or_insert_with(|| name.to_owned());
                self.set_past(name, fate, value, source)
            }
        }
    }

    fn set_flag(&mut self, flag: &'static Flag, value: &str, source: &Source) -> Result<(), String> {
        (flag.set)(&mut self.settings.flags, value)?;
        self.record(flag, value.to_owned(), source);
        Ok(())
    }

    fn record(&mut self, flag: &'static Flag, text: String, source: &Source) {
        let source = source.clone();
        self.settings.given.insert(flag.field, Given { source, text });
    }

    fn set_past(&mut self, name: &str, fate: Fate, value: &str, source: &Source) -> Result<(), String> {
        let old = format!("--{name}");
        match fate {
            Fate::Flag(flag) => {
                self.set_flag(flag, value, source)?;
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

    /// The file of settings that is named, by command line or environment.
    fn file_named(&self, env: &[(String, String)]) -> Option<String> {
        let by_env = || env.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE");
        let named = match self.settings.flags.config_file.as_str() {
            "" => by_env().map_or("", |(_, path)| path),
            path => path,
        };
        (!named.is_empty()).then(|| named.to_owned())
    }

    /// What was set and does not count beside a file.
    fn ignored(&self, env: &[(String, String)]) -> Vec<String> {
        let is_file = |field: &str| field == "config_file";
        let flags = FLAGS
            .iter()
            .filter(|flag| self.settings.is_given(flag.field) && !is_file(flag.field));
        let names = env.iter().filter(|(name, value)| {
            let flag = FLAGS.iter().find(|flag| *name == flag.variable());
            !value.is_empty() && flag.is_some_and(|flag| !is_file(flag.field))
        });
        let flags = flags.map(|flag| format!("--{}", flag.name()));
        flags.chain(names.map(|(name, _)| name.clone())).collect()
    }

    /// Reads the settings of a file.
    fn read_file(
        mut self,
        path: String,
        ignored: Vec<String>,
        read: impl Fn(&str) -> io::Result<String>,
    ) -> Result<Self, Refusal> {
        let opened = read(&path).map_err(|error| format!("open {path}: {error} (--config-file)"));
        let set = opened.and_then(|text| {
            let set = file::read(&text).and_then(|entries| {
                let mut entries = entries.iter();
                entries.try_for_each(|entry| self.set_entry(&path, entry))
            });
            set.map_err(|problem| format!("{path}: {problem}"))
        });
        set.map_err(|problem| self.invalid(problem))?;
        self.note(Note::Loaded {
            path: path.clone(),
            ignored,
        });
        self.settings.file = Some(path);
        Ok(self)
    }

    fn set_entry(&mut self, path: &str, entry: &file::Entry) -> Result<(), file::Problem> {
        match (entry.flag(), past::fate(&entry.key)) {
            (Some(flag), _) => self.set_from_file(flag, entry),
            (None, Some(fate)) => {
                self.past.get_or_insert_with(|| entry.key.clone());
                self.set_past_from_file(fate, entry)
            }
            (None, None) => {
                self.note(Note::KeyUnknown {
                    path: path.to_owned(),
                    line: entry.line,
                    key: entry.key.clone(),
                    cure: entry.cure(),
                });
                Ok(())
            }
        }
    }

    fn set_from_file(&mut self, flag: &'static Flag, entry: &file::Entry) -> Result<(), file::Problem> {
        let Some(setting) = entry.setting(flag.kind)? else {
            return Ok(());
        };
        let text = setting.text();
        // In a file, etcd does not even look at this one, whose earlier values are still around.
        if flag.field == "v2_deprecation" {
            self.record(flag, text, &Source::Line(entry.line));
            return Ok(());
        }
        let flags = &mut self.settings.flags;
        let set = match setting {
            Setting::Text(text) => (flag.set)(flags, &text),
            Setting::Items(items) => (flag.set_items)(flags, items),
        };
        set.map_err(|problem| entry.refused(flag.kind, &text, &problem))?;
        self.record(flag, text, &Source::Line(entry.line));
        Ok(())
    }

    /// What was dropped is passed over whatever its value: in a file, etcd has never minded.
    fn set_past_from_file(&mut self, fate: Fate, entry: &file::Entry) -> Result<(), file::Problem> {
        let old = entry.key.clone();
        let new = match fate {
            Fate::Flag(flag) => {
                self.set_from_file(flag, entry)?;
                flag.name()
            }
            Fate::Gate(gate) => {
                let text = entry
                    .setting(Kind::Bool)?
                    .map_or("false".into(), |setting| setting.text());
                let on = server::go::parse_bool(&text);
                let on = on.ok_or_else(|| entry.refused(Kind::Bool, &text, "parse error"))?;
                self.settings.flags.feature_gates.set(gate, on);
                format!("feature-gates: {}={on}", gate.name())
            }
            Fate::Dropped | Fate::DroppedSwitch | Fate::Only(_) => {
                self.note(Note::Dropped { old });
                return Ok(());
            }
        };
        self.note(Note::Renamed { old, new });
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
