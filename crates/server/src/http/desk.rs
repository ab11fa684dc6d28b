//! The peer port beside raft's own paths: what members ask each other.
//!
//! | path | method | what for |
//! |---|---|---|
//! | `/members` | GET | the members, for one that joins |
//! | `/downgrade/enabled` | GET | whether a member of an older version may join |
//! | `/members/hashkv` | GET, with a body | the hash of the history at a revision |
//! | `/keelson/oldest` | GET | the oldest cluster version this member acts at |
//! | `/keelson/statehash` | GET, with a body | what entries did, in sums to be compared |
//! | `/members/promote/<id>` | POST | a promotion, passed on to the leader |
//! | `/leases`, `/leases/internal` | POST | lease renewals and questions, passed on to the leader |
//! | `/raft`, `/raft/...` | | crate `peer` |

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use prost::Message;
use proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use tokio::time::timeout;
use types::{ErrorKind, LeaseId, MemberId};

use super::{Answer, CLUSTER_ID, not_found, text, typed, with_cluster_id};
use crate::corruption;
use crate::forward;
use crate::node::Node;
use crate::rpc::promote_here;
use crate::versions::{self, OLDEST_PATH};

const DOWNGRADE_ENABLED: &str = "/downgrade/enabled";
const HASH_KV: &str = "/members/hashkv";
/// Ours; Go members answer 404.
const STATE_HASH: &str = "/keelson/statehash";

/// Bytes of a request; they hold a few numbers.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Time for them to come.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// Who answers on the peer port.
#[derive(Clone)]
pub struct Desk(pub Node);

impl Desk {
    /// Whether a request for this path is answered here.
    pub fn knows(path: &str) -> bool {
        matches!(
            path,
            "/members" | DOWNGRADE_ENABLED | OLDEST_PATH | HASH_KV | STATE_HASH
        ) || path.starts_with("/members/promote/")
            || path.starts_with("/leases")
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        match (path.as_str(), request.method()) {
            ("/members", &Method::GET) => self.with_cluster(self.members()),
            ("/members", _) => self.with_cluster(not_allowed(Some("GET"))),
            (HASH_KV, &Method::GET) => {
                let cluster = request.headers().get(CLUSTER_ID).and_then(|id| id.to_str().ok());
                let cluster = cluster.map(str::to_owned);
                match read(request).await {
                    Ok(body) => corruption::hash_kv(&self.0, cluster.as_deref(), &body).await,
                    Err(refusal) => refusal,
                }
            }
            (STATE_HASH, &Method::GET) => match read(request).await {
                Ok(body) => corruption::state_hash(&self.0, &body),
                Err(refusal) => refusal,
            },
            (OLDEST_PATH, &Method::GET) => versions::oldest(&self.0),
            (OLDEST_PATH | HASH_KV | STATE_HASH, _) => not_allowed(Some("GET")),
            (DOWNGRADE_ENABLED, &Method::GET) => versions::downgrade_enabled(&self.0).await,
            (DOWNGRADE_ENABLED, _) => self.with_cluster(not_allowed(Some("GET"))),
            ("/leases" | "/leases/internal", &Method::POST) => match read(request).await {
                Ok(body) if path == "/leases" => self.renew(body).await,
                Ok(body) => self.time_to_live(body).await,
                Err(refusal) => refusal,
            },
            ("/leases" | "/leases/internal", _) => not_allowed(None),
            (path, method) => match path.strip_prefix("/members/promote/") {
                Some(_) if method != Method::POST => self.with_cluster(not_allowed(Some("POST"))),
                Some(id) => self.with_cluster(self.promote(authorization(&request), id).await),
                None => not_found(),
            },
        }
    }

    fn with_cluster(&self, answer: Answer) -> Answer {
        with_cluster_id(answer, self.0.cluster_id)
    }

    fn members(&self) -> Answer {
        let replicated = self.0.board.replicated();
        let members: Vec<_> = replicated.membership.members().collect();
        let mut body = serde_json::to_vec(&members).unwrap_or_default();
        body.push(b'\n');
        typed(StatusCode::OK, "application/json", body)
    }

    async fn promote(&self, token: Option<&str>, id: &str) -> Answer {
        let Ok(parsed) = id.parse() else {
            return text(
                StatusCode::NOT_FOUND,
                format!("member {id} not found in cluster\n"),
            );
        };
        let promoted = match self.0.identify_token(token).await {
            Ok(who) => promote_here(&self.0, &who, MemberId(parsed)).await,
            Err(error) => Err(error),
        };
        match promoted {
            Ok(_) => self.members(),
            Err(error) => {
                let status = match error {
                    ErrorKind::MemberNotFound => StatusCode::NOT_FOUND,
                    ErrorKind::MemberNotLearner | ErrorKind::LearnerNotReady => {
                        StatusCode::PRECONDITION_FAILED
                    }
                    _ => return internal_error(),
                };
                text(status, format!("{}\n", forward::promotion_text(error)))
            }
        }
    }

    async fn renew(&self, body: Bytes) -> Answer {
        let Ok(LeaseKeepAliveRequest { id }) = LeaseKeepAliveRequest::decode(body) else {
            return text(StatusCode::BAD_REQUEST, "error unmarshalling request\n");
        };
        match forward::renew_here(&self.0, LeaseId(id)).await {
            Ok(ttl) => protobuf(&LeaseKeepAliveResponse {
                header: Some(Default::default()),
                id,
                ttl,
            }),
            Err(error) => lease_error(error),
        }
    }

    async fn time_to_live(&self, body: Bytes) -> Answer {
        let request = LeaseInternalRequest::decode(body).ok();
        let Some(request) = request.and_then(|request| request.lease_time_to_live_request) else {
            return text(StatusCode::BAD_REQUEST, "error unmarshalling request\n");
        };
        match forward::time_to_live_here(&self.0, request).await {
            Ok(answer) => protobuf(&LeaseInternalResponse {
                lease_time_to_live_response: Some(answer),
            }),
            Err(error) => lease_error(error),
        }
    }
}

/// The token of who asks by way of another member.
fn authorization(request: &Request<Incoming>) -> Option<&str> {
    let header = request.headers().get(http::header::AUTHORIZATION)?;
    Some(header.to_str().unwrap_or_default())
}

async fn read(request: Request<Incoming>) -> Result<Bytes, Answer> {
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect();
    let Ok(body) = timeout(REQUEST_TIME, body).await else {
        return Err(text(StatusCode::REQUEST_TIMEOUT, "request body took too long\n"));
    };
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, "request body too large\n"))
        }
        Err(_) => Err(text(StatusCode::BAD_REQUEST, "error reading body\n")),
    }
}

fn protobuf(message: &impl Message) -> Answer {
    typed(StatusCode::OK, "application/protobuf", message.encode_to_vec())
}

fn lease_error(error: ErrorKind) -> Answer {
    match error {
        ErrorKind::LeaseNotFound => text(StatusCode::NOT_FOUND, "lease not found\n"),
        ErrorKind::TimeoutWaitAppliedIndex => text(
            StatusCode::REQUEST_TIMEOUT,
            "waiting for node to catch up its applied index has timed out\n",
        ),
        _ => text(StatusCode::BAD_REQUEST, "not a primary lessor\n"),
    }
}

fn not_allowed(allow: Option<&'static str>) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    if let Some(allow) = allow {
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allow));
    }
    answer
}

fn internal_error() -> Answer {
    let body = r#"{"message":"Internal Server Error"}"#;
    typed(StatusCode::INTERNAL_SERVER_ERROR, "application/json", body)
}
