//! Who is let in by which listener, as a table; `curl` and `openssl s_client` knock, at the real etcd and at ours.
//!
//! A client is let in if the server answers a request of it. That the handshake succeeds is not enough to know: in
//! TLS 1.3 a client is done before the server has looked at its certificate.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rcgen::ExtendedKeyUsagePurpose;

use crate::certs::{Ask, Authority, self_signed, write};
use crate::harness::{Stop, runtime};
use crate::server::{Ports, Server};
use crate::tools::Tools;

/// A port that clients knock at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// `--listen-client-urls` alone: gRPC and HTTP.
    Client,
    /// The same beside the next: gRPC only.
    Grpc,
    /// `--listen-client-http-urls`.
    Http,
    /// `--listen-metrics-urls`.
    Metrics,
    /// `--listen-peer-urls`.
    Peer,
    /// One without TLS.
    Plain,
}

use Listener::{Client, Grpc, Http, Metrics, Peer, Plain};

/// Those with TLS.
const SECURED: [Listener; 5] = [Client, Grpc, Http, Metrics, Peer];
/// Those with TLS that are not for members.
const FOR_CLIENTS: &[Listener] = &[Client, Grpc, Http, Metrics];
const EVERYBODY: &[Listener] = &SECURED;
const NOBODY: &[Listener] = &[];

/// How the servers are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// With an authority, and a list of what is revoked.
    Usual,
    /// With lists of names besides.
    Names,
    /// With TLS 1.3 only.
    Newest,
    /// Up to TLS 1.2.
    Older,
    /// With one cipher suite for TLS 1.2.
    Suite,
}

impl Variant {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Variant::Usual => &[],
            Variant::Names => &[
                "--client-cert-allowed-hostname=good.example",
                "--peer-cert-allowed-cn=member",
            ],
            Variant::Newest => &["--tls-min-version=TLS1.3"],
            Variant::Older => &["--tls-max-version=TLS1.2"],
            Variant::Suite => &["--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
        }
    }
}

/// Who knocks.
#[derive(Clone, Copy, Debug)]
enum Knock {
    /// With this certificate; whoever is named by an empty one shows none.
    As(&'static str),
    /// As `member`, and trusts another authority than the server's.
    Distrusting,
    /// As `member`, with this version of TLS only.
    With(Tls),
    /// As `member`, with TLS 1.2 and this suite only.
    Suite(&'static str),
    /// Without TLS.
    Plainly,
}

#[derive(Clone, Copy, Debug)]
enum Tls {
    V1_1,
    V1_2,
    V1_3,
}

impl Tls {
    fn number(self) -> &'static str {
        match self {
            Tls::V1_1 => "1.1",
            Tls::V1_2 => "1.2",
            Tls::V1_3 => "1.3",
        }
    }
}

/// A row: who knocks where, and by which listeners that one is let in.
struct Row(Variant, &'static str, Knock, &'static [Listener]);

use Knock::{As, Distrusting, Plainly, With};
use Variant::{Names, Newest, Older, Suite, Usual};

const TABLE: &[Row] = &[
    Row(Usual, "a certificate of the authority", As("member"), EVERYBODY),
    Row(Usual, "no certificate", As(""), NOBODY),
    Row(
        Usual,
        "a certificate of another authority",
        As("stranger"),
        NOBODY,
    ),
    Row(Usual, "a certificate of its own", As("itself"), NOBODY),
    Row(Usual, "a revoked certificate", As("revoked"), NOBODY),
    Row(Usual, "an expired certificate", As("expired"), NOBODY),
    Row(Usual, "a certificate that is not valid yet", As("early"), NOBODY),
    Row(Usual, "a certificate for servers only", As("for-servers"), NOBODY),
    Row(
        Usual,
        "a certificate for clients only",
        As("for-clients"),
        EVERYBODY,
    ),
    Row(Usual, "one vouched for by another", As("vouched"), EVERYBODY),
    Row(
        Usual,
        "one vouched for by a revoked one",
        As("vouched-badly"),
        NOBODY,
    ),
    Row(Usual, "a certificate without a host", As("hostless"), EVERYBODY),
    Row(
        Usual,
        "a certificate for another address",
        As("elsewhere"),
        &[Client, Grpc, Http],
    ),
    Row(Usual, "trust in another authority", Distrusting, NOBODY),
    Row(Usual, "TLS 1.1", With(Tls::V1_1), NOBODY),
    Row(Usual, "TLS 1.2", With(Tls::V1_2), EVERYBODY),
    Row(Usual, "TLS 1.3", With(Tls::V1_3), EVERYBODY),
    Row(
        Usual,
        "a suite without forward secrecy",
        Knock::Suite("AES128-GCM-SHA256"),
        NOBODY,
    ),
    Row(Usual, "no TLS", Plainly, &[Plain]),
    Row(Names, "the right names", As("named"), EVERYBODY),
    Row(Names, "the right common name", As("member"), &[Peer]),
    Row(Names, "the right host name", As("misnamed"), FOR_CLIENTS),
    Row(Names, "no certificate", As(""), NOBODY),
    Row(Names, "names of another authority", As("stranger"), NOBODY),
    Row(Newest, "TLS 1.2", With(Tls::V1_2), NOBODY),
    Row(Newest, "TLS 1.3", With(Tls::V1_3), EVERYBODY),
    Row(Older, "TLS 1.2", With(Tls::V1_2), EVERYBODY),
    Row(Older, "TLS 1.3", With(Tls::V1_3), NOBODY),
    Row(
        Suite,
        "the suite",
        Knock::Suite("ECDHE-ECDSA-AES128-GCM-SHA256"),
        EVERYBODY,
    ),
    Row(
        Suite,
        "another suite",
        Knock::Suite("ECDHE-ECDSA-AES256-GCM-SHA384"),
        NOBODY,
    ),
    Row(
        Suite,
        "TLS 1.3, whose suites are not for choice",
        With(Tls::V1_3),
        EVERYBODY,
    ),
];

/// Where the real etcd, of 3.5.30, lets in others than the table says; and why.
const DIFFERENCES: &[(&str, &[Listener], &str)] = &[
    ("a revoked certificate", &[Grpc], GRPC_ONLY),
    ("one vouched for by a revoked one", &[Grpc], GRPC_ONLY),
];

/// It has been put right in 3.7.0.
const GRPC_ONLY: &str = "GHSA-3wh4: a port for gRPC alone does not look at the list of revocations";

/// Lets everybody of a variant knock at both servers.
pub fn check(tools: &Tools, variant: Variant) -> Result<(), Stop> {
    for tool in ["curl", "openssl"] {
        if Command::new(tool)
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            return Err(Stop::Impossible(format!("there is no {tool} here")));
        }
    }
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    certificates(dir.path())?;
    let mut report = String::new();
    for program in [&tools.reference, &tools.ours] {
        let real = *program == tools.reference || !tools.ours_is_newer();
        let doors = runtime()?.block_on(Doors::open(program, dir.path(), variant))?;
        for row in TABLE.iter().filter(|row| row.0 == variant) {
            doors.try_row(dir.path(), row, real, &mut report);
        }
    }
    match report.is_empty() {
        true => Ok(()),
        false => Err(report.into()),
    }
}

