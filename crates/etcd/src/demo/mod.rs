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
//! Everything ends with the demonstration: members are killed and the folder is removed, on a signal too. If it is itself
//! killed, its members die with it, and the next one removes its folder.

mod cluster;
mod links;
mod plan;
mod screen;

use std::env;
use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
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

/// What is done to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// As a machine that loses its power.
    Kill,
    /// As a service manager stops it.
    Stop,
    /// Started again, after a stop if it runs.
    Restart,
    /// Cut off from the other members, or joined to them again.
    Partition,
}

impl Verb {
    /// By its name or the first letter of it.
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "k" | "kill" => Verb::Kill,
            "s" | "stop" => Verb::Stop,
            "r" | "restart" => Verb::Restart,
            "p" | "partition" => Verb::Partition,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Kill => "kill",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Partition => "partition",
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// With a member, by its number from 1.
    Member(Verb, usize),
    /// The end.
    Quit,
}

impl Command {
    /// Understands `k 2`, `kill 2` and the like.
    fn parse(line: &str, members: usize) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let word = words.next().unwrap_or_default();
        if matches!(word, "q" | "quit") {
            return Ok(Command::Quit);
        }
        let verb = Verb::parse(word)
            .ok_or("commands are kill, stop, restart, partition with a member's number, and quit")?;
        match words.next().map(str::parse) {
            Some(Ok(number)) if (1..=members).contains(&number) => Ok(Command::Member(verb, number)),
            _ => Err(format!("{} needs a member from 1 to {members}", verb.name())),
        }
    }
}

/// What comes from whoever sits there.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A whole command.
    Command(Command),
    /// The first half of one, or that it is taken back.
    Half(Option<Verb>),
    /// Something that is none, and what to say about it.
    Wrong(String),
    /// The terminal has another size.
    Resized,
}

impl Input {
    fn line(line: &str, members: usize) -> Self {
        Command::parse(line, members).map_or_else(Input::Wrong, Input::Command)
    }

    /// A key, behind the letter that may have come before.
    fn key(key: KeyEvent, half: Option<Verb>, members: usize) -> Option<Self> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let KeyCode::Char(typed) = key.code else {
            return (key.code == KeyCode::Esc).then_some(Input::Half(None));
        };
        let typed = typed.to_ascii_lowercase();
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(typed, 'c' | 'd').then_some(Input::Command(Command::Quit));
        }
        Some(match (Verb::parse(&typed.to_string()), half) {
            (Some(verb), _) => Input::Half(Some(verb)),
            (None, _) if typed == 'q' => Input::Command(Command::Quit),
            (None, Some(half)) => Input::line(&format!("{} {typed}", half.name()), members),
            (None, None) if typed.is_ascii_digit() => {
                Input::Wrong(format!("{typed} needs a letter before it: k, s, r or p"))
            }
            (None, None) => Input::Wrong(format!("{typed} does nothing here")),
        })
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
            ("tls", Some(value)) if value == "true" => tls = true,
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
    let is_terminal = stdout().is_terminal() && stdin().is_terminal();
    let is_drawn_on = is_terminal && env::var_os("TERM").is_none_or(|term| term != "dumb");
    let result = runtime.block_on(async {
        let leftovers = plan::remove_leftovers(&env::temp_dir());
        let plan = Plan::new(members, tls).map_err(|error| error.to_string())?;
        let mut screen = Screen::new(&plan, is_drawn_on);
        for folder in leftovers {
            let folder = folder.display();
            screen.tell(&format!("removed {folder} of a demonstration that was killed"));
        }
        let mut cluster = Cluster::new(plan);
        control(&mut cluster, &mut screen).await
    });
    // A thread may still wait for a line that never comes.
    runtime.shutdown_background();
    if result.is_ok() {
        let _ = writeln!(stdout(), "etcd demo has ended; its members and files are gone");
    }
    result
}

async fn control(cluster: &mut Cluster, screen: &mut Screen) -> Result<(), String> {
    let mut inputs = listen(screen.is_terminal(), cluster.members().len());
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = signal(SignalKind::child()).map_err(|error| error.to_string())?;
    let stop = end(screen.is_terminal());
    tokio::pin!(stop);
    while !screen.is_gone() {
        tokio::select! {
            () = &mut stop => return Ok(()),
            _ = ended.recv() => cluster.reap()?,
            _ = ticks.tick() => cluster.look().await?,
            Some(input) = inputs.recv() => match input {
                Input::Command(Command::Quit) => return Ok(()),
                Input::Command(Command::Member(verb, number)) => {
                    screen.tell(&format!("> {} {number}", verb.name()));
                    screen.ask(None);
                    cluster.carry_out(verb, number)?;
                }
                Input::Half(half) => screen.ask(half),
                Input::Wrong(problem) => {
                    screen.ask(None);
                    screen.tell(&problem);
                }
                Input::Resized => screen.begin(),
            },
        }
        screen.show(cluster);
    }
    Ok(())
}

