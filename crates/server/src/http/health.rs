//! `/health`, `/livez` and `/readyz`.
//!
//! `/health` answers whether clients are served: no alarm, a leader, and a read that comes back. It
//! names the first reason against it. `/livez` (would a restart help?) and `/readyz` (should traffic
//! come here?) are sets of named checks; all of a set are run, and each has a path of its own.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use proto::etcdserverpb::AlarmType;
use types::ErrorKind;

use super::{Answer, Inner, PLAIN, Vitals, method_not_allowed, text, typed};

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }
}

const LIVEZ: [Check; 1] = [Check::SerializableRead];
const READYZ: [Check; 4] = [
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
];

/// The checks that a path asks for.
pub struct Checks {
    /// `livez` or `readyz`.
    set: &'static str,
    checks: Vec<Check>,
    /// Whether the path named the one check itself, so that nothing can be excluded.
    single: bool,
}

/// A request's query, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Parts) -> Self {
        let query = request.uri.query().unwrap_or("");
        Query(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    fn first<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.all(key).next()
    }
}

impl<V: Vitals> Inner<V> {
    pub(super) async fn health(&self, request: &Parts) -> Answer {
        if request.method != Method::GET {
            tracing::warn!("status-code" = 405, "/health error");
            return method_not_allowed();
        }
        match self.unhealthy(&Query::of(request)).await {
            None => {
                self.metrics.server_health_success.inc();
                tracing::debug!("status-code" = 200, "/health OK");
                typed(StatusCode::OK, PLAIN, "{\"health\":\"true\",\"reason\":\"\"}")
            }
            Some(reason) => {
                self.metrics.server_health_failures.inc();
                tracing::warn!("status-code" = 503, reason = %reason, "serving /health false");
                let reason = serde_json::Value::from(reason);
                let body = format!("{{\"health\":\"false\",\"reason\":{reason}}}\n");
                text(StatusCode::SERVICE_UNAVAILABLE, body)
            }
        }
    }

    /// The first reason why clients are not served.
    async fn unhealthy(&self, query: &Query) -> Option<String> {
        let name = |alarm: i32| AlarmType::try_from(alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
        let alarms = self.member.alarms();
        let mut alarms = alarms.iter().map(|alarm| name(alarm.alarm));
        if let Some(alarm) = alarms.find(|alarm| !query.all("exclude").any(|excluded| excluded == *alarm)) {
            return Some(match alarm {
                "NOSPACE" | "CORRUPT" => format!("ALARM {alarm}"),
                _ => "ALARM UNKNOWN".into(),
            });
        }
        let serializable = query.first("serializable") == Some("true");
        if !serializable && self.member.leader().is_none() {
            return Some("RAFT NO LEADER".into());
        }
        let read = self.read(!serializable).await;
        read.err().map(|error| format!("RANGE ERROR:{error}"))
    }

    async fn read(&self, linearizable: bool) -> Result<(), ErrorKind> {
        tokio::time::timeout(self.read_timeout, self.member.probe(linearizable))
            .await
            .unwrap_or(Err(ErrorKind::Timeout))
    }

    /// The checks of `/livez`, `/readyz`, or of a path below one of them.
    pub(super) fn checks(&self, path: &str) -> Option<Checks> {
        let mut parts = path.strip_prefix('/')?.splitn(2, '/');
        let (set, checks) = match parts.next()? {
            "livez" => ("livez", &LIVEZ[..]),
            "readyz" => ("readyz", &READYZ[..]),
            _ => return None,
        };
        match parts.next() {
            None => Some(Checks {
                set,
                checks: checks.into(),
                single: false,
            }),
            Some(name) => {
                let check = checks.iter().find(|check| check.name() == name)?;
                Some(Checks {
                    set,
                    checks: vec![*check],
                    single: true,
                })
            }
        }
    }

    pub(super) async fn run_checks(&self, checks: Checks, request: &Parts) -> Answer {
        if request.method != Method::GET {
            tracing::warn!(
                path = request.uri.path(),
                "status-code" = 405,
                "Health request error"
            );
            return method_not_allowed();
        }
        let query = Query::of(request);
        let Checks {
            set,
            mut checks,
            single,
        } = checks;
        if !single {
            for name in query.all("exclude") {
                if !checks.iter().any(|check| check.name() == name) {
                    tracing::warn!(
                        path = set,
                        check = name,
                        "there is no such health check to exclude"
                    );
                }
            }
            checks.retain(|check| !query.all("exclude").any(|name| name == check.name()));
        }
        let mut lines = String::new();
        let mut failed = false;
        for check in checks {
            let line = match self.run_check(set, check).await {
                Ok(()) => format!("[+]{} ok\n", check.name()),
                Err(error) => {
                    failed = true;
                    tracing::warn!(path = set, check = check.name(), error = %error, "Health check error");
                    format!("[-]{} failed: {error}\n", check.name())
                }
            };
            lines.push_str(&line);
        }
        let verbose = query.first("verbose").is_some();
        match (failed, verbose) {
            (true, _) => text(StatusCode::SERVICE_UNAVAILABLE, lines + "\n"),
            (false, true) => text(StatusCode::OK, lines + "ok\n"),
            (false, false) => text(StatusCode::OK, Bytes::from_static(b"ok\n")),
        }
    }

    /// Runs one check and counts its result.
    async fn run_check(&self, set: &str, check: Check) -> Result<(), String> {
        let result = match check {
            Check::DataCorruption => self.no_corruption(),
            Check::SerializableRead => self.read(false).await.map_err(|error| error.to_string()),
            Check::LinearizableRead => self.read(true).await.map_err(|error| error.to_string()),
            Check::NonLearner if self.member.is_learner() => Err("not supported for learner".into()),
            Check::NonLearner => Ok(()),
        };
        let status = if result.is_ok() { "success" } else { "error" };
        let labels = [set, check.name()];
        self.metrics
            .server_healthcheck
            .with(&labels)
            .set(result.is_ok().into());
        self.metrics
            .server_healthchecks_total
            .with(&[set, check.name(), status])
            .inc();
        result
    }

    fn no_corruption(&self) -> Result<(), String> {
        let corrupt = i32::from(AlarmType::Corrupt);
        match self.member.alarms().iter().any(|alarm| alarm.alarm == corrupt) {
            true => Err("alarm activated: CORRUPT".into()),
            false => Ok(()),
        }
    }
}
