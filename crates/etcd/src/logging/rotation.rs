//! A log file that is exchanged for a new one when it is long (`--enable-log-rotation`), as etcd's library (lumberjack)
//! does: `etcd.log` becomes `etcd-2026-11-22T09-36-14.893.log`, in time `etcd-2026-11-22T09-36-14.893.log.gz`, and is
//! removed when there are too many or it is too old.
//!
//! Compressing and removing is done by a thread of its own, so that nobody waits for it who logs. The thread is
//! started by whoever exchanges the file: one that was there before the process gave its files up would reach them all.
//!
//! A file that can't be exchanged is written to further. No line is lost by that; the next try is a file's length later.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::error::Category;

/// How the time is part of a name.
const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";
/// What a compressed file's name ends with.
const COMPRESSED: &str = ".gz";
/// The length of a file if none is said, in MiB.
const MAX_SIZE_DEFAULT: u64 = 100;
/// Names that are tried for a file, a millisecond apart.
const NAMES_MAX: i64 = 1000;

/// How files are exchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// The longest a file gets, in MiB; 0 means 100.
    maxsize: u64,
    /// Days that old files are kept; 0 means for ever.
    maxage: u32,
    /// Old files that are kept; 0 means all.
    maxbackups: usize,
    /// Whether names have the time of this place instead of UTC.
    localtime: bool,
    /// Whether old files are compressed.
    compress: bool,
}

impl Rotation {
    /// Reads `--log-rotation-config-json`; the error begins in etcd's words.
    pub fn parse(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| match error.classify() {
            Category::Data => format!("invalid log rotation config: {error}"),
            _ => format!("improperly formatted log rotation config: {error}"),
        })
    }

    fn max_bytes(&self) -> u64 {
        let size = match self.maxsize {
            0 => MAX_SIZE_DEFAULT,
            size => size,
        };
        size.saturating_mul(1 << 20)
    }
}

/// A file that is exchanged when it is long.
pub struct Rotated {
    path: PathBuf,
    rotation: Rotation,
    max_bytes: u64,
    zone: TimeZone,
    file: File,
    length: u64,
    /// Held by who tidies up.
    tidying: Arc<Mutex<()>>,
}

impl Rotated {
    /// Opens the file at `path`, or makes it and its folder.
    pub fn open(path: PathBuf, rotation: Rotation) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder(&path))?;
        let file = open(&path, 0o600)?;
        let zone = match rotation.localtime {
            // Looked up once: later its file may be out of reach.
            true => TimeZone::system(),
            false => TimeZone::UTC,
        };
        Ok(Rotated {
            length: file.metadata()?.len(),
            max_bytes: rotation.max_bytes(),
            path,
            rotation,
            zone,
            file,
            tidying: Arc::default(),
        })
    }

    /// Writes a line, to a new file if the old one would get too long by it.
    pub fn put(&mut self, line: &[u8]) {
        if self.length > 0 && self.length + line.len() as u64 > self.max_bytes {
            // Whether or not there is a new file: who can't have one waits for so long before the next try.
            self.length = 0;
            if self.exchange(Timestamp::now()).is_ok() {
                self.tidy();
            }
        }
        self.length += line.len() as u64;
        // There is nowhere to complain to.
        let _ = self.file.write_all(line);
    }

    fn exchange(&mut self, now: Timestamp) -> io::Result<()> {
        let mode = self.file.metadata()?.permissions().mode();
        fs::rename(&self.path, self.free_name(now)?)?;
        self.file = open(&self.path, mode)?;
        Ok(())
    }

    fn free_name(&self, now: Timestamp) -> io::Result<PathBuf> {
        let name = |later| {
            let time = now + SignedDuration::from_millis(later);
            let time = time.to_zoned(self.zone.clone()).strftime(TIME).to_string();
            let (before, after) = around(&self.path);
            folder(&self.path).join(format!("{before}{time}{after}"))
        };
        let mut names = (0..NAMES_MAX).map(name);
        names
            .find(|name| !name.exists())
            .ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    /// Has old files compressed and removed, unless somebody is at it.
    fn tidy(&self) {
        let (path, rotation, turn) = (self.path.clone(), self.rotation.clone(), self.tidying.clone());
        let work = move || {
            if let Ok(_turn) = turn.try_lock() {
                // What can't be done now can be the next time.
                let _ = tidy(&path, &rotation, SystemTime::now());
            }
        };
        let _ = std::thread::Builder::new().name("log-files".into()).spawn(work);
    }
}

