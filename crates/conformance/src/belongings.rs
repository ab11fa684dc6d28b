//! What a cluster has besides keys and must keep: a lease with a key, users with roles, and authentication, which is on.
//!
//! After each change of the cluster's members these are as they were, as the changed member tells; a password changed
//! there is changed everywhere; and everywhere nobody, forgers and users with another role are refused.

use futures_util::{StreamExt, stream};
use grpc::etcdserverpb::auth_client::AuthClient;
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::lease_client::LeaseClient;
use grpc::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::account::Account;
use crate::cluster::{Cluster, eventually, within};
use crate::load::{self, channel};
use crate::migration::etcdctl;
use crate::tools::Tools;

/// A lease that outlives every trial.
const LEASE: i64 = 7;

/// A key that hangs on it. It is among the load's keys.
const LEASED: &str = "leased";

/// A user who may read [`READABLE`], which the load's user may not.
const READER: &str = "someone";

/// The key before all of the load's.
const READABLE: &str = "a";

/// What the cluster had in the beginning, but for the reader's password.
#[derive(Debug)]
pub struct Belongings {
    users: [String; 3],
    /// How often the reader's password has changed.
    changes: usize,
}

impl Belongings {
    /// Brings them to a cluster without users.
    pub async fn bring(tools: &Tools, cluster: &Cluster) -> Result<Self, String> {
        lease(cluster).await.map_err(|status| status.to_string())?;
        for words in making_users() {
            let words: Vec<_> = words.split(' ').collect();
            etcdctl(tools, cluster.address(0), &words).await?;
        }
        Ok(Self {
            users: users(tools, cluster, 0).await?,
            changes: 0,
        })
    }

    /// Tells whether they are all there, at member `number` in particular, and who may not is refused everywhere.
    pub async fn are_kept(&mut self, tools: &Tools, cluster: &Cluster, number: usize) -> Result<(), String> {
        lease_lives(cluster, number).await?;
        let users = users(tools, cluster, number).await?;
        if users != self.users {
            return Err(format!("the users were {:?} and are {users:?}", self.users));
        }
        let former = self.reader();
        self.changes += 1;
        change_password(cluster, number, &format!("secret{}", self.changes)).await?;
        for member in cluster.running() {
            let at = channel(cluster.address(member));
            only_who_may(&at, &former, &self.reader())
                .await
                .map_err(|error| format!("at m{}: {error}", member + 1))?;
        }
        Ok(())
    }

    /// The reader with the password of today, not signed in yet.
    fn reader(&self) -> Account {
        Account::new(READER, &format!("secret{}", self.changes))
    }
}

/// Makes root, the load's user and a reader, each with a role, and has everybody sign in from then on.
fn making_users() -> [String; 11] {
    let ((load, password), from) = (load::USER, load::FIRST_KEY);
    [
        "user add root:pw".into(),
        "user grant-role root root".into(),
        "role add reader".into(),
        format!("role grant-permission reader read {READABLE}"),
        format!("user add {READER}:secret0"),
        format!("user grant-role {READER} reader"),
        "role add writer".into(),
        format!("role grant-permission writer readwrite {from} --from-key"),
        format!("user add {load}:{password}"),
        format!("user grant-role {load} writer"),
        "auth enable".into(),
    ]
}

async fn lease(cluster: &Cluster) -> Result<(), Status> {
    let grant = LeaseGrantRequest {
        ttl: 100_000,
        id: LEASE,
    };
    let granted = cluster.call(0, grant, async |at, request| {
        LeaseClient::new(at).lease_grant(request).await
    });
    granted.await?;
    let put = PutRequest {
        key: LEASED.into(),
        lease: LEASE,
        ..PutRequest::default()
    };
    let put = cluster.call(0, put, async |at, request| KvClient::new(at).put(request).await);
    put.await.map(drop)
}

async fn lease_lives(cluster: &Cluster, number: usize) -> Result<(), String> {
    eventually("the lease is there with its key", async || {
        let question = LeaseTimeToLiveRequest {
            id: LEASE,
            keys: true,
        };
        let answer = cluster.call(number, question, async |at, request| {
            LeaseClient::new(at).lease_time_to_live(request).await
        });
        let answer = answer.await.map_err(|status| status.to_string())?;
        match answer.ttl > 0 && answer.keys == [LEASED.as_bytes()] {
            true => Ok(()),
            false => Err(format!("{answer:?}")),
        }
    })
    .await
}

/// Users and roles, as a member tells.
async fn users(tools: &Tools, cluster: &Cluster, number: usize) -> Result<[String; 3], String> {
    let ask = async |words: &str| {
        let words: Vec<_> = ["--user=root:pw"].into_iter().chain(words.split(' ')).collect();
        etcdctl(tools, cluster.address(number), &words).await
    };
    Ok([
        ask(&format!("user get {READER} --detail")).await?,
        ask(&format!("user get {} --detail", load::USER.0)).await?,
        ask("role list").await?,
    ])
}

