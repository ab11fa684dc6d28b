//! Leases, alarms, versions and the entries of raft itself: one rule a test.

mod common;

use bytes::Bytes;
use common::*;
use machine::{Effect, Fatal, Machine, Outcome, Version};
use mvcc::Table;
use prost::Message;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DowngradeVersionTestRequest, InternalRaftRequest, LeaseCheckpoint,
    LeaseCheckpointRequest, RequestHeader,
};
use proto::membershippb::{ClusterVersionSetRequest, DowngradeInfoSetRequest};
use proto::{leasepb, raftpb};
use types::{ErrorKind, LeaseId};

fn alarm(action: AlarmAction, member_id: u64, alarm: AlarmType) -> InternalRaftRequest {
    let alarm = Some(AlarmRequest {
        action: action as i32,
        member_id,
        alarm: alarm as i32,
    });
    InternalRaftRequest {
        alarm,
        ..Default::default()
    }
}

fn row(member_id: u64, alarm: AlarmType) -> AlarmMember {
    AlarmMember {
        member_id,
        alarm: alarm as i32,
    }
}

fn cluster_version(ver: &str) -> InternalRaftRequest {
    let cluster_version_set = Some(ClusterVersionSetRequest { ver: ver.into() });
    InternalRaftRequest {
        cluster_version_set,
        ..Default::default()
    }
}

fn downgrade(enabled: bool, ver: &str) -> InternalRaftRequest {
    let downgrade_info_set = Some(DowngradeInfoSetRequest {
        enabled,
        ver: ver.into(),
    });
    InternalRaftRequest {
        downgrade_info_set,
        ..Default::default()
    }
}

#[test]
fn a_granted_lease_is_a_row_under_its_id_in_eight_bytes() {
    let mut replica = Replica::new();
    assert_eq!(replica.grant(-1, 60), Ok(60));
    assert_eq!(replica.grant(1, 1), Ok(2), "raised to the minimum");
    let row = |id, ttl| {
        leasepb::Lease {
            id,
            ttl,
            remaining_ttl: 0,
        }
        .encode_to_vec()
        .into()
    };
    let rows = [
        (Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 1]), row(1, 2)),
        (Bytes::from_static(&[0xff; 8]), row(-1, 60)),
    ];
    assert_eq!(replica.table(Table::Lease), rows);
    assert_eq!(replica.grant(1, 60), Err(ErrorKind::LeaseExist));
    assert_eq!(replica.grant(0, 60), Err(ErrorKind::LeaseNotFound));
    assert_eq!(replica.grant(2, i64::MAX), Err(ErrorKind::LeaseTTLTooLarge));
    assert_eq!(replica.table(Table::Lease), rows);
}

#[test]
fn a_revoke_deletes_the_keys_in_order_and_in_one_revision() {
    let mut replica = Replica::new();
    replica.grant(7, 60).unwrap();
    for key in ["c", "a", "b"] {
        replica.put(put_with_lease(key, 7)).unwrap();
    }
    replica.put(put("d", "")).unwrap();
    assert_eq!(replica.revoke(7), Ok(Outcome::Done));
    let deleted = replica.history().into_iter().filter(|change| change.tombstone);
    let deleted: Vec<_> = deleted
        .map(|change| (change.rev.main, change.rev.sub, change.kv))
        .collect();
    let tombstone = |sub, key| (6, sub, Bytes::from(format!("\n\u{1}{key}")));
    assert_eq!(deleted, [tombstone(0, "a"), tombstone(1, "b"), tombstone(2, "c")]);
    assert_eq!(
        (replica.dump().as_str(), replica.table(Table::Lease)),
        ("d=", vec![])
    );
    assert_eq!(replica.revoke(7), Err(ErrorKind::LeaseNotFound));
}

#[test]
fn a_revoke_of_a_lease_without_keys_is_no_revision() {
    let mut replica = Replica::new();
    replica.grant(7, 60).unwrap();
    replica.revoke(7).unwrap();
    assert_eq!(replica.head.revision(), 1);
}

#[test]
fn a_checkpoint_is_kept_in_the_row_and_one_of_an_unknown_lease_is_passed_over() {
    let mut replica = Replica::new();
    replica.grant(7, 600).unwrap();
    let checkpoint = |id, remaining_ttl| LeaseCheckpoint { id, remaining_ttl };
    let checkpoints = vec![checkpoint(8, 100), checkpoint(7, 200)];
    let lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
    replica
        .request(InternalRaftRequest {
            lease_checkpoint,
            ..Default::default()
        })
        .unwrap();
    let (_, lessor) = replica.restored();
    assert_eq!(lessor.get(LeaseId(7)).unwrap().remaining_secs, 200);
    assert_eq!(lessor.len(), 1);
}

