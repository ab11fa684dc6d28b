//! One file of settings for a real etcd and for ours, and what comes of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tokio::net::TcpStream;

use crate::http;
use crate::server::{Ports, Server};
use crate::tools::Tools;

/// Where a file puts `FOLDER`, and `CLIENT`, `PEER` and `METRICS`, the addresses.
fn filled(file: &str, folder: &Path, ports: Ports) -> String {
    let address = |port| ports.at(port).to_string();
    file.replace("FOLDER", &folder.display().to_string())
        .replace("CLIENT", &address(ports.client))
        .replace("PEER", &address(ports.peer))
        .replace("METRICS", &address(ports.metrics))
}

/// What every file has to say for a member on ports of its own.
const PLACE: &str = "\
name: by-file
data-dir: FOLDER/data
listen-client-urls: http://CLIENT
advertise-client-urls: http://CLIENT,http://other.example:2379
listen-peer-urls: http://PEER
initial-advertise-peer-urls: http://PEER
initial-cluster: by-file=http://PEER
listen-metrics-urls: http://METRICS
";

const YAML: &str = "\
initial-cluster-token: of-its-own
max-txn-ops: 010
max-request-bytes: 1_024
cors: http://a.example:80
log-outputs: [FOLDER/own.log]
log-level: warn
auto-compaction-mode: revision
auto-compaction-retention: '5'
grpc-keepalive-interval: 1e9
metrics: extensive
no-such-key: 1
";

const WORDS: &str = "\
# Booleans and nothings as YAML 1.1 has them.
initial-cluster-token: ~
enable-grpc-gateway: Off
pre-vote: No
max-txn-ops:
host-whitelist: 'a.example,127.0.0.1'
";

/// The same server comes of the same file.
pub async fn the_same_server(tools: &Tools) -> Result<(), String> {
    let json = json(
        PLACE,
        "\"max-txn-ops\": 2, \"enable-grpc-gateway\": true, \"cors\": \"\"",
    );
    for file in [[PLACE, YAML].concat(), [PLACE, WORDS].concat(), json] {
        let ports = Ports::free();
        let theirs = seen(&tools.reference, &file, ports).await?;
        let ours = seen(&tools.ours, &file, ports).await?;
        if theirs != ours {
            return Err(format!(
                "of this file\n{file}\netcd makes\n{theirs:#?}\nand ours\n{ours:#?}"
            ));
        }
    }
    Ok(())
}

/// The lines of a file as one JSON object, with more members.
fn json(lines: &str, more: &str) -> String {
    let members = lines.lines().filter_map(|line| line.split_once(": "));
    let members: Vec<_> = members
        .map(|(key, value)| format!("\t{key:?}: {value:?}"))
        .collect();
    format!("{{\n{},\n\t{more}\n}}\n", members.join(",\n"))
}

/// What the settings of a file have done, as far as clients can see.
async fn seen(program: &Path, file: &str, ports: Ports) -> Result<Vec<String>, String> {
    let mut server = Server::prepared(program, &[], ports, Server::alone(ports))?;
    let path = server.folder().join("etcd.yml");
    fs::write(&path, filled(file, server.folder(), ports)).map_err(|e| e.to_string())?;
    server.add_flag(format!("--config-file={}", path.display()));
    server.resume().await?;
    let member_list = ("/v3/cluster/member/list", "{}".to_owned());
    let operation = r#"{"requestRange":{"key":"YQ=="}}"#;
    let txn = |count: usize| {
        (
            "/v3/kv/txn",
            format!("{{\"success\":[{}]}}", vec![operation; count].join(",")),
        )
    };
    let put = |length: usize| {
        (
            "/v3/kv/put",
            format!(r#"{{"key":"YQ==","value":"{}"}}"#, "YWFh".repeat(length / 3)),
        )
    };
    let mut seen = Vec::new();
    for (path, body) in [member_list, txn(2), txn(3), txn(8), txn(9), put(600), put(1200)] {
        seen.push(format!("{path}: {}", answer(&server, path, "", &body).await?));
    }
    for headers in [
        "Origin: http://a.example:80\r\n",
        "Origin: http://b.example:80\r\n",
        "Host: b.example\r\n",
    ] {
        seen.push(format!(
            "{headers:?}: {}",
            answer(&server, "/v3/maintenance/status", headers, "").await?
        ));
    }
    let metrics = http::request(ports.at(ports.metrics), "GET", "/metrics", "").await;
    let metrics = metrics.map_err(|e| e.to_string())?;
    let has = |name: &str| String::from_utf8_lossy(&metrics.body).contains(name);
    seen.push(format!("times of calls: {}", has("grpc_server_handling_seconds")));
    let log = fs::read_to_string(server.folder().join("own.log")).unwrap_or_default();
    seen.push(format!("talkative: {}", log.contains("\"level\":\"info\"")));
    seen.push(format!(
        "silent: {}",
        !server.has_logged("\"msg\":\"ready to serve client requests\"")
    ));
    server.stop().await?;
    Ok(seen)
}

/// Of an answer, what both servers agree on: the fields of a status differ by release, and so does the status that a
/// page of a foreign origin gets.
async fn answer(server: &Server, path: &str, headers: &str, body: &str) -> Result<String, String> {
    let at = server.address();
    let stream = TcpStream::connect(at).await.map_err(|e| e.to_string())?;
    let response = http::exchange(stream, at, "POST", path, headers, body).await;
    let response = response.map_err(|e| e.to_string())?;
    let allowed = response.header("access-control-allow-origin");
    Ok(match headers {
        "" => format!(
            "{} {}",
            response.status,
            String::from_utf8_lossy(&response.body).replace(", ", ",")
        ),
        headers if headers.starts_with("Origin") => format!("{allowed:?}"),
        _ => response.status,
    })
}

/// What the real etcd refuses in a file; the second of each pair is whether ours does.
const REFUSED: [(&str, bool); 12] = [
    ("heartbeat-interval: x", true),
    ("heartbeat-interval: 0", true),
    ("heartbeat-interval: -1", true),
    ("max-txn-ops: [1]", true),
    ("pre-vote: maybe", true),
    ("initial-cluster-state: foo", true),
    ("client-transport-security: 5", true),
    ("a: b: c", true),
    ("- a", true),
    ("grpc-keepalive-interval: '5s'", false),
    ("auto-compaction-retention: 5", false),
    ("log-outputs: stderr", false),
];

/// What etcd refuses is refused, or understood on purpose. What ours takes is not seen to be taken: a port that is in
/// use ends it right after.
pub fn the_same_refusals(tools: &Tools) -> Result<(), String> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let port = taken.local_addr().map_err(|e| e.to_string())?.port();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = folder.path().join("etcd.yml");
    for (file, refused) in REFUSED {
        let ports = Ports {
            peer: port,
            ..Ports::free()
        };
        let text = filled(&format!("{file}\n{PLACE}"), folder.path(), ports);
        fs::write(&path, text).map_err(|e| e.to_string())?;
        for (program, refused) in [(&tools.reference, true), (&tools.ours, refused)] {
            let output = run(program, &path)?;
            let log = String::from_utf8_lossy(&output.stderr);
            if output.status.code() != Some(1) || log.contains("failed to verify flags") != refused {
                return Err(format!(
                    "{file}: {} with {}:\n{log}",
                    program.display(),
                    output.status
                ));
            }
        }
    }
    Ok(())
}

fn run(program: &Path, path: &Path) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.arg(format!("--config-file={}", path.display()));
    command.output().map_err(|e| e.to_string())
}
