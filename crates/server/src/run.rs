//! The server from start to stop.

use std::future::Future;
use std::sync::Arc;

use thiserror::Error;

use crate::config::Config;
use crate::http::{Port, Site};
use crate::listen::{Lanes, Limits, ListenError, Listeners, Ports};
use crate::metrics::Metrics;
use crate::rpc::Services;
use crate::start::{StartError, start};
use crate::storage::Storage;
use crate::tasks;

/// Why a server did not start, or had to stop.
#[derive(Debug, Error)]
pub enum RunError {
    /// A port can't be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
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

/// Runs a server until `stop` resolves or it fails. `ready` is called when clients are served.
///
/// Ports are bound before data is touched. Metrics and health are served from the start, clients once
/// the member has a leader and is known to the cluster.
pub async fn run(
    config: Config,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let config = Arc::new(config);
    config.log_start(Storage::is_initialized(&env::RealDisk, &config));
    let mut listeners = Listeners::bind(&config)?;
    let metrics = Arc::new(Metrics::new(&config));
    let lanes = Arc::new(Lanes::start(Lanes::per_core()).map_err(RunError::Lanes)?);
    let running = start(config.clone(), metrics.clone(), lanes.count())?;
    let node = &running.node;
    for lane in 0..lanes.count() {
        lanes.spawn_on(lane, node.replies.clone().hand_out(lane));
        lanes.spawn_on(lane, node.watches.clone().answer_bell(lane));
    }

    let ports = Ports::new(lanes.clone(), Limits::new(&config));
    let site = |port| Site::new(port, node.clone(), metrics.clone(), &config);
    ports.serve_peers(&mut listeners, site(Port::Peer));
    ports.serve_metrics(&mut listeners, site(Port::Metrics));
    lanes.spawn(tasks::agree_on_version(node.clone()));
    lanes.spawn(tasks::expire_leases(node.clone()));
    lanes.spawn(tasks::compact(node.clone()));

    let serve = async {
        tasks::publish(node.clone()).await;
        ports.serve_clients(
            &mut listeners,
            Services::new(node),
            site(Port::Client),
            metrics.clone(),
        );
        ready();
        std::future::pending::<()>().await
    };
    let failed = tokio::select! {
        () = serve => None,
        () = stop => None,
        reason = running.failure.wait() => Some(reason),
    };
    tracing::info!(name = %config.name, "data-dir" = %config.data_dir.display(), "closing etcd server");
    ports.stop().await;
    running.stop();
    match failed {
        None => Ok(()),
        Some(reason) => Err(RunError::Failed(reason)),
    }
}
