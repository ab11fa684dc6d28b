//! One other member, as this one sees it.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use types::MemberId;

use crate::client::{CallError, Client};
use crate::codec::Codec;
use crate::handshake::{self, CLUSTER_ID};
use crate::outbox::{Outbox, Pushed, is_urgent};
use crate::{Config, Incoming, PeerMetrics};

/// Messages that are posted to one peer at a time; etcd's number.
const POSTS: usize = 4;
/// Messages that wait to be posted, in each lane; etcd's number. Messages are posted only while there is
/// no stream, which is not for long.
const POST_QUEUE: usize = 64;
/// How long a post may take: enough for a large message on a slow line, short enough that a machine that
/// is silent does not hold the queue.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer to a post is read; it is one line.
const ANSWER_BYTES: usize = 64 << 10;
/// Reasons that are logged for a peer that is not reached: several for each of its URLs. Some are in its
/// words, so that there may be any number.
const TROUBLES: usize = 32;

/// What all peers share.
pub(crate) struct Link {
    pub config: Config,
    /// The headers of every request.
    pub introduction: HeaderMap,
    pub client: Client,
    pub handle: Handle,
    pub incoming: Arc<dyn Incoming>,
}

impl Link {
    /// Tells that messages were lost, from a task: the caller may hold locks that this needs.
    pub fn report_unreachable(self: &Arc<Self>, id: MemberId) {
        let link = Arc::clone(self);
        self.handle.spawn(async move { link.incoming.unreachable(id) });
    }
}

/// Where a peer can be reached, and which of it works.
struct Urls {
    all: Vec<String>,
    picked: usize,
}

/// Which streams from a peer are up.
#[derive(Default)]
struct Activity {
    streams: usize,
    since: Option<Instant>,
    /// It was here, and its loss has not been told yet.
    missed: bool,
}

/// Messages on their way without a stream.
struct Lane {
    /// A permit for each message.
    room: Arc<Semaphore>,
    /// A permit for each request.
    posts: Arc<Semaphore>,
}

impl Lane {
    fn new(posts: usize) -> Self {
        Lane {
            room: Arc::new(Semaphore::new(POST_QUEUE)),
            posts: Arc::new(Semaphore::new(posts)),
        }
    }
}

/// One other member.
pub(crate) struct Peer {
    pub id: MemberId,
    pub link: Arc<Link>,
    pub metrics: Arc<dyn PeerMetrics>,
    /// Wakes readers that pause between two dials.
    dial: [Notify; 2],
    urls: Mutex<Urls>,
    message: Outbox,
    msgapp: Outbox,
    lane: Lane,
    urgent: Lane,
    activity: Mutex<Activity>,
    stopped: watch::Sender<bool>,
    /// What was logged as wrong since the peer was last reached, so that each is logged once.
    troubles: Mutex<BTreeSet<String>>,
}

impl Peer {
    pub fn new(id: MemberId, urls: &[String], link: Arc<Link>, metrics: Arc<dyn PeerMetrics>) -> Arc<Self> {
        let patience = link.config.write_timeout;
        Arc::new(Peer {
            id,
            link,
            metrics,
            dial: Default::default(),
            urls: Mutex::new(Urls {
                all: urls.to_vec(),
                picked: 0,
            }),
            message: Outbox::new(patience),
            msgapp: Outbox::new(patience),
            lane: Lane::new(POSTS),
            urgent: Lane::new(1),
            activity: Mutex::default(),
            stopped: watch::Sender::new(false),
            troubles: Mutex::default(),
        })
    }

