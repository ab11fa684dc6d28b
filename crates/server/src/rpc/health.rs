//! `grpc.health.v1.Health`: only the empty service name has a status, and it serves.

use std::collections::HashMap;
use std::pin::Pin;

use grpc::grpc::health::v1::health_server;
use proto::grpc::health::v1::health_check_response::ServingStatus;
use proto::grpc::health::v1::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use types::ErrorKind;

use super::status;
use crate::node::Node;

/// The service.
pub struct Health(pub Node);

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.refuse_learner()?;
        match request.get_ref().service.as_str() {
            "" => Ok(Response::new(answer(ServingStatus::Serving))),
            _ => Err(status(ErrorKind::UnknownService)),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        // The status never changes while the server runs, so one message is all there is to say.
        let updates = tokio_stream::once(Ok(answer(first))).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(updates)))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let statuses = HashMap::from([(String::new(), answer(ServingStatus::Serving))]);
        Ok(Response::new(HealthListResponse { statuses }))
    }
}
