//! A message out of JSON.
//!
//! serde_json takes the text apart, one object or list at a time, into slices of it. What they mean is decided by the
//! message's descriptor, and where a slice lies is its position in an error.

use std::borrow::Cow;
use std::collections::HashSet;

use base64::Engine;
use base64::alphabet::{self, Alphabet};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::values::escaped;
use crate::{Method, Refusal};

/// Messages inside each other. Transactions nest; the protobuf decoder's limit is about three times that. Each level
/// is looked through once more than the one around it, so this also bounds the work that a request can make.
const DEPTH_MAX: usize = 32;

/// Commas and opening brackets of a request. Each may stand for a value that takes a hundred bytes of memory and two or
/// three of JSON. A request of the default size has room for fewer operations that do anything.
const PARTS_MAX: usize = 1 << 20;

impl Method {
    /// The request that a JSON value stands for, encoded.
    ///
    /// # Errors
    /// The value does not fit the message.
    pub fn read(&self, json: &[u8]) -> Result<Bytes, Refusal> {
        let is_part = |byte: &&u8| matches!(byte, b',' | b'{' | b'[');
        if json.iter().filter(is_part).count() > PARTS_MAX {
            return Err(Refusal::new(8, "a request in JSON may have 1048576 parts"));
        }
        let (text, no_text) = as_text(json);
        let reader = Reader {
            bytes: json,
            text: &text,
            no_text,
        };
        let value = raw(&text).ok_or_else(|| Refusal::invalid("unexpected EOF"))?;
        let message = reader.message(&self.request, value, DEPTH_MAX)?;
        Ok(message.encode_to_vec().into())
    }
}

/// The bytes as a text of the same length, and where the first byte is that was none.
fn as_text(json: &[u8]) -> (Cow<'_, str>, Option<usize>) {
    let no_text = match std::str::from_utf8(json) {
        Ok(text) => return (text.into(), None),
        Err(error) => error.valid_up_to(),
    };
    let mut text = String::with_capacity(json.len());
    for chunk in json.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    (text.into(), Some(no_text))
}

/// A text that is one JSON value.
fn raw(text: &str) -> Option<&RawValue> {
    serde_json::from_str(text).ok()
}

/// Names and values of an object, each as it is written.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

struct Reader<'a> {
    /// The whole value.
    bytes: &'a [u8],
    /// The same, with as many question marks in the place of bytes that are no text.
    text: &'a str,
    /// Where the first byte is that was no text.
    no_text: Option<usize>,
}

impl<'a> Reader<'a> {
    fn message(
        &self,
        descriptor: &MessageDescriptor,
        value: &'a RawValue,
        depth: usize,
    ) -> Result<DynamicMessage, Refusal> {
        if depth == 0 {
            return Err(Refusal::invalid("proto: exceeded max recursion depth"));
        }
        let members: Members<'a> = match value.get().starts_with('{') {
            true => serde_json::from_str(value.get()).map_err(|error| Refusal::invalid(error.to_string()))?,
            false => return Err(self.unexpected(value)),
        };
        let mut message = DynamicMessage::new(descriptor.clone());
        let (mut seen, mut chosen) = (HashSet::new(), HashSet::new());
        for (name, value) in members.0 {
            let Some(field) = self.field(descriptor, name)? else {
                self.check_strings(value)?;
                continue;
            };
            if !seen.insert(field.number()) {
                return Err(self.wrong(name, &format!("duplicate field {}", name.get())));
            }
            if value.get() == "null" {
                continue;
            }
            if let Some(oneof) = field.containing_oneof()
                && !chosen.insert(oneof.full_name().to_owned())
            {
                let (name_text, oneof) = (name.get(), oneof.full_name());
                let problem = format!("error parsing {name_text}, oneof {oneof} is already set");
                return Err(self.wrong(name, &problem));
            }
            let value = match field.is_list() {
                true => Some(Value::List(self.list(&field, value, depth)?)),
                false => self.single(&field, value, depth)?,
            };
            if let Some(value) = value {
                message.set_field(&field, value);
            }
        }
        Ok(message)
    }

