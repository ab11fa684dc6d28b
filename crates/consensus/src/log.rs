//! The log in memory: every entry since the last snapshot, and some before it for those who lag.
//!
//! ```text
//!        base                                   last
//!   ──────┼──────────────┼───────────────────────┼
//!  dropped│   catch-up   │    since the snapshot  │
//!                     snapshot
//! ```
//!
//! Entries are here as soon as they are handed out to be written, so the engine never reads from a
//! disk; what of it is durable the engine tracks itself. Their data is shared with the messages and
//! writes they go into. Beside each entry stands the number of bytes up to its end, so that "how many
//! bytes are between these two" is a subtraction.
//!
//! Invariants: indexes are consecutive from `base.index + 1`, terms never fall, byte ends rise;
//! `base.index <= snapshot.index <= last` once there is a snapshot.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use types::{Index, Term};

/// Bytes of entries one call of the engine may read for sending, over all followers. A follower that
/// comes back from far behind is fed in portions of this size, each released by an acknowledgement.
pub(crate) const SEND_BURST_BYTES_MAX: u64 = 64 << 20;

/// What an entry costs beside its data, in a message and in memory; an estimate.
const ENTRY_OVERHEAD_BYTES: u64 = 16;

pub(crate) struct Log {
    initial: RaftState,
    /// Index and term of the entry before the first.
    base: (Index, Term),
    entries: VecDeque<Entry>,
    /// `ends[i]` is the number of bytes from the beginning of time to the end of `entries[i]`.
    ends: VecDeque<u64>,
    /// Bytes dropped before `base`.
    base_end: u64,
    /// What a follower that needs entries before `base` is sent; its data is added by the driver.
    snapshot: SnapshotMetadata,
    /// Bytes the running call of the engine may still read for sending.
    burst_left: Cell<u64>,
}

impl Log {
    /// A log that follows `snapshot`, with the state the engine starts from.
    pub(crate) fn new(hard_state: HardState, conf_state: ConfState, snapshot: SnapshotMetadata) -> Self {
        Log {
            initial: RaftState::new(hard_state, conf_state),
            base: (snapshot.index, snapshot.term),
            entries: VecDeque::new(),
            ends: VecDeque::new(),
            base_end: 0,
            snapshot,
            burst_left: Cell::new(SEND_BURST_BYTES_MAX),
        }
    }

    pub(crate) fn first(&self) -> Index {
        self.base.0 + 1
    }

    pub(crate) fn last(&self) -> Index {
        self.base.0 + self.entries.len() as u64
    }

