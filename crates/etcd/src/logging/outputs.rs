//! Where log lines go: the standard outputs, files, and systemd's journal.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use super::Severity;
use super::journal::{Journal, SOCKET};
use super::rotation::{Rotated, Rotation};
use crate::flags::Flags;

/// A place for lines, as `--log-outputs` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The standard error output.
    Stderr,
    /// The standard output.
    Stdout,
    /// systemd's journal, in its own protocol.
    Journal,
    /// A file that is appended to.
    File(String),
    /// A file that is exchanged for a new one when it is long.
    Rotated(String, Rotation),
}

impl Place {
    /// The places that the flags name, each once; the error is in etcd's words. Opens nothing.
    pub fn all(flags: &Flags) -> Result<Vec<Self>, String> {
        let names: &[String] = match flags.log_outputs.as_slice() {
            [] => &["default".to_owned()],
            names => names,
        };
        if names.len() > 1 && names.iter().any(|name| name == "default") {
            return Err("multi logoutput for \"default\" is not supported yet".into());
        }
        let rotation = match flags.enable_log_rotation {
            true => Some(Rotation::parse(&flags.log_rotation_config_json)?),
            false => None,
        };
        let mut places = Vec::new();
        for name in names {
            let place = Self::named(name, rotation.as_ref());
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let files = places
            .iter()
            .filter(|place| matches!(place, Place::Rotated(..)))
            .count();
        let is_no_file = matches!(places.as_slice(), [Place::Stderr | Place::Stdout]);
        if rotation.is_some() && (files > 1 || is_no_file) {
            return Err(
                "--log-outputs requires a single file path when --log-rotate-config-json is defined".into(),
            );
        }
        Ok(places)
    }

    fn named(name: &str, rotation: Option<&Rotation>) -> Self {
        match (name, rotation) {
            ("default" | "stderr", _) => Place::Stderr,
            ("stdout", _) => Place::Stdout,
            ("systemd/journal", _) => Place::Journal,
            (path, None) => Place::File(path.to_owned()),
            (path, Some(rotation)) => Place::Rotated(path.to_owned(), rotation.clone()),
        }
    }

    /// The file that is exchanged while the process runs, if it is one.
    pub fn exchanged(&self) -> Option<PathBuf> {
        match self {
            Place::Rotated(path, _) => Some(path.into()),
            _ => None,
        }
    }

    /// Opens it.
    pub fn open(&self) -> Result<Output, String> {
        let open = |path: &String| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| format!("open {path}: {error}"))
        };
        Ok(match self {
            Place::Stderr => Output::Stream(Box::new(io::stderr())),
            Place::Stdout => Output::Stream(Box::new(io::stdout())),
            Place::Journal => Output::Journal(
                Journal::connect(SOCKET.as_ref()).map_err(|error| format!("can't find journal ({error})"))?,
            ),
            Place::File(path) => Output::Stream(Box::new(open(path)?)),
            Place::Rotated(path, rotation) => Output::Rotated(
                Rotated::open(path.into(), rotation.clone())
                    .map_err(|error| format!("open {path}: {error}"))?,
            ),
        })
    }
}

/// A place that is open.
pub enum Output {
    /// Takes bytes.
    Stream(Box<dyn Write + Send>),
    /// Is exchanged.
    Rotated(Rotated),
    /// Wants to know how much a line matters.
    Journal(Journal),
}

impl Output {
    /// Writes a line. If that fails there is nowhere to complain to.
    pub fn put(&mut self, severity: Severity, line: &str) {
        match self {
            Output::Stream(stream) => {
                let _ = stream.write_all(line.as_bytes());
            }
            Output::Rotated(file) => file.put(line.as_bytes()),
            Output::Journal(journal) => {
                if journal.send(severity, line).is_err() {
                    let _ = io::stderr().write_all(line.as_bytes());
                }
            }
        }
    }
}
