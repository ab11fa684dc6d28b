//! Reads and writes, and what is known of the former.

use std::sync::Arc;

use client::leasing::Leasing;
use client::{Client, Error};
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
    /// If keys are read that this proxy owns.
    pub leasing: Option<Leasing>,
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
        let keys = self.by(&client);
        let ask = || keys.range(range.clone());
        let found = match &self.order {
            // Nobody is behind what all agree on.
            Some(order) if !range.serializable => order.note(ask().await.map_err(status)?),
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
        let done = self.by(&client).put(put).await;
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
        let done = self.by(&client).delete_range(delete).await;
        self.cache.forget(&key, &end);
        answer(done)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let client = for_call(&self.client, &request);
        let txn = request.into_inner();
        let done = self.by(&client).txn(txn.clone()).await;
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

impl Keys {
    fn by<'a>(&self, client: &'a Client) -> By<'a> {
        match &self.leasing {
            Some(leasing) => By::Leasing(leasing.by(client)),
            None => By::Client(client),
        }
    }
}

/// Who is asked.
enum By<'a> {
    /// The cluster.
    Client(&'a Client),
    /// The cluster, but for what is owned.
    Leasing(Leasing),
}

impl By<'_> {
    async fn range(&self, range: RangeRequest) -> Result<RangeResponse, Error> {
        match self {
            By::Client(client) => client.range(range).await,
            By::Leasing(leasing) => leasing.range(range).await,
        }
    }

    async fn put(&self, put: PutRequest) -> Result<PutResponse, Error> {
        match self {
            By::Client(client) => client.put(put).await,
            By::Leasing(leasing) => leasing.put(put).await,
        }
    }

    async fn delete_range(&self, delete: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        match self {
            By::Client(client) => client.delete_range(delete).await,
            By::Leasing(leasing) => leasing.delete_range(delete).await,
        }
    }

    async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Error> {
        match self {
            By::Client(client) => client.txn(txn).await,
            By::Leasing(leasing) => leasing.txn(txn).await,
        }
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
