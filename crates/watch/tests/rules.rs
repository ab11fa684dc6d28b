//! etcd's rules for watches, one test each. The number in brackets is the etcd issue or pull request
//! whose bug the test keeps out.

mod world;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use types::ErrorKind;
use watch::{Bell, Create, Limits, Metrics, Options};
use world::{PROGRESS_INTERVAL_MS, World, delete, from, one, put, small_limits, span};

/// A world with one client.
fn world() -> World {
    with_limits(Limits::default())
}

fn with_limits(limits: Limits) -> World {
    let mut world = World::new(limits);
    world.connect();
    world
}

// Creating and cancelling.

#[test]
fn a_create_is_answered_first_and_events_follow() {
    let mut w = world();
    w.commit(&[put("k", "old")]);
    w.create(0, one("k"));
    w.commit(&[put("k", "new")]);
    assert_eq!(w.read(), ["#0@2: created", "#0@3: PUT k=new@3"]);
}

#[test]
fn automatic_ids_start_at_zero_and_skip_those_in_use() {
    let mut w = world();
    w.create(
        0,
        Create {
            watch_id: 1,
            ..one("k")
        },
    );
    for _ in 0..3 {
        w.create(0, one("k"));
    }
    assert_eq!(
        w.read(),
        ["#1@1: created", "#0@1: created", "#2@1: created", "#3@1: created"]
    );
}

#[test]
fn an_id_in_use_is_refused_and_a_cancelled_one_can_be_used_again() {
    let mut w = world();
    let seven = Create {
        watch_id: 7,
        ..one("k")
    };
    w.create(0, seven.clone());
    w.create(0, seven.clone());
    w.cancel(0, 7);
    w.create(0, seven);
    w.commit(&[put("k", "v")]);
    assert_eq!(
        w.read(),
        [
            "#7@1: created",
            "#-1@1: created canceled \"mvcc: duplicate watch ID provided on the WatchStream\"",
            "#7@1: canceled",
            "#7@1: created",
            "#7@2: PUT k=v@2",
        ]
    );
}

#[test]
fn a_stream_has_no_more_watchers_than_it_may() {
    let mut w = with_limits(Limits {
        stream_watchers: 2,
        ..Limits::default()
    });
    for _ in 0..3 {
        w.create(0, one("k"));
    }
    w.cancel(0, 0);
    w.create(0, one("k"));
    assert_eq!(
        w.read(),
        [
            "#0@1: created",
            "#1@1: created",
            "#-1@1: created canceled \"keelson: too many watchers on this stream; open another\"",
            "#0@1: canceled",
            "#2@1: created",
        ]
    );
}

#[test]
fn a_range_without_keys_is_refused() {
    let mut w = world();
    w.create(0, span("b", "a"));
    w.create(0, span("b", "b"));
    let refused = "#-1@1: created canceled \"mvcc: watcher range is empty\"";
    assert_eq!(w.read(), [refused, refused]);
    assert_eq!(w.hub.metrics().watchers, 0);
}

/// [PR 20707] Checked before the range, and before the id.
#[test]
fn a_negative_start_revision_is_refused() {
    let mut w = world();
    w.create(0, from(span("b", "a"), -1));
    w.create(0, from(one("k"), i64::MIN));
    let refused = "#-1@1: created canceled \"etcdserver: mvcc: required revision has been compacted\"";
    assert_eq!(w.read(), [refused, refused]);
}

#[test]
fn a_create_without_permission_is_refused_and_the_stream_goes_on() {
    let mut w = world();
    w.hub.refuse(w.clients[0].id, ErrorKind::PermissionDenied);
    w.hub.refuse(w.clients[0].id, ErrorKind::InvalidAuthToken);
    w.create(0, one("k"));
    assert_eq!(
        w.read(),
        [
            "#-1@1: created canceled \
             \"rpc error: code = PermissionDenied desc = etcdserver: permission denied\"",
            "#-1@1: created canceled \
             \"rpc error: code = Unauthenticated desc = etcdserver: invalid auth token\"",
            "#0@1: created",
        ]
    );
}

#[test]
fn cancelling_a_watcher_ends_its_events_and_an_unknown_id_is_not_answered() {
    let mut w = world();
    w.create(0, one("k"));
    w.create(0, one("k"));
    w.commit(&[put("k", "1")]);
    w.cancel(0, 0);
    w.cancel(0, 0);
    w.cancel(0, 99);
    w.commit(&[put("k", "2")]);
    assert_eq!(
        w.read(),
        [
            "#0@1: created",
            "#1@1: created",
            "#0@2: PUT k=1@2",
            "#1@2: PUT k=1@2",
            "#0@2: canceled",
            "#1@3: PUT k=2@3",
        ]
    );
}

