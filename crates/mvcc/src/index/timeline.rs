//! The revisions of one key.
//!
//! A key's *timeline* is all its retained changes, oldest first. The newest is a [`Slot`] in the
//! key's leaf; most keys have no other. Older ones are in a [`Past`], kept in a side slab so that a
//! key with a hundred thousand revisions costs its neighbours nothing.
//!
//! ```text
//!   put 5    put 8    delete 9    put 12   put 13
//!   v1       v2       v0          v1       v2        versions as stored
//!   [------------- Past.older ----------]  [Slot]
//! ```
//!
//! Versions rise by one within a *generation*, from its create to its tombstone. So the create
//! revision of any entry needs no space: it is the main revision of the entry that is version 1,
//! `version - 1` places before. Only the oldest generation can have lost its start to a compaction;
//! for that one the [`Past`] remembers what its first retained entry knew.

use types::Revision;

use super::KeyMeta;

/// One retained change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub main: i64,
    sub: u32,
    /// Puts since the create, that one included; [`u32::MAX`] for more than fit. 0: a tombstone.
    version: u32,
}

/// The newest change of a key, and the way to the older ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub newest: Entry,
    /// Main revisions since the create; [`u32::MAX`] for more than fit.
    age: u32,
    past: PastId,
}

/// What lies before the newest change of a key.
#[derive(Debug)]
pub(super) struct Past {
    /// Create revision of the oldest entry of the timeline.
    create_rev: i64,
    /// Version of the oldest entry of the timeline.
    version: i64,
    /// The timeline but for its newest entry.
    older: Vec<Entry>,
}

/// Place of a [`Past`] in [`Pasts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PastId(u32);

/// Too large for its 32 bits: the past has to be asked.
const SATURATED: u32 = u32::MAX;

impl PastId {
    const NONE: PastId = PastId(u32::MAX);
}

impl Entry {
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    pub fn rev(&self) -> Revision {
        Revision::new(self.main, self.sub)
    }
}

impl Slot {
    /// Bytes of a packed slot.
    pub const LEN: usize = 24;

    pub fn to_bytes(self) -> [u8; Slot::LEN] {
        let Entry { main, sub, version } = self.newest;
        let mut bytes = [0; Slot::LEN];
        bytes[..8].copy_from_slice(&main.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sub.to_ne_bytes());
        bytes[12..16].copy_from_slice(&version.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.age.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.past.0.to_ne_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Slot::LEN]) -> Slot {
        let u32_at = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let main = bytes.first_chunk().copied().map_or(0, i64::from_ne_bytes);
        Slot {
            newest: Entry {
                main,
                sub: u32_at(8),
                version: u32_at(12),
            },
            age: u32_at(16),
            past: PastId(u32_at(20)),
        }
    }

    /// The first change that is known of a key. All zero but the revision for a tombstone.
    pub fn first(rev: Revision, create_rev: i64, version: i64, pasts: &mut Pasts) -> Self {
        let mut slot = Slot {
            newest: entry(rev, version),
            age: age(rev, create_rev),
            past: PastId::NONE,
        };
        if slot.is_saturated() {
            slot.past = pasts.add(Past {
                create_rev,
                version,
                older: vec![],
            });
        }
        slot
    }

    /// Whether a compaction may find something to drop here.
    pub fn is_aged(&self) -> bool {
        self.newest.is_tombstone() || self.past != PastId::NONE
    }

    /// The key's state after all its changes.
    pub fn live(&self, pasts: &Pasts) -> Option<KeyMeta> {
        if self.newest.is_tombstone() {
            return None;
        }
        if self.is_saturated() {
            return pasts.get(self.past).meta(self, pasts.get(self.past).older.len());
        }
        Some(KeyMeta {
            mod_rev: self.newest.rev(),
            create_rev: self.newest.main - i64::from(self.age),
            version: i64::from(self.newest.version),
        })
    }

    /// The key's state at main revision `at`.
    pub fn live_at(&self, at: i64, pasts: &Pasts) -> Option<KeyMeta> {
        if self.newest.main <= at {
            return self.live(pasts);
        }
        let past = self.past(pasts)?;
        let after = past.older.partition_point(|entry| entry.main <= at);
        past.meta(self, after.checked_sub(1)?)
    }

