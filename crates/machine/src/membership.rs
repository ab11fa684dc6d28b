//! Who belongs to the cluster.
//!
//! The members are kept twice in a running member: here, with addresses and names, and in the raft
//! group as bare ids. Both change with the same entry or not at all: a change is judged by rules that
//! every member evaluates alike, and raft is handed either the change or, when it was refused, a change
//! of node 0, which it takes for "nothing".
//!
//! # Invariants
//!
//! * Voters and learners here are those of the raft group ([`Membership::check`]).
//! * A removed id never comes back.
//! * No peer URL belongs to two members.
//!
//! # Identity
//!
//! A member's id is made of where it was first reached and which cluster it was made for, so that all
//! members of a new cluster compute the same ids without talking: [`member_id`], [`cluster_id`].
//! The ids of a new cluster's members enter the log as its first entries: [`bootstrap_entries`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mvcc::{Head, Table};
use prost::Message;
use proto::{etcdserverpb, raftpb};
use serde::{Deserialize, Deserializer, Serialize};
use sha1::{Digest, Sha1};
use types::{ClusterId, ErrorKind, MemberId};

use crate::{RestoreError, json::to_go_json};

/// What a row of `members_removed` holds.
const REMOVED: &[u8] = b"removed";

/// A member. Its JSON form is that of the table, of the log and of the peer port's `/members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id; a number in JSON.
    #[serde(with = "id_as_number")]
    pub id: MemberId,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_as_empty")]
    pub peer_urls: Vec<String>,
    /// Whether it only receives the log and does not vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty until it has started and published itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has started.
    #[serde(rename = "clientURLs", default, deserialize_with = "null_as_empty")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

impl Member {
    /// Whether it has published itself.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }
}

impl From<&Member> for etcdserverpb::Member {
    fn from(member: &Member) -> Self {
        etcdserverpb::Member {
            id: member.id.0,
            name: member.name.clone(),
            peer_ur_ls: member.peer_urls.clone(),
            client_ur_ls: member.client_urls.clone(),
            is_learner: member.is_learner,
        }
    }
}

/// What a member says of itself once it runs; also the JSON that clusters up to 3.5 log for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Attributes {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Where clients reach it.
    #[serde(rename = "clientURLs", default, deserialize_with = "null_as_empty")]
    pub client_urls: Vec<String>,
}

/// One change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new member, voter or learner.
    Add(Member),
    /// A learner becomes a voter.
    Promote(MemberId),
    /// A member leaves for good.
    Remove(MemberId),
    /// A member is reached elsewhere from now on.
    Update {
        /// The member.
        id: MemberId,
        /// Its new peer URLs.
        peer_urls: Vec<String>,
    },
}

/// The JSON that travels with a change: the member, and whether it is promoted, since to raft a promotion
/// is an addition.
#[derive(Serialize, Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

impl MemberChange {
    /// The member it is about.
    pub fn id(&self) -> MemberId {
        match self {
            MemberChange::Add(member) => member.id,
            MemberChange::Promote(id) | MemberChange::Remove(id) | MemberChange::Update { id, .. } => *id,
        }
    }

    /// The change as it is proposed; `request_id` is how the proposer finds its answer again.
    pub fn to_conf_change(&self, request_id: u64) -> raftpb::ConfChange {
        use raftpb::ConfChangeType::*;
        let (kind, context) = match self {
            MemberChange::Add(member) if member.is_learner => {
                (ConfChangeAddLearnerNode, Some(to_go_json(member)))
            }
            MemberChange::Add(member) => (ConfChangeAddNode, Some(to_go_json(member))),
            MemberChange::Promote(id) => {
                let member = Member {
                    id: *id,
                    ..Member::default()
                };
                (
                    ConfChangeAddNode,
                    Some(to_go_json(&Context {
                        member,
                        is_promote: true,
                    })),
                )
            }
            MemberChange::Remove(_) => (ConfChangeRemoveNode, None),
            MemberChange::Update { id, peer_urls } => {
                let member = Member {
                    id: *id,
                    peer_urls: peer_urls.clone(),
                    ..Member::default()
                };
                (ConfChangeUpdateNode, Some(to_go_json(&member)))
            }
        };
        raftpb::ConfChange {
            id: request_id,
            r#type: kind as i32,
            node_id: self.id().0,
            context: context.map(Bytes::from),
        }
    }

