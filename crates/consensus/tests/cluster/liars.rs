//! One honest member, everybody else a liar: messages that are nearly right, in every respect wrong
//! now and then. Liars may stop the cluster or make the member apply nonsense; they may not end its
//! process.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use consensus::{Append, Config, Consensus, Restored, Role, apply_conf_change, change_of};
use proto::raftpb::{ConfState, Entry, Message, Snapshot, SnapshotMetadata};
use types::MemberId;

use crate::harness::{Chance, bootstrap_entry, conf_change};

struct Victim {
    raft: Consensus,
    appends: VecDeque<Append>,
    work: VecDeque<(u64, Option<Entry>)>,
    conf: ConfState,
    /// Read contexts it sent, which liars may answer.
    contexts: Vec<Bytes>,
}

impl Victim {
    fn new(voters: u64, seed: u64) -> Self {
        let restored = Restored {
            hard_state: proto::raftpb::HardState {
                term: 1,
                vote: 0,
                commit: voters,
            },
            entries: (1..=voters).map(bootstrap_entry).collect(),
            ..Restored::default()
        };
        let raft = Consensus::new(Config::new(MemberId(1), 10, seed), restored).expect("a new cluster");
        Victim {
            raft,
            appends: VecDeque::new(),
            work: VecDeque::new(),
            conf: ConfState::default(),
            contexts: Vec::new(),
        }
    }

    fn take(&mut self) {
        while self.raft.has_effects() {
            let effects = self.raft.take_effects();
            self.raft.check();
            if let Some(snapshot) = effects.restore {
                let metadata = snapshot.metadata.expect("a snapshot has metadata");
                self.conf = metadata.conf_state.expect("and a configuration");
                self.work.push_back((metadata.index, None));
            }
            self.work.extend(
                effects
                    .committed
                    .into_iter()
                    .map(|entry| (entry.index, Some(entry))),
            );
            self.appends.extend(effects.append);
            for message in effects.send {
                self.contexts.extend(message.context);
                self.contexts
                    .extend(message.entries.into_iter().filter_map(|entry| entry.data));
            }
        }
    }

    fn live(&mut self, chance: &mut Chance) {
        match chance.below(8) {
            0 => self.raft.tick(),
            1 | 2 => self.take(),
            3 => {
                if let Some(append) = self.appends.pop_front() {
                    self.raft.persisted(append.number);
                }
            }
            4 => self.apply(),
            5 => {
                let _ = self.raft.propose(vec![Bytes::from_static(b"honest")]);
            }
            6 => {
                let kind = (chance.below(4) as i32).try_into().expect("a kind");
                let _ = self
                    .raft
                    .propose_conf_change(&conf_change(kind, 1 + chance.below(5) as u64, b""));
            }
            _ => match chance.below(6) {
                0 => self.raft.transfer_leader(MemberId(chance.below(6) as u64)),
                1 => self.raft.report_unreachable(MemberId(chance.below(6) as u64)),
                2 => self
                    .raft
                    .report_snapshot(MemberId(chance.below(6) as u64), chance.one_in(2)),
                3 => self.raft.campaign(),
                4 => {
                    self.raft.read_index(7);
                }
                _ => {
                    let status = self.raft.status();
                    let metadata = SnapshotMetadata {
                        index: status.applied,
                        term: status.leadership.term,
                        conf_state: Some(self.conf.clone()),
                    };
                    self.raft.compact(metadata, chance.below(5) as u64);
                }
            },
        }
        self.raft.check();
    }

    fn apply(&mut self) {
        let Some((index, entry)) = self.work.pop_front() else {
            return;
        };
        if let Some(Ok(change)) = entry.as_ref().and_then(change_of) {
            if let Ok(conf) = apply_conf_change(&self.conf, &change) {
                self.conf = conf;
            }
            let _ = self.raft.apply_conf_change(index, &change);
        }
        self.raft.applied(index);
    }
}

