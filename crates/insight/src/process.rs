//! This process, as the kernel sees it: read from `/proc/self` when somebody scrapes.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// A number of this process, under the name that Prometheus' libraries give it.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// Its name.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Names, kinds and helps.
const NUMBERS: [(&str, &str, &str); 11] = [
    (
        "os_fd_limit",
        "gauge",
        "The most files this process may have open.",
    ),
    ("os_fd_used", "gauge", "Files this process has open."),
    (
        "process_cpu_seconds_total",
        "counter",
        "CPU time in user and system mode.",
    ),
    (
        "process_max_fds",
        "gauge",
        "The most files this process may have open.",
    ),
    (
        "process_network_receive_bytes_total",
        "counter",
        "Bytes received by this process's network interfaces.",
    ),
    (
        "process_network_transmit_bytes_total",
        "counter",
        "Bytes sent by this process's network interfaces.",
    ),
    ("process_open_fds", "gauge", "Files this process has open."),
    ("process_resident_memory_bytes", "gauge", "Memory that is in RAM."),
    (
        "process_start_time_seconds",
        "gauge",
        "Start of this process, in Unix time.",
    ),
    ("process_virtual_memory_bytes", "gauge", "Address space in use."),
    (
        "process_virtual_memory_max_bytes",
        "gauge",
        "The most address space there may be.",
    ),
];

/// All numbers there are.
pub fn numbers() -> impl Iterator<Item = Number> {
    NUMBERS
        .into_iter()
        .map(|(name, kind, help)| Number { name, kind, help })
}

/// What they are now; what can't be read is left out.
pub fn measured() -> Vec<(Number, f64)> {
    let stat = Stat::read();
    let network = network_bytes();
    let open = open_files().map(|count| count as f64);
    let value = |number: Number| {
        let value = match number.name {
            "os_fd_used" | "process_open_fds" => open,
            "os_fd_limit" | "process_max_fds" => Some(limit(Resource::Nofile)),
            "process_virtual_memory_max_bytes" => Some(limit(Resource::As)),
            "process_cpu_seconds_total" => stat.as_ref().map(|stat| stat.cpu_secs),
            "process_resident_memory_bytes" => stat.as_ref().map(|stat| stat.resident_bytes),
            "process_virtual_memory_bytes" => stat.as_ref().map(|stat| stat.virtual_bytes),
            "process_start_time_seconds" => stat.as_ref().map(|stat| stat.start_secs),
            "process_network_receive_bytes_total" => network.map(|(received, _)| received),
            "process_network_transmit_bytes_total" => network.map(|(_, sent)| sent),
            _ => None,
        };
        Some((number, value?))
    };
    numbers().filter_map(value).collect()
}

/// Files this process has open, those of this look included.
fn open_files() -> Option<u64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64)
}

/// A limit, as Prometheus' libraries show it: none is the largest number.
fn limit(resource: Resource) -> f64 {
    getrlimit(resource).current.unwrap_or(u64::MAX) as f64
}

/// What `/proc/self/stat` tells.
struct Stat {
    cpu_secs: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
    start_secs: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let boot_secs = fs::read_to_string("/proc/stat").ok()?;
        let boot_secs = boot_secs
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse()
            .ok()?;
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        Stat::parse(
            &fs::read_to_string("/proc/self/stat").ok()?,
            ticks,
            page,
            boot_secs,
        )
    }

    fn parse(stat: &str, ticks: f64, page: f64, boot_secs: f64) -> Option<Self> {
        // The program's name may hold blanks and brackets; what follows the last bracket does not.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<f64> = rest
            .split_whitespace()
            .skip(1)
            .map_while(|field| field.parse().ok())
            .collect();
        // The manual page counts fields from 1, and the first of these is its fourth.
        let field = |number: usize| fields.get(number - 4).copied();
        Some(Stat {
            cpu_secs: (field(14)? + field(15)?) / ticks,
            start_secs: boot_secs + field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
        })
    }
}

/// Bytes received and sent by all interfaces but the loopback's.
fn network_bytes() -> Option<(f64, f64)> {
    let table = fs::read_to_string("/proc/self/net/dev").ok()?;
    Some(sum_interfaces(&table))
}

fn sum_interfaces(table: &str) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for line in table.lines() {
        let Some((name, columns)) = line.split_once(':') else {
            continue;
        };
        let columns: Vec<f64> = columns
            .split_whitespace()
            .map_while(|column| column.parse().ok())
            .collect();
        if let (true, Some(received), Some(sent)) = (name.trim() != "lo", columns.first(), columns.get(8)) {
            sums.0 += received;
            sums.1 += sent;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stat_file_is_read_behind_a_name_of_any_kind() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1000 8192 2 0 0";
        let stat = Stat::parse(stat, 100.0, 4096.0, 1e9).unwrap();
        assert_eq!((stat.cpu_secs, stat.start_secs), (3.0, 1e9 + 10.0));
        assert_eq!((stat.virtual_bytes, stat.resident_bytes), (8192.0, 8192.0));
        assert!(Stat::parse("7 (x) S 1", 100.0, 4096.0, 0.0).is_none());
    }

    #[test]
    fn interfaces_are_summed_without_the_loopback() {
        let table = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 5 0 0 0 0 0 0 0 5 0\n\
                     eth0: 10 0 0 0 0 0 0 0 20 0\n eth1: 1 0 0 0 0 0 0 0 2 0\n";
        assert_eq!(sum_interfaces(table), (11.0, 22.0));
    }

    #[test]
    fn this_process_is_measured() {
        let measured: Vec<_> = measured().into_iter().map(|(number, _)| number.name).collect();
        assert_eq!(measured, NUMBERS.map(|(name, _, _)| name));
    }
}
