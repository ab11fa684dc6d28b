//! The gRPC services. Every handler does the same four things: check, convert, hand over, reply.

mod auth;
mod cluster;
mod election;
mod health;
mod kv;
mod lease;
mod led;
mod lock;
mod maintenance;
mod progress;
mod recipes;
mod services;
mod watch;

use std::error::Error;

use proto::etcdserverpb::ResponseHeader;
use tonic::{Code, Status};
use types::ErrorKind;

use crate::node::Node;
use crate::replies::Done;

pub use auth::Auth;
pub use cluster::{Cluster, promote_here};
pub use election::Election;
pub use health::Health;
pub use kv::Kv;
pub use lease::Leases;
pub use lock::Lock;
pub use maintenance::Maintenance;
pub use progress::Progress;
pub use services::Services;
pub use watch::Watches;

/// The error as a gRPC status: the one place where our table meets tonic's codes.
pub fn status(error: ErrorKind) -> Status {
    let (code, text) = error.parts();
    Status::new(Code::from(code as i32), text)
}

/// A header that only carries a revision, as the machine makes them, completed with the rest.
fn complete(header: &mut Option<ResponseHeader>, node: &Node) {
    let revision = header.as_ref().map_or(0, |header| header.revision);
    *header = Some(node.header(revision));
}

/// Counts a stream that ends because of what its client sent. One whose client went away has an error of the transport
/// as its source, and is none.
fn count_failure(node: &Node, api: &str, error: &Status) {
    if error.source().is_none() {
        let failures = &node.metrics.network_server_stream_failures_total;
        failures.with(&["receive", api]).inc();
        let what = api.replace('-', " ");
        tracing::warn!(error = %error, "failed to receive {what} request from gRPC stream");
    }
}

/// Runs what may wait for the disk where it delays nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| status(ErrorKind::Stopped))
}

/// An answer of another kind than the request: cannot happen, and must not bring the server down.
fn mismatch(done: Done) -> Status {
    Status::internal(format!(
        "keelson: the answer does not fit the request: {:?}",
        done.outcome
    ))
}
