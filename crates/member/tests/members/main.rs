//! What a member promises to those who wait, scene by scene.

mod world;

use bytes::Bytes;
use consensus::Role;
use member::{BACKLOG_MAX, Effects, Input, Lessor, Payload, Proposal, Status, Ticket, URGENT_BACKLOG_MAX};
use proto::raftpb::{ConfChangeType, Message, MessageType};
use types::{ErrorKind, MemberId};

use world::{World, conf_change};

mod alone {
    use super::*;

    #[test]
    fn a_lone_voter_leads_without_waiting_for_a_timeout() {
        let mut world = World::new(1, 0);
        world.tick();
        assert_eq!(world.leader(), Some(1));
        assert!(world.at(1).member.status().lone_leader);
        assert_eq!(world.at(1).lessor, [Lessor::Promote]);
    }

    #[test]
    fn the_first_of_three_is_not_alone_while_it_hears_of_the_others() {
        let mut world = World::new(3, 0);
        world.at(1).machine_stops = true;
        world.take(1);
        for entry in std::mem::take(&mut world.at(1).work) {
            let change = consensus::change_of(&entry).unwrap().unwrap();
            let applied = Input::Applied {
                index: entry.index,
                conf_changes: vec![(entry.index, change)],
            };
            world.step(1, applied);
            world.take(1);
            let status = world.at(1).member.status();
            assert_eq!(
                (status.role, status.term),
                (Role::Follower, 1),
                "at {}",
                entry.index
            );
        }
        assert_eq!(world.at(1).member.conf_state().voters, [1, 2, 3]);
    }

    #[test]
    fn it_calls_itself_lone_leader_only_when_it_has_applied_all_there_was_before() {
        let mut world = World::new(1, 0);
        world.at(1).machine_stops = true;
        world.ticks(3);
        assert_eq!(world.leader(), None, "its own admission waits to be applied");
        world.at(1).machine_stops = false;
        world.work(1);
        world.at(1).machine_stops = true;
        world.settle();
        let status = world.at(1).member.status();
        assert!(status.role == Role::Leader && !status.lone_leader && status.committed > status.applied);
        assert!(world.at(1).lessor.is_empty());
        world.at(1).machine_stops = false;
        world.work(1);
        let effects = world.at(1).member.take_effects();
        assert!(effects.status.lone_leader);
        assert_eq!(effects.lessor, Some(Lessor::Promote));
    }

    #[test]
    fn reads_are_answered_in_the_same_effects() {
        let (mut world, id) = World::led(1, 0);
        world.propose(id, 1);
        world.settle();
        let ticket = world.read(id);
        let effects = world.at(id).member.take_effects();
        assert_eq!(effects.reads, [(ticket, Ok(effects.status.applied))]);
        assert!(effects.send.is_empty());
    }

    #[test]
    fn a_read_waits_until_the_machine_has_applied_what_was_committed() {
        let (mut world, id) = World::led(1, 0);
        world.at(id).machine_stops = true;
        world.propose(id, 1);
        world.settle();
        let ticket = world.read(id);
        world.ticks(100);
        assert_eq!(world.outcome(id, ticket), None);
        world.at(id).machine_stops = false;
        world.settle();
        world.work(id);
        world.settle();
        let applied = world.at(id).member.status().applied;
        assert_eq!(world.outcome(id, ticket), Some(Ok(applied)));
    }

    #[test]
    fn it_says_so_when_the_other_voter_is_gone_and_it_is_alone_again() {
        let (mut world, leader) = World::led(2, 0);
        world.at(leader).machine_stops = true;
        world.change(
            leader,
            conf_change(ConfChangeType::ConfChangeRemoveNode, leader % 2 + 1),
        );
        world.settle();
        assert!(!world.at(leader).last_status.lone_leader);
        world.at(leader).machine_stops = false;
        world.work(leader);
        world.take(leader);
        assert!(world.at(leader).last_status.lone_leader);
    }

