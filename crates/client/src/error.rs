//! What can go wrong, told apart by what a caller can do about it.

use std::sync::Arc;

use thiserror::Error;
use tonic::{Code, Status};

/// Why there is no answer, or not the one that was hoped for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The cluster has answered, and this is what it says.
    #[error("{message}")]
    Server {
        /// What kind of refusal it is.
        code: Code,
        /// etcd's words, such as `etcdserver: requested lease not found`.
        message: String,
    },
    /// No member could be reached, and nothing has been sent.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// The connection broke while the answer was waited for: whether the call was carried out is not known.
    #[error("connection to {endpoint} is lost: {cause}")]
    Lost {
        /// The member that was asked.
        endpoint: String,
        /// What is known about it.
        cause: String,
    },
    /// There was no answer in time. If that is because there was no connection either, this says why.
    #[error("context deadline exceeded{}", .0.as_ref().map(|last| format!(" ({last})")).unwrap_or_default())]
    Deadline(Option<Unreachable>),
    /// What a watcher should have seen next has been compacted; what it missed can no longer be told.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The first revision that can be watched from.
        revision: i64,
    },
    /// The server has ended a watch.
    #[error("{reason}")]
    WatchCanceled {
        /// Its reason, in its words.
        reason: String,
    },
    /// The lease that was kept alive is gone: it has expired, or was revoked.
    #[error("etcdserver: requested lease not found")]
    LeaseGone {
        /// Which.
        lease: i64,
    },
    /// Nobody has confirmed the lease for as long as it lives, so it counts as expired.
    #[error("no keep-alive of lease {lease:016x} was answered within its time to live")]
    LeaseSilent {
        /// Which.
        lease: i64,
    },
    /// Somebody else has the lock.
    #[error("mutex: Locked by another session")]
    Locked,
    /// The session is over, and with it what was held or waited for.
    #[error("mutex: session is expired")]
    SessionExpired,
    /// Whoever proclaims something is no longer elected.
    #[error("election: not leader")]
    NotElected,
    /// Nobody is elected.
    #[error("election: no leader")]
    NobodyElected,
    /// A message is larger than the client was told to send.
    #[error("trying to send message larger than max ({size} vs. {max})")]
    TooLarge {
        /// Its size.
        size: usize,
        /// What is allowed.
        max: usize,
    },
    /// The client is gone, or ends.
    #[error("the client is closed")]
    Closed,
    /// The client can't be made like this.
    #[error("{0}")]
    Config(String),
}

/// A member that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{endpoint}: {cause}")]
pub struct Unreachable {
    /// As it was written in the configuration.
    pub endpoint: String,
    /// Why.
    pub cause: Cause,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Cause {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// There is no such host.
    #[error("cannot resolve the name {name}: {reason}")]
    UnknownName {
        /// What was looked up.
        name: String,
        /// What the resolver says.
        reason: String,
    },
    /// TLS was spoken to a server that speaks none.
    #[error("the server does not speak TLS: say http:// instead of https://, or leave the certificates out")]
    PlainServer,
    /// No TLS was spoken to a server that wants it.
    #[error("the server speaks TLS: say https:// instead of http://")]
    TlsServer,
    /// The server's certificate is signed by nobody who is trusted.
    #[error("the server's certificate is not trusted: {0}")]
    NotTrusted(String),
    /// The server's certificate has expired, or is of the future.
    #[error("the server's certificate is not valid now: {0}")]
    NotValidNow(String),
    /// The server's certificate is for somebody else.
    #[error("the server's certificate is for another name: {0}")]
    WrongName(String),
    /// The server wants to see a certificate, and was shown none.
    #[error("the server asks for a client certificate: {0}")]
    CertificateRequired(String),
    /// The server does not accept the certificate it was shown.
    #[error("the server does not accept the client certificate: {0}")]
    CertificateRefused(String),
    /// The handshake failed for another reason.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// Who answers speaks no HTTP/2, or knows no such call.
    #[error("the server does not speak gRPC: {0}")]
    NotGrpc(String),
    /// It took too long.
    #[error("no connection in time")]
    Timeout,
    /// The system says no.
    #[error("{0}")]
    Io(String),
}

/// What the transport says to the layer of calls, through tonic's errors.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("connection to {endpoint} is lost: {cause}")]
pub struct Lost {
    pub endpoint: String,
    pub cause: String,
    /// Whether the server has certainly not begun with the call.
    pub is_untouched: bool,
    /// Whether who answers serves HTTP and no etcd.
    pub is_foreign: bool,
}

/// The answer to an attempt at a call that was no success.
#[derive(Debug)]
pub enum Failure {
    /// The server has answered.
    Status(Status),
    /// The connection broke.
    Lost(Lost),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        match lost(&status) {
            Some(lost) => Failure::Lost(lost),
            None => Failure::Status(status),
        }
    }
}

/// The transport's error that tonic has made a status of.
fn lost(status: &Status) -> Option<Lost> {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(lost) = error.downcast_ref::<Lost>() {
            return Some(lost.clone());
        }
        if let Some(lost) = error.downcast_ref::<Arc<Lost>>() {
            return Some(Lost::clone(lost));
        }
        source = error.source();
    }
    None
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost(Lost {
                endpoint,
                cause,
                is_foreign: true,
                ..
            }) => Error::Unreachable(Unreachable {
                endpoint,
                cause: Cause::NotGrpc(cause),
            }),
            Failure::Lost(Lost { endpoint, cause, .. }) => Error::Lost { endpoint, cause },
            Failure::Status(status) => Error::Server {
                code: status.code(),
                message: too_large(status.message()).unwrap_or_else(|| status.message().to_owned()),
            },
        }
    }
}

/// What tonic says of an answer that is larger than the client takes, in the words of Go's clients.
fn too_large(message: &str) -> Option<String> {
    let sizes = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (size, max) = sizes.split_once(" bytes, the limit is: ")?;
    let max = max.strip_suffix(" bytes")?;
    Some(format!(
        "grpc: received message larger than max ({size} vs. {max})"
    ))
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Failure::from(status).into()
    }
}

impl Error {
    /// etcd's words, if it is the cluster that has spoken.
    pub fn server_message(&self) -> Option<&str> {
        match self {
            Error::Server { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Whether the same may work later, or elsewhere: nobody is reached, or the cluster has no leader now.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Server { code, .. } => matches!(code, Code::Unavailable | Code::Internal),
            Error::Unreachable(_) | Error::Lost { .. } => true,
            _ => false,
        }
    }
}
