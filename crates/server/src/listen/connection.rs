//! From an accepted socket to its end.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use calm::{Calm, Chatter, Debts, Overdue};
use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustix::net::RecvFlags;
use tls::{TlsStream, Validity};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::edge::{Edge, EdgeBody, GrpcService, NoGrpc, Reply};
use super::lanes::Lanes;
use super::secure::{Secured, Security};
use super::shares::{Place, Shares};
use super::{Bound, Listener, Listeners, log_serving};
use crate::config::Config;
use crate::http::{Port, Site, Vitals};
use crate::json::Gateway;
use crate::metrics::{Metered, Metrics};

/// What connections are held to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Time for the first request; a client that has none yet comes back when it has.
    pub first_request: Duration,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time for the head of a request, and between requests of an HTTP/1 connection.
    pub request_head: Duration,
    /// Time that requests have to end when the server stops.
    pub drain: Duration,
    /// Time between looks at the list of revocations for clients that are connected.
    pub revocations: Duration,
    /// Time for a client to send the rest of a request, or to take an answer; large answers have more.
    pub debt: Duration,
    /// HTTP/2 streams of one connection.
    pub streams_max: u32,
    /// HTTP/2 frames that bring nothing.
    pub chatter: Chatter,
    /// Pings on HTTP/2 connections.
    pub keepalive: crate::config::Keepalive,
}

/// HTTP/2 streams of one connection where `--max-concurrent-streams` sets no limit. An idle one costs some
/// kilobytes; clients wait for one to end before they open another.
const STREAMS_MAX: u32 = 16_384;

/// Where a half-open connection is told to go before it is cut off: the last part of its time.
const FAREWELL: u32 = 10;

/// Bytes of a request's headers. A token is the longest of them.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Streams of a connection that may be reset before they were looked at (rapid reset, CVE-2023-44487). A client whose
/// calls end within the time of one packet has a few.
const UNSEEN_RESETS_MAX: usize = 20;

/// Streams of a connection that may be refused because there are too many or they break the protocol.
const REFUSALS_MAX: usize = 1024;

/// Bytes that may be under way to the server on one stream, and on one connection: a few of the
/// largest requests, so that a lone stream fills a fast network.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Connections to the metrics port. Scrapers and probes are few.
const METRICS_CONNECTIONS_MAX: usize = 64;

/// Connections to the peer port: two streams, a few posts and a probe of every member, twice over while
/// old ones are given up, in a cluster larger than any that makes sense.
const PEER_CONNECTIONS_MAX: usize = 512;

/// How long accepting pauses when the system has no socket to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Limits {
    /// The limits of a configuration.
    pub fn new(config: &Config) -> Self {
        Limits {
            first_request: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(5 * 60),
            drain: Duration::from_secs(1),
            revocations: Duration::from_secs(20),
            debt: Duration::from_secs(30),
            streams_max: match config.max_concurrent_streams {
                u32::MAX => STREAMS_MAX,
                streams => streams,
            },
            chatter: Chatter::usual(config.keepalive.ping_pause),
            keepalive: config.keepalive,
        }
    }

    fn protocol(&self) -> Builder<TokioExecutor> {
        // How long an unanswered ping is waited for when a connection may hang for ever.
        const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.request_head);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams_max)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
            .max_local_error_reset_streams(REFUSALS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(self.keepalive.interval)
            .keep_alive_timeout(self.keepalive.timeout.unwrap_or(FOR_EVER));
        builder
    }
}

/// Ports that are being served.
pub struct Ports {
    lanes: Arc<Lanes>,
    limits: Arc<Limits>,
    protocol: Arc<Builder<TokioExecutor>>,
    /// Turns true when the server stops; every connection holds a receiver while it lasts.
    stopping: watch::Sender<bool>,
}

impl Ports {
    /// Ports whose connections live on `lanes`; none is served yet.
    pub fn new(lanes: Arc<Lanes>, limits: Limits) -> Self {
        let protocol = Arc::new(limits.protocol());
        Ports {
            lanes,
            limits: Arc::new(limits),
            protocol,
            stopping: watch::channel(false).0,
        }
    }

    /// Serves metrics and health. Needs no leader.
    pub fn serve_metrics<V: Vitals>(&self, listeners: &mut Listeners, site: Site<V>) {
        let edge = Edge::http(site);
        self.serve_all(
            Port::Metrics,
            take(&mut listeners.metrics),
            &edge,
            METRICS_CONNECTIONS_MAX,
        );
    }

    /// Serves the other members.
    pub fn serve_peers<V: Vitals>(&self, listeners: &mut Listeners, edge: &Edge<NoGrpc, V>) {
        self.serve_all(Port::Peer, take(&mut listeners.peer), edge, PEER_CONNECTIONS_MAX);
    }