/// Waits for a signal to end, or for the terminal to go. What runs without one may be meant to outlive it.
async fn end(is_terminal: bool) {
    let hangup = async {
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) if is_terminal => hangup.recv().await,
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = asked_to_stop() => {}
        _ = hangup => {}
    }
}

/// What is typed: keys on a terminal, else lines, until there are no more.
fn listen(is_terminal: bool, members: usize) -> Receiver<Input> {
    let (sender, receiver) = channel(COMMANDS_MAX);
    thread::spawn(move || match is_terminal {
        true => listen_to_keys(&sender, members),
        false => listen_to_lines(&sender, members),
    });
    receiver
}

fn listen_to_lines(sender: &Sender<Input>, members: usize) {
    for line in stdin().lock().lines().map_while(Result::ok) {
        if sender.blocking_send(Input::line(&line, members)).is_err() {
            return;
        }
    }
}

fn listen_to_keys(sender: &Sender<Input>, members: usize) {
    let mut half = None;
    while let Ok(event) = event::read() {
        let input = match event {
            Event::Key(key) => Input::key(key, half, members),
            Event::Resize(..) => Some(Input::Resized),
            _ => None,
        };
        let Some(input) = input else { continue };
        half = match input {
            Input::Half(verb) => verb,
            Input::Resized => half,
            Input::Command(_) | Input::Wrong(_) => None,
        };
        if sender.blocking_send(input).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_verb_and_a_member() {
        assert_eq!(Command::parse("k 2", 3), Ok(Command::Member(Verb::Kill, 2)));
        assert_eq!(
            Command::parse(" partition  3 ", 3),
            Ok(Command::Member(Verb::Partition, 3))
        );
        assert_eq!(Command::parse("q", 3), Ok(Command::Quit));
        for wrong in ["", "k", "k 0", "k 4", "k x", "jump 1"] {
            assert!(Command::parse(wrong, 3).is_err(), "{wrong}");
        }
    }

    /// What a row of keys brings, as a terminal sends them.
    fn typed(keys: &[KeyEvent]) -> Vec<Input> {
        let mut half = None;
        let mut inputs = Vec::new();
        for key in keys {
            if let Some(input) = Input::key(*key, half, 3) {
                half = match input {
                    Input::Half(verb) => verb,
                    _ => None,
                };
                inputs.push(input);
            }
        }
        inputs
    }

    #[test]
    fn a_key_without_a_meaning_is_answered_and_leaves_no_letter_behind() {
        let keys = |keys: &str| {
            let keys: Vec<_> = keys.chars().map(|key| KeyCode::Char(key).into()).collect();
            typed(&keys)
        };
        let (half, whole) = (
            |verb| Input::Half(Some(verb)),
            |verb, number| Input::Command(Command::Member(verb, number)),
        );
        assert_eq!(
            keys("k2S3"),
            [
                half(Verb::Kill),
                whole(Verb::Kill, 2),
                half(Verb::Stop),
                whole(Verb::Stop, 3)
            ]
        );
        assert_eq!(
            keys("kp1"),
            [half(Verb::Kill), half(Verb::Partition), whole(Verb::Partition, 1)]
        );
        for wrong in ["1", "x", "k4", "k0", "kx", "r ", "k22"] {
            assert!(
                matches!(keys(wrong).last(), Some(Input::Wrong(problem)) if !problem.is_empty()),
                "{wrong}"
            );
        }
        assert_eq!(
            typed(&[
                KeyCode::Char('k').into(),
                KeyCode::Esc.into(),
                KeyCode::Enter.into(),
                KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)
            ]),
            [half(Verb::Kill), Input::Half(None), Input::Command(Command::Quit)]
        );
    }

    #[test]
    fn flags_are_written_as_the_servers_are() {
        let asked = |args: &[&str]| asked(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        assert_eq!(asked(&[]), Ok(Some((3, false))));
        assert_eq!(asked(&["--members", "5", "--tls"]), Ok(Some((5, true))));
        assert_eq!(asked(&["-members=1", "--tls=true"]), Ok(Some((1, true))));
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
