//! A data folder from our layout to Go's and back, while no server has it open.
//!
//! The raft log and the `.snap` files are the same in both; only the database moves, at the same applied
//! index, between `member/kv` and `member/snap/db`. Each direction makes the new one durable before the old
//! one is put aside, so a crash leaves a folder that the one or the other can start from, and the same
//! call finishes the work. The log's locks keep servers of both kinds out.
//!
//! For Go the log is made to begin at the applied index, with a `.snap` file that holds members and cluster
//! version: members up to 3.5 read them there, and end themselves at an entry that sets a cluster version
//! above their own, even if a later one takes it down again.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use env::{Disk, RealDisk};
use image::{Export, v2store};
pub use machine::Version;
use proto::raftpb::{HardState, Snapshot, SnapshotMetadata};
use proto::walpb;
use store::Store;
use thiserror::Error;
use wal::{Replay, SnapDir, Wal};

use crate::go_folder;
use crate::storage::StorageError;
use crate::versions::short;

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
    /// Whom it is for does not act at the cluster's version.
    #[error(
        "{folder} is at cluster version {cluster}, and etcd {target} does not start from it; bring the cluster down \
         first, while it runs: `etcdctl downgrade enable X.Y` (etcdctl 3.6 or newer), one minor version at a \
         time, until its members' /version says etcdcluster {target}; if it does, start this member once",
        folder = folder.display(), target = short(*target), cluster = short(*cluster)
    )]
    Above {
        /// The data folder.
        folder: PathBuf,
        /// The cluster version in it.
        cluster: Version,
        /// Whom it is for.
        target: Version,
    },
    /// A row of the membership can't be read.
    #[error("cannot read the store's list of members: {0}")]
    Members(#[from] serde_json::Error),
    /// The log can't be written.
    #[error("cannot write the log: {0}")]
    Log(#[from] wal::WriteError),
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
    pub cluster_version: Option<Version>,
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
        match self.cluster_version {
            Some(version) => write!(
                f,
                "\nCluster version {}: older releases refuse to start from it",
                short(version)
            ),
            None => Ok(()),
        }
    }
}

/// Lays the folder out for Go, of the release `target` if one is named.
pub fn to_bolt(
    data_dir: &Path,
    wal_dir: Option<&Path>,
    target: Option<Version>,
) -> Result<Report, ConvertError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let member = data_dir.join("member");
    let (kv, db) = (member.join("kv"), member.join("snap/db"));
    if !disk.exists(&kv) {
        return nothing_to_do(&*disk, data_dir, db);
    }
    let (mut log, snapshot, replay) = open_log(&disk, data_dir, wal_dir)?;
    let index = snapshot.metadata.map_or(0, |metadata| metadata.index);
    let (store, recovered) =
        Store::open(disk.clone(), &kv, store::Options::default()).map_err(StorageError::Store)?;
    if recovered.commit.applied_index < index {
        return Err(ConvertError::Unfinished(index));
    }
    let export = Export::new(store.snapshot()?, recovered.commit.compact_revision);
    let cluster_version = cluster_version(&export);
    if let (Some(cluster), Some(target)) = (cluster_version, target)
        && cluster.minor_version() > target.minor_version()
    {
        let folder = data_dir.to_owned();
        return Err(ConvertError::Above {
            folder,
            cluster,
            target,
        });
    }
    begin_log_at(&export, &disk, &member, &mut log, replay.hard_state)?;
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

fn cluster_version(export: &Export) -> Option<Version> {
    let rows = export.snapshot().tables().get(&mvcc::Table::Cluster)?;
    let version = rows.get(&b"clusterVersion"[..])?;
    Version::parse(std::str::from_utf8(version).ok()?)
}

/// Makes what is exported the snapshot that the log begins with.
fn begin_log_at(
    export: &Export,
    disk: &Arc<dyn Disk>,
    member: &Path,
    log: &mut Wal,
    state: HardState,
) -> Result<(), ConvertError> {
    let commit = export.snapshot().commit();
    if commit.applied_index == 0 {
        return Ok(());
    }
    let snapshot = Snapshot {
        data: Some(v2store::of_tables(export.snapshot().tables())?.into()),
        metadata: Some(SnapshotMetadata {
            conf_state: commit.conf_state.clone(),
            index: commit.applied_index,
            term: commit.term,
        }),
    };
    let dir = member.join("snap");
    let snaps = SnapDir::open(disk.clone(), &dir).map_err(StorageError::Snapshots)?;
    snaps.save(&snapshot).map_err(at(&dir))?;
    // What is applied is committed, whether or not the log has heard of it; a snapshot above the commit
    // index does not count for Go.
    let state = HardState {
        commit: state.commit.max(commit.applied_index),
        ..state
    };
    log.append(&[], Some(&state));
    log.save_snapshot(&walpb::Snapshot {
        index: commit.applied_index,
        term: commit.term,
        conf_state: commit.conf_state.clone(),
    });
    log.sync()?;
    Ok(())
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
pub(crate) fn open_log(
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
