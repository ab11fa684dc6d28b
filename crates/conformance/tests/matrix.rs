//! Every call of every service, and every HTTP path, by every kind of caller: who is let in.
//!
//! The tables are the specification. A call of the descriptors that has no row fails
//! `every_call_has_a_row`. The real etcd says the same but for the rows that tell why it does not; there it must say
//! exactly what is written.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::ExitCode;

use conformance::harness::{self, Work};
use conformance::identities::{CALLERS, Gate, Outcome};
use conformance::tools::Tools;
use prost::Message;
use proto::authpb::Permission;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use proto::keelson::v1::ProgressRequest;
use proto::keelson::v1::progress_request::Job;
use proto::v3electionpb::*;
use proto::v3lockpb::*;
use tonic::Code;

fn main() -> ExitCode {
    let trial = |name: &str, work: fn(&Tools) -> Result<(), String>| -> (String, Work) {
        (name.to_owned(), Box::new(move |tools| Ok(work(tools)?)))
    };
    harness::run(vec![
        trial("every_call_has_a_row", |_| every_call_has_a_row()),
        trial("every_call_lets_in_whom_it_should", |tools| {
            on_both(tools, &["--client-cert-auth"], who_is_let_in)
        }),
        trial(
            "json_lets_in_the_same_callers_and_nobody_by_certificate",
            |tools| on_both(tools, &["--client-cert-auth"], who_is_let_in_with_json),
        ),
        trial("a_certificates_name_is_a_user_only_where_it_may_be", |tools| {
            on_both(tools, &["--client-cert-auth"], names_of_certificates)
        }),
        trial("a_certificate_that_nobody_asked_for_names_no_user", |tools| {
            on_both(tools, &[], names_that_do_not_count)
        }),
    ])
}

// By nobody, a bad token, an expired one, a user without roles, one with keys, root, a certificate's name; the letters
// are those of `Outcome::letter`.
const ANYONE: &str = ". . . . . . .";
const NO_BAD_TOKEN: &str = ". t t . . . .";
const USERS: &str = "e t t . . . .";
const KEYED: &str = "e t t d . . .";
const ROOT: &str = "e t t d d . d";
const UPKEEP: &str = "E T T D D . D";
const NOT_SERVED: &str = "u u u u u u u";

/// One call, and who is let in.
struct Row {
    call: &'static str,
    case: &'static str,
    request: Vec<u8>,
    expected: &'static str,
    /// What the real etcd says otherwise, and why.
    reference: Option<(&'static str, &'static str)>,
}

impl Row {
    /// The version we compare with says this instead.
    fn but(mut self, letters: &'static str, why: &'static str) -> Self {
        self.reference = Some((letters, why));
        self
    }

    fn expected_of(&self, whose: Whose) -> &'static str {
        match (whose, self.reference) {
            (Whose::Reference, Some((letters, _))) => letters,
            _ => self.expected,
        }
    }
}

fn row(call: &'static str, case: &'static str, request: impl Message, expected: &'static str) -> Row {
    Row {
        call,
        case,
        request: request.encode_to_vec(),
        expected,
        reference: None,
    }
}

const RANGE: &str = "etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "etcdserverpb.KV/RangeStream";
const PUT: &str = "etcdserverpb.KV/Put";
const DELETE_RANGE: &str = "etcdserverpb.KV/DeleteRange";
const TXN: &str = "etcdserverpb.KV/Txn";
const WATCH: &str = "etcdserverpb.Watch/Watch";
const LEASE_REVOKE: &str = "etcdserverpb.Lease/LeaseRevoke";
const LEASE_TIME_TO_LIVE: &str = "etcdserverpb.Lease/LeaseTimeToLive";
const ALARM: &str = "etcdserverpb.Maintenance/Alarm";
const PROGRESS: &str = "keelson.v1.Progress/Watch";
const AUTH_DISABLE: &str = "etcdserverpb.Auth/AuthDisable";

