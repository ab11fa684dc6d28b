//! The owner of all streams and watchers.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;

use proto::etcdserverpb::{ResponseHeader, WatchResponse};
use slab::Slab;
use types::ErrorKind;

use crate::fan_out::{Lookup, fan_out, take_out};
use crate::index::{Index, Place};
use crate::outbox::Opener;
use crate::ready::Ready;
use crate::stream::{Stream, Watcher};
use crate::{Create, Event, Frame, Limits, Outbox, StreamId};

/// The id in responses that concern no single watcher: refused creates, and progress of a stream.
const NO_WATCHER: i64 = -1;

/// All watchers of this member. See the [crate's page](crate).
#[derive(Debug)]
pub struct Hub {
    options: Options,
    opener: Opener,
    /// Of responses made now; its revision is the hub's.
    header: ResponseHeader,
    compacted: i64,
    streams: BTreeMap<StreamId, Stream>,
    watchers: Slab<Watcher>,
    /// The synced watchers.
    index: Index,
    /// The streams that wait for history and have room for it.
    ready: Ready,
    /// The next progress tick of every stream.
    ticks: BTreeSet<(u64, StreamId)>,
}

/// Who this member is, for response headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub raft_term: u64,
}

/// How a hub works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The bounds.
    pub limits: Limits,
    /// Time between two progress notifications of an idle watcher.
    pub progress_interval_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            limits: Limits::default(),
            progress_interval_ms: 10 * 60 * 1000,
        }
    }
}

impl Options {
    /// Sets the progress interval and adds up to a tenth of it, chosen by the random number
    /// `chance`, so that the members of a cluster do not notify in step.
    pub fn with_progress_interval(self, interval_ms: u64, chance: u64) -> Self {
        let jitter_ms = chance % (interval_ms / 10).max(1);
        Options {
            progress_interval_ms: interval_ms.saturating_add(jitter_ms),
            ..self
        }
    }
}

/// A question to the store: what happened from `from` to `upto`?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// The first revision wanted.
    pub from: i64,
    /// The last one, at most the hub's revision.
    pub upto: i64,
    /// About how many bytes to read. At least one revision has to be read, whatever its size.
    pub max_bytes: usize,
}

/// The answer to a [`CatchUp`].
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// All changes from `from` to `reached`, in order.
    pub events: &'a [Event],
    /// The last revision that was read whole; less than `from` for "nothing could be read".
    pub reached: i64,
    /// The store's compact revision as seen *after* reading. Events below it may be missing, so the
    /// hub trusts the answer only from there on.
    pub compacted: i64,
}

/// Counts for the metrics endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Open streams.
    pub streams: usize,
    /// Watchers on them.
    pub watchers: usize,
    /// Those of the watchers that are catching up.
    pub slow_watchers: usize,
    /// Events queued in outboxes.
    pub pending_events: u64,
    /// Events taken out of outboxes so far.
    pub sent_events: u64,
}

impl Hub {
    /// A hub for a store at `revision`, compacted at `compacted`. `waker` is woken when
    /// [`collect`](Self::collect) has something to do.
    pub fn new(identity: Identity, revision: i64, compacted: i64, options: Options, waker: Waker) -> Self {
        let Identity {
            cluster_id,
            member_id,
            raft_term,
        } = identity;
        Hub {
            options,
            opener: Opener::new(options.limits, waker),
            header: ResponseHeader {
                cluster_id,
                member_id,
                revision,
                raft_term,
            },
            compacted,
            streams: BTreeMap::new(),
            watchers: Slab::new(),
            index: Index::default(),
            ready: Ready::default(),
            ticks: BTreeSet::new(),
        }
    }

    /// Opens streams for this hub, from any thread.
    pub fn opener(&self) -> Opener {
        self.opener.clone()
    }

    /// The revision up to which synced watchers have been served.
    pub fn revision(&self) -> i64 {
        self.header.revision
    }

    /// The term in the headers from now on.
    pub fn set_term(&mut self, raft_term: u64) {
        self.header.raft_term = raft_term;
    }

    /// Counts as of now.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            slow_watchers: self.streams.values().map(|stream| stream.behind.len()).sum(),
            pending_events: self.opener.signals().pending_events(),
            sent_events: self.opener.signals().sent_events(),
        }
    }
}

/// What clients ask. A stream that is gone is asked in vain.
impl Hub {
    /// Takes charge of a new stream.
    pub fn open(&mut self, outbox: Outbox, now_ms: u64) {
        if outbox.is_gone() {
            return;
        }
        let id = outbox.id();
        let next_tick_ms = now_ms.saturating_add(self.options.progress_interval_ms);
        self.ticks.insert((next_tick_ms, id));
        self.streams.insert(id, Stream::new(outbox, next_tick_ms));
    }

