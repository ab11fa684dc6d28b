//! The member: owner of consensus.
//!
//! A round takes everything that waits, steps once, and hands out what follows: appends to the log
//! loop, committed entries to the apply loop, answers to those who asked for a read index. It never
//! touches a disk.
//!
//! A round is short and often all that stands between two threads that are awake anyway, so the member
//! has no thread of its own to wake: **whoever brings news runs the round**, unless somebody is at it,
//! who then runs another. A lone put is proposed by the connection that received it, and committed by
//! the log's thread once that has synced it. While an append of the leader is on its way to the disk,
//! proposals are only left in the inbox: the round that learns of the sync takes them all as one, which is
//! group commit without a timer. A thread of the clock runs a round a tick, or when it is asked to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use consensus::{Progress, RestoreError, Restored, Role};
use lease::Lessor;
use member::{Effects, Input, Payload, Proposal, Status, Ticket};
use parking_lot::Mutex;
use proto::raftpb::{ConfChangeV2, Message, MessageType, SnapshotMetadata};
use tokio::sync::oneshot;
use types::{ErrorKind, Index, MemberId, Term};

use super::Failure;
use super::apply::Committed;
use super::log::Write;
use super::watch::{Request, WatchHandle};
use crate::board::{Board, Raft};
use crate::config::Config;
use crate::go;
use crate::inbox::{Inbox, Refused};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::replies::{Replies, RequestId};

/// Orders that may wait: as many requests as may be under way before new ones are refused.
pub const ORDERS_MAX: usize = 16_384;
/// A tick that comes later than this many ticks was held up; the missed ones are not made up for, since
/// time spent paused says nothing about the leader.
const LATE_TICKS: u32 = 2;

/// What the member loop is told.
pub enum Order {
    /// Put this into the log.
    Propose {
        /// Who waits for it.
        id: RequestId,
        /// What goes into the log.
        payload: Payload,
        /// The term in which this member must lead, for what is only true while it does.
        only_in: Option<Term>,
    },
    /// Hand the leadership over.
    Transfer {
        /// To whom.
        to: MemberId,
        /// Who asks.
        reply: oneshot::Sender<Result<(), ErrorKind>>,
    },
    /// Tell how far every member is; empty unless this one leads.
    Progress {
        /// Who asks.
        reply: oneshot::Sender<BTreeMap<MemberId, Progress>>,
    },
    /// Tell where raft is, and how far every member is.
    Status {
        /// Who asks.
        reply: oneshot::Sender<(consensus::Status, BTreeMap<MemberId, Progress>)>,
    },
    /// Tell up to where a linearizable read must wait.
    ReadIndex {
        /// Who asks.
        reply: oneshot::Sender<Result<Index, ErrorKind>>,
    },
    /// Appends up to this number are on the disk.
    Persisted(u64),
    /// Entries up to this index are applied.
    Applied {
        /// The last of them.
        index: Index,
        /// Those that change the raft group.
        conf_changes: Vec<(Index, ConfChangeV2)>,
    },
    /// The leader's snapshot at this index has replaced the state machine.
    Installed {
        /// Its index.
        index: Index,
        /// All members that were removed by then.
        removed: Vec<MemberId>,
    },
    /// A raft snapshot is saved.
    Snapshotted(SnapshotMetadata),
    /// One is saved that every member gets which lacks an entry before it.
    Cut(SnapshotMetadata),
    /// From another member.
    Message(Message),
    /// A message to this member was lost.
    Unreachable(MemberId),
    /// This member's machine refuses connections where it should listen.
    Gone(MemberId),
    /// A snapshot has been sent, or not.
    SnapshotSent {
        /// Its receiver.
        to: MemberId,
        /// Whether it arrived.
        arrived: bool,
    },
}

/// Those a round speaks to.
#[allow(missing_docs)]
pub struct Links {
    pub log: Arc<Inbox<Write>>,
    pub committed: Arc<Inbox<Committed>>,
    pub board: Arc<Board>,
    pub replies: Arc<Replies>,
    pub lessor: Arc<Mutex<Lessor>>,
    pub watches: WatchHandle,
    pub peers: Arc<Peers>,
    pub metrics: Arc<Metrics>,
    pub failure: Failure,
}

