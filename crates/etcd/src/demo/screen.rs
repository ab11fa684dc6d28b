//! What is seen: a table that is drawn over itself on a terminal, lines of what has changed elsewhere.

use std::collections::VecDeque;
use std::io::{self, Stdout, Write, stdout};

use crossterm::style::{StyledContent, Stylize};
use crossterm::terminal::{Clear, ClearType, disable_raw_mode, enable_raw_mode, size};
use crossterm::{cursor, queue};

use super::Verb;
use super::cluster::{Cluster, Member, Role};
use super::plan::{Place, Plan};

/// Lines of news below the table.
const NEWS_MAX: usize = 8;

/// Columns and rows of a terminal that does not say.
const SIZE: (u16, u16) = (80, 24);

/// Where all that is said goes.
#[derive(Debug)]
pub struct Screen {
    is_terminal: bool,
    is_gone: bool,
    /// What stays above the rest.
    head: String,
    half: Option<Verb>,
    /// Lines drawn the last time, to be drawn over.
    drawn: Vec<String>,
    roles: Vec<Role>,
    cuts: Vec<bool>,
    all_serve: bool,
    has_majority: bool,
    news: VecDeque<String>,
}

impl Screen {
    /// Says where the cluster is.
    pub fn new(plan: &Plan, is_terminal: bool) -> Self {
        let members = plan.places.len();
        let is_terminal = is_terminal && enable_raw_mode().is_ok();
        let mut screen = Self {
            is_terminal,
            is_gone: false,
            head: head(plan, is_terminal),
            half: None,
            drawn: Vec::new(),
            roles: vec![Role::Down; members],
            cuts: vec![false; members],
            all_serve: false,
            has_majority: true,
            news: VecDeque::new(),
        };
        let head = screen.head.clone();
        screen.write(&head);
        screen
    }

    /// Whether keys are read one by one.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Whether nobody sees any more what is shown.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Tells something new.
    pub fn tell(&mut self, text: &str) {
        if !self.is_terminal {
            return self.write(&format!("{text}\n"));
        }
        self.news.push_back(text.to_owned());
        if self.news.len() > NEWS_MAX {
            self.news.pop_front();
        }
    }

    /// Asks for the second half of a command, or for any.
    pub fn ask(&mut self, half: Option<Verb>) {
        self.half = half;
    }

    /// Begins anew on a terminal that has another size, on which nothing is where it was.
    pub fn begin(&mut self) {
        let clear = queue!(stdout(), Clear(ClearType::All), cursor::MoveTo(0, 0));
        self.is_gone |= clear.is_err();
        let head = self.head.clone();
        self.write(&head);
        self.drawn.clear();
    }

    /// Shows how the cluster is now.
    pub fn show(&mut self, cluster: &mut Cluster) {
        for line in self.changes(cluster).into_iter().chain(cluster.take_news()) {
            self.tell(&line);
        }
        if self.is_terminal {
            let is_known = |(width, height): &(u16, u16)| *width > 0 && *height > 0;
            let (width, height) = size().ok().filter(is_known).unwrap_or(SIZE);
            let lines = self.lines(cluster, usize::from(width), usize::from(height));
            if lines != self.drawn {
                self.is_gone |= self.draw(&mut stdout(), lines).is_err();
            }
        }
    }

    fn write(&mut self, text: &str) {
        let text = match self.is_terminal {
            true => text.replace('\n', "\r\n"),
            false => text.to_owned(),
        };
        let mut out = stdout();
        self.is_gone |= out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err();
    }

    /// What differs from the last time.
    fn changes(&mut self, cluster: &Cluster) -> Vec<String> {
        let mut changes = Vec::new();
        for (number, (member, place)) in cluster.members().iter().zip(&cluster.plan().places).enumerate() {
            if self.cuts[number] != member.is_cut {
                let news = match member.is_cut {
                    true => "is cut off from the others",
                    false => "is joined to the others again",
                };
                changes.push(format!("{} {news}", place.name));
            }
            if self.roles[number] != member.role {
                changes.push(format!("{} {}", place.name, verb(member.role)));
            }
            (self.cuts[number], self.roles[number]) = (member.is_cut, member.role);
        }
        let serve = |role: &Role| matches!(role, Role::Leader | Role::Follower);
        let all_serve = self.roles.iter().all(serve) && self.roles.contains(&Role::Leader);
        if all_serve && !self.all_serve {
            changes.push("all members serve".to_owned());
        }
        self.all_serve = all_serve;
        changes.extend(self.majority(cluster.members()));
        changes
    }

