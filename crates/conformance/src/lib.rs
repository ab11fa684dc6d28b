//! The same calls against a real etcd and ours, answers compared.
//!
//! A *script* (`scripts/*.txt`) is a list of calls in the words of etcd's API, one a line, with the answers the
//! real etcd gave recorded beneath them. For each script one fresh server of either kind is started, both are taken
//! through the calls, and the answers are compared step by step:
//!
//! ```text
//! put a 1 lease=7
//! range a keys_only=true [keys-only-lease]
//! ---
//! put: NotFound "etcdserver: requested lease not found"
//! range: revision=1 count=0 more=false
//! ```
//!
//! * The real etcd must still say what is recorded, so the recordings can be trusted as documentation.
//!   `UPDATE=1` rewrites them; the diff is what to review.
//! * Ours must say the same. An answer is every field of every message, or the gRPC code with its text; only what
//!   differs from run to run is masked (see [`answer`]): ids, raft's term and index, sizes, times.
//! * Where etcd 3.7.1, which we are, is known to answer otherwise than the 3.5.30 we compare with, the step carries
//!   a tag that names an entry of [`differences`]. The entry says why and what is expected instead, and an entry
//!   that no longer makes a difference fails.
//!
//! The test files that use this crate: `tests/scripts.rs` (gRPC and HTTP), `tests/gateway.rs` (JSON over HTTP),
//! `tests/metrics.rs` (what dashboards look for), `tests/traces.rs` (spans for a collector),
//! `tests/etcdctl.rs` (the real `etcdctl` and `etcdutl` at work on our server and its snapshots), `tests/our_tools.rs`
//! (ours beside them), `tests/discovery.rs` (members that find each other, see [`discovery`], and clients that find members,
//! see [`records`]), `tests/divergence.rs` (a member whose data differs is named), `tests/tls.rs` (see [`tls_matrix`],
//! [`rotation`] and [`confined`]), `tests/matrix.rs` (every call by every kind of caller, see [`identities`]),
//! `tests/settings.rs` (files of settings), `tests/tokens.rs` (JWT), `tests/rude.rs` (secrets, and requests that should do nothing),
//! `tests/crash.rs` (`kill -9` under load), `tests/cluster.rs` (three members, see [`faults`] and [`migration`]). The
//! last two are short by default; `cargo xtask nightly` is their long form. The real etcd comes from `cargo xtask
//! reference`. Without it every trial counts as ignored and says why; with `CI=true` that fails. A trial for which the
//! machine itself lacks something (see [`spaces`]) is ignored anywhere.
//!
//! ```text
//! cargo xtask reference                                            once
//! cargo test -p conformance                                        everything
//! cargo test -p conformance --test scripts a_range                 the scripts about ranges
//! UPDATE=1 cargo test -p conformance --test scripts                what the real etcd says becomes the recording
//! KEELSON_ETCD=$PWD/target/reference/etcd cargo test -p conformance    the harness tries itself: no difference
//! ```

// This crate drives processes, sockets and files; the rules of the core are not for it.
#![allow(clippy::disallowed_methods)]

pub mod account;
pub mod answer;
pub mod authority;
pub mod belongings;
pub mod call;
pub mod caller;
pub mod certs;
pub mod cli;
pub mod cluster;
pub mod compare;
pub mod confined;
pub mod crash;
pub mod differences;
pub mod discovery;
pub mod divergence;
pub mod faults;
pub mod gateway;
pub mod harness;
pub mod history;
pub mod http;
pub mod identities;
pub mod links;
pub mod load;
pub mod migration;
pub mod network;
pub mod probe;
pub mod recipes;
pub mod records;
pub mod rotation;
pub mod scrape;
pub mod script;
pub mod server;
pub mod session;
pub mod settings;
pub mod spaces;
pub mod stream;
pub mod tenant;
pub mod tls_matrix;
pub mod tools;
pub mod transcripts;
pub mod users;
