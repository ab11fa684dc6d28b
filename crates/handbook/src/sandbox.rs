//! A machine of its own for a script: namespaces of users, processes, mounts and network.
//!
//! Inside, the script is root, the loopback is the only network and all its ports are free, `/etc/hosts` says what the
//! trial wants, and whatever it starts ends with it. It takes `unshare` and a kernel that lets users make namespaces.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::page::{Block, Kind};
use crate::programs::Programs;

/// Names of members, and their addresses on the loopback.
const HOSTS: [(&str, &str); 10] = [
    ("etcd1", "127.0.0.11"),
    ("etcd2", "127.0.0.12"),
    ("etcd3", "127.0.0.13"),
    ("etcd4", "127.0.0.14"),
    ("etcd5", "127.0.0.15"),
    ("etcd-0.etcd-peers", "127.0.0.21"),
    ("etcd-1.etcd-peers", "127.0.0.22"),
    ("etcd-2.etcd-peers", "127.0.0.23"),
    ("etcd-3.etcd-peers", "127.0.0.24"),
    ("localhost", "127.0.0.1"),
];

/// How long a script may take. The slowest takes a quarter of it on a busy machine.
const PATIENCE_SECS: &str = "240";

/// What every script begins with. `ready FILE COUNT PID` waits until that many servers say in that file that they serve,
/// or until the process is gone. `fails COMMAND` is good if the command is not: `! COMMAND` never ends a script.
const PRELUDE: &str = r#"
set -eEuo pipefail
mount --bind "$HERE/hosts" /etc/hosts
ip link set lo up
ip addr add 192.0.2.11/32 dev lo
cd "$HERE/work"
fails() { if "$@"; then return 1; fi; }
ready() {
    local count=0
    touch "$1"
    while read -r line; do
        case "$line" in
            *"ready to serve client requests"* | *"all members serve"*)
                count=$((count + 1))
                if [ "$count" -ge "$2" ]; then return 0; fi ;;
        esac
    done < <(tail -n +1 -f --pid="$3" "$1")
    return 1
}
"#;

/// The address a name has in a sandbox.
pub fn address(host: &str) -> Option<&'static str> {
    let found = HOSTS.iter().find(|(name, _)| *name == host);
    found.map(|(_, address)| *address)
}

/// Why there can be no sandbox on this machine, if so.
pub fn lacks() -> Option<String> {
    let tried = unshare().args(["ip", "link", "set", "lo", "up"]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "no namespaces here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

fn unshare() -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", PATIENCE_SECS, "unshare"]);
    command.args([
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command
}

/// Runs what comes first and then the blocks of a page, and compares what they print.
pub fn run(programs: &Programs, prelude: &str, blocks: &[Block]) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let here = folder.path();
    prepare(here, &script(prelude, blocks)).map_err(|error| error.to_string())?;
    let output = shell(programs, here)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(failure(here, &output, blocks));
    }
    for (number, block) in blocks.iter().enumerate() {
        if block.kind == Kind::Run || block.kind == Kind::Fails {
            block.check(&printed(here, number))?;
        }
    }
    Ok(())
}

fn prepare(here: &Path, script: &str) -> std::io::Result<()> {
    fs::create_dir(here.join("work"))?;
    let hosts: String = HOSTS
        .iter()
        .map(|(name, address)| format!("{address} {name}\n"))
        .collect();
    fs::write(here.join("hosts"), hosts)?;
    fs::write(here.join("script"), script)
}

fn shell(programs: &Programs, here: &Path) -> Command {
    let mut command = unshare();
    let path = std::env::var("PATH").unwrap_or_default();
    // Variables of the machine must not reach the servers.
    command
        .env_clear()
        .env("HERE", here)
        .env("HOME", here.join("work"))
        .env("PATH", format!("{}:{path}", programs.path().display()))
        .env("LC_ALL", "C.UTF-8")
        .arg("bash")
        .arg(here.join("script"));
    command
}

fn script(prelude: &str, blocks: &[Block]) -> String {
    let mut script = format!("{PRELUDE}\n{prelude}\n");
    for (number, block) in blocks.iter().enumerate() {
        let (commands, out) = (&block.commands, format!("\"$HERE/{number}\""));
        let _ = match block.kind {
            Kind::Run => write!(script, "exec >{out} 2>&1\n{commands}\n"),
            Kind::Server => write!(
                script,
                "exec >{out} 2>&1\n{{\n{commands}wait\n}} &\nready {out} {} $!\n",
                block.servers()
            ),
            Kind::Fails => write!(
                script,
                "exec >{out} 2>&1\nif (\n{commands}\n); then exit 99; fi\n"
            ),
            Kind::Elsewhere => Ok(()),
        };
    }
    script
}

/// What a block has printed.
fn printed(here: &Path, number: usize) -> String {
    let text = fs::read(here.join(number.to_string())).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

fn failure(here: &Path, output: &Output, blocks: &[Block]) -> String {
    let begun = (0..blocks.len()).rfind(|number| here.join(number.to_string()).exists());
    let status = output.status;
    let Some(number) = begun else {
        let text = [&*output.stdout, &*output.stderr].concat();
        return format!(
            "{status} before the first block: {}",
            String::from_utf8_lossy(&text)
        );
    };
    let (block, text) = (&blocks[number], printed(here, number));
    let last: Vec<_> = text.lines().rev().take(30).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    format!(
        "line {}: {status}\n{}\n{}",
        block.line,
        block.commands,
        last.join("\n")
    )
}
