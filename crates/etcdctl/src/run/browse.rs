//! Looking around: which keys there are, how they nest, what they weigh, and what one of them has been.

use std::collections::BTreeMap;
use std::time::Duration;

use client::Client;
use proto::etcdserverpb::{RangeRequest, RangeResponse, WatchCreateRequest, WatchResponse};
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

use super::context::{self, Context, bytes, only};
use super::pages::Pages;
use crate::arguments::{Du, History, Ls, Tree};
use crate::failure::Failure;
use crate::output::{Answer, hex, quoted, size};
use crate::ranges;

/// How often a watch that is behind is asked how far it is.
const ASKS_EVERY: Duration = Duration::from_millis(100);

pub async fn ls(context: &Context, ls: &Ls) -> Result<(), Failure> {
    let client = context.connect().await?;
    let range = ranges::under(&prefix(&ls.words)?);
    let mut pages = Pages::new(&client, range, ls.rev, !ls.long);
    let mut whole = RangeResponse::default();
    while let Some(page) = pages.next().await? {
        if context.is_simple() {
            let lines = page.kvs.iter().map(|pair| line(pair, ls.long, context.style.hex));
            context::print(lines.collect::<String>().as_bytes())?;
        } else {
            whole.header = page.header;
            whole.count += page.kvs.len() as i64;
            whole.kvs.extend(page.kvs);
        }
    }
    match context.is_simple() {
        true => Ok(()),
        false => context.show(&Answer::Get(whole)),
    }
}

fn line(pair: &KeyValue, long: bool, in_hex: bool) -> String {
    let key = printable(&pair.key, in_hex);
    match long {
        false => format!("{key}\n"),
        true => {
            let lease = match pair.lease {
                0 => "-".to_owned(),
                lease => format!("{lease:016x}"),
            };
            let (revision, version, size) = (pair.mod_revision, pair.version, size(pair.value.len() as u64));
            format!("{revision:>10} {version:>8} {size:>8} {lease:>16}  {key}\n")
        }
    }
}

/// A key that neither moves the cursor nor rings a bell.
fn printable(key: &[u8], in_hex: bool) -> String {
    match std::str::from_utf8(key) {
        _ if in_hex => hex(key),
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => quoted(key),
    }
}

/// The only word there may be, or all keys.
fn prefix(words: &[std::ffi::OsString]) -> Result<Vec<u8>, Failure> {
    match words {
        [] => Ok(Vec::new()),
        words => Ok(bytes(only(words, "at most one argument is taken, a prefix")?)),
    }
}

/// What begins alike.
#[derive(Default)]
struct Node {
    /// Keys here and below, and their bytes with values.
    keys: u64,
    bytes: u64,
    children: BTreeMap<Vec<u8>, Node>,
}