    /// Creates a watcher. `current` is the store's revision when the request came in: the feed may lag
    /// behind it, and "from now on" must not mean what the client has seen already.
    pub fn create(&mut self, stream: StreamId, request: Create, current: i64) {
        let now = current.max(self.revision());
        let header = ResponseHeader {
            revision: now,
            ..self.header
        };
        let Some(to) = self.streams.get_mut(&stream) else {
            return;
        };
        let id = match to.admit(&request, self.options.limits.stream_watchers) {
            Ok(id) => id,
            Err(reason) => return to.outbox.answer(refusal(header, reason.to_owned())),
        };
        to.outbox.answer(Frame::control(WatchResponse {
            header: Some(header),
            watch_id: id,
            created: true,
            ..Default::default()
        }));
        let (next_revision, progress_from) = match request.start_revision {
            0 => (now + 1, now),
            start => (start, start),
        };
        to.progress_from = to.progress_from.max(progress_from);
        let progress_notify = request.progress_notify;
        let key = self.watchers.insert(Watcher {
            id,
            stream,
            outbox: to.outbox.clone(),
            request,
            next_revision,
            progress_from,
            is_synced: false,
            place: Place::default(),
            is_quiet: true,
        });
        to.watchers.insert(id, key);
        if progress_notify {
            to.notified.insert(key);
        }
        self.place(key);
    }

    /// Refuses a create that the client has no permission for. The stream stays open.
    pub fn refuse(&mut self, stream: StreamId, error: ErrorKind) {
        if let Some(to) = self.streams.get(&stream) {
            // Go prints a status like this, and here etcd sends the print.
            let reason = format!(
                "rpc error: code = {} desc = {}",
                error.code().name(),
                error.text()
            );
            to.outbox.answer(refusal(self.header, reason));
        }
    }

    /// Ends a watcher. An unknown id is not answered.
    pub fn cancel(&mut self, stream: StreamId, watch_id: i64) {
        let Some(from) = self.streams.get_mut(&stream) else {
            return;
        };
        let key = from.watchers.remove(&watch_id);
        if key.is_none() && !from.lost.remove(&watch_id) {
            return;
        }
        let head = WatchResponse {
            header: Some(self.header),
            watch_id,
            canceled: true,
            ..Default::default()
        };
        from.outbox.answer(Frame::control(head));
        if let Some(key) = key {
            self.drop_watcher(key);
        }
    }

    /// Tells the client how far all its watchers are, if that can be said in one number: there is at
    /// least one, all are synced and none is waiting for a start in the future. Otherwise, and when
    /// the outbox is full, the request is dropped; clients ask again.
    pub fn progress(&mut self, stream: StreamId) {
        let Some(of) = self.streams.get_mut(&stream) else {
            return;
        };
        if of.watchers.is_empty() || !of.behind.is_empty() {
            return;
        }
        if of.progress_from > self.header.revision {
            let each = of.watchers.values().map(|&key| self.watchers[key].progress_from);
            of.progress_from = each.fold(0, i64::max);
        }
        if of.progress_from <= self.header.revision {
            let _dropped_when_full = of.outbox.push([progress(self.header, NO_WATCHER)]);
        }
    }

    /// Ends a stream and all its watchers, with an error if the client is to see one.
    pub fn end_stream(&mut self, stream: StreamId, error: Option<ErrorKind>) {
        let Some(mut stream) = self.streams.remove(&stream) else {
            return;
        };
        stream.outbox.finish(error);
        self.ticks.remove(&(stream.next_tick_ms, stream.outbox.id()));
        self.ready.rank(&mut stream.ranked, None, stream.outbox.id());
        for key in stream.watchers.into_values() {
            if self.watchers[key].is_synced {
                take_out(&mut self.index, &mut self.watchers, key);
            }
            self.watchers.remove(key);
        }
    }
}

/// What the member tells: changes, compactions, the time.
impl Hub {
    /// Delivers the changes up to `revision`: those of one revision, or of several in order, each
    /// revision whole. What the hub has seen already is ignored.
    ///
    /// Publish before the write is answered: then a client that asks for progress after its write is
    /// told of it.
    pub fn publish(&mut self, revision: i64, events: &[Event], prev_kv: Lookup<'_>) {
        if revision <= self.revision() {
            return;
        }
        let seen = events.partition_point(|event| event.revision <= self.header.revision);
        self.header.revision = revision;
        let refused = fan_out(
            &mut self.index,
            &mut self.watchers,
            &events[seen..],
            self.header,
            &self.options.limits,
            prev_kv,
        );
        self.park(refused);
    }

