//! The life of a cluster of three under load: what happens to it, one fault after the other.
//!
//! Each fault ends with the cluster well again, and in its middle the clients must make progress, for a majority is
//! never touched. At the end the load is checked (see [`crate::load`]) and all members have the same hash.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use crate::belongings::Belongings;
use crate::cluster::Cluster;
use crate::harness;
use crate::load::{Load, Report};
use crate::network::Network;
use crate::spaces::Spaces;
use crate::tools::Tools;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of a follower, which is started again.
    KillFollower,
    /// `kill -9` of the leader, which is started again.
    KillLeader,
    /// The leader is asked to end, and started again.
    RestartLeader,
    /// A follower hangs for a while.
    FreezeFollower,
    /// The leader hangs for a while; it wakes up in the belief that it leads.
    FreezeLeader,
    /// A follower is cut off from the other members.
    IsolateFollower,
    /// The leader is cut off from the other members, not from its clients.
    IsolateLeader,
    /// A follower's cable is pulled: nobody reaches it.
    UnplugFollower,
    /// The leader's cable is pulled.
    UnplugLeader,
    /// A follower is heard by nobody.
    MuteFollower,
    /// A follower hears nobody; it must not disturb the others.
    DeafFollower,
    /// The leader is heard by nobody.
    MuteLeader,
    /// The leader hears nobody, and must find out by itself.
    DeafLeader,
    /// What a follower sends and gets takes its time.
    SlowFollower,
    /// Leadership goes round.
    MoveLeader,
    /// A follower is away for so long that the others' logs do not reach back: it gets a snapshot.
    Snapshot,
    /// A member loses its disk and is removed and added again.
    Replace,
    /// A fourth member is added as a learner, promoted, and takes another one's place.
    Learner,
}

/// All faults.
pub const FAULTS: [Fault; 18] = [
    Fault::KillFollower,
    Fault::KillLeader,
    Fault::RestartLeader,
    Fault::FreezeFollower,
    Fault::FreezeLeader,
    Fault::IsolateFollower,
    Fault::IsolateLeader,
    Fault::UnplugFollower,
    Fault::UnplugLeader,
    Fault::MuteFollower,
    Fault::DeafFollower,
    Fault::MuteLeader,
    Fault::DeafLeader,
    Fault::SlowFollower,
    Fault::MoveLeader,
    Fault::Snapshot,
    Fault::Replace,
    Fault::Learner,
];

/// Faults of a short life: one of each kind.
pub const FEW: [Fault; 5] = [
    Fault::KillLeader,
    Fault::FreezeFollower,
    Fault::IsolateLeader,
    Fault::DeafFollower,
    Fault::RestartLeader,
];

/// What the members are connected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wires {
    /// See [`crate::links`].
    Relays,
    /// See [`crate::spaces`].
    Spaces,
}

impl Wires {
    /// Whether a fault can happen there.
    pub fn allow(self, fault: Fault) -> bool {
        match fault {
            Fault::UnplugFollower | Fault::UnplugLeader => self == Wires::Spaces,
            Fault::SlowFollower => self == Wires::Relays,
            _ => true,
        }
    }
}

/// Entries between two snapshots, and those the log keeps behind one; both few, so that a member that was away for a
/// moment needs a snapshot.
const SNAPSHOT_COUNT: u64 = 200;
const CATCH_UP_ENTRIES: u64 = 50;

/// Writes that make every log forget what a member would need.
const AWAY_WRITES: usize = 2 * (SNAPSHOT_COUNT + CATCH_UP_ENTRIES) as usize;

/// How often a member may be away before it needs a snapshot. A real leader keeps its log for half a minute after each
/// snapshot it sends, and one time takes some seconds.
const TIMES_AWAY: usize = 20;

/// Writes while a fault lasts: the cluster goes on.
const FAULT_WRITES: usize = 50;

/// Writes after a fault: the cluster is well.
const CALM_WRITES: usize = 20;

