//! A cluster in which one member's data is not what the others have, and who says so.
//!
//! The data is changed behind the member's back while it is stopped: in the bbolt file, which the real etcd writes
//! itself and ours leaves after `etcdutl convert`. No checksum protects a value there, so this is what a bad disk
//! or a bug in a store looks like from above.

use std::fs;
use std::path::Path;

use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::*;
use tonic::Response;

use crate::cluster::{Cluster, eventually};
use crate::load::channel;
use crate::migration::convert;
use crate::network::Network;
use crate::tools::Tools;

/// The key whose value one member has wrong.
const KEY: &str = "account";
/// What was written.
const RIGHT: &str = "one hundred and one";
/// What one member has instead, in as many bytes.
const WRONG: &str = "ten million and one";

/// What finds a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Sums of what entries did, compared always between members of ours.
    Rolling,
    /// Hashes of all keys, compared now and then.
    Periodic,
    /// Hashes of all keys, taken at compactions.
    Compactions,
    /// Hashes of all keys, compared by a member before it serves.
    Initial,
}

impl Check {
    /// The flags that ask for it, of both programs.
    fn flags(self) -> &'static [&'static str] {
        match self {
            Check::Rolling => &[],
            Check::Periodic => &["--experimental-corrupt-check-time=1s"],
            Check::Compactions => &[
                "--experimental-compact-hash-check-enabled=true",
                "--experimental-compact-hash-check-time=1s",
            ],
            Check::Initial => &["--experimental-initial-corrupt-check=true"],
        }
    }
}

/// Starts three members of these programs, of which the last one gets its value wrong, and waits until that is found:
/// an alarm CORRUPT for this member, for no other; or, by [`Check::Initial`], a member that refuses to start.
pub async fn found(tools: &Tools, programs: [&Path; 3], check: Check) -> Result<(), String> {
    let flags: Vec<_> = check.flags().iter().map(|flag| (*flag).to_owned()).collect();
    let mut cluster = Cluster::start(Network::relayed()?, &programs, &flags).await?;
    let wrong = programs.len() - 1;
    cluster.move_leader(0).await?;
    put(&cluster, KEY, RIGHT).await?;
    cluster.agree().await?;
    cluster.stop(wrong).await?;
    let data = cluster.server(wrong).data();
    if programs[wrong] == tools.ours {
        convert(tools, &data, None).await?;
    }
    falsify(&data.join("member/snap/db"))?;
    match (cluster.resume(wrong).await, check) {
        (Err(refusal), Check::Initial) => return refuses(&refusal),
        (Ok(()), Check::Initial) => return Err("a member with wrong data serves".into()),
        (resumed, _) => resumed?,
    }
    match check {
        Check::Rolling => act_on_it(&cluster).await?,
        Check::Compactions => {
            compact(&cluster).await?;
        }
        Check::Periodic | Check::Initial => {}
    }
    named(&cluster, wrong).await
}

fn refuses(error: &str) -> Result<(), String> {
    match error.contains("found data inconsistency with peers") {
        true => Ok(()),
        false => Err(error.to_owned()),
    }
}

fn falsify(db: &Path) -> Result<(), String> {
    let mut bytes = fs::read(db).map_err(|e| format!("{}: {e}", db.display()))?;
    let places: Vec<_> = bytes
        .windows(RIGHT.len())
        .enumerate()
        .filter_map(|(at, found)| (found == RIGHT.as_bytes()).then_some(at))
        .collect();
    // Pages that are no longer in use may hold copies.
    for at in &places {
        bytes[*at..at + RIGHT.len()].copy_from_slice(WRONG.as_bytes());
    }
    match places.is_empty() {
        true => Err("the value is not in the file".into()),
        false => fs::write(db, bytes).map_err(|e| e.to_string()),
    }
}

async fn put(cluster: &Cluster, key: &str, value: &str) -> Result<(), String> {
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    done(KvClient::new(channel(cluster.address(0))).put(request).await)
}

/// A transaction that does one thing where the value is right, and another where it is not.
async fn act_on_it(cluster: &Cluster) -> Result<(), String> {
    let is_right = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: KEY.into(),
        target_union: Some(TargetUnion::Value(RIGHT.into())),
        ..Compare::default()
    };
    let write = |key: &'static str| RequestOp {
        request: Some(Request::RequestPut(PutRequest {
            key: key.into(),
            ..PutRequest::default()
        })),
    };
    let request = TxnRequest {
        compare: vec![is_right],
        success: vec![write("right")],
        failure: vec![write("wrong")],
    };
    done(KvClient::new(channel(cluster.address(0))).txn(request).await)
}

async fn compact(cluster: &Cluster) -> Result<(), String> {
    put(cluster, "later", "").await?;
    let request = CompactionRequest {
        revision: 3,
        physical: true,
    };
    done(KvClient::new(channel(cluster.address(0))).compact(request).await)
}

fn done<T>(answer: Result<Response<T>, tonic::Status>) -> Result<(), String> {
    answer.map(drop).map_err(|status| status.to_string())
}

async fn named(cluster: &Cluster, wrong: usize) -> Result<(), String> {
    let alarm = AlarmMember {
        member_id: cluster.id(wrong),
        alarm: AlarmType::Corrupt.into(),
    };
    eventually("the member that has it wrong is named", async || {
        let request = AlarmRequest {
            action: AlarmAction::Get.into(),
            ..AlarmRequest::default()
        };
        let mut client = MaintenanceClient::new(channel(cluster.address(0)));
        let alarms = client.alarm(request).await.map_err(|status| status.to_string())?;
        let alarms = alarms.into_inner().alarms;
        match alarms == [alarm] {
            true => Ok(()),
            false => Err(format!("{alarms:?} instead of {alarm:?}")),
        }
    })
    .await
}
