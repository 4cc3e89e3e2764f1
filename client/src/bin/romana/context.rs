//! What every command gets: the client and the way to print.

use std::env;
use std::time::Duration;

use hyper::Method;
use romana_client::{Client, ClientConfig, Query};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::Platform;
use crate::config::Config;
use crate::failure::Failure;
use crate::output::Output;

/// The client and the way to print.
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

    /// A client for questions that take long, for which an attempt may take all the time there is:
    /// `patience`, unless the user said another.
    pub(crate) fn patient(&self, patience: Duration) -> Result<Client, Failure> {
        let said = self.config.timeout != ClientConfig::new(Vec::new()).timeout;
        let timeout = if said { self.config.timeout } else { patience };
        Ok(Client::new(ClientConfig { timeout, attempt_timeout: timeout, ..self.config.clone() })?)
    }

    /// Says that Kubernetes does this by itself, if that is the platform.
    pub(crate) fn note_kubernetes(&self, what: &str) {
        if self.platform == Some(Platform::Kubernetes) {
            anstream::eprintln!("note: on Kubernetes, {what} by themselves");
        }
    }

    pub(crate) async fn get(&self, query: Query) -> Result<Value, Failure> {
        Ok(self.client.get(query.build()).await?)
    }

    /// A whole list, in the form of the server's pages.
    pub(crate) async fn list(&self, query: Query) -> Result<Value, Failure> {
        let page = self.client.list::<Value>(query).await?;
        let mut list = json!({"items": page.items, "revision": page.revision});
        if let Some(oldest) = page.oldest {
            list["oldest"] = json!(oldest);
        }
        Ok(list)
    }

    /// Several things by name: one object for one name, else a list.
    pub(crate) async fn get_each(
        &self,
        path: &'static str,
        names: &[String],
    ) -> Result<Vec<Value>, Failure> {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            found.push(self.get(Query::new(path).segment(name)).await?);
        }
        Ok(found)
    }

    pub(crate) async fn put(
        &self,
        query: Query,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<Value, Failure> {
        Ok(self.client.send(Method::PUT, query.build(), Some(body), true).await?)
    }

    pub(crate) async fn patch(
        &self,
        query: Query,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<Value, Failure> {
        Ok(self.client.send(Method::PATCH, query.build(), Some(body), true).await?)
    }

    /// `idempotent`: it may be sent again after an unknown outcome.
    pub(crate) async fn post(
        &self,
        query: Query,
        body: &(impl Serialize + Sync + ?Sized),
        idempotent: bool,
    ) -> Result<Value, Failure> {
        Ok(self.client.send(Method::POST, query.build(), Some(body), idempotent).await?)
    }

    pub(crate) async fn delete(&self, query: Query, idempotent: bool) -> Result<Value, Failure> {
        Ok(self.client.send(Method::DELETE, query.build(), None::<&()>, idempotent).await?)
    }
}

/// Who asks, for the history: the local user.
fn actor() -> String {
    let user = env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_default();
    let user: String =
        user.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(64).collect();
    if user.is_empty() { String::from("cli") } else { format!("cli:{user}") }
}
