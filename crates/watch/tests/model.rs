//! Whatever happens in whatever order, each watcher receives what a plain filter over the whole history
//! gives: in order, once, without a gap, all of a revision together.

mod world;

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use proto::etcdserverpb::WatchResponse;
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};
use types::KeyRange;
use watch::{Create, Limits};
use world::{Answer, Client, Op, Store, World};

const KEYS: [&str; 5] = ["a", "b", "ba", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Op>),
    /// Publishes at most so many revisions.
    Publish(i64),
    Overflow,
    /// A start is given relative to the store's revision; `None` for "from now on".
    Create(usize, Create, Option<i64>),
    Cancel(usize, i64),
    Progress(usize),
    Tick,
    Read(usize, usize),
    Reconnect(usize),
    Collect,
    /// Reads history, at most so many revisions, to be delivered later.
    Question(i64),
    /// Delivers an answer and keeps it, so that it can come again.
    Deliver(usize),
    /// So many revisions before the store's revision; the hub is told, or finds out by itself.
    Compact(i64, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let key = prop::sample::select(&KEYS[..]);
    prop_oneof![
        3 => (key.clone(), "[xyz]{0,30}").prop_map(|(key, value)| Op::Put(key, value)),
        1 => key.prop_map(Op::Delete),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    let key = prop::sample::select(&KEYS[..]);
    let end = prop::sample::select(&["", "", "\0", "bz", "z", "a"][..]);
    prop_oneof![
        6 => (key, end).prop_map(|(key, end)| KeyRange::from_wire(key.into(), end.into())),
        1 => Just(KeyRange::All),
    ]
}

fn create() -> impl Strategy<Value = Create> {
    let flags = any::<(bool, bool, bool)>();
    let filters = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let id = prop_oneof![4 => Just(0), 1 => prop::sample::select(&[-2, 1, 2, 3][..])];
    (range(), id, flags, filters).prop_map(
        |(range, watch_id, (prev_kv, progress_notify, fragment), (no_put, no_delete))| Create {
            range,
            start_revision: 0,
            watch_id,
            no_put,
            no_delete,
            prev_kv,
            progress_notify,
            fragment,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..3usize;
    let start = prop_oneof![2 => Just(None), 5 => (-6..3i64).prop_map(Some)];
    prop_oneof![
        16 => prop::collection::vec(op(), 1..4).prop_map(Step::Apply),
        16 => (1..4i64).prop_map(Step::Publish),
        1 => Just(Step::Overflow),
        5 => (client.clone(), create(), start).prop_map(|(c, create, start)| Step::Create(c, create, start)),
        1 => (client.clone(), -2..6i64).prop_map(|(client, id)| Step::Cancel(client, id)),
        5 => client.clone().prop_map(Step::Progress),
        2 => Just(Step::Tick),
        9 => (client.clone(), 1..6usize).prop_map(|(client, count)| Step::Read(client, count)),
        1 => client.prop_map(Step::Reconnect),
        5 => Just(Step::Collect),
        6 => (0..8i64).prop_map(Step::Question),
        6 => (0..4usize).prop_map(Step::Deliver),
        1 => (0..12i64, any::<bool>()).prop_map(|(back, told)| Step::Compact(back, told)),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (
        1..6usize,
        200..1500usize,
        1..120usize,
        1..250usize,
        1..10i64,
        1..4usize,
    )
        .prop_map(
            |(frames, bytes, response, fragment, revisions, watchers)| Limits {
                outbox_frames: frames,
                outbox_bytes: bytes,
                response_bytes: response,
                fragment_bytes: fragment,
                catch_up_revisions: revisions,
                catch_up_watchers: watchers,
                ..Limits::default()
            },
        )
}

/// The world under test and, for each client ever connected, what it has asked for.
struct Run {
    world: World,
    asked: Vec<Vec<Create>>,
    /// The clients that are connected, by number.
    online: Vec<usize>,
    answers: Vec<Answer>,
}

impl Run {
    fn new(limits: Limits) -> Self {
        let mut run = Run {
            world: World::new(limits),
            asked: Vec::new(),
            online: Vec::new(),
            answers: Vec::new(),
        };
        run.online = (0..3).map(|_| run.connect()).collect();
        run
    }

    fn connect(&mut self) -> usize {
        self.asked.push(Vec::new());
        self.world.connect()
    }

    fn step(&mut self, step: Step) {
        let w = &mut self.world;
        match step {
            Step::Apply(ops) => w.apply(&ops),
            Step::Publish(count) => w.publish_upto(w.store.revision.min(w.hub.revision() + count)),
            Step::Overflow => w.overflow(),
            Step::Create(client, create, start) => {
                let client = self.online[client];
                let start_revision = start.map_or(0, |relative| w.store.revision + relative);
                let create = Create {
                    start_revision,
                    ..create
                };
                w.create(client, create.clone());
                // What the model checks against is where the watcher must begin.
                let begin = if start_revision == 0 {
                    w.store.revision + 1
                } else {
                    start_revision
                };
                self.asked[client].push(Create {
                    start_revision: begin,
                    ..create
                });
            }
            Step::Cancel(client, id) => w.cancel(self.online[client], id),
            Step::Progress(client) => w.progress(self.online[client]),
            Step::Tick => w.tick(),
            Step::Read(client, count) => drop(w.clients[self.online[client]].read(count)),
            Step::Reconnect(client) => {
                w.clients[self.online[client]].frames = None;
                self.online[client] = self.connect();
            }
            Step::Collect => w.collect(),
            Step::Question(revisions) => self.answers.extend(w.answer(revisions)),
            Step::Deliver(number) => {
                if let Some(answer) = self.answers.iter().rev().nth(number) {
                    w.deliver(answer);
                }
            }
            Step::Compact(back, told) => {
                let revision = w.store.revision - back;
                w.compact_quietly(revision);
                if told {
                    w.compact(w.store.compacted);
                }
            }
        }
        self.world.hub.check().unwrap();
    }

    /// Lets everything arrive.
    fn finish(&mut self) {
        self.world.publish();
        self.world.settle();
        assert_eq!(self.world.hub.metrics().slow_watchers, 0, "all have caught up");
        assert_eq!(self.world.hub.metrics().pending_events, 0);
    }
}

/// What one watcher must receive, and how much of it has come.
struct Expected<'a> {
    create: &'a Create,
    store: &'a Store,
    events: Vec<&'a Event>,
    received: usize,
    in_fragments: bool,
}

fn kv(event: &Event) -> &KeyValue {
    event.kv.as_ref().unwrap()
}

fn revision(event: &Event) -> i64 {
    kv(event).mod_revision
}

impl<'a> Expected<'a> {
    fn new(create: &'a Create, store: &'a Store) -> Self {
        let wanted = |event: &&Event| {
            let is_put = event.r#type() == EventType::Put;
            create.range.contains(&kv(event).key) && !(create.no_put && is_put || create.no_delete && !is_put)
        };
        let events = store
            .history(create.start_revision, i64::MAX)
            .filter(wanted)
            .collect();
        Expected {
            create,
            store,
            events,
            received: 0,
            in_fragments: false,
        }
    }

    fn next(&self) -> Option<i64> {
        self.events.get(self.received).map(|event| revision(event))
    }

    /// The smallest revision that may be missing.
    fn from(&self) -> i64 {
        let last = self
            .received
            .checked_sub(1)
            .map_or(0, |last| revision(self.events[last]) + 1);
        self.create.start_revision.max(last)
    }

    fn check_response(&mut self, response: &WatchResponse) {
        assert!(
            self.create.fragment || !response.fragment,
            "a fragment nobody asked for"
        );
        for event in &response.events {
            let expected = self
                .events
                .get(self.received)
                .expect("no event that did not happen");
            assert_eq!((event.r#type(), &event.kv), (expected.r#type(), &expected.kv));
            self.check_prev(event);
            assert!(revision(event) <= response.header.unwrap().revision);
            self.received += 1;
        }
        let last = response.events.last().map(revision);
        assert!(
            response.fragment || self.next() > last || self.next().is_none(),
            "a revision cut in two"
        );
        self.in_fragments = response.fragment;
    }

    fn check_prev(&self, event: &Event) {
        let before = revision(event) - 1;
        let old = self.store.value_at(&kv(event).key, before);
        let may_be_gone = !self.create.prev_kv || before < self.store.compacted;
        assert!(
            event.prev_kv == old || event.prev_kv.is_none() && may_be_gone,
            "wrong previous value"
        );
        assert!(self.create.prev_kv || event.prev_kv.is_none());
    }

    fn check_bookmark(&self, revision: i64) {
        assert!(
            self.create.start_revision <= revision + 1,
            "progress before the start"
        );
        assert!(
            self.next().is_none_or(|next| next > revision),
            "progress ahead of an event"
        );
    }
}

/// Replays what a client received against what it asked for; the watchers still alive.
fn replay<'a>(client: &Client, asked: &'a [Create], store: &'a Store) -> BTreeMap<i64, Expected<'a>> {
    let mut alive = BTreeMap::<i64, Expected>::new();
    let mut asked = asked.iter();
    for response in &client.received {
        let id = response.watch_id;
        let header = response.header.unwrap().revision;
        let fragmented = alive
            .iter()
            .find(|(_, watcher)| watcher.in_fragments)
            .map(|(&id, _)| id);
        assert!(
            fragmented.is_none_or(|first| first == id),
            "fragments of two watchers mixed"
        );
        if response.created {
            let create = asked.next().expect("an answer for each request");
            if response.canceled {
                let refused = create.start_revision < 0
                    || create.range.is_empty()
                    || create.watch_id != 0 && !response.cancel_reason.is_empty();
                assert!(refused && id == -1, "refused without reason");
            } else {
                assert!(create.watch_id == 0 || create.watch_id == id);
                assert!(
                    alive.insert(id, Expected::new(create, store)).is_none(),
                    "an id given twice"
                );
            }
        } else if response.canceled {
            // An id lost to a compaction is cancelled once more when the client gives it back.
            let watcher = alive.remove(&id);
            if response.compact_revision != 0 {
                let watcher = watcher.expect("only a living watcher is lost");
                assert!(watcher.from() < response.compact_revision, "lost without need");
                assert_eq!((header, response.cancel_reason.as_str()), (0, ""));
            }
        } else if id == -1 {
            assert!(!alive.is_empty());
            alive.values().for_each(|watcher| watcher.check_bookmark(header));
        } else {
            let watcher = alive
                .get_mut(&id)
                .expect("events only between creation and cancellation");
            if response.events.is_empty() {
                assert!(watcher.create.progress_notify);
                watcher.check_bookmark(header);
            }
            watcher.check_response(response);
        }
    }
    alive
}

/// How often the interesting things have happened: a schedule that never gets there proves nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    events: usize,
    previous_values: usize,
    merged: usize,
    fragments: usize,
    refused: usize,
    lost: usize,
    progress_of_streams: usize,
    progress_of_watchers: usize,
    caught_up: usize,
}

impl Seen {
    fn count(&mut self, received: &[WatchResponse]) {
        for response in received {
            let events = &response.events;
            let is_empty = events.is_empty() && !response.created && !response.canceled;
            self.events += events.len();
            self.previous_values += events.iter().filter(|event| event.prev_kv.is_some()).count();
            self.merged += usize::from(events.first().map(revision) < events.last().map(revision));
            self.fragments += usize::from(response.fragment);
            self.refused += usize::from(response.created && response.canceled);
            self.lost += usize::from(response.compact_revision != 0);
            self.progress_of_streams += usize::from(is_empty && response.watch_id == -1);
            self.progress_of_watchers += usize::from(is_empty && response.watch_id != -1);
        }
    }

    fn least(&self) -> usize {
        let Seen {
            events,
            previous_values,
            merged,
            fragments,
            refused,
            lost,
            caught_up,
            ..
        } = *self;
        let Seen {
            progress_of_streams,
            progress_of_watchers,
            ..
        } = *self;
        let all = [
            events,
            previous_values,
            merged,
            fragments,
            refused,
            lost,
            caught_up,
        ];
        all.into_iter()
            .chain([progress_of_streams, progress_of_watchers])
            .min()
            .unwrap()
    }
}

#[test]
fn every_watcher_receives_what_a_filter_over_the_history_gives() {
    // The environment can choose other schedules and more of them.
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(15);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 120;
    }
    let seen = Cell::new(Seen::default());
    let schedules = (limits(), prop::collection::vec(step(), 1..250));
    let check = |(limits, steps): (Limits, Vec<Step>)| {
        let mut run = Run::new(limits);
        let mut count = seen.get();
        for step in steps {
            let slow = run.world.hub.metrics().slow_watchers;
            run.step(step);
            count.caught_up += slow.saturating_sub(run.world.hub.metrics().slow_watchers);
        }
        run.finish();
        let Run {
            world, asked, online, ..
        } = &run;
        for (number, client) in world.clients.iter().enumerate() {
            count.count(&client.received);
            let alive = replay(client, &asked[number], &world.store);
            if online.contains(&number) {
                assert!(
                    alive.values().all(|watcher| watcher.next().is_none()),
                    "an event is missing"
                );
            }
        }
        seen.set(count);
        Ok(())
    };
    if let Err(failure) = TestRunner::new(config).run(&schedules, check) {
        panic!("{failure}");
    }
    assert!(seen.get().least() > 20, "{:?}", seen.get());
}
