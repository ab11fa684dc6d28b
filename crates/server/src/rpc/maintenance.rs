//! `etcdserverpb.Maintenance`.

use std::pin::Pin;

use grpc::etcdserverpb::maintenance_server;
use machine::Outcome;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    InternalRaftRequest, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use types::{ErrorKind, MemberId};

use super::{blocking, mismatch, status};
use crate::access;
use crate::config::VERSION;
use crate::corruption;
use crate::node::Node;
use crate::replies::Done;
use crate::versions;

/// Pieces of a backup that wait for a slow reader.
const SNAPSHOT_QUEUE: usize = 8;
/// Quota reported when none is set: etcd's default.
const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

/// The service.
pub struct Maintenance(pub Node);

#[tonic::async_trait]
impl maintenance_server::Maintenance for Maintenance {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let node = &self.0;
        let (head, alarm) = access::split(request);
        node.admit(&head)?;
        let who = match alarm.action == AlarmAction::Get as i32 {
            true => node.require_user(&head).await,
            false => node.require_root(&head).await,
        }
        .map_err(status)?;
        if AlarmAction::try_from(alarm.action).is_err() {
            return Ok(Response::new(AlarmResponse {
                header: Some(node.header(0)),
                alarms: Vec::new(),
            }));
        }
        match node
            .propose_as(
                who,
                InternalRaftRequest {
                    alarm: Some(alarm),
                    ..Default::default()
                },
            )
            .await
        {
            Ok(Done {
                outcome: Outcome::Alarm(alarms),
                revision,
                ..
            }) => Ok(Response::new(AlarmResponse {
                header: Some(node.header(revision)),
                alarms,
            })),
            Ok(other) => Err(mismatch(other)),
            Err(error) => Err(status(error)),
        }
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let (head, _) = access::split(request);
        let node = &self.0;
        node.admit_on_learner(&head)?;
        node.require_user(&head).await.map_err(status)?;
        let (raft, replicated) = (node.board.raft(), node.board.replicated());
        let downgrade = replicated.versions.downgrade();
        let mut errors = Vec::new();
        if raft.leader.is_none() {
            errors.push(ErrorKind::NoLeader.text().to_owned());
        }
        errors.extend(replicated.alarms.iter().map(alarm_text));
        Ok(Response::new(StatusResponse {
            header: Some(node.header(0)),
            version: VERSION.to_owned(),
            db_size: node.store.size() as i64,
            leader: raft.leader.map_or(0, |id| id.0),
            raft_index: raft.committed,
            raft_term: raft.term,
            raft_applied_index: node.board.applied(),
            errors,
            db_size_in_use: node.store.size_in_use() as i64,
            is_learner: raft.learner,
            storage_version: node.storage_version().unwrap_or_default(),
            db_size_quota: node
                .config
                .quota_bytes
                .map_or(DEFAULT_QUOTA_BYTES, |quota| quota as i64),
            downgrade_info: Some(DowngradeInfo {
                enabled: downgrade.enabled,
                target_version: downgrade.target_version.clone(),
            }),
        }))
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        let (head, _) = access::split(request);
        let node = self.0.clone();
        node.admit(&head)?;
        node.require_root(&head).await.map_err(status)?;
        let turn = node.defragmenting.clone().lock_owned().await;
        // Goes on to its end when the client goes away.
        let outcome = blocking(move || {
            let outcome = defragment(&node);
            drop(turn);
            outcome
        })
        .await?;
        outcome.map_err(|error| Status::unknown(error.to_string()))?;
        Ok(Response::new(DefragmentResponse::default()))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let (head, _) = access::split(request);
        let node = self.0.clone();
        node.admit(&head)?;
        node.require_root(&head).await.map_err(status)?;
        let (header, began) = (Some(node.header(0)), std::time::Instant::now());
        let hash = blocking({
            let node = node.clone();
            move || {
                let finished = node.compactions.finished();
                node.store
                    .snapshot()
                    .map_err(|error| error.to_string())
                    .and_then(|snapshot| image::hash(&snapshot, finished).map_err(|error| error.to_string()))
            }
        })
        .await?;
        node.metrics
            .mvcc_hash_duration_seconds
            .observe_duration(began.elapsed());
        Ok(Response::new(HashResponse {
            header,
            hash: hash.map_err(Status::unknown)?,
        }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let (head, request) = access::split(request);
        let node = self.0.clone();
        node.admit(&head)?;
        node.require_root(&head).await.map_err(status)?;
        let revision = request.revision;
        let hashed = corruption::own_hash(&node, revision).await;
        let hashed = hashed.map_err(|error| node.range_failed(error))?;
        Ok(Response::new(HashKvResponse {
            header: Some(node.header(0)),
            hash: hashed.hash,
            compact_revision: hashed.compact_revision,
            hash_revision: hashed.revision,
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let (head, _) = access::split(request);
        let node = self.0.clone();
        node.admit_on_learner(&head)?;
        node.require_root(&head).await.map_err(status)?;
        let version = node.storage_version().unwrap_or_default();
        let (pieces, stream) = mpsc::channel(SNAPSHOT_QUEUE);
        tokio::task::spawn_blocking(move || {
            let started = std::time::Instant::now();
            let send = |remaining_bytes, blob| {
                let piece = SnapshotResponse {
                    header: None,
                    remaining_bytes,
                    blob,
                    version: version.clone(),
                };
                pieces.blocking_send(Ok(piece)).is_ok()
            };
            let finished = node.compactions.finished();
            let sent = node
                .store
                .snapshot()
                .map_err(|error| error.to_string())
                .and_then(|snapshot| {
                    image::backup(snapshot, finished, send).map_err(|error| error.to_string())
                });
            if let Err(error) = sent {
                tracing::error!(error, "failed to send a database snapshot to the client");
                let _ = pieces.blocking_send(Err(Status::unknown(error)));
            }
            node.metrics
                .disk_backend_snapshot_duration_seconds
                .observe(started.elapsed().as_secs_f64());
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let (head, request) = access::split(request);
        let node = &self.0;
        node.admit(&head)?;
        node.require_root(&head).await.map_err(status)?;
        let target = MemberId(request.target_id);
        node.transfer_leader(target).await.map_err(status)?;
        Ok(Response::new(MoveLeaderResponse::default()))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let (head, request) = access::split(request);
        let node = &self.0;
        node.admit(&head)?;
        node.require_root(&head).await.map_err(status)?;
        let DowngradeRequest { action, version } = request;
        let version = versions::downgrade(node, action, &version)
            .await
            .map_err(status)?;
        Ok(Response::new(DowngradeResponse {
            header: Some(node.header(0)),
            version,
        }))
    }
}

/// Rewrites the store, in the sight of all.
fn defragment(node: &Node) -> Result<(), store::RewriteError> {
    let (started, job) = (std::time::Instant::now(), &node.defragmentation);
    node.metrics.disk_defrag_inflight.set(1);
    let outcome = node.store.rewrite_all(|done, total| job.at(done, total));
    node.metrics.disk_defrag_inflight.set(0);
    job.over();
    node.metrics
        .disk_backend_defrag_duration_seconds
        .observe_duration(started.elapsed());
    outcome.inspect_err(|error| tracing::error!(error = %error, "failed to rewrite the store"))
}

/// An alarm as Go prints the message.
fn alarm_text(alarm: &proto::etcdserverpb::AlarmMember) -> String {
    let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
    format!("memberID:{} alarm:{name} ", alarm.member_id)
}
