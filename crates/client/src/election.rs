//! Elections: who stands first in line is elected, and says something that others can see.
//!
//! The line is that of a lock; the value of the key is what the elected one proclaims.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, RangeResponse, ResponseHeader, TxnRequest, WatchCreateRequest,
};
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

use crate::keys::{first_created, get, is_created_at, line, op, place_in_line, prefix_end, put};
use crate::session::{Session, missed, ranges};
use crate::{Client, Error, Watcher};

/// An office that is held, until it is given back or its session is over.
#[derive(Debug)]
pub struct Office {
    client: Client,
    lease: i64,
    key: Bytes,
    revision: i64,
    header: ResponseHeader,
}

impl Session {
    /// Waits to be elected, and then proclaims `value`. Who was elected already only proclaims.
    pub async fn campaign(&self, name: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<Office, Error> {
        let line = line(name.as_ref());
        let office = self.stand(&line, value.into()).await?;
        let turn = self.client.wait_for_turn(&line, office.revision);
        match self.during(turn).await {
            Ok(()) => Ok(office),
            Err(error) => {
                // The lease ends it, should this fail.
                let _ = office.resign().await;
                Err(error)
            }
        }
    }

    async fn stand(&self, line: &Bytes, value: Bytes) -> Result<Office, Error> {
        let key = place_in_line(line, self.lease());
        let txn = TxnRequest {
            compare: vec![is_created_at(key.clone(), 0)],
            success: vec![op(Request::RequestPut(put(
                key.clone(),
                value.clone(),
                self.lease(),
            )))],
            failure: vec![op(Request::RequestRange(get(key.clone())))],
        };
        let answer = self.client.txn_again(txn).await?;
        let header = answer.header.unwrap_or_default();
        let own = ranges(answer)
            .next()
            .and_then(|range| range.kvs.into_iter().next());
        let mut office = Office {
            client: self.client.clone(),
            lease: self.lease(),
            key,
            revision: own.as_ref().map_or(header.revision, |own| own.create_revision),
            header,
        };
        if own.is_some_and(|own| own.value != value) {
            office.proclaim(value).await?;
        }
        Ok(office)
    }
}

impl Office {
    /// The key that stands for it.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The revision of that key's creation, which tells this office from later ones.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// When something was last proclaimed.
    pub fn header(&self) -> &ResponseHeader {
        &self.header
    }

    /// True in a transaction only as long as the office is held.
    pub fn is_owner(&self) -> Compare {
        is_created_at(self.key.clone(), self.revision)
    }

    /// Says something else, without another election.
    pub async fn proclaim(&mut self, value: impl Into<Bytes>) -> Result<(), Error> {
        let put = put(self.key.clone(), value.into(), self.lease);
        let txn = TxnRequest {
            compare: vec![self.is_owner()],
            success: vec![op(Request::RequestPut(put))],
            ..TxnRequest::default()
        };
        let answer = self.client.txn_again(txn).await?;
        if !answer.succeeded {
            return Err(Error::NotElected);
        }
        self.header = answer.header.unwrap_or_default();
        Ok(())
    }

    /// Lets others be elected.
    pub async fn resign(self) -> Result<(), Error> {
        let delete = DeleteRangeRequest {
            key: self.key.clone(),
            ..DeleteRangeRequest::default()
        };
        let txn = TxnRequest {
            compare: vec![self.is_owner()],
            success: vec![op(Request::RequestDeleteRange(delete))],
            ..TxnRequest::default()
        };
        self.client.txn_again(txn).await.map(drop)
    }
}

impl Client {
    /// Who is elected, and what they say: the key and its value.
    pub async fn elected(&self, name: impl AsRef<[u8]>) -> Result<RangeResponse, Error> {
        let answer = self.range(first_created(&line(name.as_ref()))).await?;
        match answer.kvs.is_empty() {
            true => Err(Error::NobodyElected),
            false => Ok(answer),
        }
    }

