//! Write transactions: revisions, what they see, and what becomes of them.

use mvcc::record::Content;
use mvcc::{Head, KeyMeta, KvFields, RangeError, RangeOptions, Table};
use types::{ErrorKind, KeyRange, LeaseId, Revision};

use crate::store::{Store, text};

const NO_LEASE: LeaseId = LeaseId(0);

fn meta(main: i64, sub: u32, create_rev: i64, version: i64) -> KeyMeta {
    KeyMeta {
        mod_rev: Revision::new(main, sub),
        create_rev,
        version,
    }
}

#[test]
fn a_transaction_is_one_revision_and_its_changes_are_numbered() {
    let mut store = Store::new();
    let mut txn = store.head.begin();
    assert_eq!((txn.begin_revision(), txn.revision()), (1, 1));
    assert_eq!(txn.put(b"a", b"1", NO_LEASE).new, meta(2, 0, 2, 1));
    assert_eq!((txn.begin_revision(), txn.revision()), (1, 2));
    assert_eq!(txn.put(b"b", b"1", NO_LEASE).new, meta(2, 1, 2, 1));
    assert_eq!(txn.delete_range(&KeyRange::All).len(), 2);
    let again = txn.put(b"a", b"2", NO_LEASE);
    assert_eq!(
        (again.new, again.prev),
        (meta(2, 4, 2, 1), None),
        "a deleted key begins anew"
    );
    assert_eq!(txn.finish(), 2);
    assert_eq!(store.publish(), 2);
    assert_eq!(store.mvcc.view().get(b"a"), Ok(Some(meta(2, 4, 2, 1))));
    assert_eq!(store.mvcc.view().get(b"b"), Ok(None));
}

#[test]
fn a_transaction_that_changes_nothing_leaves_the_revision() {
    let mut store = Store::new();
    let mut txn = store.head.begin();
    assert!(txn.delete_range(&KeyRange::All).is_empty());
    assert_eq!(txn.get(b"a"), None);
    assert!(!txn.has_changes());
    assert_eq!(txn.finish(), 1);
    assert_eq!(store.publish(), 1);
}

#[test]
fn nobody_sees_a_revision_before_it_is_published() {
    let mut store = Store::new();
    store.put("a", "1");
    let before = store.mvcc.view();
    store.head.begin().put(b"a", b"2", NO_LEASE);
    store.head.begin().delete_range(&KeyRange::All);
    let all = RangeOptions::new(KeyRange::All);
    let seen = store.mvcc.range(&all, mvcc::Wait::No).unwrap();
    assert_eq!(
        (text(&seen.kvs), seen.revision),
        (vec![("a".into(), "1".into())], 2)
    );
    store.publish();
    assert_eq!(store.mvcc.range(&all, mvcc::Wait::No).unwrap().count, 0);
    assert_eq!(
        before.range(&all, mvcc::Wait::No).unwrap(),
        seen,
        "a view stays where it was"
    );
    let old = RangeOptions { revision: 3, ..all };
    assert_eq!(
        text(&store.mvcc.range(&old, mvcc::Wait::No).unwrap().kvs)[0].1,
        "2"
    );
}

#[test]
fn values_are_read_back_from_the_batch_and_from_the_store() {
    let mut store = Store::new();
    let value = |kv: &bytes::Bytes| KvFields::parse(kv).unwrap().value.to_vec();
    store.put("a", "stored");
    store.head.begin().put(b"b", b"pending", NO_LEASE);
    let mut txn = store.head.begin();
    txn.put(b"c", b"own", NO_LEASE);
    for (key, expected) in [("a", "stored"), ("b", "pending"), ("c", "own")] {
        let meta = txn.get(key.as_bytes()).unwrap();
        assert_eq!(value(&txn.value(meta.mod_rev).unwrap()), expected.as_bytes());
    }
    let all = txn.range(&RangeOptions::new(KeyRange::All)).unwrap();
    assert_eq!(
        all.kvs.iter().map(value).collect::<Vec<_>>(),
        [&b"stored"[..], b"pending", b"own"]
    );
    let old = RangeOptions {
        revision: 2,
        ..RangeOptions::new(KeyRange::All)
    };
    assert_eq!(txn.range(&old).unwrap().count, 1);
    assert_eq!(
        txn.range(&RangeOptions { revision: 5, ..old }),
        Err(RangeError::FutureRev)
    );
}