/// [#14563] Zero is an id like any other: a refused create must not end the watcher that has it.
#[test]
fn watcher_zero_survives_the_refusal_of_another() {
    let mut w = world();
    w.create(0, one("k"));
    w.create(0, span("b", "a"));
    w.cancel(0, -1);
    w.commit(&[put("k", "v")]);
    assert_eq!(w.read().last().unwrap(), "#0@2: PUT k=v@2");
}

#[test]
fn a_request_for_a_stream_that_is_gone_is_ignored() {
    let mut w = world();
    w.clients[0].frames = None;
    w.collect();
    w.create(0, one("k"));
    w.cancel(0, 0);
    w.progress(0);
    w.hub.refuse(w.clients[0].id, ErrorKind::PermissionDenied);
    assert_eq!(w.hub.metrics(), Metrics::default());
}

// Where a watcher starts.

#[test]
fn a_start_in_the_past_replays_history() {
    let mut w = world();
    w.commit(&[put("k", "1")]);
    w.commit(&[put("other", "x")]);
    w.commit(&[put("k", "2")]);
    w.create(0, from(one("k"), 2));
    w.create(0, from(one("k"), 3));
    w.catch_up();
    let mut received = w.read();
    received.sort();
    assert_eq!(
        received,
        [
            "#0@4: PUT k=1@2 PUT k=2@4",
            "#0@4: created",
            "#1@4: PUT k=2@4",
            "#1@4: created"
        ]
    );
}

/// [#20221] Also when the future arrives by a lost feed or a snapshot instead of single events.
#[test]
fn a_start_in_the_future_gets_nothing_older() {
    let mut w = world();
    w.create(0, from(one("k"), 4));
    w.commit(&[put("k", "2")]);
    w.apply(&[put("k", "3")]);
    w.overflow();
    w.catch_up();
    assert_eq!(w.read(), ["#0@1: created"]);
    w.apply(&[put("k", "4")]);
    w.apply(&[put("k", "5")]);
    w.overflow();
    w.catch_up();
    w.commit(&[put("k", "6")]);
    assert_eq!(w.read(), ["#0@5: PUT k=4@4 PUT k=5@5", "#0@6: PUT k=6@6"]);
}

/// [#9775]
#[test]
fn a_snapshot_finds_a_watcher_waiting_for_the_future_unharmed() {
    let mut w = world();
    w.create(0, from(one("k"), 1000));
    for _ in 0..9 {
        w.apply(&[put("k", "v")]);
    }
    w.overflow();
    w.compact(10);
    w.catch_up();
    assert_eq!(w.read(), ["#0@1: created"]);
    assert_eq!(w.hub.metrics().slow_watchers, 0);
}

/// The hub's feed may lag behind the store that the client has just read or written.
#[test]
fn from_now_on_means_the_stores_revision_and_not_the_hubs() {
    let mut w = world();
    w.apply(&[put("k", "seen")]);
    w.create(0, one("k"));
    w.apply(&[put("k", "news")]);
    w.publish();
    assert_eq!(w.read(), ["#0@2: created", "#0@3: PUT k=news@3"]);
}

// Compaction.

#[test]
fn a_start_below_the_compact_revision_is_created_and_then_cancelled() {
    let mut w = world();
    (0..5).for_each(|_| w.commit(&[put("k", "v")]));
    w.compact(4);
    w.create(0, from(one("k"), 3));
    assert_eq!(w.read(), ["#0@6: created", "#0@0: canceled compact=4"]);
}

#[test]
fn a_start_at_the_compact_revision_is_fine() {
    let mut w = world();
    (0..3).for_each(|_| w.commit(&[put("k", "v")]));
    w.compact(3);
    w.create(0, from(one("k"), 3));
    w.catch_up();
    assert_eq!(w.read(), ["#0@4: created", "#0@4: PUT k=v@3 PUT k=v@4"]);
}

/// [#18089, #19179] The store keeps a tombstone at its compact revision; the hub must ask for it.
#[test]
fn a_deletion_at_the_compact_revision_is_delivered() {
    let mut w = world();
    w.commit(&[put("k", "v")]);
    w.commit(&[delete("k")]);
    w.compact(3);
    w.create(0, from(one("k"), 3));
    w.catch_up();
    assert_eq!(w.read(), ["#0@3: created", "#0@3: DELETE k@3"]);
}

