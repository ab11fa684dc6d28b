//! Members that show each other certificates.

#![allow(clippy::disallowed_methods, reason = "it writes certificates")]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use http::StatusCode;
use peer::{CallError, Client};
use proto::raftpb::MessageType;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tls::{Identity, Settings, Trust, UNSAID};

const TIMEOUT: Duration = Duration::from_secs(60);

/// An authority with what it has signed, as files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority {
            issuer,
            dir: tempfile::tempdir().unwrap(),
        };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn identity(&self, host: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            cert: self.write(&format!("{host}.pem"), &cert.pem()),
            key: self.write(&format!("{host}.key"), &key.serialize_pem()),
        }
    }

    fn tls(&self, host: &str) -> Tls {
        let identity = self.identity(host);
        let settings = Settings {
            identity: Some(identity.clone()),
            trust: Trust::Authorities(self.file()),
            requires_certificate: true,
            ..Default::default()
        };
        Tls {
            client: tls::Client::new(&settings, UNSAID).unwrap(),
            server: tls::Server::new(&settings, &identity, UNSAID).unwrap(),
        }
    }
}

async fn probe(node: &Node, identity: Option<&Identity>, trust: Trust) -> Result<StatusCode, CallError> {
    let settings = Settings {
        identity: identity.cloned(),
        trust,
        ..Default::default()
    };
    let client = tls::Client::new(&settings, UNSAID).unwrap();
    let client = Client::new(Some(client), TIMEOUT);
    let request = request("GET", "/raft/probing", ONE, TWO, Bytes::new());
    let answer = client.call(&node.url, request, TIMEOUT, 1 << 10).await?;
    Ok(answer.status())
}

#[tokio::test]
async fn messages_pass_between_members_that_show_certificates() {
    let authority = Authority::new();
    let mut one = Node::start_with(ONE, Some(authority.tls("127.0.0.1"))).await;
    let mut two = Node::start_with(TWO, Some(authority.tls("127.0.0.1"))).await;
    one.add(&two);
    two.add(&one);
    one.streams(2).await;
    two.streams(2).await;
    let vote = message(MessageType::MsgVote, ONE, TWO, 1);
    one.transport.send(vec![vote.clone()]);
    assert_eq!(two.message().await, vote);
    let answer = message(MessageType::MsgVoteResp, TWO, ONE, 1);
    two.transport.send(vec![answer.clone()]);
    assert_eq!(one.message().await, answer);
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let node = Node::start_with(TWO, Some(authority.tls("127.0.0.1"))).await;
    let trust = || Trust::Authorities(authority.file());
    let [ours, theirs] = [&authority, &other].map(|authority| authority.identity("client"));
    let told = probe(&node, Some(&ours), trust()).await;
    assert!(matches!(told, Ok(StatusCode::OK)), "{told:?}");
    for identity in [None, Some(&theirs)] {
        let told = probe(&node, identity, trust()).await;
        assert!(matches!(told, Err(CallError::Broken(_))), "{told:?}");
    }
}

#[tokio::test]
async fn a_server_is_believed_only_with_a_certificate_for_its_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ours = authority.identity("client");
    let here = Node::start_with(ONE, Some(authority.tls("127.0.0.1"))).await;
    let elsewhere = Node::start_with(TWO, Some(authority.tls("127.0.0.2"))).await;
    for (node, trust, believed) in [
        (&here, Trust::Authorities(authority.file()), true),
        (&here, Trust::Authorities(other.file()), false),
        (&elsewhere, Trust::Authorities(authority.file()), false),
        (&elsewhere, Trust::Anyone, true),
    ] {
        let told = probe(node, Some(&ours), trust).await;
        assert_eq!(told.is_ok(), believed, "{told:?}");
    }
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_hears_of_it() {
    let authority = Authority::new();
    let node = Node::start_with(TWO, Some(authority.tls("127.0.0.1"))).await;
    let request = request("GET", "/raft/probing", ONE, TWO, Bytes::new());
    let told = Client::new(None, TIMEOUT)
        .call(&node.url, request, TIMEOUT, 1 << 10)
        .await;
    assert!(matches!(told, Err(CallError::Broken(_))), "{told:?}");
}