#[test]
fn the_time_moves_deadlines_and_no_replicated_fact() {
    let (mut early, mut late) = (Replica::new(), Replica::new());
    late.now_ms = 1_000_000;
    late.lessor.promote(late.now_ms, 1000);
    for replica in [&mut early, &mut late] {
        replica.grant(7, 60).unwrap();
        replica.put(put_with_lease("a", 7)).unwrap();
    }
    assert_eq!(early.tables, late.tables);
    assert_eq!(
        Replica::lease_facts(&early.lessor),
        Replica::lease_facts(&late.lessor)
    );
    assert_eq!(late.lessor.next_due_ms(), Some(1_060_000));
}

#[test]
fn alarms_are_exact_pairs_of_member_and_type() {
    use AlarmType::{Corrupt, None, Nospace};
    let mut replica = Replica::new();
    let mut ask = |action, member, kind| replica.propose(alarm(action, member, kind));
    let answer = |rows: &[AlarmMember]| Ok(Outcome::Alarm(rows.to_vec()));

    let set = ask(AlarmAction::Activate, 5, Nospace);
    assert_eq!(
        (set.outcome, set.effect),
        (answer(&[row(5, Nospace)]), Effect::Alarms)
    );
    let again = ask(AlarmAction::Activate, 5, Nospace);
    assert_eq!(
        (again.outcome, again.effect),
        (answer(&[row(5, Nospace)]), Effect::None)
    );
    ask(AlarmAction::Activate, 0, Corrupt);
    assert_eq!(ask(AlarmAction::Activate, 5, None).outcome, answer(&[]));

    let both = [row(5, Nospace), row(0, Corrupt)];
    assert_eq!(
        ask(AlarmAction::Get, 77, None).outcome,
        answer(&both),
        "the member does not matter"
    );
    assert_eq!(ask(AlarmAction::Get, 0, Corrupt).outcome, answer(&both[1..]));

    assert_eq!(
        ask(AlarmAction::Deactivate, 0, Nospace).outcome,
        answer(&[]),
        "0 does not mean all"
    );
    assert_eq!(ask(AlarmAction::Deactivate, 5, None).outcome, answer(&[]));
    let cleared = ask(AlarmAction::Deactivate, 5, Nospace);
    assert_eq!(
        (cleared.outcome, cleared.effect),
        (answer(&both[..1]), Effect::Alarms)
    );
    let rows = [(Bytes::from_static(&[0x10, 2]), Bytes::new())];
    assert_eq!(replica.table(Table::Alarm), rows);
}

#[test]
fn an_unknown_alarm_action_is_answered_with_nothing() {
    let mut replica = Replica::new();
    let request = AlarmRequest {
        action: 9,
        member_id: 5,
        alarm: 1,
    };
    let request = InternalRaftRequest {
        alarm: Some(request),
        ..Default::default()
    };
    assert_eq!(replica.request(request), Ok(Outcome::Alarm(vec![])));
}

#[test]
fn while_a_member_is_full_what_needs_space_is_refused_and_the_rest_is_not() {
    let mut replica = Replica::new();
    replica.grant(7, 60).unwrap();
    replica.put(put_with_lease("a", 7)).unwrap();
    replica.put(put("b", "")).unwrap();
    replica
        .request(alarm(AlarmAction::Activate, 5, AlarmType::Nospace))
        .unwrap();

    assert_eq!(replica.put(put("c", "")), Err(ErrorKind::NoSpace));
    assert_eq!(replica.grant(8, 60), Err(ErrorKind::NoSpace));
    assert_eq!(
        replica.grant(8, i64::MAX),
        Err(ErrorKind::NoSpace),
        "asked before the TTL"
    );
    assert_eq!(replica.txn(all([op(put("c", ""))])), Err(ErrorKind::NoSpace));
    let nested = all([op(all([op(all([op(put("c", ""))]))]))]);
    assert_eq!(replica.txn(nested), Err(ErrorKind::NoSpace));
    // The dearer branch counts, even if it is not the one that would run.
    let other = when(Default::default(), vec![], vec![op(put("c", ""))]);
    assert_eq!(replica.txn(other), Err(ErrorKind::NoSpace));

    assert!(replica.txn(all([op(del("b", "")), op(get("a", ""))])).is_ok());
    assert_eq!(replica.delete(del("x", "")).unwrap().deleted, 0);
    replica.compact(2).unwrap();
    replica.revoke(7).unwrap();
    assert_eq!(replica.dump(), "");

    replica
        .request(alarm(AlarmAction::Deactivate, 5, AlarmType::Nospace))
        .unwrap();
    assert!(replica.put(put("c", "")).is_ok());
}

