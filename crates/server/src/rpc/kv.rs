//! `etcdserverpb.KV`.
//!
//! Reads run right here, on the connection's thread, against a view of the store; only one that would
//! wait for the disk moves to the blocking pool. Writes go through the log.

use std::pin::Pin;
use std::time::Instant;

use auth::Identity;
use bytes::Bytes;
use grpc::hot::etcdserverpb::kv_server;
use machine::{Operations, Outcome, check};
use mvcc::{Cursor, RangeError, RangeOptions, RangeResult, ReadError, View, Wait};
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest,
    TxnRequest,
};
use proto::otlp::any_value::Value;
use proto::raw;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use types::KeyRange;

use super::{blocking, complete, mismatch, status};
use crate::access::{self, Head};
use crate::answers::{LIST, Room, UNCOUNTED, weight};
use crate::metrics::{RANGE, READ_TXN};
use crate::node::Node;
use crate::replies::Done;
use crate::traces;

/// Keys in the first message of a RangeStream; the next ones adapt to the sizes seen.
const STREAM_FIRST_CHUNK: usize = 10;
/// Bytes of a range that are read on the connection's thread, if they are in memory; that is a fraction of a
/// millisecond, in which the thread's other connections wait.
const HERE_BYTES_MAX: u64 = 256 << 10;
/// Keys in any message of a RangeStream: tiny keys must not make a message that takes forever.
const STREAM_CHUNK_MAX: usize = 100_000;

/// The service.
pub struct Kv(pub Node);

