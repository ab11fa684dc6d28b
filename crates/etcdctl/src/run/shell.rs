//! What has to do with the program itself: completions, manual pages, options, version.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::context::{only, print};
use crate::arguments::{Arguments, OnlyGlobal, Shell};
use crate::failure::{Failure, Status};
use crate::parse;

/// The release of etcd that this one is.
const VERSION: &str = "3.7.1";

pub fn completion(shell: Shell) -> Result<(), Failure> {
    let kind = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
    };
    let mut script = Vec::new();
    clap_complete::generate(kind, &mut parse::command(), "etcdctl", &mut script);
    print(&script)
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
