//! The checkers: they watch from outside, know everything, and share no code with what they check.
//!
//! A violation is a panic with a sentence in it, like a broken invariant inside of a crate; the run
//! catches both.

pub mod history;
pub mod lease;
pub mod log;
pub mod model;
pub mod watch;
