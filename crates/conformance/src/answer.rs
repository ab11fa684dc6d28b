//! Answers as text: every field of every message, in a form that is the same from run to run.
//!
//! An answer is one line, or more when it holds keys, events or the answers of a transaction's operations. Fields
//! that are zero are left out, except where zero says something (`count`, `more`, `succeeded`, `deleted`).
//!
//! | printed | stands for |
//! |---|---|
//! | `revision=5` at the start | a full header: the cluster's id, this member's id, a raft term, revision 5 |
//! | `header(revision=5)` | a header with only these fields; `header()` an empty one, `no header` none at all |
//! | `"a" = "1"` | a key and its value; bytes that are not printable ASCII as `\xff`, long ones shortened |
//! | `M1`, `M2` | members' ids, in the order they were started or added |
//! | `L1`, `L2` | lease ids the server chose, in the order they were granted |
//! | `TTL=fresh` | the remaining time of a lease is the granted one, but for a tenth |
//! | `+` | a number that is right if it is above zero: raft's term and index, sizes, times |

use std::fmt::{Display, Write};

use proto::authpb::{Permission, permission};
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::*;
use proto::grpc::health::v1::{
    HealthCheckResponse, HealthListResponse, health_check_response::ServingStatus,
};
use proto::mvccpb::{Event, KeyValue, event::EventType};

/// What ids are called in answers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The cluster's id.
    pub cluster: u64,
    /// The id of the member that is asked.
    pub member: u64,
    /// All members' ids, in the order they were started or added; empty for a member that is alone.
    pub members: Vec<u64>,
    /// Lease ids the server chose.
    pub leases: Vec<i64>,
}

impl Names {
    fn member(&self, id: u64) -> String {
        let mut all = self.all_members().iter();
        match all.position(|member| *member == id) {
            Some(position) => format!("M{}", position + 1),
            None => id.to_string(),
        }
    }

    /// The ids that have names, that of `M1` first.
    pub fn all_members(&self) -> &[u64] {
        match self.members.is_empty() {
            true => std::slice::from_ref(&self.member),
            false => &self.members,
        }
    }

    /// The id behind `M1` and the like.
    pub fn member_id(&self, name: &str) -> Option<u64> {
        let number = name.strip_prefix('M')?.parse::<usize>().ok()?;
        self.all_members().get(number.checked_sub(1)?).copied()
    }

    /// A lease's name, or its id if the script chose it.
    pub fn lease(&self, id: i64) -> String {
        match self.leases.iter().position(|&lease| lease == id) {
            Some(position) => format!("L{}", position + 1),
            None => id.to_string(),
        }
    }

    /// The id behind a name that [`Names`] gave, or behind a plain number.
    pub fn lease_id(&self, name: &str) -> Option<i64> {
        match name.strip_prefix('L') {
            Some(number) => self
                .leases
                .get(number.parse::<usize>().ok()?.checked_sub(1)?)
                .copied(),
            None => name.parse().ok(),
        }
    }
}

/// An answer while it is being written.
#[derive(Debug)]
pub struct Answer<'a> {
    names: &'a Names,
    depth: usize,
    text: String,
}

/// A message that can be written as an answer.
pub trait Show {
    /// Appends every field.
    fn show(&self, answer: &mut Answer<'_>);
}

impl<'a> Answer<'a> {
    /// An answer to the call of that name.
    pub fn new(call: &str, names: &'a Names) -> Self {
        Self {
            names,
            depth: 0,
            text: format!("{call}:"),
        }
    }

    /// A whole answer.
    pub fn of(call: &str, names: &'a Names, message: &impl Show) -> String {
        let mut answer = Self::new(call, names);
        message.show(&mut answer);
        answer.finish()
    }

    /// The text so far.
    pub fn finish(self) -> String {
        self.text
    }

    /// Appends a word to the line.
    pub fn word(&mut self, word: impl Display) {
        let _ = write!(self.text, " {word}");
    }

    /// Appends a field.
    pub fn field(&mut self, name: &str, value: impl Display) {
        self.word(format_args!("{name}={value}"));
    }