    /// Follows an election: who is elected now, and then each one who is and each thing they say.
    pub fn follow_election(&self, name: impl AsRef<[u8]>) -> Followed {
        Followed {
            client: self.clone(),
            line: line(name.as_ref()),
            watched: None,
            unread: VecDeque::new(),
            is_over: false,
        }
    }
}

/// An election as it is seen from outside.
#[derive(Debug)]
pub struct Followed {
    client: Client,
    line: Bytes,
    watched: Option<Watched>,
    /// What has happened to what is watched.
    unread: VecDeque<(ResponseHeader, Event)>,
    is_over: bool,
}

#[derive(Debug)]
enum Watched {
    /// Nobody is elected; somebody will be.
    Line(Watcher),
    /// What the elected one says.
    Elected(Watcher),
}

impl Followed {
    /// Who is elected next, or what they say next: one key and its value. There is nothing after an error.
    pub async fn next(&mut self) -> Option<Result<RangeResponse, Error>> {
        if self.is_over {
            return None;
        }
        let next = self.find().await;
        self.is_over = next.is_err();
        Some(next)
    }

    async fn find(&mut self) -> Result<RangeResponse, Error> {
        loop {
            while let Some((header, event)) = self.unread.pop_front() {
                if let Some(found) = self.read(header, event).await? {
                    return Ok(found);
                }
            }
            let (Some(Watched::Line(watcher)) | Some(Watched::Elected(watcher))) = &mut self.watched else {
                match self.look().await? {
                    Some(found) => return Ok(found),
                    None => continue,
                }
            };
            match watcher.next().await.unwrap_or(Err(Error::Closed)) {
                Ok(answer) => {
                    let header = answer.header.unwrap_or_default();
                    let events = answer.events.into_iter();
                    self.unread.extend(events.map(|event| (header, event)));
                }
                Err(error) => {
                    missed(error)?;
                    self.look_again();
                }
            }
        }
    }

    /// Whatever is known is known no more.
    fn look_again(&mut self) {
        self.watched = None;
        self.unread.clear();
    }

    async fn read(&mut self, header: ResponseHeader, event: Event) -> Result<Option<RangeResponse>, Error> {
        let is_deletion = event.r#type() == EventType::Delete;
        let Some(kv) = event.kv else {
            return Ok(None);
        };
        match &self.watched {
            _ if is_deletion => {
                self.look_again();
                return Ok(None);
            }
            Some(Watched::Line(_)) => self.watch_elected(kv.key.clone(), kv.mod_revision).await?,
            _ => {}
        }
        let header = ResponseHeader {
            revision: kv.mod_revision,
            ..header
        };
        Ok(Some(elected(Some(header), kv)))
    }

    /// Looks who is elected, and watches them, or the line if there is nobody.
    async fn look(&mut self) -> Result<Option<RangeResponse>, Error> {
        let mut found = self.client.range(first_created(&self.line)).await?;
        let seen = found.header.as_ref().map_or(0, |header| header.revision);
        if let Some(kv) = found.kvs.pop() {
            self.watch_elected(kv.key.clone(), seen).await?;
            return Ok(Some(elected(found.header, kv)));
        }
        let create = WatchCreateRequest {
            key: self.line.clone(),
            range_end: prefix_end(&self.line),
            start_revision: seen + 1,
            filters: vec![FilterType::Nodelete.into()],
            ..WatchCreateRequest::default()
        };
        self.watched = Some(Watched::Line(self.client.watch(create).await?));
        Ok(None)
    }

    async fn watch_elected(&mut self, key: Bytes, seen: i64) -> Result<(), Error> {
        let create = WatchCreateRequest {
            key,
            start_revision: seen + 1,
            ..WatchCreateRequest::default()
        };
        self.unread.clear();
        self.watched = Some(Watched::Elected(self.client.watch(create).await?));
        Ok(())
    }
}

/// Who is elected, and nothing about how many wait behind them.
fn elected(header: Option<ResponseHeader>, kv: KeyValue) -> RangeResponse {
    RangeResponse {
        header,
        kvs: vec![kv],
        ..RangeResponse::default()
    }
}
