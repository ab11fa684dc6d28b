//! raftpb to and from the engine's `eraftpb`.
//!
//! Both descend from the same file, so message, entry and state fields correspond one to one and the
//! type numbers agree. What the engine has beyond that (priorities, `commit_term`, requested
//! snapshots) is never set and never sent: on a Go member's wire those field numbers mean something
//! else or nothing. The exception is an entry's `context`, which does not leave this crate: it holds
//! the bytes of a configuration change, for which `data` has a [stand-in](conf::stand_in).

use std::mem;

use bytes::Bytes;
use proto::raftpb;
use raft::eraftpb::{self, EntryType, MessageType};

use crate::conf;

/// The engine's message types by their common number.
const MESSAGE_TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// The engine's entry types by their common number.
const ENTRY_TYPES: [EntryType; 3] = [
    EntryType::EntryNormal,
    EntryType::EntryConfChange,
    EntryType::EntryConfChangeV2,
];

pub(crate) fn message_type(number: i32) -> Option<MessageType> {
    MESSAGE_TYPES.get(usize::try_from(number).ok()?).copied()
}

pub(crate) fn entry_type(number: i32) -> Option<EntryType> {
    ENTRY_TYPES.get(usize::try_from(number).ok()?).copied()
}

/// Whether an entry changes the configuration, in either encoding.
pub(crate) fn is_conf_change(entry: &eraftpb::Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}

/// `None` when the message or one of its entries is of a type the engine does not know.
pub(crate) fn message_in(message: raftpb::Message) -> Option<eraftpb::Message> {
    let mut out = eraftpb::Message {
        msg_type: message_type(message.r#type)?,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.unwrap_or_default(),
        ..Default::default()
    };
    if let Some(snapshot) = message.snapshot {
        out.set_snapshot(snapshot_in(snapshot));
    }
    let entries: Option<Vec<_>> = message.entries.into_iter().map(entry_in).collect();
    out.set_entries(entries?.into());
    Some(out)
}

pub(crate) fn message_out(mut message: eraftpb::Message) -> raftpb::Message {
    let entries = message.take_entries().into_vec();
    raftpb::Message {
        r#type: message.get_msg_type() as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.into_iter().map(entry_out).collect(),
        commit: message.commit,
        vote: 0,
        snapshot: message
            .has_snapshot()
            .then(|| snapshot_out(message.take_snapshot())),
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: present(message.context),
        responses: Vec::new(),
    }
}

/// `None` when the entry's type is unknown.
pub(crate) fn entry_in(entry: raftpb::Entry) -> Option<eraftpb::Entry> {
    let kind = entry_type(entry.r#type)?;
    let mut out = eraftpb::Entry {
        entry_type: kind,
        term: entry.term,
        index: entry.index,
        data: entry.data.unwrap_or_default(),
        ..Default::default()
    };
    if is_conf_change(&out) {
        out.context = mem::take(&mut out.data);
        out.data = conf::stand_in(kind, &out.context);
    }
    Some(out)
}

pub(crate) fn entry_out(entry: eraftpb::Entry) -> raftpb::Entry {
    let is_conf_change = is_conf_change(&entry);
    raftpb::Entry {
        term: entry.term,
        index: entry.index,
        r#type: entry.get_entry_type() as i32,
        data: present(if is_conf_change { entry.context } else { entry.data }),
    }
}

pub(crate) fn snapshot_in(snapshot: raftpb::Snapshot) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot {
        data: snapshot.data.unwrap_or_default(),
        ..Default::default()
    };
    out.set_metadata(metadata_in(snapshot.metadata.unwrap_or_default()));
    out
}

pub(crate) fn snapshot_out(mut snapshot: eraftpb::Snapshot) -> raftpb::Snapshot {
    let mut metadata = snapshot.take_metadata();
    raftpb::Snapshot {
        data: present(snapshot.data),
        metadata: Some(raftpb::SnapshotMetadata {
            conf_state: Some(conf_state_out(metadata.take_conf_state())),
            index: metadata.index,
            term: metadata.term,
        }),
    }
}

pub(crate) fn metadata_in(metadata: raftpb::SnapshotMetadata) -> eraftpb::SnapshotMetadata {
    let mut out = eraftpb::SnapshotMetadata {
        index: metadata.index,
        term: metadata.term,
        ..Default::default()
    };
    out.set_conf_state(conf_state_in(metadata.conf_state.unwrap_or_default()));
    out
}

pub(crate) fn hard_state_in(state: raftpb::HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
        ..Default::default()
    }
}

pub(crate) fn hard_state_out(state: &eraftpb::HardState) -> raftpb::HardState {
    raftpb::HardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
    }
}

pub(crate) fn conf_state_in(state: raftpb::ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: state.voters,
        learners: state.learners,
        voters_outgoing: state.voters_outgoing,
        learners_next: state.learners_next,
        auto_leave: state.auto_leave,
        ..Default::default()
    }
}

/// The ids come out sorted, as Go members write them; the engine keeps them in hash order.
pub(crate) fn conf_state_out(mut state: eraftpb::ConfState) -> raftpb::ConfState {
    let sorted = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids
    };
    raftpb::ConfState {
        voters: sorted(state.take_voters()),
        learners: sorted(state.take_learners()),
        voters_outgoing: sorted(state.take_voters_outgoing()),
        learners_next: sorted(state.take_learners_next()),
        auto_leave: state.auto_leave,
    }
}

/// Absent and empty bytes mean the same; absent is how Go members write it.
fn present(bytes: Bytes) -> Option<Bytes> {
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_tables_are_in_the_order_of_their_numbers() {
        for (number, kind) in MESSAGE_TYPES.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        for (number, kind) in ENTRY_TYPES.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        assert_eq!(message_type(19), None);
        assert_eq!(message_type(-1), None);
        assert_eq!(
            raftpb::MessageType::MsgPreVoteResp as usize,
            MESSAGE_TYPES.len() - 1
        );
    }

    #[test]
    fn messages_come_back_as_they_went_in_and_share_their_bytes() {
        let data = Bytes::from_static(b"payload");
        let message = raftpb::Message {
            r#type: raftpb::MessageType::MsgSnap as i32,
            to: 1,
            from: 2,
            term: 3,
            log_term: 4,
            index: 5,
            entries: vec![raftpb::Entry {
                term: 6,
                index: 7,
                r#type: 2,
                data: Some(data.clone()),
            }],
            commit: 8,
            vote: 0,
            snapshot: Some(raftpb::Snapshot {
                data: Some(Bytes::from_static(b"members")),
                metadata: Some(raftpb::SnapshotMetadata {
                    conf_state: Some(raftpb::ConfState {
                        voters: vec![1, 2],
                        learners: vec![3],
                        ..Default::default()
                    }),
                    index: 9,
                    term: 10,
                }),
            }),
            reject: true,
            reject_hint: 11,
            context: Some(Bytes::from_static(b"context")),
            responses: Vec::new(),
        };
        let inside = message_in(message.clone()).expect("all types are known");
        assert_eq!(inside.entries[0].data.as_ref(), b"\x12\x00", "a stand-in");
        let out = message_out(inside);
        assert_eq!(out, message);
        let there = out.entries[0].data.as_ref().expect("the entry has data");
        assert_eq!(there.as_ptr(), data.as_ptr());
    }
}
