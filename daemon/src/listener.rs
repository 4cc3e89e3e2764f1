//! The HTTP listener of a program. Whatever clients do, the memory and time they can
//! make the program spend is bounded.
//!
//! ```text
//!   TcpListener ─► permit ─► Acceptor (plain; TLS) ─► Guarded ─► hyper ─► service
//!   finish: no further requests ─► closed: none is left ─► cut: those that are left
//! ```
//! Bounds: the number of connections; the time for a handshake, for a request's head and
//! for an idle connection ([`HEAD_TIMEOUT`]); the size of a head; and a minimum rate at
//! which a client must read its answers.

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

/// Timeout for a handshake, a request's head, and an idle connection.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Size limit of a connection's buffer in each direction, and so of a head.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Limit of headers in a request.
pub const HEADERS_MAX: usize = 64;
/// Send buffer in the kernel for a client that does not read; the default is megabytes.
const SEND_BUFFER_BYTES: u32 = 256 << 10;
/// Limit of connections waiting to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after a failed accept, for example because there is no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The listener cannot bind to an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Binds a listener whose connections have small send buffers.
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

/// Turns an accepted TCP connection into the stream that carries HTTP.
pub trait Acceptor: Clone + Send + Sync + 'static {
    /// The stream, which may identify the peer.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Creates the stream, after a handshake if there is one, within [`HEAD_TIMEOUT`].
    fn accept(&self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// HTTP over plain TCP.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Acceptor for Plain {
    type Stream = TcpStream;

    async fn accept(&self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }
}

/// Metrics of connections. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Open connections.
    pub open: Gauge,
    /// Connections closed immediately because there were too many.
    pub refused: Counter,
}

/// The connections of a listener. Clones share them.
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
    /// Allows at most `max` connections; `on_bad_head` creates the answers to invalid heads.
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

    /// Accepts connections until this is dropped; accepted ones continue. `service_for`
    /// creates the service for a stream.
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
                    // An error of the connection, or no descriptor left: keep accepting in both cases.
                    warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                self.counters.refused.inc();
                debug!(%peer, "connection refused: too many are open");
                continue;
            };
            let (this, acceptor, service_for) =
                (self.clone(), acceptor.clone(), service_for.clone());
            self.open.spawn(async move {
                let _permit = permit;
                this.counters.open.inc();
                if let Err(error) = this.serve(stream, acceptor, service_for).await {
                    debug!(%peer, error = &*error as &dyn std::error::Error, "connection failed");
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

    /// Number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Closes each connection after its current request.
    pub fn finish(&self) {
        self.finishing.cancel();
        self.open.close();
    }

    /// Returns when no connection is open after [`Connections::finish`].
    pub async fn closed(&self) {
        self.open.wait().await;
    }

    /// Closes all connections immediately.
    pub fn cut(&self) {
        self.cut.cancel();
        self.finish();
    }

    /// Waits up to `patience` for current requests, then closes the remaining connections.
    pub async fn drain(&self, patience: Duration) {
        self.finish();
        if timeout(patience, self.closed()).await.is_err() {
            warn!(connections = self.open(), "closing connections that did not finish in time");
        }
        self.cut();
    }
}

/// HTTP/1.1 with bounds on the time and memory a peer can use.
///
/// `pipeline_flush` stays off: with it hyper buffers answers without limit, and delays an
/// answer while further input arrives.
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
