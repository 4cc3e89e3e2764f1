//! Transfers backups: downloads from any replica, and uploads to replicas that wait for one.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
pub use romana_api::backup::Restoration;
use tokio::time::{Instant, timeout};

use crate::Client;
use crate::call::parse;
use crate::config::Server;
use crate::error::{ApiError, Error};
use crate::query::Query;
use crate::transport::{Ask, Fault};

/// Timeout without data.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Timeout for a replica to receive, verify and restore a backup.
const RESTORE_MAX: Duration = Duration::from_secs(3600);
/// Timeout for a replica to start a backup: it copies the state first.
const BEGIN_MAX: Duration = Duration::from_secs(120);

/// A backup in transfer. `romana_statemachine::backup` verifies it.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    server: Server,
}

impl Download {
    /// The replica that sends it.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The next bytes; `None`: the stream has ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: the transfer was interrupted.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let broken = |why: String| {
                let why = format!("{}: the backup broke off: {why}", self.server);
                Error::Unavailable { why, source: None }
            };
            let frame = timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_| broken("it was silent for too long".into()))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| broken(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

impl Client {
    /// Takes a backup from any replica: of everything acknowledged before, or with `local` of that replica's
    /// state; with `history`, or of the state only.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn backup(&self, history: bool, local: bool) -> Result<Download, Error> {
        let path = Query::new("/v1/backup")
            .with("history", (!history).then_some("false"))
            .with("consistency", local.then_some("local"));
        let mut ask = Ask::get(path.build());
        (ask.accept, ask.endless) = ("application/octet-stream", true);
        let (server, response) = self.core().open_within(&ask, BEGIN_MAX).await?;
        Ok(Download { body: response.into_body(), server })
    }

    /// Uploads a backup of `length` bytes to a replica that waits for one. Not retried.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Refused`] with the code `ClusterNotEmpty` if the replica serves a cluster.
    pub async fn restore(
        &self,
        server: &Server,
        length: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Restoration, Error> {
        let deadline = Instant::now() + RESTORE_MAX;
        let transport = self.core().transport();
        let sent = transport.upload(server, "/v1/restore", length, pieces, deadline).await;
        let reply = sent.map_err(|fault| match fault {
            Fault::NotSent(source) => {
                let why = format!("{server}: {source}");
                Error::Unavailable { why, source: Some(source) }
            }
            Fault::Lost(source) => {
                Error::Unknown { why: format!("{server}: {source}"), source: Some(source) }
            }
            Fault::TimedOut => {
                Error::Unknown { why: format!("{server}: no answer in time"), source: None }
            }
            Fault::Unfit(error) => error,
        })?;
        if (200..300).contains(&reply.status) {
            return parse(&reply.body);
        }
        match ApiError::from_body(reply.status, &reply.body) {
            Some(error) => Err(Error::Refused(Box::new(error))),
            None => Err(Error::protocol(format!("status {} without an error", reply.status))),
        }
    }
}
