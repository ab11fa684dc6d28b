//! Members from the register of another etcd cluster.
//!
//! A member reads how many there will be, writes itself down, and watches until that many are there. It does
//! not give up while the service is away: it may be a cluster that is itself being brought up. It does give
//! up when it comes too late, or when nobody has written down how many there will be.
//!
//! Go members do the same with the same keys, so that both found one cluster on one token.

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{once, pending};
use grpc::etcdserverpb::auth_client::AuthClient;
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::watch_client::WatchClient;
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use peer::Connector;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    AuthenticateRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use proto::mvccpb::KeyValue;
use thiserror::Error;
use tls::{Identity, Trust};
use tokio::time::{sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};
use tracing::{error, info, warn};
use types::MemberId;

use crate::registry::{Entry, Roll, member_key, members_prefix, parse_size, size_key};

/// Pings that come faster than this are taken for an attack by Go's servers.
const KEEPALIVE_MIN: Duration = Duration::from_secs(10);
/// The wait after a failure is doubled with each one in a row, up to this many: 256 s.
const DOUBLINGS_MAX: u32 = 8;

/// Where the service is and how to talk to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its members: `host:port`, or a URL.
    pub endpoints: Vec<String>,
    /// Under which the new cluster is registered.
    pub token: String,
    /// Time for a connection.
    pub dial_timeout: Duration,
    /// Time for a request once there is a connection.
    pub request_timeout: Duration,
    /// Silence on a connection after which the other end is asked for a sign of life.
    pub keepalive_interval: Option<Duration>,
    /// How long that may take.
    pub keepalive_timeout: Duration,
    /// TLS, for endpoints that do not say `http://` themselves.
    pub tls: Option<Tls>,
    /// Who this member is to the service.
    pub credentials: Option<Credentials>,
}

/// How connections to the service are secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate this member shows.
    pub identity: Option<Identity>,
    /// Whom it believes.
    pub trust: Trust,
}

/// A user of the service.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password, which is never shown.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, ...)", self.user)
    }
}

/// Why a member is not in the register's cluster. What passes by itself is not among these.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum JoinError {
    #[error("discovery: size key not found")]
    SizeNotFound,
    #[error("discovery: size key is bad")]
    BadSize,
    #[error("discovery: cluster is full")]
    Full,
    #[error("discovery: cannot connect to an endpoint like {0:?}")]
    Endpoint(String),
    #[error("discovery: {0}")]
    Tls(String),
    #[error("discovery: user {user:?} is refused: {reason}")]
    Credentials { user: String, reason: String },
}

/// Registers a member, which `own` describes as `--initial-cluster` would, and waits until all are there.
/// The answer is what each of them says of itself: nobody has checked it.
pub async fn join(settings: &Settings, id: MemberId, own: &str) -> Result<Vec<String>, JoinError> {
    let joined = match Service::new(settings) {
        Ok(mut service) => service.join(&member_key(&settings.token, id), own).await,
        Err(error) => Err(error),
    };
    let (token, endpoints) = (&settings.token, settings.endpoints.join(","));
    match &joined {
        Ok(cluster) => info!(
            "discovery-token" = token,
            "discovery-endpoints" = endpoints,
            cluster = cluster.join(","),
            "discovery joined cluster successfully"
        ),
        Err(problem) => error!(
            "discovery-token" = token,
            "discovery-endpoints" = endpoints,
            error = %problem,
            "discovery failed to join cluster"
        ),
    }
    joined
}

type HttpClient = Client<Connector, tonic::body::Body>;

/// The service, and how well it goes with it.
struct Service<'a> {
    settings: &'a Settings,
    http: HttpClient,
    endpoints: Vec<Uri>,
    /// Whose turn it is: who answered the last time, or comes after one who did not.
    turn: usize,
    /// Rounds along all endpoints without an answer, in a row.
    failures: u32,
}

impl<'a> Service<'a> {
    fn new(settings: &'a Settings) -> Result<Self, JoinError> {
        let endpoints = settings
            .endpoints
            .iter()
            .map(|text| endpoint(text, settings.tls.is_some()));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        // Who says https:// wants TLS, also without another word on it.
        let tls = settings.tls.clone().unwrap_or(Tls {
            identity: None,
            trust: Trust::System,
        });
        let wants_tls = endpoints
            .iter()
            .any(|uri| matches!(uri.scheme_str(), Some("https" | "unixs")));
        let tls = match wants_tls {
            true => {
                let settings = ::tls::Settings {
                    identity: tls.identity,
                    trust: tls.trust,
                    ..Default::default()
                };
                let client = ::tls::Client::new(&settings, ::tls::HTTP2);
                Some(client.map_err(|error| JoinError::Tls(error.to_string()))?)
            }
            false => None,
        };
        let http = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(settings.keepalive_interval.map(|time| time.max(KEEPALIVE_MIN)))
            .http2_keep_alive_timeout(settings.keepalive_timeout)
            .build(Connector::new(tls, settings.dial_timeout));
        Ok(Self {
            settings,
            http,
            endpoints,
            turn: 0,
            failures: 0,
        })
    }

