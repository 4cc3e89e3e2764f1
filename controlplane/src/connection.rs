//! One HTTP connection, with bounds on everything that a peer can make us wait for or keep.
//!
//! ```text
//!   socket ─► Guarded ─► hyper ─► service
//! ```
//!
//! hyper answers a head that it cannot read by a status alone, and closes. [`Guarded`] puts our form of
//! an error in the place of that answer, and reads on for a moment, so that the client gets it before
//! the connection is reset. It also cuts off a peer that takes no bytes, or next to none.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::error::{Code, Failure};

/// Time for a request's head, and for a connection without a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that takes no bytes for so long is cut off …
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// … and so is one that takes fewer than these a second after that.
const STALL_BYTES_PER_SEC: u32 = 16 << 10;
/// Bytes that a connection buffers, at most, each way: the longest head.
const CONNECTION_BYTES_MAX: usize = 32 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// After an answer to a head that cannot be read, what else comes is read and dropped: for so long …
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// … and so many bytes.
const LINGER_BYTES_MAX: usize = 4 << 20;
/// Longest answer of hyper itself.
const OWN_ANSWER_BYTES_MAX: usize = 256;

/// HTTP/1.1 with bounds on what a peer can make us wait for or keep.
///
/// `pipeline_flush` stays off: with it hyper buffers answers without a bound, and keeps one back for as
/// long as anything at all comes after its request.
pub(crate) fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(CONNECTION_BYTES_MAX);
    builder
}

/// Header lines that every answer has, for an answer that is made here.
pub(crate) type Stamp = Arc<dyn Fn(&Failure) -> String + Send + Sync>;

/// A stream whose writes fail when the peer takes no bytes, and on which no answer lacks its body.
pub(crate) struct Guarded {
    stream: TcpStream,
    stamp: Stamp,
    patience: Patience,
    /// Whether the end of a line has come since the last answer.
    line: bool,
    /// Our answer in the place of hyper's, and how much of it is written.
    words: Option<(Vec<u8>, usize)>,
    linger: Option<Linger>,
}

/// How long a peer may take for what it was sent.
struct Patience {
    stalled: Option<Pin<Box<Sleep>>>,
    timeout: Duration,
}

/// What is read and dropped at the end.
struct Linger {
    over: Pin<Box<Sleep>>,
    left: usize,
}

impl Patience {
    /// Passes the result of a write of `wanted` bytes on. The clock runs while something is left to
    /// write; bytes that were taken buy time, but none in advance.
    fn watch(
        &mut self,
        wanted: usize,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let timeout = self.timeout;
        let mut clock = || Box::pin(tokio::time::sleep(timeout));
        match &written {
            Poll::Ready(Ok(taken)) if *taken < wanted => {
                let stalled = self.stalled.get_or_insert_with(&mut clock);
                let taken = u32::try_from(*taken).unwrap_or(u32::MAX);
                let bought = Duration::from_secs(1) * taken / STALL_BYTES_PER_SEC;
                let deadline = (stalled.deadline() + bought).min(Instant::now() + timeout);
                stalled.as_mut().reset(deadline);
            }
            Poll::Ready(_) => self.stalled = None,
            Poll::Pending => {
                ready!(self.stalled.get_or_insert_with(&mut clock).as_mut().poll(context));
                let why = "the peer takes too few bytes";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
        }
        written
    }
}

impl Guarded {
    pub(crate) fn new(stream: TcpStream, stamp: Stamp) -> Self {
        let patience = Patience { stalled: None, timeout: STALL_TIMEOUT };
        Self { stream, stamp, patience, line: false, words: None, linger: None }
    }

