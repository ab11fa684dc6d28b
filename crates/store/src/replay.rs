//! Rebuilding the memory of a store from its segments.
//!
//! Two threads share the work, a segment at a time: one reads, checks and sorts, the other fills the key index. Sorted,
//! because neighbours in the index are then filled one after the other; in the order of the log every insert would go
//! to another end of a tree that is far larger than the processor's caches.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use mvcc::record::{Content, DecodeError, Frame, Kind};
use mvcc::{Cursor, KeyIndex, KvFields, Restored, Table, TableChange};
use prost::Message;
use proto::storepb::Commit;
use types::Revision;

use crate::Tables;
use crate::error::{Damage, OpenError};
use crate::files::{StateFile, TableEntry};
use crate::segment::{SEGMENT_HEADER, Scanned, Scanner, Segment};
use crate::slots::Bits;
use crate::writer::apply;

/// Segments that are read and wait for the index. One is enough to keep both threads busy; each takes about as much
/// memory as its keys.
const READ_AHEAD: usize = 1;

const UNKNOWN_COMMIT: &str = "the commit record is of an unknown form";

/// Where the last whole batch of the open segment ends.
pub(crate) struct End {
    pub offset: u64,
    /// Its commit, if there is one.
    pub commit: Option<Commit>,
    /// What is wrong with what comes behind.
    pub why: String,
}

/// Finds the last whole batch.
pub(crate) fn last_batch(open: &Segment, file_len: u64) -> Result<End, OpenError> {
    let mut scanner = Scanner::new(Arc::clone(&open.file), u64::from(SEGMENT_HEADER), file_len);
    let (mut offset, mut commit) = (u64::from(SEGMENT_HEADER), None);
    let why = loop {
        match scanner.next()? {
            Scanned::Record { at, frame, .. } if frame.kind == Kind::Commit => {
                let unknown = |_| Damage::new(&open.file.path, at, UNKNOWN_COMMIT);
                commit = Some(Commit::decode(frame.body).map_err(unknown)?);
                offset = at + frame.len() as u64;
            }
            Scanned::Record { .. } => {}
            Scanned::End => break "the file ends".into(),
            // Its checksum fits, so nothing is torn: a newer program wrote it.
            Scanned::Broken(at, why @ DecodeError::Unknown) => {
                return Err(Damage::new(&open.file.path, at, why).into());
            }
            Scanned::Broken(at, why) => break format!("at byte {at}: {why}"),
        }
    };
    Ok(End { offset, commit, why })
}

/// What of a segment is to be read, and what may be in it.
pub(crate) struct Limits {
    /// Bytes of it that count.
    pub end: u64,
    /// Its transactions are below this.
    pub next_first: i64,
    /// Table records and commits before this byte are in the state checkpoint.
    pub news_from: u64,
    /// Changes that are known to be dead.
    pub dead: Bits,
}

impl Limits {
    /// Bytes behind the state checkpoint.
    pub fn news_len(&self) -> u64 {
        self.end - self.news_from.clamp(u64::from(SEGMENT_HEADER), self.end)
    }
}

/// The memory of a store, as far as the segments were read.
pub(crate) struct Replay {
    pub segments: Vec<Segment>,
    pub index: KeyIndex,
    pub tables: Tables,
    pub commit: Commit,
    /// What the index is compacted to while it is filled.
    compacted: i64,
    /// Changes that it therefore let go.
    dropped: Vec<Revision>,
}

