//! How far a long job is: a bar at a terminal, now and then a line elsewhere, both on standard error.

use std::future::{Future, pending};
use std::io::IsTerminal;
use std::pin::pin;
use std::time::{Duration, Instant};

use client::{Answers, Client, Error};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use proto::keelson::v1::progress_request::Job;
use proto::keelson::v1::{ProgressRequest, ProgressResponse};
use tokio::time::sleep;
use types::print;

/// How often a job that nobody watches says how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
/// How long a job may take before it is called long.
const SHORT: Duration = Duration::from_millis(500);
/// How long to wait before a server that knows of no such job is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Keys,
    Seconds,
}

/// A job.
pub struct Progress {
    name: String,
    unit: Unit,
    done: u64,
    /// How much there is to do, if that is known.
    total: Option<u64>,
    began: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A job with a known end.
    pub fn new(name: impl Into<String>, unit: Unit, total: u64) -> Self {
        let mut progress = Self::with_unknown_end(name, unit, Instant::now());
        progress.told(0, Some(total));
        progress
    }

    /// So far there is only a sign of life to show.
    fn with_unknown_end(name: impl Into<String>, unit: Unit, began: Instant) -> Self {
        let name = name.into();
        Self {
            bar: std::io::stderr().is_terminal().then(|| spinner(&name)),
            name,
            unit,
            done: 0,
            total: None,
            began,
            said: Instant::now(),
        }
    }

    /// So much is done.
    pub fn at(&mut self, done: u64) {
        self.told(done, self.total);
    }

    fn told(&mut self, done: u64, total: Option<u64>) {
        self.done = done;
        self.bar.iter().for_each(|bar| bar.set_position(done));
        if self.total != total {
            self.total = total;
            self.bar.iter().for_each(|bar| measure(bar, self.unit, total));
        }
        self.say();
    }

    /// Says how far it is, if nobody sees the bar and nothing was said for a while.
    fn say(&mut self) {
        if self.bar.is_none() && self.said.elapsed() >= BETWEEN_LINES {
            self.said = Instant::now();
            eprintln!("{}", self.line(self.began.elapsed()));
        }
    }

    fn line(&self, after: Duration) -> String {
        let amount = |amount| match self.unit {
            Unit::Bytes => print::size(amount),
            Unit::Keys => format!("{amount} keys"),
            Unit::Seconds => format!("{amount}s"),
        };
        match self.total {
            Some(total) => print::progress(&self.name, [self.done, total], amount, after),
            None => format!("{}: {}s", self.name, after.as_secs()),
        }
    }
}

/// The bar goes when the job is over.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// Makes a bar of a mere sign of life.
fn measure(bar: &ProgressBar, unit: Unit, total: Option<u64>) {
    bar.set_style(style(unit));
    bar.set_length(total.unwrap_or_default());
    // What was done before anybody looked says nothing about the speed.
    bar.reset_eta();
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
            let _ = match state.per_sec() > 0.0 {
                true => write!(out, "{}s", state.eta().as_secs()),
                false => write!(out, "?"),
            };
        })
        .progress_chars("=> ")
}

fn spinner(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    let spinner = ProgressBar::new_spinner()
        .with_style(style.expect("the template is written here"))
        .with_message(name.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Waits for a job of a server. One of ours tells how far it is; of others there is a sign of life. With `patience` it is
/// given up when nothing was told for so long.
pub async fn while_waiting<T>(
    name: &str,
    client: &Client,
    job: Job,
    patience: Option<Duration>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut followed = Followed::new(client, job);
    wait(name, job, patience, work, async || followed.next().await).await
}

async fn wait<T>(
    name: &str,
    job: Job,
    patience: Option<Duration>,
    work: impl Future<Output = Result<T, Error>>,
    mut next: impl AsyncFnMut() -> ProgressResponse,
) -> Result<T, Error> {
    let mut work = pin!(work);
    let began = Instant::now();
    let mut silence = pin!(silence(patience));
    tokio::select! {
        done = &mut work => return done,
        () = &mut silence => return Err(Error::Deadline(None)),
        () = sleep(SHORT) => {}
    }
    let unit = match job {
        Job::Compaction => Unit::Keys,
        Job::Defragmentation | Job::Unspecified => Unit::Bytes,
    };
    let mut progress = Progress::with_unknown_end(name, unit, began);
    let mut says = tokio::time::interval(BETWEEN_LINES);
    loop {
        tokio::select! {
            done = &mut work => return done,
            ProgressResponse { done, total } = next() => {
                progress.told(done, Some(total));
                silence.set(self::silence(patience));
            }
            () = &mut silence => return Err(Error::Deadline(None)),
            _ = says.tick() => progress.say(),
        }
    }
}

/// Ends when patience does.
async fn silence(patience: Option<Duration>) {
    match patience {
        Some(patience) => sleep(patience).await,
        None => pending().await,
    }
}

/// A job of a server, as that tells of it.
struct Followed<'a> {
    client: &'a Client,
    job: Job,
    answers: Option<Answers<ProgressRequest, ProgressResponse>>,
}

impl<'a> Followed<'a> {
    fn new(client: &'a Client, job: Job) -> Self {
        let answers = Some(client.progress(job));
        Followed { client, job, answers }
    }

    /// How far it is, as soon as that has changed.
    async fn next(&mut self) -> ProgressResponse {
        while let Some(answers) = &mut self.answers {
            match answers.next().await {
                Some(Ok(told)) => return told,
                // It has not begun yet. Or this was the same job for somebody else, or of another member.
                None => {
                    sleep(ASK_AGAIN).await;
                    self.answers = Some(self.client.progress(self.job));
                }
                // A server of etcd does not tell.
                Some(Err(_)) => self.answers = None,
            }
        }
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// Waits for a job that takes so many seconds, of which there is word every `every` seconds.
    async fn wait_for(takes: u64, every: u64) -> Result<(), Error> {
        let work = async {
            sleep(Duration::from_secs(takes)).await;
            Ok(())
        };
        let next = async || {
            sleep(Duration::from_secs(every)).await;
            ProgressResponse::default()
        };
        wait("job", Job::Defragmentation, Some(PATIENCE), work, next).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_is_waited_for_as_long_as_the_server_tells_of_it() {
        assert_eq!(wait_for(3600, 2).await, Ok(()));
        assert_eq!(wait_for(4, 3600).await, Ok(()));
        assert_eq!(wait_for(3600, 6).await, Err(Error::Deadline(None)));
    }

    #[test]
    fn a_line_says_how_far_a_job_is_or_how_long_it_takes_if_nobody_knows() {
        let mut progress = Progress::with_unknown_end("compacting", Unit::Keys, Instant::now());
        let after = Duration::from_secs(10);
        assert_eq!(progress.line(after), "compacting: 10s");
        progress.told(1000, Some(5000));
        assert_eq!(
            progress.line(after),
            "compacting: 1000 keys of 5000 keys (20%), 40s left"
        );
        let mut progress = Progress::new("defragmenting here:2379", Unit::Bytes, 4_000_000);
        progress.at(1_000_000);
        assert_eq!(
            progress.line(after),
            "defragmenting here:2379: 1.0 MB of 4.0 MB (25%), 30s left"
        );
    }
}