    /// The newest change up to main revision `at`.
    pub fn entry_at(&self, at: i64, pasts: &Pasts) -> Option<Entry> {
        if self.newest.main <= at {
            return Some(self.newest);
        }
        let older = &self.past(pasts)?.older;
        let after = older.partition_point(|entry| entry.main <= at);
        Some(older[after.checked_sub(1)?])
    }

    /// Whether `rev` is on the timeline.
    pub fn has(&self, rev: Revision, pasts: &Pasts) -> bool {
        self.newest.rev() == rev
            || self
                .past(pasts)
                .is_some_and(|past| past.older.binary_search_by_key(&rev, Entry::rev).is_ok())
    }

    /// Appends a put. Returns the key's state before.
    pub fn put(&mut self, rev: Revision, pasts: &mut Pasts) -> Option<KeyMeta> {
        let prev = self.live(pasts);
        let (create_rev, version) = match prev {
            Some(prev) => (prev.create_rev, prev.version.saturating_add(1)),
            None => (rev.main, 1),
        };
        self.push(entry(rev, version), pasts);
        self.age = age(rev, create_rev);
        prev
    }

    /// Appends a tombstone. Returns the key's state before, which must not be a tombstone already.
    pub fn tombstone(&mut self, rev: Revision, pasts: &mut Pasts) -> Option<KeyMeta> {
        let prev = self.live(pasts)?;
        self.push(entry(rev, 0), pasts);
        self.age = 0;
        Some(prev)
    }

    /// Drops what a compaction to `compacted` makes superfluous: all up to it but the newest, and
    /// that, too, if it is an older tombstone. Returns whether something of the key is left.
    pub fn compact(&mut self, compacted: i64, pasts: &mut Pasts, dropped: &mut Vec<Revision>) -> bool {
        let older = self.past(pasts).map_or(&[][..], |past| &past.older);
        if self.newest.main <= compacted {
            dropped.extend(older.iter().map(Entry::rev));
            if self.newest.is_tombstone() && self.newest.main < compacted {
                dropped.push(self.newest.rev());
                self.forget(pasts);
                return false;
            }
            self.keep_from(older.len(), pasts);
            return true;
        }
        let upto = older.partition_point(|entry| entry.main <= compacted);
        if let Some(kept) = upto.checked_sub(1) {
            let gone = older[kept].is_tombstone() && older[kept].main < compacted;
            let first = if gone { upto } else { kept };
            dropped.extend(older[..first].iter().map(Entry::rev));
            self.keep_from(first, pasts);
        }
        true
    }

    /// Gives up everything but the slot itself.
    pub fn forget(&mut self, pasts: &mut Pasts) {
        if self.past != PastId::NONE {
            pasts.remove(self.past);
            self.past = PastId::NONE;
        }
    }

    /// Makes the entry at `first` the oldest of the timeline.
    fn keep_from(&mut self, first: usize, pasts: &mut Pasts) {
        if self.past == PastId::NONE {
            return;
        }
        let slot = *self;
        let past = pasts.get_mut(self.past);
        if first > 0 {
            let (create_rev, version) = past
                .meta(&slot, first)
                .map_or((0, 0), |m| (m.create_rev, m.version));
            (past.create_rev, past.version) = (create_rev, version);
            past.older.drain(..first);
            past.older.shrink_to(2 * past.older.len());
        }
        if past.older.is_empty() && !self.is_saturated() {
            self.forget(pasts);
        }
    }

    fn push(&mut self, next: Entry, pasts: &mut Pasts) {
        if self.past == PastId::NONE {
            let (create_rev, version) = self
                .live(pasts)
                .map_or((0, 0), |live| (live.create_rev, live.version));
            self.past = pasts.add(Past {
                create_rev,
                version,
                older: vec![self.newest],
            });
        } else {
            pasts.get_mut(self.past).older.push(self.newest);
        }
        self.newest = next;
    }

    /// Whether it has a [`Past`].
    #[cfg(test)]
    pub fn has_past(&self) -> bool {
        self.past != PastId::NONE
    }

    fn is_saturated(&self) -> bool {
        self.age == SATURATED || self.newest.version == SATURATED
    }

