//! TLS on every port: who is let in where (see [`conformance::tls_matrix`]), what happens while files are exchanged
//! ([`conformance::rotation`]), a process that reaches its own files only ([`conformance::confined`]), and two
//! members of ours with a real one, with the real `etcdctl` as a client of each.

#![allow(clippy::disallowed_methods, reason = "it writes certificates")]

use std::process::{Command, ExitCode};

use conformance::certs::{self, Ask, Authority};
use conformance::confined;
use conformance::harness::{self, Work};
use conformance::rotation;
use conformance::server::{Place, Ports, Server};
use conformance::tls_matrix::{self, Variant};
use conformance::tools::Tools;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

fn main() -> ExitCode {
    let trial = |name: &str, work: fn(&Tools) -> Result<(), String>| -> (String, Work) {
        (name.to_owned(), Box::new(move |tools| Ok(work(tools)?)))
    };
    let knocks = |name: &str, variant: Variant| -> (String, Work) {
        (
            name.to_owned(),
            Box::new(move |tools| tls_matrix::check(tools, variant)),
        )
    };
    harness::run(vec![
        knocks(
            "each_listener_lets_in_whom_the_authority_signed_for",
            Variant::Usual,
        ),
        knocks("each_listener_keeps_its_list_of_names", Variant::Names),
        knocks("no_listener_speaks_less_than_tls_1_3_if_told_so", Variant::Newest),
        knocks("no_listener_speaks_more_than_tls_1_2_if_told_so", Variant::Older),
        knocks("each_listener_keeps_its_list_of_suites", Variant::Suite),
        trial(
            "members_and_clients_show_each_other_certificates",
            with_certificates,
        ),
        trial("members_sign_for_themselves", signed_by_themselves),
        trial("clients_come_by_sockets_of_the_file_system", by_sockets),
        trial(
            "whoever_is_good_is_let_in_and_nobody_else_while_all_files_are_exchanged",
            |tools| harness::runtime()?.block_on(rotation::of_listeners(tools)),
        ),
        trial(
            "members_exchange_certificates_and_authority_while_clients_write",
            |tools| harness::runtime()?.block_on(rotation::of_a_cluster(tools, 7)),
        ),
        trial(
            "a_flood_of_bad_handshakes_is_a_hundred_lines_a_second_and_a_count",
            |tools| harness::runtime()?.block_on(rotation::flood(tools)),
        ),
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
    for (serial, file, name, purposes) in [
        (2, "member", "member", vec![ServerAuth]),
        (3, "dialer", "member", vec![ClientAuth]),
        (4, "clients", "clients", vec![]),
        (5, "root", "root", vec![ClientAuth]),
    ] {
        let ask = Ask {
            purposes,
            ..Ask::new(name, serial)
        };
        authority.sign(&ask)?.write(dir.path(), file)?;
    }
    let file = |name: &str| dir.path().join(name);
    let named = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
    let flags = [
        named("cert-file", "clients.pem"),
        named("key-file", "clients.key"),
        named("trusted-ca-file", "ca.pem"),
        named("peer-cert-file", "member.pem"),
        named("peer-key-file", "member.key"),
        named("peer-client-cert-file", "dialer.pem"),
        named("peer-client-key-file", "dialer.key"),
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

/// Both servers have one socket with TLS and one without.
fn by_sockets(tools: &Tools) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let authority = Authority::new("ours")?;
    certs::write(&dir.path().join("ca.pem"), authority.pem())?;
    authority.sign(&Ask::new("both", 2))?.write(dir.path(), "both")?;
    let named = |flag: &str, name: &str| format!("--{flag}={}", dir.path().join(name).display());
    let stranger = vec![named("cacert", "ca.pem")];
    let known = [
        stranger.clone(),
        vec![named("cert", "both.pem"), named("key", "both.key")],
    ]
    .concat();
    for (name, program) in [("real", &tools.reference), ("ours", &tools.ours)] {
        let ports = Ports::free();
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).map_err(text)?;
        // The client wants a certificate for the last part of the path.
        let [plain, secured] = [folder.join("plain"), folder.join("localhost")];
        let [unix, unixs] = [
            format!("unix://{}", plain.display()),
            format!("unixs://{}", secured.display()),
        ];
        let flags = [
            format!(
                "--listen-client-urls=http://{},{unix},{unixs}",
                ports.at(ports.client)
            ),
            named("cert-file", "both.pem"),
            named("key-file", "both.key"),
            named("trusted-ca-file", "ca.pem"),
            "--client-cert-auth".into(),
        ];
        let mut server = Server::prepared(program, &flags, ports, Server::alone(ports))?;
        let stopped = harness::runtime()?.block_on(async {
            server.resume().await?;
            etcdctl_at(tools, &unix, &[], &["put", "k", "v"])?;
            let read = etcdctl_at(tools, &unixs, &known, &["get", "k", "--print-value-only"])?;
            let refused = etcdctl_at(tools, &unixs, &stranger, &["get", "k", "--command-timeout=2s"]);
            if read.trim() != "v" || refused.is_ok() {
                return Err(format!("{name}: {read:?}, and {refused:?} without a certificate"));
            }
            server.stop().await
        });
        stopped?;
        if plain.exists() || secured.exists() {
            return Err(format!("{name} has left a socket behind"));
        }
    }
    Ok(())
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
    let endpoint = format!("https://127.0.0.1:{}", member.ports.client);
    etcdctl_at(tools, &endpoint, tls, words)
}

fn etcdctl_at(tools: &Tools, endpoint: &str, tls: &[String], words: &[&str]) -> Result<String, String> {
    let output = Command::new(&tools.etcdctl)
        .arg(format!("--endpoints={endpoint}"))
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
