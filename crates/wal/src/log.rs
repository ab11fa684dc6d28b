//! The log and the disk: the only place of this crate that writes segments.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use env::{Disk, File};
use parking_lot::Mutex;
use prost::Message;
use proto::{raftpb, walpb};
use types::Index;

use crate::{
    OpenError, Repaired, Replay, WriteError,
    frame::{Encoder, Kind},
    replay::{self, Fold, Snapshots},
    segment::{self, Name},
};

/// Room in the write buffer that is kept for the next batch; what one large batch needed is given back.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// Zeros written between two syncs while a segment is made ahead of time. Small, so that the log's own
/// syncs do not queue behind it for long.
const ZEROS_BYTES: usize = 1 << 20;

/// How a log is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment that reaches this size gets a successor.
    pub segment_bytes: u64,
    /// Segments kept in the folder although nobody needs them any more, the needed ones counted in:
    /// etcd's `--max-wals`. 0: none is ever removed.
    pub files_max: usize,
}

impl Default for Options {
    /// etcd's: 64 MB, 5 files.
    fn default() -> Self {
        Options {
            segment_bytes: 64_000_000,
            files_max: 5,
        }
    }
}

/// What a [`Wal::sync`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Bytes written.
    pub bytes: u64,
    /// Whether they were synced: everything appended before is durable. `false` only if nothing was
    /// appended that has to be.
    pub durable: bool,
}

/// The raft log of one member, open for appending. Owned by one thread.
///
/// [`append`](Self::append) and [`save_snapshot`](Self::save_snapshot) only encode into memory;
/// [`sync`](Self::sync) does one write and one fdatasync for all of it.
///
/// Invariant: everything in front of the last segment is durable, and so is everything in front of a
/// sync mark.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    metadata: Bytes,
    /// Oldest first. The last is the one that is written, unless `next` is set.
    segments: VecDeque<Segment>,
    /// The segment that the buffer begins, if it begins one.
    next: Option<Name>,
    /// Where in its segment the buffer goes.
    end: u64,
    encoder: Encoder,
    /// The newest hard state appended.
    hard_state: raftpb::HardState,
    /// The newest index appended.
    last: Index,
    /// Whether something was appended since the last write.
    dirty: bool,
    must_sync: bool,
    /// Whether the next record is the first after a sync.
    mark_due: bool,
    /// Whether something in front of the end was written and not synced.
    unsynced: bool,
    stopped: bool,
    preparer: Preparer,
}

struct Segment {
    name: Name,
    /// Held, and locked, as long as the segment is needed.
    file: Option<Arc<dyn File>>,
}

