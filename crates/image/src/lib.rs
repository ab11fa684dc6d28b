//! A member's whole state as one bbolt file.
//!
//! The store's own files are read by nobody else. Whenever its content leaves or enters a member it is a
//! bbolt file, exactly as Go etcd keeps it in `member/snap/db`: a backup, the snapshot a slow follower
//! gets, a Go data folder.
//!
//! ```text
//!   store ── Snapshot ──► Export ──► backup (+ SHA-256), raft snapshot, member/snap/db
//!   store ◄── Loaded ◄─── load  ◄── raft snapshot, member/snap/db
//! ```
//!
//! Both directions go through the file once, from front to back: there is no temporary copy, and memory
//! stays flat whatever the size.
//!
//! [`v2store`] is the other half of a raft snapshot: the membership as members up to 3.5 read it.

mod conf_state;
mod export;
mod import;
mod received;
mod rewrite;
mod status;
pub mod v2store;

pub use export::{Export, backup, hash};
pub use import::{ImportError, Place, Report, import, load, place};
pub use mvcc::HashKv;
pub use received::{received, remove_arriving, remove_received};
pub use rewrite::{Change, Founders, rewrite};
pub use status::{HashError, Status, hash_kv, status, storage_version};

/// The bucket of the keys; all others are small tables.
const KEY_BUCKET: &str = "key";

/// Keys of table meta that the store keeps in its commit records.
const CONSISTENT_INDEX: &str = "consistent_index";
const TERM: &str = "term";
const CONF_STATE: &str = "confState";

/// The key of table auth that counts changes of users and roles.
const AUTH_REVISION: &str = "authRevision";

/// Keys of table meta that name the compact revision: asked for, and carried out.
const SCHEDULED_COMPACT: &str = "scheduledCompactRev";
const FINISHED_COMPACT: &str = "finishedCompactRev";
