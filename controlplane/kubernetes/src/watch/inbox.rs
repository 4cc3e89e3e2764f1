//! Objects and changes between a session's watches, which write, and the listener, which reads. It keeps the latest
//! state of each object only, so its size is bounded by the number of objects, however slow the reader is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use romana_apiserver::Trouble;
use tokio::sync::Notify;

use super::object::{Change, Key, Object};

/// What a session has received and the listener has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    contents: Mutex<Contents>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Contents {
    /// The latest state of objects since they were last taken; `None`: deleted.
    latest: BTreeMap<Key, Option<Object>>,
    /// Kinds that have been listed completely.
    listed: usize,
    /// Why the session ended.
    ended: Option<Trouble>,
}

impl Inbox {
    /// Records an object that exists.
    pub(super) fn apply(&self, object: Object) {
        self.contents().latest.insert(object.key(), Some(object));
        self.news.notify_one();
    }

    /// Records a deletion.
    pub(super) fn delete(&self, key: Key) {
        self.contents().latest.insert(key, None);
        self.news.notify_one();
    }

    /// Records that all objects of one more kind are there.
    pub(super) fn listed(&self) {
        self.contents().listed += 1;
        self.news.notify_one();
    }

    /// Records the end of the session.
    pub(super) fn end(&self, trouble: Trouble) {
        self.contents().ended = Some(trouble);
        self.news.notify_one();
    }

    /// Waits until `kinds` kinds have been listed, and takes all objects.
    pub(super) async fn all(&self, kinds: usize) -> Result<Vec<Object>, Trouble> {
        let ready = |contents: &Contents| contents.listed >= kinds;
        let latest = self.take(ready).await?;
        Ok(latest.into_values().flatten().collect())
    }

    /// Waits for changes, and takes them. Those before the end of a session come first.
    pub(super) async fn changes(&self) -> Result<Vec<Change>, Trouble> {
        let latest = self.take(|contents| !contents.latest.is_empty()).await?;
        let change = |(key, object): (Key, Option<Object>)| {
            object.map_or(Change::Delete(key), Change::Apply)
        };
        Ok(latest.into_iter().map(change).collect())
    }

    async fn take(
        &self,
        ready: impl Fn(&Contents) -> bool,
    ) -> Result<BTreeMap<Key, Option<Object>>, Trouble> {
        loop {
            {
                let mut contents = self.contents();
                if ready(&contents) {
                    return Ok(std::mem::take(&mut contents.latest));
                }
                if let Some(trouble) = &contents.ended {
                    return Err(trouble.clone());
                }
            }
            // A permit is kept if the notification came between the look and the wait.
            self.news.notified().await;
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
