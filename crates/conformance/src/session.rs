//! A script's way through one server.
//!
//! Besides the calls of [`crate::call`] and [`crate::recipes`], and JSON over HTTP ([`crate::gateway`]), a script knows:
//!
//! | command | what it does |
//! |---|---|
//! | `start [FLAG=VALUE…]` | starts a server on an empty folder; every script begins with it |
//! | `restart`, `crash` | ends it with SIGTERM or SIGKILL and starts it again on its folder |
//! | `stop`, `resume` | ends it with SIGTERM and prints how it went; starts it again |
//! | `fill PREFIX COUNT [VALUE]` | puts PREFIX0000 and so on, prints the last answer |
//! | `events STREAM COUNT` | takes that many events from a Watch stream, however they were batched, by watch id |
//! | `responses STREAM COUNT` | takes that many whole answers from it |
//! | `fragments STREAM COUNT` | takes that many events and tells whether they came in fragments |
//! | `half_close STREAM`, `unwatch STREAM` | ends the requests of a stream; gives it up |
//! | `snapshot` | checks what Maintenance.Snapshot sends: sizes, countdown, checksum, bbolt's magic number |
//! | `health_check SERVICE`, `health_list` | grpc.health.v1 |
//! | `unknown /SERVICE/METHOD` | a unary call with an empty message |
//! | `http METHOD PATH` | an HTTP request; `port=metrics` or `peer`, `body=…`, `print=head`, `print=sorted` |
//! | `metrics NAME…` | the samples of these metrics |
//! | `start members=3 [FLAG=VALUE…]` | starts a cluster, see below |
//! | `join`, `gone` | starts a member that was added; waits for one that was removed to end by itself |
//! | `wait TEXT` | the next command is given again and again as long as its answer has TEXT in it: some rules count the seconds since members found each other |
//! | `authenticate NAME PASSWORD`, `as NAME` | signs in; makes the calls that follow those of a user who has signed in, or of `nobody`; `token=TEXT` shows that token instead, `key=authorization` in that metadata; `token=true key=hasleader` insists on a leader |
//! | `> etcdctl …`, `> etcdutl …` | the real tool; `<<< "…"` is its standard input |
//!
//! In a cluster the first member leads. Commands go to it, or with `m2:` in front to another one. Addresses have the
//! member's number behind them: `PEER4` is where a fourth one can be added.
//!
//! `BELOW` is the minor version below the server's.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use goldenscript::{Argument, Command, Context};
use grpc::etcdserverpb::auth_client::AuthClient;
use grpc::etcdserverpb::cluster_client::ClusterClient;
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::lease_client::LeaseClient;
use grpc::etcdserverpb::maintenance_client::MaintenanceClient;
use grpc::etcdserverpb::watch_client::WatchClient;
use grpc::grpc::health::v1::health_client::HealthClient;
use grpc::v3electionpb::election_client::ElectionClient;
use grpc::v3lockpb::lock_client::LockClient;
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::answer::{Answer, Names, Show};
use crate::call::{self, Args, Call, ScriptError};
use crate::caller::{Caller, Line};
use crate::cli;
use crate::compare::Step;
use crate::gateway::Web;
use crate::http;
use crate::recipes::Recipes;
use crate::server::{Place, Ports, Server};
use crate::stream::WatchStream;
use crate::tools::Tools;

/// How long an answer may take. Nothing a script asks takes a second but the end of a lease.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer may be one that a script waits to change. Ten seconds are usual.
const SETTLING_MAX: Duration = Duration::from_secs(120);

/// How often to ask whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// The script about fragments lets the server send a megabyte and a half at once.
const FRAGMENT_MAX: usize = 1_600_000;

/// What a run of a script gave.
#[derive(Debug)]
pub struct Run {
    /// The calls with their answers.
    pub steps: Vec<Step>,
    /// The script with these answers in it; or why it ends before its end: a mistake in the script, or a server that
    /// does not start, does not answer, or sends what can't be.
    pub recording: Result<String, String>,
}

