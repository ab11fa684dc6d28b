//! A disk in memory that loses power on command.
//!
//! A real disk keeps more promises than it makes, so code that forgets an fsync passes every test on
//! one. [`SimDisk`] keeps exactly the promises written down in the crate's header. For each file it
//! holds the bytes a running process sees, those that are durable, and the changes between the two,
//! sector by sector; the same for names. [`SimDisk::after_crash`] builds the disk a machine finds
//! after the power came back, with as much or as little of the changes as [`Keep`] says:
//!
//! ```
//! use env::{Disk, File, SimDisk, sim::Keep};
//! use std::{io::IoSlice, path::Path};
//!
//! let disk = SimDisk::new();
//! let file = disk.create(Path::new("/a"))?;
//! file.write_at(&[IoSlice::new(b"precious")], 0)?;
//! file.sync_data()?;                                  // the bytes are safe, but nobody can find them
//! assert!(!disk.after_crash(Keep::None).exists(Path::new("/a")));
//! disk.sync_dir(Path::new("/"))?;                     // now the name is
//! assert_eq!(disk.after_crash(Keep::None).contents(Path::new("/a")), b"precious");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Every change and every sync is an operation with a number. [`SimDisk::crash_at`] stops the disk at
//! one of them, and [`crash_everywhere`] does so at each in turn. Nothing here depends on time or
//! chance: the same calls give the same disk.
//!
//! Invariant: without failed syncs, the durable bytes with all pending changes are the live bytes.
//!
//! Missing on purpose: torn sectors, symbolic links, permissions, time stamps, and names above `..`.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IoSlice},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{Disk, File, SECTOR};

/// Which of the changes that were not synced survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Each sector, length and name by the toss of a coin that is seeded with this number.
    Subset(u64),
    /// All of them, but the last write got only half way.
    TornLast,
}

impl Keep {
    /// The ways to crash that a test should try: the three plain ones and `subsets` random ones.
    pub fn ways(subsets: u64) -> impl Iterator<Item = Keep> {
        [Keep::None, Keep::All, Keep::TornLast]
            .into_iter()
            .chain((0..subsets).map(Keep::Subset))
    }
}

/// One operation, as [`SimDisk::traced`] reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Create(PathBuf),
    CreateDir(PathBuf),
    Write { path: PathBuf, offset: u64, len: u64 },
    SetLen { path: PathBuf, len: u64 },
    Allocate { path: PathBuf, len: u64 },
    SyncData(PathBuf),
    SyncDir(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    Remove(PathBuf),
}

/// A moment to lose power at, and what survives.
#[derive(Clone, Copy, Debug)]
pub struct CrashPoint {
    /// The operation that was under way; counted from 1.
    pub op: u64,
    /// What survived.
    pub keep: Keep,
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "power lost in operation {}, kept: {:?}", self.op, self.keep)
    }
}

/// Loses power in every operation of `work` in turn, and checks every disk that may be found then.
///
/// `work` runs on a new disk from `setup` each time and returns what it was promised to be durable;
/// its operations fail from the crash on. `check` gets that promise and the disk that was left. The
/// last round, past the end of the work, loses power after all of it.
pub fn crash_everywhere<T>(
    subsets: u64,
    setup: impl Fn() -> SimDisk,
    work: impl Fn(&SimDisk) -> T,
    check: impl Fn(&T, SimDisk),
) {
    for op in 1.. {
        let disk = setup();
        disk.crash_at(op);
        let promised = work(&disk);
        for keep in Keep::ways(subsets) {
            let told_on_panic = TellOnPanic(CrashPoint { op, keep });
            check(&promised, disk.after_crash(keep));
            drop(told_on_panic);
        }
        if !disk.crashed() {
            return;
        }
    }
}

struct TellOnPanic(CrashPoint);

impl Drop for TellOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// The simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

type Ino = usize;
const ROOT: Ino = 0;

