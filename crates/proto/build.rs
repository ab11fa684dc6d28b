//! Compiles the .proto files with protox: no protoc is needed to build.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new("proto");
    let mut files: Vec<_> = std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, [dir])?;
    let mut rpcs = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let name = |method| format!("{}.{}/{method}", file.package(), service.name());
            rpcs.extend(service.method.iter().map(|method| name(method.name())));
        }
    }
    let rpcs = format!("pub const RPCS: &[&str] = &{rpcs:?};");
    let out = std::env::var("OUT_DIR")?;
    #[allow(clippy::disallowed_methods, reason = "a build script has no disk to simulate")]
    std::fs::write(Path::new(&out).join("rpcs.rs"), rpcs)?;
    prost_build::Config::new()
        .bytes(["."])
        .include_file("messages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
