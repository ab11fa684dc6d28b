//! systemd's journal in its own protocol: a datagram for each line, with fields that `journalctl` can filter by.
//!
//! A field is `NAME=value` and a newline; a value that has newlines itself comes after its length instead. A line that
//! is too long for a datagram is refused here, and goes to the standard error output, which systemd reads too.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::Severity;

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
pub struct Journal(UnixDatagram);

impl Journal {
    /// Connects to the journal that listens at `socket`.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let journal = UnixDatagram::unbound()?;
        journal.connect(socket)?;
        // A log line does not wait for the journal.
        journal.set_nonblocking(true)?;
        Ok(Journal(journal))
    }

    /// Sends a line.
    pub fn send(&self, severity: Severity, line: &str) -> io::Result<()> {
        let mut datagram = Vec::new();
        field(&mut datagram, "PRIORITY", priority(severity));
        field(&mut datagram, "SYSLOG_IDENTIFIER", "etcd");
        field(&mut datagram, "MESSAGE", line.trim_end());
        self.0.send(&datagram).map(|_| ())
    }
}

fn field(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend((value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend(value.as_bytes());
    datagram.push(b'\n');
}

/// syslog's numbers.
fn priority(severity: Severity) -> &'static str {
    match severity {
        Severity::Debug => "7",
        Severity::Info => "6",
        Severity::Warn => "4",
        Severity::Error => "3",
        Severity::DPanic | Severity::Panic | Severity::Fatal => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_with_its_priority() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::connect(&path).unwrap();
        let received = || {
            let mut datagram = [0; 1000];
            let length = listener.recv(&mut datagram).unwrap();
            datagram[..length].to_vec()
        };
        journal.send(Severity::Warn, "{\"level\":\"warn\"}\n").unwrap();
        assert_eq!(
            received(),
            b"PRIORITY=4\nSYSLOG_IDENTIFIER=etcd\nMESSAGE={\"level\":\"warn\"}\n"
        );
        journal.send(Severity::Fatal, "a\nb\n").unwrap();
        assert_eq!(
            received(),
            b"PRIORITY=2\nSYSLOG_IDENTIFIER=etcd\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"
        );
        assert!(journal.send(Severity::Info, &"x".repeat(10 << 20)).is_err());
        assert!(Journal::connect(&dir.path().join("nobody")).is_err());
    }
}
