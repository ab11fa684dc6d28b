//! Compaction under way: what readers and watchers see of it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mvcc::{Change, Cursor, MemoryValues, RangeError, RangeOptions, ReadError, Values, Wait};
use types::{ErrorKind, KeyRange, Revision};

use crate::store::{Store, text};

/// Values that let something happen just before they are read, or that are not in memory.
#[derive(Default)]
struct Hooked {
    values: Arc<MemoryValues>,
    before_read: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    on_disk: bool,
}

impl Values for Hooked {
    fn get_many(&self, revs: &[Revision], wait: Wait, out: &mut Vec<Bytes>) -> Result<(), ReadError> {
        let hook = self.before_read.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        if self.on_disk && wait == Wait::No {
            return Err(ReadError::WouldBlock);
        }
        self.values.get_many(revs, wait, out)
    }

    fn weigh(&self, revs: &[Revision]) -> Result<u64, ReadError> {
        self.values.weigh(revs)
    }

    fn scan(
        &self,
        from: Revision,
        upto_main: i64,
        max_bytes: usize,
        out: &mut Vec<Change>,
    ) -> Result<Option<Revision>, ReadError> {
        self.values.scan(from, upto_main, max_bytes, out)
    }
}

fn at(revision: i64) -> RangeOptions {
    RangeOptions {
        revision,
        ..RangeOptions::new(KeyRange::All)
    }
}

#[test]
fn revisions_below_the_compacted_one_cannot_be_read_and_those_above_are_as_before() {
    let mut store = Store::new();
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")] {
        store.put(key, value);
    }
    store.delete("c");
    store.put("a", "3");
    let before: Vec<_> = (4..8)
        .map(|rev| store.mvcc.range(&at(rev), Wait::No).unwrap())
        .collect();
    store.compact(4);
    let after: Vec<_> = (4..8)
        .map(|rev| store.mvcc.range(&at(rev), Wait::No).unwrap())
        .collect();
    assert_eq!(before, after);
    assert_eq!(store.mvcc.range(&at(3), Wait::No), Err(RangeError::Compacted));
    assert_eq!(store.mvcc.view_at(3).err(), Some(ErrorKind::Compacted));
    assert_eq!(store.mvcc.view_at(8).err(), Some(ErrorKind::FutureRev));
    assert_eq!(store.mvcc.view_at(4).unwrap().count(&KeyRange::All), Ok(2));
}

/// A store in which, as soon as a value is read, the newest revision is replaced and everything
/// before it compacted away.
fn overtaken() -> Store {
    let hooked = Arc::new(Hooked::default());
    let mut store = Store::over(hooked.values.clone(), hooked.clone());
    store.put("a", "old");
    let mut writer = Store {
        values: store.values.clone(),
        mvcc: store.mvcc.clone(),
        head: mvcc::Head::new(store.mvcc.clone()),
    };
    *hooked.before_read.lock().unwrap() = Some(Box::new(move || {
        let rev = writer.put("a", "new");
        writer.compact(rev);
    }));
    store
}

#[test]
fn a_view_that_a_compaction_overtakes_says_so() {
    let store = overtaken();
    assert_eq!(
        store.mvcc.view().range(&at(0), Wait::Yes),
        Err(RangeError::Compacted)
    );
    let store = overtaken();
    assert_eq!(store.mvcc.range(&at(2), Wait::Yes), Err(RangeError::Compacted));
    let store = overtaken();
    assert_eq!(store.mvcc.previous(b"a", 3, Wait::Yes), Ok(None));
}

#[test]
fn a_read_of_the_current_revision_moves_on_to_a_newer_one() {
    let store = overtaken();
    let answer = store.mvcc.range(&at(0), Wait::Yes).unwrap();
    assert_eq!(
        (text(&answer.kvs), answer.revision),
        (vec![("a".into(), "new".into())], 3)
    );
}

#[test]
fn a_value_that_is_missing_without_a_reason_is_no_compaction() {
    let mut store = Store::new();
    store.put("a", "1");
    store.values.forget(&[Revision::new(2, 0)]);
    let gone = ReadError::Gone(Revision::new(2, 0));
    assert_eq!(store.mvcc.range(&at(0), Wait::Yes), Err(gone.clone().into()));
    assert_eq!(store.head.begin().value(Revision::new(2, 0)), Err(gone));
}

