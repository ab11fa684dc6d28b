//! Locks and elections, held by a lease that is kept alive as long as the command runs.

use std::ffi::OsString;

use ::bytes::Bytes;
use client::{Client, Session};
use proto::etcdserverpb::RangeRequest;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::context::{Context, bytes};
use crate::arguments::{Elect, Lock};
use crate::failure::{Failure, Status};
use crate::output::Answer;

/// How long a candidate's lease lives without a sign of life.
const ELECTION_TTL_SECS: i64 = 60;

pub async fn lock(context: &Context, lock: &Lock) -> Result<(), Failure> {
    let [name, command @ ..] = &lock.words[..] else {
        return Err(Failure::arguments(
            "lock takes a lock name argument and an optional command to execute",
        ));
    };
    let client = context.connect_for_long().await?;
    let session = Session::new(&client, lock.ttl).await?;
    let held = held(context, &client, &session, &bytes(name), command).await;
    session.close().await?;
    held
}

async fn held(
    context: &Context,
    client: &Client,
    session: &Session,
    name: &[u8],
    command: &[OsString],
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let lock = tokio::select! {
        lock = session.lock(name) => lock?,
        () = signals.next() => return Err(Failure::new(Status::Error, "context canceled")),
    };
    match command {
        [] => {
            show_key(context, client, lock.key(), "lock lost on init").await?;
            until_signal(session, &mut signals).await
        }
        command => execute(command, lock.key(), lock.header().revision).await,
    }
}

/// Runs a command, which ends this one with its own status.
async fn execute(command: &[OsString], key: &Bytes, revision: i64) -> Result<(), Failure> {
    let status = Command::new(&command[0])
        .args(&command[1..])
        .env("ETCD_LOCK_KEY", String::from_utf8_lossy(key).as_ref())
        .env("ETCD_LOCK_REV", revision.to_string())
        .status()
        .await
        .map_err(|error| Failure::new(Status::Error, format!("cannot run {:?}: {error}", command[0])))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure {
            status: u8::try_from(code).unwrap_or(1),
            ..Failure::new(Status::Error, format!("exit status {code}"))
        }),
        None => Err(Failure::new(Status::Error, status)),
    }
}

/// Shows a key that was just written; that it is gone says that it is no longer held.
async fn show_key(context: &Context, client: &Client, key: &Bytes, lost: &str) -> Result<(), Failure> {
    let request = RangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    let answer = client.range(request).await?;
    match answer.kvs.is_empty() {
        true => Err(Failure::new(Status::Error, lost)),
        false => context.show(&Answer::Get(answer)),
    }
}

pub async fn elect(context: &Context, elect: &Elect) -> Result<(), Failure> {
    match (&elect.words[..], elect.listen) {
        ([name], true) => observe(context, bytes(name)).await,
        ([_], false) => Err(Failure::arguments("no proposal argument but -l not set")),
        ([_, _], true) => Err(Failure::arguments("proposal given but -l is set")),
        ([name, proposal], false) => {
            let client = context.connect_for_long().await?;
            let session = Session::new(&client, ELECTION_TTL_SECS).await?;
            let elected = campaign(context, &client, &session, &bytes(name), bytes(proposal)).await;
            session.close().await?;
            elected
        }
        _ => Err(Failure::arguments(
            "elect takes one election name argument and an optional proposal argument",
        )),
    }
}

async fn campaign(
    context: &Context,
    client: &Client,
    session: &Session,
    name: &[u8],
    value: Vec<u8>,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let office = tokio::select! {
        office = session.campaign(name, value) => office?,
        () = signals.next() => return Err(Failure::new(Status::Error, "context canceled")),
    };
    show_key(context, client, office.key(), "elect: session expired").await?;
    until_signal(session, &mut signals).await
}

/// Holds what is held. That it can no longer be held is an error.
async fn until_signal(session: &Session, signals: &mut Signals) -> Result<(), Failure> {
    tokio::select! {
        _ = session.ended() => Err(Failure::new(Status::Error, "session expired")),
        () = signals.next() => Ok(()),
    }
}

async fn observe(context: &Context, name: Vec<u8>) -> Result<(), Failure> {
    let client = context.connect_for_long().await?;
    let mut followed = client.follow_election(name);
    let mut signals = Signals::new()?;
    loop {
        let next = tokio::select! {
            next = followed.next() => next,
            () = signals.next() => return Ok(()),
        };
        let leader = next.ok_or_else(|| Failure::new(Status::Error, "elect: observer lost"))??;
        context.show(&Answer::Get(leader))?;
    }
}

/// What asks a program to end.
struct Signals(Signal, Signal);

impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self(
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}
