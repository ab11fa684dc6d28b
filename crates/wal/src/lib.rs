//! The raft log on disk, in etcd's format.
//!
//! What a member promises its peers, it writes here first: entries, its term and vote, and how far the
//! log is committed. After a crash [`Wal::open`] gives back at least all that was synced. Formats, cut
//! and recovery are described in `docs/formats/wal.md` and `docs/formats/snap.md`; the code is split
//! along the same lines:
//!
//! * `frame`: records and the frames around them, pure;
//! * `segment`: one file; above all, where it ends, and whether a torn write or damage is behind that;
//! * `replay`: what the records add up to;
//! * `log`: [`Wal`], the only part that writes;
//! * `snap`: [`SnapDir`], the snapshot files beside the log.
//!
//! One thread owns the [`Wal`]. It takes all that waits, appends it, syncs once, and only then lets go
//! of the messages that had to wait:
//!
//! ```
//! # use std::{path::Path, sync::Arc};
//! # use proto::{raftpb, walpb};
//! use wal::{Options, Wal};
//!
//! let disk = Arc::new(env::SimDisk::new());
//! let dir = Path::new("/wal");
//! let mut wal = Wal::create(disk.clone(), dir, b"member 1", Options::default())?;
//! let entry = |index| raftpb::Entry { term: 1, index, ..Default::default() };
//! let state = raftpb::HardState { term: 1, vote: 1, commit: 0 };
//! wal.append(&[entry(1), entry(2)], Some(&state));
//! wal.append(&[entry(3)], None);
//! assert!(wal.sync()?.durable); // one write and one fdatasync for both
//! drop(wal);
//!
//! let (_, replay) = Wal::open(disk, dir, &walpb::Snapshot::default(), Options::default())?;
//! assert_eq!(replay.entries.len(), 3);
//! assert_eq!(replay.hard_state, state);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants: what [`Wal::sync`] confirmed comes back, or opening is refused with file and offset;
//! nothing on the disk makes this crate panic, or reserve more memory than a file is long.
//!
//! Missing on purpose: compression and encryption (the format has none), and repair of anything but a
//! torn end (only the other members can do that).

mod error;
mod frame;
mod log;
mod replay;
mod segment;
mod snap;

pub use error::{Damage, OpenError, WriteError};
pub use log::{Options, Preparer, Synced, Wal};
pub use replay::{Repaired, Replay};
pub use snap::{Loaded, SnapDir, SnapFile};
