//! Ranges of keys as they are typed: a key, a key and an end, everything under a prefix, everything from a key on.

use std::ffi::OsString;

use proto::etcdserverpb::{DeleteRangeRequest, RangeRequest, WatchCreateRequest};

use crate::failure::Failure;
use crate::run::context::bytes;

/// A key and the end of its range; no end is the key alone, and `\0` is no end to the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub key: Vec<u8>,
    pub range_end: Vec<u8>,
}

impl From<Range> for RangeRequest {
    fn from(range: Range) -> Self {
        Self {
            key: range.key.into(),
            range_end: range.range_end.into(),
            ..Self::default()
        }
    }
}

impl From<Range> for DeleteRangeRequest {
    fn from(range: Range) -> Self {
        Self {
            key: range.key.into(),
            range_end: range.range_end.into(),
            ..Self::default()
        }
    }
}

impl From<Range> for WatchCreateRequest {
    fn from(range: Range) -> Self {
        Self {
            key: range.key.into(),
            range_end: range.range_end.into(),
            ..Self::default()
        }
    }
}

/// From the words and switches of `get` and `del`.
pub fn typed(words: &[OsString], prefix: bool, from_key: bool) -> Result<Range, Failure> {
    let key = bytes(&words[0]);
    match words.get(1) {
        _ if prefix && from_key => Err(Failure::arguments(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        )),
        Some(_) if prefix || from_key => Err(Failure::arguments(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        )),
        None if prefix => Ok(under(&key)),
        None if from_key => Ok(from(&key)),
        end => Ok(between(key, end)),
    }
}

/// From a key up to an end, or the key alone.
pub fn between(key: Vec<u8>, end: Option<&OsString>) -> Range {
    Range {
        key,
        range_end: end.map(bytes).unwrap_or_default(),
    }
}

/// Everything that begins with `prefix`; all keys, if it is empty.
pub fn under(prefix: &[u8]) -> Range {
    match prefix {
        [] => from(prefix),
        _ => Range {
            key: prefix.to_vec(),
            range_end: client::prefix_end(prefix).to_vec(),
        },
    }
}

/// Everything from a key on. No key is empty, so the first one possible is `\0`.
pub fn from(key: &[u8]) -> Range {
    Range {
        key: if key.is_empty() { vec![0] } else { key.to_vec() },
        range_end: vec![0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &[u8], range_end: &[u8]) -> Range {
        Range {
            key: key.to_vec(),
            range_end: range_end.to_vec(),
        }
    }

    #[test]
    fn a_prefix_ends_where_what_begins_with_it_ends() {
        assert_eq!(under(b"ab"), range(b"ab", b"ac"));
        assert_eq!(under(b"a\xff\xff"), range(b"a\xff\xff", b"b"));
        assert_eq!(under(b"\xff"), range(b"\xff", b"\0"));
        assert_eq!(under(b""), range(b"\0", b"\0"));
    }

    #[test]
    fn words_and_switches_make_one_range_or_an_error() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(typed(&words(&["a"]), false, false).unwrap(), range(b"a", b""));
        assert_eq!(
            typed(&words(&["a", "c"]), false, false).unwrap(),
            range(b"a", b"c")
        );
        assert_eq!(typed(&words(&["a"]), false, true).unwrap(), range(b"a", b"\0"));
        assert_eq!(typed(&words(&["", "c"]), false, false).unwrap(), range(b"", b"c"));
        for (line, prefix, from_key) in [(&["a"][..], true, true), (&["a", "b"][..], true, false)] {
            assert_eq!(typed(&words(line), prefix, from_key).unwrap_err().status, 128);
        }
    }
}
