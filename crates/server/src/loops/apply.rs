//! The apply loop: owns the machine and the head of the store.
//!
//! It takes all committed entries that wait, applies them as one batch, hands the batch to the
//! store's memory, publishes the new revision, and only then answers. It does no I/O but reads of
//! values that a transaction asks for.
//!
//! The loop has a thread, but a lone entry is not worth waking it: the log's thread, which has just learned
//! that it is committed, applies it as well. Whoever applies holds the applier, and takes what waits only then,
//! so entries keep their order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use auth::{TokenEffect, Tokens};
use lease::Lessor;
use machine::trail::Trail;
use machine::{Applied, Effect, Machine, Operations, Outcome};
use mvcc::{Head, KvRef};
use parking_lot::Mutex;
use proto::etcdserverpb::AlarmType;
use proto::raftpb::{self, ConfState, Entry};
use store::Store;
use types::{Index, MemberId, Term};

use super::Failure;
use super::housekeeping::Chore;
use super::member::{Member, Order};
use super::sync::SyncSignals;
use super::watch::{Request, WatchHandle};
use crate::board::{Board, Replicated};
use crate::go;
use crate::inbox::Inbox;
use crate::install::{Installer, Revived, count_keys};
use crate::metrics::{Histogram, Metrics};
use crate::node::Compactions;
use crate::peers::Peers;
use crate::replies::{Done, Replies};
use crate::versions;

/// Committed entries that may wait for apply. More than the backlog at which requests are refused, so
/// that the bound is met at the edge, with an error, before it is met here.
pub const COMMITTED_MAX: usize = 2 * member::BACKLOG_MAX as usize;
/// Entries applied as one batch. Their answers leave together, so a batch should be short.
const BATCH_ENTRIES_MAX: usize = 1024;
/// Bytes of a batch, beyond which the rest goes into the next.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Entries that the log's thread applies itself.
const HERE_ENTRIES_MAX: usize = 4;
/// Bytes of an entry beyond which it is not taken for a short one: it may be a transaction of many parts.
const HERE_ENTRY_BYTES_MAX: usize = 16 << 10;

/// What raft has decided.
pub enum Committed {
    /// The next entry.
    Entry(Entry),
    /// The entries up to this snapshot will not come: it takes the place of everything applied so far.
    Snapshot(raftpb::Snapshot),
}

/// The way to what is to be applied, and to the one who does it.
pub struct Apply {
    inbox: Arc<Inbox<Committed>>,
    applier: Mutex<Applier>,
}

/// Everything that applying owns or speaks to.
pub struct Applier {
    /// This member.
    pub id: MemberId,
    /// The replicated state machine.
    pub machine: Machine,
    /// Where new revisions are made.
    pub head: Head,
    /// The leases, shared with their handlers.
    pub lessor: Arc<Mutex<Lessor>>,
    /// The tokens of users who have signed in, where they are of the kind that is remembered.
    pub tokens: Option<Arc<Mutex<Tokens>>>,
    /// The membership as of the last applied entry.
    pub conf_state: ConfState,
    /// Takes the batches.
    pub store: Arc<Store>,
    /// Wakes the syncer.
    pub sync: Arc<SyncSignals>,
    /// Where handlers look.
    pub board: Arc<Board>,
    /// Where handlers wait.
    pub replies: Arc<Replies>,
    /// Where watchers are fed.
    pub watches: WatchHandle,
    /// The member.
    pub member: Arc<Member>,
    /// The way to the other members.
    pub peers: Arc<Peers>,
    /// The housekeeper.
    pub chores: Arc<Inbox<Chore>>,
    /// Where those wait who want to know that a compaction is done.
    pub compactions: Arc<Compactions>,
    /// Brings in snapshots from the leader.
    pub installer: Installer,
    /// Sums of what entries did.
    pub trail: Arc<Mutex<Trail>>,
    /// Applied entries between two raft snapshots.
    pub snapshot_count: u64,
    /// Index of the last raft snapshot asked for.
    pub snapshot_index: Index,
    /// The start of the process, from which lease time counts.
    pub started: Instant,
    /// An apply that takes longer is logged.
    pub slow_apply: Duration,
    /// Histograms of apply times by request and success, once used.
    pub durations: HashMap<(&'static str, bool), Arc<Histogram>>,
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
    /// Where a failure is reported.
    pub failure: Failure,
}

impl Apply {
    /// Applies what comes into `inbox`.
    pub fn new(inbox: Arc<Inbox<Committed>>, applier: Applier) -> Self {
        applier.post_replicated();
        applier.post_auth();
        Apply {
            inbox,
            applier: Mutex::new(applier),
        }
    }

