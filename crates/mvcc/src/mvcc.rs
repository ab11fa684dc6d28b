//! What readers and the apply loop share, and a reader's pinned view of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use types::{ErrorKind, KeyRange, Revision};

use crate::hash::CompactionHashes;
use crate::range::Reader;
use crate::{Cursor, KeyIndex, KeyMeta, RangeError, RangeOptions, RangeResult, Values, Wait};

/// Key index and values together, with the two revisions that bound what can be read.
pub struct Mvcc {
    pub(crate) index: RwLock<KeyIndex>,
    pub(crate) values: Arc<dyn Values>,
    pub(crate) hashes: CompactionHashes,
    current: AtomicI64,
    compacted: AtomicI64,
}

/// What a slice of a compaction did.
#[derive(Clone, Debug, Default)]
pub struct CompactStep {
    /// Revisions that the index let go: their records are dead.
    pub dropped: Vec<Revision>,
    /// How many keys were passed, of the [`Mvcc::keys`] there are.
    pub passed: usize,
    /// Whether the whole index has been walked.
    pub done: bool,
}

impl Mvcc {
    /// Over an index and the values of all revisions in it. A fresh store is at revision
    /// [`Revision::FIRST`] and compacted to -1.
    pub fn new(index: KeyIndex, values: Arc<dyn Values>, current: i64, compacted: i64) -> Arc<Self> {
        Arc::new(Mvcc {
            index: RwLock::new(index),
            values,
            hashes: CompactionHashes::default(),
            current: AtomicI64::new(current),
            compacted: AtomicI64::new(compacted),
        })
    }

    /// The newest main revision that may be read.
    pub fn current(&self) -> i64 {
        self.current.load(Ordering::Acquire)
    }

    /// The main revision that the history is compacted to: the oldest that may be read. -1: never
    /// compacted.
    pub fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    /// [`compacted`](Self::compacted), after any [`replace`](Self::replace) that is under way: the values
    /// may be exchanged already.
    pub(crate) fn settled_compacted(&self) -> i64 {
        let _not_replacing = self.index.read();
        self.compacted()
    }

    /// Number of keys in the index, deleted ones included as long as their history is kept.
    pub fn keys(&self) -> usize {
        self.index.read().len()
    }

    /// Lets readers see the history up to `current` and refuses those below `compacted`. The values
    /// of all revisions up to `current` must be readable by now.
    pub fn publish(&self, current: i64, compacted: i64) {
        debug_assert!(compacted <= current && current >= self.current() && compacted >= self.compacted());
        self.current.store(current, Ordering::Release);
        self.compacted.store(compacted, Ordering::Release);
    }

    /// Goes on with the history that another member has kept: the same one up to a later revision,
    /// compacted perhaps to a later one. `swap` exchanges the values, which from then on hold all that is
    /// in `index`.
    ///
    /// A reader pinned at a revision that both histories have reads the same from either, even if it
    /// looks at the index of one and takes the values of the other; one below the new compact revision
    /// is refused as after any compaction.
    pub fn replace(&self, index: KeyIndex, current: i64, compacted: i64, swap: impl FnOnce()) {
        debug_assert!(compacted <= current && current >= self.current() && compacted >= self.compacted());
        let mut live = self.index.write();
        swap();
        let old = std::mem::replace(&mut *live, index);
        self.hashes.clear();
        // In this order: who is refused and tries again finds a revision that is not.
        self.current.store(current, Ordering::Release);
        self.compacted.store(compacted, Ordering::Release);
        drop(live);
        drop(old);
    }

    /// A view of the current revision.
    pub fn view(self: &Arc<Self>) -> View {
        View {
            mvcc: Arc::clone(self),
            rev: self.current(),
        }
    }

    /// A view of an older revision (`FutureRev` or `Compacted` if that cannot be). Unlike a
    /// [`RangeOptions::revision`] it makes the older revision the view's current one.
    pub fn view_at(self: &Arc<Self>, rev: i64) -> Result<View, ErrorKind> {
        if rev > self.current() {
            return Err(ErrorKind::FutureRev);
        }
        if rev < self.compacted() {
            return Err(ErrorKind::Compacted);
        }
        Ok(View {
            mvcc: Arc::clone(self),
            rev,
        })
    }

