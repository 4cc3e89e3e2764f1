//! Reports attachments to the control plane, so that it releases addresses that are not in use (P7).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use romana_daemon::reconcile::{Next, Pass, Reconcile, Schedule};
use romana_statemachine::command::{Attached, ReportAttachments};
use romana_statemachine::name::AddressName;
use tokio::time::sleep;

use super::reserve::UNWANTED;
use super::{Attacher, AttachmentAddress, Stage, names};
use crate::ipc::Failed;
use crate::kernel::{KernelError, host_routes};
use crate::view::View;

/// Longest interval between reports.
const PERIOD: Duration = Duration::from_secs(60);
/// Retry interval after a failed report.
const RETRY: Duration = Duration::from_secs(1);
/// Releases by the control plane are collected for this time before a report.
const GATHER: Duration = Duration::from_millis(500);
/// Local changes that the control plane already knows are collected for this time: a report costs as
/// much as there are attachments.
const GATHER_CHANGES: Duration = Duration::from_secs(5);

/// When a report follows without a reason.
pub(super) const SCHEDULE: Schedule =
    Schedule { period: Some(PERIOD), retry: RETRY, retry_max: RETRY };

/// Keeps the log's record of the attachments of this host as they are.
pub(super) struct Reporter {
    attacher: Arc<Attacher>,
    /// The view that the last report was based on.
    reported: Option<Arc<View>>,
}

impl Reporter {
    pub(super) fn new(attacher: Arc<Attacher>) -> Self {
        Self { attacher, reported: None }
    }
}

impl Reconcile for Reporter {
    const PART: &'static str = "reports";

    async fn pass(&mut self) -> Pass {
        match self.attacher.report().await {
            Ok((pause, view)) => {
                self.reported = Some(view);
                Pass { problems: Vec::new(), next: Next::In(pause) }
            }
            Err(why) => {
                // Normal while the control plane is away, which status says already.
                tracing::debug!(why, "report of attachments failed");
                self.reported = None;
                Pass { problems: Vec::new(), next: Next::Retry }
            }
        }
    }

    async fn wake(&mut self) {
        let attacher = &self.attacher;
        tokio::select! {
            () = async { attacher.changed.notified().await; sleep(GATHER_CHANGES).await } => {}
            () = async { attacher.contradicted(self.reported.clone()).await; sleep(GATHER).await } => {}
        }
    }
}

