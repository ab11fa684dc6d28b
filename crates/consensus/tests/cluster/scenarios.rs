//! One promise, one scene.

use bytes::Bytes;
use consensus::{ConfChange, ProposeError, RestoreError, Restored, Role, StepError};
use consensus::{Config, Consensus, change_of};
use proto::raftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
    HardState, Message, MessageType, SnapshotMetadata,
};
use types::MemberId;

use crate::harness::{Cluster, bootstrap_entry, conf_change};

fn sent(cluster: &Cluster, kind: MessageType) -> usize {
    cluster
        .network
        .iter()
        .filter(|message| message.r#type() == kind)
        .count()
}

/// Delivers everything of one type, once.
fn deliver_all(cluster: &mut Cluster, kind: MessageType) {
    for at in (0..cluster.network.len()).rev() {
        if cluster.network[at].r#type() == kind {
            cluster.deliver(at);
        }
    }
}

fn committed(cluster: &mut Cluster, id: u64) -> u64 {
    cluster.raft(id).status().committed
}

mod durability {
    use super::*;

    /// etcd issue 14370: a cluster of one acknowledged writes before they were on disk.
    #[test]
    fn a_lone_voter_commits_nothing_that_its_disk_does_not_have() {
        let mut cluster = Cluster::new(1, 0, 1);
        let id = cluster.elect();
        let before = committed(&mut cluster, id);
        cluster.propose(id);
        cluster.take(id);
        cluster.propose(id);
        cluster.take(id);
        assert_eq!(committed(&mut cluster, id), before);
        cluster.persist(id);
        assert_eq!(committed(&mut cluster, id), before + 1);
        cluster.take(id);
        assert_eq!(cluster.committed().len() as u64, before + 1);
    }

    #[test]
    fn a_leader_replicates_while_its_own_disk_writes() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        cluster.propose(leader);
        let effects = cluster.raft(leader).take_effects();
        let append = effects.append.expect("the proposal is to be written");
        assert_eq!(append.entries.len(), 1);
        assert!(append.must_sync && append.send_after.is_empty());
        assert_eq!(effects.send.len(), 2);
    }

    #[test]
    fn a_majority_without_the_leader_commits_but_the_leader_applies_only_what_it_has() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let before = committed(&mut cluster, leader);
        cluster.propose(leader);
        cluster.take(leader);
        let effects = |cluster: &mut Cluster| cluster.raft(leader).take_effects();
        for follower in cluster.ids().into_iter().filter(|id| *id != leader) {
            deliver_all(&mut cluster, MessageType::MsgApp);
            cluster.take(follower);
            cluster.persist(follower);
        }
        deliver_all(&mut cluster, MessageType::MsgAppResp);
        assert_eq!(committed(&mut cluster, leader), before + 1);
        assert!(effects(&mut cluster).committed.is_empty());
        cluster.persist(leader);
        assert_eq!(effects(&mut cluster).committed.len(), 1);
    }

    #[test]
    fn a_follower_acknowledges_after_its_disk_but_answers_heartbeats_at_once() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let follower = leader % 3 + 1;
        cluster.propose(leader);
        cluster.take(leader);
        deliver_all(&mut cluster, MessageType::MsgApp);
        cluster.tick(leader);
        cluster.take(leader);
        deliver_all(&mut cluster, MessageType::MsgHeartbeat);
        cluster.take(follower);
        assert_eq!(sent(&cluster, MessageType::MsgAppResp), 0);
        assert_eq!(sent(&cluster, MessageType::MsgHeartbeatResp), 1);
        cluster.persist(follower);
        assert_eq!(sent(&cluster, MessageType::MsgAppResp), 1);
    }

    #[test]
    fn votes_are_asked_for_and_given_after_the_disk_knows() {
        let mut cluster = Cluster::new(3, 0, 1);
        cluster.settle();
        cluster.raft(1).campaign();
        cluster.take(1);
        deliver_all(&mut cluster, MessageType::MsgPreVote);
        cluster.ids().into_iter().for_each(|id| cluster.take(id));
        deliver_all(&mut cluster, MessageType::MsgPreVoteResp);
        cluster.take(1);
        assert_eq!(cluster.raft(1).status().leadership.role, Role::Candidate);
        assert_eq!(sent(&cluster, MessageType::MsgVote), 0);
        cluster.persist(1);
        assert_eq!(sent(&cluster, MessageType::MsgVote), 2);
        deliver_all(&mut cluster, MessageType::MsgVote);
        cluster.take(2);
        assert_eq!(sent(&cluster, MessageType::MsgVoteResp), 0);
        cluster.persist(2);
        assert_eq!(sent(&cluster, MessageType::MsgVoteResp), 1);
    }

    #[test]
    fn of_several_acknowledgements_at_once_only_the_last_is_sent() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let follower = leader % 3 + 1;
        for _ in 0..3 {
            cluster.propose(leader);
            cluster.take(leader);
        }
        let last = cluster.raft(leader).status().last;
        cluster.network.retain(|message| message.to == follower);
        for _ in 0..3 {
            cluster.deliver(0);
        }
        let effects = cluster.raft(follower).take_effects();
        let append = effects.append.expect("entries to write");
        assert_eq!(append.entries.len(), 3);
        assert_eq!(append.send_after.len(), 1);
        assert_eq!(append.send_after[0].index, last);
    }

    /// Else it could lead the same term twice, and a learner have entries of the first time.
    #[test]
    fn a_leader_speaks_only_in_a_term_that_its_own_disk_remembers() {
        let mut cluster = Cluster::new(1, 1, 1);
        let leader = cluster.elect();
        cluster.change(
            leader,
            &conf_change(ConfChangeType::ConfChangeAddLearnerNode, 2, b""),
        );
        cluster.run_until("the learner learns", |cluster| {
            cluster.node(2).machine.applied >= 3
        });
        cluster.flush(leader);
        cluster.crash(leader);
        cluster.start(leader);
        cluster.raft(leader).campaign();
        cluster.propose(leader);
        cluster.take(leader);
        assert_eq!(cluster.raft(leader).status().leadership.role, Role::Leader);
        cluster.tick(leader);
        cluster.take(leader);
        assert!(cluster.network.is_empty());
        while cluster.network.is_empty() {
            cluster.persist(leader);
        }
        assert!(sent(&cluster, MessageType::MsgApp) > 0);
        cluster.propose(leader);
        cluster.settle();
        cluster.recover();
    }

    #[test]
    fn an_election_waits_for_a_slow_disk() {
        let mut cluster = Cluster::new(1, 0, 1);
        let id = cluster.elect();
        let term = cluster.raft(id).status().leadership.term;
        cluster.propose(id);
        cluster.take(id);
        // A removed member that does not know it yet ends the leadership.
        let stray = Message {
            r#type: MessageType::MsgAppResp as i32,
            to: id,
            from: 7,
            term: term + 5,
            ..Message::default()
        };
        assert_eq!(cluster.raft(id).step(stray), Err(StepError::UnknownMember(7)));
        let vote = Message {
            r#type: MessageType::MsgVote as i32,
            to: id,
            from: 7,
            term: term + 5,
            context: Some(Bytes::from_static(b"CampaignTransfer")),
            ..Message::default()
        };
        assert_eq!(cluster.raft(id).step(vote), Ok(()));
        cluster.take(id);
        for _ in 0..100 {
            cluster.tick(id);
        }
        cluster.raft(id).campaign();
        assert_eq!(cluster.raft(id).status().leadership.role, Role::Follower);
        cluster.elect();
    }

    #[test]
    fn a_call_to_take_over_waits_for_the_disk_and_is_then_followed() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let heir = leader % 3 + 1;
        cluster.propose(leader);
        cluster.take(leader);
        deliver_all(&mut cluster, MessageType::MsgApp);
        cluster.take(heir);
        let now = Message {
            r#type: MessageType::MsgTimeoutNow as i32,
            to: heir,
            from: leader,
            term: cluster.raft(leader).status().leadership.term,
            ..Message::default()
        };
        assert_eq!(cluster.raft(heir).step(now), Ok(()));
        assert_eq!(cluster.raft(heir).status().leadership.role, Role::Follower);
        cluster.persist(heir);
        assert_eq!(cluster.raft(heir).status().leadership.role, Role::Candidate);
    }
}

