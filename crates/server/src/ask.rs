//! Small questions to other members, asked at their peer ports.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use peer::Client;
use types::ClusterId;

use crate::http::CLUSTER_ID;

/// Longest answer that is read. The largest is the members' list of a cluster.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How long one URL has for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A way to ask: one request to the peer port at a base URL. Cheap to clone.
#[derive(Clone)]
pub struct Ask {
    cluster_id: ClusterId,
    client: Client,
}

impl Ask {
    /// Asks members of a cluster.
    pub fn new(cluster_id: ClusterId, client: Client) -> Self {
        Ask { cluster_id, client }
    }

    /// Asks the member that has these peer URLs: the first that answers, whatever it answers, counts.
    pub async fn member(
        &self,
        urls: &[String],
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut failure = "the member has no peer URL".to_owned();
        for url in urls {
            let request = Request::get(path)
                .header("content-type", "application/json")
                .header(CLUSTER_ID, self.cluster_id.to_string())
                .body(body.clone())
                .map_err(|error| error.to_string())?;
            match self
                .client
                .call(url, request, ANSWER_TIMEOUT, ANSWER_BYTES_MAX)
                .await
            {
                Ok(answer) => return Ok((answer.status(), answer.into_body())),
                Err(error) => failure = error.to_string(),
            }
        }
        Err(failure)
    }
}
