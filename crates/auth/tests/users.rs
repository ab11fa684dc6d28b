//! The rules about users and roles, request by request.

use std::collections::BTreeMap;
use std::sync::Arc;

use auth::{Access, Answer, Auth, Identity, Request, Row, TokenEffect};
use bytes::Bytes;
use proto::authpb::permission::Type;
use proto::authpb::{Permission, UserAddOptions};
use proto::etcdserverpb::*;
use types::{ErrorKind, KeyRange};

/// Users and roles, and somebody at work on them.
struct Store {
    auth: Arc<Auth>,
    who: Identity,
    index: u64,
    rows: Vec<Row>,
    tokens: TokenEffect,
}

impl Store {
    /// Off and empty; nobody asks.
    fn new() -> Self {
        Store {
            auth: Arc::default(),
            who: Identity::default(),
            index: 10,
            rows: vec![],
            tokens: TokenEffect::None,
        }
    }

    /// On, with user `root`, and `alice` who may read and write `a` to `c`.
    fn enabled() -> Self {
        let mut store = Store::new();
        for request in [
            add("root"),
            add("alice"),
            role_add("ab"),
            grant("ab", Type::Readwrite, "a", "c"),
            user_grant("root", "root"),
            user_grant("alice", "ab"),
            Request::Enable,
        ] {
            assert_eq!(store.ask(request), Ok(Answer::Done));
        }
        store.who = store.auth.identity("root");
        store
    }

    fn ask(&mut self, request: Request) -> Result<Answer, ErrorKind> {
        self.index += 1;
        let before = self.auth.clone();
        let executed = self.auth.execute(&self.who, &request, self.index);
        self.auth.check().unwrap();
        match executed {
            Ok((answer, rows, tokens)) => {
                self.tokens = tokens;
                self.rows = rows;
                Ok(answer)
            }
            Err(error) => {
                assert_eq!(self.auth, before, "a refused request changes nothing");
                Err(error)
            }
        }
    }

    fn ask_as(&mut self, user: &str, request: Request) -> Result<Answer, ErrorKind> {
        let who = self.auth.identity(user);
        let before = std::mem::replace(&mut self.who, who);
        let answer = self.ask(request);
        self.who = before;
        answer
    }

    fn may(&self, user: &str, access: Access, key: &'static str, end: &'static str) -> bool {
        let range = KeyRange::from_wire(key.into(), end.into());
        self.auth
            .permit(&self.auth.identity(user), access, &range)
            .is_ok()
    }
}

fn add(name: &str) -> Request {
    Request::UserAdd(AuthUserAddRequest {
        name: name.into(),
        hashed_password: "aGFzaA==".into(),
        ..Default::default()
    })
}

fn delete(name: &str) -> Request {
    Request::UserDelete(AuthUserDeleteRequest { name: name.into() })
}

fn get(name: &str) -> Request {
    Request::UserGet(AuthUserGetRequest { name: name.into() })
}

fn user_grant(user: &str, role: &str) -> Request {
    Request::UserGrantRole(AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    })
}

fn user_revoke(name: &str, role: &str) -> Request {
    Request::UserRevokeRole(AuthUserRevokeRoleRequest {
        name: name.into(),
        role: role.into(),
    })
}

fn role_add(name: &str) -> Request {
    Request::RoleAdd(AuthRoleAddRequest { name: name.into() })
}

fn role_delete(role: &str) -> Request {
    Request::RoleDelete(AuthRoleDeleteRequest { role: role.into() })
}

fn role_get(role: &str) -> Request {
    Request::RoleGet(AuthRoleGetRequest { role: role.into() })
}

fn permission(perm_type: Type, key: &str, end: &str) -> Permission {
    Permission {
        perm_type: perm_type.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
    }
}

fn grant(name: &str, perm_type: Type, key: &str, end: &str) -> Request {
    Request::RoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: name.into(),
        perm: Some(permission(perm_type, key, end)),
    })
}

fn revoke(role: &str, key: &str, end: &str) -> Request {
    Request::RoleRevokePermission(AuthRoleRevokePermissionRequest {
        role: role.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
    })
}

fn authenticate(name: &str) -> Request {
    Request::Authenticate(InternalAuthenticateRequest {
        name: name.into(),
        simple_token: "abc".into(),
        ..Default::default()
    })
}

fn names(names: &[&str]) -> Result<Answer, ErrorKind> {
    Ok(Answer::Names(
        names.iter().map(|name| (*name).to_owned()).collect(),
    ))
}

