//! What only the leader can answer, asked there.
//!
//! Lease time counts on the leader only, and only the leader knows how far a learner has come. A member
//! that does not lead passes such a question on to the peer port of the one that does; a leader makes
//! sure first that it still is one, since a member that slept through an election does not know yet.
//! While there is no leader, or it does not answer, the question is asked again until its time is up.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use lease::RenewError;
use prost::Message;
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Member,
};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use types::{ErrorKind, LeaseId, MemberId};

use crate::node::Node;

/// Pause before the leader, or the next one, is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of an answer: a lease with its keys.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long a leader that does not know a lease waits for what it has yet to apply.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Why the leader was not able to answer.
enum Failed {
    /// That is the answer.
    Finally(ErrorKind),
    /// Another leader, or a better moment, may answer.
    ForNow,
}

/// Renews a lease; the answer is its TTL in seconds.
///
/// # Errors
/// `LeaseNotFound`; `Timeout` if no leader has answered.
pub async fn renew(node: &Node, id: LeaseId) -> Result<i64, ErrorKind> {
    until_answered(node, || ask_to_renew(node, id)).await
}

async fn ask_to_renew(node: &Node, id: LeaseId) -> Result<i64, Failed> {
    if node.board.raft().leads {
        return renew_here(node, id).await.map_err(|error| match error {
            ErrorKind::LeaseNotFound | ErrorKind::TimeoutWaitAppliedIndex => Failed::Finally(error),
            _ => Failed::ForNow,
        });
    }
    let request = LeaseKeepAliveRequest { id: id.0 };
    let answer: LeaseKeepAliveResponse = ask_leader(node, "/leases", &request).await?;
    Ok(answer.ttl)
}

/// Renews a lease on this member, which leads.
///
/// # Errors
/// `NotPrimary` if it does not lead any more, `LeaseNotFound`, `TimeoutWaitAppliedIndex`.
pub async fn renew_here(node: &Node, id: LeaseId) -> Result<i64, ErrorKind> {
    ensure_leadership(node).await?;
    loop {
        let applied = node.board.applied();
        let renewed = node.lessor.lock().renew(id, node.now_ms());
        match renewed {
            Ok(renewed) => {
                if renewed.clear_checkpoint {
                    // Before the answer: the next leader would start from it.
                    let term = node.board.raft().term;
                    node.propose_as_leader(term, checkpoints([(id, 0)])).await?;
                }
                node.metrics.debugging_lease_renewed_total.inc();
                return Ok(renewed.ttl_secs);
            }
            Err(RenewError::NotFound) if node.board.applied() < node.board.raft().committed => {
                catch_up(node).await?;
            }
            Err(RenewError::NotFound) => return Err(ErrorKind::LeaseNotFound),
            Err(error @ RenewError::NotPrimary) => return Err(error.into()),
            // Its revoke is under way: the answer is known once that is applied.
            Err(RenewError::Expired) => node.board.wait_applied(applied + 1).await,
        }
    }
}

/// What leases have left, in seconds, for who leads next. 0 takes a checkpoint back.
pub fn checkpoints(left: impl IntoIterator<Item = (LeaseId, i64)>) -> InternalRaftRequest {
    let checkpoint = |(id, remaining_ttl): (LeaseId, i64)| LeaseCheckpoint {
        id: id.0,
        remaining_ttl,
    };
    InternalRaftRequest {
        lease_checkpoint: Some(LeaseCheckpointRequest {
            checkpoints: left.into_iter().map(checkpoint).collect(),
        }),
        ..Default::default()
    }
}

