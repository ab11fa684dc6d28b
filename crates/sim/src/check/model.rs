//! The dumbest store: every change ever made, in a list, made by a second implementation of what the
//! requests mean. It is given each committed entry once and says what every member must make of it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, PutRequest, compare, request_op};
use proto::raftpb::Entry;

/// What a transaction changes: each key with its value and lease, or nothing if it is deleted.
type Changes = Vec<(Vec<u8>, Option<(Vec<u8>, i64)>)>;

/// A key's value, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its revision.
    pub revision: i64,
    /// The revision that made the key; 0: this is its end.
    pub created: i64,
    /// How many values it has had since.
    pub version: i64,
    /// The value.
    pub value: Vec<u8>,
    /// Its lease.
    pub lease: i64,
}

impl Version {
    /// Whether the key ends here.
    pub fn is_end(&self) -> bool {
        self.created == 0
    }
}

/// What an entry must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Done, and there is no more to say.
    Done,
    /// So many keys were deleted.
    Deleted(i64),
    /// Whether the condition held.
    Succeeded(bool),
    /// Refused, for whatever reason.
    Refused,
}

/// What an entry does, and the revision after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What its proposer is told.
    pub said: Said,
    /// Main revision after it.
    pub revision: i64,
}

/// The store.
pub struct Model {
    /// Every key's versions, oldest first.
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
    /// Every change in order: revision and key.
    changes: Vec<(i64, Vec<u8>)>,
    leases: BTreeMap<i64, i64>,
    /// Leases that have ended, and the entry that ended each.
    ended: BTreeMap<i64, u64>,
    /// Main revision.
    pub revision: i64,
    /// Compact revision.
    pub compacted: i64,
    /// All compact revisions there were.
    pub compactions: BTreeSet<i64>,
    /// By index - 1.
    expected: Vec<Expected>,
    /// Request ids, and the entry each came with.
    pub requests: BTreeMap<u64, u64>,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            keys: BTreeMap::new(),
            changes: Vec::new(),
            leases: BTreeMap::new(),
            ended: BTreeMap::new(),
            revision: 1,
            compacted: -1,
            compactions: BTreeSet::new(),
            expected: Vec::new(),
            requests: BTreeMap::new(),
        }
    }
}

