//! Carrying requests out.
//!
//! Every rule here is one that all members, Go's among them, evaluate alike, down to which of two refusals comes
//! first and what raises the revision.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost::Message;
use proto::authpb::{Permission, Role, User, permission};
use proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
    InternalAuthenticateRequest,
};
use types::{ErrorKind, Index};

use crate::{Answer, Auth, Identity, ROOT, Request, Row, TokenEffect, has_no_password, password};

/// Base64 as Go reads it: the last bits of the last letter may be anything.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// What carrying out a request came to.
type Executed = Result<(Answer, Vec<Row>, TokenEffect), ErrorKind>;

/// The rows that a change wrote.
type Changed = Result<Vec<Row>, ErrorKind>;

impl Auth {
    /// Carries out a request of `who` at its place in the log. Whoever holds the state as it was keeps it.
    pub fn execute(self: &mut Arc<Self>, who: &Identity, request: &Request, index: Index) -> Executed {
        if request.needs_root() {
            self.require_root(who)?;
        }
        let answer = match request {
            Request::Status => Answer::Status {
                enabled: self.enabled,
                revision: self.revision,
            },
            Request::UserList => Answer::Names(names(self.users.keys())),
            Request::RoleList => Answer::Names(names(self.roles.keys())),
            Request::UserGet(request) => Answer::Names(self.user_get(who, &request.name)?),
            Request::RoleGet(request) => Answer::Permissions(self.role_get(who, &request.role)?),
            Request::Authenticate(request) => return self.authenticate(request, index),
            change => {
                let rows = Arc::make_mut(self).change(change, index)?;
                return Ok((Answer::Done, rows, change.end_of_tokens()));
            }
        };
        Ok((answer, vec![], TokenEffect::None))
    }

    fn change(&mut self, request: &Request, index: Index) -> Changed {
        match request {
            Request::Enable => self.enable(),
            Request::Disable => Ok(self.disable()),
            Request::UserAdd(request) => self.user_add(request, index),
            Request::UserDelete(request) => self.user_delete(&request.name),
            Request::UserChangePassword(request) => self.user_change_password(request, index),
            Request::UserGrantRole(request) => self.user_grant_role(request),
            Request::UserRevokeRole(request) => self.user_revoke_role(request),
            Request::RoleAdd(request) => self.role_add(request),
            Request::RoleDelete(request) => self.role_delete(&request.role),
            Request::RoleGrantPermission(request) => self.role_grant_permission(request),
            Request::RoleRevokePermission(request) => self.role_revoke_permission(request),
            Request::Status
            | Request::Authenticate(_)
            | Request::UserGet(_)
            | Request::UserList
            | Request::RoleGet(_)
            | Request::RoleList => Ok(vec![]),
        }
    }
}

/// The switch.
impl Auth {
    fn enable(&mut self) -> Changed {
        if self.enabled {
            return Ok(vec![]);
        }
        let root = self.account(ROOT).ok_or(ErrorKind::RootUserNotExist)?;
        if !root.is_root {
            return Err(ErrorKind::RootRoleNotExist);
        }
        self.enabled = true;
        Ok(vec![Row::Setting(Self::ENABLED, Bytes::from_static(&[1]))])
    }

    fn disable(&mut self) -> Vec<Row> {
        if !self.enabled {
            return vec![];
        }
        self.enabled = false;
        vec![
            Row::Setting(Self::ENABLED, Bytes::from_static(&[0])),
            self.next_revision(),
        ]
    }

    /// Gives out a token for a user whose password was found right before the request went into the log. The token's
    /// number is the index of the entry *before*: so Go's members number theirs, and all have to have the same.
    fn authenticate(&self, request: &InternalAuthenticateRequest, index: Index) -> Executed {
        self.credentials(&request.name).map_err(|error| match error {
            ErrorKind::NoPasswordUser => ErrorKind::AuthFailed,
            error => error,
        })?;
        let (user, token) = (
            request.name.clone(),
            format!("{}.{}", request.simple_token, index.saturating_sub(1)),
        );
        let effect = TokenEffect::Assign {
            token: token.clone(),
            user: user.clone(),
        };
        let answer = Answer::Authenticated {
            user,
            token,
            revision: self.revision,
        };
        Ok((answer, vec![], effect))
    }

    fn next_revision(&mut self) -> Row {
        self.revision += 1;
        Row::Setting(
            Self::REVISION,
            Bytes::copy_from_slice(&self.revision.to_be_bytes()),
        )
    }
}