mod elections {
    use super::*;

    #[test]
    fn a_leader_that_is_gone_is_followed_without_waiting() {
        let mut cluster = Cluster::new(3, 0, 23);
        let leader = cluster.elect();
        cluster.settle();
        cluster.crash(leader);
        for id in cluster.ids() {
            if id != leader {
                cluster.raft(id).leader_lost(MemberId(leader));
            }
        }
        // No tick, so no election timeout.
        cluster.settle();
        let next = cluster.leader().expect("the first in line was elected");
        assert_ne!(next, leader);
    }

    #[test]
    fn one_member_that_does_not_see_the_leader_gets_no_votes_while_it_lives() {
        let mut cluster = Cluster::new(3, 0, 24);
        let leader = cluster.elect();
        cluster.settle();
        let term = cluster.raft(leader).status().leadership.term;
        let other = cluster
            .ids()
            .into_iter()
            .find(|id| *id != leader)
            .expect("there are three");
        cluster.raft(other).leader_lost(MemberId(leader));
        cluster.settle();
        assert_eq!(cluster.leader(), Some(leader));
        assert_eq!(cluster.raft(leader).status().leadership.term, term);
    }

    #[test]
    fn leadership_moves_to_the_member_it_is_given_to() {
        let mut cluster = Cluster::new(3, 0, 1);
        for _ in 0..6 {
            let leader = cluster.elect();
            let heir = leader % 3 + 1;
            cluster.propose(leader);
            cluster.raft(leader).transfer_leader(MemberId(heir));
            assert_eq!(
                cluster.raft(leader).can_propose(),
                Err(ProposeError::Transferring)
            );
            cluster.settle();
            assert_eq!(cluster.leader(), Some(heir));
        }
    }

