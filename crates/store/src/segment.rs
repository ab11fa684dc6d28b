//! One segment: a file of records, and what is known about it in memory.

use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use env::{Disk, File};
use mvcc::record::{DecodeError, Frame, HEADER_LEN, Kind};
use mvcc::{Change, ReadError, Wait};
use parking_lot::Mutex;
use types::Revision;

use crate::error::{Damage, DiskError, OpenError};
use crate::files::{DeadChanges, ManifestSegment, VERSION, segment_name};
use crate::slots::{Bits, Slots};

/// Bytes in front of the first record.
pub(crate) const SEGMENT_HEADER: u32 = 32;

const MAGIC: &[u8; 8] = b"KEELSEG\n";

/// Two records are read with one call when no more than this lies between them: as much as the kernel reads anyway.
const READ_GAP: u64 = 4 << 10;

/// Most bytes of one read. Records that come out of it share its buffer, so it is also what one of them can pin.
const READ_MAX: u64 = 1 << 20;

/// An open segment file. Whoever holds it can read it, even after it was removed from the folder.
pub(crate) struct SegmentFile {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
}

/// A segment and where its changes are. Sealed ones only ever change their [`Life`].
pub(crate) struct Segment {
    pub id: u64,
    /// Lower bound of the revisions inside.
    pub first: i64,
    pub file: Arc<SegmentFile>,
    /// Bytes that are written and synced.
    pub len: u64,
    pub slots: Slots,
    pub life: Mutex<Life>,
}

/// Which changes the key index has dropped.
#[derive(Clone, Default)]
pub(crate) struct Life {
    pub dead: Bits,
    /// Bytes of the records that are not dead.
    pub live_bytes: u64,
}

/// How large a segment is, and how much of that is live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub id: u64,
    /// Bytes of all its records.
    pub payload: u64,
    /// Bytes of its live changes.
    pub live: u64,
}

impl Segment {
    /// Makes the file with its header, durably except for its name.
    pub fn create(disk: &dyn Disk, dir: &Path, first: i64, id: u64) -> Result<Segment, DiskError> {
        let path = dir.join(segment_name(first, id));
        let file = disk.create(&path).map_err(DiskError::at("creating", &path))?;
        let write = || {
            file.write_at(&[IoSlice::new(&header(id, first))], 0)?;
            file.sync_data()
        };
        if let Err(error) = write() {
            // Should this fail, too, the next start removes it.
            let _ = disk.remove(&path);
            return Err(DiskError::at("writing", &path)(error));
        }
        Ok(Segment::new(id, first, SegmentFile { path, file }))
    }

    /// Opens a segment that the manifest names. Its records are yet to be looked at.
    pub fn open(disk: &dyn Disk, dir: &Path, entry: &ManifestSegment) -> Result<Segment, OpenError> {
        let path = dir.join(segment_name(entry.first_revision, entry.id));
        if !disk.exists(&path) {
            return Err(Damage::new(&path, 0, "the file is missing").into());
        }
        let file = disk.open(&path).map_err(DiskError::at("opening", &path))?;
        let mut found = [0; SEGMENT_HEADER as usize];
        let read = file
            .read_at(&mut found, 0)
            .map_err(DiskError::at("reading", &path))?;
        let version = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
        if read == found.len() && found != header(entry.id, entry.first_revision) {
            let crc = header_crc(&found).to_le_bytes();
            if found[..8] == *MAGIC && found[12..16] == crc && version > VERSION {
                return Err(OpenError::Newer {
                    file: path,
                    version,
                    known: VERSION,
                });
            }
            return Err(Damage::new(&path, 0, "its header is not the one it was made with").into());
        }
        if read < found.len() {
            return Err(Damage::new(&path, read as u64, "it ends inside its header").into());
        }
        Ok(Segment::new(
            entry.id,
            entry.first_revision,
            SegmentFile { path, file },
        ))
    }

    fn new(id: u64, first: i64, file: SegmentFile) -> Segment {
        Segment {
            id,
            first,
            file: Arc::new(file),
            len: u64::from(SEGMENT_HEADER),
            slots: Slots::new(SEGMENT_HEADER),
            life: Mutex::default(),
        }
    }

    /// Adds a change that lies behind all others.
    pub fn push(&mut self, rev: Revision, tombstone: bool, start: u64, len: u32) {
        let start = u32::try_from(start).expect("a segment is sealed long before 4 GiB");
        self.slots.push(rev, tombstone, start, len);
        self.life.get_mut().live_bytes += u64::from(len);
    }

    /// Marks a change as dropped by the key index. Returns the bytes that are now dead.
    pub fn forget(&self, rev: Revision) -> u64 {
        self.slots.find(rev).map_or(0, |i| self.forget_slot(i))
    }

