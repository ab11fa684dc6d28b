//! Users at work: who may do what in the log, in which order refusals come, and what the tables keep.

mod common;

use auth::Answer as AuthAnswer;
use common::*;
use machine::{Effect, Outcome};
use mvcc::Table;
use proto::authpb::permission::Type;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::*;
use types::ErrorKind;

/// A replica with authentication on. `root` is root; `alice` writes `a` to `c` and reads `b` to `d`.
fn with_users() -> Replica {
    let mut replica = Replica::new();
    for request in [
        user_add("root"),
        user_add("alice"),
        grant_role("root", "root"),
        InternalRaftRequest {
            auth_role_add: Some(AuthRoleAddRequest { name: "r".into() }),
            ..Default::default()
        },
        grant(Type::Write, "a", "c"),
        grant(Type::Read, "b", "d"),
        grant_role("alice", "r"),
        InternalRaftRequest {
            auth_enable: Some(AuthEnableRequest {}),
            ..Default::default()
        },
    ] {
        assert_eq!(replica.request(request), Ok(Outcome::Auth(AuthAnswer::Done)));
    }
    replica
}

fn user_add(name: &str) -> InternalRaftRequest {
    InternalRaftRequest {
        auth_user_add: Some(AuthUserAddRequest {
            name: name.into(),
            hashed_password: "aGFzaA==".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn grant_role(user: &str, role: &str) -> InternalRaftRequest {
    InternalRaftRequest {
        auth_user_grant_role: Some(AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        }),
        ..Default::default()
    }
}

fn grant(perm_type: Type, key: &'static str, end: &'static str) -> InternalRaftRequest {
    let perm = proto::authpb::Permission {
        perm_type: perm_type.into(),
        key: key.into(),
        range_end: end.into(),
    };
    InternalRaftRequest {
        auth_role_grant_permission: Some(AuthRoleGrantPermissionRequest {
            name: "r".into(),
            perm: Some(perm),
        }),
        ..Default::default()
    }
}

/// The request as one of `user`, who was identified just now.
fn by(replica: &Replica, user: &str, request: InternalRaftRequest) -> InternalRaftRequest {
    InternalRaftRequest {
        header: Some(RequestHeader {
            id: 1,
            username: user.into(),
            auth_revision: replica.machine.auth().revision(),
        }),
        ..request
    }
}

fn put(key: &'static str) -> InternalRaftRequest {
    InternalRaftRequest {
        put: Some(PutRequest {
            key: key.into(),
            value: "v".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn txn(request: TxnRequest) -> InternalRaftRequest {
    InternalRaftRequest {
        txn: Some(request),
        ..Default::default()
    }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn range(key: &'static str, end: &'static str) -> RequestOp {
    op(request_op::Request::RequestRange(RangeRequest {
        key: key.into(),
        range_end: end.into(),
        ..Default::default()
    }))
}

fn delete(key: &'static str, end: &'static str, prev_kv: bool) -> InternalRaftRequest {
    InternalRaftRequest {
        delete_range: Some(DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            prev_kv,
        }),
        ..Default::default()
    }
}

/// What `alice` is answered.
fn alice(replica: &mut Replica, request: InternalRaftRequest) -> Result<(), ErrorKind> {
    let request = by(replica, "alice", request);
    let before = replica.head.revision();
    let outcome = replica.request(request);
    if outcome.is_err() {
        assert_eq!(replica.head.revision(), before, "what is refused changes nothing");
    }
    outcome.map(drop)
}

const DENIED: Result<(), ErrorKind> = Err(ErrorKind::PermissionDenied);

#[test]
fn keys_are_written_and_read_by_those_who_may() {
    let mut replica = with_users();
    let prev_kv = |key| {
        let mut request = put(key);
        request.put.as_mut().unwrap().prev_kv = true;
        request
    };
    for (request, answer) in [
        (put("a"), Ok(())),
        (put("b"), Ok(())),
        (put("c"), DENIED),
        // It says what was there.
        (prev_kv("a"), DENIED),
        (prev_kv("b"), Ok(())),
        (delete("a", "c", false), Ok(())),
        (delete("a", "c", true), DENIED),
        (delete("b", "c", true), Ok(())),
        (delete("a", "d", false), DENIED),
        (delete("a", "\0", false), DENIED),
    ] {
        assert_eq!(alice(&mut replica, request.clone()), answer, "{request:?}");
    }
    let root = by(&replica, "root", delete("\0", "\0", true));
    assert!(replica.request(root).is_ok());
}

#[test]
fn a_transaction_needs_what_either_of_its_branches_needs_however_deep() {
    let mut replica = with_users();
    let good = || op(request_op::Request::RequestPut(put("b").put.unwrap()));
    let bad = || op(request_op::Request::RequestPut(put("c").put.unwrap()));
    let branches = |success, failure| TxnRequest {
        success,
        failure,
        ..Default::default()
    };
    let inside = |request| branches(vec![op(request_op::Request::RequestTxn(request))], vec![]);
    let compare = |key: &'static str, end: &'static str| TxnRequest {
        compare: vec![Compare {
            key: key.into(),
            range_end: end.into(),
            ..Default::default()
        }],
        success: vec![good()],
        ..Default::default()
    };
    for (request, answer) in [
        (branches(vec![good(), range("b", "d")], vec![good()]), Ok(())),
        (branches(vec![good(), range("a", "")], vec![]), DENIED),
        // It would not have run.
        (branches(vec![good()], vec![bad()]), DENIED),
        (inside(inside(branches(vec![good()], vec![]))), Ok(())),
        (inside(inside(branches(vec![good()], vec![bad()]))), DENIED),
        (compare("b", "d"), Ok(())),
        (compare("b", "\0"), DENIED),
        (inside(compare("a", "")), DENIED),
    ] {
        assert_eq!(alice(&mut replica, txn(request.clone())), answer, "{request:?}");
    }
}

#[test]
fn a_lease_belongs_to_those_who_may_write_all_its_keys() {
    let mut replica = with_users();
    let lease_grant = |id| InternalRaftRequest {
        lease_grant: Some(LeaseGrantRequest { id, ttl: 100 }),
        ..Default::default()
    };
    let on = |key, lease| {
        let mut request = put(key);
        request.put.as_mut().unwrap().lease = lease;
        request
    };
    let revoke = |id| InternalRaftRequest {
        lease_revoke: Some(LeaseRevokeRequest { id }),
        ..Default::default()
    };
    assert_eq!(alice(&mut replica, lease_grant(1)), Ok(()));
    assert_eq!(alice(&mut replica, lease_grant(2)), Ok(()));
    assert_eq!(alice(&mut replica, on("a", 1)), Ok(()));
    let foreign = by(&replica, "root", on("x", 2));
    assert!(replica.request(foreign).is_ok());
    assert_eq!(alice(&mut replica, on("a", 2)), DENIED);
    let nested = TxnRequest {
        failure: vec![op(request_op::Request::RequestPut(on("a", 2).put.unwrap()))],
        ..Default::default()
    };
    assert_eq!(alice(&mut replica, txn(nested)), DENIED);
    assert_eq!(alice(&mut replica, revoke(2)), DENIED);
    assert_eq!(alice(&mut replica, revoke(1)), Ok(()));
    // Nobody, as a leader of an old version would be when a lease's time is over.
    assert_eq!(replica.request(revoke(2)), Err(ErrorKind::UserEmpty));
    let root = by(&replica, "root", revoke(2));
    assert!(replica.request(root).is_ok());
}

#[test]
fn a_request_of_an_earlier_revision_or_of_nobody_is_refused() {
    let mut replica = with_users();
    let early = by(&replica, "alice", put("a"));
    assert!(replica.request(early.clone()).is_ok());
    let change = by(&replica, "root", user_add("bob"));
    assert!(replica.request(change).is_ok());
    assert_eq!(replica.request(early), Err(ErrorKind::AuthOldRevision));
    assert_eq!(replica.request(put("a")), Err(ErrorKind::UserEmpty));
    assert_eq!(alice(&mut replica, put("a")), Ok(()));
    assert_eq!(
        alice(&mut replica, user_add("mallory")),
        Err(ErrorKind::PermissionDenied)
    );
}

#[test]
fn no_space_and_corruption_come_before_permission() {
    let mut replica = with_users();
    for (alarm, refusal) in [
        (AlarmType::Nospace, ErrorKind::NoSpace),
        (AlarmType::Corrupt, ErrorKind::Corrupt),
    ] {
        let alarm = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: 1,
            alarm: alarm.into(),
        };
        let raise = InternalRaftRequest {
            alarm: Some(alarm),
            ..Default::default()
        };
        assert!(replica.request(raise).is_ok());
        assert_eq!(alice(&mut replica, put("z")), Err(refusal));
    }
    // Users can be managed all the same.
    let change = by(&replica, "root", user_add("bob"));
    assert!(replica.request(change).is_ok());
}

#[test]
fn a_member_that_reads_its_tables_back_knows_the_same_users() {
    let mut replica = with_users();
    let check = |replica: &mut Replica, request: InternalRaftRequest| {
        let request = by(replica, "root", request);
        let applied = replica.propose(request);
        assert!(applied.outcome.is_ok(), "{:?}", applied.outcome);
        let (machine, _) = replica.restored();
        assert_eq!(machine.auth(), replica.machine.auth());
        applied.effect
    };
    assert!(matches!(
        check(&mut replica, user_add("bob")),
        Effect::Auth(auth::TokenEffect::None)
    ));
    check(&mut replica, grant_role("bob", "r"));
    let delete = InternalRaftRequest {
        auth_role_delete: Some(AuthRoleDeleteRequest { role: "r".into() }),
        ..Default::default()
    };
    check(&mut replica, delete);
    let delete = InternalRaftRequest {
        auth_user_delete: Some(AuthUserDeleteRequest { name: "bob".into() }),
        ..Default::default()
    };
    check(&mut replica, delete);
    assert_eq!(replica.table(Table::AuthUsers).len(), 2);
    assert_eq!(replica.table(Table::AuthRoles).len(), 0);
    let disable = InternalRaftRequest {
        auth_disable: Some(AuthDisableRequest {}),
        ..Default::default()
    };
    check(&mut replica, disable);
    assert_eq!(replica.request(put("z")).map(drop), Ok(()));
}

#[test]
fn a_question_about_users_changes_nothing_and_wakes_nobody() {
    let mut replica = with_users();
    let list = InternalRaftRequest {
        auth_user_list: Some(AuthUserListRequest {}),
        ..Default::default()
    };
    let list = by(&replica, "root", list);
    let applied = replica.propose(list);
    let names = vec!["alice".to_owned(), "root".to_owned()];
    assert_eq!(applied.outcome, Ok(Outcome::Auth(AuthAnswer::Names(names))));
    assert_eq!(applied.effect, Effect::None);
    assert_eq!(applied.kind, Some("AuthUserList"));
}
