//! Services, loops, HTTP, metrics: everything around the core.

// The rim: this crate has threads, clocks and sockets.
#![allow(clippy::disallowed_methods)]

mod access;
pub mod answers;
pub mod ask;
pub mod board;
pub mod bootstrap;
pub mod config;
mod confine;
pub mod convert;
pub mod corruption;
pub mod fields;
pub mod forward;
pub mod go;
mod go_folder;
pub mod http;
pub mod ids;
pub mod inbox;
pub mod install;
pub mod listen;
pub mod loops;
pub mod metrics;
pub mod node;
pub mod passwords;
pub mod peers;
pub mod replies;
pub mod rpc;
mod run;
pub mod sending;
pub mod start;
pub mod storage;
mod tasks;
pub mod versions;

pub use run::{RunError, run};

/// What a gRPC message may be larger than the request in it.
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;
