//! Who the members are and where: decided before anything runs.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use tempfile::TempDir;
use thiserror::Error;

/// Members are named by one key each.
pub const MEMBERS_MAX: usize = 9;

/// Where etcd's own examples put the clients of three members; the peer and metrics ports follow.
const CLIENT_PORTS: [u16; 3] = [2379, 22379, 32379];

/// What the folder of a demonstration is called, before what makes it its own.
const PREFIX: &str = "etcd-demo-";

/// A file in it, locked for as long as the demonstration lives.
const ALIVE: &str = "alive";

/// Why there is no plan.
#[derive(Debug, Error)]
pub enum Unplanned {
    /// No room for files.
    #[error("cannot write to {}: {error}; TMPDIR says where else", folder.display())]
    Folder {
        /// Where.
        folder: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// No port.
    #[error("no port: {0}")]
    Port(#[from] io::Error),
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
    _alive: File,
    /// The members.
    pub places: Vec<Place>,
    /// What listens at their peer ports.
    pub listeners: Vec<TcpListener>,
    /// Whether clients and members speak TLS.
    pub tls: bool,
}

impl Plan {
    /// Chooses ports, and makes folder and certificates.
    pub fn new(members: usize, tls: bool) -> Result<Self, Unplanned> {
        let parent = std::env::temp_dir();
        let failed = |error| Unplanned::Folder {
            folder: parent.clone(),
            error,
        };
        let folder = TempDir::with_prefix_in(PREFIX, &parent).map_err(failed)?;
        let alive = mark_alive(folder.path()).map_err(failed)?;
        if tls {
            for (name, text) in certificates()? {
                fs::write(folder.path().join(name), text).map_err(failed)?;
            }
        }
        let (places, listeners) = places(members)?;
        Ok(Self {
            folder,
            _alive: alive,
            places,
            listeners,
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
            let authority = self.authority().display().to_string();
            exports.push(format!("export ETCDCTL_CACERT={}", quoted(&authority)));
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

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    match word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Makes the file that says that somebody lives here. It has its name only once it is locked.
fn mark_alive(folder: &Path) -> io::Result<File> {
    let unnamed = folder.join("alive.new");
    let file = File::create(&unnamed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    fs::rename(unnamed, folder.join(ALIVE))?;
    Ok(file)
}

/// Removes the folders of this user's demonstrations that were killed, and tells which.
pub fn remove_leftovers(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    let own = named.filter(|entry| {
        let is_own = |found: fs::Metadata| found.is_dir() && found.uid() == geteuid().as_raw();
        entry.metadata().is_ok_and(is_own)
    });
    let folders = own.map(|entry| entry.path());
    folders
        .filter(|folder| is_left_over(folder) && fs::remove_dir_all(folder).is_ok())
        .collect()
}

fn is_left_over(folder: &Path) -> bool {
    let alive = File::open(folder.join(ALIVE));
    alive.is_ok_and(|alive| flock(&alive, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// Well-known ports where all three of a member are free, else any; and listeners at the peer ports. Holding those from
/// the beginning keeps two demonstrations from choosing the same ports.
fn places(members: usize) -> io::Result<(Vec<Place>, Vec<TcpListener>)> {
    // Kept until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let mut any = || -> io::Result<u16> {
        let listener = bind(0)?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    let mut place = |number: usize| {
        let known = CLIENT_PORTS.get(number);
        let known = known.and_then(|client| Some((*client, claim(*client)?, client + 2)));
        let (client, peer, metrics) = match known {
            Some(known) => known,
            None => (any()?, bind(0)?, any()?),
        };
        let place = Place {
            name: format!("etcd{}", number + 1),
            client,
            peer: peer.local_addr()?.port(),
            metrics,
            listens: any()?,
        };
        Ok((place, peer))
    };
    let chosen: io::Result<Vec<_>> = (0..members).map(&mut place).collect();
    Ok(chosen?.into_iter().unzip())
}

/// Takes the peer port that follows this one, if the three are free.
fn claim(client: u16) -> Option<TcpListener> {
    let peer = bind(client + 1).ok()?;
    let others = [client, client + 2];
    others.iter().all(|port| bind(*port).is_ok()).then_some(peer)
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// An authority of its own, and one certificate for all members.
fn certificates() -> Result<[(&'static str, String); 3], rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "etcd demo authority");
    let authority_key = KeyPair::generate()?;
    let authority_signed = authority.self_signed(&authority_key)?.pem();

    let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "etcd demo");
    let server_key = KeyPair::generate()?;
    let signed = server.signed_by(&server_key, &Issuer::new(authority, authority_key))?;
    Ok([
        ("ca.crt", authority_signed),
        ("server.crt", signed.pem()),
        ("server.key", server_key.serialize_pem()),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_members_of_two_clusters_share_a_port() {
        // The peer ports of the first stay taken.
        let (first, _listeners) = places(MEMBERS_MAX).unwrap();
        let (second, _) = places(MEMBERS_MAX).unwrap();
        let ports = |place: &Place| [place.client, place.peer, place.listens, place.metrics];
        let all: BTreeSet<_> = first.iter().flat_map(ports).collect();
        assert_eq!(all.len(), MEMBERS_MAX * 4);
        let is_same = |one: &Place, other: &Place| {
            one.peer == other.peer || CLIENT_PORTS.contains(&one.client) && one.client == other.client
        };
        assert!(
            !second
                .iter()
                .any(|one| first.iter().any(|other| is_same(one, other)))
        );
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

    #[test]
    fn folders_of_the_dead_are_removed_and_those_of_the_living_and_of_others_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            folder
        };
        let (dead, living, other) = (
            folder("etcd-demo-dead"),
            folder("etcd-demo-living"),
            folder("etcd-demonstrations"),
        );
        let unfinished = folder("etcd-demo-unfinished");
        drop(mark_alive(&dead).unwrap());
        fs::create_dir(dead.join("etcd1")).unwrap();
        drop(mark_alive(&other).unwrap());
        let _alive = mark_alive(&living).unwrap();
        std::os::unix::fs::symlink(&other, parent.path().join("etcd-demo-link")).unwrap();
        assert_eq!(remove_leftovers(parent.path()), std::slice::from_ref(&dead));
        assert!(!dead.exists() && living.exists() && other.exists() && unfinished.exists());
    }

    #[test]
    fn exports_can_be_pasted_whatever_the_folder_is_called() {
        assert_eq!(quoted("/tmp/etcd-demo-x/ca.crt"), "/tmp/etcd-demo-x/ca.crt");
        for word in ["/my tmp/ca.crt", "it's", "$HOME;`x`", "臺灣"] {
            let echoed = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&echoed.stdout), word);
        }
    }
}