/// Takes a server through a script.
pub fn run(tools: &Tools, program: &Path, script: &str) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut session = Session {
        runtime: runtime.expect("the machine has a file descriptor left"),
        tools: tools.clone(),
        program: program.to_owned(),
        running: Vec::new(),
        spare: Vec::new(),
        flags: Vec::new(),
        not_yet: None,
        steps: Vec::new(),
    };
    let recording = goldenscript::generate(&mut session, script).map_err(|e| e.to_string());
    Run {
        steps: session.steps,
        recording,
    }
}

#[derive(Debug)]
struct Session {
    runtime: Runtime,
    tools: Tools,
    program: PathBuf,
    /// The members, mostly one.
    running: Vec<Running>,
    /// Where further members can be.
    spare: Vec<Ports>,
    /// The flags of all members.
    flags: Vec<String>,
    /// What the next answer is not to have in it.
    not_yet: Option<String>,
    steps: Vec<Step>,
}

/// Members a script may add to its cluster.
const SPARE: usize = 3;

impl goldenscript::Runner for Session {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, ScriptError> {
        let answer = self.settled_answer(command, context.prefix.as_deref())?;
        self.steps.push(Step {
            call: command.to_string(),
            tags: context.tags.clone(),
            answer: answer.clone(),
        });
        Ok(answer)
    }
}

impl Session {
    /// The answer, or that of a later try if the first ones say what a `wait` has named.
    fn settled_answer(&mut self, command: &Command, member: Option<&str>) -> Result<String, ScriptError> {
        if command.name == "wait" {
            self.not_yet = Some(Args::new(command, &Names::default()).parsed()?);
            return Ok("wait: done".to_owned());
        }
        let not_yet = self.not_yet.take();
        let deadline = Instant::now() + SETTLING_MAX;
        loop {
            let answer = self.answer(command, member)?;
            let settled = not_yet.as_ref().is_none_or(|text| !answer.contains(text));
            if settled || Instant::now() > deadline {
                return Ok(answer);
            }
            self.runtime.block_on(async { tokio::time::sleep(LOOK).await });
        }
    }

    fn answer(&mut self, command: &Command, member: Option<&str>) -> Result<String, ScriptError> {
        let at = match member {
            Some(name) => number(name)?,
            None => 0,
        };
        match &command.name[..] {
            "start" => return self.start(command),
            "join" => return self.join(at),
            _ => {}
        }
        let command = self.with_addresses(command);
        let running = self
            .running
            .get_mut(at)
            .ok_or("no such member; a script begins with `start`")?;
        let answer = match &command.name[..] {
            line if line.starts_with("etcd") => {
                self.runtime
                    .block_on(cli::run(&self.tools, &running.server, &mut running.names, line))?
            }
            _ => self.runtime.block_on(running.step(&command))?,
        };
        let members = running.names.members.clone();
        for running in &mut self.running {
            running.names.members.clone_from(&members);
        }
        Ok(self.masked(answer))
    }

    fn start(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = command.consume_args();
        let members = args.take_key("members").map(str::parse).transpose()?;
        let flags = command
            .args
            .iter()
            .filter(|argument| !matches!(argument, Argument::KeyValue(key, _) if key == "members"));
        self.flags = flags.map(flag).collect();
        self.running = match members {
            None => vec![
                self.runtime
                    .block_on(Running::start(&self.program, &self.flags))?,
            ],
            Some(members) => {
                self.spare = (0..SPARE).map(|_| Ports::free()).collect();
                self.runtime
                    .block_on(Running::start_cluster(&self.program, &self.flags, members))?
            }
        };
        Ok("start: ready".to_owned())
    }

    /// Starts the member that was added last, in the place that was kept for it.
    fn join(&mut self, at: usize) -> Result<String, ScriptError> {
        if at != self.running.len() || self.spare.is_empty() {
            return Err(format!("the next member is m{}", self.running.len() + 1).into());
        }
        let ports = self.spare.remove(0);
        let joined = Running::join(&self.program, &self.flags, ports, &mut self.running);
        let joined = self.runtime.block_on(joined)?;
        self.running.push(joined);
        Ok("join: ready".to_owned())
    }

