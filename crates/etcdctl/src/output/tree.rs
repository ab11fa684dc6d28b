//! An answer as a tree of named values, as `encoding/json` of Go sees the structs of etcd's client.
//!
//! Most are the message itself: fields by their names in the .proto file, in the order they are written there, those that
//! are zero left out. Leases, watches and endpoints are structs of the client with rules of their own.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage};
use proto::etcdserverpb as pb;

use super::{Answer, Health};
use crate::nested::Node;
use types::print::took;

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(String),
    Bytes(Bytes),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

/// The answer's tree. In hexadecimal are only ids in answers about members, as in etcd.
pub fn of(answer: &Answer, hex: bool) -> Value {
    match answer {
        Answer::Put(m) => message("PutResponse", m),
        Answer::Get(m) => message("RangeResponse", m),
        Answer::Delete(m) => message("DeleteRangeResponse", m),
        Answer::Txn(m) => message("TxnResponse", m),
        Answer::Watch(m) => watch(m),
        Answer::Grant(m) => inlined(
            m.header,
            [int("ID", m.id), int("TTL", m.ttl), text("Error", &m.error)],
        ),
        Answer::Revoke(_, m) => message("LeaseRevokeResponse", m),
        Answer::KeepAlive(m) => inlined(m.header, [int("ID", m.id), int("TTL", m.ttl)]),
        Answer::TimeToLive(m, _) => time_to_live(m),
        Answer::Leases(m) => {
            let leases = m.leases.iter().map(|lease| map([int("id", lease.id)]));
            inlined(m.header, [("leases".to_owned(), list(leases))])
        }
        Answer::Alarms(m) => message("AlarmResponse", m),
        Answer::MemberAdd(_, m) => members("MemberAddResponse", m, hex),
        Answer::MemberRemove(_, m) => members("MemberRemoveResponse", m, hex),
        Answer::MemberUpdate(_, m) => members("MemberUpdateResponse", m, hex),
        Answer::MemberPromote(_, m) => members("MemberPromoteResponse", m, hex),
        Answer::MemberList(m) => members("MemberListResponse", m, hex),
        Answer::Health(all) => list(all.iter().map(health)),
        Answer::Statuses(all) => list(all.iter().map(|(endpoint, m)| {
            let status = ("Status".to_owned(), message("StatusResponse", m));
            map([text("Endpoint", endpoint), status])
        })),
        Answer::Hashes(all) => list(all.iter().map(|(endpoint, m)| {
            let hash = ("HashKV".to_owned(), message("HashKVResponse", m));
            map([text("Endpoint", endpoint), hash])
        })),
        Answer::MoveLeader(_, _, m) => message("MoveLeaderResponse", m),
        Answer::Downgrade(_, m) => message("DowngradeResponse", m),
        Answer::AuthStatus(m) => message("AuthStatusResponse", m),
        Answer::RoleAdd(_, m) => message("AuthRoleAddResponse", m),
        Answer::RoleDelete(_, m) => message("AuthRoleDeleteResponse", m),
        Answer::RoleGet(_, m) => message("AuthRoleGetResponse", m),
        Answer::RoleList(m) => message("AuthRoleListResponse", m),
        Answer::RoleGrant(_, m) => message("AuthRoleGrantPermissionResponse", m),
        Answer::RoleRevoke { response, .. } => message("AuthRoleRevokePermissionResponse", response),
        Answer::UserAdd(_, m) => message("AuthUserAddResponse", m),
        Answer::UserDelete(_, m) => message("AuthUserDeleteResponse", m),
        Answer::UserGet(_, m) => message("AuthUserGetResponse", m),
        Answer::UserList(m) => message("AuthUserListResponse", m),
        Answer::UserPassword(m) => message("AuthUserChangePasswordResponse", m),
        Answer::UserGrant(_, _, m) => message("AuthUserGrantRoleResponse", m),
        Answer::UserRevoke(_, _, m) => message("AuthUserRevokeRoleResponse", m),
        Answer::Tree(nested) => node(&nested.prefix, &nested.root),
        Answer::Usage(all) => list(all.iter().map(|usage| {
            map([
                bytes("prefix", &usage.prefix),
                uint("keys", usage.keys),
                uint("bytes", usage.bytes),
            ])
        })),
    }
}

type Entry = (String, Value);

fn int(name: &str, value: i64) -> Entry {
    (name.to_owned(), Value::Int(value))
}

fn text(name: &str, value: &str) -> Entry {
    (name.to_owned(), Value::Text(value.to_owned()))
}

fn uint(name: &str, value: u64) -> Entry {
    (name.to_owned(), Value::Uint(value))
}

fn bytes(name: &str, value: &[u8]) -> Entry {
    (name.to_owned(), Value::Bytes(Bytes::copy_from_slice(value)))
}

/// A part of keys, and those below it.
fn node(name: &[u8], below: &Node) -> Value {
    let mut entries = vec![bytes("name", name), uint("keys", below.keys)];
    if !below.children.is_empty() {
        let children = below.children.iter().map(|(name, child)| node(name, child));
        entries.push(("children".to_owned(), list(children)));
    }
    Value::Map(entries)
}

