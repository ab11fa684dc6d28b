//! How far a long job is: a bar at a terminal, now and then a line elsewhere, both on standard error.

use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::output::size;

/// How often a job that nobody watches says how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
/// How long a job may take before it is called long.
const SHORT: Duration = Duration::from_millis(500);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Keys,
    Seconds,
}

/// A job with a known end.
pub struct Progress {
    name: &'static str,
    unit: Unit,
    total: u64,
    began: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new(name: &'static str, unit: Unit, total: u64) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_style(style(unit)).with_message(name);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            name,
            unit,
            total,
            began: now,
            said: now,
            bar,
        }
    }

    /// So much is done.
    pub fn at(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.said.elapsed() >= BETWEEN_LINES => {
                self.said = Instant::now();
                eprintln!("{}", self.line(done, self.began.elapsed()));
            }
            None => {}
        }
    }

    /// `saving: 12 MB of 80 MB (15%), 34s left`.
    fn line(&self, done: u64, after: Duration) -> String {
        let amount = |amount| match self.unit {
            Unit::Bytes => size(amount),
            Unit::Keys => format!("{amount} keys"),
            Unit::Seconds => format!("{amount}s"),
        };
        let share = done as f64 / self.total.max(1) as f64;
        let left = match share > 0.0 {
            true => format!(
                ", {:.0}s left",
                after.as_secs_f64() * (1.0 / share - 1.0).max(0.0)
            ),
            false => String::new(),
        };
        let percent = (share * 100.0).min(100.0);
        format!(
            "{}: {} of {} ({percent:.0}%){left}",
            self.name,
            amount(done),
            amount(self.total)
        )
    }
}

/// The bar goes when the job is over.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let counts = match unit {
        Unit::Bytes => "{bytes}/{total_bytes} {bytes_per_sec}",
        Unit::Keys => "{pos}/{len} keys",
        Unit::Seconds => "{pos}/{len} s",
    };
    let template = format!("{{msg}} [{{bar:40}}] {{percent}}% {counts}, {{left}} left");
    let style = ProgressStyle::with_template(&template).expect("the template is written above");
    style
        .with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}s", state.eta().as_secs());
        })
        .progress_chars("=> ")
}

/// Waits for something without a known end; at a terminal with a sign of life.
pub async fn while_waiting<T>(name: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(SHORT, &mut work).await {
        return done;
    }
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        let style = style.expect("the template is written here");
        let bar = ProgressBar::new_spinner()
            .with_style(style)
            .with_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    });
    let done = work.await;
    bar.iter().for_each(ProgressBar::finish_and_clear);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_much_is_done_and_how_long_it_takes_still() {
        let progress = Progress {
            name: "saving",
            unit: Unit::Bytes,
            total: 80_000_000,
            began: Instant::now(),
            said: Instant::now(),
            bar: None,
        };
        assert_eq!(
            progress.line(20_000_000, Duration::from_secs(10)),
            "saving: 20 MB of 80 MB (25%), 30s left"
        );
        assert_eq!(
            progress.line(0, Duration::from_secs(1)),
            "saving: 0 B of 80 MB (0%)"
        );
    }
}
