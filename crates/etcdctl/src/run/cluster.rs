//! Members and endpoints: who they are, how they do, and what they are told to do.

use std::time::Instant;

use client::Client;
use futures_util::future::join_all;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::*;
use proto::keelson::v1::progress_request::Job;

use super::context::{self, Context, none, only, text};
use super::keys::is_serializable;
use super::{ids, progress};
use crate::arguments::{Alarm, Arguments, Defrag, Downgrade, Endpoint, Member};
use crate::failure::{Failure, Status};
use crate::output::{Answer, Health, took};

pub async fn member(context: &Context, member: Member) -> Result<(), Failure> {
    match member {
        Member::Add {
            words,
            peer_urls,
            learner,
        } => {
            let name = new_name(&words)?;
            let urls = urls(&peer_urls)?;
            urls.iter().try_for_each(|url| check_url(url))?;
            let request = MemberAddRequest {
                peer_ur_ls: urls,
                is_learner: learner,
            };
            let answer = context.connect().await?.member_add(request).await?;
            context.show(&Answer::MemberAdd(name, answer))
        }
        Member::Remove(arguments) => {
            let word = only(&arguments.words, "member ID is not provided")?;
            let client = context.connect().await?;
            let id = ids::member_argument(&client, word).await?;
            let answer = client.member_remove(MemberRemoveRequest { id }).await?;
            context.show(&Answer::MemberRemove(id, answer))
        }
        Member::Update { words, peer_urls } => {
            let word = only(&words, "member ID is not provided")?;
            let peer_ur_ls = urls(&peer_urls)?;
            let client = context.connect().await?;
            let id = ids::member_argument(&client, word).await?;
            let answer = client
                .member_update(MemberUpdateRequest { id, peer_ur_ls })
                .await?;
            context.show(&Answer::MemberUpdate(id, answer))
        }
        Member::List { consistency } => {
            let linearizable = !is_serializable(&consistency)?;
            let client = match linearizable {
                true => context.connect().await?,
                false => context.connect_to_members().await?,
            };
            let answer = client.member_list(MemberListRequest { linearizable }).await?;
            context.show(&Answer::MemberList(answer))
        }
        Member::Promote(arguments) => {
            let word = only(&arguments.words, "member ID is not provided")?;
            let client = context.connect().await?;
            let id = ids::member_argument(&client, word).await?;
            let answer = client.member_promote(MemberPromoteRequest { id }).await?;
            context.show(&Answer::MemberPromote(id, answer))
        }
    }
}

/// What a new member is to be called. URLs among the words have lost their flag.
fn new_name(words: &[std::ffi::OsString]) -> Result<String, Failure> {
    match words {
        [] => Err(Failure::arguments("member name not provided")),
        [name] => text(name),
        words => {
            let urls = words.iter().map(|word| word.to_string_lossy());
            let urls = urls.filter(|word| word.to_lowercase().starts_with("http"));
            let hints = urls.map(|url| format!(", did you mean --peer-urls={url}"));
            Err(Failure::arguments(format!(
                "too many arguments{}",
                hints.collect::<String>()
            )))
        }
    }
}

fn urls(flag: &str) -> Result<Vec<String>, Failure> {
    match flag {
        "" => Err(Failure::arguments("member peer urls not provided")),
        urls => Ok(urls.split(',').map(str::to_owned).collect()),
    }
}

/// Whether others may be told this URL.
fn check_url(url: &str) -> Result<(), Failure> {
    let why = match url.split_once("://") {
        Some(("http" | "https", rest)) if rest.contains('/') => "URL must not contain a path",
        Some(("http" | "https", rest)) if !rest.contains(':') => {
            "URL address does not have the form \"host:port\""
        }
        Some(("http" | "https" | "unix" | "unixs", _)) => return Ok(()),
        _ => "URL scheme must be http, https, unix, or unixs",
    };
    Err(Failure::new(Status::Error, format!("{why}: {url}")))
}