    /// Appends a field unless it is zero.
    pub fn number(&mut self, name: &str, value: i64) {
        if value != 0 {
            self.field(name, value);
        }
    }

    /// Appends a word if it applies.
    pub fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.word(name);
        }
    }

    /// Appends a text field unless it is empty.
    pub fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(name, format_args!("{value:?}"));
        }
    }

    /// Appends a number that differs from run to run, as `+` if it is above zero.
    pub fn masked(&mut self, name: &str, value: impl TryInto<i128>) {
        match value.try_into() {
            Ok(value) if value > 0 => self.field(name, '+'),
            Ok(value) => self.field(name, value),
            Err(_) => self.field(name, "?"),
        }
    }

    /// Writes the parts of an answer on lines of their own.
    pub fn lines<T>(&mut self, items: &[T], each: impl Fn(&mut Self, &T)) {
        self.depth += 1;
        for item in items {
            // The last blank of the indentation is the one before the first word.
            let _ = write!(self.text, "\n{:1$}", "", self.depth * 2 - 1);
            each(self, item);
        }
        self.depth -= 1;
    }

    fn shown<T: Show>(&mut self, items: &[T]) {
        self.lines(items, |answer, item| item.show(answer));
    }

    /// Members are listed by their ids, which differ from run to run; they are printed by their names.
    fn members(&mut self, members: &[Member]) {
        self.flag("unsorted", !members.is_sorted_by_key(|member| member.id));
        let names = self.names;
        let mut members = members.to_vec();
        members.sort_by_key(|member| names.all_members().iter().position(|id| *id == member.id));
        self.shown(&members);
    }

    /// What ids are called.
    pub fn names(&self) -> &'a Names {
        self.names
    }

    /// Appends a header.
    pub fn header(&mut self, header: &Option<ResponseHeader>) {
        let Some(header) = header else {
            return self.word("no header");
        };
        let Names { cluster, member, .. } = *self.names;
        if header.cluster_id == cluster && header.member_id == member && header.raft_term > 0 {
            return self.field("revision", header.revision);
        }
        let mut fields = Vec::new();
        for (name, value) in [("cluster_id", header.cluster_id), ("member_id", header.member_id)] {
            if value != 0 {
                fields.push(format!("{name}={value}"));
            }
        }
        if header.revision != 0 {
            fields.push(format!("revision={}", header.revision));
        }
        if header.raft_term != 0 {
            fields.push("raft_term=+".to_owned());
        }
        self.word(format_args!("header({})", fields.join(" ")));
    }
}

/// Bytes longer than this are not printed whole.
const LONG: usize = 60;

/// Bytes in quotes, unprintable ones as `\xff`; the way scripts write them too.
pub fn quoted(bytes: &[u8]) -> String {
    if bytes.len() > LONG && bytes.iter().all(|byte| *byte == bytes[0]) {
        return format!("{}*{}", quoted(&bytes[..1]), bytes.len());
    }
    if bytes.len() > LONG {
        return format!("<{} bytes, crc32c {:08x}>", bytes.len(), crc32c::crc32c(bytes));
    }
    let mut text = String::from('"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            0 => text.push_str("\\0"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.push('"');
    text
}

impl Show for KeyValue {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.word(format_args!("{} = {}", quoted(&self.key), quoted(&self.value)));
        answer.number("create", self.create_revision);
        answer.number("mod", self.mod_revision);
        answer.number("version", self.version);
        if self.lease != 0 {
            answer.field("lease", answer.names.lease(self.lease));
        }
    }
}

impl Show for Event {
    fn show(&self, answer: &mut Answer<'_>) {
        match EventType::try_from(self.r#type) {
            Ok(kind) => answer.word(kind.as_str_name()),
            Err(_) => answer.field("type", self.r#type),
        }
        match &self.kv {
            Some(kv) => kv.show(answer),
            None => answer.word("no kv"),
        }
        if let Some(prev) = &self.prev_kv {
            answer.word("previously");
            prev.show(answer);
        }
    }
}

impl Show for RangeResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.field("count", self.count);
        answer.field("more", self.more);
        answer.shown(&self.kvs);
    }
}

