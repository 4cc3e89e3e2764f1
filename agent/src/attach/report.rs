//! Says what is attached here, so that the log gives up what is not (law 7).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use romana_statemachine::command::HostReport;
use romana_statemachine::name::AddressName;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Attacher, Stage, names};
use crate::kernel::{KernelError, links};

/// A report at least so often.
const PERIOD: Duration = Duration::from_secs(60);
/// Pause after a report that could not be made.
const RETRY: Duration = Duration::from_secs(1);
/// Changes within this time are one report.
const GATHER: Duration = Duration::from_millis(500);

impl Attacher {
    /// Reports until `stop`.
    pub(super) async fn report_all(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let pause = match self.report().await {
                Ok(()) => PERIOD,
                Err(why) => {
                    tracing::debug!(why, "not reported");
                    RETRY
                }
            };
            let wake = async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = async { self.changed.notified().await; sleep(GATHER).await } => {}
                }
            };
            // Both outcomes mean: report.
            _ = timeout(pause, wake).await;
        }
    }

    async fn report(&self) -> Result<(), String> {
        // Before looking: what is allocated afterwards is younger than the report, and left alone.
        let revision = {
            let seen = self.seen.borrow();
            match &seen.view {
                Some(view) if seen.caught_up && view.hosts.contains_key(&view.host) => {
                    view.revision
                }
                _ => return Err("nothing new is known of the cluster".into()),
            }
        };
        let running = self.running().await.map_err(|error| error.to_string())?;
        let (host, running) = (self.config.host.clone(), running.into_iter().collect());
        let report = HostReport { host, revision, running };
        let done = self.client.report_host(report).await.map_err(|error| error.to_string())?;
        if done.changed {
            tracing::info!(revision, "the log gave up what is not attached here");
        }
        Ok(())
    }

    /// Names of what is attached or being attached, of what our routes still lead to although the ledger
    /// has lost it, and of what the plugin did not attach: that is not for us to guess away.
    async fn running(&self) -> Result<BTreeSet<AddressName>, KernelError> {
        let entries = self.ledger.all();
        let mut running = BTreeSet::new();
        for entry in entries.iter().filter(|entry| entry.stage != Stage::Removing) {
            running.extend(entry.addresses.iter().map(|held| held.name.clone()));
        }
        let known: BTreeSet<&AddressName> =
            entries.iter().flat_map(|entry| &entry.addresses).map(|held| &held.name).collect();
        let routed: BTreeSet<_> =
            links::routed(&self.handle).await?.into_iter().map(|(_, ip)| ip).collect();
        if let Some(view) = &self.seen.borrow().view {
            let lost = view.addresses.iter().filter(|(name, address)| {
                let foreign = !names::is_ours(name.as_str());
                foreign || routed.contains(&address.ip) && !known.contains(name)
            });
            running.extend(lost.map(|(name, _)| name.clone()));
        }
        Ok(running)
    }
}
