//! What goes in and what comes out.

use bytes::Bytes;
use consensus::{Append, ConfChange, Role, StepError};
use proto::raftpb::{ConfChangeV2, Entry, Message, Snapshot, SnapshotMetadata};
use types::{ErrorKind, Index, MemberId, Term};

/// Names a caller's question, so that the answer finds it. The caller chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How a linearizable read may proceed: from any view that has applied this index, or not at all.
pub type ReadOutcome = (Ticket, Result<Index, ErrorKind>);

/// Something to be put into the log.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Chosen by the caller; a refusal names it.
    pub id: u64,
    /// What goes into the log.
    pub payload: Payload,
    /// Whether it is let in up to a higher backlog: revocations of leases, which make room.
    pub urgent: bool,
    /// Only while this member leads in this term; otherwise it is refused with `NotPrimary` and never
    /// forwarded to another leader. For what a leader concludes from its own clock: a leader that slept
    /// through an election must not have leases revoked that others have renewed (etcd issue 15247).
    pub only_in: Option<Term>,
}

/// What can be put into the log.
#[derive(Clone, Debug)]
pub enum Payload {
    /// An encoded `InternalRaftRequest`.
    Request(Bytes),
    /// A change of the configuration.
    ConfChange(ConfChange),
}

/// Everything that can happen to a member.
#[derive(Debug)]
pub enum Input {
    /// A heartbeat interval has passed.
    Tick,
    /// From another member.
    Message(Message),
    /// To be put into the log. Refusals come as [`Effects::refused`]; nothing is said about what goes
    /// in: its outcome is known when it is applied.
    Propose(Vec<Proposal>),
    /// A linearizable read wants to know when it may look; answered by [`Effects::reads`].
    ReadIndex {
        /// Names the answer.
        ticket: Ticket,
    },
    /// The append with this number is durable.
    Persisted(u64),
    /// The state machine has applied everything up to `index`.
    Applied {
        /// The last entry applied.
        index: Index,
        /// The configuration changes among them that were accepted, with their indexes.
        conf_changes: Vec<(Index, ConfChangeV2)>,
    },
    /// A snapshot from the leader has replaced the state machine.
    Installed {
        /// Where the state machine is now.
        index: Index,
        /// All members it knows to have been removed.
        removed: Vec<MemberId>,
    },
    /// A snapshot of the state machine is durable: older entries need not be kept.
    SnapshotDone(SnapshotMetadata),
    /// The same, and entries before it are not for every member that may join: whoever needs them gets the
    /// snapshot, however few they are.
    SnapshotCuts(SnapshotMetadata),
    /// Hand the leadership over; answered by [`Effects::transfers`].
    TransferLeader {
        /// Names the answer.
        ticket: Ticket,
        /// The next leader.
        to: MemberId,
    },
    /// A message to this member was lost.
    Unreachable(MemberId),
    /// This member's process is gone: its machine refuses connections. If it led, its place is free.
    Gone(MemberId),
    /// A snapshot has been sent, or not.
    SnapshotSent {
        /// Its receiver.
        to: MemberId,
        /// Whether it arrived.
        arrived: bool,
    },
    /// The server shuts down: who waits is told, nobody is let in any more.
    Stop,
}

/// Everything to do after a round of inputs. The rules of [`consensus::Effects`] hold for the fields
/// of the same name; and one more:
///
/// `status` is published before anything else of the same effects is done, so that nobody reads "lone
/// leader" when another member could already be elected.
#[derive(Debug, Default)]
pub struct Effects {
    /// Where the member is now.
    pub status: Status,
    /// To be written to the log on disk; answered by [`Input::Persisted`].
    pub append: Option<Append>,
    /// To be sent now.
    pub send: Vec<Message>,
    /// To be sent after the state machine's data is added; answered by [`Input::SnapshotSent`].
    pub send_snapshots: Vec<Message>,
    /// To replace the state machine, before what is committed is applied; answered by
    /// [`Input::Installed`].
    pub restore: Option<Snapshot>,
    /// To be applied; answered by [`Input::Applied`].
    pub committed: Vec<Entry>,
    /// Reads that may go on, or have failed.
    pub reads: Vec<ReadOutcome>,
    /// Proposals that did not get into the log, by id.
    pub refused: Vec<(u64, ErrorKind)>,
    /// Outcomes of leadership transfers.
    pub transfers: Vec<(Ticket, Result<(), ErrorKind>)>,
    /// What the keeper of the leases must become.
    pub lessor: Option<Lessor>,
    /// Messages that were refused, with their senders; for the log.
    pub ignored: Vec<(MemberId, StepError)>,
}

/// Leases run out on the leader only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lessor {
    /// This member leads and has applied all that was committed before: it keeps the time of all
    /// leases from now on, giving each an election timeout more, which the election took.
    Promote,
    /// This member has lost the leadership: no lease runs out here.
    Demote,
}

/// Where a member is: small enough to be copied to everybody who wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The present term.
    pub term: Term,
    /// Its leader, if known.
    pub leader: Option<MemberId>,
    /// This member's part.
    pub role: Role,
    /// The last index known to be committed.
    pub committed: Index,
    /// The last index applied.
    pub applied: Index,
    /// This member leads, is the only voter, and has applied all there was before it led: whatever is
    /// acknowledged to anybody is in its state machine. A linearizable read that begins while this
    /// holds need not ask; it may look at the state machine at once.
    pub lone_leader: bool,
    /// When the present leader came to be known, in the driver's time; `None` before the first.
    pub leader_since_ms: Option<u64>,
}

impl Status {
    /// Which error a request gets that went into the log and was not answered in time.
    ///
    /// `connected`: whether the leader, or a quorum if this member leads, was reachable all the time
    /// since the request `started_ms`.
    pub fn timeout(&self, started_ms: u64, election_timeout_ms: u64, connected: bool) -> ErrorKind {
        let lost_with_last_leader = self.leader_since_ms.is_some_and(|since| {
            started_ms < since && since.saturating_sub(2 * election_timeout_ms) < started_ms
        });
        if lost_with_last_leader {
            ErrorKind::TimeoutDueToLeaderFail
        } else if self.leader.is_some() && !connected {
            ErrorKind::TimeoutDueToConnectionLost
        } else {
            ErrorKind::Timeout
        }
    }
}