#[test]
fn who_may_not_wait_is_told_and_a_chunk_can_be_asked_for_again() {
    let hooked = Arc::new(Hooked {
        on_disk: true,
        ..Hooked::default()
    });
    let mut store = Store::over(hooked.values.clone(), hooked);
    store.put("a", "1");
    store.put("b", "1");
    let view = store.mvcc.view();
    let would_block = || RangeError::Read(ReadError::WouldBlock);
    assert_eq!(view.range(&at(0), Wait::No), Err(would_block()));
    assert_eq!(
        view.range(
            &RangeOptions {
                count_only: true,
                ..at(0)
            },
            Wait::No
        )
        .unwrap()
        .count,
        2
    );
    assert_eq!(
        view.range(
            &RangeOptions {
                keys_only: true,
                ..at(0)
            },
            Wait::No
        )
        .unwrap()
        .kvs
        .len(),
        2
    );
    let mut cursor = Cursor::default();
    let mut keys = vec![];
    while !cursor.is_done() {
        assert_eq!(
            view.chunk(&KeyRange::All, false, &mut cursor, 1, Wait::No)
                .unwrap_or_default(),
            [""; 0]
        );
        let chunk = view
            .chunk(&KeyRange::All, false, &mut cursor, 1, Wait::Yes)
            .unwrap();
        keys.extend(text(&chunk).into_iter().map(|(key, _)| key));
    }
    assert_eq!(keys, ["a", "b"]);
}

/// Revision, key and kind of a piece of history.
fn seen(changes: &[Change]) -> Vec<(i64, String, bool)> {
    let key = |change: &Change| text(std::slice::from_ref(&change.kv)).remove(0).0;
    changes
        .iter()
        .map(|change| (change.rev.main, key(change), change.tombstone))
        .collect()
}

#[test]
fn history_begins_at_the_compacted_revision_with_what_was_kept_of_it() {
    // Whether the store has dropped what it may drop makes no difference.
    for dropped in [false, true] {
        let mut store = Store::new();
        store.put("a", "1");
        store.put("b", "1");
        let mut txn = store.head.begin();
        txn.put(b"a", b"2", types::LeaseId(0));
        txn.delete_range(&KeyRange::One("b".into()));
        txn.finish();
        store.publish();
        store.put("a", "3");
        store.delete("a");
        let all = [
            (2, "a", false),
            (3, "b", false),
            (4, "a", false),
            (4, "b", true),
            (5, "a", false),
            (6, "a", true),
        ];
        let all = all.map(|(rev, key, tombstone)| (rev, key.to_owned(), tombstone));
        let history = |store: &Store, from| store.mvcc.history(Revision::new(from, 0), i64::MAX, 1 << 20);
        assert_eq!(seen(&history(&store, 0).unwrap().changes), all);

        store.head.compact(4).unwrap();
        store.publish();
        if dropped {
            let step = store.mvcc.compact_step(&mut Cursor::default(), usize::MAX);
            assert_eq!(step.dropped.len(), 2);
            store.values.forget(&step.dropped);
        }
        assert_eq!(history(&store, 3).err(), Some(RangeError::Compacted));
        assert_eq!(
            seen(&history(&store, 4).unwrap().changes),
            all[2..],
            "a tombstone at 4 is still seen"
        );
        store.head.compact(5).unwrap();
        store.publish();
        assert_eq!(seen(&history(&store, 5).unwrap().changes), all[4..]);
        store.head.compact(6).unwrap();
        store.publish();
        store.put("c", "1");
        assert_eq!(
            seen(&history(&store, 6).unwrap().changes),
            [all[5].clone(), (7, "c".into(), false)]
        );
    }
}

#[test]
fn history_comes_in_pieces_up_to_where_it_is_asked_for() {
    let mut store = Store::new();
    for n in 0..10 {
        store.put("a", &format!("{n}"));
    }
    let mut next = Some(Revision::new(3, 0));
    let mut revs = vec![];
    while let Some(from) = next {
        let piece = store.mvcc.history(from, 9, 100).unwrap();
        assert!((1..=3).contains(&piece.changes.len()));
        revs.extend(piece.changes.iter().map(|change| change.rev.main));
        next = piece.next;
    }
    assert_eq!(revs, (3..=9).collect::<Vec<_>>());
}

#[test]
fn the_previous_value_is_the_one_before_the_transaction() {
    let mut store = Store::new();
    store.put("a", "1");
    let mut txn = store.head.begin();
    txn.delete_range(&KeyRange::All);
    txn.put(b"a", b"2", types::LeaseId(0));
    txn.finish();
    store.publish();
    let previous = |store: &Store, main| {
        let kv = store.mvcc.previous(b"a", main, Wait::Yes).unwrap()?;
        Some(text(&[kv]).remove(0).1)
    };
    assert_eq!(previous(&store, 2), None);
    assert_eq!(previous(&store, 3).as_deref(), Some("1"));
    assert_eq!(previous(&store, 4).as_deref(), Some("2"));
    store.compact(3);
    assert_eq!(previous(&store, 3), None, "compacted");
    assert_eq!(previous(&store, 4).as_deref(), Some("2"));
}