#[test]
fn authentication_needs_a_root_that_is_root() {
    let mut store = Store::new();
    assert_eq!(store.ask(Request::Enable), Err(ErrorKind::RootUserNotExist));
    store.ask(add("root")).unwrap();
    assert_eq!(store.ask(Request::Enable), Err(ErrorKind::RootRoleNotExist));
    // The role need not exist to be held.
    store.ask(user_grant("root", "root")).unwrap();
    assert_eq!(store.ask(Request::Enable), Ok(Answer::Done));
    assert_eq!(
        store.rows,
        [Row::Setting(Auth::ENABLED, Bytes::from_static(&[1]))]
    );
    assert_eq!(store.ask_as("root", Request::Enable), Ok(Answer::Done));
    assert_eq!(store.rows, []);
}

#[test]
fn every_change_makes_a_revision_but_switching_on_and_what_changes_nothing() {
    let mut store = Store::enabled();
    assert_eq!(store.auth.revision(), 7);
    for (request, revision) in [
        (user_grant("alice", "ab"), 7),
        (Request::Enable, 7),
        (Request::UserList, 7),
        (authenticate("alice"), 7),
        (role_add("x"), 8),
        (grant("x", Type::Read, "k", ""), 9),
        (grant("x", Type::Read, "k", ""), 10),
        (revoke("x", "k", ""), 11),
        (user_grant("alice", "x"), 12),
        (role_delete("x"), 13),
        (user_revoke("alice", "ab"), 14),
        (
            Request::UserChangePassword(AuthUserChangePasswordRequest {
                name: "alice".into(),
                ..Default::default()
            }),
            15,
        ),
        (delete("alice"), 16),
        (Request::Disable, 17),
        (Request::Disable, 17),
    ] {
        store.ask(request.clone()).unwrap();
        assert_eq!(store.auth.revision(), revision, "{request:?}");
    }
    assert_eq!(
        store.ask(Request::Status),
        Ok(Answer::Status {
            enabled: false,
            revision: 17
        })
    );
}

#[test]
fn refusals_have_etcds_names() {
    use ErrorKind::*;
    let mut store = Store::enabled();
    let no_permission = Request::RoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: "none".into(),
        perm: None,
    });
    let bad_hash = Request::UserAdd(AuthUserAddRequest {
        name: "u".into(),
        hashed_password: "&".into(),
        ..Default::default()
    });
    for (request, error) in [
        (add(""), UserEmpty),
        (add("alice"), UserAlreadyExist),
        (bad_hash, NoPasswordUser),
        (delete("bob"), UserNotFound),
        (delete("root"), InvalidAuthMgmt),
        (get("bob"), UserNotFound),
        (user_grant("bob", "none"), UserNotFound),
        (user_grant("alice", "none"), RoleNotFound),
        (user_revoke("root", "root"), InvalidAuthMgmt),
        (user_revoke("bob", "ab"), UserNotFound),
        (user_revoke("alice", "none"), RoleNotGranted),
        (role_add(""), RoleEmpty),
        (role_add("ab"), RoleAlreadyExist),
        (role_delete("none"), RoleNotFound),
        (role_delete("root"), InvalidAuthMgmt),
        (role_get("none"), RoleNotFound),
        (no_permission, PermissionNotGiven),
        (grant("none", Type::Read, "", ""), InvalidAuthMgmt),
        (grant("none", Type::Read, "b", "a"), InvalidAuthMgmt),
        (grant("none", Type::Read, "b", "b"), InvalidAuthMgmt),
        (grant("none", Type::Read, "b", "\0"), RoleNotFound),
        (revoke("none", "a", "c"), RoleNotFound),
        (revoke("ab", "a", ""), PermissionNotGranted),
        (authenticate("bob"), AuthFailed),
    ] {
        assert_eq!(store.ask(request.clone()), Err(error), "{request:?}");
    }
    store.ask(Request::Disable).unwrap();
    assert_eq!(store.ask(authenticate("alice")), Err(AuthNotEnabled));
    assert_eq!(store.ask(delete("root")), Ok(Answer::Done));
}

