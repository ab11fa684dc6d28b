//! The way between members: a relay in front of each one's peer port, which can be closed.
//!
//! A connection is somebody's and leads to somebody; it passes while neither end is cut off. Who has opened it is
//! found out from the kernel, as TLS hides what is said: the socket's number in `/proc/net/tcp`, and the process that
//! has it open. A connection that can't be told is nobody's, and passes only while no member is cut off.
//!
//! A port whose process is gone refuses connections, as that process's own would: to the other members that is news,
//! by which they elect a new leader at once instead of waiting.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::plan::Place;

/// How long a connection is held that finds nobody behind its relay, for it to be seen whether the process is gone. A
/// process that starts listens in less.
const HOLD: Duration = Duration::from_millis(250);

/// The pause after a port could not be had: somebody else took it while its member was down.
const PORT_TAKEN: Duration = Duration::from_millis(250);

/// What decides over connections.
#[derive(Debug)]
struct State {
    /// Members that are cut off.
    cut: BTreeSet<usize>,
    /// The process of each member.
    processes: Vec<Option<u32>>,
}

impl State {
    fn passes(&self, from: Option<usize>, to: usize) -> bool {
        match from {
            Some(from) => !self.cut.contains(&from) && !self.cut.contains(&to),
            None => self.cut.is_empty(),
        }
    }
}

/// What stands in front of a member.
#[derive(Clone, Copy, Debug)]
struct Relay {
    /// The member.
    to: usize,
    /// Where it is found.
    peer: u16,
    /// Where it is.
    listens: u16,
}

/// All relays.
#[derive(Clone, Debug)]
pub struct Links {
    state: Arc<watch::Sender<State>>,
}

impl Links {
    /// Makes a relay for every member, at a listener. Each accepts once its member has a process.
    pub fn open(places: &[Place], listeners: Vec<std::net::TcpListener>) -> Self {
        let links = Self {
            state: Arc::new(watch::Sender::new(State {
                cut: BTreeSet::new(),
                processes: vec![None; places.len()],
            })),
        };
        for ((to, place), listener) in places.iter().enumerate().zip(listeners) {
            let relay = Relay {
                to,
                peer: place.peer,
                listens: place.listens,
            };
            tokio::spawn(links.clone().relay(relay, listener));
        }
        links
    }

    /// A member has another process now, or none.
    pub fn set_process(&self, member: usize, process: Option<u32>) {
        self.state.send_modify(|state| state.processes[member] = process);
    }

    /// Cuts a member off, or joins it to the others again; tells which.
    pub fn toggle(&self, member: usize) -> bool {
        let mut is_cut = false;
        self.state
            .send_modify(|state| is_cut = !state.cut.remove(&member) && state.cut.insert(member));
        is_cut
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        // This side holds the sender, so there is always an answer.
        let _ = self.state.subscribe().wait_for(condition).await;
    }

    async fn relay(self, relay: Relay, first: std::net::TcpListener) {
        let mut listener = first
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(first));
        self.until(|state| state.processes[relay.to].is_some()).await;
        loop {
            match &listener {
                Ok(listener) => tokio::select! {
                    () = self.accept(listener, relay) => {}
                    () = self.until(|state| state.processes[relay.to].is_none()) => {}
                },
                Err(_) => sleep(PORT_TAKEN).await,
            }
            drop(listener);
            self.until(|state| state.processes[relay.to].is_some()).await;
            listener = TcpListener::bind((Ipv4Addr::LOCALHOST, relay.peer)).await;
        }
    }

    async fn accept(&self, listener: &TcpListener, relay: Relay) {
        while let Ok((stream, from)) = listener.accept().await {
            tokio::spawn(self.clone().pass(stream, from, relay));
        }
    }

    async fn pass(self, mut outside: TcpStream, from: SocketAddr, relay: Relay) {
        let Relay { to, listens, .. } = relay;
        let from = outside.local_addr().ok().and_then(|at| self.whose(from, at));
        if !self.state.borrow().passes(from, to) {
            return;
        }
        let Ok(mut inside) = TcpStream::connect((Ipv4Addr::LOCALHOST, listens)).await else {
            let _ = timeout(HOLD, self.until(|state| state.processes[to].is_none())).await;
            return;
        };
        tokio::select! {
            _ = copy_bidirectional(&mut outside, &mut inside) => {}
            () = self.until(|state| !state.passes(from, to)) => {}
        }
    }

    /// The member whose process has opened the connection from one address to the other.
    fn whose(&self, from: SocketAddr, to: SocketAddr) -> Option<usize> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let socket = format!("socket:[{}]", inode(&table, from.port(), to.port())?);
        let processes = self.state.borrow().processes.clone();
        processes
            .iter()
            .position(|process| process.is_some_and(|process| has_open(process, &socket)))
    }
}

