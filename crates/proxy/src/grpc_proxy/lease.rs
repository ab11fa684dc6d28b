//! Leases. All renewals, of however many clients, share one stream to the cluster for each who calls.

use client::{Client, Error};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use grpc::etcdserverpb::lease_server::Lease;
use proto::etcdserverpb::*;
use tonic::{Request, Response, Status, Streaming};

use super::calls::{answer, for_call, status};

/// Renewals of one client that are under way; further ones wait.
const RENEWALS_MAX: usize = 64;

pub struct Leases(pub Client);

#[tonic::async_trait]
impl Lease for Leases {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        answer(
            for_call(&self.0, &request)
                .lease_grant(request.into_inner())
                .await,
        )
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        answer(
            for_call(&self.0, &request)
                .lease_revoke(request.into_inner())
                .await,
        )
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        answer(
            for_call(&self.0, &request)
                .lease_time_to_live(request.into_inner())
                .await,
        )
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        answer(
            for_call(&self.0, &request)
                .lease_leases(request.into_inner())
                .await,
        )
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let client = for_call(&self.0, &request);
        let renewals = request.into_inner().map(move |request| {
            let client = client.clone();
            async move { renew(&client, request?.id).await }
        });
        Ok(Response::new(renewals.buffered(RENEWALS_MAX).boxed()))
    }
}

async fn renew(client: &Client, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    match client.keep_alive_once(id).await {
        // Told as the cluster does.
        Err(Error::LeaseGone { .. }) => Ok(LeaseKeepAliveResponse {
            id,
            ..LeaseKeepAliveResponse::default()
        }),
        renewed => renewed.map_err(status),
    }
}
