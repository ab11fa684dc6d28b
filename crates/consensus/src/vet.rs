//! What a message from the network must be before the engine sees it.
//!
//! The engine trusts its peers: a message no correct member sends can end the process (an index beyond
//! the log, an empty proposal, a configuration without voters) or break its state (a term of zero). A
//! peer may be faulty, may have lost its disk, or may be somebody else; so every assumption of the
//! engine about a message is checked here, and one that fails costs that message only.

use proto::raftpb::{self, Message, MessageType};
use raft::{Raft, StateRole};

use crate::conf;
use crate::log::Log;
use crate::wire;

/// Why a message was refused. The state is as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// A type this version does not know, or one that members send only to themselves.
    #[error("message type {0} is not one that members send each other")]
    UnexpectedType(i32),
    /// Addressed to another member: this one took over its address.
    #[error("message is for member {0:x}")]
    WrongMember(u64),
    /// A response of somebody who is not in the configuration.
    #[error("response from {0:x}, which is not a member")]
    UnknownMember(u64),
    /// No correct member sends this.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The sender counts on entries that the log does not have: one of the two has lost its disk.
    #[error("message refers to index {index}, the log ends at {last}")]
    BeyondLog {
        /// The index in the message.
        index: u64,
        /// The last index here.
        last: u64,
    },
    /// A proposal or a call to campaign that cannot be followed now.
    #[error("message dropped: no leader, or busy")]
    Dropped,
}

/// Positions beyond this are nonsense; below it, sums of them cannot overflow.
const POSITION_MAX: u64 = u64::MAX >> 2;

pub(crate) fn vet(message: &Message, raft: &Raft<Log>) -> Result<(), StepError> {
    use MessageType::*;
    let kind =
        MessageType::try_from(message.r#type).map_err(|_| StepError::UnexpectedType(message.r#type))?;
    if message.to != raft.id {
        return Err(StepError::WrongMember(message.to));
    }
    require(message.from != 0 && message.from != raft.id, "no sender")?;
    let positions = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.reject_hint,
    ];
    require(
        positions.iter().all(|position| *position <= POSITION_MAX),
        "position out of range",
    )?;
    // Requests that are passed on to the leader carry no term; everything else belongs to one.
    let for_leader = matches!(kind, MsgProp | MsgReadIndex | MsgTransferLeader);
    require(for_leader || message.term != 0, "no term")?;

    match kind {
        MsgApp => vet_append(message),
        MsgSnap => vet_snapshot(message, raft),
        MsgProp => vet_proposal(message),
        MsgReadIndex | MsgReadIndexResp => require(message.entries.len() == 1, "not one read context"),
        MsgHeartbeat if message.term >= raft.term => within_log(message.commit, raft),
        MsgAppResp if leads_in(message.term, raft) && !message.reject => within_log(message.index, raft),
        MsgAppResp | MsgHeartbeat | MsgVote | MsgVoteResp | MsgPreVote | MsgPreVoteResp
        | MsgHeartbeatResp | MsgTransferLeader | MsgTimeoutNow => Ok(()),
        MsgHup | MsgBeat | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum | MsgStorageAppend
        | MsgStorageAppendResp | MsgStorageApply | MsgStorageApplyResp | MsgForgetLeader => {
            Err(StepError::UnexpectedType(message.r#type))
        }
    }
}

/// Entries follow each other and the position they are anchored at. What contradicts a committed entry
/// is thereby excluded too: the engine compares only what comes after its commit index.
fn vet_append(message: &Message) -> Result<(), StepError> {
    // The engine takes term 0 for "there is no such entry", and so for a match beyond the end.
    require(
        (message.index == 0) == (message.log_term == 0),
        "anchor without a term",
    )?;
    let mut before = (message.index, message.log_term);
    for entry in &message.entries {
        require(wire::entry_type(entry.r#type).is_some(), "unknown entry type")?;
        require(entry.index == before.0 + 1, "entries with a gap")?;
        let terms = before.1.max(1)..=message.term;
        require(terms.contains(&entry.term), "entry terms out of order")?;
        before = (entry.index, entry.term);
    }
    Ok(())
}

fn vet_snapshot(message: &Message, raft: &Raft<Log>) -> Result<(), StepError> {
    let metadata = message
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.metadata.as_ref());
    let Some(metadata) = metadata else {
        return Err(StepError::Malformed("no snapshot"));
    };
    require(
        (1..=POSITION_MAX).contains(&metadata.index),
        "snapshot without an index",
    )?;
    require(
        (1..=message.term).contains(&metadata.term),
        "snapshot term out of range",
    )?;
    let log = &raft.raft_log;
    let contradicts = metadata.index == log.committed && !log.match_term(metadata.index, metadata.term);
    require(!contradicts, "snapshot contradicts a committed entry")?;
    let conf = metadata.conf_state.clone().unwrap_or_default();
    require(conf::is_valid(&conf), "snapshot with an invalid configuration")
}

fn vet_proposal(message: &Message) -> Result<(), StepError> {
    require(!message.entries.is_empty(), "empty proposal")?;
    let is_valid = |entry: &raftpb::Entry| !matches!(conf::change_of(entry), Some(Err(_)));
    require(
        message.entries.iter().all(is_valid),
        "proposal of an invalid configuration change",
    )
}

fn leads_in(term: u64, raft: &Raft<Log>) -> bool {
    raft.state == StateRole::Leader && raft.term == term
}

fn within_log(index: u64, raft: &Raft<Log>) -> Result<(), StepError> {
    let last = raft.raft_log.last_index();
    if index <= last {
        Ok(())
    } else {
        Err(StepError::BeyondLog { index, last })
    }
}

fn require(holds: bool, what: &'static str) -> Result<(), StepError> {
    if holds {
        Ok(())
    } else {
        Err(StepError::Malformed(what))
    }
}
