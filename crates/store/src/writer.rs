//! Whoever changes files: syncing, sealing, checkpoints.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use mvcc::TableChange;
use prost::Message;
use proto::storepb::Commit;

use crate::error::{DiskError, SyncError};
use crate::files::{
    DeadFile, MANIFEST_NEXT, Manifest, StateFile, TableEntry, checkpoint_name, segment_name, write_message,
};
use crate::rewrite::Job;
use crate::segment::{SEGMENT_HEADER, Segment, SegmentFile};
use crate::state::{Position, Work};
use crate::{Store, Tables};

/// What is on disk, as far as it is needed to go on writing.
pub(crate) struct Writer {
    /// As it was last written.
    pub manifest: Manifest,
    /// The small tables as of the last synced commit. Shared with snapshots: the next sync then makes its own.
    pub tables: Arc<Tables>,
    /// Where the state checkpoint stands, if there is one.
    pub checkpoint: Option<Position>,
    /// Bytes of the state checkpoint, and those written to segments since.
    pub checkpoint_bytes: u64,
    pub bytes_since: u64,
    /// Segments that are being rewritten.
    pub job: Option<Job>,
    /// Whether something failed, so that nothing is known about the files.
    pub poisoned: bool,
}

/// A change of the manifest, and the checkpoints that go with it.
pub(crate) struct Edit {
    pub manifest: Manifest,
    /// Write the tables as of the last synced commit, which ends here.
    pub state: Option<Position>,
    /// Write down which changes are dead.
    pub dead: Option<DeadFile>,
}

/// An edit that is on disk but not yet in force.
pub(crate) struct Staged {
    manifest: Manifest,
    /// Place and size of the new state checkpoint.
    state: Option<(Position, u64)>,
    /// Names of the checkpoints that are replaced.
    old: Vec<String>,
}

impl Writer {
    /// Writes and syncs everything that was appended; seals the open segment whenever it is full.
    pub fn sync(&mut self, store: &Store) -> Result<(), SyncError> {
        loop {
            let target = store.segment_target();
            let Some(work) = store.state.read().work(target) else {
                return Ok(());
            };
            if !work.batches.is_empty() {
                self.write_batches(store, &work)?;
            } else if work.at == u64::from(SEGMENT_HEADER) {
                let too_large = DiskError::at("adding a batch to", &work.file.path);
                return Err(SyncError::Disk(too_large(io::ErrorKind::FileTooLarge.into())));
            }
            if work.batches.is_empty() || store.state.read().open.len >= target {
                self.seal(store)?;
            }
        }
    }

    fn write_batches(&mut self, store: &Store, work: &Work) -> Result<(), SyncError> {
        let parts: Vec<IoSlice<'_>> = work
            .batches
            .iter()
            .map(|batch| IoSlice::new(&batch.bytes))
            .collect();
        let SegmentFile { path, file } = &*work.file;
        let written = file
            .write_at(&parts, work.at)
            .map_err(DiskError::at("writing", path));
        written.map_err(SyncError::retryable)?;
        file.sync_data()
            .map_err(DiskError::at("syncing", path))
            .map_err(SyncError::Disk)?;
        for batch in &work.batches {
            self.bytes_since += batch.bytes.len() as u64;
            if !batch.tables.is_empty() {
                let tables = Arc::make_mut(&mut self.tables);
                batch.tables.iter().for_each(|change| apply(tables, change));
            }
            // One batch at a time, so that readers and the apply loop get in between.
            store.state.write().settle(batch, store.options.tail_bytes);
        }
        Ok(())
    }

    /// Ends the open segment and begins the next.
    pub fn seal(&mut self, store: &Store) -> Result<(), SyncError> {
        let (full, first) = {
            let state = store.state.read();
            (state.open.entry(), state.synced.revision + 1)
        };
        let mut manifest = self.manifest.clone();
        let next = Segment::create(&*store.disk, &store.dir, first, manifest.take_id());
        let next = next.map_err(SyncError::retryable)?;
        manifest.segments.pop();
        manifest.segments.extend([full, next.open_entry()]);
        let start = Position {
            segment_id: next.id,
            offset: next.len,
        };
        // Large tables are written again only after as much log, so that they at most double what is written.
        let state = (self.bytes_since >= self.checkpoint_bytes).then_some(start);
        self.edit(
            store,
            Edit {
                manifest,
                state,
                dead: None,
            },
        )?;
        store.size.fetch_add(next.len, Ordering::Relaxed);
        store.state.write().seal(next);
        Ok(())
    }

