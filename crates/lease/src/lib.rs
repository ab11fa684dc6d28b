//! Leases: replicated facts apart from the leader's clock.
//!
//! A lease is a promise by a client to call again: keys attached to it are deleted once it has not
//! been renewed for its time to live. What everyone agrees on and what only the leader knows are
//! two different things here:
//!
//! ```text
//!   Facts   id -> granted TTL, checkpointed remaining TTL      every member, changed only by apply
//!           attached keys, both ways                           (a function of the log)
//!   Clock   id -> deadline, queue of deadlines                 the leader only, made anew on promotion
//! ```
//!
//! Nothing expires by itself: the leader finds that a deadline has passed and **proposes** a revoke;
//! the lease and its keys go when that entry is applied, on all members at the same revision.
//! A renewal moves a deadline and touches no log. A new leader does not know when leases were last
//! renewed, so it gives each a whole TTL (or what the last checkpoint left of it) plus an election
//! timeout; nothing may expire early because a leader died.
//!
//! [`Lessor`] is the two together, meant to sit behind one mutex shared by the apply loop and the
//! lease handlers: each call costs O(log n), except `promote`, `restore` and `list`.
//! All maps are ordered ones, so there is no rehash that stalls a million leases, and iteration order
//! is the same on every run. Times are milliseconds of a monotonic clock, passed in.
//!
//! # Invariants ([`Lessor::check`])
//!
//! * A key is attached to at most one lease, and that lease exists.
//! * On the leader every lease has exactly one deadline and one place in the queue; elsewhere none.
//!
//! # Sources
//!
//! etcd's page "How to create lease"; the numbers are those of etcd 3.7.1 (minimum TTL, maximum TTL,
//! spreading). Spreading differs in method: see [`Lessor::promote`].

mod clock;
mod facts;

use std::sync::Arc;

use types::{ErrorKind, LeaseId};

use clock::Clock;
use facts::Facts;

/// The largest TTL that is granted, in seconds: with it, deadlines in nanoseconds fit 63 bits.
pub const TTL_SECS_MAX: i64 = 9_000_000_000;

/// From this many leases on, a promotion spreads their deadlines.
pub const SPREAD_FROM: usize = 1000;

/// How many leases may expire in a second after a promotion that spreads: three quarters of the
/// 1000 revokes a second that a leader proposes, so that leases that expire in their own time get
/// their turn too.
pub const SPREAD_PER_SEC: u64 = 750;

/// An attached key, shared between the two directions of the attachment.
pub type AttachedKey = Arc<[u8]>;

/// What a lessor must be told.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Shorter TTLs are raised to this, in seconds. It decides what is granted at apply, so members
    /// must agree on it: see [`min_ttl_secs`].
    pub min_ttl_secs: i64,
    /// How long a revoke may be under way before the lease is offered as expired again, in
    /// milliseconds: the request timeout.
    pub revoke_retry_ms: u64,
}

/// The minimum TTL in seconds for an election timeout: one and a half times it, rounded up.
pub fn min_ttl_secs(election_timeout_ms: u64) -> i64 {
    let secs = election_timeout_ms.saturating_mul(3).div_ceil(2000);
    i64::try_from(secs).map_or(TTL_SECS_MAX, |secs| secs.min(TTL_SECS_MAX))
}

/// The replicated facts of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id, never 0.
    pub id: LeaseId,
    /// The TTL that was granted, in seconds.
    pub ttl_secs: i64,
    /// The remaining TTL of the last checkpoint, in seconds; 0 or less when there is none.
    pub remaining_secs: i64,
}

impl Lease {
    /// The TTL a new leader starts this lease with, in seconds.
    fn restart_secs(&self) -> i64 {
        if self.remaining_secs > 0 {
            self.remaining_secs
        } else {
            self.ttl_secs
        }
    }
}

/// Answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The TTL that begins anew, in seconds.
    pub ttl_secs: i64,
    /// The lease has a checkpoint that is now too short: propose one of 0.
    pub clear_checkpoint: bool,
}

