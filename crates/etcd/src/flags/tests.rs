//! Command lines and environments with what etcd makes of them; the refusals were read off a running etcd.

use server::config::{ClusterState, Gate};

use super::*;

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| item.to_string()).collect()
}

fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, Refusal> {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    parse(&strings(args), &env, |path| Err(io::Error::other(path)))
}

#[track_caller]
fn settings(args: &[&str], env: &[(&str, &str)]) -> Settings {
    match read(args, env) {
        Ok(Invocation::Serve(settings)) => *settings,
        other => panic!("no server: {other:?}"),
    }
}

#[track_caller]
fn usage(args: &[&str]) -> String {
    match read(args, &[]) {
        Err(Refusal::Usage(problem)) => problem,
        other => panic!("no usage error: {other:?}"),
    }
}

#[track_caller]
fn invalid(args: &[&str], env: &[(&str, &str)]) -> String {
    match read(args, env) {
        Err(Refusal::Invalid { problem, .. }) => problem,
        other => panic!("not invalid: {other:?}"),
    }
}

#[test]
fn the_table_holds_etcds_flags_and_some_of_ours() {
    let mut ours: Vec<_> = FLAGS.iter().map(Flag::name).collect();
    ours.sort();
    let mut theirs: Vec<_> = include_str!("../../tests/data/flags.txt").lines().collect();
    theirs.extend([
        "auth-min-password-length",
        "client-cert-allowed-cn",
        "confine-files",
        "strict-flags",
    ]);
    theirs.sort();
    assert_eq!(ours, theirs);
}