pub async fn endpoint(context: &Context, endpoint: Endpoint) -> Result<(), Failure> {
    match endpoint {
        Endpoint::Health(cluster) => {
            let endpoints = endpoints(context, cluster.cluster).await?;
            let all = join_all(endpoints.into_iter().map(|endpoint| health(context, endpoint))).await;
            show_health(context, all)
        }
        Endpoint::Status(cluster) => {
            let told = |endpoint: &str| format!("Failed to get the status of endpoint {endpoint}");
            let ask = async |client: Client| client.status(StatusRequest {}).await;
            let (statuses, failed) = from_each(context, cluster.cluster, told, ask).await?;
            context.show(&Answer::Statuses(statuses))?;
            ended(failed.map(|_| Failure::silent(1)))
        }
        Endpoint::Hashkv { cluster, rev } => {
            let told = |endpoint: &str| format!("Failed to get the hash of endpoint {endpoint}");
            let ask = async |client: Client| client.hash_kv(HashKvRequest { revision: rev }).await;
            let (hashes, failed) = from_each(context, cluster.cluster, told, ask).await?;
            context.show(&Answer::Hashes(hashes))?;
            ended(failed)
        }
    }
}

/// Asks one endpoint after the other. That one fails is told at once, and no reason to leave out the others; the last
/// failure is an answer, too.
async fn from_each<T>(
    context: &Context,
    of_cluster: bool,
    told: impl Fn(&str) -> String,
    ask: impl AsyncFn(Client) -> Result<T, client::Error>,
) -> Result<(Vec<(String, T)>, Option<Failure>), Failure> {
    let (mut answers, mut failed) = (Vec::new(), None);
    for endpoint in endpoints(context, of_cluster).await? {
        let answer = match context.connect_to(vec![endpoint.clone()], true).await {
            Ok(client) => ask(client).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(answer) => answers.push((endpoint, answer)),
            Err(failure) => {
                eprintln!("{} ({})", told(&endpoint), failure.text);
                failed = Some(failure);
            }
        }
    }
    Ok((answers, failed))
}

fn ended(failed: Option<Failure>) -> Result<(), Failure> {
    failed.map_or(Ok(()), Err)
}

/// Those of the flag, or of all members.
async fn endpoints(context: &Context, of_cluster: bool) -> Result<Vec<String>, Failure> {
    if !of_cluster {
        return context.endpoints().await;
    }
    // One member is enough to name the others, and all there is while there is no leader.
    let client = context.connect_to_members().await?;
    let request = MemberListRequest { linearizable: false };
    let listed = client.member_list(request).await.map_err(|error| Failure {
        text: format!(
            "failed to fetch endpoints from etcd cluster member list: {}",
            Failure::from(error.clone()).text
        ),
        ..error.into()
    })?;
    Ok(listed
        .members
        .into_iter()
        .flat_map(|member| member.client_ur_ls)
        .collect())
}

/// A read through a quorum, and then alarms. That one may not read is an answer, too.
async fn health(context: &Context, endpoint: String) -> Health {
    const DENIED: &str = "etcdserver: permission denied";
    let client = match context.connect_to(vec![endpoint.clone()], true).await {
        Ok(client) => client.requiring_leader(),
        Err(failure) => {
            return Health {
                endpoint,
                error: Some(failure.text),
                took: Default::default(),
            };
        }
    };
    let began = Instant::now();
    let read = RangeRequest {
        key: "health".into(),
        ..Default::default()
    };
    let read = client.range(read).await;
    let took = began.elapsed();
    let error = match read {
        Err(error) if error.server_message() != Some(DENIED) => Some(Failure::from(error).text),
        _ => match client.alarm(AlarmRequest::default()).await {
            Ok(alarms) if alarms.alarms.is_empty() => None,
            Ok(alarms) => {
                let names = alarms.alarms.iter().map(|alarm| match alarm.alarm() {
                    AlarmType::Nospace => "NOSPACE ",
                    AlarmType::Corrupt => "CORRUPT ",
                    AlarmType::None => "UNKNOWN ",
                });
                Some(format!("Active Alarm(s): {}", names.collect::<String>()))
            }
            Err(_) => Some("Unable to fetch the alarm list".into()),
        },
    };
    Health {
        endpoint,
        error,
        took,
    }
}

