//! What an event costs the hub: `cargo run --release -p watch --example hub_bench`.

// A benchmark may look at the clock.
#![allow(clippy::disallowed_methods)]

use std::hint::black_box;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use prost::Message;
use proto::mvccpb::KeyValue;
use types::KeyRange;
use watch::{Create, Event, Frames, History, Hub, Identity, Options, StreamId};

const VALUE_BYTES: usize = 100;

struct Bench {
    hub: Hub,
    streams: Vec<(StreamId, Frames)>,
}

impl Bench {
    fn new(streams: usize) -> Self {
        let mut hub = Hub::new(
            Identity::default(),
            1,
            0,
            Options::default(),
            Waker::noop().clone(),
        );
        let streams = (0..streams)
            .map(|_| {
                let (outbox, frames) = hub.opener().open();
                let id = outbox.id();
                hub.open(outbox, 0);
                (id, frames)
            })
            .collect();
        Bench { hub, streams }
    }

    /// Spreads watchers of these ranges over the streams.
    fn watch(&mut self, ranges: impl Iterator<Item = KeyRange>) {
        for (number, range) in ranges.enumerate() {
            let (stream, _) = self.streams[number % self.streams.len()];
            self.hub.create(stream, Create::new(range), self.hub.revision());
        }
        self.drain();
    }

    /// Publishes one event for each of `keys`, the readers following close behind; the hub's time for
    /// each event.
    fn publish(&mut self, keys: impl Iterator<Item = Bytes>) -> Duration {
        let (mut spent, mut count) = (Duration::ZERO, 0);
        for key in keys {
            let revision = self.hub.revision() + 1;
            let event = [event(&key, revision)];
            let start = Instant::now();
            self.hub.publish(revision, &event, &mut |_, _| None);
            spent += start.elapsed();
            count += 1;
            self.drain();
        }
        assert_eq!(self.hub.metrics().slow_watchers, 0, "readers have followed");
        spent / count
    }

    /// Reads and encodes all that is queued, as the gRPC streams do; the number of responses.
    fn drain(&mut self) -> u32 {
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = BytesMut::new();
        let mut responses = 0;
        for (_, frames) in &mut self.streams {
            while let Poll::Ready(Some(Ok(frame))) = frames.poll_next(&mut cx) {
                out.clear();
                frame.encode(&mut out).expect("a growing buffer has room");
                black_box(&out);
                responses += 1;
            }
        }
        responses
    }
}

fn key(number: usize) -> Bytes {
    format!("/registry/pods/default/pod-{number:08}").into()
}

fn event(key: &Bytes, revision: i64) -> Event {
    let kv = KeyValue {
        key: key.clone(),
        create_revision: 2,
        mod_revision: revision,
        version: revision - 1,
        value: vec![b'v'; VALUE_BYTES].into(),
        lease: 0,
    };
    Event::parse(revision, false, kv.encode_to_vec().into()).expect("a KeyValue")
}

/// Keys in an order without locality.
fn scattered(count: usize, of: usize) -> impl Iterator<Item = Bytes> {
    (0..count).map(move |i| key(i.wrapping_mul(7_919) % of))
}

fn main() {
    println!("hub time for one event:");
    for (watchers, streams) in [(1, 1), (100, 100), (100, 1), (10_000, 10_000), (10_000, 100)] {
        let mut bench = Bench::new(streams);
        bench.watch((0..watchers).map(|_| KeyRange::One(key(0))));
        let rounds = (2_000_000 / watchers).min(200_000);
        bench.publish((0..rounds / 10).map(|_| key(0)));
        let each = bench.publish((0..rounds).map(|_| key(0)));
        let per_watcher = each.as_nanos() / watchers as u128;
        println!(
            "  {watchers:>6} watchers of its key on {streams:>6} streams {:>10} ns, {per_watcher} a watcher",
            each.as_nanos()
        );
    }
    for watchers in [100, 100_000] {
        let mut bench = Bench::new(100);
        bench.watch((0..watchers).map(|i| KeyRange::One(key(i))));
        bench.publish(scattered(20_000, watchers));
        let each = bench.publish(scattered(200_000, watchers));
        println!(
            "  {watchers:>6} watchers of distinct keys {:>21} ns",
            each.as_nanos()
        );
    }
    for watchers in [100, 100_000] {
        let mut bench = Bench::new(100);
        bench.watch((0..watchers).map(|i| KeyRange::Span(key(i), key(i + 1))));
        bench.publish(scattered(20_000, watchers));
        let each = bench.publish(scattered(200_000, watchers));
        println!(
            "  {watchers:>6} watchers of distinct ranges {:>19} ns",
            each.as_nanos()
        );
    }

    let mut bench = Bench::new(10_000);
    bench.watch((0..10_000).map(|_| KeyRange::One(key(0))));
    let first = bench.hub.revision() + 1;
    let events: Vec<_> = (first..first + 1000)
        .map(|revision| event(&key(0), revision))
        .collect();
    let last = first + 999;
    bench.hub.overflow(last);
    let start = Instant::now();
    let mut reads = 0;
    while let Some(job) = bench.hub.next_job() {
        let history = History {
            events: &events,
            reached: last,
            compacted: 0,
        };
        bench.hub.history(job, history, &mut |_, _| None);
        reads += 1;
    }
    println!(
        "10000 watchers catch up on 1000 events: {:?} in {reads} reads",
        start.elapsed()
    );

    let start = Instant::now();
    let responses = bench.drain();
    println!(
        "a reader takes and encodes a response of 64 kB: {:?}",
        start.elapsed() / responses
    );
    bench.publish(std::iter::repeat_n(key(0), 20));
    let revision = bench.hub.revision() + 1;
    bench
        .hub
        .publish(revision, &[event(&key(0), revision)], &mut |_, _| None);
    let start = Instant::now();
    let responses = bench.drain();
    println!(
        "a reader takes and encodes a response of one event: {:?}",
        start.elapsed() / responses
    );
}
