//! Which question a read index answers.
//!
//! A leader that is asked for a read index notes its commit index under the request's context, and
//! believes in its leadership again when a majority has echoed that context on a heartbeat. If a
//! context is used twice, the echo of the first use vouches for the second, and a read may miss writes
//! made in between (etcd issue 20418). So every attempt gets a context of its own here: those of this
//! member and, when it leads, those that followers forward, whose own bytes are put back in the answer.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Attempts remembered at most. Only lost ones stay, one each 500 ms and member, until the leader
/// changes; at the limit the oldest is forgotten and its reader asks again.
const ATTEMPTS_MAX: usize = 4096;

/// Who is waiting for an answer.
pub(crate) enum Asker {
    /// This member, with the token it gave.
    Local(u64),
    /// A follower, with the context it gave.
    Follower(Bytes),
}

pub(crate) struct Reads {
    /// Counts up from a random start, so that two lives of a member hardly ever share a context.
    next: u64,
    attempts: BTreeMap<u64, Asker>,
}

impl Reads {
    pub(crate) fn new(start: u64) -> Self {
        Reads {
            // Half of the numbers are more than a process can use up.
            next: start >> 1,
            attempts: BTreeMap::new(),
        }
    }

    /// A context nobody has used.
    pub(crate) fn ask(&mut self, asker: Asker) -> Bytes {
        let context = self.next;
        self.next += 1;
        if self.attempts.len() == ATTEMPTS_MAX {
            self.attempts.pop_first();
        }
        self.attempts.insert(context, asker);
        Bytes::copy_from_slice(&context.to_be_bytes())
    }

    /// Who asked with this context; each is answered once.
    pub(crate) fn answer(&mut self, context: &[u8]) -> Option<Asker> {
        let context = u64::from_be_bytes(context.try_into().ok()?);
        self.attempts.remove(&context)
    }

    /// Forgets all: a new leader, or none, will not answer them.
    pub(crate) fn clear(&mut self) {
        self.attempts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_has_its_own_context_and_is_answered_once() {
        let mut reads = Reads::new(u64::MAX);
        let first = reads.ask(Asker::Local(7));
        let second = reads.ask(Asker::Local(7));
        assert_eq!(first.len(), 8);
        assert_ne!(first, second);
        assert!(matches!(reads.answer(&second), Some(Asker::Local(7))));
        assert!(reads.answer(&second).is_none());
        reads.clear();
        assert!(reads.answer(&first).is_none());
        assert!(reads.answer(b"odd").is_none());
    }

    #[test]
    fn the_oldest_attempt_gives_way_at_the_limit() {
        let mut reads = Reads::new(0);
        let first = reads.ask(Asker::Follower(Bytes::new()));
        let contexts: Vec<_> = (0..ATTEMPTS_MAX as u64)
            .map(|token| reads.ask(Asker::Local(token)))
            .collect();
        assert!(reads.answer(&first).is_none());
        assert!(reads.answer(&contexts[0]).is_some());
    }
}
