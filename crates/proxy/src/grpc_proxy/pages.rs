//! What is served over HTTP/1: metrics of the cluster and of the proxy, whether they are well, and profiles.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::srv::Target;
use client::{Client, Error};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::TokioIo;
use proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tonic::Code;
use tonic::body::Body;
use tracing::warn;

use super::Offer;
use super::cache::Cache;
use super::metered::Calls;
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
const PLAIN: &str = "text/plain; charset=utf-8";

pub struct Pages {
    pub client: Client,
    /// A client of the proxy itself, if it is known where that is.
    pub own: Option<Client>,
    pub tls: Option<tls::Client>,
    pub profiles: bool,
    pub health: HealthCounts,
    pub calls: Calls,
    pub cache: Arc<Cache>,
    pub sources: Arc<Sources>,
}

/// How often it was said that the cluster or the proxy is well, and that it is not.
#[derive(Default)]
pub struct HealthCounts {
    success: AtomicU64,
    failures: AtomicU64,
}

#[derive(Serialize)]
struct Health {
    health: &'static str,
    reason: String,
}

impl Pages {
    pub async fn answer(&self, request: Parts, offer: Offer) -> Response<Body> {
        let path = request.uri.path();
        let profile = path
            .strip_prefix("/debug/pprof/")
            .filter(|_| self.profiles && offer == Offer::Everything);
        if let Some(name) = profile {
            let query = request.uri.query().unwrap_or_default();
            return insight::page(name, query)
                .await
                .map(|body| Body::new(Full::new(body)));
        }
        match path {
            "/metrics" => self.cluster_metrics().await,
            "/proxy/metrics" => page(StatusCode::OK, METRICS_TYPE, self.metrics()),
            "/health" | "/proxy/health" if request.method != Method::GET => method_not_allowed(),
            "/health" => self.show(read(&self.client).await),
            "/proxy/health" => self.show(self.own_health().await),
            _ => page(StatusCode::NOT_FOUND, PLAIN, "404 page not found\n".into()),
        }
    }

    fn show(&self, health: Result<(), String>) -> Response<Body> {
        let counts = &self.health;
        let counter = match &health {
            Ok(()) => &counts.success,
            Err(_) => &counts.failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        health_page(health)
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

    /// What is counted here. etcd's proxy also shows the names of its servers' metrics, all of them zero.
    fn metrics(&self) -> String {
        let mut text = String::new();
        for (name, kind, help, value) in self.numbers() {
            write_number(&mut text, &format!("etcd_{name}"), kind, help, value as f64);
        }
        self.calls.write(&mut text);
        for (number, value) in insight::process::measured() {
            write_number(&mut text, number.name, number.kind, number.help, value);
        }
        text
    }

    fn numbers(&self) -> [(&'static str, &'static str, &'static str, u64); 7] {
        let counts = self.cache.counts();
        [
            (
                "grpc_proxy_cache_hits_total",
                "gauge",
                "Total number of cache hits",
                counts.hits,
            ),
            (
                "grpc_proxy_cache_keys_total",
                "gauge",
                "Total number of keys/ranges cached",
                counts.keys as u64,
            ),
            (
                "grpc_proxy_cache_misses_total",
                "gauge",
                "Total number of cache misses",
                counts.misses,
            ),
            (
                "grpc_proxy_events_coalescing_total",
                "counter",
                "Total number of events coalescing",
                self.sources.events.load(Ordering::Relaxed),
            ),
            (
                "grpc_proxy_watchers_coalescing_total",
                "gauge",
                "Total number of current watchers coalescing",
                self.sources.coalescing() as u64,
            ),
            (
                "server_health_failures",
                "counter",
                "The total number of failed health checks",
                self.health.failures.load(Ordering::Relaxed),
            ),
            (
                "server_health_success",
                "counter",
                "The total number of successful health checks",
                self.health.success.load(Ordering::Relaxed),
            ),
        ]
    }

    async fn cluster_metrics(&self) -> Response<Body> {
        match timeout(SCRAPE_PATIENCE, self.scrape()).await.ok().flatten() {
            Some(text) => page(StatusCode::OK, METRICS_TYPE, text),
            None => page(
                StatusCode::INTERNAL_SERVER_ERROR,
                PLAIN,
                "Internal server error\n".into(),
            ),
        }
    }

    /// The metrics of the first member that is known.
    async fn scrape(&self) -> Option<String> {
        let endpoint = self.client.endpoints().into_iter().next()?;
        let mut target = endpoints::parse(&endpoint)?;
        target.is_secure |= !endpoint.contains("://") && self.tls.is_some();
        let socket = names::connect(&target.host, target.port).await.ok()?;
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

fn health_page(health: Result<(), String>) -> Response<Body> {
    let text = |health, reason| {
        // It has nothing that JSON has not.
        serde_json::to_string(&Health { health, reason }).unwrap_or_default()
    };
    match health {
        Ok(()) => page(StatusCode::OK, PLAIN, text("true", String::new())),
        Err(reason) => {
            warn!(reason, "serving /health false");
            let text = format!("{}\n", text("false", reason));
            page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text)
        }
    }
}

fn method_not_allowed() -> Response<Body> {
    let mut page = page(
        StatusCode::METHOD_NOT_ALLOWED,
        PLAIN,
        "Method Not Allowed\n".into(),
    );
    page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    page
}

fn write_number(text: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    // A string takes everything.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

fn page(code: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
