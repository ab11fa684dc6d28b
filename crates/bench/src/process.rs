//! The server as a process: its CPU time and memory, read from /proc.

use std::fs;
use std::time::Duration;

/// Clock ticks per second in /proc/PID/stat; fixed at 100 in Linux's interface to user space.
const TICKS_PER_SEC: u64 = 100;
/// State of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// A process on this machine.
#[derive(Clone, Copy)]
pub struct ServerProcess {
    pid: u32,
}

impl ServerProcess {
    /// The given process, or the one that listens on the endpoint's port here.
    pub fn find(pid: Option<u32>, endpoint: &str) -> Option<Self> {
        pid.or_else(|| listener(port(endpoint)?))
            .map(|pid| ServerProcess { pid })
    }

    /// Its number.
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// CPU time spent so far, in user and kernel mode, by all threads.
    pub fn cpu(self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The command name in parentheses may hold blanks; fields count from behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SEC))
    }

    /// Resident memory in bytes: now, and at its highest.
    pub fn memory(self) -> Option<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':')
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        };
        Some((kib("VmRSS")? * 1024, kib("VmHWM")? * 1024))
    }
}

/// What some processes have spent together; nothing if there are none or one is gone.
pub fn cpu(processes: &[ServerProcess]) -> Option<Duration> {
    let each = processes.iter().map(|process| process.cpu());
    (!processes.is_empty()).then(|| each.sum())?
}

/// What they have in memory together, now and at the highest.
pub fn memory(processes: &[ServerProcess]) -> Option<(u64, u64)> {
    let each = processes.iter().map(|process| process.memory());
    let all: Vec<_> = each.collect::<Option<_>>()?;
    let sum = |(now, peak): (u64, u64), (n, p): &(u64, u64)| (now + n, peak + p);
    (!all.is_empty()).then(|| all.iter().fold((0, 0), sum))
}

fn port(endpoint: &str) -> Option<u16> {
    endpoint.trim_end_matches('/').rsplit_once(':')?.1.parse().ok()
}

/// The process that listens on `port`: the socket's inode from the TCP tables, then whoever has it open.
fn listener(port: u16) -> Option<u32> {
    let tables: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .collect();
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines().filter_map(|line| listening_inode(line, port)))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let open = fs::read_dir(process.path().join("fd")).ok()?;
        let owns = open.flatten().any(|fd| {
            fs::read_link(fd.path())
                .is_ok_and(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
        });
        owns.then_some(pid)
    })
}

fn listening_inode(line: &str, port: u16) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let local = fields.get(1)?.rsplit_once(':')?.1;
    let matches = *fields.get(3)? == LISTEN && u16::from_str_radix(local, 16).ok()? == port;
    matches.then(|| fields.get(9).copied()).flatten()
}
