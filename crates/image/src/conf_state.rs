//! The conf state as Go keeps it in bucket `meta`: JSON.

use proto::raftpb::ConfState;
use serde::Serialize;

/// A conf state as Go writes it.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    voters: &'a [u64],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    learners: &'a [u64],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    voters_outgoing: &'a [u64],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    learners_next: &'a [u64],
    auto_leave: bool,
}

/// Writes one.
pub(crate) fn encode(state: &ConfState) -> Vec<u8> {
    let json = Json {
        voters: &state.voters,
        learners: &state.learners,
        voters_outgoing: &state.voters_outgoing,
        learners_next: &state.learners_next,
        auto_leave: state.auto_leave,
    };
    serde_json::to_vec(&json).expect("numbers and booleans are always JSON")
}
