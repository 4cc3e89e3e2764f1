//! Answers as received, for diagnosis: any path and status of one server, limited in time and size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::config::Server;
use crate::error::Cause;
use crate::transport::Ask;

/// An answer as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawReply {
    /// The HTTP status, whatever it says.
    pub status: u16,
    pub body: Bytes,
    /// Whether the rest of the body is missing: it was too long, or too slow.
    pub cut: bool,
}

/// A server gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{server}: {why}")]
pub struct NoReply {
    pub server: Server,
    pub why: String,
    #[source]
    source: Option<Cause>,
}

impl Client {
    /// Gets a path of one server, which may be an agent, without judging the answer and without retries.
    ///
    /// # Errors
    /// [`NoReply`].
    pub async fn raw(
        &self,
        server: &Server,
        path: &str,
        bytes_max: usize,
        within: Duration,
    ) -> Result<RawReply, NoReply> {
        let deadline = Instant::now() + within;
        let ask = Ask { accept: "*/*", ..Ask::get(path) };
        let response = self.core().transport().open(server, &ask, deadline).await;
        let response = response.map_err(|fault| NoReply {
            server: server.clone(),
            why: fault.why(),
            source: fault.cause(),
        })?;
        let status = response.status().as_u16();
        let (body, cut) = read(response.into_body(), bytes_max, deadline).await;
        Ok(RawReply { status, body, cut })
    }
}

/// What arrives in time and fits, and whether it is not all.
async fn read(mut body: Incoming, bytes_max: usize, deadline: Instant) -> (Bytes, bool) {
    let mut bytes = BytesMut::new();
    loop {
        match timeout_at(deadline, body.frame()).await {
            Ok(None) => return (bytes.freeze(), false),
            Err(_) | Ok(Some(Err(_))) => return (bytes.freeze(), true),
            Ok(Some(Ok(frame))) => bytes.extend(frame.into_data().ok()),
        }
        if bytes.len() > bytes_max {
            bytes.truncate(bytes_max);
            return (bytes.freeze(), true);
        }
    }
}
