//! The texts of `--help` and of a command line that cannot be read.

use std::fmt::Write;

use super::table::FLAGS;

/// The short text.
pub const USAGE: &str = "\
Usage:

  etcd [flags]
    Start an etcd server.

  etcd check-config [flags] [-w table|json]
    Print the settings a server would have, and where each is from.

  etcd --version
    Print the version.

  etcd -h | --help
    Print every flag.

  etcd healthcheck [http://HOST:PORT]
    Ask the server of this environment whether it is well; exit code 0 if so.

  etcd demo [--members N] [--tls]
    Start a cluster in this terminal, to see what happens when members fail.

  etcd gateway start [flags]
    Pass connections on to the members of a cluster. With --help: its flags.

  etcd grpc-proxy start [flags]
    Answer many clients at the cost of one. With --help: its flags.

  Every flag can also be set by an environment variable: ETCD_NAME for --name, and so on.
";

/// The long text: every flag under its heading.
pub fn help() -> String {
    let mut text = String::new();
    let mut group = "";
    for flag in FLAGS {
        if flag.group != group {
            group = flag.group;
            let _ = write!(text, "\n{group}:\n");
        }
        let _ = write!(
            text,
            "  --{} '{}'\n    {}\n",
            flag.name(),
            flag.default,
            flag.help
        );
    }
    text
}
