//! Rewriting: giving back the bytes of dead records without stopping anybody.
//!
//! A compaction only drops index entries. When more than half of a sealed segment is dead, its live records are
//! copied into a new segment, together with those of its neighbours in the same state; then the manifest is replaced
//! and the old files go. One job at a time, a piece per step: the step's budget is the server's handle on how much of
//! the disk this may take. Until the manifest is replaced nothing has happened, so a job can be dropped at any moment
//! and a crash leaves at worst a file that nothing names.
//!
//! Which records are dead is known from [`Store::forget`]: one bit each. A job goes by the bits as they were when it
//! began; what dies after that is marked dead in the new segment.
//!
//! Recovery can tell from the records themselves that a put is dead, as long as it finds what came after it. But when a
//! key's tombstone is dropped while an older put of the key remains, in an older segment that is not worth rewriting,
//! the put would come back to life. So a job that drops tombstones leaves a *dead checkpoint*: the bits of all
//! segments, taken at one moment: a checkpoint that marks a tombstone marks the puts before it.
//!
//! The commit of a compaction is synced before the segments it made shrink are replaced. Otherwise a crash could bring
//! back a store that is not yet compacted, but has lost what it should still have.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use mvcc::Wait;

use crate::Store;
use crate::error::{DiskError, RewriteError, SyncError};
use crate::files::DeadFile;
use crate::segment::{Extent, Place, Segment, SegmentFile, read_places};
use crate::slots::Bits;
use crate::state::DeadMeanwhile;
use crate::writer::{Edit, Writer, remove_leftover};

/// Bytes of the records copied with one write.
const COPY_BYTES: u64 = 1 << 20;

/// Bytes a step of [`Store::rewrite_all`] copies before it lets the syncer have the files.
const STEP_BYTES: u64 = 4 << 20;

/// So many neighbours of at most the size of a full segment divided by this number are merged even if all of them is
/// live, so that the number of files grows with the logarithm of what was ever written.
const MERGE_RUN: usize = 8;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewriting {
    /// There is nothing to rewrite.
    Idle,
    /// A piece was copied; there is more.
    Working,
    /// A job was finished. There may be another.
    Done,
}

/// Segments being rewritten into one.
pub(crate) struct Job {
    inputs: Vec<Input>,
    /// The next change to look at: number of the input, and of the slot in it.
    input: usize,
    slot: usize,
    output: Segment,
    /// Live bytes of the inputs that are not copied yet.
    rest: u64,
    drops_tombstones: bool,
}

struct Input {
    segment: Arc<Segment>,
    /// What is not copied.
    dead: Bits,
}

impl Store {
    /// Goes on with rewriting, copying about `budget` bytes.
    pub fn rewrite_step(&self, budget: u64) -> Result<Rewriting, RewriteError> {
        self.rewrite(budget, Thrift::HalfDead)
    }

    /// Rewrites every segment with more than a few dead bytes, in steps that let other work in between. What dies or
    /// is appended meanwhile is left for later.
    ///
    /// After each step `report` learns how many bytes are copied, and how many there were to copy in the beginning: never
    /// less than before, and in the end all, whoever has copied them.
    pub fn rewrite_all(&self, mut report: impl FnMut(u64, u64)) -> Result<(), RewriteError> {
        let (thrift, total) = self.write(|writer| {
            writer.sync(self)?;
            let open = self.state.read().open.extent();
            if open.has_more_dead_than(THOROUGH_DEAD_PART) {
                writer.seal(self)?;
            }
            let thrift = Thrift::Thorough {
                made_before: writer.manifest.next_id,
            };
            Ok((thrift, writer.ahead(self, thrift)))
        })?;
        let mut done = 0;
        report(done, total);
        while self.rewrite(STEP_BYTES, thrift)? != Rewriting::Idle {
            let ahead = self.writer()?.ahead(self, thrift);
            done = done.max(total.saturating_sub(ahead));
            report(done, total);
        }
        report(total, total);
        Ok(())
    }

