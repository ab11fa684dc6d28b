//! Who the client is to the cluster: a token that goes with every call.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};

use proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};

use crate::Error;
use crate::config::User;

/// The text of etcd's refusals that another token may end.
const INVALID_TOKEN: &str = "etcdserver: invalid auth token";
const OLD_REVISION: &str = "etcdserver: revision of auth store is old";
const NO_NAME: &str = "etcdserver: user name is empty";
/// The refusal of who has no users at all.
const NO_USERS: &str = "etcdserver: authentication is not enabled";

/// Who calls, and the token for that.
pub struct Identity {
    user: Option<User>,
    token: RwLock<Option<MetadataValue<Ascii>>>,
    /// How often a token has been looked for.
    generation: AtomicU64,
    /// Held while one is.
    renewing: tokio::sync::Mutex<()>,
}

impl Identity {
    pub fn new(user: Option<User>) -> Result<Self, Error> {
        let token = match &user {
            Some(User::Token(token)) => Some(parse(token)?),
            _ => None,
        };
        Ok(Identity {
            user,
            token: RwLock::new(token),
            generation: AtomicU64::new(0),
            renewing: tokio::sync::Mutex::new(()),
        })
    }

    pub fn token(&self) -> Option<MetadataValue<Ascii>> {
        self.token.read().clone()
    }

    /// Which token this is.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether there is a password to sign in with.
    pub fn has_password(&self) -> bool {
        matches!(self.user, Some(User::Password { .. }))
    }

    /// Whether a call that was refused like this may be made again after [`Identity::renew`].
    pub fn may_renew(&self, message: &str) -> bool {
        match &self.user {
            Some(User::Token(_)) => false,
            Some(User::Password { .. }) => matches!(message, INVALID_TOKEN | OLD_REVISION | NO_NAME),
            // Who is known by a certificate has no token that could be old, only bad luck.
            None => message == OLD_REVISION,
        }
    }

    /// Signs in, by the call that does, unless somebody else has done so since `generation`.
    pub async fn renew(
        &self,
        generation: u64,
        sign_in: impl AsyncFnOnce(AuthenticateRequest) -> Result<AuthenticateResponse, Error>,
    ) -> Result<(), Error> {
        let Some(User::Password { name, password }) = &self.user else {
            return Ok(());
        };
        let _one_at_a_time = self.renewing.lock().await;
        if self.generation() != generation {
            return Ok(());
        }
        let request = AuthenticateRequest {
            name: name.clone(),
            password: password.clone(),
        };
        let token = match sign_in(request).await {
            Ok(answer) => Some(parse(&answer.token)?),
            // Without users, everybody may do everything.
            Err(Error::Server {
                code: Code::FailedPrecondition,
                message,
            }) if message == NO_USERS => None,
            Err(error) => return Err(error),
        };
        *self.token.write() = token;
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

fn parse(token: &str) -> Result<MetadataValue<Ascii>, Error> {
    let mut token: MetadataValue<Ascii> = token
        .parse()
        .map_err(|_| Error::Config("the token has characters that no token has".into()))?;
    token.set_sensitive(true);
    Ok(token)
}
