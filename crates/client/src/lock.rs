//! Locks: who stands first in line has it.
//!
//! Who wants a lock puts a key `name/lease` in line and waits until all that were created before it are gone. The key is the
//! lease's, so that a lock whose holder is gone is free when the lease has expired. This is what etcd's own clients do, so
//! that they and these stand in one line.

use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{Compare, DeleteRangeRequest, ResponseHeader, TxnRequest};
use tracing::warn;

use crate::keys::{first_created, get, is_created_at, line, op, place_in_line, put};
use crate::session::{Session, ranges};
use crate::{Client, Error};

/// A lock that is held, until it is given back or dropped, or its session is over.
#[derive(Debug)]
pub struct Lock {
    place: Place,
    header: ResponseHeader,
    revision: i64,
}

impl Session {
    /// Waits for the lock of that name. Who stops waiting leaves the line.
    pub async fn lock(&self, name: impl AsRef<[u8]>) -> Result<Lock, Error> {
        self.during(self.wait_for_lock(line(name.as_ref()))).await
    }

    /// Takes the lock of that name if nobody has it.
    pub async fn try_lock(&self, name: impl AsRef<[u8]>) -> Result<Lock, Error> {
        let standing = self.stand_in_line(&line(name.as_ref())).await?;
        match standing.is_first {
            true => Ok(standing.lock),
            false => {
                standing.lock.unlock().await?;
                Err(Error::Locked)
            }
        }
    }

    async fn wait_for_lock(&self, line: Bytes) -> Result<Lock, Error> {
        let Standing { mut lock, is_first } = self.stand_in_line(&line).await?;
        if is_first {
            return Ok(lock);
        }
        self.client.wait_for_turn(&line, lock.revision).await?;
        let own = self.client.range(get(lock.place.key.clone())).await?;
        if own.kvs.is_empty() {
            return Err(Error::SessionExpired);
        }
        lock.header = own.header.unwrap_or_default();
        Ok(lock)
    }

    async fn stand_in_line(&self, line: &Bytes) -> Result<Standing, Error> {
        let place = Place {
            client: self.client.clone(),
            key: place_in_line(line, self.lease()),
            is_taken: true,
        };
        let key = place.key.clone();
        let owner = op(Request::RequestRange(first_created(line)));
        let txn = TxnRequest {
            compare: vec![is_created_at(key.clone(), 0)],
            success: vec![
                op(Request::RequestPut(put(key.clone(), Bytes::new(), self.lease()))),
                owner.clone(),
            ],
            failure: vec![op(Request::RequestRange(get(key))), owner],
        };
        let answer = self.client.txn_again(txn).await?;
        let header = answer.header.unwrap_or_default();
        let is_new = answer.succeeded;
        let mut created = ranges(answer).map(|range| range.kvs.first().map(|kv| kv.create_revision));
        let own = match is_new {
            true => Some(header.revision),
            false => created.next().flatten(),
        };
        let revision = own.ok_or(Error::SessionExpired)?;
        let is_first = created.next().flatten() == Some(revision);
        let lock = Lock {
            place,
            header,
            revision,
        };
        Ok(Standing { lock, is_first })
    }
}

/// Somebody in line.
struct Standing {
    /// Theirs, once they are first.
    lock: Lock,
    is_first: bool,
}

impl Lock {
    /// The key that stands for it.
    pub fn key(&self) -> &Bytes {
        &self.place.key
    }

    /// When it was got.
    pub fn header(&self) -> &ResponseHeader {
        &self.header
    }

    /// True in a transaction only as long as the lock is held: what must not be done without it is done with this among
    /// the comparisons.
    pub fn is_owner(&self) -> Compare {
        is_created_at(self.place.key.clone(), self.revision)
    }

    /// Gives it back.
    pub async fn unlock(mut self) -> Result<(), Error> {
        self.place.leave().await
    }
}

/// A place in line, which is left when this is dropped.
#[derive(Debug)]
struct Place {
    client: Client,
    key: Bytes,
    is_taken: bool,
}

impl Place {
    async fn leave(&mut self) -> Result<(), Error> {
        let delete = DeleteRangeRequest {
            key: self.key.clone(),
            ..DeleteRangeRequest::default()
        };
        self.client.delete_again(delete).await?;
        self.is_taken = false;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !std::mem::take(&mut self.is_taken) {
            return;
        }
        let mut place = Place {
            client: self.client.clone(),
            key: self.key.clone(),
            is_taken: false,
        };
        runtime.spawn(async move {
            // The lease ends it, should this fail.
            if let Err(error) = place.leave().await {
                warn!(%error, "cannot leave the line for a lock");
            }
        });
    }
}
