//! The handle that every handler holds: what this member knows, and the ways into its loops.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auth::Identity;
use bytes::Bytes;
use consensus::{Progress, Role};
use lease::Lessor;
use machine::MemberChange;
use machine::trail::Trail;
use member::Payload;
use mvcc::{Mvcc, RangeError, RangeOptions, Wait};
use parking_lot::Mutex;
use prost::Message;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, InternalRaftRequest, RequestHeader, ResponseHeader,
    alarm_request::AlarmAction,
};
use tokio::sync::{Notify, oneshot};
use tonic::Status;
use types::{ClusterId, ErrorKind, Index, KeyRange, LeaseId, MemberId, Term};

use crate::access::{Head, Tokenizer};
use crate::answers::Answers;
use crate::board::Board;
use crate::busy::Spent;
use crate::config::Config;
use crate::go;
use crate::http::{RaftProgress, RaftStatus};
use crate::ids::RequestIds;
use crate::inbox::Refused;
use crate::loops::member::{Member, Order};
use crate::metrics::Metrics;
use crate::passwords::Passwords;
use crate::peers::Peers;
use crate::progress::Job;
use crate::replies::{Answer, Replies, RequestId};
use crate::rpc::status;

/// How long the leader may take to say up to where a read must wait before that is logged; the member asks again about
/// as often.
const SLOW_READ_INDEX: Duration = Duration::from_millis(500);

/// This member, as its handlers see it. Cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

/// What a [`Node`] leads to.
pub struct Inner {
    /// The configuration it was started with.
    pub config: Arc<Config>,
    /// This member.
    pub id: MemberId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// What the loops let everybody know.
    pub board: Arc<Board>,
    /// The keys, for reading.
    pub mvcc: Arc<Mvcc>,
    /// Their files.
    pub store: Arc<store::Store>,
    /// The leases.
    pub lessor: Arc<Mutex<Lessor>>,
    /// How users who have signed in are known again.
    pub tokens: Tokenizer,
    /// Where passwords are hashed.
    pub passwords: Passwords,
    /// Memory for what is sent to clients.
    pub answers: Answers,
    /// Those who wait for the outcome of a proposal.
    pub replies: Arc<Replies>,
    /// The member, to propose to.
    pub member: Arc<Member>,
    /// The way to the other members.
    pub peers: Arc<Peers>,
    /// The way into the watch loop.
    pub watches: crate::loops::watch::WatchHandle,
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
    /// Rung when a compaction has been carried out.
    pub compactions: Arc<Compactions>,
    /// How far a defragmentation is.
    pub defragmentation: Job,
    /// Who defragments. A second request has its turn when the first one is through, as in etcd.
    pub defragmenting: Arc<tokio::sync::Mutex<()>>,
    /// Sums of what entries did, to compare with other members'.
    pub trail: Arc<Mutex<Trail>>,
    /// Ids for requests and leases.
    pub ids: RequestIds,
    /// The start of this process, from which lease time counts.
    pub started: Instant,
}

impl Deref for Node {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// How far compactions have been carried out, not merely decided.
pub struct Compactions {
    done: Mutex<i64>,
    bell: Notify,
    /// How far the one is that is being carried out.
    pub job: Job,
}

impl Compactions {
    /// Up to `revision` when the process starts.
    pub fn new(revision: i64) -> Self {
        Compactions {
            done: Mutex::new(revision),
            bell: Notify::new(),
            job: Job::default(),
        }
    }

    /// The history below `revision` is gone.
    pub fn carried_out(&self, revision: i64) {
        let mut done = self.done.lock();
        *done = revision.max(*done);
        drop(done);
        self.bell.notify_waiters();
    }

    /// The revision below which the history is gone; -1: never compacted.
    pub fn finished(&self) -> i64 {
        *self.done.lock()
    }

    /// Waits until the history below `revision` is gone.
    pub async fn wait(&self, revision: i64) {
        loop {
            let bell = self.bell.notified();
            if *self.done.lock() >= revision {
                return;
            }
            bell.await;
        }
    }
}

impl Node {
    /// A node over its parts.
    pub fn new(inner: Inner) -> Self {
        Node(Arc::new(inner))
    }

