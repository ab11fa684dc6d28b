//! Who gets in, and who does not: a server and clients with certificates of two authorities, over pipes.

#![allow(clippy::disallowed_methods, reason = "it writes certificates")]

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conformance::certs::{self, Ask};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tls::{
    Allowed, Client, HTTP, HTTP2, Identity, Protocols, Server, Settings, Shown, TlsError, Trust, Validity,
    Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// An authority with what it has signed, as files.
struct Authority {
    signs: certs::Authority,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let authority = Authority {
            signs: certs::Authority::new(name).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        };
        authority.write("ca.pem", authority.signs.pem());
        authority
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn trust(&self) -> Trust {
        Trust::Authorities(self.dir.path().join("ca.pem"))
    }

    /// A certificate for localhost and a name, with a serial number.
    fn sign(&self, name: &str, serial: u64) -> (String, String) {
        let pair = self.signs.sign(&Ask::new(name, serial)).unwrap();
        (pair.cert, pair.key)
    }

    fn identity(&self, name: &str, serial: u64) -> Identity {
        let (certificate, key) = self.sign(name, serial);
        Identity {
            cert: self.write(&format!("{name}.pem"), certificate),
            key: self.write(&format!("{name}.key"), key),
        }
    }

    /// A list of revoked serial numbers, as DER.
    fn revoke(&self, serials: &[u64]) -> Vec<u8> {
        self.signs.revoke(serials).unwrap()
    }

    /// A server that wants a certificate of this authority, with more of what `change` does.
    fn server(&self, change: impl FnOnce(&mut Settings)) -> Server {
        let mut settings = Settings {
            trust: self.trust(),
            requires_certificate: true,
            ..Default::default()
        };
        change(&mut settings);
        Server::new(&settings, &self.identity("server", 1), HTTP).unwrap()
    }

    fn client(&self, identity: Option<&Identity>) -> Client {
        let settings = Settings {
            identity: identity.cloned(),
            trust: self.trust(),
            ..Default::default()
        };
        Client::new(&settings, HTTP2).unwrap()
    }
}

/// A handshake and a byte each way: what the server saw of it, and what the client did.
async fn meet(server: &Server, client: &Client) -> (io::Result<Shown>, io::Result<()>) {
    let (here, there) = duplex(1 << 16);
    let serving = async {
        let (mut stream, shown) = server.accept(here).await?;
        stream.write_u8(7).await?;
        // The client has its byte before the end.
        let _ = stream.read_u8().await;
        Ok(shown)
    };
    let calling = async {
        let mut stream = client.connect("localhost", there).await?;
        // In TLS 1.3 only this tells whether the server has agreed.
        assert_eq!(stream.read_u8().await?, 7);
        stream.shutdown().await
    };
    tokio::join!(serving, calling)
}

async fn is_let_in(server: &Server, client: &Client) -> bool {
    let (served, called) = meet(server, client).await;
    assert_eq!(served.is_ok(), called.is_ok());
    served.is_ok()
}

#[tokio::test]
async fn only_who_shows_a_certificate_of_the_authority_is_let_in() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = ours.server(|_| ());
    let [mine, other] = [&ours, &theirs].map(|authority| authority.identity("root", 2));
    let (served, called) = meet(&server, &ours.client(Some(&mine))).await;
    assert_eq!(served.unwrap().common_name().as_deref(), Some("root"));
    called.unwrap();
    for (identity, told, heard) in [
        (
            None,
            "tls: client didn't provide a certificate",
            "remote error: tls: certificate required",
        ),
        (
            Some(&other),
            "x509: certificate signed by unknown authority",
            "remote error: tls: unknown certificate authority",
        ),
    ] {
        let (served, called) = meet(&server, &ours.client(identity)).await;
        assert_eq!(tls::describe(&served.unwrap_err()), told);
        assert_eq!(tls::describe(&called.unwrap_err()), heard);
    }
}

#[tokio::test]
async fn a_server_that_asks_for_no_certificate_sees_none() {
    let authority = Authority::new("ours");
    let server = authority.server(|settings| settings.requires_certificate = false);
    for identity in [None, Some(&authority.identity("root", 2))] {
        let (served, called) = meet(&server, &authority.client(identity)).await;
        assert!(served.unwrap().certificate.is_none());
        called.unwrap();
    }
}

