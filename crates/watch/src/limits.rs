//! Every bound of this crate, with its reason.

/// Responses one stream may have queued. Behind a socket that does not drain more would only age;
/// the watchers go on from the store later.
const OUTBOX_FRAMES: usize = 1024;

/// Memory one stream may have queued, in bytes. A thousand clients that stop reading must not cost
/// more than 256 MiB, whatever they watch.
const OUTBOX_BYTES: usize = 192 << 10;

/// Watchers one stream may have, those included that a compaction has ended. Each has some 300 bytes and its key.
const STREAM_WATCHERS: usize = 100_000;

/// Revisions are merged into one response up to this many bytes of events. Large enough that heads
/// and locks do not count, small enough that several fit into an outbox.
const RESPONSE_BYTES: usize = 64 << 10;

/// etcd's default of `--max-request-bytes`.
const MAX_REQUEST_BYTES: usize = 1536 << 10;

/// What etcd adds to the request limit before it fragments a response.
const FRAGMENT_SLACK_BYTES: usize = 512 << 10;

/// Revisions read from the store in one go for watchers that are catching up, and (see below) bytes:
/// one read holds up the live watchers, so it stays in the order of a millisecond.
const CATCH_UP_REVISIONS: i64 = 1000;

/// See [`CATCH_UP_REVISIONS`]. A single larger revision is still read whole.
const CATCH_UP_BYTES: usize = 1 << 20;

/// Watchers served from one read; the others use a read of their own.
const CATCH_UP_WATCHERS: usize = 4096;

/// The bounds a hub works with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Responses in one outbox.
    pub outbox_frames: usize,
    /// Bytes in one outbox, shared bytes counted as if they were not.
    pub outbox_bytes: usize,
    /// Watchers of one stream.
    pub stream_watchers: usize,
    /// Bytes of events up to which several revisions share a response.
    pub response_bytes: usize,
    /// Size in bytes from which on a response is split, if the client can take it in pieces.
    pub fragment_bytes: usize,
    /// Revisions of one read for watchers that catch up.
    pub catch_up_revisions: i64,
    /// Bytes of one read for watchers that catch up.
    pub catch_up_bytes: usize,
    /// Watchers served from one read.
    pub catch_up_watchers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            outbox_frames: OUTBOX_FRAMES,
            outbox_bytes: OUTBOX_BYTES,
            stream_watchers: STREAM_WATCHERS,
            response_bytes: RESPONSE_BYTES,
            fragment_bytes: 0,
            catch_up_revisions: CATCH_UP_REVISIONS,
            catch_up_bytes: CATCH_UP_BYTES,
            catch_up_watchers: CATCH_UP_WATCHERS,
        }
        .with_max_request_bytes(MAX_REQUEST_BYTES)
    }
}

impl Limits {
    /// Follows the server's `--max-request-bytes`.
    pub fn with_max_request_bytes(self, max_request_bytes: usize) -> Self {
        Limits {
            fragment_bytes: max_request_bytes.saturating_add(FRAGMENT_SLACK_BYTES),
            ..self
        }
    }
}
