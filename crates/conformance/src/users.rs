//! Users of a cluster whose members are of both kinds: what one member is told, all know.
//!
//! Every member adds a user of its own. Passwords hashed by the one kind are right at the other, tokens of one member
//! are good at all, and what is taken away somewhere is gone everywhere.

use std::path::Path;

use grpc::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::PutRequest;
use tonic::Code;

use crate::account::Account;
use crate::cluster::{Cluster, eventually};
use crate::faults;
use crate::load::channel;
use crate::migration::etcdctl;
use crate::network::Network;
use crate::tools::Tools;

const ROOT: &str = "--user=root:pw";

/// Lets members of these programs share their users.
pub async fn shared(tools: &Tools, programs: [&Path; 3]) -> Result<(), String> {
    let mut cluster = Cluster::start(Network::relayed()?, &programs, &faults::flags()).await?;
    cluster.leader().await?;
    for number in 0..3 {
        add_own(tools, &cluster, number).await?;
    }
    for words in ["user add root:pw", "user grant-role root root", "auth enable"] {
        ctl(tools, &cluster, 0, words).await?;
    }
    let mut owners = Vec::new();
    for number in 0..3 {
        owners.push(signed_in(&cluster, number).await?);
        for other in 0..3 {
            let get = format!("--user=u{number}:pw{number} get k{number}");
            ctl(tools, &cluster, other, &get).await?;
        }
    }
    everywhere(&cluster, "k0", &Account::nobody(), Some(Code::InvalidArgument)).await?;
    for (number, owner) in owners.iter().enumerate() {
        everywhere(&cluster, &format!("k{number}"), owner, None).await?;
        everywhere(&cluster, "other", owner, Some(Code::PermissionDenied)).await?;
    }

    // A lease ends by itself: it is the leader who ends it, and it is nobody's.
    ctl(
        tools,
        &cluster,
        1,
        &format!("{ROOT} put --lease={} leased x", lease(tools, &cluster).await?),
    )
    .await?;
    eventually("the lease has ended", async || {
        match ctl(tools, &cluster, 2, &format!("{ROOT} get leased"))
            .await?
            .as_str()
        {
            "" => Ok(()),
            there => Err(there.to_owned()),
        }
    })
    .await?;

    ctl(tools, &cluster, 1, &format!("{ROOT} user delete u0")).await?;
    everywhere(&cluster, "k0", &owners[0], Some(Code::Unauthenticated)).await?;
    ctl(tools, &cluster, 2, &format!("{ROOT} user revoke-role u1 r1")).await?;
    everywhere(&cluster, "k1", &owners[1], Some(Code::PermissionDenied)).await?;
    everywhere(&cluster, "k2", &owners[2], None).await?;

    for number in 0..3 {
        cluster.stop(number).await?;
        cluster.resume(number).await?;
        let users = ctl(tools, &cluster, number, &format!("{ROOT} user list")).await?;
        if users != "root\nu1\nu2\n" {
            return Err(format!("m{} knows {users:?}", number + 1));
        }
        let owner = signed_in(&cluster, 2).await?;
        // Real members refuse a token that is just on its way to them.
        eventually("the token is known", async || {
            everywhere(&cluster, "k2", &owner, None).await
        })
        .await?;
    }
    ctl(tools, &cluster, 1, &format!("{ROOT} auth disable")).await?;
    cluster.agree().await.map(drop)
}