/// Users.
impl Auth {
    /// The roles of a user; it may ask for its own.
    fn user_get(&self, who: &Identity, name: &str) -> Result<Vec<String>, ErrorKind> {
        if who.user != name {
            self.require_root(who)?;
        }
        Ok(self.user(name)?.roles)
    }

    fn user_add(&mut self, request: &AuthUserAddRequest, index: Index) -> Changed {
        if request.name.is_empty() {
            return Err(ErrorKind::UserEmpty);
        }
        if self.account(&request.name).is_some() {
            return Err(ErrorKind::UserAlreadyExist);
        }
        let options = request.options.unwrap_or_default();
        let password = match options.no_password {
            true => Bytes::new(),
            false => stored_password(&request.name, &request.password, &request.hashed_password, index)?,
        };
        let user = User {
            name: Bytes::copy_from_slice(request.name.as_bytes()),
            password,
            roles: vec![],
            options: Some(options),
        };
        Ok(vec![self.set_user(user), self.next_revision()])
    }

    fn user_delete(&mut self, name: &str) -> Changed {
        if self.enabled && name == ROOT {
            return Err(ErrorKind::InvalidAuthMgmt);
        }
        let (name, _) = self
            .users
            .remove_entry(name.as_bytes())
            .ok_or(ErrorKind::UserNotFound)?;
        Ok(vec![Row::User(name, None), self.next_revision()])
    }

    fn user_change_password(&mut self, request: &AuthUserChangePasswordRequest, index: Index) -> Changed {
        let mut user = self.user(&request.name)?;
        user.password = match has_no_password(&user) {
            true => Bytes::new(),
            false => stored_password(&request.name, &request.password, &request.hashed_password, index)?,
        };
        Ok(vec![self.set_user(user), self.next_revision()])
    }

    /// Gives a user a role; `root` need not exist. One it has already changes nothing.
    fn user_grant_role(&mut self, request: &AuthUserGrantRoleRequest) -> Changed {
        let mut user = self.user(&request.user)?;
        if request.role != ROOT && !self.roles.contains_key(request.role.as_bytes()) {
            return Err(ErrorKind::RoleNotFound);
        }
        match user.roles.binary_search(&request.role) {
            Ok(_) => return Ok(vec![]),
            Err(at) => user.roles.insert(at, request.role.clone()),
        }
        Ok(vec![self.set_user(user), self.next_revision()])
    }

    fn user_revoke_role(&mut self, request: &AuthUserRevokeRoleRequest) -> Changed {
        if self.enabled && request.name == ROOT && request.role == ROOT {
            return Err(ErrorKind::InvalidAuthMgmt);
        }
        let user = self.user(&request.name)?;
        let user = without_role(&user, &request.role).ok_or(ErrorKind::RoleNotGranted)?;
        Ok(vec![self.set_user(user), self.next_revision()])
    }

    fn user(&self, name: &str) -> Result<User, ErrorKind> {
        let account = self.account(name).ok_or(ErrorKind::UserNotFound)?;
        Ok(account.user.clone())
    }

    fn set_user(&mut self, user: User) -> Row {
        let (name, row) = (user.name.clone(), user.encode_to_vec().into());
        self.put_user(name.clone(), user);
        Row::User(name, Some(row))
    }
}

/// Roles.
impl Auth {
    /// What a role permits; its holders may ask.
    fn role_get(&self, who: &Identity, name: &str) -> Result<Vec<Permission>, ErrorKind> {
        let holds = |who: &Identity| {
            let account = self.account(&who.user);
            account.is_some_and(|account| account.user.roles.iter().any(|role| role == name))
        };
        match self.require_root(who) {
            Err(error) if !holds(who) => return Err(error),
            _ => {}
        }
        let role = self.role(name)?;
        match name == ROOT {
            true => Ok(vec![everything()]),
            false => Ok(role.key_permission),
        }
    }

    fn role_add(&mut self, request: &AuthRoleAddRequest) -> Changed {
        if request.name.is_empty() {
            return Err(ErrorKind::RoleEmpty);
        }
        if self.role(&request.name).is_ok() {
            return Err(ErrorKind::RoleAlreadyExist);
        }
        let role = Role {
            name: Bytes::copy_from_slice(request.name.as_bytes()),
            key_permission: vec![],
        };
        Ok(vec![self.set_role(role), self.next_revision()])
    }

