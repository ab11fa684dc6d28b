//! From flags to the server's configuration: defaults that depend on other flags, and etcd's checks
//! in etcd's order and words. Nothing here touches the machine; the one fact of it that is needed,
//! the address of its default route, is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use server::config::{
    Allowed, AuthToken, AutoCompaction, BCRYPT_COST_DEFAULT, BCRYPT_COSTS, Config, Credentials, DEFAULT_NAME,
    Discovery, Gate, Identity, JwtOptions, Keepalive, PEER_TIMEOUT_MIN, Protocols, RegisterSettings,
    RegisterTls, Suite, SuiteError, Tls, TlsSettings, Tracing, Trust, Url, UrlError, Version,
    parse_initial_cluster,
};
use server::{go, traces};
use thiserror::Error;
use tracing::{info, warn};

use crate::flags::{DiscoveryFallback, FLAGS, Flags, Settings, Source, Support};

/// Quota when none is asked for.
const QUOTA_DEFAULT: u64 = 2 << 30;
/// Above this etcd's own documentation advises against a quota; a store like ours has no such bound.
const QUOTA_RECOMMENDED_MAX: u64 = 8 << 30;
/// Requests above this are better stored elsewhere.
const REQUEST_RECOMMENDED_MAX: u64 = 10 << 20;
/// Election timeouts above this leave a cluster without a leader for a minute.
const ELECTION_MAX_MS: u64 = 50_000;
/// Heartbeats that must fit into an election timeout.
const ELECTION_HEARTBEATS_MIN: u64 = 5;
/// Time between progress notifications, by default and at least.
const WATCH_PROGRESS_DEFAULT: Duration = Duration::from_secs(10 * 60);
const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);
/// A request that takes longer is logged, when 0 is asked for.
const SLOW_REQUEST_DEFAULT: Duration = Duration::from_millis(300);
/// What 0, for ever, means to the discovery service's timeouts.
const DISCOVERY_TIME_MAX: Duration = Duration::from_secs(3600);
/// Entries between snapshots when 0 is asked for.
const SNAPSHOT_COUNT_DEFAULT: u64 = 10_000;

/// Life of a JWT whose options do not say.
const JWT_TTL_DEFAULT: Duration = Duration::from_secs(300);
/// Life of a simple token when 0 is asked for.
const AUTH_TOKEN_TTL_DEFAULT_SECS: u64 = 300;

/// What is wrong with the settings, in etcd's words where etcd has some.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum Invalid {
    #[error("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"")]
    FallbackProxy,
    #[error("expected IP in URL for binding ({0})")]
    ListenHost(Url),
    #[error("--initial-advertise-peer-urls {0:?} must be \"host:port\" (unexpected empty host ({1}))")]
    AdvertisePeer(String, Url),
    #[error(
        "--advertise-client-urls {0:?} must be in the format \"host:port\", \"unix:/path/to/socket\" \
         or \"unixs:/path/to/socket\" (unexpected empty host ({1}))"
    )]
    AdvertiseClient(String, Url),
    #[error(
        "multiple discovery or bootstrap flags are set. \
         Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
    )]
    ManyBootstraps,
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    DiscoveryHalf,
    #[error("--discovery-endpoints must not contain empty endpoints")]
    DiscoveryEndpointEmpty,
    #[error(
        "KeyFile and CertFile must both be present[key: {key}, cert: {cert}] (--discovery-key, --discovery-cert)"
    )]
    DiscoveryKeyPair { key: String, cert: String },
    #[error("--{0} must be >0 (set to {1})")]
    NotPositive(&'static str, String),
    #[error(
        "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
    )]
    ElectionTooShort { election: u64, heartbeat: u64 },
    #[error("--election-timeout[{0}ms] is too long, and should be set less than {ELECTION_MAX_MS}ms")]
    ElectionTooLong(u64),
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    AdvertiseClientMissing,
    #[error("undefined auto-compaction-mode")]
    CompactionModeMissing,
    #[error("unknown auto-compaction-mode {0:?}")]
    CompactionMode(String),
    #[error("distributed tracing configurition is not valid: ({0})")]
    Tracing(&'static str),
    #[error("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")]
    CheckpointPersist,
    #[error("unexpected TLS version {0:?} (must be one of: TLS1.2, TLS1.3)")]
    TlsVersion(String),
    #[error("min version ({0}) is greater than max version ({1})")]
    TlsVersions(String, String),
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    TlsCiphers,
    #[error(transparent)]
    TlsSuite(SuiteError),
    #[error("AllowedCNs and AllowedHostnames are mutually exclusive (cns={cns:?}, hostnames={hostnames:?})")]
    TlsAllowed {
        cns: Vec<String>,
        hostnames: Vec<String>,
    },
    #[error("auth: invalid auth options (--auth-token={0})")]
    AuthToken(String),
    #[error("error parsing CompactionRetention: {0}")]
    Retention(String),
    #[error("error setting up initial cluster: {0}")]
    InitialCluster(UrlError),
}

