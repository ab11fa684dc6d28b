//! Names in the file of hosts and in the DNS.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use resolv_conf::Config;

use crate::dial::race;
use crate::sockets::Sockets;
use crate::{NameError, Problem, literal, order, source};

/// Where name servers listen.
const PORT: u16 = 53;

/// Servers of `resolv.conf` beyond these are passed over, as everywhere.
const SERVERS_MAX: usize = 3;

/// The most that is made of `attempts` and `timeout`, as in the C library.
const ATTEMPTS_MAX: u32 = 5;
const TIMEOUT_SECS_MAX: u32 = 30;

/// How long a server is waited for before the next one is asked too, whose answer then counts if it is faster. Go and the C
/// library wait for the whole timeout, five seconds, which is as long as a dial may take.
const HEAD_START: Duration = Duration::from_secs(1);

/// Where names are looked up.
#[derive(Clone, Debug)]
pub struct Dns {
    /// A file of hosts: on each line an address and the names that lead there.
    hosts: String,
    /// In the order in which they are asked.
    servers: Vec<SocketAddr>,
    /// How often each may be asked, and how long it may take to answer.
    attempts: usize,
    timeout: Duration,
    /// Domains that names are looked for in, and how many dots make a name one that is looked for as it is first.
    search: Vec<String>,
    ndots: usize,
}

/// Where a service is, by one of its SRV records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Those of the lowest number come first.
    pub priority: u16,
    /// A name without the dot at its end, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How often it is its turn, among those of its priority.
    pub weight: u16,
}

impl Dns {
    /// As this machine has it set up, now.
    pub fn system() -> Self {
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let dns = Dns::new(read("/etc/hosts"), &read("/etc/resolv.conf"));
        match dns.search.is_empty() {
            // As everywhere, the domain of the machine's own name.
            true => Dns {
                search: Config::new().get_system_domain().into_iter().collect(),
                ..dns
            },
            false => dns,
        }
    }

    /// With these texts of `/etc/hosts` and `/etc/resolv.conf`. One that is not there is as good as an empty one; a name
    /// server that is not named is on this machine.
    pub fn new(hosts: String, resolv: &str) -> Self {
        // What is wrong with a line does no harm to others.
        let (config, _) = Config::parse_with_errors(resolv.as_bytes());
        let servers = config.get_nameservers_or_local().into_iter();
        let search = config.get_last_search_or_domain();
        let search = search.map(|domain| domain.trim_matches('.').to_owned());
        Dns {
            hosts,
            servers: servers
                .take(SERVERS_MAX)
                .map(|server| SocketAddr::new(server.into(), PORT))
                .collect(),
            attempts: config.attempts.clamp(1, ATTEMPTS_MAX) as usize,
            timeout: Duration::from_secs(config.timeout.clamp(1, TIMEOUT_SECS_MAX).into()),
            search: search.filter(|domain| !domain.is_empty()).collect(),
            ndots: config.ndots as usize,
        }
    }

    /// One server, and nothing else.
    pub fn at(server: SocketAddr) -> Self {
        Dns {
            servers: vec![server],
            ..Dns::new(String::new(), "")
        }
    }

    /// Where a host is: [`crate::addresses`].
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
        if let Some(address) = literal(host, port) {
            return Ok(vec![address]);
        }
        let mut found = self.in_hosts(host);
        if found.is_empty() {
            found = match is_localhost(host) {
                true => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
                false => self.in_dns(host).await?,
            };
        }
        order::sort(&mut found, source);
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// The names of an address, without the dots at their ends.
    pub async fn names(&self, address: IpAddr) -> Result<Vec<String>, NameError> {
        let named = self.entries().filter(|(ip, _)| *ip == address);
        let names: Vec<_> = named.map(|(_, name)| without_dot(name)).collect();
        if !names.is_empty() {
            return Ok(names);
        }
        let records = self
            .ask(&Name::from(address).to_ascii(), &[RecordType::PTR])
            .await?;
        let name = |record| match record {
            RData::PTR(name) => Some(without_dot(&name.to_ascii())),
            _ => None,
        };
        Ok(records.into_iter().filter_map(name).collect())
    }

    /// Where a service is, such as `_etcd-client._tcp.example.com`: in no particular order.
    pub async fn services(&self, name: &str) -> Result<Vec<Service>, NameError> {
        let records = self.ask(name, &[RecordType::SRV]).await?;
        let service = |record| match record {
            RData::SRV(srv) => Some(Service {
                priority: srv.priority,
                host: without_dot(&srv.target.to_ascii()),
                port: srv.port,
                weight: srv.weight,
            }),
            _ => None,
        };
        Ok(records.into_iter().filter_map(service).collect())
    }

