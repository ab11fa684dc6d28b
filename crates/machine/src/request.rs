//! What a log entry asks for.
//!
//! A normal entry carries an `InternalRaftRequest`, the bytes of which are etcd's, so that Go members
//! and ours apply the same log. It is decoded once, here, into a [`Request`]; its byte fields stay
//! slices of the entry.
//!
//! Clusters up to 3.5 also log bare `etcdserverpb.Request` messages, left over from the v2 API, for two
//! purposes: a member publishes its attributes, the leader sets the cluster version. The two are told
//! apart as Go does it: what does not parse as the one is the other. They cannot be confused: the old
//! request's path begins with `/`, which is no valid beginning of the range request that the new message
//! has in its place. They become the requests that 3.6 logs instead.

use auth::Identity;
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{
    self, AlarmRequest, CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseCheckpointRequest,
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest, TxnRequest,
};
use types::MemberId;

use crate::check;
use crate::membership::Attributes;
use crate::version::Version;

macro_rules! kinds {
    ($($field:ident: $name:literal,)*) => {
        /// The names that etcd's metrics have for what may be asked for.
        pub const KINDS: &[&str] = &[$($name,)* UNKNOWN_KIND];

        /// What a request asks for, as one of [`KINDS`].
        pub fn kind(request: &InternalRaftRequest) -> &'static str {
            $(if request.$field.is_some() {
                return $name;
            })*
            UNKNOWN_KIND
        }
    };
}

const UNKNOWN_KIND: &str = "Unknown";

kinds! {
    range: "Range",
    put: "Put",
    delete_range: "DeleteRange",
    txn: "Txn",
    compaction: "Compaction",
    lease_grant: "LeaseGrant",
    lease_revoke: "LeaseRevoke",
    lease_checkpoint: "LeaseCheckpoint",
    alarm: "Alarm",
    authenticate: "Authenticate",
    auth_enable: "AuthEnable",
    auth_disable: "AuthDisable",
    auth_status: "AuthStatus",
    auth_user_add: "AuthUserAdd",
    auth_user_delete: "AuthUserDelete",
    auth_user_get: "AuthUserGet",
    auth_user_change_password: "AuthUserChangePassword",
    auth_user_grant_role: "AuthUserGrantRole",
    auth_user_revoke_role: "AuthUserRevokeRole",
    auth_user_list: "AuthUserList",
    auth_role_list: "AuthRoleList",
    auth_role_add: "AuthRoleAdd",
    auth_role_delete: "AuthRoleDelete",
    auth_role_get: "AuthRoleGet",
    auth_role_grant_permission: "AuthRoleGrantPermission",
    auth_role_revoke_permission: "AuthRoleRevokePermission",
    cluster_version_set: "ClusterVersionSet",
    cluster_member_attr_set: "ClusterMemberAttrSet",
    downgrade_info_set: "DowngradeInfoSet",
    downgrade_version_test: "DowngradeVersionTest",
}

/// One request of the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compaction(CompactionRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRevokeRequest),
    LeaseCheckpoint(LeaseCheckpointRequest),
    Alarm(AlarmRequest),
    ClusterVersionSet(Version),
    MemberAttributesSet(MemberId, Attributes),
    DowngradeInfoSet {
        enabled: bool,
        target_version: String,
    },
    Auth(auth::Request),
    /// Something that changes nothing: a read.
    NoEffect,
}

/// A request with what stands in its header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// What its proposer waits for.
    pub(crate) id: u64,
    /// On whose behalf, as the proposer found out.
    pub(crate) who: Identity,
    pub(crate) request: Request,
}

impl Request {
    /// Reads the data of a normal entry. The error says what is wrong with it.
    pub(crate) fn decode(data: &Bytes) -> Result<Asked, String> {
        match InternalRaftRequest::decode(data.clone()) {
            Ok(mut message) => {
                let header = message.header.take().unwrap_or_default();
                Ok(Asked {
                    id: if message.id == 0 { header.id } else { message.id },
                    who: Identity {
                        user: header.username,
                        revision: header.auth_revision,
                    },
                    request: Request::from_message(message)?,
                })
            }
            Err(error) => match etcdserverpb::Request::decode(data.clone()) {
                Ok(old) if old.path().starts_with('/') => Ok(Asked {
                    id: old.id(),
                    who: Identity::default(),
                    request: Request::from_v2(&old)?,
                }),
                _ => Err(format!("neither a request nor one of the v2 kind: {error}")),
            },
        }
    }

