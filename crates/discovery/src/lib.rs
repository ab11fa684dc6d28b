//! Who the members of a cluster are, asked of others when a member begins without data.
//!
//! Two of them can be asked; both answer in the words of `--initial-cluster`:
//!
//! * [`srv`]: the DNS has SRV records of a domain (`--discovery-srv`). Someone has written down where the
//!   members are; nobody has to be there yet.
//! * [`service`]: any other etcd cluster keeps a register (`--discovery-endpoints`). Someone has written
//!   down under a token how many members there will be. Each registers and waits for the others.
//!
//! Ids are computed from peer URLs and token alone, so members that are told the same URLs found the same
//! cluster. Once a member has data, nobody is asked any more.
//!
//! Source: etcd's `client/pkg/srv` and `server/etcdserver/api/v3discovery`. Deliberately missing: the first
//! discovery service (`--discovery`), which etcd has dropped too, and the SRV records of client ports,
//! which only clients ask for.

// The rim: this crate has a clock and sockets.
#![allow(clippy::disallowed_methods)]

mod registry;
pub mod service;
pub mod srv;
