//! A cluster of the real etcd becomes one of ours, and a real one again, member by member, while clients go on.
//!
//! At every step the members have the same hash, the leases and users are those of the beginning, the history behind
//! is compacted, and watchers and clients notice nothing but a retry (see [`crate::load`]). Ours opens the folder
//! the real etcd leaves. For the way back the cluster comes down to the real etcd's version, and each folder is
//! converted.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::stream;
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::lease_client::LeaseClient;
use grpc::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::*;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::{Code, Response, Status};

use crate::cluster::{Cluster, eventually, within};
use crate::faults;
use crate::http;
use crate::load::{Load, PATIENCE, Report, channel};
use crate::network::Network;
use crate::tools::Tools;

/// Writes between two steps.
const STEP_WRITES: usize = 100;

/// A lease that outlives every trial.
const LEASE: i64 = 7;

/// A key that hangs on it.
const LEASED: &str = "leased";

/// The real etcd's version, which the cluster has in the beginning and in the end.
const REAL_VERSION: &str = "3.5";

/// The versions between ours and the real etcd's, on the way down.
const DOWN: [&str; 2] = ["3.6", REAL_VERSION];

/// A lease that lives as long as it is renewed.
const RENEWED: i64 = 8;

/// How long it would live otherwise, in seconds: a member's restart and an election are far shorter.
const RENEWED_TTL: i64 = 30;

/// Pause between two renewals.
const RENEWAL_PAUSE: Duration = Duration::from_millis(500);

/// Pause before another member is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Migrates so many members there and back.
pub async fn there_and_back(tools: &Tools, members: usize, seed: u64) -> Result<Report, String> {
    let programs = vec![&*tools.reference; members];
    let mut cluster = Cluster::start(Network::relayed()?, &programs, &faults::flags()).await?;
    cluster.leader().await?;
    belongings(tools, &cluster).await?;
    let before = users(tools, &cluster, 0).await?;
    let load = Load::start(&cluster.addresses(), seed);
    let tenant = Tenant::start(cluster.addresses());
    let there = (0..members).map(|number| (number, &*tools.ours));
    let back = (0..members).map(|number| (number, &*tools.reference));
    for (step, (number, program)) in there.chain(back).enumerate() {
        if step == members && tools.ours_is_newer() {
            come_down(&cluster).await?;
        }
        let step = async {
            load.progress(STEP_WRITES).await?;
            cluster.stop(number).await?;
            if program == tools.reference && tools.ours_is_newer() {
                convert(tools, &cluster.server(number).data(), Some(REAL_VERSION)).await?;
            }
            cluster.server_mut(number).set_program(program);
            cluster.resume(number).await?;
            compact(&cluster, load.seen()).await?;
            cluster.agree_so_far().await?;
            lease_lives(&cluster, number).await?;
            match users(tools, &cluster, number).await? {
                now if now == before => Ok(()),
                now => Err(format!("the users were {before:?} and are {now:?}")),
            }
        };
        let step: Result<(), String> = step.await;
        step.map_err(|error| format!("m{} becomes {}: {error}", number + 1, program.display()))?;
    }
    if let Some(odd) = versions(&cluster).await?.into_iter().find(|v| v != REAL_VERSION) {
        return Err(format!("the cluster is at version {odd} in the end"));
    }
    tenant.leave().await?;
    let report = load.finish().await?;
    cluster.agree().await?;
    Ok(report)
}

/// Takes the cluster down to the real etcd's version, one version after the other.
async fn come_down(cluster: &Cluster) -> Result<(), String> {
    for version in DOWN {
        eventually("a downgrade begins", async || {
            let mut client = MaintenanceClient::new(channel(cluster.address(0)));
            let request = DowngradeRequest {
                action: DowngradeAction::Enable.into(),
                version: version.into(),
            };
            match within(client.downgrade(request)).await {
                Ok(_) => Ok(()),
                Err(status) => Err(status.to_string()),
            }
        })
        .await?;
        eventually("all members act at the version", async || {
            let versions = versions(cluster).await?;
            match versions.iter().all(|at| at == version) {
                true => Ok(()),
                false => Err(format!("{versions:?}, not {version}")),
            }
        })
        .await?;
    }
    Ok(())
}

