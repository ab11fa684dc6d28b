//! The participant: the engine and what keeps it in bounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;

use bytes::Bytes;
use proto::raftpb::{self, ConfChangeV2, ConfState, Message, MessageType, SnapshotMetadata};
use raft::eraftpb;
use raft::{ProgressState, RawNode, Ready, SnapshotStatus, StateRole};
use types::{Index, MemberId, Term};

use crate::conf::{self, ConfChange, ConfChangeError};
use crate::effects::{Append, Effects, Leadership, ReadState, Role, promises};
use crate::log::Log;
use crate::reads::{Asker, Reads};
use crate::rng::Rng;
use crate::vet::{StepError, vet};
use crate::wire;

/// Bytes of entries that may be under way to one follower, unacknowledged. Beyond it the follower is
/// sent no more until it has answered.
const INFLIGHT_BYTES_MAX: u64 = 64 << 20;

/// Read requests a new leader keeps until it has committed an entry of its own term; more are dropped
/// and asked again by their members.
const EARLY_READS_MAX: usize = 1024;

/// Changes of the configuration a leader keeps until the one before is applied. Each is a person's order, or a
/// controller's that waits for its answer; more are dropped, and time out.
const WAITING_CHANGES_MAX: usize = 64;

/// How a participant behaves. Times are in ticks; the driver decides how long a tick is.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member. Not zero.
    pub id: MemberId,
    /// A follower that hears nothing from a leader for one to two times this long, drawn anew each
    /// time, wants to be leader itself. More than `heartbeat_tick`.
    pub election_tick: usize,
    /// The leader lets hear from itself this often. Not zero.
    pub heartbeat_tick: usize,
    /// Ask before disturbing the others with an election.
    pub pre_vote: bool,
    /// A leader that hears nothing from a majority for `election_tick` gives up.
    pub check_quorum: bool,
    /// Bytes of entries in one message to a follower, at most, if that holds one entry.
    pub max_size_per_msg: u64,
    /// Messages with entries under way to one follower, at most. Not zero.
    pub max_inflight: usize,
    /// All chance comes from here. Members, and lives of one member, should have different ones.
    pub seed: u64,
}

impl Config {
    /// etcd's settings, but for the election timeout, which is a flag there (10 ticks by default).
    pub fn new(id: MemberId, election_tick: usize, seed: u64) -> Self {
        Config {
            id,
            election_tick,
            heartbeat_tick: 1,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: 1 << 20,
            max_inflight: 512,
            seed,
        }
    }
}

/// What a member remembers when it starts. All zero and empty for one that joins a running cluster.
///
/// A new cluster's first members all start from the same made-up log: one `ConfChangeAddNode` each at
/// indexes 1 to n of term 1, hard state term 1 and commit n, and an empty configuration; the entries
/// come out as the first [`committed`](Effects::committed) ones and are applied like any other.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The last one on disk.
    pub hard_state: raftpb::HardState,
    /// The newest snapshot, all zero if there is none. The log follows it.
    pub snapshot: SnapshotMetadata,
    /// Everything on disk that follows the snapshot.
    pub entries: Vec<raftpb::Entry>,
    /// What the state machine has applied, not before the snapshot.
    pub applied: Index,
    /// The configuration as of `applied`.
    pub conf_state: ConfState,
}

/// Why a member cannot start from what it remembers. Going on would risk acknowledged writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The settings contradict each other.
    #[error("invalid raft settings: {0}")]
    Config(String),
    /// An entry does not follow the one before it.
    #[error("the log has a gap or disorder at index {0}")]
    BrokenLog(Index),
    /// Entries that are known to be committed or applied are not in the log.
    #[error("the log ends at {last}, but index {needed} was committed or applied")]
    LogTooShort {
        /// The last index in the log.
        last: Index,
        /// The index it must have.
        needed: Index,
    },
    /// The entries that the state machine lacks are gone.
    #[error("the state machine is at index {applied}, before the snapshot at {snapshot}")]
    StateTooOld {
        /// Where the state machine is.
        applied: Index,
        /// Where the log begins.
        snapshot: Index,
    },
    /// The configuration makes no sense.
    #[error("invalid configuration {0:?}")]
    Configuration(ConfState),
}

