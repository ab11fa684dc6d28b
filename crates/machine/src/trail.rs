//! The rolling state hash: whether members did the same, found out while they run.
//!
//! What applying an entry did to keys, leases, users and alarms is one number, the entry's digest
//! ([`Applied::digest`](crate::Applied)). A [`Trail`] adds them up. Where it begins does not matter: the
//! difference of two sums is a hash of the entries between them, and equal on all members that applied
//! both ends, however they batched, whenever they were restarted, whatever snapshot they began with.
//!
//! Members show each other [`Mark`]s, sums at some indexes: at multiples of 1024, which all of them keep for
//! long, and at the newest. Two members with two marks in common can be compared between these.
//!
//! What a member knows for itself is left out of the digest: its storage version, and of a lease the times,
//! which depend on a member's settings.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use types::{Index, MemberId};

/// Every so many entries a sum is kept for long.
const SPACING: Index = 1024;
/// Sums that are kept for long: half a million entries, some ten seconds at full load.
const ALIGNED_MAX: usize = 512;
/// Sums of the newest entries, so that members a little apart have their newest marks in common.
const RECENT_MAX: usize = 2048;
/// Marks that are looked at in another member's answer; a longer one is not ours.
pub const MARKS_MAX: usize = ALIGNED_MAX + 3;

/// The sum of the digests up to an entry, from wherever the trail began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The entry.
    pub index: Index,
    /// The sum.
    pub sum: u64,
}

/// Entries: those behind `after` up to `upto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Window {
    pub after: Index,
    pub upto: Index,
}

/// The sums of one member.
#[derive(Clone, Debug)]
pub struct Trail {
    aligned: VecDeque<Mark>,
    /// The sums at the newest indexes in a row, never empty.
    recent: VecDeque<u64>,
    last: Index,
}

impl Trail {
    /// A trail that begins behind the entry `applied`.
    pub fn new(applied: Index) -> Self {
        Trail {
            aligned: VecDeque::new(),
            recent: VecDeque::from([0]),
            last: applied,
        }
    }

    /// Adds an entry. One that is not the next, as after a snapshot, begins a new trail.
    pub fn push(&mut self, index: Index, digest: u64) {
        if index != self.last + 1 {
            *self = Trail::new(index.saturating_sub(1));
        }
        let sum = self.newest().sum.wrapping_add(digest);
        self.last = index;
        self.recent.push_back(sum);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        if index.is_multiple_of(SPACING) {
            self.aligned.push_back(Mark { index, sum });
            if self.aligned.len() > ALIGNED_MAX {
                self.aligned.pop_front();
            }
        }
    }

    fn newest(&self) -> Mark {
        Mark {
            index: self.last,
            sum: self.recent.back().copied().unwrap_or_default(),
        }
    }

    fn oldest_recent(&self) -> Mark {
        Mark {
            index: self.last + 1 - self.recent.len() as u64,
            sum: self.recent.front().copied().unwrap_or_default(),
        }
    }

    /// The mark at an entry, while it is known.
    pub fn mark(&self, index: Index) -> Option<Mark> {
        let nth = index.checked_sub(self.oldest_recent().index);
        let recent = nth.and_then(|nth| self.recent.get(usize::try_from(nth).ok()?));
        let aligned = || self.aligned.binary_search_by_key(&index, |mark| mark.index).ok();
        match recent {
            Some(sum) => Some(Mark { index, sum: *sum }),
            None => aligned().map(|at| self.aligned[at]),
        }
    }

    /// What another member is shown that asks from `from` on: the mark there, if it is known, those kept
    /// for long, and the newest.
    pub fn marks(&self, from: Index) -> Vec<Mark> {
        let later = self
            .aligned
            .iter()
            .copied()
            .chain([self.oldest_recent(), self.newest()]);
        let mut marks: Vec<Mark> = self.mark(from).into_iter().chain(later).collect();
        marks.retain(|mark| mark.index >= from);
        marks.sort_by_key(|mark| mark.index);
        marks.dedup();
        marks
    }

    /// Compares this trail with another member's marks, in order. The last index they have in common, and
    /// the first window in which they differ. Nothing if they have nothing in common.
    pub fn compare(&self, theirs: &[Mark]) -> Option<(Index, Option<Window>)> {
        let mut common = theirs.iter().take(MARKS_MAX).filter_map(|mark| {
            let own = self.mark(mark.index)?;
            Some((mark.index, own.sum.wrapping_sub(mark.sum)))
        });
        let (mut last, offset) = common.next()?;
        let mut differs = None;
        for (index, other) in common {
            if other != offset && differs.is_none() {
                differs = Some(Window {
                    after: last,
                    upto: index,
                });
            }
            last = index;
        }
        Some((last, differs))
    }
}

/// Whose data is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody's: all hashes are equal.
    Nobody,
    /// These members'; a quorum agrees on something else.
    These(Vec<MemberId>),
    /// That of somebody in the cluster: no quorum agrees.
    Somebody,
}