    /// The request's name in etcd's metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Request::Put(_) => "Put",
            Request::DeleteRange(_) => "DeleteRange",
            Request::Txn(_) => "Txn",
            Request::Compaction(_) => "Compaction",
            Request::LeaseGrant(_) => "LeaseGrant",
            Request::LeaseRevoke(_) => "LeaseRevoke",
            Request::LeaseCheckpoint(_) => "LeaseCheckpoint",
            Request::Alarm(_) => "Alarm",
            Request::ClusterVersionSet(_) => "ClusterVersionSet",
            Request::MemberAttributesSet(..) => "ClusterMemberAttrSet",
            Request::DowngradeInfoSet { .. } => "DowngradeInfoSet",
            Request::Auth(request) => request.kind(),
            Request::NoEffect => "NoEffect",
        }
    }

    fn from_message(mut message: InternalRaftRequest) -> Result<Request, String> {
        if let Some(request) = auth_request(&mut message) {
            return Ok(Request::Auth(request));
        }
        Ok(match message {
            InternalRaftRequest {
                put: Some(request), ..
            } => Request::Put(request),
            InternalRaftRequest {
                txn: Some(request), ..
            } => Request::Txn(request),
            InternalRaftRequest {
                delete_range: Some(request),
                ..
            } => Request::DeleteRange(request),
            InternalRaftRequest {
                compaction: Some(request),
                ..
            } => Request::Compaction(request),
            InternalRaftRequest {
                lease_grant: Some(request),
                ..
            } => Request::LeaseGrant(request),
            InternalRaftRequest {
                lease_revoke: Some(request),
                ..
            } => Request::LeaseRevoke(request),
            InternalRaftRequest {
                lease_checkpoint: Some(request),
                ..
            } => Request::LeaseCheckpoint(request),
            InternalRaftRequest {
                alarm: Some(request), ..
            } => Request::Alarm(request),
            InternalRaftRequest {
                cluster_version_set: Some(request),
                ..
            } => Request::ClusterVersionSet(parse_version(&request.ver)?),
            InternalRaftRequest {
                cluster_member_attr_set: Some(request),
                ..
            } => {
                let attributes = request.member_attributes.unwrap_or_default();
                let attributes = Attributes {
                    name: attributes.name,
                    client_urls: attributes.client_urls,
                };
                Request::MemberAttributesSet(MemberId(request.member_id), attributes)
            }
            InternalRaftRequest {
                downgrade_info_set: Some(request),
                ..
            } => Request::DowngradeInfoSet {
                enabled: request.enabled,
                target_version: request.ver,
            },
            InternalRaftRequest { range: Some(_), .. }
            | InternalRaftRequest {
                downgrade_version_test: Some(_),
                ..
            } => Request::NoEffect,
            _ => return Err("a request of a kind this version does not know".into()),
        })
    }

    /// What a cluster up to 3.5 says about itself.
    fn from_v2(old: &etcdserverpb::Request) -> Result<Request, String> {
        let path: Vec<&str> = old.path().split('/').collect();
        match (old.method(), path.as_slice()) {
            ("PUT", ["", "0", "members", id, "attributes"]) => {
                let id = u64::from_str_radix(id, 16).map_err(|error| format!("member id {id}: {error}"))?;
                let attributes = serde_json::from_str(old.val())
                    .map_err(|error| format!("attributes of member {id:x}: {error}"))?;
                Ok(Request::MemberAttributesSet(MemberId(id), attributes))
            }
            ("PUT", ["", "0", "version"]) => Ok(Request::ClusterVersionSet(parse_version(old.val())?)),
            (method, _) => Err(format!(
                "{method} {} is data of the v2 API, which etcd dropped with 3.6; remove it before moving here",
                old.path()
            )),
        }
    }

    /// Whether it is refused while a member's data is known to be corrupt.
    pub(crate) fn is_refused_when_corrupt(&self) -> bool {
        use Request::*;
        match self {
            Put(_) | DeleteRange(_) | Txn(_) | Compaction(_) | LeaseGrant(_) | LeaseRevoke(_) => true,
            LeaseCheckpoint(_)
            | Alarm(_)
            | ClusterVersionSet(_)
            | MemberAttributesSet(..)
            | DowngradeInfoSet { .. }
            | Auth(_)
            | NoEffect => false,
        }
    }

    /// Whether it is refused while a member has no space left: whether it costs any.
    pub(crate) fn is_refused_when_full(&self) -> bool {
        match self {
            Request::Put(_) | Request::LeaseGrant(_) => true,
            Request::Txn(request) => check::txn_cost(request) > 0,
            _ => false,
        }
    }
}

/// The request about users, roles or the switch that a message holds.
fn auth_request(message: &mut InternalRaftRequest) -> Option<auth::Request> {
    use auth::Request::*;
    None.or_else(|| message.authenticate.take().map(Authenticate))
        .or_else(|| message.auth_enable.take().map(|_| Enable))
        .or_else(|| message.auth_disable.take().map(|_| Disable))
        .or_else(|| message.auth_status.take().map(|_| Status))
        .or_else(|| message.auth_user_add.take().map(UserAdd))
        .or_else(|| message.auth_user_delete.take().map(UserDelete))
        .or_else(|| message.auth_user_change_password.take().map(UserChangePassword))
        .or_else(|| message.auth_user_grant_role.take().map(UserGrantRole))
        .or_else(|| message.auth_user_get.take().map(UserGet))
        .or_else(|| message.auth_user_revoke_role.take().map(UserRevokeRole))
        .or_else(|| message.auth_user_list.take().map(|_| UserList))
        .or_else(|| message.auth_role_add.take().map(RoleAdd))
        .or_else(|| message.auth_role_grant_permission.take().map(RoleGrantPermission))
        .or_else(|| message.auth_role_get.take().map(RoleGet))
        .or_else(|| {
            message
                .auth_role_revoke_permission
                .take()
                .map(RoleRevokePermission)
        })
        .or_else(|| message.auth_role_delete.take().map(RoleDelete))
        .or_else(|| message.auth_role_list.take().map(|_| RoleList))
}

