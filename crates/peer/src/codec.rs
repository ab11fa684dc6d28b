//! What runs in a stream: messages behind each other, in one of two codecs.
//!
//! | codec | frame |
//! |---|---|
//! | message | length (8 B), message |
//! | msgappv2, `00` | link heartbeat, nothing follows |
//! | msgappv2, `01` | number of entries (8 B); each: length (8 B), entry; commit index (8 B) |
//! | msgappv2, `02` | length (8 B), message |
//!
//! All numbers are big-endian. Form `01` is for an append that continues where the stream stands: its
//! term and index are those of the last frame, and the members are those at the ends of the stream. So
//! both sides of msgappv2 have a state, which starts anew with each stream.
//!
//! In the message codec a link heartbeat is a MsgHeartbeat from nobody to nobody. Decoders keep link
//! heartbeats to themselves.
//!
//! Decoders take bytes in any portions. A length that was announced only says how much to wait for;
//! memory is taken for what has arrived.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};
use types::MemberId;

/// Longest message, and most that the entries of one append are together; etcd's limit for each of them.
pub const MAX_MESSAGE_BYTES: u64 = 512 << 20;
/// Most entries of one append: above what the largest append that raft makes (1 MiB) can hold, and low
/// enough that empty entries do not fill the memory.
pub const MAX_ENTRIES: u64 = 1 << 20;

const HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const MESSAGE: u8 = 2;

/// The two kinds of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Any message.
    Message,
    /// Only MsgApp.
    MsgApp,
}

/// Bytes that are no stream of messages.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A length or a number above its limit.
    #[error("a length of {0} is above the limit")]
    TooLong(u64),
    /// The first byte of a frame is none that is known.
    #[error("unknown frame type {0}")]
    UnknownFrame(u8),
    /// The bytes of a frame are no message.
    #[error("not a message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

fn is_link_heartbeat(message: &Message) -> bool {
    message.r#type == MessageType::MsgHeartbeat as i32 && message.from == 0 && message.to == 0
}

/// Term and index of the last append, known to both ends of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    fn after(message: &Message) -> Self {
        Position {
            term: message.term,
            index: message.entries.last().map_or(message.index, |entry| entry.index),
        }
    }

    fn is_continued_by(self, message: &Message) -> bool {
        message.index == self.index && message.log_term == self.term && message.term == self.term
    }
}

/// The sending end of a stream.
#[derive(Debug)]
pub struct Encoder {
    codec: Codec,
    position: Position,
}

impl Encoder {
    /// At the start of a stream.
    pub fn new(codec: Codec) -> Self {
        Encoder {
            codec,
            position: Position::default(),
        }
    }

    /// Appends a message.
    pub fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        match self.codec {
            Codec::Message => put_block(message, out),
            Codec::MsgApp if self.position.is_continued_by(message) => self.encode_entries(message, out),
            Codec::MsgApp => {
                out.put_u8(MESSAGE);
                put_block(message, out);
                self.position = Position::after(message);
            }
        }
    }

    fn encode_entries(&mut self, message: &Message, out: &mut BytesMut) {
        out.put_u8(ENTRIES);
        out.put_u64(message.entries.len() as u64);
        for entry in &message.entries {
            put_block(entry, out);
        }
        out.put_u64(message.commit);
        self.position.index += message.entries.len() as u64;
    }

    /// Appends a sign of life.
    pub fn heartbeat(&self, out: &mut BytesMut) {
        match self.codec {
            Codec::Message => put_block(
                &Message {
                    r#type: MessageType::MsgHeartbeat as i32,
                    ..Default::default()
                },
                out,
            ),
            Codec::MsgApp => out.put_u8(HEARTBEAT),
        }
    }
}

/// Appends the length of a message and the message.
pub(crate) fn put_block(message: &impl prost::Message, out: &mut BytesMut) {
    let len = message.encoded_len();
    out.reserve(8 + len);
    out.put_u64(len as u64);
    message.encode_raw(out);
}

/// Bytes that have arrived, and the length that was announced for the next of them.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    bytes: BytesMut,
    announced: Option<usize>,
}

