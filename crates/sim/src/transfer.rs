//! The whole state on its way to a follower that is too far behind, and its arrival.
//!
//! It is the file of bbolt that ships ([`image`]), made of the sender's store, put down beside the
//! receiver's snapshots and loaded into its store. Only the connection is another: the pieces are kept in
//! memory until they arrive, whole or not at all.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use env::Disk;
use image::{Export, Place, v2store};
use mvcc::Mvcc;
use proto::raftpb::{Snapshot, SnapshotMetadata};
use proto::storepb::Commit;
use store::{Store, Tables};

use crate::process::{Died, MEMBER, died};

/// The whole state as of one entry.
pub struct Image {
    /// Which entry, and its members.
    pub snapshot: Snapshot,
    pieces: Vec<Bytes>,
}

/// The folder of snapshot files.
pub fn snap_dir() -> PathBuf {
    Path::new(MEMBER).join("snap")
}

/// Where in the log a snapshot is.
pub fn metadata(snapshot: &Snapshot) -> SnapshotMetadata {
    snapshot.metadata.clone().unwrap_or_default()
}

/// Reads a store's state. `finished`: the compact revision that is carried out.
pub fn take(store: &Store, finished: i64) -> Result<Image, Died> {
    let snapshot = store.snapshot().map_err(died("freezing the store"))?;
    let commit = snapshot.commit();
    let metadata = SnapshotMetadata {
        conf_state: commit.conf_state.clone(),
        index: commit.applied_index,
        term: commit.term,
    };
    let members = v2store::of_tables(snapshot.tables()).map_err(died("listing the members"))?;
    let mut pieces = Vec::new();
    let written = Export::new(snapshot, finished).write(|piece| {
        pieces.push(piece);
        true
    });
    written.map_err(died("reading a state"))?;
    let snapshot = Snapshot {
        data: Some(members.into()),
        metadata: Some(metadata),
    };
    Ok(Image { snapshot, pieces })
}

/// Puts a state down beside the snapshots, durably.
pub fn receive(disk: &dyn Disk, image: &Image) -> Result<(), Died> {
    let file = image::received(&snap_dir(), metadata(&image.snapshot).index);
    let pieces: Vec<IoSlice<'_>> = image.pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    env::replace_file(disk, &file, &pieces).map_err(died("receiving a state"))
}

/// Loads the state of a snapshot that has arrived into the store.
pub fn load(
    disk: &dyn Disk,
    snapshot: &Snapshot,
    store: &Store,
    mvcc: &Mvcc,
) -> Result<(Commit, Tables), Died> {
    let SnapshotMetadata {
        conf_state,
        index,
        term,
    } = metadata(snapshot);
    let place = Place {
        index: Some(index),
        term: Some(term),
        conf_state,
        v2_members: v2store::members(snapshot.data.as_deref().unwrap_or_default()),
    };
    let file = image::received(&snap_dir(), index);
    let loaded = image::load(disk, &file, &place, store).map_err(died("loading a state"))?;
    let commit = loaded.commit().clone();
    let tables = loaded.adopt(mvcc).map_err(died("adopting a state"))?;
    Ok((commit, tables))
}

/// Removes the states up to entry `upto`: they are installed, or were overtaken.
pub fn clear(disk: &dyn Disk, upto: u64) -> Result<(), Died> {
    image::remove_received(disk, &snap_dir(), upto).map_err(died("removing installed states"))
}
