//! The conf state as Go keeps it in bucket `meta`: JSON.

use proto::raftpb::ConfState;
use serde::{Deserialize, Serialize};

/// A conf state as Go writes it. Lists may be missing or `null`.
#[derive(Serialize, Deserialize)]
struct Json {
    #[serde(default, skip_serializing_if = "is_empty")]
    voters: Option<Vec<u64>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    learners: Option<Vec<u64>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    voters_outgoing: Option<Vec<u64>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    learners_next: Option<Vec<u64>>,
    #[serde(default)]
    auto_leave: Option<bool>,
}

fn is_empty(list: &Option<Vec<u64>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

/// Writes one.
pub(crate) fn encode(state: &ConfState) -> Vec<u8> {
    let json = Json {
        voters: Some(state.voters.clone()),
        learners: Some(state.learners.clone()),
        voters_outgoing: Some(state.voters_outgoing.clone()),
        learners_next: Some(state.learners_next.clone()),
        auto_leave: Some(state.auto_leave),
    };
    serde_json::to_vec(&json).expect("numbers and booleans are always JSON")
}

/// Reads one.
pub(crate) fn decode(json: &[u8]) -> Option<ConfState> {
    let json: Json = serde_json::from_slice(json).ok()?;
    Some(ConfState {
        voters: json.voters.unwrap_or_default(),
        learners: json.learners.unwrap_or_default(),
        voters_outgoing: json.voters_outgoing.unwrap_or_default(),
        learners_next: json.learners_next.unwrap_or_default(),
        auto_leave: json.auto_leave.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conf_state_reads_back_as_written_and_as_go_writes_it() {
        let state = ConfState {
            voters: vec![1, u64::MAX],
            learners: vec![3],
            ..ConfState::default()
        };
        assert_eq!(
            encode(&state),
            br#"{"voters":[1,18446744073709551615],"learners":[3],"auto_leave":false}"#
        );
        assert_eq!(decode(&encode(&state)), Some(state));
        let one = ConfState {
            voters: vec![1],
            ..ConfState::default()
        };
        assert_eq!(decode(br#"{"voters":[1],"learners":null}"#), Some(one));
        assert_eq!(decode(b"{"), None);
    }
}
