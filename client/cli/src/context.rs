//! The context of every command: the client and the output.

use std::env;
use std::time::Duration;

use hyper::Method;
use romana_client::model::Page;
use romana_client::{Client, ClientConfig, Error, Query};
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::Config;
use crate::failure::Failure;
use crate::global::Platform;
use crate::output::Output;
use crate::shape::{CHANGED, Shape};

/// The client and the output.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) out: Output,
    platform: Option<Platform>,
    config: ClientConfig,
}

impl Context {
    pub(crate) fn new(config: &Config) -> Result<Self, Failure> {
        let client_config = ClientConfig {
            timeout: config.timeout,
            actor: actor(),
            ..ClientConfig::new(config.servers.clone())
        };
        let client = Client::new(client_config.clone())?;
        let (out, platform) = (Output::new(config.format), config.platform);
        Ok(Self { client, out, platform, config: client_config })
    }

    /// `patience`, unless the user set a timeout.
    pub(crate) fn patience(&self, patience: Duration) -> Duration {
        let said = self.config.timeout != ClientConfig::new(Vec::new()).timeout;
        if said { self.config.timeout } else { patience }
    }

    /// A client for slow queries: their timeout is `patience`, unless the user set one. An unreachable cluster is
    /// reported as soon as for any other request.
    pub(crate) fn patient(&self, patience: Duration) -> Result<Client, Failure> {
        let patience = Some(self.patience(patience));
        Ok(Client::new(ClientConfig { patience, ..self.config.clone() })?)
    }

    /// Notes that Kubernetes does this automatically, if that is the platform.
    pub(crate) fn note_kubernetes(&self, what: &str) {
        if self.platform == Some(Platform::Kubernetes) {
            anstream::eprintln!("note: on Kubernetes, {what} by themselves");
        }
    }

    /// Reads an object of this shape.
    pub(crate) async fn get(&self, query: Query, shape: Shape) -> Result<Value, Failure> {
        read(self.client.get(query.build()).await?, shape)
    }

    /// Reads a whole list of items of this shape, in the form of the server's pages.
    pub(crate) async fn list(&self, query: Query, shape: Shape) -> Result<Value, Failure> {
        let page = self.page(query, shape).await?;
        let mut list = json!({"items": page.items, "revision": page.revision});
        if let Some(oldest) = page.oldest {
            list["oldest"] = json!(oldest);
        }
        Ok(list)
    }

    /// Reads a whole list of items of this shape.
    pub(crate) async fn page(&self, query: Query, shape: Shape) -> Result<Page<Value>, Failure> {
        let page = self.client.list::<Value>(query).await?;
        page.items.iter().try_for_each(|item| shape.check(item)).map_err(unfit)?;
        Ok(page)
    }

    /// Reads several objects by name.
    pub(crate) async fn get_each(
        &self,
        path: &'static str,
        names: &[String],
        shape: Shape,
    ) -> Result<Vec<Value>, Failure> {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            found.push(self.get(Query::new(path).segment(name), shape).await?);
        }
        Ok(found)
    }

    pub(crate) async fn put(
        &self,
        query: Query,
        body: &(impl Serialize + Sync + ?Sized),
        shape: Shape,
    ) -> Result<Value, Failure> {
        done(self.client.send(Method::PUT, query.build(), Some(body), true).await?, shape)
    }

    pub(crate) async fn patch(
        &self,
        query: Query,
        body: &(impl Serialize + Sync + ?Sized),
        shape: Shape,
    ) -> Result<Value, Failure> {
        done(self.client.send(Method::PATCH, query.build(), Some(body), true).await?, shape)
    }

    /// `idempotent`: the request may be retried after an unknown outcome.
    pub(crate) async fn post(
        &self,
        query: Query,
        body: &(impl Serialize + Sync + ?Sized),
        idempotent: bool,
        shape: Shape,
    ) -> Result<Value, Failure> {
        done(self.client.send(Method::POST, query.build(), Some(body), idempotent).await?, shape)
    }

    pub(crate) async fn delete(&self, query: Query, idempotent: bool) -> Result<Value, Failure> {
        let asked = self.client.send(Method::DELETE, query.build(), None::<&()>, idempotent);
        done(asked.await?, CHANGED)
    }
}

/// Checks the shape of a response to a read.
pub(crate) fn read(answer: Value, shape: Shape) -> Result<Value, Failure> {
    shape.check(&answer).map_err(unfit)?;
    Ok(answer)
}

/// Checks the shape of a response to a change. With another shape the outcome is unknown: the response is not a
/// replica's, but a replica may have made the change.
pub(crate) fn done(answer: Value, shape: Shape) -> Result<Value, Failure> {
    let unknown = |why| Error::Unknown {
        why: format!("what came back is not an answer of a Romana replica: {why}"),
        source: None,
    };
    shape.check(&answer).map_err(unknown)?;
    Ok(answer)
}

/// The error for a malformed response to a read.
pub(crate) fn unfit(why: String) -> Failure {
    Error::Protocol { why }.into()
}

/// The actor in the history: the local user.
fn actor() -> String {
    let user = env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_default();
    let user: String =
        user.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(64).collect();
    if user.is_empty() { String::from("cli") } else { format!("cli:{user}") }
}