struct State {
    nodes: Vec<Node>,
    /// Changes of names that are not durable, oldest first.
    pending_names: Vec<NameChange>,
    ops: u64,
    crash_at: Option<u64>,
    crashed: bool,
    trace: Option<Vec<Op>>,
    handles: u64,
    syncs_until_failure: Option<u64>,
    capacity: Option<u64>,
    cold: bool,
}

enum Node {
    Dir(Dir),
    File(Content),
}

#[derive(Clone, Default)]
struct Dir {
    live: BTreeMap<String, Ino>,
    durable: BTreeMap<String, Ino>,
}

#[derive(Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    locked_by: Option<u64>,
}

/// A change of a file that is not durable.
enum Change {
    /// Whole sectors (the last may end with the file) as they were after operation `op`.
    Sectors {
        op: u64,
        offset: usize,
        bytes: Vec<u8>,
    },
    Len(usize),
}

/// A change of names that is not durable: a create has no `unlink`, a remove no `link`.
struct NameChange {
    unlink: Option<(Ino, String)>,
    link: Option<(Ino, String, Ino)>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        SimDisk::from_nodes(vec![Node::Dir(Dir::default())])
    }

    fn from_nodes(nodes: Vec<Node>) -> Self {
        SimDisk(Arc::new(Mutex::new(State {
            nodes,
            pending_names: Vec::new(),
            ops: 0,
            crash_at: None,
            crashed: false,
            trace: None,
            handles: 0,
            syncs_until_failure: None,
            capacity: None,
            cold: false,
        })))
    }

    /// How many operations there were.
    pub fn ops(&self) -> u64 {
        self.0.lock().ops
    }

    /// Loses power in the `op`-th operation from now, counted from 1: a sync under way does not
    /// happen, another change is pending, and everything after it fails.
    pub fn crash_at(&self, op: u64) {
        let mut state = self.0.lock();
        state.crash_at = Some(state.ops + op);
    }

    /// Whether the power is gone.
    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// The disk as the machine finds it when the power is lost now and comes back. This one stays as
    /// it is, so that many crashes can be tried from one state.
    pub fn after_crash(&self, keep: Keep) -> SimDisk {
        let state = self.0.lock();
        let mut coin = Coin::new(keep);
        let last_write = state.last_write();
        let nodes = state.nodes.iter().map(|node| match node {
            Node::Dir(dir) => Node::Dir(Dir {
                live: dir.durable.clone(),
                durable: BTreeMap::new(),
            }),
            Node::File(content) => {
                let bytes = content.after_crash(last_write, &mut coin);
                Node::File(Content {
                    live: bytes,
                    ..Content::default()
                })
            }
        });
        let image = SimDisk::from_nodes(nodes.collect());
        {
            let mut image = image.0.lock();
            for change in state.pending_names.iter().filter(|_| coin.toss()) {
                image.apply_name(change, |dir| &mut dir.live);
            }
            image.settle();
        }
        image
    }

    /// Makes everything durable, as if the machine had been idle for long.
    pub fn settle(&self) {
        self.0.lock().settle();
    }

    /// Runs `work` and returns the operations it made.
    pub fn traced<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<Op>) {
        self.0.lock().trace = Some(Vec::new());
        let result = work();
        (result, self.0.lock().trace.take().unwrap_or_default())
    }

    /// Lets the `nth` sync from now (1: the next) fail with EIO. What it should have made durable is
    /// lost: later syncs do not cover it any more.
    pub fn fail_sync(&self, nth: u64) {
        self.0.lock().syncs_until_failure = Some(nth);
    }

    /// Limits the bytes of all files together; what would grow them further fails with ENOSPC, a write
    /// after the part that still fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Bytes of all files together, removed ones included.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Whether [`File::read_cached_at`] finds nothing in memory from now on.
    pub fn set_cold(&self, cold: bool) {
        self.0.lock().cold = cold;
    }

    /// Damages the medium: flips bit `bit` (0-7) of the byte at `offset`.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: usize, bit: u8) {
        let byte = self.contents(path)[offset];
        self.damage(path, offset, &[byte ^ (1 << bit)]);
    }

    /// Damages the medium: puts `bytes` at `offset`, durably and without an operation.
    ///
    /// # Panics
    /// If the file does not reach that far.
    pub fn damage(&self, path: &Path, offset: usize, bytes: &[u8]) {
        let mut state = self.0.lock();
        let ino = state.resolve(path).expect("a file to damage");
        let content = state.file(ino);
        content.live[offset..offset + bytes.len()].copy_from_slice(bytes);
        if let Some(durable) = content.durable.get_mut(offset..offset + bytes.len()) {
            durable.copy_from_slice(bytes);
        }
    }

    /// The bytes of a file as a running process sees them.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn contents(&self, path: &Path) -> Vec<u8> {
        let mut state = self.0.lock();
        let ino = state.resolve(path).expect("a file to look into");
        state.file(ino).live.clone()
    }

    /// Every file with its bytes, to compare two disks.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.0.lock();
        let mut files = BTreeMap::new();
        let mut dirs = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, ino)) = dirs.pop() {
            let Node::Dir(dir) = &state.nodes[ino] else {
                continue;
            };
            for (name, &ino) in &dir.live {
                match &state.nodes[ino] {
                    Node::Dir(_) => dirs.push((path.join(name), ino)),
                    Node::File(content) => drop(files.insert(path.join(name), content.live.clone())),
                }
            }
        }
        files
    }
}