    fn rewrite(&self, budget: u64, thrift: Thrift) -> Result<Rewriting, RewriteError> {
        let mut writer = self.writer()?;
        let result = writer.rewrite(self, budget, thrift);
        writer.poisoned = matches!(result, Err(RewriteError::Sync(SyncError::Disk(_))));
        result
    }
}

impl Writer {
    fn rewrite(&mut self, store: &Store, budget: u64, thrift: Thrift) -> Result<Rewriting, RewriteError> {
        let job = match self.job.take() {
            Some(job) => Some(job),
            None => self.begin(store, thrift)?,
        };
        let Some(mut job) = job else {
            return Ok(Rewriting::Idle);
        };
        let name = job.output.file_name();
        let result = match job.copy(budget) {
            Ok(true) => self.finish(store, job).map(|()| Rewriting::Done),
            Ok(false) => {
                self.job = Some(job);
                Ok(Rewriting::Working)
            }
            Err(error) => Err(error),
        };
        if result.is_err() {
            store.state.write().rewriting = None;
        }
        match &result {
            // The new manifest may be in force after all, and name the file.
            Err(RewriteError::Sync(SyncError::Disk(_))) | Ok(_) => {}
            Err(_) => remove_leftover(store, &name),
        }
        result
    }

    fn begin(&mut self, store: &Store, thrift: Thrift) -> Result<Option<Job>, RewriteError> {
        let (sealed, open_first) = {
            let state = store.state.read();
            (Arc::clone(&state.sealed), state.open.first)
        };
        let extents: Vec<Extent> = sealed.iter().map(|segment| segment.extent()).collect();
        let Some(range) = plan(&extents, store.segment_target(), thrift) else {
            return Ok(None);
        };
        let first = sealed[range.start].first;
        let next_first = sealed.get(range.end).map_or(open_first, |segment| segment.first);
        let output = Segment::create(&*store.disk, &store.dir, first, self.manifest.take_id())?;
        // From here on nothing that dies goes unnoticed, and then the bits are taken.
        store.state.write().rewriting = Some(DeadMeanwhile {
            mains: first..next_first,
            dead: vec![],
        });
        let mut rest = 0;
        let input = |segment: &Arc<Segment>| {
            let life = segment.life.lock();
            rest += life.live_bytes;
            Input {
                segment: Arc::clone(segment),
                dead: life.dead.clone(),
            }
        };
        let inputs = sealed[range].iter().map(input).collect();
        Ok(Some(Job {
            inputs,
            input: 0,
            slot: 0,
            output,
            rest,
            drops_tombstones: false,
        }))
    }

    /// The bytes that are to be copied until nothing is left to rewrite.
    fn ahead(&self, store: &Store, thrift: Thrift) -> u64 {
        let sealed = Arc::clone(&store.state.read().sealed);
        let mut extents: Vec<Extent> = sealed.iter().map(|segment| segment.extent()).collect();
        let mut rest = 0;
        if let Some(job) = &self.job {
            rest = job.rest;
            let first = job.inputs[0].segment.id;
            let start = sealed.iter().take_while(|segment| segment.id != first).count();
            let copied = job.output.extent().payload;
            extents.splice(start..start + job.inputs.len(), rewritten(copied + rest));
        }
        rest + to_copy(&extents, store.segment_target(), thrift)
    }

