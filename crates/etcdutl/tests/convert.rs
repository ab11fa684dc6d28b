//! A folder of a real Go etcd, to our layout and back, with Go as the judge.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use store::{Options, Store};

/// A program of the real etcd.
fn reference(name: &str) -> PathBuf {
    let folder = std::env::var_os("KEELSON_REFERENCE").map(PathBuf::from);
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/reference");
    let program = folder.unwrap_or_else(default).join(name);
    assert!(
        program.exists(),
        "run `cargo xtask reference` first: it brings {}",
        program.display()
    );
    program
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A Go member that runs.
struct Go {
    process: Child,
    client: String,
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Go {
    fn start(data_dir: &Path, peer: &str) -> Go {
        let client = free_url();
        let process = Command::new(reference("etcd"))
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--name", "m", "--snapshot-count", "40", "--log-level", "error"])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let go = Go { process, client };
        let asked = go.try_ctl("get --write-out=json --command-timeout=20s --dial-timeout=20s none");
        assert!(
            asked.status.success(),
            "{}",
            String::from_utf8_lossy(&asked.stderr)
        );
        go
    }

    fn try_ctl(&self, words: &str) -> Output {
        Command::new(reference("etcdctl"))
            .args(["--endpoints", &self.client])
            .args(words.split(' '))
            .output()
            .unwrap()
    }

    fn ctl(&self, words: &str) -> String {
        let output = self.try_ctl(words);
        assert!(
            output.status.success(),
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Hashes at a sample of revisions from `first` on.
    fn hashes(&self, first: i64) -> BTreeMap<i64, u64> {
        let hash = |revision: i64| {
            let json = self.ctl(&format!("endpoint hashkv -w json --rev {revision}"));
            let json: Value = serde_json::from_str(&json).unwrap();
            let hash = &json[0]["HashKV"];
            (
                hash["hash"].as_u64().unwrap(),
                hash["header"]["revision"].as_i64().unwrap(),
            )
        };
        let (_, last) = hash(0);
        (first..=last)
            .rev()
            .step_by(5)
            .map(|revision| (revision, hash(revision).0))
            .collect()
    }

    /// What else clients can ask about.
    fn facts(&self) -> Vec<String> {
        [
            "lease list",
            "user list",
            "role get r",
            "alarm list",
            "get --prefix --keys-only k",
        ]
        .map(|words| self.ctl(words))
        .into()
    }

    fn stop(mut self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        self.process.wait().unwrap();
    }
}

fn convert(data_dir: &Path, to: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_etcdutl"))
        .arg("convert")
        .arg("--data-dir")
        .arg(data_dir)
        .arg("--to")
        .args(to.split(' '))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Our hashes at these revisions, as far as the database was written before the log's end.
fn assert_hashes(data_dir: &Path, expected: &BTreeMap<i64, u64>) {
    let disk = Arc::new(env::RealDisk);
    let (_store, recovered) = Store::open(disk, data_dir.join("member/kv"), Options::default()).unwrap();
    let mut compared = 0;
    for (revision, hash) in expected.range(..=recovered.commit.revision) {
        let ours = recovered.mvcc.hash_kv(*revision).unwrap();
        assert_eq!(u64::from(ours.hash), *hash, "at revision {revision}");
        compared += 1;
    }
    assert!(compared > 3);
}

fn there_and_back(signal: &str) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("m.etcd");
    let peer = free_url();
    let go = Go::start(&data_dir, &peer);
    for i in 0..40 {
        go.ctl(&format!("put k{} v{i}", i % 7));
    }
    let lease = go.ctl("lease grant 5000");
    let lease = lease.split(' ').nth(1).unwrap();
    go.ctl(&format!("put leased x --lease {lease}"));
    go.ctl("del k3");
    go.ctl("compaction 20");
    for i in 0..30 {
        go.ctl(&format!("put k{} w{i}", i % 5));
    }
    go.ctl("del k4");
    go.ctl("user add u:password");
    go.ctl("role add r");
    go.ctl("role grant-permission r readwrite k --prefix=true");
    let (hashes, facts) = (go.hashes(20), go.facts());

    let (done, text) = convert(&data_dir, "native");
    assert!(
        !done && text.contains("lock"),
        "a running server keeps its folder: {text}"
    );
    go.stop(signal);

    let (done, text) = convert(&data_dir, "native");
    assert!(done, "{text}");
    assert_hashes(&data_dir, &hashes);
    assert!(data_dir.join("member/snap/db.imported").exists());
    let (done, text) = convert(&data_dir, "native");
    assert!(done && text.contains("Nothing to convert"), "{text}");

    let (done, text) = convert(&data_dir, "bolt --target-version 3.4.9");
    assert!(
        !done && text.contains("is at cluster version 3.5") && text.contains("downgrade enable"),
        "{text}"
    );
    let (done, text) = convert(&data_dir, "bolt --target-version 3.5.30");
    assert!(done && text.contains("kv.converted"), "{text}");
    let (done, text) = convert(&data_dir, "bolt");
    assert!(done && text.contains("Nothing to convert"), "{text}");
    let go = Go::start(&data_dir, &peer);
    assert_eq!(go.facts(), facts);
    assert_eq!(go.hashes(20), hashes);
    for i in 0..20 {
        go.ctl(&format!("put k{} x{i}", i % 5));
    }
    let hashes = go.hashes(20);
    go.stop("-TERM");
    let (done, text) = convert(&data_dir, "native");
    assert!(done, "{text}");
    assert_hashes(&data_dir, &hashes);
}

#[test]
fn a_folder_that_go_closed_comes_over_and_goes_back_with_the_same_hashes() {
    there_and_back("-TERM");
}

#[test]
fn a_folder_whose_go_was_killed_comes_over_and_goes_back_with_the_same_hashes() {
    there_and_back("-KILL");
}

#[test]
fn what_is_no_data_folder_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for to in ["bolt", "native"] {
        let (done, text) = convert(folder.path(), to);
        assert!(
            !done && text.contains("is not the data folder of a member"),
            "{text}"
        );
    }
}
