//! `kill -9` under load: what was acknowledged is there afterwards.
//!
//! A round: clients write until some number of writes is acknowledged, the process is killed in the middle of it
//! and started again. Then the history since the round's begin is read back, by a watch, and so are all keys, and
//! [`history::check`] compares them with what the clients know. No revision may be missing, so none ever goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use proto::mvccpb::event::EventType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};

use crate::history::{self, Call, Change, Counts, Keys, NEVER, Operation, Outcome};
use crate::server::Server;

/// What is known of one round.
#[derive(Clone, Debug, Default)]
struct Round {
    /// The revision at its begin.
    revision: i64,
    /// The keys at its begin.
    keys: Keys,
    /// What the writers did since.
    writes: Vec<Operation>,
}

/// Times, of which a round knows only these: the writers are at work, and all is read back.
const WRITING: u64 = 0;
const READING: u64 = 1;

impl Round {
    /// Compares with the history after the restart up to `revision`, and with the keys there are then. Returns
    /// the next round's begin.
    fn check(
        mut self,
        revision: i64,
        history: &BTreeMap<i64, Change>,
        keys: Keys,
    ) -> Result<(Self, Counts), String> {
        if !history.keys().copied().eq(self.revision + 1..=revision) {
            return Err(format!(
                "revisions {} to {revision} are not all in the history, or others are: {history:?}",
                self.revision + 1
            ));
        }
        self.writes.push(Operation {
            begin: READING,
            end: NEVER,
            call: Call::Read,
            outcome: Outcome::Seen(revision, keys.clone()),
        });
        let counts = history::check(&self.keys, &self.writes, history)?;
        let next = Self {
            revision,
            keys,
            writes: Vec::new(),
        };
        Ok((next, counts))
    }
}

/// Clients that write at the same time.
const WRITERS: usize = 8;

/// Keys of each; few, so that they are overwritten and deleted often.
const KEYS: usize = 6;

/// Acknowledged writes of a round, at most.
const WRITES_MAX: usize = 400;

/// The kill comes this much later at most, so that it meets the server at any point of a write.
const DELAY_MAX: Duration = Duration::from_millis(3);

/// How long a history may let wait for its next part.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs rounds on one server and its folder. Returns how many writes were acknowledged.
pub async fn rounds(program: &Path, rounds: usize, seed: u64) -> Result<usize, String> {
    let mut random = StdRng::seed_from_u64(seed);
    // A short election timeout makes restarts quick.
    let flags = ["--heartbeat-interval=20", "--election-timeout=200"].map(str::to_owned);
    let mut server = Server::start(program, &flags).await?;
    let mut round = Round {
        revision: 1,
        ..Round::default()
    };
    let mut writes = 0;
    for number in 0..rounds {
        let failed = |error| format!("round {number} of seed {seed}: {error}");
        let begin = round.revision;
        write_and_kill(&mut server, &mut round, &mut random, number)
            .await
            .map_err(failed)?;
        if random.random_ratio(1, 4) {
            // A second death, while it recovers from the first.
            server.spawn().map_err(failed)?;
            tokio::time::sleep(random.random_range(Duration::ZERO..Duration::from_millis(100))).await;
            server.kill();
        }
        server.resume().await.map_err(failed)?;
        let (revision, history, keys) = read_back(&server, begin).await.map_err(failed)?;
        let (next, counts) = round.check(revision, &history, keys).map_err(failed)?;
        writes += counts.written;
        round = next;
    }
    Ok(writes)
}

async fn connect(server: &Server) -> Result<Channel, String> {
    let endpoint =
        Endpoint::from_shared(format!("http://{}", server.endpoint())).map_err(|e| e.to_string())?;
    endpoint.connect().await.map_err(|e| e.to_string())
}

