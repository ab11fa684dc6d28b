//! One member's control plane: its part in consensus, and who waits for what.
//!
//! [`Member`] wraps a [`Consensus`](consensus::Consensus) and adds what a server needs around it, still
//! as a pure machine: [`Member::step`] takes the time and one [`Input`], [`Member::take_effects`] gives
//! [`Effects`]. It decides; the state machine, which holds the data, is somebody else's. One loop owns
//! it and touches no disk.
//!
//! * **Proposals** wait until the effects are taken, so that everything that came in meanwhile goes to
//!   raft as one batch; and while there is no leader, until there is one or their time is up. More than
//!   [`BACKLOG_MAX`] entries committed and not applied, and no more are let in.
//! * **Reads** take a [`Ticket`]: one question to the leader serves all who wait, and a reader is let
//!   go when the state machine has applied far enough. A lone voter needs no question.
//! * **Leases** run out on a leader that has applied an entry of its own term, and nowhere else:
//!   [`Effects::lessor`].
//! * **A disk that hangs** costs a leader its place: it hands over to a follower that can write.
//! * **Removed members** are not spoken to any more.
//!
//! # A driver
//!
//! ```
//! # use consensus::{Restored, change_of};
//! # use member::{Config, Effects, Input, Member, Payload, Proposal, Ticket};
//! # use proto::raftpb::{self, Entry, HardState};
//! # use prost::Message;
//! # let first = raftpb::ConfChange { node_id: 1, ..Default::default() }; // ConfChangeAddNode
//! # let entry = Entry { term: 1, index: 1, r#type: 1, data: Some(first.encode_to_vec().into()) };
//! # let hard_state = HardState { term: 1, vote: 0, commit: 1 };
//! # let restored = Restored { hard_state, entries: vec![entry], ..Restored::default() };
//! # let config = Config::new(consensus::Config::new(types::MemberId(1), 10, 42), 100);
//! let mut member = Member::new(config, restored).expect("a new cluster of one");
//! let request = Proposal { id: 1, payload: Payload::Request("put".into()), urgent: false, only_in: None };
//! let mut inputs = vec![Input::Propose(vec![request]), Input::ReadIndex { ticket: Ticket(7) }];
//! let (mut applied, mut reads) = (Vec::new(), Vec::new());
//! while !inputs.is_empty() {
//!     for input in inputs.drain(..) {
//!         member.step(0, input);
//!     }
//!     while member.has_effects() {
//!         let effects = member.take_effects();
//!         // publish(effects.status); network.send(effects.send);
//!         if let Some(append) = effects.append {
//!             // wal.write(&append); wal.sync(); network.send(append.send_after);
//!             inputs.push(Input::Persisted(append.number));
//!         }
//!         for entry in effects.committed {
//!             let change = change_of(&entry).and_then(Result::ok).map(|change| (entry.index, change));
//!             inputs.push(Input::Applied { index: entry.index, conf_changes: Vec::from_iter(change) });
//!             applied.push(entry);
//!         }
//!         reads.extend(effects.reads);
//!     }
//! }
//! assert_eq!(applied.last().and_then(|entry| entry.data.clone()), Some("put".into()));
//! assert_eq!(reads.len(), 1);
//! assert!(member.status().lone_leader);
//! ```
//!
//! A real one has three loops with queues between them: the member's, which drains its queue into
//! `step` and then takes the effects; the log's, which writes and syncs everything queued at once,
//! sends each `send_after` itself and reports the last number; and the machine's, which applies.

mod effects;
mod member;
mod reads;

pub use effects::{Effects, Input, Lessor, Payload, Proposal, ReadOutcome, Status, Ticket};
pub use member::{BACKLOG_MAX, Config, Member, URGENT_BACKLOG_MAX};
