//! Our `etcdctl` and `etcdutl`. The command lines of the scripts go through the real etcdctl and ours, on the real etcd and on
//! our server: the same output and the same exit status, but for what [`conformance::transcripts`] lists. Files and
//! folders that our `etcdutl` has worked on are good for either server.

#![allow(clippy::disallowed_methods, reason = "it damages backups")]

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use conformance::compare::compare;
use conformance::harness::{self, Work};
use conformance::migration::run;
use conformance::script::{self, Script};
use conformance::server::{Ports, Server};
use conformance::tools::Tools;
use conformance::{session, transcripts};

/// How often to look whether a change has arrived; a look takes some milliseconds.
const LOOKS_MAX: usize = 3000;

fn main() -> ExitCode {
    // Of the scripts about clusters, the one that is etcdctl's.
    let clusters = script::in_folder("cluster").into_iter();
    let clusters = clusters.filter(|script| script.name.starts_with("etcdctl_"));
    let scripts = script::in_folder("etcdctl").into_iter().chain(clusters);
    let trials = scripts.map(|script| {
        let name = script.name.clone();
        let work: Work = Box::new(move |tools: &Tools| Ok(check(&script, tools)?));
        (name, work)
    });
    let backups: Work = Box::new(|tools| Ok(a_backup_of_either_server_is_restored_for_either(tools)?));
    let backups = (
        "a_backup_of_either_server_is_restored_for_either".to_owned(),
        backups,
    );
    let folders: Work =
        Box::new(|tools| Ok(a_folder_of_etcd_is_made_smaller_and_given_another_version(tools)?));
    let folders = (
        "a_folder_of_etcd_is_made_smaller_and_given_another_version".to_owned(),
        folders,
    );
    let mirror: Work = Box::new(|tools| Ok(a_mirror_has_what_is_there_and_what_comes(tools)?));
    let mirror = ("a_mirror_has_what_is_there_and_what_comes".to_owned(), mirror);
    let pieces: Work = Box::new(|tools| Ok(a_range_in_pieces_looks_as_a_range_in_one(tools)?));
    let pieces = ("a_range_in_pieces_looks_as_a_range_in_one".to_owned(), pieces);
    let wrong: Work = Box::new(|tools| {
        Ok(what_is_wrong_with_a_backup_is_said_and_nothing_is_left_behind(
            tools,
        )?)
    });
    let wrong = (
        "what_is_wrong_with_a_backup_is_said_and_nothing_is_left_behind".to_owned(),
        wrong,
    );
    let new = script::in_folder("our_tools").into_iter().map(|script| {
        let name = script.name.clone();
        let work: Work = Box::new(move |tools: &Tools| Ok(as_recorded(&script, tools)?));
        (name, work)
    });
    harness::run(
        trials
            .chain(new)
            .chain([backups, folders, mirror, pieces, wrong])
            .collect(),
    )
}

/// What only our tool has looks as it is recorded, on either server.
fn as_recorded(script: &Script, tools: &Tools) -> Result<(), String> {
    let with_ours = tools.with_our_tools();
    for server in [&tools.reference, &tools.ours] {
        let recording = session::run(&with_ours, server, &script.text).recording?;
        if std::env::var("UPDATE").is_ok_and(|update| update == "1") {
            script.record(&recording)?;
        } else if let Some(change) = harness::first_change(&script.text, &recording) {
            return Err(format!("{} (UPDATE=1 records it): {change}", server.display()));
        }
    }
    Ok(())
}

