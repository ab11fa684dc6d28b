//! Who calls, and whether they may.
//!
//! While authentication is on, a caller shows a token: in the metadata `token` or `authorization`, with `Bearer ` in
//! front or not. One without a token is who its certificate says, if clients have to show one (`--client-cert-auth`),
//! and otherwise nobody, which is enough for a few calls. A gateway has a certificate of its own and speaks for others:
//! its name never counts (CVE-2018-16886). What a user may do is decided by [`auth::Auth`], here for what needs no place
//! in the log, in apply for what has one.
//!
//! A read looks twice at the auth revision, before it and after it: in between, somebody may have taken the permission
//! away and put into a key what this user must not see.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use auth::{Access, Auth, Identity, Tokens};
use machine::authorize::Caller;
use parking_lot::Mutex;
use tonic::Request;
use types::{ErrorKind, Index, KeyRange};

use crate::config::{AuthToken, Config};
use crate::jwt::{Jwt, JwtError};
use crate::listen::{ClientAddress, TlsClient};
use crate::node::Node;
use crate::passwords;

/// The metadata that may hold a token; the first counts.
const TOKEN_KEYS: [&str; 2] = ["token", "authorization"];

/// The metadata by which a gateway tells what its client accepts; nobody else has it.
const GATEWAY_KEY: &str = "grpcgateway-accept";

/// A call without its message: what the caller says, and how it came here.
pub type Head = Request<()>;

/// A call's head, and its message.
pub fn split<T>(request: Request<T>) -> (Head, T) {
    let (metadata, extensions, message) = request.into_parts();
    (Head::from_parts(metadata, extensions, ()), message)
}

/// The token in a call's metadata. One that is not text is no good token either.
pub fn token(head: &Head) -> Option<&str> {
    let value = TOKEN_KEYS.iter().find_map(|key| head.metadata().get(*key))?;
    Some(value.to_str().unwrap_or_default())
}

/// Where a call comes from, if it comes by the network.
pub fn address(head: &Head) -> Option<IpAddr> {
    head.extensions().get::<ClientAddress>().map(|address| address.0)
}

/// The name in the certificate of a caller that speaks for itself; empty if the certificate has none.
fn common_name(head: &Head) -> Option<&str> {
    let client = head.extensions().get::<TlsClient>()?;
    if head.metadata().contains_key(GATEWAY_KEY) {
        tracing::warn!("ignoring common name in gRPC-gateway proxy request");
        return None;
    }
    Some(client.common_name.as_deref().unwrap_or_default())
}

/// How users who have signed in are known again.
pub enum Tokenizer {
    /// All members remember their tokens.
    Simple(Arc<Mutex<Tokens>>),
    /// Their tokens say it.
    Jwt(Box<Jwt>),
}

impl Tokenizer {
    /// Of the kind that is configured.
    pub fn new(config: &Config) -> Result<Self, JwtError> {
        Ok(match &config.auth_token {
            AuthToken::Simple => {
                let tokens = Tokens::new(config.auth_token_ttl.as_millis() as u64);
                Tokenizer::Simple(Arc::new(Mutex::new(tokens)))
            }
            AuthToken::Jwt(options) => Tokenizer::Jwt(Box::new(Jwt::new(options)?)),
        })
    }

    /// What members remember.
    pub fn remembered(&self) -> Option<Arc<Mutex<Tokens>>> {
        match self {
            Tokenizer::Simple(tokens) => Some(tokens.clone()),
            Tokenizer::Jwt(_) => None,
        }
    }

    /// The secret part of the next token, if all have to know it.
    pub fn prefix(&self) -> Result<String, ErrorKind> {
        match self {
            Tokenizer::Simple(_) => passwords::token_prefix(),
            Tokenizer::Jwt(_) => Ok(String::new()),
        }
    }

