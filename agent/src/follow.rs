//! Keeps this host's view up to date ([`mirror`]), and has the connections of released addresses forgotten, also of
//! those that were released while nobody followed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use romana_client::mirror::{self, Mirror, Observer};
use romana_client::{Client, Error, Query};
use romana_daemon::durable::{self, DurableError};
use romana_statemachine::name::HostName;
use romana_statemachine::{Event, Record, Revision};
use tokio::sync::{mpsc, watch};

use crate::connections::{Forgotten, Released};
use crate::ours::{FOLLOWED_FILE, VIEW_FILE};
use crate::view::View;

/// What is said of an agent that the cluster has left behind.
pub const NOT_FOLLOWED: &str = "the log is not followed any further";
/// Pause before what was released is asked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// This host's view, and how old it may be.
pub type Seen = mirror::Seen<View>;

/// Follows the log for a host.
pub type Following = Mirror<View, Forgetting>;

/// Reads the copy of the view of a host in the state directory; beside the socket is noted how far it went. Releases are asked to be forgotten by `ask`; `done` says which
/// are.
///
/// # Errors
/// [`DurableError::Io`].
pub fn open(
    host: HostName,
    state_dir: &Path,
    socket: &Path,
    ask: mpsc::UnboundedSender<Released>,
    done: watch::Receiver<Forgotten>,
) -> Result<Following, DurableError> {
    let (asked, gaps) = Default::default();
    let followed = socket.with_extension(FOLLOWED_FILE);
    let forgetting = Forgetting { ask, done, asked, gaps, followed };
    let empty = View::new(host);
    Mirror::open(empty, &state_dir.join(VIEW_FILE), forgetting)
}

/// Who forgets connections of released addresses.
#[derive(Clone, Debug)]
pub struct Forgetting {
    ask: mpsc::UnboundedSender<Released>,
    done: watch::Receiver<Forgotten>,
    /// The last release that was told.
    asked: Arc<AtomicU64>,
    /// How many gaps are being asked about.
    gaps: Arc<AtomicUsize>,
    /// The revision of the copy, in a place that lives as long as the kernel does: its connections are as old.
    followed: PathBuf,
}

impl Forgetting {
    fn ask(&self, revision: Revision, ips: impl IntoIterator<Item = IpAddr>) {
        for ip in ips {
            self.asked.fetch_max(revision.get(), Ordering::Relaxed);
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
                        tracing::warn!(%after, %upto, %error, "what was released is not known any more");
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "what was released is not known yet"),
                }
                tokio::time::sleep(PAUSE).await;
            }
            this.gaps.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl Observer<View> for Forgetting {
    fn record(&mut self, record: &Record) {
        if let Event::AddressReleased(released) = &record.event {
            self.ask(record.revision, [released.ip]);
        }
    }

    fn restart(&mut self, client: &Client, before: Option<&View>, after: &View) {
        self.ask(after.revision, before.iter().flat_map(|before| before.gone(after)));
        let followed = before.map(|before| before.revision);
        let followed = followed.or_else(|| durable::load(&self.followed).ok().flatten());
        if let Some(since) = followed.filter(|since| *since < after.revision) {
            self.fill(client.clone(), since, after.revision);
        }
    }

    /// Whether everything that was asked for has been done. A copy of the view that is written before would
    /// hide the rest from the next start. Where the kernel cannot do it people are told, and the copy is worth more.
    fn may_save(&self) -> bool {
        let done = self.done.borrow();
        let asked = self.asked.load(Ordering::Relaxed);
        let told = done.revision >= asked && self.gaps.load(Ordering::Relaxed) == 0;
        told || done.failing
    }

    fn saved(&mut self, view: &View) {
        // Without it a start that has lost the view knows of no gap.
        if let Err(error) = durable::save(&self.followed, &view.revision) {
            tracing::debug!(%error, "where the view ends is not saved");
        }
    }
}

/// Addresses that were released after a revision, up to another.
async fn released(
    client: &Client,
    after: Revision,
    upto: Revision,
) -> Result<BTreeSet<IpAddr>, Error> {
    let query = Query::new("/v1/audit/log").with("type", Some("AddressReleased"));
    let query = query.with("from", Some(after.next())).with("to", Some(upto));
    let page = client.list::<serde_json::Value>(query).await?;
    let ips = page
        .items
        .iter()
        .filter_map(|record| record["event"]["AddressReleased"]["ip"].as_str()?.parse().ok());
    Ok(ips.collect())
}
