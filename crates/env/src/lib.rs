//! Disks, real and simulated: the seam under everything that touches a file.
//!
//! Code that keeps a member's data opens no file by itself. It takes a [`Disk`], so that the
//! same code runs on the machine's file system ([`RealDisk`]) and on one that loses power on command
//! ([`SimDisk`]). The interface is as small as a log-structured store needs: positional reads and
//! writes, an explicit fsync for a file's bytes and another for a folder's names. There are no
//! streams, no seek position and no mapping.
//!
//! What may be relied on, and what the simulated disk takes away from whoever relies on more:
//! * bytes are durable after [`File::sync_data`], or if they were written by [`File::write_synced_at`], and only
//!   then; the latter says nothing about what was written before;
//! * a name (create, rename, remove) is durable after [`Disk::sync_dir`] of its folder, and only then;
//!   syncing a file does not make its name durable;
//! * until then any part of what was written may survive, in units of a whole [`SECTOR`];
//! * after a failed sync nothing is known about the bytes it should have covered, and a second sync
//!   that succeeds does not bring them back. Whoever sees one fail must stop.

mod real;
pub mod sim;
mod unsynced;

pub use real::RealDisk;
pub use sim::SimDisk;
pub use unsynced::Unsynced;

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The unit a disk writes whole or not at all, in bytes.
pub const SECTOR: usize = 512;

/// A file system. Folders are made with mode 0700, files with 0600.
pub trait Disk: Send + Sync {
    /// Makes an empty file, or empties an existing one, and opens it for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// The names in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a folder and those above it that are missing. It is no error if it exists.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Whether there is a file or folder of that name.
    fn exists(&self, path: &Path) -> bool;
    /// Gives a file or folder another name at once, replacing a file or an empty folder that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Whoever has it open goes on using it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with everything in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable, as they are now.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. Dropping the last handle closes it and releases its lock.
pub trait File: Send + Sync {
    /// Reads at most `buf.len()` bytes; less only where the file ends.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads what is in memory already, without waiting for the disk. `None`: nothing is, or the
    /// file system can not tell. A short count need not mean the end of the file.
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>>;
    /// Writes all parts one after the other, growing the file as needed.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes the bytes and the length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Writes all parts one after the other, and makes them durable. What was written before in other places, and not
    /// synced, need not become so.
    fn write_synced_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(parts, offset)?;
        self.sync_data()
    }
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or grows it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space up to `len` and grows a shorter file to it with zeros; never shrinks.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Locks the file for this handle. `false`: another handle, here or in another process, has it.
    /// Do not open a file that this process has locked: closing the second handle may give up the lock
    /// towards other processes.
    fn try_lock(&self) -> io::Result<bool>;

    /// Fills `buf`, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read_at(buf, offset)? {
            n if n == buf.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The whole content of a file; an error where memory for it is not to be had.
pub fn read_file(file: &dyn File) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len)?;
    bytes.resize(len, 0);
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Gives `path` new content as a whole and durably: after a crash the file holds either what it held
/// before or all of `parts`. Works through `<path>.tmp`, a leftover of which is overwritten.
pub fn replace_file(disk: &dyn Disk, path: &Path, parts: &[IoSlice<'_>]) -> io::Result<()> {
    let tmp = with_suffix(path, ".tmp");
    let file = disk.create(&tmp)?;
    file.write_at(parts, 0)?;
    file.sync_data()?;
    disk.rename(&tmp, path)?;
    disk.sync_dir(parent(path))
}

/// `path` with `suffix` appended to its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The folder `path` is in; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) => Path::new("."),
        None => path,
    }
}
