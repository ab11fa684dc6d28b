//! A Watch stream of a script.

use std::collections::{HashMap, VecDeque};

use grpc::etcdserverpb::watch_client::WatchClient;
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchRequest, WatchResponse};
use proto::mvccpb::Event;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::call::ScriptError;
use crate::caller::Line;
use crate::session::within;

/// One stream of KV.Watch with what came in and was not asked for yet.
#[derive(Debug)]
pub struct WatchStream {
    requests: Option<mpsc::Sender<WatchRequest>>,
    responses: mpsc::Receiver<Result<WatchResponse, Status>>,
    reader: JoinHandle<()>,
    events: VecDeque<(i64, Event)>,
    /// The last revision each watcher has had all events of.
    complete: HashMap<i64, i64>,
}

/// Requests or responses of a stream that wait for the other side; a script has a few at a time.
const STREAM_QUEUE: usize = 100;

impl WatchStream {
    /// Opens a stream. The server sends nothing before the first request, so a task of its own waits for it.
    pub fn open(client: &WatchClient<Line>) -> Self {
        let (requests, outgoing) = mpsc::channel(STREAM_QUEUE);
        let (incoming, responses) = mpsc::channel(STREAM_QUEUE);
        let mut client = client.clone();
        let reader = tokio::spawn(async move {
            let mut stream = match client.watch(ReceiverStream::new(outgoing)).await {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(incoming.send(Err(status)).await),
            };
            while let Some(response) = stream.message().await.transpose() {
                if incoming.send(response).await.is_err() {
                    return;
                }
            }
        });
        Self {
            requests: Some(requests),
            responses,
            reader,
            events: VecDeque::new(),
            complete: HashMap::new(),
        }
    }

    /// Sends a request.
    pub fn send(&self, request: RequestUnion) -> Result<(), ScriptError> {
        let requests = self.requests.as_ref().ok_or("the stream is closed")?;
        Ok(requests.try_send(WatchRequest {
            request_union: Some(request),
        })?)
    }

    /// Ends the requests, not the stream.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next answer, whole. A watch id that it gives out may have belonged to a watcher before.
    pub async fn response(&mut self) -> Result<Result<WatchResponse, Status>, ScriptError> {
        let response = within(async {
            let response = self.responses.recv().await;
            response.unwrap_or_else(|| Err(Status::ok("the stream has ended")))
        });
        let response = response.await?;
        if let Some(created) = response.as_ref().ok().filter(|response| response.created) {
            self.complete.remove(&created.watch_id);
        }
        Ok(response)
    }

    /// The next event with its watch id. Servers may put the events of several revisions into one answer or not,
    /// so the answers' borders and header revisions are not looked at, beyond what must hold for them.
    pub async fn event(&mut self) -> Result<(i64, Event), ScriptError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let response = self.response().await??;
            self.take_events(response)?;
        }
    }

    /// Takes the events out of a response. None may be newer than the header says; the events of a revision come
    /// together or in fragments.
    fn take_events(&mut self, response: WatchResponse) -> Result<(), ScriptError> {
        let revisions = || {
            response
                .events
                .iter()
                .map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
        };
        let (Some(first), Some(last)) = (revisions().next(), revisions().next_back()) else {
            return Err(format!("an answer without events: {response:?}").into());
        };
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        let complete = self.complete.entry(response.watch_id).or_default();
        if header < last || first <= *complete || !revisions().is_sorted() {
            return Err(format!(
                "events of revisions {first} to {last} come after {complete} with header {header}"
            )
            .into());
        }
        if !response.fragment {
            *complete = last;
        }
        self.events.extend(
            response
                .events
                .into_iter()
                .map(|event| (response.watch_id, event)),
        );
        Ok(())
    }

    /// Takes answers with `count` events in all. Tells whether they came in fragments, and how large the largest
    /// answer was.
    pub async fn fragments(&mut self, count: usize) -> Result<(bool, usize), ScriptError> {
        let (mut fragmented, mut largest) = (false, 0);
        self.events.clear();
        while self.events.len() < count {
            let response = self.response().await??;
            largest = largest.max(response.encoded_len());
            fragmented |= response.fragment;
            self.take_events(response)?;
        }
        self.events.clear();
        Ok((fragmented, largest))
    }
}

impl Drop for WatchStream {
    /// Ends the call, as a client does that goes away. A server that is asked to stop would wait for it.
    fn drop(&mut self) {
        self.reader.abort();
    }
}
