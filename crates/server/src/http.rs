//! What is served over plain HTTP: version, health, metrics.
//!
//! | path | client port | metrics port | peer port |
//! |---|---|---|---|
//! | `/version` | yes | no | yes |
//! | `/health`, `/livez`, `/livez/<check>`, `/readyz`, `/readyz/<check>` | yes | yes | no |
//! | `/metrics` | yes | yes | no |
//! | `/debug/vars`, `/debug/pprof/` | yes | no | no |
//!
//! The peer port has more, which needs a body or streams: raft's paths and those of [`Desk`].
//!
//! The paths below `/v3/` are the JSON gateway's, see [`crate::json`].
//!
//! Everything else is 404. Bodies, codes and headers are etcd's to the byte, newlines included: load
//! balancers and probes compare them. In front of the client port stand guards (`access`): the list of host
//! names that requests may be for, and the origins that browsers may come from.
//!
//! An answer is computed from a request's head alone; no endpoint here reads a body.

mod access;
mod debug;
mod desk;
mod health;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use proto::etcdserverpb::AlarmMember;
use serde::Serialize;
use types::{ClusterId, ErrorKind, MemberId};

use crate::config::{Config, VERSION};
use crate::metrics::{self, Metrics};
use crate::node::Node;

use access::Access;
pub use debug::{RaftProgress, RaftStatus};
pub use desk::Desk;

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// `--listen-client-urls` or `--listen-client-http-urls`.
    Client,
    /// `--listen-metrics-urls`.
    Metrics,
    /// `--listen-peer-urls`.
    Peer,
}

/// What the endpoints ask of a member.
pub trait Vitals: Clone + Send + Sync + 'static {
    /// Active alarms of any member.
    fn alarms(&self) -> Vec<AlarmMember>;
    /// The leader this member follows.
    fn leader(&self) -> Option<MemberId>;
    /// Whether this member has no vote.
    fn is_learner(&self) -> bool;
    /// Whether a read would be answered now.
    fn probe(&self, linearizable: bool) -> impl Future<Output = Result<(), ErrorKind>> + Send;
    /// The version the cluster has agreed on.
    fn cluster_version(&self) -> Option<String>;
    /// The version of the stored data.
    fn storage_version(&self) -> Option<String>;
    /// Whether callers have to be users.
    fn has_users(&self) -> bool;
    /// Where raft is; nothing while the member stops.
    fn raft_status(&self) -> impl Future<Output = Option<RaftStatus>> + Send;
}

impl Vitals for Node {
    fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms()
    }

    fn leader(&self) -> Option<MemberId> {
        self.leader()
    }

    fn is_learner(&self) -> bool {
        self.is_learner()
    }

    fn probe(&self, linearizable: bool) -> impl Future<Output = Result<(), ErrorKind>> + Send {
        self.probe(linearizable)
    }

    fn cluster_version(&self) -> Option<String> {
        self.cluster_version()
    }

    fn storage_version(&self) -> Option<String> {
        self.storage_version()
    }

    fn has_users(&self) -> bool {
        self.board.auth_enabled()
    }

    fn raft_status(&self) -> impl Future<Output = Option<RaftStatus>> + Send {
        self.raft_status()
    }
}

/// An answer. Its body is a few bytes, the metrics or a profile.
pub type Answer = Response<Bytes>;

/// The endpoints of one port. Cheap to clone.
pub struct Site<V = Node>(Arc<Inner<V>>);

impl<V> Clone for Site<V> {
    fn clone(&self) -> Self {
        Site(Arc::clone(&self.0))
    }
}

struct Inner<V> {
    port: Port,
    member: V,
    metrics: Arc<Metrics>,
    access: Access,
    /// How long a read of a health check may take.
    read_timeout: Duration,
    /// Whether profiles are made.
    pprof: bool,
}

