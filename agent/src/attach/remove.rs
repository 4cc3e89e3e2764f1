//! The CNI commands DEL and GC, and the release of addresses in the background.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use romana_daemon::durable::{self, DurableError};
use romana_daemon::reconcile::{Next, Pass, Reconcile, Schedule};
use romana_statemachine::command::EndpointRef;
use romana_statemachine::{Labels, plural};

use super::add::crash_point;
use super::{Attacher, AttachmentAddress, Entry, Stage, code, failed, names};
use crate::ipc::{Failed, Key, Request};
use crate::kernel::{KernelError, connections, links};
use crate::ownership::{SPOOL_DIR, host_link};

/// Retry interval after the control plane did not accept a release.
const RETRY: Duration = Duration::from_secs(1);
/// Interval at which the queue is checked without events.
const PERIOD: Duration = Duration::from_secs(30);

/// When the queue is checked without a reason.
pub(super) const SCHEDULE: Schedule =
    Schedule { period: Some(PERIOD), retry: RETRY, retry_max: RETRY };

/// Releases the addresses of entries that are not in use any more.
pub(super) struct Releaser(pub(super) Arc<Attacher>);

impl Reconcile for Releaser {
    const PART: &'static str = "releases";
    const DROPPED_AT_STOP: bool = true;

    async fn pass(&mut self) -> Pass {
        let Self(attacher) = self;
        let mut next = Next::Period;
        attacher.take_spool().await;
        for entry in attacher.store.select(|entry| entry.stage != Stage::Ready) {
            if let Err(error) = attacher.finish(&entry).await {
                // Normal while the control plane is away, which status says already.
                let container = entry.key.container_id;
                tracing::debug!(%error, container, "release of addresses failed, will retry");
                next = Next::Retry;
            }
        }
        Pass { problems: Vec::new(), next }
    }

    async fn wake(&mut self) {
        self.0.released.notified().await;
    }
}

impl Attacher {
    /// Detaches a container. Succeeds also if nothing is left of it.
    pub(super) async fn del(self: &Arc<Self>, key: &Key, network: &str) -> Result<(), Failed> {
        let is_going = |entry: &Entry| entry.stage == Stage::Removing && entry.is_of(network);
        if self.store.get(key).as_ref().is_some_and(is_going) {
            // The link is gone. The release runs in the background and holds the key's lock while it waits.
            self.released.notify_one();
            return Ok(());
        }
        let _alone = self.lock(key).await;
        let entry = match self.store.get(key) {
            // The container's interface of this name belongs to another network now.
            Some(entry) if !entry.is_of(network) => return Ok(()),
            Some(entry) => entry,
            None => match self.lost(key, network) {
                Some(entry) => entry,
                None => return Ok(self.delete_link(key).await?),
            },
        };
        self.begin_removal(entry).await
    }

    /// Rebuilds from the log an attachment that the store has lost.
    fn lost(&self, key: &Key, network: &str) -> Option<Entry> {
        let view = self.seen.borrow().view.clone()?;
        let of = view.addresses.iter().filter(|(name, _)| names::is_of(name, key));
        let addresses: Vec<AttachmentAddress> = of
            .map(|(name, address)| AttachmentAddress {
                ip: Some(address.ip),
                ..AttachmentAddress::new(name.clone())
            })
            .collect();
        let (key, network) = (key.clone(), network.to_owned());
        let (owner, labels, stage) = (None, Labels::new(), Stage::Removing);
        let entry = Entry { key, network, netns: None, addresses, owner, labels, stage };
        (!entry.addresses.is_empty()).then_some(entry)
    }

