//! Transactions: compares, then one of two branches, all or nothing.
//!
//! Three passes over the request, each finished before the next begins:
//!
//! 1. **Resolve**: all compares, also those of nested transactions on the chosen path, are
//!    evaluated against the state *before* the transaction. What remains is a [`Plan`]: the operations
//!    that will run. (So a nested transaction does not see what its parent writes when it decides, but
//!    its operations see it when they run.)
//! 2. **Validate**: whatever an operation of the plan could be refused for is looked at, again in the
//!    state before. Any refusal refuses the whole transaction, with nothing written.
//! 3. **Execute**, in order. Each operation sees those before it. Nothing is refused any more: an error
//!    here means that this member cannot read its own data.
//!
//! Plain puts and deletions are the same operations without the passes around them. A read-only
//! transaction runs the same way on a reader's view (see [`crate::read`]).
//!
//! One rule is stricter than etcd's. A deletion without upper end may be followed by a put inside it
//! (see [`crate::check`]); if that put keeps the old value or lease, there is none left when it runs. etcd's
//! members all panic then; here the transaction is refused with `KeyNotFound`.

use bytes::Bytes;
use lease::Lessor;
use mvcc::{Head, KvFields, RangeError, RangeOptions, ReadError, SortOrder, SortTarget};
use parking_lot::Mutex;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest, range_request,
};
use proto::raw::{self, response_op::Response};
use types::{ErrorKind, KeyRange, LeaseId};

use crate::state::{Applying, State};
use crate::{Fatal, Stop, compare};

/// A transaction whose branches are decided.
pub(crate) struct Plan<'r> {
    succeeded: bool,
    steps: Vec<Step<'r>>,
}

