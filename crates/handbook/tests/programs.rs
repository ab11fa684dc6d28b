//! What is linked into the programs.

// A test of the rim: it has files and processes.
#![allow(clippy::disallowed_methods)]

use std::process::Command;

use handbook::programs::Programs;

/// The C library's way loads what the machine's `nsswitch.conf` names, which a static program can't. Names of functions
/// are in a program as they are, be they linked statically or not.
#[test]
fn no_program_has_names_looked_up_by_the_c_library() {
    let programs = Programs::find().expect("the programs are built");
    for program in ["etcd", "etcdctl", "etcdutl"] {
        let has = |function: &str| {
            let mut grep = Command::new("grep");
            grep.args(["--text", "--quiet", function])
                .arg(programs.path().join(program));
            match grep.status().expect("grep runs").code() {
                Some(0) => true,
                Some(1) => false,
                code => panic!("grep: {code:?}"),
            }
        };
        assert!(
            has("getsockname"),
            "{program}: a function that is used is not found"
        );
        assert!(!has("getaddrinfo"), "{program}");
    }
}
