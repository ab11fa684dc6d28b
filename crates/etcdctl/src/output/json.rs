//! A tree as Go's `encoding/json` writes it: on one line, bytes in base64, and `<`, `>` and `&` escaped.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::tree::Value;

/// The tree and the end of the line.
pub fn render(tree: &Value) -> Vec<u8> {
    let mut out = String::new();
    write(tree, &mut out);
    out.push('\n');
    out.into_bytes()
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Uint(value) => out.push_str(&value.to_string()),
        Value::Text(text) => string(text, out),
        Value::Bytes(bytes) => {
            out.push('"');
            BASE64_STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        Value::List(values) => {
            let begin = ["[", ","].into_iter().chain(std::iter::repeat(","));
            for (separator, value) in begin.zip(values) {
                out.push_str(separator);
                write(value, out);
            }
            out.push_str(if values.is_empty() { "[]" } else { "]" });
        }
        Value::Map(entries) => {
            let begin = ["{", ","].into_iter().chain(std::iter::repeat(","));
            for (separator, (name, value)) in begin.zip(entries) {
                out.push_str(separator);
                string(name, out);
                out.push(':');
                write(value, out);
            }
            out.push_str(if entries.is_empty() { "{}" } else { "}" });
        }
    }
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", character as u32));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}
