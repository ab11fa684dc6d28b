//! Readers beside the apply loop, the syncer and rewriting.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use common::{DIR, World, tiny};
use env::sim::{Keep, SimDisk};
use mvcc::{KvRef, Mvcc, RangeOptions, Wait};
use types::{KeyRange, LeaseId};

const KEYS: usize = 20;

/// Puts the same number under every key, in one transaction.
fn put_all(world: &mut World, n: u64) {
    let mut txn = world.head.begin();
    for key in 0..KEYS {
        txn.put(format!("k{key}").as_bytes(), &n.to_be_bytes(), LeaseId(0));
    }
    let _ = txn.finish();
    world.apply(1);
}

fn numbers(mvcc: &Arc<Mvcc>) -> Vec<Bytes> {
    let range = KeyRange::Span("k0".into(), "ka".into());
    let answer = mvcc
        .range(&RangeOptions::new(range), Wait::Yes)
        .expect("no damage");
    answer
        .kvs
        .iter()
        .map(|kv| KvRef::parse(kv).expect("a KeyValue").value_bytes())
        .collect()
}

#[test]
fn a_reader_sees_whole_transactions_while_segments_are_sealed_and_rewritten() {
    let disk = SimDisk::new();
    let (mut world, _) = World::open(Arc::new(disk), Path::new(DIR), tiny()).unwrap();
    put_all(&mut world, 0);
    let done = AtomicBool::new(false);
    let mvcc = Arc::clone(&world.mvcc);
    std::thread::scope(|scope| {
        let read = || {
            let mut last = Bytes::from(vec![0; 8]);
            while !done.load(Ordering::Relaxed) {
                let numbers = numbers(&mvcc);
                assert!(
                    numbers.len() == KEYS && numbers.iter().all(|n| *n == numbers[0]),
                    "{numbers:?}"
                );
                assert!(numbers[0] >= last, "a reader goes back in time");
                last = numbers[0].clone();
            }
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        for n in 1..150 {
            put_all(&mut world, n);
            let _ = world.head.compact(world.head.revision() - 1);
            if n % 2 == 0 {
                world.sync();
            }
            world.walk_all();
            world.store.rewrite_step(3000).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .for_each(|reader| reader.join().expect("a reader that saw nothing odd"));
    });
    world.check();
}

/// A put whose tombstone is rewritten away, while it stays itself in an older segment that is mostly live.
#[test]
fn a_deleted_key_does_not_come_back_when_its_tombstone_is_rewritten_away() {
    let disk = SimDisk::new();
    let (mut world, _) = World::open(Arc::new(disk.clone()), Path::new(DIR), tiny()).unwrap();
    let mut txn = world.head.begin();
    txn.put(b"live", &[b'x'; 500], LeaseId(0));
    txn.put(b"deleted", b"v", LeaseId(0));
    let _ = txn.finish();
    world.apply(1);
    world.sync();
    let mut txn = world.head.begin();
    txn.delete_range(&KeyRange::One("deleted".into()));
    let _ = txn.finish();
    let mut txn = world.head.begin();
    txn.put(b"gone, too", &[b'x'; 500], LeaseId(0));
    let _ = txn.finish();
    world.apply(1);
    world.sync();
    let mut txn = world.head.begin();
    txn.delete_range(&KeyRange::One("gone, too".into()));
    let _ = txn.finish();
    world.apply(1);
    world.head.compact(world.head.revision()).unwrap();
    world.apply(1);
    world.sync();
    world.walk_all();
    let size = world.store.size();
    world.rewrite_until_idle();
    assert!(world.store.size() < size - 500);
    world.check();
    let model = world.model.clone();
    let (recovered, _) = World::open(Arc::new(disk.after_crash(Keep::None)), Path::new(DIR), tiny()).unwrap();
    model.check(&recovered.store, &recovered.mvcc, &world.commit(), true);
}