/// A number near one that matters.
fn near(around: u64, chance: &mut Chance) -> u64 {
    match chance.below(60) {
        0 => chance.next(),
        1 => u64::MAX,
        2 | 3 => 0,
        4..=9 => around.wrapping_add(chance.below(8) as u64).saturating_sub(4),
        10..=19 => around.wrapping_add(chance.below(3) as u64).saturating_sub(1),
        _ => around,
    }
}

fn lie(victim: &Victim, chance: &mut Chance) -> Message {
    let status = victim.raft.status();
    let (term, last) = (status.leadership.term, status.last);
    let index = if chance.one_in(2) { last } else { status.committed };
    // Mostly the present term: a higher one ends every leadership.
    let term = if chance.one_in(12) {
        near(term + 1, chance)
    } else {
        term
    };
    let index = near(index, chance);
    let kinds = [2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 8, 9, 13, 14, 15, 16, 17, 18];
    let kind = if chance.one_in(30) {
        near(19, chance) as i32
    } else {
        kinds[chance.below(kinds.len())]
    };
    let entry_term = near(term, chance).min(term);
    let entries = (0..chance.below(4) as u64).map(|at| Entry {
        term: entry_term,
        index: near(index.wrapping_add(1 + at), chance),
        r#type: if chance.one_in(4) {
            chance.below(4) as i32
        } else {
            0
        },
        data: [
            None,
            Some(Bytes::from_static(b"\x08\x01")),
            bootstrap_entry(1 + at).data,
        ][chance.below(3)]
        .clone(),
    });
    let entries: Vec<_> = entries.collect();
    let ids = |chance: &mut Chance| (0..chance.below(4)).map(|_| near(2, chance)).collect();
    let metadata = SnapshotMetadata {
        index: near(index.wrapping_add(3), chance),
        term: near(term, chance),
        conf_state: Some(ConfState {
            voters: if chance.one_in(3) {
                ids(chance)
            } else {
                vec![1, 2, 3]
            },
            learners: if chance.one_in(3) { ids(chance) } else { Vec::new() },
            voters_outgoing: if chance.one_in(8) { ids(chance) } else { Vec::new() },
            learners_next: if chance.one_in(8) { ids(chance) } else { Vec::new() },
            auto_leave: chance.one_in(10),
        }),
    };
    let context = match victim.contexts.len() {
        0 => None,
        n => Some(victim.contexts[chance.below(n)].clone()),
    };
    Message {
        r#type: kind,
        to: if chance.one_in(30) { 9 } else { 1 },
        from: near(2 + chance.below(2) as u64, chance),
        term,
        log_term: near(entry_term, chance).min(near(entry_term, chance)),
        index,
        entries,
        commit: near(index, chance),
        vote: 0,
        snapshot: (kind == 7 && !chance.one_in(10)).then_some(Snapshot {
            data: None,
            metadata: Some(metadata),
        }),
        reject: chance.one_in(3),
        reject_hint: near(last, chance),
        context,
        responses: Vec::new(),
    }
}

#[test]
fn no_message_ends_the_process() {
    // How often a message of each type was taken, and as whom.
    let mut taken = BTreeMap::<i32, u32>::new();
    let mut as_leader = 0;

    for seed in 0..12 {
        let mut chance = Chance(seed);
        let mut victim = Victim::new([1, 3][seed as usize % 2], seed);
        for _ in 0..3000 {
            let message = lie(&victim, &mut chance);
            let kind = message.r#type;
            let leads = victim.raft.status().leadership.role == Role::Leader;
            if victim.raft.step(message).is_ok() {
                *taken.entry(kind).or_default() += 1;
                as_leader += u32::from(leads);
            }
            victim.raft.check();
            victim.live(&mut chance);
        }
    }
    let between_members = (2..=18).filter(|kind| !(10..=12).contains(kind));
    for kind in between_members {
        assert!(
            taken.get(&kind).is_some_and(|times| *times > 50),
            "type {kind} was hardly tried"
        );
    }
    assert!(as_leader > 300, "the victim hardly ever led");
}
