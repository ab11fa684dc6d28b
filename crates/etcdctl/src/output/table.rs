//! Answers about members and endpoints in rows: with borders as a table, or joined by commas in `simple`.

use proto::etcdserverpb as pb;

use super::{Answer, Health};
use crate::nested::Usage;
use types::print::{self, size, took};

/// Names of columns, and the rows under them.
pub struct Table {
    header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// The answer with borders, if it is one that has rows.
pub fn render(answer: &Answer) -> Option<Vec<u8>> {
    let table = match answer {
        Answer::MemberList(m) => members(m),
        Answer::Health(all) => health(all),
        Answer::Statuses(all) => statuses(all),
        Answer::Hashes(all) => hashes(all),
        Answer::Usage(all) => usages(all),
        _ => return None,
    };
    Some(print::table(&table.header, &table.rows).into_bytes())
}

pub fn members(m: &pb::MemberListResponse) -> Table {
    let row = |member: &pb::Member| {
        let status = if member.name.is_empty() {
            "unstarted"
        } else {
            "started"
        };
        vec![
            format!("{:x}", member.id),
            status.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    Table {
        header: vec!["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"],
        rows: m.members.iter().map(row).collect(),
    }
}

fn health(all: &[Health]) -> Table {
    let row = |health: &Health| {
        vec![
            health.endpoint.clone(),
            health.error.is_none().to_string(),
            took(health.took),
            health.error.clone().unwrap_or_default(),
        ]
    };
    Table {
        header: vec!["ENDPOINT", "HEALTH", "TOOK", "ERROR"],
        rows: all.iter().map(row).collect(),
    }
}

pub fn statuses(all: &[(String, pb::StatusResponse)]) -> Table {
    let header = vec![
        "ENDPOINT",
        "ID",
        "VERSION",
        "STORAGE VERSION",
        "DB SIZE",
        "IN USE",
        "PERCENTAGE NOT IN USE",
        "QUOTA",
        "IS LEADER",
        "IS LEARNER",
        "RAFT TERM",
        "RAFT INDEX",
        "RAFT APPLIED INDEX",
        "ERRORS",
        "DOWNGRADE TARGET VERSION",
        "DOWNGRADE ENABLED",
    ];
    let rows = all.iter().map(|(endpoint, m)| status(endpoint, m)).collect();
    Table { header, rows }
}

fn status(endpoint: &str, m: &pb::StatusResponse) -> Vec<String> {
    let member = m.header.map_or(0, |header| header.member_id);
    let downgrade = m.downgrade_info.clone().unwrap_or_default();
    let used = (i128::from(m.db_size_in_use) * 100).checked_div(m.db_size.into());
    vec![
        endpoint.to_owned(),
        format!("{member:x}"),
        m.version.clone(),
        m.storage_version.clone(),
        size(m.db_size as u64),
        size(m.db_size_in_use as u64),
        format!("{}%", 100 - used.unwrap_or(100)),
        size(m.db_size_quota as u64),
        (m.leader == member).to_string(),
        m.is_learner.to_string(),
        m.raft_term.to_string(),
        m.raft_index.to_string(),
        m.raft_applied_index.to_string(),
        m.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

pub fn hashes(all: &[(String, pb::HashKvResponse)]) -> Table {
    let row = |(endpoint, m): &(String, pb::HashKvResponse)| {
        vec![endpoint.clone(), m.hash.to_string(), m.hash_revision.to_string()]
    };
    Table {
        header: vec!["ENDPOINT", "HASH", "HASH REVISION"],
        rows: all.iter().map(row).collect(),
    }
}

fn usages(all: &[Usage]) -> Table {
    let row = |usage: &Usage| vec![usage.name(false), usage.keys.to_string(), size(usage.bytes)];
    Table {
        header: vec!["PREFIX", "KEYS", "SIZE"],
        rows: all.iter().map(row).collect(),
    }
}

impl Table {
    /// One row a line, joined by commas.
    pub fn joined(&self) -> String {
        self.rows.iter().map(|row| row.join(", ") + "\n").collect()
    }
}
