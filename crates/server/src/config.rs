//! Everything the server needs to know, in one plain value.
//!
//! The program builds a [`Config`] from its flags and checks it; from here on there are no texts to
//! parse and no defaults to fill in. A field is in the unit its type or name says, and absent means
//! switched off.

mod gates;
mod url;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use discovery::srv::SrvError;
use http::Uri;
use serde::Serialize;
use thiserror::Error;
use types::MemberId;

pub use auth::password::{COSTS as BCRYPT_COSTS, DEFAULT_COST as BCRYPT_COST_DEFAULT};
pub use discovery::service::{Credentials, JoinError, Settings as RegisterSettings, Tls as RegisterTls};
pub use gates::{Gate, Gates, Stage};
pub use tls::{Allowed, Identity, Protocols, Settings as TlsSettings, Suite, SuiteError, Trust, Version};
pub use url::{Scheme, Url, UrlError};

pub use crate::jwt::JwtOptions;
use crate::{fields, go};

/// The etcd release whose behaviour this is; clients switch features on by it.
pub const VERSION: &str = "3.7.1";

/// The least time that a silent connection between members is kept: three of their signs of life fit into it.
pub const PEER_TIMEOUT_MIN: Duration = peer::STREAM_TIMEOUT;

/// The name of a member that was given none.
pub const DEFAULT_NAME: &str = "default";

/// Member names and their peer URLs, as `--initial-cluster` lists them.
pub type InitialCluster = BTreeMap<String, Vec<Url>>;

/// What users who have signed in are known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthToken {
    /// Tokens that all members remember.
    Simple,
    /// Tokens that say it themselves.
    Jwt(JwtOptions),
}