#[tokio::test]
async fn a_client_believes_whom_it_trusts() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = ours.server(|settings| settings.requires_certificate = false);
    let anyone = Settings {
        trust: Trust::Anyone,
        ..Default::default()
    };
    assert!(is_let_in(&server, &ours.client(None)).await);
    assert!(is_let_in(&server, &Client::new(&anyone, HTTP2).unwrap()).await);
    assert!(!is_let_in(&server, &theirs.client(None)).await);
}

#[tokio::test]
async fn names_that_are_allowed_are_let_in_and_no_others() {
    let authority = Authority::new("ours");
    let client = authority.client(Some(&authority.identity("a", 2)));
    for (allowed, is_good) in [
        (Allowed::CommonNames(vec!["b".into(), "a".into()]), true),
        (Allowed::CommonNames(vec!["b".into()]), false),
        (Allowed::Hostnames(vec!["localhost".into()]), true),
        (Allowed::Hostnames(vec!["a".into()]), false),
    ] {
        let server = authority.server(|settings| settings.allowed = allowed.clone());
        let (served, called) = meet(&server, &client).await;
        assert_eq!(served.is_ok(), is_good, "{allowed:?}");
        if !is_good {
            let told = tls::describe(&served.unwrap_err());
            assert_eq!(told, "client certificate authentication failed");
            let heard = tls::describe(&called.unwrap_err());
            assert_eq!(heard, "remote error: tls: bad certificate");
        }
        // Also of a server that is dialed.
        let settings = Settings {
            trust: authority.trust(),
            allowed,
            ..Default::default()
        };
        let open = authority.server(|settings| settings.requires_certificate = false);
        let expects_server =
            matches!(&settings.allowed, Allowed::Hostnames(names) if names[0] == "localhost");
        let dialing = Client::new(&settings, HTTP2).unwrap();
        assert_eq!(is_let_in(&open, &dialing).await, expects_server);
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_from_the_next_connection_on() {
    let authority = Authority::new("ours");
    let list = authority.write("crl", authority.revoke(&[]));
    let server = authority.server(|settings| settings.revoked = Some(list.clone()));
    let [one, two] = [("one", 2), ("two", 0x80)]
        .map(|(name, serial)| authority.client(Some(&authority.identity(name, serial))));
    assert!(is_let_in(&server, &one).await && is_let_in(&server, &two).await);
    authority.write("crl", authority.revoke(&[3, 0x80]));
    assert!(is_let_in(&server, &one).await && !is_let_in(&server, &two).await);
    // Half a list: the last good one stays.
    authority.write("crl", &authority.revoke(&[2])[..30]);
    assert!(is_let_in(&server, &one).await && !is_let_in(&server, &two).await);
    std::fs::remove_file(&list).unwrap();
    assert!(is_let_in(&server, &one).await && !is_let_in(&server, &two).await);
    authority.write("crl", authority.revoke(&[2]));
    let (served, _) = meet(&server, &one).await;
    assert_eq!(
        tls::describe(&served.unwrap_err()),
        "transport: certificate revoked"
    );
    assert!(is_let_in(&server, &two).await);
}

/// A connection, and until when what its client has shown is good.
async fn stay(server: &Server, client: &Client) -> Validity {
    let (here, there) = duplex(1 << 16);
    let (served, called) = tokio::join!(server.accept(here), client.connect("localhost", there));
    called.unwrap();
    server.validity(&served.unwrap().0)
}

#[tokio::test]
async fn a_connection_is_good_until_what_it_has_shown_is_revoked() {
    let authority = Authority::new("ours");
    authority.write("crl", authority.revoke(&[]));
    let list = authority.dir.path().join("crl");
    let server = authority.server(|settings| settings.revoked = Some(list));
    let [one, two] = [("one", 2), ("two", 3)]
        .map(|(name, serial)| authority.client(Some(&authority.identity(name, serial))));
    let (mut first, mut second) = (stay(&server, &one).await, stay(&server, &two).await);
    authority.write("crl", authority.revoke(&[3]));
    // Nobody shakes hands: the server has to look by itself.
    tokio::select! {
        () = server.keep_reading(Duration::from_millis(1)) => panic!("there is a list"),
        () = first.end() => panic!("it is not on the list"),
        () = second.end() => {}
    }
    // Whoever reads the files reads them for all.
    authority.write("crl", authority.revoke(&[2]));
    assert!(is_let_in(&server, &two).await);
    first.end().await;
}

#[tokio::test]
async fn without_a_list_nothing_is_read_for_those_who_are_connected() {
    let authority = Authority::new("ours");
    authority.server(|_| ()).keep_reading(Duration::MAX).await;
}

#[tokio::test]
async fn versions_have_to_meet() {
    let authority = Authority::new("ours");
    let only = |version| Protocols {
        min: version,
        max: version,
        suites: vec![],
    };
    for (here, there) in [
        (Version::Tls12, Version::Tls12),
        (Version::Tls12, Version::Tls13),
        (Version::Tls13, Version::Tls12),
        (Version::Tls13, Version::Tls13),
    ] {
        let server = authority.server(|settings| {
            settings.requires_certificate = false;
            settings.protocols = only(here);
        });
        let settings = Settings {
            trust: authority.trust(),
            protocols: only(there),
            ..Default::default()
        };
        let client = Client::new(&settings, HTTP2).unwrap();
        assert_eq!(is_let_in(&server, &client).await, here == there);
    }
}

/// What a rewrite of the files may leave behind at any time, and who is let in then.
#[tokio::test]
async fn every_state_between_an_old_and_a_new_certificate_lets_good_clients_in() {
    let (old, new) = (Authority::new("ours"), Authority::new("theirs"));
    let server = old.server(|_| ());
    let client = old.client(Some(&old.identity("client", 2)));
    let (certificate, key) = old.sign("server", 9);
    for (name, content) in [("server.pem", &certificate), ("server.key", &key)] {
        for end in [0, 1, content.len() / 2, content.len() - 2, content.len()] {
            old.write(name, &content[..end]);
            assert!(is_let_in(&server, &client).await, "{name} up to {end}");
        }
    }
    // The key is there, so the new pair is in use: its certificate is the server's.
    let (here, there) = duplex(1 << 16);
    let (_, stream) = tokio::join!(server.accept(here), client.connect("localhost", there));
    let stream = stream.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let written = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    assert_eq!(shown, written);
    // Authorities are exchanged too, with the same care.
    let bundle = new.signs.pem();
    let late = Settings {
        identity: Some(new.identity("client", 3)),
        trust: old.trust(),
        ..Default::default()
    };
    // A client of its own reads the same file, so it trusts by a copy.
    let copy = new.write("old.pem", old.signs.pem());
    let settings = |settings: Settings| Settings {
        trust: Trust::Authorities(copy.clone()),
        ..settings
    };
    let late = Client::new(&settings(late), HTTP2).unwrap();
    let early = settings(Settings {
        identity: Some(old.identity("client", 2)),
        ..Default::default()
    });
    let early = Client::new(&early, HTTP2).unwrap();
    for end in [0, 1, bundle.len() / 2] {
        old.write("ca.pem", &bundle[..end]);
        assert!(is_let_in(&server, &early).await && !is_let_in(&server, &late).await);
    }
    old.write("ca.pem", &bundle);
    assert!(!is_let_in(&server, &early).await && is_let_in(&server, &late).await);
}

#[test]
fn a_file_that_is_of_no_use_is_named() {
    let authority = Authority::new("ours");
    let good = authority.identity("here", 1);
    let gone = authority.dir.path().join("gone");
    let empty = authority.write("empty", "");
    let with = |cert: &Path, key: &Path| {
        let (cert, key) = (cert.to_owned(), key.to_owned());
        let server = Server::new(&Settings::default(), &Identity { cert, key }, HTTP);
        server.map(|_| ()).unwrap_err()
    };
    let other_key = authority.identity("there", 2).key;
    let told = with(&gone, &good.key);
    assert!(
        matches!(told, TlsError::Unreadable { ref file, .. } if *file == gone),
        "{told}"
    );
    let told = with(&good.cert, &empty);
    assert!(
        matches!(told, TlsError::Missing { what: "key", ref file, .. } if *file == empty),
        "{told}"
    );
    let told = with(&empty, &good.key);
    assert!(
        matches!(
            told,
            TlsError::Missing {
                what: "certificate",
                ..
            }
        ),
        "{told}"
    );
    assert!(matches!(with(&good.cert, &other_key), TlsError::Unusable { .. }));
    let half = with(Path::new("c"), Path::new("")).to_string();
    assert_eq!(half, "KeyFile and CertFile must both be present[key: , cert: c]");
    let half = Settings {
        client_identity: Some(Identity {
            cert: "c".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let told = Client::new(&half, HTTP2).map(|_| ()).unwrap_err();
    assert!(matches!(told, TlsError::HalfClientIdentity(_)), "{told}");
}
