//! `etcd demo` as somebody types at it: lines in, lines out, and once with keys at a terminal.

// A test of the rim: it has processes.
#![allow(clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a line may take to come. Elections take a second; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

struct Demo {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    folder: PathBuf,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        Self::start_in(&std::env::temp_dir(), args)
    }

    fn start_in(folder: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd"));
        command.arg("demo").args(args);
        Self::of(command.env("TMPDIR", folder))
    }

    /// At a terminal, which the program `script` is one end of.
    fn at_a_terminal(folder: &Path, args: &str) -> Self {
        let typed = format!("{} demo {args}", env!("CARGO_BIN_EXE_etcd"));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &typed, "/dev/null"]);
        Self::of(command.env("TMPDIR", folder).env("TERM", "xterm"))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program is there");
        let (sender, lines) = channel();
        let output = child.stdout.take().expect("it is piped");
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let input = child.stdin.take().expect("it is piped");
        let first = lines.recv_timeout(PATIENCE).expect("it says where it is");
        let folder = first.trim_end().rsplit(' ').next().expect("a folder").into();
        Self {
            child,
            input,
            lines,
            folder,
        }
    }

    fn says(&self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("it goes on talking");
            if wanted(&line) {
                return line;
            }
        }
    }

    fn leader(&self) -> String {
        let line = self.says(|line| line.ends_with(" leads"));
        line["etcd".len()..].trim_end_matches(" leads").to_owned()
    }

    fn command(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("it listens");
    }

    fn keys(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).expect("it listens");
        self.input.flush().expect("it listens");
    }

    fn ended(mut self) -> ExitStatus {
        let status = self.child.wait().expect("it ends");
        assert!(!self.folder.exists(), "{} is left over", self.folder.display());
        status
    }
}

#[test]
fn a_leader_that_is_killed_or_cut_off_is_followed_by_another() {
    let mut demo = Demo::start(&["--members", "3"]);
    assert!(demo.folder.is_dir());
    demo.says(|line| line.trim().starts_with("export ETCDCTL_ENDPOINTS=http://"));
    let first = demo.leader();
    demo.says(|line| line == "all members serve");

    demo.command(&format!("kill {first}"));
    demo.says(|line| line == format!("etcd{first} is down"));
    let second = demo.leader();
    assert_ne!(first, second);
    demo.command(&format!("restart {first}"));
    demo.says(|line| line == "all members serve");

    demo.command(&format!("partition {second}"));
    demo.says(|line| line == format!("etcd{second} is cut off from the others"));
    let third = demo.leader();
    assert_ne!(second, third);
    demo.command(&format!("partition {second}"));
    demo.says(|line| line == format!("etcd{second} follows"));

    demo.command("jump 1");
    demo.says(|line| line.starts_with("commands are kill"));
    demo.command("quit");
    assert!(demo.ended().success());
}

#[test]
fn a_signal_ends_the_members_and_leaves_nothing_behind() {
    let demo = Demo::start(&["--members=1", "--tls"]);
    demo.says(|line| line.trim().starts_with("export ETCDCTL_CACERT="));
    demo.says(|line| line == "all members serve");
    kill_process(Pid::from_child(&demo.child), Signal::TERM).expect("it runs");
    assert!(demo.ended().success());
}

/// Whether some process was told of this folder.
fn is_at_work(folder: &Path) -> bool {
    let folder = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("a machine with /proc");
    let commands = processes.flatten().map(|process| process.path().join("cmdline"));
    let mut commands = commands.filter_map(|command| std::fs::read(command).ok());
    commands.any(|command| String::from_utf8_lossy(&command).contains(&folder))
}

#[test]
fn what_a_killed_demonstration_leaves_is_removed_by_the_next() {
    let parent = tempfile::tempdir().expect("a folder");
    let mut killed = Demo::start_in(parent.path(), &["--members", "1"]);
    let place = killed.says(|line| line.trim().starts_with("etcd1  http://"));
    killed.says(|line| line == "all members serve");
    let address = place.rsplit("//").next().expect("an address");
    let mut member = TcpStream::connect(address).expect("the member listens");
    assert!(is_at_work(&killed.folder));
    killed.child.kill().expect("it runs");
    killed.child.wait().expect("it ends");
    // The member's end of the connection goes with its process, or after a while because nothing is asked.
    let _ = member.read_to_end(&mut Vec::new());
    assert!(!is_at_work(&killed.folder), "the member lives");
    assert!(killed.folder.is_dir());

    let mut next = Demo::start_in(parent.path(), &["--members", "1"]);
    let removed = format!(
        "removed {} of a demonstration that was killed",
        killed.folder.display()
    );
    next.says(|line| line == removed);
    assert!(!killed.folder.exists());
    next.command("quit");
    assert!(next.ended().success());
}

#[test]
fn keys_at_a_terminal_kill_and_restart_a_member_and_ctrl_c_ends_it_all() {
    let parent = tempfile::tempdir().expect("a folder");
    let mut demo = Demo::at_a_terminal(parent.path(), "--members 1");
    demo.says(|line| line.contains("all members serve"));
    demo.keys("x");
    demo.says(|line| line.contains("x does nothing here"));
    demo.keys("k");
    demo.says(|line| line.contains("kill which member? 1, Esc for none"));
    demo.keys("1");
    demo.says(|line| line.contains("only 0 of 1 members are left"));
    demo.keys("s1");
    demo.says(|line| line.contains("etcd1 is down already; restart 1 starts it"));
    demo.keys("r1");
    let is_row = |line: &str| line.contains("etcd1") && line.contains("http://127.0.0.1:");
    demo.says(|line| is_row(line) && line.contains("leader"));
    demo.keys("\u{3}");
    demo.says(|line| line.contains("its members and files are gone"));
    assert!(demo.ended().success());
}
