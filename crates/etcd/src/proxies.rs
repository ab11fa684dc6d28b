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
    #[arg(long, default_value = "0", allow_negative_numbers = true)]
    resolver_ttl: i64,
    /// What all keys begin with, without clients knowing.
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,
    /// A folder for generated certificates.
    #[arg(long, default_value = "default.proxy")]
    data_dir: PathBuf,
    /// The largest request, in bytes.
    #[arg(long, default_value = "1572864", allow_negative_numbers = true)]
    max_send_bytes: i64,
    /// The largest answer, in bytes.
    #[arg(long, default_value = "2147483647", allow_negative_numbers = true)]
    max_recv_bytes: i64,
    #[command(flatten)]
    upstream: UpstreamFlags,
    #[command(flatten)]
    downstream: DownstreamFlags,
    /// Silence of a client after which to ask for a sign of life; 0 is never.
    #[arg(long, default_value = "2h", value_parser = parse_duration)]
    grpc_keepalive_interval: Duration,
    /// How long that may take; 0 is for ever.
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    grpc_keepalive_timeout: Duration,
    /// The shortest time between two signs of life that a client asks for; counted only when it is set.
    #[arg(long, value_parser = parse_duration)]
    grpc_keepalive_min_time: Option<Duration>,
    /// Serve profiles of the CPU under /debug/pprof/.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    enable_pprof: bool,
    /// Log more.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    debug: bool,
    /// What keys begin with by which proxies agree who may answer reads from memory; all who write have to share it.
    #[arg(long, default_value = "", hide_default_value = true)]
    experimental_leasing_prefix: String,
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
    #[arg(long, default_value = "TLS1.2", value_parser = min_version)]
    tls_min_version: Version,
    /// The highest version: TLS1.2 or TLS1.3, which is what nothing means.
    #[arg(long, default_value = "", hide_default_value = true, value_parser = max_version)]
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
        if self.auto_tls && self.self_signed_cert_validity == 0 {
            return invalid("selfSignedCertValidity is invalid,it should be greater than 0");
        }
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

fn min_version(text: &str) -> Result<Version, String> {
    match text {
        "" => Ok(Version::Tls12),
        text => version(text),
    }
}

fn max_version(text: &str) -> Result<Version, String> {
    match text {
        "" => Ok(Version::Tls13),
        text => version(text),
    }
}

fn suite(name: &str) -> Result<Suite, String> {
    Suite::parse(name).map_err(|error| error.to_string())
}

