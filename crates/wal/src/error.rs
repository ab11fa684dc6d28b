//! What can be wrong with a log.

use std::io;

use types::{Index, Term};

/// Why a log can not be opened. The member must not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("can not read the log: {file}: {source}")]
    Io {
        /// Path of the file or folder.
        file: String,
        /// What the disk said.
        source: io::Error,
    },
    /// There is no log, or it begins behind the snapshot it should continue.
    #[error(
        "no segment of the log in {dir} reaches back to index {index}: the snapshot file or the segment is \
         missing; remove this member from the cluster and add it again with an empty data folder"
    )]
    Missing {
        /// The folder.
        dir: String,
        /// The snapshot's index.
        index: Index,
    },
    /// Another process has the log open.
    #[error("{file} is locked: another process is using this data folder; stop it first")]
    Locked {
        /// Path of the segment.
        file: String,
    },
    /// The log has no record of the snapshot it should continue.
    #[error(
        "the log does not know the snapshot at index {index}, term {term}: log and snapshot files do not \
         belong together; put back the ones that do, or remove this member and add it again with an empty \
         data folder"
    )]
    NoSnapshot {
        /// The snapshot's index.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// Something was changed that had been written and synced.
    #[error(
        "{file} is damaged at offset {offset}: {what}; entries this member acknowledged may be lost, so it \
         must not go on with this log: remove it from the cluster and add it again with an empty data \
         folder, or restore a backup if it is the only member"
    )]
    Damaged {
        /// Path of the segment.
        file: String,
        /// Offset in bytes of the first thing that is wrong.
        offset: u64,
        /// What is wrong.
        what: Damage,
    },
}

/// What is wrong at some place of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// No length that a writer could have written.
    #[error("the length of the record is malformed")]
    Length,
    /// The length points behind the end of the file.
    #[error("the record runs past the end of the file")]
    PastEnd,
    /// A record or its content is not of the right shape.
    #[error("the record is malformed")]
    Malformed,
    /// The running checksum does not match.
    #[error("checksum mismatch: the record says {found:08x}, its data gives {computed:08x}")]
    Checksum {
        /// In the record.
        found: u32,
        /// From the data.
        computed: u32,
    },
    /// There is data behind the end of the segment that was not lost by a torn write.
    #[error("a record is missing")]
    Hole,
    /// A segment does not begin as segments do.
    #[error("the segment's header is missing")]
    Header,
    /// Segments of two members or clusters are mixed.
    #[error("the metadata is not that of the segments before")]
    Metadata,
    /// Entries are missing.
    #[error("entry {index} is there, but the one before it is not")]
    Gap {
        /// The entry behind the gap.
        index: Index,
    },
    /// Terms only grow.
    #[error("the term goes back from {from} to {to}")]
    Term {
        /// The term before.
        from: Term,
        /// The lower one behind it.
        to: Term,
    },
    /// More was committed than there is.
    #[error("the log ends at entry {last}, though it is committed up to {commit}")]
    Commit {
        /// The commit index.
        commit: Index,
        /// The last entry.
        last: Index,
    },
}

/// Why a write to the log failed. Nothing that was not confirmed before may be taken as durable.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk failed, now. Returned once; the process must end and recover from what is on the disk.
    #[error("the log can not be written: {0}")]
    Io(#[from] io::Error),
    /// The disk failed before, and the log takes no more.
    #[error("the log could not be written before and takes no more")]
    Stopped,
}
