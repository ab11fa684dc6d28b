//! From words and variables to [`CommandLine`], with the manners of cobra that scripts rely on: a switch may be given as
//! `--flag=false`, the last of several flags wins, commands may be cut short as long as they are unambiguous, and
//! every global flag may come from a variable `ETCDCTL_FLAG`, but not from both.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use types::go;

use crate::arguments::CommandLine;
use crate::failure::{Failure, Status};

/// Variables that name something else than a flag.
const OTHER_VARIABLES: [&str; 3] = ["ETCDCTL_API", "ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

/// The flag that adds up.
const ENDPOINTS: &str = "endpoints";

/// What a command line comes to.
#[derive(Debug)]
pub enum Parsed {
    /// It is to be carried out. The second are flags that were really given, as opposed to left at their default.
    Run(Box<CommandLine>, Given),
    /// It asks for a text: help.
    Print(String),
}

/// The global flags that were given, on the command line or by a variable.
#[derive(Clone, Debug, Default)]
pub struct Given(Vec<String>);

impl Given {
    /// Whether the flag was.
    pub fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|given| given == flag)
    }
}

/// Reads a command line. `variable` looks into the environment.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Parsed, Failure> {
    let (command, from_variables) = with_variables(command(), variable);
    let matches = match command.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => return said(&error),
    };
    let levels = Levels::of(&matches);
    if let Some(both) = from_variables.iter().find(|flag| levels.say(flag)) {
        return Err(said_twice(both));
    }
    let globals = CommandLine::command();
    let globals = globals.get_arguments().map(|arg| arg.get_id().to_string());
    let given = globals.filter(|flag| levels.say(flag) || from_variables.contains(flag));
    let given = Given(given.collect());
    let line = CommandLine::from_arg_matches(&matches);
    let mut line = line.map_err(|error| Failure::new(Status::Error, error))?;
    if levels.say(ENDPOINTS) {
        line.global.endpoints = levels.endpoints();
    }
    Ok(Parsed::Run(Box::new(line), given))
}

/// Flags with their variables as defaults, and those that have one.
fn with_variables(command: Command, variable: impl Fn(&str) -> Option<String>) -> (Command, Vec<String>) {
    let mut found = Vec::new();
    let command = command.mut_args(|arg| {
        let value = variable(&variable_of(arg.get_id().as_str()));
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return arg;
        };
        found.push(arg.get_id().to_string());
        match arg.get_value_delimiter() {
            Some(delimiter) => {
                arg.default_values(value.split(delimiter).map(str::to_owned).collect::<Vec<_>>())
            }
            None => arg.default_value(value),
        }
    });
    (command, found)
}

fn said_twice(flag: &str) -> Failure {
    let (flag, variable) = (flag.replace('_', "-"), variable_of(flag));
    let text = format!("--{flag} is on the command line, and {variable} is set");
    Failure::new(Status::Error, text).cure(format!("Leave out --{flag}, or unset {variable}."))
}

/// What was said in front of the command, behind its group, and behind itself.
struct Levels<'a>(Vec<&'a ArgMatches>);

impl<'a> Levels<'a> {
    fn of(matches: &'a ArgMatches) -> Self {
        let below = |level: &&'a ArgMatches| level.subcommand().map(|(_, below)| below);
        Self(std::iter::successors(Some(matches), below).collect())
    }

    /// Whether a flag was said.
    fn say(&self, flag: &str) -> bool {
        self.saying(flag).next().is_some()
    }

    fn saying(&self, flag: &str) -> impl Iterator<Item = &'a ArgMatches> {
        let is_said = move |level: &&ArgMatches| level.value_source(flag) == Some(ValueSource::CommandLine);
        self.0.iter().copied().filter(is_said)
    }

    fn endpoints(&self) -> Vec<String> {
        let lists = self
            .saying(ENDPOINTS)
            .filter_map(|level| level.get_many::<String>(ENDPOINTS));
        lists.flatten().cloned().collect()
    }
}