/// Has a member change the reader's password. The change may come between the two checks of anybody's call.
async fn change_password(cluster: &Cluster, number: usize, password: &str) -> Result<(), String> {
    eventually("the password is changed", async || {
        let change = AuthUserChangePasswordRequest {
            name: READER.to_owned(),
            password: password.to_owned(),
            ..AuthUserChangePasswordRequest::default()
        };
        let changed = cluster.call(number, change, async |at, request| {
            AuthClient::new(at).user_change_password(request).await
        });
        changed.await.map(drop).map_err(|status| status.to_string())
    })
    .await
}

/// What somebody may try.
#[derive(Clone, Copy, Debug)]
enum Deed {
    SignIn,
    Read(&'static str),
    Watch(&'static str),
    Put(&'static str),
    Compact,
}

/// At one member: everybody is refused what only others may do, with the right code.
async fn only_who_may(at: &Channel, former: &Account, reader: &Account) -> Result<(), String> {
    expect(at, reader, Deed::SignIn, None).await?;
    expect(at, reader, Deed::Read(READABLE), None).await?;
    expect(at, former, Deed::SignIn, Some(Code::InvalidArgument)).await?;
    for (who, key, code) in [
        (&Account::nobody(), LEASED, Code::InvalidArgument),
        (&Account::forger(), LEASED, Code::Unauthenticated),
        (reader, LEASED, Code::PermissionDenied),
        (&load::user(), READABLE, Code::PermissionDenied),
    ] {
        for deed in [Deed::Read(key), Deed::Watch(key), Deed::Put(key), Deed::Compact] {
            expect(at, who, deed, Some(code)).await?;
        }
    }
    Ok(())
}

/// Tries until there is an answer that is not owed to an election. What must be refused may not succeed even once.
async fn expect(at: &Channel, who: &Account, deed: Deed, refusal: Option<Code>) -> Result<(), String> {
    let passing = [Code::Unavailable, Code::DeadlineExceeded, Code::Unknown];
    let code = eventually("there is an answer", async || {
        match within(attempt(at.clone(), who, deed)).await {
            Ok(()) => Ok(None),
            Err(status) if passing.contains(&status.code()) => Err(status.to_string()),
            Err(status) => Ok(Some(status.code())),
        }
    });
    match code.await? {
        code if code == refusal => Ok(()),
        code => Err(format!(
            "{deed:?} by {who:?} is answered {code:?}, not {refusal:?}"
        )),
    }
}

async fn attempt(at: Channel, who: &Account, deed: Deed) -> Result<Response<()>, Status> {
    let done = match deed {
        Deed::SignIn => who.sign_in(at).await,
        Deed::Read(key) => {
            let read = RangeRequest {
                key: key.into(),
                ..RangeRequest::default()
            };
            let read = who.call(at, read, async |at, request| {
                KvClient::new(at).range(request).await
            });
            read.await.map(drop)
        }
        Deed::Watch(key) => {
            let create = WatchCreateRequest {
                key: key.into(),
                ..WatchCreateRequest::default()
            };
            let watch = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            let watch = who.call(at, watch, async |at, request| {
                let requests = request.map(|create| stream::iter([create]).chain(stream::pending()));
                let mut responses = WatchClient::new(at).watch(requests).await?.into_inner();
                match responses.message().await? {
                    Some(response) if response.canceled => Err(canceled(response.cancel_reason)),
                    Some(_) => Ok(Response::new(())),
                    None => Err(Status::unavailable("the stream has ended")),
                }
            });
            watch.await.map(drop)
        }
        Deed::Put(key) => {
            let put = PutRequest {
                key: key.into(),
                ..PutRequest::default()
            };
            let put = who.call(at, put, async |at, request| KvClient::new(at).put(request).await);
            put.await.map(drop)
        }
        Deed::Compact => {
            let compact = CompactionRequest {
                revision: 1,
                ..CompactionRequest::default()
            };
            let compact = who.call(at, compact, async |at, request| {
                KvClient::new(at).compact(request).await
            });
            compact.await.map(drop)
        }
    };
    done.map(Response::new)
}

/// Why a watch was not made; the code is in the text.
fn canceled(reason: String) -> Status {
    let codes = [
        Code::InvalidArgument,
        Code::Unauthenticated,
        Code::PermissionDenied,
    ];
    let code = codes
        .into_iter()
        .find(|code| reason.contains(&format!("code = {code:?} ")));
    Status::new(code.unwrap_or(Code::Unavailable), reason)
}
