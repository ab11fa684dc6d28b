//! Questions to whoever sits at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// The longest password that is read from a pipe; a terminal has no longer lines. What is beyond is not read.
const LINE_MAX: usize = 4096;

/// Asks for a secret. What is typed at a terminal is not shown; from a pipe a line is read, and nothing behind it.
pub fn secret(prompt: &str) -> io::Result<String> {
    let line = match io::stdin().is_terminal() {
        true => typed(prompt),
        false => piped(prompt),
    };
    line.map(|line| line.trim().to_owned())
}

fn piped(prompt: &str) -> io::Result<String> {
    print!("{prompt}");
    let mut line = Vec::new();
    // Rust's standard input would read ahead, of what is for others.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut byte = [0];
    while line.len() < LINE_MAX && input.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    println!();
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn typed(prompt: &str) -> io::Result<String> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(prompt.as_bytes())?;
    let before = tcgetattr(&terminal)?;
    let interrupt = before.special_codes[SpecialCodeIndex::VINTR];
    let mut silent: Termios = before.clone();
    // A program that is interrupted leaves the terminal as it is; so the key ends the line, and is obeyed afterwards.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VEOL] = interrupt;
    tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let line = read_line(&mut terminal);
    tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    terminal.write_all(b"\n")?;
    let line = line?;
    if line.contains(&interrupt) {
        kill_process(getpid(), Signal::INT)?;
        return Err(io::ErrorKind::Interrupted.into());
    }
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// What the terminal has for a line: it hands out one at a time.
fn read_line(terminal: &mut File) -> io::Result<Vec<u8>> {
    let mut line = vec![0; LINE_MAX];
    let length = terminal.read(&mut line)?;
    line.truncate(length);
    Ok(line)
}

/// Asks yes or no on standard error; no is what is not yes.
pub fn yes(question: &str) -> io::Result<bool> {
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}
