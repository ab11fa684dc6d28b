//! Answers on their way back from the apply loop to the connections.
//!
//! Client connections live on a few single-threaded runtimes ("lanes"). Waking a task of another
//! thread costs a system call, so the apply loop does not wake request by request: it leaves the
//! answers of a whole batch at each lane's counter and rings once; a task of that lane hands them out.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use machine::Outcome;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use types::ErrorKind;

/// What the apply loop answers to a proposal.
pub type Answer = Result<Done, ErrorKind>;

/// A proposal that was applied.
#[derive(Debug)]
pub struct Done {
    /// The machine's answer.
    pub outcome: Outcome,
    /// Main revision after the entry.
    pub revision: i64,
    /// When the answer left the apply loop.
    pub answered: Instant,
}

/// Id under which an answer is expected; travels in the raft entry.
pub type RequestId = u64;

/// Those who wait for the outcome of a proposal.
pub struct Replies {
    waiting: Mutex<HashMap<RequestId, Waiter>>,
    lanes: Vec<Lane>,
}

struct Waiter {
    lane: usize,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Lane {
    ready: Mutex<Vec<(oneshot::Sender<Answer>, Answer)>>,
    bell: Notify,
}

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(0) };
}

/// The lane the calling thread is; 0 for any other thread.
pub fn lane() -> usize {
    LANE.get()
}

impl Replies {
    /// With as many counters as there are connection runtimes.
    pub fn new(lanes: usize) -> Arc<Self> {
        Arc::new(Replies {
            waiting: Mutex::default(),
            lanes: (0..lanes.max(1)).map(|_| Lane::default()).collect(),
        })
    }

    /// Hands out what arrives for lane `lane`, forever. Runs as a task on that lane's own thread.
    pub async fn hand_out(self: Arc<Self>, lane: usize) {
        LANE.set(lane);
        let lane = &self.lanes[lane];
        loop {
            lane.bell.notified().await;
            let ready = std::mem::take(&mut *lane.ready.lock());
            for (sender, answer) in ready {
                // Whoever asked may have gone away; the entry is applied all the same.
                let _ = sender.send(answer);
            }
        }
    }

    /// Announces that the answer to `id` is wanted on the calling lane.
    pub fn expect(&self, id: RequestId) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        self.waiting.lock().insert(
            id,
            Waiter {
                lane: LANE.get(),
                answer,
            },
        );
        receiver
    }

    /// Nobody waits for `id` any more.
    pub fn forget(&self, id: RequestId) {
        self.waiting.lock().remove(&id);
    }

    /// Proposals whose outcome is awaited.
    pub fn pending(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Delivers the answers of one batch; those nobody here waits for are dropped.
    pub fn deliver(&self, answers: impl IntoIterator<Item = (RequestId, Answer)>) {
        let mut rung = 0u64;
        {
            let mut waiting = self.waiting.lock();
            for (id, answer) in answers {
                let Some(waiter) = waiting.remove(&id) else {
                    continue;
                };
                self.lanes[waiter.lane].ready.lock().push((waiter.answer, answer));
                rung |= 1 << (waiter.lane % 64);
            }
        }
        for (number, lane) in self.lanes.iter().enumerate() {
            if rung & 1 << (number % 64) != 0 {
                lane.bell.notify_one();
            }
        }
    }
}
