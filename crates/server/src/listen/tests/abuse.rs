//! Rude clients, byte by byte: each is shown the door with the right reason, by every port, while another client of
//! that port is served.

use std::future::Future;
use std::pin::Pin;

use http_body_util::BodyExt;

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Idle frames of a connection in these tests, which do not wait for more.
const CHATTER: Chatter = Chatter {
    burst: 100,
    per_sec: 0,
    ping_pause: None,
};

/// Time for a debt: the tests wait for it to end, and others must not need it.
const DEBT: Duration = Duration::from_secs(1);

/// A server with every kind of port, and where these are.
fn every_port() -> (Server, [String; 4]) {
    every_port_with(|_| ())
}

fn every_port_with(change: impl FnOnce(&mut Config)) -> (Server, [String; 4]) {
    let limit = |limits: &mut Limits| {
        limits.chatter = CHATTER;
        limits.debt = DEBT;
    };
    let mut server = Server::bind_with(
        |config| {
            let any = || urls("http://localhost:0");
            (config.listen_client_http, config.listen_metrics) = (any(), any());
            config.listen_peer = any();
            change(config);
        },
        limit,
    )
    .unwrap();
    let ports = serve(&mut server);
    (server, ports)
}

/// Serves all ports: for clients, for HTTP clients, for metrics, for members.
fn serve(server: &mut Server) -> [String; 4] {
    let [metrics_site, peer_site] = [server.site(Port::Metrics), server.site(Port::Peer)];
    let metrics = server.listeners.metrics[0].address();
    let peer = server.listeners.peer[0].address();
    let [client, http] = server.serve_clients_with(Reading, 100);
    let ports = server.ports.as_ref().unwrap();
    ports.serve_metrics(&mut server.listeners, metrics_site);
    ports.serve_peers(&mut server.listeners, &Edge::http(peer_site));
    [client, http, metrics, peer]
}

/// gRPC services that read the whole request and refuse it.
#[derive(Clone)]
struct Reading;

impl Service<Request<RequestBody>> for Reading {
    type Response = Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<RequestBody>) -> Self::Future {
        Box::pin(async move {
            let refusal = match request.into_body().collect().await {
                Ok(_) => tonic::Status::unavailable("refused"),
                Err(_) => tonic::Status::cancelled("broken off"),
            };
            Ok(refusal.into_http())
        })
    }
}

/// A client of HTTP/2 that sends what it likes.
struct Rude(TcpStream);

impl Rude {
    fn connect(address: &str) -> Self {
        Self::with_settings(address, &[])
    }

    fn with_settings(address: &str, settings: &[u8]) -> Self {
        let mut rude = Rude(TcpStream::connect(address).unwrap());
        rude.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        rude.send(&frame(SETTINGS, 0, 0, settings));
        rude
    }