    /// The loop: runs until the inbox is closed.
    pub fn run(&self) {
        let mut committed = Vec::new();
        while self.inbox.wait() {
            let mut applier = self.applier.lock();
            self.inbox.take(&mut committed);
            self.carry_out(&mut applier, &mut committed);
        }
    }

    /// Applies what waits on the calling thread, the log's, if it is so little that waking another one would
    /// take longer, and nothing has to be waited for. Otherwise wakes the loop.
    pub fn run_here(&self) {
        let mut committed = Vec::new();
        if let Some(mut applier) = self.applier.try_lock()
            && !applier.store.backlog().is_full()
            && self.inbox.take_if(&mut committed, is_short)
        {
            self.carry_out(&mut applier, &mut committed);
        } else {
            self.inbox.wake();
        }
    }

    fn carry_out(&self, applier: &mut Applier, committed: &mut Vec<Committed>) {
        if let Err((what, error)) = applier.take(committed.drain(..)) {
            applier.failure.report(what, error);
            self.inbox.close();
        }
    }
}

/// Whether what waits is short enough for the log's thread.
fn is_short(waiting: &VecDeque<Committed>) -> bool {
    let bytes = |next: &Committed| match next {
        Committed::Entry(entry) => entry.data.as_ref().map_or(0, |data| data.len()),
        Committed::Snapshot(_) => usize::MAX,
    };
    waiting.len() <= HERE_ENTRIES_MAX && waiting.iter().all(|next| bytes(next) <= HERE_ENTRY_BYTES_MAX)
}

impl Applier {
    fn take(&mut self, committed: impl Iterator<Item = Committed>) -> Result<(), (&'static str, String)> {
        let mut entries = Vec::new();
        for next in committed {
            match next {
                Committed::Entry(entry) => entries.push(entry),
                Committed::Snapshot(snapshot) => {
                    self.apply_all(&mut entries)?;
                    self.install(&snapshot)?;
                }
            }
        }
        self.apply_all(&mut entries)
    }

    fn apply_all(&mut self, entries: &mut Vec<Entry>) -> Result<(), (&'static str, String)> {
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            self.sync.wait_for_room(&self.store);
            let began = Instant::now();
            let applied = self.apply_batch(rest);
            self.board.busy.applied(began.elapsed());
            rest = &rest[applied.map_err(|error| ("cannot apply a log entry", error))?..];
        }
        entries.clear();
        Ok(())
    }