    #[test]
    fn a_member_that_was_cut_off_comes_back_without_disturbing() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let term = cluster.raft(leader).status().leadership.term;
        let lost = leader % 3 + 1;
        for other in cluster.ids() {
            cluster.cut.insert((lost.min(other), lost.max(other)));
        }
        for _ in 0..100 {
            cluster.settle();
            cluster.ids().into_iter().for_each(|id| cluster.tick(id));
        }
        assert_eq!(cluster.raft(lost).status().leadership.role, Role::PreCandidate);
        assert_eq!(cluster.raft(lost).can_propose(), Err(ProposeError::NoLeader));
        cluster.cut.clear();
        cluster.recover();
        assert_eq!(cluster.leader(), Some(leader));
        assert_eq!(cluster.raft(lost).status().leadership.term, term);
    }

    #[test]
    fn a_leader_that_hears_nobody_gives_up() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        for other in cluster.ids() {
            cluster.cut.insert((leader.min(other), leader.max(other)));
        }
        for _ in 0..25 {
            cluster.settle();
            cluster.tick(leader);
        }
        let leadership = cluster.raft(leader).status().leadership;
        assert_ne!(leadership.role, Role::Leader);
        assert_eq!(leadership.leader, None);
    }

    #[test]
    fn election_timeouts_come_from_the_seed_alone() {
        let ticks_to_campaign = |seed: u64| {
            let mut ticks = Vec::new();
            let mut cluster = Cluster::new(3, 0, seed);
            cluster.settle();
            let leadership = |cluster: &mut Cluster| cluster.raft(1).status().leadership;
            for _ in 0..20 {
                let before = leadership(&mut cluster);
                let mut count = 0;
                while leadership(&mut cluster) == before {
                    cluster.tick(1);
                    count += 1;
                }
                ticks.push(count);
                // A leader of the next term shows up, once.
                let beat = Message {
                    r#type: MessageType::MsgHeartbeat as i32,
                    to: 1,
                    from: 2,
                    term: before.term + 1,
                    ..Message::default()
                };
                cluster.raft(1).step(beat).expect("a heartbeat");
                cluster.settle();
            }
            ticks
        };
        let ticks = ticks_to_campaign(7);
        assert_eq!(ticks, ticks_to_campaign(7));
        assert_ne!(ticks, ticks_to_campaign(8));
        assert!(ticks.iter().all(|ticks| (10..20).contains(ticks)), "{ticks:?}");
        assert!(
            ticks.iter().max().unwrap() - ticks.iter().min().unwrap() >= 5,
            "{ticks:?}"
        );
    }
}

mod reads {
    use super::*;

    fn answer(cluster: &mut Cluster, id: u64, token: u64) -> Option<u64> {
        let answers = &cluster.node(id).answers;
        answers
            .iter()
            .find(|(answered, _)| *answered == token)
            .map(|(_, index)| *index)
    }

    #[test]
    fn a_lone_voter_answers_without_asking_anybody() {
        let mut cluster = Cluster::new(1, 0, 1);
        let id = cluster.elect();
        cluster.propose(id);
        cluster.settle();
        let token = cluster.read(id);
        cluster.take(id);
        let committed = committed(&mut cluster, id);
        assert_eq!(answer(&mut cluster, id, token), Some(committed));
    }