    /// Runs a task that ends with the peer.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut stopped = self.stopped.subscribe();
        self.link.handle.spawn(async move {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => {}
                () = work => {}
            }
        });
    }

    /// Ends tasks and streams.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
        self.message.close();
        self.msgapp.close();
    }

    pub fn outbox(&self, codec: Codec) -> &Outbox {
        match codec {
            Codec::Message => &self.message,
            Codec::MsgApp => &self.msgapp,
        }
    }

    /// Where to reach the peer, if anywhere.
    pub fn url(&self) -> Option<String> {
        let urls = self.urls.lock();
        urls.all.get(urls.picked).cloned()
    }

    pub fn url_count(&self) -> usize {
        self.urls.lock().all.len()
    }

    /// Next time another one, if there is another.
    pub fn avoid(&self, url: &str) {
        let mut urls = self.urls.lock();
        if urls.all.get(urls.picked).is_some_and(|picked| picked == url) {
            urls.picked = (urls.picked + 1) % urls.all.len();
        }
    }

    pub fn update(&self, all: &[String]) {
        let mut urls = self.urls.lock();
        if urls.all != all {
            *urls = Urls {
                all: all.to_vec(),
                picked: 0,
            };
            self.dial_now();
        }
    }

    /// Lets the readers not wait longer before they dial; one that is dialing will do so once more.
    pub fn dial_now(&self) {
        self.dial.iter().for_each(Notify::notify_one);
    }

    /// Ends when the reader of that stream is to dial.
    pub async fn is_to_dial(&self, codec: Codec) {
        self.dial[codec as usize].notified().await;
    }

    /// Logs what is wrong, once until the peer is reached again.
    pub fn complain(&self, trouble: &str) {
        let mut troubles = self.troubles.lock();
        if troubles.len() < TROUBLES && troubles.insert(trouble.to_owned()) {
            tracing::warn!(
                "local-member-id" = %self.link.config.id,
                "remote-peer-id" = %self.id,
                error = trouble,
                "peer is not reached"
            );
        }
    }

    // Streams from the peer.

    pub fn active_since(&self) -> Option<Instant> {
        self.activity.lock().since
    }

    /// A stream from the peer is up, until the returned value is dropped.
    pub fn connected(self: &Arc<Self>) -> Connected {
        let mut activity = self.activity.lock();
        activity.streams += 1;
        activity.missed = true;
        if activity.streams == 1 {
            activity.since = Some(Instant::now());
            self.metrics.connected();
            tracing::info!(
                "local-member-id" = %self.link.config.id,
                "remote-peer-id" = %self.id,
                "peer became active"
            );
        }
        self.troubles.lock().clear();
        Connected(Arc::clone(self))
    }

    fn disconnected(&self) {
        let mut activity = self.activity.lock();
        activity.streams -= 1;
        if activity.streams == 0 {
            activity.since = None;
            self.metrics.disconnected();
            tracing::warn!(
                "local-member-id" = %self.link.config.id,
                "remote-peer-id" = %self.id,
                "peer became inactive"
            );
        }
    }

    /// Nobody listens at any of the peer's URLs.
    pub fn refused(&self) {
        let mut activity = self.activity.lock();
        let lost = activity.streams == 0 && std::mem::take(&mut activity.missed);
        drop(activity);
        if lost {
            self.link.incoming.peer_lost(self.id);
        }
    }

    // Messages to the peer.

    /// Sends a message by what is there for it. Whether it was taken; if so, the waker wants to be woken.
    pub fn send(self: &Arc<Self>, message: Message, wakers: &mut Vec<Waker>) -> bool {
        if message.r#type() == MessageType::MsgSnap {
            self.report_snapshot(false);
            return false;
        }
        let kind = message.r#type();
        let pushed = match kind {
            MessageType::MsgApp => match self.msgapp.push(message) {
                Pushed::NoStream(message) => self.message.push(*message),
                pushed => pushed,
            },
            _ => self.message.push(message),
        };
        match pushed {
            Pushed::Queued(waker) => {
                wakers.extend(waker);
                true
            }
            Pushed::Full => {
                self.log_dropped(kind);
                false
            }
            Pushed::NoStream(message) => self.post(*message),
        }
    }

    fn log_dropped(&self, kind: MessageType) {
        tracing::warn!(
            "message-type" = kind.as_str_name(),
            "local-member-id" = %self.link.config.id,
            "remote-peer-id" = %self.id,
            "remote-peer-active" = self.active_since().is_some(),
            "dropped internal Raft message since sending buffer is full (overloaded network)"
        );
    }

    /// Tells that a stream from the peer is there, or why it ended.
    pub fn log_stream(&self, codec: Codec, lost: Option<&str>) {
        let kind = match codec {
            Codec::Message => "stream Message",
            Codec::MsgApp => "stream MsgApp v2",
        };
        let (here, there) = (self.link.config.id, self.id);
        match lost {
            None => tracing::info!(
                "stream-reader-type" = kind,
                "local-member-id" = %here,
                "remote-peer-id" = %there,
                "established TCP streaming connection with remote peer"
            ),
            Some(error) => tracing::warn!(
                "stream-reader-type" = kind,
                "local-member-id" = %here,
                "remote-peer-id" = %there,
                error,
                "lost TCP streaming connection with remote peer"
            ),
        }
    }

    /// Posts a message from a task. Whether there was room.
    fn post(self: &Arc<Self>, message: Message) -> bool {
        let lane = if is_urgent(&message) {
            &self.urgent
        } else {
            &self.lane
        };
        let Ok(room) = Arc::clone(&lane.room).try_acquire_owned() else {
            return false;
        };
        let (peer, posts) = (Arc::clone(self), Arc::clone(&lane.posts));
        self.spawn(async move {
            let _room = room;
            let Ok(_post) = posts.acquire().await else { return };
            if let Err(trouble) = peer.post_now(&message).await {
                peer.complain(&trouble);
                peer.metrics.send_failed();
                peer.link.incoming.unreachable(peer.id);
            }
        });
        true
    }

    async fn post_now(&self, message: &Message) -> Result<(), String> {
        let body = Bytes::from(message.encode_to_vec());
        let len = body.len();
        let url = self.url().ok_or("no URL")?;
        let request = self.request("/raft", "application/protobuf", body);
        let answer = self
            .link
            .client
            .call(&url, request, POST_TIMEOUT, ANSWER_BYTES)
            .await;
        let verdict = answer
            .map_err(|error| error.to_string())
            .and_then(|answer| self.judge(&answer));
        match &verdict {
            Ok(()) => self.metrics.sent(len),
            Err(_) => self.avoid(&url),
        }
        verdict
    }

    /// A POST to the peer.
    pub fn request<B>(&self, path: &'static str, content_type: &'static str, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        *request.headers_mut() = self.link.introduction.clone();
        let content_type = HeaderValue::from_static(content_type);
        request.headers_mut().insert(header::CONTENT_TYPE, content_type);
        request
    }

    /// What the peer's answer to a POST means.
    pub fn judge(&self, answer: &Response<Bytes>) -> Result<(), String> {
        let text = String::from_utf8_lossy(answer.body());
        let text = text.trim_end();
        match answer.status() {
            StatusCode::NO_CONTENT => Ok(()),
            // The same status says that a message was for another member.
            StatusCode::FORBIDDEN if text.contains("removed") => {
                self.link.incoming.removed_from_cluster();
                Err("this member was removed from the cluster".into())
            }
            StatusCode::PRECONDITION_FAILED => Err(self.precondition(answer.headers(), text)),
            status => Err(format!("the peer answered {status}: {text}")),
        }
    }

    /// Why the peer and this member don't fit together.
    pub fn precondition(&self, headers: &HeaderMap, text: &str) -> String {
        let config = &self.link.config;
        let ours = (config.version, config.cluster_id);
        let version = handshake::text(headers, handshake::SERVER_VERSION);
        let cluster = handshake::text(headers, CLUSTER_ID);
        match text {
            handshake::INCOMPATIBLE_VERSION => {
                format!(
                    "the peer is of a version that does not fit: {version:?}, this member's is {}",
                    ours.0
                )
            }
            handshake::CLUSTER_MISMATCH => {
                format!(
                    "the peer is of another cluster: {cluster}, this member's is {}",
                    ours.1
                )
            }
            other => format!("the peer refused: {other}"),
        }
    }

    /// Tells what came of a snapshot, from a task.
    pub fn report_snapshot(&self, arrived: bool) {
        let (link, id) = (Arc::clone(&self.link), self.id);
        self.link
            .handle
            .spawn(async move { link.incoming.snapshot_sent(id, arrived) });
    }
}

/// A stream that is up.
pub(crate) struct Connected(Arc<Peer>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

/// An error's text for `Peer::complain`.
impl From<CallError> for String {
    fn from(error: CallError) -> Self {
        error.to_string()
    }
}
