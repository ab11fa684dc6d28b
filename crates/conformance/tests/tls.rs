//! Two members of ours and a real one with TLS on every port, and the real `etcdctl` as a client of each.

#![allow(clippy::disallowed_methods, reason = "it writes certificates")]

use std::process::{Command, ExitCode};

use conformance::certs::{self, Ask, Authority};
use conformance::confined;
use conformance::harness::{self, Work};
use conformance::server::{Place, Ports, Server};
use conformance::tools::Tools;

fn main() -> ExitCode {
    let trial = |name: &str, work: fn(&Tools) -> Result<(), String>| -> (String, Work) {
        (name.to_owned(), Box::new(move |tools| Ok(work(tools)?)))
    };
    harness::run(vec![
        trial(
            "members_and_clients_show_each_other_certificates",
            with_certificates,
        ),
        trial("members_sign_for_themselves", signed_by_themselves),
        (
            "a_member_that_reaches_its_own_files_only_does_all_its_work".into(),
            Box::new(confined::session),
        ),
    ])
}

fn with_certificates(tools: &Tools) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let authority = Authority::new("ours")?;
    certs::write(&dir.path().join("ca.pem"), authority.pem())?;
    for (serial, name) in [(2, "member"), (3, "root")] {
        authority.sign(&Ask::new(name, serial))?.write(dir.path(), name)?;
    }
    let file = |name: &str| dir.path().join(name);
    let named = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
    let flags = [
        named("cert-file", "member.pem"),
        named("key-file", "member.key"),
        named("trusted-ca-file", "ca.pem"),
        named("peer-cert-file", "member.pem"),
        named("peer-key-file", "member.key"),
        named("peer-trusted-ca-file", "ca.pem"),
        "--client-cert-auth".into(),
        "--peer-client-cert-auth".into(),
        "--peer-cert-allowed-cn=member".into(),
    ];
    let stranger = [named("cacert", "ca.pem")];
    let known = [
        named("cacert", "ca.pem"),
        named("cert", "root.pem"),
        named("key", "root.key"),
    ];
    harness::runtime()?.block_on(async {
        let members = start(tools, &flags).await?;
        write_through_each(tools, &members, &known)?;
        for member in &members {
            if etcdctl(tools, member, &stranger, &["get", "k"]).is_ok() {
                return Err(format!(
                    "{} has let in a client without a certificate",
                    member.name()
                ));
            }
        }
        Ok(())
    })
}

fn signed_by_themselves(tools: &Tools) -> Result<(), String> {
    let flags = ["--auto-tls".to_owned(), "--peer-auto-tls".to_owned()];
    let anyone = [
        "--insecure-skip-tls-verify".into(),
        "--insecure-transport=false".into(),
    ];
    harness::runtime()?.block_on(async {
        let members = start(tools, &flags).await?;
        write_through_each(tools, &members, &anyone)
    })
}

/// Starts the members. Clients may come with or without TLS; members come with it.
async fn start(tools: &Tools, flags: &[String]) -> Result<Vec<Server>, String> {
    let ports = [Ports::free(), Ports::free(), Ports::free()];
    let url = |port: u16| format!("https://127.0.0.1:{port}");
    let listed = |(place, ports): (usize, &Ports)| format!("m{place}={}", url(ports.peer));
    let cluster: Vec<_> = ports.iter().enumerate().map(listed).collect();
    let mut members = Vec::new();
    for (place, ports) in ports.into_iter().enumerate() {
        let program = if place < 2 { &tools.ours } else { &tools.reference };
        let (client, peer) = (ports.client, url(ports.peer));
        let mut all = vec![
            format!("--listen-client-urls=http://127.0.0.1:{client},{}", url(client)),
            format!("--advertise-client-urls={}", url(client)),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ];
        all.extend_from_slice(flags);
        let place = Place {
            name: format!("m{place}"),
            advertised: ports.peer,
            cluster: cluster.join(","),
            joins: false,
        };
        let mut member = Server::prepared(program, &all, ports, place)?;
        member.spawn()?;
        members.push(member);
    }
    for member in &mut members {
        member.ready().await?;
    }
    Ok(members)
}

/// What is written through one member is read through the next.
fn write_through_each(tools: &Tools, members: &[Server], tls: &[String]) -> Result<(), String> {
    for (place, member) in members.iter().enumerate() {
        let value = format!("v{place}");
        etcdctl(tools, member, tls, &["put", "k", &value])?;
        let next = &members[(place + 1) % members.len()];
        let read = etcdctl(tools, next, tls, &["get", "k", "--print-value-only"])?;
        if read.trim() != value {
            return Err(format!("{} reads {read:?}, not {value:?}", next.name()));
        }
    }
    Ok(())
}

fn etcdctl(tools: &Tools, member: &Server, tls: &[String], words: &[&str]) -> Result<String, String> {
    let output = Command::new(&tools.etcdctl)
        .arg(format!("--endpoints=https://127.0.0.1:{}", member.ports.client))
        .args(tls)
        .args(words)
        .output()
        .map_err(text)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
