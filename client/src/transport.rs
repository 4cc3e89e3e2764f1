//! One HTTP/1.1 exchange with one replica. Only this file knows the connector: TLS belongs here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use romana_api::header;
use romana_statemachine::VERSION_MAX;
use tokio::time::{Instant, timeout_at};

use crate::config::Server;
use crate::error::{Cause, Error};

/// Size limit of an answer, bytes (a snapshot of a million addresses is about 300 MB).
const REPLY_BYTES_MAX: usize = 1 << 30;
/// Timeout for an answer that is read in chunks.
const PIECES_MAX: Duration = Duration::from_secs(600);
/// Idle connections are closed after this.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Connection timeout.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A request, the same for every replica.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Bytes>,
    pub(crate) accept: &'static str,
    /// The answer is a stream: the deadline applies to its head, not its body.
    pub(crate) endless: bool,
}

impl Ask {
    pub(crate) fn new(method: Method, path: impl Into<String>, body: Option<Bytes>) -> Self {
        Self { method, path: path.into(), body, accept: "application/json", endless: false }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, None)
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The request was not sent: nothing was committed.
    NotSent(Cause),
    /// The request was sent, but no complete answer was received.
    Lost(Cause),
    /// The request may have been sent; the deadline has passed.
    TimedOut,
    /// The request is invalid.
    Unfit(Error),
}

impl Fault {
    /// A message for users.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::NotSent(_) => String::from("it does not accept connections"),
            Self::Lost(_) => String::from("the connection was lost"),
            Self::TimedOut => String::from("it did not answer in time"),
            Self::Unfit(error) => error.to_string(),
        }
    }

    /// The underlying error.
    pub(crate) fn cause(&self) -> Option<Cause> {
        match self {
            Self::NotSent(cause) | Self::Lost(cause) => Some(Arc::clone(cause)),
            Self::TimedOut | Self::Unfit(_) => None,
        }
    }
}

/// Connections to all replicas.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    http: Http<HttpConnector, Full<Bytes>>,
    actor: HeaderValue,
    /// How long a replica may wait for a quorum, or for a free slot.
    wait_max: Duration,
}

impl Transport {
    pub(crate) fn new(actor: &str, wait_max: Duration) -> Result<Self, Error> {
        let actor = HeaderValue::from_str(actor)
            .map_err(|_| Error::config("the actor has a character other than visible ASCII"))?;
        let http = Http::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector());
        Ok(Self { http, actor, wait_max })
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn open(
        &self,
        server: &Server,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<Response<Incoming>, Fault> {
        let request = self.request(server, ask, deadline).map_err(Fault::Unfit)?;
        match timeout_at(deadline, self.http.request(request)).await {
            Err(_) => Err(Fault::TimedOut),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Fault::NotSent(Arc::new(error))),
            Ok(Err(error)) => Err(Fault::Lost(Arc::new(error))),
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn exchange(
        &self,
        server: &Server,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<Reply, Fault> {
        let response = self.open(server, ask, deadline).await?;
        read_reply(response, deadline).await
    }

    /// Sends a request with a streamed body, and reads the whole answer.
    pub(crate) async fn upload(
        &self,
        server: &Server,
        path: &str,
        length: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        deadline: Instant,
    ) -> Result<Reply, Fault> {
        let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
        let unfit = |error: hyper::http::Error| {
            Fault::Unfit(Error::config(format!("the request cannot be sent: {error}")))
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(server.uri(path).map_err(Fault::Unfit)?)
            .header(ACCEPT, "application/json")
            .header(header::ACTOR, self.actor.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length)
            .body(body)
            .map_err(unfit)?;
        let http = Http::builder(TokioExecutor::new()).build(connector());
        match timeout_at(deadline, http.request(request)).await {
            Err(_) => Err(Fault::TimedOut),
            Ok(Ok(response)) => read_reply(response, deadline).await,
            Ok(Err(error)) if error.is_connect() => Err(Fault::NotSent(Arc::new(error))),
            Ok(Err(error)) => Err(Fault::Lost(Arc::new(error))),
        }
    }

    fn request(
        &self,
        server: &Server,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<Request<Full<Bytes>>, Error> {
        // The server gives up a little earlier than the client, so that its error arrives in time.
        let left =
            deadline.saturating_duration_since(Instant::now()).min(self.wait_max).mul_f64(0.9);
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(server.uri(&ask.path)?)
            .header(ACCEPT, ask.accept)
            .header(header::ACTOR, self.actor.clone());
        request = match ask.endless {
            true => request.header(header::VERSION, VERSION_MAX),
            false => request.header(header::TIMEOUT_MS, left_ms),
        };
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(ask.body.clone().unwrap_or_default()))
            .map_err(|error| Error::config(format!("the request cannot be sent: {error}")))
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_MAX));
    connector.set_keepalive(Some(Duration::from_secs(15)));
    connector
}

/// Reads an answer to its end.
pub(crate) async fn read_reply(
    response: Response<Incoming>,
    deadline: Instant,
) -> Result<Reply, Fault> {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect();
    match timeout_at(deadline, body).await {
        Err(_) => Err(Fault::TimedOut),
        Ok(Err(error)) => Err(Fault::Lost(Arc::from(error))),
        Ok(Ok(body)) => Ok(Reply { status, retry_after, body: body.to_bytes() }),
    }
}

/// Reads a body to its end, each chunk within `patience`.
pub(crate) async fn read_pieces(body: Incoming, patience: Duration) -> Result<Bytes, Fault> {
    let mut body = Limited::new(body, REPLY_BYTES_MAX);
    let (mut bytes, until) = (BytesMut::new(), Instant::now() + PIECES_MAX);
    loop {
        match timeout_at(until.min(Instant::now() + patience), body.frame()).await {
            Err(_) => return Err(Fault::TimedOut),
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(error))) => return Err(Fault::Lost(Arc::from(error))),
            Ok(Some(Ok(frame))) => bytes.extend(frame.into_data().ok()),
        }
    }
}

/// `Retry-After` in seconds; our servers do not use dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u32>().ok()?;
    Some(Duration::from_secs(u64::from(seconds)))
}