/// The specification.
fn table() -> Vec<Row> {
    [
        keys(),
        transactions(),
        watches(),
        leases(),
        upkeep(),
        recipes(),
        users(),
        health(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn keys() -> Vec<Row> {
    let new_in_3_7 = |row: Row| row.but(NOT_SERVED, "3.7: the call is new");
    vec![
        row(RANGE, "a key", range("k", ""), KEYED),
        row(RANGE, "a key to read only", range("r", ""), KEYED),
        row(RANGE, "a key to write only", range("w", ""), ROOT),
        row(RANGE, "a foreign key", range("f", ""), ROOT),
        row(RANGE, "a range", range("p", "pz"), KEYED),
        row(
            RANGE,
            "a range that is not covered to its end",
            range("p", "r"),
            ROOT,
        ),
        row(RANGE, "everything from a key on", range("y", "\0"), KEYED),
        row(
            RANGE,
            "everything from a key on that is too low",
            range("k", "\0"),
            ROOT,
        ),
        row(RANGE, "everything", range("\0", "\0"), ROOT),
        row(
            RANGE,
            "a foreign key, not linearizable",
            serializable(range("f", "")),
            ROOT,
        ),
        new_in_3_7(row(RANGE_STREAM, "a key", range("k", ""), KEYED)),
        new_in_3_7(row(RANGE_STREAM, "a foreign key", range("f", ""), ROOT)),
        new_in_3_7(row(RANGE_STREAM, "everything", range("\0", "\0"), ROOT)),
        row(PUT, "a key", put("k"), KEYED),
        row(PUT, "a key to write only", put("w"), KEYED),
        row(PUT, "a key to read only", put("r"), ROOT),
        row(PUT, "a foreign key", put("f"), ROOT),
        row(PUT, "a key with the old value", with_old(put("k")), KEYED),
        row(
            PUT,
            "a key to write only, with the old value",
            with_old(put("w")),
            ROOT,
        ),
        row(
            PUT,
            "a key, on a lease with own keys",
            on_lease(put("k"), 8),
            KEYED,
        ),
        row(
            PUT,
            "a key, on a lease with a foreign key",
            on_lease(put("k"), 7),
            ROOT,
        ),
        row(DELETE_RANGE, "a key", delete("k", ""), KEYED),
        row(DELETE_RANGE, "a key to write only", delete("w", ""), KEYED),
        row(
            DELETE_RANGE,
            "a key to write only, with the old value",
            with_old_values(delete("w", "")),
            ROOT,
        ),
        row(DELETE_RANGE, "a foreign key", delete("f", ""), ROOT),
        row(
            DELETE_RANGE,
            "a range that is not covered to its end",
            delete("p", "r"),
            ROOT,
        ),
        row(DELETE_RANGE, "everything from a key on", delete("y", "\0"), KEYED),
        row(DELETE_RANGE, "everything", delete("\0", "\0"), ROOT),
        row(
            "etcdserverpb.KV/Compact",
            "",
            CompactionRequest {
                revision: 1,
                physical: false,
            },
            ROOT,
        ),
    ]
}

fn transactions() -> Vec<Row> {
    let deep = |op: Op, branch: usize| txn([], nested(op, branch, 3));
    vec![
        row(TXN, "nothing", txn([], []), NO_BAD_TOKEN),
        row(TXN, "a range", txn([], [Op::RequestRange(range("k", ""))]), KEYED),
        row(
            TXN,
            "a foreign range",
            txn([], [Op::RequestRange(range("f", ""))]),
            ROOT,
        ),
        row(TXN, "a compare", txn(["k"], []), KEYED),
        row(TXN, "a compare of a foreign key", txn(["f"], []), ROOT),
        row(
            TXN,
            "a put with the old value",
            txn([], [Op::RequestPut(with_old(put("k")))]),
            KEYED,
        ),
        row(
            TXN,
            "a put of a key to write only, with the old value",
            txn([], [Op::RequestPut(with_old(put("w")))]),
            ROOT,
        ),
        row(
            TXN,
            "a put on a lease with own keys",
            txn([], [Op::RequestPut(on_lease(put("k"), 8))]),
            KEYED,
        ),
        row(
            TXN,
            "a put on a lease with a foreign key",
            txn([], [Op::RequestPut(on_lease(put("k"), 7))]),
            ROOT,
        ),
        row(
            TXN,
            "a deletion of a key to write only, with the old value",
            txn([], [Op::RequestDeleteRange(with_old_values(delete("w", "")))]),
            ROOT,
        ),
        row(
            TXN,
            "a range three deep",
            deep(Op::RequestRange(range("k", "")), 0),
            KEYED,
        ),
        row(
            TXN,
            "a foreign range three deep where it succeeds",
            deep(Op::RequestRange(range("f", "")), 0),
            ROOT,
        ),
        row(
            TXN,
            "a foreign range three deep where it fails",
            deep(Op::RequestRange(range("f", "")), 1),
            ROOT,
        ),
        row(TXN, "a put three deep", deep(Op::RequestPut(put("k")), 0), KEYED),
        row(
            TXN,
            "a foreign put three deep where it succeeds",
            deep(Op::RequestPut(put("f")), 0),
            ROOT,
        ),
        row(
            TXN,
            "a foreign put three deep where it fails",
            deep(Op::RequestPut(put("f")), 1),
            ROOT,
        ),
        row(
            TXN,
            "a put three deep, on a lease with a foreign key",
            deep(Op::RequestPut(on_lease(put("k"), 7)), 1),
            ROOT,
        ),
        row(
            TXN,
            "a put three deep of a key to write only, with the old value",
            deep(Op::RequestPut(with_old(put("w"))), 1),
            ROOT,
        ),
        row(
            TXN,
            "a deletion three deep",
            deep(Op::RequestDeleteRange(delete("k", "")), 1),
            KEYED,
        ),
        row(
            TXN,
            "a foreign deletion three deep where it succeeds",
            deep(Op::RequestDeleteRange(delete("f", "")), 0),
            ROOT,
        ),
        row(
            TXN,
            "a foreign deletion three deep where it fails",
            deep(Op::RequestDeleteRange(delete("f", "")), 1),
            ROOT,
        ),
    ]
}

/// A watch is refused by a message, which has no code.
fn watches() -> Vec<Row> {
    const KEYED: &str = "E T T D . . .";
    const ROOT: &str = "E T T D D . D";
    let row = |case, key, range_end, expected| row(WATCH, case, watch(key, range_end), expected);
    vec![
        row("a key", "k", "", KEYED),
        row("a key to write only", "w", "", ROOT),
        row("a foreign key", "f", "", ROOT),
        row("a range", "p", "q", KEYED),
        row("a range that is not covered to its end", "p", "r", ROOT),
        row("everything from a key on", "y", "\0", KEYED),
        row(
            "everything from a key on that may be watched alone",
            "k",
            "\0",
            ROOT,
        )
        .but(
            KEYED,
            "CVE-2026-73499: the permission was asked for the key alone",
        ),
        row("everything", "\0", "\0", ROOT),
    ]
}

fn leases() -> Vec<Row> {
    let time_to_live = |id, keys| LeaseTimeToLiveRequest { id, keys };
    vec![
        row(
            "etcdserverpb.Lease/LeaseGrant",
            "",
            LeaseGrantRequest { ttl: 1000, id: 0 },
            USERS,
        ),
        row(LEASE_REVOKE, "of own keys", LeaseRevokeRequest { id: 8 }, KEYED),
        row(
            LEASE_REVOKE,
            "of a foreign key",
            LeaseRevokeRequest { id: 7 },
            ROOT,
        ),
        row(
            "etcdserverpb.Lease/LeaseKeepAlive",
            "of own keys",
            LeaseKeepAliveRequest { id: 8 },
            KEYED,
        ),
        row(
            "etcdserverpb.Lease/LeaseKeepAlive",
            "of a foreign key",
            LeaseKeepAliveRequest { id: 7 },
            ROOT,
        ),
        row(
            LEASE_TIME_TO_LIVE,
            "of a foreign key, without naming it",
            time_to_live(7, false),
            USERS,
        ),
        row(
            LEASE_TIME_TO_LIVE,
            "of own keys, with their names",
            time_to_live(8, true),
            KEYED,
        ),
        row(
            LEASE_TIME_TO_LIVE,
            "of a foreign key, with its name",
            time_to_live(7, true),
            ROOT,
        ),
        row(
            "etcdserverpb.Lease/LeaseLeases",
            "some hold foreign keys",
            LeaseLeasesRequest {},
            ROOT,
        ),
    ]
}

/// Members and maintenance.
fn upkeep() -> Vec<Row> {
    // Nothing is at work, so there is nothing to tell those who are let in.
    let progress = |job: Job| {
        let request = ProgressRequest { job: job.into() };
        row(PROGRESS, job.as_str_name(), request, "e t t d d c d").but(NOT_SERVED, "ours")
    };
    let alarm = |action: AlarmAction| AlarmRequest {
        action: action.into(),
        member_id: 0,
        alarm: AlarmType::Nospace.into(),
    };
    let downgrade = DowngradeRequest {
        version: "3.4.0".into(),
        ..Default::default()
    };
    let add = MemberAddRequest {
        peer_ur_ls: vec!["http://127.0.0.1:1".into()],
        is_learner: true,
    };
    let update = MemberUpdateRequest {
        id: 1,
        peer_ur_ls: vec!["http://127.0.0.1:2".into()],
    };
    let list = |linearizable| MemberListRequest { linearizable };
    vec![
        row("etcdserverpb.Cluster/MemberAdd", "", add, ROOT),
        row(
            "etcdserverpb.Cluster/MemberRemove",
            "",
            MemberRemoveRequest { id: 1 },
            ROOT,
        ),
        row("etcdserverpb.Cluster/MemberUpdate", "", update, ROOT),
        row(
            "etcdserverpb.Cluster/MemberPromote",
            "",
            MemberPromoteRequest { id: 1 },
            ROOT,
        ),
        row("etcdserverpb.Cluster/MemberList", "", list(false), USERS),
        row(
            "etcdserverpb.Cluster/MemberList",
            "linearizable",
            list(true),
            USERS,
        ),
        row(ALARM, "which there are", alarm(AlarmAction::Get), USERS),
        row(ALARM, "raised", alarm(AlarmAction::Activate), ROOT),
        row(ALARM, "taken back", alarm(AlarmAction::Deactivate), ROOT),
        row("etcdserverpb.Maintenance/Status", "", StatusRequest {}, USERS)
            .but(ROOT, "3.7: any user may ask"),
        row(
            "etcdserverpb.Maintenance/Defragment",
            "",
            DefragmentRequest {},
            ROOT,
        )
        .but(UPKEEP, "3.7: told by the code and text of all other calls"),
        row("etcdserverpb.Maintenance/Hash", "", HashRequest {}, ROOT)
            .but(UPKEEP, "3.7: told by the code and text of all other calls"),
        row(
            "etcdserverpb.Maintenance/HashKV",
            "",
            HashKvRequest { revision: 0 },
            ROOT,
        )
        .but(UPKEEP, "3.7: told by the code and text of all other calls"),
        row("etcdserverpb.Maintenance/Snapshot", "", SnapshotRequest {}, ROOT)
            .but(UPKEEP, "3.7: told by the code and text of all other calls"),
        row(
            "etcdserverpb.Maintenance/MoveLeader",
            "",
            MoveLeaderRequest { target_id: 1 },
            ROOT,
        ),
        row("etcdserverpb.Maintenance/Downgrade", "", downgrade, ROOT),
        progress(Job::Defragmentation),
        progress(Job::Compaction),
    ]
}

fn users() -> Vec<Row> {
    let text = String::from;
    let authenticate = AuthenticateRequest {
        name: text("norole"),
        password: text("pw"),
    };
    let add = AuthUserAddRequest {
        name: text("new"),
        password: text("pw"),
        ..Default::default()
    };
    let change_password = AuthUserChangePasswordRequest {
        name: text("ghost"),
        password: text("pw"),
        ..Default::default()
    };
    let grant_role = AuthUserGrantRoleRequest {
        user: text("ghost"),
        role: text("keys"),
    };
    let revoke_role = AuthUserRevokeRoleRequest {
        name: text("ghost"),
        role: text("keys"),
    };
    let grant_permission = AuthRoleGrantPermissionRequest {
        name: text("none"),
        perm: Some(Permission {
            key: "k".into(),
            ..Default::default()
        }),
    };
    let revoke_permission = AuthRoleRevokePermissionRequest {
        role: text("none"),
        key: "k".into(),
        ..Default::default()
    };
    let get = |user: &str| AuthUserGetRequest {
        name: user.to_owned(),
    };
    let role_get = |role: &str| AuthRoleGetRequest { role: role.into() };
    vec![
        row("etcdserverpb.Auth/AuthEnable", "", AuthEnableRequest {}, ROOT),
        row(
            "etcdserverpb.Auth/AuthStatus",
            "",
            AuthStatusRequest {},
            NO_BAD_TOKEN,
        )
        .but(ROOT, "3.7: anyone may ask"),
        row("etcdserverpb.Auth/Authenticate", "", authenticate, ANYONE),
        row("etcdserverpb.Auth/UserAdd", "", add, ROOT),
        row(
            "etcdserverpb.Auth/UserGet",
            "of oneself",
            get("keyed"),
            "e t t d . . d",
        ),
        row("etcdserverpb.Auth/UserGet", "of another", get("root"), ROOT),
        row("etcdserverpb.Auth/UserList", "", AuthUserListRequest {}, ROOT),
        row(
            "etcdserverpb.Auth/UserDelete",
            "",
            AuthUserDeleteRequest { name: text("ghost") },
            ROOT,
        ),
        row("etcdserverpb.Auth/UserChangePassword", "", change_password, ROOT),
        row("etcdserverpb.Auth/UserGrantRole", "", grant_role, ROOT),
        row("etcdserverpb.Auth/UserRevokeRole", "", revoke_role, ROOT),
        row(
            "etcdserverpb.Auth/RoleAdd",
            "",
            AuthRoleAddRequest { name: text("new") },
            ROOT,
        ),
        row("etcdserverpb.Auth/RoleGet", "one's own", role_get("keys"), KEYED),
        row("etcdserverpb.Auth/RoleGet", "another", role_get("root"), ROOT),
        row("etcdserverpb.Auth/RoleList", "", AuthRoleListRequest {}, ROOT),
        row(
            "etcdserverpb.Auth/RoleDelete",
            "",
            AuthRoleDeleteRequest { role: text("none") },
            ROOT,
        ),
        row(
            "etcdserverpb.Auth/RoleGrantPermission",
            "",
            grant_permission,
            ROOT,
        ),
        row(
            "etcdserverpb.Auth/RoleRevokePermission",
            "",
            revoke_permission,
            ROOT,
        ),
        row(AUTH_DISABLE, "", AuthDisableRequest {}, ROOT),
    ]
}

/// Locks and elections work with the rights of their caller; what refuses them is told as they were told. Leases 7 and 8
/// are the candidates, so that nobody waits for another.
fn recipes() -> Vec<Row> {
    const KEYED: &str = "E T T D . . .";
    const ROOT: &str = "E T T D D . D";
    let lock = |name: &'static str, lease| LockRequest {
        name: name.into(),
        lease,
    };
    let unlock = |key: &'static str| UnlockRequest { key: key.into() };
    let leader = |name: &'static str, key: &'static str, lease| {
        Some(LeaderKey {
            name: name.into(),
            key: key.into(),
            rev: 1,
            lease,
        })
    };
    let campaign = |name: &'static str, lease| CampaignRequest {
        name: name.into(),
        lease,
        value: "v".into(),
    };
    let proclaim = |leader| ProclaimRequest {
        leader,
        value: "v".into(),
    };
    let whose = |name: &'static str| LeaderRequest { name: name.into() };
    let resign = |leader| ResignRequest { leader };
    let (own, foreign) = (leader("z", "z/8", 8), leader("f", "f/7", 7));
    vec![
        row("v3lockpb.Lock/Lock", "own", lock("y", 8), KEYED),
        row("v3lockpb.Lock/Lock", "foreign", lock("f", 7), ROOT),
        row("v3lockpb.Lock/Unlock", "own", unlock("y/8"), KEYED),
        row("v3lockpb.Lock/Unlock", "foreign", unlock("f/7"), ROOT),
        row("v3electionpb.Election/Campaign", "own", campaign("z", 8), KEYED),
        row(
            "v3electionpb.Election/Campaign",
            "foreign",
            campaign("f", 7),
            ROOT,
        ),
        row("v3electionpb.Election/Leader", "own", whose("z"), KEYED),
        row("v3electionpb.Election/Leader", "foreign", whose("f"), ROOT),
        row(
            "v3electionpb.Election/Observe",
            "own",
            whose("z"),
            "c c c c . . .",
        ),
        row(
            "v3electionpb.Election/Observe",
            "foreign",
            whose("f"),
            "c c c c c . c",
        ),
        row(
            "v3electionpb.Election/Proclaim",
            "own",
            proclaim(own.clone()),
            KEYED,
        ),
        row(
            "v3electionpb.Election/Proclaim",
            "foreign",
            proclaim(foreign.clone()),
            ROOT,
        ),
        row("v3electionpb.Election/Resign", "own", resign(own), KEYED),
        row("v3electionpb.Election/Resign", "foreign", resign(foreign), ROOT),
    ]
}

/// Anyone may ask about health.
fn health() -> Vec<Row> {
    vec![
        row("grpc.health.v1.Health/Check", "", (), ANYONE),
        row("grpc.health.v1.Health/List", "", (), ANYONE),
        row("grpc.health.v1.Health/Watch", "", (), ANYONE),
    ]
}

/// What everybody may ask over HTTP, whatever they show, and what is not there for anybody.
const HTTP: [(&str, &str, &str); 22] = [
    ("GET", "/version", "200 OK"),
    ("GET", "/health", "200 OK"),
    ("GET", "/livez", "200 OK"),
    ("GET", "/livez/serializable_read", "200 OK"),
    ("GET", "/readyz", "200 OK"),
    ("GET", "/readyz/data_corruption", "200 OK"),
    ("GET", "/readyz/serializable_read", "200 OK"),
    ("GET", "/readyz/linearizable_read", "200 OK"),
    ("GET", "/metrics", "200 OK"),
    ("POST", "/raft", "404 Not Found"),
    ("POST", "/raft/snapshot", "404 Not Found"),
    ("GET", "/raft/probing", "404 Not Found"),
    ("GET", "/raft/stream/message/1", "404 Not Found"),
    ("GET", "/raft/stream/msgapp/1", "404 Not Found"),
    ("GET", "/members", "404 Not Found"),
    ("GET", "/members/hashkv", "404 Not Found"),
    ("POST", "/members/promote/1", "404 Not Found"),
    ("POST", "/leases", "404 Not Found"),
    ("POST", "/leases/internal", "404 Not Found"),
    ("GET", "/downgrade/enabled", "404 Not Found"),
    ("GET", "/keelson/oldest", "404 Not Found"),
    ("GET", "/keelson/statehash", "404 Not Found"),
];

/// The paths of the JSON gateway, below `/v3/`.
const ROUTES: [(&str, &str); 48] = [
    ("etcdserverpb.KV/Range", "kv/range"),
    ("etcdserverpb.KV/Put", "kv/put"),
    ("etcdserverpb.KV/DeleteRange", "kv/deleterange"),
    ("etcdserverpb.KV/Txn", "kv/txn"),
    ("etcdserverpb.KV/Compact", "kv/compaction"),
    ("etcdserverpb.Watch/Watch", "watch"),
    ("etcdserverpb.Lease/LeaseGrant", "lease/grant"),
    ("etcdserverpb.Lease/LeaseRevoke", "lease/revoke"),
    ("etcdserverpb.Lease/LeaseKeepAlive", "lease/keepalive"),
    ("etcdserverpb.Lease/LeaseTimeToLive", "lease/timetolive"),
    ("etcdserverpb.Lease/LeaseLeases", "lease/leases"),
    ("etcdserverpb.Cluster/MemberAdd", "cluster/member/add"),
    ("etcdserverpb.Cluster/MemberRemove", "cluster/member/remove"),
    ("etcdserverpb.Cluster/MemberUpdate", "cluster/member/update"),
    ("etcdserverpb.Cluster/MemberList", "cluster/member/list"),
    ("etcdserverpb.Cluster/MemberPromote", "cluster/member/promote"),
    ("etcdserverpb.Maintenance/Alarm", "maintenance/alarm"),
    ("etcdserverpb.Maintenance/Status", "maintenance/status"),
    ("etcdserverpb.Maintenance/Defragment", "maintenance/defragment"),
    ("etcdserverpb.Maintenance/Hash", "maintenance/hash"),
    ("etcdserverpb.Maintenance/HashKV", "maintenance/hashkv"),
    ("etcdserverpb.Maintenance/Snapshot", "maintenance/snapshot"),
    (
        "etcdserverpb.Maintenance/MoveLeader",
        "maintenance/transfer-leadership",
    ),
    ("etcdserverpb.Maintenance/Downgrade", "maintenance/downgrade"),
    ("etcdserverpb.Auth/AuthEnable", "auth/enable"),
    ("etcdserverpb.Auth/AuthDisable", "auth/disable"),
    ("etcdserverpb.Auth/AuthStatus", "auth/status"),
    ("etcdserverpb.Auth/Authenticate", "auth/authenticate"),
    ("etcdserverpb.Auth/UserAdd", "auth/user/add"),
    ("etcdserverpb.Auth/UserGet", "auth/user/get"),
    ("etcdserverpb.Auth/UserList", "auth/user/list"),
    ("etcdserverpb.Auth/UserDelete", "auth/user/delete"),
    ("etcdserverpb.Auth/UserChangePassword", "auth/user/changepw"),
    ("etcdserverpb.Auth/UserGrantRole", "auth/user/grant"),
    ("etcdserverpb.Auth/UserRevokeRole", "auth/user/revoke"),
    ("etcdserverpb.Auth/RoleAdd", "auth/role/add"),
    ("etcdserverpb.Auth/RoleGet", "auth/role/get"),
    ("etcdserverpb.Auth/RoleList", "auth/role/list"),
    ("etcdserverpb.Auth/RoleDelete", "auth/role/delete"),
    ("etcdserverpb.Auth/RoleGrantPermission", "auth/role/grant"),
    ("etcdserverpb.Auth/RoleRevokePermission", "auth/role/revoke"),
    ("v3lockpb.Lock/Lock", "lock/lock"),
    ("v3lockpb.Lock/Unlock", "lock/unlock"),
    ("v3electionpb.Election/Campaign", "election/campaign"),
    ("v3electionpb.Election/Proclaim", "election/proclaim"),
    ("v3electionpb.Election/Leader", "election/leader"),
    ("v3electionpb.Election/Observe", "election/observe"),
    ("v3electionpb.Election/Resign", "election/resign"),
];

/// Calls that the gateway does not make.
const WITHOUT_ROUTE: [&str; 5] = [
    RANGE_STREAM,
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
    PROGRESS,
];

fn every_call_has_a_row() -> Result<(), String> {
    let table = table();
    let rows: BTreeSet<_> = table.iter().map(|row| row.call).collect();
    let calls: BTreeSet<_> = proto::RPCS.iter().copied().collect();
    let routed: BTreeSet<_> = ROUTES
        .iter()
        .map(|(call, _)| *call)
        .chain(WITHOUT_ROUTE)
        .collect();
    let missing: Vec<_> = calls.difference(&rows).collect();
    let unknown: Vec<_> = rows.difference(&calls).collect();
    let unrouted: Vec<_> = calls.symmetric_difference(&routed).collect();
    match missing.is_empty() && unknown.is_empty() && unrouted.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "calls without a row: {missing:?}; rows without a call: {unknown:?}; calls without a route, or routes \
             without a call: {unrouted:?}"
        )),
    }
}

