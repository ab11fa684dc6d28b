//! The cluster's version, and a downgrade under way.
//!
//! The cluster version is the lowest minor version among the members; it says which request kinds
//! may go into the log. The storage version follows it: it says which records may be in the tables,
//! and exists from 3.6 on. etcd lets each member bring its own storage version up to date some
//! seconds later; here it changes with the entry that sets the cluster version, on all members alike.

use std::fmt;

use bytes::Bytes;
use mvcc::{Head, Table};
use serde::{Deserialize, Serialize};

use crate::{RestoreError, json::to_go_json};

const CLUSTER_VERSION: &[u8] = b"clusterVersion";
const DOWNGRADE: &[u8] = b"downgrade";
const STORAGE_VERSION: &[u8] = b"storageVersion";

/// The first version whose storage names its version.
const FIRST_STORAGE_VERSION: Version = Version {
    major: 3,
    minor: 6,
    patch: 0,
};

/// A version number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
}

impl Version {
    /// Reads `X.Y` or `X.Y.Z`; a pre-release or build suffix is dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers.split('.').map(|part| part.parse::<u64>().ok());
        let (major, minor) = (parts.next()??, parts.next()??);
        let patch = parts.next().unwrap_or(Some(0))?;
        parts.next().is_none().then_some(Version { major, minor, patch })
    }

    /// The version without its patch number: what members are compared by.
    pub fn minor_version(self) -> Self {
        Version { patch: 0, ..self }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A downgrade that was asked for; stored as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downgrade {
    /// The version to go down to, such as `3.6.0`; empty when none is under way.
    #[serde(rename = "target-version")]
    pub target_version: String,
    /// Whether a downgrade is under way.
    pub enabled: bool,
}

/// What the cluster table and the storage version say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterVersion {
    version: Option<Version>,
    downgrade: Downgrade,
    storage: Option<Version>,
}

impl ClusterVersion {
    /// Takes a row of the table `cluster` or `meta`; others than its own are passed over.
    pub(crate) fn load(&mut self, table: Table, key: &Bytes, value: &Bytes) -> Result<(), RestoreError> {
        let version = || {
            let version = std::str::from_utf8(value).ok().and_then(Version::parse);
            version.ok_or_else(|| RestoreError::new(table, key, "not a version"))
        };
        match (table, &key[..]) {
            (Table::Cluster, CLUSTER_VERSION) => self.version = Some(version()?),
            (Table::Meta, STORAGE_VERSION) => self.storage = Some(version()?),
            (Table::Cluster, DOWNGRADE) => {
                self.downgrade =
                    serde_json::from_slice(value).map_err(|error| RestoreError::new(table, key, error))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The cluster version, once the first leader has determined it.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The downgrade under way, or one that is not enabled.
    pub fn downgrade(&self) -> &Downgrade {
        &self.downgrade
    }

    /// The storage version; none while the cluster version is below 3.6.
    pub fn storage(&self) -> Option<Version> {
        self.storage
    }

    pub(crate) fn set(&mut self, head: &mut Head, version: Version) {
        self.version = Some(version);
        head.table_put(Table::Cluster, CLUSTER_VERSION, version.to_string().as_bytes());
        let storage = Some(version.minor_version()).filter(|version| *version >= FIRST_STORAGE_VERSION);
        if storage != self.storage {
            match storage {
                Some(storage) => head.table_put(Table::Meta, STORAGE_VERSION, storage.to_string().as_bytes()),
                None => head.table_delete(Table::Meta, STORAGE_VERSION),
            }
            self.storage = storage;
        }
    }

    pub(crate) fn set_downgrade(&mut self, head: &mut Head, enabled: bool, target_version: &str) {
        let target_version = if enabled {
            target_version.to_owned()
        } else {
            String::new()
        };
        self.downgrade = Downgrade {
            target_version,
            enabled,
        };
        head.table_put(Table::Cluster, DOWNGRADE, to_go_json(&self.downgrade).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_operators_write_them() {
        let version = |major, minor, patch| Some(Version { major, minor, patch });
        assert_eq!(Version::parse("3.7"), version(3, 7, 0));
        assert_eq!(Version::parse("3.5.30"), version(3, 5, 30));
        assert_eq!(Version::parse("3.7.0-rc.0"), version(3, 7, 0));
        for bad in [
            "",
            "3",
            "3.",
            "a.b",
            "3.7.x",
            "3.7.1.1",
            "-3.7",
            "99999999999999999999.0",
        ] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_downgrade_is_stored_as_go_stores_it() {
        let downgrade = Downgrade {
            target_version: "3.6.0".into(),
            enabled: true,
        };
        assert_eq!(
            to_go_json(&downgrade),
            r#"{"target-version":"3.6.0","enabled":true}"#
        );
        assert_eq!(
            to_go_json(&Downgrade::default()),
            r#"{"target-version":"","enabled":false}"#
        );
    }
}
