//! An end to connections that ask too much of their server.
//!
//! HTTP/2 has frames that cost their sender nothing and make the receiver work or answer: pings, settings, priorities,
//! windows, resets, empty data. The library `h2` ends a connection for what is done with some of them (streams that
//! are reset before anybody looked at them, headers without an end or too large, tiny pieces of data). For the rest
//! [`Calm`] stands between it and the socket and looks at the nine bytes in front of every frame. Each idle frame
//! costs a little of a budget that refills with time and with what is answered, so that a client that works may ping,
//! cancel and widen its windows as it likes. Who has spent it is told so (GOAWAY, ENHANCE_YOUR_CALM) and cut off; so is
//! whoever has let a debt become overdue ([`Debts`]).

// A budget refills with time.
#![allow(clippy::disallowed_methods)]

mod debts;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

pub use debts::{Debt, Debts};

/// How many idle frames a connection may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chatter {
    /// At once. A client that cancels all of its calls sends one for each.
    pub burst: u32,
    /// And every second. Each costs about a microsecond.
    pub per_sec: u32,
    /// Time between two pings, if somebody has said one.
    pub ping_pause: Option<Duration>,
}

impl Chatter {
    /// What does no harm. etcd's servers count pings only where a pause between them is asked for.
    pub fn usual(ping_pause: Option<Duration>) -> Self {
        Chatter {
            burst: 10_000,
            per_sec: 1_000,
            ping_pause,
        }
    }
}

/// Pings that may come too soon, since the last part of an answer; etcd's number.
const EARLY_PINGS_MAX: u32 = 2;

/// Idle frames that every frame of an answer makes good: a client may widen two windows and ping for each.
const FRAMES_PER_ANSWER: u32 = 3;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// A socket that loses its patience.
pub struct Calm<S> {
    socket: S,
    traffic: Traffic,
    debts: Debts,
    /// While the socket takes nothing more.
    blocked: Option<Debt>,
    overdue: Overdue,
}

/// Set when the connection is to end because of a debt; it sees that when it is polled next.
pub type Overdue = Arc<AtomicBool>;

