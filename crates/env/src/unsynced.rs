//! A disk that does not wait: for `--unsafe-no-fsync`.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use crate::{Disk, File};

/// Another disk, but what should make things durable does nothing. For clusters whose data may be lost:
/// tests, demonstrations.
pub struct Unsynced<D>(pub D);

struct UnsyncedFile(Arc<dyn File>);

fn unsynced(file: Arc<dyn File>) -> Arc<dyn File> {
    Arc::new(UnsyncedFile(file))
}

impl<D: Disk> Disk for Unsynced<D> {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.create(path).map(unsynced)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.open(path).map(unsynced)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir_all(dir)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl File for UnsyncedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.0.read_cached_at(buf, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_at(parts, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SimDisk, sim::Keep};

    #[test]
    fn an_unsynced_disk_writes_but_does_not_wait_for_it_to_last() {
        let sim = SimDisk::new();
        let disk = Unsynced(sim.clone());
        let file = disk.create(Path::new("/file")).unwrap();
        file.write_at(&[IoSlice::new(b"bytes")], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        assert_eq!(crate::read_file(&*file).unwrap(), b"bytes");
        assert!(!sim.after_crash(Keep::None).exists(Path::new("/file")));
    }
}
