//! `v3lockpb.Lock`: locks that end with a lease.

use grpc::v3lockpb::lock_server;
use proto::etcdserverpb::TxnRequest;
use proto::etcdserverpb::request_op::Request as Op;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use super::recipes::{self, Caller, Gone, Prefix, created_at, found, get, op, put};
use crate::node::Node;

/// The service.
pub struct Lock(pub Node);

#[tonic::async_trait]
impl lock_server::Lock for Lock {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (caller, request) = Caller::of(&self.0, request)?;
        recipes::run(|reply| lock(caller, request, reply))
            .await
            .map(Response::new)
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let (caller, request) = Caller::of(&self.0, request)?;
        let deleted = caller.delete(request.key).await?;
        Ok(Response::new(UnlockResponse {
            header: deleted.header,
        }))
    }
}

async fn lock(caller: Caller, request: LockRequest, mut reply: Gone<LockResponse>) {
    let (line, place) = match stand_in_line(&caller, &request).await {
        Ok(standing) => standing,
        Err(error) => return drop(reply.send(Err(error))),
    };
    let Place::Behind(created) = place else {
        return drop(reply.send(Ok(line)));
    };
    let prefix = Prefix::of(&request.name);
    let key = line.key.clone();
    let answer = tokio::select! {
        answer = wait(&caller, &prefix, created, line) => answer,
        () = reply.closed() => return leave(&caller, key).await,
    };
    match answer {
        Err(Unheld::Waiting(error)) => {
            leave(&caller, key).await;
            drop(reply.send(Err(error)));
        }
        Err(Unheld::Gone) => drop(reply.send(Err(Status::unknown("mutex: session is expired")))),
        Ok(held) => drop(reply.send(Ok(held))),
    }
}

/// Where a key stands.
enum Place {
    /// Before all others.
    First,
    /// Behind others; it was created at this revision.
    Behind(i64),
}

/// Why a lock was not had.
enum Unheld {
    /// It could not be waited for.
    Waiting(Status),
    /// The key has gone while it waited.
    Gone,
}

/// Puts the caller's key, if it is not there, and looks who is first. The answer is that of a first one.
async fn stand_in_line(caller: &Caller, request: &LockRequest) -> Result<(LockResponse, Place), Status> {
    let lease = caller.session(request.lease).await?;
    let prefix = Prefix::of(&request.name);
    let key = prefix.key(lease);
    let first = || op(Op::RequestRange(prefix.first_created()));
    let txn = TxnRequest {
        compare: vec![created_at(&key, 0)],
        success: vec![put(&key, Default::default(), lease), first()],
        failure: vec![op(Op::RequestRange(get(&key))), first()],
    };
    let mut done = caller.txn(txn).await?;
    let own = found(&mut done, 0).map(|own| own.create_revision);
    let created = own.or(done.header.map(|header| header.revision)).unwrap_or(0);
    let place = match found(&mut done, 1) {
        Some(first) if first.create_revision != created => Place::Behind(created),
        _ => Place::First,
    };
    let header = done.header;
    Ok((LockResponse { header, key }, place))
}

async fn wait(
    caller: &Caller,
    prefix: &Prefix,
    created: i64,
    line: LockResponse,
) -> Result<LockResponse, Unheld> {
    let waited = caller.wait_until_oldest(prefix, created).await;
    waited.map_err(Unheld::Waiting)?;
    let own = caller.range(get(&line.key)).await.map_err(Unheld::Waiting)?;
    match own.kvs.is_empty() {
        true => Err(Unheld::Gone),
        false => Ok(LockResponse {
            header: own.header,
            ..line
        }),
    }
}

/// Takes the caller's key away again. If that fails, its lease will do it.
async fn leave(caller: &Caller, key: bytes::Bytes) {
    if let Err(error) = caller.delete(key).await {
        tracing::debug!(error = %error, "the key of a lock that was given up stays until its lease ends");
    }
}
