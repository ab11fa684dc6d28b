//! `v3electionpb.Election`: leaders, each with a value, that end with a lease.

use std::pin::Pin;

use bytes::Bytes;
use grpc::v3electionpb::election_server;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{DeleteRangeRequest, ResponseHeader, TxnRequest};
use proto::mvccpb::KeyValue;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use types::KeyRange;

use super::recipes::{self, Caller, Changes, Gone, Prefix, created_at, found, get, is_deletion, op, put};
use crate::node::Node;

/// The service.
pub struct Election(pub Node);

#[tonic::async_trait]
impl election_server::Election for Election {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let (caller, request) = Caller::of(&self.0, request)?;
        recipes::run(|reply| campaign(caller, request, reply))
            .await
            .map(Response::new)
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let (caller, request) = Caller::of(&self.0, request)?;
        let leader = leader_of(request.leader)?;
        let lease = caller.session(leader.lease).await?;
        let leader = LeaderKey { lease, ..leader };
        let header = proclaim(&caller, &leader, request.value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (caller, request) = Caller::of(&self.0, request)?;
        match current(&caller, &Prefix::of(&request.name)).await? {
            (header, Some(leader)) => Ok(Response::new(led(header, leader))),
            (_, None) => Err(Status::unknown("election: no leader")),
        }
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (caller, request) = Caller::of(&self.0, request)?;
        let observer = Observer {
            caller,
            prefix: Prefix::of(&request.name),
            watched: None,
        };
        let leaders = futures_util::stream::unfold(observer, |mut observer| async move {
            // A leader that can't be told ends the stream without a word, whatever the reason, as in etcd.
            let leader = observer.next().await.ok()?;
            Some((Ok(leader), observer))
        });
        Ok(Response::new(Box::pin(leaders)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let (caller, request) = Caller::of(&self.0, request)?;
        let leader = leader_of(request.leader)?;
        caller.session(leader.lease).await?;
        let header = resign(&caller, &leader).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

fn leader_of(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

fn led(header: Option<ResponseHeader>, leader: KeyValue) -> LeaderResponse {
    LeaderResponse {
        header,
        kv: Some(leader),
    }
}

async fn campaign(caller: Caller, request: CampaignRequest, mut reply: Gone<CampaignResponse>) {
    let candidacy = match stand(&caller, request).await {
        Ok(candidacy) => candidacy,
        Err(error) => return drop(reply.send(Err(error))),
    };
    let leader = candidacy.leader.clone().unwrap_or_default();
    let prefix = Prefix::of(&leader.name);
    tokio::select! {
        won = caller.wait_until_oldest(&prefix, leader.rev) => drop(reply.send(won.map(|()| candidacy))),
        () = reply.closed() => {
            if let Err(error) = resign(&caller, &leader).await {
                tracing::debug!(error = %error, "the key of a candidate that gave up stays until its lease ends");
            }
        }
    }
}

/// Puts the caller's key and value. The answer is what it will be told when it has won.
async fn stand(caller: &Caller, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease, value } = request;
    let lease = caller.session(lease).await?;
    let key = Prefix::of(&name).key(lease);
    let txn = TxnRequest {
        compare: vec![created_at(&key, 0)],
        success: vec![put(&key, value.clone(), lease)],
        failure: vec![op(Op::RequestRange(get(&key)))],
    };
    let mut done = caller.txn(txn).await?;
    let known = found(&mut done, 0);
    let header = done.header;
    let leader = LeaderKey {
        name,
        key,
        rev: match &known {
            Some(known) => known.create_revision,
            None => header.map_or(0, |header| header.revision),
        },
        lease,
    };
    if known.is_some_and(|known| known.value != value)
        && let Err(error) = proclaim(caller, &leader, value).await
    {
        let _its_own_error_matters_less = resign(caller, &leader).await;
        return Err(error);
    }
    Ok(CampaignResponse {
        header,
        leader: Some(leader),
    })
}

async fn proclaim(
    caller: &Caller,
    leader: &LeaderKey,
    value: Bytes,
) -> Result<Option<ResponseHeader>, Status> {
    let txn = TxnRequest {
        compare: vec![created_at(&leader.key, leader.rev)],
        success: vec![put(&leader.key, value, leader.lease)],
        failure: Vec::new(),
    };
    let done = caller.txn(txn).await?;
    match done.succeeded {
        true => Ok(done.header),
        false => Err(Status::unknown("election: not leader")),
    }
}

/// Deletes the leader's key if it is still the same one.
async fn resign(caller: &Caller, leader: &LeaderKey) -> Result<Option<ResponseHeader>, Status> {
    let delete = DeleteRangeRequest {
        key: leader.key.clone(),
        ..Default::default()
    };
    let txn = TxnRequest {
        compare: vec![created_at(&leader.key, leader.rev)],
        success: vec![op(Op::RequestDeleteRange(delete))],
        failure: Vec::new(),
    };
    Ok(caller.txn(txn).await?.header)
}

/// The leader now, if there is one.
async fn current(
    caller: &Caller,
    prefix: &Prefix,
) -> Result<(Option<ResponseHeader>, Option<KeyValue>), Status> {
    let found = caller.range(prefix.first_created()).await?;
    Ok((found.header, found.kvs.into_iter().next()))
}

/// Who looks at an election: at one leader until its key is deleted, then at the next.
struct Observer {
    caller: Caller,
    prefix: Prefix,
    /// The leader's key being watched, and what has been seen of it and not told yet.
    watched: Option<(Changes, std::vec::IntoIter<LeaderResponse>)>,
}

impl Observer {
    /// The next value of a leader.
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            let Some((changes, seen)) = &mut self.watched else {
                let leader = self.next_leader().await?;
                self.watched = Some((self.follow(&leader).await?, Vec::new().into_iter()));
                return Ok(leader);
            };
            if let Some(leader) = seen.next() {
                match leader.kv.is_some() {
                    true => return Ok(leader),
                    false => self.watched = None,
                }
                continue;
            }
            let response = changes.next().await?.ok_or_else(ended)?;
            *seen = response
                .events
                .into_iter()
                .map(|event| LeaderResponse {
                    header: response.header.map(|header| ResponseHeader {
                        revision: event.kv.as_ref().map_or(0, |kv| kv.mod_revision),
                        ..header
                    }),
                    kv: event.kv.clone().filter(|_| !is_deletion(&event)),
                })
                .collect::<Vec<_>>()
                .into_iter();
        }
    }

    /// The leader, as soon as there is one.
    async fn next_leader(&self) -> Result<LeaderResponse, Status> {
        let (header, leader) = current(&self.caller, &self.prefix).await?;
        if let Some(leader) = leader {
            return Ok(led(header, leader));
        }
        let from = header.map_or(0, |header| header.revision);
        let mut changes = self.caller.watch(self.prefix.range(), from).await?;
        loop {
            let response = changes.next().await?.ok_or_else(ended)?;
            let put = response.events.into_iter().find(|event| !is_deletion(event));
            if let Some(leader) = put.and_then(|event| event.kv) {
                let header = response.header.map(|header| ResponseHeader {
                    revision: leader.mod_revision,
                    ..header
                });
                return Ok(led(header, leader));
            }
        }
    }

    async fn follow(&self, leader: &LeaderResponse) -> Result<Changes, Status> {
        let key = leader.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
        let seen = leader.header.map_or(0, |header| header.revision);
        self.caller.watch(KeyRange::One(key), seen + 1).await
    }
}

fn ended() -> Status {
    Status::unknown("the watch has ended")
}
