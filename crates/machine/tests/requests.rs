//! The form of requests, checked before they go anywhere.

mod common;

use common::*;
use machine::check;
use proptest::prelude::*;
use prost::Message;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{Compare, InternalRaftRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use types::ErrorKind;

fn txn(request: &TxnRequest) -> Result<(), ErrorKind> {
    check::txn(request, check::TXN_OPS_MAX)
}

fn compare(key: &str) -> Compare {
    Compare {
        key: bytes(key),
        ..Default::default()
    }
}

fn nothing() -> RequestOp {
    RequestOp::default()
}

#[test]
fn every_request_needs_a_key() {
    assert_eq!(check::range(&get("", "")), Err(ErrorKind::EmptyKey));
    assert_eq!(check::put(&put("", "")), Err(ErrorKind::EmptyKey));
    assert_eq!(check::delete_range(&del("", "\0")), Err(ErrorKind::EmptyKey));
    assert_eq!(txn(&when(compare(""), vec![], vec![])), Err(ErrorKind::EmptyKey));
    for bad in [
        op(get("", "")),
        op(put("", "")),
        op(del("", "")),
        op(all([op(put("", ""))])),
    ] {
        assert_eq!(txn(&all([bad.clone()])), Err(ErrorKind::EmptyKey));
        assert_eq!(
            txn(&when(compare("a"), vec![], vec![bad])),
            Err(ErrorKind::EmptyKey)
        );
    }
}

#[test]
fn a_put_can_not_both_keep_and_replace() {
    let value = PutRequest {
        ignore_value: true,
        ..put("a", "1")
    };
    let lease = PutRequest {
        ignore_lease: true,
        ..put_with_lease("a", 1)
    };
    assert_eq!(check::put(&value), Err(ErrorKind::ValueProvided));
    assert_eq!(check::put(&lease), Err(ErrorKind::LeaseProvided));
    assert_eq!(
        check::put(&PutRequest {
            ignore_lease: true,
            ..value
        }),
        Err(ErrorKind::ValueProvided)
    );
    assert_eq!(
        check::put(&PutRequest {
            ignore_value: true,
            ignore_lease: true,
            ..put("a", "")
        }),
        Ok(())
    );
}

#[test]
fn a_range_is_sorted_only_by_what_there_is() {
    let bad_order = RangeRequest {
        sort_order: 3,
        ..get("a", "")
    };
    let bad_target = RangeRequest {
        sort_target: -1,
        ..get("a", "")
    };
    assert_eq!(check::range(&bad_order), Err(ErrorKind::InvalidSortOption));
    assert_eq!(check::range(&bad_target), Err(ErrorKind::InvalidSortOption));
    assert_eq!(
        check::range(&RangeRequest {
            key: bytes(""),
            ..bad_order
        }),
        Err(ErrorKind::EmptyKey)
    );
}

#[test]
fn a_stream_comes_in_key_order_and_unfiltered() {
    let sorted = |order: SortOrder, target: SortTarget| {
        check::range_stream(&RangeRequest {
            sort_order: order as i32,
            sort_target: target as i32,
            ..get("a", "z")
        })
    };
    assert_eq!(sorted(SortOrder::None, SortTarget::Key), Ok(()));
    assert_eq!(sorted(SortOrder::Ascend, SortTarget::Key), Ok(()));
    assert_eq!(
        sorted(SortOrder::None, SortTarget::Mod),
        Ok(()),
        "without an order the target is not used"
    );
    assert_eq!(
        sorted(SortOrder::Descend, SortTarget::Key),
        Err(ErrorKind::StreamSortUnsupported)
    );
    assert_eq!(
        sorted(SortOrder::Ascend, SortTarget::Mod),
        Err(ErrorKind::StreamSortUnsupported)
    );
    let filtered = RangeRequest {
        max_create_revision: 5,
        ..get("a", "z")
    };
    assert_eq!(
        check::range_stream(&filtered),
        Err(ErrorKind::StreamFilterUnsupported)
    );
    assert_eq!(
        check::range_stream(&RangeRequest {
            sort_order: 9,
            ..filtered
        }),
        Err(ErrorKind::InvalidSortOption)
    );
}

#[test]
fn an_operation_needs_content() {
    assert_eq!(txn(&all([nothing()])), Err(ErrorKind::KeyNotFound));
}

#[test]
fn each_list_of_a_transaction_is_bounded_and_the_bound_is_inclusive() {
    let ops = |n| vec![op(get("a", "")); n];
    let compares = |n| vec![compare("a"); n];
    for n in [128, 129] {
        let expected = if n > 128 {
            Err(ErrorKind::TooManyOps)
        } else {
            Ok(())
        };
        assert_eq!(
            txn(&TxnRequest {
                compare: compares(n),
                ..Default::default()
            }),
            expected
        );
        assert_eq!(
            txn(&TxnRequest {
                success: ops(n),
                ..Default::default()
            }),
            expected
        );
        assert_eq!(
            txn(&TxnRequest {
                failure: ops(n),
                ..Default::default()
            }),
            expected
        );
    }
    let full = TxnRequest {
        compare: compares(128),
        success: ops(128),
        failure: ops(128),
    };
    assert_eq!(txn(&full), Ok(()));
}

#[test]
fn a_nested_transaction_gets_what_its_parents_longest_list_leaves_over() {
    let parent = |compares, child: TxnRequest| TxnRequest {
        compare: vec![compare("a"); compares],
        ..all([op(child)])
    };
    let child = |n| all(vec![op(get("a", "")); n]);
    assert_eq!(txn(&parent(0, child(127))), Ok(()));
    assert_eq!(txn(&parent(0, child(128))), Err(ErrorKind::TooManyOps));
    assert_eq!(txn(&parent(100, child(28))), Ok(()));
    assert_eq!(txn(&parent(100, child(29))), Err(ErrorKind::TooManyOps));
    assert_eq!(
        txn(&parent(100, parent(20, child(9)))),
        Err(ErrorKind::TooManyOps)
    );
    // A child beside others does not share its budget with them.
    let twins = all([op(child(126)), op(child(126))]);
    assert_eq!(txn(&twins), Ok(()));
}

#[test]
fn the_depth_is_bounded_by_the_same_budget() {
    let nest = |depth| (0..depth).fold(TxnRequest::default(), |child, _| all([op(child)]));
    assert_eq!(check::txn(&nest(10), 10), Ok(()));
    assert_eq!(check::txn(&nest(11), 10), Err(ErrorKind::TooManyOps));
}

#[test]
fn counts_are_checked_before_keys_and_keys_before_duplicates() {
    let keyless = vec![op(put("", "")); 129];
    assert_eq!(txn(&all(keyless)), Err(ErrorKind::TooManyOps));
    assert_eq!(
        txn(&all([op(put("a", "")), op(put("a", "")), op(get("", ""))])),
        Err(ErrorKind::EmptyKey)
    );
}

#[test]
fn a_branch_puts_a_key_once_and_not_where_it_deletes() {
    let duplicate = Err(ErrorKind::DuplicateKey);
    assert_eq!(txn(&all([op(put("a", "1")), op(put("a", "2"))])), duplicate);
    assert_eq!(txn(&all([op(put("a", "")), op(del("a", ""))])), duplicate);
    assert_eq!(txn(&all([op(del("a", "c")), op(put("b", ""))])), duplicate);
    assert_eq!(txn(&all([op(put("b", "")), op(del("a", "c"))])), duplicate);
    assert_eq!(txn(&all([op(del("a", "c")), op(put("c", ""))])), Ok(()));
    assert_eq!(
        txn(&all([op(del("a", "c")), op(del("b", "d")), op(del("a", ""))])),
        Ok(())
    );
    assert_eq!(txn(&all([op(get("a", "c")), op(put("b", ""))])), Ok(()));
    assert_eq!(
        txn(&when(
            compare("a"),
            vec![op(put("a", ""))],
            vec![op(put("a", ""))]
        )),
        Ok(())
    );
    assert_eq!(
        txn(&when(
            compare("a"),
            vec![],
            vec![op(put("a", "")), op(put("a", ""))]
        )),
        duplicate
    );
}

#[test]
fn a_nested_transaction_writes_for_its_parents_too() {
    let duplicate = Err(ErrorKind::DuplicateKey);
    let then_else = |then: RequestOp, or_else: RequestOp| op(when(compare("x"), vec![then], vec![or_else]));
    let a = || op(put("a", ""));
    assert_eq!(txn(&all([a(), op(all([a()]))])), duplicate);
    assert_eq!(txn(&all([op(del("a", "c")), op(all([a()]))])), duplicate);
    assert_eq!(txn(&all([a(), op(all([op(del("a", ""))]))])), duplicate);
    assert_eq!(txn(&all([op(all([a()])), op(all([a()]))])), duplicate);
    // One of the two runs: they may put the same key, or one put what the other deletes.
    assert_eq!(txn(&all([then_else(a(), a())])), Ok(()));
    assert_eq!(txn(&all([then_else(a(), op(del("a", "")))])), Ok(()));
    assert_eq!(txn(&all([then_else(a(), a()), a()])), duplicate);
    // Siblings are looked at in order: a later deletion is not held against an earlier put.
    assert_eq!(
        txn(&all([op(all([op(del("a", ""))])), op(all([a()]))])),
        duplicate
    );
    assert_eq!(txn(&all([op(all([a()])), op(all([op(del("a", ""))]))])), Ok(()));
}

#[test]
fn an_endless_or_inverted_deletion_is_never_in_the_way_of_a_put() {
    for (key, end) in [("a", "\0"), ("\0", "\0"), ("c", "a"), ("b", "b")] {
        assert_eq!(
            txn(&all([op(del(key, end)), op(put("b", ""))])),
            Ok(()),
            "{key} {end}"
        );
    }
}

#[test]
fn a_transaction_reads_only_if_both_branches_are_nothing_but_ranges() {
    let range = |serializable| {
        op(RangeRequest {
            serializable,
            ..get("a", "")
        })
    };
    let classes = |request: &TxnRequest| (check::is_read_only(request), check::is_serializable(request));
    assert_eq!(
        classes(&when(compare("a"), vec![range(true)], vec![range(true)])),
        (true, true)
    );
    assert_eq!(
        classes(&when(compare("a"), vec![range(true)], vec![range(false)])),
        (true, false)
    );
    assert_eq!(classes(&when(compare("a"), vec![], vec![])), (true, true));
    assert_eq!(classes(&all([range(true), op(put("a", ""))])), (false, false));
    assert_eq!(
        classes(&all([op(all([range(true)]))])),
        (false, false),
        "a nested one is a write"
    );
    assert_eq!(
        classes(&when(compare("a"), vec![range(true)], vec![op(del("a", ""))])),
        (false, false)
    );
}

#[test]
fn a_transaction_costs_its_dearer_branch_nested_puts_included() {
    let p = |n| op(put("k", &"v".repeat(n)));
    assert_eq!(check::put_cost(&put("key", "value")), 256 + 3 + 5);
    assert_eq!(check::txn_cost(&all([op(del("a", "\0")), op(get("a", ""))])), 0);
    let nested = op(when(compare("x"), vec![p(10)], vec![p(20), p(30)]));
    let request = when(compare("x"), vec![p(0), nested.clone()], vec![p(1)]);
    assert_eq!(check::txn_cost(&request), 257 + (277 + 287));
    assert_eq!(check::txn_cost(&all([op(all([nested]))])), 277 + 287);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// For one flat branch the rule is simple enough to say by looking at every pair.
    #[test]
    fn a_flat_branch_is_refused_exactly_if_a_put_meets_another_put_or_a_deletion(
        puts in prop::collection::vec(0..8u8, 0..3),
        deletes in prop::collection::vec((0..8u8, 0..9u8), 0..4),
    ) {
        let key = |n: &u8| char::from(b'a' + n).to_string();
        // End 8 stands for a single key.
        let end = |n: &u8| if *n == 8 { String::new() } else { key(n) };
        let put_twice = puts.iter().enumerate().any(|(at, put)| puts[..at].contains(put));
        let deleted = |put: &u8| deletes.iter().any(|(start, end)| match end {
            8 => start == put,
            end => (start..end).contains(&put),
        });
        let refused = put_twice || puts.iter().any(deleted);
        let ops = deletes.iter().map(|(start, to)| op(del(&key(start), &end(to))));
        let ops: Vec<_> = ops.chain(puts.iter().map(|n| op(put(&key(n), "")))).collect();
        let expected = if refused { Err(ErrorKind::DuplicateKey) } else { Ok(()) };
        prop_assert_eq!(txn(&all(ops)), expected);
    }
}

#[test]
fn what_is_let_in_can_be_read_back_from_the_log() {
    let nest = |depth| (1..depth).fold(all([op(put("a", ""))]), |child, _| all([op(child)]));
    let deepest = nest(check::TXN_DEPTH_MAX);
    assert_eq!(txn(&deepest), Ok(()));
    let in_log = InternalRaftRequest {
        txn: Some(deepest),
        ..Default::default()
    }
    .encode_to_vec();
    assert!(InternalRaftRequest::decode(&in_log[..]).is_ok());
    assert_eq!(txn(&nest(check::TXN_DEPTH_MAX + 1)), Err(ErrorKind::TooManyOps));
}
