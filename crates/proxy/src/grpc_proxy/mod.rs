//! `etcd grpc-proxy`: a server of etcd's calls in front of a cluster.
//!
//! Reads, writes, leases, watches and the list of members are answered here (`kv`, `lease`, `watch`, `members`); all other calls
//! go on as they are, byte for byte. Everybody's token goes along with what is done on their behalf.

mod cache;
mod calls;
mod kv;
mod lease;
mod members;
mod metered;
mod order;
mod pages;
mod watch;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use calm::{Calm, Chatter, Debts, Overdue};
use client::Client;
use client::leasing::Leasing;
use client::srv::Target;
use grpc::etcdserverpb::cluster_server::ClusterServer;
use grpc::etcdserverpb::kv_server::KvServer;
use grpc::etcdserverpb::lease_server::LeaseServer;
use grpc::etcdserverpb::watch_server::WatchServer;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tower_service::Service;
use tracing::{info, warn};

use crate::endpoints::{self, Discovery, discover, refuse_loops};
use crate::{ACCEPT_PAUSE, CONNECTIONS_MAX, ProxyError};
use cache::Cache;
use kv::Keys;
use lease::Leases;
use members::Members;
use metered::Calls;
use order::Order;
use pages::{HealthCounts, Pages};
use watch::{Sources, Watches};

pub use members::Register;

/// How long a connection may take to say its first word, or to shake hands.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// How long a client may leave what it has asked for in the socket's way.
const STUCK: Duration = Duration::from_secs(30);
/// How long a connection that is ended has to say so.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a sign of life is waited for if there is no limit.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a proxy is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens: `host:port`.
    pub listen: String,
    /// Where it listens for metrics and health alone: a URL, `https` with the same certificate.
    pub listen_metrics: Option<String>,
    /// How it talks to the cluster; the namespace is in there too.
    pub cluster: client::Config,
    /// Where else to look for members, which are then used instead.
    pub discovery: Option<Discovery>,
    /// What it shows to clients, and asks of them; nothing is no TLS.
    pub tls: Option<tls::Settings>,
    /// Where clients find it.
    pub advertised: Option<String>,
    /// Where it is written down, for clients and other proxies.
    pub register: Option<Register>,
    /// Calls of one connection at a time.
    pub streams_max: Option<u32>,
    /// Silence on a connection after which a client is asked for a sign of life.
    pub keep_alive_interval: Option<Duration>,
    /// How long that may take; for ever without.
    pub keep_alive_timeout: Option<Duration>,
    /// How long clients have to wait between two signs of life that they ask for; any time without.
    pub ping_pause: Option<Duration>,
    /// Whether profiles are served.
    pub profiles: bool,
    /// Whether the revisions of answers never go back.
    pub keeps_order: bool,
    /// What keys begin with by which proxies tell each other what they remember; nothing is remembered without.
    pub leasing_prefix: Option<String>,
    /// Whether each call is logged.
    pub logs_calls: bool,
}

/// Serves until the process ends. `ready` is told once it listens.
pub async fn run(mut config: Config, ready: impl FnOnce()) -> Result<(), ProxyError> {
    if let Some(discovery) = &config.discovery {
        let found = discover(discovery).await?;
        if !found.is_empty() {
            config.cluster.endpoints = found.iter().map(Target::url).collect();
        }
    }
    refuse_endpoints(&config).await?;
    let listener = endpoints::listen(&config.listen).await?;
    info!(
        address = config.listen,
        "listening for gRPC proxy client requests"
    );
    let metrics = match &config.listen_metrics {
        Some(url) => Some(endpoints::listen(url.split_once("://").map_or(&**url, |(_, rest)| rest)).await?),
        None => None,
    };
    let proxy = Arc::new(Proxy::new(&config).await?);
    if let (Some(listener), Some(url)) = (metrics, &config.listen_metrics) {
        let tls = match (url.starts_with("https://"), &proxy.tls) {
            (true, None) => {
                return Err(ProxyError::Tls(format!(
                    "cannot listen on TLS for {url}: no certificate"
                )));
            }
            (true, tls) => tls.clone(),
            (false, _) => None,
        };
        info!(address = url, "gRPC proxy listening for metrics");
        tokio::spawn(proxy.clone().accept(listener, Offer::Pages, tls));
    }
    if let (Some(register), Some(address)) = (config.register, config.advertised) {
        tokio::spawn(members::stay_registered(
            proxy.pages.client.clone(),
            register,
            address,
        ));
    }
    info!(address = config.listen, "started gRPC proxy");
    ready();
    let tls = proxy.tls.clone();
    proxy.accept(listener, Offer::Everything, tls).await;
    Ok(())
}

