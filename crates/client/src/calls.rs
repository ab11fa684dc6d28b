//! Every call of etcd that has one answer.

use prost::Message;
use proto::etcdserverpb::*;
use proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use proto::v3electionpb::*;
use proto::v3lockpb::*;

use crate::call::Repeat;
use crate::namespace::{Enter, Leave};
use crate::{Client, Error};

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $answer:ty = $path:literal, $call:ident $repeat:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                pub async fn $name(&self, request: $request) -> Result<$answer, Error> {
                    self.$call(concat!("/", $path), request, Repeat::$repeat).await
                }
            )*
        }

        /// The calls of this table.
        #[cfg(test)]
        const CALLS: &[&str] = &[$($path),*];
    };
}

calls! {
    /// Reads keys.
    range(RangeRequest) -> RangeResponse = "etcdserverpb.KV/Range", call_inside Freely;
    /// Writes a key.
    put(PutRequest) -> PutResponse = "etcdserverpb.KV/Put", call_inside IfUnsent;
    /// Deletes keys.
    delete_range(DeleteRangeRequest) -> DeleteRangeResponse = "etcdserverpb.KV/DeleteRange", call_inside IfUnsent;
    /// Compares, and then does one of two lists of things, all at once.
    txn(TxnRequest) -> TxnResponse = "etcdserverpb.KV/Txn", call_inside IfUnsent;
    /// Forgets the history before a revision.
    compact(CompactionRequest) -> CompactionResponse = "etcdserverpb.KV/Compact", call IfUnsent;

    /// Makes a lease.
    lease_grant(LeaseGrantRequest) -> LeaseGrantResponse = "etcdserverpb.Lease/LeaseGrant", call Freely;
    /// Ends a lease, and deletes its keys.
    lease_revoke(LeaseRevokeRequest) -> LeaseRevokeResponse = "etcdserverpb.Lease/LeaseRevoke", call Freely;
    /// How long a lease has to live.
    lease_time_to_live(LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse = "etcdserverpb.Lease/LeaseTimeToLive", call_inside Freely;
    /// All leases.
    lease_leases(LeaseLeasesRequest) -> LeaseLeasesResponse = "etcdserverpb.Lease/LeaseLeases", call Freely;

    /// Adds a member.
    member_add(MemberAddRequest) -> MemberAddResponse = "etcdserverpb.Cluster/MemberAdd", call IfUnsent;
    /// Removes a member.
    member_remove(MemberRemoveRequest) -> MemberRemoveResponse = "etcdserverpb.Cluster/MemberRemove", call IfUnsent;
    /// Changes where a member is found.
    member_update(MemberUpdateRequest) -> MemberUpdateResponse = "etcdserverpb.Cluster/MemberUpdate", call IfUnsent;
    /// All members.
    member_list(MemberListRequest) -> MemberListResponse = "etcdserverpb.Cluster/MemberList", call Freely;
    /// Gives a learner a vote.
    member_promote(MemberPromoteRequest) -> MemberPromoteResponse = "etcdserverpb.Cluster/MemberPromote", call IfUnsent;

    /// Lists, raises or ends alarms.
    alarm(AlarmRequest) -> AlarmResponse = "etcdserverpb.Maintenance/Alarm", call Freely;
    /// How a member is; see [`Client::at`].
    status(StatusRequest) -> StatusResponse = "etcdserverpb.Maintenance/Status", call Freely;
    /// Gives a member's free space back; see [`Client::at`].
    defragment(DefragmentRequest) -> DefragmentResponse = "etcdserverpb.Maintenance/Defragment", call IfUnsent;
    /// The hash of a member's whole database; see [`Client::at`].
    hash(HashRequest) -> HashResponse = "etcdserverpb.Maintenance/Hash", call Freely;
    /// The hash of a member's keys at a revision; see [`Client::at`].
    hash_kv(HashKvRequest) -> HashKvResponse = "etcdserverpb.Maintenance/HashKV", call Freely;
    /// Makes another member the leader; only the leader can be asked for that, see [`Client::at`].
    move_leader(MoveLeaderRequest) -> MoveLeaderResponse = "etcdserverpb.Maintenance/MoveLeader", call Freely;
    /// Prepares the cluster for members of an older version.
    downgrade(DowngradeRequest) -> DowngradeResponse = "etcdserverpb.Maintenance/Downgrade", call IfUnsent;

    /// From now on everybody has to say who they are.
    auth_enable(AuthEnableRequest) -> AuthEnableResponse = "etcdserverpb.Auth/AuthEnable", call IfUnsent;
    /// From now on nobody has to.
    auth_disable(AuthDisableRequest) -> AuthDisableResponse = "etcdserverpb.Auth/AuthDisable", call IfUnsent;
    /// Whether they have to.
    auth_status(AuthStatusRequest) -> AuthStatusResponse = "etcdserverpb.Auth/AuthStatus", call IfUnsent;
    /// Exchanges a password for a token. A client with a [`crate::User`] does so by itself.
    authenticate(AuthenticateRequest) -> AuthenticateResponse = "etcdserverpb.Auth/Authenticate", call IfUnsent;
    /// Adds a user.
    user_add(AuthUserAddRequest) -> AuthUserAddResponse = "etcdserverpb.Auth/UserAdd", call IfUnsent;
    /// A user's roles.
    user_get(AuthUserGetRequest) -> AuthUserGetResponse = "etcdserverpb.Auth/UserGet", call Freely;
    /// All users.
    user_list(AuthUserListRequest) -> AuthUserListResponse = "etcdserverpb.Auth/UserList", call Freely;
    /// Removes a user.
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse = "etcdserverpb.Auth/UserDelete", call IfUnsent;
    /// Gives a user another password.
    user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse = "etcdserverpb.Auth/UserChangePassword", call IfUnsent;
    /// Gives a user a role.
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse = "etcdserverpb.Auth/UserGrantRole", call IfUnsent;
    /// Takes a role from a user.
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse = "etcdserverpb.Auth/UserRevokeRole", call IfUnsent;
    /// Adds a role.
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse = "etcdserverpb.Auth/RoleAdd", call IfUnsent;
    /// What a role permits.
    role_get(AuthRoleGetRequest) -> AuthRoleGetResponse = "etcdserverpb.Auth/RoleGet", call Freely;
    /// All roles.
    role_list(AuthRoleListRequest) -> AuthRoleListResponse = "etcdserverpb.Auth/RoleList", call Freely;
    /// Removes a role.
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse = "etcdserverpb.Auth/RoleDelete", call IfUnsent;
    /// Makes a role permit something.
    role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse = "etcdserverpb.Auth/RoleGrantPermission", call IfUnsent;
    /// Makes a role permit something no longer.
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse = "etcdserverpb.Auth/RoleRevokePermission", call IfUnsent;

    /// Waits for a lock, on the server's side.
    lock(LockRequest) -> LockResponse = "v3lockpb.Lock/Lock", call IfUnsent;
    /// Gives a lock back.
    unlock(UnlockRequest) -> UnlockResponse = "v3lockpb.Lock/Unlock", call IfUnsent;
    /// Waits to be elected, on the server's side.
    campaign(CampaignRequest) -> CampaignResponse = "v3electionpb.Election/Campaign", call IfUnsent;
    /// Changes what the leader says.
    proclaim(ProclaimRequest) -> ProclaimResponse = "v3electionpb.Election/Proclaim", call IfUnsent;
    /// Who is elected.
    leader(LeaderRequest) -> LeaderResponse = "v3electionpb.Election/Leader", call Freely;
    /// Steps down.
    resign(ResignRequest) -> ResignResponse = "v3electionpb.Election/Resign", call IfUnsent;

    /// Whether a member serves, in gRPC's own terms; see [`Client::at`].
    health_check(HealthCheckRequest) -> HealthCheckResponse = "grpc.health.v1.Health/Check", call Freely;
}

impl Client {
    /// Makes a call about keys of the namespace.
    async fn call_inside<Q, A>(&self, path: &'static str, mut request: Q, repeat: Repeat) -> Result<A, Error>
    where
        Q: Message + Enter + Clone + 'static,
        A: Message + Leave + Default + 'static,
    {
        let Some(space) = &self.core.namespace else {
            return self.call(path, request, repeat).await;
        };
        request.enter(space)?;
        let mut answer: A = self.call(path, request, repeat).await?;
        answer.leave(space);
        Ok(answer)
    }

    /// A transaction that does nothing more when it is done twice.
    pub(crate) async fn txn_again(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        self.call_inside("/etcdserverpb.KV/Txn", request, Repeat::Freely)
            .await
    }

    /// A deletion of what nobody else makes again.
    pub(crate) async fn delete_again(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Error> {
        self.call_inside("/etcdserverpb.KV/DeleteRange", request, Repeat::Freely)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams have modules of their own, ours too; that a member is healthy can be asked in three ways, of which one is enough.
    const NOT_HERE: [&str; 8] = [
        "etcdserverpb.KV/RangeStream",
        "etcdserverpb.Watch/Watch",
        "etcdserverpb.Lease/LeaseKeepAlive",
        "etcdserverpb.Maintenance/Snapshot",
        "v3electionpb.Election/Observe",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
        "keelson.v1.Progress/Watch",
    ];

    #[test]
    fn every_call_of_etcd_is_there() {
        let mut ours: Vec<_> = CALLS.iter().chain(&NOT_HERE).copied().collect();
        let mut all = proto::RPCS.to_vec();
        ours.sort_unstable();
        all.sort_unstable();
        assert_eq!(ours, all);
    }
}
