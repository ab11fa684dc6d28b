//! All other members together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::RwLock;
use proto::raftpb::Message;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use types::MemberId;

use crate::client::{CallError, Client, Connector};
use crate::codec::Codec;
use crate::peer::{Link, Peer};
use crate::{Config, Incoming, Metrics, PeerMetrics, handshake, probe, reader, snapshot};

/// Members that are not known and have said where they are. More than ever join at a time; beyond it one
/// is forgotten, and learned again with its next request.
pub const MAX_REMOTES: usize = 64;
/// URLs that are believed of such a member.
const MAX_REMOTE_URLS: usize = 16;

/// The way to the other members, and from them. See the crate's header.
pub struct Transport {
    pub(crate) link: Arc<Link>,
    metrics: Arc<dyn Metrics>,
    strangers: Arc<dyn PeerMetrics>,
    members: RwLock<Members>,
}

#[derive(Default)]
struct Members {
    /// Those of the cluster, as far as is known.
    peers: BTreeMap<MemberId, Arc<Peer>>,
    /// Those who asked and may be of the cluster. Nobody listens to them; they are only answered.
    remotes: BTreeMap<MemberId, Arc<Peer>>,
    stopped: bool,
}

impl Members {
    fn find(&self, id: MemberId) -> Option<&Arc<Peer>> {
        self.peers.get(&id).or_else(|| self.remotes.get(&id))
    }
}

impl Transport {
    /// A transport without peers, the tasks of which run on `handle`.
    pub fn new(
        config: Config,
        handle: Handle,
        incoming: Arc<dyn Incoming>,
        metrics: Arc<dyn Metrics>,
    ) -> Arc<Self> {
        let connector =
            Connector::new(config.tls.clone(), config.dial_timeout).coming_from(config.dials_from);
        let client = Client::by(connector);
        let link = Link {
            introduction: handshake::introduction(&config),
            config,
            client,
            handle,
            incoming,
        };
        Arc::new(Transport {
            link: Arc::new(link),
            strangers: metrics.peer(None),
            metrics,
            members: RwLock::default(),
        })
    }

    /// Sends messages to the members they are for. Never waits: what finds no room is lost, and reported
    /// as [`Incoming::unreachable`]. A MsgSnap can't be sent this way and is reported as not arrived.
    pub fn send(&self, messages: Vec<Message>) {
        let mut wakers = Vec::new();
        let mut unreachable = BTreeSet::new();
        let members = self.members.read();
        for message in messages {
            let to = MemberId(message.to);
            let Some(peer) = members.find(to) else { continue };
            if !peer.send(message, &mut wakers) {
                peer.metrics.send_failed();
                unreachable.insert(to);
            }
        }
        drop(members);
        for waker in wakers {
            waker.wake();
        }
        for id in unreachable {
            self.link.report_unreachable(id);
        }
    }

    /// Sends a MsgSnap with its database of exactly `len` bytes, and reports what came of it as
    /// [`Incoming::snapshot_sent`]. A body that ends early is not a database: the request is aborted.
    pub fn send_snapshot(&self, message: Message, len: u64, body: mpsc::Receiver<Bytes>) {
        let to = MemberId(message.to);
        match self.find(to) {
            Some(peer) => peer.spawn(snapshot::send(Arc::clone(&peer), message, len, body)),
            None => {
                let link = Arc::clone(&self.link);
                let report = async move { link.incoming.snapshot_sent(to, false) };
                self.link.handle.spawn(report);
            }
        }
    }

    /// Adds a member of the cluster: listens to it and speaks to it. One that is known already may get
    /// other URLs by that.
    pub fn add_peer(&self, id: MemberId, urls: &[String]) {
        let mut members = self.members.write();
        if members.stopped || id == self.link.config.id {
            return;
        }
        if let Some(remote) = members.remotes.remove(&id) {
            remote.stop();
        }
        if let Some(peer) = members.peers.get(&id) {
            return peer.update(urls);
        }
        let peer = Peer::new(id, urls, Arc::clone(&self.link), self.metrics.peer(Some(id)));
        for codec in [Codec::Message, Codec::MsgApp] {
            peer.spawn(reader::read(Arc::clone(&peer), codec));
        }
        peer.spawn(probe::probe(Arc::clone(&peer)));
        members.peers.insert(id, peer);
    }

    /// Gives a member other URLs, if it is known.
    pub fn update_peer(&self, id: MemberId, urls: &[String]) {
        if let Some(peer) = self.peer(id) {
            peer.update(urls);
        }
    }

    /// Hangs up on a member and forgets it.
    pub fn remove_peer(&self, id: MemberId) {
        let mut members = self.members.write();
        let gone = [members.peers.remove(&id), members.remotes.remove(&id)];
        gone.into_iter().flatten().for_each(|peer| peer.stop());
    }

    /// Since when a stream from that member is up without a break; `None` while none is.
    pub fn active_since(&self, id: MemberId) -> Option<Instant> {
        self.peer(id)?.active_since()
    }

    /// Sends a small request to a member by URL, whether it is a peer or not. See [`Client::call`].
    pub async fn call(
        &self,
        base_url: &str,
        request: Request<Bytes>,
        timeout: Duration,
        body_limit: usize,
    ) -> Result<Response<Bytes>, CallError> {
        self.link
            .client
            .call(base_url, request, timeout, body_limit)
            .await
    }

    /// Ends all tasks and streams. There will be no others.
    pub fn stop(&self) {
        let mut members = self.members.write();
        members.stopped = true;
        let peers = std::mem::take(&mut members.peers);
        let remotes = std::mem::take(&mut members.remotes);
        peers
            .values()
            .chain(remotes.values())
            .for_each(|peer| peer.stop());
    }

    /// Remembers where a member is that isn't known.
    pub(crate) fn learn(&self, id: MemberId, mut urls: Vec<String>) {
        urls.truncate(MAX_REMOTE_URLS);
        if urls.is_empty() || self.peer(id).is_some() || self.link.incoming.is_removed(id) {
            return;
        }
        let mut members = self.members.write();
        let is_known = id == self.link.config.id || members.peers.contains_key(&id);
        if members.stopped || is_known {
            return;
        }
        if let Some(remote) = members.remotes.get(&id) {
            return remote.update(&urls);
        }
        if members.remotes.len() >= MAX_REMOTES
            && let Some((_, forgotten)) = members.remotes.pop_first()
        {
            forgotten.stop();
        }
        let strangers = Arc::clone(&self.strangers);
        let remote = Peer::new(id, &urls, Arc::clone(&self.link), strangers);
        members.remotes.insert(id, remote);
    }

    pub(crate) fn peer(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.members.read().peers.get(&id).cloned()
    }

    fn find(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.members.read().find(id).cloned()
    }

    pub(crate) fn metrics_of(&self, id: Option<MemberId>) -> Arc<dyn PeerMetrics> {
        let peer = id.and_then(|id| self.peer(id));
        peer.map_or_else(|| Arc::clone(&self.strangers), |peer| Arc::clone(&peer.metrics))
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop();
    }
}
