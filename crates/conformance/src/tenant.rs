//! A client that holds leases while a cluster changes: it renews one all the time, and takes others, with a key each,
//! and gives them back.
//!
//! What fails it tries again at another member; its lease must never end by itself. It is the load's user.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::stream;
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::*;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::{Code, Response, Status};

use crate::account::Account;
use crate::cluster::within;
use crate::load::{self, PATIENCE, channel};

/// A lease that lives as long as it is renewed.
const RENEWED: i64 = 8;

/// How long it would live otherwise, in seconds: a member's restart and an election are far shorter.
const RENEWED_TTL: i64 = 30;

/// Pause between two renewals.
const RENEWAL_PAUSE: Duration = Duration::from_millis(500);

/// Pause before another member is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A client that holds leases.
#[derive(Debug)]
pub struct Tenant {
    leaving: watch::Sender<bool>,
    work: JoinHandle<Result<(), String>>,
}

impl Tenant {
    /// Moves in, on a cluster with these members.
    pub fn start(addresses: Vec<SocketAddr>) -> Self {
        let leaving = watch::Sender::new(false);
        let stay = Stay {
            addresses,
            turn: 0,
            account: load::user(),
        };
        let work = tokio::spawn(stay.work(leaving.subscribe()));
        Self { leaving, work }
    }

    /// Moves out; nothing is left behind.
    pub async fn leave(self) -> Result<(), String> {
        self.leaving.send_replace(true);
        self.work.await.map_err(|error| error.to_string())?
    }
}

/// What a tenant does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Grant { id: i64, ttl: i64 },
    Put { id: i64 },
    Revoke { id: i64 },
    Renew { id: i64 },
}

struct Stay {
    addresses: Vec<SocketAddr>,
    turn: usize,
    account: Account,
}

impl Stay {
    async fn work(mut self, leaving: watch::Receiver<bool>) -> Result<(), String> {
        let (id, ttl) = (RENEWED, RENEWED_TTL);
        self.make(Deed::Grant { id, ttl }).await?;
        for id in RENEWED + 1.. {
            if *leaving.borrow() {
                break;
            }
            self.make(Deed::Renew { id: RENEWED }).await?;
            self.make(Deed::Grant { id, ttl: 1000 }).await?;
            self.make(Deed::Put { id }).await?;
            self.make(Deed::Revoke { id }).await?;
            sleep(RENEWAL_PAUSE).await;
        }
        self.make(Deed::Revoke { id }).await?;
        let left = RangeRequest {
            key: "lived/".into(),
            range_end: "lived0".into(),
            ..RangeRequest::default()
        };
        let left = self
            .account
            .call(channel(self.addresses[0]), left, async |at, request| {
                KvClient::new(at).range(request).await
            });
        match left
            .await
            .map_err(|status| status.to_string())?
            .into_inner()
            .count
        {
            0 => Ok(()),
            count => Err(format!("{count} keys have outlived their leases")),
        }
    }

    /// Tries at one member after the other.
    async fn make(&mut self, deed: Deed) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let failed = match (deed, self.attempt(deed).await) {
                (_, Ok(())) => return Ok(()),
                // An earlier try was carried out, and its answer lost.
                (Deed::Grant { .. }, Err(status)) if status.code() == Code::FailedPrecondition => {
                    return Ok(());
                }
                (Deed::Revoke { .. }, Err(status)) if status.code() == Code::NotFound => return Ok(()),
                (_, Err(status)) => status,
            };
            if failed.code() == Code::NotFound || begin.elapsed() > PATIENCE {
                return Err(format!("{deed:?}: {failed}"));
            }
            self.turn += 1;
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn attempt(&self, deed: Deed) -> Result<(), Status> {
        let at = channel(self.addresses[self.turn % self.addresses.len()]);
        let account = &self.account;
        match deed {
            Deed::Grant { id, ttl } => {
                let grant = LeaseGrantRequest { ttl, id };
                let granted = account.call(at, grant, async |at, request| {
                    LeaseClient::new(at).lease_grant(request).await
                });
                within(granted).await.map(drop)
            }
            Deed::Put { id } => {
                let put = PutRequest {
                    key: format!("lived/{id}").into(),
                    lease: id,
                    ..PutRequest::default()
                };
                let put = account.call(at, put, async |at, request| KvClient::new(at).put(request).await);
                within(put).await.map(drop)
            }
            Deed::Revoke { id } => {
                let revoke = LeaseRevokeRequest { id };
                let revoked = account.call(at, revoke, async |at, request| {
                    LeaseClient::new(at).lease_revoke(request).await
                });
                within(revoked).await.map(drop)
            }
            Deed::Renew { id } => {
                let renew = LeaseKeepAliveRequest { id };
                let renewed = account.call(at, renew, async |at, request| {
                    let request = request.map(|renew| stream::iter([renew]));
                    let mut answers = LeaseClient::new(at).lease_keep_alive(request).await?.into_inner();
                    answers.message().await.map(Response::new)
                });
                match within(renewed).await? {
                    Some(answer) if answer.ttl > 0 => Ok(()),
                    Some(_) => Err(Status::not_found("the lease has ended")),
                    None => Err(Status::unavailable("the stream has ended")),
                }
            }
        }
    }
}
