//! Watches and leases over connections that break, on our server and on etcd's.

use std::time::Duration;

use client::{Client, Config, Error, Watcher};
use proto::etcdserverpb::*;

use common::{Relay, get, programs, put, start, watch};

mod common;

/// How many changes a test makes.
const CHANGES: usize = 300;

async fn through(relay: &Relay) -> Client {
    Client::connect(Config::new([&*relay.endpoint])).await.unwrap()
}

/// The values that a watcher sees until the last one.
async fn values(watcher: &mut Watcher) -> Vec<usize> {
    let mut values = vec![];
    while values.last() != Some(&(CHANGES - 1)) {
        let answer = watcher.next().await.unwrap().unwrap();
        let kvs = answer.events.into_iter().filter_map(|event| event.kv);
        values.extend(kvs.map(|kv| String::from_utf8_lossy(&kv.value).parse::<usize>().unwrap()));
    }
    values
}

#[tokio::test]
async fn watchers_see_every_change_once_however_often_the_connection_is_cut() {
    for program in programs() {
        let (server, client) = start(&program).await;
        let relay = Relay::to(&server.endpoint()).await;
        let watching = through(&relay).await;
        let mut watchers = vec![];
        for _ in 0..5 {
            watchers.push(watching.watch(watch("a")).await.unwrap());
        }
        let writes = async {
            for change in 0..CHANGES {
                client.put(put("a", &change.to_string())).await.unwrap();
                if change % 25 == 0 {
                    relay.cut();
                }
            }
        };
        let reads = futures_util::future::join_all(watchers.iter_mut().map(values));
        let ((), seen) = tokio::join!(writes, reads);
        for seen in seen {
            assert_eq!(seen, (0..CHANGES).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_watch_and_a_lease_outlive_a_server_that_is_killed_and_started_again() {
    for program in programs() {
        let (mut server, client) = start(&program).await;
        let mut watcher = client.watch(watch("a")).await.unwrap();
        let lease = LeaseGrantRequest { ttl: 30, id: 7 };
        client.lease_grant(lease).await.unwrap();
        let mut kept = client.keep_alive(7).await.unwrap();
        kept.next().await.unwrap().unwrap();
        for change in 0..3 {
            let value = change.to_string();
            client.put(put("a", &value)).await.unwrap();
            let seen = watcher.next().await.unwrap().unwrap();
            assert_eq!(seen.events.len(), 1);
            assert_eq!(seen.events[0].kv.as_ref().unwrap().value, value);
            server.kill();
            server.resume().await.unwrap();
            assert_eq!(client.keep_alive_once(7).await.unwrap().ttl, 30);
        }
    }
}

#[tokio::test]
async fn a_watcher_that_was_away_while_its_past_was_compacted_is_told_so() {
    for program in programs() {
        let (server, client) = start(&program).await;
        let relay = Relay::to(&server.endpoint()).await;
        let watching = through(&relay).await;
        let mut watcher = watching.watch(watch("a")).await.unwrap();
        client.put(put("a", "1")).await.unwrap();
        watcher.next().await.unwrap().unwrap();
        relay.close();
        for _ in 0..3 {
            client.put(put("a", "2")).await.unwrap();
        }
        let compaction = CompactionRequest {
            revision: 5,
            physical: true,
        };
        client.compact(compaction).await.unwrap();
        relay.open();
        assert_eq!(
            watcher.next().await.unwrap().unwrap_err(),
            Error::Compacted { revision: 5 }
        );
        assert!(watcher.next().await.is_none());
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_holds_up_nobody_and_misses_nothing() {
    for program in programs() {
        let (_server, client) = start(&program).await;
        let (mut slow, mut fast) = (
            client.watch(watch("a")).await.unwrap(),
            client.watch(watch("a")).await.unwrap(),
        );
        let writes = async {
            for change in 0..CHANGES {
                client.put(put("a", &change.to_string())).await.unwrap();
            }
        };
        let ((), seen) = tokio::join!(writes, values(&mut fast));
        assert_eq!(seen, (0..CHANGES).collect::<Vec<_>>());
        assert_eq!(values(&mut slow).await, seen);
    }
}

#[tokio::test]
async fn progress_is_told_to_who_has_asked() {
    for program in programs() {
        let (_server, client) = start(&program).await;
        let watcher = client.watch(watch("a")).await.unwrap();
        let mut asks = client.watch(watch("a")).await.unwrap();
        let revision = client.put(put("b", "")).await.unwrap().header.unwrap().revision;
        // A server that has not caught up says nothing, so it is asked until it does.
        let progress = loop {
            asks.request_progress().await.unwrap();
            if let Ok(answer) = tokio::time::timeout(Duration::from_millis(200), asks.next()).await {
                break answer.unwrap().unwrap();
            }
        };
        assert!(progress.events.is_empty());
        assert!(progress.header.unwrap().revision >= revision);
        drop(watcher);
    }
}

#[tokio::test]
async fn a_refused_watch_says_why_and_leaves_the_others_alone() {
    for program in programs() {
        let (_server, client) = start(&program).await;
        let mut watcher = client.watch(watch("a")).await.unwrap();
        let empty = WatchCreateRequest {
            range_end: "a".into(),
            ..watch("b")
        };
        let refusal = client.watch(empty).await.unwrap_err();
        let reason = "mvcc: watcher range is empty".to_owned();
        assert!(
            matches!(&refusal, Error::WatchCanceled { reason: told } if *told == reason),
            "{refusal:?}"
        );
        client.put(put("a", "1")).await.unwrap();
        assert_eq!(watcher.next().await.unwrap().unwrap().events.len(), 1);
    }
}

#[tokio::test]
async fn a_large_change_comes_in_one_piece() {
    for program in programs() {
        let (_server, client) = start(&program).await;
        let create = WatchCreateRequest {
            range_end: "b".into(),
            fragment: true,
            ..watch("a")
        };
        let mut watcher = client.watch(create).await.unwrap();
        // One revision of four megabytes, in two steps: a transaction may have half of that.
        let large = "x".repeat(1_000_000);
        let lease = LeaseGrantRequest { ttl: 600, id: 7 };
        client.lease_grant(lease).await.unwrap();
        for number in 0..4 {
            let key = format!("a{number}");
            let put = PutRequest {
                lease: 7,
                ..put(&key, &large)
            };
            client.put(put).await.unwrap();
            watcher.next().await.unwrap().unwrap();
        }
        let prev_kv = WatchCreateRequest {
            range_end: "b".into(),
            fragment: true,
            prev_kv: true,
            ..watch("a")
        };
        let mut watcher = client.watch(prev_kv).await.unwrap();
        client.lease_revoke(LeaseRevokeRequest { id: 7 }).await.unwrap();
        let whole = watcher.next().await.unwrap().unwrap();
        assert_eq!((whole.events.len(), whole.fragment), (4, false));
    }
}

#[tokio::test]
async fn a_lease_is_renewed_over_connections_that_are_cut() {
    for program in programs() {
        let (server, client) = start(&program).await;
        let relay = Relay::to(&server.endpoint()).await;
        let keeping = through(&relay).await;
        let lease = LeaseGrantRequest { ttl: 3, id: 7 };
        client.lease_grant(lease).await.unwrap();
        let put = PutRequest {
            lease: 7,
            ..put("a", "1")
        };
        client.put(put).await.unwrap();
        let mut kept = keeping.keep_alive(7).await.unwrap();
        // More than its time to live, at a third of that each.
        for _ in 0..5 {
            kept.next().await.unwrap().unwrap();
            relay.cut();
        }
        assert_eq!(client.range(get("a")).await.unwrap().kvs.len(), 1);
    }
}

#[tokio::test]
async fn a_lease_that_nobody_confirms_counts_as_expired() {
    for program in programs().into_iter().take(1) {
        let (server, client) = start(&program).await;
        let relay = Relay::to(&server.endpoint()).await;
        let keeping = through(&relay).await;
        let lease = LeaseGrantRequest { ttl: 2, id: 7 };
        client.lease_grant(lease).await.unwrap();
        let mut kept = keeping.keep_alive(7).await.unwrap();
        kept.next().await.unwrap().unwrap();
        relay.close();
        while let Some(next) = kept.next().await {
            if let Err(error) = next {
                assert_eq!(error, Error::LeaseSilent { lease: 7 });
            }
        }
    }
}
