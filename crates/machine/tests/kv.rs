//! Puts, deletions and transactions: one rule a test.

mod common;

use common::*;
use machine::{Outcome, read};
use mvcc::Wait;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest,
};
use proto::etcdserverpb::{TxnResponse, range_request};
use types::{ErrorKind, LeaseId};

fn compare(key: &str, target: CompareTarget, result: CompareResult, operand: TargetUnion) -> Compare {
    Compare {
        key: bytes(key),
        target: target as i32,
        result: result as i32,
        target_union: Some(operand),
        ..Compare::default()
    }
}

fn version_is(key: &str, version: i64) -> Compare {
    compare(
        key,
        CompareTarget::Version,
        CompareResult::Equal,
        TargetUnion::Version(version),
    )
}

/// Whether a compare holds.
fn holds(replica: &mut Replica, compare: Compare) -> bool {
    replica.txn(when(compare, vec![], vec![])).unwrap().succeeded
}

/// The revisions in the headers of a transaction's answers, the outermost last.
fn header_revisions(answer: &TxnResponse) -> Vec<Option<i64>> {
    let revision = |header: &Option<ResponseHeader>| header.as_ref().map(|header| header.revision);
    let inner = answer
        .responses
        .iter()
        .map(|op| match op.response.as_ref().unwrap() {
            Response::ResponseRange(answer) => revision(&answer.header),
            Response::ResponsePut(answer) => revision(&answer.header),
            Response::ResponseDeleteRange(answer) => revision(&answer.header),
            Response::ResponseTxn(answer) => revision(&answer.header),
        });
    inner.chain([revision(&answer.header)]).collect()
}

#[test]
fn each_request_that_changes_something_is_one_revision_and_others_are_none() {
    let mut replica = Replica::new();
    assert_eq!(replica.head.revision(), 1);
    assert_eq!(replica.put(put("a", "1")).unwrap().header.unwrap().revision, 2);
    assert_eq!(replica.delete(del("x", "")).unwrap().header.unwrap().revision, 2);
    assert_eq!(
        replica
            .txn(all([op(get("a", ""))]))
            .unwrap()
            .header
            .unwrap()
            .revision,
        2
    );
    let three = all([op(put("b", "1")), op(del("a", "")), op(put("c", "1"))]);
    assert_eq!(replica.txn(three).unwrap().header.unwrap().revision, 3);
    assert_eq!(replica.dump(), "b=1 c=1");
}

#[test]
fn headers_inside_a_transaction_follow_the_changes_made_before_them() {
    let mut replica = Replica::new();
    replica.put(put("a", "1")).unwrap();
    let answer = replica.txn(all([
        op(get("a", "")),
        op(del("x", "")),
        op(put("b", "1")),
        op(get("a", "")),
        op(del("x", "")),
        op(all([op(put("c", "1"))])),
    ]));
    let revisions = [Some(2), Some(2), Some(3), Some(3), Some(3), Some(0), Some(3)];
    assert_eq!(header_revisions(&answer.unwrap()), revisions);
}

#[test]
fn a_put_answers_the_previous_pair_when_asked() {
    let mut replica = Replica::new();
    let with_previous = |value| PutRequest {
        prev_kv: true,
        ..put("a", value)
    };
    assert_eq!(replica.put(with_previous("1")).unwrap().prev_kv, None);
    let previous = replica.put(with_previous("2")).unwrap().prev_kv.unwrap();
    assert_eq!(
        (&previous.value[..], previous.version, previous.mod_revision),
        (&b"1"[..], 1, 2)
    );
    assert_eq!(replica.put(put("a", "3")).unwrap().prev_kv, None);
}

#[test]
fn a_deletion_answers_the_previous_pairs_when_asked_and_their_number_always() {
    let mut replica = Replica::new();
    for key in ["b", "a", "c", "d"] {
        replica.put(put(key, key)).unwrap();
    }
    assert_eq!(replica.delete(del("d", "")).unwrap().prev_kvs, []);
    let request = proto::etcdserverpb::DeleteRangeRequest {
        prev_kv: true,
        ..del("a", "c")
    };
    let answer = replica.delete(request).unwrap();
    let keys: Vec<_> = answer.prev_kvs.iter().map(|kv| &kv.key[..]).collect();
    assert_eq!((answer.deleted, keys), (2, vec![&b"a"[..], b"b"]));
    assert_eq!(replica.dump(), "c=c");
}