/// The cluster version as each running member tells it.
async fn versions(cluster: &Cluster) -> Result<Vec<String>, String> {
    let mut versions = Vec::new();
    for number in cluster.running() {
        let answer = http::request(cluster.address(number), "GET", "/version", "").await;
        let body = answer.map_err(|error| error.to_string())?.body;
        let told: serde_json::Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let version = told["etcdcluster"].as_str().unwrap_or_default();
        versions.push(version.trim_end_matches(".0").to_owned());
    }
    Ok(versions)
}

/// A client that holds leases: it renews one all the time, and takes others, with a key each, and gives them back.
/// What fails it tries again at another member; its lease must never end by itself.
struct Tenant {
    leaving: watch::Sender<bool>,
    work: JoinHandle<Result<(), String>>,
}

impl Tenant {
    fn start(addresses: Vec<SocketAddr>) -> Self {
        let leaving = watch::Sender::new(false);
        let stay = Stay { addresses, turn: 0 };
        let work = tokio::spawn(stay.work(leaving.subscribe()));
        Self { leaving, work }
    }

    async fn leave(self) -> Result<(), String> {
        self.leaving.send_replace(true);
        self.work.await.map_err(|error| error.to_string())?
    }
}

/// What a tenant does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Grant { id: i64, ttl: i64 },
    Put { id: i64 },
    Revoke { id: i64 },
    Renew { id: i64 },
}

struct Stay {
    addresses: Vec<SocketAddr>,
    turn: usize,
}

impl Stay {
    async fn work(mut self, leaving: watch::Receiver<bool>) -> Result<(), String> {
        let (id, ttl) = (RENEWED, RENEWED_TTL);
        self.make(Deed::Grant { id, ttl }).await?;
        for id in RENEWED + 1.. {
            if *leaving.borrow() {
                break;
            }
            self.make(Deed::Renew { id: RENEWED }).await?;
            self.make(Deed::Grant { id, ttl: 1000 }).await?;
            self.make(Deed::Put { id }).await?;
            self.make(Deed::Revoke { id }).await?;
            sleep(RENEWAL_PAUSE).await;
        }
        self.make(Deed::Revoke { id }).await?;
        let left = RangeRequest {
            key: "lived/".into(),
            range_end: "lived0".into(),
            ..RangeRequest::default()
        };
        let left = KvClient::new(channel(self.addresses[0])).range(left).await;
        match left.map_err(|status| status.to_string())?.into_inner().count {
            0 => Ok(()),
            count => Err(format!("{count} keys have outlived their leases")),
        }
    }

    /// Tries at one member after the other.
    async fn make(&mut self, deed: Deed) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let failed = match (deed, self.attempt(deed).await) {
                (_, Ok(())) => return Ok(()),
                // An earlier try was carried out, and its answer lost.
                (Deed::Grant { .. }, Err(status)) if status.code() == Code::FailedPrecondition => {
                    return Ok(());
                }
                (Deed::Revoke { .. }, Err(status)) if status.code() == Code::NotFound => return Ok(()),
                (_, Err(status)) => status,
            };
            if failed.code() == Code::NotFound || begin.elapsed() > PATIENCE {
                return Err(format!("{deed:?}: {failed}"));
            }
            self.turn += 1;
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn attempt(&self, deed: Deed) -> Result<(), Status> {
        let channel = channel(self.addresses[self.turn % self.addresses.len()]);
        let mut leases = LeaseClient::new(channel.clone());
        match deed {
            Deed::Grant { id, ttl } => {
                let granted = within(leases.lease_grant(LeaseGrantRequest { ttl, id })).await;
                granted.map(drop)
            }
            Deed::Put { id } => {
                let put = PutRequest {
                    key: format!("lived/{id}").into(),
                    lease: id,
                    ..PutRequest::default()
                };
                within(KvClient::new(channel).put(put)).await.map(drop)
            }
            Deed::Revoke { id } => {
                let revoked = within(leases.lease_revoke(LeaseRevokeRequest { id })).await;
                revoked.map(drop)
            }
            Deed::Renew { id } => {
                let request = stream::iter([LeaseKeepAliveRequest { id }]);
                let renewing = async {
                    let mut answers = leases.lease_keep_alive(request).await?.into_inner();
                    answers.message().await.map(Response::new)
                };
                match within(renewing).await? {
                    Some(answer) if answer.ttl > 0 => Ok(()),
                    Some(_) => Err(Status::not_found("the lease has ended")),
                    None => Err(Status::unavailable("the stream has ended")),
                }
            }
        }
    }
}

