//! `mvccpb.KeyValue` as bytes.
//!
//! A change is kept as the very bytes Go etcd would store: fields 1 to 6 in order, zero fields left
//! out. They are encoded once, when a put is applied, and travel unchanged into the log, into range
//! answers and watch events, and into the hash that members compare. [`KvRef`] looks into them
//! without making a message of them.
//!
//! ```
//! use mvcc::{KvFields, KvRef};
//!
//! let mut out = bytes::BytesMut::new();
//! let fields = KvFields { key: b"a", value: b"1", create_rev: 2, mod_rev: 5, version: 3, lease: 0 };
//! fields.encode(&mut out);
//! let stored = out.freeze();
//! let kv = KvRef::parse(&stored).unwrap();
//! assert_eq!((kv.key(), kv.value(), kv.mod_rev()), (&b"a"[..], &b"1"[..], 5));
//! ```

use std::ops::Deref;

use bytes::{BufMut, Bytes, BytesMut};

/// The fields of a `KeyValue`, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvFields<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Main revision of the put that created the key; 0 in a tombstone.
    pub create_rev: i64,
    /// Main revision of this change; 0 in a tombstone.
    pub mod_rev: i64,
    /// 1 at create, one more with every put; 0 in a tombstone.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// The lease the key is attached to; 0 for none.
    pub lease: i64,
}

/// The field numbers of `mvccpb.KeyValue`.
mod field {
    pub const KEY: u64 = 1;
    pub const CREATE_REVISION: u64 = 2;
    pub const MOD_REVISION: u64 = 3;
    pub const VERSION: u64 = 4;
    pub const VALUE: u64 = 5;
    pub const LEASE: u64 = 6;
}

/// Protobuf wire types; 3 and 4 are groups, which proto3 does not have.
mod wire {
    pub const VARINT: u64 = 0;
    pub const FIXED64: u64 = 1;
    pub const BYTES: u64 = 2;
    pub const FIXED32: u64 = 5;
}

impl<'a> KvFields<'a> {
    /// A tombstone: nothing but the key.
    pub fn tombstone(key: &'a [u8]) -> Self {
        KvFields {
            key,
            ..Default::default()
        }
    }

    /// Length of the encoded message in bytes.
    pub fn encoded_len(&self) -> usize {
        let bytes = |b: &[u8]| {
            if b.is_empty() {
                0
            } else {
                1 + varint_len(b.len() as u64) + b.len()
            }
        };
        let int = |n: i64| if n == 0 { 0 } else { 1 + varint_len(n as u64) };
        bytes(self.key)
            + int(self.create_rev)
            + int(self.mod_rev)
            + int(self.version)
            + bytes(self.value)
            + int(self.lease)
    }

    /// Appends the encoded message.
    pub fn encode(&self, out: &mut BytesMut) {
        put_bytes(out, field::KEY, self.key);
        put_int(out, field::CREATE_REVISION, self.create_rev);
        put_int(out, field::MOD_REVISION, self.mod_rev);
        put_int(out, field::VERSION, self.version);
        put_bytes(out, field::VALUE, self.value);
        put_int(out, field::LEASE, self.lease);
    }

    /// Reads an encoded message. Unknown fields are skipped, of a repeated one the last counts.
    pub fn parse(mut raw: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = KvFields::default();
        while !raw.is_empty() {
            let tag = take_varint(&mut raw)?;
            match (tag >> 3, tag & 7) {
                (field::KEY, wire::BYTES) => fields.key = take_bytes(&mut raw)?,
                (field::VALUE, wire::BYTES) => fields.value = take_bytes(&mut raw)?,
                (field::CREATE_REVISION, wire::VARINT) => fields.create_rev = take_varint(&mut raw)? as i64,
                (field::MOD_REVISION, wire::VARINT) => fields.mod_rev = take_varint(&mut raw)? as i64,
                (field::VERSION, wire::VARINT) => fields.version = take_varint(&mut raw)? as i64,
                (field::LEASE, wire::VARINT) => fields.lease = take_varint(&mut raw)? as i64,
                (0..=field::LEASE, _) => return Err(Malformed),
                (_, wire::VARINT) => drop(take_varint(&mut raw)?),
                (_, wire::FIXED64) => drop(take(&mut raw, 8)?),
                (_, wire::BYTES) => drop(take_bytes(&mut raw)?),
                (_, wire::FIXED32) => drop(take(&mut raw, 4)?),
                _ => return Err(Malformed),
            }
        }
        Ok(fields)
    }
}

/// Bytes that are no `KeyValue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a KeyValue message")]
pub struct Malformed;

/// A parsed look at stored `KeyValue` bytes.
#[derive(Clone, Copy, Debug)]
pub struct KvRef<'a> {
    raw: &'a Bytes,
    fields: KvFields<'a>,
}

