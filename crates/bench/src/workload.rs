//! The loads themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::lease_client::LeaseClient;
use grpc::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCreateRequest, WatchRequest, request_op,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::load::{Clients, Load};
use crate::report::Measured;
use crate::{Failure, Keys};

/// A request waiting on a stream; callers wait for its answer, so one is enough.
const STREAM_BUFFER: usize = 1;

impl Keys {
    /// The key of request `number`.
    fn key(&self, number: u64) -> Bytes {
        let space = self.key_space_size.max(1);
        let chosen = if self.sequential_keys {
            number % space
        } else {
            scatter(number) % space
        };
        numbered(chosen, self.key_size)
    }
}

/// A number as a key of `size` bytes: big-endian digits, padded in front, so keys sort like numbers.
fn numbered(number: u64, size: usize) -> Bytes {
    let digits = format!("{number:0size$}");
    Bytes::from(digits[digits.len() - size.max(1)..].to_owned())
}

/// A well-mixed function of the request number (splitmix64): the same "random" keys in every run.
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Puts, one by one or `txn_ops` to a transaction.
pub async fn put(load: &Load, clients: &Clients, keys: Keys, txn_ops: Option<u64>) -> Result<(), Failure> {
    let value = Bytes::from(vec![b'v'; keys.val_size]);
    let (total, rate) = (keys.total, keys.rate);
    let measured = load
        .run(clients, total, rate, |caller| {
            let kv = KvClient::new(clients.channel(caller));
            let (keys, value) = (keys.clone(), value.clone());
            move |number| {
                let (mut kv, keys, value) = (kv.clone(), keys.clone(), value.clone());
                let put = move |number| PutRequest {
                    key: keys.key(number),
                    value: value.clone(),
                    ..Default::default()
                };
                async move {
                    match txn_ops {
                        None => kv.put(put(number)).await.map(drop),
                        Some(ops) => kv
                            .txn(txn_of_puts((0..ops).map(|op| put(number * ops + op))))
                            .await
                            .map(drop),
                    }
                }
            }
        })
        .await;
    measured.print(if txn_ops.is_some() { "txn" } else { "put" }, &load.servers);
    Ok(())
}

fn txn_of_puts(puts: impl Iterator<Item = PutRequest>) -> TxnRequest {
    let operation = |put| RequestOp {
        request: Some(request_op::Request::RequestPut(put)),
    };
    TxnRequest {
        success: puts.map(operation).collect(),
        ..Default::default()
    }
}

/// What a range load reads.
#[derive(Clone)]
pub struct Range {
    /// Key, with {} for a number.
    pub key: String,
    /// End of the range.
    pub range_end: Option<String>,
    /// Keys per answer.
    pub limit: i64,
    /// Without ReadIndex.
    pub serializable: bool,
    /// Numbers put in place of {}.
    pub key_space_size: u64,
}

/// Ranges.
pub async fn range(
    load: &Load,
    clients: &Clients,
    range: Range,
    total: u64,
    rate: u64,
) -> Result<(), Failure> {
    let measured = load
        .run(clients, total, rate, |caller| {
            let kv = KvClient::new(clients.channel(caller));
            let range = range.clone();
            move |number| {
                let mut kv = kv.clone();
                let chosen = scatter(number) % range.key_space_size.max(1);
                let request = RangeRequest {
                    key: range.key.replace("{}", &chosen.to_string()).into(),
                    range_end: range.range_end.clone().unwrap_or_default().into(),
                    limit: range.limit,
                    serializable: range.serializable,
                    ..Default::default()
                };
                async move { kv.range(request).await.map(drop) }
            }
        })
        .await;
    measured.print("range", &load.servers);
    Ok(())
}

/// Watchers and the writes they see.
pub struct Watch {
    /// Streams.
    pub streams: usize,
    /// Watchers on each.
    pub per_stream: usize,
    /// Keys that are watched, dealt out to the watchers in turn.
    pub keys: usize,
    /// Writes.
    pub puts: u64,
    /// Writes per second.
    pub rate: u64,
    /// Bytes of a value.
    pub val_size: usize,
}

impl Watch {
    fn key(&self, number: usize) -> Bytes {
        Bytes::from(format!("watched/{number:08}"))
    }

    /// How many watchers look at key `number`.
    fn watchers_of(&self, number: usize) -> u64 {
        let watchers = self.streams * self.per_stream;
        (watchers / self.keys + usize::from(number < watchers % self.keys)) as u64
    }
}

