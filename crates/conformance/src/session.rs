//! A script's way through one server.
//!
//! Besides the calls of [`crate::call`] a script knows:
//!
//! | command | what it does |
//! |---|---|
//! | `start [FLAG=VALUE…]` | starts a server on an empty folder; every script begins with it |
//! | `restart`, `crash` | ends it with SIGTERM or SIGKILL and starts it again on its folder |
//! | `stop` | ends it with SIGTERM and prints how it went |
//! | `fill PREFIX COUNT [VALUE]` | puts PREFIX0000 and so on, prints the last answer |
//! | `events STREAM COUNT` | takes that many events from a Watch stream, however they were batched, by watch id |
//! | `responses STREAM COUNT` | takes that many whole answers from it |
//! | `fragments STREAM COUNT` | takes that many events and tells whether they came in fragments |
//! | `half_close STREAM`, `unwatch STREAM` | ends the requests of a stream; gives it up |
//! | `snapshot` | checks what Maintenance.Snapshot sends: sizes, countdown, checksum, bbolt's magic number |
//! | `health_check SERVICE`, `health_list` | grpc.health.v1 |
//! | `unknown /SERVICE/METHOD` | a unary call with an empty message |
//! | `http METHOD PATH` | an HTTP request; `port=metrics`, `body=…`, `print=head`, `print=sorted` |
//! | `metrics NAME…` | the samples of these metrics |
//! | `> etcdctl …`, `> etcdutl …` | the real tool; `<<< "…"` is its standard input |

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use goldenscript::{Argument, Command, Context};
use grpc::etcdserverpb::cluster_client::ClusterClient;
use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::lease_client::LeaseClient;
use grpc::etcdserverpb::maintenance_client::MaintenanceClient;
use grpc::etcdserverpb::watch_client::WatchClient;
use grpc::grpc::health::v1::health_client::HealthClient;
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
use crate::cli;
use crate::compare::Step;
use crate::http;
use crate::server::Server;
use crate::stream::WatchStream;
use crate::tools::Tools;

/// How long an answer may take. Nothing a script asks takes a second but the end of a lease.
const PATIENCE: Duration = Duration::from_secs(20);

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
        running: None,
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
    running: Option<Running>,
    steps: Vec<Step>,
}

impl goldenscript::Runner for Session {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, ScriptError> {
        let answer = match (&command.name[..], &mut self.running) {
            ("start", _) => {
                let flags: Vec<_> = command.args.iter().map(flag).collect();
                self.running = Some(self.runtime.block_on(Running::start(&self.program, &flags))?);
                "start: ready".to_owned()
            }
            (_, None) => return Err("a script begins with `start`".into()),
            (line, Some(running)) if line.starts_with("etcd") => {
                self.runtime
                    .block_on(cli::run(&self.tools, &running.server, &mut running.names, line))?
            }
            (_, Some(running)) => {
                let answer = self.runtime.block_on(running.step(command))?;
                running.server.masked(&answer)
            }
        };
        self.steps.push(Step {
            call: command.to_string(),
            tags: context.tags.clone(),
            answer: answer.clone(),
        });
        Ok(answer)
    }
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
}

/// A client of every service, all on one connection.
#[derive(Debug)]
struct Clients {
    channel: Channel,
    kv: KvClient<Channel>,
    watch: WatchClient<Channel>,
    lease: LeaseClient<Channel>,
    cluster: ClusterClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    health: HealthClient<Channel>,
}

impl Clients {
    async fn connect(server: &Server) -> Result<Self, ScriptError> {
        let channel = Endpoint::from_shared(format!("http://{}", server.endpoint()))?
            .connect()
            .await?;
        // Whatever a server sends is to be seen; tonic alone would refuse more than 4 MiB.
        const MAX: usize = i32::MAX as usize;
        Ok(Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(MAX),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            health: HealthClient::new(channel.clone()),
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
        let server = Server::start(program, flags).await?;
        let mut clients = Clients::connect(&server).await?;
        let header = clients
            .cluster
            .member_list(MemberListRequest::default())
            .await?
            .into_inner()
            .header;
        let header = header.ok_or("the list of members has no header")?;
        let names = Names {
            cluster: header.cluster_id,
            member: header.member_id,
            leases: Vec::new(),
        };
        Ok(Self {
            server,
            names,
            clients,
            watches: HashMap::new(),
        })
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
            "member_add" => unary!(running, command, cluster.member_add),
            "member_remove" => unary!(running, command, cluster.member_remove),
            "member_update" => unary!(running, command, cluster.member_update),
            "member_promote" => unary!(running, command, cluster.member_promote),

            "health_check" => unary!(running, command, health.check),
            "health_list" => unary!(running, command, health.list),
            "unknown" => running.unknown(command).await,

            "http" => running.http(command).await,
            "metrics" => running.metrics(command).await,

            "restart" | "crash" | "stop" => running.process(command).await,
            other => Err(format!("no such command: {other}").into()),
        }
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
        let response = timeout(PATIENCE, http::request(port, method, path, &body)).await??;
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
            http::request(self.server.ports.metrics, "GET", "/metrics", ""),
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
        let end = match command.name.as_str() {
            "crash" => {
                self.server.kill();
                String::new()
            }
            _ => format!(" {}", self.server.stop().await?),
        };
        if command.name == "stop" {
            return Ok(format!("stop:{end}"));
        }
        self.server.resume().await?;
        self.clients = Clients::connect(&self.server).await?;
        Ok(format!("{}:{end} ready", command.name))
    }
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
