//! One connection: the name, the socket, TLS, HTTP/2; and what went wrong, in terms of what to do about it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use names::NameError;
use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::body::Body;

use crate::endpoint::{Endpoint, Place};
use crate::error::Cause;

pub type SendRequest = http2::SendRequest<Body>;

/// How connections are made.
pub struct Dialer {
    pub tls: tls::Client,
    /// Whom certificates must be for, if not for the endpoint.
    pub name: Option<String>,
    /// Whether there is a certificate to show.
    pub has_identity: bool,
    pub timeout: Duration,
    pub keep_alive_interval: Option<Duration>,
    pub keep_alive_timeout: Duration,
    pub keep_alive_while_idle: bool,
}

/// A connection that works. It ends when it breaks, or when nobody uses it.
pub struct Connection {
    pub sender: SendRequest,
    /// Why it broke.
    pub ended: oneshot::Receiver<String>,
}

/// What an answer may have under way before it is read, of one call and of all: a fast network's worth.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// How long a second look may take that only explains a failure.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// How HTTP/2 begins: the client's magic words, and settings that set nothing.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

impl Dialer {
    /// Connects, and waits until the other end has begun to speak HTTP/2.
    pub async fn dial(&self, endpoint: &Endpoint) -> Result<Connection, Cause> {
        let connected = timeout(self.timeout, self.connect(endpoint)).await;
        connected.unwrap_or(Err(Cause::Timeout))
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Connection, Cause> {
        let socket = reach(&endpoint.place).await?;
        match endpoint.is_secure {
            false => match self.greet(socket).await {
                Err(Cause::NotGrpc(_)) if self.speaks_tls(endpoint).await => Err(Cause::TlsServer),
                greeted => greeted,
            },
            true => {
                let secured = self.tls.connect(self.name(endpoint), socket).await;
                match secured.map_err(|error| self.tls_cause(&error)) {
                    Err(Cause::Io(_)) if speaks_plainly(endpoint).await => Err(Cause::PlainServer),
                    Err(cause) => Err(cause),
                    Ok(secured) => match self.greet(Box::new(secured)).await {
                        Err(cause @ Cause::NotGrpc(_)) => {
                            Err(self.objection(endpoint).await.unwrap_or(cause))
                        }
                        greeted => greeted,
                    },
                }
            }
        }
    }

    fn name<'a>(&'a self, endpoint: &'a Endpoint) -> &'a str {
        self.name.as_deref().unwrap_or(&endpoint.name)
    }

    async fn greet(&self, socket: Box<dyn Socket>) -> Result<Connection, Cause> {
        let (begins, mut begun) = oneshot::channel();
        let fault = Arc::new(Mutex::new(None));
        let socket = Listening {
            socket,
            begins: Some(begins),
            fault: fault.clone(),
        };
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(self.keep_alive_interval)
            .keep_alive_timeout(self.keep_alive_timeout)
            .keep_alive_while_idle(self.keep_alive_while_idle);
        let handshake = builder.handshake(TokioIo::new(socket)).await;
        let (sender, mut connection) = handshake.map_err(|error| Cause::NotGrpc(last_source(&error)))?;
        // Nothing is heard unless the connection is driven.
        let first = tokio::select! {
            first = &mut begun => first,
            _ = &mut connection => begun.await,
        };
        match first {
            // The length of the frame that every server begins with is small.
            Ok(Ok(0)) => {}
            Ok(Ok(TLS_ALERT)) => return Err(Cause::TlsServer),
            Ok(Ok(_)) => return Err(Cause::NotGrpc("it speaks another protocol".into())),
            Ok(Err(error)) if is_tls(&error) => return Err(self.tls_cause(&error)),
            Ok(Err(error)) => return Err(Cause::NotGrpc(error.to_string())),
            Err(_) => return Err(Cause::NotGrpc("it closed the connection".into())),
        }
        let (ends, ended) = oneshot::channel();
        tokio::spawn(async move {
            let end = connection.await.err().map(|error| last_source(&error));
            let fault = fault.lock().take().or(end);
            let cause = fault.unwrap_or_else(|| "the server closed it".to_owned());
            // Nobody has to be interested.
            let _ = ends.send(cause);
        });
        Ok(Connection { sender, ended })
    }

    fn tls_cause(&self, error: &io::Error) -> Cause {
        use rustls::Error as Tls;
        let cause = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let text = tls::describe(error);
        match cause {
            None => Cause::Io(text),
            Some(Tls::InvalidMessage(_)) => Cause::PlainServer,
            Some(Tls::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Cause::WrongName(text),
            Some(Tls::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
                let since = apart(time.as_secs(), not_after.as_secs());
                Cause::NotValidNow(format!("it expired {since} ago"))
            }
            Some(Tls::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before })) => {
                let until = apart(not_before.as_secs(), time.as_secs());
                Cause::NotValidNow(format!("it becomes valid in {until}"))
            }
            Some(Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented) => Cause::NotTrusted(text),
            Some(Tls::AlertReceived(alert)) => self.alert_cause(*alert, text),
            Some(_) => Cause::Handshake(text),
        }
    }

