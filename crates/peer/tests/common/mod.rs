//! Members that are nothing but a transport behind a real server on loopback, and what they hear.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(
    clippy::disallowed_methods,
    reason = "what a test hears may wait without a bound"
)]

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::{Disk, File, SimDisk};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use peer::{Client, Config, Incoming, Metrics, PeerMetrics, Refused, SnapshotOutcome, Transport};
use proto::raftpb::{Message, MessageType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};
use types::{ClusterId, MemberId};

pub const CLUSTER: ClusterId = ClusterId(0xc1);
pub const ONE: MemberId = MemberId(0x11);
pub const TWO: MemberId = MemberId(0x22);
/// For what must happen; only a failed test waits that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a member is told.
#[derive(Debug, PartialEq)]
pub enum Event {
    Message(Message),
    Snapshot(Message, PathBuf),
    Unreachable(MemberId),
    SnapshotSent(MemberId, bool),
    Removed,
    Lost(MemberId),
    /// The first stream from a peer is up.
    Connected(Option<MemberId>),
    /// The last stream from a peer has ended.
    Disconnected(Option<MemberId>),
    /// Its server answered a request for that path.
    Served(String, StatusCode),
    /// A file was removed from its disk.
    FileRemoved(PathBuf),
}

struct Recorder {
    events: UnboundedSender<Event>,
    removed: Mutex<BTreeSet<MemberId>>,
}

impl Recorder {
    fn record(&self, event: Event) {
        // Who no longer listens needs to hear nothing.
        let _ = self.events.send(event);
    }
}

impl Incoming for Recorder {
    fn message(&self, message: Message) -> Result<(), Refused> {
        self.record(Event::Message(message));
        Ok(())
    }

    fn snapshot_path(&self, message: &Message) -> PathBuf {
        PathBuf::from(format!("/{:016x}.snap.db", message.index))
    }

    fn snapshot_received(&self, message: Message, database: PathBuf) -> Result<(), Refused> {
        self.record(Event::Snapshot(message, database));
        Ok(())
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.removed.lock().contains(&id)
    }

    fn unreachable(&self, id: MemberId) {
        self.record(Event::Unreachable(id));
    }

    fn snapshot_sent(&self, to: MemberId, arrived: bool) {
        self.record(Event::SnapshotSent(to, arrived));
    }

    fn removed_from_cluster(&self) {
        self.record(Event::Removed);
    }

    fn peer_lost(&self, id: MemberId) {
        self.record(Event::Lost(id));
    }
}

struct Counters(UnboundedSender<Event>);

impl Metrics for Counters {
    fn peer(&self, id: Option<MemberId>) -> Arc<dyn PeerMetrics> {
        Arc::new(PeerCounters(id, self.0.clone()))
    }
}

struct PeerCounters(Option<MemberId>, UnboundedSender<Event>);

impl PeerMetrics for PeerCounters {
    fn sent(&self, _: usize) {}
    fn received(&self, _: usize) {}
    fn send_failed(&self) {}
    fn receive_failed(&self) {}
    fn connected(&self) {
        let _ = self.1.send(Event::Connected(self.0));
    }
    fn disconnected(&self) {
        let _ = self.1.send(Event::Disconnected(self.0));
    }
    fn round_trip(&self, _: Duration) {}
    fn snapshot_send_began(&self) {}
    fn snapshot_send_ended(&self, _: SnapshotOutcome) {}
    fn snapshot_receive_began(&self) {}
    fn snapshot_receive_ended(&self, _: SnapshotOutcome) {}
    fn snapshot_request_failed(&self) {}
    fn database_synced(&self, _: Duration) {}
    fn database_saved(&self, _: Duration) {}
}

/// A disk that tells when a file is removed.
struct WatchedDisk(SimDisk, UnboundedSender<Event>);

impl Disk for WatchedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.open(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)?;
        let _ = self.1.send(Event::FileRemoved(path.to_owned()));
        Ok(())
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

/// Both sides of TLS, for a member that has it.
#[derive(Clone)]
pub struct Tls {
    pub client: tls::Client,
    pub server: tls::Server,
}

/// One member.
pub struct Node {
    pub id: MemberId,
    pub url: String,
    pub address: SocketAddr,
    pub transport: Arc<Transport>,
    pub disk: SimDisk,
    events: UnboundedReceiver<Event>,
    recorder: Arc<Recorder>,
    server: JoinHandle<()>,
    /// A second handle of the server's, so that the port can outlive the server.
    listener: Option<std::net::TcpListener>,
}

impl Node {
    pub async fn start(id: MemberId) -> Self {
        Node::start_with(id, None).await
    }

    pub async fn start_with(id: MemberId, tls: Option<Tls>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Node::start_at(listener, id, CLUSTER, tls)
    }

