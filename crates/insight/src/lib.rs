//! What a process tells of itself, for who has to find out why it is slow, or large.
//!
//! Servers and proxies of etcd have the pages of Go's profiler under `/debug/pprof/` ([`page`]), read by `go tool pprof`. The
//! profile of the CPU is the one that means the same here ([`cpu`]); the others tell of Go's runtime, and say so. Both have what
//! the kernel counts of them among their metrics ([`process`]). What is shown of their settings has no password in it ([`secrets`]).

// The rim: files of the kernel, and a profile takes the time it is told to.
#![allow(clippy::disallowed_methods)]

mod cpu;
mod pages;
pub mod process;
pub mod secrets;

pub use cpu::{ProfileError, cpu, keep_notes_in};
pub use pages::page;
