//! What every member knows of the leases: a function of the log.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Bound;

use types::{ErrorKind, LeaseId};

use crate::{AttachedKey, Lease};

/// Leases and attachments.
///
/// Keys are copies: a key that is a slice of a log entry would keep the whole entry in memory for as
/// long as it is attached. Both directions share one copy. One set over all leases instead of a set
/// in each keeps the usual lease, the one with a single key, small.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    leases: BTreeMap<LeaseId, Ttl>,
    keys_of: BTreeSet<(LeaseId, AttachedKey)>,
    lease_of: BTreeMap<AttachedKey, LeaseId>,
}

#[derive(Clone, Copy, Debug)]
struct Ttl {
    granted_secs: i64,
    remaining_secs: i64,
}

impl Facts {
    pub(crate) fn new(leases: impl IntoIterator<Item = Lease>) -> Self {
        let mut facts = Facts::default();
        for lease in leases {
            facts.insert(lease);
        }
        facts
    }

    /// False when the id is taken.
    pub(crate) fn insert(&mut self, lease: Lease) -> bool {
        let ttl = Ttl {
            granted_secs: lease.ttl_secs,
            remaining_secs: lease.remaining_secs,
        };
        match self.leases.entry(lease.id) {
            Entry::Vacant(vacant) => {
                vacant.insert(ttl);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// The lease's keys in order, or `None` if there is no such lease.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<Vec<AttachedKey>> {
        self.leases.remove(&id)?;
        let keys: Vec<AttachedKey> = self.keys(id).cloned().collect();
        for key in &keys {
            self.detach(key);
        }
        Some(keys)
    }

    pub(crate) fn checkpoint(&mut self, id: LeaseId, remaining_secs: i64) -> Option<Lease> {
        self.leases.get_mut(&id)?.remaining_secs = remaining_secs;
        self.get(id)
    }

    pub(crate) fn attach(&mut self, key: &[u8], id: LeaseId) -> Result<(), ErrorKind> {
        if !self.leases.contains_key(&id) {
            return Err(ErrorKind::LeaseNotFound);
        }
        if self.lease_of(key) != Some(id) {
            self.detach(key);
            let key = AttachedKey::from(key);
            self.keys_of.insert((id, AttachedKey::clone(&key)));
            self.lease_of.insert(key, id);
        }
        Ok(())
    }

    pub(crate) fn detach(&mut self, key: &[u8]) {
        if let Some((key, id)) = self.lease_of.remove_entry(key) {
            self.keys_of.remove(&(id, key));
        }
    }

    pub(crate) fn get(&self, id: LeaseId) -> Option<Lease> {
        self.leases.get(&id).map(|ttl| ttl.of(id))
    }

    pub(crate) fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        self.lease_of.get(key).copied()
    }

    pub(crate) fn keys(&self, id: LeaseId) -> impl Iterator<Item = &AttachedKey> {
        self.keys_of
            .range((id, AttachedKey::default())..)
            .take_while(move |(lease, _)| *lease == id)
            .map(|(_, key)| key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Lease> {
        self.leases.iter().map(|(id, ttl)| ttl.of(*id))
    }

    /// Those with a greater id than this one, or all.
    pub(crate) fn after(&self, id: Option<LeaseId>) -> impl Iterator<Item = Lease> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.leases
            .range((from, Bound::Unbounded))
            .map(|(id, ttl)| ttl.of(*id))
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.keys_of.len() != self.lease_of.len() {
            return Err("the two directions of the attachments differ in size".into());
        }
        for (id, key) in &self.keys_of {
            if self.lease_of.get(key) != Some(id) {
                return Err(format!("{key:?} is listed by lease {id} but not attached to it"));
            }
            if !self.leases.contains_key(id) {
                return Err(format!("{key:?} is attached to lease {id}, which does not exist"));
            }
        }
        Ok(())
    }
}

impl Ttl {
    fn of(self, id: LeaseId) -> Lease {
        Lease {
            id,
            ttl_secs: self.granted_secs,
            remaining_secs: self.remaining_secs,
        }
    }
}
