//! Who the members are: with an address to advertise, the proxies, so that clients which ask for members stay with them.

use std::time::Duration;

use client::{Client, Error, Session, prefix_end};
use grpc::etcdserverpb::cluster_server::Cluster;
use proto::etcdserverpb::*;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::calls::{answer, for_call};

/// The wait before this proxy is registered again.
const REGISTER_PAUSE: Duration = Duration::from_secs(1);

/// Under which keys proxies register.
#[derive(Clone, Debug)]
pub struct Register {
    /// What the keys begin with, shared by all proxies of a cluster.
    pub prefix: String,
    /// How long a proxy is believed in without a sign of life.
    pub ttl_secs: i64,
}

pub struct Members {
    pub client: Client,
    pub advertised: Option<String>,
    pub register: Option<Register>,
}

/// An address as gRPC's own resolvers have it in etcd.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Update {
    op: u8,
    addr: String,
    metadata: serde_json::Value,
}

/// What a proxy says about itself there.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Meta {
    name: String,
}

#[tonic::async_trait]
impl Cluster for Members {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let Some(advertised) = &self.advertised else {
            return answer(
                for_call(&self.client, &request)
                    .member_list(request.into_inner())
                    .await,
            );
        };
        let registered = match &self.register {
            Some(register) => self.registered(register).await.map_err(super::calls::status)?,
            None => vec![],
        };
        let members = match registered.is_empty() {
            true => vec![member(host_name(), advertised.clone())],
            false => registered,
        };
        Ok(Response::new(MemberListResponse {
            header: None,
            members,
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        answer(
            for_call(&self.client, &request)
                .member_add(request.into_inner())
                .await,
        )
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        answer(
            for_call(&self.client, &request)
                .member_remove(request.into_inner())
                .await,
        )
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        answer(
            for_call(&self.client, &request)
                .member_update(request.into_inner())
                .await,
        )
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        answer(
            for_call(&self.client, &request)
                .member_promote(request.into_inner())
                .await,
        )
    }
}

impl Members {
    async fn registered(&self, register: &Register) -> Result<Vec<Member>, Error> {
        let prefix = format!("{}/", register.prefix);
        let range = RangeRequest {
            range_end: prefix_end(prefix.as_bytes()),
            key: prefix.into(),
            ..RangeRequest::default()
        };
        let found = self.client.range(range).await?;
        // What others have put there may be anything.
        let updates = found
            .kvs
            .iter()
            .filter_map(|kv| serde_json::from_slice(&kv.value).ok());
        Ok(updates
            .map(|Update { addr, metadata, .. }| member(meta_name(&metadata), addr))
            .collect())
    }
}

fn member(name: String, url: String) -> Member {
    Member {
        name,
        client_ur_ls: vec![url],
        ..Member::default()
    }
}

fn meta_name(metadata: &serde_json::Value) -> String {
    let meta = metadata
        .as_str()
        .and_then(|text| serde_json::from_str::<Meta>(text).ok());
    meta.unwrap_or_default().name
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Keeps this proxy registered, for as long as it runs.
pub async fn stay_registered(client: Client, register: Register, address: String) {
    loop {
        match register_once(&client, &register, &address).await {
            Ok(session) => {
                info!(
                    addr = address,
                    "lease-ttl" = register.ttl_secs,
                    "registered session with lease"
                );
                let error = session.ended().await;
                warn!(%error, "session expired; possible network partition or server restart");
            }
            Err(error) => warn!(%error, "failed to create a session"),
        }
        sleep(REGISTER_PAUSE).await;
    }
}

async fn register_once(client: &Client, register: &Register, address: &str) -> Result<Session, Error> {
    let session = Session::new(client, register.ttl_secs).await?;
    let meta = Meta { name: host_name() };
    let update = Update {
        op: 0,
        addr: address.to_owned(),
        metadata: serde_json::Value::String(json(&meta)),
    };
    let put = PutRequest {
        key: format!("{}/{address}", register.prefix).into(),
        value: json(&update).into(),
        lease: session.lease(),
        ..PutRequest::default()
    };
    client.put(put).await?;
    Ok(session)
}

/// Neither has anything that JSON has not.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
