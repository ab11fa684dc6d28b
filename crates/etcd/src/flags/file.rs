//! A file of settings (`--config-file`), in YAML, of which JSON is a part.
//!
//! It takes the place of all other flags and of the environment. What etcd takes means the same here: the keys are the
//! flags' names, some of them in groups; times are whole numbers of nanoseconds; words like `yes` and `off` are booleans
//! where one is wanted, as in YAML 1.1; a key without a value keeps its default. Where etcd refuses, some things are
//! understood all the same: a number or a time as a flag has it (`5s`), a text without quotes that looks like a number, a
//! list where commas are due and the other way round.
//!
//! A problem names line and key, and what to write instead. A key nobody knows is worth a warning, with the nearest one
//! there is; etcd passes it over in silence.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use server::go;
use thiserror::Error;

use super::table::{FLAGS, Flag};
use super::value::Kind;

/// The longest file that is read. Real ones have some kilobytes.
pub const BYTES_MAX: u64 = 1 << 20;
/// Lists and groups inside each other. Settings have four.
const DEPTH_MAX: usize = 16;
/// Values in a file, those counted that are repeated by `*name`.
const VALUES_MAX: usize = 100_000;
/// How far a key may be from the one that was meant.
const TYPOS_MAX: usize = 3;

/// Settings that are in groups.
const GROUPS: [&str; 7] = [
    "client-transport-security",
    "peer-transport-security",
    "socket-options",
    "discovery-config",
    "discovery-config.client",
    "discovery-config.client.secure",
    "discovery-config.client.auth",
];

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct Problem {
    /// The line, the first one being 1.
    pub line: usize,
    /// The key, if it is about one, and what to do.
    pub what: String,
}

/// A setting of a file.
#[derive(Debug)]
pub struct Entry {
    /// Its key, with dots between a group and what is in it.
    pub key: String,
    /// The line it is on.
    pub line: usize,
    value: Value,
}

/// What a file has in one place.
#[derive(Clone, Debug)]
enum Value {
    /// A text in quotes or in a block.
    Text(String),
    /// A text without quotes.
    Word(String),
    List(Vec<Value>),
    Group(Vec<(Key, Value)>),
}

#[derive(Clone, Debug)]
struct Key {
    line: usize,
    name: String,
}

/// A value as a flag takes it.
pub enum Setting {
    /// As on the command line.
    Text(String),
    /// One by one.
    Items(Vec<String>),
}

impl Setting {
    /// As on the command line.
    pub fn text(&self) -> String {
        match self {
            Setting::Text(text) => text.clone(),
            Setting::Items(items) => items.join(","),
        }
    }
}

/// The settings of a file, in its order.
pub fn read(text: &str) -> Result<Vec<Entry>, Problem> {
    let mut entries = Vec::new();
    match load(text)? {
        Value::Group(members) => flatten("", members, &mut entries)?,
        Value::Word(word) if is_null(&word) => {}
        _ => {
            return Err(problem(
                1,
                "the file is no group of settings; write 'key: value' on each line".into(),
            ));
        }
    }
    Ok(entries)
}

fn problem(line: usize, what: String) -> Problem {
    Problem { line, what }
}

/// Groups are entered only where settings are in groups, so this does not go deep.
fn flatten(group: &str, members: Vec<(Key, Value)>, entries: &mut Vec<Entry>) -> Result<(), Problem> {
    for (Key { line, name }, value) in merged(members) {
        let path = if group.is_empty() {
            name
        } else {
            format!("{group}.{name}")
        };
        let is_group = GROUPS.iter().find(|group| group.eq_ignore_ascii_case(&path));
        match (is_group, value) {
            (_, Value::Word(word)) if is_null(&word) => {}
            (Some(group), Value::Group(members)) => flatten(group, members, entries)?,
            (Some(group), _) => {
                let what = format!("{group}: this is a group; write its settings below it, indented");
                return Err(problem(line, what));
            }
            (None, value) => entries.push(Entry {
                key: path,
                line,
                value,
            }),
        }
    }
    Ok(())
}

