//! How a member without data begins: it founds a cluster, or joins one that runs.
//!
//! * **New**: `--initial-cluster` lists the founders. Each computes the ids of all from it and puts the
//!   same first entries into its log, so they agree before they have met.
//! * **Existing**: somebody has announced this member by `MemberAdd`. Its id and the cluster's were made
//!   then; they are asked of the members that `--initial-cluster` names, and the list there must be the
//!   cluster's. The log begins empty, and the leader fills it.
//!
//! Instead of `--initial-cluster`, the DNS or a discovery service may tell who the members are
//! ([`discovery`]). The DNS does so before anything else. The service is asked by founders only, and last:
//! who registers there is one who can begin.
//!
//! A member that has data takes its ids from its log, whatever the flags say. With
//! `--force-new-cluster` it goes on alone: [`go_on_alone`].

use std::time::Duration;

use bytes::Bytes;
use consensus::{ConfChangeError, Restored, apply_conf_change, change_of};
use discovery::srv;
use http::{Method, Request, Response, StatusCode};
use machine::membership::{cluster_id, member_id};
use machine::{Member, MemberChange};
use names::Dns;
use prost::Message;
use proto::etcdserverpb;
use proto::raftpb::{Entry, EntryType};
use types::{ClusterId, MemberId};

use crate::ask::Ask;
use crate::config::{
    BootstrapError, ClusterState, Config, Discovery, InitialCluster, Scheme, Url, has_duplicate_url,
    parse_initial_cluster, same_addresses, show_cluster,
};
use crate::http::CLUSTER_ID;
use crate::versions;

/// How long one member may take to list the members.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// The same, when the question is whether a new cluster was founded before: usually nobody is there yet.
const FOUNDED_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of such a list: some thousand members.
const LIST_BYTES_MAX: usize = 1 << 20;

/// Who a member is, and who else belongs to its cluster when it begins.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// This member.
    pub id: MemberId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// All members, this one included.
    pub members: Vec<Member>,
    /// Whether they found the cluster now.
    pub founds: bool,
}

impl Beginning {
    /// The other members, as answers list them.
    fn others(&self) -> Vec<etcdserverpb::Member> {
        let others = self.members.iter().filter(|member| member.id != self.id);
        others.map(etcdserverpb::Member::from).collect()
    }

    /// Forgets the names, which each founder numbers in its own way when the DNS tells of them, so that all begin
    /// with the same entries. Members tell their names once they run.
    fn without_names(mut self) -> Self {
        self.members.iter_mut().for_each(|member| member.name.clear());
        self
    }
}

/// Finds out how this member begins.
///
/// # Errors
/// The flags contradict each other or the running cluster, or nobody in it answers.
pub async fn begin(config: &Config, client: &peer::Client) -> Result<Beginning, BootstrapError> {
    match (&config.discovery, config.initial_cluster_state) {
        (None, ClusterState::New) => found_once(config, client).await,
        (None, ClusterState::Existing) => join(config, client).await,
        (Some(Discovery::Srv { domain, service_name }), state) => {
            let config = &with_members(config, look_up(config, domain, service_name).await?);
            match state {
                ClusterState::New => Ok(found_once(config, client).await?.without_names()),
                ClusterState::Existing => join(config, client).await,
            }
        }
        (Some(Discovery::Register(settings)), ClusterState::New) => {
            let alone = found_once(config, client).await?;
            let own = show_cluster(&config.initial_cluster);
            let members = discovery::service::join(settings, alone.id, &own).await?;
            let config = with_members(config, registered(&members)?);
            config.check_bootstrap()?;
            Ok(found(&config))
        }
        (Some(Discovery::Register(_)), ClusterState::Existing) => Err(BootstrapError::RegisterOfExisting),
    }
}

/// Asks the DNS for the members.
async fn look_up(
    config: &Config,
    domain: &str,
    service_name: &str,
) -> Result<InitialCluster, BootstrapError> {
    let place = |url: &Url| {
        let scheme = match url.scheme() {
            Scheme::Http => srv::Scheme::Http,
            Scheme::Https => srv::Scheme::Https,
            // A socket in the file system has no name in the DNS.
            Scheme::Unix | Scheme::Unixs => return None,
        };
        let host = url.host().to_owned();
        url.port().map(|port| srv::Place { scheme, host, port })
    };
    let query = srv::Query {
        domain: domain.to_owned(),
        service_name: service_name.to_owned(),
        name: config.name.clone(),
        advertised: config.advertise_peer.iter().filter_map(place).collect(),
    };
    let cluster = srv::initial_cluster(&Dns::system(), &query).await?;
    parse_initial_cluster(&cluster).map_err(BootstrapError::DiscoveredUrl)
}

