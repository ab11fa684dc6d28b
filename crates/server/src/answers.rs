//! Memory for answers.
//!
//! How much of the store an answer holds is up to the client that asks, and how long it holds that, too: the answer is
//! in memory until the client has taken it. So everything beyond some kilobytes takes up room here first, by its
//! weight, and gives it back with its last byte. If there is none it waits in line, and is told to come again when
//! that takes too long or the line is.
//!
//! Single values and short lists have room of their own, so that they do not wait behind those who read all there is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use types::ErrorKind;

use crate::access::Head;
use crate::listen::Debt;

/// Bytes of an answer that are not counted: 64 MiB for a connection that leaves every answer that its streams can hold.
pub const UNCOUNTED: u64 = 4 << 10;

/// Bytes for which a list gets room before it is known how long it is: most are shorter, and read once.
pub const LIST: u64 = 64 << 10;

/// Bytes of answers of moderate size that may be in memory together.
const MODERATE_TOTAL: u64 = 128 << 20;

/// The most bytes of one of them: a value of any size that a request may have is below.
const MODERATE: u64 = 2 << 20;

/// Bytes of larger answers that may be in memory together. One that is larger than this is alone.
const LARGE_TOTAL: u64 = 384 << 20;

/// Answers of each kind that may wait for room.
const WAITING_MAX: usize = 1024;

/// An answer is in memory twice: as it was read, and as it is sent.
const COPIES: u64 = 2;

/// Bytes in memory for each of an answer that leaves as JSON, by [`COPIES`]: a `KeyValue` of a few bytes gets seven
/// times as long by the names of its fields.
const JSON_WEIGHT: u64 = 4;

/// A permit's bytes.
const UNIT: u64 = 4 << 10;

/// How an answer leaves: an extension of the request for one that does so as JSON.
#[derive(Clone, Copy)]
pub struct AsJson;

/// What an answer to this call weighs, that has so many bytes as a message.
pub fn weight(head: &Head, bytes: u64) -> u64 {
    match head.extensions().get::<AsJson>() {
        Some(AsJson) => bytes.saturating_mul(JSON_WEIGHT),
        None => bytes,
    }
}

/// The room there is.
pub struct Answers {
    moderate: Hall,
    large: Hall,
    patience: Duration,
}

impl Answers {
    /// All of it. Who waits for a part of it does so for as long as `patience`.
    pub fn new(patience: Duration) -> Self {
        Self::with_bytes(MODERATE_TOTAL, LARGE_TOTAL, patience)
    }

    fn with_bytes(moderate: u64, large: u64, patience: Duration) -> Self {
        Answers {
            moderate: Hall::new(moderate),
            large: Hall::new(large),
            patience,
        }
    }

    /// Room for an answer of this weight.
    ///
    /// # Errors
    /// `TooManyRequests`, if there is none for too long.
    pub async fn room(&self, weight: u64) -> Result<Option<Room>, ErrorKind> {
        if weight <= UNCOUNTED {
            return Ok(None);
        }
        let hall = match weight <= MODERATE {
            true => &self.moderate,
            false => &self.large,
        };
        let permit = hall.enter(weight, self.patience).await;
        let permit = permit.ok_or(ErrorKind::TooManyRequests)?;
        Ok(Some(Room {
            permit: Arc::new(permit),
        }))
    }
}

/// Room for answers of one kind.
struct Hall {
    units: Arc<Semaphore>,
    units_max: u32,
    line: Semaphore,
}

impl Hall {
    fn new(bytes: u64) -> Self {
        let units_max = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        Hall {
            units: Arc::new(Semaphore::new(units_max as usize)),
            units_max,
            line: Semaphore::new(WAITING_MAX),
        }
    }

    async fn enter(&self, weight: u64, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let units = units(weight).min(self.units_max);
        let all = || Arc::clone(&self.units);
        if let Ok(permit) = all().try_acquire_many_owned(units) {
            return Some(permit);
        }
        let _place = self.line.try_acquire().ok()?;
        timeout(patience, all().acquire_many_owned(units))
            .await
            .ok()?
            .ok()
    }
}

