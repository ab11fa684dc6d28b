//! The member: inputs to consensus, effects from it, and who waits for what.

use std::collections::{BTreeSet, VecDeque};
use std::mem;

use bytes::Bytes;
use consensus::{Consensus, Leadership, RestoreError, Restored, Role};
use proto::raftpb::{ConfChangeType, ConfChangeV2, ConfState, Entry, Message};
use types::{ErrorKind, Index, MemberId, Term};

use crate::effects::{Effects, Input, Lessor, Payload, Proposal, Status, Ticket};
use crate::reads::Reads;

/// Entries committed and not applied, beyond which no more are let in: `TooManyRequests`. etcd's.
pub const BACKLOG_MAX: u64 = 5000;

/// The same for urgent proposals.
pub const URGENT_BACKLOG_MAX: u64 = 10_000;

/// Proposals that may wait for a leader, and their bytes; beyond it they are refused with
/// `TooManyRequests`. A cluster without a leader for as long as a request may take would not do more
/// useful work with more of them.
const LEADERLESS_MAX: usize = 5000;
const LEADERLESS_BYTES_MAX: usize = 64 << 20;

/// How a member behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of its part in raft.
    pub raft: consensus::Config,
    /// How long a request may wait for a leader or an answer, in milliseconds.
    pub request_timeout_ms: u64,
    /// Entries kept in memory before a snapshot, for followers that lag.
    pub snapshot_catchup_entries: u64,
    /// How long a leader waits for its own disk before it hands over, in milliseconds.
    pub disk_patience_ms: u64,
    /// Who has been a member and is not to be spoken to again.
    pub removed: BTreeSet<MemberId>,
}

impl Config {
    /// etcd's settings: five seconds and two election timeouts for a request (`tick_ms` is the
    /// heartbeat interval), 5000 entries to catch up. A disk is given an election timeout: a Go leader
    /// sends no heartbeats while it waits for its disk, and is deposed after as long.
    pub fn new(raft: consensus::Config, tick_ms: u64) -> Self {
        let election_timeout_ms = raft.election_tick as u64 * tick_ms;
        Config {
            raft,
            request_timeout_ms: 5000 + 2 * election_timeout_ms,
            snapshot_catchup_entries: 5000,
            disk_patience_ms: election_timeout_ms,
            removed: BTreeSet::new(),
        }
    }
}

/// A proposal that waits to be given to raft.
struct Waiting {
    proposal: Proposal,
    deadline_ms: u64,
}

/// A leadership transfer that waits for the new leader.
struct Transfer {
    ticket: Ticket,
    to: MemberId,
    deadline_ms: u64,
}

/// One member's control plane. See the crate's documentation for how to drive it.
pub struct Member {
    config: Config,
    raft: Consensus,
    now_ms: u64,
    /// Admitted and not yet proposed, in order: until the effects are taken, so that all that waits
    /// goes in one batch, or until there is a leader.
    proposals: VecDeque<Waiting>,
    proposal_bytes: usize,
    reads: Reads,
    transfers: Vec<Transfer>,
    /// Appends handed out and not yet durable, and since when.
    appending: VecDeque<(u64, u64)>,
    leadership: Leadership,
    leader_since_ms: Option<u64>,
    /// The term for which the lessor was promoted.
    primary_in: Option<Term>,
    stopped: bool,
    /// The status of the last effects.
    published: Status,
    /// Effects that became due outside of raft.
    due: Effects,
}

impl Member {
    /// Starts from what is remembered.
    pub fn new(config: Config, restored: Restored) -> Result<Self, RestoreError> {
        let raft = Consensus::new(config.raft.clone(), restored)?;
        let leadership = raft.status().leadership;
        Ok(Member {
            config,
            raft,
            now_ms: 0,
            proposals: VecDeque::new(),
            proposal_bytes: 0,
            reads: Reads::default(),
            transfers: Vec::new(),
            appending: VecDeque::new(),
            leadership,
            leader_since_ms: None,
            primary_in: None,
            stopped: false,
            published: Status::default(),
            due: Effects::default(),
        })
    }