    #[test]
    fn leader_and_follower_get_the_leaders_commit_index() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        cluster.propose(leader);
        cluster.settle();
        let committed = committed(&mut cluster, leader);
        for id in cluster.ids() {
            let token = cluster.read(id);
            cluster.settle();
            assert_eq!(answer(&mut cluster, id, token), Some(committed));
        }
    }

    /// Issue 7331: before that it does not know what was committed before it.
    #[test]
    fn a_new_leader_answers_with_its_first_commit_and_not_a_tick_later() {
        let mut cluster = Cluster::new(3, 0, 1);
        cluster.run_until("somebody leads", |cluster| cluster.leader().is_some());
        let old = cluster.elect();
        cluster.propose(old);
        cluster.settle();
        let leader = old % 3 + 1;
        cluster.raft(old).transfer_leader(MemberId(leader));
        while cluster.leader() != Some(leader) {
            for id in cluster.ids() {
                cluster.take(id);
                cluster.persist(id);
            }
            deliver_all(&mut cluster, MessageType::MsgTimeoutNow);
            deliver_all(&mut cluster, MessageType::MsgVote);
            deliver_all(&mut cluster, MessageType::MsgVoteResp);
        }
        cluster.take(leader);
        deliver_all(&mut cluster, MessageType::MsgApp);
        let follower = leader % 3 + 1;
        let tokens = [(leader, cluster.read(leader)), (follower, cluster.read(follower))];
        cluster.take(follower);
        deliver_all(&mut cluster, MessageType::MsgReadIndex);
        cluster.take(leader);
        assert_eq!(sent(&cluster, MessageType::MsgHeartbeat), 0);
        cluster.settle();
        for (id, token) in tokens {
            assert!(answer(&mut cluster, id, token).is_some(), "member {id}");
        }
    }

    /// Issue 20418: a process that was stopped must not serve from what it knew before.
    #[test]
    fn a_leader_that_slept_through_an_election_never_gives_a_stale_index() {
        for seed in 0..20 {
            let mut cluster = Cluster::new(3, 0, seed);
            let old = cluster.elect();
            // Questions whose heartbeats are answered, the answers lying before the sleeper's door.
            let mut asked = vec![cluster.read(old)];
            cluster.take(old);
            deliver_all(&mut cluster, MessageType::MsgHeartbeat);
            cluster.ids().into_iter().for_each(|id| cluster.take(id));
            let (late, rest) = std::mem::take(&mut cluster.network)
                .into_iter()
                .partition(|it| it.to == old);
            cluster.network = rest;
            cluster.node(old).paused = true;
            cluster.run_until("another leader", |cluster| {
                cluster.leader().is_some_and(|id| id != old)
            });
            let leader = cluster.leader().expect("there is one");
            cluster.propose(leader);
            cluster.settle();
            cluster.node(old).paused = false;
            // It wakes up, still thinks it leads, and is asked again.
            asked.push(cluster.read(old));
            cluster.take(old);
            let heartbeats = std::mem::replace(&mut cluster.network, late);
            while !cluster.network.is_empty() {
                cluster.deliver(0);
            }
            cluster.take(old);
            // The answers from before were for the question from before.
            assert_eq!(answer(&mut cluster, old, asked[1]), None);
            cluster.network.extend(heartbeats);
            cluster.recover();
            assert_eq!(answer(&mut cluster, old, asked[1]), None);
            let again = cluster.read(old);
            cluster.settle();
            assert!(answer(&mut cluster, old, again).is_some());
        }
    }

    #[test]
    fn a_follower_that_uses_a_context_twice_is_still_asked_for_anew() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let follower = leader % 3 + 1;
        let context = Bytes::from_static(b"its own!");
        for _ in 0..2 {
            let question = Message {
                r#type: MessageType::MsgReadIndex as i32,
                to: leader,
                from: follower,
                entries: vec![Entry {
                    data: Some(context.clone()),
                    ..Entry::default()
                }],
                ..Message::default()
            };
            cluster.raft(leader).step(question).expect("a question");
        }
        cluster.take(leader);
        let contexts: std::collections::BTreeSet<_> = cluster
            .network
            .iter()
            .filter_map(|message| message.context.clone())
            .collect();
        assert_eq!(contexts.len(), 2, "each attempt has a context of its own");
        assert!(contexts.iter().all(|it| it.len() == 8 && *it != context));
        deliver_all(&mut cluster, MessageType::MsgHeartbeat);
        cluster.take(follower);
        deliver_all(&mut cluster, MessageType::MsgHeartbeatResp);
        cluster.take(leader);
        let answers = cluster
            .network
            .iter()
            .filter(|it| it.r#type() == MessageType::MsgReadIndexResp);
        let given: Vec<_> = answers.map(|it| it.entries[0].data.clone()).collect();
        assert_eq!(
            given,
            [Some(context.clone()), Some(context)],
            "and gets its own back"
        );
    }

    #[test]
    fn an_answer_that_comes_together_with_a_new_leader_does_not_count() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let follower = leader % 3 + 1;
        let token = cluster.read(leader);
        cluster.take(leader);
        deliver_all(&mut cluster, MessageType::MsgHeartbeat);
        cluster.take(follower);
        deliver_all(&mut cluster, MessageType::MsgHeartbeatResp);
        assert!(cluster.raft(leader).has_effects(), "the answer is there");
        let beat = Message {
            r#type: MessageType::MsgHeartbeat as i32,
            to: leader,
            from: follower,
            term: cluster.raft(leader).status().leadership.term + 1,
            ..Message::default()
        };
        cluster.raft(leader).step(beat).expect("a heartbeat");
        cluster.take(leader);
        assert_eq!(answer(&mut cluster, leader, token), None);
    }

    #[test]
    fn without_a_leader_there_is_nobody_to_ask() {
        let mut cluster = Cluster::new(3, 0, 1);
        cluster.settle();
        assert!(!cluster.raft(1).read_index(1));
    }
}

mod membership {
    use super::*;

    fn propose_and_wait(cluster: &mut Cluster, at: u64, change: &ConfChange) {
        let before = cluster.committed().len();
        assert!(cluster.change(at, change));
        cluster.run_until("the change is applied everywhere", |cluster| {
            let known = cluster.committed().len();
            let mut ids = cluster.ids().into_iter();
            known > before && ids.all(|id| cluster.node(id).machine.applied >= 4)
        });
        cluster.settle();
    }

