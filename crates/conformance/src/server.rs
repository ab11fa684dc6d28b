//! One etcd process, real or ours, on free loopback ports with a folder of its own: alone, or a member of a
//! [`crate::cluster`].

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::http;

/// How long a server may take to start or to stop. Both take well below a second; a loaded machine takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often to look whether a server is ready or gone.
const LOOK: Duration = Duration::from_millis(10);

/// A server process. Dropping it kills the process and removes the folder.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    flags: Vec<String>,
    folder: TempDir,
    /// The three listeners, the same ones after every start.
    pub ports: Ports,
    place: Place,
    child: Option<Child>,
}

/// Who a server is among the members of its cluster.
#[derive(Clone, Debug)]
pub struct Place {
    /// The member's name; not `default`, which both servers warn of.
    pub name: String,
    /// The port of its host where the others find it.
    pub advertised: u16,
    /// The flag `--initial-cluster`. Empty if other flags say how the member finds the others.
    pub cluster: String,
    /// Whether the cluster is there already and this member joins it.
    pub joins: bool,
}

impl Place {
    /// A new cluster, whose members are found in another way than by `--initial-cluster`.
    pub fn found(name: &str, ports: Ports) -> Self {
        Self {
            name: name.to_owned(),
            advertised: ports.peer,
            cluster: String::new(),
            joins: false,
        }
    }

    fn initial_cluster(&self) -> Option<String> {
        (!self.cluster.is_empty()).then(|| format!("--initial-cluster={}", self.cluster))
    }

    fn state(&self) -> &'static str {
        if self.joins { "existing" } else { "new" }
    }
}

/// Where a server runs.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Its address.
    pub address: Ipv4Addr,
    /// A process in its network namespace, if that is not the one of this process.
    pub space: Option<u32>,
}

impl Host {
    /// This machine, seen from itself.
    pub const HERE: Self = Self {
        address: Ipv4Addr::LOCALHOST,
        space: None,
    };

    /// A command that runs there, and does not outlive who started it if that is somewhere else.
    pub fn command(&self, program: &Path) -> Command {
        let Some(space) = self.space else {
            return Command::new(program);
        };
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/proc/{space}/ns/net"))
            .arg(program);
        command
    }
}

/// The three ports of an etcd, all on one host.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Whose they are.
    pub host: Host,
    /// gRPC and HTTP for clients.
    pub client: u16,
    /// Raft.
    pub peer: u16,
    /// Metrics and health.
    pub metrics: u16,
}

impl Server {
    /// Starts a server on an empty folder and waits until it answers. `flags` come after the usual ones.
    pub async fn start(program: &Path, flags: &[String]) -> Result<Self, String> {
        let ports = Ports::free();
        let mut server = Self::prepared(program, flags, ports, Self::alone(ports))?;
        server.resume().await?;
        Ok(server)
    }

    /// A cluster of one member.
    pub fn alone(ports: Ports) -> Place {
        Place {
            name: NAME.to_owned(),
            advertised: ports.peer,
            cluster: ports.initial_cluster(),
            joins: false,
        }
    }

    /// A server that is not started yet, on an empty folder.
    pub fn prepared(program: &Path, flags: &[String], ports: Ports, place: Place) -> Result<Self, String> {
        Ok(Self {
            program: program.to_owned(),
            flags: flags.to_vec(),
            folder: tempfile::tempdir().map_err(|e| e.to_string())?,
            ports,
            place,
            child: None,
        })
    }

    /// Like [`Server::start`], on a data folder made by somebody else, which is moved to the server's own place.
    /// It was made for the peer URL of `ports`.
    pub async fn start_on(program: &Path, data: &Path, ports: Ports) -> Result<Self, String> {
        let mut server = Self::prepared(program, &[], ports, Self::alone(ports))?;
        fs::rename(data, server.data()).map_err(|e| format!("{}: {e}", data.display()))?;
        server.resume().await?;
        Ok(server)
    }

    /// Starts the process again after [`Server::stop`] or [`Server::kill`], on the same folder and ports.
    pub async fn resume(&mut self) -> Result<(), String> {
        self.spawn()?;
        self.ready().await
    }

    /// Starts the process and does not wait for anything.
    pub fn spawn(&mut self) -> Result<(), String> {
        let [client, peer, metrics] =
            [self.ports.client, self.ports.peer, self.ports.metrics].map(|port| self.ports.at(port));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(|e| e.to_string())?;
        let child = self
            .ports
            .host
            .command(&self.program)
            .arg(format!("--name={}", self.place.name))
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls=http://{client}"))
            .arg(format!("--advertise-client-urls=http://{client}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
            .args(self.place.initial_cluster())
            .arg(format!("--initial-cluster-state={}", self.place.state()))
            .arg(format!("--listen-metrics-urls=http://{metrics}"))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits for `/health` to say yes, which takes an elected leader and a read through it. Alarms do not count:
    /// a server with one is as ready as it gets.
    pub async fn ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.exited()? {
                return Err(format!(
                    "the server ended with {status}; its log ends with\n{}",
                    self.last_words()
                ));
            }
            match http::request(
                self.address(),
                "GET",
                "/health?exclude=NOSPACE&exclude=CORRUPT",
                "",
            )
            .await
            {
                Ok(response) if response.status == "200 OK" => return Ok(()),
                _ => sleep(LOOK).await,
            }
        }
        Err(format!(
            "the server does not get ready; its log ends with\n{}",
            self.last_words()
        ))
    }

    /// Asks the process to end as a service manager does, and waits for it.
    pub async fn stop(&mut self) -> Result<ExitStatus, String> {
        self.signal(Signal::TERM)?;
        self.gone().await
    }

    /// `kill -9`: what was not handed to the kernel is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the process where it is, as a machine that hangs; nobody is told. [`Server::thaw`] lets it go on.
    pub fn freeze(&self) -> Result<(), String> {
        self.signal(Signal::STOP)
    }

    /// Ends what [`Server::freeze`] began.
    pub fn thaw(&self) -> Result<(), String> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let child = self.child.as_ref().ok_or("the server is not running")?;
        kill_process(Pid::from_child(child), signal).map_err(|e| e.to_string())
    }

