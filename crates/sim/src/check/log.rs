//! Raft's promises, checked whenever a member takes a step:
//!
//! * election safety: a term has one leader at most;
//! * leader completeness: a new leader has every entry that was committed in an earlier term;
//! * log matching: an entry of an index and a term is the same everywhere, and so is the one before it;
//! * state machine safety: the entry committed at an index is the same on all members, for good;
//! * durability: what is committed is on the disks of a majority of the voters;
//! * memory: a term, a vote, a commit index and an applied index never go back, in a crash to not below
//!   what was synced; and a log that is read again holds all that was synced.

use std::collections::BTreeMap;

use consensus::Append;
use member::Status;
use proto::raftpb::{ConfState, Entry, HardState};

/// A fingerprint of an entry's content.
pub fn fingerprint(entry: &Entry) -> u64 {
    let mut hash = entry.r#type as u64 ^ 0xcbf2_9ce4_8422_2325;
    for byte in entry.data.iter().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// What an append does to a log.
#[derive(Clone, Debug)]
pub struct Written {
    snapshot: Option<(u64, u64)>,
    entries: Vec<(u64, (u64, u64))>,
    hard_state: Option<HardState>,
}

impl From<&Append> for Written {
    fn from(append: &Append) -> Self {
        let metadata = append
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.metadata.as_ref());
        let entry = |entry: &Entry| (entry.index, (entry.term, fingerprint(entry)));
        Written {
            snapshot: metadata.map(|metadata| (metadata.index, metadata.term)),
            entries: append.entries.iter().map(entry).collect(),
            hard_state: append.hard_state,
        }
    }
}

/// A member's log as an outsider sees it.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    /// Index and term of the snapshot it begins with.
    pub snapshot: (u64, u64),
    /// Term and fingerprint by index.
    pub entries: BTreeMap<u64, (u64, u64)>,
    /// Term, vote and commit.
    pub hard_state: HardState,
}

impl Mirror {
    /// The log that was found on a disk.
    pub fn found(snapshot: (u64, u64), entries: &[Entry], hard_state: HardState) -> Self {
        let of = |entry: &Entry| (entry.index, (entry.term, fingerprint(entry)));
        Mirror {
            snapshot,
            entries: entries.iter().map(of).collect(),
            hard_state,
        }
    }

    /// Does what an append does to a log.
    pub fn write(&mut self, written: &Written) {
        if let Some(snapshot) = written.snapshot {
            self.snapshot = snapshot;
            self.entries.clear();
        }
        if let Some((first, ..)) = written.entries.first() {
            self.entries.split_off(first);
            self.entries.extend(written.entries.iter().copied());
        }
        if let Some(state) = written.hard_state {
            self.hard_state = state;
        }
    }

    /// Whether this entry is in it, or was before its beginning.
    pub fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.snapshot.0 || self.entries.get(&index).is_some_and(|entry| entry.0 == term)
    }

    /// The term at an index that is in it.
    fn term(&self, index: u64) -> Option<u64> {
        match index == self.snapshot.0 {
            true => Some(self.snapshot.1),
            false => self.entries.get(&index).map(|entry| entry.0),
        }
    }

    /// Checks a log that was read after a crash against the one that had been synced, and the appends
    /// that were under way. The first entries were there from the beginning.
    pub fn check_recovered(&self, synced: &Mirror, unsynced: &[Written], bootstrapped: u64) {
        let replaced = |written: &Written| match (written.snapshot, written.entries.first()) {
            (Some(_), _) => Some(0),
            (None, first) => first.map(|(index, _)| *index),
        };
        let from = unsynced.iter().filter_map(replaced).min().unwrap_or(u64::MAX);
        if from > self.snapshot.0 {
            for (index, entry) in synced.entries.range(self.snapshot.0 + 1..from) {
                assert_eq!(
                    self.entries.get(index),
                    Some(entry),
                    "entry {index} was synced and is gone or another"
                );
            }
        }
        for (index, entry) in &self.entries {
            let mut unsynced = unsynced.iter().flat_map(|written| &written.entries);
            let is_known =
                synced.entries.get(index) == Some(entry) || unsynced.any(|it| *it == (*index, *entry));
            let is_old = *index <= synced.snapshot.0.max(bootstrapped);
            assert!(is_known || is_old, "entry {index} was never written");
        }
        let (now, before) = (self.hard_state, synced.hard_state);
        assert!(
            now.term >= before.term,
            "term {} became {}",
            before.term,
            now.term
        );
        assert!(
            now.term > before.term || before.vote == 0 || now.vote == before.vote,
            "a vote of term {} was forgotten",
            now.term
        );
        assert!(now.commit >= before.commit, "the commit index went back");
    }
}

