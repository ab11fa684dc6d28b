//! One service for everything that comes in by a connection: gRPC calls go to the gRPC services,
//! everything else to the HTTP endpoints.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use calm::{Debt, Debts};
use http::header::{CONTENT_TYPE, ORIGIN};
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;

use super::rest::Rest;
use crate::http::{Answer, Desk, Site, Vitals, not_found};
use crate::json::{Gateway, Lines};
use crate::metrics::{Answering, Metered, MeteredBody, Metrics};
use crate::node::Node;

/// The body of a gRPC request.
pub type RequestBody = MeteredBody<CallBody>;

/// Where the body of a gRPC request comes from.
pub enum CallBody {
    /// The network.
    Network(Incoming),
    /// This process.
    Local(tonic::body::Body),
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            CallBody::Network(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            CallBody::Local(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            CallBody::Network(body) => body.is_end_stream(),
            CallBody::Local(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            CallBody::Network(body) => body.size_hint(),
            CallBody::Local(body) => body.size_hint(),
        }
    }
}

/// All gRPC services of a port. A connection has a clone of it, and calls it for every request, so a
/// clone and a call should both be cheap.
pub trait GrpcService:
    Service<
        Request<RequestBody>,
        Response = Response<tonic::body::Body>,
        Error = Infallible,
        Future: Unpin + Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GrpcService for S where
    S: Service<
            Request<RequestBody>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
            Future: Unpin + Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// What is served on a listener.
#[derive(Clone)]
pub struct Edge<G, V = Node> {
    grpc: Option<Metered<G>>,
    gateway: Option<Gateway<G>>,
    site: Option<Site<V>>,
    peers: Option<PeerEdge>,
    /// Those of the connection.
    debts: Option<Debts>,
}

/// What members ask of each other, beside what everybody may ask.
#[derive(Clone)]
pub struct PeerEdge {
    /// Raft.
    pub transport: Arc<peer::Transport>,
    /// Everything else.
    pub desk: Desk,
}

impl PeerEdge {
    /// Whether a request for this path is for members.
    fn knows(path: &str) -> bool {
        peer::Transport::is_raft_path(path) || Desk::knows(path)
    }

    async fn answer(self, request: Request<Incoming>, debts: Option<Debts>) -> Response<EdgeBody> {
        match peer::Transport::is_raft_path(request.uri().path()) {
            true => self.transport.serve(request).await.map(EdgeBody::Raft),
            false => self
                .desk
                .answer(request)
                .await
                .map(|body| EdgeBody::http(body, debts.as_ref())),
        }
    }
}

impl<V> Edge<NoGrpc, V> {
    /// HTTP alone.
    pub fn http(site: Site<V>) -> Self {
        Edge {
            grpc: None,
            gateway: None,
            site: Some(site),
            peers: None,
            debts: None,
        }
    }

    /// For the other members.
    pub fn peers(site: Site<V>, peers: PeerEdge) -> Self {
        Edge {
            peers: Some(peers),
            ..Edge::http(site)
        }
    }
}

impl<G: GrpcService, V> Edge<G, V> {
    /// gRPC, and HTTP beside it or not.
    pub fn grpc(services: G, site: Option<Site<V>>, metrics: Arc<Metrics>) -> Self {
        Edge {
            grpc: Some(Metered::new(services, metrics)),
            gateway: None,
            site,
            peers: None,
            debts: None,
        }
    }

    /// The same on one connection.
    pub(super) fn on(self, debts: &Debts) -> Self {
        Edge {
            grpc: self.grpc.map(|grpc| grpc.on(debts)),
            gateway: self.gateway.map(|gateway| gateway.on(debts)),
            debts: Some(debts.clone()),
            ..self
        }
    }

    /// The same services, but for HTTP alone.
    pub fn gateway(gateway: Option<Gateway<G>>, site: Site<V>) -> Self {
        Edge {
            grpc: None,
            gateway,
            site: Some(site),
            peers: None,
            debts: None,
        }
    }

    /// With the gateway beside HTTP's other endpoints, if there is one.
    pub fn with(self, gateway: Option<Gateway<G>>) -> Self {
        Edge {
            gateway: gateway.filter(|_| self.site.is_some()),
            ..self
        }
    }

    /// What is served, in the word the log has for it.
    pub(super) fn traffic(&self) -> &'static str {
        match (&self.grpc, &self.site) {
            (Some(_), Some(_)) => "grpc+http",
            (Some(_), None) => "grpc",
            (None, _) => "http",
        }
    }
}