    fn in_hosts(&self, host: &str) -> Vec<IpAddr> {
        let host = without_dot(host);
        let entries = self.entries();
        entries
            .filter(|(_, name)| without_dot(name).eq_ignore_ascii_case(&host))
            .map(|(ip, _)| ip)
            .collect()
    }

    /// The file of hosts, name by name. It may be long, and is asked for one name only; so no table is made of it.
    fn entries(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.hosts.lines().flat_map(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let ip: Option<IpAddr> = words.next().and_then(|ip| ip.parse().ok());
            words.filter_map(move |name| Some((ip?, name)))
        })
    }

    async fn in_dns(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let records = self.ask(host, &[RecordType::AAAA, RecordType::A]).await?;
        Ok(records.iter().filter_map(RData::ip_addr).collect())
    }

    /// The records of a name, or of the first that the search list makes of it which has any: at least one.
    async fn ask(&self, name: &str, kinds: &[RecordType]) -> Result<Vec<RData>, NameError> {
        let mut problem = Problem::NoSuchHost;
        // What is no name of the DNS has no records.
        for full in self
            .full_names(name)
            .filter_map(|full| Name::from_ascii(full).ok())
        {
            match self.records(&full, kinds).await {
                Ok(records) => return Ok(records),
                Err(of_this) if problem == Problem::NoSuchHost => problem = of_this,
                Err(_) => {}
            }
        }
        Err(NameError {
            name: name.to_owned(),
            problem,
        })
    }

    /// What a name may stand for, in the order to try.
    fn full_names(&self, name: &str) -> impl Iterator<Item = String> {
        let (is_full, dots) = (name.ends_with('.'), name.matches('.').count());
        let itself = match is_full {
            true => name.to_owned(),
            false => format!("{name}."),
        };
        let search = if is_full { &[] } else { &self.search[..] };
        let searched = search.iter().map(|domain| format!("{itself}{domain}."));
        let mut names: Vec<_> = searched.collect();
        let place = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(place, itself.clone());
        names.into_iter()
    }

    /// The records of some kinds. It is enough if there are some of one kind, whatever is wrong with the others.
    async fn records(&self, name: &Name, kinds: &[RecordType]) -> Result<Vec<RData>, Problem> {
        let answers = join_all(kinds.iter().copied().map(|kind| self.of_kind(name, kind))).await;
        let (answered, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        let records: Vec<_> = answered.into_iter().flatten().flatten().collect();
        match records.is_empty() {
            false => Ok(records),
            true => Err(failed
                .into_iter()
                .find_map(Result::err)
                .unwrap_or(Problem::NoSuchHost)),
        }
    }

    /// What the first server says that can say anything, be it that there is nothing.
    async fn of_kind(&self, name: &Name, kind: RecordType) -> Result<Vec<RData>, Problem> {
        let servers = self.servers.repeat(self.attempts).into_iter();
        let questions = servers.map(|server| self.question(server, name.clone(), kind));
        race(questions, HEAD_START).await.unwrap_or(Err(Problem::Silence))
    }

    async fn question(
        &self,
        server: SocketAddr,
        name: Name,
        kind: RecordType,
    ) -> Result<Vec<RData>, Problem> {
        let says = |says: String| Problem::Server { server, says };
        let resolver = self.resolver(server).map_err(|error| says(error.to_string()))?;
        match resolver.lookup(name, kind).await {
            Ok(found) => {
                let records = found.answers().iter();
                let of_kind = records.filter(|record| record.record_type() == kind);
                Ok(of_kind.map(|record| record.data.clone()).collect())
            }
            Err(error) if error.is_no_records_found() => Ok(vec![]),
            Err(NetError::Timeout) => Err(Problem::Silence),
            // Whatever the system said.
            Err(NetError::NoConnections) => Err(says("it cannot be reached".into())),
            Err(error) => Err(says(error.to_string())),
        }
    }

    /// Asks this server alone, once: by UDP, and again by TCP if the answer is long.
    fn resolver(&self, server: SocketAddr) -> Result<Resolver<Sockets>, NetError> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        let server = NameServerConfig::new(server.ip(), true, connections.into());
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = Resolver::builder_with_config(config, Sockets::default());
        let options = builder.options_mut();
        options.attempts = 0;
        options.timeout = self.timeout;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        builder.build()
    }
}

fn without_dot(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

/// A name that leads to this machine even if nobody has written that down (RFC 6761).
fn is_localhost(host: &str) -> bool {
    without_dot(host).eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests;
