//! Watches: one from the command line, or many that are typed.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;

use client::{Client, Watcher};
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use proto::mvccpb::Event;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::context::{self, Context, bytes};
use super::typed;
use crate::arguments::{Line, Watch};
use crate::failure::{Failure, Status};
use crate::output::{Answer, quoted};
use crate::{parse, ranges};

const WORDS: &str = "bad number of arguments";

pub async fn run(context: Context, watch: Watch) -> Result<(), Failure> {
    let named = from_variables(|name| std::env::var_os(name))?;
    if watch.interactive {
        return interactive(context, named).await;
    }
    if watch.exec.is_empty() && std::env::args_os().next_back().is_some_and(|word| word == "--") {
        return Err(Failure::arguments(format!(
            "{WORDS} (found separator --, but no commands)"
        )));
    }
    let request = request(&watch, &named)?;
    let client = context.connect().await?.requiring_leader();
    let watcher = client.watch(request).await;
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => return Err(ended(error)),
    };
    Err(follow(&context, &mut watcher, &watch.exec).await)
}

/// The key and the end that variables name.
fn from_variables(look: impl Fn(&str) -> Option<OsString>) -> Result<Vec<OsString>, Failure> {
    let variable = |name| look(name).filter(|value| !value.is_empty());
    match (variable("ETCDCTL_WATCH_KEY"), variable("ETCDCTL_WATCH_RANGE_END")) {
        (None, Some(end)) => Err(Failure::arguments(format!(
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end:?}"
        ))),
        (key, end) => Ok(key.into_iter().chain(end).collect()),
    }
}

/// What is to be watched: what is typed, or what variables name.
fn request(watch: &Watch, named: &[OsString]) -> Result<WatchCreateRequest, Failure> {
    let words = match (watch.words.is_empty(), named.is_empty()) {
        (false, false) => {
            return Err(Failure::arguments(format!(
                "{WORDS} (found conflicting environment key)"
            )));
        }
        (false, true) => &watch.words[..],
        (true, _) => named,
    };
    let range = match words {
        [key] if watch.prefix => ranges::under(&bytes(key)),
        [key] => ranges::between(bytes(key), None),
        [_, _] if watch.prefix => {
            return Err(Failure::arguments(
                "`range_end` and `--prefix` are mutually exclusive",
            ));
        }
        [key, end] => ranges::between(bytes(key), Some(end)),
        _ => return Err(Failure::arguments(WORDS)),
    };
    Ok(WatchCreateRequest {
        start_revision: watch.rev,
        progress_notify: watch.progress_notify,
        prev_kv: watch.prev_kv,
        ..range.into()
    })
}

/// Shows what happens until nothing more will.
async fn follow(context: &Context, watcher: &mut Watcher, exec: &[OsString]) -> Failure {
    while let Some(next) = watcher.next().await {
        let shown = match next {
            Ok(response) => show(context, response, exec).await,
            Err(error) => return ended(error),
        };
        if let Err(failure) = shown {
            return failure;
        }
    }
    Failure::new(Status::Interrupted, "watch is canceled by the server")
}

/// A watch that the server ends says why, and then that it has ended.
fn ended(error: client::Error) -> Failure {
    match error {
        client::Error::Compacted { .. }
        | client::Error::WatchCanceled { .. }
        | client::Error::Server { .. } => {
            eprintln!("watch was canceled ({error})");
            let failure = Failure::new(Status::Interrupted, "watch is canceled by the server");
            match error {
                client::Error::Compacted { revision } => failure.cure(format!(
                    "What was before revision {revision} is gone: --rev={revision} is the first to watch from."
                )),
                _ => failure,
            }
        }
        other => other.into(),
    }
}

async fn show(context: &Context, response: WatchResponse, exec: &[OsString]) -> Result<(), Failure> {
    let revision = response.header.map_or(0, |header| header.revision);
    if response.events.is_empty() {
        context::print(format!("progress notify: {revision}\n").as_bytes())?;
    }
    let answer = Answer::Watch(response);
    context.show(&answer)?;
    let Answer::Watch(response) = answer else {
        return Ok(());
    };
    for event in response.events.iter().filter(|_| !exec.is_empty()) {
        execute(exec, revision, event).await?;
    }
    Ok(())
}

