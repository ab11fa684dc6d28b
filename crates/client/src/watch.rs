//! Watching keys, across lost connections.
//!
//! All watchers of a client share one stream (the hub has it); ids and reconnections are hidden from them. The hub knows for
//! each watcher the next revision it has to see, and that is all it takes: after a lost connection the watcher is
//! created again from there, at whichever member answers, so that no event comes twice and none is missed. If it can
//! not be so because that revision has been compacted, the watcher ends with [`Error::Compacted`].
//!
//! A watcher that does not read is no burden to others: when its queue is full, its events are no longer asked for, and
//! once it has read half of them, it is created again from where it is.
//!
//! Watchers are created one after the other, because that is how their answers are told apart.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::info;

use crate::call::{Again, NO_LEADER, jittered, next};
use crate::namespace::{Enter, Leave};
use crate::{Client, Error, next_or_close};

/// Answers that a watcher has not read yet. Beyond that it is cut off until it has read half.
const UNREAD_MAX: usize = 128;
/// Wishes that the hub has not seen yet; who has another one waits.
const WISHES_MAX: usize = 64;
/// Requests that the connection has not taken yet.
const REQUESTS_MAX: usize = 16;
/// The wait after the first refusal; it doubles with each further one, up to the longest.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often another token is tried in a row.
const RENEWALS_MAX: u32 = 3;

const PATH: &str = "/etcdserverpb.Watch/Watch";

type Event = Result<WatchResponse, Error>;

/// What happens to some keys, from one revision on. Dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    created: WatchResponse,
    events: mpsc::Receiver<Event>,
    id: u64,
    hub: mpsc::Sender<Wish>,
    is_over: bool,
}

impl Watcher {
    /// The answer by which it began. Without a `start_revision`, all that comes later than its header's revision is seen.
    pub fn created(&self) -> &WatchResponse {
        &self.created
    }

    /// What happened next. All events of one revision come at once; an answer without events tells how far the
    /// watcher is. There is nothing after an error.
    pub async fn next(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        let next = self.events.recv().await;
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }

    /// Asks how far the watcher is. The answer comes among the events, once all of them up to then have come; if some of
    /// the client's watchers have not caught up, there is none.
    pub async fn request_progress(&self) -> Result<(), Error> {
        let wish = Wish::Progress(self.id);
        self.hub.send(wish).await.map_err(|_| Error::Closed)
    }

    /// Ends it.
    pub fn cancel(self) {}
}

impl Client {
    /// Watches keys. There is a watcher once the cluster has agreed, so nothing that happens from then on is missed.
    pub async fn watch(&self, mut request: WatchCreateRequest) -> Result<Watcher, Error> {
        // The last place is for the end.
        let (events, receiver) = mpsc::channel(UNREAD_MAX + 1);
        let (ready, created) = oneshot::channel();
        let id = self.core.next_watcher();
        if let Some(space) = &self.core.namespace {
            request.enter(space)?;
        }
        let mut wish = Wish::Watch(id, Box::new(Entry::new(request, events, ready)));
        let hub = loop {
            let hub = self.hub();
            match hub.send(wish).await {
                Ok(()) => break hub,
                // That hub has just ended.
                Err(mpsc::error::SendError(unheard)) => wish = unheard,
            }
        };
        let created = created.await.unwrap_or(Err(Error::Closed))?;
        Ok(Watcher {
            created,
            events: receiver,
            id,
            hub,
            is_over: false,
        })
    }

    fn hub(&self) -> mpsc::Sender<Wish> {
        let start = |wishes| drop(tokio::spawn(Hub::new(self.clone(), wishes).run()));
        self.core.hubs.of(self, WISHES_MAX, start)
    }
}

/// What the hub is asked for.
pub enum Wish {
    Watch(u64, Box<Entry>),
    Progress(u64),
}

/// A watcher as the hub knows it.
pub struct Entry {
    /// Asks for all that the watcher has not seen yet.
    request: WatchCreateRequest,
    events: mpsc::Sender<Event>,
    /// Who waits for the watcher to begin.
    ready: Option<oneshot::Sender<Event>>,
    /// Its number on the stream, while it is there.
    live: Option<i64>,
    /// The beginning of an answer whose end has not come yet.
    begun: Option<WatchResponse>,
    asks_progress: bool,
}

