//! A member of ours and those who mean it no good: secrets that they would look for, and requests that should do nothing.

#![allow(clippy::disallowed_methods, reason = "it looks through the files of a server")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use conformance::harness::{self, Work};
use conformance::http;
use conformance::server::Server;
use conformance::tools::Tools;
use grpc::etcdserverpb::auth_client::AuthClient;
use grpc::etcdserverpb::kv_client::KvClient;
use proto::authpb::UserAddOptions;
use proto::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest, RangeRequest,
};
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

fn main() -> ExitCode {
    let trial = |name: &str, work: fn(&Tools) -> Result<(), String>| -> (String, Work) {
        (name.to_owned(), Box::new(move |tools| Ok(work(tools)?)))
    };
    harness::run(vec![
        trial("no_password_and_no_token_is_found_anywhere", secrets),
        trial("a_password_shorter_than_the_least_is_refused", short_passwords),
        trial(
            "an_attempt_to_sign_in_is_one_line_that_says_what_was_wrong",
            attempts,
        ),
        trial("a_body_too_large_for_a_member_is_refused", large_bodies),
        trial("a_path_without_its_slash_does_nothing", paths),
        trial("made_up_metadata_is_no_harm_and_no_series", metadata),
    ])
}

/// Passwords that are set, that are wrong, and that were ones once.
const PASSWORDS: [&str; 5] = [
    "Canary-root-1",
    "Canary-user-2",
    "Canary-user-3",
    "Canary-wrong-4",
    "Canary-nobody-5",
];

/// A day at work with users, the log as talkative as it gets; then everything that was written is searched.
fn secrets(tools: &Tools) -> Result<(), String> {
    let [root, old, new, wrong, nobody] = PASSWORDS;
    harness::runtime()?.block_on(async {
        let flags = ["--log-level=debug", "--bcrypt-cost=4", "--auth-token-ttl=1"].map(str::to_owned);
        let mut server = Server::start(&tools.ours, &flags).await?;
        let ctl = |words: &[&str]| etcdctl(tools, &server, words);
        ctl(&["user", "add", &format!("root:{root}")])?;
        ctl(&["user", "add", &format!("ann:{old}")])?;
        ctl(&["role", "add", "reader"])?;
        ctl(&["role", "grant-permission", "reader", "read", "a"])?;
        ctl(&["user", "grant-role", "ann", "reader"])?;
        ctl(&["user", "grant-role", "root", "root"])?;
        ctl(&["auth", "enable"])?;
        let by_root = format!("--user=root:{root}");
        ctl(&[&by_root, "put", "a", "1"])?;
        ctl(&[&format!("--user=ann:{old}"), "get", "a"])?;
        for (name, password) in [("ann", wrong), ("nobody", nobody)] {
            if ctl(&[&format!("--user={name}:{password}"), "get", "a"]).is_ok() {
                return Err(format!("{name} was let in with {password}"));
            }
        }
        change_password(tools, &server, &by_root, new)?;
        let mut auth = AuthClient::new(channel(&server).await?);
        let signed_in = auth.authenticate(AuthenticateRequest {
            name: "ann".into(),
            password: new.into(),
        });
        let token = signed_in.await.map_err(text)?.into_inner().token;
        // One that is used, one that is refused, and the change that ends both.
        range_with(&server, &token).await?;
        let made_up = "CanaryToken.9";
        if range_with(&server, made_up).await.is_ok() {
            return Err("a made-up token was taken".into());
        }
        ctl(&[&by_root, "user", "delete", "ann"])?;
        let saved = server.folder().join("saved");
        ctl(&[&by_root, "snapshot", "save", &saved.display().to_string()])?;
        let shown = http::request(server.address(), "GET", "/metrics", "")
            .await
            .map_err(text)?;
        fs::write(server.folder().join("metrics"), shown.body).map_err(text)?;
        let shown = http::request(server.address(), "GET", "/debug/vars", "")
            .await
            .map_err(text)?;
        fs::write(server.folder().join("vars"), shown.body).map_err(text)?;
        server.stop().await?;
        server.resume().await?;
        server.stop().await?;

        let mut searched = 0;
        for file in files(server.folder())? {
            let bytes = fs::read(&file).map_err(text)?;
            let has = |secret: &str| {
                bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes())
            };
            if let Some(found) = PASSWORDS.iter().find(|password| has(password)) {
                return Err(format!("{} has {found}", file.display()));
            }
            // Members tell each other of a token by the log: without that it would count on one of them only.
            let is_wal = file.extension().is_some_and(|extension| extension == "wal");
            if [token.as_str(), made_up].iter().any(|token| has(token)) && !is_wal {
                return Err(format!("{} has a token", file.display()));
            }
            searched += bytes.len();
        }
        // The log, the store, the raft log, the snapshot and the metrics are all more than that.
        match searched > 100_000 {
            true => Ok(()),
            false => Err(format!("only {searched} bytes were found to search")),
        }
    })
}

