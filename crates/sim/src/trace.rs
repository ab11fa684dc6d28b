//! What happened, in the order it happened: the last of it to read, all of it as one number.

use std::collections::VecDeque;
use std::fmt;

/// Notes kept to be read.
const KEPT: usize = 400;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// When, in microseconds.
    pub at: u64,
    /// What.
    pub what: &'static str,
    /// Where, usually a member.
    pub at_member: u64,
    /// The rest depends on what it is.
    pub details: [u64; 3],
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.details;
        let (ms, us) = (self.at / 1000, self.at % 1000);
        write!(
            f,
            "{ms:>6}.{us:03} {:>3}  {} {a} {b} {c}",
            self.at_member, self.what
        )
    }
}

/// The notes of a run.
#[derive(Default)]
pub struct Trace {
    digest: u64,
    count: u64,
    last: VecDeque<Note>,
    all: bool,
}

impl Trace {
    /// A trace that keeps all notes.
    pub fn keeping_all() -> Self {
        Trace {
            all: true,
            ..Trace::default()
        }
    }

    /// Takes a note.
    pub fn note(&mut self, note: Note) {
        let [a, b, c] = note.details;
        let name = note.what.len() as u64 + u64::from(note.what.as_bytes()[0]);
        for word in [note.at, name, note.at_member, a, b, c] {
            self.digest = (self.digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        self.count += 1;
        if !self.all && self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(note);
    }

    /// All notes as one number.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last notes, or all.
    pub fn lines(&self) -> Vec<String> {
        self.last.iter().map(ToString::to_string).collect()
    }
}
