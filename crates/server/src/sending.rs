//! Snapshots on their way to other members.
//!
//! A follower that needs entries which are gone from the log gets everything instead: raft's message, with
//! the membership as its data, and behind it the store as a bbolt file. The store is frozen when the
//! transfer begins, so the message says where in the log that was, later than raft asked for. The file is
//! made while it is sent; memory stays flat.

use std::sync::Arc;

use bytes::Bytes;
use image::{Export, v2store};
use proto::raftpb::{Message, Snapshot, SnapshotMetadata};
use store::Store;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};

use crate::node::Compactions;

/// Snapshots that are sent at the same time; others wait. Each reads the whole store.
pub const SENDING_MAX: usize = 2;
/// Pieces of a snapshot that wait for the network.
const PIECES_MAX: usize = 8;

/// Why a snapshot can't be sent.
#[derive(Debug, Error)]
pub enum SendError {
    /// The store can't be frozen.
    #[error(transparent)]
    Store(#[from] store::SyncError),
    /// Its members can't be read.
    #[error("cannot read the members in the store: {0}")]
    Members(#[from] serde_json::Error),
    /// The process ends.
    #[error("the member stops")]
    Stopping,
}

/// A snapshot that is being sent.
pub struct Outgoing {
    /// Raft's message.
    pub message: Message,
    /// Bytes of the file behind it.
    pub len: u64,
    /// The file in pieces. If they end before `len` bytes have come, the store could not be read.
    pub pieces: mpsc::Receiver<Bytes>,
}

/// Makes snapshots to be sent.
#[derive(Clone)]
pub struct Sender {
    store: Arc<Store>,
    compactions: Arc<Compactions>,
    places: Arc<Semaphore>,
}

impl Sender {
    /// Of this store.
    pub fn new(store: Arc<Store>, compactions: Arc<Compactions>) -> Self {
        Sender {
            store,
            compactions,
            places: Arc::new(Semaphore::new(SENDING_MAX)),
        }
    }

    /// Begins to send what `message` (a `MsgSnap`) is about, as soon as there is a place. The place is
    /// free again when all pieces are taken or the receiver is dropped.
    pub async fn begin(&self, message: Message) -> Result<Outgoing, SendError> {
        let stopping = |_| SendError::Stopping;
        let places = self.places.clone();
        let place = places.acquire_owned().await.map_err(|_| SendError::Stopping)?;
        let (store, finished) = (self.store.clone(), self.compactions.finished());
        let (begun, outgoing) = tokio::sync::oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let export = match prepare(&store, finished, message) {
                Ok((message, export)) => {
                    let (give, pieces) = mpsc::channel(PIECES_MAX);
                    let outgoing = Outgoing {
                        message,
                        len: export.len(),
                        pieces,
                    };
                    begun.send(Ok(outgoing)).is_ok().then_some((export, give))
                }
                Err(error) => {
                    // Whoever asked may have gone away.
                    let _ = begun.send(Err(error));
                    None
                }
            };
            if let Some((export, give)) = export
                && let Err(error) = export.write(|piece| give.blocking_send(piece).is_ok())
            {
                tracing::error!(error = %error, "cannot read the store to send it to another member");
            }
            drop(place);
        });
        outgoing.await.map_err(stopping)?
    }
}

/// Freezes the store, and says in the message where in the log that is.
fn prepare(store: &Store, finished: i64, mut message: Message) -> Result<(Message, Export), SendError> {
    let export = Export::new(store.snapshot()?, finished);
    let commit = export.snapshot().commit();
    let metadata = SnapshotMetadata {
        conf_state: commit.conf_state.clone(),
        index: commit.applied_index,
        term: commit.term,
    };
    message.snapshot = Some(Snapshot {
        data: Some(v2store::of_tables(export.snapshot().tables())?.into()),
        metadata: Some(metadata),
    });
    Ok((message, export))
}
