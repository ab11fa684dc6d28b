//! TLS on every port: who is at the other end, and who says so.
//!
//! [`Settings`] are what the flags say, for clients or for members. From them come a [`Server`], which takes
//! connections, and a [`Client`], which makes them; both by rustls over aws-lc-rs, which knows the P-521 keys that etcd makes.
//!
//! **Files are read again for every handshake**: certificates, keys, authorities and revocations are exchanged
//! without a restart. Whatever is in the files then replaces what was there only if it can be used as a whole; half a
//! file, or a key without its certificate, is passed over with a warning and the last good ones stay (module `reload`).
//!
//! **No session is resumed.** Every connection shows its certificate again, so that a revocation or another
//! authority holds from the next connection on. Connections that are there end when a certificate they have shown is found
//! revoked ([`Validity`]).
//!
//! Rules beyond the chain of signatures (`verify`), all etcd's: names that a certificate must have one of, serial numbers that are
//! revoked, and, where members connect, that the address they come from is in their certificate (`address`).
//!
//! Missing on purpose: TLS 1.0 and 1.1, and cipher suites without forward secrecy.

// Certificates are read from files and are good for a time.
#![allow(clippy::disallowed_methods)]

mod address;
mod client;
mod describe;
mod files;
mod protocol;
mod reload;
mod self_signed;
mod server;
mod verify;

use std::fmt;
use std::path::PathBuf;

use rustls::client::VerifierBuilderError;
use rustls::pki_types::pem;

pub use address::{AddressError, check_address};
pub use client::Client;
pub use describe::describe;
pub use protocol::{Protocols, Suite, SuiteError, Version};
pub use self_signed::{SelfSignedError, self_signed};
pub use server::{Server, Shown, Validity};
pub use tokio_rustls::server::TlsStream;

/// What is spoken inside TLS, as it is agreed upon in the handshake (ALPN).
pub type Alpn = &'static [&'static [u8]];

/// HTTP/2, or HTTP/1.1 for those who know nothing else.
pub const HTTP: Alpn = &[b"h2", b"http/1.1"];
/// HTTP/2 alone.
pub const HTTP2: Alpn = &[b"h2"];
/// Nothing is said. Members speak HTTP/1.1 only, and Go's offer `h2` alone.
pub const UNSAID: Alpn = &[];

/// A certificate, with those that vouch for it, and its key: two PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The file of the certificates, one's own first.
    pub cert: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
}

/// Who is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Who has a certificate signed by one of those in the file; a server also needs one for the name that was dialed.
    Authorities(PathBuf),
    /// The same, signed by one of those this machine trusts.
    #[default]
    System,
    /// Every server: what is exchanged is encrypted, but nobody knows with whom.
    Anyone,
}

/// What a certificate must say, besides being signed by somebody who is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// Nothing.
    #[default]
    Any,
    /// One of these as its common name.
    CommonNames(Vec<String>),
    /// One of these among its host names and addresses.
    Hostnames(Vec<String>),
}

/// TLS as the flags have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What a server shows. Without it there is none.
    pub identity: Option<Identity>,
    /// What a client shows, if not the same.
    pub client_identity: Option<Identity>,
    /// Whom either end believes.
    pub trust: Trust,
    /// Whether clients must show a certificate.
    pub requires_certificate: bool,
    /// The file of the certificates that a server refuses: a CRL, of which only the serial numbers are looked at.
    pub revoked: Option<PathBuf>,
    /// What certificates must say.
    pub allowed: Allowed,
    /// Versions and cipher suites.
    pub protocols: Protocols,
}

/// As etcd logs it.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |path: Option<&PathBuf>| path.map_or(String::new(), |path| path.display().to_string());
        let of = |identity: &Option<Identity>| {
            let identity = identity.as_ref();
            (
                path(identity.map(|identity| &identity.cert)),
                path(identity.map(|identity| &identity.key)),
            )
        };
        let ((cert, key), (client_cert, client_key)) = (of(&self.identity), of(&self.client_identity));
        let authorities = match &self.trust {
            Trust::Authorities(file) => path(Some(file)),
            Trust::System | Trust::Anyone => String::new(),
        };
        write!(
            f,
            "cert = {cert}, key = {key}, client-cert={client_cert}, client-key={client_key}, \
             trusted-ca = {authorities}, client-cert-auth = {}, crl-file = {}",
            self.requires_certificate,
            path(self.revoked.as_ref())
        )
    }
}

/// Why there is no TLS. Each names the file, if it is about one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// One file of a pair.
    #[error("KeyFile and CertFile must both be present[key: {}, cert: {}]", .0.key.display(), .0.cert.display())]
    HalfIdentity(Identity),
    /// One file of a client's pair.
    #[error(
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}",
        .0.key.display(), .0.cert.display()
    )]
    HalfClientIdentity(Identity),
    /// The file can't be read.
    #[error("cannot read {}: {cause}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The file is not PEM, or has none of what is needed.
    #[error("no {what} in {}: {cause}", file.display())]
    Missing {
        /// What was looked for.
        what: &'static str,
        /// Which file.
        file: PathBuf,
        /// What was found instead.
        cause: String,
    },
    /// What is in the file can't be used.
    #[error("cannot use {}: {cause}", file.display())]
    Unusable {
        /// Which file.
        file: PathBuf,
        /// Why.
        cause: rustls::Error,
    },
    /// Certificates can't be checked with whom this machine, or the file, trusts.
    #[error("cannot verify certificates: {0}")]
    NoVerifier(String),
    /// The file is no list of revocations.
    #[error("no revocation list in {}: {cause}", file.display())]
    NoRevocations {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The versions have no cipher suite in common with those that are allowed.
    #[error("no TLS version and cipher suite is left to use: {0}")]
    NoProtocol(rustls::Error),
}

impl From<VerifierBuilderError> for TlsError {
    fn from(cause: VerifierBuilderError) -> Self {
        TlsError::NoVerifier(cause.to_string())
    }
}

fn missing(what: &'static str, file: PathBuf, cause: &pem::Error) -> TlsError {
    TlsError::Missing {
        what,
        file,
        cause: cause.to_string(),
    }
}