impl Entry {
    fn new(request: WatchCreateRequest, events: mpsc::Sender<Event>, ready: oneshot::Sender<Event>) -> Self {
        Entry {
            request,
            events,
            ready: Some(ready),
            live: None,
            begun: None,
            asks_progress: false,
        }
    }

    /// The last it hears.
    fn end(mut self, error: Error) {
        match self.ready.take() {
            Some(ready) => drop(ready.send(Err(error))),
            // There is room for it, unless the reader is gone.
            None => drop(self.events.try_send(Err(error))),
        }
    }
}

/// Why a stream has ended.
enum End {
    /// Nobody watches any more.
    Idle,
    Failed(Error),
}

struct Hub {
    client: Client,
    wishes: mpsc::Receiver<Wish>,
    watchers: HashMap<u64, Entry>,
    /// Watchers by their numbers on the stream.
    live: HashMap<i64, u64>,
    /// Those that are to be created on the stream.
    waiting: VecDeque<u64>,
    /// The one whose creation is not answered yet.
    creating: Option<u64>,
    /// Requests that are to be sent: a creation, cancellations of no more than what is there, and a few wishes.
    outbox: VecDeque<WatchRequest>,
    /// Yield watchers whose reader is gone.
    gone: FuturesUnordered<BoxFuture<'static, u64>>,
    /// Yield watchers that were full and have room again.
    room: FuturesUnordered<BoxFuture<'static, u64>>,
    /// Streams in a row that came to nothing.
    failures: u32,
    again: Again,
}

impl Hub {
    fn new(client: Client, wishes: mpsc::Receiver<Wish>) -> Self {
        Hub {
            client,
            wishes,
            watchers: HashMap::new(),
            live: HashMap::new(),
            waiting: VecDeque::new(),
            creating: None,
            outbox: VecDeque::new(),
            gone: FuturesUnordered::new(),
            room: FuturesUnordered::new(),
            failures: 0,
            again: Again::default(),
        }
    }

    async fn run(mut self) {
        // It is started by who has a wish.
        if let Some(wish) = self.wishes.recv().await {
            self.take(wish);
        }
        while let End::Failed(error) = self.stream().await {
            self.recover(error);
        }
    }

    /// Opens a stream, brings all watchers onto it, and serves them until it ends.
    async fn stream(&mut self) -> End {
        self.begin();
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        let client = self.client.clone();
        let again = std::mem::take(&mut self.again);
        let mut opening = pin!(client.open(again, PATH, ReceiverStream::new(outgoing)));
        let mut answers: Option<Streaming<WatchResponse>> = None;
        loop {
            if self.watchers.is_empty() {
                match next_or_close(&mut self.wishes).await {
                    Some(wish) => self.take(wish),
                    None => return End::Idle,
                }
            }
            self.create_next();
            tokio::select! {
                Some(wish) = self.wishes.recv(), if self.outbox.len() < REQUESTS_MAX => self.take(wish),
                Some(id) = self.gone.next() => self.forget(id),
                Some(id) = self.room.next() => self.waiting.push_back(id),
                opened = &mut opening, if answers.is_none() => match opened {
                    Ok(opened) => answers = Some(opened),
                    Err(error) => return End::Failed(error),
                },
                Ok(permit) = requests.reserve(), if !self.outbox.is_empty() => {
                    if let Some(request) = self.outbox.pop_front() {
                        permit.send(request);
                    }
                }
                answer = next(&mut answers) => {
                    if let Err(error) = answer.and_then(|answer| self.hear(answer)) {
                        return End::Failed(error);
                    }
                }
            }
        }
    }

    /// All watchers are to be created anew, but for those that do not read.
    fn begin(&mut self) {
        self.live.clear();
        self.outbox.clear();
        let again = self.creating.take();
        self.waiting.extend(again);
        for (id, entry) in &mut self.watchers {
            entry.begun = None;
            self.waiting.extend(entry.live.take().map(|_| *id));
        }
    }

    fn take(&mut self, wish: Wish) {
        match wish {
            Wish::Watch(id, entry) => {
                let events = entry.events.clone();
                self.gone.push(Box::pin(async move {
                    events.closed().await;
                    id
                }));
                self.watchers.insert(id, *entry);
                self.waiting.push_back(id);
            }
            Wish::Progress(id) => {
                if let Some(entry) = self.watchers.get_mut(&id) {
                    entry.asks_progress = true;
                    self.outbox
                        .push_back(request(RequestUnion::ProgressRequest(WatchProgressRequest {})));
                }
            }
        }
    }

