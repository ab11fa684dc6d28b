//! Clients and watchers at work on a cluster while it suffers.
//!
//! Every client calls one member after the other, changes a few keys they all share, reads them, and notes each call
//! for [`history::check`]. It is a client that retries: what fails is tried again elsewhere, as a new write with a
//! new value, until it succeeds; only one that does not for [`PATIENCE`] counts as failed.
//!
//! Where users are asked for, clients and watchers are [`USER`], each with a token of its own.
//!
//! Watchers follow these keys from the first revision on. When a stream ends, its watcher goes on elsewhere from the
//! next revision. In the end all must have seen the same, every revision once and in order; this is the history the
//! clients' notes are held against.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::account::Account;
use crate::crash::{operations, text};
use crate::history::{self, Call, Change, Counts, Keys, NEVER, Operation, Outcome};

/// Clients that call at the same time.
const CLIENTS: usize = 4;

/// Watchers; every other one asks to be told when its member loses the leader.
const WATCHERS: usize = 3;

/// Where the clients' keys are.
const PREFIX: &str = "load/";

/// The key that is written last of all, and the first in the order of keys. From here on watchers follow them all, so
/// this is what the load's user must be allowed to read and write.
pub const FIRST_KEY: &str = "end";

/// Name and password of the user clients and watchers are where users are asked for.
pub const USER: (&str, &str) = ("load", "heavy");

/// How many there are; few, so that clients meet and keys come and go.
const KEYS: usize = 6;

/// How long a client waits for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// How long a client tries one thing again and again. An election takes a second or two, on a busy machine far more.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A client's pause between two calls: a cluster at work, with time left for everything else on the machine.
const PAUSE: Duration = Duration::from_millis(5);

/// A client's pause after a call that failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(20);

/// Clients and watchers at work.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
    watchers: Vec<JoinHandle<Result<BTreeMap<i64, Change>, String>>>,
}

/// What a load came to.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// What was checked.
    pub counts: Counts,
    /// The longest time a client needed for one thing.
    pub longest: Duration,
    /// The last revision.
    pub revision: i64,
}

#[derive(Debug)]
struct Shared {
    begin: Instant,
    /// The members' addresses for clients.
    members: Mutex<Vec<SocketAddr>>,
    acknowledged: watch::Sender<usize>,
    stopping: watch::Sender<bool>,
    /// Watchers end when they have seen this revision.
    last: watch::Sender<i64>,
    /// How far each watcher is.
    seen: Vec<AtomicI64>,
    longest: Mutex<Duration>,
    /// What must not happen whatever happens to the members.
    complaints: Mutex<Vec<String>>,
}

