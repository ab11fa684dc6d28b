//! Real sockets of this machine. Nothing here waits for a time to pass: reads end with an answer or
//! with the end of the connection.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpStream};
use std::sync::Arc;

use http::{Request, Response};
use hyper::service::Service;

mod abuse;
mod revoked;

use super::*;
use crate::config::tests::config;
use crate::http::Site;
use crate::http::tests::{Fake, WELL};
use crate::metrics::Metrics;

/// Ports that are served until the end of a test.
struct Server {
    ports: Option<Ports>,
    listeners: Listeners,
    metrics: Arc<Metrics>,
    config: Config,
}

impl Server {
    /// Binds what `change` makes of the configuration; at first there is a client port.
    fn bind(change: impl FnOnce(&mut Config)) -> Result<Self, ListenError> {
        // Short, so that a test of it is over soon; long enough for the other tests' requests.
        Self::bind_with(change, |limits| limits.first_request = Duration::from_millis(100))
    }

    /// The same with other limits.
    fn bind_with(
        change: impl FnOnce(&mut Config),
        limit: impl FnOnce(&mut Limits),
    ) -> Result<Self, ListenError> {
        let mut config = config();
        config.listen_peer = vec![];
        config.listen_client = urls("http://127.0.0.1:0");
        change(&mut config);
        let listeners = Listeners::bind(&config)?;
        let lanes = Arc::new(Lanes::start(2).unwrap());
        let mut limits = Limits::new(&config);
        limit(&mut limits);
        let ports = Some(Ports::new(lanes, limits));
        let metrics = Arc::new(Metrics::new(&config));
        Ok(Server {
            ports,
            listeners,
            metrics,
            config,
        })
    }

    fn site(&self, port: Port) -> Site<Fake> {
        Site::new(port, WELL, Arc::clone(&self.metrics), &self.config)
    }

    /// Serves clients; answers where the first listener for each of gRPC and HTTP is.
    fn serve_clients(&mut self, connections_max: usize) -> [String; 2] {
        self.serve_clients_with(Refusing, connections_max)
    }

    fn serve_clients_with(&mut self, services: impl GrpcService, connections_max: usize) -> [String; 2] {
        let address = |listeners: &[Listener]| listeners.first().map_or(String::new(), Listener::address);
        let addresses = [&self.listeners.client, &self.listeners.client_http].map(|them| address(them));
        self.listeners.client_connections_max = connections_max;
        let (site, metrics) = (self.site(Port::Client), Arc::clone(&self.metrics));
        let ports = self.ports.as_ref().unwrap();
        ports.serve_clients(&mut self.listeners, services, site, metrics, &self.config);
        addresses
    }

    fn stop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(self.ports.take().unwrap().stop());
    }
}

/// Serves a client port with the default settings.
fn serve() -> (Server, String) {
    let mut server = Server::bind(|_| ()).unwrap();
    let [address, _] = server.serve_clients(10);
    (server, address)
}

/// gRPC services that refuse every call.
#[derive(Clone)]
struct Refusing;

impl Service<Request<RequestBody>> for Refusing {
    type Response = Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn call(&self, _: Request<RequestBody>) -> Self::Future {
        let refusal = tonic::Status::unavailable("refused");
        std::future::ready(Ok(refusal.into_http()))
    }
}

fn urls(text: &str) -> Vec<Url> {
    Url::parse_list(text).unwrap()
}

/// Sends a request with more headers, reads until the head of the answer is there.
fn ask(stream: &mut (impl Read + Write), target: &str, headers: &str) -> String {
    write!(stream, "GET {target} HTTP/1.1\r\nhost: h\r\n{headers}\r\n").unwrap();
    read_head(stream)
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut all);
    all
}

/// A request with its answer read to the last byte, so that another can follow.
fn get_livez(stream: &mut TcpStream) {
    assert!(ask(stream, "/livez", "").starts_with("HTTP/1.1 200"));
    let mut body = [0; 3];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"ok\n");
}

