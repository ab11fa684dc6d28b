//! gRPC calls, counted at the one place that every call passes.
//!
//! [`Metered`] wraps the gRPC service of a connection. It counts a call when it starts, its messages
//! as they pass through the bodies, and its status code when the answer ends: in the trailers, in the
//! headers of an answer without messages, or `Canceled` when the caller goes away before that.

use std::cell::{OnceCell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::service::Service;
use proto::otlp::any_value::Value;
use types::{CODE_NAMES, Code};

use super::Metrics;
use super::grpc::Method;
use super::kinds::Counter;
use crate::answers::{Room, hold};
use crate::listen::{Debt, Debts};
use crate::traces::{ActiveSpan, Tracer};

/// Counts the calls of one connection; what it wraps does the work.
pub struct Metered<S> {
    inner: S,
    metrics: Arc<Metrics>,
    /// The client's version as it came with the last call, and the counters for it: a connection's
    /// calls hardly ever differ in it.
    client: RefCell<Option<(Option<HeaderValue>, Clients)>>,
    /// Those of the connection.
    debts: Option<Debts>,
}

/// Counters of a client version's calls, each made when it is first used.
struct Clients {
    version: &'static str,
    unary: OnceCell<Arc<Counter>>,
    stream: OnceCell<Arc<Counter>>,
}

impl<S> Metered<S> {
    /// Counts the calls of `inner` in `metrics`.
    pub fn new(inner: S, metrics: Arc<Metrics>) -> Self {
        Metered {
            inner,
            metrics,
            client: RefCell::new(None),
            debts: None,
        }
    }

    /// The same on one connection, whose clients owe it the rest of their requests and take their answers.
    pub fn on(self, debts: &Debts) -> Self {
        Metered {
            debts: Some(debts.clone()),
            ..self
        }
    }

    fn count_client(&self, method: &Method, headers: &HeaderMap) {
        let version = headers.get("client-api-version");
        let mut client = self.client.borrow_mut();
        let clients = match &mut *client {
            Some((known, clients)) if known.as_ref() == version => clients,
            stale => {
                let clients = Clients {
                    version: client_label(version.map(HeaderValue::as_bytes)),
                    unary: OnceCell::new(),
                    stream: OnceCell::new(),
                };
                &mut stale.insert((version.cloned(), clients)).1
            }
        };
        let (kind, calls) = match method.is_unary() {
            true => ("unary", &clients.unary),
            false => ("stream", &clients.stream),
        };
        let family = &self.metrics.server_client_requests_total;
        calls.get_or_init(|| family.with(&[kind, clients.version])).inc();
    }
}

/// Versions of the API that clients may say they speak: those there are, and some that may come. Others share a series,
/// so that nobody makes up one.
const CLIENT_VERSIONS: [&str; 16] = [
    "3.0", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13",
    "3.14", "3.15",
];
/// The label of a client that does not know its version, or does not tell.
const NO_VERSION: &str = "unknown";
/// The label of all other texts.
const OTHER_VERSION: &str = "other";

/// The label of what a client says its version is; one with a patch number is of its minor version.
fn client_label(version: Option<&[u8]>) -> &'static str {
    let Some(version) = version.filter(|version| *version != NO_VERSION.as_bytes()) else {
        return NO_VERSION;
    };
    let is_of = |known: &str| match version.strip_prefix(known.as_bytes()) {
        Some([]) => true,
        Some([b'.', patch @ ..]) => !patch.is_empty() && patch.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let known = CLIENT_VERSIONS.into_iter().find(|known| is_of(known));
    known.unwrap_or(OTHER_VERSION)
}

impl<S: Clone> Clone for Metered<S> {
    fn clone(&self) -> Self {
        Metered {
            debts: self.debts.clone(),
            ..Metered::new(self.inner.clone(), Arc::clone(&self.metrics))
        }
    }
}

impl<S, B, A> Service<Request<B>> for Metered<S>
where
    S: Service<Request<MeteredBody<B>>, Response = Response<A>>,
    S::Future: Unpin,
{
    type Response = Response<MeteredBody<A>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn call(&self, mut request: Request<B>) -> Self::Future {
        let method = self.metrics.grpc.find(request.uri().path());
        self.count_client(method, request.headers());
        let mut call = Call::start(method);
        if let Some(tracer) = self.metrics.tracer.get() {
            call.trace(tracer, &mut request);
        }
        // Who talks to and fro may be silent and may leave answers: other limits hold for those.
        let debts = self.debts.clone().filter(|_| !method.is_conversation());
        let request = request.map(|body| MeteredBody {
            body,
            frames: Frames::default(),
            end: End::Request(method),
            owed: Owed::new(debts.clone(), None),
        });
        Answering {
            inner: self.inner.call(request),
            call: Some(call),
            debts,
        }
    }
}

/// A call whose answer has not begun.
pub struct Answering<F> {
    inner: F,
    call: Option<Call>,
    debts: Option<Debts>,
}

impl<F, A, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<A>, E>> + Unpin,
{
    type Output = Result<Response<MeteredBody<A>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(Pin::new(&mut self.inner).poll(cx))?;
        let mut call = self.call.take().expect("polled once after it was ready");
        // An answer without messages has its status in the headers.
        if let Some(code) = status(response.headers()) {
            call.end(code);
        }
        let room = response.extensions_mut().remove();
        let mut owed = Owed::new(self.debts.take(), room);
        owed.due(0);
        Poll::Ready(Ok(response.map(|body| MeteredBody {
            body,
            frames: Frames::default(),
            end: End::Answer(call),
            owed,
        })))
    }
}