    async fn join(&mut self, key: &str, own: &str) -> Result<Vec<String>, JoinError> {
        // Who comes too late leaves no trace.
        self.roll(key).await?;
        self.register(key, own).await?;
        loop {
            let (mut roll, revision) = self.roll(key).await?;
            info!(
                "clusterSize" = roll.size(),
                "found-peers" = roll.len(),
                "waiting for peers from discovery service"
            );
            match self.watch(&mut roll, revision + 1).await? {
                Ok(()) => return Ok(roll.members()),
                Err(status) => self.back_off("watch for members", &status).await,
            }
        }
    }

    /// Reads who is there, and the revision at which that was so.
    async fn roll(&mut self, key: &str) -> Result<(Roll, i64), JoinError> {
        let token = &self.settings.token;
        let (size_key, prefix) = (size_key(token), members_prefix(token));
        let ask = async |session: Session| {
            let request = RangeRequest {
                key: size_key.clone().into(),
                ..RangeRequest::default()
            };
            let size = session.kv().range(session.request(request)).await?.into_inner();
            let request = RangeRequest {
                key: prefix.clone().into(),
                range_end: end_of(&prefix).into(),
                ..RangeRequest::default()
            };
            let members = session.kv().range(session.request(request)).await?;
            Ok((size, members.into_inner()))
        };
        let (size, members) = self.persist("cluster status check", ask).await?;
        let size = size.kvs.first().ok_or(JoinError::SizeNotFound)?;
        let mut roll = Roll::new(parse_size(&size.value).ok_or(JoinError::BadSize)?);
        for member in members.kvs {
            take_in(&mut roll, member);
        }
        match roll.is_full_without(key) {
            true => Err(JoinError::Full),
            false => Ok((roll, members.header.unwrap_or_default().revision)),
        }
    }

    async fn register(&mut self, key: &str, own: &str) -> Result<(), JoinError> {
        let put = async |session: Session| {
            let request = PutRequest {
                key: key.to_owned().into(),
                value: own.to_owned().into(),
                ..PutRequest::default()
            };
            session.kv().put(session.request(request)).await
        };
        self.persist("register member itself", put).await?;
        info!(
            "memberKey" = key,
            "memberInfo" = own,
            "register member itself successfully"
        );
        Ok(())
    }

    /// Waits until all are there. The inner error is that of a watch that broke off.
    async fn watch(&mut self, roll: &mut Roll, from: i64) -> Result<Result<(), Status>, JoinError> {
        if roll.is_complete() {
            return Ok(Ok(()));
        }
        let prefix = members_prefix(&self.settings.token);
        let open = async |session: Session| {
            let create = WatchCreateRequest {
                key: prefix.clone().into(),
                range_end: end_of(&prefix).into(),
                start_revision: from,
                ..WatchCreateRequest::default()
            };
            let create = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            // Ends only with the watch.
            let requests = once(async { create }).chain(pending());
            let mut request = session.request(requests);
            // A member that is cut off from the others would be waited on for ever.
            let metadata = request.metadata_mut();
            metadata.insert("hasleader", MetadataValue::from_static("true"));
            session.watch().watch(request).await
        };
        let mut events = self.persist("watch for members", open).await?.into_inner();
        while !roll.is_complete() {
            match events.message().await {
                Ok(Some(response)) if !response.canceled => hear(roll, response),
                Ok(Some(response)) => return Ok(Err(Status::cancelled(response.cancel_reason))),
                Ok(None) => return Ok(Err(Status::unavailable("the watch has ended"))),
                Err(status) => return Ok(Err(status)),
            }
        }
        info!(
            "clusterSize" = roll.size(),
            "found-peers" = roll.len(),
            "found all needed peers from discovery service"
        );
        Ok(Ok(()))
    }

    /// Makes a call, at one endpoint after the other, again and again until one answers.
    async fn persist<T>(
        &mut self,
        step: &str,
        call: impl AsyncFn(Session) -> Result<T, Status>,
    ) -> Result<T, JoinError> {
        loop {
            let mut last = Status::unavailable("no endpoint");
            for _ in 0..self.endpoints.len() {
                match self.attempt(&call).await {
                    Ok(answer) => {
                        self.failures = 0;
                        return Ok(answer);
                    }
                    Err(Failed::ForGood(error)) => return Err(error),
                    Err(Failed::ForNow(status)) => {
                        last = status;
                        self.turn += 1;
                    }
                }
            }
            self.back_off(step, &last).await;
        }
    }

    /// Makes a call at the endpoint whose turn it is.
    async fn attempt<T>(&self, call: impl AsyncFn(Session) -> Result<T, Status>) -> Result<T, Failed> {
        let time = self
            .settings
            .dial_timeout
            .saturating_add(self.settings.request_timeout);
        let work = async {
            let session = self.session().await?;
            call(session).await.map_err(Failed::ForNow)
        };
        let answer = timeout(time, work).await;
        answer.unwrap_or_else(|_| Err(Failed::ForNow(Status::deadline_exceeded("no answer in time"))))
    }

