//! Opening a store: what a crash left behind, and what it means.
//!
//! The manifest names the files; everything else of ours in the folder is left over. The segments are read from front
//! to back, each record checked, and the key index is rebuilt from them (`replay`). Only the last segment can end in the middle of
//! a batch, because the others were synced before the manifest said that they are sealed: there everything behind the
//! last whole batch is cut off, and raft replays it. Nothing is written before all of this has succeeded.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use env::{Disk, File};
use mvcc::{KeyIndex, Mvcc, Values};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use proto::storepb::Commit;
use types::Revision;

use crate::error::{Damage, DiskError, OpenError};
use crate::files::{
    DeadFile, LOCK, MANIFEST, MANIFEST_NEXT, Manifest, StateFile, VERSION, is_ours, read_message,
};
use crate::replay::{Limits, Replay, last_batch};
use crate::segment::{SEGMENT_HEADER, Segment};
use crate::state::{Position, State};
use crate::tail::Tail;
use crate::writer::Writer;
use crate::{Options, Store, Tables};

/// A store as it was found.
pub struct Recovered {
    /// The key index over this store, at the revision and the compact revision of `commit`.
    pub mvcc: Arc<Mvcc>,
    /// The last whole batch: raft replays what comes after its applied index.
    pub commit: Commit,
    /// The small tables as of then.
    pub tables: Tables,
    /// What was cut off.
    pub cut: Option<Cut>,
}

/// The end of a segment that was cut off because it was not a whole batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: PathBuf,
    /// Its length now.
    pub offset: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
}

impl Store {
    /// Opens the store in `dir`, or makes an empty one. Reads all of it.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        options: Options,
    ) -> Result<(Arc<Store>, Recovered), OpenError> {
        let dir = dir.into();
        create_dir(&*disk, &dir)?;
        let lock = lock(&*disk, &dir)?;
        let names = disk.list(&dir).map_err(DiskError::at("listing", &dir))?;
        let manifest = match Manifest::load(&*disk, &dir)? {
            Some(manifest) => manifest,
            None => create(&*disk, &dir, &names)?,
        };
        let found = Found::read(&*disk, &dir, &manifest, options.replay_from)?;
        let cut = found.cut()?;
        for name in names.iter().filter(|name| is_ours(name) && !manifest.names(name)) {
            let path = dir.join(name);
            // Made in a crash or by `create` just now.
            if disk.exists(&path) {
                disk.remove(&path).map_err(DiskError::at("removing", &path))?;
            }
        }
        Ok(found.start(disk, dir, options, manifest, lock, cut))
    }
}

/// Makes the folder, durably.
fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    // The last ancestor of a relative path is empty, and is there.
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !disk.exists(dir);
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    disk.create_dir_all(dir).map_err(DiskError::at("creating", dir))?;
    for made in missing {
        let parent = env::parent(made);
        disk.sync_dir(parent).map_err(DiskError::at("syncing", parent))?;
    }
    Ok(())
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Arc<dyn File>, OpenError> {
    let path = dir.join(LOCK);
    let lock = if disk.exists(&path) {
        disk.open(&path)
    } else {
        disk.create(&path)
    };
    let lock = lock.map_err(DiskError::at("opening", &path))?;
    match lock.try_lock().map_err(DiskError::at("locking", &path))? {
        true => Ok(lock),
        false => Err(OpenError::Locked(dir.to_owned())),
    }
}