#[test]
fn many_keys_are_deleted_in_key_order_in_one_revision() {
    let mut store = Store::new();
    let mut txn = store.head.begin();
    for n in (0..3000).rev() {
        txn.put(format!("{n:04}").as_bytes(), b"v", NO_LEASE);
    }
    txn.finish();
    store.publish();
    let mut txn = store.head.begin();
    let deleted = txn.delete_range(&KeyRange::From("1000".into()));
    assert_eq!(txn.finish(), 3);
    assert_eq!(deleted.len(), 2000);
    assert!(deleted.is_sorted_by_key(|(key, _)| key.clone()));
    assert_eq!(deleted[0], ("1000".into(), meta(2, 1999, 2, 1)));
    let batch = store.head.seal(1, 1, None);
    let revs: Vec<_> = batch.changes.iter().map(|change| change.rev).collect();
    assert_eq!(
        revs,
        (0..2000).map(|sub| Revision::new(3, sub)).collect::<Vec<_>>()
    );
    assert!(batch.changes.iter().all(|change| change.tombstone));
}

#[test]
fn a_sealed_batch_holds_the_records_of_its_transactions_and_names_where_they_end() {
    let mut store = Store::new();
    store.head.begin().put(b"a", b"1", LeaseId(-7));
    store.head.table_put(Table::Lease, b"id", b"lease");
    store.head.table_delete(Table::Alarm, b"alarm");
    assert!(store.head.pending_len() > 0);
    let batch = store.head.seal(17, 3, None);
    assert_eq!(store.head.pending_len(), 0);
    assert_eq!((batch.commit.applied_index, batch.commit.term), (17, 3));
    assert_eq!((batch.commit.revision, batch.commit.compact_revision), (2, -1));
    let (first, _) = Content::read(&batch.bytes, 0).unwrap();
    assert_eq!(first, Content::Change(batch.changes[0].clone()));
    let fields = KvFields::parse(&batch.changes[0].kv).unwrap();
    let expected = KvFields {
        key: b"a",
        create_rev: 2,
        mod_rev: 2,
        version: 1,
        value: b"1",
        lease: -7,
    };
    assert_eq!(fields, expected);
    assert_eq!(batch.tables.len(), 2);
    assert!(
        store.head.seal(18, 3, None).changes.is_empty(),
        "what is sealed is out"
    );
}

#[test]
fn compaction_goes_forward_and_not_into_the_future() {
    let mut store = Store::new();
    assert_eq!(store.head.compact(0), Ok(()), "a fresh store accepts 0 once");
    assert_eq!(store.head.compact(0), Err(ErrorKind::Compacted));
    store.put("a", "1");
    store.put("a", "2");
    assert_eq!(store.head.compact(4), Err(ErrorKind::FutureRev));
    assert_eq!(store.head.compact(3), Ok(()));
    assert_eq!(store.head.compact(2), Err(ErrorKind::Compacted));
    let old = RangeOptions {
        revision: 2,
        ..RangeOptions::new(KeyRange::All)
    };
    assert_eq!(
        store.head.begin().range(&old),
        Err(RangeError::Compacted),
        "though readers do not know yet"
    );
    assert_eq!(store.mvcc.range(&old, mvcc::Wait::No).unwrap().count, 1);
    let batch = store.head.seal(1, 1, None);
    assert_eq!(batch.commit.compact_revision, 3);
    let record = batch.tables.last().unwrap();
    assert_eq!(
        (record.table, &record.key[..]),
        (Table::Meta, Head::SCHEDULED_COMPACT)
    );
    assert_eq!(
        record.value.as_deref(),
        Some(&Revision::new(3, 0).to_bolt_key()[..])
    );
}
