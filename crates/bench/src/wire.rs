//! HTTP/2 by hand: a client that sends what no library would.

use std::io;

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GO_AWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting of how many bytes of an answer may be on their way.
const INITIAL_WINDOW: u16 = 4;

/// A connection.
pub struct Wire {
    socket: TcpStream,
    stream: u32,
}

impl Wire {
    /// Connects and says with which window answers begin.
    pub async fn connect(address: &str, window: u32) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut wire = Wire { socket, stream: 1 };
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let setting = [&INITIAL_WINDOW.to_be_bytes()[..], &window.to_be_bytes()].concat();
        hello.extend(frame(SETTINGS, 0, 0, &setting));
        // The window of the connection as a whole, as large as it may get.
        let rest = (1_u32 << 31) - 1 - 65_535;
        hello.extend(frame(WINDOW_UPDATE, 0, 0, &rest.to_be_bytes()));
        wire.send(&hello).await?;
        Ok(wire)
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// The number of the next stream.
    pub fn next_stream(&mut self) -> u32 {
        let stream = self.stream;
        self.stream += 2;
        stream
    }

    /// Begins a gRPC call.
    pub async fn call(&mut self, path: &str, request: &impl Message) -> io::Result<()> {
        let stream = self.next_stream();
        let mut call = request_head(stream, path, 0);
        let message = request.encode_to_vec();
        let mut body = vec![0];
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
        call.extend(frame(DATA, END_STREAM, stream, &body));
        self.send(&call).await
    }

    /// The next frame: its kind, its flags and what is in it.
    pub async fn next(&mut self) -> io::Result<(u8, u8, Bytes)> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.socket.read_exact(&mut payload).await?;
        Ok((kind, flags, payload.into()))
    }
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The frame that begins a gRPC call of a path.
pub fn request_head(stream: u32, path: &str, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &header_block(path))
}

/// The headers of a gRPC call: POST and http by number, the rest as literals behind numbers of names.
pub fn header_block(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let literals = [
        (&[0x04][..], path),
        (&[0x01], "abuse"),
        (&[0x0f, 0x10], "application/grpc"),
    ];
    for (name, value) in literals {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block.extend(b"\x00\x02te\x08trailers");
    block
}
