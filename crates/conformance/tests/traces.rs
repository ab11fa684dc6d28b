//! Spans of calls reach a collector, and a collector that is away is nobody's trouble.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use bytes::{Buf, Bytes};
use conformance::harness::{self, Work};
use conformance::load::channel;
use conformance::server::Server;
use conformance::tools::Tools;
use futures_util::StreamExt;
use grpc::etcdserverpb::kv_client::KvClient;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use proto::otlp::any_value::Value;
use proto::otlp::{ExportTraceServiceRequest, Span};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Channel;

/// How long to wait for what comes within seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exports that may wait for the test.
const EXPORTS: usize = 64;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn main() -> ExitCode {
    let trial = |name: &str, work: fn(&Tools) -> Result<(), String>| -> (String, Work) {
        (name.to_owned(), Box::new(move |tools| Ok(work(tools)?)))
    };
    harness::run(vec![
        trial(
            "spans_of_a_put_and_a_range_reach_the_collector_as_parts_of_their_callers_trace",
            spans_arrive,
        ),
        trial(
            "a_collector_that_is_away_costs_its_spans_and_nothing_else",
            collector_away,
        ),
    ])
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// A collector: what it is sent comes out of the receiver.
async fn collect() -> Result<(SocketAddr, mpsc::Receiver<ExportTraceServiceRequest>), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    let (give, exports) = mpsc::channel(EXPORTS);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let give = give.clone();
            let service = service_fn(move |request| take(request, give.clone()));
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok((address, exports))
}

/// Takes an export, and answers as a collector that is content.
async fn take(
    request: Request<Incoming>,
    give: mpsc::Sender<ExportTraceServiceRequest>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    assert_eq!(
        request.uri().path(),
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    let mut body = request.into_body().collect().await?.to_bytes();
    body.advance(5);
    let export = ExportTraceServiceRequest::decode(body).expect("an export is sent");
    // The test may have seen enough.
    let _ = give.send(export).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [
        Frame::data(Bytes::from_static(&[0; 5])),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
    let answer = Response::builder().header("content-type", "application/grpc");
    Ok(answer.body(body).expect("a header is a header"))
}

fn flags(collector: SocketAddr, rate: u32) -> Vec<String> {
    vec![
        "--enable-distributed-tracing".to_owned(),
        format!("--distributed-tracing-address={collector}"),
        "--distributed-tracing-service-name=keelson".to_owned(),
        "--distributed-tracing-instance-id=one".to_owned(),
        format!("--distributed-tracing-sampling-rate={rate}"),
    ]
}

fn client(server: &Server) -> KvClient<Channel> {
    KvClient::new(channel(server.address()))
}

fn traced<T>(message: T, is_kept: bool) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let parent = format!("00-{TRACE}-{CALLER}-0{}", u8::from(is_kept));
    let parent = parent.parse().expect("hex digits are a header's value");
    request.metadata_mut().insert("traceparent", parent);
    request
}

fn put() -> PutRequest {
    PutRequest {
        key: "a key".into(),
        value: "a secret".into(),
        ..Default::default()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    found.value.as_ref()?.value.as_ref()
}

fn spans_arrive(tools: &Tools) -> Result<(), String> {
    harness::runtime()?.block_on(async {
        let (collector, mut exports) = collect().await?;
        let mut server = Server::start(&tools.ours, &flags(collector, 0)).await?;
        let mut kv = client(&server);
        kv.put(put()).await.map_err(text)?;
        kv.put(traced(put(), false)).await.map_err(text)?;
        kv.put(traced(put(), true)).await.map_err(text)?;
        let range = RangeRequest {
            key: "a key".into(),
            ..Default::default()
        };
        kv.range(traced(range, true)).await.map_err(text)?;
        // What waits for company is sent at a stop.
        server.stop().await?;
        let mut spans = Vec::new();
        while spans.len() < 4 {
            let export = tokio::time::timeout(PATIENCE, exports.recv()).await;
            let export = export.map_err(text)?.ok_or("the collector is gone")?;
            assert!(!hex(&export.encode_to_vec()).contains(&hex(b"a secret")));
            for part in export.resource_spans {
                let told = part.resource.unwrap_or_default().attributes;
                let names: Vec<_> = told.iter().map(|attribute| attribute.key.as_str()).collect();
                assert_eq!(names, ["service.name", "service.instance.id"]);
                spans.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        assert_eq!(spans.len(), 4, "two calls are kept, with what each did");
        for (call, inner) in [("etcdserverpb.KV/Put", "put"), ("etcdserverpb.KV/Range", "range")] {
            let find = |name: &str| {
                let mut named = spans.iter().filter(|span| span.name == name);
                named.next().ok_or(format!("no span {name}"))
            };
            let (call, inner) = (find(call)?, find(inner)?);
            assert_eq!(hex(&call.trace_id), TRACE);
            assert_eq!(hex(&call.parent_span_id), CALLER);
            assert_eq!(attribute(call, "rpc.grpc.status_code"), Some(&Value::IntValue(0)));
            assert_eq!(inner.trace_id, call.trace_id);
            assert_eq!(inner.parent_span_id, call.span_id);
            assert!(call.start_time_unix_nano <= inner.start_time_unix_nano);
            assert!(inner.end_time_unix_nano <= call.end_time_unix_nano);
        }
        let put = spans.iter().find(|span| span.name == "put").ok_or("no put")?;
        assert_eq!(
            attribute(put, "key"),
            Some(&Value::StringValue("a key".to_owned()))
        );
        let moments: Vec<_> = put.events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(moments, ["Send raft proposal", "Receive raft result"]);
        Ok(())
    })
}

fn collector_away(tools: &Tools) -> Result<(), String> {
    harness::runtime()?.block_on(async {
        // It takes connections, and never says a word.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(text)?;
        let address = silent.local_addr().map_err(text)?;
        let mut server = Server::start(&tools.ours, &flags(address, 1_000_000)).await?;
        let kv = client(&server);
        // More spans than may wait.
        let puts = futures_util::stream::iter(0..2000).map(|_| {
            let mut kv = kv.clone();
            async move { kv.put(put()).await }
        });
        let answers: Vec<_> = puts.buffer_unordered(64).collect().await;
        for answer in answers {
            answer.map_err(text)?;
        }
        server.stop().await?;
        Ok(())
    })
}