/// Lets the writers work on a server that has just forgotten the rounds before, and kills it.
async fn write_and_kill(
    server: &mut Server,
    round: &mut Round,
    random: &mut StdRng,
    number: usize,
) -> Result<(), String> {
    let channel = connect(server).await?;
    if number > 0 {
        // The history before this round has been checked; dropping it goes on while the writers write.
        let request = CompactionRequest {
            revision: round.revision,
            physical: random.random(),
        };
        KvClient::new(channel.clone())
            .compact(request)
            .await
            .map_err(|status| status.to_string())?;
    }
    let progress = Arc::new(Progress {
        missing: AtomicUsize::new(random.random_range(1..=WRITES_MAX)),
        enough: Notify::new(),
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let prefix = format!("{writer}/");
            let there = round
                .keys
                .keys()
                .filter(|key| key.starts_with(&prefix))
                .cloned()
                .collect();
            let random = StdRng::seed_from_u64(random.random());
            let kv = KvClient::new(channel.clone());
            tokio::spawn(
                Writer {
                    prefix,
                    there,
                    round: number,
                    kv,
                    random,
                }
                .work(progress.clone()),
            )
        })
        .collect();
    progress.enough.notified().await;
    tokio::time::sleep(random.random_range(Duration::ZERO..DELAY_MAX)).await;
    server.kill();
    for writes in join_all(writers).await {
        round.writes.extend(writes.map_err(|e| e.to_string())?);
    }
    Ok(())
}

/// How far the writers are from being killed.
struct Progress {
    missing: AtomicUsize,
    enough: Notify,
}

impl Progress {
    fn one_more(&self) {
        let before = self
            .missing
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |missing| {
                missing.checked_sub(1)
            });
        if before == Ok(1) {
            self.enough.notify_one();
        }
    }
}

/// A client that writes to its own keys, one write after the other.
struct Writer {
    prefix: String,
    there: BTreeSet<String>,
    round: usize,
    kv: KvClient<Channel>,
    random: StdRng,
}

impl Writer {
    /// Writes until the connection breaks.
    async fn work(mut self, progress: Arc<Progress>) -> Vec<Operation> {
        let mut writes = Vec::new();
        for count in 0.. {
            let change = self.change(count);
            let request = TxnRequest {
                success: operations(&change),
                ..TxnRequest::default()
            };
            let answer = self.kv.txn(request).await;
            let outcome = answer.map_or(Outcome::Unknown, |response| {
                Outcome::Written(response.into_inner().header.map_or(0, |header| header.revision))
            });
            let is_lost = outcome == Outcome::Unknown;
            writes.push(Operation {
                begin: WRITING,
                end: if is_lost { NEVER } else { WRITING },
                call: Call::Write { change, guard: None },
                outcome,
            });
            if is_lost {
                break;
            }
            progress.one_more();
        }
        writes
    }

    /// One to three of the writer's keys are put, or deleted if they are there; one at least is put, by which the
    /// history is known to have this write.
    fn change(&mut self, count: usize) -> Change {
        let value = format!("{}{}.{count}", self.prefix, self.round);
        let mut change = Change::new();
        for _ in 0..self.random.random_range(1..=3) {
            let key = format!("{}{}", self.prefix, self.random.random_range(0..KEYS));
            let delete = self.there.contains(&key) && self.random.random_ratio(1, 3);
            change.insert(key, (!delete).then(|| value.clone()));
        }
        if let (Some(first), true) = (
            change.keys().next().cloned(),
            change.values().all(Option::is_none),
        ) {
            change.insert(first, Some(value));
        }
        for (key, value) in &change {
            match value {
                Some(_) => self.there.insert(key.clone()),
                None => self.there.remove(key),
            };
        }
        change
    }
}

/// A change as the operations of a transaction.
pub(crate) fn operations(change: &Change) -> Vec<RequestOp> {
    let operation = |(key, value): (&String, &Option<String>)| {
        let key = key.clone().into();
        match value.clone() {
            Some(value) => Request::RequestPut(PutRequest {
                key,
                value: value.into(),
                ..PutRequest::default()
            }),
            None => Request::RequestDeleteRange(DeleteRangeRequest {
                key,
                ..DeleteRangeRequest::default()
            }),
        }
    };
    change
        .iter()
        .map(|change| RequestOp {
            request: Some(operation(change)),
        })
        .collect()
}

