//! Where one JSON value ends and the next begins.
//!
//! A body holds one value, or for some calls one after the other for as long as the caller likes. It comes in pieces,
//! and every value is wanted as soon as it is whole. So each byte is looked at once, for brackets and quotes only; that
//! a value is JSON is for serde_json to say, once, when it is whole.

use bytes::{Buf, Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde_json::Deserializer;

use crate::Refusal;

/// The values in a body.
#[derive(Debug)]
pub struct Values {
    buffer: BytesMut,
    bytes_max: usize,
    scanned: Scan,
}

/// How far a value has been looked at.
#[derive(Debug, Default)]
struct Scan {
    bytes: usize,
    depth: usize,
    in_string: bool,
    after_backslash: bool,
}

impl Values {
    /// None yet. A value may have so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Values {
            buffer: BytesMut::new(),
            bytes_max,
            scanned: Scan::default(),
        }
    }

    /// Takes in the next piece of the body.
    ///
    /// # Errors
    /// A value is too large.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        self.buffer.extend_from_slice(piece);
        match self.buffer.len() > self.bytes_max {
            true => Err(self.too_large()),
            false => Ok(()),
        }
    }

    fn too_large(&self) -> Refusal {
        let (size, max) = (self.buffer.len(), self.bytes_max);
        Refusal::new(
            8,
            format!("grpc: received message larger than max ({size} vs. {max})"),
        )
    }

    /// The next value that is whole; none if more has to come first, or if the body has `ended` with the last one.
    ///
    /// # Errors
    /// What comes next is no JSON.
    pub fn next(&mut self, ended: bool) -> Result<Option<Bytes>, Refusal> {
        if self.scanned.bytes == 0 {
            let blank = self.buffer.iter().take_while(|byte| is_blank(**byte)).count();
            self.buffer.advance(blank);
        }
        match self.buffer.first() {
            None => Ok(None),
            Some(b'{' | b'[') => match self.scanned.end(&self.buffer) {
                Some(end) => {
                    self.scanned = Scan::default();
                    let value = self.buffer.split_to(end).freeze();
                    parse(&value)?;
                    Ok(Some(value))
                }
                None if ended => Err(parse(&self.buffer).expect_err("a bracket is open")),
                None => Ok(None),
            },
            // No message, but wrong in its own way.
            Some(_) => {
                let is_first_look = self.scanned.bytes == 0;
                let is_whole = self.scanned.end(&self.buffer).is_some();
                match is_first_look || is_whole || ended {
                    true => self.other(ended),
                    false => Ok(None),
                }
            }
        }
    }

    /// A text, a number or a word; none if more has to come first.
    fn other(&mut self, ended: bool) -> Result<Option<Bytes>, Refusal> {
        match parse(&self.buffer) {
            Ok(length) => {
                self.scanned = Scan::default();
                Ok(Some(self.buffer.split_to(length).freeze()))
            }
            Err(refusal) if ended || refusal.message != UNFINISHED => Err(refusal),
            Err(_) => Ok(None),
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether numbers and words are made of it.
fn is_of_a_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

impl Scan {
    /// Where the value ends that the buffer begins with; behind a number or a word that is the byte after it.
    fn end(&mut self, buffer: &[u8]) -> Option<usize> {
        for byte in &buffer[self.bytes..] {
            self.bytes += 1;
            match (self.in_string, byte) {
                (true, _) if self.after_backslash => self.after_backslash = false,
                (true, b'\\') => self.after_backslash = true,
                (_, b'"') => {
                    self.in_string = !self.in_string;
                    if !self.in_string && self.depth == 0 {
                        return Some(self.bytes);
                    }
                }
                (false, b'{' | b'[') => self.depth += 1,
                (false, b'}' | b']') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.bytes);
                    }
                }
                (false, byte) if self.depth == 0 && !is_of_a_word(*byte) => return Some(self.bytes),
                _ => {}
            }
        }
        None
    }
}

/// What Go says of a value that is cut short.
const UNFINISHED: &str = "unexpected EOF";

/// The length of the JSON value that the text begins with.
fn parse(text: &[u8]) -> Result<usize, Refusal> {
    let mut values = Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(values.byte_offset()),
        // Go needs nothing behind a number to know that it has ended.
        Some(Err(error)) if error.to_string().starts_with("trailing characters") => {
            Ok(position(&error, text))
        }
        Some(Err(error)) if !error.is_eof() && !lacks_a_digit(text) => {
            Err(Refusal::invalid(in_gos_words(&error, text)))
        }
        Some(Err(_)) | None => Err(Refusal::invalid(UNFINISHED)),
    }
}

