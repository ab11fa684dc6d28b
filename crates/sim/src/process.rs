//! One member's process: what it opens, and the state its loops own.
//!
//! The real server has a thread for each loop; here a loop is a field with a queue and a flag, and the
//! cluster calls it when its time has come. What the loops call is the code that ships.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Waker;

use consensus::{Append, Restored};
use env::{Disk, SimDisk};
use lease::Lessor;
use machine::Machine;
use machine::membership::bootstrap_entries;
use member::{Member, Ticket};
use mvcc::{Change, Cursor, Head, KvRef, Mvcc, Wait};
use parking_lot::Mutex;
use prost::Message as _;
use proto::raftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use proto::storepb::Commit;
use proto::{etcdserverpb, walpb};
use store::{Store, Tables};
use types::{KeyRange, LeaseId, MemberId};
use wal::{Preparer, SnapDir, Wal};
use watch::{Hub, Identity, Opener};

use crate::check::log::Mirror;
use crate::plan::Plan;
use crate::transfer;

/// Where a member keeps its files.
pub const MEMBER: &str = "/data/member";

/// Why a process ends by itself: its disk does not do what it should.
#[derive(Debug)]
pub struct Died(pub String);

impl Died {
    /// Whether the disk was full.
    pub fn is_full(&self) -> bool {
        self.0.contains("StorageFull")
    }
}

/// A failure that the server lives with if the disk is full: it tries again later.
pub fn unless_full(result: Result<(), Died>) -> Result<(), Died> {
    result.or_else(|died| if died.is_full() { Ok(()) } else { Err(died) })
}

/// Says what failed.
pub fn died<E: std::fmt::Debug>(what: &'static str) -> impl Fn(E) -> Died {
    move |error| Died(format!("{what}: {error:?}"))
}

/// What the log is to write.
pub enum Write {
    /// Append this, and report it persisted.
    Append(Append),
    /// A snapshot is on the disk: note it, and then let go of what was needed without it.
    Snapshot(SnapshotMetadata),
}

/// What the machine is to do.
pub enum Work {
    /// Apply an entry.
    Apply(Entry),
    /// Go on from a whole state.
    Install(Snapshot),
}

/// What the hub is told.
pub enum News {
    /// These changes are published, up to this revision.
    Published(i64, Vec<Change>),
    /// History up to this revision is gone.
    Compacted(i64),
}

/// What can wait.
pub enum Chore {
    /// Drop history from the index.
    Compact(Cursor),
    /// Take a raft snapshot.
    RaftSnapshot,
}

/// The data and the machine over it.
pub struct Data {
    /// The files.
    pub store: Arc<Store>,
    /// The keys.
    pub mvcc: Arc<Mvcc>,
    /// Where new revisions are made.
    pub head: Head,
    /// The replicated state machine.
    pub machine: Machine,
    /// The leases.
    pub lessor: Mutex<Lessor>,
    /// The membership as of the last applied entry.
    pub conf_state: ConfState,
    /// The last applied entry.
    pub applied: u64,
    /// Members that were removed.
    pub removed: Vec<MemberId>,
}

/// A running process.
pub struct Process {
    /// Which life of the member this is.
    pub life: u64,
    /// When it began, in microseconds.
    pub started_us: u64,
    /// The control plane.
    pub member: Member,
    /// The raft log.
    pub wal: Wal,
    /// Its supply of segments.
    pub preparer: Preparer,
    /// The snapshot files.
    pub snaps: SnapDir,
    /// What waits to be written, and what is being written.
    pub writes: VecDeque<Write>,
    /// Whether a write is under way, and of what.
    pub writing: Option<Vec<Write>>,
    /// The log with all that was handed out.
    pub log: Mirror,
    /// The state.
    pub data: Data,
    /// What waits to be applied.
    pub work: VecDeque<Work>,
    /// Whether the machine is at it.
    pub is_applying: bool,
    /// Whether a sync of the store is due.
    pub is_dirty: bool,
    /// Chores to do.
    pub chores: VecDeque<Chore>,
    /// The index of the last raft snapshot.
    pub snapshot_index: u64,
    /// The watch hub.
    pub hub: Hub,
    /// The way to new streams.
    pub opener: Opener,
    /// What the hub has yet to hear.
    pub feed: VecDeque<News>,
    /// Up to where the hub was not fed, because the state was replaced.
    pub lost: i64,
    /// Who waits for the outcome of a request.
    pub pending: BTreeMap<u64, u64>,
    /// Who waits for a read index.
    pub readers: BTreeMap<Ticket, u64>,
    /// The status last seen.
    pub status: member::Status,
    /// Effects taken so far.
    pub rounds: u64,
}

