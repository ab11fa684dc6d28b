//! Range against etcd's algorithm written down naively: fetch, filter, sort, cut.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use mvcc::{Cursor, KvFields, RangeError, RangeOptions, RangeResult, SortOrder, SortTarget, Wait};
use proptest::prelude::*;
use types::{KeyRange, LeaseId};

use crate::store::{Store, text};

/// What a key was after some transaction; nothing after a delete.
#[derive(Clone, Debug)]
struct Version {
    create_rev: i64,
    mod_rev: i64,
    version: i64,
    value: String,
    lease: i64,
}

/// Every state the keys ever had: (revision, state).
type History = BTreeMap<String, Vec<(i64, Option<Version>)>>;

#[derive(Clone, Debug)]
enum Write {
    Put(u8, u8, i64),
    Delete(u8, u8),
}

fn name(n: u8) -> String {
    format!("key/{:02}", n % 24)
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        5 => (any::<u8>(), 0..6u8, 0..3i64).prop_map(|(key, value, lease)| Write::Put(key, value, lease)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Write::Delete(from, to)),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    (0..4, any::<u8>(), any::<u8>()).prop_map(|(kind, a, b)| match kind {
        0 => KeyRange::One(name(a).into()),
        1 => KeyRange::Span(name(a).into(), name(b).into()),
        2 => KeyRange::From(name(a).into()),
        _ => KeyRange::All,
    })
}

fn options() -> impl Strategy<Value = RangeOptions> {
    let order = prop_oneof![
        Just(SortOrder::None),
        Just(SortOrder::Ascend),
        Just(SortOrder::Descend)
    ];
    let target = prop_oneof![
        Just(SortTarget::Key),
        Just(SortTarget::Version),
        Just(SortTarget::Create),
        Just(SortTarget::Mod),
        Just(SortTarget::Value),
    ];
    let bound = || prop_oneof![4 => Just(0i64), 1 => 1..40i64];
    let bounds = (bound(), bound(), bound(), bound());
    (
        range(),
        -1..45i64,
        -1..12i64,
        order,
        target,
        any::<bool>(),
        0..5,
        bounds,
    )
        .prop_map(
            |(range, revision, limit, order, target, keys_only, count_only, bounds)| {
                let (min_mod, max_mod, min_create, max_create) = bounds;
                RangeOptions {
                    revision,
                    limit,
                    order,
                    target,
                    keys_only,
                    count_only: count_only == 0,
                    min_mod,
                    max_mod,
                    min_create,
                    max_create,
                    ..RangeOptions::new(range)
                }
            },
        )
}