/// [#17529] History that was read while a compaction ran may have holes.
#[test]
fn history_from_below_a_compaction_is_not_delivered() {
    let mut w = world();
    (0..4).for_each(|_| w.commit(&[put("k", "v")]));
    w.create(0, from(one("k"), 2));
    w.compact_quietly(4);
    let answer = w.answer(100).unwrap();
    w.deliver(&answer);
    assert_eq!(w.read(), ["#0@5: created", "#0@0: canceled compact=4"]);
}

/// [#17529]
#[test]
fn a_slow_watcher_that_a_compaction_overtakes_is_cancelled_and_not_given_the_rest() {
    let mut w = with_limits(small_limits());
    w.create(0, one("k"));
    (0..9).for_each(|_| w.commit(&[put("k", "v")]));
    w.compact(9);
    let before: Vec<_> = [
        "#0@1: created",
        "#0@2: PUT k=v@2",
        "#0@3: PUT k=v@3",
        "#0@4: PUT k=v@4",
    ]
    .into();
    assert_eq!(w.read(), before);
    w.catch_up();
    w.commit(&[put("k", "v")]);
    assert_eq!(w.read(), ["#0@0: canceled compact=9"]);
}

#[test]
fn the_id_of_a_watcher_lost_to_compaction_stays_taken_until_the_client_cancels_it() {
    let mut w = world();
    (0..5).for_each(|_| w.commit(&[put("k", "v")]));
    w.compact(4);
    let seven = Create {
        watch_id: 7,
        ..one("k")
    };
    w.create(0, from(seven.clone(), 2));
    w.create(0, seven.clone());
    w.cancel(0, 7);
    w.create(0, seven);
    assert_eq!(
        w.read(),
        [
            "#7@6: created",
            "#7@0: canceled compact=4",
            "#-1@6: created canceled \"mvcc: duplicate watch ID provided on the WatchStream\"",
            "#7@6: canceled",
            "#7@6: created",
        ]
    );
}

// Progress.

#[test]
fn progress_is_told_once_for_all_watchers_of_a_stream() {
    let mut w = world();
    w.create(0, one("a"));
    w.create(0, one("b"));
    w.commit(&[put("a", "1")]);
    w.progress(0);
    assert_eq!(
        w.read(),
        ["#0@1: created", "#1@1: created", "#0@2: PUT a=1@2", "#-1@2:"]
    );
}

#[test]
fn progress_of_a_stream_without_watchers_is_not_answered() {
    let mut w = world();
    w.progress(0);
    w.create(0, one("a"));
    w.cancel(0, 0);
    w.progress(0);
    assert_eq!(w.read(), ["#0@1: created", "#0@1: canceled"]);
}

/// [#15220] A progress response must not overtake events.
#[test]
fn progress_is_not_answered_while_a_watcher_is_catching_up() {
    let mut w = world();
    w.commit(&[put("k", "v")]);
    w.create(0, one("k"));
    w.create(0, from(one("k"), 2));
    w.progress(0);
    w.catch_up();
    assert_eq!(w.read(), ["#0@2: created", "#1@2: created", "#1@2: PUT k=v@2"]);
    w.progress(0);
    assert_eq!(w.read(), ["#-1@2:"]);
}

/// [#15220] Nor while events are only in the store because the outbox was full.
#[test]
fn progress_is_not_answered_while_a_full_outbox_holds_events_back() {
    let mut w = with_limits(small_limits());
    w.create(0, one("k"));
    (0..6).for_each(|_| w.commit(&[put("k", "v")]));
    assert_eq!(w.read().len(), 4);
    w.progress(0);
    assert_eq!(w.read(), [""; 0]);
    w.catch_up();
    w.progress(0);
    assert_eq!(w.read().last().unwrap(), "#-1@7:");
}

/// [#20221] Not even when the start is the very next revision; "from now on" is no start.
#[test]
fn progress_is_not_answered_while_a_watcher_waits_for_a_later_start() {
    let mut w = world();
    w.create(0, one("k"));
    w.create(0, from(one("k"), 2));
    w.progress(0);
    assert_eq!(w.read(), ["#0@1: created", "#1@1: created"]);
    w.commit(&[put("other", "v")]);
    w.progress(0);
    assert_eq!(w.read(), ["#-1@2:"]);
    w.create(0, from(one("k"), 50));
    w.progress(0);
    w.cancel(0, 2);
    w.progress(0);
    assert_eq!(w.read(), ["#2@2: created", "#2@2: canceled", "#-1@2:"]);
}

#[test]
fn an_idle_watcher_is_notified_at_every_tick() {
    let mut w = world();
    w.create(
        0,
        Create {
            progress_notify: true,
            ..one("k")
        },
    );
    w.create(0, one("k"));
    w.tick();
    w.commit(&[put("other", "v")]);
    w.tick();
    assert_eq!(w.read(), ["#0@1: created", "#1@1: created", "#0@1:", "#0@2:"]);
}