/// What a process is started with.
pub struct Start<'a> {
    /// The plan of the run.
    pub plan: &'a Plan,
    /// The member.
    pub id: u64,
    /// The first members, if this is one of them.
    pub first: &'a [machine::Member],
    /// Which life of the member this is.
    pub life: u64,
    /// All its chance.
    pub seed: u64,
    /// Now, in microseconds.
    pub now_us: u64,
}

/// What a process has found.
pub struct Opened {
    /// The process.
    pub process: Process,
    /// The log as it was read.
    pub found: Mirror,
}

/// How its store is laid out.
pub fn store_options(plan: &Plan, replay_from: u64) -> store::Options {
    store::Options {
        replay_from,
        segment_bytes_min: plan.store_segment_bytes,
        segment_bytes_max: 4 * plan.store_segment_bytes,
        tail_bytes: plan.store_segment_bytes,
    }
}

/// A member as the first configuration describes it.
pub fn description(id: u64) -> machine::Member {
    machine::Member {
        id: MemberId(id),
        peer_urls: vec![format!("http://m{id}:2380")],
        ..Default::default()
    }
}

impl Process {
    /// Opens a member's disk and starts it.
    pub fn open(disk: &SimDisk, start: &Start<'_>) -> Result<Opened, Died> {
        let sim = disk;
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let member_dir = Path::new(MEMBER);
        disk.create_dir_all(member_dir)
            .map_err(died("making the folder"))?;
        disk.sync_dir(Path::new("/data"))
            .map_err(died("syncing the folder"))?;
        let snaps = SnapDir::open(disk.clone(), &member_dir.join("snap")).map_err(died("snapshots"))?;
        let (wal, replay, saved) = open_log(&disk, start, &snaps)?;
        let snapshot = transfer::metadata(&saved);
        let found = Mirror::found(
            (snapshot.index, snapshot.term),
            &replay.entries,
            replay.hard_state,
        );

        let data = Data::open(&disk, start.plan, &saved)?;
        let last = replay.entries.last().map_or(snapshot.index, |entry| entry.index);
        assert!(
            data.applied <= last,
            "the store of {} is ahead of its log: {} > {last}",
            start.id,
            data.applied
        );
        let restored = Restored {
            hard_state: replay.hard_state,
            snapshot: snapshot.clone(),
            entries: replay.entries,
            applied: data.applied,
            conf_state: data.conf_state.clone(),
        };
        let raft = consensus::Config::new(MemberId(start.id), 10, start.seed);
        let config = member::Config {
            request_timeout_ms: 1000,
            snapshot_catchup_entries: start.plan.catch_up,
            removed: data.removed.iter().copied().collect(),
            ..member::Config::new(raft, start.plan.tick_ms)
        };
        let member = Member::new(config, restored).map_err(died("restoring the member"))?;
        let hub = new_hub(start.id, &data.mvcc);
        let process = Process {
            life: start.life,
            started_us: start.now_us,
            status: member.status(),
            member,
            preparer: wal.preparer(),
            wal,
            snaps,
            writes: VecDeque::new(),
            writing: None,
            log: found.clone(),
            snapshot_index: snapshot.index,
            work: VecDeque::new(),
            is_applying: false,
            is_dirty: false,
            chores: VecDeque::new(),
            opener: hub.opener(),
            hub,
            feed: VecDeque::new(),
            lost: 0,
            pending: BTreeMap::new(),
            readers: BTreeMap::new(),
            rounds: 0,
            data,
        };
        Ok(Opened { process, found })
    }

    /// The process's own time.
    pub fn now_ms(&self, now_us: u64) -> u64 {
        (now_us - self.started_us) / 1000
    }

    /// Replaces the state by one that has arrived.
    pub fn install(&mut self, disk: &SimDisk, snapshot: &Snapshot) -> Result<(), Died> {
        let data = &mut self.data;
        assert!(!data.lessor.lock().is_primary(), "a leader is sent no snapshot");
        let index = transfer::metadata(snapshot).index;
        let (commit, tables) = transfer::load(disk, snapshot, &data.store, &data.mvcc)?;
        assert_eq!(commit.applied_index, index, "the state is that of its entry");
        let (revision, compacted) = (commit.revision, commit.compact_revision);
        *data = Data::revive(data.store.clone(), data.mvcc.clone(), commit, tables)?;
        transfer::clear(disk, index)?;
        self.lost = self.lost.max(revision);
        self.feed.push_back(News::Compacted(compacted));
        self.snapshot_index = index;
        Ok(())
    }

    /// The compact revision up to which superfluous changes are gone.
    pub fn compacted(&self) -> i64 {
        match self.chores.iter().any(|chore| matches!(chore, Chore::Compact(_))) {
            true => -1,
            false => self.data.mvcc.compacted(),
        }
    }
}