/// The number of the socket with these ports, its own and the other's, in the kernel's table. Its own is not enough:
/// connections to different ports may share it, and those that have just ended stay in the table for a minute.
fn inode(table: &str, own: u16, other: u16) -> Option<&str> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let port = |field: usize| u16::from_str_radix(fields.get(field)?.split_once(':')?.1, 16).ok();
        (port(1) == Some(own) && port(2) == Some(other)).then(|| fields.get(9).copied())?
    })
}

fn has_open(process: u32, socket: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// A member in front of whom is a relay, which has a process, and the port to find it at.
    fn open(listens: u16) -> (Links, u16) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap().port();
        let place = Place {
            name: "etcd1".into(),
            client: 0,
            metrics: 0,
            peer,
            listens,
        };
        let links = Links::open(&[place], vec![listener]);
        links.set_process(0, Some(std::process::id()));
        (links, peer)
    }

    async fn end_of(stream: &mut TcpStream) -> Result<u8, ErrorKind> {
        stream.read_u8().await.map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn a_connection_is_its_processs_and_ends_when_that_is_cut_off() {
        let member = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (links, port) = open(member.local_addr().unwrap().port());
        let outside = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (from, to) = (outside.local_addr().unwrap(), outside.peer_addr().unwrap());
        assert_eq!(links.whose(from, to), Some(0));
        let (mut inside, _) = member.accept().await.unwrap();
        assert!(links.toggle(0));
        assert_eq!(end_of(&mut inside).await, Err(ErrorKind::UnexpectedEof));
        assert!(!links.toggle(0));
    }

    #[tokio::test]
    async fn a_port_without_a_process_refuses_and_one_that_waits_for_it_hears_of_it_then() {
        // Somebody has this port, and does not listen there.
        let nobody = tokio::net::TcpSocket::new_v4().unwrap();
        nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (links, port) = open(nobody.local_addr().unwrap().port());
        let mut outside = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        links.set_process(0, None);
        assert!(end_of(&mut outside).await.is_err());
        let again = TcpStream::connect(("127.0.0.1", port)).await;
        assert_eq!(
            again.map(|_| ()).map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionRefused)
        );
    }

    #[test]
    fn what_is_nobodys_does_not_pass_a_cut() {
        let state = |cut: &[usize]| State {
            cut: cut.iter().copied().collect(),
            processes: vec![None; 3],
        };
        assert!(state(&[]).passes(None, 0) && state(&[]).passes(Some(1), 0));
        assert!(!state(&[2]).passes(None, 0) && state(&[2]).passes(Some(1), 0));
        assert!(!state(&[1]).passes(Some(1), 0) && !state(&[0]).passes(Some(1), 0));
    }

    #[test]
    fn a_socket_is_told_by_both_of_its_ports() {
        // As the kernel writes it: a connection that has ended had the same port of its own, to somebody else.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  51: 0100007F:88C8 0100007F:7E7C 06 00000000:00000000 03:0000007F 00000000     0        0 0 3 00000000f9f7a69f
 931: 0100007F:88C8 0100007F:094C 01 00000000:00000000 00:00000000 00000000     0        0 5516749 1 00000000a0791c96
 972: 0100007F:094C 0100007F:88C8 01 00000000:00000000 00:00000000 00000000     0        0 5516760 2 000000004618ace8
";
        assert_eq!(inode(table, 35016, 2380), Some("5516749"));
        assert_eq!(inode(table, 2380, 35016), Some("5516760"));
        assert_eq!(inode(table, 35016, 9999), None);
    }
}
