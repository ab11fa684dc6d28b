//! Where our answers are known to differ from those of etcd 3.5.30, each with its reason: mostly because we are
//! 3.7.1, here and there on purpose (docs/compat.md has these), or because something is not there yet.
//!
//! A step of a script that meets one carries its name as a tag: `range a keys_only=true [keys-only-lease]`. There
//! our answer must be what [`Difference::expected`] makes of the real one, and the real one must still differ from
//! it. Everywhere else the answers are equal.

/// One known difference.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// The tag in the scripts.
    pub name: &'static str,
    /// Where it comes from.
    pub origin: Origin,
    /// Why the answers differ.
    pub reason: &'static str,
    /// Our answer.
    pub expected: Expected,
}

/// Where a difference comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// That version of etcd and all later ones answer in the new way.
    Etcd(&'static str),
    /// We differ from every etcd on purpose.
    OnPurpose,
    /// We do not do it yet.
    NotYet,
}

/// How our answer follows from the real one.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// The real answer's text with a change; the call comes first.
    Rewritten(fn(&str, &str) -> String),
    /// What the step above was answered.
    LikeTheStepAbove,
}

impl Difference {
    /// What we answer to `call` where 3.5.30 answers `answer`, after we answered `above` to the step before.
    pub fn expected(&self, call: &str, answer: &str, above: Option<&str>) -> String {
        match self.expected {
            Expected::Rewritten(rewrite) => rewrite(call, answer),
            Expected::LikeTheStepAbove => {
                let name = answer.split(':').next().unwrap_or_default();
                let rest = above
                    .and_then(|above| above.split_once(':'))
                    .map_or("", |(_, rest)| rest);
                format!("{name}:{rest}")
            }
        }
    }
}

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "keys-only-lease",
        origin: Origin::Etcd("3.7"),
        reason: "a range of keys only is answered from the key index, which does not know the lease",
        expected: Expected::Rewritten(|_, answer| without_field(answer, "lease")),
    },
    Difference {
        name: "sort-option",
        origin: Origin::Etcd("3.6"),
        reason: "a sort order the API does not know is refused instead of taken for some order",
        expected: Expected::Rewritten(|_, _| {
            "range: InvalidArgument \"etcdserver: invalid sort option\"".into()
        }),
    },
    Difference {
        name: "range-stream",
        origin: Origin::Etcd("3.7"),
        reason: "the call is new; put together, its chunks are the answer of a range",
        expected: Expected::LikeTheStepAbove,
    },
    Difference {
        name: "hash-revision",
        origin: Origin::Etcd("3.6"),
        reason: "HashKV says which revision it has hashed",
        expected: Expected::Rewritten(|call, answer| {
            let current = || answer.split_once("revision=").map_or("", |(_, rest)| word(rest));
            let revision = call
                .split(' ')
                .nth(1)
                .map_or_else(current, |revision| revision.trim_matches('"'));
            format!("{answer} hash_revision={revision}")
        }),
    },
    Difference {
        name: "status-fields",
        origin: Origin::Etcd("3.6"),
        reason: "Status also tells the storage version, the quota and whether a downgrade is on its way",
        expected: Expected::Rewritten(|_, answer| {
            let answer = answer.replace("version=\"3.5.30\"", "version=\"3.7.1\"");
            let (first, rest) = answer.split_at(answer.find('\n').unwrap_or(answer.len()));
            format!("{first} storageVersion=\"3.7.0\" dbSizeQuota=2147483648 downgradeInfo(false \"\"){rest}")
        }),
    },
    Difference {
        name: "snapshot-version",
        origin: Origin::Etcd("3.6"),
        reason: "a snapshot tells its storage version",
        expected: Expected::Rewritten(|_, answer| format!("{answer} version=\"3.7.0\"")),
    },
    Difference {
        name: "version",
        origin: Origin::Etcd("3.6"),
        reason: "the versions themselves; /version also tells the storage version",
        expected: Expected::Rewritten(|_, answer| {
            answer.replace(
                r#"\"etcdserver\":\"3.5.30\",\"etcdcluster\":\"3.5.0\""#,
                r#"\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\""#,
            )
        }),
    },
    Difference {
        name: "server-version",
        origin: Origin::Etcd("3.6"),
        reason: "the version itself, as etcdctl prints it",
        expected: Expected::Rewritten(|_, answer| answer.replace("3.5.30", "3.7.1")),
    },
    Difference {
        name: "nested-cost",
        origin: Origin::Etcd("3.7.1"),
        reason: "the puts of a transaction inside a transaction count towards the quota",
        expected: Expected::Rewritten(|_, _| {
            "txn: ResourceExhausted \"etcdserver: mvcc: database space exceeded\"".into()
        }),
    },
    Difference {
        name: "learner-refusal",
        origin: Origin::Etcd("3.6"),
        reason: "what a learner does not do is refused for good, not for now",
        expected: Expected::Rewritten(|_, answer| answer.replace("Unavailable", "FailedPrecondition")),
    },
    Difference {
        name: "downgrade-version",
        origin: Origin::Etcd("3.6"),
        reason: "the version itself, told without a patch number",
        expected: Expected::Rewritten(|_, answer| answer.replace("3.5.0", "3.7")),
    },
    Difference {
        name: "lowered",
        origin: Origin::Etcd("3.6"),
        reason: "the cluster version falls when a downgrade begins, not when an older member has come",
        expected: Expected::Rewritten(|_, answer| {
            answer.replace(
                r#"\"etcdserver\":\"3.5.30\",\"etcdcluster\":\"3.5.0\""#,
                r#"\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.6.0\",\"storage\":\"3.6.0\""#,
            )
        }),
    },
    Difference {
        name: "downgrade-answered",
        origin: Origin::Etcd("3.6"),
        reason: "who begins a downgrade, or calls it off, is answered when it is done",
        expected: Expected::Rewritten(|call, _| {
            let (revision, version) = match call.contains("ENABLE") {
                true => (1, "3.7"),
                false => (2, "3.6"),
            };
            format!("downgrade: revision={revision} version=\"{version}\"")
        }),
    },
    Difference {
        name: "downgrade-cancelled-twice",
        origin: Origin::Etcd("3.6"),
        reason: "calling off a downgrade that is not there is no error",
        expected: Expected::Rewritten(|_, _| "downgrade: revision=1 version=\"3.7\"".into()),
    },
    Difference {
        name: "root-permission",
        origin: Origin::Etcd("3.6"),
        reason: "what the role root permits is told, though it is not stored",
        expected: Expected::Rewritten(|_, answer| format!("{answer}\n  READWRITE \"\" range_end=\"\\0\"")),
    },
    Difference {
        name: "status-for-all",
        origin: Origin::Etcd("3.7"),
        reason: "whether authentication is on is told to everybody",
        expected: Expected::Rewritten(|call, _| match call.contains("etcdctl") {
            true => "etcdctl: 0\n  | Authentication Status: true\n  | AuthRevision: 12".into(),
            false => "auth_status: revision=7 enabled=true authRevision=12".into(),
        }),
    },
    Difference {
        name: "refusal-of-upkeep",
        origin: Origin::Etcd("3.7"),
        reason: "who may not call Defragment, HashKV or Snapshot is told so with the code and text of all other calls",
        expected: Expected::Rewritten(|_, answer| {
            answer
                .replace(
                    "rpc error: code = Unknown desc = auth: permission",
                    "etcdserver: permission",
                )
                .replace("Unknown \"auth: user", "InvalidArgument \"etcdserver: user")
                .replace("Unknown \"auth: invalid", "Unauthenticated \"etcdserver: invalid")
                .replace(
                    "Unknown \"auth: permission",
                    "PermissionDenied \"etcdserver: permission",
                )
        }),
    },
    Difference {
        name: "status-for-users",
        origin: Origin::Etcd("3.7"),
        reason: "Status is for every user, not for root alone",
        expected: Expected::Rewritten(|_, _| {
            let fields = "dbSize=+ dbSizeInUse=+ leader=M1 raftTerm=+ raftIndex=+ raftAppliedIndex=+";
            let newer = "storageVersion=\"3.7.0\" dbSizeQuota=2147483648 downgradeInfo(false \"\")";
            format!("status: revision=7 version=\"3.7.1\" {fields} {newer}")
        }),
    },
    Difference {
        name: "watch-without-end",
        origin: Origin::Etcd("3.7.1"),
        reason: "a watch without end is checked for all it will see, not for its first key (CVE-2026-73499)",
        expected: Expected::Rewritten(|_, _| {
            let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
            format!("watch: watch_id=-1 revision=17 created canceled cancel_reason={reason:?}")
        }),
    },
    Difference {
        name: "json-status",
        origin: Origin::Etcd("3.6"),
        reason: "as `status-fields`, in JSON",
        expected: Expected::Rewritten(|_, answer| {
            let newer = r#","storageVersion":"3.7.0","dbSizeQuota":"2147483648","downgradeInfo":{}}"#;
            let answer = answer.replace("3.5.30", "3.7.1");
            format!("{}{newer}", answer.trim_end_matches('}'))
        }),
    },
    Difference {
        name: "json-status-for-all",
        origin: Origin::Etcd("3.7"),
        reason: "as `status-for-all`, in JSON",
        expected: Expected::Rewritten(|_, _| json_ok()),
    },
    Difference {
        name: "json-downgrade",
        origin: Origin::Etcd("3.6"),
        reason: "as `downgrade-cancelled-twice`, in JSON",
        expected: Expected::Rewritten(|_, _| json_ok()),
    },
    Difference {
        name: "json-upkeep",
        origin: Origin::Etcd("3.7"),
        reason: "as `refusal-of-upkeep`, in JSON",
        expected: Expected::Rewritten(|_, answer| {
            let (status, code) = match answer.contains("denied") {
                true => ("403 Forbidden", "7"),
                false => ("400 Bad Request", "3"),
            };
            answer
                .replace("500 Internal Server Error", status)
                .replace("\"code\":2", &format!("\"code\":{code}"))
                .replace("auth: ", "etcdserver: ")
        }),
    },
    Difference {
        name: "json-bearer",
        origin: Origin::Etcd("3.7.1"),
        reason: "a token may have `Bearer` before it, as it always has from a websocket",
        expected: Expected::Rewritten(|call, _| {
            let header = r#"{"cluster_id":"CLUSTER","member_id":"M1","revision":"4","raft_term":"+"}"#;
            match call.starts_with("hear") {
                true => format!("hear:\n  {{\"result\":{{\"header\":{header},\"created\":true}}}}"),
                false => json_ok(),
            }
        }),
    },
    Difference {
        name: "foreign-origin",
        origin: Origin::OnPurpose,
        reason: "what a page of another origin has sent is refused, not only hidden from it (CVE-2018-1098)",
        expected: Expected::Rewritten(|_, _| {
            let head = "json: 403 Forbidden [content-type: text/plain; charset=utf-8] [x-content-type-options: nosniff]";
            let body =
                "a web page of another origin has sent this request, and --cors does not allow that origin";
            format!("{head}\n  {body}\\n")
        }),
    },
];

