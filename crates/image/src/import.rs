//! A bbolt file as a store.
//!
//! Every change of bucket `key` becomes a record of the same bytes, tombstones and superfluous history
//! included: what a compaction may drop is decided when the store is read back, by the same rules as
//! ever. The small buckets become tables, but for the rows of `meta` that are the commit record here.
//!
//! Pages of a bbolt file have no checksum, so what is read is checked for what it must be: keys that are
//! revisions and ascend, values that are of that revision, buckets and versions that are known.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use env::Disk;
use mvcc::{Batch, KvFields, Table};
use proto::raftpb::ConfState;
use proto::storepb::Commit;
use store::{Load, LoadError, Loaded, OpenError, Options, Store, Tables};
use types::{Index, Revision, Term};

use crate::conf_state;
use crate::{CONF_STATE, CONSISTENT_INDEX, FINISHED_COMPACT, KEY_BUCKET, SCHEDULED_COMPACT, TERM};

/// Bytes of a batch. A larger transaction makes a larger one.
const BATCH_BYTES: usize = 1 << 20;

/// The row of bucket `meta` that says which records may be in the file, from 3.6 on.
pub(crate) const STORAGE_VERSION: &str = "storageVersion";

/// The newest storage version whose records are all known here.
const NEWEST: (u64, u64) = (3, 7);

/// Why a file was not imported. Nothing has changed, unless the store itself failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file can't be opened.
    #[error("cannot open {}: {error}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file can't be read, or is no database.
    #[error(
        "cannot import {}: {error}; if it was copied, copy it again while its etcd is stopped, else restore a \
         backup, or remove this member from its cluster and add it again with an empty data folder", file.display()
    )]
    Read {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: bolt::ReadError,
    },
    /// The file is a database, but not as etcd writes it.
    #[error(
        "cannot import {}: bucket {bucket}, key {}: {what}; the file is damaged: restore a backup, or remove this \
         member from its cluster and add it again with an empty data folder", file.display(), key.escape_ascii()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The bucket.
        bucket: String,
        /// The row.
        key: Vec<u8>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file is a database of something else.
    #[error("cannot import {}: it is a bbolt database, but has no bucket {KEY_BUCKET:?}: it is not etcd's", .0.display())]
    Foreign(PathBuf),
    /// A bucket that means nothing here.
    #[error(
        "cannot import {}: it has a bucket {bucket:?} that this version does not know; it was written by a newer \
         etcd, or by something else", file.display()
    )]
    UnknownBucket {
        /// The file.
        file: PathBuf,
        /// The bucket.
        bucket: String,
    },
    /// Written by a newer version.
    #[error(
        "cannot import {}: it has storage version {version}, and this program knows up to {}.{}; downgrade the \
         cluster it is from first, or use a newer version of this program", file.display(), NEWEST.0, NEWEST.1
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its storage version.
        version: String,
    },
    /// The file is of another moment than it is said to be.
    #[error(
        "cannot import {}: it holds the state up to entry {found} of the log, later than {given}, the one it is \
         said to be of; the file belongs to something else", file.display()
    )]
    Ahead {
        /// The file.
        file: PathBuf,
        /// The applied index in it.
        found: Index,
        /// The one that was given.
        given: Index,
    },
    /// The file does not say where in the log it is, and nobody else does.
    #[error("cannot import {}: it does not say which entries of the raft log it includes", .0.display())]
    Nowhere(PathBuf),
    /// The new folder can't be made.
    #[error("cannot make {}: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The store can't be made.
    #[error(transparent)]
    Store(#[from] LoadError),
}

impl From<OpenError> for ImportError {
    fn from(error: OpenError) -> Self {
        ImportError::Store(error.into())
    }
}

/// Takes how many bytes of how many are done.
pub type Report<'a> = &'a mut dyn FnMut(u64, u64);

/// Where in the log a file is, as far as somebody knows better than the file: that of a raft snapshot
/// stands in the message it came with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// The last entry whose effects are in the file.
    pub index: Option<Index>,
    /// That entry's term.
    pub term: Option<Term>,
    /// The membership as of it.
    pub conf_state: Option<ConfState>,
    /// The members as the `.snap` file has them. For a file that was written by 3.5 or older: its
    /// bucket of members is a mirror only, in which some were forgotten that had been removed.
    pub v2_members: Vec<machine::Member>,
}

