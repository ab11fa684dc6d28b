//! What rude clients cost the others: each abuse in turn, on this machine only, beside a client that writes.
//!
//! For each abuse the writer's latencies, the server's memory and what became of the rude are shown, in a table. Every
//! abuse ends after `--seconds`. Those who are thrown out come back.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Args;
use grpc::etcdserverpb::auth_client::AuthClient;
use grpc::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
    AuthenticateRequest, PutRequest, RangeRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use crate::Failure;
use crate::load::{Clients, open};
use crate::process::ServerProcess;
use crate::report::percentile;
use crate::wire::{self, Wire};

/// What to do.
#[derive(Args, Clone)]
pub struct Plan {
    /// Seconds for each abuse. With fewer than 12 the server has no time to close those who are silent for 10.
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Writes per second of the client that is to be undisturbed.
    #[arg(long, default_value_t = 300)]
    rate: u64,
    /// A port for clients with TLS, as HOST:PORT; without it nothing is done there.
    #[arg(long)]
    tls: Option<String>,
    /// Abuses to try, by name; all if none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Connections of the silent.
const SILENT: usize = 1000;
/// Connections of a flood.
const FLOODERS: usize = 4;
/// Frames of a flood by connection, every [`BEAT`].
const FRAMES_PER_BEAT: usize = 125;
/// Time between two bursts of a flood.
const BEAT: Duration = Duration::from_millis(10);
/// Keys of the data that is asked for as a whole, and the bytes of each.
const BIG_KEYS: usize = 32;
const BIG_VALUE: usize = 512 << 10;
/// Requests for all of it that are under way at a time.
const BIG_RANGES: usize = 64;
/// Connections that share those.
const BIG_CONNECTIONS: usize = 8;
/// Those who guess a password.
const GUESSERS: usize = 32;
/// Those who make up client versions.
const LIARS: usize = 8;
/// The largest window there is.
const WIDE: u32 = (1 << 31) - 1;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const PASSWORD: &str = "benchmark";

/// What became of the rude.
#[derive(Default)]
struct Tally {
    /// What they did: connections, frames, calls.
    done: AtomicU64,
    /// Connections the server has ended, and those of them for which it gave a reason.
    ended: AtomicU64,
    told: AtomicU64,
    over: AtomicBool,
}

impl Tally {
    fn add(&self, count: u64) {
        self.done.fetch_add(count, Relaxed);
    }

