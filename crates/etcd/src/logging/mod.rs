//! The log: one JSON object a line, in the layout of etcd's (zap's), because tools parse it.
//!
//! ```text
//! {"level":"info","ts":"2026-11-22T09:36:14.893646Z","caller":"server/listen.rs:139","msg":"serving metrics","address":"http://…"}
//! ```
//!
//! Times are UTC. What goes for levels: `error` and above need a human; `warn` is worth one's while;
//! `info` tells what a member does in its life, not request by request; `debug` is for developers.
//! A line that repeats is thinned out: of one kind, the first hundred of a second are written, so that a flood
//! of bad connections does not fill a disk. The next line of the kind tells how many were `left-out`.
//!
//! Libraries' own events are written only from `warn` on; see [`server::fields`] for values that are
//! more than a text, and for the field names with a meaning.

mod journal;
mod outputs;
mod rotation;

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use server::fields::JSON_MARK;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, callsite};

use crate::flags::Flags;

use outputs::{Output, Place};

/// Lines of one kind that are written in a second; more are only counted.
const LINES_OF_A_SECOND_MAX: u64 = 100;

/// How much a line matters. The last three are errors to tracing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Debug,
    Info,
    Warn,
    Error,
    DPanic,
    Panic,
    Fatal,
}

impl Severity {
    const NAMES: [(&'static str, Severity); 7] = [
        ("debug", Severity::Debug),
        ("info", Severity::Info),
        ("warn", Severity::Warn),
        ("error", Severity::Error),
        ("dpanic", Severity::DPanic),
        ("panic", Severity::Panic),
        ("fatal", Severity::Fatal),
    ];

    fn parse(name: &str) -> Option<Self> {
        Self::NAMES
            .into_iter()
            .find_map(|(known, severity)| name.eq_ignore_ascii_case(known).then_some(severity))
    }

    fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }

    fn of(level: &Level) -> Self {
        match *level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warn,
            Level::INFO => Severity::Info,
            Level::DEBUG | Level::TRACE => Severity::Debug,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Severity::Debug => LevelFilter::DEBUG,
            Severity::Info => LevelFilter::INFO,
            Severity::Warn => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        }
    }
}

/// How a line is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Console,
}

/// A log that is open and can be started.
pub struct Log {
    least: Severity,
    format: Format,
    sink: Mutex<Sink>,
}

/// Where lines go, and how many of each kind went there lately.
struct Sink {
    outputs: Vec<Output>,
    recent: HashMap<callsite::Identifier, Recent>,
}

/// The lines of one kind lately.
#[derive(Default)]
struct Recent {
    second: u64,
    /// Written in this second.
    written: u64,
    /// Not written since one was.
    left_out: u64,
}

/// The log that the flags ask for, checked and not opened yet.
pub struct Plan {
    least: Severity,
    format: Format,
    places: Vec<Place>,
}

impl Plan {
    /// What the flags ask for; the error is in etcd's words.
    pub fn new(flags: &Flags) -> Result<Self, String> {
        match flags.logger.as_str() {
            "zap" => {}
            "capnslog" => return Err("--logger=capnslog is removed in v3.5".into()),
            other => return Err(format!("unknown logger option {other:?}")),
        }
        let least = match flags.log_level.as_str() {
            "" => Some(Severity::Info),
            level => Severity::parse(level),
        };
        let least = least.ok_or_else(|| format!("unrecognized level: {:?}", flags.log_level))?;
        let format = match flags.log_format.as_str() {
            "" | "json" => Format::Json,
            "console" => Format::Console,
            other => {
                return Err(format!(
                    "unknown log format: {other}, supported values json, console"
                ));
            }
        };
        let places = Place::all(flags)?;
        Ok(Plan {
            least,
            format,
            places,
        })
    }

    /// The files that are exchanged while the process runs.
    pub fn exchanged(&self) -> Vec<PathBuf> {
        self.places.iter().filter_map(Place::exchanged).collect()
    }

    /// Opens it.
    pub fn open(&self) -> Result<Log, String> {
        let outputs = self.places.iter().map(Place::open).collect::<Result<_, _>>()?;
        Ok(Log::to(self.least, self.format, outputs))
    }
}

impl Log {
    /// The log for when there is no other: everything from `info` on, to stderr.
    pub fn fallback() -> Self {
        Log::to_stderr(Severity::Info)
    }

    /// Everything, to stderr.
    pub fn in_detail() -> Self {
        Log::to_stderr(Severity::Debug)
    }

