//! Trouble: what goes wrong, when it ends, and the quiet after it, in which everything has to be well.

use env::sim::Keep;
use machine::{MemberChange, Membership};
use member::Input;
use types::MemberId;

use crate::clients::Request;
use crate::cluster::{Cluster, Event, Task};
use crate::counts::{Counts, THIN};
use crate::plan::Fault;
use crate::process::description;

/// Members at most, those included that were removed.
const HOSTS_MAX: u64 = 8;

/// Trouble that ends.
pub enum End {
    /// A process is started again.
    Restart(u64),
    /// A process goes on.
    Resume(u64),
    /// There is room on a disk.
    Full(u64),
    /// Links work again.
    Links(Vec<(u64, u64)>),
}

impl Cluster {
    /// The whole run.
    pub fn run(&mut self) {
        for id in 1..=self.plan.members {
            self.add_host(id, true);
        }
        self.start_clients();
        self.become_quiet();
        for _ in 0..self.plan.rounds {
            self.is_troubled = true;
            self.after(0, Event::Fault);
            self.run_until(self.now + self.plan.trouble_ms * 1000);
            self.is_troubled = false;
            self.heal();
            self.become_quiet();
        }
        if self.chance.one_in(8) {
            self.outlive_leases();
        }
        self.note("all lose power", 0, [0; 3]);
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        ids.into_iter().for_each(|id| self.lose_power(id));
        self.heal();
        self.become_quiet();
    }

    /// Nobody renews leases any more, so they run out, with their keys, everywhere.
    fn outlive_leases(&mut self) {
        let patience = self.now + 10_000_000;
        while self.model.leases().next().is_some() {
            assert!(self.now < patience, "a lease does not run out");
            self.run_until(self.now + 100_000);
        }
        self.become_quiet();
    }

    /// What the run has covered, however it ended.
    pub fn tally(&mut self) -> Counts {
        let mut counts = std::mem::take(&mut self.counts);
        counts.virtual_ms = self.now / 1000;
        counts.lives = self.hosts.values().map(|host| host.lives).sum();
        counts.elections = self.log.elections();
        counts.entries = self.log.committed().len() as u64;
        counts.conf_changes = self.log.configurations();
        counts.compactions = self.model.compactions.len() as u64;
        counts.expired = self.clients.promises.ended();
        counts.watch_events = self.clients.events();
        counts.thin = u64::from(counts.written < THIN);
        counts
    }

    /// One fault, and the time of the next.
    pub fn fault(&mut self) {
        if !self.is_troubled || self.plan.faults.is_empty() {
            return;
        }
        let gap = self.chance.below(2 * self.plan.fault_gap_ms * 1000);
        self.after(gap, Event::Fault);
        let fault = self.chance.pick(&self.plan.faults);
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        let id = match self.chance.one_in(2) {
            true => self.leader().unwrap_or(ids[0]),
            false => self.chance.pick(&ids),
        };
        *self.counts.faults.entry(fault).or_default() += 1;
        let election_us = 10 * self.plan.tick_ms * 1000;
        let lasts = match (fault, self.chance.one_in(2)) {
            // Short enough not to be noticed, mostly.
            (fault, true) if fault != Fault::Pause => self.chance.within(1_000, election_us / 2),
            _ => self.chance.within(1_000, 4 * election_us),
        };
        match fault {
            Fault::Kill => {
                self.note("is killed", id, [0; 3]);
                self.kill(id);
                for other in ids.into_iter().filter(|other| *other != id) {
                    if self.network.is_open(id, other) && self.network.is_open(other, id) {
                        let task = Task::Input(Input::Gone(MemberId(id)));
                        self.after(
                            2000,
                            Event::Task {
                                host: other,
                                life: 0,
                                source: id,
                                task,
                            },
                        );
                    }
                }
                self.after(lasts, Event::End(End::Restart(id)));
            }
            Fault::PowerLoss => {
                self.lose_power(id);
                self.after(lasts, Event::End(End::Restart(id)));
            }
            Fault::TornWrite => {
                let op = self.chance.within(1, 30);
                self.host(id).disk.crash_at(op);
            }
            Fault::Pause => {
                self.note("stands still", id, [lasts, 0, 0]);
                self.host(id).paused.get_or_insert_default();
                self.after(lasts, Event::End(End::Resume(id)));
            }
            Fault::FullDisk => {
                let room = self.chance.below(16 << 10);
                self.note("has room left", id, [room, 0, 0]);
                let disk = &self.host(id).disk;
                disk.set_capacity(Some(disk.used() + room));
                self.after(lasts, Event::End(End::Full(id)));
            }
            Fault::SlowDisk => self.host(id).slow_until = self.now + lasts,
            Fault::Minority | Fault::Split | Fault::OneWay | Fault::SlowLink => {
                let links = self.links(fault, id, &ids);
                self.note("links fail", id, [links.len() as u64, fault as u64, 0]);
                match fault {
                    Fault::SlowLink => {
                        let extra = self.chance.below(election_us);
                        self.network.slow.extend(links.iter().map(|link| (*link, extra)));
                    }
                    _ => self.network.cuts.extend(links.iter().copied()),
                }
                self.after(lasts, Event::End(End::Links(links)));
            }
            Fault::Membership => self.change_members(id),
            Fault::Transfer => {
                let to = self.chance.pick(&ids);
                self.order(id, Request::Transfer(to));
            }
            Fault::FalseAlarm => {
                let task = Task::Input(Input::Gone(MemberId(self.chance.pick(&ids))));
                self.after(
                    0,
                    Event::Task {
                        host: id,
                        life: 0,
                        source: id,
                        task,
                    },
                );
            }
        }
    }

