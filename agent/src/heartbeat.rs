//! Sends a heartbeat every second, with the agent's progress and its problems.

use romana_statemachine::Revision;
use std::sync::Arc;
use std::time::Duration;

use romana_client::{Client, Error};
use romana_statemachine::agent::Heartbeat;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::enrol::{Enrolment, EnrolmentState};
use crate::status::StatusSources;

/// A heartbeat that takes longer is abandoned.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);

const PERIOD: Duration = Duration::from_secs(1);

/// Sends heartbeats until `stop`. A lost one is not retried: the next one follows.
pub async fn beat(
    enrolment: Arc<Enrolment>,
    client: Client,
    sources: StatusSources,
    stop: CancellationToken,
) {
    let (host, enrolment_state) = (&enrolment.host, enrolment.state());
    let mut clock = interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let heartbeat = {
            let status = sources.now();
            let (version, applied) =
                (Heartbeat::version_of(env!("CARGO_PKG_VERSION")), status.applied);
            let of_policy = status.policy.map(|policy| policy.problems).unwrap_or_default();
            let problems = [status.problems, of_policy].concat();
            let revision = status.revision.unwrap_or(Revision(0));
            Heartbeat { host: host.clone(), version, revision, applied, problems }
        };
        let named = matches!(
            *enrolment_state.borrow(),
            EnrolmentState::Accepted | EnrolmentState::Refused { .. }
        );
        let agent = named.then_some((&enrolment.instance, enrolment.machine.as_str()));
        let sent = tokio::select! {
            () = stop.cancelled() => return,
            sent = client.heartbeat(&heartbeat, agent) => sent,
        };
        match sent {
            Ok(()) => {}
            Err(Error::Refused(refusal)) if refusal.code == "HostHasAgent" => {
                enrolment.refuse(refusal.details["instance"].as_str().unwrap_or_default());
            }
            Err(error @ (Error::Unavailable { .. } | Error::Unknown { .. })) => {
                tracing::warn!(
                    %error,
                    "heartbeat failed: no replica is reachable, kernel state is kept"
                );
            }
            Err(error) => tracing::debug!(%error, "heartbeat failed"),
        }
    }
}
