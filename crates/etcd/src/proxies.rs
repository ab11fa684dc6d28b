//! `etcd gateway start` and `etcd grpc-proxy start`: their flags, which are spelled as cobra has it.

use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use proxy::grpc_proxy::{self, Register};
use proxy::{Discovery, ProxyError, client, gateway, tls};
use server::fields::json;
use server::go::parse_duration;
use tls::{Identity, Protocols, Suite, Trust, Version};
use tracing::info;

use crate::logging::Log;
use crate::systemd::Systemd;

/// Proxies of etcd.
#[derive(Debug, Parser)]
#[command(name = "etcd", disable_version_flag = true)]
struct CommandLine {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// gateway related command
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// grpc-proxy related command
    #[command(subcommand)]
    GrpcProxy(GrpcProxyCommand),
}

#[derive(Debug, Subcommand)]
enum GatewayCommand {
    /// start the gateway
    Start(GatewayFlags),
}

#[derive(Args, Debug)]
struct GatewayFlags {
    /// Listen address.
    #[arg(long, default_value = "127.0.0.1:23790")]
    listen_addr: String,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The file of those who sign the certificates of discovered endpoints.
    #[arg(long)]
    trusted_ca_file: Option<PathBuf>,
    /// The wait before an endpoint that failed is tried again.
    #[arg(long, default_value = "1m0s", value_parser = parse_duration)]
    retry_delay: Duration,
}

#[derive(Debug, Subcommand)]
enum GrpcProxyCommand {
    /// start the grpc proxy
    Start(Box<GrpcProxyFlags>),
}

#[derive(Args, Debug)]
struct GrpcProxyFlags {
    /// Listen address.
    #[arg(long, default_value = "127.0.0.1:23790")]
    listen_addr: String,
    /// An additional address to listen on for metrics and health.
    #[arg(long, default_value = "", hide_default_value = true)]
    metrics_addr: String,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// How often to ask the cluster who its members are; 0 is never.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    endpoints_auto_sync_interval: Duration,
    /// Silence of the cluster after which to ask for a sign of life; 0 is never.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    dial_keepalive_time: Duration,
    /// How long that may take.
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    dial_keepalive_timeout: Duration,
    /// Ask also while there are no calls.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    permit_without_stream: bool,
    /// Address to register, where clients reach this proxy.
    #[arg(long, default_value = "127.0.0.1:23790")]
    advertise_client_url: String,
    /// What the keys of registered proxies begin with; the same for all proxies of a cluster.
    #[arg(long, default_value = "", hide_default_value = true)]
    resolver_prefix: String,
    /// How long a registered proxy is believed in, in seconds.
    #[arg(long, default_value = "0")]
    resolver_ttl: i64,
    /// What all keys begin with, without clients knowing.
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,
    /// A folder for generated certificates.
    #[arg(long, default_value = "default.proxy")]
    data_dir: PathBuf,
    /// The largest request, in bytes.
    #[arg(long, default_value = "1572864")]
    max_send_bytes: usize,
    /// The largest answer, in bytes.
    #[arg(long, default_value = "2147483647")]
    max_recv_bytes: usize,
    #[command(flatten)]
    upstream: UpstreamFlags,
    #[command(flatten)]
    downstream: DownstreamFlags,
    /// Silence of a client after which to ask for a sign of life; 0 is never.
    #[arg(long, default_value = "2h", value_parser = parse_duration)]
    grpc_keepalive_interval: Duration,
    /// How long that may take.
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    grpc_keepalive_timeout: Duration,
    /// How often clients may ask for a sign of life at most; it is taken, but nobody is cut off who asks more often.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    grpc_keepalive_min_time: Duration,
    /// Log more.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    debug: bool,
    #[command(flatten)]
    refused: RefusedFlags,
    /// Never answer a serializable read with an older revision than one before.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    experimental_serializable_ordering: bool,
    /// Log every call.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    experimental_enable_grpc_logging: bool,
    /// Calls of one connection at a time.
    #[arg(long, default_value = "4294967295")]
    max_concurrent_streams: u32,
}

/// What etcd's proxy has and this one has not.
#[derive(Args, Debug)]
struct RefusedFlags {
    /// Not supported.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    enable_pprof: bool,
    /// Not supported.
    #[arg(long, default_value = "", hide_default_value = true)]
    experimental_leasing_prefix: String,
}

