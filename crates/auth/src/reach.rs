//! The keys a user reaches.

use bytes::Bytes;
use proto::authpb::Permission;
use proto::authpb::permission::Type;
use types::KeyRange;

use crate::Access;

/// The union of permissions, for reading and for writing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    read: Keys,
    write: Keys,
}

impl Reach {
    /// What these permissions grant together.
    pub fn new<'a>(permissions: impl IntoIterator<Item = &'a Permission>) -> Self {
        let (mut read, mut write) = (vec![], vec![]);
        for permission in permissions {
            let Some(interval) = Interval::granted(permission) else {
                continue;
            };
            match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => read.push(interval),
                Ok(Type::Write) => write.push(interval),
                Ok(Type::Readwrite) => {
                    read.push(interval.clone());
                    write.push(interval);
                }
                Err(_) => {}
            }
        }
        Reach {
            read: Keys::union(read),
            write: Keys::union(write),
        }
    }

    /// Whether every key of `range` is among them.
    pub fn covers(&self, access: Access, range: &KeyRange) -> bool {
        match access {
            Access::Read => self.read.cover(range),
            Access::Write => self.write.cover(range),
        }
    }
}

/// Adjacent keys: from the first on, up to but without the end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    start: Bytes,
    end: End,
}

/// Where an interval ends. Ends are ordered: nothing comes after `Never`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl Interval {
    /// The keys a permission is about. One without key grants nothing, and one that ends before it begins does not
    /// either; neither can be granted any more, but old folders may hold them.
    fn granted(permission: &Permission) -> Option<Self> {
        let (key, end) = (permission.key.clone(), permission.range_end.clone());
        let range = KeyRange::from_wire(key, end);
        match range {
            _ if permission.key.is_empty() || range.is_empty() => None,
            range => Some(Interval::of(&range)),
        }
    }

    fn of(range: &KeyRange) -> Self {
        let (start, end) = match range {
            KeyRange::One(key) => (key.clone(), End::Before(behind(key))),
            KeyRange::Span(start, end) => (start.clone(), End::Before(end.clone())),
            KeyRange::From(start) => (start.clone(), End::Never),
            // No key is smaller than a single zero byte.
            KeyRange::All => (Bytes::from_static(b"\0"), End::Never),
        };
        Interval { start, end }
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.start <= *key && End::Before(key.clone()) < self.end
    }
}

/// The smallest key behind this one.
fn behind(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// Intervals in order, with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Keys(Vec<Interval>);

impl Keys {
    fn union(mut intervals: Vec<Interval>) -> Self {
        intervals.sort_by(|a, b| a.start.cmp(&b.start));
        let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
        for interval in intervals {
            match merged.last_mut() {
                Some(last) if End::Before(interval.start.clone()) <= last.end => {
                    last.end = last.end.clone().max(interval.end);
                }
                _ => merged.push(interval),
            }
        }
        Keys(merged)
    }

    /// Whether the range lies in one of the intervals. A range without keys has to begin in one.
    fn cover(&self, range: &KeyRange) -> bool {
        let asked = Interval::of(range);
        let behind = self.0.partition_point(|interval| interval.start <= asked.start);
        let nearest = behind.checked_sub(1).map(|at| &self.0[at]);
        nearest.is_some_and(|interval| interval.contains(&asked.start) && asked.end <= interval.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(perm_type: Type, key: &'static str, range_end: &'static str) -> Permission {
        Permission {
            perm_type: perm_type.into(),
            key: key.into(),
            range_end: range_end.into(),
        }
    }

    fn range(key: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_wire(key.into(), end.into())
    }

    #[test]
    fn ranges_that_touch_grant_what_lies_across_them() {
        let reach = Reach::new(&[
            permission(Type::Read, "c", "e"),
            permission(Type::Readwrite, "a", "c"),
            permission(Type::Read, "g", ""),
            permission(Type::Read, "g\0", "h"),
        ]);
        for (key, end, read, write) in [
            ("a", "", true, true),
            ("a", "e", true, false),
            ("a", "c", true, true),
            ("b", "d", true, false),
            ("a", "f", false, false),
            ("e", "", false, false),
            ("g", "h", true, false),
            ("gg", "", true, false),
            ("c", "\0", false, false),
            // No key is in these.
            ("d", "a", true, false),
            ("z", "a", false, false),
        ] {
            assert_eq!(
                reach.covers(Access::Read, &range(key, end)),
                read,
                "read {key:?} {end:?}"
            );
            assert_eq!(
                reach.covers(Access::Write, &range(key, end)),
                write,
                "write {key:?} {end:?}"
            );
        }
    }

    #[test]
    fn an_open_end_is_covered_by_an_open_end_only() {
        let from = Reach::new(&[permission(Type::Write, "k", "\0")]);
        assert!(from.covers(Access::Write, &range("k", "\0")));
        assert!(from.covers(Access::Write, &range("m", "\0")));
        assert!(!from.covers(Access::Write, &range("a", "\0")));
        assert!(!from.covers(Access::Write, &range("\0", "\0")));
        let all = Reach::new(&[permission(Type::Write, "\0", "\0")]);
        assert!(all.covers(Access::Write, &range("\0", "\0")) && all.covers(Access::Write, &range("\0", "")));
        let long = Reach::new(&[permission(Type::Write, "k", "\u{7f}")]);
        assert!(!long.covers(Access::Write, &range("k", "\0")));
    }

    #[test]
    fn a_permission_without_keys_grants_nothing() {
        for (key, end) in [("", ""), ("", "\0"), ("", "z"), ("b", "a"), ("b", "b")] {
            assert_eq!(
                Reach::new(&[permission(Type::Readwrite, key, end)]),
                Reach::default()
            );
        }
    }
}
