//! What clients saw, held against the history of their cluster or server.
//!
//! etcd orders all writes by their revision, so the check needs no search. The history is what watchers saw, a
//! [`Change`] for every revision. Then
//!
//! * every acknowledged write is in the history, at the revision of its answer, whole, and once; of those without an
//!   answer each is there once or not at all; and nothing else is there;
//! * what a read has seen is exactly the state after the revision it names; a guarded write was done if its guard
//!   was right just before it, and refused if it was wrong;
//! * an operation that began after another one had ended comes later in the order: a write at a greater revision,
//!   a read at no smaller one. This makes the order one of real time: no stale read, and no revision that goes back.
//!
//! Together that is strict serializability, with the revision as the witness. Every write puts a value that is
//! written only once, by which it can be told.

use std::collections::{BTreeMap, HashMap};

/// What a revision does to keys: the new value of each, or none for a delete.
pub type Change = BTreeMap<String, Option<String>>;

/// Keys with their values and mod revisions.
pub type Keys = BTreeMap<String, (String, i64)>;

/// A call of a client, in times of one clock.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Before it was sent.
    pub begin: u64,
    /// After its answer had come; what never came has no end.
    pub end: u64,
    /// What was asked.
    pub call: Call,
    /// What was answered.
    pub outcome: Outcome,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A transaction, if its guard allows; else it reads all keys.
    Write {
        /// The puts and deletes; a delete of what is not there does nothing.
        change: Change,
        /// A key with the mod revision it must have, 0 if it must not be there.
        guard: Option<(String, i64)>,
    },
    /// A linearizable read of all keys.
    Read,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// None came, or one that leaves open what happened.
    Unknown,
    /// The write was done with that revision.
    Written(i64),
    /// All keys as they were at that revision: the answer of a read, and of a write that was refused.
    Seen(i64, Keys),
}

/// No end.
pub const NEVER: u64 = u64::MAX;

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged writes.
    pub written: usize,
    /// Guarded writes that were refused.
    pub refused: usize,
    /// Reads.
    pub read: usize,
    /// Operations without an answer.
    pub unknown: usize,
}

/// Checks operations on a cluster, or a server alone, that had these keys in the beginning. `history` holds the clients'
/// keys only.
pub fn check(
    before: &Keys,
    operations: &[Operation],
    history: &BTreeMap<i64, Change>,
) -> Result<Counts, String> {
    let places = places(before, operations, history)?;
    real_time(operations, &places)?;
    let mut counts = Counts::default();
    for operation in operations {
        *match (&operation.call, &operation.outcome) {
            (_, Outcome::Written(_)) => &mut counts.written,
            (_, Outcome::Unknown) => &mut counts.unknown,
            (Call::Read, Outcome::Seen(..)) => &mut counts.read,
            (Call::Write { .. }, Outcome::Seen(..)) => &mut counts.refused,
        } += 1;
    }
    Ok(counts)
}

/// Goes through the history and finds each operation's place in it. An operation without an answer that did nothing
/// has none.
fn places(
    before: &Keys,
    operations: &[Operation],
    history: &BTreeMap<i64, Change>,
) -> Result<Vec<Option<i64>>, String> {
    let mut places = vec![None; operations.len()];
    let (mut writes, mut sights) = (HashMap::new(), Vec::new());
    for (number, operation) in operations.iter().enumerate() {
        if let Call::Write { change, .. } = &operation.call {
            writes.extend(change.values().flatten().map(|value| (value, number)));
        }
        if let Outcome::Seen(revision, keys) = &operation.outcome {
            places[number] = Some(*revision);
            sights.push((*revision, number, keys));
        }
    }
    sights.sort_by_key(|(revision, ..)| *revision);
    let mut sights = sights.into_iter().peekable();
    let mut keys = before.clone();
    for (&revision, change) in history {
        while let Some((_, number, seen)) = sights.next_if(|(at, ..)| *at < revision) {
            seen_rightly(&operations[number], seen, &keys)?;
        }
        let write = change.values().flatten().find_map(|value| writes.get(value));
        let &number = write.ok_or_else(|| format!("nobody wrote revision {revision}: {change:?}"))?;
        done_rightly(&operations[number], revision, change, &keys)?;
        if let Some(before) = places[number].replace(revision) {
            return Err(format!(
                "done at revision {before} and again at {revision}: {:?}",
                operations[number]
            ));
        }
        for (key, value) in change {
            match value {
                Some(value) => keys.insert(key.clone(), (value.clone(), revision)),
                None => keys.remove(key),
            };
        }
    }
    for (_, number, seen) in sights {
        seen_rightly(&operations[number], seen, &keys)?;
    }
    let lost = |(operation, place): &(&Operation, &Option<i64>)| {
        matches!(operation.outcome, Outcome::Written(_)) && place.is_none()
    };
    match operations.iter().zip(&places).find(lost) {
        Some((operation, _)) => Err(format!("acknowledged and lost: {operation:?}")),
        None => Ok(places),
    }
}