    /// The failure that an answer of hyper's own stands for.
    fn own_answer(&self, bytes: &[u8]) -> Option<Failure> {
        let short = bytes.len() <= OWN_ANSWER_BYTES_MAX && bytes.starts_with(b"HTTP/1.1 4");
        if !short || !bytes.ends_with(b"\r\n\r\n") {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        if !text.contains("content-length: 0\r\n") || text.contains("x-romana-") {
            return None;
        }
        Some(match text.get(9..12)? {
            "414" => uri_too_long(),
            "431" if !self.line => uri_too_long(),
            "431" => Failure::new(
                Code::HeadTooLarge,
                format!(
                    "the request's head has more than {HEADERS_MAX} headers or \
                     {CONNECTION_BYTES_MAX} bytes"
                ),
            )
            .with("max_headers", HEADERS_MAX)
            .with("max_bytes", CONNECTION_BYTES_MAX),
            _ => Failure::new(Code::MalformedHead, "the request's head is no head of HTTP/1.1"),
        })
    }

    /// Takes an answer that hyper made itself, and remembers ours.
    fn replace(&mut self, bytes: &[u8]) -> bool {
        let Some(failure) = self.own_answer(bytes) else { return false };
        let body = serde_json::json!({"error": failure.to_json()}).to_string();
        let status = failure.problem().status;
        let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or("Refused"));
        let (length, stamp) = (body.len(), (self.stamp)(&failure));
        let words = format!(
            "HTTP/1.1 {code} {reason}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n{stamp}\r\n{body}"
        );
        self.words = Some((words.into_bytes(), 0));
        true
    }

    /// Writes what is left of our answer.
    fn poll_words(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((words, written)) = &mut self.words {
            let left = words.get(*written..).unwrap_or_default();
            if left.is_empty() {
                self.words = None;
                let over = Box::pin(tokio::time::sleep(LINGER_TIMEOUT));
                self.linger = Some(Linger { over, left: LINGER_BYTES_MAX });
                break;
            }
            let taken = Pin::new(&mut self.stream).poll_write(context, left);
            let taken = ready!(self.patience.watch(left.len(), taken, context))?;
            *written += taken;
        }
        Poll::Ready(Ok(()))
    }
}

fn uri_too_long() -> Failure {
    let message = format!("the request's target is longer than {CONNECTION_BYTES_MAX} bytes");
    Failure::new(Code::UriTooLong, message).with("max_bytes", CONNECTION_BYTES_MAX)
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if !self.line {
            let new = buffer.filled().get(before..).unwrap_or_default();
            self.line = new.contains(&b'\n');
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replace(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.line = false;
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.patience.watch(bytes.len(), written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(context, only);
        }
        self.line = false;
        let this = &mut *self;
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.patience.watch(wanted, written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_words(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_words(context))?;
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        let this = &mut *self;
        // A socket that is closed with unread bytes is reset, and our answer with it.
        let Some(Linger { over, left }) = &mut this.linger else { return Poll::Ready(Ok(())) };
        let mut bytes = [0; 4096];
        while *left > 0 && over.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    *left = left.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, Guarded) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let stamp: Stamp = Arc::new(|_| "x-romana-revision: 7\r\n".into());
        let mut io = Guarded::new(accepted.unwrap().0, stamp);
        io.patience.timeout = Duration::from_millis(50);
        (peer.unwrap(), io)
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_cut_off() {
        let (_peer, mut io) = pair().await;
        let piece = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = io.write_all(&piece).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_takes_a_little_now_and_then_is_cut_off() {
        let (mut peer, mut io) = pair().await;
        let reading = tokio::spawn(async move {
            let mut few = [0; 64];
            let mut clock = tokio::time::interval(Duration::from_millis(20));
            while peer.read(&mut few).await.is_ok_and(|read| read > 0) {
                clock.tick().await;
            }
        });
        let piece = vec![0; 64 << 20];
        let error = io.write_all(&piece).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        reading.abort();
    }

    #[tokio::test]
    async fn an_answer_of_hyper_gets_a_body() {
        let (mut peer, mut io) = pair().await;
        let own = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        io.write_all(own).await.unwrap();
        io.flush().await.unwrap();
        let closing = tokio::spawn(async move { io.shutdown().await });
        let mut text = String::new();
        peer.read_to_string(&mut text).await.unwrap();
        drop(peer);
        closing.await.unwrap().unwrap();
        assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
        assert!(text.contains("x-romana-revision: 7\r\n\r\n{\"error\":{"), "{text}");
        assert!(text.contains("\"MalformedHead\""), "{text}");
    }

    #[tokio::test]
    async fn our_own_answers_pass() {
        let (mut peer, mut io) = pair().await;
        for ours in [
            "HTTP/1.1 404 Not Found\r\nx-romana-revision: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
        ] {
            io.write_all(ours.as_bytes()).await.unwrap();
            let mut read = vec![0; ours.len()];
            peer.read_exact(&mut read).await.unwrap();
            assert_eq!(read, ours.as_bytes());
        }
    }
}
