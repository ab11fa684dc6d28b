//! The loops: each a thread that owns a piece of the state and takes all that waits in its inbox.
//!
//! ```text
//!  handlers ──orders──► member ──append──► log (WAL) ──persisted──► member
//!                          └──committed──► apply ──► replies, watch, housekeeping
//!                                            └──batch──► store ◄──sync_step── syncer
//! ```
//!
//! A loop that meets an error it can not go on with reports it to [`Failure`] and ends; the process
//! then stops. Nothing that was acknowledged depends on it going on.

pub mod apply;
pub mod housekeeping;
pub mod log;
pub mod member;
pub mod sync;
pub mod watch;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Why this member can not go on.
#[derive(Clone, Default)]
pub struct Failure(Arc<Broken>);

#[derive(Default)]
struct Broken {
    reason: Mutex<Option<String>>,
    bell: Notify,
}

impl Failure {
    /// Reports a failure; the first one counts.
    pub fn report(&self, what: &str, error: impl std::fmt::Display) {
        let reason = format!("{what}: {error}");
        tracing::error!(error = %error, "{what}; this member stops");
        self.0.reason.lock().get_or_insert(reason);
        self.0.bell.notify_one();
    }

    /// Waits for a failure.
    pub async fn wait(&self) -> String {
        loop {
            if let Some(reason) = self.0.reason.lock().clone() {
                return reason;
            }
            self.0.bell.notified().await;
        }
    }
}

/// Starts a loop on a thread of its own.
pub fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}