    fn create_next(&mut self) {
        while self.creating.is_none()
            && let Some(id) = self.waiting.pop_front()
        {
            if let Some(entry) = self.watchers.get(&id) {
                self.creating = Some(id);
                let create = RequestUnion::CreateRequest(entry.request.clone());
                self.outbox.push_back(request(create));
            }
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(number) = self.watchers.remove(&id).and_then(|entry| entry.live) {
            self.cancel(number);
        }
    }

    fn cancel(&mut self, number: i64) {
        self.live.remove(&number);
        let cancel = WatchCancelRequest { watch_id: number };
        self.outbox
            .push_back(request(RequestUnion::CancelRequest(cancel)));
    }

    /// An error ends the stream, for all.
    fn hear(&mut self, mut answer: WatchResponse) -> Result<(), Error> {
        let number = std::mem::take(&mut answer.watch_id);
        if answer.created {
            return self.created(number, answer);
        }
        let Some(&id) = self.live.get(&number) else {
            // Nobody's, or everybody's.
            if number == -1 && !answer.canceled {
                self.progress(&answer);
            }
            return Ok(());
        };
        match answer.canceled {
            true => self.canceled(id, number, answer),
            false => self.deliver(id, answer),
        }
        Ok(())
    }

    fn created(&mut self, number: i64, answer: WatchResponse) -> Result<(), Error> {
        let Some(id) = self.creating.take() else {
            return Ok(());
        };
        if answer.canceled {
            return self.refused(id, answer);
        }
        self.failures = 0;
        let Some(entry) = self.watchers.get_mut(&id) else {
            self.cancel(number);
            return Ok(());
        };
        self.live.insert(number, id);
        entry.live = Some(number);
        if entry.request.start_revision == 0 {
            entry.request.start_revision = revision(&answer) + 1;
        }
        if let Some(ready) = entry.ready.take() {
            // Who does not wait any more is gone.
            let _ = ready.send(Ok(answer));
        }
        Ok(())
    }

    /// A watcher is not created. That is the stream's end if another token may help.
    fn refused(&mut self, id: u64, answer: WatchResponse) -> Result<(), Error> {
        let error = canceled(answer);
        if self.may_renew(&error) {
            self.waiting.push_front(id);
            return Err(error);
        }
        if let Some(entry) = self.watchers.remove(&id) {
            entry.end(error);
        }
        Ok(())
    }

    fn may_renew(&self, error: &Error) -> bool {
        let message = error.server_message().unwrap_or_default();
        self.failures < RENEWALS_MAX && self.client.may_renew(message)
    }

    fn canceled(&mut self, id: u64, number: i64, answer: WatchResponse) {
        self.live.remove(&number);
        if let Some(entry) = self.watchers.remove(&id) {
            entry.end(canceled(answer));
        }
    }

    /// All watchers on the stream have seen everything up to a revision.
    fn progress(&mut self, answer: &WatchResponse) {
        for id in self.live.values() {
            let Some(entry) = self.watchers.get_mut(id) else {
                continue;
            };
            let next = &mut entry.request.start_revision;
            *next = (*next).max(revision(answer) + 1);
            // Who has no room for it has enough to read.
            if std::mem::take(&mut entry.asks_progress) && entry.has_room() {
                // A reader that is gone will be among those that are.
                let _ = entry.events.try_send(Ok(answer.clone()));
            }
        }
    }

    fn deliver(&mut self, id: u64, answer: WatchResponse) {
        let Some(entry) = self.watchers.get_mut(&id) else {
            return;
        };
        let Some(mut answer) = entry.join(answer) else {
            return;
        };
        let last = answer.events.last().and_then(|event| event.kv.as_ref());
        let seen = last.map_or(revision(&answer), |kv| kv.mod_revision);
        if entry.has_room() {
            if let Some(space) = &self.client.core.namespace {
                answer.leave(space);
            }
            // A reader that is gone will be among those that are.
            let _ = entry.events.try_send(Ok(answer));
            let next = &mut entry.request.start_revision;
            *next = (*next).max(seen + 1);
            return;
        }
        self.room.push(half_empty(id, entry.events.clone()));
        if let Some(number) = entry.live.take() {
            self.cancel(number);
        }
    }

    /// The stream could not be opened, or broke.
    fn recover(&mut self, error: Error) {
        info!(%error, watchers = self.watchers.len(), "watch stream lost");
        match &error {
            error if self.may_renew(error) => self.again.renew = true,
            error if error.server_message() == Some(NO_LEADER) => return self.end(error),
            // There will be another connection, or is.
            Error::Lost { .. } if self.failures == 0 => {}
            error if error.is_transient() => self.again.pause = pause(self.failures),
            error => return self.end(error),
        }
        self.failures += 1;
    }

    fn end(&mut self, error: &Error) {
        self.waiting.clear();
        self.creating = None;
        self.failures = 0;
        for (_, entry) in self.watchers.drain() {
            entry.end(error.clone());
        }
    }
}

impl Entry {
    /// Whether something fits before the end.
    fn has_room(&self) -> bool {
        self.events.capacity() > 1
    }

