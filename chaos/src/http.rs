//! The judge's HTTP client: one connection, one request at a time, no retries. All ways a request can fail
//! are distinguished, because the oracle must know whether it may have been committed.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Size limit of an answer, bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection: the request was never sent.
    #[error("no connection to {0}")]
    Unsent(SocketAddr, #[source] std::io::Error),
    /// The request may have been carried out.
    #[error("no answer: {0}")]
    Lost(String),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// `X-Romana-Revision`, if present.
    pub revision: Option<u64>,
    /// The body; `Null` if it is not JSON.
    pub body: Value,
}

impl Answer {
    /// The error code of a refusal, or an empty string.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A kept-alive connection to one replica. Closed on drop.
#[derive(Debug)]
pub struct Connection {
    to: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`HttpError::Unsent`] if the connection fails within `patience`.
    pub async fn open(to: SocketAddr, patience: Duration) -> Result<Self, HttpError> {
        let unsent = |error| HttpError::Unsent(to, error);
        let stream = timeout(patience, TcpStream::connect(to))
            .await
            .map_err(|_| unsent(std::io::ErrorKind::TimedOut.into()))?
            .map_err(unsent)?;
        stream.set_nodelay(true).map_err(unsent)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unsent(std::io::Error::other(error)))?;
        let driver = tokio::spawn(async move {
            // The request's caller gets the error.
            _ = connection.await;
        });
        Ok(Self { to, sender, driver })
    }

    /// Whether the connection can take a request.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and returns as soon as the head of the answer has arrived.
    ///
    /// # Errors
    /// [`HttpError::Lost`]: after the first byte the outcome is unknown.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, HttpError> {
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.to.to_string())
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))
            .map_err(|error| HttpError::Lost(error.to_string()))?;
        let lost = |error: hyper::Error| HttpError::Lost(error.to_string());
        // The driver may not have processed the end of the previous answer yet.
        self.sender.ready().await.map_err(lost)?;
        self.sender.send_request(request).await.map_err(lost)
    }

    /// Sends a request and reads the whole answer, both within `patience`.
    ///
    /// # Errors
    /// [`HttpError::Lost`]; the connection must not be used afterwards.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Answer, HttpError> {
        let work = async {
            let response = self.send(method, path, "application/json", body).await?;
            read(response).await
        };
        timeout(patience, work)
            .await
            .unwrap_or_else(|_| Err(HttpError::Lost(format!("none within {patience:?}"))))
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, HttpError> {
    let status = response.status().as_u16();
    let revision = response
        .headers()
        .get("x-romana-revision")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| HttpError::Lost(error.to_string()))?
        .to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Answer { status, revision, body })
}

/// One request on a new connection.
///
/// # Errors
/// [`HttpError`].
pub async fn once(
    to: SocketAddr,
    method: Method,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Answer, HttpError> {
    Connection::open(to, patience).await?.call(method, path, body, patience).await
}
