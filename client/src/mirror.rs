//! Mirrors a part of the cluster's state by following the log, and saves it to disk: a program that starts
//! while no replica answers uses the last saved state.
//!
//! ```text
//!   Follower ──► items, a batch at a time ──► View::restart, View::apply ──► published once ──► watch<Seen>
//!                                       └──► Observer                 └──► copy on disk, once a second at most
//! ```
//! The mirrored part is a [`View`]: built from a snapshot and the records after it. A
//! pair of views is a view as well.

mod layout;
mod snapshot;
mod view;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use romana_daemon::durable::{self, DurableError};
use romana_statemachine::Record;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{Client, Error, FollowOptions, Follower, Item};
pub use layout::Layout;
pub use snapshot::{SnapshotAddress, SnapshotBlock, SnapshotError, SnapshotHost};
pub use view::{Cursor, View};

/// Maximum age of unsaved changes.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Pause after an error of the feed that does not give a retry time.
const PAUSE: Duration = Duration::from_secs(1);
/// Limit of items applied before the view is published.
const BATCH_MAX: usize = 1_024;

/// A view, and how recent it is.
#[derive(Debug)]
pub struct Seen<V> {
    /// The view; `None` before the first one.
    pub view: Option<Arc<V>>,
    /// When a replica last sent data; `None`: not since the start.
    pub heard: Option<Instant>,
    /// Whether the view has caught up with a replica since the start. Until then it may be older
    /// than what others have acted upon.
    pub caught_up: bool,
    /// Number of events since the start that this program does not know and skipped, or knows only in part.
    pub unknown: u64,
    /// Why the view is no longer followed: the cluster is newer than this program.
    pub stranded: Option<String>,
    /// Why the feed cannot be followed; it is retried.
    pub trouble: Option<String>,
}

impl<V> Clone for Seen<V> {
    fn clone(&self) -> Self {
        let Self { view, heard, caught_up, unknown, stranded, trouble } = self;
        let (heard, caught_up, unknown) = (*heard, *caught_up, *unknown);
        let (view, stranded, trouble) = (view.clone(), stranded.clone(), trouble.clone());
        Self { view, heard, caught_up, unknown, stranded, trouble }
    }
}

impl<V> Default for Seen<V> {
    fn default() -> Self {
        let (view, heard, stranded, trouble) = (None, None, None, None);
        Self { view, heard, caught_up: false, unknown: 0, stranded, trouble }
    }
}

/// Observes every step of a mirror, and may delay saving.
pub trait Observer<V>: Send + 'static {
    /// A record arrives; the view does not have it yet.
    fn record(&mut self, record: &Record);

    /// A snapshot replaces the previous view, if there was one.
    fn restart(&mut self, client: &Client, before: Option<&V>, after: &V);

    /// Whether the view may be saved now. Return `false` while work for records before it is pending.
    fn may_save(&self) -> bool {
        true
    }

    /// The view was saved.
    fn saved(&mut self, _: &V) {}
}

/// Observes nothing.
impl<V> Observer<V> for () {
    fn record(&mut self, _: &Record) {}
    fn restart(&mut self, _: &Client, _: Option<&V>, _: &V) {}
}

/// Follows the log for a view.
pub struct Mirror<V, O = ()> {
    /// The view as of the last item; initially empty.
    view: V,
    /// Whether there was a snapshot or a saved view.
    is_known: bool,
    /// Whether the view misses something: a snapshot that could not be read.
    has_gap: bool,
    seen: watch::Sender<Seen<V>>,
    file: PathBuf,
    /// Since when the saved view is outdated.
    unsaved: Option<Instant>,
    observer: O,
}

impl<V, O> fmt::Debug for Mirror<V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("file", &self.file).finish_non_exhaustive()
    }
}

impl<V: View + Serialize + DeserializeOwned, O: Observer<V>> Mirror<V, O> {
    /// Loads the view saved in `file`, unless it is that of another host. A damaged file is set aside, and a
    /// replica's snapshot replaces it. `empty`: the view before anything is known.
    ///
    /// # Errors
    /// [`DurableError::Io`].
    pub fn open(empty: V, file: &Path, observer: O) -> Result<Self, DurableError> {
        let copy = match durable::load::<V>(file) {
            Ok(copy) => copy.filter(|copy| copy.host() == empty.host()),
            Err(error @ DurableError::Damaged { .. }) => {
                let aside = durable::set_aside(file);
                tracing::error!(%error, aside = %aside.display(), "cannot read the saved view: starting from the control plane");
                None
            }
            Err(error) => return Err(error),
        };
        let view = copy.clone().map(Arc::new);
        let (is_known, seen) =
            (copy.is_some(), watch::Sender::new(Seen { view, ..Seen::default() }));
        let (view, file) = (copy.unwrap_or(empty), file.to_owned());
        Ok(Self { view, is_known, has_gap: false, seen, file, unsaved: None, observer })
    }

