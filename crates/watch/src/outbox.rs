//! The queue between the hub and one client's stream.
//!
//! ```text
//!   hub ── push ──▶ [ Frame | Frame | Frame ] ── poll_next ──▶ gRPC stream
//!    ▲                                                             │
//!    └── collect ◀── Signals ◀── "below half again" / "gone" ──────┘
//! ```
//!
//! The queue is bounded. [`push`](Outbox::push) never waits: it is refused when the queue is full, and
//! the hub remembers where the watcher stood. As soon as the reader has taken the queue below half,
//! the hub is told, once. A reader that goes away is reported the same way, so a stream needs no
//! other clean-up than dropping its [`Frames`].
//!
//! Answers to requests are never refused. They stay bounded because the task that reads the
//! client's requests waits for [room](Outbox::room) before each of them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use types::ErrorKind;

use crate::{Bell, Frame, Limits, lock};

/// Responses an empty queue keeps room for. Most streams idle most of the time: one that was long once
/// does not keep its memory.
const IDLE_FRAMES: usize = 4;

/// One stream of one client, never used twice in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    pub(crate) const MIN: StreamId = StreamId(0);
    pub(crate) const MAX: StreamId = StreamId(u64::MAX);
}

/// Makes outboxes for one hub. A handler opens its own, hands the [`Outbox`] to the hub's loop and
/// answers with the [`Frames`] without waiting for the loop.
#[derive(Clone, Debug)]
pub struct Opener {
    limits: Limits,
    signals: Arc<Signals>,
    bell: Option<Bell>,
}

impl Opener {
    pub(crate) fn new(limits: Limits, waker: Waker) -> Self {
        let signals = Signals {
            waker,
            changed: Mutex::default(),
            next_id: AtomicU64::new(0),
            pending_events: AtomicU64::new(0),
            sent_events: AtomicU64::new(0),
        };
        Opener {
            limits,
            signals: Arc::new(signals),
            bell: None,
        }
    }

    /// The same for streams that are read on the runtime of `bell`.
    pub fn on(self, bell: Bell) -> Self {
        Opener {
            bell: Some(bell),
            ..self
        }
    }

    /// The two ends of a new stream.
    pub fn open(&self) -> (Outbox, Frames) {
        let id = StreamId(self.signals.next_id.fetch_add(1, Ordering::Relaxed));
        let Opener {
            limits,
            signals,
            bell,
        } = self.clone();
        let outbox = Outbox(Arc::new(Shared {
            id,
            limits,
            signals,
            bell,
            queue: Mutex::default(),
        }));
        (outbox.clone(), Frames(outbox))
    }

    pub(crate) fn signals(&self) -> &Signals {
        &self.signals
    }
}

/// What the streams tell their hub.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Wakes the hub's loop.
    waker: Waker,
    /// Streams that went below half after being full, and streams that are gone. A stream adds
    /// itself at most once for each refused push and once at its end.
    changed: Mutex<Vec<StreamId>>,
    next_id: AtomicU64,
    pending_events: AtomicU64,
    sent_events: AtomicU64,
}

impl Signals {
    fn tell(&self, stream: StreamId) {
        let mut changed = lock(&self.changed);
        changed.push(stream);
        let is_first = changed.len() == 1;
        drop(changed);
        if is_first {
            self.waker.wake_by_ref();
        }
    }

    /// The streams that have something to tell.
    pub fn take(&self) -> Vec<StreamId> {
        std::mem::take(&mut lock(&self.changed))
    }

    /// Events in all outboxes.
    pub fn pending_events(&self) -> u64 {
        self.pending_events.load(Ordering::Relaxed)
    }

    /// Events taken out of the outboxes so far.
    pub fn sent_events(&self) -> u64 {
        self.sent_events.load(Ordering::Relaxed)
    }
}

/// The hub's end, and what the task that reads the client's requests keeps for [`room`](Self::room).
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: StreamId,
    limits: Limits,
    signals: Arc<Signals>,
    bell: Option<Bell>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// As by [`cost`].
    bytes: usize,
    /// A push was refused since the queue was last below half.
    refused: bool,
    end: Option<End>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// Nobody reads any more.
    Gone,
    /// The reader is to get this error next, and then no more.
    Error(ErrorKind),
    /// The reader is to see the end of the stream next.
    Done,
}

/// What a frame takes in memory, as if its events were not shared.
fn cost(frame: &Frame) -> usize {
    size_of::<Frame>() + frame.events().len()
}

impl Queue {
    fn is_full(&self, limits: &Limits) -> bool {
        self.frames.len() >= limits.outbox_frames || self.bytes >= limits.outbox_bytes
    }

    fn is_below_half(&self, limits: &Limits) -> bool {
        self.frames.len() <= limits.outbox_frames / 2 && self.bytes <= limits.outbox_bytes / 2
    }