const GRPC: &str = "content-type: application/grpc\r\n";

/// Shown when one put has begun.
const STARTED: &str =
    "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1\n";

#[test]
fn one_port_tells_grpc_and_http_apart() {
    let (server, address) = serve();
    let mut stream = TcpStream::connect(address).unwrap();
    assert!(ask(&mut stream, "/etcdserverpb.KV/Put", GRPC).contains("grpc-status: 14"));
    let version = ask(&mut stream, "/version", "");
    assert!(version.starts_with("HTTP/1.1 200 OK") && version.contains("content-type: application/json"));
    assert!(server.metrics.encode().contains(STARTED));
}

#[test]
fn http_can_have_a_port_of_its_own() {
    let http = urls("http://127.0.0.1:0");
    let mut server = Server::bind(|config| {
        config.listen_client = urls("http://localhost:0");
        config.listen_client_http = http;
    })
    .unwrap();
    let [grpc, http] = server.serve_clients(10);
    let status =
        |address: &str, target, headers| ask(&mut TcpStream::connect(address).unwrap(), target, headers);
    assert!(status(&grpc, "/version", "").starts_with("HTTP/1.1 404"));
    assert!(status(&grpc, "/etcdserverpb.KV/Put", GRPC).contains("grpc-status: 14"));
    assert!(status(&http, "/version", "").starts_with("HTTP/1.1 200"));
    assert!(status(&http, "/etcdserverpb.KV/Put", GRPC).starts_with("HTTP/1.1 404"));
}

/// Posts JSON; answers the whole answer.
fn post(address: &str, target: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    String::from_utf8(read_to_end(stream)).unwrap()
}

#[test]
fn json_calls_are_answered_by_the_grpc_services_and_counted_with_them() {
    let (server, address) = serve();
    let answer = post(&address, "/v3/kv/put", "{\"key\":\"YQ==\"}");
    assert!(
        answer.ends_with("{\"code\":14,\"message\":\"refused\"}"),
        "{answer}"
    );
    assert!(answer.starts_with("HTTP/1.1 503"));
    assert!(server.metrics.encode().contains(STARTED));
}

#[test]
fn the_gateway_is_where_http_is_and_can_be_left_out() {
    let mut split = Server::bind(|config| {
        config.listen_client = urls("http://localhost:0");
        config.listen_client_http = urls("http://127.0.0.1:0");
    })
    .unwrap();
    let [grpc, http] = split.serve_clients(10);
    assert!(post(&grpc, "/v3/kv/put", "{}").starts_with("HTTP/1.1 404"));
    assert!(post(&http, "/v3/kv/put", "{}").starts_with("HTTP/1.1 503"));
    let mut without = Server::bind(|config| config.grpc_gateway = false).unwrap();
    let [address, _] = without.serve_clients(10);
    assert!(post(&address, "/v3/kv/put", "{}").ends_with("404 page not found\n"));
}

/// gRPC services that never answer.
#[derive(Clone)]
struct Silent;

impl Service<Request<RequestBody>> for Silent {
    type Response = Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Pending<Result<Self::Response, Self::Error>>;

    fn call(&self, _: Request<RequestBody>) -> Self::Future {
        std::future::pending()
    }
}

#[test]
fn a_websocket_keeps_its_place_until_the_server_stops() {
    let mut server = Server::bind(|_| ()).unwrap();
    // A share of the room is for one address: one connection.
    let [address, _] = server.serve_clients_with(Silent, 2);
    let mut socket = TcpStream::connect(&address).unwrap();
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = ask(&mut socket, "/v3/watch", upgrade);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    // Nobody else from here has a place, so the end of this one tells that the socket holds its own.
    let end = read_to_end(TcpStream::connect(&address).unwrap());
    assert!(end.is_empty());
    server.stop();
    read_to_end(socket);
}

