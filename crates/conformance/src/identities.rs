//! A server with users, and seven kinds of callers before its door.
//!
//! | caller | shows |
//! |---|---|
//! | nobody | nothing |
//! | bad | a token that nobody has given out |
//! | expired | a token of root that was not used for too long |
//! | norole | a token of a user without roles |
//! | keyed | a token of a user with the role `keys` |
//! | root | a token of root |
//! | named | a certificate with the name of another user with the role `keys` |
//!
//! The role `keys` may read and write `k`, everything from `p` up to `q`, and everything from `y` on; it may read `r` and
//! write `w`. Nobody but root may touch `f`. Lease 7 holds `f`, lease 8 holds `k`.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt, stream};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use proto::authpb::{Permission, permission};
use proto::etcdserverpb::*;
use tls::{Alpn, Identity, Settings, Trust};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::certs::{self, Ask, Authority};
use crate::http as http1;
use crate::load::channel;
use crate::server::{Place, Ports, Server};

/// The callers, in the order of the tables.
pub const CALLERS: [&str; 7] = ["nobody", "bad", "expired", "norole", "keyed", "root", "named"];

/// How long a token lives that is not used: the shortest time there is.
const TTL_SECS: u64 = 1;

/// How often a user may have to sign in again because its token has ended meanwhile; the machine may be slow.
const SIGN_INS_MAX: usize = 10;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is put into the place of an answer that has no messages.
const CLOSED: &str = "there was no message";

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// It was not.
    Refused(Code, String),
}

impl Outcome {
    /// A watch is refused by a message.
    fn of_watch(response: WatchResponse) -> Self {
        match response.canceled {
            true => Outcome::Refused(Code::Unknown, response.cancel_reason),
            false => Outcome::Answered,
        }
    }

    /// An answer of the JSON gateway, or the first line of it.
    fn of_json(body: &[u8]) -> Self {
        if body.is_empty() {
            return Outcome::Refused(Code::Internal, CLOSED.into());
        }
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let watched = &answer["result"];
        if watched["canceled"] == true {
            let reason = watched["cancel_reason"].as_str().unwrap_or_default();
            return Outcome::Refused(Code::Unknown, reason.to_owned());
        }
        // A stream's refusal is an object of its own; a call's has the text twice.
        let refusal = if answer["error"].is_object() {
            &answer["error"]
        } else {
            &answer
        };
        let code = [&refusal["code"], &refusal["grpc_code"]]
            .into_iter()
            .find_map(serde_json::Value::as_i64);
        match (code, refusal["message"].as_str()) {
            (Some(code), Some(text)) => Outcome::Refused(Code::from_i32(code as i32), text.to_owned()),
            (None, _) if answer.is_object() => Outcome::Answered,
            _ => Outcome::Refused(Code::Internal, String::from_utf8_lossy(body).into_owned()),
        }
    }

    /// The outcome in a table: `e` the user's name is empty, `t` an invalid token, `d` permission denied, in capitals
    /// where the code says nothing; `c` a stream that was
    /// closed without a message; `n` the gateway takes nobody whose certificate has a name; `u` not served; `?` a call that went wrong. Everybody else was let in, `.`, whatever
    /// came of it then.
    pub fn letter(&self) -> char {
        let Outcome::Refused(code, text) = self else {
            return '.';
        };
        let has = |part| text.contains(part);
        match code {
            Code::InvalidArgument if has("user name is empty") => 'e',
            Code::Unauthenticated if has("invalid auth token") => 't',
            Code::PermissionDenied if has("permission denied") => 'd',
            Code::Unknown if has("user name is empty") => 'E',
            Code::Unknown if has("invalid auth token") => 'T',
            Code::Unknown if has("permission denied") => 'D',
            Code::Internal if has(CLOSED) => 'c',
            Code::Internal if has("CommonName of client") => 'n',
            Code::Unimplemented => 'u',
            Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unauthenticated => '?',
            _ => '.',
        }
    }

    /// Whether the caller was let in.
    pub fn is_let_in(&self) -> bool {
        self.letter() == '.'
    }
}

/// The server.
#[derive(Debug)]
pub struct Gate {
    /// The process.
    pub server: Server,
    /// Where the certificates are.
    dir: PathBuf,
    tokens: HashMap<String, String>,
    secured: HashMap<String, Channel>,
}

