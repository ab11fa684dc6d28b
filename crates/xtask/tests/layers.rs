//! The arrows of ARCHITECTURE.md, checked: crates depend downwards only, and the core has no way to
//! do I/O, because nothing it depends on can.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each of our crates may depend on, directly. A new edge is a decision: make it here, and say
/// why in ARCHITECTURE.md.
const ALLOWED: &[(&str, &[&str])] = &[
    // words
    ("types", &[]),
    ("proto", &[]),
    ("grpc", &["proto", "watch"]),
    // core
    ("mvcc", &["types", "proto"]),
    ("lease", &["types"]),
    ("auth", &["types", "proto"]),
    ("watch", &["types", "proto"]),
    ("consensus", &["types", "proto"]),
    ("machine", &["types", "proto", "mvcc", "lease", "auth"]),
    ("member", &["types", "proto", "consensus"]),
    ("gateway", &["proto"]),
    // I/O
    ("env", &[]),
    ("wal", &["types", "proto", "env"]),
    ("store", &["types", "proto", "env", "mvcc"]),
    ("bolt", &["types", "env"]),
    ("names", &[]),
    ("tls", &["names"]),
    ("calm", &[]),
    ("insight", &["proto"]),
    ("peer", &["types", "proto", "env", "names", "tls"]),
    ("discovery", &["types", "proto", "grpc", "names", "peer", "tls"]),
    (
        "image",
        &["types", "proto", "env", "mvcc", "machine", "wal", "store", "bolt"],
    ),
    // edge and programs
    (
        "server",
        &[
            "types",
            "proto",
            "grpc",
            "consensus",
            "mvcc",
            "lease",
            "auth",
            "machine",
            "watch",
            "member",
            "env",
            "wal",
            "store",
            "names",
            "tls",
            "calm",
            "insight",
            "peer",
            "image",
            "discovery",
            "gateway",
        ],
    ),
    (
        "sim",
        &[
            "types",
            "proto",
            "consensus",
            "mvcc",
            "lease",
            "machine",
            "watch",
            "member",
            "env",
            "wal",
            "store",
            "image",
        ],
    ),
    ("client", &["proto", "names", "tls"]),
    (
        "proxy",
        &[
            "calm", "client", "grpc", "insight", "proto", "names", "tls", "types",
        ],
    ),
    ("etcd", &["insight", "names", "proxy", "server"]),
    ("etcdctl", &["client", "names", "types", "proto", "tls"]),
    ("etcdutl", &["server", "types", "env", "image"]),
    ("conformance", &["proto", "grpc", "tls"]),
    ("bench", &["proto", "grpc", "names"]),
    ("handbook", &["types"]),
    ("xtask", &[]),
];

/// The crates below the line: no I/O, no async, no clock, no chance.
const CORE: &[&str] = &[
    "types",
    "proto",
    "mvcc",
    "lease",
    "auth",
    "watch",
    "consensus",
    "machine",
    "member",
    "gateway",
];

/// Crates that would bring I/O or an async runtime into the core.
const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "hyper",
    "tonic",
    "axum",
    "mio",
    "socket2",
    "rustix",
    "env",
    "futures-util",
];

/// Our crates with the names of what they depend on, development aside.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .expect("cargo runs, it runs this test");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let normal = dependencies
                .iter()
                .filter(|dependency| dependency["kind"].is_null());
            let names = normal.map(|dependency| dependency["name"].as_str().expect("a name").to_owned());
            (
                package["name"].as_str().expect("a name").to_owned(),
                names.collect(),
            )
        })
        .collect()
}

#[test]
fn crates_depend_downwards_only() {
    let dependencies = dependencies();
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    for (name, names) in &dependencies {
        let allowed = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("crate {name} is not on the map"));
        for ours in names.iter().filter(|name| dependencies.contains_key(*name)) {
            assert!(
                allowed.contains(&ours.as_str()),
                "{name} must not depend on {ours}"
            );
        }
    }
}

#[test]
fn the_core_can_not_do_io() {
    let dependencies = dependencies();
    for name in CORE {
        for banned in NOT_IN_CORE {
            assert!(
                !dependencies[*name].contains(*banned),
                "{name} is below the line and must not use {banned}"
            );
        }
    }
}

/// The test server of `conformance` takes the words of the DNS from there.
#[test]
fn one_crate_looks_names_up() {
    let dependencies = dependencies();
    let asks = |names: &BTreeSet<String>| names.iter().any(|name| name.starts_with("hickory"));
    let askers = dependencies.iter().filter(|(_, names)| asks(names));
    let askers: Vec<_> = askers.map(|(name, _)| name.as_str()).collect();
    assert_eq!(askers, ["conformance", "names"]);
}