impl Wal {
    /// Makes a new, empty log in `dir`, which must not exist or be empty. `metadata` says whose it is.
    ///
    /// The folder appears as a whole: it is made as `<dir>.tmp`, synced and renamed.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, metadata: &[u8], options: Options) -> io::Result<Wal> {
        Wal::create_with(disk, dir, metadata, &[], None, options)
    }

    /// Makes a new log that has entries from the start: with them or not at all, so that an empty log is
    /// that of a member that joins, not of one that founds.
    pub fn create_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        metadata: &[u8],
        entries: &[raftpb::Entry],
        hard_state: Option<&raftpb::HardState>,
        options: Options,
    ) -> io::Result<Wal> {
        if Wal::exists(&*disk, dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let tmp = env::with_suffix(dir, ".tmp");
        if disk.exists(&tmp) {
            disk.remove_dir_all(&tmp)?;
        }
        disk.create_dir_all(&tmp)?;
        let mut wal = Wal::new(disk, &tmp, options, Bytes::copy_from_slice(metadata));
        wal.begin_segment(Name {
            sequence: 0,
            first: 0,
        });
        wal.save_snapshot(&walpb::Snapshot::default());
        wal.append(entries, hard_state);
        wal.write_out()?;
        wal.disk.rename(&tmp, dir)?;
        wal.disk.sync_dir(env::parent(dir))?;
        wal.dir = dir.to_owned();
        wal.preparer = Preparer::new(wal.disk.clone(), dir, options);
        Ok(wal)
    }

    /// Whether there is a log in `dir`.
    pub fn exists(disk: &dyn Disk, dir: &Path) -> bool {
        disk.list(dir)
            .is_ok_and(|files| !segment::names(&files).is_empty())
    }

    /// The snapshots the log in `dir` knows of and is committed up to, oldest first: those a member may
    /// start from. Reads all of the log and changes nothing.
    pub fn snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<walpb::Snapshot>, OpenError> {
        let names = list(disk, dir)?;
        let mut snapshots = Snapshots::default();
        let mut chain = None;
        for name in &names {
            let path = dir.join(name.file());
            let bytes = disk
                .open(&path)
                .and_then(|file| env::read_file(&*file))
                .map_err(io_error(&path))?;
            let place = segment::Place {
                chain: chain.or(name.seed()),
                is_last: Some(name) == names.last(),
            };
            let end =
                segment::read(&bytes, place, |record| snapshots.take(record)).map_err(damaged(&path))?;
            chain = Some(end.crc);
        }
        Ok(snapshots.usable())
    }

    /// Opens the log in `dir` to continue behind the snapshot `start`; (0, 0) for all of it.
    ///
    /// A torn end is cut off. Everything returned is durable.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        start: &walpb::Snapshot,
        options: Options,
    ) -> Result<(Wal, Replay), OpenError> {
        let names = list(&*disk, dir)?;
        let from = names
            .iter()
            .rposition(|name| name.first <= start.index)
            .unwrap_or(names.len());
        let mut segments: VecDeque<_> = names[..from]
            .iter()
            .map(|&name| Segment { name, file: None })
            .collect();

        let mut fold = Fold::new(start);
        let mut tail = None;
        for &name in &names[from..] {
            let path = dir.join(name.file());
            let file = disk.open(&path).map_err(io_error(&path))?;
            if !file.try_lock().map_err(io_error(&path))? {
                return Err(OpenError::Locked {
                    file: path.display().to_string(),
                });
            }
            let bytes = env::read_file(&*file).map_err(io_error(&path))?;
            let chain = tail
                .as_ref()
                .map_or(name.seed(), |tail: &Tail| Some(tail.end.crc));
            let place = segment::Place {
                chain,
                is_last: Some(&name) == names.last(),
            };
            let end = segment::read(&bytes, place, |record| fold.take(record)).map_err(damaged(&path))?;
            segments.push_back(Segment {
                name,
                file: Some(file.clone()),
            });
            tail = Some(Tail {
                path,
                file,
                bytes,
                end,
            });
        }
        let Some(tail) = tail else {
            return Err(OpenError::Missing {
                dir: dir.display().to_string(),
                index: start.index,
            });
        };
        if !fold.knows_start {
            return Err(OpenError::NoSnapshot {
                index: start.index,
                term: start.term,
            });
        }
        fold.check()
            .map_err(|what| damaged(&tail.path)((tail.end.at, what)))?;

        let mut replay = fold.replay;
        replay.repaired = tail.repair(&*disk).map_err(io_error(&tail.path))?;
        // A process that was killed may have left in the page cache what was just read.
        let settle = || {
            tail.file.allocate(options.segment_bytes)?;
            tail.file.sync_data()
        };
        settle().map_err(io_error(&tail.path))?;
        remove_leftovers(&*disk, dir).map_err(io_error(dir))?;

        let mut wal = Wal::new(disk, dir, options, replay.metadata.clone());
        wal.segments = segments;
        wal.end = tail.end.at as u64;
        wal.encoder.crc = tail.end.crc;
        wal.hard_state = replay.hard_state;
        wal.last = fold.last;
        wal.mark_due = true;
        Ok((wal, replay))
    }

    fn new(disk: Arc<dyn Disk>, dir: &Path, options: Options, metadata: Bytes) -> Wal {
        Wal {
            preparer: Preparer::new(disk.clone(), dir, options),
            disk,
            dir: dir.to_owned(),
            options,
            metadata,
            segments: VecDeque::new(),
            next: None,
            end: 0,
            encoder: Encoder::default(),
            hard_state: raftpb::HardState::default(),
            last: 0,
            dirty: false,
            must_sync: false,
            mark_due: false,
            unsynced: false,
            stopped: false,
        }
    }

    /// Appends entries, and behind them the hard state if it says anything new. In memory only.
    pub fn append(&mut self, entries: &[raftpb::Entry], hard_state: Option<&raftpb::HardState>) {
        let mut head = Vec::new();
        for entry in entries {
            replay::encode_entry_head(entry, &mut head);
            self.push(Kind::Entry, &[&head, entry.data.as_deref().unwrap_or_default()]);
            self.must_sync = true;
            self.last = entry.index;
        }
        if let Some(&state) = hard_state.filter(|state| **state != self.hard_state) {
            let voted = (state.term, state.vote) != (self.hard_state.term, self.hard_state.vote);
            self.push(Kind::HardState, &[&state.encode_to_vec()]);
            self.must_sync |= voted;
            self.hard_state = state;
        }
    }

    /// Appends the record of a snapshot that is on the disk. In memory only.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) {
        self.push(Kind::Snapshot, &[&snapshot.encode_to_vec()]);
        self.must_sync = true;
        self.last = self.last.max(snapshot.index);
    }

    /// Whether something was appended that must be durable before it is acted upon: entries, a term or
    /// vote, a snapshot. A commit index alone need not be: it is learned again.
    pub fn must_sync(&self) -> bool {
        self.must_sync
    }

    /// Whether all that was appended could wait: there is something, and it need not be durable.
    pub fn holds_back(&self) -> bool {
        self.dirty && !self.must_sync
    }

    /// Writes all that was appended, and syncs it if it [must be](Self::must_sync).
    ///
    /// # Errors
    /// The first one is fatal: what is on the disk is unknown, and later calls fail without trying.
    pub fn sync(&mut self) -> Result<Synced, WriteError> {
        if self.stopped {
            return Err(WriteError::Stopped);
        }
        if !self.dirty {
            return Ok(Synced::default());
        }
        self.write_out()
            .inspect_err(|_| self.stopped = true)
            .map_err(WriteError::Io)
    }

    /// Gives up the segments whose entries are all at or below `index`, the index of a snapshot that is
    /// in the log and synced. Their locks are released, and they are removed, oldest first, down to
    /// [`Options::files_max`]. Returns how many were removed.
    ///
    /// # Errors
    /// Not fatal: what is still there is tried again next time.
    pub fn release_to(&mut self, index: Index) -> io::Result<usize> {
        for i in 1..self.segments.len() {
            if self.segments[i].name.first <= index {
                self.segments[i - 1].file = None;
            }
        }
        let mut removed = 0;
        while self.options.files_max > 0
            && self.segments.len() > self.options.files_max
            && self.segments[0].file.is_none()
        {
            self.disk.remove(&self.dir.join(self.segments[0].name.file()))?;
            // One by one, so that a crash does not leave a gap.
            self.disk.sync_dir(&self.dir)?;
            self.segments.pop_front();
            removed += 1;
        }
        Ok(removed)
    }

    /// Makes the next segment ahead of time; for any thread.
    pub fn preparer(&self) -> Preparer {
        self.preparer.clone()
    }

    fn push(&mut self, kind: Kind, parts: &[&[u8]]) {
        if std::mem::take(&mut self.mark_due) {
            self.encoder.push_mark(self.end);
        }
        self.encoder.push(kind, parts);
        self.dirty = true;
    }

    fn write_out(&mut self) -> io::Result<Synced> {
        let buffer = [IoSlice::new(&self.encoder.bytes)];
        let bytes = buffer[0].len() as u64;
        let durable = self.must_sync || self.next.is_some();
        if let Some(name) = self.next.take() {
            let file = self.preparer.finish(&self.dir.join(name.file()), &buffer)?;
            self.segments.push_back(Segment {
                name,
                file: Some(file),
            });
        } else {
            let file = self.active();
            if durable && !self.unsynced {
                file.write_synced_at(&buffer, self.end)?;
            } else {
                file.write_at(&buffer, self.end)?;
                if durable {
                    file.sync_data()?;
                }
            }
        }
        self.unsynced = !durable;
        self.end += bytes;
        self.encoder.bytes.clear();
        self.encoder.bytes.shrink_to(BUFFER_KEPT_BYTES);
        self.dirty = false;
        if durable {
            self.must_sync = false;
            self.mark_due = true;
            if self.end >= self.options.segment_bytes {
                self.cut()?;
            }
        }
        Ok(Synced { bytes, durable })
    }

    /// Ends the last segment. What is appended next begins another.
    fn cut(&mut self) -> io::Result<()> {
        self.active().set_len(self.end)?;
        let sequence = self
            .segments
            .back()
            .map_or(0, |segment| segment.name.sequence + 1);
        self.begin_segment(Name {
            sequence,
            first: self.last + 1,
        });
        Ok(())
    }

    /// Puts the header of a segment in front of what is appended next.
    fn begin_segment(&mut self, name: Name) {
        self.next = Some(name);
        self.end = 0;
        self.mark_due = false;
        self.encoder.push(Kind::Checksum, &[]);
        self.encoder.push(Kind::Metadata, &[&self.metadata]);
        if self.hard_state != raftpb::HardState::default() {
            self.encoder
                .push(Kind::HardState, &[&self.hard_state.encode_to_vec()]);
        }
    }

    fn active(&self) -> &Arc<dyn File> {
        let last = self.segments.back().and_then(|segment| segment.file.as_ref());
        last.expect("only segments in front of the last are released")
    }
}

