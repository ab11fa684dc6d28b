//! Software transactional memory: code that reads and writes keys, as if nobody else did at the same time.
//!
//! The code runs against the cluster as it is and keeps its writes back. At the end they are written in one transaction, if
//! what was read is still so; else all of it is run again. What "still so" means is the isolation.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::etcdserverpb::compare::CompareResult;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use proto::mvccpb::KeyValue;

use crate::keys::{get, is_changed, op, put};
use crate::session::ranges;
use crate::{Client, Error};

/// What others may do meanwhile, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Reads are of one revision, and neither what was read nor what is written has changed since.
    #[default]
    SerializableSnapshot,
    /// Reads are of one revision, and what was read has not changed since.
    Serializable,
    /// A key that is read twice is the same; what was read has not changed until the end.
    RepeatableReads,
    /// Anything but seeing what is not committed.
    ReadCommitted,
}

/// The keys, as they are in one attempt of a transaction.
#[derive(Debug)]
pub struct Stm {
    client: Client,
    isolation: Isolation,
    /// What was read, with the revision at which it was so.
    reads: BTreeMap<Bytes, (Option<KeyValue>, i64)>,
    /// What was found out by the attempt before, and not read yet in this one.
    ahead: BTreeMap<Bytes, (Option<KeyValue>, i64)>,
    writes: BTreeMap<Bytes, Write>,
    /// The one revision of all reads, once there was one.
    base: i64,
}

#[derive(Clone, Debug)]
enum Write {
    Put { value: Bytes, lease: i64 },
    Delete,
}

impl Client {
    /// Runs `work` until what it has read and written can be taken to be done in one moment. An error of its own ends
    /// it, and nothing is written.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> Result<(), client::Error> {
    /// use client::Isolation;
    ///
    /// let number = |text: &[u8]| String::from_utf8_lossy(text).parse().unwrap_or(0);
    /// client
    ///     .stm(Isolation::SerializableSnapshot, async |stm| {
    ///         let (from, to) = (stm.get("a").await?, stm.get("b").await?);
    ///         stm.put("a", (number(&from) - 1).to_string());
    ///         stm.put("b", (number(&to) + 1).to_string());
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    pub async fn stm<T, E: From<Error>>(
        &self,
        isolation: Isolation,
        work: impl AsyncFnMut(&mut Stm) -> Result<T, E>,
    ) -> Result<T, E> {
        self.stm_reading_ahead(isolation, [], work).await
    }

    /// The same, and reads some keys ahead, all in one call.
    pub async fn stm_reading_ahead<T, E: From<Error>>(
        &self,
        isolation: Isolation,
        ahead: impl IntoIterator<Item = Bytes>,
        mut work: impl AsyncFnMut(&mut Stm) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut stm = Stm::new(self, isolation);
        stm.read_ahead(ahead.into_iter().collect()).await?;
        loop {
            let done = work(&mut stm).await?;
            match stm.commit().await? {
                None => return Ok(done),
                Some(again) => stm = again,
            }
        }
    }
}

impl Stm {
    fn new(client: &Client, isolation: Isolation) -> Self {
        Stm {
            client: client.clone(),
            isolation,
            reads: BTreeMap::new(),
            ahead: BTreeMap::new(),
            writes: BTreeMap::new(),
            base: 0,
        }
    }

    /// The value of a key; empty if there is none.
    pub async fn get(&mut self, key: impl Into<Bytes>) -> Result<Bytes, Error> {
        let key = key.into();
        match self.writes.get(&key) {
            Some(Write::Put { value, .. }) => return Ok(value.clone()),
            Some(Write::Delete) => return Ok(Bytes::new()),
            None => {}
        }
        let found = self.read(key).await?;
        Ok(found.map(|kv| kv.value).unwrap_or_default())
    }

    /// The revision at which a key was last changed, as far as it was read; 0 for one that is not there.
    pub async fn revision(&mut self, key: impl Into<Bytes>) -> Result<i64, Error> {
        let found = self.read(key.into()).await?;
        Ok(found.map_or(0, |kv| kv.mod_revision))
    }

