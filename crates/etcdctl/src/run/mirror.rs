//! Keys of one cluster copied to another: first all there are, as of one revision, then every change after it.

use std::time::Duration;

use client::Client;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};
use tokio::time::{Instant, interval_at};

use super::context::{self, Context, Credentials, only, text};
use super::pages::Pages;
use super::progress::{Progress, Unit};
use crate::advice;
use crate::arguments::MakeMirror;
use crate::failure::{Failure, Status};
use crate::ranges;

/// How often the number of keys that were copied is told.
const TELLS_EVERY: Duration = Duration::from_secs(30);
/// Bytes that are copied in one transaction; servers take 1.5 MiB unless told otherwise.
const TXN_BYTES_MAX: usize = 1 << 20;

pub async fn run(context: &Context, mirror: MakeMirror) -> Result<(), Failure> {
    let destination = only(&mirror.words, "make-mirror takes one destination argument")?;
    let destination = text(destination)?;
    if mirror.no_dest_prefix && !mirror.dest_prefix.is_empty() {
        return Err(Failure::arguments(
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        ));
    }
    let credentials = Credentials {
        cert: &mirror.dest_cert,
        key: &mirror.dest_key,
        cacert: &mirror.dest_cacert,
        insecure_transport: mirror.dest_insecure_transport,
        skip_verify: false,
        token: "",
        user: &mirror.dest_user,
        password: &mirror.dest_password,
        prompt: "Destination Password: ",
    };
    let to =
        advice::connected(Client::connect(context.config(vec![destination], true, &credentials)?).await)?;
    let to = advice::reached(to).await?;
    let from = context.connect_to_members().await?;
    let becomes = match (mirror.no_dest_prefix, mirror.dest_prefix.as_str()) {
        (false, "") => mirror.prefix.clone(),
        (_, becomes) => becomes.to_owned(),
    };
    let mut copy = Copy {
        from,
        to,
        prefix: mirror.prefix.into_bytes(),
        becomes: becomes.into_bytes(),
        ops_max: mirror.max_txn_ops.max(1) as usize,
        copied: 0,
    };
    copy.run(mirror.rev).await
}

struct Copy {
    from: Client,
    to: Client,
    prefix: Vec<u8>,
    becomes: Vec<u8>,
    ops_max: usize,
    copied: u64,
}

impl Copy {
    /// Goes on until something fails.
    async fn run(&mut self, first: i64) -> Result<(), Failure> {
        let next = match first {
            ..=1 => self.base().await? + 1,
            first => first,
        };
        let range = ranges::under(&self.prefix);
        let request = WatchCreateRequest {
            start_revision: next,
            ..range.into()
        };
        let mut watcher = self.from.watch(request).await?;
        let mut tell = interval_at(Instant::now() + TELLS_EVERY, TELLS_EVERY);
        loop {
            tokio::select! {
                next = watcher.next() => match next {
                    Some(next) => self.changes(next?.events).await?,
                    None => return Err(Failure::new(Status::Error, "the watch has ended")),
                },
                _ = tell.tick() => context::print(format!("{}\n", self.copied).as_bytes())?,
            }
        }
    }

    /// Copies all there is; the answer is the revision as of which.
    async fn base(&mut self) -> Result<i64, Failure> {
        let range = ranges::under(&self.prefix);
        let count = RangeRequest {
            count_only: true,
            ..range.clone().into()
        };
        let counted = self.from.range(count).await?;
        let revision = counted.header.map_or(0, |header| header.revision);
        let mut progress = Progress::new("copying", Unit::Keys, counted.count.max(0) as u64);
        let from = self.from.clone();
        let mut pages = Pages::new(&from, range, revision, false);
        while let Some(page) = pages.next().await? {
            let ops: Vec<_> = page.kvs.into_iter().map(|pair| self.put(pair)).collect();
            for group in groups(ops, self.ops_max) {
                self.carry_out(group).await?;
                progress.at(self.copied);
            }
        }
        Ok(revision)
    }

    /// Changes of one revision stay together, as far as a transaction may be large.
    async fn changes(&mut self, events: Vec<Event>) -> Result<(), Failure> {
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |pair| pair.mod_revision);
        for together in events.chunk_by(|left, right| revision(left) == revision(right)) {
            let ops = together.iter().filter_map(|event| {
                let pair = event.kv.clone()?;
                Some(match event.r#type() {
                    EventType::Put => self.put(pair),
                    EventType::Delete => self.delete(pair),
                })
            });
            for group in groups(ops.collect(), self.ops_max) {
                self.carry_out(group).await?;
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, success: Vec<RequestOp>) -> Result<(), Failure> {
        self.copied += success.len() as u64;
        let request = TxnRequest {
            success,
            ..Default::default()
        };
        self.to.txn(request).await?;
        Ok(())
    }

    fn put(&self, pair: KeyValue) -> RequestOp {
        op(Request::RequestPut(PutRequest {
            key: self.renamed(&pair.key).into(),
            value: pair.value,
            ..Default::default()
        }))
    }

    fn delete(&self, pair: KeyValue) -> RequestOp {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: self.renamed(&pair.key).into(),
            ..Default::default()
        }))
    }

    /// The key at its destination.
    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        [&self.becomes, key.strip_prefix(&self.prefix[..]).unwrap_or(key)].concat()
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

/// Operations in groups that fit into a transaction each. One that is larger alone is alone.
fn groups(ops: Vec<RequestOp>, ops_max: usize) -> Vec<Vec<RequestOp>> {
    use prost::Message;
    let mut groups: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        bytes += op.encoded_len();
        match groups.last_mut() {
            Some(group) if group.len() < ops_max && bytes <= TXN_BYTES_MAX => group.push(op),
            _ => {
                bytes = op.encoded_len();
                groups.push(vec![op]);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_bounded_in_number_and_in_bytes() {
        let put = |bytes: usize| {
            op(Request::RequestPut(PutRequest {
                value: vec![0; bytes].into(),
                ..Default::default()
            }))
        };
        let sizes = |ops: Vec<RequestOp>| groups(ops, 3).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![put(1); 7]), [3, 3, 1]);
        assert_eq!(sizes(vec![put(600_000); 2]), [1, 1]);
        assert_eq!(sizes(vec![put(1), put(2 << 20), put(1)]), [1, 1, 1]);
        assert!(groups(Vec::new(), 3).is_empty());
    }
}
