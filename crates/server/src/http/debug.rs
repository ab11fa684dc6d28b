//! `/debug/*` of the client port: what the process is doing, for who has to find out why it is slow.
//!
//! `/debug/vars` is Go's `expvar` as etcd fills it, but for the statistics of Go's memory, of which there is none, and
//! for passwords, which the command line may have. `/debug/pprof/` is there with `--enable-pprof` or at log level
//! debug; its profile of the CPU is the one that means the same here ([`crate::profile`]), the others say why they are not there.
//! The pages of traces that etcd has at level debug are not served: they have shown passwords (CVE-2021-28235).

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{CONTENT_DISPOSITION, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::{Answer, Inner, Vitals, method_not_allowed, not_found, text, typed};
use crate::profile;
use crate::secrets::own_command_line;

/// Where everything of Go's profiler is.
const PPROF: &str = "/debug/pprof/";

/// How long a profile takes if nothing is said, as Go's.
const PROFILE_DEFAULT: Duration = Duration::from_secs(30);
/// The longest profile: somebody waits for it, and nobody else gets one meanwhile.
const PROFILE_MAX: Duration = Duration::from_secs(600);

/// Profiles that tell of Go's runtime.
const OF_GO: [&str; 7] = [
    "allocs",
    "block",
    "goroutine",
    "heap",
    "mutex",
    "threadcreate",
    "trace",
];

/// Where raft is, in etcd's words. Ids are hex digits; nobody is `0`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RaftStatus {
    /// This member.
    pub id: String,
    /// The term.
    pub term: u64,
    /// For whom it voted.
    pub vote: String,
    /// The last entry committed.
    pub commit: u64,
    /// The leader.
    pub lead: String,
    /// Its part.
    #[serde(rename = "raftState")]
    pub state: &'static str,
    /// The last entry applied.
    pub applied: u64,
    /// How far everybody is, if this member leads.
    pub progress: BTreeMap<String, RaftProgress>,
    /// To whom it hands the leadership over.
    #[serde(rename = "leadtransferee")]
    pub transferee: String,
}

/// How far a member is.
#[derive(Clone, Debug, Serialize)]
pub struct RaftProgress {
    /// The last entry it is known to have.
    #[serde(rename = "match")]
    pub matched: u64,
    /// The next one to be sent.
    pub next: u64,
    /// How it is sent to.
    pub state: &'static str,
}

/// What `/debug/vars` shows, in the order of the names.
#[derive(Serialize)]
struct Vars {
    cmdline: Vec<String>,
    file_descriptor_limit: u64,
    /// Numbers of Go's memory.
    memstats: BTreeMap<&'static str, u64>,
    #[serde(rename = "raft.status")]
    raft_status: Option<RaftStatus>,
}

impl<V: Vitals> Inner<V> {
    pub(super) async fn debug(&self, request: &Parts) -> Answer {
        let path = request.uri.path();
        let page = path.strip_prefix(PPROF).filter(|_| self.pprof);
        match page {
            None if path != "/debug/vars" => not_found(),
            _ if request.method != Method::GET => method_not_allowed(),
            None => self.vars().await,
            Some("") => typed(StatusCode::OK, "text/html; charset=utf-8", index()),
            Some("profile") => profile(request.uri.query().unwrap_or_default()).await,
            Some("cmdline") => text(StatusCode::OK, own_command_line().join("\0")),
            // A profile brings its symbols along.
            Some("symbol") => text(StatusCode::OK, "num_symbols: 0\n"),
            Some(name) => no_profile(name),
        }
    }

    async fn vars(&self) -> Answer {
        let vars = Vars {
            cmdline: own_command_line(),
            file_descriptor_limit: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            memstats: BTreeMap::new(),
            raft_status: self.member.raft_status().await,
        };
        let body = serde_json::to_vec(&vars).expect("texts and numbers are JSON");
        typed(StatusCode::OK, "application/json; charset=utf-8", body)
    }
}

fn index() -> String {
    let of_go: String = OF_GO
        .iter()
        .map(|name| {
            format!("<tr><td>-</td><td>{name}</td><td>not there: it tells of Go's runtime</td></tr>\n")
        })
        .collect();
    format!(
        "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<table>\n\
         <tr><td></td><td><a href='cmdline'>cmdline</a></td><td>the command line</td></tr>\n\
         <tr><td></td><td><a href='profile?seconds=30'>profile</a></td>\
         <td>where CPU time goes; ?seconds=N, read with go tool pprof</td></tr>\n{of_go}</table>\n</body>\n</html>\n"
    )
}

fn no_profile(name: &str) -> Answer {
    let reason = match OF_GO.contains(&name) {
        true => format!(
            "no profile {name}: it tells of Go's runtime, and this server is not built by Go. \
             See /debug/pprof/profile for CPU time, and process_* of /metrics for memory and files.\n"
        ),
        false => "Unknown profile\n".to_owned(),
    };
    with_go_header(text(StatusCode::NOT_FOUND, reason))
}

/// The header by which tools know that the profiler itself speaks.
fn with_go_header(mut answer: Answer) -> Answer {
    let name = HeaderName::from_static("x-go-pprof");
    answer.headers_mut().insert(name, HeaderValue::from_static("1"));
    answer
}

async fn profile(query: &str) -> Answer {
    match profile::cpu(seconds(query)).await {
        Ok(profile) => {
            let mut answer = typed(StatusCode::OK, "application/octet-stream", profile);
            let name = HeaderValue::from_static("attachment; filename=\"profile\"");
            answer.headers_mut().insert(CONTENT_DISPOSITION, name);
            answer
        }
        Err(error) => with_go_header(text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Could not enable CPU profiling: {error}\n"),
        )),
    }
}

/// How long a profile is to take; what makes no sense is not heard, as with Go.
fn seconds(query: &str) -> Duration {
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "seconds");
    let seconds = asked.and_then(|(_, value)| value.parse().ok());
    seconds
        .filter(|seconds| *seconds > 0)
        .map_or(PROFILE_DEFAULT, Duration::from_secs)
        .min(PROFILE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_takes_as_long_as_somebody_asks_for_within_reason() {
        for (query, secs) in [
            ("", 30),
            ("seconds=2", 2),
            ("debug=1&seconds=5", 5),
            ("seconds=0", 30),
            ("seconds=-1", 30),
            ("seconds=x", 30),
            ("seconds=100000", 600),
        ] {
            assert_eq!(seconds(query).as_secs(), secs, "{query}");
        }
    }
}
