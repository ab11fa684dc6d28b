//! Format `simple`: what people read and scripts cut apart, etcd's to the letter.

use std::io::Write;

use proto::authpb::permission;
use proto::etcdserverpb::{self as pb, response_op::Response};
use proto::mvccpb::{KeyValue, event::EventType};

use types::print as lines;

use super::{Answer, Health, Style, hex, table};
use crate::nested::Usage;

/// What goes to standard output.
pub fn render(answer: &Answer, style: Style) -> Vec<u8> {
    let mut out = Out {
        bytes: Vec::new(),
        style,
    };
    out.answer(answer);
    out.bytes
}

struct Out {
    bytes: Vec<u8>,
    style: Style,
}

/// Writes a line; a vector takes whatever is written.
macro_rules! line {
    ($out:expr, $($words:tt)*) => {
        writeln!($out.bytes, $($words)*).expect("a vector grows")
    };
}

impl Out {
    fn answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Put(m) => self.put(m),
            Answer::Get(m) => self.pairs(&m.kvs),
            Answer::Delete(m) => self.delete(m),
            Answer::Txn(m) => self.txn(m),
            Answer::Watch(m) => self.watch(m),
            Answer::Grant(m) => line!(self, "lease {:016x} granted with TTL({}s)", m.id, m.ttl),
            Answer::Revoke(id, _) => line!(self, "lease {id:016x} revoked"),
            Answer::KeepAlive(m) => line!(self, "lease {:016x} keepalived with TTL({})", m.id, m.ttl),
            Answer::TimeToLive(m, keys) => self.time_to_live(m, *keys),
            Answer::Leases(m) => {
                line!(self, "found {} leases", m.leases.len());
                m.leases.iter().for_each(|lease| line!(self, "{:016x}", lease.id));
            }
            Answer::Alarms(m) => {
                for alarm in &m.alarms {
                    let kind = alarm.alarm().as_str_name();
                    line!(self, "memberID:{} alarm:{kind} ", alarm.member_id);
                }
            }
            Answer::MemberAdd(name, m) => self.member_add(name, m),
            Answer::MemberRemove(id, m) => {
                line!(
                    self,
                    "Member {id:16x} removed from cluster {:16x}",
                    cluster(m.header)
                );
            }
            Answer::MemberUpdate(id, m) => {
                line!(
                    self,
                    "Member {id:16x} updated in cluster {:16x}",
                    cluster(m.header)
                );
            }
            Answer::MemberPromote(id, m) => {
                line!(
                    self,
                    "Member {id:16x} promoted in cluster {:16x}",
                    cluster(m.header)
                );
            }
            Answer::MemberList(m) => self.text(&table::members(m).joined()),
            Answer::Health(all) => all.iter().for_each(|health| self.health(health)),
            Answer::Statuses(all) => self.text(&table::statuses(all).joined()),
            Answer::Hashes(all) => self.text(&table::hashes(all).joined()),
            Answer::MoveLeader(from, to, _) => line!(self, "Leadership transferred from {from:x} to {to:x}"),
            Answer::Downgrade(what, m) => {
                line!(self, "Downgrade {what} success, cluster version {}", m.version);
            }
            Answer::AuthStatus(m) => {
                line!(self, "Authentication Status: {}", m.enabled);
                line!(self, "AuthRevision: {}", m.auth_revision);
            }
            Answer::RoleAdd(role, _) => line!(self, "Role {role} created"),
            Answer::RoleDelete(role, _) => line!(self, "Role {role} deleted"),
            Answer::RoleGet(role, m) => self.role(role, m),
            Answer::RoleList(m) => m.roles.iter().for_each(|role| line!(self, "{role}")),
            Answer::RoleGrant(role, _) => line!(self, "Role {role} updated"),
            Answer::RoleRevoke {
                role, key, range_end, ..
            } => self.role_revoke(role, key, range_end),
            Answer::UserAdd(user, _) => line!(self, "User {user} created"),
            Answer::UserDelete(user, _) => line!(self, "User {user} deleted"),
            Answer::UserGet(user, m) => {
                let roles = m.roles.iter().map(|role| format!(" {role}"));
                line!(self, "User: {user}");
                line!(self, "Roles:{}", roles.collect::<String>());
            }
            Answer::UserList(m) => m.users.iter().for_each(|user| line!(self, "{user}")),
            Answer::UserPassword(_) => line!(self, "Password updated"),
            Answer::UserGrant(user, role, _) => line!(self, "Role {role} is granted to user {user}"),
            Answer::UserRevoke(user, role, _) => line!(self, "Role {role} is revoked from user {user}"),
            Answer::Tree(nested) => self.text(&nested.drawn(self.style.hex)),
            Answer::Usage(all) => all.iter().for_each(|usage| self.usage(usage)),
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Bytes of the store on a line of their own.
    fn raw(&mut self, bytes: &[u8]) {
        match self.style.hex {
            true => self.text(&hex(bytes)),
            false => self.bytes.extend_from_slice(bytes),
        }
        self.bytes.push(b'\n');
    }

    fn pair(&mut self, pair: &KeyValue) {
        if !self.style.values_only {
            self.raw(&pair.key);
        }
        self.raw(&pair.value);
    }

    fn pairs(&mut self, pairs: &[KeyValue]) {
        pairs.iter().for_each(|pair| self.pair(pair));
    }

