//! Prometheus' text format, version 0.0.4.
//!
//! ```text
//! # HELP etcd_server_id 1 for this member's id.
//! # TYPE etcd_server_id gauge
//! etcd_server_id{server_id="8e9e05c52164694d"} 1
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::go;

/// A text that is being written.
#[derive(Default)]
pub struct Text {
    /// Texts of the families by name; one without samples has none.
    families: BTreeMap<&'static str, String>,
    /// Name, kind and help of the family that the samples belong to.
    family: (&'static str, &'static str, &'static str),
    /// The labels of the samples, and how they are written.
    labels: Vec<(String, String)>,
    written: String,
}

/// The label of buckets, which comes last.
const BUCKET: &str = "le";

impl Text {
    /// What follows belongs to this family.
    pub fn family(&mut self, name: &'static str, kind: &'static str, help: &'static str) {
        self.family = (name, kind, help);
    }

    /// A sample with the family's own name.
    pub fn sample(&mut self, value: f64) {
        self.sample_of("", value);
    }

    /// A sample with the family's name and a suffix.
    pub fn sample_of(&mut self, suffix: &str, value: f64) {
        let (name, kind, help) = self.family;
        let header = || format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let out = self.families.entry(name).or_insert_with(header);
        let value = go::float(value);
        let _ = writeln!(out, "{name}{suffix}{} {value}", self.written);
    }

    /// Writes samples with one more label.
    pub fn labelled(&mut self, name: &str, value: &str, write: impl FnOnce(&mut Self)) {
        self.with_labels([(name, value)], write);
    }

    /// Writes samples with more labels. They come in the order of their names, as etcd's do: scripts look for them so.
    pub fn with_labels<'a, V: AsRef<str>>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, V)>,
        write: impl FnOnce(&mut Self),
    ) {
        let before = self.labels.clone();
        let labels = labels.into_iter();
        self.labels
            .extend(labels.map(|(name, value)| (name.to_owned(), escaped(value.as_ref()))));
        self.labels
            .sort_by(|(a, _), (b, _)| (a == BUCKET, a).cmp(&(b == BUCKET, b)));
        let written = std::mem::replace(&mut self.written, braced(&self.labels));
        write(self);
        (self.labels, self.written) = (before, written);
    }

    /// The text, families in the order of their names.
    pub fn finish(self) -> String {
        self.families.into_values().collect()
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn braced(labels: &[(String, String)]) -> String {
    let mut text = String::new();
    for (at, (name, value)) in labels.iter().enumerate() {
        let before = if at == 0 { '{' } else { ',' };
        let _ = write!(text, "{before}{name}=\"{value}\"");
    }
    if !labels.is_empty() {
        text.push('}');
    }
    text
}
