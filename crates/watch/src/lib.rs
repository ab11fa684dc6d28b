//! The watch hub: events in revision order in, one outbox per stream out.
//!
//! A client opens a *stream* and creates *watchers* on it, each with a key range and a start. Every
//! watcher gets every event of its range from its start on: in order, once, all events of a revision
//! together, without a gap. The hub is the one owner of all watchers; it has no thread, no clock and
//! no I/O. A loop around it feeds what the store applied and what clients ask, and reads history
//! when the hub wants some.
//!
//! # Two states
//!
//! ```text
//!                 start above the hub's revision
//!   create ─────────────────────────────────────▶ synced ◀──────────────┐
//!      │                                             │                  │ reached the
//!      │ start in the past      outbox full, or feed │                  │ hub's revision
//!      │                        lost events          ▼                  │
//!      └─────────────────────────────────────▶ catching up ─────────────┘
//!                                                    │
//!                                                    └──▶ cancelled: its next revision is compacted
//! ```
//!
//! A *synced* watcher has been given everything up to the hub's revision; [`Hub::publish`] serves it.
//! One that is *catching up* has a single number, its next revision: everything below it is queued,
//! nothing from it on. When its stream has room, [`Hub::next_job`] asks for history from there and
//! [`Hub::history`] delivers it. An answer is a fact ("this happened from 5 to 9") and not tied to
//! who asked: it serves all watchers whose next revision lies within, and an answer that comes late
//! or twice does no harm.
//!
//! A slow client costs its own watchers only: when its outbox is full, each of them turns to catching
//! up at the first event it cannot be given. Nobody waits, nothing is buffered without bound, and no
//! set of past revisions or ids is kept.
//!
//! # The loop around it
//!
//! ```
//! use std::task::Waker;
//! use bytes::Bytes;
//! use types::KeyRange;
//! use watch::{Create, Event, History, Hub, Identity, Options};
//!
//! # fn kv(revision: i64) -> Bytes {
//! #     use prost::Message;
//! #     proto::mvccpb::KeyValue { key: "k".into(), create_revision: 2, mod_revision: revision, ..Default::default() }
//! #         .encode_to_vec()
//! #         .into()
//! # }
//! # fn read_history(from: i64, upto: i64) -> Vec<Event> {
//! #     (from..=upto).map(|revision| Event::parse(revision, false, kv(revision)).unwrap()).collect()
//! # }
//! let identity = Identity { cluster_id: 1, member_id: 2, raft_term: 3 };
//! // The store is at revision 5 and nothing is compacted; the waker wakes this loop.
//! let mut hub = Hub::new(identity, 5, 0, Options::default(), Waker::noop().clone());
//! let opener = hub.opener();
//!
//! // A handler opens a stream; `frames` is its answer.
//! let (outbox, mut frames) = opener.open();
//! let stream = outbox.id();
//! hub.open(outbox, 0);
//! let key = KeyRange::One("k".into());
//! hub.create(stream, Create { start_revision: 4, ..Create::new(key) }, 5);
//!
//! // In each turn: what was applied, who has drained or gone, the time, history for the rest.
//! let prev_kv = &mut |_: &Bytes, _: i64| None;
//! hub.publish(6, &[Event::parse(6, false, kv(6)).unwrap()], prev_kv);
//! hub.collect();
//! hub.tick(1_000);
//! while let Some(job) = hub.next_job() {
//!     let events = read_history(job.from, job.upto);
//!     hub.history(job, History { events: &events, reached: job.upto, compacted: 0 }, prev_kv);
//! }
//!
//! let mut cx = std::task::Context::from_waker(Waker::noop());
//! let mut next = || match frames.poll_next(&mut cx) {
//!     std::task::Poll::Ready(Some(Ok(frame))) => frame.into_response().unwrap(),
//!     _ => panic!("nothing queued"),
//! };
//! assert!(next().created);
//! let revisions: Vec<_> = next().events.into_iter().map(|event| event.kv.unwrap().mod_revision).collect();
//! assert_eq!(revisions, [4, 5, 6]);
//! ```
//!
//! # What is promised (etcd, "KV API guarantees", watch)
//!
//! * ordered, unique, atomic: `next_revision` only grows, and a response ends at the end of a revision;
//! * reliable: what a watcher is not given moves it to catching up *at that revision*;
//! * resumable: a watcher may start at any revision that is not compacted. One that falls behind a
//!   compaction is cancelled with the compact revision, never served with a gap;
//! * bookmarkable: a progress response is queued behind all events up to its revision.
//!
//! # Deliberately missing
//!
//! Permissions and the leader's loss are the server's business ([`Hub::refuse`], [`Hub::end_stream`]).

mod bell;
mod event;
mod fan_out;
mod frame;
mod hub;
mod index;
mod interval;
mod limits;
mod outbox;
mod ready;
mod request;
mod stream;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use bell::Bell;
pub use event::Event;
pub use fan_out::Lookup;
pub use frame::Frame;
pub use hub::{CatchUp, History, Hub, Identity, Metrics, Options};
pub use limits::Limits;
pub use outbox::{Frames, Opener, Outbox, StreamId};
pub use request::Create;

/// Nothing behind the locks of this crate can be left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
