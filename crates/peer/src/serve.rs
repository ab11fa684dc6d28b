//! What other members ask of this one: the paths under `/raft`.
//!
//! Statuses and texts are etcd's: members act on them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use types::MemberId;

use crate::codec::{Arrived, Codec, MAX_MESSAGE_BYTES};
use crate::handshake::{self, CLUSTER_ID, RAFT_TO, SERVER_VERSION};
use crate::outbox::Stream;
use crate::peer::Link;
use crate::snapshot::{self, snapshot_index};
use crate::transport::Transport;
use crate::{PeerMetrics, Refused, STREAM_TIMEOUT, SnapshotOutcome};

pub(crate) const MESSAGE_STREAM: &str = "/raft/stream/message/";
pub(crate) const MSGAPP_STREAM: &str = "/raft/stream/msgapp/";
const STREAMS: &str = "/raft/stream/";

/// Longest MsgSnap in front of a database, etcd's limit: the membership is in it, the data is not.
const SNAPSHOT_MESSAGE_BYTES: u64 = 64 << 20;

/// The body of an answer: a few bytes, or a stream.
pub struct ResponseBody(Kind);

enum Kind {
    Whole(Full<Bytes>),
    Stream(Stream),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Whole(body) => Pin::new(body).poll_frame(context),
            Kind::Stream(stream) => Pin::new(stream).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(body) => body.size_hint(),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

type Answer = Response<ResponseBody>;

/// Why a message is not handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Its sender was removed.
    Removed,
    /// It is for another member.
    Mismatch,
    /// It must come with a database.
    NoDatabase,
    /// Nobody takes it now.
    Refused,
}

impl From<Refused> for Rejection {
    fn from(_: Refused) -> Self {
        Rejection::Refused
    }
}

impl Rejection {
    pub fn text(self) -> &'static str {
        match self {
            Rejection::Removed => "cannot process message from removed member",
            Rejection::Mismatch => "cannot process message to mismatch member",
            Rejection::NoDatabase => "wrong raft message type",
            Rejection::Refused => "error processing raft message",
        }
    }

    fn answer(self) -> Answer {
        let text = self.text();
        match self {
            Rejection::Removed | Rejection::Mismatch => {
                let json = format!("{{\"message\":\"{text}\"}}");
                answer(StatusCode::FORBIDDEN, "application/json", json)
            }
            Rejection::NoDatabase => refusal(StatusCode::BAD_REQUEST, text),
            Rejection::Refused => {
                let mut answer = refusal(StatusCode::INTERNAL_SERVER_ERROR, text);
                let headers = answer.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                answer
            }
        }
    }
}

/// Whether a message is one for this member.
fn check(link: &Link, message: &Message) -> Result<(), Rejection> {
    if link.incoming.is_removed(MemberId(message.from)) {
        return Err(Rejection::Removed);
    }
    match message.to == link.config.id.0 {
        true => Ok(()),
        false => Err(Rejection::Mismatch),
    }
}

/// Hands a message on that came without a database.
pub(crate) fn admit(link: &Link, message: Message) -> Result<(), Rejection> {
    check(link, &message)?;
    if message.r#type == MessageType::MsgSnap as i32 {
        return Err(Rejection::NoDatabase);
    }
    Ok(link.incoming.message(message)?)
}

impl Transport {
    /// Whether a request for that path is one for [`serve`](Self::serve).
    pub fn is_raft_path(path: &str) -> bool {
        path == "/raft" || path.starts_with("/raft/")
    }

    /// Answers a request of another member. The answer's body may be a stream that ends only with the
    /// connection, with the peer or with the transport.
    pub async fn serve<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes>,
    {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path == "/raft/probing" {
            return probing();
        }
        let method = match path {
            "/raft" | "/raft/snapshot" => Method::POST,
            path if path.starts_with(STREAMS) => Method::GET,
            _ => return refusal(StatusCode::NOT_FOUND, "404 page not found"),
        };
        if head.method != method {
            return wrong_method(&method);
        }
        let mut answer = match handshake::check(&self.link.config, &head.headers) {
            Err(reason) => refusal(StatusCode::PRECONDITION_FAILED, reason),
            Ok(()) => match path {
                "/raft" => self.take_message(&head, body).await,
                "/raft/snapshot" => self.take_snapshot(&head, body).await,
                _ => self.open_stream(&head),
            },
        };
        self.sign(&mut answer);
        answer
    }