/// The configuration that names the members itself.
fn with_members(config: &Config, initial_cluster: InitialCluster) -> Config {
    Config {
        initial_cluster,
        ..config.clone()
    }
}

/// The cluster of what registered members say of themselves. They may say anything.
fn registered(members: &[String]) -> Result<InitialCluster, BootstrapError> {
    let mut cluster = InitialCluster::new();
    for member in members {
        for (name, urls) in parse_initial_cluster(member).map_err(BootstrapError::DiscoveredUrl)? {
            if cluster.insert(name.clone(), urls).is_some() {
                return Err(BootstrapError::DiscoveredNameTwice {
                    name,
                    cluster: members.join(","),
                });
            }
        }
    }
    match has_duplicate_url(&cluster) {
        true => Err(BootstrapError::DiscoveredUrlTwice(show_cluster(&cluster))),
        false => Ok(cluster),
    }
}

/// The beginning of a founder of a cluster that is not there yet.
async fn found_once(config: &Config, client: &peer::Client) -> Result<Beginning, BootstrapError> {
    config.check_bootstrap()?;
    let beginning = found(config);
    refuse_second_founding(config, client, beginning.id).await?;
    Ok(beginning)
}

/// Refuses to found a cluster that runs and knows this member: it has lost its data, and with it the
/// votes it gave. It may come back as a new member only.
async fn refuse_second_founding(
    config: &Config,
    client: &peer::Client,
    id: MemberId,
) -> Result<(), BootstrapError> {
    for url in others(config) {
        let Ok((_, members)) = ask(client, url, FOUNDED_TIMEOUT).await else {
            continue;
        };
        if members
            .iter()
            .any(|member| member.id == id && !member.client_urls.is_empty())
        {
            return Err(BootstrapError::AlreadyBootstrapped(id));
        }
    }
    Ok(())
}

/// The peer URLs of everybody else in the initial cluster.
fn others(config: &Config) -> impl Iterator<Item = &Url> {
    let others = config
        .initial_cluster
        .iter()
        .filter(|(name, _)| **name != config.name);
    others.flat_map(|(_, urls)| urls)
}

/// The beginning of a cluster's founder.
pub fn found(config: &Config) -> Beginning {
    found_as(
        &config.name,
        &config.initial_cluster,
        &config.initial_cluster_token,
    )
}

/// The beginning of the member `name` of a cluster that is founded under that token.
pub fn found_as(name: &str, cluster: &InitialCluster, token: &str) -> Beginning {
    let members: Vec<Member> = cluster
        .iter()
        .map(|(name, urls)| {
            let peer_urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            Member {
                id: member_id(&peer_urls, token, None),
                peer_urls,
                is_learner: false,
                name: name.clone(),
                client_urls: Vec::new(),
            }
        })
        .collect();
    let own = members.iter().find(|member| member.name == name);
    Beginning {
        id: own.map(|member| member.id).unwrap_or_default(),
        cluster_id: cluster_id(members.iter().map(|member| member.id)),
        members,
        founds: true,
    }
}

/// The beginning of a member that was announced to a running cluster.
async fn join(config: &Config, client: &peer::Client) -> Result<Beginning, BootstrapError> {
    config.check_bootstrap()?;
    for url in others(config) {
        match ask(client, url, ASK_TIMEOUT).await {
            Ok((cluster_id, members)) => {
                let beginning = match_members(config, cluster_id, members)?;
                let ask = Ask::new(cluster_id, client.clone());
                return match versions::may_join(&ask, &beginning.others()).await {
                    true => Ok(beginning),
                    false => Err(BootstrapError::Incompatible),
                };
            }
            Err(reason) => tracing::warn!(
                "remote-peer-url" = url.as_str(),
                error = reason,
                "failed to list the members of the cluster to join"
            ),
        }
    }
    let urls: Vec<&str> = others(config).map(Url::as_str).collect();
    Err(BootstrapError::NobodyAnswers(urls.join(",")))
}

