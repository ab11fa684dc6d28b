//! A cluster in one thread: participants, their disks and machines, and a network that does what it
//! likes. Beside it stands an observer that knows everything and checks, whenever something happens:
//!
//! * election safety: a term has one leader at most;
//! * log matching: entries with the same index and term are the same, and so is what precedes them;
//! * durability: an entry is committed only when a majority of the voters has it on disk;
//! * state machine safety: every member applies the same entries, in order, none twice, none left out;
//! * reads: a read index covers everything that was committed when the question was asked;
//! * read contexts: none crosses the network twice with different questions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use consensus::{
    Append, ConfChange, Config, Consensus, Effects, Restored, Role, apply_conf_change, change_of,
};
use prost::Message as _;
use proto::raftpb::{
    ConfChangeType, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use types::{Index, MemberId, Term};

/// SplitMix64.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

pub fn conf_change(kind: ConfChangeType, node_id: u64, context: &'static [u8]) -> ConfChange {
    ConfChange::V1(proto::raftpb::ConfChange {
        r#type: kind as i32,
        node_id,
        context: Some(Bytes::from_static(context)),
        id: 1,
    })
}

/// What survives a crash.
#[derive(Clone, Default)]
struct Disk {
    hard_state: HardState,
    snapshot: SnapshotMetadata,
    entries: Vec<Entry>,
}

impl Disk {
    fn write(&mut self, append: &Append) {
        if let Some(metadata) = append
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.metadata.clone())
        {
            self.snapshot = metadata;
            self.entries.clear();
        }
        if let Some(first) = append.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(append.entries.iter().cloned());
        }
        if let Some(state) = append.hard_state {
            self.hard_state = state;
        }
    }

    fn holds(&self, index: Index, term: Term) -> bool {
        let is_it = |entry: &Entry| entry.index == index && entry.term == term;
        index <= self.snapshot.index || self.entries.iter().any(is_it)
    }
}

/// The state machine: how far it is, and the configuration there. What it holds is the same for all
/// members and known to the observer.
#[derive(Clone, Default)]
pub struct Machine {
    pub applied: Index,
    pub conf: ConfState,
}

enum Work {
    Apply(Entry),
    Install(Snapshot),
}

pub struct Node {
    pub id: u64,
    /// `None` while the process is down.
    pub raft: Option<Consensus>,
    disk: Disk,
    /// Written, not yet durable.
    appends: VecDeque<Append>,
    work: VecDeque<Work>,
    pub machine: Machine,
    /// The machine as of its last flush to disk.
    flushed: Machine,
    lives: u64,
    /// Does not run: neither ticks nor receives, like a stopped process.
    pub paused: bool,
    /// Answers to read requests: (token, index).
    pub answers: Vec<(u64, Index)>,
}

#[derive(Default)]
struct Observer {
    leaders: BTreeMap<Term, u64>,
    /// (index, term) -> (data, term of the entry before).
    entries: BTreeMap<(Index, Term), (Bytes, Term)>,
    /// `committed[i]` is the entry at index i + 1.
    committed: Vec<Entry>,
    /// The configuration after each change that took effect.
    confs: BTreeMap<Index, ConfState>,
    /// What was committed when a read was asked, by (member, token).
    reads: BTreeMap<(u64, u64), Index>,
    contexts: BTreeSet<Bytes>,
}

pub struct Cluster {
    pub seed: u64,
    pub chance: Chance,
    pub nodes: BTreeMap<u64, Node>,
    pub network: Vec<Message>,
    /// Pairs that cannot reach each other.
    pub cut: BTreeSet<(u64, u64)>,
    pub trace: Vec<String>,
    observer: Observer,
    /// The made-up entries at the beginning, committed by decree.
    bootstrapped: Index,
    proposals: u64,
    tokens: u64,
}

