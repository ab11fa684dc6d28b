//! The examples do what they say, and calls go on while members come and go.

use std::time::Duration;

use client::{Client, Config};
use conformance::server::Ports;

use common::{Relay, get, programs, put, start};

mod common;
#[allow(dead_code)]
#[path = "../examples/counter.rs"]
mod counter;
#[allow(dead_code)]
#[path = "../examples/follow.rs"]
mod follow;
#[allow(dead_code)]
#[path = "../examples/worker.rs"]
mod worker;

#[tokio::test]
async fn the_examples_do_what_they_say() {
    for program in programs() {
        let (server, client) = start(&program).await;
        let endpoint = server.endpoint();
        let mut watcher = follow::follow(&client, "example/").await.unwrap();
        let counts = [(); 5].map(|()| counter::count(&endpoint));
        let mut counted = futures_util::future::try_join_all(counts).await.unwrap();
        counted.sort_unstable();
        assert_eq!(counted, [1, 2, 3, 4, 5]);
        let mut is_done = false;
        worker::work_alone(&endpoint, || is_done = true).await.unwrap();
        assert!(is_done);
        let event = watcher.next().await.unwrap().unwrap().events.remove(0);
        assert_eq!(event.kv.unwrap().key, "example/counter");
    }
}

#[tokio::test]
async fn calls_go_to_members_that_are_there_and_reads_survive_cuts() {
    for program in programs() {
        let (server, direct) = start(&program).await;
        let relay = Relay::to(&server.endpoint()).await;
        let nobody = format!("127.0.0.1:{}", Ports::next());
        let client = Client::connect(Config::new([nobody, relay.endpoint.clone()]))
            .await
            .unwrap();
        client.put(put("a", "1")).await.unwrap();
        for _ in 0..4 {
            let (found, ()) = tokio::join!(client.range(get("a")), async { relay.cut() });
            assert_eq!(found.unwrap().kvs[0].value, "1");
        }
        // A member that is added takes over when the only one is gone.
        client
            .set_endpoints(&[relay.endpoint.clone(), server.endpoint()])
            .unwrap();
        relay.close();
        for _ in 0..5 {
            client.range(get("a")).await.unwrap();
        }
        assert!(
            direct
                .with_timeout(Duration::from_secs(60))
                .range(get("a"))
                .await
                .is_ok()
        );
    }
}