#[test]
fn a_put_may_keep_the_value_or_the_lease_of_a_key_that_exists() {
    let mut replica = Replica::new();
    replica.grant(7, 60).unwrap();
    let keep_value = |lease| PutRequest {
        ignore_value: true,
        lease,
        ..put("a", "")
    };
    let keep_lease = |value| PutRequest {
        ignore_lease: true,
        ..put("a", value)
    };
    assert_eq!(replica.put(keep_value(0)), Err(ErrorKind::KeyNotFound));
    assert_eq!(replica.put(keep_lease("1")), Err(ErrorKind::KeyNotFound));

    replica.put(put("a", "1")).unwrap();
    replica.put(keep_value(7)).unwrap();
    assert_eq!(
        (replica.dump().as_str(), replica.lease_keys(7).as_str()),
        ("a=1", "a")
    );
    replica.put(keep_lease("2")).unwrap();
    assert_eq!(
        (replica.dump().as_str(), replica.lease_keys(7).as_str()),
        ("a=2", "a")
    );
    replica.put(put("a", "3")).unwrap();
    assert_eq!(replica.lease_keys(7), "", "a put without a lease detaches");
}

#[test]
fn a_lease_must_exist_and_that_is_asked_before_the_key() {
    let mut replica = Replica::new();
    let missing_both = PutRequest {
        ignore_value: true,
        ..put_with_lease("a", 7)
    };
    assert_eq!(replica.put(missing_both.clone()), Err(ErrorKind::LeaseNotFound));
    // In a transaction it is the other way round.
    assert_eq!(replica.txn(all([op(missing_both)])), Err(ErrorKind::KeyNotFound));
    assert_eq!(replica.head.revision(), 1);
}

#[test]
fn keys_move_between_leases_and_leave_them_when_deleted() {
    let mut replica = Replica::new();
    replica.grant(1, 60).unwrap();
    replica.grant(2, 60).unwrap();
    for key in ["a", "b", "c"] {
        replica.put(put_with_lease(key, 1)).unwrap();
    }
    replica.put(put_with_lease("b", 2)).unwrap();
    replica.delete(del("c", "")).unwrap();
    assert_eq!(
        (replica.lease_keys(1).as_str(), replica.lease_keys(2).as_str()),
        ("a", "b")
    );
    replica
        .txn(all([op(del("b", "")), op(put_with_lease("a", 2))]))
        .unwrap();
    assert_eq!(
        (replica.lease_keys(1).as_str(), replica.lease_keys(2).as_str()),
        ("", "a")
    );
}

#[test]
fn an_attached_key_does_not_keep_its_log_entry_in_memory() {
    let mut replica = Replica::new();
    replica.grant(1, 60).unwrap();
    let request = InternalRaftRequest {
        put: Some(put_with_lease("a", 1)),
        ..Default::default()
    };
    let entry = entry(2, &request);
    let data = entry.data.clone().unwrap();
    replica.apply_entry(&entry).unwrap();
    replica.publish();
    drop(entry);
    assert!(data.is_unique(), "the machine still holds a slice of the entry");
}

#[test]
fn ranges_in_a_transaction_see_what_it_did_before_them() {
    let mut replica = Replica::new();
    replica.put(put("a", "1")).unwrap();
    let answer = replica.txn(all([
        op(get("a", "z")),
        op(put("b", "2")),
        op(del("a", "")),
        op(get("a", "z")),
    ]));
    let keys = |range: &proto::etcdserverpb::RangeResponse| {
        range.kvs.iter().map(|kv| kv.key.to_vec()).collect::<Vec<_>>()
    };
    let responses = answer.unwrap().responses.into_iter();
    let ranges = responses.filter_map(|op| match op.response {
        Some(Response::ResponseRange(range)) => Some(keys(&range)),
        _ => None,
    });
    assert_eq!(ranges.collect::<Vec<_>>(), [[b"a"], [b"b"]]);
}

#[test]
fn all_compares_look_at_the_state_before_the_transaction_nested_ones_too() {
    let mut replica = Replica::new();
    let nested = when(
        version_is("a", 0),
        vec![op(put("then", ""))],
        vec![op(put("else", ""))],
    );
    replica.txn(all([op(put("a", "1")), op(nested)])).unwrap();
    assert_eq!(replica.dump(), "a=1 then=");
}

