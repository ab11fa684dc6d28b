//! Reads that need no place in the log.
//!
//! The same ranges and compares as in the log, answered from the newest published revision. With
//! [`Wait::No`] they fail with `WouldBlock` rather than wait for the disk; ask again with [`Wait::Yes`]
//! where waiting is allowed.

use std::sync::Arc;

use mvcc::{Mvcc, RangeError, RangeOptions, Wait};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{DeleteRangeRequest, RangeRequest, RequestOp, TxnRequest};
use proto::raw;
use types::KeyRange;

use crate::state::Published;
use crate::txn;

/// Answers a range that [`crate::check::range`] let pass.
pub fn range(mvcc: &Arc<Mvcc>, request: &RangeRequest, wait: Wait) -> Result<raw::RangeResponse, RangeError> {
    newest(mvcc, wait, |state| txn::range(state, request))
}

/// Answers a transaction that [`crate::check::is_read_only`] and [`crate::check::txn`] let pass.
pub fn txn(mvcc: &Arc<Mvcc>, request: &TxnRequest, wait: Wait) -> Result<raw::TxnResponse, RangeError> {
    newest(mvcc, wait, |state| txn::read(state, request))
}

/// What the answer to a transaction would have in memory, in bytes, if it ran now: its ranges, and what its deletions
/// return. The heavier branch counts.
pub fn weigh_txn(mvcc: &Arc<Mvcc>, request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(|op| weigh_op(mvcc, op)).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

fn weigh_op(mvcc: &Arc<Mvcc>, op: &RequestOp) -> u64 {
    match &op.request {
        Some(Op::RequestRange(range)) if !range.count_only => mvcc.weigh(&txn::range_options(range)),
        Some(Op::RequestDeleteRange(delete)) => weigh_delete(mvcc, delete),
        Some(Op::RequestTxn(nested)) => weigh_txn(mvcc, nested),
        _ => 0,
    }
}

/// What the answer to a deletion would have in memory, in bytes, if it ran now.
pub fn weigh_delete(mvcc: &Arc<Mvcc>, request: &DeleteRangeRequest) -> u64 {
    let range = || KeyRange::from_wire(request.key.clone(), request.range_end.clone());
    match request.prev_kv {
        true => mvcc.weigh(&RangeOptions::new(range())),
        false => 0,
    }
}

/// Reads from the newest revision; once more if a compaction passed by in the meantime, since it may
/// have taken away what the request was entitled to.
fn newest<T>(
    mvcc: &Arc<Mvcc>,
    wait: Wait,
    read: impl Fn(&Published) -> Result<T, RangeError>,
) -> Result<T, RangeError> {
    loop {
        let state = Published::newest(mvcc, wait);
        match read(&state) {
            Err(RangeError::Compacted) if mvcc.compacted() != state.compacted => continue,
            result => return result,
        }
    }
}