    /// Learner added, updated, promoted, updated as a voter, removed: all through a follower, who
    /// sends them on. Were a number taken for the engine's, an update would make a learner.
    #[test]
    fn changes_through_a_follower_arrive_byte_for_byte_and_mean_what_etcd_means() {
        let mut cluster = Cluster::new(3, 1, 1);
        let leader = cluster.elect();
        let follower = leader % 3 + 1;
        use ConfChangeType::*;
        let steps: [(_, &'static [u8], &[u64], &[u64]); 5] = [
            (ConfChangeAddLearnerNode, b"{\"name\":\"new\"}", &[1, 2, 3], &[4]),
            (
                ConfChangeUpdateNode,
                b"{\"peerURLs\":[\"http://a\"]}",
                &[1, 2, 3],
                &[4],
            ),
            (ConfChangeAddNode, b"{\"isPromote\":true}", &[1, 2, 3, 4], &[]),
            (
                ConfChangeUpdateNode,
                b"{\"peerURLs\":[\"http://b\"]}",
                &[1, 2, 3, 4],
                &[],
            ),
            (ConfChangeRemoveNode, b"", &[1, 2, 3], &[]),
        ];
        for (kind, context, voters, learners) in steps {
            let change = conf_change(kind, 4, context);
            let data = match &change {
                ConfChange::V1(change) => prost::Message::encode_to_vec(change),
                ConfChange::V2(_) => unreachable!(),
            };
            assert!(cluster.change(follower, &change));
            cluster.settle();
            let entry = cluster.committed().last().expect("it is committed").clone();
            assert_eq!(entry.r#type, EntryType::EntryConfChange as i32);
            assert_eq!(entry.data.as_deref(), Some(&data[..]), "{kind:?}");
            let decoded = change_of(&entry).expect("a change").expect("a valid one");
            assert_eq!(decoded.context.unwrap_or_default(), context);
            assert_eq!(decoded.changes[0].r#type, kind as i32);
            let expected = ConfState {
                voters: voters.into(),
                learners: learners.into(),
                ..ConfState::default()
            };
            for id in [1, 2, 3] {
                assert_eq!(cluster.raft(id).conf_state(), expected, "{kind:?} at {id}");
                assert_eq!(cluster.node(id).machine.conf, expected);
            }
            if kind != ConfChangeRemoveNode {
                cluster.run_until("the new member catches up", |cluster| {
                    cluster.node(4).machine.applied == cluster.committed().len() as u64
                });
                assert_eq!(cluster.raft(4).conf_state(), expected);
                assert_eq!(cluster.raft(4).is_voter(), voters.contains(&4));
            }
        }
    }

    #[test]
    fn a_second_change_waits_until_the_first_is_applied() {
        let mut cluster = Cluster::new(3, 2, 1);
        let leader = cluster.elect();
        let add = |id| conf_change(ConfChangeType::ConfChangeAddLearnerNode, id, b"");
        cluster.change(leader, &add(4));
        cluster.change(leader % 3 + 1, &add(5));
        cluster.settle();
        let last = cluster.committed().iter().rev().take(2);
        assert_eq!(last.map(|entry| entry.r#type).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(cluster.raft(leader).conf_state().learners, [4, 5]);
    }

    /// Its log may hold a change that it has not applied, so it may not append one more; but it need not forget it.
    #[test]
    fn a_change_a_new_leader_is_asked_for_waits_until_its_log_is_applied() {
        let mut cluster = Cluster::new(3, 1, 1);
        let old = cluster.elect();
        let new = old % 3 + 1;
        cluster.propose(old);
        for _ in 0..20 {
            cluster.work_but_for_the_machine_of(new);
        }
        cluster.raft(old).transfer_leader(MemberId(new));
        for _ in 0..20 {
            cluster.work_but_for_the_machine_of(new);
        }
        assert_eq!(cluster.leader(), Some(new));
        cluster.change(
            new,
            &conf_change(ConfChangeType::ConfChangeAddLearnerNode, 4, b""),
        );
        for _ in 0..20 {
            cluster.work_but_for_the_machine_of(new);
        }
        assert!(cluster.raft(old).conf_state().learners.is_empty());
        cluster.settle();
        assert_eq!(cluster.raft(old).conf_state().learners, [4]);
    }

    #[test]
    fn a_leader_that_is_removed_steps_down_and_the_others_go_on() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        cluster.change(
            leader,
            &conf_change(ConfChangeType::ConfChangeRemoveNode, leader, b""),
        );
        // More of its entries are under way when it applies its removal.
        cluster.propose(leader);
        cluster.propose(leader);
        cluster.run_until("another leader", |cluster| {
            cluster.leader().is_some_and(|id| id != leader)
        });
        assert!(!cluster.raft(leader).is_voter());
        assert_eq!(cluster.raft(leader).can_propose(), Err(ProposeError::NoLeader));
        cluster.recover();
    }

    #[test]
    fn a_follower_is_silent_until_a_committed_change_is_applied() {
        let mut cluster = Cluster::new(3, 1, 1);
        let leader = cluster.elect();
        let follower = leader % 3 + 1;
        cluster.propose(leader);
        cluster.change(
            leader,
            &conf_change(ConfChangeType::ConfChangeAddLearnerNode, 4, b""),
        );
        for _ in 0..10 {
            cluster.work_but_for_the_machine_of(follower);
        }
        let silent = |cluster: &Cluster| cluster.network.iter().all(|message| message.from != follower);
        cluster.propose(leader);
        cluster.tick(leader);
        cluster.take(leader);
        deliver_all(&mut cluster, MessageType::MsgApp);
        deliver_all(&mut cluster, MessageType::MsgHeartbeat);
        for _ in 0..2 {
            cluster.take(follower);
            cluster.persist(follower);
        }
        assert!(silent(&cluster));
        // One piece of work is before the change, one is the change.
        cluster.apply(follower);
        cluster.take(follower);
        assert!(silent(&cluster));
        cluster.apply(follower);
        cluster.take(follower);
        assert!(sent(&cluster, MessageType::MsgAppResp) > 0);
        cluster.recover();
    }

    /// The snapshot's configuration is the later one; the machine learns that when it gets there.
    #[test]
    fn a_change_that_a_snapshot_has_overtaken_does_not_count_any_more() {
        let mut cluster = Cluster::new(3, 1, 1);
        let leader = cluster.elect();
        let slow = leader % 3 + 1;
        let before = cluster.committed().len() as u64;
        cluster.change(
            leader,
            &conf_change(ConfChangeType::ConfChangeAddLearnerNode, 4, b""),
        );
        for _ in 0..10 {
            cluster.work_but_for_the_machine_of(slow);
        }
        assert!(
            cluster.committed().len() as u64 > before,
            "the change is work for the machines now"
        );
        cluster.node(slow).paused = true;
        cluster.change(leader, &conf_change(ConfChangeType::ConfChangeAddNode, 4, b""));
        cluster.run_until("the learner is promoted", |cluster| {
            cluster.raft(leader).conf_state().voters == [1, 2, 3, 4]
        });
        cluster.node(slow).paused = false;
        let snapshot = cluster.snapshot_message(leader, slow);
        cluster.raft(slow).step(snapshot).expect("a snapshot");
        assert_eq!(cluster.raft(slow).conf_state().voters, [1, 2, 3, 4]);
        // Now its machine does the old work, and reports the change to a learner.
        cluster.apply(slow);
        assert_eq!(cluster.node(slow).machine.applied, before + 1);
        assert_eq!(cluster.node(slow).machine.conf.learners, [4]);
        assert_eq!(cluster.raft(slow).conf_state().voters, [1, 2, 3, 4]);
        cluster.recover();
        assert_eq!(cluster.node(slow).machine.conf.voters, [1, 2, 3, 4]);
    }

    #[test]
    fn several_changes_at_once_go_through_a_joint_configuration_and_out_of_it() {
        let mut cluster = Cluster::new(3, 2, 1);
        let leader = cluster.elect();
        let single = |kind: ConfChangeType, node_id| ConfChangeSingle {
            r#type: kind as i32,
            node_id,
        };
        let gone = leader % 3 + 1;
        let change = ConfChange::V2(ConfChangeV2 {
            transition: ConfChangeTransition::Auto as i32,
            changes: vec![
                single(ConfChangeType::ConfChangeAddNode, 4),
                single(ConfChangeType::ConfChangeAddLearnerNode, 5),
                single(ConfChangeType::ConfChangeRemoveNode, gone),
            ],
            context: None,
        });
        propose_and_wait(&mut cluster, leader, &change);
        cluster.run_until("the joint configuration is left", |cluster| {
            let conf = cluster.raft(leader).conf_state();
            conf.voters_outgoing.is_empty() && conf.learners == [5]
        });
        let conf = cluster.raft(leader).conf_state();
        assert!(conf.voters.contains(&4) && !conf.voters.contains(&gone) && conf.voters.len() == 3);
    }
}

mod catching_up {
    use super::*;

    #[test]
    fn a_member_that_was_away_too_long_gets_a_snapshot_and_another_and_follows() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let away = leader % 3 + 1;
        cluster.node(away).paused = true;
        let snapshot = |cluster: &mut Cluster| {
            for _ in 0..20 {
                cluster.propose(leader);
                cluster.settle();
            }
            cluster.flush(leader);
            cluster.compact(leader, 5);
        };
        snapshot(&mut cluster);
        let status = cluster.raft(leader).status();
        assert_eq!(status.last - status.first + 1, 5, "the catch-up entries are kept");
        cluster.node(away).paused = false;
        // Two snapshots arrive before the first is on disk or installed (issue 18055).
        for round in 1.. {
            cluster.tick(leader);
            cluster.take(leader);
            deliver_all(&mut cluster, MessageType::MsgHeartbeat);
            deliver_all(&mut cluster, MessageType::MsgApp);
            if sent(&cluster, MessageType::MsgSnap) > 0 {
                break;
            }
            cluster.take(away);
            deliver_all(&mut cluster, MessageType::MsgHeartbeatResp);
            deliver_all(&mut cluster, MessageType::MsgAppResp);
            assert!(round < 50, "no snapshot was sent");
        }
        deliver_all(&mut cluster, MessageType::MsgSnap);
        cluster.take(away);
        cluster.network.clear();
        let first = cluster.raft(away).status().last;
        cluster.cut.insert((leader.min(away), leader.max(away)));
        snapshot(&mut cluster);
        cluster.cut.clear();
        let second = cluster.snapshot_message(leader, away);
        let index = cluster.node(leader).machine.applied;
        cluster.raft(away).step(second).expect("a snapshot");
        assert!(index > first);
        // No election can happen in this state, however long the disk takes.
        for _ in 0..100 {
            cluster.tick(away);
        }
        cluster.raft(away).campaign();
        cluster.take(away);
        assert_eq!(cluster.raft(away).status().leadership.role, Role::Follower);
        cluster.recover();
        assert!(cluster.node(away).machine.applied >= index);
    }

    #[test]
    fn a_snapshot_of_what_is_not_applied_drops_nothing() {
        let mut cluster = Cluster::new(1, 0, 1);
        let id = cluster.elect();
        cluster.propose(id);
        cluster.take(id);
        cluster.persist(id);
        let before = cluster.raft(id).status();
        assert!(before.applied < before.committed);
        let metadata = SnapshotMetadata {
            index: before.committed,
            term: before.leadership.term,
            conf_state: Some(cluster.raft(id).conf_state()),
        };
        cluster.raft(id).compact(metadata, 0);
        assert_eq!(cluster.raft(id).status(), before);
    }

    #[test]
    fn no_more_than_a_bounded_number_of_bytes_is_under_way_to_a_silent_follower() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let silent = leader % 3 + 1;
        let block = Bytes::from(vec![0; 1 << 20]);
        let mut under_way = 0;
        for _ in 0..200 {
            cluster
                .raft(leader)
                .propose(vec![block.clone()])
                .expect("it leads");
            cluster.take(leader);
            under_way += cluster
                .network
                .iter()
                .filter(|it| it.to == silent)
                .map(|it| it.entries.len())
                .sum::<usize>();
            cluster.network.clear();
            cluster.trace.clear();
        }
        assert!((64..=66).contains(&under_way), "{under_way} MiB");
        // When it comes back it is fed in portions, one after the other.
        for round in 0..200 {
            cluster.tick(leader);
            for id in [leader, silent] {
                cluster.take(id);
                cluster.persist(id);
                cluster.persist(id);
            }
            let bytes: usize = cluster
                .network
                .iter()
                .filter(|it| it.to == silent)
                .map(|it| it.entries.len())
                .sum();
            assert!(bytes <= 66, "{bytes} MiB at once");
            cluster
                .network
                .retain(|it| [it.from, it.to].iter().all(|id| [leader, silent].contains(id)));
            cluster.deliver_in_order();
            if cluster.raft(silent).status().last == cluster.raft(leader).status().last {
                return;
            }
            assert!(round < 199, "the follower never got everything");
        }
    }

    #[test]
    fn many_proposals_of_a_follower_go_in_messages_of_bounded_size() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let follower = leader % 3 + 1;
        let block = Bytes::from(vec![0; 300 << 10]);
        cluster
            .raft(follower)
            .propose(vec![block; 10])
            .expect("there is a leader");
        cluster.take(follower);
        assert_eq!(sent(&cluster, MessageType::MsgProp), 4);
        let before = committed(&mut cluster, leader);
        cluster.settle();
        assert_eq!(committed(&mut cluster, leader), before + 10);
    }
}

mod starting {
    use super::*;

