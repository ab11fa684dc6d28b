//! Flags of earlier releases.
//!
//! etcd itself still swallows a handful silently. Those it refuses since 3.7 boot here with a warning,
//! because manifests outlive releases: what became a plain flag or a feature gate is mapped, what
//! became nothing is dropped. `--strict-flags` brings the refusal back. What is dropped must not
//! change what kind of server starts, so `--proxy` is accepted as `off` only, and `--discovery` only
//! when it is empty.

use server::config::Gate;

use super::table::Flag;

/// Swallowed without a word, with or without `=value`.
pub const IGNORED: [&str; 15] = [
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

/// What became of a removed flag.
#[derive(Clone, Copy)]
pub enum Fate {
    /// A flag under another name.
    Flag(&'static Flag),
    /// A feature gate.
    Gate(Gate),
    /// Nothing; a boolean.
    DroppedSwitch,
    /// Nothing; it took a value.
    Dropped,
    /// Nothing, as long as it has this value.
    Only(&'static str),
}

impl Fate {
    /// Whether the flag took a value only after `=`.
    pub fn is_bool(self) -> bool {
        match self {
            Fate::Flag(flag) => flag.is_bool(),
            Fate::Gate(_) | Fate::DroppedSwitch => true,
            Fate::Dropped | Fate::Only(_) => false,
        }
    }
}

/// The removed flags that did not simply lose their `experimental-`.
const REMOVED: [(&str, Fate); 20] = [
    (
        "experimental-initial-corrupt-check",
        Fate::Gate(Gate::InitialCorruptCheck),
    ),
    (
        "experimental-compact-hash-check-enabled",
        Fate::Gate(Gate::CompactHashCheck),
    ),
    (
        "experimental-enable-lease-checkpoint",
        Fate::Gate(Gate::LeaseCheckpoint),
    ),
    (
        "experimental-enable-lease-checkpoint-persist",
        Fate::Gate(Gate::LeaseCheckpointPersist),
    ),
    (
        "experimental-txn-mode-write-with-shared-buffer",
        Fate::Gate(Gate::TxnModeWriteWithSharedBuffer),
    ),
    (
        "experimental-stop-grpc-service-on-defrag",
        Fate::Gate(Gate::StopGrpcServiceOnDefrag),
    ),
    (
        "experimental-set-member-localaddr",
        Fate::Gate(Gate::SetMemberLocalAddr),
    ),
    ("experimental-enable-v2v3", Fate::Dropped),
    ("experimental-wait-cluster-ready-timeout", Fate::Dropped),
    ("enable-v2", Fate::DroppedSwitch),
    ("debug", Fate::DroppedSwitch),
    ("log-package-levels", Fate::Dropped),
    ("proxy", Fate::Only("off")),
    ("proxy-failure-wait", Fate::Dropped),
    ("proxy-refresh-interval", Fate::Dropped),
    ("proxy-dial-timeout", Fate::Dropped),
    ("proxy-write-timeout", Fate::Dropped),
    ("proxy-read-timeout", Fate::Dropped),
    ("discovery-proxy", Fate::Only("")),
    ("discovery", Fate::Only("")),
];

/// What became of flag `name`, if there once was one.
pub fn fate(name: &str) -> Option<Fate> {
    let listed = REMOVED
        .iter()
        .find_map(|(removed, fate)| (*removed == name).then_some(*fate));
    let renamed = || {
        name.strip_prefix("experimental-")
            .and_then(Flag::find)
            .map(Fate::Flag)
    };
    listed.or_else(renamed)
}
