//! Reads without the cluster, of keys that nobody can change without asking first.
//!
//! Clients that share a prefix hand out the right to remember keys. Who reads a key puts `prefix` + key, held by the lease of a
//! session, if nobody has done so; from then on it may answer reads of that key itself. Who writes a key makes it a condition
//! that the key of that name is nobody else's, and otherwise writes `REVOKE` there and waits until its owner has deleted it,
//! which the owner does once it has forgotten what it knows. So reads stay linearizable, as long as **all who write do so
//! with this prefix**.
//!
//! This is the protocol of etcd's `client/v3/leasing`, so that its proxies and these can share a prefix. Invariants:
//!
//! * an answer is only remembered while its key is owned, and only used while the session certainly lasts, by this side's clock;
//! * while a write of ours is under way, reads of its keys go to the cluster; if it is not known how one has ended, its keys are
//!   given back first, so that it can not come true once they are owned again;
//! * a key that goes with somebody's lease is not remembered: it would go without anybody asking.
//!
//! What is remembered is what the client itself has read: calls on behalf of somebody's token read from the cluster. Who
//! writes needs permission for the keys of the prefix too.
//!
//! Deliberately different from etcd: an owner's own write forgets the value instead of computing the new one; a transaction that
//! only reads goes to the cluster; one watcher of the prefix serves all keys; a range without an end asks all owners.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use prost::Message;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::*;
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tracing::{info, warn};

use crate::keys::{get, is_created_at, op, put};
use crate::session::ranges;
use crate::{Client, Error, Session, prefix_end};

/// How long a session is believed in that is not heard of, as etcd's.
const TTL_SECS: i64 = 60;
/// How long a key is left alone that somebody else has wanted to write.
const REVOKED: Duration = Duration::from_secs(2);
/// Keys that are remembered at a time; the one that was not read for the longest makes room.
const KEYS_MAX: usize = 16 << 10;
/// The largest answer that is remembered, so that all of them have a bound: four gigabytes at worst.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// The wait before another session is begun.
const PAUSE: Duration = Duration::from_secs(1);

/// What others write to a key of the prefix that they want to be deleted.
const REVOKE: &[u8] = b"REVOKE";

/// A client whose reads are answered from memory where that is certainly the same. Cheap to clone.
#[derive(Clone)]
pub struct Leasing {
    /// On whose behalf calls are made.
    client: Client,
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

struct Shared {
    /// Who owns keys.
    client: Client,
    prefix: Bytes,
    state: Mutex<State>,
}

/// What keeps the session, and hears of those who want to write. It ends with this.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is owned. All of it ends with the session.
#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    owned: HashMap<Bytes, Owned>,
    /// Keys that are about to be owned, and the revision at which somebody wanted them already.
    wanted: HashMap<Bytes, i64>,
    /// Keys that are left alone, and since when.
    revoked: HashMap<Bytes, Instant>,
    /// Writes that are under way, by their numbers.
    writes: HashMap<u64, Target>,
    /// A key of ours was deleted without us, which is what the end of a lease does.
    is_robbed: bool,
    /// Counts reads and writes.
    clock: u64,
}

/// A key that nobody else writes.
struct Owned {
    /// The key of the prefix was there, and ours, at this revision.
    revision: i64,
    /// What the cluster has answered since the last write.
    answer: Option<RangeResponse>,
    /// How often something was written here: an answer that was asked for before is not kept.
    version: u64,
    used: u64,
}

impl Owned {
    fn forget(&mut self) {
        self.answer = None;
        self.version += 1;
    }
}

/// What to do about a read.
enum Read {
    Known(RangeResponse),
    /// Ask the cluster.
    Ask,
    /// Ask the cluster, and remember the answer to a key that is owned.
    Refresh {
        revision: i64,
        version: u64,
    },
    /// Ask the cluster for the key too, by the lease of a session.
    Acquire(Arc<Session>),
}

