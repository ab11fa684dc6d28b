//! What the records of a log add up to.

use std::path::PathBuf;

use bytes::Bytes;
use prost::{Message, encoding::encode_varint};
use proto::{raftpb, walpb};
use types::{Index, Term};

use crate::{
    Damage,
    frame::{Fields, Kind, Record, Value},
};

/// What a member finds in its log when it starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// Whose log this is: what [`Wal::create`](crate::Wal::create) was given.
    pub metadata: Bytes,
    /// The newest term, vote and commit index. After a torn write its term may be below that of the last
    /// entry, which was then never acknowledged.
    pub hard_state: raftpb::HardState,
    /// The entries behind the snapshot, without gaps.
    pub entries: Vec<raftpb::Entry>,
    /// Whether the end of the log had to be cut off.
    pub repaired: Option<Repaired>,
}

/// A torn end that was cut off. Nothing in it was ever acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The segment.
    pub file: PathBuf,
    /// Offset in bytes of the cut.
    pub offset: u64,
    /// The copy of the segment as it was before.
    pub copy: PathBuf,
}

/// Adds records up.
///
/// Invariant: `replay.entries` are those at `start.index + 1` and following, without a gap, and their
/// terms never go down.
pub(crate) struct Fold {
    start: walpb::Snapshot,
    pub replay: Replay,
    /// The last index appended, entries that were skipped included.
    pub last: Index,
    /// Whether the log knows the snapshot it starts from.
    pub knows_start: bool,
    has_metadata: bool,
}

impl Fold {
    pub fn new(start: &walpb::Snapshot) -> Self {
        Fold {
            start: start.clone(),
            replay: Replay::default(),
            last: 0,
            knows_start: false,
            has_metadata: false,
        }
    }

    pub fn take(&mut self, record: &Record<'_>) -> Result<(), Damage> {
        match record.kind {
            Kind::Metadata if !self.has_metadata => {
                self.replay.metadata = Bytes::copy_from_slice(record.data);
                self.has_metadata = true;
                Ok(())
            }
            Kind::Metadata if self.replay.metadata != record.data => Err(Damage::Metadata),
            Kind::Metadata | Kind::Checksum => Ok(()),
            Kind::Entry => self.entry(entry(record.data)?),
            Kind::HardState => self.hard_state(hard_state(record.data)?),
            Kind::Snapshot => self.snapshot(snapshot(record.data)?),
        }
    }

    /// An entry replaces the one at its index and all behind it.
    fn entry(&mut self, entry: raftpb::Entry) -> Result<(), Damage> {
        self.last = entry.index;
        let Some(behind) = entry
            .index
            .checked_sub(self.start.index)
            .filter(|behind| *behind > 0)
        else {
            return Ok(());
        };
        let at = usize::try_from(behind - 1).unwrap_or(usize::MAX);
        let follows = if at > self.replay.entries.len() {
            Err(Damage::Gap { index: entry.index })
        } else {
            self.replay.entries.truncate(at);
            let before = self.replay.entries.last();
            grows(before.map_or(self.start.term, |last| last.term), entry.term)
        };
        match follows {
            Ok(()) => self.replay.entries.push(entry),
            // The end of a log that the snapshot, when it came from the leader, has replaced.
            Err(_) if !self.knows_start => self.replay.entries.clear(),
            Err(damage) => return Err(damage),
        }
        Ok(())
    }

    fn hard_state(&mut self, state: raftpb::HardState) -> Result<(), Damage> {
        grows(self.replay.hard_state.term, state.term)?;
        self.replay.hard_state = state;
        Ok(())
    }

    fn snapshot(&mut self, snapshot: walpb::Snapshot) -> Result<(), Damage> {
        self.last = self.last.max(snapshot.index);
        self.knows_start |= (snapshot.index, snapshot.term) == (self.start.index, self.start.term);
        Ok(())
    }

    /// To be called once all records were taken.
    pub fn check(&self) -> Result<(), Damage> {
        let commit = self.replay.hard_state.commit;
        let last = self
            .replay
            .entries
            .last()
            .map_or(self.start.index, |entry| entry.index);
        if commit > last {
            Err(Damage::Commit { commit, last })
        } else {
            Ok(())
        }
    }
}

