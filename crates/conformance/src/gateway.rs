//! JSON over HTTP in a script.
//!
//! | command | what it does |
//! |---|---|
//! | `json PATH [BODY]` | a POST; `headers="Name: value"` (several with `\|` between), `method=GET`, `print=cors` for the CORS headers, `print=head` for no body; `repeat=N` takes the `*` in the body N times over |
//! | `json_stream NAME PATH [BODY]` | the same, but the answer is read line by line |
//! | `lines NAME COUNT` | the next lines of it, or `(end)` |
//! | `socket NAME PATH` | opens a websocket; `headers=…` |
//! | `say NAME TEXT`, `hear NAME COUNT` | sends a message; the next messages, or `(end)` |
//! | `hang_up NAME` | closes a stream or a websocket |
//!
//! What is printed is what came, byte for byte, but for this: ids, raft's term and index, sizes and tokens, which differ
//! from run to run; and the blank that the real etcd's JSON may have behind a comma, for its library puts one there or
//! not, by the toss of a coin at build time, as it does with the kind of blank in `proto: `. Nor is it told whether a
//! whole body came in chunks or with its length. `TOKEN1`, `TOKEN2` in headers are the tokens in the order they came.

use std::collections::HashMap;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use goldenscript::Command;
use regex::Regex;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::answer::{Answer, Names};
use crate::call::{Args, ScriptError};
use crate::http::{self, Lines, Response};
use crate::session::PATIENCE;

/// Everything of a script that speaks JSON.
#[derive(Debug, Default)]
pub struct Web {
    streams: HashMap<String, Lines>,
    sockets: HashMap<String, WebSocketStream<TcpStream>>,
    tokens: Vec<String>,
}

impl Web {
    /// Makes a request, if it is one in JSON.
    pub async fn step(
        &mut self,
        command: &Command,
        at: SocketAddr,
        names: &mut Names,
    ) -> Option<Result<String, ScriptError>> {
        let answer = async {
            match &*command.name {
                "json" => self.json(command, at, names).await,
                "json_stream" => self.stream(command, at, names).await,
                "lines" => self.lines(command, names).await,
                "socket" => self.socket(command, at, names).await,
                "say" => self.say(command, names).await,
                "hear" => self.hear(command, names).await,
                _ => self.hang_up(command, names).await,
            }
        };
        const COMMANDS: [&str; 7] = ["json", "json_stream", "lines", "socket", "say", "hear", "hang_up"];
        if !COMMANDS.contains(&&*command.name) {
            return None;
        }
        let answer = timeout(PATIENCE, answer).await;
        Some(answer.unwrap_or_else(|_| Err("no answer comes".into())))
    }