impl State {
    fn read(&mut self, key: &Bytes) -> Read {
        let Some(session) = self.session.clone().filter(|session| session.lasts()) else {
            return Read::Ask;
        };
        if self.is_written(key) {
            return Read::Ask;
        }
        self.clock += 1;
        if let Some(owned) = self.owned.get_mut(key) {
            owned.used = self.clock;
            return match &owned.answer {
                Some(answer) => Read::Known(answer.clone()),
                None => Read::Refresh {
                    revision: owned.revision,
                    version: owned.version,
                },
            };
        }
        self.revoked.retain(|_, since| since.elapsed() < REVOKED);
        if self.wanted.contains_key(key) || self.revoked.contains_key(key) {
            return Read::Ask;
        }
        self.wanted.insert(key.clone(), 0);
        Read::Acquire(session)
    }

    /// A key was got, unless somebody has wanted it since or the session is another one. Gives the key that makes room for it,
    /// and since when that was owned.
    fn acquired(
        &mut self,
        session: &Arc<Session>,
        key: &Bytes,
        answer: &RangeResponse,
    ) -> Option<(Bytes, i64)> {
        let revision = revision(answer);
        let is_same = self.session.as_ref().is_some_and(|now| Arc::ptr_eq(now, session));
        let is_late = self.wanted.get(key).is_none_or(|wanted| *wanted > revision);
        if !is_same || is_late {
            return None;
        }
        self.clock += 1;
        let owned = Owned {
            revision,
            answer: kept(answer),
            version: 0,
            used: self.clock,
        };
        self.owned.insert(key.clone(), owned);
        if self.owned.len() <= KEYS_MAX {
            return None;
        }
        let oldest = self.owned.iter().min_by_key(|(_, owned)| owned.used);
        let oldest = oldest.map(|(key, _)| key.clone())?;
        let owned = self.owned.remove(&oldest)?;
        Some((oldest, owned.revision))
    }

    fn refreshed(&mut self, key: &Bytes, (revision, version): (i64, u64), answer: &RangeResponse) {
        if let Some(owned) = self.owned.get_mut(key)
            && (owned.revision, owned.version) == (revision, version)
        {
            owned.answer = kept(answer);
        }
    }

    /// Somebody has written to a key of the prefix. Whether it is to be deleted for them.
    fn heard(&mut self, key: &[u8], event: &Event) -> bool {
        let Some(kv) = &event.kv else {
            return false;
        };
        let is_own = self.session.as_ref().is_some_and(|own| own.lease() == kv.lease);
        let is_gone = event.r#type() == EventType::Delete;
        let is_wanted = !is_gone && is_own && kv.value == REVOKE;
        if is_gone || is_wanted {
            if let Some(wanted) = self.wanted.get_mut(key) {
                *wanted = kv.mod_revision.max(*wanted);
            }
            if self
                .owned
                .get(key)
                .is_some_and(|owned| owned.revision < kv.mod_revision)
            {
                self.owned.remove(key);
                self.is_robbed |= is_gone;
                self.revoked.insert(key.to_vec().into(), Instant::now());
            }
        }
        is_wanted
    }

    fn is_written(&self, key: &[u8]) -> bool {
        self.writes.values().any(|target| target.covers(key))
    }

    /// Nothing is remembered of what is written, neither now nor by a read that is under way. Keys that will go with a lease
    /// are given up. Gives the number of the write, and the revision since which a single key is owned; else 0.
    fn begin(&mut self, target: &Target) -> (u64, i64) {
        self.clock += 1;
        self.writes.insert(self.clock, target.clone());
        for (key, wanted) in &mut self.wanted {
            if target.covers(key) {
                *wanted = i64::MAX;
            }
        }
        match target.end.is_empty() {
            true => self
                .owned
                .get_mut(&target.key)
                .into_iter()
                .for_each(Owned::forget),
            false => {
                let covered = self.owned.iter_mut().filter(|(key, _)| target.covers(key));
                covered.for_each(|(_, owned)| owned.forget());
            }
        }
        let owned = match target.is_leased {
            true => self.owned.remove(&target.key).map(|owned| owned.revision),
            false => self.owned.get(&target.key).map(|owned| owned.revision),
        };
        (self.clock, owned.unwrap_or(0))
    }

