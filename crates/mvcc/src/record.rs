//! The store's records: how a change looks in a segment file, byte for byte.
//!
//! The drawing is in `docs/formats/store.md`. A record is a 24-byte header and a body; its checksum
//! covers everything behind the checksum itself. Records are made in memory in their final form (see
//! [`Batch`](crate::Batch)); the store only writes the bytes out.
//!
//! Reading never panics and tells apart what recovery must treat differently: the file ends inside a
//! record ([`DecodeError::Incomplete`]), the bytes are damaged ([`DecodeError::BadCrc`]), or they are
//! whole but written by somebody who knows more than we do ([`DecodeError::Unknown`]).

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::storepb::Commit;
use types::Revision;

use crate::{Change, KvFields, Table, TableChange};

/// Bytes in front of the body.
pub const HEADER_LEN: usize = 24;

/// What a record holds. The number is the one in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A key's new value: `mvccpb.KeyValue`.
    Put = 1,
    /// A key's end: `mvccpb.KeyValue` with only the key.
    Tombstone = 2,
    /// A new value in a small table.
    TablePut = 3,
    /// A key gone from a small table.
    TableDelete = 4,
    /// The end of a batch: `storepb.Commit`.
    Commit = 5,
}

impl Kind {
    fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Put,
            2 => Kind::Tombstone,
            3 => Kind::TablePut,
            4 => Kind::TableDelete,
            5 => Kind::Commit,
            _ => return None,
        })
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside the record.
    #[error("the record is cut off: {needed} bytes are needed")]
    Incomplete {
        /// Length of the record as far as it is known; at least the header's.
        needed: u64,
    },
    /// The checksum does not fit.
    #[error("the record's checksum does not fit")]
    BadCrc,
    /// The record is whole, but its kind, its flags or its body is not one we know.
    #[error("the record is of an unknown kind or form")]
    Unknown,
}

/// A whole record with a valid checksum, its body not looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the body is.
    pub kind: Kind,
    /// The revision in the header.
    pub rev: Revision,
    /// The bytes behind the header.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the record at the start of `buf`; what follows it is ignored.
    pub fn decode(buf: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((header, rest)) = buf.split_first_chunk::<HEADER_LEN>() else {
            return Err(DecodeError::Incomplete {
                needed: HEADER_LEN as u64,
            });
        };
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = u32_at(4) as usize;
        let Some(body) = rest.get(..length) else {
            return Err(DecodeError::Incomplete {
                needed: (HEADER_LEN + length) as u64,
            });
        };
        if crc32c::crc32c(&buf[4..HEADER_LEN + length]) != u32_at(0) {
            return Err(DecodeError::BadCrc);
        }
        let kind = Kind::from_number(header[8]).ok_or(DecodeError::Unknown)?;
        let [flags, zero @ ..] = [header[9], header[10], header[11]];
        if flags != 0 || zero != [0, 0] {
            return Err(DecodeError::Unknown);
        }
        let main = i64::from(u32_at(16)) | i64::from(u32_at(20)) << 32;
        Ok(Frame {
            kind,
            rev: Revision::new(main, u32_at(12)),
            body,
        })
    }

    /// Bytes of the whole record.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }
}

/// A record with its body understood. Everything in it shares the bytes it was read from.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A put or a tombstone.
    Change(Change),
    /// A change of a small table.
    Table(TableChange),
    /// The end of a batch.
    Commit(Commit),
}

impl Content {
    /// Reads the record at `offset` of `buf`. Returns it and the offset behind it.
    pub fn read(buf: &Bytes, offset: usize) -> Result<(Content, usize), DecodeError> {
        let frame = Frame::decode(buf.get(offset..).unwrap_or_default())?;
        let body = buf.slice_ref(frame.body);
        let content = match frame.kind {
            Kind::Put | Kind::Tombstone => Content::Change(Change {
                rev: frame.rev,
                tombstone: frame.kind == Kind::Tombstone,
                kv: body,
                offset: offset as u64,
            }),
            Kind::TablePut | Kind::TableDelete => {
                Content::Table(read_table(frame.kind, &body).ok_or(DecodeError::Unknown)?)
            }
            Kind::Commit => Content::Commit(Commit::decode(body).map_err(|_| DecodeError::Unknown)?),
        };
        Ok((content, offset + frame.len()))
    }
}

