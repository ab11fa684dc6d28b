//! What etcdctl 3.5.30 printed for these answers of a server, and what ours does.

use std::time::Duration;

use proto::authpb::{Permission, permission};
use proto::etcdserverpb::{self as pb, response_op::Response};
use proto::mvccpb::{Event, KeyValue};

use super::*;

const LEASE: i64 = 5_737_201_223_156_026_641;

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: 14_064_829_369_057_666_914,
        member_id: 7_234_835_788_977_491_870,
        revision,
        raft_term: 2,
    })
}

fn pair(key: &'static str, value: &'static str, revisions: [i64; 3]) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: revisions[0],
        mod_revision: revisions[1],
        version: revisions[2],
        lease: 0,
    }
}

fn style(format: Format) -> Style {
    Style {
        format,
        hex: false,
        values_only: false,
    }
}

fn shown(answer: &Answer, style: Style) -> String {
    match style.render(answer) {
        Ok(bytes) => String::from_utf8(bytes).expect("text"),
        Err(failure) => format!("{}: {}", failure.status, failure.text),
    }
}

fn put() -> Answer {
    Answer::Put(pb::PutResponse {
        header: header(3),
        prev_kv: Some(pair("k", "<v>&\"", [2, 2, 1])),
    })
}

fn get() -> Answer {
    Answer::Get(pb::RangeResponse {
        header: header(3),
        kvs: vec![pair("k", "2", [2, 3, 2])],
        count: 1,
        more: false,
    })
}

fn txn() -> Answer {
    let inner = Some(pb::ResponseHeader {
        revision: 5,
        ..Default::default()
    });
    let responses = [
        Response::ResponsePut(pb::PutResponse {
            header: inner,
            prev_kv: None,
        }),
        Response::ResponseRange(pb::RangeResponse {
            header: inner,
            kvs: vec![pair("a", "1", [5, 5, 1])],
            count: 1,
            more: false,
        }),
        Response::ResponseDeleteRange(pb::DeleteRangeResponse {
            header: inner,
            ..Default::default()
        }),
    ];
    Answer::Txn(pb::TxnResponse {
        header: header(5),
        succeeded: true,
        responses: responses
            .into_iter()
            .map(|response| pb::ResponseOp {
                response: Some(response),
            })
            .collect(),
    })
}

fn watch() -> Answer {
    Answer::Watch(pb::WatchResponse {
        header: header(7),
        events: vec![
            Event {
                r#type: 0,
                kv: Some(pair("a", "1", [5, 6, 2])),
                prev_kv: Some(pair("a", "0", [5, 5, 1])),
            },
            Event {
                r#type: 1,
                kv: Some(pair("a", "", [0, 7, 0])),
                prev_kv: None,
            },
        ],
        ..Default::default()
    })
}