    /// Puts the leader's snapshot in place of everything.
    fn install(&mut self, snapshot: &raftpb::Snapshot) -> Result<(), (&'static str, String)> {
        let began = Instant::now();
        let index = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index);
        // If this fails, the member stops.
        self.metrics.server_snapshot_apply_in_progress_total.set(1);
        let Revived {
            machine,
            lessor,
            commit,
        } = self
            .installer
            .install(snapshot, &self.store, self.head.mvcc())
            .map_err(|error| ("cannot install the snapshot from the leader", error.to_string()))?;
        self.machine = machine;
        self.head = Head::new(self.head.mvcc().clone());
        // Without a clock, as a follower's: only an entry of its own term makes this member promote it.
        *self.lessor.lock() = lessor;
        self.conf_state = commit.conf_state.unwrap_or_default();
        self.snapshot_index = index;
        self.metrics
            .debugging_mvcc_keys_total
            .set(count_keys(self.head.mvcc()).map_err(|error| ("cannot read the store", error.to_string()))?);
        self.post_replicated();
        // What became of tokens in between is not known.
        self.note_users(TokenEffect::EndAll);
        self.watches.replaced(commit.revision, commit.compact_revision);
        self.compactions.carried_out(commit.compact_revision);
        self.board.post_applied(index);
        self.metrics.server_snapshot_apply_in_progress_total.set(0);
        let removed = self.machine.membership().removed().collect();
        self.member.hurry(Order::Installed { index, removed });
        tracing::info!(
            "snapshot-index" = index,
            "current-revision" = commit.revision,
            took = %go::duration(began.elapsed()),
            "applied snapshot"
        );
        Ok(())
    }

    /// Applies entries from the front, as many as make one batch. Returns how many.
    fn apply_batch(&mut self, entries: &[Entry]) -> Result<usize, String> {
        let (mut answers, mut effects, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        let version = self.machine.cluster().version();
        let mut count = 0;
        for entry in entries.iter().take(BATCH_ENTRIES_MAX) {
            let applied = self.apply(entry)?;
            digests.push((entry.index, applied.digest));
            if applied.request_id != 0 {
                answers.push((applied.request_id, applied.outcome, applied.revision));
            }
            if applied.effect != Effect::None {
                effects.push((entry.index, applied.effect));
            }
            count += 1;
            if self.head.pending_len() >= BATCH_BYTES_MAX {
                break;
            }
        }
        let last = &entries[count - 1];
        self.publish(last.index, last.term);
        self.note(&digests);
        let conf_changes: Vec<_> = effects
            .iter()
            .filter_map(|(index, effect)| match effect {
                Effect::ConfChange(change) => Some((*index, change.clone())),
                _ => None,
            })
            .collect();
        // What waits for these should not wait for the next round.
        let news = |effect: &Effect| matches!(effect, Effect::FirstOfTerm | Effect::ConfChange(_));
        let is_urgent = effects.iter().any(|(_, effect)| news(effect));
        effects.into_iter().for_each(|(_, effect)| self.carry_out(effect));
        // In one piece: raft must not count on an index as applied, and on the configuration before it.
        let applied = Order::Applied {
            index: last.index,
            conf_changes,
        };
        match is_urgent {
            true => self.member.hurry(applied),
            false => self.member.leave(applied),
        }
        let answered = Instant::now();
        let done = |outcome, revision| Done {
            outcome,
            revision,
            answered,
        };
        let answers = answers
            .into_iter()
            .map(|(id, outcome, revision)| (id, outcome.map(|outcome| done(outcome, revision))));
        self.replies.deliver(answers);
        // A member of the release the cluster has come down to refuses entries of the version it comes from.
        let cuts = self.machine.cluster().version() < version;
        if cuts || last.index >= self.snapshot_index + self.snapshot_count {
            self.snapshot_index = last.index;
            let index = last.index;
            self.chores.deliver(Chore::RaftSnapshot { index, cuts });
        }
        Ok(count)
    }

    fn apply(&mut self, entry: &Entry) -> Result<Applied, String> {
        let began = Instant::now();
        let now_ms = (began - self.started).as_millis() as u64;
        let changes = self.head.pending_changes();
        let applied = self.machine.apply(&mut self.head, &self.lessor, entry, now_ms);
        let mut applied = applied.map_err(|error| error.to_string())?;
        self.measure(entry, &applied, began.elapsed());
        self.count(&applied, self.head.pending_changes() - changes);
        if let Effect::ConfChange(change) = &applied.effect {
            let changed = consensus::apply_conf_change(&self.conf_state, change);
            self.conf_state = changed.map_err(|error| error.to_string())?;
        }
        if let Effect::Auth(tokens) = &mut applied.effect {
            self.note_users(std::mem::take(tokens));
        }
        Ok(applied)
    }

    /// Lets everybody know of a change of users or tokens. Before what comes after it is published, so that nobody
    /// reads by a permission that was gone when what is read was written; and tokens first, so that none is good for
    /// a later revision than the one that ended it.
    fn note_users(&self, tokens: TokenEffect) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        if let Some(remembered) = &self.tokens {
            remembered.lock().carry_out(tokens, now_ms);
        }
        let auth = self.machine.auth();
        match (self.board.auth_enabled(), auth.is_enabled()) {
            (false, true) => tracing::info!("enabled authentication"),
            (true, false) => tracing::info!("disabled authentication"),
            _ => {}
        }
        self.post_auth();
    }

    fn post_auth(&self) {
        let auth = self.machine.auth().clone();
        self.metrics.debugging_auth_revision.set(auth.revision() as i64);
        self.board.post_auth(auth);
    }

    fn note(&self, digests: &[(Index, u64)]) {
        let mut trail = self.trail.lock();
        for (index, digest) in digests {
            trail.push(*index, *digest);
        }
    }

    fn measure(&mut self, entry: &Entry, applied: &Applied, took: Duration) {
        let Some(kind) = applied.kind else { return };
        let metrics = &self.metrics;
        let durations = self
            .durations
            .entry((kind, applied.outcome.is_ok()))
            .or_insert_with(|| {
                let success = applied.outcome.is_ok().to_string();
                metrics
                    .server_apply_duration_seconds
                    .with(&["v3", kind, &success])
            });
        durations.observe_duration(took);
        match &applied.outcome {
            Ok(Outcome::LeaseGrant(lease)) => {
                metrics.debugging_lease_granted_total.inc();
                metrics.debugging_lease_ttl_total.observe(lease.ttl_secs as f64);
            }
            Ok(_) if kind == "LeaseRevoke" => metrics.debugging_lease_revoked_total.inc(),
            _ => {}
        }
        if took >= self.slow_apply {
            metrics.server_slow_apply_total.inc();
            tracing::warn!(
                took = %go::duration(took),
                "expected-duration" = %go::duration(self.slow_apply),
                request = kind,
                index = entry.index,
                "request-size" = entry.data.as_ref().map_or(0, |data| data.len()),
                "apply request took too long"
            );
        }
    }

    /// Counts operations, of an entry with so many changes. Puts are counted when they are published.
    fn count(&self, applied: &Applied, changes: usize) {
        let metrics = &self.metrics;
        match &applied.outcome {
            Ok(Outcome::DeleteRange(_)) => metrics.mvcc_delete_total.inc(),
            Ok(Outcome::Txn(response)) => {
                let operations = Operations::of(response);
                metrics.mvcc_delete_total.add(operations.deletes);
                metrics.count_reads(operations);
            }
            // The keys of a lease are deleted one by one.
            Ok(_) if applied.kind == Some("LeaseRevoke") => metrics.mvcc_delete_total.add(changes as u64),
            _ => {}
        }
    }

    /// Seals what was applied, and makes it visible: first to the store, then to readers, then to
    /// watchers.
    fn publish(&mut self, index: Index, term: Term) {
        let batch = self.head.seal(index, term, Some(self.conf_state.clone()));
        let (revision, compacted) = (batch.commit.revision, batch.commit.compact_revision);
        let changes = batch.changes.clone();
        self.count_changes(&changes);
        let backlog = self.store.append(batch);
        self.head.mvcc().publish(revision, compacted);
        if !changes.is_empty() {
            self.watches.feed(revision, changes);
        }
        self.board.post_applied(index);
        self.sync.appended(backlog);
    }

    fn count_changes(&self, changes: &[mvcc::Change]) {
        let metrics = &self.metrics;
        for change in changes {
            if change.tombstone {
                metrics.debugging_mvcc_keys_total.add(-1);
            } else if let Ok(kv) = KvRef::parse(&change.kv) {
                metrics.mvcc_put_total.inc();
                metrics.debugging_mvcc_keys_total.add((kv.version == 1).into());
                let size = kv.key().len() + kv.value().len();
                metrics.debugging_mvcc_total_put_size_in_bytes.add(size as i64);
            }
        }
    }

    /// What other loops have to do on account of an entry, now that it is visible.
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            // Users are noted at once.
            Effect::None | Effect::FirstOfTerm | Effect::Auth(_) => {}
            Effect::ConfChange(_) => {
                self.post_replicated();
                if self.machine.membership().is_removed(self.id) {
                    self.board.post_departure();
                }
            }
            Effect::Compaction(revision) => {
                self.watches.tell(Request::Compacted(revision));
                self.chores.deliver(Chore::Compact(revision));
            }
            Effect::Alarms | Effect::Published(_) | Effect::ClusterVersion | Effect::Downgrade => {
                self.post_replicated();
            }
        }
    }

    fn post_replicated(&self) {
        let cluster = self.machine.cluster();
        let alarms = self.machine.alarms().list(AlarmType::None);
        self.metrics.set_alarms(&alarms);
        if let Some(version) = cluster.version() {
            self.metrics
                .set_cluster_version(&version.minor_version().to_string());
        }
        let membership = self.machine.membership();
        self.metrics.set_members(self.id, membership);
        self.peers.follow(membership);
        versions::log_change(&self.board.replicated(), cluster);
        self.board.post_replicated(Replicated {
            membership: membership.clone(),
            members: membership.to_messages(),
            alarms,
            versions: cluster.clone(),
        });
    }
}
