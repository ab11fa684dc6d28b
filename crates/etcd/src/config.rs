//! From flags to the server's configuration: defaults that depend on other flags, and etcd's checks
//! in etcd's order and words. Nothing here touches the machine; the one fact of it that is needed,
//! the address of its default route, is an argument.

mod advice;
mod discovery;
mod invalid;
mod tls;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use server::config::{
    AuthToken, AutoCompaction, BCRYPT_COST_DEFAULT, BCRYPT_COSTS, Config, Discovery, Gate, JwtOptions,
    Keepalive, PEER_TIMEOUT_MIN, Tracing, Url, parse_initial_cluster,
};
use server::{go, traces};
use tracing::{info, warn};

use crate::flags::{DiscoveryFallback, FLAGS, Flags, Settings};

pub use advice::advise;
use discovery::{discovery, endpoints};
pub use invalid::{Invalid, locate};
use tls::{check_tls, client_tls, peer_tls};

/// Quota when none is asked for.
const QUOTA_DEFAULT: u64 = 2 << 30;
/// Election timeouts above this leave a cluster without a leader for a minute.
const ELECTION_MAX_MS: u64 = 50_000;
/// Heartbeats that must fit into an election timeout.
const ELECTION_HEARTBEATS_MIN: u64 = 5;
/// Time between progress notifications, by default and at least.
const WATCH_PROGRESS_DEFAULT: Duration = Duration::from_secs(10 * 60);
const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);
/// A request that takes longer is logged, when 0 is asked for.
const SLOW_REQUEST_DEFAULT: Duration = Duration::from_millis(300);
/// Entries between snapshots when 0 is asked for.
const SNAPSHOT_COUNT_DEFAULT: u64 = 10_000;

/// Years a certificate of its own is good for if a file of settings says 0.
const SELF_SIGNED_CERT_VALIDITY_DEFAULT: u64 = 1;
/// Life of a JWT whose options do not say.
const JWT_TTL_DEFAULT: Duration = Duration::from_secs(300);
/// Life of a simple token when 0 is asked for.
const AUTH_TOKEN_TTL_DEFAULT_SECS: u64 = 300;

