//! Records and the frames around them: bytes in, bytes out.

use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

use crate::Damage;

/// The length in front of a record, in bytes.
pub(crate) const LENGTH_BYTES: usize = 8;

/// The size of a record, in the low bits of its length.
const SIZE_MASK: u64 = (1 << 56) - 1;

/// The offset in a sync mark, in bytes: enough for files of 256 TiB.
const MARK_BYTES: usize = 6;

/// What a record's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Metadata = 1,
    Entry = 2,
    HardState = 3,
    Checksum = 4,
    Snapshot = 5,
}

impl Kind {
    fn from_wire(kind: u64) -> Option<Kind> {
        [
            Kind::Metadata,
            Kind::Entry,
            Kind::HardState,
            Kind::Checksum,
            Kind::Snapshot,
        ]
        .into_iter()
        .find(|known| *known as u64 == kind)
    }
}

/// One record, as far as its shape tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub kind: Kind,
    pub crc: u32,
    pub data: &'a [u8],
}

impl Record<'_> {
    /// The running checksum after this record, given the one before it.
    pub fn chain(&self, before: u32) -> Result<u32, Damage> {
        let computed = match self.kind {
            Kind::Checksum => before,
            _ => crc32c::crc32c_append(before, self.data),
        };
        if computed == self.crc {
            Ok(computed)
        } else {
            Err(Damage::Checksum {
                found: self.crc,
                computed,
            })
        }
    }
}

/// What stands at some offset of a segment.
pub(crate) enum Frame<'a> {
    /// A record of the right shape, and the offset behind its frame.
    Record(Record<'a>, usize),
    /// Nothing: a length of zero, or the end of the file.
    End,
    /// Something else.
    Bad(Damage),
}

/// Reads the frame at `at`, which may be past the end.
pub(crate) fn read(bytes: &[u8], at: usize) -> Frame<'_> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
        return if is_zero(rest) {
            Frame::End
        } else {
            Frame::Bad(Damage::PastEnd)
        };
    };
    let length = u64::from_le_bytes(*length);
    if length == 0 {
        return Frame::End;
    }
    let size = size_in(length);
    if length != length_of(size) {
        return Frame::Bad(Damage::Length);
    }
    let body = usize::try_from(size).ok().and_then(|size| rest.get(..size));
    match body.map(|body| (parse(body), body.len())) {
        Some((Some(record), size)) => Frame::Record(record, at + LENGTH_BYTES + size.next_multiple_of(8)),
        Some((None, _)) => Frame::Bad(Damage::Malformed),
        None => Frame::Bad(Damage::PastEnd),
    }
}

/// Whether `bytes` begin with a whole record that continues the checksum `before`, whatever the length
/// in front of it says. `is_first`: whether it is the first of its segment.
pub(crate) fn begins_whole(bytes: &[u8], before: u32, is_first: bool) -> bool {
    let mut fields = Fields(bytes);
    let (Some((1, Value::Varint(kind))), Some((2, Value::Varint(crc)))) = (fields.next(), fields.next())
    else {
        return false;
    };
    let data = match (Kind::from_wire(kind), fields.next()) {
        (Some(Kind::Checksum), Some((3, Value::Bytes(_)))) => b"",
        // Later ones are marks, and name their offset: without it the end of the file cut one off.
        (Some(Kind::Checksum), _) if is_first => b"",
        (Some(_), Some((3, Value::Bytes(data)))) => data,
        _ => return false,
    };
    u64::from(crc32c::crc32c_append(before, data)) == crc
}

/// Whether a sync mark begins at `at`: a checksum record that names this very offset.
pub(crate) fn is_mark(bytes: &[u8], at: usize) -> bool {
    match read(bytes, at) {
        Frame::Record(
            Record {
                kind: Kind::Checksum,
                data,
                ..
            },
            _,
        ) => data == mark(at as u64),
        _ => false,
    }
}

fn mark(offset: u64) -> [u8; MARK_BYTES] {
    let [a, b, c, d, e, f, _, _] = offset.to_le_bytes();
    [a, b, c, d, e, f]
}

/// The size of a record, from the length in front of it.
pub(crate) fn size_in(length: u64) -> u64 {
    length & SIZE_MASK
}

/// The length in front of a record of `size` bytes.
fn length_of(size: u64) -> u64 {
    match size.next_multiple_of(8) - size {
        0 => size,
        padding => size | (0x80 | padding) << 56,
    }
}

fn parse(record: &[u8]) -> Option<Record<'_>> {
    let (mut kind, mut crc, mut data) = (None, None, None);
    let mut fields = Fields(record);
    for (number, value) in &mut fields {
        match (number, value) {
            (1, Value::Varint(v)) if kind.is_none() => kind = Some(Kind::from_wire(v)?),
            (2, Value::Varint(v)) if crc.is_none() => crc = Some(u32::try_from(v).ok()?),
            (3, Value::Bytes(v)) if data.is_none() => data = Some(v),
            _ => return None,
        }
    }
    let whole = fields.0.is_empty();
    let record = Record {
        kind: kind?,
        crc: crc?,
        data: data.unwrap_or_default(),
    };
    whole.then_some(record)
}