/// The server's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The member's name.
    pub name: String,
    /// Where the member keeps its data; it uses the folder `member` in it.
    pub data_dir: PathBuf,
    /// Where the raft log is kept, if not in the data folder.
    pub wal_dir: Option<PathBuf>,

    /// Where peers connect.
    pub listen_peer: Vec<Url>,
    /// Where clients connect; HTTP is served here only while `listen_client_http` is empty.
    pub listen_client: Vec<Url>,
    /// Where clients connect that speak no gRPC.
    pub listen_client_http: Vec<Url>,
    /// Where metrics and health are served besides the client ports.
    pub listen_metrics: Vec<Url>,
    /// How connections of clients are secured, and those for metrics.
    pub client_tls: Tls,
    /// How connections between members are secured.
    pub peer_tls: Tls,
    /// Years that a certificate is valid which this member makes for itself.
    pub self_signed_cert_validity: u64,
    /// The peer URLs the other members are told.
    pub advertise_peer: Vec<Url>,
    /// The client URLs clients are told.
    pub advertise_client: Vec<Url>,
    /// Listeners share their port with other processes' (SO_REUSEPORT).
    pub reuse_port: bool,

    /// The members of a cluster that is being bootstrapped; ignored by a member that has data. As far as they are
    /// known: whoever `discovery` names is asked for the others.
    pub initial_cluster: InitialCluster,
    /// Whom to ask, if anybody.
    pub discovery: Option<Discovery>,
    /// Whether that cluster is new.
    pub initial_cluster_state: ClusterState,
    /// Goes into member and cluster ids, so that clusters with equal members differ.
    pub initial_cluster_token: String,
    /// Go on alone with the data that is there: all other members are lost.
    pub force_new_cluster: bool,
    /// The most learners a cluster may have.
    pub max_learners: usize,
    /// Refuse member changes that could cost the quorum.
    pub strict_reconfig_check: bool,

    /// One raft tick, which is also the leader's heartbeat.
    pub tick: Duration,
    /// Time without a leader before an election.
    pub election_timeout: Duration,
    /// Start with all but one of the election's ticks already gone by.
    pub initial_election_tick_advance: bool,
    /// Ask before disturbing a cluster with an election.
    pub pre_vote: bool,
    /// How long a connection to another member may bring nothing before it is given up.
    pub peer_read_timeout: Duration,
    /// How long a connection to another member may take nothing before it is given up.
    pub peer_write_timeout: Duration,

    /// Applied entries between two snapshots.
    pub snapshot_count: u64,
    /// Entries kept behind a snapshot for slow followers.
    pub snapshot_catchup_entries: u64,
    /// Snapshot files kept; none means all.
    pub max_snapshot_files: Option<usize>,
    /// Log files kept; none means all.
    pub max_wal_files: Option<usize>,
    /// The store's size at which alarm NOSPACE is raised; none means no limit.
    pub quota_bytes: Option<u64>,
    /// Give up what is not needed of the file system.
    pub confine_files: bool,
    /// Files of the log that are exchanged for new ones, which needs their folders.
    pub exchanged_logs: Vec<PathBuf>,
    /// False puts the data at risk: nothing waits for the disk any more.
    pub fsync: bool,

    /// Operations allowed in one transaction.
    pub max_txn_ops: usize,
    /// The largest request, as the bytes of its log entry.
    pub max_request_bytes: usize,
    /// HTTP/2 streams of one connection.
    pub max_concurrent_streams: u32,
    /// Pings that keep connections alive.
    pub keepalive: Keepalive,

    /// What users who have signed in are known by.
    pub auth_token: AuthToken,
    /// How long a simple token lives after its last use.
    pub auth_token_ttl: Duration,
    /// Characters of a new password at least; 0 leaves it to who sets it.
    pub password_chars_min: usize,
    /// The cost of hashing a password.
    pub bcrypt_cost: u32,

    /// What history to drop without being asked.
    pub auto_compaction: AutoCompaction,
    /// Time between progress notifications of an idle watch.
    pub watch_progress_interval: Duration,
    /// An apply that takes longer is logged.
    pub slow_apply: Duration,
    /// A request that takes longer is logged.
    pub slow_request: Duration,
    /// Time between comparisons of the members' data.
    pub corrupt_check_interval: Option<Duration>,
    /// Time between comparisons of the hashes taken at compactions.
    pub compact_hash_check_interval: Duration,
    /// Time between looks at a running downgrade.
    pub downgrade_check_interval: Duration,

    /// Serve the JSON gateway.
    pub grpc_gateway: bool,
    /// Measure how long gRPC calls take.
    pub extensive_metrics: bool,
    /// Make profiles for who asks for one.
    pub pprof: bool,
    /// Where spans of calls are sent, if anywhere.
    pub tracing: Option<Tracing>,
    /// Origins that scripts in browsers may come from.
    pub cors: NameSet,
    /// Host names that plain HTTP requests may be for.
    pub host_whitelist: NameSet,
    /// Feature gates.
    pub gates: Gates,
}

/// TLS of clients, or of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// What the flags name; without an identity there is no TLS, or `auto` makes one.
    pub settings: TlsSettings,
    /// Whether a certificate is made if none is given.
    pub auto: bool,
    /// Whether it was said that others must show certificates; naming an authority has the same effect.
    pub asks_certificate: bool,
    /// Whether others must come from where their certificates say.
    pub checks_address: bool,
}

/// Distributed tracing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// The collector, as the origin of its URL.
    pub collector: Uri,
    /// What the service is called; empty: nothing.
    pub service_name: String,
    /// What this instance of it is called; empty: nothing.
    pub instance_id: String,
    /// Of so many calls without a caller's word on it, how many are traced in a million.
    pub sampling_per_million: u32,
}

impl Tracing {
    /// The origin of a collector at this host and port, if they are such.
    pub fn collector_at(address: &str) -> Option<Uri> {
        let uri = Uri::builder().scheme("http").authority(address);
        uri.path_and_query("/").build().ok()
    }
}

impl Default for Tracing {
    fn default() -> Self {
        Tracing {
            collector: Uri::from_static("http://localhost:4317"),
            service_name: "etcd".into(),
            instance_id: String::new(),
            sampling_per_million: 0,
        }
    }
}

/// Who tells a member that has no data of the others.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// The DNS.
    Srv {
        /// The domain that has the SRV records.
        domain: String,
        /// What comes after the services' names, if anything.
        service_name: String,
    },
    /// A discovery service, with its register of members.
    Register(RegisterSettings),
}

