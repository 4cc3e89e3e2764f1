//! One session with the API server: lists and watches of all kinds. It ends at its first error; the next one lists
//! everything again, so that there is one code path for start, expired watches and outages.

use std::fmt::Debug;
use std::pin::pin;

use futures_util::stream::{BoxStream, select_all};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use kube::{Client, Resource};
use romana_apiserver::{Access, Trouble, has_slices};
use serde::de::DeserializeOwned;

use super::{Status, translate};
use crate::catalogue::{Catalogue, Change};

/// Kinds that are followed: Namespaces, Services, and EndpointSlices or Endpoints.
const KINDS: usize = 3;
/// Most changes that are taken at once.
const BATCH_MAX: usize = 1_024;

/// What a session has to say.
pub(super) enum News {
    /// Everything there is, as soon as every kind has been listed.
    All(Box<Catalogue>),
    Changes(Vec<Change>),
}

enum Item {
    Change(Option<Change>),
    Listed,
}

/// An open session.
pub(super) struct Session {
    items: BoxStream<'static, Result<Item, Trouble>>,
    /// While kinds are being listed: what is there so far, and how many kinds are complete.
    listing: Option<(Box<Catalogue>, usize)>,
    /// Why it has ended, if that is not told yet.
    ended: Option<Trouble>,
}

impl Session {
    /// Opens a session: reads the credentials and asks which kinds there are.
    pub(super) async fn open(access: &Access) -> Result<Self, Trouble> {
        let client = access.client().await.map_err(|error| Trouble::access(&error))?;
        let slices = has_slices(&client).await?;
        let backends = match slices {
            true => follow::<EndpointSlice>(&client, |slice| {
                let (namespace, name) = names(slice);
                Some(Change::Slice(namespace, name, translate::slice(slice)))
            }),
            false => follow::<Endpoints>(&client, |endpoints| {
                let (namespace, name) = names(endpoints);
                Some(Change::Slice(namespace, name, translate::endpoints(endpoints)))
            }),
        };
        let namespaces = follow::<Namespace>(&client, |namespace| {
            Some(Change::Namespace(names(namespace).1, true))
        });
        let services = follow::<Service>(&client, |service| {
            let (namespace, name) = names(service);
            Some(Change::Service(namespace, name, Some(translate::service(service))))
        });
        let items = select_all([namespaces, services, backends]).boxed();
        Ok(Self { items, listing: Some((Box::default(), 0)), ended: None })
    }

    /// Waits for news. Nothing is lost if the future is dropped.
    pub(super) async fn news(&mut self, status: &Status) -> Result<News, Trouble> {
        loop {
            let mut changes = Vec::new();
            let mut next = self.next().await;
            loop {
                let item = next?;
                status.contact();
                match item {
                    Item::Change(change) => self.take(change, &mut changes),
                    Item::Listed => {
                        if let Some(all) = self.listed() {
                            return Ok(News::All(all));
                        }
                    }
                }
                if changes.len() >= BATCH_MAX {
                    break;
                }
                let Some(ready) = pin!(self.next()).now_or_never() else { break };
                next = match ready {
                    // The changes before an error come first.
                    Err(why) if !changes.is_empty() => {
                        self.ended = Some(why);
                        break;
                    }
                    ready => ready,
                };
            }
            if !changes.is_empty() {
                return Ok(News::Changes(changes));
            }
        }
    }

    async fn next(&mut self) -> Result<Item, Trouble> {
        if let Some(why) = self.ended.take() {
            return Err(why);
        }
        self.items.next().await.unwrap_or_else(|| Err(Trouble::silent("the watches ended")))
    }

    fn take(&mut self, change: Option<Change>, changes: &mut Vec<Change>) {
        match (&mut self.listing, change) {
            (Some((all, _)), Some(change)) => all.apply(change),
            (None, Some(change)) => changes.push(change),
            (_, None) => {}
        }
    }

    fn listed(&mut self) -> Option<Box<Catalogue>> {
        let (_, listed) = self.listing.as_mut()?;
        *listed += 1;
        (*listed >= KINDS).then(|| self.listing.take())?.map(|(all, _)| all)
    }
}

/// The objects of a kind, then their changes, as changes of the catalogue.
fn follow<K>(
    client: &Client,
    change: fn(&K) -> Option<Change>,
) -> BoxStream<'static, Result<Item, Trouble>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let item = move |event: Event<K>| match event {
        Event::InitApply(object) | Event::Apply(object) => Item::Change(change(&object)),
        Event::Delete(object) => Item::Change(change(&object).map(deletion)),
        Event::Init => Item::Change(None),
        Event::InitDone => Item::Listed,
    };
    romana_apiserver::follow::<K>(client).map_ok(item).boxed()
}

fn deletion(change: Change) -> Change {
    match change {
        Change::Namespace(name, _) => Change::Namespace(name, false),
        Change::Service(namespace, name, _) => Change::Service(namespace, name, None),
        Change::Slice(namespace, name, _) => Change::Slice(namespace, name, None),
    }
}

fn names<K: Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