    fn end_session(&mut self) -> Option<Arc<Session>> {
        self.owned.clear();
        self.session.take()
    }
}

fn kept(answer: &RangeResponse) -> Option<RangeResponse> {
    (answer.encoded_len() <= ANSWER_BYTES_MAX).then(|| answer.clone())
}

fn revision(answer: &RangeResponse) -> i64 {
    answer.header.as_ref().map_or(0, |header| header.revision)
}

/// Writes that are under way, until this is dropped.
struct Writing<'a> {
    shared: &'a Shared,
    targets: &'a [Target],
    /// Their numbers, and since when their keys are owned.
    begun: Vec<(u64, i64)>,
    /// Whether it is known how they have ended.
    is_settled: bool,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        for (number, _) in &self.begun {
            state.writes.remove(number);
        }
        if !self.is_settled {
            let lost = state
                .owned
                .extract_if(|key, _| self.targets.iter().any(|target| target.covers(key)));
            for (key, owned) in lost {
                self.shared.give_back(&key, owned.revision);
            }
        }
    }
}

/// A key that is about to be owned, until this is dropped.
struct Wanting<'a> {
    shared: &'a Shared,
    key: &'a Bytes,
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().wanted.remove(self.key);
    }
}

/// Some keys that are written: one, or those of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    key: Bytes,
    end: Bytes,
    /// Whether it goes with a lease afterwards.
    is_leased: bool,
}

impl Target {
    fn put(put: &PutRequest) -> Self {
        Target {
            key: put.key.clone(),
            end: Bytes::new(),
            is_leased: put.lease != 0,
        }
    }

    fn deletion(delete: &DeleteRangeRequest) -> Self {
        Target {
            key: delete.key.clone(),
            end: delete.range_end.clone(),
            is_leased: false,
        }
    }

    /// What either side of a transaction writes.
    fn of_txn(txn: &TxnRequest, targets: &mut Vec<Target>) {
        let ops = txn.success.iter().chain(&txn.failure);
        for op in ops.filter_map(|op| op.request.as_ref()) {
            match op {
                Request::RequestRange(_) => {}
                Request::RequestPut(put) => targets.push(Target::put(put)),
                Request::RequestDeleteRange(delete) => targets.push(Target::deletion(delete)),
                Request::RequestTxn(txn) => Target::of_txn(txn, targets),
            }
        }
    }

    fn covers(&self, key: &[u8]) -> bool {
        match &self.end[..] {
            b"" => self.key == key,
            b"\0" => self.key <= key,
            end => self.key <= key && key < end,
        }
    }
}

impl Shared {
    /// The key of the prefix that stands for a key.
    fn inside(&self, key: &[u8]) -> Bytes {
        [&self.prefix[..], key].concat().into()
    }

    /// Those that stand for a range: all of them, if they are in the range themselves.
    fn range(&self, target: &Target) -> (Bytes, Bytes) {
        if self.is_in(target) {
            return (self.prefix.clone(), prefix_end(&self.prefix));
        }
        let end = match &target.end[..] {
            b"" => Bytes::new(),
            b"\0" => prefix_end(&self.prefix),
            end => self.inside(end),
        };
        (self.inside(&target.key), end)
    }

    /// Whether keys of the prefix are among those of a range.
    fn is_in(&self, target: &Target) -> bool {
        let is_before = |key: &[u8], end: &[u8]| end == b"\0" || key < end;
        is_before(&target.key, &prefix_end(&self.prefix)) && is_before(&self.prefix, &target.end)
    }