    /// Marks the `i`th change as dropped by the key index. Returns the bytes that are now dead.
    pub fn forget_slot(&self, i: usize) -> u64 {
        let mut life = self.life.lock();
        if !life.dead.insert(i) {
            return 0;
        }
        let len = self.slots.record_len(i);
        life.live_bytes -= len;
        len
    }

    /// Where the `i`th change is.
    pub fn place(&self, i: usize) -> Place {
        Place {
            file: self.file.clone(),
            bytes: self.slots.bytes(i),
            rev: self.slots.revision(i),
            tombstone: self.slots.tombstone(i),
        }
    }

    /// Where the change at `rev` is.
    pub fn find(&self, rev: Revision) -> Result<Place, ReadError> {
        self.slots
            .find(rev)
            .map(|i| self.place(i))
            .ok_or(ReadError::Gone(rev))
    }

    /// How the manifest names it while it is open.
    pub fn open_entry(&self) -> ManifestSegment {
        ManifestSegment {
            length: 0,
            ..self.entry()
        }
    }

    /// How the manifest names it, once it is sealed.
    pub fn entry(&self) -> ManifestSegment {
        ManifestSegment {
            id: self.id,
            first_revision: self.first,
            length: self.len,
        }
    }

    /// Which of its changes are dead, if any are.
    pub fn dead_changes(&self) -> Option<DeadChanges> {
        let life = self.life.lock();
        let bits = life.dead.words();
        (!bits.is_empty()).then(|| DeadChanges {
            segment_id: self.id,
            bits: bits.to_vec(),
        })
    }

    /// Name of its file.
    pub fn file_name(&self) -> String {
        segment_name(self.first, self.id)
    }

    /// How much of it is live.
    pub fn extent(&self) -> Extent {
        let payload = self.len - u64::from(SEGMENT_HEADER);
        Extent {
            id: self.id,
            payload,
            live: self.life.lock().live_bytes,
        }
    }

    /// Makes sure of what must always be true.
    pub fn check(&self) {
        let life = self.life.lock();
        let live = (0..self.slots.len()).filter(|i| !life.dead.contains(*i));
        let live_bytes: u64 = live.map(|i| self.slots.record_len(i)).sum();
        assert_eq!(life.live_bytes, live_bytes, "{}", self.file.path.display());
        assert!(u64::from(SEGMENT_HEADER) + live_bytes <= self.len);
        assert!(self.slots.len() == 0 || self.slots.revision(0).main >= self.first);
    }

    /// A segment of the same content, frozen.
    pub fn freeze(&self) -> Segment {
        Segment {
            file: self.file.clone(),
            slots: self.slots.clone(),
            life: Mutex::new(self.life.lock().clone()),
            ..*self
        }
    }
}