#[test]
fn metrics_and_peers_have_ports_without_clients() {
    let mut server = Server::bind(|config| {
        config.listen_metrics = urls("http://127.0.0.1:0");
        config.listen_peer = urls("http://127.0.0.1:0");
    })
    .unwrap();
    let metrics_address = server.listeners.metrics[0].address();
    let peer_address = server.listeners.peer[0].address();
    let (metrics, peer) = (server.site(Port::Metrics), server.site(Port::Peer));
    let ports = server.ports.as_ref().unwrap();
    ports.serve_metrics(&mut server.listeners, metrics);
    ports.serve_peers(&mut server.listeners, &Edge::http(peer));
    let mut stream = TcpStream::connect(metrics_address).unwrap();
    assert!(ask(&mut stream, "/livez", "").starts_with("HTTP/1.1 200"));
    let mut stream = TcpStream::connect(peer_address).unwrap();
    assert!(ask(&mut stream, "/version", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_connection_without_a_request_is_closed() {
    let (_server, address) = serve();
    // Nothing; half a head; the beginning of HTTP/2 and no more.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for beginning in [&b""[..], b"GET /version HTTP/1.1\r\nhost:", preface] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(beginning).unwrap();
        let end = read_to_end(stream);
        assert!(!end.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn a_connection_with_a_request_stays() {
    let (_server, address) = serve();
    let mut stream = TcpStream::connect(&address).unwrap();
    get_livez(&mut stream);
    // Its end tells that the time for a first request has gone by.
    read_to_end(TcpStream::connect(&address).unwrap());
    get_livez(&mut stream);
}

#[test]
fn a_client_too_many_waits_for_another_to_leave() {
    let mut server = Server::bind(|_| ()).unwrap();
    let [address, _] = server.serve_clients(1);
    let mut first = TcpStream::connect(&address).unwrap();
    get_livez(&mut first);
    let mut second = TcpStream::connect(&address).unwrap();
    write!(second, "GET /version HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    // While it waits, the first goes on to be served; a second that was let in would be by now, too.
    for _ in 0..50 {
        get_livez(&mut first);
    }
    second.set_nonblocking(true).unwrap();
    assert!(second.read(&mut [0]).is_err(), "nobody answers yet");
    second.set_nonblocking(false).unwrap();
    drop(first);
    assert!(read_head(&mut second).starts_with("HTTP/1.1 200"));
}

#[test]
fn the_end_of_the_server_ends_idle_connections_and_gives_the_port_back() {
    let (mut server, address) = serve();
    let mut stream = TcpStream::connect(&address).unwrap();
    assert!(ask(&mut stream, "/version", "").starts_with("HTTP/1.1 200"));
    server.stop();
    read_to_end(stream);
    let again = urls(&format!("http://{address}"));
    assert!(Server::bind(|config| config.listen_client = again).is_ok());
}

#[test]
fn a_unix_socket_is_a_port_too() {
    let dir = std::env::temp_dir().join(format!("keelson-listen-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("client");
    let url = urls(&format!("unix://{}", path.display()));
    // What a killed server leaves behind is no obstacle.
    drop(UnixListener::bind(&path).unwrap());
    let mut server = Server::bind(|config| config.listen_client = url.clone()).unwrap();
    server.serve_clients(10);
    let mut stream = UnixStream::connect(&path).unwrap();
    assert!(ask(&mut stream, "/version", "").starts_with("HTTP/1.1 200"));
    let refusal = Server::bind(|config| config.listen_client = url)
        .err()
        .unwrap()
        .to_string();
    assert!(refusal.contains("bind: address already in use"), "{refusal}");
    server.stop();
    assert!(!path.exists());
    std::fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_port_in_use_is_named_with_its_flag_and_a_cure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let url = urls(&format!("http://localhost:{port}"));
    let refusal = Server::bind(|config| config.listen_metrics = url)
        .err()
        .unwrap()
        .to_string();
    let begin = format!("listen tcp localhost:{port}: bind: address already in use (--listen-metrics-urls: ");
    assert!(refusal.starts_with(&begin), "{refusal}");
    assert!(refusal.contains(&format!("ss -tlnp 'sport = :{port}'")));
}

#[test]
fn what_cannot_be_listened_on() {
    let refusal = |change: fn(&mut Config)| Server::bind(change).err().unwrap().to_string();
    let clients = refusal(|config| config.listen_client = urls("https://127.0.0.1:0"));
    assert_eq!(
        clients,
        "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:0 with HTTPS scheme"
    );
    let metrics = refusal(|config| config.listen_metrics = urls("https://127.0.0.1:0"));
    assert_eq!(
        metrics,
        "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url https://127.0.0.1:0"
    );
    let peers = refusal(|config| config.listen_peer = urls("https://127.0.0.1:0"));
    assert!(
        peers.starts_with("TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url")
    );
    let same = refusal(|config| config.listen_client_http = config.listen_client.clone());
    assert_eq!(
        same,
        "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:0"
    );
    let foreign = refusal(|config| config.listen_client = urls("http://203.0.113.7:0"));
    assert!(
        foreign.contains("bind: cannot assign requested address (--listen-client-urls: "),
        "{foreign}"
    );
}

#[test]
fn the_wildcard_listens_on_both_families() {
    let mut server = Server::bind(|config| config.listen_client = urls("http://0.0.0.0:0")).unwrap();
    let [address, _] = server.serve_clients(10);
    let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(ask(&mut stream, "/version", "").starts_with("HTTP/1.1 200"));
    // A machine may be without IPv6.
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        assert!(ask(&mut stream, "/version", "").starts_with("HTTP/1.1 200"));
    }
}

/// A server with a certificate of its own that `change` has asked for, and its folder.
fn self_signed(change: impl FnOnce(&mut Config)) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_owned();
    let server = Server::bind(|config| {
        config.data_dir = data_dir;
        config.client_tls.auto = true;
        change(config);
        sign_own(config).unwrap();
    });
    (server.unwrap(), dir)
}

/// The head of the answer to a request over TLS, and what the server chose to speak.
fn ask_securely(address: &str, alpn: tls::Alpn, target: &'static str) -> (String, Option<Vec<u8>>) {
    let settings = tls::Settings {
        trust: tls::Trust::Anyone,
        ..Default::default()
    };
    let client = tls::Client::new(&settings, alpn).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut stream = client.connect("localhost", socket).await.unwrap();
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let request = format!("GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        stream.read_to_string(&mut head).await.unwrap();
        (head, chosen)
    })
}

#[test]
fn a_port_can_be_secure_and_plain_and_names_are_checked_on_the_plain_side_only() {
    // A port that was free a moment ago; both URLs have to name it.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (mut server, _dir) = self_signed(|config| {
        config.listen_client = urls(&format!("http://127.0.0.1:{port},https://127.0.0.1:{port}"));
        config.host_whitelist = crate::config::NameSet::parse("other");
    });
    assert_eq!(server.listeners.client.len(), 1);
    let [address, _] = server.serve_clients(10);
    let mut plain = TcpStream::connect(&address).unwrap();
    assert!(ask(&mut plain, "/version", "").starts_with("HTTP/1.1 421"));
    let (answer, chosen) = ask_securely(&address, &[b"http/1.1"], "/version");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(chosen.as_deref(), Some(&b"http/1.1"[..]));
    let (_, chosen) = ask_securely(&address, tls::HTTP, "/version");
    assert_eq!(chosen.as_deref(), Some(&b"h2"[..]));
}

#[test]
fn metrics_are_secured_like_clients() {
    let (mut server, _dir) = self_signed(|config| config.listen_metrics = urls("https://127.0.0.1:0"));
    let address = server.listeners.metrics[0].address();
    let site = server.site(Port::Metrics);
    server
        .ports
        .as_ref()
        .unwrap()
        .serve_metrics(&mut server.listeners, site);
    let (answer, _) = ask_securely(&address, tls::UNSAID, "/livez");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // A plain request is none here.
    let mut plain = TcpStream::connect(&address).unwrap();
    assert!(!ask(&mut plain, "/livez", "").starts_with("HTTP/1.1 200"));
}
