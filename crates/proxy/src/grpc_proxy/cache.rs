//! Answers to serializable reads, kept.
//!
//! An answer is good until this proxy changes one of its keys. What others change is not noticed, as in etcd's proxy: a
//! serializable read may be old by definition. Answers are kept apart by who has asked, so that nobody sees what only
//! others may; and one that was under way while something was changed is not kept at all.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use proto::etcdserverpb::{RangeRequest, RangeResponse};

/// Answers that are kept, as many as etcd keeps.
const ENTRIES_MAX: usize = 2048;
/// The largest answer that is kept, so that all of them have a bound: half a gigabyte.
const ENTRY_BYTES_MAX: usize = 256 << 10;

/// Who has asked, and what: the request's bytes.
type Question = (Option<Vec<u8>>, Vec<u8>);

#[derive(Default)]
pub struct Cache(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    entries: HashMap<Question, Entry>,
    /// From the one that was asked for the longest ago.
    order: BTreeMap<u64, Question>,
    clock: u64,
    /// How often something was changed.
    changes: u64,
    hits: u64,
    misses: u64,
}

struct Entry {
    answer: RangeResponse,
    key: Bytes,
    end: Bytes,
    used: u64,
}

/// What the cache is, for those who count.
pub struct Counts {
    pub keys: usize,
    pub hits: u64,
    pub misses: u64,
}

impl Cache {
    /// The answer, if it is known; else how often something was changed until now.
    pub fn get(&self, token: Option<&[u8]>, request: &RangeRequest) -> Result<RangeResponse, u64> {
        let mut entries = self.0.lock();
        let question = question(token, request);
        entries.clock += 1;
        let now = entries.clock;
        let found = entries.entries.get_mut(&question).map(|entry| {
            let before = std::mem::replace(&mut entry.used, now);
            (before, entry.answer.clone())
        });
        let Some((before, answer)) = found else {
            entries.misses += 1;
            return Err(entries.changes);
        };
        entries.hits += 1;
        entries.order.remove(&before);
        entries.order.insert(now, question);
        Ok(answer)
    }

    /// How often something was changed until now.
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// Keeps an answer, if nothing was changed since.
    pub fn add(&self, token: Option<&[u8]>, request: &RangeRequest, answer: &RangeResponse, changes: u64) {
        let mut entries = self.0.lock();
        if entries.changes != changes || answer.encoded_len() > ENTRY_BYTES_MAX {
            return;
        }
        let question = question(token, request);
        entries.clock += 1;
        let used = entries.clock;
        let entry = Entry {
            answer: answer.clone(),
            key: request.key.clone(),
            end: request.range_end.clone(),
            used,
        };
        if let Some(old) = entries.entries.insert(question.clone(), entry) {
            entries.order.remove(&old.used);
        }
        entries.order.insert(used, question);
        if entries.entries.len() > ENTRIES_MAX
            && let Some((_, oldest)) = entries.order.pop_first()
        {
            entries.entries.remove(&oldest);
        }
    }

    /// Forgets what has to do with some keys.
    pub fn forget(&self, key: &[u8], end: &[u8]) {
        self.retain(|entry| !overlap((&entry.key, &entry.end), (key, end)));
    }

    /// Forgets everything: after a compaction, when old revisions are no longer to be read.
    pub fn clear(&self) {
        self.retain(|_| false);
    }

    fn retain(&self, stays: impl Fn(&Entry) -> bool) {
        let mut entries = self.0.lock();
        let entries = &mut *entries;
        entries.changes += 1;
        entries.entries.retain(|_, entry| stays(entry));
        let known = &entries.entries;
        entries.order.retain(|_, question| known.contains_key(question));
    }

    pub fn counts(&self) -> Counts {
        let entries = self.0.lock();
        Counts {
            keys: entries.entries.len(),
            hits: entries.hits,
            misses: entries.misses,
        }
    }
}

/// A linearizable answer is good for a serializable question too.
fn question(token: Option<&[u8]>, request: &RangeRequest) -> Question {
    let request = RangeRequest {
        serializable: true,
        ..request.clone()
    };
    (token.map(<[u8]>::to_vec), request.encode_to_vec())
}

/// Whether two ranges have a key in common.
fn overlap(a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> bool {
    begins_before_end(a.0, b) && begins_before_end(b.0, a)
}

/// Whether a key is before the end of a range.
fn begins_before_end(key: &[u8], (first, end): (&[u8], &[u8])) -> bool {
    match end {
        b"" => key <= first,
        b"\0" => true,
        end => key < end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: &str, end: &str) -> RangeRequest {
        RangeRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            ..RangeRequest::default()
        }
    }

    fn answer(count: i64) -> RangeResponse {
        RangeResponse {
            count,
            ..RangeResponse::default()
        }
    }

    #[test]
    fn an_answer_is_forgotten_when_one_of_its_keys_is_changed_and_not_before() {
        for (changed, end, is_known) in [
            (&b"a"[..], &b""[..], true),
            (b"b", b"", false),
            (b"c", b"", false),
            (b"d", b"", true),
            (b"a", b"b", true),
            (b"a", b"c", false),
            (b"a", b"\0", false),
            (b"d", b"\0", true),
        ] {
            let cache = Cache::default();
            let range = request("b", "d");
            let changes = cache.get(None, &range).unwrap_err();
            cache.add(None, &range, &answer(1), changes);
            assert_eq!(cache.get(None, &range).unwrap().count, 1);
            cache.forget(changed, end);
            assert_eq!(cache.get(None, &range).is_ok(), is_known, "{changed:?}");
        }
    }

    #[test]
    fn an_answer_that_was_under_way_during_a_change_is_not_kept() {
        let cache = Cache::default();
        let changes = cache.get(None, &request("a", "")).unwrap_err();
        cache.forget(b"a", b"");
        cache.add(None, &request("a", ""), &answer(1), changes);
        assert!(cache.get(None, &request("a", "")).is_err());
    }

    #[test]
    fn an_answer_is_for_who_has_asked() {
        let cache = Cache::default();
        cache.add(Some(b"root"), &request("a", ""), &answer(1), 0);
        assert!(cache.get(Some(b"root"), &request("a", "")).is_ok());
        assert!(cache.get(Some(b"other"), &request("a", "")).is_err());
        assert!(cache.get(None, &request("a", "")).is_err());
    }

    #[test]
    fn the_one_that_was_asked_for_the_longest_ago_goes_first() {
        let cache = Cache::default();
        for number in 0..=ENTRIES_MAX {
            cache.add(None, &request(&number.to_string(), ""), &answer(1), 0);
            cache.get(None, &request("0", "")).unwrap();
        }
        assert_eq!(cache.counts().keys, ENTRIES_MAX);
        assert!(cache.get(None, &request("1", "")).is_err());
        assert!(cache.get(None, &request("0", "")).is_ok());
    }
}
