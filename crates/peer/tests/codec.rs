//! What the two codecs write, and what they make of bytes that others wrote.

use bytes::{Bytes, BytesMut};
use peer::codec::{Codec, DecodeError, Decoder, Encoder, MAX_ENTRIES, MAX_MESSAGE_BYTES};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};
use types::MemberId;

const FROM: u64 = 7;
const TO: u64 = 9;
const CODECS: [Codec; 2] = [Codec::Message, Codec::MsgApp];

fn decoder(codec: Codec) -> Decoder {
    Decoder::new(codec, MemberId(FROM), MemberId(TO))
}

fn encode(codec: Codec, messages: &[Message]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(codec), BytesMut::new());
    for message in messages {
        encoder.heartbeat(&mut out);
        encoder.encode(message, &mut out);
    }
    out.to_vec()
}

/// Decodes bytes that come in portions of these sizes, over and over.
fn decode(codec: Codec, mut bytes: &[u8], portions: &[usize]) -> Result<Vec<Message>, DecodeError> {
    let (mut decoder, mut messages) = (decoder(codec), Vec::new());
    for portion in portions.iter().cycle() {
        let (now, later) = bytes.split_at(bytes.len().min(*portion));
        decoder.push(now);
        while let Some(message) = decoder.next_message()? {
            messages.push(message);
        }
        bytes = later;
        if bytes.is_empty() {
            break;
        }
    }
    Ok(messages)
}

fn append(term: u64, log_term: u64, index: u64, entries: Vec<Entry>, commit: u64) -> Message {
    Message {
        r#type: MessageType::MsgApp as i32,
        from: FROM,
        to: TO,
        term,
        log_term,
        index,
        entries,
        commit,
        ..Default::default()
    }
}

fn entries(after: u64, term: u64, datas: &[Vec<u8>]) -> Vec<Entry> {
    let numbered = (after + 1..).zip(datas);
    let entry = |(index, data): (u64, &Vec<u8>)| Entry {
        term,
        index,
        data: (!data.is_empty()).then(|| Bytes::copy_from_slice(data)),
        ..Default::default()
    };
    numbered.map(entry).collect()
}

/// An append in words: how it stands to the one before it, and what it carries.
#[derive(Clone, Debug)]
struct Plan {
    term_rises: bool,
    log_term_is_older: bool,
    goes_back: u64,
    datas: Vec<Vec<u8>>,
    commit: u64,
}

fn plan() -> impl Strategy<Value = Plan> {
    let rarely = || prop::bool::weighted(0.2);
    let back = prop_oneof![4 => Just(0_u64), 1 => 1..5_u64];
    let datas = vec(vec(any::<u8>(), 0..40), 0..4);
    (rarely(), rarely(), back, datas, any::<u64>()).prop_map(
        |(term_rises, log_term_is_older, goes_back, datas, commit)| Plan {
            term_rises,
            log_term_is_older,
            goes_back,
            datas,
            commit,
        },
    )
}

/// What a leader sends: most appends go on where the one before it ended.
fn appends(plans: &[Plan]) -> Vec<Message> {
    let (mut term, mut last) = (1, 10);
    let mut follow = |plan: &Plan| {
        term += u64::from(plan.term_rises);
        let log_term = term - u64::from(plan.log_term_is_older);
        let index: u64 = last - plan.goes_back.min(last);
        let entries = entries(index, term, &plan.datas);
        last = index + entries.len() as u64;
        append(term, log_term, index, entries, plan.commit)
    };
    plans.iter().map(&mut follow).collect()
}

fn portions() -> impl Strategy<Value = Vec<usize>> {
    vec(1..60_usize, 1..8)
}

proptest! {
    #[test]
    fn appends_come_out_as_they_went_in(plans in vec(plan(), 0..20), portions in portions()) {
        let messages = appends(&plans);
        for codec in CODECS {
            let bytes = encode(codec, &messages);
            prop_assert_eq!(&decode(codec, &bytes, &portions).unwrap(), &messages);
        }
    }

    #[test]
    fn any_message_passes_the_message_codec(
        kinds in vec((0..20_i32, 1..9_u64, any::<u64>(), any::<bool>(), vec(any::<u8>(), 0..40)), 0..20),
        portions in portions(),
    ) {
        let message = |(kind, from, term, reject, context): (i32, u64, u64, bool, Vec<u8>)| Message {
            r#type: kind,
            from,
            to: TO,
            term,
            reject,
            context: Some(context.into()),
            ..Default::default()
        };
        let messages: Vec<_> = kinds.into_iter().map(message).collect();
        let bytes = encode(Codec::Message, &messages);
        prop_assert_eq!(decode(Codec::Message, &bytes, &portions).unwrap(), messages);
    }

    #[test]
    fn the_portions_do_not_change_what_arbitrary_bytes_mean(
        noise in vec(prop_oneof![3 => 0..3_u8, 1 => any::<u8>()], 0..200),
        portions in portions(),
    ) {
        for codec in CODECS {
            let told = |portions: &[usize]| {
                decode(codec, &noise, portions).map_err(|error| error.to_string())
            };
            prop_assert_eq!(told(&portions), told(&[usize::MAX]));
        }
    }

    #[test]
    fn a_stream_that_was_damaged_or_cut_never_gives_more_messages_than_bytes(
        plans in vec(plan(), 1..8),
        at in any::<prop::sample::Index>(),
        damage in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        portions in portions(),
    ) {
        for codec in CODECS {
            let mut bytes = encode(codec, &appends(&plans));
            let at = at.index(bytes.len());
            bytes[at] ^= damage;
            bytes.truncate(cut.index(bytes.len()));
            if let Ok(messages) = decode(codec, &bytes, &portions) {
                prop_assert!(messages.len() <= bytes.len());
            }
        }
    }
}

