//! Words in which recipes speak to the cluster.

use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp};

/// The end of the range of all keys that begin with `prefix`: the first key behind them, or `\0`, which means all that follow.
///
/// ```
/// assert_eq!(client::prefix_end(b"app/"), "app0");
/// assert_eq!(client::prefix_end(b"\xff"), "\0");
/// ```
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte != 0xff) {
        None => Bytes::from_static(b"\0"),
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
    }
}

/// `name/` and behind it the lease in hexadecimal digits: whose turn it is, is who has been there the longest.
pub fn place_in_line(prefix: &Bytes, lease: i64) -> Bytes {
    [&prefix[..], format!("{lease:x}").as_bytes()].concat().into()
}

/// The prefix of all places in the line of that name.
pub fn line(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

pub fn get(key: Bytes) -> RangeRequest {
    RangeRequest {
        key,
        ..RangeRequest::default()
    }
}

/// The key of the prefix that has been there the longest.
pub fn first_created(prefix: &Bytes) -> RangeRequest {
    one_by_age(prefix, SortOrder::Ascend)
}

/// The key of the prefix that has been there the shortest of those older than `revision`.
pub fn last_created_before(prefix: &Bytes, revision: i64) -> RangeRequest {
    RangeRequest {
        max_create_revision: revision - 1,
        ..one_by_age(prefix, SortOrder::Descend)
    }
}

fn one_by_age(prefix: &Bytes, order: SortOrder) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

pub fn put(key: Bytes, value: Bytes, lease: i64) -> PutRequest {
    PutRequest {
        key,
        value,
        lease,
        ..PutRequest::default()
    }
}

/// Whether a key is the one that was created at that revision; 0 for one that is not there.
pub fn is_created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        key,
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

/// How the last change of a key compares to a revision.
pub fn is_changed(key: Bytes, result: CompareResult, revision: i64) -> Compare {
    Compare {
        key,
        result: result.into(),
        target: CompareTarget::Mod.into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Compare::default()
    }
}

pub fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}
