//! The other members: how they are reached, and what comes from them.
//!
//! [`Peers`] is what the loops send with. What arrives goes the other way, through [`Inlet`], as orders
//! to the member.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use machine::Membership;
use parking_lot::Mutex;
use peer::{Incoming, Refused, Transport};
use proto::raftpb::Message;
use tokio::runtime::Handle;
use types::MemberId;

use crate::board::Board;
use crate::loops::member::{Member, Order};
use crate::sending::{Outgoing, Sender};

/// The way to the other members.
pub struct Peers {
    id: MemberId,
    transport: Arc<Transport>,
    client: peer::Client,
    sender: Sender,
    inlet: Arc<Inlet>,
    runtime: Handle,
    /// The peer URLs of those the transport knows.
    known: Mutex<BTreeMap<MemberId, Vec<String>>>,
}

impl Peers {
    /// For member `id`, which reaches nobody yet.
    pub fn new(
        id: MemberId,
        transport: Arc<Transport>,
        client: peer::Client,
        sender: Sender,
        inlet: Arc<Inlet>,
        runtime: Handle,
    ) -> Self {
        Peers {
            id,
            transport,
            client,
            sender,
            inlet,
            runtime,
            known: Mutex::default(),
        }
    }

    /// The transport, for what comes in by the peer port.
    pub fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// For small requests to other members.
    pub fn client(&self) -> &peer::Client {
        &self.client
    }

    /// Sends what raft has to say. Never waits; what can't be sent is lost, and raft told so.
    pub fn send(&self, messages: Vec<Message>) {
        if !messages.is_empty() {
            self.transport.send(messages);
        }
    }

    /// Sends the state of this member to those whom raft has nothing else to offer; at most as many at a
    /// time as [`SENDING_MAX`](crate::sending::SENDING_MAX).
    pub fn send_snapshots(&self, messages: Vec<Message>) {
        for message in messages {
            let (sender, transport, inlet) =
                (self.sender.clone(), self.transport.clone(), self.inlet.clone());
            self.runtime.spawn(async move {
                let to = MemberId(message.to);
                match sender.begin(message).await {
                    Ok(Outgoing { message, len, pieces }) => transport.send_snapshot(message, len, pieces),
                    Err(error) => {
                        tracing::error!("remote-peer-id" = %to, error = %error, "cannot send a snapshot");
                        inlet.snapshot_sent(to, false);
                    }
                }
            });
        }
    }

    /// Makes the acquaintance of members that the log of this one, which joins them, does not know yet.
    pub fn meet(&self, members: &[machine::Member]) {
        let mut known = self.known.lock();
        for member in members.iter().filter(|member| member.id != self.id) {
            self.transport.add_peer(member.id, &member.peer_urls);
            known.insert(member.id, member.peer_urls.clone());
        }
    }

    /// Makes the peers those of the membership: connects to new ones, hangs up on those that were removed.
    /// Nobody else is dropped: a member that reads the log from its beginning knows its cluster as it
    /// was, and hears from one that it has yet to read of.
    pub fn follow(&self, membership: &Membership) {
        let mut known = self.known.lock();
        known.retain(|id, _| {
            let stays = !membership.is_removed(*id);
            if !stays {
                self.transport.remove_peer(*id);
            }
            stays
        });
        for member in membership.members().filter(|member| member.id != self.id) {
            match known.insert(member.id, member.peer_urls.clone()) {
                None => self.transport.add_peer(member.id, &member.peer_urls),
                Some(before) if before != member.peer_urls => {
                    self.transport.update_peer(member.id, &member.peer_urls);
                }
                Some(_) => {}
            }
        }
    }

    /// Since when this member has been connected to another.
    pub fn active_since(&self, id: MemberId) -> Option<Instant> {
        self.transport.active_since(id)
    }

    /// Ends all connections.
    pub fn stop(&self) {
        self.transport.stop();
    }
}

/// Where messages from other members come in.
pub struct Inlet {
    board: Arc<Board>,
    /// Where databases that other members send are put.
    snapshots: PathBuf,
    /// Set as soon as there is a member; what comes earlier is refused.
    member: OnceLock<Weak<Member>>,
}

impl Inlet {
    /// An inlet that nobody listens at yet.
    pub fn new(board: Arc<Board>, snapshots: PathBuf) -> Self {
        Inlet {
            board,
            snapshots,
            member: OnceLock::new(),
        }
    }

    /// Lets the member hear what comes in. Only the first call counts.
    pub fn open(&self, member: &Arc<Member>) {
        let _ = self.member.set(Arc::downgrade(member));
    }

    fn order(&self, order: Order) -> Result<(), Refused> {
        let member = self.member.get().and_then(Weak::upgrade).ok_or(Refused)?;
        member.submit(order).map_err(|_| Refused)
    }
}

impl Incoming for Inlet {
    fn message(&self, message: Message) -> Result<(), Refused> {
        self.order(Order::Message(message))
    }

    fn snapshot_path(&self, message: &Message) -> PathBuf {
        let snapshot = message.snapshot.as_ref();
        let metadata = snapshot.and_then(|snapshot| snapshot.metadata.as_ref());
        image::received(&self.snapshots, metadata.map_or(0, |metadata| metadata.index))
    }

    fn snapshot_received(&self, message: Message, _: PathBuf) -> Result<(), Refused> {
        // Whoever installs it finds the database by the snapshot's index.
        self.order(Order::Message(message))
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.board.replicated().membership.is_removed(id)
    }

    fn unreachable(&self, id: MemberId) {
        let _ = self.order(Order::Unreachable(id));
    }

    fn snapshot_sent(&self, to: MemberId, arrived: bool) {
        let _ = self.order(Order::SnapshotSent { to, arrived });
    }

    fn removed_from_cluster(&self) {
        self.board.post_departure();
    }

    fn peer_lost(&self, id: MemberId) {
        let _ = self.order(Order::Gone(id));
    }
}