/// A table record's body: table number, key length, key, value.
fn read_table(kind: Kind, body: &Bytes) -> Option<TableChange> {
    let (&table, rest) = body.split_first()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (key, value) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let value = match kind {
        Kind::TablePut => Some(body.slice_ref(value)),
        _ if value.is_empty() => None,
        _ => return None,
    };
    Some(TableChange {
        table: Table::from_number(table)?,
        key: body.slice_ref(key),
        value,
    })
}

/// Appends a put or tombstone record.
pub fn encode_change(out: &mut BytesMut, rev: Revision, tombstone: bool, kv: &KvFields<'_>) {
    let kind = if tombstone { Kind::Tombstone } else { Kind::Put };
    encode(out, kind, rev, kv.encoded_len(), |out| kv.encode(out));
}

/// Appends a put or tombstone record whose `KeyValue` bytes are there already.
pub fn encode_encoded(out: &mut BytesMut, rev: Revision, tombstone: bool, kv: &[u8]) {
    let kind = if tombstone { Kind::Tombstone } else { Kind::Put };
    encode(out, kind, rev, kv.len(), |out| out.put_slice(kv));
}

/// Appends a table record; no value means delete.
pub fn encode_table(out: &mut BytesMut, rev: Revision, table: Table, key: &[u8], value: Option<&[u8]>) {
    let kind = if value.is_some() {
        Kind::TablePut
    } else {
        Kind::TableDelete
    };
    let value = value.unwrap_or_default();
    encode(out, kind, rev, 5 + key.len() + value.len(), |out| {
        out.put_u8(table as u8);
        out.put_u32_le(length(key.len()));
        out.put_slice(key);
        out.put_slice(value);
    });
}

/// Appends a commit record.
pub fn encode_commit(out: &mut BytesMut, commit: &Commit) {
    let rev = Revision::new(commit.revision, 0);
    encode(out, Kind::Commit, rev, commit.encoded_len(), |out| {
        commit.encode(out).expect("a BytesMut grows as needed");
    });
}

