//! The queue in front of a loop: bounded, and drained as a whole.
//!
//! A loop that wakes takes everything that waits. Under load this makes batches by itself; a lone
//! item pays one wake-up, and an item pushed while the loop is awake pays none.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// A bounded queue with one consumer, which takes all at once.
pub struct Inbox<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    room: Condvar,
    bell: Condvar,
    capacity: usize,
}

struct State<T> {
    items: VecDeque<T>,
    rung: bool,
    closed: bool,
}

/// Why an item was not taken in.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many items wait as may wait.
    Full,
    /// The loop has ended.
    Closed,
}

impl<T> Inbox<T> {
    /// An inbox that holds at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Inbox {
            state: Mutex::new(State {
                items: VecDeque::new(),
                rung: false,
                closed: false,
            }),
            wake: Condvar::new(),
            room: Condvar::new(),
            bell: Condvar::new(),
            capacity,
        }
    }

    /// Adds an item and wakes the loop, unless the inbox is full or closed.
    pub fn try_push(&self, item: T) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.items.len() >= self.capacity {
            return Err(Refused::Full);
        }
        state.items.push_back(item);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Adds an item, waiting for room. For the edges between loops: a slow loop slows the one before
    /// it. `false` once the inbox is closed.
    pub fn push(&self, item: T) -> bool {
        self.push_all(std::iter::once(item))
    }

    /// Adds several items with one wake-up; the capacity is checked before the first.
    pub fn push_all(&self, items: impl IntoIterator<Item = T>) -> bool {
        let added = self.fill(items);
        self.wake();
        added
    }

    /// As [`push_all`](Self::push_all), but leaves it to the caller to see to the items or to
    /// [wake](Self::wake) the loop.
    pub fn fill(&self, items: impl IntoIterator<Item = T>) -> bool {
        let mut state = self.state.lock();
        while state.items.len() >= self.capacity && !state.closed {
            self.wake.notify_one();
            self.room.wait(&mut state);
        }
        if state.closed {
            return false;
        }
        state.items.extend(items);
        true
    }

    /// Wakes the loop.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Adds an item past the bound and without waking the loop: for news of which there is at most
    /// one per item the loop handed out before, and which can wait until it is awake anyway.
    pub fn leave(&self, item: T) {
        self.state.lock().items.push_back(item);
    }

    /// Adds an item past the bound and wakes the loop: for answers to what the loop handed out.
    pub fn deliver(&self, item: T) {
        self.state.lock().items.push_back(item);
        self.wake.notify_one();
    }

    /// Moves everything that waits into `out`, waiting until there is something or `until` has come.
    /// `false` once the inbox is closed and empty.
    pub fn drain(&self, out: &mut Vec<T>, until: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.items.is_empty() && !state.closed {
            let timed_out = match until {
                Some(deadline) => self.wake.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.wake.wait(&mut state);
                    false
                }
            };
            if timed_out {
                break;
            }
        }
        let was_full = state.items.len() >= self.capacity;
        let open = !(state.closed && state.items.is_empty());
        out.extend(state.items.drain(..));
        drop(state);
        if was_full {
            self.room.notify_all();
        }
        open
    }

    /// Moves everything that waits into `out` without waiting for more. `false` once the inbox is closed
    /// and empty.
    pub fn take(&self, out: &mut Vec<T>) -> bool {
        self.drain(out, Some(Instant::now()))
    }

    /// Moves everything that waits into `out` if `pred` likes it; tells whether it did.
    pub fn take_if(&self, out: &mut Vec<T>, pred: impl FnOnce(&VecDeque<T>) -> bool) -> bool {
        let mut state = self.state.lock();
        let takes = pred(&state.items);
        if takes {
            out.extend(state.items.drain(..));
        }
        takes
    }

    /// Waits until something waits to be taken. `false` once the inbox is closed and empty.
    pub fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while state.items.is_empty() && !state.closed {
            self.wake.wait(&mut state);
        }
        !state.items.is_empty()
    }

    /// Waits until the [bell](Self::ring) is rung, the inbox is closed or `until` has come, whatever arrives
    /// meanwhile. Whether it is closed.
    pub fn wait_rung(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.closed && !state.rung && !self.bell.wait_until(&mut state, until).timed_out() {}
        state.rung = false;
        state.closed
    }

    /// Wakes the one who [waits for the bell](Self::wait_rung).
    pub fn ring(&self) {
        self.state.lock().rung = true;
        self.bell.notify_one();
    }

    /// Refuses new items; the loop still gets those that wait.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_all();
        self.room.notify_all();
        self.bell.notify_all();
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.state.lock().items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_takes_everything_in_order() {
        let inbox = Inbox::new(8);
        assert!(inbox.push_all([1, 2, 3]));
        inbox.leave(4);
        let mut out = Vec::new();
        assert!(inbox.drain(&mut out, None));
        assert_eq!(out, [1, 2, 3, 4]);
    }

    #[test]
    fn a_full_inbox_takes_nothing_in() {
        let inbox = Inbox::new(1);
        inbox.try_push("a").unwrap();
        assert_eq!(inbox.try_push("b"), Err(Refused::Full));
    }

    #[test]
    fn what_was_filled_in_is_taken_only_if_it_is_liked() {
        let inbox = Inbox::new(8);
        assert!(inbox.fill([1, 2, 3]));
        let mut out = Vec::new();
        assert!(!inbox.take_if(&mut out, |items| items.len() < 3));
        assert_eq!((out.len(), inbox.len()), (0, 3));
        assert!(inbox.wait());
        assert!(inbox.take_if(&mut out, |items| items.len() == 3));
        assert_eq!((out.as_slice(), inbox.len()), ([1, 2, 3].as_slice(), 0));
    }

    #[test]
    fn whoever_finds_no_room_wakes_the_loop_that_makes_it() {
        let inbox = Inbox::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut out = Vec::new();
                while inbox.wait() {
                    inbox.take(&mut out);
                }
                assert_eq!(out, [1, 2, 3]);
            });
            for item in 1..=3 {
                assert!(inbox.fill([item]));
            }
            inbox.close();
        });
    }

    #[test]
    fn a_bell_that_rang_before_is_heard() {
        let inbox = Inbox::<()>::new(1);
        let never = Instant::now() + std::time::Duration::from_secs(3600);
        inbox.ring();
        assert!(!inbox.wait_rung(never));
        inbox.close();
        assert!(inbox.wait_rung(never));
    }

    #[test]
    fn a_closed_inbox_is_drained_once_more_and_then_ends() {
        let inbox = Inbox::new(2);
        inbox.push(1);
        inbox.close();
        assert_eq!(inbox.try_push(2), Err(Refused::Closed));
        let mut out = Vec::new();
        assert!(inbox.drain(&mut out, None));
        assert!(!inbox.drain(&mut out, None));
        assert_eq!(out, [1]);
    }
}
