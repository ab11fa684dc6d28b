//! The cluster's version, and a downgrade under way.
//!
//! The cluster version is the lowest minor version among the members; it says which request kinds
//! may go into the log. The storage version follows it: it says which records may be in the tables,
//! and exists from 3.6 on. etcd lets each member bring its own storage version up to date some
//! seconds later; here it changes with the entry that sets the cluster version, on all members alike.
//!
//! What the leader does about the versions follows from them and from what the members say they are:
//! [`ClusterVersion::next`], [`ClusterVersion::is_downgraded`]. The cluster version only rises, but for a
//! downgrade, which takes it down by one minor version so that older members may join again. While one is
//! under way the version does not rise.
//!
//! Every kind of request that we propose is known to 3.5. So a member like this one acts at the version of
//! an older cluster by leaving that version where it is. That is why a downgrade may go on, step by step,
//! where no member stands in its way: etcd goes the next step only when every member runs the release of
//! the last one.

use std::fmt;

use bytes::Bytes;
use mvcc::{Head, Table};
use serde::{Deserialize, Serialize};
use types::ErrorKind;

use crate::{RestoreError, json::to_go_json};

const CLUSTER_VERSION: &[u8] = b"clusterVersion";
const DOWNGRADE: &[u8] = b"downgrade";
const STORAGE_VERSION: &[u8] = b"storageVersion";

/// The newest cluster version whose entries and tables this machine understands.
pub const NEWEST: Version = Version::minor(3, 7);

/// The oldest cluster version that members like this one act at.
pub const OLDEST: Version = Version::minor(3, 5);

/// What the cluster version is while there are members whose version is not known.
const LOWEST: Version = Version::minor(3, 0);

/// The first version whose storage names its version.
const FIRST_STORAGE_VERSION: Version = Version::minor(3, 6);

/// The version of storage that does not name it.
const UNNAMED_STORAGE_VERSION: Version = Version::minor(3, 5);

/// A version number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
}

impl Version {
    const fn minor(major: u64, minor: u64) -> Self {
        Version {
            major,
            minor,
            patch: 0,
        }
    }

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

    /// The only version that a cluster of this one may be taken down to; the oldest that etcd of this
    /// release acts at.
    pub fn below(self) -> Option<Self> {
        Some(Version::minor(self.major, self.minor.checked_sub(1)?))
    }

    /// Refuses a cluster version that members of this one can not act at.
    pub(crate) fn check_cluster(self) -> Result<Self, String> {
        match self.minor_version() > NEWEST {
            true => Err(format!(
                "invalid downgrade; server version is lower than determined cluster version: {NEWEST}, {self}"
            )),
            false => Ok(self),
        }
    }

