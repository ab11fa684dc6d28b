//! A part of the keys as if it were all of them.

use std::time::Duration;

use client::{Client, Config, Session, prefix_end};
use proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::*;

use common::{get, programs, put, start, watch};

mod common;

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

#[tokio::test]
async fn inside_of_a_namespace_there_is_nothing_else() {
    for program in programs() {
        let (server, outside) = start(&program).await;
        let config = Config {
            namespace: "app/".into(),
            ..Config::new([server.endpoint()])
        };
        let inside = Client::connect(config).await.unwrap();
        outside.put(put("zoo", "1")).await.unwrap();
        let all = WatchCreateRequest {
            range_end: "\0".into(),
            prev_kv: true,
            ..watch("")
        };
        let mut watcher = inside.watch(all).await.unwrap();
        inside
            .lease_grant(LeaseGrantRequest { ttl: 60, id: 7 })
            .await
            .unwrap();
        for (client, key) in [(&inside, "a"), (&outside, "b")] {
            let put = PutRequest {
                lease: 7,
                ..put(key, "1")
            };
            client.put(put).await.unwrap();
        }
        assert_eq!(outside.range(get("app/a")).await.unwrap().kvs[0].value, "1");
        let everything = RangeRequest {
            range_end: "\0".into(),
            ..get("\0")
        };
        let found = inside.range(everything).await.unwrap();
        assert_eq!((found.count, &found.kvs[0].key[..]), (1, &b"a"[..]));
        let event = watcher.next().await.unwrap().unwrap().events.remove(0);
        assert_eq!(event.kv.unwrap().key, "a");
        let keys = LeaseTimeToLiveRequest { id: 7, keys: true };
        assert_eq!(inside.lease_time_to_live(keys).await.unwrap().keys, ["a"]);
        let inner = TxnRequest {
            success: vec![op(Request::RequestRange(get("a")))],
            ..TxnRequest::default()
        };
        let txn = TxnRequest {
            compare: vec![Compare {
                key: "a".into(),
                target: CompareTarget::Value.into(),
                target_union: Some(TargetUnion::Value("1".into())),
                ..Compare::default()
            }],
            success: vec![op(Request::RequestTxn(inner))],
            failure: vec![],
        };
        let answer = inside.txn(txn).await.unwrap();
        let Some(Response::ResponseTxn(inner)) = &answer.responses[0].response else {
            panic!("{answer:?}")
        };
        let Some(Response::ResponseRange(range)) = &inner.responses[0].response else {
            panic!("{inner:?}")
        };
        assert_eq!(range.kvs[0].key, "a");
        let session = Session::new(&inside, 60).await.unwrap();
        let lock = session.lock("l").await.unwrap();
        let locked = RangeRequest {
            range_end: prefix_end(b"app/l/"),
            ..get("app/l/")
        };
        assert_eq!(outside.range(locked).await.unwrap().count, 1);
        lock.unlock().await.unwrap();
        let delete = DeleteRangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            prev_kv: true,
        };
        let deleted = inside.delete_range(delete).await.unwrap();
        assert_eq!(deleted.prev_kvs[0].key, "a");
        let refusal = inside.put(put("", "1")).await.unwrap_err();
        assert_eq!(refusal.server_message(), Some("etcdserver: key is not provided"));
        assert_eq!(outside.range(get("zoo")).await.unwrap().kvs.len(), 1);
    }
}

#[tokio::test]
async fn a_client_learns_who_the_members_are() {
    for program in programs() {
        let (server, client) = start(&program).await;
        let relay = common::Relay::to(&server.endpoint()).await;
        let config = Config {
            auto_sync_interval: Some(Duration::from_millis(10)),
            ..Config::new([&*relay.endpoint])
        };
        let learning = Client::connect(config).await.unwrap();
        let known = [format!("http://{}", server.endpoint())];
        while learning.endpoints() != known {
            tokio::task::yield_now().await;
        }
        relay.close();
        learning.put(put("a", "1")).await.unwrap();
        assert_eq!(client.range(get("a")).await.unwrap().kvs.len(), 1);
    }
}