    /// Tells who answers.
    fn sign(&self, answer: &mut Answer) {
        let config = &self.link.config;
        let version = HeaderValue::from_static(config.version);
        let headers = answer.headers_mut();
        headers.insert(HeaderName::from_static(SERVER_VERSION), version);
        if let Ok(cluster) = HeaderValue::try_from(config.cluster_id.to_string()) {
            headers.insert(HeaderName::from_static(CLUSTER_ID), cluster);
        }
    }

    async fn take_message<B: Body<Data = Bytes>>(&self, head: &Parts, body: B) -> Answer {
        self.learn_sender(head);
        let sender = handshake::sender(&head.headers);
        let metrics = self.metrics_of(sender);
        let body = match read(body).await {
            Some(body) => body,
            None => {
                metrics.receive_failed();
                return refusal(StatusCode::BAD_REQUEST, "error reading raft message");
            }
        };
        metrics.received(body.len());
        let Ok(message) = Message::decode(body) else {
            metrics.receive_failed();
            return refusal(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
        };
        match admit(&self.link, message) {
            Ok(()) => no_content(),
            Err(rejection) => rejection.answer(),
        }
    }

    fn learn_sender(&self, head: &Parts) {
        if let Some(id) = handshake::sender(&head.headers) {
            self.learn(id, handshake::sender_urls(&head.headers));
        }
    }

    fn open_stream(&self, head: &Parts) -> Answer {
        let path = head.uri.path();
        let (codec, from) = match (
            path.strip_prefix(MESSAGE_STREAM),
            path.strip_prefix(MSGAPP_STREAM),
        ) {
            (Some(from), _) => (Codec::Message, from),
            (_, Some(from)) => (Codec::MsgApp, from),
            _ => return refusal(StatusCode::NOT_FOUND, "invalid path"),
        };
        let Some(from) = handshake::parse_id(from) else {
            return refusal(StatusCode::NOT_FOUND, "invalid from");
        };
        if self.link.incoming.is_removed(from) {
            return refusal(StatusCode::GONE, "removed member");
        }
        let Some(peer) = self.peer(from) else {
            self.learn(from, handshake::sender_urls(&head.headers));
            return refusal(StatusCode::NOT_FOUND, "error sender not found");
        };
        if handshake::text(&head.headers, RAFT_TO) != self.link.config.id.to_string() {
            return refusal(StatusCode::PRECONDITION_FAILED, "to field mismatch");
        }
        // It lives: no need to wait longer before dialing it.
        peer.dial_now();
        Response::new(ResponseBody(Kind::Stream(Stream::open(peer, codec))))
    }

    async fn take_snapshot<B: Body<Data = Bytes>>(&self, head: &Parts, body: B) -> Answer {
        self.learn_sender(head);
        let began = Instant::now();
        let metrics = self.metrics_of(handshake::sender(&head.headers));
        let mut body = Box::pin(body);
        let (message, first) = match read_envelope(&mut body).await {
            Ok(read) => read,
            Err(reason) => {
                metrics.snapshot_request_failed();
                let text = format!("failed to decode raft message ({reason})");
                return refusal(StatusCode::BAD_REQUEST, &text);
            }
        };
        let checked = match message.r#type == MessageType::MsgSnap as i32 {
            true => check(&self.link, &message),
            false => Err(Rejection::NoDatabase),
        };
        if let Err(rejection) = checked {
            metrics.snapshot_request_failed();
            return rejection.answer();
        }
        metrics.snapshot_receive_began();
        let mut receipt = Receipt(Some(Arc::clone(&metrics)));
        let (index, from) = (snapshot_index(&message), MemberId(message.from));
        tracing::info!(
            "remote-snapshot-sender-id" = %from,
            "incoming-snapshot-index" = index,
            "receiving database snapshot"
        );
        let path = self.link.incoming.snapshot_path(&message);
        let disk = Arc::clone(&self.link.config.disk);
        let saved = snapshot::save(disk, path.clone(), first, body, Arc::clone(&metrics)).await;
        match saved {
            Err(error) => {
                tracing::warn!(
                    "remote-snapshot-sender-id" = %from,
                    "incoming-snapshot-index" = index,
                    error = error.as_str(),
                    "failed to save incoming database snapshot"
                );
                let text = format!("failed to save KV snapshot ({error})");
                refusal(StatusCode::INTERNAL_SERVER_ERROR, &text)
            }
            Ok(len) => {
                metrics.received(usize::try_from(len).unwrap_or(usize::MAX));
                tracing::info!(
                    "remote-snapshot-sender-id" = %from,
                    "incoming-snapshot-index" = index,
                    "incoming-snapshot-size-bytes" = len,
                    "download-took" = ?began.elapsed(),
                    "received and saved database snapshot"
                );
                match self.link.incoming.snapshot_received(message, path) {
                    Ok(()) => {
                        receipt.end(SnapshotOutcome::Done(began.elapsed()));
                        no_content()
                    }
                    Err(refused) => {
                        let text = format!("failed to process raft message ({refused})");
                        refusal(StatusCode::INTERNAL_SERVER_ERROR, &text)
                    }
                }
            }
        }
    }
}