/// Variables that look like ours and are not, of those there are.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let command = CommandLine::command();
    let known: Vec<_> = command
        .get_arguments()
        .map(|arg| variable_of(arg.get_id().as_str()))
        .collect();
    names
        .filter(|name| name.starts_with("ETCDCTL_"))
        .filter(|name| !known.contains(name) && !OTHER_VARIABLES.contains(&name.as_str()))
        .collect()
}

/// The whole tree, with flags as Go takes them.
pub fn command() -> Command {
    let command = as_in_go(CommandLine::command()).mut_arg(ENDPOINTS, |arg| arg.global(false));
    let endpoints = command.get_arguments().find(|arg| arg.get_id() == ENDPOINTS);
    let endpoints = endpoints.cloned().map(|arg| arg.default_value(Resettable::Reset));
    command.mut_subcommands(|command| with_everywhere(command, &endpoints))
}

/// Endpoints said in front of a command and behind it are one list. Of a flag that clap knows to be global only one of
/// the two would be left, so this one is a flag of every command by itself.
fn with_everywhere(command: Command, flag: &Option<Arg>) -> Command {
    command
        .args(flag)
        .mut_subcommands(|command| with_everywhere(command, flag))
}

/// The words of one line of input, read as a command of type `T`.
pub fn line<T: CommandFactory + FromArgMatches>(
    words: impl IntoIterator<Item = OsString>,
) -> Result<T, String> {
    let matches = as_in_go(T::command())
        .try_get_matches_from(words)
        .map_err(|error| explain(&error).0)?;
    T::from_arg_matches(&matches).map_err(|error| error.to_string())
}

/// Switches take `=true` and `=false`, and the last of several flags wins.
fn as_in_go(command: Command) -> Command {
    command
        .args_override_self(true)
        .infer_subcommands(true)
        .mut_args(|arg| {
            let has_none = arg.get_default_values() == [""];
            // `-h` is about the command itself, `--help` about all.
            let (is_global, arg) = (arg.is_global_set(), arg.hide_default_value(has_none));
            let arg = arg.hide_short_help(is_global);
            match arg.get_action() {
                ArgAction::SetTrue => switch(arg),
                _ => arg,
            }
        })
        .mut_subcommands(as_in_go)
}

/// A flag that stands for itself, or has one of Go's booleans behind an equals sign.
fn switch(arg: Arg) -> Arg {
    let arg = match arg.get_default_values().is_empty() {
        true => arg.default_value("false").hide_default_value(true),
        false => arg,
    };
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .hide_possible_values(true)
        .default_missing_value("true")
        .value_parser(boolean)
}

fn variable_of(flag: &str) -> String {
    format!("ETCDCTL_{}", flag.replace('-', "_").to_uppercase())
}

/// What clap has to say: a text that was asked for, or an error in cobra's words.
fn said(error: &clap::Error) -> Result<Parsed, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Ok(Parsed::Print(error.render().to_string()))
        }
        _ => {
            let (text, cure) = explain(error);
            let failure = Failure::new(Status::Error, text);
            Err(match cure {
                Some(cure) => failure.cure(cure),
                None => {
                    failure.cure("etcdctl --help lists commands, and etcdctl <command> --help their options.")
                }
            })
        }
    }
}

/// An error of clap's in cobra's words, and what it proposes.
fn explain(error: &clap::Error) -> (String, Option<String>) {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let flag = |text: String| text.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
    let proposal = |kind| match text(kind) {
        proposal if proposal.is_empty() => None,
        proposal => Some(format!("Did you mean {proposal}?")),
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let arg = text(ContextKind::InvalidArg);
            let what = if arg.starts_with('-') {
                "unknown flag"
            } else {
                "unexpected argument"
            };
            (format!("{what}: {arg}"), proposal(ContextKind::SuggestedArg))
        }
        ErrorKind::InvalidSubcommand => (
            format!(
                "unknown command {:?} for \"etcdctl\"",
                text(ContextKind::InvalidSubcommand)
            ),
            proposal(ContextKind::SuggestedSubcommand),
        ),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let source = std::error::Error::source(error).map(|source| format!(": {source}"));
            let value = text(ContextKind::InvalidValue);
            let (flag, source) = (flag(text(ContextKind::InvalidArg)), source.unwrap_or_default());
            match value.is_empty() {
                true => (format!("flag needs an argument: {flag}"), None),
                false => (
                    format!("invalid argument {value:?} for {flag:?} flag{source}"),
                    None,
                ),
            }
        }
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            (first.trim_start_matches("error: ").to_owned(), None)
        }
    }
}

