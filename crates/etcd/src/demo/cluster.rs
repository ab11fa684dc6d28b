//! The members' processes, and what they say about themselves.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Verb;
use super::links::Links;
use super::plan::{Place, Plan};
use crate::MEMBER_COMMAND;
use crate::plain_http;

/// How long a member may take to answer. One that takes longer holds up neither the others nor the keys.
const ANSWER: Duration = Duration::from_secs(1);

/// What a member is seen to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its process is there, and says nothing yet.
    Starting,
    /// Its process is there, and says nothing any more.
    Silent,
    /// It decides.
    Leader,
    /// It follows.
    Follower,
    /// It knows no leader.
    Alone,
    /// There is no process.
    Down,
}

/// A member at work, or down.
#[derive(Debug)]
pub struct Member {
    child: Option<Child>,
    starts_again: bool,
    /// Whether somebody wanted its process to end.
    is_to_end: bool,
    /// Whether it is cut off from the others.
    pub is_cut: bool,
    /// What it was when it was last looked at.
    pub role: Role,
    /// Its store's revision then.
    pub revision: u64,
}

/// All of them. Dropping it ends them.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    links: Links,
    members: Vec<Member>,
    news: Vec<String>,
}

impl Cluster {
    /// Nothing runs before it is looked at for the first time.
    pub fn new(mut plan: Plan) -> Self {
        let listeners = std::mem::take(&mut plan.listeners);
        let new = || Member {
            child: None,
            starts_again: true,
            is_to_end: false,
            is_cut: false,
            role: Role::Starting,
            revision: 0,
        };
        Self {
            links: Links::open(&plan.places, listeners),
            members: plan.places.iter().map(|_| new()).collect(),
            news: Vec::new(),
            plan,
        }
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Who and where they are.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What nobody could see by looking, since the last time.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Looks who has ended, starts who is to start, and asks each what it is.
    pub async fn look(&mut self) -> Result<(), String> {
        self.reap()?;
        let asked: Vec<_> = self.plan.places.iter().map(ask).collect();
        for (member, asked) in self.members.iter_mut().zip(asked) {
            let answer = timeout(ANSWER, asked).await;
            let answer = answer.ok().and_then(Result::ok).flatten();
            (member.role, member.revision) = match (&member.child, answer) {
                (None, _) => (Role::Down, member.revision),
                (Some(_), None) => (member.role.without_answer(), member.revision),
                (Some(_), Some(metrics)) => role(&metrics),
            };
        }
        Ok(())
    }

    /// Looks who has ended, and starts who is to start.
    pub fn reap(&mut self) -> Result<(), String> {
        (0..self.members.len()).try_for_each(|number| self.reap_one(number))
    }

    fn reap_one(&mut self, number: usize) -> Result<(), String> {
        let (member, place) = (&mut self.members[number], &self.plan.places[number]);
        if let Some(child) = &mut member.child {
            let Some(status) = child.try_wait().map_err(|error| error.to_string())? else {
                return Ok(());
            };
            if !member.is_to_end {
                self.news.extend(obituary(&self.plan, place, status));
            }
            (member.child, member.role) = (None, Role::Down);
        }
        if std::mem::take(&mut member.starts_again) {
            member.child = Some(spawn(&self.plan, place)?);
            member.is_to_end = false;
        }
        self.links
            .set_process(number, member.child.as_ref().map(Child::id));
        Ok(())
    }

    /// Does what somebody has typed.
    pub fn carry_out(&mut self, verb: Verb, number: usize) -> Result<(), String> {
        let member = &mut self.members[number - 1];
        match verb {
            Verb::Kill | Verb::Stop if member.child.is_none() => {
                let name = &self.plan.places[number - 1].name;
                self.news
                    .push(format!("{name} is down already; restart {number} starts it"));
                Ok(())
            }
            Verb::Kill => member.signal(Signal::KILL),
            Verb::Stop => member.signal(Signal::TERM),
            Verb::Restart => {
                member.starts_again = true;
                member.signal(Signal::TERM)
            }
            Verb::Partition => {
                member.is_cut = self.links.toggle(number - 1);
                Ok(())
            }
        }
    }
}

impl Member {
    /// Nothing, if it is down.
    fn signal(&mut self, signal: Signal) -> Result<(), String> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        self.is_to_end = true;
        kill_process(Pid::from_child(child), signal).map_err(|error| error.to_string())
    }
}

