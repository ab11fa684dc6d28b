//! Reads that need no place in the log.
//!
//! The same ranges and compares as in the log, answered from the newest published revision. With
//! [`Wait::No`] they fail with `WouldBlock` rather than wait for the disk; ask again with [`Wait::Yes`]
//! where waiting is allowed.

use std::sync::Arc;

use mvcc::{Mvcc, RangeError, Wait};
use proto::etcdserverpb::{RangeRequest, TxnRequest};
use proto::raw;

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
