//! Distributed tracing: spans of calls, sent to a collector by OTLP over gRPC.
//!
//! A call has a span as its server saw it, from start to status, and most have one inside, of what was done
//! (`put`, `range`), with the moments it went into the log and came out. Names, attributes and the rules of what is kept
//! are etcd's: a caller's `traceparent` (W3C Trace Context) decides, and of calls without one so many in a million are
//! kept. Keys are shown, as etcd does; values and credentials never are.
//!
//! **Tracing never slows a request.** A call that is not kept costs a look at a header. A span that has ended goes into a
//! bounded queue or is dropped and counted; one task, `export`, empties the queue. While the collector is away, what it
//! does not take is dropped and counted, too.

mod context;
mod export;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use proto::otlp::any_value::Value;
use proto::otlp::span::{Event, SpanKind};
use proto::otlp::status::StatusCode;
use proto::otlp::{AnyValue, KeyValue, Span, Status};
use tokio::sync::mpsc;

use crate::access::Head;
use crate::config::Tracing;

use context::Parent;
pub use export::{Exporter, Flush};

/// Spans that wait for the collector, as many as etcd's exporter keeps. More are dropped.
pub const SPANS_MAX: usize = 2048;
/// Bytes of a text that a span shows. Keys may be large, and a full queue must not be.
const TEXT_BYTES_MAX: usize = 1024;

/// What goes to the exporter.
enum Item {
    Span(Box<Span>),
    /// Export what there is now.
    Flush(Flush),
}

/// Decides which calls are traced, and takes their spans.
pub struct Tracer {
    /// A call without a parent is kept if a number drawn for it is below this.
    threshold: u64,
    seed: u64,
    drawn: AtomicU64,
    queue: mpsc::Sender<Item>,
    dropped: Arc<AtomicU64>,
}

/// One million: the sampling rate that keeps all.
pub const ALL: u32 = 1_000_000;

