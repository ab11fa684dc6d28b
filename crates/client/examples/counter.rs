//! Counts up together with others: `cargo run -p client --example counter -- 127.0.0.1:2379`.

use client::{Client, Config, Error, Isolation};

fn main() -> Result<(), Error> {
    let endpoint = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Config(error.to_string()))?;
    println!("{}", runtime.block_on(count(&endpoint))?);
    Ok(())
}

/// Adds one to a number that all share.
pub async fn count(endpoint: &str) -> Result<u64, Error> {
    let client = Client::connect(Config::new([endpoint])).await?;
    client
        .stm(Isolation::SerializableSnapshot, async |stm| {
            let number = stm.get("example/counter").await?;
            let number: u64 = String::from_utf8_lossy(&number).parse().unwrap_or(0);
            stm.put("example/counter", (number + 1).to_string());
            Ok(number + 1)
        })
        .await
}