impl State {
    /// Counts an operation. `Ok(false)`: the power is lost in this very one.
    fn begin(&mut self, op: impl FnOnce() -> Op) -> io::Result<bool> {
        self.powered()?;
        self.ops += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(op());
        }
        self.crashed = self.crash_at == Some(self.ops);
        Ok(!self.crashed)
    }

    fn powered(&self) -> io::Result<()> {
        if self.crashed { Err(no_power()) } else { Ok(()) }
    }

    /// Counts a sync, and says whether it may take place.
    fn begin_sync(&mut self, op: impl FnOnce() -> Op) -> io::Result<Sync> {
        if !self.begin(op)? {
            return Err(no_power());
        }
        self.syncs_until_failure = self.syncs_until_failure.map(|n| n.saturating_sub(1));
        if self.syncs_until_failure == Some(0) {
            self.syncs_until_failure = None;
            return Ok(Sync::Fails);
        }
        Ok(Sync::Works)
    }

    fn settle(&mut self) {
        for node in &mut self.nodes {
            match node {
                Node::Dir(dir) => dir.durable = dir.live.clone(),
                Node::File(content) => {
                    content.pending.clear();
                    content.durable = content.live.clone();
                }
            }
        }
        self.pending_names.clear();
    }

    fn last_write(&self) -> Option<u64> {
        let files = self.nodes.iter().filter_map(|node| match node {
            Node::File(content) => Some(content),
            Node::Dir(_) => None,
        });
        let writes = files
            .flat_map(|content| &content.pending)
            .filter_map(|change| match change {
                Change::Sectors { op, .. } => Some(*op),
                Change::Len(_) => None,
            });
        writes.max()
    }

    fn resolve(&self, path: &Path) -> io::Result<Ino> {
        let mut ino = ROOT;
        for part in path.components() {
            let name = match part {
                Component::Normal(name) => name.to_string_lossy(),
                Component::RootDir | Component::CurDir => continue,
                Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
            };
            ino = *self.dir(ino)?.live.get(&*name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(ino)
    }

    /// The folder a path is in, and its last name.
    fn place(&self, path: &Path) -> io::Result<(Ino, String)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.resolve(path.parent().unwrap_or(Path::new("")))?;
        self.dir(dir)?;
        Ok((dir, name.to_string_lossy().into_owned()))
    }

    fn dir(&self, ino: Ino) -> io::Result<&Dir> {
        match &self.nodes[ino] {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> &mut Dir {
        match &mut self.nodes[ino] {
            Node::Dir(dir) => dir,
            Node::File(_) => unreachable!("only folders have names in them"),
        }
    }

    fn file(&mut self, ino: Ino) -> &mut Content {
        match &mut self.nodes[ino] {
            Node::File(content) => content,
            Node::Dir(_) => unreachable!("handles are given out for files only"),
        }
    }

    fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.nodes[ino], Node::Dir(_))
    }

    fn new_node(&mut self, node: Node) -> Ino {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn change_name(&mut self, unlink: Option<(Ino, String)>, link: Option<(Ino, String, Ino)>) {
        let change = NameChange { unlink, link };
        self.apply_name(&change, |dir| &mut dir.live);
        self.pending_names.push(change);
    }

    fn apply_name(&mut self, change: &NameChange, names: fn(&mut Dir) -> &mut BTreeMap<String, Ino>) {
        if let Some((dir, name)) = &change.unlink {
            names(self.dir_mut(*dir)).remove(name);
        }
        if let Some((dir, name, ino)) = &change.link {
            names(self.dir_mut(*dir)).insert(name.clone(), *ino);
        }
    }

    /// Removes a name and everything below it, leaves first.
    fn remove_tree(&mut self, dir: Ino, name: String, ino: Ino) {
        if let Node::Dir(inner) = &self.nodes[ino] {
            for (name, child) in inner.live.clone() {
                self.remove_tree(ino, name, child);
            }
        }
        self.change_name(Some((dir, name)), None);
    }

    /// How many more bytes fit.
    fn room(&self) -> u64 {
        self.capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    fn used(&self) -> u64 {
        let bytes = |node: &Node| match node {
            Node::File(content) => content.live.len() as u64,
            Node::Dir(_) => 0,
        };
        self.nodes.iter().map(bytes).sum()
    }

    fn handle(&mut self, disk: &SimDisk, path: &Path, ino: Ino) -> Arc<dyn File> {
        self.handles += 1;
        Arc::new(SimFile {
            disk: disk.clone(),
            path: path.to_owned(),
            ino,
            id: self.handles,
        })
    }
}

enum Sync {
    Works,
    Fails,
}

impl Content {
    fn write(&mut self, op: u64, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[offset..end].copy_from_slice(bytes);
        let from = offset / SECTOR * SECTOR;
        let to = end.next_multiple_of(SECTOR).min(self.live.len());
        self.pending.push(Change::Sectors {
            op,
            offset: from,
            bytes: self.live[from..to].to_vec(),
        });
    }

    fn set_len(&mut self, len: usize) {
        self.live.resize(len, 0);
        self.pending.push(Change::Len(len));
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            apply(&mut self.durable, &change, |_| true);
        }
    }

    /// Makes the sectors of a range durable as they are. Older changes of them are history; all others stay pending,
    /// but for the file's length, which is a sector's way to be found.
    fn sync_sectors(&mut self, from: usize, to: usize) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Len(_) => apply(&mut self.durable, &change, |_| true),
                Change::Sectors { op, offset, bytes } => {
                    let end = offset + bytes.len();
                    let part = |from: usize, to: usize| Change::Sectors {
                        op,
                        offset: from,
                        bytes: bytes[from - offset..to - offset].to_vec(),
                    };
                    if offset < from {
                        self.pending.push(part(offset, end.min(from)));
                    }
                    if end > to {
                        self.pending.push(part(offset.max(to), end));
                    }
                }
            }
        }
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&self.live[from..to]);
    }

    fn after_crash(&self, last_write: Option<u64>, coin: &mut Coin) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.pending {
            let sectors = match change {
                Change::Sectors { op, bytes, .. }
                    if coin.keep == Keep::TornLast && Some(*op) == last_write =>
                {
                    bytes.len().div_ceil(SECTOR) / 2
                }
                _ => usize::MAX,
            };
            apply(&mut bytes, change, |sector| sector < sectors && coin.toss());
        }
        bytes
    }
}