    /// A command with addresses in place of their names.
    fn with_addresses(&self, command: &Command) -> Command {
        let running = self.running.iter().map(|running| running.server.ports);
        let ports: Vec<_> = running.chain(self.spare.iter().copied()).collect();
        let below = self.tools.below(&self.program);
        let address = |text: &str| {
            let ports = ports.iter().enumerate();
            ports.fold(text.replace("BELOW", &below), |text, (number, ports)| {
                let name = format!("PEER{}", number + 1);
                text.replace(&name, &ports.at(ports.peer).to_string())
            })
        };
        let mut command = command.clone();
        command.name = address(&command.name);
        for argument in &mut command.args {
            if let Argument::Positional(text) | Argument::KeyValue(_, text) = argument {
                *text = address(text);
            }
        }
        command
    }

    /// An answer with names for addresses; members are listed in their order.
    fn masked(&self, answer: String) -> String {
        if let [alone] = &self.running[..] {
            return alone.server.masked(&answer, "");
        }
        let running = self.running.iter().enumerate();
        let answer = running.fold(answer, |answer, (number, running)| {
            running.server.masked(&answer, &format!("{}", number + 1))
        });
        let spare = self.spare.iter().enumerate();
        let answer = spare.fold(answer, |answer, (number, ports)| {
            ports.masked(&answer, &format!("{}", self.running.len() + number + 1))
        });
        in_order(&answer)
    }
}

