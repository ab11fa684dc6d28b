//! The cluster: hosts, the network between them, clients, and the one queue of everything that is going to
//! happen. Time goes from one event to the next.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use env::{Disk, SimDisk};
use machine::{Effect, Outcome};
use member::{Input, Payload, Proposal};
use mvcc::{Cursor, Wait};
use prost::Message as _;
use proto::etcdserverpb::{InternalRaftRequest, LeaseRevokeRequest, RequestHeader};
use proto::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};
use proto::walpb;
use store::SyncError;
use watch::{Event as WatchEvent, History as Past};

use crate::Mutant;
use crate::chance::Chance;
use crate::check::history::History;
use crate::check::log::{LogCheck, Mirror, Written};
use crate::check::model::{Model, Said};
use crate::clients::{Answer, Clients};
use crate::counts::Counts;
use crate::network::Network;
use crate::plan::Plan;
use crate::process::{Chore, Died, News, Process, Start, Work, Write, description, died, unless_full};
use crate::trace::{Note, Trace};
use crate::transfer::{self, Image};
use crate::trouble::End;

/// Leases revoked in one round.
const EXPIRED_MAX: usize = 16;

/// Ways into a process, of which each keeps its order: from a member, by its id; its heartbeats; and from
/// a client, by its request.
const HEARTBEATS: u64 = 100;
pub const CLIENTS: u64 = 1000;

/// A machine with its disk, and the member's process if it runs.
pub struct Host {
    /// The disk.
    pub disk: SimDisk,
    /// The process.
    pub process: Option<Box<Process>>,
    /// How many processes there were.
    pub lives: u64,
    /// The log as it is known to be on the disk.
    pub synced: Mirror,
    /// What was given to the disk since.
    pub unsynced: Vec<Written>,
    /// While the process stands still: what has come in, by where from.
    pub paused: Option<Vec<(u64, Task)>>,
    /// Until when the disk is slow.
    pub slow_until: u64,
    /// Whether it is one of the first members.
    pub is_first: bool,
    /// The context last used on heartbeats, for the mutant that uses only one.
    context: Option<bytes::Bytes>,
}

/// Something a host's process has to do.
pub enum Task {
    /// A heartbeat interval is over.
    Tick,
    /// The log's write is on the disk.
    Written,
    /// The machine applies what waits.
    Apply,
    /// The store is synced.
    Sync,
    /// Something that could wait.
    Chore,
    /// The hub delivers.
    Hub,
    /// A message has come.
    Message(Message),
    /// A message with a whole state has come.
    Image(Message, Arc<Image>),
    /// News for the member.
    Input(Input),
    /// A client's request has come.
    Request(u64),
    /// A request has come that another member takes this one for the leader to answer.
    Forwarded(u64),
}

/// Something that is going to happen.
#[allow(clippy::large_enum_variant, reason = "few exist at a time")]
pub enum Event {
    /// At a host; a life of 0 is any.
    Task {
        /// The host.
        host: u64,
        /// The process it is for.
        life: u64,
        /// Where it comes from.
        source: u64,
        /// What it is.
        task: Task,
    },
    /// A client makes its next request.
    Client(u64),
    /// A client waits no longer.
    Timeout(u64),
    /// An answer arrives.
    Answer(u64, Answer),
    /// A watcher reads.
    Watcher(usize),
    /// Trouble.
    Fault,
    /// The end of some trouble.
    End(End),
}

struct Due {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The world.
pub struct Cluster {
    /// What the seed decided.
    pub plan: Plan,
    /// All chance from here on.
    pub chance: Chance,
    /// Now, in microseconds.
    pub now: u64,
    /// The machines.
    pub hosts: BTreeMap<u64, Host>,
    /// The links.
    pub network: Network,
    /// The clients.
    pub clients: Clients,
    /// Whether there is trouble: clients are busy, and faults happen.
    pub is_troubled: bool,
    /// Checks the log.
    pub log: LogCheck,
    /// Checks the data.
    pub model: Model,
    /// Checks the answers.
    pub history: History,
    /// What happened.
    pub trace: Trace,
    /// How often.
    pub counts: Counts,
    /// Members whose removal was asked for.
    pub leaving: BTreeSet<u64>,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    first: Vec<machine::Member>,
}

impl Cluster {
    /// The cluster of a seed, not yet started.
    pub fn new(seed: u64, mutant: Option<Mutant>, trace: Trace) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::new(&mut chance.fork());
        let clients = Clients::new(&plan, &mut chance);
        Cluster {
            first: (1..=plan.members).map(description).collect(),
            log: LogCheck::new(plan.members),
            plan,
            chance,
            now: 0,
            hosts: BTreeMap::new(),
            network: Network::default(),
            clients,
            is_troubled: false,
            model: Model::default(),
            history: History::default(),
            trace,
            counts: Counts::default(),
            leaving: BTreeSet::new(),
            mutant,
            due: BinaryHeap::new(),
            order: 0,
        }
    }