impl Gate {
    /// Starts a server that knows users. `flags` come after its own.
    pub async fn open(program: &Path, dir: &Path, flags: &[&str]) -> Result<Self, String> {
        let authority = Authority::new("ours")?;
        certs::write(&dir.join("ca.pem"), authority.pem())?;
        for name in ["member", "named", "stranger", "root"] {
            authority.sign(&Ask::new(name, 2))?.write(dir, name)?;
        }
        authority.sign(&Ask::new("", 3))?.write(dir, "nameless")?;
        let ports = Ports::free();
        let flag = |flag: &str, name: &str, ending: &str| {
            format!("--{flag}={}", dir.join(format!("{name}.{ending}")).display())
        };
        let client = ports.at(ports.client);
        let mut all = vec![
            format!("--listen-client-urls=http://{client},https://{client}"),
            format!("--advertise-client-urls=https://{client}"),
            flag("cert-file", "member", "pem"),
            flag("key-file", "member", "key"),
            flag("trusted-ca-file", "ca", "pem"),
            format!("--auth-token-ttl={TTL_SECS}"),
            "--bcrypt-cost=4".to_owned(),
        ];
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        let place = Place {
            name: ports.name().to_owned(),
            advertised: ports.peer,
            cluster: ports.initial_cluster(),
            joins: false,
        };
        let mut server = Server::prepared(program, &all, ports, place)?;
        server.resume().await?;
        let gate = Self {
            server,
            dir: dir.to_owned(),
            tokens: HashMap::new(),
            secured: HashMap::new(),
        };
        gate.put_users().await?;
        Ok(gate)
    }

    async fn put_users(&self) -> Result<(), String> {
        let user = |name: &str| AuthUserAddRequest {
            name: name.into(),
            password: "pw".into(),
            ..Default::default()
        };
        for name in ["root", "norole", "keyed", "named"] {
            self.set_up("Auth/UserAdd", user(name)).await?;
        }
        let role = AuthRoleAddRequest { name: "keys".into() };
        self.set_up("Auth/RoleAdd", role).await?;
        for (kind, key, range_end) in [
            (permission::Type::Readwrite, "k", ""),
            (permission::Type::Readwrite, "p", "q"),
            (permission::Type::Readwrite, "y", "\0"),
            (permission::Type::Read, "r", ""),
            (permission::Type::Write, "w", ""),
        ] {
            let grant = AuthRoleGrantPermissionRequest {
                name: "keys".into(),
                perm: Some(Permission {
                    perm_type: kind.into(),
                    key: key.into(),
                    range_end: range_end.into(),
                }),
            };
            self.set_up("Auth/RoleGrantPermission", grant).await?;
        }
        for (user, role) in [("root", "root"), ("keyed", "keys"), ("named", "keys")] {
            let (user, role) = (user.into(), role.into());
            self.set_up("Auth/UserGrantRole", AuthUserGrantRoleRequest { user, role })
                .await?;
        }
        self.switch_on().await
    }

    /// Switches authentication on, if it is off.
    pub async fn switch_on(&self) -> Result<(), String> {
        self.set_up("Auth/AuthEnable", AuthEnableRequest {}).await
    }

    async fn set_up(&self, call: &str, request: impl Message) -> Result<(), String> {
        let path = format!("etcdserverpb.{call}");
        match self
            .ask(&self.plain(), &path, request.encode_to_vec(), &[])
            .await?
        {
            Ok(_) => Ok(()),
            Err(status) => Err(format!("{call}: {status}")),
        }
    }

    /// A token whose time is over.
    async fn ended_token(&self) -> Result<String, String> {
        let token = self.sign_in("root").await?;
        // The server looks for ended tokens once a second.
        for _ in 0..SIGN_INS_MAX {
            sleep(Duration::from_secs(TTL_SECS + 2)).await;
            let request = MemberListRequest::default().encode_to_vec();
            let (path, shown) = ("etcdserverpb.Cluster/MemberList", [("token", token.as_str())]);
            if self.ask(&self.plain(), path, request, &shown).await?.is_err() {
                return Ok(token);
            }
        }
        Err("a token lives on that nobody uses".into())
    }

    /// Leases and keys as in the table above.
    pub async fn tidy_up(&mut self) -> Result<(), String> {
        for (id, key) in [(7, "f"), (8, "k")] {
            let grant = LeaseGrantRequest { id, ttl: 1000 };
            let put = PutRequest {
                key: key.into(),
                lease: id,
                ..Default::default()
            };
            self.call_as("root", "etcdserverpb.Lease/LeaseGrant", grant.encode_to_vec())
                .await?;
            let outcome = self
                .call_as("root", "etcdserverpb.KV/Put", put.encode_to_vec())
                .await?;
            if outcome != Outcome::Answered {
                return Err(format!("{key} can't be put: {outcome:?}"));
            }
        }
        Ok(())
    }

    /// Makes a call as one of the [`CALLERS`].
    pub async fn call_as(&mut self, caller: &str, path: &str, request: Vec<u8>) -> Result<Outcome, String> {
        self.as_caller(caller, &Call::Grpc(path, request)).await
    }

