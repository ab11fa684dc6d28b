//! What the tests of the log share.
#![allow(dead_code)] // each test file uses its part

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use env::{Disk, SimDisk};
use proto::{raftpb, walpb};
use wal::{OpenError, Options, Replay, Wal};

pub const METADATA: &[u8] = b"member 1 of cluster 1";

/// Small, so that a few entries fill several segments.
pub const OPTIONS: Options = Options {
    segment_bytes: 4096,
    files_max: 2,
};

pub fn dir() -> &'static Path {
    Path::new("/data/wal")
}

/// A disk with the data folder, durable.
pub fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.settle();
    disk
}

pub fn create(disk: &SimDisk, options: Options) -> Wal {
    Wal::create(Arc::new(disk.clone()), dir(), METADATA, options).unwrap()
}

pub fn open(disk: &SimDisk, options: Options) -> Result<(Wal, Replay), OpenError> {
    Wal::open(
        Arc::new(disk.clone()),
        dir(),
        &walpb::Snapshot::default(),
        options,
    )
}

/// An entry whose content tells it from others at its index.
pub fn entry(term: u64, index: u64, len: usize) -> raftpb::Entry {
    let byte = (term * 31 + index) as u8;
    raftpb::Entry {
        term,
        index,
        data: Some(vec![byte; len].into()),
        ..Default::default()
    }
}

pub fn state(term: u64, vote: u64, commit: u64) -> raftpb::HardState {
    raftpb::HardState { term, vote, commit }
}

pub fn snapshot(index: u64, term: u64) -> walpb::Snapshot {
    walpb::Snapshot {
        index,
        term,
        conf_state: Some(raftpb::ConfState {
            voters: vec![1],
            ..Default::default()
        }),
    }
}

/// The segments in the folder, oldest first.
pub fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let names = disk.list(dir()).unwrap();
    names
        .iter()
        .filter(|name| name.ends_with(".wal"))
        .map(|name| dir().join(name))
        .collect()
}

/// Offsets of the frames of a segment, and behind the last the end of the last.
pub fn frames(segment: &[u8]) -> Vec<usize> {
    let mut at = vec![0];
    while let Some(length) = segment
        .get(at[at.len() - 1]..)
        .and_then(|rest| rest.first_chunk())
    {
        let size = u64::from_le_bytes(*length) << 8 >> 8;
        if size == 0 {
            break;
        }
        at.push(at[at.len() - 1] + 8 + (size as usize).next_multiple_of(8));
    }
    at
}