    fn begin<'a>(&'a self, targets: &'a [Target]) -> Writing<'a> {
        let mut state = self.state.lock();
        if targets.iter().any(|target| self.is_in(target)) {
            state.owned.clear();
            state.wanted.values_mut().for_each(|wanted| *wanted = i64::MAX);
        }
        Writing {
            shared: self,
            targets,
            begun: targets.iter().map(|target| state.begin(target)).collect(),
            is_settled: false,
        }
    }

    /// Lets go of a key that was ours at a revision.
    fn give_back(&self, key: &[u8], revision: i64) {
        if let Ok(runtime) = Handle::try_current() {
            let inside = self.inside(key);
            runtime.spawn(give_back(self.client.clone(), inside, revision + 1));
        }
    }

    /// Forgets what others change or want to. Keys of ours that they want to be deleted.
    fn heard<'a>(&self, events: &'a [Event]) -> Vec<KeyValue> {
        let mut state = self.state.lock();
        let named = |event: &'a Event| {
            let kv = event.kv.as_ref()?;
            Some((kv.key.strip_prefix(&self.prefix[..])?, event))
        };
        let wanted = events
            .iter()
            .filter_map(named)
            .filter(|(key, event)| state.heard(key, event));
        wanted.filter_map(|(_, event)| event.kv.clone()).collect()
    }

    /// Whether there is reason to look for the session, once.
    fn is_robbed(&self) -> bool {
        std::mem::take(&mut self.state.lock().is_robbed)
    }

    fn own_lease(&self) -> Option<i64> {
        self.state.lock().session.as_ref().map(|session| session.lease())
    }
}

impl Leasing {
    /// Shares a prefix with others who read and write the same keys.
    pub fn new(client: &Client, prefix: impl Into<Bytes>) -> Self {
        let shared = Arc::new(Shared {
            client: client.clone(),
            prefix: prefix.into(),
            state: Mutex::default(),
        });
        let task = tokio::spawn(keep(shared.clone()));
        Leasing {
            client: client.clone(),
            shared,
            _task: Arc::new(Task(task)),
        }
    }

    /// The same, calling as this client does: on behalf of somebody else.
    pub fn by(&self, client: &Client) -> Self {
        Leasing {
            client: client.clone(),
            ..self.clone()
        }
    }

