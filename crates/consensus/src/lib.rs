//! One raft participant as a pure machine over etcd's raftpb.
//!
//! Raft (Ongaro, "Consensus: bridging theory and practice") keeps a log the same on several machines:
//! a leader, elected for a term by a majority, orders the entries; an entry is *committed* when a
//! majority has it on disk, and committed entries are applied to each member's state machine. This
//! crate is one member's part in that, without disk, network, clock or chance: inputs are method calls
//! on [`Consensus`], and what they make necessary comes out of [`Consensus::take_effects`] as data,
//! [`Effects`], which says what may happen before what.
//!
//! ```text
//!            tick  step  propose  read_index               persisted   applied
//!              │     │      │         │                        ▲          ▲
//!              ▼     ▼      ▼         ▼                        │          │
//!            ┌──────────────────────────┐  append ──► disk ────┤          │
//!            │        Consensus         │             └─► send_after      │
//!            │  (engine: crate `raft`)  │  send ───► network              │
//!            └──────────────────────────┘  restore, committed ──► machine ┘
//! ```
//!
//! # Order is data
//!
//! Disk, network and state machine work side by side, many rounds of effects in flight. Three rules
//! hold, and each has its field:
//!
//! * Messages that promise something (acknowledged entries, votes) leave when the promise is on disk:
//!   [`Append::send_after`]. All others leave at once: a leader sends entries while its own disk still
//!   writes them (thesis §10.2.1), a follower forwards proposals and answers heartbeats while its own
//!   does.
//! * Entries come out as [`Effects::committed`] only when they are committed *and* on this member's
//!   disk, snapshots as [`Effects::restore`] only when they are on disk. So a lone voter, whose own disk
//!   is the majority, acknowledges nothing it could forget (etcd issue 14370).
//! * Appends are durable in the order of their numbers.
//!
//! # A driver
//!
//! ```
//! # use std::collections::VecDeque;
//! # use consensus::{Append, Config, ConfChange, Consensus, Restored, change_of};
//! # use proto::raftpb::{self, Entry, HardState};
//! # use prost::Message;
//! # let first = raftpb::ConfChange { node_id: 1, ..Default::default() }; // ConfChangeAddNode
//! # let entry = Entry { term: 1, index: 1, r#type: 1, data: Some(first.encode_to_vec().into()) };
//! # let hard_state = HardState { term: 1, vote: 0, commit: 1 };
//! # let restored = Restored { hard_state, entries: vec![entry], ..Restored::default() };
//! # let config = Config::new(types::MemberId(1), 10, 42);
//! # let (mut network, mut applied) = (Vec::new(), Vec::new());
//! # fn write(_: &Append) {}
//! fn drive(raft: &mut Consensus, network: &mut Vec<raftpb::Message>, applied: &mut Vec<Entry>) {
//!     let mut disk = VecDeque::new();
//!     while raft.has_effects() || !disk.is_empty() {
//!         let effects = raft.take_effects();
//!         network.extend(effects.send);
//!         disk.extend(effects.append);
//!         for entry in effects.committed {
//!             if let Some(Ok(change)) = change_of(&entry) {
//!                 raft.apply_conf_change(entry.index, &change).expect("it was checked when proposed");
//!             }
//!             raft.applied(entry.index);
//!             applied.push(entry);
//!         }
//!         if let Some(append) = disk.pop_front() {
//!             write(&append); // and sync it, if append.must_sync
//!             network.extend(append.send_after);
//!             raft.persisted(append.number);
//!         }
//!     }
//! }
//! let mut raft = Consensus::new(config, restored).expect("a new cluster of one");
//! drive(&mut raft, &mut network, &mut applied); // applies the entry that makes it a voter
//! raft.campaign();
//! drive(&mut raft, &mut network, &mut applied); // leads, and has committed its first entry
//! raft.propose(vec!["one".into(), "two".into()]).expect("it leads");
//! drive(&mut raft, &mut network, &mut applied);
//! assert_eq!(applied.last().and_then(|entry| entry.data.clone()), Some("two".into()));
//! ```
//!
//! A real one has three loops: this one; one that writes and syncs everything queued at once and sends
//! `send_after` itself; one that applies. `persisted` and `applied` come back as messages.
//!
//! # What is hidden
//!
//! The engine is crate `raft`, which speaks the same protocol as Go etcd's but its own message types
//! and not quite the same language. Nothing of it appears in this crate's interface, and what is
//! different ends here:
//!
//! * `wire`: raftpb in and out; entries' bytes are shared all the way, never copied.
//! * [`conf`](apply_conf_change): the kinds of configuration change are numbered differently.
//! * `reads`: every attempt at a read index gets a fresh context; those that reach a new leader early
//!   wait for its first commit instead of being lost.
//! * `vet`: the engine panics on messages no correct member sends; they are refused before it.
//! * `log`: the log in memory, and a bound on the bytes that are read for sending.
//! * `consensus`: election timeouts from our seed; which messages wait for what; no election while the
//!   disk is busy or a snapshot not installed; a leader that needs no votes but its own speaks only when
//!   its term is on disk; a leader that is removed steps down.
//!
//! # Missing on purpose
//!
//! Priorities and group commit (not etcd's), lease-based reads (they trust clocks), witnesses; and any
//! rule about *which* configuration changes are wise, which is the membership's.

mod conf;
mod consensus;
mod effects;
mod log;
mod reads;
mod rng;
mod vet;
mod wire;

pub use conf::{ConfChange, ConfChangeError, apply as apply_conf_change, change_of};
pub use consensus::{Config, Consensus, Progress, ProposeError, RestoreError, Restored, Status};
pub use effects::{Append, Effects, Leadership, ReadState, Role};
pub use vet::StepError;