/// Why a lease was not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewError {
    /// No such lease.
    NotFound,
    /// The deadline has passed and the lease is about to be revoked. A caller may wait until it is
    /// gone or this member is no longer the leader.
    Expired,
    /// This member does not keep the clock.
    NotPrimary,
}

impl From<RenewError> for ErrorKind {
    fn from(error: RenewError) -> Self {
        match error {
            RenewError::NotFound | RenewError::Expired => ErrorKind::LeaseNotFound,
            RenewError::NotPrimary => ErrorKind::NotPrimary,
        }
    }
}

/// Answer to the question how long a lease still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// The TTL that was granted, in seconds.
    pub granted_secs: i64,
    /// Whole seconds until the deadline; 0 or less while the revoke is under way.
    pub remaining_secs: i64,
}

/// All leases of a member.
#[derive(Debug)]
pub struct Lessor {
    config: Config,
    facts: Facts,
    /// Present while this member is the leader.
    clock: Option<Clock>,
}

/// The facts: called by the apply loop only, the same calls in the same order on every member.
impl Lessor {
    /// A lessor without leases, not primary.
    pub fn new(config: Config) -> Self {
        Lessor {
            config,
            facts: Facts::default(),
            clock: None,
        }
    }

    /// Forgets everything and starts over with these leases, without keys and not primary.
    pub fn restore(&mut self, leases: impl IntoIterator<Item = Lease>) {
        self.facts = Facts::new(leases);
        self.clock = None;
    }

    /// Grants a lease of at least `ttl_secs` (the minimum is used for less, also for negative ones).
    pub fn grant(&mut self, id: LeaseId, ttl_secs: i64, now_ms: u64) -> Result<Lease, ErrorKind> {
        if id == LeaseId(0) {
            return Err(ErrorKind::LeaseNotFound);
        }
        if ttl_secs > TTL_SECS_MAX {
            return Err(ErrorKind::LeaseTTLTooLarge);
        }
        let lease = Lease {
            id,
            ttl_secs: ttl_secs.max(self.config.min_ttl_secs),
            remaining_secs: 0,
        };
        if !self.facts.insert(lease) {
            return Err(ErrorKind::LeaseExist);
        }
        if let Some(clock) = &mut self.clock {
            clock.set(id, deadline_ms(now_ms, lease.ttl_secs));
        }
        Ok(lease)
    }

    /// Ends a lease and hands back the keys that were attached to it, in order; they are to be
    /// deleted with it.
    pub fn revoke(&mut self, id: LeaseId) -> Result<Vec<AttachedKey>, ErrorKind> {
        let keys = self.facts.remove(id).ok_or(ErrorKind::LeaseNotFound)?;
        if let Some(clock) = &mut self.clock {
            clock.remove(id);
        }
        Ok(keys)
    }

    /// Notes how much of its TTL a lease has left; an unknown lease is passed over. The deadline of
    /// a running clock stays as it is.
    pub fn checkpoint(&mut self, id: LeaseId, remaining_secs: i64) -> Option<Lease> {
        self.facts.checkpoint(id, remaining_secs)
    }

    /// Attaches `key` to the lease, and detaches it from any other.
    pub fn attach(&mut self, key: &[u8], id: LeaseId) -> Result<(), ErrorKind> {
        self.facts.attach(key, id)
    }

    /// Detaches `key` from its lease, if it has one.
    pub fn detach(&mut self, key: &[u8]) {
        self.facts.detach(key);
    }
}

/// Questions any member can answer.
impl Lessor {
    /// The facts of one lease.
    pub fn get(&self, id: LeaseId) -> Option<Lease> {
        self.facts.get(id)
    }

    /// The lease that `key` is attached to.
    pub fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        self.facts.lease_of(key)
    }

    /// The keys attached to a lease, in order.
    pub fn keys(&self, id: LeaseId) -> impl Iterator<Item = &AttachedKey> {
        self.facts.keys(id)
    }

    /// All leases by id.
    pub fn iter(&self) -> impl Iterator<Item = Lease> {
        self.facts.iter()
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids ordered by deadline; by id where no clock runs.
    pub fn list(&self) -> Vec<LeaseId> {
        match &self.clock {
            Some(clock) => clock.by_deadline(),
            None => self.facts.iter().map(|lease| lease.id).collect(),
        }
    }
}