/// Judges hashes of the same thing, one of each member that could tell, in a cluster of `members`.
pub fn blame<H: PartialEq + Copy>(hashes: &[(MemberId, H)], members: usize) -> Blame {
    let Some((_, first)) = hashes.first() else {
        return Blame::Nobody;
    };
    if hashes.iter().all(|(_, hash)| hash == first) {
        return Blame::Nobody;
    }
    let quorum = members / 2 + 1;
    let count = |hash: H| hashes.iter().filter(|(_, other)| *other == hash).count();
    match hashes.iter().find(|(_, hash)| count(*hash) >= quorum) {
        Some((_, right)) => {
            let wrong = hashes.iter().filter(|(_, hash)| hash != right);
            Blame::These(wrong.map(|(member, _)| *member).collect())
        }
        None => Blame::Somebody,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A trail over the entries behind `from` up to `to`; the digest of `odd` differs.
    fn trail(from: Index, to: Index, odd: Option<Index>) -> Trail {
        let mut trail = Trail::new(from);
        for index in from + 1..=to {
            let digest = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            trail.push(index, digest ^ u64::from(Some(index) == odd));
        }
        trail
    }

    proptest! {
        #[test]
        fn trails_of_the_same_log_agree_wherever_they_begin_and_end(
            starts in (0..6000u64, 0..6000u64), lengths in (1..5000u64, 1..5000u64), from in 0..8000u64,
        ) {
            let a = trail(starts.0, starts.0 + lengths.0, None);
            let b = trail(starts.1, starts.1 + lengths.1, None);
            if let Some((_, differs)) = a.compare(&b.marks(from)) {
                prop_assert_eq!(differs, None);
            }
        }

        #[test]
        fn an_entry_done_differently_is_in_the_window_that_is_named(
            start in 0..3000u64, to in 4000..9000u64, ahead in 0..1000u64, odd in 3100..4000u64,
        ) {
            let (a, b) = (trail(0, to + ahead, None), trail(start, to, Some(odd)));
            let (last, window) = a.compare(&b.marks(0)).unwrap();
            let window = window.unwrap();
            prop_assert!(window.after < odd && odd <= window.upto && window.upto <= last, "{window:?} {odd}");
        }
    }

    #[test]
    fn a_cluster_that_is_nearly_idle_is_compared_up_to_its_last_entry() {
        let (a, b) = (trail(0, 12, None), trail(9, 12, Some(12)));
        let window = Window { after: 9, upto: 12 };
        assert_eq!(a.compare(&b.marks(5)), Some((12, Some(window))));
        assert_eq!(
            a.compare(&b.marks(11)),
            Some((12, Some(Window { after: 11, upto: 12 })))
        );
        assert_eq!(a.compare(&trail(20, 22, None).marks(0)), None);
    }

    #[test]
    fn a_snapshot_begins_a_new_trail() {
        let mut trail = trail(0, 10, None);
        trail.push(5000, 7);
        assert_eq!(
            trail.marks(0),
            [Mark { index: 4999, sum: 0 }, Mark { index: 5000, sum: 7 }]
        );
        assert_eq!(trail.mark(10), None);
    }

    #[test]
    fn what_is_kept_and_shown_is_bounded() {
        let trail = trail(0, 700 * SPACING, None);
        assert_eq!(
            (trail.aligned.len(), trail.recent.len()),
            (ALIGNED_MAX, RECENT_MAX)
        );
        assert!(trail.marks(0).len() <= MARKS_MAX);
    }

    #[test]
    fn the_minority_is_to_blame_and_without_a_quorum_somebody_is() {
        use Blame::*;
        let ids = |ids: &[u64]| ids.iter().copied().map(MemberId).collect::<Vec<_>>();
        for (hashes, members, verdict) in [
            (&[(1, 'a'), (2, 'a'), (3, 'a')][..], 3, Nobody),
            (&[(1, 'a'), (2, 'b'), (3, 'a')], 3, These(ids(&[2]))),
            // The one who asks may be the one who is wrong.
            (&[(1, 'b'), (2, 'a'), (3, 'a')], 3, These(ids(&[1]))),
            (
                &[(1, 'a'), (2, 'b'), (3, 'c'), (4, 'a'), (5, 'a')],
                5,
                These(ids(&[2, 3])),
            ),
            (&[(1, 'a'), (2, 'b')], 3, Somebody),
            (&[(1, 'a'), (2, 'b')], 2, Somebody),
            (&[(1, 'a'), (2, 'a'), (3, 'b'), (4, 'b')], 4, Somebody),
            (&[(1, 'a')], 3, Nobody),
            (&[], 3, Nobody),
        ] {
            let hashes: Vec<_> = hashes.iter().map(|(id, hash)| (MemberId(*id), *hash)).collect();
            assert_eq!(blame(&hashes, members), verdict, "{hashes:?} of {members}");
        }
    }
}