    /// Takes one input at a time that never goes back.
    pub fn step(&mut self, now_ms: u64, input: Input) {
        self.now_ms = self.now_ms.max(now_ms);
        match input {
            Input::Tick => self.tick(),
            Input::Message(message) => {
                let from = MemberId(message.from);
                if let Err(error) = self.raft.step(message) {
                    self.due.ignored.push((from, error));
                }
            }
            Input::Propose(proposals) => proposals.into_iter().for_each(|it| self.admit(it)),
            Input::ReadIndex { ticket } => self.admit_read(ticket),
            Input::Persisted(number) => {
                let durable = self.appending.partition_point(|(append, _)| *append <= number);
                self.appending.drain(..durable);
                self.raft.persisted(number);
            }
            Input::Applied { index, conf_changes } => self.applied(index, &conf_changes),
            Input::Installed { index, removed } => {
                self.config.removed.extend(removed);
                self.applied(index, &[]);
            }
            Input::SnapshotDone(metadata) => {
                self.raft.compact(metadata, self.config.snapshot_catchup_entries);
            }
            Input::SnapshotCuts(metadata) => self.raft.compact(metadata, 0),
            Input::TransferLeader { ticket, to } => self.transfer_leader(ticket, to),
            Input::Unreachable(id) => self.raft.report_unreachable(id),
            Input::Gone(id) => self.raft.leader_lost(id),
            Input::SnapshotSent { to, arrived } => self.raft.report_snapshot(to, arrived),
            Input::Stop => self.stop(),
        }
        if self.raft.is_lone_voter() && !self.stopped {
            // Nobody else could be elected; why wait.
            self.raft.campaign();
        }
    }

    /// Whether there is anything to take.
    pub fn has_effects(&self) -> bool {
        self.raft.has_effects()
            || !self.proposals.is_empty() && self.raft.can_propose().is_ok()
            || self.reads.can_start_round() && self.raft.status().leadership.leader.is_some()
            || self.awaits_promotion()
            || self.status().lone_leader != self.published.lone_leader
            || !self.due.reads.is_empty()
            || !self.due.refused.is_empty()
            || !self.due.transfers.is_empty()
            || !self.due.ignored.is_empty()
    }

    /// Everything that is to be done now. Inputs may follow before it is done.
    pub fn take_effects(&mut self) -> Effects {
        self.propose();
        // News of a leader come first: a round begins with the leader it asks.
        if self.raft.status().leadership == self.leadership {
            self.reads.start_round(&mut self.raft, self.now_ms);
        }
        let raft = self.raft.take_effects();
        if let Some(leadership) = raft.leadership {
            self.leadership_changed(leadership);
        }
        for state in raft.read_states {
            self.reads.answered(state.token, state.index);
        }
        if raft.committed.iter().any(|entry| self.is_first_of_term(entry)) {
            // A leader that dropped the question would answer it now.
            self.reads.ask_again(&mut self.raft, self.now_ms);
        }
        let mut effects = mem::take(&mut self.due);
        if effects.lessor.is_none() && self.awaits_promotion() {
            self.primary_in = Some(self.leadership.term);
            effects.lessor = Some(Lessor::Promote);
        }
        self.reads.release(self.raft.status().applied, &mut effects.reads);
        self.published = self.status();
        effects.status = self.published;
        let appending = raft.append.as_ref().map(|append| (append.number, self.now_ms));
        self.appending.extend(appending);
        effects.append = raft.append;
        effects.send = raft.send;
        effects.send_snapshots = raft.send_snapshots;
        effects.restore = raft.restore;
        effects.committed = raft.committed;
        self.silence_to_removed(&mut effects);
        effects
    }

    /// Where the member is.
    pub fn status(&self) -> Status {
        let raft = self.raft.status();
        let leads = raft.leadership.role == Role::Leader;
        Status {
            term: raft.leadership.term,
            leader: raft.leadership.leader,
            role: raft.leadership.role,
            committed: raft.committed,
            applied: raft.applied,
            lone_leader: leads && self.raft.is_lone_voter() && self.raft.has_applied_in_term(),
            leader_since_ms: self.leader_since_ms,
        }
    }

    /// The configuration in force.
    pub fn conf_state(&self) -> ConfState {
        self.raft.conf_state()
    }