    /// Notes something.
    pub fn note(&mut self, what: &'static str, at_member: u64, details: [u64; 3]) {
        self.trace.note(Note {
            at: self.now,
            what,
            at_member,
            details,
        });
    }

    /// Lets something happen after a while.
    pub fn after(&mut self, us: u64, event: Event) {
        self.order += 1;
        self.due.push(Reverse(Due {
            at: self.now + us,
            order: self.order,
            event,
        }));
    }

    /// Lets this life of a host's process do something after a while.
    fn task(&mut self, us: u64, host: u64, life: u64, task: Task) {
        let source = 0;
        self.after(
            us,
            Event::Task {
                host,
                life,
                source,
                task,
            },
        );
    }

    /// Lets time pass.
    pub fn run_until(&mut self, end: u64) {
        while self.due.peek().is_some_and(|due| due.0.at <= end) {
            let Some(Reverse(due)) = self.due.pop() else { break };
            self.now = due.at;
            self.counts.events += 1;
            match due.event {
                Event::Task {
                    host,
                    life,
                    source,
                    task,
                } => self.dispatch(host, life, source, task),
                Event::Client(client) => self.client(client),
                Event::Timeout(op) => self.timeout(op),
                Event::Answer(op, answer) => self.answer(op, answer),
                Event::Watcher(watcher) => self.watcher(watcher),
                Event::Fault => self.fault(),
                Event::End(end) => self.end(end),
            }
        }
        self.now = end;
    }

    // Hosts.

    /// A machine with an empty disk.
    pub fn add_host(&mut self, id: u64, is_first: bool) {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/data")).expect("a new disk works");
        disk.settle();
        let host = Host {
            disk,
            process: None,
            lives: 0,
            synced: Mirror::default(),
            unsynced: Vec::new(),
            paused: None,
            slow_until: 0,
            is_first,
            context: None,
        };
        self.hosts.insert(id, host);
        self.start(id);
    }

    /// A host that is known to be there.
    pub fn host(&mut self, id: u64) -> &mut Host {
        self.hosts.get_mut(&id).expect("a host")
    }

    /// Starts a host's process, unless it runs.
    pub fn start(&mut self, id: u64) {
        let seed = self.chance.number();
        let host = self.hosts.get_mut(&id).expect("a host");
        if host.process.is_some() {
            return;
        }
        host.lives += 1;
        let life = host.lives;
        let start = Start {
            plan: &self.plan,
            id,
            first: if host.is_first { &self.first } else { &[] },
            life,
            seed,
            now_us: self.now,
        };
        let opened = match Process::open(&host.disk, &start) {
            Ok(opened) => opened,
            Err(died) => return self.died(id, died),
        };
        opened
            .found
            .check_recovered(&host.synced, &host.unsynced, self.plan.members);
        host.synced = opened.found;
        host.unsynced.clear();
        host.context = None;
        host.process = Some(Box::new(opened.process));
        self.note("starts", id, [life, 0, 0]);
        let tick = self.chance.below(self.plan.tick_ms * 1000);
        self.task(tick, id, life, Task::Tick);
        self.task(10_000, id, life, Task::Chore);
        self.with(id, |_, _| Ok(()));
    }

    /// Ends a host's process at once.
    pub fn kill(&mut self, id: u64) {
        let host = self.host(id);
        let backlog = host.paused.take();
        host.process = None;
        for (_, task) in backlog.into_iter().flatten() {
            self.undeliverable(id, task);
        }
    }