/// A field of a message.
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order written. Stops at the first thing that is not a field of the
/// two wire types in use, and then holds what is left.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.0;
        let tag = decode_varint(&mut rest).ok()?;
        let varint = decode_varint(&mut rest).ok()?;
        let value = match tag & 7 {
            0 => Value::Varint(varint),
            2 => {
                let (bytes, behind) = rest.split_at_checked(usize::try_from(varint).ok()?)?;
                rest = behind;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        self.0 = rest;
        Some((tag >> 3, value))
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|some| *some == ZEROS[..some.len()])
}

/// Turns records into frames, one behind the other, and carries the running checksum.
#[derive(Default)]
pub(crate) struct Encoder {
    pub bytes: Vec<u8>,
    pub crc: u32,
}

impl Encoder {
    /// Appends a record whose data is `parts`, one after the other. No parts: no data.
    pub fn push(&mut self, kind: Kind, parts: &[&[u8]]) {
        if kind != Kind::Checksum {
            self.crc = parts
                .iter()
                .fold(self.crc, |crc, part| crc32c::crc32c_append(crc, part));
        }
        let data_len: usize = parts.iter().map(|part| part.len()).sum();
        let data_field = match parts {
            [] => 0,
            _ => 1 + encoded_len_varint(data_len as u64) + data_len,
        };
        let size = 2 + 1 + encoded_len_varint(self.crc.into()) + data_field;
        self.bytes.reserve(LENGTH_BYTES + size.next_multiple_of(8));
        self.bytes
            .extend_from_slice(&length_of(size as u64).to_le_bytes());
        self.bytes.extend_from_slice(&[0x08, kind as u8, 0x10]);
        encode_varint(self.crc.into(), &mut self.bytes);
        if !parts.is_empty() {
            self.bytes.push(0x1a);
            encode_varint(data_len as u64, &mut self.bytes);
            parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        }
        self.bytes
            .resize(self.bytes.len() + size.next_multiple_of(8) - size, 0);
    }

    /// Appends a sync mark; the buffer begins at `offset` in the file.
    pub fn push_mark(&mut self, offset: u64) {
        let own = offset + self.bytes.len() as u64;
        self.push(Kind::Checksum, &[&mark(own)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::walpb;

    fn records(bytes: &[u8]) -> Vec<(Kind, Vec<u8>)> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Frame::Record(record, next) = read(bytes, at) {
            found.push((record.kind, record.data.to_vec()));
            at = next;
        }
        assert!(matches!(read(bytes, at), Frame::End) && at == bytes.len());
        found
    }

    #[test]
    fn a_mark_that_the_end_of_the_file_cuts_off_is_not_whole() {
        let mut encoder = Encoder::default();
        encoder.push_mark(4080);
        let record = &encoder.bytes[LENGTH_BYTES..];
        assert!(begins_whole(record, 0, false));
        let cut = (0..record.len()).filter(|len| begins_whole(&record[..*len], 0, false));
        assert!(
            cut.min().is_none_or(|len| len > 8),
            "kind and checksum alone are no mark"
        );

        let mut encoder = Encoder::default();
        encoder.push(Kind::Checksum, &[]);
        assert!(begins_whole(&encoder.bytes[LENGTH_BYTES..], 0, true));
    }

    #[test]
    fn records_of_every_length_come_back_aligned_and_as_prost_writes_them() {
        let mut encoder = Encoder::default();
        let mut expect = Vec::new();
        for len in (0..40).chain([127, 128, 129, 16384]) {
            let (at, data) = (encoder.bytes.len(), vec![len as u8; len]);
            encoder.push(Kind::Entry, &[&data[..len / 2], &data[len / 2..]]);
            let record = walpb::Record {
                r#type: 2,
                crc: encoder.crc,
                data: Some(data.clone().into()),
            };
            assert_eq!(
                encoder.bytes[at + 8..][..record.encoded_len()],
                record.encode_to_vec()
            );
            expect.push((Kind::Entry, data));
        }
        assert_eq!(records(&encoder.bytes), expect);
    }

    #[test]
    fn the_first_frame_of_a_log_is_etcds() {
        let mut encoder = Encoder::default();
        encoder.push(Kind::Checksum, &[]);
        assert_eq!(
            encoder.bytes,
            [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 0x10, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn a_mark_counts_only_where_it_was_written() {
        let mut encoder = Encoder {
            crc: 0xdead_beef,
            ..Encoder::default()
        };
        encoder.push_mark(0);
        encoder.push_mark(0);
        let size = encoder.bytes.len() / 2;
        assert_eq!(size, 24);
        assert!(is_mark(&encoder.bytes, 0) && is_mark(&encoder.bytes, size));
        let copied = [&[0; 8][..], &encoder.bytes].concat();
        assert!(!is_mark(&copied, 8));
    }

    #[test]
    fn only_the_exact_shape_is_a_record() {
        assert!(parse(&[8, 2, 0x10, 5, 0x1a, 1, 9]).is_some());
        for bad in [
            &[8, 2][..],                        // no crc
            &[0x10, 5],                         // no type
            &[8, 6, 0x10, 5],                   // unknown type
            &[8, 2, 8, 2, 0x10, 5],             // twice
            &[8, 2, 0x10, 5, 0x20, 1],          // unknown field
            &[8, 2, 0x10, 5, 0x1a, 2, 9],       // short data
            &[8, 2, 0x10, 5, 0x1a, 1, 9, 0x1a], // something left
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
