//! Keys: get, put, del, compaction.

use std::io::Read;
use std::time::Duration;

use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse};
use proto::keelson::v1::progress_request::Job;

use super::context::{self, Context, bytes, text};
use super::{ask, ids, progress};
use crate::arguments::{Compaction, Delete, Get, Put};
use crate::failure::{Failure, Status};
use crate::output::{Answer, Format, Style, quoted};
use crate::ranges;

/// How long who types a range without `--range` has to think again.
const SECOND_THOUGHTS: Duration = Duration::from_secs(2);

pub async fn get(context: &Context, get: &Get) -> Result<(), Failure> {
    let request = get_request(get)?;
    let client = match request.serializable {
        true => context.connect_to_members().await?,
        false => context.connect().await?,
    };
    let response = match get.stream {
        true => in_pieces(&client, request).await?,
        false => client.range(request).await?,
    };
    if get.count_only && context.style.format != Format::Fields {
        return Err(Failure::arguments(
            "--count-only is only for `--write-out=fields`",
        ));
    }
    if get.print_value_only && !context.is_simple() {
        return Err(Failure::arguments(
            "print-value-only is only for `--write-out=simple`",
        ));
    }
    let style = Style {
        values_only: get.print_value_only,
        ..context.style
    };
    context.show_as(style, &Answer::Get(response))
}

/// One answer out of many.
async fn in_pieces(client: &client::Client, request: RangeRequest) -> Result<RangeResponse, Failure> {
    let mut whole = RangeResponse::default();
    let mut pieces = client.range_stream(request);
    while let Some(piece) = pieces.next().await {
        let piece = piece?.range_response.unwrap_or_default();
        whole.header = piece.header.or(whole.header);
        whole.kvs.extend(piece.kvs);
        whole.count = piece.count.max(whole.count);
        whole.more |= piece.more;
    }
    Ok(whole)
}