/// The clock: the leader's side.
impl Lessor {
    /// Whether this member keeps the clock.
    pub fn is_primary(&self) -> bool {
        self.clock.is_some()
    }

    /// Starts the clock: every lease gets its TTL, or what its checkpoint says is left, plus
    /// `extend_ms`, the election timeout.
    ///
    /// Leases granted together would also expire together, all at once if the old leader was gone
    /// long enough. With [`SPREAD_FROM`] leases or more, deadlines are therefore pushed back until
    /// neighbours are a [`SPREAD_PER_SEC`]th of a second apart; order is kept and none moves
    /// forward. (etcd does so only for the part of a second's leases above that rate.)
    pub fn promote(&mut self, now_ms: u64, extend_ms: u64) {
        let mut deadlines: Vec<(u64, LeaseId)> = self
            .facts
            .iter()
            .map(|lease| {
                (
                    deadline_ms(now_ms, lease.restart_secs()).saturating_add(extend_ms),
                    lease.id,
                )
            })
            .collect();
        deadlines.sort_unstable();
        if deadlines.len() >= SPREAD_FROM {
            spread(&mut deadlines);
        }
        self.clock = Some(Clock::new(deadlines));
    }

    /// Stops the clock: another member leads.
    pub fn demote(&mut self) {
        self.clock = None;
    }

    /// Begins a lease's TTL anew. An expired lease stays expired: its revoke may be under way, and an
    /// answer must not be undone by it.
    pub fn renew(&mut self, id: LeaseId, now_ms: u64) -> Result<Renewed, RenewError> {
        let clock = self.clock.as_mut().ok_or(RenewError::NotPrimary)?;
        let lease = self.facts.get(id).ok_or(RenewError::NotFound)?;
        if clock.deadline_ms(id).is_none_or(|deadline| deadline <= now_ms) {
            return Err(RenewError::Expired);
        }
        clock.set(id, deadline_ms(now_ms, lease.ttl_secs));
        Ok(Renewed {
            ttl_secs: lease.ttl_secs,
            clear_checkpoint: lease.remaining_secs > 0,
        })
    }

    /// How long a lease still lives. Errors: `NotPrimary`, `LeaseNotFound`.
    pub fn time_to_live(&self, id: LeaseId, now_ms: u64) -> Result<TimeToLive, ErrorKind> {
        let clock = self.clock.as_ref().ok_or(ErrorKind::NotPrimary)?;
        let lease = self.facts.get(id).ok_or(ErrorKind::LeaseNotFound)?;
        let deadline = clock.deadline_ms(id).ok_or(ErrorKind::LeaseNotFound)?;
        let remaining_ms = i128::from(deadline) - i128::from(now_ms);
        let remaining_secs = i64::try_from(remaining_ms / 1000).unwrap_or(TTL_SECS_MAX);
        Ok(TimeToLive {
            granted_secs: lease.ttl_secs,
            remaining_secs,
        })
    }

    /// Up to `max` leases whose deadline has passed, longest overdue first. Each is offered again
    /// only after the retry time, when its revoke must have failed.
    pub fn expired(&mut self, now_ms: u64, max: usize) -> Vec<LeaseId> {
        let retry_at_ms = now_ms.saturating_add(self.config.revoke_retry_ms.max(1));
        match &mut self.clock {
            Some(clock) => clock.take_due(now_ms, retry_at_ms, max),
            None => Vec::new(),
        }
    }

