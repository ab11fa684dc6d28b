//! The watch loop: owns the hub.
//!
//! The apply loop feeds it every batch once it is published; streams feed it their requests. The feed
//! is bounded: when the hub falls behind, the apply loop does not wait for it but notes up to which
//! revision events were left out, and the hub sends its watchers to the store for those.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mvcc::{Mvcc, RangeError, Wait};
use types::{ErrorKind, Revision};
use watch::{Bell, Create, Event, History, Hub, Identity, Opener, Options, Outbox, StreamId};

use super::Failure;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::replies::lane;

/// Batches of events that may wait for the hub. They are slices of what the store keeps in memory
/// anyway; beyond this many the hub is better served by reading history in large pieces.
const FEED_MAX: usize = 1024;

/// What the hub is told.
pub enum Request {
    /// A stream begins.
    Open(Outbox),
    /// A stream asks for a watcher; the revision was current when it did.
    Create(StreamId, Create, i64),
    /// A stream asked for a watcher that it may not have.
    Refuse(StreamId, ErrorKind),
    /// A stream asks to end a watcher.
    Cancel(StreamId, i64),
    /// A stream asks how far it is.
    Progress(StreamId),
    /// A stream is to end with an error.
    End(StreamId, ErrorKind),
    /// Revisions up to this one were published, with these changes.
    Published(i64, Vec<mvcc::Change>),
    /// History below this revision is gone.
    Compacted(i64),
    /// There is a new term.
    Term(u64),
    /// A stream has drained or gone.
    Woken,
}

/// The way to the watch loop.
#[derive(Clone)]
pub struct WatchHandle {
    shared: Arc<Shared>,
    opener: Opener,
    /// One for each lane.
    bells: Arc<[Bell]>,
}

struct Shared {
    inbox: Inbox<Request>,
    /// Streams that are open or about to be. While there are none, nothing is fed.
    streams: AtomicUsize,
    /// Events up to this revision were left out of the feed.
    lost: AtomicI64,
    counts: parking_lot::Mutex<watch::Metrics>,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.inbox.deliver(Request::Woken);
    }
}

/// A stream that is open, as its requests come in.
pub struct OpenStream {
    /// Its name.
    pub id: StreamId,
    /// Its outbox, to wait for room in.
    pub outbox: Outbox,
    shared: Arc<Shared>,
}

impl OpenStream {
    /// Tells the hub something about this stream. The caller waits for room in the outbox first, so
    /// that there is at most one request of a stream on its way.
    pub fn tell(&self, request: Request) {
        self.shared.inbox.deliver(request);
    }
}

/// Counts a stream as open as long as it lives.
pub struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

impl WatchHandle {
    /// Opens a stream: what the client asks goes in at the first, answers come out of the second, and
    /// it counts as open as long as the third lives.
    pub fn open(&self) -> (OpenStream, watch::Frames, Counted) {
        // Before the hub looks at the store's revision: see `feed`.
        self.shared.streams.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(self.shared.clone());
        let (outbox, frames) = self
            .opener
            .clone()
            .on(self.bells[lane() % self.bells.len()].clone())
            .open();
        self.shared.inbox.deliver(Request::Open(outbox.clone()));
        (
            OpenStream {
                id: outbox.id(),
                outbox,
                shared: self.shared.clone(),
            },
            frames,
            counted,
        )
    }

    /// Wakes the streams of lane `lane`, forever. Runs as a task of that lane.
    pub async fn answer_bell(self, lane: usize) {
        self.bells[lane].clone().answer().await;
    }

    /// Feeds what was just published. Call it after publishing: a stream that was not counted yet
    /// then finds the revision published when the hub takes charge of it.
    pub fn feed(&self, revision: i64, changes: Vec<mvcc::Change>) {
        if self.shared.streams.load(Ordering::SeqCst) == 0 {
            return;
        }
        if self.shared.inbox.len() >= FEED_MAX {
            self.shared.lost.fetch_max(revision, Ordering::SeqCst);
            return;
        }
        self.shared.inbox.deliver(Request::Published(revision, changes));
    }

    /// The store was replaced by one that is at `revision`: what happened in between is read from it.
    pub fn replaced(&self, revision: i64, compacted: i64) {
        self.shared.lost.fetch_max(revision, Ordering::SeqCst);
        self.shared.inbox.deliver(Request::Compacted(compacted));
    }

    /// Tells of a compaction or a new term.
    pub fn tell(&self, request: Request) {
        self.shared.inbox.deliver(request);
    }

    /// The hub's counts, as of its last round.
    pub fn counts(&self) -> watch::Metrics {
        *self.shared.counts.lock()
    }

    /// Ends the loop.
    pub fn close(&self) {
        self.shared.inbox.close();
    }
}

/// The loop.
pub struct WatchLoop {
    hub: Hub,
    mvcc: Arc<Mvcc>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    failure: Failure,
    started: Instant,
}

