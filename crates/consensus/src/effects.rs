//! What the machine wants done, with the order in it as data.

use proto::raftpb::{Entry, HardState, Message, MessageType, Snapshot};
use types::{Index, MemberId, Term};

/// Everything to do after a round of inputs. Between two `Effects` and inside one, three rules:
///
/// 1. Appends go to the disk in the order of their numbers; [`Append::send_after`] leaves when its
///    append is durable, everything in [`send`](Self::send) leaves at once.
/// 2. [`restore`](Self::restore) replaces the state machine before [`committed`](Self::committed) is
///    applied to it; both are durable already.
/// 3. Nothing else has an order: disk, network and state machine work side by side.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be written to the log on disk.
    pub append: Option<Append>,
    /// To be sent now. What is lost on the way costs time only.
    pub send: Vec<Message>,
    /// To be sent now, after the driver has added the state machine's data to the snapshot (it may
    /// also raise its index to a newer state). Each is answered by a call of
    /// [`report_snapshot`](crate::Consensus::report_snapshot).
    pub send_snapshots: Vec<Message>,
    /// The leader sent a snapshot because the entries that are missing here are gone. To be installed
    /// and then reported by [`applied`](crate::Consensus::applied) with its index.
    pub restore: Option<Snapshot>,
    /// To be applied, in this order, each once. Committed *and* on this member's disk.
    pub committed: Vec<Entry>,
    /// Answers to [`read_index`](crate::Consensus::read_index).
    pub read_states: Vec<ReadState>,
    /// The term, leader or role, if one of them has changed.
    pub leadership: Option<Leadership>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.append.is_none()
            && self.send.is_empty()
            && self.send_snapshots.is_empty()
            && self.restore.is_none()
            && self.committed.is_empty()
            && self.read_states.is_empty()
            && self.leadership.is_none()
    }
}

/// One write to the log on disk, answered by [`persisted`](crate::Consensus::persisted).
///
/// In the order of the fields: a snapshot marks everything before it as unnecessary; entries follow
/// what is there or replace its end from the first one's index on; the hard state comes last.
#[derive(Debug, Default)]
pub struct Append {
    /// Rises from append to append, with gaps.
    pub number: u64,
    /// From the leader; its data was received with the message.
    pub snapshot: Option<Snapshot>,
    /// Consecutive.
    pub entries: Vec<Entry>,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Whether it must survive a crash before it counts as persisted. Without that, the commit index
    /// alone has changed, or nothing has and only the messages wait for their turn.
    pub must_sync: bool,
    /// To be sent when this append, and with it every one before, is durable: acknowledgements and
    /// votes, which promise something.
    pub send_after: Vec<Message>,
}

/// Whether a message promises something that must not be forgotten in a crash: entries, a vote, a
/// candidacy (which is a vote for oneself). Everything else may leave at once, also a follower's
/// heartbeat response: the leader it confirms was elected by a majority that has its term on disk.
pub(crate) fn promises(message: &Message) -> bool {
    use MessageType::*;
    matches!(
        message.r#type(),
        MsgAppResp | MsgVote | MsgVoteResp | MsgPreVote | MsgPreVoteResp
    )
}

/// A read index: a view that has applied this far shows every write that was acknowledged before the
/// question was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// As given with the question.
    pub token: u64,
    /// Where the state machine must be.
    pub index: Index,
}

/// What a member thinks it and the others are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The present term.
    pub term: Term,
    /// The leader of this term, if known.
    pub leader: Option<MemberId>,
    /// This member's part.
    pub role: Role,
}

/// The part a member plays in its term. Learners are followers that may not vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Takes what the leader sends.
    #[default]
    Follower,
    /// Asks whether it would be elected, without disturbing anybody (raft thesis §9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Orders the log.
    Leader,
}
