//! Reads and writes, and what is known of the former.

use std::sync::Arc;

use client::Client;
use futures_util::stream::{BoxStream, unfold};
use grpc::etcdserverpb::kv_server::Kv;
use proto::etcdserverpb::request_op;
use proto::etcdserverpb::*;
use tonic::{Request, Response, Status};

use super::cache::Cache;
use super::calls::{answer, for_call, status};
use super::order::Order;

pub struct Keys {
    pub client: Client,
    pub cache: Arc<Cache>,
    /// If answers are not to go back in time.
    pub order: Option<Order>,
}

#[tonic::async_trait]
impl Kv for Keys {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let client = for_call(&self.client, &request);
        let token = client.token().map(|token| token.as_bytes().to_vec());
        let range = request.into_inner();
        let changes = match range.serializable {
            false => self.cache.changes(),
            true => match self.cache.get(token.as_deref(), &range) {
                Ok(known) => return Ok(Response::new(known)),
                Err(changes) => changes,
            },
        };
        let ask = || client.range(range.clone());
        let found = match &self.order {
            Some(order) => order.keep(client.endpoints().len(), ask).await?,
            None => ask().await.map_err(status)?,
        };
        self.cache.add(token.as_deref(), &range, &found, changes);
        Ok(Response::new(found))
    }

    type RangeStreamStream = BoxStream<'static, Result<RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let pieces = for_call(&self.client, &request).range_stream(request.into_inner());
        let pieces = unfold(pieces, async |mut pieces| {
            let next = pieces.next().await?;
            Some((next.map_err(status), pieces))
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let client = for_call(&self.client, &request);
        let put = request.into_inner();
        let key = put.key.clone();
        let done = client.put(put).await;
        // It may have been carried out even if that is not known.
        self.cache.forget(&key, b"");
        answer(done)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let client = for_call(&self.client, &request);
        let delete = request.into_inner();
        let (key, end) = (delete.key.clone(), delete.range_end.clone());
        let done = client.delete_range(delete).await;
        self.cache.forget(&key, &end);
        answer(done)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let client = for_call(&self.client, &request);
        let txn = request.into_inner();
        let done = client.txn(txn.clone()).await;
        forget_txn(&self.cache, &txn);
        answer(done)
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let client = for_call(&self.client, &request);
        let done = client.compact(request.into_inner()).await;
        self.cache.clear();
        answer(done)
    }
}

/// Forgets what either side of a transaction may have changed.
fn forget_txn(cache: &Cache, txn: &TxnRequest) {
    let ops = txn.success.iter().chain(&txn.failure);
    for op in ops.filter_map(|op| op.request.as_ref()) {
        match op {
            request_op::Request::RequestRange(_) => {}
            request_op::Request::RequestPut(put) => cache.forget(&put.key, b""),
            request_op::Request::RequestDeleteRange(delete) => cache.forget(&delete.key, &delete.range_end),
            request_op::Request::RequestTxn(txn) => forget_txn(cache, txn),
        }
    }
}