#[test]
fn a_transaction_is_all_or_nothing_whatever_refuses_it() {
    let future = RangeRequest {
        revision: 99,
        ..get("a", "")
    };
    let compacted = RangeRequest {
        revision: 1,
        ..get("a", "")
    };
    let unknown_lease = put_with_lease("b", 99);
    let no_value_to_keep = PutRequest {
        ignore_value: true,
        ..put("b", "")
    };
    for (bad, error) in [
        (op(future), ErrorKind::FutureRev),
        (op(compacted), ErrorKind::Compacted),
        (op(unknown_lease), ErrorKind::LeaseNotFound),
        (op(no_value_to_keep), ErrorKind::KeyNotFound),
    ] {
        let mut replica = Replica::new();
        replica.grant(7, 60).unwrap();
        replica.put(put("z", "1")).unwrap();
        replica.put(put("z", "2")).unwrap();
        replica.compact(2).unwrap();
        for depth in 0..3 {
            let mut request = all([op(put_with_lease("a", 7)), op(del("z", "")), bad.clone()]);
            for _ in 0..depth {
                request = all([op(put("outer", "")), op(request)]);
            }
            assert_eq!(replica.txn(request), Err(error));
            assert_eq!((replica.dump().as_str(), replica.head.revision()), ("z=2", 3));
            assert_eq!(replica.lease_keys(7), "");
        }
    }
}

#[test]
fn what_is_wrong_with_a_put_is_answered_before_what_is_wrong_with_a_range() {
    let mut replica = Replica::new();
    let future = || {
        op(RangeRequest {
            revision: 99,
            ..get("a", "")
        })
    };
    let unknown_lease = || op(put_with_lease("a", 99));
    let no_value_to_keep = op(PutRequest {
        ignore_value: true,
        ..put("b", "")
    });
    for (request, error) in [
        (all([future(), unknown_lease()]), ErrorKind::LeaseNotFound),
        (
            all([future(), op(all([unknown_lease()]))]),
            ErrorKind::LeaseNotFound,
        ),
        (
            all([op(all([future()])), unknown_lease()]),
            ErrorKind::LeaseNotFound,
        ),
        // Among puts it is the first that counts.
        (
            all([future(), op(all([no_value_to_keep])), unknown_lease()]),
            ErrorKind::KeyNotFound,
        ),
        (all([future(), op(put("a", "1"))]), ErrorKind::FutureRev),
    ] {
        assert_eq!(replica.txn(request), Err(error));
    }
    assert_eq!((replica.dump().as_str(), replica.head.revision()), ("", 1));
}

#[test]
fn operations_of_the_branch_not_taken_are_not_asked() {
    let mut replica = Replica::new();
    let request = when(
        version_is("a", 0),
        vec![op(put("a", "1"))],
        vec![op(put_with_lease("a", 99))],
    );
    assert!(replica.txn(request.clone()).unwrap().succeeded);
    assert_eq!(replica.txn(request), Err(ErrorKind::LeaseNotFound));
}

#[test]
fn a_range_revision_in_a_transaction_counts_against_the_state_before_it() {
    let mut replica = Replica::new();
    replica.put(put("a", "1")).unwrap();
    let at = |revision| {
        all([
            op(put("a", "2")),
            op(RangeRequest {
                revision,
                ..get("a", "")
            }),
        ])
    };
    assert_eq!(
        replica.txn(at(3)),
        Err(ErrorKind::FutureRev),
        "even if the transaction itself makes it"
    );
    assert!(
        replica.txn(at(-1)).is_ok(),
        "a store never compacted is compacted to -1"
    );
    assert_eq!(replica.txn(at(-2)), Err(ErrorKind::Compacted));
    replica.compact(2).unwrap();
    assert_eq!(replica.txn(at(-1)), Err(ErrorKind::Compacted));
    assert_eq!(replica.txn(at(1)), Err(ErrorKind::Compacted));
    let answer = replica.txn(at(2)).unwrap();
    let Some(Response::ResponseRange(range)) = &answer.responses[1].response else {
        panic!("{answer:?}")
    };
    assert_eq!(&range.kvs[0].value[..], b"1");
    assert_eq!(header_revisions(&answer), [Some(4); 3]);
}

