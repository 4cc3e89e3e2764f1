//! A minimal HTTP/1.1 client on one kept-alive connection: writes a request, reads one answer with a
//! `Content-Length`. It does as little work as possible, because it shares the machine with the servers.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Size limit of an answer, bytes.
const ANSWER_MAX: usize = 1 << 20;

/// The connection.
#[derive(Debug)]
pub(super) struct Lean {
    stream: TcpStream,
    host: String,
    out: Vec<u8>,
    buffer: Vec<u8>,
}

/// Status and body position of an answer.
struct Head {
    status: u16,
    length: usize,
    body_at: usize,
}

impl Lean {
    pub(super) async fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: to.to_string(), out: Vec::new(), buffer: Vec::new() })
    }

    /// Sends a request and returns the status. The answer's body is in [`Self::body`] until the next call.
    pub(super) async fn call(&mut self, method: &str, path: &str, body: &str) -> Result<u16> {
        self.out.clear();
        let host = &self.host;
        let length = body.len();
        std::io::Write::write_fmt(
            &mut self.out,
            format_args!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            ),
        )?;
        self.stream.write_all(&self.out).await?;
        self.buffer.clear();
        loop {
            ensure!(self.buffer.len() < ANSWER_MAX, "the answer is too large");
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the connection was closed");
            if let Some(head) = head(&self.buffer)?
                && self.buffer.len() >= head.body_at + head.length
            {
                self.buffer.drain(..head.body_at);
                return Ok(head.status);
            }
        }
    }

    /// The last answer's body.
    pub(super) fn body(&self) -> &[u8] {
        &self.buffer
    }
}

/// Parses the head of an answer, if it is complete.
fn head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).context("the head of an answer")?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .context("the status line of an answer")?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    match (length, status) {
        (Some(length), _) => Ok(Some(Head { status, length, body_at: end + 4 })),
        (None, 204) => Ok(Some(Head { status, length: 0, body_at: end + 4 })),
        (None, _) => bail!("the answer has no Content-Length"),
    }
}