    /// A process ended by itself: the power went in an operation of its disk, or the disk is full.
    fn died(&mut self, id: u64, died: Died) {
        let lost_power = self.host(id).disk.crashed();
        assert!(lost_power || died.is_full(), "{id} can not go on: {}", died.0);
        match lost_power {
            true => {
                self.note("power goes in an operation", id, [0; 3]);
                self.lose_power(id);
            }
            false => {
                self.note("ends for want of space", id, [0; 3]);
                self.counts.full_disks += 1;
                self.kill(id);
            }
        }
        let down = self.chance.within(1_000, 300_000);
        self.after(down, Event::End(End::Restart(id)));
    }

    /// Lets a host's process do something, and then all that follows.
    fn with(&mut self, id: u64, act: impl FnOnce(&mut Self, &mut Process) -> Result<(), Died>) {
        let Some(mut process) = self.host(id).process.take() else {
            return;
        };
        match act(self, &mut process).and_then(|()| self.round(id, &mut process)) {
            Ok(()) => self.host(id).process = Some(process),
            Err(died) => {
                drop(process);
                self.died(id, died);
            }
        }
    }

    fn dispatch(&mut self, id: u64, life: u64, source: u64, task: Task) {
        let Some(host) = self.hosts.get_mut(&id) else {
            return;
        };
        let alive = host.process.as_ref().map(|process| process.life);
        if alive.is_none() || life != 0 && alive != Some(life) {
            return self.undeliverable(id, task);
        }
        if host.disk.crashed() {
            self.undeliverable(id, task);
            return self.died(id, Died("its power is gone".to_owned()));
        }
        if let Some(backlog) = &mut host.paused {
            if !matches!(task, Task::Tick) || !backlog.iter().any(|(_, it)| matches!(it, Task::Tick)) {
                backlog.push((source, task));
            }
            return;
        }
        self.perform(id, task);
    }

    /// What has come in while a process stood still is there at once when it goes on. What came one way
    /// stays in order; one way does not wait for another, however much came there.
    pub fn resume(&mut self, id: u64) {
        let Some(backlog) = self.host(id).paused.take() else {
            return;
        };
        self.note("resumes", id, [backlog.len() as u64, 0, 0]);
        let mut ways: BTreeMap<u64, VecDeque<Task>> = BTreeMap::new();
        for (source, task) in backlog {
            ways.entry(source).or_default().push_back(task);
        }
        while !ways.is_empty() {
            let sources: Vec<u64> = ways.keys().copied().collect();
            let source = self.chance.pick(&sources);
            match ways.get_mut(&source).and_then(VecDeque::pop_front) {
                Some(task) => self.task(0, id, 0, task),
                None => drop(ways.remove(&source)),
            }
        }
    }

    /// Nobody is there to take it.
    fn undeliverable(&mut self, id: u64, task: Task) {
        match task {
            Task::Message(message) => self.lost(message.from, id),
            Task::Image(message, _) => self.snapshot_sent(message.from, id, false),
            _ => {}
        }
    }

    /// A sender learns that a message was lost, perhaps.
    fn lost(&mut self, from: u64, to: u64) {
        if self.chance.one_in(4) {
            let input = Input::Unreachable(types::MemberId(to));
            self.task(1000, from, 0, Task::Input(input));
        }
    }

    fn snapshot_sent(&mut self, from: u64, to: u64, arrived: bool) {
        let to = types::MemberId(to);
        self.task(1000, from, 0, Task::Input(Input::SnapshotSent { to, arrived }));
    }

    // A process's loops.