/// Whether a member bootstraps a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum ClusterState {
    New,
    Existing,
}

/// Pings on client connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence after which the server asks for a sign of life.
    pub interval: Option<Duration>,
    /// How long it waits for the answer before it closes the connection.
    pub timeout: Option<Duration>,
    /// Time a client has to let pass between two pings of its own.
    pub ping_pause: Option<Duration>,
}

/// Automatic compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// None.
    Off,
    /// Keep the history of this long.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(u64),
}

/// Names, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSet(Vec<String>);

impl NameSet {
    /// Parses a comma-separated list; `*` and nothing at all stand for every name.
    pub fn parse(text: &str) -> Self {
        let mut names: Vec<_> = text.split(',').map(str::trim).map(str::to_owned).collect();
        names.retain(|name| !name.is_empty());
        if names.is_empty() {
            names.push("*".into());
        }
        names.sort();
        names.dedup();
        NameSet(names)
    }

    /// Whether every name is in the set.
    pub fn is_all(&self) -> bool {
        self.0.iter().any(|name| name == "*")
    }

    /// Whether `name` is in the set.
    pub fn contains(&self, name: &str) -> bool {
        self.is_all() || self.0.iter().any(|known| known == name)
    }
}

/// Why a member without data cannot start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum BootstrapError {
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    LocalNameMissing(String),
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    #[error("--initial-cluster has {in_cluster} but missing from --initial-advertise-peer-urls={advertised}")]
    NotAdvertised { in_cluster: String, advertised: String },
    #[error(
        "member {0} has already been bootstrapped; its data is gone: remove it from the cluster, add it again with \
         `etcdctl member add`, and start it with --initial-cluster-state=existing"
    )]
    AlreadyBootstrapped(MemberId),
    #[error(
        "incompatible with current running cluster: its version is one that a member of {VERSION} can't act at"
    )]
    Incompatible,
    #[error("cannot fetch cluster info from peer urls: {0}")]
    NobodyAnswers(String),
    #[error(
        "error validating peerURLs: member count is unequal: --initial-cluster lists {listed}, the cluster has {running}"
    )]
    UnequalCount { listed: usize, running: usize },
    #[error("error validating peerURLs: no match found for existing member ({0}) in --initial-cluster")]
    NoMatch(String),
    #[error(transparent)]
    Srv(#[from] SrvError),
    #[error("failed to join discovery cluster ({0})")]
    Register(#[from] JoinError),
    #[error("discovery: invalid peer URL: {0}")]
    DiscoveredUrl(UrlError),
    #[error("discovery cluster {0} has duplicate url")]
    DiscoveredUrlTwice(String),
    #[error("discovery cluster {cluster} has two members named {name:?}; give each its own --name")]
    DiscoveredNameTwice { cluster: String, name: String },
    #[error("discovery URL should not be set when joining existing initial cluster")]
    RegisterOfExisting,
}

impl Config {
    /// The folder of everything this member stores.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The folder of the raft log.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// Ticks without a leader before an election.
    pub fn election_ticks(&self) -> u32 {
        let ticks = self.election_timeout.as_millis() / self.tick.as_millis().max(1);
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// The address of this machine that connections to other members come from, if it is not left to the system: the first
    /// one they are told, unless only this machine knows it.
    pub fn dials_from(&self) -> Option<IpAddr> {
        let is_open = self.gates.enabled(Gate::SetMemberLocalAddr);
        let mut told = self.advertise_peer.iter().filter_map(Url::ip);
        told.find(|ip| is_open && !ip.is_loopback() && !ip.is_unspecified())
    }

    /// How long a request may take before it counts as lost: a disk's hiccup and two elections.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Checks what only a member without data needs: that the initial cluster is one, and has it as a member.
    pub fn check_bootstrap(&self) -> Result<(), BootstrapError> {
        check_founder(&self.name, &self.initial_cluster, &self.advertise_peer)
    }

    /// Logs the configuration the member starts with; tools look fields up in this line.
    pub fn log_start(&self, member_initialized: bool) {
        let go = |value: Duration| go::duration(value).to_string();
        let (mode, retention) = match self.auto_compaction {
            AutoCompaction::Off => ("periodic", "0s".to_owned()),
            AutoCompaction::Periodic(period) => ("periodic", go(period)),
            AutoCompaction::Revision(revisions) => ("revision", revisions.to_string()),
        };
        let start = StartLine {
            etcd_version: VERSION,
            git_sha: GIT_SHA,
            go_version: RUNTIME,
            go_os: std::env::consts::OS,
            go_arch: go_arch(),
            max_cpu_available: std::thread::available_parallelism().map_or(1, usize::from),
            member_initialized,
            name: &self.name,
            data_dir: self.data_dir.to_string_lossy().into(),
            wal_dir: self
                .wal_dir
                .as_ref()
                .map_or(String::new(), |dir| dir.to_string_lossy().into()),
            member_dir: self.member_dir().to_string_lossy().into(),
            heartbeat_interval: go(self.tick),
            election_timeout: go(self.election_timeout),
            initial_election_tick_advance: self.initial_election_tick_advance,
            snapshot_count: self.snapshot_count,
            max_wals: self.max_wal_files.unwrap_or(0),
            max_snapshots: self.max_snapshot_files.unwrap_or(0),
            snapshot_catchup_entries: self.snapshot_catchup_entries,
            initial_advertise_peer_urls: &self.advertise_peer,
            listen_peer_urls: &self.listen_peer,
            advertise_client_urls: &self.advertise_client,
            listen_client_urls: &self.listen_client,
            listen_metrics_urls: &self.listen_metrics,
            cors: &self.cors.0,
            host_whitelist: &self.host_whitelist.0,
            initial_cluster: show_cluster(&self.initial_cluster),
            initial_cluster_state: self.initial_cluster_state,
            initial_cluster_token: &self.initial_cluster_token,
            quota_backend_bytes: self.quota_bytes.unwrap_or(0),
            max_request_bytes: self.max_request_bytes,
            max_concurrent_streams: self.max_concurrent_streams,
            pre_vote: self.pre_vote,
            feature_gates: self.gates.to_string(),
            initial_corrupt_check: self.gates.enabled(Gate::InitialCorruptCheck),
            corrupt_check_time_interval: go(self.corrupt_check_interval.unwrap_or_default()),
            compact_check_time_interval: go(self.compact_hash_check_interval),
            auto_compaction_mode: mode,
            auto_compaction_retention: retention,
            downgrade_check_interval: go(self.downgrade_check_interval),
            max_learners: self.max_learners,
            // The only phase there is; the flag's value is not looked at.
            v2_deprecation: "write-only",
        };
        tracing::info!(fields = fields::json(&start), "starting an etcd server");
    }
}

/// The commit this program was built from, when the build says so.
pub const GIT_SHA: &str = match option_env!("KEELSON_GIT_SHA") {
    Some(sha) => sha,
    None => "unknown",
};

/// What stands where etcd names its Go version.
pub const RUNTIME: &str = concat!("none (Keelson ", env!("CARGO_PKG_VERSION"), ", Rust)");

/// The processor's name in Go's words.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct StartLine<'a> {
    etcd_version: &'a str,
    git_sha: &'a str,
    go_version: &'a str,
    go_os: &'a str,
    go_arch: &'a str,
    max_cpu_available: usize,
    member_initialized: bool,
    name: &'a str,
    data_dir: String,
    wal_dir: String,
    member_dir: String,
    heartbeat_interval: String,
    election_timeout: String,
    initial_election_tick_advance: bool,
    snapshot_count: u64,
    max_wals: usize,
    max_snapshots: usize,
    snapshot_catchup_entries: u64,
    initial_advertise_peer_urls: &'a [Url],
    listen_peer_urls: &'a [Url],
    advertise_client_urls: &'a [Url],
    listen_client_urls: &'a [Url],
    listen_metrics_urls: &'a [Url],
    cors: &'a [String],
    host_whitelist: &'a [String],
    initial_cluster: String,
    initial_cluster_state: ClusterState,
    initial_cluster_token: &'a str,
    quota_backend_bytes: u64,
    max_request_bytes: usize,
    max_concurrent_streams: u32,
    pre_vote: bool,
    feature_gates: String,
    initial_corrupt_check: bool,
    corrupt_check_time_interval: String,
    compact_check_time_interval: String,
    auto_compaction_mode: &'a str,
    auto_compaction_retention: String,
    downgrade_check_interval: String,
    max_learners: usize,
    v2_deprecation: &'a str,
}

/// Checks that a cluster to be founded is one, and has this member in it, at the URLs it tells others.
pub fn check_founder(name: &str, cluster: &InitialCluster, advertised: &[Url]) -> Result<(), BootstrapError> {
    let own = cluster
        .get(name)
        .ok_or_else(|| BootstrapError::LocalNameMissing(name.to_owned()))?;
    if has_duplicate_url(cluster) {
        return Err(BootstrapError::DuplicateUrl(show_cluster(cluster)));
    }
    if same_addresses(own, advertised) {
        return Ok(());
    }
    let in_cluster: Vec<_> = own.iter().map(|url| format!("{name}={url}")).collect();
    let advertised: Vec<_> = advertised.iter().map(Url::as_str).collect();
    Err(BootstrapError::NotAdvertised {
        in_cluster: in_cluster.join(","),
        advertised: advertised.join(","),
    })
}

/// Parses `--initial-cluster`: `name=url` pairs, a name once for each of its URLs.
pub fn parse_initial_cluster(text: &str) -> Result<InitialCluster, UrlError> {
    let mut cluster = InitialCluster::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        cluster
            .entry(name.trim().to_owned())
            .or_default()
            .push(Url::parse(url)?);
    }
    for urls in cluster.values_mut() {
        urls.sort();
    }
    Ok(cluster)
}

