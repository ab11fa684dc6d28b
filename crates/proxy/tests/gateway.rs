//! `etcd gateway` before our server and before etcd's.

use std::time::Duration;

use client::{Client, Config};
use conformance::server::{Ports, Server};
use conformance::tools::Tools;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use proxy::gateway;
use tokio::sync::oneshot;

async fn start(endpoints: Vec<String>) -> String {
    let listen = format!("127.0.0.1:{}", Ports::next());
    let config = gateway::Config {
        listen: listen.clone(),
        endpoints,
        discovery: None,
        retry_delay: Duration::from_millis(20),
    };
    let (ready, listens) = oneshot::channel();
    let ready = || ready.send(()).unwrap();
    tokio::spawn(async { gateway::run(config, ready).await.unwrap() });
    listens.await.unwrap();
    listen
}

#[tokio::test]
async fn calls_reach_the_members_that_are_there() {
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(problem) if std::env::var_os("CI").is_some() => panic!("{problem}"),
        Err(problem) => return eprintln!("ignored: {problem}"),
    };
    for program in [&tools.ours, &tools.reference] {
        let mut server = Server::start(program, &[]).await.unwrap();
        let nobody = format!("127.0.0.1:{}", Ports::next());
        let through = start(vec![nobody, format!("http://{}", server.endpoint())]).await;
        // However many connections there are, none is lost on who is not there.
        for _ in 0..4 {
            let client = Client::connect(Config::new([&*through])).await.unwrap();
            let put = PutRequest {
                key: "a".into(),
                ..PutRequest::default()
            };
            client.put(put).await.unwrap();
        }
        let client = Client::connect(Config::new([&*through])).await.unwrap();
        let range = RangeRequest {
            key: "a".into(),
            ..RangeRequest::default()
        };
        assert_eq!(client.range(range.clone()).await.unwrap().kvs[0].version, 4);
        // Who was away is found again.
        server.kill();
        let away = Client::connect(Config::new([&*through])).await.unwrap();
        assert!(
            away.with_timeout(Duration::from_millis(200))
                .range(range.clone())
                .await
                .is_err()
        );
        server.resume().await.unwrap();
        assert_eq!(client.range(range).await.unwrap().kvs[0].version, 4);
    }
}
