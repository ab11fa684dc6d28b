//! The cluster's version: the leader agrees on one, and takes it down when asked to.
//!
//! A cluster acts at the version of its oldest member. The leader asks all members what they run
//! (`GET /version` at their peer URLs) and sets the cluster version by the rules of
//! [`machine::ClusterVersion`]. So a member of 3.7 that joins a cluster of 3.5 acts at 3.5 until the last
//! old member is gone, and says so in `/version` and `Status`.
//!
//! A downgrade is a fact of the log: enabled by an operator, carried out by the leader (which lowers the
//! cluster version), and called off by it once all members run the target's release. etcd goes one minor
//! version at a time, and must be exchanged before the next. A member of ours acts at every version from
//! [`machine::OLDEST`] on, and says so at [`OLDEST_PATH`]: where no member stands in the way, a downgrade
//! that has arrived goes on to the version below. It holds the cluster there until the releases are
//! exchanged, or the operator calls it off and the version rises again.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use machine::{ClusterVersion, Version};
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::{InternalRaftRequest, Member};
use proto::membershippb::{ClusterVersionSetRequest, DowngradeInfoSetRequest};
use serde::Deserialize;
use types::{ErrorKind, MemberId};

use crate::ask::Ask;
use crate::board::Replicated;
use crate::config::VERSION;
use crate::http as site;
use crate::node::Node;

/// How often the leader looks after the version.
const INTERVAL: Duration = Duration::from_secs(4);

/// Where a member says which is the oldest cluster version it acts at. Ours; Go members answer 404.
pub const OLDEST_PATH: &str = "/keelson/oldest";

/// What a member answers to `GET /version`.
#[derive(Debug, Deserialize)]
struct Told {
    etcdserver: String,
    #[serde(default)]
    etcdcluster: String,
}

impl Told {
    /// Whether it does not understand all that we propose.
    fn is_too_old(&self) -> bool {
        Version::parse(&self.etcdserver).is_some_and(|server| server < machine::OLDEST)
    }
}

/// As the leader, keeps the cluster version where it has to be.
pub async fn agree(node: Node, ask: Ask) {
    loop {
        let (raft, known) = (node.board.raft(), node.board.replicated());
        if raft.leads
            && let Err(ErrorKind::Stopped) = update(&node, &ask).await
        {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = node.board.leader_change(raft.leader) => {}
            () = node.board.members_change(&known.members) => {}
            () = node.board.downgrade_change(known.versions.downgrade()) => {}
        }
    }
}

async fn update(node: &Node, ask: &Ask) -> Result<(), ErrorKind> {
    let servers = servers(node, ask).await;
    // Asked for after the answers, which may have taken long.
    let versions = node.board.replicated().versions.clone();
    let version = match versions.next(servers) {
        Ok(Some(version)) => version,
        Ok(None) => return Ok(()),
        Err(error) => {
            tracing::error!(error = %error, "failed to monitor cluster version");
            return Ok(());
        }
    };
    match versions.version() {
        Some(from) => tracing::info!(
            from = short(from),
            to = short(version),
            "updating cluster version using v3 API"
        ),
        None => {
            tracing::info!(
                "cluster-version" = short(version),
                "setting up initial cluster version using v3 API"
            );
        }
    }
    let set = ClusterVersionSetRequest {
        ver: version.to_string(),
    };
    let request = InternalRaftRequest {
        cluster_version_set: Some(set),
        ..Default::default()
    };
    let outcome = node.propose(request).await.map(|_| ());
    match &outcome {
        Ok(()) => tracing::info!("cluster-version" = short(version), "cluster version is updated"),
        Err(error) => tracing::warn!(error = %error, "failed to update cluster version"),
    }
    outcome
}

/// As the leader, ends a downgrade when all members have come to its target.
pub async fn end_downgrade(node: Node, ask: Ask) {
    let interval = node.config.downgrade_check_interval;
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        let versions = node.board.replicated().versions.clone();
        if !node.board.raft().leads || !versions.downgrade().enabled {
            continue;
        }
        if versions.is_downgraded(servers(&node, &ask).await) {
            let target = &versions.downgrade().target_version;
            tracing::info!("cluster-version" = target, "the cluster has been downgraded");
            if let Err(error) = set_downgrade(&node, None).await {
                tracing::warn!(error = %error, "failed to cancel downgrade");
            }
        }
    }
}

/// The release that each member runs, as far as it is known.
async fn servers(node: &Node, ask: &Ask) -> Vec<Option<Version>> {
    let own = Version::parse(VERSION);
    let replicated = node.board.replicated();
    let versions = replicated.members.iter().map(async |member| {
        if member.id == node.id.0 {
            return own;
        }
        let server = Version::parse(&told(ask, member).await?.etcdserver);
        if server > own {
            tracing::warn!(
                "local-member-version" = VERSION,
                "remote-member-id" = %MemberId(member.id),
                "remote-member-version" = server.map(|server| server.to_string()),
                "leader found higher-versioned member"
            );
        }
        server
    });
    join_all(versions).await
}