/// An initial cluster as the flag spells it.
pub fn show_cluster(cluster: &InitialCluster) -> String {
    let pairs = cluster
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
    pairs.collect::<Vec<_>>().join(",")
}

/// Whether a URL is listed more than once.
pub(crate) fn has_duplicate_url(cluster: &InitialCluster) -> bool {
    let mut all: Vec<_> = cluster.values().flatten().collect();
    all.sort();
    all.windows(2).any(|pair| pair[0] == pair[1])
}

/// Whether two lists of URLs mean the same places: equal texts, or names that resolve to common addresses.
pub(crate) fn same_addresses(a: &[Url], b: &[Url]) -> bool {
    let resolve = |url: &Url| match url.port() {
        Some(port) => names::blocking::addresses(url.host(), port).unwrap_or_default(),
        None => Vec::new(),
    };
    let same = |a: &Url, b: &Url| {
        let places = resolve(a);
        a.scheme() == b.scheme() && resolve(b).iter().any(|place| places.contains(place))
    };
    let all_in = |a: &[Url], b: &[Url]| a.iter().all(|url| b.iter().any(|other| same(url, other)));
    a == b || a.len() == b.len() && all_in(a, b) && all_in(b, a)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A configuration to vary in tests.
    pub(crate) fn config() -> Config {
        let url = |text| vec![Url::parse(text).unwrap()];
        Config {
            name: "m1".into(),
            data_dir: "m1.etcd".into(),
            wal_dir: None,
            listen_peer: url("http://localhost:2380"),
            listen_client: url("http://localhost:2379"),
            listen_client_http: vec![],
            listen_metrics: vec![],
            client_tls: Tls::default(),
            peer_tls: Tls::default(),
            self_signed_cert_validity: 1,
            advertise_peer: url("http://localhost:2380"),
            advertise_client: url("http://localhost:2379"),
            reuse_port: false,
            initial_cluster: parse_initial_cluster("m1=http://localhost:2380").unwrap(),
            discovery: None,
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".into(),
            force_new_cluster: false,
            max_learners: 1,
            strict_reconfig_check: true,
            tick: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            initial_election_tick_advance: true,
            pre_vote: true,
            peer_read_timeout: PEER_TIMEOUT_MIN,
            peer_write_timeout: PEER_TIMEOUT_MIN,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            max_snapshot_files: Some(5),
            max_wal_files: Some(5),
            quota_bytes: Some(2 << 30),
            confine_files: false,
            exchanged_logs: vec![],
            fsync: true,
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            keepalive: Keepalive {
                interval: Some(Duration::from_secs(7200)),
                timeout: Some(Duration::from_secs(20)),
                ping_pause: None,
            },
            auth_token: AuthToken::Simple,
            auth_token_ttl: Duration::from_secs(300),
            password_chars_min: 0,
            bcrypt_cost: 4,
            auto_compaction: AutoCompaction::Off,
            watch_progress_interval: Duration::from_secs(600),
            slow_apply: Duration::from_millis(100),
            slow_request: Duration::from_millis(300),
            corrupt_check_interval: None,
            compact_hash_check_interval: Duration::from_secs(60),
            downgrade_check_interval: Duration::from_secs(5),
            grpc_gateway: true,
            extensive_metrics: false,
            pprof: false,
            tracing: None,
            cors: NameSet::parse("*"),
            host_whitelist: NameSet::parse("*"),
            gates: Gates::default(),
        }
    }

    fn refusal(cluster: &str, change: impl FnOnce(&mut Config)) -> String {
        let mut config = config();
        config.initial_cluster = parse_initial_cluster(cluster).unwrap();
        change(&mut config);
        config.check_bootstrap().unwrap_err().to_string()
    }

    #[test]
    fn a_member_can_found_the_cluster_that_lists_it_alone() {
        assert_eq!(config().check_bootstrap(), Ok(()));
        let mut by_address = config();
        by_address.advertise_peer = Url::parse_list("http://127.0.0.1:2380").unwrap();
        by_address.initial_cluster = parse_initial_cluster("m1=http://localhost:2380").unwrap();
        assert_eq!(by_address.check_bootstrap(), Ok(()), "names are resolved");
    }

    #[test]
    fn bootstrap_refusals() {
        assert_eq!(
            refusal("x=http://1.1.1.1:1", |_| ()),
            "couldn't find local name \"m1\" in the initial cluster configuration"
        );
        assert_eq!(
            refusal("m1=http://localhost:2380,b=http://localhost:2380", |_| ()),
            "initial cluster b=http://localhost:2380,m1=http://localhost:2380 has duplicate url"
        );
        assert_eq!(
            refusal("m1=http://1.1.1.1:1", |_| ()),
            "--initial-cluster has m1=http://1.1.1.1:1 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380"
        );
        let mut of_two = config();
        of_two.initial_cluster = parse_initial_cluster("m1=http://localhost:2380,m2=http://m2:2380").unwrap();
        assert_eq!(of_two.check_bootstrap(), Ok(()));
    }

    #[test]
    fn an_initial_cluster_is_ordered_by_name_and_url() {
        let cluster = parse_initial_cluster("b=http://b:1,a=http://a:2,a=http://a:1").unwrap();
        assert_eq!(show_cluster(&cluster), "a=http://a:1,a=http://a:2,b=http://b:1");
        assert!(parse_initial_cluster("xxx").is_err());
        assert!(parse_initial_cluster("").unwrap().is_empty());
    }

    #[test]
    fn members_are_dialled_from_the_address_they_are_told_if_the_gate_is_open() {
        let mut config = config();
        let urls = "http://127.0.0.1:1,http://m1:1,http://0.0.0.0:1,http://10.0.0.7:1,http://10.0.0.8:1";
        config.advertise_peer = Url::parse_list(urls).unwrap();
        assert_eq!(config.dials_from(), None);
        config.gates.set(Gate::SetMemberLocalAddr, true);
        assert_eq!(config.dials_from(), Some(IpAddr::from([10, 0, 0, 7])));
        config.advertise_peer.retain(|url| !url.host().starts_with("10."));
        assert_eq!(config.dials_from(), None);
    }

    #[test]
    fn a_set_of_names_is_everything_by_star_or_by_absence() {
        assert!(NameSet::parse("").is_all() && NameSet::parse("a,*").is_all());
        let set = NameSet::parse("a, b");
        assert!(set.contains("b") && !set.contains("c") && !set.is_all());
    }
}
