//! What a member finds on its disk when it starts, or makes when there is nothing.
//!
//! ```text
//!   member/snap/*.snap   where the log may begin
//!   member/wal/          what the member promised since
//!   member/kv/           what it has applied; always at or behind the log
//! ```
//! A snapshot that the leader sent (`member/snap/<index>.snap.db`) counts once the log has a record of it; if
//! the member stopped before it was installed, that is done now.
//!
//! The three are checked against each other: a store that is behind the log's beginning, or ahead of its
//! end, was put there by somebody, and going on with it could lose acknowledged writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consensus::Restored;
use env::Disk;
use image::ImportError;
use machine::membership::bootstrap_entries;
use prost::Message;
use proto::{etcdserverpb, raftpb, walpb};
use store::{Recovered, Store};
use thiserror::Error;
use types::{ClusterId, Index, MemberId};
use wal::{SnapDir, Wal};

use crate::bootstrap::{Beginning, go_on_alone};
use crate::config::Config;
use crate::go_folder;
use crate::install::place;

/// The term in which a new cluster's first entries are.
const BOOTSTRAP_TERM: u64 = 1;

/// Size of a log segment, which is etcd's. The simulated disk of the tests keeps every byte in memory.
const LOG_SEGMENT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 64_000_000 };

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
    /// The folder was written by Go etcd, and a part is missing.
    #[error(
        "{0} has a database of Go etcd in member/snap/db, but no raft log: put back its member/wal (see --wal-dir), \
         or restore a backup into an empty --data-dir"
    )]
    GoFolder(PathBuf),
    /// The log can't be written.
    #[error("cannot write the raft log: {0}")]
    LogWrite(#[from] wal::WriteError),
    /// The configuration in the log makes no sense.
    #[error("cannot make a new cluster of this data: {0}")]
    Alone(#[from] consensus::ConfChangeError),
    /// There is no log, and nobody said how to begin one.
    #[error("the raft log in {0} has vanished since this start began")]
    NoLog(PathBuf),
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] wal::OpenError),
    /// The log does not say whose it is.
    #[error("the raft log in {0} does not say whose it is; it is damaged or not a member's")]
    NoMetadata(PathBuf),
    /// The snapshot files can't be read.
    #[error("cannot read the snapshot files: {0}")]
    Snapshots(std::io::Error),
    /// The store can't be opened.
    #[error(transparent)]
    Store(store::OpenError),
    /// The store lacks what the log does not have.
    #[error("{error}. If a snapshot of the leader was to bring it, it was in {}, which is missing", file.display())]
    Behind {
        /// Where the store ends.
        error: store::OpenError,
        /// The snapshot's file.
        file: PathBuf,
    },
    /// A snapshot from the leader can't be installed.
    #[error(transparent)]
    Install(#[from] ImportError),
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

impl StorageError {
    /// Whether another process has the folder.
    pub fn is_locked(&self) -> bool {
        matches!(self, StorageError::Log(wal::OpenError::Locked { .. }))
    }
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

    /// Opens the member's disk. One that is empty becomes that of the member that `beginning` describes.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: &Config,
        beginning: Option<&Beginning>,
    ) -> Result<Storage, StorageError> {
        let member = config.member_dir();
        let folder = |error| StorageError::Folder {
            path: member.clone(),
            error,
        };
        let is_go_folder = go_folder::is_go_folder(&*disk, &member);
        if is_go_folder && !Wal::exists(&*disk, &config.wal_path()) {
            return Err(StorageError::GoFolder(config.data_dir.clone()));
        }
        disk.create_dir_all(&member).map_err(folder)?;
        disk.sync_dir(&config.data_dir).map_err(folder)?;
        let snaps = SnapDir::open(disk.clone(), &member.join("snap")).map_err(StorageError::Snapshots)?;

        let wal_dir = config.wal_path();
        let options = wal::Options {
            files_max: config.max_wal_files.unwrap_or(0),
            segment_bytes: LOG_SEGMENT_BYTES,
        };
        if !Wal::exists(&*disk, &wal_dir) {
            let beginning = beginning.ok_or_else(|| StorageError::NoLog(wal_dir.clone()))?;
            create_log(&disk, &wal_dir, beginning, options)?;
        }
        let valid = Wal::snapshots(&*disk, &wal_dir)?;
        let loaded = snaps.load_newest(&valid).map_err(StorageError::Snapshots)?;
        for broken in &loaded.broken {
            tracing::warn!(path = %broken.display(), "renamed a broken snapshot file");
        }
        let saved = loaded.snapshot.unwrap_or_default();
        let snapshot = saved.metadata.clone().unwrap_or_default();
        let start = walpb::Snapshot {
            index: snapshot.index,
            term: snapshot.term,
            conf_state: None,
        };
        let (mut wal, replay) = Wal::open(disk.clone(), &wal_dir, &start, options)?;
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
        if is_go_folder {
            go_folder::take_over(&disk, &member, &saved, &replay.entries)?;
        }
        let (store, recovered) = open_store(&disk, &member, &saved)?;
        go_folder::put_aside(&*disk, &member)?;
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
        let mut restored = Restored {
            hard_state: replay.hard_state,
            snapshot,
            entries: replay.entries,
            applied,
            conf_state: recovered.commit.conf_state.clone().unwrap_or_default(),
        };
        let (id, cluster_id) = (MemberId(node_id), ClusterId(cluster_id));
        if config.force_new_cluster {
            let entries = go_on_alone(id, &mut restored)?;
            wal.append(&entries, Some(&restored.hard_state));
            wal.sync()?;
            tracing::warn!(
                "local-member-id" = %id,
                "cluster-id" = %cluster_id,
                "commit-index" = restored.hard_state.commit,
                "forcing restart member: the cluster has this member only from now on"
            );
        }
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

/// Opens the store, and brings it up to the snapshot that the log begins with.
fn open_store(
    disk: &Arc<dyn Disk>,
    member: &Path,
    snapshot: &raftpb::Snapshot,
) -> Result<(Arc<Store>, Recovered), StorageError> {
    let index = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index);
    let snap_dir = member.join("snap");
    let file = image::received(&snap_dir, index);
    image::remove_arriving(&**disk, &snap_dir).map_err(StorageError::Snapshots)?;
    let is_received = disk.exists(&file);
    let options = store::Options {
        replay_from: if is_received { 0 } else { index + 1 },
        ..Default::default()
    };
    let (store, mut recovered) =
        Store::open(disk.clone(), member.join("kv"), options).map_err(|error| match error {
            error @ store::OpenError::Gap { .. } => StorageError::Behind {
                error,
                file: file.clone(),
            },
            error => StorageError::Store(error),
        })?;
    if recovered.commit.applied_index < index {
        tracing::info!(path = %file.display(), "installing the snapshot that the leader sent");
        let loaded = image::load(&**disk, &file, &place(snapshot), &store)?;
        recovered.commit = loaded.commit().clone();
        recovered.tables = loaded.adopt(&recovered.mvcc).map_err(ImportError::from)?;
    }
    // Installed by now; or the log has no record of it, and the leader will send it again.
    image::remove_received(&**disk, &snap_dir, Index::MAX).map_err(StorageError::Snapshots)?;
    Ok((store, recovered))
}

/// Makes the log of a new member. A founder's has the first members in it from the start.
fn create_log(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    beginning: &Beginning,
    options: wal::Options,
) -> Result<(), StorageError> {
    let folder = |error| StorageError::Folder {
        path: dir.to_owned(),
        error,
    };
    disk.create_dir_all(env::parent(dir)).map_err(folder)?;
    let metadata = etcdserverpb::Metadata {
        node_id: beginning.id.0,
        cluster_id: beginning.cluster_id.0,
    };
    let entries = match beginning.founds {
        true => bootstrap_entries(&beginning.members),
        false => Vec::new(),
    };
    let hard_state = raftpb::HardState {
        term: BOOTSTRAP_TERM,
        vote: 0,
        commit: entries.len() as u64,
    };
    let hard_state = beginning.founds.then_some(&hard_state);
    let metadata = metadata.encode_to_vec();
    Wal::create_with(disk.clone(), dir, &metadata, &entries, hard_state, options).map_err(folder)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use env::SimDisk;
    use env::sim::{Keep, crash_everywhere};
    use mvcc::{Head, Table};
    use raftpb::{ConfState, SnapshotMetadata};
    use types::LeaseId;

    use super::*;
    use crate::bootstrap::found;
    use crate::config::tests::config;
    use crate::install::Installer;

    /// Where the snapshot is in the log, and the revision it brings.
    const INDEX: u64 = 500;
    const REVISION: i64 = 41;

    fn settings() -> Config {
        Config {
            data_dir: "/data".into(),
            ..config()
        }
    }

    fn open(disk: Arc<dyn Disk>) -> Result<Storage, StorageError> {
        Storage::open(disk, &settings(), Some(&found(&settings())))
    }

    /// A member that has started once, and is shut down.
    fn member() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        drop(open(arc).unwrap());
        disk.after_crash(Keep::None)
    }

    fn metadata() -> SnapshotMetadata {
        SnapshotMetadata {
            conf_state: Some(ConfState {
                voters: vec![1, 2, 3],
                ..ConfState::default()
            }),
            index: INDEX,
            term: 7,
        }
    }

    /// The leader's database.
    fn database() -> Vec<u8> {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let (store, recovered) = Store::open(disk, "/kv", store::Options::default()).unwrap();
        let mut head = Head::new(recovered.mvcc);
        for n in 1..REVISION {
            head.begin().put(&[n as u8 % 5 + 1], b"value", LeaseId(0));
        }
        head.table_put(Table::Alarm, b"", b"");
        store.append(head.seal(INDEX - 2, 7, None));
        let mut file = Vec::new();
        image::Export::new(store.snapshot().unwrap(), -1)
            .write(|piece| {
                file.extend_from_slice(&piece);
                true
            })
            .unwrap();
        file
    }

    /// What transport, log and apply loop do with a snapshot from the leader. Returns how far it came.
    fn receive(disk: &SimDisk, database: &[u8]) -> Result<&'static str, Box<dyn std::error::Error>> {
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        let snap_dir = Path::new("/data/member/snap");
        let mut storage = open(arc.clone())?;
        let file = disk.create(&image::received(snap_dir, INDEX))?;
        file.write_at(&[IoSlice::new(database)], 0)?;
        file.sync_data()?;
        disk.sync_dir(snap_dir)?;
        let snapshot = raftpb::Snapshot {
            data: Some("{}".into()),
            metadata: Some(metadata()),
        };
        storage.snaps.save(&snapshot)?;
        storage.wal.save_snapshot(&walpb::Snapshot {
            index: INDEX,
            term: 7,
            conf_state: metadata().conf_state,
        });
        let hard_state = raftpb::HardState {
            term: 7,
            vote: 0,
            commit: INDEX,
        };
        storage.wal.append(&[], Some(&hard_state));
        storage.wal.sync()?;
        let installer = Installer {
            disk: arc,
            snap_dir: snap_dir.to_owned(),
            config: Arc::new(settings()),
        };
        match installer.install(&snapshot, &storage.store, &storage.recovered.mvcc) {
            Ok(_) => Ok("installed"),
            Err(_) => Ok("recorded"),
        }
    }

    #[test]
    fn power_lost_at_any_moment_of_a_snapshots_way_leaves_a_member_that_starts() {
        let database = database();
        crash_everywhere(
            1,
            member,
            |disk| receive(disk, &database).unwrap_or("nothing"),
            |promised, disk| {
                let arc: Arc<dyn Disk> = Arc::new(disk.clone());
                let storage = open(arc).unwrap();
                let commit = storage.store.synced();
                let brought = commit.applied_index == INDEX;
                assert!(brought || *promised == "nothing", "{promised}");
                let revision = if brought { REVISION } else { 1 };
                assert_eq!(storage.recovered.mvcc.current(), revision);
                assert_eq!(storage.restored.applied, commit.applied_index);
                if brought {
                    assert_eq!(commit.conf_state, metadata().conf_state);
                }
                let left = disk.list(Path::new("/data/member/snap")).unwrap();
                assert!(left.iter().all(|name| !name.ends_with(".db")), "{left:?}");
            },
        );
    }

    #[test]
    fn a_recorded_snapshot_whose_file_is_gone_is_refused_by_name() {
        let disk = member();
        // The file is no database, so that it is not installed.
        assert_eq!(receive(&disk, b"nothing of use").unwrap(), "recorded");
        let file = image::received(Path::new("/data/member/snap"), INDEX);
        disk.remove(&file).unwrap();
        let Err(error) = open(Arc::new(disk)) else {
            panic!("it has lost entries");
        };
        assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
    }

    /// A folder as Go leaves it: its log, and a database up to the last entry.
    fn go_folder() -> SimDisk {
        let disk = member();
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        let storage = open(arc).unwrap();
        let mut head = Head::new(storage.recovered.mvcc.clone());
        head.begin().put(b"key", b"value", LeaseId(0));
        let last = storage.restored.entries.last().unwrap().index;
        let commit = head.seal(last, 1, None);
        storage.store.append(commit);
        let file = disk.create(Path::new("/data/member/snap/db")).unwrap();
        let mut at = 0;
        image::Export::new(storage.store.snapshot().unwrap(), -1)
            .write(|piece| {
                file.write_at(&[IoSlice::new(&piece)], at).unwrap();
                at += piece.len() as u64;
                true
            })
            .unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/data/member/snap")).unwrap();
        drop(storage);
        disk.remove_dir_all(Path::new("/data/member/kv")).unwrap();
        disk.sync_dir(Path::new("/data/member")).unwrap();
        disk.after_crash(Keep::None)
    }

    #[test]
    fn power_lost_while_a_go_folder_is_taken_over_leaves_gos_or_ours_and_the_next_start_succeeds() {
        let open = |disk: &SimDisk| open(Arc::new(disk.clone()));
        crash_everywhere(
            1,
            go_folder,
            |disk| open(disk).is_ok(),
            |done, disk| {
                let exists = |name: &str| disk.exists(&Path::new("/data/member").join(name));
                assert!(exists("kv") || exists("snap/db"), "the only copy is never gone");
                assert!(!done || exists("kv"));
                let storage = open(&disk).unwrap();
                assert_eq!(storage.recovered.mvcc.current(), 2);
                // Nothing in the file says who the members are, as up to 3.4: the log does.
                let own = found(&settings()).id;
                let group = storage.recovered.commit.conf_state.unwrap_or_default();
                assert_eq!(group.voters, [own.0]);
                assert!(exists("snap/db.imported") && !exists("snap/db"));
            },
        );
    }
}
