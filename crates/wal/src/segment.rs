//! Segments: their names, how one is read, and where one ends.
//!
//! Every segment but the last was synced before its successor had a name, so it is whole or damaged.
//! The last one may end in a write that power loss cut short. Which of the two it is decides whether
//! the member starts, so [`tail`] weighs it with care: what a torn write can not explain is damage.

use env::SECTOR;
use types::Index;

use crate::{
    Damage,
    frame::{self, Frame, Kind, LENGTH_BYTES, Record},
};

/// The name of a segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// Counts segments from 0.
    pub sequence: u64,
    /// Index of the first entry that was appended to it.
    pub first: Index,
}

impl Name {
    pub fn parse(file: &str) -> Option<Name> {
        let (sequence, first) = file.strip_suffix(".wal")?.split_once('-')?;
        let number = |hex: &str| match hex.len() {
            16 => u64::from_str_radix(hex, 16).ok(),
            _ => None,
        };
        let name = Name {
            sequence: number(sequence)?,
            first: number(first)?,
        };
        (name.file() == file).then_some(name)
    }

    /// The checksum a segment begins with, as far as its name tells.
    pub fn seed(&self) -> Option<u32> {
        (self.sequence == 0).then_some(0)
    }

    pub fn file(&self) -> String {
        format!("{:016x}-{:016x}.wal", self.sequence, self.first)
    }
}

/// The newest segments of a folder that follow each other without a gap, oldest first. Older ones are
/// leftovers of a removal.
pub(crate) fn names(files: &[String]) -> Vec<Name> {
    let mut names: Vec<Name> = files.iter().filter_map(|file| Name::parse(file)).collect();
    names.sort();
    let follows = |pair: &[Name]| pair[0].sequence.checked_add(1) == Some(pair[1].sequence);
    let connected = names.windows(2).rev().take_while(|pair| follows(pair)).count();
    names.split_off(names.len().saturating_sub(connected + 1))
}

/// Where a segment stands among the others.
pub(crate) struct Place {
    /// The checksum the one before it ended with, if that is known.
    pub chain: Option<u32>,
    /// Whether it may end in a torn write.
    pub is_last: bool,
}

/// Where a segment ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Offset behind the last whole record.
    pub at: usize,
    /// The running checksum there.
    pub crc: u32,
    /// Whether a torn write follows.
    pub torn: bool,
}

/// Damage and the offset it is at.
pub(crate) type Found = (usize, Damage);

