//! Measures a cluster by what it does: writes at a rate for a minute, or writes many keys and looks at the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::Client;
use proto::etcdserverpb::{CompactionRequest, DefragmentRequest, PutRequest, RangeRequest};
use rand::Rng;
use tokio::sync::mpsc;

use super::context::{self, Context};
use super::memory;
use super::progress::{Progress, Unit};
use crate::arguments::{Check, CheckOptions};
use crate::failure::{Failure, Status};
use crate::output::quoted;
use crate::ranges::{self, Range};

/// How long writes go on.
const PERF_SECONDS: u64 = 60;
/// Sizes of what is written.
const PERF_BYTES: [usize; 2] = [256, 1024];
const SCALE_BYTES: [usize; 2] = [512, 512];
/// A slower request than this fails the check, and so does a larger deviation.
const SLOWEST: Duration = Duration::from_millis(500);
const DEVIATION: Duration = Duration::from_millis(100);
/// How long cleaning up may take.
const CLEANING: Duration = Duration::from_secs(30);
/// Callers that share a connection.
const CALLERS_PER_CONNECTION: usize = 20;

/// How much is done: writes a second or keys, and callers at a time.
struct Load {
    rate: u64,
    keys: u64,
    callers: usize,
}

fn load(name: &str) -> Result<Load, Failure> {
    let (rate, keys, callers) = match name {
        "s" | "small" => (150, 10_000, 50),
        "m" | "medium" => (1000, 100_000, 200),
        "l" | "large" => (8000, 1_000_000, 500),
        "xl" | "xLarge" => (15_000, 3_000_000, 1000),
        other => {
            return Err(
                Failure::new(Status::Feature, format!("unknown load option {other}"))
                    .cure("It is s, m, l, or xl."),
            );
        }
    };
    Ok(Load { rate, keys, callers })
}

pub async fn run(context: &Context, check: Check) -> Result<(), Failure> {
    match check {
        Check::Perf { options, prefix } => perf(context, &options, &prefix).await,
        Check::Datascale { options, prefix } => datascale(context, &options, &prefix).await,
    }
}

