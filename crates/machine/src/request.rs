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
    /// Something that changes nothing: a read, or a question about authentication while it is off.
    NoEffect,
}

impl Request {
    /// Reads the data of a normal entry: the request and the id its proposer waits for. The error
    /// says what is wrong with it.
    pub(crate) fn decode(data: &Bytes) -> Result<(u64, Request), String> {
        match InternalRaftRequest::decode(data.clone()) {
            Ok(message) => {
                let header_id = message.header.as_ref().map_or(0, |header| header.id);
                let id = if message.id == 0 { header_id } else { message.id };
                Ok((id, Request::from_message(message)?))
            }
            Err(error) => match etcdserverpb::Request::decode(data.clone()) {
                Ok(old) if old.path().starts_with('/') => Ok((old.id(), Request::from_v2(&old)?)),
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
            Request::NoEffect => "NoEffect",
        }
    }

    fn from_message(message: InternalRaftRequest) -> Result<Request, String> {
        let auth_write = auth_write(&message);
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
            }
            | InternalRaftRequest {
                authenticate: Some(_),
                ..
            }
            | InternalRaftRequest {
                auth_disable: Some(_),
                ..
            }
            | InternalRaftRequest {
                auth_status: Some(_), ..
            }
            | InternalRaftRequest {
                auth_user_get: Some(_),
                ..
            }
            | InternalRaftRequest {
                auth_user_list: Some(_),
                ..
            }
            | InternalRaftRequest {
                auth_role_get: Some(_),
                ..
            }
            | InternalRaftRequest {
                auth_role_list: Some(_),
                ..
            } => Request::NoEffect,
            _ if auth_write => return Err("users, roles and authentication cannot be changed yet".into()),
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

/// Whether it changes what the authentication store holds.
fn auth_write(message: &InternalRaftRequest) -> bool {
    message.auth_enable.is_some()
        || message.auth_user_add.is_some()
        || message.auth_user_delete.is_some()
        || message.auth_user_change_password.is_some()
        || message.auth_user_grant_role.is_some()
        || message.auth_user_revoke_role.is_some()
        || message.auth_role_add.is_some()
        || message.auth_role_delete.is_some()
        || message.auth_role_grant_permission.is_some()
        || message.auth_role_revoke_permission.is_some()
}

fn parse_version(text: &str) -> Result<Version, String> {
    let version = Version::parse(text).ok_or_else(|| format!("{text:?} is not a version"))?;
    version.check_cluster()
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{AuthUserAddRequest, AuthUserListRequest, RequestHeader};
    use proto::membershippb::{self, ClusterMemberAttrSetRequest};

    use super::*;

    fn decode(message: &impl Message) -> Result<(u64, Request), String> {
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
        assert_eq!(decode(&message).unwrap().0, 9);
        assert_eq!(decode(&InternalRaftRequest { id: 5, ..message }).unwrap().0, 5);
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
        let request = decode(&v2("PUT", "/0/version", "3.5.0"));
        assert_eq!(request, Ok((7, Request::ClusterVersionSet(version))));
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
    fn questions_about_authentication_pass_and_changes_of_it_are_refused() {
        let question = InternalRaftRequest {
            auth_user_list: Some(AuthUserListRequest::default()),
            ..Default::default()
        };
        assert_eq!(decode(&question), Ok((0, Request::NoEffect)));
        let change = InternalRaftRequest {
            auth_user_add: Some(AuthUserAddRequest::default()),
            ..Default::default()
        };
        assert!(decode(&change).unwrap_err().contains("authentication"));
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
