//! Who may use the client port's HTTP.
//!
//! A page in a browser can be made to talk to a port of the machine it runs on. Three things stand in its way:
//!
//! * Under a host name of its maker's (DNS rebinding, CVE-2018-5702) it could even read the answers. TLS stops that by
//!   itself; a plain port does so by the list of names that requests may be for.
//! * From an origin of its own it can't read answers, unless the CORS headers say so, but could send what changes data
//!   (CVE-2018-1098). Browsers tell the origin of every such request, so the gateway refuses those that `--cors` does
//!   not allow. Callers that are no browsers say nothing about origins, whatever content type they send.
//! * A certificate that a browser or a proxy shows does not say whose a request is that comes through the gateway
//!   (CVE-2018-16886). Where certificates could be users, one that names anybody is refused there.

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
    /// Whether certificates may be users.
    certificates: bool,
}

impl Access {
    pub fn new(config: &Config) -> Self {
        Access {
            hosts: config.host_whitelist.clone(),
            origins: config.cors.clone(),
            certificates: config.client_tls.asks_certificate,
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

    /// The refusal of a certificate with a name, if it could be taken for that of a user.
    pub fn refuse_certificate(&self, request: &Parts, has_users: bool) -> Option<Answer> {
        let client = request.extensions.get::<TlsClient>()?;
        let name = client.common_name.as_ref().filter(|name| !name.is_empty());
        let refusal = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        (has_users && self.certificates && name.is_some()).then(|| text(StatusCode::BAD_REQUEST, refusal))
    }

    /// The refusal of what a page of another origin has made a browser send.
    pub fn refuse_origin(&self, request: &Parts) -> Option<Answer> {
        let site = || request.headers.get("sec-fetch-site");
        let allowed = match request.headers.get(ORIGIN).map(HeaderValue::to_str) {
            _ if self.origins.is_all() => true,
            Some(Ok(origin)) => self.origins.contains(origin) || is_own(origin, request),
            Some(Err(_)) => false,
            None => site().is_none_or(|site| site != "cross-site"),
        };
        if allowed {
            return None;
        }
        tracing::warn!(
            "rejected a request to the gateway that a web page of an origin not in --cors has made"
        );
        let refusal =
            "a web page of another origin has sent this request, and --cors does not allow that origin\n";
        Some(text(StatusCode::FORBIDDEN, refusal))
    }

    /// Adds the headers by which a browser lets a page of this origin read the answer.
    pub fn allow_origin(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        let origin = match origin {
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

/// Whether a page has come from where it sends its request to.
fn is_own(origin: &str, request: &Parts) -> bool {
    let own = authority(request);
    origin
        .split_once("://")
        .is_some_and(|(_, place)| own.is_some_and(|own| own == *place))
}

/// The host that a request is for, without its port.
fn host(request: &Parts) -> String {
    authority(request).map_or(String::new(), |authority| authority.host().to_owned())
}

fn authority(request: &Parts) -> Option<Authority> {
    let in_header = || {
        let header = request.headers.get(header::HOST)?.as_bytes();
        Authority::try_from(header).ok()
    };
    request.uri.authority().cloned().or_else(in_header)
}