impl Load {
    /// Starts on a cluster that holds no key of the clients and has its whole history.
    pub fn start(members: &[SocketAddr], seed: u64) -> Self {
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            members: Mutex::new(members.to_vec()),
            acknowledged: watch::Sender::default(),
            stopping: watch::Sender::default(),
            last: watch::Sender::new(i64::MAX),
            seen: (0..WATCHERS).map(|_| AtomicI64::new(0)).collect(),
            longest: Mutex::default(),
            complaints: Mutex::default(),
        });
        let clients = (0..CLIENTS).map(|number| {
            let client = Client {
                shared: shared.clone(),
                number,
                at: number,
                count: 0,
                account: user(),
                channels: HashMap::new(),
                seen: Keys::new(),
                random: StdRng::seed_from_u64(seed.wrapping_mul(1000) + number as u64),
            };
            tokio::spawn(client.work())
        });
        let watchers = (0..WATCHERS).map(|number| tokio::spawn(follow(shared.clone(), number)));
        Self {
            clients: clients.collect(),
            watchers: watchers.collect(),
            shared,
        }
    }

    /// Waits until the clients have made so many more writes.
    pub async fn progress(&self, writes: usize) -> Result<(), String> {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let wanted = *acknowledged.borrow() + writes;
        let enough = acknowledged.wait_for(|count| *count >= wanted);
        match timeout(PATIENCE, enough).await {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("no {writes} writes in {} s", PATIENCE.as_secs())),
        }
    }

    /// Clients may call this member, too, from now on.
    pub fn also(&self, member: SocketAddr) {
        lock(&self.shared.members).push(member);
    }

    /// Clients call this member no more.
    pub fn without(&self, member: SocketAddr) {
        lock(&self.shared.members).retain(|other| *other != member);
    }

    /// The revision every watcher has seen: what may be compacted.
    pub fn seen(&self) -> i64 {
        let seen = self.shared.seen.iter();
        seen.map(|seen| seen.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// Ends the load, on a cluster that is well again, and checks what was seen.
    pub async fn finish(self) -> Result<Report, String> {
        self.shared.stopping.send_replace(true);
        let mut operations = Vec::new();
        for client in join_all(self.clients).await {
            operations.extend(client.map_err(|e| e.to_string())?);
        }
        let revision = last_revision(&self.shared).await?;
        self.shared.last.send_replace(revision);
        let mut histories = Vec::new();
        for watcher in self.watchers {
            let history = timeout(PATIENCE, watcher).await;
            let history = history.map_err(|_| format!("a watcher has not seen revision {revision}"))?;
            histories.push(history.map_err(|e| e.to_string())??);
        }
        for (number, history) in histories.iter().enumerate().skip(1) {
            equal(number, history, &histories[0])?;
        }
        if let Some(complaint) = lock(&self.shared.complaints).first() {
            return Err(complaint.clone());
        }
        let mut history = histories.swap_remove(0);
        for change in history.values_mut() {
            change.retain(|key, _| key.starts_with(PREFIX));
        }
        history.retain(|_, change| !change.is_empty());
        Ok(Report {
            counts: history::check(&Keys::new(), &operations, &history)?,
            longest: *lock(&self.shared.longest),
            revision,
        })
    }
}

/// Two watchers must have seen the same.
fn equal(
    number: usize,
    history: &BTreeMap<i64, Change>,
    first: &BTreeMap<i64, Change>,
) -> Result<(), String> {
    let mut revisions = history.keys().chain(first.keys());
    match revisions.find(|revision| history.get(revision) != first.get(revision)) {
        None => Ok(()),
        Some(revision) => Err(format!(
            "revision {revision} was {:?} for watcher {number} and {:?} for watcher 0",
            history.get(revision),
            first.get(revision)
        )),
    }
}

/// Writes once more, so that there is an event at the end.
async fn last_revision(shared: &Shared) -> Result<i64, String> {
    let member = lock(&shared.members)[0];
    let request = PutRequest {
        key: FIRST_KEY.into(),
        ..PutRequest::default()
    };
    let user = user();
    let put = user.call(channel(member), request, async |at, request| {
        KvClient::new(at).put(request).await
    });
    let response = put.await;
    let response = response.map_err(|status| format!("the last write fails: {status}"))?;
    Ok(response.into_inner().header.map_or(0, |header| header.revision))
}

/// The load's user, not signed in yet.
pub fn user() -> Account {
    let (name, password) = USER;
    Account::new(name, password)
}

/// A connection that is made when it is needed, and again when it is lost.
pub fn channel(at: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{at}"));
    let endpoint = endpoint.expect("an address makes a URL");
    endpoint.connect_timeout(ANSWER_MAX).connect_lazy()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(NEVER)
    }

    /// The member whose turn it is.
    fn member(&self, turn: usize) -> SocketAddr {
        let members = lock(&self.members);
        members[turn % members.len()]
    }

    fn took(&self, time: Duration) {
        let mut longest = lock(&self.longest);
        *longest = longest.max(time);
    }

    fn complain(&self, complaint: String) {
        lock(&self.complaints).push(complaint);
    }
}

struct Client {
    shared: Arc<Shared>,
    number: usize,
    /// The member it calls.
    at: usize,
    count: usize,
    account: Account,
    channels: HashMap<SocketAddr, Channel>,
    /// The keys as it last saw them.
    seen: Keys,
    random: StdRng,
}

