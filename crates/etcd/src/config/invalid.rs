//! What can be wrong with the settings, in etcd's words where etcd has some, and where it stands.

use std::collections::BTreeSet;

use server::RunError;
use server::config::{SuiteError, Url, UrlError};
use thiserror::Error;

use super::ELECTION_MAX_MS;
use crate::flags::{Settings, Source};

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
    #[error("--{0} must be >=0 (set to {1})")]
    NotNegative(&'static str, i64),
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
            Invalid::NotNegative(..) => &["max_learners"],
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
        let is_meant = |field: &str, _: &str| self.fields().contains(&field);
        located(settings, &self.to_string(), is_meant)
    }
}

/// What a start has to say of settings, and where in their file those are that it names: flags, or what is behind them,
/// as files and URLs.
pub fn locate(settings: &Settings, error: &RunError) -> String {
    let problem = &error.to_string();
    let fields: &[_] = match error {
        RunError::Bootstrap(_) => &["initial_cluster", "name"],
        _ => &[],
    };
    let names = |word: &str| {
        let goes_on = |next: char| next.is_alphanumeric() || "-_./".contains(next);
        let mut found = problem.match_indices(word);
        found.any(|(at, _)| !problem[at + word.len()..].starts_with(goes_on))
    };
    let is_meant = |field: &str, text: &str| {
        let mut values = text.split([',', '=']).filter(|value| value.contains('/'));
        fields.contains(&field) || names(&format!("--{}", field.replace('_', "-"))) || values.any(names)
    };
    located(settings, problem, is_meant)
}

fn located(settings: &Settings, problem: &str, is_meant: impl Fn(&str, &str) -> bool) -> String {
    let Some(path) = &settings.file else {
        return problem.to_owned();
    };
    let meant = settings
        .all_given()
        .filter(|(field, given)| is_meant(field, &given.text));
    let lines: BTreeSet<_> = meant
        .filter_map(|(_, given)| match given.source {
            Source::Line(line) => Some(line),
            Source::Flag | Source::Variable(_) => None,
        })
        .collect();
    let lines: Vec<_> = lines.iter().map(|line| format!("line {line}")).collect();
    match lines.join(", ") {
        lines if lines.is_empty() => format!("{path}: {problem}"),
        lines => format!("{path}: {lines}: {problem}"),
    }
}
