//! The machine against a model without an index, a batch or a plan: the whole store is a map, every
//! revision keeps its own copy, and a transaction runs on a copy that is thrown away when it fails.

mod common;

use std::collections::BTreeMap;

use common::*;
use machine::{Outcome, check};
use proptest::prelude::*;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use proto::mvccpb::KeyValue;
use types::{ErrorKind, KeyRange, LeaseId};

type Map = BTreeMap<Vec<u8>, KeyValue>;

#[derive(Clone)]
struct Model {
    now: Map,
    revision: i64,
    compacted: i64,
    past: BTreeMap<i64, Map>,
    leases: BTreeMap<i64, i64>,
}

impl Model {
    fn new() -> Self {
        Model {
            now: Map::new(),
            revision: 1,
            compacted: -1,
            past: BTreeMap::from([(1, Map::new())]),
            leases: BTreeMap::new(),
        }
    }

    /// Runs one request as one revision, or not at all.
    fn run<T>(&mut self, run: impl FnOnce(&mut Attempt<'_>) -> Result<T, ErrorKind>) -> Result<T, ErrorKind> {
        let before = self.clone();
        let mut attempt = Attempt {
            before: &before,
            now: before.now.clone(),
            changed: false,
        };
        let answer = run(&mut attempt)?;
        let Attempt { now, changed, .. } = attempt;
        if changed {
            self.revision += 1;
            self.past.insert(self.revision, now.clone());
            self.now = now;
        }
        Ok(answer)
    }

    fn compact(&mut self, revision: i64) -> Result<(), ErrorKind> {
        if revision <= self.compacted {
            return Err(ErrorKind::Compacted);
        }
        if revision > self.revision {
            return Err(ErrorKind::FutureRev);
        }
        self.compacted = revision;
        Ok(())
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Result<i64, ErrorKind> {
        if id == 0 {
            return Err(ErrorKind::LeaseNotFound);
        }
        if self.leases.contains_key(&id) {
            return Err(ErrorKind::LeaseExist);
        }
        self.leases.insert(id, ttl.max(2));
        Ok(ttl.max(2))
    }

    fn revoke(&mut self, id: i64) -> Result<(), ErrorKind> {
        self.leases.remove(&id).ok_or(ErrorKind::LeaseNotFound)?;
        self.run(|attempt| {
            let count = attempt.now.len();
            attempt.now.retain(|_, kv| kv.lease != id);
            attempt.changed = attempt.now.len() < count;
            Ok(())
        })
    }

    fn keys_of(&self, lease: i64) -> String {
        let keys = self
            .now
            .values()
            .filter(|kv| kv.lease == lease)
            .map(|kv| kv.key.escape_ascii().to_string());
        keys.collect::<Vec<_>>().join(" ")
    }
}

/// A request under way.
#[derive(Clone)]
struct Attempt<'a> {
    before: &'a Model,
    now: Map,
    changed: bool,
}

impl Attempt<'_> {
    fn revision(&self) -> i64 {
        self.before.revision + i64::from(self.changed)
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.revision(),
            ..Default::default()
        })
    }

    fn put(&mut self, request: &PutRequest, in_txn: bool) -> Result<PutResponse, ErrorKind> {
        let old = self.now.get(&request.key[..]).cloned();
        let lease_missing = request.lease != 0 && !self.before.leases.contains_key(&request.lease);
        let key_missing = (request.ignore_value || request.ignore_lease) && old.is_none();
        match (lease_missing, key_missing) {
            (true, true) if in_txn => return Err(ErrorKind::KeyNotFound),
            (true, _) => return Err(ErrorKind::LeaseNotFound),
            (_, true) => return Err(ErrorKind::KeyNotFound),
            _ => {}
        }
        self.changed = true;
        let kept = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: if old.is_some() {
                kept.create_revision
            } else {
                self.revision()
            },
            mod_revision: self.revision(),
            version: kept.version + 1,
            value: if request.ignore_value {
                kept.value
            } else {
                request.value.clone()
            },
            lease: if request.ignore_lease {
                kept.lease
            } else {
                request.lease
            },
        };
        self.now.insert(request.key.to_vec(), kv);
        Ok(PutResponse {
            header: self.header(),
            prev_kv: old.filter(|_| request.prev_kv),
        })
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
        let gone: Vec<KeyValue> = self
            .now
            .values()
            .filter(|kv| range.contains(&kv.key))
            .cloned()
            .collect();
        self.now.retain(|key, _| !range.contains(key));
        self.changed |= !gone.is_empty();
        DeleteRangeResponse {
            header: self.header(),
            deleted: gone.len() as i64,
            prev_kvs: if request.prev_kv { gone } else { vec![] },
        }
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, ErrorKind> {
        let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
        let map = match request.revision {
            revision if revision != 0 && revision < self.before.compacted => {
                return Err(ErrorKind::Compacted);
            }
            revision if revision > self.before.revision => return Err(ErrorKind::FutureRev),
            revision if revision > 0 => &self.before.past[&revision],
            _ => &self.now,
        };
        let mut kvs: Vec<KeyValue> = map
            .values()
            .filter(|kv| range.contains(&kv.key))
            .cloned()
            .collect();
        let count = kvs.len() as i64;
        let more = request.limit > 0 && count > request.limit && !request.count_only;
        if more {
            kvs.truncate(request.limit as usize);
        }
        for kv in kvs.iter_mut().filter(|_| request.keys_only) {
            (kv.value, kv.lease) = (Default::default(), 0);
        }
        if request.count_only {
            kvs.clear();
        }
        Ok(RangeResponse {
            header: self.header(),
            kvs,
            more,
            count,
        })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let range = KeyRange::from_wire(compare.key.clone(), compare.range_end.clone());
        let found: Vec<&KeyValue> = self
            .before
            .now
            .values()
            .filter(|kv| range.contains(&kv.key))
            .collect();
        let missing = KeyValue::default();
        if found.is_empty() {
            return compare.target != 3 && one_holds(compare, &missing);
        }
        found.iter().all(|kv| one_holds(compare, kv))
    }

    /// Whether the compares hold, and the branch they choose.
    fn branch<'r>(&self, request: &'r TxnRequest) -> (bool, &'r [RequestOp]) {
        match request.compare.iter().all(|compare| self.holds(compare)) {
            true => (true, &request.success),
            false => (false, &request.failure),
        }
    }

    /// Runs a transaction but for its ranges.
    fn writes(&mut self, request: &TxnRequest) -> Result<(), ErrorKind> {
        for op in self.branch(request).1 {
            match op.request.as_ref().unwrap() {
                Request::RequestRange(_) => {}
                Request::RequestPut(request) => drop(self.put(request, true)?),
                Request::RequestDeleteRange(request) => drop(self.delete(request)),
                Request::RequestTxn(request) => self.writes(request)?,
            }
        }
        Ok(())
    }

    fn txn(&mut self, request: &TxnRequest, outermost: bool) -> Result<TxnResponse, ErrorKind> {
        if outermost {
            // A trial: what is wrong with any put is said before what is wrong with any range.
            self.clone().writes(request)?;
        }
        let (succeeded, branch) = self.branch(request);
        let mut responses = vec![];
        for op in branch {
            let response = Some(match op.request.as_ref().unwrap() {
                Request::RequestRange(request) => Response::ResponseRange(self.range(request)?),
                Request::RequestPut(request) => Response::ResponsePut(self.put(request, true)?),
                Request::RequestDeleteRange(request) => Response::ResponseDeleteRange(self.delete(request)),
                Request::RequestTxn(request) => Response::ResponseTxn(self.txn(request, false)?),
            });
            responses.push(ResponseOp { response });
        }
        let header = if outermost {
            self.header()
        } else {
            Some(ResponseHeader::default())
        };
        Ok(TxnResponse {
            header,
            succeeded,
            responses,
        })
    }
}

