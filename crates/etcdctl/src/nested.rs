//! Keys as a tree of their parts: how they nest, how many there are below each part, and what they weigh.

use std::collections::BTreeMap;

use crate::output::{hex, quoted};

/// Keys under a prefix, down to some depth.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    pub prefix: Vec<u8>,
    /// How many parts deep; 0 is all.
    depth: usize,
    pub root: Node,
}

/// What begins alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Keys here and below, and their bytes with values.
    pub keys: u64,
    pub bytes: u64,
    pub children: BTreeMap<Vec<u8>, Node>,
}

/// What is under a prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    pub prefix: Vec<u8>,
    pub keys: u64,
    pub bytes: u64,
}

impl Usage {
    /// The prefix as people read it.
    pub fn name(&self, in_hex: bool) -> String {
        match self.prefix.is_empty() {
            true => "(all)".to_owned(),
            false => printable(&self.prefix, in_hex),
        }
    }
}

impl Nested {
    pub fn new(prefix: &[u8], depth: usize) -> Self {
        Self {
            prefix: prefix.to_vec(),
            depth,
            root: Node::default(),
        }
    }

    /// A key that begins with the prefix, and the bytes it takes.
    pub fn add(&mut self, key: &[u8], separator: &[u8], bytes: u64) {
        let below = &key[self.prefix.len()..];
        self.root.add(&parts(below, separator, self.depth), bytes);
    }

    /// What is under each part, the largest first, and last what all of it is.
    pub fn sums(self) -> Vec<Usage> {
        let mut sums = Vec::new();
        self.root.sums(&self.prefix, &mut sums);
        sums.sort_by_key(|usage| std::cmp::Reverse(usage.bytes));
        sums.push(Usage {
            prefix: self.prefix,
            keys: self.root.keys,
            bytes: self.root.bytes,
        });
        sums
    }

    /// The tree with branches, and how many keys there are.
    pub fn drawn(&self, in_hex: bool) -> String {
        let mut out = String::new();
        if !self.prefix.is_empty() {
            out += &format!("{}\n", printable(&self.prefix, in_hex));
        }
        draw(&self.root, "", self.depth, in_hex, &mut out);
        out + &format!("\n{}\n", counted(self.root.keys))
    }
}

impl Node {
    fn add(&mut self, parts: &[&[u8]], bytes: u64) {
        self.keys += 1;
        self.bytes += bytes;
        if let [first, rest @ ..] = parts {
            self.children.entry(first.to_vec()).or_default().add(rest, bytes);
        }
    }

    fn sums(&self, name: &[u8], sums: &mut Vec<Usage>) {
        for (part, child) in &self.children {
            let prefix = [name, part].concat();
            match child.children.is_empty() {
                true => sums.push(Usage {
                    prefix,
                    keys: child.keys,
                    bytes: child.bytes,
                }),
                false => child.sums(&prefix, sums),
            }
        }
    }
}

/// A key's parts, each but the last with the separator it ends with. No more than `depth` of them, if that is not zero.
fn parts<'a>(key: &'a [u8], separator: &[u8], depth: usize) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = key;
    while !rest.is_empty() && (depth == 0 || parts.len() < depth) {
        let at = match separator.is_empty() {
            true => None,
            false => rest
                .windows(separator.len())
                .position(|window| window == separator),
        };
        let (part, after) = rest.split_at(at.map_or(rest.len(), |at| at + separator.len()));
        parts.push(part);
        rest = after;
    }
    parts
}

/// Draws what is below a node. At the last level that is wanted, a number says how many keys are further below.
fn draw(node: &Node, indent: &str, depth: usize, in_hex: bool, out: &mut String) {
    let count = node.children.len();
    for (number, (name, child)) in node.children.iter().enumerate() {
        let (branch, below) = match number + 1 == count {
            true => ("└── ", "    "),
            false => ("├── ", "│   "),
        };
        let hidden = match depth == 1 && child.keys > 1 {
            true => format!(" ({})", counted(child.keys)),
            false => String::new(),
        };
        out.push_str(&format!("{indent}{branch}{}{hidden}\n", printable(name, in_hex)));
        let indent = format!("{indent}{below}");
        draw(child, &indent, depth.saturating_sub(1), in_hex, out);
    }
}

fn counted(keys: u64) -> String {
    format!("{keys} {}", if keys == 1 { "key" } else { "keys" })
}

/// A key that neither moves the cursor nor rings a bell.
pub fn printable(key: &[u8], in_hex: bool) -> String {
    match std::str::from_utf8(key) {
        _ if in_hex => hex(key),
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => quoted(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_nest_by_their_parts_and_a_key_may_have_keys_below_it() {
        assert_eq!(parts(b"/a/b", b"/", 0), [&b"/"[..], b"a/", b"b"]);
        assert_eq!(parts(b"/a/b", b"/", 2), [&b"/"[..], b"a/"]);
        assert_eq!(parts(b"a::b", b"::", 0), [&b"a::"[..], b"b"]);
        assert_eq!(parts(b"a/b", b"", 0), [&b"a/b"[..]]);
        let mut nested = Nested::new(b"", 0);
        for key in ["a", "a/", "a/b", "a/c/d", "e"] {
            nested.add(key.as_bytes(), b"/", 1);
        }
        assert_eq!(
            nested.drawn(false),
            "├── a\n├── a/\n│   ├── b\n│   └── c/\n│       └── d\n└── e\n\n5 keys\n"
        );
    }

    #[test]
    fn what_weighs_most_stands_first_and_all_of_it_last() {
        let mut nested = Nested::new(b"x/", 1);
        for (key, bytes) in [("x/a/1", 3), ("x/b/1", 2), ("x/b/2", 2)] {
            nested.add(key.as_bytes(), b"/", bytes);
        }
        assert_eq!(nested.drawn(false), "x/\n├── a/\n└── b/ (2 keys)\n\n3 keys\n");
        let sums: Vec<_> = nested
            .sums()
            .into_iter()
            .map(|usage| (usage.prefix, usage.keys, usage.bytes))
            .collect();
        let expected = [(&b"x/b/"[..], 2, 4), (b"x/a/", 1, 3), (b"x/", 3, 7)];
        assert_eq!(
            sums,
            expected.map(|(prefix, keys, bytes)| (prefix.to_vec(), keys, bytes))
        );
    }

    #[test]
    fn keys_that_would_upset_a_terminal_are_quoted() {
        assert_eq!(printable("ü/a b".as_bytes(), false), "ü/a b");
        assert_eq!(printable(b"a\x1b[2J", false), r#""a\x1b[2J""#);
        assert_eq!(printable(b"\xff", false), r#""\xff""#);
        assert_eq!(printable(b"a", true), "\\x61");
    }
}