impl Cluster {
    /// Members 1 to `voters` of a new cluster, and `more` that have yet to be added.
    pub fn new(voters: u64, more: u64, seed: u64) -> Self {
        let mut cluster = Cluster {
            seed,
            chance: Chance(seed),
            nodes: BTreeMap::new(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            trace: Vec::new(),
            observer: Observer::default(),
            bootstrapped: voters,
            proposals: 0,
            tokens: 0,
        };
        let entries: Vec<_> = (1..=voters).map(bootstrap_entry).collect();
        for id in 1..=voters + more {
            let mut disk = Disk::default();
            if id <= voters {
                disk.entries = entries.clone();
                disk.hard_state = HardState {
                    term: 1,
                    vote: 0,
                    commit: voters,
                };
            }
            let node = Node {
                id,
                raft: None,
                disk,
                appends: VecDeque::new(),
                work: VecDeque::new(),
                machine: Machine::default(),
                flushed: Machine::default(),
                lives: 0,
                paused: false,
                answers: Vec::new(),
            };
            cluster.nodes.insert(id, node);
            cluster.start(id);
        }
        let mut before = 0;
        for entry in &entries {
            cluster.observer.note_entry(entry, before);
            before = entry.term;
        }
        cluster
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("the node exists")
    }

    /// The participant of a node that is up.
    pub fn raft(&mut self, id: u64) -> &mut Consensus {
        self.node(id).raft.as_mut().expect("the node is up")
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|node| node.raft.is_some() && !node.paused)
    }

    /// Whether the process of a node runs, and so has effects that can be taken.
    fn runs(&self, id: u64) -> bool {
        self.nodes[&id].raft.is_some()
    }

    pub fn committed(&self) -> &[Entry] {
        &self.observer.committed
    }