    /// Takes entries that follow the log or replace its end.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        assert!(
            self.first() <= first && first <= self.last() + 1,
            "entries from {first} cannot follow a log of {}..={}",
            self.first(),
            self.last()
        );
        let keep = (first - self.first()) as usize;
        self.entries.truncate(keep);
        self.ends.truncate(keep);
        let mut end = self.end(self.last());
        for entry in entries {
            end += (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES;
            self.ends.push_back(end);
            self.entries.push_back(entry);
        }
    }

    /// Forgets everything for a snapshot from the leader.
    pub(crate) fn restore(&mut self, snapshot: SnapshotMetadata) {
        self.entries.clear();
        self.ends.clear();
        self.base = (snapshot.index, snapshot.term);
        self.snapshot = snapshot;
    }

    /// Notes a snapshot of our own and drops the entries up to `upto`, which it covers.
    pub(crate) fn compact(&mut self, snapshot: SnapshotMetadata, upto: Index) {
        self.snapshot = snapshot;
        let upto = upto.min(self.snapshot.index);
        if upto <= self.base.0 {
            return;
        }
        let dropped = (upto - self.base.0) as usize;
        self.base_end = self.end(upto);
        self.base = (upto, self.entries[dropped - 1].term);
        self.entries.drain(..dropped);
        self.ends.drain(..dropped);
    }

    /// Index of the snapshot a lagging follower would be sent; 0 if there is none.
    pub(crate) fn snapshot_index(&self) -> Index {
        self.snapshot.index
    }

    /// Bytes of the entries after `after`, up to and including `upto`; what is dropped counts nothing.
    pub(crate) fn bytes_between(&self, after: Index, upto: Index) -> u64 {
        self.end(upto).saturating_sub(self.end(after))
    }

    /// Lets the next call of the engine read for sending again.
    pub(crate) fn refill_burst(&self) {
        self.burst_left.set(SEND_BURST_BYTES_MAX);
    }

    fn end(&self, index: Index) -> u64 {
        match index.min(self.last()).checked_sub(self.first()) {
            Some(at) => self.ends[at as usize],
            None => self.base_end,
        }
    }

    /// Panics if an invariant of this type does not hold.
    pub(crate) fn check(&self) {
        assert_eq!(self.entries.len(), self.ends.len());
        let mut before = (self.base.0, self.base.1, self.base_end);
        for (entry, end) in self.entries.iter().zip(&self.ends) {
            assert_eq!(entry.index, before.0 + 1, "indexes are consecutive");
            assert!(entry.term >= before.1, "terms never fall");
            assert!(*end > before.2, "byte ends rise");
            before = (entry.index, entry.term, *end);
        }
        if self.snapshot.index != 0 {
            assert!(self.base.0 <= self.snapshot.index && self.snapshot.index <= self.last());
        } else {
            assert_eq!(self.base.0, 0, "only a snapshot lets entries go");
        }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let for_sending = context.can_async();
        if for_sending && self.burst_left.get() == 0 {
            return Err(Error::Store(StorageError::LogTemporarilyUnavailable));
        }
        let (from, to) = ((low - self.first()) as usize, (high - self.first()) as usize);
        let limit = self
            .end(low - 1)
            .saturating_add(max_size.into().unwrap_or(u64::MAX));
        let within = self.ends.range(from..to).take_while(|end| **end <= limit).count();
        let to = from + within.max(1).min(to - from);
        if for_sending && to > from {
            let read = self.bytes_between(low - 1, self.base.0 + to as u64);
            self.burst_left.set(self.burst_left.get().saturating_sub(read));
        }
        Ok(self.entries.range(from..to).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index.checked_sub(self.first()) {
            _ if index == self.base.0 => Ok(self.base.1),
            None => Err(Error::Store(StorageError::Compacted)),
            Some(at) => match self.entries.get(at as usize) {
                Some(entry) => Ok(entry.term),
                None => Err(Error::Store(StorageError::Unavailable)),
            },
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.index == 0 || self.snapshot.index < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(self.snapshot.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        let entry = |index| Entry {
            index,
            term,
            data: vec![b'x'; 84].into(),
            ..Default::default()
        };
        range.map(entry).collect()
    }

    fn meta(index: u64, term: u64) -> SnapshotMetadata {
        SnapshotMetadata {
            index,
            term,
            ..Default::default()
        }
    }

    fn log(upto: u64) -> Log {
        let mut log = Log::new(HardState::default(), ConfState::default(), meta(0, 0));
        log.append(entries(1..=upto, 1));
        log
    }

    fn read(log: &Log, low: u64, high: u64, max: Option<u64>) -> Vec<u64> {
        let read = log.entries(low, high, max, GetEntriesContext::empty(false));
        let read = read.expect("in range");
        read.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn a_new_end_replaces_the_old_one_and_its_bytes() {
        let mut log = log(10);
        log.append(entries(8..=8, 2));
        log.check();
        assert_eq!((log.last(), log.term(8).ok()), (8, Some(2)));
        assert_eq!(log.bytes_between(0, 8), 800);
        assert_eq!(log.bytes_between(7, 99), 100);
    }

    #[test]
    fn reads_stop_at_the_size_but_return_one_entry_at_least() {
        let log = log(10);
        assert_eq!(read(&log, 3, 9, None), [3, 4, 5, 6, 7, 8]);
        assert_eq!(read(&log, 3, 9, Some(250)), [3, 4]);
        assert_eq!(read(&log, 3, 9, Some(0)), [3]);
        assert_eq!(read(&log, 3, 3, Some(0)), []);
    }

    #[test]
    fn compaction_keeps_what_was_asked_for_and_the_term_before_it() {
        let mut log = log(10);
        log.compact(meta(7, 1), 4);
        log.check();
        assert_eq!((log.first(), log.last(), log.term(4).ok()), (5, 10, Some(1)));
        assert_eq!(log.bytes_between(4, 6), 200);
        assert!(log.term(3).is_err() && log.term(11).is_err());
        assert!(log.entries(4, 6, None, GetEntriesContext::empty(false)).is_err());
        log.compact(meta(9, 1), 2);
        log.check();
        assert_eq!((log.first(), log.snapshot_index()), (5, 9));
        log.compact(meta(10, 1), 10);
        log.check();
        assert_eq!((log.first(), log.last()), (11, 10));
    }

    #[test]
    fn a_snapshot_from_the_leader_replaces_everything() {
        let mut log = log(10);
        log.restore(meta(20, 3));
        log.check();
        assert_eq!((log.first(), log.last(), log.term(20).ok()), (21, 20, Some(3)));
        log.append(entries(21..=22, 3));
        log.check();
        assert_eq!(log.bytes_between(20, 22), 200);
    }

    #[test]
    fn one_call_reads_no_more_than_a_burst_for_sending() {
        let log = log(10);
        let sending = || GetEntriesContext::empty(true);
        log.burst_left.set(250);
        assert_eq!(
            log.entries(1, 11, Some(200), sending()).expect("a burst").len(),
            2
        );
        assert_eq!(
            log.entries(3, 11, Some(200), sending()).expect("the rest").len(),
            2
        );
        assert!(log.entries(5, 11, Some(200), sending()).is_err());
        log.refill_burst();
        assert!(log.entries(5, 11, Some(200), sending()).is_ok());
        assert_eq!(read(&log, 1, 2, None), [1]);
    }
}
