//! The index against a model that is too simple to be wrong: a sorted map from a key to the list
//! of its revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use proptest::prelude::*;
use types::{KeyRange, Revision};

use super::{Cursor, KeyIndex, KeyMeta, Restored};

#[derive(Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, Vec<Restored>>,
}

impl Model {
    fn put(&mut self, key: &[u8], rev: Revision) -> Option<KeyMeta> {
        let prev = self.get(key, i64::MAX);
        let (create_rev, version) = prev.map_or((rev.main, 1), |prev| (prev.create_rev, prev.version + 1));
        self.push(
            key,
            Restored {
                rev,
                create_rev,
                version,
                tombstone: false,
            },
        );
        prev
    }

    fn tombstone(&mut self, key: &[u8], rev: Revision) -> Option<KeyMeta> {
        let prev = self.get(key, i64::MAX)?;
        self.push(
            key,
            Restored {
                rev,
                create_rev: 0,
                version: 0,
                tombstone: true,
            },
        );
        Some(prev)
    }

    fn push(&mut self, key: &[u8], change: Restored) {
        self.keys.entry(key.to_vec()).or_default().push(change);
    }

    fn get(&self, key: &[u8], at: i64) -> Option<KeyMeta> {
        let change = self.keys.get(key)?.iter().rfind(|change| change.rev.main <= at)?;
        let Restored {
            rev,
            create_rev,
            version,
            tombstone,
        } = *change;
        (!tombstone).then_some(KeyMeta {
            mod_rev: rev,
            create_rev,
            version,
        })
    }

    fn range(&self, range: &KeyRange, at: i64) -> Vec<(Vec<u8>, KeyMeta)> {
        let keys = self.keys.keys().filter(|key| range.contains(key));
        keys.filter_map(|key| Some((key.clone(), self.get(key, at)?)))
            .collect()
    }

    fn retains(&self, key: &[u8], rev: Revision, compacted: i64) -> bool {
        let Some(changes) = self.keys.get(key) else {
            return false;
        };
        let newest = changes.iter().rfind(|change| change.rev.main <= compacted);
        changes.iter().any(|change| change.rev == rev)
            && (rev.main > compacted
                || newest.is_some_and(|kept| kept.rev == rev && (!kept.tombstone || rev.main == compacted)))
    }

    /// What a compaction drops, in revision order.
    fn compact(&mut self, compacted: i64) -> BTreeSet<Revision> {
        let mut dropped = BTreeSet::new();
        for key in self.keys.keys().cloned().collect::<Vec<_>>() {
            let (kept, gone): (Vec<_>, Vec<_>) = self.keys[&key]
                .iter()
                .partition(|change| self.retains(&key, change.rev, compacted));
            dropped.extend(gone.iter().map(|change: &Restored| change.rev));
            self.keys.insert(key, kept);
        }
        self.keys.retain(|_, changes| !changes.is_empty());
        dropped
    }

    /// Every change with its key, in revision order.
    fn history(&self) -> Vec<(Vec<u8>, Restored)> {
        let changes = self
            .keys
            .iter()
            .flat_map(|(key, changes)| changes.iter().map(|c| (key.clone(), *c)));
        let mut history: Vec<_> = changes.collect();
        history.sort_by_key(|(_, change)| change.rev);
        history
    }
}

/// The index, its model, and the revisions both stand at.
struct Pair {
    index: KeyIndex,
    model: Model,
    current: i64,
    compacted: i64,
    /// Every key there ever was.
    keys: BTreeSet<Vec<u8>>,
}

impl Default for Pair {
    fn default() -> Self {
        let (index, model) = Default::default();
        Pair {
            index,
            model,
            current: 1,
            compacted: -1,
            keys: BTreeSet::new(),
        }
    }
}

impl Pair {
    /// One transaction that puts all these keys, or deletes them.
    fn write(&mut self, keys: Vec<Vec<u8>>, delete: bool) {
        let mut sub = 0;
        for key in keys {
            let rev = Revision::new(self.current + 1, sub);
            let changed = if delete {
                let prev = self.index.tombstone(&key, rev);
                assert_eq!(prev, self.model.tombstone(&key, rev));
                prev.is_some()
            } else {
                let (new, prev) = self.index.put(&key, rev);
                assert_eq!(prev, self.model.put(&key, rev));
                assert_eq!(Some(new), self.model.get(&key, i64::MAX));
                true
            };
            sub += u32::from(changed);
            self.keys.insert(key);
        }
        self.current += i64::from(sub > 0);
    }

    fn compact(&mut self, back: i64, budget: usize) {
        let rev = self.current - back;
        if rev <= self.compacted {
            return;
        }
        self.compacted = rev;
        let mut dropped = vec![];
        let (mut cursor, keys, mut passed) = (Cursor::default(), self.index.len(), 0);
        while !cursor.is_done() {
            passed += self.index.compact(rev, &mut cursor, budget, &mut dropped);
            self.index.check();
        }
        assert_eq!(passed, keys);
        assert_eq!(
            dropped.iter().copied().collect::<BTreeSet<_>>(),
            self.model.compact(rev)
        );
    }