    /// The field of this name; none if the message has no such field, which is nothing bad.
    fn field(
        &self,
        descriptor: &MessageDescriptor,
        name: &RawValue,
    ) -> Result<Option<FieldDescriptor>, Refusal> {
        let name: String = self.string(name)?;
        let field = descriptor.get_field_by_json_name(&name);
        Ok(field.or_else(|| descriptor.get_field_by_name(&name)))
    }

    fn list(
        &self,
        field: &FieldDescriptor,
        value: &'a RawValue,
        depth: usize,
    ) -> Result<Vec<Value>, Refusal> {
        if !value.get().starts_with('[') {
            return Err(self.unexpected(value));
        }
        let items: Vec<&RawValue> =
            serde_json::from_str(value.get()).map_err(|error| Refusal::invalid(error.to_string()))?;
        let values = items.into_iter().map(|item| self.single(field, item, depth));
        values.filter_map(Result::transpose).collect()
    }

    /// One value; none if it is an enum's name that nobody knows.
    fn single(
        &self,
        field: &FieldDescriptor,
        value: &'a RawValue,
        depth: usize,
    ) -> Result<Option<Value>, Refusal> {
        let text = value.get();
        if text.starts_with('"') {
            self.check_strings(value)?;
        }
        let read = match field.kind() {
            Kind::Message(inner) => {
                return Ok(Some(Value::Message(self.message(&inner, value, depth - 1)?)));
            }
            Kind::Enum(known) if text.starts_with('"') => {
                let name = self.string(value)?;
                let value = known.get_value_by_name(&name);
                return Ok(value.map(|value| Value::EnumNumber(value.number())));
            }
            Kind::String if text.starts_with('"') => Some(Value::String(self.string(value)?)),
            Kind::Bytes if text.starts_with('"') => bytes(&self.string(value)?).map(Value::Bytes),
            Kind::Bool => serde_json::from_str(text).ok().map(Value::Bool),
            Kind::Enum(_) => integer(text)
                .and_then(|number| number.parse().ok())
                .map(Value::EnumNumber),
            kind if text.starts_with('"') => self.string(value).ok().and_then(|text| number(&kind, &text)),
            kind => number(&kind, text),
        };
        let wrong = || {
            let token = token(value);
            let problem = format!(
                "invalid value for {} field {}: {token}",
                kind(field),
                field.json_name()
            );
            self.wrong(value, &problem)
        };
        read.map(Some).ok_or_else(wrong)
    }

    fn string(&self, value: &RawValue) -> Result<String, Refusal> {
        self.check_strings(value)?;
        serde_json::from_str(value.get())
            .map_err(|_| self.syntax(self.offset(value), "invalid escape code in string"))
    }

    /// Refuses a string with bytes in it that are no text, or with half of a surrogate pair. The value may be a string,
    /// or have any number of them. What JSON knows as escapes has been seen to already.
    fn check_strings(&self, value: &RawValue) -> Result<(), Refusal> {
        let (begin, bytes) = (self.offset(value), value.get().as_bytes());
        let (mut at, mut string) = (0, None);
        while let Some(byte) = bytes.get(at) {
            at += match (string, byte) {
                (None, b'"') => {
                    string = Some(begin + at);
                    1
                }
                (Some(_), b'"') => {
                    string = None;
                    1
                }
                (Some(string), b'\\') if bytes.get(at + 1) == Some(&b'u') => {
                    self.escape_length(string, begin + at)?
                }
                (Some(_), b'\\') => 2,
                (Some(string), _) if self.no_text == Some(begin + at) => {
                    return Err(self.syntax(string, "invalid UTF-8 in string"));
                }
                _ => 1,
            };
        }
        Ok(())
    }

    /// How long the escape of a UTF-16 unit is, with that of the other half if it is the first one of a pair. Go looks at
    /// as many bytes as that would have, whatever they are.
    fn escape_length(&self, string: usize, at: usize) -> Result<usize, Refusal> {
        let unit = |escape: &[u8]| {
            let digits = escape.strip_prefix(b"\\u").unwrap_or_default();
            u16::from_str_radix(std::str::from_utf8(digits).unwrap_or_default(), 16).ok()
        };
        let rest = &self.bytes[at..];
        let (escape, rest) = rest.split_at(rest.len().min(ESCAPE_BYTES));
        let Some(first @ 0xd800..=0xdfff) = unit(escape) else {
            return Ok(ESCAPE_BYTES);
        };
        let Some(other) = rest.get(..ESCAPE_BYTES) else {
            return Err(Refusal::invalid("proto: unexpected EOF"));
        };
        match (first, unit(other)) {
            (..0xdc00, Some(0xdc00..=0xdfff)) => Ok(2 * ESCAPE_BYTES),
            _ => Err(self.syntax(
                string,
                &format!("invalid escape code \"{}\" in string", shown(other)),
            )),
        }
    }