/// Two servers, since a port is either for gRPC and HTTP or has others beside it.
struct Doors {
    whole: Server,
    split: Server,
    ports: Vec<(Listener, u16)>,
}

impl Doors {
    async fn open(program: &Path, dir: &Path, variant: Variant) -> Result<Self, String> {
        let [one, two] = [Ports::free(), Ports::free()];
        let [client, grpc, http] = [Ports::next(), Ports::next(), Ports::next()];
        let url = |scheme: &str, port| format!("{scheme}://127.0.0.1:{port}");
        let tls = |port| url("https", port);
        let whole = vec![
            format!("--listen-client-urls={},{}", url("http", one.client), tls(client)),
            format!("--advertise-client-urls={}", tls(client)),
        ];
        let split = vec![
            format!("--listen-client-urls={}", tls(grpc)),
            format!(
                "--listen-client-http-urls={},{}",
                url("http", two.client),
                tls(http)
            ),
            format!("--advertise-client-urls={}", tls(grpc)),
        ];
        let mut servers = Vec::new();
        for (ports, more) in [(one, whole), (two, split)] {
            let flags = [flags(dir, ports), more].concat();
            let flags = [
                flags,
                variant.flags().iter().map(|flag| flag.to_string()).collect(),
            ]
            .concat();
            let mut place = Server::alone(ports);
            place.cluster = format!("{}={}", ports.name(), tls(ports.peer));
            let mut server = Server::prepared(program, &flags, ports, place)?;
            server.resume().await?;
            servers.push(server);
        }
        let [whole, split] = <[Server; 2]>::try_from(servers).map_err(|_| "there are two servers")?;
        let ports = vec![
            (Client, client),
            (Grpc, grpc),
            (Http, http),
            (Metrics, one.metrics),
            (Peer, one.peer),
            (Plain, one.client),
        ];
        Ok(Self { whole, split, ports })
    }

