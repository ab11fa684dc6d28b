//! A client of an etcd cluster, of Keelson's or of etcd's own.
//!
//! ```no_run
//! use client::{Client, Config};
//! use proto::etcdserverpb::{PutRequest, RangeRequest};
//!
//! # async fn example() -> Result<(), client::Error> {
//! let client = Client::connect(Config::new(["127.0.0.1:2379"])).await?;
//! let put = PutRequest { key: "a".into(), value: "1".into(), ..Default::default() };
//! client.put(put).await?;
//! let answer = client.range(RangeRequest { key: "a".into(), ..Default::default() }).await?;
//! assert_eq!(answer.kvs[0].value, "1");
//! # Ok(())
//! # }
//! ```
//!
//! Requests and answers are etcd's own messages, from crate `proto`, with one method for each call (`calls`). What is added is what makes many members look like one that never fails:
//!
//! * calls take turns along the members that are reached, and are repeated where that is safe (`channel`, `call`);
//! * a password becomes a token, again when that expires (`identity`);
//! * a [`Watcher`] goes on at another member, from the next revision (`watch`);
//! * with [`Config::namespace`], a part of the keys looks like all of them (`namespace`);
//! * members are found by the records of a domain ([`srv`]);
//! * keys can be read from memory that others do not change without asking ([`leasing`]);
//! * a [`KeepAlive`] renews a lease, and says when it can't (`lease`);
//! * an [`Error`] says whether the cluster has refused, or nobody was reached and why.
//!
//! A client connects by itself and waits for members to come up: a call takes as long as that takes, unless
//! [`Config::call_timeout`] or [`Client::with_timeout`] say otherwise. It works on the tokio runtime it was made on.

// Connections take time, and are spread by chance.
#![allow(clippy::disallowed_methods)]

mod answers;
mod call;
mod calls;
mod channel;
mod config;
mod dial;
mod election;
mod endpoint;
mod error;
mod identity;
mod keys;
mod lease;
pub mod leasing;
mod lock;
mod namespace;
mod session;
pub mod srv;
mod stm;
mod sync;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::metadata::{Ascii, MetadataValue};
use tower_service::Service;

pub use answers::{Answers, RangeStream};
pub use config::{Config, User};
pub use election::{Followed, Office};
pub use error::{Cause, Error, Unreachable};
pub use keys::prefix_end;
pub use lease::KeepAlive;
pub use lock::Lock;
pub use session::Session;
pub use stm::{Isolation, Stm};
pub use watch::Watcher;

use crate::channel::Channel;
use crate::dial::Dialer;
use crate::endpoint::Endpoint;
use crate::identity::Identity;
use crate::namespace::Namespace;

/// A client. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    timeout: Option<Duration>,
    requires_leader: bool,
    /// On whose behalf calls are made, if not the client's own user's.
    token: Option<MetadataValue<Ascii>>,
}

struct Core {
    config: Arc<Config>,
    identity: Arc<Identity>,
    channel: Channel,
    namespace: Option<Namespace>,
    hubs: Workers<watch::Wish>,
    keepers: Workers<lease::Wish>,
    watchers: AtomicU64,
}

impl Client {
    /// A client of a cluster. With a name and a password, it signs in; else it only begins to connect.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let dialer = dialer(&config)?;
        let endpoints = endpoints(&config.endpoints, config.tls.is_some())?;
        let identity = Identity::new(config.user.clone())?;
        let client = Client {
            timeout: config.call_timeout,
            requires_leader: false,
            token: None,
            core: Arc::new(Core {
                identity: Arc::new(identity),
                channel: Channel::new(endpoints, Arc::new(dialer)),
                namespace: (!config.namespace.is_empty()).then(|| Namespace(config.namespace.clone())),
                config: Arc::new(config),
                hubs: Workers::default(),
                keepers: Workers::default(),
                watchers: AtomicU64::new(0),
            }),
        };
        client.sign_in().await?;
        sync::begin(&client);
        Ok(client)
    }

    /// Gets the first token, if there is a password to get one with.
    async fn sign_in(&self) -> Result<(), Error> {
        if !self.core.identity.has_password() {
            return Ok(());
        }
        let work = self.renew_token(self.generation());
        let signed_in = tokio::time::timeout(self.core.config.dial_timeout, work).await;
        signed_in.unwrap_or_else(|_| Err(Error::Deadline(self.core.channel.last_failure())))
    }

    /// The same client, bound to one endpoint: for what is asked of a member rather than of the cluster.
    pub fn at(&self, endpoint: &str) -> Result<Self, Error> {
        let endpoints = endpoints([endpoint], self.core.config.tls.is_some())?;
        let core = Core {
            config: self.core.config.clone(),
            identity: self.core.identity.clone(),
            channel: self.core.channel.only(endpoints),
            namespace: self.core.namespace.clone(),
            hubs: Workers::default(),
            keepers: Workers::default(),
            watchers: AtomicU64::new(0),
        };
        Ok(Client {
            core: Arc::new(core),
            ..self.clone()
        })
    }

    /// The same client, whose calls take no longer than that.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Client {
            timeout: Some(timeout),
            ..self.clone()
        }
    }

    /// The same client, whose calls are refused by members that know no leader: reads and watches too.
    pub fn requiring_leader(&self) -> Self {
        Client {
            requires_leader: true,
            ..self.clone()
        }
    }

    /// Waits until a member is connected, or none could be, and says why: for those who would rather know at once than
    /// have calls wait for members to come up.
    pub async fn reached(&self) -> Result<(), Unreachable> {
        self.core.channel.reached().await
    }

    /// The same client, calling on behalf of somebody who has this token; of nobody without.
    pub fn on_behalf_of(&self, token: Option<MetadataValue<Ascii>>) -> Self {
        Client {
            token,
            ..self.clone()
        }
    }

    /// On whose behalf it calls, if it is not its own user.
    pub fn token(&self) -> Option<&MetadataValue<Ascii>> {
        self.token.as_ref()
    }

    /// Passes a gRPC call on as it is, to the member whose turn it is, once one is connected.
    pub async fn forward(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Error> {
        let answer = self.core.channel.clone().call(request).await;
        let lost = |lost| Error::from(error::Failure::Lost(lost));
        Ok(answer.map_err(lost)?.map(Body::new))
    }

    /// The members it talks to, as they were written.
    pub fn endpoints(&self) -> Vec<String> {
        self.core.channel.endpoints()
    }

    /// Talks to these members from now on.
    pub fn set_endpoints(&self, texts: &[impl AsRef<str>]) -> Result<(), Error> {
        let endpoints = endpoints(texts, self.core.config.tls.is_some())?;
        self.core.channel.set_endpoints(endpoints);
        Ok(())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.endpoints().join(","))
    }
}

