//! Watches: many watchers of the same keys cost the cluster one.
//!
//! For each range that is watched from now on there is one *source*, a watcher of the cluster's, and what it sees goes to all
//! who follow it. Each follower knows the next revision it has to send, so that it can leave the source at any time and go on
//! with a watcher of its own: if it can not keep up, or if the source ends. Who wants history has one from the
//! beginning.
//!
//! Whether somebody may watch is asked of the cluster for each watcher, on its own behalf, by a read of the same keys; that
//! read's revision is also what "from now on" is counted from, so that no write which was acknowledged before is seen.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use client::{Client, Error, Watcher};
use grpc::etcdserverpb::watch_server::Watch;
use parking_lot::Mutex;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use proto::mvccpb::event::EventType;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::calls::{for_call, status};

/// Answers that a follower has not seen yet; who is behind that far goes on alone.
const BEHIND_MAX: usize = 128;
/// Answers that a client has not taken yet; its watchers wait.
const ANSWERS_MAX: usize = 64;
/// Watchers of one stream.
const WATCHERS_MAX: usize = 64 << 10;

pub struct Watches {
    pub client: Client,
    pub sources: Arc<Sources>,
}

/// What is watched, and what that saves.
#[derive(Default)]
pub struct Sources {
    ranges: Mutex<HashMap<(Bytes, Bytes), Weak<Source>>>,
    /// Answers that the cluster did not have to send, because the same went to several.
    pub events: Arc<AtomicU64>,
}