fn one_holds(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match compare.target_union.as_ref().unwrap() {
        TargetUnion::Version(n) => kv.version.cmp(n),
        TargetUnion::CreateRevision(n) => kv.create_revision.cmp(n),
        TargetUnion::ModRevision(n) => kv.mod_revision.cmp(n),
        TargetUnion::Value(value) => kv.value.cmp(value),
        TargetUnion::Lease(n) => kv.lease.cmp(n),
    };
    match compare.result {
        0 => ordering.is_eq(),
        1 => ordering.is_gt(),
        2 => ordering.is_lt(),
        _ => ordering.is_ne(),
    }
}

/// What a client may ask for.
#[derive(Clone, Debug)]
enum Ask {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact { back: i64 },
    Grant { id: i64, ttl: i64 },
    Revoke { id: i64 },
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "aa", "b", "c", "d"]).prop_map(String::from)
}

fn range_end() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 4 => key(), 1 => Just("\0".to_string())]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0), 3 => 1..4i64]
}

fn put_request() -> impl Strategy<Value = PutRequest> {
    let flags = (
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    );
    (key(), 0..3u8, lease(), flags).prop_map(|(key, value, lease, (prev_kv, ignore_value, ignore_lease))| {
        let value = if ignore_value {
            String::new()
        } else {
            value.to_string()
        };
        let lease = if ignore_lease { 0 } else { lease };
        PutRequest {
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
            ..put(&key, &value)
        }
    })
}