/// Who waits for a read index.
type Reader = oneshot::Sender<Result<Index, ErrorKind>>;
/// Who waits for a transfer of the leadership.
type Transferor = oneshot::Sender<Result<(), ErrorKind>>;

/// The way to the member, and to a round of it.
pub struct Member {
    inbox: Inbox<Order>,
    rounds: Mutex<Rounds>,
    /// Whether proposals are to wait: this member leads, and an append is on its way to the disk.
    /// Stored before the inbox is looked at for the last time in a round, and read after an order was put
    /// there: one of the two sees the other.
    is_gathering: AtomicBool,
    committed: Arc<Inbox<Committed>>,
    tick: Duration,
}

/// What a round works with.
struct Rounds {
    member: member::Member,
    links: Links,
    id: MemberId,
    started: Instant,
    tick: Duration,
    next_tick: Instant,
    election_timeout_ms: u64,
    readers: HashMap<Ticket, Reader>,
    transferors: HashMap<Ticket, Transferor>,
    last_ticket: u64,
    orders: Vec<Order>,
    /// Whether something was left at the apply loop.
    has_committed: bool,
    /// The last append handed out, and the last reported persisted.
    appended: u64,
    persisted: u64,
    is_learner: bool,
    /// When the members were last sent a heartbeat, while this one leads.
    heartbeats: HashMap<u64, Instant>,
    /// As last posted.
    status: Status,
}

impl Member {
    /// A member that goes on where `restored` ends.
    pub fn new(
        config: &Config,
        id: MemberId,
        restored: Restored,
        removed: BTreeSet<MemberId>,
        seed: u64,
        started: Instant,
        links: Links,
    ) -> Result<Arc<Self>, RestoreError> {
        let election_ticks = config.election_ticks() as usize;
        let raft = consensus::Config {
            pre_vote: config.pre_vote,
            ..consensus::Config::new(id, election_ticks, seed)
        };
        let settings = member::Config {
            request_timeout_ms: config.request_timeout().as_millis() as u64,
            snapshot_catchup_entries: config.snapshot_catchup_entries,
            removed,
            ..member::Config::new(raft, config.tick.as_millis() as u64)
        };
        let mut member = member::Member::new(settings, restored)?;
        if config.initial_election_tick_advance {
            for _ in 1..election_ticks {
                member.step(0, Input::Tick);
            }
        }
        let is_learner = member.conf_state().learners.contains(&id.0);
        let committed = links.committed.clone();
        let rounds = Rounds {
            member,
            links,
            id,
            started,
            tick: config.tick,
            next_tick: Instant::now() + config.tick,
            election_timeout_ms: config.election_timeout.as_millis() as u64,
            readers: HashMap::new(),
            transferors: HashMap::new(),
            last_ticket: 0,
            orders: Vec::new(),
            has_committed: false,
            appended: 0,
            persisted: 0,
            is_learner,
            heartbeats: HashMap::new(),
            status: Status::default(),
        };
        Ok(Arc::new(Member {
            inbox: Inbox::new(ORDERS_MAX),
            rounds: Mutex::new(rounds),
            is_gathering: AtomicBool::new(false),
            committed,
            tick: config.tick,
        }))
    }

    /// Takes an order from outside, unless too many wait.
    pub fn submit(&self, order: Order) -> Result<(), Refused> {
        let waits_for_disk = matches!(order, Order::Propose { .. });
        self.inbox.try_push(order)?;
        if !(waits_for_disk && self.is_gathering.load(Ordering::SeqCst)) {
            self.run_round();
        }
        Ok(())
    }

    /// Takes news from another loop.
    pub fn deliver(&self, order: Order) {
        self.inbox.deliver(order);
        self.run_round();
    }

    /// Takes news that can wait for the next round.
    pub fn leave(&self, order: Order) {
        self.inbox.leave(order);
    }

    /// Takes news that should not wait, from one who can not run a round: it would wait for itself if the round
    /// had more to hand to it than there is room for. The clock's thread runs it.
    pub fn hurry(&self, order: Order) {
        self.inbox.leave(order);
        self.inbox.ring();
    }

    /// Takes the log's news that appends up to `number` are on the disk. What is committed by that is for the
    /// log to see to: see [`Apply::run_here`](super::apply::Apply::run_here).
    pub fn persisted(&self, number: u64) {
        self.inbox.leave(Order::Persisted(number));
        self.run_rounds();
    }