    /// How long a request may take: what five seconds and two elections allow.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.config.election_timeout
    }

    /// Milliseconds since this process started: the clock that leases run on.
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// A response header. Revision 0 stands for the current one.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        let revision = if revision == 0 {
            self.mvcc.current()
        } else {
            revision
        };
        ResponseHeader {
            revision,
            ..self.header_without_revision()
        }
    }

    /// A response header of the services that carry no revision.
    pub fn header_without_revision(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id.0,
            member_id: self.id.0,
            revision: 0,
            raft_term: self.board.raft().term,
        }
    }

    /// The alarms that are active in the cluster, of any member.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.board.replicated().alarms.clone()
    }

    /// The leader this member follows, itself included.
    pub fn leader(&self) -> Option<MemberId> {
        self.board.raft().leader
    }

    /// Whether this member has no vote yet.
    pub fn is_learner(&self) -> bool {
        self.board.raft().learner
    }

    /// The version the cluster has agreed on, such as `3.7.0`.
    pub fn cluster_version(&self) -> Option<String> {
        let version = self.board.replicated().versions.version();
        version.map(|version| version.to_string())
    }

    /// The version of the stored data, such as `3.7.0`.
    pub fn storage_version(&self) -> Option<String> {
        let version = self.board.replicated().versions.storage();
        version.map(|version| version.to_string())
    }

    /// An id for a lease whose grantor did not choose one: positive.
    pub fn new_lease_id(&self) -> LeaseId {
        LeaseId((self.ids.next() & i64::MAX as u64) as i64)
    }
}

/// Admission: what is decided before a request goes anywhere.
impl Node {
    /// Most calls: not on a learner, and not without a leader if the caller insists on one.
    pub fn admit(&self, head: &Head) -> Result<(), Status> {
        self.refuse_learner()?;
        self.admit_on_learner(head)
    }

    /// The calls that a learner serves too.
    pub fn admit_on_learner(&self, head: &Head) -> Result<(), Status> {
        match Self::insists_on_leader(head) && self.leader().is_none() {
            true => Err(status(ErrorKind::NoLeader)),
            false => Ok(()),
        }
    }

    /// Whether the caller wants no answer rather than one of a member without a leader.
    pub fn insists_on_leader(head: &Head) -> bool {
        let insists = head.metadata().get("hasleader");
        insists.is_some_and(|value| value == "true")
    }

    /// Refuses what a learner does not serve.
    pub fn refuse_learner(&self) -> Result<(), Status> {
        match self.is_learner() {
            true => Err(status(ErrorKind::NotSupportedForLearner)),
            false => Ok(()),
        }
    }

    /// Refuses a write that would take the store over its quota, and raises the alarm that then
    /// stops writes on every member. The store's size is a fact of this member alone, so it is
    /// weighed here and never in apply.
    pub async fn check_quota(&self, cost: u64) -> Result<(), Status> {
        let Some(quota) = self.config.quota_bytes else {
            return Ok(());
        };
        if cost == 0 || self.store.size() + cost < quota {
            return Ok(());
        }
        let alarm = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: self.id.0,
            alarm: AlarmType::Nospace.into(),
        };
        let raised = AlarmMember {
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        if !self.alarms().contains(&raised) {
            tracing::warn!(
                "database-size-bytes" = self.store.size(),
                "quota-size-bytes" = quota,
                "exceeded quota, raising alarm NOSPACE"
            );
            self.propose(InternalRaftRequest {
                alarm: Some(alarm),
                ..Default::default()
            })
            .await
            .map_err(status)?;
        }
        Err(status(ErrorKind::NoSpace))
    }
}

/// Ways into the loops.
impl Node {
    /// Puts a request of nobody in particular into the log and waits until this member has applied it.
    pub fn propose(&self, request: InternalRaftRequest) -> impl Future<Output = Answer> + Send {
        self.propose_as(Identity::default(), request)
    }

