//! Range: etcd's rules for selecting, counting, filtering, sorting and cutting.
//!
//! The index alone decides which keys are in the answer, so values are read only for those that
//! are sent (sorting by value excepted). A walk takes the index lock for a slice of
//! [`SLICE_KEYS`] at a time and reads the slice's values after releasing it, all with one call.

use std::cmp::Reverse;
use std::ops::{ControlFlow, Range};

use bytes::{Bytes, BytesMut};
use types::{ErrorKind, KeyRange, Revision};

use crate::{Batch, Cursor, KeyIndex, KeyMeta, KeyParts, KvFields, KvRef, Mvcc, ReadError, Wait};

/// Keys looked at under one hold of the index lock: some 20 µs, so that a put never waits longer
/// than about its own fsync for a large range.
pub(crate) const SLICE_KEYS: usize = 1024;

/// Keys whose values are read before it is seen what they weigh.
const PIECE_KEYS: usize = 64;

/// Which way to sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// As the target prefers: key order, and ascending for every other target.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What to sort by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// Puts since the create.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value.
    Value,
}

/// A range request, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeOptions {
    /// The keys.
    pub range: KeyRange,
    /// Main revision to read at; 0 or less for the current one.
    pub revision: i64,
    /// Most keys to return; 0 or less for all.
    pub limit: i64,
    /// Which way to sort.
    pub order: SortOrder,
    /// What to sort by.
    pub target: SortTarget,
    /// Leave the values out.
    pub keys_only: bool,
    /// Leave the keys out, too.
    pub count_only: bool,
    /// Smallest mod revision to return; 0 for no bound. So are the other three, inclusive.
    pub min_mod: i64,
    /// Largest mod revision to return.
    pub max_mod: i64,
    /// Smallest create revision to return.
    pub min_create: i64,
    /// Largest create revision to return.
    pub max_create: i64,
    /// The answer must not weigh more bytes than this, see [`RangeError::Heavy`].
    pub max_bytes: u64,
}

impl RangeOptions {
    /// All keys of a range at the current revision.
    pub fn new(range: KeyRange) -> Self {
        RangeOptions {
            range,
            revision: 0,
            limit: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod: 0,
            max_mod: 0,
            min_create: 0,
            max_create: 0,
            max_bytes: u64::MAX,
        }
    }

    /// The revision to read at, if it can be read.
    pub(crate) fn at(&self, current: i64, compacted: i64) -> Result<i64, RangeError> {
        let at = if self.revision <= 0 {
            current
        } else {
            self.revision
        };
        if at > current {
            return Err(RangeError::FutureRev);
        }
        if at < compacted {
            return Err(RangeError::Compacted);
        }
        Ok(at)
    }

    fn has_filters(&self) -> bool {
        [self.min_mod, self.max_mod, self.min_create, self.max_create] != [0; 4]
    }

    /// Whether the key passes the four revision bounds.
    fn passes(&self, meta: &KeyMeta) -> bool {
        let within = |n: i64, min: i64, max: i64| (min == 0 || n >= min) && (max == 0 || n <= max);
        within(meta.mod_rev.main, self.min_mod, self.max_mod)
            && within(meta.create_rev, self.min_create, self.max_create)
    }

    /// Most keys to gather before sorting and cutting: all, or one more than the limit, which
    /// tells that there are more. Sorting needs all keys, except that etcd sorts by a target without
    /// an order only what it found first.
    fn gather_limit(&self) -> usize {
        let sorts_all = match (self.target, self.order) {
            (_, SortOrder::None) => self.target != SortTarget::Key && self.has_filters(),
            (SortTarget::Key, SortOrder::Ascend) => false,
            _ => true,
        };
        match usize::try_from(self.limit) {
            Ok(limit @ 1..) if !sorts_all => limit.saturating_add(1),
            _ => usize::MAX,
        }
    }
}

/// Answer to a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// Stored `KeyValue` bytes.
    pub kvs: Vec<Bytes>,
    /// Number of keys in the range, whatever limit and filters say.
    pub count: i64,
    /// Whether the limit cut keys off.
    pub more: bool,
    /// Current revision when the answer was made.
    pub revision: i64,
}

