//! What is counted, measured and timed, under etcd's names.
//!
//! A line of the table below is one family: its field in [`Metrics`], its kind, its labels, its
//! buckets, its name and its help. Dashboards and alerts know names, labels and buckets from etcd, so
//! these are given, odd ones included (gauges named `_total`, buckets of milliseconds); a test compares
//! every line with etcd's own list.
//!
//! The kinds cost little where they are updated: counters and histograms are spread over the cache
//! lines of several threads and added up when somebody scrapes; a value that another part of the
//! program keeps anyway is asked for at that time ([`Counter::ask`], [`Gauge::ask`]). A family with
//! labels shows a series from its first use on; who updates one often keeps the handle that
//! [`Family::with`] returns.
//!
//! The text format is Prometheus' 0.0.4. OpenMetrics is left out, because it would rename counters.

mod grpc;
mod kinds;
mod metered;
mod network;
mod text;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use machine::{Membership, Operations};
use proto::etcdserverpb::{AlarmMember, AlarmType};
use types::MemberId;

use crate::config::{Config, Gate, RUNTIME, VERSION};
use crate::traces::Tracer;

pub use kinds::{Counter, Family, Gauge, Histogram};
pub use metered::{Answering, Metered, MeteredBody};
pub use network::Network;

use kinds::{Buckets, BySuccess, Metric, Spec};
use text::Text;

/// What a scrape is answered with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// What a scrape may end with; all are shown from the start.
const SCRAPE_CODES: [&str; 3] = ["200", "500", "503"];

/// One family as the table declares it.
pub struct Declaration {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Upper bounds of its buckets, without infinity.
    pub buckets: Vec<f64>,
}