/// A write that the history has at `revision`, where `keys` were before.
fn done_rightly(operation: &Operation, revision: i64, done: &Change, keys: &Keys) -> Result<(), String> {
    let wrong = |what: &str| {
        Err(format!(
            "{what}: the history has {done:?} at revision {revision}, after {keys:?}, from {operation:?}"
        ))
    };
    let Call::Write { change, guard } = &operation.call else {
        return wrong("a read has written");
    };
    let effect = change
        .iter()
        .filter(|(key, value)| value.is_some() || keys.contains_key(*key));
    if !effect.eq(done) {
        return wrong("a write is not whole");
    }
    if guard.as_ref().is_some_and(|guard| !holds(guard, keys)) {
        return wrong("a write was done against its guard");
    }
    match operation.outcome {
        Outcome::Written(answered) if answered != revision => {
            wrong("a write has another revision than its answer")
        }
        Outcome::Seen(..) => wrong("a refused write was done"),
        _ => Ok(()),
    }
}

/// What an operation has seen where the keys were `keys`.
fn seen_rightly(operation: &Operation, seen: &Keys, keys: &Keys) -> Result<(), String> {
    if seen != keys {
        return Err(format!("the keys were {keys:?}, seen was {operation:?}"));
    }
    match &operation.call {
        Call::Write {
            guard: Some(guard), ..
        } if !holds(guard, keys) => Ok(()),
        Call::Write { .. } => Err(format!("refused although nothing was in its way: {operation:?}")),
        Call::Read => Ok(()),
    }
}

fn holds((key, revision): &(String, i64), keys: &Keys) -> bool {
    keys.get(key).map_or(0, |(_, revision)| *revision) == *revision
}

/// Whoever began after another had ended is not before it; a write, which has a revision of its own, is behind it.
fn real_time(operations: &[Operation], places: &[Option<i64>]) -> Result<(), String> {
    let placed = || {
        let operations = operations.iter().zip(places);
        operations.filter_map(|(operation, place)| Some((operation, (*place)?)))
    };
    let (mut begins, mut ends): (Vec<_>, Vec<_>) = (placed().collect(), placed().collect());
    begins.sort_by_key(|(operation, _)| operation.begin);
    ends.sort_by_key(|(operation, _)| operation.end);
    let mut ends = ends.into_iter().peekable();
    let mut latest: Option<(&Operation, i64)> = None;
    for (operation, place) in begins {
        while let Some(ended) = ends.next_if(|(ended, _)| ended.end < operation.begin) {
            latest = latest.into_iter().chain([ended]).max_by_key(|(_, place)| *place);
        }
        let writes = !matches!(operation.outcome, Outcome::Seen(..));
        if let Some((before, bound)) = latest.filter(|(_, bound)| place < *bound + i64::from(writes)) {
            return Err(format!(
                "{operation:?} is at {place}, but it began after this one at {bound} had ended: {before:?}"
            ));
        }
    }
    Ok(())
}

/// Histories in short, for tests.
#[cfg(test)]
pub(crate) mod short {
    use super::*;

