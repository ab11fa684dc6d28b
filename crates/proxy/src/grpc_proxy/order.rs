//! Answers that do not go back in time (`--experimental-serializable-ordering`).
//!
//! A serializable read is answered by whichever member's turn it is, and that member may be behind the one before.
//! Here the proxy remembers the newest revision it has seen, and asks the next member instead of handing on an older
//! answer. Source: etcd's `client/v3/ordering`.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use client::Error;
use proto::etcdserverpb::RangeResponse;
use tonic::Status;

use super::calls::status;

/// How often each member is asked, on average, before it is said that all are behind.
const TURNS: usize = 5;

/// The newest revision that was seen.
#[derive(Default)]
pub struct Order(AtomicI64);

impl Order {
    /// From now on no answer is older than this one.
    pub fn note(&self, found: RangeResponse) -> RangeResponse {
        let revision = found.header.as_ref().map_or(0, |header| header.revision);
        self.0.fetch_max(revision, Relaxed);
        found
    }

    /// Asks again, `members` take turns, until an answer is no older than one before.
    pub async fn keep<F>(&self, members: usize, ask: impl Fn() -> F) -> Result<RangeResponse, Status>
    where
        F: Future<Output = Result<RangeResponse, Error>>,
    {
        for _ in 0..=TURNS * members.max(1) {
            let found = ask().await.map_err(status)?;
            let revision = found.header.as_ref().map_or(0, |header| header.revision);
            if self.0.fetch_max(revision, Relaxed) <= revision {
                return Ok(found);
            }
        }
        Err(Status::unknown(
            "etcdclient: no cluster members have a revision higher than the previously received revision",
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proto::etcdserverpb::ResponseHeader;

    use super::*;

    /// Members at these revisions, asked in turn; the revision that is answered, and how many were asked.
    async fn answered(order: &Order, members: &[i64]) -> (Result<i64, String>, usize) {
        let asked = Cell::new(0);
        let found = order.keep(members.len(), || {
            let revision = members[asked.get() % members.len()];
            asked.set(asked.get() + 1);
            let header = Some(ResponseHeader {
                revision,
                ..ResponseHeader::default()
            });
            std::future::ready(Ok(RangeResponse {
                header,
                ..RangeResponse::default()
            }))
        });
        let found = found.await.map(|found| found.header.unwrap().revision);
        (found.map_err(|refusal| refusal.message().to_owned()), asked.get())
    }

    #[tokio::test]
    async fn a_member_that_is_behind_is_passed_over() {
        let order = Order::default();
        assert_eq!(answered(&order, &[7, 5]).await, (Ok(7), 1));
        assert_eq!(answered(&order, &[5, 6, 7]).await, (Ok(7), 3));
        assert_eq!(answered(&order, &[5, 9]).await, (Ok(9), 2));
        let (refusal, asked) = answered(&order, &[8, 8]).await;
        let text =
            "etcdclient: no cluster members have a revision higher than the previously received revision";
        assert_eq!((refusal, asked), (Err(text.into()), 11));
    }
}
