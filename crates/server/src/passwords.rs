//! Hashing passwords, which is slow on purpose.
//!
//! One hash takes some 50 ms of a core. So hashing has turns of its own, fewer than there are cores: whoever guesses
//! passwords takes away no more than that from everybody else, and makes others who sign in wait, but not those who
//! read and write.

use std::sync::Arc;

use auth::password::{self, Salt};
use bytes::Bytes;
use tokio::sync::Semaphore;
use types::ErrorKind;

/// Callers that may wait for their turn. At the default cost the last of them waits about as long as a request may
/// take; more are told to come again.
const WAITING_MAX: usize = 128;

/// Letters of a token before its number, and the letters there are.
const TOKEN_LETTERS: usize = 16;
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Salt and hash of nobody's password.
const NOBODY: &str = "CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// The turns.
pub struct Passwords {
    cost: u32,
    places: Semaphore,
    turns: Arc<Semaphore>,
}

impl Passwords {
    /// At one of the [`password::COSTS`]; half of the cores may hash at a time.
    pub fn new(cost: u32, cores: usize) -> Self {
        Passwords {
            cost,
            places: Semaphore::new(WAITING_MAX),
            turns: Arc::new(Semaphore::new((cores / 2).max(1))),
        }
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// `PasswordTooLong`, `TooManyRequests`.
    pub async fn hash(&self, password: String) -> Result<String, ErrorKind> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|_| ErrorKind::Stopped)?;
        let cost = self.cost;
        self.in_turn(move || password::hash(password.as_bytes(), cost, Salt(salt)))
            .await?
    }

    /// Whether the password fits the hash.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub async fn verify(&self, password: String, hash: Bytes) -> Result<bool, ErrorKind> {
        self.in_turn(move || password::verify(password.as_bytes(), &hash))
            .await
    }

    /// Takes as long as [`verify`](Self::verify), so that a user who does not exist can't be told from a wrong
    /// password by the time of the answer.
    pub async fn pretend(&self, password: String) -> Result<(), ErrorKind> {
        let hash = format!("$2a${:02}${NOBODY}", self.cost);
        self.verify(password, hash.into()).await.map(drop)
    }

    /// Runs the work when its turn has come. A turn lasts until its work is done, whether or not somebody still waits
    /// for it: callers that go away early gain nothing.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ErrorKind> {
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| ErrorKind::TooManyRequests)?;
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ErrorKind::Stopped)?;
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| ErrorKind::Stopped)
    }
}

/// The part of a token that nobody can guess.
pub fn token_prefix() -> Result<String, ErrorKind> {
    let mut token = String::with_capacity(TOKEN_LETTERS);
    while token.len() < TOKEN_LETTERS {
        let mut bytes = [0; 2 * TOKEN_LETTERS];
        getrandom::fill(&mut bytes).map_err(|_| ErrorKind::Stopped)?;
        // Bytes beyond the last whole alphabet would make its first letters more likely.
        let fair = bytes
            .iter()
            .map(|byte| usize::from(*byte))
            .filter(|byte| *byte < 4 * LETTERS.len());
        let letters = fair.map(|byte| char::from(LETTERS[byte % LETTERS.len()]));
        token.extend(letters.take(TOKEN_LETTERS - token.len()));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sixteen_letters_and_never_the_same() {
        let tokens = [(); 50].map(|()| token_prefix().unwrap());
        for (at, token) in tokens.iter().enumerate() {
            assert!(token.len() == 16 && token.bytes().all(|letter| LETTERS.contains(&letter)));
            assert!(!tokens[..at].contains(token));
        }
    }

    #[tokio::test]
    async fn more_than_can_wait_are_told_to_come_again() {
        let passwords = Arc::new(Passwords::new(4, 2));
        let all_turns = passwords.turns.clone().acquire_owned().await.unwrap();
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| Box::pin(passwords.hash("secret".into())))
            .collect();
        let mut waiting = futures_util::future::join_all(waiting);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("nobody has a turn"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(
            passwords.hash("secret".into()).await,
            Err(ErrorKind::TooManyRequests)
        );
        drop(all_turns);
        assert!(waiting.await.iter().all(Result::is_ok));
        let hash = passwords.hash("secret".into()).await.unwrap();
        assert!(
            passwords
                .verify("secret".into(), hash.clone().into())
                .await
                .unwrap()
        );
        assert!(!passwords.verify("other".into(), hash.into()).await.unwrap());
    }
}
