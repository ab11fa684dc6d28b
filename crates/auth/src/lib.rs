//! Users, roles, and who may touch which keys.
//!
//! A *user* has a password, or signs in by other means, and holds *roles*. A role holds *permissions*: to read, to
//! write, or both, a key or a range of keys. What a user reaches is the union of what its roles grant; the range of
//! a request is permitted only if that union covers all of it ([`Reach`]). Whoever holds the role `root` may do
//! everything, and only such a user may change users and roles.
//!
//! ```text
//!   Request ──► Auth::execute ──► Answer        what the client is told
//!     (who)         │             Vec<Row>      what the tables hold from now on
//!                   ▼             TokenEffect   what becomes of tokens
//!               users, roles,
//!               revision, on/off
//! ```
//!
//! All of it is a function of the log. The one exception are [`Tokens`]: that there is a token is a fact of the
//! log, how long it still lives is a matter of each member's clock.
//!
//! # The revision
//!
//! Every change of users and roles, and switching off, makes a new *auth revision*. A request carries the one under
//! which its user was identified. An older one is refused ([`ErrorKind::AuthOldRevision`]): between the check and
//! the execution of a request somebody may have taken the permission away.
//!
//! # Invariants ([`Auth::check`])
//!
//! * While authentication is on there is a user `root` that holds the role `root`.
//! * What a user reaches is what its roles say now.
//!
//! # Sources
//!
//! etcd's pages "Role-based access control" and "etcd v3 authentication design". The messages in the tables are
//! etcd's own, field by field, so that Go members, snapshots and data folders agree with ours.

mod execute;
pub mod password;
mod reach;
mod request;
mod token;

pub use execute::hash_in_request;
pub use reach::Reach;
pub use request::{Answer, Request, Row, TokenEffect};
pub use token::Tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::authpb::{Role, User};
use types::{ErrorKind, KeyRange};

/// The user that must exist before authentication can be switched on, and the role it must hold.
pub const ROOT: &str = "root";

/// The revision of a store in which nothing was changed yet.
const FIRST_REVISION: u64 = 1;

/// Who asks, and under which auth revision that was found out. The default is nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// The auth revision; 0 for nobody.
    pub revision: u64,
}

/// What is done to keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Access {
    Read,
    Write,
}

/// What a password is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The hash of the right password, as stored.
    pub hash: Bytes,
    /// The auth revision under which it is the right one.
    pub revision: u64,
}

/// Users and roles. Cheap to clone: users and roles are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<Bytes, Arc<Account>>,
    roles: BTreeMap<Bytes, Arc<Role>>,
}

/// A user, and what follows from its roles.
#[derive(Clone, Debug, PartialEq)]
struct Account {
    user: User,
    is_root: bool,
    reach: Reach,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            enabled: false,
            revision: FIRST_REVISION,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
        }
    }
}

/// A row of a table is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRow(String);

/// Reading the tables back. The users come to their permissions once all rows are there: [`Auth::complete`].
impl Auth {
    /// The key of the table `auth` that says whether authentication is on: one byte, 0 or 1.
    pub const ENABLED: &[u8] = b"authEnabled";
    /// The key of the table `auth` that holds the revision: eight bytes, big-endian.
    pub const REVISION: &[u8] = b"authRevision";