async fn told(ask: &Ask, member: &Member) -> Option<Told> {
    let answer = ask.member(&member.peer_ur_ls, "/version", Bytes::new()).await;
    let told = answer.and_then(|(_, body)| serde_json::from_slice(&body).map_err(|error| error.to_string()));
    told.inspect_err(|error| {
        let id = MemberId(member.id);
        let address = member.peer_ur_ls.join(",");
        tracing::warn!(address, "remote-member-id" = %id, error, "failed to reach the peer URL");
        tracing::warn!("remote-member-id" = %id, error, "failed to get version");
    })
    .ok()
}

/// Refuses to go on beside members that are too old to understand what we put into the log: they would end
/// themselves. Nobody needs to be asked where the cluster's version tells.
pub async fn check_others(node: &Node, ask: &Ask) -> Result<(), String> {
    let replicated = node.board.replicated();
    if replicated.versions.version() >= Some(machine::OLDEST) {
        return Ok(());
    }
    let others = replicated.members.iter().filter(|member| member.id != node.id.0);
    let told = others.map(async |member| (MemberId(member.id), told(ask, member).await));
    for (id, told) in join_all(told).await {
        if let Some(told) = told.filter(Told::is_too_old) {
            return Err(format!(
                "member {id} runs etcd {}, which does not understand entries of this one; bring all members to \
                 {} first, or stop those that are older until they are replaced",
                told.etcdserver,
                short(machine::OLDEST)
            ));
        }
    }
    Ok(())
}

/// Whether a member of our version may join the cluster of these members: at least one says at which
/// version the cluster is, none names one that we can not act at, and none is too old to act with us. A
/// cluster above us that comes down to our version is one to act at.
pub async fn may_join(ask: &Ask, others: &[Member]) -> bool {
    let clusters = join_all(others.iter().map(async |member| told(ask, member).await)).await;
    let told: Vec<&Told> = clusters.iter().flatten().collect();
    if told.iter().any(|told| told.is_too_old()) {
        return false;
    }
    let clusters: Vec<Version> = told
        .iter()
        .filter_map(|told| Version::parse(&told.etcdcluster))
        .collect();
    fits(&clusters, is_downgrading(ask, others).await)
}

fn fits(clusters: &[Version], downgrading: bool) -> bool {
    let newest = Version {
        minor: machine::NEWEST.minor + u64::from(downgrading),
        ..machine::NEWEST
    };
    let fits = |cluster: &Version| cluster.major == newest.major && *cluster <= newest;
    !clusters.is_empty() && clusters.iter().all(fits)
}

/// What the first of the members that knows says.
async fn is_downgrading(ask: &Ask, members: &[Member]) -> bool {
    for member in members {
        match ask
            .member(&member.peer_ur_ls, "/downgrade/enabled", Bytes::new())
            .await
        {
            Ok((StatusCode::OK, body)) if body == "true" => return true,
            Ok((StatusCode::OK, body)) if body == "false" => return false,
            _ => {}
        }
    }
    false
}

/// Answers `GET /downgrade/enabled` on the peer port.
pub async fn downgrade_enabled(node: &Node) -> Response<Bytes> {
    let answer = match node.read_barrier().await {
        Ok(()) => {
            let enabled = node.board.replicated().versions.downgrade().enabled;
            site::typed(StatusCode::OK, "text/plain", enabled.to_string())
        }
        Err(error) => site::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("failed linearized read: {}\n", error.text()),
        ),
    };
    site::with_cluster_id(answer, node.cluster_id)
}

/// Answers [`OLDEST_PATH`].
pub fn oldest(node: &Node) -> Response<Bytes> {
    let answer = site::typed(StatusCode::OK, "text/plain", machine::OLDEST.to_string());
    site::with_cluster_id(answer, node.cluster_id)
}

/// Whether every member acts at `target`: one of ours says how far down it goes, one of Go's acts at its
/// own version and the one below.
async fn all_act_at(node: &Node, target: Version) -> bool {
    let ask = Ask::new(node.cluster_id, node.peers.client().clone());
    let replicated = node.board.replicated();
    let others = replicated.members.iter().filter(|member| member.id != node.id.0);
    let oldest = others.map(|member| oldest_of(&ask, member));
    let acts = |oldest: Option<Version>| oldest.is_some_and(|oldest| oldest <= target);
    join_all(oldest).await.into_iter().all(acts)
}

async fn oldest_of(ask: &Ask, member: &Member) -> Option<Version> {
    match ask.member(&member.peer_ur_ls, OLDEST_PATH, Bytes::new()).await {
        Ok((StatusCode::OK, body)) => Version::parse(std::str::from_utf8(&body).ok()?),
        Ok((StatusCode::NOT_FOUND, _)) => {
            let server = Version::parse(&told(ask, member).await?.etcdserver)?;
            server.below()
        }
        _ => None,
    }
}

