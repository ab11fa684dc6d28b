//! Endpoints from the SRV records of a domain.

use client::srv::{Dns, Target};

use crate::failure::{Failure, Status};

/// All endpoints that the records of `domain` name, those in plain text only if that is allowed.
pub async fn endpoints(domain: &str, name: &str, allows_plain: bool) -> Result<Vec<String>, Failure> {
    let failure = |error: client::srv::SrvError| Failure::new(Status::Error, error.to_string());
    let dns = Dns::system().map_err(failure)?;
    let found = dns.members(domain, name).await.map_err(failure)?;
    let (good, plain): (Vec<_>, Vec<_>) = found.iter().partition(|target| target.is_secure || allows_plain);
    for target in plain {
        eprintln!("ignoring discovered insecure endpoint {:?}", target.url());
    }
    Ok(good.into_iter().map(Target::url).collect())
}
