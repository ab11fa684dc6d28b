//! Messages between members, and what members hear of each other.

#![allow(
    clippy::disallowed_methods,
    reason = "what a test hears may wait without a bound"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use peer::codec::{Codec, Decoder};
use peer::{CallError, QUEUE_MESSAGES, Transport};
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::field::{Field, Visit};
use tracing::span;
use types::MemberId;

/// The streams of one peer.
const BOTH: usize = 2;

async fn pair() -> (Node, Node) {
    let (mut one, mut two) = (Node::start(ONE).await, Node::start(TWO).await);
    one.add(&two);
    two.add(&one);
    one.streams(BOTH).await;
    two.streams(BOTH).await;
    (one, two)
}

/// Opens a stream as a member does that dials.
async fn open(node: &Node, path: &str, from: MemberId) -> Incoming {
    let socket = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = request("GET", path, from, node.id, Empty::<Bytes>::new());
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-server-version"], "3.7.1");
    assert_eq!(response.headers()["x-etcd-cluster-id"], CLUSTER.to_string());
    response.into_body()
}

/// The next bytes of a stream; none once it has ended.
async fn next(stream: &mut Incoming) -> Option<Bytes> {
    let frame = soon(stream.frame()).await?;
    Some(frame.unwrap().into_data().unwrap())
}

async fn read(stream: &mut Incoming, decoder: &mut Decoder) -> Message {
    loop {
        if let Some(message) = decoder.next_message().unwrap() {
            return message;
        }
        decoder.push(&next(stream).await.unwrap());
    }
}

fn append(from: MemberId, to: MemberId, index: u64) -> Message {
    Message {
        log_term: 1,
        index,
        commit: index,
        entries: vec![Entry {
            term: 1,
            index: index + 1,
            ..Default::default()
        }],
        ..message(MessageType::MsgApp, from, to, 1)
    }
}

