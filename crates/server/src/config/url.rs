//! The URLs of the flags: a transport and an address, never a path.
//!
//! `http://host:port` and `https://host:port` name TCP addresses. `unix://a/b` and `unixs://a/b` name
//! sockets in the file system; host and path together are the socket's path, so `unix://a:1` is the
//! file `a:1` in the working directory and `unix:///run/etcd`, or `unix:/run/etcd`, an absolute one.
//! Lists are kept sorted and free of duplicates, because member ids are computed from them.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

/// How bytes travel to a [`Url`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Scheme {
    /// Whether TLS is spoken.
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    /// Whether the address is a path of the file system.
    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }

    fn parse(name: &str) -> Option<Self> {
        [
            ("http", Scheme::Http),
            ("https", Scheme::Https),
            ("unix", Scheme::Unix),
            ("unixs", Scheme::Unixs),
        ]
        .into_iter()
        .find_map(|(known, scheme)| name.eq_ignore_ascii_case(known).then_some(scheme))
    }
}

/// One URL. Its order is that of its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url(String);

/// What is wrong with a URL, in etcd's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum UrlError {
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    #[error("URL address does not have the form \"host:port\": {0}")]
    Address(String),
    #[error("URL must not contain a path: {0}")]
    Path(String),
    #[error("parse {url:?}: invalid port \":{port}\" after host")]
    Port { url: String, port: String },
}

impl Url {
    /// Parses one URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let (scheme, rest) = text
            .split_once(':')
            .and_then(|(name, rest)| Some((Scheme::parse(name)?, rest)))
            .filter(|(scheme, rest)| rest.starts_with("//") || scheme.is_unix() && rest.starts_with('/'))
            .ok_or_else(|| UrlError::Scheme(text.to_owned()))?;
        let url = Url(format!("{}:{rest}", format!("{scheme:?}").to_ascii_lowercase()));
        if !scheme.is_unix() {
            url.check_host_and_port(url.address())?;
        }
        Ok(url)
    }

    fn check_host_and_port(&self, rest: &str) -> Result<(), UrlError> {
        if let Some((authority, _)) = rest.split_once('/') {
            Url::parse(&format!("http://{authority}"))?;
            return Err(UrlError::Path(self.0.clone()));
        }
        match split_host_port(rest) {
            Some((host, port)) if !host.contains(['@', '?', '#']) => match port.parse::<u16>() {
                Ok(_) => Ok(()),
                Err(_) => Err(UrlError::Port {
                    url: self.0.clone(),
                    port: port.to_owned(),
                }),
            },
            _ => Err(UrlError::Address(self.0.clone())),
        }
    }

    /// Parses a comma-separated list; the empty text is the empty list.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, UrlError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    /// The URL of a TCP address.
    pub fn http(host: &str, port: u16) -> Self {
        Url(format!("http://{host}:{port}"))
    }

    /// The URL's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The transport.
    pub fn scheme(&self) -> Scheme {
        self.parts().0
    }

    /// `host:port`, or the path of a unix socket.
    pub fn address(&self) -> &str {
        self.parts().1
    }

    /// The host without the brackets of an IPv6 address; the whole path of a unix socket.
    pub fn host(&self) -> &str {
        let (scheme, address) = self.parts();
        match split_host_port(address) {
            Some((host, _)) if !scheme.is_unix() => host,
            _ => address,
        }
    }

    /// The port, of a TCP address.
    pub fn port(&self) -> Option<u16> {
        let (scheme, address) = self.parts();
        match split_host_port(address) {
            Some((_, port)) if !scheme.is_unix() => port.parse().ok(),
            _ => None,
        }
    }

    /// The host as an IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    fn parts(&self) -> (Scheme, &str) {
        let (name, rest) = self.0.split_once(':').expect("parse admits nothing else");
        let address = rest.strip_prefix("//").unwrap_or(rest);
        (Scheme::parse(name).expect("parse admits nothing else"), address)
    }
}

/// Splits at the last colon; an IPv6 host must stand in brackets, and loses them.
fn split_host_port(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    if port.is_empty() {
        return None;
    }
    match host.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?, port)),
        None => (!host.contains(':')).then_some((host, port)),
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Url {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Url::parse_list(text).unwrap_err().to_string()
    }

    #[test]
    fn refusals_are_in_etcds_words() {
        assert_eq!(
            refusal("foo"),
            "URL scheme must be http, https, unix, or unixs: foo"
        );
        assert_eq!(
            refusal("http://1.1.1.1:2,ftp://1.1.1.1:1"),
            "URL scheme must be http, https, unix, or unixs: ftp://1.1.1.1:1"
        );
        assert_eq!(
            refusal("http://1.1.1.1"),
            "URL address does not have the form \"host:port\": http://1.1.1.1"
        );
        assert_eq!(
            refusal("http://1.1.1.1:1/path"),
            "URL must not contain a path: http://1.1.1.1:1/path"
        );
        assert_eq!(
            refusal("http://1.1.1.1:abc"),
            "parse \"http://1.1.1.1:abc\": invalid port \":abc\" after host"
        );
        for odd in [
            "http://::1:2379",
            "http://a:1?x",
            "http://u@h:1",
            "http://h:",
            "http://",
            ",",
            "http://h:65536",
            "http:/h:1",
            "unix:etcd",
        ] {
            assert!(Url::parse_list(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_list_is_sorted_trimmed_and_unique() {
        let urls = Url::parse_list(" http://b:1,HTTP://a:1,http://b:1").unwrap();
        assert_eq!(
            urls.iter().map(Url::as_str).collect::<Vec<_>>(),
            ["http://a:1", "http://b:1"]
        );
        assert_eq!(Url::parse_list(""), Ok(vec![]));
    }

    #[test]
    fn parts_of_each_kind_of_url() {
        let url = Url::parse("https://[::1]:2379").unwrap();
        assert_eq!(
            (url.scheme(), url.host(), url.port(), url.address()),
            (Scheme::Https, "::1", Some(2379), "[::1]:2379")
        );
        assert!(url.ip().is_some_and(|ip| ip.is_ipv6()));
        let url = Url::parse("unix://localhost:20000").unwrap();
        assert_eq!(
            (url.address(), url.host(), url.port()),
            ("localhost:20000", "localhost:20000", None)
        );
        for text in ["unix:///run/etcd", "unix:/run/etcd"] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.as_str(), url.address()), (text, "/run/etcd"));
        }
    }
}