/// Whether it is our server that is asked.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    Ours,
    Reference,
}

/// Does the same with a server of either kind.
fn on_both<F>(tools: &Tools, flags: &[&str], work: fn(Gate, Whose) -> F) -> Result<(), String>
where
    F: Future<Output = Result<Vec<String>, String>>,
{
    let on = |program: &Path, whose| -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        harness::runtime()?.block_on(async {
            let gate = Gate::open(program, dir.path(), flags).await?;
            work(gate, whose).await
        })
    };
    let (ours, reference) = std::thread::scope(|scope| {
        let reference = scope.spawn(|| on(&tools.reference, Whose::Reference));
        let ours = on(&tools.ours, Whose::Ours);
        (ours, reference.join())
    });
    let reference = reference.map_err(|_| "the real etcd's trial panicked")?;
    let [ours, reference] = [("ours", ours), ("the real etcd", reference)].map(|(name, report)| {
        let report = report.unwrap_or_else(|error| vec![error]);
        report.into_iter().map(move |line| format!("{name}: {line}"))
    });
    let report: Vec<_> = ours.chain(reference).collect();
    match report.is_empty() {
        true => Ok(()),
        false => Err(report.join("\n")),
    }
}

/// Goes through the tables.
async fn who_is_let_in(mut gate: Gate, whose: Whose) -> Result<Vec<String>, String> {
    let mut report = Vec::new();
    for row in table() {
        let expected = row.expected_of(whose);
        report.extend(who_passes(&mut gate, &row, &Door::Grpc, expected).await?);
    }
    for (method, path, expected) in HTTP {
        for caller in CALLERS {
            let status = gate.http_as(caller, method, path).await?;
            if status != expected {
                report.push(format!("{method} {path} by {caller}: {status}, not {expected}"));
            }
        }
    }
    Ok(report)
}

