//! Ids of requests: unique across members and restarts without asking anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use types::MemberId;

/// Bits that count requests within one start of the process.
const COUNTER_BITS: u32 = 8;
/// Bits that hold the start time in milliseconds, the counter's bits included.
const SUFFIX_BITS: u32 = 48;

/// Hands out ids: two bytes of the member's id, five of the start time, and a counter that runs on
/// into the time's bits. Two starts of one member collide only if the first handed out more than 256
/// ids for every millisecond it ran.
pub struct RequestIds {
    prefix: u64,
    suffix: AtomicU64,
}

impl RequestIds {
    /// For this member, started at `now_ms` (milliseconds since 1970).
    pub fn new(member: MemberId, now_ms: u64) -> Self {
        let suffix = now_ms << COUNTER_BITS & ((1 << SUFFIX_BITS) - 1);
        RequestIds {
            prefix: member.0 << SUFFIX_BITS,
            suffix: AtomicU64::new(suffix),
        }
    }

    /// An id nobody has had; never 0, which means "no id" in the log.
    pub fn next(&self) -> u64 {
        let suffix = self.suffix.fetch_add(1, Ordering::Relaxed) & ((1 << SUFFIX_BITS) - 1);
        (self.prefix | suffix).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_members_and_starts_differ() {
        let first = RequestIds::new(MemberId(0xabcd), 1_000);
        let again = RequestIds::new(MemberId(0xabcd), 1_001);
        let other = RequestIds::new(MemberId(0xabce), 1_000);
        let ids = [first.next(), first.next(), again.next(), other.next()];
        assert!(ids.iter().enumerate().all(|(at, id)| !ids[..at].contains(id)));
    }
}
