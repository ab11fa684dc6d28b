use std::net::UdpSocket;

use conformance::authority::{Authority, Record, host, pointer, weighted};

use super::*;

async fn authority(records: Vec<Record>) -> Authority {
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    Authority::start(loopback, records).await.unwrap()
}

/// A machine with these files, whose name servers are those.
fn machine(hosts: &str, resolv: &str, servers: &[SocketAddr]) -> Dns {
    Dns {
        servers: servers.into(),
        ..Dns::new(hosts.into(), resolv)
    }
}

async fn find(dns: &Dns, name: &str) -> Result<Vec<String>, String> {
    let found = dns.addresses(name, 1).await;
    found
        .map(|found| found.iter().map(|address| address.ip().to_string()).collect())
        .map_err(|error| error.to_string())
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[tokio::test]
async fn a_host_of_the_file_is_not_looked_for_elsewhere() {
    let authority = authority(vec![host("m1.", ip(9)), host("M2.", ip(9))]).await;
    let hosts =
        "# 127.0.0.8 m1\n127.0.0.1\tlocalhost m1 # m2\nfe80::1%lo m1\n  127.0.0.2 other M1.\nm1 127.0.0.3\n";
    let dns = machine(hosts, "", &[authority.address]);
    assert_eq!(find(&dns, "m1").await.unwrap(), ["127.0.0.1", "127.0.0.2"]);
    assert_eq!(find(&dns, "M1.").await.unwrap(), ["127.0.0.1", "127.0.0.2"]);
    assert_eq!(find(&dns, "m2").await.unwrap(), ["127.0.0.9"]);
}

#[tokio::test]
async fn an_address_is_its_own_and_this_machine_needs_no_file() {
    let dns = machine("", "", &[]);
    for address in ["127.0.0.7", "::1", "2001:db8::1"] {
        assert_eq!(find(&dns, address).await.unwrap(), [address]);
    }
    assert_eq!(find(&dns, "[::1]").await.unwrap(), ["::1"]);
    for name in ["localhost", "Localhost."] {
        let found = find(&dns, name).await.unwrap();
        assert!(found.contains(&"127.0.0.1".to_owned()), "{found:?}");
    }
}

#[tokio::test]
async fn both_families_are_found() {
    let records = vec![
        host("m.example.", ip(1)),
        host("m.example.", ip(2)),
        host("m.example.", "::1".parse().unwrap()),
        host("six.example.", "::1".parse().unwrap()),
    ];
    let authority = authority(records).await;
    let dns = Dns::at(authority.address);
    let mut found = find(&dns, "m.example").await.unwrap();
    found.sort();
    assert_eq!(found, ["127.0.0.1", "127.0.0.2", "::1"]);
    assert_eq!(find(&dns, "six.example").await.unwrap(), ["::1"]);
}

#[tokio::test]
async fn the_search_list_comes_before_a_name_with_few_dots_and_after_others() {
    let records = vec![
        host("m.", ip(1)),
        host("m.b.example.", ip(2)),
        host("m.b.", ip(3)),
        host("m.b.a.example.", ip(4)),
        host("only.b.example.", ip(5)),
    ];
    let authority = authority(records).await;
    let with = |resolv| machine("", resolv, &[authority.address]);
    for (resolv, name, address) in [
        ("search a.example b.example.", "m", "127.0.0.2"),
        ("search a.example b.example", "m.", "127.0.0.1"),
        ("search a.example b.example", "m.b", "127.0.0.3"),
        ("search a.example b.example\noptions ndots:2", "m.b", "127.0.0.4"),
        ("search a.example\ndomain b.example", "only", "127.0.0.5"),
        ("search .", "m", "127.0.0.1"),
        ("nonsense\nsearch\noptions ndots:x", "m", "127.0.0.1"),
    ] {
        let found = find(&with(resolv), name).await;
        assert_eq!(found.unwrap(), [address], "{resolv:?} {name}");
    }
    assert_eq!(
        find(&with("search a.example"), "only").await.unwrap_err(),
        "lookup only: no such host"
    );
}

#[tokio::test]
async fn what_is_no_name_leads_nowhere() {
    let authority = authority(vec![]).await;
    let dns = Dns::at(authority.address);
    let long = "a".repeat(64);
    for name in ["gone.example", "", "a..b", "ü.example", "fe80::1%nowhere", &long] {
        let error = find(&dns, name).await.unwrap_err();
        assert_eq!(error, format!("lookup {name}: no such host"));
    }
}

#[tokio::test]
async fn underscores_are_good_in_names_and_case_does_not_matter() {
    let authority = authority(vec![host("my_etcd_1.example.", ip(1))]).await;
    let dns = Dns::at(authority.address);
    assert_eq!(find(&dns, "My_Etcd_1.Example").await.unwrap(), ["127.0.0.1"]);
}

#[tokio::test]
async fn a_server_that_refuses_or_keeps_silent_is_followed_by_the_next() {
    let authority = authority(vec![host("m.example.", ip(1))]).await;
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closed = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap()
    };
    let silent = silent.local_addr().unwrap();
    let dns = machine("", "", &[closed, silent, authority.address]);
    assert_eq!(find(&dns, "m.example").await.unwrap(), ["127.0.0.1"]);
    // The first one that can say anything is believed.
    assert_eq!(
        find(&dns, "gone.example").await.unwrap_err(),
        "lookup gone.example: no such host"
    );
}