    fn serve_all<V: Vitals>(
        &self,
        port: Port,
        listeners: Vec<Listener>,
        edge: &Edge<NoGrpc, V>,
        connections_max: usize,
    ) {
        let room = Room::for_connections(connections_max);
        for listener in listeners {
            self.serve(port, listener, edge.clone(), room.clone());
        }
    }

    /// Serves clients: gRPC and HTTP on one port, or each on ports of its own.
    pub fn serve_clients<G: GrpcService, V: Vitals>(
        &self,
        listeners: &mut Listeners,
        services: G,
        site: Site<V>,
        metrics: Arc<Metrics>,
        config: &Config,
    ) {
        let room = Room::for_connections(listeners.client_connections_max.min(Semaphore::MAX_PERMITS));
        let beside = listeners.client_http.is_empty().then(|| site.clone());
        let gateway = config
            .grpc_gateway
            .then(|| Gateway::new(Metered::new(services.clone(), Arc::clone(&metrics)), config));
        tracing::info!("ready to serve client requests");
        for listener in take(&mut listeners.client) {
            let edge = Edge::grpc(services.clone(), beside.clone(), Arc::clone(&metrics));
            let edge = edge.with(gateway.clone());
            self.serve(Port::Client, listener, edge, room.clone());
        }
        for listener in take(&mut listeners.client_http) {
            let edge = Edge::gateway(gateway.clone(), site.clone());
            self.serve(Port::Client, listener, edge, room.clone());
        }
    }

    fn serve<G: GrpcService, V: Vitals>(&self, port: Port, listener: Listener, edge: Edge<G, V>, room: Room) {
        log_serving(port, edge.traffic(), &listener);
        let door = Door {
            lanes: Arc::clone(&self.lanes),
            limits: Arc::clone(&self.limits),
            protocol: Arc::clone(&self.protocol),
            stopping: self.stopping.subscribe(),
            port,
            security: listener.security.clone(),
            edge,
            room,
        };
        self.lanes.spawn(door.open(listener));
    }

    /// Accepts no more connections, lets requests end, and cuts off those that take too long.
    pub async fn stop(self) {
        self.stopping.send_replace(true);
        if timeout(self.limits.drain, self.stopping.closed()).await.is_err() {
            tracing::debug!("some client connections did not end in time");
        }
    }
}

/// The accept loop of one listener.
struct Door<G, V> {
    lanes: Arc<Lanes>,
    limits: Arc<Limits>,
    protocol: Arc<Builder<TokioExecutor>>,
    stopping: watch::Receiver<bool>,
    port: Port,
    security: Security,
    edge: Edge<G, V>,
    room: Room,
}

/// Room for connections.
#[derive(Clone)]
struct Room {
    /// A permit for each connection; accepting waits for one.
    permits: Arc<Semaphore>,
    shares: Shares,
}

impl Room {
    fn for_connections(max: usize) -> Self {
        Room {
            permits: Arc::new(Semaphore::new(max)),
            shares: Shares::of(max),
        }
    }
}

/// What a connection takes up. The place is given back first: who gets the permit may come from the same address.
struct Seat {
    /// Unix sockets have no addresses to share between.
    _place: Option<Place>,
    _permit: OwnedSemaphorePermit,
}

impl<G: GrpcService, V: Vitals> Door<G, V> {
    async fn open(mut self, listener: Listener) {
        let url = listener.url().clone();
        let tls = self.security.tls.as_ref().map(|tls| tls.server.clone());
        let every = self.limits.revocations;
        let reading = async {
            if let Some(tls) = tls {
                tls.keep_reading(every).await;
            }
            pending().await
        };
        let accepting = async {
            match listener.socket {
                Bound::Tcp(listener) => self.accept_tcp(listener).await,
                // The socket's file goes when this arm ends.
                Bound::Unix(socket) => self.accept_unix(socket.listener.try_clone()?).await,
            }
        };
        let ended = tokio::select! {
            ended = accepting => ended,
            never = reading => never,
        };
        if let Err(error) = ended {
            tracing::error!(url = url.as_str(), error = %error, "stopped listening");
        }
    }

    async fn accept_tcp(&mut self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        while let Some(((stream, from), permit)) = self.next(|| listener.accept()).await {
            // The kernel answers for one that is dropped.
            let Some(place) = self.room.shares.take(from.ip()) else {
                tracing::debug!("remote-addr" = %from, "dropped a connection: its address has too many");
                continue;
            };
            let seat = Seat {
                _permit: permit,
                _place: Some(place),
            };
            self.hand_over(seat, stream.into_std(), Some(from), TcpStream::from_std);
        }
        Ok(())
    }

