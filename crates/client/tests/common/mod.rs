//! What the tests of this crate have in common.

// No test uses all of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use client::{Client, Config};
use conformance::server::Server;
use conformance::tools::Tools;
use proto::etcdserverpb::*;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch::Sender;

/// Our server, and etcd's if it is there.
pub fn programs() -> Vec<PathBuf> {
    // Looking brings our server up to date.
    static TOOLS: LazyLock<Result<Tools, String>> = LazyLock::new(Tools::find);
    match &*TOOLS {
        Ok(tools) => vec![tools.ours.clone(), tools.reference.clone()],
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

/// Something between a client and a server that can be cut.
pub struct Relay {
    /// Where clients connect to.
    pub endpoint: String,
    /// How often it was cut, and whether it is closed.
    state: Sender<(u64, bool)>,
}

impl Relay {
    /// Passes everything on to `server`.
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let state = Sender::new((0, false));
        tokio::spawn(relay(listener, server.to_owned(), state.clone()));
        Relay { endpoint, state }
    }

    /// Ends all connections there are.
    pub fn cut(&self) {
        self.state.send_modify(|(cuts, _)| *cuts += 1);
    }

    /// Ends all connections, and takes no others until it is opened.
    pub fn close(&self) {
        self.state.send_modify(|(_, is_closed)| *is_closed = true);
    }

    /// Takes connections again.
    pub fn open(&self) {
        self.state.send_modify(|(_, is_closed)| *is_closed = false);
    }
}

async fn relay(listener: TcpListener, server: String, state: Sender<(u64, bool)>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let (server, mut state) = (server.clone(), state.subscribe());
        if state.borrow_and_update().1 {
            continue;
        }
        tokio::spawn(async move {
            let pass = async {
                let mut far = TcpStream::connect(server).await?;
                copy_bidirectional(&mut near, &mut far).await
            };
            tokio::select! {
                _ = pass => {}
                _ = state.changed() => {}
            }
        });
    }
}