/// Flags for every member, in words both servers know.
pub fn flags() -> Vec<String> {
    vec![
        format!("--snapshot-count={SNAPSHOT_COUNT}"),
        format!("--experimental-snapshot-catchup-entries={CATCH_UP_ENTRIES}"),
    ]
}

/// Who lives.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// How many of the three members are ours; the others are real.
    pub ours: usize,
    /// Whether there are users, and everybody has to sign in.
    pub users: bool,
}

/// Leads three members through `faults`.
pub fn life(tools: &Tools, wires: Wires, cast: Cast, faults: &[Fault], seed: u64) -> Result<Report, String> {
    match wires {
        Wires::Relays => {
            let life = life_on(tools, Network::relayed()?, cast, faults, seed);
            harness::runtime()?.block_on(life)
        }
        Wires::Spaces => Spaces::with(|spaces| {
            let life = life_on(tools, Network::Spaces(spaces), cast, faults, seed);
            harness::runtime()?.block_on(life)
        }),
    }
}

async fn life_on(
    tools: &Tools,
    network: Network,
    cast: Cast,
    faults: &[Fault],
    seed: u64,
) -> Result<Report, String> {
    let programs = tools.programs(cast.ours);
    let cluster = Cluster::start(network, &programs, &flags()).await?;
    cluster.leader().await?;
    let belongings = match cast.users {
        true => Some(Belongings::bring(tools, &cluster).await?),
        false => None,
    };
    let load = Load::start(&cluster.addresses(), seed);
    let mut life = Life {
        tools,
        programs: programs.map(Path::to_owned).to_vec(),
        cluster,
        belongings,
        load,
        random: StdRng::seed_from_u64(seed),
    };
    for (number, fault) in faults.iter().enumerate() {
        let passed = life.suffer(*fault).await;
        passed.map_err(|error| format!("seed {seed}, the last of {:?}: {error}", &faults[..=number]))?;
    }
    let Life { cluster, load, .. } = life;
    let report = load.finish().await?;
    cluster.agree().await?;
    Ok(report)
}

/// Every fault that can happen once per round, in an order that depends on the seed.
pub fn shuffled(wires: Wires, rounds: usize, seed: u64) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let rounds = (0..rounds).flat_map(|_| {
        let mut round = FAULTS;
        round.shuffle(&mut random);
        round
    });
    rounds.filter(|fault| wires.allow(*fault)).collect()
}

struct Life<'a> {
    tools: &'a Tools,
    /// The program of each member there has been.
    programs: Vec<PathBuf>,
    cluster: Cluster,
    /// What must be kept.
    belongings: Option<Belongings>,
    load: Load,
    random: StdRng,
}

