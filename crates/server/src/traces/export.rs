//! The way of spans to a collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use peer::Connector;
use proto::otlp::any_value::Value;
use proto::otlp::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, InstrumentationScope, Resource, ResourceSpans,
    ScopeSpans, Span,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::{Item, attribute};
use crate::config::{Tracing, VERSION};

/// Spans that are sent together, and how long the first of them waits for others: as etcd's exporter.
const BATCH_MAX: usize = 512;
const BATCH_DELAY: Duration = Duration::from_secs(5);
/// How long the collector may take. Meanwhile the queue fills, and what finds no room is dropped.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const SCOPE: &str = "go.etcd.io/etcd";

/// Told when a flush is done.
pub type Flush = oneshot::Sender<()>;

/// Sends spans.
pub struct Exporter {
    items: mpsc::Receiver<Item>,
    dropped: Arc<AtomicU64>,
    resource: Resource,
    origin: Uri,
    client: Client<Connector, tonic::body::Body>,
}

impl Exporter {
    pub(super) fn new(settings: &Tracing, items: mpsc::Receiver<Item>, dropped: Arc<AtomicU64>) -> Self {
        let told = |name, value: &String| {
            (!value.is_empty()).then(|| attribute(name, Value::StringValue(value.clone())))
        };
        let attributes = [
            told("service.name", &settings.service_name),
            told("service.instance.id", &settings.instance_id),
        ];
        Exporter {
            items,
            dropped,
            resource: Resource {
                attributes: attributes.into_iter().flatten().collect(),
            },
            origin: settings.collector.clone(),
            client: Client::builder(TokioExecutor::new())
                .http2_only(true)
                .build(Connector::new(None, EXPORT_TIMEOUT)),
        }
    }

    /// Spans that were dropped since this was last logged.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Sends spans until there is nobody left to make any.
    pub async fn run(mut self) {
        let (mut spans, mut items) = (Vec::new(), Vec::new());
        // When what is there is sent, however little it is.
        let mut due = None;
        loop {
            let next = self.items.recv_many(&mut items, BATCH_MAX);
            let received = match due {
                None => next.await,
                Some(due) => timeout_at(due, next).await.unwrap_or(usize::MAX),
            };
            let mut flushes = Vec::new();
            for item in items.drain(..) {
                match item {
                    Item::Span(span) => spans.push(*span),
                    Item::Flush(done) => flushes.push(done),
                }
            }
            let is_due = due.is_some_and(|due| due <= Instant::now());
            if is_due || spans.len() >= BATCH_MAX || !flushes.is_empty() || received == 0 {
                self.export(std::mem::take(&mut spans)).await;
                due = None;
            } else if due.is_none() {
                due = Some(Instant::now() + BATCH_DELAY);
            }
            // Who waited may have gone.
            for done in flushes {
                let _ = done.send(());
            }
            if received == 0 {
                return;
            }
        }
    }

    async fn export(&self, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let sent = timeout(EXPORT_TIMEOUT, self.send(spans)).await;
        let sent = sent.unwrap_or_else(|_| Err(Status::deadline_exceeded("the collector does not answer")));
        let rejected = match &sent {
            Ok(answer) => answer
                .partial_success
                .as_ref()
                .map_or(0, |part| part.rejected_spans.max(0) as u64),
            Err(_) => count,
        };
        let dropped = self.dropped.swap(0, Relaxed) + rejected;
        if dropped > 0 {
            tracing::warn!(
                collector = %self.origin,
                error = sent.err().map(|error| error.message().to_owned()),
                dropped,
                "failed to export traces"
            );
        }
    }

    async fn send(&self, spans: Vec<Span>) -> Result<ExportTraceServiceResponse, Status> {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: SCOPE.into(),
                        version: VERSION.into(),
                    }),
                    spans,
                }],
            }],
        };
        let mut grpc = tonic::client::Grpc::with_origin(self.client.clone(), self.origin.clone());
        let not_ready = |error: hyper_util::client::legacy::Error| Status::unavailable(error.to_string());
        grpc.ready().await.map_err(not_ready)?;
        let codec = tonic_prost::ProstCodec::<ExportTraceServiceRequest, _>::default();
        let path = PathAndQuery::from_static(EXPORT);
        let answer = grpc.unary(tonic::Request::new(request), path, codec).await?;
        Ok(answer.into_inner())
    }
}