impl<G: GrpcService, V: Vitals> Edge<G, V> {
    /// Answers a request.
    pub(super) fn answer(&self, request: Request<Incoming>) -> Reply<G::Future> {
        if let Some(grpc) = self.grpc.as_ref().filter(|_| is_grpc(&request)) {
            return Reply::Grpc(grpc.call(request.map(CallBody::Network)));
        }
        let debts = self.debts.clone();
        if let Some(peers) = self
            .peers
            .clone()
            .filter(|_| PeerEdge::knows(request.uri().path()))
        {
            return Reply::Http(Box::pin(peers.answer(request, debts)));
        }
        let (head, body) = request.map(Rest::new).into_parts();
        let Some(site) = self.site.clone() else {
            return Reply::Http(Box::pin(async move { at_once(not_found(), debts.as_ref()) }));
        };
        let is_for_gateway = is_gateway_path(head.uri.path());
        let Some(gateway) = self.gateway.clone().filter(|_| is_for_gateway) else {
            return Reply::Http(Box::pin(async move {
                at_once(site.answer(&head).await, debts.as_ref())
            }));
        };
        Reply::Http(Box::pin(async move {
            if let Some(refusal) = site.refuse_json(&head) {
                return at_once(refusal, debts.as_ref());
            }
            let origin = head.headers.get(ORIGIN).cloned();
            let mut answer = gateway.answer(Request::from_parts(head, body)).await;
            site.allow_origin(origin.as_ref(), answer.headers_mut());
            answer
        }))
    }
}

/// Whether a path is the gateway's.
pub fn is_gateway_path(path: &str) -> bool {
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    path.starts_with("/v3/") || path.starts_with("/v3beta/")
}

fn at_once(answer: Answer, debts: Option<&Debts>) -> Response<EdgeBody> {
    answer.map(|body| EdgeBody::http(body, debts))
}

/// In HTTP/1, which gRPC does not speak, the gateway's paths are its own whatever the content type says.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    let says_so = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    says_so && (request.version() == Version::HTTP_2 || !is_gateway_path(request.uri().path()))
}

/// An answer that is being made.
pub enum Reply<F> {
    /// By the gRPC services.
    Grpc(Answering<F>),
    /// By an endpoint.
    Http(Pin<Box<dyn Future<Output = Response<EdgeBody>> + Send>>),
}

impl<F> Future for Reply<F>
where
    F: Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<EdgeBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Reply::Grpc(reply) => Pin::new(reply).poll(cx).map_ok(|reply| reply.map(EdgeBody::Grpc)),
            Reply::Http(reply) => reply.as_mut().poll(cx).map(Ok),
        }
    }
}

/// The body of an answer.
pub enum EdgeBody {
    /// Of the gRPC services.
    Grpc(MeteredBody<tonic::body::Body>),
    /// Of an endpoint, to be taken.
    Http(Full<Bytes>, Option<Debt>),
    /// Of a stream through the gateway.
    Lines(Lines),
    /// Of raft's transport.
    Raft(peer::ResponseBody),
}

impl EdgeBody {
    /// The body of an endpoint's answer, which the client is to take.
    pub fn http(body: Bytes, debts: Option<&Debts>) -> Self {
        let debt = debts.map(|debts| debts.owe(body.len()));
        EdgeBody::Http(body.into(), debt)
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match &mut *self {
            EdgeBody::Grpc(body) => Pin::new(body).poll_frame(cx),
            EdgeBody::Http(body, _) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            EdgeBody::Lines(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            EdgeBody::Raft(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            EdgeBody::Grpc(body) => body.is_end_stream(),
            EdgeBody::Http(body, _) => body.is_end_stream(),
            EdgeBody::Lines(body) => body.is_end_stream(),
            EdgeBody::Raft(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            EdgeBody::Grpc(body) => body.size_hint(),
            EdgeBody::Http(body, _) => body.size_hint(),
            EdgeBody::Lines(body) => body.size_hint(),
            EdgeBody::Raft(body) => body.size_hint(),
        }
    }
}

/// The gRPC services of a port without any.
#[derive(Clone, Copy)]
pub enum NoGrpc {}

impl Service<Request<RequestBody>> for NoGrpc {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn call(&self, _: Request<RequestBody>) -> Self::Future {
        match *self {}
    }
}