    /// Reads keys; a single one from memory if it is owned.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        if !is_of_one_key(&request) || self.client.token().is_some() {
            return self.client.range(request).await;
        }
        let key = request.key.clone();
        let read = self.shared.state.lock().read(&key);
        let answer = match read {
            Read::Ask => return self.client.range(request).await,
            Read::Known(answer) => answer,
            Read::Refresh { revision, version } => {
                let answer = self.client.range(get(key.clone())).await?;
                let mut state = self.shared.state.lock();
                state.refreshed(&key, (revision, version), &answer);
                answer
            }
            Read::Acquire(session) => self.acquire(&session, &key).await?,
        };
        Ok(shown(answer, &request))
    }

    /// Writes a key, once nobody else remembers it.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        let target = Target::put(&request);
        match self.write(vec![target], Request::RequestPut(request)).await? {
            (header, Some(Response::ResponsePut(done))) => Ok(PutResponse { header, ..done }),
            _ => Err(no_answer()),
        }
    }

    /// Deletes keys, once nobody else remembers one of them.
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        let target = Target::deletion(&request);
        let delete = Request::RequestDeleteRange(request);
        match self.write(vec![target], delete).await? {
            (header, Some(Response::ResponseDeleteRange(done))) => Ok(DeleteRangeResponse { header, ..done }),
            _ => Err(no_answer()),
        }
    }

    /// Does one of two lists of things, once nobody else remembers what either of them writes.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let mut targets = vec![];
        Target::of_txn(&request, &mut targets);
        if targets.is_empty() {
            return self.client.txn(request).await;
        }
        match self.write(targets, Request::RequestTxn(request)).await? {
            (header, Some(Response::ResponseTxn(done))) => Ok(TxnResponse { header, ..done }),
            _ => Err(no_answer()),
        }
    }

    /// Reads a key and makes it ours, if it is nobody's.
    async fn acquire(&self, session: &Arc<Session>, key: &Bytes) -> Result<RangeResponse, Error> {
        let _wanting = Wanting {
            shared: &self.shared,
            key,
        };
        let inside = self.shared.inside(key);
        let read = op(Request::RequestRange(get(key.clone())));
        let own = op(Request::RequestPut(put(
            inside.clone(),
            Bytes::new(),
            session.lease(),
        )));
        let txn = TxnRequest {
            compare: vec![is_created_at(inside.clone(), 0), is_without_lease(key.clone())],
            success: vec![read.clone(), own],
            failure: vec![read, op(Request::RequestRange(get(inside.clone())))],
        };
        let answer = match self.client.txn_again(txn).await {
            Ok(answer) => answer,
            // The session's lease may be gone, which is no matter to who reads.
            Err(Error::Server { .. }) => return self.client.range(get(key.clone())).await,
            Err(error) => return Err(error),
        };
        let (header, is_new) = (answer.header, answer.succeeded);
        let mut found = ranges(answer);
        let read = found.next().ok_or_else(no_answer)?;
        let owner = found.next().and_then(|range| range.kvs.into_iter().next());
        let read = RangeResponse { header, ..read };
        let excess = match owner {
            // One of ours that nothing is known of any more.
            Some(owner) if owner.lease == session.lease() => Some((key.clone(), revision(&read))),
            _ if is_new => self.shared.state.lock().acquired(session, key, &read),
            _ => None,
        };
        if let Some((key, revision)) = excess {
            self.shared.give_back(&key, revision);
        }
        Ok(read)
    }

    /// Does something that writes, on condition that nobody else owns any of the keys.
    async fn write(
        &self,
        mut targets: Vec<Target>,
        request: Request,
    ) -> Result<(Option<ResponseHeader>, Option<Response>), Error> {
        targets.dedup();
        loop {
            let mut writing = self.shared.begin(&targets);
            let (mut compare, mut success, mut failure) = (vec![], vec![op(request.clone())], vec![]);
            for (target, (_, owned)) in targets.iter().zip(&writing.begun) {
                let (key, end) = self.shared.range(target);
                if !end.is_empty() {
                    let newest = self.revoke_range(key.clone(), end.clone()).await?;
                    compare.push(is_created_before(key, end, newest + 1));
                    continue;
                }
                if target.is_leased && *owned > 0 {
                    success.push(op(Request::RequestDeleteRange(DeleteRangeRequest {
                        key: key.clone(),
                        ..DeleteRangeRequest::default()
                    })));
                }
                failure.push(op(Request::RequestRange(get(key.clone()))));
                compare.push(is_created_before(key, end, *owned + 1));
            }
            let txn = TxnRequest {
                compare,
                success,
                failure,
            };
            let answer = self.client.txn(txn).await?;
            writing.is_settled = true;
            if answer.succeeded {
                let done = answer.responses.into_iter().next();
                return Ok((answer.header, done.and_then(|done| done.response)));
            }
            for owner in ranges(answer).flat_map(|range| range.kvs) {
                self.revoke(owner).await?;
            }
        }
    }

    /// Waits until nobody else owns a key of a range, given as keys of the prefix. What is owned from now on is newer than
    /// the revision that this gives.
    async fn revoke_range(&self, key: Bytes, end: Bytes) -> Result<i64, Error> {
        let range = RangeRequest {
            range_end: end,
            ..get(key)
        };
        let owners = self.client.range(range).await?.kvs;
        let newest = owners.iter().map(|kv| kv.create_revision).max();
        let own = self.shared.own_lease();
        for owner in owners.into_iter().filter(|kv| Some(kv.lease) != own) {
            self.revoke(owner).await?;
        }
        Ok(newest.unwrap_or(0))
    }

    /// Asks for a key, and waits until it is given back; if it is not its owner's any more, there is nothing to wait for.
    async fn revoke(&self, owner: KeyValue) -> Result<(), Error> {
        let ask = PutRequest {
            ignore_lease: true,
            ..put(owner.key.clone(), Bytes::from_static(REVOKE), 0)
        };
        let txn = TxnRequest {
            compare: vec![is_created_at(owner.key.clone(), owner.create_revision)],
            success: vec![op(Request::RequestPut(ask))],
            failure: vec![],
        };
        let answer = self.client.txn_again(txn).await?;
        if !answer.succeeded {
            return Ok(());
        }
        let asked = answer.header.map_or(0, |header| header.revision);
        self.client.wait_for_deletion(owner.key, asked).await
    }
}

