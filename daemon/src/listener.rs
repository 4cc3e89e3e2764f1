//! The HTTP listener of a program: whatever clients do, what they can make the program keep or wait for is bounded.
//!
//! ```text
//!   TcpListener ─► permit ─► Acceptor (plain; TLS) ─► Guarded ─► hyper ─► service
//!   finish: no further requests ─► closed: none is left ─► cut: those that are left
//! ```
//! Bounds: connections at the same time, a time for the handshake, for a request's head and for a connection without
//! a request ([`HEAD_TIMEOUT`]), the size of a head, and a rate at which a client must take what it asked for.

mod guard;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub use guard::{BadHead, Guarded, HeadAnswer, OnBadHead, plain_answers};

use crate::error::AnyError;

/// Time for a handshake, for a request's head, and for a connection without a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that a connection buffers, at most, each way: the longest head.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Bytes that the kernel keeps for a client that does not read; left to itself it takes megabytes.
const SEND_BUFFER_BYTES: u32 = 256 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after a connection that could not be accepted, for example because no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// A listener whose connections keep few unread bytes in the kernel.
///
/// # Errors
/// [`ListenError`].
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| ListenError { address, source })
}

/// Turns an accepted connection into the stream that HTTP is spoken on.
pub trait Acceptor: Clone + Send + Sync + 'static {
    /// The stream. It may know who the peer is.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Makes the stream, after a handshake if there is one; it may take [`HEAD_TIMEOUT`].
    fn accept(&self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// HTTP straight over TCP.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Acceptor for Plain {
    type Stream = TcpStream;

    async fn accept(&self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }
}

/// Figures about connections. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Connections that are open.
    pub open: Gauge,
    /// Connections that were closed at once because there were too many.
    pub refused: Counter,
}

/// The connections of a listener. Clones are handles of the same.
#[derive(Clone)]
pub struct Connections {
    permits: Arc<Semaphore>,
    on_bad_head: OnBadHead,
    counters: Counters,
    open: TaskTracker,
    finishing: CancellationToken,
    cut: CancellationToken,
}

impl Connections {
    /// At most `max` at the same time; `on_bad_head` words the answers to heads that are no heads.
    #[must_use]
    pub fn new(max: usize, on_bad_head: OnBadHead, counters: Counters) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max)),
            on_bad_head,
            counters,
            open: TaskTracker::new(),
            finishing: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Accepts connections until this is dropped; those that were accepted live on. `service_for` makes what answers
    /// on a stream.
    pub async fn accept<A, F, S>(&self, listener: &TcpListener, acceptor: A, service_for: F)
    where
        A: Acceptor,
        F: Fn(&A::Stream) -> S + Clone + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>> + Send + 'static,
        S::Error: Into<AnyError>,
        S::Future: Send + 'static,
    {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Of the connection, or no descriptor left: neither is a reason to end.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                self.counters.refused.inc();
                debug!(%peer, "too many connections, closing this one");
                continue;
            };
            let (this, acceptor, service_for) =
                (self.clone(), acceptor.clone(), service_for.clone());
            self.open.spawn(async move {
                let _permit = permit;
                this.counters.open.inc();
                if let Err(error) = this.serve(stream, acceptor, service_for).await {
                    debug!(%peer, error = &*error as &dyn std::error::Error, "connection ended");
                }
                this.counters.open.dec();
            });
        }
    }

    async fn serve<A, F, S>(
        &self,
        stream: TcpStream,
        acceptor: A,
        service_for: F,
    ) -> Result<(), AnyError>
    where
        A: Acceptor,
        F: Fn(&A::Stream) -> S,
        S: Service<Request<Incoming>, Response = Response<Body>>,
        S::Error: Into<AnyError>,
    {
        stream.set_nodelay(true)?;
        let stream = tokio::select! {
            stream = timeout(HEAD_TIMEOUT, acceptor.accept(stream)) => stream??,
            () = self.finishing.cancelled() => return Ok(()),
        };
        let service = service_for(&stream);
        let io = TokioIo::new(Guarded::new(stream, Arc::clone(&self.on_bad_head)));
        let mut connection = std::pin::pin!(http().serve_connection(io, service));
        tokio::select! {
            served = connection.as_mut() => return Ok(served?),
            () = self.finishing.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            served = connection => Ok(served?),
            () = self.cut.cancelled() => Ok(()),
        }
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Lets each connection end after the request that it is at.
    pub fn finish(&self) {
        self.finishing.cancel();
        self.open.close();
    }

    /// Returns after [`Connections::finish`] when no connection is open.
    pub async fn closed(&self) {
        self.open.wait().await;
    }

    /// Ends all connections, whatever they are at.
    pub fn cut(&self) {
        self.cut.cancel();
        self.finish();
    }

    /// Lets requests in progress end within `patience`, then cuts the connections that are left.
    pub async fn drain(&self, patience: Duration) {
        self.finish();
        if timeout(patience, self.closed()).await.is_err() {
            warn!(connections = self.open(), "cutting connections");
        }
        self.cut();
    }
}

/// HTTP/1.1 with bounds on what a peer can make us wait for or keep.
///
/// `pipeline_flush` stays off: with it hyper buffers answers without a bound, and keeps one back for as long as
/// anything at all comes after its request.
fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
}

#[cfg(test)]
mod tests;