/// Why a range has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The revision does not exist yet.
    #[error("the revision is a future one")]
    FutureRev,
    /// The revision is compacted, perhaps just now.
    #[error("the revision is compacted")]
    Compacted,
    /// It would weigh so much, which is more than it may. It is not kept in memory.
    #[error("the answer weighs {0} bytes")]
    Heavy(u64),
    /// A value could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl RangeError {
    /// What to tell the client; nothing if the error is not the client's.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            RangeError::FutureRev => Some(ErrorKind::FutureRev),
            RangeError::Compacted => Some(ErrorKind::Compacted),
            RangeError::Heavy(_) | RangeError::Read(_) => None,
        }
    }
}

/// Reads at one revision; in a write transaction also what is not yet sealed.
pub(crate) struct Reader<'a> {
    pub mvcc: &'a Mvcc,
    pub pending: Option<&'a Batch>,
    pub at: i64,
}

/// Keys found in the index.
struct Gathered {
    found: Vec<Found>,
    /// How many are enough.
    limit: usize,
    /// Whether the answer is made of the keys, so that no values need to be read.
    wants_keys: bool,
    /// The keys back to back, if they are wanted.
    keys: Vec<u8>,
}

struct Found {
    meta: KeyMeta,
    key: Range<usize>,
}

impl Reader<'_> {
    /// The key's state.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyMeta>, RangeError> {
        self.look(|index| index.get(key, self.at))
    }

    /// Number of keys from where the cursor stands.
    pub fn count(&self, range: &KeyRange, cursor: &mut Cursor) -> Result<i64, RangeError> {
        let mut count = 0;
        while !cursor.is_done() {
            count += self.look(|index| index.count(range, self.at, cursor, SLICE_KEYS))?;
        }
        Ok(count)
    }

    /// The whole answer but for its header revision.
    pub fn range(&self, options: &RangeOptions, wait: Wait) -> Result<RangeResult, RangeError> {
        let mut cursor = Cursor::default();
        let mut result = RangeResult::default();
        if !options.count_only {
            let mut gathered = Gathered::new(options);
            result.count = self.gather(options, &mut cursor, &mut gathered)?;
            result.kvs = match options.target {
                SortTarget::Value => {
                    let mut kvs = self.fetch_within(options.max_bytes, &gathered, wait)?;
                    sort_by_value(&mut kvs, options.order)?;
                    result.more = cut(&mut kvs, options.limit);
                    if options.keys_only {
                        strip_values(&mut kvs)?;
                    }
                    kvs
                }
                target => {
                    gathered.sort(target, options.order);
                    result.more = cut(&mut gathered.found, options.limit);
                    self.fetch_within(options.max_bytes, &gathered, wait)?
                }
            };
        }
        result.count += self.count(&options.range, &mut cursor)?;
        Ok(result)
    }

    /// What [`range`](Self::range) would have in memory, in bytes.
    pub fn weigh(&self, options: &RangeOptions) -> Result<u64, RangeError> {
        let mut gathered = Gathered::new(options);
        self.gather(options, &mut Cursor::default(), &mut gathered)?;
        if options.target != SortTarget::Value {
            gathered.sort(options.target, options.order);
            cut(&mut gathered.found, options.limit);
        }
        self.weight(&gathered)
    }

    /// [`fetch`](Self::fetch), if that is not more than so many bytes. Piece by piece, so that what is too much does not
    /// get into memory, and what is not is looked up once.
    fn fetch_within(
        &self,
        max_bytes: u64,
        gathered: &Gathered,
        wait: Wait,
    ) -> Result<Vec<Bytes>, RangeError> {
        let within = |weight| match weight > max_bytes {
            true => Err(RangeError::Heavy(weight)),
            false => Ok(()),
        };
        if max_bytes == u64::MAX {
            return self.fetch(gathered, wait);
        }
        if gathered.wants_keys {
            within(self.weight(gathered)?)?;
            return self.fetch(gathered, wait);
        }
        let mut weight = gathered.overhead();
        let mut kvs = Vec::with_capacity(gathered.found.len());
        for piece in gathered.found.chunks(PIECE_KEYS) {
            let before = kvs.len();
            self.fetch_piece(piece, wait, &mut kvs)?;
            weight += kvs[before..].iter().map(|kv| kv.len() as u64).sum::<u64>();
            if weight > max_bytes {
                within(weight.max(self.weight(gathered)?))?;
            }
        }
        Ok(kvs)
    }

    /// Bytes of the answer and of what it is made from.
    fn weight(&self, gathered: &Gathered) -> Result<u64, RangeError> {
        let mut weight = gathered.overhead();
        if gathered.wants_keys {
            return Ok(weight);
        }
        for slice in gathered.found.chunks(SLICE_KEYS) {
            let revs: Vec<_> = slice.iter().map(|found| found.meta.mod_rev).collect();
            weight += self.mvcc.values.weigh(&revs).map_err(|err| self.explain(err))?;
        }
        Ok(weight)
    }

    /// The next `limit` keys in key order.
    pub fn chunk(
        &self,
        range: &KeyRange,
        keys_only: bool,
        cursor: &mut Cursor,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Bytes>, RangeError> {
        let options = RangeOptions {
            keys_only,
            ..RangeOptions::new(range.clone())
        };
        let mut gathered = Gathered {
            limit,
            ..Gathered::new(&options)
        };
        let mut after = cursor.clone();
        self.gather(&options, &mut after, &mut gathered)?;
        let kvs = self.fetch(&gathered, wait)?;
        *cursor = after;
        Ok(kvs)
    }

    /// Walks on until enough keys are gathered or the range ends. Returns how many live keys were
    /// passed.
    fn gather(
        &self,
        options: &RangeOptions,
        cursor: &mut Cursor,
        gathered: &mut Gathered,
    ) -> Result<i64, RangeError> {
        let mut live = 0;
        while !cursor.is_done() && !gathered.is_full() {
            self.look(|index| {
                index.walk(&options.range, self.at, cursor, SLICE_KEYS, |key, meta| {
                    live += 1;
                    if options.passes(&meta) {
                        gathered.push(key, meta);
                    }
                    if gathered.is_full() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
            })?;
        }
        Ok(live)
    }

    /// `KeyValue` bytes of what was gathered, in its order.
    fn fetch(&self, gathered: &Gathered, wait: Wait) -> Result<Vec<Bytes>, RangeError> {
        if gathered.wants_keys {
            return Ok(gathered.key_values());
        }
        let mut kvs = Vec::with_capacity(gathered.found.len());
        for slice in gathered.found.chunks(SLICE_KEYS) {
            self.fetch_piece(slice, wait, &mut kvs)?;
        }
        Ok(kvs)
    }

    fn fetch_piece(&self, found: &[Found], wait: Wait, out: &mut Vec<Bytes>) -> Result<(), RangeError> {
        let revs: Vec<_> = found.iter().map(|found| found.meta.mod_rev).collect();
        self.values(&revs, wait, out)
    }

    /// `KeyValue` bytes of revisions that the index gave out at `self.at`.
    pub fn values(&self, revs: &[Revision], wait: Wait, out: &mut Vec<Bytes>) -> Result<(), RangeError> {
        let pending = |rev: &Revision| self.pending.and_then(|batch| batch.get(*rev));
        for run in revs.chunk_by(|a, b| pending(a).is_some() == pending(b).is_some()) {
            match pending(&run[0]) {
                Some(_) => out.extend(run.iter().filter_map(pending).map(Bytes::copy_from_slice)),
                None => self
                    .mvcc
                    .values
                    .get_many(run, wait, out)
                    .map_err(|err| self.explain(err))?,
            }
        }
        Ok(())
    }

    /// One look at the index under its lock. Fails if a compaction has passed the revision: what
    /// was seen may then be incomplete.
    fn look<T>(&self, look: impl FnOnce(&KeyIndex) -> T) -> Result<T, RangeError> {
        let seen = look(&self.mvcc.index.read());
        if self.at < self.mvcc.compacted() {
            Err(RangeError::Compacted)
        } else {
            Ok(seen)
        }
    }

    /// A revision can go between the look at the index and the read, after a compaction.
    fn explain(&self, err: ReadError) -> RangeError {
        match err {
            ReadError::Gone(_) if self.at < self.mvcc.settled_compacted() => RangeError::Compacted,
            err => RangeError::Read(err),
        }
    }
}

impl Gathered {
    fn new(options: &RangeOptions) -> Self {
        Gathered {
            found: vec![],
            limit: options.gather_limit(),
            wants_keys: options.keys_only && options.target != SortTarget::Value,
            keys: vec![],
        }
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.limit
    }

    fn push(&mut self, key: KeyParts<'_>, meta: KeyMeta) {
        let start = self.keys.len();
        if self.wants_keys {
            key.write_to(&mut self.keys);
        }
        self.found.push(Found {
            meta,
            key: start..self.keys.len(),
        });
    }

    /// Sorts by anything but the value. Ties stay in key order.
    fn sort(&mut self, target: SortTarget, order: SortOrder) {
        let by: fn(&KeyMeta) -> i64 = match target {
            SortTarget::Version => |meta| meta.version,
            SortTarget::Create => |meta| meta.create_rev,
            SortTarget::Mod => |meta| meta.mod_rev.main,
            SortTarget::Key | SortTarget::Value => {
                if order == SortOrder::Descend {
                    self.found.reverse();
                }
                return;
            }
        };
        match order {
            SortOrder::None | SortOrder::Ascend => self.found.sort_by_key(|found| by(&found.meta)),
            SortOrder::Descend => self.found.sort_by_key(|found| Reverse(by(&found.meta))),
        }
    }

    /// Bytes of everything but the values.
    fn overhead(&self) -> u64 {
        (self.keys.len() + self.found.len() * (size_of::<Found>() + size_of::<Bytes>())) as u64
    }

    /// The answer to a keys-only range. The index knows everything but the lease, and etcd leaves
    /// that out, too.
    fn key_values(&self) -> Vec<Bytes> {
        let mut arena = BytesMut::with_capacity(self.keys.len() + 24 * self.found.len());
        let encode = |found: &Found| {
            let KeyMeta {
                mod_rev,
                create_rev,
                version,
            } = found.meta;
            let key = &self.keys[found.key.clone()];
            KvFields {
                key,
                create_rev,
                mod_rev: mod_rev.main,
                version,
                value: &[],
                lease: 0,
            }
            .encode(&mut arena);
            arena.split().freeze()
        };
        self.found.iter().map(encode).collect()
    }
}

/// Sorts by value; ties stay in key order.
fn sort_by_value(kvs: &mut [Bytes], order: SortOrder) -> Result<(), ReadError> {
    for kv in kvs.iter() {
        parse(kv)?;
    }
    let value = |kv: &Bytes| KvRef::parse(kv).map(|kv| kv.value_bytes()).unwrap_or_default();
    match order {
        SortOrder::None | SortOrder::Ascend => kvs.sort_by_cached_key(value),
        SortOrder::Descend => kvs.sort_by_cached_key(|kv| Reverse(value(kv))),
    }
    Ok(())
}

fn strip_values(kvs: &mut [Bytes]) -> Result<(), ReadError> {
    for kv in kvs {
        let fields = KvFields {
            value: &[],
            ..*parse(kv)?
        };
        let mut out = BytesMut::with_capacity(fields.encoded_len());
        fields.encode(&mut out);
        *kv = out.freeze();
    }
    Ok(())
}

fn parse(kv: &Bytes) -> Result<KvRef<'_>, ReadError> {
    KvRef::parse(kv).map_err(|err| ReadError::Damaged(err.to_string()))
}

/// Cuts to the limit. Returns whether that cut something off.
fn cut<T>(found: &mut Vec<T>, limit: i64) -> bool {
    match usize::try_from(limit) {
        Ok(limit @ 1..) if found.len() > limit => {
            found.truncate(limit);
            true
        }
        _ => false,
    }
}
