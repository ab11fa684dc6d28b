//! A cluster of the real etcd becomes one of ours, and a real one again, member by member, while clients go on.
//!
//! At every step the members have the same hash, the history behind is compacted, and what the cluster has besides
//! keys is as it was (see [`Belongings`]). Clients notice nothing but a retry: those that write and watch (see
//! [`crate::load`]) and one with leases (see [`Tenant`]). Authentication is on, so all of them sign in, again and again,
//! for tokens end with the member that is replaced. Ours opens the folder the real etcd leaves. For the way back the
//! cluster comes down to the real etcd's version, and each folder is converted.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::*;

use crate::belongings::Belongings;
use crate::cluster::{Cluster, eventually};
use crate::faults;
use crate::http;
use crate::load::{Load, Report};
use crate::network::Network;
use crate::tenant::Tenant;
use crate::tools::Tools;

/// Writes between two steps.
const STEP_WRITES: usize = 100;

/// The real etcd's version, which the cluster has in the beginning and in the end.
const REAL_VERSION: &str = "3.5";

/// The versions between ours and the real etcd's, on the way down.
const DOWN: [&str; 2] = ["3.6", REAL_VERSION];

/// Migrates so many members there and back.
pub async fn there_and_back(tools: &Tools, members: usize, seed: u64) -> Result<Report, String> {
    let programs = vec![&*tools.reference; members];
    let mut cluster = Cluster::start(Network::relayed()?, &programs, &faults::flags()).await?;
    cluster.leader().await?;
    let mut belongings = Belongings::bring(tools, &cluster).await?;
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
            belongings.are_kept(tools, &cluster, number).await
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
            let request = DowngradeRequest {
                action: DowngradeAction::Enable.into(),
                version: version.into(),
            };
            let begun = cluster.call(0, request, async |at, request| {
                MaintenanceClient::new(at).downgrade(request).await
            });
            begun.await.map(drop).map_err(|status| status.to_string())
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

async fn compact(cluster: &Cluster, revision: i64) -> Result<(), String> {
    eventually("the history is compacted", async || {
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        let done = cluster.call(0, request, async |at, request| {
            KvClient::new(at).compact(request).await
        });
        match done.await {
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