impl Show for PutResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.shown(self.prev_kv.as_slice());
    }
}

impl Show for DeleteRangeResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.field("deleted", self.deleted);
        answer.shown(&self.prev_kvs);
    }
}

impl Show for TxnResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.field("succeeded", self.succeeded);
        answer.shown(&self.responses);
    }
}

impl Show for ResponseOp {
    fn show(&self, answer: &mut Answer<'_>) {
        let (name, response): (_, &dyn Show) = match &self.response {
            Some(Response::ResponseRange(response)) => ("range:", response),
            Some(Response::ResponsePut(response)) => ("put:", response),
            Some(Response::ResponseDeleteRange(response)) => ("delete:", response),
            Some(Response::ResponseTxn(response)) => ("txn:", response),
            None => return answer.word("nothing"),
        };
        answer.word(name);
        response.show(answer);
    }
}

impl Show for WatchResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.field("watch_id", self.watch_id);
        answer.header(&self.header);
        answer.flag("created", self.created);
        answer.flag("canceled", self.canceled);
        answer.number("compact_revision", self.compact_revision);
        answer.text("cancel_reason", &self.cancel_reason);
        answer.flag("fragment", self.fragment);
        answer.shown(&self.events);
    }
}

impl Show for Permission {
    fn show(&self, answer: &mut Answer<'_>) {
        match permission::Type::try_from(self.perm_type) {
            Ok(kind) => answer.word(kind.as_str_name()),
            Err(_) => answer.field("permType", self.perm_type),
        }
        answer.word(quoted(&self.key));
        if !self.range_end.is_empty() {
            answer.field("range_end", quoted(&self.range_end));
        }
    }
}

/// Answers about users that are no more than a header.
macro_rules! show_header {
    ($($message:ident)*) => {$(
        impl Show for $message {
            fn show(&self, answer: &mut Answer<'_>) {
                answer.header(&self.header);
            }
        }
    )*};
}
show_header! {
    AuthEnableResponse AuthDisableResponse AuthUserAddResponse AuthUserDeleteResponse
    AuthUserChangePasswordResponse AuthUserGrantRoleResponse AuthUserRevokeRoleResponse AuthRoleAddResponse
    AuthRoleDeleteResponse AuthRoleGrantPermissionResponse AuthRoleRevokePermissionResponse
}

/// Answers about users that are a header and names.
macro_rules! show_names {
    ($($message:ident: $field:ident)*) => {$(
        impl Show for $message {
            fn show(&self, answer: &mut Answer<'_>) {
                answer.header(&self.header);
                answer.lines(&self.$field, |answer, name| answer.word(format_args!("{name:?}")));
            }
        }
    )*};
}
show_names! {
    AuthUserGetResponse: roles
    AuthUserListResponse: users
    AuthRoleListResponse: roles
}

impl Show for AuthStatusResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.field("enabled", self.enabled);
        answer.field("authRevision", self.auth_revision);
    }
}

impl Show for AuthRoleGetResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.shown(&self.perm);
    }
}

impl Show for AuthenticateResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        let is_simple = |(letters, number): (&str, &str)| {
            letters.len() == 16
                && letters.bytes().all(|letter| letter.is_ascii_alphabetic())
                && number.parse::<u64>().is_ok()
        };
        match self.token.split_once('.').is_some_and(is_simple) {
            true => answer.field("token", "simple"),
            false => answer.text("token", &self.token),
        }
    }
}

impl Show for LeaseGrantResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.field("ID", answer.names.lease(self.id));
        answer.field("TTL", self.ttl);
        answer.text("error", &self.error);
    }
}

impl Show for LeaseKeepAliveResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.field("ID", answer.names.lease(self.id));
        answer.field("TTL", self.ttl);
    }
}

