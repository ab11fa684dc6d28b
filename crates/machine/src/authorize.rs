//! May the user in a request's header do what the request asks?
//!
//! Asked by apply, where all members find the same answer, and by the edge before a read that needs no place in the
//! log. Both branches of a transaction and all compares count, whichever of them will run.
//!
//! A lease ties keys together: who may end it may delete them, and who may attach a key to it makes that key end with
//! the others. So both need the permission to write every key that is attached.

use auth::{Access, Auth, Identity};
use bytes::Bytes;
use lease::Lessor;
use parking_lot::Mutex;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};
use types::{ErrorKind, KeyRange, LeaseId};

use crate::request::Request;

type Check = Result<(), ErrorKind>;

/// Somebody before the door.
pub struct Caller<'a> {
    /// Users and roles.
    pub auth: &'a Auth,
    /// Who it is.
    pub who: &'a Identity,
    /// The leases, locked use by use.
    pub lessor: &'a Mutex<Lessor>,
}

impl Caller<'_> {
    pub(crate) fn may(&self, request: &Request) -> Check {
        if !self.auth.is_enabled() {
            return Ok(());
        }
        match request {
            Request::Put(request) => self.may_put(request),
            Request::DeleteRange(request) => self.may_delete(request),
            Request::Txn(request) => self.may_run(request),
            Request::LeaseRevoke(request) => self.may_write_keys_of(LeaseId(request.id)),
            // The others are anybody's here. Those that are reserved to somebody are refused at the edge, but for
            // those about users and roles: they know by themselves.
            _ => Ok(()),
        }
    }

    /// Whether a transaction may run, whatever branch it takes.
    pub fn may_run(&self, request: &TxnRequest) -> Check {
        for compare in &request.compare {
            self.may_touch(Access::Read, &compare.key, &compare.range_end)?;
        }
        let mut ops = request.success.iter().chain(&request.failure);
        ops.try_for_each(|op| self.may_do(op))
    }

    /// Whether all keys of a lease may be read.
    pub fn may_read_keys_of(&self, lease: LeaseId) -> Check {
        self.may_touch_keys_of(Access::Read, lease)
    }

    /// Whether all keys of a lease may be written.
    pub fn may_write_keys_of(&self, lease: LeaseId) -> Check {
        self.may_touch_keys_of(Access::Write, lease)
    }

    fn may_do(&self, op: &RequestOp) -> Check {
        match &op.request {
            Some(Op::RequestRange(request)) => self.may_touch(Access::Read, &request.key, &request.range_end),
            Some(Op::RequestPut(request)) => self.may_put(request),
            Some(Op::RequestDeleteRange(request)) => self.may_delete(request),
            Some(Op::RequestTxn(request)) => self.may_run(request),
            None => Ok(()),
        }
    }

    fn may_put(&self, request: &PutRequest) -> Check {
        self.may_touch(Access::Write, &request.key, &Bytes::new())?;
        self.may_write_keys_of(LeaseId(request.lease))?;
        match request.prev_kv {
            true => self.may_touch(Access::Read, &request.key, &Bytes::new()),
            false => Ok(()),
        }
    }

    fn may_delete(&self, request: &DeleteRangeRequest) -> Check {
        self.may_touch(Access::Write, &request.key, &request.range_end)?;
        match request.prev_kv {
            true => self.may_touch(Access::Read, &request.key, &request.range_end),
            false => Ok(()),
        }
    }

    fn may_touch(&self, access: Access, key: &Bytes, range_end: &Bytes) -> Check {
        let range = KeyRange::from_wire(key.clone(), range_end.clone());
        self.auth.permit(self.who, access, &range)
    }

    fn may_touch_keys_of(&self, access: Access, lease: LeaseId) -> Check {
        if self.auth.require_root(self.who).is_ok() {
            return Ok(());
        }
        let lessor = self.lessor.lock();
        let mut keys = lessor.keys(lease);
        keys.try_for_each(|key| {
            let range = KeyRange::One(Bytes::copy_from_slice(key));
            self.auth.permit(self.who, access, &range)
        })
    }
}
