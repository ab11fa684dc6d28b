//! What the member does by itself through the log: publish who it is, end leases, compact on schedule.
//!
//! These run as tasks and propose like any client would.

use std::collections::VecDeque;
use std::time::Duration;

use proto::etcdserverpb::{CompactionRequest, InternalRaftRequest, LeaseRevokeRequest};
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use types::{ErrorKind, LeaseId, Term};

use crate::config::{AutoCompaction, Gate};
use crate::forward::checkpoints;
use crate::node::Node;

/// How often the leader looks for leases whose time is over.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Leases ended in one round; the rest follows in the next, so that expiry never floods the log.
const EXPIRED_PER_ROUND: usize = 500;
/// Revokes under way at a time.
const REVOKES_IN_FLIGHT: usize = 16;
/// Time between two checkpoints of a lease.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Leases looked at for one entry of checkpoints.
const CHECKPOINTS_PER_ENTRY: usize = 1000;
/// How long a removed member stays.
const DEPARTURE: Duration = Duration::from_secs(1);
/// How often the revisions to keep are counted.
const REVISION_COMPACTION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Longest time between two periodic compactions, once the first is due.
const PERIODIC_COMPACTION_MAX: Duration = Duration::from_secs(60 * 60);
/// Samples of the revision in one period.
const SAMPLES_PER_PERIOD: u32 = 10;

/// Tells the cluster this member's name and client URLs, until it knows them.
pub async fn publish(node: Node) {
    let client_urls: Vec<String> = node
        .config
        .advertise_client
        .iter()
        .map(|url| url.to_string())
        .collect();
    node.board.wait_leader().await;
    let attributes = Attributes {
        name: node.config.name.clone(),
        client_urls: client_urls.clone(),
    };
    loop {
        let known = node.board.replicated().members.iter().any(|member| {
            member.id == node.id.0 && member.name == node.config.name && member.client_ur_ls == client_urls
        });
        if known {
            break;
        }
        let set = ClusterMemberAttrSetRequest {
            member_id: node.id.0,
            member_attributes: Some(attributes.clone()),
        };
        let request = InternalRaftRequest {
            cluster_member_attr_set: Some(set),
            ..Default::default()
        };
        match node.propose(request).await {
            Ok(_) => break,
            Err(ErrorKind::Stopped) => return,
            Err(error) => {
                tracing::warn!(error = %error, "failed to publish local member to cluster through raft")
            }
        }
    }
    tracing::info!(
        "local-member-id" = %node.id,
        "cluster-id" = %node.cluster_id,
        "publish-timeout" = %crate::go::duration(node.request_timeout()),
        "published local member to cluster through raft"
    );
}

/// Waits until this member is removed from its cluster, and a little longer, for the others to hear from it
/// that it knows.
pub async fn depart(node: Node) {
    node.board.wait_departure().await;
    tracing::warn!(
        "local-member-id" = %node.id,
        "cluster-id" = %node.cluster_id,
        "the member has been permanently removed from the cluster"
    );
    tracing::warn!(
        "data-dir" = %node.config.data_dir.display(),
        "data-dir used by this member must be removed"
    );
    tokio::time::sleep(DEPARTURE).await;
}

/// As the leader, ends leases whose time is over.
pub async fn expire_leases(node: Node) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let term = node.board.raft().term;
        let expired = node.lessor.lock().expired(node.now_ms(), EXPIRED_PER_ROUND);
        for leases in expired.chunks(REVOKES_IN_FLIGHT) {
            let revokes = leases.iter().map(|lease| revoke(&node, term, *lease));
            futures_util::future::join_all(revokes).await;
        }
    }
}