    fn perform(&mut self, id: u64, task: Task) {
        match task {
            Task::Tick => self.with(id, |world, process| world.tick(id, process)),
            Task::Written => self.with(id, |world, process| world.written(id, process)),
            Task::Apply => self.apply(id),
            Task::Sync => self.with(id, |world, process| match process.data.store.sync_step() {
                Err(SyncError::NoSpace(_)) => {
                    world.task(20_000, id, process.life, Task::Sync);
                    Ok(())
                }
                synced => {
                    process.is_dirty = false;
                    synced.map_err(died("syncing the store"))
                }
            }),
            Task::Chore => self.with(id, |world, process| world.chore(id, process)),
            Task::Hub => self.with(id, |_, process| turn_hub(process)),
            Task::Message(message) => self.deliver(id, message),
            Task::Image(message, image) => self.with(id, |world, process| {
                if let Err(died) = transfer::receive(&world.host(id).disk, &image) {
                    // Its connection breaks.
                    world.snapshot_sent(message.from, id, false);
                    return unless_full(Err(died));
                }
                let index = transfer::metadata(&image.snapshot).index;
                world.note("receives a state", id, [message.from, index, 0]);
                world.snapshot_sent(message.from, id, true);
                world.step(process, Input::Message(message));
                Ok(())
            }),
            Task::Input(input) => self.with(id, |world, process| {
                world.step(process, input);
                Ok(())
            }),
            Task::Request(op) => self.with(id, |world, process| {
                world.request(id, process, op);
                Ok(())
            }),
            Task::Forwarded(op) => self.with(id, |world, process| {
                world.ask_index(process, op);
                Ok(())
            }),
        }
    }

    /// Gives the member an input.
    pub fn step(&self, process: &mut Process, input: Input) {
        process.member.step(process.now_ms(self.now), input);
    }

    fn tick(&mut self, id: u64, process: &mut Process) -> Result<(), Died> {
        self.task(self.plan.tick_ms * 1000, id, process.life, Task::Tick);
        self.step(process, Input::Tick);
        let now_ms = process.now_ms(self.now);
        process.hub.tick(now_ms);
        let expired = process.data.lessor.lock().expired(now_ms, EXPIRED_MAX);
        for lease in expired {
            self.note("lease runs out", id, [lease.0 as u64, 0, 0]);
            let request_id = self.clients.new_request();
            self.clients.promises.expires(request_id, lease.0);
            let request = InternalRaftRequest {
                header: Some(RequestHeader {
                    id: request_id,
                    ..Default::default()
                }),
                lease_revoke: Some(LeaseRevokeRequest { id: lease.0 }),
                ..Default::default()
            };
            self.propose(process, &request, true);
        }
        Ok(())
    }

    /// Proposes a request that carries its id.
    pub fn propose(&self, process: &mut Process, request: &InternalRaftRequest, urgent: bool) {
        let proposal = Proposal {
            id: request.header.as_ref().map_or(0, |header| header.id),
            payload: Payload::Request(request.encode_to_vec().into()),
            urgent,
            only_in: urgent.then(|| process.member.status().term),
        };
        self.step(process, Input::Propose(vec![proposal]));
    }

    /// Takes what the member wants done, until it wants nothing.
    fn round(&mut self, id: u64, process: &mut Process) -> Result<(), Died> {
        while process.member.has_effects() {
            let effects = process.member.take_effects();
            process.rounds += 1;
            if process.rounds.is_multiple_of(16) {
                process.member.consensus().check();
            }
            let mut early = Vec::new();
            if let Some(append) = &effects.append {
                let written = Written::from(append);
                process.log.write(&written);
                self.log.append(id, &process.log, &written);
                let changes = append
                    .entries
                    .iter()
                    .filter(|_| self.mutant == Some(Mutant::EarlyConfChange));
                early.extend(
                    changes.filter_map(|entry| Some((entry.index, consensus::change_of(entry)?.ok()?))),
                );
            }
            let (before, now) = (process.status, effects.status);
            self.log.status(id, &before, &now, &process.log);
            if (before.term, before.role, before.leader) != (now.term, now.role, now.leader) {
                let leader = now.leader.map_or(0, |leader| leader.0);
                self.note("term, role, leader", id, [now.term, now.role as u64, leader]);
                process.hub.set_term(now.term);
            }
            process.status = now;
            for entry in &effects.committed {
                let holds = |voter: u64| {
                    self.hosts
                        .get(&voter)
                        .is_some_and(|host| host.synced.holds(entry.index, entry.term))
                };
                if self.log.commit(id, now.term, entry, holds)
                    && let Some(request) = self.model.apply(entry)
                {
                    self.clients.promises.ends(request, self.now);
                }
            }
            if let Some(append) = effects.append {
                process.writes.push_back(Write::Append(append));
            }
            effects.send.into_iter().for_each(|message| self.send(message));
            for message in effects.send_snapshots {
                self.send_snapshot(id, process, message)?;
            }
            process.work.extend(effects.restore.map(Work::Install));
            process
                .work
                .extend(effects.committed.into_iter().map(Work::Apply));
            for (ticket, outcome) in effects.reads {
                if let Some(op) = process.readers.remove(&ticket) {
                    match outcome {
                        Ok(_) => self.serve(process, op),
                        Err(_) => self.reply(op, Answer::Failed),
                    }
                }
            }
            for (request, _) in effects.refused {
                self.history.refused(request);
                if let Some(op) = process.pending.remove(&request) {
                    self.reply(op, Answer::Failed);
                }
            }
            let now_ms = process.now_ms(self.now);
            match effects.lessor {
                Some(member::Lessor::Promote) => {
                    process.data.lessor.lock().promote(now_ms, 10 * self.plan.tick_ms);
                }
                Some(member::Lessor::Demote) => process.data.lessor.lock().demote(),
                None => {}
            }
            if !early.is_empty() {
                let input = Input::Applied {
                    index: process.data.applied,
                    conf_changes: early,
                };
                self.step(process, input);
            }
            self.start_loops(id, process);
        }
        self.start_loops(id, process);
        self.check_conf(id, process);
        Ok(())
    }