    /// Published before the first message to the new voter, so that no reader trusts it too long.
    #[test]
    fn it_is_no_lone_leader_any_more_before_another_voter_hears_of_it() {
        let (mut world, id) = World::led(1, 1);
        world.change(id, conf_change(ConfChangeType::ConfChangeAddNode, 2));
        for _ in 0..10 {
            while world.at(id).member.has_effects() {
                let effects: Effects = world.at(id).member.take_effects();
                let speaks = effects.send.iter().any(|message| message.to == 2);
                assert!(!speaks || !effects.status.lone_leader);
                if speaks {
                    return;
                }
                let place = world.at(id);
                place.appends.extend(effects.append.map(|append| append.number));
                place.work.extend(effects.committed);
            }
            world.work(id);
        }
        panic!("it never spoke to the new voter");
    }
}

mod reads {
    use super::*;

    /// A Go member that leads drops questions that come before its first commit.
    #[test]
    fn a_question_that_a_new_leader_may_have_dropped_is_asked_again_with_its_first_commit() {
        let (mut world, old) = World::led(3, 0);
        let heir = old % 3 + 1;
        let follower = heir % 3 + 1;
        world.transfer(old, heir);
        while world.at(follower).member.status().leader != Some(MemberId(heir)) {
            for id in 1..=3 {
                world.take(id);
                world.work(id);
            }
            world.deliver();
        }
        let ticket = world.read(follower);
        world.take(follower);
        let before = world.network.len();
        world
            .network
            .retain(|message| message.r#type() != MessageType::MsgReadIndex);
        assert_eq!(world.network.len(), before - 1);
        world.settle();
        assert!(world.outcome(follower, ticket).is_some_and(|it| it.is_ok()));
    }

    #[test]
    fn all_who_wait_share_a_question_and_who_comes_later_waits_for_the_next() {
        let (mut world, leader) = World::led(3, 0);
        let follower = leader % 3 + 1;
        world.sent.clear();
        let first: Vec<_> = (0..50).map(|_| world.read(follower)).collect();
        world.take(follower);
        let later: Vec<_> = (0..50).map(|_| world.read(follower)).collect();
        world.take(follower);
        assert_eq!(world.network.len(), 1);
        // What is committed now, the later ones must see, the first ones need not.
        world.propose(leader, 1);
        world.deliver();
        world.settle();
        assert_eq!(world.count_sent(MessageType::MsgReadIndex), 2);
        let committed = world.at(leader).member.status().committed;
        for ticket in first {
            assert!(world.outcome(follower, ticket).is_some_and(|it| it.is_ok()));
        }
        for ticket in later {
            assert_eq!(world.outcome(follower, ticket), Some(Ok(committed)));
        }
    }

    #[test]
    fn a_lost_question_is_asked_again_after_half_a_second_with_another_context() {
        let (mut world, leader) = World::led(3, 0);
        let follower = leader % 3 + 1;
        let ticket = world.read(follower);
        world.take(follower);
        let lost = world.network.pop().expect("the question");
        world.network.clear();
        world.ticks(4);
        assert_eq!(world.outcome(follower, ticket), None);
        world.sent.clear();
        world.tick();
        assert!(world.outcome(follower, ticket).is_some_and(|it| it.is_ok()));
        let is_question = |message: &&Message| message.r#type() == MessageType::MsgReadIndex;
        let again = world.sent.iter().find(is_question).expect("asked again");
        assert_ne!(again.entries[0].data, lost.entries[0].data);
    }

    #[test]
    fn without_a_leader_a_read_times_out_after_seven_seconds() {
        let mut world = World::new(3, 0);
        world.cut.extend([1, 2, 3]);
        world.settle();
        let ticket = world.read(1);
        world.ticks(69);
        assert_eq!(world.outcome(1, ticket), None);
        world.ticks(1);
        assert_eq!(world.outcome(1, ticket), Some(Err(ErrorKind::Timeout)));
    }

    #[test]
    fn a_read_that_came_before_the_leader_is_asked_when_there_is_one() {
        let mut world = World::new(3, 0);
        world.settle();
        let tickets: Vec<_> = (1..=3).map(|id| (id, world.read(id))).collect();
        while world.leader().is_none() {
            world.tick();
        }
        world.ticks(2);
        for (id, ticket) in tickets {
            assert!(
                world.outcome(id, ticket).is_some_and(|it| it.is_ok()),
                "member {id}"
            );
        }
    }

    #[test]
    fn a_question_to_a_leader_that_is_replaced_fails_and_those_behind_it_go_on() {
        let (mut world, leader) = World::led(3, 0);
        let follower = leader % 3 + 1;
        world.cut.insert(leader);
        let asked = world.read(follower);
        world.take(follower);
        let behind = world.read(follower);
        while world.leader() == Some(leader) || world.leader().is_none() {
            world.tick();
        }
        world.ticks(3);
        assert_eq!(
            world.outcome(follower, asked),
            Some(Err(ErrorKind::LeaderChanged))
        );
        assert!(world.outcome(follower, behind).is_some_and(|it| it.is_ok()));
    }

    /// The old leader's own readers: it cannot confirm that it leads, and in the end knows it does not.
    #[test]
    fn a_leader_that_was_cut_off_answers_no_reader_until_it_follows() {
        let (mut world, old) = World::led(3, 0);
        world.cut.insert(old);
        let asked = world.read(old);
        world.take(old);
        let other = old % 3 + 1;
        while world
            .at(other)
            .member
            .status()
            .leader
            .is_none_or(|id| id.0 == old)
        {
            world.tick();
        }
        let leader = world.at(other).member.status().leader.expect("there is one").0;
        world.propose(leader, 1);
        world.settle();
        assert_eq!(world.outcome(old, asked), None);
        world.cut.clear();
        world.ticks(3);
        assert_eq!(world.outcome(old, asked), Some(Err(ErrorKind::LeaderChanged)));
        let again = world.read(old);
        world.ticks(1);
        let committed = world.at(leader).member.status().committed;
        assert_eq!(world.outcome(old, again), Some(Ok(committed)));
    }

    #[test]
    fn a_leader_that_was_only_lost_from_sight_is_asked_again_at_once() {
        let (mut world, leader) = World::led(3, 0);
        let follower = leader % 3 + 1;
        world.cut.insert(follower);
        let ticket = world.read(follower);
        while world.at(follower).member.status().leader.is_some() {
            world.tick();
        }
        world.cut.clear();
        while world.at(follower).member.status().leader.is_none() {
            assert_eq!(world.outcome(follower, ticket), None);
            world.tick();
        }
        assert!(world.outcome(follower, ticket).is_some_and(|it| it.is_ok()));
    }
}

mod proposals {
    use super::*;