    fn unexpected(&self, value: &RawValue) -> Refusal {
        let string = value.get().starts_with('"').then(|| self.check_strings(value));
        match string {
            Some(Err(refusal)) => refusal,
            _ => self.syntax(self.offset(value), &format!("unexpected token {}", token(value))),
        }
    }

    fn wrong(&self, value: &RawValue, problem: &str) -> Refusal {
        let (line, column) = self.position(self.offset(value));
        Refusal::invalid(format!("proto: (line {line}:{column}): {problem}"))
    }

    fn syntax(&self, at: usize, problem: &str) -> Refusal {
        let (line, column) = self.position(at);
        Refusal::invalid(format!("proto: syntax error (line {line}:{column}): {problem}"))
    }

    /// Where a slice of the text begins.
    fn offset(&self, value: &RawValue) -> usize {
        (value.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    /// Line and column, each counted from 1, the column in characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let line_text = before.rsplit('\n').next().unwrap_or_default();
        (line, line_text.chars().count() + 1)
    }
}

/// A backslash, a `u` and four hexadecimal digits.
const ESCAPE_BYTES: usize = 6;

/// Bytes as Go quotes them.
fn shown(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        shown.extend(chunk.valid().chars().map(escaped));
        shown.extend(chunk.invalid().iter().map(|byte| format!(r"\x{byte:02x}")));
    }
    shown
}

/// What errors show of a value: of an object or a list only its bracket.
fn token(value: &RawValue) -> &str {
    let text = value.get();
    match text.starts_with(['{', '[']) {
        true => &text[..1],
        false => text,
    }
}

