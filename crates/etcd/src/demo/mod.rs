//! `etcd demo`: a cluster in one terminal, to see what happens when members fail.
//!
//! The members are processes of this very program, on ports of this machine and in a temporary folder. Keys kill, stop,
//! restart or cut off a member; a table shows who leads. Where there is no terminal the same commands are read as lines
//! and changes are printed as lines.
//!
//! * [`plan`] decides names, ports and files before anything runs, and makes certificates if wanted.
//! * [`links`] stands in front of every member's peer port, so that a member can be cut off from the others.
//! * [`cluster`] owns the processes.
//! * [`screen`] draws, or prints lines.
//!
//! Everything ends with the demonstration: members are killed and the folder is removed, on a signal too; members of one
//! that was itself killed die with it.

mod cluster;
mod links;
mod plan;
mod screen;

use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{MissedTickBehavior, interval};

use crate::asked_to_stop;
use cluster::Cluster;
use plan::{MEMBERS_MAX, Plan};
use screen::Screen;

/// How often processes and their roles are looked at. Often enough to see an election, which takes a second.
const LOOK: Duration = Duration::from_millis(250);

/// Commands that wait to be carried out. Who types faster waits.
const COMMANDS_MAX: usize = 16;

/// The text for `etcd demo --help`.
const USAGE: &str = "\
Usage:

  etcd demo [--members N] [--tls]
    Start a cluster of N members (3 if not said) in this terminal, until q or Ctrl-C.
    With --tls, clients and members speak TLS with certificates made for it.
";

/// What is to be done with a member, by its number from 1, or with all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// As a machine that loses its power.
    Kill(usize),
    /// As a service manager stops it.
    Stop(usize),
    /// Started again, after a stop if it runs.
    Restart(usize),
    /// Cut off from the other members, or joined to them again.
    Partition(usize),
    /// The end.
    Quit,
}

impl Command {
    /// Understands `k 2`, `kill 2` and the like.
    fn parse(line: &str, members: usize) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let command = match verb {
            "k" | "kill" => Command::Kill,
            "s" | "stop" => Command::Stop,
            "r" | "restart" => Command::Restart,
            "p" | "partition" => Command::Partition,
            "q" | "quit" => return Ok(Command::Quit),
            _ => {
                return Err(
                    "commands are kill, stop, restart, partition with a member's number, and quit".into(),
                );
            }
        };
        match words.next().map(str::parse) {
            Some(Ok(number)) if (1..=members).contains(&number) => Ok(command(number)),
            _ => Err(format!("{verb} needs a member from 1 to {members}")),
        }
    }
}

/// Runs a demonstration to its end.
pub fn run(args: &[String]) -> ExitCode {
    let result = match asked(args) {
        Ok(Some((members, tls))) => demonstrate(members, tls),
        Ok(None) => {
            let _ = stdout().write_all(USAGE.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            let _ = write!(stderr(), "{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(stderr(), "etcd demo: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Members and TLS, unless help is asked for.
fn asked(args: &[String]) -> Result<Option<(usize, bool)>, String> {
    let (mut members, mut tls) = ("3".to_owned(), false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        match (name.trim_start_matches('-'), value) {
            ("help" | "h", None) => return Ok(None),
            ("tls", None) => tls = true,
            ("members", Some(value)) => members = value,
            ("members", None) => members = args.next().ok_or("--members needs a number")?.clone(),
            _ => return Err(format!("etcd demo does not know {arg}")),
        }
    }
    match members.parse() {
        Ok(count) if (1..=MEMBERS_MAX).contains(&count) => Ok(Some((count, tls))),
        _ => Err(format!(
            "--members is a number from 1 to {MEMBERS_MAX}, not {members}"
        )),
    }
}

fn demonstrate(members: usize, tls: bool) -> Result<(), String> {
    // Children end with the thread that has started them: this one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let result = runtime.block_on(async {
        let plan = Plan::new(members, tls).map_err(|error| error.to_string())?;
        let mut screen = Screen::new(&plan, stdout().is_terminal() && stdin().is_terminal());
        let mut cluster = Cluster::start(plan)?;
        control(&mut cluster, &mut screen).await
    });
    // A thread may still wait for a line that never comes.
    runtime.shutdown_background();
    result
}

async fn control(cluster: &mut Cluster, screen: &mut Screen) -> Result<(), String> {
    let mut commands = listen(screen.is_terminal(), cluster.members().len());
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = asked_to_stop();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            _ = &mut stop => return Ok(()),
            _ = ticks.tick() => cluster.look().await?,
            Some(command) = commands.recv() => match command {
                Ok(Command::Quit) => return Ok(()),
                Ok(command) => {
                    screen.tell(&screen::said(command));
                    cluster.carry_out(command)?;
                }
                Err(problem) => screen.tell(&problem),
            },
        }
        screen.show(cluster);
    }
}

/// Commands as they are typed: as keys on a terminal, else as lines, until there are no more.
fn listen(is_terminal: bool, members: usize) -> Receiver<Result<Command, String>> {
    let (sender, receiver) = channel(COMMANDS_MAX);
    thread::spawn(move || match is_terminal {
        true => listen_to_keys(&sender, members),
        false => listen_to_lines(&sender, members),
    });
    receiver
}

fn listen_to_lines(sender: &Sender<Result<Command, String>>, members: usize) {
    for line in stdin().lock().lines().map_while(Result::ok) {
        if sender.blocking_send(Command::parse(&line, members)).is_err() {
            return;
        }
    }
}

/// A command is a letter and a digit.
fn listen_to_keys(sender: &Sender<Result<Command, String>>, members: usize) {
    let mut letter = ' ';
    while let Ok(event) = event::read() {
        let Event::Key(key) = event else { continue };
        let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        let typed = match key.code {
            _ if key.kind == KeyEventKind::Release => continue,
            _ if is_interrupt => Ok(Command::Quit),
            KeyCode::Char('q') => Ok(Command::Quit),
            KeyCode::Char(digit) if digit.is_ascii_digit() => {
                Command::parse(&format!("{letter} {digit}"), members)
            }
            KeyCode::Char(other) => {
                letter = other;
                continue;
            }
            _ => continue,
        };
        if sender.blocking_send(typed).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_verb_and_a_member() {
        assert_eq!(Command::parse("k 2", 3), Ok(Command::Kill(2)));
        assert_eq!(Command::parse(" partition  3 ", 3), Ok(Command::Partition(3)));
        assert_eq!(Command::parse("q", 3), Ok(Command::Quit));
        for wrong in ["", "k", "k 0", "k 4", "k x", "jump 1"] {
            assert!(Command::parse(wrong, 3).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_are_written_as_the_servers_are() {
        let asked = |args: &[&str]| asked(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        assert_eq!(asked(&[]), Ok(Some((3, false))));
        assert_eq!(asked(&["--members", "5", "--tls"]), Ok(Some((5, true))));
        assert_eq!(asked(&["-members=1"]), Ok(Some((1, false))));
        assert_eq!(asked(&["--help"]), Ok(None));
        for wrong in [
            &["--members"][..],
            &["--members=0"],
            &["--members=10"],
            &["--load"],
            &["3"],
        ] {
            assert!(asked(wrong).is_err(), "{wrong:?}");
        }
    }
}