    /// Puts the output of a job in place of its inputs.
    fn finish(&mut self, store: &Store, job: Job) -> Result<(), RewriteError> {
        let Job {
            inputs, mut output, ..
        } = job;
        let name = output.file_name();
        let number = |id: u64| self.manifest.segments.iter().position(|entry| entry.id == id);
        let start =
            number(inputs[0].segment.id).expect("only a job removes segments, and there is one at a time");
        let range = start..start + inputs.len();
        let dead = job.drops_tombstones.then(|| {
            // Held, so that no change dies in between: a tombstone must not be marked without the puts before it,
            // wherever they are.
            let state = store.state.read();
            for rev in state.rewriting.iter().flat_map(|meanwhile| &meanwhile.dead) {
                output.forget(*rev);
            }
            let before = state.sealed[..range.start].iter().map(|segment| &**segment);
            let after = state.sealed[range.end..].iter().map(|segment| &**segment);
            let all = before.chain([&output]).chain(after);
            all.filter_map(Segment::dead_changes).collect()
        });
        let dead = dead
            .filter(|segments: &Vec<_>| !segments.is_empty())
            .map(|segments| DeadFile { segments });
        // The compactions behind those bits, and behind what was not copied, are appended by now. See the header.
        self.sync(store)?;
        let (end, compacted) = {
            let state = store.state.read();
            (state.end(), state.synced.compact_revision)
        };
        // Table records are not copied: the checkpoint must hold what they did.
        let number = |id: u64| self.manifest.segments.iter().position(|entry| entry.id == id);
        let checkpoint = self.checkpoint.and_then(|position| number(position.segment_id));
        let state = checkpoint.is_none_or(|number| number < range.end).then_some(end);
        output.slots.shrink();
        // Nothing live was left: then there is nothing to put in place.
        let output = (output.slots.len() > 0).then_some(output);
        let mut manifest = self.manifest.clone();
        manifest.rewritten_at = compacted.max(0);
        manifest
            .segments
            .splice(range.clone(), output.as_ref().map(Segment::entry));
        let staged = self.stage(
            store,
            Edit {
                manifest,
                state,
                dead,
            },
        )?;
        self.publish(store, staged)?;

        let given_back = inputs.iter().map(|input| input.segment.len).sum();
        store
            .size
            .fetch_add(output.as_ref().map_or(0, |output| output.len), Ordering::Relaxed);
        store.size.fetch_sub(given_back, Ordering::Relaxed);
        if output.is_none() {
            remove_leftover(store, &name);
        }
        store.state.write().replace(range, output);
        inputs
            .iter()
            .for_each(|input| remove_leftover(store, &input.segment.file_name()));
        Ok(())
    }
}

impl Job {
    /// Name of the file that is being written.
    pub fn output_name(&self) -> String {
        self.output.file_name()
    }

    /// Copies about `budget` bytes of live records. Returns whether that was all.
    fn copy(&mut self, budget: u64) -> Result<bool, RewriteError> {
        let mut copied = 0;
        while copied < budget && self.input < self.inputs.len() {
            copied += self.copy_some(COPY_BYTES.min(budget - copied))?;
        }
        let SegmentFile { path, file } = &*self.output.file;
        file.sync_data().map_err(DiskError::at("syncing", path))?;
        Ok(self.input == self.inputs.len())
    }

    /// Copies the next live records of one input. Returns their bytes.
    fn copy_some(&mut self, bytes_max: u64) -> Result<u64, RewriteError> {
        let Input { segment, dead } = &self.inputs[self.input];
        let mut places: Vec<Place> = vec![];
        let mut bytes = 0;
        while self.slot < segment.slots.len() && bytes < bytes_max {
            if dead.contains(self.slot) {
                self.drops_tombstones |= segment.slots.tombstone(self.slot);
            } else {
                bytes += segment.slots.record_len(self.slot);
                places.push(segment.place(self.slot));
            }
            self.slot += 1;
        }
        self.rest -= bytes;
        if self.slot == segment.slots.len() {
            (self.input, self.slot) = (self.input + 1, 0);
        }
        let mut records: Vec<Bytes> = Vec::with_capacity(places.len());
        read_places(&places, Wait::Yes, |_, record| records.push(record))?;
        let parts: Vec<IoSlice<'_>> = records.iter().map(|record| IoSlice::new(record)).collect();
        let SegmentFile { path, file } = &*self.output.file;
        file.write_at(&parts, self.output.len)
            .map_err(DiskError::at("writing", path))?;
        for (place, record) in places.iter().zip(&records) {
            self.output
                .push(place.rev, place.tombstone, self.output.len, record.len() as u32);
            self.output.len += record.len() as u64;
        }
        Ok(bytes)
    }
}

