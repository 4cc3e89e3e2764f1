//! The context of every command: the client and the output.

use std::env;
use std::time::Duration;

use hyper::Method;
use romana_api::{Changed, ObjectOrChange, Page};
use romana_client::{Client, ClientConfig, Query};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::answer::{Answer, to_json};
use crate::config::Config;
use crate::failure::Failure;
use crate::global::Platform;
use crate::output::Output;
use crate::table::Table;

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

    /// Reads an object.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        query: Query,
    ) -> Result<Answer<T>, Failure> {
        Answer::read(self.client.get(query.build()).await?)
    }

    /// Reads a whole list: all its pages as one.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        query: Query,
    ) -> Result<Answer<Page<T>>, Failure> {
        let mut page = self.client.list::<Value>(query).await?;
        let items = std::mem::take(&mut page.items);
        let mut json = to_json(&page);
        json["items"] = items.into();
        Answer::read(json)
    }

    /// Reads several objects by name. The JSON is the object itself if there is one, otherwise a list.
    pub(crate) async fn each<T: DeserializeOwned>(
        &self,
        path: &'static str,
        names: &[String],
    ) -> Result<Answer<Vec<T>>, Failure> {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            found.push(self.get(Query::new(path).segment(name)).await?);
        }
        Ok(Answer::one_or_list(found))
    }

    /// Prints a list.
    pub(crate) async fn show_list<T: DeserializeOwned>(
        &self,
        query: Query,
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<(), Failure> {
        let list: Answer<Page<T>> = self.list(query).await?;
        self.out.show(&list, |list| table(&list.items))
    }

    /// Prints several objects, given by name.
    pub(crate) async fn show_each<T: DeserializeOwned>(
        &self,
        path: &'static str,
        names: &[String],
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<(), Failure> {
        let found: Answer<Vec<T>> = self.each(path, names).await?;
        self.out.show(&found, |found| table(found))
    }

    /// Asks about a document. Changes nothing.
    pub(crate) async fn inquire<T: DeserializeOwned>(
        &self,
        path: &'static str,
        document: &Value,
    ) -> Result<Answer<T>, Failure> {
        Answer::read(self.client.inquire(path, document).await?)
    }

    /// Adds, replaces or changes an object, which is idempotent.
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        query: Query,
        body: &(impl Serialize + Sync + ?Sized),
    ) -> Result<Answer<ObjectOrChange<T>>, Failure> {
        Answer::changed(self.client.send(method, query.build(), Some(body), true).await?)
    }

    /// `idempotent`: the request may be retried after an unknown outcome.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        query: Query,
        body: &(impl Serialize + Sync + ?Sized),
        idempotent: bool,
    ) -> Result<Answer<T>, Failure> {
        Answer::done(self.client.send(Method::POST, query.build(), Some(body), idempotent).await?)
    }

    /// `idempotent`: see [`Self::post`].
    pub(crate) async fn delete(
        &self,
        query: Query,
        idempotent: bool,
    ) -> Result<Answer<Changed>, Failure> {
        let sent = self.client.send(Method::DELETE, query.build(), None::<&()>, idempotent);
        Answer::done(sent.await?)
    }
}

/// The actor in the history: the local user.
fn actor() -> String {
    let user = env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_default();
    let user: String =
        user.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(64).collect();
    if user.is_empty() { String::from("cli") } else { format!("cli:{user}") }
}