/// A call that is going on. Dropped before its end, it was cancelled.
struct Call {
    method: &'static Method,
    since: Option<Instant>,
    span: Option<Box<ActiveSpan>>,
    ended: bool,
}

/// Codes by which a server says that it is at fault.
const FAULTS: [&str; 6] = [
    "Unknown",
    "DeadlineExceeded",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
];

impl Call {
    fn start(method: &'static Method) -> Self {
        method.counts.mine().started.fetch_add(1, Relaxed);
        let since = method.seconds.is_some().then(Instant::now);
        Call {
            method,
            since,
            span: None,
            ended: false,
        }
    }

    /// Traces the call, if it is one that is traced, and lets its handler know.
    fn trace<B>(&mut self, tracer: &Arc<Tracer>, request: &mut Request<B>) {
        let Some((service, name)) = self.method.names() else {
            return;
        };
        let path = request.uri().path().trim_start_matches('/');
        let Some(mut span) = tracer.call(request.headers(), path) else {
            return;
        };
        let text = |text: &str| Value::StringValue(text.to_owned());
        span.attribute("rpc.system", text("grpc"));
        span.attribute("rpc.service", text(service));
        span.attribute("rpc.method", text(name));
        request.extensions_mut().insert(span.traced());
        self.span = Some(Box::new(span));
    }

    fn end(&mut self, code: usize) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.method.counts.mine().handled[code].fetch_add(1, Relaxed);
        if let (Some(seconds), Some(since)) = (&self.method.seconds, self.since) {
            seconds.observe_duration(since.elapsed());
        }
        if let Some(mut span) = self.span.take() {
            span.attribute("rpc.grpc.status_code", Value::IntValue(code as i64));
            if FAULTS.contains(&CODE_NAMES[code]) {
                span.fail(CODE_NAMES[code]);
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Canceled as usize);
    }
}

fn status(headers: &HeaderMap) -> Option<usize> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse::<usize>().ok();
    Some(
        code.filter(|code| *code < CODE_NAMES.len())
            .unwrap_or(Code::Unknown as usize),
    )
}

/// A body whose messages are counted as they pass.
pub struct MeteredBody<B> {
    body: B,
    frames: Frames,
    end: End,
    owed: Owed,
}

/// What the client still has to do about a body.
struct Owed {
    debts: Option<Debts>,
    debt: Option<Debt>,
    /// What the answer takes up.
    room: Option<Room>,
}

impl Owed {
    fn new(debts: Option<Debts>, room: Option<Room>) -> Self {
        Owed {
            debts,
            debt: None,
            room,
        }
    }

