//! The machine's file system.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, FlockOperation},
    io::{Errno, ReadWriteFlags, retry_on_intr},
};

use crate::{Disk, File};

/// Only the owner reads what clients stored.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Parts handed to one `pwritev`: the kernel's limit (IOV_MAX).
const PARTS_MAX: usize = 1024;

/// Zeros written at a time where the file system can not reserve space.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        let options = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(
            fs::OpenOptions::new().read(true).write(true).open(path)?,
        )))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::OpenOptions::new().read(true).open(dir)?.sync_all()
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let mut bufs = [IoSliceMut::new(buf)];
        match retry_on_intr(|| rustix::io::preadv2(&self.0, &mut bufs, offset, ReadWriteFlags::NOWAIT)) {
            Ok(n) => Ok(Some(n)),
            // Not in memory, or a file system or kernel without the flag.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let write = |some: &[IoSlice<'_>], at| rustix::io::pwritev(&self.0, some, at);
        Ok(write_all(parts, offset, write)?)
    }

    fn write_synced_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let write = |some: &[IoSlice<'_>], at| rustix::io::pwritev2(&self.0, some, at, ReadWriteFlags::DSYNC);
        match write_all(parts, offset, write) {
            // A file system or kernel without the flag.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.write_at(parts, offset)?;
                self.sync_data()
            }
            done => Ok(done?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.0))?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match retry_on_intr(|| rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => zero_fill(self, len),
            Err(e) => Err(e.into()),
        }
    }

    /// Go locks its databases with `flock` and its logs with record locks, so this takes both kinds:
    /// `flock` also keeps out a second handle of this process, the record lock a Go member.
    fn try_lock(&self) -> io::Result<bool> {
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let lock = retry_on_intr(|| rustix::fs::flock(&self.0, exclusive))
            .and_then(|()| retry_on_intr(|| rustix::fs::fcntl_lock(&self.0, exclusive)));
        match lock {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK | Errno::ACCESS) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// Reserves space the slow way: by writing zeros behind the end.
fn zero_fill(file: &dyn File, len: u64) -> io::Result<()> {
    let mut end = file.len()?;
    while end < len {
        let some = &ZEROS[..ZEROS.len().min((len - end) as usize)];
        file.write_at(&[IoSlice::new(some)], end)?;
        end += some.len() as u64;
    }
    Ok(())
}

/// Calls `write` until all parts are written.
fn write_all(
    parts: &[IoSlice<'_>],
    mut offset: u64,
    write: impl Fn(&[IoSlice<'_>], u64) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    let mut parts: Vec<IoSlice<'_>> = parts.iter().filter(|part| !part.is_empty()).copied().collect();
    let mut parts = parts.as_mut_slice();
    while !parts.is_empty() {
        let some = &parts[..parts.len().min(PARTS_MAX)];
        let written = retry_on_intr(|| write(some, offset))?;
        if written == 0 {
            return Err(Errno::NOSPC);
        }
        IoSlice::advance_slices(&mut parts, written);
        offset += written as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{read_file, replace_file};

    #[test]
    fn a_file_keeps_what_is_written_at_each_offset() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.create(&dir.path().join("f")).unwrap();
        // More parts than one call takes, an empty one among them.
        let parts = vec![IoSlice::new(b"ab"); PARTS_MAX + 1];
        file.write_at(&parts, 3).unwrap();
        file.write_at(&[IoSlice::new(b""), IoSlice::new(b"xyz")], 0)
            .unwrap();
        let mut expect = b"xyz".to_vec();
        expect.extend(b"ab".repeat(PARTS_MAX + 1));
        assert_eq!(read_file(&*file).unwrap(), expect);
        file.write_synced_at(&[IoSlice::new(b"--"), IoSlice::new(b"-")], 1)
            .unwrap();
        expect[1..4].copy_from_slice(b"---");
        assert_eq!(read_file(&*file).unwrap(), expect);
        let mut past_the_end = [0; 4];
        assert_eq!(
            file.read_at(&mut past_the_end, expect.len() as u64 - 1).unwrap(),
            1
        );
        assert!(
            file.read_exact_at(&mut past_the_end, expect.len() as u64 - 1)
                .is_err()
        );
    }

    #[test]
    fn a_read_of_what_was_just_written_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.create(&dir.path().join("f")).unwrap();
        file.write_at(&[IoSlice::new(b"warm")], 0).unwrap();
        let mut buf = [0; 4];
        // `None` is what a file system that can not tell answers.
        if let Some(n) = file.read_cached_at(&mut buf, 0).unwrap() {
            assert_eq!(&buf[..n], b"warm");
        }
    }

    #[test]
    fn allocated_space_is_zero_and_does_not_shrink_the_file() {
        let dir = tempfile::tempdir().unwrap();
        for fill in [
            RealFile::allocate as fn(&RealFile, u64) -> io::Result<()>,
            |f, len| zero_fill(f, len),
        ] {
            let path = dir.path().join("f");
            drop(RealDisk.create(&path).unwrap());
            let file = RealFile(fs::OpenOptions::new().read(true).write(true).open(path).unwrap());
            file.write_at(&[IoSlice::new(b"x")], 0).unwrap();
            fill(&file, 100_000).unwrap();
            fill(&file, 10).unwrap();
            let bytes = read_file(&file).unwrap();
            assert_eq!(bytes.len(), 100_000);
            assert!(bytes[0] == b'x' && bytes[1..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn a_lock_lasts_as_long_as_its_handle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let first = RealDisk.create(&path).unwrap();
        let second = RealDisk.open(&path).unwrap();
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }

    #[test]
    fn folders_and_files_are_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("a/b");
        RealDisk.create_dir_all(&dir).unwrap();
        replace_file(&RealDisk, &dir.join("f"), &[IoSlice::new(b"1")]).unwrap();
        assert_eq!(RealDisk.list(&dir).unwrap(), ["f"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("f"))), (DIR_MODE, FILE_MODE));
    }
}
