//! Listeners, and the connections that come in by them.
//!
//! Sockets are bound early ([`Listeners::bind`]), so that a port in use is found out before any data is
//! touched, and served when there is somebody to serve: metrics and health as soon as the member has
//! its loops, long before it has a leader; clients once it can answer them.
//!
//! ```text
//! accept loop ──socket──► one of the lanes: a single-threaded runtime per core
//!                           connection: HTTP/1 or HTTP/2, told apart by its first bytes
//!                             request: gRPC by its content type, or an endpoint of crate::http
//! ```
//!
//! A connection stays on its lane; that halves the CPU time of a small call against a runtime that
//! moves tasks between cores. What a stranger can hold on to is bounded: connections by the limit of
//! open files and a share for each address (`shares`), the time until the first request, the time for a request's
//! head and body and for taking its answer and the frames without a purpose (crate [`calm`]), the size of headers.
//! `docs/security.md` has the list.

mod connection;
mod edge;
mod lanes;
mod rest;
mod secure;
mod shares;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use names::NameError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use thiserror::Error;

use crate::config::{Config, Tls, Url};
use crate::fields::json;
use crate::http::Port;

pub use calm::{Chatter, Debt, Debts};
pub use connection::{ClientAddress, Limits, Ports, Stay, TlsClient};
pub use edge::{CallBody, Edge, EdgeBody, GrpcService, NoGrpc, PeerEdge, RequestBody, is_gateway_path};
pub use lanes::Lanes;
pub use rest::Rest;
pub use secure::sign_own;

use secure::{Secured, Security, secured, warn_of_plain};

/// Connections the kernel may hold before they are accepted; it has a limit of its own too.
const BACKLOG: i32 = 4096;

/// Silence on a TCP connection after which the kernel asks whether the other side still lives.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Open files kept back for the data, the other ports and whatever else is not a client.
const RESERVED_FILES: u64 = 150;

/// Why a port can't be listened on.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ListenError {
    /// The socket can't be had. Begins as Go's message does, which scripts look for.
    #[error("listen {place}: bind: {problem} ({flag}: {cure})")]
    Bind {
        place: String,
        problem: String,
        flag: &'static str,
        cure: String,
    },
    /// A host name that leads nowhere.
    #[error("listen tcp: {error} ({flag})")]
    Lookup { error: NameError, flag: &'static str },
    /// TLS for clients without the files for it.
    #[error("TLS key/cert (--cert-file, --key-file) must be provided for client url {0} with HTTPS scheme")]
    ClientTls(Url),
    /// TLS for metrics, which is that of clients.
    #[error("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url {0}")]
    MetricsTls(Url),
    /// TLS between members without the files for it.
    #[error(
        "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url {0} with HTTPS scheme"
    )]
    PeerTls(Url),
    /// The files can't be used.
    #[error(transparent)]
    TlsFiles(#[from] tls::TlsError),
    /// The member can't make a certificate for itself.
    #[error(transparent)]
    SelfSigned(#[from] tls::SelfSignedError),
    /// A port for HTTP alone that is also one for gRPC.
    #[error("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {0}")]
    SameUrl(Url),
    /// So few files may be open that no client could connect.
    #[error(
        "file descriptor limit of etcd process is too low; please set higher (it is {0}, and must be above {RESERVED_FILES})"
    )]
    FileLimit(u64),
}

/// The sockets of all ports.
pub struct Listeners {
    /// For peers.
    pub peer: Vec<Listener>,
    /// For clients; gRPC only when there are `client_http`.
    pub client: Vec<Listener>,
    /// For clients that speak HTTP only.
    pub client_http: Vec<Listener>,
    /// For metrics and health.
    pub metrics: Vec<Listener>,
    /// Connections that clients may have.
    pub client_connections_max: usize,
}

