//! One session with the API server: lists and watches of all kinds. It ends at its first error; the next one lists
//! everything again, so that there is one code path for start, expired watches and outages.

use std::fmt::Debug;
use std::pin::pin;

use futures_util::stream::{BoxStream, select_all};
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use romana_daemon::error::chain;
use serde::de::DeserializeOwned;

use super::access::{Access, READ_TIMEOUT};
use super::{Status, translate};
use crate::catalogue::{Catalogue, Change};

/// Group and version of EndpointSlices (Kubernetes 1.21 and later).
const SLICES: &str = "discovery.k8s.io/v1";
/// Kinds that are followed: Namespaces, Services, and EndpointSlices or Endpoints.
const KINDS: usize = 3;
/// Objects in one page of a list.
const PAGE: u32 = 500;
/// Length of a watch request, seconds: a dead connection is noticed that long after its last event at the latest.
const WATCH_SECONDS: u32 = 45;
const _: () = assert!((WATCH_SECONDS as u64) < READ_TIMEOUT.as_secs());
/// Most changes that are taken at once.
const BATCH_MAX: usize = 1_024;
/// Longest text of an error, characters: a server may answer with a page.
const TEXT_CHARS_MAX: usize = 300;

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
    items: BoxStream<'static, Result<Item, String>>,
    /// While kinds are being listed: what is there so far, and how many kinds are complete.
    listing: Option<(Box<Catalogue>, usize)>,
    /// Why it has ended, if that is not told yet.
    ended: Option<String>,
}

impl Session {
    /// Opens a session: reads the credentials and asks which kinds there are.
    pub(super) async fn open(access: &Access) -> Result<Self, String> {
        let client = access.client().await.map_err(|error| chain(&error))?;
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
    pub(super) async fn news(&mut self, status: &Status) -> Result<News, String> {
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

    async fn next(&mut self) -> Result<Item, String> {
        if let Some(why) = self.ended.take() {
            return Err(why);
        }
        self.items.next().await.unwrap_or_else(|| Err("the watches ended".into()))
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

async fn has_slices(client: &Client) -> Result<bool, String> {
    match client.list_api_group_resources(SLICES).await {
        Ok(found) => Ok(found.resources.iter().any(|resource| resource.name == "endpointslices")),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(text("cannot ask the API server for its versions", &error)),
    }
}

/// Lists the objects of a kind, then follows their changes.
fn follow<K>(
    client: &Client,
    change: fn(&K) -> Option<Change>,
) -> BoxStream<'static, Result<Item, String>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let config = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
    let events = watcher(Api::<K>::all(client.clone()), config);
    let item = move |event: watcher::Result<Event<K>>| match event {
        Ok(Event::InitApply(object) | Event::Apply(object)) => Ok(Item::Change(change(&object))),
        Ok(Event::Delete(object)) => Ok(Item::Change(change(&object).map(deletion))),
        Ok(Event::Init) => Ok(Item::Change(None)),
        Ok(Event::InitDone) => Ok(Item::Listed),
        Err(error) => Err(text(&format!("cannot follow {}", K::plural(&())), &error)),
    };
    events.map(item).boxed()
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

fn text(doing: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let text = format!("{doing}: {}", chain(error));
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
