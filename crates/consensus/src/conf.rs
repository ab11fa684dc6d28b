//! The configuration (who votes, who learns) and how a change in the log alters it.
//!
//! A change takes effect when its entry is *applied*, so every member switches at the same place in
//! the log. The log holds it in one of two encodings, `ConfChange` (what etcd proposes) and
//! `ConfChangeV2` (several changes through a joint configuration); [`change_of`] reads both into the
//! latter.
//!
//! The engine numbers the kinds of change differently: its 2 adds a learner, etcd's 2
//! (`UpdateNode`) changes a member's URLs and its 3 adds a learner. Were a number taken for the
//! other's, an update would demote a voter; and a number it does not have, the engine refuses to read.
//! But it reads a change only to see whether it leaves a joint configuration. So it is shown a
//! [stand-in](stand_in) for that, and etcd's own bytes travel beside it, untouched, from the proposal
//! to every member's disk and machine. The kinds are translated where the engine acts on them. An
//! update, which says nothing to raft, becomes a change of member 0, which the engine skips.
//!
//! [`apply`] is the arithmetic of a change as a pure function, after the rules of etcd's
//! `confchange` package (raft thesis §4.3 for the joint form). It lets the state machine store the
//! new configuration in the same batch as the entry without asking the control plane.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{
    self, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, EntryType,
};
use raft::eraftpb;

/// Why a change cannot be applied. Every member comes to the same verdict, and the configuration
/// stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    /// The entry's bytes are not a change.
    #[error("the entry does not hold a configuration change")]
    Undecodable,
    /// The kind of change or of transition is not one of etcd's.
    #[error("unknown kind of configuration change")]
    UnknownKind,
    /// Nobody would be left to vote.
    #[error("the configuration change removes the last voter")]
    NoVoters,
    /// Only leaving is possible from a joint configuration.
    #[error("the configuration is joint already")]
    Joint,
    /// There is no joint configuration to leave, or none can be entered from an empty one.
    #[error("the configuration is not joint")]
    NotJoint,
}

/// A change to propose, in the encoding it shall have in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfChange {
    /// One change of one member; the only form etcd proposes.
    V1(raftpb::ConfChange),
    /// Several changes at once, or an explicit transition.
    V2(ConfChangeV2),
}

impl ConfChange {
    /// The entry that proposes this change.
    pub(crate) fn to_entry(&self) -> raftpb::Entry {
        let (kind, data) = match self {
            ConfChange::V1(change) => (EntryType::EntryConfChange, change.encode_to_vec()),
            ConfChange::V2(change) => (EntryType::EntryConfChangeV2, change.encode_to_vec()),
        };
        raftpb::Entry {
            r#type: kind as i32,
            data: Some(data.into()),
            ..raftpb::Entry::default()
        }
    }
}

/// What the engine gets to read in place of a change: nothing, which in version 1 is a change of
/// nobody and in version 2 leaves a joint configuration; or one change (field 2) of nobody.
pub(crate) fn stand_in(kind: eraftpb::EntryType, data: &Bytes) -> Bytes {
    let leaves = || ConfChangeV2::decode(data.clone()).is_ok_and(|change| change.changes.is_empty());
    if kind == eraftpb::EntryType::EntryConfChange || leaves() {
        Bytes::new()
    } else {
        Bytes::from_static(b"\x12\x00")
    }
}

/// The change an entry holds; `None` for a normal entry.
pub fn change_of(entry: &raftpb::Entry) -> Option<Result<ConfChangeV2, ConfChangeError>> {
    let data = entry.data.clone().unwrap_or_default();
    match EntryType::try_from(entry.r#type) {
        Ok(EntryType::EntryNormal) => None,
        Ok(EntryType::EntryConfChange) => Some(decode_v1(data)),
        Ok(EntryType::EntryConfChangeV2) => Some(decode_v2(data)),
        Err(_) => Some(Err(ConfChangeError::UnknownKind)),
    }
}

