//! Gateways, proxies and `etcdctl`, real and ours, that find a cluster by the SRV records of a domain.
//!
//! The DNS is that of [`crate::discovery`]. A line of `TRIALS` is what is asked of all of them: the flags, and what comes
//! of it: they serve, what they print meanwhile, or why they end.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::authority::{Authority, Record, host, service};
use crate::certs::{self, Ask};
use crate::discovery::{DOMAIN, asking, dns_address};
use crate::server::{Ports, Server};
use crate::tools::Tools;

/// How long a program may take to serve, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for, and what comes of it.
struct Trial {
    /// Flags that all of them have.
    flags: &'static [&'static str],
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The member whose record says TLS is reached.
    Secure,
    /// The member whose record says plain text is.
    Plain,
    /// Nobody to be believed is found, so that what `--endpoints` says counts.
    Fallback,
    /// There is nothing there.
    Nothing,
}

const INSECURE: &str = "--insecure-discovery";

const TRIALS: [Trial; 6] = [
    // Both services are there. Who is not to take what is insecure is left with the one that has TLS.
    Trial {
        flags: &["--discovery-srv=cluster.test"],
        outcome: Outcome::Secure,
    },
    // One is enough, and its name has a suffix.
    Trial {
        flags: &["--discovery-srv=cluster.test", "--discovery-srv-name=secure"],
        outcome: Outcome::Secure,
    },
    Trial {
        flags: &[
            "--discovery-srv=cluster.test",
            "--discovery-srv-name=plain",
            INSECURE,
        ],
        outcome: Outcome::Plain,
    },
    Trial {
        flags: &["--discovery-srv=cluster.test", "--discovery-srv-name=plain"],
        outcome: Outcome::Fallback,
    },
    // A domain of the machine's search list.
    Trial {
        flags: &["--discovery-srv=cluster", "--discovery-srv-name=plain", INSECURE],
        outcome: Outcome::Plain,
    },
    Trial {
        flags: &["--discovery-srv=cluster.test", "--discovery-srv-name=nobody"],
        outcome: Outcome::Nothing,
    },
];

/// A machine with a DNS of its own, and a cluster of one that it leads to.
struct Stage {
    server: Server,
    /// Where a proxy that is listed as a member listens.
    listed: u16,
    _dns: Authority,
    folder: PathBuf,
}

/// All programs of a kind, the real one first.
pub async fn all_find_members(tools: &Tools) -> Result<(), String> {
    let stage = Stage::new(tools).await?;
    let our_etcdctl = tools.with_our_tools().etcdctl;
    for (number, program) in [&tools.etcdctl, &our_etcdctl].into_iter().enumerate() {
        let etcdctl = asking(&stage.folder, &format!("etcdctl{number}"), program)?;
        for trial in &TRIALS {
            stage.ask(&etcdctl, trial).await?;
        }
    }
    let etcdctl = asking(&stage.folder, "our-etcdctl", &our_etcdctl)?;
    stage.refuse_another_domain(&etcdctl).await?;
    for (number, program) in [&tools.reference, &tools.ours].into_iter().enumerate() {
        let etcd = asking(&stage.folder, &format!("etcd{number}"), program)?;
        for trial in &TRIALS {
            for kind in [Kind::Gateway, Kind::GrpcProxy] {
                stage.proxy(&etcd, kind, trial, &our_etcdctl).await?;
            }
        }
        stage.refuse_loop(&etcd).await?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Gateway,
    GrpcProxy,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Gateway => "gateway",
            Kind::GrpcProxy => "grpc-proxy",
        }
    }

    /// What is logged when it serves.
    fn ready(self) -> &'static str {
        match self {
            Kind::Gateway => "ready to proxy client requests",
            Kind::GrpcProxy => "started gRPC proxy",
        }
    }

    /// Whether its clients have to speak TLS to reach a member that does.
    fn hands_on(self) -> bool {
        matches!(self, Kind::Gateway)
    }
}

