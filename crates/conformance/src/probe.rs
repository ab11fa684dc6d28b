//! One request by TLS, on a connection of its own.

use std::io;
use std::net::SocketAddr;

use tls::{Client, Settings, UNSAID};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One who connects by TLS. Its files are read again for each connection.
#[derive(Clone)]
pub struct Probe(Client);

impl Probe {
    /// One with such certificates.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let client = Client::new(settings, UNSAID).map_err(|error| error.to_string())?;
        Ok(Self(client))
    }

    /// Asks for the version, which every port tells. Returns the certificate that the server has shown, in DER.
    /// In TLS 1.3 only an answer says that the client was let in.
    pub async fn ask(&self, at: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = TcpStream::connect(at).await?;
        let mut stream = self.0.connect(&at.ip().to_string(), socket).await?;
        let shown = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|shown| shown.first());
        let shown = shown.map(|shown| shown.to_vec()).unwrap_or_default();
        let request = format!("GET /version HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await?;
        match &begin == b"HTTP/1.1 200" {
            true => Ok(shown),
            false => Err(io::Error::other(String::from_utf8_lossy(&begin).into_owned())),
        }
    }
}