#[test]
fn the_tick_after_events_is_left_out() {
    let mut w = world();
    w.create(
        0,
        Create {
            progress_notify: true,
            ..one("k")
        },
    );
    w.commit(&[put("k", "v")]);
    w.tick();
    assert_eq!(w.read(), ["#0@1: created", "#0@2: PUT k=v@2"]);
    w.tick();
    assert_eq!(w.read(), ["#0@2:"]);
}

/// [#20221]
#[test]
fn a_watcher_that_is_behind_or_not_yet_started_is_not_notified() {
    let mut w = world();
    w.commit(&[put("k", "v")]);
    let notified = Create {
        progress_notify: true,
        ..one("k")
    };
    w.create(0, from(notified.clone(), 2));
    w.create(0, from(notified, 3));
    w.tick();
    assert_eq!(w.read(), ["#0@2: created", "#1@2: created"]);
}

#[test]
fn ticks_follow_the_opening_of_each_stream() {
    let mut w = world();
    w.now_ms = 400;
    w.connect();
    assert_eq!(w.hub.next_tick_ms(), Some(PROGRESS_INTERVAL_MS));
    w.hub.tick(1399);
    assert_eq!(w.hub.next_tick_ms(), Some(1400));
    w.hub.tick(9000);
    assert_eq!(
        w.hub.next_tick_ms(),
        Some(1399 + PROGRESS_INTERVAL_MS + (9000 - 1399))
    );
}

#[test]
fn the_progress_interval_grows_by_a_chance_of_up_to_a_tenth() {
    let interval = |chance| {
        Options::default()
            .with_progress_interval(600_000, chance)
            .progress_interval_ms
    };
    assert_eq!(interval(0), 600_000);
    assert_eq!(interval(59_999), 659_999);
    assert!((600_000..660_000).contains(&interval(u64::MAX)));
    assert_eq!(
        Options::default()
            .with_progress_interval(3, 1)
            .progress_interval_ms,
        3
    );
}

// What a response holds.

#[test]
fn all_events_of_a_revision_come_in_one_response_and_revisions_may_share_one() {
    let mut w = world();
    w.create(0, span("a", "z"));
    w.commit(&[put("a", "1"), put("b", "1"), put("zz", "1")]);
    w.apply(&[put("c", "1")]);
    w.apply(&[delete("a"), delete("b")]);
    w.publish();
    assert_eq!(
        w.read(),
        [
            "#0@1: created",
            "#0@2: PUT a=1@2 PUT b=1@2",
            "#0@4: PUT c=1@3 DELETE a@4 DELETE b@4"
        ]
    );
}

#[test]
fn a_response_that_grows_too_large_ends_between_two_revisions() {
    let mut w = with_limits(Limits {
        response_bytes: 40,
        ..Limits::default()
    });
    w.create(0, span("a", "z"));
    w.apply(&[put("a", "1"), put("b", "1"), put("c", "1"), put("d", "1")]);
    w.apply(&[put("a", "2")]);
    w.apply(&[put("a", "3")]);
    w.apply(&[put("a", "4"), put("b", "4")]);
    w.publish();
    assert_eq!(
        w.read()[1..],
        [
            "#0@5: PUT a=1@2 PUT b=1@2 PUT c=1@2 PUT d=1@2",
            "#0@5: PUT a=2@3 PUT a=3@4",
            "#0@5: PUT a=4@5 PUT b=4@5",
        ]
    );
}

#[test]
fn previous_values_come_where_they_are_asked_for_and_still_exist() {
    let mut w = world();
    w.commit(&[put("k", "1")]);
    w.create(
        0,
        Create {
            prev_kv: true,
            ..one("k")
        },
    );
    w.create(0, one("k"));
    w.commit(&[put("k", "2")]);
    w.commit(&[delete("k")]);
    w.commit(&[put("k", "3")]);
    assert_eq!(
        w.read()[2..],
        [
            "#0@3: PUT k=2@3 (was 1)",
            "#1@3: PUT k=2@3",
            "#0@4: DELETE k@4 (was 2)",
            "#1@4: DELETE k@4",
            "#0@5: PUT k=3@5",
            "#1@5: PUT k=3@5",
        ]
    );
    w.compact(3);
    w.create(
        0,
        Create {
            prev_kv: true,
            ..from(one("k"), 3)
        },
    );
    w.catch_up();
    // What was before revision 3 is compacted; what was before 4 is not.
    assert_eq!(w.read()[1..], ["#2@5: PUT k=2@3 DELETE k@4 (was 2) PUT k=3@5"]);
}