/// The list names each flag of etcd's with its key, or `-` where it has none.
#[test]
fn every_flag_has_the_key_it_has_in_etcds_file() {
    for line in include_str!("../../tests/data/keys.txt").lines() {
        let (name, key) = line.split_once(' ').unwrap();
        let flag = Flag::find(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(flag.key().as_deref().unwrap_or("-"), key, "{name}");
    }
}

#[test]
fn every_way_to_write_a_flag() {
    let args = [
        "-name",
        "a",
        "--data-dir=d",
        "--pre-vote=F",
        "-max-wals",
        "0x10",
        "--name=b",
    ];
    let flags = settings(&args, &[]).flags;
    assert_eq!((flags.name.as_str(), flags.data_dir.as_str()), ("b", "d"));
    assert_eq!((flags.pre_vote, flags.max_wals), (false, 16));
    let flags = settings(
        &["--unsafe-no-fsync", "--initial-cluster-state", "existing", "--"],
        &[],
    )
    .flags;
    assert!(flags.unsafe_no_fsync);
    assert_eq!(flags.initial_cluster_state, ClusterState::Existing);
}

#[test]
fn gates_add_up_and_the_last_setting_of_each_holds() {
    let args = [
        "--experimental-initial-corrupt-check",
        "--feature-gates=LeaseCheckpoint=true,CompactHashCheck=true",
        "--feature-gates=LeaseCheckpointPersist=true,CompactHashCheck=false",
    ];
    let settings = settings(&args, &[]);
    let enabled = |gate| settings.flags.feature_gates.enabled(gate);
    assert!(enabled(Gate::InitialCorruptCheck) && enabled(Gate::LeaseCheckpoint));
    assert!(enabled(Gate::LeaseCheckpointPersist) && !enabled(Gate::CompactHashCheck));
}

#[test]
fn refusals_of_the_command_line() {
    for (args, problem) in [
        (&["--nope"][..], "flag provided but not defined: -nope"),
        (&["-nope=1"], "flag provided but not defined: -nope"),
        (
            &["--listen_client_urls=x"],
            "flag provided but not defined: -listen_client_urls",
        ),
        (&["--name"], "flag needs an argument: -name"),
        (&["---x"], "bad flag syntax: ---x"),
        (&["-=x"], "bad flag syntax: -=x"),
        (
            &["--max-wals=x"],
            "invalid value \"x\" for flag -max-wals: parse error",
        ),
        (
            &["--max-wals=-1"],
            "invalid value \"-1\" for flag -max-wals: parse error",
        ),
        (
            &["--quota-backend-bytes=99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -quota-backend-bytes: value out of range",
        ),
        (
            &["--max-concurrent-streams=4294967296"],
            "invalid value \"4294967296\" for flag -max-concurrent-streams: \
             strconv.ParseUint: parsing \"4294967296\": value out of range",
        ),
        (
            &["--max-concurrent-streams=-1"],
            "invalid value \"-1\" for flag -max-concurrent-streams: \
             strconv.ParseUint: parsing \"-1\": invalid syntax",
        ),
        (
            &["--pre-vote=maybe"],
            "invalid boolean value \"maybe\" for -pre-vote: parse error",
        ),
        (
            &["--initial-cluster-state=foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (
            &["--v2-deprecation=not-yet"],
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"",
        ),
        (
            &["--warning-apply-duration=-1s"],
            "invalid value \"-1s\" for flag -warning-apply-duration: parse error",
        ),
        (
            &["--grpc-keepalive-interval=5"],
            "invalid value \"5\" for flag -grpc-keepalive-interval: parse error",
        ),
        (
            &["--listen-client-urls=foo"],
            "invalid value \"foo\" for flag -listen-client-urls: \
             URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            &["--feature-gates=X=true"],
            "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X",
        ),
        (
            &["--discovery=http://x"],
            "flag provided but not defined: -discovery",
        ),
        (&["--proxy=on"], "flag provided but not defined: -proxy"),
    ] {
        assert_eq!(usage(args), problem);
    }
}

#[test]
fn help_and_version_come_first() {
    assert!(matches!(
        read(&["--name=x", "-h", "--nope"], &[]),
        Ok(Invocation::Help)
    ));
    assert!(matches!(read(&["--help=false"], &[]), Ok(Invocation::Help)));
    let env = [("ETCD_NAME", "x"), ("ETCD_MAX_WALS", "x")];
    assert!(matches!(
        read(&["--version", "--name=y"], &env),
        Ok(Invocation::Version)
    ));
    assert_eq!(
        invalid(&["--version", "a", "--nope"], &[]),
        "\"a\" is not a valid flag"
    );
    assert_eq!(
        invalid(&["--name=x", "--", "--foo"], &[]),
        "\"--foo\" is not a valid flag"
    );
}

#[test]
fn the_environment_fills_what_the_command_line_leaves_open() {
    let env = [
        ("ETCD_NAME", "a"),
        ("ETCD_MAX_WALS", ""),
        ("ETCD_PRE_VOTE", "0"),
        ("ETCD_FOO", "secret"),
        ("ETCD_VERSION", "3"),
        ("ETCD_UNSUPPORTED_ARCH", "amd64"),
        ("ETCD_CLUSTER_ACTIVE_SIZE", "3"),
        ("ETCDCTL_API", "3"),
        ("HOME", "/"),
    ];
    let settings = settings(&["--data-dir=d"], &env);
    assert_eq!((settings.flags.name.as_str(), settings.flags.max_wals), ("a", 5));
    assert!(!settings.flags.pre_vote && settings.is_given("pre_vote") && !settings.is_given("max_wals"));
    assert_eq!(
        settings.notes,
        [
            Note::EnvUsed {
                name: "ETCD_NAME".into(),
                value: "a".into()
            },
            Note::EnvUsed {
                name: "ETCD_PRE_VOTE".into(),
                value: "0".into()
            },
            Note::EnvUnknown {
                name: "ETCD_FOO".into()
            },
            Note::EnvSpecial {
                name: "ETCD_VERSION".into()
            },
        ]
    );
}

#[test]
fn flag_and_variable_at_once_are_fatal_even_when_the_variable_is_empty() {
    for value in ["a", ""] {
        let refusal = read(&["--name=b"], &[("ETCD_NAME", value)]).unwrap_err();
        assert!(matches!(&refusal, Refusal::Conflict { flag, env } if flag == "name" && env == "ETCD_NAME"));
        assert_eq!(
            refusal.to_string(),
            "conflicting environment variable is shadowed by corresponding command-line flag \
             (either unset environment variable or disable flag))"
        );
    }
}

#[test]
fn a_variables_bad_value_is_invalid_but_no_usage_error() {
    assert_eq!(
        invalid(&[], &[("ETCD_MAX_WALS", "zz")]),
        "invalid value \"zz\" for ETCD_MAX_WALS: parse error"
    );
    assert_eq!(
        invalid(&[], &[("ETCD_PRE_VOTE", "zz")]),
        "invalid value \"zz\" for ETCD_PRE_VOTE: parse error"
    );
}

#[test]
fn ignored_flags_are_ignored_in_silence() {
    let settings = settings(&["--snapshot=x", "--force", "-v=2", "--name=a"], &[]);
    assert_eq!(settings.flags.name, "a");
    assert!(settings.notes.is_empty());
}

#[test]
fn removed_flags_are_mapped_with_a_warning() {
    let args = [
        "--experimental-initial-corrupt-check",
        "--experimental-watch-progress-notify-interval=5s",
        "--experimental-memory-mlock",
        "--enable-v2=true",
        "--proxy",
        "off",
        "--name=a",
    ];
    let settings = settings(&args, &[("ETCD_EXPERIMENTAL_CORRUPT_CHECK_TIME", "1h")]);
    let flags = &settings.flags;
    assert!(flags.feature_gates.enabled(Gate::InitialCorruptCheck) && flags.memory_mlock);
    assert_eq!(flags.watch_progress_notify_interval.as_secs(), 5);
    assert_eq!(flags.corrupt_check_time.as_secs(), 3600);
    assert_eq!(flags.name, "a");
    let renamed = settings
        .notes
        .iter()
        .filter(|note| matches!(note, Note::Renamed { .. }));
    let dropped = settings
        .notes
        .iter()
        .filter(|note| matches!(note, Note::Dropped { .. }));
    assert_eq!((renamed.count(), dropped.count()), (4, 2));
}

#[test]
fn strict_flags_brings_the_refusal_of_removed_flags_back() {
    assert_eq!(
        usage(&["--experimental-memory-mlock", "--strict-flags"]),
        "flag provided but not defined: -experimental-memory-mlock"
    );
    assert_eq!(
        usage(&["--experimental-nope"]),
        "flag provided but not defined: -experimental-nope"
    );
}

#[test]
fn a_password_in_the_environment_is_not_logged() {
    let env = [
        ("ETCD_DISCOVERY_PASSWORD", "s3cret"),
        ("ETCD_DISCOVERY_USER", "u:s3cret"),
    ];
    let notes = settings(&[], &env).notes;
    assert!(!format!("{notes:?}").contains("s3cret"));
}

#[test]
fn the_help_shows_every_flag_with_its_default() {
    let help = help();
    assert!(help.contains("\nClustering:\n  --initial-advertise-peer-urls 'http://localhost:2380'\n    "));
    for flag in FLAGS {
        assert!(help.contains(&format!("  --{} '{}'\n", flag.name(), flag.default)));
    }
}

#[test]
fn the_usage_names_every_command() {
    for command in ["check-config", "healthcheck", "demo", "gateway", "grpc-proxy"] {
        assert!(USAGE.contains(&format!("\n  etcd {command} ")), "{command}");
    }
}
