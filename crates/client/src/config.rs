//! What a client is told.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Where a cluster is and how to talk to it. All but the endpoints have usual values:
///
/// ```
/// let config = client::Config::new(["127.0.0.1:2379"]);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Members of the cluster: `host:port`, a URL (`http`, `https`), or a socket's path (`unix:`, `unixs:`).
    pub endpoints: Vec<String>,
    /// TLS: for endpoints that do not say `http://` themselves. Those that say `https://` have it anyway.
    pub tls: Option<tls::Settings>,
    /// Whom the members' certificates must be for, if not for the host of each endpoint.
    pub server_name: Option<String>,
    /// Who is calling, if that is asked for.
    pub user: Option<User>,
    /// Time for one connection, and for signing in.
    pub dial_timeout: Duration,
    /// Time for one call, with all its retries; endless without. Streams have none.
    pub call_timeout: Option<Duration>,
    /// Silence on a connection after which the other end is asked for a sign of life; never without.
    pub keep_alive_interval: Option<Duration>,
    /// How long that may take before the connection counts as lost.
    pub keep_alive_timeout: Duration,
    /// Whether to ask also while no call is made. etcd's servers take that for an attack unless told otherwise.
    pub keep_alive_while_idle: bool,
    /// The largest request.
    pub max_send_bytes: usize,
    /// The largest answer.
    pub max_receive_bytes: usize,
    /// What all keys of this client begin with, without its users knowing; nothing usually.
    pub namespace: Bytes,
    /// How often the cluster is asked who its members are, to talk to those from then on; never without.
    pub auto_sync_interval: Option<Duration>,
    /// How often a call is made at most, if it may be repeated at all.
    pub max_attempts: u32,
    /// The wait between two rounds of attempts, give or take a tenth.
    pub retry_wait: Duration,
}

impl Config {
    /// A client of these members, with what is usual.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Config {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl Default for Config {
    /// Of no cluster.
    fn default() -> Self {
        Config {
            endpoints: vec![],
            tls: None,
            server_name: None,
            user: None,
            dial_timeout: Duration::from_secs(5),
            call_timeout: None,
            keep_alive_interval: None,
            keep_alive_timeout: Duration::from_secs(20),
            keep_alive_while_idle: false,
            // What servers take by default.
            max_send_bytes: 2 << 20,
            max_receive_bytes: i32::MAX as usize,
            namespace: Bytes::new(),
            auto_sync_interval: None,
            max_attempts: 100,
            retry_wait: Duration::from_millis(25),
        }
    }
}

/// Who calls.
#[derive(Clone, PartialEq, Eq)]
pub enum User {
    /// Somebody with a name and a password, which are exchanged for a token, again and again when one expires.
    Password {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// Somebody with a token, which is used as it is.
    Token(String),
}

/// Secrets are not shown.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Password { name, .. } => write!(f, "Password({name:?}, ...)"),
            User::Token(_) => f.write_str("Token(...)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let password = User::Password {
            name: "root".into(),
            password: "s3cret".into(),
        };
        for user in [password, User::Token("s3cret".into())] {
            assert!(!format!("{user:?}").contains("s3cret"));
        }
    }
}
