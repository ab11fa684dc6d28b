//! Everything anew: the content of another member in place of what is there.
//!
//! New segments are written beside those in force and read back as recovery would read them. Then one
//! manifest takes the place of another, so that a crash finds either the old content or the new one,
//! and the memory is exchanged. Until then readers, syncing and rewriting go on with the old content;
//! whoever reads across the exchange goes on with the files it holds. Memory is that of the index and
//! the slots, as after a restart, and one batch.

use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

use mvcc::{Mvcc, SealedBatch};
use proto::storepb::Commit;

use crate::error::{DiskError, LoadError, SyncError};
use crate::files::{Manifest, ManifestSegment, VERSION, segment_name};
use crate::recovery::{Found, Memory};
use crate::segment::{Segment, SegmentFile};
use crate::writer::remove_leftover;
use crate::{Store, Tables};

/// New content being written. Dropped before it is adopted, it leaves nothing behind.
pub struct Load<'a> {
    sealed: Vec<ManifestSegment>,
    open: Segment,
    files: Files<'a>,
    /// Bytes of all segments.
    size: u64,
    /// Revision of the last batch.
    revision: i64,
}

/// The files made so far; removed unless they are adopted.
struct Files<'a> {
    store: &'a Store,
    names: Vec<String>,
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        self.names
            .iter()
            .for_each(|name| remove_leftover(self.store, name));
    }
}

impl Files<'_> {
    /// Begins a segment for the transactions from `first` on.
    fn segment(&mut self, first: i64) -> Result<Segment, LoadError> {
        let id = self.store.writer()?.manifest.take_id();
        self.names.push(segment_name(first, id));
        Ok(Segment::create(&*self.store.disk, &self.store.dir, first, id)?)
    }
}

/// New content, whole and on the disk.
pub struct Loaded<'a> {
    files: Files<'a>,
    manifest: Manifest,
    found: Found,
}

impl Store {
    /// Begins to write new content. One at a time.
    pub fn load(&self) -> Result<Load<'_>, LoadError> {
        let mut files = Files {
            store: self,
            names: Vec::new(),
        };
        let revision = types::Revision::FIRST;
        let open = files.segment(revision + 1)?;
        Ok(Load {
            sealed: Vec::new(),
            size: open.len,
            open,
            files,
            revision,
        })
    }
}

impl Load<'_> {
    /// Writes a batch. Batches come in revision order, and a transaction is in one of them as a whole.
    pub fn push(&mut self, batch: &SealedBatch) -> Result<(), LoadError> {
        debug_assert!(batch.changes.iter().all(|change| change.rev.main > self.revision));
        let len = batch.bytes.len() as u64;
        if self.open.len >= self.files.store.segment_target_of(self.size)
            || self.open.len + len > u64::from(u32::MAX)
        {
            self.seal()?;
        }
        let SegmentFile { path, file } = &*self.open.file;
        let too_large = self.open.len + len > u64::from(u32::MAX);
        let written = match too_large {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => file.write_at(&[IoSlice::new(&batch.bytes)], self.open.len),
        };
        written.map_err(DiskError::at("writing", path))?;
        self.open.len += len;
        self.size += len;
        self.revision = batch.commit.revision;
        Ok(())
    }

    fn seal(&mut self) -> Result<(), LoadError> {
        self.sync()?;
        let next = self.files.segment(self.revision + 1)?;
        self.size += next.len;
        let full = std::mem::replace(&mut self.open, next);
        self.sealed.push(full.entry());
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let SegmentFile { path, file } = &*self.open.file;
        file.sync_data().map_err(DiskError::at("syncing", path))
    }
}

impl<'a> Load<'a> {
    /// Makes what was written durable, and reads it back.
    pub fn finish(self) -> Result<Loaded<'a>, LoadError> {
        self.sync()?;
        let store = self.files.store;
        let mut segments = self.sealed;
        segments.push(self.open.open_entry());
        let manifest = Manifest {
            segments,
            version: VERSION,
            ..Manifest::default()
        };
        let found = Found::read(&*store.disk, &store.dir, &manifest, 0)?;
        Ok(Loaded {
            files: self.files,
            manifest,
            found,
        })
    }
}

impl Loaded<'_> {
    /// Its last commit.
    pub fn commit(&self) -> &Commit {
        &self.found.commit
    }

    /// Puts it in place of what is there, durably, and lets the readers of `mvcc`, which is over this
    /// store, see it. Returns the small tables. Nothing may be appended meanwhile.
    ///
    /// # Errors
    /// [`LoadError::Older`] if the store is further, and nothing has changed; after
    /// [`SyncError::Disk`] the process must end, as after a failed sync.
    pub fn adopt(self, mvcc: &Mvcc) -> Result<Tables, LoadError> {
        let Loaded {
            mut files,
            mut manifest,
            found,
        } = self;
        let store = files.store;
        let commit = found.commit.clone();
        if commit.revision < mvcc.current() || commit.compact_revision < mvcc.compacted() {
            return Err(LoadError::Older {
                revision: commit.revision,
                current: mvcc.current(),
            });
        }
        let tables = store.write(|writer| {
            manifest.next_id = writer.manifest.next_id;
            let (disk, dir) = (&*store.disk, &store.dir);
            // The names of what the manifest is about to name.
            disk.sync_dir(dir)
                .map_err(DiskError::at("syncing", dir))
                .and_then(|()| manifest.stage(disk, dir))
                .map_err(SyncError::retryable)?;
            files.names.clear();
            Manifest::publish(disk, dir).map_err(SyncError::Disk)?;
            let Memory {
                state,
                writer: next,
                index,
                size,
                live,
            } = found.into_memory(manifest);
            mvcc.replace(index, commit.revision, commit.compact_revision, || {
                let mut old = store.state.write();
                *old = state;
                store.size.store(size, Ordering::Relaxed);
                store.live.store(live, Ordering::Relaxed);
            });
            let old = std::mem::replace(writer, next);
            old.file_names().for_each(|name| remove_leftover(store, &name));
            Ok(Tables::clone(&writer.tables))
        });
        Ok(tables?)
    }
}
