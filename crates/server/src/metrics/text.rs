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
    /// The labels of the samples, comma between them.
    labels: String,
}

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
        let (open, close) = if self.labels.is_empty() {
            ("", "")
        } else {
            ("{", "}")
        };
        let value = go::float(value);
        let _ = writeln!(out, "{name}{suffix}{open}{}{close} {value}", self.labels);
    }

    /// Writes samples with one more label.
    pub fn labelled(&mut self, name: &str, value: &str, write: impl FnOnce(&mut Self)) {
        self.with_labels([(name, value)], write);
    }

    /// Writes samples with more labels.
    pub fn with_labels<'a, V: AsRef<str>>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, V)>,
        write: impl FnOnce(&mut Self),
    ) {
        let before = self.labels.len();
        for (name, value) in labels {
            self.push_label(name, value.as_ref());
        }
        write(self);
        self.labels.truncate(before);
    }

    fn push_label(&mut self, name: &str, value: &str) {
        let comma = if self.labels.is_empty() { "" } else { "," };
        let _ = write!(self.labels, "{comma}{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => self.labels.push_str("\\\\"),
                '"' => self.labels.push_str("\\\""),
                '\n' => self.labels.push_str("\\n"),
                c => self.labels.push(c),
            }
        }
        self.labels.push('"');
    }

    /// The text, families in the order of their names.
    pub fn finish(self) -> String {
        self.families.into_values().collect()
    }
}
