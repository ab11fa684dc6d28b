//! How answers look in every format, as etcdutl has them.

use image::HashKv;
use types::print::{self, Format, size};

/// What a command found out.
#[derive(Debug)]
pub enum Answer {
    /// What is in a backup.
    Status(image::Status),
    /// The hash of its keys.
    Hash(HashKv),
}

/// A field: its names in a table, among fields and in JSON, and its value.
struct Field {
    column: &'static str,
    field: &'static str,
    json: &'static str,
    value: serde_json::Value,
    /// As people read it.
    text: String,
}

/// The answer in a format, or that there is no such form.
pub fn render(format: Format, answer: &Answer) -> Result<String, &'static str> {
    let fields = fields(answer);
    let texts = || fields.iter().map(|field| field.text.clone()).collect::<Vec<_>>();
    match format {
        Format::Simple => Ok(texts().join(", ") + "\n"),
        Format::Fields => Ok(fields
            .iter()
            .map(|field| {
                // A text stands there without quotes.
                let value = field.value.as_str().map(str::to_owned);
                let value = value.unwrap_or_else(|| field.value.to_string());
                format!("\"{}\" : {value}\n", field.field)
            })
            .collect()),
        Format::Json => {
            let fields = fields
                .iter()
                .map(|field| format!("{:?}:{}", field.json, field.value));
            Ok(format!("{{{}}}\n", fields.collect::<Vec<_>>().join(",")))
        }
        Format::Yaml => {
            let fields = fields
                .iter()
                .map(|field| format!("{}: {}\n", field.json, field.value));
            Ok(format!("---\n{}", fields.collect::<String>()))
        }
        Format::Table => {
            let header: Vec<_> = fields.iter().map(|field| field.column).collect();
            Ok(print::table(&header, &[texts()]))
        }
        Format::Protobuf => Err(format.unsupported()),
    }
}

fn fields(answer: &Answer) -> Vec<Field> {
    let field = |[column, field, json]: [&'static str; 3], value: serde_json::Value, text: String| Field {
        column,
        field,
        json,
        value,
        text,
    };
    match answer {
        Answer::Status(status) => vec![
            field(
                ["HASH", "Hash", "hash"],
                status.hash.into(),
                format!("{:x}", status.hash),
            ),
            field(
                ["REVISION", "Revision", "revision"],
                status.revision.into(),
                status.revision.to_string(),
            ),
            field(
                ["TOTAL KEYS", "Keys", "totalKey"],
                status.keys.into(),
                status.keys.to_string(),
            ),
            field(
                ["TOTAL SIZE", "Size", "totalSize"],
                status.bytes.into(),
                size(status.bytes),
            ),
            field(
                ["VERSION", "Version", "version"],
                status.version.clone().into(),
                status.version.clone(),
            ),
        ],
        Answer::Hash(hash) => vec![
            field(["HASH", "Hash", "hash"], hash.hash.into(), hash.hash.to_string()),
            field(
                ["HASH REVISION", "Hash revision", "hashRevision"],
                hash.revision.into(),
                hash.revision.to_string(),
            ),
            field(
                ["COMPACT REVISION", "Compact revision", "compactRevision"],
                hash.compact_revision.into(),
                hash.compact_revision.to_string(),
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_looks_as_etcdutl_has_it() {
        let answer = Answer::Status(image::Status {
            hash: 0x1f,
            revision: 7,
            keys: 5,
            bytes: 24_576,
            version: "3.7.0".into(),
        });
        let shown = |format| render(format, &answer).unwrap();
        assert_eq!(shown(Format::Simple), "1f, 7, 5, 25 kB, 3.7.0\n");
        assert_eq!(
            shown(Format::Json),
            "{\"hash\":31,\"revision\":7,\"totalKey\":5,\"totalSize\":24576,\"version\":\"3.7.0\"}\n"
        );
        assert_eq!(
            shown(Format::Fields),
            "\"Hash\" : 31\n\"Revision\" : 7\n\"Keys\" : 5\n\"Size\" : 24576\n\"Version\" : 3.7.0\n"
        );
        assert!(shown(Format::Table).contains("│ TOTAL KEYS │"));
        assert_eq!(
            shown(Format::Yaml),
            "---\nhash: 31\nrevision: 7\ntotalKey: 5\ntotalSize: 24576\nversion: \"3.7.0\"\n"
        );
        assert!(render(Format::Protobuf, &answer).is_err());
    }
}
