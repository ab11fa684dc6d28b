//! What only the leader knows: when each lease ends.

use std::collections::{BTreeMap, BTreeSet};

use types::LeaseId;

/// A deadline for every lease, and a queue of what is due next.
///
/// A lease's place in the queue is its deadline, until it has been handed out as expired: then it is
/// the time at which it is handed out again.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    times: BTreeMap<LeaseId, Times>,
    queue: BTreeSet<(u64, LeaseId)>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    deadline_ms: u64,
    due_ms: u64,
}

impl Clock {
    pub(crate) fn new(deadlines: Vec<(u64, LeaseId)>) -> Self {
        let at = |deadline_ms| Times {
            deadline_ms,
            due_ms: deadline_ms,
        };
        Clock {
            times: deadlines
                .iter()
                .map(|&(deadline_ms, id)| (id, at(deadline_ms)))
                .collect(),
            queue: deadlines.into_iter().collect(),
        }
    }

    /// Gives a lease its first or a new deadline.
    pub(crate) fn set(&mut self, id: LeaseId, deadline_ms: u64) {
        let times = Times {
            deadline_ms,
            due_ms: deadline_ms,
        };
        if let Some(old) = self.times.insert(id, times) {
            self.queue.remove(&(old.due_ms, id));
        }
        self.queue.insert((deadline_ms, id));
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some(old) = self.times.remove(&id) {
            self.queue.remove(&(old.due_ms, id));
        }
    }

    pub(crate) fn deadline_ms(&self, id: LeaseId) -> Option<u64> {
        self.times.get(&id).map(|times| times.deadline_ms)
    }

    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.queue.first().map(|&(due_ms, _)| due_ms)
    }

    /// Up to `max` leases that are due; each is due again at `retry_at_ms`.
    pub(crate) fn take_due(&mut self, now_ms: u64, retry_at_ms: u64, max: usize) -> Vec<LeaseId> {
        let due = |&&(due_ms, _): &&(u64, LeaseId)| due_ms <= now_ms;
        let ids: Vec<LeaseId> = self
            .queue
            .iter()
            .take_while(due)
            .take(max)
            .map(|&(_, id)| id)
            .collect();
        for id in &ids {
            self.retry(*id, retry_at_ms);
        }
        ids
    }

    fn retry(&mut self, id: LeaseId, due_ms: u64) {
        if let Some(times) = self.times.get_mut(&id) {
            self.queue.remove(&(times.due_ms, id));
            self.queue.insert((due_ms, id));
            times.due_ms = due_ms;
        }
    }

    pub(crate) fn by_deadline(&self) -> Vec<LeaseId> {
        let mut ids: Vec<_> = self
            .times
            .iter()
            .map(|(id, times)| (times.deadline_ms, *id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn check(&self, leases: impl Iterator<Item = LeaseId>) -> Result<(), String> {
        if !leases.eq(self.times.keys().copied()) {
            return Err("the clock does not know exactly the leases there are".into());
        }
        let mut queue: Vec<_> = self.times.iter().map(|(id, times)| (times.due_ms, *id)).collect();
        queue.sort_unstable();
        if !queue.iter().eq(&self.queue) {
            return Err("the queue does not hold exactly one place for every lease".into());
        }
        Ok(())
    }
}
