//! Format `fields`: one line for each field, `"Name" : value`, etcd's to the letter.

use proto::etcdserverpb::{self as pb, response_op::Response};
use proto::mvccpb::KeyValue;

use super::{Answer, Health};
use types::print::{quoted, took};

/// The lines, if the answer is one that etcd has them for.
pub fn render(answer: &Answer, hex: bool) -> Option<Vec<u8>> {
    let mut out = Out {
        text: String::new(),
        hex,
    };
    out.answer(answer)?;
    Some(out.text.into_bytes())
}

struct Out {
    text: String,
    hex: bool,
}

impl Out {
    fn answer(&mut self, answer: &Answer) -> Option<()> {
        match answer {
            Answer::Put(m) => self.put(m),
            Answer::Get(m) => self.get(m),
            Answer::Delete(m) => self.delete(m),
            Answer::Txn(m) => self.txn(m),
            Answer::Watch(m) => self.watch(m),
            Answer::Grant(m) => {
                self.header(m.header);
                self.lease("ID", m.id);
                self.line("TTL", m.ttl);
            }
            Answer::Revoke(_, m) => self.header(m.header),
            Answer::KeepAlive(m) => {
                self.header(m.header);
                self.lease("ID", m.id);
                self.line("TTL", m.ttl);
            }
            Answer::TimeToLive(m, _) => {
                self.header(m.header);
                self.lease("ID", m.id);
                self.line("TTL", m.ttl);
                self.line("GrantedTTL", m.granted_ttl);
                m.keys.iter().for_each(|key| self.quoted("Key", key));
            }
            Answer::Leases(m) => {
                self.header(m.header);
                m.leases.iter().for_each(|lease| self.lease("ID", lease.id));
            }
            Answer::Alarms(m) => {
                self.header(m.header);
                for alarm in &m.alarms {
                    self.id("MemberID", alarm.member_id);
                    self.line("AlarmType", alarm.alarm().as_str_name());
                    self.end();
                }
            }
            Answer::MemberList(m) => self.members(m),
            Answer::Health(all) => all.iter().for_each(|health| self.health(health)),
            Answer::Statuses(all) => all.iter().for_each(|(endpoint, m)| self.status(endpoint, m)),
            Answer::Hashes(all) => {
                for (endpoint, m) in all {
                    self.header(m.header);
                    self.quoted("Endpoint", endpoint.as_bytes());
                    self.line("Hash", m.hash);
                    self.line("HashRevision", m.hash_revision);
                    self.end();
                }
            }
            Answer::RoleAdd(_, m) => self.header(m.header),
            Answer::RoleDelete(_, m) => self.header(m.header),
            Answer::RoleGet(_, m) => {
                self.header(m.header);
                for permission in &m.perm {
                    // etcd has two blanks here.
                    self.line("PermType", format!(" {}", permission.perm_type().as_str_name()));
                    self.quoted("Key", &permission.key);
                    self.quoted("RangeEnd", &permission.range_end);
                }
            }
            Answer::RoleList(m) => {
                self.header(m.header);
                let roles = m.roles.iter().map(|role| format!(" {}", quoted(role.as_bytes())));
                self.text
                    .push_str(&format!("\"Roles\" :{}\n", roles.collect::<String>()));
            }
            Answer::RoleGrant(_, m) => self.header(m.header),
            Answer::RoleRevoke { response, .. } => self.header(response.header),
            Answer::UserAdd(_, m) => self.header(m.header),
            Answer::UserDelete(_, m) => self.header(m.header),
            Answer::UserPassword(m) => self.header(m.header),
            Answer::UserGrant(_, _, m) => self.header(m.header),
            Answer::UserRevoke(_, _, m) => self.header(m.header),
            Answer::Usage(all) => {
                for usage in all {
                    self.quoted("Prefix", &usage.prefix);
                    self.line("Keys", usage.keys);
                    self.line("Bytes", usage.bytes);
                    self.end();
                }
            }
            Answer::Tree(_)
            | Answer::MemberAdd(..)
            | Answer::MemberRemove(..)
            | Answer::MemberUpdate(..)
            | Answer::MemberPromote(..)
            | Answer::MoveLeader(..)
            | Answer::Downgrade(..)
            | Answer::AuthStatus(_)
            | Answer::UserGet(..)
            | Answer::UserList(_) => return None,
        }
        Some(())
    }

    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        self.text.push_str(&format!("\"{name}\" : {value}\n"));
    }

    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.line(name, quoted(value));
    }

    fn id(&mut self, name: &str, id: u64) {
        match self.hex {
            true => self.line(name, format_args!("{id:x}")),
            false => self.line(name, id),
        }
    }

    fn lease(&mut self, name: &str, id: i64) {
        match self.hex {
            true => self.line(name, format_args!("{id:016x}")),
            false => self.line(name, id),
        }
    }

    /// The end of one of several.
    fn end(&mut self) {
        self.text.push('\n');
    }

    fn header(&mut self, header: Option<pb::ResponseHeader>) {
        let header = header.unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        if header.revision > 0 {
            self.line("Revision", header.revision);
        }
        self.line("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, prefix: &str, pair: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &pair.key);
        self.line(&format!("{prefix}CreateRevision"), pair.create_revision);
        self.line(&format!("{prefix}ModRevision"), pair.mod_revision);
        self.line(&format!("{prefix}Version"), pair.version);
        self.quoted(&format!("{prefix}Value"), &pair.value);
        self.lease(&format!("{prefix}Lease"), pair.lease);
    }

    fn put(&mut self, m: &pb::PutResponse) {
        self.header(m.header);
        m.prev_kv.iter().for_each(|pair| self.pair("Prev", pair));
    }

    fn get(&mut self, m: &pb::RangeResponse) {
        self.header(m.header);
        m.kvs.iter().for_each(|pair| self.pair("", pair));
        self.line("More", m.more);
        self.line("Count", m.count);
    }

    fn delete(&mut self, m: &pb::DeleteRangeResponse) {
        self.header(m.header);
        self.line("Deleted", m.deleted);
        m.prev_kvs.iter().for_each(|pair| self.pair("Prev", pair));
    }

    fn txn(&mut self, m: &pb::TxnResponse) {
        self.header(m.header);
        self.line("Succeeded", m.succeeded);
        for response in &m.responses {
            match &response.response {
                Some(Response::ResponsePut(m)) => self.put(m),
                Some(Response::ResponseRange(m)) => self.get(m),
                Some(Response::ResponseDeleteRange(m)) => self.delete(m),
                Some(Response::ResponseTxn(m)) => self.txn(m),
                None => {}
            }
        }
    }

    fn watch(&mut self, m: &pb::WatchResponse) {
        self.header(m.header);
        for event in &m.events {
            self.line("Type", event.r#type().as_str_name());
            event.prev_kv.iter().for_each(|pair| self.pair("Prev", pair));
            event.kv.iter().for_each(|pair| self.pair("", pair));
        }
    }

    fn members(&mut self, m: &pb::MemberListResponse) {
        self.header(m.header);
        for member in &m.members {
            self.id("ID", member.id);
            self.quoted("Name", member.name.as_bytes());
            let urls = member.peer_ur_ls.iter();
            urls.for_each(|url| self.quoted("PeerURL", url.as_bytes()));
            let urls = member.client_ur_ls.iter();
            urls.for_each(|url| self.quoted("ClientURL", url.as_bytes()));
            self.line("IsLearner", member.is_learner);
            self.end();
        }
    }

    fn health(&mut self, health: &Health) {
        self.quoted("Endpoint", health.endpoint.as_bytes());
        self.line("Health", health.error.is_none());
        self.line("Took", took(health.took));
        self.line("Error", health.error.as_deref().unwrap_or_default());
        self.end();
    }

    fn status(&mut self, endpoint: &str, m: &pb::StatusResponse) {
        let downgrade = m.downgrade_info.clone().unwrap_or_default();
        self.header(m.header);
        self.quoted("Version", m.version.as_bytes());
        self.quoted("StorageVersion", m.storage_version.as_bytes());
        self.line("DBSize", m.db_size);
        self.line("DBSizeInUse", m.db_size_in_use);
        self.line("DBSizeQuota", m.db_size_quota);
        self.line("Leader", m.leader);
        self.line("IsLearner", m.is_learner);
        self.line("RaftIndex", m.raft_index);
        self.line("RaftTerm", m.raft_term);
        self.line("RaftAppliedIndex", m.raft_applied_index);
        self.line("Errors", format_args!("[{}]", m.errors.join(" ")));
        self.quoted("Endpoint", endpoint.as_bytes());
        self.quoted("DowngradeTargetVersion", downgrade.target_version.as_bytes());
        self.line("DowngradeEnabled", downgrade.enabled);
        self.end();
    }
}
