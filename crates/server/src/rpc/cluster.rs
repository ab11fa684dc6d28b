//! `etcdserverpb.Cluster`. Its headers never carry a revision.

use grpc::etcdserverpb::cluster_server;
use proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use super::status;
use crate::node::Node;

/// The service.
pub struct Cluster(pub Node);

/// Member changes need peers to change; until this version has a peer transport they are refused.
fn not_yet() -> Status {
    Status::unimplemented(
        "etcdserver: this version runs clusters of one member; member changes are not supported yet",
    )
}

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        self.0.refuse_learner()?;
        if request.get_ref().linearizable {
            self.0.read_barrier().await.map_err(status)?;
        }
        let members = self.0.board.replicated().members.clone();
        Ok(Response::new(MemberListResponse {
            header: Some(self.0.header_without_revision()),
            members,
        }))
    }

    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(not_yet())
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(not_yet())
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(not_yet())
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(not_yet())
    }
}
