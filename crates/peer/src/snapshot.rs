//! Databases on their way: a MsgSnap, then the database as it is.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use env::Disk;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use proto::raftpb::Message;
use tokio::sync::mpsc;

use crate::codec::put_block;
use crate::peer::Peer;
use crate::{PeerMetrics, SnapshotOutcome};

/// A transfer that does not move for this long is given up, and so is the wait for an answer after the
/// last byte: the other side then has less than [`SYNC_BYTES`] left to sync.
const STALLED: Duration = Duration::from_secs(60);
/// How much of an answer is read; it is one line.
const ANSWER_BYTES: usize = 64 << 10;
/// What is received is synced each time it has grown by this, so that the last sync is a short one.
const SYNC_BYTES: u64 = 64 << 20;
/// Portions between the network and the disk.
const PORTIONS: usize = 16;

/// The body of a request that sends a database.
struct Database {
    /// The message, until it is on its way.
    envelope: Option<Bytes>,
    body: mpsc::Receiver<Bytes>,
    /// What of the database has yet to come.
    left: u64,
    /// Counts portions, for who watches that it moves.
    moved: Arc<AtomicU64>,
}

impl Body for Database {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.moved.fetch_add(1, Relaxed);
        if let Some(envelope) = self.envelope.take() {
            return Poll::Ready(Some(Ok(Frame::data(envelope))));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let portion = ready!(self.body.poll_recv(context));
        let left = portion
            .as_ref()
            .and_then(|portion| self.left.checked_sub(portion.len() as u64));
        Poll::Ready(Some(match (portion, left) {
            (Some(portion), Some(left)) => {
                self.left = left;
                Ok(Frame::data(portion))
            }
            (Some(_), None) => Err(io::Error::other("the database is longer than announced")),
            (None, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        }))
    }

    fn size_hint(&self) -> SizeHint {
        let envelope = self.envelope.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(envelope as u64 + self.left)
    }
}

/// Sends a database to a peer, and tells what came of it.
pub(crate) async fn send(peer: Arc<Peer>, message: Message, len: u64, body: mpsc::Receiver<Bytes>) {
    let index = snapshot_index(&message);
    let began = Instant::now();
    tracing::info!(
        "snapshot-index" = index,
        "remote-peer-id" = %peer.id,
        bytes = len,
        "sending database snapshot"
    );
    peer.metrics.snapshot_send_began();
    let mut transfer = Transfer(Some(Arc::clone(&peer)));
    let result = post(&peer, &message, len, body).await;
    let took = began.elapsed();
    match &result {
        Ok(()) => {
            transfer.end(SnapshotOutcome::Done(took));
            tracing::info!(
                "snapshot-index" = index,
                "remote-peer-id" = %peer.id,
                bytes = len,
                took = ?took,
                "sent database snapshot"
            );
        }
        Err(trouble) => {
            transfer.end(SnapshotOutcome::Failed);
            peer.metrics.send_failed();
            tracing::warn!(
                "snapshot-index" = index,
                "remote-peer-id" = %peer.id,
                bytes = len,
                error = trouble.as_str(),
                "failed to send database snapshot"
            );
            peer.link.incoming.unreachable(peer.id);
        }
    }
    peer.link.incoming.snapshot_sent(peer.id, result.is_ok());
}

/// A transfer that is counted as under way, and as failed if it is cut off with its peer.
struct Transfer(Option<Arc<Peer>>);

impl Transfer {
    fn end(&mut self, outcome: SnapshotOutcome) {
        if let Some(peer) = self.0.take() {
            peer.metrics.snapshot_send_ended(outcome);
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.end(SnapshotOutcome::Failed);
    }
}

async fn post(peer: &Peer, message: &Message, len: u64, body: mpsc::Receiver<Bytes>) -> Result<(), String> {
    let mut envelope = BytesMut::new();
    put_block(message, &mut envelope);
    let sent = envelope.len();
    let moved = Arc::new(AtomicU64::new(0));
    let database = Database {
        envelope: Some(envelope.freeze()),
        body,
        left: len,
        moved: Arc::clone(&moved),
    };
    let url = peer.url().ok_or("no URL")?;
    let request = peer.request(
        "/raft/snapshot",
        "application/octet-stream",
        database.boxed_unsync(),
    );
    let exchange = async {
        let response = peer.link.client.send(&url, request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        peer.judge(&http::Response::from_parts(head, body))
    };
    let result = tokio::select! {
        result = exchange => result,
        () = stalled(&moved) => Err(format!("nothing moved for {STALLED:?}")),
    };
    match &result {
        Ok(()) => peer
            .metrics
            .sent(usize::try_from(len).unwrap_or(usize::MAX).saturating_add(sent)),
        Err(_) => peer.avoid(&url),
    }
    result
}

/// Ends when the counter stood still for too long.
async fn stalled(moved: &AtomicU64) {
    let mut before = u64::MAX;
    loop {
        let now = moved.load(Relaxed);
        if now == before {
            return;
        }
        before = now;
        tokio::time::sleep(STALLED).await;
    }
}

/// The index of the snapshot in a MsgSnap.
pub(crate) fn snapshot_index(message: &Message) -> u64 {
    let snapshot = message.snapshot.as_ref();
    let metadata = snapshot.and_then(|snapshot| snapshot.metadata.as_ref());
    metadata.map_or(0, |metadata| metadata.index)
}

/// What is received.
enum Portion {
    Bytes(Bytes),
    /// There was everything.
    End,
}

/// Receives what follows `first` of a database into a file that appears at `path` only when it is whole
/// and durable. Returns its length. Nothing stays behind otherwise, also when this is dropped half-way.
pub(crate) async fn save<B>(
    disk: Arc<dyn Disk>,
    path: PathBuf,
    first: Bytes,
    mut body: B,
    metrics: Arc<dyn PeerMetrics>,
) -> Result<u64, String>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (portions, received) = mpsc::channel(PORTIONS);
    // A task of its own: it cleans up whatever becomes of the request.
    let writer = tokio::task::spawn_blocking(move || write(&*disk, &path, received, &*metrics));
    let mut next = Portion::Bytes(first);
    loop {
        let is_end = matches!(next, Portion::End);
        if portions.send(next).await.is_err() || is_end {
            break;
        }
        next = match tokio::time::timeout(STALLED, body.frame()).await {
            Err(_) => return Err(format!("nothing came for {STALLED:?}")),
            Ok(Some(Err(_))) => return Err("unexpected EOF".to_owned()),
            Ok(None) => Portion::End,
            Ok(Some(Ok(frame))) => Portion::Bytes(frame.into_data().unwrap_or_default()),
        };
    }
    let written = writer.await.map_err(|error| error.to_string())?;
    written.map_err(|error| error.to_string())
}

/// Tells temporary files of one process apart.
static FILES: AtomicU64 = AtomicU64::new(0);

fn write(
    disk: &dyn Disk,
    path: &Path,
    received: mpsc::Receiver<Portion>,
    metrics: &dyn PeerMetrics,
) -> io::Result<u64> {
    let began = Instant::now();
    let number = FILES.fetch_add(1, Relaxed);
    let temporary = env::with_suffix(path, &format!(".{number}.tmp"));
    let written = fill(disk, &temporary, received, metrics).and_then(|len| {
        disk.rename(&temporary, path)?;
        disk.sync_dir(env::parent(path))?;
        metrics.database_saved(began.elapsed());
        Ok(len)
    });
    if written.is_err() && disk.exists(&temporary) {
        disk.remove(&temporary)?;
    }
    written
}

fn fill(
    disk: &dyn Disk,
    path: &Path,
    mut received: mpsc::Receiver<Portion>,
    metrics: &dyn PeerMetrics,
) -> io::Result<u64> {
    let file = disk.create(path)?;
    let sync = || {
        let began = Instant::now();
        file.sync_data()?;
        metrics.database_synced(began.elapsed());
        io::Result::Ok(())
    };
    let (mut len, mut synced) = (0, 0);
    loop {
        match received.blocking_recv() {
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Portion::Bytes(bytes)) => {
                file.write_at(&[IoSlice::new(&bytes)], len)?;
                len += bytes.len() as u64;
            }
            Some(Portion::End) => {
                sync()?;
                return Ok(len);
            }
        }
        if len - synced >= SYNC_BYTES {
            sync()?;
            synced = len;
        }
    }
}
