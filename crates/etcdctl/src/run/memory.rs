//! How much memory a server takes, from its metrics.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::context::Context;
use crate::failure::{Failure, Status};

const METRIC: &str = "process_resident_memory_bytes ";
/// Metrics of a server are some hundred kilobytes.
const METRICS_BYTES_MAX: usize = 16 << 20;

/// The resident memory of the server at the first endpoint, in bytes.
pub async fn resident(context: &Context) -> Result<f64, Failure> {
    let endpoints = context.endpoints().await?;
    let endpoint = endpoints.first().map_or("", |first| first.as_str());
    let failed = |why: String| {
        Failure::new(
            Status::Error,
            format!("cannot read the memory of {endpoint} from its /metrics: {why}"),
        )
    };
    let text = metrics(context, endpoint).await.map_err(failed)?;
    let value = text.lines().find_map(|line| line.strip_prefix(METRIC));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.ok_or_else(|| failed(format!("there is no {METRIC}")))
}

async fn metrics(context: &Context, endpoint: &str) -> Result<String, String> {
    let tls = context.tls().map_err(|failure| failure.text)?;
    let url = match (endpoint.contains("://"), &tls) {
        (true, _) => endpoint.to_owned(),
        (false, Some(_)) => format!("https://{endpoint}"),
        (false, None) => format!("http://{endpoint}"),
    };
    let uri: Uri = url.parse().map_err(|_| "it is no URL".to_owned())?;
    let authority = uri.authority().ok_or("it is no URL")?.clone();
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let socket = names::connect(authority.host(), authority.port_u16().unwrap_or(2379)).await;
    let socket = socket.map_err(|error| said(&error))?;
    match uri.scheme_str() {
        Some("https") => {
            let tls =
                tls::Client::new(&tls.unwrap_or_default(), tls::UNSAID).map_err(|error| said(&error))?;
            let socket = tls.connect(authority.host(), socket).await;
            ask(socket.map_err(|error| said(&error))?, authority.as_str()).await
        }
        _ => ask(socket, authority.as_str()).await,
    }
}

async fn ask(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
) -> Result<String, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let shaken = http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = shaken.map_err(|error| said(&error))?;
    tokio::spawn(connection);
    let request = Request::get("/metrics")
        .header("host", host)
        .body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|error| said(&error))?).await;
    let body = Limited::new(
        response.map_err(|error| said(&error))?.into_body(),
        METRICS_BYTES_MAX,
    );
    let body = body.collect().await.map_err(|error| said(&error))?.to_bytes();
    String::from_utf8(body.into()).map_err(|error| said(&error))
}