    fn due(&mut self, bytes: usize) {
        self.debt = self.debts.as_ref().map(|debts| debts.owe(bytes));
    }

    /// Of a request: it is one message, to be sent in the time that begins when it is waited for.
    fn wait_for_request<T>(&mut self, frame: Poll<T>) -> Poll<T> {
        if frame.is_pending() && self.debt.is_none() {
            self.due(0);
        }
        frame
    }

    /// Of an answer: nothing as long as this side has nothing to say, and then to take it. Much of it is held until it
    /// is taken.
    fn offer<E>(
        &mut self,
        frame: Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let Poll::Ready(Some(Ok(frame))) = frame else {
            self.debt = None;
            return frame;
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        let frame = match length {
            ..HELD_BYTES => {
                if self.debt.is_none() {
                    self.due(length);
                }
                frame
            }
            _ => {
                self.due(length);
                frame.map_data(|data| hold(data, self.room.clone(), self.debt.take()))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

/// Bytes of an answer that are looked after until they are taken.
const HELD_BYTES: usize = 4096;

/// Which body it is.
enum End {
    Request(&'static Method),
    Answer(Call),
}

impl<B: Body<Data = Bytes> + Unpin> Body for MeteredBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        let frame = match &this.end {
            End::Request(_) => this.owed.wait_for_request(frame),
            End::Answer(_) => this.owed.offer(frame),
        };
        let frame = ready!(frame);
        match (&mut this.end, &frame) {
            (End::Request(method), Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let (messages, bytes) = this.frames.feed(data);
                    let counts = method.counts.mine();
                    counts.received.fetch_add(messages, Relaxed);
                    counts.received_bytes.fetch_add(bytes, Relaxed);
                }
            }
            (End::Request(_), _) => {}
            (End::Answer(call), Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let (messages, bytes) = this.frames.feed(data);
                    let counts = call.method.counts.mine();
                    counts.sent.fetch_add(messages, Relaxed);
                    counts.sent_bytes.fetch_add(bytes, Relaxed);
                } else if let Some(trailers) = frame.trailers_ref() {
                    call.end(status(trailers).unwrap_or(Code::Unknown as usize));
                }
            }
            (End::Answer(call), _) => call.end(Code::Unknown as usize),
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

/// Finds the messages in a body: each is a flag, a big-endian length of four bytes, and that many
/// bytes. Frames of HTTP/2 may cut them anywhere.
#[derive(Default)]
struct Frames {
    /// Bytes of the prefix that have been seen.
    prefix: u8,
    length: u32,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl Frames {
    const PREFIX: u8 = 5;

    /// Takes in a piece; answers the messages that end in it, and the bytes of messages in it.
    fn feed(&mut self, mut data: &[u8]) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        while let Some((first, rest)) = data.split_first() {
            if self.prefix < Self::PREFIX {
                // The flag is shifted out by the length's four bytes.
                self.length = self.length << 8 | u32::from(*first);
                self.prefix += 1;
                data = rest;
                if self.prefix < Self::PREFIX {
                    continue;
                }
                self.left = self.length as usize;
            }
            let taken = self.left.min(data.len());
            data = &data[taken..];
            self.left -= taken;
            bytes += taken as u64;
            if self.left == 0 {
                messages += 1;
                *self = Frames::default();
            }
        }
        (messages, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full, StreamBody};
    use hyper::service::service_fn;

    use super::*;
    use crate::config::tests::config;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.resize(5 + length, b'x');
        bytes
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let body: Vec<u8> = [message(3), message(0), message(300), message(0)].concat();
        for step in 1..body.len() {
            let mut frames = Frames::default();
            let total = body.chunks(step).fold((0, 0), |(messages, bytes), piece| {
                let (more_messages, more_bytes) = frames.feed(piece);
                (messages + more_messages, bytes + more_bytes)
            });
            assert_eq!(total, (4, 303), "in pieces of {step}");
        }
    }

    fn data() -> Frame<Bytes> {
        Frame::data(message(20).into())
    }

    fn trailers(code: &'static str) -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(code));
        Frame::trailers(trailers)
    }

    /// Makes a call with one message of ten bytes that is answered with `frames`.
    async fn call(metrics: &Arc<Metrics>, path: &str, version: &str, frames: fn() -> Vec<Frame<Bytes>>) {
        let service = service_fn(move |request: Request<MeteredBody<Full<Bytes>>>| {
            Box::pin(async move {
                request.into_body().collect().await.unwrap();
                let frames = frames().into_iter().map(Ok::<_, Infallible>);
                let body = StreamBody::new(futures_util::stream::iter(frames));
                Ok::<_, Infallible>(Response::new(body))
            })
        });
        let request = Request::builder()
            .uri(path)
            .header("client-api-version", version)
            .body(Full::new(message(10).into()))
            .unwrap();
        let answer = Metered::new(service, Arc::clone(metrics))
            .call(request)
            .await
            .unwrap();
        answer.into_body().collect().await.unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_call_is_counted_from_start_to_status() {
        let mut config = config();
        config.extensive_metrics = true;
        let metrics = Arc::new(Metrics::new(&config));
        call(&metrics, "/etcdserverpb.KV/Put", "3.7", || {
            vec![data(), trailers("0")]
        })
        .await;
        call(&metrics, "/etcdserverpb.KV/Put", "3.7", || vec![trailers("14")]).await;
        call(&metrics, "/v3lockpb.Lock/Lock", "3.7", || {
            vec![data(), trailers("0")]
        })
        .await;
        call(&metrics, "/nobody/Knows", "3.7", || vec![trailers("12")]).await;
        let text = metrics.encode();
        let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
        for line in [
            format!("grpc_server_started_total{{{put} 2"),
            format!("grpc_server_msg_received_total{{{put} 2"),
            format!("grpc_server_msg_sent_total{{{put} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{put} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{put} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{put} 0"),
            format!("grpc_server_handling_seconds_count{{{put} 2"),
            "etcd_network_client_grpc_received_bytes_total 40".into(),
            "etcd_network_client_grpc_sent_bytes_total 40".into(),
            "etcd_server_client_requests_total{client_api_version=\"3.7\",type=\"unary\"} 4".into(),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
        assert!(text.contains("grpc_method=\"Lock\"") && !text.contains("Unlock"));
        assert!(!text.contains("Knows"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_call_whose_caller_went_away_was_cancelled() {
        let metrics = Arc::new(Metrics::new(&config()));
        let method = metrics.grpc.find("/etcdserverpb.Watch/Watch");
        drop(Call::start(method));
        let line = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
                    grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 1\n";
        assert!(metrics.encode().contains(line));
    }

    #[test]
    fn a_client_is_of_a_minor_version_or_of_none() {
        for (said, label) in [
            (None, "unknown"),
            (Some("unknown"), "unknown"),
            (Some("3.7"), "3.7"),
            (Some("3.5.30"), "3.5"),
            (Some("3.1"), "3.1"),
            (Some("3.15"), "3.15"),
            (Some("3.16"), "other"),
            (Some("3.7."), "other"),
            (Some("3.7.x"), "other"),
            (Some("4.0"), "other"),
            (Some(""), "other"),
        ] {
            assert_eq!(client_label(said.map(str::as_bytes)), label, "{said:?}");
        }
        assert_eq!(client_label(Some(b"\xff")), "other");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn made_up_client_versions_are_one_series_and_leave_the_real_ones_theirs() {
        let metrics = Arc::new(Metrics::new(&config()));
        let answer = || vec![trailers("0")];
        for i in 0..1000 {
            call(&metrics, "/etcdserverpb.KV/Put", &format!("made-up-{i}"), answer).await;
        }
        call(&metrics, "/etcdserverpb.KV/Put", "3.7", answer).await;
        let requests = &metrics.server_client_requests_total;
        assert_eq!(requests.with(&["unary", "other"]).get(), 1000);
        assert_eq!(requests.with(&["unary", "3.7"]).get(), 1);
        assert_eq!(requests.len(), 2);
    }
}
