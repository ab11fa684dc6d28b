//! Work on a data folder that Go etcd laid out, while no server has it open: free pages given back, and the version of its
//! storage changed for another release. A folder of our own layout needs neither.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use env::{Disk, RealDisk};
use image::{Change, ImportError};
use machine::Version;
use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use proto::raftpb::{Entry, EntryType};
use thiserror::Error;

use crate::convert::open_log;
use crate::storage::StorageError;
use crate::versions::short;

/// The first release whose storage names its version.
const NAMED: (u64, u64) = (3, 6);
/// The oldest release a folder can be made for.
const OLDEST: (u64, u64) = (3, 5);

/// Why a folder stays as it is.
#[derive(Debug, Error)]
pub enum UpkeepError {
    /// The folder is not one, or somebody uses it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database can't be read or written.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// There is no database.
    #[error("{} is not the data folder of a member: it has neither member/kv nor member/snap/db", .0.display())]
    Nothing(PathBuf),
    /// Such a release has no storage of this kind.
    #[error("target version {0:?} not supported. Minimal \"3.5\"")]
    TooOld(String),
    /// Nor does one that is not there yet.
    #[error("target version {0:?} is not known to this release")]
    TooNew(String),
    /// The folder is ours.
    #[error(
        "{} is laid out for Keelson, which has no such version; lay it out for Go with `etcdutl convert --to=bolt \
         --target-version={}`", .0.display(), short(*.1)
    )]
    Native(PathBuf, Version),
    /// The log is newer than the target.
    #[error(
        "the log has entries since the last snapshot that etcd {} does not know (entry {}); start the member once more \
         and let it take a snapshot, or use --force", short(*.target), .index
    )]
    NewerEntries {
        /// Whom the folder is for.
        target: Version,
        /// Which entry.
        index: u64,
    },
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The folder is as it should be already.
    Nothing,
    /// The database had so many bytes and has so many now.
    Rewritten(u64, u64),
}

/// Gives the pages of the database that nobody uses back to the system.
pub fn defrag(data_dir: &Path, mut report: impl FnMut(u64, u64)) -> Result<Done, UpkeepError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let Some(db) = database(&*disk, data_dir)? else {
        return Ok(Done::Nothing);
    };
    let _locked = open_log(&disk, data_dir, None)?;
    rewrite(&*disk, &db, &Change::Nothing, &mut report)
}

/// Changes the version of the storage to that of release `target`.
pub fn migrate(data_dir: &Path, target: Version, force: bool) -> Result<Done, UpkeepError> {
    let name = || short(target).to_string();
    let minor = (target.major, target.minor);
    if minor < OLDEST {
        return Err(UpkeepError::TooOld(name()));
    }
    if minor > (machine::NEWEST.major, machine::NEWEST.minor) {
        return Err(UpkeepError::TooNew(name()));
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let Some(db) = database(&*disk, data_dir)? else {
        return Err(UpkeepError::Native(data_dir.to_owned(), target));
    };
    let (_locked, _, replay) = open_log(&disk, data_dir, None)?;
    let version = (minor >= NAMED).then(|| format!("{}.{}.0", target.major, target.minor));
    if image::storage_version(&*disk, &db)? == version {
        return Ok(Done::Nothing);
    }
    let newer = replay.entries.iter().find(|entry| !is_known(entry, target));
    if let (Some(entry), false) = (newer, force) {
        return Err(UpkeepError::NewerEntries {
            target,
            index: entry.index,
        });
    }
    rewrite(&*disk, &db, &Change::StorageVersion(version), &mut |_, _| {})
}

/// The database of a Go member; none if the folder is ours.
fn database(disk: &dyn Disk, data_dir: &Path) -> Result<Option<PathBuf>, UpkeepError> {
    let member = data_dir.join("member");
    let db = member.join("snap/db");
    match (disk.exists(&member.join("kv")), disk.exists(&db)) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(db)),
        (false, false) => Err(UpkeepError::Nothing(data_dir.to_owned())),
    }
}

fn rewrite(
    disk: &dyn Disk,
    db: &Path,
    change: &Change<'_>,
    report: &mut dyn FnMut(u64, u64),
) -> Result<Done, UpkeepError> {
    let bytes = || {
        let file = disk.open(db).and_then(|file| file.len());
        file.map_err(|error| ImportError::Open {
            file: db.to_owned(),
            error,
        })
    };
    let before = bytes()?;
    image::rewrite(disk, db, db, change, report)?;
    Ok(Done::Rewritten(before, bytes()?))
}

/// Whether members of that release can apply the entry.
fn is_known(entry: &Entry, target: Version) -> bool {
    let data = entry.data.as_deref().unwrap_or_default();
    if entry.r#type() != EntryType::EntryNormal || data.is_empty() {
        return true;
    }
    // What can't be read here was not written by a newer release but by an older one, before 3.0.
    let Ok(request) = InternalRaftRequest::decode(data) else {
        return true;
    };
    let minor = (target.major, target.minor);
    let sets = request
        .cluster_version_set
        .and_then(|set| Version::parse(&set.ver));
    let is_version_known = sets.is_none_or(|version| (version.major, version.minor) <= minor);
    is_version_known && (request.downgrade_version_test.is_none() || minor >= NAMED)
}