macro_rules! metrics {
    ($($field:ident: $kind:ty $(, by [$($label:literal),*])? $(, in $buckets:expr)?, $name:literal, $help:literal;)*) => {
        /// Every metric of this member.
        pub struct Metrics {
            $(#[doc = concat!("`", $name, "`: ", $help)] pub $field: $kind,)*
            /// Handles of `etcd_server_request_duration_seconds`, by the kind of request.
            requests: Vec<(&'static str, BySuccess)>,
            /// Handles of `etcd_server_range_duration_seconds`.
            ranges: BySuccess,
            /// Traces calls, if that is switched on.
            pub tracer: OnceLock<Arc<Tracer>>,
            /// `grpc_server_*`, and the bytes of client requests and answers.
            pub grpc: grpc::Grpc,
        }

        impl Metrics {
            fn empty(extensive: bool) -> Self {
                Metrics {
                    $($field: <$kind>::new(&Spec {
                        labels: &[$($($label),*)?],
                        buckets: Buckets::NONE $(.or($buckets))?,
                    }),)*
                    requests: request_kinds().map(|kind| (kind, BySuccess::default())).collect(),
                    ranges: BySuccess::default(),
                    tracer: OnceLock::new(),
                    grpc: grpc::Grpc::new(extensive),
                }
            }

            fn write_table(&self, text: &mut Text) {
                $(text.family($name, <$kind>::KIND, $help);
                self.$field.write(text);)*
            }

            fn table() -> Vec<Declaration> {
                vec![$(Declaration {
                    name: $name,
                    kind: <$kind>::KIND,
                    labels: &[$($($label),*)?],
                    buckets: Buckets::NONE $(.or($buckets))?.bounds(),
                },)*]
            }
        }
    };
}

/// From a millisecond on, as etcd times disks and requests.
const FROM_1MS: Buckets = Buckets::exponential(0.001, 2.0, 14);
/// From a tenth of it on, as etcd times what happens in memory.
const FROM_100US: Buckets = Buckets::exponential(0.0001, 2.0, 20);
/// From a tenth of a second on, as etcd times databases on their way to members.
const FROM_100MS: Buckets = Buckets::exponential(0.1, 2.0, 10);

metrics! {
    cluster_version: Family<Gauge>, by ["cluster_version"],
        "etcd_cluster_version", "1 for the version the cluster has agreed on.";
    debugging_auth_revision: Gauge,
        "etcd_debugging_auth_revision", "Revision of users and roles.";
    debugging_disk_backend_commit_write_duration_seconds: Histogram, in FROM_1MS,
        "etcd_debugging_disk_backend_commit_write_duration_seconds", "Writes of the store.";
    debugging_lease_granted_total: Counter,
        "etcd_debugging_lease_granted_total", "Leases granted.";
    debugging_lease_renewed_total: Counter,
        "etcd_debugging_lease_renewed_total", "Leases renewed, as the leader.";
    debugging_lease_revoked_total: Counter,
        "etcd_debugging_lease_revoked_total", "Leases revoked.";
    debugging_lease_ttl_total: Histogram, in Buckets::exponential(1.0, 2.0, 24),
        "etcd_debugging_lease_ttl_total", "Seconds that granted leases live.";
    debugging_mvcc_compact_revision: Gauge,
        "etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.";
    debugging_mvcc_current_revision: Gauge,
        "etcd_debugging_mvcc_current_revision", "Revision of the store.";
    debugging_mvcc_db_compaction_keys_total: Counter,
        "etcd_debugging_mvcc_db_compaction_keys_total", "Revisions dropped by compactions.";
    debugging_mvcc_db_compaction_last: Gauge,
        "etcd_debugging_mvcc_db_compaction_last", "Unix time of the last compaction's end.";
    debugging_mvcc_db_compaction_pause_duration_milliseconds: Histogram, in Buckets::exponential(1.0, 2.0, 13),
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Slices of time that compactions took from others.";
    debugging_mvcc_db_compaction_total_duration_milliseconds: Histogram, in Buckets::exponential(100.0, 2.0, 14),
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Compactions from start to end.";
    debugging_mvcc_events_total: Counter,
        "etcd_debugging_mvcc_events_total", "Events sent to watchers.";
    debugging_mvcc_index_compaction_pause_duration_milliseconds: Histogram, in Buckets::exponential(0.5, 2.0, 14),
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Times the key index was locked by a compaction.";
    debugging_mvcc_keys_total: Gauge,
        "etcd_debugging_mvcc_keys_total", "Keys in the store.";
    debugging_mvcc_pending_events_total: Gauge,
        "etcd_debugging_mvcc_pending_events_total", "Events that wait for slow watchers.";
    debugging_mvcc_slow_watcher_total: Gauge,
        "etcd_debugging_mvcc_slow_watcher_total", "Watchers that are catching up.";
    debugging_mvcc_total_put_size_in_bytes: Gauge,
        "etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put.";
    debugging_mvcc_watch_stream_total: Gauge,
        "etcd_debugging_mvcc_watch_stream_total", "Open watch streams.";
    debugging_mvcc_watcher_total: Gauge,
        "etcd_debugging_mvcc_watcher_total", "Open watchers.";
    debugging_server_alarms: Family<Gauge>, by ["server_id", "alarm_type"],
        "etcd_debugging_server_alarms", "1 for an alarm of a member.";
    debugging_server_lease_expired_total: Counter,
        "etcd_debugging_server_lease_expired_total", "Leases expired.";
    debugging_server_watch_send_loop_control_stream_duration_seconds: Histogram, in FROM_1MS,
        "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "Sending answers to create and cancel requests of watches.";
    debugging_server_watch_send_loop_progress_duration_seconds: Histogram, in FROM_1MS,
        "etcd_debugging_server_watch_send_loop_progress_duration_seconds", "Sending progress notifications of watches.";
    debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds: Histogram, in FROM_1MS,
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "Sending events of watches, by event.";
    debugging_server_watch_send_loop_watch_stream_duration_seconds: Histogram, in FROM_1MS,
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "Sending events of watches.";
    debugging_snap_save_marshalling_duration_seconds: Histogram, in FROM_1MS,
        "etcd_debugging_snap_save_marshalling_duration_seconds", "Encoding raft snapshots.";
    debugging_snap_save_total_duration_seconds: Histogram, in FROM_1MS,
        "etcd_debugging_snap_save_total_duration_seconds", "Saving raft snapshots.";
    disk_backend_commit_duration_seconds: Histogram, in FROM_1MS,
        "etcd_disk_backend_commit_duration_seconds", "Syncs of the store.";
    disk_backend_defrag_duration_seconds: Histogram, in Buckets::exponential(0.1, 2.0, 13),
        "etcd_disk_backend_defrag_duration_seconds", "Defragmentations that were asked for.";
    disk_backend_snapshot_duration_seconds: Histogram, in Buckets::exponential(0.01, 2.0, 17),
        "etcd_disk_backend_snapshot_duration_seconds", "Backups streamed to clients.";
    disk_defrag_inflight: Gauge,
        "etcd_disk_defrag_inflight", "1 while a defragmentation that was asked for runs.";
    disk_wal_fsync_duration_seconds: Histogram, in FROM_1MS,
        "etcd_disk_wal_fsync_duration_seconds", "Syncs of the raft log.";
    disk_wal_write_bytes_total: Gauge,
        "etcd_disk_wal_write_bytes_total", "Bytes written to the raft log.";
    disk_wal_write_duration_seconds: Histogram, in FROM_1MS,
        "etcd_disk_wal_write_duration_seconds", "Writes to the raft log.";
    mvcc_db_open_read_transactions: Gauge,
        "etcd_mvcc_db_open_read_transactions", "Long reads of the store that are going on.";
    mvcc_db_total_size_in_bytes: Gauge,
        "etcd_mvcc_db_total_size_in_bytes", "Bytes of the store's files.";
    mvcc_db_total_size_in_use_in_bytes: Gauge,
        "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store's files that are still needed.";
    mvcc_delete_total: Counter,
        "etcd_mvcc_delete_total", "Deletions applied.";
    mvcc_hash_duration_seconds: Histogram, in Buckets::exponential(0.01, 2.0, 15),
        "etcd_mvcc_hash_duration_seconds", "Hashing the whole store.";
    mvcc_hash_rev_duration_seconds: Histogram, in Buckets::exponential(0.01, 2.0, 15),
        "etcd_mvcc_hash_rev_duration_seconds", "Hashing the keys up to a revision.";
    mvcc_put_total: Counter,
        "etcd_mvcc_put_total", "Puts applied.";
    mvcc_range_total: Counter,
        "etcd_mvcc_range_total", "Ranges read.";
    mvcc_txn_total: Counter,
        "etcd_mvcc_txn_total", "Transactions applied.";
    network_active_peers: Family<Gauge>, by ["Local", "Remote"],
        "etcd_network_active_peers", "1 for a member that is connected.";
    network_disconnected_peers_total: Family<Counter>, by ["Local", "Remote"],
        "etcd_network_disconnected_peers_total", "Connections to members that were lost.";
    network_known_peers: Family<Gauge>, by ["Local", "Remote"],
        "etcd_network_known_peers", "1 for a member that is known.";
    network_peer_received_bytes_total: Family<Counter>, by ["From"],
        "etcd_network_peer_received_bytes_total", "Bytes of raft messages received.";
    network_peer_received_failures_total: Family<Counter>, by ["From"],
        "etcd_network_peer_received_failures_total", "Failures to receive raft messages.";
    network_peer_round_trip_time_seconds: Family<Histogram>, by ["To"], in Buckets::exponential(0.0001, 2.0, 16),
        "etcd_network_peer_round_trip_time_seconds", "Probes to members and back.";
    network_peer_sent_bytes_total: Family<Counter>, by ["To"],
        "etcd_network_peer_sent_bytes_total", "Bytes of raft messages sent.";
    network_peer_sent_failures_total: Family<Counter>, by ["To"],
        "etcd_network_peer_sent_failures_total", "Failures to send raft messages.";
    network_server_stream_failures_total: Family<Counter>, by ["Type", "API"],
        "etcd_network_server_stream_failures_total", "Client streams that broke off.";
    network_snapshot_receive_failures: Family<Counter>, by ["From"],
        "etcd_network_snapshot_receive_failures", "Databases that were not received.";
    network_snapshot_receive_inflights_total: Family<Gauge>, by ["From"],
        "etcd_network_snapshot_receive_inflights_total", "Databases being received.";
    network_snapshot_receive_success: Family<Counter>, by ["From"],
        "etcd_network_snapshot_receive_success", "Databases received.";
    network_snapshot_receive_total_duration_seconds: Family<Histogram>, by ["From"], in FROM_100MS,
        "etcd_network_snapshot_receive_total_duration_seconds", "Receiving databases.";
    network_snapshot_send_failures: Family<Counter>, by ["To"],
        "etcd_network_snapshot_send_failures", "Databases that were not sent.";
    network_snapshot_send_inflights_total: Family<Gauge>, by ["To"],
        "etcd_network_snapshot_send_inflights_total", "Databases being sent.";
    network_snapshot_send_success: Family<Counter>, by ["To"],
        "etcd_network_snapshot_send_success", "Databases sent.";
    network_snapshot_send_total_duration_seconds: Family<Histogram>, by ["To"], in FROM_100MS,
        "etcd_network_snapshot_send_total_duration_seconds", "Sending databases.";
    server_apply_duration_seconds: Family<Histogram>, by ["version", "op", "success"], in FROM_100US,
        "etcd_server_apply_duration_seconds", "Applying requests.";
    server_client_requests_total: Family<Counter>, by ["type", "client_api_version"],
        "etcd_server_client_requests_total", "Client calls, by the clients' versions.";
    server_feature_enabled: Family<Gauge>, by ["name", "stage"],
        "etcd_server_feature_enabled", "Whether a feature gate is on.";
    server_go_version: Family<Gauge>, by ["server_go_version"],
        "etcd_server_go_version", "1 for what the server runs on.";
    server_has_leader: Gauge,
        "etcd_server_has_leader", "Whether this member follows a leader.";
    server_health_failures: Counter,
        "etcd_server_health_failures", "Answers of /health that were bad.";
    server_health_success: Counter,
        "etcd_server_health_success", "Answers of /health that were good.";
    server_healthcheck: Family<Gauge>, by ["type", "name"],
        "etcd_server_healthcheck", "The last result of a check of /livez or /readyz.";
    server_healthchecks_total: Family<Counter>, by ["type", "name", "status"],
        "etcd_server_healthchecks_total", "Checks of /livez and /readyz.";
    server_heartbeat_send_failures_total: Counter,
        "etcd_server_heartbeat_send_failures_total", "Heartbeats the leader could not send in time.";
    server_id: Family<Gauge>, by ["server_id"],
        "etcd_server_id", "1 for this member's id.";
    server_is_leader: Gauge,
        "etcd_server_is_leader", "Whether this member leads.";
    server_is_learner: Gauge,
        "etcd_server_is_learner", "Whether this member has no vote.";
    server_leader_changes_seen_total: Counter,
        "etcd_server_leader_changes_seen_total", "Changes of the leader.";
    server_learner_promote_failures: Family<Counter>, by ["Reason"],
        "etcd_server_learner_promote_failures", "Promotions of learners that this member refused as the leader, by the error.";
    server_learner_promote_successes: Counter,
        "etcd_server_learner_promote_successes", "Promotions of learners while this member led.";
    server_proposals_applied_total: Gauge,
        "etcd_server_proposals_applied_total", "Index of the last entry applied.";
    server_proposals_committed_total: Gauge,
        "etcd_server_proposals_committed_total", "Index of the last entry committed.";
    server_proposals_failed_total: Counter,
        "etcd_server_proposals_failed_total", "Proposals that failed.";
    server_proposals_pending: Gauge,
        "etcd_server_proposals_pending", "Proposals that wait for their outcome.";
    server_quota_backend_bytes: Gauge,
        "etcd_server_quota_backend_bytes", "Size of the store that raises alarm NOSPACE.";
    server_range_duration_seconds: Family<Histogram>, by ["success"], in FROM_100US,
        "etcd_server_range_duration_seconds", "Ranges, as clients see them.";
    server_read_indexes_failed_total: Counter,
        "etcd_server_read_indexes_failed_total", "Linearizable reads that failed.";
    server_request_duration_seconds: Family<Histogram>, by ["type", "success"], in FROM_1MS,
        "etcd_server_request_duration_seconds", "Requests, from their arrival to their outcome.";
    server_slow_apply_total: Counter,
        "etcd_server_slow_apply_total", "Applies that took too long.";
    server_slow_read_indexes_total: Counter,
        "etcd_server_slow_read_indexes_total", "Linearizable reads that waited too long.";
    server_snapshot_apply_in_progress_total: Gauge,
        "etcd_server_snapshot_apply_in_progress_total", "1 while a raft snapshot is being applied.";
    server_version: Family<Gauge>, by ["server_version"],
        "etcd_server_version", "1 for the server's version.";
    snap_db_fsync_duration_seconds: Histogram, in FROM_1MS,
        "etcd_snap_db_fsync_duration_seconds", "Syncs of received databases.";
    snap_db_save_total_duration_seconds: Histogram, in Buckets::exponential(0.1, 2.0, 10),
        "etcd_snap_db_save_total_duration_seconds", "Saving received databases.";
    snap_fsync_duration_seconds: Histogram, in FROM_1MS,
        "etcd_snap_fsync_duration_seconds", "Syncs of raft snapshots.";
    scrapes_in_flight: Gauge,
        "promhttp_metric_handler_requests_in_flight", "Scrapes that are going on.";
    scrapes: Family<Counter>, by ["code"],
        "promhttp_metric_handler_requests_total", "Scrapes.";
}

impl Metrics {
    /// Metrics of a member with this configuration.
    pub fn new(config: &Config) -> Self {
        let metrics = Metrics::empty(config.extensive_metrics);
        metrics.server_version.with(&[VERSION]).set(1);
        metrics.server_go_version.with(&[RUNTIME]).set(1);
        // Below zero there is none: alerts that divide by it stay silent.
        metrics
            .server_quota_backend_bytes
            .set(config.quota_bytes.map_or(-1, |bytes| bytes as i64));
        for code in SCRAPE_CODES {
            metrics.scrapes.with(&[code]);
        }
        for gate in Gate::ALL {
            metrics
                .server_feature_enabled
                .with(&[gate.name(), gate.stage().label()])
                .set(config.gates.enabled(*gate).into());
        }
        metrics
    }

    /// Notes how long a request took.
    pub fn measure_request(&self, kind: &str, took: Duration, success: bool) {
        let known = self.requests.iter().find(|(known, _)| *known == kind);
        debug_assert!(known.is_some(), "{kind}");
        if let Some((kind, handles)) = known {
            let family = &self.server_request_duration_seconds;
            let make = |success: &str| family.with(&[kind, success]);
            handles.get(success, make).observe_duration(took);
        }
    }

    /// Notes how long a range took.
    pub fn measure_range(&self, took: Duration, success: bool) {
        let make = |success: &str| self.server_range_duration_seconds.with(&[success]);
        self.ranges.get(success, make).observe_duration(took);
    }

    /// Counts what a transaction read, and whether it was one.
    pub fn count_reads(&self, operations: Operations) {
        self.mvcc_range_total.add(operations.ranges);
        self.mvcc_txn_total.add(operations.are_several().into());
    }

    /// Shows the member's id, once it is known.
    pub fn set_id(&self, id: MemberId) {
        self.server_id.with(&[&id.to_string()]).set(1);
    }

    /// Shows which members there are, and which are no longer.
    pub fn set_members(&self, local: MemberId, membership: &Membership) {
        let local = local.to_string();
        let series = |id: MemberId| self.network_known_peers.with(&[&local, &id.to_string()]);
        membership.removed().for_each(|id| series(id).set(0));
        membership.members().for_each(|member| series(member.id).set(1));
    }

    /// Shows the version the cluster has agreed on; `3.7.0` is shown as `3.7`.
    pub fn set_cluster_version(&self, version: &str) {
        let (major_minor, _) = version.rsplit_once('.').unwrap_or((version, ""));
        self.cluster_version.for_each(|_, gauge| gauge.set(0));
        self.cluster_version.with(&[major_minor]).set(1);
    }

    /// Shows which alarms are active, and which no longer are.
    pub fn set_alarms(&self, alarms: &[AlarmMember]) {
        self.debugging_server_alarms.for_each(|_, gauge| gauge.set(0));
        for alarm in alarms {
            let member = MemberId(alarm.member_id).to_string();
            let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
            self.debugging_server_alarms.with(&[&member, kind]).set(1);
        }
    }

    /// Everything, in Prometheus' text format.
    pub fn encode(&self) -> String {
        let mut text = Text::default();
        self.write_table(&mut text);
        self.grpc.write(&mut text);
        for (number, value) in insight::process::measured() {
            text.family(number.name, number.kind, number.help);
            text.sample(value);
        }
        text.finish()
    }

    /// Every family there is, for comparing with etcd's.
    pub fn declarations() -> Vec<Declaration> {
        let mut all = Metrics::table();
        all.extend(grpc::Grpc::declarations());
        all.extend(insight::process::numbers().map(|number| Declaration {
            name: number.name,
            kind: number.kind,
            labels: &[],
            buckets: vec![],
        }));
        all
    }
}

/// What requests ask for: of the log, and of the store alone.
fn request_kinds() -> impl Iterator<Item = &'static str> {
    [READ_TXN].iter().chain(machine::KINDS).copied()
}

/// The kind of a range.
pub const RANGE: &str = "Range";
/// The kind of a transaction that only reads.
pub const READ_TXN: &str = "ReadonlyTxn";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    fn lines<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(prefix)).collect()
    }

    #[test]
    fn a_fresh_member_shows_what_it_is() {
        let metrics = Metrics::new(&config());
        metrics.set_id(MemberId(0x8e9e05c52164694d));
        let text = metrics.encode();
        for line in [
            "etcd_server_version{server_version=\"3.7.1\"} 1",
            "etcd_server_id{server_id=\"8e9e05c52164694d\"} 1",
            "etcd_server_quota_backend_bytes 2.147483648e+09",
            "etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 1",
            "etcd_mvcc_put_total 0",
            "# TYPE etcd_disk_wal_fsync_duration_seconds histogram",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 0",
            "etcd_debugging_lease_ttl_total_bucket{le=\"8.388608e+06\"} 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
        assert!(
            !text.contains("etcd_server_healthcheck"),
            "no series before its first use, and no header either"
        );
    }

    #[test]
    fn the_cluster_version_is_the_last_one_set() {
        let metrics = Metrics::new(&config());
        metrics.set_cluster_version("3.6.0");
        metrics.set_cluster_version("3.7.0");
        assert_eq!(
            lines(&metrics.encode(), "etcd_cluster_version{"),
            [
                "etcd_cluster_version{cluster_version=\"3.6\"} 0",
                "etcd_cluster_version{cluster_version=\"3.7\"} 1",
            ]
        );
    }

    #[test]
    fn an_alarm_that_is_over_is_shown_as_such() {
        let metrics = Metrics::new(&config());
        let alarm = |kind: AlarmType| AlarmMember {
            member_id: 0xabc,
            alarm: kind.into(),
        };
        metrics.set_alarms(&[alarm(AlarmType::Nospace)]);
        metrics.set_alarms(&[alarm(AlarmType::Corrupt)]);
        assert_eq!(
            lines(&metrics.encode(), "etcd_debugging_server_alarms{"),
            [
                "etcd_debugging_server_alarms{alarm_type=\"CORRUPT\",server_id=\"abc\"} 1",
                "etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"abc\"} 0",
            ]
        );
    }

    #[test]
    fn counts_of_all_threads_are_added_up() {
        let metrics = Metrics::new(&config());
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    metrics.mvcc_put_total.add(2);
                    metrics.disk_wal_fsync_duration_seconds.observe(0.001953125);
                });
            }
        });
        let text = metrics.encode();
        assert!(text.contains("\netcd_mvcc_put_total 32\n"));
        assert_eq!(
            lines(&text, "etcd_disk_wal_fsync_duration_seconds_bucket")[..2],
            [
                "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 0",
                "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 16",
            ]
        );
        assert!(text.contains("\netcd_disk_wal_fsync_duration_seconds_count 16\n"));
        assert!(text.contains("\netcd_disk_wal_fsync_duration_seconds_sum 0.03125\n"));
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let metrics = Metrics::new(&config());
        let times = metrics.server_request_duration_seconds.with(&["Range", "true"]);
        times.observe(0.001);
        times.observe(100.0);
        let text = metrics.encode();
        let series = "etcd_server_request_duration_seconds_bucket{success=\"true\",type=\"Range\",le=";
        assert!(text.contains(&format!("{series}\"0.001\"}} 1\n")));
        assert!(text.contains(&format!("{series}\"8.192\"}} 1\n")));
        assert!(text.contains(&format!("{series}\"+Inf\"}} 2\n")));
    }

    #[test]
    fn values_kept_elsewhere_are_asked_for_when_somebody_scrapes() {
        let metrics = Metrics::new(&config());
        metrics.mvcc_db_total_size_in_bytes.ask(|| 4096.0);
        metrics.debugging_mvcc_events_total.ask(|| 7.0);
        let text = metrics.encode();
        assert!(text.contains("\netcd_mvcc_db_total_size_in_bytes 4096\n"));
        assert!(text.contains("\netcd_debugging_mvcc_events_total 7\n"));
    }

    #[test]
    fn families_and_labels_are_in_order_and_values_escaped() {
        let metrics = Metrics::new(&config());
        metrics
            .server_client_requests_total
            .with(&["unary", "a\"b\\c\nd"])
            .inc();
        let text = metrics.encode();
        assert!(text.contains("client_api_version=\"a\\\"b\\\\c\\nd\",type=\"unary\"} 1\n"));
        let families: Vec<_> = lines(&text, "# TYPE")
            .iter()
            .map(|line| line.split(' ').nth(2))
            .collect();
        assert!(families.is_sorted(), "{families:?}");
    }
}
