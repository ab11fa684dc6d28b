//! `etcdserverpb.Watch`: one stream, many watchers.
//!
//! The handler only forwards: a task takes the client's requests to the hub, one at a time, and the
//! answer is the stream's outbox. Everything else is the hub's.

use std::pin::Pin;
use std::task::{Context, Poll};

use grpc::hot::etcdserverpb::watch_server;
use proto::etcdserverpb::WatchRequest;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use types::ErrorKind;
use watch::{Create, Frame, Frames};

use super::status;
use crate::access::{self, Head};
use crate::loops::watch::{self as feed, Counted, OpenStream};
use crate::node::Node;

/// The service.
pub struct Watches(pub Node);

#[tonic::async_trait]
impl watch_server::Watch for Watches {
    type WatchStream = Answers;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Answers>, Status> {
        let node = self.0.clone();
        let (head, requests) = access::split(request);
        node.admit(&head)?;
        let (stream, frames, counted) = node.watches.open();
        tokio::spawn(forward(node, stream, head, requests));
        Ok(Response::new(Answers {
            frames,
            _counted: counted,
        }))
    }
}

/// Takes the client's requests to the hub until the client has no more or the stream has ended. The
/// end of the requests does not end the watchers. Permission is asked for once, when a watcher is made.
async fn forward(node: Node, stream: OpenStream, head: Head, mut requests: Streaming<WatchRequest>) {
    while let Ok(Some(request)) = requests.message().await {
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
    _counted: Counted,
}

impl Stream for Answers {
    type Item = Result<Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.frames
            .poll_next(context)
            .map(|frame| frame.map(|frame| frame.map_err(status)))
    }
}