/// The snapshots a log knows of, and how far it is committed.
#[derive(Default)]
pub(crate) struct Snapshots {
    found: Vec<walpb::Snapshot>,
    commit: Index,
}

impl Snapshots {
    pub fn take(&mut self, record: &Record<'_>) -> Result<(), Damage> {
        match record.kind {
            Kind::Snapshot => self.found.push(snapshot(record.data)?),
            Kind::HardState => self.commit = hard_state(record.data)?.commit,
            Kind::Metadata | Kind::Entry | Kind::Checksum => {}
        }
        Ok(())
    }

    /// Those that may be started from. One that is ahead of the commit index was recorded in a write
    /// that did not get to its hard state.
    pub fn usable(mut self) -> Vec<walpb::Snapshot> {
        self.found.retain(|snapshot| snapshot.index <= self.commit);
        self.found
    }
}

fn grows(from: Term, to: Term) -> Result<(), Damage> {
    if to < from {
        Err(Damage::Term { from, to })
    } else {
        Ok(())
    }
}

/// The fields of an entry in front of its data; where there is data, its tag and length too.
pub(crate) fn encode_entry_head(entry: &raftpb::Entry, head: &mut Vec<u8>) {
    head.clear();
    for (tag, value) in [
        (0x08, entry.r#type as u64),
        (0x10, entry.term),
        (0x18, entry.index),
    ] {
        head.push(tag);
        encode_varint(value, head);
    }
    if let Some(data) = &entry.data {
        head.push(0x22);
        encode_varint(data.len() as u64, head);
    }
}

// The checksum does not cover a record's type, so these take nothing that could be of another type:
// no unknown fields, and none of the values that no writer writes.

/// Copies the data out, so that an entry does not keep a whole segment in memory.
fn entry(data: &[u8]) -> Result<raftpb::Entry, Damage> {
    let mut entry = raftpb::Entry::default();
    let mut fields = Fields(data);
    for field in &mut fields {
        match field {
            (1, Value::Varint(v)) => {
                entry.r#type = i32::try_from(v).map_err(|_| Damage::Malformed)?;
            }
            (2, Value::Varint(v)) => entry.term = v,
            (3, Value::Varint(v)) => entry.index = v,
            (4, Value::Bytes(v)) => entry.data = Some(Bytes::copy_from_slice(v)),
            _ => return Err(Damage::Malformed),
        }
    }
    let content = match raftpb::EntryType::try_from(entry.r#type) {
        Ok(raftpb::EntryType::EntryNormal) => true,
        Ok(_) => entry.data.is_some(),
        Err(_) => false,
    };
    let plausible = content && entry.term > 0 && entry.index > 0;
    if fields.0.is_empty() && plausible {
        Ok(entry)
    } else {
        Err(Damage::Malformed)
    }
}

fn hard_state(data: &[u8]) -> Result<raftpb::HardState, Damage> {
    let mut state = raftpb::HardState::default();
    let mut fields = Fields(data);
    for field in &mut fields {
        match field {
            (1, Value::Varint(v)) => state.term = v,
            (2, Value::Varint(v)) => state.vote = v,
            (3, Value::Varint(v)) => state.commit = v,
            _ => return Err(Damage::Malformed),
        }
    }
    let plausible = state.term > 0 || state == raftpb::HardState::default();
    if fields.0.is_empty() && plausible {
        Ok(state)
    } else {
        Err(Damage::Malformed)
    }
}

fn snapshot(data: &[u8]) -> Result<walpb::Snapshot, Damage> {
    let mut fields = Fields(data);
    let known = fields
        .by_ref()
        .all(|field| matches!(field, (1 | 2, Value::Varint(_)) | (3, Value::Bytes(_))));
    if !known || !fields.0.is_empty() || data.is_empty() {
        return Err(Damage::Malformed);
    }
    walpb::Snapshot::decode(data).map_err(|_| Damage::Malformed)
}