    /// Builds the index anew from the records of all changes, some of the superseded ones missing:
    /// any put, but a tombstone only where nothing is left for it to end.
    fn restore(&mut self, back: i64, missing: u64) {
        let compacted = (self.current - back).max(self.compacted);
        let mut dropped = BTreeSet::new();
        let mut gone_before = BTreeSet::new();
        let mut begun = BTreeSet::new();
        self.index = KeyIndex::new();
        for (nth, (key, change)) in self.model.history().into_iter().enumerate() {
            let needed = change.tombstone && begun.contains(&key);
            if !needed && !self.model.retains(&key, change.rev, compacted) && missing >> (nth % 64) & 1 == 1 {
                gone_before.insert(change.rev);
                continue;
            }
            if change.tombstone {
                begun.remove(&key)
            } else {
                begun.insert(key.clone())
            };
            let mut now = vec![];
            self.index.restore(&key, change, compacted, &mut now);
            for rev in now {
                assert!(dropped.insert(rev), "{rev} was dropped before");
            }
        }
        let gone = self.model.compact(compacted);
        assert_eq!(dropped, gone.difference(&gone_before).copied().collect());
        self.compacted = compacted;
    }

    fn compare(&self, range: &KeyRange, at: i64, budget: usize) {
        let at = at.clamp(self.compacted.max(1), self.current);
        let expected = self.model.range(range, at);
        let mut walked = vec![];
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            let before = walked.len();
            self.index.walk(range, at, &mut cursor, budget, |key, meta| {
                let mut whole = vec![];
                key.write_to(&mut whole);
                assert_eq!(whole.len(), key.len());
                walked.push((whole, meta));
                match walked.len() - before < budget {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            });
        }
        assert_eq!(walked, expected);
        let mut count = 0;
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            count += self.index.count(range, at, &mut cursor, budget);
        }
        assert_eq!(count, expected.len() as i64);
    }

    fn check(&self) {
        self.index.check();
        assert_eq!(self.index.len(), self.model.keys.len());
        for at in [self.current, self.current - 3] {
            self.compare(&KeyRange::All, at, 1000);
        }
        for (nth, key) in self.keys.iter().enumerate().step_by(1 + self.keys.len() / 50) {
            let at = (self.current - nth as i64 % 7).max(self.compacted);
            assert_eq!(self.index.get(key, at), self.model.get(key, at));
            for change in self.model.keys.get(key).into_iter().flatten() {
                for compacted in [self.compacted, at] {
                    assert_eq!(
                        self.index.retains(key, change.rev, compacted),
                        self.model.retains(key, change.rev, compacted)
                    );
                }
            }
        }
    }
}