/// `<<` stands for the members of another group, which those beside it override.
fn merged(members: Vec<(Key, Value)>) -> Vec<(Key, Value)> {
    let (others, own): (Vec<_>, Vec<_>) = members.into_iter().partition(|(key, _)| key.name == "<<");
    let groups = others.into_iter().flat_map(|(_, value)| match value {
        // The first of several has precedence.
        Value::List(groups) => groups.into_iter().rev().collect(),
        group => vec![group],
    });
    let inherited = groups.flat_map(|group| match group {
        Value::Group(members) => members,
        _ => Vec::new(),
    });
    inherited.chain(own).collect()
}

impl Entry {
    /// The flag it sets.
    pub fn flag(&self) -> Option<&'static Flag> {
        let has_key = |key: String| key.eq_ignore_ascii_case(&self.key);
        FLAGS.iter().find(|flag| flag.key().is_some_and(has_key))
    }

    /// The value for a flag of this kind; nothing if the default holds.
    pub fn setting(&self, kind: Kind) -> Result<Option<Setting>, Problem> {
        let text = match (&self.value, kind) {
            (Value::Text(text) | Value::Word(text), Kind::TextOrDefault) if text.is_empty() => {
                return Ok(None);
            }
            (Value::Text(text), _) => text.clone(),
            (Value::Word(word), kind) => plain(word, kind),
            (Value::List(items), Kind::List | Kind::Text | Kind::TextOrDefault) => {
                let items = items.iter().map(|item| match item {
                    Value::Text(text) | Value::Word(text) => Ok(text.clone()),
                    _ => Err(self.problem("an item of the list is no text")),
                });
                return Ok(Some(Setting::Items(items.collect::<Result<_, _>>()?)));
            }
            _ => return Err(self.problem(&format!("one value is wanted; {}", cure(kind)))),
        };
        Ok(Some(Setting::Text(text)))
    }

    /// A value that its flag does not take.
    pub fn refused(&self, kind: Kind, value: &str, problem: &str) -> Problem {
        self.problem(&format!("invalid value {value:?}: {problem}; {}", cure(kind)))
    }

    /// What is wrong with it.
    pub fn problem(&self, what: &str) -> Problem {
        problem(self.line, format!("{}: {what}", self.key))
    }

    /// What to do about a key that means nothing.
    pub fn cure(&self) -> String {
        match (Flag::find(&self.key), self.nearest()) {
            (Some(flag), None) => format!("a file can't set it; only --{} does", flag.name()),
            (_, Some(key)) => format!("did you mean {key:?}?"),
            (None, None) => "leave it out".into(),
        }
    }

    /// The key that was probably meant.
    fn nearest(&self) -> Option<String> {
        let flag = Flag::find(&self.key);
        let distance = |key: &str| strsim::damerau_levenshtein(key, &self.key);
        let similar = || {
            let keys = FLAGS.iter().filter_map(Flag::key);
            let near = keys
                .map(|key| (distance(&key), key))
                .filter(|(typos, _)| *typos <= TYPOS_MAX);
            near.min().map(|(_, key)| key)
        };
        flag.map_or_else(similar, Flag::key)
    }
}

fn cure(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "write true or false",
        Kind::Number => "write a whole number",
        Kind::Duration => "write a whole number of nanoseconds, or a time such as 5s",
        Kind::Text | Kind::TextOrDefault => "write what the flag of that name takes",
        Kind::List => "write a list, [a, b]",
    }
}

fn is_null(word: &str) -> bool {
    matches!(word, "" | "~" | "null" | "Null" | "NULL")
}

/// What a text without quotes means where this kind of value is wanted, spelled as flags are.
fn plain(word: &str, kind: Kind) -> String {
    match (kind, integer(word)) {
        (Kind::Bool, _) => boolean(word).map_or(word.to_owned(), |on| on.to_string()),
        (Kind::Number, Some(number)) => number.to_string(),
        (Kind::Duration, Some(nanos)) => match u64::try_from(nanos) {
            Ok(nanos) => go::duration(std::time::Duration::from_nanos(nanos)).to_string(),
            Err(_) => word.to_owned(),
        },
        _ => word.to_owned(),
    }
}

