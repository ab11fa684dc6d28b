//! A cluster of the real etcd becomes one of ours, and a real one again, member by member, while clients go on.
//!
//! At every step the members have the same hash, the leases and users are those of the beginning, the history behind
//! is compacted, and watchers and clients notice nothing but a retry (see [`crate::load`]). Ours opens the folder
//! the real etcd leaves; for the way back the folder is converted.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::*;

use crate::cluster::{Cluster, eventually};
use crate::faults;
use crate::load::{Load, Report, channel};
use crate::network::Network;
use crate::tools::Tools;

/// Writes between two steps.
const STEP_WRITES: usize = 100;

/// A lease that outlives every trial.
const LEASE: i64 = 7;

/// A key that hangs on it.
const LEASED: &str = "leased";

/// Migrates so many members there and back.
pub async fn there_and_back(tools: &Tools, members: usize, seed: u64) -> Result<Report, String> {
    let programs = vec![&*tools.reference; members];
    let mut cluster = Cluster::start(Network::relayed()?, &programs, &faults::flags()).await?;
    cluster.leader().await?;
    belongings(tools, &cluster).await?;
    let before = users(tools, &cluster, 0).await?;
    let load = Load::start(&cluster.addresses(), seed);
    let there = (0..members).map(|number| (number, &*tools.ours));
    let back = (0..members).map(|number| (number, &*tools.reference));
    for (number, program) in there.chain(back) {
        // Who is the real etcd after this step: the last ones on the way there, this one on the way back.
        let real = if program == tools.reference {
            number
        } else {
            members - 1
        };
        let step = async {
            load.progress(STEP_WRITES).await?;
            cluster.stop(number).await?;
            if program == tools.reference && tools.ours_is_newer() {
                convert(tools, &cluster.server(number).data()).await?;
            }
            cluster.server_mut(number).set_program(program);
            cluster.resume(number).await?;
            compact(&cluster, load.seen()).await?;
            cluster.agree_so_far().await?;
            lease_lives(&cluster, number).await?;
            if program == tools.ours && real == number {
                return Ok(());
            }
            match users(tools, &cluster, real).await? {
                now if now == before => Ok(()),
                now => Err(format!("the users were {before:?} and are {now:?}")),
            }
        };
        let step: Result<(), String> = step.await;
        step.map_err(|error| format!("m{} becomes {}: {error}", number + 1, program.display()))?;
    }
    let report = load.finish().await?;
    cluster.agree().await?;
    Ok(report)
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

/// The users with their roles, as a real member tells; ours keeps them and does not serve them yet.
async fn users(tools: &Tools, cluster: &Cluster, real: usize) -> Result<[String; 2], String> {
    Ok([
        etcdctl(
            tools,
            cluster.address(real),
            &["user", "get", "someone", "--detail"],
        )
        .await?,
        etcdctl(tools, cluster.address(real), &["role", "list"]).await?,
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

pub(crate) async fn convert(tools: &Tools, data: &Path) -> Result<(), String> {
    let etcdutl = tools.ours.with_file_name("etcdutl");
    let folder = format!("--data-dir={}", data.display());
    aside(&etcdutl, &["convert", &folder, "--to=bolt"])
        .await
        .map(drop)
}

async fn etcdctl(tools: &Tools, at: SocketAddr, words: &[&str]) -> Result<String, String> {
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
