//! The durable MVCC store: append-only segments, an in-memory tail, rewriting instead of defragmentation.
//!
//! ```text
//!  apply loop            store thread                        maintenance
//!  append(batch)         sync_step()                         forget(revs), rewrite_step(budget)
//!      |                     |                                   |
//!      v                     v                                   v
//!  +--------+  write,   +---------+  full: seal   +----------------------+
//!  |  tail  |---------->|  open   |-------------->|   sealed segments    |<-- merge the half-dead
//!  | memory |  fsync    | segment |  + checkpoint | revision -> offset   |    into a new one
//!  +--------+           +---------+               +----------------------+
//!      ^                     ^                               ^
//!      +---------------------+------- get_many, scan, snapshot
//! ```
//!
//! The key index (crate `mvcc`) knows which revision holds a key's value; this crate knows where a revision's bytes
//! are, and brings both back after a restart. A batch is readable as soon as it is appended, and durable once it is
//! synced; what lies between is not lost in a crash because the raft log still has it: the log is released only up to
//! [`Store::synced`]. Files and recovery are described in `docs/formats/store.md`.
//!
//! Invariants:
//! * a batch and the applied index that goes with it are in one commit, and only whole commits count;
//! * the revision ranges of the segments are disjoint and ascend; a revision is in exactly one of them;
//! * sealed segments never change: rewriting makes a new file, and who still reads the old one goes on;
//! * the manifest names only files that are durable with everything they are said to hold;
//! * a rewrite drops a record only after the commit of the compaction that made it superfluous is durable.
//!
//! Two locks. The *state* is memory: segment list, slots, tail; it is never held over I/O. The *writer* is whoever
//! changes files; it is held for one step of syncing or rewriting, and takes the state's lock inside, never the other
//! way round. Readers use only the former, for a binary search or to clone an `Arc`.
//!
//! Missing on purpose: a checkpoint of the key index (a restart reads all segments from front to back), compression,
//! and threads: the server calls the steps. Only recovery uses a second one, to read ahead of the index.

mod error;
mod files;
mod load;
mod read;
mod recovery;
mod replay;
mod rewrite;
mod segment;
mod slots;
mod snapshot;
mod state;
mod store;
mod tail;
mod writer;

pub use error::{Damage, DiskError, LoadError, OpenError, RewriteError, SyncError};
pub use load::{Load, Loaded};
pub use recovery::{Cut, Recovered};
pub use rewrite::Rewriting;
pub use snapshot::{ChangeSize, Changes, Snapshot};
pub use store::{Backlog, Options, SEGMENTS, Store, Tables, UNSYNCED_BYTES_MAX};