    pub fn change(pairs: &[(&str, Option<&str>)]) -> Change {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)))
            .collect()
    }

    pub fn keys(triples: &[(&str, &str, i64)]) -> Keys {
        triples
            .iter()
            .map(|(key, value, revision)| ((*key).to_owned(), ((*value).to_owned(), *revision)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::short::{change, keys};
    use super::*;

    fn operation(begin: u64, end: u64, call: Call, outcome: Outcome) -> Operation {
        Operation {
            begin,
            end,
            call,
            outcome,
        }
    }

    fn write(pairs: &[(&str, Option<&str>)], guard: Option<(&str, i64)>) -> Call {
        let guard = guard.map(|(key, revision)| (key.to_owned(), revision));
        Call::Write {
            change: change(pairs),
            guard,
        }
    }

    /// A put, a put with a delete that nobody answered, a read, a refused write, and one that vanished.
    fn good() -> (Vec<Operation>, BTreeMap<i64, Change>) {
        let now = || keys(&[("b", "2", 7)]);
        let operations = vec![
            operation(0, 2, write(&[("a", Some("1"))], None), Outcome::Written(5)),
            operation(
                1,
                NEVER,
                write(&[("a", None), ("b", Some("2")), ("c", None)], Some(("a", 5))),
                Outcome::Unknown,
            ),
            operation(3, 4, Call::Read, Outcome::Seen(6, keys(&[("a", "1", 5)]))),
            operation(
                5,
                6,
                write(&[("a", Some("3"))], Some(("a", 5))),
                Outcome::Seen(8, now()),
            ),
            operation(5, NEVER, write(&[("a", Some("4"))], None), Outcome::Unknown),
            operation(7, 8, Call::Read, Outcome::Seen(8, now())),
        ];
        let history = [
            (5, change(&[("a", Some("1"))])),
            (7, change(&[("a", None), ("b", Some("2"))])),
        ];
        (operations, history.into())
    }

    /// What the check says once something is wrong.
    fn complaint(spoil: impl FnOnce(&mut Vec<Operation>, &mut BTreeMap<i64, Change>)) -> String {
        let (mut operations, mut history) = good();
        spoil(&mut operations, &mut history);
        check(&Keys::new(), &operations, &history).unwrap_err()
    }

    #[test]
    fn a_history_in_order_is_right() {
        let (operations, history) = good();
        let counts = Counts {
            written: 1,
            refused: 1,
            read: 2,
            unknown: 2,
        };
        assert_eq!(check(&Keys::new(), &operations, &history), Ok(counts));
    }

    #[test]
    fn a_lost_write_is_noticed() {
        let (mut operations, _) = good();
        operations.truncate(1);
        let error = check(&Keys::new(), &operations, &BTreeMap::new()).unwrap_err();
        assert!(error.contains("acknowledged and lost"), "{error}");
    }

    #[test]
    fn a_write_done_twice_halfway_or_by_nobody_is_noticed() {
        let twice = complaint(|_, history| drop(history.insert(9, change(&[("a", Some("1"))]))));
        assert!(twice.contains("another revision"), "{twice}");
        let twice = complaint(|_, history| {
            history.insert(9, change(&[("a", Some("4"))]));
            history.insert(10, change(&[("a", Some("4"))]));
        });
        assert!(twice.contains("again at 10"), "{twice}");
        let half = complaint(|_, history| drop(history.insert(7, change(&[("b", Some("2"))]))));
        assert!(half.contains("not whole"), "{half}");
        let strange = complaint(|_, history| drop(history.insert(9, change(&[("a", Some("9"))]))));
        assert!(strange.contains("nobody wrote"), "{strange}");
    }

    #[test]
    fn a_guard_that_was_not_looked_at_is_noticed() {
        let against = complaint(|operations, _| {
            operations[1].call = write(&[("a", None), ("b", Some("2"))], Some(("a", 4)));
        });
        assert!(against.contains("against its guard"), "{against}");
        let needless = complaint(|operations, _| {
            operations[3].call = write(&[("a", Some("3"))], Some(("a", 0)));
        });
        assert!(needless.contains("nothing was in its way"), "{needless}");
        let both = complaint(|_, history| drop(history.insert(9, change(&[("a", Some("3"))]))));
        assert!(both.contains("against its guard"), "{both}");
    }

    #[test]
    fn a_read_of_what_never_was_is_noticed() {
        let wrong = complaint(|operations, _| operations[2].outcome = Outcome::Seen(6, Keys::new()));
        assert!(wrong.contains("seen was"), "{wrong}");
    }

    #[test]
    fn a_stale_read_is_noticed() {
        let stale = complaint(|operations, _| {
            operations[5].outcome = Outcome::Seen(6, keys(&[("a", "1", 5)]));
        });
        assert!(stale.contains("had ended"), "{stale}");
    }

    #[test]
    fn a_write_before_one_that_had_ended_is_noticed() {
        let early = complaint(|operations, history| {
            operations.push(operation(
                20,
                21,
                write(&[("c", Some("5"))], None),
                Outcome::Written(6),
            ));
            history.insert(6, change(&[("c", Some("5"))]));
            history.insert(7, change(&[("a", None), ("b", Some("2")), ("c", None)]));
            for operation in operations {
                if let Outcome::Seen(6, keys) = &mut operation.outcome {
                    keys.insert("c".into(), ("5".into(), 6));
                }
            }
        });
        assert!(early.contains("had ended"), "{early}");
    }
}