    /// Refuses a version of storage that may hold what we do not understand.
    fn check_storage(self) -> Result<Self, String> {
        match self.minor_version() > NEWEST {
            true => Err(format!("version \"{self}\" is not supported")),
            false => Ok(self),
        }
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

/// The downgrade that was asked for can not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot downgrade from cluster version {cluster}, lowest server version {lowest}, to {target:?}")]
pub struct BadTarget {
    cluster: Version,
    lowest: Version,
    target: String,
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
        let version = |check: fn(Version) -> Result<Version, String>| {
            let version = std::str::from_utf8(value).ok().and_then(Version::parse);
            let checked = version.ok_or_else(|| "not a version".to_owned()).and_then(check);
            checked.map_err(|reason| RestoreError::new(table, key, reason))
        };
        match (table, &key[..]) {
            (Table::Cluster, CLUSTER_VERSION) => self.version = Some(version(Version::check_cluster)?),
            (Table::Meta, STORAGE_VERSION) => self.storage = Some(version(Version::check_storage)?),
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

    /// The storage version, which is stored from 3.6 on; before that it is 3.5's.
    pub fn storage(&self) -> Option<Version> {
        self.storage.or(self.version.map(|_| UNNAMED_STORAGE_VERSION))
    }

    /// The cluster version that the leader has to set, if any. `servers`: each member's version, or nothing
    /// for one that is not known.
    pub fn next(
        &self,
        servers: impl IntoIterator<Item = Option<Version>>,
    ) -> Result<Option<Version>, BadTarget> {
        let servers: Option<Vec<Version>> = servers.into_iter().collect();
        let lowest = servers.and_then(|servers| servers.into_iter().min());
        let lowest = lowest.map(Version::minor_version);
        match (self.version, lowest) {
            (None, lowest) => Ok(Some(lowest.unwrap_or(LOWEST))),
            (Some(_), None) => Ok(None),
            (Some(cluster), Some(lowest)) if self.downgrade.enabled => self.lowered(cluster, lowest),
            (Some(cluster), Some(lowest)) => {
                Ok(Some(lowest).filter(|lowest| *lowest > cluster && lowest.major == cluster.major))
            }
        }
    }

    fn lowered(&self, cluster: Version, lowest: Version) -> Result<Option<Version>, BadTarget> {
        match Version::parse(&self.downgrade.target_version) {
            Some(target) if target == cluster => Ok(None),
            Some(target) if cluster.below() == Some(target) && target <= lowest => Ok(Some(target)),
            _ => Err(BadTarget {
                cluster,
                lowest,
                target: self.downgrade.target_version.clone(),
            }),
        }
    }

    /// Whether a downgrade is under way and all members have come to its target.
    pub fn is_downgraded(&self, servers: impl IntoIterator<Item = Option<Version>>) -> bool {
        let target = Version::parse(&self.downgrade.target_version);
        let arrived = |server: Option<Version>| server.map(Version::minor_version) == target;
        self.downgrade.enabled && target.is_some() && servers.into_iter().all(arrived)
    }

    /// Whether a downgrade to `target` may begin.
    pub fn check_downgrade(&self, target: Version) -> Result<(), ErrorKind> {
        let version = self.version.ok_or(ErrorKind::ClusterVersionUnavailable)?;
        let target = target.minor_version();
        if version.below() != Some(target) || target < OLDEST {
            return Err(ErrorKind::InvalidDowngradeTargetVersion);
        }
        match self.downgrade.enabled {
            true => Err(ErrorKind::DowngradeInProcess),
            false => Ok(()),
        }
    }

    /// Whether the cluster is where the downgrade under way is to take it: it may go on from there.
    pub fn is_at_target(&self) -> bool {
        let target = Version::parse(&self.downgrade.target_version);
        self.downgrade.enabled && target.is_some() && target == self.version
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

    /// The state at a cluster version, and on the way down to another.
    fn at(cluster: &str, target: Option<&str>) -> ClusterVersion {
        ClusterVersion {
            version: Version::parse(cluster),
            downgrade: Downgrade {
                target_version: target.unwrap_or_default().into(),
                enabled: target.is_some(),
            },
            storage: None,
        }
    }

    fn servers(versions: &str) -> Vec<Option<Version>> {
        versions.split(' ').map(Version::parse).collect()
    }

    #[test]
    fn the_cluster_version_is_the_lowest_of_the_members_and_only_rises() {
        for (cluster, members, next) in [
            ("", "3.7.1 3.5.30 3.7.1", Some("3.5.0")),
            ("", "3.7.1 ?", Some("3.0.0")),
            ("3.0.0", "3.7.1 ?", None),
            ("3.0.0", "3.7.1 3.7.0", Some("3.7.0")),
            ("3.5.0", "3.7.1 3.7.0 3.5.30", None),
            ("3.5.0", "3.7.1 3.6.4", Some("3.6.0")),
            ("3.7.0", "3.7.1 3.6.4", None),
            ("3.7.0", "4.0.0", None),
        ] {
            let set = at(cluster, None).next(servers(members));
            assert_eq!(set, Ok(next.and_then(Version::parse)), "{cluster}: {members}");
        }
    }

    #[test]
    fn a_downgrade_takes_it_down_by_one_minor_version_and_holds_it_there() {
        for (cluster, target, members, next) in [
            ("3.7.0", "3.6.0", "3.7.1 3.7.1", Ok(Some("3.6.0"))),
            ("3.7.0", "3.6.0", "3.7.1 ?", Ok(None)),
            ("3.6.0", "3.6.0", "3.7.1 3.6.4", Ok(None)),
            ("3.6.0", "3.5.0", "3.7.1 3.6.4", Ok(Some("3.5.0"))),
            ("3.5.0", "3.5.0", "3.7.1 3.5.30", Ok(None)),
            ("3.7.0", "3.6.0", "3.7.1 3.5.30", Err(())),
            ("3.7.0", "3.5.0", "3.7.1", Err(())),
            ("3.7.0", "x", "3.7.1", Err(())),
            ("3.0.0", "3.0", "3.7.1", Ok(None)),
        ] {
            let set = at(cluster, Some(target)).next(servers(members));
            let next = next.map(|next| next.and_then(Version::parse));
            assert_eq!(set.map_err(|_| ()), next, "{cluster} to {target}: {members}");
        }
    }

    #[test]
    fn a_downgrade_is_over_when_every_member_is_known_to_have_arrived() {
        for (target, members, over) in [
            (Some("3.6.0"), "3.6.4 3.6.0", true),
            (Some("3.6.0"), "3.6.4 ?", false),
            (Some("3.6.0"), "3.6.4 3.7.1", false),
            (Some("x"), "?", false),
            (None, "3.6.4", false),
        ] {
            assert_eq!(
                at("3.6.0", target).is_downgraded(servers(members)),
                over,
                "{members}"
            );
        }
    }

    #[test]
    fn a_downgrade_goes_to_the_version_below_and_one_at_a_time() {
        use ErrorKind::*;
        for (cluster, under_way, target, answer) in [
            ("3.7.0", None, "3.6", Ok(())),
            ("3.7.0", None, "3.6.9", Ok(())),
            ("3.7.0", None, "3.5", Err(InvalidDowngradeTargetVersion)),
            ("3.7.0", None, "3.7", Err(InvalidDowngradeTargetVersion)),
            ("3.7.0", None, "2.6", Err(InvalidDowngradeTargetVersion)),
            ("3.7.0", Some("3.6.0"), "3.6", Err(DowngradeInProcess)),
            ("3.7.0", Some("3.6.0"), "3.5", Err(InvalidDowngradeTargetVersion)),
            ("3.6.0", Some("3.6.0"), "3.5", Err(DowngradeInProcess)),
            ("3.5.0", None, "3.4", Err(InvalidDowngradeTargetVersion)),
            ("3.0.0", None, "3.0", Err(InvalidDowngradeTargetVersion)),
            ("", None, "3.6", Err(ClusterVersionUnavailable)),
        ] {
            let target = Version::parse(target).unwrap();
            assert_eq!(
                at(cluster, under_way).check_downgrade(target),
                answer,
                "{cluster} to {target}"
            );
        }
    }

    #[test]
    fn a_downgrade_may_go_on_from_its_target_only() {
        for (cluster, under_way, may) in [
            ("3.6.0", Some("3.6.0"), true),
            ("3.7.0", Some("3.6.0"), false),
            ("3.6.0", None, false),
            ("", Some("x"), false),
        ] {
            assert_eq!(
                at(cluster, under_way).is_at_target(),
                may,
                "{cluster} {under_way:?}"
            );
        }
    }

    #[test]
    fn data_of_a_newer_version_is_not_read() {
        let load = |table, key: &'static [u8], value: &'static str| {
            ClusterVersion::default().load(table, &Bytes::from_static(key), &value.into())
        };
        for version in ["3.5.0", "3.6.0", "3.7.0"] {
            assert!(load(Table::Cluster, CLUSTER_VERSION, version).is_ok());
            assert!(load(Table::Meta, STORAGE_VERSION, version).is_ok());
        }
        let cluster = load(Table::Cluster, CLUSTER_VERSION, "3.8.0")
            .unwrap_err()
            .to_string();
        assert!(
            cluster.contains("invalid downgrade; server version is lower"),
            "{cluster}"
        );
        let storage = load(Table::Meta, STORAGE_VERSION, "3.8.0")
            .unwrap_err()
            .to_string();
        assert!(
            storage.contains("version \"3.8.0\" is not supported"),
            "{storage}"
        );
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