#[test]
fn filters_leave_out_events_and_an_empty_response_is_not_sent() {
    let mut w = world();
    w.create(
        0,
        Create {
            no_put: true,
            ..one("k")
        },
    );
    w.create(
        0,
        Create {
            no_delete: true,
            ..one("k")
        },
    );
    w.create(
        0,
        Create {
            no_put: true,
            no_delete: true,
            ..one("k")
        },
    );
    w.commit(&[put("k", "v")]);
    w.commit(&[delete("k")]);
    assert_eq!(w.read()[3..], ["#1@2: PUT k=v@2", "#0@3: DELETE k@3"]);
}

#[test]
fn a_large_response_is_fragmented_for_those_who_can_take_it() {
    let mut w = with_limits(Limits {
        fragment_bytes: 100,
        ..Limits::default()
    });
    w.create(
        0,
        Create {
            fragment: true,
            ..span("a", "z")
        },
    );
    w.create(0, span("a", "z"));
    let long = "x".repeat(50);
    w.commit(&[
        put("a", "1"),
        put("b", "2"),
        put("c", &long),
        put("d", "4"),
        put("e", &"y".repeat(200)),
    ]);
    let pieces = w.read();
    assert_eq!(
        pieces[2..],
        [
            "#0@2: PUT a=1@2 PUT b=2@2 ...".to_owned(),
            format!("#0@2: PUT c={long}@2 PUT d=4@2 ..."),
            format!("#0@2: PUT e={}@2", "y".repeat(200)),
            format!(
                "#1@2: PUT a=1@2 PUT b=2@2 PUT c={long}@2 PUT d=4@2 PUT e={}@2",
                "y".repeat(200)
            ),
        ]
    );
}

#[test]
fn one_event_is_never_fragmented() {
    let mut w = with_limits(Limits {
        fragment_bytes: 10,
        ..Limits::default()
    });
    w.create(
        0,
        Create {
            fragment: true,
            ..one("k")
        },
    );
    w.commit(&[put("k", "longer than the limit")]);
    assert_eq!(w.read()[1..], ["#0@2: PUT k=longer than the limit@2"]);
}

#[test]
fn the_fragment_limit_follows_the_request_limit() {
    assert_eq!(Limits::default().fragment_bytes, 2 << 20);
    assert_eq!(
        Limits::default().with_max_request_bytes(1000).fragment_bytes,
        1000 + (512 << 10)
    );
}

#[test]
fn headers_carry_the_term_of_the_moment() {
    let mut w = world();
    w.hub.set_term(34);
    w.create(0, one("k"));
    let header = w.clients[0].read_all()[0].header.unwrap();
    assert_eq!(
        (
            header.cluster_id,
            header.member_id,
            header.raft_term,
            header.revision
        ),
        (11, 22, 34, 1)
    );
}

/// [#17247] An event that a watcher got from history is not delivered again by the feed, nor twice by it.
#[test]
fn no_event_is_delivered_twice() {
    let mut w = world();
    w.commit(&[put("k", "1")]);
    w.create(0, from(one("k"), 2));
    let answer = w.answer(100).unwrap();
    w.deliver(&answer);
    w.deliver(&answer);
    w.apply(&[put("k", "2")]);
    w.publish();
    w.republish(2);
    w.deliver(&answer);
    w.apply(&[put("k", "3")]);
    w.republish(4);
    assert_eq!(w.hub.revision(), 4);
    assert_eq!(
        w.read(),
        [
            "#0@2: created",
            "#0@2: PUT k=1@2",
            "#0@3: PUT k=2@3",
            "#0@4: PUT k=3@4"
        ]
    );
}

#[test]
fn history_beyond_the_question_is_not_used() {
    let mut w = world();
    w.commit(&[put("k", "1")]);
    w.create(0, from(one("k"), 2));
    let job = w.hub.next_job().unwrap();
    w.apply(&[put("k", "2")]);
    // The store is ahead of the hub; revision 3 will come with the feed.
    let kv = w.store.value_at(b"k", 3).unwrap();
    let ahead = watch::Event::parse(3, false, prost::Message::encode_to_vec(&kv).into()).unwrap();
    let history = watch::History {
        events: &[ahead],
        reached: 3,
        compacted: 0,
    };
    w.hub.history(job, history, &mut |_, _| None);
    w.publish();
    assert_eq!(w.read(), ["#0@2: created", "#0@3: PUT k=2@3"]);
}

// Encoding once.