    /// The leader of the highest term that is up.
    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node| {
            let leadership = node.raft.as_ref().map(|raft| raft.status().leadership);
            leadership.filter(|leadership| leadership.role == Role::Leader)
        };
        let leaders = self
            .nodes
            .values()
            .filter_map(|node| leads(&node).map(|it| (it.term, node.id)));
        leaders.max().map(|(_, id)| id)
    }

    pub fn start(&mut self, id: u64) {
        let seed = self.seed;
        let observer = &self.observer;
        let node = self.nodes.get_mut(&id).expect("the node exists");
        node.lives += 1;
        if node.flushed.applied < node.disk.snapshot.index {
            // The snapshot's data came with it and is read back at start.
            node.flushed = observer.machine_at(&node.disk.snapshot);
        }
        node.machine = node.flushed.clone();
        let config = Config::new(MemberId(id), 10, seed ^ (id << 32) ^ node.lives);
        let restored = Restored {
            hard_state: node.disk.hard_state,
            snapshot: node.disk.snapshot.clone(),
            entries: node.disk.entries.clone(),
            applied: node.machine.applied,
            conf_state: node.machine.conf.clone(),
        };
        node.raft = Some(Consensus::new(config, restored).expect("what a disk holds can be restored"));
        self.log(format!("start {id}"));
    }

    /// Kills a process. Of what was written but not durable, a part may be on disk nevertheless.
    pub fn crash(&mut self, id: u64) {
        let survives = self.chance.below(self.nodes[&id].appends.len() + 1);
        let node = self.node(id);
        for append in node.appends.drain(..).take(survives) {
            node.disk.write(&append);
        }
        node.raft = None;
        node.work.clear();
        node.paused = false;
        self.log(format!("crash {id}, {survives} unconfirmed writes survive"));
    }

    // Inputs.

    pub fn tick(&mut self, id: u64) {
        self.raft(id).tick();
    }

    pub fn propose(&mut self, id: u64) -> bool {
        self.proposals += 1;
        let data = Bytes::from(format!("proposal {}", self.proposals));
        let taken = self.raft(id).propose(vec![data]).is_ok();
        self.log(format!("propose {} at {id}: {taken}", self.proposals));
        taken
    }

    pub fn change(&mut self, id: u64, change: &ConfChange) -> bool {
        let taken = self.raft(id).propose_conf_change(change).is_ok();
        self.log(format!("{change:?} at {id}: {taken}"));
        taken
    }

    /// Asks for a read index; returns the token.
    pub fn read(&mut self, id: u64) -> u64 {
        self.tokens += 1;
        let token = self.tokens;
        self.observer
            .reads
            .insert((id, token), self.observer.committed.len() as u64);
        self.raft(id).read_index(token);
        token
    }

    /// Delivers the message at this place in the network, if both ends are connected and up.
    pub fn deliver(&mut self, at: usize) {
        let message = self.network.remove(at);
        self.log(format!("deliver {}", brief(&message)));
        let (from, to) = (message.from, message.to);
        let is_snapshot = message.r#type() == MessageType::MsgSnap;
        let arrives = self.is_up(to) && !self.cut.contains(&(from.min(to), from.max(to)));
        if arrives {
            // A refusal is as good as a loss.
            let _ = self.raft(to).step(message);
        }
        if is_snapshot && self.runs(from) {
            self.raft(from).report_snapshot(MemberId(to), arrives);
        }
    }

    pub fn lose(&mut self, at: usize) {
        let message = self.network.remove(at);
        if message.r#type() == MessageType::MsgSnap && self.runs(message.from) {
            self.raft(message.from)
                .report_snapshot(MemberId(message.to), false);
        }
    }

    // What becomes of effects.

    /// Takes a node's effects and gives each to where it belongs.
    pub fn take(&mut self, id: u64) {
        while self.raft(id).has_effects() {
            let effects = self.raft(id).take_effects();
            self.raft(id).check();
            self.observe(id, &effects);
            let node = self.node(id);
            node.work.extend(effects.restore.map(Work::Install));
            node.work.extend(effects.committed.into_iter().map(Work::Apply));
            for state in effects.read_states {
                node.answers.push((state.token, state.index));
            }
            let machine = node.machine.clone();
            node.appends.extend(effects.append);
            self.network.extend(effects.send);
            for mut message in effects.send_snapshots {
                // The data is that of the machine, which may be ahead of the snapshot asked for.
                let metadata = self.observer.metadata_at(&machine);
                message.snapshot = Some(Snapshot {
                    data: None,
                    metadata: Some(metadata),
                });
                self.network.push(message);
            }
        }
    }

    fn observe(&mut self, id: u64, effects: &Effects) {
        let what = format!(
            "{id}: append {:?} send {:?} restore {} committed {:?} reads {:?} {:?}",
            effects.append.as_ref().map(|append| (
                append.number,
                append
                    .entries
                    .iter()
                    .map(|entry| (entry.index, entry.term))
                    .collect::<Vec<_>>(),
                append.hard_state,
                append.send_after.iter().map(brief).collect::<Vec<_>>(),
            )),
            effects.send.iter().map(brief).collect::<Vec<_>>(),
            effects.restore.is_some(),
            effects
                .committed
                .iter()
                .map(|entry| entry.index)
                .collect::<Vec<_>>(),
            effects.read_states,
            effects.leadership,
        );
        self.log(what);
        if let Some(leadership) = effects.leadership.filter(|it| it.role == Role::Leader) {
            let leader = *self.observer.leaders.entry(leadership.term).or_insert(id);
            self.require(
                leader == id,
                format!("{leader} and {id} lead term {}", leadership.term),
            );
        }
        if let Some(append) = &effects.append {
            self.observe_append(id, append);
        }
        for entry in &effects.committed {
            self.observe_commit(entry);
        }
        for state in &effects.read_states {
            let then = self.observer.reads[&(id, state.token)];
            let index = state.index;
            self.require(
                index >= then,
                format!("stale read at {id}: index {index}, committed was {then}"),
            );
        }
        let sent = effects.append.iter().flat_map(|append| &append.send_after);
        for message in effects.send.iter().chain(sent).chain(&effects.send_snapshots) {
            // Requests for the leader are passed on under the name of who made them.
            if message.r#type() == MessageType::MsgReadIndex && message.from == id {
                let context = message.entries[0].data.clone().expect("a context");
                let fresh = self.observer.contexts.insert(context);
                self.require(fresh, "a read context twice".into());
            }
        }
    }

    fn observe_append(&mut self, id: u64, append: &Append) {
        let node = &self.nodes[&id];
        // The entry before: in this append, in one under way, or on disk.
        let mut disk = node.disk.clone();
        node.appends.iter().for_each(|append| disk.write(append));
        disk.write(append);
        for entry in &append.entries {
            let before = match entry.index - 1 {
                index if index == disk.snapshot.index => disk.snapshot.term,
                index => {
                    let before = disk.entries.iter().find(|entry| entry.index == index);
                    before
                        .unwrap_or_else(|| panic!("a gap before {}", entry.index))
                        .term
                }
            };
            let matches = self.observer.note_entry(entry, before);
            self.require(
                matches,
                format!("two entries at {} of term {}", entry.index, entry.term),
            );
        }
    }

    fn observe_commit(&mut self, entry: &Entry) {
        let known = self.observer.committed.len() as u64;
        if entry.index <= known {
            let other = &self.observer.committed[entry.index as usize - 1];
            let same = other == entry;
            self.require(
                same,
                format!("two committed entries at {}: {other:?} {entry:?}", entry.index),
            );
            return;
        }
        self.require(
            entry.index == known + 1,
            format!("{} committed after {known}", entry.index),
        );
        // The leader may still have to apply the last change of the configuration.
        let confs = self.observer.confs.values().rev().take(2);
        let holds = |id: &&u64| self.nodes[id].disk.holds(entry.index, entry.term);
        let mut majorities =
            confs.map(|conf| conf.voters.iter().filter(holds).count() * 2 > conf.voters.len());
        let enough = majorities.any(|on_disk| on_disk) || entry.index <= self.bootstrapped;
        self.require(
            enough,
            format!("{} committed without being on enough disks", entry.index),
        );
        self.observer.committed.push(entry.clone());
    }

    /// The oldest write under way at this node is durable.
    pub fn persist(&mut self, id: u64) {
        let node = self.node(id);
        if let Some(append) = node.appends.pop_front() {
            node.disk.write(&append);
            self.network.extend(append.send_after);
            self.raft(id).persisted(append.number);
            self.log(format!("persisted {} at {id}", append.number));
        }
    }

    /// The machine does one piece of work.
    pub fn apply(&mut self, id: u64) {
        match self.node(id).work.pop_front() {
            Some(Work::Apply(entry)) => self.apply_entry(id, &entry),
            Some(Work::Install(snapshot)) => {
                let metadata = snapshot.metadata.expect("a snapshot has metadata");
                let machine = self.observer.machine_at(&metadata);
                let node = self.node(id);
                assert!(
                    machine.applied > node.machine.applied,
                    "a snapshot brings the machine forward"
                );
                node.machine = machine;
                self.raft(id).applied(metadata.index);
            }
            None => {}
        }
    }

    fn apply_entry(&mut self, id: u64, entry: &Entry) {
        let node = self.nodes.get_mut(&id).expect("the node exists");
        assert_eq!(
            entry.index,
            node.machine.applied + 1,
            "entries are applied in order"
        );
        node.machine.applied = entry.index;
        let raft = node.raft.as_mut().expect("the node is up");
        if let Some(change) = change_of(entry) {
            let change = change.expect("the harness proposes valid changes");
            let next = apply_conf_change(&node.machine.conf, &change);
            // The membership rule of this cluster: never back to one voter.
            let before = node.machine.conf.voters.len();
            let next = next.ok().filter(|next| next.voters.len() >= before.min(2));
            if let Some(next) = next {
                raft.apply_conf_change(entry.index, &change)
                    .expect("it was accepted");
                node.machine.conf = next.clone();
                let known = self
                    .observer
                    .confs
                    .entry(entry.index)
                    .or_insert_with(|| next.clone());
                assert_eq!(*known, next, "members agree on the configuration");
            }
        }
        raft.applied(entry.index);
        raft.check();
    }

    /// The machine of a node is flushed to disk.
    pub fn flush(&mut self, id: u64) {
        let node = self.node(id);
        node.flushed = node.machine.clone();
    }

    /// Takes a snapshot of what is flushed and drops the log before it.
    pub fn compact(&mut self, id: u64, catch_up: u64) {
        let node = &self.nodes[&id];
        if node.flushed.applied <= node.disk.snapshot.index {
            return;
        }
        let metadata = self.observer.metadata_at(&node.flushed);
        let node = self.node(id);
        node.disk.entries.retain(|entry| entry.index > metadata.index);
        node.disk.snapshot = metadata.clone();
        self.raft(id).compact(metadata, catch_up);
        self.raft(id).check();
        self.log(format!("compact {id}"));
    }

    // Longer stretches.

    /// Does everything there is to do, without letting time pass.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for id in self.ids() {
                if !self.is_up(id) {
                    continue;
                }
                let node = &self.nodes[&id];
                busy |= !node.appends.is_empty() || !node.work.is_empty();
                busy |= node.raft.as_ref().is_some_and(Consensus::has_effects);
                self.take(id);
                self.persist(id);
                self.apply(id);
            }
            while !self.network.is_empty() {
                busy = true;
                self.deliver_in_order();
            }
            if !busy {
                return;
            }
        }
        panic!("seed {}: the cluster does not come to rest", self.seed);
    }

    /// One round of everything but time, in which one machine stands still.
    pub fn work_but_for_the_machine_of(&mut self, slow: u64) {
        for id in self.ids() {
            self.take(id);
            self.persist(id);
            if id != slow {
                self.apply(id);
            }
        }
        self.deliver_in_order();
    }

    /// A snapshot of where the leader's machine is.
    pub fn snapshot_message(&self, leader: u64, to: u64) -> Message {
        let node = &self.nodes[&leader];
        let raft = node.raft.as_ref().expect("the leader is up");
        Message {
            r#type: MessageType::MsgSnap as i32,
            to,
            from: leader,
            term: raft.status().leadership.term,
            snapshot: Some(Snapshot {
                data: None,
                metadata: Some(self.observer.metadata_at(&node.machine)),
            }),
            ..Message::default()
        }
    }

    pub fn deliver_in_order(&mut self) {
        for message in std::mem::take(&mut self.network) {
            self.network.push(message);
            let last = self.network.len() - 1;
            self.deliver(last);
        }
    }

    /// Lets time pass, with everything done in between, until `done`.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Cluster) -> bool) {
        for _ in 0..400 {
            self.settle();
            if done(self) {
                return;
            }
            for id in self.ids() {
                if self.is_up(id) {
                    self.tick(id);
                }
            }
        }
        self.require(false, format!("never happened: {what}"));
    }

    pub fn elect(&mut self) -> u64 {
        self.run_until("a leader that all know", |cluster| {
            let leader = cluster.leader();
            let voters = leader
                .map(|id| cluster.nodes[&id].machine.conf.voters.clone())
                .unwrap_or_default();
            let knows = |id: &u64| {
                let raft = cluster.nodes[id].raft.as_ref();
                raft.is_none_or(|raft| raft.status().leadership.leader.map(|id| id.0) == leader)
            };
            leader.is_some() && voters.iter().all(knows)
        });
        self.leader().expect("there is one")
    }

    /// Some random events: mostly what a cluster does anyway, seldom trouble.
    pub fn surprise(&mut self, changes: bool) {
        let ids = self.ids();
        let id = ids[self.chance.below(ids.len())];
        let other = ids[self.chance.below(ids.len())];
        if self.chance.one_in(100) {
            self.trouble(id, other);
        }
        if !self.is_up(id) {
            return;
        }
        match self.chance.below(100) {
            0 => {
                let catch_up = self.chance.below(10) as u64;
                self.flush(id);
                self.compact(id, catch_up);
            }
            1 => self.flush(id),
            2 if changes => {
                let kind = ConfChangeType::try_from(self.chance.below(4) as i32).expect("a kind");
                self.change(id, &conf_change(kind, other, b"by chance"));
            }
            3 if self.chance.one_in(4) => self.raft(id).transfer_leader(MemberId(other)),
            4 if self.chance.one_in(2) => self.raft(id).leader_lost(MemberId(other)),
            4..=9 => {
                self.propose(id);
            }
            10..=13 => {
                self.read(id);
            }
            14..=17 => self.tick(id),
            18..=40 => self.persist(id),
            41..=65 => self.apply(id),
            _ => self.take(id),
        }
        for _ in 0..self.chance.below(5).min(self.network.len()) {
            self.deliver_any();
        }
    }

    /// Delivers mostly the oldest message, sometimes another, sometimes twice, sometimes none.
    fn deliver_any(&mut self) {
        let pick = if self.chance.one_in(3) {
            self.chance.below(self.network.len())
        } else {
            0
        };
        match self.chance.below(30) {
            0 => self.lose(pick),
            1 => self.network.push(self.network[pick].clone()),
            _ => self.deliver(pick),
        }
    }

    /// Makes or ends a crash, a pause or a cut. Ending is likelier, so that most run most of the time.
    fn trouble(&mut self, id: u64, other: u64) {
        let begins = self.chance.one_in(5);
        let pair = (id.min(other), id.max(other));
        match self.chance.below(3) {
            0 if !self.runs(id) => self.start(id),
            0 if begins => self.crash(id),
            1 if self.nodes[&id].paused || begins => self.node(id).paused ^= true,
            2 if !self.cut.remove(&pair) && begins => {
                self.cut.insert(pair);
            }
            _ => {}
        }
    }

    /// Ends all trouble and checks that the cluster goes on.
    pub fn recover(&mut self) {
        self.cut.clear();
        for id in self.ids() {
            self.node(id).paused = false;
            if !self.runs(id) {
                self.start(id);
            }
        }
        let leader = self.elect();
        let known = self.committed().len();
        self.run_until("a proposal is taken", |cluster| {
            let leader = cluster.leader().unwrap_or(leader);
            cluster.propose(leader);
            cluster.settle();
            cluster.committed().len() > known
        });
        self.run_until("everybody is at the same place", |cluster| {
            let leader = cluster.leader().unwrap_or(leader);
            let machine = &cluster.nodes[&leader].machine;
            let mut members = machine.conf.voters.iter().chain(&machine.conf.learners);
            members.all(|id| cluster.nodes[id].machine.applied == machine.applied)
        });
    }

    fn log(&mut self, what: String) {
        self.trace.push(what);
    }

    fn require(&self, holds: bool, what: String) {
        if !holds {
            let from = self.trace.len().saturating_sub(60);
            panic!("seed {}: {what}\n{}", self.seed, self.trace[from..].join("\n"));
        }
    }
}

