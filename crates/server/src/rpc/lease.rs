//! `etcdserverpb.Lease`.

use std::pin::Pin;
use std::sync::Arc;

use auth::Identity;
use bytes::Bytes;
use grpc::etcdserverpb::lease_server;
use machine::{Outcome, check};
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use proto::otlp::any_value::Value;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use types::{ErrorKind, KeyRange, LeaseId};

use super::led::Led;
use super::{count_failure, mismatch, status};
use crate::access::{self, Head};
use crate::forward;
use crate::node::Node;
use crate::replies::Done;
use crate::traces;

/// The service.
pub struct Leases(pub Node);

#[tonic::async_trait]
impl lease_server::Lease for Leases {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let node = &self.0;
        let (head, mut grant) = access::split(request);
        node.admit(&head)?;
        node.check_quota(check::LEASE_COST_BYTES).await?;
        let who = node.require_user(&head).await.map_err(status)?;
        if grant.id == 0 {
            grant.id = node.new_lease_id().0;
        }
        let mut span = traces::doing(&head, "lease_grant", || {
            [
                ("id", Value::IntValue(grant.id)),
                ("ttl", Value::IntValue(grant.ttl)),
            ]
        });
        let grant = InternalRaftRequest {
            lease_grant: Some(grant),
            ..Default::default()
        };
        let outcome = span.around(node.propose_as(who, grant)).await;
        match outcome.map_err(status)? {
            Done {
                outcome: Outcome::LeaseGrant(lease),
                revision,
                ..
            } => Ok(Response::new(LeaseGrantResponse {
                header: Some(node.header(revision)),
                id: lease.id.0,
                ttl: lease.ttl_secs,
                error: String::new(),
            })),
            other => Err(mismatch(other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let (head, request) = access::split(request);
        let node = &self.0;
        node.admit(&head)?;
        let who = node.require_user(&head).await.map_err(status)?;
        let mut span = traces::doing(&head, "lease_revoke", || [("id", Value::IntValue(request.id))]);
        let revoke = InternalRaftRequest {
            lease_revoke: Some(request),
            ..Default::default()
        };
        let done = span.around(node.propose_as(who, revoke)).await.map_err(status)?;
        Ok(Response::new(LeaseRevokeResponse {
            header: Some(node.header(done.revision)),
        }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (head, renewals) = access::split(request);
        self.0.admit(&head)?;
        let caller = Arc::new((self.0.clone(), head));
        let renewer = caller.clone();
        let answers = renewals.then(move |renewal| {
            let renewer = renewer.clone();
            async move {
                let (node, head) = &*renewer;
                let renewal = renewal.inspect_err(|error| count_failure(node, "lease-keepalive", error))?;
                keep_alive(node, head, renewal.id).await
            }
        });
        let (node, head) = &*caller;
        Ok(Response::new(Box::pin(Led::new(node, head, Box::pin(answers)))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        node.admit(&head)?;
        let who = node.require_user(&head).await.map_err(status)?;
        let answer = forward::time_to_live(node, request).await.map_err(status)?;
        // The leader's answer says which keys there are; it may know of more than this member does.
        may_see(node, &who, &answer.keys).map_err(status)?;
        Ok(Response::new(LeaseTimeToLiveResponse {
            header: Some(node.header(0)),
            ..answer
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let (head, _) = access::split(request);
        let node = &self.0;
        node.admit(&head)?;
        let who = node.require_user(&head).await.map_err(status)?;
        let leases = node.lessor.lock().list();
        may_list(node, &who, &leases).map_err(status)?;
        let leases = leases.into_iter().map(|id| LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(LeaseLeasesResponse {
            header: Some(node.header(0)),
            leases,
        }))
    }
}

/// Whether the caller may keep the keys of a lease alive, which takes the permission to write them.
async fn may_renew(node: &Node, head: &Head, id: LeaseId) -> Result<(), ErrorKind> {
    if !node.board.auth_enabled() {
        return Ok(());
    }
    let who = node.require_user(head).await?;
    node.caller(&node.board.auth(), &who).may_write_keys_of(id)?;
    node.still_may(&who)
}

/// Whether the caller may know of these keys of a lease.
fn may_see(node: &Node, who: &Identity, keys: &[Bytes]) -> Result<(), ErrorKind> {
    for key in keys {
        node.may_read(who, &KeyRange::One(key.clone()))?;
    }
    match keys.is_empty() {
        true => Ok(()),
        false => node.still_may(who),
    }
}

/// Whether the caller may know of all these leases, which takes the permission to read all their keys.
fn may_list(node: &Node, who: &Identity, leases: &[LeaseId]) -> Result<(), ErrorKind> {
    if !node.board.auth_enabled() {
        return Ok(());
    }
    let auth = node.board.auth();
    let caller = node.caller(&auth, who);
    leases.iter().try_for_each(|id| caller.may_read_keys_of(*id))?;
    node.still_may(who)
}

/// One renewal. A lease that is gone, or just going, is answered with TTL 0 and the stream goes on.
async fn keep_alive(node: &Node, head: &Head, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    let _span = traces::doing(head, "lease_renew", || [("id", Value::IntValue(id))]);
    may_renew(node, head, LeaseId(id)).await.map_err(status)?;
    let ttl = match forward::renew(node, LeaseId(id)).await {
        Ok(ttl) => ttl,
        Err(ErrorKind::LeaseNotFound) => 0,
        Err(error) => return Err(status(error)),
    };
    Ok(LeaseKeepAliveResponse {
        header: Some(node.header(0)),
        id,
        ttl,
    })
}
