//! The replicated state machine: one log entry in, its effects out.
//!
//! ```text
//!                     raftpb::Entry
//!                          | decode            request.rs: etcd's messages, old and new
//!                          v
//!                       Machine::apply
//!                          | admit             corrupt, no space, authorization
//!                          | execute           one match over the requests
//!            +-------------+-------------+
//!            v             v             v
//!      Head: changes   Lessor: leases   Applied: the answer, and what the loop has to do
//! ```
//!
//! [`Machine::apply`] is a pure function of (state, entry): never of who proposed the entry, never of
//! the clock (a time is passed on to the lessor, where it only moves the leader's deadlines), never of
//! the disk. Members that apply the same entries hold the same state, in whatever batches the entries
//! come. etcd had bugs of each of those kinds.
//!
//! An answer in [`Applied`] is one that all members agree on, an error included. [`Fatal`] means that
//! *this* member cannot go on: it cannot read its own data, or does not understand the entry. It must
//! stop before anything of the entry becomes visible.
//!
//! The machine keeps in memory what it decides by: members, alarms, versions, users. Each of these is also a
//! table of the store, in etcd's own bytes, written through the head in the batch of the entry that
//! changed it, and read back by [`Machine::restore`].
//!
//! What is not a matter of the log is here too, so that there is one implementation of it: checks of a
//! request's form ([`check`]), whether somebody may do it ([`authorize`]), and reads ([`read`]).
//!
//! # What is deliberately missing
//!
//! * The quota. The size of a member's disk is a local fact; it is asked before a proposal, and becomes
//!   a fact of the log as an alarm. (etcd also asks at apply, and adds an error to the answer of
//!   a request that was carried out.)

mod alarms;
pub mod authorize;
pub mod check;
mod compare;
mod json;
mod leases;
mod machine;
pub mod membership;
pub mod read;
mod request;
mod state;
pub mod trail;
mod txn;
mod version;

pub use alarms::Alarms;
pub use machine::{Applied, Config, Effect, Machine, Operations, Outcome};
pub use membership::{Member, MemberChange, Membership};
pub use request::{KINDS, kind};
pub use txn::{attach, range_options};
pub use version::{BadTarget, ClusterVersion, Downgrade, NEWEST, OLDEST, Version};

use std::fmt::Display;

use mvcc::{RangeError, ReadError, Table};
use types::{ErrorKind, Index};

/// Why this member cannot apply an entry and must stop.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The entry is damaged, or of a newer or much older etcd.
    #[error("log entry {index} can not be applied: {reason}")]
    NotUnderstood {
        /// The entry.
        index: Index,
        /// What is wrong with it.
        reason: String,
    },
    /// The member's own data cannot be read.
    #[error("applying met unreadable data: {0}")]
    Read(#[from] RangeError),
}

impl From<ReadError> for Fatal {
    fn from(error: ReadError) -> Self {
        Fatal::Read(error.into())
    }
}

/// Why a table cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("table {}, row {}: {reason}", table.name(), key.escape_ascii())]
pub struct RestoreError {
    table: Table,
    key: Vec<u8>,
    reason: String,
}

impl RestoreError {
    fn new(table: Table, key: &[u8], reason: impl Display) -> Self {
        RestoreError {
            table,
            key: key.to_vec(),
            reason: reason.to_string(),
        }
    }
}

/// Why an entry was not carried out: all members refuse it, or this one cannot go on.
enum Stop {
    Refuse(ErrorKind),
    Fatal(Fatal),
}

impl From<ErrorKind> for Stop {
    fn from(kind: ErrorKind) -> Self {
        Stop::Refuse(kind)
    }
}

impl From<Fatal> for Stop {
    fn from(fatal: Fatal) -> Self {
        Stop::Fatal(fatal)
    }
}

impl From<RangeError> for Stop {
    fn from(error: RangeError) -> Self {
        match error.kind() {
            Some(kind) => Stop::Refuse(kind),
            None => Stop::Fatal(error.into()),
        }
    }
}
