//! Asks a peer now and then whether it is there, how long the answer takes, and what time it is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use jiff::Timestamp;

use crate::STREAM_TIMEOUT;
use crate::client::CallError;
use crate::peer::Peer;

/// The time between two questions: less than a Go member keeps an idle connection.
const INTERVAL: Duration = Duration::from_secs(4);
/// How much of an answer is read.
const ANSWER_BYTES: usize = 4 << 10;
/// From here on clocks that differ are worth a warning.
const DRIFT: Duration = Duration::from_secs(1);

/// Probes a peer for as long as there is that peer.
pub(crate) async fn probe(peer: Arc<Peer>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(url) = peer.url() else { continue };
        let asked = Instant::now();
        match ask(&peer, &url).await {
            Ok(there) => {
                let took = asked.elapsed();
                peer.metrics.round_trip(took);
                check_drift(&peer, there, took);
            }
            Err(error) => peer.complain(&format!("{error} ({url})")),
        }
    }
}

/// What time it is at the peer, if it says so.
async fn ask(peer: &Peer, url: &str) -> Result<Option<Timestamp>, CallError> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = http::Uri::from_static("/raft/probing");
    let call = peer.link.client.call(url, request, STREAM_TIMEOUT, ANSWER_BYTES);
    let answer = call.await?;
    let answer: Option<serde_json::Value> = serde_json::from_slice(answer.body()).ok();
    Ok(answer.and_then(|answer| answer["Now"].as_str()?.parse().ok()))
}

fn check_drift(peer: &Peer, there: Option<Timestamp>, took: Duration) {
    let Some(there) = there else { return };
    // The peer looked at its clock about halfway.
    let drift = Timestamp::now()
        .duration_since(there)
        .unsigned_abs()
        .saturating_sub(took / 2);
    if drift > DRIFT {
        tracing::warn!(
            "remote-peer-id" = %peer.id,
            "clock-drift" = ?drift,
            "rtt" = ?took,
            "prober found high clock drift"
        );
    }
}