/// Goes through the table of calls with JSON. A certificate is nobody's there (CVE-2018-16886).
async fn who_is_let_in_with_json(mut gate: Gate, whose: Whose) -> Result<Vec<String>, String> {
    let mut report = Vec::new();
    let routes: HashMap<_, _> = ROUTES.into_iter().collect();
    // The real etcd takes who says nothing of this for the server itself, by its certificate.
    let headers = match whose {
        Whose::Ours => "",
        Whose::Reference => "Accept: */*\r\n",
    };
    for row in table() {
        if let Some(route) = routes.get(row.call) {
            let expected = row.expected_of(whose);
            let expected = format!("{} n", &expected[..expected.len() - 2]);
            let door = Door::Json { route, headers };
            report.extend(who_passes(&mut gate, &row, &door, &expected).await?);
        }
    }
    Ok(report)
}

/// The way a call takes.
#[derive(Debug)]
enum Door {
    Grpc,
    Json {
        route: &'static str,
        headers: &'static str,
    },
}

/// Lets every caller try a row: what is wrong with the outcomes, if anything is.
async fn who_passes(
    gate: &mut Gate,
    row: &Row,
    door: &Door,
    expected: &str,
) -> Result<Option<String>, String> {
    gate.tidy_up().await?;
    let mut found = Vec::new();
    for caller in CALLERS {
        if row.call == LEASE_REVOKE {
            gate.tidy_up().await?;
        }
        let outcome = match door {
            Door::Grpc => gate.call_as(caller, row.call, row.request.clone()).await?,
            Door::Json { route, headers } => {
                gate.json_as(caller, (row.call, route), &row.request, headers)
                    .await?
            }
        };
        if outcome.is_let_in() {
            undo(gate, row.call).await?;
        }
        found.push(outcome);
    }
    let letters: Vec<_> = found.iter().map(|outcome| outcome.letter().to_string()).collect();
    let letters = letters.join(" ");
    let (call, case) = (row.call, row.case);
    Ok((letters != expected)
        .then(|| format!("{call} ({case}) by {door:?}: {letters}, not {expected}: {found:?}")))
}