    /// Takes a row of the table `auth`; a key that etcd does not know either is passed over.
    pub fn load_setting(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadRow> {
        match key {
            Self::ENABLED => self.enabled = value == [1],
            Self::REVISION => {
                let revision = value.try_into().map_err(|_| BadRow("not eight bytes".into()))?;
                self.revision = u64::from_be_bytes(revision).max(FIRST_REVISION);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes a row of the table `authUsers`.
    pub fn load_user(&mut self, name: &Bytes, value: &Bytes) -> Result<(), BadRow> {
        let user = User::decode(value.clone()).map_err(|error| BadRow(error.to_string()))?;
        self.put_user(name.clone(), user);
        Ok(())
    }

    /// Takes a row of the table `authRoles`.
    pub fn load_role(&mut self, name: &Bytes, value: &Bytes) -> Result<(), BadRow> {
        let role = Role::decode(value.clone()).map_err(|error| BadRow(error.to_string()))?;
        self.roles.insert(name.clone(), Arc::new(role));
        Ok(())
    }

    /// Works out what users reach, now that all users and roles are known.
    pub fn complete(&mut self) {
        let users = std::mem::take(&mut self.users);
        for (name, account) in users {
            self.put_user(name, account.user.clone());
        }
    }
}

/// Questions.
impl Auth {
    /// Whether authentication is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The auth revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The identity of a user as of now.
    pub fn identity(&self, user: &str) -> Identity {
        Identity {
            user: user.to_owned(),
            revision: self.revision,
        }
    }

    /// Whether `who` may do this to the keys of `range`.
    ///
    /// # Errors
    /// `UserEmpty` for nobody, `AuthOldRevision` for somebody of an earlier revision, `PermissionDenied`.
    pub fn permit(&self, who: &Identity, access: Access, range: &KeyRange) -> Result<(), ErrorKind> {
        if !self.enabled {
            return Ok(());
        }
        if who.revision == 0 {
            return Err(ErrorKind::UserEmpty);
        }
        if who.revision < self.revision {
            return Err(ErrorKind::AuthOldRevision);
        }
        match self.account(&who.user) {
            Some(account) if account.is_root || account.reach.covers(access, range) => Ok(()),
            _ => Err(ErrorKind::PermissionDenied),
        }
    }

    /// Whether `who` may do what is reserved to holders of the role `root`.
    ///
    /// # Errors
    /// `UserEmpty` for nobody, `UserNotFound` for somebody who has been deleted, `PermissionDenied`.
    pub fn require_root(&self, who: &Identity) -> Result<(), ErrorKind> {
        if !self.enabled {
            return Ok(());
        }
        if who.user.is_empty() {
            return Err(ErrorKind::UserEmpty);
        }
        match self.account(&who.user) {
            Some(account) if account.is_root => Ok(()),
            Some(_) => Err(ErrorKind::PermissionDenied),
            None => Err(ErrorKind::UserNotFound),
        }
    }

    /// What the password of a user is to be compared with.
    ///
    /// # Errors
    /// `AuthNotEnabled`; `AuthFailed` for an unknown user; `NoPasswordUser`.
    pub fn credentials(&self, user: &str) -> Result<Credentials, ErrorKind> {
        if !self.enabled {
            return Err(ErrorKind::AuthNotEnabled);
        }
        let user = &self.account(user).ok_or(ErrorKind::AuthFailed)?.user;
        match has_no_password(user) {
            true => Err(ErrorKind::NoPasswordUser),
            false => Ok(Credentials {
                hash: user.password.clone(),
                revision: self.revision,
            }),
        }
    }

    /// Checks the invariants.
    pub fn check(&self) -> Result<(), String> {
        let root = self.account(ROOT);
        if self.enabled && !root.is_some_and(|root| root.is_root) {
            return Err("authentication is on without a user root that holds the role root".into());
        }
        for (name, account) in &self.users {
            if account.reach != self.reach(&account.user) {
                return Err(format!(
                    "user {} reaches what its roles do not say",
                    name.escape_ascii()
                ));
            }
        }
        Ok(())
    }

    fn account(&self, user: &str) -> Option<&Account> {
        self.users.get(user.as_bytes()).map(|account| &**account)
    }

    fn reach(&self, user: &User) -> Reach {
        let roles = user
            .roles
            .iter()
            .filter_map(|role| self.roles.get(role.as_bytes()));
        Reach::new(roles.flat_map(|role| &role.key_permission))
    }

    fn put_user(&mut self, name: Bytes, user: User) {
        let account = Account {
            is_root: user.roles.iter().any(|role| role == ROOT),
            reach: self.reach(&user),
            user,
        };
        self.users.insert(name, Arc::new(account));
    }
}

fn has_no_password(user: &User) -> bool {
    user.options.is_some_and(|options| options.no_password)
}