/// Brings into `bytes` the sectors of `change` that `keep` selects; a length counts as one sector.
fn apply(bytes: &mut Vec<u8>, change: &Change, mut keep: impl FnMut(usize) -> bool) {
    match change {
        Change::Len(len) if keep(0) => bytes.resize(*len, 0),
        Change::Len(_) => {}
        Change::Sectors {
            offset,
            bytes: written,
            ..
        } => {
            for (i, sector) in written.chunks(SECTOR).enumerate().filter(|(i, _)| keep(*i)) {
                let from = offset + i * SECTOR;
                let to = from + sector.len();
                if bytes.len() < to {
                    bytes.resize(to, 0);
                }
                bytes[from..to].copy_from_slice(sector);
            }
        }
    }
}

/// Decides what survives: a splitmix64 generator behind [`Keep`].
struct Coin {
    keep: Keep,
    state: u64,
}

impl Coin {
    fn new(keep: Keep) -> Self {
        Coin {
            keep,
            state: if let Keep::Subset(seed) = keep { seed } else { 0 },
        }
    }

    fn toss(&mut self) -> bool {
        let Keep::Subset(seed) = self.keep else {
            return self.keep != Keep::None;
        };
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Some seeds lose little, some half, some most.
        (z ^ (z >> 31)) % 8 < [7, 4, 1][(seed % 3) as usize]
    }
}

