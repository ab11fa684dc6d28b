//! `etcd healthcheck [URL]`: whether the server next door is well, for images that have neither shell nor curl.
//!
//! It asks `/health` at the first plain URL the server of the same environment listens on, so that a container's
//! `HEALTHCHECK` needs no arguments: metrics before HTTP before clients, else port 2379. TLS is not spoken here, since
//! a probe has no certificate to show: a server behind TLS gets a plain port for metrics on the loopback, as
//! kubeadm gives it.

use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;

use thiserror::Error;

use crate::plain_http;

/// Where a server is by default.
const DEFAULT_URL: &str = "http://127.0.0.1:2379";

/// The variables that say where the server listens for HTTP, the best place first.
const LISTENERS: [&str; 3] = [
    "ETCD_LISTEN_METRICS_URLS",
    "ETCD_LISTEN_CLIENT_HTTP_URLS",
    "ETCD_LISTEN_CLIENT_URLS",
];

#[derive(Debug, Error)]
enum Ill {
    #[error(
        "the server listens by TLS only, which a health check does not speak; add --listen-metrics-urls=http://127.0.0.1:2381"
    )]
    NoPlainUrl,
    #[error("{0:?} is no http:// URL with a port")]
    BadUrl(String),
    #[error("{address} does not answer: {error}; is the server running there?")]
    Silent { address: String, error: io::Error },
    #[error("{0}")]
    Unhealthy(String),
}

/// Asks, says what the answer is, and has exit code 0 only if that is good.
pub fn run(args: &[String], env: &[(String, String)]) -> ExitCode {
    let asked = match args.first() {
        Some(url) => Ok(url.clone()),
        None => listener(env),
    };
    match asked.and_then(|url| ask(&url)) {
        Ok(answer) => {
            let _ = writeln!(stdout(), "{answer}");
            ExitCode::SUCCESS
        }
        Err(ill) => {
            let _ = writeln!(stderr(), "unhealthy: {ill}");
            ExitCode::FAILURE
        }
    }
}

/// The first plain URL that the server of this environment listens on.
fn listener(env: &[(String, String)]) -> Result<String, Ill> {
    let values = LISTENERS
        .iter()
        .flat_map(|name| env.iter().filter(move |(known, _)| known == name));
    let urls: Vec<_> = values.flat_map(|(_, value)| value.split(',')).collect();
    match urls.iter().find(|url| url.starts_with("http://")) {
        Some(url) => Ok((*url).to_owned()),
        None if urls.iter().any(|url| url.starts_with("https://")) => Err(Ill::NoPlainUrl),
        None => Ok(DEFAULT_URL.to_owned()),
    }
}

fn ask(url: &str) -> Result<String, Ill> {
    let address = plain_http::address(url).ok_or_else(|| Ill::BadUrl(url.to_owned()))?;
    let silent = |error| Ill::Silent {
        address: address.clone(),
        error,
    };
    let answer = plain_http::request(&address, "GET /health", "").map_err(silent)?;
    match answer.is_ok() {
        true => Ok(answer.body),
        false => Err(Ill::Unhealthy(format!("{} {}", answer.status, answer.body))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_port_for_metrics_is_asked_before_the_one_for_clients() {
        let both = env(&[
            ("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379"),
            (
                "ETCD_LISTEN_METRICS_URLS",
                "https://0.0.0.0:2381,http://0.0.0.0:2382",
            ),
        ]);
        assert_eq!(listener(&both).unwrap(), "http://0.0.0.0:2382");
        assert_eq!(listener(&both[..1]).unwrap(), "http://0.0.0.0:2379");
        assert_eq!(listener(&[]).unwrap(), DEFAULT_URL);
    }

    #[test]
    fn a_server_that_speaks_tls_only_is_told_what_a_probe_needs() {
        let secure = env(&[("ETCD_LISTEN_CLIENT_URLS", "https://0.0.0.0:2379")]);
        assert!(matches!(listener(&secure), Err(Ill::NoPlainUrl)));
    }
}
