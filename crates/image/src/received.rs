//! Where a snapshot from the leader waits until it is installed: `member/snap/<index>.snap.db`, as in etcd.
//!
//! The transport puts the file there, durably, before raft gets to see the message. Once the log has a
//! record of the snapshot, the member needs the file to start, until its store is at the snapshot's index. While it
//! arrives, it has a temporary name; what a crash leaves under one is of no use.

use std::io;
use std::path::{Path, PathBuf};

use env::Disk;
use types::Index;

const SUFFIX: &str = ".snap.db";
/// What the name of a file ends with that has not arrived whole: `<index>.snap.db.<n>.tmp`.
const ARRIVING: &str = ".tmp";

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

/// Removes what was arriving when the process ended. Only before another transfer can begin.
pub fn remove_arriving(disk: &dyn Disk, snap_dir: &Path) -> io::Result<()> {
    for name in disk.list(snap_dir)? {
        let is_arriving = name.contains(SUFFIX) && name.ends_with(ARRIVING);
        if is_arriving {
            disk.remove(&snap_dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use env::SimDisk;

    use super::*;

    #[test]
    fn what_arrived_goes_once_it_is_installed_and_what_did_not_arrive_at_the_next_start() {
        let (disk, dir) = (SimDisk::new(), Path::new("/snap"));
        disk.create_dir_all(dir).unwrap();
        let kept = [
            "0000000000000009.snap",
            "0000000000000009-0000000000000001.snap",
            "db",
        ];
        for name in [
            "0000000000000009.snap.db",
            "000000000000000a.snap.db",
            "000000000000000a.snap.db.3.tmp",
        ]
        .iter()
        .chain(&kept)
        {
            disk.create(&dir.join(name)).unwrap();
        }
        remove_received(&disk, dir, 9).unwrap();
        assert!(!disk.exists(&received(dir, 9)) && disk.exists(&received(dir, 10)));
        remove_arriving(&disk, dir).unwrap();
        remove_received(&disk, dir, Index::MAX).unwrap();
        let mut left = disk.list(dir).unwrap();
        left.sort();
        let mut kept = kept.to_vec();
        kept.sort();
        assert_eq!(left, kept);
    }
}
