//! The files beside the segments: names, and the messages written as a whole.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::Path;

use bytes::Bytes;
use env::Disk;
use prost::Message;
use proto::storepb::Commit;

use crate::error::{Damage, DiskError, OpenError};
use crate::slots::Bits;
use crate::state::Position;

/// The file that says which others make up the store.
pub(crate) const MANIFEST: &str = "MANIFEST";

/// The manifest to come.
pub(crate) const MANIFEST_NEXT: &str = "MANIFEST.tmp";

/// The file that is locked while the store is open. Not the manifest, which is replaced by another file.
pub(crate) const LOCK: &str = "LOCK";

/// What this program writes and the newest it reads.
pub(crate) const VERSION: u32 = 1;

/// Bytes in front of a message: checksum and length.
const FRAME_LEN: usize = 8;

/// Content of `MANIFEST`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Manifest {
    /// In revision order. The last one is open for appending, the others are sealed.
    #[prost(message, repeated, tag = "1")]
    pub segments: Vec<ManifestSegment>,
    /// Above the id of every file ever made.
    #[prost(uint64, tag = "2")]
    pub next_id: u64,
    /// File name of the state checkpoint; empty: none yet.
    #[prost(string, tag = "3")]
    pub state_checkpoint: String,
    /// File name of the dead checkpoint; empty: none yet.
    #[prost(string, tag = "4")]
    pub dead_checkpoint: String,
    /// The compact revision that the last rewrite relied on; 0: nothing was rewritten.
    #[prost(int64, tag = "5")]
    pub rewritten_at: i64,
    /// Format version of the folder.
    #[prost(uint32, tag = "6")]
    pub version: u32,
}

/// A segment as the manifest knows it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ManifestSegment {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Lower bound of the revisions inside.
    #[prost(int64, tag = "2")]
    pub first_revision: i64,
    /// Bytes of the file that count, once it is sealed; 0: open.
    #[prost(uint64, tag = "3")]
    pub length: u64,
}

/// Content of a state checkpoint: the small tables as of a commit.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StateFile {
    #[prost(message, optional, tag = "1")]
    pub commit: Option<Commit>,
    /// Table records before this place are in `entries` already.
    #[prost(uint64, tag = "2")]
    pub segment_id: u64,
    #[prost(uint64, tag = "3")]
    pub segment_offset: u64,
    #[prost(message, repeated, tag = "4")]
    pub entries: Vec<TableEntry>,
}

/// A row of a small table.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableEntry {
    #[prost(uint32, tag = "1")]
    pub table: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
}

/// Content of a dead checkpoint: which changes a compaction has dropped.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeadFile {
    #[prost(message, repeated, tag = "1")]
    pub segments: Vec<DeadChanges>,
}

/// The dead changes of one segment.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeadChanges {
    #[prost(uint64, tag = "1")]
    pub segment_id: u64,
    /// Bit `i` of 64-bit word `w` stands for change number `64 w + i` of the segment.
    #[prost(fixed64, repeated, tag = "2")]
    pub bits: Vec<u64>,
}

impl StateFile {
    /// Where the log continues.
    pub fn position(&self) -> Position {
        Position {
            segment_id: self.segment_id,
            offset: self.segment_offset,
        }
    }
}

impl DeadFile {
    /// The dead changes by segment id.
    pub fn by_segment(self) -> HashMap<u64, Bits> {
        self.segments
            .into_iter()
            .map(|dead| (dead.segment_id, Bits::from_words(dead.bits)))
            .collect()
    }
}

