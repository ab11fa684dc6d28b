//! Who asks: the headers of every request between members, and what is refused because of them.

use http::{HeaderMap, HeaderValue};
use types::MemberId;

use crate::Config;

pub(crate) const CLUSTER_ID: &str = "x-etcd-cluster-id";
pub(crate) const SERVER_VERSION: &str = "x-server-version";
pub(crate) const RAFT_TO: &str = "x-raft-to";
const SERVER_FROM: &str = "x-server-from";
const MIN_CLUSTER_VERSION: &str = "x-min-cluster-version";
const PEER_URLS: &str = "x-peerurls";

/// The oldest version that this one can be in a cluster with.
const OLDEST: Version = Version(3, 0);
const OLDEST_TEXT: &str = "3.0.0";
/// What members were that sent no version yet.
const UNNAMED: Version = Version(2, 0);

pub(crate) const INCOMPATIBLE_VERSION: &str = "incompatible version";
pub(crate) const CLUSTER_MISMATCH: &str = "cluster ID mismatch";

/// Major and minor version: what decides whether members can talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u64, u64);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        Some(Version(numbers.next()??, numbers.next()??))
    }

    fn of(headers: &HeaderMap, name: &str) -> Option<Self> {
        match text(headers, name) {
            "" => Some(UNNAMED),
            version => Version::parse(version),
        }
    }
}

/// A header's value; nothing if it is absent or no text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).map(HeaderValue::to_str);
    value.and_then(Result::ok).unwrap_or_default()
}

/// The headers of every request that this member makes.
pub(crate) fn introduction(config: &Config) -> HeaderMap {
    let values = [
        (SERVER_FROM, config.id.to_string()),
        (SERVER_VERSION, config.version.to_owned()),
        (MIN_CLUSTER_VERSION, OLDEST_TEXT.to_owned()),
        (CLUSTER_ID, config.cluster_id.to_string()),
        (PEER_URLS, config.peer_urls.join(",")),
    ];
    let valid = values.into_iter().filter_map(|(name, value)| {
        let value = HeaderValue::try_from(value).ok()?;
        Some((http::HeaderName::from_static(name), value))
    });
    valid.collect()
}

/// Whether a request's sender is of this cluster and of a version to talk to; else what it is told.
pub(crate) fn check(config: &Config, headers: &HeaderMap) -> Result<(), &'static str> {
    let remote = Version::of(headers, SERVER_VERSION);
    let oldest = Version::of(headers, MIN_CLUSTER_VERSION);
    let ours = Version::parse(config.version);
    let fits = remote.is_some_and(|remote| remote >= OLDEST) && oldest.is_some() && oldest <= ours;
    let verdict = match fits {
        false => Err(INCOMPATIBLE_VERSION),
        true if text(headers, CLUSTER_ID) != config.cluster_id.to_string() => Err(CLUSTER_MISMATCH),
        true => Ok(()),
    };
    if let Err(reason) = verdict {
        tracing::warn!(
            "local-member-id" = %config.id,
            "local-member-cluster-id" = %config.cluster_id,
            "local-member-server-version" = config.version,
            "local-member-server-minimum-cluster-version" = OLDEST_TEXT,
            "remote-peer-server-name" = text(headers, SERVER_FROM),
            "remote-peer-server-version" = text(headers, SERVER_VERSION),
            "remote-peer-server-minimum-cluster-version" = text(headers, MIN_CLUSTER_VERSION),
            "remote-peer-cluster-id" = text(headers, CLUSTER_ID),
            error = reason,
            "refused a request on the peer port"
        );
    }
    verdict
}

/// An id as Go prints and reads it.
pub(crate) fn parse_id(text: &str) -> Option<MemberId> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
    id.map(MemberId)
}

/// Who sent a request.
pub(crate) fn sender(headers: &HeaderMap) -> Option<MemberId> {
    parse_id(text(headers, SERVER_FROM))
}

/// Where the sender of a request says it can be reached.
pub(crate) fn sender_urls(headers: &HeaderMap) -> Vec<String> {
    let urls = text(headers, PEER_URLS).split(',');
    urls.filter(|url| !url.is_empty()).map(str::to_owned).collect()
}