/// Carries out a call of `Downgrade`. Returns the cluster version it found: the leader may have changed it
/// before there is an answer.
pub async fn downgrade(node: &Node, action: i32, version: &str) -> Result<String, ErrorKind> {
    let action = DowngradeAction::try_from(action).map_err(|_| ErrorKind::UnknownMethod)?;
    let target = match action {
        DowngradeAction::Validate | DowngradeAction::Enable => Some(check_downgrade(node, version).await?),
        DowngradeAction::Cancel => {
            node.read_barrier().await?;
            None
        }
    };
    let versions = node.board.replicated().versions.clone();
    let found = versions.version().ok_or(ErrorKind::ClusterVersionUnavailable)?;
    match action {
        DowngradeAction::Enable => set_downgrade(node, target).await?,
        // Without one there is nothing to do, and that is no error.
        DowngradeAction::Cancel if versions.downgrade().enabled => set_downgrade(node, None).await?,
        DowngradeAction::Cancel | DowngradeAction::Validate => {}
    }
    Ok(short(found))
}

async fn check_downgrade(node: &Node, version: &str) -> Result<Version, ErrorKind> {
    let target = target(version).ok_or(ErrorKind::WrongDowngradeVersionFormat)?;
    if node.board.replicated().versions.version().is_none() {
        return Err(ErrorKind::ClusterVersionUnavailable);
    }
    // What is decided by must not be old.
    node.read_barrier().await?;
    let versions = node.board.replicated().versions.clone();
    match versions.check_downgrade(target) {
        Err(ErrorKind::DowngradeInProcess) if versions.is_at_target() && all_act_at(node, target).await => {}
        checked => checked?,
    }
    Ok(target)
}

/// Reads the target of a downgrade: `X.Y`, or `X.Y.Z` with any suffix. What follows `X.Y` does not count.
fn target(text: &str) -> Option<Version> {
    let has_patch = text.split(['-', '+']).next()?.split('.').count() == 3;
    let target = Version::parse(text).filter(|_| has_patch || !text.contains(['-', '+']));
    target.map(Version::minor_version)
}

async fn set_downgrade(node: &Node, target: Option<Version>) -> Result<(), ErrorKind> {
    let set = DowngradeInfoSetRequest {
        enabled: target.is_some(),
        ver: target.map_or(String::new(), |target| target.to_string()),
    };
    let request = InternalRaftRequest {
        downgrade_info_set: Some(set),
        ..Default::default()
    };
    node.propose(request).await.map(|_| ())
}

/// Logs what an entry changed about the versions; operators wait for these lines.
pub fn log_change(before: &Replicated, now: &ClusterVersion) {
    let (old, new) = (before.versions.version(), now.version());
    match (old, new) {
        (None, Some(to)) => tracing::info!("cluster-version" = short(to), "set initial cluster version"),
        (Some(from), Some(to)) if from != to => {
            tracing::info!(from = short(from), to = short(to), "updated cluster version");
        }
        _ => {}
    }
    let (downgrade, lowered) = (now.downgrade(), now.storage() < before.versions.storage());
    if downgrade.enabled && lowered {
        tracing::info!(
            "target-version" = downgrade.target_version,
            "server-version" = VERSION,
            "The server is ready to downgrade"
        );
    }
}

/// `X.Y`.
pub fn short(version: Version) -> String {
    format!("{}.{}", version.major, version.minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_downgrade_is_read_as_go_reads_it() {
        for (text, read) in [
            ("3.6", Some("3.6.0")),
            ("3.6.0", Some("3.6.0")),
            ("3.6.11", Some("3.6.0")),
            ("3.6.0-rc.1", Some("3.6.0")),
            ("3.6.0+build", Some("3.6.0")),
            ("3.6-rc.1", None),
            ("3.6+build", None),
            ("3", None),
            ("v3.6", None),
            ("", None),
            ("3.6.0.1", None),
        ] {
            assert_eq!(
                target(text).map(|target| target.to_string()).as_deref(),
                read,
                "{text}"
            );
        }
    }

    #[test]
    fn nobody_goes_on_beside_a_member_older_than_3_5() {
        for (etcdserver, too_old) in [("3.4.45", true), ("3.5.0", false), ("3.7.1", false), ("?", false)] {
            let told = Told {
                etcdserver: etcdserver.to_owned(),
                etcdcluster: String::new(),
            };
            assert_eq!(told.is_too_old(), too_old, "{etcdserver}");
        }
    }

    #[test]
    fn we_join_clusters_up_to_our_version_or_one_that_comes_down_to_it() {
        let cluster = |text: &str| text.split(' ').filter_map(Version::parse).collect::<Vec<_>>();
        for (clusters, downgrading, joins) in [
            ("3.5.0 3.5.0", false, true),
            ("3.6.0", false, true),
            ("3.7.0", false, true),
            ("3.8.0", false, false),
            ("3.7.0 3.8.0", false, false),
            ("not_decided", false, false),
            ("", false, false),
            ("3.8.0", true, true),
            ("3.9.0", true, false),
            ("3.6.0 3.7.0", true, true),
        ] {
            assert_eq!(
                fits(&cluster(clusters), downgrading),
                joins,
                "{clusters} {downgrading}"
            );
        }
    }
}