    fn end(&self, told: bool) {
        self.ended.fetch_add(1, Relaxed);
        self.told.fetch_add(told.into(), Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Someone who is rude until the tally says it is over.
type Abuse = fn(Arc<Target>, Arc<Tally>) -> Work;

struct Target {
    /// HOST:PORT, without TLS.
    plain: String,
    tls: Option<String>,
}

/// Each with its name, what it counts, and how many do it.
const ABUSES: [(&str, &str, usize, Abuse); 10] = [
    ("idle", "connections", SILENT, |target, tally| {
        Box::pin(silent(target.plain.clone(), b"", tally))
    }),
    ("half-preface", "connections", SILENT, |target, tally| {
        Box::pin(silent(
            target.plain.clone(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            tally,
        ))
    }),
    ("silent-tls", "connections", SILENT, |target, tally| {
        let address = target.tls.clone().unwrap_or_default();
        Box::pin(silent(address, b"\x16\x03\x01\x02\x00\x01", tally))
    }),
    ("rapid-reset", "streams", FLOODERS, |target, tally| {
        Box::pin(flood(target, tally, |wire| {
            let stream = wire.next_stream();
            let mut pair = wire::request_head(stream, PUT, 0);
            pair.extend(wire::frame(wire::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            pair
        }))
    }),
    ("ping", "frames", FLOODERS, |target, tally| {
        Box::pin(flood(target, tally, |_| wire::frame(wire::PING, 0, 0, &[0; 8])))
    }),
    ("settings", "frames", FLOODERS, |target, tally| {
        Box::pin(flood(target, tally, |_| wire::frame(wire::SETTINGS, 0, 0, &[])))
    }),
    ("continuation", "frames", FLOODERS, |target, tally| {
        Box::pin(flood(target, tally, |wire| match wire.next_stream() {
            1 => wire::frame(wire::HEADERS, 0, 1, &wire::header_block(PUT)),
            _ => wire::frame(wire::CONTINUATION, 0, 1, b"\x00\x01a\x01b"),
        }))
    }),
    ("window-0", "calls", BIG_CONNECTIONS, |target, tally| {
        Box::pin(leave(target, tally))
    }),
    ("big-ranges", "calls", BIG_CONNECTIONS, |target, tally| {
        Box::pin(devour(target, tally))
    }),
    ("versions", "calls", LIARS, |target, tally| {
        Box::pin(lie(target, tally))
    }),
];

/// Runs all of it and prints the table.
pub async fn run(clients: &Clients, endpoint: &str, pid: Option<u32>, plan: Plan) -> Result<(), Failure> {
    let plain = endpoint.trim_start_matches("http://").to_owned();
    for address in std::iter::once(&plain).chain(&plan.tls) {
        stay_at_home(address)?;
    }
    let server = ServerProcess::find(pid, endpoint).ok_or("the server is not a process of this machine")?;
    let target = Arc::new(Target {
        plain,
        tls: plan.tls.clone(),
    });
    let mut bench = Bench {
        channel: clients.channel(0),
        server,
        plan,
        token: None,
    };
    prepare(bench.channel.clone()).await?;
    println!(
        "{:<14}{:>9}{:>9}{:>9}{:>8}{:>8}{:>8}  what became of it",
        "abuse", "put p50", "p99", "failed", "MiB", "peak", "after"
    );
    bench.measure("none", Crowd::default()).await?;
    for (name, unit, count, abuse) in ABUSES {
        let possible = name != "silent-tls" || target.tls.is_some();
        if possible && bench.wants(name) {
            let crowd = Crowd::of(count, unit, |tally| abuse(Arc::clone(&target), tally));
            bench.measure(name, crowd).await?;
        }
    }
    if bench.wants("passwords") {
        bench.guess_passwords(endpoint).await?;
    }
    Ok(())
}

/// Only servers of this machine are to be abused.
fn stay_at_home(address: &str) -> Result<(), Failure> {
    let (host, port) = names::split(address).ok_or("it is not host:port")?;
    let found = names::blocking::addresses(host, port)?;
    match found.iter().all(|address| IpAddr::is_loopback(&address.ip())) {
        true => Ok(()),
        false => Err(format!("{address} is not an address of this machine's loopback").into()),
    }
}

/// Those who are rude together, and what they count.
#[derive(Default)]
struct Crowd {
    unit: &'static str,
    works: Vec<Work>,
    tally: Arc<Tally>,
}

impl Crowd {
    fn of(count: usize, unit: &'static str, one: impl Fn(Arc<Tally>) -> Work) -> Self {
        let tally = Arc::new(Tally::default());
        Crowd {
            unit,
            works: (0..count).map(|_| one(Arc::clone(&tally))).collect(),
            tally,
        }
    }

    /// Lets them loose, on a thread of their own: they are not to slow the writer down by themselves.
    fn run(self) -> Result<std::thread::JoinHandle<()>, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(std::thread::spawn(move || {
            runtime.block_on(async {
                let all: Vec<_> = self.works.into_iter().map(tokio::spawn).collect();
                for one in all {
                    let _ = one.await;
                }
            });
        }))
    }
}

struct Bench {
    channel: Channel,
    server: ServerProcess,
    plan: Plan,
    /// Of the writer, while users have to sign in.
    token: Option<String>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.plan.only.is_empty() || self.plan.only.iter().any(|only| only == name)
    }

    /// One line of the table.
    async fn measure(&self, name: &str, crowd: Crowd) -> Result<(), Failure> {
        let memory = |server: ServerProcess| server.memory().map_or(0, |(now, _)| now >> 20);
        let before = memory(self.server);
        let (unit, tally) = (crowd.unit, Arc::clone(&crowd.tally));
        let crowd = crowd.run()?;
        let until = Instant::now() + Duration::from_secs(self.plan.seconds);
        let peak = async {
            let mut peak = before;
            while Instant::now() < until {
                peak = peak.max(memory(self.server));
                sleep(Duration::from_millis(20)).await;
            }
            peak
        };
        let ((mut latencies, failed), peak) = tokio::join!(self.write(until), peak);
        tally.over.store(true, Relaxed);
        tokio::task::spawn_blocking(move || crowd.join())
            .await?
            .map_err(|_| "the rude have panicked")?;
        // What is given back is given back by now.
        sleep(Duration::from_secs(2)).await;
        latencies.sort_unstable();
        let millis = |percent| match latencies.is_empty() {
            true => "-".into(),
            false => format!("{:.2}", percentile(&latencies, percent).as_secs_f64() * 1e3),
        };
        let [done, ended, told] = [&tally.done, &tally.ended, &tally.told].map(|count| count.load(Relaxed));
        let fate = match unit {
            "" => String::new(),
            unit => format!("{done} {unit}, {ended} connections ended, {told} told why"),
        };
        println!(
            "{name:<14}{:>9}{:>9}{failed:>9}{before:>8}{peak:>8}{:>8}  {fate}",
            millis(50.0),
            millis(99.0),
            memory(self.server)
        );
        Ok(())
    }

    /// Writes at the rate until then; the latencies, and how many failed. A write is due when it is due: one that has
    /// to wait for those before it counts from when it should have been sent.
    async fn write(&self, until: Instant) -> (Vec<Duration>, u64) {
        let mut kv = KvClient::new(self.channel.clone());
        let pause = Duration::from_secs(1) / u32::try_from(self.plan.rate.max(1)).unwrap_or(u32::MAX);
        let (mut latencies, mut failed, mut due) = (Vec::new(), 0, Instant::now());
        while due < until {
            tokio::time::sleep_until(due.into()).await;
            let put = self.signed(PutRequest {
                key: "undisturbed".into(),
                value: vec![b'v'; 100].into(),
                ..Default::default()
            });
            match timeout(Duration::from_secs(5), kv.put(put)).await {
                Ok(Ok(_)) => latencies.push(due.elapsed()),
                _ => failed += 1,
            }
            due += pause;
        }
        (latencies, failed)
    }

    fn signed<T>(&self, request: T) -> Request<T> {
        let mut request = Request::new(request);
        if let Some(Ok(token)) = self.token.as_deref().map(MetadataValue::try_from) {
            request.metadata_mut().insert("token", token);
        }
        request
    }

    /// Switches users on for as long as it takes.
    async fn guess_passwords(&mut self, endpoint: &str) -> Result<(), Failure> {
        let mut auth = AuthClient::new(self.channel.clone());
        // They may be there from the last time.
        let _ = auth.role_add(AuthRoleAddRequest { name: "root".into() }).await;
        let _ = auth
            .user_add(AuthUserAddRequest {
                name: "root".into(),
                password: PASSWORD.into(),
                ..Default::default()
            })
            .await;
        let grant = AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into(),
        };
        auth.user_grant_role(grant).await?;
        auth.auth_enable(AuthEnableRequest {}).await?;
        let signed_in = auth.authenticate(login(PASSWORD.into())).await?.into_inner();
        self.token = Some(signed_in.token);
        let endpoint = endpoint.to_owned();
        let crowd = Crowd::of(GUESSERS, "guesses", |tally| {
            Box::pin(guess(endpoint.clone(), tally))
        });
        let measured = self.measure("passwords", crowd).await;
        auth.auth_disable(self.signed(AuthDisableRequest {})).await?;
        self.token = None;
        measured
    }
}

/// Data to ask for.
async fn prepare(channel: Channel) -> Result<(), Failure> {
    let mut kv = KvClient::new(channel);
    for number in 0..BIG_KEYS {
        let put = PutRequest {
            key: format!("big/{number:03}").into(),
            value: vec![b'v'; BIG_VALUE].into(),
            ..Default::default()
        };
        kv.put(put).await?;
    }
    Ok(())
}

fn everything_big() -> RangeRequest {
    RangeRequest {
        key: "big/".into(),
        range_end: "big0".into(),
        serializable: true,
        ..Default::default()
    }
}

/// Connects, says a few bytes, and waits to be thrown out.
async fn silent(address: String, beginning: &'static [u8], tally: Arc<Tally>) {
    let Ok(mut socket) = TcpStream::connect(address).await else {
        return tally.end(false);
    };
    tally.add(1);
    let _ = socket.write_all(beginning).await;
    let mut bytes = [0; 1024];
    while !tally.is_over() {
        match timeout(Duration::from_millis(200), socket.read(&mut bytes)).await {
            Ok(Ok(1..)) | Err(_) => {}
            Ok(_) => return tally.end(false),
        }
    }
}

/// Sends a burst of frames at every beat, on a new connection if it was thrown out.
async fn flood(target: Arc<Target>, tally: Arc<Tally>, next: fn(&mut Wire) -> Vec<u8>) {
    let mut wire = None;
    while !tally.is_over() {
        let beat = tokio::time::Instant::now() + BEAT;
        let mut open = match wire.take() {
            Some(open) => open,
            None => match Wire::connect(&target.plain, WIDE).await {
                Ok(open) => open,
                Err(_) => {
                    sleep(BEAT).await;
                    continue;
                }
            },
        };
        let burst: Vec<u8> = (0..FRAMES_PER_BEAT).flat_map(|_| next(&mut open)).collect();
        if open.send(&burst).await.is_ok() {
            tally.add(FRAMES_PER_BEAT as u64);
        }
        if listen(&mut open, &tally, beat).await {
            wire = Some(open);
        } else {
            tokio::time::sleep_until(beat).await;
        }
    }
}

/// Takes what comes until then; false if the connection has ended.
async fn listen(wire: &mut Wire, tally: &Tally, until: tokio::time::Instant) -> bool {
    let mut told = false;
    loop {
        match tokio::time::timeout_at(until, wire.next()).await {
            Err(_) => return true,
            Ok(Ok((kind, ..))) => told |= kind == wire::GO_AWAY,
            Ok(Err(_)) => {
                tally.end(told);
                return false;
            }
        }
    }
}

/// Asks for much and takes nothing of it.
async fn leave(target: Arc<Target>, tally: Arc<Tally>) {
    while !tally.is_over() {
        let Ok(mut wire) = Wire::connect(&target.plain, 0).await else {
            sleep(BEAT).await;
            continue;
        };
        for _ in 0..BIG_RANGES / BIG_CONNECTIONS {
            if wire.call(RANGE, &everything_big()).await.is_ok() {
                tally.add(1);
            }
        }
        while !tally.is_over() {
            let beat = tokio::time::Instant::now() + 20 * BEAT;
            if !listen(&mut wire, &tally, beat).await {
                break;
            }
        }
    }
}

/// Asks for much, again and again, and takes all of it.
async fn devour(target: Arc<Target>, tally: Arc<Tally>) {
    while !tally.is_over() {
        let Ok(mut wire) = Wire::connect(&target.plain, WIDE).await else {
            sleep(BEAT).await;
            continue;
        };
        for _ in 0..BIG_RANGES / BIG_CONNECTIONS {
            let _ = wire.call(RANGE, &everything_big()).await;
        }
        let mut taken = 0_u64;
        while !tally.is_over() {
            match timeout(Duration::from_millis(200), wire.next()).await {
                Err(_) => {}
                Ok(Err(_)) => {
                    tally.end(false);
                    break;
                }
                Ok(Ok((wire::HEADERS, flags, _))) if flags & wire::END_STREAM != 0 => {
                    tally.add(1);
                    let _ = wire.call(RANGE, &everything_big()).await;
                }
                Ok(Ok((_, _, payload))) => taken += payload.len() as u64,
            }
            // The connection's window is widened by what has gone through it.
            if taken > 1 << 20 {
                let more = wire::frame(wire::WINDOW_UPDATE, 0, 0, &(taken as u32).to_be_bytes());
                let _ = wire.send(&more).await;
                taken = 0;
            }
        }
    }
}

/// Calls with a client version of its own each time.
async fn lie(target: Arc<Target>, tally: Arc<Tally>) {
    let Ok(channel) = open(&format!("http://{}", target.plain)).await else {
        return;
    };
    let mut kv = KvClient::new(channel);
    while !tally.is_over() {
        // It is the number of versions that is to hurt, not that of the calls.
        let beat = tokio::time::Instant::now() + BEAT;
        let mut range = Request::new(RangeRequest {
            key: "undisturbed".into(),
            serializable: true,
            ..Default::default()
        });
        let number = tally.done.fetch_add(1, Relaxed);
        if let Ok(version) = MetadataValue::try_from(format!("made-up-{number}")) {
            range.metadata_mut().insert("client-api-version", version);
        }
        let _ = kv.range(range).await;
        tokio::time::sleep_until(beat).await;
    }
}

async fn guess(endpoint: String, tally: Arc<Tally>) {
    let Ok(channel) = open(&endpoint).await else {
        return;
    };
    let mut auth = AuthClient::new(channel);
    while !tally.is_over() {
        let number = tally.done.fetch_add(1, Relaxed);
        let attempt = auth.authenticate(login(format!("guess-{number}")));
        let _ = timeout(Duration::from_secs(5), attempt).await;
    }
}

fn login(password: String) -> AuthenticateRequest {
    AuthenticateRequest {
        name: "root".into(),
        password,
    }
}
