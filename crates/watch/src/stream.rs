//! One client's stream and its watchers, as the hub keeps them.

use std::collections::{BTreeMap, BTreeSet};

use types::ErrorKind;

use crate::index::Place;
use crate::ready::{Extent, Ready};
use crate::{Create, Outbox, StreamId};

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub outbox: Outbox,
    pub watchers: BTreeMap<i64, usize>,
    /// Ids of watchers lost to a compaction. As in etcd they stay taken until the client cancels
    /// them.
    pub lost: BTreeSet<i64>,
    next_id: i64,
    /// Watchers that are catching up, by the next revision they need.
    pub behind: BTreeSet<(i64, usize)>,
    /// A response was refused; no history until the outbox has drained.
    pub is_full: bool,
    /// How the stream stands in [`Ready`].
    pub ranked: Option<Extent>,
    /// Watchers with progress notification.
    pub notified: BTreeSet<usize>,
    /// No watcher's `progress_from` is above this.
    pub progress_from: i64,
    pub next_tick_ms: u64,
}

/// A watcher.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub id: i64,
    pub stream: StreamId,
    pub outbox: Outbox,
    pub request: Create,
    /// The first revision it may still be given. Exact while catching up; while synced only a lower
    /// bound, so that an event touches nobody but its own watchers.
    pub next_revision: i64,
    /// The first revision of which its client may be told progress: its start, or what the store was
    /// at when it was created.
    pub progress_from: i64,
    pub is_synced: bool,
    /// Where it is in the index, if synced.
    pub place: Place,
    /// No events since the last progress tick.
    pub is_quiet: bool,
}

impl Stream {
    pub fn new(outbox: Outbox, next_tick_ms: u64) -> Self {
        Stream {
            outbox,
            watchers: BTreeMap::new(),
            lost: BTreeSet::new(),
            next_id: 0,
            behind: BTreeSet::new(),
            is_full: false,
            ranked: None,
            notified: BTreeSet::new(),
            progress_from: 0,
            next_tick_ms,
        }
    }

    /// The id of a new watcher, or why there can be none.
    pub fn admit(&mut self, request: &Create, watchers_max: usize) -> Result<i64, &'static str> {
        if self.watchers.len() + self.lost.len() >= watchers_max {
            return Err("keelson: too many watchers on this stream; open another");
        }
        if request.start_revision < 0 {
            return Err(ErrorKind::Compacted.text());
        }
        if request.range.is_empty() {
            return Err("mvcc: watcher range is empty");
        }
        if request.watch_id == 0 {
            while self.is_taken(self.next_id) {
                self.next_id = self.next_id.wrapping_add(1);
            }
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            return Ok(id);
        }
        if self.is_taken(request.watch_id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream");
        }
        Ok(request.watch_id)
    }

    fn is_taken(&self, id: i64) -> bool {
        self.watchers.contains_key(&id) || self.lost.contains(&id)
    }

    /// Where the watchers that are behind stand, if any can be served.
    pub fn extent(&self) -> Option<Extent> {
        let (&(lowest, _), &(highest, _)) = (self.behind.first()?, self.behind.last()?);
        (!self.is_full).then_some(Extent { lowest, highest })
    }

    /// To be called after each change of `behind` or `is_full`.
    pub fn rank(&mut self, ready: &mut Ready) {
        let extent = self.extent();
        ready.rank(&mut self.ranked, extent, self.outbox.id());
    }
}