    async fn accept_unix(&mut self, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
        let listener = UnixListener::from_std(listener)?;
        while let Some(((stream, _), permit)) = self.next(|| listener.accept()).await {
            let seat = Seat {
                _permit: permit,
                _place: None,
            };
            self.hand_over(seat, stream.into_std(), None, UnixStream::from_std);
        }
        Ok(())
    }

    /// The next connection, as soon as there is room for one; none when the server stops.
    async fn next<T, F>(&mut self, accept: impl Fn() -> F) -> Option<(T, OwnedSemaphorePermit)>
    where
        F: Future<Output = io::Result<T>>,
    {
        loop {
            let accepted = async {
                let permit = Arc::clone(&self.room.permits).acquire_owned().await.ok()?;
                Some((accept().await, permit))
            };
            let (result, permit) = tokio::select! {
                accepted = accepted => accepted?,
                _ = self.stopping.changed() => return None,
            };
            match result {
                Ok(connection) => return Some((connection, permit)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(error = %error, "failed to accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a connection to the lane whose turn it is; a socket belongs to the lane that opens it.
    fn hand_over<T, S>(
        &self,
        seat: Seat,
        accepted: io::Result<T>,
        from: Option<SocketAddr>,
        open: fn(T) -> io::Result<S>,
    ) where
        T: Send + 'static,
        S: Peek,
    {
        let (limits, protocol) = (Arc::clone(&self.limits), Arc::clone(&self.protocol));
        let (edge, stopping) = (self.edge.clone(), self.stopping.clone());
        let (port, security) = (self.port, self.security.clone());
        self.lanes.spawn(async move {
            let mut stay = Stay {
                _seat: Arc::new(seat),
                stopping,
                validity: None,
            };
            let socket = match accepted.and_then(open) {
                Ok(socket) => socket,
                Err(error) => return tracing::warn!(error = %error, "failed to take over a connection"),
            };
            let address = from.map(|from| ClientAddress(from.ip()));
            let client = |tls| Client { address, tls };
            let Some(tls) = security.tls else {
                return attend(socket, client(None), edge, &protocol, &limits, stay).await;
            };
            let begin = async {
                match security.plain && !begins_tls(&socket).await? {
                    true => Ok(Begun::Plain(socket)),
                    false => shake_hands(&tls, socket, from).await,
                }
            };
            match timeout(limits.handshake, begin).await {
                Ok(Ok(Begun::Plain(socket))) => {
                    attend(socket, client(None), edge, &protocol, &limits, stay).await;
                }
                Ok(Ok(Begun::Secured(socket, shown))) => {
                    stay.validity = Some(tls.server.validity(&socket));
                    attend(socket, client(Some(shown)), edge, &protocol, &limits, stay).await;
                }
                Ok(Err(error)) => log_rejection(port, from, &error),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }
}

/// Where a connection has come from, as its requests' extensions tell. One by a socket of the file system has no address.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub IpAddr);

/// What is known of who is at the other end.
struct Client {
    address: Option<ClientAddress>,
    tls: Option<TlsClient>,
}

/// What a connection holds while it lasts, under whichever protocol: its place among those there may be, the server
/// that waits for it when it stops, and what its client has shown.
#[derive(Clone)]
pub struct Stay {
    _seat: Arc<Seat>,
    stopping: watch::Receiver<bool>,
    validity: Option<Validity>,
}

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The server stops.
    Stop,
    /// The certificate that was shown is revoked by now.
    Revoked,
}

impl Stay {
    /// Waits until the connection must end.
    pub async fn over(&mut self) -> Departure {
        let revoked = async {
            match &mut self.validity {
                Some(validity) => validity.end().await,
                None => pending().await,
            }
        };
        tokio::select! {
            // A server that is gone has stopped too.
            _ = self.stopping.changed() => Departure::Stop,
            () = revoked => Departure::Revoked,
        }
    }
}

/// A connection that has come in by TLS, as its requests' extensions tell. Others have none.
#[derive(Clone, Debug)]
pub struct TlsClient {
    /// The common name of the certificate that was shown and verified, if one was and it has a name.
    pub common_name: Option<Arc<str>>,
}

/// A connection on which HTTP can begin.
enum Begun<S> {
    Plain(S),
    Secured(Box<TlsStream<S>>, TlsClient),
}

async fn shake_hands<S: Peek>(tls: &Secured, socket: S, from: Option<SocketAddr>) -> io::Result<Begun<S>> {
    let (stream, shown) = tls.server.accept(socket).await?;
    if let (true, Some(from)) = (tls.checks_address, from) {
        let checked = tls::check_address(&shown, from.ip()).await;
        checked.map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
    }
    let common_name = shown.common_name().map(Arc::from);
    Ok(Begun::Secured(Box::new(stream), TlsClient { common_name }))
}

/// Whether what comes first is a TLS record with a handshake, which no HTTP begins with.
async fn begins_tls(socket: &impl Peek) -> io::Result<bool> {
    const HANDSHAKE: u8 = 22;
    Ok(socket.peek_byte().await? == Some(HANDSHAKE))
}

/// A socket whose first byte can be looked at.
trait Peek: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {
    /// The first byte; none if there will be none.
    fn peek_byte(&self) -> impl Future<Output = io::Result<Option<u8>>> + Send;
}

impl Peek for TcpStream {
    async fn peek_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.peek(&mut byte).await? == 1).then_some(byte[0]))
    }
}

impl Peek for UnixStream {
    async fn peek_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let look = || Ok(rustix::net::recv(self, &mut byte[..], RecvFlags::PEEK)?.0);
        let count = self.async_io(Interest::READABLE, look).await?;
        Ok((count == 1).then_some(byte[0]))
    }
}

/// Logs that a client was not let in, in the words that scripts look for. Who goes away without a word is of no
/// interest: port scanners and load balancers do.
fn log_rejection(port: Port, from: Option<SocketAddr>, error: &io::Error) {
    let from = from.map_or_else(|| "@".to_owned(), |from| from.to_string());
    let text = tls::describe(error);
    match (error.kind(), port) {
        (io::ErrorKind::UnexpectedEof, Port::Peer) => {
            tracing::debug!(
                "remote-addr" = from,
                error = text,
                "rejected connection on peer endpoint"
            );
        }
        (io::ErrorKind::UnexpectedEof, _) => {
            tracing::debug!(
                "remote-addr" = from,
                error = text,
                "rejected connection on client endpoint"
            );
        }
        (_, Port::Peer) => {
            tracing::warn!(
                "remote-addr" = from,
                error = text,
                "rejected connection on peer endpoint"
            );
        }
        (_, _) => tracing::warn!(
            "remote-addr" = from,
            error = text,
            "rejected connection on client endpoint"
        ),
    }
}

fn log_revoked(address: Option<ClientAddress>) {
    let from = address.map_or_else(|| "@".to_owned(), |address| address.0.to_string());
    tracing::info!(
        "remote-addr" = from,
        "closed a connection: its certificate is revoked"
    );
}

/// Serves one connection to its end.
async fn attend<S, G: GrpcService, V: Vitals>(
    socket: S,
    client: Client,
    edge: Edge<G, V>,
    protocol: &Builder<TokioExecutor>,
    limits: &Limits,
    mut stay: Stay,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let address = client.address;
    let asked = Arc::new(AtomicBool::new(false));
    let (debts, overdue) = (Debts::new(limits.debt), Overdue::default());
    let socket = Calm::new(socket, limits.chatter, debts.clone(), Arc::clone(&overdue));
    let service = Asked {
        edge: edge.on(&debts),
        client,
        asked: Arc::clone(&asked),
        stay: stay.clone(),
    };
    let connection = protocol.serve_connection_with_upgrades(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let farewell = limits.first_request / FAREWELL;
    let silent = async {
        sleep(limits.first_request - farewell).await;
        if asked.load(Relaxed) {
            pending::<()>().await;
        }
    };
    let patience = tokio::select! {
        // How a connection ends is between client and network.
        _ = connection.as_mut() => return,
        departure = stay.over() => match departure {
            Departure::Stop => limits.drain,
            // It is cut as it is: an answer under way is one too many.
            // At once: whatever is under way is for somebody who may not have it.
            Departure::Revoked => return log_revoked(address),
        },
        () = silent => farewell,
        () = debts.overdue() => {
            overdue.store(true, Relaxed);
            // It sees that now. What it still has to say then fails.
            let _ = timeout(farewell, connection).await;
            return;
        }
    };
    connection.as_mut().graceful_shutdown();
    let _ = timeout(patience, connection).await;
}

/// An edge that notices the first request, and tells each who sends it.
struct Asked<G, V> {
    edge: Edge<G, V>,
    client: Client,
    asked: Arc<AtomicBool>,
    stay: Stay,
}

impl<G: GrpcService, V: Vitals> Service<Request<Incoming>> for Asked<G, V> {
    type Response = Response<EdgeBody>;
    type Error = Infallible;
    type Future = Reply<G::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.asked.store(true, Relaxed);
        let extensions = request.extensions_mut();
        if let Some(address) = self.client.address {
            extensions.insert(address);
        }
        if let Some(tls) = &self.client.tls {
            extensions.insert(tls.clone());
        }
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(self.stay.clone());
        }
        self.edge.answer(request)
    }
}