    /// The participant, to look at.
    pub fn consensus(&self) -> &Consensus {
        &self.raft
    }

    fn deadline_ms(&self) -> u64 {
        self.now_ms + self.config.request_timeout_ms
    }

    fn tick(&mut self) {
        self.raft.tick();
        self.hand_over_if_disk_hangs();
        let now_ms = self.now_ms;
        self.reads.tick(&mut self.raft, now_ms, &mut self.due.reads);
        let late = self
            .proposals
            .partition_point(|waiting| waiting.deadline_ms <= now_ms);
        for Waiting { proposal, .. } in self.proposals.drain(..late) {
            self.proposal_bytes -= proposal.bytes();
            self.due
                .refused
                .push((proposal.id, ErrorKind::ContextDeadlineExceeded));
        }
        for transfer in self
            .transfers
            .extract_if(.., |transfer| transfer.deadline_ms <= now_ms)
        {
            self.due
                .transfers
                .push((transfer.ticket, Err(ErrorKind::LeaderTransferTimeout)));
        }
    }

    /// Lets a proposal wait for its batch, or for a leader, or refuses it.
    fn admit(&mut self, proposal: Proposal) {
        let status = self.raft.status();
        let backlog_max = if proposal.urgent {
            URGENT_BACKLOG_MAX
        } else {
            BACKLOG_MAX
        };
        let leaderless = self.raft.can_propose().is_err();
        let bytes = self.proposal_bytes + proposal.bytes();
        let refusal = if self.stopped {
            Some(ErrorKind::Stopped)
        } else if status.committed - status.applied > backlog_max
            || leaderless && (self.proposals.len() >= LEADERLESS_MAX || bytes > LEADERLESS_BYTES_MAX)
        {
            Some(ErrorKind::TooManyRequests)
        } else {
            None
        };
        match refusal {
            Some(error) => self.due.refused.push((proposal.id, error)),
            None => {
                self.proposal_bytes = bytes;
                let deadline_ms = self.deadline_ms();
                self.proposals.push_back(Waiting {
                    proposal,
                    deadline_ms,
                });
            }
        }
    }

    /// Gives all that waits to raft, if there is a leader to order it.
    fn propose(&mut self) {
        if self.proposals.is_empty() || self.raft.can_propose().is_err() {
            return;
        }
        self.proposal_bytes = 0;
        let mut requests: Vec<Bytes> = Vec::with_capacity(self.proposals.len());
        let leads_in = (self.raft.status().leadership.role == Role::Leader)
            .then_some(self.raft.status().leadership.term);
        for Waiting { proposal, .. } in mem::take(&mut self.proposals) {
            if proposal.only_in.is_some() && proposal.only_in != leads_in {
                self.due.refused.push((proposal.id, ErrorKind::NotPrimary));
                continue;
            }
            match proposal.payload {
                Payload::Request(request) => requests.push(request),
                Payload::ConfChange(change) => {
                    let before = mem::take(&mut requests);
                    let proposed = self
                        .raft
                        .propose(before)
                        .and(self.raft.propose_conf_change(&change));
                    debug_assert!(
                        proposed.is_ok(),
                        "it can propose, and proposing does not change that"
                    );
                }
            }
        }
        let proposed = self.raft.propose(requests);
        debug_assert!(
            proposed.is_ok(),
            "it can propose, and proposing does not change that"
        );
    }

    fn admit_read(&mut self, ticket: Ticket) {
        let admitted = match self.stopped {
            true => Err(ErrorKind::Stopped),
            false => self.reads.add(ticket, self.deadline_ms()),
        };
        if let Err(error) = admitted {
            self.due.reads.push((ticket, Err(error)));
        }
    }

    fn applied(&mut self, index: Index, conf_changes: &[(Index, ConfChangeV2)]) {
        for (at, change) in conf_changes {
            // What cannot be applied is refused by every member alike, and changes nothing.
            if self.raft.apply_conf_change(*at, change).is_ok() {
                let removed = change.changes.iter().filter(|single| {
                    single.r#type() == ConfChangeType::ConfChangeRemoveNode && single.node_id != 0
                });
                self.config
                    .removed
                    .extend(removed.map(|single| MemberId(single.node_id)));
            }
        }
        self.raft.applied(index);
        self.reads
            .release(self.raft.status().applied, &mut self.due.reads);
    }

