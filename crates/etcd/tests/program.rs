//! The program as its callers see it: exit codes and what it prints. None of these comes to serve.

// A test of the rim: it has files.
#![allow(clippy::disallowed_methods)]

use std::process::{Command, Output};

use serde_json::Value;

fn etcd(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd"));
    command.args(args).env_clear().envs(env.iter().copied());
    command.output().expect("the program is there")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("what it prints is text")
}

/// The lines of the log; every line there is must be one.
fn log(output: &Output) -> Vec<Value> {
    assert_eq!(text(&output.stdout), "");
    let lines = text(&output.stderr);
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        for key in ["level", "ts", "caller", "msg"] {
            assert!(
                value[key].as_str().is_some_and(|text| !text.is_empty()),
                "no {key}: {line}"
            );
        }
        value
    };
    lines.lines().map(line).collect()
}

/// The last line of the log.
fn last(output: &Output) -> Value {
    log(output).pop().expect("it has logged something")
}

#[test]
fn the_version_is_four_lines() {
    let output = etcd(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output.stdout);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], "etcd Version: 3.7.1");
    for (line, begin) in lines[1..]
        .iter()
        .zip(["Git SHA: ", "Go Version: ", "Go OS/Arch: linux/"])
    {
        assert!(line.starts_with(begin) && line.len() > begin.len(), "{line}");
    }
}

#[test]
fn help_goes_to_both_outputs() {
    for flag in ["-h", "--help", "-help"] {
        let output = etcd(&[flag], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stderr).starts_with("Usage:\n\n  etcd [flags]\n"));
        assert!(text(&output.stdout).contains("\nMember:\n  --name 'default'\n"));
    }
}