/// A boolean as Go reads it.
pub fn boolean(text: &str) -> Result<bool, String> {
    go::parse_bool(text).ok_or_else(|| format!("{text:?} is neither true nor false"))
}

/// An integer as Go reads it.
pub fn integer(text: &str) -> Result<i64, String> {
    go::parse_int(text).map_err(|error| match error {
        go::NumberError::Syntax => "it is not a number".into(),
        go::NumberError::Range => "it is too large".into(),
    })
}

/// A duration as Go reads it.
pub fn duration(text: &str) -> Result<Duration, String> {
    go::parse_duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Command as Chosen, Group, Lease};

    fn parsed(words: &str, variables: &[(&str, &str)]) -> Result<Parsed, Failure> {
        let look = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        parse(words.split(' ').map(OsString::from), look)
    }

    fn line_of(words: &str, variables: &[(&str, &str)]) -> (CommandLine, Given) {
        match parsed(words, variables) {
            Ok(Parsed::Run(line, given)) => (*line, given),
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn the_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn commands_flags_defaults_and_shorthands_are_etcdctls_and_those_that_are_ours() {
        let table = include_str!("../surface/etcdctl.txt");
        let differences = crate::surface::differences(&command(), table);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    #[test]
    fn every_global_flag_has_a_variable_that_does_the_same() {
        let tree = CommandLine::command();
        let mut count = 0;
        for flag in tree.get_arguments().filter_map(Arg::get_long) {
            // A value that is good for the flag and is not its default.
            let values = ["7s", "7", "true", "false", "other"];
            let usual = format!("{:?}", line_of("etcdctl get k", &[]).0.global);
            let changes = values.iter().find_map(|value| {
                let line = parsed(&format!("etcdctl get k --{flag}={value}"), &[]);
                let Ok(Parsed::Run(line, _)) = line else {
                    return None;
                };
                let global = format!("{:?}", line.global);
                (global != usual).then_some((*value, global))
            });
            let (value, global) = changes.unwrap_or_else(|| panic!("no value for {flag}"));
            let variable = variable_of(flag);
            let (line, given) = line_of("etcdctl get k", &[(&variable, value)]);
            assert_eq!(format!("{:?}", line.global), global, "{variable}");
            assert!(given.has(&flag.replace('-', "_")), "{variable}");
            count += 1;
        }
        assert_eq!(count, 21);
    }

    #[test]
    fn flags_stand_where_they_like_and_the_last_one_wins() {
        let (line, _) = line_of(
            "etcdctl get --prefix --endpoints=a,b --limit 3 k --limit=4 --prefix=false -w json --endpoints c",
            &[],
        );
        let Chosen::Get(get) = line.command else {
            panic!("{line:?}")
        };
        assert_eq!((get.prefix, get.limit, get.words), (false, 4, vec!["k".into()]));
        assert_eq!(line.global.write_out, "json");
        assert!(line.global.insecure_transport && !line.global.hex);
        assert_eq!(line.global.endpoints, ["a", "b", "c"]);
    }

    #[test]
    fn endpoints_before_and_behind_a_command_are_one_list_in_place_of_the_default() {
        let words = "etcdctl --endpoints=a,b lease --endpoints c list --endpoints=d --endpoints=e,f";
        let (line, given) = line_of(words, &[]);
        assert_eq!(line.global.endpoints, ["a", "b", "c", "d", "e", "f"]);
        assert!(given.has(ENDPOINTS));
        let (line, given) = line_of("etcdctl lease list", &[]);
        assert_eq!(line.global.endpoints, ["127.0.0.1:2379"]);
        assert!(!given.has(ENDPOINTS));
        let in_front = parsed("etcdctl --endpoints=c get k", &[("ETCDCTL_ENDPOINTS", "a")]).unwrap_err();
        assert!(in_front.text.contains("ETCDCTL_ENDPOINTS"));
    }

    #[test]
    fn commands_may_be_cut_short_while_they_are_unambiguous() {
        let (line, _) = line_of("etcdctl lea keep 1f --once", &[]);
        let Chosen::Lease(Group {
            command: Lease::KeepAlive { words, once },
        }) = line.command
        else {
            panic!("{line:?}")
        };
        assert_eq!((words, once), (vec!["1f".into()], true));
    }

    #[test]
    fn what_follows_two_dashes_is_no_flag() {
        let (line, _) = line_of("etcdctl put k -- -v", &[]);
        let Chosen::Put(put) = line.command else {
            panic!("{line:?}")
        };
        assert_eq!(put.words, ["k", "-v"]);
        let (line, _) = line_of("etcdctl watch k --rev=3 -- echo -n", &[]);
        let Chosen::Watch(watch) = line.command else {
            panic!("{line:?}")
        };
        assert_eq!(
            (watch.words, watch.exec),
            (vec!["k".into()], vec!["echo".into(), "-n".into()])
        );
    }

    #[test]
    fn a_variable_stands_in_for_a_flag_but_not_beside_it() {
        let variables = [
            ("ETCDCTL_ENDPOINTS", "a,b"),
            ("ETCDCTL_HEX", "true"),
            ("ETCDCTL_KEY", ""),
        ];
        let (line, given) = line_of("etcdctl get k", &variables);
        assert_eq!(line.global.endpoints, ["a", "b"]);
        assert!(line.global.hex && line.global.key.is_empty());
        assert!(given.has("endpoints") && !given.has("key"));
        let both = parsed("etcdctl get k --endpoints=c", &variables).unwrap_err();
        assert_eq!(both.status, 1);
        assert!(both.text.contains("--endpoints") && both.text.contains("ETCDCTL_ENDPOINTS"));
    }

    #[test]
    fn errors_have_cobras_words_and_a_proposal() {
        let text = |words| parsed(words, &[]).unwrap_err().to_string();
        assert_eq!(
            text("etcdctl get --prefx k"),
            "Error: unknown flag: --prefx\n  Did you mean --prefix?\n"
        );
        assert!(text("etcdctl gte k").starts_with("Error: unknown command \"gte\" for \"etcdctl\"\n"));
        assert!(
            text("etcdctl get k --limit=x").starts_with("Error: invalid argument \"x\" for \"--limit\" flag")
        );
    }

    #[test]
    fn a_group_without_a_command_shows_its_help() {
        assert!(
            matches!(parsed("etcdctl lease", &[]), Ok(Parsed::Print(text)) if text.contains("keep-alive"))
        );
    }

    #[test]
    fn a_short_help_is_about_the_command_and_a_long_one_about_all_options() {
        let help = |words| match parsed(words, &[]) {
            Ok(Parsed::Print(text)) => text,
            other => panic!("{words}: {other:?}"),
        };
        let (short, long) = (help("etcdctl get -h"), help("etcdctl get --help"));
        assert!(short.contains("--prefix") && !short.contains("--endpoints"));
        assert!(long.contains("--prefix") && long.contains("--endpoints"));
        assert!(!long.contains("[default: \"\"]"));
    }

    #[test]
    fn foreign_variables_are_named() {
        let names = ["ETCDCTL_API", "ETCDCTL_ENDPOINTS", "ETCDCTL_ENDPOINT", "HOME"];
        assert_eq!(
            unknown_variables(names.iter().map(|name| (*name).to_owned())),
            ["ETCDCTL_ENDPOINT"]
        );
    }
}
