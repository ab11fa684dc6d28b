//! What a shell runs to complete command lines: clap's scripts, as far as they know what a switch is.

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;

/// The script for a shell.
pub fn script(shell: Shell, command: Command, name: &str) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut plain(command), name, &mut script);
    match shell {
        Shell::Zsh => after_words(script),
        _ => script,
    }
}

/// To clap, a switch that may be followed by `=false` takes a value; its scripts would wait for one behind each switch.
fn plain(command: Command) -> Command {
    let switch = |arg: Arg| match arg.is_require_equals_set() {
        true => arg
            .action(ArgAction::SetTrue)
            .num_args(0)
            .require_equals(false)
            .hide_possible_values(false)
            .hide_default_value(false)
            .default_value(Resettable::Reset)
            .default_missing_value(Resettable::Reset),
        false => arg,
    };
    command.mut_args(switch).mut_subcommands(plain)
}

/// To zsh, two colons mean that no flag comes after a word; ours come in any order.
fn after_words(script: Vec<u8>) -> Vec<u8> {
    let script = String::from_utf8(script).expect("a script is text");
    script.replace("'*::", "'*:").into_bytes()
}
