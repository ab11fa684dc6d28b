//! Certificates, authorities and revocations are exchanged while everybody goes on.
//!
//! What is good and what is bad changes in *stages*. Clients connect all the time, and each knows in which stages it is
//! good. One that is so from the beginning of a connection to its end must be let in, whatever is done to the files
//! meanwhile; one that is bad all that time must not. Only who turns good or bad in between may be either.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use grpc::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::HashKvRequest;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use tls::{Identity, Settings, Trust};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::certs::{self, Ask, Authority, Pair, replace, write};
use crate::cluster::{eventually, within};
use crate::load::{Load, PATIENCE, channel};
use crate::probe::Probe;
use crate::server::{Place, Ports, Server};
use crate::tools::Tools;

/// Connections of each client that a state of the files has to stand.
const CONNECTIONS: usize = 3;

/// Writes before a cluster's next stage.
const WRITES: usize = 60;

/// The serial number of a certificate that is revoked.
const REVOKED: u64 = 66;

/// Exchanges all files of a member under the eyes of its clients, and of others that come as members do.
pub async fn of_listeners(tools: &Tools) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let dir = dir.path();
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let both = old.pem() + &new.pem();
    // Clients read files too; theirs are their own.
    for (file, content) in [("ca.pem", &old.pem()), ("both.pem", &both)] {
        write(&dir.join(file), content)?;
    }
    write(&dir.join("crl"), old.revoke(&[])?)?;
    let first = old.sign(&Ask::new("server", 2))?;
    first.write(dir, "server")?;
    let stages = 6;
    let whos = [
        ("old", &old, 3, 0..5),
        ("new", &new, 4, 2..stages),
        ("leaver", &new, REVOKED, 2..4),
        ("stranger", &Authority::new("other")?, 5, 0..0),
    ];
    for (name, authority, serial, _) in &whos {
        authority.sign(&Ask::new(name, *serial))?.write(dir, name)?;
    }
    let (mut server, doors) = alone(tools, dir).await?;
    let mut crowd = Crowd::default();
    crowd.stage(&first);
    for (name, _, _, good) in whos {
        let probe = Probe::new(&settings(dir, "both.pem", name))?;
        doors
            .iter()
            .for_each(|at| crowd.send(name, *at, &probe, good.clone()));
    }
    crowd.goes_on().await?;

    let [second, third] = [
        old.sign(&Ask::new("server", 6))?,
        new.sign(&Ask::new("server", 7))?,
    ];
    let torn = |content: &str| {
        [0, 1, content.len() / 2, content.len() - 2, content.len()].map(|end| content[..end].to_owned())
    };
    let exchange = async |crowd: &mut Crowd, pair: &Pair| {
        // At no time do the files in between fit each other.
        for (file, content) in [("server.key", &pair.key), ("server.pem", &pair.cert)] {
            for part in torn(content) {
                write(&dir.join(file), part)?;
                crowd.goes_on().await?;
            }
        }
        Ok::<_, String>(())
    };
    let rewrite = async |crowd: &mut Crowd, file: &str, content: &[u8]| {
        // Half of it is cut within the last certificate, or the list.
        for end in [0, 1, content.len() - 40] {
            write(&dir.join(file), &content[..end])?;
            crowd.goes_on().await?;
        }
        replace(&dir.join(file), content)
    };
    crowd.changing();
    exchange(&mut crowd, &second).await?;
    crowd.stage(&second);
    crowd.goes_on().await?;
    crowd.changing();
    rewrite(&mut crowd, "ca.pem", both.as_bytes()).await?;
    crowd.stage(&second);
    crowd.goes_on().await?;
    crowd.changing();
    exchange(&mut crowd, &third).await?;
    crowd.stage(&third);
    crowd.goes_on().await?;
    crowd.changing();
    rewrite(&mut crowd, "crl", &new.revoke(&[REVOKED])?).await?;
    crowd.stage(&third);
    crowd.goes_on().await?;
    crowd.changing();
    rewrite(&mut crowd, "ca.pem", new.pem().as_bytes()).await?;
    crowd.stage(&third);
    crowd.goes_on().await?;
    crowd.leave().await?;
    server.stop().await.map(drop)
}

