//! The log loop: owns the WAL.
//!
//! It takes all appends that wait, writes them with one write and one fdatasync, and reports them
//! persisted. Messages that had to wait for their append leave after that.
//!
//! A snapshot that the leader sent comes with an append: first its file, then the record of it, then the
//! rest; a record without its file would keep the member from starting.

use std::sync::Arc;
use std::time::Instant;

use consensus::Append;
use proto::{raftpb, walpb};
use types::Index;
use wal::{Preparer, SnapDir, Wal};

use super::Failure;
use super::housekeeping::Chore;
use super::member::{Member, Order};
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::peers::Peers;

/// Appends that may wait for the disk. Each holds entries that are in memory anyway.
pub const APPENDS_MAX: usize = 4096;

/// What the log is told.
pub enum Write {
    /// Append this, and report it persisted.
    Append(Append),
    /// A snapshot is on the disk: note it.
    Snapshot(raftpb::SnapshotMetadata),
    /// Nothing at or below this index is needed any more.
    Release(Index),
}

/// The loop.
pub struct LogLoop {
    /// What is to be written comes in here.
    pub inbox: Arc<Inbox<Write>>,
    /// The log.
    pub wal: Wal,
    /// Its supply of segments.
    pub preparer: Preparer,
    /// The snapshot files.
    pub snaps: SnapDir,
    /// The member.
    pub member: Arc<Member>,
    /// The other members, for what may be said when it is on the disk.
    pub peers: Arc<Peers>,
    /// The housekeeper, who makes segments.
    pub chores: Arc<Inbox<Chore>>,
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
    /// Where a failure is reported.
    pub failure: Failure,
}

impl LogLoop {
    /// Runs until the inbox is closed.
    pub fn run(mut self) {
        let mut writes = Vec::new();
        let mut asked = true;
        while self.inbox.drain(&mut writes, None) {
            let (mut persisted, mut release) = (None, None);
            let mut promises = Vec::new();
            for write in writes.drain(..) {
                match write {
                    Write::Append(append) => {
                        if let Some(snapshot) = &append.snapshot
                            && let Err(error) = self.snaps.save(snapshot)
                        {
                            self.failure.report("cannot write the leader's snapshot", error);
                            return self.inbox.close();
                        }
                        if let Some(metadata) = append.snapshot.and_then(|snapshot| snapshot.metadata) {
                            self.note(metadata);
                        }
                        self.wal.append(&append.entries, append.hard_state.as_ref());
                        persisted = Some(append.number);
                        promises.extend(append.send_after);
                    }
                    Write::Snapshot(snapshot) => self.note(snapshot),
                    Write::Release(index) => release = Some(index),
                }
            }
            let started = Instant::now();
            match self.wal.sync() {
                Ok(synced) => {
                    self.metrics.disk_wal_write_bytes_total.add(synced.bytes as i64);
                    if synced.durable {
                        self.metrics
                            .disk_wal_fsync_duration_seconds
                            .observe(started.elapsed().as_secs_f64());
                    }
                }
                Err(error) => {
                    self.failure.report("cannot write the raft log", error);
                    return self.inbox.close();
                }
            }
            self.peers.send(promises);
            if let Some(number) = persisted {
                self.member.deliver(Order::Persisted(number));
            }
            match self.preparer.is_ready() {
                true => asked = false,
                false if !asked => {
                    asked = true;
                    self.chores.deliver(Chore::PrepareLog);
                }
                false => {}
            }
            if let Some(index) = release
                && let Err(error) = self.wal.release_to(index)
            {
                tracing::warn!(error = %error, "failed to remove old log files; will try again");
            }
        }
    }

    /// Records a snapshot that is on the disk.
    fn note(&mut self, snapshot: raftpb::SnapshotMetadata) {
        self.wal.save_snapshot(&walpb::Snapshot {
            index: snapshot.index,
            term: snapshot.term,
            conf_state: snapshot.conf_state,
        });
    }
}