/// The last segment, as it was read.
struct Tail {
    path: PathBuf,
    file: Arc<dyn File>,
    bytes: Vec<u8>,
    end: segment::End,
}

impl Tail {
    /// Cuts off a torn end, after copying the segment for people to look at. Not durable by itself.
    fn repair(&self, disk: &dyn Disk) -> io::Result<Option<Repaired>> {
        if !self.end.torn {
            return Ok(None);
        }
        let used = self
            .bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let copy = env::with_suffix(&self.path, ".broken");
        env::replace_file(disk, &copy, &[IoSlice::new(&self.bytes[..used])])?;
        let offset = self.end.at as u64;
        self.file.set_len(offset)?;
        Ok(Some(Repaired {
            file: self.path.clone(),
            offset,
            copy,
        }))
    }
}

/// Makes the file of the next segment ahead of time, so that no append has to wait for it. A handle on
/// the log's supply of one; usable from any thread, one at a time.
#[derive(Clone)]
pub struct Preparer(Arc<Supply>);

struct Supply {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    ready: Mutex<Option<Prepared>>,
    /// Counts the files made, so that each has a name of its own.
    made: AtomicU64,
}

struct Prepared {
    path: PathBuf,
    file: Arc<dyn File>,
}

impl Preparer {
    fn new(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Self {
        Preparer(Arc::new(Supply {
            disk,
            dir: dir.to_owned(),
            segment_bytes: options.segment_bytes,
            ready: Mutex::new(None),
            made: AtomicU64::new(0),
        }))
    }

    /// Whether a file is ready. If not, [`prepare`](Self::prepare) is worth its while.
    pub fn is_ready(&self) -> bool {
        self.0.ready.lock().is_some()
    }

    /// Makes a file if there is none: reserved, filled with zeros and synced, so that syncs of what is
    /// written over them change no metadata.
    ///
    /// # Errors
    /// Not fatal: the log makes the file itself once it needs one.
    pub fn prepare(&self) -> io::Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        let prepared = self.make(|file| fill_with_zeros(file, self.0.segment_bytes))?;
        *self.0.ready.lock() = Some(prepared);
        Ok(())
    }

