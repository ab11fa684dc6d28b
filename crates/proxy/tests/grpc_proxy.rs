//! `etcd grpc-proxy` before our server and before etcd's, and beside etcd's own proxy.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use client::{Client, Config, Error, Session, User, Watcher};
use conformance::http;
use conformance::identities::Gate;
use conformance::server::{Ports, Server};
use conformance::tools::Tools;
use proto::etcdserverpb::*;
use proxy::grpc_proxy::{self, Register};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

static TOOLS: LazyLock<Option<Tools>> = LazyLock::new(|| match Tools::find() {
    Ok(tools) => Some(tools),
    Err(problem) if std::env::var_os("CI").is_some() => panic!("{problem}"),
    Err(problem) => {
        eprintln!("ignored: {problem}");
        None
    }
});

async fn servers() -> Vec<Server> {
    let mut servers = vec![];
    if let Some(tools) = &*TOOLS {
        for program in [&tools.ours, &tools.reference] {
            servers.push(Server::start(program, &[]).await.unwrap());
        }
    }
    servers
}

fn config(server: &Server) -> grpc_proxy::Config {
    grpc_proxy::Config {
        listen: format!("127.0.0.1:{}", Ports::next()),
        listen_metrics: None,
        cluster: Config::new([server.endpoint()]),
        discovery: None,
        tls: None,
        advertised: None,
        register: None,
        streams_max: None,
        keep_alive_interval: None,
        keep_alive_timeout: None,
        ping_pause: None,
        profiles: false,
        keeps_order: true,
        leasing_prefix: None,
        logs_calls: false,
    }
}

async fn start(config: grpc_proxy::Config) -> Client {
    let listen = config.listen.clone();
    let (ready, listens) = oneshot::channel();
    let ready = || ready.send(()).unwrap();
    tokio::spawn(async { grpc_proxy::run(config, ready).await.unwrap() });
    listens.await.unwrap();
    Client::connect(Config::new([listen])).await.unwrap()
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    }
}

fn watch(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        ..WatchCreateRequest::default()
    }
}

async fn page(at: SocketAddr, path: &str) -> String {
    let response = http::request(at, "GET", path, "").await.unwrap();
    String::from_utf8(response.body).unwrap()
}

fn said<T: std::fmt::Debug>(outcome: Result<T, Error>, show: impl Fn(T) -> String) -> String {
    match outcome {
        Ok(answer) => show(answer),
        // etcd's proxy loses the codes of some of them.
        Err(Error::Server { message, .. }) => message,
        Err(error) => format!("{error:?}"),
    }
}

