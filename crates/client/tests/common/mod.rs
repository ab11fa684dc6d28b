//! What the tests of this crate have in common.

// No test uses all of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use client::{Client, Config};
use conformance::server::Server;
use conformance::tools::Tools;
use proto::etcdserverpb::*;

/// Our server, and etcd's if it is there.
pub fn programs() -> Vec<PathBuf> {
    match Tools::find() {
        Ok(tools) => vec![tools.ours, tools.reference],
        Err(problem) if std::env::var_os("CI").is_some() => panic!("{problem}"),
        Err(problem) => {
            eprintln!("ignored: {problem}");
            vec![]
        }
    }
}

/// A server and a client of it.
pub async fn start(program: &Path) -> (Server, Client) {
    let server = Server::start(program, &[]).await.unwrap();
    let client = Client::connect(Config::new([server.endpoint()])).await.unwrap();
    (server, client)
}

/// Writes a key.
pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    }
}

/// Reads a key.
pub fn get(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    }
}

/// Watches a key.
pub fn watch(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        ..WatchCreateRequest::default()
    }
}