fn short_passwords(tools: &Tools) -> Result<(), String> {
    harness::runtime()?.block_on(async {
        let flags = ["--auth-min-password-length=8", "--bcrypt-cost=4"].map(str::to_owned);
        let server = Server::start(&tools.ours, &flags).await?;
        let mut auth = AuthClient::new(channel(&server).await?);
        let add = |name: &str, password: &str, no_password| AuthUserAddRequest {
            name: name.into(),
            password: password.into(),
            options: Some(UserAddOptions { no_password }),
            ..Default::default()
        };
        let change = |password: &str| AuthUserChangePasswordRequest {
            name: "long".into(),
            password: password.into(),
            ..Default::default()
        };
        // Characters count, not bytes.
        auth.user_add(add("long", "\u{5bc6}\u{78bc}345678", false))
            .await
            .map_err(text)?;
        auth.user_add(add("none", "", true)).await.map_err(text)?;
        auth.user_change_password(change("87654321"))
            .await
            .map_err(text)?;
        let refusals = [
            auth.user_add(add("short", "1234567", false)).await.err(),
            auth.user_add(add("empty", "", false)).await.err(),
            auth.user_change_password(change("\u{5bc6}\u{78bc}34567"))
                .await
                .err(),
            auth.user_change_password(change("")).await.err(),
        ];
        for refusal in refusals {
            let refusal = refusal.ok_or("a short password was taken")?;
            let expected =
                "etcdserver: the password has fewer than 8 characters (--auth-min-password-length)";
            if (refusal.code(), refusal.message()) != (Code::InvalidArgument, expected) {
                return Err(text(refusal));
            }
        }
        Ok(())
    })
}

