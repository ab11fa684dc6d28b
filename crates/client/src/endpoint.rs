//! Where a member is, as people write it.

use std::fmt;
use std::path::PathBuf;

use http::uri::Authority;

/// A member's place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// As it was written.
    text: String,
    pub place: Place,
    pub is_secure: bool,
    /// Whom its certificate must be for.
    pub name: String,
    /// What requests say they are for.
    pub authority: Authority,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `host:port`.
    Net {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// The port of who says none.
const PORT: u16 = 2379;

impl Endpoint {
    /// `secures` says whether those are secured that do not say it themselves.
    pub fn parse(text: &str, secures: bool) -> Option<Self> {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme @ ("unix" | "unixs"), path)) => (scheme, path),
            _ => text.split_once("://").unwrap_or(("", text)),
        };
        let (place, is_secure) = match scheme {
            "http" => (net(rest)?, false),
            "https" => (net(rest)?, true),
            "" => (net(rest)?, secures),
            "unix" => (unix(rest)?, secures),
            "unixs" => (unix(rest)?, true),
            _ => return None,
        };
        let name = match &place {
            Place::Net { host, .. } => host.clone(),
            // A socket is called `host:port`, or is one of this machine.
            Place::Unix(path) => {
                let file = path.file_name()?.to_str()?;
                file.split_once(':').map_or(file, |(host, _)| host).to_owned()
            }
        };
        let authority = match &place {
            Place::Net { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Place::Net { host, port } => format!("{host}:{port}"),
            Place::Unix(_) => "localhost".to_owned(),
        };
        Some(Endpoint {
            text: text.to_owned(),
            place,
            is_secure,
            name,
            authority: authority.parse().ok()?,
        })
    }
}

/// As it was written.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn net(text: &str) -> Option<Place> {
    let authority: Authority = text.split('/').next()?.parse().ok()?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let says_a_port = authority.as_str().len() > authority.host().len();
    let port = match authority.port_u16() {
        Some(port) => port,
        None if says_a_port => return None,
        None => PORT,
    };
    (!host.is_empty()).then_some(Place::Net { host, port })
}

fn unix(text: &str) -> Option<Place> {
    let path = text.strip_prefix("//").unwrap_or(text);
    (!path.is_empty()).then(|| Place::Unix(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_says_itself_whether_it_is_secured_or_is_as_the_others_are() {
        for (text, secures, authority, is_secure) in [
            ("a:1", false, "a:1", false),
            ("a:1", true, "a:1", true),
            ("a", true, "a:2379", true),
            ("http://a:1", true, "a:1", false),
            ("http://a:1/", true, "a:1", false),
            ("https://a:1", false, "a:1", true),
            ("[::1]:1", false, "[::1]:1", false),
            ("https://[::1]:1", false, "[::1]:1", true),
            ("unix://a:1", true, "localhost", true),
            ("unixs://a:1", false, "localhost", true),
        ] {
            let endpoint = Endpoint::parse(text, secures).unwrap();
            assert_eq!(endpoint.authority, authority, "{text}");
            assert_eq!(endpoint.is_secure, is_secure, "{text}");
            assert_eq!(endpoint.to_string(), text);
        }
        for text in ["", "ftp://a:1", "http://", "unix:", "a b", "a:x", ":1", "a:1:2"] {
            assert_eq!(Endpoint::parse(text, false), None, "{text}");
        }
    }

    #[test]
    fn a_socket_is_a_file_whose_name_is_that_of_its_server() {
        for (text, path, name) in [
            ("unix://localhost:1", "localhost:1", "localhost"),
            ("unix:///run/etcd/a:1", "/run/etcd/a:1", "a"),
            ("unix:etcd.sock", "etcd.sock", "etcd.sock"),
        ] {
            let endpoint = Endpoint::parse(text, false).unwrap();
            assert_eq!(endpoint.place, Place::Unix(path.into()));
            assert_eq!(endpoint.name, name);
        }
    }
}