impl Attacher {
    /// Returns when the log has released an address that is attached here, or the reserve's settings have
    /// changed, since the reported view.
    async fn contradicted(&self, mut before: Option<Arc<View>>) {
        let mut seen = self.seen.clone();
        loop {
            let now = {
                let seen = seen.borrow_and_update();
                seen.view.clone().filter(|_| seen.caught_up)
            };
            if let Some(now) = now
                && let Some(before) = before.replace(Arc::clone(&now))
                && (before.reserve_per_owner != now.reserve_per_owner
                    || self.has_lost(&before, &now))
            {
                return;
            }
            if seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether an attached address was released between two views.
    fn has_lost(&self, before: &View, now: &View) -> bool {
        let gone = before.addresses.diff(&now.addresses).filter_map(|item| match item {
            DiffItem::Remove(name, _) => names::key_of(name).map(|key| (key, name)),
            _ => None,
        });
        gone.into_iter().any(|(key, name)| {
            let entry = self.store.get(&key).filter(|entry| entry.stage == Stage::Ready);
            entry.is_some_and(|entry| {
                entry.addresses.iter().any(|held| held.name == *name && held.lent.is_none())
            })
        })
    }

    /// Sends a report. Returns how long the next one can wait, and the view the report is based on.
    async fn report(self: &Arc<Self>) -> Result<(Duration, Arc<View>), String> {
        // Take the view first: later allocations are newer than the report, and the control plane keeps them.
        let view = {
            let seen = self.seen.borrow();
            let known = |view: &&Arc<View>| seen.caught_up && view.hosts.contains_key(&view.host);
            let view = seen.view.as_ref().filter(known).cloned();
            view.ok_or("nothing new is known of the cluster")?
        };
        // Another agent's attachments are unknown here, and a report without them would release them.
        if !self.enrolment_state.borrow().is_heard() {
            return Err("this agent does not speak for its host".into());
        }
        self.settle().await.map_err(|error| error.msg)?;
        let (revision, at) = (view.revision(), view.at);
        let kept = self.kept(&view).await.map_err(|error| error.to_string())?;
        let running = self.attached(&view);
        let (host, kept) = (self.config.host.clone(), kept.into_iter().collect());
        let report = ReportAttachments { host, revision, at, running, kept };
        let done = self.client.report_attachments(report).await;
        let changed = done.map_err(|error| error.to_string())?.changed;
        self.restore_endpoints(&view).await.map_err(|error| error.msg)?;
        let settled = self.keep_reserve(&view).await.map_err(|error| error.msg)?;
        if changed {
            tracing::info!(revision = revision.get(), "report of attachments corrected the log");
            // The adopted addresses have no endpoints yet.
            return Ok((RETRY, view));
        }
        Ok((if settled { PERIOD } else { UNWANTED }, view))
    }

    /// Sets labels again that were lost when another client released the address.
    async fn restore_endpoints(self: &Arc<Self>, view: &View) -> Result<(), Failed> {
        let Some(rules) = &view.rules else { return Ok(()) };
        let is_lost = |held: &AttachmentAddress| {
            let ip = held.ip.filter(|_| held.lent.is_none());
            let logged = view.addresses.get(&held.name).map(|address| address.ip);
            ip.is_some_and(|ip| logged == Some(ip) && !rules.endpoints.contains_key(&ip))
        };
        let entries = self.store.all().into_iter().filter(|entry| {
            entry.stage == Stage::Ready
                && !entry.labels.is_empty()
                && entry.addresses.iter().any(is_lost)
        });
        for entry in entries {
            let Some(_alone) = self.try_lock(&entry.key) else { continue };
            if self.store.get(&entry.key).as_ref() == Some(&entry) {
                self.set_endpoints(&entry).await?;
            }
        }
        Ok(())
    }

    /// Attachments that are certain, with their addresses. Borrowed addresses are left out: the log has them
    /// under their reservation names.
    fn attached(&self, view: &View) -> Vec<Attached> {
        let entries = self.store.all().into_iter();
        let ready = entries.filter(|entry| entry.stage == Stage::Ready);
        let attached = ready.flat_map(|entry| {
            let owner = entry.owner;
            let settled = entry.addresses.into_iter().filter(|held| held.lent.is_none());
            settled.filter_map(move |held| {
                let logged = || {
                    let address = view.addresses.get(&held.name)?;
                    Some((address.tenant.clone(), address.segment.clone()))
                };
                let (tenant, segment) = owner.clone().or_else(logged)?;
                Some(Attached { name: held.name, ip: held.ip?, tenant, segment })
            })
        });
        attached.collect()
    }

    /// Names to keep: existing attachments and those in progress, addresses that our routes still serve
    /// although the store lost them, and all names that the plugin did not create.
    async fn kept(&self, view: &View) -> Result<BTreeSet<AddressName>, KernelError> {
        let entries = self.store.all();
        let mut running = BTreeSet::new();
        for entry in entries.iter().filter(|entry| entry.stage != Stage::Removing) {
            running.extend(entry.addresses.iter().map(|held| held.name.clone()));
        }
        let known: BTreeSet<&AddressName> =
            entries.iter().flat_map(|entry| &entry.addresses).map(|held| &held.name).collect();
        let routed: BTreeSet<_> =
            host_routes::list(&self.handle, None).await?.into_iter().map(|(_, ip)| ip).collect();
        let lost = view.addresses.iter().filter(|(name, address)| {
            let foreign = !names::is_ours(name.as_str());
            foreign || routed.contains(&address.ip) && !known.contains(name)
        });
        running.extend(lost.map(|(name, _)| name.clone()));
        Ok(running)
    }
}
