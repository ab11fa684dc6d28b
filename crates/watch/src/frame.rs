//! One response on its way to one watcher: a small head of its own, and events shared with others.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, check_wire_type, decode_varint, encode_key, encode_varint};
use prost::{DecodeError, Message};
use proto::etcdserverpb::WatchResponse;

use crate::event::EVENTS;

/// A `WatchResponse` whose events are encoded already.
///
/// On the wire it cannot be told from the plain message: the events are its last field, so the bytes
/// of the head and the shared bytes of the events one after the other *are* the message. A thousand
/// watchers of one key hold a thousand heads and one body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Everything but the events; `head.events` stays empty.
    head: WatchResponse,
    /// The entries of field 11, each with tag and length.
    events: Bytes,
    count: u32,
}

impl Frame {
    /// A response without events.
    pub(crate) fn control(head: WatchResponse) -> Self {
        Frame {
            head,
            ..Frame::default()
        }
    }

    /// A response with `count` encoded events.
    pub(crate) fn new(head: WatchResponse, events: Bytes, count: u32) -> Self {
        Frame { head, events, count }
    }

    /// The response without its events.
    pub fn head(&self) -> &WatchResponse {
        &self.head
    }

    /// How many events the response has.
    pub fn event_count(&self) -> u32 {
        self.count
    }

    /// The encoded events: the same allocation for every watcher that gets the same bytes.
    pub fn events(&self) -> &Bytes {
        &self.events
    }

    /// The plain message, for callers inside the process (JSON gateway, locks, elections).
    ///
    /// # Errors
    /// The stored bytes of an event are damaged.
    pub fn into_response(self) -> Result<WatchResponse, DecodeError> {
        let mut response = self.head;
        response.merge(self.events)?;
        Ok(response)
    }

    /// The same response in pieces of less than `max_bytes`, each with at least one event. All but
    /// the last say that more follows.
    pub(crate) fn fragments(self, max_bytes: usize) -> Vec<Frame> {
        if self.encoded_len() < max_bytes {
            return vec![self];
        }
        let head = WatchResponse {
            fragment: true,
            ..self.head
        };
        let room = max_bytes.saturating_sub(head.encoded_len());
        let mut frames = Vec::new();
        let mut rest = self.events;
        let (mut end, mut count) = (0, 0);
        while let Some(len) = entry_len(&rest[end..]) {
            if count > 0 && end + len >= room {
                frames.push(Frame::new(head.clone(), rest.split_to(end), count));
                (end, count) = (0, 0);
            }
            end += len;
            count += 1;
        }
        frames.push(Frame::new(
            WatchResponse {
                fragment: false,
                ..head
            },
            rest,
            count,
        ));
        frames
    }
}

/// Length of the first entry in `events`, tag and length included.
fn entry_len(events: &[u8]) -> Option<usize> {
    let mut rest = events.get(1..)?;
    let len = decode_varint(&mut rest).ok()? as usize;
    Some(events.len() - rest.len() + len)
}

/// Lets the frame go through the ordinary codec of a `WatchResponse`.
impl Message for Frame {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.head.encode_raw(buf);
        buf.put_slice(&self.events);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != EVENTS {
            return self.head.merge_field(tag, wire_type, buf, ctx);
        }
        check_wire_type(WireType::LengthDelimited, wire_type)?;
        let mut event = Bytes::new();
        prost::encoding::bytes::merge(wire_type, &mut event, buf, ctx)?;
        let mut events = BytesMut::from(std::mem::take(&mut self.events));
        encode_key(EVENTS, WireType::LengthDelimited, &mut events);
        encode_varint(event.len() as u64, &mut events);
        events.put_slice(&event);
        self.events = events.freeze();
        self.count += 1;
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.head.encoded_len() + self.events.len()
    }

    fn clear(&mut self) {
        *self = Frame::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::etcdserverpb::ResponseHeader;
    use proto::mvccpb::{Event, KeyValue};

    use super::*;

    fn response(sizes: &[usize]) -> WatchResponse {
        let event = |&size: &usize| Event {
            kv: Some(KeyValue {
                key: "k".into(),
                value: vec![b'v'; size].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        WatchResponse {
            header: Some(ResponseHeader {
                revision: 9,
                ..Default::default()
            }),
            watch_id: 300,
            events: sizes.iter().map(event).collect(),
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn a_frame_and_the_plain_message_are_the_same_bytes(sizes in prop::collection::vec(0..400usize, 0..6)) {
            let plain = response(&sizes);
            let frame = Frame::decode(plain.encode_to_vec().as_slice()).unwrap();
            prop_assert_eq!(frame.event_count() as usize, sizes.len());
            prop_assert_eq!(frame.encoded_len(), plain.encoded_len());
            prop_assert_eq!(frame.encode_to_vec(), plain.encode_to_vec());
            prop_assert_eq!(frame.into_response().unwrap(), plain);
        }

        #[test]
        fn fragments_are_the_whole_in_pieces_below_the_limit(
            sizes in prop::collection::vec(0..400usize, 0..12),
            max_bytes in 1..900usize,
        ) {
            let plain = response(&sizes);
            let frame = Frame::decode(plain.encode_to_vec().as_slice()).unwrap();
            let pieces: Vec<_> = frame
                .fragments(max_bytes)
                .into_iter()
                .map(|piece| (piece.event_count() as usize, piece.into_response().unwrap()))
                .collect();
            let (_, last) = pieces.last().unwrap();
            prop_assert!(!last.fragment);
            prop_assert!(pieces.iter().rev().skip(1).all(|(_, piece)| piece.fragment));
            for (count, piece) in &pieces {
                prop_assert_eq!(*count, piece.events.len());
                prop_assert!(piece.events.len() < 2 || piece.encoded_len() < max_bytes);
                prop_assert_eq!((&piece.header, piece.watch_id), (&plain.header, plain.watch_id));
            }
            // No piece could have taken the first event of the next one as well.
            for pair in pieces.windows(2) {
                let mut longer = pair[0].1.clone();
                longer.events.push(pair[1].1.events[0].clone());
                prop_assert!(longer.encoded_len() >= max_bytes);
            }
            let joined: Vec<_> = pieces.into_iter().flat_map(|(_, piece)| piece.events).collect();
            prop_assert_eq!(joined, plain.events);
        }
    }
}