/// Asks the member at `url` for the cluster's id and members.
async fn ask(
    client: &peer::Client,
    url: &Url,
    timeout: Duration,
) -> Result<(ClusterId, Vec<Member>), String> {
    let request = Request::builder()
        .method(Method::GET)
        .uri("/members")
        .body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = client.call(url.as_str(), request, timeout, LIST_BYTES_MAX).await;
    read_members(&answer.map_err(|error| error.to_string())?)
}

fn read_members(answer: &Response<Bytes>) -> Result<(ClusterId, Vec<Member>), String> {
    if answer.status() != StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    let id = answer.headers().get(CLUSTER_ID).and_then(|id| id.to_str().ok());
    let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
    let id = id.ok_or("it does not name its cluster")?;
    let members = serde_json::from_slice(answer.body()).map_err(|error| error.to_string())?;
    Ok((ClusterId(id), members))
}

/// Finds every listed member in the running cluster by its peer URLs, and so this one's id.
fn match_members(
    config: &Config,
    cluster_id: ClusterId,
    members: Vec<Member>,
) -> Result<Beginning, BootstrapError> {
    let listed = &config.initial_cluster;
    if members.len() != listed.len() {
        return Err(BootstrapError::UnequalCount {
            listed: listed.len(),
            running: members.len(),
        });
    }
    let mut own = None;
    for member in &members {
        let urls: Vec<Url> = member
            .peer_urls
            .iter()
            .filter_map(|url| Url::parse(url).ok())
            .collect();
        let found = listed.iter().find(|(_, listed)| same_addresses(listed, &urls));
        match found {
            Some((name, _)) if *name == config.name => own = Some(member.id),
            Some(_) => {}
            None => return Err(BootstrapError::NoMatch(member.peer_urls.join(","))),
        }
    }
    Ok(Beginning {
        id: own.ok_or_else(|| BootstrapError::LocalNameMissing(config.name.clone()))?,
        cluster_id,
        members,
        founds: false,
    })
}

