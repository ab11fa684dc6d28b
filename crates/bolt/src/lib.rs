//! etcd's bbolt files at the edges: a streaming bulk writer and a read-only reader.
//!
//! The store never uses bbolt; backups, raft snapshots and Go data folders do. See
//! `docs/formats/bolt.md` for the layout.

mod layout;
mod reader;
mod writer;

pub use layout::PAGE_SIZE;
pub use reader::{ReadError, Reader};
pub use writer::{Plan, Writer};