impl RefusedFlags {
    fn check(&self) -> Result<(), ProxyError> {
        let flags = [
            (self.enable_pprof, "enable-pprof"),
            (
                !self.experimental_leasing_prefix.is_empty(),
                "experimental-leasing-prefix",
            ),
        ];
        match flags.iter().find(|(is_set, _)| *is_set) {
            Some((_, flag)) => Err(ProxyError::Invalid(format!(
                "--{flag} is not supported, leave it out"
            ))),
            None => Ok(()),
        }
    }
}

/// TLS towards the cluster.
#[derive(Args, Debug)]
struct UpstreamFlags {
    /// The file of the certificate that the cluster is shown.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The file of its key.
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// The file of those who sign the cluster's certificates.
    #[arg(long)]
    cacert: Option<PathBuf>,
    /// Believe every server, for tests only.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    insecure_skip_tls_verify: bool,
}

impl UpstreamFlags {
    fn settings(&self) -> Option<tls::Settings> {
        let identity = self.cert.clone().zip(self.key.clone());
        let trust = match (self.insecure_skip_tls_verify, &self.cacert) {
            (true, _) => Trust::Anyone,
            (false, Some(file)) => Trust::Authorities(file.clone()),
            (false, None) => Trust::System,
        };
        (identity.is_some() || trust != Trust::System).then(|| tls::Settings {
            client_identity: identity.map(|(cert, key)| Identity { cert, key }),
            trust,
            ..tls::Settings::default()
        })
    }
}

/// TLS towards clients.
#[derive(Args, Debug)]
struct DownstreamFlags {
    /// The file of the certificate that clients are shown.
    #[arg(long, requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// The file of its key.
    #[arg(long, requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The file of those who sign clients' certificates, which are then asked for.
    #[arg(long)]
    trusted_ca_file: Option<PathBuf>,
    /// Make a certificate.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    auto_tls: bool,
    /// The file of the clients' certificates that are revoked.
    #[arg(long)]
    client_crl_file: Option<PathBuf>,
    /// For how many years a certificate is made.
    #[arg(long, default_value = "1")]
    self_signed_cert_validity: u64,
    /// The lowest version: TLS1.2 or TLS1.3.
    #[arg(long, default_value = "TLS1.2", value_parser = version)]
    tls_min_version: Version,
    /// The highest version: TLS1.2 or TLS1.3.
    #[arg(long, default_value = "TLS1.3", value_parser = version)]
    tls_max_version: Version,
    /// Cipher suites of TLS 1.2, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = suite)]
    listen_cipher_suites: Vec<Suite>,
}

impl DownstreamFlags {
    fn settings(&self, listen: &str, data: &Path) -> Result<Option<tls::Settings>, ProxyError> {
        let identity = match self.cert_file.clone().zip(self.key_file.clone()) {
            Some((cert, key)) => Identity { cert, key },
            None if self.auto_tls => {
                let host = listen
                    .rsplit_once(':')
                    .map_or(listen, |(host, _)| host)
                    .to_owned();
                let made = tls::self_signed(
                    &data.join("fixtures/proxy"),
                    &[host],
                    self.self_signed_cert_validity,
                );
                made.map_err(|error| ProxyError::Tls(error.to_string()))?
            }
            None => return Ok(None),
        };
        Ok(Some(tls::Settings {
            identity: Some(identity),
            trust: self
                .trusted_ca_file
                .clone()
                .map_or(Trust::System, Trust::Authorities),
            requires_certificate: self.trusted_ca_file.is_some(),
            revoked: self.client_crl_file.clone(),
            protocols: Protocols {
                min: self.tls_min_version,
                max: self.tls_max_version,
                suites: self.listen_cipher_suites.clone(),
            },
            ..tls::Settings::default()
        }))
    }

    fn check(&self) -> Result<(), ProxyError> {
        let invalid = |problem: &str| Err(ProxyError::Invalid(problem.to_owned()));
        if self.tls_min_version > self.tls_max_version {
            return invalid("min version (TLS1.3) is greater than max version (TLS1.2)");
        }
        if self.tls_min_version == Version::Tls13 && !self.listen_cipher_suites.is_empty() {
            return invalid("cipher suites cannot be configured when only TLS1.3 is enabled");
        }
        Ok(())
    }
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "TLS1.2" => Ok(Version::Tls12),
        "TLS1.3" => Ok(Version::Tls13),
        _ => Err("it is TLS1.2 or TLS1.3".into()),
    }
}

fn suite(name: &str) -> Result<Suite, String> {
    Suite::parse(name).map_err(|error| error.to_string())
}