/// What a cluster has besides keys: a lease with a key, a user with a role.
async fn belongings(tools: &Tools, cluster: &Cluster) -> Result<(), String> {
    let channel = channel(cluster.address(0));
    let grant = LeaseGrantRequest {
        ttl: 100_000,
        id: LEASE,
    };
    let granted = LeaseClient::new(channel.clone()).lease_grant(grant).await;
    granted.map_err(|status| status.to_string())?;
    let put = PutRequest {
        key: LEASED.into(),
        lease: LEASE,
        ..PutRequest::default()
    };
    let done = KvClient::new(channel).put(put).await;
    done.map_err(|status| status.to_string())?;
    for words in [
        &["role", "add", "reader"][..],
        &["role", "grant-permission", "reader", "read", "a", "b"],
        &["user", "add", "someone:secret"],
        &["user", "grant-role", "someone", "reader"],
    ] {
        etcdctl(tools, cluster.address(0), words).await?;
    }
    Ok(())
}

/// The users with their roles, as a member tells.
async fn users(tools: &Tools, cluster: &Cluster, number: usize) -> Result<[String; 2], String> {
    Ok([
        etcdctl(
            tools,
            cluster.address(number),
            &["user", "get", "someone", "--detail"],
        )
        .await?,
        etcdctl(tools, cluster.address(number), &["role", "list"]).await?,
    ])
}

async fn lease_lives(cluster: &Cluster, number: usize) -> Result<(), String> {
    eventually("the lease is there with its key", async || {
        let request = LeaseTimeToLiveRequest {
            id: LEASE,
            keys: true,
        };
        let mut client = LeaseClient::new(channel(cluster.address(number)));
        let answer = client.lease_time_to_live(request).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        match answer.ttl > 0 && answer.keys == [LEASED.as_bytes()] {
            true => Ok(()),
            false => Err(format!("{answer:?}")),
        }
    })
    .await
}

async fn compact(cluster: &Cluster, revision: i64) -> Result<(), String> {
    eventually("the history is compacted", async || {
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        let done = KvClient::new(channel(cluster.address(0))).compact(request).await;
        match done {
            Ok(_) => Ok(()),
            // An earlier try was not answered.
            Err(status) if status.message().contains("has been compacted") => Ok(()),
            Err(status) => Err(status.to_string()),
        }
    })
    .await
}

/// Lays a folder out for Go; with a target, only if that release can go on with it.
pub(crate) async fn convert(tools: &Tools, data: &Path, target: Option<&str>) -> Result<(), String> {
    let etcdutl = tools.ours.with_file_name("etcdutl");
    let folder = format!("--data-dir={}", data.display());
    let target = target.map(|version| format!("--target-version={version}"));
    let mut words = vec!["convert", &folder, "--to=bolt"];
    words.extend(target.as_deref());
    aside(&etcdutl, &words).await.map(drop)
}

/// Runs etcdctl on the member at this address.
pub async fn etcdctl(tools: &Tools, at: SocketAddr, words: &[&str]) -> Result<String, String> {
    let endpoints = format!("--endpoints={at}");
    aside(&tools.etcdctl, &[&[endpoints.as_str()], words].concat()).await
}

/// Runs a tool on a thread of its own: the members' network lives on this one.
async fn aside(program: &Path, words: &[&str]) -> Result<String, String> {
    let (program, words) = (program.to_owned(), words.iter().map(|word| (*word).to_owned()));
    let words: Vec<String> = words.collect();
    let done = tokio::task::spawn_blocking(move || {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        run(&program, &words)
    });
    done.await.map_err(|e| e.to_string())?
}

/// Runs a tool and returns what it prints.
pub fn run(program: &Path, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!(
            "{} {}: {}",
            program.display(),
            words.join(" "),
            text(&output.stderr)
        )),
    }
}
