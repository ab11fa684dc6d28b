//! `etcd_network_*`: what goes between members.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use peer::{PeerMetrics, SnapshotOutcome};
use types::MemberId;

use super::kinds::Metric;
use super::{Counter, Family, Metrics};

/// The label of those who are no members.
const STRANGER: &str = "unknown";

/// Makes the series of each peer.
pub struct Network {
    metrics: Arc<Metrics>,
    local: String,
}

impl Network {
    /// The network as member `local` sees it.
    pub fn new(metrics: Arc<Metrics>, local: MemberId) -> Self {
        Network {
            metrics,
            local: local.to_string(),
        }
    }
}

impl peer::Metrics for Network {
    fn peer(&self, id: Option<MemberId>) -> Arc<dyn PeerMetrics> {
        Arc::new(Peer {
            metrics: self.metrics.clone(),
            local: self.local.clone(),
            remote: id.map_or_else(|| STRANGER.to_owned(), |id| id.to_string()),
            is_member: id.is_some(),
            sent: OnceLock::new(),
            received: OnceLock::new(),
        })
    }
}

/// The series of one peer. Each is shown from its first use on.
struct Peer {
    metrics: Arc<Metrics>,
    local: String,
    remote: String,
    is_member: bool,
    /// What every message moves is kept at hand.
    sent: OnceLock<Arc<Counter>>,
    received: OnceLock<Arc<Counter>>,
}

impl Peer {
    /// This peer's, of a family by the other end.
    fn of<M: Metric>(&self, family: &Family<M>) -> Arc<M> {
        family.with(&[&self.remote])
    }

    /// This peer's, of a family by both ends.
    fn between<M: Metric>(&self, family: &Family<M>) -> Arc<M> {
        family.with(&[&self.local, &self.remote])
    }

    /// Counts who is connected. No stranger is an active peer.
    fn count_active(&self, change: i64) {
        if self.is_member {
            self.between(&self.metrics.network_active_peers).add(change);
        }
    }
}

impl PeerMetrics for Peer {
    fn sent(&self, bytes: usize) {
        let sent = || self.of(&self.metrics.network_peer_sent_bytes_total);
        self.sent.get_or_init(sent).add(bytes as u64);
    }

    fn received(&self, bytes: usize) {
        let received = || self.of(&self.metrics.network_peer_received_bytes_total);
        self.received.get_or_init(received).add(bytes as u64);
    }

    fn send_failed(&self) {
        self.of(&self.metrics.network_peer_sent_failures_total).inc();
    }

    fn receive_failed(&self) {
        self.of(&self.metrics.network_peer_received_failures_total).inc();
    }

    fn connected(&self) {
        self.count_active(1);
    }

    fn disconnected(&self) {
        self.count_active(-1);
        self.between(&self.metrics.network_disconnected_peers_total).inc();
    }

    fn round_trip(&self, took: Duration) {
        self.of(&self.metrics.network_peer_round_trip_time_seconds)
            .observe_duration(took);
    }

    fn snapshot_send_began(&self) {
        self.of(&self.metrics.network_snapshot_send_inflights_total)
            .add(1);
    }

    fn snapshot_send_ended(&self, outcome: SnapshotOutcome) {
        let metrics = &self.metrics;
        self.of(&metrics.network_snapshot_send_inflights_total).add(-1);
        match outcome {
            SnapshotOutcome::Done(took) => {
                self.of(&metrics.network_snapshot_send_success).inc();
                self.of(&metrics.network_snapshot_send_total_duration_seconds)
                    .observe_duration(took);
            }
            SnapshotOutcome::Failed => self.of(&metrics.network_snapshot_send_failures).inc(),
        }
    }

    fn snapshot_receive_began(&self) {
        self.of(&self.metrics.network_snapshot_receive_inflights_total)
            .add(1);
    }

    fn snapshot_receive_ended(&self, outcome: SnapshotOutcome) {
        let metrics = &self.metrics;
        self.of(&metrics.network_snapshot_receive_inflights_total).add(-1);
        match outcome {
            SnapshotOutcome::Done(took) => {
                self.of(&metrics.network_snapshot_receive_success).inc();
                self.of(&metrics.network_snapshot_receive_total_duration_seconds)
                    .observe_duration(took);
            }
            SnapshotOutcome::Failed => self.of(&metrics.network_snapshot_receive_failures).inc(),
        }
    }

    fn snapshot_request_failed(&self) {
        self.of(&self.metrics.network_snapshot_receive_failures).inc();
    }

    fn database_synced(&self, took: Duration) {
        self.metrics.snap_db_fsync_duration_seconds.observe_duration(took);
    }

    fn database_saved(&self, took: Duration) {
        self.metrics
            .snap_db_save_total_duration_seconds
            .observe_duration(took);
    }
}

#[cfg(test)]
mod tests {
    use peer::Metrics as _;

    use super::*;
    use crate::config::tests::config;

    #[test]
    fn a_peers_series_are_shown_from_their_first_use_on_and_a_stranger_is_never_active() {
        let metrics = Arc::new(Metrics::new(&config()));
        let network = Network::new(metrics.clone(), MemberId(1));
        let (stranger, member) = (network.peer(None), network.peer(Some(MemberId(2))));
        let shown = || {
            let text = metrics.encode();
            let lines = text
                .lines()
                .filter(|line| line.starts_with("etcd_network_") && line.contains('{'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(shown().is_empty());
        stranger.connected();
        stranger.received(7);
        member.connected();
        assert_eq!(
            shown(),
            [
                "etcd_network_active_peers{Local=\"1\",Remote=\"2\"} 1",
                "etcd_network_peer_received_bytes_total{From=\"unknown\"} 7",
            ]
        );
    }
}