    fn start(restored: Restored) -> Result<Consensus, RestoreError> {
        Consensus::new(Config::new(MemberId(1), 10, 1), restored)
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            ..Entry::default()
        }
    }

    #[test]
    fn a_new_cluster_applies_its_made_up_entries_first() {
        let mut raft = start(Restored {
            hard_state: HardState {
                term: 1,
                vote: 0,
                commit: 3,
            },
            entries: (1..=3).map(bootstrap_entry).collect(),
            ..Restored::default()
        })
        .expect("a new cluster");
        raft.campaign();
        assert_eq!(
            raft.status().leadership.role,
            Role::Follower,
            "it does not know yet that it votes"
        );
        let effects = raft.take_effects();
        assert!(effects.append.is_none(), "all of this is on disk already");
        let indexes: Vec<_> = effects.committed.iter().map(|entry| entry.index).collect();
        assert_eq!(indexes, [1, 2, 3]);
        for entry in effects.committed {
            let change = change_of(&entry).expect("a change").expect("a valid one");
            raft.apply_conf_change(entry.index, &change)
                .expect("it adds a voter");
            raft.applied(entry.index);
        }
        assert_eq!(raft.conf_state().voters, [1, 2, 3]);
        raft.campaign();
        assert_eq!(raft.status().leadership.role, Role::PreCandidate);
    }

