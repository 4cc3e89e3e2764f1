//! One session with the API server: lists and watches of all kinds over connections with the same credentials.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::watcher::Event;
use romana_apiserver::{Access, Trouble, follow, has_slices};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::inbox::Inbox;
use super::object::{Change, Followed, Key, Kind, Object, kept, key};
use super::{Segments, Status};
use crate::{NetworkPolicy, ObjectName};

/// Kinds that a session follows: EndpointSlices or Endpoints, not both.
const KINDS: usize = 6;
/// Interval between health checks, and their timeout.
const CHECK_EVERY: Duration = Duration::from_secs(3);
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// Health checks that must fail in a row: one may be slow on a loaded server.
const CHECKS: u32 = 2;

/// A session; it is closed on drop.
#[derive(Debug)]
pub(super) struct Session {
    inbox: Arc<Inbox>,
    begun: Instant,
    _task: AbortOnDropHandle<()>,
}

impl Session {
    /// Starts a session.
    pub(super) fn start(access: Access, status: Arc<Status>, segments: Arc<Segments>) -> Self {
        let inbox = Arc::new(Inbox::default());
        let run = Run { inbox: Arc::clone(&inbox), status, segments };
        let task = tokio::spawn(async move {
            let Err(trouble) = Box::pin(run.run(&access)).await;
            run.inbox.end(trouble);
        });
        Self { inbox, begun: Instant::now(), _task: AbortOnDropHandle::new(task) }
    }

    /// Waits until every kind has been listed, and takes all objects.
    pub(super) async fn all(&self) -> Result<Vec<Object>, Trouble> {
        self.inbox.all(KINDS).await
    }

    /// Waits for changes, and takes them.
    pub(super) async fn changes(&self) -> Result<Vec<Change>, Trouble> {
        self.inbox.changes().await
    }

    /// Time since the start.
    pub(super) fn age(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// The part of a session that runs by itself.
struct Run {
    inbox: Arc<Inbox>,
    status: Arc<Status>,
    segments: Arc<Segments>,
}

impl Run {
    async fn run(&self, access: &Access) -> Result<Infallible, Trouble> {
        let client = access.client().await.map_err(|error| Trouble::access(&error))?;
        let slices = timeout(CHECK_TIMEOUT, has_slices(&client)).await;
        let slices =
            slices.map_err(|_| Trouble::silent("cannot ask for the server's versions"))??;
        self.status.connected(slices);
        let backends = async {
            match slices {
                true => self.follow::<EndpointSlice>(&client).await,
                false => self.follow::<Endpoints>(&client).await,
            }
        };
        let (never, ..) = tokio::try_join!(
            self.check(&client),
            self.follow::<Node>(&client),
            self.follow::<Namespace>(&client),
            self.follow::<Pod>(&client),
            self.follow::<NetworkPolicy>(&client),
            self.follow::<Service>(&client),
            backends,
        )?;
        match never {}
    }

    /// Lists the objects of a kind, then follows their changes.
    async fn follow<K: Followed>(&self, client: &Client) -> Result<Infallible, Trouble> {
        let mut events = follow::<K>(client);
        let mut listed = BTreeSet::new();
        loop {
            match events.try_next().await? {
                Some(Event::InitApply(object)) => {
                    let object = kept(object);
                    if let Object::Pod(pod) = &object {
                        listed.insert(ObjectName::of(&pod.metadata));
                    }
                    self.apply(object);
                }
                Some(Event::Apply(object)) => self.apply(kept(object)),
                Some(Event::Delete(object)) => self.delete(key(&object)),
                Some(Event::InitDone) => {
                    let listed = std::mem::take(&mut listed);
                    if K::KIND == Kind::Pod {
                        self.segments.retain(|name| listed.contains(name));
                    }
                    self.inbox.listed();
                }
                // The first list: another one would follow an error, which ends the session.
                Some(Event::Init) => continue,
                None => {
                    return Err(Trouble::silent(&format!(
                        "the watch of {} ended",
                        K::KIND.plural()
                    )));
                }
            }
            self.status.contact();
        }
    }

    fn apply(&self, object: Object) {
        if let Object::Pod(pod) = &object {
            self.segments.apply(pod);
        }
        self.inbox.apply(object);
    }

    fn delete(&self, key: Key) {
        if let (Kind::Pod, name) = &key {
            self.segments.delete(name);
        }
        self.inbox.delete(key);
    }

    /// Asks the server at intervals whether it answers: a watch may be silent, and a dead connection is, too.
    async fn check(&self, client: &Client) -> Result<Infallible, Trouble> {
        let doing = "cannot ask the API server for its version";
        let mut failed = 0;
        loop {
            sleep(CHECK_EVERY).await;
            let trouble = match timeout(CHECK_TIMEOUT, client.apiserver_version()).await {
                Ok(Err(error)) if !is_answer(&error) => Trouble::request(doing, &error),
                Ok(_) => {
                    self.status.contact();
                    failed = 0;
                    continue;
                }
                Err(_) => Trouble::silent(doing),
            };
            failed += 1;
            if failed >= CHECKS {
                return Err(trouble);
            }
        }
    }
}

/// Whether the server works, although it refuses the request.
fn is_answer(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code < 500)
}