/// One operation of the chosen branch.
enum Step<'r> {
    Range(&'r RangeRequest),
    Put(&'r PutRequest),
    DeleteRange(&'r DeleteRangeRequest),
    Txn(Plan<'r>),
    /// An operation without content: the edge refuses it, in the log it does nothing.
    Nothing,
}

impl<'r> Plan<'r> {
    /// Decides the branches.
    pub(crate) fn resolve(state: &impl State, request: &'r TxnRequest) -> Result<Self, RangeError> {
        let succeeded = compare::all_hold(state, &request.compare)?;
        let branch = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        let step = |op: &'r RequestOp| {
            Ok(match &op.request {
                Some(Op::RequestRange(request)) => Step::Range(request),
                Some(Op::RequestPut(request)) => Step::Put(request),
                Some(Op::RequestDeleteRange(request)) => Step::DeleteRange(request),
                Some(Op::RequestTxn(request)) => Step::Txn(Plan::resolve(state, request)?),
                None => Step::Nothing,
            })
        };
        Ok(Plan {
            succeeded,
            steps: branch.iter().map(step).collect::<Result<_, RangeError>>()?,
        })
    }
}

/// Applies a transaction that has its place in the log.
pub(crate) fn txn(
    head: &mut Head,
    lessor: &Mutex<Lessor>,
    request: &TxnRequest,
) -> Result<raw::TxnResponse, Stop> {
    let state = Applying::begin(head);
    let plan = Plan::resolve(&state, request)?;
    Validation::new(&state, lessor).plan(&plan)?;
    let mut execution = Execution { state, lessor };
    let responses = execution.plan(&plan)?;
    let header = header(execution.state.revision());
    Ok(response(plan.succeeded, header, responses))
}

/// Answers a transaction that only reads, from `state`.
pub(crate) fn read(state: &impl State, request: &TxnRequest) -> Result<raw::TxnResponse, RangeError> {
    let plan = Plan::resolve(state, request)?;
    let ranges = || plan.steps.iter().filter_map(Step::as_range);
    ranges().try_for_each(|request| check_revision(state, request))?;
    let responses = ranges().map(|request| Ok(Some(Response::ResponseRange(range(state, request)?))));
    let responses = responses.collect::<Result<_, RangeError>>()?;
    Ok(response(plan.succeeded, header(state.revision()), responses))
}

/// Applies a put.
pub(crate) fn put(
    head: &mut Head,
    lessor: &Mutex<Lessor>,
    request: &PutRequest,
) -> Result<raw::PutResponse, Stop> {
    let state = Applying::begin(head);
    // Unlike in a transaction, the lease is looked at first.
    check_lease(lessor, request)?;
    check_previous(&state, request)?;
    Ok(Execution { state, lessor }.put(request)?)
}

/// Applies a deletion.
pub(crate) fn delete_range(
    head: &mut Head,
    lessor: &Mutex<Lessor>,
    request: &DeleteRangeRequest,
) -> Result<raw::DeleteRangeResponse, Fatal> {
    Execution {
        state: Applying::begin(head),
        lessor,
    }
    .delete_range(request)
}

/// Answers a range.
pub(crate) fn range(state: &impl State, request: &RangeRequest) -> Result<raw::RangeResponse, RangeError> {
    let found = state.range(&range_options(request))?;
    Ok(raw::RangeResponse {
        header: header(found.revision),
        kvs: found.kvs,
        more: found.more,
        count: found.count,
    })
}

/// Attaches a key to the lease that its `KeyValue` names, and detaches it from any other. A lease that
/// does not exist, as 0 never does, is none. Also how attachments come back at a restart: from all
/// keys that name a lease.
pub fn attach(lessor: &mut Lessor, key: &[u8], lease: LeaseId) {
    if lessor.attach(key, lease).is_err() {
        lessor.detach(key);
    }
}

/// What a range request asks of the store. Numbers of no known order or target, which the edge refuses,
/// mean the default.
pub fn range_options(request: &RangeRequest) -> RangeOptions {
    use range_request::{SortOrder as Order, SortTarget as Target};
    RangeOptions {
        range: KeyRange::from_wire(request.key.clone(), request.range_end.clone()),
        revision: request.revision,
        limit: request.limit,
        order: match Order::try_from(request.sort_order) {
            Ok(Order::None) | Err(_) => SortOrder::None,
            Ok(Order::Ascend) => SortOrder::Ascend,
            Ok(Order::Descend) => SortOrder::Descend,
        },
        target: match Target::try_from(request.sort_target) {
            Ok(Target::Key) | Err(_) => SortTarget::Key,
            Ok(Target::Version) => SortTarget::Version,
            Ok(Target::Create) => SortTarget::Create,
            Ok(Target::Mod) => SortTarget::Mod,
            Ok(Target::Value) => SortTarget::Value,
        },
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod: request.min_mod_revision,
        max_mod: request.max_mod_revision,
        min_create: request.min_create_revision,
        max_create: request.max_create_revision,
        max_bytes: u64::MAX,
    }
}

/// The second pass: may every operation of the plan run?
struct Validation<'a, S> {
    state: &'a S,
    lessor: &'a Mutex<Lessor>,
    /// What earlier operations delete.
    deleted: Vec<KeyRange>,
}

impl<'a, S: State> Validation<'a, S> {
    fn new(state: &'a S, lessor: &'a Mutex<Lessor>) -> Self {
        Validation {
            state,
            lessor,
            deleted: vec![],
        }
    }

    /// All puts, wherever they stand, and only then the ranges: clients see the first refusal.
    fn plan(&mut self, plan: &Plan<'_>) -> Result<(), Stop> {
        self.puts(plan)?;
        Ok(self.ranges(plan)?)
    }

    fn puts(&mut self, plan: &Plan<'_>) -> Result<(), Stop> {
        plan.steps.iter().try_for_each(|step| match step {
            Step::Put(request) => self.put(request),
            Step::DeleteRange(request) => {
                self.deleted.push(key_range(request));
                Ok(())
            }
            Step::Txn(plan) => self.puts(plan),
            Step::Range(_) | Step::Nothing => Ok(()),
        })
    }

    fn ranges(&self, plan: &Plan<'_>) -> Result<(), RangeError> {
        plan.steps.iter().try_for_each(|step| match step {
            Step::Range(request) => check_revision(self.state, request),
            Step::Txn(plan) => self.ranges(plan),
            Step::Put(_) | Step::DeleteRange(_) | Step::Nothing => Ok(()),
        })
    }

    fn put(&self, request: &PutRequest) -> Result<(), Stop> {
        check_previous(self.state, request)?;
        let deleted =
            keeps_previous(request) && self.deleted.iter().any(|range| range.contains(&request.key));
        if deleted {
            return Err(Stop::Refuse(ErrorKind::KeyNotFound));
        }
        Ok(check_lease(self.lessor, request)?)
    }
}

/// A range's revision in a transaction. Unlike that of a plain range it counts even if negative, and it
/// must exist before the transaction.
fn check_revision(state: &impl State, request: &RangeRequest) -> Result<(), RangeError> {
    match request.revision {
        0 => Ok(()),
        revision if revision > state.revision() => Err(RangeError::FutureRev),
        revision if revision < state.compacted() => Err(RangeError::Compacted),
        _ => Ok(()),
    }
}

/// A put that keeps the value or the lease needs a key to take it from.
fn check_previous(state: &impl State, request: &PutRequest) -> Result<(), Stop> {
    match keeps_previous(request) && state.get(&request.key)?.is_none() {
        true => Err(Stop::Refuse(ErrorKind::KeyNotFound)),
        false => Ok(()),
    }
}

fn check_lease(lessor: &Mutex<Lessor>, request: &PutRequest) -> Result<(), ErrorKind> {
    match request.lease != 0 && lessor.lock().get(LeaseId(request.lease)).is_none() {
        true => Err(ErrorKind::LeaseNotFound),
        false => Ok(()),
    }
}

fn keeps_previous(request: &PutRequest) -> bool {
    request.ignore_value || request.ignore_lease
}

/// The third pass.
struct Execution<'a> {
    state: Applying<'a>,
    lessor: &'a Mutex<Lessor>,
}