/// Checks the settings and completes them. `default_host` tells the address by which this machine
/// reaches the rest of the world; it is asked only if a port listens on every address and nobody has
/// said what to advertise.
pub fn build(settings: &Settings, default_host: impl Fn() -> Option<IpAddr>) -> Result<Config, Invalid> {
    let flags = &settings.flags;
    check(settings)?;
    let advertise_peer = advertised(
        &flags.listen_peer_urls,
        &flags.initial_advertise_peer_urls,
        "initial_advertise_peer_urls",
        &default_host,
    );
    let advertise_client = advertised(
        &flags.listen_client_urls,
        &flags.advertise_client_urls,
        "advertise_client_urls",
        &default_host,
    );
    let discovery = discovery(flags)?;
    let initial_cluster_token = match &discovery {
        Some(Discovery::Register(register)) => register.token.clone(),
        _ => flags.initial_cluster_token.clone(),
    };
    let initial_cluster = match flags.initial_cluster.as_str() {
        // Said to be empty, as by a template without its value, it is no cluster of this member alone.
        "" if settings.is_given("initial_cluster") => BTreeMap::new(),
        "" => [(flags.name.clone(), advertise_peer.clone())].into(),
        listed => parse_initial_cluster(listed).map_err(Invalid::InitialCluster)?,
    };
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let positive = |duration: Duration| (!duration.is_zero()).then_some(duration);
    let some_or_all = |count: u64| (count > 0).then_some(count as usize);
    Ok(Config {
        name: flags.name.clone(),
        data_dir: path(&flags.data_dir).unwrap_or_else(|| format!("{}.etcd", flags.name).into()),
        wal_dir: path(&flags.wal_dir),
        listen_peer: flags.listen_peer_urls.clone(),
        listen_client: flags.listen_client_urls.clone(),
        listen_client_http: flags.listen_client_http_urls.clone(),
        listen_metrics: flags.listen_metrics_urls.clone(),
        client_tls: client_tls(flags)?,
        peer_tls: peer_tls(flags)?,
        self_signed_cert_validity: match flags.self_signed_cert_validity {
            // A file that says 0 means the default, as in etcd; a flag does not.
            0 if settings.file.is_some() => SELF_SIGNED_CERT_VALIDITY_DEFAULT,
            years => years,
        },
        advertise_peer,
        advertise_client,
        reuse_port: flags.socket_reuse_port,
        initial_cluster,
        discovery,
        initial_cluster_state: flags.initial_cluster_state,
        initial_cluster_token,
        force_new_cluster: flags.force_new_cluster,
        max_learners: usize::try_from(flags.max_learners)
            .map_err(|_| Invalid::NotNegative("max-learners", flags.max_learners))?,
        strict_reconfig_check: flags.strict_reconfig_check,
        tick: Duration::from_millis(flags.heartbeat_interval),
        election_timeout: Duration::from_millis(flags.election_timeout),
        initial_election_tick_advance: flags.initial_election_tick_advance,
        pre_vote: flags.pre_vote,
        peer_read_timeout: peer_timeout("read", flags.raft_read_timeout),
        peer_write_timeout: peer_timeout("write", flags.raft_write_timeout),
        snapshot_count: match flags.snapshot_count {
            0 => SNAPSHOT_COUNT_DEFAULT,
            count => count,
        },
        snapshot_catchup_entries: flags.snapshot_catchup_entries,
        max_snapshot_files: some_or_all(flags.max_snapshots),
        max_wal_files: some_or_all(flags.max_wals),
        quota_bytes: match flags.quota_backend_bytes {
            0 => Some(QUOTA_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        },
        confine_files: flags.confine_files,
        // Known to who has opened the log.
        exchanged_logs: Vec::new(),
        fsync: !flags.unsafe_no_fsync,
        max_txn_ops: flags.max_txn_ops as usize,
        max_request_bytes: flags.max_request_bytes as usize,
        max_concurrent_streams: flags.max_concurrent_streams,
        keepalive: Keepalive {
            interval: positive(flags.grpc_keepalive_interval),
            timeout: positive(flags.grpc_keepalive_timeout),
            ping_pause: positive(flags.grpc_keepalive_min_time)
                .filter(|_| settings.is_given("grpc_keepalive_min_time")),
        },
        auth_token: auth_token(&flags.auth_token)?,
        auth_token_ttl: Duration::from_secs(match flags.auth_token_ttl {
            0 => AUTH_TOKEN_TTL_DEFAULT_SECS,
            secs => secs,
        }),
        password_chars_min: flags.auth_min_password_length as usize,
        bcrypt_cost: bcrypt_cost(flags.bcrypt_cost),
        auto_compaction: auto_compaction(&flags.auto_compaction_mode, &flags.auto_compaction_retention)?,
        watch_progress_interval: positive(flags.watch_progress_notify_interval)
            .unwrap_or(WATCH_PROGRESS_DEFAULT)
            .max(WATCH_PROGRESS_MIN),
        slow_apply: flags.warning_apply_duration,
        slow_request: positive(flags.warning_unary_request_duration).unwrap_or(SLOW_REQUEST_DEFAULT),
        corrupt_check_interval: positive(flags.corrupt_check_time),
        compact_hash_check_interval: flags.compact_hash_check_time,
        downgrade_check_interval: flags.downgrade_check_time,
        grpc_gateway: flags.enable_grpc_gateway,
        extensive_metrics: flags.metrics == "extensive",
        tracing: tracing(flags)?,
        pprof: flags.enable_pprof || flags.log_level == "debug",
        cors: flags.cors.clone(),
        host_whitelist: flags.host_whitelist.clone(),
        gates: flags.feature_gates.clone(),
    })
}

/// The checks that need no other knowledge than the settings, in etcd's order.
fn check(settings: &Settings) -> Result<(), Invalid> {
    let flags = &settings.flags;
    if flags.discovery_fallback == DiscoveryFallback::Proxy {
        return Err(Invalid::FallbackProxy);
    }
    let listened = [
        &flags.listen_peer_urls,
        &flags.listen_client_urls,
        &flags.listen_client_http_urls,
        &flags.listen_metrics_urls,
    ];
    let bindable = |url: &&Url| url.scheme().is_unix() || url.host() == "localhost" || url.ip().is_some();
    if let Some(url) = listened.into_iter().flatten().find(|url| !bindable(url)) {
        return Err(Invalid::ListenHost(url.clone()));
    }
    if let Some(url) = without_host(&flags.initial_advertise_peer_urls) {
        return Err(Invalid::AdvertisePeer(
            join(&flags.initial_advertise_peer_urls),
            url,
        ));
    }
    if let Some(url) = without_host(&flags.advertise_client_urls) {
        return Err(Invalid::AdvertiseClient(join(&flags.advertise_client_urls), url));
    }
    let bootstraps = [
        !flags.initial_cluster.is_empty(),
        !flags.discovery_srv.is_empty(),
        !flags.discovery_endpoints.is_empty(),
    ];
    if bootstraps.into_iter().filter(|given| *given).count() > 1 {
        return Err(Invalid::ManyBootstraps);
    }
    if flags.discovery_token.is_empty() != flags.discovery_endpoints.is_empty() {
        return Err(Invalid::DiscoveryHalf);
    }
    if !flags.discovery_endpoints.is_empty() && endpoints(flags).any(str::is_empty) {
        return Err(Invalid::DiscoveryEndpointEmpty);
    }
    check_timing(flags)?;
    // A file may leave the default, as in etcd.
    let is_by_flags = settings.file.is_none();
    if is_by_flags && settings.is_given("listen_client_urls") && !settings.is_given("advertise_client_urls") {
        return Err(Invalid::AdvertiseClientMissing);
    }
    match flags.auto_compaction_mode.as_str() {
        "periodic" | "revision" => {}
        "" => return Err(Invalid::CompactionModeMissing),
        unknown => return Err(Invalid::CompactionMode(unknown.into())),
    }
    tracing(flags)?;
    let gate = |gate| flags.feature_gates.enabled(gate);
    if gate(Gate::LeaseCheckpointPersist) && !gate(Gate::LeaseCheckpoint) {
        return Err(Invalid::CheckpointPersist);
    }
    if flags.compact_hash_check_time.is_zero() {
        return Err(Invalid::NotPositive("compact-hash-check-time", "0s".into()));
    }
    check_tls(flags)
}

/// Where traces go, if they are wanted; nobody looks at the flags of who does not want any.
fn tracing(flags: &Flags) -> Result<Option<Tracing>, Invalid> {
    if !flags.enable_distributed_tracing {
        return Ok(None);
    }
    let sampling_per_million = match u32::try_from(flags.distributed_tracing_sampling_rate) {
        _ if flags.distributed_tracing_sampling_rate < 0 => Err("tracing sampling rate must be positive"),
        Ok(rate @ ..=traces::ALL) => Ok(rate),
        _ => Err("tracing sampling rate must be less than 1000000"),
    };
    let collector = Tracing::collector_at(&flags.distributed_tracing_address);
    Ok(Some(Tracing {
        sampling_per_million: sampling_per_million.map_err(Invalid::Tracing)?,
        collector: collector.ok_or(Invalid::Tracing("the collector's address must be \"host:port\""))?,
        service_name: flags.distributed_tracing_service_name.clone(),
        instance_id: flags.distributed_tracing_instance_id.clone(),
    }))
}

fn check_timing(flags: &Flags) -> Result<(), Invalid> {
    let (heartbeat, election) = (flags.heartbeat_interval, flags.election_timeout);
    if heartbeat == 0 {
        return Err(Invalid::NotPositive("heartbeat-interval", "0ms".into()));
    }
    if election == 0 {
        return Err(Invalid::NotPositive("election-timeout", "0ms".into()));
    }
    if heartbeat.saturating_mul(ELECTION_HEARTBEATS_MIN) > election {
        return Err(Invalid::ElectionTooShort { election, heartbeat });
    }
    if election > ELECTION_MAX_MS {
        return Err(Invalid::ElectionTooLong(election));
    }
    Ok(())
}

/// The kind of tokens, then its options: `jwt,sign-method=RS256,priv-key=FILE`.
fn auth_token(text: &str) -> Result<AuthToken, Invalid> {
    let invalid = || Invalid::AuthToken(text.to_owned());
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options = BTreeMap::new();
    for option in parts {
        let (name, value) = option.split_once('=').ok_or_else(invalid)?;
        if value.contains('=') || options.insert(name, value).is_some() {
            return Err(invalid());
        }
    }
    match kind {
        "simple" => Ok(AuthToken::Simple),
        "jwt" => jwt(options).map(AuthToken::Jwt).ok_or_else(invalid),
        _ => Err(invalid()),
    }
}

fn jwt(mut options: BTreeMap<&str, &str>) -> Option<JwtOptions> {
    let mut take = |name| options.remove(name).filter(|value| !value.is_empty());
    let jwt = JwtOptions {
        method: take("sign-method")?.to_owned(),
        public_key: take("pub-key").map(PathBuf::from),
        private_key: take("priv-key").map(PathBuf::from),
        ttl: match take("ttl") {
            Some(ttl) => go::parse_duration(ttl).ok()?,
            None => JWT_TTL_DEFAULT,
        },
    };
    if !options.is_empty() {
        warn!(keys = ?options.keys(), "unknown JWT options");
    }
    Some(jwt)
}

/// A cost there is; any other falls back to the default.
fn bcrypt_cost(asked: u64) -> u32 {
    let cost = u32::try_from(asked).ok();
    match cost.filter(|cost| BCRYPT_COSTS.contains(cost)) {
        Some(cost) => cost,
        None => {
            warn!(
                "min-cost" = BCRYPT_COSTS.start(),
                "max-cost" = BCRYPT_COSTS.end(),
                "default-cost" = BCRYPT_COST_DEFAULT,
                "given-cost" = asked,
                "use default bcrypt cost instead of the invalid given cost"
            );
            BCRYPT_COST_DEFAULT
        }
    }
}

/// Connections between members show signs of life in fixed intervals; who is asked for less patience has that much.
fn peer_timeout(direction: &str, asked: Duration) -> Duration {
    if asked < PEER_TIMEOUT_MIN {
        let least = go::duration(PEER_TIMEOUT_MIN);
        info!("raft-{direction}-timeout increased to minimum value: {least}");
    }
    asked.max(PEER_TIMEOUT_MIN)
}

fn without_host(urls: &[Url]) -> Option<Url> {
    urls.iter().find(|url| url.host().is_empty()).cloned()
}

fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

/// The URLs to advertise: those of the flag, or, where it was left alone and the port listens on every
/// address, this machine's address.
fn advertised(
    listened: &[Url],
    advertised: &[Url],
    field: &str,
    default_host: impl Fn() -> Option<IpAddr>,
) -> Vec<Url> {
    let on_every = listened.first().filter(|url| url.host() == "0.0.0.0");
    let port = on_every.and_then(Url::port);
    let left_alone = FLAGS
        .iter()
        .any(|flag| flag.field == field && flag.default == join(advertised));
    match (port, left_alone.then(&default_host).flatten()) {
        (Some(port), Some(host)) => {
            info!(host = %host, "detected default host for advertise");
            vec![Url::http(&host.to_string(), port)]
        }
        _ => advertised.to_vec(),
    }
}

/// Parses what history to keep: in periodic mode a number of hours or a duration, in revision mode a
/// number of revisions; 0 keeps everything.
fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, Invalid> {
    let number = match retention {
        "" => Some(0),
        retention => retention.parse::<u64>().ok(),
    };
    match (mode, number) {
        (_, Some(0)) => Ok(AutoCompaction::Off),
        ("revision", Some(revisions)) => Ok(AutoCompaction::Revision(revisions)),
        ("revision", None) => Err(Invalid::Retention(format!(
            "{retention:?} is no number of revisions, which --auto-compaction-mode=revision counts"
        ))),
        (_, Some(hours)) => match hours.checked_mul(3600) {
            Some(seconds) => Ok(AutoCompaction::Periodic(Duration::from_secs(seconds))),
            None => Err(Invalid::Retention(format!("{retention:?} hours are too many"))),
        },
        (_, None) => match go::parse_duration(retention).map_err(Invalid::Retention)? {
            Duration::ZERO => Ok(AutoCompaction::Off),
            period => Ok(AutoCompaction::Periodic(period)),
        },
    }
}

#[cfg(test)]
mod tests;
