//! A data folder from our layout to Go's and back, while no server has it open.
//!
//! The raft log and the `.snap` files are the same in both; only the database moves, at the same applied
//! index, between `member/kv` and `member/snap/db`. Each direction makes the new one durable before the old
//! one is put aside, so a crash leaves a folder that the one or the other can start from, and the same
//! call finishes the work. The log's locks keep servers of both kinds out.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use env::{Disk, RealDisk};
use image::Export;
use proto::raftpb::Snapshot;
use proto::walpb;
use store::Store;
use thiserror::Error;
use wal::{Replay, SnapDir, Wal};

use crate::go_folder;
use crate::storage::StorageError;

/// Why a folder was not converted. It can be used as it could before.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// The folder is not one, or the log or the store can't be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is nothing to convert.
    #[error("{} is not the data folder of a member: it has neither member/kv nor member/snap/db", .0.display())]
    Nothing(PathBuf),
    /// A snapshot from the leader is not installed yet.
    #[error(
        "the member's store is behind the snapshot its leader sent last (entry {0}); start the member once, so that \
         it takes that over"
    )]
    Unfinished(u64),
    /// The store can't be read.
    #[error("cannot read the store: {0}")]
    Read(#[from] mvcc::ReadError),
    /// The store can't be frozen.
    #[error(transparent)]
    Freeze(#[from] store::SyncError),
    /// A file can't be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The database there is now.
    pub database: PathBuf,
    /// Where the other one was put, if there was one.
    pub put_aside: Option<PathBuf>,
    /// The cluster version that whoever starts from it has to have at least.
    pub cluster_version: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.put_aside {
            Some(aside) => write!(
                f,
                "Converted: the database is {}, the one before is kept as {}",
                self.database.display(),
                aside.display()
            )?,
            None => write!(
                f,
                "Nothing to convert: the database is {} already",
                self.database.display()
            )?,
        }
        match &self.cluster_version {
            Some(version) => write!(
                f,
                "\nCluster version {version}: older releases refuse to start from it"
            ),
            None => Ok(()),
        }
    }
}

/// Lays the folder out for Go.
pub fn to_bolt(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Report, ConvertError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let member = data_dir.join("member");
    let (kv, db) = (member.join("kv"), member.join("snap/db"));
    if !disk.exists(&kv) {
        return nothing_to_do(&*disk, data_dir, db);
    }
    let (_locked, snapshot, _) = open_log(&disk, data_dir, wal_dir)?;
    let index = snapshot.metadata.map_or(0, |metadata| metadata.index);
    let (store, recovered) =
        Store::open(disk.clone(), &kv, store::Options::default()).map_err(StorageError::Store)?;
    if recovered.commit.applied_index < index {
        return Err(ConvertError::Unfinished(index));
    }
    let export = Export::new(store.snapshot()?, recovered.commit.compact_revision);
    let cluster_version = export
        .snapshot()
        .tables()
        .get(&mvcc::Table::Cluster)
        .and_then(|rows| rows.get(&b"clusterVersion"[..]))
        .map(|version| String::from_utf8_lossy(version).into_owned());
    write_db(&*disk, export, &db)?;
    drop((store, recovered));
    let aside = member.join("kv.converted");
    let put_aside = || {
        if disk.exists(&aside) {
            disk.remove_dir_all(&aside)?;
        }
        disk.rename(&kv, &aside)?;
        disk.sync_dir(&member)
    };
    put_aside().map_err(at(&aside))?;
    Ok(Report {
        database: db,
        put_aside: Some(aside),
        cluster_version,
    })
}

/// Lays the folder out for ours.
pub fn to_native(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Report, ConvertError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let member = data_dir.join("member");
    let kv = member.join("kv");
    if !go_folder::is_go_folder(&*disk, &member) {
        return nothing_to_do(&*disk, data_dir, kv);
    }
    let (_locked, snapshot, replay) = open_log(&disk, data_dir, wal_dir)?;
    go_folder::take_over(&disk, &member, &snapshot, &replay.entries)?;
    go_folder::put_aside(&*disk, &member)?;
    Ok(Report {
        database: kv,
        put_aside: Some(member.join("snap/db.imported")),
        cluster_version: None,
    })
}

/// It is as it should be, if there is a database at all.
fn nothing_to_do(disk: &dyn Disk, data_dir: &Path, database: PathBuf) -> Result<Report, ConvertError> {
    match disk.exists(&database) {
        true => Ok(Report {
            database,
            put_aside: None,
            cluster_version: None,
        }),
        false => Err(ConvertError::Nothing(data_dir.to_owned())),
    }
}

/// The log, locked as long as the first is held, the snapshot it begins with, and what follows.
fn open_log(
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    wal_dir: Option<&Path>,
) -> Result<(Wal, Snapshot, Replay), StorageError> {
    let member = data_dir.join("member");
    let wal_dir = wal_dir.map_or(member.join("wal"), Path::to_owned);
    if !Wal::exists(&**disk, &wal_dir) {
        return Err(StorageError::GoFolder(data_dir.to_owned()));
    }
    let snaps = SnapDir::open(disk.clone(), &member.join("snap")).map_err(StorageError::Snapshots)?;
    let valid = Wal::snapshots(&**disk, &wal_dir)?;
    let loaded = snaps.load_newest(&valid).map_err(StorageError::Snapshots)?;
    let snapshot = loaded.snapshot.unwrap_or_default();
    let metadata = snapshot.metadata.clone().unwrap_or_default();
    let start = walpb::Snapshot {
        index: metadata.index,
        term: metadata.term,
        conf_state: None,
    };
    let options = wal::Options {
        files_max: 0,
        ..Default::default()
    };
    let (wal, replay) = Wal::open(disk.clone(), &wal_dir, &start, options)?;
    Ok((wal, snapshot, replay))
}

/// Writes the file under another name, and gives it its own when it is durable.
fn write_db(disk: &dyn Disk, export: Export, db: &Path) -> Result<(), ConvertError> {
    let tmp = env::with_suffix(db, ".tmp");
    let file = disk.create(&tmp).map_err(at(&tmp))?;
    let (mut offset, mut failed) = (0, None);
    export.write(|piece| {
        failed = file.write_at(&[IoSlice::new(&piece)], offset).err();
        offset += piece.len() as u64;
        failed.is_none()
    })?;
    let finish = || match failed {
        Some(error) => Err(error),
        None => {
            file.sync_data()?;
            disk.rename(&tmp, db)?;
            disk.sync_dir(env::parent(db))
        }
    };
    finish().map_err(at(db))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ConvertError + use<> {
    let path = path.to_owned();
    move |error| ConvertError::Write { path, error }
}