    /// An answer as a whole, once its last part is there.
    fn join(&mut self, part: WatchResponse) -> Option<WatchResponse> {
        let whole = match self.begun.take() {
            None => part,
            Some(mut begun) => {
                begun.events.extend(part.events);
                begun.fragment = part.fragment;
                begun
            }
        };
        match whole.fragment {
            true => {
                self.begun = Some(whole);
                None
            }
            false => Some(whole),
        }
    }
}

/// Waits until a reader has caught up with half of what it had before it.
fn half_empty(id: u64, events: mpsc::Sender<Event>) -> BoxFuture<'static, u64> {
    Box::pin(async move {
        // A reader that is gone will be among those that are.
        let _ = events.reserve_many(UNREAD_MAX / 2).await;
        id
    })
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}

fn revision(answer: &WatchResponse) -> i64 {
    answer.header.as_ref().map_or(0, |header| header.revision)
}

/// What the server means by ending a watcher.
fn canceled(answer: WatchResponse) -> Error {
    match (answer.compact_revision, parse_status(&answer.cancel_reason)) {
        (0, Some(error)) => error,
        (0, None) => Error::WatchCanceled {
            reason: answer.cancel_reason,
        },
        (revision, _) => Error::Compacted { revision },
    }
}

/// The error in a text like `rpc error: code = PermissionDenied desc = etcdserver: permission denied`, which is how
/// servers put one into a field.
fn parse_status(text: &str) -> Option<Error> {
    let (code, message) = text.strip_prefix("rpc error: code = ")?.split_once(" desc = ")?;
    let code = (0..=16)
        .map(tonic::Code::from_i32)
        .find(|known| format!("{known:?}") == code)?;
    Some(Error::Server {
        code,
        message: message.to_owned(),
    })
}

fn pause(failures: u32) -> Duration {
    jittered((PAUSE * 2_u32.saturating_pow(failures.min(16))).min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use proto::mvccpb::{Event, KeyValue};

    use super::*;

    #[test]
    fn an_error_in_a_reason_is_told_as_one() {
        let answer = |reason: &str, compact_revision| WatchResponse {
            cancel_reason: reason.into(),
            compact_revision,
            ..WatchResponse::default()
        };
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(
            canceled(answer(denied, 0)),
            Error::Server {
                code: tonic::Code::PermissionDenied,
                message: "etcdserver: permission denied".into()
            }
        );
        let reason = "mvcc: watcher range is empty".to_owned();
        assert_eq!(canceled(answer(&reason, 0)), Error::WatchCanceled { reason });
        assert_eq!(canceled(answer("", 7)), Error::Compacted { revision: 7 });
    }

    #[test]
    fn parts_are_put_together_before_anybody_sees_them() {
        let (events, _reader) = mpsc::channel(1);
        let (ready, _created) = oneshot::channel();
        let mut entry = Entry::new(WatchCreateRequest::default(), events, ready);
        let part = |mod_revision, fragment| WatchResponse {
            fragment,
            events: vec![Event {
                kv: Some(KeyValue {
                    mod_revision,
                    ..KeyValue::default()
                }),
                ..Event::default()
            }],
            ..WatchResponse::default()
        };
        assert_eq!(entry.join(part(1, true)), None);
        assert_eq!(entry.join(part(2, true)), None);
        let whole = entry.join(part(3, false)).unwrap();
        assert_eq!((whole.events.len(), whole.fragment), (3, false));
        assert_eq!(entry.join(part(4, false)).unwrap().events.len(), 1);
    }
}
