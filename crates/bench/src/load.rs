//! Callers, connections and the closed loop that drives them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tonic::transport::{Channel, Endpoint};

use crate::Failure;
use crate::process::{self, ServerProcess};
use crate::report::Measured;

/// The callers: each has the channel it uses.
pub struct Clients {
    channels: Vec<Channel>,
    callers: usize,
}

impl Clients {
    /// Opens the connections.
    pub async fn connect(endpoints: &[String], conns: usize, callers: usize) -> Result<Self, Failure> {
        let mut channels = Vec::new();
        for number in 0..conns.max(1) {
            channels.push(open(&endpoints[number % endpoints.len()]).await?);
        }
        Ok(Clients {
            channels,
            callers: callers.max(1),
        })
    }

    /// The channel of a caller or stream.
    pub fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }

    /// How many callers there are.
    pub fn callers(&self) -> usize {
        self.callers
    }
}

/// Opens a connection.
pub async fn open(url: &str) -> Result<Channel, Failure> {
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => format!("http://{url}"),
    };
    let channel = Endpoint::from_shared(url.clone())?
        .tcp_nodelay(true)
        .connect()
        .await;
    Ok(channel.map_err(|error| format!("cannot connect to {url}: {error}; is etcd running there?"))?)
}

/// How a load is run and observed.
pub struct Load {
    /// No progress bar.
    pub quiet: bool,
    /// The servers, as far as they are processes of this machine.
    pub servers: Vec<ServerProcess>,
}

impl Load {
    /// A progress bar with rate and remaining time.
    pub fn bar(&self, total: u64) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = "{bar:40} {pos}/{len} {per_sec} eta {eta}";
        ProgressBar::new(total)
            .with_style(ProgressStyle::with_template(style).expect("the template is well-formed"))
    }

    /// Runs `total` operations: every caller takes the next number, performs it and waits for it.
    /// `make` gives each caller its own operation, from the caller's number.
    pub async fn run<Op, Fut>(
        &self,
        clients: &Clients,
        total: u64,
        rate: u64,
        make: impl Fn(usize) -> Op,
    ) -> Measured
    where
        Op: FnMut(u64) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), tonic::Status>> + Send,
    {
        let bar = self.bar(total);
        let next = Arc::new(AtomicU64::new(0));
        let pause = crate::pace(rate);
        let cpu_before = process::cpu(&self.servers);
        let start = Instant::now();
        let callers: Vec<_> = (0..clients.callers())
            .map(|caller| {
                let (mut operation, next, bar) = (make(caller), next.clone(), bar.clone());
                tokio::spawn(async move {
                    let (mut latencies, mut failed, mut first) = (Vec::new(), 0, None);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return (latencies, failed, first);
                        }
                        if let Some(pause) = pause {
                            let due = start + pause * u32::try_from(number).unwrap_or(u32::MAX);
                            tokio::time::sleep_until(due.into()).await;
                        }
                        let sent = Instant::now();
                        match operation(number).await {
                            Ok(()) => latencies.push(sent.elapsed()),
                            Err(status) => {
                                failed += 1;
                                first.get_or_insert(status.to_string());
                            }
                        }
                        bar.inc(1);
                    }
                })
            })
            .collect();
        let mut measured = Measured {
            latencies: Vec::new(),
            elapsed: Duration::ZERO,
            server_cpu: None,
            failed: (0, None),
        };
        for caller in callers {
            let (latencies, failed, first) = caller.await.expect("callers do not panic");
            measured.latencies.extend(latencies);
            measured.failed.0 += failed;
            measured.failed.1 = measured.failed.1.or(first);
        }
        measured.elapsed = start.elapsed();
        measured.server_cpu = self.cpu_since(cpu_before);
        bar.finish_and_clear();
        measured
    }

    /// The servers' CPU time since an earlier reading.
    pub fn cpu_since(&self, before: Option<Duration>) -> Option<Duration> {
        Some(process::cpu(&self.servers)?.saturating_sub(before?))
    }
}
