//! The client: finds a replica that answers, and retries within a deadline where that is safe.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use romana_statemachine::Command;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::call::{Core, parse};
use crate::config::{ClientConfig, Server};
use crate::error::Error;
use crate::gather::Gatherer;
use crate::model::Done;
use crate::retry::{Nature, Verdict, judge};
use crate::transport::Ask;

/// A client of the cluster. Clones are cheap and share connections and the list of replicas.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: Core,
    gatherer: Gatherer,
}

impl Client {
    /// Creates a client. It connects on first use. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Config`] without servers, or if the actor is no valid header value.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let core = Core::new(config)?;
        let gatherer = Gatherer::start(core.clone());
        Ok(Self { inner: Arc::new(Inner { core, gatherer }) })
    }

    pub(crate) fn core(&self) -> &Core {
        &self.inner.core
    }

    /// Submits a command, batched with those of concurrent callers. A repeatable command is retried until the
    /// deadline while its outcome is unknown.
    ///
    /// # Errors
    /// [`Error`]; after [`Error::Unknown`] it may have been committed.
    pub async fn submit(&self, command: &Command) -> Result<Done, Error> {
        self.inner.gatherer.submit(command, self.core().deadline()).await
    }

    /// The known replicas, configured ones first.
    #[must_use]
    pub fn servers(&self) -> Vec<Server> {
        self.core().servers().all()
    }

    /// Sends one request to one replica without retries: for queries about that
    /// replica. `path` starts with `/v1/`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get_from<T: DeserializeOwned>(
        &self,
        server: &Server,
        path: &str,
    ) -> Result<T, Error> {
        let core = self.core();
        let deadline = Instant::now() + core.one_attempt();
        let attempt = core.transport().exchange(server, &Ask::get(path), deadline).await;
        match judge(attempt, Nature::Read) {
            Verdict::Answer(reply) => parse(&reply.body),
            Verdict::Fail(error) => Err(error),
            Verdict::Again { why, source, .. } => {
                Err(Error::Unavailable { why: format!("{server}: {why}"), source })
            }
        }
    }

    /// Reads from any replica. `path` starts with `/v1/` and is percent-encoded.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get<T: DeserializeOwned>(&self, path: impl Into<String>) -> Result<T, Error> {
        let reply = self.core().call(Ask::get(path), Nature::Read).await?;
        parse(&reply.body)
    }

    /// Posts a query about a document. It changes nothing, so the outcome is never unknown.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn inquire<T: DeserializeOwned>(
        &self,
        path: impl Into<String>,
        document: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(document);
        let body =
            body.map_err(|error| Error::config(format!("not expressible as JSON: {error}")))?;
        let ask = Ask::new(Method::POST, path, Some(body.into()));
        let reply = self.core().call(ask, Nature::Read).await?;
        parse(&reply.body)
    }

    /// Sends a change. `idempotent` permits retries after an unknown outcome.
    /// An empty answer reads as `null`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: impl Into<String>,
        body: Option<&(impl Serialize + Sync + ?Sized)>,
        idempotent: bool,
    ) -> Result<T, Error> {
        let body = body.map(serde_json::to_vec).transpose();
        let body =
            body.map_err(|error| Error::config(format!("not expressible as JSON: {error}")))?;
        let nature = if idempotent { Nature::Idempotent } else { Nature::Once };
        let ask = Ask::new(method, path, body.map(Bytes::from));
        let reply = self.core().call(ask, nature).await?;
        let read = match &*reply.body {
            b"" => {
                serde_json::from_slice(b"null").map_err(|error| Error::protocol(error.to_string()))
            }
            body => parse(body),
        };
        // It was committed, but the result is unreadable.
        read.map_err(|error| Error::Unknown { why: error.to_string(), source: None })
    }
}