/// When a segment is worth rewriting.
#[derive(Clone, Copy, Debug)]
enum Thrift {
    /// When half of it is dead: copying then costs no more than it gives back.
    HalfDead,
    /// When a few bytes are dead; only segments with an id below this, so that it comes to an end.
    Thorough { made_before: u64 },
}

/// One part in so many being dead is few enough to leave a segment alone when asked to be thorough.
const THOROUGH_DEAD_PART: u64 = 20;

impl Extent {
    fn has_more_dead_than(&self, one_part_in: u64) -> bool {
        (self.payload - self.live) * one_part_in > self.payload
    }

    fn is_small(&self, target: u64) -> bool {
        self.payload < target / MERGE_RUN as u64
    }
}

impl Thrift {
    fn wants(self, segment: &Extent) -> bool {
        match self {
            Thrift::HalfDead => segment.has_more_dead_than(2),
            Thrift::Thorough { made_before } => {
                segment.id < made_before && segment.has_more_dead_than(THOROUGH_DEAD_PART)
            }
        }
    }

    /// How many small neighbours are worth merging.
    fn merge_run(self) -> usize {
        match self {
            Thrift::HalfDead => MERGE_RUN,
            Thrift::Thorough { .. } => 2,
        }
    }
}

/// Which neighbouring segments to rewrite into one of about `target` bytes at most.
fn plan(segments: &[Extent], target: u64, thrift: Thrift) -> Option<Range<usize>> {
    first_wanted(segments, target, thrift).or_else(|| first_merge(segments, target, thrift))
}

/// The first segment that is worth rewriting, with the neighbours that go along.
fn first_wanted(segments: &[Extent], target: u64, thrift: Thrift) -> Option<Range<usize>> {
    let start = segments.iter().position(|segment| thrift.wants(segment))?;
    let belongs = |segment: &Extent| thrift.wants(segment) || segment.is_small(target);
    let run = run(segments, start, target, belongs);
    Some(start..run.end.max(start + 1))
}

/// The first small neighbours who are enough.
fn first_merge(segments: &[Extent], target: u64, thrift: Thrift) -> Option<Range<usize>> {
    let mut runs = (0..segments.len()).map(|start| run(segments, start, target, |one| one.is_small(target)));
    runs.find(|run| run.len() >= thrift.merge_run())
}

/// The longest run from `start` on that makes one segment.
fn run(segments: &[Extent], start: usize, target: u64, belongs: impl Fn(&Extent) -> bool) -> Range<usize> {
    let mut live = 0;
    let fits = |segment: &&Extent| {
        live += segment.live;
        belongs(segment) && live <= target
    };
    start..start + segments[start..].iter().take_while(fits).count()
}

/// What a job leaves behind that has so many bytes to copy.
fn rewritten(live: u64) -> Option<Extent> {
    (live > 0).then_some(Extent {
        id: u64::MAX,
        payload: live,
        live,
    })
}

/// The bytes that one plan after the other copies, until there is none.
///
/// First come all wanted segments, then all merges, both from the left to the right: what a job leaves behind is never
/// the beginning of the next one of its kind.
fn to_copy(segments: &[Extent], target: u64, thrift: Thrift) -> u64 {
    let (copied, left) = copy_each(segments, |rest| first_wanted(rest, target, thrift));
    let (merged, _) = copy_each(&left, |rest| first_merge(rest, target, thrift));
    copied + merged
}

