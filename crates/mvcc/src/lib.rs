//! Multi-version concurrency control: revisions, key index, records and batches, range and history.
//!
//! Every modifying transaction gets the next *revision*; a key's values at all revisions since the
//! last compaction can be read. This crate knows which revision a key has at which point
//! ([`KeyIndex`]), how a change looks in bytes ([`record`], [`KvFields`]), and etcd's rules for
//! reading and writing on top ([`View`], [`WriteTxn`]). It does no I/O: the bytes of a revision come
//! from a [`Values`], which the store implements.
//!
//! ```text
//!            Head (one owner, the apply loop)              View (any number, any thread)
//!    begin -> put / delete / range -> finish                 range, get, count, chunk
//!              |                |                                 |            |
//!        Batch |      KeyIndex  |        Mvcc (shared)   KeyIndex |     Values |
//!              v                v                                 v            v
//!         SealedBatch ---> Values (the store) ---> publish ---> visible
//! ```
//!
//! The apply loop owns the [`Head`]. It applies entries, seals what they changed into a
//! [`SealedBatch`], hands that to the store and then publishes the new revision. The index may
//! already hold newer revisions than the published one; a [`View`] is pinned to a revision and sees
//! nothing beyond it. The index lock is held for one operation or one bounded slice of a walk, and
//! never while a value is read.
//!
//! Invariants:
//! * revisions rise: by one main per modifying transaction, by one sub per change inside it;
//! * `compacted <= current`, and neither ever goes back;
//! * for every revision that the index holds, the values hold the bytes;
//! * what a view pinned at `r >= compacted` reads depends on the history up to `r` only.

mod batch;
mod hash;
mod head;
mod history;
mod index;
mod kv;
mod mvcc;
mod range;
pub mod record;
mod table;
mod values;

pub use batch::{Batch, Change, SealedBatch};
pub use hash::HashKv;
pub use head::{Head, Put, WriteTxn};
pub use history::History;
pub use index::{Cursor, KeyIndex, KeyMeta, KeyParts, Restored};
pub use kv::{KvFields, KvRef, Malformed};
pub use mvcc::{CompactStep, Mvcc, View};
pub use range::{RangeError, RangeOptions, RangeResult, SortOrder, SortTarget};
pub use table::{Table, TableChange};
pub use values::{MemoryValues, ReadError, Values, Wait};
