//! How every answer looks in every format.
//!
//! An [`Answer`] is what a command got, whatever the format. Each format is a function of it: [`simple`] for people,
//! [`fields`] one line per field, [`json`] as Go writes it, [`yaml`] the same tree for people, [`table`] with borders,
//! and the message's own bytes. `simple` and JSON are etcd's byte for byte; scripts depend on them.

mod fields;
mod json;
mod simple;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod yaml;

use std::time::Duration;

use prost::Message;
use proto::etcdserverpb as pb;

pub use types::print::{Format, hex, quoted, size, took};

use crate::failure::{Failure, Status};
use crate::nested::{Nested, Usage};

/// What a command got.
#[derive(Debug)]
pub enum Answer {
    Put(pb::PutResponse),
    Get(pb::RangeResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Watch(pb::WatchResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(i64, pb::LeaseRevokeResponse),
    KeepAlive(pb::LeaseKeepAliveResponse),
    /// Whether its keys were asked for.
    TimeToLive(pb::LeaseTimeToLiveResponse, bool),
    Leases(pb::LeaseLeasesResponse),
    Alarms(pb::AlarmResponse),
    /// The name it is to have.
    MemberAdd(String, pb::MemberAddResponse),
    MemberRemove(u64, pb::MemberRemoveResponse),
    MemberUpdate(u64, pb::MemberUpdateResponse),
    MemberPromote(u64, pb::MemberPromoteResponse),
    MemberList(pb::MemberListResponse),
    Health(Vec<Health>),
    Statuses(Vec<(String, pb::StatusResponse)>),
    Hashes(Vec<(String, pb::HashKvResponse)>),
    /// From whom to whom.
    MoveLeader(u64, u64, pb::MoveLeaderResponse),
    /// What was asked for: validate, enable or cancel.
    Downgrade(&'static str, pb::DowngradeResponse),
    AuthStatus(pb::AuthStatusResponse),
    RoleAdd(String, pb::AuthRoleAddResponse),
    RoleDelete(String, pb::AuthRoleDeleteResponse),
    RoleGet(String, pb::AuthRoleGetResponse),
    RoleList(pb::AuthRoleListResponse),
    RoleGrant(String, pb::AuthRoleGrantPermissionResponse),
    RoleRevoke {
        role: String,
        key: Vec<u8>,
        range_end: Vec<u8>,
        response: pb::AuthRoleRevokePermissionResponse,
    },
    UserAdd(String, pb::AuthUserAddResponse),
    UserDelete(String, pb::AuthUserDeleteResponse),
    UserGet(String, pb::AuthUserGetResponse),
    UserList(pb::AuthUserListResponse),
    UserPassword(pb::AuthUserChangePasswordResponse),
    /// The user and the role.
    UserGrant(String, String, pb::AuthUserGrantRoleResponse),
    UserRevoke(String, String, pb::AuthUserRevokeRoleResponse),
    Tree(Nested),
    Usage(Vec<Usage>),
}

/// How an endpoint does.
#[derive(Clone, Debug)]
pub struct Health {
    pub endpoint: String,
    /// What is wrong with it.
    pub error: Option<String>,
    pub took: Duration,
}

/// How answers are to be written.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub format: Format,
    /// Keys, values and ids in hexadecimal.
    pub hex: bool,
    /// Values without their keys.
    pub values_only: bool,
}

impl Style {
    /// The answer as bytes for standard output.
    pub fn render(self, answer: &Answer) -> Result<Vec<u8>, Failure> {
        let unsupported = || Failure::new(Status::Feature, self.format.unsupported());
        match self.format {
            Format::Simple => Ok(simple::render(answer, self)),
            Format::Fields => fields::render(answer, self.hex).ok_or_else(unsupported),
            Format::Json => Ok(json::render(&tree::of(answer, self.hex))),
            Format::Yaml => Ok(yaml::render(&tree::of(answer, self.hex), self.hex)),
            Format::Table => table::render(answer).ok_or_else(unsupported),
            Format::Protobuf => protobuf(answer).ok_or_else(unsupported),
        }
    }
}

/// The message's own bytes, of those answers that are a message to etcd's printer.
fn protobuf(answer: &Answer) -> Option<Vec<u8>> {
    Some(match answer {
        Answer::Put(m) => m.encode_to_vec(),
        Answer::Get(m) => m.encode_to_vec(),
        Answer::Delete(m) => m.encode_to_vec(),
        Answer::Txn(m) => m.encode_to_vec(),
        Answer::Watch(m) => pb::WatchResponse {
            header: m.header,
            events: m.events.clone(),
            compact_revision: m.compact_revision,
            canceled: m.canceled,
            created: m.created,
            ..Default::default()
        }
        .encode_to_vec(),
        Answer::Alarms(m) => m.encode_to_vec(),
        Answer::MemberAdd(_, m) => m.encode_to_vec(),
        Answer::MemberRemove(_, m) => m.encode_to_vec(),
        Answer::MemberUpdate(_, m) => m.encode_to_vec(),
        Answer::MemberPromote(_, m) => m.encode_to_vec(),
        Answer::MemberList(m) => m.encode_to_vec(),
        Answer::MoveLeader(_, _, m) => m.encode_to_vec(),
        Answer::Downgrade(_, m) => m.encode_to_vec(),
        Answer::AuthStatus(m) => m.encode_to_vec(),
        Answer::RoleAdd(_, m) => m.encode_to_vec(),
        Answer::RoleDelete(_, m) => m.encode_to_vec(),
        Answer::RoleGet(_, m) => m.encode_to_vec(),
        Answer::RoleList(m) => m.encode_to_vec(),
        Answer::RoleGrant(_, m) => m.encode_to_vec(),
        Answer::RoleRevoke { response, .. } => response.encode_to_vec(),
        Answer::UserAdd(_, m) => m.encode_to_vec(),
        Answer::UserDelete(_, m) => m.encode_to_vec(),
        Answer::UserGet(_, m) => m.encode_to_vec(),
        Answer::UserList(m) => m.encode_to_vec(),
        Answer::UserPassword(m) => m.encode_to_vec(),
        Answer::UserGrant(_, _, m) => m.encode_to_vec(),
        Answer::UserRevoke(_, _, m) => m.encode_to_vec(),
        Answer::Grant(_)
        | Answer::Revoke(..)
        | Answer::KeepAlive(_)
        | Answer::TimeToLive(..)
        | Answer::Leases(_)
        | Answer::Health(_)
        | Answer::Statuses(_)
        | Answer::Hashes(_)
        | Answer::Tree(_)
        | Answer::Usage(_) => return None,
    })
}