fn delete_request() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, end, prev_kv)| DeleteRangeRequest {
        prev_kv,
        ..del(&key, &end)
    })
}

fn range_request() -> impl Strategy<Value = RangeRequest> {
    let revision = prop_oneof![4 => Just(0), 1 => -2..12i64];
    (
        key(),
        range_end(),
        revision,
        0..3i64,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(key, end, revision, limit, keys_only, count_only)| RangeRequest {
                revision,
                limit,
                keys_only,
                count_only,
                ..get(&key, &end)
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        (0..3i64).prop_map(TargetUnion::Version),
        (0..9i64).prop_map(TargetUnion::CreateRevision),
        (0..9i64).prop_map(TargetUnion::ModRevision),
        (0..3u8).prop_map(|n| TargetUnion::Value(bytes(&n.to_string()))),
        (0..3i64).prop_map(TargetUnion::Lease),
    ];
    (key(), range_end(), 0..4i32, operand).prop_map(|(key, end, result, operand)| Compare {
        key: bytes(&key),
        range_end: bytes(&end),
        result,
        target: match operand {
            TargetUnion::Version(_) => 0,
            TargetUnion::CreateRevision(_) => 1,
            TargetUnion::ModRevision(_) => 2,
            TargetUnion::Value(_) => 3,
            TargetUnion::Lease(_) => 4,
        },
        target_union: Some(operand),
    })
}

fn txn_of(op: impl Strategy<Value = RequestOp> + Clone) -> impl Strategy<Value = TxnRequest> {
    let branch = move || prop::collection::vec(op.clone(), 0..4);
    (prop::collection::vec(compare(), 0..2), branch(), branch()).prop_map(|(compare, success, failure)| {
        TxnRequest {
            compare,
            success,
            failure,
        }
    })
}

fn txn_request() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        put_request().prop_map(op),
        range_request().prop_map(op),
        delete_request().prop_map(op)
    ];
    let nested = leaf.clone().prop_recursive(2, 12, 4, |inner| {
        let inner = inner.boxed();
        prop_oneof![2 => inner.clone(), 1 => txn_of(inner).prop_map(op)]
    });
    txn_of(nested.boxed()).prop_filter("refused at the edge", |request| check::txn(request, 128).is_ok())
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        4 => put_request().prop_map(Ask::Put),
        2 => delete_request().prop_map(Ask::Delete),
        6 => txn_request().prop_map(Ask::Txn),
        1 => (-1..6i64).prop_map(|back| Ask::Compact { back }),
        2 => (0..4i64, 0..9i64).prop_map(|(id, ttl)| Ask::Grant { id, ttl }),
        1 => (0..4i64).prop_map(|id| Ask::Revoke { id }),
    ]
}

