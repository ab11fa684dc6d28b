//! Streams of callers that insist on a leader (`hasleader`): on a member that has lost touch with the others they end, so
//! that the caller goes elsewhere instead of waiting for events that cannot come.
//!
//! Source: etcd's `server/etcdserver/api/v3rpc/interceptor.go`.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_stream::Stream;
use tonic::Status;
use types::ErrorKind;

use super::status;
use crate::access::Head;
use crate::node::Node;

/// Election timeouts without a leader after which it counts as lost: an election may fail and be held again.
const PATIENCE: u32 = 3;

/// Resolves once the leader is lost.
type Lost = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Answers, until the leader is lost.
pub struct Led<S> {
    answers: S,
    /// None if the caller does not ask for a leader, or has been told.
    lost: Option<Lost>,
}

impl<S> Led<S> {
    /// The answers to a caller.
    pub fn new(node: &Node, head: &Head, answers: S) -> Self {
        let lost = Node::insists_on_leader(head).then(|| -> Lost {
            let node = node.clone();
            Box::pin(async move {
                node.board
                    .wait_leaderless(PATIENCE * node.config.election_timeout)
                    .await
            })
        });
        Led { answers, lost }
    }
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for Led<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let ready @ Poll::Ready(_) = Pin::new(&mut self.answers).poll_next(context) {
            return ready;
        }
        let lost = self.lost.as_mut();
        if lost.is_some_and(|lost| lost.as_mut().poll(context).is_ready()) {
            self.lost = None;
            return Poll::Ready(Some(Err(status(ErrorKind::NoLeader))));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn answers_come_before_the_news_that_the_leader_is_lost() {
        let (lose, lost) = oneshot::channel::<()>();
        let answers = tokio_stream::iter([Ok(1), Ok(2)]).chain(tokio_stream::pending());
        let mut led = Led {
            answers: Box::pin(answers),
            lost: Some(Box::pin(async move {
                let _ = lost.await;
            })),
        };
        lose.send(()).unwrap();
        assert_eq!(led.next().await.unwrap().unwrap(), 1);
        assert_eq!(led.next().await.unwrap().unwrap(), 2);
        let told = led.next().await.unwrap().unwrap_err();
        assert_eq!(told.message(), "etcdserver: no leader");
        assert_eq!(told.code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn who_does_not_ask_for_a_leader_goes_on_without() {
        let mut led = Led {
            answers: Box::pin(tokio_stream::iter([Ok(1)])),
            lost: None,
        };
        assert_eq!(led.next().await.unwrap().unwrap(), 1);
        assert!(led.next().await.is_none());
    }
}
