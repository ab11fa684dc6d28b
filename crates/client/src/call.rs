//! One call, as often as it takes.
//!
//! What may be repeated is decided by what is known about the attempt that failed:
//!
//! * It has certainly not reached a server: again, whatever it is (most of this happens in [`crate::channel`]).
//! * The server says that it is unavailable, or the connection broke: again if the call only reads, or may be carried
//!   out twice. A write is not repeated, because it may have been carried out.
//! * The member knows no leader, and was told to look first: again.
//! * The token is no longer good: again with another one.
//!
//! Between rounds along a majority of the endpoints there is a wait. All limits are those of etcd's own client.

use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use prost::Message;
use rand::Rng;
use tokio::time::{sleep, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Code, IntoStreamingRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::warn;

use crate::channel::Channel;
use crate::error::{Failure, Lost};
use crate::{Client, Error};

/// Which calls may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Those that read, or do the same when done twice.
    Freely,
    /// Those that must not be carried out twice.
    IfUnsent,
}

/// The refusal of a member that has no vote: another one may serve.
const LEARNER: &str = "etcdserver: rpc not supported for learner";

/// The refusal of a member that was told to look for a leader first, and knows none.
pub const NO_LEADER: &str = "etcdserver: no leader";

/// What of etcd's API this client knows, as it says with every call.
const API_VERSION: &str = "3.7";

/// What to do about a failed attempt.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Again,
    RenewToken,
    GiveUp,
}

impl Client {
    /// Makes a call, within the time it has.
    pub(crate) async fn call<Q, A>(&self, path: &'static str, request: Q, repeat: Repeat) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let (size, max) = (request.encoded_len(), self.core.config.max_send_bytes);
        if size > max {
            return Err(Error::TooLarge { size, max });
        }
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let work = self.persist(path, request, repeat, deadline);
        let Some(deadline) = deadline else {
            return work.await;
        };
        let answer = timeout_at(deadline.into(), work).await;
        answer.unwrap_or_else(|_| Err(Error::Deadline(self.core.channel.last_failure())))
    }

    async fn persist<Q, A>(
        &self,
        path: &'static str,
        request: Q,
        repeat: Repeat,
        deadline: Option<Instant>,
    ) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut attempt = 0;
        loop {
            let generation = self.generation();
            let failure = match self.attempt(path, request.clone(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            attempt += 1;
            self.recover(path, failure, repeat, attempt, generation).await?;
        }
    }

    /// Prepares another attempt after the one of that number has failed, or says why there should be none.
    pub(crate) async fn recover(
        &self,
        path: &'static str,
        failure: Failure,
        repeat: Repeat,
        attempt: u32,
        generation: u64,
    ) -> Result<(), Error> {
        let next = self.next(&failure, repeat);
        let error = Error::from(failure);
        warn!(method = path, attempt, %error, "call failed");
        match next {
            _ if attempt >= self.core.config.max_attempts => return Err(error),
            Next::GiveUp => return Err(error),
            Next::RenewToken => self.renew_token(generation).await?,
            Next::Again => {}
        }
        self.wait(attempt).await;
        Ok(())
    }

    async fn attempt<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        deadline: Option<Instant>,
    ) -> Result<A, Failure>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = self.request(message);
        if let Some(deadline) = deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        let codec = ProstCodec::<Q, A>::default();
        let answer = self
            .grpc()
            .unary(request, PathAndQuery::from_static(path), codec)
            .await;
        Ok(answer?.into_inner())
    }

    fn next(&self, failure: &Failure, repeat: Repeat) -> Next {
        let may_repeat = |may| if may { Next::Again } else { Next::GiveUp };
        match failure {
            Failure::Lost(Lost { is_foreign: true, .. }) => may_repeat(self.core.channel.len() > 1),
            Failure::Lost(Lost { is_untouched, .. }) => may_repeat(*is_untouched || repeat == Repeat::Freely),
            Failure::Status(status) if self.may_renew(status.message()) => Next::RenewToken,
            // It has not begun; another member may know a leader, or this one soon.
            Failure::Status(status) if self.requires_leader && status.message() == NO_LEADER => Next::Again,
            Failure::Status(status) if status.message() == LEARNER => may_repeat(self.core.channel.len() > 1),
            Failure::Status(status) => {
                let passes = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
                may_repeat(passes && repeat == Repeat::Freely)
            }
        }
    }

    /// Waits before an attempt, so that the second round along a majority does not follow the first at once.
    pub(crate) async fn wait(&self, attempt: u32) {
        let majority = self.core.channel.len() as u32 / 2 + 1;
        if attempt.is_multiple_of(majority) {
            sleep(jittered(self.core.config.retry_wait)).await;
        }
    }

    /// Whether a call that was refused like this may be made again with another token. Those of others are theirs.
    pub(crate) fn may_renew(&self, message: &str) -> bool {
        self.token.is_none() && self.core.identity.may_renew(message)
    }

    /// Which token calls are made with.
    pub(crate) fn generation(&self) -> u64 {
        self.core.identity.generation()
    }

    /// Makes sure that there is a newer token than that.
    pub(crate) async fn renew_token(&self, generation: u64) -> Result<(), Error> {
        let sign_in = async |request: proto::etcdserverpb::AuthenticateRequest| {
            let mut attempt = 0;
            loop {
                let answer = self
                    .attempt("/etcdserverpb.Auth/Authenticate", request.clone(), None)
                    .await;
                let error = match answer {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => Error::from(failure),
                };
                attempt += 1;
                if !error.is_transient() || attempt >= self.core.config.max_attempts {
                    return Err(error);
                }
                self.wait(attempt).await;
            }
        };
        self.core.identity.renew(generation, sign_in).await
    }

    /// A message with what goes along with every one.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", MetadataValue::from_static(API_VERSION));
        if let Some(token) = self.token.clone().or_else(|| self.core.identity.token()) {
            metadata.insert("token", token);
        }
        if self.requires_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        request
    }

    pub(crate) fn grpc(&self) -> Grpc<Channel> {
        let config = &self.core.config;
        Grpc::new(self.core.channel.clone())
            .max_encoding_message_size(config.max_send_bytes)
            .max_decoding_message_size(config.max_receive_bytes)
    }

    /// Opens a stream of both sides. There is an answer when the server's side has begun, which some servers do only
    /// with their first message.
    pub(crate) async fn open<Q, A, S>(
        &self,
        again: Again,
        path: &'static str,
        messages: S,
    ) -> Result<Streaming<A>, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
        S: tokio_stream::Stream<Item = Q> + Send + 'static,
    {
        sleep(again.pause).await;
        if again.renew {
            self.renew_token(self.generation()).await?;
        }
        let request = self.request(messages).into_streaming_request();
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        Ok(self.grpc().streaming(request, path, codec).await?.into_inner())
    }
}

/// What comes before a stream is opened another time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Again {
    pub pause: Duration,
    /// Whether another token is needed.
    pub renew: bool,
}

/// The next message of a stream that should not end, once it is there.
pub async fn next<A>(answers: &mut Option<Streaming<A>>) -> Result<A, Error> {
    let Some(answers) = answers else {
        return std::future::pending().await;
    };
    match answers.message().await? {
        Some(answer) => Ok(answer),
        None => Err(Status::unavailable("the stream has ended").into()),
    }
}

/// Give or take a tenth.
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.9..1.1))
}
