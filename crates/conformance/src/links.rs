//! The network between members: a relay for each, where faults can be made.
//!
//! A member listens on a port of its own and advertises its relay's, so the others dial the relay. Whose connection
//! that is the kernel tells: the process that holds the connection's other end. So every byte has a sender and a
//! receiver, whatever is spoken, and each of the two directions between two members is a [`Line`] with a state:
//!
//! * *cut*: bytes of that direction stay where they are. The connection stands, new ones can be made, nobody is told
//!   anything: packets are lost somewhere, and TCP goes on trying. When the line is whole again it carries them.
//! * *slow*: each piece arrives that much later.
//!
//! A dead member's relay does not listen, so that dialling it is refused, as its own port would be.
//!
//! There is no need for network namespaces, which not every machine allows (see [`crate::spaces`]); there is for
//! `/proc`.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// One direction between two members.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    /// Nothing passes.
    pub cut: bool,
    /// Everything takes so long.
    pub delay: Duration,
}

impl Line {
    /// Nothing passes.
    pub const CUT: Self = Self {
        cut: true,
        delay: Duration::ZERO,
    };
}

/// The relays of a cluster and the lines between its members, which go by their numbers.
#[derive(Debug, Default)]
pub struct Links {
    shared: Arc<Shared>,
    /// The tasks that listen, those of dead members included.
    relays: HashMap<usize, JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The members' processes.
    processes: Mutex<HashMap<usize, u32>>,
    lines: Mutex<HashMap<(usize, usize), watch::Sender<Line>>>,
}

/// Pieces under way on one connection and direction; a slow line needs some, a cut one may keep these.
const PIECES: usize = 64;

/// The largest piece.
const PIECE_MAX: usize = 64 * 1024;

/// How long a process that has just been started may stay unknown.
const UNKNOWN_MAX: Duration = Duration::from_secs(1);

/// How long a port may be taken. Somebody who looks for free ones may have it for a moment.
const TAKEN_MAX: Duration = Duration::from_secs(10);

impl Links {
    /// Whether this machine tells which process holds a connection.
    pub fn possible() -> Result<(), String> {
        match Path::new("/proc/net/tcp").exists() {
            true => Ok(()),
            false => Err("no /proc/net/tcp here: connections between members can't be told apart".into()),
        }
    }

    /// Member `number` runs as process `pid` and listens on `behind`; the others find it on `advertised`.
    pub async fn open(
        &mut self,
        number: usize,
        pid: u32,
        advertised: u16,
        behind: u16,
    ) -> Result<(), String> {
        lock(&self.shared.processes).insert(number, pid);
        if let Some(closed) = self.relays.remove(&number) {
            // Its listener is gone when it is; that it was aborted is no news.
            let _ = closed.await;
        }
        let listener = timeout(TAKEN_MAX, async {
            loop {
                match TcpListener::bind(("127.0.0.1", advertised)).await {
                    Ok(listener) => return listener,
                    Err(_) => sleep(TAKEN_MAX / 100).await,
                }
            }
        });
        let listener = listener
            .await
            .map_err(|_| format!("port {advertised} is taken"))?;
        let relay = tokio::spawn(relay(self.shared.clone(), listener, number, behind));
        self.relays.insert(number, relay);
        Ok(())
    }

    /// The member is dead: its address refuses connections. Those it had end with its own end of them.
    pub fn close(&mut self, number: usize) {
        lock(&self.shared.processes).remove(&number);
        if let Some(relay) = self.relays.get(&number) {
            relay.abort();
        }
    }

    /// Changes the direction from one member to another.
    pub fn set(&self, from: usize, to: usize, line: Line) {
        self.shared.line(from, to, |sender| sender.send_replace(line));
    }

    /// Every line is whole and fast.
    pub fn heal(&self) {
        for line in lock(&self.shared.lines).values() {
            line.send_replace(Line::default());
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for relay in self.relays.values() {
            relay.abort();
        }
    }
}

impl Shared {
    fn line<T>(&self, from: usize, to: usize, with: impl FnOnce(&watch::Sender<Line>) -> T) -> T {
        with(lock(&self.lines).entry((from, to)).or_default())
    }

