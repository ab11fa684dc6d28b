//! Clients: each makes one request after the other to members of its choice, and believes nobody.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use consensus::ConfChange;
use lease::RenewError;
use member::{Input, Payload, Proposal, Ticket};
use mvcc::Wait;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestHeader, RequestOp, TxnRequest, compare, request_op,
};
use proto::raftpb;
use proto::raw;
use types::{KeyRange, LeaseId, MemberId};
use watch::{Create, Frames};

use crate::chance::Chance;
use crate::check::history::{Floor, check_range};
use crate::check::lease::Promises;
use crate::check::model::Said;
use crate::check::watch::Watched;
use crate::cluster::{CLIENTS, Cluster, Event, Task};
use crate::plan::Plan;
use crate::process::Process;

/// What is asked.
#[allow(clippy::large_enum_variant, reason = "few exist at a time")]
pub enum Request {
    /// Something for the log.
    Write(InternalRaftRequest),
    /// A range.
    Read(RangeRequest),
    /// A lease is to live on.
    Renew(i64),
    /// Another leader.
    Transfer(u64),
    /// Another configuration.
    Change(raftpb::ConfChange),
}

/// A request under way.
pub struct Op {
    /// Whose it is; nobody's if `None`.
    client: Option<u64>,
    request: Request,
    began: Floor,
    began_at: u64,
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was carried out as this entry.
    Wrote {
        /// The entry.
        index: u64,
        /// What it did.
        said: Said,
        /// The revision after it.
        revision: i64,
    },
    /// What was read.
    Read(raw::RangeResponse),
    /// The range is compacted.
    Compacted,
    /// The lease lives for so many seconds.
    Renewed(i64),
    /// There is no such lease.
    Gone,
    /// It was not carried out.
    Failed,
}

struct Connection {
    host: u64,
    frames: Frames,
}

struct Watcher {
    watched: Watched,
    connection: Option<Connection>,
}

/// All clients.
pub struct Clients {
    chance: Chance,
    ops: BTreeMap<u64, Op>,
    last: u64,
    watchers: Vec<Watcher>,
    /// What they were told about leases.
    pub promises: Promises,
}

impl Clients {
    /// The clients of a plan.
    pub fn new(plan: &Plan, chance: &mut Chance) -> Self {
        let mut chance = chance.fork();
        let watcher = |chance: &mut Chance| {
            let all = chance.one_in(2);
            let watched = Watched {
                key: if all { b"k".to_vec() } else { key(chance, plan) },
                range_end: if all { b"l".to_vec() } else { Vec::new() },
                prev_kv: chance.one_in(2),
                no_delete: chance.one_in(4),
                next: chance.one_in(3).then_some(1),
                events: 0,
            };
            Watcher {
                watched,
                connection: None,
            }
        };
        Clients {
            watchers: (0..plan.watchers).map(|_| watcher(&mut chance)).collect(),
            chance,
            ops: BTreeMap::new(),
            last: 0,
            promises: Promises::default(),
        }
    }

    /// An id for a request.
    pub fn new_request(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether this request waits for its answer.
    pub fn waits(&self, op: u64) -> bool {
        self.ops.contains_key(&op)
    }

    /// Events that watchers were given.
    pub fn events(&self) -> u64 {
        self.watchers.iter().map(|watcher| watcher.watched.events).sum()
    }
}

fn key(chance: &mut Chance, plan: &Plan) -> Vec<u8> {
    format!("k{:02}", chance.below(plan.keys)).into_bytes()
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    Delete,
    Swap,
    Read,
    Local,
    Grant,
    Renew,
    Revoke,
    Compact,
}

/// What clients do, and how often.
const KINDS: [(u64, Kind); 9] = [
    (30, Kind::Put),
    (6, Kind::Delete),
    (12, Kind::Swap),
    (35, Kind::Read),
    (8, Kind::Local),
    (3, Kind::Grant),
    (10, Kind::Renew),
    (1, Kind::Revoke),
    (2, Kind::Compact),
];

impl Cluster {
    /// Lets all clients begin.
    pub fn start_clients(&mut self) {
        for client in 0..self.plan.clients + self.plan.readers {
            let wait = self.chance.below(10_000);
            self.after(wait, Event::Client(client));
        }
        for watcher in 0..self.clients.watchers.len() {
            let wait = self.chance.below(50_000);
            self.after(wait, Event::Watcher(watcher));
        }
    }