impl Show for LeaseTimeToLiveResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.field("ID", answer.names.lease(self.id));
        // Scripts take a moment, on a busy machine a long one.
        match self.granted_ttl - self.ttl {
            gone if self.granted_ttl > 0 && (0..=self.granted_ttl / 10).contains(&gone) => {
                answer.field("TTL", "fresh")
            }
            _ => answer.masked("TTL", self.ttl),
        }
        answer.field("grantedTTL", self.granted_ttl);
        // Both servers keep a lease's keys in no order.
        let mut keys = self.keys.clone();
        keys.sort();
        answer.lines(&keys, |answer, key| answer.word(quoted(key)));
    }
}

impl Show for LeaseLeasesResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.lines(&self.leases, |answer, lease| {
            answer.word(answer.names.lease(lease.id))
        });
    }
}

impl Show for Member {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.word(answer.names.member(self.id));
        answer.text("name", &self.name);
        answer.field("peerURLs", self.peer_ur_ls.join(","));
        answer.field("clientURLs", self.client_ur_ls.join(","));
        answer.flag("isLearner", self.is_learner);
    }
}

impl Show for AlarmResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        // Servers keep them in no order.
        let mut alarms = self.alarms.clone();
        alarms.sort_by_key(|alarm| {
            (
                alarm.member_id != answer.names.member,
                alarm.member_id,
                alarm.alarm,
            )
        });
        answer.lines(&alarms, |answer, alarm| {
            answer.word(answer.names.member(alarm.member_id));
            match AlarmType::try_from(alarm.alarm) {
                Ok(kind) => answer.word(kind.as_str_name()),
                Err(_) => answer.field("alarm", alarm.alarm),
            }
        });
    }
}

impl Show for StatusResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.text("version", &self.version);
        answer.masked("dbSize", self.db_size);
        // Never above dbSize.
        answer.masked(
            "dbSizeInUse",
            self.db_size_in_use.min(self.db_size - self.db_size_in_use + 1),
        );
        answer.field("leader", answer.names.member(self.leader));
        answer.masked("raftTerm", self.raft_term);
        answer.masked("raftIndex", self.raft_index);
        answer.masked("raftAppliedIndex", self.raft_applied_index);
        answer.flag("isLearner", self.is_learner);
        answer.text("storageVersion", &self.storage_version);
        answer.number("dbSizeQuota", self.db_size_quota);
        if let Some(info) = &self.downgrade_info {
            answer.word(format_args!(
                "downgradeInfo({} {:?})",
                info.enabled, info.target_version
            ));
        }
        // The text form of a protobuf message has no fixed number of blanks.
        let mut errors = self.errors.clone();
        for error in &mut errors {
            *error = error.split_whitespace().collect::<Vec<_>>().join(" ");
            *error = error.replace(&answer.names.member.to_string(), "M1");
        }
        errors.sort();
        answer.lines(&errors, |answer, error| answer.word(format_args!("{error:?}")));
    }
}

impl Show for HashKvResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.field("hash", self.hash);
        answer.field("compact_revision", self.compact_revision);
        answer.number("hash_revision", self.hash_revision);
    }
}

impl Show for DowngradeResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        answer.text("version", &self.version);
    }
}

impl Show for HealthCheckResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        match ServingStatus::try_from(self.status) {
            Ok(status) => answer.word(status.as_str_name()),
            Err(_) => answer.field("status", self.status),
        }
    }
}

impl Show for HealthListResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        let mut statuses: Vec<_> = self.statuses.iter().collect();
        statuses.sort_by_key(|(service, _)| service.as_str());
        answer.lines(&statuses, |answer, (service, status)| {
            answer.word(format_args!("{service:?}"));
            status.show(answer);
        });
    }
}

/// Answers that are a header only.
macro_rules! header_only {
    ($($message:ident)*) => {$(
        impl Show for $message {
            fn show(&self, answer: &mut Answer<'_>) {
                answer.header(&self.header);
            }
        }
    )*};
}
header_only!(CompactionResponse LeaseRevokeResponse DefragmentResponse MoveLeaderResponse);

