//! What is asked, and what comes of it.

use bytes::Bytes;
use proto::authpb::Permission;
use proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserDeleteRequest, AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
    InternalAuthenticateRequest,
};

/// One request of the log about users, roles, or the switch.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Request {
    Enable,
    Disable,
    Status,
    /// The password was right: see [`Credentials`](crate::Credentials).
    Authenticate(InternalAuthenticateRequest),
    UserAdd(AuthUserAddRequest),
    UserGet(AuthUserGetRequest),
    UserList,
    UserDelete(AuthUserDeleteRequest),
    UserChangePassword(AuthUserChangePasswordRequest),
    UserGrantRole(AuthUserGrantRoleRequest),
    UserRevokeRole(AuthUserRevokeRoleRequest),
    RoleAdd(AuthRoleAddRequest),
    RoleGet(AuthRoleGetRequest),
    RoleList,
    RoleDelete(AuthRoleDeleteRequest),
    RoleGrantPermission(AuthRoleGrantPermissionRequest),
    RoleRevokePermission(AuthRoleRevokePermissionRequest),
}

impl Request {
    /// Its name in etcd's metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Request::Enable => "AuthEnable",
            Request::Disable => "AuthDisable",
            Request::Status => "AuthStatus",
            Request::Authenticate(_) => "Authenticate",
            Request::UserAdd(_) => "AuthUserAdd",
            Request::UserGet(_) => "AuthUserGet",
            Request::UserList => "AuthUserList",
            Request::UserDelete(_) => "AuthUserDelete",
            Request::UserChangePassword(_) => "AuthUserChangePassword",
            Request::UserGrantRole(_) => "AuthUserGrantRole",
            Request::UserRevokeRole(_) => "AuthUserRevokeRole",
            Request::RoleAdd(_) => "AuthRoleAdd",
            Request::RoleGet(_) => "AuthRoleGet",
            Request::RoleList => "AuthRoleList",
            Request::RoleDelete(_) => "AuthRoleDelete",
            Request::RoleGrantPermission(_) => "AuthRoleGrantPermission",
            Request::RoleRevokePermission(_) => "AuthRoleRevokePermission",
        }
    }

    /// The tokens that are void once it is done.
    pub(crate) fn end_of_tokens(&self) -> TokenEffect {
        match self {
            Request::Disable => TokenEffect::EndAll,
            Request::UserDelete(request) => TokenEffect::EndOf(request.name.clone()),
            Request::UserChangePassword(request) => TokenEffect::EndOf(request.name.clone()),
            _ => TokenEffect::None,
        }
    }

    /// Whether only a holder of the role `root` may ask this. Who may see a single user or role depends on
    /// which; whether authentication is on, and a token, may be asked for by anybody.
    pub(crate) fn needs_root(&self) -> bool {
        match self {
            Request::Status | Request::Authenticate(_) | Request::UserGet(_) | Request::RoleGet(_) => false,
            Request::Enable
            | Request::Disable
            | Request::UserAdd(_)
            | Request::UserList
            | Request::UserDelete(_)
            | Request::UserChangePassword(_)
            | Request::UserGrantRole(_)
            | Request::UserRevokeRole(_)
            | Request::RoleAdd(_)
            | Request::RoleList
            | Request::RoleDelete(_)
            | Request::RoleGrantPermission(_)
            | Request::RoleRevokePermission(_) => true,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It was done; there is no more to say.
    Done,
    /// Whether authentication is on, and the auth revision.
    Status {
        /// Whether it is on.
        enabled: bool,
        /// The revision.
        revision: u64,
    },
    /// A user is who it says.
    Authenticated {
        /// The user.
        user: String,
        /// Its token, where tokens are simple ones.
        token: String,
        /// The auth revision.
        revision: u64,
    },
    /// All users or roles, or the roles of a user.
    Names(Vec<String>),
    /// What a role permits.
    Permissions(Vec<Permission>),
}

/// A row of a table as it is from now on; without a value it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Of the table `auth`.
    Setting(&'static [u8], Bytes),
    /// Of the table `authUsers`.
    User(Bytes, Option<Bytes>),
    /// Of the table `authRoles`.
    Role(Bytes, Option<Bytes>),
}

/// What becomes of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenEffect {
    /// Nothing.
    #[default]
    None,
    /// There is a new one.
    Assign {
        /// The token.
        token: String,
        /// Whose it is.
        user: String,
    },
    /// Those of this user are void.
    EndOf(String),
    /// All are void.
    EndAll,
}