    fn add(&mut self, frame: Frame, signals: &Signals) {
        signals
            .pending_events
            .fetch_add(frame.event_count().into(), Ordering::Relaxed);
        self.bytes += cost(&frame);
        self.frames.push_back(frame);
    }

    fn clear(&mut self, signals: &Signals) {
        let events: u64 = self
            .frames
            .drain(..)
            .map(|frame| u64::from(frame.event_count()))
            .sum();
        signals.pending_events.fetch_sub(events, Ordering::Relaxed);
        (self.frames, self.bytes) = (VecDeque::new(), 0);
    }
}

impl Outbox {
    /// The stream's name in every call to the hub.
    pub fn id(&self) -> StreamId {
        self.0.id
    }

    /// Queues all `frames` or, when the queue is full, none. The queue may end up over its limit by
    /// one call's frames: a response larger than the whole queue must still get through.
    #[must_use]
    pub(crate) fn push(&self, frames: impl IntoIterator<Item = Frame>) -> bool {
        let mut queue = lock(&self.0.queue);
        if queue.end.is_some() {
            return true;
        }
        if queue.is_full(&self.0.limits) {
            queue.refused = true;
            return false;
        }
        frames
            .into_iter()
            .for_each(|frame| queue.add(frame, &self.0.signals));
        let reader = queue.reader.take();
        drop(queue);
        self.ring(reader);
        true
    }

    /// Queues a response that may not be lost: an answer to a request, or a watcher's end.
    pub(crate) fn answer(&self, frame: Frame) {
        let mut queue = lock(&self.0.queue);
        if queue.end.is_none() {
            queue.add(frame, &self.0.signals);
            let reader = queue.reader.take();
            drop(queue);
            self.ring(reader);
        }
    }

    /// Ends the stream; what is queued is dropped, the client resumes elsewhere.
    pub(crate) fn finish(&self, error: Option<ErrorKind>) {
        let mut queue = lock(&self.0.queue);
        if queue.end.is_none() {
            queue.end = Some(error.map_or(End::Done, End::Error));
            queue.clear(&self.0.signals);
            let wakers = [queue.reader.take(), queue.writer.take()];
            drop(queue);
            self.ring(wakers.into_iter().flatten());
        }
    }

    /// Wakes tasks of the stream's runtime, from the hub's thread.
    fn ring(&self, wakers: impl IntoIterator<Item = Waker>) {
        for waker in wakers {
            match &self.0.bell {
                Some(bell) => bell.ring(waker),
                None => waker.wake(),
            }
        }
    }

    /// Whether nobody reads the stream any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(lock(&self.0.queue).end, Some(End::Gone))
    }

    /// Waits until the queue is below its limits: the task that reads the client's requests awaits
    /// this before each, so that a client that only asks and never reads is not answered without end.
    /// `false` when the stream has ended.
    pub async fn room(&self) -> bool {
        poll_fn(|cx| self.poll_room(cx)).await
    }

    /// The poll of [`room`](Self::room). One task at a time.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut queue = lock(&self.0.queue);
        if queue.end.is_some() {
            Poll::Ready(false)
        } else if queue.is_full(&self.0.limits) {
            queue.writer = Some(cx.waker().clone());
            Poll::Pending
        } else {
            Poll::Ready(true)
        }
    }
}

/// The client's end: a stream of responses. Dropping it ends the stream and all its watchers.
#[derive(Debug)]
pub struct Frames(Outbox);

impl Frames {
    /// The next response; an error is the last item.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, ErrorKind>>> {
        let Shared {
            id,
            limits,
            signals,
            queue,
            ..
        } = &*self.0.0;
        let mut queue = lock(queue);
        let Some(frame) = queue.frames.pop_front() else {
            return match queue.end {
                None => {
                    queue.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
                Some(End::Error(error)) => {
                    queue.end = Some(End::Done);
                    Poll::Ready(Some(Err(error)))
                }
                Some(End::Done | End::Gone) => Poll::Ready(None),
            };
        };
        queue.bytes -= cost(&frame);
        if queue.frames.is_empty() {
            queue.frames.shrink_to(IDLE_FRAMES);
        }
        let events = frame.event_count().into();
        signals.pending_events.fetch_sub(events, Ordering::Relaxed);
        signals.sent_events.fetch_add(events, Ordering::Relaxed);
        if queue.is_below_half(limits) {
            let was_refused = std::mem::take(&mut queue.refused);
            let writer = queue.writer.take();
            drop(queue);
            writer.into_iter().for_each(Waker::wake);
            if was_refused {
                signals.tell(*id);
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl futures_core::Stream for Frames {
    type Item = Result<Frame, ErrorKind>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_next(cx)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let Shared {
            id, signals, queue, ..
        } = &*self.0.0;
        let mut queue = lock(queue);
        queue.clear(signals);
        queue.end = Some(End::Gone);
        let writer = queue.writer.take();
        drop(queue);
        writer.into_iter().for_each(Waker::wake);
        signals.tell(*id);
    }
}