impl Client {
    async fn work(mut self) -> Vec<Operation> {
        let mut operations = Vec::new();
        while !*self.shared.stopping.borrow() {
            let (begin, kind) = (Instant::now(), self.random.random_range(0..4));
            loop {
                let call = self.call(kind);
                let operation = self.make(call).await;
                let answered = operation.outcome != Outcome::Unknown;
                operations.push(operation);
                if answered {
                    break;
                }
                if begin.elapsed() > PATIENCE {
                    self.shared
                        .complain(format!("a client tried in vain: {:?}", operations.last()));
                    break;
                }
                self.at += 1;
                sleep(FAILURE_PAUSE).await;
            }
            self.shared.took(begin.elapsed());
            self.at += usize::from(self.random.random_ratio(1, 8));
            sleep(PAUSE).await;
        }
        operations
    }

    /// Something to do: one or two keys are put or deleted, mostly guarded by what one was; or all are read.
    fn call(&mut self, kind: u32) -> Call {
        if kind == 0 {
            return Call::Read;
        }
        self.count += 1;
        let key = |random: &mut StdRng| format!("{PREFIX}{}", random.random_range(0..KEYS));
        let mut change = Change::new();
        if self.random.random_ratio(1, 3) {
            change.insert(key(&mut self.random), None);
        }
        let put = key(&mut self.random);
        let guard = (kind == 1).then(|| {
            let revision = self.seen.get(&put).map_or(0, |(_, revision)| *revision);
            (put.clone(), revision)
        });
        change.insert(put, Some(format!("{}.{}", self.number, self.count)));
        Call::Write { change, guard }
    }

    async fn make(&mut self, call: Call) -> Operation {
        let member = self.shared.member(self.at);
        let channel = self.channels.entry(member).or_insert_with(|| channel(member));
        let begin = self.shared.now();
        let answer = timeout(ANSWER_MAX, answer(&self.account, channel.clone(), &call)).await;
        let end = self.shared.now();
        let outcome = match answer {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(status)) => {
                if unexpected(&status) {
                    self.shared.complain(format!("{call:?} was answered {status}"));
                }
                Outcome::Unknown
            }
            Err(_) => Outcome::Unknown,
        };
        if let Outcome::Written(_) = outcome {
            self.shared.acknowledged.send_modify(|count| *count += 1);
        }
        if let Outcome::Seen(_, keys) = &outcome {
            self.seen = keys.clone();
        }
        let end = if outcome == Outcome::Unknown { NEVER } else { end };
        Operation {
            begin,
            end,
            call,
            outcome,
        }
    }
}

/// Answers that no fault explains.
fn unexpected(status: &Status) -> bool {
    let refused = [
        Code::InvalidArgument,
        Code::FailedPrecondition,
        Code::OutOfRange,
        Code::DataLoss,
        Code::Unimplemented,
        Code::PermissionDenied,
        Code::Unauthenticated,
    ];
    status.source().is_none() && refused.contains(&status.code())
}

async fn answer(account: &Account, member: Channel, call: &Call) -> Result<Outcome, Status> {
    let read = || RangeRequest {
        key: PREFIX.into(),
        range_end: "load0".into(),
        ..RangeRequest::default()
    };
    let Call::Write { change, guard } = call else {
        let range = account.call(member, read(), async |at, mut request| {
            request.set_timeout(ANSWER_MAX);
            KvClient::new(at).range(request).await
        });
        let response = range.await?.into_inner();
        return Ok(seen(response.header, &response.kvs));
    };
    let compare = guard.iter().map(|(key, revision)| Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: key.clone().into(),
        target_union: Some(compare::TargetUnion::ModRevision(*revision)),
        ..Compare::default()
    });
    let request = TxnRequest {
        compare: compare.collect(),
        success: operations(change),
        failure: vec![RequestOp {
            request: Some(Op::RequestRange(read())),
        }],
    };
    let txn = account.call(member, request, async |at, mut request| {
        request.set_timeout(ANSWER_MAX);
        KvClient::new(at).txn(request).await
    });
    let response = txn.await?.into_inner();
    let revision = response.header.map_or(0, |header| header.revision);
    if response.succeeded {
        return Ok(Outcome::Written(revision));
    }
    match response.responses.into_iter().next().and_then(|op| op.response) {
        Some(OpResponse::ResponseRange(range)) => Ok(seen(response.header, &range.kvs)),
        other => Err(Status::data_loss(format!(
            "the answer of a refused write is {other:?}"
        ))),
    }
}