impl Listeners {
    /// Binds every socket of the configuration.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        let files = raise_file_limit();
        let client_connections_max = files.saturating_sub(RESERVED_FILES) as usize;
        if client_connections_max == 0 {
            return Err(ListenError::FileLimit(files));
        }
        check_for_two_purposes(config)?;
        tracing::info!(
            "listen-peer-urls" = json(&config.listen_peer),
            "configuring peer listeners"
        );
        let peer = bind_peers(config)?;
        tracing::info!(
            "listen-client-urls" = json(&config.listen_client),
            "configuring client listeners"
        );
        let tls = &config.client_tls;
        let clients = || config.listen_client.iter().chain(&config.listen_client_http);
        clients().for_each(|url| warn_of_plain(url, tls, false));
        log_tls("starting with client TLS", tls);
        let secured_clients = secured(tls, clients(), tls::HTTP, false, ListenError::ClientTls)?;
        let secured_clients = secured_clients.as_ref();
        let metrics = config.listen_metrics.iter();
        let secured_metrics = secured(tls, metrics, tls::HTTP, true, ListenError::MetricsTls)?;
        let bind = |flag, urls: &[Url], secured| bind_all(urls, flag, config.reuse_port, secured);
        let client = bind("--listen-client-urls", &config.listen_client, secured_clients)?;
        let client_http = bind(
            "--listen-client-http-urls",
            &config.listen_client_http,
            secured_clients,
        )?;
        let metrics = bind(
            "--listen-metrics-urls",
            &config.listen_metrics,
            secured_metrics.as_ref(),
        )?;
        Ok(Listeners {
            peer,
            client,
            client_http,
            metrics,
            client_connections_max,
        })
    }
}

/// No port is for all clients and for those without gRPC at once.
fn check_for_two_purposes(config: &Config) -> Result<(), ListenError> {
    let mut http = config.listen_client_http.iter();
    match http.find(|url| same_address(&config.listen_client, url)) {
        Some(both) => Err(ListenError::SameUrl(both.clone())),
        None => Ok(()),
    }
}

/// Looks at what [`Listeners::bind`] needs besides the ports. A certificate that the member makes itself is not there yet.
pub fn check(config: &Config) -> Result<(), ListenError> {
    check_for_two_purposes(config)?;
    let makes_own = |tls: &Tls| tls.auto && tls.settings.identity.is_none();
    let (clients, members) = (&config.client_tls, &config.peer_tls);
    if !makes_own(members) {
        let urls = config.listen_peer.iter();
        secured(members, urls, tls::UNSAID, false, ListenError::PeerTls)?;
    }
    if !makes_own(clients) {
        let urls = config.listen_client.iter().chain(&config.listen_client_http);
        secured(clients, urls, tls::HTTP, false, ListenError::ClientTls)?;
        let metrics = config.listen_metrics.iter();
        secured(clients, metrics, tls::HTTP, true, ListenError::MetricsTls)?;
    }
    Ok(())
}

fn bind_peers(config: &Config) -> Result<Vec<Listener>, ListenError> {
    let (tls, urls) = (&config.peer_tls, &config.listen_peer);
    log_tls("starting with peer TLS", tls);
    urls.iter().for_each(|url| warn_of_plain(url, tls, true));
    let checks = tls.checks_address;
    let secured = secured(tls, urls.iter(), tls::UNSAID, checks, ListenError::PeerTls)?;
    bind_all(urls, "--listen-peer-urls", config.reuse_port, secured.as_ref())
}

/// Binds each address once; where URLs with and without TLS share one, it is for both.
fn bind_all(
    urls: &[Url],
    flag: &'static str,
    reuse_port: bool,
    secured: Option<&Secured>,
) -> Result<Vec<Listener>, ListenError> {
    let mut listeners: Vec<Listener> = Vec::new();
    for url in urls {
        let security = Security::of(url, secured);
        match listeners.iter_mut().find(|bound| is_same_port(&bound.url, url)) {
            Some(bound) => bound.security = bound.security.clone().and(security),
            None => listeners.push(Listener::bind(url, flag, reuse_port, security)?),
        }
    }
    Ok(listeners)
}

/// Whether URLs name the same port of the same address, which is then not one that the system chooses.
fn is_same_port(one: &Url, other: &Url) -> bool {
    one.address() == other.address() && one.port() != Some(0)
}

fn same_address(urls: &[Url], url: &Url) -> bool {
    urls.iter().any(|other| is_same_port(other, url) || other == url)
}

fn log_tls(message: &str, tls: &Tls) {
    if tls.settings.identity.is_some() {
        let suites = tls.settings.protocols.suites.iter();
        let suites: Vec<_> = suites.map(|suite| suite.name()).collect();
        tracing::info!("tls-info" = %tls.settings, "cipher-suites" = json(&suites), "{message}");
    }
}

