//! DEL, GC, and what is given back in the background.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use romana_statemachine::command::EndpointRef;
use romana_statemachine::{Labels, plural};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::add::crash_point;
use super::{Attacher, Entry, Held, Stage, code, failed, names};
use crate::kernel::{KernelError, connections, links};
use crate::ours::{SPOOL_DIR, host_link};
use crate::wire::{Failed, Key, Request};
use romana_daemon::durable::{self, DurableError};

/// Pause after the control plane did not take a release.
const RETRY: Duration = Duration::from_secs(1);
/// How often the queue is looked at when nothing happens.
const PERIOD: Duration = Duration::from_secs(30);

impl Attacher {
    /// Detaches a container. Done whether or not there is anything left of it.
    pub(super) async fn del(self: &Arc<Self>, key: &Key, network: &str) -> Result<(), Failed> {
        let is_going = |entry: &Entry| entry.stage == Stage::Removing && entry.is_of(network);
        if self.ledger.get(key).as_ref().is_some_and(is_going) {
            // The link is gone. The rest is done in the background, which waits for the log with the key locked.
            self.released.notify_one();
            return Ok(());
        }
        let _alone = self.lock(key).await;
        let entry = match self.ledger.get(key) {
            // The container's interface of this name belongs to another network by now.
            Some(entry) if !entry.is_of(network) => return Ok(()),
            Some(entry) => entry,
            None => match self.lost(key, network) {
                Some(entry) => entry,
                None => return Ok(self.delete_link(key).await?),
            },
        };
        self.begin_removal(entry).await
    }

    /// An attachment that the ledger has lost, as the log has it.
    fn lost(&self, key: &Key, network: &str) -> Option<Entry> {
        let view = self.seen.borrow().view.clone()?;
        let of = view.addresses.iter().filter(|(name, _)| names::is_of(name, key));
        let addresses: Vec<Held> = of
            .map(|(name, address)| Held { ip: Some(address.ip), ..Held::new(name.clone()) })
            .collect();
        let (key, network) = (key.clone(), network.to_owned());
        let (owner, labels, stage) = (None, Labels::new(), Stage::Removing);
        let entry = Entry { key, network, netns: None, addresses, owner, labels, stage };
        (!entry.addresses.is_empty()).then_some(entry)
    }

    /// The removal is durable, and the link gone, on return. On a full disk the file of the attachment
    /// gets another name, which needs no room.
    pub(super) async fn begin_removal(self: &Arc<Self>, entry: Entry) -> Result<(), Failed> {
        let key = entry.key.clone();
        let entry = Entry { stage: Stage::Removing, ..entry };
        if let Err(error) = self.put(entry.clone()).await {
            if error.code != code::IO {
                return Err(error);
            }
            tracing::error!(
                container = key.container_id,
                why = error.msg,
                "a DEL is not written down"
            );
            if let Err(error) = self.ledger.rename(entry) {
                tracing::error!(%error, "a crash now would undo a DEL");
            }
            self.gate.note(key.clone(), Vec::new());
        }
        crash_point("removing");
        self.delete_link(&key).await?;
        crash_point("unlinked");
        self.released.notify_one();
        self.changed.notify_one();
        Ok(())
    }

    /// Deletes the host's end of an attachment's pair. The pair of another one whose key has the same
    /// digest is left alone.
    pub(super) async fn delete_link(&self, key: &Key) -> Result<(), KernelError> {
        if self.ledger.has_link_of(key) {
            return Ok(());
        }
        links::delete(&self.handle, &host_link(&key.container_id, &key.ifname)).await
    }

    /// Takes back what an ADD has begun. What fails is tried again in the background.
    pub(super) async fn undo(self: &Arc<Self>, entry: Entry) {
        if let Err(error) = self.begin_removal(entry).await {
            tracing::warn!(%error, "a failed ADD is not undone yet");
            self.released.notify_one();
        }
    }

