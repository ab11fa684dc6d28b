//! What a watcher is promised: every change of its keys from its start on, in order, once, with none
//! left out, whichever members it asks one after the other.

use mvcc::KvFields;
use prost::Message;
use proto::etcdserverpb::WatchResponse;
use proto::mvccpb::event::EventType;

use super::history::check_kv;
use super::model::Model;

/// One watcher, over all its connections.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its keys: one, or from the first to before the second.
    pub key: Vec<u8>,
    /// End of the range.
    pub range_end: Vec<u8>,
    /// Whether it asks for the values that changes replace.
    pub prev_kv: bool,
    /// Whether it leaves deletions out.
    pub no_delete: bool,
    /// The next revision it is to be told of; `None`: it does not know yet where it begins.
    pub next: Option<i64>,
    /// Events it was given.
    pub events: u64,
}

impl Watched {
    fn wants(&self, model: &Model, revision: i64, key: &[u8]) -> bool {
        let is_in = match self.range_end.is_empty() {
            true => key == self.key,
            false => key >= &self.key[..] && key < &self.range_end[..],
        };
        is_in && !(self.no_delete && model.version(key, revision).is_end())
    }

    /// Takes a response.
    pub fn take(&mut self, model: &Model, response: &WatchResponse) {
        let header = response.header.as_ref().expect("a response has a header");
        if response.created {
            self.next.get_or_insert(header.revision + 1);
            return;
        }
        let next = self
            .next
            .expect("a watcher is created before it is told anything");
        if response.events.is_empty() && !response.canceled {
            let missing = self.missing(model, next, header.revision);
            assert_eq!(missing, None, "a progress report of {} skips it", header.revision);
            self.next = Some(next.max(header.revision + 1));
            return;
        }
        let mut expected = model.place_of(next);
        for event in &response.events {
            let kv = event.kv.as_ref().expect("an event has a key");
            loop {
                let (revision, key) = model
                    .changes(expected)
                    .first()
                    .unwrap_or_else(|| panic!("an event that never happened: {kv:?}"));
                expected += 1;
                if !self.wants(model, *revision, key) {
                    continue;
                }
                let is_end = model.version(key, *revision).is_end();
                if (kv.mod_revision, &kv.key[..]) == (*revision, &key[..]) {
                    assert_eq!(event.r#type() == EventType::Delete, is_end, "put or delete");
                    break;
                }
                // Compaction may take an end at just its revision before a watcher reads it.
                assert!(
                    is_end && model.compactions.contains(revision),
                    "the event at {} came where that at {revision} was due (watched from {next})",
                    kv.mod_revision
                );
            }
            self.check_event(model, event);
            self.events += 1;
            self.next = Some(kv.mod_revision + 1);
        }
        if let Some((revision, _)) = model.changes(expected).first()
            && let Some(last) = response.events.last().and_then(|event| event.kv.as_ref())
            && *revision == last.mod_revision
            && !response.fragment
        {
            let rest = model.changes(expected).iter();
            let torn = rest
                .take_while(|(at, _)| at == revision)
                .any(|(at, key)| self.wants(model, *at, key));
            assert!(!torn, "revision {revision} is torn");
        }
    }

    fn check_event(&self, model: &Model, event: &proto::mvccpb::Event) {
        let kv = event.kv.as_ref().expect("an event has a key");
        let version = model.version(&kv.key, kv.mod_revision);
        if !version.is_end() {
            check_kv(
                &kv.key,
                version,
                &KvFields::parse(&kv.encode_to_vec()).expect("it was encoded just now"),
            );
        }
        if let Some(prev) = &event.prev_kv {
            assert!(self.prev_kv, "a previous value that was not asked for");
            let before = model.at(&kv.key, kv.mod_revision - 1);
            let before = before.expect("there was a value before, if it is sent");
            check_kv(
                &kv.key,
                before,
                &KvFields::parse(&prev.encode_to_vec()).expect("as above"),
            );
        } else if self.prev_kv && kv.mod_revision - 1 > model.compacted {
            let before = model.at(&kv.key, kv.mod_revision - 1);
            assert!(
                before.is_none(),
                "the previous value is missing at {}",
                kv.mod_revision
            );
        }
    }

    /// The watcher lost its place to a compaction and begins again above it.
    pub fn lost(&mut self, model: &Model, compacted: i64) {
        let next = self.next.expect("only what exists is cancelled");
        assert!(
            next < compacted && model.compactions.contains(&compacted),
            "a watcher at {next} is cancelled for the compaction at {compacted}"
        );
        self.next = Some(compacted + 1);
    }

    /// The first event that is missing from `next` up to a revision.
    fn missing(&self, model: &Model, next: i64, upto: i64) -> Option<i64> {
        let due = model.changes(model.place_of(next)).iter();
        due.take_while(|(revision, _)| *revision <= upto)
            .find(|(revision, key)| {
                let may_be_gone =
                    model.version(key, *revision).is_end() && model.compactions.contains(revision);
                self.wants(model, *revision, key) && !may_be_gone
            })
            .map(|(revision, _)| *revision)
    }

    /// The first event that is still missing.
    pub fn behind(&self, model: &Model) -> Option<i64> {
        self.missing(model, self.next?, model.revision)
    }
}
