//! The gateway over a websocket, for callers whose HTTP can't stream both ways: browsers.
//!
//! Each message from the client is JSON of the body, each line of the answer is a message to the client. A token comes
//! as the second sub-protocol behind `Bearer`, or in the cookie `token`, as browsers can set no other header.

use base64::Engine;
use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use gateway::Method;
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::{Caller, Gateway};
use crate::http::text;
use crate::listen::{EdgeBody, GrpcService, Stay};

/// Messages of a client that wait for the call: one, and the one being read.
const MESSAGES_MAX: usize = 1;

/// Whether a request asks for a websocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    has_token(headers, &CONNECTION, "upgrade") && has_token(headers, &UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Opens a websocket for a call. It lives as a task of its own, as long as the connection and the call both do.
pub fn open<G: GrpcService>(
    gateway: Gateway<G>,
    method: Option<&'static Method>,
    request: &Parts,
    upgrade: OnUpgrade,
    stay: Option<Stay>,
) -> Response<EdgeBody> {
    let headers = &request.headers;
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| is_key(key));
    let (key, stay) = match (key, stay) {
        _ if request.method != http::Method::GET => return refuse(StatusCode::METHOD_NOT_ALLOWED),
        _ if !has_token(headers, &SEC_WEBSOCKET_VERSION, "13") => return refuse(StatusCode::BAD_REQUEST),
        (Some(key), Some(stay)) => (key, stay),
        // Without a good key, or where connections can't be taken over, as in HTTP/2.
        _ => return refuse(StatusCode::BAD_REQUEST),
    };
    let mut answer = Response::new(EdgeBody::http(Bytes::new(), None));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accepted = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    let answer_headers = answer.headers_mut();
    answer_headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer_headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer_headers.extend(accepted.ok().map(|accepted| (SEC_WEBSOCKET_ACCEPT, accepted)));
    if protocols(headers).is_some_and(|protocols| protocols.starts_with(BEARER)) {
        answer_headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    let caller = Caller {
        headers: authorization(headers),
        ..Caller::of(request)
    };
    let mut stay = stay;
    tokio::spawn(async move {
        let talking = async {
            // A client that goes away first has no websocket.
            let Ok(connection) = upgrade.await else {
                return;
            };
            let config = WebSocketConfig::default()
                .max_message_size(Some(gateway.json_bytes_max))
                .max_frame_size(Some(gateway.json_bytes_max));
            let connection = TokioIo::new(connection);
            let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
            talk(gateway, method, &caller, socket).await;
        };
        tokio::select! {
            () = talking => {}
            _ = stay.over() => {}
        }
    });
    answer
}

/// Whether it is 16 bytes of base64, as a browser makes them up.
fn is_key(key: &HeaderValue) -> bool {
    let bytes = base64::engine::general_purpose::STANDARD.decode(key);
    bytes.is_ok_and(|bytes| bytes.len() == 16)
}

const BEARER: &str = "Bearer";

fn protocols(headers: &HeaderMap) -> Option<&str> {
    headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()
}

/// The header that a sub-protocol or a cookie stands for; the cookie counts if there are both.
fn authorization(headers: &HeaderMap) -> HeaderMap {
    let cookies = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok());
    let mut cookies = cookies.flat_map(|cookies| cookies.split(';'));
    let cookie = cookies.find_map(|cookie| cookie.trim().strip_prefix("token="));
    let protocol = || protocols(headers)?.split_once("Bearer,").map(|(_, token)| token);
    let token = cookie
        .or_else(protocol)
        .map(|token| token.trim_matches([' ', '"']));
    let value = token.and_then(|token| HeaderValue::try_from(format!("{BEARER} {token}")).ok());
    value.into_iter().map(|value| (AUTHORIZATION, value)).collect()
}

fn refuse(status: StatusCode) -> Response<EdgeBody> {
    let body = format!("{}\n", status.canonical_reason().unwrap_or_default());
    let mut answer = text(status, body);
    answer
        .headers_mut()
        .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer.map(|body| EdgeBody::http(body, None))
}

/// Carries messages both ways until the call is over or the client goes away.
async fn talk<G: GrpcService, S>(
    gateway: Gateway<G>,
    method: Option<&'static Method>,
    caller: &Caller,
    socket: S,
) where
    S: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Send,
{
    let (mut out, incoming) = socket.split();
    let (requests, pieces) = mpsc::channel(MESSAGES_MAX);
    let pieces = ReceiverStream::new(pieces);
    let answering = async {
        let answer = gateway.call(method, caller, Box::pin(pieces)).await;
        let mut body = answer.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            let line = frame.into_data().unwrap_or_default();
            let line = line
                .strip_suffix(b"\n")
                .map_or(line.clone(), |text| line.slice_ref(text));
            let Ok(text) = Utf8Bytes::try_from(line) else {
                return;
            };
            if !text.is_empty() && out.send(Message::Text(text)).await.is_err() {
                return;
            }
        }
        let _gone_already = out.close().await;
    };
    tokio::select! {
        () = answering => {}
        () = listen(incoming, requests) => {}
    }
}

/// Takes the client's messages in until there are no more. A call that has what it wants takes none, which is no reason
/// to end: its answer may be yet to come.
async fn listen(
    mut incoming: impl Stream<Item = Result<Message, Error>> + Unpin,
    requests: mpsc::Sender<Bytes>,
) {
    while let Some(Ok(message)) = incoming.next().await {
        if let Message::Text(_) | Message::Binary(_) = message {
            let _not_wanted = requests.send(message.into_data()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_browsers_token_is_a_sub_protocol_or_a_cookie() {
        for (pairs, expected) in [
            (&[][..], None),
            (
                &[("sec-websocket-protocol", "Bearer, abc.1")],
                Some("Bearer abc.1"),
            ),
            (&[("sec-websocket-protocol", "chat")], None),
            (&[("cookie", "a=b; token=abc.2")], Some("Bearer abc.2")),
            (
                &[
                    ("sec-websocket-protocol", "Bearer, abc.1"),
                    ("cookie", "token=abc.2"),
                ],
                Some("Bearer abc.2"),
            ),
        ] {
            let found = authorization(&headers(pairs));
            let found = found.get(AUTHORIZATION).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_websocket_is_asked_for_by_two_headers() {
        assert!(is_wanted(&headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket")
        ])));
        assert!(!is_wanted(&headers(&[
            ("connection", "upgrade"),
            ("upgrade", "h2c")
        ])));
        assert!(!is_wanted(&headers(&[("upgrade", "websocket")])));
    }
}
