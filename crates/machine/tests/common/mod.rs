//! One replica with everything in memory, and short ways to write requests.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lease::Lessor;
use machine::{Applied, Config, Effect, Fatal, Machine, Outcome};
use mvcc::{Change, Head, KeyIndex, KvRef, MemoryValues, Mvcc, RangeOptions, Table, Values, Wait};
use parking_lot::Mutex;
use prost::Message;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use proto::raftpb;
use types::{ErrorKind, KeyRange, LeaseId, Revision};

pub const CONFIG: Config = Config { learners_max: 1 };
pub const LESSOR: lease::Config = lease::Config {
    min_ttl_secs: 2,
    revoke_retry_ms: 7000,
};

pub type Answer = Result<Outcome, ErrorKind>;

pub struct Replica {
    pub mvcc: Arc<Mvcc>,
    values: Arc<MemoryValues>,
    pub head: Head,
    pub lessor: Lessor,
    pub machine: Machine,
    pub tables: BTreeMap<(Table, Bytes), Bytes>,
    pub applied: u64,
    pub now_ms: u64,
}

impl Replica {
    pub fn new() -> Self {
        let values = Arc::new(MemoryValues::default());
        let mvcc = Mvcc::new(KeyIndex::new(), values.clone(), Revision::FIRST, -1);
        Replica {
            head: Head::new(mvcc.clone()),
            mvcc,
            values,
            lessor: Lessor::new(LESSOR),
            machine: Machine::new(CONFIG),
            tables: BTreeMap::new(),
            applied: 0,
            now_ms: 0,
        }
    }

    /// Applies an entry; nothing of it is published yet.
    pub fn apply_entry(&mut self, entry: &raftpb::Entry) -> Result<Applied, Fatal> {
        let lessor = Mutex::new(std::mem::replace(&mut self.lessor, Lessor::new(LESSOR)));
        let applied = self.machine.apply(&mut self.head, &lessor, entry, self.now_ms);
        self.lessor = lessor.into_inner();
        let applied = applied?;
        self.applied = entry.index;
        assert_eq!(applied.revision, self.head.revision());
        Ok(applied)
    }

    /// Ends the batch and shows it to readers.
    pub fn publish(&mut self) {
        let sealed = self.head.seal(self.applied, 1, None);
        for change in &sealed.tables {
            let row = (change.table, change.key.clone());
            match &change.value {
                Some(value) => drop(self.tables.insert(row, value.clone())),
                None => drop(self.tables.remove(&row)),
            }
        }
        self.values.append(&sealed);
        self.mvcc
            .publish(sealed.commit.revision, sealed.commit.compact_revision);
        self.lessor.check().unwrap();
    }

    pub fn propose(&mut self, request: InternalRaftRequest) -> Applied {
        let applied = self.apply_entry(&entry(self.applied + 1, &request)).unwrap();
        self.publish();
        applied
    }

    pub fn request(&mut self, request: InternalRaftRequest) -> Answer {
        self.propose(request).outcome
    }

    pub fn put(&mut self, request: PutRequest) -> Result<proto::etcdserverpb::PutResponse, ErrorKind> {
        match self.request(InternalRaftRequest {
            put: Some(request),
            ..Default::default()
        })? {
            Outcome::Put(answer) => Ok(decoded(&answer)),
            other => panic!("{other:?}"),
        }
    }

    pub fn delete(
        &mut self,
        request: DeleteRangeRequest,
    ) -> Result<proto::etcdserverpb::DeleteRangeResponse, ErrorKind> {
        match self.request(InternalRaftRequest {
            delete_range: Some(request),
            ..Default::default()
        })? {
            Outcome::DeleteRange(answer) => Ok(decoded(&answer)),
            other => panic!("{other:?}"),
        }
    }

    pub fn txn(&mut self, request: TxnRequest) -> Result<proto::etcdserverpb::TxnResponse, ErrorKind> {
        match self.request(InternalRaftRequest {
            txn: Some(request),
            ..Default::default()
        })? {
            Outcome::Txn(answer) => Ok(decoded(&answer)),
            other => panic!("{other:?}"),
        }
    }

    pub fn compact(&mut self, revision: i64) -> Result<Effect, ErrorKind> {
        let compaction = Some(CompactionRequest {
            revision,
            physical: false,
        });
        let applied = self.propose(InternalRaftRequest {
            compaction,
            ..Default::default()
        });
        applied.outcome.map(|_| applied.effect)
    }

    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<i64, ErrorKind> {
        let lease_grant = Some(LeaseGrantRequest { id, ttl });
        match self.request(InternalRaftRequest {
            lease_grant,
            ..Default::default()
        })? {
            Outcome::LeaseGrant(lease) => Ok(lease.ttl_secs),
            other => panic!("{other:?}"),
        }
    }