    /// Writes a key, when all is done.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.put_with_lease(key, value, 0);
    }

    /// Writes a key that goes when its lease does.
    pub fn put_with_lease(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>, lease: i64) {
        let value = value.into();
        self.writes.insert(key.into(), Write::Put { value, lease });
    }

    /// Deletes a key, when all is done.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.insert(key.into(), Write::Delete);
    }

    async fn read(&mut self, key: Bytes) -> Result<Option<KeyValue>, Error> {
        if let Some((found, _)) = self.reads.get(&key) {
            return Ok(found.clone());
        }
        if let Some(known) = self.ahead.remove(&key) {
            self.reads.insert(key, known.clone());
            return Ok(known.0);
        }
        let request = RangeRequest {
            revision: self.base,
            // What is not so any more shows at the end.
            serializable: self.base != 0 || !self.isolation.is_serializable(),
            ..get(key.clone())
        };
        let answer = self.client.range(request).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        if self.isolation.is_serializable() && self.base == 0 {
            self.base = revision;
        }
        let found = answer.kvs.into_iter().next();
        self.reads.insert(key, (found.clone(), revision));
        Ok(found)
    }

    async fn read_ahead(&mut self, keys: Vec<Bytes>) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let success = keys.iter().map(|key| op(Request::RequestRange(get(key.clone()))));
        let txn = TxnRequest {
            success: success.collect(),
            ..TxnRequest::default()
        };
        let answer = self.client.txn_again(txn).await?;
        self.learn(keys, answer);
        Ok(())
    }

    /// What some keys were at one revision, which becomes that of all reads.
    fn learn(&mut self, keys: Vec<Bytes>, answer: TxnResponse) {
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        let found = ranges(answer).map(|range| (range.kvs.into_iter().next(), revision));
        self.ahead.extend(keys.into_iter().zip(found));
        if self.isolation.is_serializable() {
            self.base = revision;
        }
    }

    /// Writes what is to be written, if that may be done; else gives what the next attempt begins with.
    async fn commit(self) -> Result<Option<Stm>, Error> {
        let keys: Vec<Bytes> = self.reads.keys().cloned().collect();
        let txn = TxnRequest {
            compare: self.conditions(),
            success: self.operations(),
            failure: keys
                .iter()
                .map(|key| op(Request::RequestRange(get(key.clone()))))
                .collect(),
        };
        let answer = self.client.txn(txn).await?;
        if answer.succeeded {
            return Ok(None);
        }
        let mut next = Stm::new(&self.client, self.isolation);
        next.learn(keys, answer);
        Ok(Some(next))
    }

    fn conditions(&self) -> Vec<Compare> {
        let unchanged = self.reads.iter().map(|(key, (found, _))| {
            let revision = found.as_ref().map_or(0, |kv| kv.mod_revision);
            is_changed(key.clone(), CompareResult::Equal, revision)
        });
        let first = self.reads.values().map(|(_, revision)| *revision).min();
        let untouched = self.writes.keys().filter_map(|key| {
            let first = first?;
            Some(is_changed(key.clone(), CompareResult::Less, first + 1))
        });
        match self.isolation {
            Isolation::SerializableSnapshot => unchanged.chain(untouched).collect(),
            Isolation::Serializable | Isolation::RepeatableReads => unchanged.collect(),
            Isolation::ReadCommitted => vec![],
        }
    }

    fn operations(&self) -> Vec<RequestOp> {
        let operation = |(key, write): (&Bytes, &Write)| match write {
            Write::Put { value, lease } => {
                let put: PutRequest = put(key.clone(), value.clone(), *lease);
                op(Request::RequestPut(put))
            }
            Write::Delete => op(Request::RequestDeleteRange(DeleteRangeRequest {
                key: key.clone(),
                ..DeleteRangeRequest::default()
            })),
        };
        self.writes.iter().map(operation).collect()
    }
}

impl Isolation {
    /// Whether all reads are of one revision.
    fn is_serializable(self) -> bool {
        matches!(self, Isolation::SerializableSnapshot | Isolation::Serializable)
    }
}