#[tonic::async_trait]
impl kv_server::Kv for Kv {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<raw::RangeResponse>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        admit_read(node, &head, request.serializable)?;
        check::range(&request).map_err(status)?;
        let _span = traces::doing(&head, "range", || about_range(&request));
        let began = Instant::now();
        let answer = read_range(node, &head, request).await;
        node.metrics
            .measure_request(RANGE, began.elapsed(), answer.is_ok());
        answer
    }

    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<raw::RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let node = self.0.clone();
        let (head, request) = access::split(request);
        node.refuse_learner()?;
        node.admit(&head)?;
        check::range_stream(&request).map_err(status)?;
        let _span = traces::doing(&head, "range_streaming", || about_range(&request));
        if !request.serializable {
            node.read_barrier().await.map_err(status)?;
        }
        let who = node.identify(&head).await.map_err(status)?;
        let options = machine::range_options(&request);
        node.may_read(&who, &options.range).map_err(status)?;
        // It has one message at a time in memory.
        let two_messages = (node.config.max_request_bytes as u64).saturating_mul(2);
        let room = room(&node, &head, two_messages).await?;
        node.metrics.mvcc_range_total.inc();
        let pieces = Pieces::new(node, who, options)?;
        let stream = futures_util::stream::try_unfold(Some(pieces), |pieces| async move {
            match pieces {
                Some(pieces) => pieces.next().await.map(Some),
                None => Ok(None),
            }
        });
        let stream: Self::RangeStreamStream = Box::pin(stream);
        Ok(in_room(stream, room))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<raw::PutResponse>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        node.admit(&head)?;
        node.check_quota(check::put_cost(&request)).await?;
        check::put(&request).map_err(status)?;
        let mut span = traces::doing(&head, "put", || [("key", traces::text(&request.key))]);
        let who = node.identify(&head).await.map_err(status)?;
        let put = InternalRaftRequest {
            put: Some(request),
            ..Default::default()
        };
        match span.around(node.propose_as(who, put)).await {
            Ok(Done {
                outcome: Outcome::Put(mut response),
                ..
            }) => {
                complete(&mut response.header, node);
                Ok(Response::new(response))
            }
            Ok(other) => Err(mismatch(other)),
            Err(error) => Err(status(error)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<raw::DeleteRangeResponse>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        node.admit(&head)?;
        check::delete_range(&request).map_err(status)?;
        let mut span = traces::doing(&head, "delete_range", || {
            [
                ("range_begin", traces::text(&request.key)),
                ("range_end", traces::text(&request.range_end)),
            ]
        });
        let who = node.identify(&head).await.map_err(status)?;
        let room = room_for_deletion(node, &head, &who, &request).await?;
        let deletion = InternalRaftRequest {
            delete_range: Some(request),
            ..Default::default()
        };
        match span.around(node.propose_as(who, deletion)).await {
            Ok(Done {
                outcome: Outcome::DeleteRange(mut response),
                ..
            }) => {
                complete(&mut response.header, node);
                Ok(in_room(response, room))
            }
            Ok(other) => Err(mismatch(other)),
            Err(error) => Err(status(error)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<raw::TxnResponse>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        node.admit(&head)?;
        node.check_quota(check::txn_cost(&request)).await?;
        check::txn(&request, node.config.max_txn_ops).map_err(status)?;
        let mut span = traces::doing(&head, "txn", || about_txn(&request));
        let (mut response, room) = if check::is_read_only(&request) {
            let began = Instant::now();
            let answer = read_txn(node, &head, request).await;
            node.metrics
                .measure_request(READ_TXN, began.elapsed(), answer.is_ok());
            answer?
        } else {
            let who = node.identify(&head).await.map_err(status)?;
            let room = room_for_txn(node, &head, &who, &request).await?;
            let txn = InternalRaftRequest {
                txn: Some(request),
                ..Default::default()
            };
            match span.around(node.propose_as(who, txn)).await {
                Ok(Done {
                    outcome: Outcome::Txn(response),
                    ..
                }) => (response, room),
                Ok(other) => return Err(mismatch(other)),
                Err(error) => return Err(status(error)),
            }
        };
        complete(&mut response.header, node);
        Ok(in_room(response, room))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        node.admit(&head)?;
        let who = node.require_root(&head).await.map_err(status)?;
        let CompactionRequest {
            physical,
            revision: compact_revision,
        } = request;
        let mut span = traces::doing(&head, "compact", || {
            [
                ("is_physical", Value::BoolValue(physical)),
                ("rev", Value::IntValue(compact_revision)),
            ]
        });
        let compaction = InternalRaftRequest {
            compaction: Some(request),
            ..Default::default()
        };
        match span.around(node.propose_as(who, compaction)).await {
            Ok(Done { revision, .. }) => {
                if physical {
                    node.compactions.wait(compact_revision).await;
                }
                Ok(Response::new(CompactionResponse {
                    header: Some(node.header(revision)),
                }))
            }
            Err(error) => Err(status(error)),
        }
    }
}

/// What a trace says of a range.
fn about_range(request: &RangeRequest) -> [(&'static str, Value); 6] {
    [
        ("range_begin", traces::text(&request.key)),
        ("range_end", traces::text(&request.range_end)),
        ("rev", Value::IntValue(request.revision)),
        ("limit", Value::IntValue(request.limit)),
        ("count_only", Value::BoolValue(request.count_only)),
        ("keys_only", Value::BoolValue(request.keys_only)),
    ]
}

/// What a trace says of a transaction.
fn about_txn(request: &TxnRequest) -> [(&'static str, Value); 5] {
    let compared = request.compare.first().map_or(&[][..], |compare| &compare.key);
    let len = |len: usize| Value::IntValue(len as i64);
    [
        ("compare_first_key", traces::text(compared)),
        ("compare_len", len(request.compare.len())),
        ("success_len", len(request.success.len())),
        ("failure_len", len(request.failure.len())),
        ("read_only", Value::BoolValue(check::is_read_only(request))),
    ]
}

/// A range, answered from a view.
async fn read_range(
    node: &Node,
    head: &Head,
    request: RangeRequest,
) -> Result<Response<raw::RangeResponse>, Status> {
    let came = Instant::now();
    if !request.serializable {
        node.read_barrier().await.map_err(status)?;
    }
    let who = node.identify(head).await.map_err(status)?;
    let began = Instant::now();
    let mut options = machine::range_options(&request);
    node.may_read(&who, &options.range).map_err(status)?;
    options.max_bytes = match options.range {
        KeyRange::One(_) => UNCOUNTED,
        _ => LIST,
    };
    let (found, room) = loop {
        // Weighed anew if it has grown while it waited for room.
        let room = room(node, head, options.max_bytes).await?;
        match range(node, &options).await? {
            Err(RangeError::Heavy(weight)) => options.max_bytes = weight,
            found => break (found, room),
        }
    };
    node.measure_range(began - came, began.elapsed(), found.is_ok());
    node.still_may(&who).map_err(status)?;
    let found = found.map_err(|error| node.range_failed(error))?;
    node.metrics.mvcc_range_total.inc();
    let bytes = found.kvs.iter().map(|kv| kv.len() as u64).sum();
    let room = room.and_then(|room| room.fit(weight(head, bytes)));
    let answer = raw::RangeResponse {
        header: Some(node.header(found.revision)),
        kvs: found.kvs,
        more: found.more,
        count: found.count,
    };
    Ok(in_room(answer, room))
}

/// Reads a range, where it delays nobody else.
async fn range(node: &Node, options: &RangeOptions) -> Result<Result<RangeResult, RangeError>, Status> {
    let found = match options.max_bytes <= HERE_BYTES_MAX {
        true => node.mvcc.range(options, Wait::No),
        false => Err(RangeError::Read(ReadError::WouldBlock)),
    };
    match found {
        Err(RangeError::Read(ReadError::WouldBlock)) => {
            let (mvcc, options) = (node.mvcc.clone(), options.clone());
            blocking(move || mvcc.range(&options, Wait::Yes)).await
        }
        found => Ok(found),
    }
}

/// Room for an answer of so many bytes.
async fn room(node: &Node, head: &Head, bytes: u64) -> Result<Option<Room>, Status> {
    node.answers.room(weight(head, bytes)).await.map_err(status)
}

/// Room for what a transaction returns. One that will be refused needs none.
async fn room_for_txn(
    node: &Node,
    head: &Head,
    who: &Identity,
    request: &TxnRequest,
) -> Result<Option<Room>, Status> {
    let may_run = {
        let auth = node.board.auth();
        !node.board.auth_enabled() || node.caller(&auth, who).may_run(request).is_ok()
    };
    match may_run {
        true => room(node, head, machine::read::weigh_txn(&node.mvcc, request)).await,
        false => Ok(None),
    }
}

/// Room for what a deletion returns.
async fn room_for_deletion(
    node: &Node,
    head: &Head,
    who: &Identity,
    request: &DeleteRangeRequest,
) -> Result<Option<Room>, Status> {
    let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
    match node.may_read(who, &range) {
        Ok(()) => room(node, head, machine::read::weigh_delete(&node.mvcc, request)).await,
        Err(_) => Ok(None),
    }
}

/// An answer that takes up its room until it is sent.
fn in_room<T>(answer: T, room: Option<Room>) -> Response<T> {
    let mut response = Response::new(answer);
    if let Some(room) = room {
        response.extensions_mut().insert(room);
    }
    response
}

/// What holds for every read: a learner serves serializable ones only.
fn admit_read(node: &Node, head: &Head, serializable: bool) -> Result<(), Status> {
    match serializable {
        true => node.admit_on_learner(head),
        false => node.admit(head),
    }
}

/// A transaction that only reads, answered from a view.
async fn read_txn(
    node: &Node,
    head: &Head,
    request: TxnRequest,
) -> Result<(raw::TxnResponse, Option<Room>), Status> {
    if !check::is_serializable(&request) {
        node.read_barrier().await.map_err(status)?;
    }
    let who = node.identify(head).await.map_err(status)?;
    if node.board.auth_enabled() {
        let auth = node.board.auth();
        node.caller(&auth, &who).may_run(&request).map_err(status)?;
    }
    let room = room_for_txn(node, head, &who, &request).await?;
    let answer = match machine::read::txn(&node.mvcc, &request, Wait::No) {
        Err(RangeError::Read(ReadError::WouldBlock)) => {
            let mvcc = node.mvcc.clone();
            blocking(move || machine::read::txn(&mvcc, &request, Wait::Yes)).await?
        }
        answer => answer,
    };
    node.still_may(&who).map_err(status)?;
    let answer = answer.map_err(|error| node.range_failed(error))?;
    node.metrics.count_reads(Operations::of(&answer));
    Ok((answer, room))
}

/// A range in pieces, pinned to one revision.
struct Pieces {
    node: Node,
    who: Identity,
    view: View,
    options: RangeOptions,
    cursor: Cursor,
    /// Keys in the whole range.
    count: i64,
    /// Keys still to be sent.
    left: i64,
    chunk: usize,
}

impl Pieces {
    fn new(node: Node, who: Identity, mut options: RangeOptions) -> Result<Self, Status> {
        let view = match options.revision {
            ..=0 => node.mvcc.view(),
            revision => node.mvcc.view_at(revision).map_err(status)?,
        };
        options.revision = 0;
        let count = view
            .count(&options.range)
            .map_err(|error| node.range_failed(error))?;
        let left = match options.limit {
            _ if options.count_only => 0,
            ..=0 => count,
            limit => count.min(limit),
        };
        Ok(Pieces {
            node,
            who,
            view,
            options,
            cursor: Cursor::default(),
            count,
            left,
            chunk: STREAM_FIRST_CHUNK,
        })
    }

    /// The next message, and what is to follow it.
    async fn next(mut self) -> Result<(raw::RangeStreamResponse, Option<Self>), Status> {
        let kvs = match self.left {
            0 => Vec::new(),
            left => self.read(self.chunk.min(left as usize)).await?,
        };
        self.node.still_may(&self.who).map_err(status)?;
        self.adapt(kvs.iter().map(Bytes::len).sum());
        self.left -= kvs.len() as i64;
        let mut response = raw::RangeResponse {
            kvs,
            ..Default::default()
        };
        let more_to_come = self.left > 0 && !response.kvs.is_empty();
        if !more_to_come {
            response.header = Some(self.node.header(self.view.revision()));
            response.count = self.count;
            response.more =
                !self.options.count_only && self.options.limit > 0 && self.count > self.options.limit;
        }
        Ok((
            raw::RangeStreamResponse {
                range_response: Some(response),
            },
            more_to_come.then_some(self),
        ))
    }

    async fn read(&mut self, keys: usize) -> Result<Vec<Bytes>, Status> {
        let (range, keys_only) = (&self.options.range, self.options.keys_only);
        let found = match self
            .view
            .chunk(range, keys_only, &mut self.cursor, keys, Wait::No)
        {
            Err(RangeError::Read(ReadError::WouldBlock)) => {
                let (view, range, mut cursor) = (self.view.clone(), range.clone(), self.cursor.clone());
                let read = move || {
                    (
                        view.chunk(&range, keys_only, &mut cursor, keys, Wait::Yes),
                        cursor,
                    )
                };
                let (found, cursor) = blocking(read).await?;
                self.cursor = cursor;
                found
            }
            found => found,
        };
        found.map_err(|error| self.node.range_failed(error))
    }

    /// Doubles the chunk while messages are small, halves it when they get large.
    fn adapt(&mut self, bytes: usize) {
        let target = self.node.config.max_request_bytes;
        if bytes < target / 2 {
            self.chunk = (self.chunk * 2).min(STREAM_CHUNK_MAX);
        } else if bytes / 2 > target {
            self.chunk = (self.chunk / 2).max(1);
        }
    }
}