    /// A client makes its next request, in times of trouble.
    pub fn client(&mut self, client: u64) {
        if !self.is_troubled {
            return self.after(20_000, Event::Client(client));
        }
        let id = self.clients.new_request();
        let kinds = match client < self.plan.clients {
            true => &KINDS[..],
            false => &[(1, Kind::Read)],
        };
        let kind = self.clients.chance.weighted(kinds);
        let request = self.make_request(id, kind);
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        let host = self.clients.chance.pick(&ids);
        self.submit(id, Some(client), host, request);
    }

    /// Sends a request to a host.
    pub fn submit(&mut self, id: u64, client: Option<u64>, host: u64, request: Request) {
        let op = Op {
            client,
            request,
            began: self.history.floor,
            began_at: self.now,
        };
        self.clients.ops.insert(id, op);
        let way = self.clients.chance.within(50, 1000);
        let task = Task::Request(id);
        self.after(
            way,
            Event::Task {
                host,
                life: 0,
                source: CLIENTS + id,
                task,
            },
        );
        let patience = self
            .clients
            .chance
            .within(self.plan.patience_us / 8, self.plan.patience_us);
        self.after(patience, Event::Timeout(id));
    }

    /// A request of the membership or the leadership, which nobody waits for.
    pub fn order(&mut self, host: u64, request: Request) {
        let id = self.clients.new_request();
        self.submit(id, None, host, request);
    }

    /// A put for its own sake. Returns its id.
    pub fn probe(&mut self, host: u64) -> u64 {
        let id = self.clients.new_request();
        let put = PutRequest {
            key: Bytes::from_static(b"k-probe"),
            value: id.to_string().into(),
            ..Default::default()
        };
        let request = write(
            id,
            InternalRaftRequest {
                put: Some(put),
                ..Default::default()
            },
        );
        self.submit(id, None, host, request);
        id
    }

    fn make_request(&mut self, id: u64, kind: Kind) -> Request {
        let (plan, floor) = (self.plan.clone(), self.history.floor.revision);
        let chance = &mut self.clients.chance;
        let key = Bytes::from(key(chance, &plan));
        let mut value = id.to_string().into_bytes();
        value.resize(value.len() + chance.below(plan.value_bytes) as usize, b'.');
        let leases = self.clients.promises.known();
        let known = match leases.is_empty() {
            true => 0,
            false => chance.pick(&leases),
        };
        let lease = if chance.one_in(4) { known } else { 0 };
        let put = PutRequest {
            key: key.clone(),
            value: value.into(),
            lease,
            ..Default::default()
        };
        let request = match kind {
            Kind::Put => InternalRaftRequest {
                put: Some(put),
                ..Default::default()
            },
            Kind::Delete => {
                let range_end = if chance.one_in(6) {
                    Bytes::from_static(b"l")
                } else {
                    Bytes::new()
                };
                let delete = DeleteRangeRequest {
                    key,
                    range_end,
                    ..Default::default()
                };
                InternalRaftRequest {
                    delete_range: Some(delete),
                    ..Default::default()
                }
            }
            Kind::Swap => {
                let last = self
                    .model
                    .at(&key, i64::MAX)
                    .map_or(0, |version| version.revision);
                let last = if chance.one_in(3) { last - 1 } else { last };
                let compare = Compare {
                    result: compare::CompareResult::Equal as i32,
                    target: compare::CompareTarget::Mod as i32,
                    key,
                    target_union: Some(compare::TargetUnion::ModRevision(last)),
                    ..Default::default()
                };
                let put = PutRequest { lease: 0, ..put };
                let success = RequestOp {
                    request: Some(request_op::Request::RequestPut(put)),
                };
                let txn = TxnRequest {
                    compare: vec![compare],
                    success: vec![success],
                    failure: vec![],
                };
                InternalRaftRequest {
                    txn: Some(txn),
                    ..Default::default()
                }
            }
            Kind::Read | Kind::Local => {
                let range_end = if chance.one_in(3) {
                    Bytes::from_static(b"l")
                } else {
                    Bytes::new()
                };
                return Request::Read(RangeRequest {
                    key,
                    range_end,
                    serializable: matches!(kind, Kind::Local),
                    revision: if chance.one_in(8) {
                        chance.within(1, floor.max(1) as u64) as i64
                    } else {
                        0
                    },
                    ..Default::default()
                });
            }
            Kind::Grant => {
                let grant = LeaseGrantRequest {
                    id: id as i64,
                    ttl: chance.within(1, 2) as i64,
                };
                InternalRaftRequest {
                    lease_grant: Some(grant),
                    ..Default::default()
                }
            }
            Kind::Renew => return Request::Renew(known),
            Kind::Revoke => InternalRaftRequest {
                lease_revoke: Some(LeaseRevokeRequest { id: known }),
                ..Default::default()
            },
            Kind::Compact => {
                let revision = (floor - chance.below(20) as i64).max(1);
                let compaction = CompactionRequest {
                    revision,
                    physical: false,
                };
                InternalRaftRequest {
                    compaction: Some(compaction),
                    ..Default::default()
                }
            }
        };
        write(id, request)
    }

