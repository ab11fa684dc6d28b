//! Putting a member together: open the disk, make the loops, connect them.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use env::{Disk, RealDisk, Unsynced};
use machine::trail::Trail;
use mvcc::{Head, Mvcc};
use parking_lot::Mutex;
use peer::Transport;
use store::Store;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::access::Tokenizer;
use crate::answers::Answers;
use crate::board::Board;
use crate::bootstrap::Beginning;
use crate::config::{Config, Gate, VERSION};
use crate::ids::RequestIds;
use crate::inbox::Inbox;
use crate::install::{Installer, ReviveError, Revived, count_keys, revive};
use crate::loops::apply::{Applier, Apply, COMMITTED_MAX, Committed};
use crate::loops::housekeeping::{CHORES_MAX, Chore, Housekeeper};
use crate::loops::log::{APPENDS_MAX, LogLoop, Write};
use crate::loops::member::{Links, Member};
use crate::loops::sync::{self, SyncSignals};
use crate::loops::watch::{self as watch_loop, WatchHandle};
use crate::loops::{Failure, spawn};
use crate::metrics::{Metrics, Network};
use crate::node::{Compactions, Inner, Node};
use crate::passwords::Passwords;
use crate::peers::{Inlet, Peers};
use crate::progress::Job;
use crate::replies::Replies;
use crate::sending::Sender;
use crate::storage::{Storage, StorageError};

/// What a connection to another member may take beyond an election timeout.
const DIAL_SLACK: Duration = Duration::from_secs(1);