fn parse_version(text: &str) -> Result<Version, String> {
    let version = Version::parse(text).ok_or_else(|| format!("{text:?} is not a version"))?;
    version.check_cluster()
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{AuthUserListRequest, RequestHeader};
    use proto::membershippb::{self, ClusterMemberAttrSetRequest};

    use super::*;

    fn decode(message: &impl Message) -> Result<Asked, String> {
        Request::decode(&Bytes::from(message.encode_to_vec()))
    }

    fn v2(method: &str, path: &str, val: &str) -> etcdserverpb::Request {
        etcdserverpb::Request {
            id: Some(7),
            method: Some(method.into()),
            path: Some(path.into()),
            val: Some(val.into()),
            ..Default::default()
        }
    }

    #[test]
    fn a_request_has_one_name_before_the_log_and_after_it() {
        let put = InternalRaftRequest {
            put: Some(PutRequest::default()),
            ..Default::default()
        };
        let list = InternalRaftRequest {
            auth_user_list: Some(AuthUserListRequest::default()),
            ..Default::default()
        };
        for message in [put, list] {
            let after = decode(&message).unwrap().request.kind();
            assert_eq!(kind(&message), after);
            assert!(KINDS.contains(&after));
        }
        assert_eq!(kind(&InternalRaftRequest::default()), "Unknown");
    }

    #[test]
    fn the_id_of_the_header_counts_when_the_request_has_none() {
        let put = Some(PutRequest::default());
        let header = Some(RequestHeader {
            id: 9,
            ..Default::default()
        });
        let message = InternalRaftRequest {
            header,
            put,
            ..Default::default()
        };
        assert_eq!(decode(&message).unwrap().id, 9);
        assert_eq!(decode(&InternalRaftRequest { id: 5, ..message }).unwrap().id, 5);
    }

    #[test]
    fn a_3_5_member_publishes_itself_by_a_v2_request_with_the_meaning_of_the_newer_one() {
        let attributes = membershippb::Attributes {
            name: "m1".into(),
            client_urls: vec!["http://127.0.0.1:2379".into()],
        };
        let newer = InternalRaftRequest {
            id: 7,
            cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
                member_id: 0x8e9e05c52164694d,
                member_attributes: Some(attributes),
            }),
            ..Default::default()
        };
        let older = v2(
            "PUT",
            "/0/members/8e9e05c52164694d/attributes",
            r#"{"name":"m1","clientURLs":["http://127.0.0.1:2379"]}"#,
        );
        assert_eq!(decode(&older).unwrap(), decode(&newer).unwrap());
    }

    #[test]
    fn a_3_5_leader_sets_the_cluster_version_by_a_v2_request() {
        let version = Version {
            major: 3,
            minor: 5,
            patch: 0,
        };
        let asked = decode(&v2("PUT", "/0/version", "3.5.0")).unwrap();
        assert_eq!(
            (asked.id, asked.request),
            (7, Request::ClusterVersionSet(version))
        );
    }

    #[test]
    fn a_cluster_version_we_can_not_act_at_is_not_understood() {
        let error = decode(&v2("PUT", "/0/version", "3.8.0")).unwrap_err();
        assert!(
            error.contains("server version is lower than determined cluster version"),
            "{error}"
        );
    }

    #[test]
    fn other_v2_requests_are_refused_and_the_message_names_them() {
        for (method, path) in [
            ("PUT", "/1/foo"),
            ("DELETE", "/0/version"),
            ("SYNC", "/"),
            ("PUT", "/0/members/x"),
        ] {
            let error = decode(&v2(method, path, "")).unwrap_err();
            assert!(error.contains(path) && error.contains("v2"), "{error}");
        }
    }

    #[test]
    fn the_header_says_who_asks() {
        let message = InternalRaftRequest {
            header: Some(RequestHeader {
                id: 3,
                username: "alice".into(),
                auth_revision: 7,
            }),
            auth_user_list: Some(AuthUserListRequest::default()),
            ..Default::default()
        };
        let who = Identity {
            user: "alice".into(),
            revision: 7,
        };
        let request = Request::Auth(auth::Request::UserList);
        assert_eq!(decode(&message), Ok(Asked { id: 3, who, request }));
    }

    #[test]
    fn a_request_of_an_unknown_kind_is_refused() {
        // Field 2 was the v2 request inside the message; 4000 may come one day.
        for unknown in [&b"\x12\x00"[..], b"\x82\xfa\x01\x00", b""] {
            assert!(
                Request::decode(&Bytes::copy_from_slice(unknown))
                    .unwrap_err()
                    .contains("does not know")
            );
        }
    }
}