    /// Reports where a row does not hold.
    fn try_row(&self, dir: &Path, Row(_, name, knock, expected): &Row, real: bool, report: &mut String) {
        let differs = DIFFERENCES.iter().filter(|(of, ..)| real && of == name);
        let differs: Vec<_> = differs.flat_map(|(_, at, _)| at.iter()).collect();
        let whose = if real { "the real etcd" } else { "ours" };
        for at in SECURED.into_iter().chain([Plain]) {
            let expected = expected.contains(&at) != differs.contains(&&at);
            match self.knock(dir, at, *knock) {
                Ok(told) => {
                    for (tool, is_in) in told.into_iter().filter(|(_, is_in)| *is_in != expected) {
                        let what = if is_in { "lets in" } else { "turns away" };
                        report.push_str(&format!("{whose}: {at:?} {what} {tool} with {name}\n"));
                    }
                }
                Err(error) => report.push_str(&format!("{whose}: {error}\n")),
            }
        }
    }

    /// Which tools were let in, of those that know how to knock like that.
    fn knock(&self, dir: &Path, at: Listener, knock: Knock) -> Result<Vec<(&'static str, bool)>, String> {
        let port = self.ports.iter().find(|(listener, _)| *listener == at);
        let port = port.map_or(0, |(_, port)| *port);
        let is_in = curl(dir, at, port, knock)?;
        let mut told = vec![("curl", is_in)];
        if !matches!(knock, Plainly) {
            told.push(("openssl", s_client(dir, at, port, knock)?));
        }
        match [&self.whole, &self.split]
            .iter()
            .all(|server| server.pid().is_some())
        {
            true => Ok(told),
            false => Err("a server has ended".into()),
        }
    }
}

fn flags(dir: &Path, ports: Ports) -> Vec<String> {
    let peer = format!("https://127.0.0.1:{}", ports.peer);
    let mut flags = vec![
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--listen-metrics-urls=https://127.0.0.1:{}", ports.metrics),
        "--client-cert-auth".into(),
        "--peer-client-cert-auth".into(),
    ];
    let files = [
        ("cert-file", "named.pem"),
        ("key-file", "named.key"),
        ("trusted-ca-file", "ca.pem"),
    ];
    let files = files
        .into_iter()
        .flat_map(|(flag, file)| [(flag.to_owned(), file), (format!("peer-{flag}"), file)]);
    let lists = ["client-crl-file", "peer-crl-file"].map(|flag| (flag.to_owned(), "crl"));
    flags.extend(
        files
            .chain(lists)
            .map(|(flag, file)| format!("--{flag}={}", dir.join(file).display())),
    );
    flags
}

/// Serial numbers on the list of revocations.
const REVOKED: u64 = 66;
const REVOKED_AUTHORITY: u64 = 67;

fn certificates(dir: &Path) -> Result<(), String> {
    let (ours, theirs) = (Authority::new("ours")?, Authority::new("theirs")?);
    write(&dir.join("ca.pem"), ours.pem())?;
    write(&dir.join("other.pem"), theirs.pem())?;
    write(&dir.join("crl"), ours.revoke(&[REVOKED, REVOKED_AUTHORITY])?)?;
    let named = ["127.0.0.1", "good.example"].map(str::to_owned).to_vec();
    let ask = |serial| Ask::new("member", serial);
    for (file, ask) in [
        ("member", ask(2)),
        (
            "named",
            Ask {
                hosts: named.clone(),
                ..ask(3)
            },
        ),
        (
            "misnamed",
            Ask {
                hosts: named.clone(),
                ..Ask::new("other", 4)
            },
        ),
        ("revoked", ask(REVOKED)),
        (
            "expired",
            Ask {
                years: (2000, 2001),
                ..ask(5)
            },
        ),
        (
            "early",
            Ask {
                years: (2110, 2120),
                ..ask(6)
            },
        ),
        (
            "for-servers",
            Ask {
                purposes: vec![ExtendedKeyUsagePurpose::ServerAuth],
                ..ask(7)
            },
        ),
        (
            "for-clients",
            Ask {
                purposes: vec![ExtendedKeyUsagePurpose::ClientAuth],
                ..ask(8)
            },
        ),
        (
            "hostless",
            Ask {
                hosts: vec![],
                ..ask(9)
            },
        ),
        (
            "elsewhere",
            Ask {
                hosts: vec!["10.1.2.3".into()],
                ..ask(10)
            },
        ),
    ] {
        ours.sign(&ask)?.write(dir, file)?;
    }
    let stranger = Ask {
        hosts: named,
        ..ask(2)
    };
    theirs.sign(&stranger)?.write(dir, "stranger")?;
    self_signed(&ask(11))?.write(dir, "itself")?;
    ours.vouch("between", 12)?.sign(&ask(13))?.write(dir, "vouched")?;
    let revoked = ours.vouch("revoked", REVOKED_AUTHORITY)?;
    revoked.sign(&ask(14))?.write(dir, "vouched-badly")
}