    /// Reads a change from the log; the error says what is wrong with it.
    pub(crate) fn parse(change: &raftpb::ConfChangeSingle, context: &[u8]) -> Result<Self, String> {
        use raftpb::ConfChangeType::*;
        let id = MemberId(change.node_id);
        let kind = raftpb::ConfChangeType::try_from(change.r#type).map_err(|error| error.to_string())?;
        if kind == ConfChangeRemoveNode {
            return Ok(MemberChange::Remove(id));
        }
        let Context { member, is_promote } =
            serde_json::from_slice(context).map_err(|error| format!("member of a change: {error}"))?;
        if member.id != id || id == MemberId(0) {
            return Err(format!("a change of node {id} describes member {}", member.id));
        }
        Ok(match kind {
            ConfChangeUpdateNode => MemberChange::Update {
                id,
                peer_urls: member.peer_urls,
            },
            _ if is_promote => MemberChange::Promote(id),
            // Whether it votes is what raft does with it, not what the text says.
            kind => MemberChange::Add(Member {
                is_learner: kind == ConfChangeAddLearnerNode,
                ..member
            }),
        })
    }
}

/// The members, and the ids that may not come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    learners_max: usize,
}

impl Membership {
    /// No members yet.
    pub(crate) fn new(learners_max: usize) -> Self {
        Membership {
            learners_max,
            ..Membership::default()
        }
    }

    /// Takes a row of the table `members`.
    pub(crate) fn load(&mut self, key: &Bytes, json: &Bytes) -> Result<(), RestoreError> {
        let id = parse_row_key(Table::Members, key)?;
        let member: Member =
            serde_json::from_slice(json).map_err(|error| RestoreError::new(Table::Members, key, error))?;
        if member.id != id {
            return Err(RestoreError::new(
                Table::Members,
                key,
                "the row describes another member",
            ));
        }
        self.members.insert(id, member);
        Ok(())
    }

    /// Takes a row of the table `members_removed`.
    pub(crate) fn load_removed(&mut self, key: &Bytes) -> Result<(), RestoreError> {
        self.removed.insert(parse_row_key(Table::MembersRemoved, key)?);
        Ok(())
    }

    /// The members by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One member.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether this id was removed; whoever still uses it is to be told so.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// All ids that were removed.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members().filter(|member| !member.is_learner)
    }

    /// The members as answers list them.
    pub fn to_messages(&self) -> Vec<etcdserverpb::Member> {
        self.members().map(etcdserverpb::Member::from).collect()
    }

    /// Carries a change out, or refuses it and changes nothing.
    pub(crate) fn apply(&mut self, head: &mut Head, change: &MemberChange) -> Result<(), ErrorKind> {
        self.validate(change)?;
        match change {
            MemberChange::Add(member) => self.put(head, member.clone()),
            MemberChange::Promote(id) => self.edit(head, *id, |member| member.is_learner = false),
            MemberChange::Update { id, peer_urls } => {
                self.edit(head, *id, |member| member.peer_urls.clone_from(peer_urls));
            }
            MemberChange::Remove(id) => {
                self.members.remove(id);
                self.removed.insert(*id);
                head.table_delete(Table::Members, id.to_string().as_bytes());
                head.table_put(Table::MembersRemoved, id.to_string().as_bytes(), REMOVED);
            }
        }
        Ok(())
    }

    /// Notes what a member says of itself. One that left in the meantime is passed over.
    pub(crate) fn publish(&mut self, head: &mut Head, id: MemberId, attributes: Attributes) {
        self.edit(head, id, |member| {
            member.name = attributes.name;
            member.client_urls = attributes.client_urls;
        });
    }

    /// The rules every member applies to a committed change.
    fn validate(&self, change: &MemberChange) -> Result<(), ErrorKind> {
        let id = change.id();
        if self.is_removed(id) {
            return Err(ErrorKind::MemberNotFound);
        }
        let known = self.members.get(&id);
        match change {
            MemberChange::Add(_) if known.is_some() => Err(ErrorKind::MemberExist),
            MemberChange::Add(member) => {
                self.urls_are_free(id, &member.peer_urls)?;
                let learners = self.members().filter(|member| member.is_learner).count();
                match member.is_learner && learners >= self.learners_max {
                    true => Err(ErrorKind::TooManyLearners),
                    false => Ok(()),
                }
            }
            _ if known.is_none() => Err(ErrorKind::MemberNotFound),
            MemberChange::Promote(_) if known.is_some_and(|member| !member.is_learner) => {
                Err(ErrorKind::MemberNotLearner)
            }
            MemberChange::Update { peer_urls, .. } => self.urls_are_free(id, peer_urls),
            // A group without voters could never change again, and raft refuses to become one.
            MemberChange::Remove(_) if self.voters().all(|member| member.id == id) => {
                Err(ErrorKind::NotEnoughStarted)
            }
            MemberChange::Promote(_) | MemberChange::Remove(_) => Ok(()),
        }
    }

    fn urls_are_free(&self, id: MemberId, urls: &[String]) -> Result<(), ErrorKind> {
        let taken = |url| {
            self.members()
                .any(|member| member.id != id && member.peer_urls.contains(url))
        };
        match urls.iter().any(taken) {
            true => Err(ErrorKind::PeerURLExist),
            false => Ok(()),
        }
    }

    fn put(&mut self, head: &mut Head, member: Member) {
        head.table_put(
            Table::Members,
            member.id.to_string().as_bytes(),
            to_go_json(&member).as_bytes(),
        );
        self.members.insert(member.id, member);
    }

    fn edit(&mut self, head: &mut Head, id: MemberId, edit: impl FnOnce(&mut Member)) {
        if let Some(mut member) = self.members.get(&id).cloned() {
            edit(&mut member);
            self.put(head, member);
        }
    }

    /// Whether these are the members of the raft group.
    pub fn check(&self, conf_state: &raftpb::ConfState) -> Result<(), String> {
        let ids = |learners: bool| -> BTreeSet<u64> {
            self.members()
                .filter(|member| member.is_learner == learners)
                .map(|member| member.id.0)
                .collect()
        };
        let raft_learners = conf_state.learners.iter().chain(&conf_state.learners_next);
        let raft = (
            conf_state.voters.iter().copied().collect(),
            raft_learners.copied().collect(),
        );
        match (ids(false), ids(true)) == raft {
            true => Ok(()),
            false => Err(format!(
                "members {:x?} are not the raft group {raft:x?}",
                self.members
            )),
        }
    }
}

