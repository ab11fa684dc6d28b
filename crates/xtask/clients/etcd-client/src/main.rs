//! What the crate etcd-client promises its users, against the server at ETCD_HOST:ETCD_PORT, users included.

use std::error::Error;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, LockOptions, Permission,
    PutOptions, Txn, TxnOp, WatchOptions,
};
use tokio_stream::StreamExt;

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let place = format!("{}:{}", std::env::var("ETCD_HOST")?, std::env::var("ETCD_PORT")?);
    let mut client = Client::connect([&place], None).await?;
    keys(&mut client).await?;
    watches(&mut client).await?;
    leases(&mut client).await?;
    locks_and_elections(&mut client).await?;
    members(&mut client).await?;
    users(&mut client, &place).await?;
    println!("ok: all");
    Ok(())
}

async fn keys(client: &mut Client) -> Outcome {
    for name in ["a", "b", "c"] {
        client.put(format!("rs/{name}"), name, None).await?;
    }
    let all = client.get("rs/", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!(all.count(), 3);
    let limited = client.get("rs/", Some(GetOptions::new().with_prefix().with_limit(2))).await?;
    assert_eq!((limited.kvs().len(), limited.more()), (2, true));
    let old = client.put("rs/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(old.prev_key().map(|kv| kv.value()), Some(&b"a"[..]));
    let txn = Txn::new()
        .when([Compare::value("rs/a", CompareOp::Equal, "2")])
        .and_then([TxnOp::put("rs/a", "3", None), TxnOp::get("rs/a", None)])
        .or_else([TxnOp::delete("rs/a", None)]);
    assert!(client.txn(txn).await?.succeeded());
    let revision = client.get("rs/a", None).await?.header().ok_or("no header")?.revision();
    client.compact(revision, None).await?;
    let gone = client.get("rs/a", Some(GetOptions::new().with_revision(1))).await.unwrap_err();
    assert!(gone.to_string().contains("required revision has been compacted"), "{gone}");
    let deleted = client.delete("rs/", Some(DeleteOptions::new().with_prefix())).await?;
    assert_eq!(deleted.deleted(), 3);
    Ok(())
}

async fn watches(client: &mut Client) -> Outcome {
    let mut stream = client.watch("rs/w/", Some(WatchOptions::new().with_prefix().with_prev_key())).await?;
    client.put("rs/w/1", "one", None).await?;
    client.delete("rs/w/1", None).await?;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let answer = stream.message().await?.ok_or("the watch ended")?;
        seen.extend(answer.events().iter().map(|event| event.event_type()));
    }
    assert_eq!(seen, [EventType::Put, EventType::Delete]);
    stream.request_progress().await?;
    let progress = stream.message().await?.ok_or("no progress")?;
    assert!(progress.events().is_empty());
    stream.cancel(progress.watch_id()).await.ok();
    Ok(())
}

async fn leases(client: &mut Client) -> Outcome {
    let lease = client.lease_grant(60, None).await?.id();
    client.put("rs/l", "leased", Some(PutOptions::new().with_lease(lease))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    assert_eq!(answers.message().await?.ok_or("no answer")?.ttl(), 60);
    assert!(client.leases().await?.leases().iter().any(|known| known.id() == lease));
    client.lease_revoke(lease).await?;
    assert!(client.get("rs/l", None).await?.kvs().is_empty());
    Ok(())
}

async fn locks_and_elections(client: &mut Client) -> Outcome {
    let lease = client.lease_grant(60, None).await?.id();
    let lock = client.lock("rs-lock", Some(LockOptions::new().with_lease(lease))).await?;
    client.unlock(lock.key()).await?;
    let won = client.campaign("rs-election", "me", lease).await?;
    let leader = won.leader().ok_or("nobody leads")?.clone();
    let known = client.leader("rs-election").await?;
    assert_eq!(known.kv().map(|kv| kv.value()), Some(&b"me"[..]));
    let mut seen = client.observe("rs-election").await?;
    assert!(seen.next().await.is_some());
    client.resign(Some(etcd_client::ResignOptions::new().with_leader(leader))).await?;
    Ok(())
}

async fn members(client: &mut Client) -> Outcome {
    assert_eq!(client.member_list().await?.members().len(), 1);
    assert!(client.status().await?.version().starts_with("3."));
    client.defragment().await?;
    client.hash_kv(0).await?;
    let mut snapshot = client.snapshot().await?;
    let mut bytes = 0;
    while let Some(piece) = snapshot.message().await? {
        bytes += piece.blob().len();
    }
    assert!(bytes > 4096);
    Ok(())
}

async fn users(client: &mut Client, place: &str) -> Outcome {
    client.user_add("root", "secret", None).await?;
    client.role_add("root").await?;
    client.user_grant_role("root", "root").await?;
    client.user_add("rs", "word", None).await?;
    client.role_add("rs").await?;
    client.role_grant_permission("rs", Permission::read_write("rs/").with_prefix()).await?;
    client.user_grant_role("rs", "rs").await?;
    client.auth_enable().await?;
    let by = |name, password| Client::connect([place], Some(ConnectOptions::new().with_user(name, password)));
    let mut rs = by("rs", "word").await?;
    rs.put("rs/mine", "1", None).await?;
    let denied = rs.put("foreign", "1", None).await.unwrap_err();
    assert!(denied.to_string().contains("permission denied"), "{denied}");
    assert!(by("rs", "wrong").await.is_err());
    by("root", "secret").await?.auth_disable().await?;
    Ok(())
}