    #[test]
    #[should_panic(expected = "a change at 1 comes before 3 is called applied")]
    fn a_change_may_not_come_after_its_index_was_called_applied() {
        let mut raft = start(Restored {
            hard_state: HardState {
                term: 1,
                vote: 0,
                commit: 3,
            },
            entries: (1..=3).map(bootstrap_entry).collect(),
            ..Restored::default()
        })
        .expect("a new cluster");
        let effects = raft.take_effects();
        raft.applied(3);
        let change = change_of(&effects.committed[0])
            .expect("a change")
            .expect("a valid one");
        // It would be the only voter, with no change in its log left to wait for.
        let _ = raft.apply_conf_change(1, &change);
    }

    #[test]
    fn a_member_that_joins_waits_to_be_spoken_to() {
        let mut raft = start(Restored::default()).expect("nothing to restore");
        raft.campaign();
        (0..100).for_each(|_| raft.tick());
        assert!(!raft.has_effects());
        assert_eq!(raft.status().leadership.role, Role::Follower);
        assert!(!raft.is_voter() && !raft.is_lone_voter());
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let log = Restored {
            hard_state: HardState {
                term: 2,
                vote: 1,
                commit: 4,
            },
            snapshot: SnapshotMetadata {
                index: 2,
                term: 1,
                conf_state: Some(voters(&[1])),
            },
            entries: vec![entry(3, 1), entry(4, 2), entry(5, 2)],
            applied: 4,
            conf_state: voters(&[1]),
        };
        assert!(start(log.clone()).is_ok());
        let error = |change: &dyn Fn(&mut Restored)| {
            let mut log = log.clone();
            change(&mut log);
            start(log).err()
        };
        assert_eq!(
            error(&|log| drop(log.entries.remove(1))),
            Some(RestoreError::BrokenLog(5))
        );
        assert_eq!(
            error(&|log| drop(log.entries.remove(0))),
            Some(RestoreError::BrokenLog(4))
        );
        assert_eq!(
            error(&|log| log.entries[2].term = 1),
            Some(RestoreError::BrokenLog(5))
        );
        assert_eq!(
            error(&|log| log.entries[2].r#type = 7),
            Some(RestoreError::BrokenLog(5))
        );
        let short = |needed| Some(RestoreError::LogTooShort { last: 5, needed });
        assert_eq!(error(&|log| log.hard_state.commit = 6), short(6));
        assert_eq!(error(&|log| log.applied = 7), short(7));
        let old = RestoreError::StateTooOld {
            applied: 1,
            snapshot: 2,
        };
        assert_eq!(error(&|log| log.applied = 1), Some(old));
        assert!(matches!(
            error(&|log| log.conf_state = voters(&[1, 1])),
            Some(RestoreError::Configuration(_))
        ));
        let no_id = Config::new(MemberId(0), 10, 1);
        assert!(matches!(
            Consensus::new(no_id, log.clone()),
            Err(RestoreError::Config(_))
        ));
    }

    #[test]
    fn what_was_applied_counts_as_committed_though_the_disk_did_not_note_it() {
        let raft = start(Restored {
            hard_state: HardState {
                term: 1,
                vote: 1,
                commit: 1,
            },
            entries: vec![entry(1, 1), entry(2, 1), entry(3, 2)],
            applied: 2,
            conf_state: voters(&[1, 2]),
            ..Restored::default()
        })
        .expect("a torn end");
        let status = raft.status();
        assert_eq!((status.committed, status.applied, status.last), (2, 2, 3));
        assert_eq!(status.leadership.term, 2, "the term of its last entry");
    }

    fn voters(ids: &[u64]) -> ConfState {
        ConfState {
            voters: ids.into(),
            ..ConfState::default()
        }
    }
}

mod strangers {
    use super::*;

