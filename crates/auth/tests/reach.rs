//! What a user reaches, against a model that looks at every single key.

use auth::{Access, Reach};
use bytes::Bytes;
use proptest::prelude::*;
use proto::authpb::Permission;
use proto::authpb::permission::Type;
use types::KeyRange;

/// Every key of up to three letters out of two, in order.
fn all_keys() -> Vec<Bytes> {
    let mut keys = vec![vec![]];
    for _ in 0..3 {
        let longer: Vec<_> = keys
            .iter()
            .flat_map(|key: &Vec<u8>| [b"\0", b"a", b"b"].map(|letter| [&key[..], letter].concat()))
            .collect();
        keys.extend(longer);
    }
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|key| !key.is_empty())
        .map(Bytes::from)
        .collect()
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "aa", "ab", "b", "ba", "bb"]).prop_map(Bytes::from)
}

fn end() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "\0", "a", "aa", "ab", "b", "ba", "bb"]).prop_map(Bytes::from)
}

fn permission() -> impl Strategy<Value = Permission> {
    (0..3i32, key(), end()).prop_map(|(perm_type, key, range_end)| Permission {
        perm_type,
        key,
        range_end,
    })
}

fn grants(permission: &Permission, access: Access, key: &[u8]) -> bool {
    let kind = Type::try_from(permission.perm_type).unwrap();
    let fits = kind == Type::Readwrite
        || kind == Type::Read && access == Access::Read
        || kind == Type::Write && access == Access::Write;
    fits && KeyRange::from_wire(permission.key.clone(), permission.range_end.clone()).contains(key)
}

proptest! {
    /// Whoever may touch every key of a range may touch the range. The ends of all intervals are short, so keys of
    /// three letters stand for all that lie between.
    #[test]
    fn a_range_is_covered_when_each_of_its_keys_is(
        permissions in prop::collection::vec(permission(), 0..6), start in key(), end in end(), write: bool,
    ) {
        let access = if write { Access::Write } else { Access::Read };
        let range = KeyRange::from_wire(start.clone(), end);
        let reached = |key: &Bytes| permissions.iter().any(|permission| grants(permission, access, key));
        let keys = all_keys();
        let mut asked = keys.iter().filter(|key| range.contains(key)).peekable();
        // A range without keys counts as the key it begins with.
        let each = if asked.peek().is_none() { reached(&start) } else { asked.all(reached) };
        // Beyond the last key of the model there are more, which only an open end covers.
        let endless = |permission: &Permission| permission.range_end[..] == [0] && grants(permission, access, b"bbb");
        let open = !matches!(range, KeyRange::From(_)) || permissions.iter().any(endless);
        prop_assert_eq!(Reach::new(&permissions).covers(access, &range), each && open);
    }
}