    fn past<'a>(&self, pasts: &'a Pasts) -> Option<&'a Past> {
        (self.past != PastId::NONE).then(|| pasts.get(self.past))
    }
}

impl Past {
    /// State of the key at the entry `at` of its timeline.
    fn meta(&self, slot: &Slot, at: usize) -> Option<KeyMeta> {
        let timeline = |at: usize| self.older.get(at).unwrap_or(&slot.newest);
        let entry = timeline(at);
        let version = entry.version as usize;
        if version == 0 {
            return None;
        }
        let (create_rev, version) = if version > at {
            // The generation began at or before the oldest entry.
            (self.create_rev, self.version.saturating_add(at as i64))
        } else {
            (timeline(at + 1 - version).main, version as i64)
        };
        Some(KeyMeta {
            mod_rev: entry.rev(),
            create_rev,
            version,
        })
    }
}

fn entry(rev: Revision, version: i64) -> Entry {
    Entry {
        main: rev.main,
        sub: rev.sub,
        version: u32::try_from(version).unwrap_or(SATURATED),
    }
}

fn age(rev: Revision, create_rev: i64) -> u32 {
    u32::try_from(rev.main.wrapping_sub(create_rev)).unwrap_or(SATURATED)
}

/// The pasts of all keys that have one.
///
/// They are in chunks, so that growing never moves what is there while the index lock is held, and
/// so that memory is given back when a compaction has emptied a chunk.
#[derive(Debug, Default)]
pub(super) struct Pasts {
    chunks: Vec<Chunk>,
    /// Chunks with room.
    open: Vec<u32>,
}

#[derive(Debug, Default)]
struct Chunk {
    pasts: Vec<Past>,
    free: Vec<u16>,
}

impl Pasts {
    /// Pasts per chunk: 10 kB.
    const CHUNK: usize = 256;

    /// Bytes that are allocated.
    pub fn allocated_bytes(&self) -> usize {
        let older = |past: &Past| past.older.capacity() * size_of::<Entry>();
        let chunk = |chunk: &Chunk| {
            chunk.pasts.capacity() * size_of::<Past>()
                + chunk.free.capacity() * size_of::<u16>()
                + chunk.pasts.iter().map(older).sum::<usize>()
        };
        self.chunks.iter().map(chunk).sum::<usize>()
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.open.capacity() * size_of::<u32>()
    }

    /// How many are in use.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Chunk::used).sum()
    }

    fn get(&self, PastId(id): PastId) -> &Past {
        &self.chunks[id as usize / Self::CHUNK].pasts[id as usize % Self::CHUNK]
    }

    fn get_mut(&mut self, PastId(id): PastId) -> &mut Past {
        &mut self.chunks[id as usize / Self::CHUNK].pasts[id as usize % Self::CHUNK]
    }

    fn add(&mut self, past: Past) -> PastId {
        let at = self.open.last().copied().unwrap_or_else(|| {
            self.chunks.push(Chunk::default());
            self.open.push(self.chunks.len() as u32 - 1);
            self.chunks.len() as u32 - 1
        });
        let chunk = &mut self.chunks[at as usize];
        let place = match chunk.free.pop() {
            Some(place) => {
                chunk.pasts[usize::from(place)] = past;
                u32::from(place)
            }
            None => {
                if chunk.pasts.is_empty() {
                    chunk.pasts.reserve_exact(Self::CHUNK);
                }
                chunk.pasts.push(past);
                chunk.pasts.len() as u32 - 1
            }
        };
        if chunk.used() == Self::CHUNK {
            self.open.pop();
        }
        PastId(at * Self::CHUNK as u32 + place)
    }

    fn remove(&mut self, id: PastId) {
        let at = id.0 / Self::CHUNK as u32;
        let chunk = &mut self.chunks[at as usize];
        if chunk.used() == Self::CHUNK {
            self.open.push(at);
        }
        let place = id.0 as usize % Self::CHUNK;
        chunk.pasts[place].older = vec![];
        chunk.free.push(place as u16);
        if chunk.used() == 0 {
            *chunk = Chunk::default();
        }
    }
}

impl Chunk {
    fn used(&self) -> usize {
        self.pasts.len() - self.free.len()
    }
}