    /// Checkpoints to propose, of the next `max` leases after `after`: for those that had more than `interval_secs` at
    /// their last one, the whole seconds they have left, if that is less. The second part is the last lease that was
    /// looked at. Done for all leases every `interval_secs`, a new leader makes no long lease longer by more than that.
    pub fn checkpoints(
        &self,
        now_ms: u64,
        interval_secs: i64,
        after: Option<LeaseId>,
        max: usize,
    ) -> (Vec<(LeaseId, i64)>, Option<LeaseId>) {
        let Some(clock) = &self.clock else {
            return (Vec::new(), None);
        };
        let left = |lease: Lease| {
            let left_ms = clock.deadline_ms(lease.id)?.checked_sub(now_ms)?;
            let left_secs = i64::try_from(left_ms.div_ceil(1000)).unwrap_or(TTL_SECS_MAX);
            let has_news =
                lease.restart_secs() > interval_secs && (1..lease.restart_secs()).contains(&left_secs);
            has_news.then_some((lease.id, left_secs))
        };
        let leases = || self.facts.after(after).take(max);
        (
            leases().filter_map(left).collect(),
            leases().last().map(|lease| lease.id),
        )
    }

    /// When [`expired`](Self::expired) will next have something to say.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.clock.as_ref()?.next_due_ms()
    }

    /// Checks the invariants listed in the crate's header. O(n).
    pub fn check(&self) -> Result<(), String> {
        self.facts.check()?;
        match &self.clock {
            Some(clock) => clock.check(self.facts.iter().map(|lease| lease.id)),
            None => Ok(()),
        }
    }
}

/// When a TTL that begins now ends.
fn deadline_ms(now_ms: u64, ttl_secs: i64) -> u64 {
    now_ms.saturating_add(u64::try_from(ttl_secs).unwrap_or(0).saturating_mul(1000))
}

