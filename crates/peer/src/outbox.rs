//! What waits to be written into a stream, and the stream itself.
//!
//! A stream is the body of an answer. Whoever polls it, the connection that writes, takes all that
//! waits and makes one write of it. There is no task in between.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use tokio::time::Sleep;

use crate::LINK_HEARTBEAT;
use crate::codec::{Codec, Encoder};
use crate::peer::Peer;

/// Messages that wait for a stream; etcd's number. It holds a second of a busy follower's answers.
pub const QUEUE_MESSAGES: usize = 4096;
/// What the waiting messages may be together: many times what raft has in flight on a link that works.
/// A single message may be larger.
pub const QUEUE_BYTES: usize = 256 << 20;
/// Raft heartbeats that wait. They are small and each outdates those before it.
pub const URGENT_MESSAGES: usize = 256;
/// A write is closed when it has this size, so that a long queue does not become one large buffer.
const WRITE_BYTES: usize = 1 << 20;

/// Whether a message must not wait behind others.
pub(crate) fn is_urgent(message: &Message) -> bool {
    matches!(
        message.r#type(),
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResp
    )
}

/// What became of a message.
pub(crate) enum Pushed {
    /// It waits. The waker is the stream's, if that sleeps.
    Queued(Option<Waker>),
    /// There is no room; it is lost.
    Full,
    /// There is no stream.
    NoStream(Box<Message>),
}

/// What waits for one stream.
pub(crate) struct Outbox(Mutex<State>);

struct State {
    /// Counts the streams; only the latest may write.
    stream: u64,
    attached: bool,
    urgent: Queue,
    queue: Queue,
    waker: Option<Waker>,
    /// When the stream last asked for something to write.
    polled: Instant,
    /// How long it may not do so while something waits.
    patience: Duration,
}

/// Messages with their sizes.
#[derive(Default)]
struct Queue {
    messages: VecDeque<(usize, Message)>,
    bytes: usize,
}

impl Queue {
    fn has_room(&self, len: usize, messages: usize) -> bool {
        self.messages.is_empty() || self.messages.len() < messages && self.bytes + len <= QUEUE_BYTES
    }

    fn push(&mut self, len: usize, message: Message) {
        self.bytes += len;
        self.messages.push_back((len, message));
    }

    /// Moves messages into a batch until that is full.
    fn drain_into(&mut self, batch: &mut Vec<Message>, bytes: &mut usize) {
        while *bytes < WRITE_BYTES {
            let Some((len, message)) = self.messages.pop_front() else {
                return;
            };
            self.bytes -= len;
            *bytes += len;
            batch.push(message);
        }
    }
}

impl Outbox {
    pub fn new(patience: Duration) -> Self {
        Outbox(Mutex::new(State {
            stream: 0,
            attached: false,
            urgent: Queue::default(),
            queue: Queue::default(),
            waker: None,
            polled: Instant::now(),
            patience,
        }))
    }

    /// Lets a message wait.
    pub fn push(&self, message: Message) -> Pushed {
        let mut state = self.0.lock();
        if !state.attached {
            return Pushed::NoStream(Box::new(message));
        }
        if state.is_stuck() {
            state.detach();
            return Pushed::Full;
        }
        let len = message.encoded_len();
        let (queue, room) = match is_urgent(&message) {
            true => (&mut state.urgent, URGENT_MESSAGES),
            false => (&mut state.queue, QUEUE_MESSAGES),
        };
        if !queue.has_room(len, room) {
            return Pushed::Full;
        }
        queue.push(len, message);
        Pushed::Queued(state.waker.take())
    }

    /// Makes room for a new stream; the one before it ends.
    fn attach(&self) -> u64 {
        let mut state = self.0.lock();
        state.detach();
        state.attached = true;
        state.stream += 1;
        state.polled = Instant::now();
        state.stream
    }

    /// Ends the stream. Whether messages are lost by that.
    pub fn close(&self) -> bool {
        self.0.lock().detach()
    }

    /// Ends the stream of that number, unless a newer one has taken its place.
    fn close_stream(&self, stream: u64) -> bool {
        let mut state = self.0.lock();
        state.stream == stream && state.detach()
    }

    /// What the stream of that number is to write; nothing once it has ended. Without messages, leaves
    /// the waker.
    fn poll(&self, stream: u64, context: &mut Context<'_>) -> Option<Vec<Message>> {
        let mut state = self.0.lock();
        if !state.attached || state.stream != stream {
            return None;
        }
        state.polled = Instant::now();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        state.urgent.drain_into(&mut batch, &mut bytes);
        state.queue.drain_into(&mut batch, &mut bytes);
        if batch.is_empty() {
            state.waker = Some(context.waker().clone());
        }
        Some(batch)
    }
}

impl State {
    fn is_waiting(&self) -> bool {
        !(self.urgent.messages.is_empty() && self.queue.messages.is_empty())
    }

    /// Whether something waits that the network has not taken for too long.
    fn is_stuck(&self) -> bool {
        self.is_waiting() && self.polled.elapsed() > self.patience
    }

    fn detach(&mut self) -> bool {
        let lost = self.is_waiting();
        self.attached = false;
        self.urgent = Queue::default();
        self.queue = Queue::default();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        lost
    }
}

/// An endless body: the messages for one peer, in one codec.
pub(crate) struct Stream {
    peer: Arc<Peer>,
    codec: Codec,
    number: u64,
    encoder: Encoder,
    buffer: BytesMut,
    heartbeat: Pin<Box<Sleep>>,
}

impl Stream {
    /// Takes the place of the peer's stream of the same codec.
    pub fn open(peer: Arc<Peer>, codec: Codec) -> Self {
        Stream {
            number: peer.outbox(codec).attach(),
            encoder: Encoder::new(codec),
            buffer: BytesMut::new(),
            heartbeat: Box::pin(tokio::time::sleep(LINK_HEARTBEAT)),
            peer,
            codec,
        }
    }

    fn write(&mut self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let written = self.buffer.split().freeze();
        self.peer.metrics.sent(written.len());
        self.heartbeat
            .as_mut()
            .reset(tokio::time::Instant::now() + LINK_HEARTBEAT);
        Poll::Ready(Some(Ok(Frame::data(written))))
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let Some(batch) = this.peer.outbox(this.codec).poll(this.number, context) else {
            return Poll::Ready(None);
        };
        for message in &batch {
            this.encoder.encode(message, &mut this.buffer);
        }
        if batch.is_empty() {
            std::task::ready!(this.heartbeat.as_mut().poll(context));
            this.encoder.heartbeat(&mut this.buffer);
        }
        this.write()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.peer.outbox(self.codec).close_stream(self.number) {
            self.peer.link.incoming.unreachable(self.peer.id);
        }
    }
}
