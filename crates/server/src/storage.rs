//! What a member finds on its disk when it starts, or makes when there is nothing.
//!
//! ```text
//!   member/snap/*.snap   where the log may begin
//!   member/wal/          what the member promised since
//!   member/kv/           what it has applied; always at or behind the log
//! ```
//! The three are checked against each other: a store that is behind the log's beginning, or ahead of its
//! end, was put there by somebody, and going on with it could lose acknowledged writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consensus::Restored;
use env::Disk;
use machine::membership::{bootstrap_entries, cluster_id, member_id};
use prost::Message;
use proto::{etcdserverpb, raftpb, walpb};
use store::{Recovered, Store};
use thiserror::Error;
use types::{ClusterId, MemberId};
use wal::{SnapDir, Wal};

use crate::config::{BootstrapError, Config};

/// The term in which a new cluster's first entries are.
const BOOTSTRAP_TERM: u64 = 1;

/// Why a member can not start from its disk.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The folder can't be used.
    #[error("cannot access data directory: {path}: {error}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The folder was written by Go etcd.
    #[error(
        "{0} was written by Go etcd, which keeps its database in member/snap/db; importing it is not supported \
         yet: use an empty --data-dir, and bring the data over with etcdctl"
    )]
    GoFolder(PathBuf),
    /// A new cluster can't be made as configured.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] wal::OpenError),
    /// The log can't be written.
    #[error("cannot write the raft log: {0}")]
    LogWrite(#[from] wal::WriteError),
    /// The log does not say whose it is.
    #[error("the raft log in {0} does not say whose it is; it is damaged or not a member's")]
    NoMetadata(PathBuf),
    /// The snapshot files can't be read.
    #[error("cannot read the snapshot files: {0}")]
    Snapshots(std::io::Error),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The store does not fit the log.
    #[error(
        "the store has applied the log up to entry {applied}, but the log ends at {last}: the log in {wal} is not \
         the one this store was written with; put the right one back, or start over with an empty data folder"
    )]
    StoreAhead {
        /// The store's applied index.
        applied: u64,
        /// The log's last index.
        last: u64,
        /// Where the log is.
        wal: PathBuf,
    },
}

/// A member's disk, opened.
pub struct Storage {
    /// This member.
    pub id: MemberId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// The log, open for appending.
    pub wal: Wal,
    /// The snapshot files.
    pub snaps: SnapDir,
    /// The keys.
    pub store: Arc<Store>,
    /// What came back with them.
    pub recovered: Recovered,
    /// What raft starts from.
    pub restored: Restored,
}

impl Storage {
    /// Whether this member has started before.
    pub fn is_initialized(disk: &dyn Disk, config: &Config) -> bool {
        Wal::exists(disk, &config.wal_path())
    }

