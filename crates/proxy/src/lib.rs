//! What stands between many clients and a cluster.
//!
//! [`gateway`] passes connections on and looks into none. [`grpc_proxy`] answers calls itself: many watchers of the same keys
//! cost the cluster one, serializable reads are answered from memory, and thousands of connections become a few.
//!
//! A proxy that is told to talk to itself refuses to start.

// Proxies listen, and wait.
#![allow(clippy::disallowed_methods)]

mod endpoints;
pub mod gateway;
pub mod grpc_proxy;

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

pub use client;
pub use endpoints::Discovery;
pub use tls;

/// Connections at a time; further ones wait to be accepted. Each costs two descriptors, and processes have some ten
/// thousands of them.
const CONNECTIONS_MAX: usize = 16 << 10;
/// The wait after a connection could not be accepted, which means that descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a proxy does not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// Not `host:port`, nor a URL.
    #[error("error parsing endpoint {0:?}")]
    Endpoint(String),
    /// None is given, nor found.
    #[error("no endpoints found")]
    NoEndpoints,
    /// SRV records can't be had.
    #[error(transparent)]
    Discovery(#[from] client::srv::SrvError),
    /// A name leads nowhere.
    #[error("failed to resolve {0}: {1}")]
    Unresolved(String, String),
    /// What is sent on would come back.
    #[error("SRV or endpoint ({target}->{address}) should not resolve to the gateway listen addr ({listen})")]
    Loop {
        /// The endpoint.
        target: String,
        /// Where it is.
        address: SocketAddr,
        /// Where the proxy listens.
        listen: String,
    },
    /// Nobody can listen there.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, String),
    /// TLS can't be had like this.
    #[error("{0}")]
    Tls(String),
    /// The client of the cluster can't be made.
    #[error("{0}")]
    Client(String),
    /// The certificate for the cluster names a user, who all callers would then be.
    #[error("cert has non empty Common Name ({0})")]
    NamedCertificate(String),
    /// Settings that make no sense.
    #[error("{0}")]
    Invalid(String),
}
