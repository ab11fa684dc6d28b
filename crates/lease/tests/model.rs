//! The lessor against a model that keeps one flat list and scans it for every question.

use lease::{Config, Lessor, RenewError, TTL_SECS_MAX};
use proptest::prelude::*;
use types::{ErrorKind, LeaseId};

const MIN_TTL_SECS: i64 = 2;
const RETRY_MS: u64 = 7000;
const EXTEND_MS: u64 = 1000;

#[derive(Clone, Debug)]
enum Op {
    Grant { id: i64, ttl_secs: i64 },
    Revoke { id: i64 },
    Attach { key: u8, id: i64 },
    Detach { key: u8 },
    Checkpoint { id: i64, remaining_secs: i64 },
    Renew { id: i64 },
    Expired { max: usize },
    Promote,
    Demote,
    Wait { ms: u64 },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let id = || -2..4i64;
    let ttl = || prop_oneof![-3..20i64, Just(TTL_SECS_MAX), Just(TTL_SECS_MAX + 1)];
    prop_oneof![
        3 => (id(), ttl()).prop_map(|(id, ttl_secs)| Op::Grant { id, ttl_secs }),
        1 => id().prop_map(|id| Op::Revoke { id }),
        3 => (0..6u8, id()).prop_map(|(key, id)| Op::Attach { key, id }),
        1 => (0..6u8).prop_map(|key| Op::Detach { key }),
        1 => (id(), -1..20i64).prop_map(|(id, remaining_secs)| Op::Checkpoint { id, remaining_secs }),
        3 => id().prop_map(|id| Op::Renew { id }),
        2 => (0..4usize).prop_map(|max| Op::Expired { max }),
        1 => Just(Op::Promote),
        1 => Just(Op::Demote),
        3 => (0..6000u64).prop_map(|ms| Op::Wait { ms }),
        1 => Just(Op::Restart),
    ]
}

#[derive(Clone, Debug)]
struct Row {
    id: i64,
    ttl_secs: i64,
    remaining_secs: i64,
    keys: Vec<u8>,
    deadline_ms: u64,
    due_ms: u64,
}

#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    primary: bool,
    now_ms: u64,
}

