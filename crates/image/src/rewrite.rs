//! A bbolt file made anew from another one: with other members, at another place in the log, or only without the pages that
//! nobody uses.
//!
//! The small buckets are changed in memory; the keys go through from front to back, twice: once for their sizes, once
//! for themselves.

use std::cell::Cell;
use std::io::IoSlice;
use std::path::Path;

use bytes::Bytes;
use env::Disk;
use mvcc::Table;
use proto::raftpb::ConfState;
use store::Tables;
use types::{Index, Revision, Term};

use crate::import::{ImportError, STORAGE_VERSION, Source};
use crate::{CONF_STATE, CONSISTENT_INDEX, KEY_BUCKET, SCHEDULED_COMPACT, TERM, conf_state};

/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 20;

/// Who has the file from now on: the founders of another cluster.
#[derive(Clone, Debug)]
pub struct Founders<'a> {
    /// All of them; they vote.
    pub members: &'a [machine::Member],
    /// The last entry of a log that only brings them in.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// So many revisions are skipped, and all before are compacted: whoever has seen revisions of a later time than
    /// the file's learns that they are gone.
    pub bump: Option<i64>,
}

/// What to change.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// Nothing.
    Nothing,
    /// Who has it.
    Founders(Founders<'a>),
    /// The release it is for, such as 3.6.0; none, if it is for one that writes no version.
    StorageVersion(Option<String>),
}

/// Makes `to` of `from`, durably and as a whole, and tells how many bytes are written as it goes.
pub fn rewrite(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    change: &Change<'_>,
    mut at: impl FnMut(u64, u64),
) -> Result<(), ImportError> {
    let source = Source::open(disk, from)?;
    let mut tables = source.tables()?;
    let last = last_revision(&source)?;
    let bump = apply(change, &mut tables, last)?;
    let plan = plan(&source, &tables, bump)?;
    let tmp = env::with_suffix(to, ".tmp");
    let failed = |error| ImportError::Folder {
        path: tmp.clone(),
        error,
    };
    let file = disk.create(&tmp).map_err(failed)?;
    let mut writer = bolt::Writer::new(plan);
    let (len, mut offset, mut pending) = (writer.file_len(), 0, Vec::new());
    let mut flush = |pending: &mut Vec<u8>, least: usize| -> Result<(), ImportError> {
        if pending.len() >= least {
            file.write_at(&[IoSlice::new(pending)], offset).map_err(failed)?;
            offset += pending.len() as u64;
            at(offset, len);
            pending.clear();
        }
        Ok(())
    };
    writer.begin(&mut pending);
    for name in names() {
        writer.bucket(name, &mut pending);
        if name == KEY_BUCKET {
            for row in source.rows(KEY_BUCKET)? {
                let (key, value) = row?;
                writer.put(&key, &value, &mut pending);
                flush(&mut pending, WRITE_BYTES)?;
            }
            if let Some(revision) = bump {
                writer.put(&revision.to_bolt_key(), b"", &mut pending);
            }
        }
        for (key, value) in rows_of(&tables, name) {
            writer.put(key, value, &mut pending);
            flush(&mut pending, WRITE_BYTES)?;
        }
    }
    writer.finish(&mut pending);
    flush(&mut pending, 0)?;
    file.sync_data().map_err(failed)?;
    disk.rename(&tmp, to).map_err(failed)?;
    disk.sync_dir(env::parent(to)).map_err(failed)?;
    Ok(())
}

/// All buckets in the order of the file.
fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = Table::ALL.iter().map(|table| table.name()).collect();
    names.push(KEY_BUCKET);
    names.sort_unstable();
    names
}

fn rows_of<'a>(tables: &'a Tables, name: &str) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
    let table = Table::ALL.iter().find(|table| table.name() == name);
    table.and_then(|table| tables.get(table)).into_iter().flatten()
}

fn last_revision(source: &Source<'_>) -> Result<i64, ImportError> {
    let mut last = Revision::FIRST;
    for row in source.rows(KEY_BUCKET)? {
        let (key, _) = row?;
        last = Revision::from_bolt_key(&key).map_or(last, |revision| revision.main);
    }
    Ok(last)
}

fn plan(source: &Source<'_>, tables: &Tables, bump: Option<Revision>) -> Result<bolt::Plan, ImportError> {
    let mut plan = bolt::Plan::new();
    for name in names() {
        if name != KEY_BUCKET {
            plan.bucket(
                name,
                rows_of(tables, name).map(|(key, value)| (key.len(), value.len())),
            );
            continue;
        }
        let failed = Cell::new(None);
        let sizes = source.rows(KEY_BUCKET)?.map_while(|row| match row {
            Ok((key, value)) => Some((key.len(), value.len())),
            Err(error) => {
                failed.set(Some(error));
                None
            }
        });
        let bump = bump.map(|revision| (revision.to_bolt_key().len(), 0));
        plan.bucket(name, sizes.chain(bump));
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
    }
    Ok(plan)
}

/// Changes the small buckets. The answer is the revision up to which others are skipped.
fn apply(change: &Change<'_>, tables: &mut Tables, last: i64) -> Result<Option<Revision>, ImportError> {
    let meta = tables.entry(Table::Meta).or_default();
    let row = |text: &'static str| Bytes::from_static(text.as_bytes());
    match change {
        Change::Nothing => Ok(None),
        Change::StorageVersion(version) => {
            meta.remove(STORAGE_VERSION.as_bytes());
            meta.extend(
                version
                    .clone()
                    .map(|version| (row(STORAGE_VERSION), version.into())),
            );
            Ok(None)
        }
        Change::Founders(founders) => {
            let voters = founders.members.iter().map(|member| member.id.0);
            let state = ConfState {
                voters: voters.collect(),
                ..Default::default()
            };
            let number = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
            meta.insert(row(CONSISTENT_INDEX), number(founders.index));
            meta.insert(row(TERM), number(founders.term));
            meta.insert(row(CONF_STATE), conf_state::encode(&state).into());
            let bump = founders
                .bump
                .map(|bump| Revision::new(last.saturating_add(bump), 0));
            meta.extend(bump.map(|revision| {
                let key = Bytes::copy_from_slice(&revision.to_bolt_key());
                (row(SCHEDULED_COMPACT), key)
            }));
            tables.insert(Table::MembersRemoved, Default::default());
            let rows = founders.members.iter().map(|member| {
                let json = serde_json::to_vec(member).expect("names and URLs are always JSON");
                (Bytes::from(format!("{:x}", member.id.0)), json.into())
            });
            tables.insert(Table::Members, rows.collect());
            Ok(bump)
        }
    }
}