impl Invalid {
    /// Fields of the flags that it is about.
    fn fields(&self) -> &[&str] {
        match self {
            Invalid::FallbackProxy => &["discovery_fallback"],
            Invalid::ListenHost(_) => &[
                "listen_peer_urls",
                "listen_client_urls",
                "listen_client_http_urls",
                "listen_metrics_urls",
            ],
            Invalid::AdvertisePeer(..) => &["initial_advertise_peer_urls"],
            Invalid::AdvertiseClient(..) => &["advertise_client_urls"],
            Invalid::ManyBootstraps => &["initial_cluster", "discovery_endpoints", "discovery_srv"],
            Invalid::DiscoveryHalf => &["discovery_token", "discovery_endpoints"],
            Invalid::DiscoveryEndpointEmpty => &["discovery_endpoints"],
            Invalid::DiscoveryKeyPair { .. } => &["discovery_key", "discovery_cert"],
            Invalid::NotPositive("heartbeat-interval", _) => &["heartbeat_interval"],
            Invalid::NotPositive("compact-hash-check-time", _) => &["compact_hash_check_time"],
            Invalid::NotPositive(..) | Invalid::ElectionTooLong(_) => &["election_timeout"],
            Invalid::ElectionTooShort { .. } => &["election_timeout", "heartbeat_interval"],
            Invalid::AdvertiseClientMissing => &["listen_client_urls"],
            Invalid::CompactionModeMissing | Invalid::CompactionMode(_) => &["auto_compaction_mode"],
            Invalid::Tracing(_) => &["distributed_tracing_sampling_rate", "distributed_tracing_address"],
            Invalid::CheckpointPersist => &["feature_gates"],
            Invalid::TlsVersion(_) | Invalid::TlsVersions(..) => &["tls_min_version", "tls_max_version"],
            Invalid::TlsCiphers => &["tls_min_version", "cipher_suites"],
            Invalid::TlsSuite(_) => &["cipher_suites"],
            Invalid::TlsAllowed { .. } => &[
                "client_cert_allowed_cn",
                "client_cert_allowed_hostname",
                "peer_cert_allowed_cn",
                "peer_cert_allowed_hostname",
            ],
            Invalid::AuthToken(_) => &["auth_token"],
            Invalid::Retention(_) => &["auto_compaction_retention", "auto_compaction_mode"],
            Invalid::InitialCluster(_) => &["initial_cluster"],
        }
    }

    /// What is wrong, and where in the file of settings, if they come from one.
    pub fn explain(&self, settings: &Settings) -> String {
        let Some(path) = &settings.file else {
            return self.to_string();
        };
        let lines = self.fields().iter().filter_map(|field| settings.given(field));
        let lines = lines.filter_map(|given| match given.source {
            Source::Line(line) => Some(format!("line {line}")),
            Source::Flag | Source::Variable(_) => None,
        });
        match lines.collect::<Vec<_>>().join(", ") {
            lines if lines.is_empty() => format!("{path}: {self}"),
            lines => format!("{path}: {lines}: {self}"),
        }
    }
}

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
        self_signed_cert_validity: flags.self_signed_cert_validity,
        advertise_peer,
        advertise_client,
        reuse_port: flags.socket_reuse_port,
        initial_cluster,
        discovery,
        initial_cluster_state: flags.initial_cluster_state,
        initial_cluster_token,
        force_new_cluster: flags.force_new_cluster,
        max_learners: flags.max_learners.max(0) as usize,
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