    /// Syncs, and leaves a checkpoint at the end.
    pub fn close(&mut self, store: &Store) -> Result<(), SyncError> {
        self.sync(store)?;
        let end = store.state.read().end();
        if self.checkpoint == Some(end) {
            return Ok(());
        }
        self.edit(
            store,
            Edit {
                manifest: self.manifest.clone(),
                state: Some(end),
                dead: None,
            },
        )
    }

    /// The files it is responsible for.
    pub fn file_names(&self) -> impl Iterator<Item = String> {
        let Manifest {
            segments,
            state_checkpoint,
            dead_checkpoint,
            ..
        } = &self.manifest;
        let checkpoints = [state_checkpoint, dead_checkpoint]
            .into_iter()
            .filter(|name| !name.is_empty());
        let segments = segments
            .iter()
            .map(|entry| segment_name(entry.first_revision, entry.id));
        let job = self.job.iter().map(Job::output_name);
        segments.chain(checkpoints.cloned()).chain(job)
    }

    fn edit(&mut self, store: &Store, edit: Edit) -> Result<(), SyncError> {
        let staged = self.stage(store, edit).map_err(SyncError::retryable)?;
        self.publish(store, staged)
    }

    /// Writes what is needed to bring an edit into force. If that fails nothing has happened.
    pub fn stage(&self, store: &Store, edit: Edit) -> Result<Staged, DiskError> {
        let (disk, dir) = (&*store.disk, &store.dir);
        let Edit {
            mut manifest,
            state,
            dead,
        } = edit;
        let commit = store.state.read().synced.clone();
        let mut staged = Staged {
            manifest: Manifest::default(),
            state: None,
            old: vec![],
        };
        let mut made = vec![MANIFEST_NEXT.to_owned()];
        let mut write = || {
            if let Some(position) = state {
                let name = checkpoint_name("state", commit.revision, manifest.take_id());
                let file = state_file(&self.tables, commit.clone(), position);
                made.extend([name.clone(), format!("{name}.tmp")]);
                write_message(disk, &dir.join(&name), &file)?;
                staged.state = Some((position, file.encoded_len() as u64));
                staged
                    .old
                    .push(std::mem::replace(&mut manifest.state_checkpoint, name));
            }
            if let Some(file) = &dead {
                let name = checkpoint_name("dead", commit.revision, manifest.take_id());
                made.extend([name.clone(), format!("{name}.tmp")]);
                write_message(disk, &dir.join(&name), file)?;
                staged
                    .old
                    .push(std::mem::replace(&mut manifest.dead_checkpoint, name));
            }
            // The names of what the manifest is about to name.
            disk.sync_dir(dir).map_err(DiskError::at("syncing", dir))?;
            manifest.stage(disk, dir)
        };
        if let Err(error) = write() {
            made.iter().for_each(|name| remove_leftover(store, name));
            return Err(error);
        }
        Ok(Staged { manifest, ..staged })
    }

    /// Brings a staged edit into force.
    pub fn publish(&mut self, store: &Store, staged: Staged) -> Result<(), SyncError> {
        Manifest::publish(&*store.disk, &store.dir).map_err(SyncError::Disk)?;
        self.manifest = staged.manifest;
        if let Some((position, bytes)) = staged.state {
            (self.checkpoint, self.checkpoint_bytes, self.bytes_since) = (Some(position), bytes, 0);
        }
        staged
            .old
            .iter()
            .filter(|name| !name.is_empty())
            .for_each(|name| remove_leftover(store, name));
        Ok(())
    }
}

/// Removes a file that nothing names any more. Should that fail, the next start does it.
pub(crate) fn remove_leftover(store: &Store, name: &str) {
    let _ = store.disk.remove(&store.dir.join(name));
}

/// Brings a change into the tables. It is copied: a row must not keep the batch it came in alive.
pub(crate) fn apply(tables: &mut Tables, change: &TableChange) {
    let rows = tables.entry(change.table).or_default();
    match &change.value {
        Some(value) => drop(rows.insert(Bytes::copy_from_slice(&change.key), Bytes::copy_from_slice(value))),
        None => drop(rows.remove(&change.key)),
    }
}

fn state_file(tables: &Tables, commit: Commit, position: Position) -> StateFile {
    let entries = tables.iter().flat_map(|(table, rows)| {
        let row = |(key, value): (&Bytes, &Bytes)| TableEntry {
            table: *table as u32,
            key: key.clone(),
            value: value.clone(),
        };
        rows.iter().map(row)
    });
    StateFile {
        commit: Some(commit),
        segment_id: position.segment_id,
        segment_offset: position.offset,
        entries: entries.collect(),
    }
}