    /// The same through the JSON gateway, over TLS. `route` is below `/v3/`; `headers` are more header lines.
    pub async fn json_as(
        &mut self,
        caller: &str,
        (call, route): (&str, &str),
        request: &[u8],
        headers: &str,
    ) -> Result<Outcome, String> {
        let call = Call::Json {
            path: format!("/v3/{route}"),
            headers,
            body: json_of(call, request).map_err(|e| format!("{call}: {e}"))?,
        };
        self.as_caller(caller, &call).await
    }

    async fn as_caller(&mut self, caller: &str, call: &Call<'_>) -> Result<Outcome, String> {
        let has_own_token = !matches!(caller, "bad" | "expired" | "named");
        let mut was_closed = false;
        for _ in 0..SIGN_INS_MAX {
            let token = self.token(caller).await?;
            let outcome = match call {
                Call::Grpc(path, request) => {
                    let shown: Vec<_> = token.iter().map(|token| ("token", token.as_str())).collect();
                    let certificate = (caller == "named").then_some("named");
                    self.call(path, request.clone(), &shown, certificate).await?
                }
                Call::Json { path, headers, body } => {
                    // The server asks for a certificate, whoever it is.
                    let certificate = if caller == "named" { "named" } else { "nameless" };
                    let token = token.map_or(String::new(), |token| format!("Authorization: {token}\r\n"));
                    let headers = format!("{headers}{token}");
                    self.json(path, &headers, body, certificate).await?
                }
            };
            // A stream that closes without a word does not tell whether that was why: a new token does.
            let closes = outcome.letter() == 'c';
            let may_have_ended =
                has_own_token && (matches!(outcome.letter(), 't' | 'T') || (closes && !was_closed));
            if !may_have_ended || self.tokens.remove(caller).is_none() {
                return Ok(outcome);
            }
            was_closed |= closes;
        }
        Err(format!("no token of {caller} is good"))
    }

    async fn json(
        &self,
        path: &str,
        headers: &str,
        body: &str,
        certificate: &str,
    ) -> Result<Outcome, String> {
        let at = self.server.address();
        let stream = self.client(certificate, tls::UNSAID)?.open(at).await;
        let stream = stream.map_err(|e| e.to_string())?;
        let answer = http1::first_line(stream, at, path, headers, body.as_bytes());
        let answer = timeout(PATIENCE, answer)
            .await
            .map_err(|_| format!("{path}: there is no answer"))?;
        Ok(Outcome::of_json(
            &answer.map_err(|e| format!("{path}: {e}"))?.body,
        ))
    }

