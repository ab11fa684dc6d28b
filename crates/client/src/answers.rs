//! Answers that come piece by piece.

use http::uri::PathAndQuery;
use prost::Message;
use proto::etcdserverpb::{RangeRequest, RangeStreamResponse, SnapshotRequest, SnapshotResponse};
use proto::keelson::v1::progress_request::Job;
use proto::keelson::v1::{ProgressRequest, ProgressResponse};
use proto::v3electionpb::{LeaderRequest, LeaderResponse};
use tonic::Streaming;
use tonic_prost::ProstCodec;

use crate::call::Repeat;
use crate::error::Failure;
use crate::namespace::{Enter, Leave};
use crate::{Client, Error};

/// An answer of many messages. Nothing is sent before the first one is asked for.
pub struct Answers<Q, A> {
    client: Client,
    path: &'static str,
    request: Q,
    state: State<A>,
}

enum State<A> {
    Asking,
    Coming(Box<Streaming<A>>),
    Over,
}

impl Client {
    /// A member's whole database as a file; see [`Client::at`]. The last 32 bytes are the SHA-256 of what precedes them.
    pub fn snapshot(&self) -> Answers<SnapshotRequest, SnapshotResponse> {
        self.answers("/etcdserverpb.Maintenance/Snapshot", SnapshotRequest::default())
    }

    /// Reads keys, piece by piece.
    pub fn range_stream(&self, request: RangeRequest) -> RangeStream {
        let mut inside = request;
        let entered = self
            .core
            .namespace
            .as_ref()
            .map_or(Ok(()), |space| inside.enter(space));
        RangeStream {
            refused: entered.err(),
            answers: self.answers("/etcdserverpb.KV/RangeStream", inside),
        }
    }

    /// Who is elected, now and whenever that changes.
    pub fn observe(&self, request: LeaderRequest) -> Answers<LeaderRequest, LeaderResponse> {
        self.answers("/v3electionpb.Election/Observe", request)
    }

    /// How far a member is with a job, now and whenever that has changed, until the job is over; see [`Client::at`].
    /// Nothing is told if it is not at work, and only members of ours tell anything.
    pub fn progress(&self, job: Job) -> Answers<ProgressRequest, ProgressResponse> {
        self.answers("/keelson.v1.Progress/Watch", ProgressRequest { job: job.into() })
    }

    fn answers<Q, A>(&self, path: &'static str, request: Q) -> Answers<Q, A> {
        Answers {
            client: self.clone(),
            path,
            request,
            state: State::Asking,
        }
    }
}

/// Keys that come piece by piece.
pub struct RangeStream {
    answers: Answers<RangeRequest, RangeStreamResponse>,
    /// Why nothing is asked for.
    refused: Option<Error>,
}

impl RangeStream {
    /// The next piece, or why there is none. There is nothing after an error.
    pub async fn next(&mut self) -> Option<Result<RangeStreamResponse, Error>> {
        if let Some(error) = self.refused.take() {
            self.answers.state = State::Over;
            return Some(Err(error));
        }
        let mut next = self.answers.next().await;
        if let (Some(space), Some(Ok(answer))) = (&self.answers.client.core.namespace, &mut next) {
            answer.leave(space);
        }
        next
    }
}

impl<Q, A> Answers<Q, A>
where
    Q: Message + Clone + 'static,
    A: Message + Default + 'static,
{
    /// The next message, or why there is none. There is nothing after an error.
    ///
    /// Until the first message has come, the call is repeated like one that reads.
    pub async fn next(&mut self) -> Option<Result<A, Error>> {
        let next = match &mut self.state {
            State::Over => return None,
            State::Coming(stream) => stream.message().await.map_err(Error::from).transpose(),
            State::Asking => self.first().await.transpose(),
        };
        if !matches!(next, Some(Ok(_))) {
            self.state = State::Over;
        }
        next
    }

    async fn first(&mut self) -> Result<Option<A>, Error> {
        let mut attempt = 0;
        loop {
            let generation = self.client.generation();
            let failure = match self.begin().await {
                Ok((first, stream)) => {
                    self.state = State::Coming(Box::new(stream));
                    return Ok(first);
                }
                Err(failure) => failure,
            };
            attempt += 1;
            self.client
                .recover(self.path, failure, Repeat::Freely, attempt, generation)
                .await?;
        }
    }

    async fn begin(&self) -> Result<(Option<A>, Streaming<A>), Failure> {
        let request = self.client.request(self.request.clone());
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(self.path);
        let mut grpc = self.client.grpc();
        let mut stream = grpc.server_streaming(request, path, codec).await?.into_inner();
        Ok((stream.message().await?, stream))
    }
}
