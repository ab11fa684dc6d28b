//! The network between members as the kernel makes it: a network namespace for each, and a router between them.
//!
//! ```text
//! m1  10.0.1.2 ── eth0 ═ v1 ── 10.0.1.1 ┐
//! m2  10.0.2.2 ── eth0 ═ v2 ── 10.0.2.1 ┤ router, where the trial itself is, with its clients
//! m3  10.0.3.2 ── eth0 ═ v3 ── 10.0.3.1 ┘
//! ```
//!
//! * A direction between two members is *cut* by a rule of the router that drops its packets without a word. TCP's
//!   answers to what comes the other way are lost with them, so that this way, too, stands still before long: what a
//!   broken route does to real clusters, and the relays of [`crate::links`] do not.
//! * A member's cable is *pulled* by taking its link down at the router: clients do not reach it either.
//!
//! Namespaces have no names: each lives as long as a process that holds it, and that ends when its standard input
//! does, with the trial, however the trial ends. Nothing of the machine's own network is touched.
//!
//! It takes root, and `ip`, `nsenter`, `unshare` and `setpriv`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::links::Line;
use crate::server::Host;

/// A network of members, which go by their numbers.
#[derive(Debug)]
pub struct Spaces {
    router: Space,
    members: Vec<Space>,
    cut: BTreeSet<(usize, usize)>,
    unplugged: BTreeSet<usize>,
}

impl Spaces {
    /// Does some work on a thread that is on the router of a new network. Whatever it starts to speak to members
    /// must be of this thread, or of one it makes.
    pub fn with<T: Send>(work: impl FnOnce(Self) -> Result<T, String> + Send) -> Result<T, String> {
        let on_router = || {
            let router = Space::new()?;
            router.enter()?;
            run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|e| format!("no forwarding: {e}"))?;
            work(Self {
                router,
                members: Vec::new(),
                cut: BTreeSet::new(),
                unplugged: BTreeSet::new(),
            })
        };
        let worked = thread::scope(|scope| scope.spawn(on_router).join());
        worked.map_err(|_| "it panicked".to_owned())?
    }

    /// Whether this machine allows all that; the error says what it does not.
    pub fn possible() -> Result<(), String> {
        let tried = Self::with(|mut spaces| {
            let host = spaces.host(1)?;
            run(&mut host.command("true".as_ref()))?;
            spaces.set(0, 1, Line::CUT)?;
            spaces.unplug(0)?;
            spaces.heal().map(drop)
        });
        tried.map_err(|error| format!("no network namespaces here, they take root and iproute2: {error}"))
    }

    /// Where member `number` lives, from now on or already.
    pub fn host(&mut self, number: usize) -> Result<Host, String> {
        while self.members.len() <= number {
            let member = Space::new()?;
            self.connect(self.members.len(), &member)?;
            self.members.push(member);
        }
        Ok(Host {
            address: address(number, MEMBER)?,
            space: Some(self.members[number].pid()),
        })
    }

    /// Lays the cable between the router and a member.
    fn connect(&self, number: usize, member: &Space) -> Result<(), String> {
        let (port, pid) = (port(number), member.pid().to_string());
        let [near, far] = [ROUTER, MEMBER].map(|end| address(number, end));
        let (near, far) = (near?, far?);
        self.router
            .ip(&format!("link add {port} type veth peer name eth0 netns {pid}"))?;
        self.router.ip(&format!("address add {near}/24 dev {port}"))?;
        self.router.ip(&format!("link set {port} up"))?;
        member.ip("link set lo up")?;
        member.ip(&format!("address add {far}/24 dev eth0"))?;
        member.ip("link set eth0 up")?;
        member.ip(&format!("route add default via {near}"))
    }

    /// Cuts the direction from one member to another, or mends it.
    pub fn set(&mut self, from: usize, to: usize, line: Line) -> Result<(), String> {
        if !line.delay.is_zero() {
            return Err("lines between namespaces are as fast as they are".into());
        }
        let changes = match line.cut {
            true => self.cut.insert((from, to)),
            false => self.cut.remove(&(from, to)),
        };
        match changes {
            true => self.rule(if line.cut { "add" } else { "delete" }, from, to),
            false => Ok(()),
        }
    }

    fn rule(&self, verb: &str, from: usize, to: usize) -> Result<(), String> {
        let [from, to] = [from, to].map(|number| address(number, MEMBER));
        self.router
            .ip(&format!("rule {verb} from {} to {} blackhole", from?, to?))
    }

    /// Takes a member's link down.
    pub fn unplug(&mut self, number: usize) -> Result<(), String> {
        self.unplugged.insert(number);
        self.router.ip(&format!("link set {} down", port(number)))
    }

    /// Undoes all of that. Returns who was unplugged.
    pub fn heal(&mut self) -> Result<Vec<usize>, String> {
        for (from, to) in std::mem::take(&mut self.cut) {
            self.rule("delete", from, to)?;
        }
        let unplugged = std::mem::take(&mut self.unplugged);
        for number in &unplugged {
            self.router.ip(&format!("link set {} up", port(*number)))?;
        }
        Ok(unplugged.into_iter().collect())
    }
}

/// The ends of a cable, in the addresses.
const ROUTER: u8 = 1;
const MEMBER: u8 = 2;

fn address(number: usize, end: u8) -> Result<Ipv4Addr, String> {
    let net = u8::try_from(number + 1).map_err(|_| "no address is left for one more member")?;
    Ok(Ipv4Addr::new(10, 0, net, end))
}

/// The router's port that a member's cable is in.
fn port(number: usize) -> String {
    format!("v{}", number + 1)
}

/// A network namespace, and the process that holds it.
#[derive(Debug)]
struct Space {
    holder: Child,
}

impl Space {
    fn new() -> Result<Self, String> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo here; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let (stdout, stderr) = (holder.stdout.take(), holder.stderr.take());
        let space = Self { holder };
        let mut word = String::new();
        // What can't be read was not written.
        let _ = stdout.map(|stdout| BufReader::new(stdout).read_line(&mut word));
        if word != "here\n" {
            let _ = stderr.map(|stderr| BufReader::new(stderr).read_line(&mut word));
            return Err(word.trim().to_owned());
        }
        Ok(space)
    }

    fn pid(&self) -> u32 {
        self.holder.id()
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// Moves the thread here.
    fn enter(&self) -> Result<(), String> {
        let space = File::open(self.path()).map_err(|e| format!("{}: {e}", self.path()))?;
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|e| e.to_string())
    }

    /// Runs `ip` here.
    fn ip(&self, words: &str) -> Result<(), String> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        run(command.arg("ip").args(words.split(' ')))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // It ends with its standard input; both calls fail only for a process that is gone already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
