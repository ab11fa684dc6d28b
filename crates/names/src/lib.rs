//! Where a host is, and a connection to it: whatever is dialed or listened on by name is looked up here.
//!
//! The C library is not asked. It would load whatever the machine's `nsswitch.conf` names, which a static program can't,
//! and etcd does not ask it either: its programs are built without cgo, so that Go's own resolver answers. This one does
//! the same. [`Dns`] reads `/etc/hosts` and `/etc/resolv.conf`, and asks the servers that are named there. Both files
//! are read for every name, which takes some microseconds: what has moved is found at the next dial, and nothing has
//! to be kept or forgotten.
//!
//! What is found is in the order of RFC 6724 (module `order`), which knows the addresses that this machine can't
//! reach at all. They are dialed in turn, the families taking turns too, each with a head start on the next (RFC 8305):
//! a family or an address that swallows what is sent to it costs a fraction of a second, not a dial.
//!
//! Missing on purpose: `nsswitch.conf` with what it may name (mDNS, LDAP, names of containers), since etcd lacks it too; a
//! cache; name servers on link-local addresses; and other options of `resolv.conf` than `ndots`, `timeout` and `attempts`.

// Files of the system are read, and the network takes its time.
#![allow(clippy::disallowed_methods)]

pub mod blocking;
mod dial;
mod dns;
mod order;
mod sockets;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use thiserror::Error;

pub use dial::{connect, connect_from, reach};
pub use dns::{Dns, Service};

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("lookup {name}: {problem}")]
pub struct NameError {
    /// As it was asked for.
    pub name: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What stands between a name and its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// Neither the file of hosts nor the DNS knows it.
    #[error("no such host")]
    NoSuchHost,
    /// No name server has answered.
    #[error("no name server answers in time")]
    Silence,
    /// What the first name server says that says anything.
    #[error("name server {server}: {says}")]
    Server {
        /// Its address.
        server: SocketAddr,
        /// Its error.
        says: String,
    },
    /// This machine can't ask.
    #[error("{0}")]
    System(String),
}

impl From<NameError> for io::Error {
    fn from(error: NameError) -> Self {
        let kind = match error.problem {
            Problem::NoSuchHost => io::ErrorKind::NotFound,
            Problem::Silence => io::ErrorKind::TimedOut,
            Problem::Server { .. } | Problem::System(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Where `host` is, a name or an address with or without brackets: what to try first comes first. There is at least one.
pub async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
    match literal(host, port) {
        Some(address) => Ok(vec![address]),
        None => Dns::system().addresses(host, port).await,
    }
}

/// The one of a host's addresses to listen on: the first of IPv4, as in Go.
pub fn to_listen_on(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.or(addresses.first()).copied()
}

/// `host:port` in its two parts, an address without brackets.
pub fn split(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host.strip_prefix('[') {
        Some(host) => Some((host.strip_suffix(']')?, port)),
        None => (!host.contains(':')).then_some((host, port)),
    }
}

/// An address that is written as one.
fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    match host.split_once('%') {
        Some((ip, zone)) => Some(SocketAddrV6::new(ip.parse().ok()?, port, 0, index(zone)?).into()),
        None => Some(SocketAddr::new(host.parse().ok()?, port)),
    }
}

/// The number of a network interface, which a link-local address needs.
fn index(zone: &str) -> Option<u32> {
    let number = zone.parse().ok();
    number.or_else(|| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok()?;
        rustix::net::netdevice::name_to_index(socket, zone).ok()
    })
}

/// Where packets to an address would come from, if there is a way to it. Nothing is sent.
fn source(to: IpAddr) -> Option<IpAddr> {
    let anywhere: IpAddr = match to {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((anywhere, 0)).ok()?;
    // Any port will do.
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_in_brackets_and_have_a_zone() {
        for (host, address) in [
            ("127.0.0.1", "127.0.0.1:1"),
            ("::1", "[::1]:1"),
            ("[::1]", "[::1]:1"),
            ("fe80::1%7", "[fe80::1%7]:1"),
            ("[fe80::1%lo]", "[fe80::1%1]:1"),
        ] {
            assert_eq!(literal(host, 1), Some(address.parse().unwrap()), "{host}");
        }
        for host in [
            "localhost",
            "",
            "127.1",
            "[127.0.0.1",
            "127.0.0.1%lo",
            "fe80::1%",
            "fe80::1%none",
        ] {
            assert_eq!(literal(host, 1), None, "{host}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_a_port() {
        assert_eq!(split("m.example:1"), Some(("m.example", 1)));
        assert_eq!(split("[::1]:1"), Some(("::1", 1)));
        assert_eq!(split(":1"), Some(("", 1)));
        for wrong in ["m", "::1", "m:", "m:65536", "[::1:1", "", "http://m:1"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn one_listens_on_ipv4_if_there_is_a_choice() {
        let [v4, v6] = ["127.0.0.1:1", "[::1]:1"].map(|address| address.parse().unwrap());
        assert_eq!(to_listen_on(&[v6, v4]), Some(v4));
        assert_eq!(to_listen_on(&[v6]), Some(v6));
        assert_eq!(to_listen_on(&[]), None);
    }

    #[tokio::test]
    async fn who_waits_may_do_so_on_a_thread_of_a_runtime() {
        let found = blocking::addresses("localhost", 1).unwrap();
        assert!(found.contains(&([127, 0, 0, 1], 1).into()), "{found:?}");
        let error = blocking::addresses("nobody.invalid.", 1).unwrap_err();
        assert_eq!(error.problem, Problem::NoSuchHost);
    }
}
