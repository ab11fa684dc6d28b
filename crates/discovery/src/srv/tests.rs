use std::net::Ipv4Addr;

use conformance::authority::{Authority, Record, host, service};

use super::*;

const SSL: &str = "_etcd-server-ssl._tcp.example.com.";
const PLAIN: &str = "_etcd-server._tcp.example.com.";

fn hosts() -> Vec<Record> {
    let address = |last| Ipv4Addr::new(10, 0, 0, last).into();
    vec![
        host("1.example.com.", address(1)),
        host("2.example.com.", address(2)),
        host("3.example.com.", address(3)),
        host("4.example.com.", address(3)),
    ]
}

fn services(name: &str) -> Vec<Record> {
    let members = ["1.example.com.", "2.example.com.", "3.example.com."];
    members.map(|member| service(name, 0, member, 2480)).into()
}

fn query(advertised: &[(Scheme, &str, u16)]) -> Query {
    let place = |(scheme, host, port): &(Scheme, &str, u16)| Place {
        scheme: *scheme,
        host: (*host).to_owned(),
        port: *port,
    };
    Query {
        domain: "example.com".into(),
        service_name: String::new(),
        name: "me".into(),
        advertised: advertised.iter().map(place).collect(),
    }
}

/// Asks a server on loopback that knows the hosts and `records`.
async fn ask(records: Vec<Record>, query: &Query) -> Result<String, SrvError> {
    let records = [hosts(), records].concat();
    let authority = Authority::start((Ipv4Addr::LOCALHOST, 0).into(), records)
        .await
        .unwrap();
    initial_cluster(&Dns::at(authority.address), query).await
}

/// The answers are those of etcd's own test for the same records; where it finds a cluster without the asker in
/// it, it refuses that one step later.
#[tokio::test]
async fn members_are_named_by_the_service_and_the_asker_by_its_address() {
    let own = [(Scheme::Https, "10.0.0.1", 2480)];
    assert_eq!(
        ask(services(SSL), &query(&own)).await.unwrap(),
        "me=https://1.example.com:2480,0=https://2.example.com:2480,1=https://3.example.com:2480"
    );
    let by_name = [(Scheme::Https, "2.example.com", 2480)];
    assert_eq!(
        ask(services(SSL), &query(&by_name)).await.unwrap(),
        "0=https://1.example.com:2480,me=https://2.example.com:2480,1=https://3.example.com:2480"
    );
    let plain = [(Scheme::Http, "10.0.0.1", 2480)];
    assert_eq!(
        ask(services(PLAIN), &query(&plain)).await.unwrap(),
        "me=http://1.example.com:2480,0=http://2.example.com:2480,1=http://3.example.com:2480"
    );
    let nobody = ask(services(PLAIN), &query(&[])).await.unwrap_err();
    assert_eq!(
        nobody.to_string(),
        "cannot find local etcd member \"me\" in SRV records"
    );
}

#[tokio::test]
async fn an_address_with_another_port_or_scheme_is_not_the_askers() {
    let other_port = [(Scheme::Https, "10.0.0.1", 2379)];
    let missing = SrvError::LocalNameMissing("me".into());
    assert_eq!(
        ask(services(SSL), &query(&other_port)).await,
        Err(missing.clone())
    );
    let other_scheme = [(Scheme::Https, "10.0.0.1", 2480)];
    assert_eq!(ask(services(PLAIN), &query(&other_scheme)).await, Err(missing));
    let alone = vec![service(PLAIN, 0, "1.example.com.", 2480)];
    let refusal = ask(alone, &query(&other_scheme)).await.unwrap_err().to_string();
    assert!(
        refusal.contains(
            "bootstrap at http://1.example.com:2480 from DNS for etcd-server has scheme mismatch with expected peer https://"
        ),
        "{refusal}"
    );
}

#[tokio::test]
async fn both_services_are_put_together_and_each_counts_from_zero() {
    let records = vec![
        service(SSL, 2, "1.example.com.", 2480),
        service(SSL, 1, "2.example.com.", 2480),
        service(PLAIN, 0, "3.example.com.", 2380),
    ];
    let own = [(Scheme::Http, "4.example.com", 2380)];
    assert_eq!(
        ask(records, &query(&own)).await.unwrap(),
        "0=https://2.example.com:2480,1=https://1.example.com:2480,me=http://3.example.com:2380",
        "lower priorities come first"
    );
}

#[tokio::test]
async fn services_have_a_suffix_if_one_is_given() {
    let records = services("_etcd-server-ssl-x._tcp.example.com.");
    let mut query = query(&[(Scheme::Https, "10.0.0.3", 2480)]);
    assert!(ask(records.clone(), &query).await.is_err());
    query.service_name = "x".into();
    assert!(
        ask(records, &query)
            .await
            .unwrap()
            .ends_with("me=https://3.example.com:2480")
    );
}

#[tokio::test]
async fn what_the_dns_does_not_know_is_left_out_and_named_if_nothing_is_left() {
    let own = query(&[(Scheme::Http, "10.0.0.1", 2480)]);
    let gone = service(PLAIN, 0, "gone.example.com.", 2480);
    let some = [services(PLAIN), vec![gone.clone()]].concat();
    assert_eq!(ask(some, &own).await.unwrap().split(',').count(), 3);
    assert_eq!(
        ask(vec![gone], &own).await.unwrap_err().to_string(),
        "error querying DNS SRV records for _etcd-server-ssl lookup _etcd-server-ssl._tcp.example.com: no such host; \
         lookup gone.example.com: no such host"
    );
    let lost = query(&[(Scheme::Http, "gone.example.com", 2480)]);
    assert_eq!(
        ask(services(PLAIN), &lost).await.unwrap_err().to_string(),
        "cannot resolve an advertised peer URL: lookup gone.example.com: no such host"
    );
}
