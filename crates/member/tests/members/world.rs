//! Members, their disks and machines, and a network that loses nothing but what is cut.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use consensus::{ConfChange, Restored, apply_conf_change, change_of};
use member::{Config, Effects, Input, Lessor, Member, Payload, Proposal, ReadOutcome, Status, Ticket};
use prost::Message as _;
use proto::raftpb::{
    self, ConfChangeType, ConfState, Entry, HardState, Message, MessageType, SnapshotMetadata,
};
use types::{ErrorKind, Index, MemberId};

pub const TICK_MS: u64 = 100;

pub struct Place {
    pub member: Member,
    /// Appends not yet durable, if the disk stands still.
    pub appends: Vec<u64>,
    pub disk_stops: bool,
    /// Entries not yet applied, if the machine stands still.
    pub work: Vec<Entry>,
    pub machine_stops: bool,
    pub applied: Vec<Entry>,
    pub conf: ConfState,
    // What came out, in order.
    pub reads: Vec<ReadOutcome>,
    pub refused: Vec<(u64, ErrorKind)>,
    pub transfers: Vec<(Ticket, Result<(), ErrorKind>)>,
    pub lessor: Vec<Lessor>,
    /// Appends handed out.
    pub append_count: usize,
    pub last_status: Status,
}

pub struct World {
    pub now_ms: u64,
    pub places: BTreeMap<u64, Place>,
    pub network: Vec<Message>,
    pub sent: Vec<Message>,
    pub cut: BTreeSet<u64>,
    tickets: u64,
}

pub fn conf_change(kind: ConfChangeType, node_id: u64) -> ConfChange {
    ConfChange::V1(raftpb::ConfChange {
        r#type: kind as i32,
        node_id,
        ..Default::default()
    })
}

impl World {
    /// Members 1 to `voters` of a new cluster, and `more` that have yet to be added.
    pub fn new(voters: u64, more: u64) -> Self {
        let entries: Vec<_> = (1..=voters)
            .map(|id| {
                let first = raftpb::ConfChange {
                    node_id: id,
                    ..Default::default()
                };
                Entry {
                    term: 1,
                    index: id,
                    r#type: 1,
                    data: Some(first.encode_to_vec().into()),
                }
            })
            .collect();
        let place = |id: u64| {
            let restored = match id <= voters {
                true => Restored {
                    hard_state: HardState {
                        term: 1,
                        vote: 0,
                        commit: voters,
                    },
                    entries: entries.clone(),
                    ..Restored::default()
                },
                false => Restored::default(),
            };
            let raft = consensus::Config::new(MemberId(id), 10, id);
            Place {
                member: Member::new(Config::new(raft, TICK_MS), restored).expect("a new cluster"),
                appends: Vec::new(),
                disk_stops: false,
                work: Vec::new(),
                machine_stops: false,
                applied: Vec::new(),
                conf: ConfState::default(),
                reads: Vec::new(),
                refused: Vec::new(),
                transfers: Vec::new(),
                lessor: Vec::new(),
                append_count: 0,
                last_status: Status::default(),
            }
        };
        World {
            now_ms: 1_000_000,
            places: (1..=voters + more).map(|id| (id, place(id))).collect(),
            network: Vec::new(),
            sent: Vec::new(),
            cut: BTreeSet::new(),
            tickets: 0,
        }
    }

    /// With a leader that all know.
    pub fn led(voters: u64, more: u64) -> (Self, u64) {
        let mut world = World::new(voters, more);
        for _ in 0..100 {
            world.tick();
            if let Some(leader) = world.leader() {
                world.settle();
                return (world, leader);
            }
        }
        panic!("nobody was elected");
    }

    pub fn at(&mut self, id: u64) -> &mut Place {
        self.places.get_mut(&id).expect("a member")
    }

    pub fn leader(&self) -> Option<u64> {
        let mut leaders = self
            .places
            .values()
            .map(|place| place.member.status())
            .collect::<Vec<_>>();
        leaders.sort_by_key(|status| status.term);
        leaders.last().and_then(|status| status.leader).map(|id| id.0)
    }

    pub fn step(&mut self, id: u64, input: Input) {
        let now_ms = self.now_ms;
        self.at(id).member.step(now_ms, input);
    }

    pub fn propose(&mut self, id: u64, number: u64) {
        let payload = Payload::Request(Bytes::from(format!("request {number}")));
        self.step(
            id,
            Input::Propose(vec![Proposal {
                id: number,
                payload,
                urgent: false,
                only_in: None,
            }]),
        );
    }

    pub fn change(&mut self, id: u64, change: ConfChange) {
        let payload = Payload::ConfChange(change);
        self.step(
            id,
            Input::Propose(vec![Proposal {
                id: 0,
                payload,
                urgent: false,
                only_in: None,
            }]),
        );
    }

