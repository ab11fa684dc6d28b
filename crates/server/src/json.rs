//! The JSON gateway: calls that come as JSON over HTTP, made in this process.
//!
//! Crate `gateway` knows what path is which call and what JSON is which message. Here bodies are read and written, and
//! the call in between goes to the same gRPC services by the same way as one from the network, counted like one, but
//! without a connection: a client stub whose channel is the service itself.
//!
//! Streams go at the pace of their readers. The next message is taken from a stream when the line of the last one has
//! been taken over by the connection, and the next request out of a body when the service asks for one.
//!
//! Who calls is told by a token alone. Of the extensions of a request only the address goes on; the certificate of a
//! TLS connection ends here: a call through the gateway is nobody's by certificate (CVE-2018-16886).

mod websocket;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::{self, Stream, StreamExt};
use gateway::{Method, Refusal, Values};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::service::Service;
use tokio::time::{Instant, timeout_at};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

use crate::GRPC_OVERHEAD_BYTES;
use crate::answers::{AsJson, Room, hold};
use crate::config::Config;
use crate::listen::{CallBody, ClientAddress, Debts, EdgeBody, GrpcService, Rest, Stay};
use crate::metrics::{Answering, Metered, MeteredBody};

/// Bytes of JSON for one byte of a request that may be large: base64 takes four for three, and small fields of a
/// transaction a few for the names around them.
const JSON_BYTES_PER_BYTE: usize = 4;

/// Messages up to this size are turned from or into JSON on the thread of the connection; larger ones elsewhere, so
/// that they do not hold up others.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// The gateway of a connection.
pub struct Gateway<G> {
    calls: Calls<G>,
    json_bytes_max: usize,
    /// Those of the connection.
    debts: Option<Debts>,
}

impl<G: Clone> Clone for Gateway<G> {
    fn clone(&self) -> Self {
        Gateway {
            calls: Calls(self.calls.0.clone()),
            json_bytes_max: self.json_bytes_max,
            debts: self.debts.clone(),
        }
    }
}

/// The pieces of a body, to its end.
type Pieces = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Lines of a stream that is the body of an answer.
pub type Lines = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

impl<G: GrpcService> Gateway<G> {
    /// A gateway to these services.
    pub fn new(services: Metered<G>, config: &Config) -> Self {
        let message_bytes_max = config.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES);
        Gateway {
            calls: Calls(services),
            json_bytes_max: message_bytes_max.saturating_mul(JSON_BYTES_PER_BYTE),
            debts: None,
        }
    }

    /// The same on one connection, whose clients owe it the rest of their requests and take their answers.
    pub fn on(self, debts: &Debts) -> Self {
        Gateway {
            debts: Some(debts.clone()),
            ..self
        }
    }

    /// Answers a request for a path of the gateway.
    pub async fn answer(self, mut request: Request<Rest>) -> Response<EdgeBody> {
        let method = Method::at(&route(request.uri().path()));
        if websocket::is_wanted(request.headers()) {
            let (upgrade, stay) = (
                hyper::upgrade::on(&mut request),
                request.extensions_mut().remove::<Stay>(),
            );
            return websocket::open(self, method, &request.into_parts().0, upgrade, stay);
        }
        if method.is_some() && request.method() != http::Method::POST {
            return whole(&Refusal::new(12, "Method Not Allowed"));
        }
        let (head, body) = request.into_parts();
        let pieces = body
            .into_data_stream()
            .take_while(|piece| std::future::ready(piece.is_ok()))
            .filter_map(|piece| std::future::ready(piece.ok()));
        self.call(method, &Caller::of(&head), Box::pin(pieces)).await
    }

    /// Makes a call with the requests in a body.
    async fn call(
        self,
        method: Option<&'static Method>,
        caller: &Caller,
        pieces: Pieces,
    ) -> Response<EdgeBody> {
        let Some(method) = method else {
            return whole(&Refusal::new(5, "Not Found"));
        };
        let deadline = match deadline(&caller.headers) {
            Ok(deadline) => deadline,
            Err(refusal) => return whole(&refusal),
        };
        let input = Input {
            method,
            pieces,
            values: Values::new(self.json_bytes_max),
            ended: false,
        };
        let call = Call {
            method,
            metadata: metadata(&caller.headers),
            address: caller.address,
            deadline,
            debts: self.debts,
            grpc: Grpc::new(self.calls).max_decoding_message_size(usize::MAX),
        };
        match (method.takes_many, method.gives_many) {
            (false, false) => match call.unary(input).await {
                Ok(body) => answered(body),
                Err(refusal) => whole(&refusal),
            },
            (false, true) => match call.first(input).await {
                Ok((call, request)) => call.stream(stream::iter([request])).await,
                Err(refusal) => whole(&refusal),
            },
            (true, _) => call.stream(input.into_requests()).await,
        }
    }
}

