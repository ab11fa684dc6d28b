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
    let output = etcd(&[&outputs, "--election-timeout=1"], &env);
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