impl Replay {
    /// Begins with the state checkpoint, if there is one. `newest`: the commit that will be the last, if it is known.
    pub fn new(state: Option<StateFile>, newest: Option<&Commit>) -> Result<Replay, &'static str> {
        let state = state.unwrap_or_default();
        let mut tables = Tables::new();
        for TableEntry { table, key, value } in state.entries {
            let table = u8::try_from(table).ok().and_then(Table::from_number);
            let table = table.ok_or("its checkpoint has a table that is unknown")?;
            tables.entry(table).or_default().insert(key, value);
        }
        let commit = state.commit.unwrap_or_else(nothing_done);
        let compacted = newest.unwrap_or(&commit).compact_revision;
        Ok(Replay {
            segments: vec![],
            index: KeyIndex::new(),
            tables,
            commit,
            compacted,
            dropped: vec![],
        })
    }

    /// Reads the segments, given in revision order.
    pub fn run(&mut self, segments: Vec<(Segment, Limits)>) -> Result<(), OpenError> {
        std::thread::scope(|scope| {
            let (give, take) = sync_channel(READ_AHEAD);
            scope.spawn(move || {
                for (segment, limits) in segments {
                    let contents = Contents::read(segment, &limits);
                    let failed = contents.is_err();
                    if give.send(contents).is_err() || failed {
                        return;
                    }
                }
            });
            take.iter().try_for_each(|contents| self.add(contents?))
        })
    }

    fn add(&mut self, contents: Contents) -> Result<(), OpenError> {
        let Contents {
            segment,
            keys,
            changes,
            tables,
            commit,
            ..
        } = contents;
        for KeyChange { key, change, .. } in changes {
            let key = &keys[key.start as usize..key.end as usize];
            self.index.restore(key, change, self.compacted, &mut self.dropped);
        }
        tables.iter().for_each(|change| apply(&mut self.tables, change));
        if let Some(commit) = commit {
            if !follows(&commit, &self.commit) {
                return Err(Damage::new(&segment.file.path, segment.len, OLDER_COMMIT).into());
            }
            self.commit = commit;
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Brings the index and the live bytes up to the last commit. `rewritten_at`: the compact revision that segments
    /// were rewritten for.
    pub fn finish(&mut self, rewritten_at: i64) -> Result<(), &'static str> {
        let Commit {
            revision,
            compact_revision,
            ..
        } = self.commit;
        let last = self
            .segments
            .iter()
            .filter_map(|segment| segment.slots.last())
            .next_back();
        if last.is_some_and(|last| revision < last.main) {
            return Err("its segments end with changes that no commit covers");
        }
        if compact_revision.max(0) < rewritten_at {
            return Err("it names segments that were rewritten for a compaction that is lost");
        }
        let mut cursor = Cursor::default();
        while compact_revision > self.compacted && !cursor.is_done() {
            self.index
                .compact(compact_revision, &mut cursor, usize::MAX, &mut self.dropped);
        }
        for rev in self.dropped.drain(..) {
            let holder = self.segments.partition_point(|segment| segment.first <= rev.main);
            self.segments[holder - 1].forget(rev);
        }
        Ok(())
    }
}

/// The commit of a store in which nothing was done yet.
fn nothing_done() -> Commit {
    Commit {
        revision: Revision::FIRST,
        compact_revision: -1,
        ..Commit::default()
    }
}

const OLDER_COMMIT: &str = "the commit is older than the one before it";

fn follows(commit: &Commit, before: &Commit) -> bool {
    commit.applied_index >= before.applied_index && commit.revision >= before.revision
}

/// What happened to a key.
struct KeyChange {
    /// The first bytes that may differ from the other keys', so that most comparisons need to look no further.
    head: u64,
    /// The key's place.
    key: Range<u32>,
    change: Restored,
}

/// A segment that was read.
struct Contents {
    segment: Segment,
    /// Keys of the changes, back to back.
    keys: Vec<u8>,
    /// Length of what all the keys begin with.
    shared: usize,
    /// Changes that may be live, in the end in order of keys, then of revisions.
    changes: Vec<KeyChange>,
    /// Table changes that are news.
    tables: Vec<TableChange>,
    /// The last commit that is news.
    commit: Option<Commit>,
}

