//! `etcd-benchmark`: load on an etcd server, and what it costs there.
//!
//! The sub-commands are those of etcd's own benchmark tool. Besides throughput and latency it reports
//! the server's CPU time per operation, which is what stays comparable on a busy machine: give
//! `--server-pid`, or run it on the server's machine and it finds the process by its port.

// A load generator lives by the clock.
#![allow(clippy::disallowed_methods)]

mod abuse;
mod gap;
mod load;
mod process;
mod report;
mod wire;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use load::{Clients, Load};
use process::ServerProcess;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Puts load on an etcd server and reports throughput, latency and the server's CPU time.
#[derive(Parser)]
#[command(name = "etcd-benchmark", version)]
struct Options {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Target {
    /// Servers to use, round robin by connection.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379",
        global = true
    )]
    endpoints: Vec<String>,
    /// Connections.
    #[arg(long, default_value_t = 1, global = true)]
    conns: usize,
    /// Callers, spread over the connections; each has one request under way.
    #[arg(long, default_value_t = 1, global = true)]
    clients: usize,
    /// Process whose CPU time and memory are reported; found by the first endpoint's port if left out.
    #[arg(long, global = true)]
    server_pid: Option<u32>,
    /// Report the CPU time and memory of the servers behind all endpoints, not only the first one's.
    #[arg(long, global = true)]
    all_servers: bool,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, global = true)]
    threads: usize,
    /// No progress bar.
    #[arg(long, global = true)]
    quiet: bool,
}

#[derive(Args, Clone)]
struct Keys {
    /// Requests in all.
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// Bytes of a key.
    #[arg(long, default_value_t = 8)]
    key_size: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 8)]
    val_size: usize,
    /// Different keys.
    #[arg(long, default_value_t = 1)]
    key_space_size: u64,
    /// Keys in order instead of by chance.
    #[arg(long)]
    sequential_keys: bool,
    /// Requests per second at most; 0: as many as possible.
    #[arg(long, default_value_t = 0)]
    rate: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Writes keys.
    Put(Keys),
    /// Reads a key or a range.
    Range {
        /// First key; with {} in it, a number below --key-space-size is put there.
        key: String,
        /// End of the range.
        range_end: Option<String>,
        /// Requests in all.
        #[arg(long, default_value_t = 10_000)]
        total: u64,
        /// `l` linearizable, `s` serializable.
        #[arg(long, default_value = "l")]
        consistency: String,
        /// Keys per answer at most; 0: all.
        #[arg(long, default_value_t = 0)]
        limit: i64,
        /// Numbers put in place of {} in the key.
        #[arg(long, default_value_t = 1)]
        key_space_size: u64,
        /// Requests per second at most; 0: as many as possible.
        #[arg(long, default_value_t = 0)]
        rate: u64,
    },
    /// Writes keys inside transactions.
    TxnPut {
        #[command(flatten)]
        keys: Keys,
        /// Puts in each transaction.
        #[arg(long, default_value_t = 1)]
        txn_ops: u64,
    },
    /// Many watchers, then writes to what they watch: how fast events arrive.
    Watch {
        /// Watch streams.
        #[arg(long, default_value_t = 10)]
        streams: usize,
        /// Watchers on each stream.
        #[arg(long, default_value_t = 100)]
        watch_per_stream: usize,
        /// Different keys that are watched.
        #[arg(long, default_value_t = 1)]
        watched_key_total: usize,
        /// Writes.
        #[arg(long, default_value_t = 1_000)]
        put_total: u64,
        /// Writes per second at most; 0: as many as possible.
        #[arg(long, default_value_t = 0)]
        put_rate: u64,
        /// Bytes of a value.
        #[arg(long, default_value_t = 32)]
        val_size: usize,
    },
    /// Time from a put to its event.
    WatchLatency {
        /// Watch streams.
        #[arg(long, default_value_t = 10)]
        streams: usize,
        /// Watchers on each stream.
        #[arg(long, default_value_t = 10)]
        watchers_per_stream: usize,
        /// Writes.
        #[arg(long, default_value_t = 1_000)]
        put_total: u64,
        /// Writes per second at most.
        #[arg(long, default_value_t = 100)]
        put_rate: u64,
        /// Bytes of a value.
        #[arg(long, default_value_t = 32)]
        val_size: usize,
    },
    /// Ends the leader while a client per member writes, and reports the longest time without a write.
    WriteGap {
        /// `KILL` or `TERM`.
        #[arg(long, default_value = "KILL")]
        signal: String,
    },
    /// Is rude to a server of this machine in every way we know, and shows what that costs a client that writes.
    Abuse(abuse::Plan),
    /// Renews one lease per caller.
    LeaseKeepalive {
        /// Renewals in all.
        #[arg(long, default_value_t = 10_000)]
        total: u64,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match options.target.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    };
    let outcome = runtime
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(options)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    let Options { target, command } = options;
    let clients = Clients::connect(&target.endpoints, target.conns, target.clients).await?;
    let counted = if target.all_servers {
        target.endpoints.len()
    } else {
        1
    };
    let servers = target.endpoints[..counted]
        .iter()
        .filter_map(|endpoint| ServerProcess::find(target.server_pid, endpoint));
    let load = Load {
        quiet: target.quiet,
        servers: servers.collect(),
    };
    match command {
        Command::Put(keys) => workload::put(&load, &clients, keys, None).await,
        Command::TxnPut { keys, txn_ops } => workload::put(&load, &clients, keys, Some(txn_ops)).await,
        Command::Range {
            key,
            range_end,
            total,
            consistency,
            limit,
            key_space_size,
            rate,
        } => {
            let serializable = match consistency.as_str() {
                "l" => false,
                "s" => true,
                other => return Err(format!("--consistency is l or s, not {other:?}").into()),
            };
            let range = workload::Range {
                key,
                range_end,
                limit,
                serializable,
                key_space_size,
            };
            workload::range(&load, &clients, range, total, rate).await
        }
        Command::Watch {
            streams,
            watch_per_stream,
            watched_key_total,
            put_total,
            put_rate,
            val_size,
        } => {
            let plan = workload::Watch {
                streams,
                per_stream: watch_per_stream,
                keys: watched_key_total.max(1),
                puts: put_total,
                rate: put_rate,
                val_size,
            };
            workload::watch(&load, &clients, plan).await
        }
        Command::WatchLatency {
            streams,
            watchers_per_stream,
            put_total,
            put_rate,
            val_size,
        } => {
            let plan = workload::Watch {
                streams,
                per_stream: watchers_per_stream,
                keys: 1,
                puts: put_total,
                rate: put_rate,
                val_size,
            };
            workload::watch(&load, &clients, plan).await
        }
        Command::WriteGap { signal } => gap::run(&clients, &target.endpoints, &signal).await,
        Command::Abuse(plan) => abuse::run(&clients, &target.endpoints[0], target.server_pid, plan).await,
        Command::LeaseKeepalive { total } => workload::lease_keepalive(&load, &clients, total).await,
    }
}

/// The pause between two requests that keeps a rate; none for rate 0.
fn pace(rate: u64) -> Option<Duration> {
    (rate > 0).then(|| Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX))
}