#[test]
fn all_watchers_of_a_key_share_one_encoding_of_its_events() {
    let mut w = world();
    for client in 0..200 {
        w.create(
            client,
            Create {
                prev_kv: client % 2 == 0,
                ..one("k")
            },
        );
        w.create(
            client,
            Create {
                prev_kv: client % 2 == 0,
                ..span("a", "z")
            },
        );
        w.connect();
    }
    w.commit(&[put("k", "1")]);
    for client in &mut w.clients {
        client.read_all();
    }
    w.apply(&[put("k", "2")]);
    w.apply(&[put("k", "3")]);
    w.publish();
    assert_eq!(w.lookups, 2, "one lookup for each event");
    let mut encodings = std::collections::BTreeSet::new();
    for client in &mut w.clients {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = client.frames.as_mut().unwrap().poll_next(&mut cx) {
            encodings.insert(frame.unwrap().events().as_ptr());
        }
    }
    assert_eq!(
        encodings.len(),
        2,
        "one encoding with previous values, one without"
    );
}

#[test]
fn no_previous_value_is_looked_up_for_a_created_key_or_if_nobody_asks() {
    let mut w = world();
    w.create(0, one("k"));
    w.create(
        0,
        Create {
            prev_kv: true,
            ..one("new")
        },
    );
    w.commit(&[put("k", "1"), put("new", "1")]);
    w.commit(&[put("k", "2")]);
    assert_eq!(w.lookups, 0);
}

// Slow clients.

#[test]
fn a_slow_client_gets_everything_in_the_end_and_holds_up_nobody() {
    let mut w = with_limits(small_limits());
    w.connect();
    w.create(0, one("k"));
    w.create(1, one("k"));
    for revision in 2..=30 {
        w.commit(&[put("k", "v")]);
        let expected = format!("#0@{revision}: PUT k=v@{revision}");
        assert_eq!(
            w.read_of(1).last(),
            Some(&expected),
            "the other client is served at once"
        );
    }
    assert_eq!(w.hub.metrics().slow_watchers, 1);
    w.settle();
    let received = &w.clients[0].received;
    let revisions: Vec<_> = received
        .iter()
        .flat_map(|r| &r.events)
        .map(|event| event.kv.as_ref().unwrap().mod_revision)
        .collect();
    assert_eq!(revisions, (2..=30).collect::<Vec<_>>());
    assert_eq!(w.hub.metrics().slow_watchers, 0);
}

#[test]
fn a_full_outbox_stays_within_its_limits() {
    let limits = Limits {
        outbox_bytes: 2000,
        ..Limits::default()
    };
    let mut w = with_limits(limits);
    for _ in 0..50 {
        w.create(0, one("k"));
        w.read();
    }
    let event = "x".repeat(100);
    for _ in 0..20 {
        w.commit(&[put("k", &event)]);
        w.catch_up();
    }
    let pending = w.hub.metrics().pending_events as usize;
    // At most one response more than fits.
    assert!(
        pending > 0 && (pending - 1) * event.len() < limits.outbox_bytes,
        "{pending} events queued"
    );
    assert_eq!(w.hub.metrics().slow_watchers, 50);
}

#[test]
fn watchers_of_a_slow_stream_that_have_nothing_to_get_stay_synced() {
    let mut w = with_limits(small_limits());
    w.create(0, one("k"));
    w.create(0, one("other"));
    (0..9).for_each(|_| w.commit(&[put("k", "v")]));
    assert_eq!(w.hub.metrics().slow_watchers, 1);
}

#[test]
fn no_history_is_read_for_a_stream_without_room() {
    let mut w = with_limits(small_limits());
    w.create(0, one("k"));
    (0..9).for_each(|_| w.commit(&[put("k", "v")]));
    assert!(w.hub.next_job().is_none());
    w.clients[0].read(2);
    w.collect();
    assert_eq!(w.hub.next_job().map(|job| (job.from, job.upto)), Some((5, 10)));
}

#[test]
fn history_is_read_in_pieces() {
    let mut w = with_limits(Limits {
        catch_up_revisions: 10,
        catch_up_bytes: 77,
        ..Limits::default()
    });
    (0..25).for_each(|_| w.commit(&[put("k", "v")]));
    w.create(0, from(one("k"), 2));
    let mut pieces = Vec::new();
    while let Some(answer) = w.answer(100) {
        pieces.extend(w.hub.next_job().map(|job| (job.from, job.upto, job.max_bytes)));
        w.deliver(&answer);
    }
    assert_eq!(pieces, [(2, 11, 77), (12, 21, 77), (22, 26, 77)]);
}