/// Whether a text ends within a number that another digit would complete.
fn lacks_a_digit(text: &[u8]) -> bool {
    let completed = || [text, b"0"].concat();
    let goes_on = |text: Vec<u8>| match Deserializer::from_slice(&text).into_iter::<IgnoredAny>().next() {
        Some(Err(error)) => error.is_eof(),
        Some(Ok(_)) | None => true,
    };
    matches!(text.last(), Some(b'-' | b'+' | b'e' | b'E')) && goes_on(completed())
}

/// Where the character at fault stands.
fn position(error: &serde_json::Error, text: &[u8]) -> usize {
    let line_start = text
        .split_inclusive(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum::<usize>();
    // Column 0 is the line feed before the line.
    let at = (line_start + error.column()).saturating_sub(1);
    at.min(text.len())
}

/// A syntax error as Go's decoder words it: the character at fault, and where it stands.
fn in_gos_words(error: &serde_json::Error, whole: &[u8]) -> String {
    let (before, rest) = whole.split_at(position(error, whole));
    let text = error.to_string();
    let is_control = text.starts_with("control character");
    let escape = text
        .starts_with("invalid escape")
        .then(|| hex_escape(before))
        .flatten();
    let culprit = match escape {
        // Its position is that of the byte before it.
        _ if is_control => rest.get(1),
        Some(begin) => whole[begin..].iter().find(|byte| !byte.is_ascii_hexdigit()),
        None => rest.first(),
    };
    let culprit = culprit.copied().unwrap_or_default();
    let place = match text.split(" at line ").next().unwrap_or_default() {
        "key must be a string" => "looking for beginning of object key string".into(),
        "trailing comma" if culprit == b'}' => "looking for beginning of object key string".into(),
        "expected `:`" => "after object key".into(),
        "expected `,` or `}`" => "after object key:value pair".into(),
        "expected `,` or `]`" => "after array element".into(),
        "invalid escape" if escape.is_some() => "in \\u hexadecimal character escape".into(),
        "invalid escape" => "in string escape code".into(),
        "expected ident" => in_literal(before),
        "invalid number" => in_number(before).into(),
        _ if is_control => "in string literal".into(),
        _ => "looking for beginning of value".into(),
    };
    format!("invalid character {} {place}", quoted(culprit))
}

/// Where the digits of an escape with four of them begin that is open.
fn hex_escape(before: &[u8]) -> Option<usize> {
    let tail = before.len().saturating_sub(5);
    let found = before[tail..].windows(2).rposition(|pair| pair == b"\\u")?;
    Some(tail + found + 2)
}

/// Which literal is being spelled wrongly, and the letter that should come.
fn in_literal(before: &[u8]) -> String {
    let letters = before.iter().rev().take_while(|byte| byte.is_ascii_alphabetic());
    let count = letters.count();
    let first = before.get(before.len() - count).copied().unwrap_or_default();
    let literal = match first {
        b't' => "true",
        b'f' => "false",
        _ => "null",
    };
    let expected = literal.chars().nth(count).unwrap_or_default();
    format!("in literal {literal} (expecting '{expected}')")
}

fn in_number(before: &[u8]) -> &'static str {
    match before.last() {
        Some(b'.') => "after decimal point in numeric literal",
        Some(b'e' | b'E' | b'+') => "in exponent of numeric literal",
        Some(b'0') => "after object key:value pair",
        _ => "in numeric literal",
    }
}

/// A byte in quotes, as Go shows it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        _ => format!("'{}'", escaped(char::from(byte))),
    }
}