    fn transfer_leader(&mut self, ticket: Ticket, to: MemberId) {
        let outcome = if self.stopped {
            Err(ErrorKind::Stopped)
        } else if self.raft.status().leadership.role != Role::Leader {
            Err(ErrorKind::NotLeader)
        } else if to == self.config.raft.id {
            Ok(())
        } else if !self.raft.conf_state().voters.contains(&to.0) {
            Err(ErrorKind::BadLeaderTransferee)
        } else {
            self.raft.transfer_leader(to);
            let deadline_ms = self.deadline_ms();
            self.transfers.push(Transfer {
                ticket,
                to,
                deadline_ms,
            });
            return;
        };
        self.due.transfers.push((ticket, outcome));
    }

    /// A leader that cannot write its log commits what the others have, but applies and acknowledges
    /// nothing. One of those that can had better lead.
    fn hand_over_if_disk_hangs(&mut self) {
        let hangs = self
            .appending
            .front()
            .is_some_and(|(_, since)| self.now_ms - since >= self.config.disk_patience_ms);
        if !hangs || self.raft.status().transferring_to.is_some() {
            return;
        }
        let own = self.config.raft.id;
        // Nobody, unless this member leads.
        let others = self.raft.progress().into_iter().filter(|(id, progress)| {
            *id != own && !progress.learner && progress.recently_active && !progress.awaits_snapshot
        });
        if let Some((successor, _)) = others.max_by_key(|(_, progress)| progress.matched) {
            self.raft.transfer_leader(successor);
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.reads.fail(ErrorKind::Stopped, &mut self.due.reads);
        self.proposal_bytes = 0;
        let proposals = mem::take(&mut self.proposals);
        self.due.refused.extend(
            proposals
                .iter()
                .map(|waiting| (waiting.proposal.id, ErrorKind::Stopped)),
        );
        let transfers = mem::take(&mut self.transfers);
        self.due
            .transfers
            .extend(transfers.iter().map(|it| (it.ticket, Err(ErrorKind::Stopped))));
    }

    fn leadership_changed(&mut self, now: Leadership) {
        let before = mem::replace(&mut self.leadership, now);
        if now.leader.is_some() && now.leader != before.leader {
            self.leader_since_ms = Some(self.now_ms);
        }
        if self
            .primary_in
            .take_if(|term| *term != now.term || now.role != Role::Leader)
            .is_some()
        {
            self.due.lessor = Some(Lessor::Demote);
        }
        for transfer in self
            .transfers
            .extract_if(.., |transfer| now.leader == Some(transfer.to))
        {
            self.due.transfers.push((transfer.ticket, Ok(())));
        }
        self.reads
            .leader_changed(now, &mut self.raft, self.now_ms, &mut self.due.reads);
    }

    /// Whether this member leads, knows all that was committed before, and its lessor does not know.
    fn awaits_promotion(&self) -> bool {
        self.leadership.role == Role::Leader && self.primary_in.is_none() && self.raft.has_applied_in_term()
    }

    /// A leader begins its term with an empty entry.
    fn is_first_of_term(&self, entry: &Entry) -> bool {
        entry.data.is_none() && entry.r#type == 0 && entry.term == self.leadership.term
    }

    /// Removed members get no messages: they would only stand for election again.
    fn silence_to_removed(&self, effects: &mut Effects) {
        let removed = &self.config.removed;
        if removed.is_empty() {
            return;
        }
        let is_member = |message: &Message| !removed.contains(&MemberId(message.to));
        effects.send.retain(is_member);
        effects.send_snapshots.retain(is_member);
        if let Some(append) = &mut effects.append {
            append.send_after.retain(is_member);
        }
    }
}

impl Proposal {
    fn bytes(&self) -> usize {
        match &self.payload {
            Payload::Request(request) => request.len(),
            // The change's context is a member's description: a few hundred bytes.
            Payload::ConfChange(_) => 512,
        }
    }
}
