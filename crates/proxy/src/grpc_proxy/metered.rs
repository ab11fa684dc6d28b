//! What is counted of calls, under the names and labels that `go-grpc-prometheus` gives to etcd's proxy.
//!
//! A series is shown from its first use on. Only calls of etcd's own are counted, so that clients make up no series.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::Code;
use tonic::body::Body;
use types::CODE_NAMES;

/// Calls that are no question and answer, and what they are.
const STREAMS: [(&str, &str); 7] = [
    ("etcdserverpb.KV/RangeStream", "server_stream"),
    ("etcdserverpb.Watch/Watch", "bidi_stream"),
    ("etcdserverpb.Lease/LeaseKeepAlive", "bidi_stream"),
    ("etcdserverpb.Maintenance/Snapshot", "server_stream"),
    ("v3electionpb.Election/Observe", "server_stream"),
    ("grpc.health.v1.Health/Watch", "server_stream"),
    ("keelson.v1.Progress/Watch", "server_stream"),
];

/// All calls of etcd's.
pub struct Calls(Vec<Arc<Call>>);

/// What is counted of one.
#[derive(Default)]
pub struct Call {
    /// Like `etcdserverpb.KV/Range`.
    name: &'static str,
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    handled: [AtomicU64; CODE_NAMES.len()],
}

impl Default for Calls {
    fn default() -> Self {
        let call = |name: &&'static str| {
            Arc::new(Call {
                name,
                ..Call::default()
            })
        };
        Calls(proto::RPCS.iter().map(call).collect())
    }
}

impl Calls {
    /// The call of a path like `/etcdserverpb.KV/Range`.
    pub fn find(&self, path: &str) -> Option<Arc<Call>> {
        let name = path.strip_prefix('/')?;
        self.0.iter().find(|call| call.name == name).cloned()
    }

    /// Writes them in Prometheus' text format.
    pub fn write(&self, text: &mut String) {
        let handled = "grpc_server_handled_total";
        head(
            text,
            handled,
            "Total number of RPCs completed on the server, regardless of success or failure.",
        );
        for call in self.used() {
            for (code, count) in CODE_NAMES.iter().zip(&call.handled) {
                if let count @ 1.. = count.load(Relaxed) {
                    let code = format!("grpc_code=\"{code}\",");
                    line(text, handled, &code, call, count);
                }
            }
        }
        self.write_family(
            text,
            (
                "grpc_server_msg_received_total",
                "Total number of RPC stream messages received on the server.",
            ),
            |call| &call.received,
        );
        self.write_family(
            text,
            (
                "grpc_server_msg_sent_total",
                "Total number of gRPC stream messages sent by the server.",
            ),
            |call| &call.sent,
        );
        self.write_family(
            text,
            (
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
            ),
            |call| &call.started,
        );
    }

    fn write_family(&self, text: &mut String, (name, help): (&str, &str), read: fn(&Call) -> &AtomicU64) {
        head(text, name, help);
        for call in self.used() {
            line(text, name, "", call, read(call).load(Relaxed));
        }
    }

    fn used(&self) -> impl Iterator<Item = &Arc<Call>> {
        self.0.iter().filter(|call| call.started.load(Relaxed) > 0)
    }
}

fn head(text: &mut String, name: &str, help: &str) {
    // A string takes everything.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
}

fn line(text: &mut String, name: &str, code: &str, call: &Call, count: u64) {
    let (service, method) = call.name.split_once('/').unwrap_or_default();
    let stream = STREAMS.iter().find(|(name, _)| *name == call.name);
    let shape = stream.map_or("unary", |(_, shape)| shape);
    let _ = writeln!(
        text,
        "{name}{{{code}grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{shape}\"}} {count}"
    );
}

/// A request of a call, which begins with it.
pub fn request(call: &Arc<Call>, body: Body) -> Body {
    call.started.fetch_add(1, Relaxed);
    Body::new(Counted {
        body,
        call: call.clone(),
        messages: Messages::default(),
        side: Side::Request,
    })
}

/// The answer to a call.
pub fn answer(call: &Arc<Call>, answer: http::Response<Body>) -> http::Response<Body> {
    let code = code(answer.headers());
    answer.map(|body| {
        Body::new(Counted {
            body,
            call: call.clone(),
            messages: Messages::default(),
            side: Side::Answer(code),
        })
    })
}

fn code(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// A body of which messages are counted, and if it is an answer, how it ends.
struct Counted {
    body: Body,
    call: Arc<Call>,
    messages: Messages,
    side: Side,
}

enum Side {
    Request,
    /// With the code it ends with, if that is known.
    Answer(Option<Code>),
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                let counter = match this.side {
                    Side::Request => &this.call.received,
                    Side::Answer(_) => &this.call.sent,
                };
                counter.fetch_add(this.messages.pass(data), Relaxed);
            }
            if let (Side::Answer(ended), Some(trailers)) = (&mut this.side, frame.trailers_ref()) {
                *ended = code(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Side::Answer(code) = self.side {
            // One that is dropped before its end is one that nobody waits for.
            let code = code.unwrap_or(Code::Cancelled) as usize;
            self.call.handled[code].fetch_add(1, Relaxed);
        }
    }
}

/// Finds the messages in bytes that come in pieces: each has a byte and its length in front.
#[derive(Default)]
struct Messages {
    head: [u8; 5],
    seen: usize,
    left: usize,
}

impl Messages {
    /// How many begin in this piece.
    fn pass(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes.advance(skipped);
            let taken = (self.head.len() - self.seen).min(bytes.len());
            self.head[self.seen..][..taken].copy_from_slice(&bytes[..taken]);
            self.seen += taken;
            bytes.advance(taken);
            if self.seen == self.head.len() {
                let [_, length @ ..] = self.head;
                (self.seen, self.left) = (0, u32::from_be_bytes(length) as usize);
                begun += 1;
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut bytes = vec![];
        for length in [0_u8, 7, 1] {
            bytes.extend([0, 0, 0, 0, length]);
            bytes.resize(bytes.len() + usize::from(length), 9);
        }
        for step in 1..bytes.len() {
            let mut messages = Messages::default();
            let counts = bytes.chunks(step).map(|piece| messages.pass(piece));
            assert_eq!(counts.sum::<u64>(), 3, "in pieces of {step}");
        }
    }

    #[test]
    fn a_call_is_shown_from_its_first_use_on_and_made_up_ones_never() {
        let calls = Calls::default();
        assert!(calls.find("/etcdserverpb.KV/Nonsense").is_none());
        let call = calls.find("/etcdserverpb.Watch/Watch").unwrap();
        drop(request(&call, Body::empty()));
        drop(answer(&call, http::Response::new(Body::empty())));
        let mut text = String::new();
        calls.write(&mut text);
        let labels = "grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"";
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{labels}}} 1"),
                format!("grpc_server_msg_received_total{{{labels}}} 0"),
                format!("grpc_server_msg_sent_total{{{labels}}} 0"),
                format!("grpc_server_started_total{{{labels}}} 1"),
            ]
        );
    }

    #[test]
    fn every_stream_is_a_call_of_etcds() {
        for (name, _) in STREAMS {
            assert!(proto::RPCS.contains(&name), "{name}");
        }
    }
}
