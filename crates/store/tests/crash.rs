//! Power is lost in every disk operation of one workload, with nothing, everything, some or half of what was not
//! synced kept: always a store comes back that is a whole prefix of the history, at or behind the last synced commit.
//!
//! The bugs that this is about, in etcd: effects and applied index that came apart (13766), a revision that went back
//! after a crash in a compaction (17780), defragmentation that lost the index (14685), names that were not synced
//! (6368).

mod common;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{DIR, Model, World, tiny};
use env::sim::{Keep, SimDisk};
use env::{Disk, File};
use proto::storepb::Commit;
use store::Store;

/// A disk that looks at what a crash would leave, after every operation that changes something. A sync that a crash
/// cuts off leaves what was there before it.
#[derive(Clone)]
struct Watched {
    disk: SimDisk,
    crash: Arc<Mutex<Crash>>,
}

#[derive(Default)]
struct Crash {
    /// What the workload appended so far, and the store it appends to.
    model: Arc<Mutex<Model>>,
    store: Option<Arc<Store>>,
    seen: HashSet<u64>,
    ops: usize,
    images: usize,
    replayed: usize,
}

impl Watched {
    fn after<T>(&self, result: io::Result<T>) -> io::Result<T> {
        let mut crash = self.crash.lock().unwrap();
        crash.ops += 1;
        for keep in Keep::ways(4) {
            let image = self.disk.after_crash(keep);
            let synced = crash
                .store
                .as_ref()
                .map_or_else(common::nothing_done, |store| store.synced());
            let hash = fingerprint(&image, &synced);
            if !crash.seen.insert(hash) {
                continue;
            }
            crash.images += 1;
            let told_on_panic = TellOnPanic(crash.ops, keep);
            let model = crash.model.lock().unwrap().clone();
            // Whole replays are dear; every image gets some, and some get it all.
            let replay = hash.is_multiple_of(8);
            crash.replayed += usize::from(replay);
            recover(image, &synced, model, if replay { u64::MAX } else { 3 });
            drop(told_on_panic);
        }
        result
    }
}

/// Two images with the same one need not both be looked at.
fn fingerprint(image: &SimDisk, synced: &Commit) -> u64 {
    let files = image.files();
    let crcs: Vec<_> = files
        .iter()
        .map(|(path, bytes)| (path, crc32c::crc32c(bytes), bytes.len()))
        .collect();
    let mut hasher = DefaultHasher::new();
    (crcs, synced.applied_index).hash(&mut hasher);
    hasher.finish()
}

struct TellOnPanic(usize, Keep);

impl Drop for TellOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("power lost after operation {}, kept: {:?}", self.0, self.1);
        }
    }
}

/// Opens what a crash left, checks it, and lets raft replay `replay` entries of what is missing.
fn recover(image: SimDisk, synced: &Commit, model: Model, replay: u64) {
    let open = || World::open(Arc::new(image.clone()), Path::new(DIR), tiny()).expect("a store that opens");
    let (world, recovered) = open();
    let commit = recovered.commit;
    assert!(
        commit.applied_index >= synced.applied_index,
        "{commit:?} is behind {synced:?}"
    );
    assert!(commit.revision >= synced.revision && commit.compact_revision >= synced.compact_revision);
    let mut before = model.clone();
    before.rewind(&commit);
    assert_eq!(
        before.commits.last().cloned().unwrap_or(world.commit()),
        commit,
        "a commit that was made"
    );
    assert_eq!(
        common::without_empty(&recovered.tables),
        before.tables_at(&commit)
    );
    before.check(&world.store, &world.mvcc, &commit, true);
    drop((world, recovered.mvcc));

    let ((mut world, again), ops) = image.traced(open);
    assert_eq!((again.commit, again.cut), (commit.clone(), None));
    assert_eq!(ops, [], "the second recovery finds nothing to do");

    world.model = before;
    let missing = model.commits.last().map_or(0, |last| last.applied_index) - commit.applied_index;
    for _ in 0..missing.min(replay) {
        world.apply(1);
    }
    world.sync();
    world.walk_all();
    world.rewrite_until_idle();
    if replay >= missing {
        assert_eq!(
            world.commit().revision,
            model.commits.last().map_or(1, |last| last.revision)
        );
        assert!(
            world
                .model
                .changes
                .iter()
                .map(|c| (c.rev, &c.kv))
                .eq(model.changes.iter().map(|c| (c.rev, &c.kv)))
        );
        world.check();
    }
}

#[test]
fn a_crash_in_any_operation_leaves_a_whole_prefix_of_the_history() {
    let disk = Watched {
        disk: SimDisk::new(),
        crash: Arc::default(),
    };
    let (mut world, recovered) = World::open(Arc::new(disk.clone()), Path::new(DIR), tiny()).unwrap();
    drop(recovered);
    let model = Arc::clone(&disk.crash.lock().unwrap().model);
    disk.crash.lock().unwrap().store = Some(Arc::clone(&world.store));
    let mut rewritten = 0;
    for round in 0..BATCHES {
        if round % 8 == 5 {
            let _ = world.head.compact(world.head.revision() - 4);
        }
        world.apply(1 + round % 3);
        *model.lock().unwrap() = world.model.clone();
        if round % 2 == 0 {
            world.sync();
        }
        // A walk that a compaction or a crash may find half done.
        world.walk(6);
        if round % 4 > 1 {
            rewritten += usize::from(world.store.rewrite_step(400).unwrap() == store::Rewriting::Done);
        }
        if round % 40 == 20 {
            world.store.rewrite_all(|_, _| {}).unwrap();
        }
        if round % 25 == 24 {
            world.store.close().unwrap();
        }
    }
    let crash = disk.crash.lock().unwrap();
    println!(
        "{} operations, {} images, {} replayed, {rewritten} rewrites",
        crash.ops, crash.images, crash.replayed
    );
    assert!(
        crash.ops > 500 && crash.images > 800 && rewritten > 3,
        "a workload worth the name"
    );
}

const BATCHES: u64 = 50;

impl Disk for Watched {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.after(self.disk.create(path))?;
        Ok(Arc::new(WatchedFile {
            file,
            disk: self.clone(),
        }))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(path)?;
        Ok(Arc::new(WatchedFile {
            file,
            disk: self.clone(),
        }))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.after(self.disk.create_dir_all(dir))
    }
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.after(self.disk.rename(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.after(self.disk.remove(path))
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.after(self.disk.remove_dir_all(dir))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.after(self.disk.sync_dir(path))
    }
}

struct WatchedFile {
    file: Arc<dyn File>,
    disk: Watched,
}

impl File for WatchedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.file.read_cached_at(buf, offset)
    }
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.after(self.file.write_at(parts, offset))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disk.after(self.file.sync_data())
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.after(self.file.set_len(len))
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.after(self.file.allocate(len))
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}
