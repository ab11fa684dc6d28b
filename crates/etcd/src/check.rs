//! `etcd check-config`: what a start with these flags, variables or file would come to, and where each value is from.
//!
//! Everything is looked at that a start looks at before it has data, ports or other members: the settings, the files
//! of certificates and keys, the initial cluster. Nothing is made, opened for writing, or listened on.

use insight::secrets::masked;
use serde::Serialize;
use server::config::{Config, Url, show_cluster};
use server::go;

use crate::flags::{FLAGS, Flag, Settings, Source};

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Shape {
    /// The shape of this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "table" => Some(Shape::Table),
            "json" => Some(Shape::Json),
            _ => None,
        }
    }
}

/// One setting.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    /// The flag, without dashes.
    name: String,
    /// What holds.
    value: String,
    /// Who said so: `flag`, `variable`, `file`, or `default`.
    source: &'static str,
    /// The variable, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    variable: Option<String>,
    /// The line of the file, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Whether it is another value than was said, by other settings or by a limit.
    completed: bool,
}

/// All settings.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    settings: Vec<Row>,
}

/// The text to print.
pub fn show(settings: &Settings, config: &Config, shape: Shape) -> String {
    let report = Report {
        file: settings.file.as_deref(),
        settings: rows(settings, config),
    };
    match shape {
        Shape::Table => table(&report),
        Shape::Json => serde_json::to_string_pretty(&report).unwrap_or_default() + "\n",
    }
}

fn rows(settings: &Settings, config: &Config) -> Vec<Row> {
    let flags = FLAGS
        .iter()
        .filter(|flag| !matches!(flag.field, "version" | "config_file"));
    flags.map(|flag| row(flag, settings, config)).collect()
}

fn row(flag: &Flag, settings: &Settings, config: &Config) -> Row {
    let given = settings.given(flag.field);
    let said = given.map_or(flag.default, |given| &given.text);
    let value = effective(flag.field, config).unwrap_or_else(|| said.to_owned());
    let completed = value != said;
    let (source, variable, line) = match given.map(|given| &given.source) {
        None => ("default", None, None),
        Some(Source::Flag) => ("flag", None, None),
        Some(Source::Variable(name)) => ("variable", Some(name.clone()), None),
        Some(Source::Line(line)) => ("file", None, Some(*line)),
    };
    Row {
        name: flag.name(),
        value: masked(&flag.name(), &value),
        source,
        variable,
        line,
        completed,
    }
}

/// What a setting comes to that other settings, a limit or this machine complete.
fn effective(field: &str, config: &Config) -> Option<String> {
    let urls = |urls: &[Url]| urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",");
    Some(match field {
        "data_dir" => config.data_dir.display().to_string(),
        "wal_dir" => config.wal_path().display().to_string(),
        "initial_cluster" if config.discovery.is_some() => return None,
        "initial_cluster" => show_cluster(&config.initial_cluster),
        "initial_cluster_token" => config.initial_cluster_token.clone(),
        "initial_advertise_peer_urls" => urls(&config.advertise_peer),
        "advertise_client_urls" => urls(&config.advertise_client),
        "quota_backend_bytes" => config.quota_bytes?.to_string(),
        "snapshot_count" => config.snapshot_count.to_string(),
        "raft_read_timeout" => go::duration(config.peer_read_timeout).to_string(),
        "raft_write_timeout" => go::duration(config.peer_write_timeout).to_string(),
        "watch_progress_notify_interval" => go::duration(config.watch_progress_interval).to_string(),
        "warning_unary_request_duration" => go::duration(config.slow_request).to_string(),
        "auth_token_ttl" => config.auth_token_ttl.as_secs().to_string(),
        "feature_gates" => config.gates.to_string(),
        "bcrypt_cost" => config.bcrypt_cost.to_string(),
        _ => return None,
    })
}

fn table(report: &Report<'_>) -> String {
    let heads = ["SETTING", "VALUE", "FROM"].map(str::to_owned);
    let lines = report
        .settings
        .iter()
        .map(|row| [row.name.clone(), row.value.clone(), row.from(report.file)]);
    let lines: Vec<_> = std::iter::once(heads).chain(lines).collect();
    // A long value makes its own line longer, not those of all others.
    const WIDEST: usize = 48;
    let width = |column: usize| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.filter(|width| *width <= WIDEST).max().unwrap_or(0)
    };
    let (names, values) = (width(0), width(1));
    let lines = lines
        .iter()
        .map(|[name, value, from]| format!("{name:names$}  {value:values$}  {from}\n"));
    lines.collect()
}

impl Row {
    fn from(&self, file: Option<&str>) -> String {
        let source = match (&self.variable, self.line) {
            (Some(variable), _) => variable.clone(),
            (_, Some(line)) => format!("{}:{line}", file.unwrap_or_default()),
            _ => self.source.to_owned(),
        };
        match self.completed {
            true => format!("{source}, completed"),
            false => source,
        }
    }
}