/// How long a lease still lives, and its keys if asked for; TTL -1 for one that is not there. The header
/// is the caller's to fill.
///
/// # Errors
/// `LeaderChanged` if this member lost the leadership meanwhile; `Timeout` if no leader has answered.
pub async fn time_to_live(
    node: &Node,
    request: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, ErrorKind> {
    match until_answered(node, || ask_time_to_live(node, request)).await {
        Err(ErrorKind::LeaseNotFound) => Ok(LeaseTimeToLiveResponse {
            id: request.id,
            ttl: -1,
            ..Default::default()
        }),
        answer => answer,
    }
}

async fn ask_time_to_live(
    node: &Node,
    request: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Failed> {
    if node.board.raft().leads {
        return time_to_live_here(node, request)
            .await
            .map_err(|error| match error {
                ErrorKind::NotPrimary => Failed::ForNow,
                error => Failed::Finally(error),
            });
    }
    let request = LeaseInternalRequest {
        lease_time_to_live_request: Some(request),
    };
    let answer: LeaseInternalResponse = ask_leader(node, "/leases/internal", &request).await?;
    answer.lease_time_to_live_response.ok_or(Failed::ForNow)
}

/// The same on this member, which leads.
///
/// # Errors
/// `NotPrimary` if it does not lead any more, `LeaseNotFound`, `TimeoutWaitAppliedIndex`.
pub async fn time_to_live_here(
    node: &Node,
    LeaseTimeToLiveRequest { id, keys }: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, ErrorKind> {
    ensure_leadership(node).await?;
    if node.lessor.lock().get(LeaseId(id)).is_none() {
        catch_up(node).await?;
    }
    let lessor = node.lessor.lock();
    let lease = lessor.time_to_live(LeaseId(id), node.now_ms())?;
    let keys = match keys {
        true => lessor.keys(LeaseId(id)).map(|key| key.to_vec().into()).collect(),
        false => Vec::new(),
    };
    Ok(LeaseTimeToLiveResponse {
        header: Some(node.header(0)),
        id,
        ttl: lease.remaining_secs,
        granted_ttl: lease.granted_secs,
        keys,
    })
}

/// Passes a promotion on to the leader, with the token of who asks for it; the answer is all members after it.
///
/// # Errors
/// Those of the leader; `Timeout` if no leader has answered.
pub async fn promote(node: &Node, token: Option<&str>, id: MemberId) -> Result<Vec<Member>, ErrorKind> {
    until_answered(node, || ask_to_promote(node, token, id)).await
}

async fn ask_to_promote(node: &Node, token: Option<&str>, id: MemberId) -> Result<Vec<Member>, Failed> {
    let path = format!("/members/promote/{}", id.0);
    let (status, body) = post_to_leader(node, &path, token, Bytes::new()).await?;
    if status == StatusCode::OK {
        let members: Vec<machine::Member> = serde_json::from_slice(&body).map_err(|_| Failed::ForNow)?;
        return Ok(members.iter().map(Member::from).collect());
    }
    let text = String::from_utf8_lossy(&body);
    let known = [
        ErrorKind::MemberNotFound,
        ErrorKind::MemberNotLearner,
        ErrorKind::LearnerNotReady,
    ];
    let refusal = known
        .into_iter()
        .find(|error| text.contains(promotion_text(*error)));
    Err(refusal.map_or(Failed::ForNow, Failed::Finally))
}

/// What the peer port says when a promotion is refused.
pub fn promotion_text(error: ErrorKind) -> &'static str {
    match error {
        ErrorKind::MemberNotFound => "membership: ID not found",
        ErrorKind::MemberNotLearner => "membership: can only promote a learner member",
        error => error.text(),
    }
}

/// Asks, and asks again, until there is an answer or the time of a request is over.
async fn until_answered<T, F>(node: &Node, ask: impl Fn() -> F) -> Result<T, ErrorKind>
where
    F: Future<Output = Result<T, Failed>>,
{
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::ForNow) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    };
    let answer = tokio::time::timeout(node.request_timeout(), asking).await;
    answer.unwrap_or(Err(ErrorKind::Timeout))
}

/// Makes sure that this member leads now, and keeps the lease clock.
async fn ensure_leadership(node: &Node) -> Result<(), ErrorKind> {
    node.read_barrier().await.map_err(|_| ErrorKind::NotPrimary)?;
    match node.board.raft().leads && node.lessor.lock().is_primary() {
        true => Ok(()),
        false => Err(ErrorKind::NotPrimary),
    }
}

/// Waits until what is committed is applied.
async fn catch_up(node: &Node) -> Result<(), ErrorKind> {
    let caught_up = node.board.wait_applied(node.board.raft().committed);
    let caught_up = tokio::time::timeout(CATCH_UP, caught_up).await;
    caught_up.map_err(|_| ErrorKind::TimeoutWaitAppliedIndex)
}

/// Asks the leader's peer port about leases.
async fn ask_leader<T: Message + Default>(
    node: &Node,
    path: &str,
    request: &impl Message,
) -> Result<T, Failed> {
    let (status, body) = post_to_leader(node, path, None, request.encode_to_vec().into()).await?;
    match status {
        StatusCode::OK => T::decode(body).map_err(|_| Failed::ForNow),
        StatusCode::NOT_FOUND => Err(Failed::Finally(ErrorKind::LeaseNotFound)),
        StatusCode::REQUEST_TIMEOUT => Err(Failed::Finally(ErrorKind::TimeoutWaitAppliedIndex)),
        _ => Err(Failed::ForNow),
    }
}

/// Posts to the first of the leader's peer URLs that answers.
async fn post_to_leader(
    node: &Node,
    path: &str,
    token: Option<&str>,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Failed> {
    let leader = node.leader().ok_or(Failed::ForNow)?;
    let replicated = node.board.replicated();
    let leader = replicated.membership.get(leader).ok_or(Failed::ForNow)?;
    for url in &leader.peer_urls {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/protobuf");
        if let Some(token) = token {
            request = request.header(http::header::AUTHORIZATION, token);
        }
        let request = request.body(body.clone()).map_err(|_| Failed::ForNow)?;
        let client = node.peers.client();
        match client
            .call(url, request, node.request_timeout(), ANSWER_BYTES_MAX)
            .await
        {
            Ok(answer) => return Ok((answer.status(), answer.into_body())),
            Err(error) => tracing::debug!(url, error = %error, "the leader did not answer"),
        }
    }
    Err(Failed::ForNow)
}