    /// Puts a request into the log and waits until this member has applied it.
    pub fn propose_as(
        &self,
        who: Identity,
        request: InternalRaftRequest,
    ) -> impl Future<Output = Answer> + Send {
        let mark = self.board.busy.mark();
        let proposal = self.proposal(who, request);
        async move {
            let (kind, size) = (proposal.kind, proposal.data.len());
            let answer = self.propose_and_wait(proposal, None).await;
            if mark.elapsed() >= self.config.slow_request {
                let answered = answer.as_ref().ok().map(|done| done.answered);
                let spent = self.board.busy.since(&mark, answered, Instant::now());
                log_slow_request(kind, size, &spent, answer.as_ref().err());
            }
            answer
        }
    }

    /// Puts a request into the log that is only true while this member leads in this term.
    pub fn propose_as_leader(
        &self,
        term: Term,
        request: InternalRaftRequest,
    ) -> impl Future<Output = Answer> + Send {
        let proposal = self.proposal(self.root(), request);
        self.propose_and_wait(proposal, Some(term))
    }

    /// Puts a change of the members into the log and waits until this member has applied it.
    pub async fn change_members(&self, change: &MemberChange) -> Answer {
        let id = self.ids.next();
        let change = consensus::ConfChange::V1(change.to_conf_change(id));
        self.hand_in(id, Payload::ConfChange(change), None).await
    }

    /// What goes into the log for a request. Nothing that waits holds the request itself: it has a field for each thing
    /// that can be asked for, and every layer of waiting would have that twice.
    fn proposal(&self, who: Identity, mut request: InternalRaftRequest) -> Proposal {
        let (id, kind) = (self.ids.next(), machine::kind(&request));
        request.header = Some(RequestHeader {
            id,
            username: who.user,
            auth_revision: who.revision,
        });
        Proposal {
            id,
            kind,
            data: request.encode_to_vec().into(),
        }
    }

    async fn propose_and_wait(&self, proposal: Proposal, only_in: Option<Term>) -> Answer {
        let backlog_max = match only_in {
            None => member::BACKLOG_MAX,
            Some(_) => member::URGENT_BACKLOG_MAX,
        };
        if self.board.raft().committed > self.board.applied() + backlog_max {
            return Err(ErrorKind::TooManyRequests);
        }
        let Proposal { id, kind, data } = proposal;
        let began = Instant::now();
        let answer = match data.len() > self.config.max_request_bytes {
            true => Err(ErrorKind::RequestTooLarge),
            false => self.hand_in(id, Payload::Request(data), only_in).await,
        };
        self.metrics
            .measure_request(kind, began.elapsed(), answer.is_ok());
        answer
    }

    async fn hand_in(&self, id: RequestId, payload: Payload, only_in: Option<Term>) -> Answer {
        let started_ms = self.now_ms();
        let outcome = Waiting {
            replies: &self.replies,
            id,
            answer: self.replies.expect(id),
            answered: false,
        };
        self.order(Order::Propose { id, payload, only_in })?;
        let answer = tokio::time::timeout(self.request_timeout(), outcome.answer()).await;
        answer.unwrap_or_else(|_| {
            self.metrics.server_proposals_failed_total.inc();
            Err(self.why_late(started_ms))
        })
    }

    /// What a request is told that was not answered in time.
    fn why_late(&self, started_ms: u64) -> ErrorKind {
        let raft = self.board.raft();
        if raft.leader.is_none() {
            return ErrorKind::ContextDeadlineExceeded;
        }
        let status = member::Status {
            leader: raft.leader,
            leader_since_ms: raft.leader_since_ms,
            ..Default::default()
        };
        let election_timeout_ms = self.config.election_timeout.as_millis() as u64;
        status.timeout(
            started_ms,
            election_timeout_ms,
            self.was_connected_since(started_ms),
        )
    }