async fn perf(context: &Context, options: &CheckOptions, prefix: &str) -> Result<(), Failure> {
    let load = load(&options.load)?;
    let range = ranges::under(prefix.as_bytes());
    let writers = Writers::start(context, load.callers).await?;
    writers.nothing_there(&range, prefix).await?;
    let began = Instant::now();
    let written = async {
        let mut progress = Progress::new("writing", Unit::Seconds, PERF_SECONDS);
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        let mut asked = 0;
        // A cluster that is too slow is not asked for longer.
        while began.elapsed() < Duration::from_secs(PERF_SECONDS) {
            progress.at(began.elapsed().as_secs());
            let due = (began.elapsed().as_secs_f64() * load.rate as f64) as u64;
            match asked < due {
                true => {
                    asked += 1;
                    writers.ask(put(prefix, PERF_BYTES)).await;
                }
                false => drop(tick.tick().await),
            }
        }
    };
    let interrupted = tokio::select! {
        () = written => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    let (client, times) = writers.end().await;
    let took = began.elapsed();
    clean(&client, &range, options).await?;
    match interrupted {
        true => Err(Failure::new(Status::Interrupted, "interrupted")),
        false => judge(&times, took, load.rate),
    }
}

/// Prints what came out, line by line as etcd does.
fn judge(times: &Times, took: Duration, rate: u64) -> Result<(), Failure> {
    let throughput = times.count() as f64 / took.as_secs_f64();
    let seconds = |duration: Duration| format!("{:.6}s", duration.as_secs_f64());
    let (slowest, deviation) = (times.slowest(), times.deviation());
    let mut lines = Vec::new();
    if !times.errors.is_empty() {
        lines.push((false, "FAIL: too many errors".into()));
        let errors = times.errors.iter();
        lines.extend(errors.map(|(error, count)| (false, format!("FAIL: ERROR({error}) -> {count}"))));
    }
    let writes = throughput as u64 + 1;
    lines.push(match throughput / rate as f64 > 0.9 {
        true => (true, format!("PASS: Throughput is {writes} writes/s")),
        false => (false, format!("FAIL: Throughput too low: {writes} writes/s")),
    });
    lines.push(match slowest > SLOWEST {
        true => (
            false,
            format!("Slowest request took too long: {}", seconds(slowest)),
        ),
        false => (true, format!("PASS: Slowest request took {}", seconds(slowest))),
    });
    lines.push(match deviation > DEVIATION {
        true => (false, format!("Stddev too high: {}", seconds(deviation))),
        false => (true, format!("PASS: Stddev is {}", seconds(deviation))),
    });
    let passed = lines.iter().all(|(passed, _)| *passed);
    lines.push((passed, if passed { "PASS" } else { "FAIL" }.into()));
    let text: String = lines.into_iter().map(|(_, line)| line + "\n").collect();
    context::print(text.as_bytes())?;
    if passed { Ok(()) } else { Err(Failure::silent(1)) }
}

async fn datascale(context: &Context, options: &CheckOptions, prefix: &str) -> Result<(), Failure> {
    let load = load(&options.load)?;
    let range = ranges::under(prefix.as_bytes());
    let writers = Writers::start(context, load.callers).await?;
    writers.nothing_there(&range, prefix).await?;
    let before = memory::resident(context).await?;
    let bytes = SCALE_BYTES.iter().sum::<usize>();
    context::print(
        format!(
            "Start data scale check for work load [{} key-value pairs, {bytes} bytes per key-value, {} concurrent \
             clients].\n",
            load.keys, load.callers
        )
        .as_bytes(),
    )?;
    let mut progress = Progress::new("writing", Unit::Keys, load.keys);
    for _ in 0..load.keys {
        writers.ask(put(prefix, SCALE_BYTES)).await;
        progress.at(writers.done.load(Ordering::Relaxed));
    }
    let (client, times) = writers.end().await;
    drop(progress);
    let after = memory::resident(context).await?;
    clean(&client, &range, options).await?;
    if !times.errors.is_empty() {
        let errors = times.errors.iter();
        let errors = errors.map(|(error, count)| format!("FAIL: ERROR({error}) -> {count}\n"));
        context::print(format!("FAIL: too many errors\n{}", errors.collect::<String>()).as_bytes())?;
        return Err(Failure::silent(1));
    }
    let used = (after - before) / f64::from(1 << 20);
    context::print(format!("PASS: Approximate system memory used : {used:.2} MB.\n").as_bytes())
}

/// A key of random bytes, and a value of zeros.
fn put(prefix: &str, [key, value]: [usize; 2]) -> PutRequest {
    let mut name = vec![0; key];
    rand::rng().fill(&mut name[..10]);
    PutRequest {
        key: [prefix.as_bytes(), &name].concat().into(),
        value: vec![0; value].into(),
        ..Default::default()
    }
}

/// Deletes what was written, and does what else is wanted.
async fn clean(client: &Client, range: &Range, options: &CheckOptions) -> Result<(), Failure> {
    let client = client.with_timeout(CLEANING);
    let deleted = client.delete_range(range.clone().into()).await?;
    let revision = deleted.header.map_or(0, |header| header.revision);
    if options.auto_compact {
        context::print(format!("Compacting with revision {revision}\n").as_bytes())?;
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        client.compact(request).await?;
        context::print(format!("Compacted with revision {revision}\n").as_bytes())?;
    }
    if options.auto_defrag {
        for endpoint in client.endpoints() {
            let name = quoted(endpoint.as_bytes());
            context::print(format!("Defragmenting {name}\n").as_bytes())?;
            client.at(&endpoint)?.defragment(DefragmentRequest {}).await?;
            context::print(format!("Defragmented {name}\n").as_bytes())?;
        }
    }
    Ok(())
}

/// Callers who write what they are asked to.
struct Writers {
    client: Client,
    requests: mpsc::Sender<PutRequest>,
    tasks: tokio::task::JoinSet<Times>,
    done: Arc<AtomicU64>,
}

impl Writers {
    async fn start(context: &Context, callers: usize) -> Result<Self, Failure> {
        let client = context.connect().await?;
        let (requests, waiting) = mpsc::channel(callers);
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        let mut tasks = tokio::task::JoinSet::new();
        let done = Arc::new(AtomicU64::new(0));
        let mut connection = client.clone();
        for number in 0..callers {
            if number > 0 && number % CALLERS_PER_CONNECTION == 0 {
                connection = context.connect().await?;
            }
            tasks.spawn(write(connection.clone(), waiting.clone(), done.clone()));
        }
        Ok(Self {
            client,
            requests,
            tasks,
            done,
        })
    }

    /// Fails if there are keys where the check would write.
    async fn nothing_there(&self, range: &Range, prefix: &str) -> Result<(), Failure> {
        let request = RangeRequest {
            limit: 1,
            ..range.clone().into()
        };
        match self.client.range(request).await?.kvs.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(
                Status::Input,
                format!("prefix {prefix:?} has keys. Delete with 'etcdctl del --prefix {prefix}' first"),
            )),
        }
    }

    async fn ask(&self, request: PutRequest) {
        // The writers only end when this is dropped.
        let _ = self.requests.send(request).await;
    }

    /// Waits for what has been asked for.
    async fn end(self) -> (Client, Times) {
        drop(self.requests);
        let each = self.tasks.join_all().await;
        let mut all = Times::default();
        each.into_iter().for_each(|times| all.add(times));
        (self.client, all)
    }
}

async fn write(
    client: Client,
    requests: Arc<tokio::sync::Mutex<mpsc::Receiver<PutRequest>>>,
    done: Arc<AtomicU64>,
) -> Times {
    let mut times = Times::default();
    loop {
        let next = requests.lock().await.recv().await;
        let Some(request) = next else { return times };
        let began = Instant::now();
        match client.put(request).await {
            Ok(_) => times.took.push(began.elapsed()),
            Err(error) => *times.errors.entry(error.to_string()).or_default() += 1,
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long requests took, and what went wrong.
#[derive(Default)]
struct Times {
    took: Vec<Duration>,
    errors: std::collections::BTreeMap<String, u64>,
}

impl Times {
    fn add(&mut self, other: Times) {
        self.took.extend(other.took);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    fn count(&self) -> usize {
        self.took.len()
    }

    fn slowest(&self) -> Duration {
        self.took.iter().max().copied().unwrap_or_default()
    }

    fn deviation(&self) -> Duration {
        let seconds = || self.took.iter().map(Duration::as_secs_f64);
        let count = self.count().max(1) as f64;
        let mean = seconds().sum::<f64>() / count;
        let variance = seconds().map(|time| (time - mean).powi(2)).sum::<f64>() / count;
        Duration::from_secs_f64(variance.sqrt())
    }
}