#[test]
fn only_root_manages_and_users_see_themselves_and_their_roles() {
    use ErrorKind::*;
    let mut store = Store::enabled();
    store.ask(role_add("other")).unwrap();
    for request in [
        Request::UserList,
        Request::RoleList,
        Request::Enable,
        Request::Disable,
        add("x"),
        delete("alice"),
        role_add("x"),
        role_delete("ab"),
        grant("ab", Type::Read, "x", ""),
        revoke("ab", "a", "c"),
        user_grant("alice", "root"),
        user_revoke("alice", "ab"),
        get("root"),
        role_get("other"),
    ] {
        assert_eq!(
            store.ask_as("alice", request.clone()),
            Err(PermissionDenied),
            "{request:?}"
        );
        assert_eq!(
            store.ask_as("bob", request.clone()),
            Err(UserNotFound),
            "{request:?}"
        );
        assert_eq!(store.ask_as("", request.clone()), Err(UserEmpty), "{request:?}");
    }
    assert_eq!(store.ask_as("alice", get("alice")), names(&["ab"]));
    let seen = store.ask_as("alice", role_get("ab"));
    assert_eq!(
        seen,
        Ok(Answer::Permissions(vec![permission(Type::Readwrite, "a", "c")]))
    );
    assert!(store.ask_as("", Request::Status).is_ok());
    assert_eq!(store.ask(Request::UserList), names(&["alice", "root"]));
    assert_eq!(store.ask(Request::RoleList), names(&["ab", "other"]));
}

#[test]
fn root_is_who_holds_the_role_and_reaches_everything() {
    let mut store = Store::enabled();
    assert!(store.may("root", Access::Write, "\0", "\0"));
    assert!(!store.may("alice", Access::Read, "z", ""));
    store.ask(user_grant("alice", "root")).unwrap();
    assert!(store.may("alice", Access::Write, "\0", "\0"));
    assert_eq!(
        store.ask_as("alice", Request::UserList),
        names(&["alice", "root"])
    );
    store.ask(role_add("root")).unwrap();
    assert_eq!(
        store.ask(role_get("root")),
        Ok(Answer::Permissions(vec![permission(Type::Readwrite, "", "\0")]))
    );
}

#[test]
fn what_roles_say_counts_at_once_and_for_everybody_who_holds_them() {
    let mut store = Store::enabled();
    store.ask(add("bob")).unwrap();
    store.ask(user_grant("bob", "ab")).unwrap();
    store.ask(grant("ab", Type::Read, "x", "\0")).unwrap();
    for user in ["alice", "bob"] {
        assert!(store.may(user, Access::Read, "y", "\0") && !store.may(user, Access::Write, "y", ""));
    }
    store.ask(user_revoke("bob", "ab")).unwrap();
    assert!(!store.may("bob", Access::Read, "y", "") && store.may("alice", Access::Read, "y", ""));
    store.ask(role_delete("ab")).unwrap();
    assert!(!store.may("alice", Access::Read, "a", ""));
    assert_eq!(store.ask(get("alice")), names(&[]));
}

#[test]
fn a_range_is_permitted_to_somebody_of_this_revision_only() {
    use ErrorKind::*;
    let mut store = Store::enabled();
    let a = KeyRange::One("a".into());
    let early = store.auth.identity("alice");
    assert_eq!(store.auth.permit(&early, Access::Read, &a), Ok(()));
    store.ask(role_add("x")).unwrap();
    let permit = |who: &Identity| store.auth.permit(who, Access::Read, &a);
    assert_eq!(permit(&early), Err(AuthOldRevision));
    assert_eq!(permit(&Identity::default()), Err(UserEmpty));
    assert_eq!(permit(&store.auth.identity("bob")), Err(PermissionDenied));
    store.ask(Request::Disable).unwrap();
    let permit = |who: &Identity| store.auth.permit(who, Access::Read, &a);
    assert_eq!(permit(&Identity::default()), Ok(()));
}

#[test]
fn a_permission_on_the_same_range_is_replaced_and_others_are_kept_in_order() {
    let mut store = Store::enabled();
    store.ask(role_add("r")).unwrap();
    for (perm_type, key, end) in [
        (Type::Read, "m", "n"),
        (Type::Read, "b", ""),
        (Type::Write, "b", "c"),
        (Type::Readwrite, "b", ""),
        // The first with this key is another one: it comes to be there twice.
        (Type::Read, "b", "c"),
    ] {
        store.ask(grant("r", perm_type, key, end)).unwrap();
    }
    let granted = vec![
        permission(Type::Readwrite, "b", ""),
        permission(Type::Write, "b", "c"),
        permission(Type::Read, "b", "c"),
        permission(Type::Read, "m", "n"),
    ];
    assert_eq!(store.ask(role_get("r")), Ok(Answer::Permissions(granted)));
    store.ask(revoke("r", "b", "c")).unwrap();
    let granted = vec![
        permission(Type::Readwrite, "b", ""),
        permission(Type::Read, "m", "n"),
    ];
    assert_eq!(store.ask(role_get("r")), Ok(Answer::Permissions(granted)));
}