    /// Answers a range at the newest revision, or at the one the options name.
    pub fn range(self: &Arc<Self>, options: &RangeOptions, wait: Wait) -> Result<RangeResult, RangeError> {
        loop {
            let view = self.view();
            match view.range(options, wait) {
                // A compaction went past the view while it read. It asked for no revision in
                // particular, so a newer one will do; another round needs another compaction.
                Err(RangeError::Compacted) if options.revision <= 0 => {}
                result => return result,
            }
        }
    }

    /// What a range would have in memory, in bytes; of what could not be read, nothing.
    pub fn weigh(self: &Arc<Self>, options: &RangeOptions) -> u64 {
        let view = self.view();
        let at = options.at(view.rev, self.compacted());
        at.and_then(|at| view.reader(at).weigh(options)).unwrap_or(0)
    }

    /// Whether the change of `key` at `rev` is still part of the history. What is not may be
    /// dropped from the store: no reader asks for it any more.
    ///
    /// A tombstone, though, must stay in the files for as long as an earlier put of the key does:
    /// rebuilding the index without it would bring the key back, see [`KeyIndex::restore`].
    pub fn retains(&self, key: &[u8], rev: Revision) -> bool {
        self.index.read().retains(key, rev, self.compacted())
    }

    /// Drops a slice of the history below the published compact revision: about `budget` steps
    /// under the index lock. Start with a new cursor after each published compaction and repeat
    /// until done.
    pub fn compact_step(&self, cursor: &mut Cursor, budget: usize) -> CompactStep {
        let mut dropped = vec![];
        let passed = self
            .index
            .write()
            .compact(self.compacted(), cursor, budget, &mut dropped);
        CompactStep {
            dropped,
            passed,
            done: cursor.is_done(),
        }
    }
}

/// The store as of one revision.
///
/// A compaction can pass above a pinned revision; reads through the view then fail with
/// [`RangeError::Compacted`].
#[derive(Clone)]
pub struct View {
    mvcc: Arc<Mvcc>,
    rev: i64,
}

impl View {
    /// The main revision it is pinned to.
    pub fn revision(&self) -> i64 {
        self.rev
    }

    /// The key's state.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyMeta>, RangeError> {
        self.reader(self.rev).get(key)
    }

    /// `KeyValue` bytes of the key.
    pub fn value(&self, key: &[u8], wait: Wait) -> Result<Option<Bytes>, RangeError> {
        let reader = self.reader(self.rev);
        let Some(meta) = reader.get(key)? else {
            return Ok(None);
        };
        let mut out = Vec::with_capacity(1);
        reader.values(&[meta.mod_rev], wait, &mut out)?;
        Ok(out.pop())
    }

    /// Answers a range with all of etcd's rules.
    pub fn range(&self, options: &RangeOptions, wait: Wait) -> Result<RangeResult, RangeError> {
        let at = options.at(self.rev, self.mvcc.compacted())?;
        Ok(RangeResult {
            revision: self.rev,
            ..self.reader(at).range(options, wait)?
        })
    }

    /// Number of keys in the range.
    pub fn count(&self, range: &KeyRange) -> Result<i64, RangeError> {
        self.reader(self.rev).count(range, &mut Cursor::default())
    }

    /// The next `limit` keys of a range in key order, and moves `cursor` behind them: a range too
    /// large for one answer, in pieces. After an error the cursor stands where it stood.
    pub fn chunk(
        &self,
        range: &KeyRange,
        keys_only: bool,
        cursor: &mut Cursor,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Bytes>, RangeError> {
        self.reader(self.rev).chunk(range, keys_only, cursor, limit, wait)
    }

    fn reader(&self, at: i64) -> Reader<'_> {
        Reader {
            mvcc: &self.mvcc,
            pending: None,
            at,
        }
    }
}
