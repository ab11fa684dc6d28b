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
        keep_alive_timeout: Duration::from_secs(20),
        keeps_order: true,
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

#[tokio::test]
async fn calls_are_answered_as_by_etcds_own_proxy() {
    let Some(tools) = &*TOOLS else {
        return;
    };
    let server = Server::start(&tools.reference, &[]).await.unwrap();
    let listen = format!("127.0.0.1:{}", Ports::next());
    let child = Command::new(&tools.reference)
        .args([
            "grpc-proxy",
            "start",
            "--endpoints",
            &server.endpoint(),
            "--listen-addr",
            &listen,
        ])
        .args(["--advertise-client-url", &listen])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _etcds = Etcds(child);
    let theirs = script(&Client::connect(Config::new([listen])).await.unwrap()).await;
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
        }
        let first = events(&mut watchers[0], 3).await;
        for watcher in &mut watchers[1..] {
            assert_eq!(events(watcher, 3).await, first);
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
        let config = behind("nameless");
        let listen = format!("https://{}", config.listen);
        let (ready, listens) = oneshot::channel();
        tokio::spawn(async { grpc_proxy::run(config, || ready.send(()).unwrap()).await.unwrap() });
        listens.await.unwrap();

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
