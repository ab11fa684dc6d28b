//! What a request must look like, asked at the edge before it goes anywhere.
//!
//! Pure functions of the request. A request that passes here may still be refused by apply, which
//! knows the state; one that fails here never reaches the log. The order of the checks is etcd's, since
//! clients see the first failure.

use std::collections::{BTreeMap, BTreeSet};

use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use types::ErrorKind;

/// How many operations a transaction may have by default: `--max-txn-ops`.
pub const TXN_OPS_MAX: usize = 128;

/// How deep transactions may be nested. Their encoding nests twice as deep, once more in the log, and a
/// decoder of protobuf gives up at a hundred levels: what the edge lets in, apply must be able to read.
pub const TXN_DEPTH_MAX: usize = 48;

/// What a put costs beside its key and value, in bytes, when it is weighed against the quota.
pub const PUT_OVERHEAD_BYTES: u64 = 256;

/// What a lease costs, in bytes.
pub const LEASE_COST_BYTES: u64 = 64;

type Check = Result<(), ErrorKind>;

/// A range: it has a key, and order and target are ones we know.
pub fn range(request: &RangeRequest) -> Check {
    refuse_if(request.key.is_empty(), ErrorKind::EmptyKey)?;
    let known =
        SortOrder::try_from(request.sort_order).is_ok() && SortTarget::try_from(request.sort_target).is_ok();
    refuse_if(!known, ErrorKind::InvalidSortOption)
}

/// A range that is answered in pieces: they come in key order, as without an order even where a target is
/// named, and hold every key.
pub fn range_stream(request: &RangeRequest) -> Check {
    range(request)?;
    let key_order = request.sort_order == SortOrder::None as i32
        || request.sort_order == SortOrder::Ascend as i32 && request.sort_target == SortTarget::Key as i32;
    refuse_if(!key_order, ErrorKind::StreamSortUnsupported)?;
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    refuse_if(bounds != [0; 4], ErrorKind::StreamFilterUnsupported)
}

/// A put: it has a key, and does not both keep and replace a value or a lease.
pub fn put(request: &PutRequest) -> Check {
    refuse_if(request.key.is_empty(), ErrorKind::EmptyKey)?;
    refuse_if(
        request.ignore_value && !request.value.is_empty(),
        ErrorKind::ValueProvided,
    )?;
    refuse_if(
        request.ignore_lease && request.lease != 0,
        ErrorKind::LeaseProvided,
    )
}

/// A deletion: it has a key.
pub fn delete_range(request: &DeleteRangeRequest) -> Check {
    refuse_if(request.key.is_empty(), ErrorKind::EmptyKey)
}

/// A transaction: small enough, every operation in order, and no branch puts a key twice or puts a
/// key it also deletes.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Check {
    refuse_if(
        depth(request, TXN_DEPTH_MAX) > TXN_DEPTH_MAX,
        ErrorKind::TooManyOps,
    )?;
    fields(request, ops_max)?;
    Writes::of_branch(&request.success)?;
    Writes::of_branch(&request.failure)?;
    Ok(())
}

/// Whether a transaction only reads, so that it needs no place in the log. A nested transaction
/// counts as a write even if it only reads.
pub fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Op::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from what this member has. Without any operation
/// it may, compares or not.
pub fn is_serializable(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable))
}

/// What a put weighs against the quota, in bytes.
pub fn put_cost(request: &PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + request.key.len() as u64 + request.value.len() as u64
}

/// What a transaction weighs against the quota: its dearer branch, nested puts included.
pub fn txn_cost(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(op_cost).sum();
    u64::max(branch(&request.success), branch(&request.failure))
}

fn op_cost(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Op::RequestPut(request)) => put_cost(request),
        Some(Op::RequestTxn(request)) => txn_cost(request),
        _ => 0,
    }
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Levels of transactions, this one included; counted no further than one above `max`.
fn depth(request: &TxnRequest, max: usize) -> usize {
    let nested = ops(request).filter_map(|op| match &op.request {
        Some(Op::RequestTxn(nested)) if max > 0 => Some(depth(nested, max - 1)),
        _ => None,
    });
    1 + nested.max().unwrap_or(0)
}