fn time_to_live(ttl: i64, keys: &[&'static str]) -> Answer {
    let answer = pb::LeaseTimeToLiveResponse {
        header: header(8),
        id: LEASE,
        ttl,
        granted_ttl: if ttl < 0 { 0 } else { 100 },
        keys: keys.iter().map(|key| (*key).into()).collect(),
    };
    Answer::TimeToLive(answer, !keys.is_empty())
}

fn members() -> Answer {
    Answer::MemberList(pb::MemberListResponse {
        header: header(0),
        members: vec![pb::Member {
            id: 7_234_835_788_977_491_870,
            name: "default".into(),
            peer_ur_ls: vec!["http://127.0.0.1:24001".into()],
            client_ur_ls: vec!["http://127.0.0.1:24000".into()],
            is_learner: false,
        }],
    })
}

fn role() -> Answer {
    use permission::Type::{Read, Readwrite, Write};
    let permission = |kind: permission::Type, key: &'static str, range_end: &'static str| Permission {
        perm_type: kind as i32,
        key: key.into(),
        range_end: range_end.into(),
    };
    let perm = vec![
        permission(Read, "a", "b"),
        permission(Write, "b", "c"),
        permission(Write, "x", ""),
        permission(Readwrite, "d", "\0"),
    ];
    Answer::RoleGet(
        "r".into(),
        pb::AuthRoleGetResponse {
            header: header(9),
            perm,
        },
    )
}

#[test]
fn json_is_what_go_makes_of_the_message() {
    const HEADER: &str = r#"{"cluster_id":14064829369057666914,"member_id":7234835788977491870,"#;
    let json = |answer: &Answer| shown(answer, style(Format::Json)).replace(HEADER, "H{");
    let expected = [
        (
            put(),
            r#"{"header":H{"revision":3,"raft_term":2},"prev_kv":{"key":"aw==","create_revision":2,"mod_revision":2,"version":1,"value":"PHY+JiI="}}"#,
        ),
        (
            get(),
            r#"{"header":H{"revision":3,"raft_term":2},"kvs":[{"key":"aw==","create_revision":2,"mod_revision":3,"version":2,"value":"Mg=="}],"count":1}"#,
        ),
        (
            txn(),
            r#"{"header":H{"revision":5,"raft_term":2},"succeeded":true,"responses":[{"Response":{"response_put":{"header":{"revision":5}}}},{"Response":{"response_range":{"header":{"revision":5},"kvs":[{"key":"YQ==","create_revision":5,"mod_revision":5,"version":1,"value":"MQ=="}],"count":1}}},{"Response":{"response_delete_range":{"header":{"revision":5}}}}]}"#,
        ),
        (
            watch(),
            r#"{"Header":H{"revision":7,"raft_term":2},"Events":[{"kv":{"key":"YQ==","create_revision":5,"mod_revision":6,"version":2,"value":"MQ=="},"prev_kv":{"key":"YQ==","create_revision":5,"mod_revision":5,"version":1,"value":"MA=="}},{"type":1,"kv":{"key":"YQ==","mod_revision":7}}],"CompactRevision":0,"Canceled":false,"Created":false,"CancelReason":""}"#,
        ),
        (
            Answer::Watch(pb::WatchResponse {
                header: header(7),
                ..Default::default()
            }),
            r#"{"Header":H{"revision":7,"raft_term":2},"Events":null,"CompactRevision":0,"Canceled":false,"Created":false,"CancelReason":""}"#,
        ),
        (
            time_to_live(99, &["b"]),
            r#"H{"revision":8,"raft_term":2,"id":5737201223156026641,"ttl":99,"granted-ttl":100,"keys":["Yg=="]}"#,
        ),
        (
            time_to_live(-1, &[]),
            r#"H{"revision":8,"raft_term":2,"id":5737201223156026641,"ttl":-1,"granted-ttl":0,"keys":null}"#,
        ),
        (
            members(),
            r#"{"header":H{"raft_term":2},"members":[{"ID":7234835788977491870,"name":"default","peerURLs":["http://127.0.0.1:24001"],"clientURLs":["http://127.0.0.1:24000"]}]}"#,
        ),
        (
            role(),
            r#"{"header":H{"revision":9,"raft_term":2},"perm":[{"key":"YQ==","range_end":"Yg=="},{"permType":1,"key":"Yg==","range_end":"Yw=="},{"permType":1,"key":"eA=="},{"permType":2,"key":"ZA==","range_end":"AA=="}]}"#,
        ),
    ];
    for (answer, text) in expected {
        assert_eq!(json(&answer), format!("{text}\n"), "{answer:?}");
    }
}

#[test]
fn ids_of_members_are_hexadecimal_in_json_where_that_is_wanted() {
    let hex = Style {
        hex: true,
        ..style(Format::Json)
    };
    assert_eq!(
        shown(&members(), hex),
        concat!(
            r#"{"header":{"cluster_id":"c3304fcae129e762","member_id":"64674cd17a494f9e","raft_term":2},"#,
            r#""members":[{"ID":"64674cd17a494f9e","name":"default","peerURLs":["http://127.0.0.1:24001"],"#,
            r#""clientURLs":["http://127.0.0.1:24000"]}]}"#,
            "\n"
        )
    );
    assert_eq!(shown(&get(), hex), shown(&get(), style(Format::Json)));
}

#[test]
fn simple_is_what_scripts_cut_apart() {
    let expected = [
        (put(), "OK\nk\n<v>&\"\n"),
        (get(), "k\n2\n"),
        (txn(), "SUCCESS\n\nOK\n\na\n1\n\n0\n"),
        (watch(), "PUT\na\n0\na\n1\nDELETE\na\n\n"),
        (
            time_to_live(99, &["b", "c"]),
            "lease 4f9ea21d8f26cd11 granted with TTL(100s), remaining(99s), attached keys([b c])\n",
        ),
        (time_to_live(-1, &[]), "lease 4f9ea21d8f26cd11 already expired\n"),
        (
            members(),
            "64674cd17a494f9e, started, default, http://127.0.0.1:24001, http://127.0.0.1:24000, false\n",
        ),
        (
            role(),
            "Role r\nKV Read:\n\t[a, b) (prefix a)\n\t[d, <open ended>\nKV Write:\n\t[b, c) (prefix b)\n\tx\n\t[d, <open ended>\n",
        ),
    ];
    for (answer, text) in expected {
        assert_eq!(shown(&answer, style(Format::Simple)), text, "{answer:?}");
    }
    let hex = Style {
        hex: true,
        ..style(Format::Simple)
    };
    assert_eq!(shown(&get(), hex), "\\x6b\n\\x32\n");
    let values = Style {
        values_only: true,
        ..style(Format::Simple)
    };
    assert_eq!(shown(&get(), values), "2\n");
}

#[test]
fn a_new_member_is_told_what_it_is_started_with() {
    let member = |id, name: &str, url: &str| pb::Member {
        id,
        name: name.into(),
        peer_ur_ls: vec![url.into()],
        ..Default::default()
    };
    let new = member(0xab, "", "http://b:2380");
    let answer = pb::MemberAddResponse {
        header: header(0),
        member: Some(new.clone()),
        members: vec![member(1, "a", "http://a:2380"), new],
    };
    assert_eq!(
        shown(&Answer::MemberAdd("b".into(), answer), style(Format::Simple)),
        "Member               ab added to cluster c3304fcae129e762\n\n\
         ETCD_NAME=\"b\"\n\
         ETCD_INITIAL_CLUSTER=\"a=http://a:2380,b=http://b:2380\"\n\
         ETCD_INITIAL_ADVERTISE_PEER_URLS=\"http://b:2380\"\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n"
    );
}

#[test]
fn fields_have_a_line_each() {
    const HEADER: &str = "\"ClusterID\" : 14064829369057666914\n\"MemberID\" : 7234835788977491870\n";
    let fields = |answer: &Answer| shown(answer, style(Format::Fields)).replace(HEADER, "H\n");
    let expected = [
        (
            get(),
            "H\n\"Revision\" : 3\n\"RaftTerm\" : 2\n\"Key\" : \"k\"\n\"CreateRevision\" : 2\n\"ModRevision\" : 3\n\
             \"Version\" : 2\n\"Value\" : \"2\"\n\"Lease\" : 0\n\"More\" : false\n\"Count\" : 1\n",
        ),
        (
            put(),
            "H\n\"Revision\" : 3\n\"RaftTerm\" : 2\n\"PrevKey\" : \"k\"\n\"PrevCreateRevision\" : 2\n\
             \"PrevModRevision\" : 2\n\"PrevVersion\" : 1\n\"PrevValue\" : \"<v>&\\\"\"\n\"PrevLease\" : 0\n",
        ),
        (
            members(),
            "H\n\"RaftTerm\" : 2\n\"ID\" : 7234835788977491870\n\"Name\" : \"default\"\n\
             \"PeerURL\" : \"http://127.0.0.1:24001\"\n\"ClientURL\" : \"http://127.0.0.1:24000\"\n\
             \"IsLearner\" : false\n\n",
        ),
    ];
    for (answer, text) in expected {
        assert_eq!(fields(&answer), text, "{answer:?}");
    }
    let role = fields(&role());
    assert!(role.contains("\"PermType\" :  READ\n\"Key\" : \"a\"\n\"RangeEnd\" : \"b\"\n"));
    assert!(role.ends_with("\"Key\" : \"d\"\n\"RangeEnd\" : \"\\x00\"\n"));
}

#[test]
fn tables_have_borders_a_centred_header_and_rows_to_the_right() {
    assert_eq!(
        shown(&members(), style(Format::Table)),
        "\
┌──────────────────┬─────────┬─────────┬────────────────────────┬────────────────────────┬────────────┐
│        ID        │ STATUS  │  NAME   │       PEER ADDRS       │      CLIENT ADDRS      │ IS LEARNER │
├──────────────────┼─────────┼─────────┼────────────────────────┼────────────────────────┼────────────┤
│ 64674cd17a494f9e │ started │ default │ http://127.0.0.1:24001 │ http://127.0.0.1:24000 │      false │
└──────────────────┴─────────┴─────────┴────────────────────────┴────────────────────────┴────────────┘
"
    );
}

#[test]
fn what_etcd_has_no_form_for_is_refused_with_its_status() {
    let users = Answer::UserList(pb::AuthUserListResponse::default());
    let refused = |format| shown(&users, style(format));
    assert_eq!(
        refused(Format::Fields),
        "4: fields not supported as output format"
    );
    assert_eq!(refused(Format::Table), "4: table not supported as output format");
    let health = Answer::Health(Vec::new());
    assert_eq!(
        shown(&health, style(Format::Protobuf)),
        "4: protobuf not supported as output format"
    );
}

#[test]
fn an_endpoint_that_is_well_says_so_and_one_that_is_not_is_left_to_standard_error() {
    let well = Health {
        endpoint: "a:1".into(),
        error: None,
        took: Duration::from_micros(1839),
    };
    let ill = Health {
        endpoint: "b:1".into(),
        error: Some("why".into()),
        took: Duration::from_secs(5),
    };
    let both = Answer::Health(vec![well, ill]);
    assert_eq!(
        shown(&both, style(Format::Simple)),
        "a:1 is healthy: successfully committed proposal: took = 1.839ms\n"
    );
    assert_eq!(
        shown(&both, style(Format::Json)),
        "[{\"endpoint\":\"a:1\",\"health\":true,\"took\":\"1.839ms\"},\
         {\"endpoint\":\"b:1\",\"health\":false,\"took\":\"5s\",\"error\":\"why\"}]\n"
    );
}

#[test]
fn yaml_shows_keys_and_values_as_the_text_they_are() {
    let mut answer = pb::RangeResponse {
        header: header(3),
        kvs: vec![pair("a b", "yes", [2, 3, 2])],
        count: 1,
        more: false,
    };
    answer.kvs[0].value = b"\xff"[..].into();
    assert_eq!(
        shown(&Answer::Get(answer), style(Format::Yaml)),
        "---\nheader:\n  cluster_id: 14064829369057666914\n  member_id: 7234835788977491870\n  revision: 3\n  raft_term: 2\n\
         kvs:\n- key: \"a b\"\n  create_revision: 2\n  mod_revision: 3\n  version: 2\n  value: !!binary \"/w==\"\ncount: 1\n"
    );
}
