//! `etcd demo` as somebody types at it, in its plain mode: lines in, lines out.

// A test of the rim: it has processes.
#![allow(clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
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
        let mut child = Command::new(env!("CARGO_BIN_EXE_etcd"))
            .arg("demo")
            .args(args)
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
        let folder = first.rsplit(' ').next().expect("a folder").into();
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
