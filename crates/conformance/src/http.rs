//! The few lines of HTTP/1.1 a test needs: one request on a connection of its own.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// An answer as it came, its body freed of chunking.
#[derive(Debug)]
pub struct Response {
    /// Status code and phrase, such as `404 Not Found`.
    pub status: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Sends one request and reads the answer to its end.
pub async fn request(at: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Response> {
    exchange(TcpStream::connect(at).await?, at, method, path, "", body).await
}

/// The same on a connection that is there, with more header lines.
pub async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: impl AsRef<[u8]>,
) -> io::Result<Response> {
    send(&mut stream, at, method, path, headers, body.as_ref()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP response"))
}

/// Posts a body, and reads the answer up to the first line of its body: a stream may have no end.
pub async fn first_line(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    at: SocketAddr,
    path: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<Response> {
    send(&mut stream, at, "POST", path, headers, body).await?;
    let mut bytes = Vec::new();
    loop {
        let is_over = stream.read_buf(&mut bytes).await? == 0;
        let response = parse(&bytes);
        if let Some(mut response) = response {
            let line = response.body.iter().position(|byte| *byte == b'\n');
            response.body.truncate(line.unwrap_or(response.body.len()));
            if is_over || line.is_some() {
                return Ok(response);
            }
        } else if is_over {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP response"));
        }
    }
}

/// Sends a request. A `Host` among the headers takes the place of the usual one.
async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<()> {
    let host = match headers.contains("Host:") {
        true => String::new(),
        false => format!("Host: {at}\r\n"),
    };
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await
}

/// An answer that goes on for as long as it is wanted: in chunks, with lines in them.
#[derive(Debug)]
pub struct Lines {
    stream: BufReader<TcpStream>,
    /// The answer without a body.
    pub head: Response,
    read: Vec<u8>,
}

impl Lines {
    /// Sends a request and reads the head of its answer.
    pub async fn open(at: SocketAddr, path: &str, headers: &str, body: &[u8]) -> io::Result<Self> {
        let mut stream = TcpStream::connect(at).await?;
        send(&mut stream, at, "POST", path, headers, body).await?;
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let (head, _) = parse_head(&head)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP response"))?;
        Ok(Lines {
            stream,
            head,
            read: Vec::new(),
        })
    }

    /// The next line; none when the answer ends.
    pub async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            let mut length = String::new();
            self.stream.read_line(&mut length).await?;
            let length = usize::from_str_radix(length.trim(), 16)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if length == 0 {
                return Ok(None);
            }
            let mut chunk = vec![0; length + 2];
            self.stream.read_exact(&mut chunk).await?;
            self.read.extend_from_slice(&chunk[..length]);
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Response> {
    let (mut response, body) = parse_head(bytes)?;
    response.body = match response.header("transfer-encoding") {
        Some("chunked") => unchunked(body)?,
        _ => body.to_vec(),
    };
    Some(response)
}

/// The answer without its body, and the bytes of that as they came.
fn parse_head(bytes: &[u8]) -> Option<(Response, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split_once(' ')?.1.to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let response = Response {
        status,
        headers,
        body: Vec::new(),
    };
    Some((response, body))
}

/// A body in chunks, as far as it is there.
fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") else {
            return Some(body);
        };
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        bytes = &bytes[end + 2..];
        if length == 0 {
            return Some(body);
        }
        let chunk = &bytes[..length.min(bytes.len())];
        body.extend_from_slice(chunk);
        bytes = bytes.get(length + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_put_together() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        let response = parse(bytes).unwrap();
        assert_eq!(
            (response.status.as_str(), response.body.as_slice()),
            ("200 OK", b"abcd".as_slice())
        );
    }
}