impl Role {
    /// What a member is that had this role, and does not answer.
    fn without_answer(self) -> Self {
        match self {
            Role::Down | Role::Starting => Role::Starting,
            _ => Role::Silent,
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Their data goes too, so there is nothing to be graceful about.
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.kill();
        }
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.wait();
        }
    }
}

/// Starts a member. Signals of the terminal are ours alone, so it gets a process group of its own.
fn spawn(plan: &Plan, place: &Place) -> Result<Child, String> {
    let log = File::options().create(true).append(true).open(plan.log(place));
    let log = log.map_err(|error| error.to_string())?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let mut process = Process::new(program);
    process.arg(MEMBER_COMMAND).args(plan.flags(place));
    let ours = env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("ETCD_")) {
        process.env_remove(name);
    }
    process.env_remove("NOTIFY_SOCKET");
    process
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0);
    process
        .spawn()
        .map_err(|error| format!("{}: {error}", place.name))
}

/// A member's metrics, if it answers.
fn ask(place: &Place) -> JoinHandle<Option<String>> {
    let address = format!("127.0.0.1:{}", place.metrics);
    tokio::task::spawn_blocking(move || {
        let answer = plain_http::request(&address, "GET /metrics", "").ok()?;
        answer.is_ok().then_some(answer.body)
    })
}

fn role(metrics: &str) -> (Role, u64) {
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<f64>().ok())
            .unwrap_or(0.0) as u64
    };
    let role = match (value("etcd_server_has_leader "), value("etcd_server_is_leader ")) {
        (0, _) => Role::Alone,
        (_, 0) => Role::Follower,
        _ => Role::Leader,
    };
    (role, value("etcd_debugging_mvcc_current_revision "))
}

/// How a member ended that nobody has stopped: by what it has logged last.
fn obituary(plan: &Plan, place: &Place, status: ExitStatus) -> [String; 2] {
    let path = plan.log(place);
    let log = fs::read_to_string(&path).unwrap_or_default();
    let last = log.lines().last().map_or_else(|| status.to_string(), said);
    [
        format!("{} has ended by itself: {last}", place.name),
        format!("its log is {}", path.display()),
    ]
}

/// A line of the log for a person: what is said and why, without time and place.
fn said(line: &str) -> String {
    let fields: Value = serde_json::from_str(line).unwrap_or_default();
    match (fields["msg"].as_str(), fields["error"].as_str()) {
        (Some(said), Some(error)) => format!("{said}: {error}"),
        (Some(said), None) => said.to_owned(),
        (None, _) => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_from_metrics() {
        let metrics = |has, is| {
            format!(
                "etcd_debugging_mvcc_current_revision 7\n# HELP x\netcd_server_has_leader {has}\netcd_server_is_leader {is}\n"
            )
        };
        assert_eq!(role(&metrics(1, 1)), (Role::Leader, 7));
        assert_eq!(role(&metrics(1, 0)), (Role::Follower, 7));
        assert_eq!(role(&metrics(0, 0)), (Role::Alone, 7));
    }

    #[test]
    fn what_a_member_has_logged_last_is_told_without_time_and_place() {
        let line = r#"{"level":"fatal","ts":"2026","caller":"a.rs:1","msg":"failed to start etcd","error":"no space"}"#;
        assert_eq!(said(line), "failed to start etcd: no space");
        assert_eq!(said(r#"{"level":"info","msg":"closed"}"#), "closed");
        assert_eq!(said("thread 'main' panicked"), "thread 'main' panicked");
    }

    #[test]
    fn a_member_that_has_answered_before_is_not_said_to_start() {
        assert_eq!(Role::Down.without_answer(), Role::Starting);
        assert_eq!(Role::Starting.without_answer(), Role::Starting);
        assert_eq!(Role::Leader.without_answer(), Role::Silent);
    }
}