/// Why a proposal was not taken. Nothing of it will appear in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// There is nobody to order it.
    #[error("no leader")]
    NoLeader,
    /// The leader is handing over, which takes an election timeout at most.
    #[error("the leadership is being transferred")]
    Transferring,
}

/// Where a participant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Term, leader and role.
    pub leadership: Leadership,
    /// The last index known to be committed.
    pub committed: Index,
    /// The last index reported by [`Consensus::applied`].
    pub applied: Index,
    /// The last index known to be on this member's disk.
    pub persisted: Index,
    /// The first index in memory.
    pub first: Index,
    /// The last index in memory.
    pub last: Index,
    /// Whom the leader is handing over to.
    pub transferring_to: Option<MemberId>,
    /// Who has its vote in this term.
    pub vote: Option<MemberId>,
}

/// What a leader knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last index known to be on its disk.
    pub matched: Index,
    /// The next index to be sent.
    pub next: Index,
    /// Whether it only learns.
    pub learner: bool,
    /// Whether it has answered lately.
    pub recently_active: bool,
    /// Whether it is waiting for a snapshot.
    pub awaits_snapshot: bool,
    /// Whether it is being asked where it stands, before it is sent more.
    pub is_probed: bool,
}

/// A message kept back, and the append that must be durable before it may go.
struct Held {
    after: u64,
    message: Message,
}

/// A leader is gone, and the voters that are left try their luck in turn, each in ticks of its own, so
/// that they do not split the vote.
struct Succession {
    /// Ticks until it is this member's turn.
    wait: usize,
    /// Ticks from one turn to the next: as many as there are candidates.
    round: usize,
    /// Turns left; then the election timeout is all there is again.
    turns: usize,
}

/// One raft participant. See the crate's documentation for how to drive it.
pub struct Consensus {
    node: RawNode<Log>,
    config: Config,
    rng: Rng,
    /// The election timeout in force, in ticks; ours, not the engine's.
    election_timeout: usize,
    /// As of the last input.
    leadership: Leadership,
    commit_seen: Index,
    reads: Reads,
    /// Read requests that came before the first commit of this leader's term.
    early_reads: Vec<eraftpb::Message>,
    /// Proposals of configuration changes that wait for the one before to be applied.
    waiting_changes: VecDeque<eraftpb::Message>,
    /// This member's turns to follow a leader that is gone.
    succession: Option<Succession>,
    /// The leader's call to campaign at once, until the disk allows it.
    timeout_now: Option<eraftpb::Message>,
    /// Followers that have [`INFLIGHT_BYTES_MAX`] under way.
    throttled: BTreeSet<u64>,
    /// Numbers of the appends handed out and not yet reported as persisted.
    appending: VecDeque<u64>,
    /// The last number the engine has given.
    number: u64,
    /// Term and vote as last handed out to be written.
    vote_written: (Term, u64),
    /// The append that makes them durable, while it is under way.
    vote_in: Option<u64>,
    /// The last configuration change handed out, while it is not applied.
    conf_pending: Index,
    held: Vec<Held>,
    /// A snapshot to install once this append is durable.
    restoring: Option<(u64, raftpb::Snapshot)>,
    /// Effects that became due outside of the engine.
    due: Effects,
}

impl Consensus {
    /// Starts from what is remembered, as a follower.
    pub fn new(config: Config, restored: Restored) -> Result<Self, RestoreError> {
        let id = config.id;
        let applied = restored.applied;
        let engine = raft::Config {
            id: id.0,
            election_tick: config.election_tick,
            heartbeat_tick: config.heartbeat_tick,
            applied,
            max_size_per_msg: config.max_size_per_msg,
            max_inflight_msgs: config.max_inflight,
            pre_vote: config.pre_vote,
            check_quorum: config.check_quorum,
            ..raft::Config::default()
        };
        engine
            .validate()
            .map_err(|error| RestoreError::Config(error.to_string()))?;
        let (log, hard_state) = restore_log(restored)?;
        let vote_written = (hard_state.term, hard_state.vote);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node =
            RawNode::new(&engine, log, &logger).map_err(|error| RestoreError::Config(error.to_string()))?;
        let mut rng = Rng::new(config.seed);
        let reads = Reads::new(rng.next());
        let mut this = Consensus {
            node,
            config,
            rng,
            election_timeout: 0,
            leadership: Leadership::default(),
            commit_seen: 0,
            reads,
            early_reads: Vec::new(),
            waiting_changes: VecDeque::new(),
            succession: None,
            timeout_now: None,
            throttled: BTreeSet::new(),
            appending: VecDeque::new(),
            number: 0,
            vote_written,
            vote_in: None,
            conf_pending: 0,
            held: Vec::new(),
            restoring: None,
            due: Effects::default(),
        };
        this.draw_election_timeout();
        this.settle();
        Ok(this)
    }

