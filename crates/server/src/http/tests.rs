//! Answers as they were read off a running etcd, given by a member that says what the test wants.

use http::Request;

use super::*;
use crate::config::NameSet;
use crate::config::tests::config;
use crate::listen::TlsClient;
use proto::etcdserverpb::AlarmType;

/// A member in the state that a test wants.
#[derive(Clone)]
pub(crate) struct Fake {
    alarms: Vec<AlarmType>,
    leader: bool,
    learner: bool,
    users: bool,
    serializable: Result<(), ErrorKind>,
    linearizable: Result<(), ErrorKind>,
}

/// One that is well.
pub(crate) const WELL: Fake = Fake {
    alarms: vec![],
    leader: true,
    learner: false,
    users: false,
    serializable: Ok(()),
    linearizable: Ok(()),
};

impl Vitals for Fake {
    fn alarms(&self) -> Vec<AlarmMember> {
        let alarm = |alarm: &AlarmType| AlarmMember {
            member_id: 1,
            alarm: (*alarm).into(),
        };
        self.alarms.iter().map(alarm).collect()
    }

    fn leader(&self) -> Option<MemberId> {
        self.leader.then_some(MemberId(1))
    }

    fn is_learner(&self) -> bool {
        self.learner
    }

    async fn probe(&self, linearizable: bool) -> Result<(), ErrorKind> {
        if linearizable {
            self.linearizable
        } else {
            self.serializable
        }
    }

    fn cluster_version(&self) -> Option<String> {
        self.leader.then(|| "3.7.0".into())
    }

    fn storage_version(&self) -> Option<String> {
        self.leader.then(|| "3.7.0".into())
    }

    fn has_users(&self) -> bool {
        self.users
    }

    async fn raft_status(&self) -> Option<RaftStatus> {
        Some(RaftStatus {
            id: "1".into(),
            state: "StateLeader",
            ..Default::default()
        })
    }
}

fn site(port: Port, member: Fake) -> Site<Fake> {
    let config = config();
    Site::new(port, member, Arc::new(Metrics::new(&config)), &config)
}

async fn ask(site: &Site<Fake>, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    site.answer(&request.body(()).unwrap().into_parts().0).await
}

async fn get(port: Port, member: Fake, target: &str) -> (u16, String) {
    shown(ask(&site(port, member), "GET", target, &[]).await)
}

fn shown(answer: Answer) -> (u16, String) {
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().to_vec()).unwrap())
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

fn ok(body: &str) -> (u16, String) {
    (200, body.into())
}

fn bad(body: &str) -> (u16, String) {
    (503, body.into())
}

#[tokio::test(flavor = "current_thread")]
async fn the_version_is_told_on_client_and_peer_ports() {
    let decided = ok("{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}");
    assert_eq!(get(Port::Client, WELL, "/version").await, decided);
    assert_eq!(get(Port::Peer, WELL, "/version").await, decided);
    assert_eq!(get(Port::Metrics, WELL, "/version").await.0, 404);
    let early = ok("{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\"}");
    assert_eq!(
        get(
            Port::Client,
            Fake {
                leader: false,
                ..WELL
            },
            "/version"
        )
        .await,
        early
    );
    let answer = ask(&site(Port::Client, WELL), "GET", "/version", &[]).await;
    assert_eq!(header(&answer, "content-type"), "application/json");
}

