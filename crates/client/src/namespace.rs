//! A part of the keys as if it were all of them.
//!
//! With a namespace, keys of requests get its prefix and those of answers lose it; so do ranges, comparisons, nested
//! transactions, watches and the keys of a lease. Not so the names of locks and elections that a server keeps for a client
//! ([`crate::Client::lock`] and the like); those of a [`crate::Session`] are keys, and are inside.

use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::*;
use proto::mvccpb::KeyValue;
use tonic::Code;

use crate::Error;
use crate::keys::prefix_end;

/// A prefix; the empty one is no namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace(pub Bytes);

/// Requests with keys.
pub trait Enter {
    fn enter(&mut self, space: &Namespace) -> Result<(), Error>;
}

/// Answers with keys.
pub trait Leave {
    fn leave(&mut self, space: &Namespace);
}

impl Namespace {
    fn inside(&self, key: &[u8]) -> Bytes {
        [&self.0[..], key].concat().into()
    }

    /// A key that is not there would be one with the prefix.
    fn key(&self, key: &mut Bytes) -> Result<(), Error> {
        if key.is_empty() {
            return Err(Error::Server {
                code: Code::InvalidArgument,
                message: "etcdserver: key is not provided".into(),
            });
        }
        *key = self.inside(key);
        Ok(())
    }

    fn range(&self, key: &mut Bytes, end: &mut Bytes) -> Result<(), Error> {
        self.key(key)?;
        match &end[..] {
            b"" => {}
            // The end of all keys is that of the namespace.
            b"\0" => *end = prefix_end(&self.0),
            _ => *end = self.inside(end),
        }
        Ok(())
    }

    /// A key as it is seen from inside; one from elsewhere, which no answer should have, as it is.
    fn outside(&self, key: &mut Bytes) {
        if key.starts_with(&self.0) {
            *key = key.slice(self.0.len()..);
        }
    }

    fn kvs<'a>(&self, kvs: impl IntoIterator<Item = &'a mut KeyValue>) {
        kvs.into_iter().for_each(|kv| self.outside(&mut kv.key));
    }
}

impl Enter for RangeRequest {
    fn enter(&mut self, space: &Namespace) -> Result<(), Error> {
        space.range(&mut self.key, &mut self.range_end)
    }
}

impl Enter for PutRequest {
    fn enter(&mut self, space: &Namespace) -> Result<(), Error> {
        space.key(&mut self.key)
    }
}

impl Enter for DeleteRangeRequest {
    fn enter(&mut self, space: &Namespace) -> Result<(), Error> {
        space.range(&mut self.key, &mut self.range_end)
    }
}

impl Enter for TxnRequest {
    fn enter(&mut self, space: &Namespace) -> Result<(), Error> {
        for compare in &mut self.compare {
            space.range(&mut compare.key, &mut compare.range_end)?;
        }
        let ops = self.success.iter_mut().chain(&mut self.failure);
        for op in ops.filter_map(|op| op.request.as_mut()) {
            match op {
                Request::RequestRange(range) => range.enter(space)?,
                Request::RequestPut(put) => put.enter(space)?,
                Request::RequestDeleteRange(delete) => delete.enter(space)?,
                Request::RequestTxn(txn) => txn.enter(space)?,
            }
        }
        Ok(())
    }
}

impl Enter for WatchCreateRequest {
    fn enter(&mut self, space: &Namespace) -> Result<(), Error> {
        if self.key.is_empty() {
            // What servers take it for.
            self.key = Bytes::from_static(b"\0");
        }
        space.range(&mut self.key, &mut self.range_end)
    }
}

impl Enter for LeaseTimeToLiveRequest {
    fn enter(&mut self, _: &Namespace) -> Result<(), Error> {
        Ok(())
    }
}

impl Leave for RangeResponse {
    fn leave(&mut self, space: &Namespace) {
        space.kvs(&mut self.kvs);
    }
}

impl Leave for RangeStreamResponse {
    fn leave(&mut self, space: &Namespace) {
        self.range_response
            .iter_mut()
            .for_each(|range| range.leave(space));
    }
}

impl Leave for PutResponse {
    fn leave(&mut self, space: &Namespace) {
        space.kvs(&mut self.prev_kv);
    }
}

impl Leave for DeleteRangeResponse {
    fn leave(&mut self, space: &Namespace) {
        space.kvs(&mut self.prev_kvs);
    }
}

impl Leave for TxnResponse {
    fn leave(&mut self, space: &Namespace) {
        for op in self.responses.iter_mut().filter_map(|op| op.response.as_mut()) {
            match op {
                Response::ResponseRange(range) => range.leave(space),
                Response::ResponsePut(put) => put.leave(space),
                Response::ResponseDeleteRange(delete) => delete.leave(space),
                Response::ResponseTxn(txn) => txn.leave(space),
            }
        }
    }
}

impl Leave for WatchResponse {
    fn leave(&mut self, space: &Namespace) {
        for event in &mut self.events {
            space.kvs(event.kv.iter_mut().chain(&mut event.prev_kv));
        }
    }
}

impl Leave for LeaseTimeToLiveResponse {
    fn leave(&mut self, space: &Namespace) {
        self.keys.retain(|key| key.starts_with(&space.0));
        self.keys.iter_mut().for_each(|key| space.outside(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_the_namespace_does() {
        let space = Namespace("app/".into());
        for (key, end, inside) in [
            ("a", "", ("app/a", "")),
            ("a", "b", ("app/a", "app/b")),
            ("a", "\0", ("app/a", "app0")),
            ("\0", "\0", ("app/\0", "app0")),
        ] {
            let (mut key, mut end) = (Bytes::from(key), Bytes::from(end));
            space.range(&mut key, &mut end).unwrap();
            assert_eq!((&key[..], &end[..]), (inside.0.as_bytes(), inside.1.as_bytes()));
        }
        assert!(space.key(&mut Bytes::new()).is_err());
    }
}