/// Runs the command that was given for events.
async fn execute(exec: &[OsString], revision: i64, event: &Event) -> Result<(), Failure> {
    let pair = event.kv.clone().unwrap_or_default();
    let status = Command::new(&exec[0])
        .args(&exec[1..])
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env(
            "ETCD_WATCH_EVENT_TYPE",
            quoted(event.r#type().as_str_name().as_bytes()),
        )
        .env("ETCD_WATCH_KEY", quoted(&pair.key))
        .env("ETCD_WATCH_VALUE", quoted(&pair.value))
        .stdin(Stdio::null())
        .status()
        .await;
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => match status.code() {
            Some(code) => format!("exit status {code}"),
            None => status.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let words: Vec<_> = exec.iter().map(|word| quoted(word.as_encoded_bytes())).collect();
    eprintln!("command [{}] error ({why})", words.join(" "));
    Err(Failure::silent(1))
}

/// How many watches may be typed before the first is shown.
const TYPED_MAX: usize = 64;

/// Watches as they are typed, until there is nothing more to read. All are shown as they come.
async fn interactive(context: Context, named: Vec<OsString>) -> Result<(), Failure> {
    let client = context.connect().await?.requiring_leader();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let (events, mut shown) = mpsc::channel(TYPED_MAX);
    // Whoever watches all that any of them does tells how far they are.
    let mut progress: Option<mpsc::Sender<()>> = None;
    loop {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => match typed_line(&line, &named) {
                    Ok(Typed::Watch(request, exec)) => {
                        let (ask, asked) = mpsc::channel(1);
                        progress = Some(ask);
                        tokio::spawn(forward(client.clone(), request, exec, asked, events.clone()));
                    }
                    Ok(Typed::Progress) => if let Some(ask) = &progress {
                        // A question that is being asked is enough.
                        let _ = ask.try_send(());
                    },
                    Err(why) => eprintln!("Invalid command {line} ({why})"),
                },
                Ok(None) => return Err(Failure::new(Status::Input, "error reading watch request line: EOF")),
                Err(error) => {
                    let text = format!("error reading watch request line: {error}");
                    return Err(Failure::new(Status::Input, text));
                }
            },
            Some((exec, next)) = shown.recv() => match next {
                Ok(response) => show(&context, response, &exec).await?,
                Err(error) => drop(ended(error)),
            },
        }
    }
}

/// A line of an interactive session.
enum Typed {
    Watch(WatchCreateRequest, Arc<[OsString]>),
    Progress,
}

fn typed_line(line: &str, named: &[OsString]) -> Result<Typed, String> {
    let words = typed::words(line)?;
    if words
        .first()
        .is_none_or(|word| word != "watch" && word != "progress")
    {
        return Err("only support watch".into());
    }
    match parse::line(words)? {
        Line::Watch(watch) => match request(&watch, named) {
            Ok(request) => Ok(Typed::Watch(request, watch.exec.into())),
            Err(failure) => Err(failure.text),
        },
        Line::Progress => Ok(Typed::Progress),
    }
}

type Shown = (Arc<[OsString]>, Result<WatchResponse, client::Error>);

/// Hands on what one watch of several sees.
async fn forward(
    client: Client,
    request: WatchCreateRequest,
    exec: Arc<[OsString]>,
    mut asked: mpsc::Receiver<()>,
    events: mpsc::Sender<Shown>,
) {
    let mut watcher = match client.watch(request).await {
        Ok(watcher) => watcher,
        Err(error) => return drop(events.send((exec, Err(error))).await),
    };
    loop {
        let next = tokio::select! {
            next = watcher.next() => next,
            Some(()) = asked.recv() => match watcher.request_progress().await {
                Ok(()) => continue,
                Err(error) => Some(Err(error)),
            },
        };
        let Some(next) = next else { return };
        if events.send((exec.clone(), next)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_watch_with_its_flags_or_a_question_how_far() {
        let Ok(Typed::Watch(request, exec)) = typed_line("watch a --prefix --rev=3 -- echo \"b c\"", &[])
        else {
            panic!("not a watch")
        };
        assert_eq!((&request.key[..], &request.range_end[..]), (&b"a"[..], &b"b"[..]));
        assert_eq!(request.start_revision, 3);
        assert_eq!(exec[..], ["echo", "b c"]);
        assert!(matches!(typed_line("progress", &[]), Ok(Typed::Progress)));
        for wrong in [
            "",
            "watch",
            "get a",
            "watch a b c",
            "watch a b --prefix",
            "watch \"a",
        ] {
            assert!(typed_line(wrong, &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_name_what_the_line_does_not() {
        let named = ["k".into()];
        assert!(matches!(typed_line("watch", &named), Ok(Typed::Watch(request, _)) if request.key == "k"));
        assert!(typed_line("watch other", &named).is_err());
        let from = |key: &str, end: &str| {
            from_variables(|name| Some(if name == "ETCDCTL_WATCH_KEY" { key } else { end }.into()))
        };
        assert_eq!(from("a", "c"), Ok(vec!["a".into(), "c".into()]));
        assert_eq!(from("a", ""), Ok(vec!["a".into()]));
        assert_eq!(from("", ""), Ok(vec![]));
        assert_eq!(from("", "c").unwrap_err().status, 128);
    }
}