/// Makes a cluster of one member of what a member remembers, for when all others are lost: forgets what
/// was not committed, and removes everybody else by entries that are committed from the start. Returns
/// these entries, which are to be written to the log with the new hard state. The ids stay.
pub fn go_on_alone(id: MemberId, restored: &mut Restored) -> Result<Vec<Entry>, ConfChangeError> {
    let committed = restored.hard_state.commit.max(restored.applied);
    restored.entries.retain(|entry| entry.index <= committed);
    let term = restored
        .entries
        .last()
        .map_or(restored.snapshot.term, |entry| entry.term);
    restored.hard_state.term = restored.hard_state.term.max(term);

    let mut conf = restored.conf_state.clone();
    for entry in restored
        .entries
        .iter()
        .filter(|entry| entry.index > restored.applied)
    {
        if let Some(Ok(change)) = change_of(entry) {
            conf = apply_conf_change(&conf, &change)?;
        }
    }
    let promotion = conf.learners.contains(&id.0).then_some(MemberChange::Promote(id));
    let everybody = conf
        .voters
        .iter()
        .chain(&conf.learners)
        .map(|other| MemberId(*other));
    let removals = everybody.filter(|other| *other != id).map(MemberChange::Remove);
    let entries: Vec<Entry> = (committed + 1..)
        .zip(promotion.into_iter().chain(removals))
        .map(|(index, change)| Entry {
            term: restored.hard_state.term,
            index,
            r#type: EntryType::EntryConfChange as i32,
            data: Some(change.to_conf_change(0).encode_to_vec().into()),
        })
        .collect();
    restored.hard_state.commit = committed + entries.len() as u64;
    restored.entries.extend(entries.iter().cloned());
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use machine::membership::bootstrap_entries;
    use proto::raftpb::{ConfState, HardState};

    use super::*;

    fn config_of(cluster: &str) -> Config {
        Config {
            name: "m1".into(),
            initial_cluster: crate::config::parse_initial_cluster(cluster).unwrap(),
            advertise_peer: vec![Url::parse("http://127.0.0.1:1").unwrap()],
            ..crate::config::tests::config()
        }
    }

    fn member(id: u64, url: &str) -> Member {
        Member {
            id: MemberId(id),
            peer_urls: vec![url.into()],
            ..Member::default()
        }
    }

    #[test]
    fn all_founders_compute_the_same_ids() {
        let cluster = "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2,m3=http://127.0.0.1:3";
        let first = found(&config_of(cluster));
        let third = found(&Config {
            name: "m3".into(),
            ..config_of(cluster)
        });
        assert_eq!(first.cluster_id, third.cluster_id);
        assert_eq!(first.members, third.members);
        assert_ne!(first.id, third.id);
    }

    #[test]
    fn founders_that_number_each_other_differently_begin_with_the_same_entries() {
        let seen_by = |name: &str, cluster: &str| {
            let config = Config {
                name: name.into(),
                ..config_of(cluster)
            };
            found(&config).without_names()
        };
        let first = seen_by("m1", "m1=http://a:1,0=http://b:1,1=http://c:1");
        let third = seen_by("m3", "0=http://a:1,1=http://b:1,m3=http://c:1");
        assert_ne!(first.id, third.id);
        assert_eq!(first.cluster_id, third.cluster_id);
        assert_eq!(
            bootstrap_entries(&first.members),
            bootstrap_entries(&third.members)
        );
    }

    #[test]
    fn what_others_have_registered_is_checked() {
        let of = |members: &[&str]| {
            let members: Vec<String> = members.iter().map(ToString::to_string).collect();
            registered(&members)
        };
        let cluster = of(&["b=http://b:1", "a=http://a:2,a=http://a:1"]).unwrap();
        assert_eq!(show_cluster(&cluster), "a=http://a:1,a=http://a:2,b=http://b:1");
        let refusal = |members: &[&str]| of(members).unwrap_err().to_string();
        assert_eq!(
            refusal(&["a=http://a:1", "b=a:1"]),
            "discovery: invalid peer URL: URL scheme must be http, https, unix, or unixs: a:1"
        );
        assert_eq!(
            refusal(&["a=http://a:1", "b=http://b:1,b=http://a:1"]),
            "discovery cluster a=http://a:1,b=http://a:1,b=http://b:1 has duplicate url"
        );
        assert_eq!(
            refusal(&["a=http://a:1", "a=http://b:1"]),
            "discovery cluster a=http://a:1,a=http://b:1 has two members named \"a\"; give each its own --name"
        );
    }

    #[test]
    fn a_joining_member_finds_itself_by_its_peer_urls() {
        let config = config_of("m1=http://127.0.0.1:1,m2=http://127.0.0.1:2");
        let running = vec![member(7, "http://127.0.0.1:2"), member(9, "http://127.0.0.1:1")];
        let beginning = match_members(&config, ClusterId(5), running.clone()).unwrap();
        assert_eq!((beginning.id, beginning.cluster_id), (MemberId(9), ClusterId(5)));
        assert!(!beginning.founds);

        let unequal = match_members(&config, ClusterId(5), running[..1].to_vec());
        assert!(matches!(
            unequal,
            Err(BootstrapError::UnequalCount {
                listed: 2,
                running: 1
            })
        ));
        let strangers = vec![member(7, "http://127.0.0.1:2"), member(9, "http://127.0.0.1:3")];
        let unknown = match_members(&config, ClusterId(5), strangers);
        assert!(matches!(unknown, Err(BootstrapError::NoMatch(_))));
    }

    #[test]
    fn a_member_that_goes_on_alone_keeps_what_was_committed_and_removes_the_others() {
        let members = [
            member(1, "http://a:1"),
            member(2, "http://b:1"),
            member(3, "http://c:1"),
        ];
        let mut entries = bootstrap_entries(&members);
        for index in 4..=6 {
            entries.push(Entry {
                term: 2,
                index,
                ..Entry::default()
            });
        }
        let mut restored = Restored {
            hard_state: HardState {
                term: 3,
                vote: 2,
                commit: 5,
            },
            entries,
            applied: 2,
            conf_state: ConfState {
                voters: vec![1, 2],
                ..ConfState::default()
            },
            ..Restored::default()
        };
        let added = go_on_alone(MemberId(2), &mut restored).unwrap();
        let removed: Vec<_> = added
            .iter()
            .map(|entry| change_of(entry).unwrap().unwrap().changes[0].node_id)
            .collect();
        assert_eq!(removed, [1, 3]);
        assert_eq!(added[0].index, 6, "in place of what was not committed");
        assert_eq!(restored.hard_state.commit, 7);
        assert_eq!(restored.entries.len(), 7);
        // Again, as after a crash before anything was applied: nothing is left to do.
        assert_eq!(go_on_alone(MemberId(2), &mut restored).unwrap(), []);
    }
}
