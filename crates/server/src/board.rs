//! What the loops let everybody know: small facts, each written by one loop and read by all handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use auth::Auth;
use machine::{ClusterVersion, Downgrade, Membership};
use parking_lot::RwLock;
use proto::etcdserverpb::{AlarmMember, Member};
use tokio::sync::Notify;
use tokio::time::timeout;
use types::{Index, MemberId, Term};

use crate::busy::Busy;

/// The notice board of one member.
#[derive(Default)]
pub struct Board {
    term: AtomicU64,
    leader: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
    leads: AtomicBool,
    lone_leader: AtomicBool,
    learner: AtomicBool,
    /// One more than the milliseconds; 0 while there was no leader.
    leader_since: AtomicU64,
    replicated: RwLock<Arc<Replicated>>,
    auth: RwLock<Arc<Auth>>,
    auth_enabled: AtomicBool,
    progress: Notify,
    leader_news: Notify,
    /// Whether this member was removed from its cluster.
    departed: AtomicBool,
    departure: Notify,
    replicated_news: Notify,
    /// What the loops are at.
    pub busy: Busy,
}

/// Facts of the replicated state that handlers answer from.
#[derive(Clone, Debug, Default)]
pub struct Replicated {
    /// The members, and those who were once.
    pub membership: Membership,
    /// The members as answers list them.
    pub members: Vec<Member>,
    /// Active alarms of all members.
    pub alarms: Vec<AlarmMember>,
    /// The version the cluster has agreed on, that of the stored data, and a downgrade under way.
    pub versions: ClusterVersion,
}

/// Raft's side of the board, written by the member loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raft {
    /// The current term.
    pub term: Term,
    /// The leader, if one is known.
    pub leader: Option<MemberId>,
    /// The last committed entry.
    pub committed: Index,
    /// Whether this member is the leader.
    pub leads: bool,
    /// Whether it is the leader, the only voter, and has applied an entry of its term, so that what
    /// it has applied is all there is.
    pub lone_leader: bool,
    /// Whether this member has no vote.
    pub learner: bool,
    /// When the leader came to be known, in milliseconds since this process started.
    pub leader_since_ms: Option<u64>,
}

impl Board {
    /// Posts raft's side.
    pub fn post_raft(&self, raft: Raft) {
        // The flag first when it falls: no reader may take the short cut once another voter counts.
        self.lone_leader.store(raft.lone_leader, Ordering::SeqCst);
        self.leads.store(raft.leads, Ordering::Release);
        self.term.store(raft.term, Ordering::Release);
        self.committed.store(raft.committed, Ordering::Release);
        self.learner.store(raft.learner, Ordering::Release);
        let since = raft.leader_since_ms.map_or(0, |since| since + 1);
        self.leader_since.store(since, Ordering::Release);
        let leader = raft.leader.map_or(0, |id| id.0);
        if self.leader.swap(leader, Ordering::AcqRel) != leader {
            self.leader_news.notify_waiters();
        }
    }

    /// Raft's side, as last posted.
    pub fn raft(&self) -> Raft {
        let leader = self.leader.load(Ordering::Acquire);
        Raft {
            term: self.term.load(Ordering::Acquire),
            leader: (leader != 0).then_some(MemberId(leader)),
            committed: self.committed.load(Ordering::Acquire),
            leads: self.leads.load(Ordering::Acquire),
            lone_leader: self.lone_leader.load(Ordering::SeqCst),
            learner: self.learner.load(Ordering::Acquire),
            leader_since_ms: self.leader_since.load(Ordering::Acquire).checked_sub(1),
        }
    }

    /// Posts how far apply has come.
    pub fn post_applied(&self, index: Index) {
        self.applied.store(index, Ordering::Release);
        self.progress.notify_waiters();
    }

    /// How far apply has come.
    pub fn applied(&self) -> Index {
        self.applied.load(Ordering::Acquire)
    }

    /// Waits until apply has come to `index`.
    pub async fn wait_applied(&self, index: Index) {
        loop {
            let progress = self.progress.notified();
            if self.applied() >= index {
                return;
            }
            progress.await;
        }
    }

    /// Waits until there is a leader.
    pub async fn wait_leader(&self) {
        loop {
            let news = self.leader_news.notified();
            if self.raft().leader.is_some() {
                return;
            }
            news.await;
        }
    }

    /// Waits until there is another leader than `known`, or none any more.
    pub async fn leader_change(&self, known: Option<MemberId>) {
        loop {
            let news = self.leader_news.notified();
            if self.raft().leader != known {
                return;
            }
            news.await;
        }
    }

    /// Waits until there has been no leader for this long.
    pub async fn wait_leaderless(&self, patience: Duration) {
        loop {
            match self.raft().leader {
                Some(leader) => self.leader_change(Some(leader)).await,
                None if timeout(patience, self.wait_leader()).await.is_err() => return,
                None => {}
            }
        }
    }

    /// Waits until the members are others than `known`, or say something else of themselves.
    pub async fn members_change(&self, known: &[Member]) {
        loop {
            let news = self.replicated_news.notified();
            if self.replicated().members != known {
                return;
            }
            news.await;
        }
    }

    /// Waits until the downgrade under way is another than `known`.
    pub async fn downgrade_change(&self, known: &Downgrade) {
        loop {
            let news = self.replicated_news.notified();
            if self.replicated().versions.downgrade() != known {
                return;
            }
            news.await;
        }
    }

    /// Posts that this member was removed from its cluster.
    pub fn post_departure(&self) {
        self.departed.store(true, Ordering::Release);
        self.departure.notify_waiters();
    }

    /// Waits until this member is removed from its cluster.
    pub async fn wait_departure(&self) {
        loop {
            let departure = self.departure.notified();
            if self.departed.load(Ordering::Acquire) {
                return;
            }
            departure.await;
        }
    }

    /// Posts the replicated facts.
    pub fn post_replicated(&self, replicated: Replicated) {
        *self.replicated.write() = Arc::new(replicated);
        self.replicated_news.notify_waiters();
    }

    /// Posts users and roles.
    pub fn post_auth(&self, auth: Arc<Auth>) {
        let enabled = auth.is_enabled();
        *self.auth.write() = auth;
        self.auth_enabled.store(enabled, Ordering::Release);
    }

    /// Users and roles, as last posted: never older than what is applied.
    pub fn auth(&self) -> Arc<Auth> {
        self.auth.read().clone()
    }

    /// Whether authentication is on: the short way, since every request asks.
    pub fn auth_enabled(&self) -> bool {
        self.auth_enabled.load(Ordering::Acquire)
    }

    /// The replicated facts, as last posted.
    pub fn replicated(&self) -> Arc<Replicated> {
        self.replicated.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_lost_only_after_a_while_without_any() {
        let board = Arc::new(Board::default());
        let led_by = |leader: Option<u64>| {
            board.post_raft(Raft {
                leader: leader.map(MemberId),
                ..Raft::default()
            });
        };
        let second = Duration::from_secs(1);
        let waiting = {
            let board = board.clone();
            tokio::spawn(async move { board.wait_leaderless(3 * second).await })
        };
        for (leader, wait) in [
            (Some(1), 9),
            (None, 2),
            (Some(2), 9),
            (None, 2),
            (Some(1), 1),
            (None, 2),
        ] {
            led_by(leader);
            tokio::time::sleep(wait * second).await;
            assert!(!waiting.is_finished());
        }
        tokio::time::sleep(2 * second).await;
        assert!(waiting.is_finished());
    }
}
