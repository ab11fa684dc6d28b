//! Leases in the log: what grants, revokes and checkpoints do to the lessor and to the lease table.
//!
//! A row of the table is `leasepb.Lease` under the lease's id in eight bytes, big-endian. Which keys are
//! attached is not stored: every `KeyValue` names its lease. A checkpoint is stored whatever the cluster
//! version, while etcd does so from 3.6 on: table and lessor always say the same.

use bytes::Bytes;
use lease::{Lease, Lessor};
use mvcc::{Head, Table};
use prost::Message;
use proto::etcdserverpb::{LeaseCheckpointRequest, LeaseGrantRequest};
use proto::leasepb;
use types::{ErrorKind, KeyRange, LeaseId};

use crate::RestoreError;

/// Reads a row of the lease table.
pub(crate) fn parse_row(key: &Bytes, value: &Bytes) -> Result<Lease, RestoreError> {
    let row =
        leasepb::Lease::decode(value.clone()).map_err(|error| RestoreError::new(Table::Lease, key, error))?;
    if key[..] != row.id.to_be_bytes() {
        return Err(RestoreError::new(
            Table::Lease,
            key,
            "the row describes another lease",
        ));
    }
    Ok(Lease {
        id: LeaseId(row.id),
        ttl_secs: row.ttl,
        remaining_secs: row.remaining_ttl,
    })
}

/// Writes a row of the lease table.
fn put_row(head: &mut Head, lease: &Lease) {
    let row = leasepb::Lease {
        id: lease.id.0,
        ttl: lease.ttl_secs,
        remaining_ttl: lease.remaining_secs,
    };
    head.table_put(Table::Lease, &row.id.to_be_bytes(), &row.encode_to_vec());
}

pub(crate) fn grant(
    head: &mut Head,
    lessor: &mut Lessor,
    request: &LeaseGrantRequest,
    now_ms: u64,
) -> Result<Lease, ErrorKind> {
    let lease = lessor.grant(LeaseId(request.id), request.ttl, now_ms)?;
    put_row(head, &lease);
    Ok(lease)
}

/// Deletes the lease's keys, in order and in one revision.
pub(crate) fn revoke(head: &mut Head, lessor: &mut Lessor, id: LeaseId) -> Result<(), ErrorKind> {
    let keys = lessor.revoke(id)?;
    let mut txn = head.begin();
    for key in keys {
        txn.delete_range(&KeyRange::One(Bytes::copy_from_slice(&key)));
    }
    txn.finish();
    head.table_delete(Table::Lease, &id.0.to_be_bytes());
    Ok(())
}

pub(crate) fn checkpoint(head: &mut Head, lessor: &mut Lessor, request: &LeaseCheckpointRequest) {
    for checkpoint in &request.checkpoints {
        if let Some(lease) = lessor.checkpoint(LeaseId(checkpoint.id), checkpoint.remaining_ttl) {
            put_row(head, &lease);
        }
    }
}
