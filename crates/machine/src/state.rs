//! What compares and ranges are read from: the head of the log or a reader's view.

use std::sync::Arc;

use mvcc::{Head, KeyMeta, Mvcc, RangeError, RangeOptions, RangeResult, View, Wait, WriteTxn};

/// The store at one point, as a transaction reads it.
pub(crate) trait State {
    /// The current main revision.
    fn revision(&self) -> i64;
    /// The compact revision; -1: never compacted.
    fn compacted(&self) -> i64;
    /// A key's revisions.
    fn get(&self, key: &[u8]) -> Result<Option<KeyMeta>, RangeError>;
    /// Answers a range.
    fn range(&self, options: &RangeOptions) -> Result<RangeResult, RangeError>;
}

/// A published revision, for requests that need no place in the log.
pub(crate) struct Published {
    pub(crate) view: View,
    pub(crate) compacted: i64,
    pub(crate) wait: Wait,
}

impl Published {
    /// The newest published revision. A compaction that comes later fails the reads.
    pub(crate) fn newest(mvcc: &Arc<Mvcc>, wait: Wait) -> Self {
        Published {
            compacted: mvcc.compacted(),
            view: mvcc.view(),
            wait,
        }
    }
}

impl State for Published {
    fn revision(&self) -> i64 {
        self.view.revision()
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn get(&self, key: &[u8]) -> Result<Option<KeyMeta>, RangeError> {
        self.view.get(key)
    }

    fn range(&self, options: &RangeOptions) -> Result<RangeResult, RangeError> {
        self.view.range(options, self.wait)
    }
}

/// The transaction being applied: it sees its own changes and all entries before it.
pub(crate) struct Applying<'a> {
    pub(crate) txn: WriteTxn<'a>,
    compacted: i64,
}

impl<'a> Applying<'a> {
    pub(crate) fn begin(head: &'a mut Head) -> Self {
        Applying {
            compacted: head.compacted(),
            txn: head.begin(),
        }
    }
}

impl State for Applying<'_> {
    fn revision(&self) -> i64 {
        self.txn.revision()
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn get(&self, key: &[u8]) -> Result<Option<KeyMeta>, RangeError> {
        Ok(self.txn.get(key))
    }

    fn range(&self, options: &RangeOptions) -> Result<RangeResult, RangeError> {
        self.txn.range(options)
    }
}
