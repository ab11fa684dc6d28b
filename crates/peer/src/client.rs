//! Requests to other members.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// How long a connection without a request is kept. Go members close one after 5 s.
const IDLE: Duration = Duration::from_secs(4);
/// Connections without a request, to one member: as many as messages are posted on.
const IDLE_CONNECTIONS: usize = 4;

/// The body of a request.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// A body of a few bytes.
pub(crate) fn whole(body: Bytes) -> RequestBody {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The URL is none that can be called.
    #[error("not a URL that can be called: {0}")]
    Url(String),
    /// The machine is there and says that nobody listens.
    #[error("connection refused")]
    Refused,
    /// No connection, or it broke off.
    #[error("{0}")]
    Broken(String),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The answer is longer than asked for.
    #[error("answer too long")]
    TooLong,
}

/// Sends requests to members by URL, on connections that are kept for a while. Cheap to clone.
///
/// Works without a [`Transport`](crate::Transport): a joining member asks the others with it who they are.
#[derive(Clone)]
pub struct Client(hyper_util::client::legacy::Client<Connector, RequestBody>);

impl Client {
    /// A client that has `connect_timeout` for a connection, and uses `tls` for `https` and `unixs`.
    pub fn new(tls: Option<tls::Client>, connect_timeout: Duration) -> Self {
        Self::by(Connector::new(tls, connect_timeout))
    }

    /// A client whose connections are opened like this.
    pub fn by(connector: Connector) -> Self {
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Client(client)
    }

    /// Sends a request, the URL of which is a path only, to the member at `base_url`. Has `timeout` from
    /// the dial to the last byte of the answer, which may be `body_limit` bytes long.
    pub async fn call(
        &self,
        base_url: &str,
        request: Request<Bytes>,
        timeout: Duration,
        body_limit: usize,
    ) -> Result<Response<Bytes>, CallError> {
        let work = async {
            let response = self.send(base_url, request.map(whole)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, body_limit).collect().await;
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => CallError::TooLong,
                false => CallError::Broken(error.to_string()),
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(timeout, work)
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }

    /// Sends a request and returns the head of the answer as soon as that is there.
    pub(crate) async fn send(
        &self,
        base_url: &str,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, CallError> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", base_url.trim_end_matches('/'));
        *request.uri_mut() = Uri::try_from(&url).map_err(|_| CallError::Url(url))?;
        self.0.request(request).await.map_err(|error| classify(&error))
    }
}

fn classify(error: &(dyn Error + 'static)) -> CallError {
    let mut cause = error;
    loop {
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return CallError::Refused,
            Some(io::ErrorKind::TimedOut) => return CallError::TimedOut,
            _ => {}
        }
        match cause.source() {
            Some(source) => cause = source,
            // The innermost says what happened, those around it only what that led to.
            None => {
                let broken = cause.downcast_ref::<io::Error>();
                return CallError::Broken(broken.map_or_else(|| cause.to_string(), tls::describe));
            }
        }
    }
}

/// Opens connections to URLs, for HTTP clients of hyper.
#[derive(Clone)]
pub struct Connector {
    tls: Option<tls::Client>,
    timeout: Duration,
    from: Option<IpAddr>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Socket>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let connected = tokio::time::timeout(connector.timeout, connector.connect(&url)).await;
            let socket = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            Ok(TokioIo::new(Socket(socket)))
        })
    }
}

impl Connector {
    /// Has `timeout` for a connection, TLS included, and uses `tls` for `https` and `unixs`.
    pub fn new(tls: Option<tls::Client>, timeout: Duration) -> Self {
        Self {
            tls,
            timeout,
            from: None,
        }
    }

    /// Connections come from this address of the machine, if one is named.
    pub fn coming_from(mut self, address: Option<IpAddr>) -> Self {
        self.from = address;
        self
    }

    async fn connect(&self, url: &Uri) -> io::Result<Box<dyn Io>> {
        let unusable = || io::Error::new(io::ErrorKind::InvalidInput, format!("cannot connect to {url}"));
        let authority = url.authority().ok_or_else(unusable)?;
        let host = authority.host().trim_matches(['[', ']']);
        let scheme = url.scheme_str().unwrap_or_default();
        let socket: Box<dyn Io> = match scheme {
            "http" | "https" => {
                let port = authority
                    .port_u16()
                    .unwrap_or(if scheme == "http" { 80 } else { 443 });
                let socket = names::connect_from(self.from, host, port).await?;
                socket.set_nodelay(true)?;
                Box::new(socket)
            }
            // As with etcd, host and port are the name of the socket's file.
            "unix" | "unixs" => Box::new(UnixStream::connect(authority.as_str()).await?),
            _ => return Err(unusable()),
        };
        if !matches!(scheme, "https" | "unixs") {
            return Ok(socket);
        }
        let tls = self.tls.as_ref().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no TLS is set up to connect to {url}"),
            )
        })?;
        Ok(Box::new(tls.connect(host, socket).await?))
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of any kind.
pub struct Socket(Box<dyn Io>);

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tower_service::Service;

    use super::*;

    #[tokio::test]
    async fn a_connection_comes_from_the_address_that_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        for from in [None, Some(IpAddr::from([127, 0, 0, 2]))] {
            let mut connector = Connector::new(None, Duration::from_secs(60)).coming_from(from);
            let (connected, accepted) = tokio::join!(connector.call(url.parse().unwrap()), listener.accept());
            connected.unwrap();
            let expected = from.unwrap_or(IpAddr::from([127, 0, 0, 1]));
            assert_eq!(accepted.unwrap().1.ip(), expected);
        }
        let ipv6 = Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
        let mut connector = Connector::new(None, Duration::from_secs(60)).coming_from(ipv6);
        let refused = connector.call(url.parse().unwrap()).await.map(|_| ());
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
