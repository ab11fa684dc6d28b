//! What is counted of gRPC calls, method by method; [`super::metered`] counts it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use types::CODE_NAMES;

use super::Declaration;
use super::kinds::{Counter, Histogram, Metric, Sharded};
use super::text::Text;

/// Services and their methods, unary unless said otherwise. The bool says that a service is shown
/// before its first call, as etcd does with all but the recipes (lock and election); ours are not.
const SERVICES: [(&str, bool, &str); 10] = [
    (
        "etcdserverpb.KV",
        true,
        "Range RangeStream:server_stream Put DeleteRange Txn Compact",
    ),
    ("etcdserverpb.Watch", true, "Watch:bidi_stream"),
    (
        "etcdserverpb.Lease",
        true,
        "LeaseGrant LeaseRevoke LeaseKeepAlive:bidi_stream LeaseTimeToLive LeaseLeases",
    ),
    (
        "etcdserverpb.Cluster",
        true,
        "MemberAdd MemberRemove MemberUpdate MemberList MemberPromote",
    ),
    (
        "etcdserverpb.Maintenance",
        true,
        "Alarm Status Defragment Hash HashKV Snapshot:server_stream MoveLeader Downgrade",
    ),
    (
        "etcdserverpb.Auth",
        true,
        "AuthEnable AuthDisable AuthStatus Authenticate UserAdd UserGet UserList UserDelete \
         UserChangePassword UserGrantRole UserRevokeRole RoleAdd RoleGet RoleList RoleDelete \
         RoleGrantPermission RoleRevokePermission",
    ),
    ("grpc.health.v1.Health", true, "Check Watch:server_stream List"),
    ("v3lockpb.Lock", false, "Lock Unlock"),
    (
        "v3electionpb.Election",
        false,
        "Campaign Proclaim Leader Observe:server_stream Resign",
    ),
    ("keelson.v1.Progress", false, "Watch:server_stream"),
];

/// The shape of a method with one message each way.
const UNARY: &str = "unary";
const BIDI_STREAM: &str = "bidi_stream";

/// Label names of `grpc_server_handled_total`; the other families have all but the last.
const LABELS: [&str; 4] = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];

/// What is counted of one method.
pub struct Method {
    service: &'static str,
    name: &'static str,
    shape: &'static str,
    always_shown: bool,
    pub(super) counts: Sharded<Counts>,
    pub(super) seconds: Option<Histogram>,
}

/// Numbers that are counted by thread.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) started: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) handled: [AtomicU64; CODE_NAMES.len()],
}

impl Method {
    fn is_shown(&self) -> bool {
        self.always_shown || self.counts.sum(|counts| counts.started.load(Relaxed)) > 0
    }

    /// Whether either side may go on talking as long as it likes.
    pub(super) fn is_conversation(&self) -> bool {
        self.shape == BIDI_STREAM
    }

    /// The names of service and method, if it is one there is.
    pub(super) fn names(&self) -> Option<(&'static str, &'static str)> {
        (!self.service.is_empty()).then_some((self.service, self.name))
    }

    /// Whether one message goes each way.
    pub(super) fn is_unary(&self) -> bool {
        self.shape == UNARY
    }
}

/// All methods. There is one of this in a process, and it stays: so a call refers to its method
/// without counting references that all cores would share.
pub struct Grpc {
    methods: &'static [Method],
    by_path: HashMap<String, &'static Method>,
}

impl Grpc {
    pub(super) fn new(extensive: bool) -> Self {
        let method = |service, name, shape, always_shown| Method {
            service,
            name,
            shape,
            always_shown,
            counts: Sharded::new(Counts::default),
            seconds: extensive.then(|| Histogram::with_bounds(Histogram::DEFAULT_BOUNDS.into())),
        };
        let mut methods = Vec::new();
        for (service, always_shown, names) in SERVICES {
            let shaped = names
                .split(' ')
                .map(|word| word.split_once(':').unwrap_or((word, UNARY)));
            methods.extend(shaped.map(|(name, shape)| method(service, name, shape, always_shown)));
        }
        // Calls of unknown methods; only the bytes of their messages are shown.
        methods.push(method("", "", UNARY, false));
        let methods: &'static [Method] = methods.leak();
        let path = |method: &Method| format!("/{}/{}", method.service, method.name);
        let by_path = methods.iter().map(|method| (path(method), method)).collect();
        Grpc { methods, by_path }
    }