/// Allows this process as many open files as it may allow itself, and tells how many.
fn raise_file_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    let limit = if raised.is_ok() { maximum } else { current };
    limit.unwrap_or(u64::MAX)
}

/// One bound socket.
pub struct Listener {
    url: Url,
    socket: Bound,
    security: Security,
}

enum Bound {
    Tcp(std::net::TcpListener),
    Unix(UnixSocket),
}

/// A listening socket in the file system; its file goes with it.
struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Whoever starts next removes what is left over.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// Binds a URL that was given with `flag`.
    fn bind(
        url: &Url,
        flag: &'static str,
        reuse_port: bool,
        security: Security,
    ) -> Result<Self, ListenError> {
        let (network, bound) = match url.port() {
            None => ("unix", bind_unix(url.address())),
            Some(port) => {
                let found = names::blocking::addresses(url.host(), port);
                let found = found.map_err(|error| ListenError::Lookup { error, flag })?;
                let address = names::to_listen_on(&found).ok_or(io::ErrorKind::AddrNotAvailable.into());
                ("tcp", address.and_then(|address| bind_tcp(address, reuse_port)))
            }
        };
        let socket = bound.map_err(|error| ListenError::Bind {
            place: format!("{network} {}", url.address()),
            problem: go_text(&error),
            flag,
            cure: cure(&error, url),
        })?;
        Ok(Listener {
            url: url.clone(),
            socket,
            security,
        })
    }

    /// The URL it was bound for.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Where it listens; differs from the URL where that leaves the port open or names a host.
    pub fn address(&self) -> String {
        match &self.socket {
            Bound::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| self.url.address().into(), |a| a.to_string()),
            Bound::Unix(socket) => socket.path.display().to_string(),
        }
    }
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<Bound> {
    if !address.ip().is_unspecified() {
        return listen(address, reuse_port);
    }
    // Every address of the machine, of both families; a machine may be without IPv6.
    let every = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    match listen(every, reuse_port) {
        Err(error) if address.is_ipv4() && error.kind() != io::ErrorKind::AddrInUse => {
            listen(address, reuse_port)
        }
        bound => bound,
    }
}

fn listen(address: SocketAddr, reuse_port: bool) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restarted server gets its port although connections of the last one linger. As in Go, always.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Accepted sockets inherit these.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(TCP_KEEPALIVE)
            .with_interval(TCP_KEEPALIVE),
    )?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Bound::Tcp(socket.into()))
}

fn bind_unix(path: &str) -> io::Result<Bound> {
    let path = PathBuf::from(path);
    if path.exists() {
        // A file that nobody answers at was left by a server that was killed.
        if UnixStream::connect(&path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Unix(UnixSocket { listener, path }))
}

/// The system's text for an error, as Go shows it: in lower case and without its number.
fn go_text(error: &io::Error) -> String {
    let text = match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        _ => error.to_string(),
    };
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// What to do about an error.
fn cure(error: &io::Error, url: &Url) -> String {
    match (error.kind(), url.port()) {
        (io::ErrorKind::AddrInUse, Some(port)) => format!(
            "another process listens on port {port}; `ss -tlnp 'sport = :{port}'` shows which; stop it or choose another port"
        ),
        (io::ErrorKind::AddrInUse, None) => {
            "another process listens there; stop it or choose another path".into()
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            format!(
                "this machine has no address {}; listen on one of its own, or on 0.0.0.0 for all",
                url.host()
            )
        }
        (io::ErrorKind::PermissionDenied, Some(_)) => {
            "ports below 1024 need a privilege; choose a higher one".into()
        }
        _ => "choose another address".into(),
    }
}

/// The log lines by which operators see what listens where.
fn log_serving(port: Port, traffic: &str, listener: &Listener) {
    let address = listener.address();
    match port {
        Port::Client => {
            if listener.security.plain {
                let address = address.as_str();
                tracing::info!(
                    traffic,
                    address,
                    "serving client traffic insecurely; this is strongly discouraged!"
                );
            }
            if listener.security.tls.is_some() {
                tracing::info!(traffic, address, "serving client traffic securely");
            }
        }
        Port::Metrics => tracing::info!(address = listener.url.as_str(), "serving metrics"),
        Port::Peer => tracing::info!(address, "serving peer traffic"),
    }
}

#[cfg(test)]
mod tests;