    pub fn read(&mut self, id: u64) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.step(id, Input::ReadIndex { ticket });
        ticket
    }

    pub fn transfer(&mut self, id: u64, to: u64) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.step(
            id,
            Input::TransferLeader {
                ticket,
                to: MemberId(to),
            },
        );
        ticket
    }

    pub fn outcome(&mut self, id: u64, ticket: Ticket) -> Option<Result<Index, ErrorKind>> {
        let mut outcomes = self
            .at(id)
            .reads
            .iter()
            .filter(|(of, _)| *of == ticket)
            .map(|(_, it)| *it);
        let outcome = outcomes.next();
        assert!(outcomes.next().is_none(), "a ticket is answered once");
        outcome
    }

    /// Takes a member's effects and does what they ask for.
    pub fn take(&mut self, id: u64) {
        while self.at(id).member.has_effects() {
            let effects = self.at(id).member.take_effects();
            self.at(id).member.consensus().check();
            self.handle(id, effects);
        }
    }

    fn handle(&mut self, id: u64, effects: Effects) {
        let place = self.places.get_mut(&id).expect("a member");
        place.last_status = effects.status;
        place.reads.extend(effects.reads);
        place.refused.extend(effects.refused);
        place.transfers.extend(effects.transfers);
        place.lessor.extend(effects.lessor);
        self.network.extend(effects.send);
        if let Some(append) = effects.append {
            place.append_count += 1;
            place.appends.push(append.number);
            self.network.extend(append.send_after);
        }
        if let Some(snapshot) = effects.restore {
            let metadata = snapshot.metadata.expect("a snapshot has metadata");
            place.conf = metadata.conf_state.expect("and a configuration");
            place.applied.clear();
            self.step(
                id,
                Input::Installed {
                    index: metadata.index,
                    removed: Vec::new(),
                },
            );
        }
        let place = self.at(id);
        place.work.extend(effects.committed);
        for message in effects.send_snapshots {
            let to = MemberId(message.to);
            self.network.push(message);
            self.step(id, Input::SnapshotSent { to, arrived: true });
        }
    }

    /// Lets the disk and the machine of a member do all that is there, unless they stand still.
    pub fn work(&mut self, id: u64) {
        let place = self.at(id);
        if !place.disk_stops {
            for number in std::mem::take(&mut place.appends) {
                self.step(id, Input::Persisted(number));
            }
        }
        let place = self.at(id);
        if !place.machine_stops && !place.work.is_empty() {
            let work = std::mem::take(&mut place.work);
            let mut conf_changes = Vec::new();
            for change in work
                .iter()
                .filter_map(|entry| Some((entry.index, change_of(entry)?.ok()?)))
            {
                place.conf = apply_conf_change(&place.conf, &change.1).expect("valid changes are proposed");
                conf_changes.push(change);
            }
            let index = work.last().expect("there is work").index;
            place.applied.extend(work);
            self.step(id, Input::Applied { index, conf_changes });
        }
    }

    /// Does everything there is to do, without letting time pass.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let ids: Vec<_> = self.places.keys().copied().collect();
            for id in ids {
                self.take(id);
                self.work(id);
            }
            let idle =
                |place: &Place| !place.member.has_effects() && (place.disk_stops || place.appends.is_empty());
            if self.network.is_empty() && self.places.values().all(idle) {
                return;
            }
            self.deliver();
        }
        panic!("the members do not come to rest");
    }

    pub fn deliver(&mut self) {
        for message in std::mem::take(&mut self.network) {
            self.sent.push(message.clone());
            if !self.cut.contains(&message.from) && !self.cut.contains(&message.to) {
                self.step(message.to, Input::Message(message));
            }
        }
    }

    /// Lets one tick pass and everything happen that it causes.
    pub fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let ids: Vec<_> = self.places.keys().copied().collect();
        ids.into_iter().for_each(|id| self.step(id, Input::Tick));
        self.settle();
    }

    pub fn ticks(&mut self, count: usize) {
        (0..count).for_each(|_| self.tick());
    }

    /// Messages of a type sent since the last call.
    pub fn count_sent(&mut self, kind: MessageType) -> usize {
        let count = self
            .sent
            .iter()
            .filter(|message| message.r#type() == kind)
            .count();
        self.sent.clear();
        count
    }

    pub fn snapshot_of(&self, id: u64) -> SnapshotMetadata {
        let place = &self.places[&id];
        let last = place.applied.last().expect("something is applied");
        SnapshotMetadata {
            index: last.index,
            term: last.term,
            conf_state: Some(place.conf.clone()),
        }
    }

    /// How often a request was applied at a member.
    pub fn times_applied(&self, id: u64, number: u64) -> usize {
        let data = Bytes::from(format!("request {number}"));
        self.places[&id]
            .applied
            .iter()
            .filter(|entry| entry.data.as_ref() == Some(&data))
            .count()
    }
}
