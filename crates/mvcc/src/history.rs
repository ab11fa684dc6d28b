//! The history in revision order, for watchers that catch up, and what a key was before a change.

use bytes::Bytes;
use types::Revision;

use crate::range::Reader;
use crate::{Change, KvRef, Mvcc, RangeError, ReadError, Wait};

/// A piece of the history.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Changes in revision order.
    pub changes: Vec<Change>,
    /// Where to go on; nothing when the end that was asked for is reached.
    pub next: Option<Revision>,
}

impl Mvcc {
    /// The changes from `from` up to and with main revision `upto_main` (or the current one, if
    /// that is less), in pieces of about `max_bytes`. A piece may end inside a transaction.
    ///
    /// Below the compact revision this is [`RangeError::Compacted`]; at exactly that revision only
    /// those changes come that the compaction kept. May wait for the disk.
    pub fn history(&self, from: Revision, upto_main: i64, max_bytes: usize) -> Result<History, RangeError> {
        let upto_main = upto_main.min(self.current());
        let mut changes = vec![];
        let read = self.values.scan(from, upto_main, max_bytes, &mut changes);
        let compacted = self.settled_compacted();
        if from.main < compacted {
            return Err(RangeError::Compacted);
        }
        let next = read?;
        if from.main == compacted {
            let index = self.index.read();
            let mut damaged = None;
            changes.retain(|change| {
                change.rev.main > compacted
                    || match KvRef::parse(&change.kv) {
                        Ok(kv) => index.retains(kv.key(), change.rev, compacted),
                        Err(err) => {
                            damaged = Some(ReadError::Damaged(err.to_string()));
                            false
                        }
                    }
            });
            if let Some(err) = damaged {
                return Err(err.into());
            }
        }
        Ok(History { changes, next })
    }

    /// `KeyValue` bytes of `key` as it was before main revision `main`: nothing if it was not, or if
    /// that is compacted.
    pub fn previous(&self, key: &[u8], main: i64, wait: Wait) -> Result<Option<Bytes>, ReadError> {
        let reader = Reader {
            mvcc: self,
            pending: None,
            at: main - 1,
        };
        let read = || {
            let Some(meta) = reader.get(key)? else {
                return Ok(None);
            };
            let mut out = Vec::with_capacity(1);
            reader.values(&[meta.mod_rev], wait, &mut out)?;
            Ok(out.pop())
        };
        match read() {
            Ok(kv) => Ok(kv),
            Err(RangeError::Compacted | RangeError::FutureRev | RangeError::Heavy(_)) => Ok(None),
            Err(RangeError::Read(err)) => Err(err),
        }
    }
}
