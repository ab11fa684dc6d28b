//! The log of a server that runs.

// A test of the rim: it has files.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};

use conformance::cluster::eventually;
use conformance::discovery::put;
use conformance::server::{Ports, Server};

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
