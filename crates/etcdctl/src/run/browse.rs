//! Looking around: which keys there are, how they nest, what they weigh, and what one of them has been.

use std::time::Duration;

use client::Client;
use proto::etcdserverpb::{RangeRequest, RangeResponse, WatchCreateRequest, WatchResponse};
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

use super::context::{self, Context, bytes, only};
use super::pages::Pages;
use crate::arguments::{Du, History, Ls, Tree};
use crate::failure::Failure;
use crate::nested::{Nested, printable};
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

/// The only word there may be, or all keys.
fn prefix(words: &[std::ffi::OsString]) -> Result<Vec<u8>, Failure> {
    match words {
        [] => Ok(Vec::new()),
        words => Ok(bytes(only(words, "at most one argument is taken, a prefix")?)),
    }
}

/// All keys under a prefix, nested.
async fn nested(
    client: &Client,
    prefix: &[u8],
    separator: &str,
    depth: usize,
    keys_only: bool,
) -> Result<Nested, Failure> {
    let mut root = Nested::new(prefix, depth);
    let mut pages = Pages::new(client, ranges::under(prefix), 0, keys_only);
    while let Some(page) = pages.next().await? {
        for pair in page.kvs {
            let bytes = (pair.key.len() + pair.value.len()) as u64;
            root.add(&pair.key, separator.as_bytes(), bytes);
        }
    }
    Ok(root)
}

pub async fn tree(context: &Context, tree: &Tree) -> Result<(), Failure> {
    let prefix = prefix(&tree.words)?;
    let client = context.connect().await?;
    let depth = tree.depth.max(0) as usize;
    let root = nested(&client, &prefix, &tree.separator, depth, true).await?;
    context.show(&Answer::Tree(root))
}

pub async fn du(context: &Context, du: &Du) -> Result<(), Failure> {
    let prefix = prefix(&du.words)?;
    let client = context.connect().await?;
    let root = nested(&client, &prefix, &du.separator, du.depth.max(1) as usize, false).await?;
    context.show(&Answer::Usage(root.sums()))
}

pub async fn history(context: &Context, history: &History) -> Result<(), Failure> {
    let key = bytes(only(&history.words, "history command needs one argument as key")?);
    let client = context.connect().await?;
    let mut past = past_of(&client, &key).await?;
    let limit = history.limit.max(0) as usize;
    if limit > 0 {
        past.events.drain(..past.events.len().saturating_sub(limit));
    }
    if !context.is_simple() {
        return context.show(&Answer::Watch(past));
    }
    let lines = past.events.iter().map(|event| entry(event, context.style.hex));
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

/// All that has happened to a key up to now and is not compacted, with what it was when that begins.
async fn past_of(client: &Client, key: &[u8]) -> Result<WatchResponse, Failure> {
    let mut past = WatchResponse {
        header: read(client, key, 0).await?.header,
        ..Default::default()
    };
    let now = past.header.map_or(0, |header| header.revision);
    let mut start = 1;
    loop {
        match events_between(client, key, start, now).await {
            Err(client::Error::Compacted { revision }) => {
                past.events = at(client, key, revision).await?;
                start = revision + 1;
            }
            later => {
                past.events.extend(later?);
                return Ok(past);
            }
        }
    }
}

async fn read(client: &Client, key: &[u8], revision: i64) -> Result<RangeResponse, client::Error> {
    let request = RangeRequest {
        key: key.to_vec().into(),
        revision,
        ..Default::default()
    };
    client.range(request).await
}

/// The key as it was at a revision, if it was there.
async fn at(client: &Client, key: &[u8], revision: i64) -> Result<Vec<Event>, Failure> {
    let found = read(client, key, revision).await?.kvs.into_iter();
    let put = |pair| Event {
        kv: Some(pair),
        ..Default::default()
    };
    Ok(found.map(put).collect())
}

/// What a watch tells until it is asked how far it is, and says that this is all.
async fn events_between(
    client: &Client,
    key: &[u8],
    start: i64,
    now: i64,
) -> Result<Vec<Event>, client::Error> {
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
