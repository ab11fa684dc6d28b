//! All members of a cluster as one connection.
//!
//! There is one [`Line`] per endpoint, which connects by itself, and again and again. Calls take turns along those
//! that are connected; while there is none, they wait. A call that has certainly not been sent is given to the next
//! line without anybody noticing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, select_all};
use http::header::CONTENT_TYPE;
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::body::Body;
use tower_service::Service;
use tracing::{debug, info};

use crate::dial::{Connection, Dialer, SendRequest, last_source};
use crate::endpoint::Endpoint;
use crate::error::{Cause, Lost, Unreachable};

/// All members. Cheap to clone.
#[derive(Clone)]
pub struct Channel(Arc<Shared>);

struct Shared {
    dialer: Arc<Dialer>,
    lines: watch::Sender<Arc<[Arc<Line>]>>,
    turn: AtomicUsize,
}

impl Channel {
    /// Begins to connect to all of them.
    pub fn new(endpoints: Vec<Endpoint>, dialer: Arc<Dialer>) -> Self {
        let lines = lines(endpoints, &[], &dialer);
        Channel(Arc::new(Shared {
            dialer,
            lines: watch::Sender::new(lines),
            turn: AtomicUsize::new(0),
        }))
    }

    /// Members from now on. Connections to those that stay are kept.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.0
            .lines
            .send_modify(|current| *current = lines(endpoints, current, &self.0.dialer));
    }

    /// Only these, over the connections that are there already.
    pub fn only(&self, endpoints: Vec<Endpoint>) -> Self {
        let lines = lines(endpoints, &self.0.lines.borrow(), &self.0.dialer);
        Channel(Arc::new(Shared {
            dialer: self.0.dialer.clone(),
            lines: watch::Sender::new(lines),
            turn: AtomicUsize::new(0),
        }))
    }

    /// As they were written.
    pub fn endpoints(&self) -> Vec<String> {
        self.0
            .lines
            .borrow()
            .iter()
            .map(|line| line.endpoint.to_string())
            .collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lines.borrow().len()
    }

    /// Why there is no connection, if there is none.
    pub fn last_failure(&self) -> Option<Unreachable> {
        let lines = self.0.lines.borrow().clone();
        if lines.iter().any(|line| line.sender().is_some()) {
            return None;
        }
        lines.iter().find_map(|line| match &*line.state.borrow() {
            State::Down(Some(cause)) => Some(Unreachable {
                endpoint: line.endpoint.to_string(),
                cause: cause.clone(),
            }),
            _ => None,
        })
    }

    /// Waits until one of them is connected, or the last attempt to connect to each has failed.
    pub async fn reached(&self) -> Result<(), Unreachable> {
        let lines = self.0.lines.borrow().clone();
        let mut states: Vec<_> = lines.iter().map(|line| line.state.subscribe()).collect();
        loop {
            let mut down = 0;
            for state in &mut states {
                match &*state.borrow_and_update() {
                    State::Up(_) => return Ok(()),
                    State::Down(cause) => down += usize::from(cause.is_some()),
                }
            }
            if let (true, Some(failure)) = (down == states.len(), self.last_failure()) {
                return Err(failure);
            }
            // Who changes them is held here.
            let _ = select_all(states.iter_mut().map(|state| Box::pin(state.changed()))).await;
        }
    }

    /// The next one in turn that is connected.
    fn take_turn(&self) -> Option<(Arc<Line>, Arc<SendRequest>)> {
        let lines = self.0.lines.borrow();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let order = lines.iter().cycle().skip(turn % lines.len().max(1));
        let mut order = order.take(lines.len());
        order.find_map(|line| Some((line.clone(), line.sender()?)))
    }

    async fn ready(&self) -> (Arc<Line>, Arc<SendRequest>) {
        loop {
            if let Some(ready) = self.take_turn() {
                return ready;
            }
            let mut news = self.0.lines.subscribe();
            let lines = news.borrow_and_update().clone();
            let mut states: Vec<_> = lines.iter().map(|line| line.state.subscribe()).collect();
            let is_ready =
                |state: &mut watch::Receiver<State>| matches!(*state.borrow_and_update(), State::Up(_));
            if states.iter_mut().any(is_ready) {
                continue;
            }
            let changes = states.iter_mut().map(|state| Box::pin(state.changed()));
            tokio::select! {
                _ = news.changed() => {}
                _ = select_all(changes), if !lines.is_empty() => {}
            }
        }
    }

    async fn send(self, mut request: Request<Body>) -> Result<Response<Answer>, Lost> {
        loop {
            let (line, sender) = self.ready().await;
            line.aim(&mut request);
            match SendRequest::clone(&sender).try_send_request(request).await {
                Ok(response) if is_foreign(&response) => return Err(line.foreign(response.status())),
                Ok(response) => return Ok(response.map(|body| Answer { body, line })),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => {
                        line.give_up(&sender);
                        request = unsent;
                    }
                    None => return Err(line.lost(&error.into_error())),
                },
            }
        }
    }
}

