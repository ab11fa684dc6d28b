//! Tells what happens to the keys of a prefix: `cargo run -p client --example follow -- 127.0.0.1:2379 app/`.

use client::{Client, Config, Error, Watcher, prefix_end};
use proto::etcdserverpb::WatchCreateRequest;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let prefix = args.next().unwrap_or_else(|| "app/".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Config(error.to_string()))?;
    runtime.block_on(async {
        let client = Client::connect(Config::new([endpoint])).await?;
        let mut watcher = follow(&client, &prefix).await?;
        while let Some(answer) = watcher.next().await {
            for event in answer?.events {
                println!("{event:?}");
            }
        }
        Ok(())
    })
}

/// Watches a prefix. The watcher goes on by itself when the connection is lost.
pub async fn follow(client: &Client, prefix: &str) -> Result<Watcher, Error> {
    let create = WatchCreateRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix.as_bytes()),
        ..WatchCreateRequest::default()
    };
    client.watch(create).await
}
