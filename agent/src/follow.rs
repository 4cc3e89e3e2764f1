//! Keeps a view up to date, and a copy of it on disk: an agent that starts while no replica answers
//! works with what it knew last (law 4).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use romana_client::{Client, Error, FollowOptions, Follower, Item, Query};
use romana_statemachine::name::HostName;
use romana_statemachine::{Event, Revision};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::connections::{Forgotten, Released};
use crate::copy::{self, CopyError};
use crate::ours::{FOLLOWED_FILE, VIEW_FILE};
use crate::view::{TOPICS, View};

/// The copy is at most so old.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Pause after an error of the feed that says nothing about when to come back.
const PAUSE: Duration = Duration::from_secs(1);

/// A view, and how old it may be.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The view; `None` before the first one.
    pub view: Option<Arc<View>>,
    /// When a replica was last heard; `None`: not since the start.
    pub heard: Option<Instant>,
    /// Whether the view has been as new as a replica's since the start. Before, the kernel may know
    /// better: the copy is older than the last change.
    pub caught_up: bool,
    /// Events since the start that this program does not know, and that could be left out.
    pub unknown: u64,
    /// Why the view is no longer followed: the cluster is newer than this program.
    pub stranded: Option<String>,
    /// What comes in place of a feed, or why none is to be had; it is tried again.
    pub trouble: Option<String>,
}

impl Seen {
    fn at_start(view: Option<View>) -> Self {
        let view = view.map(Arc::new);
        Self { view, heard: None, caught_up: false, unknown: 0, stranded: None, trouble: None }
    }
}

/// Follows the log for a host.
#[derive(Debug)]
pub struct Following {
    host: HostName,
    file: PathBuf,
    /// The revision of the copy, in a place that lives as long as the kernel does: its connections are as old.
    followed: PathBuf,
    seen: watch::Sender<Seen>,
    /// Whether the copy is older than the view, and since when.
    unsaved: Option<Instant>,
    forgetting: Forgetting,
}

/// Who forgets connections of released addresses.
#[derive(Clone, Debug)]
struct Forgetting {
    ask: mpsc::UnboundedSender<Released>,
    done: watch::Receiver<Forgotten>,
    /// The last release that was told.
    asked: Arc<AtomicU64>,
    /// How many gaps are being asked about.
    gaps: Arc<AtomicUsize>,
}

impl Forgetting {
    fn ask(&self, revision: Revision, ips: impl IntoIterator<Item = IpAddr>) {
        for ip in ips {
            self.asked.fetch_max(revision, Ordering::Relaxed);
            // Nobody listens any more: the agent is stopping.
            _ = self.ask.send(Released { revision, ip });
        }
    }

    /// Asks the log what was released between two revisions, of which the view after the second one says nothing.
    fn fill(&self, client: Client, after: Revision, upto: Revision) {
        let this = self.clone();
        this.gaps.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            loop {
                match released(&client, after, upto).await {
                    Ok(ips) => break this.ask(upto, ips),
                    Err(Error::Refused(error)) => {
                        tracing::warn!(after, upto, %error, "what was released is not known any more");
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "what was released is not known yet"),
                }
                tokio::time::sleep(PAUSE).await;
            }
            this.gaps.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Whether everything that was asked for has been done. A copy of the view that is written before would
    /// hide the rest from the next start. Where the kernel cannot do it people are told, and the copy is worth more.
    fn is_done(&self) -> bool {
        let done = self.done.borrow();
        let asked = self.asked.load(Ordering::Relaxed);
        let told = done.revision >= asked && self.gaps.load(Ordering::Relaxed) == 0;
        told || done.failing
    }
}

/// Addresses that were released after a revision, up to another.
async fn released(
    client: &Client,
    after: Revision,
    upto: Revision,
) -> Result<BTreeSet<IpAddr>, Error> {
    let query = Query::new("/v1/audit/log").with("type", Some("AddressReleased"));
    let query = query.with("from", Some(after + 1)).with("to", Some(upto));
    let page = client.list::<serde_json::Value>(query).await?;
    let ips = page
        .items
        .iter()
        .filter_map(|record| record["event"]["AddressReleased"]["ip"].as_str()?.parse().ok());
    Ok(ips.collect())
}

impl Following {
    /// Reads the copy in the state directory. A damaged one is set aside: the snapshot of a replica
    /// takes its place.
    ///
    /// # Errors
    /// [`CopyError::Io`].
    pub fn open(
        config: &Config,
        ask: mpsc::UnboundedSender<Released>,
        done: watch::Receiver<Forgotten>,
    ) -> Result<Self, CopyError> {
        let (host, file) = (config.host.clone(), config.state_dir.join(VIEW_FILE));
        let view = match copy::load::<View>(&file) {
            Ok(view) => view.filter(|view| view.host == host),
            Err(error @ CopyError::Damaged { .. }) => {
                let aside = copy::set_aside(&file);
                tracing::error!(%error, aside = %aside.display(), "starting without a view");
                None
            }
            Err(error) => return Err(error),
        };
        let seen = watch::Sender::new(Seen::at_start(view));
        let (asked, gaps) = Default::default();
        let forgetting = Forgetting { ask, done, asked, gaps };
        let followed = config.socket.with_extension(FOLLOWED_FILE);
        Ok(Self { host, file, followed, seen, unsaved: None, forgetting })
    }

