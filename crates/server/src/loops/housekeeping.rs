//! The housekeeper: what has to be done, but not now and not by those in a hurry.
//!
//! It walks the key index after a compaction, rewrites segments that are mostly dead, takes raft
//! snapshots so that the log can be shortened, and prepares the log's next segment.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use image::v2store;
use mvcc::{Cursor, Mvcc};
use proto::raftpb;
use store::{Rewriting, Store, SyncError};
use types::Index;
use wal::{Preparer, SnapDir};

use super::Failure;
use super::log::{Write, save_snapshot};
use super::member::{Member, Order};
use crate::board::Board;
use crate::go;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::node::Compactions;

/// Chores that may wait; each kind is asked for at most once per event of its kind.
pub const CHORES_MAX: usize = 1024;
/// Keys walked under one hold of the index lock: well below a millisecond.
const COMPACT_KEYS: usize = 1000;
/// Bytes copied by one step of rewriting.
const REWRITE_BYTES: u64 = 1 << 20;
/// Pause between two steps while the store is roomy: some 20 MB/s of background writing.
const REWRITE_PAUSE: Duration = Duration::from_millis(50);
/// Pause when the quota is near: rewriting then matters as much as anything else.
const REWRITE_PAUSE_NEAR_QUOTA: Duration = Duration::from_millis(1);
/// How often it looks for segments to rewrite when nothing was compacted.
const REWRITE_LOOK: Duration = Duration::from_secs(30);

/// What there is to do.
pub enum Chore {
    /// Drop the history below this revision from the index.
    Compact(i64),
    /// Take a raft snapshot at or after this entry.
    RaftSnapshot {
        /// The entry.
        index: Index,
        /// Nobody may be sent an entry before it.
        cuts: bool,
    },
    /// Make the log's next segment ahead of time.
    PrepareLog,
}

/// The loop.
pub struct Housekeeper {
    /// What there is to do comes in here.
    pub chores: Arc<Inbox<Chore>>,
    /// The key index.
    pub mvcc: Arc<Mvcc>,
    /// The files.
    pub store: Arc<Store>,
    /// The snapshot files.
    pub snaps: SnapDir,
    /// Makes log segments.
    pub preparer: Preparer,
    /// Where the members are listed.
    pub board: Arc<Board>,
    /// The log loop.
    pub log: Arc<Inbox<Write>>,
    /// The member.
    pub member: Arc<Member>,
    /// Where those wait who want to know that a compaction is done.
    pub compactions: Arc<Compactions>,
    /// Whether a compaction is hashed before it is carried out, for comparing members by.
    pub hashes_compactions: bool,
    /// The history below is gone from the index.
    pub walked: i64,
    /// The size from which rewriting hurries.
    pub quota_bytes: Option<u64>,
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
    /// Where a failure is reported.
    pub failure: Failure,
}

impl Housekeeper {
    /// Runs until the inbox is closed.
    pub fn run(mut self) {
        let mut chores = Vec::new();
        let mut pause = Duration::ZERO;
        while self.chores.drain(&mut chores, Some(Instant::now() + pause)) {
            for chore in chores.drain(..) {
                match chore {
                    Chore::Compact(revision) => self.compact(revision),
                    Chore::RaftSnapshot { index, cuts } => self.raft_snapshot(index, cuts),
                    Chore::PrepareLog => {
                        if let Err(error) = self.preparer.prepare() {
                            tracing::warn!(error = %error, "failed to prepare the next log file; the log will make it when needed");
                        }
                    }
                }
            }
            pause = match self.store.rewrite_step(REWRITE_BYTES) {
                Ok(Rewriting::Idle) => REWRITE_LOOK,
                Ok(Rewriting::Working | Rewriting::Done) => self.rewrite_pause(),
                Err(error) => {
                    tracing::warn!(error = %error, "failed to rewrite a segment of the store; will try again");
                    REWRITE_LOOK
                }
            };
        }
    }

    fn rewrite_pause(&self) -> Duration {
        match self.quota_bytes {
            Some(quota) if self.store.size() > quota / 4 * 3 => REWRITE_PAUSE_NEAR_QUOTA,
            _ => REWRITE_PAUSE,
        }
    }