#[test]
fn a_command_line_that_cannot_be_read_is_code_2_and_plain_text() {
    let output = etcd(&["--nope"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("flag provided but not defined: -nope\nUsage:\n"));
    let output = etcd(&["--max-wals=x"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).starts_with("invalid value \"x\" for flag -max-wals: parse error\nUsage:\n")
    );
}

#[test]
fn settings_that_make_no_sense_are_code_1_and_a_warning() {
    for (args, error) in [
        (&["extra"][..], "\"extra\" is not a valid flag"),
        (
            &["--heartbeat-interval=0"],
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--log-level=loud"], "unrecognized level: \"loud\""),
    ] {
        let output = etcd(args, &[]);
        assert_eq!(output.status.code(), Some(1));
        let line = last(&output);
        assert_eq!(
            (&line["level"], &line["msg"]),
            (&"warn".into(), &"failed to verify flags".into())
        );
        assert_eq!(line["error"], error);
    }
    let output = etcd(&[], &[("ETCD_MAX_WALS", "zz")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        last(&output)["error"],
        "invalid value \"zz\" for ETCD_MAX_WALS: parse error"
    );
}

#[test]
fn a_file_of_settings_that_makes_no_sense_is_code_1_and_names_the_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("etcd.yml");
    let shown = path.display().to_string();
    let refusal = |text: &str| {
        std::fs::write(&path, text).expect("it is written");
        let output = etcd(&[&format!("--config-file={shown}")], &[]);
        assert_eq!(output.status.code(), Some(1));
        last(&output)["error"].as_str().expect("a text").to_owned()
    };
    assert_eq!(
        refusal("name: a\nmax-txn-ops: many\n"),
        format!("{shown}: line 2: max-txn-ops: invalid value \"many\": parse error; write a whole number")
    );
    assert_eq!(
        refusal("name: a\n\nheartbeat-interval: 0\n"),
        format!("{shown}: line 3: --heartbeat-interval must be >0 (set to 0ms)")
    );
    for (file, lines) in [
        (
            "listen-client-urls: https://127.0.0.1:1\nadvertise-client-urls: https://127.0.0.1:1\n\
             client-transport-security:\n  cert-file: /nowhere/c.pem\n  key-file: /nowhere/c\n",
            "line 5",
        ),
        (
            "listen-client-urls: http://127.0.0.1:1\n\nlisten-client-http-urls: http://127.0.0.1:1\n",
            "line 1, line 3",
        ),
        ("initial-cluster: b=http://127.0.0.1:1\n", "line 1"),
        ("auth-token: 'jwt,sign-method=RS256,pub-key=/nowhere'\n", "line 1"),
    ] {
        std::fs::write(&path, file).expect("it is written");
        let output = etcd(&["check-config", &format!("--config-file={shown}")], &[]);
        let log = text(&output.stderr);
        let line: Value = serde_json::from_str(log.lines().last().expect("a line")).expect("it is JSON");
        let error = line["error"].as_str().expect("a text");
        assert!(error.starts_with(&format!("{shown}: {lines}: ")), "{error}");
    }
    let output = etcd(&[], &[("ETCD_CONFIG_FILE", "/nowhere")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        last(&output)["error"],
        "open /nowhere: No such file or directory (os error 2) (--config-file)"
    );
}

#[test]
fn flag_and_variable_for_one_thing_are_code_1_and_fatal() {
    let output = etcd(&["--name=a"], &[("ETCD_NAME", "b")]);
    assert_eq!(output.status.code(), Some(1));
    let line = last(&output);
    assert_eq!(line["level"], "fatal");
    assert_eq!(
        line["msg"],
        "conflicting environment variable is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag))"
    );
    assert_eq!(
        (&line["environment-variable"], &line["flag"]),
        (&"ETCD_NAME".into(), &"--name".into())
    );
}

#[test]
fn a_missing_advertise_url_is_said_twice_as_etcd_does() {
    let output = etcd(&["--listen-client-urls=http://127.0.0.1:2379"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let messages: Vec<_> = log(&output).iter().map(|line| line["msg"].clone()).collect();
    assert!(messages.ends_with(&[
        "failed to verify flags".into(),
        "advertise client URLs are not set".into()
    ]));
}

#[test]
fn the_log_goes_where_it_is_sent_and_tells_of_the_environment() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("log");
    let outputs = format!("--log-outputs={}", path.display());
    let env = [("ETCD_PRE_VOTE", "false"), ("ETCD_STRANGE", "secret")];
    let args = [
        &outputs,
        "--election-timeout=1",
        "--discovery-user=u:secret",
        "--discovery-password",
        "secret",
    ];
    let output = etcd(&args, &env);
    assert_eq!(
        (text(&output.stderr), text(&output.stdout)),
        (String::new(), String::new())
    );
    let log = std::fs::read_to_string(path).expect("the log is there");
    assert!(log.contains("\"variable-name\":\"ETCD_PRE_VOTE\",\"variable-value\":\"false\""));
    assert!(log.contains("\"unrecognized environment variable\",\"environment-variable\":\"ETCD_STRANGE\""));
    assert!(log.contains("\"failed to verify flags\""));
    assert!(!log.contains("secret"));
}

#[test]
fn a_port_in_use_is_fatal_before_any_data_is_touched() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", taken.local_addr().expect("it is bound"));
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let data_dir = format!("--data-dir={}", data.display());
    let output = etcd(&[&data_dir, &format!("--listen-peer-urls={url}")], &[]);
    assert_eq!(output.status.code(), Some(1));
    let line = last(&output);
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&"fatal".into(), &"failed to start etcd".into())
    );
    let error = line["error"].as_str().expect("a text");
    assert!(
        error.contains("bind: address already in use (--listen-peer-urls: "),
        "{error}"
    );
    assert!(!data.exists());
}

/// The settings that `check-config` tells as JSON, by name.
fn checked(args: &[&str], env: &[(&str, &str)]) -> (Output, Vec<Value>) {
    let output = etcd(&[&["check-config", "-w", "json"], args].concat(), env);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let settings = report["settings"].as_array().cloned().unwrap_or_default();
    (output, settings)
}

