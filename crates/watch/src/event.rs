//! One change of the store, as it comes in and as it goes over the wire.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::DecodeError;
use prost::encoding::{
    DecodeContext, WireType, decode_key, encode_key, encode_varint, encoded_len_varint, skip_field,
};

/// Field number of `WatchResponse.events`.
pub(crate) const EVENTS: u32 = 11;
/// Field numbers of `mvccpb.Event`.
const TYPE: u32 = 1;
const KV: u32 = 2;
const PREV_KV: u32 = 3;
/// Field numbers of `mvccpb.KeyValue`.
const KEY: u32 = 1;
const CREATE_REVISION: u32 = 2;
const MOD_REVISION: u32 = 3;

/// `Event.type` of a deletion; a put's is 0 and so not on the wire.
const DELETE: u64 = 1;

/// What a change did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key did not exist before: there is no previous value to look for.
    Create,
    Update,
    Delete,
}

/// One change of the store: a stored `mvccpb.KeyValue`, untouched, and what the hub must know of it.
#[derive(Clone, Debug)]
pub struct Event {
    pub(crate) revision: i64,
    pub(crate) kind: Kind,
    pub(crate) key: Bytes,
    kv: Bytes,
}

impl Event {
    /// Reads what the hub needs out of the stored bytes `kv` of the change at `main`.
    ///
    /// # Errors
    /// The bytes are not a `KeyValue`: the store is damaged.
    pub fn parse(main: i64, tombstone: bool, kv: Bytes) -> Result<Self, DecodeError> {
        let (mut key, mut create_revision) = (Bytes::new(), 0);
        let mut rest = kv.clone();
        while rest.has_remaining() {
            let (tag, wire_type) = decode_key(&mut rest)?;
            let context = DecodeContext::default();
            match tag {
                KEY => prost::encoding::bytes::merge(wire_type, &mut key, &mut rest, context)?,
                CREATE_REVISION => {
                    prost::encoding::int64::merge(wire_type, &mut create_revision, &mut rest, context)?;
                }
                _ => skip_field(wire_type, tag, &mut rest, context)?,
            }
        }
        let kind = match (tombstone, create_revision == main) {
            (true, _) => Kind::Delete,
            (false, true) => Kind::Create,
            (false, false) => Kind::Update,
        };
        Ok(Event {
            revision: main,
            kind,
            key,
            kv,
        })
    }

    /// The revision (main) of the change.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// About what the event takes in a response, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.kv.len()
    }

    /// The event as one entry of `WatchResponse.events`, with tag and length in front.
    ///
    /// A stored tombstone has only its key; clients are also told the revision of the deletion, so
    /// that field is added behind the stored bytes.
    pub(crate) fn encode(&self, prev_kv: Option<&[u8]>) -> Bytes {
        let deleted_at = (self.kind == Kind::Delete).then_some(self.revision as u64);
        let kv_len = self.kv.len() + deleted_at.map_or(0, |at| 1 + encoded_len_varint(at));
        let type_len = if deleted_at.is_some() { 2 } else { 0 };
        let len = type_len + field_len(kv_len) + prev_kv.map_or(0, |prev| field_len(prev.len()));

        let mut out = BytesMut::with_capacity(field_len(len));
        put_field(EVENTS, len, &mut out);
        if deleted_at.is_some() {
            encode_key(TYPE, WireType::Varint, &mut out);
            encode_varint(DELETE, &mut out);
        }
        put_field(KV, kv_len, &mut out);
        out.put_slice(&self.kv);
        if let Some(at) = deleted_at {
            encode_key(MOD_REVISION, WireType::Varint, &mut out);
            encode_varint(at, &mut out);
        }
        if let Some(prev) = prev_kv {
            put_field(PREV_KV, prev.len(), &mut out);
            out.put_slice(prev);
        }
        out.freeze()
    }
}

/// Tag and length of a length-delimited field of `len` bytes.
fn put_field(tag: u32, len: usize, out: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

/// Bytes of a length-delimited field with content of `len` bytes, its one-byte tag included.
fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::etcdserverpb::WatchResponse;
    use proto::mvccpb::{self, KeyValue, event::EventType};

    use super::*;

    fn stored(create_revision: i64) -> KeyValue {
        KeyValue {
            key: "k".into(),
            create_revision,
            mod_revision: 7,
            version: 3,
            value: vec![b'v'; 300].into(),
            lease: -1,
        }
    }

    fn on_the_wire(event: &Event, prev_kv: Option<&[u8]>) -> mvccpb::Event {
        let mut response = WatchResponse::decode(event.encode(prev_kv)).unwrap();
        assert_eq!(response.events.len(), 1);
        response.events.remove(0)
    }

    #[test]
    fn a_put_goes_out_with_its_stored_bytes() {
        let event = Event::parse(7, false, stored(4).encode_to_vec().into()).unwrap();
        assert_eq!((event.key.as_ref(), event.kind), (&b"k"[..], Kind::Update));
        let expected = mvccpb::Event {
            r#type: EventType::Put.into(),
            kv: Some(stored(4)),
            prev_kv: None,
        };
        assert_eq!(on_the_wire(&event, None), expected);
        let prev = KeyValue {
            mod_revision: 6,
            ..stored(4)
        };
        let expected = mvccpb::Event {
            prev_kv: Some(prev.clone()),
            ..expected
        };
        assert_eq!(on_the_wire(&event, Some(&prev.encode_to_vec())), expected);
    }

    #[test]
    fn the_first_put_of_a_key_is_known_as_its_creation() {
        let event = Event::parse(7, false, stored(7).encode_to_vec().into()).unwrap();
        assert_eq!(event.kind, Kind::Create);
    }

    #[test]
    fn a_deletion_carries_only_key_and_mod_revision() {
        let tombstone = KeyValue {
            key: "k".into(),
            ..Default::default()
        };
        let event = Event::parse(1 << 40, true, tombstone.encode_to_vec().into()).unwrap();
        let kv = KeyValue {
            mod_revision: 1 << 40,
            ..tombstone
        };
        let expected = mvccpb::Event {
            r#type: EventType::Delete.into(),
            kv: Some(kv),
            prev_kv: None,
        };
        assert_eq!(on_the_wire(&event, None), expected);
    }

    #[test]
    fn bytes_that_are_no_key_value_are_refused() {
        assert!(Event::parse(1, false, Bytes::from_static(b"\x0a\x05ab")).is_err());
        assert!(Event::parse(1, false, Bytes::from_static(b"\xff")).is_err());
    }
}
