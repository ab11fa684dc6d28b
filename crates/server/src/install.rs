//! A snapshot from the leader in place of everything this member has applied.
//!
//! The transport has put the file beside the log's snapshots, and the log has a record of it, before this
//! begins. The store takes over the content as a whole; then what the machine keeps in memory is read
//! back from it, as after a start. A crash on the way is continued by the next start
//! ([`Storage::open`](crate::storage::Storage::open)), so the file goes last.

use std::path::PathBuf;
use std::sync::Arc;

use env::Disk;
use image::{ImportError, Place, v2store};
use lease::Lessor;
use machine::Machine;
use mvcc::{Cursor, KvRef, Mvcc, RangeError, Wait};
use proto::raftpb::{Snapshot, SnapshotMetadata};
use proto::storepb::Commit;
use store::{Store, Tables};
use thiserror::Error;
use types::{KeyRange, LeaseId};

use crate::config::Config;

/// Keys read at a time when leases get their keys back.
const REATTACH_KEYS: usize = 10_000;

/// Why the store's content can't be put to use.
#[derive(Debug, Error)]
pub enum ReviveError {
    /// A small table can't be read.
    #[error("the store holds what this version can not read: {0}")]
    Tables(#[from] machine::RestoreError),
    /// A value can't be read.
    #[error("cannot read the store: {0}")]
    Values(#[from] RangeError),
}

/// Why a snapshot was not installed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// Its file was not taken over.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// It was, but not understood.
    #[error(transparent)]
    Revive(#[from] ReviveError),
}

/// What a member keeps in memory of its store, as of a commit.
pub struct Revived {
    /// Members, alarms, versions.
    pub machine: Machine,
    /// The leases with their keys, and no clock.
    pub lessor: Lessor,
    /// As of when.
    pub commit: Commit,
}

/// Reads back from tables and keys what is kept in memory of them.
pub fn revive(
    config: &Config,
    mvcc: &Arc<Mvcc>,
    tables: Tables,
    commit: Commit,
) -> Result<Revived, ReviveError> {
    let mut lessor = Lessor::new(lease::Config {
        min_ttl_secs: lease::min_ttl_secs(config.election_timeout.as_millis() as u64),
        revoke_retry_ms: config.request_timeout().as_millis() as u64,
    });
    let tables = tables.into_iter();
    let rows = tables.flat_map(|(table, rows)| rows.into_iter().map(move |(key, value)| (table, key, value)));
    let settings = machine::Config {
        learners_max: config.max_learners,
    };
    let machine = Machine::restore(settings, &mut lessor, rows)?;
    if !lessor.is_empty() {
        reattach(mvcc, &mut lessor)?;
    }
    Ok(Revived {
        machine,
        lessor,
        commit,
    })
}

/// Gives leases their keys back: every stored key names its lease.
fn reattach(mvcc: &Arc<Mvcc>, lessor: &mut Lessor) -> Result<(), RangeError> {
    let view = mvcc.view();
    let mut cursor = Cursor::default();
    while !cursor.is_done() {
        for kv in view.chunk(&KeyRange::All, false, &mut cursor, REATTACH_KEYS, Wait::Yes)? {
            let kv = KvRef::parse(&kv).map_err(|error| mvcc::ReadError::Damaged(error.to_string()))?;
            if kv.lease != 0 {
                machine::attach(lessor, kv.key(), LeaseId(kv.lease));
            }
        }
    }
    Ok(())
}

/// Keys that live at the current revision.
pub fn count_keys(mvcc: &Arc<Mvcc>) -> Result<i64, RangeError> {
    mvcc.view().count(&KeyRange::All)
}

/// Where a snapshot is in the log, and the members in it.
pub fn place(snapshot: &Snapshot) -> Place {
    let SnapshotMetadata {
        conf_state,
        index,
        term,
    } = snapshot.metadata.clone().unwrap_or_default();
    Place {
        index: Some(index),
        term: Some(term),
        conf_state,
        v2_members: v2store::members(snapshot.data.as_deref().unwrap_or_default()),
    }
}

/// Brings in snapshots from the leader.
pub struct Installer {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The folder of snapshot files.
    pub snap_dir: PathBuf,
    /// The configuration of the member.
    pub config: Arc<Config>,
}

impl Installer {
    /// Puts the snapshot in place of what is in the store, durably, and reads back what is in it.
    pub fn install(
        &self,
        snapshot: &Snapshot,
        store: &Store,
        mvcc: &Arc<Mvcc>,
    ) -> Result<Revived, InstallError> {
        let place = place(snapshot);
        let index = place.index.unwrap_or_default();
        let file = image::received(&self.snap_dir, index);
        let loaded = image::load(&*self.disk, &file, &place, store)?;
        let commit = loaded.commit().clone();
        let tables = loaded.adopt(mvcc).map_err(ImportError::from)?;
        let revived = revive(&self.config, mvcc, tables, commit)?;
        if let Err(error) = image::remove_received(&*self.disk, &self.snap_dir, index) {
            tracing::warn!(error = %error, "failed to remove an installed snapshot file");
        }
        Ok(revived)
    }
}