/// A range that is watched for all who follow.
struct Source {
    /// All events up to this revision have been given to the followers of that time.
    seen: Arc<Mutex<i64>>,
    events: broadcast::Sender<Arc<WatchResponse>>,
    /// How far it is, is wanted to be known.
    asked: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl Watch for Watches {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let client = for_call(&self.client, &request);
        let watchers = Watchers {
            client,
            sources: self.sources.clone(),
            answers,
            watchers: HashMap::new(),
            next: 0,
        };
        tokio::spawn(watchers.serve(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

type Answers = mpsc::Sender<Result<WatchResponse, Status>>;

/// The watchers of one stream.
struct Watchers {
    /// On behalf of who has opened it.
    client: Client,
    sources: Arc<Sources>,
    answers: Answers,
    watchers: HashMap<i64, Running>,
    next: i64,
}

/// A watcher at work, until this is dropped.
struct Running {
    task: JoinHandle<()>,
    /// Everything up to this revision has been sent.
    sent: Arc<AtomicI64>,
    source: Option<Arc<Source>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watchers {
    async fn serve(mut self, mut requests: Streaming<WatchRequest>) {
        let answers = self.answers.clone();
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                // Nobody takes the answers any more.
                () = answers.closed() => return,
            };
            let union = match request {
                Some(Ok(request)) => request.request_union,
                // A client that has only closed its side still watches.
                None => return answers.closed().await,
                Some(Err(_)) => return,
            };
            let answer = match union {
                Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
                Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
                Some(RequestUnion::ProgressRequest(_)) => self.progress(),
                None => None,
            };
            if let Some(answer) = answer
                && answers.send(Ok(answer)).await.is_err()
            {
                return;
            }
        }
    }

    /// Creates a watcher. What it sends comes behind the answer.
    async fn create(&mut self, mut create: WatchCreateRequest) -> Option<WatchResponse> {
        self.watchers.retain(|_, running| !running.task.is_finished());
        if self.watchers.len() >= WATCHERS_MAX {
            return Some(refused("etcdserver: too many requests".into()));
        }
        let Some(id) = self.id(create.watch_id) else {
            return Some(refused(
                "mvcc: duplicate watch ID provided on the WatchStream".into(),
            ));
        };
        if create.key.is_empty() {
            create.key = Bytes::from_static(b"\0");
        }
        match self.begin(id, create).await {
            Ok((header, running, begin)) => {
                let created = WatchResponse {
                    header: Some(header),
                    watch_id: id,
                    created: true,
                    ..WatchResponse::default()
                };
                if self.answers.send(Ok(created)).await.is_ok() {
                    begin.notify_one();
                }
                self.watchers.insert(id, running);
                None
            }
            Err(Error::WatchCanceled { reason }) => Some(refused(reason)),
            Err(error) => Some(refused(reason(error))),
        }
    }

    /// The number of a new watcher, if it is free.
    fn id(&mut self, wanted: i64) -> Option<i64> {
        if wanted != 0 {
            return (!self.watchers.contains_key(&wanted)).then_some(wanted);
        }
        while self.watchers.contains_key(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    async fn begin(
        &self,
        id: i64,
        create: WatchCreateRequest,
    ) -> Result<(ResponseHeader, Running, Arc<Notify>), Error> {
        let look = RangeRequest {
            key: create.key.clone(),
            range_end: create.range_end.clone(),
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        let mut header = self.client.range(look).await?.header.unwrap_or_default();
        let is_from_now = create.start_revision == 0;
        let mut next = match is_from_now {
            true => header.revision + 1,
            false => create.start_revision,
        };
        let mut follower = Follower {
            id,
            client: self.client.clone(),
            answers: self.answers.clone(),
            sent: Arc::new(AtomicI64::new(next - 1)),
            next,
            create,
        };
        let is_in_the_future = next > header.revision;
        let followed = match is_in_the_future {
            true => {
                self.sources
                    .follow(&self.client, &follower.create, header.revision)
                    .await?
            }
            false => None,
        };
        let source = followed.as_ref().map(|followed| followed.source.clone());
        let feed = match followed {
            Some(followed) if is_from_now || followed.seen < next => {
                if is_from_now {
                    // It may have seen what was written after the look.
                    next = next.max(followed.seen + 1);
                    header.revision = next - 1;
                }
                follower.next = next;
                Feed::Source {
                    events: followed.events,
                    _source: followed.source,
                }
            }
            _ => Feed::Own(follower.alone().await?),
        };
        let begin = Arc::new(Notify::new());
        let (sent, begins) = (follower.sent.clone(), begin.clone());
        let task = tokio::spawn(async move {
            begins.notified().await;
            follower.run(feed).await;
        });
        Ok((header, Running { task, sent, source }, begin))
    }

    fn cancel(&mut self, id: i64) -> Option<WatchResponse> {
        self.watchers.remove(&id)?;
        Some(WatchResponse {
            header: Some(ResponseHeader::default()),
            watch_id: id,
            canceled: true,
            ..WatchResponse::default()
        })
    }

    /// How far all watchers of the stream are. That they may get further, their sources are asked too.
    fn progress(&mut self) -> Option<WatchResponse> {
        for source in self
            .watchers
            .values()
            .filter_map(|running| running.source.as_ref())
        {
            source.asked.notify_one();
        }
        let sent = self
            .watchers
            .values()
            .map(|running| running.sent.load(Ordering::Acquire))
            .min()?;
        let header = ResponseHeader {
            revision: sent,
            ..ResponseHeader::default()
        };
        Some(WatchResponse {
            header: Some(header),
            watch_id: -1,
            ..WatchResponse::default()
        })
    }
}

/// A place among the followers of a source.
struct Followed {
    source: Arc<Source>,
    events: broadcast::Receiver<Arc<WatchResponse>>,
    /// What was given to others before.
    seen: i64,
}

impl Sources {
    /// Watchers that cost the cluster nothing, because there is another one of the same keys.
    pub fn coalescing(&self) -> usize {
        let ranges = self.ranges.lock();
        let sources = ranges.values().filter_map(Weak::upgrade);
        sources
            .map(|source| source.events.receiver_count().saturating_sub(1))
            .sum()
    }

    /// Follows the source of a range, which is opened behind `revision` if there is none.
    async fn follow(
        &self,
        client: &Client,
        create: &WatchCreateRequest,
        revision: i64,
    ) -> Result<Option<Followed>, Error> {
        let range = (create.key.clone(), create.range_end.clone());
        if let Some(source) = self.source(&range) {
            return Ok(Some(source.follow()));
        }
        let open = WatchCreateRequest {
            key: range.0.clone(),
            range_end: range.1.clone(),
            start_revision: revision + 1,
            progress_notify: true,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let watcher = client.watch(open).await?;
        let (events, _) = broadcast::channel(BEHIND_MAX);
        let (seen, asked) = (Arc::new(Mutex::new(revision)), Arc::new(Notify::new()));
        let feed = feed(
            watcher,
            events.clone(),
            seen.clone(),
            asked.clone(),
            self.events.clone(),
        );
        let task = tokio::spawn(feed);
        let source = Arc::new(Source {
            seen,
            events,
            asked,
            task,
        });
        let followed = source.follow();
        let mut ranges = self.ranges.lock();
        ranges.retain(|_, source| source.strong_count() > 0);
        // Should two have been opened at the same time, the later one is the one to follow.
        ranges.insert(range, Arc::downgrade(&source));
        Ok(Some(followed))
    }

    fn source(&self, range: &(Bytes, Bytes)) -> Option<Arc<Source>> {
        let source = self.ranges.lock().get(range)?.upgrade()?;
        (!source.task.is_finished()).then_some(source)
    }
}

impl Source {
    fn follow(self: &Arc<Self>) -> Followed {
        // Nothing is given out while this is held.
        let seen = self.seen.lock();
        Followed {
            events: self.events.subscribe(),
            seen: *seen,
            source: self.clone(),
        }
    }
}

/// Gives what the cluster tells to all followers, until there is an error, after which they go on alone.
async fn feed(
    mut watcher: Watcher,
    events: broadcast::Sender<Arc<WatchResponse>>,
    seen: Arc<Mutex<i64>>,
    asked: Arc<Notify>,
    saved: Arc<AtomicU64>,
) {
    loop {
        tokio::select! {
            next = watcher.next() => {
                let Some(Ok(answer)) = next else {
                    return;
                };
                let mut seen = seen.lock();
                *seen = (*seen).max(last_revision(&answer));
                // Without followers it is about to end.
                let followers = events.send(Arc::new(answer)).unwrap_or(0) as u64;
                saved.fetch_add(followers.saturating_sub(1), Ordering::Relaxed);
            }
            () = asked.notified() => {
                // A watcher that has ended says so itself.
                let _ = watcher.request_progress().await;
            }
        }
    }
}

/// The last revision that an answer tells everything of.
fn last_revision(answer: &WatchResponse) -> i64 {
    let last = answer.events.last().and_then(|event| event.kv.as_ref());
    let header = answer.header.as_ref().map_or(0, |header| header.revision);
    last.map_or(header, |kv| kv.mod_revision)
}

/// Where a watcher's events come from.
enum Feed {
    /// From a source, which lasts as long as somebody follows it.
    Source {
        events: broadcast::Receiver<Arc<WatchResponse>>,
        _source: Arc<Source>,
    },
    Own(Watcher),
}

/// A client's watcher.
struct Follower {
    id: i64,
    client: Client,
    create: WatchCreateRequest,
    answers: Answers,
    /// The first revision that is not sent yet.
    next: i64,
    /// The one before, for others to see.
    sent: Arc<AtomicI64>,
}

impl Follower {
    /// A watcher of the cluster's for this one alone.
    async fn alone(&self) -> Result<Watcher, Error> {
        let create = WatchCreateRequest {
            start_revision: self.next,
            fragment: false,
            watch_id: 0,
            ..self.create.clone()
        };
        self.client.watch(create).await
    }

    async fn run(mut self, mut feed: Feed) {
        let error = loop {
            let answer = match &mut feed {
                Feed::Source { events, .. } => match events.recv().await {
                    Ok(answer) => WatchResponse::clone(&answer),
                    // It is behind, or the source has ended.
                    Err(_) => match self.alone().await {
                        Ok(watcher) => {
                            feed = Feed::Own(watcher);
                            continue;
                        }
                        Err(error) => break error,
                    },
                },
                Feed::Own(watcher) => match watcher.next().await {
                    Some(Ok(answer)) => answer,
                    Some(Err(error)) => break error,
                    None => return,
                },
            };
            if self.send(answer).await.is_err() {
                return;
            }
        };
        // Nobody has to be there to hear of it.
        let _ = self.answers.send(Ok(ended(self.id, error))).await;
    }

    /// Sends what this watcher wants of an answer.
    async fn send(
        &mut self,
        mut answer: WatchResponse,
    ) -> Result<(), mpsc::error::SendError<Result<WatchResponse, Status>>> {
        let is_progress = answer.events.is_empty();
        let seen = last_revision(&answer);
        answer.events.retain(|event| {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            let unwanted = match event.r#type() {
                EventType::Put => FilterType::Noput,
                EventType::Delete => FilterType::Nodelete,
            };
            revision >= self.next && !self.create.filters.contains(&unwanted.into())
        });
        if !self.create.prev_kv {
            answer.events.iter_mut().for_each(|event| event.prev_kv = None);
        }
        let is_wanted = match is_progress {
            true => self.create.progress_notify && seen + 1 >= self.next,
            false => !answer.events.is_empty(),
        };
        if is_wanted {
            answer.watch_id = self.id;
            self.answers.send(Ok(answer)).await?;
        }
        self.next = self.next.max(seen + 1);
        self.sent.store(self.next - 1, Ordering::Release);
        Ok(())
    }
}

fn refused(reason: String) -> WatchResponse {
    WatchResponse {
        header: Some(ResponseHeader::default()),
        watch_id: -1,
        created: true,
        canceled: true,
        cancel_reason: reason,
        ..WatchResponse::default()
    }
}

fn ended(id: i64, error: Error) -> WatchResponse {
    let mut ended = WatchResponse {
        header: Some(ResponseHeader::default()),
        watch_id: id,
        canceled: true,
        ..WatchResponse::default()
    };
    match error {
        Error::Compacted { revision } => ended.compact_revision = revision,
        Error::WatchCanceled { reason } => ended.cancel_reason = reason,
        error => ended.cancel_reason = reason(error),
    }
    ended
}

/// An error as servers put one into a field.
fn reason(error: Error) -> String {
    let status = status(error);
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    )
}
