//! The data folder of a member of a new cluster, made of a backup.
//!
//! The folder is laid out as Go etcd does, so either server starts from it; ours takes it over like any that Go wrote. Its
//! log has nothing but the founders of the new cluster, whose ids come from their URLs and the token, as at a first start:
//! every member is made from the same backup with the same words.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use env::{Disk, File, RealDisk};
use image::{Change, Founders, ImportError, v2store};
use machine::Member;
use machine::membership::bootstrap_entries;
use prost::Message;
use proto::etcdserverpb::{self, Metadata};
use proto::raftpb::{ConfState, HardState, Snapshot, SnapshotMetadata};
use proto::walpb;
use sha2::{Digest, Sha256};
use thiserror::Error;
use wal::{SnapDir, Wal};

use crate::bootstrap::found_as;
use crate::config::{BootstrapError, InitialCluster, Url, check_founder};

/// The term of a log that nobody was elected in yet.
const TERM: u64 = 1;
/// Bytes of the sum that a backup ends with. Pages are larger, so that is how it is known.
const SUM_BYTES: u64 = 32;
/// What every page's size is a multiple of.
const SECTOR_BYTES: u64 = 512;
/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The backup, or the database of a member that is down.
    pub backup: PathBuf,
    /// The folder to make.
    pub data_dir: PathBuf,
    /// Where its log goes, if not into the folder.
    pub wal_dir: Option<PathBuf>,
    /// Which member of the new cluster it is for.
    pub name: String,
    /// All of its members.
    pub initial_cluster: InitialCluster,
    /// What tells the new cluster from others of the same URLs.
    pub token: String,
    /// Where others will reach this one.
    pub advertise_peer: Vec<Url>,
    /// Whether a file without a sum is taken.
    pub skip_hash_check: bool,
    /// How many revisions to skip, all before which are compacted.
    pub bump_revision: Option<u64>,
}

/// How far it is, from the backup's sum to the new database: what is done, and of how many bytes how many are.
pub type Report<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// Why there is no folder.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The flags do not describe a cluster with this member.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// Something is there already.
    #[error("data-dir {0:?} not empty or could not be read")]
    DataDir(PathBuf),
    /// A log is there already.
    #[error("wal-dir {0:?} exists")]
    WalDir(PathBuf),
    /// The backup can't be read.
    #[error("cannot read {}: {error}", path.display())]
    Backup {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Nobody can say whether it is whole.
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoSum,
    /// It is not what was saved.
    #[error("expected sha256 {expected}, got {found}")]
    WrongSum {
        /// What the file ends with.
        expected: Hex,
        /// What it is.
        found: Hex,
    },
    /// It is not a database, or it is damaged.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The folder can't be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The log can't be written.
    #[error("cannot write the log: {0}")]
    Log(#[from] wal::WriteError),
}

/// A sum in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hex(Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Makes the folder.
pub fn restore(restore: &Restore, report: Report<'_>) -> Result<(), RestoreError> {
    check_founder(&restore.name, &restore.initial_cluster, &restore.advertise_peer)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let member = restore.data_dir.join("member");
    let wal_dir = restore.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
    check_free(&*disk, restore, &wal_dir)?;
    let made = make(&disk, restore, [&member, &wal_dir], report);
    if made.is_err() {
        for folder in [&member, &wal_dir] {
            // Half a folder would be in the way of the next attempt; none is as good.
            let _ = disk.remove_dir_all(folder);
        }
    }
    made
}

/// The same, where nothing is in the way.
fn make(
    disk: &Arc<dyn Disk>,
    restore: &Restore,
    [member, wal_dir]: [&Path; 2],
    report: Report<'_>,
) -> Result<(), RestoreError> {
    let snap_dir = member.join("snap");
    // First, because it is soon done, and a large file takes long to check.
    disk.create_dir_all(&snap_dir).map_err(at(&snap_dir))?;
    check_sum(&**disk, restore, report)?;
    let beginning = found_as(&restore.name, &restore.initial_cluster, &restore.token);
    let founders = Founders {
        members: &beginning.members,
        index: beginning.members.len() as u64,
        term: TERM,
        bump: restore
            .bump_revision
            .map(|bump| i64::try_from(bump).unwrap_or(i64::MAX)),
    };
    let change = Change::Founders(founders.clone());
    let db = snap_dir.join("db");
    let written = |done, total| report("writing", done, total);
    image::rewrite(&**disk, &restore.backup, &db, &change, written)?;
    let metadata = Metadata {
        node_id: beginning.id.0,
        cluster_id: beginning.cluster_id.0,
    };
    write_log(disk, &snap_dir, wal_dir, &metadata, &founders)
}

/// Nothing is overwritten.
fn check_free(disk: &dyn Disk, restore: &Restore, wal_dir: &Path) -> Result<(), RestoreError> {
    let data_dir = &restore.data_dir;
    let is_free = !disk.exists(data_dir) || disk.list(data_dir).is_ok_and(|names| names.is_empty());
    if !is_free {
        return Err(RestoreError::DataDir(data_dir.clone()));
    }
    match restore.wal_dir.is_some() && disk.exists(wal_dir) {
        true => Err(RestoreError::WalDir(wal_dir.to_owned())),
        false => Ok(()),
    }
}

/// Compares the sum that a backup ends with, if it does, with what is before it.
fn check_sum(disk: &dyn Disk, restore: &Restore, report: Report<'_>) -> Result<(), RestoreError> {
    let backup = |error| RestoreError::Backup {
        path: restore.backup.clone(),
        error,
    };
    let file = disk.open(&restore.backup).map_err(backup)?;
    let bytes = file.len().map_err(backup)?;
    match (bytes % SECTOR_BYTES == SUM_BYTES, restore.skip_hash_check) {
        (_, true) => return Ok(()),
        (false, false) => return Err(RestoreError::NoSum),
        (true, false) => {}
    }
    let total = bytes - SUM_BYTES;
    let found = sum(&*file, total, &mut |done| report("checking", done, total)).map_err(backup)?;
    let mut expected = vec![0; SUM_BYTES as usize];
    read_exact(&*file, &mut expected, total).map_err(backup)?;
    match found == expected {
        true => Ok(()),
        false => Err(RestoreError::WrongSum {
            expected: Hex(expected),
            found: Hex(found),
        }),
    }
}

fn sum(file: &dyn File, bytes: u64, at: &mut dyn FnMut(u64)) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let wanted = (bytes - offset).min(READ_BYTES as u64) as usize;
        read_exact(file, &mut piece[..wanted], offset)?;
        hash.update(&piece[..wanted]);
        offset += wanted as u64;
        at(offset);
    }
    Ok(hash.finalize().to_vec())
}

