//! A cluster of processes, each the real etcd or ours, and what can be done to it.
//!
//! Members go by their numbers, in the order they were added; number 0 is called `m1`. They speak to each other
//! through a [`Network`], which can be cut.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use grpc::etcdserverpb::cluster_client::ClusterClient;
use grpc::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::*;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::account::Account;
use crate::http;
use crate::links::Line;
use crate::load::channel;
use crate::network::Network;
use crate::server::{Place, Server};

/// How long the cluster may take to get where a trial wants it.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often to look whether it is there.
const LOOK: Duration = Duration::from_millis(50);

/// How long a call may take before it is made again.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The cluster. Dropping it kills the processes and removes their folders.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    network: Network,
    flags: Vec<String>,
    root: Account,
}

#[derive(Debug)]
struct Member {
    server: Server,
    id: u64,
    /// The process runs and is not frozen.
    answers: bool,
}

impl Cluster {
    /// Starts a new cluster of these programs.
    pub async fn start(mut network: Network, programs: &[&Path], flags: &[String]) -> Result<Self, String> {
        let places: Result<Vec<_>, _> = (0..programs.len()).map(|number| network.place(number)).collect();
        let places = places?;
        let all: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(number, (ports, advertised))| entry(&name(number), ports.at(*advertised)))
            .collect();
        let mut cluster = Self {
            members: Vec::new(),
            network,
            flags: flags.to_vec(),
            root: Account::root(),
        };
        for (number, (program, (ports, advertised))) in programs.iter().zip(places).enumerate() {
            let place = Place {
                name: name(number),
                advertised,
                cluster: all.join(","),
                joins: false,
            };
            cluster.push(Server::prepared(program, flags, ports, place)?);
        }
        for number in 0..programs.len() {
            cluster.spawn(number).await?;
        }
        for number in 0..programs.len() {
            cluster.ready(number).await?;
        }
        Ok(cluster)
    }

    fn push(&mut self, server: Server) {
        self.members.push(Member {
            server,
            id: 0,
            answers: false,
        });
    }

    /// How many members there have been.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none, which is never so.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The process of a member.
    pub fn server(&self, number: usize) -> &Server {
        &self.members[number].server
    }

    /// The process of a member, to be changed while it is stopped.
    pub fn server_mut(&mut self, number: usize) -> &mut Server {
        &mut self.members[number].server
    }

    /// The numbers of the members whose processes answer.
    pub fn running(&self) -> Vec<usize> {
        (0..self.len())
            .filter(|number| self.members[*number].answers)
            .collect()
    }

    /// The addresses for clients of the running members.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let running = self.running().into_iter();
        running.map(|number| self.address(number)).collect()
    }

    /// A member's address for clients.
    pub fn address(&self, number: usize) -> SocketAddr {
        self.server(number).address()
    }

    /// A member's id.
    pub fn id(&self, number: usize) -> u64 {
        self.members[number].id
    }

    async fn spawn(&mut self, number: usize) -> Result<(), String> {
        let server = &mut self.members[number].server;
        server.spawn()?;
        let pid = server.pid().ok_or("the process is gone")?;
        let (advertised, behind) = (server.advertised(), server.ports.peer);
        self.network.open(number, pid, advertised, behind).await
    }

    async fn ready(&mut self, number: usize) -> Result<(), String> {
        self.members[number].server.ready().await?;
        let status = eventually("a member tells its status", async || {
            self.status(number).await.map_err(|status| status.to_string())
        });
        self.members[number].id = status.await?.header.unwrap_or_default().member_id;
        self.members[number].answers = true;
        Ok(())
    }

    /// Makes a call at a member, as root if it asks for that.
    pub async fn call<T: Clone, R>(
        &self,
        number: usize,
        message: T,
        call: impl AsyncFn(Channel, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<R, Status> {
        let channel = channel(self.address(number));
        within(self.root.call(channel, message, call)).await
    }

    /// Starts a member that was stopped or killed, and waits until it serves.
    pub async fn resume(&mut self, number: usize) -> Result<(), String> {
        self.spawn(number).await?;
        self.ready(number).await
    }

    /// Ends a member with SIGTERM.
    pub async fn stop(&mut self, number: usize) -> Result<(), String> {
        self.members[number].answers = false;
        let stopped = self.members[number].server.stop().await;
        self.network.close(number);
        stopped.map(drop)
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, number: usize) {
        self.members[number].answers = false;
        self.members[number].server.kill();
        self.network.close(number);
    }

    /// Stops a member with SIGSTOP: it keeps its connections and says nothing.
    pub fn freeze(&mut self, number: usize) -> Result<(), String> {
        self.members[number].answers = false;
        self.members[number].server.freeze()
    }

    /// Lets it go on.
    pub fn thaw(&mut self, number: usize) -> Result<(), String> {
        self.members[number].answers = true;
        self.members[number].server.thaw()
    }

    /// Cuts the direction from one member to another.
    pub fn cut(&mut self, from: usize, to: usize) -> Result<(), String> {
        self.network.set(from, to, Line::CUT)
    }

    /// Slows the direction from one member to another down.
    pub fn delay(&mut self, from: usize, to: usize, delay: Duration) -> Result<(), String> {
        let line = Line { cut: false, delay };
        self.network.set(from, to, line)
    }

    /// Pulls a member's cable: neither members nor clients reach it.
    pub fn unplug(&mut self, number: usize) -> Result<(), String> {
        self.members[number].answers = false;
        self.network.unplug(number)
    }

    /// Makes the network whole; what was unplugged answers again.
    pub fn heal(&mut self) -> Result<(), String> {
        for number in self.network.heal()? {
            self.members[number].answers = true;
        }
        Ok(())
    }

    /// What a member says of itself.
    pub async fn status(&self, number: usize) -> Result<StatusResponse, Status> {
        self.call(number, StatusRequest {}, async |at, request| {
            MaintenanceClient::new(at).status(request).await
        })
        .await
    }

    /// The leader that all members of a group agree on, once they do.
    pub async fn leader_of(&self, group: &[usize]) -> Result<usize, String> {
        eventually("the members agree on a leader", async || {
            let mut leaders = Vec::new();
            for &number in group {
                leaders.push(self.status(number).await.map_err(|s| s.to_string())?.leader);
            }
            leaders.dedup();
            let agreed = group.iter().find(|number| leaders == [self.id(**number)]);
            agreed
                .copied()
                .ok_or_else(|| format!("they name {leaders:x?}, with {:x?}", self.ids()))
        })
        .await
    }

    /// The leader that all running members agree on, once they do.
    pub async fn leader(&self) -> Result<usize, String> {
        self.leader_of(&self.running()).await
    }

    /// A running member that does not lead, and is no learner.
    pub async fn follower(&self) -> Result<usize, String> {
        let leader = self.leader().await?;
        let mut others = self.running().into_iter().filter(|number| *number != leader);
        others.next().ok_or_else(|| "nobody follows".into())
    }

    fn ids(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.id).collect()
    }

    /// Makes a member the leader.
    pub async fn move_leader(&self, number: usize) -> Result<(), String> {
        eventually("leadership moves", async || {
            let leader = self.leader().await?;
            if leader == number {
                return Ok(());
            }
            let request = MoveLeaderRequest {
                target_id: self.id(number),
            };
            let moved = self.call(leader, request, async |at, request| {
                MaintenanceClient::new(at).move_leader(request).await
            });
            let refused = moved.await.err();
            Err(refused.map_or("not yet".into(), |status| status.to_string()))
        })
        .await
    }

    /// Adds a member and starts it. A cluster that has just been hurt refuses for a while.
    pub async fn add(&mut self, program: &Path, learner: bool) -> Result<usize, String> {
        let number = self.len();
        let (ports, advertised) = self.network.place(number)?;
        let place = Place {
            name: name(number),
            advertised,
            cluster: String::new(),
            joins: true,
        };
        self.push(Server::prepared(program, &self.flags, ports, place)?);
        self.join(number, learner).await?;
        Ok(number)
    }

    /// Takes a member's data folder away and adds it again, as an operator does who has lost a disk.
    pub async fn replace(&mut self, number: usize) -> Result<(), String> {
        self.kill(number);
        self.members[number].server.wipe()?;
        self.remove(number).await?;
        self.join(number, false).await
    }

    async fn join(&mut self, number: usize, learner: bool) -> Result<(), String> {
        let url = self.server(number).peer_url();
        let request = MemberAddRequest {
            peer_ur_ls: vec![url],
            is_learner: learner,
        };
        let added = self
            .member_change(
                "a member is added",
                "Peer URLs already exists",
                request,
                async |at, request| ClusterClient::new(at).member_add(request).await,
            )
            .await;
        // The answer to an earlier try may have been lost.
        let members = match added? {
            Some(response) => response.members,
            None => self.member_list().await?,
        };
        let this = self.server(number);
        let cluster: Vec<_> = members
            .iter()
            .flat_map(|member| {
                let known = self
                    .members
                    .iter()
                    .find(|other| member.peer_ur_ls == [other.server.peer_url()]);
                known.map(|other| format!("{}={}", other.server.name(), other.server.peer_url()))
            })
            .collect();
        let place = Place {
            name: this.name().to_owned(),
            advertised: this.advertised(),
            cluster: cluster.join(","),
            joins: true,
        };
        self.server_mut(number).set_place(place);
        self.resume(number).await
    }

    /// Removes a member. If it runs, it learns of it and ends.
    pub async fn remove(&mut self, number: usize) -> Result<(), String> {
        let request = MemberRemoveRequest { id: self.id(number) };
        let running = self.members[number].answers;
        self.members[number].answers = false;
        self.member_change(
            "a member is removed",
            "member not found",
            request,
            async |at, request| ClusterClient::new(at).member_remove(request).await,
        )
        .await?;
        if running {
            self.members[number].server.gone().await?;
            self.network.close(number);
        }
        Ok(())
    }

    /// Makes a voter of a learner, once it has caught up.
    pub async fn promote(&mut self, number: usize) -> Result<(), String> {
        let request = MemberPromoteRequest { id: self.id(number) };
        self.member_change(
            "a learner is promoted",
            "can only promote a learner",
            request,
            async |at, request| ClusterClient::new(at).member_promote(request).await,
        )
        .await?;
        Ok(())
    }

    /// Asks one member after the other for a change until it is made; a follower hands it on. `done` is in the
    /// refusal of one that was made already.
    async fn member_change<T: Clone, R>(
        &self,
        what: &str,
        done: &str,
        message: T,
        call: impl AsyncFn(Channel, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<Option<R>, String> {
        let running = self.running();
        let turn = AtomicUsize::new(0);
        eventually(what, async || {
            let at = running[turn.fetch_add(1, Ordering::Relaxed) % running.len()];
            match self.call(at, message.clone(), &call).await {
                Ok(response) => Ok(Some(response)),
                Err(status) if status.message().contains(done) => Ok(None),
                Err(status) => Err(status.to_string()),
            }
        })
        .await
    }

    /// The members as the leader lists them.
    pub async fn member_list(&self) -> Result<Vec<proto::etcdserverpb::Member>, String> {
        eventually("the members are listed", async || {
            let leader = self.leader().await?;
            let request = MemberListRequest { linearizable: true };
            let list = self.call(leader, request, async |at, request| {
                ClusterClient::new(at).member_list(request).await
            });
            let list = list.await.map_err(|status| status.to_string())?;
            Ok(list.members)
        })
        .await
    }

    /// Waits until all running members have the same revision and the same hash of it. Only for a cluster at rest
    /// that nobody writes to.
    pub async fn agree(&self) -> Result<(i64, u32), String> {
        eventually("all members have the same hash", async || {
            let mut hashes = Vec::new();
            for number in self.running() {
                hashes.push(self.hash(number, 0).await?);
            }
            let first = *hashes.first().ok_or("no member runs")?;
            match hashes.iter().all(|hash| *hash == first) {
                true => Ok((first.0, first.1)),
                false => Err(format!("revision, hash, compacted revision: {hashes:?}")),
            }
        })
        .await
    }

    /// Waits until all running members have the same hash at one revision, which the last one has now; others may
    /// write.
    pub async fn agree_so_far(&self) -> Result<(), String> {
        eventually("all members have the same hash at one revision", async || {
            let running = self.running();
            let last = *running.last().ok_or("no member runs")?;
            let (revision, ..) = self.hash(last, 0).await?;
            let mut hashes = Vec::new();
            for number in running {
                let (_, hash, compacted) = self.hash(number, revision).await?;
                hashes.push((hash, compacted));
            }
            let before = hashes.clone();
            hashes.dedup();
            match hashes.len() {
                1 => Ok(()),
                _ => Err(format!(
                    "hash and compacted revision at revision {revision}: {before:?}"
                )),
            }
        })
        .await
    }

    /// A member's revision, with the hash and the compacted revision at `revision`, or at its own if that is 0.
    async fn hash(&self, number: usize, revision: i64) -> Result<(i64, u32, i64), String> {
        let request = HashKvRequest { revision };
        let response = self.call(number, request, async |at, request| {
            MaintenanceClient::new(at).hash_kv(request).await
        });
        let response = response
            .await
            .map_err(|status| format!("m{}: {status}", number + 1))?;
        let current = response.header.unwrap_or_default().revision;
        Ok((current, response.hash, response.compact_revision))
    }

    /// How many snapshots a member has received since it was started.
    pub async fn snapshots_received(&self, number: usize) -> Result<u64, String> {
        let ports = self.server(number).ports;
        let response = http::request(ports.at(ports.metrics), "GET", "/metrics", "").await;
        let body = response.map_err(|e| e.to_string())?.body;
        let text = String::from_utf8_lossy(&body);
        let samples = text
            .lines()
            .filter(|line| line.starts_with("etcd_network_snapshot_receive_success{"));
        let counts = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        Ok(counts.sum::<f64>() as u64)
    }
}

fn name(number: usize) -> String {
    format!("m{}", number + 1)
}

/// A member in the flag `--initial-cluster`.
fn entry(name: &str, advertised: SocketAddr) -> String {
    format!("{name}=http://{advertised}")
}

/// A call's answer, or the lack of one.
pub async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match timeout(ANSWER_MAX, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer comes")),
    }
}

/// Tries until it works out. The error is the last one.
pub async fn eventually<T>(what: &str, attempt: impl AsyncFn() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("not in {} s: {what}: {error}", PATIENCE.as_secs()));
            }
            Err(_) => sleep(LOOK).await,
        }
    }
}
