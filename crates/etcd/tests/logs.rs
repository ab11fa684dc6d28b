//! The log of a server that runs.

// A test of the rim: it has files.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use conformance::cluster::eventually;
use conformance::discovery::put;
use conformance::http;
use conformance::server::{Ports, Server};
use serde_json::Value;
use tokio::net::UnixDatagram;
use tokio::process::Command;

/// A server that is not started yet.
fn server(flags: &[&str]) -> Server {
    let ports = Ports::free();
    let flags: Vec<_> = flags.iter().map(|flag| flag.to_string()).collect();
    let program = Path::new(env!("CARGO_BIN_EXE_etcd"));
    Server::prepared(program, &flags, ports, Server::alone(ports)).expect("a folder")
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect()
}

/// By then the process reaches its own files only.
#[tokio::test]
async fn a_log_file_is_exchanged_and_compressed_while_the_server_runs() {
    /// What is left of the megabyte for a start, which logs some ten thousand bytes.
    const ROOM: usize = 40_000;
    let mut server = server(&[
        "--warning-unary-request-duration=1ns",
        "--enable-log-rotation",
        "--log-rotation-config-json={\"maxsize\": 1, \"compress\": true}",
    ]);
    let folder = server.folder().join("logs");
    let log = folder.join("etcd.log");
    server.add_flag(format!("--log-outputs={}", log.display()));
    fs::create_dir(&folder).expect("it is made");
    fs::write(&log, vec![b'\n'; (1 << 20) - ROOM]).expect("it is written");
    server.resume().await.expect("it starts");
    assert_eq!(files(&folder, "").len(), 1, "the start has room");
    let compressed = async || {
        // Slow requests, as the flag has it: a line each, of which a hundred are written in a second.
        for _ in 0..100 {
            put(server.ports.client, "k", "v").await?;
        }
        match files(&folder, ".gz").len() {
            0 => Err(format!("{:?}", files(&folder, ""))),
            _ => Ok(()),
        }
    };
    eventually("the file is exchanged and compressed", compressed)
        .await
        .expect("it is");
    let text = fs::read_to_string(&log).expect("there is a new one");
    assert!(text.contains("\"msg\":\"request stats\""), "{text}");
    server.stop().await.expect("it stops");
}

/// Messages of etcd's log that people and tools look for, where there is such an event here.
const LINES: &str = include_str!("data/lines.txt");

/// Which of them a day of one member has, and with which fields.
const OF_A_DAY: [(&str, &[&str]); 12] = [
    (
        "starting an etcd server",
        &[
            "snapshot-catchup-entries",
            "v2-deprecation",
            "feature-gates",
            "data-dir",
        ],
    ),
    ("configuring peer listeners", &["listen-peer-urls"]),
    ("configuring client listeners", &["listen-client-urls"]),
    (
        "published local member to cluster through raft",
        &["local-member-id", "cluster-id"],
    ),
    ("set initial cluster version", &["cluster-version"]),
    ("ready to serve client requests", &[]),
    (
        "request stats",
        &[
            "time spent",
            "queue",
            "fsync",
            "apply",
            "send",
            "request",
            "request size",
        ],
    ),
    (
        "apply request took too long",
        &["took", "expected-duration", "request"],
    ),
    (
        "triggering snapshot",
        &["local-member-applied-index", "snapshot-forced"],
    ),
    ("saved snapshot", &["snapshot-index"]),
    (
        "finished scheduled compaction",
        &["compact-revision", "took", "current-db-size-bytes"],
    ),
    ("closing etcd server", &["name", "data-dir"]),
];

/// Every message is one of a call that logs: a list of texts that nobody says would be worth nothing.
#[test]
fn messages_that_are_looked_for_are_in_the_code() {
    fn read(folder: &Path, code: &mut String) {
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                read(&path, code);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                code.push_str(&fs::read_to_string(&path).expect("it is text"));
            }
        }
    }
    let mut code = String::new();
    for name in ["etcd", "server", "peer", "tls", "proxy"] {
        read(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("..")
                .join(name)
                .join("src"),
            &mut code,
        );
    }
    let missing: Vec<_> = LINES
        .lines()
        .filter(|line| !code.contains(&format!("\"{line}")))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
    for (message, _) in OF_A_DAY {
        assert!(LINES.lines().any(|line| line == message), "{message}");
    }
}

#[tokio::test]
async fn the_day_of_a_member_has_the_lines_that_are_looked_for() {
    let mut server = server(&[
        "--snapshot-count=10",
        "--warning-unary-request-duration=1ns",
        "--warning-apply-duration=1ns",
    ]);
    server.resume().await.expect("it starts");
    for value in 0..30 {
        put(server.ports.client, "k", &value.to_string())
            .await
            .expect("it is put");
    }
    let compaction = r#"{"revision": 20, "physical": true}"#;
    let answer = http::request(server.address(), "POST", "/v3/kv/compaction", compaction).await;
    assert_eq!(answer.expect("an answer").status, "200 OK");
    let has = |server: &Server, text: &str| server.has_logged(&format!("\"msg\":\"{text}\""));
    let snapshot = async || match has(&server, "saved snapshot") {
        true => Ok(()),
        false => Err(server.last_words()),
    };
    eventually("there is a snapshot", snapshot)
        .await
        .expect("there is");
    server.stop().await.expect("it stops");
    let lines = server.log_lines();
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("it is JSON"))
        .collect();
    for (message, fields) in OF_A_DAY {
        let line = lines.iter().find(|line| line["msg"] == message);
        let line = line.unwrap_or_else(|| panic!("no {message:?}"));
        for field in fields {
            assert!(!line[field].is_null(), "no {field:?} in {line}");
        }
    }
    assert!(lines.iter().all(|line| line["level"] != "error"));
}

#[tokio::test]
async fn systemd_hears_when_a_member_serves_lives_and_stops() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("notify");
    let listener = UnixDatagram::bind(&path).expect("it listens");
    let ports = Ports::free();
    let client = ports.at(ports.client);
    let peer = ports.at(ports.peer);
    let mut process = Command::new(env!("CARGO_BIN_EXE_etcd"))
        .arg(format!("--data-dir={}", dir.path().join("data").display()))
        .arg(format!("--listen-client-urls=http://{client}"))
        .arg(format!("--advertise-client-urls=http://{client}"))
        .arg(format!("--listen-peer-urls=http://{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let id = process.id().expect("it runs");
    let heard = async |wanted: String| {
        let mut datagram = [0; 100];
        loop {
            let length = listener.recv(&mut datagram).await.expect("a datagram");
            if datagram[..length] == *wanted.as_bytes() {
                return;
            }
        }
    };
    heard("WATCHDOG=1".into()).await;
    heard(format!("READY=1\nMAINPID={id}")).await;
    heard("WATCHDOG=1".into()).await;
    let told = Command::new("kill").arg(id.to_string()).status().await;
    assert!(told.expect("there is kill").success());
    heard("STOPPING=1".into()).await;
    process.wait().await.expect("it ends");
}