/// Lays out an empty store.
fn create(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<Manifest, OpenError> {
    // A crash in here leaves at most a segment without records. Anything more was a store once.
    for name in names
        .iter()
        .filter(|name| is_ours(name) && *name != MANIFEST_NEXT)
    {
        let path = dir.join(name);
        let len = disk
            .open(&path)
            .and_then(|file| file.len())
            .map_err(DiskError::at("opening", &path))?;
        if len > u64::from(SEGMENT_HEADER) {
            return Err(Damage::new(
                &dir.join(MANIFEST),
                0,
                format_args!("it is missing, but there is {name}"),
            )
            .into());
        }
    }
    let mut manifest = Manifest {
        next_id: 1,
        version: VERSION,
        ..Manifest::default()
    };
    let first = Segment::create(disk, dir, Revision::FIRST + 1, manifest.take_id())?;
    manifest.segments.push(first.open_entry());
    disk.sync_dir(dir).map_err(DiskError::at("syncing", dir))?;
    manifest.stage(disk, dir)?;
    Manifest::publish(disk, dir)?;
    Ok(manifest)
}

/// What is in the files.
pub(crate) struct Found {
    sealed: Vec<Segment>,
    open: Segment,
    /// Length of the open segment's file, of which what is behind the last batch does not count.
    file_len: u64,
    pub commit: Commit,
    tables: Tables,
    index: KeyIndex,
    checkpoint: Option<Position>,
    /// Bytes of the checkpoint, and of the segments behind it.
    checkpoint_bytes: u64,
    bytes_since: u64,
}

impl Found {
    pub fn read(
        disk: &dyn Disk,
        dir: &Path,
        manifest: &Manifest,
        replay_from: u64,
    ) -> Result<Found, OpenError> {
        let misnamed = |what| Damage::new(&dir.join(MANIFEST), 0, what);
        let opened = manifest
            .segments
            .iter()
            .map(|entry| Segment::open(disk, dir, entry));
        let segments = opened.collect::<Result<Vec<_>, _>>()?;
        let open = segments.last().ok_or_else(|| misnamed("it names no segment"))?;
        let file = Arc::clone(&open.file);
        let file_len = file.file.len().map_err(DiskError::at("measuring", &file.path))?;
        let end = last_batch(open, file_len)?;

        let state: Option<StateFile> = load(disk, dir, &manifest.state_checkpoint)?;
        let checkpoint = state.as_ref().map(StateFile::position);
        let checkpoint_bytes = state.as_ref().map_or(0, |state| state.encoded_len() as u64);
        let number = |position: Position| {
            segments
                .iter()
                .position(|segment| segment.id == position.segment_id)
        };
        // Table records and commits before this place are in the checkpoint already.
        let (start, start_at) = match checkpoint {
            None => (0, 0),
            Some(position) => {
                let start =
                    number(position).ok_or_else(|| misnamed("it does not name the checkpoint's segment"))?;
                (start, position.offset)
            }
        };
        let last = segments.len() - 1;
        if start == last && end.offset < start_at {
            return Err(Damage::new(&file.path, end.offset, end.why).into());
        }
        let dead: Option<DeadFile> = load(disk, dir, &manifest.dead_checkpoint)?;
        let mut dead = dead.unwrap_or_default().by_segment();
        let limits = |number: usize| Limits {
            end: if number == last {
                end.offset
            } else {
                manifest.segments[number].length
            },
            next_first: manifest
                .segments
                .get(number + 1)
                .map_or(i64::MAX, |next| next.first_revision),
            news_from: match number.cmp(&start) {
                Ordering::Less => u64::MAX,
                Ordering::Equal => start_at,
                Ordering::Greater => 0,
            },
            dead: dead.remove(&manifest.segments[number].id).unwrap_or_default(),
        };
        let limits: Vec<Limits> = (0..segments.len()).map(limits).collect();
        let bytes_since = limits.iter().map(Limits::news_len).sum();

        let mut replay = Replay::new(state, end.commit.as_ref()).map_err(misnamed)?;
        replay.run(segments.into_iter().zip(limits).collect())?;
        replay.finish(manifest.rewritten_at).map_err(misnamed)?;
        let Replay {
            segments: mut sealed,
            index,
            tables,
            commit,
            ..
        } = replay;
        if commit.applied_index.saturating_add(1) < replay_from {
            return Err(OpenError::Gap {
                damage: Damage::new(&file.path, end.offset, end.why),
                replay_from,
            });
        }
        let open = sealed.pop().ok_or_else(|| misnamed("it names no segment"))?;
        Ok(Found {
            sealed,
            open,
            file_len,
            commit,
            tables,
            index,
            checkpoint,
            checkpoint_bytes,
            bytes_since,
        })
    }

    /// Cuts off what is behind the last batch.
    fn cut(&self) -> Result<Option<Cut>, OpenError> {
        let Segment { file, len, .. } = &self.open;
        if self.file_len == *len {
            return Ok(None);
        }
        let cut = || {
            file.file.set_len(*len)?;
            file.file.sync_data()
        };
        cut().map_err(DiskError::at("cutting", &file.path))?;
        Ok(Some(Cut {
            file: file.path.clone(),
            offset: *len,
            bytes: self.file_len - len,
        }))
    }

    /// Goes into service.
    fn start(
        self,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: Options,
        manifest: Manifest,
        lock: Arc<dyn File>,
        cut: Option<Cut>,
    ) -> (Arc<Store>, Recovered) {
        let Memory {
            state,
            writer,
            index,
            size,
            live,
        } = self.into_memory(manifest);
        let (commit, tables) = (state.synced.clone(), Tables::clone(&writer.tables));
        let store = Arc::new(Store {
            disk,
            dir,
            options,
            state: RwLock::new(state),
            writer: Mutex::new(writer),
            size: AtomicU64::new(size),
            live: AtomicU64::new(live),
            snapshots: Arc::default(),
            _lock: lock,
        });
        let values: Arc<dyn Values> = store.clone();
        let mvcc = Mvcc::new(index, values, commit.revision, commit.compact_revision);
        (
            store,
            Recovered {
                mvcc,
                commit,
                tables,
                cut,
            },
        )
    }

    /// What a store over these files holds in memory.
    pub fn into_memory(self, manifest: Manifest) -> Memory {
        let Found {
            sealed,
            open,
            commit,
            tables,
            index,
            ..
        } = self;
        let all = || sealed.iter().chain([&open]);
        let size = all().map(|segment| segment.len).sum();
        let live = all().map(|segment| segment.extent().live).sum();
        let writer = Writer {
            manifest,
            tables: Arc::new(tables),
            checkpoint: self.checkpoint,
            checkpoint_bytes: self.checkpoint_bytes,
            bytes_since: self.bytes_since,
            job: None,
            poisoned: false,
        };
        let state = State {
            sealed: Arc::new(sealed.into_iter().map(Arc::new).collect()),
            open,
            tail: Tail::default(),
            synced: commit.clone(),
            appended: commit,
            rewriting: None,
        };
        Memory {
            state,
            writer,
            index,
            size,
            live,
        }
    }
}

/// What an open store holds in memory.
pub(crate) struct Memory {
    pub state: State,
    pub writer: Writer,
    pub index: KeyIndex,
    pub size: u64,
    pub live: u64,
}

/// A checkpoint, if there is one.
fn load<M: Message + Default>(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Option<M>, OpenError> {
    if name.is_empty() {
        Ok(None)
    } else {
        read_message(disk, &dir.join(name)).map(Some)
    }
}