impl Stage {
    async fn new(tools: &Tools) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?.keep();
        let authority = certs::Authority::new("authority")?;
        certs::write(&folder.join("ca.pem"), authority.pem())?;
        let ask = Ask {
            // Of the domain as a whole, as etcd's documentation asks for.
            hosts: vec![DOMAIN.to_owned(), format!("m1.{DOMAIN}"), "127.0.0.1".to_owned()],
            ..Ask::new("member", 2)
        };
        authority.sign(&ask)?.write(&folder, "member")?;
        authority.sign(&Ask::new("", 3))?.write(&folder, "nameless")?;
        let (ports, secured, listed) = (Ports::free(), Ports::next(), Ports::next());
        let flags = [
            format!(
                "--listen-client-urls=http://127.0.0.1:{},https://127.0.0.1:{secured}",
                ports.client
            ),
            format!("--cert-file={}", folder.join("member.pem").display()),
            format!("--key-file={}", folder.join("member.key").display()),
        ];
        let mut server = Server::prepared(&tools.ours, &flags, ports, Server::alone(ports))?;
        server.resume().await?;
        let dns = Authority::start(dns_address(), records(ports.client, secured, listed)).await;
        let dns = dns.map_err(|error| format!("no DNS server: {error}"))?;
        let resolv = format!("search test\nnameserver {}\n", dns.address.ip());
        certs::write(&folder.join("resolv.conf"), resolv)?;
        Ok(Stage {
            server,
            listed,
            _dns: dns,
            folder,
        })
    }

    fn authorities(&self, flag: &str) -> String {
        format!("{flag}={}", self.folder.join("ca.pem").display())
    }

    /// `etcdctl` itself is who finds the cluster. Nobody is where `--endpoints` says unless that is to count.
    async fn ask(&self, etcdctl: &Path, trial: &Trial) -> Result<(), String> {
        let endpoint = match trial.outcome {
            Outcome::Fallback => self.server.endpoint(),
            _ => format!("127.0.0.1:{}", self.listed),
        };
        let mut command = Command::new(etcdctl);
        command
            .arg(self.authorities("--cacert"))
            .arg(format!("--endpoints=http://{endpoint}"))
            // Proxies are strict unless they are told otherwise, and this tool the other way round.
            .arg(format!(
                "--insecure-discovery={}",
                trial.outcome == Outcome::Plain
            ))
            .args(trial.flags.iter().filter(|flag| **flag != INSECURE))
            .args(["put", "a", "1"]);
        let output = timeout(PATIENCE, command.kill_on_drop(true).output()).await;
        let output = output
            .map_err(|_| "etcdctl does not end")?
            .map_err(|error| error.to_string())?;
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let expected = match trial.outcome {
            Outcome::Nothing => "dns lookup errors: lookup _etcd-client-ssl-nobody._tcp.cluster.test",
            _ => "OK",
        };
        let ignored = format!(
            "ignoring discovered insecure endpoint \"http://m1.{DOMAIN}:{}\"",
            self.server.ports.client
        );
        let ignores = trial.flags.len() == 1 || trial.outcome == Outcome::Fallback;
        // The real one writes the dot behind a name.
        let is_good = printed.contains(expected)
            && printed.replace(".:", ":").contains(&ignored) == ignores
            && output.status.success() != (trial.outcome == Outcome::Nothing);
        match is_good {
            true => Ok(()),
            false => Err(format!("{} {:?}: {printed}", etcdctl.display(), trial.flags)),
        }
    }

    /// Records can be made up by anybody, so the certificate has to be for the domain. The real one means that too, but looks at
    /// the host.
    async fn refuse_another_domain(&self, etcdctl: &Path) -> Result<(), String> {
        let mut command = Command::new(etcdctl);
        command.arg(self.authorities("--cacert")).args([
            "--discovery-srv=other.test",
            "--insecure-discovery=false",
            "--command-timeout=2s",
            "get",
            "a",
        ]);
        let output = command.kill_on_drop(true).output().await;
        let output = output.map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Err(format!("{} believes in other.test", etcdctl.display())),
            false => Ok(()),
        }
    }

    /// A proxy finds the cluster, and is what `etcdctl` is told.
    async fn proxy(&self, etcd: &Path, kind: Kind, trial: &Trial, etcdctl: &Path) -> Result<(), String> {
        let listen = format!("127.0.0.1:{}", Ports::next());
        let flags = [
            format!("--listen-addr={listen}"),
            format!("--endpoints=http://{}", self.server.endpoint()),
        ];
        let file = |name: &str| self.folder.join(name).display().to_string();
        let credentials = match (kind, trial.outcome) {
            // The real proxy speaks TLS to everybody once it has authorities.
            (Kind::GrpcProxy, Outcome::Plain | Outcome::Fallback) => vec![],
            // And it does not start then without a certificate, which must have no name.
            (Kind::GrpcProxy, _) => vec![
                self.authorities("--cacert"),
                format!("--cert={}", file("nameless.pem")),
                format!("--key={}", file("nameless.key")),
            ],
            (Kind::Gateway, _) => vec![self.authorities("--trusted-ca-file")],
        };
        let mut command = Command::new(etcd);
        command.args([kind.name(), "start"]).args(flags).args(credentials);
        command.args(trial.flags);
        if let Kind::GrpcProxy = kind {
            // Where the real one looks for itself before it serves.
            command.arg(format!("--advertise-client-url={listen}"));
        }
        let told = |text: String| format!("{} {:?}: {text}", kind.name(), trial.flags);
        let child = match (start(command, kind.ready()).await?, trial.outcome) {
            (Started::Serves(child), Outcome::Secure | Outcome::Plain | Outcome::Fallback) => child,
            (Started::Ended(1, text), Outcome::Nothing) if text.contains("dns lookup errors: ") => {
                return Ok(());
            }
            (Started::Serves(_), _) => return Err(told("it serves".into())),
            (Started::Ended(status, text), _) => return Err(told(format!("it ends with {status}: {text}"))),
        };
        let scheme = match trial.outcome == Outcome::Secure && kind.hands_on() {
            true => "https",
            false => "http",
        };
        let mut command = Command::new(etcdctl);
        if scheme == "https" {
            command.arg(self.authorities("--cacert"));
        }
        command
            .arg(format!("--endpoints={scheme}://{listen}"))
            .args(["put", "a", "1"]);
        let output = command.kill_on_drop(true).output().await;
        let output = output.map_err(|error| error.to_string())?;
        drop(child);
        match output.status.success() {
            true => Ok(()),
            false => Err(told(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// A record leads to the gateway itself.
    async fn refuse_loop(&self, etcd: &Path) -> Result<(), String> {
        let mut command = Command::new(etcd);
        command
            .args(["gateway", "start", "--insecure-discovery"])
            .args(["--discovery-srv=cluster.test", "--discovery-srv-name=loop"])
            .arg(format!("--listen-addr=127.0.0.1:{}", self.listed));
        match start(command, Kind::Gateway.ready()).await? {
            Started::Ended(1, text) if text.contains("should not resolve to the gateway listen addr") => {
                Ok(())
            }
            Started::Ended(status, text) => Err(format!("it ends with {status}: {text}")),
            Started::Serves(_) => Err("it talks to itself".to_owned()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What is left is the machine's own business.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn records(plain: u16, secured: u16, listed: u16) -> Vec<Record> {
    let name = format!("m1.{DOMAIN}.");
    let at = |kind: &str, domain: &str, port| service(&format!("_{kind}._tcp.{domain}."), 0, &name, port);
    vec![
        host(&name, Ipv4Addr::LOCALHOST.into()),
        at("etcd-client-ssl", DOMAIN, secured),
        at("etcd-client", DOMAIN, plain),
        at("etcd-client-ssl-secure", DOMAIN, secured),
        at("etcd-client-plain", DOMAIN, plain),
        at("etcd-client-loop", DOMAIN, listed),
        at("etcd-client-ssl", "other.test", secured),
    ]
}

enum Started {
    Serves(Child),
    /// With a status, having said that.
    Ended(i32, String),
}

/// Starts a program and waits until it has logged a text, or has ended.
async fn start(mut command: Command, text: &str) -> Result<Started, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let pipes = child.stderr.take().zip(child.stdout.take());
    let (stderr, mut stdout) = pipes.ok_or("no output")?;
    let mut lines = BufReader::new(stderr).lines();
    let watch = async {
        let mut said = String::new();
        while let Some(line) = lines.next_line().await? {
            if line.contains(text) {
                return Ok(None);
            }
            said.push_str(&line);
            said.push('\n');
        }
        // Some of its last words are for the other stream.
        stdout.read_to_string(&mut said).await?;
        Ok(Some(said))
    };
    let watched = timeout(PATIENCE, watch).await.map_err(|_| "it says nothing")?;
    match watched.map_err(|error: std::io::Error| error.to_string())? {
        None => {
            // Nobody reads on, and it must not wait for that.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            Ok(Started::Serves(child))
        }
        Some(said) => {
            let status = child.wait().await.map_err(|error| error.to_string())?;
            Ok(Started::Ended(status.code().unwrap_or(-1), said))
        }
    }
}