/// Lets roles change and members start again while each takes a snapshot every few entries, and one more join by such a
/// snapshot: all know the same users then. (In etcd, permissions were once not rebuilt after a snapshot, #14571, and
/// the auth revision was saved apart from the applied index, #11651.)
pub async fn kept(tools: &Tools, program: &Path, snapshot_count: usize) -> Result<(), String> {
    let flags = [
        format!("--snapshot-count={snapshot_count}"),
        "--experimental-snapshot-catchup-entries=1".to_owned(),
    ];
    let mut cluster = Cluster::start(Network::relayed()?, &[program; 3], &flags).await?;
    cluster.leader().await?;
    add_own(tools, &cluster, 0).await?;
    for words in ["user add root:pw", "user grant-role root root", "auth enable"] {
        ctl(tools, &cluster, 0, words).await?;
    }
    for round in 0..3 {
        for words in [
            format!("role add x{round}"),
            format!("user grant-role u0 x{round}"),
            format!("role grant-permission x{round} readwrite x{round}"),
        ] {
            ctl(tools, &cluster, round, &format!("{ROOT} {words}")).await?;
        }
        let other = (round + 1) % 3;
        ctl(tools, &cluster, other, &format!("--user=u0:pw0 put x{round} 1")).await?;
        if round % 2 == 0 {
            cluster.kill(other);
        } else {
            cluster.stop(other).await?;
        }
        // Whoever asks while one leader goes and another comes is told so, and etcdctl does not try a change twice.
        cluster.leader().await?;
        let revoke = format!("{ROOT} role revoke-permission x{round} x{round}");
        ctl(tools, &cluster, round, &revoke).await?;
        cluster.resume(other).await?;
    }
    let joined = cluster.add(program, false).await?;
    if cluster.snapshots_received(joined).await? == 0 {
        return Err("the member has joined without a snapshot".into());
    }
    ctl(tools, &cluster, joined, "--user=u0:pw0 put k0 joined").await?;
    let mut revisions = Vec::new();
    for number in 0..cluster.len() {
        if ctl(tools, &cluster, number, "--user=u0:pw0 put x0 1")
            .await
            .is_ok()
        {
            return Err(format!("m{} permits what was taken back", number + 1));
        }
        ctl(tools, &cluster, number, "--user=u0:pw0 put k0 x").await?;
        revisions.push(ctl(tools, &cluster, number, &format!("{ROOT} auth status")).await?);
    }
    let told = revisions.clone();
    revisions.dedup();
    match revisions.len() {
        1 => cluster.agree().await.map(drop),
        _ => Err(format!("members disagree about users: {told:?}")),
    }
}

/// A user of this member's own, with a key of its own.
async fn add_own(tools: &Tools, cluster: &Cluster, number: usize) -> Result<(), String> {
    for words in [
        format!("user add u{number}:pw{number}"),
        format!("role add r{number}"),
        format!("role grant-permission r{number} readwrite k{number}"),
        format!("user grant-role u{number} r{number}"),
    ] {
        ctl(tools, cluster, number, &words).await?;
    }
    Ok(())
}

/// The id of a lease with the shortest time to live.
async fn lease(tools: &Tools, cluster: &Cluster) -> Result<String, String> {
    let granted = ctl(tools, cluster, 0, &format!("{ROOT} lease grant 2")).await?;
    let id = granted.split(' ').nth(1).map(str::to_owned);
    id.ok_or_else(|| format!("no id in {granted}"))
}

/// This member's own user, with a token of the member's.
async fn signed_in(cluster: &Cluster, number: usize) -> Result<Account, String> {
    let account = Account::new(&format!("u{number}"), &format!("pw{number}"));
    let signed_in = account.sign_in(channel(cluster.address(number))).await;
    signed_in.map_err(|status| status.to_string())?;
    Ok(account)
}

/// A put with the token somebody has has this end at all members.
async fn everywhere(
    cluster: &Cluster,
    key: &str,
    who: &Account,
    refusal: Option<Code>,
) -> Result<(), String> {
    for number in 0..3 {
        let put = who.request(PutRequest {
            key: key.to_owned().into(),
            ..PutRequest::default()
        });
        let answer = KvClient::new(channel(cluster.address(number))).put(put).await;
        let code = answer.as_ref().err().map(tonic::Status::code);
        if code != refusal {
            return Err(format!(
                "m{}: a put of {key}: {answer:?}, not {refusal:?}",
                number + 1
            ));
        }
    }
    Ok(())
}

async fn ctl(tools: &Tools, cluster: &Cluster, number: usize, words: &str) -> Result<String, String> {
    let words: Vec<_> = words.split(' ').collect();
    etcdctl(tools, cluster.address(number), &words).await
}
