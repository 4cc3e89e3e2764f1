//! Keeps this host's view up to date ([`mirror`]), and passes on released addresses, including those released
//! while the agent did not follow the log.

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
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::connections::{Forgotten, Released};
use crate::ownership::{FOLLOWED_FILE, VIEW_FILE};
use crate::view::View;

/// Problem of an agent that is too old to follow the cluster's log.
pub const NOT_FOLLOWED: &str = "the log is not followed any further";
/// Retry interval of queries for released addresses.
const PAUSE: Duration = Duration::from_secs(1);

/// This host's view, and how recent it is.
pub type Seen = mirror::Seen<View>;

/// Follows the log for a host.
pub type Following = Mirror<View, Forgetting>;

/// Loads the saved view of a host from the state directory; the revision it reached is also stored next to
/// the socket. Released addresses are sent to `ask`; `done` reports progress.
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

/// Passes on released addresses.
#[derive(Clone, Debug)]
pub struct Forgetting {
    ask: mpsc::UnboundedSender<Released>,
    done: watch::Receiver<Forgotten>,
    /// Revision of the last release that was passed on.
    asked: Arc<AtomicU64>,
    /// Number of gaps that are being filled.
    gaps: Arc<AtomicUsize>,
    /// File with the revision of the view, on a file system that does not outlive the
    /// kernel, like tracked connections.
    followed: PathBuf,
}

impl Forgetting {
    fn ask(&self, revision: Revision, ips: impl IntoIterator<Item = IpAddr>) {
        for ip in ips {
            self.asked.fetch_max(revision.get(), Ordering::Relaxed);
            // A send error means that the agent is stopping.
            _ = self.ask.send(Released { revision, ip });
        }
    }

    /// Queries the addresses that were released between two revisions; the later view does not contain them.
    fn fill(&self, client: Client, after: Revision, upto: Revision) {
        let this = self.clone();
        this.gaps.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            loop {
                match released(&client, after, upto).await {
                    Ok(ips) => break this.ask(upto, ips),
                    Err(Error::Refused(error)) => {
                        tracing::warn!(
                            after = after.get(),
                            upto = upto.get(),
                            %error,
                            "query of released addresses failed: the log no longer has them"
                        );
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "released addresses query failed"),
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
        self.ask(after.revision(), before.iter().flat_map(|before| before.gone(after)));
        let followed = before.map(View::revision);
        let followed = followed.or_else(|| durable::load(&self.followed).ok().flatten());
        if let Some(since) = followed.filter(|since| *since < after.revision()) {
            self.fill(client.clone(), since, after.revision());
        }
    }

    /// Whether all released addresses have been handled. Saving the view earlier would hide the rest from the
    /// next start. If the kernel refuses, that is reported as a problem, and the view is saved nevertheless.
    fn may_save(&self) -> bool {
        let done = self.done.borrow();
        let asked = self.asked.load(Ordering::Relaxed);
        let told = done.revision >= asked && self.gaps.load(Ordering::Relaxed) == 0;
        told || done.failing
    }

    fn saved(&mut self, view: &View) {
        // Without this file, a start without a view detects no gap.
        if let Err(error) = durable::save(&self.followed, &view.revision()) {
            tracing::debug!(%error, "saving the followed revision failed");
        }
    }
}

/// Addresses released after a revision, up to another.
async fn released(
    client: &Client,
    after: Revision,
    upto: Revision,
) -> Result<BTreeSet<IpAddr>, Error> {
    let query = Query::new("/v1/audit/log").with("type", Some("AddressReleased"));
    let query = query.with("from", Some(after.next())).with("to", Some(upto));
    // Only the address is read: a newer cluster may have other reasons, for one.
    let page = client.list::<Value>(query).await?;
    Ok(page.items.iter().filter_map(released_ip).collect())
}

/// The address that a record releases.
fn released_ip(record: &Value) -> Option<IpAddr> {
    record["event"]["AddressReleased"]["ip"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn releases_of_a_newer_cluster_are_read() {
        let released = json!({"ip": "10.0.0.1", "reason": "Unheard", "more": 1});
        let record = json!({"revision": 7, "event": {"AddressReleased": released}});
        assert_eq!(released_ip(&record), Some(IpAddr::from([10, 0, 0, 1])));
        for other in [json!({"event": "AddressReleased"}), json!({"event": {"Unheard": {}}})] {
            assert_eq!(released_ip(&other), None, "{other}");
        }
    }
}
