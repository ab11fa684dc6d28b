//! Tickets for linearizable reads.
//!
//! A read may be served from this member's own state once that has applied everything that was
//! committed when the read came in. How far that is, the leader says, after making sure that it still
//! leads. One such question is under way at a time, and serves everybody who waited when it was asked:
//!
//! ```text
//!   ReadIndex ──► waiting ──(a leader is known, nothing under way)──► round ──(answer)──► confirmed
//!                    │                                                  │                    │
//!                 deadline: Timeout                deadline: Timeout ◄──┤        applied far enough: Ok
//!                                           another leader: LeaderChanged
//! ```
//!
//! Who comes later waits for the next round: an answer says nothing about what was committed after the
//! question. A round asks again every [`RETRY_MS`], each time with a fresh context underneath; any of
//! the answers will do, as all its readers were there before the first.

use std::collections::{BTreeMap, VecDeque};

use consensus::{Consensus, Leadership};
use types::{ErrorKind, Index};

use crate::effects::{ReadOutcome, Ticket};

/// Time after which an unanswered question is asked again; etcd's.
const RETRY_MS: u64 = 500;

/// Readers waiting at most. More than all connections of a busy server have open; beyond it a read is
/// refused with `TooManyRequests`.
const READERS_MAX: usize = 1 << 16;

struct Reader {
    ticket: Ticket,
    deadline_ms: u64,
}

struct Round {
    token: u64,
    readers: VecDeque<Reader>,
    /// The leader who was asked first, and its term.
    asked: Leadership,
    retry_at_ms: u64,
}

#[derive(Default)]
pub(crate) struct Reads {
    /// In the order of their deadlines.
    waiting: VecDeque<Reader>,
    round: Option<Round>,
    rounds: u64,
    /// Waiting for this index to be applied.
    confirmed: BTreeMap<Index, Vec<Ticket>>,
}

impl Reads {
    /// Admits a reader, unless there are too many.
    pub(crate) fn add(&mut self, ticket: Ticket, deadline_ms: u64) -> Result<(), ErrorKind> {
        if self.waiting.len() == READERS_MAX {
            return Err(ErrorKind::TooManyRequests);
        }
        self.waiting.push_back(Reader { ticket, deadline_ms });
        Ok(())
    }

    /// Whether [`start_round`](Self::start_round) would ask, given a leader.
    pub(crate) fn can_start_round(&self) -> bool {
        self.round.is_none() && !self.waiting.is_empty()
    }

    /// Asks for everybody who waits, if nothing is under way and there is somebody to ask.
    pub(crate) fn start_round(&mut self, raft: &mut Consensus, now_ms: u64) {
        if !self.can_start_round() || !raft.read_index(self.rounds + 1) {
            return;
        }
        self.rounds += 1;
        self.round = Some(Round {
            token: self.rounds,
            readers: std::mem::take(&mut self.waiting),
            asked: raft.status().leadership,
            retry_at_ms: now_ms + RETRY_MS,
        });
    }

    /// Asks again for the round under way.
    pub(crate) fn ask_again(&mut self, raft: &mut Consensus, now_ms: u64) {
        if let Some(round) = &mut self.round
            && raft.read_index(round.token)
        {
            round.retry_at_ms = now_ms + RETRY_MS;
        }
    }

    /// Time passes: asks again if it is time, and gives up on readers that are out of time.
    pub(crate) fn tick(&mut self, raft: &mut Consensus, now_ms: u64, outcomes: &mut Vec<ReadOutcome>) {
        if self
            .round
            .as_ref()
            .is_some_and(|round| round.retry_at_ms <= now_ms)
        {
            self.ask_again(raft, now_ms);
        }
        let mut expire = |readers: &mut VecDeque<Reader>| {
            let late = readers.partition_point(|reader| reader.deadline_ms <= now_ms);
            outcomes.extend(
                readers
                    .drain(..late)
                    .map(|reader| (reader.ticket, Err(ErrorKind::Timeout))),
            );
        };
        expire(&mut self.waiting);
        if let Some(round) = &mut self.round {
            expire(&mut round.readers);
        }
        self.round = self.round.take().filter(|round| !round.readers.is_empty());
    }

    /// Another leader will not answer what the last one was asked.
    pub(crate) fn leader_changed(
        &mut self,
        now: Leadership,
        raft: &mut Consensus,
        now_ms: u64,
        outcomes: &mut Vec<ReadOutcome>,
    ) {
        let Some(round) = self.round.as_ref().filter(|_| now.leader.is_some()) else {
            return;
        };
        if (round.asked.term, round.asked.leader) == (now.term, now.leader) {
            // It was lost from sight only.
            self.ask_again(raft, now_ms);
        } else if let Some(round) = self.round.take() {
            let failed = |reader: Reader| (reader.ticket, Err(ErrorKind::LeaderChanged));
            outcomes.extend(round.readers.into_iter().map(failed));
        }
    }

    /// An answer came, perhaps to a question of an earlier round.
    pub(crate) fn answered(&mut self, token: u64, index: Index) {
        if let Some(round) = self.round.take_if(|round| round.token == token) {
            let tickets = round.readers.into_iter().map(|reader| reader.ticket);
            self.confirmed.entry(index).or_default().extend(tickets);
        }
    }

    /// Lets go who waited for what is applied now.
    pub(crate) fn release(&mut self, applied: Index, outcomes: &mut Vec<ReadOutcome>) {
        while let Some(entry) = self
            .confirmed
            .first_entry()
            .filter(|entry| *entry.key() <= applied)
        {
            let (index, tickets) = entry.remove_entry();
            outcomes.extend(tickets.into_iter().map(|ticket| (ticket, Ok(index))));
        }
    }

    /// Fails everybody.
    pub(crate) fn fail(&mut self, error: ErrorKind, outcomes: &mut Vec<ReadOutcome>) {
        let round = self.round.take().map(|round| round.readers).unwrap_or_default();
        let readers = round.into_iter().chain(std::mem::take(&mut self.waiting));
        let confirmed = std::mem::take(&mut self.confirmed).into_values().flatten();
        let tickets = readers.map(|reader| reader.ticket).chain(confirmed);
        outcomes.extend(tickets.map(|ticket| (ticket, Err(error))));
    }
}
