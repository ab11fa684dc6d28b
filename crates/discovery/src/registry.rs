//! The register that a discovery service keeps, as keys and rules. No I/O here.
//!
//! ```text
//! /_etcd/registry/<token>/_config/size       how many members there will be
//! /_etcd/registry/<token>/members/<id>       "name=url", or "name=url,name=url": a member that is there
//! ```
//!
//! Members count in the order in which their keys were created; those beyond the size come too late. Who
//! registers again, after a crash, keeps its place.

use types::MemberId;

const PREFIX: &str = "/_etcd/registry";

/// A key of the register with its value, and the revision that created it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: String,
    pub created: i64,
}

/// Why an entry does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("invalid peer info returned from discovery service")]
    NoMember,
    #[error("found duplicate peer from discovery service")]
    Duplicate,
}

/// The key of the cluster's size.
pub fn size_key(token: &str) -> String {
    path(token, "_config/size")
}

/// What the keys of the members begin with.
pub fn members_prefix(token: &str) -> String {
    path(token, "members")
}

/// The key of a member.
pub fn member_key(token: &str, id: MemberId) -> String {
    path(token, &format!("members/{id}"))
}

/// Joins the parts as Go's `path.Join` does, so that all find the same keys whatever is in the token: no
/// empty parts, and `.` and `..` mean what they mean in paths.
fn path(token: &str, rest: &str) -> String {
    let whole = format!("{PREFIX}/{token}/{rest}");
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A cluster's size, if the text is one.
pub fn parse_size(text: &[u8]) -> Option<usize> {
    let size: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// The members that have registered, the first ones first.
#[derive(Clone, Debug)]
pub struct Roll {
    size: usize,
    entries: Vec<Entry>,
}

impl Roll {
    /// Nobody yet, of so many.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            entries: Vec::new(),
        }
    }

    /// How many there will be.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes a member in, at its place.
    pub fn add(&mut self, entry: Entry) -> Result<(), Rejected> {
        if !entry.value.contains('=') {
            return Err(Rejected::NoMember);
        }
        if self.entries.iter().any(|known| known.key == entry.key) {
            return Err(Rejected::Duplicate);
        }
        let place = self
            .entries
            .partition_point(|known| known.created <= entry.created);
        self.entries.insert(place, entry);
        Ok(())
    }

    /// The members that count.
    fn counted(&self) -> &[Entry] {
        &self.entries[..self.size.min(self.entries.len())]
    }

    /// Whether all are there.
    pub fn is_complete(&self) -> bool {
        self.counted().len() == self.size
    }

    /// Whether all are there, and the member with this key is none of them.
    pub fn is_full_without(&self, key: &str) -> bool {
        self.is_complete() && self.counted().iter().all(|entry| entry.key != key)
    }

    /// What the members that count say of themselves.
    pub fn members(&self) -> Vec<String> {
        self.counted().iter().map(|entry| entry.value.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, value: &str, created: i64) -> Entry {
        Entry {
            key: member_key("t", MemberId(id)),
            value: value.to_owned(),
            created,
        }
    }

    fn roll(size: usize, entries: &[Entry]) -> Roll {
        let mut roll = Roll::new(size);
        for entry in entries {
            roll.add(entry.clone()).expect("it is a member");
        }
        roll
    }

    #[test]
    fn keys_are_etcds() {
        let token = "8A591FAB-1D72-41FA-BDF2-A27162FDA1E0";
        assert_eq!(
            size_key(token),
            "/_etcd/registry/8A591FAB-1D72-41FA-BDF2-A27162FDA1E0/_config/size"
        );
        assert_eq!(members_prefix("fakeToken"), "/_etcd/registry/fakeToken/members");
        assert_eq!(
            member_key("fakeToken", MemberId(0xabc)),
            "/_etcd/registry/fakeToken/members/abc"
        );
    }

    #[test]
    fn a_token_with_slashes_and_dots_is_cleaned_as_go_does() {
        for (token, key) in [
            (
                "https://discovery.etcd.io/3e86",
                "/_etcd/registry/https:/discovery.etcd.io/3e86/members",
            ),
            ("/a//b/", "/_etcd/registry/a/b/members"),
            ("a/./b/../c", "/_etcd/registry/a/c/members"),
            ("../../../x", "/x/members"),
            ("", "/_etcd/registry/members"),
        ] {
            assert_eq!(members_prefix(token), key, "{token:?}");
        }
    }

    #[test]
    fn a_size_is_a_positive_number_and_nothing_else() {
        assert_eq!(parse_size(b"3"), Some(3));
        assert_eq!(parse_size(b"+3"), Some(3));
        let bad = [
            "",
            "0",
            "-1",
            "3\n",
            " 3",
            "three",
            "9223372036854775808",
            "\u{663}",
        ];
        for bad in bad {
            assert_eq!(parse_size(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn members_count_in_the_order_of_their_creation_up_to_the_size() {
        let all = [
            entry(3, "c=http://c:1", 9),
            entry(1, "a=http://a:1", 7),
            entry(2, "b=http://b:1,b=http://b:2", 8),
        ];
        let two = roll(2, &all);
        assert_eq!(two.members(), ["a=http://a:1", "b=http://b:1,b=http://b:2"]);
        assert!(two.is_complete());
        assert!(two.is_full_without(&all[0].key));
        assert!(!two.is_full_without(&all[1].key), "the first one is in");
        let four = roll(4, &all);
        assert!(!four.is_complete());
        assert!(!four.is_full_without("a stranger"), "there is room");
    }

    /// The oracle: walk along the members in order as etcd does, and stop at oneself or at the end.
    #[test]
    fn who_comes_too_late_is_who_is_not_met_on_a_walk_along_the_first_ones() {
        for size in 1..5 {
            for registered in 0..6_u64 {
                let entries: Vec<_> = (0..registered)
                    .map(|n| entry(n, "m=http://m:1", n as i64))
                    .collect();
                let roll = roll(size, &entries);
                for seeker in 0..7_u64 {
                    let seeker = member_key("t", MemberId(seeker));
                    let mut full = false;
                    for (place, known) in entries.iter().enumerate() {
                        if known.key == seeker {
                            break;
                        }
                        if place + 1 >= size {
                            full = true;
                            break;
                        }
                    }
                    assert_eq!(
                        roll.is_full_without(&seeker),
                        full,
                        "{seeker} of {registered}, size {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_member_or_is_there_already_is_not_taken_in() {
        let mut roll = roll(2, &[entry(1, "a=http://a:1", 7)]);
        // A deleted key comes without a value.
        assert_eq!(roll.add(entry(2, "", 0)), Err(Rejected::NoMember));
        assert_eq!(
            roll.add(entry(1, "a=http://other:1", 7)),
            Err(Rejected::Duplicate)
        );
        assert_eq!((roll.len(), roll.size()), (1, 2));
        assert_eq!(roll.members(), ["a=http://a:1"]);
    }
}