    fn compact(&mut self, revision: i64) {
        self.hash_compaction(revision);
        let started = Instant::now();
        let mut cursor = Cursor::default();
        let (mut dropped, mut passed) = (0, 0);
        // Keys that come meanwhile are passed too.
        let (keys, job) = (self.mvcc.keys(), &self.compactions.job);
        let metrics = &self.metrics;
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        loop {
            job.at(passed.min(keys) as u64, keys as u64);
            let slice = Instant::now();
            let step = self.mvcc.compact_step(&mut cursor, COMPACT_KEYS);
            metrics
                .debugging_mvcc_index_compaction_pause_duration_milliseconds
                .observe(ms(slice.elapsed()));
            dropped += step.dropped.len();
            passed += step.passed;
            let forgetting = Instant::now();
            self.store.forget(&step.dropped);
            metrics
                .debugging_mvcc_db_compaction_pause_duration_milliseconds
                .observe(ms(forgetting.elapsed()));
            if step.done {
                break;
            }
            // Readers and the apply loop wait for the same lock: let them have it.
            std::thread::yield_now();
        }
        // A walk goes as far as the newest compaction, which may have come meanwhile.
        self.walked = self.mvcc.compacted();
        self.compactions.carried_out(revision);
        job.at(keys as u64, keys as u64);
        job.over();
        let metrics = &self.metrics;
        metrics
            .debugging_mvcc_db_compaction_keys_total
            .add(dropped as u64);
        metrics
            .debugging_mvcc_db_compaction_total_duration_milliseconds
            .observe(ms(started.elapsed()));
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
            metrics
                .debugging_mvcc_db_compaction_last
                .set(now.as_secs() as i64);
        }
        tracing::info!(
            "compact-revision" = revision,
            took = %go::duration(started.elapsed()),
            "number-of-revisions-dropped" = dropped,
            "current-db-size-bytes" = self.store.size(),
            "current-db-size-in-use-bytes" = self.store.size_in_use(),
            "finished scheduled compaction"
        );
    }

    /// Hashes the history as every member does at this compaction, unless an earlier walk has dropped some.
    fn hash_compaction(&self, revision: i64) {
        // An installed snapshot may have brought the history as it is after this compaction.
        let gone = self.walked.max(self.compactions.finished());
        if !self.hashes_compactions || gone >= revision {
            return;
        }
        match self.mvcc.hash_compaction(self.compactions.finished(), revision) {
            Ok(hash) => tracing::info!(
                hash = hash.hash,
                revision = hash.revision,
                "compact-revision" = hash.compact_revision,
                "storing new hash"
            ),
            Err(error) => {
                tracing::warn!(error = %error, revision, "failed to hash the history of a compaction")
            }
        }
    }

    /// Makes the store durable, notes that it is, and lets the log forget what came before.
    fn raft_snapshot(&self, index: Index, cuts: bool) {
        match self.store.sync_step() {
            Ok(()) => {}
            Err(SyncError::NoSpace(error)) => {
                tracing::warn!(error = %error, "no raft snapshot while the disk is full; the log is kept until the next one");
                return;
            }
            Err(error) => return self.failure.report("cannot write the store to disk", error),
        }
        let commit = self.store.synced();
        debug_assert!(commit.applied_index >= index);
        tracing::info!(
            "local-member-applied-index" = commit.applied_index,
            "snapshot-forced" = cuts,
            "triggering snapshot"
        );
        let replicated = self.board.replicated();
        let metadata = raftpb::SnapshotMetadata {
            conf_state: commit.conf_state.clone(),
            index: commit.applied_index,
            term: commit.term,
        };
        let cluster_version = replicated.versions.version().map(|version| version.to_string());
        let removed = replicated.membership.removed().map(|id| id.to_string());
        let data = v2store::encode(&replicated.members, removed, cluster_version.as_deref());
        let snapshot = raftpb::Snapshot {
            data: Some(data.into()),
            metadata: Some(metadata.clone()),
        };
        if let Err(error) = save_snapshot(&self.snaps, &snapshot, &self.metrics) {
            tracing::warn!(error = %error, "failed to save a raft snapshot; the log is kept until the next one");
            return;
        }
        self.log.push(Write::Snapshot(metadata.clone()));
        self.member.deliver(match cuts {
            true => Order::Cut(metadata.clone()),
            false => Order::Snapshotted(metadata.clone()),
        });
        tracing::info!(
            "snapshot-index" = metadata.index,
            "snapshot-term" = metadata.term,
            "saved snapshot"
        );
    }
}