fn no_power() -> io::Error {
    io::Error::other("the simulated disk has lost power")
}

fn no_space() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        let lives = state.begin(|| Op::Create(path.into()))?;
        let (dir, name) = state.place(path)?;
        let ino = match state.dir(dir)?.live.get(&name) {
            Some(&ino) if state.is_dir(ino) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(&ino) => {
                state.file(ino).set_len(0);
                ino
            }
            None => {
                let ino = state.new_node(Node::File(Content::default()));
                state.change_name(None, Some((dir, name, ino)));
                ino
            }
        };
        if lives {
            Ok(state.handle(self, path, ino))
        } else {
            Err(no_power())
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        state.powered()?;
        let ino = state.resolve(path)?;
        if state.is_dir(ino) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(state.handle(self, path, ino))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        state.powered()?;
        Ok(state.dir(state.resolve(dir)?)?.live.keys().cloned().collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut path = PathBuf::new();
        for part in dir.components() {
            path.push(part);
            if self.exists(&path) {
                continue;
            }
            let mut state = self.0.lock();
            let lives = state.begin(|| Op::CreateDir(path.clone()))?;
            let (dir, name) = state.place(&path)?;
            let ino = state.new_node(Node::Dir(Dir::default()));
            state.change_name(None, Some((dir, name, ino)));
            if !lives {
                return Err(no_power());
            }
        }
        let state = self.0.lock();
        state.dir(state.resolve(dir)?).map(drop)
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.0.lock();
        !state.crashed && state.resolve(path).is_ok()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let lives = state.begin(|| Op::Rename {
            from: from.into(),
            to: to.into(),
        })?;
        let ino = state.resolve(from)?;
        if let Ok(target) = state.resolve(to)
            && let Node::Dir(target) = &state.nodes[target]
            && !target.live.is_empty()
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (from, (dir, name)) = (state.place(from)?, state.place(to)?);
        state.change_name(Some(from), Some((dir, name, ino)));
        if lives { Ok(()) } else { Err(no_power()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let lives = state.begin(|| Op::Remove(path.into()))?;
        if state.is_dir(state.resolve(path)?) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let place = state.place(path)?;
        state.change_name(Some(place), None);
        if lives { Ok(()) } else { Err(no_power()) }
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let lives = state.begin(|| Op::Remove(dir.into()))?;
        let ino = state.resolve(dir)?;
        state.dir(ino)?;
        let (parent, name) = state.place(dir)?;
        state.remove_tree(parent, name, ino);
        if lives { Ok(()) } else { Err(no_power()) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let sync = state.begin_sync(|| Op::SyncDir(path.into()))?;
        let ino = state.resolve(path)?;
        state.dir(ino)?;
        let touches = |change: &NameChange| {
            change.unlink.as_ref().is_some_and(|(dir, _)| *dir == ino)
                || change.link.as_ref().is_some_and(|(dir, ..)| *dir == ino)
        };
        let (now, later) = std::mem::take(&mut state.pending_names)
            .into_iter()
            .partition(touches);
        state.pending_names = later;
        let now: Vec<NameChange> = now;
        match sync {
            Sync::Works => {
                now.iter()
                    .for_each(|change| state.apply_name(change, |dir| &mut dir.durable));
                Ok(())
            }
            Sync::Fails => Err(io_error()),
        }
    }
}

fn io_error() -> io::Error {
    const EIO: i32 = 5;
    io::Error::from_raw_os_error(EIO)
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    ino: Ino,
    id: u64,
}

impl SimFile {
    fn sync(&self, covered: impl FnOnce(&mut Content)) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let sync = state.begin_sync(|| Op::SyncData(self.path.clone()))?;
        let content = state.file(self.ino);
        match sync {
            Sync::Works => {
                covered(content);
                Ok(())
            }
            Sync::Fails => {
                content.pending.clear();
                Err(io_error())
            }
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.0.lock();
        state.powered()?;
        let live = &state.file(self.ino).live;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(live.len());
        let n = buf.len().min(live.len() - from);
        buf[..n].copy_from_slice(&live[from..from + n]);
        Ok(n)
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        if self.disk.0.lock().cold {
            return Ok(None);
        }
        self.read_at(buf, offset).map(Some)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let mut state = self.disk.0.lock();
        let len = bytes.len() as u64;
        let lives = state.begin(|| Op::Write {
            path: self.path.clone(),
            offset,
            len,
        })?;
        let (op, room) = (state.ops, state.room());
        let content = state.file(self.ino);
        let fits = (content.live.len() as u64)
            .saturating_add(room)
            .saturating_sub(offset)
            .min(len);
        bytes.truncate(fits as usize);
        if !bytes.is_empty() {
            content.write(op, offset as usize, &bytes);
        }
        match lives {
            false => Err(no_power()),
            true if fits < len => Err(no_space()),
            true => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(Content::sync)
    }

    fn write_synced_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(parts, offset)?;
        let end = offset as usize + parts.iter().map(|part| part.len()).sum::<usize>();
        self.sync(|content| {
            let to = end.next_multiple_of(SECTOR).min(content.live.len());
            content.sync_sectors(offset as usize / SECTOR * SECTOR, to);
        })
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.0.lock();
        state.powered()?;
        Ok(state.file(self.ino).live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let lives = state.begin(|| Op::SetLen {
            path: self.path.clone(),
            len,
        })?;
        if len.saturating_sub(state.file(self.ino).live.len() as u64) > state.room() {
            return Err(no_space());
        }
        state.file(self.ino).set_len(len as usize);
        if lives { Ok(()) } else { Err(no_power()) }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let lives = state.begin(|| Op::Allocate {
            path: self.path.clone(),
            len,
        })?;
        let missing = len.saturating_sub(state.file(self.ino).live.len() as u64);
        if missing > state.room() {
            return Err(no_space());
        }
        if missing > 0 {
            state.file(self.ino).set_len(len as usize);
        }
        if lives { Ok(()) } else { Err(no_power()) }
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.disk.0.lock();
        state.powered()?;
        let owner = state.file(self.ino).locked_by.get_or_insert(self.id);
        Ok(*owner == self.id)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        let content = state.file(self.ino);
        if content.locked_by == Some(self.id) {
            content.locked_by = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replace_file;

    fn put(file: &dyn File, offset: u64, bytes: &[u8]) {
        file.write_at(&[IoSlice::new(bytes)], offset).unwrap();
    }

    /// A disk with the durable file `/f` of `sectors` sectors, each byte `0xaa`.
    fn with_file(sectors: usize) -> (SimDisk, Arc<dyn File>) {
        let disk = SimDisk::new();
        let file = disk.create(Path::new("/f")).unwrap();
        put(&*file, 0, &vec![0xaa; sectors * SECTOR]);
        disk.settle();
        (disk, file)
    }

    #[test]
    fn unsynced_bytes_may_be_lost_and_synced_ones_may_not() {
        let (disk, file) = with_file(2);
        put(&*file, 100, b"new");
        let path = Path::new("/f");
        assert_eq!(
            disk.contents(path)[100..103],
            *b"new",
            "the process sees its own write"
        );
        assert_eq!(disk.after_crash(Keep::None).contents(path)[100..103], [0xaa; 3]);
        assert_eq!(disk.after_crash(Keep::All).contents(path)[100..103], *b"new");
        file.sync_data().unwrap();
        assert_eq!(disk.after_crash(Keep::None).contents(path)[100..103], *b"new");
    }

    #[test]
    fn a_synced_write_is_durable_itself_and_nothing_else_is() {
        let (disk, file) = with_file(4);
        let path = Path::new("/f");
        put(&*file, 0, &[0xbb; 3 * SECTOR]);
        let parts = [IoSlice::new(b"n"), IoSlice::new(b"ew")];
        file.write_synced_at(&parts, SECTOR as u64 + 100).unwrap();
        let lost = disk.after_crash(Keep::None).contents(path);
        assert_eq!(lost[..SECTOR], [0xaa; SECTOR]);
        // The sector goes as it is, with what was written to it before.
        assert_eq!(lost[SECTOR..SECTOR + 100], [0xbb; 100]);
        assert_eq!(lost[SECTOR + 100..SECTOR + 103], *b"new");
        assert_eq!(lost[2 * SECTOR..], [0xaa; 2 * SECTOR]);
        let kept = disk.after_crash(Keep::All).contents(path);
        assert_eq!(
            kept,
            disk.contents(path),
            "older changes do not come back over it"
        );
        file.sync_data().unwrap();
        assert_eq!(disk.after_crash(Keep::None).contents(path), disk.contents(path));
    }

    #[test]
    fn a_crash_keeps_or_drops_whole_sectors() {
        let (disk, file) = with_file(16);
        put(&*file, 0, &[0xbb; 16 * SECTOR]);
        let mut seen = std::collections::BTreeSet::new();
        for keep in (0..30).map(Keep::Subset) {
            let bytes = disk.after_crash(keep).contents(Path::new("/f"));
            for sector in bytes.chunks(SECTOR) {
                assert!(sector.iter().all(|b| *b == sector[0]));
            }
            seen.insert(bytes);
        }
        assert!(seen.len() > 10, "seeds give different disks");
    }

    #[test]
    fn the_last_write_can_get_half_way() {
        let (disk, file) = with_file(4);
        put(&*file, 0, &[0xbb; SECTOR]);
        put(&*file, 0, &[0xcc; 4 * SECTOR]);
        let bytes = disk.after_crash(Keep::TornLast).contents(Path::new("/f"));
        let firsts: Vec<u8> = bytes.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert_eq!(firsts, [0xcc, 0xcc, 0xaa, 0xaa]);
    }

    #[test]
    fn a_rename_is_lost_without_a_sync_of_the_folder() {
        let (disk, _) = with_file(1);
        disk.rename(Path::new("/f"), Path::new("/g")).unwrap();
        let names = |disk: &SimDisk| disk.list(Path::new("/")).unwrap();
        assert_eq!(names(&disk), ["g"]);
        assert_eq!(names(&disk.after_crash(Keep::None)), ["f"]);
        assert_eq!(names(&disk.after_crash(Keep::All)), ["g"]);
        disk.sync_dir(Path::new("/")).unwrap();
        assert_eq!(names(&disk.after_crash(Keep::None)), ["g"]);
    }

    #[test]
    fn a_folder_is_lost_with_everything_below_when_its_own_name_is() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/a/b")).unwrap();
        disk.create(Path::new("/a/b/f")).unwrap().sync_data().unwrap();
        disk.sync_dir(Path::new("/a/b")).unwrap();
        disk.sync_dir(Path::new("/a")).unwrap();
        assert!(!disk.after_crash(Keep::None).exists(Path::new("/a")));
        disk.sync_dir(Path::new("/")).unwrap();
        assert!(disk.after_crash(Keep::None).exists(Path::new("/a/b/f")));
    }

    #[test]
    fn a_length_is_as_volatile_as_bytes() {
        let (disk, file) = with_file(2);
        file.set_len(10).unwrap();
        file.allocate(SECTOR as u64).unwrap();
        let path = Path::new("/f");
        assert_eq!(disk.after_crash(Keep::None).contents(path), [0xaa; 2 * SECTOR]);
        let mut expect = vec![0xaa; 10];
        expect.resize(SECTOR, 0);
        assert_eq!(disk.after_crash(Keep::All).contents(path), expect);
    }

    #[test]
    fn a_removed_file_lives_on_in_its_handle_and_after_a_crash() {
        let (disk, file) = with_file(1);
        disk.remove(Path::new("/f")).unwrap();
        let mut buf = [0; 1];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 1);
        assert!(disk.after_crash(Keep::None).exists(Path::new("/f")));
        disk.create_dir_all(Path::new("/d/e")).unwrap();
        disk.create(Path::new("/d/e/f")).unwrap();
        disk.settle();
        disk.remove_dir_all(Path::new("/d")).unwrap();
        assert!(!disk.exists(Path::new("/d")));
        assert!(disk.after_crash(Keep::None).exists(Path::new("/d/e/f")));
    }

    #[test]
    fn after_the_crash_everything_fails_and_the_operation_itself_may_have_happened() {
        let (disk, file) = with_file(1);
        disk.crash_at(2);
        put(&*file, 0, b"1");
        assert!(file.write_at(&[IoSlice::new(b"2")], 1).is_err());
        assert!(disk.crashed());
        assert!(file.sync_data().is_err() && file.len().is_err() && disk.list(Path::new("/")).is_err());
        assert_eq!(disk.after_crash(Keep::All).contents(Path::new("/f"))[..2], *b"12");
        assert!(
            disk.after_crash(Keep::All)
                .open(Path::new("/f"))
                .unwrap()
                .try_lock()
                .unwrap()
        );
    }

    #[test]
    fn a_failed_sync_loses_what_it_should_have_kept() {
        let (disk, file) = with_file(1);
        put(&*file, 0, b"x");
        disk.fail_sync(1);
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        file.sync_data().unwrap();
        assert_eq!(disk.after_crash(Keep::All).contents(Path::new("/f"))[0], 0xaa);
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let (disk, file) = with_file(1);
        disk.set_capacity(Some(SECTOR as u64 + 2));
        let full = file
            .write_at(&[IoSlice::new(b"1234")], SECTOR as u64 - 1)
            .unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(file.allocate(4 * SECTOR as u64).is_err());
        put(&*file, 0, b"what is there can be overwritten");
        assert_eq!(disk.contents(Path::new("/f"))[SECTOR - 1..], *b"123");
    }

    #[test]
    fn a_lock_belongs_to_one_handle() {
        let (disk, first) = with_file(1);
        let second = disk.open(Path::new("/f")).unwrap();
        assert!(first.try_lock().unwrap() && first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }

    #[test]
    fn replacing_a_file_leaves_the_old_or_the_new_content_whenever_power_is_lost() {
        let path = Path::new("/f");
        let (old, new) = ([0xaa; 3 * SECTOR], [0xbb; 5 * SECTOR]);
        crash_everywhere(
            10,
            || with_file(3).0,
            |disk| replace_file(disk, path, &[IoSlice::new(&new)]).is_ok(),
            |done, disk| {
                let found = disk.contents(path);
                assert!(found == new || (!done && found == old));
            },
        );
    }

    #[test]
    fn crash_everywhere_finds_a_missing_sync() {
        let careless = || {
            crash_everywhere(
                0,
                || with_file(1).0,
                |disk| disk.open(Path::new("/f"))?.write_at(&[IoSlice::new(b"x")], 0),
                |done, disk| assert!(done.is_err() || disk.contents(Path::new("/f"))[0] == b'x'),
            );
        };
        assert!(std::panic::catch_unwind(careless).is_err());
    }

    #[test]
    fn the_trace_names_each_operation() {
        let (disk, file) = with_file(1);
        let (_, ops) = disk.traced(|| {
            put(&*file, 1, b"x");
            file.sync_data()
        });
        assert_eq!(
            ops,
            [
                Op::Write {
                    path: "/f".into(),
                    offset: 1,
                    len: 1
                },
                Op::SyncData("/f".into())
            ]
        );
    }
}