    pub fn start_at(
        listener: std::net::TcpListener,
        id: MemberId,
        cluster_id: ClusterId,
        tls: Option<Tls>,
    ) -> Self {
        listener.set_nonblocking(true).unwrap();
        let another = listener.try_clone().unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let (sender, events) = unbounded_channel();
        let recorder = Arc::new(Recorder {
            events: sender.clone(),
            removed: Mutex::default(),
        });
        let disk = SimDisk::new();
        let config = Config {
            id,
            cluster_id,
            peer_urls: vec![url.clone()],
            version: "3.7.1",
            tls: tls.as_ref().map(|tls| tls.client.clone()),
            dial_timeout: Duration::from_secs(5),
            dials_from: None,
            read_timeout: peer::STREAM_TIMEOUT,
            write_timeout: peer::STREAM_TIMEOUT,
            disk: Arc::new(WatchedDisk(disk.clone(), sender.clone())),
        };
        let metrics = Arc::new(Counters(sender));
        let transport = Transport::new(
            config,
            Handle::current(),
            Arc::clone(&recorder) as Arc<dyn Incoming>,
            metrics,
        );
        let acceptor = tls.map(|tls| tls.server);
        let server = listen(listener, acceptor, Arc::clone(&transport), Arc::clone(&recorder));
        Node {
            id,
            url,
            address,
            transport,
            disk,
            events,
            recorder,
            server: tokio::spawn(server),
            listener: Some(another),
        }
    }

    pub fn add(&self, other: &Node) {
        self.transport
            .add_peer(other.id, std::slice::from_ref(&other.url));
    }

    pub fn consider_removed(&self, id: MemberId) {
        self.recorder.removed.lock().insert(id);
    }

    /// Ends the server with all its connections, as the end of a process does.
    pub async fn hang_up(&mut self) {
        drop(self.fall_silent().await);
    }

    /// As [`hang_up`](Self::hang_up), but somebody still listens.
    pub async fn fall_silent(&mut self) -> TcpListener {
        self.transport.stop();
        self.server.abort();
        let _ = (&mut self.server).await;
        TcpListener::from_std(self.listener.take().unwrap()).unwrap()
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }

    /// The next event that is of interest.
    pub async fn hear<T>(&mut self, mut of_interest: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = of_interest(self.event().await) {
                return found;
            }
        }
    }

    pub async fn hear_that(&mut self, expected: Event) {
        self.hear(|event| (event == expected).then_some(())).await;
    }

    pub async fn message(&mut self) -> Message {
        self.hear(|event| match event {
            Event::Message(message) => Some(message),
            _ => None,
        })
        .await
    }

    /// What it was told that nobody has heard yet.
    pub fn told(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Waits until that many streams were opened to this member.
    pub async fn streams(&mut self, mut count: usize) {
        while count > 0 {
            self.hear(|event| is_stream(&event).then_some(())).await;
            count -= 1;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn is_stream(event: &Event) -> bool {
    matches!(event, Event::Served(path, StatusCode::OK) if path.starts_with("/raft/stream/"))
}

async fn listen(
    listener: TcpListener,
    tls: Option<tls::Server>,
    transport: Arc<Transport>,
    recorder: Arc<Recorder>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (tls, transport, recorder) = (tls.clone(), Arc::clone(&transport), Arc::clone(&recorder));
        connections.spawn(async move {
            match tls {
                None => answer(socket, transport, recorder).await,
                Some(tls) => {
                    if let Ok((socket, _)) = tls.accept(socket).await {
                        answer(socket, transport, recorder).await;
                    }
                }
            }
        });
    }
}

async fn answer(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    transport: Arc<Transport>,
    recorder: Arc<Recorder>,
) {
    let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
        let path = request.uri().path().to_owned();
        let response = transport.serve(request).await;
        recorder.record(Event::Served(path, response.status()));
        Ok::<_, std::convert::Infallible>(response)
    });
    // Connections break off in these tests.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

/// What must come soon.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it happens within a minute")
}

pub fn message(kind: MessageType, from: MemberId, to: MemberId, term: u64) -> Message {
    Message {
        r#type: kind as i32,
        from: from.0,
        to: to.0,
        term,
        ..Default::default()
    }
}

/// The request that a member of that id makes to [`TWO`] or any other.
pub fn request<B>(method: &str, path: &str, from: MemberId, to: MemberId, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in [
        ("x-server-from", from.to_string()),
        ("x-server-version", "3.7.1".to_owned()),
        ("x-min-cluster-version", "3.0.0".to_owned()),
        ("x-etcd-cluster-id", CLUSTER.to_string()),
        ("x-raft-to", to.to_string()),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::try_from(value).unwrap());
    }
    request
}

/// Sends a small request.
pub async fn call(url: &str, request: Request<Bytes>) -> Response<Bytes> {
    let client = Client::new(None, PATIENCE);
    client.call(url, request, PATIENCE, 1 << 20).await.unwrap()
}