/// What is asked for.
pub fn get_request(get: &Get) -> Result<RangeRequest, Failure> {
    if get.words.is_empty() {
        return Err(Failure::arguments(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    }
    if get.keys_only && get.count_only {
        return Err(Failure::arguments(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let feature = |text: String| Err(Failure::new(Status::Feature, text));
    let serializable = is_serializable(&get.consistency)?;
    let order = match get.order.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return feature(format!("bad sort order {}", get.order)),
    };
    let target = match get.sort_by.to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return feature(format!("bad sort target {}", get.sort_by)),
    };
    // Keys are in ascending order anyway.
    let order = match (target, order) {
        (SortTarget::Key, SortOrder::Ascend) => SortOrder::None,
        _ => order,
    };
    for (name, min, max) in [
        ("Create", get.min_create_rev, get.max_create_rev),
        ("Mod", get.min_mod_rev, get.max_mod_rev),
    ] {
        if max > 0 && min > max {
            return feature(format!("getMin{name}Rev(={min}) > getMax{name}Rev(={max})"));
        }
    }
    let range = ranges::typed(&get.words, get.prefix, get.from_key)?;
    Ok(RangeRequest {
        limit: get.limit,
        revision: get.rev.max(0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: get.keys_only,
        count_only: get.count_only,
        min_mod_revision: get.min_mod_rev.max(0),
        max_mod_revision: get.max_mod_rev.max(0),
        min_create_revision: get.min_create_rev.max(0),
        max_create_revision: get.max_create_rev.max(0),
        ..range.into()
    })
}

/// l or s.
pub fn is_serializable(consistency: &str) -> Result<bool, Failure> {
    match consistency {
        "l" => Ok(false),
        "s" => Ok(true),
        other => Err(Failure::new(
            Status::Feature,
            format!("unknown consistency flag {other:?}"),
        )),
    }
}

pub async fn put(context: &Context, put: &Put) -> Result<(), Failure> {
    let request = put_request(put, || {
        let mut value = Vec::new();
        let read = std::io::stdin().read_to_end(&mut value);
        read.ok().filter(|length| *length > 0).map(|_| value)
    })?;
    let response = context.connect().await?.put(request).await?;
    context.show(&Answer::Put(response))
}

/// What is to be written. A value that is not among the words is asked of `elsewhere`.
pub fn put_request(put: &Put, elsewhere: impl FnOnce() -> Option<Vec<u8>>) -> Result<PutRequest, Failure> {
    const NEEDS: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    let key = put.words.first().ok_or_else(|| Failure::arguments(NEEDS))?;
    if put.ignore_value && put.words.len() > 1 {
        return Err(Failure::arguments(
            "put command needs only 1 argument when 'ignore-value' is set",
        ));
    }
    let value = match put.words.get(1) {
        _ if put.ignore_value => Vec::new(),
        Some(value) => bytes(value),
        None => elsewhere().ok_or_else(|| Failure::arguments(NEEDS))?,
    };
    Ok(PutRequest {
        key: bytes(key).into(),
        value: value.into(),
        lease: ids::lease(&put.lease)
            .map_err(|why| Failure::arguments(format!("bad lease ID ({why}), expecting ID in Hex")))?,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    })
}

pub async fn delete(context: &Context, delete: &Delete) -> Result<(), Failure> {
    let request = delete_request(delete)?;
    let is_typed = delete.words.len() > 1 && !delete.range;
    let asks = context::is_attended() && !delete.yes;
    if is_typed && !asks {
        eprintln!("{}", warning(delete));
        if context::is_attended() {
            tokio::time::sleep(SECOND_THOUGHTS).await;
        }
    }
    let client = context.connect().await?;
    if asks && !request.range_end.is_empty() && !is_wanted(&client, &request).await? {
        return Err(Failure::new(Status::Interrupted, "nothing is deleted"));
    }
    let response = client.delete_range(request).await?;
    context.show(&Answer::Delete(response))
}

fn warning(delete: &Delete) -> String {
    let [from, to] = [0, 1].map(|word| quoted(&bytes(&delete.words[word])));
    format!(
        "Warning: Keys between {from} and {to} will be deleted. Please interrupt the command within next 2 seconds to \
         cancel. You can provide `--range` flag to avoid the delay."
    )
}

/// Tells how many keys would go, and asks.
async fn is_wanted(client: &client::Client, request: &DeleteRangeRequest) -> Result<bool, Failure> {
    let counted = client
        .range(RangeRequest {
            key: request.key.clone(),
            range_end: request.range_end.clone(),
            count_only: true,
            ..Default::default()
        })
        .await?;
    match counted.count {
        0 => Ok(true),
        count => {
            let keys = if count == 1 { "key" } else { "keys" };
            Ok(ask::yes(&format!("This deletes {count} {keys}. Go on?"))?)
        }
    }
}

/// What is to be deleted.
pub fn delete_request(delete: &Delete) -> Result<DeleteRangeRequest, Failure> {
    if delete.words.is_empty() || delete.words.len() > 2 {
        return Err(Failure::arguments(
            "del command needs one argument as key and an optional argument as range_end",
        ));
    }
    let range = ranges::typed(&delete.words, delete.prefix, delete.from_key)?;
    Ok(DeleteRangeRequest {
        prev_kv: delete.prev_kv,
        ..range.into()
    })
}

pub async fn compaction(context: &Context, compaction: &Compaction) -> Result<(), Failure> {
    let revision = context::only(&compaction.words, "compaction command needs 1 argument")?;
    let revision = text(revision)?;
    let revision: i64 = revision.parse().map_err(|_| {
        Failure::new(
            Status::Error,
            format!("bad revision {revision:?}, expecting a number"),
        )
    })?;
    let client = match compaction.physical {
        true => context.connect_for_long().await?,
        false => context.connect().await?,
    };
    let request = CompactionRequest {
        revision,
        physical: compaction.physical,
    };
    let work = client.compact(request);
    progress::while_waiting("compacting", &client, Job::Compaction, None, work).await?;
    context::print(format!("compacted revision {revision}\n").as_bytes())
}
