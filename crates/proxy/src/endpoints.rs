//! Where the cluster is: as the flags say, or the SRV records of a domain.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use client::srv::{self, Target};
use names::Dns;
use tls::{Settings, Trust};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::ProxyError;

/// How long a found server has to show its certificate.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which records to look up.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// The domain that has them.
    pub domain: String,
    /// What comes after the services' names, if anything.
    pub service_name: String,
    /// Whether what is found is believed without a certificate.
    pub is_insecure: bool,
    /// Who has to have signed the certificates of what is found; nothing is whom this machine trusts.
    pub authorities: Option<PathBuf>,
}

/// The target of `host:port`, or of a URL with that.
pub fn parse(endpoint: &str) -> Option<Target> {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let (host, port) = names::split(rest.split('/').next()?)?;
    Some(Target {
        host: host.to_owned(),
        port,
        priority: 0,
        weight: 0,
        is_secure: scheme == "https",
    })
}

/// Looks the records up, and keeps whom to believe.
pub async fn discover(discovery: &Discovery) -> Result<Vec<Target>, ProxyError> {
    let Discovery {
        domain, service_name, ..
    } = discovery;
    let found = srv::members(&Dns::system(), domain, service_name).await?;
    info!(
        "srv-server" = domain,
        endpoints = urls(&found),
        "discovered cluster from SRV"
    );
    match discovery.is_insecure {
        true => Ok(found),
        false => validated(discovery, found).await,
    }
}

/// Those that show a certificate which is good for the domain that named them.
async fn validated(discovery: &Discovery, found: Vec<Target>) -> Result<Vec<Target>, ProxyError> {
    let settings = Settings {
        trust: match &discovery.authorities {
            Some(file) => Trust::Authorities(file.clone()),
            None => Trust::System,
        },
        ..Settings::default()
    };
    let client =
        tls::Client::new(&settings, tls::HTTP).map_err(|error| ProxyError::Tls(error.to_string()))?;
    let mut good = vec![];
    for target in found {
        let shake = async {
            let socket = names::connect(&target.host, target.port).await?;
            client.connect(&discovery.domain, socket).await.map(drop)
        };
        match (target.is_secure, timeout(PATIENCE, shake).await) {
            (true, Ok(Ok(()))) => good.push(target),
            (_, outcome) => {
                let reason = match outcome {
                    Ok(Err(error)) => tls::describe(&error),
                    Ok(Ok(())) => "its records say that it speaks no TLS".to_owned(),
                    Err(_) => "it does not answer in time".to_owned(),
                };
                warn!(
                    endpoint = target.url(),
                    reason, "failed to validate discovered endpoint"
                );
            }
        }
    }
    info!(
        endpoints = urls(&good),
        "using validated discovered SRV endpoints"
    );
    Ok(good)
}

fn urls(targets: &[Target]) -> String {
    targets.iter().map(Target::url).collect::<Vec<_>>().join(",")
}

/// Listens at `host:port`.
pub async fn listen(address: &str) -> Result<TcpListener, ProxyError> {
    let bind = async {
        let (host, port) = names::split(address).ok_or(io::ErrorKind::InvalidInput)?;
        let found = names::to_listen_on(&names::addresses(host, port).await?);
        TcpListener::bind(found.ok_or(io::ErrorKind::AddrNotAvailable)?).await
    };
    let bound: io::Result<_> = bind.await;
    bound.map_err(|error| ProxyError::Listen(address.to_owned(), error.to_string()))
}

/// Refuses targets that are the listener itself: what is sent there would come back for ever.
pub async fn refuse_loops(listen: &str, targets: &[Target]) -> Result<(), ProxyError> {
    let (host, port) = names::split(listen).ok_or_else(|| ProxyError::Endpoint(listen.to_owned()))?;
    let own = addresses(host, port).await?;
    let is_own = |address: &SocketAddr| {
        own.iter().any(|own| {
            let is_everywhere = own.ip().is_unspecified() && address.ip().is_loopback();
            own.port() == address.port() && (is_everywhere || own.ip() == address.ip())
        })
    };
    for target in targets {
        let found = addresses(&target.host, target.port).await?;
        if let Some(address) = found.into_iter().find(is_own) {
            return Err(ProxyError::Loop {
                target: target.address(),
                address,
                listen: listen.to_owned(),
            });
        }
    }
    Ok(())
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, ProxyError> {
    let found = names::addresses(host, port).await;
    found.map_err(|error| ProxyError::Unresolved(error.name, error.problem.to_string()))
}

#[cfg(test)]
mod tests {
    use conformance::certs::{self, Ask, Authority};

    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_port_with_or_without_a_scheme() {
        for (endpoint, url) in [
            ("a:1", "http://a:1"),
            ("https://a:1/", "https://a:1"),
            ("http://[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(parse(endpoint).unwrap().url(), url);
        }
        for endpoint in ["a", "::1", "a:", "a:65536", ""] {
            assert_eq!(parse(endpoint), None, "{endpoint}");
        }
    }

    #[tokio::test]
    async fn a_target_that_is_the_listener_is_refused() {
        let targets = [parse("127.0.0.1:1").unwrap()];
        for (listen, is_loop) in [
            ("127.0.0.1:1", true),
            ("0.0.0.0:1", true),
            ("127.0.0.1:2", false),
            ("127.0.0.2:1", false),
        ] {
            assert_eq!(refuse_loops(listen, &targets).await.is_err(), is_loop, "{listen}");
        }
    }

    #[tokio::test]
    async fn a_discovered_endpoint_shows_a_good_certificate_of_its_domain_or_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let [ours, foreign] = ["ours", "foreign"].map(|name| Authority::new(name).unwrap());
        certs::write(&dir.path().join("ca.pem"), ours.pem()).unwrap();
        let for_domain = |domain: &str| Ask {
            hosts: vec![domain.into()],
            ..Ask::new("member", 2)
        };
        let mut targets = vec![];
        for (name, pair) in [
            ("good", ours.sign(&for_domain("example.org"))),
            ("of-another-domain", ours.sign(&for_domain("example.com"))),
            ("of-a-stranger", foreign.sign(&for_domain("example.org"))),
        ] {
            pair.unwrap().write(dir.path(), name).unwrap();
            let file = |ending: &str| dir.path().join(format!("{name}.{ending}"));
            let identity = tls::Identity {
                cert: file("pem"),
                key: file("key"),
            };
            let server = tls::Server::new(&Settings::default(), &identity, tls::HTTP).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut target = parse(&listener.local_addr().unwrap().to_string()).unwrap();
            tokio::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let _ = server.accept(socket).await;
                }
            });
            target.is_secure = true;
            targets.push(target);
        }
        // The good one again, as one whose records say that it speaks no TLS.
        targets.push(Target {
            is_secure: false,
            ..targets[0].clone()
        });
        let discovery = Discovery {
            domain: "example.org".into(),
            service_name: String::new(),
            is_insecure: false,
            authorities: Some(dir.path().join("ca.pem")),
        };
        let good = validated(&discovery, targets.clone()).await.unwrap();
        assert_eq!(good, targets[..1]);
    }
}
