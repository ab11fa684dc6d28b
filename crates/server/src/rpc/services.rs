//! All gRPC services of the client port behind one call.
//!
//! The service is chosen by its name in the path. What tonic says of calls it can not take is put into
//! grpc-go's words here, since clients match on them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use grpc::etcdserverpb::auth_server::AuthServer;
use grpc::etcdserverpb::cluster_server::ClusterServer;
use grpc::etcdserverpb::lease_server::LeaseServer;
use grpc::etcdserverpb::maintenance_server::MaintenanceServer;
use grpc::grpc::health::v1::health_server::HealthServer;
use grpc::hot::etcdserverpb::kv_server::KvServer;
use grpc::hot::etcdserverpb::watch_server::WatchServer;
use grpc::keelson::v1::progress_server::ProgressServer;
use grpc::v3electionpb::election_server::ElectionServer;
use grpc::v3lockpb::lock_server::LockServer;
use http::{HeaderValue, Request, Response};
use hyper::service::Service;
use tonic::body::Body;
use tonic::{Code, Status};

use super::{Auth, Cluster, Election, Health, Kv, Leases, Lock, Maintenance, Progress, Watches};
use crate::GRPC_OVERHEAD_BYTES;
use crate::listen::RequestBody;
use crate::node::Node;

/// The services.
#[derive(Clone)]
pub struct Services {
    kv: KvServer<Kv>,
    watch: WatchServer<Watches>,
    lease: LeaseServer<Leases>,
    cluster: ClusterServer<Cluster>,
    maintenance: MaintenanceServer<Maintenance>,
    auth: AuthServer<Auth>,
    health: HealthServer<Health>,
    lock: LockServer<Lock>,
    election: ElectionServer<Election>,
    progress: ProgressServer<Progress>,
    message_bytes_max: usize,
}

impl Services {
    /// The services of a member.
    pub fn new(node: &Node) -> Self {
        let max = node.config.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES);
        Services {
            kv: KvServer::new(Kv(node.clone())).max_decoding_message_size(max),
            watch: WatchServer::new(Watches(node.clone())).max_decoding_message_size(max),
            lease: LeaseServer::new(Leases(node.clone())).max_decoding_message_size(max),
            cluster: ClusterServer::new(Cluster(node.clone())).max_decoding_message_size(max),
            maintenance: MaintenanceServer::new(Maintenance(node.clone())).max_decoding_message_size(max),
            auth: AuthServer::new(Auth(node.clone())).max_decoding_message_size(max),
            health: HealthServer::new(Health(node.clone())).max_decoding_message_size(max),
            lock: LockServer::new(Lock(node.clone())).max_decoding_message_size(max),
            election: ElectionServer::new(Election(node.clone())).max_decoding_message_size(max),
            progress: ProgressServer::new(Progress(node.clone())).max_decoding_message_size(max),
            message_bytes_max: max,
        }
    }
}

/// Calls a clone, as tower's services want to be called mutably; a clone is an `Arc` and two numbers.
fn call<S>(service: &S, request: Request<RequestBody>) -> S::Future
where
    S: tower_service::Service<Request<RequestBody>> + Clone,
{
    service.clone().call(request)
}

impl Service<Request<RequestBody>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<RequestBody>) -> Answer {
        let path = request.uri().path();
        let Some((service, method)) = path.trim_start_matches('/').rsplit_once('/') else {
            let refusal = Status::unimplemented(format!("malformed method name: {path:?}"));
            return Answer::ready(refusal, self.message_bytes_max);
        };
        let method = Method {
            path: format!("{method} for service {service}"),
            message_bytes_max: self.message_bytes_max,
        };
        let future: BoxFuture = match service {
            "etcdserverpb.KV" => call(&self.kv, request),
            "etcdserverpb.Watch" => call(&self.watch, request),
            "etcdserverpb.Lease" => call(&self.lease, request),
            "etcdserverpb.Cluster" => call(&self.cluster, request),
            "etcdserverpb.Maintenance" => call(&self.maintenance, request),
            "etcdserverpb.Auth" => call(&self.auth, request),
            "grpc.health.v1.Health" => call(&self.health, request),
            "v3lockpb.Lock" => call(&self.lock, request),
            "v3electionpb.Election" => call(&self.election, request),
            "keelson.v1.Progress" => call(&self.progress, request),
            unknown => {
                let refusal = Status::unimplemented(format!("unknown service {unknown}"));
                return Answer::ready(refusal, self.message_bytes_max);
            }
        };
        Answer { future, method }
    }
}

type BoxFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The answer of a service, reworded where tonic made it.
pub struct Answer {
    future: BoxFuture,
    method: Method,
}

impl Answer {
    fn ready(refusal: Status, message_bytes_max: usize) -> Self {
        let future = Box::pin(std::future::ready(Ok(refusal.into_http())));
        Answer {
            future,
            method: Method {
                path: String::new(),
                message_bytes_max,
            },
        }
    }
}

struct Method {
    path: String,
    message_bytes_max: usize,
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(self.future.as_mut().poll(context));
        // Only an answer without messages carries its status in the headers.
        if response.headers().contains_key(Status::GRPC_STATUS) {
            self.method.reword(&mut response);
        }
        Poll::Ready(Ok(response))
    }
}

impl Method {
    /// Begin of tonic's words for a message over the limit; the size follows.
    const TOO_LARGE: &str = "Error, decoded message length too large: found ";

    fn reword(&self, response: &mut Response<Body>) {
        let Some(status) = Status::from_header_map(response.headers()) else {
            return;
        };
        let reworded = match (status.code(), status.message()) {
            (Code::Unimplemented, "") => Status::unimplemented(format!("unknown method {}", self.path)),
            (Code::OutOfRange, text) if text.starts_with(Self::TOO_LARGE) => {
                let size: String = text[Self::TOO_LARGE.len()..]
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect();
                let max = self.message_bytes_max;
                Status::resource_exhausted(format!(
                    "grpc: received message larger than max ({size} vs. {max})"
                ))
            }
            _ => return,
        };
        let headers = response.headers_mut();
        headers.remove(Status::GRPC_MESSAGE);
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(reworded.code() as i32));
        let _only_fails_for_control_characters = reworded.add_header(headers);
    }
}
