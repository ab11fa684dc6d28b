//! Whether the members hold the same data, and whose is wrong if not.
//!
//! | check | when | compares |
//! |---|---|---|
//! | initial | before clients are served, gate `InitialCorruptCheck` | `HashKV` at this member's revision |
//! | periodic | `--corrupt-check-time`, on the leader | `HashKV` at the leader's revision |
//! | compactions | `--compact-hash-check-time`, gate `CompactHashCheck`, on the leader | the hashes taken at compactions |
//! | rolling | always, every two seconds, on the leader | sums of what entries did: [`machine::trail`] |
//!
//! The first three are etcd's and are understood by Go members; the last one is ours, under a path that
//! Go members do not have, and costs next to nothing. A mismatch raises alarm CORRUPT for the members that a
//! quorum disagrees with, the leader not excepted; where there is no quorum, for member 0, which stands for
//! the whole cluster. Members are named by the ids of the membership, never by what an answer says.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use machine::trail::{Blame, Mark, Window, blame};
use mvcc::{HashKv, RangeError};
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, InternalRaftRequest, Member};
use serde::{Deserialize, Serialize};
use types::{ErrorKind, Index, MemberId};

use crate::ask::Ask;
use crate::config::Gate;
use crate::http as site;
use crate::node::Node;

/// The rolling hash on the peer port. Members without it, as Go's are, answer 404.
pub const STATE_HASH_PATH: &str = "/keelson/statehash";
/// `HashKV` on the peer port.
pub const HASH_KV_PATH: &str = "/members/hashkv";
/// How often the leader compares what entries did.
const ROLLING_INTERVAL: Duration = Duration::from_secs(2);
/// Rounds without asking a member that does not have the path: it may be replaced by one of ours.
const SILENT_ROUNDS: u32 = 30;
/// Rounds that a difference without a culprit waits for members that could decide and did not answer, or are
/// behind.
const UNDECIDED_ROUNDS_MAX: u32 = 3;
/// Time between two of them, where a round would otherwise come much later.
const UNDECIDED_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Default, Serialize, Deserialize)]
struct HashQuestion {
    #[serde(default)]
    revision: i64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct HashAnswer {
    header: HashHeader,
    #[serde(skip_serializing_if = "is_zero")]
    hash: u32,
    #[serde(skip_serializing_if = "is_zero")]
    compact_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    hash_revision: i64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct HashHeader {
    #[serde(skip_serializing_if = "is_zero")]
    revision: i64,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Answers `GET /members/hashkv`. `cluster`: the cluster that the request says it is for.
pub async fn hash_kv(node: &Node, cluster: Option<&str>, body: &[u8]) -> Response<Bytes> {
    if cluster.is_some_and(|cluster| cluster != node.cluster_id.to_string()) {
        return site::text(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch\n");
    }
    let Ok(question) = serde_json::from_slice::<HashQuestion>(body) else {
        return site::text(StatusCode::BAD_REQUEST, "error unmarshalling request\n");
    };
    match own_hash(node, question.revision).await {
        Ok(hash) => {
            let answer = HashAnswer {
                header: HashHeader {
                    revision: node.mvcc.current(),
                },
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.revision,
            };
            let body = serde_json::to_vec(&answer).expect("numbers are JSON");
            site::with_cluster_id(
                site::typed(StatusCode::OK, "application/json", body),
                node.cluster_id,
            )
        }
        Err(error) => site::text(StatusCode::BAD_REQUEST, format!("{}\n", hash_error(&error))),
    }
}

/// The error in the words of the peer port, which other members look for.
fn hash_error(error: &RangeError) -> String {
    match error.kind() {
        Some(ErrorKind::Compacted) => "mvcc: required revision has been compacted".into(),
        Some(ErrorKind::FutureRev) => "mvcc: required revision is a future revision".into(),
        _ => error.to_string(),
    }
}

/// This member's hash of all keys at `revision`, or at its own if that is 0.
pub async fn own_hash(node: &Node, revision: i64) -> Result<HashKv, RangeError> {
    let began = Instant::now();
    let mvcc = node.mvcc.clone();
    let hash = tokio::task::spawn_blocking(move || mvcc.hash_kv(revision)).await;
    node.metrics
        .mvcc_hash_rev_duration_seconds
        .observe_duration(began.elapsed());
    hash.unwrap_or_else(|error| Err(mvcc::ReadError::Damaged(error.to_string()).into()))
}

/// What the other members say, by their ids in the membership.
async fn peer_hashes(node: &Node, ask: &Ask, revision: i64) -> Vec<(MemberId, Option<HashAnswer>)> {
    let question = serde_json::to_vec(&HashQuestion { revision }).expect("a number is JSON");
    let question = Bytes::from(question);
    let members = others(node);
    let asked = members.iter().map(async |member| {
        let answer = ask.member(&member.peer_ur_ls, HASH_KV_PATH, question.clone()).await;
        let answer = answer.and_then(|(status, body)| match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|error| error.to_string()),
            _ => Err(String::from_utf8_lossy(&body).trim().to_owned()),
        });
        let id = MemberId(member.id);
        let answer = answer.inspect_err(|error| {
            tracing::warn!("remote-peer-id" = %id, "requested-revision" = revision, error, "failed hash kv request");
        });
        (id, answer.ok())
    });
    join_all(asked).await
}

fn others(node: &Node) -> Vec<Member> {
    let mut members = node.board.replicated().members.clone();
    members.retain(|member| member.id != node.id.0);
    members
}

/// The hashes that can be compared with ours: those over the same history.
fn comparable(own: (MemberId, HashKv), peers: &[(MemberId, Option<HashAnswer>)]) -> Vec<(MemberId, u32)> {
    let same = peers.iter().filter_map(|(id, answer)| {
        let answer = answer.as_ref()?;
        (answer.compact_revision == own.1.compact_revision).then_some((*id, answer.hash))
    });
    [(own.0, own.1.hash)].into_iter().chain(same).collect()
}

/// Before a restarted member serves clients: refuses to go on with data that others do not have, unless a
/// quorum has it.
pub async fn check_initially(node: &Node, ask: &Ask) -> Result<(), String> {
    tracing::info!("local-member-id" = %node.id, "starting initial corruption check");
    let own = own_hash(node, 0).await;
    let own = own.map_err(|error| format!("{} failed to fetch hash ({error})", node.id))?;
    let peers = peer_hashes(node, ask, own.revision).await;
    let inconsistent = match blame(&comparable((node.id, own), &peers), peers.len() + 1) {
        Blame::Nobody => false,
        Blame::Somebody => true,
        Blame::These(wrong) => {
            tracing::warn!(members = %list(&wrong), revision = own.revision, "found different hash values");
            wrong.contains(&node.id)
        }
    };
    if inconsistent {
        return Err(format!("{} found data inconsistency with peers", node.id));
    }
    tracing::info!("local-member-id" = %node.id, "initial corruption checking passed; no corruption");
    Ok(())
}

/// As the leader, compares the members' data now and then, if that is wanted.
pub async fn check_periodically(node: Node, ask: Ask) {
    let Some(interval) = node
        .config
        .corrupt_check_interval
        .filter(|interval| !interval.is_zero())
    else {
        return;
    };
    loop {
        tokio::time::sleep(interval).await;
        let mut undecided = 0;
        while node.board.raft().leads {
            match compare_now(&node, &ask, undecided).await {
                Ok(true) => break,
                Ok(false) => {
                    undecided += 1;
                    tokio::time::sleep(UNDECIDED_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(error, "failed to check hash KV");
                    break;
                }
            }
        }
    }
}

/// Whether a difference has no culprit, and members of whom nothing is known may still name one.
fn is_open(verdict: &Blame, known: usize, members: usize, undecided: u32) -> bool {
    *verdict == Blame::Somebody && known < members && undecided < UNDECIDED_ROUNDS_MAX
}

/// Compares with what the other members have. Whether it is decided; if not, after so many `undecided` rounds, another
/// one is worth it.
async fn compare_now(node: &Node, ask: &Ask, undecided: u32) -> Result<bool, String> {
    let own = own_hash(node, 0).await.map_err(|error| error.to_string())?;
    let peers = peer_hashes(node, ask, own.revision).await;
    // From here on this member has applied whatever a peer had when it answered.
    node.read_barrier().await.map_err(|error| error.to_string())?;
    let (revision, compacted) = (node.mvcc.current(), node.mvcc.compacted());
    let ahead = peers.iter().filter(|(_, answer)| {
        let beyond =
            |answer: &HashAnswer| answer.header.revision > revision || answer.compact_revision > compacted;
        answer.as_ref().is_some_and(beyond)
    });
    let mut places = vec![(node.id, false)];
    places.extend(
        peers
            .iter()
            .filter(|(_, answer)| answer.is_some())
            .map(|(id, _)| (*id, false)),
    );
    for (id, _) in ahead {
        places
            .iter_mut()
            .filter(|(member, _)| member == id)
            .for_each(|(_, ahead)| *ahead = true);
    }
    let hashes = comparable((node.id, own), &peers);
    let members = peers.len() + 1;
    let (ahead, differ) = (blame(&places, members), blame(&hashes, members));
    if is_open(&ahead, places.len(), members, undecided) || is_open(&differ, hashes.len(), members, undecided)
    {
        return Ok(false);
    }
    accuse(node, "a member is ahead of its leader", ahead).await;
    accuse(node, "found hash mismatch", differ).await;
    tracing::info!(
        "number-of-peers-checked" = hashes.len() - 1,
        "finished peer corruption check"
    );
    Ok(true)
}

/// As the leader, compares the hashes that the members took at compactions, if the gate is open.
pub async fn check_compactions(node: Node, ask: Ask) {
    if !node.config.gates.enabled(Gate::CompactHashCheck) {
        return;
    }
    let (mut checked, mut undecided) = (0, 0);
    loop {
        tokio::time::sleep(node.config.compact_hash_check_interval).await;
        if !node.board.raft().leads {
            continue;
        }
        let hashes = node.mvcc.compaction_hashes();
        let mut looked_at = 0;
        for own in hashes.into_iter().take_while(|hash| hash.revision > checked) {
            looked_at += 1;
            let peers = peer_hashes(&node, &ask, own.revision).await;
            let hashes = comparable((node.id, own), &peers);
            let verdict = blame(&hashes, peers.len() + 1);
            if is_open(&verdict, hashes.len(), peers.len() + 1, undecided) {
                undecided += 1;
                break;
            }
            undecided = 0;
            let differs = verdict != Blame::Nobody;
            accuse(&node, "Detected compaction hash mismatch", verdict).await;
            if differs || hashes.len() == peers.len() + 1 {
                checked = own.revision;
                break;
            }
        }
        tracing::info!(
            "number-of-hashes-checked" = looked_at,
            "finished compaction hash check"
        );
    }
}

/// Raises alarm CORRUPT as judged, once for each member.
async fn accuse(node: &Node, what: &str, verdict: Blame) {
    let wrong = match verdict {
        Blame::Nobody => return,
        Blame::These(wrong) => wrong,
        Blame::Somebody => vec![MemberId(0)],
    };
    for member in wrong {
        let alarm = AlarmType::Corrupt.into();
        let raised = AlarmMember {
            member_id: member.0,
            alarm,
        };
        if node.alarms().contains(&raised) {
            continue;
        }
        tracing::error!("corrupt-member-id" = %member, "{what}; raising alarm CORRUPT");
        let request = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: member.0,
            alarm,
        };
        let request = InternalRaftRequest {
            alarm: Some(request),
            ..Default::default()
        };
        if let Err(error) = node.propose(request).await {
            tracing::warn!(error = %error, "failed to raise alarm CORRUPT");
        }
    }
}

fn list(members: &[MemberId]) -> String {
    members
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Answers `GET /keelson/statehash`; the body is the index to begin at, in digits.
pub fn state_hash(node: &Node, body: &[u8]) -> Response<Bytes> {
    let Some(from) = std::str::from_utf8(body).ok().and_then(|text| text.parse().ok()) else {
        return site::text(StatusCode::BAD_REQUEST, "error unmarshalling request\n");
    };
    let marks = node.trail.lock().marks(from);
    let body = serde_json::to_vec(&marks).expect("numbers are JSON");
    site::with_cluster_id(
        site::typed(StatusCode::OK, "application/json", body),
        node.cluster_id,
    )
}

/// What the leader remembers of a member.
#[derive(Default)]
struct Peer {
    /// Compared up to here.
    agreed: Index,
    /// Rounds in which it is not asked.
    silent: u32,
}

/// As the leader, compares what entries did on the members.
pub async fn check_always(node: Node, ask: Ask) {
    let mut peers: HashMap<MemberId, Peer> = HashMap::new();
    let mut undecided = 0;
    loop {
        tokio::time::sleep(ROLLING_INTERVAL).await;
        if !node.board.raft().leads {
            peers.clear();
            continue;
        }
        let marks = peer_marks(&node, &ask, &mut peers).await;
        let Some(window) = first_difference(&node, &marks) else {
            undecided = 0;
            advance(&node, &mut peers, &marks);
            continue;
        };
        let members = node.board.replicated().members.len();
        let sums = sums(&node, &ask, window).await;
        let verdict = match blame(&sums, members) {
            // Who differs can not tell any more.
            Blame::Nobody => Blame::Somebody,
            verdict => verdict,
        };
        // Those who have not come as far may still decide it.
        if is_open(&verdict, sums.len(), members, undecided) {
            undecided += 1;
            continue;
        }
        tracing::error!(
            after = window.after,
            upto = window.upto,
            "members did different things with these entries"
        );
        accuse(&node, "the state hashes of members differ", verdict).await;
        undecided = 0;
        advance(&node, &mut peers, &marks);
    }
}

type Marks = Vec<(MemberId, Vec<Mark>)>;

async fn peer_marks(node: &Node, ask: &Ask, peers: &mut HashMap<MemberId, Peer>) -> Marks {
    let members = others(node);
    peers.retain(|id, _| members.iter().any(|member| member.id == id.0));
    let mut due = Vec::new();
    for member in &members {
        let peer = peers.entry(MemberId(member.id)).or_default();
        match peer.silent {
            0 => due.push((member, peer.agreed)),
            _ => peer.silent -= 1,
        }
    }
    let asked = due.into_iter().map(async |(member, from)| {
        let marks = ask_marks(ask, member, from).await;
        (MemberId(member.id), marks)
    });
    let mut marks = Vec::new();
    for (id, answer) in join_all(asked).await {
        match answer {
            Told::Marks(theirs) => marks.push((id, theirs)),
            Told::NoSuchPath => peers.entry(id).or_default().silent = SILENT_ROUNDS,
            Told::Nothing => {}
        }
    }
    marks
}

/// What a member says of its sums.
enum Told {
    Marks(Vec<Mark>),
    NoSuchPath,
    Nothing,
}

async fn ask_marks(ask: &Ask, member: &Member, from: Index) -> Told {
    let body = Bytes::from(from.to_string());
    match ask.member(&member.peer_ur_ls, STATE_HASH_PATH, body).await {
        Ok((StatusCode::OK, body)) => serde_json::from_slice(&body).map_or(Told::Nothing, Told::Marks),
        Ok((StatusCode::NOT_FOUND, _)) => Told::NoSuchPath,
        _ => Told::Nothing,
    }
}

fn first_difference(node: &Node, marks: &Marks) -> Option<Window> {
    let trail = node.trail.lock();
    let windows = marks.iter().filter_map(|(_, theirs)| trail.compare(theirs)?.1);
    windows.min_by_key(|window| window.upto)
}

/// The members' sums over a window, of those that know both its ends. Each is asked for them: what it told of its
/// own need not have been the same places as another's.
async fn sums(node: &Node, ask: &Ask, window: Window) -> Vec<(MemberId, u64)> {
    let members = others(node);
    let asked = members.iter().map(async |member| {
        let at = async |index| match ask_marks(ask, member, index).await {
            Told::Marks(marks) => marks.into_iter().find(|mark| mark.index == index),
            Told::NoSuchPath | Told::Nothing => None,
        };
        let sum = between(at(window.after).await, at(window.upto).await)?;
        Some((MemberId(member.id), sum))
    });
    let theirs = join_all(asked).await;
    let own = {
        let trail = node.trail.lock();
        between(trail.mark(window.after), trail.mark(window.upto))
    };
    let own = own.map(|sum| (node.id, sum));
    own.into_iter().chain(theirs.into_iter().flatten()).collect()
}

fn between(after: Option<Mark>, upto: Option<Mark>) -> Option<u64> {
    Some(upto?.sum.wrapping_sub(after?.sum))
}

fn advance(node: &Node, peers: &mut HashMap<MemberId, Peer>, marks: &Marks) {
    let trail = node.trail.lock();
    for (id, theirs) in marks {
        if let Some((last, _)) = trail.compare(theirs) {
            peers.entry(*id).or_default().agreed = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_told_as_go_tells_it() {
        let answer = HashAnswer {
            header: HashHeader { revision: 9 },
            hash: 123,
            compact_revision: -1,
            hash_revision: 9,
        };
        let text = r#"{"header":{"revision":9},"hash":123,"compact_revision":-1,"hash_revision":9}"#;
        assert_eq!(serde_json::to_string(&answer).unwrap(), text);
        let older: HashAnswer =
            serde_json::from_str(r#"{"header":{"revision":9},"compact_revision":-1}"#).unwrap();
        assert_eq!((older.hash, older.hash_revision), (0, 0));
        assert_eq!(
            serde_json::to_string(&HashQuestion { revision: 7 }).unwrap(),
            r#"{"revision":7}"#
        );
    }

    #[test]
    fn a_difference_without_a_culprit_waits_for_the_silent_but_not_forever() {
        assert!(is_open(&Blame::Somebody, 2, 3, 0));
        assert!(!is_open(&Blame::Somebody, 2, 3, UNDECIDED_ROUNDS_MAX));
        assert!(!is_open(&Blame::Somebody, 2, 2, 0), "nobody else can decide");
        assert!(!is_open(&Blame::These(vec![MemberId(3)]), 2, 3, 0));
        assert!(!is_open(&Blame::Nobody, 1, 3, 0));
    }

    #[test]
    fn only_hashes_over_the_same_history_are_compared() {
        let own = HashKv {
            hash: 1,
            revision: 9,
            compact_revision: 5,
        };
        let answer = |hash, compact_revision| {
            Some(HashAnswer {
                hash,
                compact_revision,
                ..Default::default()
            })
        };
        let peers = [
            (MemberId(2), answer(2, 5)),
            (MemberId(3), answer(3, 4)),
            (MemberId(4), None),
        ];
        assert_eq!(
            comparable((MemberId(1), own), &peers),
            [(MemberId(1), 1), (MemberId(2), 2)]
        );
    }
}
