//! A command line as its tree has it, against a table of what it should be. The table's form is told in
//! `surface/etcdctl.txt`; etcdutl has one, too.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, ArgAction, Command};

/// What is in the table and not in the tree (`-`), or the other way round (`+`).
pub fn differences(tree: &Command, table: &str) -> Vec<String> {
    let mut built = BTreeMap::new();
    let for_all = tree.get_arguments().filter_map(Arg::get_long);
    let for_all = for_all.map(str::to_owned).chain(["help".to_owned()]).collect();
    collect(&mut tree.clone(), "", &for_all, &mut built);
    let (built, wanted) = (flat(&built), flat(&read(table)));
    let missing = wanted.difference(&built).map(|line| format!("- {line}"));
    let unknown = built.difference(&wanted).map(|line| format!("+ {line}"));
    missing.chain(unknown).collect()
}

/// Commands, each with its flags.
type Surface = BTreeMap<String, BTreeSet<String>>;

fn read(table: &str) -> Surface {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let mut surface = Surface::new();
    for (command, flags) in lines.filter_map(|line| line.split_once('|')) {
        let flags = flags.split_whitespace().map(str::to_owned);
        surface
            .entry(command.trim().to_owned())
            .or_default()
            .extend(flags);
    }
    surface
}

fn flat(surface: &Surface) -> BTreeSet<String> {
    let lines = surface.iter().flat_map(|(command, flags)| {
        let flags = flags.iter().map(move |flag| format!("{command} {flag}"));
        flags.chain([command.clone()])
    });
    lines.collect()
}

/// Commands that do something; groups only lead to them. Flags for all are those of the root.
fn collect(command: &mut Command, path: &str, for_all: &BTreeSet<String>, surface: &mut Surface) {
    command.build();
    let is_of_root = |arg: &Arg| arg.get_long().is_some_and(|name| for_all.contains(name));
    let flags = command
        .get_arguments()
        .filter(|arg| path.is_empty() || !is_of_root(arg));
    let flags = flags.filter_map(flag).collect();
    let parts: Vec<_> = command.get_subcommands_mut().collect();
    if parts.is_empty() || path.is_empty() {
        surface.insert(path.to_owned(), flags);
    }
    for part in parts.into_iter().filter(|part| part.get_name() != "help") {
        let below = format!("{path} {}", part.get_name());
        collect(part, below.trim_start(), for_all, surface);
    }
}

/// A flag as the table writes it.
fn flag(arg: &Arg) -> Option<String> {
    let name = arg.get_long()?;
    let short = arg.get_short().map(|short| format!("-{short},"));
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let is_switch = matches!(arg.get_action(), ArgAction::Help | ArgAction::SetTrue)
        || arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    let value = match defaults.join(",") {
        off if is_switch && (off.is_empty() || off == "false") => String::new(),
        value => format!("={value}"),
    };
    Some(format!("{}--{name}{value}", short.unwrap_or_default()))
}