/// Refuses endpoints that are the proxy itself. A name that leads nowhere may do so later.
async fn refuse_endpoints(config: &Config) -> Result<(), ProxyError> {
    // Those that are no host and port are sockets, on which no proxy listens.
    let endpoints = config.cluster.endpoints.iter();
    for target in endpoints.filter_map(|endpoint| endpoints::parse(endpoint)) {
        match refuse_loops(&config.listen, std::slice::from_ref(&target)).await {
            Err(error @ ProxyError::Unresolved(..)) => warn!(%error, "endpoint not known yet"),
            checked => checked?,
        }
    }
    Ok(())
}

/// What a listener is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offer {
    Everything,
    Pages,
}

struct Proxy {
    tls: Option<tls::Server>,
    builder: Builder<TokioExecutor>,
    chatter: Chatter,
    logs_calls: bool,
    pages: Pages,
    kv: KvServer<Keys>,
    watch: WatchServer<Watches>,
    lease: LeaseServer<Leases>,
    cluster: ClusterServer<Members>,
}

impl Proxy {
    async fn new(config: &Config) -> Result<Self, ProxyError> {
        let no_client = |error: client::Error| ProxyError::Client(error.to_string());
        refuse_named(config.cluster.tls.as_ref())?;
        let no_tls = |error: tls::TlsError| ProxyError::Tls(error.to_string());
        let client = Client::connect(config.cluster.clone()).await.map_err(no_client)?;
        let own = match &config.advertised {
            Some(address) => {
                let own = client::Config {
                    tls: config.tls.clone(),
                    ..client::Config::new([address.clone()])
                };
                Some(Client::connect(own).await.map_err(no_client)?)
            }
            None => None,
        };
        let server = |settings: &tls::Settings| {
            let identity = settings.identity.clone().unwrap_or_default();
            tls::Server::new(settings, &identity, tls::HTTP).map_err(no_tls)
        };
        let (cache, sources) = (Arc::new(Cache::default()), Arc::new(Sources::default()));
        let upstream = config.cluster.tls.as_ref();
        let leasing = config.leasing_prefix.clone();
        Ok(Proxy {
            tls: config.tls.as_ref().map(server).transpose()?,
            builder: builder(config),
            chatter: Chatter::usual(config.ping_pause),
            logs_calls: config.logs_calls,
            kv: KvServer::new(Keys {
                client: client.clone(),
                leasing: leasing.map(|prefix| Leasing::new(&client, prefix)),
                cache: cache.clone(),
                order: config.keeps_order.then(Order::default),
            }),
            watch: WatchServer::new(Watches {
                client: client.clone(),
                sources: sources.clone(),
            }),
            lease: LeaseServer::new(Leases(client.clone())),
            cluster: ClusterServer::new(Members {
                client: client.clone(),
                advertised: config.advertised.clone(),
                register: config.register.clone(),
            }),
            pages: Pages {
                tls: upstream
                    .map(|settings| tls::Client::new(settings, pages::HTTP1).map_err(no_tls))
                    .transpose()?,
                client,
                own,
                profiles: config.profiles,
                health: HealthCounts::default(),
                calls: Calls::default(),
                cache,
                sources,
            },
        })
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, offer: Offer, tls: Option<tls::Server>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        // It is never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let (proxy, tls) = (self.clone(), tls.clone());
                    tokio::spawn(async move {
                        proxy.secure(socket, offer, tls).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn secure(self: Arc<Self>, socket: TcpStream, offer: Offer, tls: Option<tls::Server>) {
        // Fails only for a connection that is broken, which shows by itself.
        let _ = socket.set_nodelay(true);
        match tls {
            None => match timeout(FIRST_WORD, socket.peek(&mut [0])).await {
                Ok(Ok(_)) => self.serve(socket, offer).await,
                _ => drop(socket),
            },
            Some(tls) => match timeout(FIRST_WORD, tls.accept(socket)).await {
                Ok(Ok((socket, _))) => self.serve(socket, offer).await,
                Ok(Err(error)) => warn!(error = tls::describe(&error), "rejected connection"),
                Err(_) => {}
            },
        }
    }

    async fn serve(
        self: Arc<Self>,
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        offer: Offer,
    ) {
        let proxy = self.clone();
        let service = service_fn(move |request| {
            let proxy = proxy.clone();
            async move { Ok::<_, Infallible>(proxy.answer(request, offer).await) }
        });
        let (debts, overdue) = (Debts::new(STUCK), Overdue::default());
        let socket = Calm::new(socket, self.chatter, debts.clone(), overdue.clone());
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(socket), service));
        tokio::select! {
            // How a connection ends is the client's affair.
            _ = connection.as_mut() => {}
            () = debts.overdue() => {
                overdue.store(true, Ordering::Relaxed);
                // It sees that now. What it still has to say then fails.
                let _ = timeout(FAREWELL, connection).await;
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, offer: Offer) -> Response<Body> {
        let content = request.headers().get(http::header::CONTENT_TYPE);
        let is_call = content.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if !is_call || offer == Offer::Pages {
            return self.pages.answer(request.into_parts().0, offer).await;
        }
        let path = request.uri().path().to_owned();
        let begin = Instant::now();
        let request = request.map(Body::new);
        let answer = match self.pages.calls.find(&path) {
            None => self.call(&path, request).await,
            Some(call) => {
                let request = request.map(|body| metered::request(&call, body));
                metered::answer(&call, self.call(&path, request).await)
            }
        };
        if self.logs_calls {
            let status = answer
                .headers()
                .get("grpc-status")
                .and_then(|status| status.to_str().ok());
            info!(method = path, status, took = ?begin.elapsed(), "call");
        }
        answer
    }

    async fn call(&self, path: &str, request: Request<Body>) -> Response<Body> {
        let service = path.split('/').nth(1).unwrap_or_default();
        let answered = match service {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => self.watch.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            _ => Ok(self.forward(request).await),
        };
        answered.unwrap_or_else(|never| match never {})
    }

    async fn forward(&self, request: Request<Body>) -> Response<Body> {
        let answer = self.pages.client.forward(request).await;
        answer.unwrap_or_else(|error| calls::status(error).into_http())
    }
}

/// Refuses a certificate with a name: where certificates say who calls, all callers without a token would be that one.
fn refuse_named(tls: Option<&tls::Settings>) -> Result<(), ProxyError> {
    let shown = |tls: &tls::Settings| tls.client_identity.clone().or_else(|| tls.identity.clone());
    let Some(identity) = tls.and_then(shown) else {
        return Ok(());
    };
    let certificate = CertificateDer::from_pem_file(&identity.cert);
    let certificate =
        certificate.map_err(|error| ProxyError::Tls(format!("{}: {error}", identity.cert.display())))?;
    let shown = tls::Shown {
        certificate: Some(certificate),
    };
    match shown.common_name() {
        Some(name) => Err(ProxyError::NamedCertificate(name)),
        None => Ok(()),
    }
}

fn builder(config: &Config) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(FIRST_WORD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_max)
        .keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout.unwrap_or(FOR_EVER));
    builder
}