impl GrpcProxyFlags {
    fn config(self) -> Result<grpc_proxy::Config, ProxyError> {
        self.downstream.check()?;
        let some = |time: Duration| (!time.is_zero()).then_some(time);
        let text = |text: String| (!text.is_empty()).then_some(text);
        let bytes = |flag: i64, usual: usize| {
            usize::try_from(flag)
                .ok()
                .filter(|flag| *flag > 0)
                .unwrap_or(usual)
        };
        let usual = client::Config::new(self.cluster.endpoints.clone());
        let register = self.register()?;
        let upstream = self.upstream.settings();
        Ok(grpc_proxy::Config {
            tls: self.downstream.settings(&self.listen_addr, &self.data_dir)?,
            discovery: self.cluster.discovery(self.upstream.cacert),
            cluster: client::Config {
                tls: upstream,
                keep_alive_interval: some(self.dial_keepalive_time),
                keep_alive_timeout: some(self.dial_keepalive_timeout).unwrap_or(usual.keep_alive_timeout),
                keep_alive_while_idle: self.permit_without_stream,
                max_send_bytes: bytes(self.max_send_bytes, usual.max_send_bytes),
                max_receive_bytes: bytes(self.max_recv_bytes, usual.max_receive_bytes),
                namespace: self.namespace.into(),
                auto_sync_interval: some(self.endpoints_auto_sync_interval),
                ..usual
            },
            listen: self.listen_addr,
            listen_metrics: text(self.metrics_addr),
            advertised: text(self.advertise_client_url),
            register,
            streams_max: (self.max_concurrent_streams != u32::MAX).then_some(self.max_concurrent_streams),
            keep_alive_interval: some(self.grpc_keepalive_interval),
            keep_alive_timeout: some(self.grpc_keepalive_timeout),
            ping_pause: self.grpc_keepalive_min_time.and_then(some),
            profiles: self.enable_pprof,
            keeps_order: self.experimental_serializable_ordering,
            leasing_prefix: text(self.experimental_leasing_prefix),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The flags of etcd 3.7.1 with their defaults; `5s` counts only when it is said.
    const GRPC_PROXY: &str = "advertise-client-url 127.0.0.1:23790, auto-tls false, cacert, cert, cert-file, client-crl-file, \
        data-dir default.proxy, debug false, dial-keepalive-time 0s, dial-keepalive-timeout 20s, discovery-srv, \
        discovery-srv-name, enable-pprof false, endpoints 127.0.0.1:2379, endpoints-auto-sync-interval 0s, \
        experimental-enable-grpc-logging false, experimental-leasing-prefix, experimental-serializable-ordering false, \
        grpc-keepalive-interval 2h, grpc-keepalive-min-time, grpc-keepalive-timeout 20s, insecure-discovery false, \
        insecure-skip-tls-verify false, key, key-file, listen-addr 127.0.0.1:23790, listen-cipher-suites, \
        max-concurrent-streams 4294967295, max-recv-bytes 2147483647, max-send-bytes 1572864, metrics-addr, namespace, \
        permit-without-stream false, resolver-prefix, resolver-ttl 0, self-signed-cert-validity 1, tls-max-version, \
        tls-min-version TLS1.2, trusted-ca-file";
    const GATEWAY: &str = "discovery-srv, discovery-srv-name, endpoints 127.0.0.1:2379, insecure-discovery false, \
        listen-addr 127.0.0.1:23790, retry-delay 1m0s, trusted-ca-file";

    /// The flags of a command and their defaults, by name.
    fn flags(mode: &str) -> String {
        let mut command = CommandLine::command();
        let start = command
            .find_subcommand_mut(mode)
            .and_then(|mode| mode.find_subcommand_mut("start"))
            .expect("there is such a proxy");
        let mut flags: Vec<_> = start
            .get_arguments()
            .filter_map(|flag| {
                let defaults = flag.get_default_values().iter();
                let shown = defaults.map(|value| value.to_string_lossy()).collect::<String>();
                Some(format!("{} {shown}", flag.get_long()?).trim().to_owned())
            })
            .collect();
        flags.sort();
        flags.join(", ")
    }

    fn grpc_proxy(flags: &[&str]) -> Result<grpc_proxy::Config, String> {
        let line = [&["etcd", "grpc-proxy", "start"][..], flags].concat();
        let line = CommandLine::try_parse_from(line).map_err(|error| error.to_string())?;
        match line.mode {
            Mode::GrpcProxy(GrpcProxyCommand::Start(flags)) => {
                flags.config().map_err(|error| error.to_string())
            }
            Mode::Gateway(_) => Err("another proxy".into()),
        }
    }

    #[test]
    fn every_flag_of_etcds_proxies_is_there_with_its_default() {
        assert_eq!(flags("grpc-proxy"), GRPC_PROXY);
        assert_eq!(flags("gateway"), GATEWAY);
    }

    #[test]
    fn every_flag_has_its_effect() {
        let secs = Duration::from_secs;
        let tls = |config: &grpc_proxy::Config| config.tls.clone().unwrap_or_default();
        let upstream = |config: &grpc_proxy::Config| config.cluster.tls.clone().unwrap_or_default();
        type Check<'a> = &'a dyn Fn(&grpc_proxy::Config) -> bool;
        let table: &[(&[&str], Check)] = &[
            (&["--listen-addr=:1"], &|config| config.listen == ":1"),
            (&["--metrics-addr=http://a:1"], &|config| {
                config.listen_metrics.as_deref() == Some("http://a:1")
            }),
            (&["--endpoints=a:1,b:2", "--endpoints=c:3"], &|config| {
                config.cluster.endpoints == ["a:1", "b:2", "c:3"]
            }),
            (&["--advertise-client-url="], &|config| {
                config.advertised.is_none()
            }),
            (
                &["--discovery-srv=d", "--discovery-srv-name=n", "--cacert=c"],
                &|config| {
                    config.discovery.as_ref().is_some_and(|discovery| {
                        (
                            &*discovery.domain,
                            &*discovery.service_name,
                            discovery.is_insecure,
                        ) == ("d", "n", false)
                            && discovery.authorities.as_deref() == Some(Path::new("c"))
                    })
                },
            ),
            (&["--discovery-srv=d", "--insecure-discovery"], &|config| {
                config
                    .discovery
                    .as_ref()
                    .is_some_and(|discovery| discovery.is_insecure)
            }),
            (&["--endpoints-auto-sync-interval=3s"], &|config| {
                config.cluster.auto_sync_interval == Some(secs(3))
            }),
            (
                &["--dial-keepalive-time=3s", "--dial-keepalive-timeout=4s"],
                &|config| {
                    (
                        config.cluster.keep_alive_interval,
                        config.cluster.keep_alive_timeout,
                    ) == (Some(secs(3)), secs(4))
                },
            ),
            (&["--dial-keepalive-timeout=0"], &|config| {
                config.cluster.keep_alive_timeout == secs(20)
            }),
            (&["--permit-without-stream"], &|config| {
                config.cluster.keep_alive_while_idle
            }),
            (&["--resolver-prefix=p", "--resolver-ttl=7"], &|config| {
                config
                    .register
                    .as_ref()
                    .is_some_and(|register| register.prefix == "p" && register.ttl_secs == 7)
            }),
            (&["--namespace=n/"], &|config| config.cluster.namespace == "n/"),
            (&["--enable-pprof"], &|config| config.profiles),
            (&["--max-send-bytes=5", "--max-recv-bytes=6"], &|config| {
                (config.cluster.max_send_bytes, config.cluster.max_receive_bytes) == (5, 6)
            }),
            (&["--max-send-bytes=0", "--max-recv-bytes=-1"], &|config| {
                let usual = client::Config::default();
                config.cluster.max_send_bytes == usual.max_send_bytes
                    && config.cluster.max_receive_bytes == usual.max_receive_bytes
            }),
            (&["--cert=c", "--key=k", "--cacert=a"], &|config| {
                let identity = upstream(config).client_identity;
                identity
                    .is_some_and(|identity| identity.cert == Path::new("c") && identity.key == Path::new("k"))
                    && upstream(config).trust == Trust::Authorities("a".into())
            }),
            (&["--insecure-skip-tls-verify"], &|config| {
                upstream(config).trust == Trust::Anyone
            }),
            (&["--cert-file=c", "--key-file=k"], &|config| {
                let identity = tls(config).identity;
                identity
                    .is_some_and(|identity| identity.cert == Path::new("c") && identity.key == Path::new("k"))
                    && !tls(config).requires_certificate
            }),
            (
                &[
                    "--cert-file=c",
                    "--key-file=k",
                    "--trusted-ca-file=a",
                    "--client-crl-file=r",
                ],
                &|config| {
                    tls(config).requires_certificate
                        && tls(config).trust == Trust::Authorities("a".into())
                        && tls(config).revoked.as_deref() == Some(Path::new("r"))
                },
            ),
            (
                &[
                    "--cert-file=c",
                    "--key-file=k",
                    "--tls-min-version=TLS1.3",
                    "--tls-max-version=",
                ],
                &|config| {
                    (tls(config).protocols.min, tls(config).protocols.max) == (Version::Tls13, Version::Tls13)
                },
            ),
            (
                &[
                    "--cert-file=c",
                    "--key-file=k",
                    "--tls-max-version=TLS1.2",
                    "--listen-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                ],
                &|config| {
                    tls(config).protocols.max == Version::Tls12 && tls(config).protocols.suites.len() == 1
                },
            ),
            (&["--experimental-serializable-ordering"], &|config| {
                config.keeps_order
            }),
            (&["--experimental-leasing-prefix=l/"], &|config| {
                config.leasing_prefix.as_deref() == Some("l/")
            }),
            (&["--experimental-enable-grpc-logging"], &|config| {
                config.logs_calls
            }),
            (&["--max-concurrent-streams=9"], &|config| {
                config.streams_max == Some(9)
            }),
            (
                &["--grpc-keepalive-interval=3s", "--grpc-keepalive-timeout=4s"],
                &|config| {
                    (config.keep_alive_interval, config.keep_alive_timeout) == (Some(secs(3)), Some(secs(4)))
                },
            ),
            (
                &["--grpc-keepalive-interval=0", "--grpc-keepalive-timeout=0"],
                &|config| config.keep_alive_interval.is_none() && config.keep_alive_timeout.is_none(),
            ),
            (&["--grpc-keepalive-min-time=3s"], &|config| {
                config.ping_pause == Some(secs(3))
            }),
            (&["--grpc-keepalive-min-time=0"], &|config| {
                config.ping_pause.is_none()
            }),
            (&[], &|config| {
                let is_plain = config.tls.is_none() && config.cluster.tls.is_none();
                is_plain && config.ping_pause.is_none() && config.streams_max.is_none() && !config.profiles
            }),
        ];
        for (flags, check) in table {
            match grpc_proxy(flags) {
                Ok(config) => assert!(check(&config), "{flags:?} {config:?}"),
                Err(refusal) => panic!("{flags:?} {refusal}"),
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let data = format!("--data-dir={}", folder.path().display());
        let config = grpc_proxy(&["--auto-tls", &data]).expect("a certificate is made");
        assert!(
            tls(&config)
                .identity
                .is_some_and(|made| made.cert.starts_with(folder.path()))
        );
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_as_by_etcd() {
        for (flags, refusal) in [
            (&["--resolver-prefix=p"][..], "invalid resolver-ttl 0"),
            (&["--resolver-ttl=1"], "invalid resolver-prefix \"\""),
            (
                &[
                    "--resolver-prefix=p",
                    "--resolver-ttl=1",
                    "--advertise-client-url=",
                ],
                "invalid advertise-client-url \"\"",
            ),
            (
                &["--auto-tls", "--self-signed-cert-validity=0"],
                "selfSignedCertValidity is invalid,it should be greater than 0",
            ),
            (
                &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
            (
                &[
                    "--tls-min-version=TLS1.3",
                    "--listen-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                ],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
        ] {
            assert_eq!(grpc_proxy(flags).err().as_deref(), Some(refusal), "{flags:?}");
        }
    }
}