impl GrpcProxyFlags {
    fn config(self) -> Result<grpc_proxy::Config, ProxyError> {
        self.downstream.check()?;
        self.refused.check()?;
        let some = |time: Duration| (!time.is_zero()).then_some(time);
        let text = |text: String| (!text.is_empty()).then_some(text);
        let register = self.register()?;
        let upstream = self.upstream.settings();
        Ok(grpc_proxy::Config {
            tls: self.downstream.settings(&self.listen_addr, &self.data_dir)?,
            discovery: self.cluster.discovery(self.upstream.cacert),
            cluster: client::Config {
                tls: upstream,
                keep_alive_interval: some(self.dial_keepalive_time),
                keep_alive_timeout: self.dial_keepalive_timeout,
                keep_alive_while_idle: self.permit_without_stream,
                max_send_bytes: self.max_send_bytes,
                max_receive_bytes: self.max_recv_bytes,
                namespace: self.namespace.into(),
                auto_sync_interval: some(self.endpoints_auto_sync_interval),
                ..client::Config::new(self.cluster.endpoints)
            },
            listen: self.listen_addr,
            listen_metrics: text(self.metrics_addr),
            advertised: text(self.advertise_client_url),
            register,
            streams_max: (self.max_concurrent_streams != u32::MAX).then_some(self.max_concurrent_streams),
            keep_alive_interval: some(self.grpc_keepalive_interval),
            keep_alive_timeout: self.grpc_keepalive_timeout,
            keeps_order: self.experimental_serializable_ordering,
            logs_calls: self.experimental_enable_grpc_logging,
        })
    }

    fn register(&self) -> Result<Option<Register>, ProxyError> {
        let invalid = |problem: String| Err(ProxyError::Invalid(problem));
        match (self.resolver_prefix.as_str(), self.resolver_ttl) {
            ("", ttl) if ttl > 0 => invalid("invalid resolver-prefix \"\"".into()),
            ("", _) => Ok(None),
            (_, ttl) if ttl < 1 => invalid(format!("invalid resolver-ttl {ttl}")),
            _ if self.advertise_client_url.is_empty() => invalid("invalid advertise-client-url \"\"".into()),
            (prefix, ttl_secs) => Ok(Some(Register {
                prefix: prefix.to_owned(),
                ttl_secs,
            })),
        }
    }
}

/// Where the cluster is.
#[derive(Args, Debug)]
struct ClusterFlags {
    /// Endpoints of the cluster, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    /// A domain whose SRV records name the endpoints.
    #[arg(long, default_value = "", hide_default_value = true)]
    discovery_srv: String,
    /// What comes after the names of the services to look for.
    #[arg(long, default_value = "", hide_default_value = true)]
    discovery_srv_name: String,
    /// Take endpoints from SRV records as they are, without a look at their certificates.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    insecure_discovery: bool,
}

impl ClusterFlags {
    fn discovery(&self, authorities: Option<PathBuf>) -> Option<Discovery> {
        (!self.discovery_srv.is_empty()).then(|| Discovery {
            domain: self.discovery_srv.clone(),
            service_name: self.discovery_srv_name.clone(),
            is_insecure: self.insecure_discovery,
            authorities,
        })
    }
}

/// Whether a command line asks for a proxy: only its first argument says so.
pub fn are_meant(args: &[String]) -> bool {
    args.get(1)
        .is_some_and(|mode| matches!(mode.as_str(), "gateway" | "grpc-proxy"))
}

/// Runs the proxy that is asked for until the process ends.
pub fn run(args: &[String]) -> ExitCode {
    let line = match CommandLine::try_parse_from(args) {
        Ok(line) => line,
        Err(refusal) => {
            // Nobody is left to tell if this fails.
            let _ = refusal.print();
            return if refusal.use_stderr() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match &line.mode {
        Mode::GrpcProxy(GrpcProxyCommand::Start(flags)) if flags.debug => Log::in_detail().start(),
        _ => Log::fallback().start(),
    }
    info!(args = json(args), "Running: ");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(start(line.mode)),
        Err(error) => Err(ProxyError::Invalid(error.to_string())),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(mode: Mode) -> Result<(), ProxyError> {
    let systemd = Systemd::new(|name| std::env::var(name).ok(), std::process::id());
    let ready = || systemd.ready();
    match mode {
        Mode::Gateway(GatewayCommand::Start(flags)) => {
            let config = gateway::Config {
                discovery: flags.cluster.discovery(flags.trusted_ca_file),
                endpoints: flags.cluster.endpoints,
                listen: flags.listen_addr,
                retry_delay: flags.retry_delay,
            };
            gateway::run(config, ready).await
        }
        Mode::GrpcProxy(GrpcProxyCommand::Start(flags)) => grpc_proxy::run(flags.config()?, ready).await,
    }
}
