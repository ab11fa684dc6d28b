//! What is served over HTTP/1: metrics of the cluster and of the proxy, and whether they are well.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use client::srv::Target;
use client::{Client, Error};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;
use tonic::body::Body;

use super::cache::Cache;
use super::watch::Sources;
use crate::endpoints;

/// How long the cluster may take to show that it is well, and the proxy to open a watch.
const READ_PATIENCE: Duration = Duration::from_secs(1);
const WATCH_PATIENCE: Duration = Duration::from_secs(3);
/// How long a member may take to tell its metrics, and how much that may be.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(10);
const SCRAPE_BYTES_MAX: usize = 64 << 20;

/// What metrics are asked for in: on a plain port, HTTP/2 is for calls alone.
pub const HTTP1: tls::Alpn = &[b"http/1.1"];

const METRICS_TYPE: &str = "text/plain; version=0.0.4";

pub struct Pages {
    pub client: Client,
    /// A client of the proxy itself, if it is known where that is.
    pub own: Option<Client>,
    pub tls: Option<tls::Client>,
    pub cache: Arc<Cache>,
    pub sources: Arc<Sources>,
}

#[derive(Serialize)]
struct Health {
    health: &'static str,
    reason: String,
}

impl Pages {
    pub async fn answer(&self, path: &str) -> Response<Body> {
        match path {
            "/metrics" => self.cluster_metrics().await,
            "/proxy/metrics" => page(StatusCode::OK, METRICS_TYPE, self.metrics()),
            "/health" => health(read(&self.client).await),
            "/proxy/health" => health(self.own_health().await),
            _ => page(
                StatusCode::NOT_FOUND,
                "text/plain; charset=utf-8",
                "404 page not found\n".into(),
            ),
        }
    }

    async fn own_health(&self) -> Result<(), String> {
        let own = self.own.as_ref().ok_or("no connection to proxy")?;
        read(own).await?;
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"a"),
            ..WatchCreateRequest::default()
        };
        match timeout(WATCH_PATIENCE, own.watch(create)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("WATCH ERROR:{error}")),
            Err(_) => Err("WATCH TIMEOUT".into()),
        }
    }

    fn metrics(&self) -> String {
        let counts = self.cache.counts();
        let rows = [
            (
                "cache_hits_total",
                "gauge",
                "Total number of cache hits",
                counts.hits,
            ),
            (
                "cache_keys_total",
                "gauge",
                "Total number of keys/ranges cached",
                counts.keys as u64,
            ),
            (
                "cache_misses_total",
                "gauge",
                "Total number of cache misses",
                counts.misses,
            ),
            (
                "events_coalescing_total",
                "counter",
                "Total number of events coalescing",
                self.sources.events.load(Ordering::Relaxed),
            ),
            (
                "watchers_coalescing_total",
                "gauge",
                "Total number of current watchers coalescing",
                self.sources.coalescing() as u64,
            ),
        ];
        rows.iter()
            .fold(String::new(), |mut text, (name, kind, help, value)| {
                let name = format!("etcd_grpc_proxy_{name}");
                // A string takes everything.
                let _ = write!(
                    text,
                    "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
                );
                text
            })
    }

    async fn cluster_metrics(&self) -> Response<Body> {
        match timeout(SCRAPE_PATIENCE, self.scrape()).await.ok().flatten() {
            Some(text) => page(StatusCode::OK, METRICS_TYPE, text),
            None => page(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                "Internal server error\n".into(),
            ),
        }
    }

    /// The metrics of the first member that is known.
    async fn scrape(&self) -> Option<String> {
        let endpoint = self.client.endpoints().into_iter().next()?;
        let mut target = endpoints::parse(&endpoint)?;
        target.is_secure |= !endpoint.contains("://") && self.tls.is_some();
        let socket = TcpStream::connect(target.address()).await.ok()?;
        match (&self.tls, target.is_secure) {
            (Some(tls), true) => get(tls.connect(&target.host, socket).await.ok()?, &target).await,
            (None, true) => None,
            (_, false) => get(socket, &target).await,
        }
    }
}

async fn get(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    target: &Target,
) -> Option<String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = handshake.ok()?;
    tokio::spawn(connection);
    let request = Request::get("/metrics").header(http::header::HOST, target.address());
    let request = request.body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.ok()?).await.ok()?;
    let body = Limited::new(answer.into_body(), SCRAPE_BYTES_MAX)
        .collect()
        .await
        .ok()?;
    String::from_utf8(body.to_bytes().to_vec()).ok()
}

/// Whether the cluster answers a read. That somebody may not read is an answer too.
async fn read(client: &Client) -> Result<(), String> {
    let range = RangeRequest {
        key: Bytes::from_static(b"a"),
        ..RangeRequest::default()
    };
    match client.with_timeout(READ_PATIENCE).range(range).await {
        Ok(_) => Ok(()),
        Err(Error::Server {
            code: Code::PermissionDenied,
            ..
        }) => Ok(()),
        Err(error) => Err(format!("GET ERROR:{error}")),
    }
}

fn health(health: Result<(), String>) -> Response<Body> {
    let (code, health) = match health {
        Ok(()) => (
            StatusCode::OK,
            Health {
                health: "true",
                reason: String::new(),
            },
        ),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Health {
                health: "false",
                reason,
            },
        ),
    };
    // It has nothing that JSON has not.
    let text = serde_json::to_string(&health).unwrap_or_default();
    page(code, "application/json", text)
}

fn page(code: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::new(Bytes::from(text))));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