#[test]
fn a_token_is_numbered_by_the_entry_before_and_ends_with_its_user_or_password() {
    let mut store = Store::enabled();
    let (user, revision) = ("alice".to_owned(), store.auth.revision());
    let token = format!("abc.{}", store.index);
    assert_eq!(
        store.ask_as("", authenticate("alice")),
        Ok(Answer::Authenticated {
            user: user.clone(),
            token: token.clone(),
            revision
        })
    );
    assert_eq!(store.tokens, TokenEffect::Assign { token, user });
    store
        .ask(Request::UserChangePassword(AuthUserChangePasswordRequest {
            name: "alice".into(),
            hashed_password: "bmV3".into(),
            ..Default::default()
        }))
        .unwrap();
    assert_eq!(store.tokens, TokenEffect::EndOf("alice".into()));
    assert_eq!(store.auth.credentials("alice").unwrap().hash, "new");
    store.ask(user_revoke("alice", "ab")).unwrap();
    assert_eq!(store.tokens, TokenEffect::None);
    store.ask(delete("alice")).unwrap();
    assert_eq!(store.tokens, TokenEffect::EndOf("alice".into()));
    store.ask(Request::Disable).unwrap();
    assert_eq!(store.tokens, TokenEffect::EndAll);
}

#[test]
fn a_user_without_password_can_not_sign_in_with_one() {
    let mut store = Store::enabled();
    let request = AuthUserAddRequest {
        name: "cert".into(),
        hashed_password: "aGFzaA==".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    store.ask(Request::UserAdd(request)).unwrap();
    assert_eq!(store.auth.credentials("cert"), Err(ErrorKind::NoPasswordUser));
    assert_eq!(store.ask(authenticate("cert")), Err(ErrorKind::AuthFailed));
    assert_eq!(store.auth.credentials("bob"), Err(ErrorKind::AuthFailed));
}

#[test]
fn a_plain_password_of_an_old_log_is_hashed_alike_by_everybody() {
    let request = AuthUserAddRequest {
        name: "old".into(),
        password: "secret".into(),
        ..Default::default()
    };
    let hash = || {
        let mut store = Store::enabled();
        store.ask(Request::UserAdd(request.clone())).unwrap();
        store.auth.credentials("old").unwrap().hash
    };
    assert!(auth::password::verify(b"secret", &hash()));
    assert_eq!(hash(), hash());
}

/// The bytes are those that Go's members store.
#[test]
fn users_and_roles_are_stored_as_go_stores_them() {
    let mut store = Store::new();
    store.ask(add("u")).unwrap();
    let user = Bytes::from_static(b"\x0a\x01u\x12\x04hash\x22\x00");
    let revision = |last: u8| Row::Setting(Auth::REVISION, Bytes::from(vec![0, 0, 0, 0, 0, 0, 0, last]));
    assert_eq!(store.rows, [Row::User("u".into(), Some(user)), revision(2)]);
    store.ask(role_add("r")).unwrap();
    store.ask(grant("r", Type::Readwrite, "k", "\0")).unwrap();
    let role = Bytes::from_static(b"\x0a\x01r\x12\x08\x08\x02\x12\x01k\x1a\x01\0");
    assert_eq!(store.rows, [Row::Role("r".into(), Some(role)), revision(4)]);
}

#[test]
fn what_the_tables_hold_is_read_back() {
    let mut store = Store::new();
    let (mut settings, mut users, mut roles) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for request in [
        add("root"),
        add("alice"),
        add("gone"),
        delete("gone"),
        role_add("ab"),
        grant("ab", Type::Read, "a", "c"),
        user_grant("root", "root"),
        user_grant("alice", "ab"),
        Request::Enable,
    ] {
        store.ask(request).unwrap();
        for row in store.rows.drain(..) {
            match row {
                Row::Setting(key, value) => drop(settings.insert(key, value)),
                Row::User(name, Some(value)) => drop(users.insert(name, value)),
                Row::User(name, None) => drop(users.remove(&name)),
                Row::Role(name, value) => drop(roles.insert(name, value.unwrap())),
            }
        }
    }
    let mut restored = Auth::default();
    for (key, value) in &settings {
        restored.load_setting(key, value).unwrap();
    }
    for (name, value) in &users {
        restored.load_user(name, value).unwrap();
    }
    for (name, value) in &roles {
        restored.load_role(name, value).unwrap();
    }
    restored.complete();
    restored.check().unwrap();
    assert_eq!(restored, *store.auth);
}

#[test]
fn damaged_rows_are_not_read() {
    let mut auth = Auth::default();
    let damaged = Bytes::from_static(b"\xff");
    assert!(auth.load_user(&"u".into(), &damaged).is_err());
    assert!(auth.load_role(&"r".into(), &damaged).is_err());
    assert!(auth.load_setting(Auth::REVISION, b"short").is_err());
    assert_eq!(auth.load_setting(b"any", b"thing"), Ok(()));
}
