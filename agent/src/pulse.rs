//! Says each second that this agent lives, how far it is, and what it cannot mend by itself.

use std::time::Duration;

use romana_client::Client;
use romana_statemachine::attachment::Heartbeat;
use romana_statemachine::name::HostName;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::status::Said;

const PERIOD: Duration = Duration::from_secs(1);

/// Sends heartbeats until `stop`. One that does not arrive is not sent again: the next one follows.
pub async fn beat(host: HostName, client: Client, said: Said, stop: CancellationToken) {
    let mut clock = interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let heartbeat = {
            let status = said.now();
            let (version, applied) = (env!("CARGO_PKG_VERSION").to_owned(), status.applied);
            let of_policy = status.policy.map(|policy| policy.problems).unwrap_or_default();
            let problems = [status.problems, of_policy].concat();
            let revision = status.revision.unwrap_or(0);
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