    pub(super) fn find(&self, path: &str) -> &'static Method {
        self.by_path
            .get(path)
            .unwrap_or(&&self.methods[self.methods.len() - 1])
    }

    pub(super) fn write(&self, text: &mut Text) {
        let bytes = |read: fn(&Counts) -> &AtomicU64| {
            let of_method = |method: &Method| method.counts.sum(|counts| read(counts).load(Relaxed));
            self.methods.iter().map(of_method).sum::<u64>() as f64
        };
        text.family(
            "etcd_network_client_grpc_received_bytes_total",
            Counter::KIND,
            "Bytes of clients' messages.",
        );
        text.sample(bytes(|counts| &counts.received_bytes));
        text.family(
            "etcd_network_client_grpc_sent_bytes_total",
            Counter::KIND,
            "Bytes of messages to clients.",
        );
        text.sample(bytes(|counts| &counts.sent_bytes));

        self.write_family(text, "grpc_server_started_total", "Calls that began.", |counts| {
            &counts.started
        });
        self.write_family(
            text,
            "grpc_server_msg_received_total",
            "Messages of callers.",
            |counts| &counts.received,
        );
        self.write_family(
            text,
            "grpc_server_msg_sent_total",
            "Messages to callers.",
            |counts| &counts.sent,
        );
        text.family(
            "grpc_server_handled_total",
            Counter::KIND,
            "Calls that ended, by status code.",
        );
        self.for_each_shown(text, |text, method| {
            for (code, name) in CODE_NAMES.into_iter().enumerate() {
                let count = method.counts.sum(|counts| counts.handled[code].load(Relaxed));
                text.labelled("grpc_code", name, |text| text.sample(count as f64));
            }
        });
        text.family(
            "grpc_server_handling_seconds",
            Histogram::KIND,
            "Calls from start to end.",
        );
        self.for_each_shown(text, |text, method| {
            if let Some(seconds) = &method.seconds {
                seconds.write(text);
            }
        });
    }

    fn write_family(
        &self,
        text: &mut Text,
        name: &'static str,
        help: &'static str,
        read: fn(&Counts) -> &AtomicU64,
    ) {
        text.family(name, Counter::KIND, help);
        self.for_each_shown(text, |text, method| {
            text.sample(method.counts.sum(|counts| read(counts).load(Relaxed)) as f64)
        });
    }

    fn for_each_shown(&self, text: &mut Text, write: impl Fn(&mut Text, &Method)) {
        for method in self
            .methods
            .iter()
            .filter(|method| !method.service.is_empty() && method.is_shown())
        {
            let values = [method.shape, method.service, method.name];
            text.with_labels(LABELS.into_iter().zip(values), |text| write(text, method));
        }
    }

    pub(super) fn declarations() -> Vec<Declaration> {
        let declaration = |name, kind, labels, buckets| Declaration {
            name,
            kind,
            labels,
            buckets,
        };
        let by_method = &LABELS[..3];
        let counter = |name, labels| declaration(name, Counter::KIND, labels, vec![]);
        vec![
            counter("etcd_network_client_grpc_received_bytes_total", &[]),
            counter("etcd_network_client_grpc_sent_bytes_total", &[]),
            counter("grpc_server_started_total", by_method),
            counter("grpc_server_msg_received_total", by_method),
            counter("grpc_server_msg_sent_total", by_method),
            counter("grpc_server_handled_total", &LABELS),
            declaration(
                "grpc_server_handling_seconds",
                Histogram::KIND,
                by_method,
                Histogram::DEFAULT_BOUNDS.into(),
            ),
        ]
    }
}
