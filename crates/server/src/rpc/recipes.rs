//! What locks and elections are made of: keys under a prefix, each on a lease, the oldest of which counts.
//!
//! The recipe is that of etcd's Go client, so that its users and those of these services line up in the same queue:
//! whoever comes puts `prefix/<lease in hex>`, and waits for the deletion of the next older key, and so on until none is
//! older. Everything is done with this member's own services, in the name of who calls, and permitted or not as if it
//! had been called from outside.

use std::future::{Future, poll_fn};

use bytes::Bytes;
use grpc::etcdserverpb::lease_server::Lease;
use grpc::hot::etcdserverpb::kv_server::Kv as _;
use prost::Message;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Done;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse, WatchResponse,
};
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};
use tokio::sync::oneshot;
use tonic::{Code, Request, Status};
use types::{ErrorKind, KeyRange};
use watch::{Create, Frames};

use super::watch::may_watch;
use super::{Kv, Leases, status};
use crate::access::{self, Head};
use crate::loops::watch::{Counted, OpenStream, Request as Feed};
use crate::node::Node;

/// How long a lease lives that was made for a call without one. Nobody renews it.
const SESSION_TTL_SECS: i64 = 60;

/// Somebody who uses this member's services from inside.
pub struct Caller {
    node: Node,
    head: Head,
}

impl Caller {
    /// Whoever has sent this request, if the node admits it.
    pub fn of<T>(node: &Node, request: Request<T>) -> Result<(Self, T), Status> {
        let (head, request) = access::split(request);
        node.admit(&head)?;
        let caller = Caller {
            node: node.clone(),
            head,
        };
        Ok((caller, request))
    }

    fn request<T>(&self, request: T) -> Request<T> {
        Request::from_parts(
            self.head.metadata().clone(),
            self.head.extensions().clone(),
            request,
        )
    }

    /// The lease to use: a new one if none is named.
    pub async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = self.request(LeaseGrantRequest {
            ttl: SESSION_TTL_SECS,
            id: 0,
        });
        let granted = Leases(self.node.clone()).lease_grant(grant).await;
        Ok(granted.map_err(as_client_error)?.into_inner().id)
    }

    /// Carries out a transaction.
    pub async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Status> {
        let done = Kv(self.node.clone()).txn(self.request(txn)).await;
        decoded(&done.map_err(as_client_error)?.into_inner())
    }

    /// Reads.
    pub async fn range(&self, range: RangeRequest) -> Result<RangeResponse, Status> {
        let found = Kv(self.node.clone()).range(self.request(range)).await;
        decoded(&found.map_err(as_client_error)?.into_inner())
    }

    /// Deletes a key; that it is gone already is fine.
    pub async fn delete(&self, key: Bytes) -> Result<proto::raw::DeleteRangeResponse, Status> {
        let delete = self.request(DeleteRangeRequest {
            key,
            ..Default::default()
        });
        let deleted = Kv(self.node.clone()).delete_range(delete).await;
        Ok(deleted.map_err(as_client_error)?.into_inner())
    }

    /// Watches from a revision on.
    pub async fn watch(&self, range: KeyRange, from: i64) -> Result<Changes, Status> {
        let create = Create {
            start_revision: from,
            ..Create::new(range)
        };
        let (stream, frames, counted) = self.node.watches.open();
        may_watch(&self.node, &self.head, &create)
            .await
            .map_err(|error| as_client_error(status(error)))?;
        if stream.outbox.room().await {
            stream.tell(Feed::Create(stream.id, create, self.node.mvcc.current()));
        }
        Ok(Changes {
            frames,
            _stream: stream,
            _counted: counted,
        })
    }

    /// Waits until no key of the prefix is older than `revision`.
    pub async fn wait_until_oldest(&self, prefix: &Prefix, revision: i64) -> Result<(), Status> {
        loop {
            let older = self.range(prefix.last_created_before(revision)).await?;
            let Some(next) = older.kvs.into_iter().next() else {
                return Ok(());
            };
            let seen = older.header.map_or(0, |header| header.revision);
            self.wait_for_deletion(next.key, seen).await?;
        }
    }

    async fn wait_for_deletion(&self, key: Bytes, from: i64) -> Result<(), Status> {
        let mut changes = self.watch(KeyRange::One(key), from).await?;
        while let Some(response) = changes.next().await? {
            if response.events.iter().any(is_deletion) {
                return Ok(());
            }
        }
        Err(Status::unknown("lost watcher waiting for delete"))
    }
}

/// Runs what may wait for long as a task of its own, which learns when its caller has gone away and then can still clean
/// up. How many there are is bounded by the calls that are open.
pub async fn run<T, F>(work: impl FnOnce(Gone<T>) -> F) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    tokio::spawn(work(reply));
    answer.await.unwrap_or_else(|_| Err(status(ErrorKind::Stopped)))
}