/// GHSA-vjg6: whose certificate is the only way to sign in was told of in the words for others.
fn attempts(tools: &Tools) -> Result<(), String> {
    harness::runtime()?.block_on(async {
        let server = Server::start(&tools.ours, &["--bcrypt-cost=4".to_owned()]).await?;
        let ctl = |words: &[&str]| etcdctl(tools, &server, words);
        ctl(&["user", "add", "root:pw"])?;
        ctl(&["user", "add", "machine", "--no-password"])?;
        ctl(&["user", "grant-role", "root", "root"])?;
        ctl(&["auth", "enable"])?;
        let mut auth = AuthClient::new(channel(&server).await?);
        let mut lines = server.log_lines().len();
        for (name, password, reason) in [
            (
                "machine",
                "Canary-6",
                "auth: authentication failed, password was given for no password user",
            ),
            (
                "root",
                "Canary-7",
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            (
                "stranger",
                "Canary-8",
                "etcdserver: authentication failed, invalid user ID or password",
            ),
        ] {
            let request = AuthenticateRequest {
                name: name.into(),
                password: password.into(),
            };
            if auth.authenticate(request).await.is_ok() {
                return Err(format!("{name} was let in"));
            }
            let log = server.log_lines();
            let new = &log[lines..];
            lines = log.len();
            let told = |line: &&String| {
                [name, reason, "invalid authentication was requested"]
                    .iter()
                    .all(|word| line.contains(word))
            };
            if new.iter().filter(told).count() != 1 || new.iter().any(|line| line.contains(password)) {
                return Err(format!("{name}: {new:?}"));
            }
        }
        Ok(())
    })
}

fn change_password(tools: &Tools, server: &Server, by_root: &str, password: &str) -> Result<(), String> {
    use std::io::Write;
    let mut child = Command::new(&tools.etcdctl)
        .arg(format!("--endpoints={}", server.endpoint()))
        .args([by_root, "user", "passwd", "ann", "--interactive=false"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .map_err(text)?;
    let mut stdin = child.stdin.take().ok_or("no standard input")?;
    writeln!(stdin, "{password}").map_err(text)?;
    drop(stdin);
    match child.wait().map_err(text)?.success() {
        true => Ok(()),
        false => Err("the password was not changed".into()),
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(text)? {
        let path = entry.map_err(text)?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

fn large_bodies(tools: &Tools) -> Result<(), String> {
    harness::runtime()?.block_on(async {
        let server = Server::start(&tools.ours, &[]).await?;
        let peer = server.ports.at(server.ports.peer);
        let large = "x".repeat((64 << 10) + 1);
        for (method, path) in [
            ("POST", "/leases"),
            ("POST", "/leases/internal"),
            ("GET", "/members/hashkv"),
        ] {
            let answer = http::request(peer, method, path, &large).await.map_err(text)?;
            if !answer.status.starts_with("413") {
                return Err(format!("{path}: {}", answer.status));
            }
        }
        Ok(())
    })
}

/// Those who decide by the text of a path whom to let through are passed by when it lacks its slash.
fn paths(tools: &Tools) -> Result<(), String> {
    harness::runtime()?.block_on(async {
        let server = Server::start(&tools.ours, &[]).await?;
        let told = raw_call(&server, "etcdserverpb.KV/Put").await?;
        if told {
            return Err("a path without a slash was answered like any other".into());
        }
        let mut kv = KvClient::new(channel(&server).await?);
        let found = kv.range(range()).await.map_err(text)?.into_inner();
        match found.kvs.is_empty() {
            true => Ok(()),
            false => Err("a path without a slash was carried out".into()),
        }
    })
}

/// Puts key `k` by a path; whether that was answered with success.
async fn raw_call(server: &Server, path: &str) -> Result<bool, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    // POST, http, and as literals the path, the authority and the content type.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x04][..], path),
        (&[0x01], "h"),
        (&[0x0f, 0x10], "application/grpc"),
    ] {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &block));
    // A PutRequest with key k.
    bytes.extend(frame(0, 1, 1, b"\0\0\0\0\x03\x0a\x01k"));
    let mut stream = tokio::net::TcpStream::connect(server.address())
        .await
        .map_err(text)?;
    stream.write_all(&bytes).await.map_err(text)?;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Ok(false);
        }
        let [a, b, c, kind, flags, _, _, _, id] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.map_err(text)?;
        match (kind, id) {
            // An answer with a message is one of success; reset, away, or a status in the headers is none.
            (0, 1) => return Ok(true),
            (3 | 7, _) => return Ok(false),
            (1, 1) if flags & 1 == 1 => return Ok(false),
            _ => {}
        }
    }
}

/// Names and values of every kind in every place where a call may have one.
fn metadata(tools: &Tools) -> Result<(), String> {
    harness::runtime()?.block_on(async {
        let server = Server::start(&tools.ours, &[]).await?;
        let mut kv = KvClient::new(channel(&server).await?);
        for number in 0..500_u32 {
            let mut call = tonic::Request::new(range());
            for name in [
                "client-api-version",
                "token",
                "authorization",
                "hasleader",
                "grpcgateway-accept",
            ] {
                let bytes = [&[0xff, 0xfe, 0xc0][..], number.to_string().as_bytes()].concat();
                // Header values may have bytes that are no UTF-8; tonic's text metadata takes them as they are.
                let value = MetadataValue::try_from(&bytes[..]).map_err(text)?;
                call.metadata_mut().insert(name, value);
            }
            kv.range(call).await.map_err(text)?;
        }
        let shown = http::request(server.address(), "GET", "/metrics", "")
            .await
            .map_err(text)?;
        let shown = String::from_utf8(shown.body).map_err(text)?;
        let series = shown
            .lines()
            .filter(|line| line.starts_with("etcd_server_client_requests_total"));
        match series.count() {
            ..=102 => Ok(()),
            count => Err(format!("{count} series")),
        }
    })
}

fn range() -> RangeRequest {
    RangeRequest {
        key: "k".into(),
        ..Default::default()
    }
}

async fn channel(server: &Server) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.endpoint())).map_err(text)?;
    endpoint.connect().await.map_err(text)
}

async fn range_with(server: &Server, token: &str) -> Result<(), String> {
    let mut call = tonic::Request::new(RangeRequest {
        key: "a".into(),
        ..Default::default()
    });
    call.metadata_mut()
        .insert("token", MetadataValue::try_from(token).map_err(text)?);
    let answer = KvClient::new(channel(server).await?).range(call).await;
    answer.map(drop).map_err(text)
}

fn etcdctl(tools: &Tools, server: &Server, words: &[&str]) -> Result<String, String> {
    let output = Command::new(&tools.etcdctl)
        .arg(format!("--endpoints={}", server.endpoint()))
        .args(words)
        .output()
        .map_err(text)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
