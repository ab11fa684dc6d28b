//! Snapshot files: the membership a member starts from when its log does not reach back to the
//! beginning. The format is that of `docs/formats/snap.md`, which is etcd's.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use env::Disk;
use prost::Message;
use proto::{raftpb, snappb, walpb};

/// The folder of snapshot files.
#[derive(Clone)]
pub struct SnapDir {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

/// What [`SnapDir::load_newest`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The snapshot to start from; `None`: start from the beginning of the log.
    pub snapshot: Option<raftpb::Snapshot>,
    /// Newer files that could not be read and were renamed to `.broken`.
    pub broken: Vec<PathBuf>,
}

/// A snapshot as a file that is still to be written.
pub struct SnapFile {
    name: String,
    bytes: Vec<u8>,
}

impl SnapFile {
    /// Encodes a snapshot.
    pub fn new(snapshot: &raftpb::Snapshot) -> Self {
        let (index, term) = position(snapshot);
        let data = snapshot.encode_to_vec();
        let file = snappb::Snapshot {
            crc: crc32c::crc32c(&data),
            data: Some(data.into()),
        };
        SnapFile {
            name: name(index, term),
            bytes: file.encode_to_vec(),
        }
    }
}

impl SnapDir {
    /// Opens the folder, makes it if it is missing, and removes leftovers.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        disk.create_dir_all(dir)?;
        disk.sync_dir(env::parent(dir))?;
        for file in disk.list(dir)?.iter().filter(|file| file.ends_with(".snap.tmp")) {
            disk.remove(&dir.join(file))?;
        }
        Ok(SnapDir {
            disk,
            dir: dir.to_owned(),
        })
    }

    /// Writes a snapshot, durably. It counts once the log has a record of it, see
    /// [`Wal::save_snapshot`](crate::Wal::save_snapshot).
    pub fn save(&self, snapshot: &raftpb::Snapshot) -> io::Result<()> {
        self.write(&SnapFile::new(snapshot))
    }

    /// The second half of [`save`](Self::save), for who wants to know how long each takes.
    pub fn write(&self, file: &SnapFile) -> io::Result<()> {
        let path = self.dir.join(&file.name);
        env::replace_file(&*self.disk, &path, &[IoSlice::new(&file.bytes)])
    }

    /// Loads the newest snapshot that is among `valid`, the ones the log knows of
    /// (see [`Wal::snapshots`](crate::Wal::snapshots)).
    ///
    /// # Errors
    /// What the disk says. A file that is there but damaged is no error: it is renamed, and an older
    /// one is tried.
    pub fn load_newest(&self, valid: &[walpb::Snapshot]) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        for file in self.files()?.iter().rev() {
            let path = self.dir.join(file);
            match decode(&env::read_file(&*self.disk.open(&path)?)?) {
                Some(snapshot)
                    if valid
                        .iter()
                        .any(|valid| (valid.index, valid.term) == position(&snapshot)) =>
                {
                    loaded.snapshot = Some(snapshot);
                    break;
                }
                Some(_) => {}
                None => {
                    self.disk.rename(&path, &env::with_suffix(&path, ".broken"))?;
                    loaded.broken.push(path);
                }
            }
        }
        Ok(loaded)
    }

    /// Removes all but the newest `keep` snapshots, oldest first, and returns how many. Only those count
    /// that are not newer than `recorded`, of which the log has a durable record: it stays in any case,
    /// and a newer file may turn out to be one that the log does not know.
    pub fn purge(&self, recorded: &raftpb::SnapshotMetadata, keep: usize) -> io::Result<usize> {
        let mut files = self.files()?;
        let recorded = name(recorded.index, recorded.term);
        files.retain(|file| *file <= recorded);
        let old = &files[..files.len().saturating_sub(keep.max(1))];
        for file in old {
            self.disk.remove(&self.dir.join(file))?;
        }
        if !old.is_empty() {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(old.len())
    }

    /// The names of the snapshots, oldest first: they sort by term, then index.
    fn files(&self) -> io::Result<Vec<String>> {
        let mut files = self.disk.list(&self.dir)?;
        files.retain(|file| file.ends_with(".snap"));
        Ok(files)
    }
}

/// Index and term.
fn position(snapshot: &raftpb::Snapshot) -> (types::Index, types::Term) {
    snapshot
        .metadata
        .as_ref()
        .map_or((0, 0), |metadata| (metadata.index, metadata.term))
}

/// Names sort by term, then index.
fn name(index: types::Index, term: types::Term) -> String {
    format!("{term:016x}-{index:016x}.snap")
}

fn decode(file: &[u8]) -> Option<raftpb::Snapshot> {
    let file = snappb::Snapshot::decode(file).ok()?;
    let data = file
        .data
        .filter(|data| !data.is_empty() && file.crc == crc32c::crc32c(data))?;
    raftpb::Snapshot::decode(data).ok().filter(|_| file.crc != 0)
}
