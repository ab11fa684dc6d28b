//! Members that find each other: on a register, which a real etcd keeps, and by SRV records.
//!
//! The real etcd of this version knows no register of the third API, so a real member is registered by hand and
//! told the outcome; what it registers and what it makes of the outcome is what newer ones do by themselves.
//!
//! The DNS is a server of ours on port 53 of a loopback address. Members are made to ask it by a mount namespace
//! with its own `/etc/resolv.conf`, which takes a privileged user.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use grpc::etcdserverpb::cluster_client::ClusterClient;
use grpc::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{MemberListRequest, PutRequest, RangeRequest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::authority::{Authority, host, service};
use crate::cluster::eventually;
use crate::load::channel;
use crate::server::{Place, Ports, Server};
use crate::tools::Tools;

/// The token of every trial.
const TOKEN: &str = "8A591FAB-1D72-41FA-BDF2-A27162FDA1E0";

/// The domain of every trial, which is one that nobody can have.
pub(crate) const DOMAIN: &str = "cluster.test";

/// Two members of ours and a real one on a real member's register, which only a user with a certificate gets at.
pub async fn on_a_register(tools: &Tools) -> Result<(), String> {
    let files = Files::new()?;
    let (cert, key) = files.identity("127.0.0.1")?;
    let (ports, secured) = (Ports::free(), Ports::next());
    let flags = [
        format!(
            "--listen-client-urls=http://127.0.0.1:{},https://127.0.0.1:{secured}",
            ports.client
        ),
        format!("--cert-file={}", cert.display()),
        format!("--key-file={}", key.display()),
        format!("--trusted-ca-file={}", files.path("ca.pem").display()),
        "--client-cert-auth".to_owned(),
    ];
    let place = Place {
        cluster: ports.initial_cluster(),
        ..Place::found(ports.name(), ports)
    };
    let mut register = Server::prepared(&tools.reference, &flags, ports, place)?;
    register.resume().await?;

    let real = Ports::free();
    let own = format!("m3={}", real.peer_url());
    put(
        ports.client,
        &format!("/_etcd/registry/{TOKEN}/_config/size"),
        "3",
    )
    .await?;
    put(
        ports.client,
        &format!("/_etcd/registry/{TOKEN}/members/abc"),
        &own,
    )
    .await?;
    for words in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        etcdctl(tools, ports.client, words)?;
    }

    let common = [
        format!("--discovery-token={TOKEN}"),
        format!("--discovery-endpoints=127.0.0.1:{secured}"),
        format!("--discovery-cert={}", cert.display()),
        format!("--discovery-key={}", key.display()),
    ];
    let ours = |name: &str, program: &Path, flags: &[String]| {
        let ports = Ports::free();
        let flags = [&common[..], flags].concat();
        Server::prepared(program, &flags, ports, Place::found(name, ports))
    };
    let ca = format!("--discovery-cacert={}", files.path("ca.pem").display());
    let user = |password: &str| format!("--discovery-user=root:{password}");

    let mut stranger = ours("m4", &tools.ours, &[ca.clone(), user("wrong")])?;
    stranger.spawn()?;
    refused(
        &mut stranger,
        "user \\\"root\\\" is refused: etcdserver: authentication failed",
    )
    .await?;

    // One is told whom to believe, the other believes whom the machine does.
    let trusting = script(
        files.folder.path(),
        "trusting",
        &format!("SSL_CERT_FILE={} exec", files.path("ca.pem").display()),
        &tools.ours,
    )?;
    let mut first = ours("m1", &tools.ours, &[ca, user("secret")])?;
    let mut second = ours("m2", &trusting, &[user("secret")])?;
    first.spawn()?;
    second.spawn()?;
    let cluster = [
        format!("m1={}", first.peer_url()),
        format!("m2={}", second.peer_url()),
        own,
    ];
    let place = Place {
        cluster: cluster.join(","),
        ..Place::found("m3", real)
    };
    let flags = [format!("--initial-cluster-token={TOKEN}")];
    let mut third = Server::prepared(&tools.reference, &flags, real, place)?;
    third.spawn()?;
    are_one_cluster([&mut first, &mut second, &mut third]).await
}

/// Three members that know nothing of each other but a domain.
pub async fn by_srv_records(programs: [&Path; 3]) -> Result<(), String> {
    let files = Files::new()?;
    let ports = programs.map(|_| Ports::free());
    let mut records = Vec::new();
    for (number, ports) in (1..).zip(ports) {
        let name = format!("m{number}.{DOMAIN}.");
        records.push(host(&name, Ipv4Addr::LOCALHOST.into()));
        records.push(service(
            &format!("_etcd-server._tcp.{DOMAIN}."),
            0,
            &name,
            ports.peer,
        ));
    }
    let dns = Authority::start(dns_address(), records).await;
    let dns = dns.map_err(|error| format!("no DNS server: {error}"))?;
    files.write("resolv.conf", &format!("nameserver {}\n", dns.address.ip()))?;
    let mut members = Vec::new();
    for (number, (program, ports)) in (1..).zip(programs.into_iter().zip(ports)) {
        let name = format!("m{number}");
        let program = asking(files.folder.path(), &name, program)?;
        let mut flags = vec![format!("--discovery-srv={DOMAIN}")];
        // The others advertise an address.
        if number == 1 {
            flags.push(format!(
                "--initial-advertise-peer-urls=http://m1.{DOMAIN}:{}",
                ports.peer
            ));
        }
        let mut member = Server::prepared(&program, &flags, ports, Place::found(&name, ports))?;
        member.spawn()?;
        members.push(member);
    }
    let mut members = members.iter_mut();
    let three = std::array::from_fn(|_| members.next().expect("there are three programs"));
    are_one_cluster(three).await
}