impl Manifest {
    /// Reads the manifest; `None` if there is none.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Manifest>, OpenError> {
        let path = dir.join(MANIFEST);
        if !disk.exists(&path) {
            return Ok(None);
        }
        let manifest: Manifest = read_message(disk, &path)?;
        if manifest.version > VERSION {
            return Err(OpenError::Newer {
                file: path,
                version: manifest.version,
                known: VERSION,
            });
        }
        let ordered = manifest
            .segments
            .is_sorted_by(|a, b| a.first_revision <= b.first_revision);
        let lengths = manifest.segments.split_last();
        let sealed =
            lengths.is_some_and(|(open, sealed)| open.length == 0 && sealed.iter().all(|s| s.length > 0));
        if !(ordered && sealed) {
            return Err(Damage::new(&path, 0, "its list of segments makes no sense").into());
        }
        Ok(Some(manifest))
    }

    /// Writes this manifest beside the one in force, durably. What it names must be durable already.
    pub fn stage(&self, disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
        let path = dir.join(MANIFEST_NEXT);
        let write = || {
            let file = disk.create(&path)?;
            let [head, body] = frame(self)?;
            file.write_at(&[IoSlice::new(&head), IoSlice::new(&body)], 0)?;
            file.sync_data()
        };
        write().map_err(DiskError::at("writing", &path))
    }

    /// Puts the staged manifest in force, durably.
    pub fn publish(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
        let path = dir.join(MANIFEST);
        let replace = || {
            disk.rename(&dir.join(MANIFEST_NEXT), &path)?;
            disk.sync_dir(dir)
        };
        replace().map_err(DiskError::at("replacing", &path))
    }

    /// Whether a file of this name is part of the store.
    pub fn names(&self, name: &str) -> bool {
        let segment = |entry: &ManifestSegment| segment_name(entry.first_revision, entry.id);
        name == self.state_checkpoint
            || name == self.dead_checkpoint
            || self.segments.iter().any(|entry| segment(entry) == name)
    }

    /// An id that no file ever had.
    pub fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

/// Name of a segment file.
pub(crate) fn segment_name(first_revision: i64, id: u64) -> String {
    format!("{first_revision:016x}-{id:08x}.seg")
}

/// Name of a checkpoint. The id keeps two of the same revision apart: tables change without a revision.
pub(crate) fn checkpoint_name(kind: &str, revision: i64, id: u64) -> String {
    format!("{kind}-{revision:016x}-{id:08x}.ckpt")
}

/// Whether a file of this name is one of the store's, so that it may be removed when nothing names it.
pub(crate) fn is_ours(name: &str) -> bool {
    [".seg", ".ckpt", ".tmp"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

/// Reads a file that [`write_message`] wrote.
pub(crate) fn read_message<M: Message + Default>(disk: &dyn Disk, path: &Path) -> Result<M, OpenError> {
    let file = disk.open(path).map_err(DiskError::at("opening", path))?;
    let bytes = env::read_file(&*file).map_err(DiskError::at("reading", path))?;
    let damaged = |what: &str| OpenError::from(Damage::new(path, 0, what));
    let Some((frame, body)) = bytes.split_first_chunk::<FRAME_LEN>() else {
        return Err(damaged("it is too short"));
    };
    let [crc, length] = [&frame[..4], &frame[4..]].map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    if body.len() != length as usize {
        return Err(damaged("its length is wrong"));
    }
    if crc32c::crc32c(&bytes[4..]) != crc {
        return Err(damaged("its checksum does not fit"));
    }
    M::decode(Bytes::from(bytes).slice(FRAME_LEN..)).map_err(|_| damaged("it is of an unknown form"))
}

/// Replaces a file by a framed message, durably and as a whole.
pub(crate) fn write_message(disk: &dyn Disk, path: &Path, message: &impl Message) -> Result<(), DiskError> {
    let replace = || {
        let [head, body] = frame(message)?;
        env::replace_file(disk, path, &[IoSlice::new(&head), IoSlice::new(&body)])
    };
    replace().map_err(DiskError::at("writing", path))
}

/// `crc | length`, and the message.
fn frame(message: &impl Message) -> io::Result<[Vec<u8>; 2]> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len())
        .map_err(|_| io::ErrorKind::FileTooLarge)?
        .to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &body).to_le_bytes();
    Ok([[crc, length].concat(), body])
}
