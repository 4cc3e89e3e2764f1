//! Marks hosts down whose agent is silent, and up when it is heard again.
//!
//! Only hosts that have an agent, and never a majority of them at once: if most are silent, it is this
//! side that is cut off, and withdrawing their routes would make an outage of it (P4).

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

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Hosts whose state one pass changes.
const CHANGES_MAX: usize = 256;

/// The task that says which hosts answer.
#[derive(Debug, Default)]
pub struct Liveness {
    /// The term, and since when this replica listens for each host in it: a new leader has heard nobody.
    begun: Mutex<(Term, BTreeMap<HostName, Instant>)>,
}

/// A host with an agent.
#[derive(Clone, Debug)]
struct Watched {
    name: HostName,
    state: HostState,
    /// How long nothing was heard of it.
    silent: Duration,
}

/// Which hosts are down now, and which are up again.
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
    /// Hosts with an agent, and how long each has been silent.
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
            // A down host that was not heard yet is down: only a heartbeat brings it up.
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
                    // Somebody else leads by now, or it was removed meanwhile.
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
