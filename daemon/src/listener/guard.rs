//! A stream with bounds on what its peer can make us wait for.
//!
//! hyper answers a head that it cannot read by a status alone, and closes. [`Guarded`] puts the program's own answer
//! in the place of that one, and reads on for a moment, so that the client gets it before the connection is reset.
//! It also cuts off a peer that takes no bytes, or next to none.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A peer that takes no bytes for so long is cut off …
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// … and so is one that takes fewer than these a second after that.
const STALL_BYTES_PER_SEC: u32 = 16 << 10;
/// After an answer to a head that cannot be read, what else comes is read and dropped: for so long …
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// … and so many bytes.
const LINGER_BYTES_MAX: usize = 4 << 20;
/// How a client greets that takes for granted that HTTP/2 is spoken here.
const HTTP2_GREETING: &[u8] = b"PRI * HTTP/2.0";
/// Longest answer of hyper itself.
const OWN_ANSWER_BYTES_MAX: usize = 256;

/// Why a request's head cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// The target is longer than [`super::HEAD_BYTES_MAX`].
    UriTooLong,
    /// There are more than [`super::HEADERS_MAX`] headers, or more than [`super::HEAD_BYTES_MAX`] bytes.
    TooLarge,
    /// It is no head of HTTP/1.1.
    Malformed,
}

/// The answer to a head that cannot be read.
#[derive(Clone, Debug)]
pub struct HeadAnswer {
    /// The status.
    pub status: StatusCode,
    /// The type of the body.
    pub content_type: &'static str,
    /// Further header lines, each with its end of line.
    pub headers: String,
    /// The body.
    pub body: String,
}

/// Words the answers to heads that cannot be read.
pub type OnBadHead = Arc<dyn Fn(BadHead) -> HeadAnswer + Send + Sync>;

/// Answers in plain text.
#[must_use]
pub fn plain_answers() -> OnBadHead {
    Arc::new(|why| {
        let (status, what) = match why {
            BadHead::UriTooLong => (StatusCode::URI_TOO_LONG, "target is too long"),
            BadHead::TooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head is too large"),
            BadHead::Malformed => (StatusCode::BAD_REQUEST, "head is no head of HTTP/1.1"),
        };
        let body = format!("the request's {what}\n");
        HeadAnswer { status, content_type: "text/plain", headers: String::new(), body }
    })
}

/// A stream whose writes fail when the peer takes no bytes, and on which no answer lacks its body.
pub struct Guarded<T> {
    stream: T,
    on_bad_head: OnBadHead,
    patience: Patience,
    /// Whether anything has come.
    begun: bool,
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

impl<T> Guarded<T> {
    /// A stream whose heads that cannot be read are answered as `on_bad_head` says.
    pub fn new(stream: T, on_bad_head: OnBadHead) -> Self {
        let patience = Patience { stalled: None, timeout: STALL_TIMEOUT };
        Self { stream, on_bad_head, patience, begun: false, line: false, words: None, linger: None }
    }

    /// What an answer of hyper's own stands for.
    fn own_answer(&self, bytes: &[u8]) -> Option<BadHead> {
        let short = bytes.len() <= OWN_ANSWER_BYTES_MAX && bytes.starts_with(b"HTTP/1.1 4");
        if !short || !bytes.ends_with(b"\r\n\r\n") {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        if !text.contains("content-length: 0\r\n") || text.contains("x-romana-") {
            return None;
        }
        match text.get(9..12)? {
            "414" => Some(BadHead::UriTooLong),
            "431" if !self.line => Some(BadHead::UriTooLong),
            "431" => Some(BadHead::TooLarge),
            "400" => Some(BadHead::Malformed),
            _ => None,
        }
    }

    /// Takes an answer that hyper made itself, and remembers ours.
    fn replace(&mut self, bytes: &[u8]) -> bool {
        let Some(why) = self.own_answer(bytes) else { return false };
        let HeadAnswer { status, content_type, headers, body } = (self.on_bad_head)(why);
        let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or("Refused"));
        let length = body.len();
        let words = format!(
            "HTTP/1.1 {code} {reason}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\
             connection: close\r\n{headers}\r\n{body}"
        );
        self.words = Some((words.into_bytes(), 0));
        true
    }
}

impl<T: AsyncWrite + Unpin> Guarded<T> {
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

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        // hyper closes without a word after this greeting. Without its first letter it is like any other head that
        // is none.
        let new = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        if !self.begun && new.starts_with(HTTP2_GREETING) {
            new[0] = b' ';
        }
        self.begun = true;
        if !self.line {
            let new = buffer.filled().get(before..).unwrap_or_default();
            self.line = new.contains(&b'\n');
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
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
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, Guarded<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let answers: OnBadHead = Arc::new(|why| HeadAnswer {
            status: StatusCode::BAD_REQUEST,
            content_type: "application/json",
            headers: "x-romana-revision: 7\r\n".into(),
            body: format!("{{\"error\":{{\"code\":\"{why:?}Head\"}}}}"),
        });
        let mut io = Guarded::new(accepted.unwrap().0, answers);
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
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
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
