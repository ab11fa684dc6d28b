//! `etcd_network_*`: what goes between members.

use std::sync::Arc;
use std::time::Duration;

use peer::{PeerMetrics, SnapshotOutcome};
use types::MemberId;

use super::{Counter, Gauge, Histogram, Metrics};

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
        let remote = id.map_or_else(|| STRANGER.to_owned(), |id| id.to_string());
        let (remote, between) = ([remote.as_str()], [self.local.as_str(), remote.as_str()]);
        let metrics = &self.metrics;
        if id.is_some() {
            metrics.network_known_peers.with(&between).set(1);
        }
        Arc::new(Peer {
            active: metrics.network_active_peers.with(&between),
            disconnected: metrics.network_disconnected_peers_total.with(&between),
            received: metrics.network_peer_received_bytes_total.with(&remote),
            receive_failed: metrics.network_peer_received_failures_total.with(&remote),
            round_trip: metrics.network_peer_round_trip_time_seconds.with(&remote),
            sent: metrics.network_peer_sent_bytes_total.with(&remote),
            send_failed: metrics.network_peer_sent_failures_total.with(&remote),
            receiving: Transfers {
                under_way: metrics.network_snapshot_receive_inflights_total.with(&remote),
                done: metrics.network_snapshot_receive_success.with(&remote),
                failed: metrics.network_snapshot_receive_failures.with(&remote),
                durations: metrics
                    .network_snapshot_receive_total_duration_seconds
                    .with(&remote),
            },
            sending: Transfers {
                under_way: metrics.network_snapshot_send_inflights_total.with(&remote),
                done: metrics.network_snapshot_send_success.with(&remote),
                failed: metrics.network_snapshot_send_failures.with(&remote),
                durations: metrics.network_snapshot_send_total_duration_seconds.with(&remote),
            },
        })
    }
}

/// The series of one peer.
struct Peer {
    active: Arc<Gauge>,
    disconnected: Arc<Counter>,
    received: Arc<Counter>,
    receive_failed: Arc<Counter>,
    round_trip: Arc<Histogram>,
    sent: Arc<Counter>,
    send_failed: Arc<Counter>,
    receiving: Transfers,
    sending: Transfers,
}

/// Databases on their way, in one direction.
struct Transfers {
    under_way: Arc<Gauge>,
    done: Arc<Counter>,
    failed: Arc<Counter>,
    durations: Arc<Histogram>,
}

impl Transfers {
    fn ended(&self, outcome: SnapshotOutcome) {
        self.under_way.add(-1);
        match outcome {
            SnapshotOutcome::Done(took) => {
                self.done.inc();
                self.durations.observe_duration(took);
            }
            SnapshotOutcome::Failed => self.failed.inc(),
        }
    }
}

impl PeerMetrics for Peer {
    fn sent(&self, bytes: usize) {
        self.sent.add(bytes as u64);
    }

    fn received(&self, bytes: usize) {
        self.received.add(bytes as u64);
    }

    fn send_failed(&self) {
        self.send_failed.inc();
    }

    fn receive_failed(&self) {
        self.receive_failed.inc();
    }

    fn connected(&self) {
        self.active.add(1);
    }

    fn disconnected(&self) {
        self.active.add(-1);
        self.disconnected.inc();
    }

    fn round_trip(&self, took: Duration) {
        self.round_trip.observe_duration(took);
    }

    fn snapshot_send_began(&self) {
        self.sending.under_way.add(1);
    }

    fn snapshot_send_ended(&self, outcome: SnapshotOutcome) {
        self.sending.ended(outcome);
    }

    fn snapshot_receive_began(&self) {
        self.receiving.under_way.add(1);
    }

    fn snapshot_receive_ended(&self, outcome: SnapshotOutcome) {
        self.receiving.ended(outcome);
    }

    fn snapshot_request_failed(&self) {
        self.receiving.failed.inc();
    }
}
