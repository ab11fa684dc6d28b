//! Services, loops, HTTP, metrics: everything around the core. The core decides, this crate moves values: each state has
//! one loop that owns it, and everything else speaks to the loops.
//!
//! * A member begins in [`run`](fn@run): [`config`] says how, [`storage`] reads the disk or takes a Go member's folder over
//!   (`go_folder`; [`convert`](mod@convert) is the way back, [`restore`](mod@restore) makes one of a backup), [`bootstrap`] is for who has no data, [`start`] puts all together.
//! * The [`loops`] are threads, each with an [`inbox`]: raft, the log's syncs, apply, watches, housekeeping. What all
//!   may know of them is on the [`board`]; answers go back by [`replies`].
//! * A client's request comes in by [`listen`], as gRPC ([`rpc`]) or HTTP ([`http`]). `access` says who calls and whether
//!   they may, and the handler asks the loops through its [`node`]; what only the leader can answer is [`forward`]ed.
//! * Other members: [`peers`] carries raft, [`sending`] and [`install`] carry snapshots, [`ask`] small questions.
//! * What a member does by itself: `tasks` (leases, compactions), [`versions`] of the cluster, [`corruption`] checks. How
//!   far the long ones of its jobs are is known to [`progress`].
//! * What can be seen: [`metrics`], [`traces`], a profile of the CPU ([`insight`]), and the log, whose [`fields`] are spelled as Go does ([`go`]).
//!
//! Which words a loop may be sent, and in which order effects happen, is told where the loops are.

// The rim: this crate has threads, clocks and sockets.
#![allow(clippy::disallowed_methods)]

mod access;
pub mod answers;
pub mod ask;
pub mod board;
pub mod bootstrap;
pub mod busy;
pub mod config;
mod confine;
pub mod convert;
pub mod corruption;
pub mod fields;
pub mod forward;
pub use types::go;
mod go_folder;
pub mod guesses;
pub mod http;
pub mod ids;
pub mod inbox;
pub mod install;
pub mod json;
mod jwt;
pub mod listen;
pub mod loops;
pub mod metrics;
pub mod node;
pub mod passwords;
pub mod peers;
pub mod progress;
pub mod replies;
pub mod restore;
pub mod rpc;
mod run;
pub mod sending;
pub mod start;
pub mod storage;
mod tasks;
pub mod traces;
pub mod upkeep;
pub mod versions;

pub use run::{RunError, check, run};

/// What a gRPC message may be larger than the request in it.
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;
