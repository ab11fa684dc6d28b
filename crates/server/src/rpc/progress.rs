//! `keelson.v1.Progress`: ours, for who waits for `Defragment` or a physical `Compact`, which tell nothing until they
//! are over.

use std::pin::Pin;

use futures_util::StreamExt;
use grpc::keelson::v1::progress_server;
use proto::keelson::v1::progress_request::Job;
use proto::keelson::v1::{ProgressRequest, ProgressResponse};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::status;
use crate::access;
use crate::node::Node;

/// The service.
pub struct Progress(pub Node);

#[tonic::async_trait]
impl progress_server::Progress for Progress {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<ProgressResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<ProgressRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        node.admit(&head)?;
        node.require_root(&head).await.map_err(status)?;
        let job = match request.job() {
            Job::Defragmentation => &node.defragmentation,
            Job::Compaction => &node.compactions.job,
            Job::Unspecified => return Err(Status::invalid_argument("keelson: no such job")),
        };
        Ok(Response::new(Box::pin(job.follow().map(Ok))))
    }
}
