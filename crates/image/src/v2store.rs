//! The membership as etcd keeps it in `.snap` files: a tree of the long gone v2 store, in JSON.
//!
//! Go members up to 3.5 read their cluster's members from it; newer ones and our own read the store's
//! tables. Only what they read is written: the tree, not its history.

use mvcc::Table;
use proto::etcdserverpb::Member;
use serde_json::{Map, Value, json};
use store::Tables;

/// Members and cluster version in a store's tables, as a v2 store.
pub fn of_tables(tables: &Tables) -> serde_json::Result<Vec<u8>> {
    let rows = tables.get(&Table::Members).into_iter().flatten();
    let members = rows.map(|(_, row)| serde_json::from_slice::<machine::Member>(row));
    let members = members
        .map(|member| member.map(|member| Member::from(&member)))
        .collect::<Result<Vec<_>, _>>()?;
    let version = tables
        .get(&Table::Cluster)
        .and_then(|rows| rows.get(&b"clusterVersion"[..]))
        .map(|version| String::from_utf8_lossy(version));
    let removed = tables.get(&Table::MembersRemoved).into_iter().flatten();
    let removed = removed.map(|(id, _)| String::from_utf8_lossy(id).into_owned());
    Ok(encode(&members, removed, version.as_deref()))
}

/// Members, the ids of those removed, and cluster version as a v2 store.
pub fn encode(
    members: &[Member],
    removed: impl IntoIterator<Item = String>,
    cluster_version: Option<&str>,
) -> Vec<u8> {
    let mut listed = Map::new();
    for member in members {
        let id = format!("{:x}", member.id);
        let path = format!("/0/members/{id}");
        let mut raft = json!({ "peerURLs": member.peer_ur_ls });
        if member.is_learner {
            raft["isLearner"] = true.into();
        }
        let mut rows = Map::new();
        rows.insert(
            "raftAttributes".into(),
            file(&format!("{path}/raftAttributes"), &raft.to_string()),
        );
        if !member.name.is_empty() {
            let attributes = json!({ "name": member.name, "clientURLs": member.client_ur_ls });
            rows.insert(
                "attributes".into(),
                file(&format!("{path}/attributes"), &attributes.to_string()),
            );
        }
        listed.insert(id, folder(&path, rows));
    }
    let mut cluster = Map::new();
    cluster.insert("members".into(), folder("/0/members", listed));
    let removed: Map<String, Value> = removed
        .into_iter()
        .map(|id| (id.clone(), file(&format!("/0/removed_members/{id}"), "removed")))
        .collect();
    if !removed.is_empty() {
        cluster.insert("removed_members".into(), folder("/0/removed_members", removed));
    }
    if let Some(version) = cluster_version {
        cluster.insert("version".into(), file("/0/version", version));
    }
    let mut top = Map::new();
    top.insert("0".into(), folder("/0", cluster));
    top.insert("1".into(), folder("/1", Map::new()));
    json!({ "Root": folder("/", top), "CurrentIndex": 0, "CurrentVersion": 2 })
        .to_string()
        .into_bytes()
}

/// The members in a v2 store; nothing if it is none, or holds none.
pub fn members(data: &[u8]) -> Vec<machine::Member> {
    let tree: Value = serde_json::from_slice(data).unwrap_or_default();
    let listed = tree["Root"]["Children"]["0"]["Children"]["members"]["Children"].as_object();
    let member = |(id, node): (&String, &Value)| {
        let attributes = |name: &str| {
            let json = node["Children"][name]["Value"].as_str().unwrap_or("{}");
            serde_json::from_str::<Map<String, Value>>(json).ok()
        };
        let mut fields = attributes("raftAttributes")?;
        fields.extend(attributes("attributes")?);
        fields.insert("id".into(), u64::from_str_radix(id, 16).ok()?.into());
        serde_json::from_value(Value::Object(fields)).ok()
    };
    listed.into_iter().flatten().filter_map(member).collect()
}

fn folder(path: &str, children: Map<String, Value>) -> Value {
    node(path, "", Value::Object(children))
}

fn file(path: &str, value: &str) -> Value {
    node(path, value, Value::Null)
}

fn node(path: &str, value: &str, children: Value) -> Value {
    json!({
        "Path": path,
        "CreatedIndex": 0,
        "ModifiedIndex": 0,
        "ExpireTime": "0001-01-01T00:00:00Z",
        "Value": value,
        "Children": children,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_where_go_looks_for_it() {
        let member = Member {
            id: 0x8e9e05c52164694d,
            name: "default".into(),
            peer_ur_ls: vec!["http://localhost:2380".into()],
            client_ur_ls: vec!["http://localhost:2379".into()],
            is_learner: false,
        };
        let encoded = encode(std::slice::from_ref(&member), ["1f".to_owned()], Some("3.7.0"));
        let read = members(&encoded);
        assert_eq!(read.iter().map(Member::from).collect::<Vec<_>>(), [member]);
        assert_eq!(members(b"no JSON"), []);
        let tree: Value = serde_json::from_slice(&encoded).unwrap();
        let zero = &tree["Root"]["Children"]["0"]["Children"];
        assert_eq!(zero["version"]["Value"], "3.7.0");
        assert_eq!(zero["removed_members"]["Children"]["1f"]["Value"], "removed");
        let rows = &zero["members"]["Children"]["8e9e05c52164694d"]["Children"];
        assert_eq!(
            rows["raftAttributes"]["Value"],
            r#"{"peerURLs":["http://localhost:2380"]}"#
        );
        let attributes: Value = serde_json::from_str(rows["attributes"]["Value"].as_str().unwrap()).unwrap();
        assert_eq!(
            attributes,
            json!({"name": "default", "clientURLs": ["http://localhost:2379"]})
        );
    }
}
