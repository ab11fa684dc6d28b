//! `etcdserverpb.Lease`.

use std::pin::Pin;

use grpc::etcdserverpb::lease_server;
use machine::{Outcome, check};
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use types::{ErrorKind, LeaseId};

use super::{mismatch, status};
use crate::forward;
use crate::node::Node;
use crate::replies::Done;

/// The service.
pub struct Leases(pub Node);

#[tonic::async_trait]
impl lease_server::Lease for Leases {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let node = &self.0;
        node.admit(request.metadata())?;
        let mut grant = request.into_inner();
        node.check_quota(check::LEASE_COST_BYTES).await?;
        if grant.id == 0 {
            grant.id = node.new_lease_id().0;
        }
        let outcome = node
            .propose(InternalRaftRequest {
                lease_grant: Some(grant),
                ..Default::default()
            })
            .await;
        match outcome.map_err(status)? {
            Done {
                outcome: Outcome::LeaseGrant(lease),
                revision,
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
        let node = &self.0;
        node.admit(request.metadata())?;
        let revoke = InternalRaftRequest {
            lease_revoke: Some(request.into_inner()),
            ..Default::default()
        };
        let done = node.propose(revoke).await.map_err(status)?;
        Ok(Response::new(LeaseRevokeResponse {
            header: Some(node.header(done.revision)),
        }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.0.admit(request.metadata())?;
        let node = self.0.clone();
        let answers = request.into_inner().then(move |renewal| {
            let node = node.clone();
            async move { keep_alive(&node, renewal?.id).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let node = &self.0;
        node.admit(request.metadata())?;
        let answer = forward::time_to_live(node, request.into_inner()).await;
        Ok(Response::new(LeaseTimeToLiveResponse {
            header: Some(node.header(0)),
            ..answer.map_err(status)?
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let node = &self.0;
        node.admit(request.metadata())?;
        let leases = node
            .lessor
            .lock()
            .list()
            .into_iter()
            .map(|id| LeaseStatus { id: id.0 })
            .collect();
        Ok(Response::new(LeaseLeasesResponse {
            header: Some(node.header(0)),
            leases,
        }))
    }
}

/// One renewal. A lease that is gone, or just going, is answered with TTL 0 and the stream goes on.
async fn keep_alive(node: &Node, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
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
