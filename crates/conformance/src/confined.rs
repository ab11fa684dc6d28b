//! A member that reaches its own files only, through everything it does with files; and whom they belong to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use grpc::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{CompactionRequest, PutRequest};
use tls::{Settings, Trust};

use crate::certs::{self, Ask, Authority};
use crate::cluster::{eventually, within};
use crate::harness::{Stop, runtime};
use crate::load::channel;
use crate::migration::run;
use crate::probe::Probe;
use crate::server::{Ports, Server};
use crate::tools::Tools;

/// Puts whose values fill a segment of the log, of 64 MB, and begin the next one.
const PUTS: usize = 60;
const VALUE_BYTES: usize = 1_200_000;

/// A session with everything that touches a file.
pub fn session(tools: &Tools) -> Result<(), Stop> {
    runtime()?.block_on(async {
        let dir = tempfile::tempdir().map_err(text)?;
        let mut secret = Secret::new(dir.path())?;
        let port = Ports::next();
        let mut server = start(tools, &secret, port).await?;
        if server.has_logged("this kernel has no Landlock") {
            return Err(Stop::Impossible("this kernel has no Landlock".into()));
        }
        work(tools, &server, dir.path()).await?;
        let at = server.ports.at(port);
        secret.renew()?;
        secret.is_shown(at).await?;
        // What is elsewhere is out of reach, so what was read last stays in use.
        fs::create_dir(dir.path().join("elsewhere")).map_err(text)?;
        secret.turn("../elsewhere")?;
        if secret.is_shown(at).await.is_ok() || !server.has_logged("Permission denied") {
            return Err("it has read a certificate that is elsewhere".to_owned().into());
        }
        only_its_owner_reaches(&server.data())?;
        secret.renew()?;
        server.stop().await?;
        server.resume().await?;
        secret.is_shown(at).await?;
        etcdctl(tools, &server, &["get", "k0"])?;
        Ok(only_its_owner_reaches(&server.data())?)
    })
}

/// Starts a member where nothing is hidden from anybody by default, with a certificate given to it and one of its own.
async fn start(tools: &Tools, secret: &Secret, port: u16) -> Result<Server, String> {
    let program = secret.root.join("etcd");
    let script = format!("#!/bin/sh\numask 0\nexec {} \"$@\"\n", tools.ours.display());
    fs::write(&program, script).map_err(text)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).map_err(text)?;
    let ports = Ports::free();
    let (plain, tls, peer) = (ports.at(ports.client), ports.at(port), ports.at(ports.peer));
    let flags = [
        format!("--listen-client-urls=http://{plain},https://{tls}"),
        format!("--advertise-client-urls=https://{tls}"),
        format!("--cert-file={}", secret.folder().join("tls.crt").display()),
        format!("--key-file={}", secret.folder().join("tls.key").display()),
        format!("--listen-peer-urls=https://{peer}"),
        format!("--initial-advertise-peer-urls=https://{peer}"),
        format!("--initial-cluster={}=https://{peer}", ports.name()),
        format!("--log-outputs=stderr,{}", secret.root.join("log").display()),
        "--peer-auto-tls".into(),
        "--snapshot-count=20".into(),
        "--max-snapshots=1".into(),
    ];
    let mut server = Server::prepared(&program, &flags, ports, Server::alone(ports))?;
    server.resume().await?;
    Ok(server)
}