fn show_health(context: &Context, all: Vec<Health>) -> Result<(), Failure> {
    let ill: Vec<_> = all
        .iter()
        .filter(|health| health.error.is_some())
        .cloned()
        .collect();
    context.show(&Answer::Health(all))?;
    for health in ill.iter().filter(|_| context.is_simple()) {
        let error = health.error.as_deref().unwrap_or_default();
        eprintln!(
            "{} is unhealthy: failed to commit proposal: {error}",
            health.endpoint
        );
    }
    match ill.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Status::Error, "unhealthy cluster")),
    }
}

pub async fn move_leader(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let word = only(&arguments.words, "move-leader command needs 1 argument")?;
    let client = context.connect_to_members().await?;
    let target = ids::member_argument(&client, word).await?;
    let endpoints = client.endpoints();
    for endpoint in &endpoints {
        let client = client.at(endpoint)?;
        let status = client.status(StatusRequest {}).await?;
        if status
            .header
            .is_some_and(|header| header.member_id == status.leader)
        {
            let request = MoveLeaderRequest { target_id: target };
            let answer = client.move_leader(request).await?;
            return context.show(&Answer::MoveLeader(status.leader, target, answer));
        }
    }
    Err(
        Failure::arguments(format!("no leader endpoint given at [{}]", endpoints.join(" "))).cure(
            "Only the leader can be asked: `etcdctl endpoint status --cluster` shows which endpoint it is.",
        ),
    )
}

pub async fn alarm(context: &Context, alarm: Alarm) -> Result<(), Failure> {
    match alarm {
        Alarm::List(arguments) => {
            none(&arguments.words, "alarm list command accepts no arguments")?;
            let alarms = context.connect().await?.alarm(AlarmRequest::default()).await?;
            context.show(&Answer::Alarms(alarms))
        }
        Alarm::Disarm(arguments) => {
            none(&arguments.words, "alarm disarm command accepts no arguments")?;
            let client = context.connect().await?;
            let mut cleared = AlarmResponse::default();
            for alarm in client.alarm(AlarmRequest::default()).await?.alarms {
                let request = AlarmRequest {
                    action: AlarmAction::Deactivate.into(),
                    member_id: alarm.member_id,
                    alarm: alarm.alarm,
                };
                cleared.alarms.extend(client.alarm(request).await?.alarms);
            }
            context.show(&Answer::Alarms(cleared))
        }
    }
}

pub async fn defrag(context: &Context, defrag: &Defrag) -> Result<(), Failure> {
    let mut failed = false;
    for endpoint in endpoints(context, defrag.cluster.cluster).await? {
        let began = Instant::now();
        let done = defragment(context, &endpoint).await;
        let took = took(began.elapsed());
        match done {
            Ok(()) => context::print(
                format!("Finished defragmenting etcd member[{endpoint}]. took {took}\n").as_bytes(),
            )?,
            Err(failure) => {
                let why = failure.text;
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({why})");
                failed = true;
            }
        }
    }
    ended(failed.then(|| Failure::silent(1)))
}

async fn defragment(context: &Context, endpoint: &str) -> Result<(), Failure> {
    let limit = context.long_limit();
    let client = context
        .connect_to(vec![endpoint.to_owned()], limit.is_some())
        .await?;
    let name = format!("defragmenting {endpoint}");
    let patience = limit.is_none().then_some(context.global.command_timeout);
    let work = client.defragment(DefragmentRequest {});
    progress::while_waiting(&name, &client, Job::Defragmentation, patience, work).await?;
    Ok(())
}

pub async fn downgrade(context: &Context, downgrade: Downgrade) -> Result<(), Failure> {
    let (name, action, words) = match downgrade {
        Downgrade::Validate(arguments) => ("validate", DowngradeAction::Validate, arguments.words),
        Downgrade::Enable(arguments) => ("enable", DowngradeAction::Enable, arguments.words),
        Downgrade::Cancel => ("cancel", DowngradeAction::Cancel, Vec::new()),
    };
    let version = match &words[..] {
        [] if action == DowngradeAction::Cancel => String::new(),
        [] => return Err(Failure::arguments("TARGET_VERSION not provided")),
        [version] => text(version)?,
        _ => return Err(Failure::arguments("too many arguments")),
    };
    let request = DowngradeRequest {
        action: action.into(),
        version,
    };
    let answer = context.connect().await?.downgrade(request).await?;
    context.show(&Answer::Downgrade(name, answer))
}
