//! What operators should know about settings that are valid all the same.

use server::config::{Config, DEFAULT_NAME, Gate};
use server::go;
use tracing::{info, warn};

use crate::flags::{FLAGS, Flags, Settings, Support};

/// Above this etcd's own documentation advises against a quota; a store like ours has no such bound.
const QUOTA_RECOMMENDED_MAX: u64 = 8 << 30;
/// Requests above this are better stored elsewhere.
const REQUEST_RECOMMENDED_MAX: u64 = 10 << 20;

/// Logs what operators should know about settings that are valid all the same.
pub fn advise(settings: &Settings, config: &Config) {
    let flags = &settings.flags;
    // Whoever gives metrics a port of their own has split the traffic, and is spared this.
    if flags.listen_client_http_urls.is_empty() && flags.listen_metrics_urls.is_empty() {
        warn!("Running http and grpc server on single port. This is not recommended for production.");
    }
    if config.name == DEFAULT_NAME {
        warn!(
            "name" = %config.name,
            "it isn't recommended to use default name, please set a value for --name. \
             Note that etcd might run into issue when multiple members have the same default name"
        );
    }
    if flags.data_dir.is_empty() {
        let dir = config.data_dir.display();
        warn!("data-dir" = %dir, "'data-dir' was empty; using default");
    }
    if flags.max_request_bytes > REQUEST_RECOMMENDED_MAX {
        warn!(
            "max-request-bytes" = flags.max_request_bytes,
            "recommended-request-bytes" = REQUEST_RECOMMENDED_MAX,
            "exceeded recommended request limit"
        );
    }
    if let Some(quota) = config.quota_bytes.filter(|quota| *quota > QUOTA_RECOMMENDED_MAX) {
        warn!(
            "quota-size-bytes" = quota,
            "quota-maximum-size-bytes" = QUOTA_RECOMMENDED_MAX,
            "quota exceeds the maximum value"
        );
    }
    if !config.fsync {
        warn!("--unsafe-no-fsync is set: what was acknowledged is lost when the machine crashes");
    }
    if config.gates.enabled(Gate::LeaseCheckpoint) && !config.gates.enabled(Gate::LeaseCheckpointPersist) {
        warn!(
            "Detected that checkpointing is enabled without persistence. \
             Consider enabling feature gate LeaseCheckpointPersist"
        );
    }
    if settings.is_given("max_snapshots") {
        warn!("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.");
    }
    if settings.is_given("v2_deprecation") {
        warn!(
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. \
             The default value is enforced, ignoring user input."
        );
    }
    if !flags.watch_progress_notify_interval.is_zero()
        && flags.watch_progress_notify_interval < config.watch_progress_interval
    {
        warn!(
            interval = %go::duration(config.watch_progress_interval),
            "adjusting watch progress notify interval to minimum period"
        );
    }
    if flags.bootstrap_defrag_threshold_megabytes > 0 {
        info!(
            "bootstrap-defrag-threshold-bytes" =
                flags.bootstrap_defrag_threshold_megabytes.saturating_mul(1 << 20),
            "Skipping defragmentation"
        );
    }
    let default = Flags::default();
    for flag in FLAGS {
        if let (Support::Inert(reason), true) = (flag.support, (flag.differs)(flags, &default)) {
            info!(flag = format!("--{}", flag.name()), reason, "flag has no effect");
        }
    }
}
