//! Compares: the conditions of a transaction.
//!
//! A compare looks at one key, or at every key of a range, and must hold for each. A missing key, like
//! an empty range, is compared as one key with everything 0; only a compare of values never holds
//! for it, since an absent value cannot be told from an empty one.

use std::cmp::Ordering;

use mvcc::{KvFields, KvRef, RangeError, RangeOptions, ReadError};
use proto::etcdserverpb::Compare;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use types::KeyRange;

use crate::state::State;

/// Whether all compares hold in `state`.
pub(crate) fn all_hold(state: &impl State, compares: &[Compare]) -> Result<bool, RangeError> {
    for compare in compares {
        if !holds(state, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(state: &impl State, compare: &Compare) -> Result<bool, RangeError> {
    let range = KeyRange::from_wire(compare.key.clone(), compare.range_end.clone());
    // The index knows the revisions; only values and leases have to be read.
    let keys_only = !matches!(target(compare), Some(CompareTarget::Value | CompareTarget::Lease));
    if let (KeyRange::One(key), true) = (&range, keys_only) {
        let kv = state.get(key)?.map_or_else(KvFields::default, |meta| KvFields {
            create_rev: meta.create_rev,
            mod_rev: meta.mod_rev.main,
            version: meta.version,
            ..KvFields::default()
        });
        return Ok(holds_for(compare, &kv));
    }
    let found = state.range(&RangeOptions {
        keys_only,
        ..RangeOptions::new(range)
    })?;
    if found.kvs.is_empty() {
        return Ok(target(compare) != Some(CompareTarget::Value) && holds_for(compare, &KvFields::default()));
    }
    for kv in &found.kvs {
        let kv = KvRef::parse(kv).map_err(|error| ReadError::Damaged(error.to_string()))?;
        if !holds_for(compare, &kv) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An unknown target compares as equal, and an unknown result always holds.
fn holds_for(compare: &Compare, kv: &KvFields<'_>) -> bool {
    let ordering = match target(compare) {
        Some(CompareTarget::Version) => kv.version.cmp(&number(compare)),
        Some(CompareTarget::Create) => kv.create_rev.cmp(&number(compare)),
        Some(CompareTarget::Mod) => kv.mod_rev.cmp(&number(compare)),
        Some(CompareTarget::Lease) => kv.lease.cmp(&number(compare)),
        Some(CompareTarget::Value) => kv.value.cmp(value(compare)),
        None => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

fn target(compare: &Compare) -> Option<CompareTarget> {
    CompareTarget::try_from(compare.target).ok()
}

/// What a number is compared with; 0 if there is no operand or one for another target.
fn number(compare: &Compare) -> i64 {
    match (target(compare), &compare.target_union) {
        (Some(CompareTarget::Version), Some(TargetUnion::Version(number)))
        | (Some(CompareTarget::Create), Some(TargetUnion::CreateRevision(number)))
        | (Some(CompareTarget::Mod), Some(TargetUnion::ModRevision(number)))
        | (Some(CompareTarget::Lease), Some(TargetUnion::Lease(number))) => *number,
        _ => 0,
    }
}

/// What a value is compared with; nothing if there is no operand or one for another target.
fn value(compare: &Compare) -> &[u8] {
    match &compare.target_union {
        Some(TargetUnion::Value(value)) => value,
        _ => b"",
    }
}