fn decode_v1(data: Bytes) -> Result<ConfChangeV2, ConfChangeError> {
    let change = raftpb::ConfChange::decode(data).map_err(|_| ConfChangeError::Undecodable)?;
    let change = ConfChangeV2 {
        transition: ConfChangeTransition::Auto as i32,
        changes: vec![ConfChangeSingle {
            r#type: change.r#type,
            node_id: change.node_id,
        }],
        context: change.context,
    };
    check_kinds(&change).map(|()| change)
}

fn decode_v2(data: Bytes) -> Result<ConfChangeV2, ConfChangeError> {
    let change = ConfChangeV2::decode(data).map_err(|_| ConfChangeError::Undecodable)?;
    check_kinds(&change).map(|()| change)
}

fn check_kinds(change: &ConfChangeV2) -> Result<(), ConfChangeError> {
    let is_known = |single: &ConfChangeSingle| ConfChangeType::try_from(single.r#type).is_ok();
    if change.changes.iter().all(is_known) && ConfChangeTransition::try_from(change.transition).is_ok() {
        Ok(())
    } else {
        Err(ConfChangeError::UnknownKind)
    }
}

/// How a change proceeds.
enum Step {
    /// One change, effective at once.
    Simple,
    /// Into a joint configuration, which raft leaves by itself or not.
    Enter { auto_leave: bool },
    /// Out of the joint configuration.
    Leave,
}

fn step_of(change: &ConfChangeV2) -> Step {
    match (change.transition(), change.changes.len()) {
        (ConfChangeTransition::Auto, 0) => Step::Leave,
        (ConfChangeTransition::Auto, 1) => Step::Simple,
        (ConfChangeTransition::JointExplicit, _) => Step::Enter { auto_leave: false },
        _ => Step::Enter { auto_leave: true },
    }
}

/// The configuration after `change`. Ids come out sorted.
///
/// A change of member 0 is skipped: that is how a change refused by the membership rules goes into
/// the configuration's history.
pub fn apply(conf: &ConfState, change: &ConfChangeV2) -> Result<ConfState, ConfChangeError> {
    check_kinds(change)?;
    let mut sets = Sets::from(conf);
    let joint = !sets.outgoing.is_empty();
    match step_of(change) {
        Step::Leave if !joint => return Err(ConfChangeError::NotJoint),
        Step::Leave => sets.leave(),
        _ if joint => return Err(ConfChangeError::Joint),
        Step::Enter { .. } if sets.voters.is_empty() => return Err(ConfChangeError::NotJoint),
        Step::Enter { auto_leave } => {
            sets.outgoing = sets.voters.clone();
            sets.auto_leave = auto_leave;
            sets.change(&change.changes)?;
        }
        Step::Simple => sets.change(&change.changes)?,
    }
    Ok(sets.into())
}

/// Whether a configuration that came from elsewhere makes sense. The engine ends the process over one
/// that does not.
pub(crate) fn is_valid(conf: &ConfState) -> bool {
    let sets = Sets::from(conf);
    let sizes = [
        (&sets.voters, &conf.voters),
        (&sets.outgoing, &conf.voters_outgoing),
        (&sets.learners, &conf.learners),
        (&sets.learners_next, &conf.learners_next),
    ];
    let joint = !sets.outgoing.is_empty();
    let is_empty = sizes.iter().all(|(set, _)| set.is_empty());
    sizes
        .iter()
        .all(|(set, list)| set.len() == list.len() && !set.contains(&0))
        && (is_empty || !sets.voters.is_empty())
        && sets.learners.is_disjoint(&sets.voters)
        && sets.learners.is_disjoint(&sets.outgoing)
        && sets.learners_next.is_disjoint(&sets.voters)
        && sets.learners_next.is_subset(&sets.outgoing)
        && (joint || !sets.auto_leave)
}

/// A change in the engine's types and numbers.
pub(crate) fn to_engine(change: &ConfChangeV2) -> eraftpb::ConfChangeV2 {
    let mut out = eraftpb::ConfChangeV2::default();
    out.set_transition(match change.transition() {
        ConfChangeTransition::Auto => eraftpb::ConfChangeTransition::Auto,
        ConfChangeTransition::JointImplicit => eraftpb::ConfChangeTransition::Implicit,
        ConfChangeTransition::JointExplicit => eraftpb::ConfChangeTransition::Explicit,
    });
    let single = |change: &ConfChangeSingle| {
        let (kind, node_id) = match change.r#type() {
            ConfChangeType::ConfChangeAddNode => (eraftpb::ConfChangeType::AddNode, change.node_id),
            ConfChangeType::ConfChangeRemoveNode => (eraftpb::ConfChangeType::RemoveNode, change.node_id),
            ConfChangeType::ConfChangeAddLearnerNode => {
                (eraftpb::ConfChangeType::AddLearnerNode, change.node_id)
            }
            ConfChangeType::ConfChangeUpdateNode => (eraftpb::ConfChangeType::AddNode, 0),
        };
        eraftpb::ConfChangeSingle {
            change_type: kind,
            node_id,
            ..Default::default()
        }
    };
    out.set_changes(change.changes.iter().map(single).collect());
    out
}