/// What a bbolt file says about its place in the log.
pub fn place(disk: &dyn Disk, db: &Path) -> Result<Place, ImportError> {
    let source = Source::open(disk, db)?;
    let mut tables = source.tables()?;
    let meta = tables.get(&Table::Meta);
    let has_term = meta.is_some_and(|rows| rows.contains_key(TERM.as_bytes()));
    let commit = source.take_commit(&mut tables, &Place::default())?;
    Ok(Place {
        index: Some(commit.applied_index),
        term: has_term.then_some(commit.term),
        conf_state: commit.conf_state,
        v2_members: Vec::new(),
    })
}

/// Makes a store of a bbolt file: the folder `into`, which must not exist, appears as a whole and
/// durably. Whoever else might do the same is kept out by the caller.
pub fn import(disk: &Arc<dyn Disk>, db: &Path, into: &Path, place: &Place) -> Result<Commit, ImportError> {
    let folder = |path: &Path| {
        let path = path.to_owned();
        move |error| ImportError::Folder { path, error }
    };
    let new = env::with_suffix(into, ".new");
    if disk.exists(&new) {
        disk.remove_dir_all(&new).map_err(folder(&new))?;
    }
    let (store, recovered) = Store::open(disk.clone(), &new, Options::default())?;
    let loaded = load(&**disk, db, place, &store)?;
    let commit = loaded.commit().clone();
    loaded.adopt(&recovered.mvcc)?;
    store.close().map_err(LoadError::from)?;
    drop((store, recovered));
    disk.rename(&new, into).map_err(folder(into))?;
    disk.sync_dir(env::parent(into)).map_err(folder(into))?;
    Ok(commit)
}

/// Reads a bbolt file into new files of `store`, to be adopted in place of what is there.
pub fn load<'a>(
    disk: &dyn Disk,
    db: &Path,
    place: &Place,
    store: &'a Store,
) -> Result<Loaded<'a>, ImportError> {
    load_watched(disk, db, place, store, &mut |_, _| {})
}

/// The same, and tells how far it is.
pub(crate) fn load_watched<'a>(
    disk: &dyn Disk,
    db: &Path,
    place: &Place,
    store: &'a Store,
    report: Report<'_>,
) -> Result<Loaded<'a>, ImportError> {
    let source = Source::open(disk, db)?;
    let mut tables = source.tables()?;
    let mut commit = source.take_commit(&mut tables, place)?;
    source.settle_members(&mut tables, &commit, place)?;
    let mut load = store.load()?;
    source.copy_changes(&mut commit, &mut load, report)?;
    let mut batch = Batch::default();
    for (table, rows) in &tables {
        for (key, value) in rows {
            batch.table(commit.revision, *table, key, Some(value));
        }
    }
    load.push(&batch.seal(commit))?;
    Ok(load.finish()?)
}

/// What a row takes in the file, as far as that can be said of a single one: bbolt has 16 bytes in front of each.
pub(crate) fn row_bytes(key: &[u8], value: &[u8]) -> u64 {
    (16 + key.len() + value.len()) as u64
}

/// The file that is read.
pub(crate) struct Source<'a> {
    path: &'a Path,
    bytes: u64,
    reader: bolt::Reader,
}

impl<'a> Source<'a> {
    pub(crate) fn open(disk: &dyn Disk, path: &'a Path) -> Result<Self, ImportError> {
        let file = disk.open(path).map_err(|error| ImportError::Open {
            file: path.to_owned(),
            error,
        })?;
        let bytes = file.len().map_err(|error| ImportError::Open {
            file: path.to_owned(),
            error,
        })?;
        let reader = bolt::Reader::open(file).map_err(|error| ImportError::Read {
            file: path.to_owned(),
            error,
        })?;
        Ok(Source { path, bytes, reader })
    }