fn seen(header: Option<ResponseHeader>, kvs: &[KeyValue]) -> Outcome {
    let keys = kvs
        .iter()
        .map(|kv| (text(&kv.key), (text(&kv.value), kv.mod_revision)));
    Outcome::Seen(header.map_or(0, |header| header.revision), keys.collect())
}

/// Follows the keys until the last revision, on one member after the other. The error is what no stream may send.
async fn follow(shared: Arc<Shared>, number: usize) -> Result<BTreeMap<i64, Change>, String> {
    let (mut history, mut last) = (BTreeMap::new(), shared.last.subscribe());
    let account = user();
    for turn in number.. {
        let ended = tokio::select! {
            ended = follow_one(&shared, number, &account, shared.member(turn), &mut history) => ended?,
            _ = last.wait_for(|last| reached(&shared.seen[number], *last)) => true,
        };
        if ended {
            return Ok(history);
        }
        sleep(FAILURE_PAUSE).await;
    }
    Ok(history)
}

fn reached(seen: &AtomicI64, last: i64) -> bool {
    seen.load(Ordering::Relaxed) >= last
}

/// Follows one stream to its end. Tells whether the last revision was seen.
async fn follow_one(
    shared: &Shared,
    number: usize,
    account: &Account,
    member: SocketAddr,
    history: &mut BTreeMap<i64, Change>,
) -> Result<bool, String> {
    let seen = &shared.seen[number];
    let create = WatchCreateRequest {
        key: FIRST_KEY.into(),
        range_end: b"\0".as_slice().into(),
        start_revision: seen.load(Ordering::Relaxed) + 1,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    // The requests never end: a server may take their end for the watch's.
    let mut requests = account.request(stream::iter([request]).chain(stream::pending()));
    if number.is_multiple_of(2) {
        requests
            .metadata_mut()
            .insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
    }
    let member = channel(member);
    let mut client = WatchClient::new(member.clone());
    let Ok(Ok(responses)) = timeout(ANSWER_MAX, client.watch(requests)).await else {
        return Ok(false);
    };
    let mut responses = responses.into_inner();
    while let Ok(Some(response)) = responses.message().await {
        if response.compact_revision > 0 {
            return Err(format!("a watcher was sent behind a compaction: {response:?}"));
        }
        if response.canceled {
            let reason = &response.cancel_reason;
            if account.has_to_sign_in(reason) {
                // If it fails, the next stream is refused for the same reason.
                let _ = timeout(ANSWER_MAX, account.sign_in(member)).await;
            } else if reason.contains("PermissionDenied") {
                return Err(format!("a watcher is refused: {reason}"));
            }
            return Ok(false);
        }
        take(response, seen, history)?;
        if reached(seen, *shared.last.borrow()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds the events of a response, which are whole revisions, and later ones than all before.
fn take(
    response: WatchResponse,
    seen: &AtomicI64,
    history: &mut BTreeMap<i64, Change>,
) -> Result<(), String> {
    let before = seen.load(Ordering::Relaxed);
    let mut latest = before;
    for event in response.events {
        let kv = event.kv.ok_or("an event without a key")?;
        if kv.mod_revision <= before || kv.mod_revision < latest {
            return Err(format!(
                "a watcher has seen {latest} and is told of {}: {kv:?}",
                kv.mod_revision
            ));
        }
        latest = kv.mod_revision;
        let value = (event.r#type == EventType::Put as i32).then(|| text(&kv.value));
        let change = history.entry(latest).or_default();
        if change.insert(text(&kv.key), value).is_some() {
            return Err(format!("a watcher is told of revision {latest} twice"));
        }
    }
    seen.store(latest, Ordering::Relaxed);
    Ok(())
}