impl<S: AsyncRead + AsyncWrite + Unpin> Calm<S> {
    /// A socket at the beginning of a connection.
    pub fn new(socket: S, chatter: Chatter, debts: Debts, overdue: Overdue) -> Self {
        Calm {
            socket,
            traffic: Traffic::new(chatter),
            debts,
            blocked: None,
            overdue,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.overdue.load(Relaxed) {
            false => Ok(()),
            true => Err(self.end(context, "overdue")),
        }
    }

    /// Says why the connection ends, if it can still be said, and is the error that ends it.
    fn end(&mut self, context: &mut Context<'_>, reason: &'static str) -> io::Error {
        tracing::debug!(reason, "ended a connection");
        if let Some(farewell) = self.traffic.farewell(reason) {
            let _ = Pin::new(&mut self.socket).poll_write(context, &farewell);
            let _ = Pin::new(&mut self.socket).poll_flush(context);
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, reason)
    }

    fn sent(
        &mut self,
        written: Poll<io::Result<usize>>,
        bytes: impl FnOnce(&mut Traffic, usize),
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending if self.blocked.is_none() => self.blocked = Some(self.debts.owe(0)),
            Poll::Pending | Poll::Ready(Err(_)) => {}
            Poll::Ready(Ok(count)) => {
                self.blocked = None;
                bytes(&mut self.traffic, *count);
            }
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Calm<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(context, buffer))?;
        match this.traffic.received(&buffer.filled()[before..]) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(TooMuch(reason)) => Poll::Ready(Err(this.end(context, reason))),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Calm<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.check(context)?;
        let written = Pin::new(&mut this.socket).poll_write(context, data);
        this.sent(written, |traffic, count| traffic.sent(&data[..count]))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.check(context)?;
        let written = Pin::new(&mut this.socket).poll_write_vectored(context, data);
        this.sent(written, |traffic, mut count| {
            for slice in data {
                let taken = count.min(slice.len());
                traffic.sent(&slice[..taken]);
                count -= taken;
            }
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// A connection asks too much, and of what. Clients know the reason of pings and ping less often from then on.
#[derive(Debug, PartialEq, Eq)]
struct TooMuch(&'static str);

const IDLE_FRAMES: TooMuch = TooMuch("too_many_idle_frames");
const PINGS: TooMuch = TooMuch("too_many_pings");

/// The frames of one connection as they pass by.
struct Traffic {
    protocol: Protocol,
    incoming: Frames,
    outgoing: Frames,
    budget: Budget,
    pings: Pings,
    /// The latest stream of the client.
    latest: u32,
}

/// What the connection speaks.
enum Protocol {
    /// So many bytes were those of HTTP/2 so far.
    Beginning(usize),
    Http2,
    Http1,
}

impl Traffic {
    fn new(chatter: Chatter) -> Self {
        Traffic {
            protocol: Protocol::Beginning(0),
            incoming: Frames::default(),
            outgoing: Frames::default(),
            budget: Budget::new(chatter),
            pings: Pings::new(chatter),
            latest: 0,
        }
    }

    fn received(&mut self, mut bytes: &[u8]) -> Result<(), TooMuch> {
        if let Protocol::Beginning(seen) = self.protocol {
            let (expected, taken) = (&PREFACE[seen..], bytes.len().min(PREFACE.len() - seen));
            self.protocol = match bytes[..taken] == expected[..taken] {
                false => Protocol::Http1,
                true if seen + taken < PREFACE.len() => Protocol::Beginning(seen + taken),
                true => Protocol::Http2,
            };
            bytes = &bytes[taken..];
        }
        if !matches!(self.protocol, Protocol::Http2) {
            return Ok(());
        }
        let (mut idle, mut pings, mut latest) = (0, 0, self.latest);
        self.incoming.pass(bytes, |head| {
            idle += u32::from(head.is_idle());
            pings += u32::from(head.kind == PING && head.flags & ACK == 0);
            if head.kind == HEADERS {
                latest = latest.max(head.stream);
            }
        });
        self.latest = latest;
        self.pings.came(pings)?;
        self.budget.spend(idle)
    }

    fn sent(&mut self, bytes: &[u8]) {
        if matches!(self.protocol, Protocol::Http2) {
            let (budget, pings) = (&mut self.budget, &mut self.pings);
            self.outgoing.pass(bytes, |head| {
                if matches!(head.kind, DATA | HEADERS) {
                    budget.earn(FRAMES_PER_ANSWER);
                    pings.forget();
                }
            });
        }
    }

    /// The frame that ends the connection; none in the middle of another one, or where there are no frames.
    fn farewell(&self, reason: &str) -> Option<Vec<u8>> {
        if !matches!(self.protocol, Protocol::Http2) || !self.outgoing.is_between() {
            return None;
        }
        let length = (8 + reason.len()) as u32;
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([GO_AWAY, 0, 0, 0, 0, 0]);
        frame.extend(self.latest.to_be_bytes());
        frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend(reason.as_bytes());
        Some(frame)
    }
}

/// What is left of the idle frames that a connection may send.
struct Budget {
    chatter: Chatter,
    left: u32,
    refilled: Instant,
}

impl Budget {
    fn new(chatter: Chatter) -> Self {
        Budget {
            chatter,
            left: chatter.burst,
            refilled: Instant::now(),
        }
    }

    /// Asks for the time only when there is nothing left otherwise.
    fn spend(&mut self, frames: u32) -> Result<(), TooMuch> {
        if self.left < frames {
            let passed = self.refilled.elapsed().as_secs_f64();
            self.refilled = Instant::now();
            self.earn((passed * f64::from(self.chatter.per_sec)) as u32);
        }
        self.left = self.left.checked_sub(frames).ok_or(IDLE_FRAMES)?;
        Ok(())
    }

    fn earn(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(self.chatter.burst);
    }
}

/// The pings of a connection that brings nothing else.
struct Pings {
    pause: Option<Duration>,
    latest: Option<Instant>,
    early: u32,
}

impl Pings {
    fn new(chatter: Chatter) -> Self {
        Pings {
            pause: chatter.ping_pause,
            latest: None,
            early: 0,
        }
    }

    fn came(&mut self, count: u32) -> Result<(), TooMuch> {
        let (Some(pause), 1..) = (self.pause, count) else {
            return Ok(());
        };
        let now = Instant::now();
        let is_early = self.latest.is_some_and(|latest| now < latest + pause);
        self.latest = Some(now);
        self.early += count - u32::from(!is_early);
        match self.early > EARLY_PINGS_MAX {
            true => Err(PINGS),
            false => Ok(()),
        }
    }

    /// While there are answers, a ping for each is fair: clients measure the way by it.
    fn forget(&mut self) {
        (self.latest, self.early) = (None, 0);
    }
}

/// The first bytes of a frame.
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn parse(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Head {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & !(1 << 31),
        }
    }

    /// Whether it brings no part of a request.
    fn is_idle(&self) -> bool {
        match self.kind {
            DATA => self.length == 0 && self.flags & END_STREAM == 0,
            HEADERS => false,
            _ => true,
        }
    }
}

/// Finds the frames in bytes that come in pieces.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    seen: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD - self.seen).min(bytes.len());
            self.head[self.seen..][..taken].copy_from_slice(&bytes[..taken]);
            self.seen += taken;
            bytes = &bytes[taken..];
            if self.seen == HEAD {
                let head = Head::parse(&self.head);
                (self.seen, self.left) = (0, head.length);
                each(head);
            }
        }
    }

    /// Whether the next byte begins a frame.
    fn is_between(&self) -> bool {
        self.seen == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATTER: Chatter = Chatter {
        burst: 10,
        per_sec: 1,
        ping_pause: None,
    };

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = (length as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.resize(HEAD + length, 0);
        frame
    }

    fn begun() -> Traffic {
        let mut traffic = Traffic::new(CHATTER);
        traffic.received(PREFACE).unwrap();
        traffic
    }

    #[tokio::test(start_paused = true)]
    async fn idle_frames_are_counted_however_they_are_cut() {
        let mut bytes = PREFACE.to_vec();
        for stream in 0..10 {
            bytes.extend(frame(HEADERS, 4, 2 * stream + 1, 50));
            bytes.extend(frame(DATA, 0, 2 * stream + 1, 20));
            bytes.extend(frame(DATA, END_STREAM, 2 * stream + 1, 0));
            bytes.extend(frame(PING, 0, 0, 8));
        }
        for step in 1..bytes.len() {
            let mut traffic = Traffic::new(CHATTER);
            for piece in bytes.chunks(step) {
                assert_eq!(traffic.received(piece), Ok(()), "in pieces of {step}");
            }
            assert_eq!((traffic.budget.left, traffic.latest), (0, 19));
            assert_eq!(traffic.received(&frame(PING, 0, 0, 8)), Err(IDLE_FRAMES));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_refills_with_time_and_with_answers() {
        let mut traffic = begun();
        let ping = frame(PING, 0, 0, 8);
        traffic.received(&ping.repeat(10)).unwrap();
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        assert_eq!(traffic.received(&ping.repeat(2)), Ok(()));
        traffic.sent(&frame(HEADERS, 4, 1, 5));
        assert_eq!(traffic.received(&ping.repeat(FRAMES_PER_ANSWER as usize)), Ok(()));
        assert_eq!(traffic.received(&ping), Err(IDLE_FRAMES));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_that_come_too_soon_are_forgiven_twice_and_after_every_answer() {
        let pause = Duration::from_secs(5);
        let mut traffic = Traffic::new(Chatter {
            ping_pause: Some(pause),
            ..CHATTER
        });
        traffic.received(PREFACE).unwrap();
        let ping = frame(PING, 0, 0, 8);
        for _ in 0..5 {
            assert_eq!(traffic.received(&ping), Ok(()));
            assert_eq!(traffic.received(&frame(PING, ACK, 0, 8)), Ok(()));
            tokio::time::advance(pause).await;
        }
        assert_eq!(traffic.received(&ping.repeat(3)), Ok(()));
        traffic.sent(&frame(DATA, 0, 1, 3));
        assert_eq!(traffic.received(&ping.repeat(3)), Ok(()));
        assert_eq!(traffic.received(&ping), Err(PINGS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_farewell_is_said_between_frames_only() {
        let mut traffic = begun();
        traffic.received(&frame(HEADERS, 4, 7, 0)).unwrap();
        traffic.sent(&frame(DATA, 0, 1, 3)[..10]);
        assert_eq!(traffic.farewell("why"), None);
        traffic.sent(&[0, 0]);
        let mut expected = vec![0, 0, 11, GO_AWAY, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 11];
        expected.extend(b"why");
        assert_eq!(traffic.farewell("why"), Some(expected));
    }

    #[tokio::test(start_paused = true)]
    async fn http_1_has_no_frames() {
        let mut traffic = Traffic::new(CHATTER);
        traffic.received(b"PRI").unwrap();
        traffic.received(&b"VATE / HTTP/1.1\r\n".repeat(100)).unwrap();
        assert!(matches!(traffic.protocol, Protocol::Http1));
        assert_eq!(traffic.farewell("why"), None);
    }
}