#[tokio::test]
async fn a_lookup_ends_though_no_server_answers() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dns = Dns {
        timeout: Duration::from_millis(10),
        ..Dns::at(socket.local_addr().unwrap())
    };
    assert_eq!(
        find(&dns, "m.example").await.unwrap_err(),
        "lookup m.example: no name server answers in time"
    );
}

#[tokio::test]
async fn an_address_has_the_names_of_the_file_or_else_those_of_the_dns() {
    let [one, two, six] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let records = vec![
        pointer(one, "dns-1.example."),
        pointer(two, "dns-2.example."),
        pointer(six, "dns-6.example."),
    ];
    let authority = authority(records).await;
    let dns = machine("192.0.2.1 a b.example.\n192.0.2.1 c", "", &[authority.address]);
    assert_eq!(dns.names(one).await.unwrap(), ["a", "b.example", "c"]);
    assert_eq!(dns.names(two).await.unwrap(), ["dns-2.example"]);
    assert_eq!(dns.names(six).await.unwrap(), ["dns-6.example"]);
    let unknown = dns.names(ip(200)).await;
    assert!(unknown.is_ok_and(|names| names == ["localhost"]));
    assert_eq!(
        dns.names("192.0.2.3".parse().unwrap()).await.unwrap_err().problem,
        Problem::NoSuchHost
    );
}

#[tokio::test]
async fn a_service_is_where_its_records_say() {
    let name = "_etcd-client._tcp.example.com.";
    let authority = authority(vec![weighted(name, (1, 2), "m1.example.com.", 2379)]).await;
    let dns = machine("", "search example.com", &[authority.address]);
    let expected = Service {
        priority: 1,
        host: "m1.example.com".into(),
        port: 2379,
        weight: 2,
    };
    for name in ["_etcd-client._tcp.example.com", "_etcd-client._tcp"] {
        assert_eq!(
            dns.services(name).await.as_deref(),
            Ok(std::slice::from_ref(&expected))
        );
    }
}

#[test]
fn a_machine_without_settings_asks_itself() {
    let servers = |resolv: &str| -> Vec<_> {
        Dns::new(String::new(), resolv)
            .servers
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(servers(""), ["127.0.0.1:53", "[::1]:53"]);
    let greedy = Dns::new(
        String::new(),
        "options attempts:4000000000 timeout:4000000000 ndots:4000000000",
    );
    assert_eq!((greedy.attempts, greedy.timeout), (5, Duration::from_secs(30)));
    assert_eq!(servers("search example.com"), ["127.0.0.1:53", "[::1]:53"]);
    let four = "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver x\nnameserver 10.0.0.2\nnameserver 10.0.0.3";
    assert_eq!(servers(four), ["10.0.0.1:53", "[fe80::1]:53", "10.0.0.2:53"]);
}

#[tokio::test]
async fn a_server_where_nobody_listens_is_heard_of_at_once() {
    let closed = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap()
    };
    // It would be waited for all day.
    let dns = Dns {
        timeout: Duration::from_secs(86_400),
        attempts: 1,
        ..Dns::at(closed)
    };
    let error = find(&dns, "m.example").await.unwrap_err();
    let expected = format!("lookup m.example: name server {closed}: it cannot be reached");
    assert_eq!(error, expected);
}
