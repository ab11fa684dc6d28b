//! Databases on their way between members.

mod common;

use std::path::Path;

use bytes::{Bytes, BytesMut};
use common::*;
use env::sim::Keep;
use http::StatusCode;
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const NAME: &str = "/0000000000000005.snap.db";

fn snapshot() -> Message {
    Message {
        index: 5,
        ..message(MessageType::MsgSnap, ONE, TWO, 3)
    }
}

/// A few MiB in which no two places look alike.
fn database() -> Vec<u8> {
    (0..1_u32 << 20).flat_map(u32::to_be_bytes).collect()
}

async fn pair() -> (Node, Node) {
    let (one, two) = (Node::start(ONE).await, Node::start(TWO).await);
    one.add(&two);
    (one, two)
}

/// Sends so much of a database of that length.
async fn send(one: &Node, len: usize, portions: impl Iterator<Item = Bytes>) {
    let (sender, body) = mpsc::channel(1);
    one.transport.send_snapshot(snapshot(), len as u64, body);
    for portion in portions {
        // Who gave up takes no more.
        let _ = soon(sender.send(portion)).await;
    }
}

fn portions(database: &[u8]) -> impl Iterator<Item = Bytes> {
    database.chunks(70_001).map(Bytes::copy_from_slice)
}

fn envelope(message: &Message) -> BytesMut {
    let mut bytes = BytesMut::from(&(message.encoded_len() as u64).to_be_bytes()[..]);
    bytes.extend(message.encode_to_vec());
    bytes
}

#[tokio::test]
async fn a_database_arrives_whole_durable_and_under_its_name() {
    let (mut one, mut two) = pair().await;
    let database = database();
    send(&one, database.len(), portions(&database)).await;
    two.hear_that(Event::Snapshot(snapshot(), NAME.into())).await;
    one.hear_that(Event::SnapshotSent(TWO, true)).await;
    // Only what was synced is left after this.
    let files = two.disk.after_crash(Keep::None).files();
    let [(path, content)] = <[_; 1]>::try_from(Vec::from_iter(files)).unwrap();
    assert_eq!(path, Path::new(NAME));
    assert!(content == database);
}

#[tokio::test]
async fn a_body_that_ends_early_leaves_no_file_and_has_not_arrived() {
    let (mut one, mut two) = pair().await;
    let database = database();
    let half = &database[..database.len() / 2];
    send(&one, database.len(), portions(half)).await;
    one.hear_that(Event::SnapshotSent(TWO, false)).await;
    no_file_and_no_snapshot(&mut two).await;
}

#[tokio::test]
async fn a_body_longer_than_announced_has_not_arrived() {
    let (mut one, mut two) = pair().await;
    let database = database();
    send(&one, database.len() - 1, portions(&database)).await;
    one.hear_that(Event::SnapshotSent(TWO, false)).await;
    no_file_and_no_snapshot(&mut two).await;
}

/// Waits until what was written is gone.
async fn no_file_and_no_snapshot(two: &mut Node) {
    two.hear(|event| match event {
        Event::Snapshot(..) => panic!("{event:?}"),
        Event::FileRemoved(_) => Some(()),
        _ => None,
    })
    .await;
    assert!(two.disk.files().is_empty(), "{:?}", two.disk.files().keys());
}

#[tokio::test]
async fn a_disk_that_is_full_leaves_no_file_and_has_not_arrived() {
    let (mut one, mut two) = pair().await;
    two.disk.set_capacity(Some(1 << 20));
    let database = database();
    send(&one, database.len(), portions(&database)).await;
    one.hear_that(Event::SnapshotSent(TWO, false)).await;
    no_file_and_no_snapshot(&mut two).await;
}

#[tokio::test]
async fn a_peer_that_is_not_there_has_got_no_database() {
    let (mut one, mut two) = pair().await;
    two.hang_up().await;
    send(&one, 4, std::iter::once(Bytes::from_static(b"data"))).await;
    one.hear_that(Event::SnapshotSent(TWO, false)).await;
    one.transport.remove_peer(TWO);
    send(&one, 4, std::iter::once(Bytes::from_static(b"data"))).await;
    one.hear_that(Event::SnapshotSent(TWO, false)).await;
}

#[tokio::test]
async fn what_is_no_snapshot_is_refused_with_etcds_words() {
    let mut two = Node::start(TWO).await;
    two.consider_removed(ONE);
    let other = types::MemberId(0x33);
    let vote = message(MessageType::MsgVote, other, TWO, 1);
    let astray = message(MessageType::MsgSnap, other, ONE, 1);
    let too_long = (64_u64 << 20) + 1;
    let too_long_text =
        format!("failed to decode raft message (a length of {too_long} is above the limit)\n");
    for (body, status, text) in [
        (
            envelope(&vote),
            StatusCode::BAD_REQUEST,
            "wrong raft message type\n",
        ),
        (
            BytesMut::from(&too_long.to_be_bytes()[..]),
            StatusCode::BAD_REQUEST,
            &too_long_text,
        ),
        (
            BytesMut::from(&b"short"[..]),
            StatusCode::BAD_REQUEST,
            "failed to decode raft message (unexpected EOF)\n",
        ),
        (
            envelope(&astray),
            StatusCode::FORBIDDEN,
            r#"{"message":"cannot process message to mismatch member"}"#,
        ),
        (
            envelope(&snapshot()),
            StatusCode::FORBIDDEN,
            r#"{"message":"cannot process message from removed member"}"#,
        ),
    ] {
        let answer = call(
            &two.url,
            request("POST", "/raft/snapshot", other, TWO, body.freeze()),
        )
        .await;
        assert_eq!((answer.status(), &answer.body()[..]), (status, text.as_bytes()));
    }
    assert!(two.disk.files().is_empty());
    assert!(
        !two.told()
            .iter()
            .any(|event| matches!(event, Event::Snapshot(..)))
    );
}

#[tokio::test]
async fn a_connection_that_breaks_within_the_database_leaves_no_file() {
    let mut two = Node::start(TWO).await;
    let mut socket = TcpStream::connect(two.address).await.unwrap();
    let envelope = envelope(&snapshot());
    let head = format!(
        "POST /raft/snapshot HTTP/1.1\r\nhost: two\r\nx-server-from: 11\r\nx-server-version: 3.7.1\r\n\
         x-min-cluster-version: 3.0.0\r\nx-etcd-cluster-id: {CLUSTER}\r\ncontent-length: {}\r\n\r\n",
        envelope.len() + 100,
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&envelope).await.unwrap();
    socket.write_all(b"not a hundred bytes").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(socket.read_to_end(&mut answer)).await;
    no_file_and_no_snapshot(&mut two).await;
}
