//! Endpoints from the SRV records of a domain.

use client::srv::{self, Target};
use names::Dns;

use crate::failure::{Failure, Status};

/// All endpoints that the records of `domain` name, those in plain text only if that is allowed.
pub async fn endpoints(domain: &str, name: &str, allows_plain: bool) -> Result<Vec<String>, Failure> {
    let found = srv::members(&Dns::system(), domain, name).await;
    let found = found.map_err(|error| Failure::new(Status::Error, error.to_string()))?;
    let (good, plain): (Vec<_>, Vec<_>) = found.iter().partition(|target| target.is_secure || allows_plain);
    for target in plain {
        eprintln!("ignoring discovered insecure endpoint {:?}", target.url());
    }
    Ok(good.into_iter().map(Target::url).collect())
}