/// The word for a field's kind.
fn kind(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Enum(_) => "enum".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// A number of this kind, as JSON writes numbers.
fn number(kind: &Kind, text: &str) -> Option<Value> {
    let digits = integer(text)?;
    match kind {
        Kind::Int32 => digits.parse().ok().map(Value::I32),
        Kind::Int64 => digits.parse().ok().map(Value::I64),
        Kind::Uint32 => digits.parse().ok().map(Value::U32),
        Kind::Uint64 => digits.parse().ok().map(Value::U64),
        _ => None,
    }
}

/// Digits of the largest number.
const DIGITS_MAX: usize = 20;

/// A JSON number that is whole, however it is written, in plain digits: `1.50e1` is 15.
fn integer(text: &str) -> Option<String> {
    let text = raw(text).map(RawValue::get).filter(|value| *value == text)?;
    if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    let (sign, number) = text.split_at(usize::from(text.starts_with('-')));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.is_empty() && fraction.is_empty() {
        return Some("0".to_owned());
    }
    let exponent: i32 = exponent.parse().ok()?;
    let shift = exponent.unsigned_abs() as usize;
    let digits = match exponent {
        0.. if fraction.len() > shift || whole.len().saturating_add(shift) > DIGITS_MAX => return None,
        0.. => format!("{whole}{fraction}{}", "0".repeat(shift - fraction.len())),
        _ if !fraction.is_empty() => return None,
        _ => {
            let (kept, dropped) = whole.split_at(whole.len().checked_sub(shift)?);
            dropped
                .bytes()
                .all(|digit| digit == b'0')
                .then(|| kept.to_owned())?
        }
    };
    Some(format!("{sign}{digits}"))
}

const fn base64(alphabet: &Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(padding);
    GeneralPurpose::new(alphabet, config)
}

const STANDARD: GeneralPurpose = base64(&alphabet::STANDARD, DecodePaddingMode::RequireCanonical);
const STANDARD_UNPADDED: GeneralPurpose = base64(&alphabet::STANDARD, DecodePaddingMode::RequireNone);
const URL_SAFE: GeneralPurpose = base64(&alphabet::URL_SAFE, DecodePaddingMode::RequireCanonical);
const URL_SAFE_UNPADDED: GeneralPurpose = base64(&alphabet::URL_SAFE, DecodePaddingMode::RequireNone);

/// Base64 of either alphabet, padded or not, in lines or not.
fn bytes(text: &str) -> Option<Bytes> {
    let engine = match (text.contains(['-', '_']), text.len().is_multiple_of(4)) {
        (false, true) => STANDARD,
        (false, false) => STANDARD_UNPADDED,
        (true, true) => URL_SAFE,
        (true, false) => URL_SAFE_UNPADDED,
    };
    let decoded = match text.contains(['\r', '\n']) {
        true => engine.decode(text.replace(['\r', '\n'], "")),
        false => engine.decode(text),
    };
    decoded.ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{AuthUserAddRequest, PutRequest, RangeRequest, TxnRequest, WatchRequest};

    use super::*;

    fn read<T: Message + Default>(path: &str, json: &str) -> Result<T, String> {
        let method = Method::at(path).unwrap();
        let message = method.read(json.as_bytes()).map_err(|refusal| refusal.message)?;
        Ok(T::decode(message).unwrap())
    }

    fn range(json: &str) -> Result<RangeRequest, String> {
        read("/v3/kv/range", json)
    }

    #[test]
    fn fields_have_either_name_and_unknown_ones_are_passed_over() {
        let expected = RangeRequest {
            key: "foo".into(),
            range_end: "fop".into(),
            limit: 7,
            keys_only: true,
            sort_order: 2,
            ..Default::default()
        };
        for json in [
            r#"{"key":"Zm9v","range_end":"Zm9w","limit":"7","keys_only":true,"sort_order":"DESCEND"}"#,
            r#"{"sortOrder":2,"keysOnly":true,"limit":7,"rangeEnd":"Zm9w","key":"Zm9v","new":{"x":[1]}}"#,
            r#" {"\u006bey":"Zm9v","rangeEnd":"Zm9w","limit":"7e0","keysOnly":true,"sort_order":2.0,"revision":null}"#,
        ] {
            assert_eq!(range(json).as_ref(), Ok(&expected), "{json}");
        }
        assert_eq!(
            range(r#"{"KEY":"Zm9v","sort_order":"SIDEWAYS"}"#),
            Ok(RangeRequest::default())
        );
    }

    #[test]
    fn bytes_are_base64_of_either_kind() {
        for (text, bytes) in [
            ("Z_-8", &b"g\xff\xbc"[..]),
            ("Z/+8", b"g\xff\xbc"),
            ("Zg", b"f"),
            ("Zg==", b"f"),
            ("Zm\\n9v", b"foo"),
            ("", b""),
        ] {
            let put: PutRequest = read("/v3/kv/put", &format!(r#"{{"key":"{text}"}}"#)).unwrap();
            assert_eq!(put.key, bytes, "{text}");
        }
        for text in ["Zg=", "***", "Z/_8", "Z"] {
            let json = format!(r#"{{"key":"{text}"}}"#);
            let expected = format!("proto: (line 1:8): invalid value for bytes field key: \"{text}\"");
            assert_eq!(range(&json), Err(expected));
        }
    }

    #[test]
    fn whole_numbers_may_be_written_in_any_way() {
        for (text, number) in [
            ("15", 15),
            ("1.5e1", 15),
            ("\"150e-1\"", 15),
            ("-0", 0),
            ("\"-1\"", -1),
            ("100e-2", 1),
            ("0.0e-99999999999", 0),
            ("1000000000000000000000e-21", 1),
        ] {
            let found = range(&format!(r#"{{"limit":{text}}}"#)).map(|range| range.limit);
            assert_eq!(found, Ok(number), "{text}");
        }
        for text in [
            "1.5",
            "9223372036854775808",
            "1e400000000",
            "1e99",
            "0.1",
            "1e-1",
            "0.00000000000000000000000000001e29",
            "\"\"",
            "\" 1\"",
            "\"0x1\"",
            "true",
            "{",
            "\"x\"",
        ] {
            let (value, token) = match text {
                "{" => ("{}", "{"),
                other => (other, other),
            };
            let expected = format!("proto: (line 1:10): invalid value for int64 field limit: {token}");
            assert_eq!(range(&format!(r#"{{"limit":{value}}}"#)), Err(expected));
        }
    }

    #[test]
    fn an_error_names_the_place() {
        for (json, message) in [
            ("[]", "proto: syntax error (line 1:1): unexpected token ["),
            ("null", "proto: syntax error (line 1:1): unexpected token null"),
            (
                r#"{"key":"","key":""}"#,
                r#"proto: (line 1:11): duplicate field "key""#,
            ),
            (
                r#"{"keysOnly":true,"keys_only":true}"#,
                r#"proto: (line 1:18): duplicate field "keys_only""#,
            ),
            (
                "{\n \"x\":\"\u{e4}\", \"count_only\":1}",
                "proto: (line 2:24): invalid value for bool field countOnly: 1",
            ),
            (
                r#"{"sort_order":99999999999}"#,
                "proto: (line 1:15): invalid value for enum field sortOrder: 99999999999",
            ),
        ] {
            assert_eq!(range(json), Err(message.to_owned()));
        }
    }

    /// Each as etcd 3.5.30 says it.
    #[test]
    fn a_string_is_text_wherever_it_stands() {
        for (json, message) in [
            (&br#"{"key":"\ud800"}"#[..], "unexpected EOF"),
            (
                br#"{"key":"\ud800","x":1}"#,
                r#"syntax error (line 1:8): invalid escape code "\",\"x\":" in string"#,
            ),
            (
                br#"{"x":[{"y":"\ud800"}],"key":""}"#,
                r#"syntax error (line 1:12): invalid escape code "\"}],\"k" in string"#,
            ),
            (
                br#"{"\ud800\ud800":1}"#,
                r#"syntax error (line 1:2): invalid escape code "\\ud800" in string"#,
            ),
            (
                br#"{"limit":"\ud800\u0041"}"#,
                r#"syntax error (line 1:10): invalid escape code "\\u0041" in string"#,
            ),
            (
                b"{\"x\":\"\\ud800\xff\",\"a\":1}",
                r#"syntax error (line 1:6): invalid escape code "\xff\",\"a\"" in string"#,
            ),
            (
                b"{\"key\":\"a\xff\"}",
                "syntax error (line 1:8): invalid UTF-8 in string",
            ),
            (
                b"{\"limit\":\"x\",\"key\":\"a\xff\"}",
                "(line 1:10): invalid value for int64 field limit: \"x\"",
            ),
        ] {
            let refusal = Method::at("/v3/kv/range").unwrap().read(json).unwrap_err();
            assert_eq!(refusal.message, format!("proto: {message}"));
        }
        let user: AuthUserAddRequest = read("/v3/auth/user/add", r#"{"name":"\ud83d\ude00"}"#).unwrap();
        assert_eq!(user.name, "\u{1f600}");
    }

    #[test]
    fn a_request_has_so_many_parts_and_no_more() {
        let txn = |parts: usize| {
            let json = format!(r#"{{"compare":[{}{{}}]}}"#, "{},".repeat((parts - 3) / 2));
            read::<TxnRequest>("/v3/kv/txn", &json).map(|txn| txn.compare.len())
        };
        assert_eq!(txn(1001), Ok(500));
        let refusal = "a request in JSON may have 1048576 parts".to_owned();
        assert_eq!(txn(PARTS_MAX + 3), Err(refusal));
    }

    #[test]
    fn of_alternatives_one_may_be_set() {
        let json = r#"{"create_request":{"key":"Zm9v"},"cancel_request":null}"#;
        assert!(
            read::<WatchRequest>("/v3/watch", json)
                .unwrap()
                .request_union
                .is_some()
        );
        let json = r#"{"create_request":{},"cancel_request":{}}"#;
        assert_eq!(
            read::<WatchRequest>("/v3/watch", json),
            Err("proto: (line 1:22): error parsing \"cancel_request\", oneof etcdserverpb.WatchRequest.request_union is already set".into())
        );
    }

    #[test]
    fn transactions_nest_up_to_a_depth() {
        let nested = |depth: usize| {
            let open = r#"{"success":[{"request_txn":"#.repeat(depth);
            let close = "}]}".repeat(depth);
            read::<TxnRequest>("/v3/kv/txn", &format!("{open}{{}}{close}"))
        };
        assert!(nested(15).is_ok());
        assert_eq!(nested(40), Err("proto: exceeded max recursion depth".into()));
    }
}