    fn request(id: u64, bytes: usize, urgent: bool) -> Proposal {
        Proposal {
            id,
            payload: Payload::Request(Bytes::from(vec![b'x'; bytes])),
            urgent,
            only_in: None,
        }
    }

    #[test]
    fn what_is_only_true_while_a_member_leads_is_not_said_by_another() {
        let (mut world, leader) = World::led(3, 0);
        let term = world.at(leader).member.status().term;
        let revoke = |id| Proposal {
            only_in: Some(term),
            ..request(id, 1, true)
        };
        let follower = (1..=3).find(|id| *id != leader).expect("there are three");
        world.step(leader, Input::Propose(vec![revoke(1)]));
        world.step(follower, Input::Propose(vec![revoke(2)]));
        world.settle();
        assert_eq!(world.at(leader).refused, []);
        assert_eq!(world.at(follower).refused, [(2, ErrorKind::NotPrimary)]);

        // Another member leads by the time the proposal is put into the log.
        world.transfer(leader, follower);
        world.settle();
        assert_eq!(world.leader(), Some(follower));
        world.step(leader, Input::Propose(vec![revoke(3)]));
        world.settle();
        assert_eq!(world.at(leader).refused, [(3, ErrorKind::NotPrimary)]);
        for id in 1..=3 {
            let entries = world.at(id).applied.iter();
            let revokes = entries.filter(|entry| entry.data.as_deref() == Some(b"x"));
            assert_eq!(revokes.count(), 1);
        }
    }