/// Revokes a lease whose time was over in `term`, by the clock of its leader.
async fn revoke(node: &Node, term: Term, lease: LeaseId) {
    let request = InternalRaftRequest {
        lease_revoke: Some(LeaseRevokeRequest { id: lease.0 }),
        ..Default::default()
    };
    match node.propose_as_leader(term, request).await {
        Ok(_) => node.metrics.debugging_server_lease_expired_total.inc(),
        // Its owner was faster, another member leads, or this one is ending; anything else is tried again by the lessor.
        Err(ErrorKind::LeaseNotFound | ErrorKind::NotPrimary | ErrorKind::Stopped) => {}
        Err(error) => tracing::warn!("lease-id" = %lease, error = %error, "failed to revoke lease"),
    }
}

/// As the leader, notes what long leases have left, for the next one.
pub async fn checkpoint_leases(node: Node) {
    if !node.config.gates.enabled(Gate::LeaseCheckpoint) {
        return;
    }
    loop {
        tokio::time::sleep(CHECKPOINT_INTERVAL).await;
        if let Err(error) = checkpoint_all(&node, CHECKPOINT_INTERVAL).await {
            tracing::warn!(error = %error, "failed to checkpoint leases; will try again");
        }
    }
}

async fn checkpoint_all(node: &Node, interval: Duration) -> Result<(), ErrorKind> {
    let interval_secs = interval.as_secs() as i64;
    let term = node.board.raft().term;
    let mut after = None;
    loop {
        let page = node
            .lessor
            .lock()
            .checkpoints(node.now_ms(), interval_secs, after, CHECKPOINTS_PER_ENTRY);
        let (left, Some(last)) = page else {
            return Ok(());
        };
        after = Some(last);
        if !left.is_empty() {
            node.propose_as_leader(term, checkpoints(left)).await?;
        }
    }
}

/// As the leader, compacts as configured.
pub async fn compact(node: Node) {
    match node.config.auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Revision(keep) => compact_by_revision(node, keep).await,
        AutoCompaction::Periodic(period) => compact_by_period(node, period).await,
    }
}

async fn compact_by_revision(node: Node, keep: u64) {
    loop {
        tokio::time::sleep(REVISION_COMPACTION_INTERVAL).await;
        let target = node.mvcc.current() - i64::try_from(keep).unwrap_or(i64::MAX);
        if target > 0 {
            compact_to(&node, target).await;
        }
    }
}

/// Samples the revision, and compacts to the one that was current a period ago.
async fn compact_by_period(node: Node, period: Duration) {
    let pace = period.min(PERIODIC_COMPACTION_MAX) / SAMPLES_PER_PERIOD;
    let mut samples = Samples::new(period, node.mvcc.current());
    loop {
        tokio::time::sleep(pace).await;
        if let Some(target) = samples.take(node.mvcc.current()) {
            samples.compacted = compact_to(&node, target).await;
        }
    }
}

/// The revisions of the last period, a tenth of it (or of an hour, if that is less) apart.
struct Samples {
    revisions: VecDeque<i64>,
    /// Samples in a period.
    kept: usize,
    since_compaction: u32,
    /// Whether the last compaction that was due has been done. One that failed is due again at once.
    compacted: bool,
}

impl Samples {
    fn new(period: Duration, current: i64) -> Self {
        let pace = period.min(PERIODIC_COMPACTION_MAX) / SAMPLES_PER_PERIOD;
        let kept = (period.as_nanos() / pace.as_nanos().max(1)) as usize;
        Samples {
            revisions: VecDeque::from([current]),
            kept,
            since_compaction: 0,
            compacted: false,
        }
    }

    /// Takes the next sample. Returns the revision to compact to, if it is time: the first time after a
    /// whole period, then every ten samples.
    fn take(&mut self, current: i64) -> Option<i64> {
        self.revisions.push_back(current);
        self.since_compaction += 1;
        if self.revisions.len() <= self.kept {
            return None;
        }
        self.revisions.drain(..self.revisions.len() - self.kept - 1);
        if self.compacted && self.since_compaction < SAMPLES_PER_PERIOD {
            return None;
        }
        self.since_compaction = 0;
        self.revisions.front().copied()
    }
}