#[derive(Default)]
struct Sets {
    voters: BTreeSet<u64>,
    outgoing: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    learners_next: BTreeSet<u64>,
    auto_leave: bool,
}

impl Sets {
    fn change(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ConfChangeError> {
        for change in changes.iter().filter(|change| change.node_id != 0) {
            let id = change.node_id;
            match change.r#type() {
                ConfChangeType::ConfChangeAddNode => self.add_voter(id),
                ConfChangeType::ConfChangeAddLearnerNode => self.add_learner(id),
                ConfChangeType::ConfChangeRemoveNode => self.forget(id),
                ConfChangeType::ConfChangeUpdateNode => {}
            }
        }
        if self.voters.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        Ok(())
    }

    fn add_voter(&mut self, id: u64) {
        self.forget(id);
        self.voters.insert(id);
    }

    /// Who still votes in the outgoing half becomes a learner only when that half is left.
    fn add_learner(&mut self, id: u64) {
        self.forget(id);
        if self.outgoing.contains(&id) {
            self.learners_next.insert(id);
        } else {
            self.learners.insert(id);
        }
    }

    fn forget(&mut self, id: u64) {
        self.voters.remove(&id);
        self.learners.remove(&id);
        self.learners_next.remove(&id);
    }

    fn leave(&mut self) {
        self.learners.append(&mut self.learners_next);
        self.outgoing.clear();
        self.auto_leave = false;
    }
}

impl From<&ConfState> for Sets {
    fn from(conf: &ConfState) -> Self {
        let set = |ids: &[u64]| ids.iter().copied().collect();
        Sets {
            voters: set(&conf.voters),
            outgoing: set(&conf.voters_outgoing),
            learners: set(&conf.learners),
            learners_next: set(&conf.learners_next),
            auto_leave: conf.auto_leave,
        }
    }
}