    fn to_stderr(least: Severity) -> Self {
        Log::to(least, Format::Json, vec![Output::Stream(Box::new(io::stderr()))])
    }

    fn to(least: Severity, format: Format, outputs: Vec<Output>) -> Self {
        Log {
            least,
            format,
            sink: Mutex::new(Sink {
                outputs,
                recent: HashMap::new(),
            }),
        }
    }

    /// From now on everything this process logs goes here. A panic is one line of it, and ends the
    /// process: half a server is worse than none.
    pub fn start(self) {
        // Only the first log of a process counts.
        let _ = tracing::subscriber::set_global_default(self);
        std::panic::set_hook(Box::new(|panic| {
            log_panic(panic);
            std::process::exit(2);
        }));
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A thread that panicked while it wrote has left nothing behind that could harm.
        self.sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether lines from here are ever written. Our own files are compiled by relative paths,
    /// libraries by absolute ones.
    fn admits(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.file().is_some_and(|file| Path::new(file).is_relative());
        let least = if ours {
            self.least
        } else {
            self.least.max(Severity::Warn)
        };
        metadata.is_event() && *metadata.level() <= least.filter()
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    let caller = panic
        .location()
        .map_or(String::new(), |place| short(place.file(), place.line()));
    let thread = std::thread::current();
    tracing::error!(
        level = "panic",
        caller,
        thread = thread.name().unwrap_or(""),
        "panic: {text}"
    );
}

/// The last two parts of a path without `src`, and the line: `server/listen.rs:139`.
fn short(file: &str, line: u32) -> String {
    let mut parts: Vec<_> = file.split('/').filter(|part| *part != "src").collect();
    let last = parts.split_off(parts.len().saturating_sub(2));
    format!("{}:{line}", last.join("/"))
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.admits(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.admits(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.least.filter())
    }

    fn event(&self, event: &Event<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let given = fields.level.as_deref().and_then(Severity::parse);
        let severity = given.unwrap_or_else(|| Severity::of(metadata.level()));
        if severity < self.least {
            return;
        }
        let Some(left_out) = self.sink().admits(metadata.callsite(), now.as_secs()) else {
            return;
        };
        if left_out > 0 {
            fields.add("left-out", left_out);
        }
        let caller = fields
            .caller
            .take()
            .unwrap_or_else(|| short(metadata.file().unwrap_or(""), metadata.line().unwrap_or(0)));
        let line = match self.format {
            Format::Json => fields.json(severity, now, &caller),
            Format::Console => fields.console(severity, now, &caller),
        };
        for output in &mut self.sink().outputs {
            output.put(severity, &line);
        }
    }

    // There are no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Sink {
    /// Whether a line of this kind is written now; if so, how many were left out before it.
    fn admits(&mut self, kind: callsite::Identifier, second: u64) -> Option<u64> {
        let recent = self.recent.entry(kind).or_default();
        if recent.second != second {
            (recent.second, recent.written) = (second, 0);
        }
        if recent.written == LINES_OF_A_SECOND_MAX {
            recent.left_out += 1;
            return None;
        }
        recent.written += 1;
        Some(std::mem::take(&mut recent.left_out))
    }
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    level: Option<String>,
    logger: Option<String>,
    caller: Option<String>,
    /// The others: `"key":value` with commas between.
    members: String,
}

impl Fields {
    fn json(&self, severity: Severity, now: Duration, caller: &str) -> String {
        let mut line = format!(
            "{{\"level\":\"{}\",\"ts\":\"{}\"",
            severity.name(),
            timestamp(now)
        );
        if let Some(logger) = &self.logger {
            let _ = write!(line, ",\"logger\":{}", quoted(logger));
        }
        let _ = write!(
            line,
            ",\"caller\":{},\"msg\":{}",
            quoted(caller),
            quoted(&self.message)
        );
        if !self.members.is_empty() {
            let _ = write!(line, ",{}", self.members);
        }
        line.push_str("}\n");
        line
    }

    fn console(&self, severity: Severity, now: Duration, caller: &str) -> String {
        let mut line = format!("{}\t{}\t", timestamp(now), severity.name());
        if let Some(logger) = &self.logger {
            let _ = write!(line, "{logger}\t");
        }
        let _ = write!(line, "{caller}\t{}", self.message.replace('\n', "\\n"));
        if !self.members.is_empty() {
            let _ = write!(line, "\t{{{}}}", spaced(&self.members));
        }
        line.push('\n');
        line
    }

    fn add(&mut self, name: &str, value: impl fmt::Display) {
        let comma = if self.members.is_empty() { "" } else { "," };
        let _ = write!(self.members, "{comma}{}:{value}", quoted(name));
    }

    fn add_text(&mut self, name: &str, text: &str) {
        match (name, text.strip_prefix(JSON_MARK)) {
            ("message", _) => self.message = text.to_owned(),
            ("level", _) => self.level = Some(text.to_owned()),
            ("logger", _) => self.logger = Some(text.to_owned()),
            ("caller", _) => self.caller = Some(text.to_owned()),
            ("fields", Some(object)) => self.add_members(object),
            (_, Some(json)) => self.add(name, json),
            (_, None) => self.add(name, quoted(text)),
        }
    }

    /// The members of an object become fields of the line.
    fn add_members(&mut self, object: &str) {
        let members = object.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let comma = if self.members.is_empty() { "" } else { "," };
        match members {
            Some("") => {}
            Some(members) => self.members += &format!("{comma}{members}"),
            None => self.add("fields", object),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.add(field.name(), value),
            false => self.add_text(field.name(), &value.to_string()),
        }
    }
}

/// JSON with a blank behind commas and colons, as zap's console has it.
fn spaced(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in json.chars() {
        text.push(character);
        match character {
            '"' if !escaped => in_string = !in_string,
            ',' | ':' if !in_string => text.push(' '),
            _ => {}
        }
        escaped = character == '\\' && !escaped;
    }
    text
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A time since 1970 in the log's layout, in UTC.
fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_epoch.subsec_micros()
    )
}

/// Year, month and day of the day so many days after 1970-01-01, by years that begin in March, so
/// that the leap day is their last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097; // 400 years
    let days = days + 719_468; // since 0000-03-01
    let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (day - day / 1_460 + day / 36_524 - day / (ERA_DAYS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use serde_json::{Value, json};
    use server::fields;

    use super::*;

    /// What is logged by `logs`, line by line.
    fn lines(least: Severity, format: Format, logs: impl FnOnce()) -> Vec<String> {
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = Shared::default();
        let log = Log::to(least, format, vec![Output::Stream(Box::new(written.clone()))]);
        tracing::subscriber::with_default(log, logs);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn without_time(line: &str) -> String {
        let (before, rest) = line.split_once("\"ts\":\"").unwrap();
        format!("{before}\"ts\":\"T{}", &rest[rest.find('"').unwrap()..])
    }

    #[test]
    fn a_line_has_zaps_keys_in_zaps_order() {
        let place = line!() + 2;
        let logged = lines(Severity::Info, Format::Json, || {
            tracing::warn!(logger = "raft", "listen-urls" = fields::json(&["a", "b"]), count = 3, up = true, share = 0.5, error = %"no \"way\"\n", took = %server::go::duration(Duration::from_millis(1500)), "it is {}", "so");
        });
        assert_eq!(
            without_time(&logged[0]),
            format!(
                "{{\"level\":\"warn\",\"ts\":\"T\",\"logger\":\"raft\",\"caller\":\"logging/mod.rs:{place}\",\"msg\":\"it is so\",\
                 \"listen-urls\":[\"a\",\"b\"],\"count\":3,\"up\":true,\"share\":0.5,\"error\":\"no \\\"way\\\"\\n\",\"took\":\"1.5s\"}}"
            )
        );
        let line: Value = serde_json::from_str(&logged[0]).unwrap();
        assert_eq!(
            line["ts"].as_str().unwrap().len(),
            "2026-11-22T09:36:14.893646Z".len()
        );
    }

    #[test]
    fn an_object_named_fields_becomes_fields_of_the_line() {
        let logged = lines(Severity::Info, Format::Json, || {
            let start = json!({"name": "m1", "snapshot-catchup-entries": 1000});
            tracing::info!(
                before = 1,
                fields = fields::json(&start),
                "starting an etcd server"
            );
            tracing::info!(fields = fields::json(&json!({})), "nothing more");
        });
        assert!(logged[0].contains("\"before\":1,\"name\":\"m1\",\"snapshot-catchup-entries\":1000}"));
        assert!(logged[1].ends_with("\"msg\":\"nothing more\"}"));
    }

    #[test]
    fn levels_hide_what_is_below_them() {
        let all = || {
            tracing::debug!("1");
            tracing::info!("2");
            tracing::warn!("3");
            tracing::error!("4");
            tracing::error!(level = "fatal", "5");
        };
        let shown = |least| lines(least, Format::Json, all).len();
        assert_eq!(shown(Severity::Debug), 5);
        assert_eq!(shown(Severity::Info), 4);
        assert_eq!(shown(Severity::Error), 2);
        assert_eq!(shown(Severity::Fatal), 1);
        let fatal = lines(Severity::Fatal, Format::Json, all);
        assert!(fatal[0].starts_with("{\"level\":\"fatal\",\"ts\":"));
    }

    #[test]
    fn a_line_for_the_console() {
        let logged = lines(Severity::Debug, Format::Console, || {
            tracing::debug!(a = 1, b = fields::json(&["c,d", "\"e:\\"]), "two\nlines")
        });
        let columns: Vec<_> = logged[0].split('\t').collect();
        assert_eq!(columns[1], "debug");
        assert!(columns[2].starts_with("logging/mod.rs:"));
        assert_eq!(
            columns[3..],
            ["two\\nlines", r#"{"a": 1, "b": ["c,d", "\"e:\\"]}"#]
        );
    }

    #[test]
    fn a_line_that_repeats_is_thinned_out() {
        let mut sink = Sink {
            outputs: vec![],
            recent: HashMap::new(),
        };
        let kind = || {
            static CALLSITE: callsite::DefaultCallsite = {
                static METADATA: Metadata<'static> = tracing::metadata! {
                    name: "test",
                    target: "test",
                    level: Level::INFO,
                    fields: &[],
                    callsite: &CALLSITE,
                    kind: tracing::metadata::Kind::EVENT,
                };
                callsite::DefaultCallsite::new(&METADATA)
            };
            callsite::Identifier(&CALLSITE)
        };
        let written = (0..1000).filter_map(|_| sink.admits(kind(), 7));
        assert_eq!(written.collect::<Vec<_>>(), [0; 100]);
        assert_eq!(
            sink.admits(kind(), 8),
            Some(900),
            "the next second begins anew and tells"
        );
        assert_eq!(sink.admits(kind(), 8), Some(0));
    }

    #[test]
    fn a_time_is_shown_to_the_microsecond() {
        for (seconds, micros, text) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 7, "2000-02-28T23:59:59.000007Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
            (1_795_340_174, 893_646, "2026-11-22T09:36:14.893646Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(timestamp(Duration::new(seconds, micros * 1000)), text);
        }
    }

    #[test]
    fn what_the_flags_may_ask_for() {
        let log = |change: fn(&mut Flags)| {
            let mut flags = Flags::default();
            change(&mut flags);
            Plan::new(&flags)
                .and_then(|plan| plan.open())
                .map(|_| ())
                .unwrap_err()
        };
        let unsaid = Flags {
            log_level: String::new(),
            log_format: String::new(),
            ..Flags::default()
        };
        assert!(Plan::new(&unsaid).is_ok_and(|plan| plan.least == Severity::Info));
        assert_eq!(
            log(|flags| flags.logger = "foo".into()),
            "unknown logger option \"foo\""
        );
        assert_eq!(
            log(|flags| flags.log_level = "foo".into()),
            "unrecognized level: \"foo\""
        );
        assert_eq!(
            log(|flags| flags.log_format = "foo".into()),
            "unknown log format: foo, supported values json, console"
        );
        assert_eq!(
            log(|flags| flags.log_outputs = vec!["default".into(), "stderr".into()]),
            "multi logoutput for \"default\" is not supported yet"
        );
        for (outputs, why) in [(&["stderr"][..], "no file"), (&["/a", "/b"], "two files")] {
            let mut flags = Flags {
                log_outputs: outputs.iter().map(|output| output.to_string()).collect(),
                ..Flags::default()
            };
            assert!(Plan::new(&flags).is_ok());
            flags.enable_log_rotation = true;
            let refusal = Plan::new(&flags).map(|_| ()).unwrap_err();
            assert!(
                refusal.starts_with("--log-outputs requires a single file path"),
                "{why}"
            );
        }
        assert!(
            log(|flags| flags.log_outputs = vec!["/nowhere/at/all".into()])
                .starts_with("open /nowhere/at/all: ")
        );
    }

    #[test]
    fn a_log_file_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let flags = Flags {
            log_outputs: vec![path.to_str().unwrap().into()],
            ..Flags::default()
        };
        for _ in 0..2 {
            tracing::subscriber::with_default(Plan::new(&flags).unwrap().open().unwrap(), || {
                tracing::info!("once")
            });
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }
}