    /// Becomes known to the endpoint whose turn it is, if there is somebody to be known as. Tokens do not
    /// last as long as a member may have to wait, so none is kept.
    async fn session(&self) -> Result<Session, Failed> {
        let mut session = Session {
            http: self.http.clone(),
            endpoint: self.endpoints[self.turn % self.endpoints.len()].clone(),
            token: None,
        };
        let Some(Credentials { user, password }) = &self.settings.credentials else {
            return Ok(session);
        };
        let request = AuthenticateRequest {
            name: user.clone(),
            password: password.clone(),
        };
        match session.auth().authenticate(request).await {
            Ok(response) => session.token = response.into_inner().token.parse().ok(),
            // Without users, everybody may do everything.
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) if status.code() == Code::InvalidArgument => {
                return Err(Failed::ForGood(JoinError::Credentials {
                    user: user.clone(),
                    reason: status.message().to_owned(),
                }));
            }
            Err(status) => return Err(Failed::ForNow(status)),
        }
        Ok(session)
    }

    async fn back_off(&mut self, step: &str, status: &Status) {
        self.failures = self.failures.saturating_add(1);
        let wait = pause(self.failures);
        warn!(
            reason = step,
            error = %status,
            backoff = format!("{}s", wait.as_secs()),
            "retry connecting to discovery service"
        );
        sleep(wait).await;
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(DOUBLINGS_MAX))
}

/// Why a call was not answered.
enum Failed {
    /// Another endpoint may do better, or the same one later.
    ForNow(Status),
    ForGood(JoinError),
}

/// One endpoint, with what it knows this member by.
struct Session {
    http: HttpClient,
    endpoint: Uri,
    token: Option<MetadataValue<Ascii>>,
}

impl Session {
    fn kv(&self) -> KvClient<HttpClient> {
        KvClient::with_origin(self.http.clone(), self.endpoint.clone())
    }

    fn watch(&self) -> WatchClient<HttpClient> {
        WatchClient::with_origin(self.http.clone(), self.endpoint.clone())
    }

    fn auth(&self) -> AuthClient<HttpClient> {
        AuthClient::with_origin(self.http.clone(), self.endpoint.clone())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// An endpoint as a URI with a scheme, by which the connection knows whether it is secured.
fn endpoint(text: &str, tls: bool) -> Result<Uri, JoinError> {
    let whole = match (text.contains("://"), tls) {
        (true, _) => text.to_owned(),
        (false, true) => format!("https://{text}"),
        (false, false) => format!("http://{text}"),
    };
    let uri = whole.parse::<Uri>().ok().filter(|uri| {
        let scheme = uri.scheme_str().unwrap_or_default();
        matches!(scheme, "http" | "https" | "unix" | "unixs") && uri.authority().is_some()
    });
    uri.ok_or_else(|| JoinError::Endpoint(text.to_owned()))
}

/// The first key after all that begin with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // ASCII, as the end of every prefix here.
        *last += 1;
    }
    end
}

fn hear(roll: &mut Roll, response: WatchResponse) {
    for member in response.events.into_iter().filter_map(|event| event.kv) {
        take_in(roll, member);
    }
}

fn take_in(roll: &mut Roll, member: KeyValue) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (key, value) = (text(&member.key), text(&member.value));
    let entry = Entry {
        key: key.clone(),
        value: value.clone(),
        created: member.create_revision,
    };
    match roll.add(entry) {
        Ok(()) => info!(
            "memberKey" = key,
            "memberInfo" = value,
            "found peer from discovery service"
        ),
        Err(reason) => warn!("memberKey" = key, "memberInfo" = value, "{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_at_some_minutes() {
        let waits: Vec<u64> = (1..=10).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
        assert_eq!(pause(u32::MAX).as_secs(), 256);
    }

    #[test]
    fn an_endpoint_says_itself_whether_it_is_secured_or_is_as_the_others_are() {
        for (text, tls, uri) in [
            ("a:2379", false, "http://a:2379/"),
            ("a:2379", true, "https://a:2379/"),
            ("http://a:2379", true, "http://a:2379/"),
            ("https://a:2379", false, "https://a:2379/"),
            ("[::1]:2379", false, "http://[::1]:2379/"),
            ("unix://a:1", false, "unix://a:1/"),
        ] {
            assert_eq!(endpoint(text, tls).unwrap().to_string(), uri);
        }
        for text in ["", "ftp://a:1", "http://", "unix:///tmp/a", "a b"] {
            assert!(endpoint(text, false).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let credentials = Credentials {
            user: "root".into(),
            password: "s3cret".into(),
        };
        assert!(!format!("{credentials:?}").contains("s3cret"));
    }
}