/// Counts and fields. A nested transaction only gets what its parent's longest list leaves over, which
/// bounds the depth as well.
fn fields(request: &TxnRequest, ops_max: usize) -> Check {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let budget = ops_max.checked_sub(longest).ok_or(ErrorKind::TooManyOps)?;
    let keyless = request.compare.iter().any(|compare| compare.key.is_empty());
    refuse_if(keyless, ErrorKind::EmptyKey)?;
    ops(request).try_for_each(|op| match &op.request {
        Some(Op::RequestRange(request)) => range(request),
        Some(Op::RequestPut(request)) => put(request),
        Some(Op::RequestDeleteRange(request)) => delete_range(request),
        Some(Op::RequestTxn(request)) => fields(request, budget),
        None => Err(ErrorKind::KeyNotFound),
    })
}

/// What the operations of a branch write, nested transactions included.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

impl<'a> Writes<'a> {
    /// Gathers a branch's writes: its deletions, then its nested transactions, then its puts, each
    /// put judged by what was gathered before it. Deletions may overlap each other.
    fn of_branch(branch: &'a [RequestOp]) -> Result<Self, ErrorKind> {
        let mut writes = Writes::default();
        for op in branch {
            if let Some(Op::RequestDeleteRange(request)) = &op.request {
                writes.deletes.add(&request.key, &request.range_end);
            }
        }
        for op in branch {
            if let Some(Op::RequestTxn(request)) = &op.request {
                writes.nested(request)?;
            }
        }
        for op in branch {
            if let Some(Op::RequestPut(request)) = &op.request {
                writes.put(&request.key)?;
            }
        }
        Ok(writes)
    }

    /// Adds a nested transaction. Only one of its branches runs, so they may put the same key.
    fn nested(&mut self, request: &'a TxnRequest) -> Check {
        let then = Writes::of_branch(&request.success)?;
        let or_else = Writes::of_branch(&request.failure)?;
        for key in then.puts.union(&or_else.puts) {
            self.put(key)?;
        }
        self.deletes.merge(then.deletes);
        self.deletes.merge(or_else.deletes);
        Ok(())
    }

    fn put(&mut self, key: &'a [u8]) -> Check {
        let twice = self.deletes.contains(key) || !self.puts.insert(key);
        refuse_if(twice, ErrorKind::DuplicateKey)
    }
}

/// A set of keys, made of single keys and spans.
///
/// A span without upper end (`\0` on the wire) and one that ends before it begins are left out: etcd
/// never sees them overlap with a put, and such transactions run, operation after operation.
#[derive(Default)]
struct Deletes<'a> {
    keys: BTreeSet<&'a [u8]>,
    /// Start to end, apart from each other.
    spans: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Deletes<'a> {
    fn add(&mut self, start: &'a [u8], end: &'a [u8]) {
        match end {
            [] => drop(self.keys.insert(start)),
            end if start < end => self.add_span(start, end),
            _ => {}
        }
    }

    /// Joins the span with those it overlaps or touches.
    fn add_span(&mut self, mut start: &'a [u8], mut end: &'a [u8]) {
        while let Some((&other_start, &other_end)) = self.spans.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.spans.remove(other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.spans.insert(start, end);
    }

    fn merge(&mut self, other: Deletes<'a>) {
        self.keys.extend(other.keys);
        for (start, end) in other.spans {
            self.add_span(start, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        let span = self.spans.range(..=key).next_back();
        self.keys.contains(key) || span.is_some_and(|(_, end)| key < *end)
    }
}

fn refuse_if(condition: bool, kind: ErrorKind) -> Check {
    match condition {
        true => Err(kind),
        false => Ok(()),
    }
}
