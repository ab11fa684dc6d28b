//! One short exchange with a server of this machine, over HTTP without TLS: what a health check and a first start need.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long one step of the exchange may take. Docker and Kubernetes give a probe a few seconds in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read: metrics are a hundred times shorter.
const ANSWER_MAX: u64 = 16 << 20;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The first line, such as `HTTP/1.1 200 OK`.
    pub status: String,
    /// The body, or its beginning.
    pub body: String,
}

impl Answer {
    /// Whether the request was carried out.
    pub fn is_ok(&self) -> bool {
        self.status.split(' ').nth(1) == Some("200")
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Self {
            status: head.lines().next().unwrap_or_default().to_owned(),
            body: body.trim().to_owned(),
        }
    }
}

/// Host and port of a URL to connect to: a wildcard means every address of the machine, so the loopback is one.
pub fn address(url: &str) -> Option<String> {
    let authority = url.strip_prefix("http://")?.split('/').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    Some(format!("{host}:{port}"))
}

/// Sends a request on a connection of its own. `target` is method and path; HTTP/1.0, so that an answer ends with its
/// connection and comes in one piece.
pub fn request(address: &str, target: &str, body: &str) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{target} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(Answer::parse(&answer))
}

/// Connects to the first of a name's addresses that can be reached.
pub fn connect(address: &str) -> io::Result<TcpStream> {
    let (host, port) = names::split(address).ok_or(io::ErrorKind::InvalidInput)?;
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for found in names::blocking::addresses(host, port)? {
        match TcpStream::connect_timeout(&found, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_reached_at_the_loopback() {
        assert_eq!(address("http://0.0.0.0:2381").as_deref(), Some("127.0.0.1:2381"));
        assert_eq!(address("http://[::]:2381/").as_deref(), Some("[::1]:2381"));
        assert_eq!(address("http://etcd1:2381").as_deref(), Some("etcd1:2381"));
        for wrong in ["etcd1:2381", "https://etcd1:2381", "http://etcd1"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let good = Answer::parse(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}\n");
        assert!(good.is_ok());
        assert_eq!(good.body, "{}");
        assert!(!Answer::parse(b"HTTP/1.0 503 Service Unavailable\r\n\r\n").is_ok());
        assert!(!Answer::parse(b"").is_ok());
    }
}