    /// A configuration takes effect when its entry is applied, not before and not after.
    fn check_conf(&self, id: u64, process: &Process) {
        let applied = process.member.status().applied;
        if applied >= process.log.snapshot.0 && applied > 0 {
            assert_eq!(
                process.member.conf_state(),
                self.log.conf_at(applied),
                "the configuration of {id}, which has applied {applied}"
            );
        }
    }

    /// Lets the log and the machine begin, if they have something to do.
    fn start_loops(&mut self, id: u64, process: &mut Process) {
        if process.writing.is_none() && !process.writes.is_empty() {
            let writes: Vec<Write> = process.writes.drain(..).collect();
            if self.mutant == Some(Mutant::EarlyAcknowledgement) {
                self.acknowledge_early(process, &writes);
            }
            process.writing = Some(writes);
            let mut took = self.chance.within(self.plan.sync_us / 4, 2 * self.plan.sync_us);
            if self.host(id).slow_until > self.now {
                took += self.chance.below(20 * self.plan.tick_ms * 1000);
            }
            self.task(took, id, process.life, Task::Written);
        }
        if !process.is_applying && !process.work.is_empty() {
            process.is_applying = true;
            let took = self.chance.within(20, 1000);
            self.task(took, id, process.life, Task::Apply);
        }
    }

    /// The mutant: promises are sent and counted as kept before they are on the disk.
    fn acknowledge_early(&mut self, process: &mut Process, writes: &[Write]) {
        let appends = writes.iter().filter_map(|write| match write {
            Write::Append(append) => Some(append),
            _ => None,
        });
        for append in appends {
            append
                .send_after
                .iter()
                .for_each(|message| self.send(message.clone()));
            self.step(process, Input::Persisted(append.number));
        }
    }

    /// The log's loop: one write and one sync for all that waited.
    fn written(&mut self, id: u64, process: &mut Process) -> Result<(), Died> {
        let (mut persisted, mut recorded, mut promises) = (None, None, Vec::new());
        for write in process.writing.take().unwrap_or_default() {
            match write {
                Write::Append(append) => {
                    if let Some(snapshot) = &append.snapshot {
                        let saved = process.snaps.save(snapshot);
                        saved.map_err(died("saving a snapshot"))?;
                        process.wal.save_snapshot(&marker(&transfer::metadata(snapshot)));
                    }
                    process.wal.append(&append.entries, append.hard_state.as_ref());
                    self.host(id).unsynced.push(Written::from(&append));
                    persisted = Some(append.number);
                    promises.extend(append.send_after);
                }
                Write::Snapshot(metadata) => {
                    process.wal.save_snapshot(&marker(&metadata));
                    recorded = Some(metadata);
                }
            }
        }
        // A commit index alone may wait for company.
        let waits = process.wal.holds_back() && self.chance.one_in(2);
        if !waits && process.wal.sync().map_err(died("writing the log"))?.durable {
            let host = self.host(id);
            for written in std::mem::take(&mut host.unsynced) {
                host.synced.write(&written);
            }
        }
        if self.mutant != Some(Mutant::EarlyAcknowledgement) {
            promises.into_iter().for_each(|message| self.send(message));
            if let Some(number) = persisted {
                self.step(process, Input::Persisted(number));
            }
        }
        if let Some(snapshot) = recorded {
            let released = process.wal.release_to(snapshot.index);
            released.map_err(died("releasing the log"))?;
            let purged = process.snaps.purge(&snapshot, self.plan.snapshots_kept);
            purged.map_err(died("removing snapshots"))?;
        }
        Ok(())
    }

