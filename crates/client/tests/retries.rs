//! What is repeated, and where, as etcd's `clientv3` has it: what only reads whenever it may help, what writes only if it has
//! certainly not been carried out. The members are made for the purpose, and count what they are asked.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::{Client, Config, Error};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::Code;

use common::{get, put};

mod common;

/// What a member does with a call.
#[derive(Clone, Copy)]
enum Mood {
    /// Answers it, with nothing.
    Answers,
    /// Refuses it.
    Says(Code, &'static str),
    /// Breaks off in the middle of it.
    Breaks,
}

const UNAVAILABLE: Mood = Mood::Says(Code::Unavailable, "etcdserver: request timed out");

struct Member {
    endpoint: String,
    calls: Arc<AtomicUsize>,
}

impl Member {
    /// One with these moods, one after the other; then it answers.
    async fn with(moods: &[Mood]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let calls = Arc::new(AtomicUsize::new(0));
        let (moods, count) = (moods.to_vec(), calls.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (moods, count) = (moods.clone(), count.clone());
                let service = service_fn(move |_: Request<Incoming>| {
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    let mood = moods.get(number).copied().unwrap_or(Mood::Answers);
                    async move { answer(mood) }
                });
                let builder = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(socket), service));
            }
        });
        Member { endpoint, calls }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn answer(mood: Mood) -> io::Result<Response<BoxBody<Bytes, Infallible>>> {
    let number = |code: Code| HeaderValue::from(code as i32);
    let mut response = match mood {
        Mood::Breaks => return Err(io::ErrorKind::ConnectionReset.into()),
        Mood::Says(code, message) => {
            let mut response = Response::new(Empty::new().boxed());
            response.headers_mut().insert("grpc-status", number(code));
            let message = HeaderValue::from_static(message);
            response.headers_mut().insert("grpc-message", message);
            response
        }
        Mood::Answers => {
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), number(Code::Ok))]);
            let body = Full::new(Bytes::from_static(&[0; 5]));
            Response::new(body.with_trailers(async { Some(Ok(trailers)) }).boxed())
        }
    };
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

async fn client(members: &[&Member]) -> Client {
    let config = Config::new(members.iter().map(|member| member.endpoint.clone()));
    let client = Client::connect(config).await.unwrap();
    for member in members {
        client.at(&member.endpoint).unwrap().reached().await.unwrap();
    }
    client
}

#[tokio::test]
async fn a_read_is_repeated_and_a_write_is_not() {
    for mood in [UNAVAILABLE, Mood::Breaks] {
        let member = Member::with(&[mood; 3]).await;
        let client = client(&[&member]).await;
        client.range(get("a")).await.unwrap();
        assert_eq!(member.calls(), 4);

        let member = Member::with(&[mood; 3]).await;
        let client = self::client(&[&member]).await;
        let refusal = client.put(put("a", "1")).await.unwrap_err();
        assert_eq!(member.calls(), 1);
        match mood {
            Mood::Breaks => assert!(matches!(refusal, Error::Lost { .. }), "{refusal:?}"),
            _ => assert_eq!(refusal.server_message(), Some("etcdserver: request timed out")),
        }
    }
}

#[tokio::test]
async fn what_the_cluster_has_refused_for_good_is_not_repeated() {
    for (code, message) in [
        (Code::InvalidArgument, "etcdserver: key is not provided"),
        (
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        ),
        (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (Code::PermissionDenied, "etcdserver: permission denied"),
    ] {
        let member = Member::with(&[Mood::Says(code, message)]).await;
        let client = client(&[&member]).await;
        let message = message.to_owned();
        assert_eq!(
            client.range(get("a")).await.unwrap_err(),
            Error::Server { code, message }
        );
        assert_eq!(member.calls(), 1);
    }
}

#[tokio::test]
async fn attempts_have_an_end() {
    let member = Member::with(&[UNAVAILABLE; 9]).await;
    let client = Client::connect(Config {
        max_attempts: 3,
        ..Config::new([&member.endpoint])
    });
    let refusal = client.await.unwrap().range(get("a")).await.unwrap_err();
    assert_eq!(refusal.server_message(), Some("etcdserver: request timed out"));
    assert_eq!(member.calls(), 3);
}

#[tokio::test]
async fn calls_take_turns_along_the_members_and_a_failed_one_is_repeated_elsewhere() {
    let (good, bad) = (Member::with(&[]).await, Member::with(&[UNAVAILABLE; 100]).await);
    let client = client(&[&good, &bad]).await;
    for _ in 0..6 {
        client.range(get("a")).await.unwrap();
    }
    // The first is the good one's turn; all others are the bad one's first.
    assert_eq!((good.calls(), bad.calls()), (6, 5));
}

#[tokio::test]
async fn a_write_that_a_learner_refuses_is_made_elsewhere() {
    let learner = Mood::Says(
        Code::FailedPrecondition,
        "etcdserver: rpc not supported for learner",
    );
    let (member, learner) = (Member::with(&[]).await, Member::with(&[learner; 100]).await);
    let client = client(&[&member, &learner]).await;
    for _ in 0..3 {
        client.put(put("a", "1")).await.unwrap();
    }
    assert_eq!((member.calls(), learner.calls()), (3, 2));
}

#[tokio::test]
async fn a_member_that_is_away_costs_no_call_not_even_a_write() {
    let (member, away) = (Member::with(&[]).await, common::Relay::to("127.0.0.1:1").await);
    away.close();
    let config = Config {
        call_timeout: Some(Duration::from_secs(60)),
        ..Config::new([&away.endpoint, &member.endpoint])
    };
    let client = Client::connect(config).await.unwrap();
    for _ in 0..10 {
        client.put(put("a", "1")).await.unwrap();
    }
    assert_eq!(member.calls(), 10);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent() {
    let member = Member::with(&[]).await;
    let client = client(&[&member]).await;
    let large = put("a", &"x".repeat(3 << 20));
    let Error::TooLarge { size, max } = client.put(large).await.unwrap_err() else {
        panic!("it is taken")
    };
    assert!(size > max && member.calls() == 0);
}
