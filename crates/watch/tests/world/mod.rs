//! A store, clients and the loop between them and a hub, all in one thread and without time.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::WatchResponse;
use proto::mvccpb::{self, KeyValue, event::EventType};
use types::{ErrorKind, KeyRange};
use watch::{
    CatchUp, Create, Event, Frames, History, Hub, Identity, Limits, Opener, Options, Outbox, StreamId,
};

pub const IDENTITY: Identity = Identity {
    cluster_id: 11,
    member_id: 22,
    raft_term: 33,
};

/// One change of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    Put(&'static str, String),
    Delete(&'static str),
}

pub fn put(key: &'static str, value: &str) -> Op {
    Op::Put(key, value.to_owned())
}

pub fn delete(key: &'static str) -> Op {
    Op::Delete(key)
}

/// The dumbest store: every change ever made.
#[derive(Default)]
pub struct Store {
    pub changes: Vec<(i64, mvccpb::Event)>,
    pub revision: i64,
    pub compacted: i64,
}

impl Store {
    /// Applies a transaction; one that changes nothing makes no revision.
    pub fn apply(&mut self, ops: &[Op]) {
        let revision = self.revision + 1;
        let before = self.changes.len();
        for op in ops {
            let (key, value) = match op {
                Op::Put(key, value) => (*key, Some(value)),
                Op::Delete(key) => (*key, None),
            };
            if self.changes[before..]
                .iter()
                .any(|(_, event)| event.kv.as_ref().unwrap().key == key)
            {
                continue;
            }
            let old = self.value_at(key.as_bytes(), self.revision);
            let event = match (value, old) {
                (Some(value), old) => mvccpb::Event {
                    r#type: EventType::Put.into(),
                    kv: Some(KeyValue {
                        key: key.into(),
                        create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                        mod_revision: revision,
                        version: old.map_or(1, |old| old.version + 1),
                        value: value.clone().into(),
                        lease: 0,
                    }),
                    prev_kv: None,
                },
                (None, Some(_)) => mvccpb::Event {
                    r#type: EventType::Delete.into(),
                    kv: Some(KeyValue {
                        key: key.into(),
                        mod_revision: revision,
                        ..Default::default()
                    }),
                    prev_kv: None,
                },
                (None, None) => continue,
            };
            self.changes.push((revision, event));
        }
        if self.changes.len() > before {
            self.revision = revision;
        }
    }

    pub fn value_at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let of_key = |event: &&(i64, mvccpb::Event)| event.1.kv.as_ref().unwrap().key == key;
        let upto = self.changes.iter().take_while(|(at, _)| *at <= revision);
        let (_, last) = upto.filter(of_key).last()?;
        (last.r#type() == EventType::Put).then(|| last.kv.clone().unwrap())
    }

    /// What a client has to see of `range` in `from..=upto`.
    pub fn history(&self, from: i64, upto: i64) -> impl Iterator<Item = &mvccpb::Event> {
        self.changes
            .iter()
            .filter(move |(at, _)| (from..=upto).contains(at))
            .map(|(_, event)| event)
    }

    /// The changes as the hub is given them.
    fn events(&self, from: i64, upto: i64) -> Vec<Event> {
        let stored = |event: &mvccpb::Event| {
            let kv = event.kv.clone().unwrap();
            let tombstone = event.r#type() == EventType::Delete;
            let kept = if tombstone {
                KeyValue {
                    mod_revision: 0,
                    ..kv.clone()
                }
            } else {
                kv.clone()
            };
            Event::parse(kv.mod_revision, tombstone, kept.encode_to_vec().into()).unwrap()
        };
        self.history(from, upto).map(stored).collect()
    }

    /// What the store still knows of a key's past.
    fn lookup(&self, key: &Bytes, revision: i64) -> Option<Bytes> {
        let known = revision >= self.compacted;
        Some(
            self.value_at(key, revision)
                .filter(|_| known)?
                .encode_to_vec()
                .into(),
        )
    }
}

/// History read at one moment, to be delivered at another.
pub struct Answer {
    job: CatchUp,
    events: Vec<Event>,
    reached: i64,
    compacted: i64,
}

