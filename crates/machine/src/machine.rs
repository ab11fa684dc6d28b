//! Applying entries.

use std::sync::Arc;

use auth::{Auth, Identity, Row, TokenEffect};
use bytes::Bytes;
use lease::{Lease, Lessor};
use mvcc::{Head, Table};
use parking_lot::Mutex;
use prost::Message;
use proto::etcdserverpb::{self, AlarmMember, AlarmType};
use proto::raftpb::{ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, EntryType};
use proto::raw::{self, response_op::Response};
use types::{ErrorKind, Index, LeaseId, MemberId};

use crate::authorize::Caller;
use crate::request::{Asked, Request};
use crate::{Alarms, ClusterVersion, Fatal, MemberChange, Membership, RestoreError, Stop, leases, txn};

/// What a machine must be told. It decides at apply, so all members must be told the same.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many members may be learners: `--max-learners`.
    pub learners_max: usize,
}

/// What every member knows beside keys and leases.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    membership: Membership,
    alarms: Alarms,
    cluster: ClusterVersion,
    /// Shared with those who check reads.
    auth: Arc<Auth>,
}

/// What came of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// How the proposer finds whoever waits for the answer; 0 if nobody does.
    pub request_id: u64,
    /// What was asked for, under the name that etcd's metrics have for it; nothing for raft's own
    /// entries.
    pub kind: Option<&'static str>,
    /// The answer.
    pub outcome: Result<Outcome, ErrorKind>,
    /// Main revision after the entry.
    pub revision: i64,
    /// What there is to do beside answering.
    pub effect: Effect,
    /// What the entry did, in one number: see [`trail`](crate::trail).
    pub digest: u64,
}

/// An answer. Headers in it hold a revision and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was done; there is no more to say than the revision after it.
    Done,
    /// Answer to a put.
    Put(raw::PutResponse),
    /// Answer to a deletion.
    DeleteRange(raw::DeleteRangeResponse),
    /// Answer to a transaction.
    Txn(raw::TxnResponse),
    /// The lease that was granted.
    LeaseGrant(Lease),
    /// The alarms asked for or changed.
    Alarm(Vec<AlarmMember>),
    /// All members after a change.
    Members(Vec<etcdserverpb::Member>),
    /// Answer to a request about users, roles or the switch.
    Auth(auth::Answer),
}

/// How many operations there were, those inside transactions counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Ranges read.
    pub ranges: u64,
    /// Keys put.
    pub puts: u64,
    /// Ranges deleted, whatever was in them.
    pub deletes: u64,
}

impl Operations {
    /// Those a transaction carried out.
    pub fn of(response: &raw::TxnResponse) -> Self {
        let mut all = Operations::default();
        for done in response.responses.iter().filter_map(|op| op.response.as_ref()) {
            match done {
                Response::ResponseRange(_) => all.ranges += 1,
                Response::ResponsePut(_) => all.puts += 1,
                Response::ResponseDeleteRange(_) => all.deletes += 1,
                Response::ResponseTxn(nested) => {
                    let nested = Operations::of(nested);
                    all.ranges += nested.ranges;
                    all.puts += nested.puts;
                    all.deletes += nested.deletes;
                }
            }
        }
        all
    }

    /// Whether they are more than one, which is what etcd calls a transaction.
    pub fn are_several(self) -> bool {
        self.ranges + self.puts + self.deletes > 1
    }
}

/// What the loop that applies has to do on account of an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The entry is the first of its leader's term: on the leader, start the lease clock.
    FirstOfTerm,
    /// Raft is to be told of this change. One that was refused is of node 0, which changes nothing.
    ConfChange(ConfChangeV2),
    /// History below this revision is to be dropped.
    Compaction(i64),
    /// Alarms were set or cleared.
    Alarms,
    /// This member said who it is and where clients reach it.
    Published(MemberId),
    /// The cluster version was set.
    ClusterVersion,
    /// A downgrade was enabled or called off.
    Downgrade,
    /// Users, roles or tokens changed, or authentication was switched on or off.
    Auth(TokenEffect),
}

impl Machine {
    /// The machine of a store that holds nothing yet.
    pub fn new(config: Config) -> Self {
        Machine {
            membership: Membership::new(config.learners_max),
            alarms: Alarms::default(),
            cluster: ClusterVersion::default(),
            auth: Arc::default(),
        }
    }

