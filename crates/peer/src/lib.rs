//! Members talking to each other: etcd's peer protocol over HTTP/1.1.
//!
//! Who wants to hear dials. Each member opens two endless GETs to every other one and reads from the
//! answers what that member has to say to it:
//!
//! ```text
//!        member A                                                     member B
//!   reader  message ── GET /raft/stream/message/A ──────────────────►  serve
//!           msgapp  ── GET /raft/stream/msgapp/A  ──────────────────►    │
//!      │                                                                 ▼
//!      ▼             ◄═══ what B has to say to A, in two bodies ═════  outboxes ◄── B: send
//!   Incoming
//!
//!   A: send ──► outboxes ═══ bodies of the GETs that B opened ═════►  reader ──► Incoming
//!      │
//!      ├──► without a stream:  POST /raft           one message      ─►  serve ──► Incoming
//!      └──► send_snapshot:     POST /raft/snapshot  message, database ─►  serve ──► file, Incoming
//! ```
//!
//! Appends have a stream of their own, with a codec that leaves out what the last frame tells
//! ([`codec`]). An idle stream carries a sign of life; one that is silent for 5 s is given up and dialed
//! again. A newer stream ends the one it replaces.
//!
//! Nothing here waits for the network on behalf of a caller: [`Transport::send`] puts messages into
//! bounded queues, and what finds no room is lost and reported, which raft is made for. Raft's heartbeats
//! have a lane of their own in each of these queues: whoever is busy is not thereby dead.
//!
//! A member that isn't known (it joins, and this one has not heard of it) is refused its streams, but
//! answered: from then on messages for it are posted to the URLs its request named.
//!
//! What a connection refused means: the machine is there, and the process that listened is not. If that
//! comes after all of a peer's streams have ended, [`Incoming::peer_lost`] says so; silence never does.
//!
//! Source: etcd's `server/etcdserver/api/rafthttp` for the protocol. Deliberately missing: streams of
//! versions before 3.0.

// The rim: this crate has a clock and sockets.
#![allow(clippy::disallowed_methods)]

mod client;
pub mod codec;
mod handshake;
mod outbox;
mod peer;
mod probe;
mod reader;
mod serve;
mod snapshot;
mod transport;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use env::Disk;
use proto::raftpb::Message;
use types::{ClusterId, MemberId};

pub use client::{CallError, Client, Connector, Socket};
pub use outbox::{QUEUE_BYTES, QUEUE_MESSAGES, URGENT_MESSAGES};
pub use serve::ResponseBody;
pub use transport::{MAX_REMOTES, Transport};

/// A stream on which nothing came for this long is given up, and one that takes nothing for this long; no member
/// has less patience, as the signs of life fit into it.
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle stream carries a sign of life this often: three chances in the time a reader waits.
pub const LINK_HEARTBEAT: Duration = Duration::from_millis(5000 / 3);

/// Who this member is, and how it reaches others.
#[derive(Clone)]
pub struct Config {
    /// This member.
    pub id: MemberId,
    /// Its cluster. Members of others are refused.
    pub cluster_id: ClusterId,
    /// Where others reach this member, as its requests tell them.
    pub peer_urls: Vec<String>,
    /// The version this member is of, such as `3.7.1`.
    pub version: &'static str,
    /// For peers with `https` URLs.
    pub tls: Option<tls::Client>,
    /// How long to wait for a connection; with etcd, a second more than the election timeout.
    pub dial_timeout: Duration,
    /// The address of this machine that connections come from, if not the system's choice.
    pub dials_from: Option<IpAddr>,
    /// How long a stream may bring nothing before it is given up; at least [`STREAM_TIMEOUT`].
    pub read_timeout: Duration,
    /// How long a stream may take nothing before it is given up; at least [`STREAM_TIMEOUT`].
    pub write_timeout: Duration,
    /// Where received databases are written.
    pub disk: Arc<dyn Disk>,
}

/// A message or a snapshot is not taken now. Whoever sent it will do so again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not taken")]
pub struct Refused;

/// Who takes what comes in, and hears how the others are. No call may wait.
///
/// Not called from within [`Transport::send`].
pub trait Incoming: Send + Sync + 'static {
    /// A message for this member from one that isn't removed.
    fn message(&self, message: Message) -> Result<(), Refused>;
    /// Where the database that comes with this MsgSnap is to be put. Its folder exists.
    fn snapshot_path(&self, message: &Message) -> PathBuf;
    /// The database has arrived, whole and durable, where it was to be put.
    fn snapshot_received(&self, message: Message, database: PathBuf) -> Result<(), Refused>;
    /// Whether that member was removed from the cluster.
    fn is_removed(&self, id: MemberId) -> bool;
    /// A message to that member was lost.
    fn unreachable(&self, id: MemberId);
    /// What came of [`Transport::send_snapshot`].
    fn snapshot_sent(&self, to: MemberId, arrived: bool);
    /// Another member says that this one was removed from the cluster.
    fn removed_from_cluster(&self);
    /// That member's process has ended: its streams did, and its machine refuses new ones.
    fn peer_lost(&self, id: MemberId);
}

/// Makes the counters of each peer.
pub trait Metrics: Send + Sync + 'static {
    /// Those of one peer; without an id, those of all who are no peers.
    fn peer(&self, id: Option<MemberId>) -> Arc<dyn PeerMetrics>;
}

/// Counters of one peer.
pub trait PeerMetrics: Send + Sync + 'static {
    /// So many bytes went to it.
    fn sent(&self, bytes: usize);
    /// So many bytes came from it.
    fn received(&self, bytes: usize);
    /// A message to it was lost.
    fn send_failed(&self);
    /// A message from it was lost.
    fn receive_failed(&self);
    /// The first of its streams is up.
    fn connected(&self);
    /// The last of its streams has ended.
    fn disconnected(&self);
    /// A request to it was answered.
    fn round_trip(&self, took: Duration);
    /// A database is on its way to it.
    fn snapshot_send_began(&self);
    /// A database is no longer on its way to it.
    fn snapshot_send_ended(&self, outcome: SnapshotOutcome);
    /// A database is on its way from it.
    fn snapshot_receive_began(&self);
    /// A database is no longer on its way from it.
    fn snapshot_receive_ended(&self, outcome: SnapshotOutcome);
    /// It asked to send a database, and was refused.
    fn snapshot_request_failed(&self);
    /// Part of a database from it was made durable.
    fn database_synced(&self, took: Duration);
    /// A database from it was written, from its first byte to its name.
    fn database_saved(&self, took: Duration);
}

/// How the transfer of a database ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// It arrived, after that time.
    Done(Duration),
    /// It did not.
    Failed,
}