    #[test]
    fn messages_of_unknown_or_local_types_are_ignored() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let before = cluster.raft(leader).status();
        for kind in [0, 1, 10, 11, 12, 19, 20, 21, 22, 23, 24, 1000, -1, i32::MAX] {
            let message = Message {
                r#type: kind,
                to: leader,
                from: leader % 3 + 1,
                term: before.leadership.term + 1,
                ..Message::default()
            };
            assert_eq!(
                cluster.raft(leader).step(message),
                Err(StepError::UnexpectedType(kind))
            );
        }
        assert_eq!(cluster.raft(leader).status(), before);
        assert!(!cluster.raft(leader).has_effects());
    }

    /// A member on a wiped disk gets messages that count on what it had (etcd PR 17813).
    #[test]
    fn a_member_that_lost_its_disk_refuses_and_lives() {
        let mut cluster = Cluster::new(3, 1, 1);
        cluster.elect();
        let beat = Message {
            r#type: MessageType::MsgHeartbeat as i32,
            to: 4,
            from: 1,
            term: 2,
            commit: 9,
            ..Message::default()
        };
        let refused = cluster.raft(4).step(beat.clone());
        assert_eq!(refused, Err(StepError::BeyondLog { index: 9, last: 0 }));
        let refused = cluster.raft(3).step(beat);
        assert_eq!(refused, Err(StepError::WrongMember(4)));
    }

    #[test]
    fn what_no_correct_member_sends_is_refused() {
        let mut cluster = Cluster::new(3, 0, 1);
        let leader = cluster.elect();
        let before = cluster.raft(leader).status();
        let message = |kind: MessageType| Message {
            r#type: kind as i32,
            to: leader,
            from: leader % 3 + 1,
            term: before.leadership.term,
            ..Message::default()
        };
        let beyond = Message {
            index: before.last + 1,
            ..message(MessageType::MsgAppResp)
        };
        let garbage = Entry {
            r#type: EntryType::EntryConfChange as i32,
            data: Some(Bytes::from_static(b"\xff")),
            ..Entry::default()
        };
        let proposal = Message {
            term: 0,
            entries: vec![garbage],
            ..message(MessageType::MsgProp)
        };
        let metadata = SnapshotMetadata {
            index: before.committed,
            term: before.leadership.term + 1,
            conf_state: Some(cluster.raft(leader).conf_state()),
        };
        let contradiction = Message {
            term: before.leadership.term + 1,
            snapshot: Some(proto::raftpb::Snapshot {
                data: None,
                metadata: Some(metadata),
            }),
            ..message(MessageType::MsgSnap)
        };
        let refused = cluster.raft(leader).step(beyond);
        assert_eq!(
            refused,
            Err(StepError::BeyondLog {
                index: before.last + 1,
                last: before.last
            })
        );
        for message in [proposal, contradiction] {
            assert!(matches!(
                cluster.raft(leader).step(message),
                Err(StepError::Malformed(_))
            ));
        }
        assert_eq!(cluster.raft(leader).status(), before);
    }
}
