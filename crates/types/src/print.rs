//! How etcd's tools print: bytes in quotes, sizes, tables, as Go's `fmt` and the libraries of etcdctl have them.

use crate::go;

/// Output formats of the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people, and for scripts that cut lines apart.
    Simple,
    /// A line for each field.
    Fields,
    /// As Go writes it.
    Json,
    /// Rows with borders.
    Table,
    /// The message's own bytes.
    Protobuf,
    /// For people; ours only.
    Yaml,
}

impl Format {
    /// What there is, as advice to who has asked for something else.
    pub const ADVICE: &str = "--write-out takes simple, fields, json, table, protobuf, or yaml.";

    /// The format of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "simple" => Self::Simple,
            "fields" => Self::Fields,
            "json" => Self::Json,
            "table" => Self::Table,
            "protobuf" => Self::Protobuf,
            "yaml" => Self::Yaml,
            _ => return None,
        })
    }

    /// That an answer has no such form, in etcd's words.
    pub fn unsupported(self) -> &'static str {
        match self {
            Self::Fields => "fields not supported as output format",
            Self::Table => "table not supported as output format",
            _ => "protobuf not supported as output format",
        }
    }
}

/// A string or bytes as `%q` writes them.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        chunk
            .valid()
            .chars()
            .for_each(|character| quote(&mut text, character));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}

fn quote(text: &mut String, character: char) {
    match character {
        '"' => text.push_str("\\\""),
        '\\' => text.push_str("\\\\"),
        '\x07' => text.push_str("\\a"),
        '\x08' => text.push_str("\\b"),
        '\x0c' => text.push_str("\\f"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        '\x0b' => text.push_str("\\v"),
        ' '..='~' => text.push(character),
        '\0'..='\x7f' => text.push_str(&format!("\\x{:02x}", character as u32)),
        // What Rust escapes in its own notation is what neither of the two takes for printable.
        _ if character.escape_debug().len() == 1 => text.push(character),
        _ if (character as u32) < 0x10000 => text.push_str(&format!("\\u{:04x}", character as u32)),
        _ => text.push_str(&format!("\\U{:08x}", character as u32)),
    }
}

/// Bytes in hexadecimal, `\x` in front of each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// A number of bytes for people: powers of a thousand, one digit behind the point below ten.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let exponent = (bytes as f64).log(1000.0).floor();
    let value = (bytes as f64 / 1000f64.powf(exponent) * 10.0 + 0.5).floor() / 10.0;
    let unit = UNITS[exponent as usize];
    match value < 10.0 {
        true => format!("{value:.1} {unit}"),
        false => format!("{value:.0} {unit}"),
    }
}

/// How long something took, as Go writes it.
pub fn took(duration: std::time::Duration) -> String {
    go::duration(duration).to_string()
}

/// How far a job is: `saving: 12 MB of 80 MB (15%), 34s left`.
pub fn progress(
    name: &str,
    [done, total]: [u64; 2],
    amount: impl Fn(u64) -> String,
    after: std::time::Duration,
) -> String {
    let share = (done as f64 / total.max(1) as f64).min(1.0);
    let left = match share > 0.0 {
        true => format!(", {:.0}s left", after.as_secs_f64() * (1.0 / share - 1.0)),
        false => String::new(),
    };
    let (percent, done, total) = (share * 100.0, amount(done), amount(total));
    format!("{name}: {done} of {total} ({percent:.0}%){left}")
}

/// Borders around cells, the header in the middle of its column, the rows to the right. Rows have as many cells as the
/// header.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<_> = header.iter().map(|name| width(name)).collect();
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = width(cell).max(*widest);
        }
    }
    let border = |left: &str, middle: &str, right: &str| {
        let lines: Vec<_> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", lines.join(middle))
    };
    let line = |cells: Vec<String>| format!("│{}│\n", cells.join("│"));
    let names = header.iter().zip(&widths);
    let names = names.map(|(name, width)| format!(" {name:^width$} "));
    let mut out = border("┌", "┬", "┐") + &line(names.collect());
    if !rows.is_empty() {
        out += &border("├", "┼", "┤");
    }
    for row in rows {
        let cells = row.iter().zip(&widths);
        out += &line(cells.map(|(cell, width)| format!(" {cell:>width$} ")).collect());
    }
    out + &border("└", "┴", "┘")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_quoted_as_go_does() {
        assert_eq!(quoted(b"a\"b\\c\n\x00\x7f"), r#""a\"b\\c\n\x00\x7f""#);
        assert_eq!(quoted("ü€\u{1F600}".as_bytes()), "\"ü€\u{1F600}\"");
        assert_eq!(quoted(b"\xff\xc3"), r#""\xff\xc3""#);
        assert_eq!(quoted("\u{200b}\u{e0001}".as_bytes()), r#""\u200b\U000e0001""#);
    }

    #[test]
    fn sizes_are_rounded_as_etcdctl_does() {
        let sizes = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
        ];
        let larger = [
            (20_480, "20 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (2_147_483_648, "2.1 GB"),
        ];
        for (bytes, text) in sizes.into_iter().chain(larger) {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_line_tells_how_much_is_done_and_how_long_it_takes_still() {
        let after = |done, seconds| {
            let after = std::time::Duration::from_secs(seconds);
            progress("saving", [done, 80_000_000], size, after)
        };
        assert_eq!(after(20_000_000, 10), "saving: 20 MB of 80 MB (25%), 30s left");
        assert_eq!(after(0, 1), "saving: 0 B of 80 MB (0%)");
        assert_eq!(after(90_000_000, 9), "saving: 90 MB of 80 MB (100%), 0s left");
    }

    #[test]
    fn a_table_has_borders_and_no_line_below_a_header_without_rows() {
        let rows = [vec!["1".to_owned(), "long".to_owned()]];
        assert_eq!(
            table(&["NAME", "X"], &rows),
            "┌──────┬──────┐\n│ NAME │  X   │\n├──────┼──────┤\n│    1 │ long │\n└──────┴──────┘\n"
        );
        assert_eq!(table(&["A"], &[]), "┌───┐\n│ A │\n└───┘\n");
    }
}