fn check_tls(flags: &Flags) -> Result<(), Invalid> {
    let (min, max) = (&flags.tls_min_version, &flags.tls_max_version);
    for version in [min, max] {
        if !matches!(version.as_str(), "" | "TLS1.2" | "TLS1.3") {
            return Err(Invalid::TlsVersion(version.clone()));
        }
    }
    if !max.is_empty() && min > max {
        return Err(Invalid::TlsVersions(min.clone(), max.clone()));
    }
    if min == "TLS1.3" && !flags.cipher_suites.is_empty() {
        return Err(Invalid::TlsCiphers);
    }
    Ok(())
}

fn client_tls(flags: &Flags) -> Result<Tls, Invalid> {
    let (names, hostnames) = (&flags.client_cert_allowed_cn, &flags.client_cert_allowed_hostname);
    Ok(Tls {
        settings: TlsSettings {
            identity: identity(&flags.cert_file, &flags.key_file),
            // Nobody is dialed.
            client_identity: None,
            trust: trust(&flags.trusted_ca_file),
            requires_certificate: flags.client_cert_auth || !flags.trusted_ca_file.is_empty(),
            revoked: file(&flags.client_crl_file),
            allowed: allowed(names, hostnames)?,
            protocols: protocols(flags)?,
        },
        auto: flags.auto_tls,
        asks_certificate: flags.client_cert_auth,
        checks_address: false,
    })
}

fn peer_tls(flags: &Flags) -> Result<Tls, Invalid> {
    let (names, hostnames) = (&flags.peer_cert_allowed_cn, &flags.peer_cert_allowed_hostname);
    Ok(Tls {
        settings: TlsSettings {
            identity: identity(&flags.peer_cert_file, &flags.peer_key_file),
            client_identity: identity(&flags.peer_client_cert_file, &flags.peer_client_key_file),
            trust: trust(&flags.peer_trusted_ca_file),
            requires_certificate: flags.peer_client_cert_auth || !flags.peer_trusted_ca_file.is_empty(),
            revoked: file(&flags.peer_crl_file),
            allowed: allowed(names, hostnames)?,
            protocols: protocols(flags)?,
        },
        auto: flags.peer_auto_tls,
        asks_certificate: flags.peer_client_cert_auth,
        checks_address: !flags.peer_skip_client_san_verification,
    })
}

fn file(name: &str) -> Option<PathBuf> {
    (!name.is_empty()).then(|| name.into())
}

/// Half a pair is found out when it is used, as in etcd.
fn identity(cert: &str, key: &str) -> Option<Identity> {
    let is_given = !cert.is_empty() || !key.is_empty();
    is_given.then(|| Identity {
        cert: cert.into(),
        key: key.into(),
    })
}

fn trust(authorities: &str) -> Trust {
    file(authorities).map_or(Trust::System, Trust::Authorities)
}

fn allowed(names: &[String], hostnames: &[String]) -> Result<Allowed, Invalid> {
    match (names, hostnames) {
        ([], []) => Ok(Allowed::Any),
        (names, []) => Ok(Allowed::CommonNames(names.to_vec())),
        ([], hostnames) => Ok(Allowed::Hostnames(hostnames.to_vec())),
        (cns, hostnames) => Err(Invalid::TlsAllowed {
            cns: cns.to_vec(),
            hostnames: hostnames.to_vec(),
        }),
    }
}

/// What [`check_tls`] has left.
fn protocols(flags: &Flags) -> Result<Protocols, Invalid> {
    let version = |name: &str, otherwise| match name {
        "TLS1.2" => Version::Tls12,
        "TLS1.3" => Version::Tls13,
        _ => otherwise,
    };
    let suites = flags.cipher_suites.iter().map(|name| Suite::parse(name));
    let suites = suites.collect::<Result<_, _>>().map_err(Invalid::TlsSuite)?;
    Ok(Protocols {
        min: version(&flags.tls_min_version, Version::Tls12),
        max: version(&flags.tls_max_version, Version::Tls13),
        suites,
    })
}