    /// The apply loop: some entries, or a whole state.
    fn apply(&mut self, id: u64) {
        let Some(process) = &mut self.host(id).process else {
            return;
        };
        process.is_applying = false;
        self.with(id, |world, process| match process.work.pop_front() {
            Some(Work::Install(snapshot)) => world.install(id, process, &snapshot),
            None => Ok(()),
            Some(work) => {
                process.work.push_front(work);
                world.apply_batch(id, process)
            }
        });
    }

    fn install(&mut self, id: u64, process: &mut Process, snapshot: &Snapshot) -> Result<(), Died> {
        let index = transfer::metadata(snapshot).index;
        self.note("installs a state", id, [index, 0, 0]);
        self.counts.installed += 1;
        self.counts.watched_across += self.watchers_of(id);
        process.install(&self.host(id).disk, snapshot)?;
        self.log.applied(id, index, &process.data.conf_state);
        let wait = self.chance.within(10, 2000);
        self.task(wait, id, process.life, Task::Hub);
        let removed = process.data.removed.clone();
        self.step(process, Input::Installed { index, removed });
        Ok(())
    }

    fn apply_batch(&mut self, id: u64, process: &mut Process) -> Result<(), Died> {
        let mut left = self.chance.within(1, 20);
        let (mut conf_changes, mut answers) = (Vec::new(), Vec::new());
        let (mut last, mut compacted) = (None, false);
        while left > 0 && matches!(process.work.front(), Some(Work::Apply(_))) {
            let Some(Work::Apply(entry)) = process.work.pop_front() else {
                break;
            };
            left -= 1;
            let now_ms = process.now_ms(self.now);
            let data = &mut process.data;
            assert_eq!(entry.index, data.applied + 1, "{id} applies entries in order");
            data.applied = entry.index;
            let applied = data.machine.apply(&mut data.head, &data.lessor, &entry, now_ms);
            let applied = applied.map_err(died("applying"))?;
            let said = said(&applied.outcome);
            let expected = self.model.expected(entry.index);
            if entry.r#type == 0 {
                assert_eq!(
                    (said, applied.revision),
                    (expected.said, expected.revision),
                    "entry {}",
                    entry.index
                );
            }
            match applied.effect {
                Effect::ConfChange(change) => {
                    data.conf_state = consensus::apply_conf_change(&data.conf_state, &change)
                        .map_err(died("changing the configuration"))?;
                    conf_changes.push((entry.index, change));
                }
                Effect::Compaction(_) => compacted = true,
                _ => {}
            }
            self.log.applied(id, entry.index, &data.conf_state);
            if let Some(op) = process.pending.remove(&applied.request_id) {
                answers.push((
                    op,
                    Answer::Wrote {
                        index: entry.index,
                        said,
                        revision: applied.revision,
                    },
                ));
            }
            last = Some((entry.index, entry.term));
        }
        let Some((index, term)) = last else { return Ok(()) };
        self.publish(id, process, index, term);
        if compacted {
            let compacted = process.data.mvcc.compacted();
            process.feed.push_back(News::Compacted(compacted));
            process.chores.push_back(Chore::Compact(Cursor::default()));
        }
        if index >= process.snapshot_index + self.plan.snapshot_count {
            process.snapshot_index = index;
            process.chores.push_back(Chore::RaftSnapshot);
        }
        for (op, answer) in answers {
            self.reply(op, answer);
        }
        self.step(process, Input::Applied { index, conf_changes });
        Ok(())
    }

    fn publish(&mut self, id: u64, process: &mut Process, index: u64, term: u64) {
        let data = &mut process.data;
        let batch = data.head.seal(index, term, Some(data.conf_state.clone()));
        let (revision, compacted) = (batch.commit.revision, batch.commit.compact_revision);
        let changes = batch.changes.clone();
        data.store.append(batch);
        data.mvcc.publish(revision, compacted);
        if !changes.is_empty() {
            process.feed.push_back(News::Published(revision, changes));
            let wait = self.chance.within(10, 2000);
            self.task(wait, id, process.life, Task::Hub);
        }
        if !std::mem::replace(&mut process.is_dirty, true) {
            let wait = self.chance.within(5_000, 60_000);
            self.task(wait, id, process.life, Task::Sync);
        }
    }

    /// The housekeeper: a piece of what could wait.
    fn chore(&mut self, id: u64, process: &mut Process) -> Result<(), Died> {
        let wait = self.chance.within(1_000, 10_000);
        self.task(wait, id, process.life, Task::Chore);
        match process.chores.pop_front() {
            Some(Chore::Compact(mut cursor)) => {
                let step = process
                    .data
                    .mvcc
                    .compact_step(&mut cursor, 1 + self.chance.below(5) as usize);
                process.data.store.forget(&step.dropped);
                if !step.done {
                    process.chores.push_front(Chore::Compact(cursor));
                }
            }
            Some(Chore::RaftSnapshot) => unless_full(self.raft_snapshot(id, process))?,
            None if !process.preparer.is_ready() => {
                unless_full(process.preparer.prepare().map_err(died("preparing")))?
            }
            None => {
                let budget = self.chance.within(100, 4000);
                let rewritten = process.data.store.rewrite_step(budget).map(drop);
                unless_full(rewritten.map_err(died("rewriting")))?;
            }
        }
        Ok(())
    }

    fn raft_snapshot(&mut self, id: u64, process: &mut Process) -> Result<(), Died> {
        process
            .data
            .store
            .sync_step()
            .map_err(died("syncing the store"))?;
        let commit = process.data.store.synced();
        let metadata = SnapshotMetadata {
            conf_state: commit.conf_state.clone(),
            index: commit.applied_index,
            term: commit.term,
        };
        self.note("raft snapshot", id, [metadata.index, metadata.term, 0]);
        self.counts.raft_snapshots += 1;
        let snapshot = Snapshot {
            data: None,
            metadata: Some(metadata.clone()),
        };
        let saved = process.snaps.save(&snapshot);
        saved.map_err(died("saving a snapshot"))?;
        process.writes.push_back(Write::Snapshot(metadata.clone()));
        self.step(process, Input::SnapshotDone(metadata));
        Ok(())
    }

    // The network.

    fn send(&mut self, mut message: Message) {
        let (from, to) = (message.from, message.to);
        if self.mutant == Some(Mutant::ReusedReadContext) {
            self.reuse_context(&mut message);
        }
        self.counts.messages += 1;
        // A proposal that came twice would be carried out twice, in etcd too: streams do not repeat.
        let once = message.r#type() == MessageType::MsgProp;
        let arrivals = self
            .network
            .carry(&mut self.chance, &self.plan, self.now, (from, to), once);
        if arrivals.is_empty() {
            self.counts.lost += 1;
            return self.lost(from, to);
        }
        let source = way(&message);
        for at in arrivals {
            let task = Task::Message(message.clone());
            self.after(
                at - self.now,
                Event::Task {
                    host: to,
                    life: 0,
                    source,
                    task,
                },
            );
        }
    }

    /// The mutant: a leader has one context for all its questions, so an old echo answers a new one.
    fn reuse_context(&mut self, message: &mut Message) {
        let is_question = message.r#type() == MessageType::MsgHeartbeat;
        if is_question && let Some(context) = message.context.take().filter(|it| !it.is_empty()) {
            self.host(message.from).context = Some(context);
            message.context = Some(bytes::Bytes::from_static(b"the one!"));
        }
    }

    fn deliver(&mut self, id: u64, mut message: Message) {
        if !self.network.is_open(message.from, id) {
            return self.lost(message.from, id);
        }
        let name = message.r#type().as_str_name();
        self.note(name, id, [message.from, message.term, message.index]);
        if message.r#type() == MessageType::MsgHeartbeatResp
            && message.context.as_deref() == Some(b"the one!")
        {
            message.context = self.host(id).context.clone();
        }
        self.with(id, |world, process| {
            world.step(process, Input::Message(message));
            Ok(())
        });
    }

    fn send_snapshot(&mut self, id: u64, process: &mut Process, mut message: Message) -> Result<(), Died> {
        let to = message.to;
        let image = Arc::new(transfer::take(&process.data.store, process.compacted())?);
        message.snapshot = Some(image.snapshot.clone());
        let SnapshotMetadata { index, term, .. } = transfer::metadata(&image.snapshot);
        self.note("sends a state", id, [to, index, term]);
        self.counts.sent += 1;
        let took = self.chance.within(1_000, 50_000);
        let is_lost = !self.network.is_open(id, to) || self.chance.permille(self.plan.loss);
        match is_lost || !self.hosts.contains_key(&to) {
            true => self.snapshot_sent(id, to, false),
            false => {
                let task = Task::Image(message, image);
                self.after(
                    took,
                    Event::Task {
                        host: to,
                        life: 0,
                        source: id,
                        task,
                    },
                );
            }
        }
        Ok(())
    }
}