    /// Opens the member's disk, or makes the first member of a new cluster.
    pub fn open(disk: Arc<dyn Disk>, config: &Config) -> Result<Storage, StorageError> {
        let member = config.member_dir();
        let folder = |error| StorageError::Folder {
            path: member.clone(),
            error,
        };
        if disk.exists(&member.join("snap/db")) && !disk.exists(&member.join("kv")) {
            return Err(StorageError::GoFolder(config.data_dir.clone()));
        }
        disk.create_dir_all(&member).map_err(folder)?;
        disk.sync_dir(&config.data_dir).map_err(folder)?;
        let snaps = SnapDir::open(disk.clone(), &member.join("snap")).map_err(StorageError::Snapshots)?;

        let wal_dir = config.wal_path();
        let options = wal::Options {
            files_max: config.max_wal_files.unwrap_or(0),
            ..Default::default()
        };
        if !Wal::exists(&*disk, &wal_dir) {
            config.check_bootstrap()?;
            create_log(&disk, &wal_dir, &metadata(config), options)?;
        }
        let valid = Wal::snapshots(&*disk, &wal_dir)?;
        let loaded = snaps.load_newest(&valid).map_err(StorageError::Snapshots)?;
        for broken in &loaded.broken {
            tracing::warn!(path = %broken.display(), "renamed a broken snapshot file");
        }
        let snapshot = loaded
            .snapshot
            .and_then(|snapshot| snapshot.metadata)
            .unwrap_or_default();
        let start = walpb::Snapshot {
            index: snapshot.index,
            term: snapshot.term,
            conf_state: None,
        };
        let (mut wal, mut replay) = Wal::open(disk.clone(), &wal_dir, &start, options)?;
        if let Some(repaired) = &replay.repaired {
            tracing::warn!(
                path = %repaired.file.display(),
                offset = repaired.offset,
                "saved-as" = %repaired.copy.display(),
                "repaired the log: cut off a record that a crash had left unfinished"
            );
        }
        let etcdserverpb::Metadata { node_id, cluster_id } =
            etcdserverpb::Metadata::decode(replay.metadata.clone())
                .ok()
                .filter(|metadata| metadata.node_id != 0)
                .ok_or_else(|| StorageError::NoMetadata(wal_dir.clone()))?;
        if snapshot.index == 0 && replay.entries.is_empty() {
            // A crash came between the log's first record and the members: write them again.
            (replay.entries, replay.hard_state) = first_entries(&mut wal, config)?;
        }

        let store_options = store::Options {
            replay_from: snapshot.index + 1,
            ..Default::default()
        };
        let (store, recovered) = Store::open(disk, member.join("kv"), store_options)?;
        if let Some(cut) = &recovered.cut {
            tracing::info!(
                path = %cut.file.display(),
                offset = cut.offset,
                bytes = cut.bytes,
                "cut off the unfinished end of the store; the log has it"
            );
        }
        let applied = recovered.commit.applied_index;
        let last = replay.entries.last().map_or(snapshot.index, |entry| entry.index);
        if applied > last {
            return Err(StorageError::StoreAhead {
                applied,
                last,
                wal: wal_dir,
            });
        }
        let restored = Restored {
            hard_state: replay.hard_state,
            snapshot,
            entries: replay.entries,
            applied,
            conf_state: recovered.commit.conf_state.clone().unwrap_or_default(),
        };
        let (id, cluster_id) = (MemberId(node_id), ClusterId(cluster_id));
        Ok(Storage {
            id,
            cluster_id,
            wal,
            snaps,
            store,
            recovered,
            restored,
        })
    }
}

/// The members of the initial cluster, with the ids they will have.
fn initial_members(config: &Config) -> Vec<machine::Member> {
    let members = config.initial_cluster.iter().map(|(name, urls)| {
        let peer_urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
        let id = member_id(&peer_urls, &config.initial_cluster_token, None);
        machine::Member {
            id,
            peer_urls,
            is_learner: false,
            name: name.clone(),
            client_urls: Vec::new(),
        }
    });
    members.collect()
}

fn metadata(config: &Config) -> etcdserverpb::Metadata {
    let members = initial_members(config);
    let own = members.iter().find(|member| member.name == config.name);
    etcdserverpb::Metadata {
        node_id: own.map_or(0, |member| member.id.0),
        cluster_id: cluster_id(members.iter().map(|member| member.id)).0,
    }
}

fn create_log(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    metadata: &etcdserverpb::Metadata,
    options: wal::Options,
) -> Result<(), StorageError> {
    let folder = |error| StorageError::Folder {
        path: dir.to_owned(),
        error,
    };
    disk.create_dir_all(env::parent(dir)).map_err(folder)?;
    Wal::create(disk.clone(), dir, &metadata.encode_to_vec(), options).map_err(folder)?;
    Ok(())
}

/// Puts the initial members into an empty log.
fn first_entries(
    wal: &mut Wal,
    config: &Config,
) -> Result<(Vec<raftpb::Entry>, raftpb::HardState), StorageError> {
    config.check_bootstrap()?;
    let entries = bootstrap_entries(&initial_members(config));
    let hard_state = raftpb::HardState {
        term: BOOTSTRAP_TERM,
        vote: 0,
        commit: entries.len() as u64,
    };
    wal.append(&entries, Some(&hard_state));
    wal.sync()?;
    Ok((entries, hard_state))
}