/// Whom to ask for the members, where they are not listed.
fn discovery(flags: &Flags) -> Result<Option<Discovery>, Invalid> {
    if !flags.discovery_srv.is_empty() {
        return Ok(Some(Discovery::Srv {
            domain: flags.discovery_srv.clone(),
            service_name: flags.discovery_srv_name.clone(),
        }));
    }
    if flags.discovery_endpoints.is_empty() {
        return Ok(None);
    }
    let limit = |time: Duration| if time.is_zero() { DISCOVERY_TIME_MAX } else { time };
    Ok(Some(Discovery::Register(RegisterSettings {
        endpoints: endpoints(flags).map(str::to_owned).collect(),
        token: flags.discovery_token.clone(),
        dial_timeout: limit(flags.discovery_dial_timeout),
        request_timeout: limit(flags.discovery_request_timeout),
        keepalive_interval: (!flags.discovery_keepalive_time.is_zero())
            .then_some(flags.discovery_keepalive_time),
        keepalive_timeout: limit(flags.discovery_keepalive_timeout),
        tls: discovery_tls(flags)?,
        credentials: discovery_credentials(flags),
    })))
}

fn endpoints(flags: &Flags) -> impl Iterator<Item = &str> {
    flags.discovery_endpoints.split(',').map(str::trim)
}

/// Any of the flags about certificates asks for TLS, whatever `--discovery-insecure-transport` says.
fn discovery_tls(flags: &Flags) -> Result<Option<RegisterTls>, Invalid> {
    let (cert, key, ca) = (
        &flags.discovery_cert,
        &flags.discovery_key,
        &flags.discovery_cacert,
    );
    if cert.is_empty() != key.is_empty() {
        return Err(Invalid::DiscoveryKeyPair {
            key: key.clone(),
            cert: cert.clone(),
        });
    }
    let trust = match (flags.discovery_insecure_skip_tls_verify, ca.as_str()) {
        (true, _) => Trust::Anyone,
        (false, "") => Trust::System,
        (false, ca) => Trust::Authorities(ca.into()),
    };
    let identity = (!cert.is_empty()).then(|| Identity {
        cert: cert.into(),
        key: key.into(),
    });
    let wanted = !flags.discovery_insecure_transport || identity.is_some() || trust != Trust::System;
    Ok(wanted.then_some(RegisterTls { identity, trust }))
}

/// A user with a password of its own, or as `user:password`.
fn discovery_credentials(flags: &Flags) -> Option<Credentials> {
    let (user, password) = match flags.discovery_password.as_str() {
        "" => flags
            .discovery_user
            .split_once(':')
            .unwrap_or((&flags.discovery_user, "")),
        password => (flags.discovery_user.as_str(), password),
    };
    (!user.is_empty()).then(|| Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
    })
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
    let number = retention.parse::<u64>().ok();
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

