//! Members from the SRV records of a domain.
//!
//! ```text
//! _etcd-server-ssl._tcp.example.com.  SRV  0 0 2380 m1.example.com.     https://m1.example.com:2380
//! _etcd-server._tcp.example.com.      SRV  0 0 2380 m2.example.com.     http://m2.example.com:2380
//! ```
//!
//! Both services are asked for, and what is found is put together; one that is not there is no error. With
//! `--discovery-srv-name=x` the services are `etcd-server-ssl-x` and `etcd-server-x`.
//!
//! A record has no member's name, so members see each other as `0`, `1`, ... (each service counts from 0) until
//! they tell their names. A member knows which record is its own by the address: one of those it advertises must resolve to one of
//! the record's. The URL keeps the record's host name, since ids are computed from its text.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;

use futures_util::future::join_all;
use names::{Dns, NameError, Service};
use thiserror::Error;
use tracing::{info, warn};

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Query {
    /// The domain that has the records.
    pub domain: String,
    /// What comes after the services' names, if anything.
    pub service_name: String,
    /// The name of the member that asks.
    pub name: String,
    /// Where that member can be reached.
    pub advertised: Vec<Place>,
}

/// A peer URL in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// How to connect.
    pub scheme: Scheme,
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What members speak. Each has a service of its own in the DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scheme {
    Https,
    Http,
}

/// Why the members are not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SrvError {
    /// The member itself can't be found.
    #[error("cannot resolve an advertised peer URL: {0}")]
    Advertised(NameError),
    /// Neither service has a member.
    #[error("{0}")]
    Nobody(String),
    /// There are members, and this is none of them.
    #[error("cannot find local etcd member {0:?} in SRV records")]
    LocalNameMissing(String),
}

/// Looks the members up. The answer is what `--initial-cluster` would say.
pub async fn initial_cluster(dns: &Dns, query: &Query) -> Result<String, SrvError> {
    let own = own_addresses(dns, &query.advertised).await?;
    let (mut members, mut problems) = (Vec::new(), Vec::new());
    for scheme in [Scheme::Https, Scheme::Http] {
        let service = scheme.service(&query.service_name);
        let mut listed = list(dns, scheme, &service, query, &own).await;
        info!(
            "service-scheme" = scheme.as_str(),
            "service-name" = service,
            "server-name" = query.name,
            "discovery-srv" = query.domain,
            "found-cluster" = show(&listed.members),
            error = listed.problem(),
            "get cluster for {service} SRV"
        );
        members.append(&mut listed.members);
        problems.append(&mut listed.problems);
    }
    if members.is_empty() {
        return Err(SrvError::Nobody(problems.join("; ")));
    }
    if members.iter().all(|(name, _)| *name != query.name) {
        return Err(SrvError::LocalNameMissing(query.name.clone()));
    }
    Ok(show(&members))
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }

    fn service(self, suffix: &str) -> String {
        let service = match self {
            Scheme::Https => "etcd-server-ssl",
            Scheme::Http => "etcd-server",
        };
        match suffix {
            "" => service.to_owned(),
            suffix => format!("{service}-{suffix}"),
        }
    }
}

/// The members of one service by name and URL, and what stood in the way of others.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    members: Vec<(String, String)>,
    problems: Vec<String>,
}

impl Listed {
    fn problem(&self) -> Option<String> {
        (!self.problems.is_empty()).then(|| self.problems.join("; "))
    }
}

async fn list(
    dns: &Dns,
    scheme: Scheme,
    service: &str,
    query: &Query,
    own: &HashMap<SocketAddr, Scheme>,
) -> Listed {
    let mut targets = match dns.services(&format!("_{service}._tcp.{}", query.domain)).await {
        Ok(targets) => targets,
        Err(problem) => {
            let problem = format!("error querying DNS SRV records for _{service} {problem}");
            return Listed {
                problems: vec![problem],
                ..Listed::default()
            };
        }
    };
    // In the order of their priorities.
    targets.sort();
    let resolved = targets.into_iter().map(|target| async {
        let addresses = dns.addresses(&target.host, target.port).await;
        (target, addresses)
    });
    let resolved = join_all(resolved).await;
    name_members(scheme, service, &query.name, own, resolved)
}

/// Gives names to the targets of a service. One that can't be resolved, or that is this member's address
/// with the other scheme, is left out.
fn name_members(
    scheme: Scheme,
    service: &str,
    own_name: &str,
    own: &HashMap<SocketAddr, Scheme>,
    targets: Vec<(Service, Result<Vec<SocketAddr>, NameError>)>,
) -> Listed {
    let mut listed = Listed::default();
    let mut strangers = (0..).map(|number: u32| number.to_string());
    for (target, addresses) in targets {
        let url = format!("{}://{}", scheme.as_str(), host_port(&target.host, target.port));
        let own_scheme = addresses.map(|found| found.iter().find_map(|address| own.get(address)));
        let name = match own_scheme {
            Err(problem) => Err(problem.to_string()),
            Ok(Some(own_scheme)) if *own_scheme != scheme => Err(format!(
                "bootstrap at {url} from DNS for {service} has scheme mismatch with expected peer {}://",
                own_scheme.as_str()
            )),
            Ok(Some(_)) => Ok(own_name.to_owned()),
            Ok(None) => Ok(strangers.next().unwrap_or_default()),
        };
        match name {
            Ok(name) => listed.members.push((name, url)),
            Err(problem) => {
                warn!(url, error = problem, "failed to resolve during SRV discovery");
                listed.problems.push(problem);
            }
        }
    }
    listed
}

/// The addresses of the member that asks, and what is spoken there.
async fn own_addresses(dns: &Dns, advertised: &[Place]) -> Result<HashMap<SocketAddr, Scheme>, SrvError> {
    let mut own = HashMap::new();
    for place in advertised {
        let addresses = dns.addresses(&place.host, place.port).await;
        let addresses = addresses.map_err(SrvError::Advertised)?;
        own.extend(addresses.into_iter().map(|address| (address, place.scheme)));
    }
    Ok(own)
}

fn host_port(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn show(members: &[(String, String)]) -> String {
    let pairs: Vec<String> = members
        .iter()
        .map(|(name, url)| format!("{name}={url}"))
        .collect();
    pairs.join(",")
}