    /// Bytes of the database: the sum that a backup ends with is not one of its pages.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes - self.bytes % 512
    }

    /// The names of all buckets.
    pub(crate) fn buckets(&self) -> Result<Vec<String>, ImportError> {
        let names = self.reader.buckets().map_err(|error| self.unread(error))?;
        Ok(names
            .iter()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }

    fn unread(&self, error: bolt::ReadError) -> ImportError {
        ImportError::Read {
            file: self.path.to_owned(),
            error,
        }
    }

    fn damaged(&self, bucket: &str, key: &[u8], what: &'static str) -> ImportError {
        ImportError::Damaged {
            file: self.path.to_owned(),
            bucket: bucket.to_owned(),
            key: key.to_vec(),
            what,
        }
    }

    pub(crate) fn rows(
        &self,
        bucket: &str,
    ) -> Result<impl Iterator<Item = Result<(Bytes, Bytes), ImportError>>, ImportError> {
        let rows = self.reader.bucket(bucket).map_err(|error| self.unread(error))?;
        Ok(rows.map(|row| row.map_err(|error| self.unread(error))))
    }

    /// All small buckets.
    pub(crate) fn tables(&self) -> Result<Tables, ImportError> {
        let mut tables = Tables::new();
        let mut has_keys = false;
        for name in self.buckets()? {
            let table = Table::ALL.into_iter().find(|table| table.name() == name);
            match table {
                // A row is copied: it must not keep its page in memory.
                Some(table) => {
                    let copied = self.rows(&name)?.map(|row| {
                        row.map(|(key, value)| (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
                    });
                    tables.insert(table, copied.collect::<Result<_, _>>()?);
                }
                None if name == KEY_BUCKET => has_keys = true,
                None if self.rows(&name)?.next().is_none() => {}
                None => {
                    return Err(ImportError::UnknownBucket {
                        file: self.path.to_owned(),
                        bucket: name,
                    });
                }
            }
        }
        match has_keys {
            true => Ok(tables),
            false => Err(ImportError::Foreign(self.path.to_owned())),
        }
    }

    /// Takes out of the tables what is a commit record here. Its revision is not known yet.
    fn take_commit(&self, tables: &mut Tables, place: &Place) -> Result<Commit, ImportError> {
        let meta = tables.entry(Table::Meta).or_default();
        let damaged = |key: &str, what| self.damaged(Table::Meta.name(), key.as_bytes(), what);
        if let Some(version) = meta.get(STORAGE_VERSION.as_bytes()) {
            self.check_version(&String::from_utf8_lossy(version))?;
        }
        let mut number = |key: &'static str| {
            let value = meta.remove(key.as_bytes());
            let number = value.map(|value| value[..].try_into().map(u64::from_be_bytes));
            number.transpose().map_err(|_| damaged(key, "not a number"))
        };
        let (index, term) = (number(CONSISTENT_INDEX)?, number(TERM)?);
        let conf_state = match meta.remove(CONF_STATE.as_bytes()) {
            Some(json) => Some(conf_state::decode(&json).ok_or(damaged(CONF_STATE, "not a conf state"))?),
            None => None,
        };
        let revision = |value: Option<&Bytes>, key: &'static str| match value {
            Some(value) => {
                let revision = Revision::from_bolt_key(value).filter(|revision| revision.main >= 0);
                revision.map_or(Err(damaged(key, "not a revision")), |revision| Ok(revision.main))
            }
            None => Ok(-1),
        };
        let finished = revision(
            meta.remove(FINISHED_COMPACT.as_bytes()).as_ref(),
            FINISHED_COMPACT,
        )?;
        let scheduled = revision(meta.get(SCHEDULED_COMPACT.as_bytes()), SCHEDULED_COMPACT)?;
        let file = || self.path.to_owned();
        match (index, place.index) {
            (Some(found), Some(given)) if found > given => {
                return Err(ImportError::Ahead {
                    file: file(),
                    found,
                    given,
                });
            }
            _ => {}
        }
        Ok(Commit {
            applied_index: place
                .index
                .or(index)
                .ok_or_else(|| ImportError::Nowhere(file()))?,
            term: place.term.or(term).unwrap_or_default(),
            conf_state: place.conf_state.clone().or(conf_state),
            revision: Revision::FIRST,
            compact_revision: finished.max(scheduled),
        })
    }

    /// Up to 3.5 the members are those of the raft group, whatever the bucket says.
    fn settle_members(&self, tables: &mut Tables, commit: &Commit, place: &Place) -> Result<(), ImportError> {
        let has_version = tables
            .get(&Table::Meta)
            .is_some_and(|meta| meta.contains_key(STORAGE_VERSION.as_bytes()));
        let Some(group) = commit.conf_state.as_ref().filter(|_| !has_version) else {
            return Ok(());
        };
        let listed = std::mem::take(tables.entry(Table::Members).or_default());
        let rows = tables.entry(Table::Members).or_default();
        for id in group.voters.iter().chain(&group.learners) {
            let key = format!("{id:x}");
            let damaged = |what| self.damaged(Table::Members.name(), key.as_bytes(), what);
            let known = place.v2_members.iter().find(|member| member.id.0 == *id);
            let row = match (listed.get(key.as_bytes()), known) {
                (Some(row), _) => row.clone(),
                (None, Some(member)) => serde_json::to_vec(member)
                    .map_err(|_| damaged("a member that can not be written"))?
                    .into(),
                // There is no snapshot yet, so the log has them all.
                (None, None) if place.v2_members.is_empty() => continue,
                (None, None) => return Err(damaged("a member of the raft group that nobody knows")),
            };
            rows.insert(key.into(), row);
        }
        Ok(())
    }

    fn check_version(&self, version: &str) -> Result<(), ImportError> {
        let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
        match (parts.next().flatten(), parts.next().flatten()) {
            (Some(major), Some(minor)) if (major, minor) <= NEWEST => Ok(()),
            (Some(_), Some(_)) => Err(ImportError::Newer {
                file: self.path.to_owned(),
                version: version.to_owned(),
            }),
            _ => Err(self.damaged(Table::Meta.name(), STORAGE_VERSION.as_bytes(), "not a version")),
        }
    }

    /// Copies all changes, and finds the revision: that of the last one, unless all newer ones are gone
    /// with a compaction.
    fn copy_changes(
        &self,
        commit: &mut Commit,
        load: &mut Load<'_>,
        report: Report<'_>,
    ) -> Result<(), ImportError> {
        let mut read = 0;
        let mut batch = Batch::default();
        let mut last = Revision::default();
        // Nothing counts before the last commit, so these name no entry.
        let seal = |batch: &mut Batch, revision| {
            batch.seal(Commit {
                revision,
                compact_revision: -1,
                ..Commit::default()
            })
        };
        for row in self.rows(KEY_BUCKET)? {
            let (key, kv) = row?;
            read += row_bytes(&key, &kv);
            report(read, self.bytes());
            if kv.is_empty() {
                // A backup that was restored with `--bump-revision` skips revisions by a row that is no change.
                last = self.skipped(&key, last)?;
                continue;
            }
            let (rev, tombstone) = self.change(&key, &kv, last)?;
            if rev.main > last.main && batch.len() >= BATCH_BYTES {
                load.push(&seal(&mut batch, last.main))?;
            }
            batch.copy(rev, tombstone, &kv);
            last = rev;
        }
        if !batch.is_empty() {
            load.push(&seal(&mut batch, last.main))?;
        }
        commit.revision = commit.revision.max(last.main).max(commit.compact_revision);
        Ok(())
    }

    /// A row of bucket `key` that says up to which revision others are skipped.
    fn skipped(&self, key: &Bytes, last: Revision) -> Result<Revision, ImportError> {
        let revision = Revision::from_bolt_key(key).filter(|revision| *revision > last && key.len() == 17);
        revision.ok_or_else(|| self.damaged(KEY_BUCKET, key, "a revision in the wrong place"))
    }

    /// A row of bucket `key`: which change it is.
    fn change(&self, key: &Bytes, kv: &Bytes, last: Revision) -> Result<(Revision, bool), ImportError> {
        let damaged = |what| self.damaged(KEY_BUCKET, key, what);
        let rev = Revision::from_bolt_key(key).ok_or_else(|| damaged("not a revision"))?;
        let tombstone = match key.get(17) {
            None => false,
            Some(b't') => true,
            Some(_) => return Err(damaged("not a revision")),
        };
        if rev <= last || rev.main <= Revision::FIRST {
            return Err(damaged("a revision in the wrong place"));
        }
        let fields = KvFields::parse(kv).map_err(|_| damaged("not a KeyValue"))?;
        if fields.key.is_empty() || (!tombstone && fields.mod_rev != rev.main) {
            return Err(damaged("the KeyValue of another revision"));
        }
        Ok((rev, tombstone))
    }
}