    /// Runs a round a tick until the member is closed.
    pub fn run_clock(&self) {
        let mut next = Instant::now();
        loop {
            next = Instant::now().max(next) + self.tick;
            if !self.inbox.wait_rung(next) {
                self.run_round();
            } else {
                return;
            }
        }
    }

    /// Takes no more orders.
    pub fn close(&self) {
        self.inbox.close();
        self.run_round();
    }

    /// Runs rounds until nothing waits, unless somebody else is at it, and wakes the apply loop if there is
    /// something for it.
    fn run_round(&self) {
        if self.run_rounds() {
            self.committed.wake();
        }
    }

    /// Runs rounds until nothing waits, unless somebody else is at it. Whether they left anything to apply.
    fn run_rounds(&self) -> bool {
        let mut has_committed = false;
        loop {
            let Some(mut rounds) = self.rounds.try_lock() else {
                return has_committed;
            };
            rounds.run(self);
            has_committed |= std::mem::take(&mut rounds.has_committed);
            let leads = rounds.status.role == Role::Leader;
            self.is_gathering
                .store(leads && rounds.appended > rounds.persisted, Ordering::SeqCst);
            drop(rounds);
            if self.inbox.is_empty() {
                return has_committed;
            }
        }
    }
}

impl Rounds {
    fn run(&mut self, member: &Member) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let mut orders = std::mem::take(&mut self.orders);
        let is_open = member.inbox.take(&mut orders);
        let mut proposals = Vec::new();
        let may_change_part = orders.iter().any(|order| match order {
            Order::Applied { conf_changes, .. } => !conf_changes.is_empty(),
            Order::Installed { .. } => true,
            _ => false,
        });
        for order in orders.drain(..) {
            match order {
                Order::Propose { id, payload, only_in } => {
                    proposals.push(Proposal {
                        id,
                        payload,
                        urgent: only_in.is_some(),
                        only_in,
                    });
                }
                // Who asked may have gone away.
                Order::Progress { reply } => drop(reply.send(self.member.consensus().progress())),
                Order::Status { reply } => {
                    let raft = self.member.consensus();
                    drop(reply.send((raft.status(), raft.progress())));
                }
                order => self.take(now_ms, order),
            }
        }
        self.orders = orders;
        if may_change_part {
            self.is_learner = self.member.conf_state().learners.contains(&self.id.0);
        }
        if !proposals.is_empty() {
            self.member.step(now_ms, Input::Propose(proposals));
        }
        if Instant::now() >= self.next_tick {
            self.tick(now_ms);
        }
        if !is_open {
            self.member.step(now_ms, Input::Stop);
        }
        while self.member.has_effects() {
            let effects = self.member.take_effects();
            self.carry_out(now_ms, effects);
        }
    }

    fn take(&mut self, now_ms: u64, order: Order) {
        let input = match order {
            Order::Propose { .. } | Order::Progress { .. } | Order::Status { .. } => return,
            Order::ReadIndex { reply } => {
                let ticket = self.ticket();
                self.readers.insert(ticket, reply);
                Input::ReadIndex { ticket }
            }
            Order::Transfer { to, reply } => {
                let ticket = self.ticket();
                self.transferors.insert(ticket, reply);
                Input::TransferLeader { ticket, to }
            }
            Order::Persisted(number) => {
                self.persisted = number;
                Input::Persisted(number)
            }
            Order::Applied { index, conf_changes } => Input::Applied { index, conf_changes },
            Order::Installed { index, removed } => Input::Installed { index, removed },
            Order::Snapshotted(snapshot) => Input::SnapshotDone(snapshot),
            Order::Cut(snapshot) => Input::SnapshotCuts(snapshot),
            Order::Message(message) => Input::Message(message),
            Order::Unreachable(id) => Input::Unreachable(id),
            Order::Gone(id) => Input::Gone(id),
            Order::SnapshotSent { to, arrived } => Input::SnapshotSent { to, arrived },
        };
        self.member.step(now_ms, input);
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn tick(&mut self, now_ms: u64) {
        self.member.step(now_ms, Input::Tick);
        self.next_tick += self.tick;
        let now = Instant::now();
        if now > self.next_tick + self.tick * LATE_TICKS {
            self.next_tick = now + self.tick;
        }
    }

    fn carry_out(&mut self, now_ms: u64, effects: Effects) {
        self.post(effects.status);
        self.watch_heartbeats(&effects.send);
        // Before the disk gets its part, so that the others write while this member does.
        self.links.peers.send(effects.send);
        self.links.peers.send_snapshots(effects.send_snapshots);
        if let Some(append) = effects.append {
            self.appended = append.number;
            // Past the bound: the log's own thread may be running this round. What is under way is
            // bounded by the requests that may be.
            self.links.log.deliver(Write::Append(append));
        }
        if let Some(snapshot) = effects.restore {
            self.links.committed.leave(Committed::Snapshot(snapshot));
            self.has_committed = true;
        }
        if !effects.committed.is_empty() {
            let entries = effects.committed.into_iter().map(Committed::Entry);
            self.links.committed.fill(entries);
            self.has_committed = true;
        }
        for (from, error) in effects.ignored {
            tracing::debug!("remote-peer-id" = %from, error = %error, "ignored a raft message");
        }
        for (ticket, outcome) in effects.reads {
            if let Some(reader) = self.readers.remove(&ticket) {
                // Whoever asked may have gone away.
                let _ = reader.send(outcome);
            }
        }
        for (ticket, outcome) in effects.transfers {
            if let Some(transferor) = self.transferors.remove(&ticket) {
                let _ = transferor.send(outcome);
            }
        }
        if !effects.refused.is_empty() {
            self.links
                .metrics
                .server_proposals_failed_total
                .add(effects.refused.len() as u64);
            self.links
                .replies
                .deliver(effects.refused.into_iter().map(|(id, error)| (id, Err(error))));
        }
        match effects.lessor {
            Some(member::Lessor::Promote) => {
                self.links.lessor.lock().promote(now_ms, self.election_timeout_ms);
                // Wakes those who wait for the clock to run.
                self.links.board.post_applied(self.links.board.applied());
            }
            Some(member::Lessor::Demote) => self.links.lessor.lock().demote(),
            None => {}
        }
    }

    /// Notes when heartbeats leave, and which of them are late.
    fn watch_heartbeats(&mut self, messages: &[Message]) {
        let expected = 2 * self.tick;
        for message in messages {
            if message.r#type != MessageType::MsgHeartbeat as i32 {
                continue;
            }
            let now = Instant::now();
            let since = self.heartbeats.insert(message.to, now);
            let Some(late) = since.and_then(|since| (now - since).checked_sub(expected)) else {
                continue;
            };
            self.links.metrics.server_heartbeat_send_failures_total.inc();
            tracing::warn!(
                to = %MemberId(message.to),
                "heartbeat-interval" = %go::duration(self.tick),
                "expected-duration" = %go::duration(expected),
                "exceeded-duration" = %go::duration(late),
                "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk"
            );
        }
    }

    /// Lets everybody know where the member is.
    fn post(&mut self, status: Status) {
        let leads = status.role == Role::Leader;
        self.links.board.post_raft(Raft {
            term: status.term,
            leader: status.leader,
            committed: status.committed,
            leads,
            lone_leader: status.lone_leader,
            learner: self.is_learner,
            leader_since_ms: status.leader_since_ms,
        });
        let metrics = &self.links.metrics;
        metrics
            .server_proposals_committed_total
            .set(status.committed as i64);
        metrics.server_proposals_applied_total.set(status.applied as i64);
        metrics.server_is_learner.set(self.is_learner.into());
        if (status.term, status.leader, status.role)
            != (self.status.term, self.status.leader, self.status.role)
        {
            metrics.server_has_leader.set(status.leader.is_some().into());
            metrics.server_is_leader.set(leads.into());
            self.heartbeats.clear();
            let elected = status.leader.is_some() && status.leader != self.status.leader;
            metrics.server_leader_changes_seen_total.add(elected.into());
            self.links.watches.tell(Request::Term(status.term));
            tracing::info!(
                "local-member-id" = %self.id,
                term = status.term,
                leader = %status.leader.unwrap_or_default(),
                role = ?status.role,
                "raft state changed"
            );
        }
        self.status = status;
    }
}