/// A hub over the store for streams on so many lanes, and the way to it.
pub fn new(
    identity: Identity,
    options: Options,
    mvcc: Arc<Mvcc>,
    lanes: usize,
    metrics: Arc<Metrics>,
    failure: Failure,
) -> (WatchLoop, WatchHandle) {
    let shared = Arc::new(Shared {
        inbox: Inbox::new(FEED_MAX),
        streams: AtomicUsize::new(0),
        lost: AtomicI64::new(0),
        counts: Default::default(),
    });
    let waker = Waker::from(shared.clone());
    let hub = Hub::new(identity, mvcc.current(), mvcc.compacted(), options, waker);
    let handle = WatchHandle {
        shared: shared.clone(),
        opener: hub.opener(),
        bells: (0..lanes.max(1)).map(|_| Bell::default()).collect(),
    };
    (
        WatchLoop {
            hub,
            mvcc,
            shared,
            metrics,
            failure,
            started: Instant::now(),
        },
        handle,
    )
}

impl WatchLoop {
    /// Runs until the inbox is closed.
    pub fn run(mut self) {
        let mut requests = Vec::new();
        loop {
            let until = match self.hub.next_job() {
                // Watchers are behind: look for requests, but do not wait for them.
                Some(_) => Some(Instant::now()),
                None => self
                    .hub
                    .next_tick_ms()
                    .map(|due| self.started + Duration::from_millis(due)),
            };
            if !self.shared.inbox.drain(&mut requests, until) {
                return;
            }
            let lost = self.shared.lost.swap(0, Ordering::SeqCst);
            if lost > 0 {
                self.hub.overflow(lost);
            }
            for request in requests.drain(..) {
                if let Err(error) = self.handle(request) {
                    return self
                        .failure
                        .report("the store holds a change that is no key-value pair", error);
                }
            }
            self.tick();
            if let Err(error) = self.catch_up() {
                return self.failure.report("cannot read the history for watchers", error);
            }
            *self.shared.counts.lock() = self.hub.metrics();
        }
    }

    /// Lets the hub know the time, and notes how long that takes when it has progress to report.
    fn tick(&mut self) {
        let (began, now_ms) = (Instant::now(), self.now_ms());
        let is_due = self.hub.next_tick_ms().is_some_and(|due| due <= now_ms);
        self.hub.tick(now_ms);
        if is_due {
            self.metrics
                .debugging_server_watch_send_loop_progress_duration_seconds
                .observe_duration(began.elapsed());
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn handle(&mut self, request: Request) -> Result<(), prost::DecodeError> {
        match request {
            Request::Open(outbox) => {
                // What was published while nobody listened was not fed.
                self.hub.overflow(self.mvcc.current());
                self.hub.open(outbox, self.now_ms());
            }
            Request::Create(stream, create, current) => self.hub.create(stream, create, current),
            Request::Refuse(stream, error) => self.hub.refuse(stream, error),
            Request::Cancel(stream, watch_id) => self.hub.cancel(stream, watch_id),
            Request::Progress(stream) => self.hub.progress(stream),
            Request::End(stream, error) => self.hub.end_stream(stream, Some(error)),
            Request::Published(revision, changes) => {
                let events = events(changes)?;
                let mvcc = &self.mvcc;
                self.hub.publish(revision, &events, &mut |key, revision| {
                    previous(mvcc, key, revision)
                });
            }
            Request::Compacted(revision) => self.hub.compacted(revision),
            Request::Term(term) => self.hub.set_term(term),
            Request::Woken => self.hub.collect(),
        }
        Ok(())
    }

    /// Reads one piece of history for watchers that are behind.
    fn catch_up(&mut self) -> Result<(), RangeError> {
        let Some(job) = self.hub.next_job() else {
            return Ok(());
        };
        let mut from = Revision::new(job.from, 0);
        let mut changes = Vec::new();
        let reached = loop {
            let piece = match self.mvcc.history(from, job.upto, job.max_bytes) {
                Ok(piece) => piece,
                // The hub learns below that these watchers are too late.
                Err(RangeError::Compacted) => break job.from - 1,
                Err(error) => return Err(error),
            };
            changes.extend(piece.changes);
            match piece.next {
                None => break job.upto,
                // Only whole revisions are delivered; one larger than a piece is read on.
                Some(next) if next.main > job.from => break next.main - 1,
                Some(next) => from = next,
            }
        };
        changes.retain(|change| change.rev.main <= reached);
        let events = events(changes).map_err(|error| mvcc::ReadError::Damaged(error.to_string()))?;
        let history = History {
            events: &events,
            reached,
            compacted: self.mvcc.compacted(),
        };
        let mvcc = &self.mvcc;
        self.hub
            .history(job, history, &mut |key, revision| previous(mvcc, key, revision));
        Ok(())
    }
}

fn events(changes: Vec<mvcc::Change>) -> Result<Vec<Event>, prost::DecodeError> {
    changes
        .into_iter()
        .map(|change| Event::parse(change.rev.main, change.tombstone, change.kv))
        .collect()
}

/// The key's value at `revision`, the one before a change; a compacted one is left out, as etcd does.
fn previous(mvcc: &Mvcc, key: &[u8], revision: i64) -> Option<Bytes> {
    match mvcc.previous(key, revision + 1, Wait::Yes) {
        Ok(kv) => kv,
        Err(error) => {
            tracing::error!(error = %error, "cannot read the previous value of a watched key");
            None
        }
    }
}
