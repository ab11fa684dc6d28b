//! What a command ends with when it does not succeed: an exit status, which scripts look at, and a text for people.

use std::fmt;

/// Exit statuses, etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The server refused, or something else went wrong.
    Error = 1,
    /// There is no connection, or none with this user and password.
    Connection = 2,
    /// What came from standard input can't be understood.
    Input = 3,
    /// Something that does not exist was asked for, such as an output format.
    Feature = 4,
    /// It was broken off.
    Interrupted = 5,
    /// The arguments are wrong.
    Arguments = 128,
}

/// Why a command did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit status.
    pub status: u8,
    /// What happened; nothing if it has been said already.
    pub text: String,
    /// What to do about it, if that is known.
    pub cure: Option<String>,
}

impl Failure {
    /// A failure that is its own explanation.
    pub fn new(status: Status, text: impl fmt::Display) -> Self {
        Self {
            status: status as u8,
            text: text.to_string(),
            cure: None,
        }
    }

    /// Wrong arguments.
    pub fn arguments(text: impl fmt::Display) -> Self {
        Self::new(Status::Arguments, text)
    }

    /// What was to be said has been said.
    pub fn silent(status: u8) -> Self {
        Self {
            status,
            text: String::new(),
            cure: None,
        }
    }

    /// The same, as the reason of something else.
    pub fn behind(self, what: &str) -> Self {
        Self {
            text: format!("{what} ({})", self.text),
            ..self
        }
    }

    /// The same, with advice.
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.text.is_empty() {
            writeln!(f, "Error: {}", self.text)?;
        }
        self.cure.iter().try_for_each(|cure| writeln!(f, "  {cure}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Status::Error, error)
    }
}
