//! `etcdserverpb.Watch`: one stream, many watchers.
//!
//! The handler only forwards: a task takes the client's requests to the hub, one at a time, and the
//! answer is the stream's outbox. Everything else is the hub's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use grpc::hot::etcdserverpb::watch_server;
use proto::etcdserverpb::WatchRequest;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use types::ErrorKind;
use watch::{Create, Frame, Frames};

use super::led::Led;
use super::{count_failure, status};
use crate::access::{self, Head};
use crate::loops::watch::{self as feed, Counted, OpenStream};
use crate::metrics::Metrics;
use crate::node::Node;

/// The service.
pub struct Watches(pub Node);

#[tonic::async_trait]
impl watch_server::Watch for Watches {
    type WatchStream = Led<Answers>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Led<Answers>>, Status> {
        let node = self.0.clone();
        let (head, requests) = access::split(request);
        node.admit(&head)?;
        let (stream, frames, counted) = node.watches.open();
        let answers = Answers {
            frames,
            metrics: node.metrics.clone(),
            sending: None,
            _counted: counted,
        };
        let answers = Led::new(&node, &head, answers);
        tokio::spawn(forward(node, stream, head, requests));
        Ok(Response::new(answers))
    }
}

/// Takes the client's requests to the hub until the client has no more or the stream has ended. The
/// end of the requests does not end the watchers. Permission is asked for once, when a watcher is made.
async fn forward(node: Node, stream: OpenStream, head: Head, mut requests: Streaming<WatchRequest>) {
    loop {
        let request = match requests.message().await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => return count_failure(&node, "watch", &error),
        };
        if !stream.outbox.room().await {
            return;
        }
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let create = Create::from(create);
                stream.tell(match may_watch(&node, &head, &create).await {
                    Ok(()) => feed::Request::Create(stream.id, create, node.mvcc.current()),
                    Err(error) => feed::Request::Refuse(stream.id, error),
                });
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                stream.tell(feed::Request::Cancel(stream.id, cancel.watch_id));
            }
            Some(RequestUnion::ProgressRequest(_)) => stream.tell(feed::Request::Progress(stream.id)),
            None => {}
        }
    }
}

/// Whether the caller may watch this range. A start that can't be is the hub's to refuse, and that comes first.
pub async fn may_watch(node: &Node, head: &Head, create: &Create) -> Result<(), ErrorKind> {
    if create.start_revision < 0 {
        return Ok(());
    }
    let who = node.identify(head).await?;
    node.may_read(&who, &create.range)
}

/// The stream's outbox, counted as long as the client listens.
pub struct Answers {
    frames: Frames,
    metrics: Arc<Metrics>,
    /// The response that was handed out last.
    sending: Option<Sending>,
    _counted: Counted,
}

/// A response on its way: it is sent when the connection comes for the next one.
struct Sending {
    since: Instant,
    events: u32,
    /// Whether it answers a request of the client's.
    answers: bool,
}

impl Sending {
    fn new(frame: &Frame) -> Self {
        Sending {
            since: Instant::now(),
            events: frame.event_count(),
            answers: frame.head().created || frame.head().canceled,
        }
    }

    fn sent(self, metrics: &Metrics) {
        let took = self.since.elapsed();
        if self.answers {
            return metrics
                .debugging_server_watch_send_loop_control_stream_duration_seconds
                .observe_duration(took);
        }
        metrics
            .debugging_server_watch_send_loop_watch_stream_duration_seconds
            .observe_duration(took);
        if self.events > 0 {
            metrics
                .debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds
                .observe_duration(took / self.events);
        }
    }
}

impl Stream for Answers {
    type Item = Result<Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(sending) = self.sending.take() {
            sending.sent(&self.metrics);
        }
        let frame = self.frames.poll_next(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.sending = Some(Sending::new(frame));
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(status)))
    }
}