    fn put(&mut self, m: &pb::PutResponse) {
        line!(self, "OK");
        m.prev_kv.iter().for_each(|pair| self.pair(pair));
    }

    fn delete(&mut self, m: &pb::DeleteRangeResponse) {
        line!(self, "{}", m.deleted);
        self.pairs(&m.prev_kvs);
    }

    fn txn(&mut self, m: &pb::TxnResponse) {
        line!(self, "{}", if m.succeeded { "SUCCESS" } else { "FAILURE" });
        for response in &m.responses {
            line!(self, "");
            match &response.response {
                Some(Response::ResponsePut(m)) => self.put(m),
                Some(Response::ResponseRange(m)) => self.pairs(&m.kvs),
                Some(Response::ResponseDeleteRange(m)) => self.delete(m),
                Some(Response::ResponseTxn(m)) => self.txn(m),
                None => {}
            }
        }
    }

    fn watch(&mut self, m: &pb::WatchResponse) {
        for event in &m.events {
            line!(self, "{}", EventType::as_str_name(&event.r#type()));
            event.prev_kv.iter().for_each(|pair| self.pair(pair));
            event.kv.iter().for_each(|pair| self.pair(pair));
        }
    }

    fn time_to_live(&mut self, m: &pb::LeaseTimeToLiveResponse, keys: bool) {
        if m.granted_ttl == 0 && m.ttl == -1 {
            return line!(self, "lease {:016x} already expired", m.id);
        }
        let keys = match keys {
            true => format!(
                ", attached keys([{}])",
                m.keys
                    .iter()
                    .map(|key| String::from_utf8_lossy(key))
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
            false => String::new(),
        };
        let (id, granted, ttl) = (m.id, m.granted_ttl, m.ttl);
        line!(
            self,
            "lease {id:016x} granted with TTL({granted}s), remaining({ttl}s){keys}"
        );
    }

    /// And what the new member is to be started with.
    fn member_add(&mut self, name: &str, m: &pb::MemberAddResponse) {
        let new = m.member.clone().unwrap_or_default();
        let learner = if new.is_learner { "as learner " } else { "" };
        line!(
            self,
            "Member {:16x} added {learner}to cluster {:16x}",
            new.id,
            cluster(m.header)
        );
        let urls = m.members.iter().flat_map(|member| {
            let name = if member.id == new.id { name } else { &member.name };
            member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
        });
        let urls: Vec<_> = urls.collect();
        let quoted = |text: &str| lines::quoted(text.as_bytes());
        line!(self, "");
        line!(self, "ETCD_NAME={}", quoted(name));
        line!(self, "ETCD_INITIAL_CLUSTER={}", quoted(&urls.join(",")));
        line!(
            self,
            "ETCD_INITIAL_ADVERTISE_PEER_URLS={}",
            quoted(&new.peer_ur_ls.join(","))
        );
        line!(self, "ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
    }

    fn usage(&mut self, usage: &Usage) {
        let (size, name) = (lines::size(usage.bytes), usage.name(self.style.hex));
        line!(self, "{size:>8} {:>10} keys  {name}", usage.keys);
    }

    /// Only who is well; of the others standard error tells.
    fn health(&mut self, health: &Health) {
        if health.error.is_none() {
            let took = lines::took(health.took);
            line!(
                self,
                "{} is healthy: successfully committed proposal: took = {took}",
                health.endpoint
            );
        }
    }

    fn role(&mut self, role: &str, m: &pb::AuthRoleGetResponse) {
        use permission::Type::{Read, Readwrite, Write};
        line!(self, "Role {role}");
        for (title, kind) in [("KV Read:", Read), ("KV Write:", Write)] {
            line!(self, "{title}");
            if role == "root" && m.perm.is_empty() {
                line!(self, "\t[, <open ended>");
            }
            for permission in &m.perm {
                if permission.perm_type() == kind || permission.perm_type() == Readwrite {
                    self.permission(&permission.key, &permission.range_end);
                }
            }
        }
    }

    fn permission(&mut self, key: &[u8], range_end: &[u8]) {
        self.text("\t");
        match range_end {
            [] => self.bytes.extend_from_slice(key),
            _ => self.range(key, range_end),
        }
        if !key.is_empty() && !range_end.is_empty() && client::prefix_end(key) == range_end {
            self.text(" (prefix ");
            self.bytes.extend_from_slice(key);
            self.text(")");
        }
        self.text("\n");
    }

    /// `[key, end)`, or open to one side.
    fn range(&mut self, key: &[u8], range_end: &[u8]) {
        let end = match range_end {
            [0] => &b"<open ended>"[..],
            end => end,
        };
        let close = if range_end == [0] { &b""[..] } else { b")" };
        for piece in [b"[", key, b", ", end, close] {
            self.bytes.extend_from_slice(piece);
        }
    }

    fn role_revoke(&mut self, role: &str, key: &[u8], range_end: &[u8]) {
        match range_end {
            [] => {
                self.text("Permission of key ");
                self.bytes.extend_from_slice(key);
            }
            _ => {
                self.text("Permission of range ");
                self.range(key, range_end);
            }
        }
        line!(self, " is revoked from role {role}");
    }
}

fn cluster(header: Option<pb::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}
