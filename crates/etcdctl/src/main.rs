//! `etcdctl`: a command line client for etcd, ours or Go's.
//!
//! [`arguments`] is the tree of commands, [`parse`] reads a command line into it. A command ([`run`](mod@run)) asks the
//! server and hands the answer to [`output`], which knows how every answer looks in every format. What goes wrong is a
//! [`failure`], with etcd's exit status and, where [`advice`] knows any, what to do about it.

// The rim: a program for a terminal reads clocks and files.
#![allow(clippy::disallowed_methods)]

mod advice;
mod arguments;
mod completion;
mod debug;
mod failure;
mod nested;
mod output;
mod parse;
mod ranges;
mod run;
#[cfg(test)]
mod surface;

use std::process::ExitCode;

use failure::{Failure, Status};
use parse::Parsed;

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            ExitCode::from(failure.status)
        }
    }
}

fn work() -> Result<(), Failure> {
    let words = std::env::args_os();
    let (line, given) = match parse::parse(words, |name| std::env::var(name).ok())? {
        Parsed::Print(text) => return run::context::print(text.as_bytes()),
        Parsed::Run(line, given) => (*line, given),
    };
    if line.global.debug {
        debug::begin(&line.global);
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in parse::unknown_variables(names) {
        eprintln!("etcdctl: there is no flag for {name}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Status::Error, error))?;
    let done = runtime.block_on(run::run(line, given));
    // A read from standard input that is under way would be waited for.
    runtime.shutdown_background();
    done
}
