//! The real etcdctl and etcdutl on the real etcd and on ours.

use std::process::ExitCode;

use conformance::harness::{self, Work};
use conformance::migration::run;
use conformance::server::{Ports, Server};
use conformance::tools::Tools;
use serde_json::Value;

fn main() -> ExitCode {
    let mut trials = harness::scripts("etcdctl");
    let restore: Work = Box::new(|tools| Ok(a_real_etcd_runs_on_our_snapshot(tools)?));
    trials.push(("a_real_etcd_runs_on_our_snapshot".into(), restore));
    let users: Work = Box::new(|tools| Ok(users_go_with_a_folder_there_and_back(tools)?));
    trials.push(("users_go_with_a_folder_there_and_back".into(), users));
    harness::run(trials)
}

/// A backup of our server is checked and unpacked by the real etcdutl; the real etcd started on it has the same
/// keys, history, leases and hash.
fn a_real_etcd_runs_on_our_snapshot(tools: &Tools) -> Result<(), String> {
    let runtime = harness::runtime()?;
    let ours = runtime.block_on(Server::start(&tools.ours, &[]))?;
    let etcdctl = |server: &Server, words: &[&str]| {
        let endpoint = format!("--endpoints={}", server.endpoint());
        run(
            &tools.etcdctl,
            &[&[endpoint.as_str(), "--write-out=json"], words].concat(),
        )
    };

    let lease = json(&etcdctl(&ours, &["lease", "grant", "5000"])?)?;
    let lease = format!("{:x}", lease["ID"].as_i64().ok_or("no lease id")?);
    for number in 0..80 {
        etcdctl(
            &ours,
            &["put", &format!("k{:03}", number % 60), &format!("value {number}")],
        )?;
    }
    etcdctl(&ours, &["put", "leased", "1", &format!("--lease={lease}")])?;
    etcdctl(&ours, &["put", "large", &"x".repeat(100_000)])?;
    etcdctl(&ours, &["del", "k010", "k030"])?;
    run(
        &tools.etcdctl,
        &[&format!("--endpoints={}", ours.endpoint()), "compaction", "50"],
    )?;
    etcdctl(&ours, &["put", "last", "1"])?;
    for words in USERS {
        etcdctl(&ours, &words.split(' ').collect::<Vec<_>>())?;
    }
    let etcdctl = |server: &Server, words: &[&str]| etcdctl(server, &[&["--user=root:pw"], words].concat());

    let backup = ours.folder().join("backup.db").display().to_string();
    run(
        &tools.etcdctl,
        &[
            &format!("--endpoints={}", ours.endpoint()),
            "--user=root:pw",
            "snapshot",
            "save",
            &backup,
        ],
    )?;
    let status = json(&run(
        &tools.etcdutl,
        &["snapshot", "status", &backup, "--write-out=json"],
    )?)?;
    let current = json(&etcdctl(&ours, &["get", "missing"])?)?;
    equal("revision", &status["revision"], &current["header"]["revision"])?;

    let ports = Ports::free();
    let restored = ours.folder().join("restored");
    run(
        &tools.etcdutl,
        &[
            "snapshot",
            "restore",
            &backup,
            &format!("--data-dir={}", restored.display()),
            &format!("--name={}", ports.name()),
            &format!("--initial-advertise-peer-urls={}", ports.peer_url()),
            &format!("--initial-cluster={}", ports.initial_cluster()),
        ],
    )?;
    let real = runtime.block_on(Server::start_on(&tools.reference, &restored, ports))?;
    for question in [
        &["get", "", "--prefix"][..],
        &["get", "", "--prefix", "--rev=70"],
        &["get", "", "--prefix", "--rev=50"],
        &["lease", "list"],
        &["lease", "timetolive", &lease, "--keys"],
        &["endpoint", "hashkv"],
        &["endpoint", "hashkv", "--rev=70"],
        &["auth", "status"],
        &["user", "list"],
        &["user", "get", "someone"],
        &["role", "get", "reader"],
    ] {
        let [ours, real] =
            [&ours, &real].map(|server| etcdctl(server, question).and_then(|text| json(&text)));
        equal(&question.join(" "), &without_place(ours?), &without_place(real?))?;
    }
    Ok(())
}

/// What makes users, and lets nobody else in.
const USERS: [&str; 7] = [
    "user add root:pw",
    "user add someone:secret",
    "user grant-role root root",
    "role add reader",
    "role grant-permission reader read k000 k020",
    "user grant-role someone reader",
    "auth enable",
];

/// A folder of the real etcd with users in it is taken over by ours, which adds another, is laid out for the real one
/// again, and taken over once more. At every step passwords are right and permissions hold.
fn users_go_with_a_folder_there_and_back(tools: &Tools) -> Result<(), String> {
    let runtime = harness::runtime()?;
    let mut server = runtime.block_on(Server::start(&tools.reference, &[]))?;
    let etcdctl = |server: &Server, words: &str| {
        let endpoint = format!("--endpoints={}", server.endpoint());
        let words: Vec<_> = words.split(' ').collect();
        run(&tools.etcdctl, &[&[endpoint.as_str()], &words[..]].concat())
    };
    let lets_in = |server: &Server, users: &str| {
        etcdctl(server, "--user=someone:secret get k001")?;
        let listed = etcdctl(server, "--user=root:pw user list")?;
        equal("users", &listed.into(), &users.into())?;
        for refused in [
            "get k001",
            "--user=someone:wrong get k001",
            "--user=someone:secret put k001 x",
            "--user=someone:secret get k030",
        ] {
            if etcdctl(server, refused).is_ok() {
                return Err(format!("it can {refused}"));
            }
        }
        Ok::<_, String>(())
    };
    for words in USERS {
        etcdctl(&server, words)?;
    }
    lets_in(&server, "root\nsomeone\n")?;
    runtime.block_on(server.stop())?;
    server.set_program(&tools.ours);
    runtime.block_on(server.resume())?;
    lets_in(&server, "root\nsomeone\n")?;
    etcdctl(&server, "--user=root:pw user add another:new")?;
    let status = etcdctl(&server, "--user=root:pw auth status")?;
    runtime.block_on(server.stop())?;
    if tools.ours_is_newer() {
        let folder = format!("--data-dir={}", server.data().display());
        let etcdutl = tools.ours.with_file_name("etcdutl");
        run(&etcdutl, &["convert", &folder, "--to=bolt"])?;
    }
    runtime.block_on(server.resume())?;
    lets_in(&server, "another\nroot\nsomeone\n")?;
    let now = etcdctl(&server, "--user=root:pw auth status")?;
    equal("status", &status.into(), &now.into())
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))
}

/// An answer without what tells one server from the other.
fn without_place(mut answer: Value) -> Value {
    const PLACE: [&str; 6] = [
        "cluster_id",
        "member_id",
        "raft_term",
        "Endpoint",
        "hash_revision",
        "ttl",
    ];
    match &mut answer {
        Value::Object(fields) => {
            fields.retain(|name, _| !PLACE.contains(&name.as_str()));
            fields
                .values_mut()
                .for_each(|value| *value = without_place(value.take()));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| *item = without_place(item.take())),
        _ => {}
    }
    answer
}

fn equal(what: &str, left: &Value, right: &Value) -> Result<(), String> {
    match left == right {
        true => Ok(()),
        false => Err(format!("{what}: {left} and {right}")),
    }
}