impl Node {
    fn add(&mut self, parts: &[&[u8]], bytes: u64) {
        self.keys += 1;
        self.bytes += bytes;
        if let [first, rest @ ..] = parts {
            self.children.entry(first.to_vec()).or_default().add(rest, bytes);
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

/// All keys under a prefix, nested.
async fn nested(
    client: &Client,
    prefix: &[u8],
    separator: &str,
    depth: usize,
    keys_only: bool,
) -> Result<Node, Failure> {
    let mut root = Node::default();
    let mut pages = Pages::new(client, ranges::under(prefix), 0, keys_only);
    while let Some(page) = pages.next().await? {
        for pair in page.kvs {
            let below = &pair.key[prefix.len()..];
            root.add(
                &parts(below, separator.as_bytes(), depth),
                (pair.key.len() + pair.value.len()) as u64,
            );
        }
    }
    Ok(root)
}

pub async fn tree(context: &Context, tree: &Tree) -> Result<(), Failure> {
    let prefix = prefix(&tree.words)?;
    let client = context.connect().await?;
    let depth = tree.depth.max(0) as usize;
    let root = nested(&client, &prefix, &tree.separator, depth, true).await?;
    let mut out = String::new();
    if !prefix.is_empty() {
        out += &printable(&prefix, context.style.hex);
        out.push('\n');
    }
    draw(&root, "", depth, context.style.hex, &mut out);
    let keys = if root.keys == 1 { "key" } else { "keys" };
    out += &format!("\n{} {keys}\n", root.keys);
    context::print(out.as_bytes())
}

/// Draws what is below a node. At the last level that is wanted, a number says how many keys are further below.
fn draw(node: &Node, indent: &str, depth: usize, in_hex: bool, out: &mut String) {
    let count = node.children.len();
    for (number, (name, child)) in node.children.iter().enumerate() {
        let is_last = number + 1 == count;
        let (branch, below) = if is_last {
            ("└── ", "    ")
        } else {
            ("├── ", "│   ")
        };
        let hidden = if depth == 1 && child.keys > 1 {
            format!(" ({} keys)", child.keys)
        } else {
            String::new()
        };
        out.push_str(&format!("{indent}{branch}{}{hidden}\n", printable(name, in_hex)));
        draw(
            child,
            &format!("{indent}{below}"),
            depth.saturating_sub(1),
            in_hex,
            out,
        );
    }
}

pub async fn du(context: &Context, du: &Du) -> Result<(), Failure> {
    let prefix = prefix(&du.words)?;
    let client = context.connect().await?;
    let root = nested(&client, &prefix, &du.separator, du.depth.max(1) as usize, false).await?;
    let mut lines = Vec::new();
    sums(&root, &prefix, &mut lines);
    lines.sort_by_key(|line| std::cmp::Reverse(line.0));
    lines.push((root.bytes, root.keys, prefix));
    let lines = lines.iter().map(|(bytes, keys, name)| {
        let name = match name.is_empty() {
            true => "(all)".to_owned(),
            false => printable(name, context.style.hex),
        };
        format!("{:>8} {keys:>10} keys  {name}\n", size(*bytes))
    });
    context::print(lines.collect::<String>().as_bytes())
}

fn sums(node: &Node, name: &[u8], lines: &mut Vec<(u64, u64, Vec<u8>)>) {
    for (part, child) in &node.children {
        let name = [name, part].concat();
        match child.children.is_empty() {
            true => lines.push((child.bytes, child.keys, name)),
            false => sums(child, &name, lines),
        }
    }
}

pub async fn history(context: &Context, history: &History) -> Result<(), Failure> {
    let key = bytes(only(&history.words, "history command needs one argument as key")?);
    let client = context.connect().await?;
    let mut events = events_of(&client, &key).await?;
    let limit = history.limit.max(0) as usize;
    if limit > 0 {
        events.drain(..events.len().saturating_sub(limit));
    }
    if !context.is_simple() {
        return context.show(&Answer::Watch(WatchResponse {
            events,
            ..Default::default()
        }));
    }
    let lines = events.iter().map(|event| entry(event, context.style.hex));
    context::print(lines.collect::<String>().as_bytes())
}

/// One line of a history: when, what, and which value.
fn entry(event: &Event, in_hex: bool) -> String {
    let pair = event.kv.clone().unwrap_or_default();
    let value = match (event.r#type(), in_hex) {
        (EventType::Delete, _) => String::new(),
        (EventType::Put, true) => hex(&pair.value),
        (EventType::Put, false) => quoted(&pair.value),
    };
    let version = match pair.version {
        0 => String::new(),
        version => format!("v{version}"),
    };
    let kind = event.r#type().as_str_name();
    let line = format!("{:>10} {kind:<6} {version:<6} {value}", pair.mod_revision);
    format!("{}\n", line.trim_end())
}

/// All that has happened to a key and is not compacted, with what it was when that begins.
async fn events_of(client: &Client, key: &[u8]) -> Result<Vec<Event>, Failure> {
    let mut events = Vec::new();
    let mut start = 1;
    loop {
        match events_from(client, key, start).await {
            Err(client::Error::Compacted { revision }) => {
                events = at(client, key, revision).await?;
                start = revision + 1;
            }
            later => {
                events.extend(later?);
                return Ok(events);
            }
        }
    }
}

/// The key as it was at a revision, if it was there.
async fn at(client: &Client, key: &[u8], revision: i64) -> Result<Vec<Event>, Failure> {
    let request = RangeRequest {
        key: key.to_vec().into(),
        revision,
        ..Default::default()
    };
    let found = client.range(request).await?.kvs.into_iter();
    let put = |pair| Event {
        kv: Some(pair),
        ..Default::default()
    };
    Ok(found.map(put).collect())
}

/// What a watch tells until it is asked how far it is, and says that this is all.
async fn events_from(client: &Client, key: &[u8], start: i64) -> Result<Vec<Event>, client::Error> {
    let now = client
        .range(RangeRequest {
            key: key.to_vec().into(),
            ..Default::default()
        })
        .await?;
    let now = now.header.map_or(0, |header| header.revision);
    if start > now {
        return Ok(Vec::new());
    }
    let request = WatchCreateRequest {
        key: key.to_vec().into(),
        start_revision: start,
        ..Default::default()
    };
    let mut watcher = client.watch(request).await?;
    let mut events = Vec::new();
    let mut asks = tokio::time::interval(ASKS_EVERY);
    loop {
        tokio::select! {
            next = watcher.next() => match next.transpose()? {
                Some(next) if next.events.is_empty() && next.header.is_some_and(|header| header.revision >= now) => break,
                Some(next) => events.extend(next.events),
                None => break,
            },
            // A watch that has not caught up leaves the question unanswered.
            _ = asks.tick() => watcher.request_progress().await?,
        }
    }
    events.retain(|event: &Event| event.kv.as_ref().is_some_and(|pair| pair.mod_revision <= now));
    Ok(events)
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
        let mut root = Node::default();
        for key in ["a", "a/", "a/b", "a/c/d", "e"] {
            root.add(&parts(key.as_bytes(), b"/", 0), 1);
        }
        let mut out = String::new();
        draw(&root, "", 0, false, &mut out);
        assert_eq!(
            out,
            "├── a\n├── a/\n│   ├── b\n│   └── c/\n│       └── d\n└── e\n"
        );
        assert_eq!(root.keys, 5);
    }

    #[test]
    fn keys_that_would_upset_a_terminal_are_quoted() {
        assert_eq!(printable("ü/a b".as_bytes(), false), "ü/a b");
        assert_eq!(printable(b"a\x1b[2J", false), r#""a\x1b[2J""#);
        assert_eq!(printable(b"\xff", false), r#""\xff""#);
        assert_eq!(printable(b"a", true), "\\x61");
    }

    #[test]
    fn a_history_is_a_line_for_each_change() {
        let pair = |mod_revision, version, value: &'static str| KeyValue {
            mod_revision,
            version,
            value: value.into(),
            ..Default::default()
        };
        let event = |kind: EventType, pair| Event {
            r#type: kind.into(),
            kv: Some(pair),
            prev_kv: None,
        };
        assert_eq!(
            entry(&event(EventType::Put, pair(12, 3, "a\nb")), false),
            "        12 PUT    v3     \"a\\nb\"\n"
        );
        assert_eq!(
            entry(&event(EventType::Delete, pair(13, 0, "")), false),
            "        13 DELETE\n"
        );
    }
}
