//! Clients whose certificates are revoked while they are connected.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tls::{Identity, Settings, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const WEBSOCKET: &str = "GET /v3/watch HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const REQUEST: &str = "GET /livez HTTP/1.1\r\nhost: h\r\n\r\n";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(dir: &Path) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca"), authority.pem()).unwrap();
    authority
}

fn identity(authority: &Authority, dir: &Path, serial: u64) -> Identity {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.serial_number = Some(SerialNumber::from(serial));
    let key = KeyPair::generate().unwrap();
    let [cert, key_file] = ["cert", "key"].map(|kind| dir.join(format!("{serial}.{kind}")));
    std::fs::write(&cert, params.signed_by(&key, authority).unwrap().pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    Identity { cert, key: key_file }
}

fn revoke(authority: &Authority, dir: &Path, serials: &[u64]) {
    let day = date_time_ymd(2020, 1, 1);
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: day,
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: day,
        next_update: date_time_ymd(2120, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(authority).unwrap();
    // A list is exchanged as a whole.
    std::fs::write(dir.join("new"), list.der()).unwrap();
    std::fs::rename(dir.join("new"), dir.join("crl")).unwrap();
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
    let authority = authority(dir);
    revoke(&authority, dir, &[]);
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
        revoke(&authority, dir, &[3]);
        end_of(goes).await;
        end_of(socket_goes).await;
        let mut rest = [0; 3];
        stays.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"ok\n");
        is_answered(&mut stays, REQUEST, "200").await;
    });
}