/// Opens the watchers, writes, and waits until every watcher has seen every write of its key. Each
/// value carries the time of its put, so the latencies are those from put to event.
pub async fn watch(load: &Load, clients: &Clients, plan: Watch) -> Result<(), Failure> {
    let start = Instant::now();
    let received = Arc::new(AtomicU64::new(0));
    let (latency_in, mut latency_out) = mpsc::channel::<Vec<Duration>>(plan.streams.max(1));
    let expected: u64 = (0..plan.puts)
        .map(|put| plan.watchers_of(put as usize % plan.keys))
        .sum();
    let done = tokio::sync::watch::channel(());
    for stream in 0..plan.streams {
        let (requests, feed) = mpsc::channel(plan.per_stream.max(1));
        for watcher in 0..plan.per_stream {
            let key = plan.key((stream * plan.per_stream + watcher) % plan.keys);
            let create = WatchCreateRequest {
                key,
                ..Default::default()
            };
            requests
                .send(WatchRequest {
                    request_union: Some(RequestUnion::CreateRequest(create)),
                })
                .await?;
        }
        let mut answers = WatchClient::new(clients.channel(stream))
            .watch(ReceiverStream::new(feed))
            .await?
            .into_inner();
        for _ in 0..plan.per_stream {
            let answer = answers.message().await?.ok_or("the watch stream ended early")?;
            if !answer.created || answer.canceled {
                return Err(format!("a watcher was refused: {answer:?}").into());
            }
        }
        let (received, latency_in, mut done) = (received.clone(), latency_in.clone(), done.1.clone());
        tokio::spawn(async move {
            let _keep_open = requests;
            let mut latencies = Vec::new();
            loop {
                let answer = tokio::select! {
                    answer = answers.next() => answer,
                    _ = done.changed() => break,
                };
                let Some(Ok(answer)) = answer else { break };
                for event in &answer.events {
                    let sent = event
                        .kv
                        .as_ref()
                        .and_then(|kv| kv.value.first_chunk::<8>().copied());
                    let sent = Duration::from_nanos(sent.map_or(0, u64::from_be_bytes));
                    latencies.push(start.elapsed().saturating_sub(sent));
                }
                received.fetch_add(answer.events.len() as u64, Ordering::Release);
            }
            let _ = latency_in.send(latencies).await;
        });
    }
    drop(latency_in);

    let cpu_before = crate::process::cpu(&load.servers);
    let began = Instant::now();
    let keys: Arc<Vec<Bytes>> = Arc::new((0..plan.keys).map(|number| plan.key(number)).collect());
    let val_size = plan.val_size.max(8);
    let puts = load
        .run(clients, plan.puts, plan.rate, |caller| {
            let kv = KvClient::new(clients.channel(caller));
            let keys = keys.clone();
            move |number| {
                let mut kv = kv.clone();
                let key = keys[number as usize % keys.len()].clone();
                let mut value = vec![b'v'; val_size];
                value[..8].copy_from_slice(&(start.elapsed().as_nanos() as u64).to_be_bytes());
                let put = PutRequest {
                    key,
                    value: value.into(),
                    ..Default::default()
                };
                async move { kv.put(put).await.map(drop) }
            }
        })
        .await;
    if puts.failed.0 > 0 {
        return Err(format!(
            "{} puts failed: {}",
            puts.failed.0,
            puts.failed.1.unwrap_or_default()
        )
        .into());
    }
    let bar = load.bar(expected);
    while received.load(Ordering::Acquire) < expected {
        bar.set_position(received.load(Ordering::Acquire));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bar.finish_and_clear();
    let elapsed = began.elapsed();
    let server_cpu = load.cpu_since(cpu_before);
    done.0.send_replace(());
    let mut latencies = Vec::with_capacity(expected as usize);
    while let Some(of_stream) = latency_out.recv().await {
        latencies.extend(of_stream);
    }
    puts.print("put", &[]);
    println!();
    Measured {
        latencies,
        elapsed,
        server_cpu,
        failed: (0, None),
    }
    .print("event", &load.servers);
    Ok(())
}

/// Renewals: each caller has a lease and a stream of its own.
pub async fn lease_keepalive(load: &Load, clients: &Clients, total: u64) -> Result<(), Failure> {
    let mut sessions = Vec::new();
    for caller in 0..clients.callers() {
        let mut client = LeaseClient::new(clients.channel(caller));
        let lease = client
            .lease_grant(LeaseGrantRequest { ttl: 100, id: 0 })
            .await?
            .into_inner()
            .id;
        let (requests, feed) = mpsc::channel(STREAM_BUFFER);
        requests.send(LeaseKeepAliveRequest { id: lease }).await?;
        let mut answers = client
            .lease_keep_alive(ReceiverStream::new(feed))
            .await?
            .into_inner();
        answers.message().await?;
        sessions.push((lease, requests, Arc::new(tokio::sync::Mutex::new(answers))));
    }
    let measured = load
        .run(clients, total, 0, |caller| {
            let (lease, requests, answers) = sessions[caller].clone();
            move |_| {
                let (requests, answers) = (requests.clone(), answers.clone());
                async move {
                    let gone = || tonic::Status::unavailable("the keep-alive stream ended");
                    requests
                        .send(LeaseKeepAliveRequest { id: lease })
                        .await
                        .map_err(|_| gone())?;
                    match answers.lock().await.message().await? {
                        Some(answer) if answer.ttl > 0 => Ok(()),
                        Some(_) => Err(tonic::Status::not_found("the lease has expired")),
                        None => Err(gone()),
                    }
                }
            }
        })
        .await;
    measured.print("keepalive", &load.servers);
    Ok(())
}
