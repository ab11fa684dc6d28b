//! Changes of the membership: one rule a test.

mod common;

use bytes::Bytes;
use common::*;
use machine::membership::{cluster_id, member_id};
use machine::{Applied, Effect, Fatal, Member, MemberChange, Outcome};
use mvcc::Table;
use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use proto::raftpb::{self, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use types::{ClusterId, ErrorKind, MemberId};

impl Replica {
    fn change(&mut self, change: &MemberChange) -> Applied {
        let conf_change = change.to_conf_change(42);
        let applied = self
            .apply_entry(&conf_change_entry(1, conf_change.encode_to_vec()))
            .unwrap();
        self.publish();
        assert_eq!(applied.request_id, 42);
        applied
    }

    fn refused(&mut self, change: &MemberChange) -> ErrorKind {
        let before = self.machine.clone();
        let applied = self.change(change);
        assert_eq!(self.machine, before);
        assert_eq!(single(&applied).node_id, 0, "raft is told of nobody");
        applied.outcome.unwrap_err()
    }

    fn accepted(&mut self, change: &MemberChange) {
        let applied = self.change(change);
        assert_eq!(
            applied.outcome,
            Ok(Outcome::Members(self.machine.membership().to_messages()))
        );
        assert_eq!(single(&applied).node_id, change.id().0);
    }

    fn members(&self) -> String {
        let mark = |member: &Member| if member.is_learner { "?" } else { "" };
        let members = self.machine.membership().members();
        members
            .map(|member| format!("{}{}", member.id, mark(member)))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

fn conf_change_entry(kind: i32, data: Vec<u8>) -> raftpb::Entry {
    raftpb::Entry {
        term: 1,
        index: 1,
        r#type: kind,
        data: Some(Bytes::from(data)),
    }
}

fn single(applied: &Applied) -> ConfChangeSingle {
    match &applied.effect {
        Effect::ConfChange(change) => change.changes[0],
        other => panic!("{other:?}"),
    }
}

fn voter(id: u64) -> Member {
    Member {
        id: MemberId(id),
        peer_urls: vec![url(id)],
        ..Member::default()
    }
}

fn learner(id: u64) -> Member {
    Member {
        is_learner: true,
        ..voter(id)
    }
}

fn url(n: u64) -> String {
    format!("http://10.0.0.{n}:2380")
}

fn add(member: Member) -> MemberChange {
    MemberChange::Add(member)
}

fn of(voters: &[u64], learners: &[u64]) -> Replica {
    let mut replica = Replica::new();
    voters.iter().for_each(|id| replica.accepted(&add(voter(*id))));
    learners
        .iter()
        .for_each(|id| replica.accepted(&add(learner(*id))));
    replica
}

fn publish(id: u64, name: &str) -> InternalRaftRequest {
    let attributes = Attributes {
        name: name.into(),
        client_urls: vec!["http://c:2379".into()],
    };
    let request = ClusterMemberAttrSetRequest {
        member_id: id,
        member_attributes: Some(attributes),
    };
    InternalRaftRequest {
        cluster_member_attr_set: Some(request),
        ..Default::default()
    }
}

#[test]
fn ids_of_a_default_cluster_are_those_everyone_knows() {
    let id = member_id(&["http://localhost:2380".into()], "etcd-cluster", None);
    assert_eq!(id, MemberId(0x8e9e05c52164694d));
    assert_eq!(cluster_id([id]), ClusterId(0xcdf818194e3a8c32));
}

#[test]
fn ids_do_not_depend_on_order_and_an_added_members_id_depends_on_the_time() {
    let urls = |a, b| [url(a), url(b)];
    assert_eq!(member_id(&urls(1, 2), "", None), member_id(&urls(2, 1), "", None));
    assert_ne!(
        member_id(&urls(1, 2), "", Some(1)),
        member_id(&urls(1, 2), "", Some(2))
    );
    let [a, b] = [MemberId(1), MemberId(2)];
    assert_eq!(cluster_id([a, b]), cluster_id([b, a]));
}

#[test]
fn an_id_is_added_once_and_never_again_after_its_removal() {
    let mut replica = of(&[1, 2], &[]);
    assert_eq!(replica.refused(&add(voter(2))), ErrorKind::MemberExist);
    replica.accepted(&MemberChange::Remove(MemberId(2)));
    assert_eq!(replica.members(), "1");
    assert!(replica.machine.membership().is_removed(MemberId(2)));
    assert_eq!(
        replica.table(Table::MembersRemoved),
        [(bytes("2"), bytes("removed"))]
    );
    assert_eq!(replica.refused(&add(voter(2))), ErrorKind::MemberNotFound);
    assert_eq!(
        replica.refused(&MemberChange::Remove(MemberId(2))),
        ErrorKind::MemberNotFound
    );
    assert_eq!(
        replica.refused(&MemberChange::Promote(MemberId(2))),
        ErrorKind::MemberNotFound
    );
    assert_eq!(replica.restored().0, replica.machine);
}

#[test]
fn a_peer_url_belongs_to_one_member() {
    let mut replica = of(&[1, 2], &[]);
    let taken = Member {
        peer_urls: vec![url(9), url(1)],
        ..voter(3)
    };
    assert_eq!(replica.refused(&add(taken)), ErrorKind::PeerURLExist);
    let move_to = |urls: Vec<String>| MemberChange::Update {
        id: MemberId(2),
        peer_urls: urls,
    };
    assert_eq!(replica.refused(&move_to(vec![url(1)])), ErrorKind::PeerURLExist);
    replica.accepted(&move_to(vec![url(2), url(9)]));
    assert_eq!(
        replica.machine.membership().get(MemberId(2)).unwrap().peer_urls,
        [url(2), url(9)]
    );
}

#[test]
fn only_so_many_members_may_be_learners() {
    let mut replica = of(&[1], &[2]);
    assert_eq!(replica.refused(&add(learner(3))), ErrorKind::TooManyLearners);
    replica.accepted(&add(voter(3)));
    replica.accepted(&MemberChange::Promote(MemberId(2)));
    replica.accepted(&add(learner(4)));
    assert_eq!(replica.members(), "1 2 3 4?");
}

#[test]
fn only_a_learner_is_promoted() {
    let mut replica = of(&[1], &[2]);
    assert_eq!(
        replica.refused(&MemberChange::Promote(MemberId(1))),
        ErrorKind::MemberNotLearner
    );
    assert_eq!(
        replica.refused(&MemberChange::Promote(MemberId(9))),
        ErrorKind::MemberNotFound
    );
}

#[test]
fn an_update_leaves_a_learner_a_learner_and_its_name_alone() {
    let mut replica = of(&[1], &[2]);
    replica.request(publish(2, "two")).unwrap();
    replica.accepted(&MemberChange::Update {
        id: MemberId(2),
        peer_urls: vec![url(7)],
    });
    let member = replica.machine.membership().get(MemberId(2)).unwrap();
    assert!(member.is_learner && member.name == "two" && member.peer_urls == [url(7)]);
    assert_eq!(
        replica.refused(&MemberChange::Update {
            id: MemberId(9),
            peer_urls: vec![]
        }),
        ErrorKind::MemberNotFound
    );
}

#[test]
fn the_last_voter_stays() {
    let mut replica = of(&[1], &[2]);
    assert_eq!(
        replica.refused(&MemberChange::Remove(MemberId(1))),
        ErrorKind::NotEnoughStarted
    );
    replica.accepted(&MemberChange::Remove(MemberId(2)));
    assert_eq!(
        replica.refused(&MemberChange::Remove(MemberId(1))),
        ErrorKind::NotEnoughStarted
    );
}

#[test]
fn a_member_publishes_itself_and_one_that_left_meanwhile_is_passed_over() {
    let mut replica = of(&[1, 2], &[]);
    assert_eq!(
        replica.propose(publish(1, "one")).effect,
        Effect::Published(MemberId(1))
    );
    assert!(
        replica
            .machine
            .membership()
            .get(MemberId(1))
            .unwrap()
            .is_started()
    );
    let json = br#"{"id":1,"peerURLs":["http://10.0.0.1:2380"],"name":"one","clientURLs":["http://c:2379"]}"#;
    assert_eq!(
        replica.table(Table::Members)[0],
        (bytes("1"), Bytes::from_static(json))
    );
    replica.accepted(&MemberChange::Remove(MemberId(2)));
    for id in [2, 77] {
        assert_eq!(replica.request(publish(id, "x")), Ok(Outcome::Done));
    }
    assert_eq!(replica.members(), "1");
}

#[test]
fn raft_is_told_of_an_accepted_change_with_etcds_type_and_its_context() {
    use ConfChangeType::*;
    let mut replica = of(&[1, 3], &[]);
    for (change, kind) in [
        (add(learner(2)), ConfChangeAddLearnerNode),
        (
            MemberChange::Update {
                id: MemberId(2),
                peer_urls: vec![url(5)],
            },
            ConfChangeUpdateNode,
        ),
        (MemberChange::Promote(MemberId(2)), ConfChangeAddNode),
        (MemberChange::Remove(MemberId(2)), ConfChangeRemoveNode),
    ] {
        let proposed = change.to_conf_change(7);
        let applied = replica.change(&change);
        let Effect::ConfChange(told) = applied.effect else {
            panic!("{:?}", applied.effect)
        };
        assert_eq!((told.transition, &told.context), (0, &proposed.context));
        assert_eq!(
            told.changes,
            [ConfChangeSingle {
                r#type: kind as i32,
                node_id: 2
            }]
        );
    }
}

#[test]
fn changes_of_the_second_form_mean_the_same() {
    let mut replica = of(&[1], &[]);
    let first = add(voter(2)).to_conf_change(0);
    let second = ConfChangeV2 {
        transition: 0,
        changes: vec![ConfChangeSingle {
            r#type: first.r#type,
            node_id: 2,
        }],
        context: first.context,
    };
    replica
        .apply_entry(&conf_change_entry(2, second.encode_to_vec()))
        .unwrap();
    assert_eq!(replica.members(), "1 2");
    // Raft's own: the end of a joint configuration.
    let applied = replica.apply_entry(&conf_change_entry(2, vec![])).unwrap();
    assert_eq!(applied.effect, Effect::ConfChange(ConfChangeV2::default()));
    let two = ConfChangeV2 {
        changes: [second.changes.clone(), second.changes].concat(),
        ..Default::default()
    };
    let error = replica
        .apply_entry(&conf_change_entry(2, two.encode_to_vec()))
        .unwrap_err();
    assert!(matches!(error, Fatal::NotUnderstood { .. }));
}

#[test]
fn a_change_that_contradicts_itself_stops_the_member() {
    let change = add(voter(2)).to_conf_change(0);
    let bad = [
        raftpb::ConfChange {
            node_id: 3,
            ..change.clone()
        },
        raftpb::ConfChange {
            context: None,
            ..change.clone()
        },
        raftpb::ConfChange {
            context: Some(bytes("{")),
            ..change.clone()
        },
        raftpb::ConfChange {
            r#type: 9,
            ..change.clone()
        },
        raftpb::ConfChange {
            node_id: 0,
            context: Some(bytes(r#"{"id":0}"#)),
            ..change
        },
    ];
    for change in bad {
        let mut replica = of(&[1], &[]);
        let error = replica
            .apply_entry(&conf_change_entry(1, change.encode_to_vec()))
            .unwrap_err();
        assert!(matches!(error, Fatal::NotUnderstood { .. }), "{error}");
        assert_eq!(replica.members(), "1");
    }
}

#[test]
fn a_promotion_as_go_writes_it_is_understood() {
    let mut replica = of(&[1], &[2]);
    let change = raftpb::ConfChange {
        id: 1,
        r#type: ConfChangeType::ConfChangeAddNode as i32,
        node_id: 2,
        context: Some(bytes(r#"{"id":2,"peerURLs":null,"isPromote":true}"#)),
    };
    replica
        .apply_entry(&conf_change_entry(1, change.encode_to_vec()))
        .unwrap();
    assert_eq!(replica.members(), "1 2");
    assert_eq!(
        replica.machine.membership().get(MemberId(2)).unwrap().peer_urls,
        [url(2)]
    );
}

#[test]
fn the_members_are_checked_against_the_raft_group() {
    let replica = of(&[1, 2], &[3]);
    let group = |voters: &[u64], learners: &[u64]| ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        ..ConfState::default()
    };
    let check = |group| replica.machine.check(&replica.lessor, &group);
    assert_eq!(check(group(&[2, 1], &[3])), Ok(()));
    for bad in [
        group(&[1, 2, 3], &[]),
        group(&[1, 2], &[]),
        group(&[1], &[3]),
        group(&[1, 2, 4], &[3]),
    ] {
        assert!(check(bad).is_err());
    }
}

/// `voters` of which the first `started` have published themselves, and maybe a learner with id 100.
fn started(voters: u64, started: u64, with_learner: bool) -> Replica {
    let ids: Vec<u64> = (1..=voters).collect();
    let mut replica = of(&ids, if with_learner { &[100] } else { &[] });
    for id in 1..=started {
        replica.request(publish(id, "started")).unwrap();
    }
    replica
}

#[test]
fn a_voter_is_added_only_where_the_started_ones_make_the_new_quorum() {
    let may = |voters, names| {
        started(voters, names, false)
            .machine
            .membership()
            .may_add_voter()
            .is_ok()
    };
    assert!(may(1, 1), "one may always become two");
    assert!(!may(1, 0));
    assert!(may(2, 2) && !may(2, 1));
    assert!(may(3, 3) && !may(3, 2));
    assert!(may(4, 3) && !may(4, 2));
}

#[test]
fn a_voter_is_removed_only_where_the_started_rest_is_a_quorum_and_a_learner_always() {
    let may = |voters, names, id| {
        let replica = started(voters, names, true);
        replica.machine.membership().may_remove(MemberId(id))
    };
    assert_eq!(may(1, 1, 1), Err(ErrorKind::NotEnoughStarted));
    assert_eq!(may(2, 1, 1), Err(ErrorKind::NotEnoughStarted));
    assert_eq!(may(2, 1, 2), Ok(()));
    assert_eq!(may(3, 2, 3), Ok(()));
    assert_eq!(may(3, 2, 1), Err(ErrorKind::NotEnoughStarted));
    assert_eq!(may(1, 0, 100), Ok(()));
}

#[test]
fn a_learner_is_promoted_only_where_it_and_the_started_voters_make_the_new_quorum() {
    let may = |voters, names| {
        started(voters, names, true)
            .machine
            .membership()
            .may_promote()
            .is_ok()
    };
    assert!(may(1, 1) && !may(1, 0));
    assert!(may(2, 1) && !may(2, 0));
    assert!(may(3, 2) && !may(3, 1));
}
