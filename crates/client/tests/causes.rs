//! Why nobody was reached, told apart.

use std::path::Path;
use std::time::Duration;

use client::{Cause, Client, Config, Error};
use conformance::certs::{Ask, Authority, write};
use conformance::server::{Ports, Server};
use proto::etcdserverpb::RangeRequest;
use tls::{Identity, Settings, Trust};

use common::programs;

mod common;

/// Why a call comes to nothing; nothing if it does not.
async fn cause(endpoint: &str, tls: Option<Settings>) -> Option<Cause> {
    let config = Config {
        tls,
        ..Config::new([endpoint])
    };
    let client = Client::connect(config).await.unwrap();
    let range = RangeRequest {
        key: "a".into(),
        ..RangeRequest::default()
    };
    // As long as the second look may take, and a bit.
    match client.with_timeout(Duration::from_secs(3)).range(range).await {
        Ok(_) => None,
        Err(Error::Deadline(Some(last)) | Error::Unreachable(last)) => Some(last.cause),
        Err(error) => panic!("{error:?}"),
    }
}

fn identity(folder: &Path, name: &str) -> Identity {
    Identity {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    }
}

/// A server on a plain port and on one with TLS, which is for those with a certificate of the right authority.
async fn secured(program: &Path, folder: &Path) -> (Server, u16) {
    let (good, other) = (Authority::new("good").unwrap(), Authority::new("other").unwrap());
    write(&folder.join("ca.pem"), good.pem()).unwrap();
    let only_here = Ask {
        hosts: vec!["127.0.0.1".into()],
        ..Ask::new("server", 2)
    };
    good.sign(&only_here).unwrap().write(folder, "server").unwrap();
    good.sign(&Ask::new("client", 3))
        .unwrap()
        .write(folder, "client")
        .unwrap();
    other
        .sign(&Ask::new("stranger", 4))
        .unwrap()
        .write(folder, "stranger")
        .unwrap();
    let (ports, port) = (Ports::free(), Ports::next());
    let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
    let flags = [
        format!(
            "--listen-client-urls=http://127.0.0.1:{},https://127.0.0.1:{port}",
            ports.client
        ),
        file("cert-file", "server.pem"),
        file("key-file", "server.key"),
        file("trusted-ca-file", "ca.pem"),
        "--client-cert-auth".to_owned(),
    ];
    let mut server = Server::prepared(program, &flags, ports, Server::alone(ports)).unwrap();
    server.resume().await.unwrap();
    (server, port)
}

#[tokio::test]
async fn each_cause_has_a_name_of_its_own() {
    for program in programs() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (server, port) = secured(&program, folder).await;
        let tls = |name: Option<&str>| {
            Some(Settings {
                trust: Trust::Authorities(folder.join("ca.pem")),
                client_identity: name.map(|name| identity(folder, name)),
                ..Settings::default()
            })
        };
        let here = format!("127.0.0.1:{port}");
        let nobody = format!("127.0.0.1:{}", Ports::next());
        let (refused, plain, secure, unknown, local, good, anonymous, stranger, untrusted) = tokio::join!(
            cause(&nobody, None),
            cause(&here, None),
            async { cause(&server.endpoint(), tls(Some("client"))).await },
            cause("nobody.invalid:1", None),
            async { cause(&format!("localhost:{port}"), tls(Some("client"))).await },
            cause(&here, tls(Some("client"))),
            cause(&here, tls(None)),
            cause(&here, tls(Some("stranger"))),
            async { cause(&format!("https://{here}"), None).await },
        );
        assert_eq!(refused, Some(Cause::Refused));
        assert_eq!(plain, Some(Cause::TlsServer));
        assert_eq!(secure, Some(Cause::PlainServer));
        assert!(matches!(unknown, Some(Cause::UnknownName { .. })), "{unknown:?}");
        assert!(matches!(local, Some(Cause::WrongName(_))), "{local:?}");
        assert_eq!(good, None);
        assert!(
            matches!(anonymous, Some(Cause::CertificateRequired(_))),
            "{anonymous:?}"
        );
        assert!(
            matches!(stranger, Some(Cause::CertificateRefused(_))),
            "{stranger:?}"
        );
        assert!(matches!(untrusted, Some(Cause::NotTrusted(_))), "{untrusted:?}");
    }
}

/// Our port for peers answers, and is not what is looked for. (Go's carries out calls.)
#[tokio::test]
async fn a_port_of_etcd_that_is_not_for_clients_is_no_etcd() {
    if let Some(program) = programs().first() {
        let server = Server::start(program, &[]).await.unwrap();
        let found = cause(&server.peer_url(), None).await;
        assert!(matches!(found, Some(Cause::NotGrpc(_))), "{found:?}");
    }
}

/// A certificate of the past is told from one of somebody unknown: another authority would not help.
#[tokio::test]
async fn a_certificate_that_has_expired_is_named_as_that() {
    for program in programs() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let authority = Authority::new("good").unwrap();
        write(&folder.join("ca.pem"), authority.pem()).unwrap();
        let past = Ask {
            years: (2020, 2021),
            ..Ask::new("server", 2)
        };
        let past = authority.sign(&past).unwrap();
        past.write(folder, "server").unwrap();
        let (ports, port) = (Ports::free(), Ports::next());
        let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
        let flags = [
            format!(
                "--listen-client-urls=http://127.0.0.1:{},https://127.0.0.1:{port}",
                ports.client
            ),
            file("cert-file", "server.pem"),
            file("key-file", "server.key"),
        ];
        let mut server = Server::prepared(&program, &flags, ports, Server::alone(ports)).unwrap();
        server.resume().await.unwrap();
        let tls = Settings {
            trust: Trust::Authorities(folder.join("ca.pem")),
            ..Settings::default()
        };
        let found = cause(&format!("127.0.0.1:{port}"), Some(tls)).await;
        assert!(
            matches!(&found, Some(Cause::NotValidNow(why)) if why.ends_with("days ago")),
            "{found:?}"
        );
    }
}
