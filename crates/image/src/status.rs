//! What is in a bbolt file, without a member around it: its sum, its newest revision, how many keys live.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use env::Disk;
use mvcc::{HashKv, KvFields, RangeError, Table};
use thiserror::Error;
use types::Revision;

use crate::KEY_BUCKET;
use crate::import::{ImportError, Place, Report, STORAGE_VERSION, Source, load_watched, row_bytes};

/// A file in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C over all buckets: names, keys and values.
    pub hash: u32,
    /// Of the last change in it.
    pub revision: i64,
    /// Keys that live at that revision.
    pub keys: u64,
    /// Bytes of the database, without the sum behind it.
    pub bytes: u64,
    /// The release that wrote it, from 3.6 on.
    pub version: String,
}

/// The release that wrote a file, from 3.6 on.
pub fn storage_version(disk: &dyn Disk, path: &Path) -> Result<Option<String>, ImportError> {
    let tables = Source::open(disk, path)?.tables()?;
    let meta = tables.get(&Table::Meta);
    let version = meta.and_then(|rows| rows.get(STORAGE_VERSION.as_bytes()));
    Ok(version.map(|version| String::from_utf8_lossy(version).into_owned()))
}

/// Reads a whole file, and so checks that all its pages are sound. Tells meanwhile how far it is.
pub fn status(disk: &dyn Disk, path: &Path, report: Report<'_>) -> Result<Status, ImportError> {
    let source = Source::open(disk, path)?;
    let mut status = Status {
        hash: 0,
        revision: 0,
        keys: 0,
        bytes: source.bytes(),
        version: String::new(),
    };
    let mut living: HashSet<Bytes> = HashSet::new();
    let mut read = 0;
    for name in source.buckets()? {
        status.hash = crc32c::crc32c_append(status.hash, name.as_bytes());
        for row in source.rows(&name)? {
            let (key, value) = row?;
            read += row_bytes(&key, &value);
            report(read, status.bytes);
            status.hash = crc32c::crc32c_append(crc32c::crc32c_append(status.hash, &key), &value);
            if name == Table::Meta.name() && key == STORAGE_VERSION.as_bytes() {
                status.version = String::from_utf8_lossy(&value).into_owned();
            }
            if name != KEY_BUCKET {
                continue;
            }
            status.revision = Revision::from_bolt_key(&key).map_or(status.revision, |revision| revision.main);
            // What skips revisions is no key.
            let Ok(fields) = KvFields::parse(&value) else {
                continue;
            };
            match key.len() {
                _ if fields.key.is_empty() => {}
                17 => drop(living.insert(Bytes::copy_from_slice(fields.key))),
                _ => drop(living.remove(fields.key)),
            }
        }
    }
    status.keys = living.len() as u64;
    Ok(status)
}

/// Why there is no hash.
#[derive(Debug, Error)]
pub enum HashError {
    /// The file can't be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// It has no such revision.
    #[error("{0}")]
    Range(RangeError),
}

/// The hash that a member with this file would answer to `Maintenance.HashKV`. The folder `scratch`, which is
/// nobody else's, is there meanwhile.
pub fn hash_kv(
    disk: &Arc<dyn Disk>,
    path: &Path,
    scratch: &Path,
    revision: i64,
    report: Report<'_>,
) -> Result<HashKv, HashError> {
    let gone = || match disk.exists(scratch) {
        true => disk.remove_dir_all(scratch).map_err(|error| ImportError::Folder {
            path: scratch.to_owned(),
            error,
        }),
        false => Ok(()),
    };
    // Somebody may have been interrupted.
    gone()?;
    let hash = |report: Report<'_>| {
        let (store, recovered) = store::Store::open(disk.clone(), scratch, store::Options::default())
            .map_err(|error| HashError::Import(error.into()))?;
        let loaded = load_watched(&**disk, path, &Place::default(), &store, report)?;
        loaded.adopt(&recovered.mvcc).map_err(ImportError::from)?;
        recovered.mvcc.hash_kv(revision).map_err(HashError::Range)
    };
    let hashed = hash(report);
    gone()?;
    hashed
}
