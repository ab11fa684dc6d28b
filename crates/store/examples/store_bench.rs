//! How fast the store is on this machine's disk, and what it costs in CPU time, which a busy machine changes less.
//!
//! `cargo run --release -p store --example store_bench -- [changes] [value bytes] [folder]`; without changes it only
//! opens the folder.

#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use env::RealDisk;
use mvcc::{Cursor, Head, Mvcc, Values, Wait};
use rustix::time::{ClockId, clock_gettime};
use store::{Options, Recovered, Rewriting, Store};
use types::{LeaseId, Revision};

/// Puts that are applied between two batches, as a busy apply loop does.
const BATCH: u64 = 100;

/// Random reads of each kind.
const READS: u64 = 500_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let changes: u64 = args.next().map_or(Ok(2_000_000), |arg| arg.parse())?;
    let value_len: usize = args.next().map_or(Ok(100), |arg| arg.parse())?;
    let tmp = tempfile::tempdir()?;
    let dir = args.next().map_or_else(|| tmp.path().join("kv"), PathBuf::from);

    let (store, recovered) = timed("open", 1, || open(&dir))?;
    if changes == 0 {
        return Ok(());
    }
    let mvcc = recovered.mvcc;
    let mut head = Head::new(Arc::clone(&mvcc));
    put(&store, &mut head, (0..changes).collect(), value_len);
    println!("{:<28} {:>10.1} MB", "size", store.size() as f64 / 1e6);
    random_reads(&store, changes);
    scan(&store, head.revision());

    // Two of three keys again: the first segments are then mostly dead.
    put(
        &store,
        &mut head,
        (0..changes).filter(|n| n % 3 > 0).collect(),
        value_len,
    );
    head.compact(head.revision())?;
    publish(&store, &mut head, &mvcc, u64::MAX);
    compact(&store, &mvcc);
    rewrite(&store);
    timed("close", 1, || store.close())?;
    drop((head, mvcc, store));

    let (store, recovered) = timed("reopen", changes, || open(&dir))?;
    assert_eq!(recovered.mvcc.compacted(), recovered.mvcc.current());
    println!("{:<28} {:>10.1} MB", "  size", store.size() as f64 / 1e6);

    let snapshot = timed("snapshot", 1, || store.snapshot())?;
    timed("  read", changes, || {
        assert_eq!(snapshot.changes().filter(Result::is_ok).count() as u64, changes)
    });
    Ok(())
}

/// Runs `work`, which is about `count` things, and reports what it took.
fn timed<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let (wall, cpu) = (Instant::now(), cpu_time());
    let result = work();
    report(what, count, wall.elapsed(), cpu_time() - cpu);
    result
}

/// CPU time of all threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn report(what: &str, count: u64, wall: Duration, cpu: Duration) {
    let each = cpu.as_secs_f64() * 1e9 / count.max(1) as f64;
    println!(
        "{what:<28} {:>10.3} s {:>10.3} s CPU {each:>12.0} ns each",
        wall.as_secs_f64(),
        cpu.as_secs_f64()
    );
}

fn open(dir: &Path) -> Result<(Arc<Store>, Recovered), store::OpenError> {
    Store::open(Arc::new(RealDisk), dir, Options::default())
}

/// A key of 40 bytes; the same number gives the same key.
fn key(n: u64) -> String {
    format!(
        "/registry/pods/{:08x}/{n:016x}",
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
    )
}