impl<V: Vitals> Site<V> {
    /// The endpoints that `port` has.
    pub fn new(port: Port, member: V, metrics: Arc<Metrics>, config: &Config) -> Self {
        Site(Arc::new(Inner {
            port,
            member,
            metrics,
            access: Access::new(config),
            read_timeout: config.request_timeout(),
            pprof: config.pprof,
        }))
    }

    /// Answers a request.
    pub async fn answer(&self, request: &Parts) -> Answer {
        let site = &*self.0;
        if site.port != Port::Client {
            return site.route(request).await;
        }
        if let Some(refusal) = site.access.refuse_host(request) {
            return refusal;
        }
        let mut answer = match request.method {
            Method::OPTIONS => Response::default(),
            _ => site.route(request).await,
        };
        self.allow_origin(request.headers.get(ORIGIN), answer.headers_mut());
        answer
    }

    /// The answer to a request that may not go to the gateway, or that is no more than a browser's question whether it
    /// may.
    pub fn refuse_json(&self, request: &Parts) -> Option<Answer> {
        let Inner { access, member, .. } = &*self.0;
        let question = || {
            let mut answer = Response::default();
            self.allow_origin(request.headers.get(ORIGIN), answer.headers_mut());
            (request.method == Method::OPTIONS).then_some(answer)
        };
        access
            .refuse_host(request)
            .or_else(|| access.refuse_certificate(request, member.has_users()))
            .or_else(question)
            .or_else(|| access.refuse_origin(request))
    }

    /// Adds the headers by which a browser lets a page of this origin read an answer.
    pub fn allow_origin(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        self.0.access.allow_origin(origin, answer);
    }
}

impl<V: Vitals> Inner<V> {
    async fn route(&self, request: &Parts) -> Answer {
        let path = request.uri.path();
        match (self.port, path) {
            (Port::Client | Port::Peer, "/version") => match request.method {
                Method::GET => self.version(),
                _ => method_not_allowed(),
            },
            (Port::Peer, _) => not_found(),
            (_, "/metrics") => self.scrape(),
            (Port::Client, path) if path.starts_with("/debug/") => self.debug(request).await,
            (_, "/health") => self.health(request).await,
            _ => match self.checks(path) {
                Some(checks) => self.run_checks(checks, request).await,
                None => not_found(),
            },
        }
    }

    fn version(&self) -> Answer {
        #[derive(Serialize)]
        struct Versions {
            etcdserver: &'static str,
            etcdcluster: String,
            storage: String,
        }
        let or = |version: Option<String>, otherwise: &str| version.unwrap_or_else(|| otherwise.into());
        let versions = Versions {
            etcdserver: VERSION,
            etcdcluster: or(self.member.cluster_version(), "not_decided"),
            storage: or(self.member.storage_version(), "unknown"),
        };
        let body = serde_json::to_vec(&versions).expect("three texts are JSON");
        typed(StatusCode::OK, "application/json", body)
    }

    fn scrape(&self) -> Answer {
        self.metrics.scrapes_in_flight.add(1);
        let body = self.metrics.encode();
        self.metrics.scrapes_in_flight.add(-1);
        self.metrics.scrapes.with(&["200"]).inc();
        typed(StatusCode::OK, metrics::CONTENT_TYPE, body)
    }
}

pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A text that no browser may take for anything else.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = typed(status, PLAIN, body);
    answer
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Tells whose answer it is, as most answers on the peer port do.
pub(crate) fn with_cluster_id(mut answer: Answer, cluster_id: ClusterId) -> Answer {
    let id = HeaderValue::from_str(&cluster_id.to_string()).expect("hex digits are a header's value");
    answer.headers_mut().insert(CLUSTER_ID, id);
    answer
}

/// The header that names a cluster.
pub const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

const PLAIN: &str = "text/plain; charset=utf-8";

/// 404, as Go's HTTP server says it.
pub fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn method_not_allowed() -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET"));
    answer
}

#[cfg(test)]
pub(crate) mod tests;
