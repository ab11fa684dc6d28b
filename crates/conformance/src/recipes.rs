//! The calls of `v3lockpb.Lock` and `v3electionpb.Election` in a script.
//!
//! | command | call |
//! |---|---|
//! | `lock NAME`, `unlock KEY` | Lock; `lease=ID` |
//! | `campaign NAME [VALUE]`, `leader NAME` | Election; `lease=ID` |
//! | `proclaim [NAME KEY REV VALUE]`, `resign [NAME KEY REV]` | Election, with the leader's key; without it the request has none |
//! | `waiting WAITER lock …`, `waiting WAITER campaign …` | the same, but not waited for |
//! | `answered WAITER`, `give_up WAITER` | waits for that answer; goes away without it |
//! | `observe OBSERVER NAME`, `leaders OBSERVER COUNT` | Election.Observe; takes that many leaders from it |
//!
//! A key ends with its lease's id in hex; one that the server chose is printed as `L1` and the like.

use std::collections::HashMap;

use bytes::Bytes;
use goldenscript::Command;
use grpc::v3electionpb::election_client::ElectionClient;
use grpc::v3lockpb::lock_client::LockClient;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Response, Status};

use crate::answer::{Answer, Names, Show, quoted};
use crate::call::{Args, ScriptError};
use crate::caller::Line;
use crate::session::within;

/// Leaders that were seen and not asked for yet; a script has a few.
const LEADERS_MAX: usize = 100;

/// The two services, and who waits for them.
#[derive(Debug)]
pub struct Recipes {
    lock: LockClient<Line>,
    election: ElectionClient<Line>,
    waiters: HashMap<String, JoinHandle<Result<Answered, Status>>>,
    observers: HashMap<String, mpsc::Receiver<Result<LeaderResponse, Status>>>,
}

/// The answer of a call that may wait.
#[derive(Debug)]
enum Answered {
    Lock(LockResponse),
    Campaign(CampaignResponse),
}

impl Recipes {
    /// The services at the other end of these lines.
    pub fn new(lock: LockClient<Line>, election: ElectionClient<Line>) -> Self {
        Recipes {
            lock,
            election,
            waiters: HashMap::new(),
            observers: HashMap::new(),
        }
    }

    /// Makes a call, if it is one of these services'.
    pub async fn step(
        &mut self,
        command: &Command,
        names: &mut Names,
    ) -> Option<Result<String, ScriptError>> {
        let answer = match &*command.name {
            "lock" | "campaign" => self.call(command, names).await,
            "waiting" => self.wait(command, names),
            "answered" => self.answered(command, names).await,
            "give_up" => self.give_up(command, names),
            "observe" => self.observe(command, names),
            "leaders" => self.leaders(command, names).await,
            "unlock" | "proclaim" | "leader" | "resign" => self.simple(command, names).await,
            _ => return None,
        };
        Some(answer)
    }

    async fn call(&mut self, command: &Command, names: &mut Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let call = self.begin(&command.name, &mut args)?;
        args.end()?;
        let answered = within(async { call.await.map_err(gone)? }).await?;
        Ok(shown(&command.name, names, &answered))
    }

    fn wait(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let waiter = args.word()?.to_owned();
        let call = args.word()?;
        let call = self.begin(call, &mut args)?;
        args.end()?;
        self.waiters.insert(waiter, call);
        Ok("waiting: begun".to_owned())
    }

    /// Makes a call that may wait.
    fn begin(
        &self,
        call: &str,
        args: &mut Args<'_>,
    ) -> Result<JoinHandle<Result<Answered, Status>>, ScriptError> {
        let (name, lease) = (args.bytes()?, args.lease_option("lease")?);
        if call == "lock" {
            let mut client = self.lock.clone();
            return Ok(tokio::spawn(async move {
                let locked = client.lock(LockRequest { name, lease }).await?;
                Ok(Answered::Lock(locked.into_inner()))
            }));
        }
        let value = optional_bytes(args);
        let mut client = self.election.clone();
        Ok(tokio::spawn(async move {
            let won = client.campaign(CampaignRequest { name, lease, value }).await?;
            Ok(Answered::Campaign(won.into_inner()))
        }))
    }

    async fn answered(&mut self, command: &Command, names: &mut Names) -> Result<String, ScriptError> {
        let waiter = self.waiter(command, names)?;
        let answered = within(async { waiter.await.map_err(gone)? }).await?;
        Ok(shown(&command.name, names, &answered))
    }

    fn give_up(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        self.waiter(command, names)?.abort();
        Ok("give_up: done".to_owned())
    }

    fn waiter(
        &mut self,
        command: &Command,
        names: &Names,
    ) -> Result<JoinHandle<Result<Answered, Status>>, ScriptError> {
        let mut args = Args::new(command, names);
        let waiter = args.word()?;
        args.end()?;
        self.waiters.remove(waiter).ok_or_else(|| "no such waiter".into())
    }