impl Arrived {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes.has_remaining().then(|| self.bytes.get_u8())
    }

    fn number(&mut self) -> Option<u64> {
        (self.bytes.len() >= 8).then(|| self.bytes.get_u64())
    }

    /// A length and as many bytes, once they are all there.
    pub fn block(&mut self, limit: u64) -> Result<Option<Bytes>, DecodeError> {
        if self.announced.is_none() {
            let Some(length) = self.number() else {
                return Ok(None);
            };
            if length > limit {
                return Err(DecodeError::TooLong(length));
            }
            self.announced = Some(usize::try_from(length).map_err(|_| DecodeError::TooLong(length))?);
        }
        let length = self.announced.filter(|length| self.bytes.len() >= *length);
        Ok(length.map(|length| {
            self.announced = None;
            self.bytes.split_to(length).freeze()
        }))
    }

    /// What follows the last block.
    pub fn rest(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// Where in a msgappv2 frame a decoder stands.
#[derive(Debug)]
enum Frame {
    /// Before a frame's type; in the message codec, always in `Message`.
    Start,
    /// Before the number of entries.
    Count,
    /// Before an entry, or after the last one. All together have the room of a message.
    Entries {
        left: u64,
        room: u64,
        entries: Vec<Entry>,
    },
    /// In a message.
    Message,
}

/// The receiving end of a stream.
#[derive(Debug)]
pub struct Decoder {
    codec: Codec,
    from: MemberId,
    to: MemberId,
    arrived: Arrived,
    frame: Frame,
    position: Position,
}

impl Decoder {
    /// At the start of a stream from one member to another.
    pub fn new(codec: Codec, from: MemberId, to: MemberId) -> Self {
        let mut decoder = Decoder {
            codec,
            from,
            to,
            arrived: Arrived::default(),
            frame: Frame::Start,
            position: Position::default(),
        };
        decoder.frame = decoder.start();
        decoder
    }

    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.arrived.push(bytes);
    }

    /// The next message that is complete. After an error the stream is of no use.
    pub fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        loop {
            match self.step()? {
                Step::More => {}
                Step::Wait => return Ok(None),
                Step::Message(message) if is_link_heartbeat(&message) => {}
                Step::Message(message) => return Ok(Some(*message)),
            }
        }
    }

    fn start(&self) -> Frame {
        match self.codec {
            Codec::Message => Frame::Message,
            Codec::MsgApp => Frame::Start,
        }
    }

    fn step(&mut self) -> Result<Step, DecodeError> {
        match &mut self.frame {
            Frame::Start => {
                let Some(kind) = self.arrived.byte() else {
                    return Ok(Step::Wait);
                };
                self.frame = match kind {
                    HEARTBEAT => Frame::Start,
                    ENTRIES => Frame::Count,
                    MESSAGE => Frame::Message,
                    unknown => return Err(DecodeError::UnknownFrame(unknown)),
                };
                Ok(Step::More)
            }
            Frame::Count => {
                let Some(left) = self.arrived.number() else {
                    return Ok(Step::Wait);
                };
                if left > MAX_ENTRIES {
                    return Err(DecodeError::TooLong(left));
                }
                self.frame = Frame::Entries {
                    left,
                    room: MAX_MESSAGE_BYTES,
                    entries: Vec::new(),
                };
                Ok(Step::More)
            }
            Frame::Entries { left: 0, entries, .. } => {
                let Some(commit) = self.arrived.number() else {
                    return Ok(Step::Wait);
                };
                let entries = std::mem::take(entries);
                Ok(Step::Message(Box::new(self.append(entries, commit))))
            }
            Frame::Entries { left, room, entries } => {
                let Some(entry) = self.arrived.block(*room)? else {
                    return Ok(Step::Wait);
                };
                *room -= entry.len() as u64;
                entries.push(Entry::decode(entry)?);
                *left -= 1;
                Ok(Step::More)
            }
            Frame::Message => {
                let Some(message) = self.arrived.block(MAX_MESSAGE_BYTES)? else {
                    return Ok(Step::Wait);
                };
                let message = Message::decode(message)?;
                self.position = Position::after(&message);
                self.frame = self.start();
                Ok(Step::Message(Box::new(message)))
            }
        }
    }

    /// The append that continues the stream.
    fn append(&mut self, entries: Vec<Entry>, commit: u64) -> Message {
        self.frame = Frame::Start;
        let Position { term, index } = self.position;
        self.position.index = index.wrapping_add(entries.len() as u64);
        Message {
            r#type: MessageType::MsgApp as i32,
            from: self.from.0,
            to: self.to.0,
            term,
            log_term: term,
            index,
            entries,
            commit,
            ..Default::default()
        }
    }
}

/// What came of a look at what has arrived.
enum Step {
    More,
    Wait,
    Message(Box<Message>),
}