    /// What an alert of the server means.
    fn alert_cause(&self, alert: AlertDescription, text: String) -> Cause {
        match alert {
            AlertDescription::CertificateRequired => Cause::CertificateRequired(text),
            // TLS 1.2 has no word for a certificate that is missing.
            AlertDescription::BadCertificate | AlertDescription::HandshakeFailure if !self.has_identity => {
                Cause::CertificateRequired(text)
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => Cause::CertificateRefused(text),
            _ => Cause::Handshake(text),
        }
    }

    /// What a server says that ends the connection after the handshake: that it is not content with the certificate
    /// it was shown. It is lost if something is written meanwhile, so nothing is.
    async fn objection(&self, endpoint: &Endpoint) -> Option<Cause> {
        let look = async {
            let socket = reach(&endpoint.place).await.ok()?;
            let read = match self.tls.connect(self.name(endpoint), socket).await {
                Ok(mut secured) => secured.read_u8().await,
                Err(error) => Err(error),
            };
            read.err().filter(is_tls).map(|error| self.tls_cause(&error))
        };
        timeout(SECOND_LOOK, look).await.ok().flatten()
    }

    /// Whether who does not understand HTTP/2 does understand TLS. Whether to trust them is not the question.
    async fn speaks_tls(&self, endpoint: &Endpoint) -> bool {
        let look = async {
            let socket = reach(&endpoint.place).await.ok()?;
            Some(match self.tls.connect(self.name(endpoint), socket).await {
                Ok(_) => true,
                Err(error) => is_tls(&error) && !matches!(self.tls_cause(&error), Cause::PlainServer),
            })
        };
        timeout(SECOND_LOOK, look).await.ok().flatten().unwrap_or(false)
    }
}

/// Whether who does not understand TLS does understand HTTP/2.
async fn speaks_plainly(endpoint: &Endpoint) -> bool {
    let look = async {
        let mut socket = reach(&endpoint.place).await.ok()?;
        socket.write_all(HELLO).await.ok()?;
        socket.read_u8().await.ok()
    };
    let first = timeout(SECOND_LOOK, look).await.ok().flatten();
    matches!(first, Some(0 | b'H'))
}

/// What both kinds of sockets are.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

async fn reach(place: &Place) -> Result<Box<dyn Socket>, Cause> {
    match place {
        Place::Unix(path) => {
            let socket = UnixStream::connect(path)
                .await
                .map_err(|error| io_cause(&error))?;
            Ok(Box::new(socket))
        }
        Place::Net { host, port } => {
            let unknown = |error: NameError| Cause::UnknownName {
                name: error.name,
                reason: error.problem.to_string(),
            };
            let addresses = names::addresses(host, *port).await.map_err(unknown)?;
            let reached = names::reach(None, &addresses).await;
            let socket = reached.map_err(|error| io_cause(&error))?;
            socket.set_nodelay(true).map_err(|error| io_cause(&error))?;
            Ok(Box::new(socket))
        }
    }
}

fn io_cause(error: &io::Error) -> Cause {
    match error.kind() {
        // A socket's file that is not there is nobody who listens.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Cause::Refused,
        io::ErrorKind::TimedOut => Cause::Timeout,
        _ => Cause::Io(error.to_string()),
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The words of the error that is behind all others.
pub fn last_source(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The first byte of an alert.
const TLS_ALERT: u8 = 21;

/// A socket that tells how its other end begins to speak, and what went wrong with it.
struct Listening {
    socket: Box<dyn Socket>,
    begins: Option<oneshot::Sender<io::Result<u8>>>,
    fault: Arc<Mutex<Option<String>>>,
}

impl Listening {
    /// The first thing that is read goes to who waits for it; the error that follows is of no interest.
    fn note(&mut self, read: io::Result<Option<u8>>) -> io::Result<()> {
        if let Err(error) = &read {
            *self.fault.lock() = Some(tls::describe(error));
        }
        let Some(begins) = self.begins.take() else {
            return read.map(drop);
        };
        let first = read.and_then(|first| first.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        let rest = match first {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        // Nobody has to be interested.
        let _ = begins.send(first);
        rest
    }
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.socket).poll_read(context, buffer));
        Poll::Ready(self.note(read.map(|()| buffer.filled().get(before).copied())))
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// How far two times are from each other, as precisely as people want to know it.
fn apart(later: u64, earlier: u64) -> String {
    match later.saturating_sub(earlier) / 60 {
        minutes if minutes < 120 => format!("{minutes} minutes"),
        minutes if minutes < 2880 => format!("{} hours", minutes / 60),
        minutes => format!("{} days", minutes / 1440),
    }
}