/// One client's stream, and everything it has received.
pub struct Client {
    pub id: StreamId,
    pub outbox: Outbox,
    pub frames: Option<Frames>,
    pub received: Vec<WatchResponse>,
    pub error: Option<ErrorKind>,
}

impl Client {
    /// Reads up to `count` responses; the ones just read.
    pub fn read(&mut self, count: usize) -> &[WatchResponse] {
        let first = self.received.len();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..count {
            let Some(frames) = &mut self.frames else { break };
            match frames.poll_next(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => self.received.push(frame.into_response().unwrap()),
                Poll::Ready(Some(Err(error))) => self.error = Some(error),
                Poll::Ready(None) => self.frames = None,
                Poll::Pending => break,
            }
        }
        &self.received[first..]
    }

    pub fn read_all(&mut self) -> &[WatchResponse] {
        self.read(usize::MAX)
    }
}

#[derive(Default)]
pub struct Rings(AtomicUsize);

impl Wake for Rings {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub struct World {
    pub store: Store,
    pub hub: Hub,
    pub opener: Opener,
    pub clients: Vec<Client>,
    pub rings: Arc<Rings>,
    /// Calls of the previous-value lookup.
    pub lookups: usize,
    pub now_ms: u64,
}

/// Small enough that a test fills them by hand.
pub fn small_limits() -> Limits {
    Limits {
        outbox_frames: 4,
        ..Limits::default()
    }
}

pub const PROGRESS_INTERVAL_MS: u64 = 1000;

impl World {
    /// A store at revision 1, like an empty etcd.
    pub fn new(limits: Limits) -> Self {
        let rings = Arc::new(Rings::default());
        let options = Options {
            limits,
            progress_interval_ms: PROGRESS_INTERVAL_MS,
        };
        let hub = Hub::new(IDENTITY, 1, 0, options, Waker::from(rings.clone()));
        let store = Store {
            revision: 1,
            ..Store::default()
        };
        let opener = hub.opener();
        World {
            store,
            hub,
            opener,
            clients: Vec::new(),
            rings,
            lookups: 0,
            now_ms: 0,
        }
    }

    /// Opens a stream; its number.
    pub fn connect(&mut self) -> usize {
        let (outbox, frames) = self.opener.open();
        self.hub.open(outbox.clone(), self.now_ms);
        let id = outbox.id();
        self.clients.push(Client {
            id,
            outbox,
            frames: Some(frames),
            received: Vec::new(),
            error: None,
        });
        self.clients.len() - 1
    }

    pub fn create(&mut self, client: usize, create: Create) {
        self.hub
            .create(self.clients[client].id, create, self.store.revision);
        self.hub.check().unwrap();
    }

    pub fn cancel(&mut self, client: usize, watch_id: i64) {
        self.hub.cancel(self.clients[client].id, watch_id);
        self.hub.check().unwrap();
    }

    pub fn progress(&mut self, client: usize) {
        self.hub.progress(self.clients[client].id);
    }

    /// Applies a transaction without telling the hub.
    pub fn apply(&mut self, ops: &[Op]) {
        self.store.apply(ops);
    }

    /// Tells the hub all that was applied.
    pub fn publish(&mut self) {
        self.publish_upto(self.store.revision);
    }

    pub fn publish_upto(&mut self, revision: i64) {
        let World {
            store, hub, lookups, ..
        } = self;
        let events = store.events(hub.revision() + 1, revision);
        hub.publish(revision, &events, &mut |key, at| {
            *lookups += 1;
            store.lookup(key, at)
        });
        self.hub.check().unwrap();
    }

    /// Tells the hub everything from the beginning, as if it had seen nothing.
    pub fn republish(&mut self, revision: i64) {
        let events = self.store.events(0, revision);
        self.hub.publish(revision, &events, &mut |_, _| None);
        self.hub.check().unwrap();
    }

    /// Applies and publishes a transaction.
    pub fn commit(&mut self, ops: &[Op]) {
        self.apply(ops);
        self.publish();
    }

    pub fn overflow(&mut self) {
        self.hub.overflow(self.store.revision);
        self.hub.check().unwrap();
    }

    /// Compacts the store without telling the hub.
    pub fn compact_quietly(&mut self, revision: i64) {
        self.store.compacted = self.store.compacted.max(revision);
    }

