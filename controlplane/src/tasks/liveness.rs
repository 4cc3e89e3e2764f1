//! Marks hosts as down when their agent is silent, and as up when it sends heartbeats again.
//!
//! Only hosts that have an agent, and never a majority of them at once: if most are silent, this side is
//! probably partitioned, and withdrawing their routes would cause an outage (P4).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_replica::ProposeError;
use romana_statemachine::agent::AGENT_INFO;
use romana_statemachine::command::{HostState, SetHostState};
use romana_statemachine::name::HostName;
use romana_statemachine::{Command, Refusal, Term, version};
use tokio::time::Instant;

use super::{LeaderContext, Pass};

/// Interval between passes.
const PERIOD: Duration = Duration::from_millis(500);
/// Maximum number of host state changes per pass.
const CHANGES_MAX: usize = 256;

/// The task that tracks which hosts are alive.
#[derive(Debug, Default)]
pub struct Liveness {
    /// The term, and since when this replica has listened for each host in it: a new leader has no heartbeats yet.
    begun: Mutex<(Term, BTreeMap<HostName, Instant>)>,
}

/// A host with an agent.
#[derive(Clone, Debug)]
struct Watched {
    name: HostName,
    state: HostState,
    /// Time since the last heartbeat.
    silent: Duration,
}

/// The hosts to mark as down, and those to mark as up.
fn changes(hosts: &[Watched], after: Duration) -> Vec<(HostName, HostState)> {
    let silent = hosts.iter().filter(|host| host.silent >= after).count();
    let cut_off = silent * 2 > hosts.len();
    let change = |host: &Watched| match host.state {
        HostState::Up if host.silent >= after && !cut_off => Some(HostState::Down),
        HostState::Down if host.silent < after => Some(HostState::Up),
        _ => None,
    };
    let changes = hosts.iter().filter_map(|host| Some((host.name.clone(), change(host)?)));
    changes.take(CHANGES_MAX).collect()
}

impl Liveness {
    /// Hosts with an agent, and the time since each one's last heartbeat.
    fn watched(&self, context: &LeaderContext) -> Vec<Watched> {
        let state = context.replica.state();
        let heard = context.replica.agents().heard().into_iter();
        let heard: BTreeMap<HostName, Duration> = heard
            .map(|heard| (heard.heartbeat.host, Duration::from_millis(heard.silent_ms)))
            .collect();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.0 != context.term {
            *begun = (context.term, BTreeMap::new());
        }
        begun.1.retain(|name, _| state.host(name).is_some());
        let now = Instant::now();
        let hosts = state.hosts().filter(|host| host.info.contains_key(AGENT_INFO));
        let watched = hosts.map(|host| {
            let listening = *begun.1.entry(host.name.clone()).or_insert(now);
            let silent = heard.get(&host.name).copied().unwrap_or(Duration::MAX);
            let silent = silent.min(now.duration_since(listening));
            // A down host without a heartbeat in this term stays down: only a heartbeat marks it up.
            let unheard = !heard.contains_key(&host.name) && host.state == HostState::Down;
            let silent = if unheard { Duration::MAX } else { silent };
            Watched { name: host.name.clone(), state: host.state, silent }
        });
        watched.collect()
    }
}

impl Pass for Liveness {
    type Error = ProposeError;

    const NAME: &'static str = "liveness";
    const PERIOD: Duration = PERIOD;

    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            let (at, after) = context
                .replica
                .with_state(|state| (state.version(), state.agent_settings().host_down_after_ms));
            if at < version::HEARTBEATS || after == 0 {
                return Ok(());
            }
            let changes = changes(&self.watched(context), Duration::from_millis(after));
            if changes.is_empty() {
                return Ok(());
            }
            let commands = changes.iter().map(|(name, state)| {
                let term = Some(context.term);
                let change = SetHostState { name: name.clone(), state: *state, term };
                Command::SetHostState(change)
            });
            let outcomes = context.propose(commands).await?;
            for ((host, state), outcome) in changes.iter().zip(outcomes) {
                match outcome.result {
                    Ok(_) => tracing::info!(%host, ?state, "host state changed"),
                    // Another replica leads by now, or the host was removed.
                    Err(Refusal::StaleTerm { .. } | Refusal::HostNotFound { .. }) => {}
                    Err(refusal) => tracing::error!(%host, %refusal, "cannot set the host's state"),
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(hosts: &[(HostState, u64)]) -> Vec<String> {
        let hosts = hosts.iter().zip(0..).map(|((state, silent), n)| Watched {
            name: format!("h{n}").into(),
            state: *state,
            silent: Duration::from_secs(*silent),
        });
        let changes = changes(&hosts.collect::<Vec<_>>(), Duration::from_secs(10));
        changes.iter().map(|(name, state)| format!("{name} {state:?}")).collect()
    }

    #[test]
    fn the_silent_are_down_and_the_heard_are_up() {
        use HostState::{Down, Draining, Up};
        assert_eq!(changed(&[(Up, 10), (Up, 9), (Up, 0)]), ["h0 Down"]);
        assert_eq!(changed(&[(Down, 9), (Up, 0)]), ["h0 Up"]);
        assert_eq!(changed(&[(Down, 99), (Up, 0)]), [""; 0]);
        assert_eq!(changed(&[(Draining, 99), (Draining, 0)]), [""; 0], "an operator's word stands");
        assert_eq!(changed(&[(Up, 10), (Up, 0)]), ["h0 Down"], "half may be gone");
    }

    #[test]
    fn when_most_are_silent_nobody_is_gone() {
        use HostState::{Down, Up};
        assert_eq!(changed(&[(Up, 10), (Up, 10), (Up, 0)]), [""; 0]);
        assert_eq!(changed(&[(Up, 10), (Down, 10), (Up, 0)]), [""; 0]);
        assert_eq!(changed(&[(Up, 10), (Down, 10), (Down, 1)]), ["h2 Up"]);
        assert_eq!(changed(&[(Up, 10)]), [""; 0]);
    }
}