    /// The feed has lost the events up to `revision`, or the store was replaced by a snapshot at it:
    /// all watchers that were to get some of them read them from the store.
    pub fn overflow(&mut self, revision: i64) {
        if revision <= self.revision() {
            return;
        }
        let first_lost = self.revision() + 1;
        self.header.revision = revision;
        self.index = Index::default();
        let synced = self.watchers.iter_mut().filter(|(_, watcher)| watcher.is_synced);
        let keys: Vec<_> = synced
            .map(|(key, watcher)| {
                watcher.next_revision = watcher.next_revision.max(first_lost);
                key
            })
            .collect();
        keys.into_iter().for_each(|key| self.place(key));
    }

    /// The store has been compacted at `revision`. A watcher that still needs something below is
    /// cancelled: at once, or when its stream has room again.
    pub fn compacted(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
        while let Some(stream) = self.ready.below(self.compacted) {
            self.drop_lost(stream);
        }
    }

    /// Sends the progress notifications that are due.
    pub fn tick(&mut self, now_ms: u64) {
        while let Some(&(_, id)) = self.ticks.first().filter(|(due_ms, _)| *due_ms <= now_ms) {
            self.ticks.pop_first();
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.next_tick_ms = now_ms.saturating_add(self.options.progress_interval_ms.max(1));
            self.ticks.insert((stream.next_tick_ms, id));
            for &key in &stream.notified {
                let watcher = &mut self.watchers[key];
                let was_quiet = std::mem::replace(&mut watcher.is_quiet, true);
                let has_started = watcher.progress_from <= self.header.revision;
                if was_quiet && has_started && watcher.is_synced {
                    let _dropped_when_full = stream.outbox.push([progress(self.header, watcher.id)]);
                }
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.ticks.first().map(|&(due_ms, _)| due_ms)
    }

    /// Looks after the streams that have drained, and forgets those whose reader has gone.
    pub fn collect(&mut self) {
        for id in self.opener.signals().take() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            if stream.outbox.is_gone() {
                self.end_stream(id, None);
            } else {
                stream.is_full = false;
                self.drop_lost(id);
            }
        }
    }
}

/// Catching up.
impl Hub {
    /// History that is wanted now; `None` when no watcher is behind that has room for it. Asking again
    /// before answering gives the same job.
    ///
    /// Answer a job before the next [`publish`](Self::publish) where possible: a watcher is synced
    /// when it has reached the hub's revision, and that one runs away.
    pub fn next_job(&self) -> Option<CatchUp> {
        let from = self.ready.next()?;
        let limits = &self.options.limits;
        let upto = self
            .revision()
            .min(from.saturating_add(limits.catch_up_revisions - 1));
        Some(CatchUp {
            from,
            upto,
            max_bytes: limits.catch_up_bytes,
        })
    }

    /// Delivers history to all watchers it is good for.
    pub fn history(&mut self, job: CatchUp, history: History<'_>, prev_kv: Lookup<'_>) {
        self.compacted(history.compacted);
        let reached = history.reached.min(self.revision());
        self.ready.turn(job.from.max(reached + 1));
        let end = history.events.partition_point(|event| event.revision <= reached);

        let served = self.take_behind(job.from, reached);
        let mut index = Index::default();
        for &key in &served {
            let watcher = &mut self.watchers[key];
            watcher.place = index.insert(&watcher.request.range, key);
        }
        let refused = fan_out(
            &mut index,
            &mut self.watchers,
            &history.events[..end],
            self.header,
            &self.options.limits,
            prev_kv,
        );
        for key in served {
            let watcher = &mut self.watchers[key];
            if index.member_at(watcher.place) == Some(key) {
                watcher.next_revision = watcher.next_revision.max(reached + 1);
                self.place(key);
            }
        }
        self.park(refused);
    }

    /// Takes watchers out of `behind` whose next revision is in `from..=reached` and whose stream has
    /// room: not more of one stream than its outbox can hold, not more in all than the limit.
    fn take_behind(&mut self, from: i64, reached: i64) -> Vec<usize> {
        let limits = self.options.limits;
        let mut taken = Vec::new();
        for id in self.ready.upto(reached) {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let share = limits.outbox_frames.min(limits.catch_up_watchers - taken.len());
            let first = taken.len();
            if from <= reached {
                let within = stream.behind.range((from, 0)..=(reached, usize::MAX));
                taken.extend(within.take(share).map(|&(_, key)| key));
            }
            for &key in &taken[first..] {
                stream.behind.remove(&(self.watchers[key].next_revision, key));
            }
            stream.rank(&mut self.ready);
        }
        taken
    }
}

/// The life of a watcher.
impl Hub {
    /// Puts a watcher that is nowhere where its next revision says.
    fn place(&mut self, key: usize) {
        let watcher = &mut self.watchers[key];
        watcher.is_synced = watcher.next_revision > self.header.revision;
        if watcher.is_synced {
            watcher.place = self.index.insert(&watcher.request.range, key);
        } else if watcher.next_revision < self.compacted {
            self.lose(key);
        } else if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.behind.insert((watcher.next_revision, key));
            stream.rank(&mut self.ready);
        }
    }