/// etcd's algorithm, step by step.
fn expected(history: &History, o: &RangeOptions, current: i64) -> Result<RangeResult, RangeError> {
    let at = if o.revision <= 0 { current } else { o.revision };
    if at > current {
        return Err(RangeError::FutureRev);
    }
    let live = |(key, states): (&String, &Vec<(i64, Option<Version>)>)| {
        let (_, state) = states.iter().rfind(|(rev, _)| *rev <= at)?;
        Some((key.clone(), state.clone()?))
    };
    let in_range = history.iter().filter(|(key, _)| o.range.contains(key.as_bytes()));
    let mut found: Vec<_> = in_range.filter_map(live).collect();
    let mut result = RangeResult {
        count: found.len() as i64,
        revision: current,
        ..Default::default()
    };
    if o.count_only {
        return Ok(result);
    }

    let filters = [o.min_mod, o.max_mod, o.min_create, o.max_create] != [0; 4];
    if o.limit > 0 && o.order == SortOrder::None && !filters {
        found.truncate(o.limit as usize + 1);
    }
    let within = |n: i64, min: i64, max: i64| (min == 0 || min <= n) && (max == 0 || n <= max);
    found.retain(|(_, v)| {
        within(v.mod_rev, o.min_mod, o.max_mod) && within(v.create_rev, o.min_create, o.max_create)
    });
    let descend = o.order == SortOrder::Descend;
    if descend || o.order == SortOrder::Ascend || o.target != SortTarget::Key {
        found.sort_by(|(key_a, a), (key_b, b)| {
            let order = match o.target {
                SortTarget::Key => key_a.cmp(key_b),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_rev.cmp(&b.create_rev),
                SortTarget::Mod => a.mod_rev.cmp(&b.mod_rev),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if descend { order.reverse() } else { order }
        });
    }
    if o.limit > 0 && found.len() > o.limit as usize {
        found.truncate(o.limit as usize);
        result.more = true;
    }
    result.kvs = found
        .into_iter()
        .map(|(key, version)| kv(&key, version, o))
        .collect();
    Ok(result)
}

fn kv(key: &str, mut v: Version, o: &RangeOptions) -> Bytes {
    if o.keys_only {
        v.value.clear();
        v.lease *= i64::from(o.target == SortTarget::Value);
    }
    let Version {
        create_rev,
        mod_rev,
        version,
        ref value,
        lease,
    } = v;
    let fields = KvFields {
        key: key.as_bytes(),
        create_rev,
        mod_rev,
        version,
        value: value.as_bytes(),
        lease,
    };
    let mut out = BytesMut::new();
    fields.encode(&mut out);
    out.freeze()
}

/// Applies transactions to a store and to the model. Returns the current revision.
fn run(transactions: &[Vec<Write>], store: &mut Store, history: &mut History) -> i64 {
    for writes in transactions {
        let mut txn = store.head.begin();
        for write in writes {
            apply(write, &mut txn, history);
        }
        txn.finish();
    }
    store.publish()
}

fn apply(write: &Write, txn: &mut mvcc::WriteTxn<'_>, history: &mut History) {
    let main = txn.begin_revision() + 1;
    match *write {
        Write::Put(key, value, lease) => {
            let (key, value) = (name(key), format!("value {value}"));
            let states = history.entry(key.clone()).or_default();
            let prev = states.last().and_then(|(_, state)| state.clone());
            let version = Version {
                create_rev: prev.as_ref().map_or(main, |prev| prev.create_rev),
                mod_rev: main,
                version: prev.as_ref().map_or(1, |prev| prev.version + 1),
                value: value.clone(),
                lease,
            };
            states.push((main, Some(version.clone())));
            let put = txn.put(key.as_bytes(), value.as_bytes(), LeaseId(lease));
            assert_eq!(put.prev.map(|meta| meta.version), prev.map(|prev| prev.version));
            assert_eq!(
                (put.new.create_rev, put.new.version),
                (version.create_rev, version.version)
            );
        }
        Write::Delete(from, to) => {
            let range = KeyRange::Span(name(from).into(), name(to).into());
            let mut gone = vec![];
            for (key, states) in history
                .iter_mut()
                .filter(|(key, _)| range.contains(key.as_bytes()))
            {
                if matches!(states.last(), Some((_, Some(_)))) {
                    states.push((main, None));
                    gone.push(Bytes::from(key.clone()));
                }
            }
            let deleted: Vec<_> = txn.delete_range(&range).into_iter().map(|(key, _)| key).collect();
            assert_eq!(deleted, gone);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_view_answers_like_etcds_algorithm(
        transactions in proptest::collection::vec(proptest::collection::vec(write(), 1..4), 0..40),
        options in proptest::collection::vec(options(), 1..20),
    ) {
        let (mut store, mut history) = (Store::new(), History::new());
        let current = run(&transactions, &mut store, &mut history);
        let view = store.mvcc.view();
        for options in &options {
            prop_assert_eq!(view.range(options, Wait::Yes), expected(&history, options, current), "{:?}", options);
        }
    }

    #[test]
    fn a_transaction_sees_what_it_wrote(
        transactions in proptest::collection::vec(proptest::collection::vec(write(), 1..4), 0..20),
        steps in proptest::collection::vec((write(), options()), 1..12),
    ) {
        let (mut store, mut history) = (Store::new(), History::new());
        run(&transactions, &mut store, &mut history);
        let mut txn = store.head.begin();
        for (write, options) in &steps {
            apply(write, &mut txn, &mut history);
            let current = txn.revision();
            prop_assert_eq!(txn.range(options), expected(&history, options, current), "{:?}", options);
        }
    }

    #[test]
    fn a_range_is_answered_if_it_weighs_no_more_than_it_may(
        transactions in proptest::collection::vec(proptest::collection::vec(write(), 1..4), 0..40),
        options in options(),
    ) {
        let (mut store, mut history) = (Store::new(), History::new());
        run(&transactions, &mut store, &mut history);
        let answer = store.mvcc.range(&options, Wait::Yes);
        let within = |max_bytes| store.mvcc.range(&RangeOptions { max_bytes, ..options.clone() }, Wait::Yes);
        if let Ok(found) = &answer {
            let bytes = found.kvs.iter().map(|kv| kv.len() as u64).sum();
            let weight = store.mvcc.weigh(&options);
            prop_assert!(weight >= bytes);
            prop_assert_eq!(within(weight), answer);
            if bytes > 0 {
                prop_assert!(matches!(within(bytes - 1), Err(RangeError::Heavy(weight)) if weight >= bytes));
            }
        }
    }

    #[test]
    fn chunks_together_are_the_range(
        transactions in proptest::collection::vec(proptest::collection::vec(write(), 1..4), 0..40),
        range in range(), limit in 1..9usize, keys_only: bool,
    ) {
        let (mut store, mut history) = (Store::new(), History::new());
        run(&transactions, &mut store, &mut history);
        let view = store.mvcc.view();
        let whole = RangeOptions { keys_only, ..RangeOptions::new(range.clone()) };
        let whole = view.range(&whole, Wait::Yes).unwrap();
        let mut cursor = Cursor::default();
        let mut kvs = vec![];
        while !cursor.is_done() {
            let chunk = view.chunk(&range, keys_only, &mut cursor, limit, Wait::Yes).unwrap();
            prop_assert!(chunk.len() <= limit);
            kvs.extend(chunk);
        }
        prop_assert_eq!(view.count(&range), Ok(kvs.len() as i64));
        prop_assert_eq!(kvs, whole.kvs);
    }
}

#[test]
fn a_range_of_many_slices_is_whole() {
    let mut store = Store::new();
    let mut txn = store.head.begin();
    for n in 0..5000 {
        txn.put(format!("{n:05}").as_bytes(), b"v", LeaseId(0));
    }
    txn.finish();
    store.publish();
    let answer = |limit| {
        let options = RangeOptions {
            limit,
            ..RangeOptions::new(KeyRange::All)
        };
        store.mvcc.range(&options, Wait::Yes).unwrap()
    };
    assert_eq!(answer(0).kvs.len(), 5000);
    for limit in [1, 1023, 1024, 1025, 4999, 5000, 5001] {
        let answer = answer(limit);
        assert_eq!((answer.kvs.len() as i64, answer.count), (limit.min(5000), 5000));
        assert_eq!(answer.more, limit < 5000);
        assert_eq!(
            text(&answer.kvs).last().unwrap().0,
            format!("{:05}", limit.min(5000) - 1)
        );
    }
}
