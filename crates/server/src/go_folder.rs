//! Taking over the data folder of a Go member, up to 3.7.
//!
//! ```text
//!   member/wal, member/snap/*.snap      stay: they are in the same format
//!   member/snap/db                      becomes member/kv, and db.imported when that is durable
//! ```
//! The folder `kv` appears as a whole, so a crash leaves the folder as Go left it or as ours. What the log
//! has behind the database is applied as after any start.

use std::path::Path;
use std::sync::Arc;

use env::Disk;
use image::{ImportError, Place, v2store};
use proto::raftpb::{ConfState, Entry, Snapshot};

use crate::storage::StorageError;

/// Whether this is a folder that Go wrote and nobody has taken over yet.
pub fn is_go_folder(disk: &dyn Disk, member: &Path) -> bool {
    disk.exists(&member.join("snap/db")) && !disk.exists(&member.join("kv"))
}

/// Takes it over. `snapshot`: the one the log begins with; `entries`: what follows it.
pub fn take_over(
    disk: &Arc<dyn Disk>,
    member: &Path,
    snapshot: &Snapshot,
    entries: &[Entry],
) -> Result<(), StorageError> {
    let started = snapshot.metadata.clone().unwrap_or_default();
    let snap_dir = member.join("snap");
    let mut db = snap_dir.join("db");
    let mut found = image::place(&**disk, &db)?;
    if found.index < Some(started.index) {
        // A snapshot from the leader came last, and Go had no time to put it in place.
        db = image::received(&snap_dir, started.index);
        found = crate::install::place(snapshot);
    }
    let index = found.index.unwrap_or_default();
    let upto = entries.partition_point(|entry| entry.index <= index);
    let term = entries[..upto].last().map_or(started.term, |entry| entry.term);
    let began = started.conf_state.unwrap_or_default();
    let group = group(began.clone(), &entries[..upto]);
    let is_of_this_cluster = |named: &ConfState| is_known(named, &[Some(&began), group.as_ref()]);
    let place = Place {
        index: Some(index),
        term: found.term.or(Some(term)),
        conf_state: found.conf_state.filter(is_of_this_cluster).or(group),
        v2_members: v2store::members(snapshot.data.as_deref().unwrap_or_default()),
    };
    tracing::info!(path = %db.display(), "taking over the database of a Go etcd");
    let commit = image::import(disk, &db, &member.join("kv"), &place)?;
    tracing::info!(
        "current-revision" = commit.revision,
        "applied-index" = commit.applied_index,
        "took over the database; it is kept as db.imported"
    );
    Ok(())
}

/// Marks Go's database as taken over, once ours is durable.
pub fn put_aside(disk: &dyn Disk, member: &Path) -> Result<(), StorageError> {
    let snap_dir = member.join("snap");
    let db = snap_dir.join("db");
    if !disk.exists(&db) {
        return Ok(());
    }
    let folder = |error| ImportError::Folder {
        path: db.clone(),
        error,
    };
    disk.rename(&db, &snap_dir.join("db.imported")).map_err(folder)?;
    disk.sync_dir(&snap_dir).map_err(folder)?;
    Ok(())
}

/// Whether the log knows everybody whom the database names. Not so in the folder of a backup that etcdutl 3.5 has
/// restored: it leaves the group that was saved in the database, and writes a log of a new one.
fn is_known(named: &ConfState, groups: &[Option<&ConfState>]) -> bool {
    let is_in = |id: &u64, group: &ConfState| group.voters.contains(id) || group.learners.contains(id);
    let mut ids = named.voters.iter().chain(&named.learners);
    ids.all(|id| groups.iter().flatten().any(|group| is_in(id, group)))
}

/// The raft group after these entries, for a database that does not say (up to 3.4). `None` if the entries
/// make no sense.
fn group(from: ConfState, entries: &[Entry]) -> Option<ConfState> {
    let mut changes = entries.iter().filter_map(consensus::change_of);
    changes.try_fold(from, |group, change| {
        consensus::apply_conf_change(&group, &change.ok()?).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_database_names_members_of_another_cluster() {
        let of = |voters: &[u64], learners: &[u64]| ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..ConfState::default()
        };
        let (began, now) = (of(&[1, 2], &[]), of(&[1], &[3]));
        assert!(is_known(&of(&[1, 2], &[3]), &[Some(&began), Some(&now)]));
        assert!(!is_known(&of(&[1, 9], &[]), &[Some(&began), Some(&now)]));
        assert!(!is_known(&of(&[1], &[9]), &[Some(&began), None]));
    }
}