/// A character as Go shows it in quotes.
pub(crate) fn escaped(character: char) -> String {
    let escape = match character {
        '\x07' => r"\a",
        '\x08' => r"\b",
        '\x0c' => r"\f",
        '\n' => r"\n",
        '\r' => r"\r",
        '\t' => r"\t",
        '\x0b' => r"\v",
        '\\' => r"\\",
        '"' => r#"\""#,
        '\0'..='\x1f' | '\x7f' => return format!(r"\x{:02x}", u32::from(character)),
        // No mark to be printed, but a blank, a hyphen that is not there, the ends of lines.
        '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{2028}' | '\u{2029}' => {
            return format!(r"\u{:04x}", u32::from(character));
        }
        _ => return character.to_string(),
    };
    escape.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let mut values = Values::new(1000);
        values.feed(text.as_bytes()).unwrap();
        loop {
            match values.next(true) {
                Ok(Some(_)) => {}
                Ok(None) => return "nothing".into(),
                Err(refusal) => return refusal.message,
            }
        }
    }

    #[test]
    fn values_are_found_however_they_are_cut() {
        let whole = br#" {"a":"}\"]{"} [1,[2]]{} {"b":{"c":[]}}  "#;
        for step in 1..whole.len() {
            let mut values = Values::new(100);
            let mut found = Vec::new();
            for piece in whole.chunks(step) {
                values.feed(piece).unwrap();
                while let Some(value) = values.next(false).unwrap() {
                    found.push(String::from_utf8(value.to_vec()).unwrap());
                }
            }
            assert_eq!(
                found,
                [r#"{"a":"}\"]{"}"#, "[1,[2]]", "{}", r#"{"b":{"c":[]}}"#],
                "in pieces of {step}"
            );
            assert_eq!(values.next(true), Ok(None));
        }
    }

    #[test]
    fn a_byte_is_shown_as_go_shows_it() {
        for (byte, shown) in [
            (b'a', "'a'"),
            (b'"', "'\"'"),
            (b'\'', r"'\''"),
            (0x1f, r"'\x1f'"),
            (0x80, r"'\u0080'"),
            (0xe9, "'\u{e9}'"),
        ] {
            assert_eq!(quoted(byte), shown);
        }
    }

    #[test]
    fn a_value_that_is_no_message_is_told_as_soon_as_it_ends() {
        for (pieces, value) in [
            (&["\"a\\\"", "b", "\"", "{"][..], "\"a\\\"b\""),
            (&["  t", "ru", "e", " "], "true"),
            (&["7+5"], "7"),
        ] {
            let mut values = Values::new(100);
            let mut found = Vec::new();
            for piece in pieces {
                values.feed(piece.as_bytes()).unwrap();
                found.extend(values.next(false).unwrap());
            }
            assert_eq!(found, [value]);
        }
    }

    /// Were it looked at from its beginning with every piece, this would take an hour.
    #[test]
    fn a_long_text_in_single_bytes_is_looked_at_once() {
        const BYTES: usize = 1 << 20;
        let mut values = Values::new(BYTES);
        values.feed(b"\"").unwrap();
        for _ in 1..BYTES {
            values.feed(b"a").unwrap();
            assert_eq!(values.next(false), Ok(None));
        }
    }

    #[test]
    fn a_value_that_is_too_large_is_refused_before_it_is_whole() {
        let mut values = Values::new(10);
        let refusal = values.feed(br#"{"key":"aaaa"#).unwrap_err();
        assert_eq!(refusal.http_status(), 429);
    }

    /// Each as etcd 3.5.30 says it.
    #[test]
    fn what_is_wrong_is_said_as_go_says_it() {
        for (text, message) in [
            ("", "nothing"),
            (" \n", "nothing"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{", "unexpected EOF"),
            (r#"{"a":"b"#, "unexpected EOF"),
            (
                r#"{"a":1,}"#,
                "invalid character '}' looking for beginning of object key string",
            ),
            (
                r#"{a:1}"#,
                "invalid character 'a' looking for beginning of object key string",
            ),
            (r#"{"a" "b"}"#, "invalid character '\"' after object key"),
            (
                r#"{"a":1 "b"}"#,
                "invalid character '\"' after object key:value pair",
            ),
            (
                r#"{"a":truex}"#,
                "invalid character 'x' after object key:value pair",
            ),
            (
                r#"{"a":tru}"#,
                "invalid character '}' in literal true (expecting 'e')",
            ),
            (
                r#"{"a":nil}"#,
                "invalid character 'i' in literal null (expecting 'u')",
            ),
            (r#"{"a":"\x"}"#, "invalid character 'x' in string escape code"),
            (
                r#"{"a":"\u00zz"}"#,
                "invalid character 'z' in \\u hexadecimal character escape",
            ),
            (
                r#"{"a":"\u12"}"#,
                "invalid character '\"' in \\u hexadecimal character escape",
            ),
            ("-", "unexpected EOF"),
            ("5e", "unexpected EOF"),
            (r#"{"a":-"#, "unexpected EOF"),
            ("--", "invalid character '-' in numeric literal"),
            (r#"{"a":01}"#, "invalid character '1' after object key:value pair"),
            (
                r#"{"a":1.}"#,
                "invalid character '}' after decimal point in numeric literal",
            ),
            (
                r#"{"a":1e}"#,
                "invalid character '}' in exponent of numeric literal",
            ),
            (r#"{"a":-}"#, "invalid character '}' in numeric literal"),
            ("{\"a\":\"\t\"}", "invalid character '\\t' in string literal"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "{\"a\":tru\n}",
                "invalid character '\\n' in literal true (expecting 'e')",
            ),
            ("\u{7}", "invalid character '\\a' looking for beginning of value"),
            (
                "{\u{80}}",
                "invalid character '\u{c2}' looking for beginning of object key string",
            ),
            (
                "{\n \"a\": b}",
                "invalid character 'b' looking for beginning of value",
            ),
        ] {
            assert_eq!(refused(text), message, "{text}");
        }
    }
}