/// Why a member can not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its disk is not as it should be.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The store's content is not understood.
    #[error(transparent)]
    Revive(#[from] ReviveError),
    /// Log and store do not make sense together.
    #[error(transparent)]
    Raft(#[from] consensus::RestoreError),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A member whose loops run.
pub struct Running {
    /// The handle for its handlers.
    pub node: Node,
    /// Where a failure of a loop is reported.
    pub failure: Failure,
    log: Arc<Inbox<Write>>,
    committed: Arc<Inbox<Committed>>,
    chores: Arc<Inbox<Chore>>,
    sync: Arc<SyncSignals>,
    clock: JoinHandle<()>,
    logger: JoinHandle<()>,
    applier: JoinHandle<()>,
    housekeeper: JoinHandle<()>,
    syncer: JoinHandle<()>,
    watcher: JoinHandle<()>,
}

/// What a member is started with beside its configuration.
pub struct Surroundings {
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
    /// How many connection runtimes there are.
    pub lanes: usize,
    /// Where connections to other members live.
    pub peer_runtime: Handle,
    /// For small requests to other members.
    pub client: peer::Client,
    /// How connections to other members are secured.
    pub tls: Option<tls::Client>,
    /// How users who have signed in are known again.
    pub tokens: Tokenizer,
    /// How the member begins, if it has no data.
    pub beginning: Option<Beginning>,
}

/// Opens the member's disk and starts its loops.
pub fn start(config: Arc<Config>, surroundings: Surroundings) -> Result<Running, StartError> {
    let Surroundings {
        metrics,
        lanes,
        peer_runtime,
        client,
        tls,
        tokens,
        beginning,
    } = surroundings;
    let started = Instant::now();
    let disk: Arc<dyn Disk> = match config.fsync {
        true => Arc::new(RealDisk),
        false => Arc::new(Unsynced(RealDisk)),
    };
    let Storage {
        id,
        cluster_id,
        wal,
        snaps,
        store,
        recovered,
        restored,
    } = Storage::open(disk.clone(), &config, beginning.as_ref())?;
    let mvcc = recovered.mvcc;
    let Revived {
        machine,
        lessor,
        commit,
    } = revive(&config, &mvcc, recovered.tables, recovered.commit)?;
    let lessor = Arc::new(Mutex::new(lessor));

    let failure = Failure::default();
    let board = Arc::new(Board::default());
    board.post_applied(commit.applied_index);
    let replies = Replies::new(lanes);
    let log = Arc::new(Inbox::<Write>::new(APPENDS_MAX));
    let committed = Arc::new(Inbox::new(COMMITTED_MAX));
    let chores = Arc::new(Inbox::<Chore>::new(CHORES_MAX));
    let sync = Arc::new(SyncSignals::default());
    let compactions = Arc::new(Compactions::new(commit.compact_revision));
    let trail = Arc::new(Mutex::new(Trail::new(commit.applied_index)));
    let ids = RequestIds::new(id, unix_ms());

    let identity = watch::Identity {
        cluster_id: cluster_id.0,
        member_id: id.0,
        raft_term: restored.hard_state.term,
    };
    let progress_ms = config.watch_progress_interval.as_millis() as u64;
    let watch_options = watch::Options {
        limits: watch::Limits {
            fragment_bytes: config
                .max_request_bytes
                .saturating_add(crate::GRPC_OVERHEAD_BYTES),
            ..Default::default()
        },
        ..Default::default()
    }
    .with_progress_interval(progress_ms, ids.next());
    let (watch_loop, watches) = watch_loop::new(
        identity,
        watch_options,
        mvcc.clone(),
        lanes,
        metrics.clone(),
        failure.clone(),
    );

    measure(&metrics, &mvcc, &store, &replies, &watches);
    metrics.set_id(id);
    metrics
        .debugging_mvcc_keys_total
        .set(count_keys(&mvcc).map_err(ReviveError::from)?);

    let inlet = Arc::new(Inlet::new(board.clone(), config.member_dir().join("snap")));
    let transport = Transport::new(
        peer::Config {
            id,
            cluster_id,
            peer_urls: config.advertise_peer.iter().map(ToString::to_string).collect(),
            version: VERSION,
            tls,
            dial_timeout: config.election_timeout + DIAL_SLACK,
            dials_from: config.dials_from(),
            read_timeout: config.peer_read_timeout,
            write_timeout: config.peer_write_timeout,
            disk: disk.clone(),
        },
        peer_runtime.clone(),
        inlet.clone(),
        Arc::new(Network::new(metrics.clone(), id)),
    );
    let sender = Sender::new(store.clone(), compactions.clone());
    let peers = Arc::new(Peers::new(
        id,
        transport,
        client,
        sender,
        inlet.clone(),
        peer_runtime,
    ));
    if let Some(beginning) = &beginning {
        peers.meet(&beginning.members);
    }

    let preparer = wal.preparer();
    chores.deliver(Chore::PrepareLog);
    let snapshot_index = restored.snapshot.index;
    let conf_state = restored.conf_state.clone();
    let seed = unix_ms() ^ id.0;
    let member = Member::new(
        &config,
        id,
        restored,
        machine.membership().removed().collect(),
        seed,
        started,
        Links {
            log: log.clone(),
            committed: committed.clone(),
            board: board.clone(),
            replies: replies.clone(),
            lessor: lessor.clone(),
            watches: watches.clone(),
            peers: peers.clone(),
            metrics: metrics.clone(),
            failure: failure.clone(),
        },
    )?;
    inlet.open(&member);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let passwords = Passwords::new(config.bcrypt_cost, cores);
    board.post_auth(machine.auth().clone());
    let applier = Applier {
        id,
        machine,
        head: Head::new(mvcc.clone()),
        lessor: lessor.clone(),
        tokens: tokens.remembered(),
        conf_state,
        store: store.clone(),
        sync: sync.clone(),
        board: board.clone(),
        replies: replies.clone(),
        watches: watches.clone(),
        member: member.clone(),
        peers: peers.clone(),
        chores: chores.clone(),
        compactions: compactions.clone(),
        installer: Installer {
            disk,
            snap_dir: config.member_dir().join("snap"),
            config: config.clone(),
        },
        trail: trail.clone(),
        snapshot_count: config.snapshot_count,
        snapshot_index,
        started,
        slow_apply: config.slow_apply,
        durations: HashMap::new(),
        metrics: metrics.clone(),
        failure: failure.clone(),
    };
    let apply = Arc::new(Apply::new(committed.clone(), applier));
    let logger = LogLoop {
        inbox: log.clone(),
        wal,
        preparer: preparer.clone(),
        snaps: snaps.clone(),
        snaps_kept: config.max_snapshot_files,
        board: board.clone(),
        member: member.clone(),
        apply: apply.clone(),
        peers: peers.clone(),
        chores: chores.clone(),
        metrics: metrics.clone(),
        failure: failure.clone(),
    };
    let housekeeper = Housekeeper {
        chores: chores.clone(),
        mvcc: mvcc.clone(),
        store: store.clone(),
        snaps,
        preparer,
        board: board.clone(),
        log: log.clone(),
        member: member.clone(),
        compactions: compactions.clone(),
        quota_bytes: config.quota_bytes,
        hashes_compactions: config.gates.enabled(Gate::CompactHashCheck),
        walked: compactions.finished(),
        metrics: metrics.clone(),
        failure: failure.clone(),
    };

    let thread = |name: &str, body: Box<dyn FnOnce() + Send>| spawn(name, body).map_err(StartError::Thread);
    let syncer = {
        let (store, sync, metrics, failure) = (store.clone(), sync.clone(), metrics.clone(), failure.clone());
        thread(
            "store-sync",
            Box::new(move || sync::run(store, sync, metrics, failure)),
        )?
    };
    let clock = {
        let member = member.clone();
        thread("clock", Box::new(move || member.run_clock()))?
    };
    let answers = Answers::new(config.request_timeout());
    let node = Node::new(Inner {
        config,
        id,
        cluster_id,
        board,
        mvcc,
        store,
        lessor,
        tokens,
        passwords,
        answers,
        replies,
        member,
        peers,
        watches,
        metrics,
        compactions,
        defragmentation: Job::default(),
        defragmenting: Arc::default(),
        trail,
        ids,
        started,
    });
    Ok(Running {
        node,
        failure,
        watcher: thread("watch", Box::new(move || watch_loop.run()))?,
        housekeeper: thread("housekeeping", Box::new(move || housekeeper.run()))?,
        applier: thread("apply", Box::new(move || apply.run()))?,
        logger: thread("raft-log", Box::new(move || logger.run()))?,
        clock,
        syncer,
        log,
        committed,
        chores,
        sync,
    })
}

impl Running {
    /// Stops the loops in the order of the data's way, so that each finishes what it was given, and
    /// leaves everything synced.
    pub fn stop(self) {
        let ended = |name: &str, thread: JoinHandle<()>| {
            if thread.join().is_err() {
                tracing::error!(name, "a loop has panicked");
            }
        };
        self.node.member.close();
        ended("clock", self.clock);
        self.log.close();
        ended("raft-log", self.logger);
        self.committed.close();
        ended("apply", self.applier);
        self.node.watches.close();
        ended("watch", self.watcher);
        self.chores.close();
        ended("housekeeping", self.housekeeper);
        self.sync.close();
        ended("store-sync", self.syncer);
    }
}

/// Lets a scrape ask for what is known anyway.
fn measure(
    metrics: &Metrics,
    mvcc: &Arc<Mvcc>,
    store: &Arc<Store>,
    replies: &Arc<Replies>,
    watches: &WatchHandle,
) {
    let of = |store: &Arc<Store>, read: fn(&Store) -> u64| {
        let store = store.clone();
        move || read(&store) as f64
    };
    metrics.mvcc_db_total_size_in_bytes.ask(of(store, Store::size));
    metrics
        .mvcc_db_total_size_in_use_in_bytes
        .ask(of(store, Store::size_in_use));
    metrics
        .mvcc_db_open_read_transactions
        .ask(of(store, |store| store.open_snapshots() as u64));
    let of = |mvcc: &Arc<Mvcc>, read: fn(&Mvcc) -> i64| {
        let mvcc = mvcc.clone();
        move || read(&mvcc) as f64
    };
    metrics
        .debugging_mvcc_current_revision
        .ask(of(mvcc, Mvcc::current));
    metrics
        .debugging_mvcc_compact_revision
        .ask(of(mvcc, Mvcc::compacted));
    let replies = replies.clone();
    metrics
        .server_proposals_pending
        .ask(move || replies.pending() as f64);
    let of = |watches: &WatchHandle, read: fn(watch::Metrics) -> u64| {
        let watches = watches.clone();
        move || read(watches.counts()) as f64
    };
    metrics
        .debugging_mvcc_watch_stream_total
        .ask(of(watches, |counts| counts.streams as u64));
    metrics
        .debugging_mvcc_watcher_total
        .ask(of(watches, |counts| counts.watchers as u64));
    metrics
        .debugging_mvcc_slow_watcher_total
        .ask(of(watches, |counts| counts.slow_watchers as u64));
    metrics
        .debugging_mvcc_pending_events_total
        .ask(of(watches, |counts| counts.pending_events));
    metrics
        .debugging_mvcc_events_total
        .ask(of(watches, |counts| counts.sent_events));
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}
