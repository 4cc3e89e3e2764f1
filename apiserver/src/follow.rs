//! All objects of a kind, then their changes.

use std::fmt::Debug;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::Trouble;
use crate::access::READ_TIMEOUT;

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// Length of a watch request, seconds: a dead connection is noticed that long after its last event at the latest.
const WATCH_SECONDS: u32 = 45;
const _: () = assert!((WATCH_SECONDS as u64) < READ_TIMEOUT.as_secs());

/// Lists the objects of a kind in all namespaces ([`Event::InitApply`], then [`Event::InitDone`]), then follows their
/// changes. After an error it would list again, but a session is over then.
pub fn follow<K>(client: &Client) -> BoxStream<'static, Result<Event<K>, Trouble>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let config = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
    let events = watcher(Api::<K>::all(client.clone()), config);
    events.map_err(|error| Trouble::watch(&K::plural(&()), &error)).boxed()
}
