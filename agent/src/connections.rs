//! Deletes tracked connections of released addresses on every host, so that they neither reach the address's
//! next holder nor give it access to others against policy. The reuse delay is the time allowed for this.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use romana_daemon::error::chain;
use romana_daemon::problems::Problems;
use romana_statemachine::Revision;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::kernel::connections;

/// Releases within this time are handled in one pass. The interval grows with the duration of the last pass,
/// so that reading a long table does not occupy a processor.
const GATHER: Duration = Duration::from_millis(100);
const REST: u32 = 10;
/// Upper bound of the interval; the reuse delay of addresses is longer.
const GATHER_MAX: Duration = Duration::from_secs(5);
/// Name of this part.
const PART: &str = "connections";
/// Retry interval after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// A released address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    pub revision: Revision,
    pub ip: IpAddr,
}

/// Progress of the deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Connections of all addresses released until this revision are deleted.
    pub revision: Revision,
    /// Whether the last attempt failed.
    pub failing: bool,
}

/// Deletes connections of released addresses until `stop`.
pub async fn forget(
    mut released: mpsc::UnboundedReceiver<Released>,
    done: watch::Sender<Forgotten>,
    problems: Problems,
    stop: CancellationToken,
) {
    let (mut ips, mut revision) = (BTreeSet::new(), Revision(0));
    let mut gather = GATHER;
    while !stop.is_cancelled() {
        if ips.is_empty() {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = released.recv() => next,
            };
            let Some(next) = next else { return };
            take(next, &mut ips, &mut revision);
            sleep(gather).await;
        }
        while let Ok(next) = released.try_recv() {
            take(next, &mut ips, &mut revision);
        }
        let started = Instant::now();
        let done_now = connections::forget(&ips).await;
        gather = (started.elapsed() * REST).clamp(GATHER, GATHER_MAX);
        match done_now {
            Ok(count) => {
                if count > 0 {
                    tracing::info!(count, addresses = ips.len(), "connections deleted");
                }
                ips.clear();
                problems.report(PART, Vec::new());
                done.send_replace(Forgotten { revision, failing: false });
            }
            Err(error) => {
                let (count, why) = (ips.len(), chain(&error));
                let what =
                    format!("connections of {count} released addresses cannot be forgotten: {why}");
                problems.report(PART, vec![what]);
                done.send_modify(|done| done.failing = true);
                sleep(RETRY).await;
            }
        }
    }
}

fn take(next: Released, ips: &mut BTreeSet<IpAddr>, revision: &mut Revision) {
    ips.insert(next.ip);
    *revision = next.revision.max(*revision);
}
