//! Who may use the client port's HTTP.
//!
//! A page in a browser can be made to talk to a port of the machine it runs on, under a host name of
//! its maker's (DNS rebinding, CVE-2018-5702). TLS stops that by itself; a plain port does so by the
//! list of names that requests may be for. Reading an answer from another origin is up to the
//! browser, which asks for the CORS headers.

use http::header::{HeaderMap, HeaderValue, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{StatusCode, header};

use super::{Answer, text};
use crate::config::{Config, NameSet};
use crate::listen::TlsClient;

pub struct Access {
    hosts: NameSet,
    origins: NameSet,
}

impl Access {
    pub fn new(config: &Config) -> Self {
        Access {
            hosts: config.host_whitelist.clone(),
            origins: config.cors.clone(),
        }
    }

    /// The refusal of a request for a host that is not in the list; whoever came by TLS has asked for a name already.
    pub fn refuse_host(&self, request: &Parts) -> Option<Answer> {
        if request.extensions.get::<TlsClient>().is_some() {
            return None;
        }
        let host = host(request);
        if self.hosts.contains(&host) {
            return None;
        }
        tracing::warn!(host = %host, "rejected an HTTP request whose host is not in --host-whitelist");
        let body = format!(
            "\netcd does not serve requests for this host name on a plain HTTP port, because a web page\n\
             could have made your browser send them (DNS rebinding, CVE-2018-5702).\n\n\
             Either of these admits them:\n\
             - start etcd with --host-whitelist {host:?} (a comma-separated list)\n\
             - use TLS\n\n"
        );
        Some(text(StatusCode::MISDIRECTED_REQUEST, body))
    }

    /// Adds the headers by which a browser lets a page of the request's origin read the answer.
    pub fn allow_origin(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        let origin = match request.get(ORIGIN) {
            _ if self.origins.is_all() => HeaderValue::from_static("*"),
            Some(origin) if origin.to_str().is_ok_and(|origin| self.origins.contains(origin)) => {
                origin.clone()
            }
            _ => return,
        };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
}

/// The host that a request is for, without its port.
fn host(request: &Parts) -> String {
    let in_header = || {
        let header = request.headers.get(header::HOST)?.as_bytes();
        Authority::try_from(header).ok()
    };
    let authority = request.uri.authority().cloned().or_else(in_header);
    authority.map_or(String::new(), |authority| authority.host().to_owned())
}
