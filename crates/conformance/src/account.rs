//! Who calls a cluster: a user who signs in when that is asked for.
//!
//! As etcd's client does: a call that is refused for lack of a good token is made again with a new one, which the same
//! member gives. That happens all the time, for the tokens of `--auth-token=simple` live in a member's memory: a
//! member that was started again knows none, nor does one that got a snapshot, and any change of users or roles may
//! come between a call's two checks. A refused call has done nothing. A cluster without authentication never asks, so
//! whoever may have to sign in may also call there.

use std::sync::{Mutex, PoisonError};

use grpc::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::AuthenticateRequest;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// How often a call is made with a new token. The second is for a member that is started again meanwhile; what a
/// member refuses to whom it has just let in is worth telling.
const SIGN_INS: usize = 2;

/// What a call without a good token is told: there is none, it is unknown, or it is known and something of users or
/// roles has just changed.
const NO_TOKEN: [&str; 3] = [
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
];

/// Somebody with the token that was given last.
#[derive(Debug)]
pub struct Account {
    /// Name and password, of who can sign in.
    user: Option<(String, String)>,
    token: Mutex<Option<AsciiMetadataValue>>,
}

impl Account {
    /// A user.
    pub fn new(name: &str, password: &str) -> Self {
        Self {
            user: Some((name.to_owned(), password.to_owned())),
            token: Mutex::default(),
        }
    }

    /// Who may do everything.
    pub fn root() -> Self {
        Self::new("root", "pw")
    }

    /// Somebody without a token.
    pub fn nobody() -> Self {
        Self {
            user: None,
            token: Mutex::default(),
        }
    }

    /// Somebody with a token no member has given.
    pub fn forger() -> Self {
        Self {
            user: None,
            token: Mutex::new(Some(AsciiMetadataValue::from_static("forged.1"))),
        }
    }

    /// A request of theirs.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = self.token().clone() {
            request.metadata_mut().insert("token", token);
        }
        request
    }

    /// Asks a member for a new token.
    pub async fn sign_in(&self, member: Channel) -> Result<(), Status> {
        let (name, password) = self.user.clone().unwrap_or_default();
        let request = AuthenticateRequest { name, password };
        let answer = AuthClient::new(member).authenticate(request).await?;
        let token = answer.into_inner().token.parse();
        let token = token.map_err(|_| Status::data_loss("a token that is not text"))?;
        *self.token() = Some(token);
        Ok(())
    }

    /// Makes a call at a member, and signs in there when that is asked for.
    pub async fn call<T: Clone, R>(
        &self,
        member: Channel,
        message: T,
        call: impl AsyncFn(Channel, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<Response<R>, Status> {
        for _ in 0..SIGN_INS {
            match call(member.clone(), self.request(message.clone())).await {
                Err(status) if self.has_to_sign_in(status.message()) => self.sign_in(member.clone()).await?,
                answer => return answer,
            }
        }
        call(member.clone(), self.request(message)).await
    }

    /// Whether a user who was refused in these words needs a new token.
    pub fn has_to_sign_in(&self, refusal: &str) -> bool {
        self.user.is_some() && NO_TOKEN.iter().any(|text| refusal.contains(text))
    }

    /// A panic elsewhere must not hide behind a second one here.
    fn token(&self) -> std::sync::MutexGuard<'_, Option<AsciiMetadataValue>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
