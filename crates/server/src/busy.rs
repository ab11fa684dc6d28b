//! How long the loops have been at what requests wait for, since the start: what a slow request's line of the log is
//! made of. Each loop adds what it has done; a request that turns out slow has looked at the sums before and looks again.
//! That costs two loads for a request, and tells whose time it was rather than what each step of it took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Sums of times.
#[derive(Debug, Default)]
pub struct Busy {
    fsync_ns: AtomicU64,
    apply_ns: AtomicU64,
}

/// The moment a request begins.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    at: Instant,
    fsync_ns: u64,
    apply_ns: u64,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// All of it.
    pub total: Duration,
    /// While the log was written and synced.
    pub fsync: Duration,
    /// While entries were applied.
    pub apply: Duration,
    /// From the answer to its taker.
    pub send: Duration,
    /// The rest: for its turn, and for other members.
    pub queue: Duration,
}

impl Busy {
    /// The log was written for so long.
    pub fn synced(&self, took: Duration) {
        self.fsync_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// Entries were applied for so long.
    pub fn applied(&self, took: Duration) {
        self.apply_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// A request begins.
    pub fn mark(&self) -> Mark {
        Mark {
            at: Instant::now(),
            fsync_ns: self.fsync_ns.load(Relaxed),
            apply_ns: self.apply_ns.load(Relaxed),
        }
    }

    /// Where the time since a mark went, if the answer left at `answered`. No part is longer than what the ones
    /// before it have left: loops work at the same time, and on what began before the request did.
    pub fn since(&self, mark: &Mark, answered: Option<Instant>, now: Instant) -> Spent {
        let total = now.saturating_duration_since(mark.at);
        let mut left = total;
        let mut part = |time: Duration| {
            let part = time.min(left);
            left -= part;
            part
        };
        let busy = |sum: &AtomicU64, before| Duration::from_nanos(sum.load(Relaxed) - before);
        let send = part(answered.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)));
        let fsync = part(busy(&self.fsync_ns, mark.fsync_ns));
        let apply = part(busy(&self.apply_ns, mark.apply_ns));
        Spent {
            total,
            fsync,
            apply,
            send,
            queue: left,
        }
    }
}

impl Mark {
    /// The time since.
    pub fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_parts_are_the_whole_and_what_nobody_was_at_is_the_queue() {
        let busy = Busy::default();
        busy.synced(MS(1000));
        let mark = busy.mark();
        busy.synced(MS(300));
        busy.applied(MS(20));
        let spent = busy.since(&mark, Some(mark.at + MS(390)), mark.at + MS(400));
        let expected = Spent {
            total: MS(400),
            fsync: MS(300),
            apply: MS(20),
            send: MS(10),
            queue: MS(70),
        };
        assert_eq!(spent, expected);
    }

    #[test]
    fn no_part_is_longer_than_what_is_left() {
        let busy = Busy::default();
        let mark = busy.mark();
        busy.synced(MS(300));
        busy.applied(MS(200));
        let spent = busy.since(&mark, None, mark.at + MS(400));
        assert_eq!((spent.fsync, spent.apply, spent.queue), (MS(300), MS(100), MS(0)));
    }
}