/// Room that an answer takes up: an extension of the response, and then of the bytes that are sent.
#[derive(Clone)]
pub struct Room {
    permit: Arc<OwnedSemaphorePermit>,
}

impl Room {
    /// As much of it as an answer of this weight takes up, if it was taken for a larger one.
    pub fn fit(mut self, weight: u64) -> Option<Room> {
        if weight <= UNCOUNTED {
            return None;
        }
        if let Some(permit) = Arc::get_mut(&mut self.permit) {
            let surplus = permit.num_permits().saturating_sub(units(weight) as usize);
            drop(permit.split(surplus));
        }
        Some(self)
    }
}

fn units(weight: u64) -> u32 {
    let units = weight.saturating_mul(COPIES).div_ceil(UNIT);
    u32::try_from(units).unwrap_or(u32::MAX)
}

/// Bytes on their way to a client, with what goes when they have gone.
struct Held {
    bytes: Bytes,
    _room: Option<Room>,
    _debt: Option<Debt>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The same bytes; room and debt last as long as they do.
pub fn hold(bytes: Bytes, room: Option<Room>, debt: Option<Debt>) -> Bytes {
    match (&room, &debt) {
        (None, None) => bytes,
        _ => Bytes::from_owner(Held {
            bytes,
            _room: room,
            _debt: debt,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(7);
    const MIB: u64 = 1 << 20;
    const MODERATE_UNITS: usize = (8 * MIB / UNIT) as usize;

    fn small() -> Answers {
        Answers::with_bytes(8 * MIB, 16 * MIB, PATIENCE)
    }

    #[test]
    fn an_answer_that_leaves_as_json_weighs_more() {
        let mut head = Head::new(());
        assert_eq!(weight(&head, MIB), MIB);
        head.extensions_mut().insert(AsJson);
        assert_eq!(weight(&head, MIB), 4 * MIB);
    }

    #[tokio::test]
    async fn an_answer_that_is_smaller_than_feared_gives_room_back() {
        let answers = small();
        let all = answers.room(MODERATE).await.unwrap().unwrap();
        let taken = || MODERATE_UNITS - answers.moderate.units.available_permits();
        assert_eq!(taken(), units(MODERATE) as usize);
        let rest = all.fit(10 * UNIT);
        assert_eq!(taken(), 20);
        assert!(rest.and_then(|rest| rest.fit(UNCOUNTED)).is_none());
        assert_eq!(taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_until_the_last_byte_of_another_has_gone() {
        let answers = Arc::new(small());
        let room = answers.room(6 * MIB).await.unwrap();
        let mut sent = hold(Bytes::from_static(b"some bytes"), room, None);
        let second = tokio::spawn({
            let answers = Arc::clone(&answers);
            async move { answers.room(3 * MIB).await.is_ok() }
        });
        tokio::task::yield_now().await;
        let rest = sent.split_off(4);
        drop(sent);
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(rest);
        assert!(second.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_leave_room_for_moderate_ones_and_those_for_small_ones() {
        let answers = small();
        let _large = answers.room(100 * MIB).await.unwrap();
        let moderate = [MIB, MIB, MIB, MIB].map(|bytes| answers.room(bytes));
        let moderate = futures_util::future::join_all(moderate).await;
        assert!(moderate.iter().all(Result::is_ok));
        assert!(answers.room(UNCOUNTED).await.is_ok());
        for weight in [MIB, 3 * MIB] {
            let refusal = answers.room(weight).await.err();
            assert_eq!(refusal, Some(ErrorKind::TooManyRequests));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_has_an_end() {
        let answers = Arc::new(small());
        let _all = answers.room(100 * MIB).await.unwrap();
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move { answers.room(3 * MIB).await.err() })
            })
            .collect();
        while answers.large.line.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let since = tokio::time::Instant::now();
        assert_eq!(
            answers.room(3 * MIB).await.err(),
            Some(ErrorKind::TooManyRequests)
        );
        assert_eq!(since.elapsed(), Duration::ZERO, "it was told at once");
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Some(ErrorKind::TooManyRequests));
        }
    }
}
