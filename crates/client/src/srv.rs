//! Where the members of a cluster are, by the SRV records of a domain.
//!
//! ```text
//! _etcd-client-ssl._tcp.example.com.  SRV  0 0 2379 m1.example.com.     https://m1.example.com:2379
//! _etcd-client._tcp.example.com.      SRV  0 0 2379 m2.example.com.     http://m2.example.com:2379
//! ```
//!
//! Both services are asked for, and what is found is put together; one that is not there is no error. With a name `x` the
//! services are `etcd-client-ssl-x` and `etcd-client-x`. A domain without a dot at its end is also looked for in the search
//! list of this machine. Whether to believe what is found is for the caller to say: anybody can make up a record.
//!
//! Source: etcd's `client/pkg/srv`. The records of members are another matter, that of crate `discovery`.

use names::{Dns, NameError};
use rand::Rng;
use thiserror::Error;

/// A member as a record names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name without the dot at its end, or an address.
    pub host: String,
    /// The port for clients.
    pub port: u16,
    /// Those of the lowest number come first; others are for when all of these are away.
    pub priority: u16,
    /// How often it is its turn, among those of its priority.
    pub weight: u16,
    /// Whether it speaks TLS.
    pub is_secure: bool,
}

impl Target {
    /// `host:port`.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// A URL, which is an endpoint for a [`crate::Config`].
    pub fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }
}

/// Why no member is known: neither service is there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("dns lookup errors: {secure} and {plain}")]
pub struct SrvError {
    /// What is wrong with the service with TLS.
    pub secure: String,
    /// And with the one without.
    pub plain: String,
}

/// The members that the records of a domain name, those with TLS first, each by priority. `name` is what comes after
/// the services' names, if anything.
pub async fn members(dns: &Dns, domain: &str, name: &str) -> Result<Vec<Target>, SrvError> {
    let (secure, plain) = tokio::join!(
        service(dns, domain, "etcd-client-ssl", name),
        service(dns, domain, "etcd-client", name)
    );
    if let (Err(secure), Err(plain)) = (&secure, &plain) {
        let (secure, plain) = (secure.to_string(), plain.to_string());
        return Err(SrvError { secure, plain });
    }
    let secure = secure.into_iter().flatten().map(|target| Target {
        is_secure: true,
        ..target
    });
    Ok(secure.chain(plain.into_iter().flatten()).collect())
}

async fn service(dns: &Dns, domain: &str, service: &str, name: &str) -> Result<Vec<Target>, NameError> {
    let hyphen = if name.is_empty() { "" } else { "-" };
    let found = dns
        .services(&format!("_{service}{hyphen}{name}._tcp.{domain}"))
        .await?;
    let target = |found: names::Service| Target {
        host: found.host,
        port: found.port,
        priority: found.priority,
        weight: found.weight,
        is_secure: false,
    };
    let mut targets: Vec<_> = found.into_iter().map(target).collect();
    in_turn(&mut targets, &mut rand::rng());
    Ok(targets)
}

/// By priority, and within one by chance, so that not everybody begins with the same member.
fn in_turn(targets: &mut [Target], chance: &mut impl Rng) {
    targets.sort_by_cached_key(|target| (target.priority, chance.random::<u32>()));
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use conformance::authority::{Authority, Record, weighted};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const SSL: &str = "_etcd-client-ssl._tcp.example.com.";
    const PLAIN: &str = "_etcd-client._tcp.example.com.";

    /// Asks a server on loopback that knows these records.
    async fn ask(records: Vec<Record>, name: &str) -> Result<Vec<String>, String> {
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let authority = Authority::start(loopback, records).await.unwrap();
        let found = members(&Dns::at(authority.address), "example.com", name).await;
        let show = |target: &Target| format!("{} {} {}", target.url(), target.priority, target.weight);
        found
            .map(|found| found.iter().map(show).collect())
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn both_services_are_put_together_by_priority_and_one_is_enough() {
        let secure = vec![
            weighted(SSL, (2, 5), "m1.example.com.", 2379),
            weighted(SSL, (1, 0), "m2.example.com.", 2379),
        ];
        let plain = vec![weighted(PLAIN, (0, 0), "m3.example.com.", 4001)];
        let of_tls = [
            "https://m2.example.com:2379 1 0",
            "https://m1.example.com:2379 2 5",
        ];
        assert_eq!(ask(secure.clone(), "").await.unwrap(), of_tls);
        let of_none = ["http://m3.example.com:4001 0 0"];
        assert_eq!(ask(plain.clone(), "").await.unwrap(), of_none);
        assert_eq!(
            ask([plain, secure].concat(), "").await.unwrap(),
            [&of_tls[..], &of_none].concat()
        );
    }

    #[tokio::test]
    async fn only_if_neither_is_there_it_is_said_of_both() {
        let error = ask(vec![], "").await.unwrap_err();
        assert_eq!(
            error,
            "dns lookup errors: lookup _etcd-client-ssl._tcp.example.com: no such host and \
             lookup _etcd-client._tcp.example.com: no such host"
        );
    }

    #[tokio::test]
    async fn services_have_a_name_behind_a_hyphen_if_one_is_given() {
        let named = "_etcd-client-ssl-blue._tcp.example.com.";
        let records = vec![
            weighted(named, (0, 0), "blue.example.com.", 1),
            weighted(SSL, (0, 0), "green.example.com.", 1),
        ];
        let found = ask(records.clone(), "blue").await.unwrap();
        assert_eq!(found, ["https://blue.example.com:1 0 0"]);
        assert_eq!(
            ask(records, "").await.unwrap(),
            ["https://green.example.com:1 0 0"]
        );
    }

    #[test]
    fn members_of_one_priority_come_in_every_order() {
        let target = |port: u16| Target {
            host: "m".into(),
            port,
            priority: port / 10,
            weight: 0,
            is_secure: false,
        };
        let mut chance = StdRng::seed_from_u64(7);
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut targets = [20, 11, 10].map(target);
            in_turn(&mut targets, &mut chance);
            orders.insert(targets.map(|target| target.port));
        }
        assert_eq!(Vec::from_iter(orders), [[10, 11, 20], [11, 10, 20]]);
    }

    #[test]
    fn an_address_of_version_6_is_in_brackets() {
        let target = Target {
            host: "::1".into(),
            port: 1,
            priority: 0,
            weight: 0,
            is_secure: true,
        };
        assert_eq!(target.url(), "https://[::1]:1");
    }
}