/// The rules of `--strict-reconfig-check`, asked before a change is proposed: would enough started
/// members be left for a quorum?
impl Membership {
    /// Before a voter is added. A single started member may always get a second one: that is how a
    /// restored cluster grows again.
    pub fn may_add_voter(&self) -> Result<(), ErrorKind> {
        let (voters, started) = self.count_voters(None);
        if started == 1 && voters == 1 {
            return Ok(());
        }
        enough_started(started, voters + 1)
    }

    /// Before a member is removed; a learner may always go.
    pub fn may_remove(&self, id: MemberId) -> Result<(), ErrorKind> {
        if self.get(id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        let (voters, started) = self.count_voters(Some(id));
        enough_started(started, voters)
    }

    /// Before a learner, which runs, is promoted.
    pub fn may_promote(&self) -> Result<(), ErrorKind> {
        let (voters, started) = self.count_voters(None);
        enough_started(started + 1, voters + 1)
    }

    /// How many members vote, and how many of them have started, leaving one out.
    fn count_voters(&self, without: Option<MemberId>) -> (usize, usize) {
        let voters = || self.voters().filter(|member| Some(member.id) != without);
        (
            voters().count(),
            voters().filter(|member| member.is_started()).count(),
        )
    }
}

fn enough_started(started: usize, voters: usize) -> Result<(), ErrorKind> {
    match started > voters / 2 {
        true => Ok(()),
        false => Err(ErrorKind::NotEnoughStarted),
    }
}

/// The id of a member that is first reached at `peer_urls`. The token is the cluster's at its
/// bootstrap and empty for a member added later; then the time makes the id a new one even where
/// an earlier member had the same URLs.
pub fn member_id(peer_urls: &[String], token: &str, unix_secs: Option<u64>) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let time = unix_secs.map(|secs| secs.to_string()).unwrap_or_default();
    MemberId(sha1_head(&[&urls.concat(), token, &time].concat().into_bytes()))
}

/// The id of a cluster that begins with these members.
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let ids: BTreeSet<MemberId> = members.into_iter().collect();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.0.to_be_bytes()).collect();
    ClusterId(sha1_head(&bytes))
}

/// The first entries of a new cluster's log, byte for byte alike on all its members: one addition
/// each, by id, as if committed in term 1.
pub fn bootstrap_entries(members: &[Member]) -> Vec<raftpb::Entry> {
    let by_id: BTreeMap<MemberId, &Member> = members.iter().map(|member| (member.id, member)).collect();
    let entry = |(index, member): (u64, &Member)| {
        let change = raftpb::ConfChange {
            id: 0,
            r#type: raftpb::ConfChangeType::ConfChangeAddNode as i32,
            node_id: member.id.0,
            context: Some(Bytes::from(to_go_json(member))),
        };
        raftpb::Entry {
            term: 1,
            index,
            r#type: raftpb::EntryType::EntryConfChange as i32,
            data: Some(Bytes::from(change.encode_to_vec())),
        }
    };
    (1..).zip(by_id.into_values()).map(entry).collect()
}

/// The first eight bytes of the SHA-1, as a number.
fn sha1_head(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 20]>::from(Sha1::digest(bytes));
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn parse_row_key(table: Table, key: &Bytes) -> Result<MemberId, RestoreError> {
    let hex = std::str::from_utf8(key).map_err(|error| RestoreError::new(table, key, error))?;
    let id = u64::from_str_radix(hex, 16).map_err(|error| RestoreError::new(table, key, error))?;
    Ok(MemberId(id))
}

mod id_as_number {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(id: &MemberId, to: S) -> Result<S::Ok, S::Error> {
        id.0.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MemberId, D::Error> {
        u64::deserialize(from).map(MemberId)
    }
}

/// Go writes an absent list as `null`.
fn null_as_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
