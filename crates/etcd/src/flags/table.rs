//! The flags, each written down once.
//!
//! A line of the table is a flag's field in [`Flags`], its type, its default, what this version does
//! with it, and its help. Everything else follows: the command line's name (dashes for underscores),
//! the environment's name (`ETCD_` and capitals), the parser (the type's [`Value`]), the help text.

use std::time::Duration;

use server::config::{ClusterState, Gates, NameSet, Url};

use super::value::{DiscoveryFallback, Kind, V2Deprecation, Value};

/// What this version does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// What it says.
    Served,
    /// Nothing, by design: there is no such thing here to tune. Says why; setting it is a warning.
    Inert(&'static str),
}

use Support::{Inert, Served};

const NO_DIAL: &str = "this member does not dial its own client port";
const NO_BBOLT: &str = "the store commits with every batch and has no bbolt pages, freelist or transactions";
const NO_DEFRAG: &str = "the store gives space back while it runs and needs no defragmentation at start";
const NO_BATCHES: &str = "compaction paces itself by slices of time";

/// One flag's line of the table.
pub struct Flag {
    /// Heading it stands under in the help.
    pub group: &'static str,
    /// Field of [`Flags`].
    pub field: &'static str,
    /// Default, as a user would write it.
    pub default: &'static str,
    /// What this version does with it.
    pub support: Support,
    /// One line for users.
    pub help: &'static str,
    /// How its value is written down.
    pub kind: Kind,
    /// Parses a value and stores it.
    pub set: fn(&mut Flags, &str) -> Result<(), String>,
    /// Parses the items of a list and stores them.
    pub set_items: fn(&mut Flags, Vec<String>) -> Result<(), String>,
    /// Whether two sets of flags differ in this one.
    pub differs: fn(&Flags, &Flags) -> bool,
}

impl Flag {
    /// The flag with this command-line name.
    pub fn find(name: &str) -> Option<&'static Flag> {
        FLAGS.iter().find(|flag| flag.name() == name)
    }

    /// Its name on the command line, without dashes before it.
    pub fn name(&self) -> String {
        self.field.replace('_', "-")
    }

    /// Its variable.
    pub fn variable(&self) -> String {
        format!("ETCD_{}", self.field.to_uppercase())
    }

    /// Whether it takes a value only after `=`.
    pub fn is_bool(&self) -> bool {
        self.kind == Kind::Bool
    }

    /// Where a file of settings has it, with dots between a group and what is in it; nowhere for some, as in etcd.
    pub fn key(&self) -> Option<String> {
        let name = self.name();
        let within = |group: &str, prefix: &str| Some(format!("{group}.{}", &name[prefix.len()..]));
        match self.field {
            "config_file" | "version" | "discovery_fallback" => None,
            "client_crl_file" | "peer_crl_file" | "raft_read_timeout" | "raft_write_timeout" => None,
            "cert_file" | "key_file" | "client_cert_file" | "client_key_file" | "client_cert_auth"
            | "trusted_ca_file" | "auto_tls" => within("client-transport-security", ""),
            "client_cert_allowed_cn" | "client_cert_allowed_hostname" => {
                within("client-transport-security", "client-cert-")
            }
            "peer_cert_allowed_cn" | "peer_cert_allowed_hostname" => {
                within("peer-transport-security", "peer-cert-")
            }
            "socket_reuse_port" | "socket_reuse_address" => within("socket-options", "socket-"),
            "discovery_srv" | "discovery_srv_name" => Some(name),
            "discovery_token" => within("discovery-config", "discovery-"),
            "discovery_user" => Some("discovery-config.client.auth.username".into()),
            "discovery_password" => within("discovery-config.client.auth", "discovery-"),
            "discovery_cert" | "discovery_key" | "discovery_cacert" => {
                within("discovery-config.client.secure", "discovery-")
            }
            field if field.starts_with("discovery_insecure_") => {
                within("discovery-config.client.secure", "discovery-")
            }
            field if field.starts_with("discovery_") => within("discovery-config.client", "discovery-"),
            field if field.starts_with("peer_") => within("peer-transport-security", "peer-"),
            _ => Some(name),
        }
    }
}