/// Takes a fresh cluster through some calls, and tells what was answered.
async fn script(client: &Client) -> Vec<String> {
    let mut told = vec![];
    let mut all = client
        .watch(WatchCreateRequest {
            range_end: "z".into(),
            prev_kv: true,
            ..watch("a")
        })
        .await
        .unwrap();
    let mut deletions = client
        .watch(WatchCreateRequest {
            range_end: "z".into(),
            filters: vec![0],
            ..watch("a")
        })
        .await
        .unwrap();
    for value in ["1", "2"] {
        told.push(said(client.put(put("a", value)).await, |answer| {
            format!("{:?}", answer.prev_kv)
        }));
    }
    told.push(said(client.put(put("", "1")).await, |answer| {
        format!("{answer:?}")
    }));
    told.push(said(client.range(get("a")).await, |answer| {
        format!("{:?}", answer.kvs)
    }));
    let old = RangeRequest {
        revision: 99,
        ..get("a")
    };
    told.push(said(client.range(old).await, |answer| format!("{answer:?}")));
    let lease = LeaseGrantRequest { ttl: 60, id: 7 };
    told.push(said(client.lease_grant(lease).await, |answer| {
        format!("{} {}", answer.id, answer.ttl)
    }));
    told.push(said(client.lease_grant(lease).await, |answer| {
        format!("{answer:?}")
    }));
    told.push(said(client.keep_alive_once(7).await, |answer| {
        format!("{} {}", answer.id, answer.ttl)
    }));
    told.push(said(client.keep_alive_once(8).await, |answer| {
        format!("{answer:?}")
    }));
    let txn = TxnRequest {
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestPut(PutRequest {
                lease: 7,
                ..put("b", "1")
            })),
        }],
        ..TxnRequest::default()
    };
    told.push(said(client.txn(txn).await, |answer| {
        format!("{} {}", answer.succeeded, answer.responses.len())
    }));
    let keys = LeaseTimeToLiveRequest { id: 7, keys: true };
    told.push(said(client.lease_time_to_live(keys).await, |answer| {
        format!("{:?}", answer.keys)
    }));
    told.push(said(
        client.lease_revoke(LeaseRevokeRequest { id: 7 }).await,
        |_| "revoked".into(),
    ));
    let delete = DeleteRangeRequest {
        key: "a".into(),
        prev_kv: true,
        ..DeleteRangeRequest::default()
    };
    told.push(said(client.delete_range(delete).await, |answer| {
        format!("{:?}", answer.prev_kvs)
    }));
    let compaction = CompactionRequest {
        revision: 4,
        physical: true,
    };
    told.push(said(client.compact(compaction).await, |_| "compacted".into()));
    let lost = client
        .watch(WatchCreateRequest {
            start_revision: 2,
            ..watch("a")
        })
        .await;
    told.push(match lost {
        Ok(mut lost) => format!("{:?}", lost.next().await),
        Err(error) => format!("{error:?}"),
    });
    told.push(said(client.auth_status(AuthStatusRequest {}).await, |answer| {
        format!("{}", answer.enabled)
    }));
    told.push(said(
        client
            .user_get(AuthUserGetRequest {
                name: "nobody".into(),
            })
            .await,
        |answer| format!("{answer:?}"),
    ));
    told.push(said(client.alarm(AlarmRequest::default()).await, |answer| {
        format!("{:?}", answer.alarms)
    }));
    let lock = proto::v3lockpb::LockRequest {
        name: "l".into(),
        lease: 8,
    };
    told.push(said(client.lock(lock).await, |answer| format!("{answer:?}")));
    told.extend(events(&mut all, 5).await);
    told.extend(events(&mut deletions, 2).await);
    told
}

/// The next events.
async fn events(watcher: &mut Watcher, count: usize) -> Vec<String> {
    let mut events = vec![];
    while events.len() < count {
        let answer = watcher.next().await.unwrap().unwrap();
        events.extend(answer.events.iter().map(|event| format!("{event:?}")));
    }
    events
}

/// etcd's own proxy, which ends with this.
struct Etcds(Child);