/// What is known of the whole cluster.
#[derive(Default)]
pub struct LogCheck {
    leaders: BTreeMap<u64, u64>,
    /// By index and term: fingerprint, and the term of the entry before.
    entries: BTreeMap<(u64, u64), (u64, u64)>,
    /// The entry at index i + 1.
    committed: Vec<Entry>,
    /// The term in which it was committed, at the latest.
    committed_in: Vec<u64>,
    /// The configuration after the entry at an index, where it changed.
    confs: BTreeMap<u64, ConfState>,
    /// Entries that were there from the beginning.
    bootstrapped: u64,
}

impl LogCheck {
    /// Of a cluster that begins with so many members.
    pub fn new(members: u64) -> Self {
        LogCheck {
            bootstrapped: members,
            ..LogCheck::default()
        }
    }

    /// How many leaders there were.
    pub fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// How many configurations there were.
    pub fn configurations(&self) -> u64 {
        self.confs.len() as u64
    }

    /// The committed entries so far.
    pub fn committed(&self) -> &[Entry] {
        &self.committed
    }

    /// The configuration that an entry leaves.
    pub fn conf_at(&self, index: u64) -> ConfState {
        let conf = self.confs.range(..=index).next_back();
        conf.map(|(_, conf)| conf.clone()).unwrap_or_default()
    }

    /// The newest configuration.
    pub fn conf(&self) -> ConfState {
        self.conf_at(u64::MAX)
    }

    /// A member has appended; `log` is its log now.
    pub fn append(&mut self, id: u64, log: &Mirror, written: &Written) {
        let lone = self.conf().voters == [id];
        for &(index, (term, fingerprint)) in &written.entries {
            let before = log.term(index - 1);
            let before = before.unwrap_or_else(|| panic!("{id} has a gap before entry {index}"));
            if lone {
                // Before its term is on its disk nobody hears of it, and a crash may give the term again.
                self.entries.insert((index, term), (fingerprint, before));
            }
            let known = self.entries.entry((index, term)).or_insert((fingerprint, before));
            assert_eq!(
                *known,
                (fingerprint, before),
                "two entries {index} of term {term}"
            );
        }
    }

    /// A member has a status, and had another before in the same life.
    pub fn status(&mut self, id: u64, before: &Status, now: &Status, log: &Mirror) {
        assert!(now.term >= before.term, "the term of {id} went back");
        assert!(
            now.committed >= before.committed,
            "the commit index of {id} went back"
        );
        assert!(
            now.applied >= before.applied,
            "the applied index of {id} went back"
        );
        if now.role == consensus::Role::Leader {
            let leader = *self.leaders.entry(now.term).or_insert(id);
            assert_eq!(leader, id, "term {} has two leaders", now.term);
            if (before.role, before.term) != (now.role, now.term) {
                self.new_leader(id, now.term, log);
            }
        }
    }

    fn new_leader(&self, id: u64, term: u64, log: &Mirror) {
        let committed = self.committed.iter().zip(&self.committed_in);
        for (entry, committed_in) in committed.skip(log.snapshot.0 as usize) {
            // A leader may learn late that it was elected, when there is a newer one already.
            assert!(
                *committed_in >= term || log.holds(entry.index, entry.term),
                "{id} leads term {term} without committed entry {} of term {}",
                entry.index,
                entry.term
            );
        }
    }

    /// A member in this term is given an entry to apply. `holds`: whether it is on a member's disk. Returns
    /// whether it is news.
    pub fn commit(&mut self, id: u64, term: u64, entry: &Entry, holds: impl Fn(u64) -> bool) -> bool {
        let known = self.committed.len() as u64;
        if entry.index <= known {
            let other = &self.committed[entry.index as usize - 1];
            assert!(
                other == entry,
                "at index {} {id} has another committed entry than somebody else",
                entry.index
            );
            return false;
        }
        assert_eq!(entry.index, known + 1, "{id} leaves out committed entries");
        // The leader may yet have to apply the last change of the configuration.
        let majority = |conf: &ConfState| {
            conf.voters.iter().filter(|voter| holds(**voter)).count() * 2 > conf.voters.len()
        };
        assert!(
            entry.index <= self.bootstrapped || self.confs.values().rev().take(2).any(majority),
            "entry {} of term {} is committed and not on the disks of a majority",
            entry.index,
            entry.term
        );
        self.committed.push(entry.clone());
        self.committed_in.push(term);
        true
    }

    /// A member has applied an entry and holds this configuration now.
    pub fn applied(&mut self, id: u64, index: u64, conf: &ConfState) {
        let known = self.conf_at(index);
        if known != *conf {
            let is_new = self.confs.last_key_value().is_none_or(|(last, _)| *last < index);
            assert!(is_new, "{id} has another configuration after entry {index}");
            self.confs.insert(index, conf.clone());
        }
    }
}