/// Logs what operators should know about settings that are valid all the same.
pub fn advise(settings: &Settings, config: &Config) {
    let flags = &settings.flags;
    // Whoever gives metrics a port of their own has split the traffic, and is spared this.
    if flags.listen_client_http_urls.is_empty() && flags.listen_metrics_urls.is_empty() {
        warn!("Running http and grpc server on single port. This is not recommended for production.");
    }
    if config.name == DEFAULT_NAME {
        warn!(
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
        info!(
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

#[cfg(test)]
mod tests {
    use server::config::show_cluster;

    use super::*;
    use crate::flags::{Invocation, parse};

    fn settings(args: &[&str]) -> Settings {
        let args: Vec<_> = args.iter().map(|arg| arg.to_string()).collect();
        match parse(&args, &[], |path| Err(std::io::Error::other(path))) {
            Ok(Invocation::Serve(settings)) => *settings,
            other => panic!("no server: {other:?}"),
        }
    }

    fn config(args: &[&str]) -> Config {
        build(&settings(args), || Some([10, 0, 0, 7].into())).unwrap()
    }

    fn refusal(args: &[&str]) -> String {
        build(&settings(args), || None).unwrap_err().to_string()
    }

    #[test]
    fn without_flags_a_member_is_a_cluster_of_its_own() {
        let config = config(&[]);
        assert_eq!(
            show_cluster(&config.initial_cluster),
            "default=http://localhost:2380"
        );
        assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(config.wal_path(), PathBuf::from("default.etcd/member/wal"));
        assert_eq!((config.quota_bytes, config.election_ticks()), (Some(2 << 30), 10));
        assert_eq!(config.auto_compaction, AutoCompaction::Off);
        assert_eq!(config.watch_progress_interval, Duration::from_secs(600));
        assert_eq!(config.check_bootstrap(), Ok(()));
    }

    #[test]
    fn names_reach_where_they_are_used() {
        let config = config(&[
            "--name=m1",
            "--wal-dir=/w",
            "--initial-advertise-peer-urls=http://a:1,http://b:1",
        ]);
        assert_eq!(
            show_cluster(&config.initial_cluster),
            "m1=http://a:1,m1=http://b:1"
        );
        assert_eq!(config.data_dir, PathBuf::from("m1.etcd"));
        assert_eq!(config.wal_path(), PathBuf::from("/w"));
    }

    #[test]
    fn a_wildcard_port_is_advertised_by_the_machines_address() {
        let listen = [
            "--listen-peer-urls=http://0.0.0.0:12380",
            "--listen-client-urls=http://0.0.0.0:12379",
        ];
        let settings_of = |more: &[&str]| config(&[&listen[..], more].concat());
        let detected = settings_of(&["--advertise-client-urls=http://localhost:2379"]);
        assert_eq!(join(&detected.advertise_peer), "http://10.0.0.7:12380");
        assert_eq!(join(&detected.advertise_client), "http://10.0.0.7:12379");
        assert_eq!(
            show_cluster(&detected.initial_cluster),
            "default=http://10.0.0.7:12380"
        );
        let given = settings_of(&["--advertise-client-urls=http://me:1"]);
        assert_eq!(join(&given.advertise_client), "http://me:1");
    }

    #[test]
    fn refusals_are_in_etcds_words() {
        for (args, text) in [
            (
                &[
                    "--listen-client-urls=http://foo.bar:1",
                    "--advertise-client-urls=http://a:1",
                ][..],
                "expected IP in URL for binding (http://foo.bar:1)",
            ),
            (
                &["--listen-metrics-urls=http://:1"],
                "expected IP in URL for binding (http://:1)",
            ),
            (
                &["--initial-advertise-peer-urls=http://:80"],
                "--initial-advertise-peer-urls \"http://:80\" must be \"host:port\" \
                 (unexpected empty host (http://:80))",
            ),
            (
                &["--advertise-client-urls=http://:80"],
                "--advertise-client-urls \"http://:80\" must be in the format \"host:port\", \
                 \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:80))",
            ),
            (
                &["--initial-cluster=a=http://a:1", "--discovery-srv=x"],
                "multiple discovery or bootstrap flags are set. \
                 Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
            ),
            (
                &["--discovery-token=x"],
                "both --discovery-token and --discovery-endpoints must be set",
            ),
            (
                &["--discovery-endpoints=a:1"],
                "both --discovery-token and --discovery-endpoints must be set",
            ),
            (
                &["--discovery-token=x", "--discovery-endpoints=a:1,,b:1"],
                "--discovery-endpoints must not contain empty endpoints",
            ),
            (
                &["--heartbeat-interval=0"],
                "--heartbeat-interval must be >0 (set to 0ms)",
            ),
            (
                &["--election-timeout=0"],
                "--election-timeout must be >0 (set to 0ms)",
            ),
            (
                &["--heartbeat-interval=500"],
                "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[500ms]",
            ),
            (
                &["--election-timeout=60000"],
                "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
            ),
            (
                &["--listen-client-urls=http://127.0.0.1:7777"],
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ),
            (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
            (
                &["--auto-compaction-mode=foo"],
                "unknown auto-compaction-mode \"foo\"",
            ),
            (
                &["--feature-gates=LeaseCheckpointPersist=true"],
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            ),
            (
                &["--compact-hash-check-time=0s"],
                "--compact-hash-check-time must be >0 (set to 0s)",
            ),
            (
                &["--tls-min-version=x"],
                "unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)",
            ),
            (
                &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
            (
                &["--tls-min-version=TLS1.3", "--cipher-suites=x"],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
            (&["--cipher-suites=x"], "unexpected TLS cipher suite \"x\""),
            (
                &["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"],
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\"])",
            ),
            (
                &["--auto-compaction-retention=foo"],
                "error parsing CompactionRetention: time: invalid duration \"foo\"",
            ),
            (
                &["--auto-compaction-retention=-1"],
                "error parsing CompactionRetention: time: missing unit in duration \"-1\"",
            ),
            (
                &["--initial-cluster=xxx"],
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
            ),
            (
                &["--discovery-fallback=proxy"],
                "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
            ),
        ] {
            assert_eq!(refusal(args), text);
        }
    }

    #[test]
    fn traces_go_where_the_flags_say_and_nobody_looks_at_those_while_they_are_off() {
        let on = "--enable-distributed-tracing";
        assert_eq!(config(&["--distributed-tracing-sampling-rate=-1"]).tracing, None);
        assert_eq!(config(&[on]).tracing, Some(Tracing::default()));
        let told = config(&[
            on,
            "--distributed-tracing-address=10.0.0.1:1234",
            "--distributed-tracing-service-name=a",
            "--distributed-tracing-instance-id=b",
            "--distributed-tracing-sampling-rate=1000000",
        ]);
        let tracing = told.tracing.unwrap();
        assert_eq!(tracing.collector, "http://10.0.0.1:1234/");
        assert_eq!(
            (tracing.service_name, tracing.instance_id),
            ("a".into(), "b".into())
        );
        assert_eq!(tracing.sampling_per_million, 1_000_000);
        for (flag, error) in [
            ("sampling-rate=-1", "tracing sampling rate must be positive"),
            (
                "sampling-rate=1000001",
                "tracing sampling rate must be less than 1000000",
            ),
            ("address=a b", "the collector's address must be \"host:port\""),
        ] {
            assert_eq!(
                refusal(&[on, &format!("--distributed-tracing-{flag}")]),
                format!("distributed tracing configurition is not valid: ({error})")
            );
        }
    }

    #[test]
    fn what_has_no_effect_here_is_said_in_the_page_of_differences() {
        let page = include_str!("../../../docs/compat.md");
        let inert = FLAGS
            .iter()
            .filter(|flag| matches!(flag.support, Support::Inert(_)));
        for flag in inert {
            assert!(page.contains(&format!("`--{}`", flag.name())), "{}", flag.name());
        }
    }

    #[test]
    fn what_each_feature_gate_does_here_is_said_there_too() {
        let page = include_str!("../../../docs/compat.md");
        for gate in Gate::ALL {
            assert!(page.contains(&format!("`{}`", gate.name())), "{}", gate.name());
        }
    }

    #[test]
    fn a_kind_of_tokens_comes_with_its_options() {
        let token = |text: &str| config(&[&format!("--auth-token={text}")]).auth_token;
        assert_eq!(token("simple"), AuthToken::Simple);
        assert_eq!(token("simple,ttl=5m"), AuthToken::Simple);
        let options = JwtOptions {
            method: "ES256".into(),
            public_key: None,
            private_key: Some("k".into()),
            ttl: Duration::from_secs(90),
        };
        assert_eq!(
            token("jwt,sign-method=ES256,priv-key=k,ttl=1m30s,pub-key=,other=1"),
            AuthToken::Jwt(options)
        );
        for bad in [
            "",
            "none",
            "JWT",
            "jwt",
            "jwt,",
            "jwt,pub-key=k",
            "jwt,sign-method",
            "jwt,sign-method=",
            "jwt,sign-method=a=b",
            "jwt,sign-method=a,sign-method=b",
            "jwt,sign-method=a,ttl=x",
            "jwt,sign-method=a,ttl=-1s",
            "simple,x",
        ] {
            let text = refusal(&[&format!("--auth-token={bad}")]);
            assert!(text.starts_with("auth: invalid auth options"), "{bad}: {text}");
        }
    }

    #[test]
    fn tls_is_what_its_flags_name() {
        let members = config(&[
            "--peer-cert-file=c",
            "--peer-key-file=k",
            "--peer-client-cert-file=cc",
            "--peer-client-key-file=ck",
            "--peer-trusted-ca-file=a",
            "--peer-crl-file=r",
            "--peer-cert-allowed-cn=x,y",
            "--tls-max-version=TLS1.2",
            "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ]);
        let (tls, pair) = (members.peer_tls, |cert: &str, key: &str| Identity {
            cert: cert.into(),
            key: key.into(),
        });
        assert!(tls.settings.requires_certificate && tls.checks_address && !tls.asks_certificate);
        assert_eq!(tls.settings.identity, Some(pair("c", "k")));
        assert_eq!(tls.settings.client_identity, Some(pair("cc", "ck")));
        assert_eq!(tls.settings.trust, Trust::Authorities("a".into()));
        assert_eq!(tls.settings.revoked, Some("r".into()));
        let names = vec!["x".to_owned(), "y".to_owned()];
        assert_eq!(tls.settings.allowed, Allowed::CommonNames(names));
        assert_eq!(tls.settings.protocols.max, Version::Tls12);
        assert_eq!(tls.settings.protocols.suites.len(), 1);
        assert_eq!(members.client_tls.settings.identity, None);

        let clients = config(&[
            "--cert-file=c",
            "--key-file=k",
            "--client-cert-auth",
            "--client-cert-allowed-hostname=h",
            "--peer-skip-client-san-verification",
        ]);
        assert!(clients.client_tls.asks_certificate && clients.client_tls.settings.requires_certificate);
        assert_eq!(clients.client_tls.settings.trust, Trust::System);
        assert_eq!(
            clients.client_tls.settings.allowed,
            Allowed::Hostnames(vec!["h".into()])
        );
        assert!(!clients.peer_tls.checks_address);
        assert_eq!(config(&[]).client_tls.settings, TlsSettings::default());
    }

    fn register(args: &[&str]) -> RegisterSettings {
        let begin = ["--discovery-token=t", "--discovery-endpoints=b:1, a:1"];
        let config = config(&[&begin[..], args].concat());
        assert_eq!(config.initial_cluster_token, "t", "the token is the cluster's");
        match config.discovery {
            Some(Discovery::Register(settings)) => settings,
            other => panic!("no register: {other:?}"),
        }
    }

    #[test]
    fn a_register_is_asked_as_the_flags_say() {
        let plain = register(&[]);
        assert_eq!(plain.endpoints, ["b:1", "a:1"]);
        let secs = Duration::from_secs;
        let times = (plain.dial_timeout, plain.request_timeout, plain.keepalive_timeout);
        assert_eq!(times, (secs(2), secs(5), secs(6)));
        assert_eq!(plain.keepalive_interval, Some(secs(2)));
        assert_eq!((plain.tls, plain.credentials), (None, None));
        let endless = register(&["--discovery-dial-timeout=0s", "--discovery-keepalive-time=0s"]);
        assert_eq!(endless.dial_timeout, DISCOVERY_TIME_MAX);
        assert_eq!(endless.keepalive_interval, None);
        // As flags of 3.6 were called before it.
        let old = [
            "--experimental-discovery-token=t",
            "--experimental-discovery-endpoints=a:1",
        ];
        assert!(matches!(config(&old).discovery, Some(Discovery::Register(_))));
    }

    #[test]
    fn a_register_is_reached_by_tls_when_any_flag_asks_for_it() {
        let trust = |args: &[&str]| register(args).tls.expect("it was asked for").trust;
        assert_eq!(trust(&["--discovery-insecure-transport=false"]), Trust::System);
        assert_eq!(trust(&["--discovery-cacert=a"]), Trust::Authorities("a".into()));
        assert_eq!(trust(&["--discovery-insecure-skip-tls-verify"]), Trust::Anyone);
        let pair = register(&["--discovery-cert=c", "--discovery-key=k"]);
        let identity = pair
            .tls
            .expect("it was asked for")
            .identity
            .expect("there is one");
        assert_eq!((identity.cert, identity.key), ("c".into(), "k".into()));
        let half = refusal(&[
            "--discovery-token=t",
            "--discovery-endpoints=a:1",
            "--discovery-key=k",
        ]);
        assert!(half.starts_with("KeyFile and CertFile must both be present[key: k, cert: ]"));
    }

    #[test]
    fn the_registers_user_has_a_password_of_its_own_or_behind_a_colon() {
        for args in [
            &["--discovery-user=u", "--discovery-password=p:q"][..],
            &["--discovery-user=u:p:q"],
        ] {
            let credentials = register(args).credentials.expect("there are some");
            assert_eq!((&*credentials.user, &*credentials.password), ("u", "p:q"));
        }
    }

    #[test]
    fn the_dns_is_asked_for_the_services_of_a_domain() {
        let asked = config(&["--discovery-srv=example.com", "--discovery-srv-name=x"]).discovery;
        assert!(matches!(
            asked,
            Some(Discovery::Srv { domain, service_name }) if domain == "example.com" && service_name == "x"
        ));
        assert!(config(&[]).discovery.is_none());
    }

    #[test]
    fn history_to_keep_is_hours_a_duration_or_revisions() {
        let of = |mode: &str, retention: &str| {
            let args = [
                format!("--auto-compaction-mode={mode}"),
                format!("--auto-compaction-retention={retention}"),
            ];
            config(&[&args[0], &args[1]]).auto_compaction
        };
        assert_eq!(
            of("periodic", "2"),
            AutoCompaction::Periodic(Duration::from_secs(7200))
        );
        assert_eq!(
            of("periodic", "5m"),
            AutoCompaction::Periodic(Duration::from_secs(300))
        );
        assert_eq!(of("periodic", "0s"), AutoCompaction::Off);
        assert_eq!(of("revision", "1000"), AutoCompaction::Revision(1000));
        assert!(
            refusal(&[
                "--auto-compaction-mode=revision",
                "--auto-compaction-retention=1h"
            ])
            .contains("1h")
        );
    }

    #[test]
    fn numbers_with_a_meaning_of_their_own() {
        let config = config(&[
            "--quota-backend-bytes=-1",
            "--max-wals=0",
            "--grpc-keepalive-interval=0s",
            "--watch-progress-notify-interval=1ms",
            "--snapshot-count=0",
            "--metrics=extensive",
            "--warning-unary-request-duration=0s",
            "--raft-read-timeout=1s",
            "--raft-write-timeout=30s",
        ]);
        assert_eq!(
            (
                config.quota_bytes,
                config.max_wal_files,
                config.keepalive.interval
            ),
            (None, None, None)
        );
        assert_eq!(config.watch_progress_interval, Duration::from_millis(100));
        assert_eq!(config.snapshot_count, 10_000);
        assert!(config.extensive_metrics);
        assert_eq!(config.slow_request, Duration::from_millis(300));
        assert_eq!(config.peer_read_timeout, PEER_TIMEOUT_MIN);
        assert_eq!(config.peer_write_timeout, Duration::from_secs(30));
    }

    #[test]
    fn clients_may_ping_as_they_like_until_somebody_says_how_often() {
        let pause = |args: &[&str]| config(args).keepalive.ping_pause;
        assert_eq!(pause(&[]), None);
        let default = "--grpc-keepalive-min-time=5s";
        assert_eq!(pause(&[default]), Some(Duration::from_secs(5)));
        assert_eq!(pause(&["--grpc-keepalive-min-time=0s"]), None);
    }
}