fn boolean(word: &str) -> Option<bool> {
    match word {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// A number in one of Go's spellings, or in that of a float that is a whole number: `1_000`, `0x10`, `1e9`.
fn integer(word: &str) -> Option<i128> {
    /// From here on a float does not hold every whole number.
    const FLOAT_MAX: f64 = 9_007_199_254_740_992.0;
    let digits = word.replace('_', "");
    let signed = go::parse_int(&digits).map(i128::from);
    let exact = signed.or_else(|_| go::parse_uint(&digits).map(i128::from)).ok();
    let is_float = digits.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let float = || digits.parse::<f64>().ok().filter(|_| is_float);
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() <= FLOAT_MAX;
    exact.or_else(|| float().filter(whole).map(|float| float as i128))
}

/// A list or a group that is not complete yet.
struct Open {
    anchor: usize,
    key: Option<Key>,
    value: Value,
}

/// Builds the values of a file's first document.
#[derive(Default)]
struct Loader {
    open: Vec<Open>,
    anchors: HashMap<usize, Value>,
    values: usize,
    root: Option<Value>,
}

fn load(text: &str) -> Result<Value, Problem> {
    let mut loader = Loader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let what = format!(
                "this is no YAML: {}; check the indentation, and quote what has ': ' or ' #' in it",
                error.info()
            );
            problem(error.marker().line(), what)
        })?;
        loader.take(event, span.start.line())?;
        if let Some(root) = loader.root.take() {
            return Ok(root);
        }
    }
    Ok(Value::Word(String::new()))
}

