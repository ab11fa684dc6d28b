//! What has to do with the program itself: completions, manual pages, options, version.

use std::fs;
use std::path::Path;

use clap::builder::{PossibleValuesParser, Resettable};
use clap::{Arg, Command, CommandFactory};

use super::context::{only, print};
use crate::arguments::{Arguments, OnlyGlobal, Shell};
use crate::completion;
use crate::failure::{Failure, Status};
use crate::parse;

/// The release of etcd that this one is.
const VERSION: &str = "3.7.1";

/// What some flags take, for who completes a command line. A word that is none of these is refused by the command
/// itself, in etcd's words and with etcd's exit status.
const VALUES: [(&str, &[&str]); 5] = [
    (
        "write_out",
        &["simple", "fields", "json", "table", "protobuf", "yaml"],
    ),
    ("consistency", &["l", "s"]),
    ("order", &["ASCEND", "DESCEND"]),
    ("sort_by", &["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
    ("load", &["s", "m", "l", "xl"]),
];

pub fn completion(shell: Shell) -> Result<(), Failure> {
    print(&script(shell))
}

fn script(shell: Shell) -> Vec<u8> {
    let kind = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
    };
    completion::script(kind, with_values(parse::command()), "etcdctl")
}

fn with_values(command: Command) -> Command {
    let values = |arg: &Arg| VALUES.iter().find(|(flag, _)| arg.get_id() == *flag);
    let command = command.mut_args(|arg| match values(&arg) {
        Some((_, values)) => arg
            .default_value(Resettable::Reset)
            .value_parser(PossibleValuesParser::new(values.iter().copied())),
        None => arg,
    });
    command.mut_subcommands(with_values)
}

/// One page for each command.
pub fn manual(arguments: &Arguments) -> Result<(), Failure> {
    let folder = Path::new(only(&arguments.words, "man needs a folder to write to")?);
    let written =
        fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(parse::command(), folder));
    written.map_err(|error| {
        Failure::new(
            Status::Error,
            format!("cannot write to {}: {error}", folder.display()),
        )
    })
}

pub fn options() -> Result<(), Failure> {
    let mut command = OnlyGlobal::command();
    print(command.render_long_help().to_string().as_bytes())
}

pub fn version() -> Result<(), Failure> {
    print(format!("etcdctl version: {VERSION}\nAPI version: 3.7\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What bash offers behind these words.
    fn offered(words: &str) -> String {
        let asks = format!(
            "COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n\
             _etcdctl etcdctl \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             complete -p etcdctl > /dev/null && echo \"${{COMPREPLY[@]}}\"\n"
        );
        let script = [script(Shell::Bash), asks.into_bytes()].concat();
        let folder = tempfile::tempdir().expect("there is room for a file");
        let file = folder.path().join("script");
        fs::write(&file, script).expect("there is room for a file");
        let output = std::process::Command::new("bash").arg(&file).output();
        let output = output.expect("the machine has bash");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn bash_completes_commands_flags_and_what_these_take() {
        for (words, expected) in [
            ("etcdctl le", "lease"),
            ("etcdctl lease ti", "timetolive"),
            ("etcdctl get --prefi", "--prefix"),
            ("etcdctl endpoint status --cl", "--cluster"),
            (
                "etcdctl get --write-out ''",
                "simple fields json table protobuf yaml",
            ),
            ("etcdctl get -w j", "json"),
            ("etcdctl get k --order A", "ASCEND"),
            ("etcdctl check perf --load x", "xl"),
            ("etcdctl --hex get --prefix --rev", "--rev"),
        ] {
            assert_eq!(offered(words), expected, "{words}");
        }
        for words in ["etcdctl ''", "etcdctl get --"] {
            let offered = offered(words);
            assert!(offered.contains("--endpoints"), "{words}: {offered}");
        }
    }

    #[test]
    fn every_shell_has_a_script_that_knows_our_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Powershell] {
            let script = String::from_utf8(script(shell)).expect("a script is text");
            for word in ["keep-alive", "history", "print-value-only", "DESCEND"] {
                assert!(script.contains(word), "{shell:?}: {word}");
            }
        }
    }
}