    /// The token of somebody who has signed in, whose simple one this would be.
    pub fn token(&self, who: &Identity, simple: String) -> Result<String, ErrorKind> {
        match self {
            Tokenizer::Simple(_) => Ok(simple),
            Tokenizer::Jwt(jwt) => jwt.sign(who, since_1970()),
        }
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Node {
    /// Who calls: nobody, without a token and a certificate that counts, or while authentication is off.
    ///
    /// # Errors
    /// `InvalidAuthToken`.
    pub async fn identify(&self, head: &Head) -> Result<Identity, ErrorKind> {
        match token(head) {
            _ if !self.board.auth_enabled() => Ok(Identity::default()),
            None => Ok(self.identify_certificate(head)),
            token => self.identify_token(token).await,
        }
    }

    fn identify_certificate(&self, head: &Head) -> Identity {
        let asked = self.config.client_tls.asks_certificate;
        match asked.then(|| common_name(head)).flatten() {
            Some(name) => self.board.auth().identity(name),
            None => Identity::default(),
        }
    }

    /// The same for a token that came by other ways.
    pub async fn identify_token(&self, token: Option<&str>) -> Result<Identity, ErrorKind> {
        let Some(token) = token.filter(|_| self.board.auth_enabled()) else {
            return Ok(Identity::default());
        };
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        self.resolve(token).await.ok_or(ErrorKind::InvalidAuthToken)
    }

    /// Whose token it is. The number of a simple one is that of the entry before the one it came with: a member that has not come so
    /// far yet waits until it has. (Go's members wait for the number itself, and miss a token that is just on its way.)
    async fn resolve(&self, token: &str) -> Option<Identity> {
        let tokens = match &self.tokens {
            Tokenizer::Jwt(jwt) => return jwt.verify(token, since_1970()),
            Tokenizer::Simple(tokens) => tokens,
        };
        let (_, index) = token.split_once('.')?;
        let number: Index = index.parse().ok()?;
        let known = self.board.wait_applied(number.saturating_add(1));
        tokio::time::timeout(self.request_timeout(), known).await.ok()?;
        // The revision first: whatever ends the token later also makes this one an old one.
        let auth = self.board.auth();
        let mut tokens = tokens.lock();
        let user = tokens.resolve(token, self.now_ms())?;
        Some(auth.identity(user))
    }

    /// Who calls, which must be somebody while authentication is on.
    ///
    /// # Errors
    /// `InvalidAuthToken`, `UserEmpty`.
    pub async fn require_user(&self, head: &Head) -> Result<Identity, ErrorKind> {
        let who = self.identify(head).await?;
        match self.board.auth_enabled() && who.revision == 0 {
            true => Err(ErrorKind::UserEmpty),
            false => Ok(who),
        }
    }

    /// Who calls, which must be a holder of the role `root`.
    ///
    /// # Errors
    /// `InvalidAuthToken`, `UserEmpty`, `UserNotFound`, `PermissionDenied`.
    pub async fn require_root(&self, head: &Head) -> Result<Identity, ErrorKind> {
        let who = self.identify(head).await?;
        self.board.auth().require_root(&who)?;
        Ok(who)
    }

    /// Whether a range may be read.
    pub fn may_read(&self, who: &Identity, range: &KeyRange) -> Result<(), ErrorKind> {
        match self.board.auth_enabled() {
            true => self.board.auth().permit(who, Access::Read, range),
            false => Ok(()),
        }
    }

    /// Whether nothing about users has changed since `who` was identified: what was permitted then still is.
    pub fn still_may(&self, who: &Identity) -> Result<(), ErrorKind> {
        match who.revision != 0 && who.revision != self.board.auth().revision() {
            true => Err(ErrorKind::AuthOldRevision),
            false => Ok(()),
        }
    }

    /// Somebody before the door, to ask about more than one range.
    pub fn caller<'a>(&'a self, auth: &'a Auth, who: &'a Identity) -> Caller<'a> {
        Caller {
            auth,
            who,
            lessor: &self.lessor,
        }
    }

    /// What this member does on its own account is done by `root`.
    pub fn root(&self) -> Identity {
        match self.board.auth_enabled() {
            true => self.board.auth().identity(auth::ROOT),
            false => Identity::default(),
        }
    }
}