    async fn simple(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let name = &*command.name;
        match name {
            "unlock" => {
                let key = args.bytes()?;
                args.end()?;
                let unlocked = within(self.lock.unlock(UnlockRequest { key })).await?;
                Ok(Answer::of(name, names, &unlocked.map(Response::into_inner)))
            }
            "leader" => {
                let asked = LeaderRequest { name: args.bytes()? };
                args.end()?;
                let leader = within(self.election.leader(asked)).await?;
                Ok(Answer::of(name, names, &leader.map(Response::into_inner)))
            }
            "resign" => {
                let leader = leader_key(&mut args)?;
                args.end()?;
                let resigned = within(self.election.resign(ResignRequest { leader })).await?;
                Ok(Answer::of(name, names, &resigned.map(Response::into_inner)))
            }
            _ => {
                let leader = leader_key(&mut args)?;
                let value = optional_bytes(&mut args);
                args.end()?;
                let proclaimed = within(self.election.proclaim(ProclaimRequest { leader, value })).await?;
                Ok(Answer::of(name, names, &proclaimed.map(Response::into_inner)))
            }
        }
    }

    /// Begins to observe. The real server sends nothing before the first leader, so a task of its own waits for it.
    fn observe(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let (observer, name) = (args.word()?.to_owned(), args.bytes()?);
        args.end()?;
        let (seen, leaders) = mpsc::channel(LEADERS_MAX);
        let mut client = self.election.clone();
        tokio::spawn(async move {
            let mut stream = match client.observe(LeaderRequest { name }).await {
                Ok(stream) => stream.into_inner(),
                Err(status) => return drop(seen.send(Err(status)).await),
            };
            while let Some(leader) = stream.message().await.transpose() {
                if seen.send(leader).await.is_err() {
                    return;
                }
            }
        });
        self.observers.insert(observer, leaders);
        Ok("observe: begun".to_owned())
    }

    async fn leaders(&mut self, command: &Command, names: &Names) -> Result<String, ScriptError> {
        let mut args = Args::new(command, names);
        let (observer, count) = (args.word()?, args.parsed::<usize>()?);
        args.end()?;
        let leaders = self.observers.get_mut(observer).ok_or("no such observer")?;
        let mut seen = Vec::new();
        while seen.len() < count {
            let next = within(async {
                let next = leaders.recv().await;
                next.unwrap_or_else(|| Err(Status::ok("the stream has ended")))
            });
            seen.push(next.await?);
        }
        let mut answer = Answer::new("leaders", names);
        answer.lines(&seen, |answer, leader| leader.show(answer));
        Ok(answer.finish())
    }
}

fn gone(error: tokio::task::JoinError) -> Status {
    Status::internal(error.to_string())
}

fn optional_bytes(args: &mut Args<'_>) -> Bytes {
    args.optional().map(crate::call::bytes).unwrap_or_default()
}

fn leader_key(args: &mut Args<'_>) -> Result<Option<LeaderKey>, ScriptError> {
    let Some(name) = args.optional() else {
        return Ok(None);
    };
    Ok(Some(LeaderKey {
        name: crate::call::bytes(name),
        key: args.bytes()?,
        rev: args.parsed()?,
        lease: args.lease_option("lease")?,
    }))
}

/// The answer, in which a lease that the server chose gets a name.
fn shown(call: &str, names: &mut Names, answered: &Result<Answered, Status>) -> String {
    let key = match answered {
        Ok(Answered::Lock(locked)) => Some(&locked.key),
        Ok(Answered::Campaign(won)) => won.leader.as_ref().map(|leader| &leader.key),
        Err(_) => None,
    };
    // Ids that scripts choose are small.
    const CHOSEN_MAX: i64 = 1 << 20;
    if let Some((_, lease)) = key.and_then(|key| split(key))
        && lease > CHOSEN_MAX
        && !names.leases.contains(&lease)
    {
        names.leases.push(lease);
    }
    let mut answer = Answer::new(call, names);
    match answered {
        Ok(Answered::Lock(locked)) => locked.show(&mut answer),
        Ok(Answered::Campaign(won)) => won.show(&mut answer),
        Err(status) => status.show(&mut answer),
    }
    answer.finish()
}

/// A key's name and lease.
fn split(key: &[u8]) -> Option<(&[u8], i64)> {
    let slash = key.iter().rposition(|byte| *byte == b'/')?;
    let lease = std::str::from_utf8(&key[slash + 1..]).ok()?;
    Some((&key[..slash], i64::from_str_radix(lease, 16).ok()?))
}

fn show_key(answer: &mut Answer<'_>, key: &[u8]) {
    match split(key) {
        Some((name, lease)) => {
            let lease = answer.names().lease(lease);
            answer.field("key", format_args!("{}/{lease}", quoted(name)));
        }
        None => answer.field("key", quoted(key)),
    }
}

impl Show for LockResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        show_key(answer, &self.key);
    }
}

impl Show for UnlockResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
    }
}

impl Show for CampaignResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        let Some(leader) = &self.leader else {
            return answer.word("no leader");
        };
        answer.field("name", quoted(&leader.name));
        show_key(answer, &leader.key);
        answer.number("rev", leader.rev);
        let lease = answer.names().lease(leader.lease);
        answer.field("lease", lease);
    }
}

impl Show for LeaderResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        match &self.kv {
            Some(kv) => kv.show(answer),
            None => answer.word("no leader"),
        }
    }
}

impl Show for ProclaimResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
    }
}

impl Show for ResignResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
    }
}