/// Appends a header and the body that `write` appends, then puts in the checksum.
fn encode(out: &mut BytesMut, kind: Kind, rev: Revision, body_len: usize, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.reserve(HEADER_LEN + body_len);
    out.put_u32_le(0);
    out.put_u32_le(length(body_len));
    out.put_u8(kind as u8);
    out.put_slice(&[0; 3]);
    out.put_u32_le(rev.sub);
    out.put_i64_le(rev.main);
    write(out);
    debug_assert_eq!(out.len(), start + HEADER_LEN + body_len);
    let crc = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("requests are far smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one_of_each() -> (Bytes, Vec<usize>) {
        let mut out = BytesMut::new();
        let mut starts = vec![];
        let mut record = |write: &mut dyn FnMut(&mut BytesMut)| {
            starts.push(out.len());
            write(&mut out);
        };
        let kv = KvFields {
            key: b"a",
            value: b"1",
            create_rev: 2,
            mod_rev: 2,
            version: 1,
            lease: 7,
        };
        record(&mut |out| encode_change(out, Revision::new(2, 0), false, &kv));
        record(&mut |out| encode_change(out, Revision::new(3, 1), true, &KvFields::tombstone(b"a")));
        record(&mut |out| encode_table(out, Revision::new(3, 0), Table::Meta, b"k", Some(b"v")));
        record(&mut |out| encode_table(out, Revision::new(3, 0), Table::Alarm, b"k", None));
        let commit = Commit {
            applied_index: 9,
            term: 2,
            revision: 3,
            compact_revision: -1,
            conf_state: None,
        };
        record(&mut |out| encode_commit(out, &commit));
        (out.freeze(), starts)
    }

    #[test]
    fn the_header_is_as_drawn_in_the_format_page() {
        let (buf, starts) = one_of_each();
        let tombstone = &buf[starts[1]..starts[2]];
        assert_eq!(
            tombstone[4..],
            [
                &[3, 0, 0, 0][..],
                &[2, 0, 0, 0],
                &[1, 0, 0, 0],
                &[3, 0, 0, 0, 0, 0, 0, 0],
                &[0x0a, 1, b'a']
            ]
            .concat()
        );
        assert_eq!(tombstone[..4], crc32c::crc32c(&tombstone[4..]).to_le_bytes());
    }

    #[test]
    fn records_read_back_one_after_the_other() {
        let (buf, starts) = one_of_each();
        let mut read = vec![];
        let mut at = 0;
        while at < buf.len() {
            assert_eq!(at, starts[read.len()]);
            let (content, next) = Content::read(&buf, at).unwrap();
            read.push(content);
            at = next;
        }
        let Content::Change(put) = &read[0] else {
            panic!("a put came first")
        };
        assert_eq!(
            (put.rev, put.tombstone, put.len() as usize),
            (Revision::new(2, 0), false, starts[1])
        );
        let Content::Change(tombstone) = &read[1] else {
            panic!("then a tombstone")
        };
        assert!(tombstone.tombstone && tombstone.offset == starts[1] as u64);
        let table = |table, value| TableChange {
            table,
            key: "k".into(),
            value,
        };
        assert_eq!(read[2], Content::Table(table(Table::Meta, Some("v".into()))));
        assert_eq!(read[3], Content::Table(table(Table::Alarm, None)));
        let Content::Commit(commit) = &read[4] else {
            panic!("a commit came last")
        };
        assert_eq!((commit.applied_index, commit.compact_revision), (9, -1));
    }

    #[test]
    fn every_cut_is_incomplete_and_every_flipped_bit_is_seen() {
        let (buf, starts) = one_of_each();
        for (start, end) in starts.iter().zip(starts[1..].iter().chain([&buf.len()])) {
            let record = &buf[*start..*end];
            for cut in 0..record.len() {
                let Err(DecodeError::Incomplete { needed }) = Frame::decode(&record[..cut]) else {
                    panic!("cut at {cut}")
                };
                let known = if cut < HEADER_LEN {
                    HEADER_LEN
                } else {
                    record.len()
                };
                assert_eq!(needed, known as u64);
            }
            for bit in 0..record.len() * 8 {
                let mut damaged = record.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                match Frame::decode(&damaged) {
                    Err(DecodeError::BadCrc) => {}
                    Err(DecodeError::Incomplete { .. }) if (32..64).contains(&bit) => {}
                    other => panic!("bit {bit}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn whole_records_of_an_unknown_form_are_told_from_damage() {
        let (buf, starts) = one_of_each();
        let forged = |at: usize, byte: u8| {
            let mut record = buf[starts[2]..starts[3]].to_vec();
            record[at] = byte;
            let crc = crc32c::crc32c(&record[4..]);
            record[..4].copy_from_slice(&crc.to_le_bytes());
            Content::read(&Bytes::from(record), 0).map(|_| ())
        };
        assert_eq!(forged(8, 3), Ok(()));
        assert_eq!(forged(8, 6), Err(DecodeError::Unknown), "a kind to come");
        assert_eq!(forged(9, 1), Err(DecodeError::Unknown), "a flag to come");
        assert_eq!(
            forged(10, 1),
            Err(DecodeError::Unknown),
            "padding that is not zero"
        );
        assert_eq!(
            forged(HEADER_LEN, 99),
            Err(DecodeError::Unknown),
            "a table to come"
        );
        assert_eq!(
            forged(HEADER_LEN + 1, 99),
            Err(DecodeError::Unknown),
            "a key longer than the body"
        );
        assert_eq!(forged(8, 4), Err(DecodeError::Unknown), "a delete with a value");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(raw: Vec<u8>, offset in 0usize..40) {
            let _ = Content::read(&raw.into(), offset);
        }
    }
}
