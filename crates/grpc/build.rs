//! Generates the service stubs; the messages themselves are those of crate `proto`.

use std::path::{Path, PathBuf};

/// Packages whose messages live in crate `proto`.
const PACKAGES: [&str; 8] = [
    "etcdserverpb",
    "mvccpb",
    "authpb",
    "v3lockpb",
    "v3electionpb",
    "grpc.health.v1",
    "keelson.v1",
    "raw",
];

/// Answers of the hot services in the form their server gives them: the same bytes on the wire, another
/// Rust type.
const HOT_ANSWERS: [(&str, &str); 6] = [
    ("RangeResponse", "::proto::raw::RangeResponse"),
    ("RangeStreamResponse", "::proto::raw::RangeStreamResponse"),
    ("PutResponse", "::proto::raw::PutResponse"),
    ("DeleteRangeResponse", "::proto::raw::DeleteRangeResponse"),
    ("TxnResponse", "::proto::raw::TxnResponse"),
    ("WatchResponse", "::watch::Frame"),
];

/// The services of package `etcdserverpb` whose answers are mostly stored bytes.
const HOT_SERVICES: [&str; 2] = ["KV", "Watch"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new("../proto/proto");
    println!("cargo:rerun-if-changed={}", dir.display());
    let files = ["etcdserverpb", "v3lockpb", "v3electionpb", "health", "progress"]
        .map(|name| dir.join(format!("{name}.proto")));
    let services = protox::compile(files, [dir])?;

    let mut hot = services.clone();
    for file in &mut hot.file {
        file.service
            .retain(|service| HOT_SERVICES.contains(&service.name()));
    }

    stubs().compile_fds_with_config(services, config())?;

    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?).join("hot");
    std::fs::create_dir_all(&out_dir)?;
    let mut builder = stubs().build_client(false).out_dir(out_dir);
    for (name, rust) in HOT_ANSWERS {
        builder = builder.extern_path(format!(".etcdserverpb.{name}"), rust);
    }
    builder.compile_fds_with_config(hot, config())?;
    Ok(())
}

fn config() -> prost_build::Config {
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config
}

fn stubs() -> tonic_prost_build::Builder {
    let mut builder = tonic_prost_build::configure();
    for package in PACKAGES {
        builder = builder.extern_path(
            format!(".{package}"),
            format!("::proto::{}", package.replace('.', "::")),
        );
    }
    builder.include_file("services.rs").build_transport(false)
}