impl Contents {
    fn read(segment: Segment, limits: &Limits) -> Result<Contents, OpenError> {
        if limits.end > u64::from(u32::MAX) {
            return Err(Damage::new(&segment.file.path, 0, "it is longer than a segment can be").into());
        }
        let mut scanner = Scanner::new(Arc::clone(&segment.file), u64::from(SEGMENT_HEADER), limits.end);
        let mut contents = Contents {
            segment,
            keys: vec![],
            shared: 0,
            changes: vec![],
            tables: vec![],
            commit: None,
        };
        let damaged = |segment: &Segment, at, what| Damage::new(&segment.file.path, at, what);
        loop {
            match scanner.next()? {
                Scanned::End => break,
                Scanned::Broken(at, why) => {
                    return Err(damaged(&contents.segment, at, why.to_string()).into());
                }
                Scanned::Record { at, frame, bytes } => {
                    let added = contents.add(limits, at, frame, bytes);
                    added.map_err(|what| damaged(&contents.segment, at, what.to_owned()))?;
                }
            }
        }
        contents.segment.len = limits.end;
        contents.segment.slots.shrink();
        contents.sort();
        Ok(contents)
    }

    fn sort(&mut self) {
        let Contents {
            keys,
            shared,
            changes,
            ..
        } = self;
        let key = |at: &Range<u32>| &keys[at.start as usize..at.end as usize];
        for change in changes.iter_mut() {
            let rest = &key(&change.key)[*shared..];
            let mut head = [0; 8];
            let len = rest.len().min(head.len());
            head[..len].copy_from_slice(&rest[..len]);
            change.head = u64::from_be_bytes(head);
        }
        changes.sort_unstable_by(|a, b| {
            let by_key = || key(&a.key).cmp(key(&b.key));
            a.head
                .cmp(&b.head)
                .then_with(by_key)
                .then(a.change.rev.cmp(&b.change.rev))
        });
    }

    fn add(&mut self, limits: &Limits, at: u64, frame: Frame<'_>, bytes: &[u8]) -> Result<(), &'static str> {
        let Frame { kind, rev, body } = frame;
        match kind {
            Kind::Put | Kind::Tombstone => {
                let kv = KvFields::parse(body).map_err(|_| "the record holds no KeyValue")?;
                let slots = &self.segment.slots;
                let in_order = slots.last().is_none_or(|last| last < rev);
                if !in_order || !(self.segment.first..limits.next_first).contains(&rev.main) {
                    return Err("the record's revision does not belong here");
                }
                let (number, tombstone) = (slots.len(), kind == Kind::Tombstone);
                self.segment.push(rev, tombstone, at, bytes.len() as u32);
                if limits.dead.contains(number) {
                    self.segment.forget_slot(number);
                    return Ok(());
                }
                // Keys are part of a segment, which has offsets of 32 bits.
                let start = self.keys.len() as u32;
                self.shared = match self.changes.first() {
                    None => kv.key.len(),
                    Some(first) => shared_len(&self.keys[first.key.start as usize..][..self.shared], kv.key),
                };
                self.keys.extend_from_slice(kv.key);
                let change = Restored {
                    rev,
                    create_rev: kv.create_rev,
                    version: kv.version,
                    tombstone,
                };
                let key = start..self.keys.len() as u32;
                self.changes.push(KeyChange { head: 0, key, change });
            }
            _ if at < limits.news_from => {}
            Kind::TablePut | Kind::TableDelete => match Content::read(&Bytes::copy_from_slice(bytes), 0) {
                Ok((Content::Table(change), _)) => self.tables.push(change),
                _ => return Err("the table record is of an unknown form"),
            },
            Kind::Commit => {
                let commit = Commit::decode(body).map_err(|_| UNKNOWN_COMMIT)?;
                if self
                    .commit
                    .as_ref()
                    .is_some_and(|before| !follows(&commit, before))
                {
                    return Err(OLDER_COMMIT);
                }
                self.commit = Some(commit);
            }
        }
        Ok(())
    }
}

/// Length of what two keys both begin with.
fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
