//! JSON as Go's `encoding/json` writes it, for records that Go members read and compare.

use serde::Serialize;

/// Like [`serde_json::to_string`], but `<`, `>`, `&` and the two line separators of Unicode are
/// escaped, as Go does by default. They can only stand inside strings.
pub(crate) fn to_go_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("strings, numbers and lists always have a JSON form");
    let special = |c| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
    if !json.contains(special) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match special(c) {
            true => escaped.push_str(&format!("\\u{:04x}", c as u32)),
            false => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_in_go() {
        assert_eq!(
            to_go_json(&"a<b>&\u{2028}\"\\/é\u{1}\n"),
            r#""a\u003cb\u003e\u0026\u2028\"\\/é\u0001\n""#
        );
    }
}
