//! Hashing passwords, which is slow on purpose.
//!
//! One hash takes some 50 ms of a core. So hashing has turns of its own, fewer than there are cores: whoever guesses
//! passwords takes away no more than that from everybody else, and makes others who sign in wait, but not those who
//! read and write. And who has guessed wrong too often is not heard for a while: [`crate::guesses`].

use std::sync::Arc;
use std::time::Duration;

use auth::password::{self, Salt};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::sleep;
use types::ErrorKind;

use crate::guesses::{Guess, Guesses};

/// Callers that may wait for their turn. At the default cost the last of them waits about as long as a request may
/// take; more are told to come again.
const WAITING_MAX: usize = 128;

/// How long who is not heard waits to be told: those who guess on as fast as they are answered do so once a second.
const PENALTY: Duration = Duration::from_secs(1);

/// Callers that may wait for that. More are told at once.
const PENALTIES_MAX: usize = 1024;

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
    guesses: Mutex<Guesses>,
    penalties: Semaphore,
}

impl Passwords {
    /// At one of the [`password::COSTS`]; half of the cores may hash at a time.
    pub fn new(cost: u32, cores: usize) -> Self {
        Passwords {
            cost,
            places: Semaphore::new(WAITING_MAX),
            turns: Arc::new(Semaphore::new((cores / 2).max(1))),
            guesses: Mutex::default(),
            penalties: Semaphore::new(PENALTIES_MAX),
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
        let turn = self.turn().await?;
        let hashed = turn.take(move || password::hash(password.as_bytes(), cost, Salt(salt)));
        hashed.await?.0
    }

    /// Whether the password fits the hash. A user who does not exist has none, and can't be told from one with another
    /// password: neither by the time it takes nor by what comes of many tries.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub async fn verify(
        &self,
        guess: Guess,
        password: String,
        hash: Option<Bytes>,
        now_ms: impl Fn() -> u64,
    ) -> Result<bool, ErrorKind> {
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| format!("$2a${:02}${NOBODY}", self.cost).into());
        let turn = self.turn().await?;
        // Guesses at the same password may have been in front of this one.
        self.hear(guess, now_ms())?;
        let fits = turn.take(move || password::verify(password.as_bytes(), &hash));
        let (fits, _turn) = fits.await?;
        let is_right = fits && exists;
        let mut guesses = self.guesses.lock();
        match is_right {
            true => guesses.succeeded(guess),
            false => guesses.failed(guess, now_ms()),
        }
        Ok(is_right)
    }

    /// Whether a password is to be looked at, for those who do not want to queue up in vain. A refusal takes its time.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub async fn admit(&self, guess: Guess, now_ms: u64) -> Result<(), ErrorKind> {
        let heard = self.hear(guess, now_ms);
        if heard.is_err()
            && let Ok(_place) = self.penalties.try_acquire()
        {
            sleep(PENALTY).await;
        }
        heard
    }

    fn hear(&self, guess: Guess, now_ms: u64) -> Result<(), ErrorKind> {
        match self.guesses.lock().may_try(guess, now_ms) {
            true => Ok(()),
            false => Err(ErrorKind::TooManyRequests),
        }
    }

    async fn turn(&self) -> Result<Turn<'_>, ErrorKind> {
        let place = self.places.try_acquire();
        let place = place.map_err(|_| ErrorKind::TooManyRequests)?;
        let turn = self.turns.clone().acquire_owned().await;
        Ok(Turn {
            turn: turn.map_err(|_| ErrorKind::Stopped)?,
            _place: place,
        })
    }
}

/// Somebody's turn. It lasts until its work is done, whether or not somebody still waits for it (callers that go away
/// early gain nothing), and until what came of it is noted.
struct Turn<'a> {
    turn: OwnedSemaphorePermit,
    _place: SemaphorePermit<'a>,
}

impl Turn<'_> {
    async fn take<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), ErrorKind> {
        let Turn { turn, _place } = self;
        tokio::task::spawn_blocking(move || (work(), turn))
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
    }

    #[tokio::test]
    async fn a_guess_is_refused_alike_whether_the_user_exists_or_not() {
        let passwords = Passwords::new(4, 2);
        let hash = Bytes::from(passwords.hash("secret".into()).await.unwrap());
        // This one fits the hash that stands in for those of nobody.
        for password in ["wrong", "U*U"] {
            let mut outcomes = Vec::new();
            for (name, hash) in [("known", Some(hash.clone())), ("unknown", None)] {
                let guess = Guess::new(&format!("{name}{password}"), None);
                for now_ms in 0..10 {
                    let tried = passwords.verify(guess, password.into(), hash.clone(), || now_ms);
                    outcomes.push(tried.await);
                }
            }
            let (known, unknown) = outcomes.split_at(10);
            assert_eq!(known, unknown);
            assert_eq!(known[..5], [Ok(false); 5]);
            assert_eq!(known[5..], [Err(ErrorKind::TooManyRequests); 5]);
        }
        let alice = passwords.verify(Guess::new("alice", None), "secret".into(), Some(hash), || 10);
        assert_eq!(alice.await, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_not_heard_is_told_after_a_while_and_not_all_can_wait_so_long() {
        let passwords = Passwords::new(4, 2);
        let alice = Guess::new("alice", None);
        for _ in 0..crate::guesses::NAME_GUESSES {
            passwords.admit(alice, 0).await.unwrap();
            passwords.guesses.lock().failed(alice, 0);
        }
        let since = tokio::time::Instant::now();
        let told = futures_util::future::join_all((0..=PENALTIES_MAX).map(|_| async {
            assert_eq!(passwords.admit(alice, 0).await, Err(ErrorKind::TooManyRequests));
            since.elapsed()
        }));
        let told = told.await;
        assert_eq!(told[..PENALTIES_MAX], [PENALTY; PENALTIES_MAX]);
        assert_eq!(told[PENALTIES_MAX], Duration::ZERO);
    }

    #[tokio::test]
    async fn guesses_that_wait_in_one_queue_are_counted_before_their_turn() {
        let passwords = Arc::new(Passwords::new(4, 2));
        let hash = Bytes::from(passwords.hash("secret".into()).await.unwrap());
        let alice = Guess::new("alice", None);
        let tries =
            (0..WAITING_MAX).map(|_| passwords.verify(alice, "wrong".into(), Some(hash.clone()), || 0));
        let outcomes = futures_util::future::join_all(tries).await;
        let heard = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(heard as u64, crate::guesses::NAME_GUESSES);
    }
}
