//! What can go wrong, and what the operator can do about it.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use mvcc::ReadError;

/// An operation of the disk that failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: {source}", path.display())]
pub struct DiskError {
    /// What was being done, e.g. `writing`.
    pub doing: &'static str,
    /// To which file or folder.
    pub path: PathBuf,
    /// What the disk said.
    pub source: io::Error,
}

impl DiskError {
    /// For `map_err`: says what was being done, and to what.
    pub(crate) fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| DiskError {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// Bytes that are not what was once written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

impl Damage {
    pub(crate) fn new(file: &Path, offset: u64, what: impl fmt::Display) -> Self {
        Damage {
            file: file.to_owned(),
            offset,
            what: what.to_string(),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is damaged at byte {}: {}",
            self.file.display(),
            self.offset,
            self.what
        )
    }
}

/// Why a store could not be opened. Nothing was changed in the folder.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("{} is in use by another process; stop that one first", .0.display())]
    Locked(PathBuf),
    /// A file is not what it was when it was written.
    #[error(
        "{0}; remove this member from the cluster and add it again with an empty folder, or restore a backup"
    )]
    Damaged(Damage),
    /// The store ends before the raft log begins, so that raft can not replay what is missing.
    #[error(
        "{damage}; everything behind it is lost up to entry {replay_from}, where the raft log begins; remove this \
             member from the cluster and add it again with an empty folder, or restore a backup"
    )]
    Gap {
        /// Where the store's last whole batch ends.
        damage: Damage,
        /// First entry the raft log can replay.
        replay_from: u64,
    },
    /// Written by a newer version.
    #[error("{} has format version {version}, this program knows {known}; start the newer program", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<Damage> for OpenError {
    fn from(damage: Damage) -> Self {
        OpenError::Damaged(damage)
    }
}

/// Why something was not made durable.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The disk is full. Nothing is lost, and the next step tries again.
    #[error("the store can not grow: {0}")]
    NoSpace(DiskError),
    /// The disk failed just now. What it holds is unknown: the process must end, and recovery find out.
    #[error("the store can not be written: {0}")]
    Disk(DiskError),
    /// The disk failed before.
    #[error("the store can not be written since an earlier failure")]
    Poisoned,
}

impl SyncError {
    /// An operation failed that can be tried again, if it was for lack of space: nothing relies on it yet.
    pub(crate) fn retryable(error: DiskError) -> Self {
        match error.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SyncError::NoSpace(error),
            _ => SyncError::Disk(error),
        }
    }
}

/// Why segments were not rewritten. Unless it is [`Sync`](RewriteError::Sync) the store is as it was, and works.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// As for syncing.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The new segment could not be written, for instance because the disk is full; it was removed.
    #[error("rewriting segments was given up: {0}")]
    Disk(#[from] DiskError),
    /// A segment is damaged; the member must be replaced.
    #[error(transparent)]
    Damaged(#[from] ReadError),
}

/// Why new content was not put in place of the old. Unless it is [`SyncError::Disk`] the store is as it was, and works.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The new files could not be written, or were not read back as written; they were removed.
    #[error(transparent)]
    Files(#[from] OpenError),
    /// As for syncing.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// What is there has a longer history, so the new content is not its continuation.
    #[error("the new content ends at revision {revision}, but the store is at {current} already")]
    Older {
        /// Revision of the new content.
        revision: i64,
        /// Revision of the store.
        current: i64,
    },
}

impl From<DiskError> for LoadError {
    fn from(error: DiskError) -> Self {
        LoadError::Files(error.into())
    }
}