/// Proposes a compaction unless there is nothing to gain or another member leads. Whether it is done.
async fn compact_to(node: &Node, revision: i64) -> bool {
    if !node.board.raft().leads || revision <= node.mvcc.compacted() {
        return true;
    }
    let request = CompactionRequest {
        revision,
        physical: false,
    };
    match node
        .propose(InternalRaftRequest {
            compaction: Some(request),
            ..Default::default()
        })
        .await
    {
        Ok(_) | Err(ErrorKind::Compacted) => {
            tracing::info!("revision" = revision, "completed auto compaction");
            true
        }
        Err(error) => {
            tracing::warn!("revision" = revision, error = %error, "failed auto compaction; will try again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::etcdserverpb::LeaseGrantRequest;

    use super::*;
    use crate::access::Tokenizer;
    use crate::bootstrap;
    use crate::config::tests::config;
    use crate::forward::renew_here;
    use crate::metrics::Metrics;
    use crate::start::{Running, Surroundings, start};

    const LEASE: LeaseId = LeaseId(7);

    /// A member alone in its cluster, which leads, with a lease of ten minutes.
    async fn member_with_lease(dir: &std::path::Path) -> Running {
        let mut config = config();
        config.data_dir = dir.join("data");
        let client = peer::Client::new(None, Duration::from_secs(1));
        let beginning = bootstrap::begin(&config, &client).await.unwrap();
        let surroundings = Surroundings {
            metrics: Arc::new(Metrics::new(&config)),
            lanes: 1,
            peer_runtime: tokio::runtime::Handle::current(),
            client,
            tls: None,
            tokens: Tokenizer::new(&config).unwrap(),
            beginning: Some(beginning),
        };
        let running = start(Arc::new(config), surroundings).unwrap();
        let node = &running.node;
        tokio::spawn(node.replies.clone().hand_out(0));
        node.board.wait_leader().await;
        let lease_grant = Some(LeaseGrantRequest {
            ttl: 600,
            id: LEASE.0,
        });
        let request = InternalRaftRequest {
            lease_grant,
            ..Default::default()
        };
        node.propose(request).await.unwrap();
        running
    }

    #[tokio::test]
    async fn a_lease_is_checkpointed_once_time_has_passed_and_a_renewal_takes_that_back() {
        let dir = tempfile::tempdir().unwrap();
        let running = member_with_lease(dir.path()).await;
        let node = &running.node;
        let left = || node.lessor.lock().get(LEASE).unwrap().remaining_secs;
        assert_eq!(left(), 0);
        while left() == 0 {
            checkpoint_all(node, Duration::from_secs(1)).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!((1..600).contains(&left()));
        assert_eq!(renew_here(node, LEASE).await, Ok(600));
        assert_eq!(left(), 0);
        running.stop();
    }

    /// The numbers of the samples that asked for a compaction, with its target. The revision is the
    /// sample's number.
    fn compactions(period: Duration, samples: i64, succeeds: impl Fn(i64) -> bool) -> Vec<(i64, i64)> {
        let mut taken = Samples::new(period, 0);
        let mut asked = Vec::new();
        for sample in 1..=samples {
            if let Some(target) = taken.take(sample) {
                taken.compacted = succeeds(sample);
                asked.push((sample, target));
            }
        }
        asked
    }

    const MINUTES: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_compaction_comes_after_a_whole_period_and_keeps_one() {
        assert_eq!(
            compactions(10 * MINUTES, 30, |_| true),
            [(10, 0), (20, 10), (30, 20)]
        );
    }

    #[test]
    fn a_period_of_many_hours_is_compacted_every_hour() {
        // Three hours are thirty samples of six minutes.
        assert_eq!(
            compactions(180 * MINUTES, 50, |_| true),
            [(30, 0), (40, 10), (50, 20)]
        );
    }

    #[test]
    fn a_compaction_that_failed_is_tried_again_at_the_next_sample() {
        assert_eq!(
            compactions(10 * MINUTES, 21, |sample| sample >= 12),
            [(10, 0), (11, 1), (12, 2)]
        );
    }
}