/// Keeps a session, and gives keys back that others want.
async fn keep(shared: Arc<Shared>) {
    let client = &shared.client;
    loop {
        let Err(error) = serve(client, &shared).await;
        let session = shared.state.lock().end_session();
        if let Some(session) = session {
            info!(%error, "leasing session ended");
            let revoke = LeaseRevokeRequest { id: session.lease() };
            // Its keys go with it anyway, only later.
            let _ = client.with_timeout(PAUSE).lease_revoke(revoke).await;
        }
        sleep(PAUSE).await;
    }
}

async fn serve(client: &Client, shared: &Shared) -> Result<Infallible, Error> {
    let session = Arc::new(Session::new(client, TTL_SECS).await?);
    let watch = WatchCreateRequest {
        key: shared.prefix.clone(),
        range_end: prefix_end(&shared.prefix),
        ..WatchCreateRequest::default()
    };
    let mut watcher = client.watch(watch).await?;
    shared.state.lock().session = Some(session.clone());
    let mut wanted = FuturesUnordered::new();
    loop {
        tokio::select! {
            error = session.ended() => return Err(error),
            Some(()) = wanted.next() => {}
            next = watcher.next() => {
                let answer = next.unwrap_or(Err(Error::Closed))?;
                for kv in shared.heard(&answer.events) {
                    wanted.push(give_back(client.clone(), kv.key, kv.mod_revision));
                }
                if shared.is_robbed() {
                    client.keep_alive_once(session.lease()).await?;
                }
            }
        }
    }
}

/// Deletes a key of the prefix that is older than a revision.
async fn give_back(client: Client, key: Bytes, revision: i64) {
    let delete = DeleteRangeRequest {
        key: key.clone(),
        ..DeleteRangeRequest::default()
    };
    let txn = TxnRequest {
        compare: vec![is_created_before(key, Bytes::new(), revision)],
        success: vec![op(Request::RequestDeleteRange(delete))],
        failure: vec![],
    };
    while let Err(error) = client.txn_again(txn.clone()).await {
        warn!(%error, "cannot give a key back that somebody wants to write");
        sleep(PAUSE).await;
    }
}

/// Whether a read is of one key as it is now, and wants no choice.
fn is_of_one_key(request: &RangeRequest) -> bool {
    let plain = RangeRequest {
        keys_only: request.keys_only,
        count_only: request.count_only,
        ..get(request.key.clone())
    };
    *request == plain && !request.key.is_empty()
}

/// As much of an answer as is asked for.
fn shown(mut answer: RangeResponse, request: &RangeRequest) -> RangeResponse {
    if request.count_only {
        answer.kvs.clear();
    }
    if request.keys_only {
        answer.kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    answer
}

fn is_created_before(key: Bytes, range_end: Bytes, revision: i64) -> Compare {
    Compare {
        key,
        range_end,
        result: CompareResult::Less.into(),
        target: CompareTarget::Create.into(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn is_without_lease(key: Bytes) -> Compare {
    Compare {
        key,
        result: CompareResult::Equal.into(),
        target: CompareTarget::Lease.into(),
        target_union: Some(TargetUnion::Lease(0)),
        ..Compare::default()
    }
}

/// A transaction has answers of the kinds that were asked for.
fn no_answer() -> Error {
    Error::Server {
        code: Code::Internal,
        message: "the answer to a transaction has not the parts that were asked for".into(),
    }
}
