//! Who the members are, as the cluster itself says.

use std::sync::{Arc, Weak};
use std::time::Duration;

use proto::etcdserverpb::MemberListRequest;
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::{Client, Core, Error};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Client {
    /// Asks the cluster who its members are, and talks to those from now on: all that have started, and have a vote.
    pub async fn sync(&self) -> Result<(), Error> {
        let request = MemberListRequest { linearizable: true };
        let members = self.member_list(request).await?.members;
        let members = members
            .into_iter()
            .filter(|member| !member.name.is_empty() && !member.is_learner);
        let endpoints: Vec<String> = members.flat_map(|member| member.client_ur_ls).collect();
        if endpoints != self.endpoints() {
            info!(
                endpoints = endpoints.join(","),
                "members of the cluster have changed"
            );
        }
        self.set_endpoints(&endpoints)
    }
}

/// Looks from time to time, if that is wanted, for as long as the client is there.
pub fn begin(client: &Client) {
    if let Some(interval) = client.core.config.auto_sync_interval {
        tokio::spawn(keep(Arc::downgrade(&client.core), interval));
    }
}

async fn keep(core: Weak<Core>, interval: Duration) {
    loop {
        sleep(interval).await;
        let Some(core) = core.upgrade() else {
            return;
        };
        let client = Client {
            core,
            timeout: None,
            requires_leader: false,
            token: None,
        };
        match timeout(PATIENCE, client.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => info!(%error, "cannot ask who the members are"),
            Err(_) => info!("nobody says in time who the members are"),
        }
    }
}