    // Inputs: time, messages, requests.

    /// Lets one tick pass.
    ///
    /// An election that is due waits for the disk: the engine may become leader only with all of its
    /// log durable, and a member whose disk hangs would make a poor leader.
    pub fn tick(&mut self) {
        let raft = &self.node.raft;
        let election_due =
            raft.state != StateRole::Leader && raft.election_elapsed + 1 >= self.election_timeout;
        if election_due && !self.may_campaign() {
            return;
        }
        self.node.tick();
        self.settle();
        if let Some(succession) = &mut self.succession {
            succession.wait = succession.wait.saturating_sub(1);
        }
        self.try_to_succeed();
    }

    /// Takes a message from another member.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        vet(&message, &self.node.raft)?;
        let kind = message.r#type();
        let Some(mut message) = wire::message_in(message) else {
            return Err(StepError::Malformed("unknown entry type"));
        };
        match kind {
            MessageType::MsgTimeoutNow if !self.may_campaign() => {
                self.timeout_now = Some(message);
                return Ok(());
            }
            MessageType::MsgTransferLeader => message.term = 0,
            MessageType::MsgProp => {
                message.term = 0;
                return self.propose_message(message).map_err(|_| StepError::Dropped);
            }
            MessageType::MsgReadIndex => {
                message.term = 0;
                if self.is_leader() {
                    let entry = &mut message.mut_entries()[0];
                    entry.data = self.reads.ask(Asker::Follower(mem::take(&mut entry.data)));
                    self.ask_leader(message);
                    return Ok(());
                }
            }
            _ => {}
        }
        let from = message.from;
        let result = self.node.step(message);
        self.settle();
        result.map_err(|error| match error {
            raft::Error::StepPeerNotFound => StepError::UnknownMember(from),
            _ => StepError::Dropped,
        })
    }

    /// Whether a proposal would be taken now.
    pub fn can_propose(&self) -> Result<(), ProposeError> {
        let raft = &self.node.raft;
        match raft.state {
            StateRole::Leader if raft.lead_transferee.is_some() => Err(ProposeError::Transferring),
            StateRole::Leader => Ok(()),
            StateRole::Follower if raft.leader_id != raft::INVALID_ID => Ok(()),
            _ => Err(ProposeError::NoLeader),
        }
    }

    /// Proposes requests, all or none. The leader appends them as one batch; a follower sends them on,
    /// and then each may still be lost without notice.
    pub fn propose(&mut self, requests: Vec<Bytes>) -> Result<(), ProposeError> {
        self.can_propose()?;
        let entry = |data: Bytes| eraftpb::Entry {
            data,
            ..Default::default()
        };
        if self.is_leader() {
            return self.propose_entries(requests.into_iter().map(entry).collect());
        }
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        for data in requests {
            let bytes = data.len() as u64;
            if !batch.is_empty() && batch_bytes + bytes > self.config.max_size_per_msg {
                self.propose_entries(mem::take(&mut batch))?;
                batch_bytes = 0;
            }
            batch_bytes += bytes;
            batch.push(entry(data));
        }
        self.propose_entries(batch)
    }

    /// Proposes a configuration change. While another one waits to be applied, or a new leader's log that may
    /// hold one, the leader keeps it back.
    pub fn propose_conf_change(&mut self, change: &ConfChange) -> Result<(), ProposeError> {
        self.can_propose()?;
        let entry = wire::entry_in(change.to_entry()).expect("its type is known");
        self.propose_entries(vec![entry])
    }

    /// Asks for a read index. The answer, if one comes, is a [`ReadState`] with this token; the same
    /// token may be used to ask again. `false`: there is no leader to ask.
    pub fn read_index(&mut self, token: u64) -> bool {
        if self.leadership.leader.is_none() {
            return false;
        }
        let entry = eraftpb::Entry {
            data: self.reads.ask(Asker::Local(token)),
            ..Default::default()
        };
        self.ask_leader(eraftpb::Message {
            msg_type: eraftpb::MessageType::MsgReadIndex,
            entries: vec![entry].into(),
            ..Default::default()
        });
        true
    }

    /// Hands the leadership over to a voter, once that has the whole log. Given up after an election
    /// timeout.
    pub fn transfer_leader(&mut self, to: MemberId) {
        self.node.transfer_leader(to.0);
        self.settle();
    }

    /// Starts an election at once, if this member may vote and is ready to lead.
    pub fn campaign(&mut self) {
        if self.node.raft.promotable() && !self.is_leader() && self.may_campaign() {
            // The engine refuses while a configuration change waits to be applied; so shall it be.
            let _ = self.node.campaign();
            self.settle();
        }
    }

    /// The leader is gone: not merely silent, its machine says that nobody listens there. So this member
    /// does not wait for its election timeout, nor keep others from asking for votes. Should the leader
    /// live after all, a majority that hears from it refuses (pre-vote, thesis §9.6).
    pub fn leader_lost(&mut self, leader: MemberId) {
        if self.leadership.leader != Some(leader) || self.is_leader() {
            return;
        }
        self.node.raft.leader_id = raft::INVALID_ID;
        let voters = self.conf_state().voters;
        let candidates: Vec<u64> = voters.into_iter().filter(|id| *id != leader.0).collect();
        self.settle();
        if let Some(place) = candidates.iter().position(|id| *id == self.config.id.0) {
            self.succession = Some(Succession {
                wait: place,
                round: candidates.len(),
                turns: (self.config.election_tick / candidates.len()).max(1),
            });
            self.try_to_succeed();
        }
    }

    /// A message to this member was lost. Replication to it slows down until it answers.
    pub fn report_unreachable(&mut self, id: MemberId) {
        self.node.report_unreachable(id.0);
        self.settle();
    }

    /// A snapshot has, or has not, arrived at the member it was sent to.
    pub fn report_snapshot(&mut self, id: MemberId, arrived: bool) {
        let status = if arrived {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.node.report_snapshot(id.0, status);
        self.settle();
    }

    // Inputs: what became of effects.

    /// The append with this number, and every one before it, is durable.
    pub fn persisted(&mut self, number: u64) {
        while self
            .appending
            .front()
            .is_some_and(|appending| *appending <= number)
        {
            self.appending.pop_front();
        }
        let durable = self.durable();
        self.node.on_persist_ready(durable);
        self.vote_in = self.vote_in.filter(|append| *append > durable);
        if self
            .restoring
            .as_ref()
            .is_some_and(|(append, _)| *append <= durable)
        {
            self.due.restore = self.restoring.take().map(|(_, snapshot)| snapshot);
        }
        self.release_held();
        self.settle();
        self.try_to_succeed();
    }

    /// Takes a configuration change into effect, when the entry at `index` that holds it is applied, and
    /// before [`applied`](Self::applied) says so. Not to be called for one that the membership rules refuse.
    /// Returns the configuration in force.
    pub fn apply_conf_change(
        &mut self,
        index: Index,
        change: &ConfChangeV2,
    ) -> Result<ConfState, ConfChangeError> {
        if index < self.node.raft.raft_log.first_index() {
            // A snapshot from the leader has come meanwhile, with a later configuration.
            return Ok(self.conf_state());
        }
        // Else it may have campaigned by the configuration before, and led a term that has a leader.
        let applied = self.node.raft.raft_log.applied;
        assert!(
            index > applied,
            "a change at {index} comes before {applied} is called applied"
        );
        let next = conf::apply(&self.conf_state(), change)?;
        self.node
            .apply_conf_change(&conf::to_engine(change))
            .expect("the engine takes every change that conf::apply takes");
        assert_eq!(self.conf_state(), next, "conf::apply and the engine agree");
        if self.is_leader() && !self.is_voter() {
            // The engine would go on leading without a place in its own books, and trip over that.
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
        self.settle();
        Ok(next)
    }

    /// The state machine has applied everything up to `index`, including the effects of
    /// [`apply_conf_change`](Self::apply_conf_change).
    pub fn applied(&mut self, index: Index) {
        let log = &self.node.raft.raft_log;
        debug_assert!(index <= log.committed, "applied {index} before it was committed");
        let index = index.min(log.committed).min(log.persisted);
        if index > log.applied {
            self.node.advance_apply_to(index);
        }
        if index >= self.conf_pending {
            self.conf_pending = 0;
        }
        self.release_held();
        self.settle();
    }

    /// A snapshot of the state machine, at or before what is applied, is durable. Entries more than
    /// `catch_up` before it are dropped from memory; followers that need them get the snapshot.
    pub fn compact(&mut self, snapshot: SnapshotMetadata, catch_up: u64) {
        let raft = &mut self.node.raft;
        let old = raft.store().snapshot_index();
        if snapshot.index <= old || snapshot.index > raft.raft_log.applied {
            return;
        }
        let upto = snapshot.index.saturating_sub(catch_up);
        raft.mut_store().compact(wire::metadata_in(snapshot), upto);
    }

    // Outputs.

    /// Whether there is anything to take.
    pub fn has_effects(&self) -> bool {
        !self.due.is_empty() || self.node.has_ready()
    }

    /// Everything that is to be done now. Inputs may follow before it is done.
    pub fn take_effects(&mut self) -> Effects {
        let mut effects = mem::take(&mut self.due);
        if !self.node.has_ready() {
            return effects;
        }
        let mut ready = self.node.ready();
        self.number = ready.number();
        let mut append = self.take_append(&mut ready);
        let mut messages = ready.take_messages();
        messages.append(&mut ready.take_persisted_messages());
        let committed = ready.take_committed_entries();
        let read_states = ready.take_read_states();
        self.node.advance_append_async(ready);

        if let Some(change) = committed.iter().rev().find(|entry| wire::is_conf_change(entry)) {
            self.conf_pending = change.index;
        }
        effects.committed = committed.into_iter().map(wire::entry_out).collect();
        for state in read_states {
            if let Some(Asker::Local(token)) = self.reads.answer(&state.request_ctx) {
                let index = state.index;
                effects.read_states.push(ReadState { token, index });
            }
        }
        self.route(messages, &mut effects, &mut append);

        let writes = append.snapshot.is_some() || append.hard_state.is_some() || !append.entries.is_empty();
        if writes || !append.send_after.is_empty() {
            self.appending.push_back(append.number);
            effects.append = Some(append);
        } else if self.appending.is_empty() {
            self.node.on_persist_ready(self.number);
        }
        effects
    }

    /// Where this participant is.
    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        Status {
            leadership: self.leadership,
            committed: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            persisted: raft.raft_log.persisted,
            first: raft.raft_log.first_index(),
            last: raft.raft_log.last_index(),
            transferring_to: raft.lead_transferee.map(MemberId),
            vote: (raft.vote != 0).then_some(MemberId(raft.vote)),
        }
    }

    /// The configuration in force. Ids are sorted.
    pub fn conf_state(&self) -> ConfState {
        wire::conf_state_out(self.node.raft.prs().conf().to_conf_state())
    }

    /// Whether this member votes.
    pub fn is_voter(&self) -> bool {
        self.node.raft.promotable()
    }

    /// Whether this member is the only one that votes, so that it need ask nobody.
    pub fn is_lone_voter(&self) -> bool {
        self.is_voter() && self.node.raft.prs().is_singleton()
    }

    /// Whether an entry of the present term is applied. Before that a leader does not know all that
    /// was committed before it.
    pub fn has_applied_in_term(&self) -> bool {
        self.node.raft.apply_to_current_term()
    }

    /// What this member knows of every member, itself included; empty unless it leads.
    pub fn progress(&self) -> BTreeMap<MemberId, Progress> {
        if !self.is_leader() {
            return BTreeMap::new();
        }
        let members = self.node.raft.prs();
        let progress = |(id, progress): (&u64, &raft::Progress)| {
            let progress = Progress {
                matched: progress.matched,
                next: progress.next_idx,
                learner: members.conf().learners().contains(id),
                recently_active: progress.recent_active || *id == self.config.id.0,
                awaits_snapshot: progress.state == ProgressState::Snapshot,
                is_probed: progress.state == ProgressState::Probe,
            };
            (MemberId(*id), progress)
        };
        members.iter().map(progress).collect()
    }

    /// Panics if an invariant does not hold. Costs time in proportion to the log: for tests.
    pub fn check(&self) {
        let raft = &self.node.raft;
        let log = &raft.raft_log;
        raft.store().check();
        assert!(log.applied <= log.committed.min(log.persisted));
        assert!(log.committed <= log.last_index());
        assert!(log.persisted <= log.last_index());
        assert!(raft.store().snapshot_index() <= log.committed);
        assert!(self.appending.iter().is_sorted());
        assert!(self.appending.back().is_none_or(|last| *last <= self.number));
        assert_eq!(raft.randomized_election_timeout(), self.election_timeout);
        assert_eq!(self.leadership, self.observe_leadership());
        assert!(conf::is_valid(&self.conf_state()));
        if self.is_leader() {
            assert!(self.is_voter() && self.leadership.leader == Some(self.config.id));
        }
    }

    // The inner side.

    fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Campaigns if it is this member's turn to follow a leader that is gone.
    fn try_to_succeed(&mut self) {
        let may_campaign = self.may_campaign();
        let Some(succession) = self.succession.as_mut().filter(|it| it.wait == 0 && may_campaign) else {
            return;
        };
        (succession.wait, succession.turns) = (succession.round, succession.turns - 1);
        if succession.turns == 0 {
            self.succession = None;
        }
        self.campaign();
    }

    /// All of the log is durable and installed, and nothing that bears on an election is under way to
    /// the disk.
    fn may_campaign(&self) -> bool {
        let log = &self.node.raft.raft_log;
        self.appending.is_empty()
            && log.unstable_entries().is_empty()
            && log.unstable_snapshot().is_none()
            && log.applied + 1 >= log.store().first()
    }

    /// The last number with nothing under way up to it.
    fn durable(&self) -> u64 {
        self.appending.front().map_or(self.number, |first| first - 1)
    }

    fn propose_entries(&mut self, entries: Vec<eraftpb::Entry>) -> Result<(), ProposeError> {
        if entries.is_empty() {
            return Ok(());
        }
        let proposed = self.propose_message(eraftpb::Message {
            msg_type: eraftpb::MessageType::MsgPropose,
            from: self.config.id.0,
            entries: entries.into(),
            ..Default::default()
        });
        proposed.map_err(|_| ProposeError::NoLeader)
    }

    /// Gives a proposal to the engine, or keeps it: for a change that comes too early the engine would append
    /// an empty entry, and who waits for the change would never hear of it.
    fn propose_message(&mut self, proposal: eraftpb::Message) -> raft::Result<()> {
        let is_change = proposal.entries.len() == 1 && wire::is_conf_change(&proposal.entries[0]);
        let is_early = self.is_leader() && self.node.raft.has_pending_conf();
        if is_change && is_early && self.waiting_changes.len() < WAITING_CHANGES_MAX {
            self.waiting_changes.push_back(proposal);
            return Ok(());
        }
        let result = self.node.raft.step(proposal);
        self.settle();
        result
    }

    /// Gives the next change to the engine that has waited for the one before.
    fn serve_waiting_change(&mut self) {
        let raft = &self.node.raft;
        if raft.has_pending_conf() || raft.lead_transferee.is_some() {
            return;
        }
        if let Some(proposal) = self.waiting_changes.pop_front() {
            let _ = self.node.raft.step(proposal);
        }
    }

    /// Gives a read request to the engine, or keeps it until the engine would take it.
    fn ask_leader(&mut self, request: eraftpb::Message) {
        if !self.is_leader() || self.node.raft.commit_to_current_term() {
            // The engine drops a request without a leader; that is noticed when no answer comes.
            let _ = self.node.raft.step(request);
            self.settle();
        } else if self.early_reads.len() < EARLY_READS_MAX {
            self.early_reads.push(request);
        }
    }

    /// What every input ends with: our settings put over the engine's, and its facts looked at.
    fn settle(&mut self) {
        if self.timeout_now.is_some() && self.may_campaign() {
            let _ = self.timeout_now.take().map(|message| self.node.step(message));
        }
        let before = self.leadership;
        let now = self.observe_leadership();
        assert!(now.term >= before.term, "terms never go back");
        let committed = self.node.raft.raft_log.committed;
        assert!(committed >= self.commit_seen, "commit never goes back");
        self.commit_seen = committed;
        if now != before {
            self.leadership = now;
            self.due.leadership = Some(now);
            self.reads.clear();
            self.early_reads.clear();
            self.waiting_changes.clear();
            self.timeout_now = None;
            if now.leader.is_some() {
                self.succession = None;
            }
            if (now.term, now.role) != (before.term, before.role) {
                self.draw_election_timeout();
            }
        }
        // The engine draws its own at every change of role, from the system's chance.
        self.node
            .raft
            .set_randomized_election_timeout(self.election_timeout);
        if now.role == Role::Leader {
            self.serve_early_reads();
            self.serve_waiting_change();
            self.throttle();
        }
        self.node.store().refill_burst();
    }

    fn observe_leadership(&self) -> Leadership {
        let raft = &self.node.raft;
        Leadership {
            term: raft.term,
            leader: (raft.leader_id != raft::INVALID_ID).then_some(MemberId(raft.leader_id)),
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::PreCandidate => Role::PreCandidate,
                StateRole::Candidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
        }
    }

    fn draw_election_timeout(&mut self) {
        let ticks = self.config.election_tick as u64;
        self.election_timeout = self.rng.between(ticks, 2 * ticks) as usize;
    }

    fn serve_early_reads(&mut self) {
        if self.node.raft.commit_to_current_term() {
            for request in mem::take(&mut self.early_reads) {
                let _ = self.node.raft.step(request);
            }
        }
    }

    /// Stops sending to followers with too many bytes under way, and takes up again with the others.
    fn throttle(&mut self) {
        let raft = &self.node.raft;
        let mut changed = Vec::new();
        for (&id, progress) in raft.prs().iter() {
            let replicating = progress.state == ProgressState::Replicate && id != raft.id;
            let bytes = raft
                .store()
                .bytes_between(progress.matched, progress.next_idx.saturating_sub(1));
            let throttle = replicating && bytes >= INFLIGHT_BYTES_MAX;
            if throttle != self.throttled.contains(&id) {
                // A window as large as what is in it is full; a heartbeat's answer frees one place, as
                // always, so that a loss is noticed.
                let window = if throttle {
                    progress.ins.count().max(1)
                } else {
                    self.config.max_inflight
                };
                changed.push((id, throttle, window));
            }
        }
        for (id, throttle, window) in changed {
            self.node.raft.adjust_max_inflight_msgs(id, window);
            if throttle {
                self.throttled.insert(id);
            } else {
                self.throttled.remove(&id);
            }
        }
    }

    /// Moves what is to be written into the log in memory and out as an append without messages.
    fn take_append(&mut self, ready: &mut Ready) -> Append {
        let mut append = Append {
            number: ready.number(),
            must_sync: ready.must_sync(),
            ..Append::default()
        };
        if !ready.snapshot().is_empty() {
            let snapshot = wire::snapshot_out(ready.snapshot().clone());
            let log = self.node.mut_store();
            log.restore(ready.snapshot().get_metadata().clone());
            self.restoring = Some((append.number, snapshot.clone()));
            append.snapshot = Some(snapshot);
        }
        let entries = ready.take_entries();
        append.entries = entries.iter().cloned().map(wire::entry_out).collect();
        self.node.mut_store().append(entries);
        if let Some(state) = ready.hs() {
            if (state.term, state.vote) != self.vote_written {
                self.vote_written = (state.term, state.vote);
                self.vote_in = Some(append.number);
            }
            append.hard_state = Some(wire::hard_state_out(state));
        }
        append
    }

    /// Decides for every message of the engine when it may leave.
    fn route(&mut self, messages: Vec<eraftpb::Message>, effects: &mut Effects, append: &mut Append) {
        let writes = append.snapshot.is_some() || append.hard_state.is_some() || !append.entries.is_empty();
        let disk_busy = writes || !self.appending.is_empty();
        for message in only_last_acknowledgements(messages) {
            let Some(message) = self.restore_read_context(message) else {
                continue;
            };
            // A leader speaks only in a term that its own disk remembers. One that needs no votes but
            // its own could otherwise lead the same term twice, with different entries.
            let waits = disk_busy && (promises(&message) || self.is_leader() && self.vote_in.is_some());
            let is_snapshot = message.r#type() == MessageType::MsgSnap;
            if self.holds_messages() || waits && is_snapshot {
                let after = if waits { append.number } else { 0 };
                self.held.push(Held { after, message });
            } else if waits {
                append.send_after.push(message);
            } else if is_snapshot {
                effects.send_snapshots.push(message);
            } else {
                effects.send.push(message);
            }
        }
    }

    /// A follower is silent while a configuration change that it knows to be committed is not applied:
    /// it might count or give votes after a configuration that is no more.
    fn holds_messages(&self) -> bool {
        self.conf_pending != 0 && !self.is_leader()
    }

    fn release_held(&mut self) {
        if self.holds_messages() || self.held.is_empty() {
            return;
        }
        let durable = self.durable();
        let (free, held) = mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.after <= durable);
        self.held = held;
        for Held { message, .. } in free {
            match message.r#type() {
                MessageType::MsgSnap => self.due.send_snapshots.push(message),
                _ => self.due.send.push(message),
            }
        }
    }

    /// Puts a follower's own context back into the answer to its read request.
    fn restore_read_context(&mut self, mut message: eraftpb::Message) -> Option<Message> {
        if message.get_msg_type() == eraftpb::MessageType::MsgReadIndexResp {
            let entry = message.mut_entries().first_mut()?;
            let Some(Asker::Follower(context)) = self.reads.answer(&entry.data) else {
                return None;
            };
            entry.data = context;
        }
        Some(wire::message_out(message))
    }
}

