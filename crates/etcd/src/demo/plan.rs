//! Who the members are and where: decided before anything runs.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use thiserror::Error;

/// Members are named by one key each.
pub const MEMBERS_MAX: usize = 9;

/// Where etcd's own examples put the clients of three members; the peer and metrics ports follow.
const CLIENT_PORTS: [u16; 3] = [2379, 22379, 32379];

/// Why there is no plan.
#[derive(Debug, Error)]
pub enum Unplanned {
    /// No folder, no port.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No certificate.
    #[error("no certificates: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A member to be.
#[derive(Debug)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Clients.
    pub client: u16,
    /// Where others find it: a relay of ours.
    pub peer: u16,
    /// Where it listens for them behind that.
    pub listens: u16,
    /// Metrics and health.
    pub metrics: u16,
}

/// The whole demonstration.
#[derive(Debug)]
pub struct Plan {
    /// Data, logs and certificates.
    pub folder: TempDir,
    /// The members.
    pub places: Vec<Place>,
    /// Whether clients and members speak TLS.
    pub tls: bool,
}

impl Plan {
    /// Chooses ports, and makes folder and certificates.
    pub fn new(members: usize, tls: bool) -> Result<Self, Unplanned> {
        let folder = TempDir::with_prefix("etcd-demo-")?;
        if tls {
            make_certificates(folder.path())?;
        }
        Ok(Self {
            folder,
            places: places(members)?,
            tls,
        })
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// A URL of this machine.
    fn url(&self, port: u16) -> String {
        format!("{}://127.0.0.1:{port}", self.scheme())
    }

    /// Where clients find a member.
    pub fn endpoint(&self, place: &Place) -> String {
        self.url(place.client)
    }

    /// Where all that a member says is written.
    pub fn log(&self, place: &Place) -> PathBuf {
        self.folder.path().join(format!("{}.log", place.name))
    }

    /// The authority that clients have to know.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The lines that make etcdctl speak to this cluster.
    pub fn exports(&self) -> Vec<String> {
        let endpoints: Vec<_> = self.places.iter().map(|place| self.endpoint(place)).collect();
        let mut exports = vec![format!("export ETCDCTL_ENDPOINTS={}", endpoints.join(","))];
        if self.tls {
            exports.push(format!("export ETCDCTL_CACERT={}", self.authority().display()));
        }
        exports
    }

    /// The flags of a member.
    pub fn flags(&self, place: &Place) -> Vec<String> {
        let cluster = self
            .places
            .iter()
            .map(|place| format!("{}={}", place.name, self.url(place.peer)));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let data = self.folder.path().join(&place.name);
        let mut flags = vec![
            format!("--name={}", place.name),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={}", self.endpoint(place)),
            format!("--advertise-client-urls={}", self.endpoint(place)),
            format!("--listen-peer-urls={}", self.url(place.listens)),
            format!("--initial-advertise-peer-urls={}", self.url(place.peer)),
            format!("--listen-metrics-urls=http://127.0.0.1:{}", place.metrics),
            format!("--initial-cluster={cluster}"),
            "--initial-cluster-token=demo".to_owned(),
        ];
        if self.tls {
            let file = |name: &str| self.folder.path().join(name).display().to_string();
            for role in ["", "peer-"] {
                flags.push(format!("--{role}cert-file={}", file("server.crt")));
                flags.push(format!("--{role}key-file={}", file("server.key")));
            }
            flags.push(format!("--peer-trusted-ca-file={}", file("ca.crt")));
        }
        flags
    }
}

/// Well-known ports where all three of a member are free, else any.
fn places(members: usize) -> io::Result<Vec<Place>> {
    // Kept until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let mut any = || -> io::Result<u16> {
        let listener = bind(0)?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    let mut place = |number: usize| {
        let known = CLIENT_PORTS.get(number).filter(|client| is_free(**client));
        let [client, peer, metrics] = match known {
            Some(client) => [*client, client + 1, client + 2],
            None => [any()?, any()?, any()?],
        };
        Ok(Place {
            name: format!("etcd{}", number + 1),
            client,
            peer,
            metrics,
            listens: any()?,
        })
    };
    (0..members).map(&mut place).collect()
}

fn is_free(client: u16) -> bool {
    (client..client + 3).all(|port| bind(port).is_ok())
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// An authority of its own, and one certificate for all members.
fn make_certificates(folder: &Path) -> Result<(), Unplanned> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "etcd demo authority");
    let authority_key = KeyPair::generate()?;
    fs::write(
        folder.join("ca.crt"),
        authority.self_signed(&authority_key)?.pem(),
    )?;

    let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "etcd demo");
    let server_key = KeyPair::generate()?;
    let signed = server.signed_by(&server_key, &Issuer::new(authority, authority_key))?;
    fs::write(folder.join("server.crt"), signed.pem())?;
    fs::write(folder.join("server.key"), server_key.serialize_pem())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_members_share_a_port() {
        let places = places(MEMBERS_MAX).unwrap();
        let ports = places
            .iter()
            .flat_map(|place| [place.client, place.peer, place.listens, place.metrics]);
        assert_eq!(ports.collect::<BTreeSet<_>>().len(), MEMBERS_MAX * 4);
    }

    #[test]
    fn with_tls_every_url_but_that_for_metrics_is_secure() {
        let plan = Plan::new(1, true).unwrap();
        let flags = plan.flags(&plan.places[0]).join(" ");
        assert_eq!(flags.matches("http://").count(), 1);
        assert!(flags.contains("--listen-metrics-urls=http://") && flags.contains("--peer-trusted-ca-file="));
        assert_eq!(plan.exports().len(), 2);
        assert!(plan.authority().is_file());
    }
}
