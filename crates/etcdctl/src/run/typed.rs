//! Lines that are typed at standard input: split into words, and comparisons of a transaction.
//!
//! Words are separated by blanks. `'single'` quotes hold a word together as it is, `"double"` ones know Go's escapes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use proto::etcdserverpb::Compare;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};

use super::ids;

/// Splits a line into words.
pub fn words(line: &str) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' => quoted(rest)?,
            '\'' => match rest[1..].split_once('\'') {
                Some((word, after)) => (word.as_bytes().to_vec(), after),
                None => return Err("a quote is not closed".into()),
            },
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        words.push(OsString::from_vec(word));
        rest = after.trim_start();
    }
    Ok(words)
}

/// A string of Go's at the beginning of `text`, and what follows it.
fn quoted(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut characters = text.strip_prefix('"').ok_or("a quote is missing")?.chars();
    loop {
        match characters.next().ok_or("a quote is not closed")? {
            '"' => return Ok((bytes, characters.as_str())),
            '\\' => escape(&mut characters, &mut bytes)?,
            character => push(&mut bytes, character),
        }
    }
}

fn push(bytes: &mut Vec<u8>, character: char) {
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

/// What a backslash means; the first character behind it has not been looked at yet.
fn escape(characters: &mut std::str::Chars<'_>, bytes: &mut Vec<u8>) -> Result<(), String> {
    let kind = characters.next().ok_or("a quote is not closed")?;
    let mut number = |first: Option<char>, digits: usize, radix: u32| {
        let digits: String = first
            .into_iter()
            .chain(characters.by_ref().take(digits))
            .collect();
        u32::from_str_radix(&digits, radix).map_err(|_| format!("{digits:?} is no number"))
    };
    let character = |number: u32| char::from_u32(number).ok_or("there is no such character");
    match kind {
        'a' => bytes.push(7),
        'b' => bytes.push(8),
        'f' => bytes.push(12),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(11),
        '\\' | '"' | '\'' => bytes.push(kind as u8),
        'x' => bytes.push(number(None, 2, 16)? as u8),
        'u' => push(bytes, character(number(None, 4, 16)?)?),
        'U' => push(bytes, character(number(None, 8, 16)?)?),
        '0'..='7' => {
            let byte = number(Some(kind), 2, 8)?;
            bytes.push(u8::try_from(byte).map_err(|_| "there is no such byte")?);
        }
        other => return Err(format!("\\{other} is not known")),
    }
    Ok(())
}

/// A comparison such as `mod("key") > "0"`.
pub fn comparison(line: &str) -> Result<Compare, String> {
    let malformed = |why: &str| format!("malformed comparison: {line} ({why})");
    let (target, rest) = line
        .split_once('(')
        .ok_or_else(|| malformed("there is no parenthesis"))?;
    let (key, rest) = quoted(rest.trim_start()).map_err(|why| malformed(&why))?;
    let rest = rest
        .trim_start()
        .strip_prefix(')')
        .ok_or_else(|| malformed("a parenthesis is not closed"))?;
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| c.is_whitespace() || c == '"')
        .unwrap_or(rest.len());
    let (operator, rest) = rest.split_at(end);
    let (value, rest) = quoted(rest.trim_start()).map_err(|why| malformed(&why))?;
    if !rest.trim().is_empty() {
        return Err(malformed("something follows the value"));
    }
    let result = match operator {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        other => return Err(malformed(&format!("unknown operator {other:?}"))),
    };
    let number = || {
        let text = std::str::from_utf8(&value).ok();
        let number = text.and_then(|text| text.parse::<i64>().ok());
        number.ok_or_else(|| format!("invalid txn compare request: {line}"))
    };
    let (target, union) = match target.trim() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        "lease" => {
            let lease = std::str::from_utf8(&value)
                .ok()
                .and_then(|id| ids::lease(id).ok());
            let lease = lease.ok_or_else(|| format!("invalid txn compare request: {line}"))?;
            (CompareTarget::Lease, TargetUnion::Lease(lease))
        }
        other => return Err(malformed(&format!("unknown target {other}"))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: Default::default(),
        target_union: Some(union),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_etcdctl_does() {
        let split = |line| words(line).unwrap();
        assert_eq!(split("put a b"), ["put", "a", "b"]);
        assert_eq!(
            split("  put \"a b\"   'c \\ d' \"\""),
            ["put", "a b", "c \\ d", ""]
        );
        assert_eq!(split(r#"put "\x41\n\"\u00fc\101""#), ["put", "A\n\"üA"]);
        assert_eq!(split(r#"put "\xff""#)[1], OsString::from_vec(vec![0xff]));
        for wrong in ["put \"a", "put 'a", r#"put "\q""#, r#"put "\x4""#] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn comparisons_name_a_target_a_key_and_a_value() {
        let compare = |line| {
            let compare = comparison(line).unwrap();
            (
                compare.result(),
                compare.target(),
                compare.key.to_vec(),
                compare.target_union.unwrap(),
            )
        };
        let key = || b"k".to_vec();
        assert_eq!(
            compare(r#"mod("k") > "0""#),
            (
                CompareResult::Greater,
                CompareTarget::Mod,
                key(),
                TargetUnion::ModRevision(0)
            )
        );
        assert_eq!(
            compare(r#"val("k")="v w""#),
            (
                CompareResult::Equal,
                CompareTarget::Value,
                key(),
                TargetUnion::Value("v w".into())
            )
        );
        assert_eq!(
            compare(r#"lease("k") != "1f""#),
            (
                CompareResult::NotEqual,
                CompareTarget::Lease,
                key(),
                TargetUnion::Lease(0x1f)
            )
        );
        for wrong in [
            "mod",
            "mod(k) > \"0\"",
            "mod(\"k\") > 0",
            "mod(\"k\") >= \"0\"",
            "mod(\"k\") > \"x\"",
            "what(\"k\") > \"0\"",
            "mod(\"k\") > \"0\" x",
        ] {
            assert!(comparison(wrong).is_err(), "{wrong}");
        }
    }
}