/// Who calls.
struct Caller {
    headers: HeaderMap,
    /// From where, as who guesses passwords is known by that.
    address: Option<ClientAddress>,
}

impl Caller {
    fn of(request: &Parts) -> Self {
        Caller {
            headers: request.headers.clone(),
            address: request.extensions.get().copied(),
        }
    }
}

/// The path that routes know: without escapes, and beta's paths lead where today's do.
fn route(path: &str) -> String {
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    path.replacen("/v3beta/", "/v3/", 1)
}

/// When the call has to be over, if the caller says so.
fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Refusal> {
    let Some(text) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let time = gateway::deadline(&String::from_utf8_lossy(text.as_bytes()))?;
    Ok(time.and_then(|time| Instant::now().checked_add(time)))
}

/// The metadata that a request's headers stand for.
fn metadata(headers: &HeaderMap) -> MetadataMap {
    let mut passed_on = HeaderMap::new();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix("grpc-metadata-") {
            // No service here takes binary metadata.
            Some(key) if !key.ends_with("-bin") => HeaderName::try_from(key),
            None if name == AUTHORIZATION => Ok(AUTHORIZATION),
            _ => continue,
        };
        let is_text = value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte));
        if let (Ok(name), true) = (name, is_text) {
            passed_on.append(name, value.clone());
        }
    }
    MetadataMap::from_headers(passed_on)
}

/// The requests in a body.
struct Input {
    method: &'static Method,
    pieces: Pieces,
    values: Values,
    ended: bool,
}

impl Input {
    /// The next request, encoded.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            if let Some(json) = self.values.next(self.ended)? {
                let method = self.method;
                return convert(json, move |json| method.read(&json)).await.map(Some);
            }
            if self.ended {
                return Ok(None);
            }
            match self.pieces.next().await {
                Some(piece) => self.values.feed(&piece)?,
                None => self.ended = true,
            }
        }
    }

    /// All of them. One that can't be read is where they end, as they do in etcd.
    fn into_requests(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(self, |mut input| async move {
            let request = input.next().await;
            request.ok().flatten().map(|request| (request, input))
        })
    }
}

/// Turns a message into JSON or back, where it holds up nobody.
async fn convert<T: Send + 'static>(
    bytes: Bytes,
    work: impl FnOnce(Bytes) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    if bytes.len() <= INLINE_BYTES_MAX {
        return work(bytes);
    }
    let done = tokio::task::spawn_blocking(move || work(bytes)).await;
    done.unwrap_or_else(|_| Err(Refusal::new(14, "etcdserver: server stopped")))
}

/// A call that is about to be made.
struct Call<G> {
    method: &'static Method,
    metadata: MetadataMap,
    address: Option<ClientAddress>,
    deadline: Option<Instant>,
    debts: Option<Debts>,
    grpc: Grpc<Calls<G>>,
}

impl<G: GrpcService> Call<G> {
    /// The only request of a body; an empty body is an empty request.
    async fn first(self, mut input: Input) -> Result<(Self, Bytes), Refusal> {
        let _owed = self.debts.as_ref().map(|debts| debts.owe(0));
        let request = input.next().await?;
        Ok((self, request.unwrap_or_default()))
    }

    async fn unary(self, input: Input) -> Result<EdgeBody, Refusal> {
        let (mut call, request) = self.first(input).await?;
        let (request, path) = call.request(request);
        let answer = before(call.deadline, async {
            let answer = call.grpc.unary(request, path, Plain).await;
            answer.map_err(refused)
        });
        let (_, message, extensions) = answer.await?.into_parts();
        let method = call.method;
        let json = convert(message, move |message| method.write(message)).await?;
        // The answer is in memory for as long as its JSON is.
        let json = hold(json.into(), extensions.get::<Room>().cloned(), None);
        Ok(EdgeBody::http(json, call.debts.as_ref()))
    }

