//! `etcdserverpb.Cluster`. Its headers never carry a revision.
//!
//! Two kinds of rules guard a change. Here, before it is proposed, stand those that only this member can
//! judge now: would a quorum of members that have started, and that answer, be left? They protect
//! against mistakes, and `--strict-reconfig-check=false` lifts them. The others are facts of the log
//! (the member exists already, its URL is taken), and every member judges them alike at apply.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use auth::Identity;
use grpc::etcdserverpb::cluster_server;
use machine::membership::member_id;
use machine::{Member, MemberChange, Outcome};
use proto::etcdserverpb::{
    self, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
use tonic::{Request, Response, Status};
use types::{ErrorKind, MemberId};

use super::{mismatch, status};
use crate::access;
use crate::config::Url;
use crate::forward;
use crate::node::Node;

/// How long a member must have been connected to count as healthy.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

/// A learner may be promoted once it has this part of the leader's log.
const READY_PERCENT: u64 = 90;

/// The service.
pub struct Cluster(pub Node);

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let (head, request) = access::split(request);
        self.0.refuse_learner()?;
        if request.linearizable {
            self.0.read_barrier().await.map_err(status)?;
        }
        self.0.require_user(&head).await.map_err(status)?;
        let members = self.0.board.replicated().members.clone();
        Ok(Response::new(MemberListResponse {
            header: Some(self.0.header_without_revision()),
            members,
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        node.admit(&head)?;
        let MemberAddRequest {
            peer_ur_ls,
            is_learner,
        } = request;
        let peer_urls = peer_urls(&peer_ur_ls).map_err(status)?;
        node.require_root(&head).await.map_err(status)?;
        may_add(node, is_learner).map_err(status)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let member = Member {
            id: member_id(&peer_urls, "", Some(now.as_secs())),
            peer_urls,
            is_learner,
            ..Member::default()
        };
        let added = etcdserverpb::Member::from(&member);
        let members = change(node, MemberChange::Add(member)).await?;
        Ok(Response::new(MemberAddResponse {
            header: Some(node.header_without_revision()),
            member: Some(added),
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let (head, request) = access::split(request);
        let node = &self.0;
        node.admit(&head)?;
        node.require_root(&head).await.map_err(status)?;
        let id = MemberId(request.id);
        may_remove(node, id).map_err(status)?;
        let members = change(node, MemberChange::Remove(id)).await?;
        Ok(Response::new(MemberRemoveResponse {
            header: Some(node.header_without_revision()),
            members,
        }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let node = &self.0;
        let (head, request) = access::split(request);
        node.admit(&head)?;
        let MemberUpdateRequest { id, peer_ur_ls } = request;
        let update = MemberChange::Update {
            id: MemberId(id),
            peer_urls: peer_urls(&peer_ur_ls).map_err(status)?,
        };
        node.require_root(&head).await.map_err(status)?;
        let members = change(node, update).await?;
        Ok(Response::new(MemberUpdateResponse {
            header: Some(node.header_without_revision()),
            members,
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let (head, request) = access::split(request);
        let node = &self.0;
        node.admit(&head)?;
        let id = MemberId(request.id);
        let who = node.identify(&head).await.map_err(status)?;
        let members = match promote_here(node, &who, id).await {
            // The leader knows how far the learner is.
            Err(ErrorKind::NotLeader) => forward::promote(node, access::token(&head), id).await,
            promoted => promoted,
        };
        Ok(Response::new(MemberPromoteResponse {
            header: Some(node.header_without_revision()),
            members: members.map_err(status)?,
        }))
    }
}

/// Promotes a learner, on the leader.
///
/// # Errors
/// Those of [`Node::require_root`], `NotLeader` elsewhere, `MemberNotFound`, `MemberNotLearner`, `LearnerNotReady`,
/// `NotEnoughStarted`.
pub async fn promote_here(
    node: &Node,
    who: &Identity,
    id: MemberId,
) -> Result<Vec<etcdserverpb::Member>, ErrorKind> {
    node.board.auth().require_root(who)?;
    let promoted = promote(node, id).await;
    match promoted {
        Ok(_) => node.metrics.server_learner_promote_successes.inc(),
        Err(ErrorKind::NotLeader) => {}
        Err(error) => node
            .metrics
            .server_learner_promote_failures
            .with(&[forward::promotion_text(error)])
            .inc(),
    }
    promoted
}

async fn promote(node: &Node, id: MemberId) -> Result<Vec<etcdserverpb::Member>, ErrorKind> {
    may_promote(node, id).await?;
    match node.change_members(&MemberChange::Promote(id)).await?.outcome {
        Outcome::Members(members) => Ok(members),
        _ => Err(ErrorKind::ProposalDropped),
    }
}

async fn change(node: &Node, change: MemberChange) -> Result<Vec<etcdserverpb::Member>, Status> {
    let done = node.change_members(&change).await.map_err(status)?;
    match done.outcome {
        Outcome::Members(members) => Ok(members),
        _ => Err(mismatch(done)),
    }
}

/// Peer URLs of a request: at least one, each with a host and a port and nothing behind them. Sorted, as
/// etcd keeps them.
fn peer_urls(urls: &[String]) -> Result<Vec<String>, ErrorKind> {
    let parsed: Result<Vec<Url>, _> = urls.iter().map(|url| Url::parse(url)).collect();
    let mut urls: Vec<String> = match parsed {
        Ok(urls) if !urls.is_empty() => urls.iter().map(Url::to_string).collect(),
        _ => return Err(ErrorKind::MemberBadURLs),
    };
    urls.sort_unstable();
    Ok(urls)
}

fn may_add(node: &Node, is_learner: bool) -> Result<(), ErrorKind> {
    if !node.config.strict_reconfig_check {
        return Ok(());
    }
    let replicated = node.board.replicated();
    if !is_learner {
        replicated.membership.may_add_voter()?;
    }
    let voters = replicated.membership.voters().count();
    // The new member counts as one that does not answer yet. A single member may always get company.
    let quorum = quorum(voters + 1);
    match voters == 1 || healthy(node) >= quorum {
        true => Ok(()),
        false => Err(ErrorKind::Unhealthy),
    }
}

fn may_remove(node: &Node, id: MemberId) -> Result<(), ErrorKind> {
    if !node.config.strict_reconfig_check {
        return Ok(());
    }
    let replicated = node.board.replicated();
    let membership = &replicated.membership;
    match membership.get(id) {
        // Apply has the word for it.
        None => return Ok(()),
        Some(member) if member.is_learner => return Ok(()),
        Some(_) => membership.may_remove(id)?,
    }
    if !node.is_connected_since(id, Instant::now()) {
        return Ok(());
    }
    // It counts among the healthy ones, and will be missed.
    let left = membership.voters().count() - 1;
    match healthy(node) > quorum(left) {
        true => Ok(()),
        false => Err(ErrorKind::Unhealthy),
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Voters that have been connected for a while, this member among them.
fn healthy(node: &Node) -> usize {
    match Instant::now().checked_sub(HEALTHY_AFTER) {
        Some(since) => node.connected_since(since),
        None => 1,
    }
}

async fn may_promote(node: &Node, id: MemberId) -> Result<(), ErrorKind> {
    let progress = node.progress().await?;
    let Some(own) = progress.get(&node.id) else {
        return Err(ErrorKind::NotLeader);
    };
    let replicated = node.board.replicated();
    match replicated.membership.get(id) {
        None => return Err(ErrorKind::MemberNotFound),
        Some(member) if !member.is_learner => return Err(ErrorKind::MemberNotLearner),
        Some(_) => {}
    }
    let learned = progress.get(&id).map_or(0, |learner| learner.matched);
    if learned * 100 < own.matched * READY_PERCENT {
        return Err(ErrorKind::LearnerNotReady);
    }
    match node.config.strict_reconfig_check {
        true => replicated.membership.may_promote(),
        false => Ok(()),
    }
}