impl Model {
    /// Takes the next committed entry. Returns the request in it, if there is one and it is carried out.
    pub fn apply(&mut self, entry: &Entry) -> Option<u64> {
        let data = entry.data.as_deref().unwrap_or_default();
        let mut carried_out = None;
        let said = match entry.r#type == 0 && !data.is_empty() {
            true => {
                let request = InternalRaftRequest::decode(data).expect("only requests are proposed");
                let id = request.header.as_ref().map_or(0, |header| header.id);
                let twice = self.requests.insert(id, entry.index);
                assert!(
                    twice.is_none() || id == 0,
                    "request {id} is in the log at {twice:?} and {}",
                    entry.index
                );
                let said = self.execute(entry.index, request);
                carried_out = (said != Said::Refused).then_some(id);
                said
            }
            false => Said::Done,
        };
        self.expected.push(Expected {
            said,
            revision: self.revision,
        });
        carried_out
    }

    /// What the entry at an index had to do.
    pub fn expected(&self, index: u64) -> Expected {
        self.expected[index as usize - 1]
    }

    fn execute(&mut self, index: u64, request: InternalRaftRequest) -> Said {
        let mut txn = Vec::new();
        let said = match request {
            InternalRaftRequest { put: Some(put), .. } => match self.put(&mut txn, &put) {
                true => Said::Done,
                false => Said::Refused,
            },
            InternalRaftRequest {
                delete_range: Some(delete),
                ..
            } => Said::Deleted(self.delete(&mut txn, &delete.key, &delete.range_end)),
            InternalRaftRequest {
                txn: Some(request), ..
            } => {
                let holds = request.compare.iter().all(|compare| self.holds(compare));
                let ops = if holds { request.success } else { request.failure };
                for op in ops {
                    match op.request {
                        Some(request_op::Request::RequestPut(put)) => {
                            self.put(&mut txn, &put);
                        }
                        Some(request_op::Request::RequestDeleteRange(delete)) => {
                            self.delete(&mut txn, &delete.key, &delete.range_end);
                        }
                        _ => {}
                    }
                }
                Said::Succeeded(holds)
            }
            InternalRaftRequest {
                compaction: Some(compaction),
                ..
            } => match compaction.revision > self.compacted && compaction.revision <= self.revision {
                true => {
                    self.compacted = compaction.revision;
                    self.compactions.insert(compaction.revision);
                    Said::Done
                }
                false => Said::Refused,
            },
            InternalRaftRequest {
                lease_grant: Some(grant),
                ..
            } => match self.leases.contains_key(&grant.id) {
                true => Said::Refused,
                false => {
                    self.leases.insert(grant.id, grant.ttl);
                    Said::Done
                }
            },
            InternalRaftRequest {
                lease_revoke: Some(revoke),
                ..
            } => match self.leases.remove(&revoke.id) {
                Some(_) => {
                    let live = |versions: &Vec<Version>| {
                        versions
                            .last()
                            .is_some_and(|last| !last.is_end() && last.lease == revoke.id)
                    };
                    self.ended.insert(revoke.id, index);
                    let keys = self.keys.iter().filter(|(_, versions)| live(versions));
                    txn.extend(keys.map(|(key, _)| (key.clone(), None)));
                    Said::Done
                }
                None => Said::Refused,
            },
            _ => Said::Done,
        };
        self.commit(txn);
        said
    }

    fn put(&self, txn: &mut Changes, put: &PutRequest) -> bool {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return false;
        }
        txn.push((put.key.to_vec(), Some((put.value.to_vec(), put.lease))));
        true
    }

    fn delete(&self, txn: &mut Changes, key: &[u8], range_end: &[u8]) -> i64 {
        let before = txn.len();
        let is_in = |it: &Vec<u8>| match range_end.is_empty() {
            true => it == key,
            false => it.as_slice() >= key && it.as_slice() < range_end,
        };
        let live = |versions: &Vec<Version>| versions.last().is_some_and(|last| !last.is_end());
        let keys = self
            .keys
            .iter()
            .filter(|(key, versions)| is_in(key) && live(versions));
        txn.extend(keys.map(|(key, _)| (key.clone(), None)));
        (txn.len() - before) as i64
    }

    fn holds(&self, compare: &proto::etcdserverpb::Compare) -> bool {
        let last = self
            .keys
            .get(&compare.key[..])
            .and_then(|versions| versions.last());
        let last = last.filter(|last| !last.is_end());
        match &compare.target_union {
            Some(compare::TargetUnion::ModRevision(revision)) => {
                last.map_or(0, |last| last.revision) == *revision
            }
            Some(compare::TargetUnion::Value(value)) => last.is_some_and(|last| last.value == value[..]),
            _ => panic!("clients compare nothing else"),
        }
    }

    fn commit(&mut self, txn: Changes) {
        if txn.is_empty() {
            return;
        }
        self.revision += 1;
        for (key, value) in txn {
            let versions = self.keys.entry(key.clone()).or_default();
            let before = versions.last().filter(|last| !last.is_end());
            let version = match value {
                Some((value, lease)) => Version {
                    revision: self.revision,
                    created: before.map_or(self.revision, |before| before.created),
                    version: before.map_or(1, |before| before.version + 1),
                    value,
                    lease,
                },
                None => Version {
                    revision: self.revision,
                    created: 0,
                    version: 0,
                    value: Vec::new(),
                    lease: 0,
                },
            };
            versions.push(version);
            self.changes.push((self.revision, key));
        }
    }

    /// A key's state as of a revision.
    pub fn at(&self, key: &[u8], revision: i64) -> Option<&Version> {
        let versions = self.keys.get(key)?;
        let upto = versions.partition_point(|version| version.revision <= revision);
        versions[..upto].last().filter(|version| !version.is_end())
    }

    /// All keys between two (or the first one) as of a revision.
    pub fn range(&self, key: &[u8], range_end: &[u8], revision: i64) -> Vec<(&[u8], &Version)> {
        let is_in = |it: &[u8]| match range_end.is_empty() {
            true => it == key,
            false => it >= key && (range_end == b"\0" || it < range_end),
        };
        let keys = self.keys.keys().filter(|key| is_in(key));
        keys.filter_map(|key| Some((key.as_slice(), self.at(key, revision)?)))
            .collect()
    }

    /// The changes in order, from a place in the list on.
    pub fn changes(&self, from: usize) -> &[(i64, Vec<u8>)] {
        &self.changes[from..]
    }

    /// The first place in the list of changes with at least this revision.
    pub fn place_of(&self, revision: i64) -> usize {
        self.changes.partition_point(|(at, _)| *at < revision)
    }

    /// What a change made of its key.
    pub fn version(&self, key: &[u8], revision: i64) -> &Version {
        let versions = &self.keys[key];
        let at = versions.partition_point(|version| version.revision < revision);
        &versions[at]
    }

    /// The entry that ended a lease.
    pub fn end_of(&self, lease: i64) -> Option<u64> {
        self.ended.get(&lease).copied()
    }

    /// The leases.
    pub fn leases(&self) -> impl Iterator<Item = i64> {
        self.leases.keys().copied()
    }
}