/// Pushes ascending deadlines apart to [`SPREAD_PER_SEC`].
fn spread(deadlines: &mut [(u64, LeaseId)]) {
    // The slot of the i-th lease in a run of crowded ones, without accumulating rounding errors.
    let (mut run_start_ms, mut position) = (0, 0);
    for (deadline_ms, _) in deadlines {
        let slot_ms = run_start_ms + position * 1000 / SPREAD_PER_SEC;
        if *deadline_ms > slot_ms {
            (run_start_ms, position) = (*deadline_ms, 0);
        }
        *deadline_ms = (*deadline_ms).max(slot_ms);
        position += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY_MS: u64 = 7000;

    fn lessor() -> Lessor {
        Lessor::new(Config {
            min_ttl_secs: 2,
            revoke_retry_ms: RETRY_MS,
        })
    }

    fn id(n: usize) -> LeaseId {
        LeaseId(n as i64)
    }

    #[test]
    fn the_minimum_ttl_is_one_and_a_half_election_timeouts_rounded_up() {
        assert_eq!(min_ttl_secs(1000), 2);
        assert_eq!(min_ttl_secs(2000), 3);
        assert_eq!(min_ttl_secs(100), 1);
        assert_eq!(min_ttl_secs(u64::MAX), TTL_SECS_MAX);
    }

    #[test]
    fn short_and_negative_ttls_become_the_minimum_and_huge_ones_are_refused() {
        let mut lessor = lessor();
        assert_eq!(lessor.grant(id(1), i64::MIN, 0).unwrap().ttl_secs, 2);
        assert_eq!(lessor.grant(id(2), 3, 0).unwrap().ttl_secs, 3);
        assert_eq!(
            lessor.grant(id(3), TTL_SECS_MAX, 0).unwrap().ttl_secs,
            TTL_SECS_MAX
        );
        assert_eq!(
            lessor.grant(id(4), TTL_SECS_MAX + 1, 0),
            Err(ErrorKind::LeaseTTLTooLarge)
        );
    }

    #[test]
    fn ids_may_be_negative_but_not_zero_nor_taken() {
        let mut lessor = lessor();
        for n in [-1, i64::MIN, i64::MAX] {
            assert!(lessor.grant(LeaseId(n), 5, 0).is_ok());
            assert_eq!(lessor.grant(LeaseId(n), 5, 0), Err(ErrorKind::LeaseExist));
        }
        assert_eq!(lessor.grant(LeaseId(0), 5, 0), Err(ErrorKind::LeaseNotFound));
    }

    #[test]
    fn a_revoke_hands_back_the_attached_keys_in_order() {
        let mut lessor = lessor();
        lessor.grant(id(1), 5, 0).unwrap();
        lessor.grant(id(2), 5, 0).unwrap();
        for key in ["c", "a", "b"] {
            lessor.attach(key.as_bytes(), id(1)).unwrap();
        }
        lessor.attach(b"b", id(2)).unwrap();
        lessor.detach(b"c");
        lessor.attach(b"d", id(1)).unwrap();
        assert_eq!(lessor.lease_of(b"b"), Some(id(2)));
        assert_eq!(lessor.attach(b"x", id(3)), Err(ErrorKind::LeaseNotFound));

        let keys = lessor.revoke(id(1)).unwrap();
        assert_eq!(keys.iter().map(|key| &key[..]).collect::<Vec<_>>(), [b"a", b"d"]);
        assert_eq!(lessor.revoke(id(1)), Err(ErrorKind::LeaseNotFound));
        assert_eq!(lessor.lease_of(b"a"), None);
        lessor.check().unwrap();
    }

    #[test]
    fn only_the_primary_renews_and_tells_the_time() {
        let mut lessor = lessor();
        lessor.grant(id(1), 5, 0).unwrap();
        assert_eq!(lessor.renew(id(1), 0), Err(RenewError::NotPrimary));
        assert_eq!(lessor.time_to_live(id(1), 0), Err(ErrorKind::NotPrimary));
        assert_eq!(lessor.expired(u64::MAX, 10), []);

        lessor.promote(0, 1000);
        assert_eq!(lessor.renew(id(9), 0), Err(RenewError::NotFound));
        let ttl = lessor.time_to_live(id(1), 500).unwrap();
        assert_eq!(
            ttl,
            TimeToLive {
                granted_secs: 5,
                remaining_secs: 5
            }
        );
        assert_eq!(lessor.renew(id(1), 500).unwrap().ttl_secs, 5);
        assert_eq!(lessor.time_to_live(id(1), 1000).unwrap().remaining_secs, 4);

        lessor.demote();
        assert_eq!(lessor.renew(id(1), 0), Err(RenewError::NotPrimary));
    }

    #[test]
    fn an_expired_lease_can_not_be_renewed_and_is_offered_again_only_after_the_retry_time() {
        let mut lessor = lessor();
        lessor.promote(0, 0);
        lessor.grant(id(1), 5, 0).unwrap();
        assert_eq!(lessor.next_due_ms(), Some(5000));
        assert_eq!(lessor.expired(4999, 10), []);
        assert_eq!(lessor.expired(5000, 10), [id(1)]);
        assert_eq!(lessor.renew(id(1), 5001), Err(RenewError::Expired));
        assert_eq!(lessor.time_to_live(id(1), 6500).unwrap().remaining_secs, -1);
        assert_eq!(lessor.expired(5000 + RETRY_MS - 1, 10), []);
        assert_eq!(lessor.expired(5000 + RETRY_MS, 10), [id(1)]);
        lessor.revoke(id(1)).unwrap();
        assert_eq!(lessor.next_due_ms(), None);
    }

    #[test]
    fn a_new_leader_starts_from_the_checkpoint_and_a_renewal_asks_to_clear_it() {
        let mut lessor = lessor();
        lessor.grant(id(1), 600, 0).unwrap();
        assert_eq!(lessor.checkpoint(id(1), 200).unwrap().remaining_secs, 200);
        assert_eq!(lessor.checkpoint(id(2), 200), None);
        lessor.promote(0, 1000);
        assert_eq!(lessor.time_to_live(id(1), 0).unwrap().remaining_secs, 201);
        assert_eq!(
            lessor.renew(id(1), 0),
            Ok(Renewed {
                ttl_secs: 600,
                clear_checkpoint: true
            })
        );
        assert_eq!(lessor.time_to_live(id(1), 0).unwrap().remaining_secs, 600);
    }

    #[test]
    fn long_leases_are_checkpointed_with_what_they_have_left() {
        const MINUTES: i64 = 60;
        let mut lessor = lessor();
        let at = |lessor: &Lessor, secs: u64| lessor.checkpoints(secs * 1000 - 1, 5 * MINUTES, None, 10).0;
        for (n, ttl_secs) in [(1, 60), (2, 300), (3, 301), (4, 3600)] {
            lessor.grant(id(n), ttl_secs, 0).unwrap();
        }
        assert_eq!(at(&lessor, 300), [], "another member leads");
        lessor.promote(0, 0);
        assert_eq!(at(&lessor, 1), [], "nothing has passed");
        assert_eq!(at(&lessor, 300), [(id(3), 2), (id(4), 3301)]);
        let page = |after| lessor.checkpoints(299_999, 300, after, 3);
        assert_eq!(page(None), (vec![(id(3), 2)], Some(id(3))));
        assert_eq!(page(Some(id(3))), (vec![(id(4), 3301)], Some(id(4))));
        assert_eq!(page(Some(id(4))), (vec![], None));
        for (id, left) in at(&lessor, 300) {
            lessor.checkpoint(id, left);
        }
        assert_eq!(at(&lessor, 300), [], "that is known now");
        assert_eq!(at(&lessor, 302), [(id(4), 3299)], "lease 3 is about to end");
        assert_eq!(at(&lessor, 3601), [], "all have ended");
        // A new leader goes on from there, and a renewal is news once it has run down again.
        lessor.promote(0, 0);
        assert_eq!(lessor.time_to_live(id(4), 0).unwrap().remaining_secs, 3301);
        lessor.renew(id(4), 0).unwrap();
        lessor.checkpoint(id(4), 0);
        assert_eq!(at(&lessor, 300), [(id(4), 3301)]);
    }

    #[test]
    fn leader_changes_never_shorten_a_lease() {
        let mut lessor = lessor();
        lessor.grant(id(1), 60, 0).unwrap();
        for leader in 0..10 {
            let now_ms = leader * 30_000;
            lessor.promote(now_ms, 1000);
            assert_eq!(lessor.time_to_live(id(1), now_ms).unwrap().remaining_secs, 61);
            assert_eq!(lessor.expired(now_ms + 60_999, 10), []);
            lessor.demote();
        }
    }

    #[test]
    fn the_list_is_ordered_by_deadline_even_while_revokes_are_under_way() {
        let mut lessor = lessor();
        lessor.promote(0, 0);
        for (n, ttl) in [(1, 30), (2, 10), (3, 20)] {
            lessor.grant(id(n), ttl, 0).unwrap();
        }
        assert_eq!(lessor.list(), [id(2), id(3), id(1)]);
        assert_eq!(lessor.expired(15_000, 10), [id(2)]);
        assert_eq!(lessor.list(), [id(2), id(3), id(1)]);
        lessor.demote();
        assert_eq!(lessor.list(), [id(1), id(2), id(3)]);
    }

    #[test]
    fn a_promotion_with_few_leases_leaves_deadlines_together() {
        let mut lessor = lessor();
        for n in 1..SPREAD_FROM {
            lessor.grant(id(n), 10, 0).unwrap();
        }
        lessor.promote(0, 1000);
        assert_eq!(lessor.expired(11_000, usize::MAX).len(), SPREAD_FROM - 1);
    }

    #[test]
    fn a_promotion_with_many_leases_spreads_them_to_750_a_second_and_none_forward() {
        let mut lessor = lessor();
        for n in 1..=3000 {
            lessor.grant(id(n), 10, 0).unwrap();
        }
        lessor.grant(id(9999), 60, 0).unwrap();
        lessor.promote(0, 1000);
        assert_eq!(lessor.expired(10_999, usize::MAX), []);
        for second in 1..=4 {
            let count = lessor.expired(11_000 + second * 1000 - 1, usize::MAX).len();
            assert!((749..=751).contains(&count), "{count} leases in second {second}");
        }
        assert_eq!(lessor.time_to_live(id(9999), 0).unwrap().remaining_secs, 61);
        lessor.check().unwrap();
    }
}
