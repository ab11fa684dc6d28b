//! A session: a lease that is kept alive, and what is held by it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseRevokeRequest, RangeResponse, TxnResponse, WatchCreateRequest,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::keys::last_created_before;
use crate::{Client, Error, KeepAlive};

/// A client's presence in the cluster. What it holds, locks and offices, is its own for as long as the session lasts, and
/// is given to others when it ends, be it that the client has died or that nobody hears it any more.
///
/// ```no_run
/// # async fn example(client: client::Client) -> Result<(), client::Error> {
/// use client::Session;
///
/// let session = Session::new(&client, 10).await?;
/// let lock = session.lock("jobs/nightly").await?;
/// tokio::select! {
///     () = work() => {}
///     error = session.ended() => eprintln!("the lock may be somebody else's now: {error}"),
/// }
/// lock.unlock().await?;
/// session.close().await
/// # }
/// # async fn work() {}
/// ```
#[derive(Debug)]
pub struct Session {
    pub(crate) client: Client,
    lease: i64,
    end: watch::Receiver<Option<Error>>,
    /// Until when it lasts even if nobody says so again.
    until: Arc<Mutex<Option<Instant>>>,
    keeper: JoinHandle<()>,
}

impl Session {
    /// A session that is over `ttl_secs` after the cluster has heard of it for the last time.
    pub async fn new(client: &Client, ttl_secs: i64) -> Result<Self, Error> {
        let grant = LeaseGrantRequest { ttl: ttl_secs, id: 0 };
        let lease = client.lease_grant(grant).await?.id;
        Self::of_lease(client, lease).await
    }

    /// A session by a lease that is there already.
    pub async fn of_lease(client: &Client, lease: i64) -> Result<Self, Error> {
        let kept = client.keep_alive(lease).await?;
        let (ends, end) = watch::channel(None);
        let until = Arc::default();
        Ok(Session {
            client: client.clone(),
            lease,
            end,
            until: Arc::clone(&until),
            keeper: tokio::spawn(keep(kept, ends, until)),
        })
    }

    /// Its lease: keys that are put with it go when the session does.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Whether the session certainly lasts at this moment: somebody has said so, and the time since is shorter than its own.
    pub fn lasts(&self) -> bool {
        self.until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until the session is over, or must be taken to be, and says why.
    pub async fn ended(&self) -> Error {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Error::Closed),
            Err(_) => Error::Closed,
        }
    }

    /// Ends it: all it holds is given to others at once. A session that is only dropped holds it for the time it has left.
    pub async fn close(self) -> Result<(), Error> {
        let revoke = LeaseRevokeRequest { id: self.lease };
        self.client.lease_revoke(revoke).await.map(drop)
    }

    /// Does something that makes sense only during the session.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            done = work => done,
            _ = self.ended() => Err(Error::SessionExpired),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(mut kept: KeepAlive, ends: watch::Sender<Option<Error>>, until: Arc<Mutex<Option<Instant>>>) {
    while let Some(confirmation) = kept.next().await {
        *until.lock() = kept.until();
        if let Err(error) = confirmation {
            ends.send_replace(Some(error));
        }
    }
}

impl Client {
    /// Waits until no key of the prefix is older than `revision`. Each one watches only the one before it, so that nobody
    /// is woken in vain.
    pub(crate) async fn wait_for_turn(&self, prefix: &Bytes, revision: i64) -> Result<(), Error> {
        loop {
            let older = self.range(last_created_before(prefix, revision)).await?;
            let seen = older.header.map_or(0, |header| header.revision);
            match older.kvs.into_iter().next() {
                Some(next) => self.wait_for_deletion(next.key, seen).await?,
                None => return Ok(()),
            }
        }
    }

    /// Waits until a key is deleted that was there at a revision.
    pub(crate) async fn wait_for_deletion(&self, key: Bytes, seen: i64) -> Result<(), Error> {
        let create = WatchCreateRequest {
            key,
            start_revision: seen + 1,
            filters: vec![FilterType::Noput.into()],
            ..WatchCreateRequest::default()
        };
        let mut watcher = match self.watch(create).await {
            Ok(watcher) => watcher,
            Err(error) => return missed(error),
        };
        loop {
            match watcher.next().await {
                Some(Ok(answer)) if answer.events.is_empty() => {}
                Some(Ok(_)) => return Ok(()),
                Some(Err(error)) => return missed(error),
                None => return Err(Error::Closed),
            }
        }
    }
}

/// What can not be told any more because it was compacted has to be looked at again.
pub(crate) fn missed(error: Error) -> Result<(), Error> {
    match error {
        Error::Compacted { .. } => Ok(()),
        error => Err(error),
    }
}

/// What the ranges of a transaction have found.
pub(crate) fn ranges(answer: TxnResponse) -> impl Iterator<Item = RangeResponse> {
    answer.responses.into_iter().filter_map(|op| match op.response {
        Some(Response::ResponseRange(range)) => Some(range),
        _ => None,
    })
}
