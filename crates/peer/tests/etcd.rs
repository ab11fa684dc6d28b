//! A transport and the real etcd, as the two members of a cluster.

// It drives a process.
#![allow(clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use bytes::Bytes;
use common::*;
use http::{Request, StatusCode};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use types::{ClusterId, MemberId};

fn main() -> ExitCode {
    let trials = [
        ("its_peer_port_answers_our_client", answers as fn(Etcd)),
        ("it_is_elected_and_replicates_to_a_transport", replicates),
    ];
    let trials = trials.map(|(name, trial)| Trial::ignorable_test(name, move || run(trial)));
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// Without the real etcd a trial is ignored, or fails where `CI=true` says that nothing may be left out.
fn run(trial: fn(Etcd)) -> Result<Completion, Failed> {
    let folder = std::env::var_os("KEELSON_REFERENCE").map(PathBuf::from);
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/reference");
    let program = folder.unwrap_or_else(here).join("etcd");
    if program.exists() {
        trial(Etcd::start(&program));
        return Ok(Completion::Completed);
    }
    let reason = "no etcd to talk to: run `cargo xtask reference`";
    match std::env::var("CI").is_ok_and(|ci| ci == "true") {
        true => Err(reason.into()),
        false => Ok(Completion::ignored_with(reason)),
    }
}

/// The first of two members, which waits for the second, and the listener of that.
struct Etcd {
    process: Child,
    url: String,
    second: TcpListener,
    _data: tempfile::TempDir,
}

impl Etcd {
    fn start(program: &Path) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (client, peer, second) = (listen(), listen(), listen());
        let (client_url, peer_url) = (url(&client), url(&peer));
        let data = tempfile::tempdir().unwrap();
        drop((client, peer));
        let mut process = Command::new(program)
            .args(["--name=first", "--data-dir"])
            .arg(data.path())
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!(
                "--initial-cluster=first={peer_url},second={}",
                url(&second)
            ))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let serves = |line: &String| line.contains("\"serving peer traffic\"");
        assert!(log.by_ref().map_while(Result::ok).any(|line| serves(&line)));
        // It must not stop because nobody reads on.
        std::thread::spawn(move || log.for_each(drop));
        Etcd {
            process,
            url: peer_url,
            second,
            _data: data,
        }
    }

    /// The cluster, and the members by the port that they listen at.
    async fn members(&self) -> (ClusterId, BTreeMap<String, MemberId>) {
        let answer = get(&self.url, "/members").await;
        assert_eq!(answer.status(), StatusCode::OK);
        let cluster = answer.headers()["x-etcd-cluster-id"].to_str().unwrap();
        let cluster = ClusterId(u64::from_str_radix(cluster, 16).unwrap());
        let members: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        let member = |member: &serde_json::Value| {
            let url = member["peerURLs"][0].as_str().unwrap().to_owned();
            (url, MemberId(member["id"].as_u64().unwrap()))
        };
        (cluster, members.as_array().unwrap().iter().map(member).collect())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn get(url: &str, path: &str) -> http::Response<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = path.parse().unwrap();
    call(url, request).await
}

#[tokio::main(flavor = "current_thread")]
async fn answers(etcd: Etcd) {
    let version: serde_json::Value = serde_json::from_slice(get(&etcd.url, "/version").await.body()).unwrap();
    assert!(version["etcdserver"].as_str().unwrap().starts_with("3."));
    let (_, members) = etcd.members().await;
    assert_eq!(members.len(), 2);
    let to = members[&etcd.url];
    let body = message(MessageType::MsgHeartbeat, ONE, to, 1).encode_to_vec();
    let refused = call(&etcd.url, request("POST", "/raft", ONE, to, body.into())).await;
    assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(refused.body(), "cluster ID mismatch\n");
}

/// What a follower says that agrees to everything.
fn assent(message: &Message) -> Option<Message> {
    let kind = match message.r#type() {
        MessageType::MsgPreVote => MessageType::MsgPreVoteResp,
        MessageType::MsgVote => MessageType::MsgVoteResp,
        MessageType::MsgApp => MessageType::MsgAppResp,
        MessageType::MsgHeartbeat => MessageType::MsgHeartbeatResp,
        _ => return None,
    };
    Some(Message {
        r#type: kind as i32,
        from: message.to,
        to: message.from,
        term: message.term,
        index: message.index + message.entries.len() as u64,
        context: message.context.clone(),
        ..Default::default()
    })
}

#[tokio::main(flavor = "current_thread")]
async fn replicates(etcd: Etcd) {
    // Two members, the leader's first entry and its name: more than one append.
    const ENOUGH: u64 = 4;
    let (cluster, members) = etcd.members().await;
    let first = members[&etcd.url];
    let second = *members.values().find(|id| **id != first).unwrap();
    let listener = etcd.second.try_clone().unwrap();
    let mut node = Node::start_at(listener, second, cluster, None);
    node.transport.add_peer(first, std::slice::from_ref(&etcd.url));
    node.hear_that(Event::Connected(Some(first))).await;
    let mut last = 2;
    loop {
        let message = node.message().await;
        assert_eq!((message.from, message.to), (first.0, second.0));
        if let Some(newest) = message.entries.last() {
            let indexes: Vec<_> = message.entries.iter().map(|entry| entry.index).collect();
            assert_eq!(indexes, Vec::from_iter(message.index + 1..=newest.index));
            assert!(message.index <= last, "there is a gap");
            last = newest.index;
        }
        if message.commit >= ENOUGH {
            break;
        }
        node.transport.send(assent(&message).into_iter().collect());
    }
    assert!(last >= ENOUGH);
}
