//! Does some work that only one may do at a time: `cargo run -p client --example worker -- 127.0.0.1:2379`.

use client::{Client, Config, Error, Session};

fn main() -> Result<(), Error> {
    let endpoint = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Config(error.to_string()))?;
    runtime.block_on(work_alone(&endpoint, || println!("at work")))
}

/// Waits until nobody else is at work, and works.
pub async fn work_alone(endpoint: &str, work: impl FnOnce()) -> Result<(), Error> {
    let client = Client::connect(Config::new([endpoint])).await?;
    let session = Session::new(&client, 10).await?;
    let lock = session.lock("example/work").await?;
    work();
    lock.unlock().await?;
    session.close().await
}
