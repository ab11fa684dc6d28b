//! Which path is which call.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};

/// A method, and the paths that lead to it.
type Routes = (&'static str, &'static [&'static str]);

/// Every route, by service.
const ROUTES: &[(&str, &[Routes])] = &[
    (
        "etcdserverpb.KV",
        &[
            ("Range", &["/v3/kv/range"]),
            ("Put", &["/v3/kv/put"]),
            ("DeleteRange", &["/v3/kv/deleterange"]),
            ("Txn", &["/v3/kv/txn"]),
            ("Compact", &["/v3/kv/compaction"]),
        ],
    ),
    ("etcdserverpb.Watch", &[("Watch", &["/v3/watch"])]),
    (
        "etcdserverpb.Lease",
        &[
            ("LeaseGrant", &["/v3/lease/grant"]),
            ("LeaseRevoke", &["/v3/lease/revoke", "/v3/kv/lease/revoke"]),
            ("LeaseKeepAlive", &["/v3/lease/keepalive"]),
            (
                "LeaseTimeToLive",
                &["/v3/lease/timetolive", "/v3/kv/lease/timetolive"],
            ),
            ("LeaseLeases", &["/v3/lease/leases", "/v3/kv/lease/leases"]),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[
            ("MemberAdd", &["/v3/cluster/member/add"]),
            ("MemberRemove", &["/v3/cluster/member/remove"]),
            ("MemberUpdate", &["/v3/cluster/member/update"]),
            ("MemberList", &["/v3/cluster/member/list"]),
            ("MemberPromote", &["/v3/cluster/member/promote"]),
        ],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            ("Alarm", &["/v3/maintenance/alarm"]),
            ("Status", &["/v3/maintenance/status"]),
            ("Defragment", &["/v3/maintenance/defragment"]),
            ("Hash", &["/v3/maintenance/hash"]),
            ("HashKV", &["/v3/maintenance/hashkv"]),
            ("Snapshot", &["/v3/maintenance/snapshot"]),
            ("MoveLeader", &["/v3/maintenance/transfer-leadership"]),
            ("Downgrade", &["/v3/maintenance/downgrade"]),
        ],
    ),
    (
        "etcdserverpb.Auth",
        &[
            ("AuthEnable", &["/v3/auth/enable"]),
            ("AuthDisable", &["/v3/auth/disable"]),
            ("AuthStatus", &["/v3/auth/status"]),
            ("Authenticate", &["/v3/auth/authenticate"]),
            ("UserAdd", &["/v3/auth/user/add"]),
            ("UserGet", &["/v3/auth/user/get"]),
            ("UserList", &["/v3/auth/user/list"]),
            ("UserDelete", &["/v3/auth/user/delete"]),
            ("UserChangePassword", &["/v3/auth/user/changepw"]),
            ("UserGrantRole", &["/v3/auth/user/grant"]),
            ("UserRevokeRole", &["/v3/auth/user/revoke"]),
            ("RoleAdd", &["/v3/auth/role/add"]),
            ("RoleGet", &["/v3/auth/role/get"]),
            ("RoleList", &["/v3/auth/role/list"]),
            ("RoleDelete", &["/v3/auth/role/delete"]),
            ("RoleGrantPermission", &["/v3/auth/role/grant"]),
            ("RoleRevokePermission", &["/v3/auth/role/revoke"]),
        ],
    ),
    (
        "v3lockpb.Lock",
        &[("Lock", &["/v3/lock/lock"]), ("Unlock", &["/v3/lock/unlock"])],
    ),
    (
        "v3electionpb.Election",
        &[
            ("Campaign", &["/v3/election/campaign"]),
            ("Proclaim", &["/v3/election/proclaim"]),
            ("Leader", &["/v3/election/leader"]),
            ("Observe", &["/v3/election/observe"]),
            ("Resign", &["/v3/election/resign"]),
        ],
    ),
];

static DESCRIPTORS: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).expect("made from our own .proto files"));