macro_rules! flags {
    ($($group:literal { $($field:ident: $kind:ty = $default:literal, $support:expr, $help:literal;)* })*) => {
        /// The value of every flag.
        #[derive(Clone, Debug)]
        pub struct Flags { $($(#[doc = $help] pub $field: $kind,)*)* }

        /// The table.
        pub static FLAGS: &[Flag] = &[$($(Flag {
            group: $group,
            field: stringify!($field),
            default: $default,
            support: $support,
            help: $help,
            kind: <$kind as Value>::KIND,
            set: |flags, text| {
                flags.$field.again(Value::parse(text)?);
                Ok(())
            },
            set_items: |flags, items| {
                flags.$field = Value::parse_items(items)?;
                Ok(())
            },
            differs: |a, b| a.$field != b.$field,
        },)*)*];

        impl Default for Flags {
            fn default() -> Self {
                Flags { $($($field: Value::parse($default).expect("a default of the table parses"),)*)* }
            }
        }
    };
}

flags! {
"Member" {
    name: String = "default", Served, "Name of this member; no two members of a cluster may share one.";
    data_dir: String = "", Served, "Folder of this member's data; empty means ${name}.etcd.";
    wal_dir: String = "", Served, "Folder of the raft log; empty means member/wal in the data folder.";
    snapshot_count: u64 = "10000", Served, "Applied entries between two raft snapshots.";
    snapshot_catchup_entries: u64 = "5000", Served, "Entries kept behind a snapshot for slow followers.";
    heartbeat_interval: u64 = "100", Served, "Milliseconds between two heartbeats of the leader.";
    election_timeout: u64 = "1000", Served, "Milliseconds without a leader before an election; at least 5 heartbeats.";
    initial_election_tick_advance: bool = "true", Served, "Skip most of the first election timeout at start.";
    listen_peer_urls: Vec<Url> = "http://localhost:2380", Served, "URLs to listen on for the other members.";
    listen_client_urls: Vec<Url> = "http://localhost:2379", Served, "URLs to listen on for clients.";
    listen_client_http_urls: Vec<Url> = "", Served, "URLs to listen on for HTTP clients; --listen-client-urls then serve gRPC only.";
    max_snapshots: u64 = "5", Served, "Snapshot files to keep, 0 for all. Deprecated.";
    max_wals: u64 = "5", Served, "Files of the raft log to keep, 0 for all.";
    quota_backend_bytes: i64 = "0", Served, "Size of the store that raises alarm NOSPACE; 0 means 2 GiB, less than 0 no limit.";
    backend_bbolt_freelist_type: String = "", Inert(NO_BBOLT), "Kept for scripts; the store has no bbolt freelist.";
    backend_batch_interval: Duration = "0s", Inert(NO_BBOLT), "Kept for scripts; the store commits with every batch.";
    backend_batch_limit: i64 = "0", Inert(NO_BBOLT), "Kept for scripts; the store commits with every batch.";
    max_txn_ops: u64 = "128", Served, "Operations allowed in one transaction.";
    max_request_bytes: u64 = "1572864", Served, "Size of the largest request accepted.";
    max_concurrent_streams: u32 = "4294967295", Served, "Calls a client may have open on one connection.";
    grpc_keepalive_min_time: Duration = "5s", Served, "Shortest time between two pings of a client; counted only when it is set.";
    grpc_keepalive_interval: Duration = "2h0m0s", Served, "Silence after which the server pings a client, 0 for never.";
    grpc_keepalive_timeout: Duration = "20s", Served, "Time to wait for the answer to a ping, 0 for ever.";
    socket_reuse_port: bool = "false", Served, "Set SO_REUSEPORT on listeners.";
    socket_reuse_address: bool = "false", Served, "Set SO_REUSEADDR on listeners (always set).";
    raft_read_timeout: Duration = "5s", Served, "Time a connection to another member may be silent; at least 5s.";
    raft_write_timeout: Duration = "5s", Served, "Time a connection to another member may take nothing; at least 5s.";
    memory_mlock: bool = "false", Inert(NO_BBOLT), "Kept for scripts; the store maps no file into memory.";
    bootstrap_defrag_threshold_megabytes: u64 = "0", Inert(NO_DEFRAG), "Kept for scripts; the store needs no defragmentation.";
    max_learners: i64 = "1", Served, "Learners a cluster may have; the same on every member.";
}
"Clustering" {
    initial_advertise_peer_urls: Vec<Url> = "http://localhost:2380", Served, "Peer URLs the other members are told.";
    initial_cluster: String = "", Served, "Members to bootstrap with, as name=URL,name=URL; empty means this member alone.";
    initial_cluster_state: ClusterState = "new", Served, "'new' to found a cluster, 'existing' to join one; ignored once there is data.";
    initial_cluster_token: String = "etcd-cluster", Served, "Tells apart clusters with equal members.";
    advertise_client_urls: Vec<Url> = "http://localhost:2379", Served, "Client URLs clients are told; needed with --listen-client-urls.";
    discovery_endpoints: String = "", Served, "Endpoints of a discovery service, comma-separated; another way to name the members.";
    discovery_token: String = "", Served, "Under which the discovery service keeps the members; also the --initial-cluster-token.";
    discovery_dial_timeout: Duration = "2s", Served, "Time to connect to the discovery service.";
    discovery_request_timeout: Duration = "5s", Served, "Time for a request to the discovery service.";
    discovery_keepalive_time: Duration = "2s", Served, "Time between pings to the discovery service.";
    discovery_keepalive_timeout: Duration = "6s", Served, "Time for its answer.";
    discovery_insecure_transport: bool = "true", Served, "Reach the discovery service without TLS.";
    discovery_insecure_skip_tls_verify: bool = "false", Served, "Do not verify the discovery service's certificate.";
    discovery_cert: String = "", Served, "Client certificate for the discovery service.";
    discovery_key: String = "", Served, "Its key.";
    discovery_cacert: String = "", Served, "CA of the discovery service.";
    discovery_user: String = "", Served, "User at the discovery service, or user:password.";
    discovery_password: String = "", Served, "Its password.";
    discovery_fallback: DiscoveryFallback = "exit", Served, "What to do when discovery fails: only 'exit' is left.";
    discovery_srv: String = "", Served, "DNS domain whose SRV records name the members.";
    discovery_srv_name: String = "", Served, "Suffix of the SRV records' service name.";
    strict_reconfig_check: bool = "true", Served, "Refuse member changes that could cost the quorum.";
    pre_vote: bool = "true", Served, "Ask before disturbing a cluster with an election.";
    auto_compaction_retention: String = "0", Served, "History to keep: hours or a duration, or revisions; 0 keeps all.";
    auto_compaction_mode: String = "periodic", Served, "What --auto-compaction-retention counts: 'periodic' time or 'revision's.";
    v2_deprecation: V2Deprecation = "write-only", Served, "Accepted and ignored. Deprecated.";
}
"Security" {
    cert_file: String = "", Served, "Certificate of the client ports.";
    key_file: String = "", Served, "Its key.";
    client_cert_file: String = "", Inert(NO_DIAL), "Certificate this member shows when it dials its own client port.";
    client_key_file: String = "", Inert(NO_DIAL), "Its key.";
    client_cert_auth: bool = "false", Served, "Ask clients for a certificate.";
    client_crl_file: String = "", Served, "Revoked client certificates.";
    client_cert_allowed_cn: Vec<String> = "", Served, "Common names client certificates may bear.";
    client_cert_allowed_hostname: Vec<String> = "", Served, "Host names client certificates may bear.";
    trusted_ca_file: String = "", Served, "CA of client certificates.";
    auto_tls: bool = "false", Served, "Make a self-signed certificate for the client ports.";
    peer_cert_file: String = "", Served, "Certificate of the peer ports.";
    peer_key_file: String = "", Served, "Its key.";
    peer_client_cert_file: String = "", Served, "Certificate this member shows to other members.";
    peer_client_key_file: String = "", Served, "Its key.";
    peer_client_cert_auth: bool = "false", Served, "Ask members for a certificate.";
    peer_trusted_ca_file: String = "", Served, "CA of members' certificates.";
    peer_auto_tls: bool = "false", Served, "Make a self-signed certificate for the peer ports.";
    peer_crl_file: String = "", Served, "Revoked members' certificates.";
    peer_cert_allowed_cn: Vec<String> = "", Served, "Common names members' certificates may bear.";
    peer_cert_allowed_hostname: Vec<String> = "", Served, "Host names members' certificates may bear.";
    peer_skip_client_san_verification: bool = "false", Served, "Do not compare a member's address with its certificate.";
    self_signed_cert_validity: u64 = "1", Served, "Years a self-signed certificate is valid.";
    cipher_suites: Vec<String> = "", Served, "Cipher suites allowed with TLS 1.2.";
    tls_min_version: String = "TLS1.2", Served, "Lowest TLS version: TLS1.2 or TLS1.3.";
    tls_max_version: String = "", Served, "Highest TLS version: TLS1.2 or TLS1.3.";
    cors: NameSet = "*", Served, "Origins that scripts in browsers may come from; * or empty for all.";
    host_whitelist: NameSet = "*", Served, "Host names that plain HTTP requests may be for; * or empty for all.";
}
"Auth" {
    auth_token: String = "simple", Served, "Kind of token: 'simple', or 'jwt' with its options.";
    auth_min_password_length: u32 = "0", Served, "Fewest characters of a new password, unless a user has none at all.";
    bcrypt_cost: u64 = "10", Served, "Cost of hashing a password, 4 to 31.";
    auth_token_ttl: u64 = "300", Served, "Seconds a simple token lives after its last use.";
}
"Monitoring" {
    enable_pprof: bool = "false", Served, "Serve profiles of the CPU under /debug/pprof/.";
    metrics: String = "basic", Served, "'extensive' also measures how long gRPC calls take.";
    listen_metrics_urls: Vec<Url> = "", Served, "Further URLs to serve /metrics and health on.";
}
"Logging" {
    logger: String = "zap", Served, "Format family of the log; there is only 'zap'.";
    log_outputs: Vec<String> = "default", Served, "Where log lines go: default (stderr), stderr, stdout, systemd/journal, or paths of files.";
    log_level: String = "info", Served, "Least level to log: debug, info, warn, error, panic or fatal.";
    log_format: String = "json", Served, "'json' or 'console'.";
    enable_log_rotation: bool = "false", Served, "Exchange the file of --log-outputs for a new one when it is long.";
    log_rotation_config_json: String = "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}", Served, "When to exchange it, and what becomes of old ones: megabytes, days, how many, gzip.";
}
"Distributed tracing" {
    enable_distributed_tracing: bool = "false", Served, "Send OpenTelemetry traces.";
    distributed_tracing_address: String = "localhost:4317", Served, "Host and port of the collector, which takes OTLP over gRPC.";
    distributed_tracing_service_name: String = "etcd", Served, "Service name of the traces.";
    distributed_tracing_instance_id: String = "", Served, "Instance id of the traces.";
    distributed_tracing_sampling_rate: i64 = "0", Served, "Traces kept of a million.";
}
"Gateway" {
    enable_grpc_gateway: bool = "true", Served, "Serve the JSON gateway under /v3/.";
}
"Checks" {
    corrupt_check_time: Duration = "0s", Served, "Time between comparisons of the members' data, 0 for never.";
    compact_hash_check_time: Duration = "1m0s", Served, "Time between comparisons of the hashes taken at compactions.";
    downgrade_check_time: Duration = "5s", Served, "Time between looks at a running downgrade.";
}
"Tuning" {
    compaction_batch_limit: i64 = "0", Inert(NO_BATCHES), "Kept for scripts; compaction has no batches.";
    compaction_sleep_interval: Duration = "0s", Inert(NO_BATCHES), "Kept for scripts; compaction has no batches.";
    watch_progress_notify_interval: Duration = "0s", Served, "Time between progress notifications of an idle watch, 0 for 10m.";
    warning_apply_duration: Duration = "100ms", Served, "An apply that takes longer is logged.";
    warning_unary_request_duration: Duration = "300ms", Served, "A request that takes longer is logged.";
}
"Unsafe" {
    unsafe_no_fsync: bool = "false", Served, "Do not wait for the disk. Loses data.";
    force_new_cluster: bool = "false", Served, "Make a cluster of one member from this data.";
}
"Features" {
    feature_gates: Gates = "", Served, "Feature gates, as name=true,name=false.";
}
"Process" {
    config_file: String = "", Served, "YAML or JSON file of settings that takes the place of all other flags and variables.";
    confine_files: bool = "true", Served, "Give up access to all files but the member's own, where the kernel has Landlock.";
    strict_flags: bool = "false", Served, "Refuse flags of earlier releases instead of mapping them to today's.";
    version: bool = "false", Served, "Print the version and exit.";
}
}
