//! The client at work on our server and on etcd's.

use std::time::Duration;

use client::{Cause, Client, Config, Error, User};
use conformance::server::Ports;
use proto::etcdserverpb::*;

use common::{get, programs, put, start, watch};

mod common;

#[tokio::test]
async fn what_is_put_is_read_watched_kept_and_in_the_snapshot() {
    for program in programs() {
        let (server, client) = start(&program).await;
        let mut watcher = client.watch(watch("a")).await.unwrap();
        let lease = client
            .lease_grant(LeaseGrantRequest { ttl: 60, id: 7 })
            .await
            .unwrap();
        assert_eq!(lease.id, 7);
        let mut kept = client.keep_alive(7).await.unwrap();
        assert_eq!(kept.next().await.unwrap().unwrap().ttl, 60);
        client.put(put("a", "1")).await.unwrap();
        assert_eq!(client.range(get("a")).await.unwrap().kvs[0].value, "1");
        let event = watcher.next().await.unwrap().unwrap();
        assert_eq!(event.events[0].kv.as_ref().unwrap().value, "1");
        let status = client
            .at(&server.endpoint())
            .unwrap()
            .status(StatusRequest {})
            .await
            .unwrap();
        assert!(status.db_size > 0);
        let (mut snapshot, mut size) = (client.snapshot(), 0);
        while let Some(part) = snapshot.next().await {
            size += part.unwrap().blob.len();
        }
        // A database of whole pages, and the hash behind it.
        assert_eq!(size % 4096, 32);
        client.lease_revoke(LeaseRevokeRequest { id: 7 }).await.unwrap();
        assert_eq!(
            client.keep_alive_once(7).await.unwrap_err(),
            Error::LeaseGone { lease: 7 }
        );
    }
}

#[tokio::test]
async fn the_cluster_answers_in_its_own_words() {
    for program in programs() {
        let (_server, client) = start(&program).await;
        let refusal = client.put(put("", "1")).await.unwrap_err();
        let message = "etcdserver: key is not provided".to_owned();
        let code = tonic::Code::InvalidArgument;
        assert_eq!(refusal, Error::Server { code, message });
    }
}

#[tokio::test]
async fn a_password_becomes_a_token_and_another_one_when_that_is_forgotten() {
    for program in programs() {
        let (mut server, client) = start(&program).await;
        client
            .user_add(AuthUserAddRequest {
                name: "root".into(),
                password: "secret".into(),
                ..Default::default()
            })
            .await
            .unwrap();
        client
            .user_grant_role(AuthUserGrantRoleRequest {
                user: "root".into(),
                role: "root".into(),
            })
            .await
            .unwrap();
        client.auth_enable(AuthEnableRequest {}).await.unwrap();
        let mut config = Config::new([server.endpoint()]);
        let user = |password: &str| User::Password {
            name: "root".into(),
            password: password.into(),
        };
        config.user = Some(user("wrong"));
        let refusal = Client::connect(config.clone()).await.err().unwrap();
        let message = "etcdserver: authentication failed, invalid user ID or password";
        assert_eq!(refusal.server_message(), Some(message));
        config.user = Some(user("secret"));
        let root = Client::connect(config).await.unwrap();
        root.put(put("a", "1")).await.unwrap();
        // Tokens are in memory only.
        server.stop().await.unwrap();
        server.resume().await.unwrap();
        root.range(get("a")).await.unwrap();
    }
}

#[tokio::test]
async fn who_is_not_there_is_named_with_the_reason() {
    let endpoint = format!("127.0.0.1:{}", Ports::next());
    let client = Client::connect(Config::new([&*endpoint])).await.unwrap();
    let hasty = client.with_timeout(Duration::from_millis(300));
    let Error::Deadline(Some(last)) = hasty.put(put("a", "1")).await.unwrap_err() else {
        panic!("it did not wait for a connection")
    };
    assert_eq!((last.endpoint, last.cause), (endpoint, Cause::Refused));
}
