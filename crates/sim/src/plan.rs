//! What a seed decides before anything happens: how large the cluster is, how bad its network, which
//! faults it meets. Every seed leaves most kinds of fault out: what always goes wrong in company hides
//! what only goes wrong alone ("swarm testing", Groce et al.).

use crate::chance::Chance;

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed; what it wrote stays in the machine's memory.
    Kill,
    /// A machine loses power, with some, all or none of what was not synced.
    PowerLoss,
    /// A machine loses power in the middle of one of the next operations of its disk.
    TornWrite,
    /// A process stands still for a while.
    Pause,
    /// A disk takes very long.
    SlowDisk,
    /// A disk is full, or nearly.
    FullDisk,
    /// The leader alone, or with a minority.
    Minority,
    /// The network in two halves, or a member alone.
    Split,
    /// A member that is heard and does not hear, or the other way round.
    OneWay,
    /// Links on which everything takes long.
    SlowLink,
    /// A change of the membership.
    Membership,
    /// The leadership is to be handed over.
    Transfer,
    /// A member is told that another is gone that is not.
    FalseAlarm,
}

/// All kinds.
pub const FAULTS: [Fault; 13] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::TornWrite,
    Fault::Pause,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::Minority,
    Fault::Split,
    Fault::OneWay,
    Fault::SlowLink,
    Fault::Membership,
    Fault::Transfer,
    Fault::FalseAlarm,
];

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Members at the beginning.
    pub members: u64,
    /// A heartbeat interval; an election timeout is ten.
    pub tick_ms: u64,
    /// Times of trouble, each followed by quiet.
    pub rounds: u64,
    /// How long trouble lasts.
    pub trouble_ms: u64,
    /// Mean time from one fault to the next.
    pub fault_gap_ms: u64,
    /// The kinds of trouble.
    pub faults: Vec<Fault>,
    /// Clients.
    pub clients: u64,
    /// Clients that only read, and care for the newest.
    pub readers: u64,
    /// Mean time a client waits between an answer and its next request.
    pub think_us: u64,
    /// Longest time a client waits for an answer.
    pub patience_us: u64,
    /// Watchers.
    pub watchers: u64,
    /// Keys in use.
    pub keys: u64,
    /// Largest value.
    pub value_bytes: u64,
    /// Messages lost, in a thousand.
    pub loss: u64,
    /// Messages that arrive twice, in a thousand.
    pub duplicates: u64,
    /// Messages that take long, in a thousand.
    pub stragglers: u64,
    /// Applied entries between two raft snapshots.
    pub snapshot_count: u64,
    /// Entries kept for followers that lag.
    pub catch_up: u64,
    /// Snapshot files kept.
    pub snapshots_kept: usize,
    /// Bytes of a log segment.
    pub wal_segment_bytes: u64,
    /// Bytes of a store segment.
    pub store_segment_bytes: u64,
    /// Mean time of a write of the log, in microseconds.
    pub sync_us: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(chance: &mut Chance) -> Self {
        let faults = FAULTS.into_iter().filter(|_| chance.permille(350)).collect();
        Plan {
            members: chance.weighted(&[(1, 1), (1, 2), (14, 3), (1, 4), (4, 5)]),
            tick_ms: chance.pick(&[10, 10, 20]),
            rounds: chance.within(1, 3),
            trouble_ms: chance.within(400, 1500),
            fault_gap_ms: chance.pick(&[40, 100, 200, 400]),
            faults,
            clients: chance.within(2, 6),
            readers: chance.pick(&[0, 2, 8]),
            think_us: chance.pick(&[500, 3_000, 10_000]),
            patience_us: chance.pick(&[100_000, 300_000, 1_000_000]),
            watchers: chance.within(1, 4),
            keys: chance.pick(&[2, 5, 20]),
            value_bytes: chance.pick(&[8, 8, 200, 1500]),
            loss: chance.pick(&[0, 0, 5, 50, 200]),
            duplicates: chance.pick(&[0, 5, 100]),
            stragglers: chance.pick(&[0, 5, 50]),
            snapshot_count: chance.pick(&[10, 50, 200]),
            catch_up: chance.pick(&[0, 5, 50]),
            snapshots_kept: chance.pick(&[1, 2]),
            wal_segment_bytes: chance.pick(&[4 << 10, 16 << 10, 64 << 10]),
            store_segment_bytes: chance.pick(&[1 << 10, 4 << 10, 16 << 10]),
            sync_us: chance.pick(&[200, 1_000, 4_000]),
        }
    }
}