/// A member with TLS on a client port and on its peer port.
async fn alone(tools: &Tools, dir: &Path) -> Result<(Server, [SocketAddr; 2]), String> {
    let (ports, tls) = (Ports::free(), Ports::next());
    let (plain, client, peer) = (ports.at(ports.client), ports.at(tls), ports.at(ports.peer));
    let mut flags = vec![
        format!("--listen-client-urls=http://{plain},https://{client}"),
        format!("--advertise-client-urls=https://{client}"),
        format!("--listen-peer-urls=https://{peer}"),
        format!("--initial-advertise-peer-urls=https://{peer}"),
        format!("--initial-cluster={}=https://{peer}", ports.name()),
    ];
    for (flag, file) in [
        ("cert-file", "server.pem"),
        ("key-file", "server.key"),
        ("trusted-ca-file", "ca.pem"),
    ] {
        let file = dir.join(file);
        flags.extend([
            format!("--{flag}={}", file.display()),
            format!("--peer-{flag}={}", file.display()),
        ]);
    }
    let list = dir.join("crl");
    flags.extend(["client", "peer"].map(|whose| format!("--{whose}-crl-file={}", list.display())));
    let mut server = Server::prepared(&tools.ours, &flags, ports, Server::alone(ports))?;
    server.resume().await?;
    Ok((server, [client, peer]))
}

fn settings(dir: &Path, trust: &str, name: &str) -> Settings {
    let file = |end: &str| -> PathBuf { dir.join(format!("{name}.{end}")) };
    Settings {
        identity: Some(Identity {
            cert: file("pem"),
            key: file("key"),
        }),
        trust: Trust::Authorities(dir.join(trust)),
        ..Default::default()
    }
}

/// Clients that connect all the time.
#[derive(Default)]
struct Crowd {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    connections: Vec<watch::Receiver<usize>>,
}

#[derive(Default)]
struct Shared {
    /// Twice the number of the stage; one more while the next one is being made.
    now: AtomicUsize,
    /// The certificate of each stage.
    shown: Mutex<Vec<Vec<u8>>>,
    complaints: Mutex<Vec<String>>,
    stopping: watch::Sender<bool>,
}

impl Crowd {
    /// The first stage, or the next one, in which the server shows this certificate.
    fn stage(&mut self, shown: &Pair) {
        let mut all = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(certs::first(&shown.cert));
        self.shared.now.store(2 * (all.len() - 1), SeqCst);
    }

    /// The stage is over.
    fn changing(&mut self) {
        self.shared.now.fetch_add(1, SeqCst);
    }

    fn send(&mut self, name: &'static str, at: SocketAddr, probe: &Probe, good: Range<usize>) {
        let (count, counted) = watch::channel(0);
        self.connections.push(counted);
        let client = Client {
            shared: self.shared.clone(),
            name,
            at,
            probe: probe.clone(),
            good,
        };
        self.clients.spawn(client.connect_again_and_again(count));
    }

    /// Waits until everybody has connected some times more.
    async fn goes_on(&mut self) -> Result<(), String> {
        for counted in &mut self.connections {
            // One is under way, and may have begun before.
            let wanted = *counted.borrow() + CONNECTIONS + 1;
            let enough = timeout(PATIENCE, counted.wait_for(|count| *count >= wanted)).await;
            enough.map_err(|_| "nobody connects")?.map_err(text)?;
        }
        Ok(())
    }

    /// Ends it, and tells what should not have been.
    async fn leave(mut self) -> Result<(), String> {
        self.shared.stopping.send_replace(true);
        while self.clients.join_next().await.is_some() {}
        let complaints = self
            .shared
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match complaints.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{} times: {}",
                complaints.len(),
                complaints[..complaints.len().min(10)].join("\n")
            )),
        }
    }
}

struct Client {
    shared: Arc<Shared>,
    name: &'static str,
    at: SocketAddr,
    probe: Probe,
    /// The stages in which it is to be let in.
    good: Range<usize>,
}

