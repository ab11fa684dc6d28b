//! What a client may rely on when it is told that its lease lives: for a whole TTL from when it asked, the
//! lease does not run out, whoever leads meanwhile.

use std::collections::BTreeMap;

/// Members count whole milliseconds from their start: so much too early is in time, in microseconds.
const ROUNDING_US: u64 = 2_000;

/// The promises about leases. Times are in microseconds.
#[derive(Default)]
pub struct Promises {
    /// Until when a client was told that a lease lives.
    until: BTreeMap<i64, u64>,
    /// Requests by which leaders let leases run out.
    expiries: BTreeMap<u64, i64>,
    /// When a lease ran out.
    ended: BTreeMap<i64, u64>,
}

impl Promises {
    /// A client is told that a lease lives until then.
    pub fn lives(&mut self, lease: i64, until: u64) {
        let promised = self.until.entry(lease).or_default();
        *promised = until.max(*promised);
        self.check(lease);
    }

    /// A leader asks for the end of a lease, because its time is over there. That leader may have been
    /// replaced long ago: what counts is whether this gets into the log.
    pub fn expires(&mut self, request: u64, lease: i64) {
        self.expiries.insert(request, lease);
    }

    /// A request that ends a lease takes effect.
    pub fn ends(&mut self, request: u64, now: u64) {
        if let Some(lease) = self.expiries.remove(&request) {
            self.ended.insert(lease, now);
            self.check(lease);
        }
    }

    /// How many leases ran out.
    pub fn ended(&self) -> u64 {
        self.ended.len() as u64
    }

    /// Leases that clients know.
    pub fn known(&self) -> Vec<i64> {
        self.until.keys().copied().collect()
    }

    fn check(&self, lease: i64) {
        if let (Some(until), Some(ended)) = (self.until.get(&lease), self.ended.get(&lease)) {
            assert!(
                ended + ROUNDING_US >= *until,
                "lease {lease} ran out at {ended}, and a client was told that it lives until {until}"
            );
        }
    }
}
