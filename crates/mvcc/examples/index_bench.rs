//! What the key index costs: bytes per key and nanoseconds per operation.
//!
//! `cargo run --release -p mvcc --example index_bench [keys, default 1000000]`
//!
//! Times are medians over 64 slices of a run, so that a busy machine does not spoil them.

#![allow(clippy::disallowed_methods, reason = "a benchmark asks what time it is")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use mvcc::{Cursor, Head, KeyIndex, MemoryValues, Mvcc, RangeOptions, Wait};
use types::{KeyRange, LeaseId, Revision};

/// The nth key of a kind.
type KeyOf = fn(u64) -> Vec<u8>;

fn main() {
    let keys = std::env::args()
        .nth(1)
        .map_or(1_000_000, |n| n.parse().expect("a number of keys"));
    let names: [(&str, KeyOf); 4] = [
        ("dense", dense),
        ("random", random),
        ("pods", pod),
        ("etcd-bench", etcd_bench),
    ];
    println!("{keys} keys; nanoseconds, unless said otherwise\n");
    print!("{:<34}", "");
    names.iter().for_each(|(name, _)| print!("{name:>12}"));
    println!();
    let columns = names.map(|(_, key)| column(key, keys));
    for (row, (what, _)) in columns[0].iter().enumerate() {
        print!("{what:<34}");
        columns
            .iter()
            .for_each(|column| print!("{:>12.1}", column[row].1));
        println!();
    }
}

/// 25 bytes in sequence.
fn dense(n: u64) -> Vec<u8> {
    format!("/bench/key-{n:014}").into_bytes()
}

/// 25 bytes with nothing in common.
fn random(n: u64) -> Vec<u8> {
    format!("{:016x}{:09x}", mix(n), mix(n ^ 77) >> 28).into_bytes()
}

/// A Kubernetes pod, some 55 bytes: a hundred namespaces, some thousand deployments.
fn pod(n: u64) -> Vec<u8> {
    let deployment = mix(n) % 4096;
    let (set, pod) = (mix(deployment) >> 28 & 0xfff_ffff, mix(n ^ 5) & 0xf_ffff);
    format!(
        "/registry/pods/ns-{:03}/service-{deployment:04}-{set:07x}-{pod:05x}{n:x}",
        deployment % 100
    )
    .into_bytes()
}

/// What etcd's own benchmark writes: eight raw bytes of a number, then zeros.
fn etcd_bench(n: u64) -> Vec<u8> {
    [&mix(n).to_be_bytes()[..], &[0; 17]].concat()
}

/// splitmix64: spreads numbers evenly.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// Every measurement for keys of one kind.
fn column(key: KeyOf, keys: u64) -> Vec<(&'static str, f64)> {
    let mut rev = 1;
    let mut next = || {
        rev += 1;
        Revision::new(rev, 0)
    };
    let mut rows = vec![];
    // A prime that divides no reasonable number of keys: every key once, jumping around.
    let mixed: Vec<_> = (0..keys).map(|n| key(n * 999_999_937 % keys)).collect();
    let absent: Vec<_> = mixed.iter().map(|key| [key, &b"!"[..]].concat()).collect();
    let at = |n: usize| &mixed[n];

    let mut map = BTreeMap::new();
    rows.push((
        "(BTreeMap: insert at random)",
        timed(keys, |n| map.insert(at(n).clone(), n)),
    ));
    rows.push(("(BTreeMap: get at random)", timed(keys, |n| map.get(at(n)))));
    drop(map);

    let mut index = KeyIndex::new();
    rows.push((
        "put, new keys in order",
        timed(keys, |n| index.put(&key(n as u64), next())),
    ));
    let mut index = KeyIndex::new();
    rows.push((
        "put, new keys at random",
        timed(keys, |n| index.put(at(n), next())),
    ));
    rows.push((
        "bytes per key",
        index.allocated_bytes() as f64 / index.len() as f64,
    ));
    rows.push(("get at random", timed(keys, |n| index.get(at(n), i64::MAX))));
    rows.push(("get, absent", timed(keys, |n| index.get(&absent[n], i64::MAX))));
    let old = next().main;
    rows.push(("put, second revision", timed(keys, |n| index.put(at(n), next()))));
    rows.push(("put, third revision", timed(keys, |n| index.put(at(n), next()))));
    rows.push(("get at an older revision", timed(keys, |n| index.get(at(n), old))));

    let current = next().main;
    let mut cursor = Cursor::default();
    let walk = timed(keys / 1024, |_| {
        index.walk(&KeyRange::All, current, &mut cursor, 1024, |key, meta| {
            black_box((key, meta));
            ControlFlow::Continue(())
        });
    });
    rows.push(("walk, per key", walk / 1024.0));
    let mut cursor = Cursor::default();
    let start = Instant::now();
    while !cursor.is_done() {
        black_box(index.count(&KeyRange::All, current, &mut cursor, 1024));
    }
    rows.push((
        "count of all, per key",
        start.elapsed().as_nanos() as f64 / keys as f64,
    ));
    let ranges: Vec<_> = mixed
        .iter()
        .step_by(100)
        .map(|key| KeyRange::From(key.clone().into()))
        .collect();
    let range = timed(ranges.len() as u64, |n| {
        let mut left = 100;
        index.walk(&ranges[n], current, &mut Cursor::default(), 1024, |_, meta| {
            black_box(meta);
            left -= 1;
            if left > 0 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
    });
    rows.push(("range of 100 keys", range));
    for what in ["compact, per key", "compact with nothing to do, per key"] {
        let (mut cursor, mut dropped) = (Cursor::default(), vec![]);
        let start = Instant::now();
        while !cursor.is_done() {
            index.compact(current, &mut cursor, 1024, &mut dropped);
        }
        rows.push((what, start.elapsed().as_nanos() as f64 / keys as f64));
    }
    rows.push(("put of one hot key", timed(keys, |_| index.put(at(0), next()))));

    // The whole apply side, and a reader: the index behind its lock, records, batches, views.
    let values = Arc::new(MemoryValues::default());
    let mvcc = Mvcc::new(index, values.clone(), next().main, -1);
    let mut head = Head::new(mvcc.clone());
    let puts = keys.min(100_000);
    let put = timed(puts, |n| {
        head.begin().put(at(n), &[7; 256], LeaseId(0));
        if n % 64 == 63 {
            black_box(head.seal(1, 1, None));
        }
    });
    rows.push(("transaction: put of 256 bytes", put));
    for n in 0..puts as usize {
        head.begin().put(at(n), &[7; 256], LeaseId(0));
    }
    let batch = head.seal(1, 1, None);
    values.append(&batch);
    mvcc.publish(batch.commit.revision, -1);
    let ones: Vec<_> = mixed[..puts as usize]
        .iter()
        .map(|key| KeyRange::One(key.clone().into()))
        .collect();
    let get = timed(puts, |n| {
        mvcc.range(&RangeOptions::new(ones[n].clone()), Wait::No)
    });
    rows.push(("view: get of one key", get));
    rows
}

/// Median nanoseconds of an operation.
fn timed<T>(operations: u64, mut run: impl FnMut(usize) -> T) -> f64 {
    let slice = (operations as usize / 64).max(1);
    let mut times: Vec<_> = (0..64)
        .map(|nth| {
            let start = Instant::now();
            for n in nth * slice..((nth + 1) * slice).min(operations as usize) {
                black_box(run(n));
            }
            start.elapsed().as_nanos() as f64 / slice as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