impl Life<'_> {
    async fn suffer(&mut self, fault: Fault) -> Result<(), String> {
        let leader = self.cluster.leader().await?;
        let follower = self.some_follower(leader)?;
        match fault {
            Fault::KillFollower => self.kill(follower).await?,
            Fault::KillLeader => self.kill(leader).await?,
            Fault::RestartLeader => {
                self.cluster.stop(leader).await?;
                self.goes_on(leader).await?;
                self.cluster.resume(leader).await?;
            }
            Fault::FreezeFollower => self.freeze(follower).await?,
            Fault::FreezeLeader => self.freeze(leader).await?,
            Fault::IsolateFollower => self.cut(follower, true, true).await?,
            Fault::IsolateLeader => self.cut(leader, true, true).await?,
            Fault::UnplugFollower => self.unplug(follower).await?,
            Fault::UnplugLeader => self.unplug(leader).await?,
            Fault::MuteFollower => self.cut(follower, true, false).await?,
            Fault::DeafFollower => self.cut(follower, false, true).await?,
            Fault::MuteLeader => self.cut(leader, true, false).await?,
            Fault::DeafLeader => self.cut(leader, false, true).await?,
            Fault::SlowFollower => {
                let delay = Duration::from_millis(self.random.random_range(1..50));
                for other in self.others(follower) {
                    self.cluster.delay(follower, other, delay)?;
                    self.cluster.delay(other, follower, delay)?;
                }
                self.load.progress(FAULT_WRITES).await?;
                self.cluster.heal()?;
            }
            Fault::MoveLeader => {
                for number in self.cluster.running() {
                    self.cluster.move_leader(number).await?;
                    self.load.progress(CALM_WRITES).await?;
                }
            }
            Fault::Snapshot => self.snapshot(follower).await?,
            Fault::Replace => {
                let mut numbers = vec![leader, follower];
                numbers.retain(|number| !self.is_last_real(*number));
                let number = *numbers.choose(&mut self.random).unwrap_or(&leader);
                self.cluster.replace(number).await?;
            }
            Fault::Learner => self.learner(leader, follower).await?,
        }
        self.load.progress(CALM_WRITES).await?;
        self.cluster.agree_so_far().await?;
        match &mut self.belongings {
            Some(belongings) => belongings.are_kept(self.tools, &self.cluster, follower).await,
            None => Ok(()),
        }
    }

    fn some_follower(&mut self, leader: usize) -> Result<usize, String> {
        let others = self.others(leader);
        others
            .choose(&mut self.random)
            .copied()
            .ok_or_else(|| "nobody follows".into())
    }

    /// Whether only ours are left without this member. Then the cluster's version rises, and no real one gets in again.
    fn is_last_real(&self, number: usize) -> bool {
        let mut real = self.cluster.running();
        real.retain(|member| self.programs[*member] == self.tools.reference);
        real == [number]
    }

    fn others(&self, number: usize) -> Vec<usize> {
        let running = self.cluster.running().into_iter();
        running.filter(|other| *other != number).collect()
    }

    /// The members but `without` have a leader among them, and write.
    async fn goes_on(&self, without: usize) -> Result<(), String> {
        self.cluster.leader_of(&self.others(without)).await?;
        self.load.progress(FAULT_WRITES).await
    }

    async fn kill(&mut self, number: usize) -> Result<(), String> {
        self.cluster.kill(number);
        self.goes_on(number).await?;
        self.cluster.resume(number).await
    }

    async fn freeze(&mut self, number: usize) -> Result<(), String> {
        self.cluster.freeze(number)?;
        self.goes_on(number).await?;
        self.cluster.thaw(number)
    }

    /// Cuts what a member sends, what it gets, or both.
    async fn cut(&mut self, number: usize, sent: bool, got: bool) -> Result<(), String> {
        for other in self.others(number) {
            if sent {
                self.cluster.cut(number, other)?;
            }
            if got {
                self.cluster.cut(other, number)?;
            }
        }
        self.goes_on(number).await?;
        self.cluster.heal()
    }

    async fn unplug(&mut self, number: usize) -> Result<(), String> {
        self.cluster.unplug(number)?;
        self.goes_on(number).await?;
        self.cluster.heal()
    }

    /// A member is away until it is sent a snapshot, again and again if need be: a real leader that has just sent
    /// one keeps its log.
    async fn snapshot(&mut self, number: usize) -> Result<(), String> {
        for _ in 0..TIMES_AWAY {
            self.cluster.kill(number);
            self.load.progress(AWAY_WRITES).await?;
            self.cluster.resume(number).await?;
            self.cluster.agree_so_far().await?;
            if self.cluster.snapshots_received(number).await? > 0 {
                return Ok(());
            }
        }
        Err(format!("away {TIMES_AWAY} times, and no snapshot is received"))
    }

    /// A learner joins, is promoted and replaces a member of its own kind.
    async fn learner(&mut self, leader: usize, follower: usize) -> Result<(), String> {
        let old = *[leader, follower].choose(&mut self.random).unwrap_or(&leader);
        let program = self.programs[old].clone();
        let new = self.cluster.add(&program, true).await?;
        self.programs.push(program);
        self.load.progress(FAULT_WRITES).await?;
        self.cluster.promote(new).await?;
        self.load.also(self.cluster.address(new));
        self.load.without(self.cluster.address(old));
        self.load.progress(FAULT_WRITES).await?;
        self.cluster.remove(old).await
    }
}
