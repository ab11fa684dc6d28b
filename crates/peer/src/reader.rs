//! The listening side of a stream: dials, reads, and dials again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};

use crate::STREAM_TIMEOUT;
use crate::client::{CallError, whole};
use crate::codec::{Codec, Decoder};
use crate::handshake::RAFT_TO;
use crate::peer::Peer;
use crate::serve::{self, Rejection};

/// How much of a refusal is read; it is one line.
const REFUSAL_BYTES: usize = 64 << 10;
/// Pauses between dials. The first is for a peer that lives and only lost this stream, the second for a young stream
/// that was lost, of which one alone means nothing: if the peer's process is gone, its place should not stay empty
/// for long. After the others a peer that comes back is found within a second.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(10),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

/// Why there is no stream.
enum DialError {
    /// Nobody listens there.
    Refused,
    Other(String),
}

impl From<CallError> for DialError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused => DialError::Refused,
            other => DialError::Other(other.to_string()),
        }
    }
}

/// Reads one kind of stream from a peer, for as long as there is that peer.
pub(crate) async fn read(peer: Arc<Peer>, codec: Codec) {
    let (mut failed, mut refused) = (0, 0);
    loop {
        let url = peer.url().unwrap_or_default();
        match dial(&peer, codec, &url).await {
            Ok(body) => {
                refused = 0;
                peer.log_stream(codec, None);
                let began = Instant::now();
                let trouble = follow(&peer, codec, body).await;
                // A stream that ends as soon as it is there is no better than none.
                failed = if began.elapsed() < STREAM_TIMEOUT {
                    failed + 1
                } else {
                    0
                };
                peer.log_stream(codec, Some(&trouble));
            }
            Err(error) => {
                peer.avoid(&url);
                let trouble = match error {
                    DialError::Refused => "connection refused".to_owned(),
                    DialError::Other(ref trouble) => trouble.clone(),
                };
                peer.complain(&format!("{trouble} ({url})"));
                refused = if matches!(error, DialError::Refused) {
                    refused + 1
                } else {
                    0
                };
                if refused >= peer.url_count() {
                    peer.refused();
                }
                failed += 1;
            }
        }
        tokio::select! {
            () = sleep(PAUSES[failed.min(PAUSES.len() - 1)]) => {}
            () = wanted(&peer, codec, failed) => {}
        }
    }
}

/// Ends when there is a reason to dial before the pause is over, but not so soon that two members that hang
/// up on each other keep each other busy.
async fn wanted(peer: &Peer, codec: Codec, failed: usize) {
    sleep(PAUSES[failed.min(1)]).await;
    peer.is_to_dial(codec).await;
}

fn path(codec: Codec) -> &'static str {
    match codec {
        Codec::Message => serve::MESSAGE_STREAM,
        Codec::MsgApp => serve::MSGAPP_STREAM,
    }
}

async fn dial(peer: &Arc<Peer>, codec: Codec, url: &str) -> Result<Incoming, DialError> {
    let link = &peer.link;
    let mut request = Request::new(whole(Bytes::new()));
    let target = format!("{}{}", path(codec), link.config.id);
    *request.uri_mut() = target
        .parse()
        .map_err(|_| DialError::Other("no path".to_owned()))?;
    *request.headers_mut() = link.introduction.clone();
    if let Ok(to) = HeaderValue::try_from(peer.id.to_string()) {
        request.headers_mut().insert(RAFT_TO, to);
    }
    let response = timeout(STREAM_TIMEOUT, link.client.send(url, request))
        .await
        .map_err(|_| CallError::TimedOut)??;
    let (head, body) = response.into_parts();
    if head.status == StatusCode::OK {
        return Ok(body);
    }
    let text = timeout(STREAM_TIMEOUT, Limited::new(body, REFUSAL_BYTES).collect()).await;
    let text = text.ok().and_then(Result::ok).map(|text| text.to_bytes());
    let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
    Err(DialError::Other(match head.status {
        StatusCode::GONE => {
            link.incoming.removed_from_cluster();
            "this member was removed from the cluster".to_owned()
        }
        StatusCode::NOT_FOUND => "the peer does not know this member yet".to_owned(),
        StatusCode::PRECONDITION_FAILED => peer.precondition(&head.headers, text.trim_end()),
        status => format!("the peer answered {status}: {}", text.trim_end()),
    }))
}

/// Takes in what comes, until nothing does. Returns why.
async fn follow(peer: &Arc<Peer>, codec: Codec, mut body: Incoming) -> String {
    let _connected = peer.connected();
    let link = &peer.link;
    let mut decoder = Decoder::new(codec, peer.id, link.config.id);
    let patience = link.config.read_timeout;
    loop {
        let frame = match timeout(patience, body.frame()).await {
            Err(_) => return format!("silent for {patience:?}"),
            Ok(None) => return "the peer closed it".to_owned(),
            Ok(Some(Err(error))) => return error.to_string(),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(bytes) = frame.into_data() else { continue };
        peer.metrics.received(bytes.len());
        decoder.push(&bytes);
        loop {
            match decoder.next_message() {
                Ok(None) => break,
                Err(error) => return error.to_string(),
                Ok(Some(message)) => match serve::admit(link, message) {
                    Ok(()) => {}
                    Err(Rejection::Refused) => peer.metrics.receive_failed(),
                    Err(rejection) => peer.complain(rejection.text()),
                },
            }
        }
    }
}