impl Tracer {
    /// A tracer whose ids come from `seed`, and the exporter of its spans.
    pub fn new(settings: &Tracing, seed: u64) -> (Arc<Self>, Exporter) {
        let (queue, items) = mpsc::channel(SPANS_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let kept = u128::from(settings.sampling_per_million.min(ALL));
        let tracer = Arc::new(Tracer {
            threshold: (kept * u128::from(u64::MAX) / u128::from(ALL)) as u64,
            seed,
            drawn: AtomicU64::new(0),
            queue,
            dropped: dropped.clone(),
        });
        (tracer, Exporter::new(settings, items, dropped))
    }

    /// Sends what has ended so far to the collector, and waits until that is done or given up.
    pub async fn flush(&self) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            // The exporter may end first.
            let _ = wait.await;
        }
    }

    /// A call with these headers, if it is to be traced.
    pub fn call(self: &Arc<Self>, headers: &HeaderMap, name: &str) -> Option<ActiveSpan> {
        let (parent, trace_id) = match Parent::of(headers) {
            Some(parent) if !parent.is_kept => return None,
            Some(parent) => {
                let trace_id = parent.trace_id;
                (Some(parent), trace_id)
            }
            None => {
                let low = self.draw();
                if low >= self.threshold {
                    return None;
                }
                (None, u128::from(self.draw()) << 64 | u128::from(low))
            }
        };
        let mut span = self.begin(trace_id, name, SpanKind::Server);
        if let Some(parent) = parent {
            span.span.parent_span_id = id(&parent.span_id.to_be_bytes());
            span.span.trace_state = parent.state;
        }
        Some(span)
    }

    fn begin(self: &Arc<Self>, trace_id: u128, name: &str, kind: SpanKind) -> ActiveSpan {
        let span_id = self.draw().max(1);
        let start = SystemTime::now().duration_since(UNIX_EPOCH);
        ActiveSpan {
            traced: Traced {
                tracer: self.clone(),
                trace_id,
                span_id,
            },
            began: Instant::now(),
            span: Box::new(Span {
                trace_id: id(&trace_id.to_be_bytes()),
                span_id: id(&span_id.to_be_bytes()),
                name: name.to_owned(),
                kind: kind.into(),
                start_time_unix_nano: start.map_or(0, |start| start.as_nanos() as u64),
                ..Default::default()
            }),
        }
    }

    /// The next number of a sequence without an order (splitmix64).
    fn draw(&self) -> u64 {
        let step = self.drawn.fetch_add(1, Relaxed).wrapping_add(1);
        let mut z = self.seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn take(&self, span: Box<Span>) {
        if self.queue.try_send(Item::Span(span)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// A seed for ids that no other member has.
pub fn random_seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH);
    getrandom::u64().unwrap_or_else(|_| now().map_or(0, |now| now.as_nanos() as u64))
}

fn id(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A call that is traced, for what is done on its behalf. Goes with the call's request.
#[derive(Clone)]
pub struct Traced {
    tracer: Arc<Tracer>,
    trace_id: u128,
    span_id: u64,
}

/// A span that has begun. It ends when it is dropped.
pub struct ActiveSpan {
    traced: Traced,
    began: Instant,
    span: Box<Span>,
}

impl ActiveSpan {
    /// What goes with the request.
    pub fn traced(&self) -> Traced {
        self.traced.clone()
    }

    /// Notes a moment.
    pub fn event(&mut self, name: &str) {
        self.span.events.push(Event {
            time_unix_nano: self.now(),
            name: name.to_owned(),
        });
    }

    /// Says something about it.
    pub fn attribute(&mut self, name: &str, value: Value) {
        self.span.attributes.push(attribute(name, value));
    }

    /// It failed.
    pub fn fail(&mut self, why: &str) {
        self.span.status = Some(Status {
            message: why.to_owned(),
            code: StatusCode::Error.into(),
        });
    }

    fn now(&self) -> u64 {
        self.span.start_time_unix_nano + self.began.elapsed().as_nanos() as u64
    }
}

impl Drop for ActiveSpan {
    fn drop(&mut self) {
        self.span.end_time_unix_nano = self.now();
        self.traced.tracer.take(std::mem::take(&mut self.span));
    }
}

/// What a handler does, inside the call's span if that is traced.
pub struct Doing(Option<ActiveSpan>);

impl Doing {
    /// Notes a moment.
    pub fn event(&mut self, name: &str) {
        if let Some(span) = &mut self.0 {
            span.event(name);
        }
    }

    /// Notes when something goes into the log and when its outcome is there, in etcd's words.
    pub async fn around<T>(&mut self, proposal: impl Future<Output = T>) -> T {
        self.event("Send raft proposal");
        let outcome = proposal.await;
        self.event("Receive raft result");
        outcome
    }
}

/// Begins the span of what a handler does; what is said about it is asked for only if the call is traced.
pub fn doing<const N: usize>(
    head: &Head,
    name: &str,
    about: impl FnOnce() -> [(&'static str, Value); N],
) -> Doing {
    Doing(head.extensions().get::<Traced>().map(|call| {
        let mut span = call.tracer.begin(call.trace_id, name, SpanKind::Internal);
        span.span.parent_span_id = id(&call.span_id.to_be_bytes());
        for (name, value) in about() {
            span.attribute(name, value);
        }
        span
    }))
}

/// Bytes as an attribute, cut to a length.
pub fn text(bytes: &[u8]) -> Value {
    let shown = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    Value::StringValue(String::from_utf8_lossy(shown).into_owned())
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-";

    fn tracer(sampling_per_million: u32) -> Arc<Tracer> {
        let settings = Tracing {
            sampling_per_million,
            ..Tracing::default()
        };
        Tracer::new(&settings, 7).0
    }

    fn headers(flags: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", format!("{PARENT}{flags}").parse().unwrap());
        headers
    }

    #[test]
    fn the_caller_decides_and_of_others_so_many_in_a_million_are_kept() {
        for rate in [0, 500_000, ALL] {
            let tracer = tracer(rate);
            assert!(tracer.call(&headers("01"), "x").is_some());
            assert!(tracer.call(&headers("00"), "x").is_none());
            let kept = (0..10_000)
                .filter(|_| tracer.call(&HeaderMap::new(), "x").is_some())
                .count();
            let expected = rate as usize / 100;
            assert!(kept.abs_diff(expected) < 300, "{kept} of 10000 at {rate}");
        }
    }

    #[test]
    fn a_span_knows_its_trace_and_its_parent() {
        let tracer = tracer(0);
        let call = tracer.call(&headers("01"), "etcdserverpb.KV/Put").unwrap();
        assert_eq!(
            call.span.parent_span_id[..],
            0xb7ad_6b71_6920_3331_u64.to_be_bytes()
        );
        let mut head = Head::new(());
        head.extensions_mut().insert(call.traced());
        let Doing(Some(mut put)) = doing(&head, "put", || [("key", text(&[b'k'; 5000]))]) else {
            panic!("the call is traced");
        };
        put.event("Send raft proposal");
        assert_eq!(put.span.trace_id, call.span.trace_id);
        assert_eq!(put.span.parent_span_id, call.span.span_id);
        assert_ne!(put.span.span_id, call.span.span_id);
        let Some(Value::StringValue(key)) = put.span.attributes[0].value.clone().unwrap().value else {
            panic!("a key is text");
        };
        assert_eq!(key.len(), TEXT_BYTES_MAX);
        assert!(put.span.events[0].time_unix_nano >= put.span.start_time_unix_nano);
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (tracer, exporter) = Tracer::new(&Tracing::default(), 7);
        for _ in 0..SPANS_MAX + 3 {
            tracer.call(&headers("01"), "x");
        }
        assert_eq!(exporter.dropped(), 3);
    }
}