    #[test]
    fn all_that_came_in_goes_to_the_log_as_one_batch() {
        let (mut world, leader) = World::led(3, 0);
        let before = world.at(leader).append_count;
        (0..100).for_each(|number| world.propose(leader, number));
        world.take(leader);
        assert_eq!(world.at(leader).append_count, before + 1);
        assert_eq!(world.network.len(), 2, "one message to each follower");
        world.settle();
        for id in 1..=3 {
            assert!((0..100).all(|number| world.times_applied(id, number) == 1));
        }
    }

    #[test]
    fn without_a_leader_they_wait_and_go_in_when_there_is_one() {
        let mut world = World::new(3, 0);
        world.settle();
        for id in 1..=3 {
            world.propose(id, id);
        }
        while world.leader().is_none() {
            world.tick();
        }
        world.ticks(2);
        for number in 1..=3 {
            assert_eq!(world.times_applied(1, number), 1);
        }
    }

    #[test]
    fn without_a_leader_for_seven_seconds_they_are_refused() {
        let mut world = World::new(3, 0);
        world.cut.extend([1, 2, 3]);
        world.settle();
        world.propose(1, 1);
        world.ticks(69);
        assert_eq!(world.at(1).refused, []);
        world.ticks(1);
        assert_eq!(world.at(1).refused, [(1, ErrorKind::ContextDeadlineExceeded)]);
    }

    #[test]
    fn no_more_than_a_bounded_number_waits_for_a_leader() {
        let mut world = World::new(3, 0);
        world.cut.extend([1, 2, 3]);
        world.settle();
        let many = (0..6000).map(|id| request(id, 1, false)).collect();
        world.step(1, Input::Propose(many));
        world.take(1);
        assert_eq!(world.at(1).refused.len(), 1000);
        assert_eq!(world.at(1).refused[0], (5000, ErrorKind::TooManyRequests));
        let large = (0..100).map(|id| request(id, 1 << 20, false)).collect();
        world.step(2, Input::Propose(large));
        world.take(2);
        assert_eq!(world.at(2).refused.len(), 36);
    }

    #[test]
    fn who_has_found_a_leader_does_not_count_among_the_waiting_any_more() {
        let (mut world, leader) = World::led(3, 0);
        let follower = leader % 3 + 1;
        for round in 0..3 {
            world.cut.insert(follower);
            while world.at(follower).member.status().leader.is_some() {
                world.tick();
            }
            let large = (0..40)
                .map(|id| request(round * 100 + id, 1 << 20, false))
                .collect();
            world.step(follower, Input::Propose(large));
            world.cut.clear();
            world.ticks(30);
            assert_eq!(world.at(follower).refused, []);
        }
    }