/// Reads a segment and hands every record to `visit`, checksum records excepted.
pub(crate) fn read(
    bytes: &[u8],
    place: Place,
    mut visit: impl FnMut(&Record<'_>) -> Result<(), Damage>,
) -> Result<End, Found> {
    let (mut at, mut crc) = header(bytes, place.chain, &mut visit)?;
    loop {
        let wrong = match frame::read(bytes, at) {
            Frame::Record(record, next) => match record.chain(crc) {
                Ok(after) => {
                    if record.kind != Kind::Checksum {
                        visit(&record).map_err(|what| (at, what))?;
                    }
                    (at, crc) = (next, after);
                    continue;
                }
                Err(what) => Some(what),
            },
            Frame::End => None,
            Frame::Bad(what) => Some(what),
        };
        let torn = match tail(bytes, at, crc, wrong) {
            Tail::Clean => false,
            Tail::Torn(_) if place.is_last => true,
            Tail::Torn(what) | Tail::Damaged(what) => return Err((at, what)),
        };
        return Ok(End { at, crc, torn });
    }
}

/// Reads the two records every segment begins with. They were synced before the file had its name.
fn header(
    bytes: &[u8],
    chain: Option<u32>,
    visit: &mut impl FnMut(&Record<'_>) -> Result<(), Damage>,
) -> Result<(usize, u32), Found> {
    let next = |at, kind| match frame::read(bytes, at) {
        Frame::Record(record, next) if record.kind == kind => Ok((record, next)),
        Frame::Bad(what) => Err((at, what)),
        _ => Err((at, Damage::Header)),
    };
    let (checksum, at) = next(0, Kind::Checksum)?;
    let crc = checksum
        .chain(chain.unwrap_or(checksum.crc))
        .map_err(|what| (0, what))?;
    let (metadata, end) = next(at, Kind::Metadata)?;
    let crc = metadata.chain(crc).map_err(|what| (at, what))?;
    visit(&metadata).map_err(|what| (at, what))?;
    Ok((end, crc))
}

/// What stands behind the last whole record.
enum Tail {
    /// Nothing but reserved space.
    Clean,
    /// The remains of a write that was never synced.
    Torn(Damage),
    /// Something that was whole once.
    Damaged(Damage),
}

/// Weighs what stands at `at`, where the records stop: `wrong`, or a length of zero.
///
/// A torn write lost whole sectors, and they read as zeros. So a sector that has any of the write has
/// all of it, and no mark stands behind it, because a mark is written only after a sync.
fn tail(bytes: &[u8], at: usize, crc: u32, wrong: Option<Damage>) -> Tail {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(what) = wrong else {
        return match () {
            _ if frame::is_zero(rest) => Tail::Clean,
            _ if mark_behind(bytes, at) || !frame::is_zero(rest_of_sector(bytes, at)) => {
                Tail::Damaged(Damage::Hole)
            }
            _ => Tail::Torn(Damage::Hole),
        };
    };
    let torn = match what {
        Damage::PastEnd => rest
            .get(LENGTH_BYTES..)
            .is_none_or(|record| !frame::begins_whole(record, crc, at == 0)),
        Damage::Malformed | Damage::Checksum { .. } => has_lost_sector(bytes, at),
        _ => false,
    };
    if torn && !mark_behind(bytes, at) {
        Tail::Torn(what)
    } else {
        Tail::Damaged(what)
    }
}

fn rest_of_sector(bytes: &[u8], at: usize) -> &[u8] {
    let end = (at + 1).next_multiple_of(SECTOR).min(bytes.len());
    &bytes[at..end]
}

/// Whether the part of the record at `at` in some sector behind its first is all zero.
fn has_lost_sector(bytes: &[u8], at: usize) -> bool {
    let Some((length, _)) = bytes
        .get(at..)
        .and_then(|rest| rest.split_first_chunk::<LENGTH_BYTES>())
    else {
        return false;
    };
    let end = at + LENGTH_BYTES + frame::size_in(u64::from_le_bytes(*length)) as usize;
    let second = (at + 1).next_multiple_of(SECTOR);
    bytes
        .get(second..end)
        .is_some_and(|behind| behind.chunks(SECTOR).any(frame::is_zero))
}

/// Whether something was synced behind the frame at `at`.
fn mark_behind(bytes: &[u8], at: usize) -> bool {
    (at + LENGTH_BYTES..bytes.len())
        .step_by(LENGTH_BYTES)
        .any(|at| frame::is_mark(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_and_come_back() {
        let name = Name {
            sequence: 1,
            first: 0xa2c,
        };
        assert_eq!(name.file(), "0000000000000001-0000000000000a2c.wal");
        assert_eq!(Name::parse(&name.file()), Some(name));
        for other in [
            "1-2.wal",
            "0.tmp",
            "0000000000000001-0000000000000A2C.wal",
            "+000000000000001-0000000000000a2c.wal",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_newest_connected_segments_count() {
        let names_of = |sequences: &[u64]| {
            let files: Vec<_> = sequences
                .iter()
                .map(|&sequence| Name { sequence, first: 9 }.file())
                .collect();
            names(&files).iter().map(|name| name.sequence).collect::<Vec<_>>()
        };
        assert_eq!(names_of(&[]), []);
        assert_eq!(names_of(&[7]), [7]);
        assert_eq!(names_of(&[0, 1, 2]), [0, 1, 2]);
        assert_eq!(names_of(&[0, 2, 3]), [2, 3]);
        assert_eq!(names_of(&[0, 2]), [2]);
    }
}