impl Observer {
    /// Whether the entry is the one known at its place.
    fn note_entry(&mut self, entry: &Entry, before: Term) -> bool {
        let this = (entry.data.clone().unwrap_or_default(), before);
        *self
            .entries
            .entry((entry.index, entry.term))
            .or_insert_with(|| this.clone())
            == this
    }

    fn conf_at(&self, index: Index) -> ConfState {
        self.confs
            .range(..=index)
            .next_back()
            .map(|(_, conf)| conf.clone())
            .unwrap_or_default()
    }

    fn machine_at(&self, metadata: &SnapshotMetadata) -> Machine {
        let conf = self.conf_at(metadata.index);
        assert_eq!(
            metadata.conf_state.as_ref(),
            Some(&conf),
            "a snapshot has the configuration of its place"
        );
        Machine {
            applied: metadata.index,
            conf,
        }
    }

    fn metadata_at(&self, machine: &Machine) -> SnapshotMetadata {
        SnapshotMetadata {
            conf_state: Some(machine.conf.clone()),
            index: machine.applied,
            term: self.committed[machine.applied as usize - 1].term,
        }
    }
}

/// The made-up entry that adds a first member.
pub fn bootstrap_entry(id: u64) -> Entry {
    let change = proto::raftpb::ConfChange {
        r#type: ConfChangeType::ConfChangeAddNode as i32,
        node_id: id,
        context: Some(Bytes::from_static(b"{\"name\":\"first\"}")),
        id: 0,
    };
    Entry {
        term: 1,
        index: id,
        r#type: EntryType::EntryConfChange as i32,
        data: Some(change.encode_to_vec().into()),
    }
}

pub fn brief(message: &Message) -> String {
    format!(
        "{:?} {}->{} t{} i{} c{} n{}{}",
        message.r#type(),
        message.from,
        message.to,
        message.term,
        message.index,
        message.commit,
        message.entries.len(),
        if message.reject { " no" } else { "" },
    )
}
