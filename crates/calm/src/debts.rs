//! What clients owe: the rest of a request they have begun, the bytes of an answer they have asked for.
//!
//! Either holds memory and a place in some queue here for as long as the client likes, which costs the client
//! nothing: a request of which a byte comes now and then, an answer in front of a window of zero bytes (HTTP/2) or of
//! a socket that nobody reads. So each is a debt with a day on which it is due; a connection with an overdue one is
//! ended. A connection keeps one book of them, and one timer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The debts of one connection.
#[derive(Clone)]
pub struct Debts(Arc<Book>);

struct Book {
    /// Time for every debt.
    grace: Duration,
    entries: Mutex<Entries>,
    /// The first debt after none.
    first: Notify,
}

#[derive(Default)]
struct Entries {
    due: BTreeMap<u64, Instant>,
    next: u64,
}

/// Bytes a second at which a client takes an answer at least, on the whole: 8 Mbit/s. Slower lines have RangeStream.
const BYTES_PER_SEC: usize = 1 << 20;

impl Debts {
    /// None yet; each will be due after `grace`, and later if it is a large one.
    pub fn new(grace: Duration) -> Self {
        Debts(Arc::new(Book {
            grace,
            entries: Mutex::default(),
            first: Notify::new(),
        }))
    }

    /// Something the client is to do, with `bytes` to be taken.
    pub fn owe(&self, bytes: usize) -> Debt {
        let time = Duration::from_millis((bytes.saturating_mul(1000) / BYTES_PER_SEC) as u64);
        let due = Instant::now() + self.0.grace + time;
        let mut entries = self.0.entries.lock();
        let number = entries.next;
        entries.next += 1;
        entries.due.insert(number, due);
        if entries.due.len() == 1 {
            self.0.first.notify_one();
        }
        Debt {
            book: Arc::clone(&self.0),
            number,
        }
    }

    /// Returns when a debt is overdue. A small debt behind a large one may be noticed only when that one is due.
    pub async fn overdue(&self) {
        loop {
            let earliest = self.0.entries.lock().due.values().min().copied();
            match earliest {
                None => self.0.first.notified().await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
            }
        }
    }
}

/// One debt, until it is dropped.
pub struct Debt {
    book: Arc<Book>,
    number: u64,
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.book.entries.lock().due.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_debt_is_overdue_after_its_time_and_a_paid_one_never() {
        let debts = Debts::new(GRACE);
        let since = Instant::now();
        drop(debts.owe(0));
        let _kept = debts.owe(0);
        debts.overdue().await;
        // Paused time goes exactly as far as a timer wants it to.
        assert_eq!(since.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_may_take_longer() {
        let debts = Debts::new(GRACE);
        let since = Instant::now();
        let _kept = debts.owe(100 << 20);
        debts.overdue().await;
        assert_eq!(since.elapsed().as_secs(), 130);
    }

    #[tokio::test(start_paused = true)]
    async fn a_debt_made_while_nobody_owed_anything_is_noticed() {
        let debts = Debts::new(GRACE);
        let waiting = tokio::spawn({
            let debts = debts.clone();
            async move { debts.overdue().await }
        });
        tokio::task::yield_now().await;
        let _kept = debts.owe(0);
        waiting.await.unwrap();
    }
}