    #[test]
    fn requests_and_changes_go_into_the_log_in_the_order_they_came() {
        let (mut world, leader) = World::led(1, 1);
        let before = world.at(leader).applied.len();
        world.propose(leader, 1);
        world.change(leader, conf_change(ConfChangeType::ConfChangeAddLearnerNode, 2));
        world.propose(leader, 2);
        world.settle();
        world.work(leader);
        let types = world.at(leader).applied[before..]
            .iter()
            .map(|entry| entry.r#type);
        assert_eq!(types.collect::<Vec<_>>(), [0, 1, 0]);
    }

    #[test]
    fn while_the_leadership_moves_they_wait_and_none_is_lost_or_doubled() {
        let (mut world, leader) = World::led(3, 0);
        let heir = leader % 3 + 1;
        let ticket = world.transfer(leader, heir);
        (0..10).for_each(|number| world.propose(leader, number));
        world.ticks(3);
        assert_eq!(world.at(leader).transfers, [(ticket, Ok(()))]);
        assert_eq!(world.at(leader).refused, []);
        for id in 1..=3 {
            assert!((0..10).all(|number| world.times_applied(id, number) == 1));
        }
    }

    #[test]
    fn a_backlog_of_the_machine_closes_the_door_to_the_urgent_ones_last() {
        let (mut world, leader) = World::led(1, 0);
        world.at(leader).machine_stops = true;
        let batch = |from: u64, count: u64| (from..from + count).map(|id| request(id, 1, false)).collect();
        world.step(leader, Input::Propose(batch(0, BACKLOG_MAX)));
        world.settle();
        world.step(leader, Input::Propose(batch(10_000, 1)));
        world.settle();
        assert_eq!(world.at(leader).refused, [], "at the limit");
        world.step(leader, Input::Propose(batch(10_001, 1)));
        world.settle();
        assert_eq!(world.at(leader).refused, [(10_001, ErrorKind::TooManyRequests)]);
        let urgent = (20_000..20_000 + URGENT_BACKLOG_MAX - BACKLOG_MAX).map(|id| request(id, 1, true));
        world.step(leader, Input::Propose(urgent.collect()));
        world.settle();
        world.step(leader, Input::Propose(vec![request(40_000, 1, true)]));
        world.settle();
        assert_eq!(
            world.at(leader).refused[1..],
            [(40_000, ErrorKind::TooManyRequests)]
        );
        world.at(leader).machine_stops = false;
        world.work(leader);
        world.step(leader, Input::Propose(batch(50_000, 1)));
        world.settle();
        assert_eq!(world.at(leader).refused.len(), 2, "the door is open again");
    }

    #[test]
    fn the_error_of_a_late_answer_tells_what_was_wrong() {
        let status = |leader: u64, since| Status {
            leader: Some(MemberId(leader)),
            leader_since_ms: Some(since),
            ..Status::default()
        };
        let timeout = |status: Status, started, connected| status.timeout(started, 1000, connected);
        assert_eq!(
            timeout(status(1, 10_000), 9_000, true),
            ErrorKind::TimeoutDueToLeaderFail
        );
        assert_eq!(timeout(status(1, 10_000), 8_000, true), ErrorKind::Timeout);
        assert_eq!(timeout(status(1, 10_000), 10_000, true), ErrorKind::Timeout);
        assert_eq!(
            timeout(status(1, 10_000), 11_000, false),
            ErrorKind::TimeoutDueToConnectionLost
        );
        assert_eq!(timeout(Status::default(), 11_000, false), ErrorKind::Timeout);
    }
}

mod leadership {
    use super::*;

    #[test]
    fn leases_run_out_on_a_leader_that_knows_the_past_and_nowhere_else() {
        let (mut world, old) = World::led(3, 0);
        let heir = old % 3 + 1;
        assert_eq!(world.at(old).lessor, [Lessor::Promote]);
        world.at(heir).machine_stops = true;
        world.transfer(old, heir);
        world.ticks(3);
        assert_eq!(world.leader(), Some(heir));
        assert_eq!(world.at(old).lessor, [Lessor::Promote, Lessor::Demote]);
        assert_eq!(
            world.at(heir).lessor,
            [],
            "it has not applied what was committed before it"
        );
        world.at(heir).machine_stops = false;
        world.work(heir);
        world.settle();
        assert_eq!(world.at(heir).lessor, [Lessor::Promote]);
        world.transfer(heir, old);
        world.ticks(3);
        assert_eq!(world.at(heir).lessor, [Lessor::Promote, Lessor::Demote]);
        assert_eq!(
            world.at(old).lessor,
            [Lessor::Promote, Lessor::Demote, Lessor::Promote]
        );
    }

