//! Locks, elections and transactions of code, on our server and on etcd's.

use std::path::Path;

use bytes::Bytes;
use client::{Client, Error, Isolation, Session};
use conformance::server::Server;
use proto::etcdserverpb::*;

use common::{get, programs, put, start};

mod common;

async fn sessions(program: &Path) -> (Server, Client, Session, Session) {
    let (server, client) = start(program).await;
    let first = Session::new(&client, 60).await.unwrap();
    let second = Session::new(&client, 60).await.unwrap();
    (server, client, first, second)
}

async fn keys(client: &Client, prefix: &str) -> usize {
    let range = RangeRequest {
        key: prefix.to_owned().into(),
        range_end: client::prefix_end(prefix.as_bytes()),
        ..RangeRequest::default()
    };
    client.range(range).await.unwrap().kvs.len()
}

#[tokio::test]
async fn a_lock_has_one_owner_and_then_the_next_in_line() {
    for program in programs() {
        let (_server, client, first, second) = sessions(&program).await;
        let lock = first.lock("a").await.unwrap();
        assert_eq!(second.try_lock("a").await.unwrap_err(), Error::Locked);
        let owner = lock.is_owner();
        let (next, ()) = tokio::join!(second.lock("a"), async { lock.unlock().await.unwrap() });
        let next = next.unwrap();
        assert_eq!(next.key(), &format!("a/{:x}", second.lease()));
        for (compare, holds) in [(owner, false), (next.is_owner(), true)] {
            let txn = TxnRequest {
                compare: vec![compare],
                ..TxnRequest::default()
            };
            assert_eq!(client.txn(txn).await.unwrap().succeeded, holds);
        }
    }
}

#[tokio::test]
async fn a_lock_is_free_when_its_session_is_closed_and_who_stops_waiting_leaves_the_line() {
    for program in programs() {
        let (_server, client, first, second) = sessions(&program).await;
        let lock = first.lock("a").await.unwrap();
        let mut watched = client
            .watch(WatchCreateRequest {
                key: "a/".into(),
                range_end: "a0".into(),
                ..WatchCreateRequest::default()
            })
            .await
            .unwrap();
        {
            let mut waiting = Box::pin(second.lock("a"));
            // Gets in line: its key is seen.
            tokio::select! {
                _ = &mut waiting => panic!("it is locked"),
                seen = watched.next() => assert_eq!(seen.unwrap().unwrap().events.len(), 1),
            }
        }
        // Leaves it: the key is gone.
        assert_eq!(watched.next().await.unwrap().unwrap().events.len(), 1);
        assert_eq!(keys(&client, "a/").await, 1);
        let (next, ()) = tokio::join!(second.lock("a"), async { first.close().await.unwrap() });
        next.unwrap().unlock().await.unwrap();
        drop(lock);
    }
}

#[tokio::test]
async fn who_loses_the_session_does_not_get_the_lock() {
    for program in programs() {
        let (_server, client, first, second) = sessions(&program).await;
        let _lock = first.lock("a").await.unwrap();
        let revoke = LeaseRevokeRequest { id: second.lease() };
        let (waited, revoked) = tokio::join!(second.lock("a"), client.lease_revoke(revoke));
        revoked.unwrap();
        // Either it was in line, or the lease was gone before it could get there.
        assert!(waited.is_err());
    }
}

#[tokio::test]
async fn an_election_is_followed_from_one_to_the_next() {
    for program in programs() {
        let (_server, client, first, second) = sessions(&program).await;
        assert_eq!(client.elected("a").await.unwrap_err(), Error::NobodyElected);
        let mut followed = client.follow_election("a");
        let mut says = async || followed.next().await.unwrap().unwrap().kvs[0].value.clone();
        let (said, office) = tokio::join!(says(), first.campaign("a", "one"));
        let mut office = office.unwrap();
        assert_eq!(said, "one");
        office.proclaim("two").await.unwrap();
        assert_eq!(says().await, "two");
        assert_eq!(client.elected("a").await.unwrap().kvs[0].value, "two");
        let (next, ()) = tokio::join!(second.campaign("a", "three"), async {
            office.resign().await.unwrap();
        });
        assert_eq!(says().await, "three");
        next.unwrap().resign().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_moved_by_many_at_once_stays_the_same_in_sum() {
    const ACCOUNTS: u64 = 4;
    const MOVES: u64 = 4;
    let account = |number: u64| Bytes::from(format!("account/{}", number % ACCOUNTS));
    let number = |text: &Bytes| String::from_utf8_lossy(text).parse::<i64>().unwrap();
    for program in programs() {
        let (_server, client) = start(&program).await;
        for isolation in [
            Isolation::SerializableSnapshot,
            Isolation::Serializable,
            Isolation::RepeatableReads,
        ] {
            for at in 0..ACCOUNTS {
                let key = String::from_utf8(account(at).to_vec()).unwrap();
                client.put(put(&key, "100")).await.unwrap();
            }
            let move_all = async |who: u64| {
                for turn in 0..MOVES {
                    let (from, to) = (account(who + turn), account(who + turn + 1));
                    let work = async |stm: &mut client::Stm| -> Result<(), Error> {
                        let (a, b) = (stm.get(from.clone()).await?, stm.get(to.clone()).await?);
                        stm.put(from.clone(), (number(&a) - 1).to_string());
                        stm.put(to.clone(), (number(&b) + 2).to_string());
                        Ok(())
                    };
                    client.stm(isolation, work).await.unwrap();
                }
            };
            tokio::join!(move_all(0), move_all(1), move_all(2), move_all(3));
            let mut sum = 0;
            for at in 0..ACCOUNTS {
                let key = String::from_utf8(account(at).to_vec()).unwrap();
                sum += number(&client.range(get(&key)).await.unwrap().kvs[0].value);
            }
            assert_eq!(sum, 400 + 4 * MOVES as i64, "{isolation:?}");
        }
    }
}
