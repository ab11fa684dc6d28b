//! Members that apply the same entries hold the same state, however the entries arrive.

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::*;
use machine::membership::Membership;
use machine::{Applied, Effect, Fatal, Member, MemberChange};
use mvcc::{Change, Table};
use proptest::prelude::*;
use prost::Message;
use proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest,
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
};
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use proto::raftpb::{ConfState, Entry};
use types::MemberId;

fn entry() -> impl Strategy<Value = Entry> {
    let key = || prop::sample::select(vec!["a", "b", "c", "d"]);
    let normal = |request: InternalRaftRequest| (0, request.encode_to_vec());
    let request = move |fill: &dyn Fn(&mut InternalRaftRequest)| {
        let mut request = InternalRaftRequest {
            id: 1,
            ..Default::default()
        };
        fill(&mut request);
        normal(request)
    };
    let conf_change = |change: MemberChange| (1, change.to_conf_change(1).encode_to_vec());
    let member = |id: u64, is_learner| Member {
        id: MemberId(id),
        peer_urls: vec![format!("http://{id}")],
        is_learner,
        ..Member::default()
    };
    let url = |n: u64| vec![format!("http://{n}")];
    prop_oneof![
        1 => Just((0, vec![])),
        6 => (key(), 0..3i64, any::<bool>()).prop_map(move |(key, lease, ignore_value)| request(&|r| {
            r.put = Some(PutRequest { lease, ignore_value, ..put(key, "") });
        })),
        2 => (key(), key()).prop_map(move |(key, end)| request(&|r| r.delete_range = Some(del(key, end)))),
        3 => (key(), key(), -1..9i64).prop_map(move |(a, b, revision)| request(&|r| {
            let range = proto::etcdserverpb::RangeRequest { revision, ..get(a, b) };
            r.txn = Some(all([op(put(a, "x")), op(all([op(range), op(del(b, ""))]))]));
        })),
        1 => (0..9i64).prop_map(move |revision| request(&|r| {
            r.compaction = Some(CompactionRequest { revision, physical: false });
        })),
        2 => (0..3i64).prop_map(move |id| request(&|r| {
            r.lease_grant = Some(LeaseGrantRequest { id, ttl: 60 });
        })),
        1 => (0..3i64).prop_map(move |id| request(&|r| r.lease_revoke = Some(LeaseRevokeRequest { id }))),
        1 => (0..3i64).prop_map(move |id| request(&|r| {
            let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 30 }];
            r.lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
        })),
        1 => (1..3i32, 0..3i32).prop_map(move |(action, alarm)| request(&|r| {
            r.alarm = Some(AlarmRequest { action, member_id: 1, alarm });
        })),
        1 => (3..8u64).prop_map(move |minor| request(&|r| {
            r.cluster_version_set = Some(ClusterVersionSetRequest { ver: format!("3.{minor}.0") });
        })),
        1 => (0..5u64).prop_map(move |id| request(&|r| {
            let attributes = Attributes { name: "n".into(), client_urls: vec![] };
            let attributes = Some(attributes);
            r.cluster_member_attr_set =
                Some(ClusterMemberAttrSetRequest { member_id: id, member_attributes: attributes });
        })),
        4 => (1..6u64, any::<bool>()).prop_map(move |(id, learner)| {
            conf_change(MemberChange::Add(member(id, learner)))
        }),
        2 => (1..6u64).prop_map(move |id| conf_change(MemberChange::Remove(MemberId(id)))),
        2 => (1..6u64).prop_map(move |id| conf_change(MemberChange::Promote(MemberId(id)))),
        1 => (1..6u64, 1..9u64).prop_map(move |(id, n)| {
            conf_change(MemberChange::Update { id: MemberId(id), peer_urls: url(n) })
        }),
    ]
    .prop_map(|(kind, data)| Entry {
        term: 1,
        index: 0,
        r#type: kind,
        data: Some(Bytes::from(data)),
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(entry(), 1..60).prop_map(|mut entries| {
        (1..)
            .zip(&mut entries)
            .for_each(|(index, entry)| entry.index = index);
        entries
    })
}

type State = (Vec<Change>, BTreeMap<(Table, Bytes), Bytes>, i64, i64);

impl Replica {
    /// All that is replicated, in bytes. Where a record stands in its batch is not.
    fn state(&self) -> State {
        let mut history = self.history();
        history.iter_mut().for_each(|change| change.offset = 0);
        (
            history,
            self.tables.clone(),
            self.head.revision(),
            self.head.compacted(),
        )
    }
}

/// What raft makes of the changes it is told of.
#[derive(Default)]
struct Group(ConfState);

impl Group {
    fn tell(&mut self, applied: &Applied) {
        let Effect::ConfChange(change) = &applied.effect else {
            return;
        };
        let group = &mut self.0;
        for single in change.changes.iter().filter(|single| single.node_id != 0) {
            // An update (2) is of no concern to raft.
            if single.r#type != 2 {
                group.voters.retain(|id| *id != single.node_id);
                group.learners.retain(|id| *id != single.node_id);
            }
            match single.r#type {
                0 => group.voters.push(single.node_id),
                3 => group.learners.push(single.node_id),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn batches_restarts_and_clocks_make_no_difference(
        entries in entries(),
        publish in prop::collection::vec(any::<bool>(), 60),
        restart in prop::collection::vec(prop::bool::weighted(0.1), 60),
    ) {
        let (mut one, mut other) = (Replica::new(), Replica::new());
        let mut group = Group::default();
        other.lessor.promote(0, 1000);
        for ((entry, publish), restart) in entries.iter().zip(publish).zip(restart) {
            let applied = one.apply_entry(entry).unwrap();
            one.publish();
            other.now_ms += 700;
            prop_assert_eq!(&other.apply_entry(entry).unwrap(), &applied);
            if publish || restart {
                other.publish();
            }
            if restart {
                (other.machine, other.lessor) = other.restored();
            }
            group.tell(&applied);
            one.machine.check(&one.lessor, &group.0).unwrap();
            prop_assert_eq!(&one.machine, &other.machine);
        }
        other.publish();
        prop_assert_eq!(one.state(), other.state());
        prop_assert_eq!(Replica::lease_facts(&one.lessor), Replica::lease_facts(&other.lessor));
    }

    #[test]
    fn removed_ids_never_come_back(entries in entries()) {
        let mut replica = Replica::new();
        let mut removed = std::collections::BTreeSet::new();
        let ids = |members: &Membership| members.members().map(|member| member.id).collect::<Vec<_>>();
        for entry in entries {
            let before = ids(replica.machine.membership());
            replica.apply_entry(&entry).unwrap();
            let after = ids(replica.machine.membership());
            removed.extend(before.into_iter().filter(|id| !after.contains(id)));
            prop_assert!(after.iter().all(|id| !removed.contains(id)));
        }
    }

    /// Whatever the bytes, both replicas answer the same and neither panics.
    #[test]
    fn arbitrary_entries_never_panic(
        kind in 0..4i32,
        noise in prop::collection::vec(any::<u8>(), 0..64),
        valid in entry(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut broken = valid.data.clone().unwrap().to_vec();
        for (at, byte) in flips {
            if !broken.is_empty() {
                let at = at.index(broken.len());
                broken[at] = byte;
            }
        }
        for (kind, data) in [(kind, noise), (valid.r#type, broken)] {
            let entry = Entry { term: 1, index: 1, r#type: kind, data: Some(Bytes::from(data)) };
            let (mut one, mut other) = (Replica::new(), Replica::new());
            let text = |result: Result<Applied, Fatal>| result.map_err(|error| error.to_string());
            let answer = text(one.apply_entry(&entry));
            prop_assert_eq!(&answer, &text(other.apply_entry(&entry)));
            if answer.is_err() {
                prop_assert_eq!(one.head.pending_len(), 0);
            }
        }
    }

    #[test]
    fn arbitrary_tables_never_panic(
        table in prop::sample::select(Table::ALL.to_vec()),
        key in prop::collection::vec(any::<u8>(), 0..20),
        value in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut lessor = lease::Lessor::new(LESSOR);
        let rows = [(table, Bytes::from(key), Bytes::from(value))];
        let _ = machine::Machine::restore(CONFIG, &mut lessor, rows);
        lessor.check().unwrap();
    }
}
