//! `etcd healthcheck [URL]`: whether the server next door is well, for images that have neither shell nor curl.
//!
//! It asks `/health` at the first plain URL that server listens on, so that a container's `HEALTHCHECK` needs no arguments:
//! metrics before HTTP before clients. A container's server is process 1, whose flags can be read, and has the variables
//! this has; elsewhere there are the variables only. TLS is not spoken here, since a probe has no certificate to show: of a
//! server that speaks nothing else, it is only seen whether it takes connections. One that is to be asked has a plain port
//! for metrics on the loopback, as kubeadm gives it.

use std::fs;
use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;

use thiserror::Error;

use crate::flags::{self, Flags, Invocation};
use crate::plain_http;

/// The command line of a container's server.
const SERVER: &str = "/proc/1/cmdline";

#[derive(Debug, Error)]
enum Ill {
    #[error("the server's settings are not valid: {0}")]
    Settings(String),
    #[error("the server listens nowhere that a health check reaches")]
    NoListener,
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
        None => listener(&flags_of_server(&fs::read(SERVER).unwrap_or_default()), env),
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

/// What follows the program on a command line as the kernel has it, if that program is a server.
fn flags_of_server(line: &[u8]) -> Vec<String> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.trim_end_matches('\0').split('\0').map(str::to_owned);
    match words.next() {
        Some(program) if program.rsplit('/').next() == Some("etcd") => words.collect(),
        _ => Vec::new(),
    }
}

/// Where the server with these flags and variables is to be asked: a plain URL, else one with TLS.
fn listener(args: &[String], env: &[(String, String)]) -> Result<String, Ill> {
    let flags = match flags::parse(args, env, flags::read_file) {
        Ok(Invocation::Serve(settings)) => settings.flags,
        Ok(_) => Flags::default(),
        Err(refusal) => return Err(Ill::Settings(refusal.to_string())),
    };
    let listeners = [
        flags.listen_metrics_urls,
        flags.listen_client_http_urls,
        flags.listen_client_urls,
    ];
    let urls: Vec<_> = listeners.iter().flatten().map(ToString::to_string).collect();
    let first = |scheme: &str| urls.iter().find(|url| url.starts_with(scheme)).cloned();
    first("http://")
        .or_else(|| first("https://"))
        .ok_or(Ill::NoListener)
}

fn ask(url: &str) -> Result<String, Ill> {
    let plain = url.replacen("https://", "http://", 1);
    let address = plain_http::address(&plain).ok_or_else(|| Ill::BadUrl(url.to_owned()))?;
    let silent = |error| Ill::Silent {
        address: address.clone(),
        error,
    };
    if plain != url {
        plain_http::connect(&address).map_err(silent)?;
        return Ok(format!(
            "{address} takes connections, and speaks TLS only; add --listen-metrics-urls=http://127.0.0.1:2381 to have it asked"
        ));
    }
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

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
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
        assert_eq!(listener(&[], &both).unwrap(), "http://0.0.0.0:2382");
        assert_eq!(listener(&[], &both[..1]).unwrap(), "http://0.0.0.0:2379");
        assert_eq!(listener(&[], &[]).unwrap(), "http://localhost:2379");
    }

    #[test]
    fn flags_of_a_containers_server_count_as_its_variables_do() {
        let args = flags_of_server(b"/usr/local/bin/etcd\0--listen-metrics-urls=http://127.0.0.1:2381\0");
        assert_eq!(args, words("--listen-metrics-urls=http://127.0.0.1:2381"));
        assert_eq!(listener(&args, &[]).unwrap(), "http://127.0.0.1:2381");
        for other in [&b"/sbin/init\0splash\0"[..], b""] {
            assert!(flags_of_server(other).is_empty());
        }
        assert!(matches!(
            listener(&words("--no-such-flag"), &[]),
            Err(Ill::Settings(_))
        ));
    }

    #[test]
    fn a_server_that_speaks_tls_only_is_well_if_it_takes_connections() {
        let secure = env(&[("ETCD_LISTEN_CLIENT_URLS", "https://127.0.0.1:2379")]);
        assert_eq!(listener(&[], &secure).unwrap(), "https://127.0.0.1:2379");
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", socket.local_addr().unwrap());
        assert!(ask(&url).unwrap().contains("TLS only"));
        drop(socket);
        assert!(matches!(ask(&url), Err(Ill::Silent { .. })));
    }
}
