//! What is seen: a table that is drawn over itself on a terminal, lines of what has changed elsewhere.

use std::collections::VecDeque;
use std::io::{self, Stdout, Write, stdout};

use crossterm::style::Stylize;
use crossterm::terminal::{Clear, ClearType, disable_raw_mode, enable_raw_mode, size};
use crossterm::{cursor, queue};

use super::Command;
use super::cluster::{Cluster, Role, last_words};
use super::plan::Plan;

/// Lines of news below the table.
const NEWS_MAX: usize = 6;

/// Where all that is said goes.
#[derive(Debug)]
pub struct Screen {
    is_terminal: bool,
    /// Lines drawn the last time, to be drawn over.
    drawn: u16,
    roles: Vec<Role>,
    cuts: Vec<bool>,
    all_serve: bool,
    news: VecDeque<String>,
}

impl Screen {
    /// Says where the cluster is, which stays above the rest.
    pub fn new(plan: &Plan, is_terminal: bool) -> Self {
        let members = plan.places.len();
        let mut text = format!(
            "etcd demo: {members} members, files in {}\n\n",
            plan.folder.path().display()
        );
        for place in &plan.places {
            text += &format!("  {}  {}\n", place.name, plan.endpoint(place));
        }
        text += "\nIn another terminal:\n\n";
        for line in plan.exports() {
            text += &format!("  {line}\n");
        }
        text += "\n  kill N, stop N, restart N, partition N (again to heal), quit; on a terminal the first letter and a digit\n\n";
        let _ = stdout().write_all(text.as_bytes());
        let _ = stdout().flush();
        Self {
            is_terminal: is_terminal && enable_raw_mode().is_ok(),
            drawn: 0,
            roles: vec![Role::Down; members],
            cuts: vec![false; members],
            all_serve: false,
            news: VecDeque::new(),
        }
    }

    /// Whether keys are read one by one.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Tells something new.
    pub fn tell(&mut self, text: &str) {
        if !self.is_terminal {
            let mut out = stdout();
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
            return;
        }
        self.news.push_back(text.to_owned());
        if self.news.len() > NEWS_MAX {
            self.news.pop_front();
        }
    }

    /// Shows how the cluster is now.
    pub fn show(&mut self, cluster: &Cluster) {
        for line in self.changes(cluster) {
            self.tell(&line);
        }
        if self.is_terminal {
            // A terminal that is gone takes this process with it.
            let _ = self.draw(&mut stdout(), cluster);
        }
    }

    /// What differs from the last time.
    fn changes(&mut self, cluster: &Cluster) -> Vec<String> {
        let mut changes = Vec::new();
        for (number, (member, place)) in cluster.members().iter().zip(&cluster.plan().places).enumerate() {
            if self.cuts[number] != member.is_cut {
                let news = if member.is_cut {
                    "is cut off from the others"
                } else {
                    "is joined to the others again"
                };
                changes.push(format!("{} {news}", place.name));
            }
            if self.roles[number] != member.role {
                changes.push(format!("{} {}", place.name, verb(member.role)));
                if self.roles[number] == Role::Starting && member.role == Role::Down {
                    changes.push(last_words(cluster.plan(), place));
                }
            }
            (self.cuts[number], self.roles[number]) = (member.is_cut, member.role);
        }
        let serve = |role: &Role| matches!(role, Role::Leader | Role::Follower);
        let all_serve = self.roles.iter().all(serve) && self.roles.contains(&Role::Leader);
        if all_serve && !self.all_serve {
            changes.push("all members serve".to_owned());
        }
        self.all_serve = all_serve;
        changes
    }

    fn draw(&mut self, out: &mut Stdout, cluster: &Cluster) -> io::Result<()> {
        if self.drawn > 0 {
            queue!(
                out,
                cursor::MoveToPreviousLine(self.drawn),
                Clear(ClearType::FromCursorDown)
            )?;
        }
        let mut lines = vec![format!(
            "  {:2} {:8} {:26} {:10} {}",
            "", "member", "clients", "revision", ""
        )];
        for (number, (member, place)) in (1..).zip(cluster.members().iter().zip(&cluster.plan().places)) {
            let endpoint = cluster.plan().endpoint(place);
            let cut = if member.is_cut {
                "  cut off".red().to_string()
            } else {
                String::new()
            };
            let (name, revision, role) = (&place.name, member.revision, colored(member.role));
            lines.push(format!(
                "  {number:2} {name:8} {endpoint:26} {revision:<10} {role}{cut}"
            ));
        }
        lines.push(String::new());
        // A line that wraps would not be drawn over.
        let width = usize::from(size()?.0).saturating_sub(1);
        let fits = |news: &String| format!("  {news}").chars().take(width).collect();
        lines.extend(self.news.iter().map(fits));
        for line in &lines {
            write!(out, "{line}\r\n")?;
        }
        self.drawn = lines.len() as u16;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = disable_raw_mode();
        }
    }
}

/// What a command does, as it is told.
pub fn said(command: Command) -> String {
    match command {
        Command::Kill(number) => format!("> kill {number}"),
        Command::Stop(number) => format!("> stop {number}"),
        Command::Restart(number) => format!("> restart {number}"),
        Command::Partition(number) => format!("> partition {number}"),
        Command::Quit => "> quit".to_owned(),
    }
}

fn verb(role: Role) -> &'static str {
    match role {
        Role::Starting => "starts",
        Role::Leader => "leads",
        Role::Follower => "follows",
        Role::Alone => "knows no leader",
        Role::Down => "is down",
    }
}

fn colored(role: Role) -> String {
    match role {
        Role::Starting => "starting".yellow().to_string(),
        Role::Leader => "leader".green().bold().to_string(),
        Role::Follower => "follower".green().to_string(),
        Role::Alone => "no leader".yellow().to_string(),
        Role::Down => "down".red().to_string(),
    }
}