    pub fn compact(&mut self, revision: i64) {
        self.compact_quietly(revision);
        self.hub.compacted(revision);
        self.hub.check().unwrap();
    }

    pub fn collect(&mut self) {
        self.hub.collect();
        self.hub.check().unwrap();
    }

    pub fn tick(&mut self) {
        self.now_ms += PROGRESS_INTERVAL_MS;
        self.hub.tick(self.now_ms);
    }

    /// Reads what the hub wants to know, at most `revisions` of it. What is compacted is gone.
    pub fn answer(&self, revisions: i64) -> Option<Answer> {
        let job = self.hub.next_job()?;
        let reached = job.upto.min(job.from + revisions - 1);
        let compacted = self.store.compacted;
        let events = self.store.events(job.from.max(compacted), reached);
        Some(Answer {
            job,
            events,
            reached,
            compacted,
        })
    }

    pub fn deliver(&mut self, answer: &Answer) {
        let World {
            store, hub, lookups, ..
        } = self;
        let history = History {
            events: &answer.events,
            reached: answer.reached,
            compacted: answer.compacted,
        };
        hub.history(answer.job, history, &mut |key, at| {
            *lookups += 1;
            store.lookup(key, at)
        });
        self.hub.check().unwrap();
    }

    /// Lets everybody catch up as far as outboxes allow.
    pub fn catch_up(&mut self) {
        self.collect();
        while let Some(answer) = self.answer(3) {
            self.deliver(&answer);
        }
    }

    /// All clients read and the hub serves, until nothing moves any more.
    pub fn settle(&mut self) {
        loop {
            self.catch_up();
            let read: usize = self
                .clients
                .iter_mut()
                .map(|client| client.read_all().len())
                .sum();
            if read == 0 {
                return;
            }
        }
    }

    /// What client 0 receives when all is read, described in short.
    pub fn read(&mut self) -> Vec<String> {
        self.read_of(0)
    }

    pub fn read_of(&mut self, client: usize) -> Vec<String> {
        self.clients[client].read_all().iter().map(describe).collect()
    }

    pub fn rings(&self) -> usize {
        self.rings.0.load(Ordering::Relaxed)
    }
}

pub fn one(key: &'static str) -> Create {
    Create::new(KeyRange::One(key.into()))
}

pub fn span(from: &'static str, to: &'static str) -> Create {
    Create::new(KeyRange::from_wire(from.into(), to.into()))
}

pub fn from(create: Create, start_revision: i64) -> Create {
    Create {
        start_revision,
        ..create
    }
}

/// `#id@header: created canceled compact=5 "reason" PUT k=v@2 (was u) DELETE k@3 ...`; the dots mean
/// that a fragment follows.
pub fn describe(response: &WatchResponse) -> String {
    let header = response.header.unwrap();
    assert_eq!(
        (header.cluster_id, header.member_id, header.raft_term),
        (11, 22, 33)
    );
    let mut words = vec![format!("#{}@{}:", response.watch_id, header.revision)];
    let flags = [(response.created, "created"), (response.canceled, "canceled")];
    words.extend(
        flags
            .into_iter()
            .filter(|(set, _)| *set)
            .map(|(_, word)| word.to_owned()),
    );
    if response.compact_revision != 0 {
        words.push(format!("compact={}", response.compact_revision));
    }
    if !response.cancel_reason.is_empty() {
        words.push(format!("{:?}", response.cancel_reason));
    }
    for event in &response.events {
        let kv = event.kv.as_ref().unwrap();
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let (key, at) = (text(&kv.key), kv.mod_revision);
        words.push(match event.r#type() {
            EventType::Put => format!("PUT {key}={}@{at}", text(&kv.value)),
            EventType::Delete => format!("DELETE {key}@{at}"),
        });
        if let Some(prev) = &event.prev_kv {
            words.push(format!("(was {})", text(&prev.value)));
        }
    }
    if response.fragment {
        words.push("...".to_owned());
    }
    words.join(" ")
}

/// Splits what a client received by watcher.
pub fn by_watcher(received: &[WatchResponse]) -> BTreeMap<i64, Vec<&WatchResponse>> {
    let mut split = BTreeMap::<_, Vec<_>>::new();
    for response in received {
        split.entry(response.watch_id).or_default().push(response);
    }
    split
}
