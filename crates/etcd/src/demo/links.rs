//! The way between members: a relay in front of each one's peer port, which can be closed.
//!
//! A connection is somebody's and leads to somebody; it passes while neither end is cut off. Who has opened it is
//! found out from the kernel, as TLS hides what is said: the socket's number in `/proc/net/tcp`, and the process that
//! has it open. A connection that can't be told counts as nobody's.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::plan::Place;

/// All relays.
#[derive(Clone, Debug)]
pub struct Links {
    /// Members that are cut off.
    cut: Arc<watch::Sender<BTreeSet<usize>>>,
    /// The process of each member.
    processes: Arc<Mutex<Vec<Option<u32>>>>,
}

impl Links {
    /// Opens a relay for every member.
    pub async fn open(places: &[Place]) -> std::io::Result<Self> {
        let links = Self {
            cut: Arc::new(watch::Sender::default()),
            processes: Arc::new(Mutex::new(vec![None; places.len()])),
        };
        for (to, place) in places.iter().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, place.peer)).await?;
            tokio::spawn(links.clone().relay(listener, to, place.listens));
        }
        Ok(links)
    }

    /// A member has another process now, or none.
    pub fn set_process(&self, member: usize, process: Option<u32>) {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes[member] = process;
    }

    /// Cuts a member off, or joins it to the others again; tells which.
    pub fn toggle(&self, member: usize) -> bool {
        let mut is_cut = false;
        self.cut.send_modify(|cut| {
            is_cut = !cut.remove(&member) && cut.insert(member);
        });
        is_cut
    }

    async fn relay(self, listener: TcpListener, to: usize, listens: u16) {
        while let Ok((stream, from)) = listener.accept().await {
            tokio::spawn(self.clone().pass(stream, from, to, listens));
        }
    }

    async fn pass(self, mut outside: TcpStream, from: SocketAddr, to: usize, listens: u16) {
        let from = self.whose(from.port());
        let passes =
            move |cut: &BTreeSet<usize>| !cut.contains(&to) && !from.is_some_and(|from| cut.contains(&from));
        let mut cut = self.cut.subscribe();
        if !passes(&cut.borrow_and_update()) {
            return;
        }
        let Ok(mut inside) = TcpStream::connect((Ipv4Addr::LOCALHOST, listens)).await else {
            return;
        };
        tokio::select! {
            _ = copy_bidirectional(&mut outside, &mut inside) => {}
            _ = cut.wait_for(|cut| !passes(cut)) => {}
        }
    }

    /// The member whose process has opened the connection from this port.
    fn whose(&self, port: u16) -> Option<usize> {
        let socket = format!(
            "socket:[{}]",
            inode(&fs::read_to_string("/proc/net/tcp").ok()?, port)?
        );
        let processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        processes
            .iter()
            .position(|process| process.is_some_and(|process| has_open(process, &socket)))
    }
}

/// The number of the socket whose own port this is, in the kernel's table.
fn inode(table: &str, port: u16) -> Option<&str> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, own) = fields.get(1)?.split_once(':')?;
        (u16::from_str_radix(own, 16) == Ok(port)).then(|| fields.get(9).copied())?
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

    #[tokio::test]
    async fn a_connection_is_its_processs_and_ends_when_that_is_cut_off() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let member = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Place {
            name: "etcd1".into(),
            client: 0,
            metrics: 0,
            peer: port,
            listens: member.local_addr().unwrap().port(),
        };
        let links = Links::open(&[place]).await.unwrap();
        links.set_process(0, Some(std::process::id()));
        let outside = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(links.whose(outside.local_addr().unwrap().port()), Some(0));
        let (mut inside, _) = member.accept().await.unwrap();
        assert!(links.toggle(0));
        assert_eq!(
            inside.read_u8().await.map_err(|error| error.kind()),
            Err(ErrorKind::UnexpectedEof)
        );
        assert!(!links.toggle(0));
    }
}