/// A database that is counted as on its way, and as failed if nothing else is said.
struct Receipt(Option<Arc<dyn PeerMetrics>>);

impl Receipt {
    fn end(&mut self, outcome: SnapshotOutcome) {
        if let Some(metrics) = self.0.take() {
            metrics.snapshot_receive_ended(outcome);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.end(SnapshotOutcome::Failed);
    }
}

/// A whole body; none if it breaks off, pauses or is too long.
async fn read<B: Body<Data = Bytes>>(body: B) -> Option<Bytes> {
    let limit = usize::try_from(MAX_MESSAGE_BYTES).unwrap_or(usize::MAX);
    let mut body = Box::pin(body);
    let mut arrived = bytes::BytesMut::new();
    while let Some(frame) = tokio::time::timeout(STREAM_TIMEOUT, body.frame()).await.ok()? {
        let bytes = frame.ok()?.into_data().unwrap_or_default();
        if bytes.len() > limit - arrived.len() {
            return None;
        }
        arrived.extend_from_slice(&bytes);
    }
    Some(arrived.freeze())
}

/// The message in front of a database, and what has arrived of that.
async fn read_envelope<B>(body: &mut B) -> Result<(Message, Bytes), String>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut arrived = Arrived::default();
    loop {
        let block = arrived.block(SNAPSHOT_MESSAGE_BYTES);
        if let Some(block) = block.map_err(|error| error.to_string())? {
            let message = Message::decode(block).map_err(|error| error.to_string())?;
            return Ok((message, arrived.rest()));
        }
        match tokio::time::timeout(STREAM_TIMEOUT, body.frame()).await {
            Ok(Some(Ok(frame))) => arrived.push(&frame.into_data().unwrap_or_default()),
            _ => return Err("unexpected EOF".to_owned()),
        }
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(ResponseBody(Kind::Whole(Full::new(body.into()))));
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

fn no_content() -> Answer {
    let mut answer = Response::new(ResponseBody(Kind::Whole(Full::default())));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn refusal(status: StatusCode, text: &str) -> Answer {
    let mut refusal = answer(status, "text/plain; charset=utf-8", format!("{text}\n"));
    let nosniff = HeaderValue::from_static("nosniff");
    refusal.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    refusal
}

fn wrong_method(right: &Method) -> Answer {
    let mut refusal = refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    if let Ok(right) = HeaderValue::from_str(right.as_str()) {
        refusal.headers_mut().insert(ALLOW, right);
    }
    refusal
}

fn probing() -> Answer {
    let now = jiff::Timestamp::now();
    let json = format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n");
    answer(StatusCode::OK, "application/json", json)
}
