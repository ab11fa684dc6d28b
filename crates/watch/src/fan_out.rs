//! From events to responses: who gets which bytes.
//!
//! Each event is encoded once (twice if some want the previous value as well), whoever gets it. A
//! *body* is the events that one watcher gets in one response; watchers with the same body share its
//! bytes. Two watchers of a range differ in their body only if one filters or starts later.

use std::collections::HashMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use proto::etcdserverpb::{ResponseHeader, WatchResponse};
use slab::Slab;

use crate::event::Kind;
use crate::index::Index;
use crate::stream::Watcher;
use crate::{Event, Frame, Limits};

/// Looks up the `KeyValue` of a key as of a revision: the stored bytes, or `None` when the key did
/// not exist then or that revision is compacted.
pub type Lookup<'a> = &'a mut dyn FnMut(&Bytes, i64) -> Option<Bytes>;

/// Delivers `events` to the watchers in `index`. A watcher whose outbox is full is taken out of the
/// index, its `next_revision` is the first it did not get, and it is part of the answer.
pub(crate) fn fan_out(
    index: &mut Index,
    watchers: &mut Slab<Watcher>,
    events: &[Event],
    header: ResponseHeader,
    limits: &Limits,
    prev: Lookup<'_>,
) -> Vec<usize> {
    let mut refused = Vec::new();
    for range in responses(events, limits.response_bytes) {
        let mut bodies = Bodies::new(&events[range], prev);
        let first_refused = refused.len();
        for hits in bodies.hits(index).chunk_by(|a, b| a.group == b.group) {
            let mut memo = Memo::default();
            for &key in index.members(hits[0].group) {
                let watcher = &mut watchers[key];
                let Some(body) = memo.body(&mut bodies, hits, watcher) else {
                    continue;
                };
                let first_revision = body.first_revision;
                if watcher.send(header, body, limits) {
                    watcher.is_quiet = false;
                } else {
                    watcher.next_revision = first_revision;
                    refused.push(key);
                }
            }
        }
        // Before the next response: nobody may get revision 8 who did not get 7.
        for &key in &refused[first_refused..] {
            take_out(index, watchers, key);
        }
    }
    refused
}

/// Takes a watcher out of the index it is in.
pub(crate) fn take_out(index: &mut Index, watchers: &mut Slab<Watcher>, key: usize) {
    let place = watchers[key].place;
    if let Some(moved) = index.remove(place) {
        watchers[moved].place = place;
    }
}

impl Watcher {
    /// Queues one response, in pieces if it is large; `false` when the outbox is full.
    fn send(&self, header: ResponseHeader, body: Body, limits: &Limits) -> bool {
        let head = WatchResponse {
            header: Some(header),
            watch_id: self.id,
            ..Default::default()
        };
        let frame = Frame::new(head, body.events, body.count);
        if self.request.fragment {
            self.outbox.push(frame.fragments(limits.fragment_bytes))
        } else {
            self.outbox.push([frame])
        }
    }
}

/// Cuts `events` into responses: at the boundaries of revisions, each of about `max_bytes`.
fn responses(events: &[Event], max_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let (mut end, mut bytes) = (start, 0);
        for revision in events[start..].chunk_by(|a, b| a.revision == b.revision) {
            bytes += revision.iter().map(Event::size).sum::<usize>();
            if end > start && bytes > max_bytes {
                break;
            }
            end += revision.len();
        }
        let response = std::mem::replace(&mut start, end)..end;
        (!response.is_empty()).then_some(response)
    })
}

/// The events of one response, encoded: what `count` of them share.
#[derive(Clone)]
struct Body {
    events: Bytes,
    count: u32,
    first_revision: i64,
}

/// An event that concerns a group; ordered by group, then by event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    group: usize,
    event: usize,
}

/// The bodies that can be made of some events, each encoded on first use.
struct Bodies<'a, 'p> {
    events: &'a [Event],
    prev: &'p mut dyn FnMut(&Bytes, i64) -> Option<Bytes>,
    /// Each event encoded without and with the previous value.
    single: [Vec<Option<Bytes>>; 2],
    /// Several events in one body, by (with previous values, which events).
    joined: HashMap<(bool, Vec<usize>), Bytes>,
}

impl<'a, 'p> Bodies<'a, 'p> {
    fn new(events: &'a [Event], prev: Lookup<'p>) -> Self {
        Bodies {
            events,
            prev,
            single: [vec![None; events.len()], Vec::new()],
            joined: HashMap::new(),
        }
    }

    /// What concerns whom.
    fn hits(&self, index: &Index) -> Vec<Hit> {
        let mut hits = Vec::new();
        for (event, Event { key, .. }) in self.events.iter().enumerate() {
            index.matching(key, |group| hits.push(Hit { group, event }));
        }
        hits.sort_unstable();
        hits
    }

    /// What `watcher` gets of its group's `hits`; `None` for nothing at all.
    fn body(&mut self, hits: &[Hit], watcher: &Watcher) -> Option<Body> {
        let concerns =
            |event: &Event| event.revision >= watcher.next_revision && watcher.request.wants(event.kind);
        let list: Vec<_> = hits
            .iter()
            .map(|hit| hit.event)
            .filter(|&event| concerns(&self.events[event]))
            .collect();
        let first_revision = self.events[*list.first()?].revision;
        let count = list.len() as u32;
        let with_prev = watcher.request.prev_kv;
        let events = match list[..] {
            [event] => self.encode(event, with_prev),
            _ => self.join(list, with_prev),
        };
        Some(Body {
            events,
            count,
            first_revision,
        })
    }

    fn join(&mut self, list: Vec<usize>, with_prev: bool) -> Bytes {
        let id = (with_prev, list);
        if let Some(bytes) = self.joined.get(&id) {
            return bytes.clone();
        }
        let parts: Vec<_> = id.1.iter().map(|&event| self.encode(event, with_prev)).collect();
        let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        self.joined.entry(id).or_insert(whole.freeze()).clone()
    }

    fn encode(&mut self, event: usize, with_prev: bool) -> Bytes {
        let cells = &mut self.single[usize::from(with_prev)];
        cells.resize(self.events.len(), None);
        if let Some(bytes) = &cells[event] {
            return bytes.clone();
        }
        let Event {
            key, revision, kind, ..
        } = &self.events[event];
        let has_prev = with_prev && *kind != Kind::Create;
        let prev = if has_prev {
            (self.prev)(key, revision - 1)
        } else {
            None
        };
        let bytes = match prev {
            None if with_prev => self.encode(event, false),
            prev => self.events[event].encode(prev.as_deref()),
        };
        self.single[usize::from(with_prev)][event] = Some(bytes.clone());
        bytes
    }
}

/// The last bodies made for a group, one for each combination of options that can change them.
#[derive(Default)]
struct Memo([Option<Option<Body>>; 8]);

impl Memo {
    fn body(&mut self, bodies: &mut Bodies<'_, '_>, hits: &[Hit], watcher: &Watcher) -> Option<Body> {
        if watcher.next_revision > bodies.events[hits[0].event].revision {
            return bodies.body(hits, watcher);
        }
        let request = &watcher.request;
        let options = [request.no_put, request.no_delete, request.prev_kv];
        let cell = options
            .into_iter()
            .fold(0, |bits, option| bits << 1 | usize::from(option));
        self.0[cell]
            .get_or_insert_with(|| bodies.body(hits, watcher))
            .clone()
    }
}
