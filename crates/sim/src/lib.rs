//! A whole cluster in one thread on one seed.
//!
//! Threads, sockets, disks and clocks make bugs rare and unrepeatable. Here there are none: hosts, the
//! network between them, their disks and their clients are values, time is a number that jumps from one
//! event to the next, and everything that is left to chance comes from the seed. So a run takes
//! milliseconds, a bad day of a cluster can be had a thousand times a minute, and what was seen once is
//! seen again with the same number. (FoundationDB made this way of testing known; TigerBeetle's VOPR is
//! its sibling.)
//!
//! ```text
//!   seed ─► plan ─► events in order of time ──┬─► clients ─► requests ─┐
//!             │                               ├─► faults               ▼
//!             └─ faults, sizes, delays        └─► hosts: member, wal, machine, store, watch ─► checkers
//! ```
//!
//! What ships is driven through the seams it has: [`member`] in and out, [`wal`] and [`store`] over
//! [`env::SimDisk`], [`machine`] and [`mvcc`] under the apply loop, [`watch`] behind it, [`image`] for a
//! whole state that goes to a follower. Replaced are threads, queues and sockets, that is the loops of
//! `server`.
//!
//! The checkers ([`check`]) share no code with what they check. They look at every step and, in the quiet
//! after each time of trouble, at everything.

pub mod chance;
pub mod check;
mod clients;
mod cluster;
mod counts;
mod network;
pub mod plan;
mod process;
pub mod trace;
mod transfer;
mod trouble;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use counts::Counts;

use cluster::Cluster;
use trace::Trace;

/// Something that is broken on purpose, in the driver: the checkers must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutant {
    /// Messages that wait for an append leave, and it is reported as persisted, before it is synced.
    EarlyAcknowledgement,
    /// A leader uses one and the same context for all its read questions.
    ReusedReadContext,
    /// A change of the configuration takes effect when it is appended, not when it is applied.
    EarlyConfChange,
}

/// How a run went.
pub struct Outcome {
    /// What happened, as a number and as text.
    pub trace: Trace,
    /// How often.
    pub counts: Counts,
    /// What went wrong, if something did.
    pub failure: Option<String>,
}

/// Runs the cluster of a seed. `all`: keep the whole trace.
pub fn run(seed: u64, mutant: Option<Mutant>, all: bool) -> Outcome {
    let trace = if all {
        Trace::keeping_all()
    } else {
        Trace::default()
    };
    let mut cluster = Cluster::new(seed, mutant, trace);
    let result = catch_unwind(AssertUnwindSafe(|| cluster.run()));
    let failure = result.err().map(|panic| reason(&*panic));
    // What is half done may not be dropped quietly either.
    let (trace, counts) = (std::mem::take(&mut cluster.trace), cluster.tally());
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(cluster)));
    Outcome {
        trace,
        counts,
        failure: failure.or(dropped.err().map(|panic| reason(&*panic))),
    }
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