/// Where the answer goes; closed when nobody waits for it any more.
pub type Gone<T> = oneshot::Sender<Result<T, Status>>;

/// What is being watched.
pub struct Changes {
    frames: Frames,
    _stream: OpenStream,
    _counted: Counted,
}

impl Changes {
    /// The next response with events; none when the stream has ended.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        loop {
            let frame = poll_fn(|context| self.frames.poll_next(context)).await;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| as_client_error(status(error)))?;
            let response = frame
                .into_response()
                .map_err(|error| Status::data_loss(error.to_string()))?;
            match (response.canceled, response.compact_revision) {
                (false, _) if response.events.is_empty() => {}
                (false, _) => return Ok(Some(response)),
                (true, 0) => return Err(Status::unknown(response.cancel_reason)),
                (true, _) => return Err(as_client_error(status(ErrorKind::Compacted))),
            }
        }
    }
}

/// Whether a change is a deletion.
pub fn is_deletion(event: &Event) -> bool {
    event.r#type() == EventType::Delete
}

/// The keys of a lock or an election.
#[derive(Clone)]
pub struct Prefix(Bytes);

impl Prefix {
    /// Those of the lock or the election with this name.
    pub fn of(name: &[u8]) -> Self {
        Prefix([name, b"/"].concat().into())
    }

    /// The key of whoever holds this lease.
    pub fn key(&self, lease: i64) -> Bytes {
        let sign = if lease < 0 { "-" } else { "" };
        let suffix = format!("{sign}{:x}", lease.unsigned_abs());
        [&*self.0, suffix.as_bytes()].concat().into()
    }

    fn end(&self) -> Bytes {
        let mut end = self.0.to_vec();
        // The last byte is a slash.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end.into()
    }

    /// All keys.
    pub fn range(&self) -> KeyRange {
        KeyRange::from_wire(self.0.clone(), self.end())
    }

    /// The oldest key: the holder's, or the leader's.
    pub fn first_created(&self) -> RangeRequest {
        self.one(SortOrder::Ascend)
    }

    fn last_created_before(&self, revision: i64) -> RangeRequest {
        RangeRequest {
            max_create_revision: revision - 1,
            ..self.one(SortOrder::Descend)
        }
    }

    fn one(&self, order: SortOrder) -> RangeRequest {
        RangeRequest {
            key: self.0.clone(),
            range_end: self.end(),
            limit: 1,
            sort_order: order.into(),
            sort_target: SortTarget::Create.into(),
            ..Default::default()
        }
    }
}

/// Holds if a key was created at this revision; 0: if it is not there.
pub fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// A put on a lease.
pub fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    op(Op::RequestPut(PutRequest {
        key: key.clone(),
        value,
        lease,
        ..Default::default()
    }))
}

/// The read of one key.
pub fn get(key: &Bytes) -> RangeRequest {
    RangeRequest {
        key: key.clone(),
        ..Default::default()
    }
}

/// An operation of a transaction.
pub fn op(request: Op) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

/// The first key that the operation `number` of a transaction has read.
pub fn found(txn: &mut TxnResponse, number: usize) -> Option<KeyValue> {
    match txn.responses.get_mut(number)?.response.take()? {
        Done::ResponseRange(range) => range.kvs.into_iter().next(),
        _ => None,
    }
}

/// An answer as a message whose parts can be read.
fn decoded<T: Message + Default>(answer: &impl Message) -> Result<T, Status> {
    T::decode(Bytes::from(answer.encode_to_vec())).map_err(|error| Status::data_loss(error.to_string()))
}

/// The error of an inner call, as it leaves etcd's: its services use a client, whose errors have a text but no code.
fn as_client_error(error: Status) -> Status {
    match error.message().starts_with("etcdserver: ") {
        true => Status::new(Code::Unknown, error.message()),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_name_and_the_lease_in_hex() {
        let prefix = Prefix::of(b"jobs");
        assert_eq!(prefix.key(0x1f), "jobs/1f");
        assert_eq!(prefix.key(-31), "jobs/-1f");
        assert_eq!(
            prefix.range(),
            KeyRange::from_wire("jobs/".into(), "jobs0".into())
        );
    }

    #[test]
    fn an_inner_error_that_a_client_knows_loses_its_code() {
        let error = as_client_error(status(ErrorKind::LeaseNotFound));
        assert_eq!(
            (error.code(), error.message()),
            (Code::Unknown, "etcdserver: requested lease not found")
        );
        let late = as_client_error(status(ErrorKind::ContextDeadlineExceeded));
        assert_eq!(late.code(), Code::DeadlineExceeded);
    }
}