    /// A request has come to a host.
    pub fn request(&mut self, id: u64, process: &mut Process, op: u64) {
        let Some(waiting) = self.clients.ops.get(&op) else {
            return;
        };
        match &waiting.request {
            Request::Write(request) => {
                let request = request.clone();
                process.pending.insert(op, op);
                self.propose(process, &request, false);
            }
            Request::Read(range) if range.serializable || process.status.lone_leader => {
                self.serve(process, op)
            }
            Request::Read(_) => self.ask_index(process, op),
            Request::Renew(_) => match process.status.leader {
                Some(MemberId(leader)) if leader == id => self.ask_index(process, op),
                Some(MemberId(leader)) if self.network.is_open(id, leader) => {
                    let way = self.chance.within(100, 900);
                    let (source, task) = (CLIENTS + op, Task::Forwarded(op));
                    let forwarded = Event::Task {
                        host: leader,
                        life: 0,
                        source,
                        task,
                    };
                    self.after(way, forwarded);
                }
                _ => self.reply(op, Answer::Failed),
            },
            Request::Transfer(to) => {
                let to = MemberId(*to);
                self.note("is to hand over", id, [to.0, 0, 0]);
                self.step(
                    process,
                    Input::TransferLeader {
                        ticket: Ticket(op),
                        to,
                    },
                );
            }
            Request::Change(change) => {
                let payload = Payload::ConfChange(ConfChange::V1(change.clone()));
                let proposal = Proposal {
                    id: op,
                    payload,
                    urgent: false,
                    only_in: None,
                };
                self.note(
                    "is to change the members",
                    id,
                    [change.r#type as u64, change.node_id, 0],
                );
                self.step(process, Input::Propose(vec![proposal]));
            }
        }
    }

    /// A host wants to know what was committed when a request came.
    pub fn ask_index(&self, process: &mut Process, op: u64) {
        process.readers.insert(Ticket(op), op);
        self.step(process, Input::ReadIndex { ticket: Ticket(op) });
    }

    /// A host answers from what it has.
    pub fn serve(&mut self, process: &Process, op: u64) {
        match self.clients.ops.get(&op).map(|op| &op.request) {
            Some(Request::Read(range)) => {
                let range = range.clone();
                self.read(process, op, &range);
            }
            Some(Request::Renew(lease)) => {
                let lease = LeaseId(*lease);
                self.renew(process, op, lease);
            }
            _ => {}
        }
    }

    /// A host that is or was the leader begins a lease's time anew.
    fn renew(&mut self, process: &Process, op: u64, lease: LeaseId) {
        let now_ms = process.now_ms(self.now);
        let answer = match process.data.lessor.lock().renew(lease, now_ms) {
            Ok(renewed) => Answer::Renewed(renewed.ttl_secs),
            Err(RenewError::NotFound) => Answer::Gone,
            Err(RenewError::Expired | RenewError::NotPrimary) => Answer::Failed,
        };
        self.reply(op, answer);
    }

    fn read(&mut self, process: &Process, op: u64, range: &RangeRequest) {
        let answer = match machine::read::range(&process.data.mvcc, range, Wait::Yes) {
            Ok(response) => Answer::Read(response),
            Err(mvcc::RangeError::Compacted) => Answer::Compacted,
            Err(mvcc::RangeError::FutureRev) => {
                assert!(
                    range.serializable,
                    "a linearizable read does not know a revision that was answered"
                );
                Answer::Failed
            }
            Err(error) => {
                let lost_power = format!("{error:?}").contains("has lost power");
                assert!(lost_power, "a read failed: {error:?}");
                Answer::Failed
            }
        };
        self.reply(op, answer);
    }

    /// A host answers.
    pub fn reply(&mut self, op: u64, answer: Answer) {
        if self.clients.waits(op) {
            let way = self.clients.chance.within(50, 1000);
            self.after(way, Event::Answer(op, answer));
        }
    }

    /// An answer arrives.
    pub fn answer(&mut self, id: u64, answer: Answer) {
        let Some(op) = self.clients.ops.remove(&id) else {
            return;
        };
        match (&op.request, answer) {
            (
                Request::Write(request),
                Answer::Wrote {
                    index,
                    said,
                    revision,
                },
            ) => {
                self.history
                    .wrote(&self.model, op.began, id, index, said, revision);
                if let Some(grant) = request.lease_grant.as_ref().filter(|_| said == Said::Done) {
                    let until = op.began_at + grant.ttl as u64 * 1_000_000;
                    self.clients.promises.lives(grant.id, until);
                }
                self.counts.written += 1;
                self.note("wrote", 0, [id, index, revision as u64]);
            }
            (Request::Read(range), Answer::Read(response)) => {
                let revision = response.header.as_ref().map_or(0, |header| header.revision);
                self.note("read", 0, [id, revision as u64, u64::from(range.serializable)]);
                match range.serializable {
                    true => self.counts.read_locally += 1,
                    false => {
                        self.history.read(op.began, revision);
                        self.counts.read += 1;
                    }
                }
                let at = if range.revision > 0 {
                    range.revision
                } else {
                    revision
                };
                check_range(&self.model, &range.key, &range.range_end, at, &response);
            }
            (Request::Read(range), Answer::Compacted) => {
                assert!(
                    range.revision > 0 && range.revision < self.model.compacted,
                    "revision {} is not compacted",
                    range.revision
                );
            }
            (Request::Renew(lease), Answer::Renewed(ttl)) => {
                let until = op.began_at + ttl as u64 * 1_000_000;
                self.counts.renewed += 1;
                self.note("renewed", 0, [*lease as u64, until, 0]);
                self.clients.promises.lives(*lease, until);
                let end = self.model.end_of(*lease);
                assert!(
                    end.is_none_or(|end| end > op.began.index),
                    "lease {lease} is renewed after entry {end:?}, which ended it, was acknowledged"
                );
            }
            (Request::Renew(lease), Answer::Gone) => {
                let is_gone = *lease == 0 || self.model.end_of(*lease).is_some();
                assert!(
                    is_gone,
                    "lease {lease} lives, and its client is told that it does not"
                );
            }
            (_, Answer::Failed) => self.counts.failed += 1,
            (_, answer) => panic!("{answer:?} answers something else"),
        }
        self.next_request(&op);
    }

    /// A client does not wait any longer; what it asked for may still happen.
    pub fn timeout(&mut self, id: u64) {
        if let Some(op) = self.clients.ops.remove(&id) {
            self.counts.timeouts += 1;
            self.next_request(&op);
        }
    }

    fn next_request(&mut self, op: &Op) {
        if let Some(client) = op.client {
            let think = self.clients.chance.below(2 * self.plan.think_us);
            self.after(think, Event::Client(client));
        }
    }

    // Watchers.

    /// How many watchers a host has.
    pub fn watchers_of(&self, id: u64) -> u64 {
        let connections = self
            .clients
            .watchers
            .iter()
            .filter_map(|it| it.connection.as_ref());
        connections.filter(|connection| connection.host == id).count() as u64
    }

    /// A watcher reads what has come, or looks for another host.
    pub fn watcher(&mut self, at: usize) {
        let wait = self.clients.chance.within(1_000, 20_000);
        self.after(wait, Event::Watcher(at));
        match self.clients.watchers[at].connection.take() {
            Some(connection) => self.read_events(at, connection),
            None => self.connect(at),
        }
    }

    fn connect(&mut self, at: usize) {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        let id = self.clients.chance.pick(&ids);
        let (now, watched) = (self.now, self.clients.watchers[at].watched.clone());
        let host = self.host(id);
        let Some(process) = host.process.as_mut().filter(|_| host.paused.is_none()) else {
            return;
        };
        let (outbox, frames) = process.opener.open();
        let stream = outbox.id();
        let now_ms = process.now_ms(now);
        process.hub.open(outbox, now_ms);
        let range = KeyRange::from_wire(watched.key.into(), watched.range_end.into());
        let create = Create {
            start_revision: watched.next.unwrap_or(0),
            prev_kv: watched.prev_kv,
            no_delete: watched.no_delete,
            progress_notify: true,
            ..Create::new(range)
        };
        process.hub.create(stream, create, process.data.mvcc.current());
        let life = process.life;
        self.clients.watchers[at].connection = Some(Connection { host: id, frames });
        self.note("is watched", id, [at as u64, watched.next.unwrap_or(0) as u64, 0]);
        self.after(
            0,
            Event::Task {
                host: id,
                life,
                source: 0,
                task: Task::Hub,
            },
        );
    }

    fn read_events(&mut self, at: usize, mut connection: Connection) {
        let host = self.host(connection.host);
        if host.paused.is_some() {
            self.clients.watchers[at].connection = Some(connection);
            return;
        }
        let life = host.process.as_ref().map_or(0, |process| process.life);
        let mut cx = Context::from_waker(Waker::noop());
        // It moves on now and then, as a client does when its member is slow.
        let mut goes_on = !self.clients.chance.one_in(50);
        for _ in 0..self.clients.chance.within(1, 8) {
            match connection.frames.poll_next(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let response = frame.into_response().expect("frames are responses");
                    let watched = &mut self.clients.watchers[at].watched;
                    match response.canceled {
                        true => {
                            goes_on = false;
                            watched.lost(&self.model, response.compact_revision);
                            break;
                        }
                        false => watched.take(&self.model, &response),
                    }
                }
                Poll::Ready(Some(Err(_)) | None) => goes_on = false,
                Poll::Pending => break,
            }
        }
        if goes_on {
            let host = connection.host;
            self.clients.watchers[at].connection = Some(connection);
            self.after(
                0,
                Event::Task {
                    host,
                    life,
                    source: 0,
                    task: Task::Hub,
                },
            );
        }
    }

    /// The first event that a watcher has not been given yet.
    pub fn missing_event(&self) -> Option<i64> {
        let watchers = self.clients.watchers.iter();
        watchers
            .filter_map(|watcher| watcher.watched.behind(&self.model))
            .min()
    }

    /// Whether every answer is there.
    pub fn all_answered(&self, ids: &[u64]) -> bool {
        !ids.iter().any(|id| self.clients.waits(*id))
    }
}

fn write(id: u64, request: InternalRaftRequest) -> Request {
    let header = Some(RequestHeader {
        id,
        ..Default::default()
    });
    Request::Write(InternalRaftRequest { header, ..request })
}
