//! Carrying commands out: one module for each kind, and the `match` that finds it.

mod ask;
mod browse;
mod check;
mod cluster;
pub mod context;
mod ids;
mod keys;
mod lease;
mod locks;
mod memory;
mod mirror;
mod pages;
mod progress;
mod shell;
mod snapshot;
mod srv;
mod txn;
mod typed;
mod users;
mod watch;

use context::Context;

use crate::arguments::{Command, CommandLine};
use crate::failure::Failure;
use crate::parse::Given;

/// Carries out a command line.
pub async fn run(line: CommandLine, given: Given) -> Result<(), Failure> {
    let context = Context::new(line.global, given)?;
    match line.command {
        Command::Get(get) => keys::get(&context, &get).await,
        Command::Put(put) => keys::put(&context, &put).await,
        Command::Del(delete) => keys::delete(&context, &delete).await,
        Command::Txn(txn) => txn::run(&context, &txn).await,
        Command::Watch(watch) => watch::run(context, watch).await,
        Command::Compaction(compaction) => keys::compaction(&context, &compaction).await,
        Command::Lease(lease) => lease::run(&context, lease.command).await,
        Command::Ls(ls) => browse::ls(&context, &ls).await,
        Command::Tree(tree) => browse::tree(&context, &tree).await,
        Command::Du(du) => browse::du(&context, &du).await,
        Command::History(history) => browse::history(&context, &history).await,
        Command::Member(member) => cluster::member(&context, member.command).await,
        Command::Endpoint(endpoint) => cluster::endpoint(&context, endpoint.command).await,
        Command::MoveLeader(arguments) => cluster::move_leader(&context, &arguments).await,
        Command::Alarm(alarm) => cluster::alarm(&context, alarm.command).await,
        Command::Defrag(defrag) => cluster::defrag(&context, &defrag).await,
        Command::Downgrade(downgrade) => cluster::downgrade(&context, downgrade.command).await,
        Command::Snapshot(snapshot) => snapshot::run(&context, snapshot.command).await,
        Command::MakeMirror(mirror) => mirror::run(&context, mirror).await,
        Command::Lock(lock) => locks::lock(&context, &lock).await,
        Command::Elect(elect) => locks::elect(&context, &elect).await,
        Command::Auth(auth) => users::auth(&context, auth.command).await,
        Command::User(user) => users::user(&context, user.command).await,
        Command::Role(role) => users::role(&context, role.command).await,
        Command::Check(check) => check::run(&context, check.command).await,
        Command::Completion(shell) => shell::completion(shell.command),
        Command::Man(arguments) => shell::manual(&arguments),
        Command::Options => shell::options(),
        Command::Version => shell::version(),
    }
}
