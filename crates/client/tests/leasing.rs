//! Keys that are read from memory, on our server and on etcd's. The oracle: a read sees every write that was acknowledged before
//! it began, whoever made it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use client::leasing::Leasing;
use client::{Client, Config, Error, Session};
use conformance::server::Server;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use common::{Relay, get, programs, put, start};

mod common;

const PREFIX: &str = "leasing/";

/// Somebody who shares the prefix, by a client of their own.
async fn sharer(server: &Server) -> Leasing {
    let client = Client::connect(Config::new([server.endpoint()])).await.unwrap();
    Leasing::new(&client, PREFIX)
}

async fn read(leasing: &Leasing, key: &str) -> Option<String> {
    let found = leasing.range(get(key)).await.unwrap();
    let value = found.kvs.into_iter().next()?.value;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

/// Reads a key until it is owned. Nothing is owned before a session has begun.
async fn own(leasing: &Leasing, direct: &Client, key: &str) -> i64 {
    loop {
        read(leasing, key).await;
        let owners = direct.range(get(&format!("{PREFIX}{key}"))).await.unwrap();
        if let Some(owner) = owners.kvs.first() {
            return owner.lease;
        }
    }
}

fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..DeleteRangeRequest::default()
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

#[tokio::test]
async fn what_is_owned_is_read_from_memory_until_somebody_wants_to_write_it() {
    for program in programs() {
        let (server, direct) = start(&program).await;
        let (one, two) = (sharer(&server).await, sharer(&server).await);
        one.put(put("k", "1")).await.unwrap();
        own(&one, &direct, "k").await;
        // That it comes from memory is shown by somebody who does not stick to the rules.
        direct.put(put("k", "2")).await.unwrap();
        assert_eq!(read(&one, "k").await.unwrap(), "1");
        let keys_only = RangeRequest {
            keys_only: true,
            ..get("k")
        };
        assert_eq!(one.range(keys_only).await.unwrap().kvs[0].value, "");
        let count_only = RangeRequest {
            count_only: true,
            ..get("k")
        };
        let counted = one.range(count_only).await.unwrap();
        assert_eq!((counted.count, counted.kvs.len()), (1, 0));

        two.put(put("k", "3")).await.unwrap();
        assert_eq!(read(&one, "k").await.unwrap(), "3");
        // A key that is not there can be owned too.
        own(&one, &direct, "none").await;
        direct.put(put("none", "1")).await.unwrap();
        assert_eq!(read(&one, "none").await, None);
        two.put(put("none", "2")).await.unwrap();
        assert_eq!(read(&one, "none").await.unwrap(), "2");
    }
}

#[tokio::test]
async fn an_owner_writes_without_asking_and_reads_what_it_has_written() {
    for program in programs() {
        let (server, direct) = start(&program).await;
        let one = sharer(&server).await;
        own(&one, &direct, "k").await;
        let inside = async || direct.range(get("leasing/k")).await.unwrap().kvs[0].clone();
        let before = inside().await;
        for value in ["1", "2"] {
            let done = one.put(put("k", value)).await.unwrap();
            let found = one.range(get("k")).await.unwrap();
            let revision = done.header.unwrap().revision;
            assert_eq!(
                (&*found.kvs[0].value, found.kvs[0].mod_revision),
                (value.as_bytes(), revision)
            );
        }
        let found = one.range(get("k")).await.unwrap();
        assert_eq!(found.kvs[0].version, 2, "nothing is written twice");
        let done = one.delete_range(delete("k", "")).await.unwrap();
        assert_eq!(done.deleted, 1);
        assert_eq!(read(&one, "k").await, None);
        assert_eq!(inside().await, before, "it was never given back");
    }
}

#[tokio::test]
async fn a_key_that_goes_with_a_lease_is_not_remembered() {
    for program in programs() {
        let (server, direct) = start(&program).await;
        let one = sharer(&server).await;
        own(&one, &direct, "k").await;
        direct
            .lease_grant(LeaseGrantRequest { ttl: 60, id: 7 })
            .await
            .unwrap();
        let leased = PutRequest {
            lease: 7,
            ..put("k", "1")
        };
        one.put(leased).await.unwrap();
        assert_eq!(read(&one, "k").await.unwrap(), "1");
        direct.lease_revoke(LeaseRevokeRequest { id: 7 }).await.unwrap();
        assert_eq!(read(&one, "k").await, None);
    }
}

#[tokio::test]
async fn errors_are_those_of_the_calls_themselves() {
    for program in programs() {
        let (server, direct) = start(&program).await;
        let one = sharer(&server).await;
        own(&one, &direct, "k").await;
        let leased = PutRequest {
            lease: 8,
            ..put("k", "1")
        };
        for refused in [leased.clone(), put("", "1")] {
            let (ours, theirs) = (one.put(refused.clone()).await, direct.put(refused).await);
            assert_eq!(ours.unwrap_err(), theirs.unwrap_err());
        }
        assert_eq!(read(&one, "k").await, None);
        own(&one, &direct, "k").await;
    }
}

#[tokio::test]
async fn who_loses_the_session_remembers_nothing() {
    for program in programs() {
        let (server, direct) = start(&program).await;
        let (one, two) = (sharer(&server).await, sharer(&server).await);
        one.put(put("k", "1")).await.unwrap();
        let lease = own(&one, &direct, "k").await;
        direct
            .lease_revoke(LeaseRevokeRequest { id: lease })
            .await
            .unwrap();
        two.put(put("k", "2")).await.unwrap();
        // The news is on its way.
        while read(&one, "k").await.unwrap() != "2" {}
        // There is another session, sooner or later.
        assert_ne!(own(&one, &direct, "k").await, lease);
    }
}

#[tokio::test]
async fn a_session_lasts_only_as_long_as_somebody_has_said() {
    for program in programs().into_iter().take(1) {
        let (server, _) = start(&program).await;
        let relay = Relay::to(&server.endpoint()).await;
        let client = Client::connect(Config::new([&*relay.endpoint])).await.unwrap();
        let session = Session::new(&client, 2).await.unwrap();
        while !session.lasts() {
            tokio::task::yield_now().await;
        }
        relay.close();
        let end = session.ended().await;
        assert!(
            !session.lasts() && matches!(end, Error::LeaseSilent { .. }),
            "{end}"
        );
    }
}

/// Writes of all kinds by either of two, and after each both read everything.
#[tokio::test]
async fn after_every_write_everybody_reads_the_same() {
    const STEPS: usize = 120;
    let keys = ["a", "b", "c"];
    for program in programs() {
        let (server, direct) = start(&program).await;
        let sharers = [sharer(&server).await, sharer(&server).await];
        for sharer in &sharers {
            own(sharer, &direct, "a").await;
            sharer.delete_range(delete("a", "")).await.unwrap();
        }
        let mut chance = StdRng::seed_from_u64(11);
        let mut model = BTreeMap::new();
        for step in 0..STEPS {
            let who = &sharers[chance.random_range(0..2)];
            let key = keys[chance.random_range(0..keys.len())];
            let value = step.to_string();
            match chance.random_range(0..5) {
                0 | 1 => {
                    who.put(put(key, &value)).await.unwrap();
                    model.insert(key, value);
                }
                2 => {
                    let done = who.delete_range(delete(key, "")).await.unwrap();
                    assert_eq!(done.deleted > 0, model.remove(key).is_some());
                }
                3 => {
                    let end = ["c", "d", "\0"][chance.random_range(0..3)];
                    // Without an end, what the sharers own is deleted too.
                    who.delete_range(delete(key, end)).await.unwrap();
                    model.retain(|known, _| *known < key || *known >= end && end != "\0");
                }
                _ => {
                    let is_there = Compare {
                        key: key.into(),
                        result: CompareResult::Greater.into(),
                        target: CompareTarget::Version.into(),
                        target_union: Some(TargetUnion::Version(0)),
                        ..Compare::default()
                    };
                    let txn = TxnRequest {
                        compare: vec![is_there],
                        success: vec![
                            op(Request::RequestPut(put(key, &value))),
                            op(Request::RequestRange(get(key))),
                        ],
                        failure: vec![op(Request::RequestDeleteRange(delete("b", "d")))],
                    };
                    let done = who.txn(txn).await.unwrap();
                    assert_eq!(done.succeeded, model.contains_key(key));
                    assert_eq!(done.responses.len(), if done.succeeded { 2 } else { 1 });
                    if done.succeeded {
                        model.insert(key, value);
                    } else {
                        model.retain(|known, _| *known < "b");
                    }
                }
            }
            for (sharer, key) in sharers.iter().flat_map(|sharer| keys.map(|key| (sharer, key))) {
                assert_eq!(
                    read(sharer, key).await.as_ref(),
                    model.get(key),
                    "step {step}, {key}"
                );
            }
        }
    }
}

/// Three who write, all who read, at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sees_every_write_that_was_acknowledged_before() {
    const WRITES: u64 = 60;
    for program in programs() {
        let (server, direct) = start(&program).await;
        let sharers = [
            sharer(&server).await,
            sharer(&server).await,
            sharer(&server).await,
        ];
        for sharer in &sharers {
            own(sharer, &direct, "shared").await;
            sharer.put(put("shared", "0")).await.unwrap();
        }
        let acknowledged = AtomicU64::new(0);
        let write = async {
            for number in 1..=WRITES {
                let sharer = &sharers[(number % 3) as usize];
                sharer.put(put("shared", &number.to_string())).await.unwrap();
                acknowledged.store(number, Ordering::SeqCst);
            }
        };
        let follow = async |sharer: &Leasing| {
            let mut seen = 0;
            while seen < WRITES {
                let before = acknowledged.load(Ordering::SeqCst);
                let now = read(sharer, "shared").await.unwrap().parse().unwrap();
                assert!(now >= before.max(seen), "{now} after {before} and {seen}");
                seen = now;
                tokio::task::yield_now().await;
            }
        };
        let [one, two, three] = &sharers;
        tokio::join!(write, follow(one), follow(two), follow(three));
    }
}