/// An answer in JSON whose body is not looked at.
fn json_ok() -> String {
    "json: 200 OK [content-type: application/json] [grpc-metadata-content-type: application/grpc]".into()
}

/// The text up to the first blank or line break.
fn word(text: &str) -> &str {
    text.split([' ', '\n']).next().unwrap_or_default()
}

/// The answer with every ` name=…` taken out.
fn without_field(answer: &str, name: &str) -> String {
    let start = format!(" {name}=");
    let mut parts = answer.split(start.as_str());
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        rest.push_str(&part[part.find([' ', '\n']).unwrap_or(part.len())..]);
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::script;

    #[test]
    fn a_field_is_taken_out_everywhere() {
        assert_eq!(
            without_field("range: count=2\n  \"a\" lease=7 x=1\n  \"b\" lease=8", "lease"),
            "range: count=2\n  \"a\" x=1\n  \"b\""
        );
    }

    #[test]
    fn every_difference_has_a_step_that_shows_it_and_every_tag_an_entry() {
        let listed: BTreeSet<_> = DIFFERENCES
            .iter()
            .map(|difference| difference.name.to_owned())
            .collect();
        let steps = script::all()
            .into_iter()
            .flat_map(|script| script.steps().unwrap());
        let used: BTreeSet<_> = steps.flat_map(|(_, tags)| tags).collect();
        assert_eq!(listed, used);
    }
}