fn open(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(mode).open(path)
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// What is around the time in the names of old files.
fn around(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let after = match path.extension() {
        Some(extension) => format!(".{}", text(Some(extension))),
        None => String::new(),
    };
    (format!("{}-", text(path.file_stem())), after)
}

/// A file that was exchanged.
struct Old {
    time: DateTime,
    name: String,
    is_compressed: bool,
}

/// Those beside `path`, the newest first.
fn old_files(path: &Path) -> io::Result<Vec<Old>> {
    let (before, after) = around(path);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder(path))? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let plain = name.strip_suffix(COMPRESSED).unwrap_or(&name);
        let time = plain
            .strip_prefix(&before)
            .and_then(|rest| rest.strip_suffix(&after));
        if let Some(time) = time.and_then(|time| DateTime::strptime("%Y-%m-%dT%H-%M-%S%.f", time).ok()) {
            let is_compressed = plain.len() < name.len();
            files.push(Old {
                time,
                name,
                is_compressed,
            });
        }
    }
    files.sort_by(|a, b| b.time.cmp(&a.time).then(b.name.cmp(&a.name)));
    Ok(files)
}

/// Removes old files that are too many or too old, and compresses the others if that is wanted.
fn tidy(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let now = Timestamp::try_from(now).map_err(io::Error::other)?;
    let oldest = now - SignedDuration::from_hours(24 * i64::from(rotation.maxage));
    let oldest = TimeZone::UTC.to_datetime(oldest);
    let mut kept: Vec<DateTime> = Vec::new();
    for file in old_files(path)? {
        let at = folder(path).join(&file.name);
        // A file that is being compressed is there twice.
        let is_new = kept.last() != Some(&file.time);
        let are_too_many = rotation.maxbackups > 0 && kept.len() == rotation.maxbackups && is_new;
        let is_too_old = rotation.maxage > 0 && file.time < oldest;
        if are_too_many || is_too_old {
            fs::remove_file(&at)?;
            continue;
        }
        if is_new {
            kept.push(file.time);
        }
        if rotation.compress && !file.is_compressed {
            compress(&at)?;
        }
    }
    Ok(())
}

