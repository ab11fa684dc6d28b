//! Clients whose certificates are revoked while they are connected.

use std::path::Path;

use conformance::certs::{self, Ask, Authority};
use tls::{Identity, Settings, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const WEBSOCKET: &str = "GET /v3/watch HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const REQUEST: &str = "GET /livez HTTP/1.1\r\nhost: h\r\n\r\n";

fn identity(authority: &Authority, dir: &Path, serial: u64) -> Identity {
    let name = serial.to_string();
    authority
        .sign(&Ask::new(&name, serial))
        .unwrap()
        .write(dir, &name)
        .unwrap();
    let [cert, key] = ["pem", "key"].map(|kind| dir.join(format!("{name}.{kind}")));
    Identity { cert, key }
}

/// A connection on which `request` was answered with `status`.
async fn ask(
    client: &tls::Client,
    address: &str,
    request: &str,
    status: &str,
) -> impl AsyncReadExt + AsyncWriteExt + Unpin + use<> {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut stream = client.connect("localhost", socket).await.unwrap();
    is_answered(&mut stream, request, status).await;
    stream
}

async fn is_answered(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), request: &str, status: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
}

async fn end_of(mut stream: impl AsyncReadExt + Unpin) {
    // A reset is an end too.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[test]
fn who_is_revoked_is_cut_off_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new("ca").unwrap();
    certs::write(&dir.join("ca"), authority.pem()).unwrap();
    let revoke =
        |serials: &[u64]| certs::replace(&dir.join("crl"), authority.revoke(serials).unwrap()).unwrap();
    revoke(&[]);
    let trust = || Trust::Authorities(dir.join("ca"));
    let mut server = Server::bind_with(
        |config| {
            config.listen_client = urls("https://127.0.0.1:0");
            config.client_tls.settings = Settings {
                identity: Some(identity(&authority, dir, 1)),
                trust: trust(),
                requires_certificate: true,
                revoked: Some(dir.join("crl")),
                ..Default::default()
            };
        },
        |limits| limits.revocations = Duration::from_millis(1),
    )
    .unwrap();
    let [address, _] = server.serve_clients_with(Silent, 100);
    let client = |serial| {
        let settings = Settings {
            identity: Some(identity(&authority, dir, serial)),
            trust: trust(),
            ..Default::default()
        };
        tls::Client::new(&settings, &[b"http/1.1"]).unwrap()
    };
    let (good, bad) = (client(2), client(3));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stays = ask(&good, &address, REQUEST, "200").await;
        let goes = ask(&bad, &address, REQUEST, "200").await;
        let socket_goes = ask(&bad, &address, WEBSOCKET, "101").await;
        revoke(&[3]);
        end_of(goes).await;
        end_of(socket_goes).await;
        let mut rest = [0; 3];
        stays.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"ok\n");
        is_answered(&mut stays, REQUEST, "200").await;
    });
}