    async fn stream(mut self, requests: impl Stream<Item = Bytes> + Send + 'static) -> Response<EdgeBody> {
        let (method, deadline) = (self.method, self.deadline);
        // Who talks to and fro may be silent and may leave answers: other limits hold for those.
        let debts = self.debts.take().filter(|_| !method.takes_many);
        let (request, path) = self.request(requests);
        let begun = before(deadline, async {
            let answers = self.grpc.streaming(request, path, Plain).await.map_err(refused)?;
            Ok(answers.into_inner())
        });
        let mut answers = match begun.await {
            Ok(messages) => Answers {
                method,
                deadline,
                debts,
                messages,
            },
            Err(refusal) => return line(refusal),
        };
        // Its headers wait for the first answer, as the real one's do.
        match answers.next().await {
            Ok(Some(first)) => answered(EdgeBody::Lines(lines(
                stream::iter([first]).chain(answers.into_lines()),
            ))),
            Ok(None) => Response::new(EdgeBody::Lines(lines(stream::empty()))),
            Err(refusal) => line(refusal),
        }
    }

    fn request<T>(&mut self, request: T) -> (tonic::Request<T>, http::uri::PathAndQuery) {
        let metadata = std::mem::take(&mut self.metadata);
        let mut request = tonic::Request::from_parts(metadata, tonic::Extensions::default(), request);
        request.extensions_mut().insert(AsJson);
        if let Some(address) = self.address {
            request.extensions_mut().insert(address);
        }
        let path = http::uri::PathAndQuery::from_static(&self.method.rpc);
        (request, path)
    }
}

/// The answers of a stream.
struct Answers {
    method: &'static Method,
    deadline: Option<Instant>,
    debts: Option<Debts>,
    messages: Streaming<Bytes>,
}

impl Answers {
    /// The next one, as a line.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let message = before(self.deadline, async {
            self.messages.message().await.map_err(refused)
        });
        let Some(message) = message.await? else {
            return Ok(None);
        };
        let method = self.method;
        let line: Bytes = convert(message, move |message| method.write_line(message))
            .await?
            .into();
        let debt = self.debts.as_ref().map(|debts| debts.owe(line.len()));
        Ok(Some(hold(line, None, debt)))
    }

    /// All that are left; an error is the last line.
    fn into_lines(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(Some(self), |answers| async move {
            let mut answers = answers?;
            match answers.next().await {
                Ok(line) => line.map(|line| (line, Some(answers))),
                Err(refusal) => Some((refusal.line().into(), None)),
            }
        })
    }
}

/// What is done in time, or the refusal of a caller who would not wait longer.
async fn before<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let Some(deadline) = deadline else {
        return work.await;
    };
    let late = || Err(Refusal::new(4, "context deadline exceeded"));
    match deadline <= Instant::now() {
        true => late(),
        false => timeout_at(deadline, work).await.unwrap_or_else(|_| late()),
    }
}

fn refused(status: Status) -> Refusal {
    Refusal::new(status.code() as i32, status.message())
}

/// An answer of the services.
fn answered(body: EdgeBody) -> Response<EdgeBody> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(
        HeaderName::from_static("grpc-metadata-content-type"),
        HeaderValue::from_static("application/grpc"),
    );
    answer
}

/// A refusal as the whole answer.
fn whole(refusal: &Refusal) -> Response<EdgeBody> {
    let mut answer = failed(refusal, EdgeBody::http(refusal.body().into(), None));
    if let (16, Ok(problem)) = (refusal.code, HeaderValue::try_from(&*refusal.message)) {
        answer.headers_mut().insert(WWW_AUTHENTICATE, problem);
    }
    answer
}

/// A refusal as the only line of a stream.
#[expect(clippy::needless_pass_by_value, reason = "it ends here")]
fn line(refusal: Refusal) -> Response<EdgeBody> {
    let only = stream::iter([Bytes::from(refusal.line())]);
    failed(&refusal, EdgeBody::Lines(lines(only)))
}

fn failed(refusal: &Refusal, body: EdgeBody) -> Response<EdgeBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() =
        StatusCode::from_u16(refusal.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

fn lines(lines: impl Stream<Item = Bytes> + Send + 'static) -> Lines {
    StreamBody::new(Box::pin(lines.map(|line| Ok(Frame::data(line)))))
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The services as the channel of a client stub.
struct Calls<G>(Metered<G>);

impl<G: GrpcService> tower_service::Service<Request<tonic::body::Body>> for Calls<G> {
    type Response = Response<MeteredBody<tonic::body::Body>>;
    type Error = Infallible;
    type Future = Answering<G::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        self.0.call(request.map(CallBody::Local))
    }
}

/// Messages as they are: encoded.
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