    /// Detaches everything of a network that is not valid; goes on after a failure, and then says so.
    pub(super) async fn gc(
        self: &Arc<Self>,
        network: &str,
        valid: &BTreeSet<Key>,
    ) -> Result<(), Failed> {
        // Of which network one that was recovered is, is not known; where there is only one, it is of that.
        let others = |entry: &Entry| !entry.network.is_empty() && entry.network != network;
        let is_alone = self.ledger.select(others).is_empty();
        let stale = self.ledger.select(|entry| {
            (entry.network == network || entry.network.is_empty() && is_alone)
                && entry.stage != Stage::Removing
                && !valid.contains(&entry.key)
        });
        let mut wrong = Vec::new();
        for entry in stale {
            let _alone = self.lock(&entry.key).await;
            // Somebody may have removed it while the lock was waited for.
            let Some(entry) = self.ledger.get(&entry.key).filter(|now| *now == entry) else {
                continue;
            };
            let container = entry.key.container_id.clone();
            if let Err(error) = self.begin_removal(entry).await {
                wrong.push(format!("{container}: {}", error.msg));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let msg = format!("not removed yet: {}", plural(wrong.len(), "attachment"));
        Err(failed(code::AGAIN, msg, wrong.join("; ")))
    }

    /// What was being made when the agent ended last is removed.
    pub(super) async fn undo_unfinished(self: &Arc<Self>) {
        for entry in self.ledger.select(|entry| entry.stage == Stage::Intended) {
            tracing::info!(container = entry.key.container_id, "an ADD was cut short: undone");
            self.undo(entry).await;
        }
    }

    /// Takes up DELs that the plugin left while no agent answered. They are older than any ADD that begins after
    /// this returns; one at a time does it, so that none is held back in between.
    pub(super) async fn take_spool(self: &Arc<Self>) {
        let _turn = self.spool.lock().await;
        let dir = self.config.state_dir.join(SPOOL_DIR);
        let Ok(files) = std::fs::read_dir(&dir) else { return };
        for path in files.filter_map(|file| Some(file.ok()?.path())) {
            if !durable::is_whole(&path) {
                continue;
            }
            let done = match durable::load::<Request>(&path) {
                Ok(Some(Request::Del { key, network })) => self.del(&key, &network).await,
                Ok(_) => Ok(()),
                // Files are renamed into place whole, so this one will not get better. GC and the report
                // of what is attached find what it was about.
                Err(error @ DurableError::Damaged { .. }) => {
                    let aside = durable::set_aside(&path);
                    tracing::error!(%error, aside = %aside.display(), "a DEL that was left is damaged");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "a DEL that was left cannot be read");
                    continue;
                }
            };
            match done.and_then(|()| Ok(durable::remove(&path)?)) {
                Ok(()) => tracing::info!(path = %path.display(), "took up a DEL that was left"),
                Err(error) => tracing::warn!(%error, "a DEL that was left is not done yet"),
            }
        }
    }

    /// Gives back what is to be given back, for as long as it takes, until `stop`.
    pub(super) async fn release_all(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let mut again = false;
            self.take_spool().await;
            for entry in self.ledger.select(|entry| entry.stage != Stage::Ready) {
                let done = tokio::select! {
                    () = stop.cancelled() => return,
                    done = self.finish(&entry) => done,
                };
                if let Err(error) = done {
                    tracing::debug!(%error, container = entry.key.container_id, "not released yet");
                    again = true;
                }
            }
            let wake = async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.released.notified() => {}
                }
            };
            // Both outcomes mean: look.
            _ = timeout(if again { RETRY } else { PERIOD }, wake).await;
        }
    }

    /// Brings what is not in use to its end: an ADD that failed and could not be undone, or a removal.
    async fn finish(self: &Arc<Self>, entry: &Entry) -> Result<(), Failed> {
        if entry.stage == Stage::Intended {
            // Busy: it is being made.
            let Some(_alone) = self.try_lock(&entry.key) else { return Ok(()) };
            if self.ledger.get(&entry.key).as_ref() == Some(entry) {
                self.begin_removal(entry.clone()).await?;
            }
        }
        self.release(&entry.key).await
    }

    /// Gives the addresses of an attachment back, unless it is being made again.
    async fn release(self: &Arc<Self>, key: &Key) -> Result<(), Failed> {
        let _alone = self.lock(key).await;
        let Some(entry) = self.ledger.get(key).filter(|entry| entry.stage == Stage::Removing)
        else {
            return Ok(());
        };
        self.delete_link(key).await?;
        // The audit tells of what was lent, also when it is not in use any more.
        let was_lent = entry.addresses.iter().any(|held| held.lent.is_some());
        let entry = self.claim(entry).await?;
        self.forget_connections(&entry).await;
        if !entry.labels.is_empty() {
            for ip in entry.addresses.iter().filter_map(|held| held.ip) {
                self.client.remove_endpoint(EndpointRef { ip }).await?;
            }
        }
        for held in &entry.addresses {
            self.client.release(held.name.clone()).await?;
        }
        crash_point("released");
        let attacher = Arc::clone(self);
        let key = key.clone();
        let removed = tokio::task::spawn_blocking(move || attacher.ledger.remove(&key)).await;
        removed.map_err(|error| failed(code::IO, error.to_string(), ""))??;
        if was_lent {
            // Its name in reserve is free again: the reserve can be filled.
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Who has the addresses next must not be reached by connections of this one. What cannot be forgotten
    /// now is when the log says that they are released, as on all hosts.
    async fn forget_connections(&self, entry: &Entry) {
        let ips = entry.addresses.iter().filter_map(|held| held.ip).collect();
        if let Err(error) = connections::forget(&ips).await {
            tracing::warn!(?ips, error = &error as &dyn std::error::Error, "connections stay");
        }
    }
}
