//! What is made of files, as they are now.
//!
//! The files are read before each use and compared with what was read before: no clock and no file's time can hide a
//! change. If they changed, the whole is made anew. If that fails, be it for half a file or for a key that
//! is there before its certificate, the last good one stays, and the next use looks again.
//!
//! What can't be told from a good file: a list of authorities that was cut between two of them. Exchange it by renaming.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::TlsError;
use crate::files::Contents;

type Make<T> = Box<dyn Fn(&Contents) -> Result<T, TlsError> + Send + Sync>;

/// Something made of files.
pub struct Reloading<T> {
    files: BTreeSet<PathBuf>,
    make: Make<T>,
    /// What was read last, be it good or not.
    seen: Mutex<Contents>,
    /// The newest good one. Changed only by who holds `seen`.
    good: watch::Sender<Arc<T>>,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Makes it for the first time, when the files must be good.
    pub fn new(files: BTreeSet<PathBuf>, make: Make<T>) -> Result<Self, TlsError> {
        let seen = Contents::read(&files);
        let good = Arc::new(make(&seen)?);
        Ok(Reloading {
            files,
            make,
            seen: Mutex::new(seen),
            good: watch::channel(good).0,
        })
    }

    /// The newest good one. Reads files: not for threads that must not wait.
    pub fn look(&self) -> Arc<T> {
        let mut seen = self.seen.lock();
        let now = Contents::read(&self.files);
        if now != *seen {
            match (self.make)(&now) {
                Ok(good) => {
                    tracing::info!(files = ?self.files, "TLS files have changed and are used from now on");
                    self.good.send_replace(Arc::new(good));
                }
                Err(error) => tracing::warn!(
                    error = %error,
                    "TLS files have changed and cannot be used; those before stay in use"
                ),
            }
            *seen = now;
        }
        self.last()
    }

    /// The one that was the newest when files were read last.
    fn last(&self) -> Arc<T> {
        self.good.borrow().clone()
    }

    /// Hears of every new one, whoever has read the files.
    pub fn subscribe(&self) -> watch::Receiver<Arc<T>> {
        self.good.subscribe()
    }

    /// The newest good one, from within a runtime.
    pub async fn current(self: &Arc<Self>) -> Arc<T> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || this.look()).await {
            Ok(current) => current,
            // The runtime ends, and so does the handshake.
            Err(_) => self.last(),
        }
    }
}