impl Execution<'_> {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Option<Response>>, Fatal> {
        plan.steps.iter().map(|step| self.step(step)).collect()
    }

    fn step(&mut self, step: &Step<'_>) -> Result<Option<Response>, Fatal> {
        Ok(Some(match step {
            Step::Range(request) => Response::ResponseRange(range(&self.state, request)?),
            Step::Put(request) => Response::ResponsePut(self.put(request)?),
            Step::DeleteRange(request) => Response::ResponseDeleteRange(self.delete_range(request)?),
            // Only the outermost header is filled.
            Step::Txn(plan) => Response::ResponseTxn(response(plan.succeeded, header(0), self.plan(plan)?)),
            Step::Nothing => return Ok(None),
        }))
    }

    fn put(&mut self, request: &PutRequest) -> Result<raw::PutResponse, Fatal> {
        let previous = match keeps_previous(request) || request.prev_kv {
            true => self.value(&request.key)?,
            false => None,
        };
        let kept = match &previous {
            Some(kv) => KvFields::parse(kv).map_err(|error| ReadError::Damaged(error.to_string()))?,
            None => KvFields::default(),
        };
        let value = if request.ignore_value {
            kept.value
        } else {
            &request.value
        };
        let lease = LeaseId(if request.ignore_lease {
            kept.lease
        } else {
            request.lease
        });
        self.state.txn.put(&request.key, value, lease);
        attach(&mut self.lessor.lock(), &request.key, lease);
        Ok(raw::PutResponse {
            header: header(self.state.revision()),
            prev_kv: previous.filter(|_| request.prev_kv),
        })
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest) -> Result<raw::DeleteRangeResponse, Fatal> {
        let range = key_range(request);
        let prev_kvs = match request.prev_kv {
            true => self.state.range(&RangeOptions::new(range.clone()))?.kvs,
            false => vec![],
        };
        let deleted = self.state.txn.delete_range(&range);
        let mut lessor = self.lessor.lock();
        for (key, _) in &deleted {
            lessor.detach(key);
        }
        drop(lessor);
        Ok(raw::DeleteRangeResponse {
            header: header(self.state.revision()),
            deleted: deleted.len() as i64,
            prev_kvs,
        })
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.state
            .txn
            .get(key)
            .map(|meta| self.state.txn.value(meta.mod_rev))
            .transpose()
    }
}

impl<'r> Step<'r> {
    fn as_range(&self) -> Option<&'r RangeRequest> {
        match self {
            Step::Range(request) => Some(request),
            _ => None,
        }
    }
}

fn key_range(request: &DeleteRangeRequest) -> KeyRange {
    KeyRange::from_wire(request.key.clone(), request.range_end.clone())
}

fn response(
    succeeded: bool,
    header: Option<ResponseHeader>,
    responses: Vec<Option<Response>>,
) -> raw::TxnResponse {
    let responses = responses
        .into_iter()
        .map(|response| raw::ResponseOp { response })
        .collect();
    raw::TxnResponse {
        header,
        succeeded,
        responses,
    }
}

/// A header with nothing but the revision; the member that answers fills in the rest.
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}