    /// Reads a store's tables back, leases into the lessor. Attachments follow by [`crate::attach`].
    pub fn restore(
        config: Config,
        lessor: &mut Lessor,
        rows: impl IntoIterator<Item = (Table, Bytes, Bytes)>,
    ) -> Result<Self, RestoreError> {
        let mut machine = Machine::new(config);
        let (mut leases, mut auth) = (vec![], Auth::default());
        for (table, key, value) in rows {
            match table {
                Table::Lease => leases.push(leases::parse_row(&key, &value)?),
                Table::Alarm => machine.alarms.load(&key)?,
                Table::Members => machine.membership.load(&key, &value)?,
                Table::MembersRemoved => machine.membership.load_removed(&key)?,
                Table::Cluster | Table::Meta => machine.cluster.load(table, &key, &value)?,
                Table::Auth => load(table, &key, auth.load_setting(&key, &value))?,
                Table::AuthUsers => load(table, &key, auth.load_user(&key, &value))?,
                Table::AuthRoles => load(table, &key, auth.load_role(&key, &value))?,
            }
        }
        auth.complete();
        machine.auth = Arc::new(auth);
        lessor.restore(leases);
        Ok(machine)
    }

    /// The members.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The active alarms.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Users and roles.
    pub fn auth(&self) -> &Arc<Auth> {
        &self.auth
    }

    /// Cluster version, storage version and downgrade.
    pub fn cluster(&self) -> &ClusterVersion {
        &self.cluster
    }

    /// Applies the next entry of the log. `now_ms` is for the lessor: see [`Lessor::grant`]. The lessor is
    /// locked use by use, never while a value is read: renewals do not wait for the disk.
    pub fn apply(
        &mut self,
        head: &mut Head,
        lessor: &Mutex<Lessor>,
        entry: &Entry,
        now_ms: u64,
    ) -> Result<Applied, Fatal> {
        let data = entry.data.clone().unwrap_or_default();
        let not_understood = |reason| Fatal::NotUnderstood {
            index: entry.index,
            reason,
        };
        let mut kind = None;
        let (request_id, outcome, effect) = match EntryType::try_from(entry.r#type) {
            Ok(EntryType::EntryNormal) if data.is_empty() => (0, Ok(Outcome::Done), Effect::FirstOfTerm),
            Ok(EntryType::EntryNormal) => {
                let Asked { id, who, request } = Request::decode(&data).map_err(not_understood)?;
                kind = Some(request.kind());
                let admitted = self.admit(lessor, &who, &request);
                let done = admitted.and_then(|()| match request {
                    Request::Auth(request) => self.change_users(head, &who, &request, entry.index),
                    request => self.execute(head, lessor, request, now_ms),
                });
                match done {
                    Ok((outcome, effect)) => (id, Ok(outcome), effect),
                    Err(Stop::Refuse(kind)) => (id, Err(kind), Effect::None),
                    Err(Stop::Fatal(fatal)) => return Err(fatal),
                }
            }
            Ok(EntryType::EntryConfChange) => {
                let change = ConfChange::decode(data).map_err(|error| not_understood(error.to_string()))?;
                let (id, change) = (change.id, to_v2(change));
                let (outcome, effect) = self.conf_change(head, change).map_err(not_understood)?;
                (id, outcome, effect)
            }
            Ok(EntryType::EntryConfChangeV2) => {
                let change = ConfChangeV2::decode(data).map_err(|error| not_understood(error.to_string()))?;
                let (outcome, effect) = self.conf_change(head, change).map_err(not_understood)?;
                (0, outcome, effect)
            }
            Err(error) => return Err(not_understood(error.to_string())),
        };
        Ok(Applied {
            request_id,
            kind,
            outcome,
            revision: head.revision(),
            effect,
            digest: head.take_digest(entry.index, entry.term),
        })
    }

    /// Whether the state of the cluster lets a request in. The order is part of the answer.
    fn admit(&self, lessor: &Mutex<Lessor>, who: &Identity, request: &Request) -> Result<(), Stop> {
        if request.is_refused_when_corrupt() && self.alarms.any(AlarmType::Corrupt) {
            return Err(Stop::Refuse(ErrorKind::Corrupt));
        }
        if self.alarms.any(AlarmType::Nospace) && request.is_refused_when_full() {
            return Err(Stop::Refuse(ErrorKind::NoSpace));
        }
        let auth = &self.auth;
        Ok(Caller { auth, who, lessor }.may(request)?)
    }

    /// Carries out a request about users, roles or the switch.
    fn change_users(
        &mut self,
        head: &mut Head,
        who: &Identity,
        request: &auth::Request,
        index: Index,
    ) -> Result<(Outcome, Effect), Stop> {
        let (answer, rows, tokens) = self.auth.execute(who, request, index)?;
        let effect = match rows.is_empty() && tokens == TokenEffect::None {
            true => Effect::None,
            false => Effect::Auth(tokens),
        };
        for row in rows {
            match row {
                Row::Setting(key, value) => head.table_put(Table::Auth, key, &value),
                Row::User(name, user) => write(head, Table::AuthUsers, &name, user),
                Row::Role(name, role) => write(head, Table::AuthRoles, &name, role),
            }
        }
        Ok((Outcome::Auth(answer), effect))
    }