    /// The process's id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Waits for the process to end by itself.
    pub async fn gone(&mut self) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.exited()? {
                self.child = None;
                return Ok(status);
            }
            sleep(LOOK).await;
        }
        Err("the server does not stop".into())
    }

    /// From now on the server is started as another member, or in another way.
    pub fn set_place(&mut self, place: Place) {
        self.place = place;
    }

    /// From now on the server is started with one more flag.
    pub fn add_flag(&mut self, flag: String) {
        self.flags.push(flag);
    }

    /// From now on the server is this program.
    pub fn set_program(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// Takes away all that the stopped server has written.
    pub fn wipe(&self) -> Result<(), String> {
        fs::remove_dir_all(self.data()).map_err(|e| e.to_string())
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>, String> {
        let child = self.child.as_mut().ok_or("the server is not running")?;
        child.try_wait().map_err(|e| e.to_string())
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.ports.at(self.ports.client)
    }

    /// The address for clients, as they are told.
    pub fn endpoint(&self) -> String {
        self.address().to_string()
    }

    /// A folder that lives as long as this server, for the files of a test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The member's name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// The port of its host where the other members find it.
    pub fn advertised(&self) -> u16 {
        self.place.advertised
    }

    /// The peer URL the member is known by.
    pub fn peer_url(&self) -> String {
        format!("http://{}", self.ports.at(self.place.advertised))
    }

    /// `text` with this server's addresses and folder replaced by names, which end with `number`.
    pub fn masked(&self, text: &str, number: &str) -> String {
        let text = text.replace(&*self.folder.path().to_string_lossy(), &format!("FOLDER{number}"));
        self.ports.masked(&text, number)
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Whether the server has logged such a text.
    pub fn has_logged(&self, text: &str) -> bool {
        let log = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&log).contains(text)
    }

    /// The server's log.
    pub fn log_lines(&self) -> Vec<String> {
        let log = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().map(str::to_owned).collect()
    }

    /// The end of the server's log, for a report.
    pub fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the ports for tests begin, in blocks.
const FIRST_PORT: u32 = 20_000;
const BLOCKS: u32 = 30;
const BLOCK_PORTS: u32 = 400;

/// The block of this process.
static BLOCK: LazyLock<Block> = LazyLock::new(Block::take);

/// Ports that no other test program takes. A look whether a port is free is not enough: it is free until the server
/// listens there.
struct Block {
    first: u16,
    /// Locked until the process ends.
    _lock: Option<File>,
}

impl Block {
    /// Takes a block that nobody has; should all be taken, one by chance.
    fn take() -> Self {
        let start = std::process::id();
        let blocks = (0..BLOCKS).map(|turn| (start + turn) % BLOCKS);
        let first = |block| (FIRST_PORT + block * BLOCK_PORTS) as u16;
        let locked = |block| {
            let path = std::env::temp_dir().join(format!("keelson-test-ports-{}", first(block)));
            let file = File::options().create(true).append(true).open(path).ok()?;
            flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
            Some(Self {
                first: first(block),
                _lock: Some(file),
            })
        };
        blocks.clone().find_map(locked).unwrap_or(Self {
            first: first(start % BLOCKS),
            _lock: None,
        })
    }
}

/// The name of a member that is alone.
const NAME: &str = "m1";

impl Ports {
    /// Three ports nobody listens on. They are taken from below the range the kernel gives to outgoing connections
    /// (32768 and up on Linux), so none can be taken away between this look and the server's start.
    pub fn free() -> Self {
        Self {
            host: Host::HERE,
            client: Self::next(),
            peer: Self::next(),
            metrics: Self::next(),
        }
    }

    /// etcd's own ports, on a host where nobody else is.
    pub fn usual(host: Host) -> Self {
        Self {
            host,
            client: 2379,
            peer: 2380,
            metrics: 2381,
        }
    }

    /// One of the ports with its host.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.host.address, port).into()
    }

    /// One more such port.
    pub fn next() -> u16 {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let port = BLOCK.first + (NEXT.fetch_add(1, Ordering::Relaxed) % BLOCK_PORTS) as u16;
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    }

    /// The peer URL the member is known by.
    pub fn peer_url(&self) -> String {
        format!("http://{}", self.at(self.peer))
    }

    /// `text` with the addresses replaced by names that end with `number`.
    pub fn masked(&self, text: &str, number: &str) -> String {
        let names = [
            (self.client, "CLIENT"),
            (self.peer, "PEER"),
            (self.metrics, "METRICS"),
        ];
        names.into_iter().fold(text.to_owned(), |text, (port, name)| {
            text.replace(&self.at(port).to_string(), &format!("{name}{number}"))
        })
    }

    /// The flag `--initial-cluster` for a cluster of this one member.
    pub fn initial_cluster(&self) -> String {
        format!("{NAME}={}", self.peer_url())
    }

    /// The member's name in that flag.
    pub fn name(&self) -> &'static str {
        NAME
    }
}
