//! A client of the ordinary stubs cannot tell what the hot server stubs answer from the plain messages.

use std::pin::Pin;
use std::task::Waker;

use grpc::etcdserverpb::kv_client::KvClient;
use grpc::etcdserverpb::watch_client::WatchClient;
use grpc::hot::etcdserverpb::kv_server::{Kv, KvServer};
use grpc::hot::etcdserverpb::watch_server::{Watch, WatchServer};
use prost::Message;
use proto::etcdserverpb::*;
use proto::mvccpb::{Event, KeyValue};
use proto::raw;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use types::KeyRange;
use watch::{Create, Frame, Hub, Identity, Options};

fn header() -> ResponseHeader {
    ResponseHeader {
        cluster_id: 1,
        member_id: 2,
        revision: 3,
        raft_term: 4,
    }
}

fn stored(key: &'static str) -> KeyValue {
    KeyValue {
        key: key.into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: vec![b'v'; 200].into(),
        lease: -7,
    }
}

fn bytes(key: &'static str) -> prost::bytes::Bytes {
    stored(key).encode_to_vec().into()
}

fn raw_range() -> raw::RangeResponse {
    raw::RangeResponse {
        header: Some(header()),
        kvs: vec![bytes("a"), bytes("b")],
        more: true,
        count: 9,
    }
}

fn plain_range() -> RangeResponse {
    RangeResponse {
        header: Some(header()),
        kvs: vec![stored("a"), stored("b")],
        more: true,
        count: 9,
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Fixed;

#[tonic::async_trait]
impl Kv for Fixed {
    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<raw::RangeResponse>, Status> {
        Ok(Response::new(raw_range()))
    }

    type RangeStreamStream = Answers<raw::RangeStreamResponse>;

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let answer = raw::RangeStreamResponse {
            range_response: Some(raw_range()),
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([
            Ok(answer.clone()),
            Ok(answer),
        ]))))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<raw::PutResponse>, Status> {
        Ok(Response::new(raw::PutResponse {
            header: Some(header()),
            prev_kv: Some(bytes("a")),
        }))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<raw::DeleteRangeResponse>, Status> {
        let answer = raw::DeleteRangeResponse {
            header: Some(header()),
            deleted: 1,
            prev_kvs: vec![bytes("a")],
        };
        Ok(Response::new(answer))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<raw::TxnResponse>, Status> {
        let response = Some(raw::response_op::Response::ResponseRange(raw_range()));
        let responses = vec![raw::ResponseOp { response }];
        Ok(Response::new(raw::TxnResponse {
            header: Some(header()),
            succeeded: true,
            responses,
        }))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Ok(Response::new(CompactionResponse {
            header: Some(header()),
        }))
    }
}

#[tokio::test]
async fn kv_answers_are_the_plain_messages() {
    let mut client = KvClient::new(KvServer::new(Fixed));
    let answer = client.range(RangeRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer, plain_range());

    let answer = client
        .range_stream(RangeRequest::default())
        .await
        .unwrap()
        .into_inner();
    let parts: Vec<_> = answer.map(Result::unwrap).collect().await;
    assert_eq!(
        parts,
        vec![
            RangeStreamResponse {
                range_response: Some(plain_range())
            };
            2
        ]
    );

    let answer = client.put(PutRequest::default()).await.unwrap().into_inner();
    assert_eq!(
        answer,
        PutResponse {
            header: Some(header()),
            prev_kv: Some(stored("a"))
        }
    );

    let answer = client
        .delete_range(DeleteRangeRequest::default())
        .await
        .unwrap()
        .into_inner();
    let expected = DeleteRangeResponse {
        header: Some(header()),
        deleted: 1,
        prev_kvs: vec![stored("a")],
    };
    assert_eq!(answer, expected);

    let answer = client.txn(TxnRequest::default()).await.unwrap().into_inner();
    let response = Some(response_op::Response::ResponseRange(plain_range()));
    let responses = vec![ResponseOp { response }];
    assert_eq!(
        answer,
        TxnResponse {
            header: Some(header()),
            succeeded: true,
            responses
        }
    );

    let answer = client
        .compact(CompactionRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        answer,
        CompactionResponse {
            header: Some(header())
        }
    );
}

/// Serves one stream with one watcher of `k` and one event.
struct OneEvent;

#[tonic::async_trait]
impl Watch for OneEvent {
    type WatchStream = Answers<Frame>;

    async fn watch(
        &self,
        _: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let identity = Identity {
            cluster_id: 1,
            member_id: 2,
            raft_term: 4,
        };
        let mut hub = Hub::new(identity, 2, 0, Options::default(), Waker::noop().clone());
        let (outbox, frames) = hub.opener().open();
        let stream = outbox.id();
        hub.open(outbox, 0);
        hub.create(
            stream,
            Create {
                prev_kv: true,
                ..Create::new(KeyRange::One("k".into()))
            },
            2,
        );
        let event = watch::Event::parse(3, false, bytes("k")).unwrap();
        hub.publish(3, &[event], &mut |_, _| Some(bytes("old")));
        // What is queued is read before the hub, and with it the stream, ends.
        let answers: Vec<_> = frames.take(2).map(|frame| Ok(frame.unwrap())).collect().await;
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }
}

#[tokio::test]
async fn watch_answers_are_the_plain_messages() {
    let mut client = WatchClient::new(WatchServer::new(OneEvent));
    let answers = client.watch(tokio_stream::empty()).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
    let created = ResponseHeader {
        revision: 2,
        ..header()
    };
    let event = Event {
        kv: Some(stored("k")),
        prev_kv: Some(stored("old")),
        ..Event::default()
    };
    assert_eq!(
        answers,
        [
            WatchResponse {
                header: Some(created),
                created: true,
                ..WatchResponse::default()
            },
            WatchResponse {
                header: Some(header()),
                events: vec![event],
                ..WatchResponse::default()
            },
        ]
    );
}