impl Model {
    fn row(&mut self, id: i64) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.id == id)
    }

    fn start(&mut self, id: i64, secs: i64, extend_ms: u64) {
        let at = self.now_ms + secs as u64 * 1000 + extend_ms;
        let row = self.row(id).unwrap();
        (row.deadline_ms, row.due_ms) = (at, at);
    }

    fn grant(&mut self, id: i64, ttl_secs: i64) -> Result<i64, ErrorKind> {
        if id == 0 {
            return Err(ErrorKind::LeaseNotFound);
        }
        if ttl_secs > TTL_SECS_MAX {
            return Err(ErrorKind::LeaseTTLTooLarge);
        }
        if self.row(id).is_some() {
            return Err(ErrorKind::LeaseExist);
        }
        let ttl_secs = ttl_secs.max(MIN_TTL_SECS);
        self.rows.push(Row {
            id,
            ttl_secs,
            remaining_secs: 0,
            keys: vec![],
            deadline_ms: 0,
            due_ms: 0,
        });
        self.start(id, ttl_secs, 0);
        Ok(ttl_secs)
    }

    fn revoke(&mut self, id: i64) -> Result<Vec<u8>, ErrorKind> {
        let at = self
            .rows
            .iter()
            .position(|row| row.id == id)
            .ok_or(ErrorKind::LeaseNotFound)?;
        let mut keys = self.rows.remove(at).keys;
        keys.sort();
        Ok(keys)
    }

    fn detach(&mut self, key: u8) {
        for row in &mut self.rows {
            row.keys.retain(|k| *k != key);
        }
    }

    fn attach(&mut self, key: u8, id: i64) -> Result<(), ErrorKind> {
        self.row(id).ok_or(ErrorKind::LeaseNotFound)?;
        self.detach(key);
        self.row(id).unwrap().keys.push(key);
        Ok(())
    }

    fn renew(&mut self, id: i64) -> Result<(i64, bool), RenewError> {
        if !self.primary {
            return Err(RenewError::NotPrimary);
        }
        let now_ms = self.now_ms;
        let row = self.row(id).ok_or(RenewError::NotFound)?;
        if row.deadline_ms <= now_ms {
            return Err(RenewError::Expired);
        }
        let (ttl_secs, remaining_secs) = (row.ttl_secs, row.remaining_secs);
        self.start(id, ttl_secs, 0);
        Ok((ttl_secs, remaining_secs > 0))
    }

    fn expired(&mut self, max: usize) -> Vec<i64> {
        let now_ms = self.now_ms;
        let mut due: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.due_ms <= now_ms).collect();
        due.sort_by_key(|row| (row.due_ms, row.id));
        let taken = due.into_iter().take(if self.primary { max } else { 0 });
        taken
            .map(|row| {
                row.due_ms = now_ms + RETRY_MS;
                row.id
            })
            .collect()
    }

    fn promote(&mut self) {
        self.primary = true;
        for row in self.rows.clone() {
            let secs = if row.remaining_secs > 0 {
                row.remaining_secs
            } else {
                row.ttl_secs
            };
            self.start(row.id, secs, EXTEND_MS);
        }
    }

    fn list(&self) -> Vec<i64> {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|row| (if self.primary { row.deadline_ms } else { 0 }, row.id));
        rows.into_iter().map(|row| row.id).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn answers_like_a_flat_list(ops in prop::collection::vec(op(), 1..80)) {
        let mut model = Model::default();
        let mut lessor = Lessor::new(Config { min_ttl_secs: MIN_TTL_SECS, revoke_retry_ms: RETRY_MS });
        for op in ops {
            match op {
                Op::Grant { id, ttl_secs } => {
                    let granted = lessor.grant(LeaseId(id), ttl_secs, model.now_ms);
                    prop_assert_eq!(granted.map(|lease| lease.ttl_secs), model.grant(id, ttl_secs));
                }
                Op::Revoke { id } => {
                    let keys = lessor.revoke(LeaseId(id));
                    let keys = keys.map(|keys| keys.iter().map(|key| key[0]).collect::<Vec<u8>>());
                    prop_assert_eq!(keys, model.revoke(id));
                }
                Op::Attach { key, id } => {
                    prop_assert_eq!(lessor.attach(&[key], LeaseId(id)), model.attach(key, id));
                }
                Op::Detach { key } => {
                    lessor.detach(&[key]);
                    model.detach(key);
                }
                Op::Checkpoint { id, remaining_secs } => {
                    lessor.checkpoint(LeaseId(id), remaining_secs);
                    if let Some(row) = model.row(id) {
                        row.remaining_secs = remaining_secs;
                    }
                }
                Op::Renew { id } => {
                    let renewed = lessor.renew(LeaseId(id), model.now_ms);
                    prop_assert_eq!(renewed.map(|r| (r.ttl_secs, r.clear_checkpoint)), model.renew(id));
                }
                Op::Expired { max } => {
                    let ids: Vec<i64> = lessor.expired(model.now_ms, max).iter().map(|id| id.0).collect();
                    prop_assert_eq!(ids, model.expired(max));
                }
                Op::Promote => {
                    lessor.promote(model.now_ms, EXTEND_MS);
                    model.promote();
                }
                Op::Demote => {
                    lessor.demote();
                    model.primary = false;
                }
                Op::Wait { ms } => model.now_ms += ms,
                Op::Restart => {
                    let leases: Vec<_> = lessor.iter().collect();
                    lessor.restore(leases);
                    model.primary = false;
                    for row in model.rows.clone() {
                        for key in row.keys {
                            lessor.attach(&[key], LeaseId(row.id)).unwrap();
                        }
                    }
                }
            }
            lessor.check().unwrap();
            prop_assert_eq!(lessor.list().iter().map(|id| id.0).collect::<Vec<_>>(), model.list());
            for row in &model.rows {
                let keys: Vec<u8> = lessor.keys(LeaseId(row.id)).map(|key| key[0]).collect();
                let mut expected = row.keys.clone();
                expected.sort();
                prop_assert_eq!(keys, expected);
                let ttl = lessor.time_to_live(LeaseId(row.id), model.now_ms).map(|ttl| ttl.remaining_secs);
                let expected = (row.deadline_ms as i64 - model.now_ms as i64) / 1000;
                prop_assert_eq!(ttl.ok(), model.primary.then_some(expected));
            }
        }
    }
}
