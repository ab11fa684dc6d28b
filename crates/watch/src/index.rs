//! Which watchers want the changes of a key.

use std::collections::HashMap;

use bytes::Bytes;
use slab::Slab;
use types::KeyRange;

use crate::interval::IntervalTree;

/// Watchers by what they watch. All watchers of one range form a *group*, so a key's events are
/// collected once per range and not once per watcher.
///
/// Ranges of one key are found by hash, all others in an interval tree: an event costs the same with
/// one watcher as with a hundred thousand watchers of other keys. The hash map is never iterated;
/// its random seed does not show.
#[derive(Debug, Default)]
pub(crate) struct Index {
    exact: HashMap<Bytes, usize>,
    spans: IntervalTree,
    groups: Slab<Group>,
}

#[derive(Debug)]
struct Group {
    range: KeyRange,
    members: Vec<usize>,
}

/// Where a watcher stands in an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    group: usize,
    slot: usize,
}

impl Index {
    /// Adds a watcher of `range`.
    pub fn insert(&mut self, range: &KeyRange, member: usize) -> Place {
        let known = match range {
            KeyRange::One(key) => self.exact.get(key).copied(),
            span => self.spans.get(span),
        };
        let group = known.unwrap_or_else(|| {
            let group = self.groups.insert(Group {
                range: range.clone(),
                members: Vec::new(),
            });
            match range {
                KeyRange::One(key) => drop(self.exact.insert(key.clone(), group)),
                span => self.spans.insert(span, group),
            }
            group
        });
        let members = &mut self.groups[group].members;
        members.push(member);
        Place {
            group,
            slot: members.len() - 1,
        }
    }

    /// Takes a watcher out. The watcher returned, if any, has moved to the place that became free.
    pub fn remove(&mut self, place: Place) -> Option<usize> {
        let group = &mut self.groups[place.group];
        group.members.swap_remove(place.slot);
        let moved = group.members.get(place.slot).copied();
        if group.members.is_empty() {
            let group = self.groups.remove(place.group);
            match &group.range {
                KeyRange::One(key) => drop(self.exact.remove(key)),
                span => self.spans.remove(span),
            }
        }
        moved
    }

    /// Calls `found` with each group whose range contains `key`.
    pub fn matching(&self, key: &[u8], mut found: impl FnMut(usize)) {
        if let Some(&group) = self.exact.get(key) {
            found(group);
        }
        self.spans.stab(key, found);
    }

    /// The watchers of a group.
    pub fn members(&self, group: usize) -> &[usize] {
        &self.groups[group].members
    }

    /// The watcher at `place`, if there is one.
    pub fn member_at(&self, place: Place) -> Option<usize> {
        self.groups.get(place.group)?.members.get(place.slot).copied()
    }

    /// All watchers.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|(_, group)| group.members.len()).sum()
    }
}