    /// Whether the leader, or a quorum if this member leads, has been connected since then.
    fn was_connected_since(&self, since_ms: u64) -> bool {
        let since = self.started + Duration::from_millis(since_ms);
        match self.leader() {
            Some(leader) if leader != self.id => self.is_connected_since(leader, since),
            _ => {
                let voters = self.board.replicated().membership.voters().count();
                self.connected_since(since) > voters / 2
            }
        }
    }

    /// How many voters, this member among them, have been connected since then.
    pub fn connected_since(&self, since: Instant) -> usize {
        let replicated = self.board.replicated();
        let voters = replicated.membership.voters();
        voters
            .filter(|voter| self.is_connected_since(voter.id, since))
            .count()
    }

    /// Whether a member has been connected since then; this one always has.
    pub fn is_connected_since(&self, id: MemberId, since: Instant) -> bool {
        id == self.id || self.peers.active_since(id).is_some_and(|active| active <= since)
    }

    /// How far every member is, if this one leads.
    pub async fn progress(&self) -> Result<BTreeMap<MemberId, Progress>, ErrorKind> {
        let (reply, progress) = oneshot::channel();
        self.order(Order::Progress { reply })?;
        progress.await.map_err(|_| ErrorKind::Stopped)
    }

    /// Where raft is, in etcd's words; nothing while the member stops.
    pub async fn raft_status(&self) -> Option<RaftStatus> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Status { reply }).ok()?;
        let (status, progress) = answer.await.ok()?;
        let id = |id: Option<MemberId>| id.unwrap_or_default().to_string();
        let progress = progress.into_iter().map(|(id, progress)| {
            let state = match progress {
                Progress {
                    awaits_snapshot: true,
                    ..
                } => "StateSnapshot",
                Progress { is_probed: true, .. } => "StateProbe",
                _ => "StateReplicate",
            };
            let (matched, next) = (progress.matched, progress.next);
            (id.to_string(), RaftProgress { matched, next, state })
        });
        Some(RaftStatus {
            id: self.id.to_string(),
            term: status.leadership.term,
            vote: id(status.vote),
            commit: status.committed,
            lead: id(status.leadership.leader),
            state: match status.leadership.role {
                Role::Follower => "StateFollower",
                Role::PreCandidate => "StatePreCandidate",
                Role::Candidate => "StateCandidate",
                Role::Leader => "StateLeader",
            },
            applied: status.applied,
            progress: progress.collect(),
            transferee: id(status.transferring_to),
        })
    }

    /// Hands the leadership over to another voter, and waits until it leads.
    pub async fn transfer_leader(&self, to: MemberId) -> Result<(), ErrorKind> {
        let (reply, outcome) = oneshot::channel();
        self.order(Order::Transfer { to, reply })?;
        outcome.await.map_err(|_| ErrorKind::Stopped)?
    }

    /// Before a stop: leaves the leadership to the voter that has been connected for longest, so that
    /// nobody has to wait for an election.
    pub async fn hand_over(&self) {
        let replicated = self.board.replicated();
        let others = replicated.membership.voters().filter(|voter| voter.id != self.id);
        let oldest = others
            .filter_map(|voter| Some((self.peers.active_since(voter.id)?, voter.id)))
            .min();
        let Some((_, successor)) = oldest.filter(|_| self.board.raft().leads) else {
            return;
        };
        match self.transfer_leader(successor).await {
            Ok(()) => tracing::info!(
                "old-leader-member-id" = %self.id,
                "new-leader-member-id" = %successor,
                "leadership transfer finished"
            ),
            Err(error) => tracing::warn!(
                "transferee-member-id" = %successor,
                error = %error,
                "failed to transfer leadership"
            ),
        }
    }

    /// Notes how long a range took, after it has waited for its turn and for the leader.
    pub fn measure_range(&self, waited: Duration, took: Duration, success: bool) {
        self.metrics.measure_range(took, success);
        if waited + took >= self.config.slow_request {
            tracing::warn!(
                "time spent" = %go::duration(waited + took),
                queue = %go::duration(waited),
                read = %go::duration(took),
                request = "Range",
                "request stats"
            );
        }
    }

    /// Waits until a read here sees every write that was acknowledged before the call.
    pub async fn read_barrier(&self) -> Result<(), ErrorKind> {
        // The only voter, and leader: a write is acknowledged only after it was applied here.
        if self.board.raft().lone_leader {
            return Ok(());
        }
        let barrier = async {
            let index = self.read_index().await.inspect_err(|error| {
                if *error != ErrorKind::Stopped {
                    self.metrics.server_read_indexes_failed_total.inc();
                }
            })?;
            self.board.wait_applied(index).await;
            Ok(())
        };
        let answer = tokio::time::timeout(self.request_timeout(), barrier).await;
        answer.unwrap_or_else(|_| {
            self.metrics.server_slow_read_indexes_total.inc();
            tracing::warn!(
                timeout = %go::duration(self.request_timeout()),
                "timed out waiting for read index response (local node might have slow network)"
            );
            Err(ErrorKind::Timeout)
        })
    }

    /// The member asks the leader again by itself; here that is only told.
    async fn read_index(&self) -> Result<Index, ErrorKind> {
        let (reply, mut index) = oneshot::channel();
        self.order(Order::ReadIndex { reply })?;
        let index = match tokio::time::timeout(SLOW_READ_INDEX, &mut index).await {
            Ok(index) => index,
            Err(_) => {
                tracing::warn!(
                    "retry-timeout" = %go::duration(SLOW_READ_INDEX),
                    "waiting for ReadIndex response took too long, retrying"
                );
                index.await
            }
        };
        index.map_err(|_| ErrorKind::Stopped)?
    }

    /// The read of the health checks: whether a range would be answered now.
    pub async fn probe(&self, linearizable: bool) -> Result<(), ErrorKind> {
        if linearizable {
            self.read_barrier().await?;
        }
        let first_key = RangeOptions {
            limit: 1,
            keys_only: true,
            ..RangeOptions::new(KeyRange::One("\0".into()))
        };
        match self.mvcc.range(&first_key, Wait::No) {
            Ok(_) | Err(RangeError::Read(mvcc::ReadError::WouldBlock)) => Ok(()),
            Err(error) => Err(error.kind().unwrap_or(ErrorKind::Corrupt)),
        }
    }

    /// The status for a read that failed. A value that can't be read means that this member's files
    /// are damaged: it says so and refuses the read; nothing wrong is ever served.
    pub fn range_failed(&self, error: RangeError) -> Status {
        match error.kind() {
            Some(kind) => status(kind),
            None => {
                tracing::error!(error = %error, "cannot read a value; the data files of this member are damaged");
                status(ErrorKind::Corrupt)
            }
        }
    }

    fn order(&self, order: Order) -> Result<(), ErrorKind> {
        match self.member.submit(order) {
            Ok(()) => Ok(()),
            Err(Refused::Full) => Err(ErrorKind::TooManyRequests),
            Err(Refused::Closed) => Err(ErrorKind::Stopped),
        }
    }
}

fn log_slow_request(request: &str, size: usize, spent: &Spent, failure: Option<&ErrorKind>) {
    tracing::warn!(
        "time spent" = %go::duration(spent.total),
        queue = %go::duration(spent.queue),
        fsync = %go::duration(spent.fsync),
        apply = %go::duration(spent.apply),
        send = %go::duration(spent.send),
        request,
        "request size" = size,
        failure = failure.map(|error| error.text()),
        "request stats"
    );
}

/// A request on its way into the log.
struct Proposal {
    id: RequestId,
    /// What it asks for, in the words of etcd's metrics.
    kind: &'static str,
    /// The entry.
    data: Bytes,
}

/// A place in the list of those who wait, given up when the caller goes away.
struct Waiting<'a> {
    replies: &'a Replies,
    id: u64,
    answer: oneshot::Receiver<Answer>,
    answered: bool,
}

impl Waiting<'_> {
    async fn answer(mut self) -> Answer {
        let answer = (&mut self.answer).await;
        self.answered = true;
        answer.unwrap_or(Err(ErrorKind::Stopped))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.replies.forget(self.id);
        }
    }
}