/// Our `make-mirror` between the two servers: keys of before under another prefix, then changes as they happen.
fn a_mirror_has_what_is_there_and_what_comes(tools: &Tools) -> Result<(), String> {
    let runtime = harness::runtime()?;
    let tools = tools.with_our_tools();
    let [from, to] =
        [&tools.reference, &tools.ours].map(|program| runtime.block_on(Server::start(program, &[])));
    let (from, to) = (from?, to?);
    let etcdctl = |server: &Server, words: &[&str]| {
        let endpoint = format!("--endpoints={}", server.endpoint());
        run(&tools.etcdctl, &[&[endpoint.as_str()], words].concat())
    };
    for number in 0..300 {
        etcdctl(
            &from,
            &[
                "put",
                &format!("a/{:03}", number % 150),
                &format!("value {number}"),
            ],
        )?;
    }
    etcdctl(&from, &["put", "b", "not this one"])?;
    let endpoint = format!("--endpoints={}", from.endpoint());
    let mirror = Command::new(&tools.etcdctl)
        .args([
            &endpoint,
            "make-mirror",
            "--prefix=a/",
            "--dest-prefix=copy/",
            to.endpoint().as_str(),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut mirror = mirror.map_err(|e| e.to_string())?;
    let all = |server: &Server, prefix: &str| {
        let text = etcdctl(server, &["get", prefix, "--prefix"])?;
        Ok::<_, String>(text.replace("copy/", "a/"))
    };
    let arrived = || {
        let expected = all(&from, "a/")?;
        for _ in 0..LOOKS_MAX {
            if all(&to, "copy/")? == expected {
                return Ok(());
            }
        }
        Err("the mirror has not got it".to_owned())
    };
    let works = || {
        arrived()?;
        etcdctl(&from, &["put", "a/new", "1"])?;
        etcdctl(&from, &["del", "a/000", "a/100", "--range"])?;
        arrived()?;
        equal("nothing else is copied", &all(&to, "b")?, &String::new())
    };
    let done = works();
    let _ = mirror.kill();
    let _ = mirror.wait();
    done
}

/// `get --stream` of more than fits into one message; a server that has no such call is named as the reason.
fn a_range_in_pieces_looks_as_a_range_in_one(tools: &Tools) -> Result<(), String> {
    let runtime = harness::runtime()?;
    let tools = tools.with_our_tools();
    let etcdctl = |server: &Server, words: &str| {
        let endpoint = format!("--endpoints={}", server.endpoint());
        let words: Vec<_> = words.split(' ').collect();
        run(&tools.etcdctl, &[&[endpoint.as_str()], &words[..]].concat())
    };
    let server = runtime.block_on(Server::start(&tools.ours, &[]))?;
    let large = "x".repeat(120_000);
    for number in 0..30 {
        etcdctl(&server, &format!("put k{number:02} {number}-{large}"))?;
    }
    for range in [
        "k --prefix",
        "k --prefix --write-out=json",
        "k --prefix --write-out=fields",
        "k --prefix --print-value-only",
        "k10 k20 --write-out=json",
        "k05 --from-key --limit=20 --write-out=fields",
        "k --prefix --rev=12",
        "k --prefix --keys-only --consistency=s --write-out=json",
        "k --prefix --count-only --write-out=fields",
        "k07 --write-out=json",
        "nothing --write-out=json",
    ] {
        let whole = etcdctl(&server, &format!("get {range}"))?;
        let in_pieces = etcdctl(&server, &format!("get --stream {range}"))?;
        equal(range, &(in_pieces == whole), &true)?;
    }
    for refused in ["--rev=99", "--order=DESCEND", "--min-mod-rev=3"] {
        let answer = etcdctl(&server, &format!("get --stream k --prefix {refused}"));
        equal(refused, &answer.is_err(), &true)?;
    }
    let old = runtime.block_on(Server::start(&tools.reference, &[]))?;
    let answer = etcdctl(&old, "get --stream k");
    let is_told = answer
        .as_ref()
        .is_err_and(|why| why.contains("The server is of a release"));
    equal("a server of 3.5", &is_told, &true)
}

/// Our tools save a backup of each server and make data folders of it, one of them with revisions skipped; each server
/// starts from one, with the same keys, leases, users and hash.
fn a_backup_of_either_server_is_restored_for_either(tools: &Tools) -> Result<(), String> {
    let runtime = harness::runtime()?;
    let tools = tools.with_our_tools();
    let etcdutl = tools.ours.with_file_name("etcdutl");
    let etcdctl = |server: &Server, words: &[&str]| {
        let endpoint = format!("--endpoints={}", server.endpoint());
        run(&tools.etcdctl, &[&[endpoint.as_str()], words].concat())
    };
    for program in [&tools.reference, &tools.ours] {
        let server = runtime.block_on(Server::start(program, &[]))?;
        for number in 0..40 {
            etcdctl(
                &server,
                &["put", &format!("k{:02}", number % 30), &format!("value {number}")],
            )?;
        }
        etcdctl(&server, &["del", "k10", "k20", "--range"])?;
        etcdctl(&server, &["compaction", "20"])?;
        etcdctl(&server, &["lease", "grant", "5000"])?;
        etcdctl(&server, &["user", "add", "someone:secret"])?;
        let backup = server.folder().join("backup.db").display().to_string();
        etcdctl(&server, &["snapshot", "save", &backup])?;
        let hash = run(&etcdutl, &["hashkv", &backup])?;
        let status = run(&etcdutl, &["snapshot", "status", &backup])?;
        let expected = [
            ("revision of the backup", status.split(", ").nth(1), Some("42")),
            ("keys of the backup", status.split(", ").nth(2), Some("20")),
        ];
        for (what, found, expected) in expected {
            equal(what, &found, &expected)?;
        }
        for (restored_for, bump) in [(&tools.reference, 0), (&tools.ours, 0), (&tools.ours, 1000)] {
            let ports = Ports::free();
            let folder = server.folder().join(format!("restored-{}-{bump}", ports.name()));
            let mut words = vec![
                "snapshot".to_owned(),
                "restore".to_owned(),
                backup.clone(),
                format!("--data-dir={}", folder.display()),
                format!("--name={}", ports.name()),
                format!("--initial-advertise-peer-urls={}", ports.peer_url()),
                format!("--initial-cluster={}", ports.initial_cluster()),
            ];
            if bump > 0 {
                words.extend([format!("--bump-revision={bump}"), "--mark-compacted".to_owned()]);
            }
            run(&etcdutl, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
            let restored = runtime.block_on(Server::start_on(restored_for, &folder, ports))?;
            for question in [
                &["get", "", "--prefix"][..],
                &["lease", "list"],
                &["user", "list"],
            ] {
                let [before, after] = [&server, &restored].map(|server| etcdctl(server, question));
                equal(&question.join(" "), &before?, &after?)?;
            }
            let old = etcdctl(&restored, &["get", "k05", "--rev=30"]);
            equal("an old revision is there", &old.is_ok(), &(bump == 0))?;
            if bump == 0 {
                let of_member = etcdctl(&restored, &["endpoint", "hashkv"])?;
                let of_member = of_member.split(", ").nth(1).unwrap_or_default();
                equal("hash", &hash.split(", ").next(), &Some(of_member))?;
            }
            let written = etcdctl(&restored, &["put", "new", "1", "--write-out=json"])?;
            let revision = format!("\"revision\":{}", 43 + bump);
            equal("goes on", &written.contains(&revision), &true)?;
        }
    }
    Ok(())
}

/// Backups are named as they are when one stands in their folder. One that is cut short or damaged, a folder that is
/// there, and flags that do not fit: each is told with what to do, and there is no folder afterwards.
fn what_is_wrong_with_a_backup_is_said_and_nothing_is_left_behind(tools: &Tools) -> Result<(), String> {
    let runtime = harness::runtime()?;
    let tools = tools.with_our_tools();
    let server = runtime.block_on(Server::start(&tools.ours, &[]))?;
    let folder = server.folder();
    let endpoint = format!("--endpoints={}", server.endpoint());
    for number in 0..20 {
        run(
            &tools.etcdctl,
            &[&endpoint, "put", &format!("k{number}"), "value"],
        )?;
    }
    let here = |tool: &str, words: &[&str]| {
        let output = Command::new(tools.ours.with_file_name(tool))
            .args(words)
            .current_dir(folder)
            .output()
            .map_err(|e| e.to_string())?;
        let text = [output.stdout, output.stderr].concat();
        Ok::<_, String>((
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        ))
    };
    for (tool, words) in [
        ("etcdctl", &[&*endpoint, "snapshot", "save", "backup.db"][..]),
        (
            "etcdutl",
            &["snapshot", "status", "backup.db", "--write-out=yaml"],
        ),
        ("etcdutl", &["hashkv", "backup.db", "--write-out=yaml"]),
    ] {
        let (done, text) = here(tool, words)?;
        equal(&format!("{words:?} {text}"), &done, &true)?;
    }
    let io = |error: std::io::Error| error.to_string();
    let whole = std::fs::read(folder.join("backup.db")).map_err(io)?;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(folder.join("damaged.db"), damaged).map_err(io)?;
    std::fs::write(folder.join("cut.db"), &whole[..whole.len() - 100]).map_err(io)?;
    std::fs::create_dir_all(folder.join("there/member")).map_err(io)?;
    for (words, cure) in [
        (&["damaged.db", "--data-dir=new"][..], "take another backup"),
        (&["cut.db", "--data-dir=new"], "The file is cut short"),
        (&["backup.db", "--data-dir=there"], "nothing is overwritten"),
        (
            &["backup.db", "--data-dir=new", "--wal-dir=there"],
            "nothing is overwritten",
        ),
        (
            &["backup.db", "--data-dir=new", "--name=x"],
            "--initial-cluster names all members",
        ),
        (
            &["backup.db", "--data-dir=damaged.db/new"],
            "cannot write damaged.db/new",
        ),
    ] {
        let (done, text) = here("etcdutl", &[&["snapshot", "restore"], words].concat())?;
        equal(
            &format!("{words:?}: {text}"),
            &(done, text.contains(cure)),
            &(false, true),
        )?;
        equal(
            &format!("{words:?}: a log"),
            &folder.join("new/member").exists(),
            &false,
        )?;
    }
    for words in [&["snapshot", "status", "cut.db"][..], &["hashkv", "cut.db"]] {
        std::fs::write(folder.join("cut.db"), &whole[..whole.len() / 2]).map_err(io)?;
        let (done, text) = here("etcdutl", words)?;
        let is_told = text.contains("The file is cut short");
        equal(&format!("{words:?}: {text}"), &(done, is_told), &(false, true))?;
    }
    let (done, text) = here("etcdutl", &["snapshot", "restore", "backup.db", "--data-dir=new"])?;
    equal(&text, &done, &true)?;
    let (_, text) = here("etcdctl", &[&endpoint, "snapshot", "save", "new"])?;
    equal(&text, &text.contains("new is a folder"), &true)
}

/// What the real etcd has written is rewritten without its free pages, and takes the version of another release and its
/// own again; then the real etcd goes on with all it had. A folder in use is left alone.
fn a_folder_of_etcd_is_made_smaller_and_given_another_version(tools: &Tools) -> Result<(), String> {
    let runtime = harness::runtime()?;
    let etcdutl = tools.ours.with_file_name("etcdutl");
    let mut server = runtime.block_on(Server::start(&tools.reference, &[]))?;
    let etcdctl = |server: &Server, words: &[&str]| {
        let endpoint = format!("--endpoints={}", server.endpoint());
        run(&tools.etcdctl, &[&[endpoint.as_str()], words].concat())
    };
    let large = "x".repeat(100_000);
    for number in 0..10 {
        etcdctl(&server, &["put", &format!("k{number}"), &large])?;
    }
    etcdctl(&server, &["del", "k1", "k9", "--range"])?;
    etcdctl(&server, &["compaction", "12", "--physical"])?;
    let folder = format!("--data-dir={}", server.data().display());
    let in_use = run(&etcdutl, &["defrag", &folder, "--timeout=100ms"]);
    equal("a folder in use is left alone", &in_use.is_err(), &true)?;
    let hash = etcdctl(&server, &["endpoint", "hashkv"])?;
    runtime.block_on(server.stop())?;

    let db = server.data().join("member/snap/db");
    let bytes = || {
        std::fs::metadata(&db)
            .map(|file| file.len())
            .map_err(|e| e.to_string())
    };
    let before = bytes()?;
    run(&etcdutl, &["defrag", &folder])?;
    equal("it is smaller", &(bytes()? < before / 2), &true)?;
    let version = || {
        let status = run(&etcdutl, &["snapshot", "status", &db.display().to_string()])?;
        Ok::<_, String>(
            status
                .trim_end()
                .rsplit(", ")
                .next()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let own = version()?;
    run(&etcdutl, &["migrate", &folder, "--target-version=3.6"])?;
    equal("version", &version()?, &"3.6.0".to_owned())?;
    run(&etcdutl, &["migrate", &folder, "--target-version=3.5"])?;
    equal("version", &version()?, &own)?;
    for wrong in ["3.4", "3.5.1", "x"] {
        let flag = format!("--target-version={wrong}");
        equal(
            &flag,
            &run(&etcdutl, &["migrate", &folder, &flag]).is_err(),
            &true,
        )?;
    }
    runtime.block_on(server.resume())?;
    equal("hash", &etcdctl(&server, &["endpoint", "hashkv"])?, &hash)
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, left: &T, right: &T) -> Result<(), String> {
    match left == right {
        true => Ok(()),
        false => Err(format!("{what}: {left:?} and {right:?}")),
    }
}

fn check(script: &Script, tools: &Tools) -> Result<(), String> {
    let servers = [("etcd", &tools.reference), ("our server", &tools.ours)];
    let reports = std::thread::scope(|scope| {
        let on = servers.map(|(name, server)| scope.spawn(move || compared_on(name, server, script, tools)));
        on.map(|on| on.join().map_err(|_| "a session panicked"))
    });
    let reports = reports.into_iter().collect::<Result<String, _>>()?;
    match reports.is_empty() {
        true => Ok(()),
        false => Err(reports),
    }
}

/// What the two tools print otherwise on a server.
fn compared_on(name: &str, server: &Path, script: &Script, tools: &Tools) -> String {
    let with_ours = tools.with_our_tools();
    let (real, mut ours) = std::thread::scope(|scope| {
        let real = scope.spawn(|| session::run(tools, server, &script.text));
        let ours = session::run(&with_ours, server, &script.text);
        (real.join().expect("a session panicked"), ours)
    });
    let mut expected = real.steps;
    for (expected, ours) in expected.iter_mut().zip(&mut ours.steps) {
        ours.answer = transcripts::in_common(&ours.call, &ours.answer);
        expected.answer = match transcripts::is_newer(&ours.call) {
            true => ours.answer.clone(),
            false => transcripts::in_common(&expected.call, &expected.answer),
        };
    }
    let mut report = compare(&expected, &ours.steps, &[]);
    if !report.is_empty() {
        report = format!("on {name} (- the real etcdctl, + ours):\n{report}");
    }
    for (tool, recording) in [("the real etcdctl", real.recording), ("ours", ours.recording)] {
        if let Err(error) = recording {
            report += &format!("on {name}, {tool}: {error}\n");
        }
    }
    report
}
