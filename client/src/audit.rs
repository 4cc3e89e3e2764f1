//! Audit queries: who held an address, which decisions were made, what the state was.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
pub use romana_api::audit::{Proof, Verification, Verified};
pub use romana_statemachine::audit::{Moment, Tenure};
use tokio::time::{Instant, sleep, timeout};

use crate::client::Client;
use crate::error::Error;
use crate::model::Page;
use crate::query::Query;
use crate::retry::Backoff;
use crate::transport::Ask;

/// A history export in transfer: chunks of the file with arbitrary boundaries.
#[derive(Debug)]
pub struct Export {
    body: Incoming,
    /// Timeout for a chunk.
    patience: std::time::Duration,
}

impl Export {
    /// The next chunk; `None` at the end. The last line of the file tells whether it is complete.
    ///
    /// # Errors
    /// [`Error::Protocol`]: the transfer was interrupted.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = match timeout(self.patience, self.body.frame()).await {
                Err(_) => return Err(Error::protocol("the export does not go on")),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(Error::protocol(error.to_string())),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

/// Audit queries. `at`, `from` and `to` are revisions or RFC 3339 times.
impl Client {
    /// Holders of an address, oldest first; with `at`, the holder at that point.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn audit_who(&self, ip: IpAddr, at: Option<&str>) -> Result<Page<Tenure>, Error> {
        self.list(Query::new("/v1/audit/who").with("ip", Some(ip)).with("at", at)).await
    }

    /// Makes every replica verify its whole history. Takes as long as the slowest one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn audit_verify(&self) -> Result<Verification, Error> {
        self.get("/v1/audit/verify").await
    }

    /// Exports the history as a file: see [`crate::replay`].
    ///
    /// # Errors
    /// [`Error`].
    pub async fn audit_export(
        &self,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<Export, Error> {
        let path = Query::new("/v1/audit/export").with("from", from).with("to", to).build();
        let mut ask = Ask::get(path);
        (ask.accept, ask.endless) = ("application/x-ndjson", true);
        let (core, mut backoff) = (self.core(), Backoff::new());
        let deadline = core.deadline();
        loop {
            let error = match core.open(&ask).await {
                Ok((_, response)) => {
                    let patience = core.attempt_timeout();
                    return Ok(Export { body: response.into_body(), patience });
                }
                Err(error @ Error::Unavailable { .. }) => error,
                Err(error) => return Err(error),
            };
            let pause = backoff.next(None, rand::random());
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
        }
    }
}
