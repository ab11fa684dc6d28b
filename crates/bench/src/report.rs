//! What a run amounted to, in numbers.

use std::time::Duration;

use crate::process::{self, ServerProcess};

/// What was measured while a load ran.
pub struct Measured {
    /// One latency per operation.
    pub latencies: Vec<Duration>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// CPU time of the server in that span.
    pub server_cpu: Option<Duration>,
    /// Requests that failed, with the text of the first failure.
    pub failed: (u64, Option<String>),
}

impl Measured {
    /// Prints the summary. `unit` names what was counted, e.g. `put`.
    pub fn print(mut self, unit: &str, servers: &[ServerProcess]) {
        self.latencies.sort_unstable();
        let count = self.latencies.len();
        println!("{:<24}{count}", format!("{unit}s"));
        if let (failed @ 1.., Some(first)) = &self.failed {
            println!("{:<24}{failed} (first: {first})", "failed");
        }
        if count == 0 {
            return;
        }
        let seconds = self.elapsed.as_secs_f64();
        println!("{:<24}{seconds:.3} s", "elapsed");
        println!("{:<24}{:.0} /s", "throughput", count as f64 / seconds);
        let total: Duration = self.latencies.iter().sum();
        println!("{:<24}{}", "latency mean", millis(total / count as u32));
        for percent in [50.0, 90.0, 99.0, 99.9, 100.0] {
            println!(
                "{:<24}{}",
                format!("latency p{percent}"),
                millis(percentile(&self.latencies, percent))
            );
        }
        if let Some(cpu) = self.server_cpu {
            println!("{:<24}{:.3} s", "server CPU", cpu.as_secs_f64());
            println!(
                "{:<24}{:.2} us",
                format!("server CPU per {unit}"),
                cpu.as_secs_f64() * 1e6 / count as f64
            );
        }
        if let Some((now, peak)) = process::memory(servers) {
            println!(
                "{:<24}{} MiB, peak {} MiB",
                "server memory",
                now >> 20,
                peak >> 20
            );
        }
    }
}

/// The value below which `percent` of the sorted values lie.
pub fn percentile(sorted: &[Duration], percent: f64) -> Duration {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn millis(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50.0), Duration::from_millis(50));
        assert_eq!(percentile(&sorted, 99.0), Duration::from_millis(99));
        assert_eq!(percentile(&sorted, 100.0), Duration::from_millis(100));
        assert_eq!(percentile(&sorted[..1], 0.0), Duration::from_millis(1));
    }
}