fn done(answer: Answer) -> Result<(), ErrorKind> {
    answer.map(|outcome| assert_eq!(outcome, Outcome::Done))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn answers_and_state_are_those_of_the_model(asks in prop::collection::vec(ask(), 1..40)) {
        let (mut replica, mut model) = (Replica::new(), Model::new());
        for ask in asks {
            match ask {
                Ask::Put(request) => {
                    let expected = model.run(|attempt| attempt.put(&request, false));
                    prop_assert_eq!(replica.put(request), expected);
                }
                Ask::Delete(request) => {
                    let expected = model.run(|attempt| Ok(attempt.delete(&request)));
                    prop_assert_eq!(replica.delete(request), expected);
                }
                Ask::Txn(request) => {
                    let expected = model.run(|attempt| attempt.txn(&request, true));
                    if check::is_read_only(&request) {
                        let read = machine::read::txn(&replica.mvcc, &request, mvcc::Wait::No);
                        let read = read.map(|answer| decoded(&answer)).map_err(|error| error.kind().unwrap());
                        prop_assert_eq!(read, expected.clone());
                    }
                    prop_assert_eq!(replica.txn(request), expected);
                }
                Ask::Compact { back } => {
                    let revision = model.revision - back;
                    prop_assert_eq!(replica.compact(revision).map(drop), model.compact(revision));
                }
                Ask::Grant { id, ttl } => prop_assert_eq!(replica.grant(id, ttl), model.grant(id, ttl)),
                Ask::Revoke { id } => prop_assert_eq!(done(replica.revoke(id)), model.revoke(id)),
            }
            prop_assert_eq!(replica.head.revision(), model.revision);
            let stored = read_all(&replica);
            prop_assert!(stored.iter().eq(model.now.values()));
            let leases: BTreeMap<i64, i64> =
                replica.lessor.iter().map(|lease| (lease.id.0, lease.ttl_secs)).collect();
            prop_assert_eq!(&leases, &model.leases);
            for id in leases.keys() {
                prop_assert_eq!(replica.lease_keys(*id), model.keys_of(*id));
                prop_assert!(replica.lessor.get(LeaseId(*id)).is_some());
            }
        }
        let (machine, lessor) = replica.restored();
        prop_assert_eq!(&machine, &replica.machine);
        prop_assert_eq!(Replica::lease_facts(&lessor), Replica::lease_facts(&replica.lessor));
    }
}

fn read_all(replica: &Replica) -> Vec<KeyValue> {
    let answer = machine::read::range(&replica.mvcc, &get("\0", "\0"), mvcc::Wait::No).unwrap();
    decoded::<RangeResponse>(&answer).kvs
}

/// The generator reaches what the test is about.
#[test]
fn random_requests_succeed_and_fail_in_every_way() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::new();
    for _ in 0..50 {
        let mut replica = Replica::new();
        let asks = prop::collection::vec(ask(), 40)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        for ask in asks {
            let answer = match ask {
                Ask::Put(put) => replica.request(InternalRaftRequest {
                    put: Some(put),
                    ..Default::default()
                }),
                Ask::Txn(txn) => replica.request(InternalRaftRequest {
                    txn: Some(txn),
                    ..Default::default()
                }),
                Ask::Grant { id, ttl } => replica.grant(id, ttl).map(|_| Outcome::Done),
                Ask::Delete(request) => replica.delete(request).map(|_| Outcome::Done),
                Ask::Compact { back } => replica
                    .compact(replica.head.revision() - back)
                    .map(|_| Outcome::Done),
                Ask::Revoke { id } => replica.revoke(id),
            };
            let name = match &answer {
                Ok(Outcome::Txn(answer)) => format!("txn {}", answer.succeeded),
                Ok(_) => "ok".to_string(),
                Err(kind) => format!("{kind:?}"),
            };
            *seen.entry(name).or_insert(0) += 1;
        }
    }
    let expected = [
        "Compacted",
        "FutureRev",
        "KeyNotFound",
        "LeaseExist",
        "LeaseNotFound",
        "ok",
        "txn false",
        "txn true",
    ];
    for name in expected {
        assert!(
            seen.get(name).is_some_and(|count| *count >= 10),
            "{name} in {seen:?}"
        );
    }
}