    fn links(&mut self, fault: Fault, id: u64, ids: &[u64]) -> Vec<(u64, u64)> {
        let side: Vec<u64> = match fault {
            Fault::Split => ids.iter().copied().filter(|_| self.chance.one_in(2)).collect(),
            Fault::Minority => {
                let leader = self.leader().unwrap_or(id);
                let friend = self.chance.pick(ids);
                if ids.len() > 3 && self.chance.one_in(2) {
                    vec![leader, friend]
                } else {
                    vec![leader]
                }
            }
            _ => vec![id],
        };
        let across = |(a, b): &(u64, u64)| side.contains(a) && !side.contains(b);
        let pairs = ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b)));
        let out: Vec<(u64, u64)> = pairs.filter(across).collect();
        let back = out.iter().map(|(a, b)| (*b, *a));
        match fault {
            Fault::OneWay if self.chance.one_in(2) => out,
            Fault::OneWay => back.collect(),
            _ => out.iter().copied().chain(back).collect(),
        }
    }

    /// Some trouble ends.
    pub fn end(&mut self, end: End) {
        match end {
            End::Restart(id) => self.start(id),
            End::Resume(id) => self.resume(id),
            End::Full(id) => self.host(id).disk.set_capacity(None),
            End::Links(links) => {
                for link in links {
                    self.network.cuts.remove(&link);
                    self.network.slow.remove(&link);
                }
            }
        }
    }

    /// A machine loses power, and finds what its disk kept.
    pub fn lose_power(&mut self, id: u64) {
        let keep = match self.chance.below(5) {
            0 => Keep::None,
            1 => Keep::All,
            2 => Keep::TornLast,
            _ => Keep::Subset(self.chance.number()),
        };
        self.note("loses power", id, [0; 3]);
        self.counts.power_losses += 1;
        self.kill(id);
        let host = self.host(id);
        host.disk = host.disk.after_crash(keep);
    }

    /// The leader of the newest term.
    pub fn leader(&self) -> Option<u64> {
        let processes = self
            .hosts
            .iter()
            .filter_map(|(id, host)| Some((id, host.process.as_ref()?)));
        let leaders = processes.filter(|(_, process)| process.status.role == consensus::Role::Leader);
        leaders
            .max_by_key(|(_, process)| process.status.term)
            .map(|(id, _)| *id)
    }

    fn change_members(&mut self, at: u64) {
        let Some(process) = &self.hosts[&at].process else {
            return;
        };
        let members: &Membership = process.data.machine.membership();
        let voters: Vec<u64> = members.voters().map(|member| member.id.0).collect();
        let learners: Vec<u64> = members
            .members()
            .filter(|it| it.is_learner)
            .map(|it| it.id.0)
            .collect();
        let all: Vec<u64> = members.members().map(|member| member.id.0).collect();
        // Of two voters one may be left in the dark when the other is removed: it is not told before it must
        // lead, and cannot lead before it is told. Raft leaves that to the operator, and so does etcd.
        let is_to_stay = |voter: &&u64| !self.leaving.contains(voter);
        let staying = self.log.conf().voters.iter().filter(is_to_stay).count();
        let next = self.hosts.len() as u64 + 1;
        let change = match self.chance.below(6) {
            0 | 1 if next <= HOSTS_MAX => MemberChange::Add(machine::Member {
                is_learner: self.chance.one_in(2),
                ..description(next)
            }),
            2 if !voters.is_empty() && staying > 2 => {
                MemberChange::Remove(MemberId(self.chance.pick(&voters)))
            }
            3 if !learners.is_empty() => MemberChange::Remove(MemberId(self.chance.pick(&learners))),
            4 if !learners.is_empty() => MemberChange::Promote(MemberId(self.chance.pick(&learners))),
            5 if !all.is_empty() => MemberChange::Update {
                id: MemberId(self.chance.pick(&all)),
                peer_urls: vec![format!("http://elsewhere{}:2380", self.chance.below(1000))],
            },
            _ => return,
        };
        match change {
            MemberChange::Add(_) => self.add_host(next, false),
            MemberChange::Remove(member) => drop(self.leaving.insert(member.0)),
            _ => {}
        }
        let request = self.clients.new_request();
        self.order(at, Request::Change(change.to_conf_change(request)));
    }

    /// Ends all trouble.
    pub fn heal(&mut self) {
        self.note("all is mended", 0, [0; 3]);
        self.network.cuts.clear();
        self.network.slow.clear();
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            self.host(id).slow_until = 0;
            self.host(id).disk.set_capacity(None);
            self.resume(id);
            self.start(id);
        }
    }

    /// Waits until all members are at the same place and take writes, and compares what they hold.
    pub fn become_quiet(&mut self) {
        let patience = self.now + 15_000_000 + 100 * 10 * self.plan.tick_ms * 1000;
        // The last faults may still have to strike.
        self.run_until(self.now + 20 * self.plan.tick_ms * 1000);
        let mut probes: Vec<u64> = Vec::new();
        loop {
            assert!(
                self.now < patience,
                "the cluster of {:?} does not come to rest: {}",
                self.log.conf().voters,
                self.unrest()
            );
            let members = self.members();
            let lost = probes
                .iter()
                .any(|probe| !self.clients.waits(*probe) && !self.model.requests.contains_key(probe));
            if probes.is_empty() || lost {
                probes = members.iter().map(|id| self.probe(*id)).collect();
            }
            self.run_until(self.now + 50_000);
            let done = probes.iter().all(|probe| self.model.requests.contains_key(probe));
            if done && self.all_answered(&probes) && self.unrest().is_empty() {
                break;
            }
        }
        self.check_equal();
    }

    /// The members of the newest configuration.
    fn members(&self) -> Vec<u64> {
        let conf = self.log.conf();
        let members = conf.voters.iter().chain(&conf.learners).copied();
        let members: Vec<u64> = members.filter(|id| self.hosts.contains_key(id)).collect();
        match members.is_empty() {
            true => self.hosts.keys().copied().collect(),
            false => members,
        }
    }

    /// What is not at rest yet.
    fn unrest(&self) -> String {
        let committed = self.log.committed().len() as u64;
        for id in self.members() {
            let host = &self.hosts[&id];
            let Some(process) = host.process.as_ref().filter(|_| !host.disk.crashed()) else {
                return format!("{id} does not run");
            };
            if process.data.applied < committed {
                let voters = process.member.conf_state().voters;
                let status = process.member.status();
                return format!(
                    "{id}, for which {voters:?} vote, has applied {} of {committed}: {status:?}",
                    process.data.applied
                );
            }
            if !process.chores.is_empty() {
                return format!("{id} has chores");
            }
        }
        match self.missing_event() {
            Some(revision) => format!("a watcher waits for {revision}"),
            None => String::new(),
        }
    }

    /// Compares what the members hold with each other and with the model.
    fn check_equal(&mut self) {
        self.history.check(&self.model);
        self.counts.rests += 1;
        let mut first: Option<(u64, mvcc::HashKv, store::Tables)> = None;
        for id in self.members() {
            let Some(process) = &self.hosts[&id].process else {
                continue;
            };
            let data = &process.data;
            let lessor = data.lessor.lock();
            data.machine
                .check(&lessor, &data.conf_state)
                .unwrap_or_else(|error| panic!("{id}: {error}"));
            let leases: Vec<i64> = lessor.iter().map(|lease| lease.id.0).collect();
            assert!(
                self.model.leases().eq(leases.iter().copied()),
                "the leases of {id}: {leases:?}"
            );
            data.store.check();
            process.member.consensus().check();
            let range = proto::etcdserverpb::RangeRequest {
                key: bytes::Bytes::from_static(b"\0"),
                range_end: bytes::Bytes::from_static(b"\0"),
                ..Default::default()
            };
            let all = machine::read::range(&data.mvcc, &range, mvcc::Wait::Yes).expect("all can be read");
            let revision = data.mvcc.current();
            crate::check::history::check_range(&self.model, b"\0", b"\0", revision, &all);
            let hash = data.mvcc.hash_kv(0).expect("all can be hashed");
            let snapshot = data.store.snapshot().expect("the store works");
            let mut tables = snapshot.tables().clone();
            // A file from another member has this row; without it a store means the same.
            let users = tables.entry(mvcc::Table::Auth).or_default();
            users
                .entry("authRevision".into())
                .or_insert(bytes::Bytes::copy_from_slice(&1u64.to_be_bytes()));
            // A table without rows may be missing.
            tables.retain(|_, rows| !rows.is_empty());
            match &first {
                None => first = Some((id, hash, tables)),
                Some((other, expected, rows)) => {
                    assert_eq!(hash, *expected, "hashes of {id} and {other}");
                    assert_eq!(tables, *rows, "tables of {id} and {other}");
                }
            }
        }
        let hash = first.map_or(0, |(_, hash, _)| u64::from(hash.hash));
        self.note("all is equal", 0, [hash, self.model.revision as u64, 0]);
    }
}