#[test]
fn a_message_frame_is_its_length_and_the_message() {
    let message = Message {
        r#type: MessageType::MsgVote as i32,
        to: 2,
        from: 1,
        term: 3,
        ..Default::default()
    };
    let bytes = encode(Codec::Message, std::slice::from_ref(&message));
    let (heartbeat, frame) = bytes.split_at(bytes.len() - 8 - message.encoded_len());
    assert_eq!(frame[..8], (message.encoded_len() as u64).to_be_bytes());
    assert_eq!(frame[8..], message.encode_to_vec());
    assert_eq!(heartbeat[..8], (heartbeat.len() as u64 - 8).to_be_bytes());
    let decoded = Message::decode(&heartbeat[8..]).unwrap();
    assert_eq!(decoded.r#type(), MessageType::MsgHeartbeat);
    assert_eq!((decoded.from, decoded.to), (0, 0));
}

#[test]
fn the_frames_of_msgappv2_are_these_bytes() {
    let first = append(4, 3, 5, entries(5, 4, &[b"a".to_vec()]), 5);
    let second = append(4, 4, 6, entries(6, 4, &[b"bc".to_vec()]), 6);
    let none = append(4, 4, 7, vec![], 7);
    let [mut full, mut followed, mut empty] = [vec![0, 2], vec![0, 1], vec![0, 1]];
    full.extend((first.encoded_len() as u64).to_be_bytes());
    full.extend(first.encode_to_vec());
    followed.extend(1_u64.to_be_bytes());
    followed.extend((second.entries[0].encoded_len() as u64).to_be_bytes());
    followed.extend(second.entries[0].encode_to_vec());
    followed.extend(6_u64.to_be_bytes());
    empty.extend(0_u64.to_be_bytes());
    empty.extend(7_u64.to_be_bytes());
    let bytes = encode(Codec::MsgApp, &[first, second, none]);
    assert_eq!(bytes, [full, followed, empty].concat());
}

#[test]
fn signs_of_life_are_kept_from_the_reader() {
    for codec in CODECS {
        let mut out = BytesMut::new();
        Encoder::new(codec).heartbeat(&mut out);
        assert!(!out.is_empty());
        assert_eq!(decode(codec, &out, &[1]).unwrap(), vec![]);
    }
}

#[test]
fn a_length_above_the_limit_is_refused_before_anything_follows_it() {
    let too_long = (MAX_MESSAGE_BYTES + 1).to_be_bytes();
    let too_many = (MAX_ENTRIES + 1).to_be_bytes();
    let one = 1_u64.to_be_bytes();
    let cases: [(Codec, Vec<u8>, u64); 4] = [
        (Codec::Message, too_long.to_vec(), MAX_MESSAGE_BYTES + 1),
        (
            Codec::MsgApp,
            [&[2][..], &too_long].concat(),
            MAX_MESSAGE_BYTES + 1,
        ),
        (Codec::MsgApp, [&[1][..], &too_many].concat(), MAX_ENTRIES + 1),
        (
            Codec::MsgApp,
            [&[1][..], &one, &u64::MAX.to_be_bytes()].concat(),
            u64::MAX,
        ),
    ];
    for (codec, bytes, announced) in cases {
        match decode(codec, &bytes, &[3]) {
            Err(DecodeError::TooLong(length)) => assert_eq!(length, announced),
            other => panic!("{bytes:?}: {other:?}"),
        }
    }
}

#[test]
fn the_entries_of_one_append_are_together_not_longer_than_a_message() {
    let entry = entries(0, 1, &[b"x".to_vec()]).remove(0).encode_to_vec();
    let mut bytes = vec![1];
    bytes.extend(2_u64.to_be_bytes());
    bytes.extend((entry.len() as u64).to_be_bytes());
    bytes.extend(entry);
    bytes.extend(MAX_MESSAGE_BYTES.to_be_bytes());
    let told = decode(Codec::MsgApp, &bytes, &[5]);
    assert!(matches!(told, Err(DecodeError::TooLong(_))), "{told:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_length_that_is_allowed_takes_no_memory_before_the_bytes_are_there() {
    let mut decoders = Vec::new();
    for _ in 0..64 {
        let mut decoder = decoder(Codec::Message);
        decoder.push(&MAX_MESSAGE_BYTES.to_be_bytes());
        assert!(decoder.next_message().unwrap().is_none());
        decoders.push(decoder);
    }
    let promised = (64 * MAX_MESSAGE_BYTES) >> 10;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmPeak:"))
        .unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < promised, "{kilobytes} KiB were taken for {promised}");
}

#[test]
fn a_frame_of_no_known_type_ends_the_stream() {
    let told = decode(Codec::MsgApp, &[0, 3], &[1]);
    assert!(matches!(told, Err(DecodeError::UnknownFrame(3))), "{told:?}");
}

#[test]
fn bytes_that_are_no_message_end_the_stream() {
    let told = decode(Codec::Message, &[0, 0, 0, 0, 0, 0, 0, 1, 0xff], &[4]);
    assert!(matches!(told, Err(DecodeError::Malformed(_))), "{told:?}");
}
