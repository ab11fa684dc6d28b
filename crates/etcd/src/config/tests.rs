//! Flags with what becomes of them; the refusals were read off a running etcd.

use server::config::{Allowed, Identity, RegisterSettings, TlsSettings, Trust, Version, show_cluster};

use super::discovery::DISCOVERY_TIME_MAX;
use super::*;
use crate::flags::{Invocation, Support, parse};

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
        (&["--max-learners=-1"], "--max-learners must be >=0 (set to -1)"),
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
    let page = include_str!("../../../../docs/compat.md");
    let inert = FLAGS
        .iter()
        .filter(|flag| matches!(flag.support, Support::Inert(_)));
    for flag in inert {
        assert!(page.contains(&format!("`--{}`", flag.name())), "{}", flag.name());
    }
}

#[test]
fn what_each_feature_gate_does_here_is_said_there_too() {
    let page = include_str!("../../../../docs/compat.md");
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
    assert_eq!(of("periodic", ""), AutoCompaction::Off);
    assert_eq!(of("revision", ""), AutoCompaction::Off);
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
fn a_file_may_leave_how_long_a_certificate_is_good_to_the_default() {
    let args = ["--config-file=f".to_owned()];
    let file = |_: &str| Ok("self-signed-cert-validity: 0\n".to_owned());
    match parse(&args, &[], file) {
        Ok(Invocation::Serve(settings)) => {
            assert_eq!(build(&settings, || None).unwrap().self_signed_cert_validity, 1);
        }
        other => panic!("no server: {other:?}"),
    }
    assert_eq!(
        config(&["--self-signed-cert-validity=0"]).self_signed_cert_validity,
        0
    );
}

#[test]
fn a_list_of_members_that_is_left_empty_is_not_this_member_alone() {
    assert!(config(&["--initial-cluster="]).initial_cluster.is_empty());
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
