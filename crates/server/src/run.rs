//! The server from start to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use peer::Connector;
use thiserror::Error;

use crate::access::Tokenizer;
use crate::ask::Ask;
use crate::bootstrap;
use crate::config::{BootstrapError, Config, Discovery, Gate, Tls, Trust};
use crate::confine::confine_if_wanted;
use crate::http::{Desk, Port, Site};
use crate::jwt::JwtError;
use crate::listen::{self, Edge, Lanes, Limits, ListenError, Listeners, PeerEdge, Ports, sign_own};
use crate::metrics::Metrics;
use crate::rpc::Services;
use crate::start::{StartError, Surroundings, start};
use crate::storage::Storage;
use crate::traces::{self, Tracer};
use crate::{corruption, tasks, versions};

/// Why a server did not start, or had to stop.
#[derive(Debug, Error)]
pub enum RunError {
    /// A port can't be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Users can't be known by the tokens that were asked for.
    #[error("failed to create token provider: {0}")]
    Tokens(#[from] JwtError),
    /// A new member can't begin as configured.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The member can't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system gives no threads.
    #[error("cannot start the connection threads: {0}")]
    Lanes(std::io::Error),
    /// A loop met an error it can't go on with.
    #[error("{0}")]
    Failed(String),
}

/// Time to connect to another member for a small request.
const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a stop waits for the last spans to be taken by their collector.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How this member dials others by `https`; not at all if no flag says anything about it.
fn peer_client(tls: &Tls) -> Result<Option<tls::Client>, ListenError> {
    let settings = &tls.settings;
    let is_given = settings.identity.is_some() || settings.trust != Trust::System;
    let client = is_given.then(|| tls::Client::new(settings, tls::UNSAID));
    Ok(client.transpose()?)
}

/// Looks at what a start finds out before it touches data and ports and asks anybody: the files of certificates and
/// keys, and the initial cluster if there is no data yet.
pub fn check(config: &Config) -> Result<(), RunError> {
    listen::check(config)?;
    peer_client(&config.peer_tls)?;
    Tokenizer::new(config)?;
    let finds_members = config.discovery.is_some();
    if !finds_members && !Storage::is_initialized(&env::RealDisk, config) {
        config.check_bootstrap()?;
    }
    Ok(())
}

/// Runs a server until `stop` resolves or it fails. `ready` is called when clients are served.
///
/// Ports are bound before data is touched. Metrics and health are served from the start, clients once
/// the member has a leader and is known to the cluster.
pub async fn run(
    mut config: Config,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    sign_own(&mut config)?;
    let config = Arc::new(config);
    let has_data = Storage::is_initialized(&env::RealDisk, &config);
    config.log_start(has_data);
    let mut listeners = Listeners::bind(&config)?;
    // The keys for them are read once, while their files can be reached.
    let tokens = Tokenizer::new(&config)?;
    if config.pprof {
        insight::keep_notes_in(&config.member_dir());
    }
    confine_if_wanted(&config);
    let metrics = Arc::new(Metrics::new(&config));
    let lanes = Arc::new(Lanes::start(Lanes::per_core()).map_err(RunError::Lanes)?);
    if let Some(settings) = &config.tracing {
        let (tracer, exporter) = Tracer::new(settings, traces::random_seed());
        lanes.spawn(exporter.run());
        let _ = metrics.tracer.set(tracer);
    }
    // Raft does not wait behind clients.
    let peer_lanes = Arc::new(Lanes::start(1).map_err(RunError::Lanes)?);
    let tls = peer_client(&config.peer_tls)?;
    let dials_from = config.dials_from();
    if config.gates.enabled(Gate::SetMemberLocalAddr) {
        tracing::info!(LocalAddr = ?dials_from, "setting member local address");
    }
    let client = peer::Client::by(Connector::new(tls.clone(), PEER_CONNECT_TIMEOUT).coming_from(dials_from));
    if let (true, Some(Discovery::Register(register))) = (has_data, &config.discovery) {
        tracing::warn!(
            "discovery-token" = register.token,
            "discovery token is ignored since cluster already initialized; valid logs are found"
        );
    }
    let beginning = match has_data {
        true => None,
        false => Some(bootstrap::begin(&config, &client).await?),
    };
    let running = start(
        config.clone(),
        Surroundings {
            metrics: metrics.clone(),
            lanes: lanes.count(),
            peer_runtime: peer_lanes.handle(0),
            client,
            tls,
            tokens,
            beginning,
        },
    )?;
    let node = &running.node;
    for lane in 0..lanes.count() {
        lanes.spawn_on(lane, node.replies.clone().hand_out(lane));
        lanes.spawn_on(lane, node.watches.clone().answer_bell(lane));
    }

    let ask = Ask::new(node.cluster_id, node.peers.client().clone());
    if has_data
        && config.gates.enabled(Gate::InitialCorruptCheck)
        && let Err(reason) = corruption::check_initially(node, &ask).await
    {
        tracing::error!(error = reason, "checkInitialHashKV failed");
        running.stop();
        return Err(RunError::Failed(reason));
    }
    if has_data && let Err(reason) = versions::check_others(node, &ask).await {
        running.stop();
        return Err(RunError::Failed(reason));
    }

    let ports = Ports::new(lanes.clone(), Limits::new(&config));
    let site = |port| Site::new(port, node.clone(), metrics.clone(), &config);
    let peer_ports = Ports::new(peer_lanes, Limits::new(&config));
    let peer_edge = PeerEdge {
        transport: node.peers.transport().clone(),
        desk: Desk(node.clone()),
    };
    peer_ports.serve_peers(&mut listeners, &Edge::peers(site(Port::Peer), peer_edge));
    ports.serve_metrics(&mut listeners, site(Port::Metrics));
    lanes.spawn(versions::agree(node.clone(), ask.clone()));
    lanes.spawn(versions::end_downgrade(node.clone(), ask.clone()));
    lanes.spawn(corruption::check_periodically(node.clone(), ask.clone()));
    lanes.spawn(corruption::check_compactions(node.clone(), ask.clone()));
    lanes.spawn(corruption::check_always(node.clone(), ask));
    lanes.spawn(tasks::expire_leases(node.clone()));
    lanes.spawn(tasks::checkpoint_leases(node.clone()));
    lanes.spawn(tasks::compact(node.clone()));

    let serve = async {
        tasks::publish(node.clone()).await;
        ports.serve_clients(
            &mut listeners,
            Services::new(node),
            site(Port::Client),
            metrics.clone(),
            &config,
        );
        ready();
        std::future::pending::<()>().await
    };
    let failed = tokio::select! {
        () = serve => None,
        () = stop => {
            node.hand_over().await;
            None
        }
        () = tasks::depart(node.clone()) => None,
        reason = running.failure.wait() => Some(reason),
    };
    tracing::info!(name = %config.name, "data-dir" = %config.data_dir.display(), "closing etcd server");
    ports.stop().await;
    if let Some(tracer) = metrics.tracer.get() {
        // What is not sent by then is lost.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, tracer.flush()).await;
    }
    node.peers.stop();
    peer_ports.stop().await;
    running.stop();
    match failed {
        None => Ok(()),
        Some(reason) => Err(RunError::Failed(reason)),
    }
}