/// The current revision, every change after `begin`, and the keys.
async fn read_back(server: &Server, begin: i64) -> Result<(i64, BTreeMap<i64, Change>, Keys), String> {
    let channel = connect(server).await?;
    let all = || Bytes::from_static(b"\0");
    let request = RangeRequest {
        key: all(),
        range_end: all(),
        ..RangeRequest::default()
    };
    let response = KvClient::new(channel.clone())
        .range(request)
        .await
        .map_err(|status| status.to_string())?;
    let response = response.into_inner();
    let revision = response.header.map_or(0, |header| header.revision);
    let keys = response
        .kvs
        .iter()
        .map(|kv| (text(&kv.key), (text(&kv.value), kv.mod_revision)))
        .collect();

    let mut history = BTreeMap::<i64, Change>::new();
    if revision <= begin {
        return Ok((revision, history, keys));
    }
    let create = WatchCreateRequest {
        key: all(),
        range_end: all(),
        start_revision: begin + 1,
        ..WatchCreateRequest::default()
    };
    let requests = [WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    }];
    // The requests never end: a server may take their end for the watch's.
    let requests = stream::iter(requests).chain(stream::pending());
    let responses = WatchClient::new(channel)
        .watch(requests)
        .await
        .map_err(|status| status.to_string())?;
    let mut responses = responses.into_inner();
    while history.last_key_value().is_none_or(|(last, _)| *last < revision) {
        let response = tokio::time::timeout(PATIENCE, responses.message()).await;
        let response = response.map_err(|_| format!("no history after {:?}", history.last_key_value()))?;
        let response = response
            .map_err(|status| status.to_string())?
            .ok_or("the watch ends")?;
        if response.canceled {
            return Err(format!("the watch from {} is cancelled: {response:?}", begin + 1));
        }
        for event in response.events {
            let kv = event.kv.ok_or("an event without a key")?;
            let value = (event.r#type == EventType::Put as i32).then(|| text(&kv.value));
            history
                .entry(kv.mod_revision)
                .or_default()
                .insert(text(&kv.key), value);
        }
    }
    Ok((revision, history, keys))
}

/// Bytes a test has written.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::short::{change, keys};

    fn write(pairs: &[(&str, Option<&str>)], outcome: Outcome) -> Operation {
        Operation {
            begin: WRITING,
            end: WRITING,
            call: Call::Write {
                change: change(pairs),
                guard: None,
            },
            outcome,
        }
    }

    /// Two writes acknowledged, two under way, one key of before.
    fn round() -> Round {
        Round {
            revision: 10,
            keys: keys(&[("a", "old", 4)]),
            writes: vec![
                write(&[("a", None), ("b", Some("1"))], Outcome::Written(11)),
                write(&[("c", Some("2"))], Outcome::Written(13)),
                write(&[("d", Some("3"))], Outcome::Unknown),
                write(&[("e", Some("4"))], Outcome::Unknown),
            ],
        }
    }

    /// One of the two was done.
    fn history() -> BTreeMap<i64, Change> {
        [
            (11, change(&[("a", None), ("b", Some("1"))])),
            (12, change(&[("d", Some("3"))])),
            (13, change(&[("c", Some("2"))])),
        ]
        .into()
    }

    fn all_keys() -> Keys {
        keys(&[("b", "1", 11), ("c", "2", 13), ("d", "3", 12)])
    }

    #[test]
    fn what_was_acknowledged_with_some_of_what_was_under_way_is_right() {
        let (next, counts) = round().check(13, &history(), all_keys()).unwrap();
        assert_eq!((next.revision, next.keys, counts.written), (13, all_keys(), 2));
        assert!(next.writes.is_empty());
    }

    #[test]
    fn a_revision_that_goes_back_is_noticed() {
        let (mut lost, mut rest) = (history(), all_keys());
        lost.remove(&13);
        rest.remove("c");
        let error = round().check(12, &lost, rest).unwrap_err();
        assert!(error.contains("acknowledged and lost"), "{error}");
    }

    #[test]
    fn a_hole_in_the_history_is_noticed() {
        let mut hole = history();
        hole.remove(&12);
        let error = round().check(13, &hole, all_keys()).unwrap_err();
        assert!(error.contains("not all in the history"), "{error}");
    }

    #[test]
    fn keys_that_do_not_follow_from_the_history_are_noticed() {
        let mut stale = all_keys();
        stale.insert("a".into(), ("old".into(), 4));
        let error = round().check(13, &history(), stale).unwrap_err();
        assert!(error.contains("seen was"), "{error}");
    }

    #[test]
    fn a_revision_of_the_past_given_out_again_is_noticed() {
        let mut again = round();
        again.writes.push(write(&[("f", Some("5"))], Outcome::Written(9)));
        let error = again.check(13, &history(), all_keys()).unwrap_err();
        assert!(error.contains("acknowledged and lost"), "{error}");
    }
}