    pub fn revoke(&mut self, id: i64) -> Answer {
        let lease_revoke = Some(LeaseRevokeRequest { id });
        self.request(InternalRaftRequest {
            lease_revoke,
            ..Default::default()
        })
    }

    /// The current `key=value` pairs.
    pub fn dump(&self) -> String {
        let all = RangeOptions::new(KeyRange::All);
        let found = self.mvcc.view().range(&all, Wait::Yes).unwrap();
        let pair = |kv: &Bytes| {
            let kv = KvRef::parse(kv).unwrap();
            format!("{}={}", kv.key().escape_ascii(), kv.value().escape_ascii())
        };
        found.kvs.iter().map(pair).collect::<Vec<_>>().join(" ")
    }

    /// Every change the store still holds.
    pub fn history(&self) -> Vec<Change> {
        let mut changes = vec![];
        self.values
            .scan(Revision::new(0, 0), i64::MAX, usize::MAX, &mut changes)
            .unwrap();
        changes
    }

    /// Drops from the store what the index gave up.
    pub fn forget(&self, dropped: &[Revision]) {
        self.values.forget(dropped);
    }

    pub fn lease_keys(&self, id: i64) -> String {
        let keys = self
            .lessor
            .keys(LeaseId(id))
            .map(|key| key.escape_ascii().to_string());
        keys.collect::<Vec<_>>().join(" ")
    }

    pub fn table(&self, table: Table) -> Vec<(Bytes, Bytes)> {
        let rows = self.tables.iter().filter(|((of, _), _)| *of == table);
        rows.map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }

    /// What a member would hold after reading back what this one has stored: machine and lessor.
    pub fn restored(&self) -> (Machine, Lessor) {
        let mut lessor = Lessor::new(LESSOR);
        let rows = self
            .tables
            .iter()
            .map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let machine = Machine::restore(CONFIG, &mut lessor, rows).unwrap();
        let all = self
            .mvcc
            .view()
            .range(&RangeOptions::new(KeyRange::All), Wait::Yes)
            .unwrap();
        for kv in &all.kvs {
            let kv = KvRef::parse(kv).unwrap();
            machine::attach(&mut lessor, kv.key(), LeaseId(kv.lease));
        }
        (machine, lessor)
    }

    /// The leases and their keys.
    pub fn lease_facts(lessor: &Lessor) -> Vec<(lease::Lease, Vec<lease::AttachedKey>)> {
        lessor
            .iter()
            .map(|lease| (lease, lessor.keys(lease.id).cloned().collect()))
            .collect()
    }
}

/// An answer as a client reads it.
pub fn decoded<T: Message + Default>(raw: &impl Message) -> T {
    T::decode(&raw.encode_to_vec()[..]).unwrap()
}

pub fn entry(index: u64, request: &InternalRaftRequest) -> raftpb::Entry {
    normal(index, Bytes::from(request.encode_to_vec()))
}

pub fn normal(index: u64, data: Bytes) -> raftpb::Entry {
    raftpb::Entry {
        term: 1,
        index,
        r#type: 0,
        data: Some(data),
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

pub fn put_with_lease(key: &str, lease: i64) -> PutRequest {
    PutRequest {
        lease,
        ..put(key, "")
    }
}

pub fn del(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        ..Default::default()
    }
}

pub fn get(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        ..Default::default()
    }
}

pub fn op(op: impl Into<Op>) -> RequestOp {
    RequestOp {
        request: Some(op.into().0),
    }
}

/// Lets every kind of operation be written as `op(...)`.
pub struct Op(request_op::Request);

macro_rules! op_from {
    ($($request:ident => $variant:ident),*) => {$(
        impl From<$request> for Op {
            fn from(request: $request) -> Self {
                Op(request_op::Request::$variant(request))
            }
        }
    )*};
}

op_from!(
    PutRequest => RequestPut, RangeRequest => RequestRange,
    DeleteRangeRequest => RequestDeleteRange, TxnRequest => RequestTxn
);

/// A transaction without compares: all of it runs.
pub fn all(success: impl Into<Vec<RequestOp>>) -> TxnRequest {
    TxnRequest {
        success: success.into(),
        ..Default::default()
    }
}

/// Puts one thing or another.
pub fn when(compare: Compare, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare: vec![compare],
        success,
        failure,
    }
}
