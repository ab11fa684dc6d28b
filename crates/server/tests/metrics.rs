//! Every metric of ours is one of etcd's, with its kind, its labels and its buckets; and every one of
//! etcd's is either ours or listed below with the reason why it is not.

use std::collections::BTreeMap;

use server::metrics::Metrics;

const BBOLT: &str = "a phase of bbolt's commit that the store does not have: it appends, and has no pages";
const V2: &str = "belongs to etcd's second API, which is not served";
const PROXY: &str = "belongs to `etcd grpc-proxy start`";

/// Names, or beginnings of names with `*`, and why they are not declared.
const NOT_DECLARED: [(&str, &str); 4] = [
    ("etcd_debugging_disk_backend_commit_rebalance_*", BBOLT),
    ("etcd_debugging_disk_backend_commit_spill_*", BBOLT),
    ("etcd_debugging_store_*", V2),
    ("etcd_grpc_proxy_*", PROXY),
];

/// A line of etcd's list: kind, labels, bounds of the buckets.
type Family = (String, Vec<String>, Vec<f64>);

fn theirs() -> BTreeMap<&'static str, Family> {
    let list = include_str!("data/metrics.txt");
    let lines = list
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let family = |line: &'static str| {
        let columns: Vec<_> = line.split('\t').collect();
        let labels = columns[2].split(',').filter(|label| *label != "-");
        let bounds = bounds(columns[3]);
        (
            columns[0],
            (columns[1].to_owned(), labels.map(str::to_owned).collect(), bounds),
        )
    };
    lines.map(family).collect()
}

fn bounds(column: &str) -> Vec<f64> {
    if column.starts_with("prometheus default") {
        return vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    }
    let Some(numbers) = column
        .strip_prefix("exp(")
        .and_then(|rest| rest.strip_suffix(')'))
    else {
        return vec![];
    };
    let number = |text: &str| text.parse::<f64>().expect("three numbers in exp()");
    let numbers: Vec<_> = numbers.split(',').map(number).collect();
    let grow = |bound: &f64| Some(bound * numbers[1]);
    std::iter::successors(Some(numbers[0]), grow)
        .take(numbers[2] as usize)
        .collect()
}

fn excuse(name: &str) -> Option<&'static str> {
    let covers = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    };
    NOT_DECLARED
        .iter()
        .find_map(|(pattern, why)| covers(pattern).then_some(*why))
}

#[test]
fn what_is_declared_is_declared_as_etcd_does() {
    let theirs = theirs();
    for ours in Metrics::declarations() {
        let (kind, labels, bounds) = theirs
            .get(ours.name)
            .unwrap_or_else(|| panic!("{} is no metric of etcd", ours.name));
        assert_eq!(ours.kind, kind, "kind of {}", ours.name);
        assert_eq!(ours.labels, labels, "labels of {}", ours.name);
        assert_eq!(ours.buckets, *bounds, "buckets of {}", ours.name);
        assert_eq!(excuse(ours.name), None, "{} is declared after all", ours.name);
    }
}

#[test]
fn what_is_not_declared_has_a_reason() {
    let ours: Vec<_> = Metrics::declarations()
        .into_iter()
        .map(|ours| ours.name)
        .collect();
    let missing: Vec<_> = theirs()
        .into_keys()
        .filter(|name| !ours.contains(name) && excuse(name).is_none())
        .collect();
    assert!(missing.is_empty(), "neither declared nor excused: {missing:#?}");
}

#[test]
fn every_excuse_is_for_something() {
    let theirs = theirs();
    for (pattern, _) in NOT_DECLARED {
        let beginning = pattern.trim_end_matches('*');
        assert!(theirs.keys().any(|name| name.starts_with(beginning)), "{pattern}");
    }
}
