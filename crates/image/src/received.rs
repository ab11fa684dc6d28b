//! Where a snapshot from the leader waits until it is installed: `member/snap/<index>.snap.db`, as in etcd.
//!
//! The transport puts the file there, durably, before raft gets to see the message. Once the log has a
//! record of the snapshot, the member needs the file to start, until its store is at the snapshot's index.

use std::io;
use std::path::{Path, PathBuf};

use env::Disk;
use types::Index;

const SUFFIX: &str = ".snap.db";

/// The file of the snapshot at `index`, in the folder of snapshot files.
pub fn received(snap_dir: &Path, index: Index) -> PathBuf {
    snap_dir.join(format!("{index:016x}{SUFFIX}"))
}

/// Removes the files of snapshots up to `upto`: they are installed, or were overtaken.
pub fn remove_received(disk: &dyn Disk, snap_dir: &Path, upto: Index) -> io::Result<()> {
    for name in disk.list(snap_dir)? {
        let index = name
            .strip_suffix(SUFFIX)
            .and_then(|index| Index::from_str_radix(index, 16).ok());
        if index.is_some_and(|index| index <= upto) {
            disk.remove(&snap_dir.join(name))?;
        }
    }
    Ok(())
}
