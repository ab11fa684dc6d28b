//! The log loop: owns the WAL.
//!
//! It takes all appends that wait, writes them with one write and one fdatasync, and reports them
//! persisted. Messages that had to wait for their append leave after that.
//!
//! A snapshot that the leader sent comes with an append: first its file, then the record of it, then the
//! rest; a record without its file would keep the member from starting.
//!
//! A commit index alone need not be durable, and is not worth a write of its own: it waits a moment for an
//! append that it can go with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus::Append;
use proto::{raftpb, walpb};
use wal::{Preparer, SnapDir, SnapFile, Wal, WriteError};

use super::Failure;
use super::apply::Apply;
use super::housekeeping::Chore;
use super::member::Member;
use crate::board::Board;
use crate::go;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::peers::Peers;

/// Appends that may wait for the disk. Each holds entries that are in memory anyway.
pub const APPENDS_MAX: usize = 4096;
/// How long a commit index waits for company. What is lost if the process is killed meanwhile is learned
/// again by the next election.
const COMMIT_DELAY: Duration = Duration::from_millis(10);

/// A sync that takes longer is logged; etcd's number.
const SLOW_FSYNC: Duration = Duration::from_secs(1);

/// What the log is told.
pub enum Write {
    /// Append this, and report it persisted.
    Append(Append),
    /// A snapshot of this member's is on the disk: note it, and then let go of what was needed without it.
    Snapshot(raftpb::SnapshotMetadata),
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
    /// How many of them are kept; none means all.
    pub snaps_kept: Option<usize>,
    /// The member.
    pub member: Arc<Member>,
    /// Where the time for the disk is noted.
    pub board: Arc<Board>,
    /// The apply loop, for a short batch that can be applied at once.
    pub apply: Arc<Apply>,
    /// The other members, for what may be said when it is on the disk.
    pub peers: Arc<Peers>,
    /// The housekeeper, who makes segments.
    pub chores: Arc<Inbox<Chore>>,
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
    /// Where a failure is reported.
    pub failure: Failure,
}

fn warn_of_slow_disk(took: Duration) {
    if took > SLOW_FSYNC {
        tracing::warn!(
            took = %go::duration(took),
            "expected-duration" = %go::duration(SLOW_FSYNC),
            "slow fdatasync"
        );
    }
}

impl LogLoop {
    /// Runs until the inbox is closed.
    pub fn run(mut self) {
        let mut writes = Vec::new();
        let mut asked = true;
        let mut due = None;
        while self.inbox.drain(&mut writes, due) {
            let (mut persisted, mut snapshot) = (None, None);
            let mut promises = Vec::new();
            for write in writes.drain(..) {
                match write {
                    Write::Append(append) => {
                        if let Some(snapshot) = &append.snapshot
                            && let Err(error) = save_snapshot(&self.snaps, snapshot, &self.metrics)
                        {
                            self.failure.report("cannot write the leader's snapshot", error);
                            return self.inbox.close();
                        }
                        if let Some(metadata) = append.snapshot.and_then(|snapshot| snapshot.metadata) {
                            self.note(&metadata);
                        }
                        self.wal.append(&append.entries, append.hard_state.as_ref());
                        persisted = Some(append.number);
                        promises.extend(append.send_after);
                    }
                    Write::Snapshot(metadata) => {
                        self.note(&metadata);
                        snapshot = Some(metadata);
                    }
                }
            }
            let started = Instant::now();
            if due.is_none_or(|due| due > started) && self.wal.holds_back() {
                due.get_or_insert(started + COMMIT_DELAY);
            } else if let Err(error) = self.sync(started) {
                self.failure.report("cannot write the raft log", error);
                return self.inbox.close();
            } else {
                due = None;
            }
            self.peers.send(promises);
            if let Some(number) = persisted {
                self.member.persisted(number);
                self.apply.run_here();
            }
            match self.preparer.is_ready() {
                true => asked = false,
                false if !asked => {
                    asked = true;
                    self.chores.deliver(Chore::PrepareLog);
                }
                false => {}
            }
            if let Some(snapshot) = snapshot {
                self.let_go(&snapshot);
            }
        }
        if let Err(error) = self.sync(Instant::now()) {
            self.failure.report("cannot write the raft log", error);
        }
    }

    fn sync(&mut self, started: Instant) -> Result<(), WriteError> {
        let synced = self.wal.sync()?;
        let took = started.elapsed();
        self.board.busy.synced(took);
        let metrics = &self.metrics;
        metrics.disk_wal_write_bytes_total.add(synced.bytes as i64);
        // What is to be durable is mostly written and synced by one call: both then took its time.
        if synced.bytes > 0 {
            metrics.disk_wal_write_duration_seconds.observe_duration(took);
        }
        if synced.durable {
            metrics.disk_wal_fsync_duration_seconds.observe_duration(took);
            warn_of_slow_disk(took);
        }
        Ok(())
    }

    /// Removes what is needed only without this snapshot, whose record is durable. Before it is, a crash
    /// would leave a member with nothing to start from.
    fn let_go(&mut self, snapshot: &raftpb::SnapshotMetadata) {
        if let Err(error) = self.wal.release_to(snapshot.index) {
            tracing::warn!(error = %error, "failed to remove old log files; will try again");
        }
        if let Some(kept) = self.snaps_kept
            && let Err(error) = self.snaps.purge(snapshot, kept)
        {
            tracing::warn!(error = %error, "failed to remove old snapshot files");
        }
    }

    /// Records a snapshot that is on the disk.
    fn note(&mut self, snapshot: &raftpb::SnapshotMetadata) {
        self.wal.save_snapshot(&walpb::Snapshot {
            index: snapshot.index,
            term: snapshot.term,
            conf_state: snapshot.conf_state.clone(),
        });
    }
}

/// Writes the file of a raft snapshot, and notes how long that took.
pub(super) fn save_snapshot(
    snaps: &SnapDir,
    snapshot: &raftpb::Snapshot,
    metrics: &Metrics,
) -> std::io::Result<()> {
    let began = Instant::now();
    let file = SnapFile::new(snapshot);
    metrics
        .debugging_snap_save_marshalling_duration_seconds
        .observe_duration(began.elapsed());
    let encoded = Instant::now();
    snaps.write(&file)?;
    metrics
        .snap_fsync_duration_seconds
        .observe_duration(encoded.elapsed());
    metrics
        .debugging_snap_save_total_duration_seconds
        .observe_duration(began.elapsed());
    Ok(())
}