static METHODS: LazyLock<HashMap<&str, Method>> = LazyLock::new(|| {
    let mut methods = HashMap::new();
    for (service, calls) in ROUTES {
        for (name, paths) in *calls {
            let method = find(service, name).expect("a test finds all of them");
            methods.extend(paths.iter().map(|path| (*path, Method::new(service, &method))));
        }
    }
    methods
});

fn find(service: &str, method: &str) -> Option<MethodDescriptor> {
    let service = DESCRIPTORS.get_service_by_name(service)?;
    service.methods().find(|known| known.name() == method)
}

/// A call that has a route.
#[derive(Debug)]
pub struct Method {
    /// Its path in gRPC, such as `/etcdserverpb.KV/Range`.
    pub rpc: String,
    /// Whether it takes any number of messages.
    pub takes_many: bool,
    /// Whether it is answered with any number of messages.
    pub gives_many: bool,
    pub(crate) request: MessageDescriptor,
    pub(crate) response: MessageDescriptor,
}

impl Method {
    fn new(service: &str, method: &MethodDescriptor) -> Self {
        Method {
            rpc: format!("/{service}/{}", method.name()),
            takes_many: method.is_client_streaming(),
            gives_many: method.is_server_streaming(),
            request: method.input(),
            response: method.output(),
        }
    }

    /// The call that a path leads to.
    pub fn at(path: &str) -> Option<&'static Method> {
        METHODS.get(path)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prost_reflect::Kind;

    use super::*;

    /// Calls that etcd has no route for either, and one of ours.
    const WITHOUT_A_ROUTE: [&str; 5] = [
        "/etcdserverpb.KV/RangeStream",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/keelson.v1.Progress/Watch",
    ];

    #[test]
    fn every_call_has_a_route_or_is_known_to_have_none() {
        let all = DESCRIPTORS.services().flat_map(|service| {
            let service_name = service.full_name().to_owned();
            let methods: Vec<_> = service.methods().collect();
            methods
                .into_iter()
                .map(move |method| format!("/{service_name}/{}", method.name()))
        });
        let routed: HashSet<_> = METHODS.values().map(|method| method.rpc.clone()).collect();
        for call in all {
            let exempt = WITHOUT_A_ROUTE.contains(&&*call);
            assert_ne!(routed.contains(&call), exempt, "{call}");
        }
        assert_eq!(METHODS.len(), 51);
    }

    /// They are made on the real etcd and on ours, and the answers compared byte for byte.
    #[test]
    fn the_scripts_of_conformance_make_every_call_and_at_least_two_hundred() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../conformance/scripts/gateway");
        let mut called = Vec::new();
        for script in std::fs::read_dir(folder).unwrap() {
            let script = std::fs::read_to_string(script.unwrap().path()).unwrap();
            let commands = script.lines().filter_map(|line| line.split_once(' '));
            let calls = commands.filter(|(name, _)| matches!(*name, "json" | "json_stream"));
            called.extend(calls.filter_map(|(_, call)| Some(call.split('"').nth(1)?.to_owned())));
        }
        let never: Vec<_> = METHODS
            .keys()
            .filter(|path| !called.iter().any(|called| called == *path))
            .collect();
        assert!(never.is_empty(), "{never:?}");
        assert!(called.len() >= 200, "{} calls", called.len());
    }

    /// What the mapping relies on; it knows no other kinds of fields.
    #[test]
    fn no_routed_message_has_maps_or_fractions_or_fields_out_of_order() {
        let mut seen = HashSet::new();
        let mut left: Vec<_> = METHODS
            .values()
            .flat_map(|method| [method.request.clone(), method.response.clone()])
            .collect();
        while let Some(message) = left.pop() {
            if !seen.insert(message.full_name().to_owned()) {
                continue;
            }
            let declared = &message.descriptor_proto().field;
            assert!(
                declared.is_sorted_by_key(|field| field.number()),
                "{}",
                message.full_name()
            );
            for field in message.fields() {
                assert!(!field.is_map(), "{}", field.full_name());
                match field.kind() {
                    Kind::Message(inner) => left.push(inner),
                    Kind::Bool | Kind::Bytes | Kind::String | Kind::Enum(_) => {}
                    Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => {}
                    other => panic!("{}: {other:?}", field.full_name()),
                }
            }
        }
    }
}
