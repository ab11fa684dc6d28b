//! `/debug/*` of the client port: what the process is doing, for who has to find out why it is slow.
//!
//! `/debug/vars` is Go's `expvar` as etcd fills it, but for the statistics of Go's memory, of which there is none, and
//! for passwords, which the command line may have. `/debug/pprof/` is there with `--enable-pprof` or at log level
//! debug, and is crate [`insight`]'s.
//! The pages of traces that etcd has at level debug are not served: they have shown passwords (CVE-2021-28235).

use std::collections::BTreeMap;

use http::request::Parts;
use http::{Method, StatusCode};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::{Answer, Inner, Vitals, method_not_allowed, not_found, typed};

/// Where everything of Go's profiler is.
const PPROF: &str = "/debug/pprof/";

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
            Some(name) => insight::page(name, request.uri.query().unwrap_or_default()).await,
        }
    }

    async fn vars(&self) -> Answer {
        let vars = Vars {
            cmdline: insight::secrets::own_command_line(),
            file_descriptor_limit: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            memstats: BTreeMap::new(),
            raft_status: self.member.raft_status().await,
        };
        let body = serde_json::to_vec(&vars).expect("texts and numbers are JSON");
        typed(StatusCode::OK, "application/json; charset=utf-8", body)
    }
}