fn lines(endpoints: Vec<Endpoint>, current: &[Arc<Line>], dialer: &Arc<Dialer>) -> Arc<[Arc<Line>]> {
    let line = |endpoint: Endpoint| {
        let known = current.iter().find(|line| line.endpoint == endpoint);
        known
            .cloned()
            .unwrap_or_else(|| Line::new(endpoint, dialer.clone()))
    };
    endpoints.into_iter().map(line).collect()
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Answer>;
    type Error = Lost;
    type Future = BoxFuture<'static, Result<Response<Answer>, Lost>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// One member, and how it is reached now.
struct Line {
    endpoint: Endpoint,
    state: watch::Sender<State>,
    /// Ends with the line.
    keeper: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

enum State {
    /// Not connected, and why the last attempt failed.
    Down(Option<Cause>),
    Up(Arc<SendRequest>),
}

/// The wait after the first failure; it grows by six tenths with each further one, up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A connection that did not last as long counts as a failure: somebody takes connections and drops them.
const SETTLED: Duration = Duration::from_secs(1);

impl Line {
    fn new(endpoint: Endpoint, dialer: Arc<Dialer>) -> Arc<Self> {
        let line = Arc::new(Line {
            endpoint,
            state: watch::Sender::new(State::Down(None)),
            keeper: parking_lot::Mutex::new(None),
        });
        let keeper = tokio::spawn(keep(line.endpoint.clone(), line.state.clone(), dialer));
        *line.keeper.lock() = Some(keeper);
        line
    }

    fn sender(&self) -> Option<Arc<SendRequest>> {
        match &*self.state.borrow() {
            State::Up(sender) if !sender.is_closed() => Some(sender.clone()),
            _ => None,
        }
    }

    /// A connection takes no more calls. Those it has may still be answered.
    fn give_up(&self, failed: &Arc<SendRequest>) {
        self.state.send_if_modified(|state| {
            let is_it = matches!(state, State::Up(sender) if Arc::ptr_eq(sender, failed));
            if is_it {
                *state = State::Down(None);
            }
            is_it
        });
    }

    /// Says in a request whom it is for.
    fn aim(&self, request: &mut Request<Body>) {
        let path = request.uri().path_and_query().cloned();
        let scheme = if self.endpoint.is_secure {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(self.endpoint.authority.clone());
        parts.path_and_query = path.or(Some(PathAndQuery::from_static("/")));
        // All three are there.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }

    fn lost(&self, error: &hyper::Error) -> Lost {
        Lost {
            endpoint: self.endpoint.to_string(),
            cause: last_source(error),
            is_untouched: is_untouched(error),
            is_foreign: false,
        }
    }

    fn foreign(&self, status: StatusCode) -> Lost {
        Lost {
            endpoint: self.endpoint.to_string(),
            cause: format!("it answers {status}"),
            is_untouched: true,
            is_foreign: true,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.abort();
        }
    }
}

/// Whether this is no answer to a call, but that of a web server which knows no such path: a peer port, or one for
/// metrics. What a proxy says that has lost its server is not meant.
fn is_foreign(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    !is_grpc && !response.status().is_server_error()
}

/// Whether the server says that it has not begun with a call: it refuses the stream, or was about to leave.
fn is_untouched(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (is_refused || error.is_go_away());
        }
        source = error.source();
    }
    false
}

/// Connects, and connects again.
async fn keep(endpoint: Endpoint, state: watch::Sender<State>, dialer: Arc<Dialer>) {
    let mut failures = 0;
    loop {
        match dialer.dial(&endpoint).await {
            Ok(connection) => {
                let begin = Instant::now();
                debug!(%endpoint, "connected");
                hold(&endpoint, connection, &state).await;
                failures = if begin.elapsed() < SETTLED {
                    failures + 1
                } else {
                    0
                };
            }
            Err(cause) => {
                info!(%endpoint, %cause, "cannot connect");
                state.send_replace(State::Down(Some(cause)));
                failures += 1;
            }
        }
        let pause = pause(failures, &mut rand::rng());
        sleep(pause).await;
    }
}

/// Offers a connection until it breaks, or is given up.
async fn hold(endpoint: &Endpoint, connection: Connection, state: &watch::Sender<State>) {
    let sender = Arc::new(connection.sender);
    state.send_replace(State::Up(sender.clone()));
    let mut states = state.subscribe();
    tokio::select! {
        ended = connection.ended => {
            let cause = ended.unwrap_or_else(|_| "its runtime ends".into());
            info!(%endpoint, %cause, "connection lost");
            state.send_replace(State::Down(Some(Cause::Io(cause))));
        }
        // The sender of what is awaited is borrowed here, so it is there.
        _ = states.wait_for(|state| !matches!(state, State::Up(current) if Arc::ptr_eq(current, &sender))) => {}
    }
}

/// How long to wait after so many failures in a row, give or take a fifth.
fn pause(failures: u32, chance: &mut impl Rng) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let growth = 1.6_f64.powi(failures.min(32) as i32 - 1);
    PAUSE
        .mul_f64(growth)
        .min(PAUSE_MAX)
        .mul_f64(chance.random_range(0.8..1.2))
}

/// An answer, while it comes. It keeps the line it comes on.
pub struct Answer {
    body: Incoming,
    line: Arc<Line>,
}

impl HttpBody for Answer {
    type Data = bytes::Bytes;
    type Error = Lost;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Lost>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| self.line.lost(&error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn waits_grow_and_end_at_some_seconds() {
        let mut chance = StdRng::seed_from_u64(7);
        assert_eq!(pause(0, &mut chance), Duration::ZERO);
        for (failures, millis) in [
            (1, 100.0),
            (2, 160.0),
            (3, 256.0),
            (12, 10_000.0),
            (u32::MAX, 10_000.0),
        ] {
            let wait = pause(failures, &mut chance).as_secs_f64() * 1000.0;
            assert!(
                (0.8 * millis..1.2 * millis + 1.0).contains(&wait),
                "{failures}: {wait}"
            );
        }
    }
}
