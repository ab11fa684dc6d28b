//! The sockets that questions go through: connected ones, which hear at once that nobody listens at the server. So does
//! a machine that has no name server, instead of waiting for one. Nothing of strangers reaches them either.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioRuntimeProvider, TokioTime};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

/// Tokio's for TCP, and connected ones for UDP.
#[derive(Clone, Default)]
pub struct Sockets(TokioRuntimeProvider);

type Soon<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = TokioTime;
    type Udp = Connected;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Soon<'static, Self::Tcp> {
        self.0.connect_tcp(server, from, timeout)
    }

    fn bind_udp(&self, from: SocketAddr, server: SocketAddr) -> Soon<'static, Connected> {
        Box::pin(async move {
            let socket = UdpSocket::bind(from).await?;
            socket.connect(server).await?;
            Ok(Connected(socket))
        })
    }
}

/// A socket that is connected to a server.
pub struct Connected(UdpSocket);

impl DnsUdpSocket for Connected {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        let from = ready!(self.0.poll_recv_from(context, &mut buffer))?;
        Poll::Ready(Ok((buffer.filled().len(), from)))
    }

    /// Who waits for data alone is not woken by an error.
    fn recv_from<'own, 'buffer, 'both>(
        &'own self,
        buffer: &'buffer mut [u8],
    ) -> Soon<'both, (usize, SocketAddr)>
    where
        'own: 'both,
        'buffer: 'both,
    {
        let failed = async {
            self.0.ready(Interest::ERROR).await?;
            match self.0.take_error()? {
                Some(error) => Err(error),
                None => pending().await,
            }
        };
        Box::pin(async move {
            tokio::select! {
                received = self.0.recv_from(buffer) => received,
                failed = failed => failed,
            }
        })
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(context, bytes, to)
    }
}