fn map<const N: usize>(entries: [Entry; N]) -> Value {
    Value::Map(entries.into())
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    Value::List(values.collect())
}

/// An embedded header gives its fields to the struct around it.
fn inlined<const N: usize>(header: Option<pb::ResponseHeader>, entries: [Entry; N]) -> Value {
    let mut all = match header.map(|header| message("ResponseHeader", &header)) {
        Some(Value::Map(fields)) => fields,
        _ => Vec::new(),
    };
    all.extend(entries);
    Value::Map(all)
}

fn watch(m: &pb::WatchResponse) -> Value {
    let header = m
        .header
        .map_or(Value::Null, |header| message("ResponseHeader", &header));
    let events = match m.events.is_empty() {
        true => Value::Null,
        false => list(m.events.iter().map(|event| named("mvccpb.Event", event))),
    };
    map([
        ("Header".to_owned(), header),
        ("Events".to_owned(), events),
        int("CompactRevision", m.compact_revision),
        ("Canceled".to_owned(), Value::Bool(m.canceled)),
        ("Created".to_owned(), Value::Bool(m.created)),
        text("CancelReason", &m.cancel_reason),
    ])
}

fn time_to_live(m: &pb::LeaseTimeToLiveResponse) -> Value {
    let keys = match m.keys.is_empty() {
        true => Value::Null,
        false => list(m.keys.iter().map(|key| Value::Bytes(key.clone()))),
    };
    let times = [int("ttl", m.ttl), int("granted-ttl", m.granted_ttl)];
    let [ttl, granted] = times;
    inlined(
        m.header,
        [int("id", m.id), ttl, granted, ("keys".to_owned(), keys)],
    )
}

fn health(health: &Health) -> Value {
    let mut entries = vec![
        text("endpoint", &health.endpoint),
        ("health".to_owned(), Value::Bool(health.error.is_none())),
        text("took", &took(health.took)),
    ];
    entries.extend(health.error.iter().map(|error| text("error", error)));
    Value::Map(entries)
}

/// An answer with members in it, whose ids may be wanted in hexadecimal.
fn members(name: &str, m: &impl Message, hex: bool) -> Value {
    let mut tree = message(name, m);
    if hex {
        ids_in_hex(&mut tree);
    }
    tree
}

fn ids_in_hex(value: &mut Value) {
    match value {
        Value::Map(entries) => entries.iter_mut().for_each(|(name, value)| match value {
            Value::Uint(id) if matches!(name.as_str(), "cluster_id" | "member_id" | "ID") => {
                *value = Value::Text(format!("{id:x}"));
            }
            _ => ids_in_hex(value),
        }),
        Value::List(values) => values.iter_mut().for_each(ids_in_hex),
        _ => {}
    }
}

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).expect("our own descriptors are sound"));

fn message(name: &str, m: &impl Message) -> Value {
    named(&format!("etcdserverpb.{name}"), m)
}

fn named(name: &str, m: &impl Message) -> Value {
    let descriptor = POOL
        .get_message_by_name(name)
        .expect("the message is one of ours");
    dynamic(descriptor, m.encode_to_vec().into())
}

fn dynamic(descriptor: MessageDescriptor, bytes: Bytes) -> Value {
    let decoded = DynamicMessage::decode(descriptor, bytes).expect("what was encoded is decoded");
    fields_of(&decoded)
}

/// Fields in the order of the .proto file, those that are not set left out; one of several is inside a field of their own.
fn fields_of(message: &DynamicMessage) -> Value {
    let mut entries = Vec::new();
    for field in message.descriptor().fields() {
        if !message.has_field(&field) {
            continue;
        }
        let entry = (field.name().to_owned(), value_of(&message.get_field(&field)));
        match field.containing_oneof() {
            None => entries.push(entry),
            Some(of) => entries.push((capitalized(of.name()), Value::Map(vec![entry]))),
        }
    }
    Value::Map(entries)
}

/// The name that Go gives the field that holds one of several.
fn capitalized(name: &str) -> String {
    let parts = name.split('_').map(|part| {
        let mut characters = part.chars();
        let first = characters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(characters).collect::<String>()
    });
    parts.collect()
}

fn value_of(value: &prost_reflect::Value) -> Value {
    match value {
        prost_reflect::Value::Bool(value) => Value::Bool(*value),
        prost_reflect::Value::I32(value) => Value::Int((*value).into()),
        prost_reflect::Value::I64(value) => Value::Int(*value),
        prost_reflect::Value::U32(value) => Value::Uint((*value).into()),
        prost_reflect::Value::U64(value) => Value::Uint(*value),
        prost_reflect::Value::EnumNumber(value) => Value::Int((*value).into()),
        prost_reflect::Value::String(value) => Value::Text(value.clone()),
        prost_reflect::Value::Bytes(value) => Value::Bytes(value.clone()),
        prost_reflect::Value::Message(value) => fields_of(value),
        prost_reflect::Value::List(values) => list(values.iter().map(value_of)),
        // No answer of etcd's has any of these.
        prost_reflect::Value::F32(_) | prost_reflect::Value::F64(_) | prost_reflect::Value::Map(_) => {
            Value::Null
        }
    }
}