/// Takes back what would get in the way of the next calls.
async fn undo(gate: &mut Gate, call: &str) -> Result<(), String> {
    match call {
        AUTH_DISABLE => gate.switch_on().await,
        ALARM => {
            let calm = AlarmRequest {
                action: AlarmAction::Deactivate.into(),
                member_id: 0,
                alarm: AlarmType::Nospace.into(),
            };
            gate.call_as("root", ALARM, calm.encode_to_vec()).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// CVE-2018-16886: the name in a gateway's certificate is nobody's.
async fn names_of_certificates(mut gate: Gate, _: Whose) -> Result<Vec<String>, String> {
    let norole = gate.sign_in("norole").await?;
    let norole = ("token", norole.as_str());
    let gateway = ("grpcgateway-accept", "application/json");
    let empty = (Code::InvalidArgument, "etcdserver: user name is empty");
    let denied = (Code::PermissionDenied, "etcdserver: permission denied");
    let unknown = (Code::FailedPrecondition, "etcdserver: user name not found");
    let mut report = Vec::new();
    for (certificate, shown, call, expected) in [
        ("named", &[][..], "k", None),
        ("named", &[], "f", Some(denied)),
        ("named", &[], "list", Some(denied)),
        ("root", &[], "f", None),
        ("root", &[], "list", None),
        // A token says more.
        ("root", &[norole], "f", Some(denied)),
        (
            "root",
            &[("token", "bad.1")],
            "f",
            Some((Code::Unauthenticated, "etcdserver: invalid auth token")),
        ),
        // A gateway's certificate says nothing.
        ("root", &[gateway], "f", Some(empty)),
        ("root", &[gateway], "list", Some(empty)),
        ("named", &[gateway], "k", Some(empty)),
        ("named", &[gateway, norole], "k", Some(denied)),
        // A name that is no user's, and no name.
        ("stranger", &[], "k", Some(denied)),
        ("stranger", &[], "list", Some(unknown)),
        ("nameless", &[], "k", Some(denied)),
        ("nameless", &[], "list", Some(empty)),
    ] {
        report.extend(names(&mut gate, certificate, shown, call, expected).await?);
    }
    Ok(report)
}

/// Without `--client-cert-auth` certificates are asked for where there is an authority, and name nobody.
async fn names_that_do_not_count(mut gate: Gate, _: Whose) -> Result<Vec<String>, String> {
    let empty = Some((Code::InvalidArgument, "etcdserver: user name is empty"));
    let mut report = Vec::new();
    for (certificate, call) in [("named", "k"), ("root", "f"), ("root", "list")] {
        report.extend(names(&mut gate, certificate, &[], call, empty).await?);
    }
    Ok(report)
}

/// A read of a key, or the list of users, with this certificate: what is wrong with the outcome, if anything is.
async fn names(
    gate: &mut Gate,
    certificate: &str,
    shown: &[(&'static str, &str)],
    call: &'static str,
    expected: Option<(Code, &str)>,
) -> Result<Option<String>, String> {
    let (path, request) = match call {
        "list" => (
            "etcdserverpb.Auth/UserList",
            AuthUserListRequest {}.encode_to_vec(),
        ),
        key => (RANGE, range(key, "").encode_to_vec()),
    };
    let outcome = gate.call(path, request, shown, Some(certificate)).await?;
    let wanted = match expected {
        None => Outcome::Answered,
        Some((code, text)) => Outcome::Refused(code, text.to_owned()),
    };
    Ok((outcome != wanted).then(|| format!("{certificate} {shown:?} {call}: {outcome:?}, not {wanted:?}")))
}

fn range(key: &'static str, range_end: &'static str) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..Default::default()
    }
}

fn serializable(request: RangeRequest) -> RangeRequest {
    RangeRequest {
        serializable: true,
        ..request
    }
}

fn put(key: &'static str) -> PutRequest {
    PutRequest {
        key: key.into(),
        ..Default::default()
    }
}

fn with_old(request: PutRequest) -> PutRequest {
    PutRequest {
        prev_kv: true,
        ..request
    }
}

fn on_lease(request: PutRequest, lease: i64) -> PutRequest {
    PutRequest { lease, ..request }
}

fn delete(key: &'static str, range_end: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..Default::default()
    }
}

fn with_old_values(request: DeleteRangeRequest) -> DeleteRangeRequest {
    DeleteRangeRequest {
        prev_kv: true,
        ..request
    }
}

fn watch(key: &'static str, range_end: &'static str) -> WatchRequest {
    WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..Default::default()
        })),
    }
}

fn txn<const C: usize, const S: usize>(compare: [&'static str; C], success: [Op; S]) -> TxnRequest {
    let compare = compare.map(|key| Compare {
        key: key.into(),
        ..Default::default()
    });
    TxnRequest {
        compare: compare.into(),
        success: success.map(|op| RequestOp { request: Some(op) }).into(),
        failure: vec![],
    }
}

/// An operation in that many transactions, one in the other, each time in the branch that succeeds (0) or fails (1).
fn nested(op: Op, branch: usize, depth: usize) -> [Op; 1] {
    let inner = match depth {
        1 => op,
        _ => {
            let [inner] = nested(op, branch, depth - 1);
            inner
        }
    };
    let ops = vec![RequestOp { request: Some(inner) }];
    let (success, failure) = if branch == 0 { (ops, vec![]) } else { (vec![], ops) };
    [Op::RequestTxn(TxnRequest {
        compare: vec![],
        success,
        failure,
    })]
}