fn header(id: u64, first: i64) -> [u8; SEGMENT_HEADER as usize] {
    let mut header = [0; SEGMENT_HEADER as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&id.to_le_bytes());
    header[24..].copy_from_slice(&first.to_le_bytes());
    let crc = header_crc(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The checksum of a header: everything in it but the checksum.
fn header_crc(header: &[u8; SEGMENT_HEADER as usize]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

/// A change in a file: all it takes to read it.
#[derive(Clone)]
pub(crate) struct Place {
    pub file: Arc<SegmentFile>,
    pub bytes: Range<u64>,
    pub rev: Revision,
    pub tombstone: bool,
}

/// Reads records, given in revision order, with as few calls as possible, and hands each to `take` with its number.
/// Only what is whole and the record that was written there gets that far.
pub(crate) fn read_places(
    places: &[Place],
    wait: Wait,
    mut take: impl FnMut(usize, Bytes),
) -> Result<(), ReadError> {
    let mut next = 0;
    while next < places.len() {
        let run = next..next + run_len(&places[next..]);
        let (base, end) = (places[run.start].bytes.start, places[run.end - 1].bytes.end);
        let buf = read_range(&places[run.start].file, base..end, wait)?;
        for i in run.clone() {
            let Place { bytes, .. } = &places[i];
            let record = buf.slice((bytes.start - base) as usize..(bytes.end - base) as usize);
            places[i]
                .check(&record)
                .map_err(|damage| ReadError::Damaged(damage.to_string()))?;
            take(i, record);
        }
        next = run.end;
    }
    Ok(())
}

/// How many of the places, from the first on, are read with one call.
fn run_len(places: &[Place]) -> usize {
    let first = &places[0];
    let together = |(a, b): (&Place, &Place)| {
        Arc::ptr_eq(&a.file, &b.file)
            && b.bytes.start.saturating_sub(a.bytes.end) <= READ_GAP
            && b.bytes.end - first.bytes.start <= READ_MAX
    };
    1 + places
        .iter()
        .zip(&places[1..])
        .take_while(|pair| together(*pair))
        .count()
}

fn read_range(from: &SegmentFile, range: Range<u64>, wait: Wait) -> Result<Bytes, ReadError> {
    let mut buf = vec![0; (range.end - range.start) as usize];
    let read = match wait {
        Wait::Yes => from.file.read_at(&mut buf, range.start).map(Some),
        Wait::No => from.file.read_cached_at(&mut buf, range.start),
    };
    let damaged = |what: String| ReadError::Damaged(Damage::new(&from.path, range.start, what).to_string());
    match (read, wait) {
        (Ok(Some(n)), _) if n == buf.len() => Ok(buf.into()),
        (Ok(_), Wait::No) => Err(ReadError::WouldBlock),
        (Ok(_), Wait::Yes) => Err(damaged("the file ends inside a record".into())),
        (Err(e), _) => Err(damaged(format!("it can not be read: {e}"))),
    }
}

impl Place {
    /// Makes sure that these bytes are the record that was written here.
    fn check(&self, record: &[u8]) -> Result<(), Damage> {
        let damaged = |what: &dyn std::fmt::Display| Damage::new(&self.file.path, self.bytes.start, what);
        let frame = Frame::decode(record).map_err(|e| damaged(&e))?;
        let kind = if self.tombstone {
            Kind::Tombstone
        } else {
            Kind::Put
        };
        if (frame.rev, frame.kind, frame.len()) != (self.rev, kind, record.len()) {
            return Err(damaged(&"another record is in its place"));
        }
        Ok(())
    }

    /// The change in a record that was read from here.
    pub fn change(&self, record: &Bytes) -> Change {
        Change {
            rev: self.rev,
            tombstone: self.tombstone,
            kv: record.slice(HEADER_LEN..),
            offset: self.bytes.start,
        }
    }
}

/// Bytes read at a time when a segment is gone through from end to end.
const SCAN_WINDOW: u64 = 1 << 20;

/// Goes through the records of a file one after the other; for recovery, when nothing is known about it yet.
pub(crate) struct Scanner {
    file: Arc<SegmentFile>,
    window: Vec<u8>,
    window_at: u64,
    at: u64,
    end: u64,
}

/// What a [`Scanner`] came upon.
pub(crate) enum Scanned<'a> {
    /// A whole record.
    Record {
        /// Where it starts.
        at: u64,
        frame: Frame<'a>,
        /// Header and body.
        bytes: &'a [u8],
    },
    /// The end of the range.
    End,
    /// From here on there is no whole record.
    Broken(u64, DecodeError),
}

impl Scanner {
    /// Goes through the records from `start` to `end`.
    pub fn new(file: Arc<SegmentFile>, start: u64, end: u64) -> Self {
        Scanner {
            file,
            window: Vec::new(),
            window_at: start,
            at: start,
            end,
        }
    }

    /// The next record.
    pub fn next(&mut self) -> Result<Scanned<'_>, DiskError> {
        let left = self.end - self.at;
        if left == 0 {
            return Ok(Scanned::End);
        }
        self.fill(left.min(HEADER_LEN as u64))?;
        if let Some(header) = self.rest().first_chunk::<HEADER_LEN>() {
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            // A length that reaches behind the end is damaged, and must not make the window that large.
            self.fill(left.min(HEADER_LEN as u64 + u64::from(length)))?;
        }
        let at = self.at;
        let rest = &self.window[(at - self.window_at) as usize..];
        Ok(match Frame::decode(rest) {
            Ok(frame) => {
                self.at += frame.len() as u64;
                Scanned::Record {
                    at,
                    frame,
                    bytes: &rest[..frame.len()],
                }
            }
            Err(error) => Scanned::Broken(at, error),
        })
    }

    fn rest(&self) -> &[u8] {
        &self.window[(self.at - self.window_at) as usize..]
    }

    /// Makes the window hold the next `needed` bytes, unless the file is shorter than was said.
    fn fill(&mut self, needed: u64) -> Result<(), DiskError> {
        if self.rest().len() as u64 >= needed {
            return Ok(());
        }
        let len = needed.max(SCAN_WINDOW).min(self.end - self.at) as usize;
        self.window.resize(len, 0);
        let read = self.file.file.read_at(&mut self.window, self.at);
        let read = read.map_err(DiskError::at("reading", &self.file.path))?;
        self.window.truncate(read);
        self.window_at = self.at;
        Ok(())
    }
}
