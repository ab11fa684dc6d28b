//! The rest of a request whose answer needs no more of it.
//!
//! Whoever is refused early is often still writing: a body of the wrong kind, a path that is not there. If reading
//! ended with the refusal, HTTP/2 would reset the stream and HTTP/1 close the connection, and many clients then
//! report a broken connection instead of the answer that tells them why. So the rest of a body is read on for a
//! while and thrown away; beyond the bounds it is the client that does not listen.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Bytes that are thrown away: the largest request and its JSON fit, with the default settings.
const BYTES_MAX: usize = 8 << 20;

/// Time for that.
const TIME_MAX: Duration = Duration::from_secs(5);

/// A request's body, read on when it is dropped before its end.
pub struct Rest(Option<Incoming>);

impl Rest {
    /// Around a body that has just come in.
    pub fn new(body: Incoming) -> Self {
        Rest(Some(body))
    }
}

impl Body for Rest {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        // A body that is dropped with its runtime has nobody to be polite to.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(TIME_MAX, throw_away(body)));
        }
    }
}

/// Reads to the end, an error or the bound.
async fn throw_away(mut body: Incoming) {
    let mut left = BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(bytes) else {
            return;
        };
        left = rest;
    }
}
