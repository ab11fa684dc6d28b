//! Reading: from the tail's memory, or with one `pread` for neighbours.

use std::sync::Arc;

use bytes::Bytes;
use mvcc::record::HEADER_LEN;
use mvcc::{Change, ReadError, Values, Wait};
use types::Revision;

use crate::Store;
use crate::segment::{Place, Segment, read_places};
use crate::state::holder;
use crate::tail::after;

/// Revisions looked up under one hold of the state's lock: some 20 µs, so that an append waits no longer.
const LOOKUP_CHUNK: usize = 128;

impl Values for Store {
    fn get_many(&self, revs: &[Revision], wait: Wait, out: &mut Vec<Bytes>) -> Result<(), ReadError> {
        let base = out.len();
        out.resize(base + revs.len(), Bytes::new());
        // Readers pinned their revision before they came here, so whatever they ask for is in the segments as they
        // are from now on, or was dropped by a compaction above that revision.
        let mut wanted = Vec::new();
        for (revs, start) in revs.chunks(LOOKUP_CHUNK).zip((base..).step_by(LOOKUP_CHUNK)) {
            self.look_up(revs, start, out, &mut wanted)?;
        }
        if !wanted.is_sorted_by_key(|(place, _)| place.rev) {
            wanted.sort_by_key(|(place, _)| place.rev);
        }
        let (places, at): (Vec<Place>, Vec<usize>) = wanted.into_iter().unzip();
        read_places(&places, wait, |i, record| out[at[i]] = record.slice(HEADER_LEN..))
    }

    fn weigh(&self, revs: &[Revision]) -> Result<u64, ReadError> {
        let mut weight = 0;
        for revs in revs.chunks(LOOKUP_CHUNK) {
            let (mut here, mut wanted) = (vec![Bytes::new(); revs.len()], Vec::new());
            self.look_up(revs, 0, &mut here, &mut wanted)?;
            weight += here.iter().map(|kv| kv.len() as u64).sum::<u64>();
            weight += wanted
                .iter()
                .map(|(place, _)| place.bytes.end - place.bytes.start)
                .sum::<u64>();
        }
        Ok(weight)
    }

    fn scan(
        &self,
        from: Revision,
        upto_main: i64,
        max_bytes: usize,
        out: &mut Vec<Change>,
    ) -> Result<Option<Revision>, ReadError> {
        let mut plan = Plan {
            next: from,
            upto_main,
            max_bytes: max_bytes as u64,
            bytes: 0,
            full: false,
            places: vec![],
        };
        let recent = self.plan_scan(&mut plan);
        read_places(&plan.places, Wait::Yes, |i, record| {
            out.push(plan.places[i].change(&record))
        })?;
        out.extend(recent);
        Ok(plan.full.then_some(plan.next))
    }
}

impl Store {
    /// Puts what is in memory into `out`, from `start` on; where the rest is and belongs goes to `wanted`.
    fn look_up(
        &self,
        revs: &[Revision],
        start: usize,
        out: &mut [Bytes],
        wanted: &mut Vec<(Place, usize)>,
    ) -> Result<(), ReadError> {
        let mut sealed_revs = Vec::new();
        let sealed = {
            let state = self.state.read();
            for (&rev, at) in revs.iter().zip(start..) {
                if let Some(change) = state.tail.find(rev) {
                    out[at] = change.kv.clone();
                } else if rev.main >= state.open.first {
                    wanted.push((state.open.find(rev)?, at));
                } else {
                    sealed_revs.push((rev, at));
                }
            }
            Arc::clone(&state.sealed)
        };
        // These need no lock: sealed segments do not change.
        for (rev, at) in sealed_revs {
            let segment = holder(&sealed, rev.main).ok_or(ReadError::Gone(rev))?;
            wanted.push((segment.find(rev)?, at));
        }
        Ok(())
    }

    /// Decides what a scan returns: `plan.places` from files, and after those what it returns from memory.
    fn plan_scan(&self, plan: &mut Plan) -> Vec<Change> {
        loop {
            let sealed = Arc::clone(&self.state.read().sealed);
            let start = sealed
                .partition_point(|segment| segment.first <= plan.next.main)
                .saturating_sub(1);
            for segment in &sealed[start..] {
                plan.take_segment(segment, None);
            }
            let state = self.state.read();
            if plan.full {
                return vec![];
            }
            if Arc::ptr_eq(&sealed, &state.sealed) {
                plan.take_segment(&state.open, state.tail.first());
                let from = plan.next;
                return state
                    .tail
                    .changes_from(from)
                    .take_while(|c| plan.take(c.rev, c.len().into()))
                    .cloned()
                    .collect();
            }
            // A segment was sealed or rewritten in between; go on behind what the old list held.
        }
    }
}

/// How far a scan has come.
struct Plan {
    next: Revision,
    upto_main: i64,
    max_bytes: u64,
    bytes: u64,
    full: bool,
    places: Vec<Place>,
}

impl Plan {
    /// Whether the scan returns this change, which is the next there is.
    fn take(&mut self, rev: Revision, len: u64) -> bool {
        if self.full || rev.main > self.upto_main {
            return false;
        }
        self.full = self.bytes > 0 && self.bytes + len > self.max_bytes;
        if self.full {
            self.next = rev;
            return false;
        }
        self.bytes += len;
        self.next = after(rev);
        true
    }

    fn take_segment(&mut self, segment: &Segment, before: Option<Revision>) {
        for i in segment.slots.seek(self.next)..segment.slots.len() {
            let rev = segment.slots.revision(i);
            if before.is_some_and(|before| rev >= before) || !self.take(rev, segment.slots.record_len(i)) {
                return;
            }
            self.places.push(segment.place(i));
        }
    }
}