#[test]
fn draining_below_half_wakes_the_hub_once() {
    let mut w = with_limits(small_limits());
    w.create(0, one("k"));
    (0..3).for_each(|_| w.commit(&[put("k", "v")]));
    w.read();
    assert_eq!(w.rings(), 0, "it was full, but nothing was refused");
    (0..9).for_each(|_| w.commit(&[put("k", "v")]));
    w.clients[0].read(1);
    assert_eq!(w.rings(), 0, "still more than half full");
    w.clients[0].read(3);
    assert_eq!(w.rings(), 1);
}

#[test]
fn who_is_almost_there_does_not_wait_for_a_sweep_through_all_history() {
    let mut w = with_limits(Limits {
        catch_up_revisions: 10,
        ..Limits::default()
    });
    w.connect();
    (0..5000).for_each(|_| w.apply(&[put("k", "v")]));
    w.publish();
    w.create(0, from(one("k"), 1));
    w.create(1, from(one("k"), 5000));
    let mut reads = 0;
    while w.hub.metrics().slow_watchers == 2 {
        let answer = w.answer(10).unwrap();
        w.deliver(&answer);
        reads += 1;
    }
    assert!(reads <= 2, "served after {reads} reads");
    assert_eq!(
        w.read_of(1),
        ["#0@5001: created", "#0@5001: PUT k=v@5000 PUT k=v@5001"]
    );
}

#[test]
fn the_middle_of_history_is_served_although_both_ends_stay_busy() {
    let mut w = with_limits(Limits {
        catch_up_revisions: 10,
        ..Limits::default()
    });
    (0..200).for_each(|_| w.commit(&[put("k", "v")]));
    w.create(0, from(one("k"), 100));
    w.read();
    let mut reads = 0;
    while w.read().is_empty() {
        // Newcomers at both ends, all the time.
        let newcomer = w.connect();
        w.create(newcomer, from(one("k"), 1));
        w.create(newcomer, from(one("k"), 201));
        let answer = w.answer(10).unwrap();
        w.deliver(&answer);
        reads += 1;
        assert!(reads < 100, "not served after {reads} reads");
    }
}

#[test]
fn many_watchers_of_one_stream_catch_up_in_portions() {
    let mut w = with_limits(Limits {
        catch_up_watchers: 3,
        ..Limits::default()
    });
    w.commit(&[put("k", "v")]);
    for _ in 0..10 {
        w.create(0, from(one("k"), 2));
    }
    let answer = w.answer(100).unwrap();
    w.deliver(&answer);
    assert_eq!(w.hub.metrics().slow_watchers, 7);
    w.settle();
    assert_eq!(w.clients[0].received.len(), 20);
}

// A feed with gaps.

#[test]
fn a_lost_feed_is_made_up_for_from_the_store() {
    let mut w = world();
    w.create(0, one("k"));
    w.commit(&[put("k", "2")]);
    w.apply(&[put("k", "3")]);
    w.apply(&[put("k", "4")]);
    w.overflow();
    w.commit(&[put("k", "5")]);
    w.catch_up();
    assert_eq!(
        w.read()[1..],
        ["#0@2: PUT k=2@2", "#0@5: PUT k=3@3 PUT k=4@4 PUT k=5@5"]
    );
}

/// [#15271]
#[test]
fn a_snapshot_does_not_send_a_watch_back_in_time() {
    let mut w = world();
    w.create(0, one("k"));
    w.commit(&[put("k", "2")]);
    w.commit(&[put("k", "3")]);
    // A snapshot at revision 6 replaces the store. What the watcher has seen is not sent again.
    (0..3).for_each(|_| w.apply(&[put("k", "v")]));
    w.compact_quietly(4);
    w.overflow();
    w.compact(4);
    w.settle();
    let received: Vec<_> = w.clients[0].received.iter().map(world::describe).collect();
    assert_eq!(
        received[1..],
        [
            "#0@2: PUT k=2@2",
            "#0@3: PUT k=3@3",
            "#0@6: PUT k=v@4 PUT k=v@5 PUT k=v@6"
        ]
    );
    // With a snapshot that does not reach back far enough the watcher is told so.
    (0..3).for_each(|_| w.apply(&[put("k", "v")]));
    w.compact_quietly(9);
    w.overflow();
    w.compact(9);
    w.settle();
    assert_eq!(
        world::describe(w.clients[0].received.last().unwrap()),
        "#0@0: canceled compact=9"
    );
}

// The end of a stream.

#[test]
fn a_client_that_goes_away_takes_its_watchers_along() {
    let mut w = world();
    w.create(0, one("k"));
    w.commit(&[put("k", "v")]);
    assert_eq!(w.hub.metrics().pending_events, 1);
    w.clients[0].frames = None;
    assert_eq!(w.rings(), 1);
    w.collect();
    assert_eq!(w.hub.metrics(), Metrics::default());
    assert_eq!(w.hub.next_tick_ms(), None);
}

