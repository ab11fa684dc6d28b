//! etcd's words as types.
//!
//! Bare integers and byte strings from the wire become these once, at the edge; inside, a lease id
//! cannot be taken for a revision and a key range is parsed only once, so that authorization and
//! execution look at the same range.

mod error;
pub mod go;
mod key_range;
pub mod print;

pub use error::{CODE_NAMES, Code, ErrorKind};
pub use key_range::KeyRange;

use std::fmt;

use bytes::Bytes;

/// A key. The empty key is not a key; requests that carry it are refused at the edge.
pub type Key = Bytes;

/// Position of one change in the history of the store.
///
/// `main` counts modifying transactions, starting at 1 for the empty store; `sub` counts the changes
/// inside one transaction, in execution order. Clients only ever see `main`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The transaction.
    pub main: i64,
    /// The change inside the transaction.
    pub sub: u32,
}

impl Revision {
    /// The revision of an empty store.
    pub const FIRST: i64 = 1;

    /// A revision from its two parts.
    pub fn new(main: i64, sub: u32) -> Self {
        Revision { main, sub }
    }

    /// The key of this revision in etcd's bbolt bucket `key`: main big-endian, `_`, sub big-endian.
    pub fn to_bolt_key(self) -> [u8; 17] {
        let mut key = [b'_'; 17];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[9..].copy_from_slice(&u64::from(self.sub).to_be_bytes());
        key
    }

    /// Reads what [`to_bolt_key`](Self::to_bolt_key) wrote; a tombstone's trailing `t` is ignored.
    pub fn from_bolt_key(key: &[u8]) -> Option<Self> {
        if !(17..=18).contains(&key.len()) || key[8] != b'_' {
            return None;
        }
        let main = i64::from_be_bytes(key[..8].try_into().ok()?);
        let sub = u64::from_be_bytes(key[9..17].try_into().ok()?);
        Some(Revision::new(main, u32::try_from(sub).ok()?))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        /// Lower-case hex without padding, as etcd prints ids.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// A lease. Any value but 0 is possible, negative ones included; 0 means "no lease" on the wire.
    LeaseId(i64)
);
id!(
    /// A member of the cluster, and a node of the raft group.
    MemberId(u64)
);
id!(
    /// The cluster, fixed at its bootstrap.
    ClusterId(u64)
);

/// Position of an entry in the raft log, starting at 1.
pub type Index = u64;

/// A raft term.
pub type Term = u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bolt_keys_round_trip_and_sort_like_revisions() {
        let revisions = [(1, 0), (1, 1), (2, 0), (255, 256), (256, 0), (i64::MAX, u32::MAX)];
        let keys: Vec<_> = revisions.map(|(m, s)| Revision::new(m, s).to_bolt_key()).into();
        assert!(keys.is_sorted());
        for ((main, sub), key) in revisions.into_iter().zip(&keys) {
            assert_eq!(Revision::from_bolt_key(key), Some(Revision::new(main, sub)));
        }
        assert_eq!(Revision::from_bolt_key(b"short"), None);
    }

    #[test]
    fn ids_print_as_go_prints_them() {
        assert_eq!(MemberId(0x8e9e05c52164694d).to_string(), "8e9e05c52164694d");
        assert_eq!(LeaseId(-1).to_string(), "ffffffffffffffff");
    }
}