impl Client {
    async fn connect_again_and_again(self, count: watch::Sender<usize>) {
        while !*self.shared.stopping.borrow() {
            let begun = self.shared.now.load(SeqCst);
            let told = timeout(PATIENCE, self.probe.ask(self.at)).await;
            let told = told.map_err(text).and_then(|told| told.map_err(text));
            let ended = self.shared.now.load(SeqCst);
            if let Some(complaint) = self.judge(begun, ended, told) {
                let mut complaints = self
                    .shared
                    .complaints
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                complaints.push(format!(
                    "{} at {}, from {begun} to {ended}: {complaint}",
                    self.name, self.at
                ));
            }
            count.send_modify(|count| *count += 1);
        }
    }

    /// What is wrong with what came of a connection, if anything.
    fn judge(&self, begun: usize, ended: usize, told: Result<Vec<u8>, String>) -> Option<String> {
        // Every stage that it may have met.
        let mut stages = begun / 2..=ended.div_ceil(2);
        let (good, bad) = (
            stages.clone().all(|stage| self.good.contains(&stage)),
            stages.all(|stage| !self.good.contains(&stage)),
        );
        let is_one_stage = begun == ended && begun.is_multiple_of(2);
        match told {
            Err(error) if good => Some(error),
            Ok(_) if bad => Some("it is let in".into()),
            Ok(shown) if is_one_stage => {
                let all = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner);
                (shown != all[begun / 2]).then(|| "it is shown another certificate".into())
            }
            _ => None,
        }
    }
}

/// Exchanges the certificates and the authority of three members, each with one certificate for servers only and one
/// for clients only, while clients write. In each stage a member is killed, so that connections are made anew.
pub async fn of_a_cluster(tools: &Tools, seed: u64) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let dir = dir.path();
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let both = old.pem() + &new.pem();
    let pairs = |authority: &Authority| -> Result<[(&str, Pair); 2], String> {
        let [server, client] = [(2, ServerAuth), (3, ClientAuth)].map(|(serial, purpose)| Ask {
            purposes: vec![purpose],
            ..Ask::new("member", serial)
        });
        Ok([
            ("server", authority.sign(&server)?),
            ("client", authority.sign(&client)?),
        ])
    };
    write(&dir.join("ca.pem"), old.pem())?;
    write(&dir.join("both.pem"), &both)?;
    for (name, pair) in pairs(&old)? {
        pair.write(dir, name)?;
        pair.write(dir, &format!("old-{name}"))?;
    }
    let mut members = members(tools, dir).await?;
    let addresses: Vec<_> = members.iter().map(Server::address).collect();
    let load = Load::start(&addresses, seed);
    for (stage, member) in members.iter_mut().enumerate() {
        load.progress(WRITES).await?;
        match stage {
            0 => replace(&dir.join("ca.pem"), &both)?,
            1 => {
                for (name, Pair { cert, key }) in pairs(&new)? {
                    for (end, content) in [("key", key), ("pem", cert)] {
                        let file = dir.join(format!("{name}.{end}"));
                        write(&file, &content[..content.len() / 2])?;
                        load.progress(WRITES / 4).await?;
                        write(&file, content)?;
                    }
                }
            }
            _ => replace(&dir.join("ca.pem"), new.pem())?,
        }
        member.kill();
        load.progress(WRITES).await?;
        member.resume().await?;
    }
    load.progress(WRITES).await?;
    for member in &members {
        for (name, is_good) in [("client", true), ("server", false), ("old-client", false)] {
            let told = Probe::new(&settings(dir, "both.pem", name))?
                .ask(member.ports.at(member.ports.peer))
                .await;
            if told.is_ok() != is_good {
                return Err(format!("{} meets {name}: {told:?}", member.name()));
            }
        }
    }
    load.finish().await?;
    agree(&addresses).await
}

/// Waits until all members have the same hash.
async fn agree(members: &[SocketAddr]) -> Result<(), String> {
    eventually("all members have the same hash", async || {
        let mut hashes = Vec::new();
        for at in members {
            let request = HashKvRequest { revision: 0 };
            let answer = within(MaintenanceClient::new(channel(*at)).hash_kv(request))
                .await
                .map_err(text)?;
            hashes.push((answer.header.unwrap_or_default().revision, answer.hash));
        }
        match hashes.iter().all(|hash| *hash == hashes[0]) {
            true => Ok(()),
            false => Err(format!("{hashes:?}")),
        }
    })
    .await
}