#[test]
fn a_stream_whose_client_left_before_the_hub_saw_it_is_not_opened() {
    let mut w = world();
    let (outbox, frames) = w.opener.open();
    drop(frames);
    w.collect();
    w.hub.open(outbox, 0);
    assert_eq!(w.hub.metrics().streams, 1);
}

#[test]
fn the_server_can_end_a_stream_with_an_error() {
    let mut w = world();
    w.create(0, one("k"));
    w.hub.end_stream(w.clients[0].id, Some(ErrorKind::NoLeader));
    w.commit(&[put("k", "v")]);
    assert_eq!(w.read(), [""; 0]);
    assert_eq!(w.clients[0].error, Some(ErrorKind::NoLeader));
    assert!(w.clients[0].frames.is_none(), "the error is the last thing");
    assert_eq!(w.hub.metrics().watchers, 0);
}

#[test]
fn readers_learn_that_the_hub_has_stopped() {
    let mut w = world();
    w.connect();
    w.hub.end_stream(w.clients[1].id, None);
    drop(std::mem::replace(&mut w.hub, World::new(Limits::default()).hub));
    for client in &mut w.clients {
        client.read_all();
    }
    assert_eq!(w.clients[0].error, Some(ErrorKind::Stopped));
    assert_eq!(w.clients[1].error, None);
    assert!(w.clients[1].frames.is_none());
}

// The outbox as its two tasks see it.

#[test]
fn requests_wait_while_the_answers_to_earlier_ones_are_not_read() {
    let mut w = with_limits(small_limits());
    let outbox = w.clients[0].outbox.clone();
    let rings = std::sync::Arc::new(world::Rings::default());
    let waker = Waker::from(rings);
    let mut cx = Context::from_waker(&waker);
    for _ in 0..4 {
        assert_eq!(outbox.poll_room(&mut cx), Poll::Ready(true));
        w.create(0, one("k"));
    }
    let mut room = pin!(outbox.room());
    assert!(room.as_mut().poll(&mut cx).is_pending());
    w.clients[0].read(1);
    assert!(room.as_mut().poll(&mut cx).is_ready());
    w.clients[0].frames = None;
    assert_eq!(outbox.poll_room(&mut cx), Poll::Ready(false));
}

#[test]
fn a_waiting_reader_is_woken_by_the_first_response() {
    let mut w = world();
    let mut frames = w.clients[0].frames.take().unwrap();
    let rings = w.rings.clone();
    let waker = Waker::from(rings);
    let mut cx = Context::from_waker(&waker);
    assert!(frames.poll_next(&mut cx).is_pending());
    w.create(0, one("k"));
    assert_eq!(w.rings(), 1);
    assert!(frames.poll_next(&mut cx).is_ready());
    assert!(frames.poll_next(&mut cx).is_pending());
    w.hub.end_stream(w.clients[0].id, Some(ErrorKind::NoLeader));
    assert_eq!(w.rings(), 2);
}

#[test]
fn readers_of_one_runtime_are_woken_through_its_bell() {
    let mut w = world();
    let bell = Bell::default();
    w.opener = w.opener.clone().on(bell.clone());
    let rings = w.rings.clone();
    let waker = Waker::from(rings);
    let mut cx = Context::from_waker(&waker);
    let mut answer = pin!(bell.answer());
    assert!(
        answer
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    for client in 1..=3 {
        w.connect();
        w.create(client, one("k"));
        w.read_of(client);
        assert!(
            w.clients[client]
                .frames
                .as_mut()
                .unwrap()
                .poll_next(&mut cx)
                .is_pending()
        );
    }
    w.commit(&[put("k", "v")]);
    assert_eq!(w.rings(), 0, "not from the hub's thread");
    assert!(
        answer
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    assert_eq!(w.rings(), 3);
}

#[test]
fn events_are_counted_while_they_wait_and_once_they_are_sent() {
    let mut w = world();
    w.create(0, span("a", "z"));
    w.commit(&[put("a", "1"), put("b", "1")]);
    w.commit(&[put("a", "2")]);
    let expected = Metrics {
        streams: 1,
        watchers: 1,
        pending_events: 3,
        ..Metrics::default()
    };
    assert_eq!(w.hub.metrics(), expected);
    w.read();
    assert_eq!(
        w.hub.metrics(),
        Metrics {
            pending_events: 0,
            sent_events: 3,
            ..expected
        }
    );
}