    /// What is seen, as it changes.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Follows until `stop`.
    pub async fn run(mut self, client: Client, stop: CancellationToken) {
        let mut follower = self.follower(&client);
        let mut trouble = follower.trouble();
        loop {
            let save = self.unsaved.map(|since| since + SAVE_EVERY);
            tokio::select! {
                () = stop.cancelled() => break,
                () = until(save) => self.save_if_forgotten(),
                Ok(()) = trouble.changed() => self.tell(trouble.borrow_and_update().clone()),
                item = follower.next() => match item {
                    Ok(item) => self.take(item, follower.cluster(), &client),
                    Err(error) => {
                        self.complain(&error);
                        let pause = Instant::now() + PAUSE;
                        tokio::select! {
                            () = stop.cancelled() => break,
                            () = sleep_until(pause) => {}
                        }
                    }
                },
            }
        }
        self.save_if_forgotten();
    }

    /// Goes on where the copy ends. The digest there is not known, so a filtered feed is all there is.
    fn follower(&self, client: &Client) -> Follower {
        // A copy without rules is of an earlier release: routes go on by it until a snapshot is here.
        let whole = |view: &Arc<View>| view.rules.is_some();
        let view = self.seen.borrow().view.clone().filter(whole);
        let after = view.as_ref().map(|view| view.revision);
        let cluster = view.and_then(|view| view.cluster.clone());
        let (digest, topics, host) = (None, TOPICS.to_vec(), Some(self.host.clone()));
        // All of it goes into the kernel: to guess would be to open or cut something.
        let required = TOPICS.to_vec();
        client.follow(FollowOptions { after, digest, topics, host, required, cluster })
    }

    fn complain(&self, error: &Error) {
        let Error::Newer { why } = error else {
            tracing::warn!(error = error as &dyn std::error::Error, "the log cannot be followed");
            return self.tell(Some(error.to_string()));
        };
        self.seen.send_if_modified(|seen| {
            let new = seen.stranded.as_ref() != Some(why);
            if new {
                tracing::error!(why, "the log is not followed any further: upgrade this agent");
                seen.stranded = Some(why.clone());
            }
            new
        });
    }

    /// Shows what keeps the log from being followed, until something of it comes.
    fn tell(&self, trouble: Option<String>) {
        self.seen.send_if_modified(|seen| {
            let new = seen.trouble != trouble;
            if let Some(why) = trouble.as_ref().filter(|_| new) {
                tracing::warn!(why, "there is nothing to follow");
            }
            seen.trouble = trouble;
            new
        });
    }