    /// Tells when there are too few left to decide anything.
    fn majority(&mut self, members: &[Member]) -> Option<String> {
        let (count, needed) = (members.len(), members.len() / 2 + 1);
        let is_up = |member: &&Member| member.role != Role::Down;
        let left = members
            .iter()
            .filter(is_up)
            .filter(|member| !member.is_cut)
            .count();
        // A member that is cut off has itself.
        let together = left.max(usize::from(members.iter().any(|member| is_up(&member))));
        let is_lost = self.has_majority && together < needed;
        self.has_majority = together >= needed;
        is_lost.then(|| {
            format!("only {left} of {count} members are left, which is no majority: nothing can be written")
        })
    }

    /// What is drawn, such that no line wraps and all of it fits: neither could be drawn over.
    fn lines(&self, cluster: &Cluster, width: usize, height: usize) -> Vec<String> {
        let fit = |text: &str| -> String { text.chars().take(width.saturating_sub(1)).collect() };
        let mut lines = vec![fit(&row("", "member", "state", "revision", "clients"))];
        for (number, (member, place)) in (1..).zip(cluster.members().iter().zip(&cluster.plan().places)) {
            let line = fit(&member_row(number, member, place, cluster.plan()));
            lines.push(in_color(&line, member.role));
        }
        lines.push(String::new());
        lines.push(fit(&prompt(self.half, cluster.members().len())));
        lines.push(String::new());
        lines.truncate(height.saturating_sub(1));
        let room = height.saturating_sub(1 + lines.len());
        let news = self.news.iter().skip(self.news.len().saturating_sub(room));
        lines.extend(news.map(|news| fit(&format!("  {news}"))));
        lines
    }

    fn draw(&mut self, out: &mut Stdout, lines: Vec<String>) -> io::Result<()> {
        if !self.drawn.is_empty() {
            queue!(out, cursor::MoveToPreviousLine(self.drawn.len() as u16))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        for line in &lines {
            write!(out, "{line}\r\n")?;
        }
        self.drawn = lines;
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

fn head(plan: &Plan, is_terminal: bool) -> String {
    let members = plan.places.len();
    let mut text = format!(
        "etcd demo: a cluster of {members}, files in {}\n\n",
        plan.folder.path().display()
    );
    if !is_terminal {
        for place in &plan.places {
            text += &format!("  {}  {}\n", place.name, plan.endpoint(place));
        }
        text += "\n";
    }
    text += "In another terminal:\n\n";
    for line in plan.exports() {
        text += &format!("  {line}\n");
    }
    text += "  etcdctl put mykey \"myvalue\"\n\n";
    if !is_terminal {
        text += "Commands: kill N, stop N, restart N, partition N (once more to join it again), quit\n\n";
    }
    text
}

/// A line of the table; what matters most is on the left, where a narrow terminal shows it.
fn row(number: &str, name: &str, state: &str, revision: &str, clients: &str) -> String {
    format!("  {number:2} {name:7} {state:19} {revision:9} {clients}")
}

/// A member's line.
fn member_row(number: usize, member: &Member, place: &Place, plan: &Plan) -> String {
    let cut = if member.is_cut { ", cut off" } else { "" };
    row(
        &number.to_string(),
        &place.name,
        &format!("{}{cut}", state(member.role).content()),
        &member.revision.to_string(),
        &plan.endpoint(place),
    )
}

/// A member's line with its state in color, if it was not cut off.
fn in_color(line: &str, role: Role) -> String {
    let state = state(role);
    line.replacen(state.content(), &state.to_string(), 1)
}

/// Which keys there are now.
fn prompt(half: Option<Verb>, members: usize) -> String {
    let which = if members == 1 {
        "1".to_owned()
    } else {
        format!("1 to {members}")
    };
    match half {
        Some(verb) => format!("  {} which member? {which}, Esc for none", verb.name()),
        None => format!("  k kill, s stop, r restart, p partition or join, and {which}; q quit"),
    }
}

fn verb(role: Role) -> &'static str {
    match role {
        Role::Starting => "starts",
        Role::Silent => "does not answer",
        Role::Leader => "leads",
        Role::Follower => "follows",
        Role::Alone => "knows no leader",
        Role::Down => "is down",
    }
}

fn state(role: Role) -> StyledContent<&'static str> {
    match role {
        Role::Starting => "starting".yellow(),
        Role::Silent => "no answer".yellow(),
        Role::Leader => "leader".green().bold(),
        Role::Follower => "follower".green(),
        Role::Alone => "no leader".yellow(),
        Role::Down => "down".red(),
    }
}