impl From<Sets> for ConfState {
    fn from(sets: Sets) -> Self {
        let list = |ids: BTreeSet<u64>| ids.into_iter().collect();
        ConfState {
            voters: list(sets.voters),
            learners: list(sets.learners),
            voters_outgoing: list(sets.outgoing),
            learners_next: list(sets.learners_next),
            auto_leave: sets.auto_leave,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use raft::{Changer, ProgressTracker};

    /// The engine's own arithmetic, as the oracle.
    struct Oracle(ProgressTracker);

    impl Oracle {
        fn apply(&mut self, change: &ConfChangeV2) -> Option<ConfState> {
            let change = to_engine(change);
            let (conf, changes) = {
                let mut changer = Changer::new(&self.0);
                if change.leave_joint() {
                    changer.leave_joint().ok()?
                } else if let Some(auto_leave) = change.enter_joint() {
                    changer.enter_joint(auto_leave, &change.changes).ok()?
                } else {
                    changer.simple(&change.changes).ok()?
                }
            };
            self.0.apply_conf(conf, changes, 1);
            Some(crate::wire::conf_state_out(self.0.conf().to_conf_state()))
        }
    }

    #[test]
    fn random_changes_give_what_the_engine_gives() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut oracle = Oracle(ProgressTracker::new(1));
            let mut conf = ConfState::default();
            for _ in 0..200 {
                let changes = (0..rng.between(0, 4)).map(|_| ConfChangeSingle {
                    r#type: rng.between(0, 4) as i32,
                    node_id: rng.between(0, 6),
                });
                let changes: Vec<_> = changes.collect();
                let change = ConfChangeV2 {
                    transition: rng.between(0, 3) as i32,
                    changes,
                    context: None,
                };
                let expected = oracle.apply(&change);
                let got = apply(&conf, &change);
                assert_eq!(
                    got.as_ref().ok(),
                    expected.as_ref(),
                    "seed {seed} {conf:?} {change:?}"
                );
                if let Ok(next) = got {
                    assert!(is_valid(&next), "{next:?}");
                    conf = next;
                }
            }
        }
    }

    #[test]
    fn an_update_changes_nothing_for_a_voter_a_learner_or_a_stranger() {
        let conf = ConfState {
            voters: vec![1, 2],
            learners: vec![3],
            ..Default::default()
        };
        for node_id in [1, 3, 9] {
            let change = ConfChangeV2 {
                changes: vec![ConfChangeSingle {
                    r#type: ConfChangeType::ConfChangeUpdateNode as i32,
                    node_id,
                }],
                ..Default::default()
            };
            assert_eq!(apply(&conf, &change), Ok(conf.clone()));
        }
    }

    #[test]
    fn configurations_that_make_no_sense_are_told() {
        let conf = |voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64]| ConfState {
            voters: voters.into(),
            learners: learners.into(),
            voters_outgoing: outgoing.into(),
            learners_next: next.into(),
            auto_leave: false,
        };
        assert!(is_valid(&conf(&[], &[], &[], &[])));
        assert!(is_valid(&conf(&[1, 2], &[3], &[], &[])));
        assert!(is_valid(&conf(&[1, 2], &[3], &[1, 4], &[4])));
        assert!(!is_valid(&conf(&[1, 1], &[], &[], &[])));
        assert!(!is_valid(&conf(&[0], &[], &[], &[])));
        assert!(!is_valid(&conf(&[], &[3], &[], &[])));
        assert!(!is_valid(&conf(&[1, 3], &[3], &[], &[])));
        assert!(!is_valid(&conf(&[1], &[4], &[1, 4], &[])));
        assert!(!is_valid(&conf(&[1], &[], &[1], &[4])));
        assert!(!is_valid(&conf(&[1, 4], &[], &[1, 4], &[4])));
        let left_over = ConfState {
            auto_leave: true,
            ..conf(&[1], &[], &[], &[])
        };
        assert!(!is_valid(&left_over));
    }

    #[test]
    fn bytes_that_are_no_change_are_refused_and_normal_entries_are_none() {
        let entry = |kind: i32, data: &'static [u8]| raftpb::Entry {
            r#type: kind,
            data: Some(Bytes::from_static(data)),
            ..Default::default()
        };
        assert_eq!(change_of(&entry(0, b"anything")), None);
        assert_eq!(
            change_of(&entry(1, b"\xff")),
            Some(Err(ConfChangeError::Undecodable))
        );
        assert_eq!(
            change_of(&entry(1, b"\x10\x07")),
            Some(Err(ConfChangeError::UnknownKind))
        );
        assert_eq!(
            change_of(&entry(2, b"\x08\x07")),
            Some(Err(ConfChangeError::UnknownKind))
        );
        assert_eq!(change_of(&entry(9, b"")), Some(Err(ConfChangeError::UnknownKind)));
        let leave = change_of(&entry(2, b"")).expect("a change").expect("that leaves");
        assert_eq!(leave, ConfChangeV2::default());
    }
}