/// Answers that are a header and the members.
macro_rules! members {
    ($($message:ident)*) => {$(
        impl Show for $message {
            fn show(&self, answer: &mut Answer<'_>) {
                answer.header(&self.header);
                answer.members(&self.members);
            }
        }
    )*};
}
members!(MemberListResponse MemberRemoveResponse MemberUpdateResponse MemberPromoteResponse);

impl Show for MemberAddResponse {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.header(&self.header);
        match &self.member {
            Some(member) => member.show(answer),
            None => answer.word("no member"),
        }
        answer.members(&self.members);
    }
}

impl Show for tonic::Status {
    fn show(&self, answer: &mut Answer<'_>) {
        answer.word(format_args!("{:?} {:?}", self.code(), self.message()));
    }
}

impl<T: Show> Show for Result<T, tonic::Status> {
    fn show(&self, answer: &mut Answer<'_>) {
        match self {
            Ok(message) => message.show(answer),
            Err(status) => status.show(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
    use proto::etcdserverpb::response_op::Response::*;

    use super::*;

    const NAMES: Names = Names {
        cluster: 1,
        member: 2,
        members: Vec::new(),
        leases: Vec::new(),
    };

    fn text(message: &impl Show) -> String {
        Answer::of("call", &NAMES, message)
    }

    /// The encoded message with one field left out, for every field at every depth. What is left out is zero then.
    fn without_each_field(encoded: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut variants = Vec::new();
        let mut rest = encoded;
        while !rest.is_empty() {
            let before = encoded.len() - rest.len();
            let (tag, wire_type) = decode_key(&mut rest).ok()?;
            let mut inner = Vec::new();
            match wire_type {
                WireType::Varint => drop(decode_varint(&mut rest).ok()?),
                WireType::LengthDelimited => {
                    let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                    inner = without_each_field(rest.get(..length)?).unwrap_or_default();
                    rest = &rest[length..];
                }
                _ => return None,
            }
            let (head, tail) = (&encoded[..before], rest);
            variants.push([head, tail].concat());
            for inner in inner {
                let mut variant = head.to_vec();
                encode_key(tag, wire_type, &mut variant);
                encode_varint(inner.len() as u64, &mut variant);
                variants.push([&variant, &inner[..], tail].concat());
            }
        }
        Some(variants)
    }

    /// A message whose fields are all set is printed differently when any one of them is not.
    fn every_field_shows<M: Message + Default + Show + std::fmt::Debug>(message: M) {
        let whole = text(&message);
        let variants =
            without_each_field(&message.encode_to_vec()).expect("prost encodes what it can decode");
        assert!(!variants.is_empty());
        for variant in variants {
            // A text may look like a message, and not be one any more without its first letter.
            let Ok(variant) = M::decode(variant.as_slice()) else {
                continue;
            };
            assert_ne!(text(&variant), whole, "{variant:?} looks like {message:?}");
        }
    }

    fn header() -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: 1,
            member_id: 2,
            revision: 5,
            raft_term: 3,
        })
    }

    fn kv(key: &'static str) -> KeyValue {
        let (key, value) = (key.into(), "v".into());
        KeyValue {
            key,
            value,
            create_revision: 3,
            mod_revision: 4,
            version: 2,
            lease: 7,
        }
    }

    fn member() -> Member {
        let urls = || vec!["http://x".to_owned()];
        Member {
            id: 2,
            name: "m".into(),
            peer_ur_ls: urls(),
            client_ur_ls: urls(),
            is_learner: true,
        }
    }