    async fn json(
        &mut self,
        command: &Command,
        at: SocketAddr,
        names: &mut Names,
    ) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let path = args.word()?;
        let (method, print) = (args.option::<String>("method")?, args.option::<String>("print")?);
        let headers = self.headers(&mut args)?;
        let body = body(&mut args)?;
        args.end()?;
        let method = if method.is_empty() { "POST" } else { &method };
        let connection = TcpStream::connect(at).await?;
        let mut response = http::exchange(connection, at, method, path, &headers, &body).await?;
        let text = String::from_utf8_lossy(&response.body).into_owned();
        let path = path.to_owned();
        self.remember(&text, &path, names);
        let mut answer = Answer::new("json", names);
        if !text.ends_with('\n') {
            response.headers.retain(|(name, _)| name != "transfer-encoding");
        }
        show_head(&mut answer, &response, print == "cors");
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        if print != "head" {
            answer.lines(&lines, |answer, line| {
                answer.word(self.shown(line, answer.names()))
            });
        }
        Ok(answer.finish())
    }

    async fn stream(
        &mut self,
        command: &Command,
        at: SocketAddr,
        names: &Names,
    ) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let (name, path) = (args.word()?, args.word()?);
        let headers = self.headers(&mut args)?;
        let body = body(&mut args)?;
        args.end()?;
        let lines = Lines::open(at, path, &headers, &body).await?;
        let mut answer = Answer::new("json_stream", names);
        show_head(&mut answer, &lines.head, false);
        self.streams.insert(name.to_owned(), lines);
        Ok(answer.finish())
    }

    async fn lines(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let (name, count) = (args.word()?, args.parsed::<usize>()?);
        args.end()?;
        let stream = self.streams.get_mut(name).ok_or("no such stream")?;
        let mut lines = Vec::new();
        while lines.len() < count {
            let line = stream.next().await?;
            lines.push(line.unwrap_or_else(|| "(end)".to_owned()));
        }
        let mut answer = Answer::new("lines", names);
        answer.lines(&lines, |answer, line| {
            answer.word(self.shown(line, answer.names()))
        });
        Ok(answer.finish())
    }

    async fn socket(
        &mut self,
        command: &Command,
        at: SocketAddr,
        names: &Names,
    ) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let (name, path) = (args.word()?, args.word()?);
        let headers = self.headers(&mut args)?;
        args.end()?;
        let mut request = format!("ws://{at}{path}").into_client_request()?;
        for header in headers.lines() {
            let (name, value) = header.split_once(": ").ok_or("a header is `Name: value`")?;
            let name = HeaderName::try_from(name)?;
            request.headers_mut().insert(name, HeaderValue::try_from(value)?);
        }
        let connection = TcpStream::connect(at).await?;
        let (socket, response) = match client_async(request, connection).await {
            Ok(opened) => opened,
            Err(error) => return Ok(format!("socket: {error}")),
        };
        self.sockets.insert(name.to_owned(), socket);
        let protocol = response.headers().get("sec-websocket-protocol");
        let protocol = protocol
            .and_then(|protocol| protocol.to_str().ok())
            .unwrap_or("-");
        Ok(format!("socket: open, protocol {protocol}"))
    }

    async fn say(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let (name, text) = (args.word()?, args.word()?);
        args.end()?;
        let socket = self.sockets.get_mut(name).ok_or("no such websocket")?;
        socket.send(Message::text(text)).await?;
        Ok("say: done".to_owned())
    }

    async fn hear(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let (name, count) = (args.word()?, args.parsed::<usize>()?);
        args.end()?;
        let socket = self.sockets.get_mut(name).ok_or("no such websocket")?;
        let mut messages = Vec::new();
        while messages.len() < count {
            // The real server breaks the connection off where ours says good-bye.
            messages.push(match socket.next().await {
                Some(Ok(Message::Text(text))) => text.to_string(),
                Some(Ok(Message::Close(_)) | Err(_)) | None => "(end)".to_owned(),
                Some(Ok(other)) => format!("{other:?}"),
            });
        }
        let mut answer = Answer::new("hear", names);
        answer.lines(&messages, |answer, message| {
            answer.word(self.shown(message, answer.names()));
        });
        Ok(answer.finish())
    }

    async fn hang_up(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let name = args.word()?;
        args.end()?;
        let stream = self.streams.remove(name).is_some();
        match self.sockets.remove(name) {
            Some(mut socket) => socket.close(None).await?,
            None if stream => {}
            None => return Err("no such stream or websocket".into()),
        }
        Ok("hang_up: done".to_owned())
    }

    /// The lines of the headers.
    fn headers(&self, args: &mut Args<'_>) -> Result<String, ScriptError> {
        let headers = args.option::<String>("headers")?;
        let tokens = self.tokens.iter().enumerate();
        let headers = tokens.fold(headers, |headers, (number, token)| {
            headers.replace(&format!("TOKEN{}", number + 1), token)
        });
        let headers = headers.split('|').filter(|header| !header.is_empty());
        Ok(headers.map(|header| format!("{header}\r\n")).collect())
    }

    /// Notes what later answers are to be masked by, and tokens to show.
    fn remember(&mut self, body: &str, path: &str, names: &mut Names) {
        let found = |pattern: &str| {
            let pattern = Regex::new(pattern).expect("it is written here");
            pattern.captures(body).map(|found| found[1].to_owned())
        };
        if let Some(token) = found(r#""token":"([^"]+)""#) {
            self.tokens.push(token);
        }
        // Ids that scripts choose are small.
        let lease = found(r#""ID":"(\d{10,})""#).and_then(|id| id.parse().ok());
        if let (true, Some(lease)) = (path.ends_with("/grant"), lease) {
            names.leases.push(lease);
        }
    }

    /// A text as it came, with names for what differs from run to run.
    fn shown(&self, text: &str, names: &Names) -> String {
        let mut shown = match text.starts_with('{') {
            true => without_blanks_behind_commas(text).replace("proto:\u{a0}", "proto: "),
            false => text.to_owned(),
        };
        for token in &self.tokens {
            shown = shown.replace(token, "TOKEN");
        }
        let ids = [
            (names.cluster, "CLUSTER".to_owned()),
            (names.member, "M1".to_owned()),
        ];
        let leases = names.leases.iter().enumerate();
        let leases = leases.map(|(number, id)| (id.unsigned_abs(), format!("L{}", number + 1)));
        for (id, name) in ids.into_iter().chain(leases) {
            shown = shown.replace(&format!("\"{id}\""), &format!("\"{name}\""));
        }
        let changing = Regex::new(
            r#"("(?:raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|remaining_bytes)":)"\d+""#,
        );
        let changing = changing.expect("it is written here");
        let shown = changing.replace_all(&shown, "$1\"+\"").into_owned();
        match shown.strip_suffix('\n') {
            Some(line) => format!("{line}\\n"),
            None => shown,
        }
    }
}

fn body(args: &mut Args<'_>) -> Result<Vec<u8>, ScriptError> {
    let body = args.optional().unwrap_or_default();
    let times = args.option::<usize>("repeat")?;
    let Some((unit, (before, after))) = body.split_once('*').map(|parts| ("QUFB", parts)) else {
        return Ok(crate::call::bytes(body).to_vec());
    };
    Ok(match times {
        0 => crate::call::bytes(body).to_vec(),
        times => [before, &unit.repeat(times), after].concat().into_bytes(),
    })
}

fn show_head(answer: &mut Answer<'_>, response: &Response, cors: bool) {
    answer.word(&response.status);
    let mut headers: Vec<_> = response
        .headers
        .iter()
        .filter(|(name, _)| !["date", "content-length", "connection"].contains(&&**name))
        .filter(|(name, _)| cors || !name.starts_with("access-control-"))
        .collect();
    headers.sort();
    for (name, value) in headers {
        answer.word(format_args!("[{name}: {value}]"));
    }
}

fn without_blanks_behind_commas(json: &str) -> String {
    let (mut text, mut in_string, mut escaped) = (String::new(), false, false);
    for character in json.chars() {
        match character {
            ' ' if !in_string && text.ends_with(',') => continue,
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = character == '\\' && !escaped;
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blanks_outside_of_strings_are_taken_away() {
        assert_eq!(
            without_blanks_behind_commas(r#"{"a":"b, \", c", "d": 1, "e":2}"#),
            r#"{"a":"b, \", c","d": 1,"e":2}"#
        );
    }
}