    #[test]
    fn only_a_leader_hands_over_and_only_to_a_voter() {
        let (mut world, leader) = World::led(3, 1);
        world.change(leader, conf_change(ConfChangeType::ConfChangeAddLearnerNode, 4));
        world.ticks(3);
        let follower = leader % 3 + 1;
        let outcome = |world: &mut World, at: u64, to: u64| {
            let ticket = world.transfer(at, to);
            world.settle();
            let outcome = world.at(at).transfers.iter().find(|(of, _)| *of == ticket);
            outcome.map(|(_, outcome)| *outcome)
        };
        assert_eq!(
            outcome(&mut world, follower, leader),
            Some(Err(ErrorKind::NotLeader))
        );
        assert_eq!(
            outcome(&mut world, leader, 9),
            Some(Err(ErrorKind::BadLeaderTransferee))
        );
        assert_eq!(
            outcome(&mut world, leader, 4),
            Some(Err(ErrorKind::BadLeaderTransferee))
        );
        assert_eq!(outcome(&mut world, leader, leader), Some(Ok(())));
        world.cut.insert(follower);
        assert_eq!(outcome(&mut world, leader, follower), None);
        world.ticks(69);
        assert_eq!(world.at(leader).transfers.len(), 3);
        world.ticks(1);
        assert_eq!(
            world.at(leader).transfers[3].1,
            Err(ErrorKind::LeaderTransferTimeout)
        );
        world.propose(leader, 1);
        world.settle();
        assert_eq!(world.times_applied(leader, 1), 1, "it goes on leading");
    }

    #[test]
    fn the_time_of_a_leader_begins_when_it_is_first_seen() {
        let (mut world, leader) = World::led(3, 0);
        let since = world
            .at(leader)
            .member
            .status()
            .leader_since_ms
            .expect("a leader");
        world.ticks(50);
        assert_eq!(world.at(leader).member.status().leader_since_ms, Some(since));
        let heir = leader % 3 + 1;
        world.transfer(leader, heir);
        world.ticks(2);
        assert!(
            world
                .at(leader)
                .member
                .status()
                .leader_since_ms
                .expect("a leader")
                > since
        );
    }
}

mod membership {
    use super::*;

    #[test]
    fn a_removed_member_is_not_spoken_to_any_more() {
        let (mut world, leader) = World::led(3, 0);
        let gone = leader % 3 + 1;
        world.cut.insert(gone);
        world.change(leader, conf_change(ConfChangeType::ConfChangeRemoveNode, gone));
        world.ticks(3);
        // It does not know, and calls for votes; and the one that stays would like a leader too.
        world.cut.clear();
        world.cut.insert(leader);
        world.sent.clear();
        world.ticks(50);
        let calls = |message: &Message| message.r#type() == MessageType::MsgPreVote && message.from == gone;
        assert!(world.sent.iter().any(calls));
        assert!(
            world.sent.iter().all(|message| message.to != gone),
            "nobody answers"
        );
    }

    #[test]
    fn a_member_that_installs_a_snapshot_learns_who_is_gone() {
        let (mut world, leader) = World::led(3, 0);
        let follower = leader % 3 + 1;
        let other = follower % 3 + 1;
        world.step(
            follower,
            Input::Installed {
                index: 0,
                removed: vec![MemberId(other)],
            },
        );
        let term = world.at(follower).member.status().term;
        for kind in [MessageType::MsgPreVote, MessageType::MsgVote] {
            let vote = Message {
                r#type: kind as i32,
                to: follower,
                from: other,
                term: term + 1,
                index: 1,
                log_term: 1,
                context: Some(Bytes::from_static(b"CampaignTransfer")),
                ..Message::default()
            };
            world.step(follower, Input::Message(vote));
            world.take(follower);
            assert!(
                world.network.is_empty(),
                "no answer, neither at once nor after the disk"
            );
        }
    }

