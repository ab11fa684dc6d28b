//! Half-open key ranges, parsed once from the wire's `key` and `range_end`.

use std::ops::Bound;

use bytes::Bytes;

use crate::Key;

/// A set of adjacent keys in byte order.
///
/// On the wire a range is two byte strings with conventions: an empty `range_end` names one key, a
/// single zero byte means "no upper end", both together name the whole key space (etcd's API page,
/// "key ranges"). The conventions end here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly one key.
    One(Key),
    /// `start <= key < end`. Contains nothing when `end <= start`.
    Span(Key, Key),
    /// `start <= key`.
    From(Key),
    /// Every key.
    All,
}

impl KeyRange {
    /// The wire's byte string for "no upper end", and for "from the first key on".
    const ZERO: &[u8] = &[0];

    /// Parses the wire form.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        match (key.as_ref(), range_end.as_ref()) {
            (_, []) => KeyRange::One(key),
            (Self::ZERO | [], Self::ZERO) => KeyRange::All,
            (_, Self::ZERO) => KeyRange::From(key),
            _ => KeyRange::Span(key, range_end),
        }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::One(one) => one == key,
            KeyRange::Span(start, end) => start.as_ref() <= key && key < end.as_ref(),
            KeyRange::From(start) => start.as_ref() <= key,
            KeyRange::All => true,
        }
    }

    /// Whether no key at all is in the range.
    pub fn is_empty(&self) -> bool {
        matches!(self, KeyRange::Span(start, end) if end <= start)
    }

    /// The smallest key that can be in the range.
    pub fn start(&self) -> &[u8] {
        match self {
            KeyRange::One(start) | KeyRange::Span(start, _) | KeyRange::From(start) => start,
            KeyRange::All => &[],
        }
    }

    /// The upper end.
    pub fn end(&self) -> Bound<&[u8]> {
        match self {
            KeyRange::One(key) => Bound::Included(key),
            KeyRange::Span(_, end) => Bound::Excluded(end),
            KeyRange::From(_) | KeyRange::All => Bound::Unbounded,
        }
    }

    /// Whether `key` lies behind the upper end.
    pub fn is_past_end(&self, key: &[u8]) -> bool {
        match self.end() {
            Bound::Included(end) => key > end,
            Bound::Excluded(end) => key >= end,
            Bound::Unbounded => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::from_wire(Bytes::from_static(key), Bytes::from_static(end))
    }

    #[test]
    fn the_wire_conventions() {
        assert_eq!(parse(b"a", b""), KeyRange::One("a".into()));
        assert_eq!(parse(b"a", b"c"), KeyRange::Span("a".into(), "c".into()));
        assert_eq!(parse(b"a", b"\0"), KeyRange::From("a".into()));
        assert_eq!(parse(b"\0", b"\0"), KeyRange::All);
        assert_eq!(parse(b"\0", b""), KeyRange::One(Bytes::from_static(b"\0")));
    }

    #[test]
    fn ends_are_exclusive_and_inverted_ranges_empty() {
        let span = parse(b"a", b"c");
        assert!(span.contains(b"a") && span.contains(b"bzz"));
        assert!(!span.contains(b"c") && span.is_past_end(b"c"));
        assert!(parse(b"c", b"a").is_empty() && parse(b"c", b"c").is_empty());
        assert!(!parse(b"c", b"a").contains(b"b"));
        assert!(parse(b"b", b"\0").contains(b"\xff\xff") && !parse(b"b", b"\0").contains(b"a"));
    }
}