#[test]
fn a_put_inside_an_endless_deletion_can_keep_nothing_of_what_was_deleted() {
    let mut replica = Replica::new();
    replica.put(put("b", "1")).unwrap();
    let keeping = PutRequest {
        ignore_value: true,
        ..put("b", "")
    };
    let request = all([op(del("a", "\0")), op(keeping.clone())]);
    assert_eq!(machine::check::txn(&request, 128), Ok(()));
    assert_eq!(replica.txn(request), Err(ErrorKind::KeyNotFound));
    assert_eq!(replica.dump(), "b=1");
    replica.txn(all([op(del("c", "\0")), op(keeping)])).unwrap();
    replica.txn(all([op(del("a", "\0")), op(put("b", "2"))])).unwrap();
    assert_eq!(replica.dump(), "b=2");
}

#[test]
fn an_operation_without_content_does_nothing_and_has_an_empty_answer() {
    let mut replica = Replica::new();
    let answer = replica.txn(all([Default::default(), op(put("a", "1"))])).unwrap();
    assert_eq!(answer.responses[0].response, None);
    assert_eq!(replica.dump(), "a=1");
}

#[test]
fn a_missing_key_compares_as_zero_but_no_compare_of_its_value_holds() {
    use CompareResult::*;
    let mut replica = Replica::new();
    for (target, zero, one) in [
        (
            CompareTarget::Version,
            TargetUnion::Version(0),
            TargetUnion::Version(1),
        ),
        (
            CompareTarget::Create,
            TargetUnion::CreateRevision(0),
            TargetUnion::CreateRevision(1),
        ),
        (
            CompareTarget::Mod,
            TargetUnion::ModRevision(0),
            TargetUnion::ModRevision(1),
        ),
        (CompareTarget::Lease, TargetUnion::Lease(0), TargetUnion::Lease(1)),
    ] {
        assert!(holds(&mut replica, compare("a", target, Equal, zero)));
        assert!(holds(&mut replica, compare("a", target, Less, one.clone())));
        assert!(holds(&mut replica, compare("a", target, NotEqual, one)));
    }
    for result in [Equal, Greater, Less, NotEqual] {
        for value in ["", "x"] {
            let operand = TargetUnion::Value(bytes(value));
            assert!(!holds(
                &mut replica,
                compare("a", CompareTarget::Value, result, operand)
            ));
        }
    }
}

#[test]
fn a_compare_of_a_range_must_hold_for_every_key_in_it() {
    let mut replica = Replica::new();
    replica.grant(7, 60).unwrap();
    replica.put(put("a", "1")).unwrap();
    replica
        .put(PutRequest {
            lease: 7,
            ..put("b", "2")
        })
        .unwrap();
    let over = |compare: Compare, range_end: &str| Compare {
        range_end: bytes(range_end),
        ..compare
    };
    let value = |key, value, result| {
        compare(
            key,
            CompareTarget::Value,
            result,
            TargetUnion::Value(bytes(value)),
        )
    };
    assert!(holds(&mut replica, over(version_is("a", 1), "z")));
    assert!(holds(&mut replica, over(version_is("\0", 1), "\0")));
    assert!(holds(
        &mut replica,
        over(value("a", "3", CompareResult::Less), "z")
    ));
    assert!(!holds(
        &mut replica,
        over(value("a", "2", CompareResult::Less), "z")
    ));
    assert!(holds(
        &mut replica,
        over(value("a", "2", CompareResult::Less), "b")
    ));
    let lease = compare(
        "a",
        CompareTarget::Lease,
        CompareResult::Equal,
        TargetUnion::Lease(7),
    );
    assert!(!holds(&mut replica, over(lease.clone(), "z")));
    assert!(holds(
        &mut replica,
        over(
            Compare {
                key: bytes("b"),
                ..lease
            },
            "\0"
        )
    ));
    // An empty range is one missing key.
    assert!(holds(&mut replica, over(version_is("x", 0), "z")));
    assert!(holds(&mut replica, over(version_is("z", 0), "a")));
    assert!(!holds(
        &mut replica,
        over(value("x", "", CompareResult::NotEqual), "z")
    ));
}

