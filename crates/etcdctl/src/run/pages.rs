//! Many keys, a page at a time and all as of one revision.

use client::Client;
use proto::etcdserverpb::{RangeRequest, RangeResponse};

use crate::failure::Failure;
use crate::ranges::Range;

/// Keys on a page; with values of usual size that is some hundred kilobytes.
const PAGE_KEYS: i64 = 1000;

/// A range being read.
pub struct Pages<'a> {
    client: &'a Client,
    next: Option<RangeRequest>,
}

impl<'a> Pages<'a> {
    /// Begins to read, at a revision or now.
    pub fn new(client: &'a Client, range: Range, revision: i64, keys_only: bool) -> Self {
        let next = RangeRequest {
            limit: PAGE_KEYS,
            revision,
            keys_only,
            ..range.into()
        };
        Self {
            client,
            next: Some(next),
        }
    }

    /// The next page.
    pub async fn next(&mut self) -> Result<Option<RangeResponse>, Failure> {
        let Some(request) = self.next.take() else {
            return Ok(None);
        };
        let page = self.client.range(request.clone()).await?;
        if let (true, Some(last)) = (page.more, page.kvs.last()) {
            let after = [&last.key[..], &[0]].concat();
            let read_at = page.header.map_or(0, |header| header.revision);
            self.next = Some(RangeRequest {
                key: after.into(),
                revision: if request.revision > 0 {
                    request.revision
                } else {
                    read_at
                },
                ..request
            });
        }
        Ok(Some(page))
    }
}
