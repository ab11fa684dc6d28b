//! The members' processes, and what they say about themselves.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Process, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use super::Command;
use super::links::Links;
use super::plan::{Place, Plan};
use crate::MEMBER_COMMAND;
use crate::plain_http;

/// What a member is seen to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its process is there, and says nothing yet.
    Starting,
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
    links: Option<Links>,
    members: Vec<Member>,
}

impl Cluster {
    /// Plans no more; nothing runs before it is looked at for the first time.
    pub fn start(plan: Plan) -> Result<Self, String> {
        let down = || Member {
            child: None,
            starts_again: true,
            is_cut: false,
            role: Role::Down,
            revision: 0,
        };
        let members = plan.places.iter().map(|_| down()).collect();
        Ok(Self {
            plan,
            links: None,
            members,
        })
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Who and where they are.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Looks who has ended, starts who is to start, and asks each what it is.
    pub async fn look(&mut self) -> Result<(), String> {
        if self.links.is_none() {
            let opened = Links::open(&self.plan.places).await;
            self.links = Some(opened.map_err(|error| format!("no ports for members: {error}"))?);
        }
        for number in 0..self.members.len() {
            self.reap(number)?;
        }
        let asked: Vec<_> = self.plan.places.iter().map(ask).collect();
        for (member, asked) in self.members.iter_mut().zip(asked) {
            let answer = asked.await.unwrap_or_default();
            (member.role, member.revision) = match (&member.child, answer) {
                (None, _) => (Role::Down, member.revision),
                (Some(_), None) => (Role::Starting, member.revision),
                (Some(_), Some(metrics)) => role(&metrics),
            };
        }
        Ok(())
    }

    fn reap(&mut self, number: usize) -> Result<(), String> {
        let member = &mut self.members[number];
        if let Some(child) = &mut member.child {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(_) => member.child = None,
                None => return Ok(()),
            }
        }
        let child = match std::mem::take(&mut member.starts_again) {
            true => Some(spawn(&self.plan, &self.plan.places[number])?),
            false => None,
        };
        if let Some(links) = &self.links {
            links.set_process(number, child.as_ref().map(Child::id));
        }
        member.child = child;
        Ok(())
    }

    /// Does what somebody has typed.
    pub fn carry_out(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Kill(number) => self.signal(number - 1, Signal::KILL),
            Command::Stop(number) => self.signal(number - 1, Signal::TERM),
            Command::Restart(number) => {
                self.members[number - 1].starts_again = true;
                self.signal(number - 1, Signal::TERM)
            }
            Command::Partition(number) => {
                if let Some(links) = &self.links {
                    self.members[number - 1].is_cut = links.toggle(number - 1);
                }
                Ok(())
            }
            Command::Quit => Ok(()),
        }
    }

    /// Nothing, if the member is down.
    fn signal(&self, number: usize, signal: Signal) -> Result<(), String> {
        match &self.members[number].child {
            Some(child) => kill_process(Pid::from_child(child), signal).map_err(|error| error.to_string()),
            None => Ok(()),
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

/// The last line a member has logged, for when it is down and nobody stopped it.
pub fn last_words(plan: &Plan, place: &Place) -> String {
    let log = fs::read_to_string(plan.log(place)).unwrap_or_default();
    log.lines().last().unwrap_or("nothing was logged").to_owned()
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
}