    #[test]
    fn a_member_that_was_away_too_long_follows_from_a_snapshot() {
        let (mut world, leader) = World::led(3, 0);
        let away = leader % 3 + 1;
        world.cut.insert(away);
        for number in 0..6000 {
            world.propose(leader, number);
            if number % 1000 == 0 {
                world.settle();
            }
        }
        world.settle();
        let metadata = world.snapshot_of(leader);
        world.step(leader, Input::SnapshotDone(metadata));
        let log = world.at(leader).member.consensus().status();
        assert_eq!(log.last - log.first + 1, 5000, "the catch-up entries are kept");
        world.cut.clear();
        world.ticks(30);
        let applied = world.at(leader).member.status().applied;
        assert_eq!(world.at(away).member.status().applied, applied);
        assert!(
            world
                .sent
                .iter()
                .any(|message| message.r#type() == MessageType::MsgSnap)
        );
    }

    #[test]
    fn nobody_is_sent_an_entry_before_a_snapshot_that_cuts() {
        let (mut world, leader) = World::led(3, 0);
        let away = leader % 3 + 1;
        world.cut.insert(away);
        world.propose(leader, 1);
        world.settle();
        let metadata = world.snapshot_of(leader);
        let index = metadata.index;
        world.step(leader, Input::SnapshotCuts(metadata));
        world.sent.clear();
        world.cut.clear();
        world.ticks(30);
        let applied = world.at(leader).member.status().applied;
        assert_eq!(world.at(away).member.status().applied, applied);
        let entries = world.sent.iter().flat_map(|message| &message.entries);
        assert!(entries.map(|entry| entry.index).all(|sent| sent > index));
    }
}

#[test]
fn who_waits_when_the_server_stops_is_told_and_nobody_is_let_in() {
    let mut world = World::new(3, 0);
    world.cut.extend([1, 2, 3]);
    world.settle();
    world.propose(1, 1);
    let before = world.read(1);
    world.step(1, Input::Stop);
    world.propose(1, 2);
    let after = world.read(1);
    let transfer = world.transfer(1, 2);
    world.take(1);
    assert_eq!(world.outcome(1, before), Some(Err(ErrorKind::Stopped)));
    assert_eq!(world.outcome(1, after), Some(Err(ErrorKind::Stopped)));
    assert_eq!(
        world.at(1).refused,
        [(1, ErrorKind::Stopped), (2, ErrorKind::Stopped)]
    );
    assert_eq!(world.at(1).transfers, [(transfer, Err(ErrorKind::Stopped))]);
}

#[test]
fn messages_that_make_no_sense_are_reported_and_do_no_harm() {
    let (mut world, leader) = World::led(3, 0);
    let strange = Message {
        r#type: 99,
        to: leader,
        from: 2,
        ..Message::default()
    };
    world.step(leader, Input::Message(strange));
    let effects = world.at(leader).member.take_effects();
    assert_eq!(effects.ignored.len(), 1);
    assert_eq!(effects.ignored[0].0, MemberId(2));
    let ticket = Ticket(1);
    world.step(leader, Input::ReadIndex { ticket });
    world.settle();
    assert!(world.outcome(leader, ticket).is_some_and(|it| it.is_ok()));
}

#[test]
fn a_leader_whose_disk_hangs_hands_over() {
    let (mut world, leader) = World::led(3, 0);
    world.at(leader).disk_stops = true;
    world.propose(leader, 1);
    world.ticks(9);
    assert_eq!(world.leader(), Some(leader), "a slow disk is no reason");
    world.ticks(3);
    let next = world.leader().expect("another one leads");
    assert_ne!(next, leader);
    world.propose(next, 2);
    world.ticks(1);
    assert_eq!(world.times_applied(next, 2), 1);
    world.at(leader).disk_stops = false;
    world.ticks(2);
    assert_eq!(world.times_applied(leader, 1), 1);
    assert_eq!(world.times_applied(leader, 2), 1);
}

#[test]
fn a_lone_leader_whose_disk_hangs_has_nobody_to_hand_over_to() {
    let (mut world, leader) = World::led(1, 0);
    world.at(leader).disk_stops = true;
    world.propose(leader, 1);
    world.ticks(30);
    assert_eq!(world.leader(), Some(leader));
    world.at(leader).disk_stops = false;
    world.ticks(1);
    assert_eq!(world.times_applied(leader, 1), 1);
}