/// Which way a message takes: heartbeats and their answers have a lane of their own.
fn way(message: &Message) -> u64 {
    match message.r#type() {
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResp => HEARTBEATS + message.from,
        _ => message.from,
    }
}

fn marker(metadata: &SnapshotMetadata) -> walpb::Snapshot {
    walpb::Snapshot {
        index: metadata.index,
        term: metadata.term,
        conf_state: metadata.conf_state.clone(),
    }
}

fn said<E>(outcome: &Result<Outcome, E>) -> Said {
    match outcome {
        Ok(Outcome::DeleteRange(response)) => Said::Deleted(response.deleted),
        Ok(Outcome::Txn(response)) => Said::Succeeded(response.succeeded),
        Ok(_) => Said::Done,
        Err(_) => Said::Refused,
    }
}

/// The hub hears what was published, and reads some history for those who are behind.
fn turn_hub(process: &mut Process) -> Result<(), Died> {
    let mvcc = process.data.mvcc.clone();
    let mut unreadable = None;
    let previous = &mut |key: &bytes::Bytes, revision: i64| {
        let previous = mvcc.previous(key, revision + 1, Wait::Yes);
        previous.unwrap_or_else(|error| {
            unreadable = Some(error);
            None
        })
    };
    let lost = std::mem::take(&mut process.lost);
    if lost > 0 {
        process.hub.overflow(lost);
    }
    while let Some(news) = process.feed.pop_front() {
        match news {
            News::Published(revision, changes) => process.hub.publish(revision, &events(changes), previous),
            News::Compacted(revision) => process.hub.compacted(revision),
        }
    }
    process.hub.collect();
    while let Some(job) = process.hub.next_job() {
        let mut reached = job.upto;
        let mut changes = Vec::new();
        let mut from = types::Revision::new(job.from, 0);
        loop {
            match mvcc.history(from, job.upto, job.max_bytes) {
                Ok(piece) => {
                    changes.extend(piece.changes);
                    match piece.next {
                        None => break,
                        Some(next) if next.main > job.from => {
                            reached = next.main - 1;
                            break;
                        }
                        Some(next) => from = next,
                    }
                }
                Err(mvcc::RangeError::Compacted) => {
                    reached = job.from - 1;
                    break;
                }
                Err(error) => return Err(Died(format!("reading history: {error:?}"))),
            }
        }
        changes.retain(|change| change.rev.main <= reached);
        let events = events(changes);
        let past = Past {
            events: &events,
            reached,
            compacted: mvcc.compacted(),
        };
        process.hub.history(job, past, previous);
    }
    unreadable.map_or(Ok(()), |error| Err(died("reading values")(error)))?;
    process.hub.check().map_err(Died)
}

fn events(changes: Vec<mvcc::Change>) -> Vec<WatchEvent> {
    let event = |change: mvcc::Change| {
        WatchEvent::parse(change.rev.main, change.tombstone, change.kv).expect("changes are key-value pairs")
    };
    changes.into_iter().map(event).collect()
}