/// Puts a compressed file in the place of one. A half written one from before is overwritten.
fn compress(path: &Path) -> io::Result<()> {
    let mut source = File::open(path)?;
    let mode = source.metadata()?.permissions().mode();
    let mut name = path.as_os_str().to_owned();
    name.push(COMPRESSED);
    let target = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(mode)
        .open(&name)?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn rotated(path: &Path, max_bytes: u64) -> Rotated {
        let mut file = Rotated::open(path.to_owned(), Rotation::default()).unwrap();
        file.max_bytes = max_bytes;
        file
    }

    #[test]
    fn a_file_that_would_get_too_long_is_put_aside_under_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/etcd.log");
        let mut file = rotated(&path, 20);
        for line in ["0123456789\n", "abcdefgh\n", "ijk\n", &"x".repeat(50), "end\n"] {
            file.put(line.as_bytes());
        }
        let names = names(&dir.path().join("sub"));
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(names[3], "etcd.log");
        let contents = names
            .iter()
            .map(|name| fs::read_to_string(dir.path().join("sub").join(name)).unwrap());
        let contents: Vec<_> = contents.collect();
        assert_eq!(contents[0], "0123456789\nabcdefgh\n");
        assert_eq!(
            (contents[1].as_str(), contents[2].len(), contents[3].as_str()),
            ("ijk\n", 50, "end\n")
        );
        assert_eq!(names[0].len(), "etcd-2026-11-22T09-36-14.893.log".len());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(file);
        let mut again = rotated(&path, 20);
        again.put("begin\n".as_bytes());
        assert_eq!(fs::read_to_string(&path).unwrap(), "end\nbegin\n");
    }

    #[test]
    fn a_name_has_the_time_and_is_no_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = rotated(&dir.path().join("etcd.log"), 10);
        let now: Timestamp = "2026-11-22T09:36:14.893646Z".parse().unwrap();
        let name = |file: &Rotated| file.free_name(now).unwrap().file_name().unwrap().to_owned();
        assert_eq!(name(&file), "etcd-2026-11-22T09-36-14.893.log");
        file.exchange(now).unwrap();
        assert_eq!(name(&file), "etcd-2026-11-22T09-36-14.894.log");
        file.zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(name(&file), "etcd-2026-11-22T11-36-14.893.log");
    }

    #[test]
    fn a_file_that_cant_be_exchanged_is_written_to_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        let mut file = rotated(&path, 4);
        file.put(b"a\n");
        fs::rename(&path, dir.path().join("away")).unwrap();
        file.put(b"bcd\n");
        assert_eq!(fs::read_to_string(dir.path().join("away")).unwrap(), "a\nbcd\n");
    }

    #[test]
    fn old_files_are_compressed_and_removed_by_number_and_age() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        let day = |day: u32| format!("etcd-2026-11-{day:02}T00-00-00.000.log");
        let others = ["etcd-x.log", "etcd.log", "other-2026-11-01T00-00-00.000.log"];
        for name in (1..=9).map(day).chain(others.map(str::to_owned)) {
            fs::write(dir.path().join(name), "text").unwrap();
        }
        // A compression that was broken off.
        fs::write(dir.path().join(day(8) + COMPRESSED), "half").unwrap();
        let now: Timestamp = "2026-11-10T00:00:00Z".parse().unwrap();
        let tidied = |rotation: &str, names_left: &[u32]| {
            tidy(&path, &Rotation::parse(rotation).unwrap(), now.into()).unwrap();
            let mut expected: Vec<_> = names_left.iter().map(|number| day(*number)).collect();
            if rotation.contains("compress") {
                expected.iter_mut().for_each(|name| name.push_str(COMPRESSED));
            }
            let left = names(dir.path());
            let left: Vec<_> = left
                .into_iter()
                .filter(|name| !others.contains(&name.as_str()))
                .collect();
            assert_eq!(left, expected, "{rotation}");
        };
        let all: Vec<_> = (1..=9).collect();
        tidied("{\"compress\": true}", &all);
        let mut text = String::new();
        let compressed = File::open(dir.path().join(day(8) + COMPRESSED)).unwrap();
        GzDecoder::new(compressed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        tidied("{\"compress\": true, \"maxage\": 5}", &all[4..]);
        tidied("{\"compress\": true, \"maxbackups\": 3}", &all[6..]);
        assert_eq!(names(dir.path()).len(), 3 + others.len());
    }

    #[test]
    fn settings_are_json() {
        let default = crate::flags::Flags::default().log_rotation_config_json;
        assert_eq!(Rotation::parse(&default).unwrap().max_bytes(), 100 << 20);
        let given = "{\"maxsize\": 3, \"maxage\": 1, \"maxbackups\": 2, \"localtime\": true, \"compress\": true, \"x\": 1}";
        let rotation = Rotation::parse(given).unwrap();
        assert_eq!(
            (rotation.max_bytes(), rotation.maxage, rotation.maxbackups),
            (3 << 20, 1, 2)
        );
        assert!(rotation.localtime && rotation.compress);
        let refusal = |json| Rotation::parse(json).unwrap_err();
        assert!(refusal("{").starts_with("improperly formatted log rotation config: "));
        assert!(refusal("{\"maxsize\": \"a\"}").starts_with("invalid log rotation config: "));
    }
}