    /// The member whose process has dialled from `source` to `target`.
    fn dialler(&self, source: u16, target: u16) -> Option<usize> {
        let socket = format!("socket:[{}]", inode(source, target)?);
        let processes = lock(&self.processes).clone();
        processes
            .into_iter()
            .find(|(_, pid)| holds(*pid, &socket))
            .map(|(number, _)| number)
    }
}

/// A panic elsewhere must not hide behind a second one here; the maps are whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernel's number of the loopback connection between two ports, seen from `source`.
fn inode(source: u16, target: u16) -> Option<String> {
    let ends = [source, target].map(|port| format!("0100007F:{port:04X}"));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1..3)? == ends).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

fn holds(pid: u32, socket: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.as_os_str() == socket)
}

/// Accepts what is for member `number` until the task is aborted. The connections live on by themselves.
async fn relay(shared: Arc<Shared>, listener: TcpListener, number: usize, behind: u16) {
    while let Ok((stream, source)) = listener.accept().await {
        let (shared, target) = (shared.clone(), listener.local_addr().map_or(0, |a| a.port()));
        tokio::spawn(async move {
            let known = async {
                loop {
                    match shared.dialler(source.port(), target) {
                        Some(dialler) => return dialler,
                        None => sleep(UNKNOWN_MAX / 50).await,
                    }
                }
            };
            // Whoever stays unknown is no member: the connection ends.
            if let Ok(dialler) = timeout(UNKNOWN_MAX, known).await {
                connect(&shared, stream, dialler, number, behind).await;
            }
        });
    }
}

/// Carries bytes both ways until one side ends.
async fn connect(shared: &Shared, near: TcpStream, dialler: usize, number: usize, behind: u16) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", behind)).await else {
        return;
    };
    // Small messages must not wait for each other; both servers ask for this, too. It fails on dead sockets only.
    let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let there = shared.line(dialler, number, watch::Sender::subscribe);
    let back = shared.line(number, dialler, watch::Sender::subscribe);
    tokio::select! {
        () = carry(near_in, far_out, there) => {}
        () = carry(far_in, near_out, back) => {}
    }
}

/// Carries one direction of a connection; its end travels on the line like everything else.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let (pieces, mut waiting) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let state = line.clone();
    let take = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE_MAX);
            // A connection that was reset has ended.
            let length = from.read_buf(&mut buffer).await.unwrap_or(0);
            let due = Instant::now() + state.borrow().delay;
            if pieces.send((due, buffer.split().freeze())).await.is_err() || length == 0 {
                return;
            }
        }
    };
    let give = async {
        while let Some((due, piece)) = waiting.recv().await {
            sleep_until(due).await;
            let whole = line.wait_for(|line| !line.cut).await.is_ok();
            if !whole || piece.is_empty() || to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    both(take, give).await;
}

/// Runs two futures until the second ends.
async fn both(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    tokio::pin!(second);
    tokio::select! {
        () = first => second.await,
        () = &mut second => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo behind a relay, dialled by this process, which plays member 0; member 1 is the echo.
    async fn echo() -> (Links, TcpStream) {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = echo.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let advertised = free.local_addr().unwrap().port();
        drop(free);
        let mut links = Links::default();
        lock(&links.shared.processes).insert(0, std::process::id());
        links.open(1, 0, advertised, behind).await.unwrap();
        (
            links,
            TcpStream::connect(("127.0.0.1", advertised)).await.unwrap(),
        )
    }

    async fn answers(stream: &mut TcpStream, word: &[u8]) -> bool {
        stream.write_all(word).await.unwrap();
        let mut answer = vec![0; word.len()];
        let answer = timeout(Duration::from_millis(300), stream.read_exact(&mut answer));
        answer.await.is_ok_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn a_cut_line_keeps_what_it_was_given_until_it_is_whole_again() {
        let (links, mut stream) = echo().await;
        assert!(answers(&mut stream, b"before").await);
        for (from, to) in [(0, 1), (1, 0)] {
            links.set(from, to, Line::CUT);
            assert!(!answers(&mut stream, b"during").await, "{from} to {to}");
            links.heal();
            let mut late = [0; 6];
            stream.read_exact(&mut late).await.unwrap();
            assert_eq!(&late, b"during");
        }
    }

    #[tokio::test]
    async fn a_dead_member_refuses_connections() {
        let (mut links, stream) = echo().await;
        let address = stream.peer_addr().unwrap();
        links.close(1);
        // The listener is closed once its task has been dropped.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