    /// Sends as much as the server still takes.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// The next frame: its kind, its stream and what is in it; none at the end.
    fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// Reads to the end of the connection; the reason that was given for it.
    fn reason(mut self) -> Option<u32> {
        let mut reason = None;
        while let Some((kind, _, payload)) = self.next() {
            if kind == GO_AWAY {
                reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        reason
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The header block of a request: a GET of a path, or a POST of a gRPC method.
fn block(path: &str) -> Vec<u8> {
    let mut block = vec![if path == PUT { 0x83 } else { 0x82 }, 0x86];
    // Literals without indexing, of names in the static table: path, authority, content type.
    let kind = if path == PUT {
        "application/grpc"
    } else {
        "text/plain"
    };
    for (name, value) in [(&[0x04][..], path), (&[0x01], "h"), (&[0x0f, 0x10], kind)] {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block
}

const PUT: &str = "/etcdserverpb.KV/Put";

fn request(stream: u32, flags: u8, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(path))
}

/// Lets a client loose on every port: it must be told to be calm, while another is served all along.
fn must_be_calmed(abuse: impl Fn(&mut Rude)) {
    let (_server, ports) = every_port();
    for address in &ports {
        let mut witness = TcpStream::connect(address).unwrap();
        let mut rude = Rude::connect(address);
        abuse(&mut rude);
        let served = ask(&mut witness, "/nothing-here", "");
        assert!(served.starts_with("HTTP/1.1 404"), "{address}: {served}");
        assert_eq!(rude.reason(), Some(ENHANCE_YOUR_CALM), "{address} of {ports:?}");
    }
}

#[test]
fn streams_that_are_reset_at_once_end_the_connection() {
    must_be_calmed(|rude| {
        let pair = |stream| {
            let mut pair = request(stream, END_STREAM, "/version");
            pair.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            pair
        };
        let all: Vec<u8> = (0..1000).flat_map(|number| pair(2 * number + 1)).collect();
        rude.send(&all);
    });
}

#[test]
fn streams_that_are_reset_once_they_are_served_end_the_connection_too() {
    let (_server, [address, ..]) = every_port();
    let mut rude = Rude::connect(&address);
    let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    // One after the other, each after an answer to a ping that was sent behind its request: that was seen.
    for number in 0..CHATTER.burst {
        let stream = 2 * number + 1;
        rude.send(&request(stream, 0, PUT));
        rude.send(&frame(PING, 0, 0, &[0; 8]));
        loop {
            match rude.next() {
                Some((PING, ..)) => break,
                Some((GO_AWAY, _, payload)) => {
                    return assert_eq!(payload[4..8], ENHANCE_YOUR_CALM.to_be_bytes());
                }
                Some(_) => {}
                None => panic!("no reason was given"),
            }
        }
        rude.send(&reset(stream));
    }
    panic!("it never ended");
}

#[test]
fn headers_without_an_end_end_the_connection() {
    must_be_calmed(|rude| {
        rude.send(&frame(HEADERS, 0, 1, &block("/version")));
        // A header a frame, none of them the last.
        let more = frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b");
        rude.send(&more.repeat(10_000));
    });
}

#[test]
fn a_small_block_that_unpacks_to_large_headers_ends_the_connection() {
    must_be_calmed(|rude| {
        // One header of 3000 bytes goes into the table; a byte each brings it back 16,000 times.
        let mut bomb = block("/version");
        bomb.extend(b"\x40\x01a\x7f\xb9\x16");
        bomb.extend([b'b'; 3000]);
        bomb.resize(16_000, 0xbe);
        rude.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    });
}

#[test]
fn pings_and_settings_and_other_idle_frames_without_measure_end_the_connection() {
    let idle = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    ];
    for idle in idle {
        must_be_calmed(|rude| rude.send(&idle.repeat(2 * CHATTER.burst as usize)));
    }
}

#[test]
fn empty_data_without_measure_ends_the_connection() {
    let (_server, [address, ..]) = every_port();
    let mut rude = Rude::connect(&address);
    rude.send(&request(1, 0, PUT));
    rude.send(&frame(DATA, 0, 1, &[]).repeat(2 * CHATTER.burst as usize));
    assert_eq!(rude.reason(), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn an_answer_that_is_not_taken_ends_the_connection() {
    let (_server, ports) = every_port();
    let all = ports.each_ref().map(|address| {
        // SETTINGS_INITIAL_WINDOW_SIZE of 0: no byte of an answer may be sent.
        let mut rude = Rude::with_settings(address, &[0, 4, 0, 0, 0, 0]);
        rude.send(&request(1, END_STREAM, "/nothing-here"));
        rude
    });
    assert_eq!(all.map(Rude::reason), [Some(ENHANCE_YOUR_CALM); 4]);
}

#[test]
fn a_socket_that_nobody_reads_is_closed() {
    let (_server, ports) = every_port();
    std::thread::scope(|scope| {
        for address in &ports {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                let question = b"GET /nothing-here HTTP/1.1\r\nhost: h\r\n\r\n".repeat(1000);
                // More answers than two sockets hold: it ends with a write that fails, as nobody reads them.
                while stream.write_all(&question).is_ok() {}
            });
        }
    });
}

#[test]
fn a_request_that_never_gets_whole_ends_the_connection() {
    let (_server, [address, ..]) = every_port();
    let mut rude = Rude::connect(&address);
    rude.send(&request(1, 0, PUT));
    rude.send(&frame(DATA, 0, 1, &[0, 0, 0, 0, 9, 1]));
    assert_eq!(rude.reason(), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn whoever_is_refused_while_still_writing_hears_why_and_may_ask_again() {
    let (_server, ports) = every_port();
    // More than the sockets between hold, so that someone has to read it.
    let body = vec![b'x'; 7 << 20];
    for address in &ports {
        let mut stream = TcpStream::connect(address).unwrap();
        for _ in 0..2 {
            let length = body.len();
            write!(
                stream,
                "POST /nothing-here HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n"
            )
            .unwrap();
            stream.write_all(&body).unwrap();
            let head = read_head(&mut stream);
            assert!(head.starts_with("HTTP/1.1 404"), "{address}: {head}");
            let mut text = [0; 19];
            stream.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"404 page not found\n");
        }
    }
}

#[test]
fn a_stream_that_is_refused_while_its_client_writes_is_not_reset() {
    let (_server, ports) = every_port();
    for address in &ports {
        let mut client = Rude::connect(address);
        client.send(&request(1, 0, "/nothing-here"));
        assert!(frames(&mut client).any(|(kind, stream)| (kind, stream) == (DATA, 1)));
        client.send(&frame(DATA, 0, 1, &[b'x'; 16 << 10]));
        client.send(&frame(DATA, END_STREAM, 1, &[]));
        client.send(&request(3, END_STREAM, "/nothing-here"));
        let mut later = frames(&mut client).take_while(|frame| *frame != (DATA, 3));
        assert!(later.all(|(kind, _)| kind != RST_STREAM), "{address}");
    }
}

/// What comes in: kinds and streams.
fn frames(client: &mut Rude) -> impl Iterator<Item = (u8, u32)> {
    std::iter::from_fn(|| client.next()).map(|(kind, stream, _)| (kind, stream))
}

#[test]
fn a_stream_more_than_a_connection_may_have_is_refused() {
    let (_server, [address, ..]) = every_port_with(|config| config.max_concurrent_streams = 2);
    let mut rude = Rude::connect(&address);
    // Streams are limited once the limit was told and confirmed.
    rude.send(&frame(SETTINGS, 1, 0, &[]));
    for stream in [1, 3, 5] {
        rude.send(&request(stream, 0, PUT));
    }
    let refusal = std::iter::from_fn(|| rude.next()).find(|(kind, ..)| *kind == RST_STREAM);
    assert_eq!(
        refusal,
        Some((RST_STREAM, 5, REFUSED_STREAM.to_be_bytes().to_vec()))
    );
}

#[test]
fn one_address_does_not_take_all_connections() {
    let mut server = Server::bind(|_| ()).unwrap();
    let [address, _] = server.serve_clients(4);
    let mut mine = [0; 2].map(|_| TcpStream::connect(&address).unwrap());
    mine.iter_mut().for_each(get_livez);
    assert_eq!(read_to_end(TcpStream::connect(&address).unwrap()), b"");
    // Another address of this machine.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    let other: SocketAddr = "127.0.0.2:0".parse().unwrap();
    socket.bind(&other.into()).unwrap();
    let server_address: SocketAddr = address.parse().unwrap();
    socket.connect(&server_address.into()).unwrap();
    get_livez(&mut socket.into());
    mine.iter_mut().for_each(get_livez);
}

#[test]
fn half_a_tls_handshake_is_not_waited_for_on_any_port() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::bind_with(
        |config| {
            let any = || urls("https://localhost:0");
            config.listen_client = urls("https://127.0.0.1:0");
            config.listen_client_http = any();
            (config.listen_metrics, config.listen_peer) = (any(), any());
            config.data_dir = dir.path().to_owned();
            (config.client_tls.auto, config.peer_tls.auto) = (true, true);
            sign_own(config).unwrap();
        },
        |limits| limits.handshake = Duration::from_millis(100),
    )
    .unwrap();
    let ports = serve(&mut server);
    for address in ports {
        // Nothing; the first bytes of a TLS handshake and no more.
        for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(beginning).unwrap();
            read_to_end(stream);
        }
    }
}