fn read_exact(file: &dyn File, mut piece: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !piece.is_empty() {
        match file.read_at(piece, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                piece = &mut piece[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// A log that brings the founders in, and a snapshot after that, so that nobody looks for what was before.
fn write_log(
    disk: &Arc<dyn Disk>,
    snap_dir: &Path,
    wal_dir: &Path,
    metadata: &Metadata,
    founders: &Founders<'_>,
) -> Result<(), RestoreError> {
    let voters = founders.members.iter().map(|member: &Member| member.id.0);
    let conf_state = ConfState {
        voters: voters.collect(),
        ..Default::default()
    };
    // The version is not among them: a new cluster finds its own.
    let members: Vec<_> = founders.members.iter().map(etcdserverpb::Member::from).collect();
    let snapshot = Snapshot {
        data: Some(v2store::encode(&members, [], None).into()),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(conf_state.clone()),
            index: founders.index,
            term: founders.term,
        }),
    };
    let state = HardState {
        term: founders.term,
        vote: founders
            .members
            .iter()
            .map(|member| member.id.0)
            .min()
            .unwrap_or(0),
        commit: founders.index,
    };
    disk.create_dir_all(env::parent(wal_dir)).map_err(at(wal_dir))?;
    let snaps = SnapDir::open(disk.clone(), snap_dir).map_err(at(snap_dir))?;
    snaps.save(&snapshot).map_err(at(snap_dir))?;
    let entries = bootstrap_entries(founders.members);
    let metadata = metadata.encode_to_vec();
    let options = wal::Options::default();
    let log = Wal::create_with(disk.clone(), wal_dir, &metadata, &entries, Some(&state), options);
    let mut log = log.map_err(at(wal_dir))?;
    log.save_snapshot(&walpb::Snapshot {
        index: founders.index,
        term: founders.term,
        conf_state: Some(conf_state),
    });
    log.sync()?;
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RestoreError + use<> {
    let path = path.to_owned();
    move |error| RestoreError::Write { path, error }
}
