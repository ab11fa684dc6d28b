//! Which history to read next.
//!
//! Reads work like an elevator: they sweep from the oldest revision wanted to the newest, and everyone
//! on the way gets on. Who comes too late waits for the next sweep, so nobody waits for ever. But who
//! is only a few revisions behind must not wait for a sweep through all history: every other read is
//! for the one closest to the present.

use std::collections::BTreeSet;

use crate::StreamId;

/// The lowest and the highest next revision of a stream's watchers that are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub lowest: i64,
    pub highest: i64,
}

/// The streams with watchers that are behind and room for what those need.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    by_lowest: BTreeSet<(i64, StreamId)>,
    by_highest: BTreeSet<(i64, StreamId)>,
    /// Where the sweep is.
    sweep: i64,
    /// The next read is for the closest one.
    is_closest_turn: bool,
}

impl Ready {
    /// The first revision to read.
    pub fn next(&self) -> Option<i64> {
        if self.is_closest_turn {
            return self.by_highest.last().map(|&(highest, _)| highest);
        }
        let ahead = self.by_lowest.range((self.sweep, StreamId::MIN)..).next();
        ahead.or(self.by_lowest.first()).map(|&(lowest, _)| lowest)
    }

    /// A read is done that served everyone below `end`. Those who did not fit wait for the next sweep.
    pub fn turn(&mut self, end: i64) {
        if !self.is_closest_turn {
            self.sweep = end;
        }
        self.is_closest_turn = !self.is_closest_turn;
    }

    /// Moves a stream from where it stands to `extent`.
    pub fn rank(&mut self, ranked: &mut Option<Extent>, extent: Option<Extent>, id: StreamId) {
        if *ranked == extent {
            return;
        }
        if let Some(old) = std::mem::replace(ranked, extent) {
            self.by_lowest.remove(&(old.lowest, id));
            self.by_highest.remove(&(old.highest, id));
        }
        if let Some(new) = extent {
            self.by_lowest.insert((new.lowest, id));
            self.by_highest.insert((new.highest, id));
        }
    }

    /// A stream with a watcher that needs something below `revision`.
    pub fn below(&self, revision: i64) -> Option<StreamId> {
        self.by_lowest
            .first()
            .filter(|&&(lowest, _)| lowest < revision)
            .map(|&(_, id)| id)
    }

    /// The streams with a watcher that needs something up to `revision`.
    pub fn upto(&self, revision: i64) -> Vec<StreamId> {
        self.by_lowest
            .range(..=(revision, StreamId::MAX))
            .map(|&(_, id)| id)
            .collect()
    }

    /// Whether stream `id` stands at `extent`.
    pub fn has(&self, id: StreamId, extent: Extent) -> bool {
        self.by_lowest.contains(&(extent.lowest, id)) && self.by_highest.contains(&(extent.highest, id))
    }

    /// How many streams are ready; `None` if the two orders disagree.
    pub fn len(&self) -> Option<usize> {
        (self.by_lowest.len() == self.by_highest.len()).then_some(self.by_lowest.len())
    }
}