#[test]
fn check_config_tells_what_holds_and_who_said_so_and_touches_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let [data, log] = ["data", "log"].map(|name| dir.path().join(name));
    let args = [
        format!("--data-dir={}", data.display()),
        format!("--log-outputs={}", log.display()),
        "--raft-read-timeout=1s".into(),
        "--discovery-user=u:s3cret".into(),
        "--auto-tls".into(),
        "--listen-client-urls=https://127.0.0.1:2379".into(),
        "--advertise-client-urls=https://a:2379".into(),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let env = [("ETCD_NAME", "m1"), ("ETCD_DISCOVERY_PASSWORD", "s3cret")];
    let (output, settings) = checked(&args, &env);
    assert_eq!(output.status.code(), Some(0));
    let setting = |name: &str| {
        settings
            .iter()
            .find(|row| row["name"] == name)
            .expect("it is there")
    };
    assert_eq!(
        (&setting("name")["value"], &setting("name")["source"]),
        (&"m1".into(), &"variable".into())
    );
    assert_eq!(setting("name")["variable"], "ETCD_NAME");
    assert_eq!(setting("initial-cluster")["value"], "m1=http://localhost:2380");
    assert_eq!(setting("initial-cluster")["completed"], true);
    assert_eq!(
        (
            &setting("raft-read-timeout")["value"],
            &setting("raft-read-timeout")["source"]
        ),
        (&"5s".into(), &"flag".into())
    );
    assert_eq!(
        (&setting("max-wals")["value"], &setting("max-wals")["source"]),
        (&"5".into(), &"default".into())
    );
    assert_eq!(setting("discovery-password")["value"], "***");
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(!all.contains("s3cret"), "{all}");
    assert!(!data.exists() && !log.exists());
}

#[test]
fn check_config_names_the_line_of_a_file_in_a_table() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("etcd.yml");
    let shown = path.display().to_string();
    std::fs::write(&path, "name: m1\n\nmax-wals: 3\n").expect("it is written");
    let output = etcd(&["check-config", &format!("--config-file={shown}")], &[]);
    assert_eq!(output.status.code(), Some(0));
    let table = text(&output.stdout);
    let columns = |name: &str| {
        let line = table
            .lines()
            .find(|line| line.starts_with(name))
            .expect("it is there");
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(columns("SETTING"), ["SETTING", "VALUE", "FROM"]);
    assert_eq!(
        columns("max-wals"),
        ["max-wals".to_owned(), "3".into(), format!("{shown}:3")]
    );
    assert_eq!(
        columns("data-dir"),
        ["data-dir", "m1.etcd", "default,", "completed"]
    );
}

#[test]
fn check_config_finds_what_a_start_would_find() {
    for (args, error) in [
        (
            &["--heartbeat-interval=0"][..],
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (&["--log-level=loud"], "unrecognized level: \"loud\""),
        (
            &["--initial-cluster=x=http://a:1"],
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url https://127.0.0.1:1",
        ),
        (
            &["--listen-client-http-urls=http://localhost:2379"],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379",
        ),
    ] {
        let (output, _) = checked(args, &[]);
        assert_eq!(output.status.code(), Some(1));
        let log = text(&output.stderr);
        let line: Value = serde_json::from_str(log.lines().last().expect("a line")).expect("it is JSON");
        assert_eq!(line["msg"], "failed to verify flags");
        assert_eq!(line["error"], error);
    }
    let (output, _) = checked(&["--auth-token=jwt,sign-method=RS256,priv-key=/nowhere"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(checked(&["--nope"], &[]).0.status.code(), Some(2));
    assert_eq!(etcd(&["check-config", "-w", "xml"], &[]).status.code(), Some(2));
}

#[test]
fn a_health_check_without_a_server_says_so_and_fails() {
    let output = etcd(&["healthcheck", "http://127.0.0.1:1"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = text(&output.stderr);
    assert!(
        text.starts_with("unhealthy: 127.0.0.1:1 does not answer: ")
            && text.ends_with("is the server running there?\n"),
        "{text}"
    );
}

#[test]
fn a_proxy_that_would_talk_to_itself_does_not_start() {
    let own = [
        "--listen-addr",
        "127.0.0.1:23001",
        "--endpoints=http://127.0.0.1:23001",
    ];
    let output = etcd(&[&["gateway", "start"][..], &own].concat(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = "should not resolve to the gateway listen addr (127.0.0.1:23001)\n";
    assert!(text(&output.stderr).ends_with(said));
}
