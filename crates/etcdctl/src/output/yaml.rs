//! A tree as YAML, for people: keys and values of the store as the text they are, or in base64 when they are none.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::tree::Value;
use types::print as lines;

/// The tree as one document.
pub fn render(tree: &Value, hex: bool) -> Vec<u8> {
    let mut out = String::from("---\n");
    write(tree, 0, hex, &mut out);
    out.into_bytes()
}

/// Writes a node that begins a line.
fn write(value: &Value, indent: usize, hex: bool, out: &mut String) {
    match value {
        Value::Map(entries) if !entries.is_empty() => {
            for (number, (name, value)) in entries.iter().enumerate() {
                if number > 0 {
                    out.push_str(&" ".repeat(indent));
                }
                out.push_str(&plain(name));
                out.push(':');
                below(value, indent, hex, out);
            }
        }
        Value::List(values) if !values.is_empty() => {
            for (number, value) in values.iter().enumerate() {
                if number > 0 {
                    out.push_str(&" ".repeat(indent));
                }
                out.push_str("- ");
                write(value, indent + 2, hex, out);
            }
        }
        scalar => {
            out.push_str(&of_scalar(scalar, hex));
            out.push('\n');
        }
    }
}

/// Writes what belongs to a name: on its line if it is short, else on lines of its own.
fn below(value: &Value, indent: usize, hex: bool, out: &mut String) {
    match value {
        Value::Map(entries) if !entries.is_empty() => nested(value, indent + 2, hex, out),
        Value::List(values) if !values.is_empty() => nested(value, indent, hex, out),
        scalar => {
            out.push(' ');
            write(scalar, indent, hex, out);
        }
    }
}

fn nested(value: &Value, indent: usize, hex: bool, out: &mut String) {
    out.push('\n');
    out.push_str(&" ".repeat(indent));
    write(value, indent, hex, out);
}

fn of_scalar(value: &Value, hex: bool) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Text(text) => plain(text),
        Value::Bytes(bytes) if hex => plain(&lines::hex(bytes)),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => plain(text),
            Err(_) => format!("!!binary {:?}", BASE64_STANDARD.encode(bytes)),
        },
        Value::List(_) => "[]".into(),
        Value::Map(_) => "{}".into(),
    }
}

/// A string, with quotes where it would be taken for something else.
fn plain(text: &str) -> String {
    const WORDS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "null", "y"];
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/'));
    let lower = text.to_ascii_lowercase();
    match begins && text.chars().all(safe) && lower != "n" && !WORDS.contains(&lower.as_str()) {
        true => text.to_owned(),
        false => in_quotes(text),
    }
}

fn in_quotes(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", character as u32));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}