/// Of several acknowledgements to one member the last says all, as in etcd's own driver.
fn only_last_acknowledgements(mut messages: Vec<eraftpb::Message>) -> Vec<eraftpb::Message> {
    let mut acknowledged = BTreeSet::new();
    messages.reverse();
    messages.retain(|message| {
        message.get_msg_type() != eraftpb::MessageType::MsgAppendResponse || acknowledged.insert(message.to)
    });
    messages.reverse();
    messages
}

/// The log in memory, if what is remembered fits together.
fn restore_log(restored: Restored) -> Result<(Log, raftpb::HardState), RestoreError> {
    let Restored {
        mut hard_state,
        snapshot,
        entries,
        applied,
        conf_state,
    } = restored;
    for conf in [Some(&conf_state), snapshot.conf_state.as_ref()]
        .into_iter()
        .flatten()
    {
        if !conf::is_valid(conf) {
            return Err(RestoreError::Configuration(conf.clone()));
        }
    }
    let mut before: (Index, Term) = (snapshot.index, snapshot.term);
    let mut log_entries = Vec::with_capacity(entries.len());
    for entry in entries {
        let at = (entry.index, entry.term);
        let follows = at.0 == before.0 + 1 && at.1 >= before.1;
        match wire::entry_in(entry) {
            Some(entry) if follows => log_entries.push(entry),
            _ => return Err(RestoreError::BrokenLog(at.0)),
        }
        before = at;
    }
    let (last, last_term) = before;
    if applied < snapshot.index {
        let snapshot = snapshot.index;
        return Err(RestoreError::StateTooOld { applied, snapshot });
    }
    // The commit index is written lazily: what was applied was committed.
    hard_state.commit = hard_state.commit.max(applied);
    // A crash may have torn the hard state off its entries. Then no vote in their term has left.
    if hard_state.term < last_term {
        hard_state.term = last_term;
        hard_state.vote = raft::INVALID_ID;
    }
    if hard_state.commit > last {
        let needed = hard_state.commit;
        return Err(RestoreError::LogTooShort { last, needed });
    }
    let mut log = Log::new(
        wire::hard_state_in(hard_state),
        wire::conf_state_in(conf_state),
        wire::metadata_in(snapshot),
    );
    log.append(log_entries);
    Ok((log, hard_state))
}