/// Tasks that serve clients with the same badge: who requires a leader, and on whose behalf.
struct Workers<Wish>(Mutex<HashMap<Badge, mpsc::Sender<Wish>>>);

type Badge = (bool, Option<Vec<u8>>);

impl<Wish> Default for Workers<Wish> {
    fn default() -> Self {
        Workers(Mutex::default())
    }
}

impl<Wish> Workers<Wish> {
    /// The one for a client; a new one, which `start` starts, if there is none. Those that have ended are forgotten.
    fn of(
        &self,
        client: &Client,
        max: usize,
        start: impl FnOnce(mpsc::Receiver<Wish>),
    ) -> mpsc::Sender<Wish> {
        let token = client.token.as_ref().map(|token| token.as_bytes().to_vec());
        let badge = (client.requires_leader, token);
        let mut workers = self.0.lock();
        if let Some(worker) = workers.get(&badge).filter(|worker| !worker.is_closed()) {
            return worker.clone();
        }
        workers.retain(|_, worker| !worker.is_closed());
        let (wishes, receiver) = mpsc::channel(max);
        start(receiver);
        workers.insert(badge, wishes.clone());
        wishes
    }
}

/// What a worker that has nothing to do is to do next. Nothing means that there is no wish, nor will be one: who has another
/// finds the worker closed, and starts the next one.
async fn next_or_close<Wish>(wishes: &mut mpsc::Receiver<Wish>) -> Option<Wish> {
    if wishes.is_empty() {
        wishes.close();
    }
    wishes.recv().await
}

impl Core {
    fn next_watcher(&self) -> u64 {
        self.watchers.fetch_add(1, Ordering::Relaxed)
    }
}

fn dialer(config: &Config) -> Result<Dialer, Error> {
    let settings = config.tls.clone().unwrap_or_default();
    let tls = tls::Client::new(&settings, tls::HTTP2).map_err(|error| Error::Config(error.to_string()))?;
    Ok(Dialer {
        tls,
        name: config.server_name.clone(),
        has_identity: settings.client_identity.is_some() || settings.identity.is_some(),
        timeout: config.dial_timeout,
        keep_alive_interval: config.keep_alive_interval,
        keep_alive_timeout: config.keep_alive_timeout,
        keep_alive_while_idle: config.keep_alive_while_idle,
    })
}

fn endpoints(
    texts: impl IntoIterator<Item = impl AsRef<str>>,
    secures: bool,
) -> Result<Vec<Endpoint>, Error> {
    let parse = |text: &str| {
        let no_endpoint = || Error::Config(format!("{text:?} is no endpoint"));
        Endpoint::parse(text, secures).ok_or_else(no_endpoint)
    };
    let mut endpoints = texts
        .into_iter()
        .map(|text| parse(text.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    endpoints.dedup();
    match endpoints.is_empty() {
        true => Err(Error::Config("no endpoints".into())),
        false => Ok(endpoints),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_closes_only_when_no_wish_is_left() {
        let (wishes, mut receiver) = mpsc::channel(2);
        wishes.try_send(1).expect("there is room");
        assert_eq!(next_or_close(&mut receiver).await, Some(1));
        wishes.try_send(2).expect("it is still open");
        assert_eq!(next_or_close(&mut receiver).await, Some(2));
        assert_eq!(next_or_close(&mut receiver).await, None);
        assert!(wishes.is_closed());
    }

    #[tokio::test]
    async fn that_nobody_listens_is_known_without_waiting_for_a_call_to_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = listener.local_addr().expect("its address").to_string();
        drop(listener);
        let client = Client::connect(Config::new([&endpoint])).await.expect("a client");
        let why = client.reached().await.expect_err("nobody is there");
        assert_eq!((why.endpoint, why.cause), (endpoint, Cause::Refused));
    }
}