    /// On return, the removal is durable and the link is gone. On a full disk the attachment's file is
    /// renamed instead, which needs no disk space.
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
                "recording a DEL failed"
            );
            if let Err(error) = self.store.rename(entry) {
                tracing::error!(%error, "recording a DEL by rename failed");
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

    /// Deletes the host's end of an attachment's veth pair, unless another key with the same digest has it.
    pub(super) async fn delete_link(&self, key: &Key) -> Result<(), KernelError> {
        if self.store.has_link_of(key) {
            return Ok(());
        }
        links::delete(&self.handle, &host_link(&key.container_id, &key.ifname)).await
    }

    /// Undoes an ADD. What fails is retried in the background.
    pub(super) async fn undo(self: &Arc<Self>, entry: Entry) {
        if let Err(error) = self.begin_removal(entry).await {
            tracing::warn!(%error, "undoing a failed ADD failed, will retry");
            self.released.notify_one();
        }
    }

    /// Detaches all attachments of a network that are not listed as valid; continues after
    /// failures, and then reports all of them.
    pub(super) async fn gc(
        self: &Arc<Self>,
        network: &str,
        valid: &BTreeSet<Key>,
    ) -> Result<(), Failed> {
        // The network of a recovered entry is unknown; with a single network, it must be that one.
        let others = |entry: &Entry| !entry.network.is_empty() && entry.network != network;
        let is_alone = self.store.select(others).is_empty();
        let stale = self.store.select(|entry| {
            (entry.network == network || entry.network.is_empty() && is_alone)
                && entry.stage != Stage::Removing
                && !valid.contains(&entry.key)
        });
        let mut wrong = Vec::new();
        for entry in stale {
            let _alone = self.lock(&entry.key).await;
            // Skip it if it changed while this task waited for the lock.
            let Some(entry) = self.store.get(&entry.key).filter(|now| *now == entry) else {
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

    /// Removes attachments that the last run left unfinished.
    pub(super) async fn undo_unfinished(self: &Arc<Self>) {
        for entry in self.store.select(|entry| entry.stage == Stage::Intended) {
            tracing::info!(container = entry.key.container_id, "undid an ADD that was interrupted");
            self.undo(entry).await;
        }
    }

    /// Processes DELs that the plugin spooled while no agent answered. They precede any ADD that begins after
    /// this returns. The lock makes concurrent callers wait for the same DELs.
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
                // Files are written by rename, so a damaged one does not become complete later. GC and
                // the report find its attachment.
                Err(error @ DurableError::Damaged { .. }) => {
                    let aside = durable::set_aside(&path);
                    tracing::error!(
                        %error,
                        aside = %aside.display(),
                        "reading a spooled DEL failed: damaged file set aside"
                    );
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "reading a spooled DEL failed");
                    continue;
                }
            };
            match done.and_then(|()| Ok(durable::remove(&path)?)) {
                Ok(()) => tracing::info!(path = %path.display(), "processed a spooled DEL"),
                Err(error) => tracing::warn!(%error, "processing a spooled DEL failed, will retry"),
            }
        }
    }

    /// Completes an entry that is not in use: a failed ADD that was not undone, or a removal.
    async fn finish(self: &Arc<Self>, entry: &Entry) -> Result<(), Failed> {
        if entry.stage == Stage::Intended {
            // Locked: an ADD is in progress.
            let Some(_alone) = self.try_lock(&entry.key) else { return Ok(()) };
            if self.store.get(&entry.key).as_ref() == Some(entry) {
                self.begin_removal(entry.clone()).await?;
            }
        }
        self.release(&entry.key).await
    }

    /// Releases the addresses of an attachment, unless its key is being attached again.
    async fn release(self: &Arc<Self>, key: &Key) -> Result<(), Failed> {
        let _alone = self.lock(key).await;
        let Some(entry) = self.store.get(key).filter(|entry| entry.stage == Stage::Removing) else {
            return Ok(());
        };
        self.delete_link(key).await?;
        // Claim first, so that the audit log shows the borrowing even if it has ended.
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
        let removed = tokio::task::spawn_blocking(move || attacher.store.remove(&key)).await;
        removed.map_err(|error| failed(code::IO, error.to_string(), ""))??;
        if was_lent {
            // The reservation name is free again, so the reserve can be refilled.
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Forgets connections of the released addresses, so that they do not reach the next holder. On failure
    /// it happens when the log announces the release, as on all hosts.
    async fn forget_connections(&self, entry: &Entry) {
        let ips = entry.addresses.iter().filter_map(|held| held.ip).collect();
        if let Err(error) = connections::forget(&ips).await {
            tracing::warn!(
                ?ips,
                error = &error as &dyn std::error::Error,
                "deletion of tracked connections failed"
            );
        }
    }
}
