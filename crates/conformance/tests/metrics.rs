//! A cluster at work shows every metric that dashboards and alerts look for, and each as etcd's list has it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use conformance::cluster::{Cluster, eventually};
use conformance::harness::{self, Work};
use conformance::network::Network;
use conformance::scrape::{Must, Scrape, Selector};
use conformance::tools::Tools;
use grpc::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{PutRequest, RangeRequest};

fn main() -> ExitCode {
    let trial = |name: &str, work: fn(&Tools) -> Result<(), String>| -> (String, Work) {
        (name.to_owned(), Box::new(move |tools| Ok(work(tools)?)))
    };
    harness::run(vec![trial(
        "what_the_official_mixin_selects_is_there_and_every_family_is_as_etcds_list_has_it",
        cluster_at_work,
    )])
}

/// Codes that its alerts of failing requests look for.
const BAD_CODES: &[&str] = &[
    "Unknown",
    "FailedPrecondition",
    "ResourceExhausted",
    "Internal",
    "Unavailable",
    "DataLoss",
    "DeadlineExceeded",
];

/// What the expressions of the official mixin select (etcd's `contrib/mixin`, of 3.7): names, conditions on labels, and
/// the labels they group by. Labels that Prometheus adds, such as `job`, are left out.
const MIXIN: &[Selector] = &[
    (
        "etcd_disk_backend_commit_duration_seconds_bucket",
        &[Must::Have("le")],
    ),
    ("etcd_disk_wal_fsync_duration_seconds_bucket", &[Must::Have("le")]),
    ("etcd_mvcc_db_total_size_in_bytes", &[]),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", &[]),
    ("etcd_network_client_grpc_received_bytes_total", &[]),
    ("etcd_network_client_grpc_sent_bytes_total", &[]),
    ("etcd_network_peer_received_bytes_total", &[]),
    (
        "etcd_network_peer_round_trip_time_seconds_bucket",
        &[Must::Have("To"), Must::Have("le")],
    ),
    ("etcd_network_peer_sent_bytes_total", &[]),
    ("etcd_network_peer_sent_failures_total", &[Must::Have("To")]),
    ("etcd_server_has_leader", &[]),
    ("etcd_server_leader_changes_seen_total", &[]),
    ("etcd_server_proposals_applied_total", &[]),
    ("etcd_server_proposals_committed_total", &[]),
    ("etcd_server_proposals_failed_total", &[]),
    ("etcd_server_proposals_pending", &[]),
    ("etcd_server_quota_backend_bytes", &[]),
    (
        "grpc_server_handled_total",
        &[Must::BeAnyOf("grpc_code", BAD_CODES)],
    ),
    (
        "grpc_server_handled_total",
        &[
            Must::Be("grpc_type", "unary"),
            Must::BeAnyOf("grpc_code", BAD_CODES),
            Must::Have("grpc_method"),
            Must::Have("grpc_service"),
        ],
    ),
    ("grpc_server_handled_total", OPEN_WATCHES),
    ("grpc_server_handled_total", OPEN_RENEWALS),
    (
        "grpc_server_handling_seconds_bucket",
        &[
            Must::NotBe("grpc_method", "Defragment"),
            Must::Be("grpc_type", "unary"),
            Must::Have("le"),
        ],
    ),
    ("grpc_server_started_total", &[Must::Be("grpc_type", "unary")]),
    ("grpc_server_started_total", OPEN_WATCHES),
    ("grpc_server_started_total", OPEN_RENEWALS),
    ("process_resident_memory_bytes", &[]),
];

const OPEN_WATCHES: &[Must] = &[
    Must::Be("grpc_service", "etcdserverpb.Watch"),
    Must::Be("grpc_type", "bidi_stream"),
];
const OPEN_RENEWALS: &[Must] = &[
    Must::Be("grpc_service", "etcdserverpb.Lease"),
    Must::Be("grpc_type", "bidi_stream"),
];