impl<'a> KvRef<'a> {
    /// Finds the fields; copies nothing.
    pub fn parse(raw: &'a Bytes) -> Result<Self, Malformed> {
        Ok(KvRef {
            raw,
            fields: KvFields::parse(raw)?,
        })
    }

    /// The key.
    pub fn key(&self) -> &'a [u8] {
        self.fields.key
    }

    /// The value.
    pub fn value(&self) -> &'a [u8] {
        self.fields.value
    }

    /// Main revision of this change; 0 in a tombstone.
    pub fn mod_rev(&self) -> i64 {
        self.fields.mod_rev
    }

    /// The key, sharing the stored bytes.
    pub fn key_bytes(&self) -> Bytes {
        self.raw.slice_ref(self.fields.key)
    }

    /// The value, sharing the stored bytes.
    pub fn value_bytes(&self) -> Bytes {
        self.raw.slice_ref(self.fields.value)
    }
}

/// All fields can be read straight from the look.
impl<'a> Deref for KvRef<'a> {
    type Target = KvFields<'a>;

    fn deref(&self) -> &KvFields<'a> {
        &self.fields
    }
}

fn put_bytes(out: &mut BytesMut, number: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.put_u8((number << 3 | wire::BYTES) as u8);
        put_varint(out, bytes.len() as u64);
        out.put_slice(bytes);
    }
}

fn put_int(out: &mut BytesMut, number: u64, n: i64) {
    if n != 0 {
        out.put_u8((number << 3 | wire::VARINT) as u8);
        put_varint(out, n as u64);
    }
}

fn put_varint(out: &mut BytesMut, mut n: u64) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

fn varint_len(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

fn take<'a>(raw: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = raw.split_at_checked(len).ok_or(Malformed)?;
    *raw = rest;
    Ok(taken)
}

fn take_bytes<'a>(raw: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = take_varint(raw)?;
    take(raw, usize::try_from(len).map_err(|_| Malformed)?)
}

fn take_varint(raw: &mut &[u8]) -> Result<u64, Malformed> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(raw, 1)?[0];
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            // The tenth byte has room for one bit.
            return if shift == 63 && byte > 1 {
                Err(Malformed)
            } else {
                Ok(n)
            };
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use proto::mvccpb::KeyValue;

    use super::*;

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![
            Just(0),
            Just(1),
            Just(127),
            Just(128),
            Just(i64::MAX),
            Just(-1),
            any::<i64>()
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_bytes_are_those_of_a_protobuf_library(
            key: Vec<u8>, value in proptest::collection::vec(any::<u8>(), 0..300),
            create_revision in number(), mod_revision in number(), version in number(), lease in number(),
        ) {
            let message = KeyValue {
                key: key.into(), value: value.into(), create_revision, mod_revision, version, lease,
            };
            let fields = KvFields {
                key: &message.key, value: &message.value, create_rev: create_revision,
                mod_rev: mod_revision, version, lease,
            };
            let mut out = BytesMut::new();
            fields.encode(&mut out);
            prop_assert_eq!(&out[..], &message.encode_to_vec()[..]);
            prop_assert_eq!(fields.encoded_len(), out.len());
            prop_assert_eq!(KvFields::parse(&out), Ok(fields));
        }

        #[test]
        fn whatever_parses_parses_the_same_in_a_protobuf_library(
            raw in proptest::collection::vec(prop_oneof![0u8..64, any::<u8>()], 0..24),
        ) {
            if let (Ok(ours), Ok(theirs)) = (KvFields::parse(&raw), KeyValue::decode(&raw[..])) {
                prop_assert_eq!(ours.key, &theirs.key[..]);
                prop_assert_eq!(ours.value, &theirs.value[..]);
                prop_assert_eq!(ours.mod_rev, theirs.mod_revision);
                prop_assert_eq!(ours.lease, theirs.lease);
            }
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_cut_ones_refused() {
        let raw = [0x0a, 1, b'k', 0x38, 5, 0x41, 0, 0, 0, 0, 0, 0, 0, 0, 0x18, 9];
        let fields = KvFields::parse(&raw).unwrap();
        assert_eq!((fields.key, fields.mod_rev), (&b"k"[..], 9));
        for cut in [1, 2, 4, 8, 15] {
            assert_eq!(KvFields::parse(&raw[..cut]), Err(Malformed));
        }
    }

    #[test]
    fn slices_share_the_stored_bytes() {
        let mut out = BytesMut::new();
        KvFields {
            key: b"key",
            value: b"value",
            ..Default::default()
        }
        .encode(&mut out);
        let stored = out.freeze();
        let kv = KvRef::parse(&stored).unwrap();
        assert!(stored.as_ptr_range().contains(&kv.value_bytes().as_ptr()));
        assert_eq!((kv.key_bytes(), kv.value_bytes()), ("key".into(), "value".into()));
    }
}