/// Applies puts in batches while another thread syncs.
fn put(store: &Arc<Store>, head: &mut Head, numbers: Vec<u64>, value_len: usize) {
    let value = vec![b'v'; value_len];
    let mvcc = Arc::clone(head.mvcc());
    let keys: Vec<String> = numbers.into_iter().map(key).collect();
    let (mut syncs, mut waits, mut appending) = (0u64, 0u64, Duration::ZERO);
    timed("puts, applied and synced", keys.len() as u64, || {
        std::thread::scope(|scope| {
            let (wake, woken) = sync_channel(1);
            let syncer = scope.spawn(move || {
                let step = |()| store.sync_step().expect("a disk that works");
                woken.iter().map(step).count()
            });
            for (index, keys) in keys.chunks(BATCH as usize).enumerate() {
                for key in keys {
                    let mut txn = head.begin();
                    txn.put(key.as_bytes(), &value, LeaseId(0));
                    let _ = txn.finish();
                }
                let before = Instant::now();
                publish(store, head, &mvcc, index as u64);
                appending += before.elapsed();
                let _ = wake.try_send(());
                while store.backlog().is_full() {
                    waits += 1;
                    std::thread::yield_now();
                }
            }
            drop(wake);
            syncs = syncer.join().expect("a syncer that ends") as u64;
        });
        store.sync_step().expect("a disk that works");
    });
    report("  of that appending", keys.len() as u64, appending, appending);
    println!("{:<28} {syncs:>10} ({waits} waits)", "  syncs");
}

fn publish(store: &Store, head: &mut Head, mvcc: &Mvcc, index: u64) {
    let batch = head.seal(index, 1, None);
    let (revision, compacted) = (batch.commit.revision, batch.commit.compact_revision);
    store.append(batch);
    mvcc.publish(revision, compacted);
}

fn random_reads(store: &Store, changes: u64) {
    let random = |n: u64| {
        let main = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) % changes;
        Revision::new(2 + main as i64, 0)
    };
    let mut out = Vec::new();
    let mut blocked = 0u64;
    timed("random get, not waiting", READS, || {
        for n in 0..READS {
            out.clear();
            blocked += u64::from(store.get_many(&[random(n)], Wait::No, &mut out).is_err());
        }
    });
    println!("{:<28} {blocked:>10}", "  would have waited");
    timed("neighbours, 100 at a time", READS, || {
        for n in 0..READS / 100 {
            let first = random(n).main.min(1 + changes as i64 - 100).max(2);
            let revs: Vec<Revision> = (first..first + 100).map(|main| Revision::new(main, 0)).collect();
            out.clear();
            store.get_many(&revs, Wait::Yes, &mut out).expect("no damage");
        }
    });
}

fn scan(store: &Store, upto: i64) {
    timed("scan", upto as u64, || {
        let mut from = Some(Revision::default());
        while let Some(next) = from {
            from = store.scan(next, upto, 1 << 20, &mut vec![]).expect("no damage");
        }
    });
}

fn compact(store: &Store, mvcc: &Mvcc) {
    let mut cursor = Cursor::default();
    let mut dropped = vec![];
    let mut steps = vec![];
    timed("compaction: walk", 1, || {
        while !cursor.is_done() {
            let step = mvcc.compact_step(&mut cursor, 1000);
            steps.push(step.dropped.len());
            dropped.extend(step.dropped);
        }
    });
    let mut rest = &dropped[..];
    timed("compaction: forget", dropped.len() as u64, || {
        for len in steps {
            let (some, more) = rest.split_at(len);
            store.forget(some);
            rest = more;
        }
    });
    println!("{:<28} {:>10}", "  dropped", dropped.len());
}

fn rewrite(store: &Store) {
    let before = store.size();
    let (mut steps, mut longest) = (0u64, Duration::ZERO);
    timed("rewriting", 1, || {
        loop {
            let step = Instant::now();
            if store.rewrite_step(1 << 20).expect("a disk that works") == Rewriting::Idle {
                break;
            }
            steps += 1;
            longest = longest.max(step.elapsed());
        }
    });
    println!(
        "{:<28} {:>10.1} MB in {steps} steps",
        "  gave back",
        (before - store.size()) as f64 / 1e6
    );
    println!(
        "{:<28} {:>10.1} ms",
        "  longest step",
        longest.as_secs_f64() * 1e3
    );
    println!(
        "{:<28} {:>10.1} %",
        "  live",
        100.0 * store.size_in_use() as f64 / store.size() as f64
    );
}
