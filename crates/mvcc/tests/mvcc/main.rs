//! The crate from outside: a store in memory, its apply side and its readers.

mod compaction;
mod range;
mod store;
mod transaction;