/// Fills more than a segment of the log, compacts, takes snapshots and a backup.
async fn work(tools: &Tools, server: &Server, dir: &Path) -> Result<(), String> {
    let mut client = KvClient::new(channel(server.address())).max_encoding_message_size(2 * VALUE_BYTES);
    let mut revision = 0;
    for number in 0..PUTS {
        let request = PutRequest {
            key: format!("k{}", number % 3).into(),
            value: vec![b'x'; VALUE_BYTES].into(),
            ..Default::default()
        };
        let answer = within(client.put(request)).await.map_err(text)?;
        revision = answer.header.unwrap_or_default().revision;
    }
    let compaction = CompactionRequest {
        revision,
        physical: true,
    };
    within(client.compact(compaction)).await.map_err(text)?;
    let backup = dir.join("backup").display().to_string();
    etcdctl(tools, server, &["defrag"])?;
    etcdctl(tools, server, &["snapshot", "save", &backup])?;
    run(&tools.etcdutl, &["snapshot", "status", &backup])?;
    let count = |folder: &str, end: &str| -> Result<usize, String> {
        let files = files(&server.data().join(folder))?;
        Ok(files
            .iter()
            .filter(|file| file.to_string_lossy().ends_with(end))
            .count())
    };
    eventually(
        "the log has a second segment, and a snapshot is taken",
        async || match (count("member/wal", ".wal")?, count("member/snap", ".snap")?) {
            (2.., 1..) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await
}

/// A certificate as Kubernetes mounts it: the files are links by a link, which is turned to another folder.
struct Secret {
    root: PathBuf,
    authority: Authority,
    turns: u64,
}

impl Secret {
    fn new(root: &Path) -> Result<Self, String> {
        let mut secret = Self {
            root: root.to_owned(),
            authority: Authority::new("ours")?,
            turns: 0,
        };
        certs::write(&root.join("ca.pem"), secret.authority.pem())?;
        fs::create_dir(secret.folder()).map_err(text)?;
        secret.renew()?;
        for name in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), secret.folder().join(name)).map_err(text)?;
        }
        Ok(secret)
    }

    fn folder(&self) -> PathBuf {
        self.root.join("secret")
    }

    /// Has another certificate.
    fn renew(&mut self) -> Result<(), String> {
        let name = format!("..{}", self.turns + 1);
        fs::create_dir(self.folder().join(&name)).map_err(text)?;
        self.turn(&name)
    }

    /// Has another certificate, which is in this folder.
    fn turn(&mut self, to: &str) -> Result<(), String> {
        self.turns += 1;
        let (folder, pair) = (
            self.folder().join(to),
            self.authority.sign(&Ask::new("server", self.turns))?,
        );
        certs::write(&folder.join("tls.crt"), pair.cert)?;
        certs::write(&folder.join("tls.key"), pair.key)?;
        let new = self.folder().join("..new");
        symlink(to, &new).map_err(text)?;
        fs::rename(new, self.folder().join("..data")).map_err(text)
    }

    /// Whether the server shows the newest certificate.
    async fn is_shown(&self, at: std::net::SocketAddr) -> Result<(), String> {
        let settings = Settings {
            trust: Trust::Authorities(self.root.join("ca.pem")),
            ..Default::default()
        };
        let shown = Probe::new(&settings)?.ask(at).await.map_err(text)?;
        let newest = fs::read_to_string(self.folder().join("tls.crt")).map_err(text)?;
        match shown == certs::first(&newest) {
            true => Ok(()),
            false => Err("the server shows an old certificate".into()),
        }
    }
}

/// Folders are 0700 and files 0600, whatever the process would do by default.
fn only_its_owner_reaches(data: &Path) -> Result<(), String> {
    let mut odd = Vec::new();
    for path in files(data)?.iter().chain([&data.to_owned()]) {
        let about = fs::symlink_metadata(path).map_err(text)?;
        let expected = if about.is_dir() { 0o700 } else { 0o600 };
        if about.permissions().mode() & 0o777 != expected {
            odd.push(format!("{}: {:o}", path.display(), about.permissions().mode()));
        }
    }
    for needed in ["member/wal", "member/snap", "member/kv", "fixtures/peer/key.pem"] {
        if !data.join(needed).exists() {
            odd.push(format!("there is no {needed}"));
        }
    }
    match odd.is_empty() {
        true => Ok(()),
        false => Err(odd.join("\n")),
    }
}

/// All that is below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(text)? {
        let path = entry.map_err(text)?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        }
        found.push(path);
    }
    Ok(found)
}

fn etcdctl(tools: &Tools, server: &Server, words: &[&str]) -> Result<String, String> {
    let endpoint = format!("--endpoints={}", server.endpoint());
    run(&tools.etcdctl, &[&[endpoint.as_str()], words].concat())
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
