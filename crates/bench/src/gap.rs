//! How long nothing can be written when the leader goes away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{PutRequest, StatusRequest};
use tokio::time::timeout;

use crate::Failure;
use crate::load::Clients;
use crate::process::ServerProcess;

/// Writes before the leader goes.
const BEFORE: u64 = 500;

/// Writes after the first one that succeeds without it.
const AFTER: u64 = 500;

/// How long one try may take. A server that knows of no leader keeps a write waiting, and one that was on its way to
/// the leader gets no answer; so this is what the figure is rounded up to.
const TRY_MAX: Duration = Duration::from_millis(20);

/// How long the cluster may take to write again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends the leader's process with a signal (`KILL` or `TERM`) while one client per member writes, and prints the
/// longest time between two acknowledged writes of any of them, and where the leader was.
///
/// Each member has its own client, so that the figure does not hang on how fast a client finds another member.
pub async fn run(clients: &Clients, endpoints: &[String], signal: &str) -> Result<(), Failure> {
    let leader = leader(clients, endpoints.len()).await?;
    let process = ServerProcess::find(None, &endpoints[leader]).ok_or("the leader is not on this machine")?;
    let start = Instant::now();
    let (written, last, longest) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let until = |count: u64| {
        let (written, last, longest) = (&written, &last, &longest);
        let writers = (0..endpoints.len()).map(move |number| async move {
            let mut kv = KvClient::new(clients.channel(number));
            while written.load(Ordering::Relaxed) < count && start.elapsed() < PATIENCE {
                let put = PutRequest {
                    key: "gap".into(),
                    ..PutRequest::default()
                };
                if let Ok(Ok(_)) = timeout(TRY_MAX, kv.put(put)).await {
                    written.fetch_add(1, Ordering::Relaxed);
                    let now = start.elapsed().as_micros() as u64;
                    let before = last.swap(now, Ordering::Relaxed);
                    longest.fetch_max(now - before, Ordering::Relaxed);
                } else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        futures_util::future::join_all(writers)
    };
    until(BEFORE).await;
    longest.store(0, Ordering::Relaxed);
    let calm = written.load(Ordering::Relaxed);
    let signalled = std::process::Command::new("kill")
        .args([&format!("-{signal}"), &process.pid().to_string()])
        .status()?;
    if !signalled.success() {
        return Err("the leader can't be signalled".into());
    }
    until(calm + AFTER).await;
    if written.load(Ordering::Relaxed) < calm + AFTER {
        return Err("the cluster does not write again".into());
    }
    let gap = Duration::from_micros(longest.load(Ordering::Relaxed));
    println!("gap {:.1} ms, leader {leader}", gap.as_secs_f64() * 1e3);
    Ok(())
}

/// The position of the leader among the endpoints.
async fn leader(clients: &Clients, endpoints: usize) -> Result<usize, Failure> {
    for number in 0..endpoints {
        let status = MaintenanceClient::new(clients.channel(number))
            .status(StatusRequest {})
            .await?
            .into_inner();
        if status
            .header
            .is_some_and(|header| header.member_id == status.leader)
        {
            return Ok(number);
        }
    }
    Err("none of the endpoints leads".into())
}
