//! The syncer: brings the store's files up to what was applied.
//!
//! No write waits for it: the raft log has every entry behind the last synced commit. It works in
//! large pieces, so that many small batches cost one write and one fsync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use store::{Store, SyncError};

use super::Failure;
use crate::metrics::Metrics;

/// How long applied batches wait for company before they are synced: etcd's default commit interval.
/// It bounds what is replayed after a crash, not what is lost.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// Unsynced bytes that are not worth waiting any longer with.
const SYNC_BYTES: u64 = 4 << 20;

/// How long a full disk is left alone before it is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Signals between the apply loop and the syncer.
#[derive(Default)]
pub struct SyncSignals {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct State {
    dirty: bool,
    urgent: bool,
    closed: bool,
}

impl SyncSignals {
    /// Something was appended.
    pub fn appended(&self, backlog: store::Backlog) {
        let mut state = self.state.lock();
        if !state.dirty || backlog.bytes >= SYNC_BYTES {
            state.dirty = true;
            state.urgent |= backlog.bytes >= SYNC_BYTES;
            self.work.notify_one();
        }
    }

    /// Waits while the disk is too far behind for more to be appended.
    pub fn wait_for_room(&self, store: &Store) {
        if store.backlog().is_full() {
            let mut state = self.state.lock();
            while store.backlog().is_full() && !state.closed {
                self.done.wait(&mut state);
            }
        }
    }

    /// Ends the syncer.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
        self.done.notify_all();
    }

    /// Waits for work, and a little longer for more of it. `false` when it is time to end.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.dirty && !state.closed {
            self.work.wait(&mut state);
        }
        let due = Instant::now() + SYNC_INTERVAL;
        while !state.urgent && !state.closed {
            if self.work.wait_until(&mut state, due).timed_out() {
                break;
            }
        }
        (state.dirty, state.urgent) = (false, false);
        !state.closed
    }

    /// Tries again after a while, unless it is time to end.
    fn retry_later(&self) {
        let mut state = self.state.lock();
        state.dirty = true;
        let due = Instant::now() + RETRY_INTERVAL;
        while !state.closed && !self.work.wait_until(&mut state, due).timed_out() {}
    }

    fn finished_round(&self) {
        // Under the lock, so that it does not fall between a waiter's look and its wait.
        let _state = self.state.lock();
        self.done.notify_all();
    }
}

/// Runs until closed; leaves the store synced and with a checkpoint.
pub fn run(store: Arc<Store>, signals: Arc<SyncSignals>, metrics: Arc<Metrics>, failure: Failure) {
    loop {
        let open = signals.wait();
        let started = Instant::now();
        let synced = if open { store.sync_step() } else { store.close() };
        let took = started.elapsed();
        metrics
            .disk_backend_commit_duration_seconds
            .observe_duration(took);
        // A commit is nothing but the writing of what was applied.
        metrics
            .debugging_disk_backend_commit_write_duration_seconds
            .observe_duration(took);
        match synced {
            Ok(()) => signals.finished_round(),
            // Nothing is lost: the log has it. Apply waits when the backlog is full.
            Err(SyncError::NoSpace(error)) if open => {
                tracing::error!(error = %error, "the disk is full; free some space, the store goes on by itself");
                signals.retry_later();
            }
            Err(error) => {
                failure.report("cannot write the store to disk", error);
                return signals.close();
            }
        }
        if !open {
            return;
        }
    }
}
