//! Endpoints from SRV records of a domain: `_etcd-client-ssl._tcp` for TLS, `_etcd-client._tcp` for plain text, with the
//! service's name behind a hyphen if there is one.

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

use crate::failure::{Failure, Status};

/// All endpoints that the records of `domain` name, those in plain text only if that is allowed.
pub async fn endpoints(domain: &str, service: &str, allows_plain: bool) -> Result<Vec<String>, Failure> {
    let failure = |error: &dyn std::fmt::Display| {
        Failure::new(
            Status::Error,
            format!("error querying DNS SRV records of {domain}: {error}"),
        )
    };
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    let resolver = resolver.map_err(|error| failure(&error))?;
    let (mut found, mut last) = (Vec::new(), None);
    for (scheme, record) in [("https", "etcd-client-ssl"), ("http", "etcd-client")] {
        let name = match service {
            "" => format!("_{record}._tcp.{domain}."),
            service => format!("_{record}-{service}._tcp.{domain}."),
        };
        match resolver.srv_lookup(name.as_str()).await {
            Err(error) => last = Some(failure(&error)),
            Ok(_) if scheme == "http" && !allows_plain => {
                eprintln!("records of {name} are passed over: their endpoints are in plain text");
            }
            Ok(lookup) => found.extend(lookup.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => {
                    let host = srv.target.to_utf8();
                    Some(format!("{scheme}://{}:{}", host.trim_end_matches('.'), srv.port))
                }
                _ => None,
            })),
        }
    }
    match (found.is_empty(), last) {
        (true, Some(failure)) => Err(failure),
        _ => Ok(found),
    }
}
