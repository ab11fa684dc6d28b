//! The whole state on its way to a follower that is too far behind, and its arrival.
//!
//! ```text
//!   kv             the store in service
//!   arriving       a state that is being written
//!   incoming-<i>   a whole state as of entry i, complete and synced before raft hears of it
//!   kv.old         the store that was in service, on its way out
//! ```
//! A state goes into service when raft says so, or at a start that finds it newer than the store. The
//! exchange is two renames, each synced: whatever a crash leaves, one of the two stores is whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use env::Disk;
use mvcc::{Batch, Change, KvFields};
use proto::storepb::Commit;
use store::{Store, Tables};

/// The whole state as of one entry.
pub struct Image {
    /// Which entry.
    pub commit: Commit,
    tables: Tables,
    changes: Vec<Change>,
}

/// Why a state can not be taken or put down, in words.
pub type TransferError = String;

fn because<E: std::fmt::Debug>(error: E) -> TransferError {
    format!("{error:?}")
}

/// Reads a store's state.
pub fn take(store: &Store) -> Result<Image, TransferError> {
    let snapshot = store.snapshot().map_err(because)?;
    let changes = snapshot.changes().collect::<Result<_, _>>();
    Ok(Image {
        commit: snapshot.commit().clone(),
        tables: snapshot.tables().clone(),
        changes: changes.map_err(because)?,
    })
}

/// Puts a state down beside the store, durably.
pub fn receive(
    disk: &Arc<dyn Disk>,
    member: &Path,
    image: &Image,
    options: store::Options,
) -> Result<(), TransferError> {
    let (dir, done) = (
        member.join("arriving"),
        incoming(member, image.commit.applied_index),
    );
    if disk.exists(&done) {
        return Ok(());
    }
    if disk.exists(&dir) {
        disk.remove_dir_all(&dir).map_err(because)?;
        disk.sync_dir(member).map_err(because)?;
    }
    let (store, _) = Store::open(disk.clone(), &dir, options).map_err(because)?;
    let mut batch = Batch::default();
    for change in &image.changes {
        let kv = KvFields::parse(&change.kv).map_err(because)?;
        match change.tombstone {
            true => batch.tombstone(change.rev, kv.key),
            false => batch.put(change.rev, &kv),
        }
    }
    for (table, rows) in &image.tables {
        for (key, value) in rows {
            batch.table(image.commit.revision, *table, key, Some(value));
        }
    }
    store.append(batch.seal(image.commit.clone()));
    store.close().map_err(because)?;
    drop(store);
    disk.rename(&dir, &done).map_err(because)?;
    disk.sync_dir(member).map_err(because)
}

/// Puts the state as of entry `index` into service; the store must be closed.
pub fn install(disk: &dyn Disk, member: &Path, index: u64) -> io::Result<()> {
    let (kv, old) = (member.join("kv"), member.join("kv.old"));
    if disk.exists(&old) {
        disk.remove_dir_all(&old)?;
        disk.sync_dir(member)?;
    }
    if disk.exists(&kv) {
        disk.rename(&kv, &old)?;
        disk.sync_dir(member)?;
    }
    disk.rename(&incoming(member, index), &kv)?;
    disk.sync_dir(member)?;
    clear(disk, member, index)
}

/// Whether the state as of entry `index` has arrived.
pub fn has_arrived(disk: &dyn Disk, member: &Path, index: u64) -> bool {
    disk.exists(&incoming(member, index))
}

/// Removes what is of no use to a member that is at entry `index`.
pub fn clear(disk: &dyn Disk, member: &Path, index: u64) -> io::Result<()> {
    for name in disk.list(member)? {
        let arrived = name
            .strip_prefix("incoming-")
            .and_then(|index| index.parse().ok());
        if name == "kv.old" || arrived.is_some_and(|arrived: u64| arrived <= index) {
            disk.remove_dir_all(&member.join(name))?;
        }
    }
    disk.sync_dir(member)
}

fn incoming(member: &Path, index: u64) -> PathBuf {
    member.join(format!("incoming-{index}"))
}