#[test]
fn compares_with_strange_numbers_or_operands_have_an_answer() {
    let mut replica = Replica::new();
    replica.put(put("a", "1")).unwrap();
    let of = |target: i32, result: i32, target_union| Compare {
        key: bytes("a"),
        target,
        result,
        target_union,
        ..Default::default()
    };
    assert!(
        holds(&mut replica, of(99, 0, None)),
        "an unknown target compares equal"
    );
    assert!(!holds(&mut replica, of(99, CompareResult::Less as i32, None)));
    assert!(
        holds(&mut replica, of(0, 99, None)),
        "an unknown result always holds"
    );
    assert!(!holds(&mut replica, of(0, 0, None)), "no operand is 0");
    let other_type = Some(TargetUnion::ModRevision(1));
    assert!(
        !holds(&mut replica, of(0, 0, other_type)),
        "so is one of another target"
    );
    assert!(holds(
        &mut replica,
        of(CompareTarget::Value as i32, CompareResult::Greater as i32, None)
    ));
}

#[test]
fn compaction_takes_every_revision_once_and_none_of_the_future() {
    let mut replica = Replica::new();
    assert_eq!(replica.compact(-1), Err(ErrorKind::Compacted));
    replica.compact(0).unwrap();
    assert_eq!(replica.compact(0), Err(ErrorKind::Compacted));
    for value in ["1", "2", "3"] {
        replica.put(put("a", value)).unwrap();
    }
    assert_eq!(replica.compact(5), Err(ErrorKind::FutureRev));
    assert_eq!(replica.compact(3), Ok(machine::Effect::Compaction(3)));
    assert_eq!(replica.compact(2), Err(ErrorKind::Compacted));
    assert_eq!(replica.head.revision(), 4);
}

#[test]
fn reads_outside_the_log_answer_like_the_same_requests_in_it() {
    let mut replica = Replica::new();
    for key in ["a", "b", "c"] {
        replica.put(put(key, key)).unwrap();
    }
    replica.compact(2).unwrap();
    let requests = [
        all([
            op(get("a", "z")),
            op(RangeRequest {
                revision: 2,
                ..get("b", "")
            }),
        ]),
        when(
            version_is("a", 2),
            vec![op(get("a", ""))],
            vec![op(RangeRequest {
                limit: 1,
                ..get("a", "\0")
            })],
        ),
        when(version_is("a", 1), vec![], vec![]),
        all([op(RangeRequest {
            revision: 1,
            ..get("a", "")
        })]),
        all([op(RangeRequest {
            revision: 99,
            ..get("a", "")
        })]),
        all([op(RangeRequest {
            revision: -1,
            ..get("a", "")
        })]),
    ];
    for request in requests {
        assert!(machine::check::is_read_only(&request));
        let outside = read::txn(&replica.mvcc, &request, Wait::No).map_err(|error| error.kind().unwrap());
        let inside = replica.request(InternalRaftRequest {
            txn: Some(request),
            ..Default::default()
        });
        assert_eq!(outside.map(Outcome::Txn), inside);
    }
}

#[test]
fn a_plain_range_reads_the_current_revision_for_any_number_up_to_zero() {
    let mut replica = Replica::new();
    replica.put(put("a", "1")).unwrap();
    replica.put(put("a", "2")).unwrap();
    replica.compact(3).unwrap();
    for revision in [i64::MIN, -1, 0, 3] {
        let request = RangeRequest {
            revision,
            ..get("a", "")
        };
        let answer = read::range(&replica.mvcc, &request, Wait::No).unwrap();
        assert_eq!((answer.count, answer.header.unwrap().revision), (1, 3));
    }
    let request = RangeRequest {
        revision: 2,
        ..get("a", "")
    };
    let error = read::range(&replica.mvcc, &request, Wait::No).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::Compacted));
}

