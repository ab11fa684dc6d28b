//! The small tables beside the keys: etcd's other bbolt buckets.

use bytes::Bytes;

/// One of etcd's small buckets. The number is the one in the store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// 8-byte big-endian lease id to `leasepb.Lease`.
    Lease = 1,
    /// `AlarmMember` as key, nothing as value.
    Alarm = 2,
    /// `authEnabled` and `authRevision`.
    Auth = 3,
    /// User name to `authpb.User`.
    AuthUsers = 4,
    /// Role name to `authpb.Role`.
    AuthRoles = 5,
    /// Hex member id to the member as JSON.
    Members = 6,
    /// Hex member id to `removed`.
    MembersRemoved = 7,
    /// `clusterVersion` and `downgrade`.
    Cluster = 8,
    /// Everything a member knows about its own files, e.g. `scheduledCompactRev`.
    Meta = 9,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub const ALL: [Table; 9] = [
        Table::Lease,
        Table::Alarm,
        Table::Auth,
        Table::AuthUsers,
        Table::AuthRoles,
        Table::Members,
        Table::MembersRemoved,
        Table::Cluster,
        Table::Meta,
    ];

    /// The table with this number in the store's files.
    pub fn from_number(number: u8) -> Option<Table> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The bucket's name in etcd's database.
    pub fn name(self) -> &'static str {
        match self {
            Table::Lease => "lease",
            Table::Alarm => "alarm",
            Table::Auth => "auth",
            Table::AuthUsers => "authUsers",
            Table::AuthRoles => "authRoles",
            Table::Members => "members",
            Table::MembersRemoved => "members_removed",
            Table::Cluster => "cluster",
            Table::Meta => "meta",
        }
    }
}

/// One change of a small table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// The table.
    pub table: Table,
    /// The key in it.
    pub key: Bytes,
    /// What the key holds from now on; nothing after a delete.
    pub value: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pinned() {
        for (at, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, at + 1);
            assert_eq!(Table::from_number(table as u8), Some(table));
        }
        assert_eq!(Table::from_number(0), None);
        assert_eq!(Table::from_number(10), None);
    }
}