impl Loader {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Problem> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                let value = match style {
                    ScalarStyle::Plain if !is_text => Value::Word(text.into_owned()),
                    _ => Value::Text(text.into_owned()),
                };
                self.complete(anchor, value, line)
            }
            Event::SequenceStart(anchor, _) => self.begin(anchor, Value::List(Vec::new()), line),
            Event::MappingStart(anchor, _) => self.begin(anchor, Value::Group(Vec::new()), line),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.complete(open.anchor, open.value, line),
                None => Ok(()),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(value) => self.complete(0, value, line),
                None => Err(problem(line, "what '*' names is not complete yet".into())),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, anchor: usize, value: Value, line: usize) -> Result<(), Problem> {
        if self.open.len() == DEPTH_MAX {
            return Err(problem(
                line,
                format!("more than {DEPTH_MAX} lists and groups inside each other"),
            ));
        }
        self.open.push(Open {
            anchor,
            key: None,
            value,
        });
        Ok(())
    }

    fn complete(&mut self, anchor: usize, value: Value, line: usize) -> Result<(), Problem> {
        self.values += value.count();
        if self.values > VALUES_MAX {
            return Err(problem(line, format!("more than {VALUES_MAX} values")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        match (&mut open.value, open.key.take()) {
            (Value::List(items), _) => items.push(value),
            (Value::Group(members), Some(key)) => members.push((key, value)),
            (_, _) => match value {
                Value::Text(name) | Value::Word(name) => open.key = Some(Key { line, name }),
                _ => return Err(problem(line, "a key is a word, no list and no group".into())),
            },
        }
        Ok(())
    }
}

impl Value {
    /// No deeper than [`DEPTH_MAX`] by each name in it; the sum of all is bounded.
    fn count(&self) -> usize {
        match self {
            Value::Text(_) | Value::Word(_) => 1,
            Value::List(items) => 1 + items.iter().map(Value::count).sum::<usize>(),
            Value::Group(members) => 1 + members.iter().map(|(_, value)| value.count()).sum::<usize>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use server::config::{ClusterState, Gate};

    use super::super::{Invocation, Note, Refusal, Settings, Source, parse};

    fn parsed(text: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Settings, Refusal> {
        let mut all = vec!["--config-file=c.yml".to_owned()];
        all.extend(args.iter().map(|arg| arg.to_string()));
        let env: Vec<_> = env
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        match parse(&all, &env, |_| Ok(text.to_owned()))? {
            Invocation::Serve(settings) => Ok(*settings),
            other => panic!("no server: {other:?}"),
        }
    }

    #[track_caller]
    fn settings(text: &str) -> Settings {
        parsed(text, &[], &[]).unwrap()
    }

    #[track_caller]
    fn refusal(text: &str) -> String {
        match parsed(text, &[], &[]) {
            Err(Refusal::Invalid { problem, .. }) => problem,
            other => panic!("it is taken: {other:?}"),
        }
    }

    fn unknown(settings: &Settings) -> Vec<(usize, &str, &str)> {
        let notes = settings.notes.iter().filter_map(|note| match note {
            Note::KeyUnknown { line, key, cure, .. } => Some((*line, key.as_str(), cure.as_str())),
            _ => None,
        });
        notes.collect()
    }

    #[test]
    fn keys_are_in_groups_and_values_as_etcd_takes_them() {
        let settings = settings(
            "# a member\n\
             name: m1\n\
             listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:2\n\
             heartbeat-interval: 200\n\
             grpc-keepalive-interval: 5000000000\n\
             pre-vote: off\n\
             log-outputs: [stderr, '/a,b']\n\
             feature-gates: LeaseCheckpoint=true,InitialCorruptCheck=true\n\
             initial-cluster-state: ''\n\
             Max-Wals: 0x10\n\
             wal-dir: ~\n\
             client-transport-security:\n  cert-file: \"c\"\n  client-cert-auth: Yes\n  allowed-cn:\n  - x\n  - y\n\
             peer-transport-security: {client-cert-file: p, skip-client-san-verification: true}\n\
             socket-options:\n  reuse-port: true\n\
             discovery-config:\n  token: t\n  client:\n    endpoints: [a:1, b:1]\n    dial-timeout: 1e9\n    \
             secure: {insecure-transport: false}\n    auth: {username: u}\n",
        );
        let flags = &settings.flags;
        assert_eq!((flags.name.as_str(), flags.listen_client_urls.len()), ("m1", 2));
        assert_eq!((flags.heartbeat_interval, flags.max_wals), (200, 16));
        assert_eq!(flags.grpc_keepalive_interval, Duration::from_secs(5));
        assert_eq!(flags.log_outputs, ["stderr", "/a,b"]);
        assert_eq!(flags.initial_cluster_state, ClusterState::New);
        assert!(!flags.pre_vote && flags.feature_gates.enabled(Gate::LeaseCheckpoint));
        assert_eq!((flags.cert_file.as_str(), flags.client_cert_auth), ("c", true));
        assert_eq!(flags.client_cert_allowed_cn, ["x", "y"]);
        assert_eq!(flags.peer_client_cert_file, "p");
        assert!(flags.peer_skip_client_san_verification && flags.socket_reuse_port);
        assert_eq!(
            (flags.discovery_token.as_str(), flags.discovery_endpoints.as_str()),
            ("t", "a:1,b:1")
        );
        assert_eq!(flags.discovery_dial_timeout, Duration::from_secs(1));
        assert!(!flags.discovery_insecure_transport && flags.discovery_user == "u");
        assert_eq!(unknown(&settings), []);
        let line = |field| settings.given(field).map(|given| given.source.clone());
        assert_eq!(line("heartbeat_interval"), Some(Source::Line(4)));
        assert_eq!(line("client_cert_allowed_cn"), Some(Source::Line(15)));
        assert_eq!((line("wal_dir"), line("initial_cluster_state")), (None, None));
    }

    #[test]
    fn what_etcd_does_not_look_at_may_be_anything() {
        let settings = settings("v2-deprecation: not-yet\n");
        assert!(settings.is_given("v2_deprecation"));
    }

    #[test]
    fn json_is_yaml() {
        let settings = settings(
            "{\n\t\"name\": \"m1\",\n\t\"max-txn-ops\": 7,\n\t\"client-transport-security\": {\"auto-tls\": true},\n\t\"cipher-suites\": []\n}",
        );
        let flags = &settings.flags;
        assert_eq!(
            (flags.name.as_str(), flags.max_txn_ops, flags.auto_tls),
            ("m1", 7, true)
        );
        assert_eq!(settings.given("max_txn_ops").unwrap().source, Source::Line(3));
    }

    #[test]
    fn some_of_what_etcd_refuses_is_understood() {
        let flags = settings(
            "grpc-keepalive-interval: '5s'\n\
             warning-apply-duration: 20ms\n\
             max-txn-ops: \"12\"\n\
             auto-compaction-retention: 5\n\
             name: on\n\
             log-outputs: stderr\n\
             listen-metrics-urls: ['http://127.0.0.1:1', 'http://127.0.0.1:2']\n",
        )
        .flags;
        assert_eq!(flags.grpc_keepalive_interval, Duration::from_secs(5));
        assert_eq!(flags.warning_apply_duration, Duration::from_millis(20));
        assert_eq!(
            (flags.max_txn_ops, flags.auto_compaction_retention.as_str()),
            (12, "5")
        );
        assert_eq!((flags.name.as_str(), flags.log_outputs.len()), ("on", 1));
        assert_eq!(flags.listen_metrics_urls.len(), 2);
    }

    #[test]
    fn a_problem_names_file_line_key_and_cure() {
        for (text, problem) in [
            (
                "name: a\nheartbeat-interval: x\n",
                "line 2: heartbeat-interval: invalid value \"x\": parse error; write a whole number",
            ),
            (
                "grpc-keepalive-interval: 5q",
                "line 1: grpc-keepalive-interval: invalid value \"5q\": parse error; \
                 write a whole number of nanoseconds, or a time such as 5s",
            ),
            (
                "\npeer-transport-security:\n  auto-tls: maybe",
                "line 3: peer-transport-security.auto-tls: invalid value \"maybe\": parse error; write true or false",
            ),
            (
                "max-wals: [1]",
                "line 1: max-wals: one value is wanted; write a whole number",
            ),
            (
                "cipher-suites: [[a]]",
                "line 1: cipher-suites: an item of the list is no text",
            ),
            (
                "socket-options: 5",
                "line 1: socket-options: this is a group; write its settings below it, indented",
            ),
            (
                "feature-gates: X=true",
                "line 1: feature-gates: invalid value \"X=true\": unrecognized feature gate: X; \
                 write what the flag of that name takes",
            ),
            (
                "name: a: b",
                "line 1: this is no YAML: mapping values are not allowed in this context; \
                 check the indentation, and quote what has ': ' or ' #' in it",
            ),
            (
                "- a",
                "line 1: the file is no group of settings; write 'key: value' on each line",
            ),
            ("? [a]\n: b", "line 1: a key is a word, no list and no group"),
        ] {
            assert_eq!(refusal(text), format!("c.yml: {problem}"));
        }
    }

    #[test]
    fn a_key_that_nobody_knows_is_passed_over_with_advice() {
        let settings = settings(
            "nmae: a\ncert-file: c\nclient-crl-file: r\ncolour: {a: 1}\nclient-transport-security:\n  certfile: x\n\
             discovery-fallback: proxy\n",
        );
        assert_eq!(
            unknown(&settings),
            [
                (1, "nmae", "did you mean \"name\"?"),
                (
                    2,
                    "cert-file",
                    "did you mean \"client-transport-security.cert-file\"?"
                ),
                (
                    3,
                    "client-crl-file",
                    "a file can't set it; only --client-crl-file does"
                ),
                (4, "colour", "leave it out"),
                (
                    6,
                    "client-transport-security.certfile",
                    "did you mean \"client-transport-security.cert-file\"?"
                ),
                (
                    7,
                    "discovery-fallback",
                    "a file can't set it; only --discovery-fallback does"
                ),
            ]
        );
        assert_eq!(settings.flags.name, "default");
    }

    #[test]
    fn keys_of_earlier_releases_are_mapped_or_dropped_with_a_warning() {
        let text = "experimental-initial-corrupt-check: true\nexperimental-corrupt-check-time: 3600000000000\n\
                    proxy: 'on'\nenable-v2: true\nproxy-failure-wait: 5000\n";
        let settings = settings(text);
        assert!(settings.flags.feature_gates.enabled(Gate::InitialCorruptCheck));
        assert_eq!(settings.flags.corrupt_check_time, Duration::from_secs(3600));
        let count = |is: fn(&Note) -> bool| settings.notes.iter().filter(|note| is(note)).count();
        assert_eq!(count(|note| matches!(note, Note::Renamed { .. })), 2);
        assert_eq!(count(|note| matches!(note, Note::Dropped { .. })), 3);
        let strict = parsed(&format!("{text}strict-flags: true\n"), &[], &[]);
        assert!(matches!(strict, Err(Refusal::Usage(_))));
    }

    #[test]
    fn a_file_takes_the_place_of_all_else() {
        let env = [("ETCD_MAX_WALS", "7"), ("ETCD_NAME", "b"), ("ETCD_FOO", "1")];
        let settings = parsed("max-txn-ops: 5", &["--name=a"], &env).unwrap();
        assert_eq!(
            (settings.flags.name.as_str(), settings.flags.max_wals),
            ("default", 5)
        );
        let ignored = vec!["--name".to_owned(), "ETCD_MAX_WALS".into(), "ETCD_NAME".into()];
        let path = "c.yml".to_owned();
        assert_eq!(settings.notes, [Note::Loaded { path, ignored }]);
    }

    #[test]
    fn names_for_values_are_resolved_and_bounded() {
        let flags = settings("name: &n m1\ninitial-cluster-token: *n\nsocket-options: &s {reuse-port: true}\n\
                              client-transport-security:\n  <<: {auto-tls: true, cert-file: a}\n  cert-file: b\n")
            .flags;
        assert_eq!(
            (flags.initial_cluster_token.as_str(), flags.cert_file.as_str()),
            ("m1", "b")
        );
        assert!(flags.auto_tls);
        let mut laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, one) in "bcdefg".chars().zip("abcdef".chars()) {
            laughs += &format!("{name}: &{name} [{}*{one}]\n", format!("*{one}, ").repeat(9));
        }
        assert!(refusal(&laughs).ends_with("more than 100000 values"));
        assert!(refusal(&"[".repeat(20)).ends_with("more than 16 lists and groups inside each other"));
        assert!(refusal("a: &a [*a]").ends_with("what '*' names is not complete yet"));
    }

    #[test]
    fn whole_numbers_have_gos_and_yamls_spellings() {
        for (word, number) in [
            ("5", Some(5)),
            ("-5", Some(-5)),
            ("1_000", Some(1000)),
            ("010", Some(8)),
            ("0b101", Some(5)),
            ("1e9", Some(1_000_000_000)),
            ("5.0", Some(5)),
            ("18446744073709551615", Some(u64::MAX.into())),
            ("1.5", None),
            ("1e300", None),
            ("inf", None),
            ("nan", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(super::integer(word), number, "{word}");
        }
    }

    /// A file of nonsense is refused or taken, and that is all it can do.
    #[test]
    fn no_file_ends_the_program() {
        let whole =
            "name: [a, &x {b: 'c'}]\n<<: *x\n\"d\\x41\": |\n  e\n? f\n: - g\n%h\n---\n!!str i: !j k\n";
        for cut in (0..whole.len()).filter(|cut| whole.is_char_boundary(*cut)) {
            let _ = parsed(&whole[..cut], &[], &[]);
            let _ = parsed(&whole[cut..], &[], &[]);
            let _ = parsed(&[&whole[cut..], &whole[..cut]].concat(), &[], &[]);
        }
    }
}