#[test]
fn while_a_member_is_corrupt_nothing_touches_the_data_and_that_wins_over_being_full() {
    let mut replica = Replica::new();
    replica.grant(7, 60).unwrap();
    replica
        .request(alarm(AlarmAction::Activate, 5, AlarmType::Nospace))
        .unwrap();
    replica
        .request(alarm(AlarmAction::Activate, 6, AlarmType::Corrupt))
        .unwrap();
    assert_eq!(replica.put(put("c", "")), Err(ErrorKind::Corrupt));
    assert_eq!(replica.delete(del("c", "")), Err(ErrorKind::Corrupt));
    assert_eq!(replica.txn(all([op(get("c", ""))])), Err(ErrorKind::Corrupt));
    assert_eq!(replica.compact(1), Err(ErrorKind::Corrupt));
    assert_eq!(replica.grant(8, 60), Err(ErrorKind::Corrupt));
    assert_eq!(replica.revoke(7), Err(ErrorKind::Corrupt));
    let checkpoints = vec![LeaseCheckpoint {
        id: 7,
        remaining_ttl: 30,
    }];
    let lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
    let request = InternalRaftRequest {
        lease_checkpoint,
        ..Default::default()
    };
    assert_eq!(replica.request(request), Ok(Outcome::Done));

    // Clearing the one leaves the other in force.
    replica
        .request(alarm(AlarmAction::Deactivate, 6, AlarmType::Corrupt))
        .unwrap();
    assert_eq!(replica.put(put("c", "")), Err(ErrorKind::NoSpace));
}

#[test]
fn the_storage_version_follows_the_cluster_version_from_3_6_on() {
    let mut replica = Replica::new();
    let meta = |replica: &Replica| replica.table(Table::Meta);
    assert_eq!(
        replica.propose(cluster_version("3.5.0")).effect,
        Effect::ClusterVersion
    );
    assert_eq!(meta(&replica), []);
    let stored = |version: &'static str| [(bytes("storageVersion"), bytes(version))];
    for version in ["3.6.0", "3.7.0"] {
        replica.request(cluster_version(version)).unwrap();
        assert_eq!(meta(&replica), stored(version));
        assert_eq!(
            replica.table(Table::Cluster),
            [(bytes("clusterVersion"), bytes(version))]
        );
    }
    replica.request(downgrade(true, "3.6.0")).unwrap();
    replica.request(cluster_version("3.6.0")).unwrap();
    assert_eq!(meta(&replica), stored("3.6.0"));
    replica.request(cluster_version("3.5.0")).unwrap();
    assert_eq!(meta(&replica), []);
    assert_eq!(replica.machine.cluster().version(), Version::parse("3.5.0"));
    assert_eq!(replica.machine.cluster().storage(), Version::parse("3.5.0"));
}

