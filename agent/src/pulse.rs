//! Says each second that this agent lives, how far it is, and what it cannot mend by itself.

use std::time::Duration;

use romana_client::Client;
use romana_statemachine::attachment::Heartbeat;
use romana_statemachine::name::HostName;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::status::Status;

const PERIOD: Duration = Duration::from_secs(1);

/// Sends heartbeats until `stop`. One that does not arrive is not sent again: the next one follows.
pub async fn beat(
    host: HostName,
    client: Client,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
) {
    let mut clock = interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let heartbeat = {
            let status = status.borrow();
            let (version, applied) = (env!("CARGO_PKG_VERSION").to_owned(), status.applied);
            let (revision, problems) = (status.revision.unwrap_or(0), status.problems.clone());
            Heartbeat { host: host.clone(), version, revision, applied, problems }
        };
        let sent = tokio::select! {
            () = stop.cancelled() => return,
            sent = client.heartbeat(&heartbeat) => sent,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a heartbeat was not heard");
        }
    }
}