#[tokio::test]
async fn messages_of_both_streams_arrive_in_the_order_they_were_sent_both_ways() {
    const COUNT: u64 = 1000;
    let (mut one, mut two) = pair().await;
    let messages = |from, to| -> Vec<_> {
        (0..COUNT)
            .flat_map(|n| [append(from, to, n), message(MessageType::MsgAppResp, from, to, n)])
            .collect()
    };
    let sent = [messages(ONE, TWO), messages(TWO, ONE)];
    one.transport.send(sent[0].clone());
    two.transport.send(sent[1].clone());
    for (to, sent) in [(&mut two, &sent[0]), (&mut one, &sent[1])] {
        let mut arrived = Vec::new();
        while arrived.len() < sent.len() {
            arrived.push(to.message().await);
        }
        for kind in [MessageType::MsgApp, MessageType::MsgAppResp] {
            let of_kind = |messages: &[Message]| -> Vec<_> {
                messages
                    .iter()
                    .filter(|message| message.r#type() == kind)
                    .cloned()
                    .collect()
            };
            assert_eq!(of_kind(&arrived), of_kind(sent));
        }
    }
}

#[tokio::test]
async fn without_a_stream_a_message_is_posted_and_the_unknown_sender_is_answered() {
    let (mut one, mut two) = (Node::start(ONE).await, Node::start(TWO).await);
    one.add(&two);
    let question = message(MessageType::MsgVote, ONE, TWO, 7);
    one.transport.send(vec![question.clone()]);
    assert_eq!(two.message().await, question);
    two.hear_that(Event::Served("/raft".into(), StatusCode::NO_CONTENT))
        .await;

    // Two was never told of one, but one's request said where it is.
    let answer = message(MessageType::MsgVoteResp, TWO, ONE, 7);
    two.transport.send(vec![answer.clone()]);
    assert_eq!(one.message().await, answer);
    one.hear_that(Event::Served("/raft".into(), StatusCode::NO_CONTENT))
        .await;
}

#[tokio::test]
async fn a_removed_member_is_told_so() {
    let (mut one, two) = (Node::start(ONE).await, Node::start(TWO).await);
    two.consider_removed(ONE);
    for path in ["/raft/stream/message/11", "/raft/stream/msgapp/11"] {
        let refused = call(&two.url, request("GET", path, ONE, TWO, Bytes::new())).await;
        assert_eq!(refused.status(), StatusCode::GONE);
        assert_eq!(refused.body(), "removed member\n");
    }
    let body = message(MessageType::MsgVote, ONE, TWO, 1).encode_to_vec().into();
    let refused = call(&two.url, request("POST", "/raft", ONE, TWO, body)).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    one.add(&two);
    one.hear_that(Event::Removed).await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_etcds_words() {
    let mut two = Node::start(TWO).await;
    two.transport.add_peer(ONE, &["http://127.0.0.1:9".to_owned()]);
    let vote: Bytes = message(MessageType::MsgVote, ONE, TWO, 1).encode_to_vec().into();
    let astray: Bytes = message(MessageType::MsgVote, ONE, ONE, 1).encode_to_vec().into();
    let with = |name: &'static str, value: &'static str, mut request: Request<Bytes>| {
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let post = |path: &str, body: &Bytes| request("POST", path, ONE, TWO, body.clone());
    let get = |path: &str| request("GET", path, ONE, TWO, Bytes::new());
    let stream = "/raft/stream/message/11";
    let astray_text = r#"{"message":"cannot process message to mismatch member"}"#;
    for (request, status, text) in [
        (
            with("x-etcd-cluster-id", "c2", post("/raft", &vote)),
            412,
            "cluster ID mismatch\n",
        ),
        (
            with("x-etcd-cluster-id", "c2", get(stream)),
            412,
            "cluster ID mismatch\n",
        ),
        (
            with("x-server-version", "2.3.8", get(stream)),
            412,
            "incompatible version\n",
        ),
        (
            with("x-server-version", "", get(stream)),
            412,
            "incompatible version\n",
        ),
        (
            with("x-min-cluster-version", "3.8.0", get(stream)),
            412,
            "incompatible version\n",
        ),
        (with("x-raft-to", "33", get(stream)), 412, "to field mismatch\n"),
        (post("/raft", &astray), 403, astray_text),
        (
            post("/raft", &Bytes::from_static(&[0xff])),
            400,
            "error unmarshalling raft message\n",
        ),
        (get("/raft/stream/else/11"), 404, "invalid path\n"),
        (get("/raft/stream/message/xyz"), 404, "invalid from\n"),
        (get("/raft/stream/message/"), 404, "invalid from\n"),
        (get("/raft/stream/message/33"), 404, "error sender not found\n"),
        (get("/raft/else"), 404, "404 page not found\n"),
        (get("/raft"), 405, "Method Not Allowed\n"),
        (post(stream, &vote), 405, "Method Not Allowed\n"),
        (post("/raft", &vote), 204, ""),
    ] {
        let asked = format!("{request:?}");
        let answer = call(&two.url, request).await;
        assert_eq!(answer.status(), status, "{asked}");
        assert_eq!(answer.body(), text, "{asked}");
    }
    let taken = two
        .told()
        .into_iter()
        .filter(|event| matches!(event, Event::Message(_)));
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn the_end_of_a_peers_process_is_heard() {
    let (mut one, mut two) = pair().await;
    two.hang_up().await;
    one.hear_that(Event::Disconnected(Some(TWO))).await;
    one.hear_that(Event::Lost(TWO)).await;
    assert_eq!(one.transport.active_since(TWO), None);
}

#[tokio::test]
async fn a_peer_that_is_silent_is_not_taken_for_dead() {
    let (mut one, mut two) = pair().await;
    let listener = two.fall_silent().await;
    let mut silent = Vec::new();
    while silent.len() <= 2 * BOTH {
        silent.push(soon(listener.accept()).await.unwrap());
    }
    let told = one.told();
    assert!(told.contains(&Event::Disconnected(Some(TWO))));
    assert!(!told.contains(&Event::Lost(TWO)), "{told:?}");
    drop((listener, silent));
    one.hear_that(Event::Lost(TWO)).await;
}

#[tokio::test]
async fn a_full_queue_drops_the_message_and_reports_it_but_heartbeats_have_their_own() {
    let mut two = Node::start(TWO).await;
    two.transport.add_peer(ONE, &["http://127.0.0.1:9".to_owned()]);
    let mut stream = open(&two, "/raft/stream/message/11", ONE).await;
    let one_too_many = QUEUE_MESSAGES as u64 + 1;
    let mut messages: Vec<_> = (1..=one_too_many)
        .map(|term| message(MessageType::MsgAppResp, TWO, ONE, term))
        .collect();
    let heartbeat = message(MessageType::MsgHeartbeat, TWO, ONE, 1);
    messages.push(heartbeat.clone());
    // One thread runs this test, so that nothing is written while this call lasts.
    two.transport.send(messages.clone());
    two.hear_that(Event::Unreachable(ONE)).await;
    let mut decoder = Decoder::new(Codec::Message, TWO, ONE);
    assert_eq!(read(&mut stream, &mut decoder).await, heartbeat);
    for expected in &messages[..QUEUE_MESSAGES] {
        assert_eq!(read(&mut stream, &mut decoder).await, *expected);
    }
    let after = message(MessageType::MsgAppResp, TWO, ONE, 1 << 40);
    two.transport.send(vec![after.clone()]);
    assert_eq!(read(&mut stream, &mut decoder).await, after);
}

#[tokio::test]
async fn a_newer_stream_ends_the_older() {
    let two = Node::start(TWO).await;
    two.transport.add_peer(ONE, &["http://127.0.0.1:9".to_owned()]);
    for (path, codec, message) in [
        ("/raft/stream/msgapp/11", Codec::MsgApp, append(TWO, ONE, 0)),
        (
            "/raft/stream/message/11",
            Codec::Message,
            message(MessageType::MsgVote, TWO, ONE, 1),
        ),
    ] {
        let mut older = open(&two, path, ONE).await;
        let mut newer = open(&two, path, ONE).await;
        assert_eq!(next(&mut older).await, None);
        two.transport.send(vec![message.clone()]);
        let mut decoder = Decoder::new(codec, TWO, ONE);
        assert_eq!(read(&mut newer, &mut decoder).await, message);
    }
}

#[tokio::test]
async fn an_idle_stream_gives_a_sign_of_life() {
    let two = Node::start(TWO).await;
    two.transport.add_peer(ONE, &["http://127.0.0.1:9".to_owned()]);
    let mut stream = open(&two, "/raft/stream/msgapp/11", ONE).await;
    assert_eq!(next(&mut stream).await.unwrap(), [0_u8][..]);
}

#[tokio::test]
async fn a_peer_is_active_since_its_first_stream_until_its_last_ends() {
    let (mut one, mut two) = (Node::start(ONE).await, Node::start(TWO).await);
    one.add(&two);
    assert_eq!(one.transport.active_since(TWO), None);
    two.add(&one);
    one.hear_that(Event::Connected(Some(TWO))).await;
    let since = one.transport.active_since(TWO).unwrap();
    two.streams(BOTH).await;
    two.transport.send(vec![append(TWO, ONE, 0)]);
    one.message().await;
    assert_eq!(one.transport.active_since(TWO), Some(since));
    two.transport.remove_peer(ONE);
    one.hear_that(Event::Disconnected(Some(TWO))).await;
    assert_eq!(one.transport.active_since(TWO), None);
    assert_eq!(one.transport.active_since(MemberId(0x33)), None);
}

#[tokio::test]
async fn an_answer_longer_than_asked_for_is_refused() {
    let two = Node::start(TWO).await;
    let probe = request("GET", "/raft/probing", ONE, TWO, Bytes::new());
    let client = peer::Client::new(None, Duration::from_secs(5));
    let told = client.call(&two.url, probe, Duration::from_secs(60), 3).await;
    assert!(matches!(told, Err(CallError::TooLong)), "{told:?}");
}

#[test]
fn only_the_paths_under_raft_are_the_transports() {
    for path in ["/raft", "/raft/snapshot", "/raft/stream/msgapp/11"] {
        assert!(Transport::is_raft_path(path), "{path}");
    }
    for path in ["/", "/members", "/rafting", "/version"] {
        assert!(!Transport::is_raft_path(path), "{path}");
    }
}

/// Collects why a peer was said not to be reached.
#[derive(Clone, Default)]
struct Complaints(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Complaints {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl Visit for Complaints {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "error" {
            self.0.lock().push(value.to_owned());
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[tokio::test]
async fn each_reason_for_which_a_peer_is_not_reached_is_logged_once() {
    let complaints = Complaints::default();
    let _logging = tracing::subscriber::set_default(complaints.clone());
    let (mut one, mut two) = (Node::start(ONE).await, Node::start(TWO).await);
    let listener = two.fall_silent().await;
    let (tell, mut dialed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut method = [0; 3];
            if socket.read_exact(&mut method).await.is_ok() && method == *b"GET" {
                let _ = tell.send(());
            }
        }
    });
    one.add(&two);
    for round in 0..6 {
        soon(dialed.recv()).await.unwrap();
        one.transport
            .send(vec![message(MessageType::MsgVote, ONE, TWO, round)]);
        one.hear_that(Event::Unreachable(TWO)).await;
    }
    let complaints = complaints.0.lock().clone();
    assert!(!complaints.is_empty());
    let different: BTreeSet<_> = complaints.iter().collect();
    assert_eq!(different.len(), complaints.len(), "{complaints:#?}");
}

#[tokio::test]
async fn a_peer_that_ends_each_stream_at_once_is_not_dialed_all_the_time() {
    let (mut one, mut two) = (Node::start(ONE).await, Node::start(TWO).await);
    let listener = two.fall_silent().await;
    let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 15];
            if socket.read_exact(&mut head).await.is_ok() {
                let _ = tell.send(head);
                let empty = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = socket.write_all(empty).await;
                // All of the request is read before the end, so that the answer is not lost by it.
                tokio::spawn(async move { tokio::io::copy(&mut socket, &mut tokio::io::sink()).await });
            }
        }
    });
    one.add(&two);
    // The first probe comes after 4 s.
    let mut dials = 0;
    while !soon(asked.recv()).await.unwrap().ends_with(b"probi") {
        dials += 1;
    }
    assert!(one.told().contains(&Event::Disconnected(Some(TWO))));
    assert!(dials < 40, "{dials} dials");
}