    /// Carries out a request that was let in.
    fn execute(
        &mut self,
        head: &mut Head,
        lessor: &Mutex<Lessor>,
        request: Request,
        now_ms: u64,
    ) -> Result<(Outcome, Effect), Stop> {
        let mut effect = Effect::None;
        let outcome = match request {
            Request::Put(request) => Outcome::Put(txn::put(head, lessor, &request)?),
            Request::DeleteRange(request) => Outcome::DeleteRange(txn::delete_range(head, lessor, &request)?),
            Request::Txn(request) => Outcome::Txn(txn::txn(head, lessor, &request)?),
            Request::Compaction(request) => {
                head.compact(request.revision)?;
                effect = Effect::Compaction(request.revision);
                Outcome::Done
            }
            Request::LeaseGrant(request) => {
                Outcome::LeaseGrant(leases::grant(head, &mut lessor.lock(), &request, now_ms)?)
            }
            Request::LeaseRevoke(request) => {
                leases::revoke(head, &mut lessor.lock(), LeaseId(request.id))?;
                Outcome::Done
            }
            Request::LeaseCheckpoint(request) => {
                leases::checkpoint(head, &mut lessor.lock(), &request);
                Outcome::Done
            }
            Request::Alarm(request) => {
                let before = self.alarms.clone();
                let alarms = self.alarms.apply(head, &request);
                if self.alarms != before {
                    effect = Effect::Alarms;
                }
                Outcome::Alarm(alarms)
            }
            Request::ClusterVersionSet(version) => {
                self.cluster.set(head, version);
                effect = Effect::ClusterVersion;
                Outcome::Done
            }
            Request::MemberAttributesSet(id, attributes) => {
                self.membership.publish(head, id, attributes);
                effect = Effect::Published(id);
                Outcome::Done
            }
            Request::DowngradeInfoSet {
                enabled,
                target_version,
            } => {
                self.cluster.set_downgrade(head, enabled, &target_version);
                effect = Effect::Downgrade;
                Outcome::Done
            }
            Request::Auth(_) | Request::NoEffect => Outcome::Done,
        };
        Ok((outcome, effect))
    }

    /// Applies a change of the raft group to the membership, and decides whether raft gets to see it.
    fn conf_change(
        &mut self,
        head: &mut Head,
        mut change: ConfChangeV2,
    ) -> Result<(Result<Outcome, ErrorKind>, Effect), String> {
        let outcome = match change.changes.as_slice() {
            // Raft's own: it leaves a joint configuration.
            [] => Ok(Outcome::Done),
            [single] => {
                let parsed = MemberChange::parse(single, change.context.as_deref().unwrap_or_default())?;
                let applied = self.membership.apply(head, &parsed);
                applied.map(|()| Outcome::Members(self.membership.to_messages()))
            }
            _ => return Err("several members change at once".into()),
        };
        if outcome.is_err() {
            change.changes.iter_mut().for_each(|single| single.node_id = 0);
        }
        Ok((outcome, Effect::ConfChange(change)))
    }

    /// Checks the invariants: those of the lessor, and that the members are the raft group.
    pub fn check(&self, lessor: &Lessor, conf_state: &ConfState) -> Result<(), String> {
        lessor.check()?;
        self.auth.check()?;
        self.membership.check(conf_state)
    }
}

fn load(table: Table, key: &[u8], loaded: Result<(), auth::BadRow>) -> Result<(), RestoreError> {
    loaded.map_err(|error| RestoreError::new(table, key, error))
}

fn write(head: &mut Head, table: Table, key: &[u8], value: Option<Bytes>) {
    match value {
        Some(value) => head.table_put(table, key, &value),
        None => head.table_delete(table, key),
    }
}

/// The first form of a change as the second, which can say everything the first can.
fn to_v2(change: ConfChange) -> ConfChangeV2 {
    ConfChangeV2 {
        transition: 0,
        changes: vec![ConfChangeSingle {
            r#type: change.r#type,
            node_id: change.node_id,
        }],
        context: change.context,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(operations: impl IntoIterator<Item = Response>) -> raw::TxnResponse {
        let operation = |response| raw::ResponseOp {
            response: Some(response),
        };
        raw::TxnResponse {
            responses: operations.into_iter().map(operation).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn operations_are_counted_in_all_depths_and_one_alone_is_no_transaction() {
        let put = || Response::ResponsePut(raw::PutResponse::default());
        let range = || Response::ResponseRange(raw::RangeResponse::default());
        let nested = done([put(), Response::ResponseTxn(done([range()]))]);
        let all = Operations::of(&done([put(), Response::ResponseTxn(nested)]));
        assert_eq!(
            all,
            Operations {
                ranges: 1,
                puts: 2,
                deletes: 0
            }
        );
        assert!(all.are_several());
        assert!(!Operations::of(&done([range()])).are_several());
    }
}