    /// A receiver of the published view.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<Seen<V>> {
        self.seen.subscribe()
    }

    /// Follows until `stop`.
    pub async fn run(mut self, client: Client, stop: CancellationToken) {
        let mut follower = client.follow(self.options());
        let mut trouble = follower.trouble();
        loop {
            let save = self.unsaved.map(|since| since + SAVE_EVERY);
            tokio::select! {
                () = stop.cancelled() => break,
                () = until(save) => self.save_if_allowed(),
                Ok(()) = trouble.changed() => self.tell(trouble.borrow_and_update().clone()),
                item = follower.next() => {
                    if let Err(error) = self.take_batch(item, &mut follower, &client) {
                        self.complain(&error);
                        if self.has_gap {
                            follower = client.follow(self.options());
                            trouble = follower.trouble();
                        }
                        tokio::select! {
                            () = stop.cancelled() => break,
                            () = tokio::time::sleep(PAUSE) => {}
                        }
                    }
                }
            }
        }
        self.save_if_allowed();
    }

    /// Options to continue from the saved view. Its digest is unknown, so the feed is always filtered.
    fn options(&self) -> FollowOptions {
        let whole = self.is_known && self.view.is_whole() && !self.has_gap;
        let whole = whole.then_some(&self.view);
        let after = whole.map(View::revision);
        let cluster = whole.and_then(|view| view.cluster().map(str::to_owned));
        let (topics, host) = (self.view.topics(), self.view.host());
        // All topics are required: a view that skipped an unknown event would act on wrong data.
        FollowOptions { after, required: topics.clone(), topics, host, cluster, digest: None }
    }

    /// Applies an item and those that arrived with it, and publishes the view.
    fn take_batch(
        &mut self,
        first: Result<Item, Error>,
        follower: &mut Follower,
        client: &Client,
    ) -> Result<(), Error> {
        let mut seen = self.seen.borrow().clone();
        let mut next = first;
        for _ in 0..BATCH_MAX {
            seen.unknown += follower.take_partly_known();
            if let Err(error) = next.and_then(|item| self.take(item, client, &mut seen)) {
                self.publish(seen, follower.cluster());
                return Err(error);
            }
            let Some(item) = follower.next().now_or_never() else { break };
            next = item;
        }
        self.publish(seen, follower.cluster());
        Ok(())
    }

    fn take(&mut self, item: Item, client: &Client, seen: &mut Seen<V>) -> Result<(), Error> {
        // A bookmark follows when all existing records have arrived.
        let caught_up = !matches!(item, Item::Record(_) | Item::Unknown(_));
        match item {
            Item::Record(record) => {
                self.observer.record(&record);
                self.view.apply(&record);
                self.view.advance(record.revision);
            }
            Item::Unknown(one) => {
                seen.unknown += 1;
                let (event, revision) = (one.name(), one.revision);
                tracing::info!(
                    event,
                    revision = revision.get(),
                    "skipped an event that this version does not know"
                );
                self.view.advance(revision);
            }
            Item::Bookmark(revision) => self.view.advance(revision),
            Item::Reset(snapshot) => {
                self.has_gap = true;
                let restarted = self.view.restart(&snapshot);
                let view = restarted.map_err(|error| Error::Newer { why: error.to_string() })?;
                let before = self.is_known.then_some(&self.view);
                self.observer.restart(client, before, &view);
                (self.view, self.is_known, self.has_gap) = (view, true, false);
            }
        }
        if seen.trouble.is_some() || seen.stranded.is_some() {
            tracing::info!(revision = self.view.revision().get(), "following the log again");
        }
        seen.caught_up |= caught_up;
        (seen.heard, seen.stranded, seen.trouble) = (Some(Instant::now()), None, None);
        Ok(())
    }

    fn publish(&mut self, mut seen: Seen<V>, cluster: Option<&str>) {
        let is_first = self.is_known && seen.view.is_none();
        if let Some(cluster) = cluster.filter(|cluster| self.view.cluster() != Some(*cluster)) {
            self.view.set_cluster(cluster);
        }
        if self.is_known {
            self.unsaved = self.unsaved.or_else(|| Some(Instant::now()));
            seen.view = Some(Arc::new(self.view.clone()));
        }
        self.seen.send_replace(seen);
        if is_first {
            self.save_if_allowed();
        }
    }

    fn complain(&self, error: &Error) {
        let Error::Newer { why } = error else {
            tracing::warn!(error = error as &dyn std::error::Error, "cannot follow the log");
            return self.tell(Some(error.to_string()));
        };
        self.seen.send_if_modified(|seen| {
            let new = seen.stranded.as_ref() != Some(why);
            if new {
                tracing::error!(why, "stopped following the log: upgrade this program");
                seen.stranded = Some(why.clone());
            }
            new
        });
    }

    /// Publishes why the log cannot be followed, until data arrives.
    fn tell(&self, trouble: Option<String>) {
        self.seen.send_if_modified(|seen| {
            let new = seen.trouble != trouble;
            if let Some(why) = trouble.as_ref().filter(|_| new) {
                tracing::warn!(why, "the control plane has no events for this follower");
            }
            seen.trouble = trouble;
            new
        });
    }

    /// Saves the view if the observer permits; otherwise checks again later.
    fn save_if_allowed(&mut self) {
        if self.observer.may_save() {
            self.save();
        } else {
            self.unsaved = Some(Instant::now());
        }
    }

    fn save(&mut self) {
        self.unsaved = None;
        if !self.is_known {
            return;
        }
        if let Err(error) = durable::save(&self.file, &self.view) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot save the view: after a restart without the control plane an older one is used"
            );
        }
        self.observer.saved(&self.view);
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