/// The files of who knocks, by what they are for: whom to trust, the certificate, its key.
fn files(dir: &Path, knock: Knock) -> (PathBuf, Option<[PathBuf; 2]>) {
    let authority = match knock {
        Distrusting => "other.pem",
        _ => "ca.pem",
    };
    let name = match knock {
        As(name) => name,
        _ => "member",
    };
    let pair = ["pem", "key"].map(|end| dir.join(format!("{name}.{end}")));
    (dir.join(authority), (!name.is_empty()).then_some(pair))
}

/// The path every such listener answers with success.
fn path(at: Listener) -> &'static str {
    match at {
        Grpc => "/grpc.health.v1.Health/Check",
        Metrics => "/health",
        _ => "/version",
    }
}

/// How `curl` ends when a server does not want it: an alert in place of HTTP, an answer that breaks off, no handshake, nothing to read or nobody to
/// write to, an alert, a certificate it does not trust.
const CURL_TURNED_AWAY: [i32; 7] = [1, 18, 35, 52, 55, 56, 60];

fn curl(dir: &Path, at: Listener, port: u16, knock: Knock) -> Result<bool, String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]);
    command.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
    match at {
        Grpc => {
            let request = dir.join("request");
            // A message without a byte, in its frame.
            write(&request, [0; 5])?;
            command.args([
                "--http2-prior-knowledge",
                "--header",
                "content-type: application/grpc",
            ]);
            command
                .args(["--header", "te: trailers", "--data-binary"])
                .arg(format!("@{}", request.display()));
        }
        _ => {
            command.arg("--http1.1");
        }
    }
    let scheme = if let Plainly = knock { "http" } else { "https" };
    let (authority, pair) = files(dir, knock);
    command.arg("--cacert").arg(authority);
    if let Some([cert, key]) = pair {
        command.arg("--cert").arg(cert).arg("--key").arg(key);
    }
    match knock {
        With(version) => {
            let number = version.number();
            command.arg(format!("--tlsv{number}")).args([
                "--tls-max",
                number,
                "--ciphers",
                "DEFAULT@SECLEVEL=0",
            ]);
        }
        Knock::Suite(suite) => {
            command.args(["--tlsv1.2", "--tls-max", "1.2", "--ciphers", suite]);
        }
        _ => {}
    }
    let url = format!("{scheme}://127.0.0.1:{port}{}", path(at));
    let output = command.arg(url).output().map_err(|error| error.to_string())?;
    let code = output.status.code().unwrap_or_default();
    match (&*output.stdout, code) {
        (b"200", 0) => Ok(true),
        (_, code) if CURL_TURNED_AWAY.contains(&code) => Ok(false),
        _ => Err(odd("curl", at, knock, &output)),
    }
}

/// The beginning of HTTP/2: its preface and empty settings.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn s_client(dir: &Path, at: Listener, port: u16, knock: Knock) -> Result<bool, String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-verify_return_error", "-connect"]);
    command.arg(format!("127.0.0.1:{port}"));
    let (authority, pair) = files(dir, knock);
    command.arg("-CAfile").arg(authority);
    if let Some([cert, key]) = pair {
        command
            .arg("-cert_chain")
            .arg(&cert)
            .arg("-cert")
            .arg(cert)
            .arg("-key")
            .arg(key);
    }
    match knock {
        With(version) => {
            command.arg(format!("-tls{}", version.number().replace('.', "_")));
            command.args(["-cipher", "DEFAULT@SECLEVEL=0"]);
        }
        Knock::Suite(suite) => {
            command.args(["-tls1_2", "-cipher", suite]);
        }
        _ => {}
    }
    let request = match at {
        Grpc => {
            command.args(["-alpn", "h2"]);
            HTTP2.to_vec()
        }
        _ => format!(
            "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            path(at)
        )
        .into_bytes(),
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut input = child.stdin.take();
    if let Some(input) = &mut input {
        // It may have been turned away by now.
        let _ = input.write_all(&request);
    }
    let mut first = [0];
    let read = child
        .stdout
        .as_mut()
        .map_or(Ok(0), |output| output.read(&mut first));
    let is_in = read.map_err(|error| error.to_string())? == 1;
    // What it says after the first byte is of no interest.
    let _ = child.kill();
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    // The real etcd looks at its list after the handshake and then hangs up without a word.
    match !String::from_utf8_lossy(&output.stderr).contains("connect:errno") {
        true => Ok(is_in),
        false => Err(odd("openssl", at, knock, &output)),
    }
}

fn odd(tool: &str, at: Listener, knock: Knock, output: &Output) -> String {
    let says = String::from_utf8_lossy(&output.stderr);
    format!(
        "{tool} at {at:?} as {knock:?} ends with {}: {says}",
        output.status
    )
}
