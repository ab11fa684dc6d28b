//! How far a long job is: a bar at a terminal, now and then a line elsewhere, both on standard error.

use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use types::print;

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
                eprintln!("{}", self.line(done));
            }
            None => {}
        }
    }

    fn line(&self, done: u64) -> String {
        let amount = |amount| match self.unit {
            Unit::Bytes => print::size(amount),
            Unit::Keys => format!("{amount} keys"),
            Unit::Seconds => format!("{amount}s"),
        };
        print::progress(self.name, [done, self.total], amount, self.began.elapsed())
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
        Unit::Bytes => "{decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
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

/// Waits for something that does not tell how far it is; with a sign of life.
pub async fn while_waiting<T>(name: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let began = Instant::now();
    if let Ok(done) = tokio::time::timeout(SHORT, &mut work).await {
        return done;
    }
    let spinner = std::io::stderr().is_terminal().then(|| spinner(name));
    let mut tells = tokio::time::interval(BETWEEN_LINES);
    tells.tick().await;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = tells.tick(), if spinner.is_none() => {
                eprintln!("{name}: {}s", began.elapsed().as_secs());
            }
        }
    };
    spinner.iter().for_each(ProgressBar::finish_and_clear);
    done
}

fn spinner(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    let spinner = ProgressBar::new_spinner()
        .with_style(style.expect("the template is written here"))
        .with_message(name.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