impl Data {
    /// Opens the store, and brings it up to the snapshot that the log begins with.
    fn open(disk: &Arc<dyn Disk>, plan: &Plan, snapshot: &Snapshot) -> Result<Data, Died> {
        let index = transfer::metadata(snapshot).index;
        let has_arrived = disk.exists(&image::received(&transfer::snap_dir(), index));
        let options = store_options(plan, if has_arrived { 0 } else { index + 1 });
        let (store, recovered) = Store::open(disk.clone(), Path::new(MEMBER).join("kv"), options)
            .map_err(died("opening the store"))?;
        let (mut commit, mut tables) = (recovered.commit, recovered.tables);
        if commit.applied_index < index {
            (commit, tables) = transfer::load(&**disk, snapshot, &store, &recovered.mvcc)?;
        }
        let cleared = image::remove_arriving(&**disk, &transfer::snap_dir());
        cleared.map_err(died("removing what was arriving"))?;
        transfer::clear(&**disk, u64::MAX)?;
        Data::revive(store, recovered.mvcc, commit, tables)
    }

    /// Reads back from tables and keys what is kept in memory of them.
    fn revive(store: Arc<Store>, mvcc: Arc<Mvcc>, commit: Commit, tables: Tables) -> Result<Data, Died> {
        let mut lessor = Lessor::new(lease::Config {
            min_ttl_secs: 1,
            revoke_retry_ms: 1000,
        });
        let rows = tables.into_iter();
        let rows =
            rows.flat_map(|(table, rows)| rows.into_iter().map(move |(key, value)| (table, key, value)));
        let machine = Machine::restore(machine::Config { learners_max: 2 }, &mut lessor, rows)
            .map_err(died("reading the tables"))?;
        reattach(&mvcc, &mut lessor)?;
        Ok(Data {
            removed: machine.membership().removed().collect(),
            head: Head::new(mvcc.clone()),
            store,
            mvcc,
            machine,
            lessor: Mutex::new(lessor),
            conf_state: commit.conf_state.unwrap_or_default(),
            applied: commit.applied_index,
        })
    }
}

fn new_hub(id: u64, mvcc: &Mvcc) -> Hub {
    let identity = Identity {
        cluster_id: 1,
        member_id: id,
        raft_term: 0,
    };
    let options = watch::Options {
        limits: watch::Limits {
            outbox_frames: 4,
            catch_up_revisions: 5,
            ..watch::Limits::default()
        },
        progress_interval_ms: 100,
    };
    Hub::new(
        identity,
        mvcc.current(),
        mvcc.compacted(),
        options,
        Waker::noop().clone(),
    )
}

fn open_log(
    disk: &Arc<dyn Disk>,
    start: &Start<'_>,
    snaps: &SnapDir,
) -> Result<(Wal, wal::Replay, Snapshot), Died> {
    let dir: PathBuf = Path::new(MEMBER).join("wal");
    let options = wal::Options {
        segment_bytes: start.plan.wal_segment_bytes,
        files_max: 2,
    };
    if !Wal::exists(&**disk, &dir) {
        let metadata = etcdserverpb::Metadata {
            node_id: start.id,
            cluster_id: 1,
        };
        Wal::create(disk.clone(), &dir, &metadata.encode_to_vec(), options)
            .map_err(died("making the log"))?;
    }
    let valid = Wal::snapshots(&**disk, &dir).map_err(died("looking for snapshots"))?;
    let loaded = snaps.load_newest(&valid).map_err(died("reading snapshots"))?;
    let saved = loaded.snapshot.unwrap_or_default();
    let snapshot = transfer::metadata(&saved);
    let from = walpb::Snapshot {
        index: snapshot.index,
        term: snapshot.term,
        conf_state: None,
    };
    let (mut wal, mut replay) =
        Wal::open(disk.clone(), &dir, &from, options).map_err(died("opening the log"))?;
    if snapshot.index == 0 && replay.entries.is_empty() && !start.first.is_empty() {
        replay.entries = bootstrap_entries(start.first);
        replay.hard_state = HardState {
            term: 1,
            vote: 0,
            commit: replay.entries.len() as u64,
        };
        wal.append(&replay.entries, Some(&replay.hard_state));
        wal.sync().map_err(died("writing the first entries"))?;
    }
    Ok((wal, replay, saved))
}

/// Gives leases their keys back: every stored key names its lease.
fn reattach(mvcc: &Arc<Mvcc>, lessor: &mut Lessor) -> Result<(), Died> {
    let view = mvcc.view();
    let mut cursor = Cursor::default();
    while !cursor.is_done() {
        let chunk = view.chunk(&KeyRange::All, false, &mut cursor, 100, Wait::Yes);
        for kv in chunk.map_err(died("reading keys with leases"))? {
            let kv = KvRef::parse(&kv).expect("what is stored are key-value pairs");
            if kv.lease != 0 {
                machine::attach(lessor, kv.key(), LeaseId(kv.lease));
            }
        }
    }
    Ok(())
}