    /// Makes a call with this metadata, through TLS if a certificate is to be shown.
    pub async fn call(
        &mut self,
        path: &str,
        request: Vec<u8>,
        shown: &[(&'static str, &str)],
        certificate: Option<&str>,
    ) -> Result<Outcome, String> {
        let channel = match certificate {
            None => self.plain(),
            Some(name) => self.secured(name)?,
        };
        match self.ask(&channel, path, request, shown).await? {
            Err(status) => Ok(Outcome::Refused(status.code(), status.message().to_owned())),
            Ok(answer) if path == "etcdserverpb.Watch/Watch" => {
                let response = WatchResponse::decode(answer).map_err(|e| e.to_string())?;
                Ok(Outcome::of_watch(response))
            }
            Ok(_) => Ok(Outcome::Answered),
        }
    }

    /// The status of a request over HTTP/1.1, made as one of the [`CALLERS`].
    pub async fn http_as(&mut self, caller: &str, method: &str, path: &str) -> Result<String, String> {
        let token = self.token(caller).await?;
        let header = token.map_or(String::new(), |token| format!("Authorization: {token}\r\n"));
        let at = self.server.address();
        let answer = match caller {
            "named" => {
                let stream = self.client("named", tls::UNSAID)?.open(at).await;
                http1::exchange(stream.map_err(|e| e.to_string())?, at, method, path, &header, "").await
            }
            _ => match TcpStream::connect(at).await {
                Ok(stream) => http1::exchange(stream, at, method, path, &header, "").await,
                Err(error) => Err(error),
            },
        };
        Ok(answer.map_err(|e| format!("{method} {path}: {e}"))?.status)
    }

    /// What one of the callers shows for a token.
    async fn token(&mut self, caller: &str) -> Result<Option<String>, String> {
        match caller {
            "nobody" | "named" => Ok(None),
            "bad" => Ok(Some("aaaaaaaaaaaaaaaa.1".into())),
            user => match self.tokens.get(user) {
                Some(token) => Ok(Some(token.clone())),
                None => {
                    let token = match user {
                        "expired" => self.ended_token().await?,
                        user => self.sign_in(user).await?,
                    };
                    self.tokens.insert(user.to_owned(), token.clone());
                    Ok(Some(token))
                }
            },
        }
    }

    /// A token of a user.
    pub async fn sign_in(&self, name: &str) -> Result<String, String> {
        let answer = self.try_to_sign_in(name).await?;
        let answer = answer.map_err(|status| format!("{name} can't sign in: {status}"))?;
        let answer = AuthenticateResponse::decode(answer).map_err(|e| e.to_string())?;
        Ok(answer.token)
    }

    /// The answer to a user who signs in.
    pub async fn try_to_sign_in(&self, name: &str) -> Result<Result<Bytes, Status>, String> {
        let request = AuthenticateRequest {
            name: name.into(),
            password: "pw".into(),
        };
        let path = "etcdserverpb.Auth/Authenticate";
        self.ask(&self.plain(), path, request.encode_to_vec(), &[]).await
    }

    /// The first message of the answer, to a call of any shape.
    async fn ask(
        &self,
        channel: &Channel,
        path: &str,
        request: Vec<u8>,
        shown: &[(&'static str, &str)],
    ) -> Result<Result<Bytes, Status>, String> {
        let path: PathAndQuery = format!("/{path}").parse().map_err(|e| format!("{path}: {e}"))?;
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.map_err(|e| e.to_string())?;
        // A stream stays open until its answer is there.
        let requests = stream::iter([Bytes::from(request)]).chain(stream::pending());
        let is_streamed = matches!(
            path.path(),
            "/etcdserverpb.Watch/Watch" | "/etcdserverpb.Lease/LeaseKeepAlive"
        );
        let mut request = Request::new(requests.take(if is_streamed { usize::MAX } else { 1 }));
        for (key, value) in shown {
            let value = value.parse().map_err(|_| format!("no metadata: {value}"))?;
            request.metadata_mut().insert(*key, value);
        }
        let first = async {
            let answer = client.streaming(request, path, Raw).await?;
            let message = answer.into_inner().message().await?;
            message.ok_or_else(|| Status::internal(CLOSED))
        };
        timeout(PATIENCE, first)
            .await
            .map_err(|_| "there is no answer".to_owned())
    }

    fn plain(&self) -> Channel {
        channel(self.server.address())
    }

    fn secured(&mut self, name: &str) -> Result<Channel, String> {
        if let Some(channel) = self.secured.get(name) {
            return Ok(channel.clone());
        }
        let connector = self.client(name, tls::HTTP2)?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.server.address()));
        let endpoint = endpoint.map_err(|e| e.to_string())?;
        let channel = endpoint.connect_with_connector_lazy(connector);
        self.secured.insert(name.to_owned(), channel.clone());
        Ok(channel)
    }

    fn client(&self, name: &str, alpn: Alpn) -> Result<Connector, String> {
        let file = |name: &str| self.dir.join(name);
        let settings = Settings {
            identity: Some(Identity {
                cert: file(&format!("{name}.pem")),
                key: file(&format!("{name}.key")),
            }),
            trust: Trust::Authorities(file("ca.pem")),
            ..Default::default()
        };
        let client = tls::Client::new(&settings, alpn).map_err(|e| e.to_string())?;
        Ok(Connector {
            client,
            at: self.server.address(),
        })
    }
}

/// A call to be made.
enum Call<'a> {
    /// Its path, and the request's bytes.
    Grpc(&'a str, Vec<u8>),
    /// JSON over HTTP.
    Json {
        path: String,
        headers: &'a str,
        body: String,
    },
}

/// A request of a call as JSON.
fn json_of(call: &str, request: &[u8]) -> Result<String, String> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).map_err(|e| e.to_string())?;
    let (service, method) = call.split_once('/').ok_or("no call")?;
    let service = pool.get_service_by_name(service).ok_or("no such service")?;
    let method = service.methods().find(|known| known.name() == method);
    let message = method.ok_or("no such method")?.input();
    let message = DynamicMessage::decode(message, request).map_err(|e| e.to_string())?;
    serde_json::to_string(&message).map_err(|e| e.to_string())
}

/// Connects with a certificate.
#[derive(Clone)]
struct Connector {
    client: tls::Client,
    at: SocketAddr,
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

impl Connector {
    async fn open(&self, at: SocketAddr) -> std::io::Result<Stream> {
        let socket = TcpStream::connect(at).await?;
        socket.set_nodelay(true)?;
        self.client.connect(&at.ip().to_string(), socket).await
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open(connector.at).await.map(TokioIo::new) })
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