async fn members(tools: &Tools, dir: &Path) -> Result<Vec<Server>, String> {
    let ports = [Ports::free(), Ports::free(), Ports::free()];
    let url = |ports: &Ports| format!("https://{}", ports.at(ports.peer));
    let cluster: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(place, ports)| format!("m{place}={}", url(ports)))
        .collect();
    let mut members = Vec::new();
    for (place, ports) in ports.into_iter().enumerate() {
        let mut flags = vec![
            format!("--listen-peer-urls={}", url(&ports)),
            format!("--initial-advertise-peer-urls={}", url(&ports)),
            "--peer-cert-allowed-cn=member".into(),
        ];
        let files = [
            ("cert-file", "server.pem"),
            ("key-file", "server.key"),
            ("client-cert-file", "client.pem"),
            ("client-key-file", "client.key"),
            ("trusted-ca-file", "ca.pem"),
        ];
        flags.extend(files.map(|(flag, file)| format!("--peer-{flag}={}", dir.join(file).display())));
        let place = Place {
            name: format!("m{place}"),
            advertised: ports.peer,
            cluster: cluster.join(","),
            joins: false,
        };
        let mut member = Server::prepared(&tools.ours, &flags, ports, place)?;
        member.spawn()?;
        members.push(member);
    }
    for member in &mut members {
        member.ready().await?;
    }
    Ok(members)
}

/// Bad handshakes at the same time, and altogether.
const FLOOD_WIDTH: usize = 50;
const FLOOD: usize = 2_000;

/// Lines of one kind in a second.
const LINES_MAX: usize = 100;

/// Clients that speak no TLS where they should: each is in the log, with a line or in the count of what was left out.
pub async fn flood(tools: &Tools) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let authority = Authority::new("ours")?;
    write(&dir.path().join("ca.pem"), authority.pem())?;
    write(&dir.path().join("crl"), authority.revoke(&[])?)?;
    authority
        .sign(&Ask::new("server", 2))?
        .write(dir.path(), "server")?;
    let (server, [client, _]) = alone(tools, dir.path()).await?;
    let mut flood = JoinSet::new();
    for turn in 0..FLOOD {
        if turn >= FLOOD_WIDTH {
            flood.join_next().await;
        }
        flood.spawn(bad_handshake(client));
    }
    while flood.join_next().await.is_some() {}
    let sent = AtomicUsize::new(FLOOD);
    eventually("every bad handshake is in the log", async || {
        // What was left out is told by the next line.
        bad_handshake(client).await;
        let sent = sent.fetch_add(1, SeqCst) + 1;
        let (lines, left_out, most) = rejections(&server)?;
        match (lines + left_out == sent, most <= LINES_MAX) {
            (true, true) => Ok(()),
            _ => Err(format!(
                "{sent} are {lines} lines, up to {most} a second, and {left_out} left out"
            )),
        }
    })
    .await
}

async fn bad_handshake(at: SocketAddr) {
    // How it is turned away is the server's affair.
    let _ = crate::http::request(at, "GET", "/version", "").await;
}

/// Lines in the log about clients that were turned away, those left out, and the most lines of a second.
fn rejections(server: &Server) -> Result<(usize, usize, usize), String> {
    let mut seconds = std::collections::BTreeMap::<String, usize>::new();
    let mut left_out = 0;
    for line in server
        .log_lines()
        .iter()
        .filter(|line| line.contains("rejected connection on client endpoint"))
    {
        let line: serde_json::Value = serde_json::from_str(line).map_err(text)?;
        let time = line["ts"].as_str().unwrap_or_default();
        *seconds
            .entry(time.split('.').next().unwrap_or_default().to_owned())
            .or_default() += 1;
        left_out += line["left-out"].as_u64().unwrap_or(0) as usize;
    }
    Ok((
        seconds.values().sum(),
        left_out,
        seconds.values().copied().max().unwrap_or(0),
    ))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