#[test]
fn a_downgrade_is_remembered_until_it_is_called_off() {
    let mut replica = Replica::new();
    assert_eq!(
        replica.propose(downgrade(true, "3.6.0")).effect,
        Effect::Downgrade
    );
    assert_eq!(replica.restored().0.cluster().downgrade().target_version, "3.6.0");
    assert!(replica.machine.cluster().downgrade().enabled);
    replica.request(downgrade(false, "3.6.0")).unwrap();
    let stored = bytes(r#"{"target-version":"","enabled":false}"#);
    assert_eq!(replica.table(Table::Cluster), [(bytes("downgrade"), stored)]);
}

#[test]
fn the_first_entry_of_a_term_says_so_and_changes_nothing() {
    let mut replica = Replica::new();
    for data in [None, Some(Bytes::new())] {
        let applied = replica
            .apply_entry(&raftpb::Entry {
                term: 2,
                index: 1,
                r#type: 0,
                data,
            })
            .unwrap();
        assert_eq!((applied.request_id, applied.effect), (0, Effect::FirstOfTerm));
        assert!(replica.head.pending_len() == 0);
    }
}

#[test]
fn an_answer_finds_its_proposer_by_the_id_in_the_request_or_in_its_header() {
    let mut replica = Replica::new();
    let header = Some(RequestHeader {
        id: 8,
        ..Default::default()
    });
    let request = InternalRaftRequest {
        id: 9,
        put: Some(put("a", "")),
        ..Default::default()
    };
    assert_eq!(replica.propose(request.clone()).request_id, 9);
    assert_eq!(
        replica
            .propose(InternalRaftRequest {
                id: 0,
                header,
                ..request
            })
            .request_id,
        8
    );
}

#[test]
fn a_refused_request_keeps_its_id_and_changes_nothing() {
    let mut replica = Replica::new();
    let request = InternalRaftRequest {
        id: 9,
        put: Some(put_with_lease("a", 7)),
        ..Default::default()
    };
    let applied = replica.apply_entry(&entry(1, &request)).unwrap();
    assert_eq!(
        (applied.request_id, applied.outcome),
        (9, Err(ErrorKind::LeaseNotFound))
    );
    assert!(replica.head.pending_len() == 0);
}

#[test]
fn what_is_only_a_test_or_a_read_changes_nothing() {
    let mut replica = Replica::new();
    let test = Some(DowngradeVersionTestRequest::default());
    let request = InternalRaftRequest {
        downgrade_version_test: test,
        ..Default::default()
    };
    assert_eq!(replica.request(request), Ok(Outcome::Done));
    let request = InternalRaftRequest {
        range: Some(get("a", "")),
        ..Default::default()
    };
    assert_eq!(replica.request(request), Ok(Outcome::Done));
}

#[test]
fn an_entry_that_is_not_understood_stops_the_member_and_names_the_entry() {
    let mut replica = Replica::new();
    let bad_version = cluster_version("seven");
    let garbage = normal(1, Bytes::from_static(b"\xff\xff"));
    let bad_type = raftpb::Entry {
        r#type: 7,
        ..garbage.clone()
    };
    for entry in [entry(1, &bad_version), garbage, bad_type] {
        let error = replica.apply_entry(&entry).unwrap_err();
        assert!(matches!(error, Fatal::NotUnderstood { index: 1, .. }));
        assert!(
            error.to_string().starts_with("log entry 1 can not be applied: "),
            "{error}"
        );
        assert!(replica.head.pending_len() == 0);
    }
}

#[test]
fn a_damaged_table_is_refused_and_the_message_names_the_row() {
    let restore = |table, key: &'static [u8], value: &'static [u8]| {
        let rows = [(table, Bytes::from_static(key), Bytes::from_static(value))];
        let machine = Machine::restore(CONFIG, &mut lease::Lessor::new(LESSOR), rows);
        machine.map(drop).map_err(|error| error.to_string())
    };
    let refused = |table, key, value| restore(table, key, value).unwrap_err();
    assert!(refused(Table::Lease, b"12345678", b"\x08\x01").contains("lease, row 12345678: "));
    assert!(refused(Table::Lease, b"12345678", b"\xff").contains("lease, row 12345678: "));
    assert!(refused(Table::Alarm, b"\xff", b"").contains("alarm, row \\xff: "));
    assert!(refused(Table::Members, b"1f", br#"{"id":30}"#).contains("describes another member"));
    assert!(refused(Table::Members, b"xyz", b"{}").contains("members, row xyz: "));
    assert!(refused(Table::Members, b"1f", b"{").contains("members, row 1f: "));
    assert!(refused(Table::MembersRemoved, b"", b"").contains("members_removed"));
    assert!(refused(Table::Cluster, b"clusterVersion", b"x").contains("not a version"));
    assert!(refused(Table::Cluster, b"downgrade", b"x").contains("cluster, row downgrade"));
    assert!(refused(Table::Meta, b"storageVersion", b"\xff").contains("not a version"));
    assert!(refused(Table::Auth, b"authRevision", &[1]).contains("auth, row authRevision: "));
    assert!(refused(Table::AuthUsers, b"u", b"\xff").contains("authUsers, row u: "));
    assert!(refused(Table::AuthRoles, b"r", b"\xff").contains("authRoles, row r: "));
    assert_eq!(restore(Table::Meta, b"scheduledCompactRev", b"any"), Ok(()));
}