impl Drop for Etcds {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Etcds {
    /// One before a server, and a client of it.
    async fn start(server: &Server, flags: &[&str]) -> Option<(Self, Client)> {
        let tools = TOOLS.as_ref()?;
        let listen = format!("127.0.0.1:{}", Ports::next());
        let child = Command::new(&tools.reference)
            .args(["grpc-proxy", "start", "--endpoints", &server.endpoint()])
            .args(["--listen-addr", &listen, "--advertise-client-url", &listen])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let client = Client::connect(Config::new([listen])).await.unwrap();
        // It is there once it has answered.
        client.range(get("none")).await.unwrap();
        Some((Etcds(child), client))
    }
}

#[tokio::test]
async fn calls_are_answered_as_by_etcds_own_proxy() {
    let Some(tools) = &*TOOLS else {
        return;
    };
    let server = Server::start(&tools.reference, &[]).await.unwrap();
    let (_etcds, client) = Etcds::start(&server, &[]).await.unwrap();
    let theirs = script(&client).await;
    for server in servers().await {
        let ours = script(&start(config(&server)).await).await;
        assert_eq!(ours, theirs);
    }
}

#[tokio::test]
async fn many_watchers_of_the_same_keys_are_one_for_the_cluster_and_each_sees_everything() {
    const WATCHERS: usize = 20;
    for server in servers().await {
        let client = start(config(&server)).await;
        let mut watchers = vec![];
        for _ in 0..WATCHERS {
            watchers.push(client.watch(watch("a")).await.unwrap());
        }
        let metrics = server.ports.at(server.ports.metrics);
        let metrics = page(metrics, "/metrics").await;
        assert!(
            metrics.contains("\netcd_debugging_mvcc_watcher_total 1\n"),
            "{metrics}"
        );
        for change in 0..3 {
            client.put(put("a", &change.to_string())).await.unwrap();
            let first = events(&mut watchers[0], 1).await;
            for watcher in &mut watchers[1..] {
                assert_eq!(events(watcher, 1).await, first);
            }
        }
        let saved = page(client.endpoints()[0].parse().unwrap(), "/proxy/metrics").await;
        for (name, value) in [("watchers", WATCHERS - 1), ("events", 3 * (WATCHERS - 1))] {
            let line = format!("\netcd_grpc_proxy_{name}_coalescing_total {value}\n");
            assert!(saved.contains(&line), "{saved}");
        }
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_leaves_the_others_and_misses_nothing() {
    const CHANGES: usize = 600;
    for server in servers().await.into_iter().take(1) {
        let slow = start(config(&server)).await;
        let fast = Client::connect(Config::new(slow.endpoints())).await.unwrap();
        let (mut behind, mut ahead) = (
            slow.watch(watch("a")).await.unwrap(),
            fast.watch(watch("a")).await.unwrap(),
        );
        let writes = async {
            for change in 0..CHANGES {
                fast.put(put("a", &change.to_string())).await.unwrap();
            }
        };
        let ((), seen) = tokio::join!(writes, events(&mut ahead, CHANGES));
        assert_eq!(events(&mut behind, CHANGES).await, seen);
    }
}

#[tokio::test]
async fn serializable_reads_are_answered_from_memory_until_something_is_changed_here() {
    for server in servers().await {
        let client = start(config(&server)).await;
        let direct = Client::connect(Config::new([server.endpoint()])).await.unwrap();
        let read = async || {
            let range = RangeRequest {
                serializable: true,
                ..get("a")
            };
            client.range(range).await.unwrap().kvs[0].value.clone()
        };
        client.put(put("a", "1")).await.unwrap();
        assert_eq!(read().await, "1");
        direct.put(put("a", "2")).await.unwrap();
        assert_eq!(read().await, "1", "what others change is not noticed");
        client.put(put("a", "3")).await.unwrap();
        assert_eq!(read().await, "3");
        let own = client.endpoints()[0].parse().unwrap();
        let metrics = page(own, "/proxy/metrics").await;
        assert!(
            metrics.contains("\netcd_grpc_proxy_cache_hits_total 1\n"),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn a_proxy_has_a_namespace_is_registered_and_tells_its_health() {
    for server in servers().await {
        let mut config = config(&server);
        config.cluster.namespace = "app/".into();
        config.advertised = Some(config.listen.clone());
        config.register = Some(Register {
            prefix: "proxies".into(),
            ttl_secs: 60,
        });
        let listen = config.listen.clone();
        let client = start(config).await;
        let direct = Client::connect(Config::new([server.endpoint()])).await.unwrap();
        client.put(put("a", "1")).await.unwrap();
        assert_eq!(direct.range(get("app/a")).await.unwrap().kvs.len(), 1);
        let members = client
            .member_list(MemberListRequest::default())
            .await
            .unwrap()
            .members;
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].client_ur_ls, std::slice::from_ref(&listen));
        let registered = format!("app/proxies/{listen}");
        while direct.range(get(&registered)).await.unwrap().kvs.is_empty() {
            tokio::task::yield_now().await;
        }
        let session = Session::new(&client, 60).await.unwrap();
        session.lock("l").await.unwrap().unlock().await.unwrap();
        for path in ["/health", "/proxy/health"] {
            let health = page(listen.parse().unwrap(), path).await;
            assert_eq!(health, "{\"health\":\"true\",\"reason\":\"\"}");
        }
        let metrics = page(listen.parse().unwrap(), "/metrics").await;
        assert!(metrics.contains("etcd_server_has_leader 1"));
    }
}

/// Users, and TLS at either side: members ask the proxy for a certificate, and the proxy asks its clients for one.
#[tokio::test]
async fn a_proxy_speaks_tls_to_both_sides_and_a_user_stays_who_it_is() {
    let Some(tools) = &*TOOLS else { return };
    for program in [&tools.ours, &tools.reference] {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::open(program, dir.path(), &["--client-cert-auth"])
            .await
            .unwrap();
        let settings = |name: &str| tls::Settings {
            identity: Some(tls::Identity {
                cert: dir.path().join(format!("{name}.pem")),
                key: dir.path().join(format!("{name}.key")),
            }),
            trust: tls::Trust::Authorities(dir.path().join("ca.pem")),
            requires_certificate: true,
            ..tls::Settings::default()
        };
        let behind = |certificate: &str| grpc_proxy::Config {
            cluster: Config {
                tls: Some(settings(certificate)),
                ..Config::new([format!("https://{}", gate.server.address())])
            },
            tls: Some(settings("member")),
            ..config(&gate.server)
        };
        let plain = Ports::next();
        let config = grpc_proxy::Config {
            listen_metrics: Some(format!("http://127.0.0.1:{plain}")),
            ..behind("nameless")
        };
        let listen = format!("https://{}", config.listen);
        let (ready, listens) = oneshot::channel();
        tokio::spawn(async { grpc_proxy::run(config, || ready.send(()).unwrap()).await.unwrap() });
        listens.await.unwrap();
        // Who scrapes metrics may do so in plain text if the URL says so.
        let metrics = page(([127, 0, 0, 1], plain).into(), "/metrics").await;
        assert!(metrics.contains("etcd_server_has_leader 1"), "{metrics}");

        let by = |certificate: Option<&str>, user: Option<&str>| Config {
            tls: Some(tls::Settings {
                identity: certificate.and_then(|name| settings(name).identity),
                ..settings("nameless")
            }),
            user: user.map(|name| User::Password {
                name: name.into(),
                password: "pw".into(),
            }),
            ..Config::new([&listen])
        };
        let keyed = Client::connect(by(Some("nameless"), Some("keyed")))
            .await
            .unwrap();
        keyed.put(put("k", "1")).await.unwrap();
        assert_eq!(keyed.range(get("k")).await.unwrap().kvs[0].value, "1");
        // Without a token it is the proxy's certificate that counts, which names nobody.
        let nobody = Client::connect(by(Some("named"), None)).await.unwrap();
        for (client, key) in [(&keyed, "f"), (&nobody, "k")] {
            let refusal = client.range(get(key)).await.unwrap_err();
            assert_eq!(refusal.to_string(), "etcdserver: permission denied");
        }
        // An answer that root got is not kept for others.
        let root = Client::connect(by(Some("nameless"), Some("root"))).await.unwrap();
        let kept = RangeRequest {
            serializable: true,
            ..get("f")
        };
        for _ in 0..2 {
            root.range(kept.clone()).await.unwrap();
        }
        keyed.range(kept).await.unwrap_err();
        assert!(Client::connect(by(None, Some("keyed"))).await.is_err());

        // One with a name would lend it to everybody.
        let refusal = grpc_proxy::run(behind("named"), || ()).await.unwrap_err();
        assert_eq!(refusal.to_string(), "cert has non empty Common Name (named)");
    }
}

/// What a proxy counts of a few calls: `name{labels} value`, but for what depends on the process.
async fn counted(client: &Client) -> Vec<String> {
    let range = RangeRequest {
        serializable: true,
        ..get("a")
    };
    let watches = [client.watch(watch("a")).await, client.watch(watch("a")).await];
    client.put(put("a", "1")).await.unwrap();
    for watcher in watches {
        assert_eq!(events(&mut watcher.unwrap(), 1).await.len(), 1);
    }
    for _ in 0..3 {
        client.range(range.clone()).await.unwrap();
    }
    client.put(put("", "1")).await.unwrap_err();
    client
        .lease_grant(LeaseGrantRequest { ttl: 60, id: 7 })
        .await
        .unwrap();
    client.keep_alive_once(7).await.unwrap();
    let at = client.endpoints()[0].parse().unwrap();
    page(at, "/health").await;
    let text = page(at, "/proxy/metrics").await;
    let ours = [
        "etcd_grpc_proxy_",
        "grpc_server_",
        "etcd_server_health_",
        "process_",
        "os_fd_",
    ];
    let is_counted = |line: &&str| ours.iter().any(|prefix| line.starts_with(prefix));
    let mut lines: Vec<_> = text.lines().filter(is_counted).map(str::to_owned).collect();
    for line in &mut lines {
        let depends = line.starts_with("process_") || line.starts_with("os_fd_");
        // How long streams take to end, and how many messages it takes to watch, is not the point.
        // Those who watch have gone, which takes a moment; theirs may count one too few then.
        let is_settling = line.starts_with("etcd_grpc_proxy_watchers");
        if depends || is_settling || line.contains("_stream\"") {
            line.truncate(line.rfind(' ').unwrap());
        }
    }
    // A stream ends sooner or later; calls with errors have other codes there.
    lines.retain(|line| !(line.starts_with("grpc_server_handled") && line.contains("_stream\"")));
    for code in ["\"Unknown\"", "\"InvalidArgument\""] {
        lines
            .iter_mut()
            .for_each(|line| *line = line.replace(code, "\"refused\""));
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn metrics_have_the_names_labels_and_values_of_etcds_own_proxy() {
    let Some(tools) = &*TOOLS else { return };
    let server = Server::start(&tools.reference, &[]).await.unwrap();
    let (_etcds, client) = Etcds::start(&server, &[]).await.unwrap();
    let theirs = counted(&client).await;
    let server = Server::start(&tools.ours, &[]).await.unwrap();
    let client = start(config(&server)).await;
    client.range(get("none")).await.unwrap();
    assert_eq!(counted(&client).await, theirs);
}

#[tokio::test]
async fn profiles_are_for_who_has_switched_them_on_and_not_at_the_address_for_metrics() {
    let Some(tools) = &*TOOLS else { return };
    let server = Server::start(&tools.ours, &[]).await.unwrap();
    let own =
        async |config: grpc_proxy::Config| start(config).await.endpoints()[0].parse::<SocketAddr>().unwrap();
    let ask =
        async |at: SocketAddr, method: &str, path: &str| http::request(at, method, path, "").await.unwrap();

    let without = own(config(&server)).await;
    assert_eq!(ask(without, "GET", "/debug/pprof/").await.status, "404 Not Found");

    let metrics = Ports::next();
    let with = own(grpc_proxy::Config {
        profiles: true,
        listen_metrics: Some(format!("http://127.0.0.1:{metrics}")),
        ..config(&server)
    })
    .await;
    let profile = ask(with, "GET", "/debug/pprof/profile?seconds=1").await;
    assert_eq!(profile.header("content-type"), Some("application/octet-stream"));
    assert!(profile.status == "200 OK" && !profile.body.is_empty());
    for (path, status) in [
        ("", "200 OK"),
        ("cmdline", "200 OK"),
        ("symbol", "200 OK"),
        ("heap", "404 Not Found"),
    ] {
        let page = ask(with, "GET", &format!("/debug/pprof/{path}")).await;
        assert_eq!(page.status, status, "{path}");
    }
    let metrics = SocketAddr::from(([127, 0, 0, 1], metrics));
    assert_eq!(ask(metrics, "GET", "/debug/pprof/").await.status, "404 Not Found");
    for path in ["/metrics", "/proxy/metrics", "/health"] {
        assert_eq!(ask(metrics, "GET", path).await.status, "200 OK", "{path}");
    }
    for path in ["/health", "/proxy/health"] {
        let refusal = ask(metrics, "POST", path).await;
        assert_eq!(
            (&*refusal.status, refusal.header("allow")),
            ("405 Method Not Allowed", Some("GET"))
        );
    }
}

/// Pings until the proxy has had enough of it, or has answered all of them.
async fn ping(at: SocketAddr, count: usize) -> Result<(), String> {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for _ in 0..count {
        bytes.extend([0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    socket.write_all(&bytes).await.unwrap();
    let mut answered = 0;
    while answered < count {
        let mut head = [0; 9];
        socket
            .read_exact(&mut head)
            .await
            .map_err(|error| error.to_string())?;
        let mut body = vec![0; usize::from(head[2])];
        socket
            .read_exact(&mut body)
            .await
            .map_err(|error| error.to_string())?;
        match head[3] {
            6 => answered += 1,
            // Its reason is behind the last stream and the code.
            7 => return Err(String::from_utf8_lossy(&body[8..]).into_owned()),
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn who_pings_too_often_is_cut_off_if_that_is_wanted() {
    let Some(tools) = &*TOOLS else { return };
    let server = Server::start(&tools.ours, &[]).await.unwrap();
    let patient = start(config(&server)).await;
    let strict = start(grpc_proxy::Config {
        ping_pause: Some(Duration::from_secs(60)),
        ..config(&server)
    })
    .await;
    let at = |client: &Client| client.endpoints()[0].parse().unwrap();
    assert_eq!(ping(at(&patient), 100).await, Ok(()));
    assert_eq!(ping(at(&strict), 100).await, Err("too_many_pings".into()));
}

/// Writes by either proxy, and after each both read the same. Theirs and ours share the keys by which they agree who
/// remembers what.
#[tokio::test]
async fn proxies_that_remember_what_they_own_agree_with_each_other_and_with_etcds_own() {
    const PREFIX: &str = "leasing/";
    for server in servers().await {
        let leasing = || grpc_proxy::Config {
            leasing_prefix: Some(PREFIX.into()),
            ..config(&server)
        };
        let (one, two) = (start(leasing()).await, start(leasing()).await);
        let flag = format!("--experimental-leasing-prefix={PREFIX}");
        let Some((_etcds, theirs)) = Etcds::start(&server, &[&flag]).await else {
            return;
        };
        let direct = Client::connect(Config::new([server.endpoint()])).await.unwrap();
        let read = async |client: &Client, key: &str| {
            let found = client.range(get(key)).await.unwrap().kvs;
            found.first().map(|kv| kv.value.clone())
        };
        let proxies = [&one, &two, &theirs];
        for (turn, owner) in proxies.into_iter().enumerate() {
            let keys = ["a", "b"].map(|key| format!("{turn}{key}"));
            for key in &keys {
                let inside = get(&format!("{PREFIX}{key}"));
                while direct.range(inside.clone()).await.unwrap().kvs.is_empty() {
                    read(owner, key).await;
                }
            }
            let all_read = async |expected: Option<&str>| {
                for (reader, key) in proxies
                    .iter()
                    .flat_map(|reader| keys.iter().map(move |key| (reader, key)))
                {
                    let found = read(reader, key).await;
                    assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{turn} {key}");
                }
            };
            for (step, writer) in proxies.into_iter().enumerate() {
                let value = format!("{turn} {step}");
                writer.put(put(&keys[0], &value)).await.unwrap();
                let puts = keys.each_ref().map(|key| RequestOp {
                    request: Some(request_op::Request::RequestPut(put(key, &value))),
                });
                let txn = TxnRequest {
                    success: puts.into(),
                    ..TxnRequest::default()
                };
                writer.txn(txn).await.unwrap();
                all_read(Some(&value)).await;
                let delete = DeleteRangeRequest {
                    key: keys[0].clone().into(),
                    range_end: format!("{turn}c").into(),
                    ..DeleteRangeRequest::default()
                };
                assert_eq!(writer.delete_range(delete).await.unwrap().deleted, 2);
                all_read(None).await;
            }
        }
    }
}

#[tokio::test]
async fn proxies_are_registered_where_etcds_own_are_and_list_each_other() {
    for server in servers().await {
        let flags = ["--resolver-prefix=proxies", "--resolver-ttl=60"];
        let Some((_etcds, theirs)) = Etcds::start(&server, &flags).await else {
            return;
        };
        let mut config = config(&server);
        config.advertised = Some(config.listen.clone());
        config.register = Some(Register {
            prefix: "proxies".into(),
            ttl_secs: 60,
        });
        let ours = start(config).await;
        let mut both = [ours.endpoints(), theirs.endpoints()].concat();
        both.sort();
        for client in [&ours, &theirs] {
            let listed = async || {
                let list = client
                    .member_list(MemberListRequest::default())
                    .await
                    .unwrap()
                    .members;
                let mut urls: Vec<_> = list.into_iter().flat_map(|member| member.client_ur_ls).collect();
                urls.sort();
                urls
            };
            // Theirs hears of it by and by.
            while listed().await != both {
                tokio::task::yield_now().await;
            }
        }
    }
}