#[tokio::test(flavor = "current_thread")]
async fn ports_serve_what_is_theirs() {
    for target in ["/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(get(Port::Client, WELL, target).await.0, 200, "{target}");
        assert_eq!(get(Port::Metrics, WELL, target).await.0, 200, "{target}");
        assert_eq!(get(Port::Peer, WELL, target).await.0, 404, "{target}");
    }
    for target in [
        "/",
        "/nope",
        "/v2/keys",
        "/health/",
        "/readyz/nope",
        "/livez/non_learner",
        "/livez/",
    ] {
        assert_eq!(
            get(Port::Client, WELL, target).await,
            (404, "404 page not found\n".into()),
            "{target}"
        );
    }
    let answer = ask(&site(Port::Metrics, WELL), "GET", "/nope", &[]).await;
    assert_eq!(header(&answer, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
}

#[tokio::test(flavor = "current_thread")]
async fn only_get_is_a_method_here() {
    let site = site(Port::Client, WELL);
    for (method, target) in [
        ("POST", "/version"),
        ("HEAD", "/health"),
        ("PUT", "/livez"),
        ("POST", "/readyz/non_learner"),
    ] {
        let answer = ask(&site, method, target, &[]).await;
        assert_eq!(header(&answer, "allow"), "GET");
        assert_eq!(
            shown(answer),
            (405, "Method Not Allowed\n".into()),
            "{method} {target}"
        );
    }
    assert_eq!(ask(&site, "POST", "/metrics", &[]).await.status(), 200);
}

#[tokio::test(flavor = "current_thread")]
async fn health_names_the_first_reason_against_it() {
    assert_eq!(
        get(Port::Metrics, WELL, "/health").await,
        ok("{\"health\":\"true\",\"reason\":\"\"}")
    );
    let full = Fake {
        alarms: vec![AlarmType::Nospace],
        ..WELL
    };
    let no_space = bad("{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n");
    assert_eq!(get(Port::Client, full.clone(), "/health").await, no_space);
    assert_eq!(
        get(Port::Client, full.clone(), "/health?exclude=CORRUPT").await,
        no_space
    );
    assert_eq!(
        get(
            Port::Client,
            full.clone(),
            "/health?exclude=x&exclude=NOSPACE&serializable=true"
        )
        .await
        .0,
        200
    );
    let both = Fake {
        alarms: vec![AlarmType::Nospace, AlarmType::Corrupt],
        ..WELL
    };
    let corrupt = bad("{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n");
    assert_eq!(get(Port::Client, both, "/health?exclude=NOSPACE").await, corrupt);
}

#[tokio::test(flavor = "current_thread")]
async fn health_without_a_leader_is_good_only_for_serializable_reads() {
    let lone = Fake {
        leader: false,
        linearizable: Err(ErrorKind::NoLeader),
        ..WELL
    };
    let no_leader = bad("{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n");
    assert_eq!(get(Port::Client, lone.clone(), "/health").await, no_leader);
    assert_eq!(
        get(Port::Client, lone.clone(), "/health?serializable=1").await,
        no_leader
    );
    assert_eq!(get(Port::Client, lone, "/health?serializable=true").await.0, 200);
    let slow = Fake {
        linearizable: Err(ErrorKind::Timeout),
        ..WELL
    };
    let timeout = bad("{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: request timed out\"}\n");
    assert_eq!(get(Port::Client, slow, "/health").await, timeout);
}

#[tokio::test(flavor = "current_thread")]
async fn checks_that_pass_say_ok_and_more_when_asked() {
    assert_eq!(get(Port::Metrics, WELL, "/livez").await, ok("ok\n"));
    assert_eq!(
        get(Port::Metrics, WELL, "/livez?verbose").await,
        ok("[+]serializable_read ok\nok\n")
    );
    assert_eq!(
        get(Port::Metrics, WELL, "/readyz?verbose=").await,
        ok(
            "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"
        )
    );
    assert_eq!(
        get(Port::Client, WELL, "/readyz/linearizable_read").await,
        ok("ok\n")
    );
    assert_eq!(
        get(Port::Client, WELL, "/livez?verbose&exclude=serializable_read").await,
        ok("ok\n")
    );
}

#[tokio::test(flavor = "current_thread")]
async fn checks_that_fail_say_which_and_why() {
    let ill = Fake {
        alarms: vec![AlarmType::Corrupt],
        learner: true,
        linearizable: Err(ErrorKind::NoLeader),
        ..WELL
    };
    assert_eq!(
        get(Port::Metrics, ill.clone(), "/readyz").await,
        bad(
            "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
             [-]linearizable_read failed: etcdserver: no leader\n\
             [-]non_learner failed: not supported for learner\n\n"
        )
    );
    let excluding =
        "/readyz?exclude=data_corruption&exclude=linearizable_read&exclude=non_learner&exclude=nope";
    assert_eq!(get(Port::Metrics, ill.clone(), excluding).await, ok("ok\n"));
    assert_eq!(
        get(
            Port::Metrics,
            ill.clone(),
            "/readyz/non_learner?exclude=non_learner"
        )
        .await,
        bad("[-]non_learner failed: not supported for learner\n\n")
    );
    assert_eq!(
        get(Port::Metrics, ill, "/livez").await,
        ok("ok\n"),
        "a restart would not help"
    );
    let full = Fake {
        alarms: vec![AlarmType::Nospace],
        ..WELL
    };
    assert_eq!(get(Port::Metrics, full, "/readyz").await, ok("ok\n"));
}

#[tokio::test(flavor = "current_thread")]
async fn results_are_counted() {
    let site = site(
        Port::Metrics,
        Fake {
            learner: true,
            ..WELL
        },
    );
    for target in ["/health", "/readyz", "/livez"] {
        ask(&site, "GET", target, &[]).await;
    }
    let (_, metrics) = shown(ask(&site, "GET", "/metrics", &[]).await);
    for line in [
        "etcd_server_health_success 1",
        "etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 0",
        "etcd_server_healthcheck{name=\"serializable_read\",type=\"livez\"} 1",
        "etcd_server_healthchecks_total{name=\"non_learner\",status=\"error\",type=\"readyz\"} 1",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn browsers_of_every_origin_are_admitted_by_default() {
    let client = site(Port::Client, WELL);
    for target in ["/version", "/nope"] {
        let answer = ask(&client, "GET", target, &[]).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), "*");
        assert_eq!(
            header(&answer, "access-control-allow-methods"),
            "POST, GET, OPTIONS, PUT, DELETE"
        );
        assert_eq!(
            header(&answer, "access-control-allow-headers"),
            "accept, content-type, authorization"
        );
    }
    assert_eq!(shown(ask(&client, "OPTIONS", "/any/path", &[]).await), ok(""));
    let metrics = ask(&site(Port::Metrics, WELL), "OPTIONS", "/health", &[]).await;
    assert_eq!(metrics.status(), 405);
    assert_eq!(header(&metrics, "access-control-allow-origin"), "");
}

#[tokio::test(flavor = "current_thread")]
async fn origins_and_hosts_can_be_listed() {
    let mut config = config();
    config.cors = NameSet::parse("http://x.com:80");
    config.host_whitelist = NameSet::parse("a,127.0.0.1");
    let site = Site::new(Port::Client, WELL, Arc::new(Metrics::new(&config)), &config);
    let known = ask(
        &site,
        "GET",
        "/version",
        &[("host", "a:33"), ("origin", "http://x.com:80")],
    )
    .await;
    assert_eq!(header(&known, "access-control-allow-origin"), "http://x.com:80");
    let stranger = ask(
        &site,
        "GET",
        "/version",
        &[("host", "127.0.0.1"), ("origin", "http://y.com")],
    )
    .await;
    assert_eq!(stranger.status(), 200);
    assert_eq!(header(&stranger, "access-control-allow-origin"), "");
    for headers in [&[("host", "evil.com:2379")][..], &[]] {
        let (status, body) = shown(ask(&site, "OPTIONS", "/", headers).await);
        assert_eq!(status, 421);
        assert!(body.contains("--host-whitelist"));
    }
}

/// A site where pages of one origin are welcome, and where certificates may be users.
fn guarded(member: Fake) -> Site<Fake> {
    let mut config = config();
    config.cors = NameSet::parse("http://good.example:80");
    config.host_whitelist = NameSet::parse("good.host,127.0.0.1");
    config.client_tls.asks_certificate = true;
    Site::new(Port::Client, member, Arc::new(Metrics::new(&config)), &config)
}

/// The status of a request's refusal before it reaches the gateway; 0 if it does.
fn refusal(site: &Site<Fake>, method: &str, headers: &[(&str, &str)], client: Option<TlsClient>) -> u16 {
    let mut request = Request::builder().method(method).uri("/v3/kv/put");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(()).unwrap().into_parts().0;
    if let Some(client) = client {
        request.extensions.insert(client);
    }
    site.refuse_json(&request)
        .map_or(0, |answer| answer.status().as_u16())
}

const HOST: (&str, &str) = ("host", "good.host:2379");

#[test]
fn what_a_page_of_a_foreign_origin_has_sent_does_not_reach_the_gateway() {
    let site = guarded(WELL);
    for (headers, expected) in [
        // As curl and every other caller that is no browser, whatever it calls its body.
        (&[HOST][..], 0),
        (&[HOST, ("content-type", "application/x-www-form-urlencoded")], 0),
        (&[HOST, ("content-type", "text/plain")], 0),
        (&[HOST, ("origin", "http://good.example:80")], 0),
        (&[HOST, ("origin", "http://good.host:2379")], 0),
        (&[HOST, ("sec-fetch-site", "same-origin")], 0),
        (&[HOST, ("sec-fetch-site", "none")], 0),
        (&[HOST, ("origin", "http://evil.example")], 403),
        (
            &[
                HOST,
                ("origin", "http://evil.example"),
                ("content-type", "application/json"),
            ],
            403,
        ),
        (
            &[
                HOST,
                ("origin", "http://evil.example"),
                ("sec-fetch-site", "same-origin"),
            ],
            403,
        ),
        (&[HOST, ("origin", "null")], 403),
        (&[HOST, ("origin", "")], 403),
        (&[HOST, ("sec-fetch-site", "cross-site")], 403),
    ] {
        assert_eq!(refusal(&site, "POST", headers, None), expected, "{headers:?}");
        // A websocket is opened by GET, and browsers let any page try.
        assert_eq!(refusal(&site, "GET", headers, None), expected, "{headers:?}");
    }
    let evil = [HOST, ("origin", "http://evil.example")];
    assert_eq!(refusal(&site, "OPTIONS", &evil, None), 200);
    // With `--cors` as it is by default, every origin is welcome.
    let open = self::site(Port::Client, WELL);
    assert_eq!(refusal(&open, "POST", &evil, None), 0);
}

#[test]
fn a_plain_request_for_a_foreign_host_does_not_reach_the_gateway() {
    let site = guarded(WELL);
    let evil = [("host", "evil.host:2379")];
    assert_eq!(refusal(&site, "POST", &evil, None), 421);
    assert_eq!(refusal(&site, "POST", &[("host", "127.0.0.1")], None), 0);
    assert_eq!(
        refusal(&site, "POST", &evil, Some(TlsClient { common_name: None })),
        0
    );
}

#[test]
fn a_certificate_that_names_a_user_is_refused_by_the_gateway_while_there_are_users() {
    let named = |name: &str| {
        Some(TlsClient {
            common_name: Some(name.into()),
        })
    };
    let with_users = Fake { users: true, ..WELL };
    let site = guarded(with_users.clone());
    assert_eq!(refusal(&site, "POST", &[HOST], named("root")), 400);
    assert_eq!(refusal(&site, "POST", &[HOST], named("")), 0);
    assert_eq!(
        refusal(&site, "POST", &[HOST], Some(TlsClient { common_name: None })),
        0
    );
    assert_eq!(refusal(&guarded(WELL), "POST", &[HOST], named("root")), 0);
    let unasked = self::site(Port::Client, with_users);
    assert_eq!(refusal(&unasked, "POST", &[HOST], named("root")), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_process_is_doing_is_told_at_the_client_port_alone() {
    let answer = ask(&site(Port::Client, WELL), "GET", "/debug/vars", &[]).await;
    assert_eq!(header(&answer, "content-type"), "application/json; charset=utf-8");
    let (_, body) = shown(answer);
    let vars: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&body).unwrap();
    let names: Vec<_> = vars.keys().collect();
    assert_eq!(
        names,
        ["cmdline", "file_descriptor_limit", "memstats", "raft.status"]
    );
    assert_eq!(vars["raft.status"]["raftState"], "StateLeader");
    let post = ask(&site(Port::Client, WELL), "POST", "/debug/vars", &[]).await;
    assert_eq!(post.status(), 405);
    for port in [Port::Metrics, Port::Peer] {
        assert_eq!(get(port, WELL, "/debug/vars").await.0, 404);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn profiles_are_for_who_has_switched_them_on() {
    assert_eq!(get(Port::Client, WELL, "/debug/pprof/").await.0, 404);
    let mut config = config();
    config.pprof = true;
    let site = Site::new(Port::Client, WELL, Arc::new(Metrics::new(&config)), &config);
    for (page, status, text) in [
        ("", 200, "href='profile?seconds=30'"),
        ("cmdline", 200, "server"),
        ("symbol", 200, "num_symbols: 0\n"),
        ("heap", 404, "it tells of Go's runtime"),
        ("nope", 404, "Unknown profile\n"),
    ] {
        let answer = shown(ask(&site, "GET", &format!("/debug/pprof/{page}"), &[]).await);
        assert_eq!(answer.0, status, "{page}");
        assert!(answer.1.contains(text), "{page}: {}", answer.1);
    }
    for page in ["/debug/requests", "/debug/events", "/debug/"] {
        assert_eq!(ask(&site, "GET", page, &[]).await.status(), 404, "{page}");
    }
}