#[test]
fn every_field_of_a_range_request_reaches_the_store() {
    let request = RangeRequest {
        key: bytes("a"),
        range_end: bytes("b"),
        limit: 1,
        revision: 2,
        sort_order: range_request::SortOrder::Descend as i32,
        sort_target: range_request::SortTarget::Value as i32,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 3,
        max_mod_revision: 4,
        min_create_revision: 5,
        max_create_revision: 6,
    };
    let options = mvcc::RangeOptions {
        range: types::KeyRange::Span(bytes("a"), bytes("b")),
        revision: 2,
        limit: 1,
        order: mvcc::SortOrder::Descend,
        target: mvcc::SortTarget::Value,
        keys_only: true,
        count_only: true,
        min_mod: 3,
        max_mod: 4,
        min_create: 5,
        max_create: 6,
        max_bytes: u64::MAX,
    };
    assert_eq!(machine::range_options(&request), options);
}

#[test]
fn sort_orders_and_targets_keep_their_meaning() {
    use mvcc::{SortOrder as Order, SortTarget as Target};
    let options = |sort_order, sort_target| {
        machine::range_options(&RangeRequest {
            sort_order,
            sort_target,
            ..get("a", "")
        })
    };
    for (number, order) in [
        (0, Order::None),
        (1, Order::Ascend),
        (2, Order::Descend),
        (3, Order::None),
    ] {
        assert_eq!(options(number, 0).order, order);
    }
    let targets = [
        Target::Key,
        Target::Version,
        Target::Create,
        Target::Mod,
        Target::Value,
        Target::Key,
    ];
    for (number, target) in (0..).zip(targets) {
        assert_eq!(options(0, number).target, target);
    }
}

#[test]
fn attaching_to_a_lease_that_does_not_exist_is_attaching_to_none() {
    let mut replica = Replica::new();
    replica.grant(7, 60).unwrap();
    machine::attach(&mut replica.lessor, b"a", LeaseId(7));
    assert_eq!(replica.lease_keys(7), "a");
    machine::attach(&mut replica.lessor, b"a", LeaseId(8));
    assert_eq!(replica.lease_keys(7), "");
    replica.lessor.check().unwrap();
}

#[test]
fn a_deeply_nested_transaction_is_carried_out() {
    let mut replica = Replica::new();
    let mut request = TxnRequest::default();
    for depth in 0..40 {
        request = all([op(put(&format!("{depth:02}"), "")), op(request)]);
    }
    replica.txn(request).unwrap();
    assert_eq!(replica.head.revision(), 2);
    assert_eq!(replica.dump().split(' ').count(), 40);
}

#[test]
fn a_transaction_weighs_what_its_heavier_branch_returns() {
    let mut replica = Replica::new();
    let large = "x".repeat(100_000);
    replica.put(put("a1", &large)).unwrap();
    replica.put(put("a2", &large)).unwrap();
    replica.put(put("b", "1")).unwrap();
    let weigh = |request: &TxnRequest| read::weigh_txn(&replica.mvcc, request);
    let old = |key: &str, range_end: &str, prev_kv| {
        op(DeleteRangeRequest {
            prev_kv,
            ..del(key, range_end)
        })
    };
    let (one, both) = (100_000..101_000, 200_000..202_000);
    for (weight, ops) in [
        (0..1, vec![]),
        (0..1, vec![op(put("a1", &large))]),
        (1..1_000, vec![op(get("b", ""))]),
        (one.clone(), vec![op(get("a1", "")), op(get("b", ""))]),
        (both.clone(), vec![op(get("a", "b"))]),
        (both.clone(), vec![op(get("a1", "")), op(get("a2", ""))]),
        (
            0..1,
            vec![op(RangeRequest {
                count_only: true,
                ..get("a", "b")
            })],
        ),
        (
            one.clone(),
            vec![op(RangeRequest {
                limit: 1,
                ..get("a", "b")
            })],
        ),
        (0..1, vec![old("a", "b", false)]),
        (both.clone(), vec![old("a", "b", true)]),
        (both.clone(), vec![op(all([op(get("a", "b"))]))]),
    ] {
        let there = all(ops.clone());
        assert!(weight.contains(&weigh(&there)), "{ops:?}: {}", weigh(&there));
        // Whichever branch it is in, as which one runs is not known.
        for other in [vec![], vec![op(get("b", ""))]] {
            let [then, otherwise] = [
                when(version_is("b", 1), ops.clone(), other.clone()),
                when(version_is("b", 1), other.clone(), ops.clone()),
            ];
            assert_eq!(weigh(&then), weigh(&there).max(weigh(&all(other))));
            assert_eq!(weigh(&otherwise), weigh(&then));
        }
    }
}
