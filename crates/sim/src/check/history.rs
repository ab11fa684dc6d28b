//! Strict serializability: the order of the writes is the order of the log, and it respects real time.
//!
//! Every request notes when it begins what had been acknowledged by then. Its answer must come from a
//! state that is not older, and be the one the model gives at that place.

use std::collections::BTreeSet;

use mvcc::KvFields;
use proto::raw;

use super::model::{Model, Said};

/// What has been acknowledged so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// The largest log index of an acknowledged write.
    pub index: u64,
    /// The largest revision that anybody was shown by a linearizable answer.
    pub revision: i64,
}

/// The clients' side of the history.
#[derive(Default)]
pub struct History {
    /// Now.
    pub floor: Floor,
    /// Requests that were refused for good: they must never take effect.
    refused: BTreeSet<u64>,
    /// Requests that were acknowledged.
    acknowledged: Vec<(u64, u64)>,
}

impl History {
    /// A write is acknowledged with the entry at `index`.
    pub fn wrote(
        &mut self,
        model: &Model,
        began: Floor,
        request: u64,
        index: u64,
        said: Said,
        revision: i64,
    ) {
        assert_eq!(
            model.requests.get(&request),
            Some(&index),
            "request {request} is acknowledged with entry {index}, which is not its own"
        );
        let expected = model.expected(index);
        assert_eq!(
            (said, revision),
            (expected.said, expected.revision),
            "the answer to request {request}"
        );
        assert!(
            index > began.index,
            "request {request} began after entry {} was acknowledged and went before it, to {index}",
            began.index
        );
        self.acknowledged.push((request, index));
        self.floor.index = self.floor.index.max(index);
        self.floor.revision = self.floor.revision.max(revision);
    }

    /// A request was refused before it got into the log.
    pub fn refused(&mut self, request: u64) {
        self.refused.insert(request);
    }

    /// A linearizable read is answered.
    pub fn read(&mut self, began: Floor, revision: i64) {
        assert!(
            revision >= began.revision,
            "a stale read: revision {revision}, but {} had been acknowledged before it began",
            began.revision
        );
        self.floor.revision = self.floor.revision.max(revision);
    }

    /// At the end, or at any time.
    pub fn check(&self, model: &Model) {
        for (request, index) in &self.acknowledged {
            assert_eq!(
                model.requests.get(request),
                Some(index),
                "request {request} was acknowledged and is not in the history"
            );
        }
        for request in &self.refused {
            assert!(
                !model.requests.contains_key(request),
                "request {request} was refused and took effect"
            );
        }
    }
}

/// Compares the answer to a range, as of a revision, with the model's.
pub fn check_range(model: &Model, key: &[u8], range_end: &[u8], revision: i64, answer: &raw::RangeResponse) {
    assert!(
        revision <= model.revision,
        "an answer from revision {revision}, but there are only {}",
        model.revision
    );
    let expected = model.range(key, range_end, revision);
    assert_eq!(
        answer.kvs.len(),
        expected.len(),
        "number of keys at revision {revision}"
    );
    for (kv, (key, version)) in answer.kvs.iter().zip(expected) {
        let kv = KvFields::parse(kv).expect("an answer holds key-value pairs");
        check_kv(key, version, &kv);
    }
}

/// Compares a key-value pair with the model's.
pub fn check_kv(key: &[u8], version: &super::model::Version, kv: &KvFields<'_>) {
    let expected = KvFields {
        key,
        create_rev: version.created,
        mod_rev: version.revision,
        version: version.version,
        value: &version.value,
        lease: version.lease,
    };
    assert_eq!(*kv, expected, "a key-value pair");
}