/// The bytes copied by all jobs of one kind, and what they leave behind.
fn copy_each(mut rest: &[Extent], next: impl Fn(&[Extent]) -> Option<Range<usize>>) -> (u64, Vec<Extent>) {
    let (mut bytes, mut left) = (0, vec![]);
    while let Some(Range { start, end }) = next(rest) {
        let live = rest[start..end].iter().map(|segment| segment.live).sum();
        bytes += live;
        left.extend_from_slice(&rest[..start]);
        left.extend(rewritten(live));
        rest = &rest[end..];
    }
    left.extend_from_slice(rest);
    (bytes, left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    /// Segments from (payload, live), with ids in order.
    fn plan_of(segments: &[(u64, u64)], thrift: Thrift) -> Option<Range<usize>> {
        let extents = segments
            .iter()
            .zip(0..)
            .map(|(&(payload, live), id)| Extent { id, payload, live });
        plan(&extents.collect::<Vec<_>>(), 1000, thrift)
    }

    #[test]
    fn a_segment_is_rewritten_when_more_than_half_of_it_is_dead() {
        assert_eq!(plan_of(&[], Thrift::HalfDead), None);
        assert_eq!(plan_of(&[(1000, 1000), (1000, 500)], Thrift::HalfDead), None);
        assert_eq!(
            plan_of(&[(1000, 1000), (1000, 499), (1000, 600)], Thrift::HalfDead),
            Some(1..2)
        );
        assert_eq!(plan_of(&[(1000, 0)], Thrift::HalfDead), Some(0..1));
        assert_eq!(
            plan_of(&[(4000, 1900)], Thrift::HalfDead),
            Some(0..1),
            "however large it is"
        );
    }

    #[test]
    fn neighbours_are_taken_along_as_long_as_they_fit_into_one_segment() {
        let segments = [(1000, 400), (1000, 400), (100, 100), (1000, 300), (1000, 0)];
        assert_eq!(
            plan_of(&segments, Thrift::HalfDead),
            Some(0..3),
            "900 live bytes, and 300 more are too many"
        );
        assert_eq!(
            plan_of(&[(1000, 400), (1000, 900), (1000, 0)], Thrift::HalfDead),
            Some(0..1)
        );
    }

    #[test]
    fn small_live_segments_are_merged_once_there_are_many() {
        let small = [(100, 100); MERGE_RUN];
        assert_eq!(plan_of(&small[1..], Thrift::HalfDead), None);
        assert_eq!(plan_of(&small, Thrift::HalfDead), Some(0..MERGE_RUN));
        assert_eq!(
            plan_of(&small[..2], Thrift::Thorough { made_before: 9 }),
            Some(0..2)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: RngSeed::Fixed(0),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_to_be_copied_is_what_one_plan_after_the_other_copies(
            segments in prop::collection::vec((prop_oneof![0u64..130, 0u64..1500], 0u64..=100), 0..40),
            made_before in 0u64..50,
        ) {
            let thrift = Thrift::Thorough { made_before };
            let extents = segments.iter().zip(0..).map(|(&(payload, percent), id)| Extent {
                id,
                payload,
                live: payload * percent / 100,
            });
            let mut segments: Vec<_> = extents.collect();
            let foretold = to_copy(&segments, 1000, thrift);
            let mut copied = 0;
            while let Some(range) = plan(&segments, 1000, thrift) {
                let live = segments[range.clone()].iter().map(|segment| segment.live).sum();
                copied += live;
                segments.splice(range, rewritten(live));
            }
            prop_assert_eq!(foretold, copied);
        }
    }

    #[test]
    fn being_thorough_leaves_alone_what_was_made_since() {
        let segments = [(1000, 990), (1000, 900), (1000, 900)];
        assert_eq!(
            plan_of(&segments, Thrift::Thorough { made_before: 3 }),
            Some(1..2)
        );
        assert_eq!(plan_of(&segments, Thrift::Thorough { made_before: 1 }), None);
    }
}