/// Whether this machine lets a test have a DNS server and a `/etc/resolv.conf` of its own.
pub fn srv_is_possible() -> Result<(), String> {
    UdpSocket::bind(dns_address()).map_err(|error| format!("port 53 can't be had: {error}"))?;
    let mount = "mount --bind /dev/null /etc/resolv.conf";
    let tried = Command::new("unshare")
        .args(["--mount", "sh", "-c", mount])
        .output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// A program as one that asks the DNS which the file `resolv.conf` of a folder names.
pub(crate) fn asking(folder: &Path, name: &str, program: &Path) -> Result<PathBuf, String> {
    let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let resolv = folder.join("resolv.conf");
    let begin = format!("exec unshare --mount sh -c '{mount}' {}", resolv.display());
    script(folder, name, &begin, program)
}

/// A program that does something before it becomes another one.
fn script(folder: &Path, name: &str, begin: &str, program: &Path) -> Result<PathBuf, String> {
    let program = program.canonicalize().map_err(|error| error.to_string())?;
    let path = folder.join(name);
    let text = format!("#!/bin/sh\n{begin} {} \"$@\"\n", program.display());
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&path, mode).map_err(|error| error.to_string())?;
    Ok(path)
}

/// Another one for each process that tests.
pub(crate) fn dns_address() -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 13, high, low)), 53)
}

async fn are_one_cluster(members: [&mut Server; 3]) -> Result<(), String> {
    let mut clients = Vec::new();
    for member in members {
        member.ready().await?;
        clients.push(member.ports.client);
    }
    put(clients[0], "key", "value").await?;
    for client in clients {
        let found = values(client, "key").await?;
        let names = eventually("all have told their names", async || {
            match names(client).await? {
                names if names.iter().all(|name| name.starts_with('m')) => Ok(names),
                names => Err(format!("{names:?}")),
            }
        });
        match (found, names.await?) {
            (found, names) if found == ["value"] && names == ["m1", "m2", "m3"] => {}
            other => return Err(format!("not one cluster: {other:?}")),
        }
    }
    Ok(())
}

async fn refused(member: &mut Server, reason: &str) -> Result<(), String> {
    let status = member.gone().await?;
    match status.code() == Some(1) && member.has_logged(reason) {
        true => Ok(()),
        false => Err(format!("it ended with {status}:\n{}", member.last_words())),
    }
}

/// Puts a key.
pub async fn put(client: u16, key: &str, value: &str) -> Result<(), String> {
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    let done = KvClient::new(channel((Ipv4Addr::LOCALHOST, client).into()))
        .put(request)
        .await;
    done.map(drop).map_err(|status| status.to_string())
}

/// The values of all keys from this one on.
pub async fn values(client: u16, from: &str) -> Result<Vec<String>, String> {
    let request = RangeRequest {
        key: from.to_owned().into(),
        range_end: "\0".into(),
        ..RangeRequest::default()
    };
    let found = KvClient::new(channel((Ipv4Addr::LOCALHOST, client).into()))
        .range(request)
        .await;
    let found = found.map_err(|status| status.to_string())?.into_inner().kvs;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(found.iter().map(|kv| text(&kv.value)).collect())
}

/// The names of all members, sorted.
pub async fn names(client: u16) -> Result<Vec<String>, String> {
    let request = MemberListRequest { linearizable: true };
    let list = ClusterClient::new(channel((Ipv4Addr::LOCALHOST, client).into()))
        .member_list(request)
        .await;
    let members = list.map_err(|status| status.to_string())?.into_inner().members;
    let mut names: Vec<_> = members.into_iter().map(|member| member.name).collect();
    names.sort();
    Ok(names)
}

fn etcdctl(tools: &Tools, client: u16, words: &[&str]) -> Result<(), String> {
    let mut command = Command::new(&tools.etcdctl);
    command.arg(format!("--endpoints=127.0.0.1:{client}")).args(words);
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// The files of a trial: certificates, scripts.
struct Files {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Result<Self, String> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let files = Files {
            folder: tempfile::tempdir().map_err(|error| error.to_string())?,
            issuer: CertifiedIssuer::self_signed(params, key).map_err(|error| error.to_string())?,
        };
        files.write("ca.pem", &files.issuer.pem())?;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// A certificate for a host, and its key.
    fn identity(&self, host: &str) -> Result<(PathBuf, PathBuf), String> {
        let make = || {
            let key = KeyPair::generate()?;
            let cert = CertificateParams::new([host.to_owned()])?.signed_by(&key, &self.issuer)?;
            Ok((cert.pem(), key.serialize_pem()))
        };
        let (cert, key) = make().map_err(|error: rcgen::Error| error.to_string())?;
        Ok((self.write("cert.pem", &cert)?, self.write("key.pem", &key)?))
    }
}