/// The lines of a tool about one member each, sorted: the tools list members by their ids, or as they answer.
fn in_order(answer: &str) -> String {
    let about_one = |line: &&str| {
        let rest = line.trim_start_matches([' ', '|', '!', '│']);
        line.starts_with("  ")
            && ["M", "CLIENT", "http://CLIENT"]
                .iter()
                .any(|name| rest.starts_with(name))
    };
    let mut sorted: Vec<_> = answer.lines().filter(about_one).collect();
    sorted.sort_unstable();
    let mut sorted = sorted.into_iter();
    let lines = answer.lines().map(|line| match about_one(&line) {
        true => sorted.next().unwrap_or(line).to_owned(),
        false => entries_in_order(line),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The line of `member add` that names all members, sorted.
fn entries_in_order(line: &str) -> String {
    const NAME: &str = "ETCD_INITIAL_CLUSTER=\"";
    let Some((before, entries)) = line.split_once(NAME) else {
        return line.to_owned();
    };
    let mut entries: Vec<_> = entries.trim_end_matches('"').split(',').collect();
    entries.sort_unstable();
    format!("{before}{NAME}{}\"", entries.join(","))
}

/// The number of a member by its name.
fn number(name: &str) -> Result<usize, ScriptError> {
    let number = name
        .strip_prefix('m')
        .and_then(|number| number.parse::<usize>().ok());
    let number = number.and_then(|number| number.checked_sub(1));
    number.ok_or_else(|| format!("no member {name}").into())
}

fn flag(argument: &Argument) -> String {
    match argument {
        Argument::KeyValue(name, value) => format!("--{name}={value}"),
        name => format!("--{name}"),
    }
}

/// A started server with everything a script can speak to.
#[derive(Debug)]
struct Running {
    server: Server,
    names: Names,
    clients: Clients,
    watches: HashMap<String, WatchStream>,
    web: Web,
    /// The last token of each user.
    tokens: HashMap<String, String>,
}

/// A client of every service, all on one connection.
#[derive(Debug)]
struct Clients {
    channel: Channel,
    kv: KvClient<Line>,
    watch: WatchClient<Line>,
    lease: LeaseClient<Line>,
    cluster: ClusterClient<Line>,
    maintenance: MaintenanceClient<Line>,
    auth: AuthClient<Line>,
    recipes: Recipes,
    caller: Caller,
    health: HealthClient<Channel>,
}

impl Clients {
    async fn connect(server: &Server) -> Result<Self, ScriptError> {
        let channel = Endpoint::from_shared(format!("http://{}", server.endpoint()))?
            .connect()
            .await?;
        let caller = Caller::default();
        // Whatever a server sends is to be seen; tonic alone would refuse more than 4 MiB.
        const MAX: usize = i32::MAX as usize;
        Ok(Self {
            kv: KvClient::with_interceptor(channel.clone(), caller.clone()).max_decoding_message_size(MAX),
            watch: WatchClient::with_interceptor(channel.clone(), caller.clone())
                .max_decoding_message_size(MAX),
            lease: LeaseClient::with_interceptor(channel.clone(), caller.clone()),
            cluster: ClusterClient::with_interceptor(channel.clone(), caller.clone()),
            maintenance: MaintenanceClient::with_interceptor(channel.clone(), caller.clone()),
            auth: AuthClient::with_interceptor(channel.clone(), caller.clone()),
            recipes: Recipes::new(
                LockClient::with_interceptor(channel.clone(), caller.clone()),
                ElectionClient::with_interceptor(channel.clone(), caller.clone()),
            ),
            health: HealthClient::new(channel.clone()),
            caller,
            channel,
        })
    }
}

/// Makes a unary call with the request the arguments describe.
macro_rules! unary {
    ($running:ident, $command:ident, $service:ident.$method:ident) => {{
        let mut args = Args::new($command, &$running.names);
        let request = Request::new(Call::read(&mut args)?);
        args.end()?;
        let response = within($running.clients.$service.$method(request)).await?;
        Ok($running.answer($command, &response.map(Response::into_inner)))
    }};
}

impl Running {
    async fn start(program: &Path, flags: &[String]) -> Result<Self, ScriptError> {
        Self::connect(Server::start(program, flags).await?).await
    }

    async fn connect(server: Server) -> Result<Self, ScriptError> {
        let mut clients = Clients::connect(&server).await?;
        let header = clients
            .maintenance
            .status(StatusRequest {})
            .await?
            .into_inner()
            .header;
        let header = header.ok_or("a status without a header")?;
        let names = Names {
            cluster: header.cluster_id,
            member: header.member_id,
            ..Names::default()
        };
        Ok(Self {
            server,
            names,
            clients,
            watches: HashMap::new(),
            web: Web::default(),
            tokens: HashMap::new(),
        })
    }

    /// Starts members that know each other, and makes the first one the leader.
    async fn start_cluster(
        program: &Path,
        flags: &[String],
        members: usize,
    ) -> Result<Vec<Self>, ScriptError> {
        let ports: Vec<_> = (1..=members).map(|number| (number, Ports::free())).collect();
        let entries = ports
            .iter()
            .map(|(number, ports)| format!("m{number}={}", ports.peer_url()));
        let cluster = entries.collect::<Vec<_>>().join(",");
        let mut servers = Vec::new();
        for (number, ports) in ports {
            let place = Place {
                name: format!("m{number}"),
                advertised: ports.peer,
                cluster: cluster.clone(),
                joins: false,
            };
            let mut server = Server::prepared(program, flags, ports, place)?;
            server.spawn()?;
            servers.push(server);
        }
        let mut running = Vec::new();
        for mut server in servers {
            server.ready().await?;
            running.push(Self::connect(server).await?);
        }
        let ids: Vec<_> = running.iter().map(|running| running.names.member).collect();
        for running in &mut running {
            running.names.members.clone_from(&ids);
        }
        lead(&mut running, ids[0]).await?;
        Ok(running)
    }

    /// Starts a member that the others know of.
    async fn join(
        program: &Path,
        flags: &[String],
        ports: Ports,
        others: &mut [Self],
    ) -> Result<Self, ScriptError> {
        let name = format!("m{}", others.len() + 1);
        let first = others.first_mut().ok_or("nobody to join")?;
        let list = first
            .clients
            .cluster
            .member_list(MemberListRequest::default())
            .await?;
        let entries = list.into_inner().members.into_iter().map(|member| {
            let name = if member.name.is_empty() {
                &name
            } else {
                &member.name
            };
            format!("{name}={}", member.peer_ur_ls.join(","))
        });
        let place = Place {
            name: name.clone(),
            advertised: ports.peer,
            cluster: entries.collect::<Vec<_>>().join(","),
            joins: true,
        };
        let members = first.names.members.clone();
        let mut server = Server::prepared(program, flags, ports, place)?;
        server.resume().await?;
        let mut joined = Self::connect(server).await?;
        joined.names.members = members;
        Ok(joined)
    }

    fn answer(&self, command: &Command, message: &impl Show) -> String {
        Answer::of(&command.name, &self.names, message)
    }

    async fn step(&mut self, command: &Command) -> Result<String, ScriptError> {
        let running = self;
        match command.name.as_str() {
            "put" => unary!(running, command, kv.put),
            "range" => unary!(running, command, kv.range),
            "range_stream" => running.range_stream(command).await,
            "delete" => unary!(running, command, kv.delete_range),
            "txn" => {
                let request = call::txn(command, &running.names)?;
                let response = within(running.clients.kv.txn(request)).await?;
                Ok(running.answer(command, &response.map(Response::into_inner)))
            }
            "compact" => unary!(running, command, kv.compact),
            "fill" => running.fill(command).await,

            "lease_grant" => running.lease_grant(command).await,
            "lease_revoke" => unary!(running, command, lease.lease_revoke),
            "lease_keep_alive" => running.lease_keep_alive(command).await,
            "lease_time_to_live" => unary!(running, command, lease.lease_time_to_live),
            "lease_leases" => unary!(running, command, lease.lease_leases),

            "watch" | "watch_cancel" | "watch_progress" => running.watch_request(command).await,
            "events" | "responses" | "fragments" => running.watch_answers(command).await,
            "half_close" | "unwatch" => running.watch_end(command),

            "alarm" => unary!(running, command, maintenance.alarm),
            "status" => unary!(running, command, maintenance.status),
            "hash_kv" => unary!(running, command, maintenance.hash_kv),
            "defragment" => unary!(running, command, maintenance.defragment),
            "move_leader" => unary!(running, command, maintenance.move_leader),
            "downgrade" => unary!(running, command, maintenance.downgrade),
            "snapshot" => running.snapshot().await,

            "member_list" => unary!(running, command, cluster.member_list),
            "member_add" => running.member_add(command).await,
            "member_remove" => unary!(running, command, cluster.member_remove),
            "member_update" => unary!(running, command, cluster.member_update),
            "member_promote" => unary!(running, command, cluster.member_promote),

            "auth_enable" => unary!(running, command, auth.auth_enable),
            "auth_disable" => unary!(running, command, auth.auth_disable),
            "auth_status" => unary!(running, command, auth.auth_status),
            "authenticate" => running.authenticate(command).await,
            "as" => running.call_as(command),
            "user_add" => unary!(running, command, auth.user_add),
            "user_get" => unary!(running, command, auth.user_get),
            "user_list" => unary!(running, command, auth.user_list),
            "user_delete" => unary!(running, command, auth.user_delete),
            "user_change_password" => unary!(running, command, auth.user_change_password),
            "user_grant_role" => unary!(running, command, auth.user_grant_role),
            "user_revoke_role" => unary!(running, command, auth.user_revoke_role),
            "role_add" => unary!(running, command, auth.role_add),
            "role_get" => unary!(running, command, auth.role_get),
            "role_list" => unary!(running, command, auth.role_list),
            "role_delete" => unary!(running, command, auth.role_delete),
            "role_grant_permission" => unary!(running, command, auth.role_grant_permission),
            "role_revoke_permission" => unary!(running, command, auth.role_revoke_permission),

            "health_check" => unary!(running, command, health.check),
            "health_list" => unary!(running, command, health.list),
            "unknown" => running.unknown(command).await,

            "http" => running.http(command).await,
            "metrics" => running.metrics(command).await,

            "restart" | "crash" | "stop" | "resume" | "gone" => running.process(command).await,
            other => {
                let recipes = &mut running.clients.recipes;
                if let Some(answer) = recipes.step(command, &mut running.names).await {
                    return answer;
                }
                let at = running.server.ports.at(running.server.ports.client);
                let answer = running.web.step(command, at, &mut running.names).await;
                answer.unwrap_or_else(|| Err(format!("no such command: {other}").into()))
            }
        }
    }

    /// Signs in, and remembers the token under the user's name.
    async fn authenticate(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let request = AuthenticateRequest::read(&mut args)?;
        args.end()?;
        let user = request.name.clone();
        let response = within(self.clients.auth.authenticate(request)).await?;
        let response = response.map(Response::into_inner);
        if let Ok(response) = &response {
            self.tokens.insert(user, response.token.clone());
        }
        Ok(self.answer(command, &response))
    }

    /// Makes the calls that follow those of a user who has signed in, of nobody, or of who has some other token.
    fn call_as(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let (name, key) = (args.word()?, args.option::<String>("key")?);
        let given = args.option::<String>("token")?;
        args.end()?;
        let key = match &*key {
            "" => "token",
            "authorization" => "authorization",
            "hasleader" => "hasleader",
            other => return Err(format!("no token goes in {other}").into()),
        };
        let token = match (self.tokens.get(name), &*given) {
            (_, given) if !given.is_empty() => Some((key, given.parse()?)),
            (Some(token), _) => Some((key, token.parse()?)),
            (None, _) if name == "nobody" => None,
            (None, _) => return Err(format!("{name} has not signed in").into()),
        };
        self.clients.caller.become_owner_of(token);
        Ok("as: done".to_owned())
    }

    async fn member_add(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let request = MemberAddRequest::read(&mut args)?;
        args.end()?;
        let response = within(self.clients.cluster.member_add(request)).await?;
        let response = response.map(Response::into_inner);
        let added = response
            .as_ref()
            .ok()
            .and_then(|response| response.member.as_ref());
        self.names.members.extend(added.map(|member| member.id));
        Ok(self.answer(command, &response))
    }

    async fn range_stream(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let request = RangeRequest::read(&mut args)?;
        args.end()?;
        let whole = within(async {
            let mut chunks = self.clients.kv.range_stream(request).await?.into_inner();
            let mut whole = RangeResponse::default();
            while let Some(chunk) = chunks.message().await? {
                // Numbers come with the last chunk only, so merging is what puts the answer together.
                let _ = whole.merge(
                    chunk
                        .range_response
                        .unwrap_or_default()
                        .encode_to_vec()
                        .as_slice(),
                );
            }
            Ok::<_, Status>(whole)
        });
        let whole = whole.await?;
        Ok(self.answer(command, &whole))
    }

    async fn fill(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let (prefix, count) = (args.bytes()?, args.parsed::<u32>()?);
        let value = Bytes::copy_from_slice(args.optional().unwrap_or("").as_bytes());
        args.end()?;
        let mut last = Err(Status::invalid_argument("nothing to put"));
        for number in 0..count {
            let key = [&prefix[..], format!("{number:04}").as_bytes()].concat().into();
            let request = PutRequest {
                key,
                value: value.clone(),
                ..PutRequest::default()
            };
            last = within(self.clients.kv.put(request))
                .await?
                .map(Response::into_inner);
            if last.is_err() {
                break;
            }
        }
        Ok(self.answer(command, &last))
    }

    async fn lease_grant(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let request = LeaseGrantRequest::read(&mut args)?;
        args.end()?;
        let server_chooses = request.id == 0;
        let response = within(self.clients.lease.lease_grant(request))
            .await?
            .map(Response::into_inner);
        if let (true, Ok(granted)) = (server_chooses, &response) {
            self.names.leases.push(granted.id);
        }
        Ok(self.answer(command, &response))
    }

    async fn lease_keep_alive(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let mut requests = Vec::new();
        for _ in &command.args {
            requests.push(LeaseKeepAliveRequest { id: args.lease()? });
        }
        let responses = within(async {
            let mut answers = self
                .clients
                .lease
                .lease_keep_alive(stream::iter(requests))
                .await?
                .into_inner();
            let mut responses = Vec::new();
            while let Some(response) = answers.message().await? {
                responses.push(response);
            }
            Ok::<_, Status>(responses)
        });
        let mut answer = Answer::new(&command.name, &self.names);
        match responses.await? {
            Ok(responses) => answer.lines(&responses, |answer, response| response.show(answer)),
            Err(status) => status.show(&mut answer),
        }
        Ok(answer.finish())
    }

    async fn watch_request(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let name = args.word()?;
        let request = match command.name.as_str() {
            "watch" => RequestUnion::CreateRequest(WatchCreateRequest::read(&mut args)?),
            "watch_cancel" => RequestUnion::CancelRequest(WatchCancelRequest {
                watch_id: args.parsed()?,
            }),
            _ => RequestUnion::ProgressRequest(WatchProgressRequest {}),
        };
        args.end()?;
        let creates = matches!(request, RequestUnion::CreateRequest(_));
        let watch = self
            .watches
            .entry(name.to_owned())
            .or_insert_with(|| WatchStream::open(&self.clients.watch));
        watch.send(request)?;
        if !creates {
            return Ok(format!("{}: sent", command.name));
        }
        let response = watch.response().await?;
        Ok(self.answer(command, &response))
    }

    async fn watch_answers(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let (name, count) = (args.word()?, args.parsed::<usize>()?);
        args.end()?;
        let watch = self.watches.get_mut(name).ok_or("no such watch")?;
        let mut answer = Answer::new(&command.name, &self.names);
        if command.name == "fragments" {
            let (fragmented, largest) = watch.fragments(count).await?;
            answer.field("fragmented", fragmented);
            answer.field("large", largest > FRAGMENT_MAX);
        } else if command.name == "responses" {
            let mut responses = Vec::new();
            while responses.len() < count {
                responses.push(watch.response().await?);
            }
            answer.lines(&responses, |answer, response| response.show(answer));
        } else {
            let mut events = Vec::new();
            while events.len() < count {
                events.push(watch.event().await?);
            }
            // Several watchers of a stream each have their order, but none among them.
            events.sort_by_key(|(watch_id, _)| *watch_id);
            answer.lines(&events, |answer, (watch_id, event)| {
                answer.word(format_args!("{watch_id}:"));
                event.show(answer);
            });
        }
        Ok(answer.finish())
    }

    fn watch_end(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let name = args.word()?;
        args.end()?;
        if command.name == "unwatch" {
            self.watches.remove(name).ok_or("no such watch")?;
        } else {
            self.watches.get_mut(name).ok_or("no such watch")?.half_close();
        }
        Ok(format!("{}: done", command.name))
    }

    async fn snapshot(&mut self) -> Result<String, ScriptError> {
        let chunks = within(async {
            let mut stream = self
                .clients
                .maintenance
                .snapshot(SnapshotRequest {})
                .await?
                .into_inner();
            let mut chunks = Vec::new();
            while let Some(chunk) = stream.message().await? {
                chunks.push(chunk);
            }
            Ok::<_, Status>(chunks)
        });
        let mut answer = Answer::new("snapshot", &self.names);
        match chunks.await? {
            Ok(chunks) => snapshot_facts(&chunks, &mut answer),
            Err(status) => status.show(&mut answer),
        }
        Ok(answer.finish())
    }

    async fn unknown(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let path = args.word()?.parse()?;
        args.end()?;
        let mut client = tonic::client::Grpc::new(self.clients.channel.clone());
        client.ready().await?;
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let response = within(client.unary(Request::new(()), path, codec)).await?;
        Ok(match response {
            Ok(_) => "unknown: answered".into(),
            Err(status) => self.answer(command, &status),
        })
    }

    async fn http(&mut self, command: &Command) -> Result<String, ScriptError> {
        let mut args = Args::new(command, &self.names);
        let (method, path) = (args.word()?, args.word()?);
        let port = match &*args.option::<String>("port")? {
            "" => self.server.ports.client,
            "metrics" => self.server.ports.metrics,
            "peer" => self.server.ports.peer,
            other => return Err(format!("no port {other}").into()),
        };
        let (body, print) = (args.option::<String>("body")?, args.option::<String>("print")?);
        args.end()?;
        let at = self.server.ports.at(port);
        let response = timeout(PATIENCE, http::request(at, method, path, &body)).await??;
        let mut answer = Answer::new("http", &self.names);
        answer.word(&response.status);
        let heads = [
            "content-type",
            "x-content-type-options",
            "allow",
            "access-control-allow-origin",
        ];
        let heads: Vec<_> = heads
            .iter()
            .filter_map(|name| Some((name, response.header(name)?)))
            .collect();
        answer.lines(&heads, |answer, (name, value)| {
            answer.word(format_args!("{name}: {value}"))
        });
        let body = String::from_utf8_lossy(&response.body);
        let mut lines: Vec<_> = body.split_inclusive('\n').collect();
        match &*print {
            "head" => lines.clear(),
            "sorted" => lines.sort(),
            _ => {}
        }
        answer.lines(&lines, |answer, line| answer.word(format_args!("{line:?}")));
        Ok(answer.finish())
    }

    async fn metrics(&mut self, command: &Command) -> Result<String, ScriptError> {
        let names = Args::new(command, &self.names).words();
        let response = timeout(
            PATIENCE,
            http::request(
                self.server.ports.at(self.server.ports.metrics),
                "GET",
                "/metrics",
                "",
            ),
        )
        .await??;
        let body = String::from_utf8_lossy(&response.body);
        let mut samples: Vec<_> = body
            .lines()
            .filter(|line| {
                names
                    .iter()
                    .any(|name| line.split([' ', '{']).next() == Some(name))
            })
            .filter_map(|line| line.rsplit_once(' '))
            // The same number may be written as 2e+09 or in full.
            .map(|(sample, value)| (sample, value.parse().unwrap_or(f64::NAN)))
            .collect();
        samples.sort_by_key(|(sample, _)| *sample);
        let mut answer = Answer::new("metrics", &self.names);
        answer.lines(&samples, |answer, (sample, value)| {
            answer.word(format_args!("{sample} {value}"))
        });
        Ok(answer.finish())
    }

    async fn process(&mut self, command: &Command) -> Result<String, ScriptError> {
        Args::new(command, &self.names).end()?;
        self.watches.clear();
        self.web = Web::default();
        let end = match command.name.as_str() {
            "crash" => {
                self.server.kill();
                String::new()
            }
            "resume" => String::new(),
            "gone" => format!(" {}", self.server.gone().await?),
            _ => format!(" {}", self.server.stop().await?),
        };
        if ["stop", "gone"].contains(&command.name.as_str()) {
            return Ok(format!("{}:{end}", command.name));
        }
        self.server.resume().await?;
        self.clients = Clients::connect(&self.server).await?;
        Ok(format!("{}:{end} ready", command.name))
    }
}

/// Makes a member of a cluster its leader, and waits until all know.
async fn lead(members: &mut [Running], leader: u64) -> Result<(), ScriptError> {
    let all = async {
        loop {
            let mut leaders = Vec::new();
            for member in &mut *members {
                let status = member.clients.maintenance.status(StatusRequest {}).await?;
                leaders.push(status.into_inner().leader);
            }
            if leaders.iter().all(|known| *known == leader) {
                return Ok::<_, Status>(());
            }
            let target_id = leader;
            for member in members
                .iter_mut()
                .filter(|member| member.names.member == leaders[0])
            {
                // Not yet is an answer, too.
                let _ = member
                    .clients
                    .maintenance
                    .move_leader(MoveLeaderRequest { target_id })
                    .await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    Ok(timeout(PATIENCE, all).await??)
}

/// Waits for an answer for as long as a script is ready to. An error the server sent is an answer; a connection that
/// breaks is none.
pub async fn within<T>(
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<Result<T, Status>, ScriptError> {
    let answer = timeout(PATIENCE, answer).await.map_err(|_| "no answer comes")?;
    match &answer {
        Err(status) if status.source().is_some() => Err(format!("the connection breaks: {status:?}").into()),
        _ => Ok(answer),
    }
}

/// What must hold of a snapshot, whatever its size.
fn snapshot_facts(chunks: &[SnapshotResponse], answer: &mut Answer<'_>) {
    const CHUNK_MAX: usize = 32 * 1024;
    let Some((trailer, blobs)) = chunks.split_last() else {
        return answer.word("nothing");
    };
    let whole: Vec<u8> = blobs
        .iter()
        .flat_map(|chunk| chunk.blob.iter().copied())
        .collect();
    let mut remaining = whole.len() as u64;
    let counts_down = blobs.iter().all(|chunk| {
        remaining = remaining.saturating_sub(chunk.blob.len() as u64);
        chunk.remaining_bytes == remaining
    });
    answer.masked("bytes", whole.len());
    answer.field(
        "in_small_chunks",
        blobs.iter().all(|chunk| chunk.blob.len() <= CHUNK_MAX),
    );
    answer.field(
        "remaining_counts_down",
        counts_down && trailer.remaining_bytes == 0,
    );
    answer.field("checksum", trailer.blob[..] == Sha256::digest(&whole)[..]);
    // Page 0 is a meta page; bbolt's magic number follows the page header of 16 bytes.
    answer.field("bbolt", whole.get(16..20) == Some(&0xED0C_DAED_u32.to_le_bytes()));
    answer.field(
        "headers",
        chunks.iter().filter(|chunk| chunk.header.is_some()).count(),
    );
    answer.text("version", &trailer.version);
}