    /// Places watchers whose outbox was full.
    fn park(&mut self, refused: Vec<usize>) {
        for key in refused {
            if let Some(stream) = self.streams.get_mut(&self.watchers[key].stream) {
                stream.is_full = true;
                stream.rank(&mut self.ready);
            }
            self.place(key);
        }
    }

    /// Cancels a watcher that is nowhere because what it needs next is compacted. etcd's response has
    /// no revision and no reason.
    fn lose(&mut self, key: usize) {
        let watcher = self.watchers.remove(key);
        watcher.outbox.answer(Frame::control(WatchResponse {
            header: Some(ResponseHeader {
                revision: 0,
                ..self.header
            }),
            watch_id: watcher.id,
            canceled: true,
            compact_revision: self.compacted,
            ..Default::default()
        }));
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.watchers.remove(&watcher.id);
            stream.notified.remove(&key);
            stream.lost.insert(watcher.id);
        }
    }

    /// Cancels the watchers of a stream that a compaction has overtaken.
    fn drop_lost(&mut self, id: StreamId) {
        while let Some(stream) = self.streams.get_mut(&id) {
            let lost = stream
                .behind
                .first()
                .copied()
                .filter(|&(next, _)| next < self.compacted);
            let Some((next, key)) = lost else {
                return stream.rank(&mut self.ready);
            };
            stream.behind.remove(&(next, key));
            self.lose(key);
        }
    }

    /// Forgets a watcher that its stream no longer lists.
    fn drop_watcher(&mut self, key: usize) {
        if self.watchers[key].is_synced {
            take_out(&mut self.index, &mut self.watchers, key);
        }
        let watcher = self.watchers.remove(key);
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.notified.remove(&key);
            stream.behind.remove(&(watcher.next_revision, key));
            stream.rank(&mut self.ready);
        }
    }
}

fn refusal(header: ResponseHeader, cancel_reason: String) -> Frame {
    Frame::control(WatchResponse {
        header: Some(header),
        watch_id: NO_WATCHER,
        created: true,
        canceled: true,
        cancel_reason,
        ..Default::default()
    })
}

fn progress(header: ResponseHeader, watch_id: i64) -> Frame {
    Frame::control(WatchResponse {
        header: Some(header),
        watch_id,
        ..Default::default()
    })
}

/// Readers do not wait for a hub that is gone.
impl Drop for Hub {
    fn drop(&mut self) {
        for stream in self.streams.values() {
            stream.outbox.finish(Some(ErrorKind::Stopped));
        }
    }
}

impl Hub {
    /// Verifies what must hold between any two calls; for tests and simulations.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let ensure = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        let mut listed = 0;
        for (&id, stream) in &self.streams {
            ensure(
                self.ticks.contains(&(stream.next_tick_ms, id)),
                "every stream has its tick",
            )?;
            ensure(stream.ranked == stream.extent(), "a stream is ranked as it is")?;
            let in_order = stream
                .ranked
                .is_none_or(|extent| self.ready.has(id, extent) && extent.lowest >= self.compacted);
            ensure(
                in_order,
                "a ranked stream is ready and needs nothing that is compacted",
            )?;
            let mut behind = 0;
            for (watch_id, &key) in &stream.watchers {
                let watcher = self.watchers.get(key).ok_or("a listed watcher exists")?;
                ensure(
                    (watcher.id, watcher.stream) == (*watch_id, id),
                    "a watcher knows its name",
                )?;
                let is_behind = stream.behind.contains(&(watcher.next_revision, key));
                let in_index = self.index.member_at(watcher.place) == Some(key);
                if watcher.is_synced {
                    ensure(in_index && !is_behind, "a synced watcher is in the index only")?;
                } else {
                    ensure(is_behind, "a watcher that is not synced is behind")?;
                    ensure(
                        watcher.next_revision <= self.revision(),
                        "who is behind has something to get",
                    )?;
                    behind += 1;
                }
                ensure(!stream.lost.contains(watch_id), "a lost id is not in use")?;
            }
            ensure(behind == stream.behind.len(), "only own watchers are behind")?;
            ensure(
                stream.notified.iter().all(|&key| self.watchers.contains(key)),
                "the notified exist",
            )?;
            listed += stream.watchers.len();
        }
        let synced = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.is_synced)
            .count();
        ensure(listed == self.watchers.len(), "every watcher has its stream")?;
        ensure(
            synced == self.index.len(),
            "the index has the synced watchers and no more",
        )?;
        let ranked = self
            .streams
            .values()
            .filter(|stream| stream.ranked.is_some())
            .count();
        ensure(self.ready.len() == Some(ranked), "nobody else is ready")
    }
}