    /// Deletes a role, and takes it away from all users.
    fn role_delete(&mut self, name: &str) -> Changed {
        if self.enabled && name == ROOT {
            return Err(ErrorKind::InvalidAuthMgmt);
        }
        let (name, _) = self
            .roles
            .remove_entry(name.as_bytes())
            .ok_or(ErrorKind::RoleNotFound)?;
        let role = String::from_utf8_lossy(&name).into_owned();
        let holders: Vec<User> = self
            .users
            .values()
            .filter_map(|account| without_role(&account.user, &role))
            .collect();
        let mut rows = vec![Row::Role(name, None)];
        rows.extend(holders.into_iter().map(|user| self.set_user(user)));
        rows.push(self.next_revision());
        Ok(rows)
    }

    /// Adds a permission, or changes what may be done to the very same range. Permissions are in the order of their
    /// keys. Only the first one with the same key is looked at, so a range can come to be there twice.
    fn role_grant_permission(&mut self, request: &AuthRoleGrantPermissionRequest) -> Changed {
        let grant = request.perm.as_ref().ok_or(ErrorKind::PermissionNotGiven)?;
        if !is_valid_range(grant) {
            return Err(ErrorKind::InvalidAuthMgmt);
        }
        let mut role = self.role(&request.name)?;
        let permissions = &mut role.key_permission;
        let at = permissions.partition_point(|other| other.key < grant.key);
        match permissions.get_mut(at) {
            Some(same) if same.key == grant.key && same.range_end == grant.range_end => {
                same.perm_type = grant.perm_type;
            }
            _ => {
                permissions.push(grant.clone());
                permissions.sort_by(|a, b| a.key.cmp(&b.key));
            }
        }
        Ok(vec![self.set_role(role), self.next_revision()])
    }

    fn role_revoke_permission(&mut self, request: &AuthRoleRevokePermissionRequest) -> Changed {
        let mut role = self.role(&request.role)?;
        let before = role.key_permission.len();
        role.key_permission
            .retain(|granted| granted.key != request.key || granted.range_end != request.range_end);
        if role.key_permission.len() == before {
            return Err(ErrorKind::PermissionNotGranted);
        }
        Ok(vec![self.set_role(role), self.next_revision()])
    }

    fn role(&self, name: &str) -> Result<Role, ErrorKind> {
        let role = self.roles.get(name.as_bytes()).ok_or(ErrorKind::RoleNotFound)?;
        Ok(Role::clone(role))
    }

    /// Sets a role; its holders reach what it says from now on.
    fn set_role(&mut self, role: Role) -> Row {
        let (key, row) = (role.name.clone(), role.encode_to_vec().into());
        let name = String::from_utf8_lossy(&key).into_owned();
        self.roles.insert(key.clone(), Arc::new(role));
        let holders: Vec<_> = self
            .users
            .iter()
            .filter(|(_, account)| account.user.roles.contains(&name))
            .map(|(user, account)| (user.clone(), account.user.clone()))
            .collect();
        for (user, holder) in holders {
            self.put_user(user, holder);
        }
        Row::Role(key, Some(row))
    }
}

/// What the role `root` is said to permit.
fn everything() -> Permission {
    Permission {
        perm_type: permission::Type::Readwrite.into(),
        key: Bytes::new(),
        range_end: Bytes::from_static(&[0]),
    }
}

/// A user without the role, if it had it.
fn without_role(user: &User, role: &str) -> Option<User> {
    let mut without = user.clone();
    without.roles.retain(|held| held != role);
    (without.roles.len() < user.roles.len()).then_some(without)
}

fn is_valid_range(permission: &Permission) -> bool {
    let (key, end) = (&permission.key, &permission.range_end);
    !key.is_empty() && (end.is_empty() || key < end || end[..] == [0])
}

/// The password as it is stored. Requests carry its hash, in Base64. Before 3.5 they carried the password itself, and
/// each member salted it on its own; here the salt is made of the entry, so that at least our members agree.
fn stored_password(user: &str, plain: &str, hashed: &str, index: Index) -> Result<Bytes, ErrorKind> {
    if !plain.is_empty() && hashed.is_empty() {
        let salt = password::Salt::derived(&[user.as_bytes(), &index.to_be_bytes()]);
        return password::hash(plain.as_bytes(), password::DEFAULT_COST, salt).map(Bytes::from);
    }
    // Go's decoder passes over line ends.
    let letters: String = hashed.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let decoded = BASE64.decode(letters).map_err(|_| ErrorKind::NoPasswordUser)?;
    Ok(decoded.into())
}

/// A hash as requests carry it.
pub fn hash_in_request(hash: &str) -> String {
    BASE64.encode(hash)
}

fn names<'a>(keys: impl Iterator<Item = &'a Bytes>) -> Vec<String> {
    keys.map(|key| String::from_utf8_lossy(key).into_owned())
        .collect()
}