/// Beginnings of names that are not shown; `crates/server/tests/metrics.rs` says why.
const LEFT_OUT: [&str; 4] = [
    "etcd_debugging_disk_backend_commit_rebalance_",
    "etcd_debugging_disk_backend_commit_spill_",
    "etcd_debugging_store_",
    "etcd_grpc_proxy_",
];

/// A line of etcd's list.
struct Listed {
    name: &'static str,
    kind: &'static str,
    labels: BTreeSet<&'static str>,
    buckets: &'static str,
}

fn list() -> Vec<Listed> {
    let list = include_str!("../../server/tests/data/metrics.txt");
    let lines = list
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let listed = lines.map(|line| {
        let columns: Vec<_> = line.split('\t').collect();
        Listed {
            name: columns[0],
            kind: columns[1],
            labels: columns[2].split(',').filter(|label| *label != "-").collect(),
            buckets: columns[3],
        }
    });
    listed
        .filter(|listed| !LEFT_OUT.iter().any(|left_out| listed.name.starts_with(left_out)))
        .collect()
}

fn cluster_at_work(tools: &Tools) -> Result<(), String> {
    harness::runtime()?.block_on(async {
        let flags = ["--metrics=extensive".to_owned()];
        let programs: [&Path; 3] = [&tools.ours; 3];
        let mut cluster = Cluster::start(Network::relayed()?, &programs, &flags).await?;
        let leader = cluster.leader().await?;
        let put = PutRequest {
            key: "a".into(),
            value: "b".into(),
            ..Default::default()
        };
        cluster
            .call(leader, put, async |at, put| KvClient::new(at).put(put).await)
            .await
            .map_err(|status| status.to_string())?;
        let range = RangeRequest {
            key: "a".into(),
            ..Default::default()
        };
        cluster
            .call(leader, range, async |at, range| {
                KvClient::new(at).range(range).await
            })
            .await
            .map_err(|status| status.to_string())?;
        // Failures to send are shown once there are some.
        cluster.kill((leader + 1) % 3);
        let cluster = &cluster;
        let scrape = eventually("the mixin finds all it selects", async || {
            let scrape = Scrape::of(cluster.server(leader)).await?;
            let missing: Vec<_> = MIXIN
                .iter()
                .filter(|selector| scrape.select(**selector).next().is_none())
                .collect();
            match missing.is_empty() {
                true => Ok(scrape),
                false => Err(format!("nothing is selected by {missing:?}")),
            }
        })
        .await?;
        let trouble = compare(&scrape, &list());
        match trouble.is_empty() {
            true => Ok(()),
            false => Err(trouble.join("\n")),
        }
    })
}

/// Where a scrape is not as the list.
fn compare(scrape: &Scrape, list: &[Listed]) -> Vec<String> {
    let mut trouble = Vec::new();
    for listed in list {
        let name = listed.name;
        match scrape.kinds.get(name) {
            // A family with labels is shown from its first use on.
            None if listed.labels.is_empty() => trouble.push(format!("{name} is not shown")),
            Some(kind) if kind != listed.kind => trouble.push(format!("{name} is a {kind}")),
            _ => {}
        }
        for sample in scrape.of_family(name) {
            let labels = sample.labels.keys().map(String::as_str);
            let labels: BTreeSet<_> = labels.filter(|label| *label != "le").collect();
            if labels != listed.labels {
                trouble.push(format!("{name} has labels {labels:?}"));
                break;
            }
        }
        let bounds = scrape.bounds(name).len();
        let count = listed
            .buckets
            .strip_suffix(')')
            .and_then(|exp| exp.rsplit_once(',')?.1.parse::<usize>().ok());
        if let Some(count) = count.filter(|count| bounds > 0 && bounds != *count) {
            trouble.push(format!("{name} has {bounds} buckets and not {count}"));
        }
    }
    let listed: BTreeSet<_> = list.iter().map(|listed| listed.name).collect();
    let unknown = scrape.kinds.keys().filter(|name| !listed.contains(name.as_str()));
    trouble.extend(unknown.map(|name| format!("{name} is no metric of etcd's")));
    trouble
}
