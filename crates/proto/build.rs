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
    prost_build::Config::new()
        .bytes(["."])
        .include_file("messages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
