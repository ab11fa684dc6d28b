//! How far a member of ours is with its long jobs, which another call waits for. Servers of etcd do not tell.

use std::cell::Cell;
use std::future::Future;

use client::{Client, Config, Error};
use common::{programs, put, start};
use conformance::scrape::Scrape;
use conformance::server::Server;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::*;
use proto::keelson::v1::ProgressResponse;
use proto::keelson::v1::progress_request::Job;

mod common;

/// How often a job may be through before it was asked for: it takes as long as the machine wants.
const ROUNDS_MAX: usize = 20;

/// Keys with a past, for a compaction to look at.
const KEYS: usize = 20_000;
/// Values with a past, for a defragmentation to copy: many of its steps.
const VALUES: usize = 24;

/// What is told of a job while `work` waits for it.
async fn told<T>(
    client: &Client,
    job: Job,
    work: impl Future<Output = Result<T, Error>>,
) -> Vec<ProgressResponse> {
    let is_over = Cell::new(false);
    let follow = async {
        let mut told = vec![];
        while told.is_empty() && !is_over.get() {
            // Who goes away before the end is in nobody's way, and may come back.
            let first = client.progress(job).next().await;
            told.extend(first.map(Result::unwrap));
            let mut answers = client.progress(job);
            while let Some(answer) = answers.next().await {
                told.push(answer.unwrap());
            }
        }
        told
    };
    let work = async {
        work.await.unwrap();
        is_over.set(true);
    };
    tokio::join!(follow, work).0
}

/// Whether it was told of the job, and of its end.
fn is_told(told: &[ProgressResponse]) -> bool {
    let Some(last) = told.last() else {
        return false;
    };
    assert!(told.is_sorted_by_key(|told| told.done), "{told:?}");
    assert!(told.iter().all(|told| told.total == last.total), "{told:?}");
    told.len() > 1 && last.done == last.total
}

/// Writes small keys. Returns the revision.
async fn write(client: &Client) -> i64 {
    let mut revision = 0;
    for first in (0..KEYS).step_by(1000) {
        let put = |key: usize| RequestOp {
            request: Some(Request::RequestPut(put(&format!("{key:08}"), "value"))),
        };
        let txn = TxnRequest {
            success: (first..first + 1000).map(put).collect(),
            ..TxnRequest::default()
        };
        revision = client.txn(txn).await.unwrap().header.unwrap().revision;
    }
    revision
}

/// Writes large values, of which every second one is then dead.
async fn fill(client: &Client) {
    let (value, mut revision) = ("v".repeat(1 << 20), 0);
    for key in (0..VALUES).flat_map(|key| [key, key]) {
        let put = put(&format!("{key}"), &value);
        revision = client.put(put).await.unwrap().header.unwrap().revision;
    }
    let compaction = CompactionRequest {
        revision,
        physical: true,
    };
    client.compact(compaction).await.unwrap();
}

/// Our server, with large transactions, and a client of it; nothing if there is none.
async fn ours() -> Option<(Server, Client)> {
    let program = programs().into_iter().next()?;
    let server = Server::start(&program, &["--max-txn-ops=1000".to_owned()])
        .await
        .unwrap();
    let client = Client::connect(Config::new([server.endpoint()])).await.unwrap();
    Some((server, client))
}

#[tokio::test]
async fn a_physical_compaction_tells_how_many_keys_it_has_passed() {
    let Some((_server, client)) = ours().await else {
        return;
    };
    write(&client).await;
    for _ in 0..ROUNDS_MAX {
        let compaction = CompactionRequest {
            revision: write(&client).await,
            physical: true,
        };
        let told = told(&client, Job::Compaction, client.compact(compaction)).await;
        assert!(told.iter().all(|told| told.total == KEYS as u64), "{told:?}");
        if is_told(&told) {
            return;
        }
    }
    panic!("nothing was told of any compaction");
}

#[tokio::test]
async fn a_defragmentation_tells_how_many_bytes_it_has_copied() {
    let Some((_server, client)) = ours().await else {
        return;
    };
    for _ in 0..ROUNDS_MAX {
        fill(&client).await;
        let work = client.defragment(DefragmentRequest {});
        if is_told(&told(&client, Job::Defragmentation, work).await) {
            return;
        }
    }
    panic!("nothing was told of any defragmentation");
}

#[tokio::test]
async fn a_defragmentation_goes_on_to_its_end_when_nobody_waits_for_it_any_more() {
    let Some((server, client)) = ours().await else {
        return;
    };
    for _ in 0..ROUNDS_MAX {
        fill(&client).await;
        let mut told = vec![];
        let begun = async {
            loop {
                let mut answers = client.progress(Job::Defragmentation);
                if let Some(first) = answers.next().await {
                    told.push(first.unwrap());
                    return answers;
                }
            }
        };
        let mut answers = tokio::select! {
            biased;
            answers = begun => answers,
            _ = client.defragment(DefragmentRequest {}) => continue,
        };
        while let Some(answer) = answers.next().await {
            told.push(answer.unwrap());
        }
        let scrape = Scrape::of(&server).await.unwrap();
        let at_work = scrape
            .of_family("etcd_disk_defrag_inflight")
            .map(|sample| sample.value);
        assert_eq!(at_work.collect::<Vec<_>>(), [0.0]);
        if is_told(&told) {
            return;
        }
    }
    panic!("nothing was told of any defragmentation");
}

#[tokio::test]
async fn nothing_is_told_of_a_job_that_is_not_at_work_and_no_other_job_is_known() {
    let Some((_server, client)) = ours().await else {
        return;
    };
    for job in [Job::Defragmentation, Job::Compaction] {
        assert_eq!(client.progress(job).next().await, None);
    }
    let refused = client.progress(Job::Unspecified).next().await.unwrap();
    assert_eq!(
        refused.unwrap_err().server_message(),
        Some("keelson: no such job")
    );
}

#[tokio::test]
async fn a_server_of_etcd_does_not_know_the_call() {
    let Some(program) = programs().into_iter().nth(1) else {
        return;
    };
    let (_server, client) = start(&program).await;
    let refused = client.progress(Job::Compaction).next().await.unwrap();
    let text = "unknown service keelson.v1.Progress";
    assert_eq!(refused.unwrap_err().server_message(), Some(text));
}
