//! A password that is asked for at a terminal.

#![allow(clippy::disallowed_methods, reason = "it starts programs")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

const PROMPT: &str = "Password: ";
const INTERRUPT: u8 = 3;
const SIGINT: i32 = 2;

/// A terminal, by its other end.
fn terminal() -> (File, File) {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&near).unwrap();
    unlockpt(&near).unwrap();
    let name = ptsname(&near, vec![]).unwrap().into_string().unwrap();
    let far = OpenOptions::new().read(true).write(true).open(name).unwrap();
    (near.into(), far)
}

/// etcdctl at a terminal, which asks for a password.
fn asking(near: &mut File, far: &File) -> Child {
    let stdio = || far.try_clone().unwrap();
    let child = Command::new("setsid")
        .args(["--ctty", env!("CARGO_BIN_EXE_etcdctl"), "--user=root"])
        // Nobody listens there.
        .args(["--endpoints=127.0.0.1:1", "get", "a"])
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    let mut shown = vec![0; PROMPT.len()];
    near.read_exact(&mut shown).unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), PROMPT);
    while shows_what_is_typed(far) {
        std::thread::yield_now();
    }
    child
}

fn shows_what_is_typed(terminal: &File) -> bool {
    tcgetattr(terminal)
        .unwrap()
        .local_modes
        .contains(LocalModes::ECHO)
}

#[test]
fn who_is_interrupted_at_a_password_sees_again_what_is_typed() {
    let (mut near, far) = terminal();
    let mut child = asking(&mut near, &far);
    near.write_all(b"half of i").unwrap();
    near.write_all(&[INTERRUPT]).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(SIGINT));
    assert!(shows_what_is_typed(&far));
}

#[test]
fn a_password_is_read_without_being_shown() {
    let (mut near, far) = terminal();
    let mut child = asking(&mut near, &far);
    near.write_all(b"secret\n").unwrap();
    // It is read, and then nobody listens.
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(shows_what_is_typed(&far));
    drop(far);
    let mut shown = Vec::new();
    // The end of a terminal is an error.
    let _ = near.read_to_end(&mut shown);
    let shown = String::from_utf8(shown).unwrap();
    assert!(
        shown.contains("refused the connection") && !shown.contains("secret"),
        "{shown}"
    );
}