    #[test]
    fn no_field_of_an_answer_goes_unseen() {
        let range = RangeResponse {
            header: header(),
            kvs: vec![kv("a"), kv("b")],
            more: true,
            count: 3,
        };
        let put = PutResponse {
            header: header(),
            prev_kv: Some(kv("a")),
        };
        let delete = DeleteRangeResponse {
            header: header(),
            deleted: 1,
            prev_kvs: vec![kv("a")],
        };
        let op = |response| ResponseOp {
            response: Some(response),
        };
        let responses = vec![
            op(ResponseRange(range.clone())),
            op(ResponsePut(put.clone())),
            op(ResponseDeleteRange(delete.clone())),
            op(ResponseTxn(TxnResponse {
                header: header(),
                succeeded: true,
                responses: Vec::new(),
            })),
        ];
        every_field_shows(range);
        every_field_shows(put);
        every_field_shows(delete);
        every_field_shows(TxnResponse {
            header: header(),
            succeeded: true,
            responses,
        });
        every_field_shows(WatchResponse {
            header: header(),
            watch_id: 1,
            created: true,
            canceled: true,
            compact_revision: 4,
            cancel_reason: "why".into(),
            fragment: true,
            events: vec![Event {
                r#type: 1,
                kv: Some(kv("a")),
                prev_kv: Some(kv("a")),
            }],
        });
        every_field_shows(CompactionResponse { header: header() });
        every_field_shows(LeaseGrantResponse {
            header: header(),
            id: 7,
            ttl: 5,
            error: "no".into(),
        });
        every_field_shows(LeaseKeepAliveResponse {
            header: header(),
            id: 7,
            ttl: 5,
        });
        let keys = vec!["a".into(), "b".into()];
        every_field_shows(LeaseTimeToLiveResponse {
            header: header(),
            id: 7,
            ttl: 5,
            granted_ttl: 5,
            keys,
        });
        every_field_shows(LeaseLeasesResponse {
            header: header(),
            leases: vec![LeaseStatus { id: 7 }],
        });
        every_field_shows(MemberListResponse {
            header: header(),
            members: vec![member()],
        });
        every_field_shows(MemberAddResponse {
            header: header(),
            member: Some(member()),
            members: vec![member()],
        });
        every_field_shows(AlarmResponse {
            header: header(),
            alarms: vec![
                AlarmMember {
                    member_id: 2,
                    alarm: 1,
                },
                AlarmMember {
                    member_id: 9,
                    alarm: 2,
                },
            ],
        });
        every_field_shows(HashKvResponse {
            header: header(),
            hash: 9,
            compact_revision: 4,
            hash_revision: 5,
        });
        every_field_shows(DowngradeResponse {
            header: header(),
            version: "3.6".into(),
        });
        every_field_shows(StatusResponse {
            header: header(),
            version: "3.7.1".into(),
            db_size: 10,
            leader: 2,
            raft_index: 4,
            raft_term: 3,
            raft_applied_index: 4,
            errors: vec!["bad".into()],
            db_size_in_use: 9,
            is_learner: true,
            storage_version: "3.7.0".into(),
            db_size_quota: 11,
            downgrade_info: Some(DowngradeInfo {
                enabled: true,
                target_version: "3.6".into(),
            }),
        });
    }

    #[test]
    fn no_field_of_an_answer_about_users_is_left_out() {
        every_field_shows(AuthStatusResponse {
            header: header(),
            enabled: true,
            auth_revision: 3,
        });
        every_field_shows(AuthenticateResponse {
            header: header(),
            token: "abc".into(),
        });
        every_field_shows(AuthUserListResponse {
            header: header(),
            users: vec!["root".into()],
        });
        every_field_shows(AuthRoleGetResponse {
            header: header(),
            perm: vec![Permission {
                perm_type: 2,
                key: "k".into(),
                range_end: "l".into(),
            }],
        });
    }

    #[test]
    fn bytes_are_readable_and_told_apart() {
        assert_eq!(quoted(b"a\"\\\0\xff"), r#""a\"\\\0\xff""#);
        assert_eq!(quoted(&[b'x'; 100]), "\"x\"*100");
        let mut long = [b'x'; 100];
        long[50] = b'y';
        let text = quoted(&long);
        long[50] = b'z';
        assert_ne!(quoted(&long), text);
    }

    #[test]
    fn a_lease_the_server_chose_goes_by_its_name() {
        let names = Names {
            leases: vec![1234, 99],
            ..NAMES
        };
        assert_eq!(names.lease(99), "L2");
        assert_eq!(
            (names.lease_id("L1"), names.lease_id("L3"), names.lease_id("7")),
            (Some(1234), None, Some(7))
        );
    }
}