/// One key of several families: dense names, short byte strings that are prefixes of each other,
/// names with long tails, and giants that do not fit beside others.
fn key_of(n: u32) -> Vec<u8> {
    match n % 16 {
        0 => (0..n / 16 % 7)
            .map(|bit| [0, 0, b'/', 255][(n >> (5 + bit)) as usize % 4])
            .collect(),
        1 => [
            format!("/registry/{}/", n % 900).as_bytes(),
            &vec![b'x'; n as usize % 200],
        ]
        .concat(),
        2 if n.is_multiple_of(11) => {
            [b"/registry/pods/".as_slice(), &vec![b'g'; n as usize % 20_000]].concat()
        }
        3 => format!("/registry/pods/namespace-{}/pod-{n:08x}", n % 3).into_bytes(),
        _ => format!("/registry/pods/{:06}", n % 4000).into_bytes(),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(u32),
    PutRun(u32, u32),
    Delete(u32),
    DeleteRun(u32, u32),
    Compact(i64, usize),
    Restore(i64, u64),
    Compare(u32, u32, u8, i64, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..100_000u32;
    let run = 1..400u32;
    prop_oneof![
        6 => n.clone().prop_map(Op::Put),
        6 => (0..48u32).prop_map(Op::Put),
        3 => (n.clone(), run.clone()).prop_map(|(n, run)| Op::PutRun(n, run)),
        3 => (0..48u32).prop_map(Op::Delete),
        2 => (n.clone(), run).prop_map(|(n, run)| Op::DeleteRun(n, run)),
        2 => (0..12i64, 1..300usize).prop_map(|(back, budget)| Op::Compact(back, budget)),
        1 => (0..12i64, any::<u64>()).prop_map(|(back, missing)| Op::Restore(back, missing)),
        4 => (n.clone(), n, 0..4u8, 0..12i64, 1..200usize)
            .prop_map(|(a, b, kind, back, budget)| Op::Compare(a, b, kind, back, budget)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_index_answers_like_a_sorted_map(ops in proptest::collection::vec(op(), 1..60)) {
        let mut pair = Pair::default();
        for op in ops {
            match op {
                Op::Put(n) => pair.write(vec![key_of(n)], false),
                Op::PutRun(n, run) => pair.write((n..n + run).map(key_of).collect(), false),
                Op::Delete(n) => pair.write(vec![key_of(n)], true),
                Op::DeleteRun(n, run) => pair.write((n..n + run).map(key_of).collect(), true),
                Op::Compact(back, budget) => pair.compact(back, budget),
                Op::Restore(back, missing) => pair.restore(back, missing),
                Op::Compare(a, b, kind, back, budget) => {
                    let (a, b) = (key_of(a).into(), key_of(b).into());
                    let range = match kind {
                        0 => KeyRange::Span(a, b),
                        1 => KeyRange::From(a),
                        2 => KeyRange::One(a),
                        _ => KeyRange::All,
                    };
                    pair.compare(&range, pair.current - back, budget);
                }
            }
            pair.check();
        }
    }
}

#[test]
fn deleting_and_compacting_everything_leaves_an_empty_index() {
    let mut pair = Pair::default();
    let keys: Vec<_> = (0..40_000u32)
        .map(|n| format!("key-{:08}", n.wrapping_mul(2_654_435_761)).into())
        .collect();
    pair.write(keys.clone(), false);
    assert!(pair.index.branches.len() > 1, "enough keys for several branches");
    pair.write(keys[..30_000].to_vec(), true);
    pair.write(vec![b"last".to_vec()], false);
    pair.compact(0, 5000);
    pair.index.check();
    assert_eq!(pair.index.len(), 10_001);
    let leaves: usize = pair.index.branches.iter().map(|branch| branch.leaves.len()).sum();
    assert!(
        leaves < 10_001 / 20,
        "{leaves} leaves: thinned out ones were not joined"
    );
    pair.write(keys[30_000..].to_vec(), true);
    pair.write(vec![b"last".to_vec()], true);
    pair.write(vec![b"other".to_vec()], false);
    pair.write(vec![b"other".to_vec()], true);
    pair.write(vec![b"x".to_vec()], false);
    pair.write(vec![b"x".to_vec()], true);
    pair.compact(0, 5000);
    assert_eq!(pair.index.len(), 1, "a tombstone at the compact revision stays");
    pair.check();
    pair.write(vec![b"y".to_vec()], false);
    pair.compact(0, 5000);
    assert_eq!(pair.index.len(), 1);
    assert_eq!((pair.index.branches.len(), pair.index.pasts.len()), (1, 0));
    pair.check();
}

#[test]
fn numbers_that_outgrow_a_slot_are_exact() {
    let mut index = KeyIndex::new();
    let far = 1 << 40;
    let restored = |main, create_rev, version| Restored {
        rev: Revision::new(main, 0),
        create_rev,
        version,
        tombstone: false,
    };
    let mut dropped = vec![];
    index.restore(b"old", restored(far, 7, 3), far, &mut dropped);
    index.restore(b"busy", restored(far, far - 5, 1 << 33), far, &mut dropped);
    index.restore(b"odd", restored(far, far + 9, -4), far, &mut dropped);
    let meta = |main, create_rev, version| KeyMeta {
        mod_rev: Revision::new(main, 0),
        create_rev,
        version,
    };
    for step in 0..3 {
        let at = far + step;
        assert_eq!(index.get(b"old", at), Some(meta(at, 7, 3 + step)));
        assert_eq!(index.get(b"busy", at), Some(meta(at, far - 5, (1 << 33) + step)));
        for key in [&b"old"[..], b"busy"] {
            index.put(key, Revision::new(at + 1, 0));
        }
        index.check();
    }
    for compacted in [far + 1, far + 3] {
        index.compact(compacted, &mut Cursor::default(), usize::MAX, &mut dropped);
        index.check();
        assert_eq!(index.get(b"old", far + 3), Some(meta(far + 3, 7, 6)));
        assert_eq!(
            index.get(b"busy", far + 3),
            Some(meta(far + 3, far - 5, (1 << 33) + 3))
        );
    }
    assert_eq!(
        index.get(b"odd", far),
        Some(meta(far, far + 9, 1)),
        "a senseless version counts as one"
    );
    index.tombstone(b"old", Revision::new(far + 4, 0));
    index.put(b"old", Revision::new(far + 5, 0));
    assert_eq!(index.get(b"old", far + 5), Some(meta(far + 5, far + 5, 1)));
    assert_eq!(index.get(b"old", far + 3), Some(meta(far + 3, 7, 6)));
}

#[test]
fn a_key_costs_little_more_than_its_bytes_and_an_old_revision_32_at_most() {
    let mut index = KeyIndex::new();
    let keys = 50_000u32;
    // 25 bytes with nothing in common, in no order.
    let key = |n: u32| {
        format!(
            "{:025x}",
            u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 28
        )
    };
    for n in 0..keys {
        index.put(key(n).as_bytes(), Revision::new(2 + i64::from(n), 0));
    }
    let bytes = index.allocated_bytes();
    assert!(
        bytes / keys as usize <= 61,
        "{} bytes per key",
        bytes / keys as usize
    );
    for n in 0..100_000 {
        index.put(b"hot", Revision::new(100_000 + n, 0));
    }
    assert!(index.allocated_bytes() - bytes <= 32 * 100_000 + 100_000);
    index.compact(200_000, &mut Cursor::default(), usize::MAX, &mut vec![]);
    assert!(
        index.allocated_bytes() <= bytes + 1000,
        "what a compaction drops is given back"
    );
    index.check();
}