    /// A file with space reserved, or none at all.
    fn make(&self, fill: impl FnOnce(&dyn File) -> io::Result<()>) -> io::Result<Prepared> {
        let number = self.0.made.fetch_add(1, Ordering::Relaxed);
        let path = self.0.dir.join(format!("next-{number}.tmp"));
        let file = self.0.disk.create(&path)?;
        match file.allocate(self.0.segment_bytes).and_then(|()| fill(&*file)) {
            Ok(()) => Ok(Prepared { path, file }),
            Err(e) => {
                // It holds space that is short now; if this fails too, the next start removes it.
                let _ = self.0.disk.remove(&path);
                Err(e)
            }
        }
    }

    /// Turns the file that is ready, or a new one, into the segment at `path` that begins with
    /// `content`. It has its name once all of it is durable.
    fn finish(&self, path: &Path, content: &[IoSlice<'_>]) -> io::Result<Arc<dyn File>> {
        let ready = self.0.ready.lock().take();
        let Prepared { path: tmp, file } = ready.map_or_else(|| self.make(|_| Ok(())), Ok)?;
        if !file.try_lock()? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        file.write_at(content, 0)?;
        file.sync_data()?;
        self.0.disk.rename(&tmp, path)?;
        self.0.disk.sync_dir(&self.0.dir)?;
        Ok(file)
    }
}

/// Fills a file with zeros, durably and step by step.
fn fill_with_zeros(file: &dyn File, len: u64) -> io::Result<()> {
    static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];
    for offset in (0..len).step_by(ZEROS_BYTES) {
        let some = ZEROS_BYTES.min((len - offset) as usize);
        file.write_at(&[IoSlice::new(&ZEROS[..some])], offset)?;
        file.sync_data()?;
    }
    Ok(())
}

fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<Name>, OpenError> {
    Ok(segment::names(&disk.list(dir).map_err(io_error(dir))?))
}

fn remove_leftovers(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for file in disk.list(dir)?.iter().filter(|file| file.ends_with(".tmp")) {
        disk.remove(&dir.join(file))?;
    }
    disk.sync_dir(dir)
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io {
        file: path.display().to_string(),
        source,
    }
}

fn damaged(path: &Path) -> impl Fn(segment::Found) -> OpenError {
    move |(offset, what)| OpenError::Damaged {
        file: path.display().to_string(),
        offset: offset as u64,
        what,
    }
}
