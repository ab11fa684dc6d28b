//! Compiles the .proto files with protox: no protoc is needed to build.

// A build script writes files.
#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new("proto");
    let mut files: Vec<_> = std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    println!("cargo:rerun-if-changed=proto");
    let mut descriptors = protox::compile(&files, [dir])?;
    let mut rpcs = Vec::new();
    for file in &mut descriptors.file {
        // Comments and positions are for readers of the .proto files.
        file.source_code_info = None;
        for service in &file.service {
            let name = |method| format!("{}.{}/{method}", file.package(), service.name());
            rpcs.extend(service.method.iter().map(|method| name(method.name())));
        }
    }
    let rpcs = format!("pub const RPCS: &[&str] = &{rpcs:?};");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("rpcs.rs"), rpcs)?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    prost_build::Config::new()
        .bytes(["."])
        .include_file("messages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