    fn take(&mut self, item: Item, cluster: Option<&str>, client: &Client) {
        let now = Instant::now();
        let Seen { view: before, caught_up, mut unknown, .. } = self.seen.borrow().clone();
        // A bookmark follows when everything that there was has come.
        let caught_up = caught_up || !matches!(item, Item::Record(_) | Item::Unknown(_));
        let first = before.is_none();
        let after = match item {
            Item::Record(record) => before.map(|mut view| {
                if let Event::AddressReleased(released) = &record.event {
                    self.forgetting.ask(record.revision, [released.ip]);
                }
                Arc::make_mut(&mut view).apply(&record);
                view
            }),
            Item::Unknown(one) => {
                unknown += 1;
                tracing::info!(
                    event = one.name(),
                    revision = one.revision,
                    "an event is left out: not known"
                );
                before.map(|view| moved_on(view, one.revision))
            }
            Item::Bookmark(revision) => before.map(|view| moved_on(view, revision)),
            Item::Reset(snapshot) => match View::from_snapshot(&self.host, &snapshot) {
                Ok(mut view) => {
                    let gone = before.iter().flat_map(|before| before.gone(&view));
                    self.forgetting.ask(view.revision, gone.collect::<Vec<_>>());
                    let followed = before.as_ref().map(|before| before.revision);
                    let followed = followed.or_else(|| copy::load(&self.followed).ok().flatten());
                    if let Some(after) = followed.filter(|after| *after < view.revision) {
                        self.forgetting.fill(client.clone(), after, view.revision);
                    }
                    let (revision, known) = (view.revision, before.as_ref());
                    let known = known.and_then(|before| before.rules.as_ref());
                    if let Some(rules) = &mut view.rules {
                        rules.date(known, revision);
                    }
                    Some(Arc::new(view))
                }
                Err(error) => {
                    tracing::error!(%error, "the snapshot is not understood: keeping the old view");
                    before
                }
            },
        };
        let after = after.map(|mut view| {
            if cluster.is_some() && view.cluster.as_deref() != cluster {
                Arc::make_mut(&mut view).cluster = cluster.map(str::to_owned);
            }
            view
        });
        self.unsaved = self.unsaved.or(Some(now));
        let heard = Some(now);
        let (view, stranded, trouble) = (after, None, None);
        self.seen.send_replace(Seen { view, heard, caught_up, unknown, stranded, trouble });
        if first {
            self.save_if_forgotten();
        }
    }

    /// Saves the view, or waits until connections are forgotten that it does not tell of.
    fn save_if_forgotten(&mut self) {
        if self.forgetting.is_done() {
            self.save();
        } else {
            self.unsaved = Some(Instant::now());
        }
    }

    fn save(&mut self) {
        self.unsaved = None;
        let Some(view) = self.seen.borrow().view.clone() else { return };
        if let Err(error) = copy::save(&self.file, &*view) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the view is not saved: a restart without a replica would know less"
            );
        }
        // Without it a start that has lost the view knows of no gap.
        if let Err(error) = copy::save(&self.followed, &view.revision) {
            tracing::debug!(%error, "where the view ends is not saved");
        }
    }
}

/// A view to which nothing happens up to a revision.
fn moved_on(mut view: Arc<View>, revision: Revision) -> Arc<View> {
    if view.revision < revision {
        Arc::make_mut(&mut view).revision = revision;
    }
    view
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use romana_client::ClientConfig;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_newer_cluster_is_followed_as_far_as_it_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let (ask, _asked) = mpsc::unbounded_channel();
        let (_forgetting, done) = watch::channel(Forgotten::default());
        let (asked, gaps) = Default::default();
        let mut following = Following {
            host: "h1".into(),
            file: dir.path().join("view"),
            followed: dir.path().join("followed"),
            seen: watch::Sender::new(Seen::at_start(Some(View::new("h1".into())))),
            unsaved: None,
            forgetting: Forgetting { ask, done, asked, gaps },
        };
        let server = "http://127.0.0.1:9".parse().unwrap();
        let client = Client::new(ClientConfig::new(vec![server])).unwrap();
        let unknown = json!({"revision": 7, "index": 1, "at": 1, "actor": "a", "optional": true,
            "event": {"Teleported": {}}, "digest": romana_statemachine::Digest::default()});
        following.take(Item::Unknown(serde_json::from_value(unknown).unwrap()), None, &client);
        let now = |following: &Following| following.seen.borrow().clone();
        let seen = now(&following);
        assert_eq!((seen.view.unwrap().revision, seen.unknown, seen.caught_up), (7, 1, false));
        assert_eq!(seen.stranded, None);

        let heard = seen.heard;
        following.complain(&Error::Newer { why: "revision 8 is new".into() });
        let seen = now(&following);
        assert_eq!(seen.stranded.as_deref(), Some("revision 8 is new"));
        assert_eq!(seen.view.unwrap().revision, 7, "what is not understood is not guessed");
        assert_eq!(seen.heard, heard, "it grows stale");
        following.tell(Some("a page".into()));
        assert_eq!(now(&following).trouble.as_deref(), Some("a page"));
        following.take(Item::Bookmark(9), None, &client);
        let seen = now(&following);
        assert_eq!((seen.stranded, seen.trouble), (None, None));
    }
}
